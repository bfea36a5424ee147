/* A tile of 14 x 32 sums stays in registers while k runs: 28 multiply-adds for 16 loads. The loads jump by a row of the
 * matrix each step, and miss. */
#include "step.h"

static void strided(float *sums, const float *x, const float *turned, int64_t N, int64_t K)
{
    Vec sum[ROWS][VECS] = {0};
    for (int64_t k = 0; k < K; k++) {
        const Vec b0 = load(turned + k * N), b1 = load(turned + k * N + WIDTH);
#pragma GCC unroll 14
        for (int r = 0; r < ROWS; r++) sum[r][0] += x[r * K + k] * b0, sum[r][1] += x[r * K + k] * b1;
    }
    for (int r = 0; r < ROWS; r++) store(sums + r * COLS, sum[r][0]), store(sums + r * COLS + WIDTH, sum[r][1]);
}

void step_3_registers(int64_t M, int64_t N, int64_t K, const float *x, const float *w, float *out)
{
    const int64_t across = (N + COLS - 1) / COLS * COLS, down = (M + ROWS - 1) / ROWS * ROWS;
    float *turned = room(K * across), *rows = room(down * K), sums[ROWS * COLS];
    pack(turned, across, w, K, N, K);
    memcpy(rows, x, (size_t)(M * K) * 4);
    memset(rows + M * K, 0, (size_t)((down - M) * K) * 4);
    for (int64_t m = 0; m < M; m += ROWS)
        for (int64_t n = 0; n < N; n += COLS) {
            strided(sums, rows + m * K, turned + n, across, K);
            put(out, M, N, m, n, sums);
        }
    free(turned);
    free(rows);
}
