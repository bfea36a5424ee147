/* A thread owns a sum. Neighbours read the same row of x, and rows of w that lie far apart. */
#include "step.cuh"

__global__ void naive_kernel(float *out, const bf16 *x, const bf16 *w, int M, int N, int K)
{
    const int m = (int)(blockIdx.y * blockDim.y + threadIdx.y), n = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (m >= M || n >= N) return;
    float sum = 0;
    for (int k = 0; k < K; k++) sum += float(x[(int64_t)m * K + k]) * float(w[(int64_t)n * K + k]);
    out[(int64_t)m * N + n] = sum;
}

void step_1_naive(Device *d, float *out, const bf16 *x, const bf16 *w, int M, int N, int K)
{
    launch(d, naive_kernel, dim3(blocks_for(N, 16), blocks_for(M, 16)), dim3(16, 16), 0, out, x, w, M, N, K);
}
