/* sampler.h -- from a row of logits to one token.
 *
 * The order is the one Hugging Face's generate uses: logits / temperature, then top-k, then top-p over what is left,
 * then min-p. Tokens are ranked by (logit, higher first; id, lower first), so a cut inside a tie is exact: top_k = 3
 * leaves three tokens. The draw walks the tokens left in the order of their ids, so a filter that removes nothing
 * changes nothing. The result depends on (logits, how, stream, position) alone. */
#ifndef LLMC_SAMPLER_H
#define LLMC_SAMPLER_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Sampling {
    double   temperature;   /* 0: always the likeliest token, the lowest id among equals */
    int64_t  top_k;         /* keep the k likeliest; 0: all */
    double   top_p;         /* keep the fewest of the likeliest whose probability reaches p (at least one); 1: all */
    double   min_p;         /* keep those at least min_p times as likely as the likeliest; 0: all */
    uint64_t seed;
} Sampling;

typedef struct Sampler Sampler;     /* scratch for one row of logits; one thread at a time */

Sampler *sampler_open(int64_t vocab_size);
void     sampler_close(Sampler *s);                 /* NULL is fine */

/* Fails with a sentence for a temperature, k or p that means nothing. */
void sampling_check(const Sampling *how);

/* The distribution a token is drawn from: vocab_size numbers that sum to 1, 0 where a token was removed. They are the
 * sampler's own, until its next call. A logit of -inf is a token that cannot come; NaN, +inf and -inf alone fail. */
const double *sampler_probabilities(Sampler *s, const float *logits, const Sampling *how);

/* One token. stream tells apart the texts drawn beside each other, below 2^20; position is the token's place in its
 * text. Same failures. */
int32_t sampler_draw(Sampler *s, const float *logits, const Sampling *how, int64_t stream, int64_t position);

#ifdef __cplusplus
}
#endif
#endif
