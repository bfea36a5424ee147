/* linear.c -- the products of a layer, forward and back: x w^T, dout w and dout^T x are one gemm, read three ways. */
#include "gemm.h"
#include "../quantize.h"

/* ---- forward ---------------------------------------------------------------------------------------------------- */

static Product forward_product(Tensor out, Tensor pre, Tensor x, Tensor w, Tensor b, Activation act)
{
    return (Product){ .M = rows(x), .N = w.dim[0], .K = last(x), .a = x, .b = w, .b_turned = true,
                      .out = out, .bias = b, .keep = pre, .act = act };
}

void CPU(linear_forward)(Device *d, Tensor out, Tensor pre, Tensor x, Tensor w, Tensor b, Activation act)
{
    const Product p = forward_product(out, pre, x, w, b, act);
    CPU(gemm)(d, &p);
}

size_t CPU(linear_forward_scratch)(Device *d, Tensor out, Tensor pre, Tensor x, Tensor w, Tensor b, Activation act)
{
    const Product p = forward_product(out, pre, x, w, b, act);
    return CPU(gemm_scratch)(d, &p);
}

/* ---- int8 ------------------------------------------------------------------------------------------------------- */

void CPU(linear_int8_forward)(Device *d, Tensor out, Tensor x, Tensor w, Tensor scale, Tensor b, Activation act)
{
    const Product p = forward_product(out, none(), x, w, b, act);
    CPU(gemm_i8)(d, &p, scale);
}

size_t CPU(linear_int8_forward_scratch)(Device *d, Tensor out, Tensor x, Tensor w, Tensor scale, Tensor b,
                                        Activation act)
{
    const Product p = forward_product(out, none(), x, w, b, act);
    return CPU(gemm_i8_scratch)(d, &p);
}

/* ---- backward --------------------------------------------------------------------------------------------------- */

/* dx = (dout w) * gelu'(pre) */
static Product dx_product(Tensor dx, Tensor dout, Tensor w, Tensor pre)
{
    return (Product){ .M = rows(dout), .N = w.dim[1], .K = w.dim[0], .a = dout, .b = w, .out = dx, .slope_at = pre };
}

/* dw (+)= dout^T x */
static Product dw_product(Tensor dw, Tensor dout, Tensor x, bool accumulate)
{
    return (Product){ .M = last(dout), .N = last(x), .K = rows(x), .a = dout, .a_turned = true, .b = x,
                      .out = dw, .accumulate = accumulate };
}

/* db[o] (+)= sum_n dout[n,o], in blocks of DEPTH as gemm.h has them */
static void sum_rows(Device *d, Tensor db, Tensor dout, bool accumulate)
{
    enum { STRIP = 4 * WIDTH };
    const int64_t N = rows(dout), O = last(dout);
    PARALLEL_FOR(d, N * O)
    for (int64_t o0 = 0; o0 < O; o0 += STRIP) {
        Vec total[STRIP / WIDTH] = {0};
        const int64_t end = O - o0 < STRIP ? O : o0 + STRIP;
        for (int64_t n0 = 0; n0 < N; n0 += DEPTH) {
            Vec sum[STRIP / WIDTH] = {0};
            for (int64_t n = n0; n < N && n < n0 + DEPTH; n++)
                for (int64_t o = o0; o < end; o += WIDTH)
                    sum[(o - o0) / WIDTH] += vec_load(dout.data, (int)dout.dtype, n * O + o, vec_left(end, o));
            for (int i = 0; i < STRIP / WIDTH; i++) total[i] += sum[i];
        }
        for (int64_t o = o0; o < end; o += WIDTH) {
            const int count = vec_left(end, o);
            const Vec before = accumulate ? vec_load(db.data, DT_F32, o, count) : (Vec){0};
            vec_store(db.data, DT_F32, o, count, before + total[(o - o0) / WIDTH]);
        }
    }
}

void CPU(linear_backward)(Device *d, Tensor dx, Tensor dw, Tensor db, Tensor dout, Tensor x, Tensor w, Tensor pre,
                          bool accumulate)
{
    const Product to_x = dx_product(dx, dout, w, pre), to_w = dw_product(dw, dout, x, accumulate);
    if (!is_none(dx)) CPU(gemm)(d, &to_x);
    if (!is_none(dw)) CPU(gemm)(d, &to_w);
    if (!is_none(db)) sum_rows(d, db, dout, accumulate);
}

size_t CPU(linear_backward_scratch)(Device *d, Tensor dx, Tensor dw, Tensor db, Tensor dout, Tensor x, Tensor w,
                                    Tensor pre, bool accumulate)
{
    const Product to_x = dx_product(dx, dout, w, pre), to_w = dw_product(dw, dout, x, accumulate);
    const size_t for_x = is_none(dx) ? 0 : CPU(gemm_scratch)(d, &to_x);
    const size_t for_w = is_none(dw) ? 0 : CPU(gemm_scratch)(d, &to_w);
    return for_x > for_w ? for_x : for_w;
}

/* ---- int8, backward --------------------------------------------------------------------------------------------- */

INLINE void widen_row(int A, char *to, const int8_t *q, const float *scale, int64_t I)
{
    for (int64_t k = 0; k < I; k += QUANT_GROUP, scale++)
        for (int64_t i = k; i < I && i < k + QUANT_GROUP; i += WIDTH) {
            const int count = vec_left(at_most(I, k + QUANT_GROUP), i);
            Vec v = {0};
            for (int lane = 0; lane < count; lane++) v[lane] = q[i + lane];
            vec_store(to, A, i, count, v * *scale);
        }
}

/* A lot of w's rows in the workspace, as what they stand for, behind what gemm takes of it. It is all of them but of a
 * tall w, a vocabulary's, which would take more room than all else of a model: the lots' sums are then added in f32. */
enum { TALL = 8 };                          /* times as many rows as columns */
typedef struct Lot { Tensor w, sums; size_t bytes; } Lot;

/* With rows o .. of w, as many as there are of a lot */
static Product lot_product(Lot z, Tensor dx, Tensor dout, Tensor pre, int64_t o)
{
    const bool whole_w = is_none(z.sums);
    z.w.dim[0] = at_most(last(dout) - o, z.w.dim[0]);
    dout.data = (char *)dout.data + (size_t)o * dtype_size(dout.dtype);
    Product p = dx_product(whole_w ? dx : z.sums, dout, z.w, whole_w ? pre : none());
    p.accumulate = o > 0;
    return p;
}

static Lot lot_of(Device *d, Tensor dx, Tensor dout, Tensor w, Tensor pre)
{
    const int64_t O = w.dim[0], I = w.dim[1], lot = at_most(O, TALL * I);
    Lot z = { .w = { NULL, "w", dout.dtype, 2, { lot, I } }, .sums = none() };
    if (lot < O) z.sums = (Tensor){ NULL, "sums", DT_F32, 2, { rows(dout), I } };
    const Product first = lot_product(z, dx, dout, pre, 0), end = lot_product(z, dx, dout, pre, (O - 1) / lot * lot);
    const size_t before = whole((int64_t)CPU(gemm_scratch)(d, &first), 64) * 64;
    const size_t at_end = whole((int64_t)CPU(gemm_scratch)(d, &end), 64) * 64;
    z.bytes = before > at_end ? before : at_end;
    z.w.data = (char *)d->workspace + z.bytes, z.bytes += whole((int64_t)tensor_bytes(z.w), 64) * 64;
    if (lot == O) return z;
    z.sums.data = (char *)d->workspace + z.bytes, z.bytes += tensor_bytes(z.sums);
    return z;
}

INLINE void finish_row(int A, char *dx, const char *sums, const char *pre, int64_t I)
{
    for (int64_t i = 0; i < I; i += WIDTH) {
        const int count = vec_left(I, i);
        Vec v = vec_load(sums, DT_F32, i, count);
        if (pre) v *= vec_gelu_slope(vec_load(pre, A, i, count));
        vec_store(dx, A, i, count, v);
    }
}

void CPU(linear_int8_backward)(Device *d, Tensor dx, Tensor dout, Tensor w, Tensor scale, Tensor pre)
{
    const Lot z = lot_of(d, dx, dout, w, pre);
    const int64_t O = w.dim[0], I = w.dim[1], N = rows(dout), groups = quant_groups(I);
    for (int64_t o = 0; o < O; o += z.w.dim[0]) {
        const Product p = lot_product(z, dx, dout, pre, o);
        PARALLEL_FOR(d, p.K * I)
        for (int64_t k = 0; k < p.K; k++)
            FLOAT_SWITCH(z.w.dtype, A, widen_row(A, row(z.w, k), (const int8_t *)w.data + (o + k) * I,
                                                 (const float *)scale.data + (o + k) * groups, I));
        CPU(gemm)(d, &p);
    }
    if (is_none(z.sums)) return;
    PARALLEL_FOR(d, N * I)
    for (int64_t n = 0; n < N; n++)
        FLOAT_SWITCH(dx.dtype, A, finish_row(A, row(dx, n), row(z.sums, n), is_none(pre) ? NULL : row(pre, n), I));
}

size_t CPU(linear_int8_backward_scratch)(Device *d, Tensor dx, Tensor dout, Tensor w, Tensor scale, Tensor pre)
{
    return lot_of(d, dx, dout, w, pre).bytes;
}
