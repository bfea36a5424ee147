/* gemm.c -- products of whole tensors: blocks, threads, and what is done to a sum on its way out. See gemm.h.
 *
 * out is cut into blocks of at most BLOCK_ROWS x BLOCK_COLS, and each runs over k in steps of STEP. For one step all
 * threads first pack the operands' panels, then share out the tiles, which run over it in pieces of the kind's depth.
 * Between steps the sums wait in the workspace, tile by tile, in f32 whatever the type of out. */
#include "gemm.h"

enum { BLOCK_ROWS = 1344, BLOCK_COLS = 2048 };  /* packed, both together leave room in the cache the cores share */
enum { STEP = 1024 };                           /* terms whose panels are packed at once */
enum { PACK_TERMS = 64 };                       /* see Shares; a whole number of any kind's steps */
enum { TASK_ROWS = 8, TASK_COLS = 4 };          /* in tiles: rows of a that stay in the second-level cache, and so on */

/* ---- f32: what tile.c packs and multiplies ---------------------------------------------------------------------- */

static const void *element(Tensor t, int64_t i, int64_t j)
{
    return (const char *)t.data + (size_t)(i * last(t) + j) * dtype_size(t.dtype);
}

static size_t a_bytes(const Product *p) { return TILE_ROWS * (p->a_turned ? DEPTH : LINE) * sizeof(float); }

static void pack_a(const Product *p, void *panel, int64_t m, int64_t k, int64_t rows, int64_t depth)
{
    const Tensor a = p->a;
    if (p->a_turned) CPU(copy_block)(panel, TILE_ROWS, element(a, k, m), a.dtype, last(a), depth, rows);
    else             CPU(copy_block)(panel, LINE, element(a, m, k), a.dtype, last(a), rows, depth);
}

static void pack_b(const Product *p, void *panel, int64_t n, int64_t k, int64_t cols, int64_t depth)
{
    const Tensor b = p->b;
    if (p->b_turned) CPU(pack_columns)(panel, element(b, n, k), b.dtype, last(b), depth, cols);
    else             CPU(pack_rows)(panel, element(b, k, n), b.dtype, last(b), depth, cols);
}

static void multiply(const Product *p, const void *a, const void *b, int64_t rows, int64_t depth, float *sums, bool add)
{
    if (p->a_turned) CPU(tile_steps)(rows, depth, a, TILE_ROWS, b, sums, TILE_COLS, add);
    else             CPU(tile_lines)(rows, depth, a, b, sums, TILE_COLS, add);
}

static const Kind f32_kind = { TILE_ROWS, DEPTH, TILE_COLS * DEPTH * sizeof(float), a_bytes, pack_a, pack_b, multiply,
                               NULL, NULL };

static const Kind *kind_of(const Product *p)
{
#ifdef AMX
    if (p->a.dtype == DT_BF16 && p->b.dtype == DT_BF16) return &CPU(amx_kind);
#endif
    (void)p;
    return &f32_kind;
}

/* ---- the plan --------------------------------------------------------------------------------------------------- */

/* of one block, a step of which has so many pieces of the kind's depth; a_panel, a, b and sums are bytes */
typedef struct Plan { const Kind *kind; int64_t rows, cols, pieces; size_t a_panel, a, b, sums; } Plan;

/* equal pieces of at most `most`, each a whole number of tiles */
static int64_t piece(int64_t length, int64_t most, int64_t tile)
{
    return whole(whole(length, whole(length, most)), tile) * tile;
}

static Plan plan_of(const Product *p)
{
    const Kind *kind = kind_of(p);
    Plan z = { .kind = kind, .rows = piece(p->M, BLOCK_ROWS, kind->rows), .cols = piece(p->N, BLOCK_COLS, TILE_COLS),
               .pieces = at_most(whole(p->K, kind->depth), whole(STEP, kind->depth)), .a_panel = kind->a_bytes(p) };
    z.a = (size_t)(z.rows / kind->rows * z.pieces) * z.a_panel;
    z.b = (size_t)(z.cols / TILE_COLS * z.pieces) * kind->b_bytes;
    z.sums = p->K > z.pieces * kind->depth ? (size_t)(z.rows * z.cols) * sizeof(float) : 0;
    return z;
}

size_t CPU(gemm_scratch)(const Product *p)
{
    const Plan z = plan_of(p);
    return z.a + z.b + z.sums;
}

/* ---- one tile on its way out ------------------------------------------------------------------------------------ */

INLINE void finish(const Product *p, const int A, const float *sums, int64_t m0, int64_t n0, int64_t rows, int64_t cols)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c += WIDTH) {
            const int count = vec_left(cols, c);
            const int64_t at = (m0 + r) * p->N + n0 + c;
            Vec v = vec_f32(sums + r * TILE_COLS + c);
            if (!is_none(p->bias)) v += vec_load(p->bias.data, A, n0 + c, count);
            if (p->act == ACT_GELU) v = vec_round(v, A);
            if (!is_none(p->keep)) vec_store(p->keep.data, A, at, count, v);
            if (p->act == ACT_GELU) v = vec_gelu(v);
            if (!is_none(p->slope_at)) v *= vec_gelu_slope(vec_load(p->slope_at.data, A, at, count));
            if (p->accumulate) v += vec_load(p->out.data, (int)p->out.dtype, at, count);
            vec_store(p->out.data, (int)p->out.dtype, at, count, v);
        }
}

/* ---- blocks ----------------------------------------------------------------------------------------------------- */

/* One step of one block: rows m.. and columns n.. of out, terms k.. of the sum; each buffer as Plan says. */
typedef struct Step {
    const Product *p;
    const Plan *z;
    int64_t m, n, k, rows, cols, depth;
    char  *a, *b;
    float *sums;                /* NULL: the first step is the last */
} Step;

/* The panels of rows (or columns) i, one for each piece of the step, follow one another. k: of the step, where a piece
 * begins, or any multiple of PACK_TERMS if the operand's terms do not lie side by side. */
static char *panel_a(Step s, int64_t i, int64_t k)
{
    const int64_t depth = s.z->kind->depth;
    return s.a + (size_t)(i * s.z->pieces + k / depth) * s.z->a_panel + (size_t)(k % depth) * (s.z->a_panel / depth);
}

static char *panel_b(Step s, int64_t j, int64_t k)
{
    const int64_t depth = s.z->kind->depth;
    const size_t bytes = s.z->kind->b_bytes;
    return s.b + (size_t)(j * s.z->pieces + k / depth) * bytes + (size_t)(k % depth) * (bytes / depth);
}

/* Terms k .. of panel i. */
static void pack_piece_a(Step s, int64_t i, int64_t k, int64_t depth)
{
    const Kind *kind = s.z->kind;
    const int64_t at = i * kind->rows;
    kind->pack_a(s.p, panel_a(s, i, k), s.m + at, s.k + k, at_most(s.rows - at, kind->rows), depth);
}

static void pack_piece_b(Step s, int64_t j, int64_t k, int64_t depth)
{
    const Kind *kind = s.z->kind;
    const int64_t at = j * TILE_COLS;
    kind->pack_b(s.p, panel_b(s, j, k), s.n + at, s.k + k, at_most(s.cols - at, TILE_COLS), depth);
}

/* How an operand is shared out for packing: so many panels and terms at a time. Where the terms of a line lie side by
 * side, a panel; else some terms of several panels, so that what is read lies together. */
typedef struct Shares { int64_t panels, terms; } Shares;

static Shares shares(Step s, bool sideways)
{
    return sideways ? (Shares){ 8, PACK_TERMS } : (Shares){ 2, s.z->kind->depth };
}

/* Tiles i0 .. by j0 .., piece by piece of the step: a panel of b stays in the nearest cache, the sums in the next. */
static void run_task(Step s, int64_t i0, int64_t j0, int64_t i1, int64_t j1)
{
    const Kind *kind = s.z->kind;
    _Alignas(64) float here[TASK_ROWS * TASK_COLS * MOST_ROWS * TILE_COLS];
    const int64_t tile = kind->rows * TILE_COLS, across = s.sums ? whole(s.cols, TILE_COLS) : TASK_COLS;
    float *sums = s.sums ? s.sums + (i0 * across + j0) * tile : here;
    for (int64_t k = 0; k < s.depth; k += kind->depth)
        for (int64_t j = j0; j < j1; j++)
            for (int64_t i = i0; i < i1; i++) {
                const int64_t m = i * kind->rows, n = j * TILE_COLS, depth = at_most(s.depth - k, kind->depth);
                const int64_t rows = at_most(s.rows - m, kind->rows), cols = at_most(s.cols - n, TILE_COLS);
                if (s.p->symmetric && s.n + n >= s.m + m + rows) continue;
                float *to = sums + ((i - i0) * across + j - j0) * tile;
                kind->multiply(s.p, panel_a(s, i, k), panel_b(s, j, k), rows, depth, to, s.k + k > 0);
                if (s.k + k + depth == s.p->K)
                    FLOAT_SWITCH(s.p->a.dtype, A, finish(s.p, A, to, s.m + m, s.n + n, rows, cols));
            }
}

/* Every thread runs this; the loops under OMP(for) are shared out and end together. */
static void run_step(Step s)
{
    const int64_t a_panels = whole(s.rows, s.z->kind->rows), b_panels = whole(s.cols, TILE_COLS);
    const int64_t task_rows = whole(a_panels, TASK_ROWS), task_cols = whole(b_panels, TASK_COLS);
    const Shares a = shares(s, s.p->a_turned), b = shares(s, !s.p->b_turned);
    OMP(for schedule(dynamic) collapse(2) nowait)
    for (int64_t k = 0; k < s.depth; k += a.terms)
        for (int64_t i0 = 0; i0 < a_panels; i0 += a.panels)
            for (int64_t i = i0; i < at_most(i0 + a.panels, a_panels); i++)
                pack_piece_a(s, i, k, at_most(s.depth - k, a.terms));
    OMP(for schedule(dynamic) collapse(2))
    for (int64_t k = 0; k < s.depth; k += b.terms)
        for (int64_t j0 = 0; j0 < b_panels; j0 += b.panels)
            for (int64_t j = j0; j < at_most(j0 + b.panels, b_panels); j++)
                pack_piece_b(s, j, k, at_most(s.depth - k, b.terms));
    OMP(for schedule(dynamic))
    for (int64_t task = 0; task < task_rows * task_cols; task++) {
        const int64_t i0 = task % task_rows * TASK_ROWS, j0 = task / task_rows * TASK_COLS;
        run_task(s, i0, j0, at_most(i0 + TASK_ROWS, a_panels), at_most(j0 + TASK_COLS, b_panels));
    }
}

static void run_blocks(const Product *p, const Plan *z, char *workspace)
{
    char *a = workspace, *b = a + z->a;
    float *sums = z->sums ? (float *)(b + z->b) : NULL;
    const int64_t depth = z->pieces * z->kind->depth;
    if (z->kind->begin) z->kind->begin();
    for (int64_t n = 0; n < p->N; n += z->cols)
        for (int64_t m = 0; m < p->M; m += z->rows)
            for (int64_t k = 0; k < p->K; k += depth)
                run_step((Step){ p, z, m, n, k, at_most(p->M - m, z->rows), at_most(p->N - n, z->cols),
                                 at_most(p->K - k, depth), a, b, sums });
    if (z->kind->end) z->kind->end();
}

void CPU(gemm)(Device *d, const Product *p)
{
    const Plan z = plan_of(p);
    OMP(parallel num_threads(team(d, p->M * p->N * p->K / 64)))
    run_blocks(p, &z, d->workspace);
}
