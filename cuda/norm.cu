/* norm.cu -- LayerNorm and RMSNorm, with the sum of the residual in front.
 *
 * A warp owns a row. Forward it reads the row up to three times, of which all but the first find it in the caches.
 * Backward the row's slope needs two sums over it; the slopes of the weights are sums over rows: see sums.cuh. */
#include "sums.cuh"

constexpr int ROWS = 4;                 /* warps, and so rows, of a block */

/* The mean is often small beside what it is the mean of: its sum keeps what each addition loses (W. Kahan, "Further
 * remarks on reducing truncation errors", 1965). */
__device__ __forceinline__ void add_exactly(float &sum, float &lost, float x)
{
    const float more = x - lost, next = sum + more;
    lost = (next - sum) - more;
    sum = next;
}

template <typename T, int V>
__global__ void norm_forward_kernel(T *sum, T *out, float *mean, float *rstd, const T *x, const T *branch, const T *w,
                                    const T *b, int64_t N, int C, float eps)
{
    const int64_t n = (int64_t)blockIdx.x * ROWS + threadIdx.y;
    if (n >= N) return;                 /* whole warps leave, so warp_sum below is safe */
    const int begin = (int)threadIdx.x * V, step = WARP * V;
    const T *in = x + n * C;
    float total = 0, lost = 0, squares = 0;
    for (int c = begin; c < C; c += step) {
        Vec<T, V> v = load<V>(in + c);
        if (branch) {
            const Vec<T, V> more = load<V>(branch + n * C + c);
            for (int i = 0; i < V; i++) v.at[i] = T(float(v.at[i]) + float(more.at[i]));
            store<V>(sum + n * C + c, v);
        }
        for (int i = 0; i < V; i++) add_exactly(total, lost, float(v.at[i]));
    }
    if (branch) in = sum + n * C;       /* each lane reads again what it wrote itself */
    const float mu = mean ? warp_sum(total) / float(C) : 0;
    for (int c = begin; c < C; c += step) {
        const Vec<T, V> v = load<V>(in + c);
        for (int i = 0; i < V; i++) squares += (float(v.at[i]) - mu) * (float(v.at[i]) - mu);
    }
    const float r = 1 / sqrtf(warp_sum(squares) / float(C) + eps);
    for (int c = begin; c < C; c += step) {
        const Vec<T, V> v = load<V>(in + c), weight = load<V>(w + c);
        Vec<T, V> shift = {}, result;
        if (b) shift = load<V>(b + c);
        for (int i = 0; i < V; i++)
            result.at[i] = T((float(v.at[i]) - mu) * r * float(weight.at[i]) + (b ? float(shift.at[i]) : 0));
        store<V>(out + n * C + c, result);
    }
    if (threadIdx.x) return;
    if (mean) mean[n] = mu;
    rstd[n] = r;
}

void cuda_norm_forward(Device *d, Tensor sum, Tensor out, Tensor mean, Tensor rstd, Tensor x, Tensor branch, Tensor w,
                       Tensor b, float eps)
{
    const int64_t N = rows(x), C = last(x);
    FLOAT_SWITCH(x.dtype, T, WIDE_SWITCH(rows_are_wide(C, { sum, out, x, branch, w, b }), T, V,
        launch(d, norm_forward_kernel<T, V>, blocks_for(N, ROWS), dim3(WARP, ROWS), 0, data_of<T>(sum), data_of<T>(out),
               data_of<float>(mean), data_of<float>(rstd), data_of<T>(x), data_of<T>(branch), data_of<T>(w),
               data_of<T>(b), N, (int)C, eps)));
}

/* unit = (x - mean) rstd;  g = dout w;  dx = dres + rstd (g - mean_c g - unit mean_c(g unit)). RMSNorm: no mean_c g. */
template <typename T, int V>
__global__ void norm_dx_kernel(T *dx, const T *dout, const T *dres, const T *x, const T *w, const float *mean,
                               const float *rstd, int64_t N, int C)
{
    const int64_t n = (int64_t)blockIdx.x * ROWS + threadIdx.y;
    if (n >= N) return;
    const int begin = (int)threadIdx.x * V, step = WARP * V;
    const float mu = mean ? mean[n] : 0, r = rstd[n];
    float sum = 0, dot = 0;
    for (int c = begin; c < C; c += step) {
        const Vec<T, V> slope = load<V>(dout + n * C + c), v = load<V>(x + n * C + c), weight = load<V>(w + c);
        for (int i = 0; i < V; i++) {
            const float g = float(slope.at[i]) * float(weight.at[i]);
            sum += g;
            dot += g * (float(v.at[i]) - mu) * r;
        }
    }
    sum = mean ? warp_sum(sum) / float(C) : 0;
    dot = warp_sum(dot) / float(C);
    for (int c = begin; c < C; c += step) {
        const Vec<T, V> slope = load<V>(dout + n * C + c), v = load<V>(x + n * C + c), weight = load<V>(w + c);
        Vec<T, V> more = {}, result;
        if (dres) more = load<V>(dres + n * C + c);
        for (int i = 0; i < V; i++) {
            const float g = float(slope.at[i]) * float(weight.at[i]), unit = (float(v.at[i]) - mu) * r;
            result.at[i] = T(r * (g - sum - unit * dot) + (dres ? float(more.at[i]) : 0));
        }
        store<V>(dx + n * C + c, result);
    }
}

/* parts[chunk][c] and parts[chunks + chunk][c]: a chunk's dw[c] and db[c]. A thread owns a column of a chunk; a warp
 * reads 32 neighbours of each row. */
template <typename T>
__global__ void norm_parts_kernel(float *parts, const T *dout, const T *x, const float *mean, const float *rstd,
                                  int64_t N, int C, int64_t chunk_rows)
{
    const int c = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    const int64_t chunk = blockIdx.y, chunks = gridDim.y, end = at_most(N, (chunk + 1) * chunk_rows);
    if (c >= C) return;
    float slope = 0, shift = 0;
    for (int64_t n = chunk * chunk_rows; n < end; n++) {
        const float g = float(dout[n * C + c]);
        slope += g * (float(x[n * C + c]) - (mean ? mean[n] : 0)) * rstd[n];
        shift += g;
    }
    parts[chunk * C + c] = slope;
    parts[(chunks + chunk) * C + c] = shift;
}

void cuda_norm_backward(Device *d, Tensor dx, Tensor dw, Tensor db, Tensor dout, Tensor dres, Tensor x, Tensor w,
                        Tensor mean, Tensor rstd, bool accumulate)
{
    const int64_t N = rows(x), C = last(x), chunks = row_chunks(N);
    float *parts = (float *)d->workspace;
    FLOAT_SWITCH(x.dtype, T, {
        if (!is_none(dw) || !is_none(db))
            launch(d, norm_parts_kernel<T>, dim3(blocks_for(C, WARP), (unsigned)chunks), WARP, 0, parts,
                   data_of<T>(dout), data_of<T>(x), data_of<float>(mean), data_of<float>(rstd), N, (int)C,
                   rows_of_chunk(N));
        WIDE_SWITCH(rows_are_wide(C, { dx, dout, dres, x, w }), T, V,
            launch(d, norm_dx_kernel<T, V>, blocks_for(N, ROWS), dim3(WARP, ROWS), 0, data_of<T>(dx), data_of<T>(dout),
                   data_of<T>(dres), data_of<T>(x), data_of<T>(w), data_of<float>(mean), data_of<float>(rstd), N,
                   (int)C));
    });
    add_parts(d, dw, parts, chunks, accumulate);
    add_parts(d, db, parts + chunks * C, chunks, accumulate);
}

size_t cuda_norm_backward_scratch(Device *d, Tensor dx, Tensor dw, Tensor db, Tensor dout, Tensor dres, Tensor x,
                                  Tensor w, Tensor mean, Tensor rstd, bool accumulate)
{
    return is_none(dw) && is_none(db) ? 0 : 2 * (size_t)(row_chunks(rows(x)) * last(x)) * sizeof(float);
}
