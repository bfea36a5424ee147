/* gemm_few.c -- products of a few rows with a weight, x w^T, as when text is written token by token.
 *
 * What takes time is reading w. It is read where it lies, once for 32 rows of x: a register of terms from each of some
 * rows, turned so that its lanes are rows, or copied to meet x's rows in lanes, or given to a tile of AMX, f32 in three
 * parts. Memory is asked for before it is read, or it would come too late: by vectors as gemm.h's Ahead says, for tiles
 * a little further on in each row.
 * Sums are gemm.h's, to the bit. */
#include "gemm_bf16.h"

/* ---- in vector registers ---------------------------------------------------------------------------------------- */

#ifndef AMX

enum { FEW = WIDTH, FEWEST = WIDTH / 2 };       /* rows of x; from FEWEST + 1 on, lanes are theirs and not w's */

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

/* Rows of w, as columns of out, from element `from` on; x as lay_out() brings it. */
typedef struct Rows { const void *w; int64_t K, lines; const float *x; Ahead ahead; } Rows;

/* sum[m] += `count` units from term k on, of row m and of every line. Unrolled the loop over units is a tenth faster,
 * and much to compile: so there are not many numbers of rows. */
INLINE void add_terms(const int M, const int A, Vec *sum, Rows r, int64_t from, int64_t k, int count)
{
    Vec v[WIDTH];
    const float *x = r.x + k / unit_terms(A) * M;
    const int64_t step = k / (WIDTH * unit_terms(A));
#pragma GCC unroll 16
    for (int i = 0; i < WIDTH; i++) {
        ask(r.ahead, step, i);
        v[i] = i < r.lines ? units(A, r.w, from + i * r.K + k, r.K - k) : (Vec){0};
    }
    vec_transpose(v);
#pragma GCC unroll 16
    for (int i = 0; i < WIDTH; i++) {
        if (i == count) break;
#pragma GCC unroll 16
        for (int m = 0; m < M; m++) sum[m] = add_product(A, sum[m], x + m * WIDTH + i, v[i]);
    }
}

/* sums[m * TILE_COLS + lane] = row m times line `lane` of w */
INLINE void few(const int M, const int A, Rows r, int64_t from, float *sums)
{
    const int64_t unit = unit_terms(A);
    for (int64_t k0 = 0; k0 < r.K; k0 += DEPTH) {
        const int64_t end = at_most(r.K, k0 + DEPTH);
        Vec sum[FEWEST] = {0};
        for (int64_t k = k0; k < end; k += WIDTH * unit)
            add_terms(M, A, sum, r, from, k, (int)at_most(whole(end - k, unit), WIDTH));
#pragma GCC unroll 16
        for (int m = 0; m < M; m++) {
            float *to = sums + m * TILE_COLS;
            vec_store(to, DT_F32, 0, WIDTH, k0 ? vec_f32(to) + sum[m] : sum[m]);
        }
    }
}

/* The same of WIDTH rows, in whose lanes are rows of x. Nothing of w is turned: its units are copied to where they lie
 * side by side, a step before they are wanted, and each meets all rows. all: every line and every unit is there. */
INLINE void copy_lines(const int A, Vec v[WIDTH], Rows r, int64_t from, int64_t k, const bool all)
{
    const int64_t size = A == DT_BF16 ? 2 : 4, step = k / (WIDTH * unit_terms(A));
    const char *at = (const char *)r.w + (from + k) * size, *ahead = r.ahead.at + step * r.ahead.step;
#pragma GCC unroll 16
    for (int i = 0; i < WIDTH; i++, at += r.K * size, ahead += r.ahead.line) {
        __asm__("" : "+r"(at), "+r"(ahead));    /* or the compiler keeps 32 addresses, most of them in memory */
        __builtin_prefetch(ahead, 0, 2);
        v[i] = all || i < r.lines ? units(A, at, 0, all ? WIDTH * unit_terms(A) : r.K - k) : (Vec){0};
    }
}

INLINE void many(const int A, Rows r, int64_t from, float *sums)
{
    const int64_t step = WIDTH * unit_terms(A);
    Vec lines[2][WIDTH], total[WIDTH] = {0};
    int turn = 0;
    copy_lines(A, lines[0], r, from, 0, false);
    for (int64_t k0 = 0; k0 < r.K; k0 += DEPTH) {
        const int64_t end = at_most(r.K, k0 + DEPTH);
        Vec sum[WIDTH] = {0};
        for (int64_t k = k0; k < end; k += step, turn = !turn) {
            if (r.lines >= WIDTH && k + 2 * step <= r.K) copy_lines(A, lines[!turn], r, from, k + step, true);
            else if (k + step < r.K)                     copy_lines(A, lines[!turn], r, from, k + step, false);
            const float *w = (const float *)lines[turn], *x = r.x + k / unit_terms(A) * WIDTH;
            const int64_t count = at_most(whole(end - k, unit_terms(A)), WIDTH);
            for (int64_t u = 0; u < count; u++)
#pragma GCC unroll 16
                for (int i = 0; i < WIDTH; i++)
                    sum[i] = add_product(A, sum[i], w + i * WIDTH + u, vec_f32(x + u * WIDTH));
        }
        for (int i = 0; i < WIDTH; i++) total[i] = k0 ? total[i] + sum[i] : sum[i];
    }
    vec_transpose(total);
    for (int m = 0; m < WIDTH; m++) vec_store(sums + m * TILE_COLS, DT_F32, 0, WIDTH, total[m]);
}

/* Out of line, or few() gets worse code. */
static __attribute__((noinline)) void many_rows(const int A, const Rows *r, int64_t from, float *sums)
{
    FLOAT_SWITCH(A, TYPE, many(TYPE, *r, from, sums));
}

static void few_block(const Product *p, const char *x, int64_t m, int64_t n, int64_t cols, int64_t next, float *sums)
{
    const int64_t size = (int64_t)dtype_size(p->b.dtype), row = p->K * size;
    const int64_t line = WIDTH * unit_terms((int)p->b.dtype) * size;
    (void)m;
    for (int64_t c = 0; c < cols; c += WIDTH) {
        const Ahead ahead = ahead_of(p->b.data, row, n + c, 1, c + WIDTH < cols ? n + c + WIDTH : next, line);
        const Rows r = { p->b.data, p->K, cols - c, (const float *)x, ahead };
        const int64_t from = (n + c) * p->K;
#define ROWS(SOME) \
        if (SOME <= FEWEST && p->M <= SOME) { FLOAT_SWITCH(p->b.dtype, A, few(SOME, A, r, from, sums + c)); continue; }
        ROWS(1) ROWS(2) ROWS(4) ROWS(8)
#undef ROWS
        many_rows((int)p->b.dtype, &r, from, sums + c);
    }
}

/* The units of one step, of all rows, side by side: rows K apart would meet in a few sets of the nearest cache. For
 * lanes of x they are turned. */
static void lay_out(const Product *p, char *x)
{
    const int A = (int)p->a.dtype;
    const int64_t unit = unit_terms(A);
    int64_t M = 1;
    while (M < p->M) M *= 2;
    OMP(for)
    for (int64_t k = 0; k < p->K; k += WIDTH * unit) {
        Vec v[WIDTH];
        for (int64_t m = 0; m < M; m++) v[m] = m < p->M ? units(A, p->a.data, m * p->K + k, p->K - k) : (Vec){0};
        if (M > FEWEST) vec_transpose(v);
        for (int64_t m = 0; m < M; m++) vec_store(x, DT_F32, k / unit * M + m * WIDTH, WIDTH, v[m]);
    }
}

#else

/* ---- in AMX's tiles --------------------------------------------------------------------------------------------- */

enum { MOST_PANELS = 2 };                               /* of x: with more of them it pays to pack w */
enum { GROUPS = MOST_ROWS / SIDE };                     /* of x's rows, in a block */
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

/* Of a block's rows of w every second one is read, then the others: memory answers 16 at a time sooner than 32, and of
 * rows that share a page the processor would not see that each is read in order (dev/notes/2026-11-22-streams.md). What
 * is found for each half of them, each group of x's rows, each row of w: */
typedef struct Found { Vec of[2][GROUPS][SIDE]; } Found;

/* What the tiles hold becomes, or is added to, what was found. more: there are two groups. */
INLINE void keep_sums(const bool more, Found *f, int half, bool add)
{
    Vec v[SIDE];
    for (int g = 0; g <= more; g++) {
        if (g) _tile_stored(1, v, SIDE * 4);
        else   _tile_stored(0, v, SIDE * 4);
        for (int i = 0; i < SIDE; i++) f->of[half][g][i] = add ? f->of[half][g][i] + v[i] : v[i];
    }
}

static void put_sums(Found *f, int64_t rows, float *sums)
{
    for (int g = 0; g * SIDE < rows; g++) {
        Vec *even = f->of[0][g], *odd = f->of[1][g];
        vec_transpose(even);
        vec_transpose(odd);
        for (int64_t m = 0; m < at_most(rows - g * SIDE, SIDE); m++) {
            float *to = sums + (g * SIDE + m) * TILE_COLS;
            vec_store(to, DT_F32, 0, WIDTH, WEAVE_LOW(even[m], odd[m]));
            vec_store(to, DT_F32, WIDTH, WIDTH, WEAVE_HIGH(even[m], odd[m]));
        }
    }
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

/* For rows i .. of w. Not by the compiler's own prefetch, which it moves: see meanwhile(). */
INLINE void ask_tile(const uint16_t *ahead, int64_t stride, int i, int end)
{
#pragma GCC unroll 8
    for (; i < end; i++) __asm__ volatile("prefetcht0 (%0)" : : "r"(ahead + i * stride));
}

#define LOAD(tile, from, stride) _tile_loadd(tile, from, stride); ASK()
#define MULTIPLY(s, a, b)        _tile_dpbf16ps(s, a, b); ASK()
#define ASK()                    ask_tile(ahead, 2 * p->K, op * SIDE / ops, (op + 1) * SIDE / ops); op++

/* 32 terms of 16 rows of w, which lie at `from`, w_line bytes from row to row, times x's */
INLINE void add_bf16(const bool more, const Product *p, const uint16_t *ahead, const void *from, int64_t w_line,
                     const char *x, Pieces z)
{
    const int ops = more ? 5 : 3;
    int op = 0;
    LOAD(4, x, z.lanes * 4);
    LOAD(2, from, w_line);
    MULTIPLY(0, 2, 4);
    if (!more) return;
    LOAD(5, x + z.group, z.lanes * 4);
    MULTIPLY(1, 2, 5);
}

#undef LOAD
#undef MULTIPLY
#undef ASK

/* Tiles are loaded from w itself, whose lines were asked for some steps before; where it ends within a tile, from a
 * copy. */
static void amx_block(const Product *p, const char *groups, int64_t m, int64_t n, int64_t cols, int64_t next,
                      float *sums)
{
    (void)next;
    const Pieces z = pieces(p);
    const bool more = p->M - m > SIDE, whole_lines = cols == TILE_COLS && p->K % TERMS == 0;
    Found found;
    for (int half = 0; half < 2; half++) {
        const char *x = groups + m / SIDE * z.group;
        const uint16_t *from = bf16_at(p->b, n + half, 0);
        _tile_zero(0);
        _tile_zero(1);
        for (int64_t k = 0; k < p->K; k += TERMS, from += TERMS, x += z.step) {
            const uint16_t *at = from, *ahead = from + AHEAD * TERMS;
            int64_t line = 2 * p->K * 2;
            Vec w[SIDE];
            if (!whole_lines) {
                WRITTEN();          /* the last tile has been loaded */
                load_lines(w, from, 2 * p->K, whole(cols - half, 2), p->K - k);
                at = (const uint16_t *)w, line = TERMS * 2;
            }
            WRITTEN();
            if (more) add_bf16(true, p, ahead, at, line, x, z);
            else      add_bf16(false, p, ahead, at, line, x, z);
        }
        keep_sums(more, &found, half, false);
    }
    put_sums(&found, at_most(p->M - m, MOST_ROWS), sums);
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

/* Where rows of w are read: `lines` of them, every second one; terms k to K */
typedef struct From { const float *w; int64_t K, lines, k; } From;

/* Rows i .. of each part. some: not all rows or terms are there; the last row of w stands for those after it. */
INLINE void split_rows(const bool some, Vec w[PARTS][SIDE], From f, int i, int end)
{
    if (some && f.k >= f.K) return;
#pragma GCC unroll 2
    for (; i < end; i++) {
        const float *at = f.w + 2 * (some ? at_most(i, f.lines - 1) : i) * f.K + f.k;
        _mm_prefetch(at + F32_AHEAD * TERMS, _MM_HINT_T0);
        _mm_prefetch(at + F32_AHEAD * TERMS + SIDE, _MM_HINT_T0);
        split_terms(w[0] + i, SIDE, at, some ? f.K - f.k : TERMS);
    }
}

#define W(part)              _tile_loadd(2, w[turn][part], TERMS * 2); NEXT_ROWS()
#define X(tile, part, which) _tile_loadd(tile, x + part * z.piece + which * z.group, z.lanes * 4); NEXT_ROWS()
#define MULTIPLY(s, a, b)    _tile_dpbf16ps(s, a, b); NEXT_ROWS()
#define NEXT_ROWS()          split_rows(some, w[!turn], next, op * SIDE / ops, (op + 1) * SIDE / ops); op++
#define WITH_X(x, more_x)    MULTIPLY(0, 2, x); if (more) { MULTIPLY(1, 2, more_x); }
#define NEXT_X(part)         X(6, part, 0); if (more) { X(7, part, 1); } WITH_X(6, 7)

/* Products of parts in gemm_amx_f32.c's order. The next step's rows are split between this step's instructions, which
 * want others between them. */
INLINE void add_f32(const bool more, const bool some, Pieces z, const char *x, Vec w[2][PARTS][SIDE], int turn,
                    From next)
{
    const int ops = more ? 21 : 12;
    int op = 0;
    WRITTEN();
    X(4, 0, 0); if (more) { X(5, 0, 1); }
    W(2); WITH_X(4, 5);
    W(1); WITH_X(4, 5); NEXT_X(1);
    W(0); WITH_X(6, 7); NEXT_X(2); WITH_X(4, 5);
}

#undef W
#undef X
#undef MULTIPLY
#undef NEXT_ROWS
#undef WITH_X
#undef NEXT_X

static void amx_f32_block(const Product *p, const char *groups, int64_t m, int64_t n, int64_t cols, int64_t next,
                          float *sums)
{
    (void)next;
    const Pieces z = pieces(p);
    const bool more = p->M - m > SIDE;
    Vec w[2][PARTS][SIDE];
    Found found;
    for (int half = 0; half < 2; half++) {
        const char *x = groups + m / SIDE * z.group;
        const int64_t first = at_most(half, cols - 1);
        From next = { (const float *)p->b.data + (n + first) * p->K, p->K, whole(cols - first, 2), 0 };
        int turn = 0;
        split_rows(true, w[0], next, 0, SIDE);
        for (int64_t k = 0, depth = CPU(gemm_depth)(p->K); k < p->K; k += depth) {
            _tile_zero(0);
            _tile_zero(1);
            for (int64_t end = at_most(p->K, k + depth); next.k < end; x += z.step, turn = !turn) {
                next.k += TERMS;
                const bool some = next.k + TERMS > p->K || cols < TILE_COLS;
                if (more) some ? add_f32(true, true, z, x, w, turn, next) : add_f32(true, false, z, x, w, turn, next);
                else      some ? add_f32(false, true, z, x, w, turn, next) : add_f32(false, false, z, x, w, turn, next);
            }
            keep_sums(more, &found, half, k > 0);
        }
    }
    put_sums(&found, at_most(p->M - m, MOST_ROWS), sums);
}

#endif

/* ---- all of them ------------------------------------------------------------------------------------------------ */

/* most: rows of x it takes, which lay_out brings, by all threads, into the form that block wants. block: sums (rows,
 * TILE_COLS) of rows m .. of x, MOST_ROWS of them, and n .. of w, of which there are `cols`; the thread's next ones
 * will be from `next` on. begin, end: of each thread's work, if not NULL. */
typedef struct Way {
    int64_t most;
    void    (*lay_out)(const Product *p, char *x);
    void    (*block)(const Product *p, const char *x, int64_t m, int64_t n, int64_t cols, int64_t next, float *sums);
    void    (*begin)(void), (*end)(void);
} Way;

static const Way *way_of(const Product *p)
{
#ifdef AMX
    static const Way in_tiles = { MOST_PANELS * MOST_ROWS, amx_lay_out, amx_block, CPU(amx_begin), CPU(amx_end) };
    static const Way f32_in_tiles = { MOST_PANELS * MOST_ROWS, amx_f32_lay_out, amx_f32_block, CPU(amx_begin),
                                      CPU(amx_end) };
    return p->b.dtype == DT_F32 ? &f32_in_tiles : &in_tiles;
#else
    static const Way in_vectors = { FEW, lay_out, few_block, NULL, NULL };
    (void)p;
    return &in_vectors;
#endif
}

/* Of what is laid out: terms, filled up to a multiple, and bytes of each. There is room for MOST_ROWS, so what a tile
 * reads too much of fewer rows lies inside. */
enum { UNIT = 32, MOST_BYTES = 6 };

bool CPU(is_few)(const Product *p)
{
    return p->M <= way_of(p)->most && p->b_turned && !p->a_turned && !p->symmetric && p->a.dtype == p->b.dtype;
}

size_t CPU(gemm_few_scratch)(const Product *p)
{
    return (size_t)(whole(p->M, MOST_ROWS) * MOST_ROWS * whole(p->K, UNIT) * UNIT) * MOST_BYTES;
}

void CPU(gemm_few)(Device *d, const Product *p)
{
    const Way *way = way_of(p);
    int64_t taken = 0;
    OMP(parallel num_threads(team(d, p->N * p->K)))
    {
        _Alignas(64) float sums[MOST_ROWS * TILE_COLS];
        way->lay_out(p, d->workspace);
        if (way->begin) way->begin();
        for (int64_t n = take_columns(&taken, TILE_COLS), next; n < p->N; n = next) {
            const int64_t cols = at_most(p->N - n, TILE_COLS);
            next = take_columns(&taken, TILE_COLS);
            for (int64_t m = 0; m < p->M; m += MOST_ROWS) {
                way->block(p, d->workspace, m, n, cols, next, sums);
                CPU(finish)(p, sums, m, n, at_most(p->M - m, MOST_ROWS), cols);
            }
        }
        if (way->end) way->end();
    }
}
