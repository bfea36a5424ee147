/* device.c -- see device.h. The CPU's memory is the program's own; its op tables lie in cpu/. Others are plugins. */
#define _GNU_SOURCE
#include "comm.h"
#include "ops.h"
#include "plugin.h"
#include "profile.h"
#include "system_memory.h"

#include <dlfcn.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#if defined(LLMC_AMX) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#endif

enum { ALIGN = 256, LARGE_PAGE = 1 << 21 };

/* Rows of a matrix lie on pages of their own; with pages of 4 KB the processor would look up one for each row it reads.
 * Advice: nothing depends on its being taken. */
static void use_large_pages(char *start, size_t bytes)
{
#ifdef MADV_HUGEPAGE
    const size_t before = -(uintptr_t)start % LARGE_PAGE;
    if (bytes >= before + LARGE_PAGE)
        madvise(start + before, (bytes - before) / LARGE_PAGE * LARGE_PAGE, MADV_HUGEPAGE);
#endif
}

/* The block's true start is kept in front of it. calloc leaves large blocks to the kernel, which zeroes on first
 * touch. */
static void *cpu_alloc(Device *d, size_t bytes)
{
    if (bytes > SIZE_MAX - 2 * ALIGN) return NULL;
    char *start = calloc(1, bytes + 2 * ALIGN);
    if (!start) return NULL;
    use_large_pages(start, bytes + 2 * ALIGN);
    char *block = start + 2 * ALIGN - (uintptr_t)start % ALIGN;
    memcpy(block - sizeof start, &start, sizeof start);
    return block;
}

static void cpu_free(Device *d, void *block)
{
    char *start;
    memcpy(&start, (char *)block - sizeof start, sizeof start);
    free(start);
}

static Memory cpu_memory(Device *d)
{
    (void)d;
    return system_memory("");
}

static void cpu_zero(Device *d, void *block, size_t bytes) { memset(block, 0, bytes); }
static void cpu_upload(Device *d, void *to, const void *host, size_t bytes) { memcpy(to, host, bytes); }
static void cpu_download(Device *d, void *host, const void *from, size_t bytes, size_t stride, size_t count)
{
    for (size_t i = 0; i < count; i++) memcpy((char *)host + i * bytes, (const char *)from + i * stride, bytes);
}
static void cpu_synchronize(Device *d) { (void)d; }
static Place cpu_place(Device *d) { (void)d; return (Place){ PLACE_CPU, 0, NULL }; }
static void cpu_open(Device *d, long number) { (void)d, (void)number; }
static void cpu_close(Device *d) { (void)d; }

/* The communicator can reach this memory: self is it, once joined. */
static void cpu_join(Device *d, Comm *comm) { d->self = comm; }
static void cpu_meet(Device *d) { (void)d; }

static void cpu_reduce_scatter(Device *d, const float *in, float *out, int64_t n)
{
    comm_reduce_scatter(d->self, in, out, n);
}

static void cpu_all_gather(Device *d, const void *in, void *out, size_t bytes)
{
    comm_all_gather(d->self, in, out, bytes);
}

extern const OpTable plain_ops, cpu_ops_generic, cpu_ops_avx2, cpu_ops_avx512, cpu_ops_avx512bf16,
                     cpu_ops_amx;

#define CPU_BACKEND(name, table) \
    { (name), &(table), cpu_open, cpu_close, cpu_alloc, cpu_free, cpu_memory, cpu_zero, cpu_upload, cpu_download, \
      cpu_upload, cpu_synchronize, cpu_place, cpu_join, cpu_reduce_scatter, cpu_all_gather, cpu_meet, NULL, NULL, NULL }

/* Widest first: "cpu" is the first of them that this processor can run. */
static const Backend cpu_backends[] = {
#ifdef LLMC_AMX
    CPU_BACKEND("cpu:amx", cpu_ops_amx),
#endif
#ifdef LLMC_AVX512BF16
    CPU_BACKEND("cpu:avx512bf16", cpu_ops_avx512bf16),
#endif
#ifdef LLMC_X86
    CPU_BACKEND("cpu:avx512", cpu_ops_avx512),
    CPU_BACKEND("cpu:avx2", cpu_ops_avx2),
#endif
    CPU_BACKEND("cpu:generic", cpu_ops_generic),
    CPU_BACKEND("cpu:plain", plain_ops),
};

#ifdef LLMC_X86
static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

#ifdef LLMC_AVX512BF16
static bool has_avx512bf16(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
}
#endif

/* The processor has tiles of bf16, and the kernel gives them to this process: it must be asked (Linux,
 * Documentation/arch/x86/xstate.rst). */
static bool has_amx(void)
{
#if defined(LLMC_AMX) && defined(__linux__)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18 };
    const unsigned wanted = 1u << 22 | 1u << 24 | 1u << 25;         /* bf16, tile, int8 */
    unsigned a, b, c, d;
    return has_avx512bf16() &&
           __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & wanted) == wanted &&
           !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA);
#else
    return false;
#endif
}
#endif

static bool runs_here(const Backend *b)
{
#ifdef LLMC_X86
    if (!strcmp(b->name, "cpu:amx")) return has_amx();
#ifdef LLMC_AVX512BF16
    if (!strcmp(b->name, "cpu:avx512bf16")) return has_avx512bf16();
#endif
    if (!strcmp(b->name, "cpu:avx512")) return has_avx512();
    if (!strcmp(b->name, "cpu:avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return true;
}

const char *device_list(void)
{
    static _Thread_local char list[128];
    list[0] = 0;
    for (size_t i = 0; i < COUNT_OF(cpu_backends); i++)
        if (runs_here(&cpu_backends[i])) {
            if (list[0]) strcat(list, " ");
            strcat(list, cpu_backends[i].name);
        }
    return list;
}

int device_openmp(void)
{
#ifdef _OPENMP
    return _OPENMP;
#else
    return 0;
#endif
}

static int processors(void)
{
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

/* OMP_NUM_THREADS is what users and mpirun launchers set, so it is heeded where no number is given. */
static int default_threads(void)
{
    const char *wish = getenv("OMP_NUM_THREADS");
    const int n = wish ? atoi(wish) : 0;
    return n > 0 ? n : processors();
}

/* ---- doors ------------------------------------------------------------------------------------------------------ */

/* "cuda-emu:7" and "cuda-emu": true, and the number, 0 if there is none. "cuda-emulator": false */
static bool named(const char *name, const char *kind, long *number)
{
    const size_t length = strlen(kind);
    if (strncmp(name, kind, length) || (name[length] && name[length] != ':')) return false;
    char *end = (char *)name + length;
    *number = 0;
    if (*end) {
        CHECK(name[length + 1] >= '0' && name[length + 1] <= '9', "device %s: wanted %s or %s:NUMBER", name, kind,
              kind);
        *number = strtol(name + length + 1, &end, 10);
    }
    CHECK(!*end, "device %s: wanted %s or %s:NUMBER", name, kind, kind);
    return true;
}

static const Backend *load_backend(const char *file, const char *name, const char *advice)
{
    void *library = plugin_open(file, false);
    CHECK(library, "device %s: its plugin cannot be opened (%s); %s", name, dlerror(), advice);
    DevicePlugin *entry = (DevicePlugin *)dlsym(library, "llmc_device_plugin");
    const Backend *b = entry ? entry(DEVICE_PLUGIN_VERSION) : NULL;
    CHECK(b, "device %s: %s was built for another version of llmc; build again", name, file);
    return b;
}

static const Backend *cpu_backend(const char *name)
{
    for (size_t i = 0; i < COUNT_OF(cpu_backends); i++) {
        const Backend *b = &cpu_backends[i];
        const bool any = !strcmp(name, "cpu");
        if ((!any && strcmp(name, b->name)) || (any && !runs_here(b))) continue;
        CHECK(runs_here(b), "device %s: this processor lacks those instructions; it runs %s", name, device_list());
        return b;
    }
    FAIL("device %s: there is no such device; wanted cuda, cpu, or by name %s", name, device_list());
}

Device *device_open(const char *name, int threads)
{
    CHECK(threads >= 0 && threads <= 4096, "device %s: %d threads, wanted 0 (one a processor) to 4096", name, threads);
    long number = 0;
    const Backend *b =
        named(name, "cuda", &number)
            ? load_backend("libllmc_cuda.so", name, "it is built by make train_gpt2cu where nvcc is found (CUDA 12 or "
                           "later); or use --device cpu") :
        named(name, "cuda-emu", &number)
            ? load_backend("libllmc_cuda_emu.so", name, "build llmc again: make setup")
            : cpu_backend(name);
    Device *d AUTO(auto_free) = xcalloc(1, sizeof *d, "a device");
    *d = (Device){ .op = b->op, .backend = b, .threads = threads ? threads : default_threads() };
    b->open(d, strcmp(name, "cuda") ? number : -1 - comm_local_rank());
    Device *opened = d;
    d = NULL;
    return opened;
}

void device_close(Device *d)
{
    if (!d) return;
    device_free(d, d->workspace);
    d->backend->close(d);
    free(d->profile);
    free(d->blocks);
    free(d);
}

typedef struct Taken { void *block; size_t bytes; } Taken;

/* A device that says it has that much, and does not give it, has it in pieces, or someone was faster. */
__attribute__((noreturn)) static void fail_full(Device *d, size_t bytes, const char *what)
{
    const Memory m = d->backend->memory(d);
    const size_t most = bytes ? bytes - 1 : 0, free = m.free < most ? m.free : most,
                 left = d->taken + free > m.reserve ? d->taken + free - m.reserve : 0;
    char *advice AUTO(auto_free) = d->when_full ? d->when_full(d->when_full_context, left) : NULL;
    FAIL("out of memory on %s: no room for %.3f GB of %s; %.3f GB are taken, and %.3f GB of %.3f GB are free%s%s",
         d->backend->name, (double)bytes / 1e9, what, (double)d->taken / 1e9, (double)m.free / 1e9,
         (double)m.total / 1e9, advice ? "; " : "", advice ? advice : "");
}

void *device_alloc(Device *d, size_t bytes, const char *what)
{
    Taken *blocks = realloc(d->blocks, (size_t)(d->block_count + 1) * sizeof *blocks);
    CHECK(blocks, "out of memory for a list of blocks");
    d->blocks = blocks;
    void *block = d->backend->alloc(d, bytes);
    if (!block) fail_full(d, bytes, what);
    blocks[d->block_count++] = (Taken){ block, bytes };
    d->taken += bytes;
    return block;
}

void device_free(Device *d, void *block)
{
    if (!block) return;
    int i = 0;
    while (d->blocks[i].block != block) i++;
    d->taken -= d->blocks[i].bytes;
    d->blocks[i] = d->blocks[--d->block_count];
    d->backend->free(d, block);
}

void device_zero(Device *d, Tensor t)    { d->backend->zero(d, t.data, tensor_bytes(t)); }

void device_upload(Device *d, Tensor t, const void *host)   { d->backend->upload(d, t.data, host, tensor_bytes(t)); }

void device_download(Device *d, void *host, Tensor t)
{
    d->backend->download(d, host, t.data, tensor_bytes(t), tensor_bytes(t), 1);
}

void device_download_columns(Device *d, void *host, Tensor t, int64_t columns)
{
    const size_t size = dtype_size(t.dtype);
    d->backend->download(d, host, t.data, (size_t)columns * size, (size_t)last(t) * size, (size_t)rows(t));
}

void device_copy(Device *d, Tensor to, Tensor from)
{
    CHECK(tensor_bytes(to) == tensor_bytes(from), "a copy of %zu bytes into %zu", tensor_bytes(from), tensor_bytes(to));
    if (to.data != from.data) d->backend->copy(d, to.data, from.data, tensor_bytes(to));
}

void device_reserve(Device *d, size_t bytes)
{
    if (bytes <= d->workspace_size) return;
    device_free(d, d->workspace);
    d->workspace = NULL, d->workspace_size = 0;
    d->workspace = device_alloc(d, bytes, "workspace");
    d->workspace_size = bytes;
}

double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
