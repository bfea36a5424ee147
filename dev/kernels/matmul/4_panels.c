/* Both operands copied into panels first, in the order the tile reads them: every load follows the one before it. The
 * panels of w pass through the caches once for every 14 rows. */
#include "step.h"

void step_4_panels(int64_t M, int64_t N, int64_t K, const float *x, const float *w, float *out)
{
    const int64_t across = (N + COLS - 1) / COLS * COLS;
    float *b = room(K * across), *a = room(K * ROWS), sums[ROWS * COLS];
    for (int64_t n = 0; n < N; n += COLS) pack(b + n * K, COLS, w + n * K, K, N - n, K);
    for (int64_t m = 0; m < M; m += ROWS) {
        pack(a, ROWS, x + m * K, K, M - m, K);
        for (int64_t n = 0; n < N; n += COLS) {
            tile(sums, a, b + n * K, K);
            put(out, M, N, m, n, sums);
        }
    }
    free(a);
    free(b);
}
