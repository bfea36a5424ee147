/* norm.h -- what norm.c and rope.c (which normalises heads) share: a row's squares, its way back, and the sums over
 * rows that gradients of weights are. */
#ifndef LLMC_CPU_NORM_H
#define LLMC_CPU_NORM_H

#include "vec.h"

/* of the differences from the mean */
INLINE double row_squares(int A, const char *in, int64_t C, float mean)
{
    Sum squares = {0};
    for (int64_t c = 0; c < C; c += WIDTH) {
        const int count = vec_left(C, c);
        const Vec v = vec_keep(vec_load(in, A, c, count) - mean, count, vec_all(0));
        squares = sum_add_product(squares, v, v);
    }
    return sum_total(squares);
}

INLINE float row_rstd(int A, const char *in, int64_t C, float mean, float eps)
{
    return (float)(1 / sqrt(row_squares(A, in, C, mean) / (double)C + eps));
}

/* unit = (x - mean) rstd;  dx = dres + rstd (g - mean_c g - unit mean_c(g unit)),  g = dout w; RMSNorm has no mean_c g.
 * slope += dout unit and shift += dout on the way, where they are wanted. dout is of type O. */
INLINE void row_backward(int A, char *dx, float *slope, float *shift, int O, const void *dout, const char *dres,
                         const char *x, const void *w, const float *mean, float r, int64_t C)
{
    const float mu = mean ? *mean : 0;
    Sum sum = {0}, dot = {0};
    for (int64_t c = 0; c < C; c += WIDTH) {
        const int count = vec_left(C, c);
        const Vec unit = (vec_load(x, A, c, count) - mu) * r, up = vec_load(dout, O, c, count);
        const Vec g = up * vec_load(w, A, c, count);
        sum = sum_add(sum, g);
        dot = sum_add_product(dot, g, unit);
        if (slope) vec_store(slope, DT_F32, c, count, vec_load(slope, DT_F32, c, count) + up * unit);
        if (shift) vec_store(shift, DT_F32, c, count, vec_load(shift, DT_F32, c, count) + up);
    }
    const float pull = mean ? (float)(sum_total(sum) / (double)C) : 0, twist = (float)(sum_total(dot) / (double)C);
    for (int64_t c = 0; c < C; c += WIDTH) {
        const int count = vec_left(C, c);
        const Vec unit = (vec_load(x, A, c, count) - mu) * r;
        const Vec g = vec_load(dout, O, c, count) * vec_load(w, A, c, count);
        const Vec res = dres ? vec_load(dres, A, c, count) : vec_all(0);
        vec_store(dx, A, c, count, res + (g - pull - unit * twist) * r);
    }
}

/* Rows are taken in blocks whose size depends on N alone. Each block sums its part of two gradients in the workspace,
 * C floats of the one and C of the other side by side; then the parts are added in the order of the blocks. */
INLINE int64_t rows_in_block(int64_t N)
{
    enum { FEWEST_ROWS = 16, MOST_BLOCKS = 256 };
    const int64_t even = (N + MOST_BLOCKS - 1) / MOST_BLOCKS;
    return even < FEWEST_ROWS ? FEWEST_ROWS : even;
}

INLINE int64_t blocks_of(int64_t N) { return (N + rows_in_block(N) - 1) / rows_in_block(N); }

static void add_parts(Device *d, Tensor dw, const float *part, int64_t blocks, bool accumulate)
{
    const int64_t C = numel(dw);
    PARALLEL_FOR(d, blocks * C)
    for (int64_t c = 0; c < C; c += WIDTH) {
        const int count = vec_left(C, c);
        Vec sum = accumulate ? vec_load(dw.data, DT_F32, c, count) : vec_all(0);
        for (int64_t b = 0; b < blocks; b++) sum += vec_load(part + b * 2 * C, DT_F32, c, count);
        vec_store(dw.data, DT_F32, c, count, sum);
    }
}

#endif
