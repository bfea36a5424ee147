/* norm.c -- LayerNorm and RMSNorm, with the residual sum in front. A row is in cache from its first use to its last. */
#include "vec.h"

INLINE double row_sum(int A, const char *in, int64_t C)
{
    Sum sum = {0};
    for (int64_t c = 0; c < C; c += WIDTH) sum = sum_add(sum, vec_load(in, A, c, vec_left(C, c)));
    return sum_total(sum);
}

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

INLINE void forward_row(int A, Tensor sum, Tensor out, float *mean, float *rstd, Tensor x, Tensor branch, Tensor w,
                        Tensor b, float eps, int64_t n, int64_t C)
{
    const char *in = row(x, n);
    if (!is_none(branch)) {
        char *to = row(sum, n);
        const char *other = row(branch, n);
        for (int64_t c = 0; c < C; c += WIDTH) {
            const int count = vec_left(C, c);
            vec_store(to, A, c, count, vec_load(in, A, c, count) + vec_load(other, A, c, count));
        }
        in = to;
    }
    const float mu = mean ? (float)(row_sum(A, in, C) / (double)C) : 0;
    const float r = (float)(1 / sqrt(row_squares(A, in, C, mu) / (double)C + eps));
    char *to = row(out, n);
    for (int64_t c = 0; c < C; c += WIDTH) {
        const int count = vec_left(C, c);
        const Vec unit = (vec_load(in, A, c, count) - mu) * r;
        const Vec shift = is_none(b) ? vec_all(0) : vec_load(b.data, A, c, count);
        vec_store(to, A, c, count, unit * vec_load(w.data, A, c, count) + shift);
    }
    if (mean) mean[n] = mu;
    rstd[n] = r;
}

void CPU(norm_forward)(Device *d, Tensor sum, Tensor out, Tensor mean, Tensor rstd, Tensor x, Tensor branch, Tensor w,
                       Tensor b, float eps)
{
    const int64_t N = rows(x), C = last(x);
    PARALLEL_FOR(d, N * C)
    for (int64_t n = 0; n < N; n++)
        FLOAT_SWITCH(x.dtype, A, forward_row(A, sum, out, mean.data, rstd.data, x, branch, w, b, eps, n, C));
}

/* unit = (x - mean) rstd;  dx = dres + rstd (g - mean_c g - unit mean_c(g unit)),  g = dout w; RMSNorm has no mean_c g.
 * slope += dout unit and shift += dout on the way, where they are wanted. */
INLINE void backward_row(int A, Tensor dx, float *slope, float *shift, Tensor dout, Tensor dres, Tensor x, Tensor w,
                         const float *mean, const float *rstd, int64_t n, int64_t C)
{
    const char *in = row(x, n), *from = row(dout, n), *beside = is_none(dres) ? NULL : row(dres, n);
    const float mu = mean ? mean[n] : 0, r = rstd[n];
    Sum sum = {0}, dot = {0};
    for (int64_t c = 0; c < C; c += WIDTH) {
        const int count = vec_left(C, c);
        const Vec unit = (vec_load(in, A, c, count) - mu) * r, up = vec_load(from, A, c, count);
        const Vec g = up * vec_load(w.data, A, c, count);
        sum = sum_add(sum, g);
        dot = sum_add_product(dot, g, unit);
        if (slope) vec_store(slope, DT_F32, c, count, vec_load(slope, DT_F32, c, count) + up * unit);
        if (shift) vec_store(shift, DT_F32, c, count, vec_load(shift, DT_F32, c, count) + up);
    }
    const float pull = mean ? (float)(sum_total(sum) / (double)C) : 0, twist = (float)(sum_total(dot) / (double)C);
    char *to = row(dx, n);
    for (int64_t c = 0; c < C; c += WIDTH) {
        const int count = vec_left(C, c);
        const Vec unit = (vec_load(in, A, c, count) - mu) * r;
        const Vec g = vec_load(from, A, c, count) * vec_load(w.data, A, c, count);
        const Vec res = beside ? vec_load(beside, A, c, count) : vec_all(0);
        vec_store(to, A, c, count, res + (g - pull - unit * twist) * r);
    }
}

/* Rows are taken in blocks whose size depends on N alone. Each block sums its part of dw and db in the workspace,
 * slope (C) and shift (C) side by side; then the parts are added in the order of the blocks. */
static int64_t rows_in_block(int64_t N)
{
    enum { FEWEST_ROWS = 16, MOST_BLOCKS = 256 };
    const int64_t even = (N + MOST_BLOCKS - 1) / MOST_BLOCKS;
    return even < FEWEST_ROWS ? FEWEST_ROWS : even;
}

static int64_t blocks_of(int64_t N) { return (N + rows_in_block(N) - 1) / rows_in_block(N); }

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

void CPU(norm_backward)(Device *d, Tensor dx, Tensor dw, Tensor db, Tensor dout, Tensor dres, Tensor x, Tensor w,
                        Tensor mean, Tensor rstd, bool accumulate)
{
    const int64_t N = rows(x), C = last(x), step = rows_in_block(N), blocks = blocks_of(N);
    float *parts = d->workspace;
    PARALLEL_FOR(d, N * C)
    for (int64_t b = 0; b < blocks; b++) {
        float *slope = is_none(dw) ? NULL : parts + b * 2 * C, *shift = is_none(db) ? NULL : parts + b * 2 * C + C;
        if (slope) memset(slope, 0, (size_t)C * sizeof *slope);
        if (shift) memset(shift, 0, (size_t)C * sizeof *shift);
        for (int64_t n = b * step; n < N && n < (b + 1) * step; n++)
            FLOAT_SWITCH(x.dtype, A, backward_row(A, dx, slope, shift, dout, dres, x, w, mean.data, rstd.data, n, C));
    }
    if (!is_none(dw)) add_parts(d, dw, parts, blocks, accumulate);
    if (!is_none(db)) add_parts(d, db, parts + C, blocks, accumulate);
}

size_t CPU(norm_backward_scratch)(Device *d, Tensor dx, Tensor dw, Tensor db, Tensor dout, Tensor dres, Tensor x,
                                  Tensor w, Tensor mean, Tensor rstd, bool accumulate)
{
    return is_none(dw) && is_none(db) ? 0 : (size_t)(blocks_of(rows(x)) * 2 * last(x)) * sizeof(float);
}
