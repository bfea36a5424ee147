/* mlp.c -- SwiGLU: the gate and what it lets through lie side by side in one row. And GELU, where it is by itself. */
#include "vec.h"

INLINE void forward_row(int A, char *out, const char *x, int64_t F)
{
    for (int64_t f = 0; f < F; f += WIDTH) {
        const int count = vec_left(F, f);
        const Vec gate = vec_load(x, A, f, count), up = vec_load(x, A, F + f, count);
        vec_store(out, A, f, count, gate * vec_sigmoid(gate) * up);
    }
}

void CPU(swiglu_forward)(Device *d, Tensor out, Tensor x)
{
    const int64_t N = rows(out), F = last(out);
    PARALLEL_FOR(d, N * F)
    for (int64_t n = 0; n < N; n++) FLOAT_SWITCH(x.dtype, A, forward_row(A, row(out, n), row(x, n), F));
}

/* dgate = dout up (s + gate s (1-s)),  dup = dout gate s,  s = sigmoid(gate) */
INLINE void backward_row(int A, char *dx, const char *dout, const char *x, int64_t F)
{
    for (int64_t f = 0; f < F; f += WIDTH) {
        const int count = vec_left(F, f);
        const Vec gate = vec_load(x, A, f, count), up = vec_load(x, A, F + f, count), g = vec_load(dout, A, f, count);
        Vec slope;
        const Vec s = vec_sigmoid_and_slope(gate, &slope);
        vec_store(dx, A, f, count, g * up * (s + gate * slope));
        vec_store(dx, A, F + f, count, g * gate * s);
    }
}

void CPU(swiglu_backward)(Device *d, Tensor dx, Tensor dout, Tensor x)
{
    const int64_t N = rows(dout), F = last(dout);
    PARALLEL_FOR(d, N * F)
    for (int64_t n = 0; n < N; n++) FLOAT_SWITCH(x.dtype, A, backward_row(A, row(dx, n), row(dout, n), row(x, n), F));
}

enum { SOME = 1 << 12 };        /* numbers that a thread takes at a time */

INLINE void gelu_some(int A, Tensor out, Tensor pre, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i += WIDTH) {
        const int count = vec_left(end, i);
        vec_store(out.data, A, i, count, vec_gelu(vec_load(pre.data, A, i, count)));
    }
}

void CPU(gelu_forward)(Device *d, Tensor out, Tensor pre)
{
    const int64_t n = numel(pre);
    PARALLEL_FOR(d, n)
    for (int64_t i = 0; i < n; i += SOME)
        FLOAT_SWITCH(pre.dtype, A, gelu_some(A, out, pre, i, i + SOME < n ? i + SOME : n));
}

INLINE void gelu_slope_some(int A, Tensor dx, Tensor dout, Tensor pre, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i += WIDTH) {
        const int count = vec_left(end, i);
        vec_store(dx.data, A, i, count,
                  vec_load(dout.data, A, i, count) * vec_gelu_slope(vec_load(pre.data, A, i, count)));
    }
}

void CPU(gelu_backward)(Device *d, Tensor dx, Tensor dout, Tensor pre)
{
    const int64_t n = numel(pre);
    PARALLEL_FOR(d, n)
    for (int64_t i = 0; i < n; i += SOME)
        FLOAT_SWITCH(pre.dtype, A, gelu_slope_some(A, dx, dout, pre, i, i + SOME < n ? i + SOME : n));
}
