/* int8.cu -- products with weights of int8, whose 64 neighbours share a scale (quantize.h). Rows of x are brought to
 * int8 in the workspace. The tensor cores multiply a group of 16 rows of w with that of 8 rows of x, exactly; such
 * sums, scaled, are added one after the other. On the way back w is brought to the activations' type there instead. */
#include "gemm.cuh"
#include "tensor_core.cuh"

#include "quantize.h"

constexpr int WARPS = 4;
constexpr int EACH = QUANT_GROUP / WARP;        /* elements of a group that a lane owns */
constexpr int OUTPUTS = 16, ROWS = 8;           /* of a product in the tensor cores */

/* A warp owns a group of a row, of which q holds all 64, and x the first `width`. */
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
    for (int k = 0; k < EACH; k++)
        q[i * QUANT_GROUP + threadIdx.x + k * WARP] = finite ? (int8_t)rintf(value[k] * inverse) : 1;
    if (threadIdx.x == 0) scale[i] = tiny ? 0 : most / 127;
}

/* What a product is made of; q holds whole groups. */
struct Factors {
    const int8_t *q, *w;
    const float  *q_scale, *w_scale;
    int64_t       N, outputs;
    int           width, groups;
};

/* Where a lane finds its part of 16 rows of w and 8 TILES rows of x: 16 neighbours of every group, so that what lies
 * together is read together. Which of the 64 terms meet in one instruction does not matter, as their sum is exact. A
 * row beyond the last is the last one; what comes of it is not written. */
template <int TILES> struct Places {
    const int8_t *w[2], *q[TILES];
    const float  *w_scale[2], *q_scale[TILES][2];
};

template <int TILES> __device__ __forceinline__ Places<TILES> places_of(const Factors &f, int64_t o, int64_t n)
{
    const int lane = (int)threadIdx.x % WARP, line = lane / 4, part = lane % 4;
    Places<TILES> to;
    UNROLL for (int half = 0; half < 2; half++) {
        const int64_t at = at_most(o + line + half * 8, f.outputs - 1);
        to.w[half] = f.w + at * f.width;
        to.w_scale[half] = f.w_scale + at * f.groups;
    }
    UNROLL for (int tile = 0; tile < TILES; tile++) {
        const int64_t first = n + tile * ROWS;
        to.q[tile] = f.q + at_most(first + line, f.N - 1) * f.groups * QUANT_GROUP + part * 16;
        UNROLL for (int i = 0; i < 2; i++)
            to.q_scale[tile][i] = f.q_scale + at_most(first + part * 2 + i, f.N - 1) * f.groups;
    }
    return to;
}

/* 16 numbers of a row of w from column c on; beyond its end any that are there, as q is 0, or its scale no number.
 * WIDE: rows and their ends are multiples of 16 bytes. */
template <bool WIDE> __device__ __forceinline__ Vec<uint32_t, 4> load_weights(const int8_t *row, int c, int width)
{
    if (WIDE) return load<4>((const uint32_t *)(row + at_most(c, width - 16)));
    Vec<uint32_t, 4> v = {};
    UNROLL for (int i = 0; i < 16; i++)
        v.at[i / 4] |= (uint32_t)(uint8_t)row[at_most(c + i, width - 1)] << i % 4 * 8;
    return v;
}

/* A group, or the last one if there are not so many */
template <int TILES> struct Operands {
    Vec<uint32_t, 4> w[2], q[TILES];
    float            w_scale[2], q_scale[TILES][2];
};

template <bool WIDE, int TILES>
__device__ __forceinline__ void load_group(Operands<TILES> &to, const Places<TILES> &at, int group, const Factors &f)
{
    group = at_most(group, f.groups - 1);
    const int c = group * QUANT_GROUP + (int)threadIdx.x % 4 * 16;
    UNROLL for (int half = 0; half < 2; half++) {
        to.w[half] = load_weights<WIDE>(at.w[half], c, f.width);
        to.w_scale[half] = at.w_scale[half][group];
    }
    UNROLL for (int tile = 0; tile < TILES; tile++) {
        to.q[tile] = load<4>((const uint32_t *)(at.q[tile] + (int64_t)group * QUANT_GROUP));
        UNROLL for (int i = 0; i < 2; i++) to.q_scale[tile][i] = at.q_scale[tile][i][group];
    }
}

/* Of each row of x the scaled sums for the 16 outputs; 20 apart, so that no two lanes write to one bank */
template <int TILES> using Parts = float[TILES * ROWS][OUTPUTS + 4];

template <int TILES> __device__ __forceinline__ void multiply_group(Parts<TILES> &parts, const Operands<TILES> &f)
{
    const int lane = (int)threadIdx.x % WARP;
    UNROLL for (int tile = 0; tile < TILES; tile++) {
        int32_t sum[4] = {};
        UNROLL for (int k = 0; k < 4; k += 2)
            multiply_add(sum, { f.w[0].at[k], f.w[1].at[k], f.w[0].at[k + 1], f.w[1].at[k + 1] },
                         { f.q[tile].at[k], f.q[tile].at[k + 1] });
        UNROLL for (int i = 0; i < 4; i++)
            parts[tile * ROWS + lane % 4 * 2 + i % 2][lane / 4 + i / 2 * 8] =
                float(sum[i]) * (f.q_scale[tile][i % 2] * f.w_scale[i / 2]);
    }
}

/* A block owns 16 outputs of 8 TILES rows, for which it reads w once. Its warps take groups by turns, of which the next
 * ones are on their way while these are used; then each thread owns TILES elements of out, and adds what the groups
 * gave in their order, whatever TILES is. */
template <int TILES, bool WIDE, typename T, typename O>
__global__ void __launch_bounds__(WARPS * WARP) int8_product_kernel(O *out, Factors f, const T *b, bool gelu_after)
{
    constexpr int TURNS = 4 / TILES, ROUND = WARPS * TURNS;
    SHARED(Parts<TILES>, parts, [ROUND]);
    const int64_t blocks = ceil_div(f.N, TILES * ROWS);         /* those with the same weights are neighbours */
    const int64_t o = blockIdx.x / blocks * OUTPUTS, n = blockIdx.x % blocks * (TILES * ROWS);
    const int warp = (int)threadIdx.x / WARP, output = (int)threadIdx.x % OUTPUTS, row = (int)threadIdx.x / OUTPUTS;
    const Places<TILES> at = places_of<TILES>(f, o, n);
    Operands<TILES> group[TURNS];
    float sum[TILES] = {};
    UNROLL for (int i = 0; i < TURNS; i++) load_group<WIDE>(group[i], at, i * WARPS + warp, f);
    for (int from = 0; from < f.groups; from += ROUND) {
        UNROLL for (int i = 0; i < TURNS; i++) multiply_group<TILES>(parts[i * WARPS + warp], group[i]);
        UNROLL for (int i = 0; i < TURNS; i++) load_group<WIDE>(group[i], at, from + ROUND + i * WARPS + warp, f);
        __syncthreads();
        const int count = at_most(ROUND, f.groups - from);
        for (int k = 0; k < count; k++)
            UNROLL for (int i = 0; i < TILES; i++) sum[i] += parts[k][row + i * ROWS][output];
        __syncthreads();                                        /* before the parts are written again */
    }
    UNROLL for (int i = 0; i < TILES; i++) {
        const int64_t to = n + row + i * ROWS;
        if (to >= f.N || o + output >= f.outputs) continue;
        const float value = sum[i] + (b ? float(b[o + output]) : 0);
        out[to * f.outputs + o + output] = O(gelu_after ? gelu(float(T(value))) : value);
    }
}

/* Of N rows' scales, so that the numbers after them begin at 16 bytes */
static int64_t scales_room(int64_t N, int64_t groups) { return ceil_div(N * groups, 4) * 4; }

template <int TILES, typename T, typename O>
static void launch_product(Device *d, Tensor out, const Factors &f, Tensor b, Activation act, bool wide)
{
    BOOL_SWITCH(wide, WIDE,
        launch(d, int8_product_kernel<TILES, WIDE, T, O>,
               blocks_for(f.N, TILES * ROWS) * blocks_for(f.outputs, OUTPUTS), WARPS * WARP, 0, data_of<O>(out), f,
               data_of<T>(b), act == ACT_GELU));
}

template <typename T, typename O>
static void multiply_rows(Device *d, Tensor out, Tensor x, Tensor w, Tensor scale, Tensor b, Activation act)
{
    const int64_t N = rows(x), I = last(x), groups = quant_groups(I);
    float *q_scale = (float *)d->workspace;
    int8_t *q = (int8_t *)(q_scale + scales_room(N, groups));
    const Factors f = { q, data_of<int8_t>(w), q_scale, data_of<float>(scale), N, w.dim[0], (int)I, (int)groups };
    const bool wide = rows_are_wide(I, { w });
    launch(d, quantize_kernel<T>, blocks_for(N * groups, WARPS), dim3(WARP, WARPS), 0, q, q_scale, data_of<T>(x),
           N * groups, groups, I);
    if (N <= ROWS) launch_product<1, T, O>(d, out, f, b, act, wide);
    else           launch_product<4, T, O>(d, out, f, b, act, wide);
}

void cuda_linear_int8_forward(Device *d, Tensor out, Tensor x, Tensor w, Tensor scale, Tensor b, Activation act)
{
    if (x.dtype == DT_F32)        multiply_rows<float, float>(d, out, x, w, scale, b, act);
    else if (out.dtype == DT_F32) multiply_rows<bf16, float>(d, out, x, w, scale, b, act);
    else                          multiply_rows<bf16, bf16>(d, out, x, w, scale, b, act);
}

size_t cuda_linear_int8_forward_scratch(Device *d, Tensor out, Tensor x, Tensor w, Tensor scale, Tensor b,
                                        Activation act)
{
    const int64_t N = rows(x), groups = quant_groups(last(x));
    return (size_t)scales_room(N, groups) * sizeof(float) + (size_t)(N * groups * QUANT_GROUP);
}

/* ---- the way back ------------------------------------------------------------------------------------------------ */

constexpr int THREADS = 256;

/* A thread owns an element. */
template <typename T>
__global__ void widen_kernel(T *to, const int8_t *w, const float *scale, int64_t n, int64_t width, int64_t groups)
{
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) to[i] = T(float(w[i]) * scale[i / width * groups + i % width / QUANT_GROUP]);
}

/* to[n][k] = columns from .. of x (N,O), which a product wants side by side */
template <typename T>
__global__ void columns_kernel(T *to, const T *x, int64_t n, int64_t width, int64_t from, int64_t O)
{
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) to[i] = x[i / width * O + from + i % width];
}

template <typename T> __global__ void slope_kernel(T *dx, const float *sums, const T *pre, int64_t n)
{
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) dx[i] = T(sums[i] * (pre ? gelu_slope(float(pre[i])) : 1));
}

/* A lot of w's rows in the workspace, as what they stand for. It is all of them but of a tall w, a vocabulary's, which
 * would take more room than all else of a model: the lots' sums are then added in f32, beside dout's columns of a lot. */
constexpr int64_t TALL = 8;                 /* times as many rows as columns */
struct Lot { int64_t rows; bool whole; size_t w, columns, sums; };         /* bytes, each to a multiple of 16 */

static Lot lot_of(Tensor dout, Tensor w)
{
    const int64_t O = w.dim[0], I = w.dim[1], N = rows(dout), lot = at_most(O, TALL * I);
    const size_t size = dtype_size(dout.dtype);
    const auto room = [](size_t bytes) { return (bytes + 15) / 16 * 16; };
    Lot z = { lot, lot == O, room((size_t)(lot * I) * size), 0, 0 };
    if (!z.whole) z.columns = room((size_t)(N * lot) * size), z.sums = (size_t)(N * I) * sizeof(float);
    return z;
}

template <typename T>
static void multiply_lots(Device *d, Tensor dx, Tensor dout, Tensor w, Tensor scale, Tensor pre, const Lot &z)
{
    const int64_t O = w.dim[0], I = w.dim[1], N = rows(dout), groups = quant_groups(I);
    char *at = (char *)d->workspace;
    const Tensor sums = { at + z.w + z.columns, "sums", DT_F32, 2, { N, I } };
    for (int64_t o = 0; o < O; o += z.rows) {
        const int64_t n = at_most(O - o, z.rows);
        const Tensor wide = { at, "w", dout.dtype, 2, { n, I } };
        const Tensor columns = { at + z.w, "columns", dout.dtype, 2, { N, n } };
        launch(d, widen_kernel<T>, blocks_for(n * I, THREADS), THREADS, 0, data_of<T>(wide),
               data_of<int8_t>(w) + o * I, data_of<float>(scale) + o * groups, n * I, I, groups);
        if (!z.whole) launch(d, columns_kernel<T>, blocks_for(N * n, THREADS), THREADS, 0, data_of<T>(columns),
                             data_of<T>(dout), N * n, n, o, O);
        Product p = product(z.whole ? dx : sums, z.whole ? dout : columns, wide, N, I, n, false, false);
        p.accumulate = o > 0;
        if (z.whole) p.slope = pre;
        multiply(d, p);
    }
    if (!z.whole) launch(d, slope_kernel<T>, blocks_for(N * I, THREADS), THREADS, 0, data_of<T>(dx),
                         data_of<float>(sums), data_of<T>(pre), N * I);
}

void cuda_linear_int8_backward(Device *d, Tensor dx, Tensor dout, Tensor w, Tensor scale, Tensor pre)
{
    FLOAT_SWITCH(dout.dtype, T, multiply_lots<T>(d, dx, dout, w, scale, pre, lot_of(dout, w)));
}

size_t cuda_linear_int8_backward_scratch(Device *d, Tensor dx, Tensor dout, Tensor w, Tensor scale, Tensor pre)
{
    const Lot z = lot_of(dout, w);
    return z.w + z.columns + z.sums;
}
