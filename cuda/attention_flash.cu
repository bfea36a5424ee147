/* attention_flash.cu -- attention of bf16 in the tensor cores, for head_dim 32, 64, 80, 96 and 128 (T. Dao,
 * "FlashAttention-2: faster attention with better parallelism and work partitioning", 2023).
 *
 * A block owns 64 queries, a warp 16 of them, and walks over panels of 64 keys and values, of which the next one is on
 * its way while this one is used. Scores and weights stay in registers: the sums of q k^T are, rounded, the operand of
 * p v. Backward a block owns 64 queries for dq, and in another kernel 64 keys for dk and dv with everything turned, so
 * the scores are computed twice, and no two blocks add to one number.
 *
 * Forward is one kernel for a batch, where a row's keys lie one after the other, and for the pages of a cache. A query
 * meets its keys in the same panels there, wherever its own row is cut, so it has the same bits. */
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

/* The panel's rows become line(0) and on, of which there are `count`; 0 beyond. */
template <int D, typename Line>
__device__ __forceinline__ void fill_panel(bf16 *panel, int rows, int count, Line line)
{
    for (int i = (int)threadIdx.x; i < rows * (D / 8); i += WARPS * WARP) {
        const int row = i / (D / 8), column = i % (D / 8) * 8;
        const bool there = row < count;
        copy_async(panel + spot<D>(row, column), line(there ? row : 0) + column, there);
    }
}

/* Rows that lie `step` elements apart, and the keys of two pages */
struct Lines {
    const bf16 *from;
    int64_t     step;
    __device__ const bf16 *operator()(int row) const { return from + row * step; }
};

struct TwoPages {
    const bf16 *low, *high;
    int         step;
    __device__ const bf16 *operator()(int row) const
    {
        return (row < CACHE_PAGE ? low : high) + row % CACHE_PAGE * step;
    }
};

/* Where `count` keys from s on lie, s being a multiple of KEYS. No page is looked up that holds none of them. */
__device__ __forceinline__ Lines lines_of(const Packed<bf16> &keys, int s, int) { return { keys.key(s), keys.step }; }

__device__ __forceinline__ TwoPages lines_of(const Paged<bf16> &keys, int s, int count)
{
    static_assert(KEYS == 2 * (int)CACHE_PAGE, "a panel of keys is two pages");
    return { keys.key(s), keys.key(count > CACHE_PAGE ? s + CACHE_PAGE : s), keys.step };
}

/* Keys and values from s on, of which the last is end - 1, `rows` of each: one panel after the other */
template <int D, typename Keys>
__device__ __forceinline__ void fill_keys(bf16 *panels, int rows, const Keys &keys, int s, int end)
{
    const int count = at_most(rows, end - s), apart = keys.apart;
    const auto line = lines_of(keys, s, count);
    fill_panel<D>(panels, rows, count, line);
    fill_panel<D>(panels + rows * STRIDE<D>, rows, count, [line, apart](int row) { return line(row) + apart; });
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

/* A block's queries: `count` neighbours of the batch from token n on, steps t and on of a row that has `end` steps */
struct Queries { int64_t row, n; int t, count, end; };

/* What the forward kernel runs over. Each says which queries a block has, where their keys are, what the first is that
 * a query sees, and where its log-sum goes. blockIdx.x % H is the head. */
struct BatchRows {
    const int32_t *first;
    float         *lse;
    __device__ Queries queries(Shape z) const
    {
        const int t = (int)(gridDim.y - 1 - blockIdx.y) * LINES;        /* the longest first */
        const int64_t b = blockIdx.x / (unsigned)z.H;
        return { b, b * z.T + t, t, at_most(LINES, z.T - t), z.T };
    }
    template <int D> __device__ Packed<bf16> keys(const bf16 *qkv, const Queries &q, int h, Shape z) const
    {
        return { qkv + q.row * z.T * packed_width(z) + (z.H + h / (z.H / z.G)) * D, packed_width(z), z.G * D };
    }
    __device__ int first_of(const Queries &q, int line) const { return first[q.n + line]; }
    __device__ void put_lse(const Queries &q, int line, float value, Shape z) const
    {
        lse[(int64_t)blockIdx.x * z.T + q.t + line] = value;
    }
};

/* Of a row that brings c tokens from token s on there are ceil(c / LINES) blocks: if those of row r are numbered from
 * s / LINES + r on, no two rows have one number, and all are below N / LINES + R. Some numbers are no row's. */
struct CacheRows {
    const bf16 *cache;
    CachedRows  of;
    __device__ int number_of(int r) const { return of.start[r] / LINES + r; }
    __device__ Queries queries(Shape z) const
    {
        const int number = (int)((gridDim.x - 1 - blockIdx.x) / (unsigned)z.H);
        int r = 0;
        for (int high = of.R - 1; r < high;) {
            const int middle = (r + high + 1) / 2;
            if (number_of(middle) > number) high = middle - 1;
            else                            r = middle;
        }
        const int before = (number - number_of(r)) * LINES, length = of.length[r], all = of.count(r);
        return { r, of.start[r] + before, length + before, all > 1 ? at_most(LINES, all - before) : 0, length + all };
    }
    template <int D> __device__ Paged<bf16> keys(const bf16 *, const Queries &q, int h, Shape z) const
    {
        return keys_of(cache, of, q.row, h, D, z);
    }
    __device__ int first_of(const Queries &, int) const { return 0; }
    __device__ void put_lse(const Queries &, int, float, Shape) const {}
};

template <int D, typename Rows>
__global__ void __launch_bounds__(WARPS * WARP)
flash_forward_kernel(bf16 *out, const bf16 *qkv, Rows rows, Shape z)
{
    constexpr int PANEL = KEYS * STRIDE<D>;
    SHARED_DYNAMIC(bf16, queries);
    bf16 *panels = queries + LINES * STRIDE<D>;                 /* keys, values, the next keys, the next values */
    const int h = (int)blockIdx.x % z.H, line = (int)threadIdx.x / WARP * 16;
    const Queries q = rows.queries(z);
    if (q.count <= 0) return;                                   /* the whole block */
    const auto keys = rows.template keys<D>(qkv, q, h, z);
    const int begin = rows.first_of(q, 0) / KEYS * KEYS, most = rows.first_of(q, q.count - 1), end = q.t + q.count;
    fill_panel<D>(queries, LINES, q.count, Lines{ qkv + q.n * packed_width(z) + h * D, packed_width(z) });
    fill_keys<D>(panels, KEYS, keys, begin, q.end);
    close_group();
    int t[2], seen[2];
    for (int half = 0; half < 2; half++) {
        t[half] = q.t + line + line_of(half);
        seen[half] = rows.first_of(q, at_most(line + line_of(half), q.count - 1));
    }
    float mean[D / 8][4] = {};
    Running soft = { { -INFINITY, -INFINITY }, { 0, 0 } };
    for (int s = begin, stage = 0; s < end; s += KEYS, stage ^= 1) {
        if (s + KEYS < end) fill_keys<D>(panels + 2 * (stage ^ 1) * PANEL, KEYS, keys, s + KEYS, q.end);
        close_group();
        wait_copies<1>();
        __syncthreads();
        float scores[KEYS / 8][4] = {};
        multiply_rows<D, KEYS>(scores, queries, line, panels + 2 * stage * PANEL);
        if (s + KEYS - 1 > q.t || s < most) mask(scores, s, seen, t);
        soften<D>(scores, mean, soft, z.scale * LOG2_E);
        multiply_weights<D, KEYS>(mean, scores, panels + (2 * stage + 1) * PANEL);
        __syncthreads();                                        /* before the panels are filled again */
    }
    float inverse[2];
    for (int half = 0; half < 2; half++) {
        const float sum = quad_sum(soft.sum[half]);
        inverse[half] = 1 / sum;
        if (threadIdx.x % 4 == 0 && t[half] < end)
            rows.put_lse(q, line + line_of(half), soft.top[half] * LN_2 + logf(sum), z);
    }
    store_lines<D>(out + ((q.n + line) * z.H + h) * D, (int64_t)z.H * D, q.count - line, mean, inverse);
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
flash_dq_kernel(bf16 *dqkv, const float *means, const bf16 *dout, const bf16 *qkv, BatchRows rows, Shape z)
{
    constexpr int KEYS = ROWS_BACK<D>, PANEL = KEYS * STRIDE<D>;
    SHARED_DYNAMIC(bf16, queries);
    bf16 *slopes = queries + LINES * STRIDE<D>, *panels = slopes + LINES * STRIDE<D>;
    const int h = (int)blockIdx.x % z.H, line = (int)threadIdx.x / WARP * 16;
    const int64_t P = packed_width(z), C = (int64_t)z.H * D;
    const Queries q = rows.queries(z);
    const Packed<bf16> all = rows.keys<D>(qkv, q, h, z);
    const int begin = rows.first_of(q, 0) / KEYS * KEYS, end = q.t + q.count;
    fill_panel<D>(queries, LINES, q.count, Lines{ qkv + q.n * P + h * D, P });
    fill_panel<D>(slopes, LINES, q.count, Lines{ dout + q.n * C + h * D, C });
    fill_keys<D>(panels, KEYS, all, begin, z.T);
    close_group();
    int t[2], seen[2];
    float log_sum[2], mean[2];
    for (int half = 0; half < 2; half++) {
        const int inside = at_most(line + line_of(half), q.count - 1);
        t[half] = q.t + line + line_of(half);
        seen[half] = rows.first_of(q, inside);
        log_sum[half] = rows.lse[(int64_t)blockIdx.x * z.T + q.t + inside] * LOG2_E;
        mean[half] = means[(int64_t)blockIdx.x * z.T + q.t + inside];
    }
    float dq[D / 8][4] = {};
    for (int s = begin, stage = 0; s < end; s += KEYS, stage ^= 1) {
        if (s + KEYS < end) fill_keys<D>(panels + 2 * (stage ^ 1) * PANEL, KEYS, all, s + KEYS, z.T);
        close_group();
        wait_copies<1>();
        __syncthreads();
        const bf16 *keys = panels + 2 * stage * PANEL;
        float scores[KEYS / 8][4] = {}, dp[KEYS / 8][4] = {};
        multiply_rows<D, KEYS>(scores, queries, line, keys);
        multiply_rows<D, KEYS>(dp, slopes, line, keys + PANEL);
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
    store_lines<D>(dqkv + (q.n + line) * P + h * D, P, q.count - line, dq, scale);
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
    const int g = (int)blockIdx.x % z.G, each = z.H / z.G, C = z.H * D;
    const int64_t b = blockIdx.x / (unsigned)z.G, P = packed_width(z);
    const int32_t *first = firsts + b * z.T;
    const bf16 *row = qkv + b * z.T * P, *k = row + s * P + (z.H + g) * D;
    int end = z.T;                                      /* of the queries that see one of the keys */
    while (end > s && first[at_most((end - 1) / QUERIES * QUERIES, z.T - 1)] > s + count - 1)
        end = (end - 1) / QUERIES * QUERIES;
    const int panels_each = (int)ceil_div(end - s, QUERIES), all = each * panels_each;
    const auto fetch = [&](int i) {
        const int h = g * each + i / panels_each, t = s + i % panels_each * QUERIES, left = at_most(QUERIES, z.T - t);
        bf16 *to = panels + 2 * (i % 2) * PANEL;
        fill_panel<D>(to, QUERIES, left, Lines{ row + t * P + h * D, P });
        fill_panel<D>(to + PANEL, QUERIES, left, Lines{ dout + (b * z.T + t) * C + h * D, C });
    };
    fill_panel<D>(keys, LINES, count, Lines{ k, P });
    fill_panel<D>(values, LINES, count, Lines{ k + (int64_t)z.G * D, P });
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
    bf16 *to = dqkv + (b * z.T + s + warp * 16) * P + (z.H + g) * D;
    const float scale[2] = { z.scale, z.scale }, one[2] = { 1, 1 };
    store_lines<D>(to, P, count - warp * 16, dk, scale);
    store_lines<D>(to + (int64_t)z.G * D, P, count - warp * 16, dv, one);
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

template <int D, typename Rows>
static void launch_forward(Device *d, Tensor out, Tensor qkv, const Rows &rows, dim3 grid, Shape z)
{
    launch(d, flash_forward_kernel<D, Rows>, grid, WARPS * WARP,
           (size_t)(LINES + 4 * KEYS) * STRIDE<D> * sizeof(bf16), data_of<bf16>(out), data_of<bf16>(qkv), rows, z);
}

void flash_forward(Device *d, Tensor out, Tensor lse, Tensor qkv, Tensor first, Shape z)
{
    const BatchRows all = { data_of<int32_t>(first), data_of<float>(lse) };
    const dim3 grid((unsigned)(qkv.dim[0] * z.H), blocks_for(z.T, LINES));
    HEAD_DIM_SWITCH(z.D, D, launch_forward<D>(d, out, qkv, all, grid, z));
}

void flash_cached(Device *d, Tensor out, Tensor cache, Tensor qkv, CachedRows of, Shape z)
{
    const CacheRows all = { data_of<bf16>(cache), of };
    const dim3 grid((unsigned)((rows(qkv) / LINES + of.R) * z.H));
    HEAD_DIM_SWITCH(z.D, D, launch_forward<D>(d, out, qkv, all, grid, z));
}

void flash_backward(Device *d, Tensor dqkv, const float *means, Tensor dout, Tensor lse, Tensor qkv, Tensor first,
                    Shape z)
{
    const unsigned B = (unsigned)qkv.dim[0], blocks = blocks_for(z.T, LINES);
    const BatchRows all = { data_of<int32_t>(first), data_of<float>(lse) };
    HEAD_DIM_SWITCH(z.D, D, {
        launch(d, flash_dq_kernel<D>, dim3(B * (unsigned)z.H, blocks), WARPS * WARP,
               (size_t)(2 * LINES + 4 * ROWS_BACK<D>) * STRIDE<D> * sizeof(bf16), data_of<bf16>(dqkv), means,
               data_of<bf16>(dout), data_of<bf16>(qkv), all, z);
        launch(d, flash_dkv_kernel<D>, dim3(B * (unsigned)z.G, blocks), WARPS * WARP,
               (size_t)(2 * LINES + 4 * ROWS_BACK<D>) * STRIDE<D> * sizeof(bf16), data_of<bf16>(dqkv), means,
               data_of<bf16>(dout), data_of<float>(lse), data_of<bf16>(qkv), data_of<int32_t>(first), z);
    });
}
