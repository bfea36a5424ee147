/* A warp owns 16 queries, and computes 16 x 8 sums in one instruction: q k^T, then, with no way through memory, the
 * weights times v, as the sums of one product, rounded to bf16, lie in the registers where the next one wants them (T.
 * Dao, "FlashAttention-2", 2023). A block of four warps shares panels of 64 keys and values. */
#include "step.cuh"
#include "tensor_core.cuh"

constexpr int WARPS = 4, QUERIES = 16 * WARPS, KEYS = 64;
constexpr int STRIDE = HEAD + 8;        /* an odd number of 16-byte pieces: eight rows lie in different banks */

/* Rows `first` and on, HEAD numbers of each; 0 from row T on */
static __device__ void fill(bf16 *panel, const bf16 *from, int64_t stride, int first, int T)
{
    for (int i = (int)threadIdx.x; i < KEYS * HEAD / 8; i += WARPS * WARP) {
        const int row = i / (HEAD / 8), column = i % (HEAD / 8) * 8;
        Vec<bf16, 8> v = {};
        if (first + row < T) v = load<8>(from + (first + row) * stride + column);
        store<8>(panel + row * STRIDE + column, v);
    }
}

/* Over the four lanes that hold a row of a product */
static __device__ float quad_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

static __device__ float quad_sum(float x)
{
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

__global__ void __launch_bounds__(WARPS * WARP) tensor_cores_kernel(bf16 *out, const bf16 *qkv, int T, int H)
{
    SHARED(bf16, queries, [QUERIES * STRIDE]);
    SHARED(bf16, keys, [KEYS * STRIDE]);
    SHARED(bf16, values, [KEYS * STRIDE]);
    const int begin = (int)blockIdx.y * QUERIES, lane = (int)threadIdx.x % WARP, line = (int)threadIdx.x / WARP * 16;
    const int t = begin + line + lane / 4, column = lane % 4 * 2;       /* a lane has rows t and t + 8 of a product */
    const Rows rows = rows_of(out, qkv, T, H);
    float mean[HEAD / 8][4] = {}, top[2] = { -INFINITY, -INFINITY }, sum[2] = { 0, 0 };
    fill(queries, rows.q, rows.stride, begin, T);
    for (int s = 0; s < at_most(begin + QUERIES, T); s += KEYS) {
        __syncthreads();                                        /* the panels before have been read */
        fill(keys, rows.k, rows.stride, s, T);
        fill(values, rows.v, rows.stride, s, T);
        __syncthreads();
        float p[KEYS / 8][4] = {};
        UNROLL for (int k = 0; k < HEAD; k += 16) {
            uint32_t a[4], b[4];
            load_matrices<false>(a, queries + (line + lane % 16) * STRIDE + k + lane / 16 * 8);
            UNROLL for (int j = 0; j < KEYS; j += 16) {
                load_matrices<false>(b, keys + (j + lane % 8 + lane / 16 * 8) * STRIDE + k + lane / 8 % 2 * 8);
                multiply_add(p[j / 8], a, { b[0], b[1] });
                multiply_add(p[j / 8 + 1], a, { b[2], b[3] });
            }
        }
        UNROLL for (int half = 0; half < 2; half++) {
            float higher = -INFINITY;
            UNROLL for (int j = 0; j < KEYS / 8; j++)
                UNROLL for (int i = 2 * half; i < 2 * half + 2; i++) {
                    p[j][i] = s + j * 8 + column + i % 2 <= t + 8 * half ? SCALE * p[j][i] : -INFINITY;
                    higher = fmaxf(higher, p[j][i]);
                }
            higher = fmaxf(top[half], quad_max(higher));
            const float fade = expf(top[half] - higher);
            sum[half] *= fade, top[half] = higher;
            UNROLL for (int j = 0; j < KEYS / 8; j++)
                UNROLL for (int i = 2 * half; i < 2 * half + 2; i++) sum[half] += p[j][i] = expf(p[j][i] - higher);
            UNROLL for (int j = 0; j < HEAD / 8; j++) mean[j][2 * half] *= fade, mean[j][2 * half + 1] *= fade;
        }
        UNROLL for (int k = 0; k < KEYS; k += 16) {
            const float (&low)[4] = p[k / 8], (&high)[4] = p[k / 8 + 1];
            const uint32_t a[4] = { pair_of(low[0], low[1]), pair_of(low[2], low[3]), pair_of(high[0], high[1]),
                                    pair_of(high[2], high[3]) };
            UNROLL for (int j = 0; j < HEAD; j += 16) {
                uint32_t b[4];
                load_matrices<true>(b, values + (k + lane % 16) * STRIDE + j + lane / 16 * 8);
                multiply_add(mean[j / 8], a, { b[0], b[1] });
                multiply_add(mean[j / 8 + 1], a, { b[2], b[3] });
            }
        }
    }
    UNROLL for (int half = 0; half < 2; half++) {
        const float all = quad_sum(sum[half]);
        UNROLL for (int j = 0; j < HEAD / 8; j++)
            UNROLL for (int i = 2 * half; i < 2 * half + 2; i++)
                if (t + 8 * half < T)
                    rows.out[(t + 8 * half) * rows.out_stride + j * 8 + column + i % 2] = bf16(mean[j][i] / all);
    }
}

void step_4_tensor_cores(Device *d, bf16 *out, const bf16 *qkv, Work w)
{
    launch(d, tensor_cores_kernel, dim3((unsigned)(w.B * w.H), blocks_for(w.T, QUERIES)), WARPS * WARP, 0, out, qkv,
           w.T, w.H);
}
