/* rope.c -- q and k heads turned by their position. The sines of a row are computed once and serve all its heads. */
#include "vec.h"

enum { PAIRS = 64 };    /* turned at a time: their sines and cosines lie on the stack */

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

/* (lo, hi) = (lo cos - hi sin, lo sin + hi cos) for the pairs (x[i], x[i+D/2]) of each head */
INLINE void turn_row(int A, char *out, const char *in, const float *freq, double pos, int64_t heads, int64_t D)
{
    float cosine[PAIRS + WIDTH], sine[PAIRS + WIDTH];
    for (int64_t begin = 0; begin < D / 2; begin += PAIRS) {
        const int pairs = D / 2 - begin < PAIRS ? (int)(D / 2 - begin) : PAIRS;
        angles(cosine, sine, freq + begin, pairs, pos);
        for (int64_t h = 0; h < heads; h++)
            for (int i = 0; i < pairs; i += WIDTH) {
                const int count = vec_left(pairs, i);
                const int64_t lo_at = h * D + begin + i, hi_at = lo_at + D / 2;
                const Vec c = vec_load(cosine, DT_F32, i, count), s = vec_load(sine, DT_F32, i, count);
                const Vec lo = vec_load(in, A, lo_at, count), hi = vec_load(in, A, hi_at, count);
                vec_store(out, A, lo_at, count, lo * c - hi * s);
                vec_store(out, A, hi_at, count, lo * s + hi * c);
            }
    }
}

static void turn(Device *d, Tensor out, Tensor in, Tensor pos, Tensor freq, int H, int G, int sign)
{
    const int64_t N = rows(in), P = last(in), D = P / (H + 2 * G), heads = H + G;
    const int32_t *at = pos.data;
    PARALLEL_FOR(d, N * P)
    for (int64_t n = 0; n < N; n++) {
        FLOAT_SWITCH(in.dtype, A, turn_row(A, row(out, n), row(in, n), freq.data, (double)sign * at[n], heads, D));
        const size_t v = (size_t)(heads * D) * dtype_size(in.dtype), bytes = (size_t)P * dtype_size(in.dtype);
        if (out.data != in.data) memcpy(row(out, n) + v, row(in, n) + v, bytes - v);
    }
}

void CPU(rope_forward)(Device *d, Tensor out, Tensor qkv, Tensor pos, Tensor freq, int H, int G)
{
    turn(d, out, qkv, pos, freq, H, G, 1);
}

void CPU(rope_backward)(Device *d, Tensor dqkv, Tensor dout, Tensor pos, Tensor freq, int H, int G)
{
    turn(d, dqkv, dout, pos, freq, H, G, -1);
}
