/* gemm_bf16.h -- how operands of bf16 are read for instructions that multiply pairs of terms: 16 lines (rows of a, or
 * columns of b) and 32 terms at a time. Lines and terms that are not there are 0. */
#ifndef LLMC_CPU_GEMM_BF16_H
#define LLMC_CPU_GEMM_BF16_H

#include "gemm.h"

#ifdef __AVX512BF16__

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

enum { FLUSH = 0x8040 };        /* bits of MXCSR that make denormals 0, read and written, as the tiles do */

#endif
#endif
