/* emu.h -- what nvcc and a GPU give a kernel, given by the host's compiler and processor: the device "cuda-emu".
 *
 * The project's .cu files are compiled as plain C++17 with LLMC_CUDA_EMU defined, and this header in place of CUDA's.
 * Blocks run one after the other, or on the CPU's threads; the threads of a block are fibers, which run one at a time,
 * each until it must wait. What a GPU would forgive, or hide until another day, fails here:
 *   - between two barriers threads run in a random order, seeded: where a barrier is missing, results change;
 *   - a barrier or a warp's exchange that not all threads reach, or reach at different lines, is an error;
 *   - shared memory is NaN until it is written, and has NaN around it, which must stay: see SHARED in common.cuh;
 *   - more shared memory, or a larger block or grid, than the GPUs have is an error; so is a misaligned vector;
 *   - what is copied asynchronously is NaN until it was waited for, and must stay as it is where it is copied from;
 *   - the device's memory may be touched by kernels and copies alone: the host gets a fault;
 *   - work that is recorded for a graph is not done, and done with the arguments it was given then when the graph is
 *     replayed: what a host's number decides is the same each time. What a GPU cannot record is an error.
 * With the address sanitizer what is beyond a shared array is poisoned too.
 *
 * An error ends the launch: the other threads are left where they stand, and the op's door fails with a sentence. */
#ifndef LLMC_CUDA_EMU_H
#define LLMC_CUDA_EMU_H

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <type_traits>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct alignas(16) uint4 { unsigned x, y, z, w; };

/* The upper half of an f32, as CUDA's __nv_bfloat16: rounded to nearest, ties to even; a NaN stays one. */
struct bf16 {
    uint16_t bits;
    bf16() = default;
    bf16(float value)
    {
        uint32_t wide;
        memcpy(&wide, &value, sizeof wide);
        const bool nan = (wide & 0x7fffffffu) > 0x7f800000u;
        bits = (uint16_t)(nan ? wide >> 16 | 0x40 : (wide + 0x7fff + (wide >> 16 & 1)) >> 16);
    }
    operator float() const
    {
        const uint32_t wide = (uint32_t)bits << 16;
        float value;
        memcpy(&value, &wide, sizeof value);
        return value;
    }
};

namespace emu {

constexpr int LANES = 32;
constexpr size_t LARGEST_EXCHANGE = 64;         /* bytes, of each lane */

/* What the thread that runs now can ask about itself. */
struct Here { dim3 thread, block, block_size, grid_size; int lane; };
extern __thread Here *here;

struct Launch {
    dim3     grid, block;
    size_t   shared_bytes;                      /* of dynamic shared memory */
    bool     opted_in;                          /* to more shared memory than 48 KB */
    uint64_t seed;                              /* of the order of threads and blocks */
    int      cpu_threads;
};

/* Runs `kernel` once for each thread of each block. Fails, through llmc_fail, with what a thread did wrong. */
void launch(const Launch &launch, const std::function<void()> &kernel);

/* For errors found inside a kernel: ends the launch with this sentence. */
__attribute__((noreturn, format(printf, 1, 2))) void fail(const char *format, ...);

void barrier(const char *file, int line);

/* Every lane gives `bytes` of its own, and gets all lanes', LARGEST_EXCHANGE bytes apart. */
const char *exchange(const void *value, size_t bytes, const char *file, int line);

/* The block's array that belongs to this declaration: the same for all its threads. */
void *shared(const void *declaration, const char *name, size_t bytes);
void *shared_dynamic();

template <typename T> T from_lane(unsigned mask, T value, int lane, const char *file, int line)
{
    static_assert(sizeof(T) <= LARGEST_EXCHANGE && std::is_trivially_copyable<T>::value, "a register's worth");
    if (mask != 0xffffffffu) fail("%s:%d: a warp's exchange of lanes %08x, wanted all 32", file, line, mask);
    T result;
    memcpy(&result, exchange(&value, sizeof value, file, line) + (size_t)(lane & (LANES - 1)) * LARGEST_EXCHANGE,
           sizeof result);
    return result;
}

/* tensor_core.cuh's; d, a and b are this lane's registers. */
void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const char *file = __builtin_FILE(),
                  int line = __builtin_LINE());
void multiply_add(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const char *file = __builtin_FILE(),
                  int line = __builtin_LINE());
void load_matrices(uint32_t (&r)[4], const bf16 *row, bool turned, const char *file = __builtin_FILE(),
                   int line = __builtin_LINE());
void copy_async(void *shared, const void *global, bool there);
void close_group();
void wait_copies(int pending);

template <typename T> const T *aligned(const T *p)
{
    if ((uintptr_t)p % alignof(T))
        fail("an access of %zu bytes at %p, which is no multiple of them", sizeof(T), (const void *)p);
    return p;
}

/* ---- the device's work, in order: stream.cpp --------------------------------------------------------------------- */

/* The call's own file and line: what a default argument is asked for where it is used. */
#define EMU_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

/* A piece of the device's memory, and the time in which it may be touched. */
struct Block { void *start; size_t bytes; };

struct Access {
    const std::vector<Block> &blocks;
    explicit Access(const std::vector<Block> &blocks);
    ~Access();
};

/* A copy nobody has waited for: what the host will find there, or must leave there. */
struct Transfer { void *host; std::vector<char> bytes; bool to_host; };

typedef std::vector<std::function<void()>> Graph;

struct Stream {
    uint64_t seed = 0;                          /* of the order of threads */
    std::vector<Block> blocks;
    std::vector<Transfer> transfers;
    Graph *recording = nullptr;                 /* NULL: work is done at once */
};

/* Does work, or notes it; what it needs it must hold itself. */
void enqueue(Stream *s, const std::function<void()> &work);

/* Asynchronous: count pieces of `bytes` that begin `stride` bytes apart, side by side. One end or both are on the
 * device. */
void copy(Stream *s, void *to, const void *from, size_t bytes, size_t stride, size_t count);
void wait(Stream *s, EMU_PLACE);

void *take_memory(Stream *s, size_t bytes, EMU_PLACE);          /* zeroed; NULL: there is none */
void give_memory(Stream *s, void *block, EMU_PLACE);

/* Fails while a graph is recorded. what: "a collective" */
void refuse_recording(const Stream *s, const char *what, EMU_PLACE);

/* From here to its end the stream's work is noted. */
struct Capture {
    Stream *stream;
    std::unique_ptr<Graph> graph;
    explicit Capture(Stream *s, EMU_PLACE);
    ~Capture();
    Graph *end();
};

void replay(Stream *s, const Graph &graph, EMU_PLACE);

}

#define threadIdx (emu::here->thread)
#define blockIdx  (emu::here->block)
#define blockDim  (emu::here->block_size)
#define gridDim   (emu::here->grid_size)

inline void __syncthreads(EMU_PLACE) { emu::barrier(file, line); }
inline void __syncwarp(unsigned mask = 0xffffffffu, EMU_PLACE) { emu::from_lane(mask, 0, 0, file, line); }

template <typename T> T __shfl_sync(unsigned mask, T value, int lane, EMU_PLACE)
{
    return emu::from_lane(mask, value, lane, file, line);
}
template <typename T> T __shfl_xor_sync(unsigned mask, T value, int lanes, EMU_PLACE)
{
    return emu::from_lane(mask, value, emu::here->lane ^ lanes, file, line);
}
template <typename T> T __shfl_down_sync(unsigned mask, T value, unsigned lanes, EMU_PLACE)
{
    const int lane = emu::here->lane + (int)lanes;
    return emu::from_lane(mask, value, lane < emu::LANES ? lane : emu::here->lane, file, line);
}
template <typename T> T __shfl_up_sync(unsigned mask, T value, unsigned lanes, EMU_PLACE)
{
    const int lane = emu::here->lane - (int)lanes;
    return emu::from_lane(mask, value, lane >= 0 ? lane : emu::here->lane, file, line);
}
inline unsigned __ballot_sync(unsigned mask, bool vote, EMU_PLACE)
{
    if (mask != 0xffffffffu) emu::fail("%s:%d: a vote of lanes %08x, wanted all 32", file, line, mask);
    const char *votes = emu::exchange(&vote, sizeof vote, file, line);
    unsigned result = 0;
    for (int i = 0; i < emu::LANES; i++) result |= (unsigned)(votes[(size_t)i * emu::LARGEST_EXCHANGE] != 0) << i;
    return result;
}
inline bool __any_sync(unsigned mask, bool vote, EMU_PLACE) { return __ballot_sync(mask, vote, file, line) != 0; }
inline bool __all_sync(unsigned mask, bool vote, EMU_PLACE) { return __ballot_sync(mask, vote, file, line) == ~0u; }

template <typename T> T atomicAdd(T *to, T value)
{
    static_assert(std::is_integral<T>::value, "the order of atomics is not fixed, and floats would show it");
    return __atomic_fetch_add(emu::aligned(to), value, __ATOMIC_RELAXED);
}

/* sum + the product of four bytes and four others */
inline int __dp4a(int a, int b, int sum)
{
    for (int i = 0; i < 4; i++) sum += (int)(int8_t)(a >> 8 * i) * (int)(int8_t)(b >> 8 * i);
    return sum;
}

inline float rsqrtf(float x) { return 1 / sqrtf(x); }

inline unsigned __float_as_uint(float x)
{
    unsigned bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline float __uint_as_float(unsigned bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

#endif
