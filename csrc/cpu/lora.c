/* lora.c -- low-rank adapters. Their products are gemm's, and so are the orders of their sums; what is narrow between
 * two of them lies in the workspace, behind what gemm takes of it. */
#include "gemm.h"

/* low (M,R) = x (M,K) w, of w as (R,K), or turned as (K,R); not yet scaled, in f32 */
static Product narrowing(Tensor low, Tensor x, Tensor w, bool turned)
{
    return (Product){ .M = rows(x), .N = last(low), .K = last(x), .a = x, .b = w, .b_turned = !turned, .out = low };
}

/* out (M,K) += low w, of w as (K,R), or turned as (R,K) */
static Product widening(Tensor out, Tensor low, Tensor w, bool turned)
{
    return (Product){ .M = rows(out), .N = last(out), .K = last(low), .a = low, .b = w, .b_turned = !turned,
                      .out = out, .accumulate = true };
}

/* dw (+)= dy^T y */
static Product summing(Tensor dw, Tensor dy, Tensor y, bool accumulate)
{
    return (Product){ .M = last(dy), .N = last(y), .K = rows(y), .a = dy, .a_turned = true, .b = y, .out = dw,
                      .accumulate = accumulate };
}

/* What is narrow: as gemm sums it up, and scaled, as the next product reads it. In f32 they are one. */
typedef struct Narrow { Tensor sum, low; size_t bytes; } Narrow;

static Narrow narrow_at(void *at, Tensor x, int64_t R)
{
    const int64_t N = rows(x);
    Narrow z = { .sum = { at, "low", DT_F32, 2, { N, R } } };
    z.low = z.sum, z.bytes = tensor_bytes(z.sum);
    if (x.dtype == DT_F32) return z;
    z.low.dtype = x.dtype, z.low.data = (char *)at + z.bytes, z.bytes += tensor_bytes(z.low);
    return z;
}

INLINE void scale_row(int A, char *low, const char *sum, int64_t R, float scale)
{
    for (int64_t r = 0; r < R; r += WIDTH) {
        const int count = vec_left(R, r);
        vec_store(low, A, r, count, vec_load(sum, DT_F32, r, count) * scale);
    }
}

static void narrow(Device *d, Narrow z, Tensor x, Tensor w, bool turned, float scale)
{
    const Product p = narrowing(z.sum, x, w, turned);
    const int64_t N = rows(z.low), R = last(z.low);
    CPU(gemm)(d, &p);
    PARALLEL_FOR(d, N * R)
    for (int64_t n = 0; n < N; n++)
        FLOAT_SWITCH(z.low.dtype, A, scale_row(A, row(z.low, n), row(z.sum, n), R, scale));
}

/* Of the workspace: what the largest of these products takes, to a whole number of lines */
static size_t before_narrow(Device *d, const Product *p, int count)
{
    size_t most = 0;
    for (int i = 0; i < count; i++) {
        const size_t bytes = CPU(gemm_scratch)(d, &p[i]);
        if (bytes > most) most = bytes;
    }
    return (most + 63) / 64 * 64;
}

/* ---- forward ---------------------------------------------------------------------------------------------------- */

static size_t before_forward(Device *d, Tensor out, Tensor x, Tensor a, Tensor b)
{
    const Narrow z = narrow_at(NULL, x, a.dim[0]);
    return before_narrow(d, (const Product[]){ narrowing(z.sum, x, a, false), widening(out, z.low, b, false) }, 2);
}

void CPU(lora_forward)(Device *d, Tensor out, Tensor x, Tensor a, Tensor b, float scale)
{
    const Narrow z = narrow_at((char *)d->workspace + before_forward(d, out, x, a, b), x, a.dim[0]);
    const Product wide = widening(out, z.low, b, false);
    narrow(d, z, x, a, false, scale);
    CPU(gemm)(d, &wide);
}

size_t CPU(lora_forward_scratch)(Device *d, Tensor out, Tensor x, Tensor a, Tensor b, float scale)
{
    return before_forward(d, out, x, a, b) + narrow_at(NULL, x, a.dim[0]).bytes;
}

/* ---- backward --------------------------------------------------------------------------------------------------- */

static size_t before_backward(Device *d, Tensor dx, Tensor da, Tensor db, Tensor dout, Tensor x, Tensor a, Tensor b)
{
    const Narrow z = narrow_at(NULL, x, a.dim[0]);
    Product p[5] = { narrowing(z.sum, x, a, false), narrowing(z.sum, dout, b, true) };
    int count = 2;
    if (!is_none(dx)) p[count++] = widening(dx, z.low, a, true);
    if (!is_none(da)) p[count++] = summing(da, z.low, x, true);
    if (!is_none(db)) p[count++] = summing(db, dout, z.low, true);
    return before_narrow(d, p, count);
}

/* low and then dlow, in one place */
void CPU(lora_backward)(Device *d, Tensor dx, Tensor da, Tensor db, Tensor dout, Tensor x, Tensor a, Tensor b,
                        float scale, bool accumulate)
{
    const Narrow z = narrow_at((char *)d->workspace + before_backward(d, dx, da, db, dout, x, a, b), x, a.dim[0]);
    const Product to_x = widening(dx, z.low, a, true), to_a = summing(da, z.low, x, accumulate),
                  to_b = summing(db, dout, z.low, accumulate);
    if (!is_none(db)) {
        narrow(d, z, x, a, false, scale);
        CPU(gemm)(d, &to_b);
    }
    if (is_none(dx) && is_none(da)) return;
    narrow(d, z, dout, b, true, scale);
    if (!is_none(da)) CPU(gemm)(d, &to_a);
    if (!is_none(dx)) CPU(gemm)(d, &to_x);
}

size_t CPU(lora_backward_scratch)(Device *d, Tensor dx, Tensor da, Tensor db, Tensor dout, Tensor x, Tensor a,
                                  Tensor b, float scale, bool accumulate)
{
    return before_backward(d, dx, da, db, dout, x, a, b) + narrow_at(NULL, x, a.dim[0]).bytes;
}
