/* A block owns 128 queries, and reads keys and values once for all of them, 16 at a time, into shared memory. A thread
 * still owns a query; its mean is brought down once for 16 keys. */
#include "step.cuh"

constexpr int QUERIES = 128, KEYS = 16;

__global__ void __launch_bounds__(QUERIES) tiles_kernel(bf16 *out, const bf16 *qkv, int T, int H)
{
    SHARED(float, keys, [KEYS][HEAD]);
    SHARED(float, values, [KEYS][HEAD]);
    const int begin = (int)blockIdx.y * QUERIES, t = begin + (int)threadIdx.x, own = at_most(t, T - 1);
    const Rows rows = rows_of(out, qkv, T, H);
    float q[HEAD], mean[HEAD] = {}, top = -INFINITY, sum = 0;
    UNROLL for (int i = 0; i < HEAD; i++) q[i] = SCALE * float(rows.q[own * rows.stride + i]);
    for (int s = 0; s < at_most(begin + QUERIES, T); s += KEYS) {
        for (int i = (int)threadIdx.x; i < KEYS * HEAD; i += QUERIES) {
            const int64_t from = at_most(s + i / HEAD, T - 1) * rows.stride + i % HEAD;
            keys[i / HEAD][i % HEAD] = float(rows.k[from]);
            values[i / HEAD][i % HEAD] = float(rows.v[from]);
        }
        __syncthreads();
        float score[KEYS], higher = top;
        UNROLL for (int j = 0; j < KEYS; j++) {
            score[j] = 0;
            UNROLL for (int i = 0; i < HEAD; i++) score[j] += q[i] * keys[j][i];
            if (s + j > own) score[j] = -INFINITY;
            higher = fmaxf(higher, score[j]);
        }
        const float fade = expf(top - higher);          /* key 0 is seen by all: `higher` is a number */
        sum *= fade, top = higher;
        UNROLL for (int i = 0; i < HEAD; i++) mean[i] *= fade;
        UNROLL for (int j = 0; j < KEYS; j++) {
            const float weight = expf(score[j] - top);
            sum += weight;
            UNROLL for (int i = 0; i < HEAD; i++) mean[i] += weight * values[j][i];
        }
        __syncthreads();                                /* before the next ones take their place */
    }
    if (t >= T) return;
    UNROLL for (int i = 0; i < HEAD; i++) rows.out[t * rows.out_stride + i] = bf16(mean[i] / sum);
}

void step_3_tiles(Device *d, bf16 *out, const bf16 *qkv, Work w)
{
    launch(d, tiles_kernel, dim3((unsigned)(w.B * w.H), blocks_for(w.T, QUERIES)), QUERIES, 0, out, qkv, w.T, w.H);
}
