/* gemm_few.c -- products of a few rows with a weight, x w^T, as when text is written token by token.
 *
 * What takes time is reading w. It is read where it lies, once for 32 rows of x: a register of terms from each of some
 * rows, turned so that its lanes are rows, or given to a tile of AMX, f32 in three parts. That all rows are read side
 * by side keeps many lines of memory on their way; those a little further on are asked for, or they would come too
 * late. Sums are gemm.h's, to the bit. */
#include "gemm_bf16.h"

/* ---- in vector registers ---------------------------------------------------------------------------------------- */

#ifndef AMX

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

static void few_block(const Product *p, const char *x, int64_t m, int64_t n, int64_t cols, float *sums)
{
    (void)m;
    for (int64_t c = 0; c < cols; c += WIDTH) {
        const Rows r = { p->b.data, p->K, cols - c, (const float *)x, whole(p->K, WIDTH) * WIDTH };
        const int64_t from = (n + c) * p->K;
#define ROWS(SOME) \
        if (p->M <= SOME) { FLOAT_SWITCH(p->b.dtype, A, few(SOME, A, r, from, sums + c)); continue; }
        ROWS(1) ROWS(2) ROWS(4) ROWS(8) ONLY_MANY
#undef ROWS
    }
}

static void lay_out(const Product *p, char *x)
{
    const int A = (int)p->a.dtype;
    const int64_t unit = unit_terms(A), step = whole(p->K, WIDTH) * WIDTH;
    OMP(for)
    for (int64_t m = 0; m < FEW; m++)
        for (int64_t k = 0; k < p->K; k += WIDTH * unit)
            vec_store(x, DT_F32, m * step + k / unit, WIDTH,
                      m < p->M ? units(A, p->a.data, m * p->K + k, p->K - k) : (Vec){0});
}

#else

/* ---- in AMX's tiles --------------------------------------------------------------------------------------------- */

enum { MOST_PANELS = 2 };                               /* of x: with more of them it pays to pack w */
enum { LINES = 2 * SIDE };                              /* rows of w in a block */
enum { AHEAD = 3 };                                     /* steps, that memory is asked for beforehand */

/* Rows of w stand where a's do in gemm_amx.c, and x's where b's do, so sums come out turned; which is which changes no
 * bit. Of x, 16 rows are a group; for each 32 terms it has a piece for each part (bf16: one), 16 pairs of terms of
 * `lanes` rows. A tile is always 16 lanes wide: what it reads too much of are sums that nobody wants. */
typedef struct Pieces { int64_t lanes, piece, step, group; } Pieces;       /* and bytes from one to the next */

static Pieces pieces(const Product *p)
{
    const int64_t parts = p->a.dtype == DT_F32 ? PARTS : 1;
    Pieces z = { .lanes = 1 };
    while (z.lanes < p->M && z.lanes < SIDE) z.lanes *= 2;
    z.piece = SIDE * z.lanes * (int64_t)sizeof(float), z.step = parts * z.piece, z.group = whole(p->K, TERMS) * z.step;
    return z;
}

static void put_piece(Vec v[SIDE], char *to, int64_t lanes)
{
    vec_transpose(v);
    for (int j = 0; j < SIDE; j++) vec_store(to, DT_F32, j * lanes, (int)lanes, v[j]);
}

/* 16 x 16 sums, line by line, become or are added to 16 columns of up to 16 rows. */
static void turn_out(Vec v[SIDE], float *sums, int64_t rows, bool add)
{
    vec_transpose(v);
    for (int64_t m = 0; m < rows; m++) {
        float *to = sums + m * TILE_COLS;
        vec_store(to, DT_F32, 0, WIDTH, add ? vec_f32(to) + v[m] : v[m]);
    }
}

/* more: there are more rows of x than a register holds */
static void store_turned(float *sums, int64_t rows, bool more, bool add)
{
    Vec v[SIDE];
    _tile_stored(0, v, SIDE * 4);
    turn_out(v, sums, at_most(rows, SIDE), add);
    _tile_stored(1, v, SIDE * 4);
    turn_out(v, sums + SIDE, at_most(rows, SIDE), add);
    if (!more) return;
    _tile_stored(2, v, SIDE * 4);
    turn_out(v, sums + SIDE * TILE_COLS, at_most(rows - SIDE, SIDE), add);
    _tile_stored(3, v, SIDE * 4);
    turn_out(v, sums + SIDE * TILE_COLS + SIDE, at_most(rows - SIDE, SIDE), add);
}

/* ---- bf16 ------------------------------------------------------------------------------------------------------- */

static void amx_lay_out(const Product *p, char *x)
{
    const Pieces z = pieces(p);
    OMP(for)
    for (int64_t k = 0; k < p->K; k += TERMS)
        for (int64_t m = 0; m < p->M; m += SIDE) {
            Vec v[SIDE];
            load_lines(v, bf16_at(p->a, m, k), p->K, p->M - m, p->K - k);
            put_piece(v, x + m / SIDE * z.group + k / TERMS * z.step, z.lanes);
        }
}

/* Terms k .. of a block's rows, for two tile registers */
INLINE void fetch(const Product *p, Vec to[LINES], int64_t n, int64_t k)
{
    const uint16_t *from = bf16_at(p->b, n, k);
    load_lines(to, from, p->K, p->N - n, p->K - k);
    load_lines(to + SIDE, from + SIDE * p->K, p->K, p->N - n - SIDE, p->K - k);
}

#define LOAD(tile, from, stride) _tile_loadd(tile, from, stride); ASK()
#define MULTIPLY(s, a, b)        _tile_dpbf16ps(s, a, b); ASK()
#define ASK()                    ask(ahead, p->K, op * LINES / ops, (op + 1) * LINES / ops); op++

/* For rows i .. of a block. Not by the compiler's own prefetch, which it moves: see meanwhile(). */
INLINE void ask(const uint16_t *ahead, int64_t K, int i, int end)
{
#pragma GCC unroll 8
    for (; i < end; i++) __asm__ volatile("prefetcht0 (%0)" : : "r"(ahead + i * K));
}

/* 32 terms of a block: w's tiles lie at `first` and `second`, w_line bytes from line to line; x's x_line. */
INLINE void add_bf16(const bool more, const Product *p, const uint16_t *ahead, const void *first, const void *second,
                     int64_t w_line, const char *x, const char *more_x, int64_t x_line)
{
    const int ops = more ? 8 : 5;
    int op = 0;
    LOAD(4, first, w_line);
    LOAD(6, x, x_line);
    MULTIPLY(0, 4, 6);
    LOAD(5, second, w_line);
    MULTIPLY(1, 5, 6);
    if (!more) return;
    LOAD(7, more_x, x_line);
    MULTIPLY(2, 4, 7);
    MULTIPLY(3, 5, 7);
}

#undef LOAD
#undef MULTIPLY
#undef ASK

/* Tiles are loaded from w itself, whose lines were asked for some steps before; where it ends within a tile, from a
 * copy. */
static void amx_block(const Product *p, const char *groups, int64_t m, int64_t n, int64_t cols, float *sums)
{
    const Pieces z = pieces(p);
    const char *x = groups + m / SIDE * z.group;
    const uint16_t *from = bf16_at(p->b, n, 0);
    const bool more = p->M - m > SIDE, whole_lines = cols == LINES && p->K % TERMS == 0;
    Vec w[LINES];
    begin_sums(NULL, false);
    for (int64_t k = 0; k < p->K; k += TERMS, x += z.step) {
        const uint16_t *first = from + k, *second = first + SIDE * p->K, *ahead = first + AHEAD * TERMS;
        int64_t line = p->K * 2;
        if (!whole_lines) {
            WRITTEN();          /* the last tiles have been loaded */
            fetch(p, w, n, k);
            WRITTEN();
            first = (const uint16_t *)w, second = (const uint16_t *)(w + SIDE), line = TERMS * 2;
        }
        if (more) add_bf16(true, p, ahead, first, second, line, x, x + z.group, z.lanes * 4);
        else      add_bf16(false, p, ahead, first, second, line, x, NULL, z.lanes * 4);
    }
    store_turned(sums, p->M - m, more, false);
}

/* ---- f32, as three bf16 each: see gemm_amx_f32.c ----------------------------------------------------------------- */

static void amx_f32_lay_out(const Product *p, char *x)
{
    const Pieces z = pieces(p);
    OMP(for)
    for (int64_t k = 0; k < p->K; k += TERMS)
        for (int64_t m = 0; m < p->M; m += SIDE) {
            const float *from = (const float *)p->a.data + m * p->K + k;
            Vec v[PARTS][SIDE] = {0};
            for (int64_t i = 0; i < at_most(p->M - m, SIDE); i++)
                split_terms(v[0] + i, SIDE, from + i * p->K, p->K - k);
            for (int part = 0; part < PARTS; part++)
                put_piece(v[part], x + m / SIDE * z.group + k / TERMS * z.step + part * z.piece, z.lanes);
        }
}

/* Where a block's rows are read: `lines` of them, terms k to K */
typedef struct From { const float *w; int64_t K, lines, k; } From;

/* Lines i .. of a block, of each part. some: not all lines or terms are there; the last row of w stands for those after
 * it. */
INLINE void split_lines(const bool some, Vec w[PARTS][LINES], From f, int i, int end)
{
    if (some && f.k >= f.K) return;
#pragma GCC unroll 2
    for (; i < end; i++) {
        const float *at = f.w + (some ? at_most(i, f.lines - 1) : i) * f.K + f.k;
        _mm_prefetch(at + F32_AHEAD * TERMS, _MM_HINT_T0);
        _mm_prefetch(at + F32_AHEAD * TERMS + SIDE, _MM_HINT_T0);
        split_terms(w[0] + i, LINES, at, some ? f.K - f.k : TERMS);
    }
}

#define W(tile, part, half)  _tile_loadd(tile, w[turn][part] + half * SIDE, TERMS * 2); NEXT_LINES()
#define X(tile, part, half)  _tile_loadd(tile, x + part * z.piece + half * z.group, z.lanes * 4); NEXT_LINES()
#define MULTIPLY(s, a, b)    _tile_dpbf16ps(s, a, b); NEXT_LINES()
#define NEXT_LINES()         split_lines(some, w[!turn], next, op * LINES / ops, (op + 1) * LINES / ops); op++
#define PRODUCTS()           MULTIPLY(0, 4, 6); MULTIPLY(1, 5, 6); if (more) { MULTIPLY(2, 4, 7); MULTIPLY(3, 5, 7); }

/* Products of parts in gemm_amx_f32.c's order. The next step's rows are split between this step's instructions, which
 * want others between them. */
INLINE void add_f32(const bool more, const bool some, Pieces z, const char *x, Vec w[2][PARTS][LINES], int turn,
                    From next)
{
    const int ops = more ? 38 : 22;
    int op = 0;
    WRITTEN();
    X(6, 0, 0); if (more) { X(7, 0, 1); }
    W(4, 2, 0); W(5, 2, 1); PRODUCTS();
    W(4, 1, 0); W(5, 1, 1); PRODUCTS();
    X(6, 1, 0); if (more) { X(7, 1, 1); } PRODUCTS();
    W(4, 0, 0); W(5, 0, 1); PRODUCTS();
    X(6, 2, 0); if (more) { X(7, 2, 1); } PRODUCTS();
    X(6, 0, 0); if (more) { X(7, 0, 1); } PRODUCTS();
}

#undef W
#undef X
#undef MULTIPLY
#undef NEXT_LINES
#undef PRODUCTS

static void amx_f32_block(const Product *p, const char *groups, int64_t m, int64_t n, int64_t cols, float *sums)
{
    const Pieces z = pieces(p);
    const char *x = groups + m / SIDE * z.group;
    const bool more = p->M - m > SIDE;
    Vec w[2][PARTS][LINES];
    From next = { (const float *)p->b.data + n * p->K, p->K, cols, 0 };
    int turn = 0;
    split_lines(true, w[0], next, 0, LINES);
    for (int64_t k = 0, depth = CPU(gemm_depth)(p->K); k < p->K; k += depth) {
        begin_sums(NULL, false);
        for (int64_t end = at_most(p->K, k + depth); next.k < end; x += z.step, turn = !turn) {
            next.k += TERMS;
            const bool some = next.k + TERMS > p->K || cols < LINES;
            if (more) some ? add_f32(true, true, z, x, w, turn, next) : add_f32(true, false, z, x, w, turn, next);
            else      some ? add_f32(false, true, z, x, w, turn, next) : add_f32(false, false, z, x, w, turn, next);
        }
        store_turned(sums, p->M - m, more, k > 0);
    }
}

/* ---- as AMX's tiles, in vector registers ------------------------------------------------------------------------ */

/* For very few rows of bf16 the tiles are no help. tdpbf16ps adds up, of 32 terms, the even ones and the odd ones
 * apart, one after the other from 0, then both sums, and then adds them to the sum so far; every product is added
 * before it is rounded, and denormals count as 0. So do these, to the bit. */
enum { FEWEST = 4 };

/* x: for each row and 32 terms, the even ones, then the odd */
static void apart_lay_out(const Product *p, char *x)
{
    const int64_t step = whole(p->K, TERMS) * TERMS;
    OMP(for)
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

static void apart_block(const Product *p, const char *laid_out, int64_t m, int64_t n, int64_t cols, float *sums)
{
    (void)m, (void)cols;        /* rows of w that are not there count as 0 */
    const float *x = (const float *)laid_out;
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

/* most: rows of x it takes, which lay_out brings, by all threads, into the form that block wants. block: sums (rows,
 * TILE_COLS) of rows m .. of x, MOST_ROWS of them, and n .. of w, of which there are `cols`. begin, end: of each
 * thread's work, if not NULL. */
typedef struct Way {
    int64_t most;
    void    (*lay_out)(const Product *p, char *x);
    void    (*block)(const Product *p, const char *x, int64_t m, int64_t n, int64_t cols, float *sums);
    void    (*begin)(void), (*end)(void);
} Way;

static const Way *way_of(const Product *p)
{
#ifdef AMX
    static const Way in_tiles = { MOST_PANELS * MOST_ROWS, amx_lay_out, amx_block, CPU(amx_begin), CPU(amx_end) };
    static const Way as_tiles = { FEWEST, apart_lay_out, apart_block, NULL, NULL };
    static const Way f32_in_tiles = { MOST_PANELS * MOST_ROWS, amx_f32_lay_out, amx_f32_block, CPU(amx_begin),
                                      CPU(amx_end) };
    if (p->b.dtype == DT_F32) return &f32_in_tiles;
    return p->M <= FEWEST ? &as_tiles : &in_tiles;
#else
    static const Way in_vectors = { FEW, lay_out, few_block, NULL, NULL };
    (void)p;
    return &in_vectors;
#endif
}

/* Of what is laid out: terms, filled up to a multiple; bytes of each; and how far a tile may read past the end */
enum { UNIT = 32, MOST_BYTES = 6, PAST = 64 };

bool CPU(is_few)(const Product *p)
{
    return p->M <= way_of(p)->most && p->b_turned && !p->a_turned && !p->symmetric && p->a.dtype == p->b.dtype;
}

size_t CPU(gemm_few_scratch)(const Product *p)
{
    return (size_t)(whole(p->M, MOST_ROWS) * MOST_ROWS * whole(p->K, UNIT) * UNIT) * MOST_BYTES + PAST;
}

void CPU(gemm_few)(Device *d, const Product *p)
{
    const Way *way = way_of(p);
    OMP(parallel num_threads(team(d, p->N * p->K)))
    {
        _Alignas(64) float sums[MOST_ROWS * TILE_COLS];
        way->lay_out(p, d->workspace);
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
