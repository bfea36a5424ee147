/* exchange.h -- the collectives of comm.h out of one step: every rank sends something to each other rank, and receives
 * as much from it. For groups that can do no more than that, over MPI or TCP.
 *
 * Everything larger than a piece moves in pieces: extra memory is bounded, and no count comes near the limit of an
 * int. Sums are not left to the network, whose order of adding is its own: the numbers travel, and each rank adds its
 * share in the order of ranks. */
#ifndef LLMC_EXCHANGE_H
#define LLMC_EXCHANGE_H

#include "comm.h"

enum { EXCHANGE_PIECE = 4 << 20 };      /* bytes */

/* Sends `bytes` from `from + q * send_stride` to each other rank q, and receives as many from it at
 * `to + q * receive_stride`; at most a piece. A stride of 0 sends the same to all. */
typedef void ExchangeStep(void *self, const char *from, size_t send_stride, char *to, size_t receive_stride,
                          size_t bytes);

/* A group's state begins with it: its table's self is its address. */
typedef struct Exchange {
    CommTable     table;
    ExchangeStep *step;
    char         *scratch;      /* EXCHANGE_PIECE bytes: an equal share for each rank */
    size_t        share;        /* of scratch, in bytes, a multiple of 8 */
} Exchange;

/* With step and the table's rank and ranks filled in: fills in the collectives it brings, and takes its memory. */
void exchange_open(Exchange *x);
void exchange_close(Exchange *x);

#endif
