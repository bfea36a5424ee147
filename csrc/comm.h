/* comm.h -- several processes as one: the collectives a trainer needs, on host memory.
 *
 * Floats are added in the order of ranks, 0 first, so sums do not depend on timing. Every rank calls the same
 * collectives in the same order with the same sizes; that is checked. One thread at a time. With one process they are
 * copies; several meet over TCP, or over MPI, from a plugin, libllmc_mpi, that is opened at run time. */
#ifndef LLMC_COMM_H
#define LLMC_COMM_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Comm Comm;

enum { COMM_PLUGIN_VERSION = 1 };

/* The table a plugin fills in. Sizes are in bytes or elements as named; `self` is the plugin's own state. */
typedef struct CommTable {
    int         version;                /* COMM_PLUGIN_VERSION */
    const char *name;
    void       *self;
    int         rank, ranks;
    void (*reduce_scatter)(void *self, const float *in, float *out, int64_t n);
    void (*all_gather)(void *self, const void *in, void *out, size_t bytes);
    void (*all_reduce_double)(void *self, double *x, int64_t n);
    void (*broadcast)(void *self, void *x, size_t bytes, int root);
    void (*barrier)(void *self);
    void (*abort)(void *self, const char *message);     /* one rank's message is printed; does not return */
    void (*close)(void *self);
} CommTable;

/* A plugin's one entry, llmc_comm_plugin: the table of a group it has joined, its own until close. NULL when it was
 * built for another version. */
typedef const CommTable *CommPlugin(int version);

/* Which of the processes on this machine this one is, as its launcher says: LOCAL_RANK, or what mpirun and srun set; 0
 * without one. It needs no group. */
long comm_local_rank(void);
long comm_local_ranks(void);                            /* and how many there are; 1 without one */

/* kind:
 *   "single"  this process alone;
 *   "mpi"     those that mpirun, or srun, started with it;
 *   "tcp"     those that meet at `rendezvous`, host:port of rank 0 ([host]:port for an IPv6 address), or at MASTER_ADDR
 *             and MASTER_PORT when it is NULL (under torchrun, which has a server there, at the port after it). RANK
 *             and WORLD_SIZE say which this is and of how many, or what mpirun and srun set in their place. A rank that
 *             is missing after `patience` seconds fails the others; a wait of some seconds is explained on stderr;
 *   "auto"    TCP with a rendezvous, or where torchrun, or srun with MASTER_ADDR and MASTER_PORT, started this process;
 *             else MPI when mpirun or srun did, as one of several.
 * One group a process: MPI cannot be joined again after comm_close. */
Comm       *comm_open(const char *kind, const char *rendezvous, double patience);
void        comm_close(Comm *c);                        /* NULL is fine */
int         comm_rank(const Comm *c);
int         comm_ranks(const Comm *c);
const char *comm_name(const Comm *c);                   /* "single", "mpi", "tcp" */

/* out[i] = sum over ranks of their in[rank * n + i];  in (ranks * n), out (n). out may be in + rank * n. */
void comm_reduce_scatter(Comm *c, const float *in, float *out, int64_t n);
/* out[r * bytes ...] = rank r's in, on every rank. in may be out + rank * bytes. */
void comm_all_gather(Comm *c, const void *in, void *out, size_t bytes);
void comm_all_reduce_double(Comm *c, double *x, int64_t n);
void comm_broadcast(Comm *c, void *x, size_t bytes, int root);
void comm_barrier(Comm *c);

/* For a program's fail handler: prints the sentence once, however many ranks fail, and ends all with status 1. c is
 * NULL before comm_open has returned. */
__attribute__((noreturn)) void comm_abort(Comm *c, const char *message);

#ifdef __cplusplus
}
#endif
#endif
