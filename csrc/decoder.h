/* decoder.h -- a model that reads its tokens once: keys and values of those it has seen are kept, row by row.
 *
 * A row is a text being read or written. Each call brings some rows some tokens more, a whole prompt or the one that
 * was just drawn, and gives the logits after each row's last. The blocks are the model's own, on its weights where they
 * lie; on the CPU logits have the bits that model_logits gives, whatever the pieces a row came in and its neighbours.
 *
 * The cache is made of pages of CACHE_PAGE steps, of which a row has as many as its length needs. Rows may share pages:
 * one that was lent the beginning of another reads it where it lies. Who writes into a shared page gets a copy of it.
 *
 * Where a device has graphs (CUDA's), the blocks of a call that brings every row one token are recorded once for a
 * number of rows, and replayed as a whole: the same kernels, so the same bits, without a launch for each. */
#ifndef LLMC_DECODER_H
#define LLMC_DECODER_H

#include "model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Decoder Decoder;

typedef struct DecoderPlan {
    int     rows;       /* open at a time */
    int64_t pages;      /* of the cache: what all rows may hold together */
    int64_t tokens;     /* of one call; a longer prompt comes in several */
    bool    no_graphs;  /* each kernel is launched by itself: to tell whether a mistake is a recording's */
} DecoderPlan;

/* One row's part of a call: count >= 1 tokens; logits: whether those after the last are wanted. */
typedef struct DecoderInput { int row; int64_t count; const int32_t *tokens; bool logits; } DecoderInput;

size_t   decoder_page_bytes(const Config *c, DType dtype);

/* Takes all its memory at once. The model must have a language head, and outlive the decoder. */
Decoder *decoder_create(Model *of, DecoderPlan plan);
void     decoder_free(Decoder *d);                              /* NULL is fine */

int      decoder_open(Decoder *d);                              /* an empty row; fails when all are open */
int      decoder_lend(Decoder *d, int row, int64_t length);     /* a row that begins with `length` steps of this one */
void     decoder_close(Decoder *d, int row);
int64_t  decoder_length(const Decoder *d, int row);
void     decoder_rewind(Decoder *d, int row, int64_t length);   /* forgets all but the first `length` steps */

int64_t  decoder_pages_free(const Decoder *d);
int64_t  decoder_replays(const Decoder *d);                     /* calls that replayed a graph */
int64_t  decoder_pages_needed(const Decoder *d, int row, int64_t count);    /* to bring it so many tokens */

/* logits (wanted,vocab_size), on the host, in the order of the inputs that want them. Each row comes at most once.
 * Fails, before anything changes, for a row that is not open, a token that is none, a row that would be longer than
 * max_seq_len, and a cache without enough free pages. */
void     decoder_feed(Decoder *d, int count, const DecoderInput *in, float *logits);

#ifdef __cplusplus
}
#endif
#endif
