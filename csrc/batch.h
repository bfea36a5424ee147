/* batch.h -- what the loader hands out and the model takes in. */
#ifndef LLMC_BATCH_H
#define LLMC_BATCH_H

#include <stdint.h>

/* Host arrays, each (B,T) and row-major. */
typedef struct Batch {
    int64_t B, T;
    const int32_t *tokens;      /* 0 .. vocab_size-1 */
    const int32_t *targets;     /* the token that follows; -1: nothing is asked here; NULL: nowhere */
    const int32_t *pos;         /* each token's position in its document; NULL: its column */
    const int32_t *first;       /* first column it may see, never decreasing along a row; NULL: 0 */
    int64_t target_count;       /* targets that are not -1, where the loader made the batch */
} Batch;

#endif
