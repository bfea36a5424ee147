/* Four panels of w at a time, packed just before they are needed, stay in the second-level cache while all of x passes
 * (K. Goto and R. van de Geijn, 2008). Long sums would be cut into steps of 1,024 terms; here K is taken as it is. */
#include "step.h"

enum { STRIP = 4 * COLS };

void step_5_strips(int64_t M, int64_t N, int64_t K, const float *x, const float *w, float *out)
{
    const int64_t down = (M + ROWS - 1) / ROWS * ROWS;
    float *a = room(K * down), *b = room(K * STRIP), sums[ROWS * COLS];
    for (int64_t m = 0; m < M; m += ROWS) pack(a + m * K, ROWS, x + m * K, K, M - m, K);
    for (int64_t n0 = 0; n0 < N; n0 += STRIP) {
        const int64_t n1 = least(N, n0 + STRIP);
        for (int64_t n = n0; n < n1; n += COLS) pack(b + (n - n0) * K, COLS, w + n * K, K, N - n, K);
        for (int64_t m = 0; m < M; m += ROWS)
            for (int64_t n = n0; n < n1; n += COLS) {
                tile(sums, a + m * K, b + (n - n0) * K, K);
                put(out, M, N, m, n, sums);
            }
    }
    free(a);
    free(b);
}
