/* plain.c -- every op in the plainest loops: the formulas of ops.h, element by element, added up in double.
 *
 * This is what the other backends are measured against, on any machine: no vectors, no threads, no blocking. Slow is
 * right here; clever is wrong. Attention is in plain_attention.c. */
#include "plain.h"
#include "../quantize.h"
#include "../rng.h"

#include <math.h>
#include <string.h>

const OpTable plain_ops = {
#define ENTRY_PURE(name, args)    .name = plain_##name,
#define ENTRY_SCRATCH(name, args) .name = plain_##name, .name##_scratch = plain_##name##_scratch,
    OPS(ENTRY_PURE, ENTRY_SCRATCH)
#undef ENTRY_PURE
#undef ENTRY_SCRATCH
};

/* ---- embed ------------------------------------------------------------------------------------------------------ */

void plain_embed_forward(Device *d, Tensor out, Tensor tokens, Tensor pos, Tensor wte, Tensor wpe)
{
    const int64_t N = numel(tokens), C = last(wte);
    for (int64_t n = 0; n < N; n++)
        for (int64_t c = 0; c < C; c++) {
            float sum = get(wte, index_at(tokens, n) * C + c);
            if (!is_none(wpe)) sum += get(wpe, index_at(pos, n) * C + c);
            put(out, n * C + c, sum);
        }
}

void plain_embed_int8_forward(Device *d, Tensor out, Tensor tokens, Tensor pos, Tensor wte, Tensor scale, Tensor wpe)
{
    const int64_t N = numel(tokens), C = last(wte), groups = quant_groups(C);
    for (int64_t n = 0; n < N; n++)
        for (int64_t c = 0; c < C; c++) {
            const int64_t v = index_at(tokens, n);
            float sum = (float)((const int8_t *)wte.data)[v * C + c] * get(scale, v * groups + c / QUANT_GROUP);
            if (!is_none(wpe)) sum += get(wpe, index_at(pos, n) * C + c);
            put(out, n * C + c, sum);
        }
}

void plain_embed_backward(Device *d, Tensor dw, Tensor dout, Tensor index, bool accumulate)
{
    const int64_t N = numel(index), C = last(dw);
    if (!accumulate)
        for (int64_t i = 0; i < numel(dw); i++) put(dw, i, 0);
    for (int64_t n = 0; n < N; n++)
        for (int64_t c = 0; c < C; c++) put_sum(dw, index_at(index, n) * C + c, get(dout, n * C + c), true);
}

size_t plain_embed_backward_scratch(Device *d, Tensor dw, Tensor dout, Tensor index, bool accumulate) { return 0; }

/* ---- norm ------------------------------------------------------------------------------------------------------- */

void plain_norm_forward(Device *d, Tensor sum, Tensor out, Tensor mean, Tensor rstd, Tensor x, Tensor branch, Tensor w,
                        Tensor b, float eps)
{
    const int64_t N = rows(x), C = last(x);
    for (int64_t n = 0; n < N; n++) {
        double mu = 0, squares = 0;
        const Tensor in = is_none(branch) ? x : sum;
        if (!is_none(branch))
            for (int64_t i = n * C; i < (n + 1) * C; i++) put(in, i, get(x, i) + get(branch, i));
        if (!is_none(mean))
            for (int64_t c = 0; c < C; c++) mu += get(in, n * C + c) / (double)C;
        for (int64_t c = 0; c < C; c++) squares += (get(in, n * C + c) - mu) * (get(in, n * C + c) - mu);
        const double r = 1 / sqrt(squares / (double)C + eps);
        for (int64_t c = 0; c < C; c++)
            put(out, n * C + c, (get(in, n * C + c) - mu) * r * get(w, c) + (is_none(b) ? 0 : get(b, c)));
        if (!is_none(mean)) put(mean, n, mu);
        put(rstd, n, r);
    }
}

/* unit = (x - mean) rstd;  dx = dres + rstd (g - mean_c g - unit mean_c(g unit)),  g = dout w
 * RMSNorm has no mean_c g. */
void plain_norm_backward(Device *d, Tensor dx, Tensor dw, Tensor db, Tensor dout, Tensor dres, Tensor x, Tensor w,
                         Tensor mean, Tensor rstd, bool accumulate)
{
    const int64_t N = rows(x), C = last(x);
    for (int64_t c = 0; c < C; c++) {
        double slope = 0, shift = 0;
        for (int64_t n = 0; n < N; n++) {
            const double mu = is_none(mean) ? 0 : get(mean, n), unit = (get(x, n * C + c) - mu) * get(rstd, n);
            slope += get(dout, n * C + c) * unit;
            shift += get(dout, n * C + c);
        }
        if (!is_none(dw)) put_sum(dw, c, slope, accumulate);
        if (!is_none(db)) put_sum(db, c, shift, accumulate);
    }
    for (int64_t n = 0; n < N; n++) {
        const double mu = is_none(mean) ? 0 : get(mean, n), r = get(rstd, n);
        double sum = 0, dot = 0;
        for (int64_t c = 0; c < C; c++) {
            const double g = (double)get(dout, n * C + c) * get(w, c);
            sum += is_none(mean) ? 0 : g;
            dot += g * (get(x, n * C + c) - mu) * r;
        }
        for (int64_t c = 0; c < C; c++) {
            const double g = (double)get(dout, n * C + c) * get(w, c), unit = (get(x, n * C + c) - mu) * r;
            const double slope = r * (g - sum / (double)C - unit * dot / (double)C);
            put(dx, n * C + c, slope + (is_none(dres) ? 0 : get(dres, n * C + c)));
        }
    }
}

size_t plain_norm_backward_scratch(Device *d, Tensor dx, Tensor dw, Tensor db, Tensor dout, Tensor dres, Tensor x,
                                   Tensor w, Tensor mean, Tensor rstd, bool accumulate)
{
    return 0;
}

/* ---- linear ----------------------------------------------------------------------------------------------------- */

static const double GELU_A = 0.79788456080286535588, GELU_B = 0.044715;     /* sqrt(2/pi), and the cubic's weight */

static double gelu(double x) { return 0.5 * x * (1 + tanh(GELU_A * (x + GELU_B * x * x * x))); }

static double gelu_slope(double x)
{
    const double t = tanh(GELU_A * (x + GELU_B * x * x * x));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * GELU_A * (1 + 3 * GELU_B * x * x);
}

void plain_linear_forward(Device *d, Tensor out, Tensor pre, Tensor x, Tensor w, Tensor b, Activation act)
{
    const int64_t N = rows(x), I = last(x), O = w.dim[0];
    for (int64_t n = 0; n < N; n++)
        for (int64_t o = 0; o < O; o++) {
            double sum = is_none(b) ? 0 : get(b, o);
            for (int64_t i = 0; i < I; i++) sum += (double)get(x, n * I + i) * get(w, o * I + i);
            if (!is_none(pre)) put(pre, n * O + o, sum);
            put(out, n * O + o, act == ACT_GELU ? gelu(round_to(x.dtype, sum)) : sum);
        }
}

size_t plain_linear_forward_scratch(Device *d, Tensor out, Tensor pre, Tensor x, Tensor w, Tensor b, Activation act)
{
    return 0;
}

/* x: a row in int8, which w is too */
static float int8_dot(const int8_t *x, const float *x_scale, const int8_t *w, const float *w_scale, int64_t I)
{
    float sum = 0;
    for (int64_t k = 0; k < I; k += QUANT_GROUP) {
        int32_t dot = 0;
        for (int64_t i = k; i < I && i < k + QUANT_GROUP; i++) dot += x[i] * w[i];
        sum += (float)dot * (*x_scale++ * *w_scale++);
    }
    return sum;
}

void plain_linear_int8_forward(Device *d, Tensor out, Tensor x, Tensor w, Tensor scale, Tensor b, Activation act)
{
    const int64_t N = rows(x), I = last(x), O = w.dim[0], groups = quant_groups(I);
    float *row = d->workspace, *x_scale = row + I;
    int8_t *q = (int8_t *)(x_scale + groups);
    for (int64_t n = 0; n < N; n++) {
        for (int64_t i = 0; i < I; i++) row[i] = get(x, n * I + i);
        quantize(q, x_scale, row, 1, I);
        for (int64_t o = 0; o < O; o++) {
            const float sum = (is_none(b) ? 0 : get(b, o)) + int8_dot(q, x_scale, (const int8_t *)w.data + o * I,
                                                                      (const float *)scale.data + o * groups, I);
            put(out, n * O + o, act == ACT_GELU ? gelu(round_to(x.dtype, sum)) : sum);
        }
    }
}

size_t plain_linear_int8_forward_scratch(Device *d, Tensor out, Tensor x, Tensor w, Tensor scale, Tensor b,
                                         Activation act)
{
    return (size_t)(last(x) + quant_groups(last(x))) * sizeof(float) + (size_t)last(x);
}

void plain_linear_backward(Device *d, Tensor dx, Tensor dw, Tensor db, Tensor dout, Tensor x, Tensor w, Tensor pre,
                           bool accumulate)
{
    const int64_t N = rows(dout), I = w.dim[1], O = w.dim[0];
    for (int64_t n = 0; n < N && !is_none(dx); n++)
        for (int64_t i = 0; i < I; i++) {
            double sum = 0;
            for (int64_t o = 0; o < O; o++) sum += (double)get(dout, n * O + o) * get(w, o * I + i);
            put(dx, n * I + i, is_none(pre) ? sum : sum * gelu_slope(get(pre, n * I + i)));
        }
    for (int64_t o = 0; o < O && !is_none(dw); o++)
        for (int64_t i = 0; i < I; i++) {
            double sum = 0;
            for (int64_t n = 0; n < N; n++) sum += (double)get(dout, n * O + o) * get(x, n * I + i);
            put_sum(dw, o * I + i, sum, accumulate);
        }
    for (int64_t o = 0; o < O && !is_none(db); o++) {
        double sum = 0;
        for (int64_t n = 0; n < N; n++) sum += get(dout, n * O + o);
        put_sum(db, o, sum, accumulate);
    }
}

size_t plain_linear_backward_scratch(Device *d, Tensor dx, Tensor dw, Tensor db, Tensor dout, Tensor x, Tensor w,
                                     Tensor pre, bool accumulate)
{
    return 0;
}

/* w is brought to the type of dout first, as the others do. */
void plain_linear_int8_backward(Device *d, Tensor dx, Tensor dout, Tensor w, Tensor scale, Tensor pre)
{
    const int64_t N = rows(dout), O = w.dim[0], I = w.dim[1], groups = quant_groups(I);
    for (int64_t n = 0; n < N; n++)
        for (int64_t i = 0; i < I; i++) {
            double sum = 0;
            for (int64_t o = 0; o < O; o++) {
                const int8_t number = ((const int8_t *)w.data)[o * I + i];
                const float unit = get(scale, o * groups + i / QUANT_GROUP);
                sum += (double)get(dout, n * O + o) * round_to(dout.dtype, number * unit);
            }
            put(dx, n * I + i, is_none(pre) ? sum : sum * gelu_slope(get(pre, n * I + i)));
        }
}

size_t plain_linear_int8_backward_scratch(Device *d, Tensor dx, Tensor dout, Tensor w, Tensor scale, Tensor pre)
{
    return 0;
}

/* ---- rope ------------------------------------------------------------------------------------------------------- */

/* 1 / sqrt(mean x^2 + eps) of the head whose first element is x[at]; 1 where there is no norm */
static double head_rstd(Tensor x, int64_t at, int64_t D, Tensor w, float eps)
{
    double squares = 0;
    if (is_none(w)) return 1;
    for (int64_t i = at; i < at + D; i++) squares += (double)get(x, i) * get(x, i);
    return 1 / sqrt(squares / (double)D + eps);
}

static double weight_at(Tensor w, int64_t i) { return is_none(w) ? 1 : get(w, i); }

/* (lo, hi) = (lo cos - hi sin, lo sin + hi cos) of the angle sign * pos * freq[i], in x rstd w of q and k heads */
static void turn(Tensor out, Tensor in, Tensor pos, Tensor freq, Tensor q_norm, Tensor k_norm, int H, int G, float eps,
                 int sign)
{
    const int64_t N = rows(in), P = last(in), D = P / (H + 2 * G);
    for (int64_t n = 0; n < N; n++) {
        for (int64_t h = 0; h < H + G; h++) {
            const Tensor w = h < H ? q_norm : k_norm;
            const double r = head_rstd(in, n * P + h * D, D, w, eps);
            for (int64_t i = 0; i < D / 2; i++) {
                const int64_t at = n * P + h * D + i;
                const double angle = (double)sign * index_at(pos, n) * get(freq, i);
                const double lo = get(in, at) * r * weight_at(w, i);
                const double hi = get(in, at + D / 2) * r * weight_at(w, i + D / 2);
                put(out, at, lo * cos(angle) - hi * sin(angle));
                put(out, at + D / 2, lo * sin(angle) + hi * cos(angle));
            }
        }
        for (int64_t i = n * P + (H + G) * D; i < (n + 1) * P; i++) put(out, i, get(in, i));
    }
}

void plain_rope_forward(Device *d, Tensor out, Tensor qkv, Tensor pos, Tensor freq, Tensor q_norm, Tensor k_norm,
                        int H, int G, float eps)
{
    turn(out, qkv, pos, freq, q_norm, k_norm, H, G, eps, 1);
}

/* Element i of the head that begins at dout[at], turned back: the slope by x rstd w. */
static double turned_back(Tensor dout, int64_t at, int64_t i, int64_t D, Tensor freq, double pos)
{
    const int64_t pair = i % (D / 2);
    const double lo = get(dout, at + pair), hi = get(dout, at + pair + D / 2), angle = pos * get(freq, pair);
    return i < D / 2 ? lo * cos(angle) + hi * sin(angle) : hi * cos(angle) - lo * sin(angle);
}

/* dw (+)= turned_back x rstd, over the heads h .. h+count-1 of all rows */
static void head_weight_slope(Tensor dw, Tensor dout, Tensor x, Tensor pos, Tensor freq, Tensor w, int64_t P, int64_t h,
                              int64_t count, float eps, bool accumulate)
{
    const int64_t N = rows(x), D = last(w);
    for (int64_t i = 0; i < D; i++) {
        double sum = 0;
        for (int64_t n = 0; n < N; n++)
            for (int64_t at = n * P + h * D; at < n * P + (h + count) * D; at += D) {
                const double unit = get(x, at + i) * head_rstd(x, at, D, w, eps);
                sum += turned_back(dout, at, i, D, freq, index_at(pos, n)) * unit;
            }
        put_sum(dw, i, sum, accumulate);
    }
}

/* unit = x rstd;  dx = rstd (g - unit mean_i(g unit)),  g = turned_back w;  of the head that begins at x[at] */
static void head_slope(Tensor dx, Tensor dout, Tensor x, int64_t at, Tensor freq, double pos, Tensor w, float eps)
{
    const int64_t D = last(w);
    const double r = head_rstd(x, at, D, w, eps);
    double dot = 0;
    for (int64_t i = 0; i < D; i++)
        dot += turned_back(dout, at, i, D, freq, pos) * get(w, i) * get(x, at + i) * r / (double)D;
    for (int64_t i = 0; i < D / 2; i++) {
        const int64_t j = i + D / 2;        /* both of the pair before either is written: dx may be dout */
        const double lo = turned_back(dout, at, i, D, freq, pos), hi = turned_back(dout, at, j, D, freq, pos);
        put(dx, at + i, r * (lo * get(w, i) - get(x, at + i) * r * dot));
        put(dx, at + j, r * (hi * get(w, j) - get(x, at + j) * r * dot));
    }
}

void plain_rope_backward(Device *d, Tensor dqkv, Tensor dq_norm, Tensor dk_norm, Tensor dout, Tensor qkv, Tensor pos,
                         Tensor freq, Tensor q_norm, Tensor k_norm, int H, int G, float eps, bool accumulate)
{
    const int64_t N = rows(dout), P = last(dout), D = P / (H + 2 * G);
    if (is_none(q_norm)) {
        turn(dqkv, dout, pos, freq, none(), none(), H, G, 0, -1);
        return;
    }
    if (!is_none(dq_norm)) head_weight_slope(dq_norm, dout, qkv, pos, freq, q_norm, P, 0, H, eps, accumulate);
    if (!is_none(dk_norm)) head_weight_slope(dk_norm, dout, qkv, pos, freq, k_norm, P, H, G, eps, accumulate);
    for (int64_t n = 0; n < N; n++) {
        for (int64_t h = 0; h < H + G; h++)
            head_slope(dqkv, dout, qkv, n * P + h * D, freq, index_at(pos, n), h < H ? q_norm : k_norm, eps);
        for (int64_t i = n * P + (H + G) * D; i < (n + 1) * P; i++) put(dqkv, i, get(dout, i));
    }
}

size_t plain_rope_backward_scratch(Device *d, Tensor dqkv, Tensor dq_norm, Tensor dk_norm, Tensor dout, Tensor qkv,
                                   Tensor pos, Tensor freq, Tensor q_norm, Tensor k_norm, int H, int G, float eps,
                                   bool accumulate)
{
    return 0;
}

/* ---- mlp -------------------------------------------------------------------------------------------------------- */

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

void plain_swiglu_forward(Device *d, Tensor out, Tensor x)
{
    const int64_t N = rows(out), F = last(out);
    for (int64_t n = 0; n < N; n++)
        for (int64_t f = 0; f < F; f++) {
            const double gate = get(x, n * 2 * F + f), up = get(x, n * 2 * F + F + f);
            put(out, n * F + f, gate * sigmoid(gate) * up);
        }
}

void plain_swiglu_backward(Device *d, Tensor dx, Tensor dout, Tensor x)
{
    const int64_t N = rows(dout), F = last(dout);
    for (int64_t n = 0; n < N; n++)
        for (int64_t f = 0; f < F; f++) {
            const double gate = get(x, n * 2 * F + f), up = get(x, n * 2 * F + F + f), g = get(dout, n * F + f);
            const double s = sigmoid(gate);
            put(dx, n * 2 * F + f, g * up * s * (1 + gate * sigmoid(-gate)));
            put(dx, n * 2 * F + F + f, g * gate * s);
        }
}

void plain_gelu_forward(Device *d, Tensor out, Tensor pre)
{
    for (int64_t i = 0; i < numel(pre); i++) put(out, i, gelu(get(pre, i)));
}

void plain_gelu_backward(Device *d, Tensor dx, Tensor dout, Tensor pre)
{
    for (int64_t i = 0; i < numel(pre); i++) put(dx, i, get(dout, i) * gelu_slope(get(pre, i)));
}

/* ---- loss ------------------------------------------------------------------------------------------------------- */

void plain_logprob_forward(Device *d, Tensor logp, Tensor lse, Tensor entropy, Tensor logits, Tensor targets, int vocab,
                           float temperature)
{
    const int64_t N = rows(logits), V = last(logits);
    for (int64_t n = 0; n < N; n++) {
        double top = -INFINITY, sum = 0, mean = 0;
        for (int64_t v = 0; v < vocab; v++) top = fmax(top, (double)get(logits, n * V + v) / temperature);
        for (int64_t v = 0; v < vocab; v++) sum += exp((double)get(logits, n * V + v) / temperature - top);
        const double log_sum = top + log(sum);
        for (int64_t v = 0; v < vocab; v++) {
            const double z = (double)get(logits, n * V + v) / temperature, p = exp(z - log_sum);
            if (p != 0) mean += p * z;                  /* a forbidden token has p = 0 and z = -inf */
        }
        const int32_t target = index_at(targets, n);
        put(lse, n, log_sum);
        put(logp, n, target < 0 ? 0 : (double)get(logits, n * V + target) / temperature - log_sum);
        if (!is_none(entropy)) put(entropy, n, log_sum - mean);
    }
}

void plain_logprob_backward(Device *d, Tensor dlogits, Tensor logits, Tensor dlogp, Tensor dlse, Tensor dentropy,
                            Tensor lse, Tensor entropy, Tensor targets, int vocab, float temperature)
{
    const int64_t N = rows(logits), V = last(logits);
    for (int64_t n = 0; n < N; n++) {
        const int32_t target = index_at(targets, n);
        const double a = target < 0 ? 0 : get(dlogp, n);
        const double s = is_none(dlse) ? 0 : get(dlse, n), e = is_none(dentropy) ? 0 : get(dentropy, n);
        for (int64_t v = 0; v < vocab; v++) {
            const double log_p = (double)get(logits, n * V + v) / temperature - get(lse, n), p = exp(log_p);
            double slope = s * p;
            if (a != 0) slope += a * ((v == target) - p);
            if (e != 0 && p != 0) slope -= e * p * (log_p + get(entropy, n));
            put(dlogits, n * V + v, slope / temperature);
        }
        for (int64_t v = vocab; v < V; v++) put(dlogits, n * V + v, 0);
    }
}

/* ---- optim ------------------------------------------------------------------------------------------------------ */

void plain_sum_squares(Device *d, Tensor out, Tensor x)
{
    double sum = 0;
    for (int64_t i = 0; i < numel(x); i++) sum += (double)get(x, i) * get(x, i);
    put(out, 0, sum);
}

size_t plain_sum_squares_scratch(Device *d, Tensor out, Tensor x) { return 0; }

static void put_weight(Tensor w, int64_t i, float value, Rounding r)
{
    const uint64_t number = (uint64_t)(r.first + i);
    uint32_t bits;
    if (!r.stochastic || isnan(value)) {
        put(w, i, value);
        return;
    }
    memcpy(&bits, &value, sizeof bits);
    bits += rng_half(philox(r.seed, r.stream, number / 8), (int)(number % 8));
    ((uint16_t *)w.data)[i] = (uint16_t)(bits >> 16);
}

void plain_adamw(Device *d, Tensor w, Tensor master, Tensor m, Tensor v, Tensor grad, Tensor decay, AdamW a, Rounding r)
{
    const double fade1 = 1 - pow(a.beta1, (double)a.step), fade2 = 1 - pow(a.beta2, (double)a.step);
    const Tensor truth = is_none(master) ? w : master;
    for (int64_t i = 0; i < numel(w); i++) {
        const double g = (double)get(grad, i) * a.grad_scale, old = get(truth, i);
        const double first = a.beta1 * (double)get(m, i) + (1 - (double)a.beta1) * g;
        const double second = a.beta2 * (double)get(v, i) + (1 - (double)a.beta2) * g * g;
        const bool decays = is_none(decay) || ((const uint8_t *)decay.data)[i / DECAY_BLOCK];
        const double step = first / fade1 / (sqrt(second / fade2) + a.eps) + (decays ? a.weight_decay : 0) * old;
        put(m, i, first);
        put(v, i, second);
        const float new = (float)(old - a.lr * step);
        if (!is_none(master)) put(master, i, new);
        put_weight(w, i, new, r);
    }
}

void plain_nesterov(Device *d, Tensor grad, Tensor m, float momentum, float grad_scale)
{
    for (int64_t i = 0; i < numel(m); i++) {
        const double g = (double)get(grad, i) * grad_scale, new = (double)momentum * get(m, i) + g;
        put(m, i, new);
        put(grad, i, g + momentum * new);
    }
}

void plain_descend(Device *d, Tensor w, Tensor master, Tensor direction, float lr, float scale, float weight_decay,
                   Rounding r)
{
    const Tensor truth = is_none(master) ? w : master;
    for (int64_t i = 0; i < numel(w); i++) {
        const double old = get(truth, i);
        const float new = (float)(old - lr * ((double)scale * get(direction, i) + weight_decay * old));
        if (!is_none(master)) put(master, i, new);
        put_weight(w, i, new, r);
    }
}
