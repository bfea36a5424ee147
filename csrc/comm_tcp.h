/* comm_tcp.h -- the collectives of comm.h over TCP, each two ranks joined by a connection. */
#ifndef LLMC_COMM_TCP_H
#define LLMC_COMM_TCP_H

#include "comm.h"

/* Meets the other ranks where rank 0 listens, for at most `patience` seconds (rendezvous.h); the table's close frees
 * it. 2 ranks or more. */
const CommTable *tcp_join(const char *host, int port, int rank, int ranks, double patience);

#endif
