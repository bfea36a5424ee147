/* ops_linear.c -- the front doors of the layers' products and of the MLP; see ops.c. */
#include "doors.h"
#include "quantize.h"

SCRATCH_DOOR(linear_forward, (Device *d, Tensor out, Tensor pre, Tensor x, Tensor w, Tensor b, Activation act),
             (d, as_rows(out), as_rows(pre), as_rows(x), w, b, act))
SCRATCH_DOOR(linear_int8_forward, (Device *d, Tensor out, Tensor x, Tensor w, Tensor scale, Tensor b, Activation act),
             (d, as_rows(out), as_rows(x), w, scale, b, act))
SCRATCH_DOOR(linear_backward, (Device *d, Tensor dx, Tensor dw, Tensor db, Tensor dout, Tensor x, Tensor w, Tensor pre,
                               bool accumulate),
             (d, as_rows(dx), dw, db, as_rows(dout), as_rows(x), w, as_rows(pre), accumulate))
SCRATCH_DOOR(linear_int8_backward, (Device *d, Tensor dx, Tensor dout, Tensor w, Tensor scale, Tensor pre),
             (d, as_rows(dx), as_rows(dout), w, scale, as_rows(pre)))
SCRATCH_DOOR(lora_forward, (Device *d, Tensor out, Tensor x, Tensor a, Tensor b, float scale),
             (d, as_rows(out), as_rows(x), a, b, scale))
SCRATCH_DOOR(lora_backward, (Device *d, Tensor dx, Tensor da, Tensor db, Tensor dout, Tensor x, Tensor a, Tensor b,
                             float scale, bool accumulate),
             (d, as_rows(dx), da, db, as_rows(dout), as_rows(x), a, b, scale, accumulate))

/* -------------------------------------------------------------------------------------------------------- linear */

void linear_forward(Device *d, Tensor out, Tensor pre, Tensor x, Tensor w, Tensor b, Activation act)
{
    WANT_FLOAT(x, 1);
    WANT_FLOAT(w, 2);
    const int64_t O = w.dim[0], I = w.dim[1], N = numel(x) / I;
    x = as_rows(x), out = as_rows(out), pre = as_rows(pre);
    WANT(x, x.dtype, N, I);
    WANT(w, x.dtype, O, I);
    WANT_OPT(b, x.dtype, O);
    WANT(out, out.dtype == DT_F32 ? DT_F32 : x.dtype, N, O);
    CHECK(act == ACT_NONE || act == ACT_GELU, "linear_forward: activation %d is unknown", act);
    CHECK(is_none(pre) || act != ACT_NONE, "linear_forward: pre is kept only with an activation");
    WANT_OPT(pre, x.dtype, N, O);
    RUN_SCRATCH(linear_forward, 2.0 * (double)N * (double)O * (double)I,
                bytes_of(x) + bytes_of(w) + bytes_of(out) + bytes_of(pre),
                d, out, pre, x, w, b, act);
}

void linear_int8_forward(Device *d, Tensor out, Tensor x, Tensor w, Tensor scale, Tensor b, Activation act)
{
    WANT_FLOAT(x, 1);
    CHECK(w.ndim == 2, "linear_int8_forward: w has %d dimensions, wanted 2", w.ndim);
    const int64_t O = w.dim[0], I = last(x), N = rows(x);
    x = as_rows(x), out = as_rows(out);
    WANT(w, DT_I8, O, I);
    WANT(scale, DT_F32, O, quant_groups(I));
    WANT_OPT(b, x.dtype, O);
    WANT(out, out.dtype == DT_F32 ? DT_F32 : x.dtype, N, O);
    CHECK(act == ACT_NONE || act == ACT_GELU, "linear_int8_forward: activation %d is unknown", act);
    RUN_SCRATCH(linear_int8_forward, 2.0 * (double)N * (double)O * (double)I,
                bytes_of(x) + bytes_of(w) + bytes_of(scale) + bytes_of(out), d, out, x, w, scale, b, act);
}

void linear_backward(Device *d, Tensor dx, Tensor dw, Tensor db, Tensor dout, Tensor x, Tensor w, Tensor pre,
                     bool accumulate)
{
    WANT_FLOAT(x, 1);
    WANT_FLOAT(w, 2);
    const int64_t O = w.dim[0], I = w.dim[1], N = numel(x) / I;
    x = as_rows(x), dx = as_rows(dx), dout = as_rows(dout), pre = as_rows(pre);
    WANT(x, x.dtype, N, I);
    WANT(w, x.dtype, O, I);
    WANT(dout, x.dtype, N, O);
    WANT_OPT(dx, x.dtype, N, I);
    WANT_OPT(pre, x.dtype, N, I);
    WANT_OPT(dw, DT_F32, O, I);
    WANT_OPT(db, DT_F32, O);
    const int products = !is_none(dx) + !is_none(dw);
    RUN_SCRATCH(linear_backward, 2.0 * products * (double)N * (double)O * (double)I,
                bytes_of(x) + bytes_of(w) + bytes_of(dout) + bytes_of(dx) + bytes_of(dw) + bytes_of(pre),
                d, dx, dw, db, dout, x, w, pre, accumulate);
}

void linear_int8_backward(Device *d, Tensor dx, Tensor dout, Tensor w, Tensor scale, Tensor pre)
{
    WANT_FLOAT(dout, 1);
    CHECK(w.ndim == 2, "linear_int8_backward: w has %d dimensions, wanted 2", w.ndim);
    const int64_t O = w.dim[0], I = w.dim[1], N = rows(dout);
    dx = as_rows(dx), dout = as_rows(dout), pre = as_rows(pre);
    WANT(w, DT_I8, O, I);
    WANT(scale, DT_F32, O, quant_groups(I));
    WANT(dout, dout.dtype, N, O);
    WANT(dx, dout.dtype, N, I);
    WANT_OPT(pre, dout.dtype, N, I);
    RUN_SCRATCH(linear_int8_backward, 2.0 * (double)N * (double)O * (double)I,
                bytes_of(dout) + bytes_of(w) + bytes_of(scale) + bytes_of(dx) + bytes_of(pre),
                d, dx, dout, w, scale, pre);
}

/* ------------------------------------------------------------------------------------------------ low-rank adapters */

/* What both ways want of an adapter's matrices. */
static void want_adapter(const char *op, Tensor x, Tensor a, Tensor b)
{
    want_float(op, x, "x", 1);
    want_float(op, a, "a", 2);
    want_float(op, b, "b", 2);
    want(op, "a", a, x.dtype, 2, (int64_t[]){ a.dim[0], last(x) });
    want(op, "b", b, x.dtype, 2, (int64_t[]){ b.dim[0], a.dim[0] });
}

void lora_forward(Device *d, Tensor out, Tensor x, Tensor a, Tensor b, float scale)
{
    want_adapter(__func__, x, a, b);
    x = as_rows(x), out = as_rows(out);
    const int64_t N = rows(x), I = last(x), R = a.dim[0], O = b.dim[0];
    WANT(out, x.dtype, N, O);
    RUN_SCRATCH(lora_forward, 2.0 * (double)N * (double)R * (double)(I + O),
                bytes_of(x) + bytes_of(a) + bytes_of(b) + 2 * bytes_of(out), d, out, x, a, b, scale);
}

void lora_backward(Device *d, Tensor dx, Tensor da, Tensor db, Tensor dout, Tensor x, Tensor a, Tensor b, float scale,
                   bool accumulate)
{
    want_adapter(__func__, x, a, b);
    dx = as_rows(dx), dout = as_rows(dout), x = as_rows(x);
    const int64_t N = rows(x), I = last(x), R = a.dim[0], O = b.dim[0];
    WANT(dout, x.dtype, N, O);
    WANT_OPT(dx, x.dtype, N, I);
    WANT_OPT(da, DT_F32, R, I);
    WANT_OPT(db, DT_F32, O, R);
    const int64_t wide = I * (!is_none(dx) + !is_none(da) + !is_none(db)) + O * (1 + !is_none(db));
    RUN_SCRATCH(lora_backward, 2.0 * (double)N * (double)R * (double)wide,
                2 * bytes_of(x) + 2 * bytes_of(dout) + 2 * bytes_of(dx) + bytes_of(da) + bytes_of(db),
                d, dx, da, db, dout, x, a, b, scale, accumulate);
}

/* ----------------------------------------------------------------------------------------------------------- mlp */

void swiglu_forward(Device *d, Tensor out, Tensor x)
{
    WANT_FLOAT(x, 1);
    WANT_FLOAT(out, 1);
    x = as_rows(x), out = as_rows(out);
    const int64_t N = rows(out), F = last(out);
    WANT(out, x.dtype, N, F);
    WANT(x, x.dtype, N, 2 * F);
    RUN(swiglu_forward, 5.0 * (double)numel(out), bytes_of(x) + bytes_of(out), d, out, x);
}

void swiglu_backward(Device *d, Tensor dx, Tensor dout, Tensor x)
{
    WANT_FLOAT(x, 1);
    WANT_FLOAT(dout, 1);
    x = as_rows(x), dx = as_rows(dx), dout = as_rows(dout);
    const int64_t N = rows(dout), F = last(dout);
    WANT(dout, x.dtype, N, F);
    WANT(x, x.dtype, N, 2 * F);
    WANT(dx, x.dtype, N, 2 * F);
    RUN(swiglu_backward, 10.0 * (double)numel(dout), 2 * bytes_of(x) + bytes_of(dout), d, dx, dout, x);
}

void gelu_forward(Device *d, Tensor out, Tensor pre)
{
    WANT_FLOAT(pre, 1);
    out = as_line(out), pre = as_line(pre);
    WANT(out, pre.dtype, numel(pre));
    RUN(gelu_forward, 9.0 * (double)numel(pre), 2 * bytes_of(pre), d, out, pre);
}

void gelu_backward(Device *d, Tensor dx, Tensor dout, Tensor pre)
{
    WANT_FLOAT(pre, 1);
    dx = as_line(dx), dout = as_line(dout), pre = as_line(pre);
    WANT(dx, pre.dtype, numel(pre));
    WANT(dout, pre.dtype, numel(pre));
    RUN(gelu_backward, 16.0 * (double)numel(pre), 3 * bytes_of(pre), d, dx, dout, pre);
}
