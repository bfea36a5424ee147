/* gemm_amx.c -- products of bf16 in AMX's tiles (Intel, "Architecture instruction set extensions", chapter 3).
 *
 * A tile register holds 16 rows of 64 bytes. tdpbf16ps adds to 16 x 16 sums of f32 the products of 16 rows of a, 32
 * terms each, and 16 columns of b, given as pairs of terms: b's row j holds the terms 2j and 2j + 1 of every column.
 * The sums of one pair are added in a fixed order, denormals count as 0, and no row or column enters another.
 *
 * Four registers hold a tile of 32 x 32 sums, two hold 32 rows of a and two 32 columns of b: each that is loaded is
 * used twice. A panel is a step's registers one after the other, what is missing at its ends filled with 0.
 *
 * Panels are read from the second-level cache, with prefetches; shorter steps, whose panels stay in the first, lose
 * more by carrying the sums through memory (dev/notes/2026-11-22-amx.md). */
#include "gemm_bf16.h"

#ifdef AMX

/* ---- packing ---------------------------------------------------------------------------------------------------- */

static void pack_a(const Product *p, void *panel, int64_t m, int64_t k, int64_t rows, int64_t depth)
{
    if (p->a_turned) pack_panel(true, true, panel, bf16_at(p->a, k, m), last(p->a), rows, depth);
    else             pack_panel(false, false, panel, bf16_at(p->a, m, k), last(p->a), rows, depth);
}

static void pack_b(const Product *p, void *panel, int64_t n, int64_t k, int64_t cols, int64_t depth)
{
    if (p->b_turned) pack_panel(false, true, panel, bf16_at(p->b, n, k), last(p->b), cols, depth);
    else             pack_panel(true, false, panel, bf16_at(p->b, k, n), last(p->b), cols, depth);
}

/* ---- the tile --------------------------------------------------------------------------------------------------- */

#define LOAD(tile, from)  _tile_loadd(tile, from, TERMS * 2); next = meanwhile(next, to_b)
#define MULTIPLY(s, x, y) _tile_dpbf16ps(s, x, y); next = meanwhile(next, to_b)

static void multiply(const void *a, const void *b, int64_t rows, int64_t depth, float *sums, bool add,
                     const void *next_a)
{
    (void)next_a;
    const uint16_t *at = a, *bt = b;
    const int64_t to_b = (const char *)b - (const char *)a;
    const bool lower = rows > SIDE;
    begin_sums(sums, add);
    for (int64_t k = 0; k < depth; k += TERMS, at += 2 * REGISTER, bt += 2 * REGISTER) {
        const char *next = (const char *)(at + 4 * REGISTER);   /* two steps on */
        LOAD(4, at);
        LOAD(6, bt);
        MULTIPLY(0, 4, 6);
        LOAD(7, bt + REGISTER);
        MULTIPLY(1, 4, 7);
        if (!lower) continue;
        LOAD(5, at + REGISTER);
        MULTIPLY(2, 5, 6);
        MULTIPLY(3, 5, 7);
    }
    store_sums(sums, lower);
}

/* All eight registers: 16 rows of 64 bytes. The layout is the instruction's. */
static const struct { uint8_t palette, start_row, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } layout = {
    1, 0, {0}, { 64, 64, 64, 64, 64, 64, 64, 64 }, { SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE }
};

static void begin(void) { _tile_loadconfig(&layout); }
static void end(void) { _tile_release(); }

_Static_assert((int)TILE_COLS == 2 * SIDE && (int)PANEL_LINES <= MOST_ROWS,
               "a tile of sums is two registers wide and two high");

void CPU(bf16_multiply)(const uint16_t *a, const uint16_t *b, int64_t rows, int64_t depth, float *sums, bool add)
{
    multiply(a, b, rows, depth, sums, add, NULL);
}

void CPU(amx_begin)(void) { begin(); }
void CPU(amx_end)(void) { end(); }

const Kind CPU(amx_kind) = { PANEL_LINES, PANEL_LINES * 2, TILE_COLS * 2, pack_a, pack_b, multiply, begin, end };

#endif
