/* The same on all cores: x packed by all, then each takes the next strip of w. The engine's csrc/cpu/gemm.c is this,
 * with packing in registers, rows of x that each thread packs for itself, what is read next asked for ahead, steps of
 * k, and what a layer does to its sums. */
#include "step.h"

enum { STRIP = 4 * COLS };

void step_6_threads(int64_t M, int64_t N, int64_t K, const float *x, const float *w, float *out)
{
    const int64_t down = (M + ROWS - 1) / ROWS * ROWS;
    float *a = room(K * down);
#pragma omp parallel
    {
        float *b = room(K * STRIP), sums[ROWS * COLS];
#pragma omp for schedule(dynamic)
        for (int64_t m = 0; m < M; m += ROWS) pack(a + m * K, ROWS, x + m * K, K, M - m, K);
#pragma omp for schedule(dynamic)
        for (int64_t n0 = 0; n0 < N; n0 += STRIP) {
            const int64_t n1 = least(N, n0 + STRIP);
            for (int64_t n = n0; n < n1; n += COLS) pack(b + (n - n0) * K, COLS, w + n * K, K, N - n, K);
            for (int64_t m = 0; m < M; m += ROWS)
                for (int64_t n = n0; n < n1; n += COLS) {
                    tile(sums, a + m * K, b + (n - n0) * K, K);
                    put(out, M, N, m, n, sums);
                }
        }
        free(b);
    }
    free(a);
}
