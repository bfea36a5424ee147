/* common.cuh -- what every kernel file uses: the seams between a GPU and its emulation, and a few building blocks.
 *
 * These files are compiled twice: by nvcc for GPUs, and by the host's compiler against emu/emu.h for the device
 * "cuda-emu". What differs is in this header and in tensor_core.cuh, gemm.cu and device.cu; nowhere else. */
#ifndef LLMC_CUDA_COMMON_CUH
#define LLMC_CUDA_COMMON_CUH

#ifdef LLMC_CUDA_EMU
#include "emu/emu.h"
#else
#include <cuda_bf16.h>
#include <cuda_runtime.h>
using bf16 = __nv_bfloat16;
#endif

#include <cmath>

#include "ops.h"

/* ---- the table: cuda_NAME of every op ---------------------------------------------------------------------------- */

#define DECLARE_PURE(name, args)    void cuda_##name args;
#define DECLARE_SCRATCH(name, args) void cuda_##name args; size_t cuda_##name##_scratch args;
OPS(DECLARE_PURE, DECLARE_SCRATCH)
#undef DECLARE_PURE
#undef DECLARE_SCRATCH

/* ---- shared memory and launches ---------------------------------------------------------------------------------- */

/* A block's own array:  SHARED(float, tile, [64][65]).  In the emulator it has NaN in it and around it. */
#ifdef LLMC_CUDA_EMU
#define SHARED(T, name, extent) \
    using name##_array = T extent; \
    static const char name##_declaration = 0; \
    name##_array &name = *(name##_array *)emu::shared(&name##_declaration, #name, sizeof(name##_array))
/* What the launch gave in bytes:  SHARED_DYNAMIC(float, tile)  is a pointer. One type a kernel. */
#define SHARED_DYNAMIC(T, name) T *name = (T *)emu::shared_dynamic()
#else
#define SHARED(T, name, extent) __shared__ __align__(128) T name extent
#define SHARED_DYNAMIC(T, name) \
    extern __shared__ __align__(128) unsigned char llmc_dynamic[]; \
    T *name = reinterpret_cast<T *>(llmc_dynamic)
#endif

/* A launch that gives more asks for it: a kernel has 48 KB, its own arrays among them, if nobody does. */
constexpr size_t OPT_IN_BYTES = 32 << 10;

/* What a device keeps for itself. */
#ifdef LLMC_CUDA_EMU
struct CudaState {
    emu::Stream   stream;
    size_t        memory;                   /* bytes that it has */
    struct Group *group;
    char         *stage;                    /* as below */
    size_t        staged;
    int           index;                    /* among the emulated GPUs of this process */
    struct CublasLt *products;              /* for the stand-in of cuBLASLt that tests use */
};
#else
struct CudaState {
    int              index;
    cudaStream_t     stream;
    struct CublasLt *products;
    struct Group    *group;
    char            *stage;                 /* memory that copies pass through, and how much of it is in use */
    size_t           staged;
};

/* Fails with CUDA's own words. what: "a launch", "a copy of 3 bytes" */
void cuda_check(cudaError_t status, const char *what);
#endif

inline CudaState *state_of(Device *d) { return (CudaState *)d->self; }

/* The device's stream. CUDA's choice of a GPU is a thread's own, so it is made wherever work is given to one. */
#ifdef LLMC_CUDA_EMU
inline emu::Stream *stream_of(Device *d) { return &state_of(d)->stream; }
#else
inline cudaStream_t stream_of(Device *d)
{
    int now = -1;
    if (cudaGetDevice(&now) != cudaSuccess || now != state_of(d)->index)
        cuda_check(cudaSetDevice(state_of(d)->index), "the choice of a GPU");
    return state_of(d)->stream;
}
#endif

#ifndef LLMC_CUDA_EMU
/* From now on a kernel may be given so much. It is never less again: a graph may hold a launch with more. */
inline void allow_shared(const void *kernel, size_t bytes)
{
    cudaFuncAttributes now;
    cuda_check(cudaFuncGetAttributes(&now, kernel), "a look at a kernel");
    if (now.maxDynamicSharedSizeBytes < (int)bytes)
        cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes),
                   "more shared memory for a kernel");
}
#endif

/* Runs a kernel on the device's stream. bytes: of dynamic shared memory. */
template <typename... Params, typename... Args>
void launch(Device *d, void (*kernel)(Params...), dim3 grid, dim3 block, size_t bytes, Args... args)
{
#ifdef LLMC_CUDA_EMU
    const emu::Launch how = { grid, block, bytes, bytes > OPT_IN_BYTES, stream_of(d)->seed, d->threads };
    emu::enqueue(stream_of(d), [=] { emu::launch(how, [&] { kernel(Params(args)...); }); });
#else
    const cudaStream_t stream = stream_of(d);
    if (bytes > OPT_IN_BYTES) allow_shared((const void *)kernel, bytes);
    kernel<<<grid, block, bytes, stream>>>(Params(args)...);
    cuda_check(cudaGetLastError(), "a launch");
#endif
}

/* Before a loop whose counts are constants: its arrays then live in registers. */
#ifdef LLMC_CUDA_EMU
#define UNROLL
#define UNROLL_SOME
#else
#define UNROLL _Pragma("unroll")
#define UNROLL_SOME _Pragma("unroll 16")        /* of a count that is not constant: so many loads at once */
#endif

/* ---- shapes and types -------------------------------------------------------------------------------------------- */

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

__host__ __device__ inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
template <typename T> __host__ __device__ inline T at_most(T a, T b) { return a < b ? a : b; }

template <typename T> T *data_of(Tensor t) { return (T *)t.data; }

constexpr int64_t MOST_Y = 65535;       /* blocks of a grid, in y and in z; x may have 2^31 - 1 */

/* How many blocks of `each` cover n */
inline unsigned blocks_for(int64_t n, int64_t each) { return (unsigned)ceil_div(n, each); }

/* `type` is float or bf16 in the statements:  FLOAT_SWITCH(x.dtype, T, launch(d, kernel<T>, …)); */
#define FLOAT_SWITCH(dtype_, type, ...) do { \
        if ((dtype_) == DT_BF16) { using type = bf16; __VA_ARGS__; } \
        else { using type = float; __VA_ARGS__; } \
    } while (0)

#define BOOL_SWITCH(condition, name, ...) do { \
        if (condition) { constexpr bool name = true; __VA_ARGS__; } \
        else { constexpr bool name = false; __VA_ARGS__; } \
    } while (0)

/* ---- vectors: 16 bytes at a time where addresses allow it -------------------------------------------------------- */

/* V neighbours, read and written as one. */
template <typename T, int V> struct alignas(sizeof(T) * V) Vec { T at[V]; };

template <int V, typename T> __device__ __forceinline__ Vec<T, V> load(const T *p)
{
#ifdef LLMC_CUDA_EMU
    emu::aligned((const Vec<T, V> *)p);
#endif
    return *reinterpret_cast<const Vec<T, V> *>(p);
}

template <int V, typename T> __device__ __forceinline__ void store(T *p, Vec<T, V> v)
{
#ifdef LLMC_CUDA_EMU
    emu::aligned((const Vec<T, V> *)p);
#endif
    *reinterpret_cast<Vec<T, V> *>(p) = v;
}

/* Elements of type T in 16 bytes */
template <typename T> constexpr int WIDE = 16 / (int)sizeof(T);

/* Every row of `length` elements begins at a multiple of 16 bytes: in all of these tensors, those that are none aside.
 * The last argument is the type's size of the narrowest. */
inline bool rows_are_wide(int64_t length, std::initializer_list<Tensor> tensors)
{
    for (const Tensor &t : tensors)
        if (!is_none(t) && ((uintptr_t)t.data % 16 || (size_t)length * dtype_size(t.dtype) % 16)) return false;
    return true;
}

/* V is the elements of T in 16 bytes if the condition holds, else 1. */
#define WIDE_SWITCH(condition, type, V, ...) do { \
        if (condition) { constexpr int V = WIDE<type>; __VA_ARGS__; } \
        else { constexpr int V = 1; __VA_ARGS__; } \
    } while (0)

/* ---- sums over a warp and a block -------------------------------------------------------------------------------- */

/* Every lane gets the sum, added up in one order whatever the lane. */
template <typename T> __device__ __forceinline__ T warp_sum(T x)
{
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) x += __shfl_xor_sync(ALL_LANES, x, lanes);
    return x;
}

__device__ __forceinline__ float warp_max(float x)
{
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, lanes));
    return x;
}

/* The same over a block of whole warps, in one dimension. All its threads must come. */
template <typename T> __device__ __forceinline__ T block_sum(T x)
{
    SHARED(T, parts, [WARP]);
    const int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP, warps = (int)blockDim.x / WARP;
    x = warp_sum(x);
    __syncthreads();                    /* the parts of a call before have been read */
    if (lane == 0) parts[warp] = x;
    __syncthreads();
    return warp_sum(lane < warps ? parts[lane] : T(0));
}

__device__ __forceinline__ float block_max(float x)
{
    SHARED(float, parts, [WARP]);
    const int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP, warps = (int)blockDim.x / WARP;
    x = warp_max(x);
    __syncthreads();
    if (lane == 0) parts[warp] = x;
    __syncthreads();
    return warp_max(lane < warps ? parts[lane] : -INFINITY);
}

/* ---- functions --------------------------------------------------------------------------------------------------- */

constexpr float GELU_A = 0.79788456080286535588f, GELU_B = 0.044715f;      /* sqrt(2/pi), and the cubic's weight */

__device__ __forceinline__ float gelu(float x) { return 0.5f * x * (1 + tanhf(GELU_A * (x + GELU_B * x * x * x))); }

__device__ __forceinline__ float gelu_slope(float x)
{
    const float t = tanhf(GELU_A * (x + GELU_B * x * x * x));
    return 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * GELU_A * (1 + 3 * GELU_B * x * x);
}

/* to (+)= value, of a parameter's gradient */
__device__ __forceinline__ void put_sum(float *to, float value, bool accumulate)
{
    *to = accumulate ? *to + value : value;
}

#endif
