/* vec.h -- one register of floats, whatever its width here, and the few things the backend does with it.
 *
 * The files of this folder are compiled once for each instruction set and written once, in GCC's and Clang's vector
 * types: + - * / and comparisons work on them as on numbers, and a * b + c is one fma where there is one. A row of any
 * length is walked in steps of WIDTH; the last step holds what is left, and nothing past the end is read or written:
 *
 *     for (int64_t c = 0; c < C; c += WIDTH) {
 *         const int count = vec_left(C, c);
 *         vec_store(out, A, c, count, vec_load(in, A, c, count) * scale);
 *     }
 */
#ifndef LLMC_CPU_VEC_H
#define LLMC_CPU_VEC_H

#include "isa.h"

#include <math.h>
#include <string.h>
#ifdef __SSE2__
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
enum { WIDTH = 16 };
#elif defined(__AVX2__)
enum { WIDTH = 8 };
#else
enum { WIDTH = 4 };
#endif

typedef float    Vec   __attribute__((vector_size(WIDTH * 4)));
typedef int32_t  VecI  __attribute__((vector_size(WIDTH * 4)));     /* also what a comparison gives: 0 or -1 */
typedef uint32_t VecU  __attribute__((vector_size(WIDTH * 4)));
typedef uint16_t VecH  __attribute__((vector_size(WIDTH * 2)));     /* WIDTH bf16 */
typedef double   VecD  __attribute__((vector_size(WIDTH * 4)));     /* WIDTH / 2 doubles: also one register */
typedef int64_t  VecL  __attribute__((vector_size(WIDTH * 4)));
typedef float    Quad  __attribute__((vector_size(16)));

#define INLINE static inline __attribute__((always_inline, unused))

/* Run the statement with A a constant, so that loads and stores of that type lose their branch. */
#define FLOAT_SWITCH(dtype, A, ...) do {                                     \
        if ((dtype) == DT_BF16) { enum { A = DT_BF16 }; __VA_ARGS__; }       \
        else                    { enum { A = DT_F32  }; __VA_ARGS__; }       \
    } while (0)

/* The loop that follows is shared by the device's threads, unless its work (in elements) is not worth waking them.
 * One thread or all: OpenMP ends the threads that a smaller team leaves out, and starting them again is slow. */
#ifdef _OPENMP
#define PRAGMA(text) _Pragma(#text)
#define PARALLEL_FOR(d, work) PRAGMA(omp parallel for schedule(static) num_threads(team((d), (work))))
#else
#define PARALLEL_FOR(d, work)
#endif

INLINE int team(const Device *d, int64_t work) { return work < 32768 ? 1 : d->threads; }

INLINE Vec vec_all(float value) { return value - (Vec){0}; }
INLINE Vec vec_f32(const float *p) { Vec v; memcpy(&v, p, sizeof v); return v; }     /* WIDTH floats, anywhere */

/* ---- what compilers do not make of vector types by themselves ---------------------------------------------------
 * vec_max, vec_min    b where either is a NaN
 * vec_where           a where the comparison holds, else b
 * vec_low, vec_high   half the lanes, as doubles
 * vec_widen           16-bit lanes to 32 bits; vec_narrow back, of values below 2^16
 * vec_stream          a store past the caches, which need not read the line first; p lies at a multiple of its size.
 *                     Before others read what was streamed, streamed().
 * head, head_bf16, put_head, put_head_bf16   the first lanes only; no byte of the others is touched */

#if defined(__AVX512F__)
INLINE Vec  vec_max(Vec a, Vec b) { return (Vec)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE Vec  vec_min(Vec a, Vec b) { return (Vec)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE Vec  vec_sqrt(Vec v)       { return (Vec)_mm512_sqrt_ps((__m512)v); }
INLINE Vec  vec_where(VecI yes, Vec a, Vec b)
{
    return (Vec)_mm512_mask_mov_ps((__m512)b, _mm512_movepi32_mask((__m512i)yes), (__m512)a);
}
INLINE VecD vec_low(Vec v)        { return (VecD)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)v)); }
INLINE VecD vec_high(Vec v)       { return (VecD)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)v, 1)); }
INLINE VecU vec_widen(VecH h)     { return (VecU)_mm512_cvtepu16_epi32((__m256i)h); }
INLINE VecH vec_narrow(VecU u)    { return (VecH)_mm512_cvtepi32_epi16((__m512i)u); }
INLINE void vec_stream(float *p, Vec v) { _mm512_stream_ps(p, (__m512)v); }
INLINE void streamed(void)        { _mm_sfence(); }
INLINE __mmask16 lanes(int count) { return (__mmask16)((1u << count) - 1); }
INLINE Vec  head(const float *p, int count)               { return (Vec)_mm512_maskz_loadu_ps(lanes(count), p); }
INLINE VecH head_bf16(const uint16_t *p, int count)       { return (VecH)_mm256_maskz_loadu_epi16(lanes(count), p); }
INLINE void put_head(float *p, int count, Vec v)          { _mm512_mask_storeu_ps(p, lanes(count), (__m512)v); }
INLINE void put_head_bf16(uint16_t *p, int count, VecH h) { _mm256_mask_storeu_epi16(p, lanes(count), (__m256i)h); }
#else
#if defined(__AVX2__)
INLINE Vec  vec_max(Vec a, Vec b) { return (Vec)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE Vec  vec_min(Vec a, Vec b) { return (Vec)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE Vec  vec_sqrt(Vec v)       { return (Vec)_mm256_sqrt_ps((__m256)v); }
INLINE Vec  vec_where(VecI yes, Vec a, Vec b) { return (Vec)_mm256_blendv_ps((__m256)b, (__m256)a, (__m256)yes); }
INLINE VecD vec_low(Vec v)        { return (VecD)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)v)); }
INLINE VecD vec_high(Vec v)       { return (VecD)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)v, 1)); }
INLINE VecU vec_widen(VecH h)     { return (VecU)_mm256_cvtepu16_epi32((__m128i)h); }
INLINE void vec_stream(float *p, Vec v) { _mm256_stream_ps(p, (__m256)v); }
INLINE void streamed(void)        { _mm_sfence(); }
#else
INLINE Vec  vec_where(VecI yes, Vec a, Vec b) { return (Vec)((yes & (VecI)a) | (~yes & (VecI)b)); }
INLINE Vec  vec_max(Vec a, Vec b) { return vec_where(a > b, a, b); }
INLINE Vec  vec_min(Vec a, Vec b) { return vec_where(a < b, a, b); }
INLINE Vec  vec_sqrt(Vec v)       { return (Vec){ sqrtf(v[0]), sqrtf(v[1]), sqrtf(v[2]), sqrtf(v[3]) }; }
INLINE VecD vec_low(Vec v)        { return (VecD){ v[0], v[1] }; }
INLINE VecD vec_high(Vec v)       { return (VecD){ v[2], v[3] }; }
INLINE VecU vec_widen(VecH h)     { return __builtin_convertvector(h, VecU); }
INLINE void vec_stream(float *p, Vec v) { memcpy(p, &v, sizeof v); }
INLINE void streamed(void)        {}
#endif
INLINE VecH vec_narrow(VecU u)    { return __builtin_convertvector(u, VecH); }
/* Out of line: once a row, and the lanes go through memory. */
#define RARE static __attribute__((noinline, unused))
RARE Vec  head(const float *p, int count)               { Vec v = {0};  memcpy(&v, p, (size_t)count * 4); return v; }
RARE VecH head_bf16(const uint16_t *p, int count)       { VecH h = {0}; memcpy(&h, p, (size_t)count * 2); return h; }
RARE void put_head(float *p, int count, Vec v)          { memcpy(p, &v, (size_t)count * 4); }
RARE void put_head_bf16(uint16_t *p, int count, VecH h) { memcpy(p, &h, (size_t)count * 2); }
#endif

/* ---- memory ----------------------------------------------------------------------------------------------------- */

INLINE int vec_left(int64_t length, int64_t at) { return length - at < WIDTH ? (int)(length - at) : WIDTH; }

INLINE Vec vec_from_bf16(VecH h) { return (Vec)(vec_widen(h) << 16); }

/* The upper halves, of v made larger by so many of the lower halves' last places; a NaN stays one. */
INLINE VecH vec_cut_to_bf16(Vec v, VecU more)
{
    const VecU larger = (VecU)v + more, quiet = (VecU)v | 0x400000;
    return vec_narrow((VecU)vec_where(v != v, (Vec)quiet, (Vec)larger) >> 16);
}

/* to nearest, ties to even. The processor's own instruction makes 0 of what is below 2^-126. */
INLINE VecH vec_to_bf16(Vec v)
{
#ifdef __AVX512BF16__
    return (VecH)_mm512_cvtneps_pbh((__m512)v);
#else
    return vec_cut_to_bf16(v, 0x7fff + ((VecU)v >> 16 & 1));
#endif
}

/* The first `count` lanes from memory, 0 in the others; 0 < count <= WIDTH. `at` counts elements of type A. */
INLINE Vec vec_load(const void *from, int A, int64_t at, int count)
{
    if (A == DT_BF16) {
        const uint16_t *p = (const uint16_t *)from + at;
        VecH h;
        if (count == WIDTH) memcpy(&h, p, sizeof h);
        else h = head_bf16(p, count);
        return vec_from_bf16(h);
    }
    const float *p = (const float *)from + at;
    return count == WIDTH ? vec_f32(p) : head(p, count);
}

INLINE void vec_store_bf16(uint16_t *p, int count, VecH h)
{
    if (count == WIDTH) memcpy(p, &h, sizeof h);
    else put_head_bf16(p, count, h);
}

INLINE void vec_store(void *to, int A, int64_t at, int count, Vec v)
{
    if (A == DT_BF16) vec_store_bf16((uint16_t *)to + at, count, vec_to_bf16(v));
    else {
        float *p = (float *)to + at;
        if (count == WIDTH) memcpy(p, &v, sizeof v);
        else put_head(p, count, v);
    }
}

/* the first `count` lanes of v, and `rest` in the others */
INLINE Vec vec_keep(Vec v, int count, Vec rest)
{
    VecI lane;
    for (int k = 0; k < WIDTH; k++) lane[k] = k;
    return count == WIDTH ? v : vec_where(lane < count, v, rest);
}

/* what the value would be after a store as A and a load */
INLINE Vec vec_round(Vec v, int A) { return A == DT_BF16 ? vec_from_bf16(vec_to_bf16(v)) : v; }

/* The beginning of row n. Not by last() and dtype_size(): a call, and a tensor passed through memory, cost a short row
 * a tenth of its time. */
INLINE char *row(Tensor t, int64_t n)
{
    return (char *)t.data + n * t.dim[t.ndim - 1] * (t.dtype == DT_BF16 ? 2 : 4);
}

/* ---- turning -------------------------------------------------------------------------------------------------- */

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector((a), (b), __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle((a), (b), (VecI){ __VA_ARGS__ })
#endif

/* a's and b's lanes in turns: the first halves of both, and the second halves */
#if defined(__AVX512F__)
#define WEAVE_LOW(a, b)  SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define WEAVE_HIGH(a, b) SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#elif defined(__AVX2__)
#define WEAVE_LOW(a, b)  SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define WEAVE_HIGH(a, b) SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#else
#define WEAVE_LOW(a, b)  SHUFFLE(a, b, 0, 4, 1, 5)
#define WEAVE_HIGH(a, b) SHUFFLE(a, b, 2, 6, 3, 7)
#endif

/* Rows become columns. Weaving row i with row i + WIDTH/2 turns the bits of an element's place (row, lane) by one to
 * the left; after log2(WIDTH) rounds row and lane have changed places. */
INLINE void vec_transpose(Vec v[WIDTH])
{
    for (int round = 1; round < WIDTH; round *= 2) {
        Vec woven[WIDTH];
#pragma GCC unroll 8
        for (int i = 0; i < WIDTH / 2; i++) {
            woven[2 * i] = WEAVE_LOW(v[i], v[i + WIDTH / 2]);
            woven[2 * i + 1] = WEAVE_HIGH(v[i], v[i + WIDTH / 2]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < WIDTH; i++) v[i] = woven[i];
    }
}

/* ---- sums ------------------------------------------------------------------------------------------------------- */

/* of all lanes, always in the same order */
INLINE float vec_sum(Vec v)
{
    Quad q[WIDTH / 4];
    memcpy(q, &v, sizeof v);
    for (int k = 1; k < WIDTH / 4; k++) q[0] += q[k];
    return (q[0][0] + q[0][2]) + (q[0][1] + q[0][3]);
}

INLINE float vec_top(Vec v)
{
    float lane[WIDTH];
    memcpy(lane, &v, sizeof v);
    for (int k = 4; k < WIDTH; k++) lane[k % 4] = lane[k] > lane[k % 4] ? lane[k] : lane[k % 4];
    const float even = lane[0] > lane[2] ? lane[0] : lane[2], odd = lane[1] > lane[3] ? lane[1] : lane[3];
    return even > odd ? even : odd;
}

/* A sum that is as long as one likes: WIDTH running sums in double. */
typedef struct { VecD lo, hi; } Sum;

INLINE Sum sum_add(Sum s, Vec v) { return (Sum){ s.lo + vec_low(v), s.hi + vec_high(v) }; }

INLINE Sum sum_add_product(Sum s, Vec a, Vec b)
{
    return (Sum){ s.lo + vec_low(a) * vec_low(b), s.hi + vec_high(a) * vec_high(b) };
}

INLINE double sum_total(Sum s)
{
    double lane[WIDTH / 2], total = 0;
    s.lo += s.hi;
    memcpy(lane, &s.lo, sizeof lane);
    for (int k = 0; k < WIDTH / 2; k++) total += lane[k];
    return total;
}

/* ---- functions -------------------------------------------------------------------------------------------------- */

/* v 2^n, for a whole n of at most 200 either way */
INLINE Vec vec_scale(Vec v, Vec n)
{
#if defined(__AVX512F__)
    return (Vec)_mm512_scalef_ps((__m512)v, (__m512)n);
#else
    const VecI whole = __builtin_convertvector(n, VecI), half = whole >> 1;     /* a factor must fit the exponent */
    return v * (Vec)((half + 127) << 23) * (Vec)((whole - half + 127) << 23);
#endif
}

/* e^x, at most 2 ulp off; 0 at -inf, inf at inf, denormals where they belong, a NaN stays one.
 * x = n ln2 + r with |r| <= ln2 / 2, so e^x = 2^n e^r. e^r = 1 + r + r^2 q(r); q is the minimax polynomial of degree 4
 * for the relative error of e^r, 3.1e-9. Adding and taking away 1.5 * 2^23 rounds to a whole number. ln2 is split so
 * that n times its upper part is exact. 2^n is made of two factors, because n may leave the exponent's range. */
INLINE Vec vec_exp(Vec x)
{
    const Vec shift = vec_all(0x1.8p23f), high = vec_all(89), low = vec_all(-105);
    x = vec_max(low, vec_min(high, x));
    const Vec t = x * 0x1.715476p0f + shift, n = t - shift;
    const Vec r = (x - n * 0x1.63p-1f) - n * -0x1.bd0106p-13f;
    const Vec q = (((0.001381454f * r + 0.0083687454f) * r + 0.04166839f) * r + 0.16666521f) * r + 0.49999994f;
    const Vec p = 1 + (r + r * r * q);
    return vec_scale(p, n);
}

/* s = 1 / (1 + e^-x) and its slope s (1 - s). With e = e^-|x|, which is never large, both are precise at both ends. */
INLINE Vec vec_sigmoid_and_slope(Vec x, Vec *slope)
{
    const VecI positive = x > 0;
    const Vec e = vec_exp(vec_where(positive, -x, x)), inverse = 1 / (1 + e);
    *slope = e * inverse * inverse;
    return vec_where(positive, vec_all(1), e) * inverse;
}

INLINE Vec vec_sigmoid(Vec x) { Vec slope; return vec_sigmoid_and_slope(x, &slope); }

/* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), which is x sigmoid(2 sqrt(2/pi) (…)) */
#define GELU_A 1.5957691216057308f
#define GELU_B 0.044715f

INLINE Vec vec_gelu(Vec x) { return x * vec_sigmoid(GELU_A * x * (1 + GELU_B * x * x)); }

/* s + x u' s (1 - s), with s = sigmoid(u). Beyond 12 it is 0 or 1 to the last bit, and u' must not overflow. */
INLINE Vec vec_gelu_slope(Vec x)
{
    Vec bell;
    x = vec_max(vec_all(-12), vec_min(vec_all(12), x));
    const Vec s = vec_sigmoid_and_slope(GELU_A * x * (1 + GELU_B * x * x), &bell);
    return s + x * bell * (GELU_A * (1 + 3 * GELU_B * x * x));
}

#endif
