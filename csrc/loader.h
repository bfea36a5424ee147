/* loader.h -- windows of tokens out of shards, shuffled, split by rank, prefetched, resumable.
 *
 * A shard of `count` tokens has (count - 1) / T windows: T tokens each, and the T tokens one further on as targets.
 * An epoch visits every window of every shard once, in an order that (seed, epoch) decides; after the last window the
 * next epoch begins, in the middle of an update if need be. An update consumes `update_windows` windows: in the order
 * of the epoch, rank r takes the r-th of `ranks` equal parts, in micro-batches of B. So the windows of an update, and
 * their order over all ranks, depend on neither ranks nor B, and the cursor, the number of windows that whole updates
 * have consumed, is all a run must keep to continue where it stopped. */
#ifndef LLMC_LOADER_H
#define LLMC_LOADER_H

#include "base.h"
#include "batch.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct LoaderConfig {
    const char *data;                   /* a shard, a glob such as data/x_train_*.bin, or a folder */
    const char *split;                  /* of a folder: "train" or "val" */
    const char *const *paths;           /* or the shards themselves, in reading order; `data` is not used then */
    int64_t     path_count;
    int64_t     B, T;                   /* rows and steps of a micro-batch */
    int64_t     update_windows;         /* of all ranks together, a multiple of ranks * B; 0: ranks * B */
    int64_t     rank, ranks;            /* ranks 0: 1 */
    uint64_t    seed;
    bool        shuffle;                /* false: in the order of the files, every epoch the same */
    bool        document_mask;          /* documents do not see each other: `pos` and `first` start anew after eot */
    int64_t     prefetch;               /* micro-batches to prepare in advance, on a thread; 0: no thread */
} LoaderConfig;

typedef struct Loader Loader;

/* Fails with a sentence if the configuration is impossible, a shard is damaged, or shards do not belong together.
 * Tokens themselves are checked as they are read. */
Loader *loader_open(const LoaderConfig *config);
void    loader_close(Loader *l);                          /* NULL is fine */

/* The next micro-batch of this rank, all four arrays given. They are the loader's, and stay as they are until the next
 * loader_next, seek or close. Fails if it holds a token >= vocab_size; then the loader stays
 * where it is. */
void    loader_next(Loader *l, Batch *out);
int64_t loader_micro_batches(const Loader *l);            /* of one update and rank: update_windows / (ranks * B) */

/* How many targets this rank's micro-batches of one update hold together: of the update that the next loader_next
 * belongs to. Ask before the first of them: losses divide by the whole update's count, summed over the ranks. */
int64_t loader_count_targets(Loader *l);

/* The cursor moves by update_windows when the last micro-batch of an update is handed out. Any cursor >= 0 may be
 * sought; prefetched batches are dropped and the next loader_next begins an update there. */
int64_t loader_cursor(const Loader *l);
void    loader_seek(Loader *l, int64_t cursor);

int64_t  loader_windows(const Loader *l);                 /* of one epoch */
int64_t  loader_tokens(const Loader *l);                  /* of all shards */
int64_t  loader_shards(const Loader *l);
int64_t  loader_vocab_size(const Loader *l);
uint64_t loader_fingerprint(const Loader *l);             /* of the tokenizer; 0: unknown */
int64_t  loader_eot(const Loader *l);                     /* -1: none */

#ifdef __cplusplus
}
#endif
#endif
