/* device.cu -- the plugin's entry: memory, copies and the table of ops, on a GPU or in the emulator. */
#include "common.cuh"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#ifdef LLMC_CUDA_EMU
#include <atomic>

#include "system_memory.h"
#endif

#include "gemm.cuh"
#include "group.cuh"

static const OpTable cuda_ops = {
#define ENTRY_PURE(name, args)    cuda_##name,
#define ENTRY_SCRATCH(name, args) cuda_##name, cuda_##name##_scratch,
    OPS(ENTRY_PURE, ENTRY_SCRATCH)
#undef ENTRY_PURE
#undef ENTRY_SCRATCH
};

/* Copies of up to so many bytes pass through pinned memory. */
constexpr size_t STAGE = 16 << 20, STAGE_ALIGN = 256;

#ifdef LLMC_CUDA_EMU

constexpr char NAME[] = "cuda-emu";

/* $LLMC_EMU_MEMORY bytes; or as much as the machine can give, since it is the machine's in truth. */
static size_t memory_size()
{
    const char *said = getenv("LLMC_EMU_MEMORY");
    const Memory machine = system_memory("");
    if (!said) return machine.free - machine.reserve;
    char *end;
    const double bytes = strtod(said, &end);
    CHECK(end > said && !*end && bytes >= 1 && bytes <= 1e18, "LLMC_EMU_MEMORY is '%s'; wanted the bytes of the device "
          "cuda-emu, such as 16e9", said);
    return (size_t)bytes;
}

/* One opens no other's memory, so they are counted. */
static void device_begin(Device *d, long number)
{
    static std::atomic<int> opened;
    const size_t memory = memory_size();
    CudaState *s = new CudaState{};
    s->index = opened++;
    s->memory = memory;
    d->self = s;
    s->stream.seed = (uint64_t)number;
    s->stage = (char *)xcalloc(1, STAGE, "copies to cuda-emu");
}

static void device_end(Device *d)
{
    leave_group(d);
    free(state_of(d)->stage);
    delete state_of(d);
}

static Memory memory_look(Device *d)
{
    const size_t total = state_of(d)->memory;
    return { total, total - d->taken, 0 };
}

static void *memory_alloc(Device *d, size_t bytes)
{
    return bytes > memory_look(d).free ? nullptr : emu::take_memory(stream_of(d), bytes);
}

static void memory_free(Device *d, void *block) { emu::give_memory(stream_of(d), block); }

static void memory_zero(Device *d, void *block, size_t bytes)
{
    emu::enqueue(stream_of(d), [=] { memset(block, 0, bytes); });
}

static void start_copy(Device *d, void *to, const void *from, size_t bytes, size_t stride, size_t count)
{
    emu::copy(stream_of(d), to, from, bytes, stride, count);
}

static Place place_of(Device *d) { return { PLACE_EMULATED, state_of(d)->index, nullptr }; }

static void wait_for_stream(Device *d) { emu::wait(stream_of(d)); }

static bool is_recording(Device *d) { return stream_of(d)->recording; }

using emu::Capture;

static void graph_replay(Device *d, void *graph) { emu::replay(stream_of(d), *(emu::Graph *)graph); }
static void graph_forget(Device *, void *graph) { delete (emu::Graph *)graph; }

#else

constexpr char NAME[] = "cuda";

void cuda_check(cudaError_t status, const char *what)
{
    CHECK(status == cudaSuccess, "CUDA: %s failed: %s", what, cudaGetErrorString(status));
}

/* The GPU of that number; of a negative one, this process's own: -1 - its rank on the machine, or the only one it is
 * shown. A machine without a driver, with one too old, and without a GPU are told apart. */
static int choose_gpu(long number)
{
    int count = 0, driver = 0, runtime = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    CHECK(driver != 0, "device cuda: there is no NVIDIA driver here; install it, or use --device cpu");
    CHECK(status != cudaErrorInsufficientDriver, "device cuda: the NVIDIA driver is for CUDA %d.%d, and llmc was built "
          "with %d.%d; install a newer driver, or use --device cpu", driver / 1000, driver % 1000 / 10, runtime / 1000,
          runtime % 1000 / 10);
    CHECK(status == cudaSuccess && count > 0, "device cuda: no GPU is found (%s); use --device cpu",
          status == cudaSuccess ? "the driver counts 0" : cudaGetErrorString(status));
    if (number < 0) number = count == 1 ? 0 : -1 - number;
    CHECK(number < count, "device cuda:%ld: this machine has %d of them, 0 to %d", number, count,
          count - 1);
    return (int)number;
}

/* The build has code for this GPU. */
static void check_architecture(int number)
{
    cudaFuncAttributes found;
    cudaDeviceProp gpu;
    cuda_check(cudaGetDeviceProperties(&gpu, number), "a look at the GPU");
    CHECK(gpu.major >= 8, "device cuda:%d: %s has compute capability %d.%d, wanted 8.0 or later", number, gpu.name,
          gpu.major, gpu.minor);
    CHECK(probe_kernel(&found) == cudaSuccess, "device cuda:%d: %s has compute capability %d.%d, for which this build "
          "has no code; build with -DCMAKE_CUDA_ARCHITECTURES=%d%d", number, gpu.name, gpu.major, gpu.minor, gpu.major,
          gpu.minor);
}

static void device_begin(Device *d, long number)
{
    const int chosen = choose_gpu(number);
    cuda_check(cudaSetDevice(chosen), "the choice of a GPU");
    check_architecture(chosen);
    CudaState *s = new CudaState{};
    d->self = s;
    s->index = chosen;
    cuda_check(cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking), "a new stream");
    cuda_check(cudaMallocHost(&s->stage, STAGE), "room for copies");
    open_products(s);
}

static void device_end(Device *d)
{
    CudaState *s = state_of(d);
    cudaSetDevice(s->index);
    leave_group(d);
    close_products(s);
    cudaFreeHost(s->stage);
    cudaStreamDestroy(s->stream);
    delete s;
}

static void *memory_alloc(Device *d, size_t bytes)
{
    void *block = nullptr;
    const cudaStream_t stream = stream_of(d);
    const cudaError_t status = cudaMalloc(&block, bytes ? bytes : 1);
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();                     /* it is said by the caller, and forgotten here */
        return nullptr;
    }
    cuda_check(status, "taking memory");
    cuda_check(cudaMemsetAsync(block, 0, bytes, stream), "zeroing new memory");
    return block;
}

/* Part of what runs when something has failed: an op's error is its door's to say, so none is said here. */
static void memory_free(Device *d, void *block)
{
    cudaSetDevice(state_of(d)->index);
    cudaStreamSynchronize(state_of(d)->stream);
    cudaFree(block);
    cudaGetLastError();
}

/* What CUDA has taken is not free. It takes more as it goes: kernels when they first run, cuBLASLt's among them, NCCL's
 * buffers, and blocks in steps of 2 MB. */
static Memory memory_look(Device *d)
{
    Memory m = {};
    stream_of(d);                               /* chooses the GPU */
    cuda_check(cudaMemGetInfo(&m.free, &m.total), "a look at the GPU's memory");
    m.reserve = at_most(m.total / 32, m.free);
    return m;
}

static void memory_zero(Device *d, void *block, size_t bytes)
{
    cuda_check(cudaMemsetAsync(block, 0, bytes, stream_of(d)), "zeroing");
}

/* count pieces that begin `stride` bytes apart, side by side */
static void start_copy(Device *d, void *to, const void *from, size_t bytes, size_t stride, size_t count)
{
    const bool whole = stride == bytes;
    cuda_check(whole ? cudaMemcpyAsync(to, from, bytes * count, cudaMemcpyDefault, stream_of(d))
                     : cudaMemcpy2DAsync(to, bytes, from, stride, bytes, count, cudaMemcpyDefault, stream_of(d)),
               "a copy");
}

static Place place_of(Device *d) { return { PLACE_CUDA, state_of(d)->index, stream_of(d) }; }

static void wait_for_stream(Device *d) { cuda_check(cudaStreamSynchronize(stream_of(d)), "an op"); }

static bool is_recording(Device *d)
{
    cudaStreamCaptureStatus status;
    cuda_check(cudaStreamIsCapturing(stream_of(d), &status), "a look at a stream");
    return status != cudaStreamCaptureStatusNone;
}

/* From here to its end the stream's work is noted. However it is left, the stream works again. */
struct Capture {
    cudaStream_t stream;
    cudaGraph_t  graph = nullptr;
    bool         open = true;

    explicit Capture(cudaStream_t s) : stream(s)
    {
        cuda_check(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal), "recording a graph");
    }

    ~Capture()
    {
        if (open) cudaStreamEndCapture(stream, &graph);
        if (graph) cudaGraphDestroy(graph);
        cudaGetLastError();                     /* what failed has been said */
    }

    cudaGraphExec_t end()
    {
        cudaGraphExec_t made = nullptr;
        open = false;
        cuda_check(cudaStreamEndCapture(stream, &graph), "recording a graph");
        cuda_check(cudaGraphInstantiate(&made, graph, 0), "making a graph of what was recorded");
        return made;
    }
};

static void graph_replay(Device *d, void *graph)
{
    cuda_check(cudaGraphLaunch((cudaGraphExec_t)graph, stream_of(d)), "the launch of a graph");
}

/* As memory_free; a graph that runs ends first. */
static void graph_forget(Device *d, void *graph)
{
    cudaSetDevice(state_of(d)->index);
    cudaGraphExecDestroy((cudaGraphExec_t)graph);
    cudaGetLastError();
}

#endif

static void wait_for_all(Device *d)
{
    wait_for_stream(d);
    state_of(d)->staged = 0;
}

/* Room in the pinned memory. What lies there is read, or written, until the next wait. */
static char *room_to_pass(Device *d, size_t bytes)
{
    CudaState *s = state_of(d);
    if (s->staged + bytes > STAGE) wait_for_all(d);
    char *room = s->stage + s->staged;
    s->staged += (bytes + STAGE_ALIGN - 1) / STAGE_ALIGN * STAGE_ALIGN;
    return room;
}

/* The caller's memory may change or go when this returns. */
static void memory_upload(Device *d, void *to, const void *host, size_t bytes)
{
    CHECK(!is_recording(d), "a copy from the host, while a graph is recorded: it would bring the same at each replay");
    if (bytes <= STAGE) {
        char *room = room_to_pass(d, bytes);
        memcpy(room, host, bytes);
        start_copy(d, to, room, bytes, bytes, 1);
        return;
    }
    start_copy(d, to, host, bytes, bytes, 1);
    wait_for_all(d);
}

static void memory_download(Device *d, void *host, const void *from, size_t bytes, size_t stride, size_t count)
{
    const bool passes = bytes * count <= STAGE;
    void *to = passes ? room_to_pass(d, bytes * count) : host;
    start_copy(d, to, from, bytes, stride, count);
    wait_for_all(d);
    if (passes) memcpy(host, to, bytes * count);
}

static void memory_copy(Device *d, void *to, const void *from, size_t bytes)
{
    start_copy(d, to, from, bytes, bytes, 1);
}

static void *graph_record(Device *d, void (*run)(void *), void *context)
{
    Capture capture(stream_of(d));
    run(context);
    return capture.end();
}

static const Backend backend = { NAME, &cuda_ops, device_begin, device_end, memory_alloc, memory_free, memory_look,
                                 memory_zero, memory_upload, memory_download, memory_copy, wait_for_all, place_of,
                                 join_group, group_reduce_scatter, group_all_gather, group_meet, graph_record,
                                 graph_replay, graph_forget };

#ifndef LLMC_CUDA_EMU
/* For llmc doctor, once a device has opened: the driver and the GPUs. */
extern "C" __attribute__((visibility("default"))) const char *llmc_cuda_about()
{
    static thread_local char about[1024];
    int count = 0, driver = 0;
    cudaDeviceProp gpu;
    cudaDriverGetVersion(&driver);
    cudaGetDeviceCount(&count);
    int used = snprintf(about, sizeof about, "driver for CUDA %d.%d", driver / 1000, driver % 1000 / 10);
    for (int i = 0; i < count && used < (int)sizeof about; i++)
        if (cudaGetDeviceProperties(&gpu, i) == cudaSuccess)
            used += snprintf(about + used, sizeof about - (size_t)used,
                             "; cuda:%d: %s, %.0f GB, compute capability %d.%d",
                             i, gpu.name, (double)gpu.totalGlobalMem / 1e9, gpu.major, gpu.minor);
    return about;
}
#endif

extern "C" __attribute__((visibility("default"))) const Backend *llmc_device_plugin(int version)
{
    return version == DEVICE_PLUGIN_VERSION ? &backend : nullptr;
}
