/* ops.c -- the front doors. Shapes and types are checked here, once, for every backend; the stopwatch runs here.
 * Those of the layers' products and of the MLP are in ops_linear.c. */
#include "doors.h"
#include "quantize.h"

const char *const op_names[OP_COUNT] = {
#define NAME(name, args) #name,
    OPS(NAME, NAME)
#undef NAME
};

SCRATCH_DOOR(embed_backward, (Device *d, Tensor dw, Tensor dout, Tensor index, bool accumulate),
             (d, dw, dout, index, accumulate))
SCRATCH_DOOR(norm_backward, (Device *d, Tensor dx, Tensor dw, Tensor db, Tensor dout, Tensor dres, Tensor x, Tensor w,
                             Tensor mean, Tensor rstd, bool accumulate),
             (d, as_rows(dx), dw, db, as_rows(dout), as_rows(dres), as_rows(x), w, as_line(mean), as_line(rstd),
              accumulate))
SCRATCH_DOOR(rope_backward, (Device *d, Tensor dqkv, Tensor dq_norm, Tensor dk_norm, Tensor dout, Tensor qkv,
                             Tensor pos, Tensor freq, Tensor q_norm, Tensor k_norm, int H, int G, float eps,
                             bool accumulate),
             (d, dqkv, dq_norm, dk_norm, dout, qkv, pos, freq, q_norm, k_norm, H, G, eps, accumulate))
SCRATCH_DOOR(attention_forward, (Device *d, Tensor out, Tensor lse, Tensor qkv, Tensor first, int H, int G),
             (d, out, lse, qkv, first, H, G))
SCRATCH_DOOR(attention_backward, (Device *d, Tensor dqkv, Tensor dout, Tensor out, Tensor lse, Tensor qkv,
                                  Tensor first, int H, int G),
             (d, dqkv, dout, out, lse, qkv, first, H, G))
SCRATCH_DOOR(attention_cached, (Device *d, Tensor out, Tensor cache, Tensor qkv, Tensor table, Tensor start,
                                Tensor length, int H, int G),
             (d, out, cache, as_rows(qkv), table, start, length, H, G))
SCRATCH_DOOR(sum_squares, (Device *d, Tensor out, Tensor x), (d, out, as_line(x)))
SCRATCH_DOOR(orthogonalize, (Device *d, Tensors x, bool bf16), (d, x, bf16))

/* ----------------------------------------------------------------------------------------------------- embedding */

void embed_forward(Device *d, Tensor out, Tensor tokens, Tensor pos, Tensor wte, Tensor wpe)
{
    WANT_FLOAT(wte, 2);
    CHECK(tokens.ndim == 2, "embed_forward: tokens has %d dimensions, wanted (B,T)", tokens.ndim);
    const int64_t B = tokens.dim[0], T = tokens.dim[1], C = last(wte);
    WANT(tokens, DT_I32, B, T);
    WANT(pos, DT_I32, B, T);
    WANT(out, wte.dtype, B, T, C);
    if (!is_none(wpe)) WANT(wpe, wte.dtype, wpe.dim[0], C);
    RUN(embed_forward, (double)numel(out), bytes_of(out) * (is_none(wpe) ? 2 : 3), d, out, tokens, pos, wte, wpe);
}

void embed_int8_forward(Device *d, Tensor out, Tensor tokens, Tensor pos, Tensor wte, Tensor scale, Tensor wpe)
{
    WANT_FLOAT(out, 3);
    CHECK(wte.ndim == 2, "embed_int8_forward: wte has %d dimensions, wanted 2", wte.ndim);
    const int64_t B = out.dim[0], T = out.dim[1], C = last(out);
    WANT(tokens, DT_I32, B, T);
    WANT(pos, DT_I32, B, T);
    WANT(wte, DT_I8, wte.dim[0], C);
    WANT(scale, DT_F32, wte.dim[0], quant_groups(C));
    if (!is_none(wpe)) WANT(wpe, out.dtype, wpe.dim[0], C);
    RUN(embed_int8_forward, 2.0 * (double)numel(out), (double)numel(out) + bytes_of(out) * (is_none(wpe) ? 1 : 2),
        d, out, tokens, pos, wte, scale, wpe);
}

void embed_backward(Device *d, Tensor dw, Tensor dout, Tensor index, bool accumulate)
{
    WANT_FLOAT(dout, 3);
    const int64_t B = dout.dim[0], T = dout.dim[1], C = last(dout);
    CHECK(dw.ndim == 2, "embed_backward: dw has %d dimensions, wanted 2", dw.ndim);
    WANT(index, DT_I32, B, T);
    WANT(dw, DT_F32, dw.dim[0], C);
    RUN_SCRATCH(embed_backward, (double)numel(dout), bytes_of(dout) + bytes_of(dw), d, dw, dout, index, accumulate);
}

/* ---------------------------------------------------------------------------------------------------------- norm */

void norm_forward(Device *d, Tensor sum, Tensor out, Tensor mean, Tensor rstd, Tensor x, Tensor branch, Tensor w,
                  Tensor b, float eps)
{
    WANT_FLOAT(x, 1);
    x = as_rows(x), branch = as_rows(branch), sum = as_rows(sum), out = as_rows(out),
    mean = as_line(mean), rstd = as_line(rstd);
    const int64_t N = x.dim[0], C = x.dim[1];
    WANT_OPT(branch, x.dtype, N, C);
    CHECK(is_none(sum) == is_none(branch), "norm_forward: sum and branch are given together or not at all");
    WANT_OPT(sum, x.dtype, N, C);
    WANT(out, x.dtype, N, C);
    WANT_OPT(mean, DT_F32, N);
    WANT(rstd, DT_F32, N);
    WANT(w, x.dtype, C);
    WANT_OPT(b, x.dtype, C);
    RUN(norm_forward, 7.0 * (double)numel(x), bytes_of(x) * (is_none(sum) ? 2 : 4),
        d, sum, out, mean, rstd, x, branch, w, b, eps);
}

void norm_backward(Device *d, Tensor dx, Tensor dw, Tensor db, Tensor dout, Tensor dres, Tensor x, Tensor w,
                   Tensor mean, Tensor rstd, bool accumulate)
{
    WANT_FLOAT(x, 1);
    dx = as_rows(dx), dout = as_rows(dout), dres = as_rows(dres), x = as_rows(x),
    mean = as_line(mean), rstd = as_line(rstd);
    const int64_t N = x.dim[0], C = x.dim[1];
    WANT(dx, x.dtype, N, C);
    WANT(dout, x.dtype, N, C);
    WANT_OPT(dres, x.dtype, N, C);
    WANT_OPT(dw, DT_F32, C);
    WANT_OPT(db, DT_F32, C);
    WANT(w, x.dtype, C);
    WANT_OPT(mean, DT_F32, N);
    WANT(rstd, DT_F32, N);
    RUN_SCRATCH(norm_backward, 12.0 * (double)numel(x), bytes_of(x) * (is_none(dres) ? 3 : 4),
                d, dx, dw, db, dout, dres, x, w, mean, rstd, accumulate);
}

/* ---------------------------------------------------------------------------------------------- rope and attention */

/* B, T and D of a packed qkv (B,T,(H+2G)*D) */
static void packed(const char *op, Tensor qkv, int H, int G, int64_t *B, int64_t *T, int64_t *D)
{
    CHECK(qkv.ndim == 3, "%s: qkv has %d dimensions, wanted (B,T,(H+2G)*D)", op, qkv.ndim);
    CHECK(G > 0 && H > 0 && H % G == 0, "%s: %d query heads do not divide over %d key/value heads", op, H, G);
    CHECK(last(qkv) % (H + 2 * G) == 0, "%s: width %lld is no multiple of %d heads",
          op, (long long)last(qkv), H + 2 * G);
    *B = qkv.dim[0], *T = qkv.dim[1], *D = last(qkv) / (H + 2 * G);
}

/* What both ways of rope want of x, which is qkv or its slope. */
static void want_rope(const char *op, Tensor x, Tensor pos, Tensor freq, Tensor q_norm, Tensor k_norm, int H, int G)
{
    int64_t B, T, D;
    want_float(op, x, "qkv", 3);
    packed(op, x, H, G, &B, &T, &D);
    CHECK(D % 2 == 0, "%s: head_dim %lld is odd", op, (long long)D);
    want(op, "pos", pos, DT_I32, 2, x.dim);
    want(op, "freq", freq, DT_F32, 1, (int64_t[]){ D / 2 });
    CHECK(is_none(q_norm) == is_none(k_norm), "%s: q_norm and k_norm are given together or not at all", op);
    if (is_none(q_norm)) return;
    want(op, "q_norm", q_norm, x.dtype, 1, &D);
    want(op, "k_norm", k_norm, x.dtype, 1, &D);
}

void rope_forward(Device *d, Tensor out, Tensor qkv, Tensor pos, Tensor freq, Tensor q_norm, Tensor k_norm,
                  int H, int G, float eps)
{
    want_rope(__func__, qkv, pos, freq, q_norm, k_norm, H, G);
    WANT(out, qkv.dtype, qkv.dim[0], qkv.dim[1], last(qkv));
    CHECK(is_none(q_norm) || !out.data || out.data != qkv.data, "rope_forward: out is qkv, which is normalised");
    RUN(rope_forward, (is_none(q_norm) ? 3.0 : 7.0) * (double)numel(qkv), 2 * bytes_of(qkv),
        d, out, qkv, pos, freq, q_norm, k_norm, H, G, eps);
}

void rope_backward(Device *d, Tensor dqkv, Tensor dq_norm, Tensor dk_norm, Tensor dout, Tensor qkv, Tensor pos,
                   Tensor freq, Tensor q_norm, Tensor k_norm, int H, int G, float eps, bool accumulate)
{
    want_rope(__func__, dout, pos, freq, q_norm, k_norm, H, G);
    const int64_t B = dout.dim[0], T = dout.dim[1], D = 2 * freq.dim[0];
    const bool normed = !is_none(q_norm);
    WANT(dqkv, dout.dtype, B, T, last(dout));
    CHECK(normed || (is_none(dq_norm) && is_none(dk_norm)),
          "rope_backward: dq_norm or dk_norm without q_norm and k_norm");
    WANT_OPT(dq_norm, DT_F32, D);
    WANT_OPT(dk_norm, DT_F32, D);
    if (normed) WANT(qkv, dout.dtype, B, T, last(dout));
    RUN_SCRATCH(rope_backward, (normed ? 15.0 : 3.0) * (double)numel(dout), (normed ? 3 : 2) * bytes_of(dout),
                d, dqkv, dq_norm, dk_norm, dout, qkv, pos, freq, q_norm, k_norm, H, G, eps, accumulate);
}

void attention_forward(Device *d, Tensor out, Tensor lse, Tensor qkv, Tensor first, int H, int G)
{
    int64_t B, T, D;
    WANT_FLOAT(qkv, 3);
    packed(__func__, qkv, H, G, &B, &T, &D);
    WANT(out, qkv.dtype, B, T, H * D);
    WANT(lse, DT_F32, B, H, T);
    WANT(first, DT_I32, B, T);
    RUN_SCRATCH(attention_forward, 2.0 * (double)(B * H * D) * (double)T * (double)(T + 1),
                bytes_of(qkv) + bytes_of(out),
                d, out, lse, qkv, first, H, G);
}

void attention_backward(Device *d, Tensor dqkv, Tensor dout, Tensor out, Tensor lse, Tensor qkv, Tensor first,
                        int H, int G)
{
    int64_t B, T, D;
    WANT_FLOAT(qkv, 3);
    packed(__func__, qkv, H, G, &B, &T, &D);
    WANT(dqkv, qkv.dtype, B, T, last(qkv));
    WANT(dout, qkv.dtype, B, T, H * D);
    WANT(out, qkv.dtype, B, T, H * D);
    WANT(lse, DT_F32, B, H, T);
    WANT(first, DT_I32, B, T);
    RUN_SCRATCH(attention_backward, 5.0 * (double)(B * H * D) * (double)T * (double)(T + 1),
                2 * bytes_of(qkv) + 2 * bytes_of(out),
                d, dqkv, dout, out, lse, qkv, first, H, G);
}

void attention_cached(Device *d, Tensor out, Tensor cache, Tensor qkv, Tensor table, Tensor start, Tensor length, int H,
                      int G)
{
    WANT_FLOAT(qkv, 2);
    const Tensor x = as_rows(qkv), y = as_rows(out);
    CHECK(H > 0 && G > 0 && H % G == 0 && last(x) % (H + 2 * G) == 0,
          "attention_cached: rows of %lld numbers for %d heads and %d key/value heads", (long long)last(x), H, G);
    CHECK(cache.ndim == 4 && table.ndim == 2, "attention_cached: cache has %d dimensions and table %d, wanted 4 and 2",
          cache.ndim, table.ndim);
    const int64_t D = last(x) / (H + 2 * G), R = table.dim[0], most = table.dim[1];
    want(__func__, "out", y, qkv.dtype, 2, (int64_t[]){ rows(x), H * D });
    WANT(cache, qkv.dtype, cache.dim[0], 2 * G, CACHE_PAGE, D);
    WANT(table, DT_I32, R, most);
    WANT(start, DT_I32, R + 1);
    WANT(length, DT_I32, R);
    RUN_SCRATCH(attention_cached, 0, bytes_of(qkv) + bytes_of(out), d, y, cache, x, table, start, length, H, G);
}

/* ---------------------------------------------------------------------------------------------------------- loss */

void logprob_forward(Device *d, Tensor logp, Tensor lse, Tensor entropy, Tensor logits, Tensor targets, int vocab,
                     float temperature)
{
    logits = as_rows(logits), logp = as_line(logp), lse = as_line(lse), entropy = as_line(entropy),
    targets = as_line(targets);
    const int64_t N = rows(logits), V = last(logits);
    WANT(logits, DT_F32, N, V);
    WANT(logp, DT_F32, N);
    WANT(lse, DT_F32, N);
    WANT_OPT(entropy, DT_F32, N);
    WANT(targets, DT_I32, N);
    CHECK(vocab > 0 && vocab <= V, "logprob_forward: vocabulary of %d in rows of %lld", vocab, (long long)V);
    CHECK(temperature > 0, "logprob_forward: temperature %g, wanted more than 0", (double)temperature);
    RUN(logprob_forward, 4.0 * (double)numel(logits), bytes_of(logits),
        d, logp, lse, entropy, logits, targets, vocab, temperature);
}

void logprob_backward(Device *d, Tensor dlogits, Tensor logits, Tensor dlogp, Tensor dlse, Tensor dentropy, Tensor lse,
                      Tensor entropy, Tensor targets, int vocab, float temperature)
{
    WANT_FLOAT(dlogits, 1);
    dlogits = as_rows(dlogits), logits = as_rows(logits), dlogp = as_line(dlogp), dlse = as_line(dlse);
    dentropy = as_line(dentropy), lse = as_line(lse), entropy = as_line(entropy), targets = as_line(targets);
    const int64_t N = rows(logits), V = last(logits);
    WANT(logits, DT_F32, N, V);
    WANT(dlogits, dlogits.dtype, N, V);
    WANT(dlogp, DT_F32, N);
    WANT_OPT(dlse, DT_F32, N);
    WANT_OPT(dentropy, DT_F32, N);
    WANT(lse, DT_F32, N);
    WANT_OPT(entropy, DT_F32, N);
    CHECK(is_none(dentropy) || !is_none(entropy), "logprob_backward: a slope of the entropy needs the entropy");
    WANT(targets, DT_I32, N);
    CHECK(vocab > 0 && vocab <= V, "logprob_backward: vocabulary of %d in rows of %lld", vocab, (long long)V);
    CHECK(temperature > 0, "logprob_backward: temperature %g, wanted more than 0", (double)temperature);
    RUN(logprob_backward, 4.0 * (double)numel(logits), bytes_of(logits) + bytes_of(dlogits),
        d, dlogits, logits, dlogp, dlse, dentropy, lse, entropy, targets, vocab, temperature);
}

/* ----------------------------------------------------------------------------------------------------- optimizer */

void sum_squares(Device *d, Tensor out, Tensor x)
{
    x = as_line(x);
    WANT(x, DT_F32, numel(x));
    WANT(out, DT_F32, 1);
    RUN_SCRATCH(sum_squares, 2.0 * (double)numel(x), bytes_of(x), d, out, x);
}

static void want_rounding(const char *op, Tensor w, Rounding r)
{
    CHECK(!r.stochastic || w.dtype == DT_BF16, "%s: stochastic rounding is for weights of bf16, and these are %s", op,
          dtype_name(w.dtype));
    CHECK(r.first >= 0, "%s: the first weight has number %lld, wanted 0 or more", op, (long long)r.first);
}

void adamw(Device *d, Tensor w, Tensor master, Tensor m, Tensor v, Tensor grad, Tensor decay, AdamW a, Rounding r)
{
    WANT_FLOAT(w, 1);
    w = as_line(w), master = as_line(master), m = as_line(m), v = as_line(v), grad = as_line(grad);
    const int64_t n = numel(w);
    WANT_OPT(master, DT_F32, n);
    WANT(m, DT_F32, n);
    WANT(v, DT_F32, n);
    WANT(grad, DT_F32, n);
    WANT_OPT(decay, DT_U8, (n + DECAY_BLOCK - 1) / DECAY_BLOCK);
    CHECK(a.step >= 1, "adamw: step %lld, wanted 1 or more", (long long)a.step);
    want_rounding(__func__, w, r);
    RUN(adamw, 12.0 * (double)n, 2 * bytes_of(w) + 2 * bytes_of(master) + 4 * bytes_of(m) + bytes_of(grad),
        d, w, master, m, v, grad, decay, a, r);
}

void nesterov(Device *d, Tensor grad, Tensor m, float momentum, float grad_scale)
{
    grad = as_line(grad), m = as_line(m);
    WANT(grad, DT_F32, numel(grad));
    WANT(m, DT_F32, numel(grad));
    RUN(nesterov, 5.0 * (double)numel(m), 2 * bytes_of(m) + 2 * bytes_of(grad), d, grad, m, momentum, grad_scale);
}

void orthogonalize(Device *d, Tensors x, bool bf16)
{
    double flops = 0, bytes = 0;
    for (int i = 0; i < x.count; i++) {
        const Tensor m = x.at[i];
        if (m.ndim != 2 || m.dtype != DT_F32 || numel(m) == 0) {
            char got[128];
            print_shape(got, sizeof got, m);
            FAIL("orthogonalize: x[%d] is %s, wanted a matrix of f32", i, got);
        }
        const double R = (double)m.dim[0], C = (double)m.dim[1], side = R < C ? R : C;
        flops += 5 * (3 * R * C * side + side * side * side);       /* half of the products x x^T, G G */
        bytes += 5 * 3 * bytes_of(m);
    }
    RUN_SCRATCH(orthogonalize, flops, bytes, d, x, bf16);
}

void descend(Device *d, Tensor w, Tensor master, Tensor direction, float lr, float scale, float weight_decay,
             Rounding r)
{
    WANT_FLOAT(w, 1);
    w = as_line(w), master = as_line(master), direction = as_line(direction);
    WANT_OPT(master, DT_F32, numel(w));
    WANT(direction, DT_F32, numel(w));
    want_rounding(__func__, w, r);
    RUN(descend, 4.0 * (double)numel(w), 2 * bytes_of(w) + 2 * bytes_of(master) + bytes_of(direction),
        d, w, master, direction, lr, scale, weight_decay, r);
}
