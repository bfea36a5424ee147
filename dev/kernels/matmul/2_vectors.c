/* w turned, so that the innermost loop runs along a row of out: 16 sums an instruction. Every term of every sum now
 * passes through memory. */
#include "step.h"

void step_2_vectors(int64_t M, int64_t N, int64_t K, const float *x, const float *w, float *out)
{
    float *turned = room(K * N);
    pack(turned, N, w, K, N, K);
    memset(out, 0, (size_t)(M * N) * 4);
    for (int64_t m = 0; m < M; m++)
        for (int64_t k = 0; k < K; k++)
            for (int64_t n = 0; n < N; n++) out[m * N + n] += x[m * K + k] * turned[k * N + n];
    free(turned);
}
