/* device.cu -- the plugin's entry: memory, copies and the table of ops, on a GPU or in the emulator. */
#include "common.cuh"

#include <cstdio>
#ifdef LLMC_CUDA_EMU
#include <atomic>
#include <sys/mman.h>
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

#ifdef LLMC_CUDA_EMU

/* One opens no other's memory, so they are counted. */
static void device_begin(Device *d, long number)
{
    static std::atomic<int> opened;
    CudaState *s = new CudaState{};
    s->seed = (uint64_t)number;
    s->index = opened++;
    d->self = s;
}

static void device_end(Device *d)
{
    leave_group(d);
    delete state_of(d);
}

/* Pages that only kernels and copies may touch, as a GPU's memory: whoever else does stops here with a fault. */
static void *memory_alloc(Device *d, size_t bytes)
{
    constexpr size_t PAGE = 4096;
    const size_t size = (bytes + PAGE) / PAGE * PAGE;         /* of none too there is one */
    void *block = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (block == MAP_FAILED) return nullptr;
    state_of(d)->blocks.push_back({ block, size });
    return block;
}

static void memory_free(Device *d, void *block)
{
    std::vector<emu::Block> &blocks = state_of(d)->blocks;
    for (size_t i = 0; i < blocks.size(); i++)
        if (blocks[i].start == block) {
            munmap(block, blocks[i].bytes);
            blocks.erase(blocks.begin() + (ptrdiff_t)i);
            return;
        }
}

static void memory_zero(Device *d, void *block, size_t bytes)
{
    const emu::Access access(state_of(d)->blocks);
    memset(block, 0, bytes);
}

static void memory_copy(Device *d, void *to, const void *from, size_t bytes)
{
    const emu::Access access(state_of(d)->blocks);
    memcpy(to, from, bytes);
}

static void wait_for_all(Device *) {}
static Place place_of(Device *d) { return { PLACE_EMULATED, state_of(d)->index, nullptr }; }

static const Backend backend = { "cuda-emu", &cuda_ops, device_begin, device_end, memory_alloc, memory_free,
                                 memory_zero, memory_copy, memory_copy, memory_copy, wait_for_all, place_of,
                                 join_group, group_reduce_scatter, group_all_gather, group_meet };

#else

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
    open_products(s);
}

static void device_end(Device *d)
{
    CudaState *s = state_of(d);
    cudaSetDevice(s->index);
    leave_group(d);
    close_products(s);
    cudaStreamDestroy(s->stream);
    delete s;
}

static void wait_for_all(Device *d) { cuda_check(cudaStreamSynchronize(stream_of(d)), "an op"); }

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

static void memory_zero(Device *d, void *block, size_t bytes)
{
    cuda_check(cudaMemsetAsync(block, 0, bytes, stream_of(d)), "zeroing");
}

/* The caller's memory may change or go when this returns. */
static void memory_upload(Device *d, void *to, const void *host, size_t bytes)
{
    cuda_check(cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, stream_of(d)), "a copy to the GPU");
    wait_for_all(d);
}

static void memory_download(Device *d, void *host, const void *from, size_t bytes)
{
    cuda_check(cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, stream_of(d)), "a copy from the GPU");
    wait_for_all(d);
}

static void memory_copy(Device *d, void *to, const void *from, size_t bytes)
{
    cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_of(d)), "a copy on the GPU");
}

static Place place_of(Device *d) { return { PLACE_CUDA, state_of(d)->index, state_of(d)->stream }; }

static const Backend backend = { "cuda", &cuda_ops, device_begin, device_end, memory_alloc, memory_free, memory_zero,
                                 memory_upload, memory_download, memory_copy, wait_for_all, place_of, join_group,
                                 group_reduce_scatter, group_all_gather, group_meet };

#endif

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
