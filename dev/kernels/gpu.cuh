/* gpu.cuh -- what the ladders of a GPU share: its memory, numbers to compute with, and the time of every step. On the
 * emulated GPU, where nothing can be measured, steps are only checked. */
#ifndef GPU_CUH
#define GPU_CUH

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "common.cuh"

template <typename Step> struct Rung { const char *name; Step *step; };

/* ---- memory ----------------------------------------------------------------------------------------------------- */

#ifdef LLMC_CUDA_EMU
static void *take(size_t bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }
static void copy(void *to, const void *from, size_t bytes) { memcpy(to, from, bytes); }
static void give(void *block) { free(block); }
#else
void cuda_check(cudaError_t status, const char *what)
{
    CHECK(status == cudaSuccess, "CUDA: %s failed: %s", what, cudaGetErrorString(status));
}

static void *take(size_t bytes)
{
    void *block;
    cuda_check(cudaMalloc(&block, bytes), "taking memory");
    return block;
}

static void copy(void *to, const void *from, size_t bytes)
{
    cuda_check(cudaDeviceSynchronize(), "a step");
    cuda_check(cudaMemcpy(to, from, bytes, cudaMemcpyDefault), "a copy");
}

static void give(void *block) { cuda_check(cudaFree(block), "giving back memory"); }
#endif

/* An array there, for as long as it lives */
template <typename T> struct Array {
    size_t count;
    T     *at;
    explicit Array(size_t count) : count(count), at((T *)take(count * sizeof(T))) {}
    explicit Array(const std::vector<T> &from) : Array(from.size()) { copy(at, from.data(), count * sizeof(T)); }
    Array(const Array &) = delete;
    ~Array() { give(at); }
    std::vector<T> get() const
    {
        std::vector<T> to(count);
        copy(to.data(), at, count * sizeof(T));
        return to;
    }
};

/* Of -1 to 1 */
static std::vector<bf16> numbers(size_t count, unsigned seed)
{
    std::vector<bf16> at(count);
    for (bf16 &value : at) {
        seed = seed * 1664525 + 1013904223;
        value = bf16((float)(seed >> 8) / (1 << 23) - 1);
    }
    return at;
}

/* ---- time ------------------------------------------------------------------------------------------------------- */

#ifndef LLMC_CUDA_EMU
template <typename Run> double milliseconds(Device *d, Run run)
{
    cudaEvent_t begin, end;
    cuda_check(cudaEventCreate(&begin), "an event");
    cuda_check(cudaEventCreate(&end), "an event");
    cuda_check(cudaEventRecord(begin, state_of(d)->stream), "an event");
    run();
    cuda_check(cudaEventRecord(end, state_of(d)->stream), "an event");
    cuda_check(cudaEventSynchronize(end), "a step");
    float found;
    cuda_check(cudaEventElapsedTime(&found, begin, end), "an event");
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return found;
}

/* Of each step the median of several calls, taken in turns with the others. run(step) is one of so many FLOP. */
template <typename Step, size_t COUNT, typename Run>
void measure(Device *d, const Rung<Step> (&steps)[COUNT], double flop, Run run)
{
    enum { TURNS = 9 };
    std::vector<double> times[COUNT];
    for (int turn = 0; turn < TURNS; turn++)
        for (size_t i = 0; i < COUNT; i++) times[i].push_back(milliseconds(d, [&] { run(steps[i].step); }));
    for (size_t i = 0; i < COUNT; i++) {
        std::sort(times[i].begin(), times[i].end());
        const double ms = times[i][TURNS / 2];
        printf("%-20s %10.3f ms %10.1f TFLOP/s\n", steps[i].name, ms, 1e-9 * flop / ms);
    }
}
#endif

/* The sizes that a ladder was given, in place of its own. */
template <size_t COUNT> void read_sizes(int (&size)[COUNT], int words, char **word, const char *wanted)
{
    CHECK(words <= (int)COUNT + 1, "%s: wanted %s", word[0], wanted);
    for (int i = 1; i < words; i++) {
        size[i - 1] = atoi(word[i]);
        CHECK(size[i - 1] > 0, "%s: %s is no size; wanted %s", word[0], word[i], wanted);
    }
}

#endif
