/* group.cu -- collectives between GPUs, over NCCL on a stream of their own; in the emulator over what started the
 * ranks, and not before they are waited for, so that a missing wait shows. */
#include "group.cuh"

#include "comm.h"

#ifdef LLMC_CUDA_EMU

/* What was asked for since the last meeting, in order. */
struct Group { Comm *comm; std::vector<std::function<void()>> asked; };

void join_group(Device *d, Comm *comm)
{
    leave_group(d);
    state_of(d)->group = new Group{ comm, {} };
}

void leave_group(Device *d)
{
    delete state_of(d)->group;
    state_of(d)->group = nullptr;
}

void group_reduce_scatter(Device *d, const float *in, float *out, int64_t n)
{
    Group *g = state_of(d)->group;
    emu::refuse_recording(stream_of(d), "a collective on another stream");
    g->asked.push_back([=] { comm_reduce_scatter(g->comm, in, out, n); });
}

void group_all_gather(Device *d, const void *in, void *out, size_t bytes)
{
    Group *g = state_of(d)->group;
    emu::refuse_recording(stream_of(d), "a collective on another stream");
    g->asked.push_back([=] { comm_all_gather(g->comm, in, out, bytes); });
}

void group_meet(Device *d)
{
    const emu::Access access(stream_of(d)->blocks);
    for (const std::function<void()> &collective : state_of(d)->group->asked) collective();
    state_of(d)->group->asked.clear();
}

#elif __has_include(<nccl.h>)

#include <dlfcn.h>
#include <nccl.h>

struct Group {
    ncclComm_t   comm;
    cudaStream_t stream;
    cudaEvent_t  ready, done;           /* what a collective reads is there; all of them have ended */
};

/* NCCL is opened when two GPUs are to meet, so that one GPU needs none of it. */
struct Nccl {
    decltype(&ncclGetUniqueId)    unique_id;
    decltype(&ncclCommInitRank)   init;
    decltype(&ncclCommDestroy)    destroy;
    decltype(&ncclReduceScatter)  reduce_scatter;
    decltype(&ncclAllGather)      all_gather;
    decltype(&ncclGetErrorString) message;
};

static Nccl open_nccl()
{
    void *library = dlopen("libnccl.so.2", RTLD_NOW);
    CHECK(library, "several GPUs were asked for, and NCCL cannot be opened (%s); install it (pip install "
          "nvidia-nccl-cu13, or the system's), or start one process", dlerror());
    Nccl n;
#define FIND(to, name) do { \
        *(void **)&n.to = dlsym(library, #name); \
        CHECK(n.to, "NCCL has no %s; install NCCL 2.18 or later", #name); \
    } while (0)
    FIND(unique_id, ncclGetUniqueId);
    FIND(init, ncclCommInitRank);
    FIND(destroy, ncclCommDestroy);
    FIND(reduce_scatter, ncclReduceScatter);
    FIND(all_gather, ncclAllGather);
    FIND(message, ncclGetErrorString);
#undef FIND
    return n;
}

static const Nccl &nccl()
{
    static const Nccl opened = open_nccl();
    return opened;
}

static void nccl_check(ncclResult_t status, const char *what)
{
    CHECK(status == ncclSuccess, "NCCL: %s failed: %s", what, nccl().message(status));
}

void join_group(Device *d, Comm *comm)
{
    leave_group(d);
    Group *g = state_of(d)->group = new Group{};
    ncclUniqueId id;
    stream_of(d);                                   /* NCCL takes the thread's GPU */
    if (comm_rank(comm) == 0) nccl_check(nccl().unique_id(&id), "a new group");
    comm_broadcast(comm, &id, sizeof id, 0);
    nccl_check(nccl().init(&g->comm, comm_ranks(comm), id, comm_rank(comm)), "joining the other GPUs");
    cuda_check(cudaStreamCreateWithFlags(&g->stream, cudaStreamNonBlocking), "a new stream");
    cuda_check(cudaEventCreateWithFlags(&g->ready, cudaEventDisableTiming), "a new event");
    cuda_check(cudaEventCreateWithFlags(&g->done, cudaEventDisableTiming), "a new event");
}

void leave_group(Device *d)
{
    Group *g = state_of(d)->group;
    if (!g) return;
    if (g->stream) cudaStreamSynchronize(g->stream);
    if (g->comm) nccl().destroy(g->comm);
    if (g->ready) cudaEventDestroy(g->ready);
    if (g->done) cudaEventDestroy(g->done);
    if (g->stream) cudaStreamDestroy(g->stream);
    delete g;
    state_of(d)->group = nullptr;
}

/* The group's stream goes on when the ops so far have ended. */
static Group *after_ops(Device *d)
{
    Group *g = state_of(d)->group;
    cuda_check(cudaEventRecord(g->ready, stream_of(d)), "an event");
    cuda_check(cudaStreamWaitEvent(g->stream, g->ready, 0), "waiting for an event");
    return g;
}

void group_reduce_scatter(Device *d, const float *in, float *out, int64_t n)
{
    Group *g = after_ops(d);
    nccl_check(nccl().reduce_scatter(in, out, (size_t)n, ncclFloat32, ncclSum, g->comm, g->stream), "a sum over GPUs");
}

void group_all_gather(Device *d, const void *in, void *out, size_t bytes)
{
    Group *g = after_ops(d);
    nccl_check(nccl().all_gather(in, out, bytes, ncclUint8, g->comm, g->stream), "an exchange between GPUs");
}

void group_meet(Device *d)
{
    Group *g = state_of(d)->group;
    cuda_check(cudaEventRecord(g->done, g->stream), "an event");
    cuda_check(cudaStreamWaitEvent(stream_of(d), g->done, 0), "waiting for an event");
}

#else

void join_group(Device *, Comm *)
{
    FAIL("several GPUs were asked for, and llmc was built without NCCL; install it (pip install nvidia-nccl-cu13) and "
         "build again, or start one process");
}

void leave_group(Device *) {}
void group_reduce_scatter(Device *, const float *, float *, int64_t) {}
void group_all_gather(Device *, const void *, void *, size_t) {}
void group_meet(Device *) {}

#endif
