/* train_eval.c -- see train_eval.h */
#include "train_eval.h"
#include "json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------------ validation */

typedef struct {
    int64_t rows, T, filled;
    int32_t *numbers;           /* four arrays (rows,T) */
    float   *logp;
    double   sums[3];           /* nats, targets, bytes */
} Collected;

static void free_collected(Collected *c) { free(c->numbers); free(c->logp); }

/* The end of a text is a symbol to predict, but no byte of the text. */
static void score_collected(Model *m, Collected *c, const Detokenizer *words, int64_t eot)
{
    const int64_t n = c->rows * c->T;
    const Batch b = { .B = c->filled, .T = c->T, .tokens = c->numbers, .targets = c->numbers + n,
                      .pos = c->numbers + 2 * n, .first = c->numbers + 3 * n };
    if (!c->filled) return;
    model_score(m, &b, &(Numbers){ .logp = c->logp });
    for (int64_t i = 0; i < c->filled * c->T; i++) {
        if (b.targets[i] < 0) continue;
        size_t bytes = 0;
        if (words && b.targets[i] != eot && b.targets[i] < detokenizer_vocab_size(words))
            detokenizer_bytes(words, b.targets[i], &bytes);
        c->sums[0] -= c->logp[i];
        c->sums[1] += 1;
        c->sums[2] += (double)bytes;
    }
    c->filled = 0;
}

Validation validate(Model *m, Comm *comm, Loader *val, int64_t windows, int64_t rows, const Detokenizer *words)
{
    const int64_t count = windows < loader_windows(val) ? windows : loader_windows(val);
    Batch one;
    loader_seek(val, 0);
    Collected c AUTO(free_collected) = { .rows = rows };
    for (int64_t i = 0; i < count; i++) {
        loader_next(val, &one);
        if (!c.numbers) {
            c.T = one.T;
            c.numbers = xcalloc((size_t)(4 * rows * c.T), sizeof *c.numbers, "validation");
            c.logp = xcalloc((size_t)(rows * c.T), sizeof *c.logp, "validation");
        }
        if (i % comm_ranks(comm) != comm_rank(comm)) continue;
        const int32_t *from[] = { one.tokens, one.targets, one.pos, one.first };
        for (int k = 0; k < 4; k++)
            memcpy(c.numbers + (k * rows + c.filled) * c.T, from[k], (size_t)c.T * sizeof *c.numbers);
        if (++c.filled == rows) score_collected(m, &c, words, loader_eot(val));
    }
    score_collected(m, &c, words, loader_eot(val));
    comm_all_reduce_double(comm, c.sums, 3);
    Validation v = { .loss = c.sums[0] / c.sums[1], .targets = (int64_t)c.sums[1] };
    if (c.sums[2] > 0) v.bits_per_byte = c.sums[0] / log(2) / c.sums[2];
    return v;
}

/* ------------------------------------------------------------------------------------------------------------ text */

static void print_token(FILE *out, const Detokenizer *words, int32_t token)
{
    size_t n;
    if (!words) {
        fprintf(out, "%d ", token);
    } else if (token < detokenizer_vocab_size(words)) {     /* a model may know more symbols than its tokenizer */
        const char *bytes = detokenizer_bytes(words, token, &n);
        fwrite(bytes, 1, n, out);
    }
}

/* A copy in which every byte that is no part of a character is U+FFFD: a young model, and a cut at the end, spell
 * such. */
static char *as_utf8(const char *bytes, size_t size, size_t *out_size)
{
    char *text = xcalloc(3 * size + 1, 1, "a sample");
    char *to = text;
    for (size_t i = 0; i < size; ) {
        const int n = bytes[i] ? utf8_length(bytes + i) : 0;
        memcpy(to, n ? bytes + i : "\xef\xbf\xbd", (size_t)(n ? n : 3));
        to += n ? n : 3;
        i += (size_t)(n ? n : 1);
    }
    *out_size = (size_t)(to - text);
    return text;
}

typedef struct { FILE *out; char *text; int32_t *context; float *logits; } Writing;

static void free_writing(Writing *w)
{
    if (w->out) fclose(w->out);
    free(w->text);
    free(w->context);
    free(w->logits);
}

char *write_text(Model *m, const Detokenizer *words, Sampler *sampler, const Sampling *how, int32_t start, int32_t stop,
                 int64_t count, int64_t longest, size_t *size)
{
    Writing w AUTO(free_writing) = {0};
    w.context = xcalloc((size_t)longest, sizeof *w.context, "a sample");
    w.logits = xcalloc((size_t)model_config(m)->vocab_size, sizeof *w.logits, "a sample");
    w.out = open_memstream(&w.text, size);
    CHECK(w.out, "out of memory for a sample");
    w.context[0] = start;
    int64_t n = 1;
    for (int64_t i = 0; i < count; i++) {
        model_score(m, &(Batch){ .B = 1, .T = n, .tokens = w.context }, &(Numbers){0});
        model_logits(m, n - 1, 1, w.logits);
        const int32_t token = sampler_draw(sampler, w.logits, how, 0, i);
        if (token == stop) break;
        print_token(w.out, words, token);
        if (n == longest) memmove(w.context, w.context + 1, (size_t)--n * sizeof *w.context);
        w.context[n++] = token;
    }
    fclose(w.out);
    w.out = NULL;
    return as_utf8(w.text, *size, size);
}
