/* gemm_bf16.h -- how operands are read for instructions that multiply pairs of bf16: 16 lines (rows of a, or columns of
 * b) and 32 terms at a time. Lines and terms that are not there are 0. */
#ifndef LLMC_CPU_GEMM_BF16_H
#define LLMC_CPU_GEMM_BF16_H

#include "gemm.h"

#ifdef PAIRED

enum { SIDE = 16, TERMS = 32 };                 /* lines and terms of one block */

INLINE const uint16_t *bf16_at(Tensor t, int64_t i, int64_t j) { return (const uint16_t *)t.data + i * last(t) + j; }

INLINE Vec terms(const uint16_t *from, int64_t count)
{
    return (Vec)_mm512_maskz_loadu_epi16(count < TERMS ? (1u << count) - 1 : ~0u, from);
}

/* v[i] = the terms of line i, which lie side by side in memory */
INLINE void load_lines(Vec v[SIDE], const uint16_t *from, int64_t stride, int64_t lines, int64_t depth)
{
#pragma GCC unroll 16
    for (int i = 0; i < SIDE; i++) v[i] = i < lines ? terms(from + i * stride, depth) : (Vec){0};
}

/* v[j] = the terms 2j and 2j + 1 of every line, when the lines lie side by side in memory */
INLINE void load_pairs(Vec v[SIDE], const uint16_t *from, int64_t stride, int64_t lines, int64_t depth)
{
    const int count = (int)at_most(lines, SIDE);
#pragma GCC unroll 16
    for (int j = 0; j < SIDE; j++) {
        const VecH even = 2 * j < depth ? head_bf16(from + 2 * j * stride, count) : (VecH){0};
        const VecH odd = 2 * j + 1 < depth ? head_bf16(from + (2 * j + 1) * stride, count) : (VecH){0};
        v[j] = (Vec)(vec_widen(even) | vec_widen(odd) << 16);
    }
}

/* pairs of terms, as floats: the even terms, and the odd ones */
INLINE Vec low(Vec pairs)  { return (Vec)((VecU)pairs << 16); }
INLINE Vec high(Vec pairs) { return (Vec)((VecU)pairs & 0xffff0000u); }

/* ---- panels ----------------------------------------------------------------------------------------------------- */

enum { PANEL_LINES = 2 * SIDE };                /* rows of a, or columns of b */
enum { REGISTER = SIDE * TERMS };               /* elements: 16 lines of 32 terms, or 16 pairs of 16 columns */

/* A panel of `lines` rows of a or columns of b: of each 32 terms two registers, one after the other. Rows of a are rows
 * of a register, and columns of b columns of pairs. sideways: its terms do not lie side by side in memory. turn: what
 * is loaded stands across. */
INLINE void pack_panel(const bool sideways, const bool turn, uint16_t *panel, const uint16_t *from, int64_t stride,
                       int64_t lines, int64_t depth)
{
    for (int64_t k = 0; k < depth; k += TERMS)
        for (int64_t i = 0; i < PANEL_LINES; i += SIDE, panel += REGISTER) {
            if (i && i >= lines) continue;      /* not read, of a; of b it is, but its sums are not */
            Vec v[SIDE];
            if (sideways) load_pairs(v, from + k * stride + i, stride, lines - i, depth - k);
            else          load_lines(v, from + i * stride + k, stride, lines - i, depth - k);
            if (turn) vec_transpose(v);
            memcpy(panel, v, sizeof v);
        }
}

/* ---- AMX's tiles ------------------------------------------------------------------------------------------------ */

#ifdef AMX

enum { SUMS_BYTES = TILE_COLS * sizeof(float), HALF = SIDE * TILE_COLS };

/* Some other instructions after one of a tile's: where these follow one another at once, and a core's other thread is
 * busy, they take twice as long (dev/notes/2026-11-22-tiles.md). Asks for 4 lines of a, and of b that far from it. */
INLINE const char *meanwhile(const char *a, int64_t to_b)
{
    __asm__ volatile("prefetcht0 (%0)\n\tprefetcht0 64(%0)\n\tprefetcht0 128(%0)\n\tprefetcht0 192(%0)"
                     : : "r"(a));
    __asm__ volatile("prefetcht0 (%0,%1)\n\tprefetcht0 64(%0,%1)\n\tprefetcht0 128(%0,%1)\n\tprefetcht0 192(%0,%1)"
                     : : "r"(a), "r"(to_b));
    return a + 4 * 64;
}

/* A tile of 32 x 32 sums, in registers 0 to 3 */
INLINE void begin_sums(const float *sums, bool add)
{
    WRITTEN();
    if (add) {
        _tile_loadd(0, sums, SUMS_BYTES);
        _tile_loadd(1, sums + SIDE, SUMS_BYTES);
        _tile_loadd(2, sums + HALF, SUMS_BYTES);
        _tile_loadd(3, sums + HALF + SIDE, SUMS_BYTES);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
}

INLINE void store_sums(float *sums, bool lower)
{
    _tile_stored(0, sums, SUMS_BYTES);
    _tile_stored(1, sums + SIDE, SUMS_BYTES);
    if (!lower) return;
    _tile_stored(2, sums + HALF, SUMS_BYTES);
    _tile_stored(3, sums + HALF + SIDE, SUMS_BYTES);
}

/* ---- f32 as three bf16, see gemm_amx_f32.c ----------------------------------------------------------------------- */

enum { PARTS = 3, F32_AHEAD = 2 };               /* F32_AHEAD: steps of 32 terms, that memory is asked for before */

/* Pairs of what stands in the upper halves of two vectors */
INLINE Vec pairs_of(Vec lower, Vec upper)
{
    const __m512i move = _mm512_set4_epi32(0x0f0e0f0e, 0x0b0a0b0a, 0x07060706, 0x03020302);
    return (Vec)_mm512_mask_shuffle_epi8((__m512i)upper, 0x3333333333333333, (__m512i)lower, move);
}

/* line[p * stride] = part p of 16 terms, in the lower halves of its pairs, and of 16 others in the upper ones. The
 * first part is the nearest bf16, so that what is left has either sign; the second is cut off; the third the rest. */
INLINE void split_line(Vec *line, const int64_t stride, Vec lower, Vec upper)
{
    const Vec of_lower = high((Vec)((VecU)lower + 0x8000)), of_upper = high((Vec)((VecU)upper + 0x8000));
    line[0] = pairs_of(of_lower, of_upper);
    lower -= of_lower;
    upper -= of_upper;
    line[stride] = pairs_of(lower, upper);
    line[2 * stride] = pairs_of(lower - high(lower), upper - high(upper));
}

/* The same of 32 terms side by side, of which there are `count` */
INLINE void split_terms(Vec *line, const int64_t stride, const float *from, int64_t count)
{
    const Vec lower = vec_load(from, DT_F32, 0, vec_left(count, 0));
    split_line(line, stride, lower, count > SIDE ? vec_load(from, DT_F32, SIDE, vec_left(count, SIDE)) : (Vec){0});
}

#endif
#endif
#endif
