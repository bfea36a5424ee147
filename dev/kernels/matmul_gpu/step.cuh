/* step.cuh -- what every step of the ladder computes: out(M,N) = x(M,K) w(N,K)^T, bf16 in and f32 out, a layer's
 * product. K is a multiple of 8, so that rows are whole vectors of 16 bytes. */
#ifndef STEP_CUH
#define STEP_CUH

#include "tensor_core.cuh"

typedef void Step(Device *d, float *out, const bf16 *x, const bf16 *w, int M, int N, int K);
Step step_1_naive, step_2_tiles, step_3_registers, step_4_tensor_cores, step_5_copies_ahead;

/* Panels of the tensor cores' steps: rows of DEPTH numbers, an odd number of 16-byte pieces apart, so that eight rows
 * read together lie in different banks. */
constexpr int DEPTH = 32, STRIDE = DEPTH + 8;

/* d[m][n] += the product of 16 rows each of x and 8 rows each of w: MT x NT of them, from the given rows on */
template <int MT, int NT>
__device__ __forceinline__ void multiply_panels(float (&sums)[MT][NT][4], const bf16 *x, int x_row, const bf16 *w,
                                                int w_row)
{
    const int lane = (int)threadIdx.x % WARP;
    UNROLL for (int k = 0; k < DEPTH; k += 16) {
        uint32_t a[MT][4];
        UNROLL for (int m = 0; m < MT; m++)
            load_matrices<false>(a[m], x + (x_row + m * 16 + lane % 16) * STRIDE + k + lane / 16 * 8);
        UNROLL for (int n = 0; n < NT; n += 2) {
            uint32_t b[4];
            load_matrices<false>(b, w + (w_row + n * 8 + lane % 8 + lane / 16 * 8) * STRIDE + k + lane / 8 % 2 * 8);
            UNROLL for (int m = 0; m < MT; m++) {
                multiply_add(sums[m][n], a[m], { b[0], b[1] });
                multiply_add(sums[m][n + 1], a[m], { b[2], b[3] });
            }
        }
    }
}

template <int MT, int NT>
__device__ __forceinline__ void put_sums(float *out, const float (&sums)[MT][NT][4], int row, int column, int M, int N)
{
    const int lane = (int)threadIdx.x % WARP;
    UNROLL for (int m = 0; m < MT; m++)
        UNROLL for (int n = 0; n < NT; n++)
            UNROLL for (int i = 0; i < 4; i++) {
                const int r = row + m * 16 + lane / 4 + i / 2 * 8, c = column + n * 8 + lane % 4 * 2 + i % 2;
                if (r < M && c < N) out[(int64_t)r * N + c] = sums[m][n][i];
            }
}

#endif
