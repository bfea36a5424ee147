/* quantize.c -- see quantize.h */
#include "quantize.h"

#include <math.h>

static void quantize_group(int8_t *q, float *scale, const float *x, int64_t n)
{
    float most = 0, inverse;
    for (int64_t i = 0; i < n; i++) most = isnan(most) || fabsf(x[i]) <= most ? most : fabsf(x[i]);
    *scale = quant_scale(most, &inverse);
    for (int64_t i = 0; i < n; i++) q[i] = isfinite(most) ? (int8_t)lrintf(x[i] * inverse) : 1;
}

void quantize(int8_t *q, float *scale, const float *x, int64_t rows, int64_t width)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < width; k += QUANT_GROUP, scale++)
            quantize_group(q + r * width + k, scale, x + r * width + k,
                           width - k < QUANT_GROUP ? width - k : QUANT_GROUP);
}

void dequantize(float *x, const int8_t *q, const float *scale, int64_t rows, int64_t width)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < width; k++)
            x[r * width + k] = (float)q[r * width + k] * scale[r * quant_groups(width) + k / QUANT_GROUP];
}
