/* Three loops. Each sum waits for the addition before it, four cycles a term. */
#include "step.h"

void step_1_naive(int64_t M, int64_t N, int64_t K, const float *x, const float *w, float *out)
{
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = 0; n < N; n++) {
            float sum = 0;
            for (int64_t k = 0; k < K; k++) sum += x[m * K + k] * w[n * K + k];
            out[m * N + n] = sum;
        }
}
