/* sampler.c -- see sampler.h
 *
 * A filter keeps the first so many of the ranking, so the three of them come down to one number, `kept`. The ranking is
 * a stable radix sort by descending logit: equals stay in the order of their ids. It runs only where a filter asks. */
#include "sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "rng.h"

enum { DIGIT_BITS = 11, DIGITS = 1 << DIGIT_BITS };

struct Sampler {
    int64_t   vocab_size;
    double   *probability;      /* by id */
    uint32_t *key, *other_key;  /* ascending keys are descending logits */
    int32_t  *id, *other_id;    /* the ranking: id[0] is the likeliest */
};

Sampler *sampler_open(int64_t vocab_size)
{
    CHECK(vocab_size > 0 && vocab_size <= INT32_MAX, "a sampler for %lld tokens; wanted 1 to 2147483647",
          (long long)vocab_size);
    const size_t V = (size_t)vocab_size, bytes = V * (sizeof(double) + 2 * sizeof(uint32_t) + 2 * sizeof(int32_t));
    Sampler *s = xcalloc(1, sizeof *s + bytes, "a sampler");
    s->vocab_size = vocab_size;
    s->probability = (double *)(s + 1);
    s->key = (uint32_t *)(s->probability + V);
    s->other_key = s->key + V;
    s->id = (int32_t *)(s->other_key + V);
    s->other_id = s->id + V;
    return s;
}

void sampler_close(Sampler *s) { free(s); }

void sampling_check(const Sampling *how)
{
    CHECK(how->temperature >= 0 && isfinite(how->temperature), "temperature is %g; wanted 0 (greedy) or more",
          how->temperature);
    CHECK(how->top_k >= 0, "top_k is %lld; wanted 0 (keep all) or more", (long long)how->top_k);
    CHECK(how->top_p >= 0 && how->top_p <= 1, "top_p is %g; wanted 0 to 1 (1 keeps all)", how->top_p);
    CHECK(how->min_p >= 0 && how->min_p <= 1, "min_p is %g; wanted 0 (keep all) to 1", how->min_p);
}

/* The id of the likeliest token, the lowest among equals. */
static int64_t likeliest(const float *logits, int64_t V)
{
    int64_t best = 0;
    for (int64_t v = 0; v < V; v++) {
        CHECK(!isnan(logits[v]) && logits[v] != INFINITY, "the logit of token %lld is %s: the model has diverged or "
              "its weights are damaged", (long long)v, isnan(logits[v]) ? "NaN" : "+inf");
        if (logits[v] > logits[best]) best = v;
    }
    CHECK(logits[best] != -INFINITY, "all %lld logits are -inf: no token is left to sample", (long long)V);
    return best;
}

/* Bits that order as unsigned numbers the way floats order from high to low; 0 and -0 are equal. */
static uint32_t descending_key(float logit)
{
    const float f = logit + 0.0f;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits >> 31 ? bits : ~bits & 0x7fffffffu;
}

static void rank_tokens(Sampler *s, const float *logits)
{
    const int64_t V = s->vocab_size;
    for (int64_t v = 0; v < V; v++) {
        s->key[v] = descending_key(logits[v]);
        s->id[v] = (int32_t)v;
    }
    for (int shift = 0; shift < 32; shift += DIGIT_BITS) {
        int32_t start[DIGITS + 1] = {0};
        for (int64_t i = 0; i < V; i++) start[(s->key[i] >> shift) % DIGITS + 1]++;
        for (int digit = 0; digit < DIGITS; digit++) start[digit + 1] += start[digit];
        for (int64_t i = 0; i < V; i++) {
            const int32_t to = start[(s->key[i] >> shift) % DIGITS]++;
            s->other_key[to] = s->key[i];
            s->other_id[to] = s->id[i];
        }
        uint32_t *key = s->key;
        s->key = s->other_key, s->other_key = key;
        int32_t *id = s->id;
        s->id = s->other_id, s->other_id = id;
    }
}

/* How many of the ranking the filters leave, given each token's weight relative to the likeliest one's, by id. */
static int64_t count_kept(const Sampler *s, const Sampling *how)
{
    int64_t kept = s->vocab_size;
    if (how->top_k && how->top_k < kept) kept = how->top_k;
    if (how->top_p < 1) {
        double total = 0, sum = 0;
        for (int64_t i = 0; i < kept; i++) total += s->probability[s->id[i]];
        int64_t n = 0;
        while (n < kept && (n == 0 || sum < how->top_p * total)) sum += s->probability[s->id[n++]];
        kept = n;
    }
    while (kept > 1 && s->probability[s->id[kept - 1]] < how->min_p) kept--;
    return kept;
}

const double *sampler_probabilities(Sampler *s, const float *logits, const Sampling *how)
{
    const int64_t V = s->vocab_size;
    sampling_check(how);
    const int64_t best = likeliest(logits, V);
    if (how->temperature == 0) {
        memset(s->probability, 0, (size_t)V * sizeof *s->probability);
        s->probability[best] = 1;
        return s->probability;
    }
    for (int64_t v = 0; v < V; v++)
        s->probability[v] = exp(((double)logits[v] - (double)logits[best]) / how->temperature);
    if ((how->top_k && how->top_k < V) || how->top_p < 1 || how->min_p > 0) {
        rank_tokens(s, logits);
        for (int64_t i = count_kept(s, how); i < V; i++) s->probability[s->id[i]] = 0;
    }
    double total = 0;
    for (int64_t v = 0; v < V; v++) total += s->probability[v];
    for (int64_t v = 0; v < V; v++) s->probability[v] /= total;
    return s->probability;
}

int32_t sampler_draw(Sampler *s, const float *logits, const Sampling *how, int64_t stream, int64_t position)
{
    CHECK(stream >= 0 && stream < RNG_INIT, "sampling stream %lld; wanted 0 to %d", (long long)stream, RNG_INIT - 1);
    const double *p = sampler_probabilities(s, logits, how);
    const double u = rng_uniform(how->seed, (uint64_t)(RNG_SAMPLE + stream), (uint64_t)position);
    double sum = 0;
    int64_t drawn = -1;     /* the last token that can come takes what rounding left of 1 */
    for (int64_t v = 0; v < s->vocab_size && sum <= u; v++)
        if (p[v] > 0) sum += p[v], drawn = v;
    return (int32_t)drawn;
}
