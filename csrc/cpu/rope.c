/* rope.c -- q and k heads turned by their position, and normalised before. The sines of a row are computed once and
 * serve all its heads. */
#include "norm.h"

enum { PAIRS = 64 };    /* turned at a time by the forward pass: their sines and cosines lie on the stack */

/* sin and cos to 5e-10, for angles up to 8e8. angle = n pi/2 + r with |r| <= pi/4; pi/2 is split so that n times
 * its upper part is exact. The series end at r^11 and r^10; n's last two bits choose and sign. */
INLINE void sine_cosine(VecD angle, VecD *sine, VecD *cosine)
{
    const VecD shift = (VecD){0} + 0x1.8p52, t = angle * 0.63661977236758134308 + shift, n = t - shift;
    const VecD r = (angle - n * 0x1.921fb4p0) - n * 0x1.4442d18469899p-24, r2 = r * r;
    const VecD s = r - r * r2 * (1.0 / 6 - r2 * (1.0 / 120 - r2 * (1.0 / 5040 - r2 * (1.0 / 362880 -
                   r2 * (1.0 / 39916800)))));
    const VecD c = 1 - r2 * (1.0 / 2 - r2 * (1.0 / 24 - r2 * (1.0 / 720 - r2 * (1.0 / 40320 - r2 * (1.0 / 3628800)))));
    const VecL quarter = (VecL)t, swap = -(quarter & 1), minus_s = (quarter & 2) << 62;
    const VecL minus_c = ((quarter + 1) & 2) << 62;
    *sine   = (VecD)((((VecL)c & swap) | ((VecL)s & ~swap)) ^ minus_s);
    *cosine = (VecD)((((VecL)s & swap) | ((VecL)c & ~swap)) ^ minus_c);
}

/* of pos * freq[i] for `count` frequencies; the tables are padded to whole registers */
INLINE void angles(float *cosine, float *sine, const float *freq, int count, double pos)
{
    for (int i = 0; i < count; i += WIDTH) {
        const Vec f = vec_load(freq, DT_F32, i, vec_left(count, i));
        VecD s[2], c[2];
        sine_cosine(vec_low(f) * pos, &s[0], &c[0]);
        sine_cosine(vec_high(f) * pos, &s[1], &c[1]);
        for (int k = 0; k < WIDTH; k++) {
            cosine[i + k] = (float)c[k / (WIDTH / 2)][k % (WIDTH / 2)];
            sine[i + k] = (float)s[k / (WIDTH / 2)][k % (WIDTH / 2)];
        }
    }
}

/* (lo, hi) = (lo cos - hi sin, lo sin + hi cos) for `pairs` pairs (x[i], x[i+D/2]) of a head from i = begin on, and
 * x w r in the place of x where there is a w. out is of type O. */
INLINE void turn_head(int O, void *out, int A, const char *in, const float *cosine, const float *sine, int64_t begin,
                      int64_t pairs, int64_t D, const void *w, float r)
{
    for (int64_t i = 0; i < pairs; i += WIDTH) {
        const int count = vec_left(pairs, i);
        const int64_t lo_at = begin + i, hi_at = lo_at + D / 2;
        const Vec c = vec_load(cosine, DT_F32, i, count), s = vec_load(sine, DT_F32, i, count);
        Vec lo = vec_load(in, A, lo_at, count), hi = vec_load(in, A, hi_at, count);
        if (w) lo *= r * vec_load(w, A, lo_at, count), hi *= r * vec_load(w, A, hi_at, count);
        vec_store(out, O, lo_at, count, lo * c - hi * s);
        vec_store(out, O, hi_at, count, lo * s + hi * c);
    }
}

INLINE void turn_row(int A, char *out, const char *in, const float *freq, double pos, int H, int G, int64_t D,
                     const void *q_norm, const void *k_norm, float eps)
{
    const int64_t size = A == DT_BF16 ? 2 : 4;
    float cosine[PAIRS + WIDTH], sine[PAIRS + WIDTH];
    for (int64_t begin = 0; begin < D / 2; begin += PAIRS) {
        const int pairs = D / 2 - begin < PAIRS ? (int)(D / 2 - begin) : PAIRS;
        angles(cosine, sine, freq + begin, pairs, pos);
        for (int64_t h = 0; h < H + G; h++) {
            const char *x = in + h * D * size;
            const float r = q_norm ? row_rstd(A, x, D, 0, eps) : 1;
            turn_head(A, out + h * D * size, A, x, cosine, sine, begin, pairs, D, h < H ? q_norm : k_norm, r);
        }
    }
}

INLINE void copy_v(Tensor out, Tensor in, int64_t n, int H, int G)
{
    if (out.data == in.data) return;
    const int64_t bytes = row(in, n + 1) - row(in, n), v = bytes / (H + 2 * G) * (H + G);
    memcpy(row(out, n) + v, row(in, n) + v, (size_t)(bytes - v));
}

static void turn(Device *d, Tensor out, Tensor in, Tensor pos, Tensor freq, Tensor q_norm, Tensor k_norm, int H, int G,
                 float eps, int sign)
{
    const int64_t N = rows(in), P = last(in), D = P / (H + 2 * G);
    const int32_t *at = pos.data;
    PARALLEL_FOR(d, N * P)
    for (int64_t n = 0; n < N; n++) {
        const double turns = (double)sign * at[n];
        if (is_none(q_norm))    /* a constant, so that what is not normalised pays nothing for it */
            FLOAT_SWITCH(in.dtype, A, turn_row(A, row(out, n), row(in, n), freq.data, turns, H, G, D, NULL, NULL, 0));
        else
            FLOAT_SWITCH(in.dtype, A, turn_row(A, row(out, n), row(in, n), freq.data, turns, H, G, D, q_norm.data,
                                               k_norm.data, eps));
        copy_v(out, in, n, H, G);
    }
}

void CPU(rope_forward)(Device *d, Tensor out, Tensor qkv, Tensor pos, Tensor freq, Tensor q_norm, Tensor k_norm,
                       int H, int G, float eps)
{
    turn(d, out, qkv, pos, freq, q_norm, k_norm, H, G, eps, 1);
}

/* ---- back through the norm -------------------------------------------------------------------------------------- */

/* What a block of rows has to itself in the workspace, in floats, beside its parts of dq_norm and dk_norm: a row's
 * cosines and sines, and a head's slope between the turn and the norm. */
static int64_t room_of(int64_t D) { return 2 * (D / 2 + WIDTH) + D; }

/* slope: the block's parts, dq_norm's in front of dk_norm's */
INLINE void normed_row_backward(int A, char *dx, float *slope, const char *dout, const char *x, const float *freq,
                                double pos, const void *q_norm, const void *k_norm, int H, int G, int64_t D, float eps,
                                float *room)
{
    const int64_t size = A == DT_BF16 ? 2 : 4;
    float *cosine = room, *sine = cosine + D / 2 + WIDTH, *back = sine + D / 2 + WIDTH;
    angles(cosine, sine, freq, (int)(D / 2), -pos);
    for (int64_t h = 0; h < H + G; h++) {
        const int64_t at = h * D * size;
        turn_head(DT_F32, back, A, dout + at, cosine, sine, 0, D / 2, D, NULL, 1);
        row_backward(A, dx + at, slope + (h < H ? 0 : D), NULL, DT_F32, back, NULL, x + at, h < H ? q_norm : k_norm,
                     NULL, row_rstd(A, x + at, D, 0, eps), D);
    }
}

static void turn_and_norm_backward(Device *d, Tensor dqkv, Tensor dq_norm, Tensor dk_norm, Tensor dout, Tensor qkv,
                                   Tensor pos, Tensor freq, Tensor q_norm, Tensor k_norm, int H, int G, float eps,
                                   bool accumulate)
{
    const int64_t N = rows(dout), P = last(dout), D = P / (H + 2 * G), step = rows_in_block(N), blocks = blocks_of(N);
    const int32_t *at = pos.data;
    float *parts = d->workspace, *rooms = parts + blocks * 2 * D;
    PARALLEL_FOR(d, N * P)
    for (int64_t b = 0; b < blocks; b++) {
        float *slope = parts + b * 2 * D;
        memset(slope, 0, (size_t)(2 * D) * sizeof *slope);
        for (int64_t n = b * step; n < N && n < (b + 1) * step; n++) {
            FLOAT_SWITCH(dout.dtype, A, normed_row_backward(A, row(dqkv, n), slope, row(dout, n), row(qkv, n),
                                                            freq.data, at[n], q_norm.data, k_norm.data, H, G, D, eps,
                                                            rooms + b * room_of(D)));
            copy_v(dqkv, dout, n, H, G);
        }
    }
    if (!is_none(dq_norm)) add_parts(d, dq_norm, parts, blocks, accumulate);
    if (!is_none(dk_norm)) add_parts(d, dk_norm, parts + D, blocks, accumulate);
}

void CPU(rope_backward)(Device *d, Tensor dqkv, Tensor dq_norm, Tensor dk_norm, Tensor dout, Tensor qkv, Tensor pos,
                        Tensor freq, Tensor q_norm, Tensor k_norm, int H, int G, float eps, bool accumulate)
{
    if (is_none(q_norm)) turn(d, dqkv, dout, pos, freq, none(), none(), H, G, 0, -1);
    else turn_and_norm_backward(d, dqkv, dq_norm, dk_norm, dout, qkv, pos, freq, q_norm, k_norm, H, G, eps, accumulate);
}

size_t CPU(rope_backward_scratch)(Device *d, Tensor dqkv, Tensor dq_norm, Tensor dk_norm, Tensor dout, Tensor qkv,
                                  Tensor pos, Tensor freq, Tensor q_norm, Tensor k_norm, int H, int G, float eps,
                                  bool accumulate)
{
    const int64_t D = last(dout) / (H + 2 * G);
    return is_none(q_norm) ? 0 : (size_t)(blocks_of(rows(dout)) * (2 * D + room_of(D))) * sizeof(float);
}
