/* A warp owns 32 x 32 sums and multiplies 16 x 8 of them in one instruction; numbers stay bf16 to the end. */
#include "step.cuh"

constexpr int TILE = 64, THREADS = 128;

static __device__ void fill(bf16 *panel, const bf16 *from, int first, int count, int k, int K)
{
    for (int i = (int)threadIdx.x; i < TILE * DEPTH / 8; i += THREADS) {
        const int row = i / (DEPTH / 8), column = i % (DEPTH / 8) * 8;
        Vec<bf16, 8> v = {};
        if (first + row < count && k + column < K) v = load<8>(from + (int64_t)(first + row) * K + k + column);
        store<8>(panel + row * STRIDE + column, v);
    }
}

__global__ void __launch_bounds__(THREADS)
tensor_cores_kernel(float *out, const bf16 *x, const bf16 *w, int M, int N, int K)
{
    SHARED(bf16, x_panel, [TILE * STRIDE]);
    SHARED(bf16, w_panel, [TILE * STRIDE]);
    const int m0 = (int)blockIdx.y * TILE, n0 = (int)blockIdx.x * TILE, warp = (int)threadIdx.x / WARP;
    float sums[2][4][4] = {};
    for (int k = 0; k < K; k += DEPTH) {
        fill(x_panel, x, m0, M, k, K);
        fill(w_panel, w, n0, N, k, K);
        __syncthreads();
        multiply_panels(sums, x_panel, warp / 2 * 32, w_panel, warp % 2 * 32);
        __syncthreads();
    }
    put_sums(out, sums, m0 + warp / 2 * 32, n0 + warp % 2 * 32, M, N);
}

void step_4_tensor_cores(Device *d, float *out, const bf16 *x, const bf16 *w, int M, int N, int K)
{
    launch(d, tensor_cores_kernel, dim3(blocks_for(N, TILE), blocks_for(M, TILE)), THREADS, 0, out, x, w, M, N, K);
}
