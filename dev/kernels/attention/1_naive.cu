/* All scores lie in memory, T x T of them a head: a thread owns a score, then a row of them, then a column of a mean */
#include "step.cuh"

__global__ void scores_kernel(float *scores, const bf16 *qkv, int T, int H)
{
    const int s = (int)(blockIdx.y * blockDim.x + threadIdx.x), t = (int)blockIdx.z;
    const Rows rows = rows_of(nullptr, qkv, T, H);
    if (s > t) return;
    float sum = 0;
    for (int i = 0; i < HEAD; i++) sum += float(rows.q[t * rows.stride + i]) * float(rows.k[s * rows.stride + i]);
    scores[((int64_t)blockIdx.x * T + t) * T + s] = SCALE * sum;
}

__global__ void softmax_kernel(float *scores, int T)
{
    const int t = (int)(blockIdx.y * blockDim.x + threadIdx.x);
    if (t >= T) return;
    float *row = scores + ((int64_t)blockIdx.x * T + t) * T, top = -INFINITY, sum = 0;
    for (int s = 0; s <= t; s++) top = fmaxf(top, row[s]);
    for (int s = 0; s <= t; s++) sum += row[s] = expf(row[s] - top);
    for (int s = 0; s <= t; s++) row[s] /= sum;
}

__global__ void mean_kernel(bf16 *out, const float *scores, const bf16 *qkv, int T, int H)
{
    const int i = (int)threadIdx.x, t = (int)(blockIdx.y * blockDim.y + threadIdx.y);
    const Rows rows = rows_of(out, qkv, T, H);
    if (t >= T) return;
    float sum = 0;
    for (int s = 0; s <= t; s++)
        sum += scores[((int64_t)blockIdx.x * T + t) * T + s] * float(rows.v[s * rows.stride + i]);
    rows.out[t * rows.out_stride + i] = bf16(sum);
}

void step_1_naive(Device *d, bf16 *out, const bf16 *qkv, Work w)
{
    const unsigned heads = (unsigned)(w.B * w.H), T = (unsigned)w.T;
    launch(d, scores_kernel, dim3(heads, blocks_for(w.T, 128), T), 128, 0, w.scores, qkv, w.T, w.H);
    launch(d, softmax_kernel, dim3(heads, blocks_for(w.T, 128)), 128, 0, w.scores, w.T);
    launch(d, mean_kernel, dim3(heads, blocks_for(w.T, 4)), dim3(HEAD, 4), 0, out, w.scores, qkv, w.T, w.H);
}
