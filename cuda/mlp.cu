/* mlp.cu -- SwiGLU, and GELU where it is by itself. A thread owns V neighbours; each tensor is read or written once. */
#include "common.cuh"

constexpr int THREADS = 256;

/* Of e^-|x| alone, so that what is near 0 keeps its digits. */
__device__ __forceinline__ float sigmoid(float x)
{
    const float e = expf(-fabsf(x));
    return (x < 0 ? e : 1) / (1 + e);
}

template <typename T, int V> __global__ void swiglu_forward_kernel(T *out, const T *x, int64_t N, int F)
{
    const int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V, n = i / F;
    if (n >= N) return;
    const T *in = x + n * 2 * F + i % F;
    const Vec<T, V> gate = load<V>(in), up = load<V>(in + F);
    Vec<T, V> v;
    for (int k = 0; k < V; k++) v.at[k] = T(float(gate.at[k]) * sigmoid(float(gate.at[k])) * float(up.at[k]));
    store<V>(out + i, v);
}

void cuda_swiglu_forward(Device *d, Tensor out, Tensor x)
{
    const int64_t N = rows(out), F = last(out);
    FLOAT_SWITCH(x.dtype, T, WIDE_SWITCH(rows_are_wide(F, { out, x }), T, V,
        launch(d, swiglu_forward_kernel<T, V>, blocks_for(N * F, THREADS * V), THREADS, 0, data_of<T>(out),
               data_of<T>(x), N, (int)F)));
}

template <typename T, int V> __global__ void swiglu_backward_kernel(T *dx, const T *dout, const T *x, int64_t N, int F)
{
    const int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V, n = i / F, at = n * 2 * F + i % F;
    if (n >= N) return;
    const Vec<T, V> gate = load<V>(x + at), up = load<V>(x + at + F), slope = load<V>(dout + i);
    Vec<T, V> dgate, dup;
    for (int k = 0; k < V; k++) {
        const float a = float(gate.at[k]), g = float(slope.at[k]), s = sigmoid(a);
        dgate.at[k] = T(g * float(up.at[k]) * s * (1 + a * sigmoid(-a)));
        dup.at[k] = T(g * a * s);
    }
    store<V>(dx + at, dgate);
    store<V>(dx + at + F, dup);
}

void cuda_swiglu_backward(Device *d, Tensor dx, Tensor dout, Tensor x)
{
    const int64_t N = rows(dout), F = last(dout);
    FLOAT_SWITCH(x.dtype, T, WIDE_SWITCH(rows_are_wide(F, { dx, dout, x }), T, V,
        launch(d, swiglu_backward_kernel<T, V>, blocks_for(N * F, THREADS * V), THREADS, 0, data_of<T>(dx),
               data_of<T>(dout), data_of<T>(x), N, (int)F)));
}

template <typename T, int V> __global__ void gelu_forward_kernel(T *out, const T *pre, int64_t n)
{
    const int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= n) return;
    Vec<T, V> v = load<V>(pre + i);
    for (int k = 0; k < V; k++) v.at[k] = T(gelu(float(v.at[k])));
    store<V>(out + i, v);
}

void cuda_gelu_forward(Device *d, Tensor out, Tensor pre)
{
    const int64_t n = numel(pre);
    FLOAT_SWITCH(pre.dtype, T, WIDE_SWITCH(rows_are_wide(n, { out, pre }), T, V,
        launch(d, gelu_forward_kernel<T, V>, blocks_for(n, THREADS * V), THREADS, 0, data_of<T>(out),
               data_of<T>(pre), n)));
}

template <typename T, int V> __global__ void gelu_backward_kernel(T *dx, const T *dout, const T *pre, int64_t n)
{
    const int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= n) return;
    const Vec<T, V> at = load<V>(pre + i);
    Vec<T, V> v = load<V>(dout + i);
    for (int k = 0; k < V; k++) v.at[k] = T(float(v.at[k]) * gelu_slope(float(at.at[k])));
    store<V>(dx + i, v);
}

void cuda_gelu_backward(Device *d, Tensor dx, Tensor dout, Tensor pre)
{
    const int64_t n = numel(pre);
    FLOAT_SWITCH(pre.dtype, T, WIDE_SWITCH(rows_are_wide(n, { dx, dout, pre }), T, V,
        launch(d, gelu_backward_kernel<T, V>, blocks_for(n, THREADS * V), THREADS, 0, data_of<T>(dx),
               data_of<T>(dout), data_of<T>(pre), n)));
}
