/* gemm_few.c -- products of a few rows with a weight, x w^T, as when text is written token by token.
 *
 * What takes time is reading w. It is read once, where it lies: a register of terms from each of some rows, turned so
 * that its lanes are rows, or left to a tile of AMX. That all rows are read side by side keeps many lines of memory on
 * their way; those a little further on are asked for, or they would come too late. Sums are gemm.h's, to the bit. */
#include "gemm_bf16.h"

/* ---- in vector registers ---------------------------------------------------------------------------------------- */

#if defined(__AVX512F__)
enum { FEW = 16 };              /* rows of x */
#define ONLY_MANY ROWS(16)
#else
enum { FEW = 8 };
#define ONLY_MANY
#endif

/* A unit is what a lane holds: one term as f32, or the two of bf16 that vdpbf16ps takes. x is laid out in units. */
#ifdef DOT
#define PAIRS(A) ((A) == DT_BF16)
#else
#define PAIRS(A) false
#endif

INLINE int64_t unit_terms(const int A) { return PAIRS(A) ? 2 : 1; }

/* WIDTH units from element `at` on, of which there are `left` more terms in the row */
INLINE Vec units(const int A, const void *from, int64_t at, int64_t left)
{
#ifdef DOT
    if (PAIRS(A)) return terms((const uint16_t *)from + at, left);
#endif
    return vec_load(from, A, at, vec_left(left, 0));
}

INLINE Vec add_product(const int A, Vec sum, const float *x, Vec w)
{
#ifdef DOT
    if (PAIRS(A)) return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_ps(*x), (__m512bh)w);
#endif
    return sum + *x * w;
}

/* Rows of w, as columns of out, from element `from` on; x's units, `step` from row to row. */
typedef struct Rows { const void *w; int64_t K, lines; const float *x; int64_t step; } Rows;

/* sum[m] += `count` units from term k on, of row m and of every line. Unrolled the loop over units is a tenth faster,
 * and much to compile: so there are not many numbers of rows. */
INLINE void add_terms(const int M, const int A, Vec *sum, Rows r, int64_t from, int64_t k, int count)
{
    Vec v[WIDTH];
    const int64_t size = A == DT_BF16 ? 2 : 4;
    const float *x = r.x + k / unit_terms(A);
    const char *ahead = (const char *)r.w + (from + k) * size + 4 * 64;
#pragma GCC unroll 16
    for (int i = 0; i < WIDTH; i++) {
        __builtin_prefetch(ahead + i * r.K * size);
        v[i] = i < r.lines ? units(A, r.w, from + i * r.K + k, r.K - k) : (Vec){0};
    }
    vec_transpose(v);
#pragma GCC unroll 16
    for (int i = 0; i < WIDTH; i++) {
        if (i == count) break;
#pragma GCC unroll 16
        for (int m = 0; m < M; m++) sum[m] = add_product(A, sum[m], x + m * r.step + i, v[i]);
    }
}

/* sums[m * TILE_COLS + lane] = row m times line `lane` of w */
INLINE void few(const int M, const int A, Rows r, int64_t from, float *sums)
{
    const int64_t unit = unit_terms(A);
    for (int64_t k0 = 0; k0 < r.K; k0 += DEPTH) {
        const int64_t end = at_most(r.K, k0 + DEPTH);
        Vec sum[FEW] = {0};
        for (int64_t k = k0; k < end; k += WIDTH * unit)
            add_terms(M, A, sum, r, from, k, (int)at_most(whole(end - k, unit), WIDTH));
#pragma GCC unroll 16
        for (int m = 0; m < M; m++) {
            float *to = sums + m * TILE_COLS;
            vec_store(to, DT_F32, 0, WIDTH, k0 ? vec_f32(to) + sum[m] : sum[m]);
        }
    }
}

static void few_block(const Product *p, const void *x, int64_t m, int64_t n, int64_t cols, float *sums)
{
    (void)m;
    for (int64_t c = 0; c < cols; c += WIDTH) {
        const Rows r = { p->b.data, p->K, cols - c, x, whole(p->K, WIDTH) * WIDTH };
        const int64_t from = (n + c) * p->K;
#define ROWS(SOME) \
        if (p->M <= SOME) { FLOAT_SWITCH(p->b.dtype, A, few(SOME, A, r, from, sums + c)); continue; }
        ROWS(1) ROWS(2) ROWS(4) ROWS(8) ONLY_MANY
#undef ROWS
    }
}

static void lay_out(const Product *p, void *x)
{
    const int A = (int)p->a.dtype;
    const int64_t unit = unit_terms(A), step = whole(p->K, WIDTH) * WIDTH;
    for (int64_t m = 0; m < FEW; m++)
        for (int64_t k = 0; k < p->K; k += WIDTH * unit)
            vec_store(x, DT_F32, m * step + k / unit, WIDTH,
                      m < p->M ? units(A, p->a.data, m * p->K + k, p->K - k) : (Vec){0});
}

/* ---- in AMX's tiles --------------------------------------------------------------------------------------------- */

#ifdef AMX

enum { MOST_PANELS = 2 };                               /* of x: with more of them it pays to pack w */
enum { LINES = 2 * SIDE, REGISTER = SIDE * TERMS };     /* rows of w in a block; elements of a tile register */
enum { AHEAD = 3 };                                     /* steps, that memory is asked for beforehand */

/* 16 x 16 sums, line by line, to 16 columns of up to 16 rows */
static void turn_out(Vec v[SIDE], float *sums, int64_t rows)
{
    vec_transpose(v);
    for (int64_t m = 0; m < rows; m++) vec_store(sums, DT_F32, m * TILE_COLS, WIDTH, v[m]);
}

static void amx_lay_out(const Product *p, void *x)
{
    const int64_t panel = whole(p->K, TERMS) * 2 * REGISTER;
    for (int64_t m = 0; m < p->M; m += MOST_ROWS)
        CPU(amx_pack)(false, true, (uint16_t *)x + m / MOST_ROWS * panel, bf16_at(p->a, m, 0), p->K,
                      at_most(p->M - m, MOST_ROWS), p->K);
}

/* Terms k .. of a block's rows, for two tile registers */
INLINE void fetch(const Product *p, Vec to[LINES], int64_t n, int64_t k)
{
    const uint16_t *from = bf16_at(p->b, n, k);
    load_lines(to, from, p->K, p->N - n, p->K - k);
    load_lines(to + SIDE, from + SIDE * p->K, p->K, p->N - n - SIDE, p->K - k);
}

/* Rows of w stand where a's do in gemm_amx.c, and x's where b's do, so sums come out turned; which is which changes no
 * bit. Tiles are loaded from w itself, whose lines were asked for some steps before; where it ends within a tile, from a
 * copy. */
static void amx_block(const Product *p, const void *panels, int64_t m, int64_t n, int64_t cols, float *sums)
{
    const uint16_t *x = (const uint16_t *)panels + m * whole(p->K, TERMS) * TERMS, *from = bf16_at(p->b, n, 0);
    const bool more = p->M - m > SIDE, whole_lines = cols == LINES && p->K % TERMS == 0;
    Vec w[LINES];
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < p->K; k += TERMS, x += 2 * REGISTER) {
        if (whole_lines) {
            for (int i = 0; m == 0 && i < LINES; i++) _mm_prefetch(from + i * p->K + k + AHEAD * TERMS, _MM_HINT_T0);
            _tile_loadd(4, from + k, p->K * 2);
            _tile_loadd(5, from + SIDE * p->K + k, p->K * 2);
        } else {
            fetch(p, w, n, k);
            _tile_loadd(4, w, TERMS * 2);
            _tile_loadd(5, w + SIDE, TERMS * 2);
        }
        _tile_loadd(6, x, TERMS * 2);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 5, 6);
        if (!more) continue;
        _tile_loadd(7, x + REGISTER, TERMS * 2);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    }
    Vec v[SIDE];
    _tile_stored(0, v, SIDE * 4);
    turn_out(v, sums, at_most(p->M - m, SIDE));
    _tile_stored(1, v, SIDE * 4);
    turn_out(v, sums + SIDE, at_most(p->M - m, SIDE));
    if (!more) return;
    _tile_stored(2, v, SIDE * 4);
    turn_out(v, sums + SIDE * TILE_COLS, at_most(p->M - m - SIDE, SIDE));
    _tile_stored(3, v, SIDE * 4);
    turn_out(v, sums + SIDE * TILE_COLS + SIDE, at_most(p->M - m - SIDE, SIDE));
}

#endif

/* ---- as AMX's tiles, in vector registers ------------------------------------------------------------------------ */

#ifdef AMX

/* For very few rows the tiles are no help, and the copies cost time. tdpbf16ps adds up, of 32 terms, the even ones and
 * the odd ones apart, one after the other from 0, then both sums, and then adds them to the sum so far; every product is
 * added before it is rounded, and denormals count as 0. So do these, to the bit. */
enum { FEWEST = 4 };

/* x: for each row and 32 terms, the even ones, then the odd */
static void apart_lay_out(const Product *p, void *x)
{
    const int64_t step = whole(p->K, TERMS) * TERMS;
    for (int64_t m = 0; m < p->M; m++)
        for (int64_t k = 0; k < p->K; k += TERMS) {
            const Vec pairs = terms(bf16_at(p->a, m, k), p->K - k);
            vec_store(x, DT_F32, m * step + k, WIDTH, low(pairs));
            vec_store(x, DT_F32, m * step + k + WIDTH, WIDTH, high(pairs));
        }
}

/* total[m] = row m times every second row of w, from n on: rows that are read side by side should not lie in one page
 * of memory, or the processor does not see that each is read in order. */
INLINE void apart(const int M, const Product *p, const float *x, int64_t n, Vec total[FEWEST])
{
    const uint16_t *w = bf16_at(p->b, n, 0);
    const int64_t step = whole(p->K, TERMS) * TERMS, stride = 2 * p->K, lines = whole(p->N - n, 2);
#pragma GCC unroll 4
    for (int m = 0; m < M; m++) total[m] = (Vec){0};
    for (int64_t k = 0; k < p->K; k += TERMS) {
        Vec v[SIDE], even[FEWEST] = {0}, odd[FEWEST] = {0};
#pragma GCC unroll 16
        for (int i = 0; i < SIDE; i++) _mm_prefetch(w + i * stride + k + 2 * TERMS, _MM_HINT_T0);
        load_lines(v, w + k, stride, lines, p->K - k);
        vec_transpose(v);
#pragma GCC unroll 16
        for (int i = 0; i < SIDE; i++)
#pragma GCC unroll 4
            for (int m = 0; m < M; m++) {
                const float *at = x + m * step + k + i;
                even[m] += at[0] * low(v[i]);
                odd[m] += at[WIDTH] * high(v[i]);
            }
#pragma GCC unroll 4
        for (int m = 0; m < M; m++) total[m] += even[m] + odd[m];
    }
}

static void apart_block(const Product *p, const void *x, int64_t m, int64_t n, int64_t cols, float *sums)
{
    (void)m, (void)cols;        /* rows of w that are not there count as 0 */
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | FLUSH);
    Vec half[2][FEWEST];
    for (int j = 0; j < 2; j++)
        switch (p->M) {
        case 1: apart(1, p, x, n + j, half[j]); break;
        case 2: apart(2, p, x, n + j, half[j]); break;
        case 3: apart(3, p, x, n + j, half[j]); break;
        case 4: apart(4, p, x, n + j, half[j]); break;
        }
    _mm_setcsr(before);
    for (int64_t m = 0; m < p->M; m++) {
        vec_store(sums, DT_F32, m * TILE_COLS, WIDTH, WEAVE_LOW(half[0][m], half[1][m]));
        vec_store(sums, DT_F32, m * TILE_COLS + WIDTH, WIDTH, WEAVE_HIGH(half[0][m], half[1][m]));
    }
}

#endif

/* ---- all of them ------------------------------------------------------------------------------------------------ */

/* most: rows of x it takes, which lay_out brings into the form that block wants. block: sums (rows, TILE_COLS) of rows
 * m .. of x, MOST_ROWS of them, and n .. of w, of which there are `cols`. begin, end: of each thread's work, if not
 * NULL. */
typedef struct Way {
    int64_t most;
    void    (*lay_out)(const Product *p, void *x);
    void    (*block)(const Product *p, const void *x, int64_t m, int64_t n, int64_t cols, float *sums);
    void    (*begin)(void), (*end)(void);
} Way;

static const Way in_vectors = { FEW, lay_out, few_block, NULL, NULL };

static const Way *way_of(const Product *p)
{
#ifdef AMX
    static const Way in_tiles = { MOST_PANELS * MOST_ROWS, amx_lay_out, amx_block, CPU(amx_begin), CPU(amx_end) };
    static const Way as_tiles = { FEWEST, apart_lay_out, apart_block, NULL, NULL };
    if (p->b.dtype == DT_BF16) return p->M <= FEWEST ? &as_tiles : &in_tiles;
#endif
    (void)p;
    return &in_vectors;
}

enum { UNIT = 32 };             /* terms: what is laid out is filled up to a multiple */

bool CPU(is_few)(const Product *p)
{
    return p->M <= way_of(p)->most && p->b_turned && !p->a_turned && !p->symmetric && p->a.dtype == p->b.dtype;
}

size_t CPU(gemm_few_scratch)(const Product *p)
{
    return (size_t)(whole(p->M, MOST_ROWS) * MOST_ROWS * whole(p->K, UNIT) * UNIT) * sizeof(float);
}

void CPU(gemm_few)(Device *d, const Product *p)
{
    const Way *way = way_of(p);
    way->lay_out(p, d->workspace);
    OMP(parallel num_threads(team(d, p->N * p->K)))
    {
        _Alignas(64) float sums[MOST_ROWS * TILE_COLS];
        if (way->begin) way->begin();
        OMP(for schedule(dynamic))
        for (int64_t n = 0; n < p->N; n += TILE_COLS) {
            const int64_t cols = at_most(p->N - n, TILE_COLS);
            for (int64_t m = 0; m < p->M; m += MOST_ROWS) {
                way->block(p, d->workspace, m, n, cols, sums);
                CPU(finish)(p, sums, m, n, at_most(p->M - m, MOST_ROWS), cols);
            }
        }
        if (way->end) way->end();
    }
}
