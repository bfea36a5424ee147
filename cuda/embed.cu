/* embed.cu -- rows of tables out, and gradients back to them. */
#include "common.cuh"

#include "quantize.h"

constexpr int THREADS = 256;

/* A thread owns V neighbours of a row of out. */
template <typename T, int V>
__global__ void embed_forward_kernel(T *out, const int32_t *tokens, const int32_t *pos, const T *wte, const T *wpe,
                                     int64_t N, int C)
{
    const int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V, n = i / C;
    if (n >= N) return;
    Vec<T, V> v = load<V>(wte + (int64_t)tokens[n] * C + i % C);
    if (wpe) {
        const Vec<T, V> more = load<V>(wpe + (int64_t)pos[n] * C + i % C);
        for (int k = 0; k < V; k++) v.at[k] = T(float(v.at[k]) + float(more.at[k]));
    }
    store<V>(out + i, v);
}

void cuda_embed_forward(Device *d, Tensor out, Tensor tokens, Tensor pos, Tensor wte, Tensor wpe)
{
    const int64_t N = numel(tokens), C = last(wte);
    FLOAT_SWITCH(wte.dtype, T, WIDE_SWITCH(rows_are_wide(C, { out, wte, wpe }), T, V,
        launch(d, embed_forward_kernel<T, V>, blocks_for(N * C, THREADS * V), THREADS, 0, data_of<T>(out),
               data_of<int32_t>(tokens), data_of<int32_t>(pos), data_of<T>(wte), data_of<T>(wpe), N, (int)C)));
}

template <typename T>
__global__ void embed_int8_kernel(T *out, const int32_t *tokens, const int32_t *pos, const int8_t *wte,
                                  const float *scale, const T *wpe, int64_t N, int C)
{
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, n = i / C, c = i % C;
    if (n >= N) return;
    const int64_t groups = (C + QUANT_GROUP - 1) / QUANT_GROUP, v = tokens[n];
    float sum = float(wte[v * C + c]) * scale[v * groups + c / QUANT_GROUP];
    if (wpe) sum += float(wpe[(int64_t)pos[n] * C + c]);
    out[i] = T(sum);
}

void cuda_embed_int8_forward(Device *d, Tensor out, Tensor tokens, Tensor pos, Tensor wte, Tensor scale, Tensor wpe)
{
    const int64_t N = numel(tokens), C = last(wte);
    FLOAT_SWITCH(out.dtype, T, launch(d, embed_int8_kernel<T>, blocks_for(N * C, THREADS), THREADS, 0, data_of<T>(out),
                                      data_of<int32_t>(tokens), data_of<int32_t>(pos), data_of<int8_t>(wte),
                                      data_of<float>(scale), data_of<T>(wpe), N, (int)C));
}

/* ---- backward: the n of each row, brought together by a sort ----------------------------------------------------- */

/* What is sorted: index[n], then n. No two are equal, so there is one order. */
using Key = uint64_t;

__device__ __forceinline__ int32_t row_of(Key key) { return (int32_t)(key >> 32); }
__device__ __forceinline__ int64_t n_of(Key key) { return (int64_t)(key & 0xffffffffu); }

/* One comparison of a bitonic sort whose runs all go up (K. Batcher, "Sorting networks and their applications", 1968):
 * keys `width` apart, or to merge two runs of that width, each with its mirror image in the other. Beyond the last key
 * are larger ones, which stay there. */
__device__ __forceinline__ void sort_pair(Key *keys, int64_t count, int64_t pair, int64_t width, bool merge)
{
    const int64_t i = pair / width * 2 * width + pair % width, j = i ^ (merge ? 2 * width - 1 : width);
    if (j >= count || keys[i] < keys[j]) return;
    const Key larger = keys[i];
    keys[i] = keys[j], keys[j] = larger;
}

constexpr int SORTED = 1024;            /* keys that a block sorts in shared memory */

/* A block owns SORTED keys: makes them, and sorts them; or without an index goes on with a merge, once it compares
 * keys so near. */
__global__ void sort_near_kernel(Key *keys, const int32_t *index, int64_t N)
{
    SHARED(Key, near, [SORTED]);
    const int64_t begin = (int64_t)blockIdx.x * SORTED;
    const int count = (int)at_most<int64_t>(SORTED, N - begin);
    for (int i = (int)threadIdx.x; i < count; i += THREADS)
        near[i] = index ? (Key)index[begin + i] << 32 | (Key)(begin + i) : keys[begin + i];
    for (int run = index ? 1 : SORTED / 2; run < SORTED; run *= 2)
        for (int width = run; width; width /= 2) {
            __syncthreads();
            for (int pair = (int)threadIdx.x; pair < SORTED / 2; pair += THREADS)
                sort_pair(near, count, pair, width, index && width == run);
        }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < count; i += THREADS) keys[begin + i] = near[i];
}

/* A thread owns a pair. */
__global__ void sort_far_kernel(Key *keys, int64_t N, int64_t width, bool merge)
{
    sort_pair(keys, N, (int64_t)blockIdx.x * THREADS + threadIdx.x, width, merge);
}

static void sort_rows(Device *d, Key *keys, const int32_t *index, int64_t N)
{
    const unsigned blocks = blocks_for(N, SORTED);
    launch(d, sort_near_kernel, blocks, THREADS, 0, keys, index, N);
    for (int64_t run = SORTED; run < N; run *= 2) {
        for (int64_t width = run; width >= SORTED; width /= 2)
            launch(d, sort_far_kernel, blocks_for(ceil_div(N, 2 * width) * width, THREADS), THREADS, 0, keys, N, width,
                   width == run);
        launch(d, sort_near_kernel, blocks, THREADS, 0, keys, (const int32_t *)nullptr, N);
    }
}

/* The first key after those of `from`'s row */
__device__ int64_t end_of_row(const Key *keys, int64_t from, int64_t N)
{
    int64_t low = from + 1, high = N;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (row_of(keys[middle]) > row_of(keys[from])) high = middle;
        else                                           low = middle + 1;
    }
    return low;
}

/* A block whose key is the first of a row owns that row's columns from blockIdx.y on, a thread V neighbours: it adds
 * to them in the order of n, without atomics. */
template <typename T, int V>
__global__ void embed_backward_kernel(float *dw, const T *dout, const Key *keys, int64_t N, int C)
{
    const int64_t first = blockIdx.x;
    const int c = (int)(blockIdx.y * blockDim.x + threadIdx.x) * V;
    if (c >= C || (first && row_of(keys[first - 1]) == row_of(keys[first]))) return;
    const int64_t end = end_of_row(keys, first, N);
    float *to = dw + (int64_t)row_of(keys[first]) * C + c, sum[V];
    for (int i = 0; i < V; i++) sum[i] = to[i];
    UNROLL_SOME for (int64_t at = first; at < end; at++) {
        const Vec<T, V> v = load<V>(dout + n_of(keys[at]) * C + c);
        for (int i = 0; i < V; i++) sum[i] += float(v.at[i]);
    }
    for (int i = 0; i < V; i++) to[i] = sum[i];
}

void cuda_embed_backward(Device *d, Tensor dw, Tensor dout, Tensor index, bool accumulate)
{
    const int64_t N = numel(index), C = last(dw);
    Key *keys = (Key *)d->workspace;
    if (!accumulate) d->backend->zero(d, dw.data, tensor_bytes(dw));
    sort_rows(d, keys, data_of<int32_t>(index), N);
    FLOAT_SWITCH(dout.dtype, T, WIDE_SWITCH(rows_are_wide(C, { dout }), T, V,
        launch(d, embed_backward_kernel<T, V>, dim3((unsigned)N, blocks_for(C, 4 * WARP * V)), 4 * WARP, 0,
               data_of<float>(dw), data_of<T>(dout), keys, N, (int)C)));
}

size_t cuda_embed_backward_scratch(Device *d, Tensor dw, Tensor dout, Tensor index, bool accumulate)
{
    return (size_t)numel(index) * sizeof(Key);
}
