/* int8.cu -- products with weights of int8, whose 64 neighbours share a scale (quantize.h). Rows of x are brought to
 * int8 in the workspace; sums of 64 products are exact, and are added one after the other. */
#include "common.cuh"

#include "quantize.h"

constexpr int WARPS = 4;
constexpr int EACH = QUANT_GROUP / WARP;        /* elements of a group that a lane owns */

/* A warp owns a group of a row. */
template <typename T>
__global__ void quantize_kernel(int8_t *q, float *scale, const T *x, int64_t count, int64_t groups, int64_t width)
{
    const int64_t i = (int64_t)blockIdx.x * WARPS + threadIdx.y, n = i / groups, begin = i % groups * QUANT_GROUP;
    if (i >= count) return;
    float value[EACH], most = 0;
    bool nan = false;
    for (int k = 0; k < EACH; k++) {
        const int64_t c = begin + threadIdx.x + k * WARP;
        value[k] = c < width ? float(x[n * width + c]) : 0;
        nan = nan || value[k] != value[k];
        most = fmaxf(most, fabsf(value[k]));
    }
    most = warp_max(most);
    if (__any_sync(ALL_LANES, nan)) most = NAN;
    const bool tiny = most < 0x1p-100f, finite = fabsf(most) < INFINITY;
    const float inverse = tiny ? 0 : 127 / most;
    for (int k = 0; k < EACH; k++) {
        const int64_t c = begin + threadIdx.x + k * WARP;
        if (c < width) q[n * width + c] = finite ? (int8_t)rintf(value[k] * inverse) : 1;
    }
    if (threadIdx.x == 0) scale[i] = tiny ? 0 : most / 127;
}

/* The product of `count` numbers, at most QUANT_GROUP; whole groups that begin at 16 bytes four at a time */
__device__ __forceinline__ int dot_of(const int8_t *x, const int8_t *w, int64_t count)
{
    int dot = 0;
    if (count == QUANT_GROUP && ((uintptr_t)x | (uintptr_t)w) % 16 == 0) {
        UNROLL for (int i = 0; i < QUANT_GROUP; i += 16) {
            const Vec<int, 4> a = load<4>((const int *)(x + i)), b = load<4>((const int *)(w + i));
            UNROLL for (int k = 0; k < 4; k++) dot = __dp4a(a.at[k], b.at[k], dot);
        }
        return dot;
    }
    for (int64_t i = 0; i < count; i++) dot += (int)x[i] * (int)w[i];
    return dot;
}

/* A warp owns an output, for one row after the other: a lane multiplies every 32nd group, and the groups' products are
 * added in order. */
template <typename T, typename O>
__global__ void int8_product_kernel(O *out, const int8_t *q, const float *q_scale, const int8_t *w, const float *scale,
                                    const T *b, int64_t N, int64_t width, int64_t groups, int64_t outputs,
                                    bool gelu_after)
{
    const int64_t o = (int64_t)blockIdx.x * WARPS + threadIdx.y;
    const int lane = (int)threadIdx.x;
    if (o >= outputs) return;
    for (int64_t n = blockIdx.y; n < N; n += gridDim.y) {
        float sum = 0;
        for (int64_t from = 0; from < groups; from += WARP) {
            const int64_t g = from + lane, at = g * QUANT_GROUP, count = at_most<int64_t>(QUANT_GROUP, width - at);
            float part = 0;
            if (g < groups)
                part = float(dot_of(q + n * width + at, w + o * width + at, count)) *
                       (q_scale[n * groups + g] * scale[o * groups + g]);
            const int lanes = (int)at_most<int64_t>(WARP, groups - from);
            for (int k = 0; k < lanes; k++) sum += __shfl_sync(ALL_LANES, part, k);
        }
        if (lane) continue;
        sum += b ? float(b[o]) : 0;
        out[n * outputs + o] = O(gelu_after ? gelu(float(T(sum))) : sum);
    }
}

/* Of N rows' scales, so that the numbers after them begin at 16 bytes */
static int64_t scales_room(int64_t N, int64_t groups) { return ceil_div(N * groups, 4) * 4; }

template <typename T, typename O>
static void multiply_rows(Device *d, Tensor out, Tensor x, Tensor w, Tensor scale, Tensor b, Activation act)
{
    const int64_t N = rows(x), I = last(x), groups = quant_groups(I), outputs = w.dim[0];
    float *q_scale = (float *)d->workspace;
    int8_t *q = (int8_t *)(q_scale + scales_room(N, groups));
    launch(d, quantize_kernel<T>, blocks_for(N * groups, WARPS), dim3(WARP, WARPS), 0, q, q_scale, data_of<T>(x),
           N * groups, groups, I);
    launch(d, int8_product_kernel<T, O>, dim3(blocks_for(outputs, WARPS), (unsigned)at_most<int64_t>(N, MOST_Y)),
           dim3(WARP, WARPS), 0, data_of<O>(out), q, q_scale, data_of<int8_t>(w), data_of<float>(scale), data_of<T>(b),
           N, I, groups, outputs, act == ACT_GELU);
}

void cuda_linear_int8_forward(Device *d, Tensor out, Tensor x, Tensor w, Tensor scale, Tensor b, Activation act)
{
    FLOAT_SWITCH(x.dtype, T, {
        if (out.dtype == DT_F32) multiply_rows<T, float>(d, out, x, w, scale, b, act);
        else                     multiply_rows<T, bf16>(d, out, x, w, scale, b, act);
    });
}

size_t cuda_linear_int8_forward_scratch(Device *d, Tensor out, Tensor x, Tensor w, Tensor scale, Tensor b,
                                        Activation act)
{
    return (size_t)scales_room(rows(x), quant_groups(last(x))) * sizeof(float) + (size_t)numel(x);
}
