/* mpi.c -- the collectives of comm.h over MPI: libllmc_mpi, a plugin that comm.c opens at run time.
 *
 * Everything larger than a piece moves in pieces: extra memory is bounded, and no count comes near MPI's limit of an
 * int. Sums are not left to MPI, whose order of adding is its own: the numbers travel, and each rank adds its share
 * in the order of ranks. */
#include <fcntl.h>
#include <mpi.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "comm.h"

enum { PIECE_BYTES = 4 << 20, TAG = 1 };

/* Shared by the ranks of one machine: of several that fail at once, one speaks. */
typedef struct Voice { atomic_int taken; } Voice;

typedef struct Mpi {
    CommTable    table;
    MPI_Comm     world;
    char        *scratch;       /* PIECE_BYTES: an equal share for each rank */
    size_t       share;         /* of scratch, in bytes, a multiple of 8 */
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

/* Sends `bytes` from `from + q * send_stride` to each other rank q, and receives as many from it at
 * `to + q * receive_stride`. A stride of 0 sends the same to all. */
static void exchange(Mpi *m, const char *from, size_t send_stride, char *to, size_t receive_stride, size_t bytes)
{
    int n = 0;
    for (int q = 0; q < m->table.ranks; q++) {
        if (q == m->table.rank) continue;
        must(MPI_Irecv(to + (size_t)q * receive_stride, (int)bytes, MPI_BYTE, q, TAG, m->world, &m->request[n++]),
             "a receive");
        must(MPI_Isend(from + (size_t)q * send_stride, (int)bytes, MPI_BYTE, q, TAG, m->world, &m->request[n++]),
             "a send");
    }
    must(MPI_Waitall(n, m->request, MPI_STATUSES_IGNORE), "an exchange");
}

static void mpi_reduce_scatter(void *self, const float *in, float *out, int64_t n)
{
    Mpi *m = self;
    const int64_t most = (int64_t)(m->share / sizeof(float));
    for (int64_t at = 0; at < n; at += most) {
        const int64_t count = n - at < most ? n - at : most;
        const size_t bytes = (size_t)count * sizeof(float);
        exchange(m, (const char *)(in + at), (size_t)n * sizeof(float), m->scratch, m->share, bytes);
        memcpy(m->scratch + (size_t)m->table.rank * m->share, in + m->table.rank * n + at, bytes);
        for (int q = 0; q < m->table.ranks; q++) {
            const float *piece = (const float *)(m->scratch + (size_t)q * m->share);
            if (q == 0) memcpy(out + at, piece, bytes);
            else for (int64_t i = 0; i < count; i++) out[at + i] += piece[i];
        }
    }
}

static void mpi_all_gather(void *self, const void *in, void *out, size_t bytes)
{
    Mpi *m = self;
    char *own = (char *)out + (size_t)m->table.rank * bytes;
    if (in != own) memcpy(own, in, bytes);
    for (size_t at = 0; at < bytes; at += PIECE_BYTES) {
        const size_t piece = bytes - at < PIECE_BYTES ? bytes - at : PIECE_BYTES;
        exchange(m, own + at, 0, (char *)out + at, bytes, piece);
    }
}

static void mpi_all_reduce_double(void *self, double *x, int64_t n)
{
    Mpi *m = self;
    const int64_t most = (int64_t)(m->share / sizeof(double));
    for (int64_t at = 0; at < n; at += most) {
        const int64_t count = n - at < most ? n - at : most;
        const size_t bytes = (size_t)count * sizeof(double);
        exchange(m, (const char *)(x + at), 0, m->scratch, m->share, bytes);
        memcpy(m->scratch + (size_t)m->table.rank * m->share, x + at, bytes);
        for (int q = 0; q < m->table.ranks; q++) {
            const double *piece = (const double *)(m->scratch + (size_t)q * m->share);
            if (q == 0) memcpy(x + at, piece, bytes);
            else for (int64_t i = 0; i < count; i++) x[at + i] += piece[i];
        }
    }
}

static void mpi_broadcast(void *self, void *x, size_t bytes, int root)
{
    Mpi *m = self;
    for (size_t at = 0; at < bytes; at += PIECE_BYTES) {
        const size_t piece = bytes - at < PIECE_BYTES ? bytes - at : PIECE_BYTES;
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
    free((*m)->scratch);
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
    m->table = (CommTable){ COMM_PLUGIN_VERSION, "mpi", m, 0, 0, mpi_reduce_scatter, mpi_all_gather,
                            mpi_all_reduce_double, mpi_broadcast, mpi_barrier, mpi_abort, mpi_close };
    must(MPI_Comm_rank(m->world, &m->table.rank), "its start");
    must(MPI_Comm_size(m->world, &m->table.ranks), "its start");
    m->share = PIECE_BYTES / (size_t)m->table.ranks / 8 * 8;
    CHECK(m->share, "%d ranks; wanted at most %d", m->table.ranks, PIECE_BYTES / 8);
    m->scratch = xcalloc(1, PIECE_BYTES, "MPI");
    m->request = xcalloc(2 * (size_t)m->table.ranks, sizeof *m->request, "MPI");
    m->voice = share_voice(m->world);
    const CommTable *joined = &m->table;
    m = NULL;
    return joined;
}
