/* loss.cu -- log-probability, log-sum-exp and entropy of rows of logits, and the slopes back to them.
 *
 * A block owns a row. Each thread keeps the largest of its logits and the sum of exponentials beside it, so one reading
 * is enough; the entropy takes a second one. Probabilities are never stored. */
#include "common.cuh"

constexpr int THREADS = 256;

/* Largest z, and the sum of exp(z - largest) */
struct Online { float top, sum; };

__device__ __forceinline__ Online joined(Online a, float z)
{
    if (z <= a.top) return { a.top, a.sum + (z == a.top ? 1 : expf(z - a.top)) };
    return { z, a.sum * expf(a.top - z) + 1 };
}

template <int V>
__global__ void logprob_forward_kernel(float *logp, float *lse, float *entropy, const float *logits,
                                       const int32_t *targets, int vocab, int64_t width, float temperature)
{
    const int64_t n = blockIdx.x;
    const float *row = logits + n * width;
    const int begin = (int)threadIdx.x * V, step = THREADS * V;
    Online mine = { -INFINITY, 0 };
    for (int c = begin; c < vocab; c += step) {
        const Vec<float, V> v = load<V>(row + c);
        for (int i = 0; i < V && c + i < vocab; i++) {
            const float z = v.at[i] / temperature;
            if (z > -INFINITY || z != z) mine = joined(mine, z);        /* a forbidden token adds nothing */
        }
    }
    const float top = block_max(mine.top);
    const float sum = block_sum(mine.top > -INFINITY || mine.sum != mine.sum ? mine.sum * expf(mine.top - top) : 0);
    const float log_sum = sum > 0 ? top + logf(sum) : NAN;
    float mean = 0;
    for (int c = begin; entropy && c < vocab; c += step) {
        const Vec<float, V> v = load<V>(row + c);
        for (int i = 0; i < V && c + i < vocab; i++) {
            const float z = v.at[i] / temperature, p = expf(z - log_sum);
            if (p != 0) mean += p * (z - top);
        }
    }
    if (entropy) mean = block_sum(mean);
    if (threadIdx.x) return;
    const int target = targets[n];
    lse[n] = log_sum;
    logp[n] = target < 0 ? 0 : row[target] / temperature - log_sum;
    if (entropy) entropy[n] = logf(sum) - mean;
}

void cuda_logprob_forward(Device *d, Tensor logp, Tensor lse, Tensor entropy, Tensor logits, Tensor targets, int vocab,
                          float temperature)
{
    const int64_t N = rows(logits), width = last(logits);
    WIDE_SWITCH(rows_are_wide(width, { logits }), float, V,
        launch(d, logprob_forward_kernel<V>, (unsigned)N, THREADS, 0, data_of<float>(logp), data_of<float>(lse),
               data_of<float>(entropy), data_of<float>(logits), data_of<int32_t>(targets), vocab, width, temperature));
}

/* A thread owns V neighbours of a row; dlogits may lie where logits do. */
template <typename T, int V>
__global__ void logprob_backward_kernel(T *dlogits, const float *logits, const float *dlogp, const float *dlse,
                                        const float *dentropy, const float *lse, const float *entropy,
                                        const int32_t *targets, int64_t N, int vocab, int64_t width, float temperature)
{
    const int64_t at = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V, n = at / width;
    if (n >= N) return;
    const int column = (int)(at % width), target = targets[n];
    const float a = target < 0 ? 0 : dlogp[n], s = dlse ? dlse[n] : 0, e = dentropy ? dentropy[n] : 0;
    const Vec<float, V> v = load<V>(logits + at);
    Vec<T, V> result;
    for (int i = 0; i < V; i++) {
        const float log_p = v.at[i] / temperature - lse[n], p = expf(log_p);
        float slope = s * p;
        if (a != 0) slope += a * (float(column + i == target) - p);
        if (e != 0 && p != 0) slope -= e * p * (log_p + entropy[n]);
        result.at[i] = T(column + i < vocab ? slope / temperature : 0);
    }
    store<V>(dlogits + at, result);
}

void cuda_logprob_backward(Device *d, Tensor dlogits, Tensor logits, Tensor dlogp, Tensor dlse, Tensor dentropy,
                           Tensor lse, Tensor entropy, Tensor targets, int vocab, float temperature)
{
    const int64_t N = rows(logits), width = last(logits);
    const bool wide = rows_are_wide(width, { logits, dlogits });
    FLOAT_SWITCH(dlogits.dtype, T, WIDE_SWITCH(wide, float, V,
        launch(d, logprob_backward_kernel<T, V>, blocks_for(N * width, THREADS * V), THREADS, 0, data_of<T>(dlogits),
               data_of<float>(logits), data_of<float>(dlogp), data_of<float>(dlse), data_of<float>(dentropy),
               data_of<float>(lse), data_of<float>(entropy), data_of<int32_t>(targets), N, vocab, width,
               temperature)));
}
