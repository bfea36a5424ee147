/* No scores are kept: a thread owns a query and its mean so far, in registers. Where a key scores higher than all
 * before it, what was summed is brought down (M. Milakov, N. Gimelshein, "Online normalizer calculation for softmax",
 * 2018). */
#include "step.cuh"

constexpr int QUERIES = 64;

__global__ void __launch_bounds__(QUERIES) online_kernel(bf16 *out, const bf16 *qkv, int T, int H)
{
    const int t = (int)(blockIdx.y * QUERIES + threadIdx.x);
    const Rows rows = rows_of(out, qkv, T, H);
    if (t >= T) return;
    float q[HEAD], mean[HEAD] = {}, top = -INFINITY, sum = 0;
    UNROLL for (int i = 0; i < HEAD; i++) q[i] = SCALE * float(rows.q[t * rows.stride + i]);
    for (int s = 0; s <= t; s++) {
        float score = 0;
        UNROLL for (int i = 0; i < HEAD; i++) score += q[i] * float(rows.k[s * rows.stride + i]);
        const float higher = fmaxf(top, score), fade = expf(top - higher), weight = expf(score - higher);
        UNROLL for (int i = 0; i < HEAD; i++)
            mean[i] = mean[i] * fade + weight * float(rows.v[s * rows.stride + i]);
        sum = sum * fade + weight, top = higher;
    }
    UNROLL for (int i = 0; i < HEAD; i++) rows.out[t * rows.out_stride + i] = bf16(mean[i] / sum);
}

void step_2_online(Device *d, bf16 *out, const bf16 *qkv, Work w)
{
    launch(d, online_kernel, dim3((unsigned)(w.B * w.H), blocks_for(w.T, QUERIES)), QUERIES, 0, out, qkv, w.T, w.H);
}
