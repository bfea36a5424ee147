/* optim.cu -- the norm of a gradient, AdamW, and what Muon does beside its iteration. A thread owns V neighbours, and
 * reads and writes each tensor once. */
#include "common.cuh"

#define RNG_FUNCTION static inline __host__ __device__
#include "rng.h"

constexpr int THREADS = 256;
constexpr int64_t BLOCK = 32768;        /* elements whose squares one block adds up, whatever the GPU */

__global__ void squares_kernel(double *parts, const float *x, int64_t n)
{
    const int64_t begin = (int64_t)blockIdx.x * BLOCK, end = at_most(n, begin + BLOCK);
    double sum = 0;
    for (int64_t i = begin + threadIdx.x; i < end; i += THREADS) sum += (double)x[i] * (double)x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

__global__ void sum_kernel(float *out, const double *parts, int64_t count)
{
    double sum = 0;
    for (int64_t i = threadIdx.x; i < count; i += THREADS) sum += parts[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *out = (float)sum;
}

void cuda_sum_squares(Device *d, Tensor out, Tensor x)
{
    const int64_t n = numel(x), blocks = ceil_div(n, BLOCK);
    double *parts = (double *)d->workspace;
    launch(d, squares_kernel, (unsigned)blocks, THREADS, 0, parts, data_of<float>(x), n);
    launch(d, sum_kernel, 1, THREADS, 0, data_of<float>(out), parts, blocks);
}

size_t cuda_sum_squares_scratch(Device *d, Tensor out, Tensor x)
{
    return (size_t)ceil_div(numel(x), BLOCK) * sizeof(double);
}

/* The elements of a tensor are whole vectors of 4, and begin at one, in all that are there. */
static bool in_fours(int64_t n, std::initializer_list<Tensor> tensors)
{
    for (const Tensor &t : tensors)
        if (!is_none(t) && ((uintptr_t)t.data % (4 * dtype_size(t.dtype)) || n % 4)) return false;
    return true;
}

/* x, elements at .. at + V - 1 of a weight, in its type. V divides r.first + at. */
template <typename T, int V> __device__ __forceinline__ Vec<T, V> rounded(Vec<float, V> x, int64_t at, Rounding r)
{
    Vec<T, V> y;
    if (!r.stochastic) {
        for (int i = 0; i < V; i++) y.at[i] = T(x.at[i]);
        return y;
    }
    const uint64_t number = (uint64_t)(r.first + at);
    const Philox draw = philox(r.seed, r.stream, number / 8);
    for (int i = 0; i < V; i++) {
        const unsigned larger = __float_as_uint(x.at[i]) + rng_half(draw, (int)(number % 8) + i);
        y.at[i] = T(x.at[i] == x.at[i] ? __uint_as_float(larger & 0xffff0000u) : x.at[i]);
    }
    return y;
}

/* fade: 1 - beta^step */
template <typename T, int V>
__global__ void adamw_kernel(T *w, float *master, float *m, float *v, const float *grad, const uint8_t *decay,
                             int64_t n, AdamW a, Rounding r, float fade1, float fade2)
{
    const int64_t at = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (at >= n) return;
    const float weight_decay = decay && !decay[at / DECAY_BLOCK] ? 0 : a.weight_decay;
    Vec<float, V> first = load<V>(m + at), second = load<V>(v + at), truth;
    const Vec<float, V> slope = load<V>(grad + at);
    if (master) truth = load<V>(master + at);
    else {
        const Vec<T, V> weight = load<V>(w + at);
        for (int i = 0; i < V; i++) truth.at[i] = float(weight.at[i]);
    }
    for (int i = 0; i < V; i++) {
        const float g = slope.at[i] * a.grad_scale, old = truth.at[i];
        first.at[i] = a.beta1 * first.at[i] + (1 - a.beta1) * g;
        second.at[i] = a.beta2 * second.at[i] + (1 - a.beta2) * g * g;
        const float step = first.at[i] / fade1 / (sqrtf(second.at[i] / fade2) + a.eps) + weight_decay * old;
        truth.at[i] = old - a.lr * step;
    }
    store<V>(m + at, first);
    store<V>(v + at, second);
    if (master) store<V>(master + at, truth);
    store<V>(w + at, rounded<T, V>(truth, at, r));
}

void cuda_adamw(Device *d, Tensor w, Tensor master, Tensor m, Tensor v, Tensor grad, Tensor decay, AdamW a,
                Rounding r)
{
    const int64_t n = numel(w);
    const float fade1 = (float)(1 - pow(a.beta1, (double)a.step)), fade2 = (float)(1 - pow(a.beta2, (double)a.step));
    const bool wide = in_fours(n, { w, master, m, v, grad }) && r.first % 4 == 0;
    FLOAT_SWITCH(w.dtype, T, WIDE_SWITCH(wide, float, V,
        launch(d, adamw_kernel<T, V>, blocks_for(n, THREADS * V), THREADS, 0, data_of<T>(w), data_of<float>(master),
               data_of<float>(m), data_of<float>(v), data_of<float>(grad), data_of<uint8_t>(decay), n, a, r,
               fade1, fade2)));
}

template <int V> __global__ void nesterov_kernel(float *grad, float *m, int64_t n, float momentum, float grad_scale)
{
    const int64_t at = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (at >= n) return;
    Vec<float, V> g = load<V>(grad + at), mean = load<V>(m + at);
    for (int i = 0; i < V; i++) {
        const float slope = g.at[i] * grad_scale;
        mean.at[i] = momentum * mean.at[i] + slope;
        g.at[i] = slope + momentum * mean.at[i];
    }
    store<V>(m + at, mean);
    store<V>(grad + at, g);
}

void cuda_nesterov(Device *d, Tensor grad, Tensor m, float momentum, float grad_scale)
{
    const int64_t n = numel(m);
    WIDE_SWITCH(in_fours(n, { grad, m }), float, V,
        launch(d, nesterov_kernel<V>, blocks_for(n, THREADS * V), THREADS, 0, data_of<float>(grad), data_of<float>(m),
               n, momentum, grad_scale));
}

template <typename T>
__global__ void descend_kernel(T *w, float *master, const float *direction, int64_t n, float lr, float scale,
                               float weight_decay, Rounding r)
{
    const int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= n) return;
    const float old = master ? master[at] : float(w[at]);
    const float truth = old - lr * (scale * direction[at] + weight_decay * old);
    if (master) master[at] = truth;
    store<1>(w + at, rounded<T, 1>({ { truth } }, at, r));
}

void cuda_descend(Device *d, Tensor w, Tensor master, Tensor direction, float lr, float scale, float weight_decay,
                  Rounding r)
{
    const int64_t n = numel(w);
    FLOAT_SWITCH(w.dtype, T, launch(d, descend_kernel<T>, blocks_for(n, THREADS), THREADS, 0, data_of<T>(w),
                                    data_of<float>(master), data_of<float>(direction), n, lr, scale, weight_decay,
                                    r));
}
