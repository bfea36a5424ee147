/* loss.c -- log-probabilities of targets under a row of logits, and the way back. A row is read from memory once. */
#include "vec.h"

#include <float.h>

enum { BLOCK = 1024 };      /* logits at a time: they stay in the first cache between the maximum and the sum */

/* Over the row so far: top, the greatest logit; of z = (logit - top) / temperature, sum = sum e^z, mean = sum e^z z. */
typedef struct { float top; double sum, mean; } Tally;

INLINE float block_top(const float *logits, int64_t begin, int64_t end)
{
    Vec top = vec_all(-FLT_MAX);
    for (int64_t v = begin; v < end; v += WIDTH) {
        const int count = vec_left(end, v);
        top = vec_max(vec_keep(vec_load(logits, DT_F32, v, count), count, top), top);
    }
    return vec_top(top);
}

/* A forbidden token has z = -inf: e^z is 0, and 0 times a finite number adds nothing. */
INLINE void tally_block(Tally *t, const float *logits, int64_t begin, int64_t end, float scale, bool with_mean)
{
    const float top = block_top(logits, begin, end);
    if (top > t->top) {
        const double rise = ((double)top - t->top) * scale, fall = exp(-rise);
        t->mean = fall * (t->mean - t->sum * rise);
        t->sum *= fall;
        t->top = top;
    }
    Vec sum = {0}, mean = {0};
    for (int64_t v = begin; v < end; v += WIDTH) {
        const int count = vec_left(end, v);
        __builtin_prefetch(logits + v + BLOCK);         /* while this block is computed: a third off */
        const Vec z = (vec_load(logits, DT_F32, v, count) - t->top) * scale;
        const Vec e = vec_keep(vec_exp(z), count, vec_all(0));
        sum += e;
        if (with_mean) mean += e * vec_max(vec_all(-200), z);
    }
    t->sum += vec_sum(sum);
    t->mean += vec_sum(mean);
}

INLINE Tally tally_row(const float *logits, int64_t vocab, float scale, bool with_mean)
{
    Tally t = { -FLT_MAX, 0, 0 };
    for (int64_t begin = 0; begin < vocab; begin += BLOCK)
        tally_block(&t, logits, begin, begin + BLOCK < vocab ? begin + BLOCK : vocab, scale, with_mean);
    return t;
}

void CPU(logprob_forward)(Device *d, Tensor logp, Tensor lse, Tensor entropy, Tensor logits, Tensor targets, int vocab,
                          float temperature)
{
    const int64_t N = rows(logits);
    const float scale = 1 / temperature;
    const int32_t *target = targets.data;
    PARALLEL_FOR(d, N * vocab)
    for (int64_t n = 0; n < N; n++) {
        const float *in = (const float *)row(logits, n);
        const Tally t = is_none(entropy) ? tally_row(in, vocab, scale, false) : tally_row(in, vocab, scale, true);
        const double log_sum = (double)t.top * scale + log(t.sum);
        ((float *)lse.data)[n] = (float)log_sum;
        ((float *)logp.data)[n] = target[n] < 0 ? 0 : (float)((double)in[target[n]] * scale - log_sum);
        if (!is_none(entropy)) ((float *)entropy.data)[n] = (float)(log(t.sum) - t.mean / t.sum);
    }
}

/* What a row's gradient is made of, already divided by the temperature: p (z - a) - e p (log p + entropy). */
typedef struct { float pull, e, entropy; } Slopes;

INLINE Vec gradient_of(Slopes s, Vec log_p)
{
    const Vec p = vec_exp(log_p);
    return s.e == 0 ? p * s.pull : p * (s.pull - s.e * (vec_max(vec_all(-200), log_p) + s.entropy));
}

INLINE void backward_row(int A, char *dlogits, const float *logits, Slopes s, float a, float lse, int32_t target,
                         int64_t vocab, int64_t V, float scale)
{
    /* The target's number is kept, because dlogits may lie on the logits. */
    const Vec hit = target < 0 ? vec_all(0) : a + gradient_of(s, vec_all(logits[target] * scale - lse));
    for (int64_t v = 0; v < vocab; v += WIDTH) {
        const int count = vec_left(vocab, v);
        vec_store(dlogits, A, v, count, gradient_of(s, vec_load(logits, DT_F32, v, count) * scale - lse));
    }
    if (target >= 0) vec_store(dlogits, A, target, 1, hit);
    memset(dlogits + (size_t)vocab * dtype_size(A), 0, (size_t)(V - vocab) * dtype_size(A));
}

void CPU(logprob_backward)(Device *d, Tensor dlogits, Tensor logits, Tensor dlogp, Tensor dlse, Tensor dentropy,
                           Tensor lse, Tensor entropy, Tensor targets, int vocab, float temperature)
{
    const int64_t N = rows(logits), V = last(logits);
    const float scale = 1 / temperature;
    const int32_t *target = targets.data;
    PARALLEL_FOR(d, N * V)
    for (int64_t n = 0; n < N; n++) {
        const float a = target[n] < 0 ? 0 : scale * ((const float *)dlogp.data)[n];
        const float z = is_none(dlse) ? 0 : scale * ((const float *)dlse.data)[n];
        const float e = is_none(dentropy) ? 0 : scale * ((const float *)dentropy.data)[n];
        const Slopes s = { z - a, e, e == 0 ? 0 : ((const float *)entropy.data)[n] };
        FLOAT_SWITCH(dlogits.dtype, A, backward_row(A, row(dlogits, n), (const float *)row(logits, n), s, a,
                                                    ((const float *)lse.data)[n], target[n], vocab, V, scale));
    }
}
