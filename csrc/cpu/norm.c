/* norm.c -- LayerNorm and RMSNorm, with the residual sum in front. A row is in cache from its first use to its last. */
#include "norm.h"

INLINE double row_sum(int A, const char *in, int64_t C)
{
    Sum sum = {0};
    for (int64_t c = 0; c < C; c += WIDTH) sum = sum_add(sum, vec_load(in, A, c, vec_left(C, c)));
    return sum_total(sum);
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
    const float r = row_rstd(A, in, C, mu, eps);
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

void CPU(norm_backward)(Device *d, Tensor dx, Tensor dw, Tensor db, Tensor dout, Tensor dres, Tensor x, Tensor w,
                        Tensor mean, Tensor rstd, bool accumulate)
{
    const int64_t N = rows(x), C = last(x), step = rows_in_block(N), blocks = blocks_of(N);
    const float *mu = mean.data, *r = rstd.data;
    float *parts = d->workspace;
    PARALLEL_FOR(d, N * C)
    for (int64_t b = 0; b < blocks; b++) {
        float *slope = is_none(dw) ? NULL : parts + b * 2 * C, *shift = is_none(db) ? NULL : parts + b * 2 * C + C;
        if (slope) memset(slope, 0, (size_t)C * sizeof *slope);
        if (shift) memset(shift, 0, (size_t)C * sizeof *shift);
        for (int64_t n = b * step; n < N && n < (b + 1) * step; n++)
            FLOAT_SWITCH(x.dtype, A, row_backward(A, row(dx, n), slope, shift, A, row(dout, n),
                                                  is_none(dres) ? NULL : row(dres, n), row(x, n), w.data,
                                                  mu ? mu + n : NULL, r[n], C));
    }
    if (!is_none(dw)) add_parts(d, dw, parts, blocks, accumulate);
    if (!is_none(db)) add_parts(d, db, parts + C, blocks, accumulate);
}

size_t CPU(norm_backward_scratch)(Device *d, Tensor dx, Tensor dw, Tensor db, Tensor dout, Tensor dres, Tensor x,
                                  Tensor w, Tensor mean, Tensor rstd, bool accumulate)
{
    return is_none(dw) && is_none(db) ? 0 : (size_t)(blocks_of(rows(x)) * 2 * last(x)) * sizeof(float);
}
