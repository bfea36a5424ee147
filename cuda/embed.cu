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

/* Is there an n before this one with the same index? A warp looks at 32 at a time, the nearest first. */
__device__ bool seen_before(const int32_t *index, int64_t n)
{
    const int lane = (int)threadIdx.x;
    for (int64_t end = n; end > 0; end -= WARP) {
        const int64_t at = end - 1 - lane;
        if (__any_sync(ALL_LANES, at >= 0 && index[at >= 0 ? at : 0] == index[n])) return true;
    }
    return false;
}

/* A block owns the row that index[n] points to, if n is the first that does, and adds to it in the order of n: no
 * atomics. A warp owns 32 V columns, and finds the other n by looking at 32 of them at a time. */
template <typename T, int V>
__global__ void embed_backward_kernel(float *dw, const T *dout, const int32_t *index, int64_t N, int C)
{
    const int64_t first = blockIdx.x, row = index[first];
    if (seen_before(index, first)) return;
    const int lane = (int)threadIdx.x;
    for (int base = (int)threadIdx.y * WARP * V; base < C; base += (int)blockDim.y * WARP * V) {
        const int c = base + lane * V;
        float sum[V];
        for (int i = 0; i < V; i++) sum[i] = c < C ? dw[row * C + c + i] : 0;
        for (int64_t from = first; from < N; from += WARP) {
            const int64_t mine = from + lane;
            unsigned found = __ballot_sync(ALL_LANES, mine < N && index[mine < N ? mine : first] == row);
            for (int64_t n = from; found; n++, found >>= 1) {
                if (!(found & 1) || c >= C) continue;
                const Vec<T, V> v = load<V>(dout + n * C + c);
                for (int i = 0; i < V; i++) sum[i] += float(v.at[i]);
            }
        }
        for (int i = 0; i < V && c < C; i++) dw[row * C + c + i] = sum[i];
    }
}

void cuda_embed_backward(Device *d, Tensor dw, Tensor dout, Tensor index, bool accumulate)
{
    const int64_t N = numel(index), C = last(dw);
    if (!accumulate) d->backend->zero(d, dw.data, tensor_bytes(dw));
    FLOAT_SWITCH(dout.dtype, T, WIDE_SWITCH(rows_are_wide(C, { dout }), T, V,
        launch(d, embed_backward_kernel<T, V>, (unsigned)N, dim3(WARP, 4), 0, data_of<float>(dw), data_of<T>(dout),
               data_of<int32_t>(index), N, (int)C)));
}
