/* gemm.c -- products of whole tensors: blocks, threads, and what is done to a sum on its way out. See gemm.h.
 *
 * out is cut into blocks of at most BLOCK_ROWS x BLOCK_COLS, and each runs over k in steps of DEPTH. For one step all
 * threads first pack the operands' panels, then share out the tiles. Between steps the sums wait in the workspace, tile
 * by tile, in f32 whatever the type of out. */
#include "gemm.h"

enum { BLOCK_ROWS = 1344, BLOCK_COLS = 2048 };  /* packed, both together leave room in the cache the cores share */
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

/* of one block; a_panel, a, b and sums are bytes */
typedef struct Plan { const Kind *kind; int64_t rows, cols; size_t a_panel, a, b, sums; } Plan;

/* equal pieces of at most `most`, each a whole number of tiles */
static int64_t piece(int64_t length, int64_t most, int64_t tile)
{
    return whole(whole(length, whole(length, most)), tile) * tile;
}

static Plan plan_of(const Product *p)
{
    const Kind *kind = kind_of(p);
    Plan z = { .kind = kind, .rows = piece(p->M, BLOCK_ROWS, kind->rows), .cols = piece(p->N, BLOCK_COLS, TILE_COLS),
               .a_panel = kind->a_bytes(p) };
    z.a = (size_t)(z.rows / kind->rows) * z.a_panel;
    z.b = (size_t)(z.cols / TILE_COLS) * kind->b_bytes;
    z.sums = p->K > kind->depth ? (size_t)(z.rows * z.cols) * sizeof(float) : 0;
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

static void pack_panel_a(Step s, int64_t i)
{
    const Kind *kind = s.z->kind;
    const int64_t at = i * kind->rows;
    kind->pack_a(s.p, s.a + (size_t)i * s.z->a_panel, s.m + at, s.k, at_most(s.rows - at, kind->rows), s.depth);
}

static void pack_panel_b(Step s, int64_t j)
{
    const Kind *kind = s.z->kind;
    const int64_t at = j * TILE_COLS;
    kind->pack_b(s.p, s.b + (size_t)j * kind->b_bytes, s.n + at, s.k, at_most(s.cols - at, TILE_COLS), s.depth);
}

static void run_tile(Step s, int64_t i, int64_t j)
{
    const Kind *kind = s.z->kind;
    const int64_t m = i * kind->rows, n = j * TILE_COLS;
    const int64_t rows = at_most(s.rows - m, kind->rows), cols = at_most(s.cols - n, TILE_COLS);
    if (s.p->symmetric && s.n + n >= s.m + m + rows) return;
    float alone[MOST_ROWS * TILE_COLS], *sums = alone;
    if (s.sums) sums = s.sums + (i * whole(s.cols, TILE_COLS) + j) * kind->rows * TILE_COLS;
    kind->multiply(s.p, s.a + (size_t)i * s.z->a_panel, s.b + (size_t)j * kind->b_bytes, rows, s.depth, sums, s.k > 0);
    if (s.k + s.depth == s.p->K) FLOAT_SWITCH(s.p->a.dtype, A, finish(s.p, A, sums, s.m + m, s.n + n, rows, cols));
}

/* Every thread runs this; the loops under OMP(for) are shared out and end together. */
static void run_step(Step s)
{
    const int64_t a_panels = whole(s.rows, s.z->kind->rows), b_panels = whole(s.cols, TILE_COLS);
    const int64_t task_rows = whole(a_panels, TASK_ROWS), task_cols = whole(b_panels, TASK_COLS);
    OMP(for schedule(dynamic, 4) nowait)
    for (int64_t i = 0; i < a_panels; i++) pack_panel_a(s, i);
    OMP(for schedule(dynamic, 2))
    for (int64_t j = 0; j < b_panels; j++) pack_panel_b(s, j);
    OMP(for schedule(dynamic))
    for (int64_t task = 0; task < task_rows * task_cols; task++) {
        const int64_t i0 = task % task_rows * TASK_ROWS, j0 = task / task_rows * TASK_COLS;
        for (int64_t j = j0; j < at_most(j0 + TASK_COLS, b_panels); j++)    /* its panel stays in a near cache */
            for (int64_t i = i0; i < at_most(i0 + TASK_ROWS, a_panels); i++) run_tile(s, i, j);
    }
}

static void run_blocks(const Product *p, const Plan *z, char *workspace)
{
    char *a = workspace, *b = a + z->a;
    float *sums = z->sums ? (float *)(b + z->b) : NULL;
    const int64_t depth = z->kind->depth;
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
