/* mpi.c -- the collectives of comm.h over MPI: libllmc_mpi, a plugin that comm.c opens at run time. MPI carries the
 * numbers; exchange.c adds them. */
#include <fcntl.h>
#include <mpi.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "exchange.h"

enum { TAG = 1 };

/* Shared by the ranks of one machine: of several that fail at once, one speaks. */
typedef struct Voice { atomic_int taken; } Voice;

typedef struct Mpi {
    Exchange     x;
    MPI_Comm     world;
    MPI_Request *request;       /* 2 * ranks */
    Voice       *voice;         /* NULL: none could be made, and every failing rank speaks */
} Mpi;

static void must(int code, const char *what)
{
    if (code == MPI_SUCCESS) return;
    char why[MPI_MAX_ERROR_STRING] = "";
    int length;
    MPI_Error_string(code, why, &length);
    FAIL("MPI failed in %s: %s", what, why);
}

/* ---- collectives ------------------------------------------------------------------------------------------------- */

static void mpi_step(void *self, const char *from, size_t send_stride, char *to, size_t receive_stride, size_t bytes)
{
    Mpi *m = self;
    int n = 0;
    for (int q = 0; q < m->x.table.ranks; q++) {
        if (q == m->x.table.rank) continue;
        must(MPI_Irecv(to + (size_t)q * receive_stride, (int)bytes, MPI_BYTE, q, TAG, m->world, &m->request[n++]),
             "a receive");
        must(MPI_Isend(from + (size_t)q * send_stride, (int)bytes, MPI_BYTE, q, TAG, m->world, &m->request[n++]),
             "a send");
    }
    must(MPI_Waitall(n, m->request, MPI_STATUSES_IGNORE), "an exchange");
}

static void mpi_broadcast(void *self, void *x, size_t bytes, int root)
{
    Mpi *m = self;
    for (size_t at = 0; at < bytes; at += EXCHANGE_PIECE) {
        const size_t piece = bytes - at < EXCHANGE_PIECE ? bytes - at : EXCHANGE_PIECE;
        must(MPI_Bcast((char *)x + at, (int)piece, MPI_BYTE, root, m->world), "a broadcast");
    }
}

static void mpi_barrier(void *self)
{
    must(MPI_Barrier(((Mpi *)self)->world), "a barrier");
}

/* ---- ending together --------------------------------------------------------------------------------------------- */

static Voice *map_voice(int fd)
{
    void *shared = mmap(NULL, sizeof(Voice), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return shared == MAP_FAILED ? NULL : shared;
}

/* A nameless page that the ranks of this machine share: its first rank makes a file, all map it, and it is removed.
 * Memory shared through MPI would do, but some builds of Open MPI print warnings when it is asked for. */
static Voice *share_voice(MPI_Comm world)
{
    char path[32] = "/dev/shm/llmc_XXXXXX";
    MPI_Comm machine;
    int rank, fd = -1, all;
    must(MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine), "finding neighbours");
    must(MPI_Comm_rank(machine, &rank), "finding neighbours");
    if (rank == 0) {
        fd = mkstemp(path);
        if (fd < 0) fd = mkstemp(strcpy(path, "/tmp/llmc_XXXXXX"));
        if (fd >= 0 && ftruncate(fd, sizeof(Voice)) < 0) close(fd), fd = -1;
    }
    must(MPI_Bcast(path, sizeof path, MPI_CHAR, 0, machine), "meeting neighbours");
    if (rank > 0) fd = open(path, O_RDWR);
    Voice *voice = fd >= 0 ? map_voice(fd) : NULL;
    const int mine = voice != NULL;
    must(MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_MIN, machine), "meeting neighbours");
    if (fd >= 0) close(fd);
    if (rank == 0) unlink(path);
    MPI_Comm_free(&machine);
    if (all) return voice;
    if (voice) munmap(voice, sizeof *voice);
    return NULL;
}

/* mpirun of Open MPI ends the other ranks when one exits with status 1, without the banner of MPI_Abort. */
static void mpi_abort(void *self, const char *message)
{
    Mpi *m = self;
    if (m->voice && atomic_exchange(&m->voice->taken, 1)) {
        nanosleep(&(struct timespec){ .tv_sec = 5 }, NULL);     /* one that failed before is ending this rank */
    } else {
        fflush(stdout);
        fprintf(stderr, "llmc: %s\n", message);
    }
    if (getenv("OMPI_COMM_WORLD_SIZE")) _exit(1);
    MPI_Abort(MPI_COMM_WORLD, 1);
    _exit(1);
}

/* ---- joining and leaving ----------------------------------------------------------------------------------------- */

static void release(Mpi **m)
{
    if (!*m) return;
    if ((*m)->voice) munmap((*m)->voice, sizeof *(*m)->voice);
    exchange_close(&(*m)->x);
    free((*m)->request);
    free(*m);
}

static void mpi_close(void *self)
{
    Mpi *m AUTO(release) = self;
    MPI_Comm_free(&m->world);
    MPI_Finalize();
}

static void start_mpi(void)
{
    int started, granted;
    MPI_Initialized(&started);
    CHECK(!started, "this process has joined an MPI group before; it can be joined once");
    must(MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &granted), "its start");
    CHECK(granted >= MPI_THREAD_SERIALIZED, "this MPI allows calls from one thread only (level %d), wanted level %d",
          granted, MPI_THREAD_SERIALIZED);
    must(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "its start");
}

__attribute__((visibility("default"))) const CommTable *llmc_comm_plugin(int version)
{
    if (version != COMM_PLUGIN_VERSION) return NULL;
    start_mpi();
    Mpi *m AUTO(release) = xcalloc(1, sizeof *m, "MPI");
    must(MPI_Comm_dup(MPI_COMM_WORLD, &m->world), "its start");
    m->x = (Exchange){ .step = mpi_step, .table = { COMM_PLUGIN_VERSION, "mpi", m, .broadcast = mpi_broadcast,
                       .barrier = mpi_barrier, .abort = mpi_abort, .close = mpi_close } };
    must(MPI_Comm_rank(m->world, &m->x.table.rank), "its start");
    must(MPI_Comm_size(m->world, &m->x.table.ranks), "its start");
    exchange_open(&m->x);
    m->request = xcalloc(2 * (size_t)m->x.table.ranks, sizeof *m->request, "MPI");
    m->voice = share_voice(m->world);
    const CommTable *joined = &m->x.table;
    m = NULL;
    return joined;
}
