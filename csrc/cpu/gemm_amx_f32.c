/* gemm_amx_f32.c -- products of f32 in AMX's tiles, which multiply bf16.
 *
 * An f32 is the sum of three bf16 of 8 bits each: the nearest to it, the rest cut off, and what is left. Of the nine
 * products of two numbers' parts the three smallest, each less than 2^-23 of the whole, are left out; the other six are
 * exact, and added up in f32 (G. Henry, P. Tang, A. Heinecke, "Leveraging the bfloat16 artificial intelligence datatype
 * for higher-precision computations", 2019). An instruction adds 32 terms before it rounds into the sum, and long sums
 * are cut into blocks, so what is found is as near to the true sum as by fma, or nearer. What is lost: parts, products
 * and sums below 2^-126 count as 0, so a number below 2^-110 loses its last bits; and products of an infinite number,
 * or of one from 3.396e38 on, are NaN.
 *
 * Six instructions share three registers of a and three of b: the tile wants less of memory than that of bf16. A pair
 * is of terms k and k + 16, which lie in one lane of two vectors. */
#include "gemm_bf16.h"

#ifdef AMX

enum { PART = 2 * REGISTER, STEP = PARTS * PART };      /* elements of a panel, for 32 terms */

/* ---- packing ---------------------------------------------------------------------------------------------------- */

/* One register of each part, `stride` vectors apart, of up to 16 lines and 32 terms. sideways: lines lie side by side
 * in memory, and what is filled are pairs of each of them. */
INLINE void split_block(const bool sideways, Vec *to, const int64_t stride, const float *from, int64_t step,
                        int64_t lines, int64_t left)
{
    const int count = vec_left(lines, 0);
    for (int i = 0; i < SIDE; i++) {
        const float *ahead = from + (sideways ? (i + TERMS) * step : i * step + F32_AHEAD * TERMS);
        _mm_prefetch(ahead, _MM_HINT_T0);
        _mm_prefetch(ahead + SIDE * (sideways ? step : 1), _MM_HINT_T0);
        if (sideways)
            split_line(to + i, stride, i < left ? vec_load(from, DT_F32, i * step, count) : (Vec){0},
                       i + SIDE < left ? vec_load(from, DT_F32, (i + SIDE) * step, count) : (Vec){0});
        else if (i < count)
            split_terms(to + i, stride, from + i * step, left);
        else
            split_line(to + i, stride, (Vec){0}, (Vec){0});
    }
}

/* A panel of `lines` rows of a or columns of b: of each 32 terms three parts, and of each part two registers. */
INLINE void pack(const bool sideways, const bool turn, uint16_t *panel, const float *from, int64_t stride,
                 int64_t lines, int64_t depth)
{
    enum { APART = 2 * SIDE };          /* vectors, from part to part */
    for (int64_t k = 0; k < depth; k += TERMS, panel += STEP)
        for (int64_t i = 0; i < PANEL_LINES; i += SIDE) {
            Vec *to = (Vec *)panel + i;
            if (i >= lines)
                for (int p = 0; p < PARTS; p++) memset(to + p * APART, 0, SIDE * sizeof *to);
            else {
                split_block(sideways, to, APART, from + (sideways ? k * stride + i : i * stride + k), stride,
                            lines - i, depth - k);
                for (int p = 0; turn && p < PARTS; p++) vec_transpose(to + p * APART);
            }
        }
}

static const float *f32_at(Tensor t, int64_t i, int64_t j) { return (const float *)t.data + i * last(t) + j; }

static void pack_a(const Product *p, void *panel, int64_t m, int64_t k, int64_t rows, int64_t depth)
{
    if (p->a_turned) pack(true, true, panel, f32_at(p->a, k, m), last(p->a), rows, depth);
    else             pack(false, false, panel, f32_at(p->a, m, k), last(p->a), rows, depth);
}

static void pack_b(const Product *p, void *panel, int64_t n, int64_t k, int64_t cols, int64_t depth)
{
    if (p->b_turned) pack(false, true, panel, f32_at(p->b, n, k), last(p->b), cols, depth);
    else             pack(true, false, panel, f32_at(p->b, k, n), last(p->b), cols, depth);
}

/* ---- the tile --------------------------------------------------------------------------------------------------- */

#define LOAD(tile, from, part, half) \
    _tile_loadd(tile, from + part * PART + half * REGISTER, TERMS * 2); next = meanwhile(next, to_b)
#define MULTIPLY(s, x, y) _tile_dpbf16ps(s, x, y); next = meanwhile(next, to_b)

/* The product of part p of a and the part of b that is loaded, or the other way round */
#define WITH_A(p) \
    LOAD(4, at, p, 0); MULTIPLY(0, 4, 6); MULTIPLY(1, 4, 7); LOAD(5, at, p, 1); MULTIPLY(2, 5, 6); MULTIPLY(3, 5, 7)
#define WITH_B(p) \
    LOAD(6, bt, p, 0); MULTIPLY(0, 4, 6); MULTIPLY(2, 5, 6); LOAD(7, bt, p, 1); MULTIPLY(1, 4, 7); MULTIPLY(3, 5, 7)

/* Each product of parts shares its registers of a, or of b, with the one before: a0 b2, a0 b1, a1 b1, a1 b0, a2 b0,
 * a0 b0. The order is part of the sum, and gemm_few.c's. */
static void multiply(const void *a, const void *b, int64_t rows, int64_t depth, float *sums, bool add,
                     const void *next_a)
{
    (void)next_a;
    const uint16_t *at = a, *bt = b;
    const int64_t to_b = (const char *)b - (const char *)a;
    _Alignas(64) float found[PANEL_LINES * TILE_COLS];
    begin_sums(NULL, false);
    for (int64_t k = 0; k < depth; k += TERMS, at += STEP, bt += STEP) {
        const char *next = (const char *)(at + STEP);
        LOAD(6, bt, 2, 0);
        LOAD(7, bt, 2, 1);
        WITH_A(0);
        WITH_B(1);
        WITH_A(1);
        WITH_B(0);
        WITH_A(2);
        WITH_A(0);
    }
    if (!add) {
        store_sums(sums, true);
        return;
    }
    store_sums(found, true);
    for (int64_t i = 0; i < rows * TILE_COLS; i += WIDTH)
        vec_store(sums, DT_F32, i, WIDTH, vec_f32(sums + i) + vec_f32(found + i));
}

const Kind CPU(amx_f32_kind) = { PANEL_LINES, PARTS * PANEL_LINES * 2, PARTS * TILE_COLS * 2, pack_a, pack_b, multiply,
                                 CPU(amx_begin), CPU(amx_end) };

#endif
