/* step.cuh -- what every step of the ladder computes: causal attention of H heads of HEAD columns,
 * out = softmax(q k^T / sqrt(HEAD)) v. qkv (B,T,3*H*HEAD) is packed as in the engine, q's heads before k's before v's;
 * out (B,T,H*HEAD); both bf16. */
#ifndef STEP_CUH
#define STEP_CUH

#include "common.cuh"

constexpr int HEAD = 64;
constexpr float SCALE = 0.125f;                 /* 1 / sqrt(HEAD) */

struct Work {
    int B, T, H;
    float         *scores;      /* (B,H,T,T), for the step that keeps them */
    float         *lse;         /* (B,H,T) and (B,T), for the engine's: written, and zeros */
    const int32_t *first;
};

typedef void Step(Device *d, bf16 *out, const bf16 *qkv, Work w);
Step step_1_naive, step_2_online, step_3_tiles, step_4_tensor_cores, step_5_engine;

/* The head of a row of the batch that blockIdx.x counts: its q, k, v and out at step 0, and how far the next step is */
struct Rows { const bf16 *q, *k, *v; bf16 *out; int64_t stride, out_stride; };

__device__ __forceinline__ Rows rows_of(bf16 *out, const bf16 *qkv, int T, int H)
{
    const int64_t b = blockIdx.x / (unsigned)H, h = blockIdx.x % (unsigned)H, C = (int64_t)H * HEAD;
    const bf16 *row = qkv + b * T * 3 * C + h * HEAD;
    return { row, row + C, row + 2 * C, out + b * T * C + h * HEAD, 3 * C, C };
}

#endif
