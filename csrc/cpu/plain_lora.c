/* plain_lora.c -- low-rank adapters in the plainest loops; see plain.c. */
#include "plain.h"

/* out (M,R) in the workspace: out[m,r] = scale sum_k x[m,k] w(r,k), where w lies as (R,K), or turned as (K,R) */
static Tensor narrowed(Device *d, Tensor x, Tensor w, int64_t R, bool turned, float scale)
{
    const int64_t M = rows(x), K = last(x);
    const Tensor out = { d->workspace, "low", x.dtype, 2, { M, R } };
    for (int64_t m = 0; m < M; m++)
        for (int64_t r = 0; r < R; r++) {
            double sum = 0;
            for (int64_t k = 0; k < K; k++) sum += (double)get(x, m * K + k) * get(w, turned ? k * R + r : r * K + k);
            put(out, m * R + r, scale * sum);
        }
    return out;
}

void plain_lora_forward(Device *d, Tensor out, Tensor x, Tensor a, Tensor b, float scale)
{
    const int64_t N = rows(x), R = a.dim[0], O = b.dim[0];
    const Tensor low = narrowed(d, x, a, R, false, scale);
    for (int64_t n = 0; n < N; n++)
        for (int64_t o = 0; o < O; o++) {
            double sum = get(out, n * O + o);
            for (int64_t r = 0; r < R; r++) sum += (double)get(low, n * R + r) * get(b, o * R + r);
            put(out, n * O + o, sum);
        }
}

size_t plain_lora_forward_scratch(Device *d, Tensor out, Tensor x, Tensor a, Tensor b, float scale)
{
    return (size_t)(rows(x) * a.dim[0]) * dtype_size(x.dtype);
}

/* dw[i,j] (+)= sum_n dy[n,i] y[n,j] */
static void sum_products(Tensor dw, Tensor dy, Tensor y, bool accumulate)
{
    const int64_t N = rows(y), J = last(y), I = last(dy);
    for (int64_t i = 0; i < I; i++)
        for (int64_t j = 0; j < J; j++) {
            double sum = 0;
            for (int64_t n = 0; n < N; n++) sum += (double)get(dy, n * I + i) * get(y, n * J + j);
            put_sum(dw, i * J + j, sum, accumulate);
        }
}

void plain_lora_backward(Device *d, Tensor dx, Tensor da, Tensor db, Tensor dout, Tensor x, Tensor a, Tensor b,
                         float scale, bool accumulate)
{
    const int64_t N = rows(x), I = last(x), R = a.dim[0];
    if (!is_none(db)) sum_products(db, dout, narrowed(d, x, a, R, false, scale), accumulate);
    const Tensor dlow = narrowed(d, dout, b, R, true, scale);
    if (!is_none(da)) sum_products(da, dlow, x, accumulate);
    for (int64_t n = 0; n < N && !is_none(dx); n++)
        for (int64_t i = 0; i < I; i++) {
            double sum = get(dx, n * I + i);
            for (int64_t r = 0; r < R; r++) sum += (double)get(dlow, n * R + r) * get(a, r * I + i);
            put(dx, n * I + i, sum);
        }
}

size_t plain_lora_backward_scratch(Device *d, Tensor dx, Tensor da, Tensor db, Tensor dout, Tensor x, Tensor a,
                                   Tensor b, float scale, bool accumulate)
{
    return (size_t)(rows(x) * a.dim[0]) * dtype_size(x.dtype);
}
