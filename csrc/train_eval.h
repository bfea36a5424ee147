/* train_eval.h -- looking at a model while it trains: the loss on held-out text, and text it writes. */
#ifndef LLMC_TRAIN_EVAL_H
#define LLMC_TRAIN_EVAL_H

#include "comm.h"
#include "detokenizer.h"
#include "loader.h"
#include "model.h"
#include "sampler.h"

typedef struct Validation {
    double  loss;               /* nats a token */
    double  bits_per_byte;      /* of the text the targets spell; 0 without a tokenizer */
    int64_t targets;
} Validation;

/* Over the first `windows` windows of the loader's data, or all of them if there are fewer. The loader hands out one
 * row at a time to every rank alike; rank r scores windows r, r + ranks, … in batches of `rows`, so the result depends
 * on neither. words may be NULL. */
Validation validate(Model *m, Comm *comm, Loader *val, int64_t windows, int64_t rows, const Detokenizer *words);

/* Writes `count` tokens after `start`, computing the whole context anew for each: UTF-8, the caller's to free.
 * Stops at `stop` (-1: nowhere). Without words the text is the tokens' numbers. */
char *write_text(Model *m, const Detokenizer *words, Sampler *sampler, const Sampling *how, int32_t start, int32_t stop,
                 int64_t count, int64_t longest, size_t *size);

#endif
