/* gemm.cu -- our own product: a block owns TILE x TILE of out, a thread 4 x 4 of them, DEPTH terms at a time lie in
 * shared memory. Terms are added up in blocks of SPAN, and those in order, so that a long sum loses little.
 *
 * The emulator runs it, and a GPU where cuBLASLt is missing: correct for all shapes, fast for none. */
#include "gemm.cuh"

constexpr int TILE = 64, DEPTH = 16, SIDE = 16, EACH = TILE / SIDE;     /* SIDE x SIDE threads, EACH x EACH sums each */
constexpr int SPAN = 4;                                                 /* steps of DEPTH */

/* A step's panel of `lines` rows of a, or columns of b, from `from` on: to[k][i] = line i, term k; 0 beyond them. */
template <typename T>
__device__ void fill(float (&to)[DEPTH][TILE + 1], const T *from, bool turned, int64_t line, int64_t lines, int64_t k,
                     int64_t K)
{
    const int thread = (int)(threadIdx.y * SIDE + threadIdx.x);
    for (int e = thread; e < DEPTH * TILE; e += SIDE * SIDE) {
        const int i = turned ? e % TILE : e / DEPTH, j = turned ? e / TILE : e % DEPTH;
        const bool inside = line + i < lines && k + j < K;
        const int64_t at = turned ? (k + j) * lines + line + i : (line + i) * K + k + j;
        to[j][i] = inside ? float(from[at]) : 0;
    }
}

template <typename T, typename O>
__global__ void product_kernel(Finish<T, O> f, const T *a, const T *b, int64_t M, int64_t N, int64_t K, bool a_turned,
                               bool b_turned)
{
    SHARED(float, rows, [DEPTH][TILE + 1]);
    SHARED(float, cols, [DEPTH][TILE + 1]);
    const int64_t m0 = (int64_t)blockIdx.y * TILE, n0 = (int64_t)blockIdx.x * TILE;
    const int x = (int)threadIdx.x, y = (int)threadIdx.y;
    float total[EACH][EACH] = {}, sum[EACH][EACH] = {};
    for (int64_t k = 0, step = 1; k < K; k += DEPTH, step++) {
        __syncthreads();                    /* the step before has been read */
        fill(rows, a, a_turned, m0, M, k, K);
        fill(cols, b, !b_turned, n0, N, k, K);
        __syncthreads();
        for (int j = 0; j < DEPTH; j++)
            for (int r = 0; r < EACH; r++)
                for (int c = 0; c < EACH; c++) sum[r][c] += rows[j][y + r * SIDE] * cols[j][x + c * SIDE];
        if (step % SPAN && k + DEPTH < K) continue;
        for (int r = 0; r < EACH; r++)
            for (int c = 0; c < EACH; c++) total[r][c] += sum[r][c], sum[r][c] = 0;
    }
    for (int r = 0; r < EACH; r++)
        for (int c = 0; c < EACH; c++) {
            const int64_t m = m0 + y + r * SIDE, n = n0 + x + c * SIDE;
            if (m < M && n < N) finish(f, total[r][c], m, n, N);
        }
}

template <typename T, typename O> static void launch_tiles(Device *d, const Product &p)
{
    launch(d, product_kernel<T, O>, dim3(blocks_for(p.N, TILE), blocks_for(p.M, TILE)), dim3(SIDE, SIDE), 0,
           finish_of<T, O>(p), data_of<T>(p.a), data_of<T>(p.b), p.M, p.N, p.K, p.a_turned, p.b_turned);
}

void multiply_tiles(Device *d, const Product &p) { PRODUCT_SWITCH(p, launch_tiles, d, p); }

#ifndef LLMC_CUBLASLT
void multiply(Device *d, const Product &p) { multiply_tiles(d, p); }
void open_products(CudaState *) {}
void close_products(CudaState *) {}
#endif

#ifndef LLMC_CUDA_EMU
cudaError_t probe_kernel(cudaFuncAttributes *found)
{
    return cudaFuncGetAttributes(found, product_kernel<float, float>);
}
#endif
