/* A block owns 32 x 32 sums and reads its operands once, side by side, into shared memory: a number serves 32 sums. */
#include "step.cuh"

constexpr int TILE = 32;

__global__ void tiles_kernel(float *out, const bf16 *x, const bf16 *w, int M, int N, int K)
{
    SHARED(float, rows, [TILE][TILE]);
    SHARED(float, cols, [TILE][TILE + 1]);
    const int tx = (int)threadIdx.x, ty = (int)threadIdx.y;
    const int m = (int)blockIdx.y * TILE + ty, n = (int)blockIdx.x * TILE + tx, w_row = (int)blockIdx.x * TILE + ty;
    float sum = 0;
    for (int k = 0; k < K; k += TILE) {
        rows[ty][tx] = m < M && k + tx < K ? float(x[(int64_t)m * K + k + tx]) : 0;
        cols[ty][tx] = w_row < N && k + tx < K ? float(w[(int64_t)w_row * K + k + tx]) : 0;
        __syncthreads();
        for (int j = 0; j < TILE; j++) sum += rows[ty][j] * cols[tx][j];
        __syncthreads();
    }
    if (m < M && n < N) out[(int64_t)m * N + n] = sum;
}

void step_2_tiles(Device *d, float *out, const bf16 *x, const bf16 *w, int M, int N, int K)
{
    launch(d, tiles_kernel, dim3(blocks_for(N, TILE), blocks_for(M, TILE)), dim3(TILE, TILE), 0, out, x, w, M, N, K);
}
