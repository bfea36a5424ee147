/* device.h -- a machine that runs the ops of ops.h: memory, copies, one workspace, and a stopwatch. */
#ifndef LLMC_DEVICE_H
#define LLMC_DEVICE_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Device Device;
typedef struct OpTable OpTable;
struct Comm;

/* Where memory is, counted as DLPack counts (dmlc.github.io/dlpack): its kind and a number within it. Every emulated
 * GPU has memory of its own. stream: CUDA's, on which the ops run; otherwise NULL. */
enum { PLACE_CPU = 1, PLACE_CUDA = 2, PLACE_PINNED = 3, PLACE_EMULATED = 12 };
typedef struct Place { int kind, number; void *stream; } Place;

/* Bytes of a device's memory: all it has; what this process can still take of it; and the part of that, no more, which
 * should be left for what the machine itself takes later, where there is a choice. */
typedef struct Memory { size_t total, free, reserve; } Memory;

/* What a backend fills in. open sets d->self for the machine's part with that number, or fails; -1 - r stands for the
 * part that the r-th of this machine's processes should take. close gives back what open took. alloc gives zeroed
 * memory aligned to 256 bytes, or NULL. Ops and copy may still run when their call returns, and uploads, though not out
 * of the caller's memory; download and synchronize wait for all of them. */
typedef struct Backend {
    const char    *name;
    const OpTable *op;
    void  (*open)(Device *d, long number);
    void  (*close)(Device *d);
    void *(*alloc)(Device *d, size_t bytes);
    void  (*free)(Device *d, void *block);
    Memory (*memory)(Device *d);
    void  (*zero)(Device *d, void *block, size_t bytes);
    void  (*upload)(Device *d, void *to, const void *host, size_t bytes);
    /* count pieces of so many bytes, which begin `stride` bytes apart, side by side */
    void  (*download)(Device *d, void *host, const void *from, size_t bytes, size_t stride, size_t count);
    void  (*copy)(Device *d, void *to, const void *from, size_t bytes);     /* both in the device's memory */
    void  (*synchronize)(Device *d);
    Place (*place)(Device *d);
    /* Collectives of comm.h on the device's memory: join fails, or makes a group of the devices of all ranks. The
     * others run beside the ops that follow; those after meet find their results. */
    void (*join)(Device *d, struct Comm *comm);
    void (*reduce_scatter)(Device *d, const float *in, float *out, int64_t n);
    void (*all_gather)(Device *d, const void *in, void *out, size_t bytes);
    void (*meet)(Device *d);
    /* A graph: ops that repeat on the same tensors, given to the device as one. record calls run(context), whose ops
     * are noted and not done, and fails where run takes or gives back memory, copies from or to the host, or waits. A
     * replay has the recording's arguments; what they point to is read anew. record is NULL where nothing is gained. */
    void *(*record)(Device *d, void (*run)(void *context), void *context);
    void  (*replay)(Device *d, void *graph);
    void  (*forget)(Device *d, void *graph);
} Backend;

struct Device {
    const OpTable *op;
    const Backend *backend;
    void  *self;                /* the backend's own */
    int    threads;             /* CPU threads an op may use */
    void  *workspace;           /* scratch of the op that runs now; its contents mean nothing between ops */
    size_t workspace_size;
    bool   measuring;           /* doors check shapes and note the scratch they would need, and run nothing */
    size_t scratch_needed;      /* the most any op asked for while measuring */
    struct Taken *blocks;       /* of device_alloc, those that were not given back */
    int    block_count;
    size_t taken;               /* their bytes */
    /* NULL, or what would run in so many bytes, for the sentence that says there are no more: a new string */
    char *(*when_full)(void *context, size_t bytes);
    void  *when_full_context;
    struct Profile *profile;    /* NULL, or where the doors add up calls, seconds, FLOP and bytes */
};

/* A plugin's one entry, llmc_device_plugin: its backend, or NULL when it was built for another version. */
enum { DEVICE_PLUGIN_VERSION = 2 };
typedef const Backend *DevicePlugin(int version);

/* name: "cpu" (the widest vectors this processor has), or one of "cpu:amx", "cpu:avx512bf16", "cpu:avx512", "cpu:avx2",
 * "cpu:generic" and "cpu:plain" (the reference loops); "cuda:1", a GPU, or "cuda", that of this process among those on
 * the machine; "cuda-emu" or "cuda-emu:7", the same kernels on the CPU, threads in the order of that seed. threads = 0
 * means one for each processor this process may run on. Fails for a name that is unknown, or of a machine that is not
 * here. */
Device *device_open(const char *name, int threads);
void    device_close(Device *d);
const char *device_list(void);  /* names that would open here, separated by spaces */
int     device_openmp(void);    /* the version of OpenMP this was built with, 201511 or so; 0: one thread computes */

/* Zeroed. When there is no room it fails with what was asked for, what there is, and what when_full says. */
void *device_alloc(Device *d, size_t bytes, const char *what);
void  device_free(Device *d, void *block);                          /* NULL is fine */
void  device_zero(Device *d, Tensor t);
void  device_upload(Device *d, Tensor t, const void *host);
void  device_download(Device *d, void *host, Tensor t);
void  device_download_columns(Device *d, void *host, Tensor t, int64_t columns);    /* the first of each row */
void  device_copy(Device *d, Tensor to, Tensor from);               /* of as many bytes */
void  device_reserve(Device *d, size_t bytes);                      /* the workspace holds at least this much */

void  profile_start(Device *d);                                     /* from now on the doors keep time */
void  profile_print(Device *d, double peak_flops);                  /* a table, slowest first; peak 0: no share */
double seconds_now(void);                                           /* a clock that never goes back */

#ifdef __cplusplus
}
#endif
#endif
