/* attention.cu -- causal grouped attention in f32 arithmetic, for every head_dim and type: the reference among the
 * kernels, and what computes where attention_flash.cu has none.
 *
 * Forward a warp owns a query and looks at 32 keys at a time: a lane scores one key, then owns every 32nd column of the
 * output. Largest and sum are kept as it goes (M. Milakov, N. Gimelshein, "Online normalizer calculation for softmax",
 * 2018). Backward a warp owns a query for dq, and in another kernel a key for dk and dv, so nothing is added by two. */
#include "attention.cuh"

constexpr int ROWS = 4;                 /* warps of a block */

static Shape shape_of(Tensor qkv, int64_t T, int H, int G)
{
    const int D = (int)(last(qkv) / (H + 2 * G));
    return { (int)T, H, G, D, 1 / sqrtf((float)D) };
}

/* a in shared memory, b where it lies: 16 bytes at a time if rows allow it */
template <typename T> __device__ float dot(const float *a, const T *b, int D)
{
    float sum = 0;
    if (D % WIDE<T> || (uintptr_t)b % 16) {
        for (int i = 0; i < D; i++) sum += a[i] * float(b[i]);
        return sum;
    }
    for (int i = 0; i < D; i += WIDE<T>) {
        const Vec<T, WIDE<T>> v = load<WIDE<T>>(b + i);
        UNROLL for (int k = 0; k < WIDE<T>; k++) sum += a[i + k] * float(v.at[k]);
    }
    return sum;
}

template <typename T> __device__ void copy_row(float *to, const T *from, int D)
{
    for (int i = (int)threadIdx.x; i < D; i += WARP) to[i] = float(from[i]);
    __syncwarp();
}

/* Largest score, and the sum of exp(score - top) */
struct Softmax { float top, sum; };

/* One query over keys first .. last. room: 2 D + 32 floats of shared memory, of which a lane finds its columns of the
 * sum of exp(score - top) v at room + D + lane. */
template <typename T, typename Keys>
__device__ Softmax attend(const T *q, Keys keys, int first, int last, Shape z, float *room)
{
    float *query = room, *mean = room + z.D, *p = mean + z.D;
    const int lane = (int)threadIdx.x;
    Softmax soft = { -INFINITY, 0 };
    for (int i = lane; i < z.D; i += WARP) mean[i] = 0;
    copy_row(query, q, z.D);
    for (int begin = first; begin <= last; begin += WARP) {
        const int s = begin + lane, count = at_most(WARP, last + 1 - begin);
        const float score = s <= last ? z.scale * dot(query, keys.key(s), z.D) : -INFINITY;
        const float top = fmaxf(soft.top, warp_max(score)), fade = expf(soft.top - top);
        p[lane] = expf(score - top);
        __syncwarp();
        soft = { top, soft.sum * fade + warp_sum(p[lane]) };
        const T *values = keys.value(begin);    /* of a cache they are one page's: begin is a multiple of WARP there */
        const int64_t step = keys.step;
        for (int i = lane; i < z.D; i += WARP) {
            float value = mean[i] * fade;
            UNROLL_SOME for (int j = 0; j < count; j++) value += p[j] * float(values[j * step + i]);
            mean[i] = value;
        }
        __syncwarp();                   /* before p is written again */
    }
    return soft;
}

template <typename T> __device__ void write_mean(T *out, const float *room, float sum, Shape z)
{
    for (int i = (int)threadIdx.x; i < z.D; i += WARP) out[i] = T(room[z.D + i] / sum);
}

static size_t attend_bytes(Shape z) { return (size_t)ROWS * (size_t)(2 * z.D + WARP) * sizeof(float); }

/* blockIdx.x: the head of a row of the batch, as there may be more of them than a grid has in y */
template <typename T>
__global__ void attention_forward_kernel(T *out, float *lse, const T *qkv, const int32_t *first, Shape z)
{
    SHARED_DYNAMIC(float, rooms);
    const int t = (int)(blockIdx.y * ROWS + threadIdx.y), h = (int)blockIdx.x % z.H;
    const int64_t b = blockIdx.x / (unsigned)z.H, n = b * z.T + t, P = packed_width(z);
    if (t >= z.T) return;
    const T *row = qkv + b * z.T * P;
    const Packed<T> keys = { row + (z.H + h / (z.H / z.G)) * z.D, P, z.G * z.D };
    float *room = rooms + threadIdx.y * (unsigned)(2 * z.D + WARP);
    const Softmax soft = attend(row + t * P + h * z.D, keys, first[n], t, z, room);
    write_mean(out + (n * z.H + h) * z.D, room, soft.sum, z);
    if (threadIdx.x == 0) lse[(int64_t)blockIdx.x * z.T + t] = soft.top + logf(soft.sum);
}

void cuda_attention_forward(Device *d, Tensor out, Tensor lse, Tensor qkv, Tensor first, int H, int G)
{
    const Shape z = shape_of(qkv, qkv.dim[1], H, G);
    if (is_flash(z, { out, qkv })) {
        flash_forward(d, out, lse, qkv, first, z);
        return;
    }
    FLOAT_SWITCH(qkv.dtype, T,
        launch(d, attention_forward_kernel<T>, dim3((unsigned)(qkv.dim[0] * H), blocks_for(z.T, ROWS)),
               dim3(WARP, ROWS), attend_bytes(z), data_of<T>(out), data_of<float>(lse), data_of<T>(qkv),
               data_of<int32_t>(first), z));
}

size_t cuda_attention_forward_scratch(Device *d, Tensor out, Tensor lse, Tensor qkv, Tensor first, int H, int G)
{
    return 0;
}

/* ---- over a cache ----------------------------------------------------------------------------------------------- */

static_assert((int)CACHE_PAGE == WARP, "attend finds the values of 32 keys in one page");

/* Which row brings token n: the first that ends after it. */
__device__ inline int row_of(int64_t n, const CachedRows &rows)
{
    int low = 0, high = rows.R - 1;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (rows.start[middle + 1] > n) high = middle;
        else                            low = middle + 1;
    }
    return low;
}

/* A block owns a token: writes its k and v to their page. */
template <typename T> __global__ void store_keys_kernel(T *cache, const T *qkv, CachedRows rows, Shape z)
{
    const int64_t n = blockIdx.x, r = row_of(n, rows), s = rows.last_seen(r, n);
    const int64_t page = rows.table[r * rows.most + s / CACHE_PAGE];
    for (int i = (int)threadIdx.x; i < 2 * z.G * z.D; i += (int)blockDim.x)
        cache[((page * 2 * z.G + i / z.D) * CACHE_PAGE + s % CACHE_PAGE) * z.D + i % z.D] =
            qkv[n * packed_width(z) + z.H * z.D + i];
}

/* Rows that bring many tokens: a warp owns a query. */
template <typename T>
__global__ void attention_cached_kernel(T *out, const T *cache, const T *qkv, CachedRows rows, int64_t N, Shape z)
{
    SHARED_DYNAMIC(float, rooms);
    const int64_t n = (int64_t)blockIdx.x * ROWS + threadIdx.y, r = row_of(n, rows);
    const int h = (int)blockIdx.y;
    if (n >= N || rows.count(r) == 1) return;
    float *room = rooms + threadIdx.y * (unsigned)(2 * z.D + WARP);
    const Softmax soft = attend(qkv + n * packed_width(z) + h * z.D, keys_of(cache, rows, r, h, z.D, z), 0,
                                rows.last_seen(r, n), z, room);
    write_mean(out + (n * z.H + h) * z.D, room, soft.sum, z);
}

/* Rows that bring one, as when text is written: there are not queries enough for a GPU, so the keys of a query are cut
 * into parts, each one warp's, and a second kernel puts the parts together (T. Dao et al., "Flash-Decoding for
 * long-context inference", 2023). Of each part: D columns, top, sum. How keys are cut depends on their number alone. */
constexpr int LEAST_PART = 128, MOST_PARTS = 32;

__device__ inline int part_keys(int64_t keys)
{
    const int even = (int)ceil_div(ceil_div(keys, MOST_PARTS), CACHE_PAGE) * CACHE_PAGE;
    return even > LEAST_PART ? even : LEAST_PART;
}

template <typename T>
__global__ void attention_parts_kernel(float *parts, const T *cache, const T *qkv, CachedRows rows, Shape z)
{
    SHARED_DYNAMIC(float, rooms);
    const int64_t r = blockIdx.z;
    const int h = (int)blockIdx.y, part = (int)(blockIdx.x * ROWS + threadIdx.y), splits = (int)gridDim.x * ROWS;
    const int last = rows.length[r], each = part_keys((int64_t)last + 1);
    if (rows.count(r) != 1 || (int64_t)part * each > last) return;
    float *room = rooms + threadIdx.y * (unsigned)(2 * z.D + WARP);
    const Softmax soft = attend(qkv + rows.start[r] * packed_width(z) + h * z.D, keys_of(cache, rows, r, h, z.D, z),
                                part * each, at_most(last, (part + 1) * each - 1), z, room);
    float *to = parts + ((r * z.H + h) * splits + part) * (z.D + 2);
    for (int i = (int)threadIdx.x; i < z.D; i += WARP) to[i] = room[z.D + i];
    if (threadIdx.x == 0) to[z.D] = soft.top, to[z.D + 1] = soft.sum;
}

/* A warp owns a query's head. */
template <typename T>
__global__ void attention_join_kernel(T *out, const float *parts, int splits, CachedRows rows, Shape z)
{
    const int64_t r = blockIdx.x, last = rows.length[r];
    const int h = (int)(blockIdx.y * ROWS + threadIdx.y), count = (int)(last / part_keys(last + 1)) + 1;
    if (h >= z.H || rows.count(r) != 1) return;
    const float *from = parts + (r * z.H + h) * splits * (z.D + 2);
    float top = -INFINITY, sum = 0;
    for (int c = 0; c < count; c++) top = fmaxf(top, from[c * (z.D + 2) + z.D]);
    for (int c = 0; c < count; c++) sum += from[c * (z.D + 2) + z.D + 1] * expf(from[c * (z.D + 2) + z.D] - top);
    for (int i = (int)threadIdx.x; i < z.D; i += WARP) {
        float mean = 0;
        for (int c = 0; c < count; c++) mean += from[c * (z.D + 2) + i] * expf(from[c * (z.D + 2) + z.D] - top);
        out[((int64_t)rows.start[r] * z.H + h) * z.D + i] = T(mean / sum);
    }
}

/* The most parts a row can have, in whole blocks */
static int64_t most_parts(Tensor table)
{
    const int64_t parts = at_most<int64_t>(ceil_div(last(table) * CACHE_PAGE, LEAST_PART), MOST_PARTS);
    return ceil_div(parts, ROWS) * ROWS;
}

/* What a row brings decides which way it takes, whatever the others bring. The host knows only that N == R is one token
 * each. */
void cuda_attention_cached(Device *d, Tensor out, Tensor cache, Tensor qkv, Tensor table, Tensor start, Tensor length,
                           int H, int G)
{
    const int64_t N = rows(qkv), R = numel(length), splits = most_parts(table);
    const Shape z = shape_of(qkv, 0, H, G);
    const CachedRows all = { data_of<int32_t>(table), data_of<int32_t>(start), data_of<int32_t>(length), last(table),
                             (int)R };
    const dim3 block(WARP, ROWS);
    float *parts = (float *)d->workspace;
    FLOAT_SWITCH(qkv.dtype, T, {
        launch(d, store_keys_kernel<T>, (unsigned)N, 128, 0, data_of<T>(cache), data_of<T>(qkv), all, z);
        if (N > R && is_flash(z, { out, cache, qkv })) flash_cached(d, out, cache, qkv, all, z);
        else if (N > R)
            launch(d, attention_cached_kernel<T>, dim3(blocks_for(N, ROWS), (unsigned)H), block, attend_bytes(z),
                   data_of<T>(out), data_of<T>(cache), data_of<T>(qkv), all, N, z);
        if (R == 1 && N > 1) return;
        launch(d, attention_parts_kernel<T>, dim3((unsigned)(splits / ROWS), (unsigned)H, (unsigned)R), block,
               attend_bytes(z), parts, data_of<T>(cache), data_of<T>(qkv), all, z);
        launch(d, attention_join_kernel<T>, dim3((unsigned)R, blocks_for(H, ROWS)), block, 0, data_of<T>(out), parts,
               (int)splits, all, z);
    });
}

size_t cuda_attention_cached_scratch(Device *d, Tensor out, Tensor cache, Tensor qkv, Tensor table, Tensor start,
                                     Tensor length, int H, int G)
{
    const int64_t D = last(qkv) / (H + 2 * G);
    return (size_t)(numel(length) * H * most_parts(table) * (D + 2)) * sizeof(float);
}

/* ---- backward --------------------------------------------------------------------------------------------------- */

/* p = exp(scale q.k - lse);  ds = scale p (dout.v - mean), where mean = dout.out */

/* A warp owns a query. */
template <typename T>
__global__ void attention_mean_kernel(float *mean, const T *dout, const T *out, int64_t count, Shape z)
{
    const int64_t i = (int64_t)blockIdx.x * ROWS + threadIdx.y, n = i / z.H, h = i % z.H;      /* i: of (B,T,H) */
    if (i >= count) return;
    float sum = 0;
    for (int c = (int)threadIdx.x; c < z.D; c += WARP) sum += float(dout[i * z.D + c]) * float(out[i * z.D + c]);
    sum = warp_sum(sum);
    if (threadIdx.x == 0) mean[(n / z.T * z.H + h) * z.T + n % z.T] = sum;
}

/* A warp owns a query: dq = sum over its keys of ds k. */
template <typename T>
__global__ void attention_dq_kernel(T *dqkv, const float *mean, const T *dout, const float *lse, const T *qkv,
                                    const int32_t *first, Shape z)
{
    SHARED_DYNAMIC(float, rooms);
    const int t = (int)(blockIdx.y * ROWS + threadIdx.y), h = (int)blockIdx.x % z.H, lane = (int)threadIdx.x;
    const int64_t b = blockIdx.x / (unsigned)z.H, n = b * z.T + t, P = packed_width(z), at = (n * z.H + h) * z.D;
    if (t >= z.T) return;
    float *query = rooms + threadIdx.y * (unsigned)(3 * z.D + WARP), *slope = query + z.D, *dq = slope + z.D;
    float *ds = dq + z.D;
    const T *row = qkv + b * z.T * P, *k = row + (z.H + h / (z.H / z.G)) * z.D, *v = k + z.G * z.D;
    for (int i = lane; i < z.D; i += WARP) dq[i] = 0;
    copy_row(query, row + t * P + h * z.D, z.D);
    copy_row(slope, dout + at, z.D);
    const float log_sum = lse[(int64_t)blockIdx.x * z.T + t], own = mean[(int64_t)blockIdx.x * z.T + t];
    for (int begin = first[n]; begin <= t; begin += WARP) {
        const int s = begin + lane, count = at_most(WARP, t + 1 - begin);
        ds[lane] = 0;
        if (s <= t) ds[lane] = z.scale * expf(z.scale * dot(query, k + s * P, z.D) - log_sum) *
                               (dot(slope, v + s * P, z.D) - own);
        __syncwarp();
        for (int i = lane; i < z.D; i += WARP) {
            float sum = dq[i];
            for (int j = 0; j < count; j++) sum += ds[j] * float(k[(begin + j) * P + i]);
            dq[i] = sum;
        }
        __syncwarp();
    }
    for (int i = lane; i < z.D; i += WARP) dqkv[n * P + h * z.D + i] = T(dq[i]);
}

/* A warp owns a key: dk = sum of ds q over the queries that see it and the group's heads;  dv = the same of p dout. */
template <typename T>
__global__ void attention_dkv_kernel(T *dqkv, const float *mean, const T *dout, const float *lse, const T *qkv,
                                     const int32_t *first, Shape z)
{
    SHARED_DYNAMIC(float, rooms);
    const int s = (int)(blockIdx.y * ROWS + threadIdx.y), g = (int)blockIdx.x % z.G, lane = (int)threadIdx.x;
    const int64_t b = blockIdx.x / (unsigned)z.G, P = packed_width(z), C = (int64_t)z.H * z.D;
    if (s >= z.T) return;
    float *key = rooms + threadIdx.y * (unsigned)(4 * z.D + 2 * WARP), *value = key + z.D, *dk = value + z.D;
    float *dv = dk + z.D, *p = dv + z.D, *ds = p + WARP;
    const T *row = qkv + b * z.T * P, *k = row + s * P + (z.H + g) * z.D;
    for (int i = lane; i < z.D; i += WARP) dk[i] = dv[i] = 0;
    copy_row(key, k, z.D);
    copy_row(value, k + z.G * z.D, z.D);
    for (int h = g * (z.H / z.G); h < (g + 1) * (z.H / z.G); h++) {
        const float *lse_of = lse + (b * z.H + h) * z.T, *mean_of = mean + (b * z.H + h) * z.T;
        for (int begin = s; begin < z.T; begin += WARP) {
            const int t = begin + lane, count = at_most(WARP, z.T - begin);
            const bool sees = t < z.T && first[b * z.T + at_most(t, z.T - 1)] <= s;
            if (!__any_sync(ALL_LANES, sees)) break;            /* nor does any query after them */
            p[lane] = ds[lane] = 0;
            if (sees) {
                p[lane] = expf(z.scale * dot(key, row + t * P + h * z.D, z.D) - lse_of[t]);
                ds[lane] = z.scale * p[lane] * (dot(value, dout + (b * z.T + t) * C + h * z.D, z.D) - mean_of[t]);
            }
            __syncwarp();
            for (int i = lane; i < z.D; i += WARP) {
                float of_k = dk[i], of_v = dv[i];
                for (int j = 0; j < count; j++) {
                    of_k += ds[j] * float(row[(begin + j) * P + h * z.D + i]);
                    of_v += p[j] * float(dout[(b * z.T + begin + j) * C + h * z.D + i]);
                }
                dk[i] = of_k, dv[i] = of_v;
            }
            __syncwarp();
        }
    }
    T *to = dqkv + (b * z.T + s) * P + (z.H + g) * z.D;
    for (int i = lane; i < z.D; i += WARP) to[i] = T(dk[i]), to[z.G * z.D + i] = T(dv[i]);
}

void cuda_attention_backward(Device *d, Tensor dqkv, Tensor dout, Tensor out, Tensor lse, Tensor qkv, Tensor first,
                             int H, int G)
{
    const int64_t B = qkv.dim[0];
    const Shape z = shape_of(qkv, qkv.dim[1], H, G);
    const dim3 block(WARP, ROWS);
    float *mean = (float *)d->workspace;
    FLOAT_SWITCH(qkv.dtype, T, {
        launch(d, attention_mean_kernel<T>, blocks_for(numel(lse), ROWS), block, 0, mean, data_of<T>(dout),
               data_of<T>(out), numel(lse), z);
        if (is_flash(z, { dqkv, dout, qkv })) {
            flash_backward(d, dqkv, mean, dout, lse, qkv, first, z);
            return;
        }
        launch(d, attention_dq_kernel<T>, dim3((unsigned)(B * H), blocks_for(z.T, ROWS)), block,
               (size_t)ROWS * (size_t)(3 * z.D + WARP) * sizeof(float), data_of<T>(dqkv), mean, data_of<T>(dout),
               data_of<float>(lse), data_of<T>(qkv), data_of<int32_t>(first), z);
        launch(d, attention_dkv_kernel<T>, dim3((unsigned)(B * G), blocks_for(z.T, ROWS)), block,
               (size_t)ROWS * (size_t)(4 * z.D + 2 * WARP) * sizeof(float), data_of<T>(dqkv), mean, data_of<T>(dout),
               data_of<float>(lse), data_of<T>(qkv), data_of<int32_t>(first), z);
    });
}

size_t cuda_attention_backward_scratch(Device *d, Tensor dqkv, Tensor dout, Tensor out, Tensor lse, Tensor qkv,
                                       Tensor first, int H, int G)
{
    return (size_t)numel(lse) * sizeof(float);
}
