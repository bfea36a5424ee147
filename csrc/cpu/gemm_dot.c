/* gemm_dot.c -- products of bf16 by vdpbf16ps, which adds to each of 16 sums of f32 the products of two pairs of terms
 * (Intel, "Architecture instruction set extensions", AVX512_BF16). For processors that have it but no AMX.
 *
 * The tile is f32's, TILE_ROWS x TILE_COLS sums in registers, with pairs in place of numbers: a panel holds (terms / 2,
 * rows or columns) pairs of 4 bytes. Of a pair the second term's product is added first; denormals count as 0.
 *
 * Attention's panels are those of AMX's tiles, in which the pairs of a row, not those of a term, lie side by side. */
#include "gemm_bf16.h"

#ifdef DOT

enum { PAIR_BYTES = 4 };

/* ---- packing ---------------------------------------------------------------------------------------------------- */

/* A panel for `width` rows of a or columns of b, of which there are `lines`. sideways: its terms do not lie side by
 * side in memory. */
INLINE void pack(const bool sideways, const int64_t width, uint32_t *panel, const uint16_t *from, int64_t stride,
                 int64_t lines, int64_t depth)
{
    for (int64_t k = 0; k < depth; k += TERMS)
        for (int64_t i = 0; i < width; i += SIDE) {
            Vec v[SIDE];
            if (sideways) load_pairs(v, from + k * stride + i, stride, at_least(lines - i, 0), depth - k);
            else          load_lines(v, from + i * stride + k, stride, lines - i, depth - k);
            if (!sideways) vec_transpose(v);
            for (int64_t j = 0; j < SIDE && k + 2 * j < depth; j++)
                vec_store(panel, DT_F32, (k / 2 + j) * width + i, vec_left(width, i), v[j]);
        }
}

static void pack_a(const Product *p, void *panel, int64_t m, int64_t k, int64_t rows, int64_t depth)
{
    if (p->a_turned) pack(true, TILE_ROWS, panel, bf16_at(p->a, k, m), last(p->a), rows, depth);
    else             pack(false, TILE_ROWS, panel, bf16_at(p->a, m, k), last(p->a), rows, depth);
}

static void pack_b(const Product *p, void *panel, int64_t n, int64_t k, int64_t cols, int64_t depth)
{
    if (p->b_turned) pack(false, TILE_COLS, panel, bf16_at(p->b, n, k), last(p->b), cols, depth);
    else             pack(true, TILE_COLS, panel, bf16_at(p->b, k, n), last(p->b), cols, depth);
}

/* ---- the tile --------------------------------------------------------------------------------------------------- */

/* In all of these rows is a constant where they are inlined, so that all sums live in registers. */
typedef Vec Sums[TILE_ROWS][TILE_VECS];

/* Adds a pair of each row, a_row apart, times a pair of each column, of which the second register is b_vec on. */
INLINE void add_pairs(const int rows, Sums sum, const uint32_t *a, const int64_t a_row, const uint32_t *b,
                      const int64_t b_vec)
{
    Vec of_b[TILE_VECS];
    for (int j = 0; j < TILE_VECS; j++) memcpy(&of_b[j], b + j * b_vec, sizeof of_b[j]);
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int j = 0; j < TILE_VECS; j++)
            sum[r][j] = (Vec)_mm512_dpbf16_ps((__m512)sum[r][j], (__m512bh)_mm512_set1_epi32((int)a[r * a_row]),
                                              (__m512bh)of_b[j]);
}

INLINE void store_sums(const int rows, Sums sum, float *to, bool add)
{
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int j = 0; j < TILE_VECS; j++, to += WIDTH)
            vec_store(to, DT_F32, 0, WIDTH, add ? vec_f32(to) + sum[r][j] : sum[r][j]);
}

INLINE void tile(const int rows, int64_t pairs, const uint32_t *a, const uint32_t *b, float *sums, bool add,
                 const char *next_a)
{
    Sums sum = {0};
    for (int64_t k = 0; k < pairs; k++, a += TILE_ROWS, b += TILE_COLS) {
        if (next_a) __builtin_prefetch(next_a + k * TILE_ROWS * PAIR_BYTES, 0, 2);
        add_pairs(rows, sum, a, 1, b, WIDTH);
    }
    store_sums(rows, sum, sums, add);
}

static void multiply(const void *a, const void *b, int64_t rows, int64_t depth, float *sums, bool add,
                     const void *next_a)
{
    for (int64_t k = 0; k < depth; k += DEPTH) {
        const uint32_t *at = (const uint32_t *)a + k / 2 * TILE_ROWS, *bt = (const uint32_t *)b + k / 2 * TILE_COLS;
        const char *next = next_a ? (const char *)next_a + k / 2 * TILE_ROWS * PAIR_BYTES : NULL;
        const int64_t pairs = whole(at_most(depth - k, DEPTH), 2);
#define ROWS(n) case n: tile(n, pairs, at, bt, sums, add || k, next); break;
        switch (rows) { EACH_ROWS(ROWS) }
#undef ROWS
    }
}

const Kind CPU(dot_kind) = { TILE_ROWS, TILE_ROWS * 2, TILE_COLS * 2, pack_a, pack_b, multiply, NULL, NULL };

/* ---- for attention ---------------------------------------------------------------------------------------------- */

enum { STEP = REGISTER };       /* pairs in a panel's two registers, for 32 terms */

/* The same of pack_panel's panels, from that row of a on */
INLINE void panel_tile(const int rows, int64_t pairs, const uint32_t *a, const uint32_t *b, float *sums, bool add)
{
    Sums sum = {0};
#pragma GCC unroll 16
    for (int r = 0; r < rows && add; r++)
#pragma GCC unroll 2
        for (int j = 0; j < TILE_VECS; j++) sum[r][j] = vec_f32(sums + r * TILE_COLS + j * WIDTH);
    for (; pairs > 0; pairs -= SIDE, a += STEP, b += STEP)
        for (int64_t k = 0; k < at_most(pairs, SIDE); k++) add_pairs(rows, sum, a + k, SIDE, b + k * SIDE, STEP / 2);
    store_sums(rows, sum, sums, false);
}

/* Rows are cut evenly into as few tiles as hold them. */
void CPU(bf16_multiply)(const uint16_t *a, const uint16_t *b, int64_t rows, int64_t depth, float *sums, bool add)
{
    const int64_t most = whole(rows, whole(rows, TILE_ROWS)), pairs = whole(depth, 2);
    for (int64_t r = 0; r < rows; r += most) {
        const uint32_t *at = (const uint32_t *)a + r * SIDE, *bt = (const uint32_t *)b;
#define ROWS(n) case n: panel_tile(n, pairs, at, bt, sums + r * TILE_COLS, add); break;
        switch (at_most(rows - r, most)) { EACH_ROWS(ROWS) }
#undef ROWS
    }
}

#endif
