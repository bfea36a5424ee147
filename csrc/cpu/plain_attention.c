/* plain_attention.c -- causal grouped attention in the plainest loops. See plain.c. */
#include "plain.h"

#include <math.h>
#include <string.h>

/* Where the rows of q, k and v begin in the packed block, and who reads whom. */
typedef struct { int64_t B, T, H, G, D, P; } Shape;

static Shape shape_of(Tensor qkv, int H, int G)
{
    return (Shape){ qkv.dim[0], qkv.dim[1], H, G, last(qkv) / (H + 2 * G), last(qkv) };
}

static int64_t q_at(Shape z, int64_t b, int64_t t, int64_t h) { return (b * z.T + t) * z.P + h * z.D; }
static int64_t k_at(Shape z, int64_t b, int64_t t, int64_t h) { return q_at(z, b, t, z.H + h / (z.H / z.G)); }
static int64_t v_at(Shape z, int64_t b, int64_t t, int64_t h) { return k_at(z, b, t, h) + z.G * z.D; }

static double dot(Tensor x, int64_t i, Tensor y, int64_t j, int64_t count)
{
    double sum = 0;
    for (int64_t k = 0; k < count; k++) sum += (double)get(x, i + k) * get(y, j + k);
    return sum;
}

/* scratch: p (T), the weights of one query's keys */
void plain_attention_forward(Device *d, Tensor out, Tensor lse, Tensor qkv, Tensor first, int H, int G)
{
    const Shape z = shape_of(qkv, H, G);
    double *p = d->workspace;
    for (int64_t b = 0; b < z.B; b++) for (int64_t h = 0; h < H; h++) for (int64_t t = 0; t < z.T; t++) {
        const int64_t begin = index_at(first, b * z.T + t), at = (b * z.T + t) * H * z.D + h * z.D;
        double top = -INFINITY, sum = 0;
        for (int64_t s = begin; s <= t; s++) {
            p[s] = dot(qkv, q_at(z, b, t, h), qkv, k_at(z, b, s, h), z.D) / sqrt((double)z.D);
            top = fmax(top, p[s]);
        }
        for (int64_t s = begin; s <= t; s++) sum += p[s] = exp(p[s] - top);
        for (int64_t i = 0; i < z.D; i++) {
            double mean = 0;
            for (int64_t s = begin; s <= t; s++) mean += p[s] / sum * get(qkv, v_at(z, b, s, h) + i);
            put(out, at + i, mean);
        }
        put(lse, (b * H + h) * z.T + t, top + log(sum));
    }
}

size_t plain_attention_forward_scratch(Device *d, Tensor out, Tensor lse, Tensor qkv, Tensor first, int H, int G)
{
    return (size_t)qkv.dim[1] * sizeof(double);
}

/* p = exp(s - lse);  dv += p dout;  ds = p (dout.v - dout.out) / sqrt(D);  dq += ds k;  dk += ds q
 * scratch: sums, as long as dqkv, because many queries add to one key */
void plain_attention_backward(Device *d, Tensor dqkv, Tensor dout, Tensor out, Tensor lse, Tensor qkv, Tensor first,
                              int H, int G)
{
    const Shape z = shape_of(qkv, H, G);
    const double scale = 1 / sqrt((double)z.D);
    double *sums = d->workspace;
    memset(sums, 0, (size_t)numel(dqkv) * sizeof *sums);
    for (int64_t b = 0; b < z.B; b++) for (int64_t h = 0; h < H; h++) for (int64_t t = 0; t < z.T; t++) {
        const int64_t q = q_at(z, b, t, h), at = (b * z.T + t) * H * z.D + h * z.D;
        const double mean = dot(dout, at, out, at, z.D);
        for (int64_t s = index_at(first, b * z.T + t); s <= t; s++) {
            const int64_t k = k_at(z, b, s, h), v = v_at(z, b, s, h);
            const double p = exp(scale * dot(qkv, q, qkv, k, z.D) - get(lse, (b * H + h) * z.T + t));
            const double ds = p * (dot(dout, at, qkv, v, z.D) - mean) * scale;
            for (int64_t i = 0; i < z.D; i++) {
                sums[v + i] += p * get(dout, at + i);
                sums[q + i] += ds * get(qkv, k + i);
                sums[k + i] += ds * get(qkv, q + i);
            }
        }
    }
    for (int64_t i = 0; i < numel(dqkv); i++) put(dqkv, i, sums[i]);
}

size_t plain_attention_backward_scratch(Device *d, Tensor dqkv, Tensor dout, Tensor out, Tensor lse, Tensor qkv,
                                        Tensor first, int H, int G)
{
    return (size_t)numel(dqkv) * sizeof(double);
}

/* scratch: p, as above */
void plain_attention_cached(Device *d, Tensor out, Tensor cache, Tensor qkv, Tensor table, Tensor start, Tensor length,
                            int H, int G)
{
    const int64_t P = last(qkv), D = P / (H + 2 * G), R = numel(length);
    double *p = d->workspace;
    for (int64_t r = 0; r < R; r++) for (int64_t n = index_at(start, r); n < index_at(start, r + 1); n++) {
        const int64_t t = index_at(length, r) + n - index_at(start, r);
#define PAGE(s) (index_at(table, r * last(table) + (s) / CACHE_PAGE) * 2 * (int64_t)G)
#define AT(s, g) (((PAGE(s) + (g)) * CACHE_PAGE + (s) % CACHE_PAGE) * D)        /* of the keys; the values have g + G */
        for (int64_t i = 0; i < 2 * G * D; i++) put(cache, AT(t, i / D) + i % D, get(qkv, n * P + H * D + i));
        for (int64_t h = 0; h < H; h++) {
            const int64_t g = h / (H / G);
            double top = -INFINITY, sum = 0;
            for (int64_t s = 0; s <= t; s++) {
                p[s] = dot(qkv, n * P + h * D, cache, AT(s, g), D) / sqrt((double)D);
                top = fmax(top, p[s]);
            }
            for (int64_t s = 0; s <= t; s++) sum += p[s] = exp(p[s] - top);
            for (int64_t i = 0; i < D; i++) {
                double mean = 0;
                for (int64_t s = 0; s <= t; s++) mean += p[s] / sum * get(cache, AT(s, G + g) + i);
                put(out, (n * H + h) * D + i, mean);
            }
        }
#undef AT
#undef PAGE
    }
}

size_t plain_attention_cached_scratch(Device *d, Tensor out, Tensor cache, Tensor qkv, Tensor table, Tensor start,
                                      Tensor length, int H, int G)
{
    return (size_t)(last(table) * CACHE_PAGE) * sizeof(double);
}
