/* gemm.c -- products of whole tensors: blocks, threads, and what is done to a sum on its way out. See gemm.h.
 *
 * out is cut into blocks of at most BLOCK_ROWS x BLOCK_COLS, and each runs over k in steps of DEPTH. For one step all
 * threads first pack the operands' panels, then share out the tiles. Between steps the sums wait in the workspace, tile
 * by tile, in f32 whatever the type of out. */
#include "gemm.h"

enum { BLOCK_ROWS = 1344, BLOCK_COLS = 2048 };  /* packed, both together leave room in the cache the cores share */
enum { TASK_ROWS = 8, TASK_COLS = 4 };          /* in tiles: rows of a that stay in the second-level cache, and so on */

typedef struct Plan { int64_t rows, cols; size_t a, b, sums; } Plan;        /* of one block; floats in each buffer */

/* equal pieces of at most `most`, each a whole number of tiles */
static int64_t piece(int64_t length, int64_t most, int64_t tile)
{
    return whole(whole(length, whole(length, most)), tile) * tile;
}

static Plan plan_of(const Product *p)
{
    Plan z = { piece(p->M, BLOCK_ROWS, TILE_ROWS), piece(p->N, BLOCK_COLS, TILE_COLS), 0, 0, 0 };
    z.a = (size_t)(z.rows * (p->a_turned ? DEPTH : LINE));
    z.b = (size_t)(z.cols * DEPTH);
    z.sums = p->K > DEPTH ? (size_t)(z.rows * z.cols) : 0;
    return z;
}

size_t CPU(gemm_scratch)(const Product *p)
{
    const Plan z = plan_of(p);
    return (z.a + z.b + z.sums) * sizeof(float);
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
    int64_t m, n, k, rows, cols, depth;
    float *a, *b, *sums;        /* sums NULL: the first step is the last */
} Step;

static const void *element(Tensor t, int64_t i, int64_t j)
{
    return (const char *)t.data + (size_t)(i * last(t) + j) * dtype_size(t.dtype);
}

static void pack_a(Step s, int64_t panel)
{
    const int64_t m = panel * TILE_ROWS, rows = at_most(s.rows - m, TILE_ROWS);
    const Tensor a = s.p->a;
    if (s.p->a_turned)
        CPU(copy_block)(s.a + m * DEPTH, TILE_ROWS, element(a, s.k, s.m + m), a.dtype, last(a), s.depth, rows);
    else
        CPU(copy_block)(s.a + m * LINE, LINE, element(a, s.m + m, s.k), a.dtype, last(a), rows, s.depth);
}

static void pack_b(Step s, int64_t panel)
{
    const int64_t n = panel * TILE_COLS, cols = at_most(s.cols - n, TILE_COLS);
    const Tensor b = s.p->b;
    if (s.p->b_turned) CPU(pack_columns)(s.b + n * DEPTH, element(b, s.n + n, s.k), b.dtype, last(b), s.depth, cols);
    else               CPU(pack_rows)(s.b + n * DEPTH, element(b, s.k, s.n + n), b.dtype, last(b), s.depth, cols);
}

/* The panel of b stays in the first-level cache while the rows of a pass by. */
static void multiply(Step s, int64_t task_row, int64_t task_col)
{
    const int64_t m1 = at_most((task_row + 1) * TASK_ROWS * TILE_ROWS, s.rows);
    const int64_t n1 = at_most((task_col + 1) * TASK_COLS * TILE_COLS, s.cols);
    const bool done = s.k + s.depth == s.p->K;
    float alone[TILE_ROWS * TILE_COLS];
    for (int64_t n = task_col * TASK_COLS * TILE_COLS; n < n1; n += TILE_COLS)
        for (int64_t m = task_row * TASK_ROWS * TILE_ROWS; m < m1; m += TILE_ROWS) {
            const int64_t rows = at_most(s.rows - m, TILE_ROWS), cols = at_most(s.cols - n, TILE_COLS);
            float *sums = s.sums ? s.sums + m * whole(s.cols, TILE_COLS) * TILE_COLS + n * TILE_ROWS : alone;
            if (s.p->a_turned)
                CPU(tile_steps)(rows, s.depth, s.a + m * DEPTH, TILE_ROWS, s.b + n * DEPTH, sums, TILE_COLS, s.k > 0);
            else
                CPU(tile_lines)(rows, s.depth, s.a + m * LINE, s.b + n * DEPTH, sums, TILE_COLS, s.k > 0);
            if (done) FLOAT_SWITCH(s.p->a.dtype, A, finish(s.p, A, sums, s.m + m, s.n + n, rows, cols));
        }
}

/* Every thread runs this; the loops under OMP(for) are shared out and end together. */
static void run_step(Step s)
{
    const int64_t a_panels = whole(s.rows, TILE_ROWS), b_panels = whole(s.cols, TILE_COLS);
    const int64_t task_rows = whole(a_panels, TASK_ROWS), task_cols = whole(b_panels, TASK_COLS);
    OMP(for schedule(dynamic, 4) nowait)
    for (int64_t i = 0; i < a_panels; i++) pack_a(s, i);
    OMP(for schedule(dynamic, 2))
    for (int64_t i = 0; i < b_panels; i++) pack_b(s, i);
    OMP(for schedule(dynamic))
    for (int64_t i = 0; i < task_rows * task_cols; i++) multiply(s, i % task_rows, i / task_rows);
}

void CPU(gemm)(Device *d, const Product *p)
{
    const Plan z = plan_of(p);
    float *a = d->workspace, *b = a + z.a, *sums = z.sums ? b + z.b : NULL;
    OMP(parallel num_threads(team(d, p->M * p->N * p->K / 64)))
    for (int64_t n = 0; n < p->N; n += z.cols)
        for (int64_t m = 0; m < p->M; m += z.rows)
            for (int64_t k = 0; k < p->K; k += DEPTH)
                run_step((Step){ p, m, n, k, at_most(p->M - m, z.rows), at_most(p->N - n, z.cols),
                                 at_most(p->K - k, DEPTH), a, b, sums });
}
