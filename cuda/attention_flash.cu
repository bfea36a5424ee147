/* attention_flash.cu -- attention of bf16 in the tensor cores, for head_dim 32, 64, 80, 96 and 128 (T. Dao,
 * "FlashAttention-2: faster attention with better parallelism and work partitioning", 2023).
 *
 * A block owns 64 queries, a warp 16 of them, and walks over panels of 64 keys and values, of which the next one is on
 * its way while this one is used. Scores and weights stay in registers: the sums of q k^T are, rounded, the operand of
 * p v. Backward a block owns 64 queries for dq, and in another kernel 64 keys for dk and dv with everything turned, so
 * the scores are computed twice, and no two blocks add to one number. */
#include "attention.cuh"
#include "tensor_core.cuh"

constexpr int WARPS = 4, LINES = 16 * WARPS;            /* rows of a block: a warp's product has 16 */
constexpr int KEYS = 64;
constexpr float LOG2_E = 1.44269504088896340736f, LN_2 = 0.69314718055994530942f;

/* ---- panels: rows of D numbers in shared memory ----------------------------------------------------------------- */

/* Eight rows that are read together must not meet in one bank: rows of 128 bytes have their 16-byte pieces exchanged,
 * others are an odd number of pieces long. */
template <int D> constexpr int STRIDE = D % 64 ? D + 8 : D;

template <int D> __device__ __forceinline__ int spot(int row, int column)
{
    return row * STRIDE<D> + (D % 64 ? column : (column / 8 ^ row % 8) * 8);
}

/* The panel's rows become rows from `from` on, of which there are `count`; 0 beyond. */
template <int D>
__device__ __forceinline__ void fill_panel(bf16 *panel, int rows, const bf16 *from, int64_t stride, int count)
{
    for (int i = (int)threadIdx.x; i < rows * (D / 8); i += WARPS * WARP) {
        const int row = i / (D / 8), column = i % (D / 8) * 8;
        const bool there = row < count;
        copy_async(panel + spot<D>(row, column), from + (there ? row * stride + column : 0), there);
    }
}

/* Keys and values from step s of T on, `rows` of each, k and v being step 0's: one panel after the other */
template <int D>
__device__ __forceinline__ void fill_keys(bf16 *panels, int rows, const bf16 *k, const bf16 *v, int64_t stride, int s,
                                          int T)
{
    const int count = at_most(rows, T - s);
    fill_panel<D>(panels, rows, k + s * stride, stride, count);
    fill_panel<D>(panels + rows * STRIDE<D>, rows, v + s * stride, stride, count);
}

/* An operand on the left: 16 rows of 16 numbers */
template <int D> __device__ __forceinline__ void load_left(uint32_t (&r)[4], const bf16 *panel, int row, int column)
{
    const int lane = (int)threadIdx.x % WARP;
    load_matrices<false>(r, panel + spot<D>(row + lane % 16, column + lane / 16 * 8));
}

/* Two operands on the right, whose columns are rows of the panel: 8 of them in r[0] and r[1], 8 in the others */
template <int D> __device__ __forceinline__ void load_right(uint32_t (&r)[4], const bf16 *panel, int row, int column)
{
    const int lane = (int)threadIdx.x % WARP;
    load_matrices<false>(r, panel + spot<D>(row + lane % 8 + lane / 16 * 8, column + lane / 8 % 2 * 8));
}

/* The same where the panel's rows are the terms, and its columns the columns */
template <int D> __device__ __forceinline__ void load_turned(uint32_t (&r)[4], const bf16 *panel, int row, int column)
{
    const int lane = (int)threadIdx.x % WARP;
    load_matrices<true>(r, panel + spot<D>(row + lane % 16, column + lane / 16 * 8));
}

__device__ __forceinline__ void multiply_both(float (&left)[4], float (&right)[4], const uint32_t (&a)[4],
                                              const uint32_t (&b)[4])
{
    multiply_add(left, a, { b[0], b[1] });
    multiply_add(right, a, { b[2], b[3] });
}

/* sums[j] += rows `row` .. of `lines` times the transpose of `panel`: 8 of its rows in each j */
template <int D, int COLUMNS>
__device__ __forceinline__ void multiply_rows(float (&sums)[COLUMNS / 8][4], const bf16 *lines, int row,
                                              const bf16 *panel)
{
    UNROLL for (int k = 0; k < D; k += 16) {
        uint32_t a[4], b[4];
        load_left<D>(a, lines, row, k);
        UNROLL for (int j = 0; j < COLUMNS; j += 16) {
            load_right<D>(b, panel, j, k);
            multiply_both(sums[j / 8], sums[j / 8 + 1], a, b);
        }
    }
}

/* sums[j] += weights, rounded, times `panel`: 8 of its columns in each j */
template <int D, int TERMS>
__device__ __forceinline__ void multiply_weights(float (&sums)[D / 8][4], const float (&weights)[TERMS / 8][4],
                                                 const bf16 *panel)
{
    UNROLL for (int k = 0; k < TERMS; k += 16) {
        const float (&low)[4] = weights[k / 8], (&high)[4] = weights[k / 8 + 1];
        const uint32_t a[4] = { pair_of(low[0], low[1]), pair_of(low[2], low[3]), pair_of(high[0], high[1]),
                                pair_of(high[2], high[3]) };
        UNROLL for (int j = 0; j < D; j += 16) {
            uint32_t b[4];
            load_turned<D>(b, panel, k, j);
            multiply_both(sums[j / 8], sums[j / 8 + 1], a, b);
        }
    }
}

/* Row `line` of the warp's 16 is this lane's in sums[j][2 * half ..], for half 0 and 1 */
__device__ __forceinline__ int line_of(int half) { return (int)threadIdx.x % WARP / 4 + half * 8; }
__device__ __forceinline__ int column_of(int j, int i) { return j * 8 + (int)threadIdx.x % 4 * 2 + i % 2; }

/* Rows of `sums` times scale[half], rounded; `to` is the first of the warp's 16 rows, of which `count` exist. */
template <int D>
__device__ __forceinline__ void store_lines(bf16 *to, int64_t stride, int count, const float (&sums)[D / 8][4],
                                            const float (&scale)[2])
{
    UNROLL for (int half = 0; half < 2; half++) {
        if (line_of(half) >= count) continue;
        UNROLL for (int j = 0; j < D / 8; j++) {
            Vec<bf16, 2> v;
            v.at[0] = bf16(sums[j][2 * half] * scale[half]), v.at[1] = bf16(sums[j][2 * half + 1] * scale[half]);
            store<2>(to + line_of(half) * stride + column_of(j, 0), v);
        }
    }
}

/* ---- forward ---------------------------------------------------------------------------------------------------- */

/* What is known of a lane's two queries: largest score and sum of weights so far, in powers of two. */
struct Running { float top[2], sum[2]; };

/* Over the four lanes that share a query */
__device__ __forceinline__ float quad_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

__device__ __forceinline__ float quad_sum(float x)
{
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

/* Scores to weights; what was summed so far is brought to the new largest score. */
template <int D>
__device__ __forceinline__ void soften(float (&s)[KEYS / 8][4], float (&mean)[D / 8][4], Running &soft, float scale)
{
    UNROLL for (int half = 0; half < 2; half++) {
        float top = -INFINITY;
        UNROLL for (int j = 0; j < KEYS / 8; j++) top = fmaxf(top, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
        top = fmaxf(soft.top[half], scale * quad_max(top));
        const float base = top > -INFINITY ? top : 0;           /* no key was seen yet */
        const float fade = exp2f(soft.top[half] - base);
        float sum = 0;
        UNROLL for (int j = 0; j < KEYS / 8; j++)
            UNROLL for (int i = 2 * half; i < 2 * half + 2; i++) sum += s[j][i] = exp2f(scale * s[j][i] - base);
        soft.sum[half] = soft.sum[half] * fade + sum;
        soft.top[half] = top;
        UNROLL for (int j = 0; j < D / 8; j++) mean[j][2 * half] *= fade, mean[j][2 * half + 1] *= fade;
    }
}

/* -infinity where key s + column is not seen: not in first[half] .. t[half] */
__device__ __forceinline__ void mask(float (&scores)[KEYS / 8][4], int s, const int (&first)[2], const int (&t)[2])
{
    UNROLL for (int j = 0; j < KEYS / 8; j++)
        UNROLL for (int i = 0; i < 4; i++) {
            const int key = s + column_of(j, i);
            if (key < first[i / 2] || key > t[i / 2]) scores[j][i] = -INFINITY;
        }
}

/* What a block of queries looks at */
struct Span { int t, count, begin, end, least, most; };         /* keys begin .. end - 1; least, most: of first */

__device__ __forceinline__ Span span_of(const int32_t *first, int T)
{
    const int t = (int)(gridDim.y - 1 - blockIdx.y) * LINES, count = at_most(LINES, T - t);     /* the longest first */
    return { t, count, first[t] / KEYS * KEYS, t + count, first[t], first[t + count - 1] };
}

template <int D>
__global__ void __launch_bounds__(WARPS * WARP)
flash_forward_kernel(bf16 *out, float *lse, const bf16 *qkv, const int32_t *firsts, Shape z)
{
    constexpr int PANEL = KEYS * STRIDE<D>;
    SHARED_DYNAMIC(bf16, queries);
    bf16 *panels = queries + LINES * STRIDE<D>;                 /* keys, values, the next keys, the next values */
    const int h = (int)blockIdx.x % z.H, warp = (int)threadIdx.x / WARP;
    const int64_t b = blockIdx.x / (unsigned)z.H, P = packed_width(z);
    const int32_t *first = firsts + b * z.T;
    const Span n = span_of(first, z.T);
    const bf16 *row = qkv + b * z.T * P, *k = row + (z.H + h / (z.H / z.G)) * z.D, *v = k + (int64_t)z.G * z.D;
    fill_panel<D>(queries, LINES, row + n.t * P + h * z.D, P, n.count);
    fill_keys<D>(panels, KEYS, k, v, P, n.begin, z.T);
    close_group();
    int t[2], seen[2];
    for (int half = 0; half < 2; half++) {
        t[half] = n.t + warp * 16 + line_of(half);
        seen[half] = first[at_most(t[half], z.T - 1)];
    }
    float mean[D / 8][4] = {};
    Running soft = { { -INFINITY, -INFINITY }, { 0, 0 } };
    for (int s = n.begin, stage = 0; s < n.end; s += KEYS, stage ^= 1) {
        if (s + KEYS < n.end) fill_keys<D>(panels + 2 * (stage ^ 1) * PANEL, KEYS, k, v, P, s + KEYS, z.T);
        close_group();
        wait_copies<1>();
        __syncthreads();
        float scores[KEYS / 8][4] = {};
        multiply_rows<D, KEYS>(scores, queries, warp * 16, panels + 2 * stage * PANEL);
        if (s + KEYS - 1 > n.t || s < n.most) mask(scores, s, seen, t);
        soften<D>(scores, mean, soft, z.scale * LOG2_E);
        multiply_weights<D, KEYS>(mean, scores, panels + (2 * stage + 1) * PANEL);
        __syncthreads();                                        /* before the panels are filled again */
    }
    float inverse[2];
    for (int half = 0; half < 2; half++) {
        const float sum = quad_sum(soft.sum[half]);
        inverse[half] = 1 / sum;
        if (threadIdx.x % 4 == 0 && t[half] < z.T)
            lse[(int64_t)blockIdx.x * z.T + t[half]] = soft.top[half] * LN_2 + logf(sum);
    }
    store_lines<D>(out + ((b * z.T + n.t + warp * 16) * z.H + h) * z.D, (int64_t)z.H * z.D, n.count - warp * 16, mean,
                   inverse);
}

/* ---- backward: dq ----------------------------------------------------------------------------------------------- */

/* Scores and dp to ds / scale = p (dp - mean), where seen */
__device__ __forceinline__ float slope(float score, float dp, float lse, float mean, float scale, bool seen, float *p)
{
    *p = seen ? exp2f(scale * score - lse) : 0;
    return *p * (dp - mean);
}

template <int D> constexpr int ROWS_BACK = D > 64 ? 32 : 64;            /* of a panel, as many as registers allow */

template <int D>
__global__ void __launch_bounds__(WARPS * WARP)
flash_dq_kernel(bf16 *dqkv, const float *means, const bf16 *dout, const float *lse, const bf16 *qkv,
                const int32_t *firsts, Shape z)
{
    constexpr int KEYS = ROWS_BACK<D>, PANEL = KEYS * STRIDE<D>;
    SHARED_DYNAMIC(bf16, queries);
    bf16 *slopes = queries + LINES * STRIDE<D>, *panels = slopes + LINES * STRIDE<D>;
    const int h = (int)blockIdx.x % z.H, warp = (int)threadIdx.x / WARP;
    const int64_t b = blockIdx.x / (unsigned)z.H, P = packed_width(z), C = (int64_t)z.H * z.D;
    const int32_t *first = firsts + b * z.T;
    const Span n = span_of(first, z.T);
    const bf16 *row = qkv + b * z.T * P, *k = row + (z.H + h / (z.H / z.G)) * z.D, *v = k + (int64_t)z.G * z.D;
    fill_panel<D>(queries, LINES, row + n.t * P + h * z.D, P, n.count);
    fill_panel<D>(slopes, LINES, dout + (b * z.T + n.t) * C + h * z.D, C, n.count);
    fill_keys<D>(panels, KEYS, k, v, P, n.begin, z.T);
    close_group();
    int t[2], seen[2];
    float log_sum[2], mean[2];
    for (int half = 0; half < 2; half++) {
        t[half] = n.t + warp * 16 + line_of(half);
        const int inside = at_most(t[half], z.T - 1);
        seen[half] = first[inside];
        log_sum[half] = lse[(int64_t)blockIdx.x * z.T + inside] * LOG2_E;
        mean[half] = means[(int64_t)blockIdx.x * z.T + inside];
    }
    float dq[D / 8][4] = {};
    for (int s = n.begin, stage = 0; s < n.end; s += KEYS, stage ^= 1) {
        if (s + KEYS < n.end) fill_keys<D>(panels + 2 * (stage ^ 1) * PANEL, KEYS, k, v, P, s + KEYS, z.T);
        close_group();
        wait_copies<1>();
        __syncthreads();
        const bf16 *keys = panels + 2 * stage * PANEL;
        float scores[KEYS / 8][4] = {}, dp[KEYS / 8][4] = {};
        multiply_rows<D, KEYS>(scores, queries, warp * 16, keys);
        multiply_rows<D, KEYS>(dp, slopes, warp * 16, keys + PANEL);
        UNROLL for (int j = 0; j < KEYS / 8; j++)
            UNROLL for (int i = 0; i < 4; i++) {
                const int key = s + column_of(j, i);
                float p;
                dp[j][i] = slope(scores[j][i], dp[j][i], log_sum[i / 2], mean[i / 2], z.scale * LOG2_E,
                                 key >= seen[i / 2] && key <= t[i / 2], &p);
            }
        multiply_weights<D, KEYS>(dq, dp, keys);
        __syncthreads();
    }
    const float scale[2] = { z.scale, z.scale };
    store_lines<D>(dqkv + (b * z.T + n.t + warp * 16) * P + h * z.D, P, n.count - warp * 16, dq, scale);
}

/* ---- backward: dk and dv ---------------------------------------------------------------------------------------- */

/* Of the queries that meet a block's keys: those of a panel, staged beside it */
template <int QUERIES> struct Stage { float lse[QUERIES], mean[QUERIES]; int first[QUERIES]; };

template <int D>
__global__ void __launch_bounds__(WARPS * WARP)
flash_dkv_kernel(bf16 *dqkv, const float *means, const bf16 *dout, const float *lse, const bf16 *qkv,
                 const int32_t *firsts, Shape z)
{
    constexpr int QUERIES = ROWS_BACK<D>, PANEL = QUERIES * STRIDE<D>;
    SHARED_DYNAMIC(bf16, keys);
    SHARED(Stage<QUERIES>, of_queries, [1]);
    bf16 *values = keys + LINES * STRIDE<D>, *panels = values + LINES * STRIDE<D>;
    const int s = (int)blockIdx.y * LINES, count = at_most(LINES, z.T - s), warp = (int)threadIdx.x / WARP;
    const int g = (int)blockIdx.x % z.G, each = z.H / z.G;
    const int64_t b = blockIdx.x / (unsigned)z.G, P = packed_width(z), C = (int64_t)z.H * z.D;
    const int32_t *first = firsts + b * z.T;
    const bf16 *row = qkv + b * z.T * P, *k = row + s * P + (z.H + g) * z.D;
    int end = z.T;                                      /* of the queries that see one of the keys */
    while (end > s && first[at_most((end - 1) / QUERIES * QUERIES, z.T - 1)] > s + count - 1)
        end = (end - 1) / QUERIES * QUERIES;
    const int panels_each = (int)ceil_div(end - s, QUERIES), all = each * panels_each;
    const auto fetch = [&](int i) {
        const int h = g * each + i / panels_each, t = s + i % panels_each * QUERIES, left = at_most(QUERIES, z.T - t);
        bf16 *to = panels + 2 * (i % 2) * PANEL;
        fill_panel<D>(to, QUERIES, row + t * P + h * z.D, P, left);
        fill_panel<D>(to + PANEL, QUERIES, dout + (b * z.T + t) * C + h * z.D, C, left);
    };
    fill_panel<D>(keys, LINES, k, P, count);
    fill_panel<D>(values, LINES, k + (int64_t)z.G * z.D, P, count);
    fetch(0);
    close_group();
    float dk[D / 8][4] = {}, dv[D / 8][4] = {};
    for (int i = 0; i < all; i++) {
        const int h = g * each + i / panels_each, t = s + i % panels_each * QUERIES;
        if (i + 1 < all) fetch(i + 1);
        close_group();
        if ((int)threadIdx.x < QUERIES) {
            const int inside = at_most(t + (int)threadIdx.x, z.T - 1);
            of_queries[0].lse[threadIdx.x] = lse[(b * z.H + h) * z.T + inside] * LOG2_E;
            of_queries[0].mean[threadIdx.x] = means[(b * z.H + h) * z.T + inside];
            of_queries[0].first[threadIdx.x] = first[inside];
        }
        wait_copies<1>();
        __syncthreads();
        const bf16 *queries = panels + 2 * (i % 2) * PANEL;
        float p[QUERIES / 8][4] = {}, dp[QUERIES / 8][4] = {};
        multiply_rows<D, QUERIES>(p, keys, warp * 16, queries);
        multiply_rows<D, QUERIES>(dp, values, warp * 16, queries + PANEL);
        UNROLL for (int j = 0; j < QUERIES / 8; j++)
            UNROLL for (int e = 0; e < 4; e++) {
                const int column = column_of(j, e), key = s + warp * 16 + line_of(e / 2);
                const bool seen = t + column < z.T && key <= t + column && key >= of_queries[0].first[column];
                dp[j][e] = slope(p[j][e], dp[j][e], of_queries[0].lse[column], of_queries[0].mean[column],
                                 z.scale * LOG2_E, seen, &p[j][e]);
            }
        multiply_weights<D, QUERIES>(dv, p, queries + PANEL);
        multiply_weights<D, QUERIES>(dk, dp, queries);
        __syncthreads();
    }
    bf16 *to = dqkv + (b * z.T + s + warp * 16) * P + (z.H + g) * z.D;
    const float scale[2] = { z.scale, z.scale }, one[2] = { 1, 1 };
    store_lines<D>(to, P, count - warp * 16, dk, scale);
    store_lines<D>(to + (int64_t)z.G * z.D, P, count - warp * 16, dv, one);
}

/* ---- launches --------------------------------------------------------------------------------------------------- */

#define HEAD_DIM_SWITCH(width, D, ...) do { \
        switch (width) { \
        case 32:  { constexpr int D = 32;  __VA_ARGS__; } break; \
        case 64:  { constexpr int D = 64;  __VA_ARGS__; } break; \
        case 80:  { constexpr int D = 80;  __VA_ARGS__; } break; \
        case 96:  { constexpr int D = 96;  __VA_ARGS__; } break; \
        case 128: { constexpr int D = 128; __VA_ARGS__; } break; \
        } \
    } while (0)

bool is_flash(Shape z, std::initializer_list<Tensor> tensors)
{
    for (const Tensor &t : tensors)
        if (t.dtype != DT_BF16 || (uintptr_t)t.data % 16) return false;
    bool found = false;
    HEAD_DIM_SWITCH(z.D, D, found = D == z.D);
    return found;
}

void flash_forward(Device *d, Tensor out, Tensor lse, Tensor qkv, Tensor first, Shape z)
{
    HEAD_DIM_SWITCH(z.D, D,
        launch(d, flash_forward_kernel<D>, dim3((unsigned)(qkv.dim[0] * z.H), blocks_for(z.T, LINES)), WARPS * WARP,
               (size_t)(LINES + 4 * KEYS) * STRIDE<D> * sizeof(bf16), data_of<bf16>(out), data_of<float>(lse),
               data_of<bf16>(qkv), data_of<int32_t>(first), z));
}

void flash_backward(Device *d, Tensor dqkv, const float *means, Tensor dout, Tensor lse, Tensor qkv, Tensor first,
                    Shape z)
{
    const unsigned B = (unsigned)qkv.dim[0], blocks = blocks_for(z.T, LINES);
    HEAD_DIM_SWITCH(z.D, D, {
        launch(d, flash_dq_kernel<D>, dim3(B * (unsigned)z.H, blocks), WARPS * WARP,
               (size_t)(2 * LINES + 4 * ROWS_BACK<D>) * STRIDE<D> * sizeof(bf16), data_of<bf16>(dqkv), means,
               data_of<bf16>(dout), data_of<float>(lse), data_of<bf16>(qkv), data_of<int32_t>(first), z);
        launch(d, flash_dkv_kernel<D>, dim3(B * (unsigned)z.G, blocks), WARPS * WARP,
               (size_t)(2 * LINES + 4 * ROWS_BACK<D>) * STRIDE<D> * sizeof(bf16), data_of<bf16>(dqkv), means,
               data_of<bf16>(dout), data_of<float>(lse), data_of<bf16>(qkv), data_of<int32_t>(first), z);
    });
}
