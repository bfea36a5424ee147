/* optim.c -- the norm of a gradient, and the steps along it. Every number is read and written once. */
#include "../rng.h"
#include "vec.h"

enum { BLOCK = 1 << 15 };   /* elements one thread takes at a time; what bits depend on is this, not the threads */

INLINE int64_t blocks_of(int64_t length) { return (length + BLOCK - 1) / BLOCK; }

void CPU(sum_squares)(Device *d, Tensor out, Tensor x)
{
    const int64_t length = numel(x), blocks = blocks_of(length);
    double *part = d->workspace, total = 0;
    PARALLEL_FOR(d, length)
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t end = (b + 1) * BLOCK < length ? (b + 1) * BLOCK : length;
        Sum sum = {0};
        for (int64_t i = b * BLOCK; i < end; i += WIDTH) {
            const Vec v = vec_load(x.data, DT_F32, i, vec_left(end, i));
            sum = sum_add_product(sum, v, v);
        }
        part[b] = sum_total(sum);
    }
    for (int64_t b = 0; b < blocks; b++) total += part[b];
    *(float *)out.data = (float)total;
}

size_t CPU(sum_squares_scratch)(Device *d, Tensor out, Tensor x)
{
    return (size_t)blocks_of(numel(x)) * sizeof(double);
}

/* The random bits of DRAWN elements, which begin somewhere in the first draw of eight. */
enum { DRAWN = 128 };
typedef struct { uint16_t half[DRAWN + 8]; } Bits;

static void draw_bits(Bits *to, Rounding r, int64_t i)
{
    for (int k = 0; k <= DRAWN / 8; k++) {
        const Philox draw = philox(r.seed, r.stream, (uint64_t)(r.first + i) / 8 + (uint64_t)k);
        for (int h = 0; h < 8; h++) to->half[8 * k + h] = (uint16_t)rng_half(draw, h);
    }
}

/* Elements i .. of w, one vector after the other from a multiple of DRAWN on; bits is what this keeps between them. */
INLINE void store_weight(int A, Tensor w, int64_t i, int count, Vec v, Rounding r, Bits *bits)
{
    if (A == DT_BF16 && r.stochastic) {
        VecH random;
        if (i % DRAWN == 0) draw_bits(bits, r, i);
        memcpy(&random, bits->half + r.first % 8 + i % DRAWN, sizeof random);
        vec_store_bf16((uint16_t *)w.data + i, count, vec_cut_to_bf16(v, vec_widen(random)));
    } else vec_store(w.data, A, i, count, v);
}

/* The step's numbers, bias corrections included: w -= lr (m fade1 / (sqrt(v fade2) + eps) + weight_decay w) */
typedef struct { float lr, beta1, rest1, beta2, rest2, eps, weight_decay, grad_scale, fade1, fade2; } Step;

/* begin is a multiple of DECAY_BLOCK and WIDTH divides it, so that no vector crosses the end of one. */
INLINE void adamw_block(int A, Tensor w, float *master, float *m, float *v, const float *grad, const uint8_t *decay,
                        Step s, Rounding r, int64_t begin, int64_t end)
{
    Bits bits;
    for (int64_t i = begin; i < end; i += WIDTH) {
        const int count = vec_left(end, i);
        const Vec g = vec_load(grad, DT_F32, i, count) * s.grad_scale;
        const Vec first = s.beta1 * vec_load(m, DT_F32, i, count) + s.rest1 * g;
        const Vec second = s.beta2 * vec_load(v, DT_F32, i, count) + s.rest2 * g * g;
        const Vec old = master ? vec_load(master, DT_F32, i, count) : vec_load(w.data, A, i, count);
        const float weight_decay = decay && !decay[i / DECAY_BLOCK] ? 0 : s.weight_decay;
        const Vec step = first * s.fade1 / (vec_sqrt(second * s.fade2) + s.eps) + weight_decay * old;
        const Vec new = old - s.lr * step;
        vec_store(m, DT_F32, i, count, first);
        vec_store(v, DT_F32, i, count, second);
        if (master) vec_store(master, DT_F32, i, count, new);
        store_weight(A, w, i, count, new, r, &bits);
    }
}

void CPU(adamw)(Device *d, Tensor w, Tensor master, Tensor m, Tensor v, Tensor grad, Tensor decay, AdamW a,
                Rounding r)
{
    const int64_t length = numel(w), blocks = blocks_of(length);
    const Step s = { .lr = a.lr, .beta1 = a.beta1, .rest1 = 1 - a.beta1, .beta2 = a.beta2, .rest2 = 1 - a.beta2,
                     .eps = a.eps, .weight_decay = a.weight_decay, .grad_scale = a.grad_scale,
                     .fade1 = (float)(1 / (1 - pow(a.beta1, (double)a.step))),
                     .fade2 = (float)(1 / (1 - pow(a.beta2, (double)a.step))) };
    PARALLEL_FOR(d, length)
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t end = (b + 1) * BLOCK < length ? (b + 1) * BLOCK : length;
        FLOAT_SWITCH(w.dtype, A,
                     adamw_block(A, w, master.data, m.data, v.data, grad.data, decay.data, s, r, b * BLOCK, end));
    }
}

void CPU(nesterov)(Device *d, Tensor grad, Tensor m, float momentum, float grad_scale)
{
    const int64_t length = numel(m);
    PARALLEL_FOR(d, length)
    for (int64_t i = 0; i < length; i += WIDTH) {
        const int count = vec_left(length, i);
        const Vec g = grad_scale * vec_load(grad.data, DT_F32, i, count);
        const Vec new = momentum * vec_load(m.data, DT_F32, i, count) + g;
        vec_store(m.data, DT_F32, i, count, new);
        vec_store(grad.data, DT_F32, i, count, g + momentum * new);
    }
}

INLINE void descend_block(int A, Tensor w, float *master, const float *direction, float lr, float scale,
                          float weight_decay, Rounding r, int64_t begin, int64_t end)
{
    Bits bits;
    for (int64_t i = begin; i < end; i += WIDTH) {
        const int count = vec_left(end, i);
        const Vec old = master ? vec_load(master, DT_F32, i, count) : vec_load(w.data, A, i, count);
        const Vec new = old - lr * (scale * vec_load(direction, DT_F32, i, count) + weight_decay * old);
        if (master) vec_store(master, DT_F32, i, count, new);
        store_weight(A, w, i, count, new, r, &bits);
    }
}

void CPU(descend)(Device *d, Tensor w, Tensor master, Tensor direction, float lr, float scale, float weight_decay,
                  Rounding r)
{
    const int64_t length = numel(w), blocks = blocks_of(length);
    PARALLEL_FOR(d, length)
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t end = (b + 1) * BLOCK < length ? (b + 1) * BLOCK : length;
        FLOAT_SWITCH(w.dtype, A,
                     descend_block(A, w, master.data, direction.data, lr, scale, weight_decay, r, b * BLOCK, end));
    }
}
