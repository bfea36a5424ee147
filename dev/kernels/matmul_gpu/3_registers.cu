/* A thread owns 8 x 8 sums: 64 multiply-adds for 16 numbers out of shared memory; the step before had one for two. */
#include "step.cuh"

constexpr int TILE = 128, SIDE = 16, EACH = TILE / SIDE, TERMS = 8;

static __device__ void fill(float (&to)[TERMS][TILE + 4], const bf16 *from, int first, int count, int k, int K)
{
    const int i = (int)(threadIdx.y * SIDE + threadIdx.x);
    if (i >= TILE) return;
    Vec<bf16, 8> v = {};
    if (first + i < count) v = load<8>(from + (int64_t)(first + i) * K + k);
    UNROLL for (int j = 0; j < TERMS; j++) to[j][i] = float(v.at[j]);
}

__global__ void __launch_bounds__(SIDE * SIDE)
registers_kernel(float *out, const bf16 *x, const bf16 *w, int M, int N, int K)
{
    SHARED(float, rows, [TERMS][TILE + 4]);
    SHARED(float, cols, [TERMS][TILE + 4]);
    const int m0 = (int)blockIdx.y * TILE, n0 = (int)blockIdx.x * TILE, tx = (int)threadIdx.x, ty = (int)threadIdx.y;
    float sum[EACH][EACH] = {};
    for (int k = 0; k < K; k += TERMS) {
        fill(rows, x, m0, M, k, K);
        fill(cols, w, n0, N, k, K);
        __syncthreads();
        UNROLL for (int j = 0; j < TERMS; j++) {
            float a[EACH], b[EACH];
            UNROLL for (int i = 0; i < EACH; i++) a[i] = rows[j][ty + i * SIDE], b[i] = cols[j][tx + i * SIDE];
            UNROLL for (int r = 0; r < EACH; r++)
                UNROLL for (int c = 0; c < EACH; c++) sum[r][c] += a[r] * b[c];
        }
        __syncthreads();
    }
    UNROLL for (int r = 0; r < EACH; r++)
        UNROLL for (int c = 0; c < EACH; c++) {
            const int m = m0 + ty + r * SIDE, n = n0 + tx + c * SIDE;
            if (m < M && n < N) out[(int64_t)m * N + n] = sum[r][c];
        }
}

void step_3_registers(Device *d, float *out, const bf16 *x, const bf16 *w, int M, int N, int K)
{
    launch(d, registers_kernel, dim3(blocks_for(N, TILE), blocks_for(M, TILE)), dim3(SIDE, SIDE), 0, out, x, w, M, N,
           K);
}
