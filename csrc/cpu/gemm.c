/* gemm.c -- products of whole tensors: blocks, threads, and what is done to a sum on its way out. See gemm.h.
 *
 * out is cut into blocks of at most BLOCK_ROWS rows, and each runs over k in steps. For one step all threads first pack
 * the panels of a. Then they take strips of columns, a few panels of b at a time: each packs its strip into a buffer of
 * its own, which stays in its second-level cache, and runs a past it (K. Goto and R. van de Geijn, "Anatomy of
 * high-performance matrix multiplication", 2008). Where there are rows enough, each thread has a band of them, whose
 * panels it packs itself, so that its own cache still holds them, and helps others when it has done
 * (dev/notes/2026-11-22-streams.md); where there are too few columns for all threads, rows are cut into bands as well.
 * Each band's strips are packed anew. Where there are several steps, the sums wait between them in the workspace, tile
 * by tile, in f32 whatever the type of out, and blocks are at most BLOCK_COLS wide. */
#include "gemm.h"

enum { BLOCK_ROWS = 1344, BLOCK_COLS = 2048 };  /* of a's panels, and of sums: what a shared cache has room for */
enum { STRIP = 4, STEP = 4 * DEPTH };           /* panels of b, and terms: what a second-level cache has room for */
enum { PACK_TERMS = 64, PACK_PANELS = 8 };      /* what is packed at once if an operand's terms are not side by side */
enum { BAND = 8 };                              /* panels of a, for which it pays that each thread has its own */
enum { STRIPS = 4 };                            /* to take for each thread, at least, so that all end together */
enum { STREAMED = 1 << 20 };                    /* elements, too many for a second-level cache */

/* ---- what tile.c packs and multiplies --------------------------------------------------------------------------- */

#ifndef AMX

static const void *element(Tensor t, int64_t i, int64_t j)
{
    return (const char *)t.data + (size_t)(i * last(t) + j) * dtype_size(t.dtype);
}

static void pack_a(const Product *p, void *panel, int64_t m, int64_t k, int64_t rows, int64_t depth)
{
    const Tensor a = p->a;
    if (p->a_turned) CPU(pack_rows)(panel, TILE_STEP, element(a, k, m), a.dtype, last(a), depth, rows);
    else             CPU(pack_columns)(panel, TILE_STEP, element(a, m, k), a.dtype, last(a), depth, rows);
}

static void pack_b(const Product *p, void *panel, int64_t n, int64_t k, int64_t cols, int64_t depth)
{
    const Tensor b = p->b;
    if (p->b_turned) CPU(pack_columns)(panel, TILE_COLS, element(b, n, k), b.dtype, last(b), depth, cols);
    else             CPU(pack_rows)(panel, TILE_COLS, element(b, k, n), b.dtype, last(b), depth, cols);
}

static void multiply(const void *a, const void *b, int64_t rows, int64_t depth, float *sums, bool add,
                     const void *next_a)
{
    const float *next = next_a;
    for (int64_t k = 0; k < depth; k += DEPTH)
        CPU(tile_steps)(rows, at_most(depth - k, DEPTH), (const float *)a + k * TILE_STEP, TILE_STEP,
                        (const float *)b + k * TILE_COLS, sums, TILE_COLS, add || k,
                        next ? next + k * TILE_STEP : NULL);
}

static const Kind tile_kind = { TILE_ROWS, TILE_STEP * sizeof(float), TILE_COLS * sizeof(float), pack_a, pack_b,
                                multiply, NULL, NULL };

#endif

/* a and b are of one type. */
static const Kind *kind_of(const Product *p)
{
#if defined(AMX)
    return p->a.dtype == DT_BF16 ? &CPU(amx_kind) : &CPU(amx_f32_kind);
#elif defined(DOT)
    return p->a.dtype == DT_BF16 ? &CPU(dot_kind) : &tile_kind;
#else
    (void)p;
    return &tile_kind;
#endif
}

/* ---- the plan --------------------------------------------------------------------------------------------------- */

/* Of a block: its rows and columns, the terms of a step, and into how many bands its rows are cut. a, b and sums:
 * bytes, b's for each thread. streamed: out is written past the caches. */
typedef struct Plan {
    const Kind *kind;
    int     threads;
    int64_t rows, cols, depth, bands;
    size_t  a, b, sums;
    bool    streamed;
} Plan;

/* There is nothing to do to a sum on its way out but bias and accumulate. */
static bool is_plain(const Product *p) { return is_none(p->keep) && is_none(p->slope_at) && p->act != ACT_GELU; }

/* The gradient of a large weight is not read soon: it is streamed, if it is whole lines of memory and nothing is done
 * to it on its way. */
static bool is_streamed(const Product *p)
{
    const bool gradient = p->a_turned && !p->symmetric && !p->accumulate && p->out.dtype == DT_F32;
    const bool whole_lines = p->N % TILE_COLS == 0 && (uintptr_t)p->out.data % 64 == 0;
    return gradient && is_plain(p) && is_none(p->bias) && whole_lines && p->M * p->N >= STREAMED;
}

/* equal pieces of at most `most`, each a whole number of units */
static int64_t piece(int64_t length, int64_t most, int64_t unit)
{
    return whole(whole(length, whole(length, most)), unit) * unit;
}

int64_t CPU(gemm_depth)(int64_t K) { return piece(K, STEP, DEPTH); }

static Plan plan_of(const Product *p, int threads)
{
    const Kind *kind = kind_of(p);
    Plan z = { .kind = kind, .threads = threads, .streamed = is_streamed(p) };
    z.depth = CPU(gemm_depth)(p->K);
    z.rows = piece(p->M, BLOCK_ROWS, kind->rows);
    z.cols = piece(p->N, p->K > z.depth ? BLOCK_COLS : p->N, TILE_COLS);
    const int64_t a_panels = z.rows / kind->rows, b_panels = z.cols / TILE_COLS;
    const int64_t enough = threads > 1 ? whole(STRIPS * threads, b_panels) : 1;
    z.bands = a_panels >= BAND * threads ? threads : at_most(enough, a_panels);
    z.a = (size_t)(a_panels * z.depth) * kind->a_term;
    z.b = (size_t)(STRIP * z.depth) * kind->b_term;
    z.sums = p->K > z.depth ? (size_t)(z.rows * z.cols) * sizeof(float) : 0;
    return z;
}

size_t CPU(gemm_scratch)(Device *d, const Product *p)
{
    if (CPU(is_few)(p)) return CPU(gemm_few_scratch)(p);
    const Plan z = plan_of(p, d->threads);
    return z.a + d->threads * z.b + z.sums + (size_t)(z.rows / z.kind->rows) * sizeof(int64_t);
}

/* ---- one tile on its way out ------------------------------------------------------------------------------------ */

/* plain: is_plain(p) */
INLINE void finish_as(const Product p, const int A, const bool plain, const float *sums, int64_t m0, int64_t n0,
                      int64_t rows, int64_t cols)
{
    const bool bias = !is_none(p.bias), keep = !plain && !is_none(p.keep), slope = !plain && !is_none(p.slope_at);
    const bool gelu = !plain && p.act == ACT_GELU;
    const int out = (int)p.out.dtype;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c += WIDTH) {
            const int count = vec_left(cols, c);
            const int64_t at = (m0 + r) * p.N + n0 + c;
            Vec v = vec_f32(sums + r * TILE_COLS + c);
            if (bias)  v += vec_load(p.bias.data, A, n0 + c, count);
            if (gelu)  v = vec_round(v, A);
            if (keep)  vec_store(p.keep.data, A, at, count, v);
            if (gelu)  v = vec_gelu(v);
            if (slope) v *= vec_gelu_slope(vec_load(p.slope_at.data, A, at, count));
            if (p.accumulate) v += vec_load(p.out.data, out, at, count);
            vec_store(p.out.data, out, at, count, v);
        }
}

void CPU(finish)(const Product *p, const float *sums, int64_t m0, int64_t n0, int64_t rows, int64_t cols)
{
    if (is_plain(p)) FLOAT_SWITCH(p->a.dtype, A, finish_as(*p, A, true, sums, m0, n0, rows, cols));
    else             FLOAT_SWITCH(p->a.dtype, A, finish_as(*p, A, false, sums, m0, n0, rows, cols));
}

static void stream(const Product *p, const float *sums, int64_t m0, int64_t n0, int64_t rows)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < TILE_COLS; c += WIDTH)
            vec_stream((float *)p->out.data + (m0 + r) * p->N + n0 + c, vec_f32(sums + r * TILE_COLS + c));
}

/* ---- blocks ----------------------------------------------------------------------------------------------------- */

/* One step of one block: rows m.. and columns n.. of out, terms k.. of the sum; each buffer as Plan says. */
typedef struct Step {
    const Product *p;
    const Plan *z;
    int64_t m, n, k, rows, cols, depth;
    char  *a, *b;               /* b: this thread's */
    float *sums;                /* NULL: the first step is the last */
    int64_t *next;              /* of each band: the panel of b that no thread has taken yet */
} Step;

/* Panel i of a (or of the strip), from term k on: of the step. */
static char *panel_a(Step s, int64_t i, int64_t k) { return s.a + (size_t)(i * s.z->depth + k) * s.z->kind->a_term; }
static char *panel_b(Step s, int64_t j, int64_t k) { return s.b + (size_t)(j * s.z->depth + k) * s.z->kind->b_term; }

static void pack_panels(Step s, int64_t i0, int64_t i1, int64_t k, int64_t terms)
{
    const Kind *kind = s.z->kind;
    for (int64_t i = i0; i < i1; i++) {
        const int64_t at = i * kind->rows;
        kind->pack_a(s.p, panel_a(s, i, k), s.m + at, s.k + k, at_most(s.rows - at, kind->rows),
                     at_most(s.depth - k, terms));
    }
}

static void pack_strip(Step s, int64_t j0, int64_t j1)
{
    const Kind *kind = s.z->kind;
    const int64_t terms = s.p->b_turned ? s.depth : PACK_TERMS;
    for (int64_t k = 0; k < s.depth; k += terms)
        for (int64_t j = j0; j < j1; j++) {
            const int64_t at = j * TILE_COLS;
            kind->pack_b(s.p, panel_b(s, j - j0, k), s.n + at, s.k + k, at_most(s.cols - at, TILE_COLS),
                         at_most(s.depth - k, terms));
        }
}

/* Asks for the lines of out that a tile will be written to. */
INLINE void fetch_out(const Product *p, int64_t m0, int64_t n0, int64_t rows, int64_t cols)
{
    const size_t size = dtype_size(p->out.dtype);
    for (int64_t r = 0; r < rows; r++) {
        const char *to = (char *)p->out.data + (size_t)((m0 + r) * p->N + n0) * size;
        for (size_t i = 0; i < (size_t)cols * size; i += 64) __builtin_prefetch(to + i, 1);
    }
}

/* Panels i0 .. of a by j0 .. of b */
static void run_strip(Step s, int64_t i0, int64_t i1, int64_t j0, int64_t j1)
{
    const Kind *kind = s.z->kind;
    _Alignas(64) float here[MOST_ROWS * TILE_COLS];
    const int64_t tile = kind->rows * TILE_COLS, across = whole(s.cols, TILE_COLS);
    const bool is_last = s.k + s.depth == s.p->K;
    const bool skipped = s.p->symmetric && s.n + j0 * TILE_COLS >= s.m + at_most(i1 * kind->rows, s.rows);
    if (i0 >= i1 || skipped) return;
    pack_strip(s, j0, j1);
    for (int64_t i = i0; i < i1; i++)
        for (int64_t j = j0; j < j1; j++) {
            const int64_t m = i * kind->rows, n = j * TILE_COLS;
            const int64_t rows = at_most(s.rows - m, kind->rows), cols = at_most(s.cols - n, TILE_COLS);
            if (s.p->symmetric && s.n + n >= s.m + m + rows) continue;
            float *to = s.sums ? s.sums + (i * across + j) * tile : here;
            const void *next_a = j == j0 && i + 1 < i1 ? panel_a(s, i + 1, 0) : NULL;
            if (is_last && !s.z->streamed) fetch_out(s.p, s.m + m, s.n + n, rows, cols);
            kind->multiply(panel_a(s, i, 0), panel_b(s, j - j0, 0), rows, s.depth, to, s.k > 0, next_a);
            if (!is_last) continue;
            if (s.z->streamed) stream(s.p, to, s.m + m, s.n + n, rows);
            else               CPU(finish)(s.p, to, s.m + m, s.n + n, rows, cols);
        }
}

/* Takes this thread's next strip of a band, or of those after it: panels *j0 .. *j1 of b. Strips grow narrow towards
 * the end, so that all threads end together. */
static bool take(Step s, int64_t panels, int64_t *band, int64_t *j0, int64_t *j1)
{
    const int64_t bands = s.z->bands, shares = s.z->threads > 1 ? STRIPS * whole(s.z->threads, bands) : 1;
    for (int64_t i = 0; i < bands; i++, *band = (*band + 1) % bands) {
        int64_t at = __atomic_load_n(s.next + *band, __ATOMIC_RELAXED);
        while (at < panels) {
            const int64_t end = at_most(panels, at + at_least(at_most((panels - at) / shares, STRIP), 1));
            if (__atomic_compare_exchange_n(s.next + *band, &at, end, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
                *j0 = at, *j1 = end;
                return true;
            }
        }
    }
    return false;
}

/* Every thread runs this. */
static void run_step(Step s)
{
    const int64_t a_panels = whole(s.rows, s.z->kind->rows), b_panels = whole(s.cols, TILE_COLS), bands = s.z->bands;
    const int64_t tall = whole(a_panels, bands);
    const int64_t some = s.p->a_turned ? PACK_PANELS : 1, terms = s.p->a_turned ? PACK_TERMS : s.depth;
    OMP(for nowait)
    for (int64_t band = 0; band < bands; band++) s.next[band] = 0;
    if (bands == s.z->threads) {
        OMP(for schedule(static, 1))
        for (int64_t band = 0; band < bands; band++) {
            const int64_t end = at_most((band + 1) * tall, a_panels);
            for (int64_t k = 0; k < s.depth; k += terms)
                for (int64_t i = band * tall; i < end; i += some)
                    pack_panels(s, i, at_most(i + some, end), k, terms);
        }
    } else {
        OMP(for schedule(dynamic) collapse(2))
        for (int64_t k = 0; k < s.depth; k += terms)
            for (int64_t i = 0; i < a_panels; i += some)
                pack_panels(s, i, at_most(i + some, a_panels), k, terms);
    }
    for (int64_t band = omp_get_thread_num() % bands, j0, j1; take(s, b_panels, &band, &j0, &j1);)
        run_strip(s, band * tall, at_most((band + 1) * tall, a_panels), j0, j1);
    if (s.z->streamed) streamed();
    OMP(barrier)
}

static void run_blocks(const Product *p, const Plan *z, char *workspace)
{
    char *a = workspace, *b = a + z->a, *sums = b + z->threads * z->b;
    int64_t *next = (int64_t *)(sums + z->sums);
    b += omp_get_thread_num() * z->b;
    if (z->kind->begin) z->kind->begin();
    for (int64_t n = 0; n < p->N; n += z->cols)
        for (int64_t m = 0; m < p->M; m += z->rows)
            for (int64_t k = 0; k < p->K; k += z->depth)
                run_step((Step){ p, z, m, n, k, at_most(p->M - m, z->rows), at_most(p->N - n, z->cols),
                                 at_most(p->K - k, z->depth), a, b, z->sums ? (float *)sums : NULL, next });
    if (z->kind->end) z->kind->end();
}

void CPU(gemm)(Device *d, const Product *p)
{
    if (CPU(is_few)(p)) {
        CPU(gemm_few)(d, p);
        return;
    }
    const int threads = team(d, p->M * p->N * p->K / 64);
    const Plan z = plan_of(p, threads);
    OMP(parallel num_threads(threads))
    run_blocks(p, &z, d->workspace);
}
