/* quantize.h -- int8: QUANT_GROUP neighbours of a row share one f32 scale, and x is about q * scale.
 *
 * The scale is max |x| / 127 over the group, q = x / scale to nearest, ties to even, so |q| <= 127. A group of nothing
 * but numbers below 2^-100 becomes 0. A NaN or an infinity makes the group's scale one, so it is not lost. */
#ifndef LLMC_QUANTIZE_H
#define LLMC_QUANTIZE_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { QUANT_GROUP = 64 };

static inline int64_t quant_groups(int64_t width) { return (width + QUANT_GROUP - 1) / QUANT_GROUP; }

/* Of a group whose largest |x| is `most`: its scale, and what x is multiplied by. */
static inline float quant_scale(float most, float *inverse)
{
    *inverse = most < 0x1p-100f ? 0 : 127 / most;
    return most < 0x1p-100f ? 0 : most / 127;
}

/* Rows of x (rows, width) to q, the same shape, and scale (rows, quant_groups(width)); and back. */
void quantize(int8_t *q, float *scale, const float *x, int64_t rows, int64_t width);
void dequantize(float *x, const int8_t *q, const float *scale, int64_t rows, int64_t width);

#ifdef __cplusplus
}
#endif
#endif
