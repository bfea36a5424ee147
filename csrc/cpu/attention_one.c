/* attention_one.c -- attention of one new token over the cache, as when text is written token by token.
 *
 * What takes time is reading keys and values. They are read once, where they lie: keys WIDTH at a time and turned, so
 * that lanes are keys; values so that lanes are columns. Sums are those of attention.c, or of attention_bf16.c where it
 * computes all other queries, to the bit. */
#include "attention.h"
#include "gemm_bf16.h"

enum { BLOCK = 32 };            /* terms that two registers hold as f32 */

/* p: a number for each key; q and p of bf16 are laid out in BLOCKs, as they are multiplied */
typedef struct Room { float *q, *p; } Room;

static Room room(Arena *a, Shape z)
{
    return (Room){ TAKE(a, "q", DT_F32, whole(z.D, BLOCK), BLOCK).data,
                   TAKE(a, "p", DT_F32, whole(z.T, BLOCK), BLOCK).data };
}

/* p = exp(scale * p - top) for keys 0 .. t, 0 in the lanes beyond. Returns the sum. */
static float soften(float *p, Shape z, int64_t t)
{
    Vec tops = vec_all(-INFINITY), sums = {0};
    for (int64_t s = 0; s <= t; s += WIDTH) tops = vec_max(where_seen(z.scale * vec_f32(p + s), tops, s, 0, t), tops);
    const float top = vec_top(tops);
    for (int64_t s = 0; s <= t; s += WIDTH) {
        const Vec weight = where_seen(vec_exp(z.scale * vec_f32(p + s) - top), (Vec){0}, s, 0, t);
        vec_store(p, DT_F32, s, WIDTH, weight);
        sums += weight;
    }
    return vec_sum(sums);
}

/* Asks for what the next group of heads reads of as many keys or values: it lies behind these in the page. */
INLINE void ask_next(const void *at, Shape z, int64_t keys)
{
    const int64_t size = z.D * (z.A == DT_BF16 ? 2 : 4);
    const char *next = (const char *)at + CACHE_PAGE * size;
    for (int64_t b = 0; b < keys * size; b += 64) __builtin_prefetch(next + b, 0, 2);
}

/* ---- in the order of gemm.h: term by term, DEPTH of them to a block ---------------------------------------------- */

INLINE void copy_q(const int A, float *to, const void *q, Shape z)
{
    for (int64_t i = 0; i < z.D; i += WIDTH) {
        const int count = vec_left(z.D, i);
        vec_store(to, DT_F32, i, count, vec_load(q, A, i, count));
    }
}

/* q . k of the first `keys` of WIDTH keys */
INLINE Vec score(const int A, const float *q, const void *k, Shape z, int64_t keys)
{
    Vec total = {0}, v[WIDTH];
    ask_next(k, z, at_most(keys, WIDTH));
    for (int64_t i0 = 0; i0 < z.D; i0 += DEPTH) {
        const int64_t end = at_most(z.D, i0 + DEPTH);
        Vec sum = {0};
        for (int64_t i = i0; i < end; i += WIDTH) {
            const int count = vec_left(end, i);
#pragma GCC unroll 16
            for (int s = 0; s < WIDTH; s++) v[s] = s < keys ? vec_load(k, A, s * z.D + i, count) : (Vec){0};
            vec_transpose(v);
#pragma GCC unroll 16
            for (int j = 0; j < WIDTH; j++)
                if (j < count) sum += q[i + j] * v[j];
        }
        total = i0 ? total + sum : sum;
    }
    return total;
}

enum { COLUMNS = 4 };           /* registers of them that are summed at a time */

/* sums[c] = of keys s .. end - 1, which lie in one block of DEPTH, p times columns i .. of v */
INLINE void add_values(const int A, Vec sums[COLUMNS], const float *p, Tensor cache, Shape z, const CachedRow *row,
                       int64_t g, int64_t s, int64_t end, int64_t i)
{
    for (int c = 0; c < COLUMNS; c++) sums[c] = (Vec){0};
    for (; s < end; s++) {
        const void *v = cached_v(z, cache, row, s, g);
        ask_next(v, z, 1);
#pragma GCC unroll 4
        for (int c = 0; c < COLUMNS; c++)
            if (i + c * WIDTH < z.D)
                sums[c] += p[s] * vec_load(v, A, i + c * WIDTH, vec_left(z.D, i + c * WIDTH));
    }
}

INLINE void by_terms(const int A, Shape z, Room m, Tensor out, Tensor cache, const void *q, const CachedRow *row,
                     int64_t h)
{
    const int64_t g = h / (z.H / z.G), t = row->length;
    copy_q(A, m.q, q, z);
    for (int64_t s = 0; s <= t; s += WIDTH)
        vec_store(m.p, DT_F32, s, WIDTH, score(A, m.q, cached_k(z, cache, row, s, g), z, t + 1 - s));
    const float sum = soften(m.p, z, t);
    for (int64_t i = 0; i < z.D; i += COLUMNS * WIDTH) {
        Vec mean[COLUMNS], more[COLUMNS];
        for (int64_t s = 0; s <= t; s += DEPTH) {
            add_values(A, s ? more : mean, m.p, cache, z, row, g, s, at_most(t + 1, s + DEPTH), i);
            for (int c = 0; s && c < COLUMNS; c++) mean[c] += more[c];
        }
        for (int64_t c = 0; c < COLUMNS && i + c * WIDTH < z.D; c++)
            vec_store(out.data, A, (row->begin * z.H + h) * z.D + i + c * WIDTH, vec_left(z.D, i + c * WIDTH),
                      mean[c] / sum);
    }
}

/* ---- in the order of attention_bf16.c: in pairs of terms --------------------------------------------------------- */

#ifdef PAIRED

#ifdef AMX

/* tdpbf16ps adds up, of 32 terms, the even ones and the odd ones apart, one after the other from 0, then both sums, and
 * then adds them to the sum so far; every product is added before it is rounded, and denormals count as 0. So do these,
 * to the bit. */
enum { APART = 2 };             /* sums */
enum { FLUSH = 0x8040 };        /* bits of MXCSR that make denormals 0, read and written */

static unsigned begin_pairs(void)
{
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | FLUSH);
    return before;
}

static void end_pairs(unsigned before) { _mm_setcsr(before); }

INLINE void split(Vec v[APART], Vec pairs) { v[0] = low(pairs), v[1] = high(pairs); }

INLINE void begin_block(Vec sum[APART], Vec total) { sum[0] = sum[1] = (Vec){0}; }
INLINE Vec end_block(const Vec sum[APART], Vec total) { return total + (sum[0] + sum[1]); }

/* x's pair times those of every lane */
INLINE void add_pairs(Vec sum[APART], const float *x, Vec pairs)
{
    sum[0] += x[0] * low(pairs);
    sum[1] += x[WIDTH] * high(pairs);
}

/* p's pair times the numbers of two keys in even columns, and in odd ones */
INLINE void add_keys(Vec even[APART], Vec odd[APART], const float *p, Vec first, Vec second)
{
    even[0] += p[0] * low(first);
    odd[0] += p[0] * high(first);
    even[1] += p[WIDTH] * low(second);
    odd[1] += p[WIDTH] * high(second);
}

#else

/* vdpbf16ps itself, which heeds no MXCSR */
enum { APART = 1 };

static unsigned begin_pairs(void) { return 0; }
static void end_pairs(unsigned before) {}

INLINE void split(Vec v[APART], Vec pairs) { v[0] = pairs; }

INLINE void begin_block(Vec sum[APART], Vec total) { sum[0] = total; }
INLINE Vec end_block(const Vec sum[APART], Vec total) { return sum[0]; }

INLINE void add_pairs(Vec sum[APART], const float *x, Vec pairs)
{
    sum[0] = (Vec)_mm512_dpbf16_ps((__m512)sum[0], (__m512bh)_mm512_set1_ps(*x), (__m512bh)pairs);
}

INLINE void add_keys(Vec even[APART], Vec odd[APART], const float *p, Vec first, Vec second)
{
    add_pairs(even, p, (Vec)(((VecU)first & 0xffff) | (VecU)low(second)));
    add_pairs(odd, p, (Vec)((VecU)first >> 16 | (VecU)high(second)));
}

#endif

static void lay_out(float *to, const uint16_t *from, int64_t count)
{
    for (int64_t i = 0; i < count; i += BLOCK, to += APART * WIDTH) {
        Vec v[APART];
        split(v, terms(from + i, count - i));
        memcpy(to, v, sizeof v);
    }
}

static Vec score_in_pairs(const float *q, const uint16_t *k, Shape z, int64_t keys)
{
    Vec total = {0};
    ask_next(k, z, at_most(keys, SIDE));
    for (int64_t i = 0; i < z.D; i += BLOCK, q += APART * WIDTH) {
        Vec v[SIDE], sum[APART];
        begin_block(sum, total);
        load_lines(v, k + i, z.D, keys, z.D - i);
        vec_transpose(v);
#pragma GCC unroll 16
        for (int j = 0; j < SIDE; j++) add_pairs(sum, q + j, v[j]);
        total = end_block(sum, total);
    }
    return total;
}

/* means of 64 columns from i on, those of even number in the first half of `to`, which are not divided yet */
static void mean_in_pairs(Vec to[4], const float *p, Tensor cache, Shape z, const CachedRow *row, int64_t g, int64_t t,
                          int64_t i)
{
    for (int c = 0; c < 4; c++) to[c] = (Vec){0};
    for (int64_t s = 0; s <= t; s += BLOCK, p += APART * WIDTH) {
        Vec sum[4][APART];
        const uint16_t *v = cached_v(z, cache, row, s, g);
        const int64_t keys = at_most(t + 1 - s, BLOCK);
        ask_next(v, z, keys);
        for (int c = 0; c < 4; c++) begin_block(sum[c], to[c]);
        for (int64_t r = 0; r < keys; r += 2, v += 2 * z.D)
#pragma GCC unroll 2
            for (int64_t c = 0; c < 2; c++) {
                const uint16_t *at = v + i + c * BLOCK;
                const int64_t left = z.D - i - c * BLOCK;
                if (left <= 0) break;
                add_keys(sum[c], sum[c + 2], p + r / 2, terms(at, left),
                         r + 1 < keys ? terms(at + z.D, left) : (Vec){0});
            }
        for (int c = 0; c < 4; c++) to[c] = end_block(sum[c], to[c]);
    }
}

static void by_pairs(Shape z, Room m, Tensor out, Tensor cache, const void *q, const CachedRow *row, int64_t h)
{
    const int64_t g = h / (z.H / z.G), t = row->length;
    lay_out(m.q, q, z.D);
    unsigned before = begin_pairs();
    for (int64_t s = 0; s <= t; s += SIDE)
        vec_store(m.p, DT_F32, s, WIDTH, score_in_pairs(m.q, cached_k(z, cache, row, s, g), z, t + 1 - s));
    end_pairs(before);
    const float sum = soften(m.p, z, t);
    for (int64_t s = 0; s <= t; s += BLOCK) {           /* in place */
        uint16_t rounded[BLOCK];
        for (int64_t k = 0; k < BLOCK; k += WIDTH) vec_store(rounded, DT_BF16, k, WIDTH, vec_f32(m.p + s + k));
        lay_out(m.p + s / BLOCK * APART * WIDTH, rounded, at_most(t + 1 - s, BLOCK));
    }
    for (int64_t i = 0; i < z.D; i += 2 * BLOCK) {
        Vec mean[4];
        before = begin_pairs();
        mean_in_pairs(mean, m.p, cache, z, row, g, t, i);
        end_pairs(before);
        for (int64_t c = 0; c < 4; c++) {
            const int64_t at = i + c * WIDTH;
            const Vec even = mean[c / 2], odd = mean[c / 2 + 2];
            if (at < z.D) vec_store(out.data, DT_BF16, (row->begin * z.H + h) * z.D + at, vec_left(z.D, at),
                                    ((c % 2 ? WEAVE_HIGH(even, odd) : WEAVE_LOW(even, odd)) + 0.0f) / sum);
        }
    }
}

#endif

void CPU(attend_one)(Shape z, Device *d, size_t bytes, Tensor out, Tensor cache, Tensor qkv, const CachedRow *row,
                     int64_t h)
{
    Arena part = my_part(d, bytes);
    const Room m = room(&part, z);
    const void *q = element(qkv, row->begin * z.P + h * z.D);
#ifdef PAIRED
    if (z.A == DT_BF16) {
        by_pairs(z, m, out, cache, q, row, h);
        return;
    }
#endif
    FLOAT_SWITCH(z.A, A, by_terms(A, z, m, out, cache, q, row, h));
}

size_t CPU(attend_one_bytes)(Shape z)
{
    Arena measure = {0};
    room(&measure, z);
    return measure.used;
}
