/* While a panel is multiplied, the next two are on their way into shared memory; a block owns 128 x 128 sums, a warp
 * 64 x 32 of them, so a number out of memory serves twice as many. */
#include "step.cuh"

constexpr int TILE = 128, THREADS = 256, STAGES = 3, PANEL = TILE * STRIDE;

static __device__ void fill(bf16 *panel, const bf16 *from, int first, int count, int k, int K)
{
    for (int i = (int)threadIdx.x; i < TILE * DEPTH / 8; i += THREADS) {
        const int row = i / (DEPTH / 8), column = i % (DEPTH / 8) * 8;
        const bool there = first + row < count && k + column < K;
        copy_async(panel + row * STRIDE + column, from + (there ? (int64_t)(first + row) * K + k + column : 0), there);
    }
}

__global__ void __launch_bounds__(THREADS)
copies_ahead_kernel(float *out, const bf16 *x, const bf16 *w, int M, int N, int K)
{
    SHARED_DYNAMIC(bf16, panels);
    const int m0 = (int)blockIdx.y * TILE, n0 = (int)blockIdx.x * TILE, warp = (int)threadIdx.x / WARP;
    const auto fetch = [&](int step) {
        bf16 *to = panels + step % STAGES * 2 * PANEL;
        if (step * DEPTH < K) {
            fill(to, x, m0, M, step * DEPTH, K);
            fill(to + PANEL, w, n0, N, step * DEPTH, K);
        }
        close_group();
    };
    float sums[4][4][4] = {};
    for (int step = 0; step < STAGES - 1; step++) fetch(step);
    for (int step = 0; step * DEPTH < K; step++) {
        wait_copies<STAGES - 2>();
        __syncthreads();                    /* this panel is there for all, and the one before it has been read */
        fetch(step + STAGES - 1);
        const bf16 *panel = panels + step % STAGES * 2 * PANEL;
        multiply_panels(sums, panel, warp / 4 * 64, panel + PANEL, warp % 4 * 32);
    }
    put_sums(out, sums, m0 + warp / 4 * 64, n0 + warp % 4 * 32, M, N);
}

void step_5_copies_ahead(Device *d, float *out, const bf16 *x, const bf16 *w, int M, int N, int K)
{
    launch(d, copies_ahead_kernel, dim3(blocks_for(N, TILE), blocks_for(M, TILE)), THREADS,
           2 * STAGES * PANEL * sizeof(bf16), out, x, w, M, N, K);
}
