/* ladder.cu -- a product on a GPU, from a thread a sum to the tensor cores, step by step: `make ladder_gpu`, or
 * `build/ladder_gpu M N K`.
 *
 * Every step computes out(M,N) = x(M,K) w(N,K)^T of bf16 (default 4096 2304 768, GPT-2's qkv for four rows). Each is
 * first checked on a small, odd product against sums in double; its time is the median of several calls, taken in turns
 * with the others. On the emulated GPU, where nothing can be measured, they are only checked. */
#include "step.cuh"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

struct Rung { const char *name; Step *step; };

static const Rung steps[] = {
    { "1 naive",           step_1_naive },
    { "2 tiles",           step_2_tiles },
    { "3 registers",       step_3_registers },
    { "4 tensor cores",    step_4_tensor_cores },
    { "5 copies ahead",    step_5_copies_ahead },
};

/* ---- memory and time -------------------------------------------------------------------------------------------- */

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

static double milliseconds(Device *d, Step *step, float *out, const bf16 *x, const bf16 *w, int M, int N, int K)
{
    cudaEvent_t begin, end;
    cuda_check(cudaEventCreate(&begin), "an event");
    cuda_check(cudaEventCreate(&end), "an event");
    cuda_check(cudaEventRecord(begin, state_of(d)->stream), "an event");
    step(d, out, x, w, M, N, K);
    cuda_check(cudaEventRecord(end, state_of(d)->stream), "an event");
    cuda_check(cudaEventSynchronize(end), "a step");
    float found;
    cuda_check(cudaEventElapsedTime(&found, begin, end), "an event");
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return found;
}

static void measure(Device *d, int M, int N, int K)
{
    enum { TURNS = 9 };
    float *out = (float *)take((size_t)M * (size_t)N * sizeof(float));
    bf16 *x = (bf16 *)take((size_t)M * (size_t)K * sizeof(bf16));
    bf16 *w = (bf16 *)take((size_t)N * (size_t)K * sizeof(bf16));
    std::vector<double> times[COUNT_OF(steps)];
    cuda_check(cudaMemset(x, 0x3c, (size_t)M * (size_t)K * sizeof(bf16)), "filling");
    cuda_check(cudaMemset(w, 0x3c, (size_t)N * (size_t)K * sizeof(bf16)), "filling");
    for (int turn = 0; turn < TURNS; turn++)
        for (size_t i = 0; i < COUNT_OF(steps); i++)
            times[i].push_back(milliseconds(d, steps[i].step, out, x, w, M, N, K));
    for (size_t i = 0; i < COUNT_OF(steps); i++) {
        std::sort(times[i].begin(), times[i].end());
        const double ms = times[i][TURNS / 2];
        printf("%-20s %10.3f ms %10.1f TFLOP/s\n", steps[i].name, ms, 2e-9 * M * N * K / ms);
    }
    give(out), give(x), give(w);
}
#endif

/* ---- checking --------------------------------------------------------------------------------------------------- */

static std::vector<bf16> numbers(int count, unsigned seed)
{
    std::vector<bf16> at((size_t)count);
    for (bf16 &value : at) {
        seed = seed * 1664525 + 1013904223;
        value = bf16((float)(seed >> 8) / (1 << 23) - 1);
    }
    return at;
}

/* The largest error of any sum, as a share of the sum of its terms' sizes. */
static double error_of(Device *d, Step *step, int M, int N, int K)
{
    const std::vector<bf16> x = numbers(M * K, 1), w = numbers(N * K, 2);
    std::vector<float> out((size_t)(M * N), NAN);
    float *to = (float *)take(out.size() * sizeof(float));
    bf16 *xs = (bf16 *)take(x.size() * sizeof(bf16)), *ws = (bf16 *)take(w.size() * sizeof(bf16));
    copy(to, out.data(), out.size() * sizeof(float));
    copy(xs, x.data(), x.size() * sizeof(bf16));
    copy(ws, w.data(), w.size() * sizeof(bf16));
    step(d, to, xs, ws, M, N, K);
    copy(out.data(), to, out.size() * sizeof(float));
    give(to), give(xs), give(ws);
    double worst = 0;
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            double sum = 0, sizes = 1e-30;
            for (int k = 0; k < K; k++) {
                const double term = (double)float(x[(size_t)(m * K + k)]) * (double)float(w[(size_t)(n * K + k)]);
                sum += term, sizes += std::fabs(term);
            }
            const double error = std::fabs(out[(size_t)(m * N + n)] - sum) / sizes;
            worst = error <= worst ? worst : error;             /* a NaN becomes the worst, and stays it */
        }
    return worst;
}

int main(int count, char **words)
{
    set_fail_handler(fail_and_exit);
    int size[3] = { 4096, 2304, 768 };
    for (int i = 1; i < count && i <= 3; i++) size[i - 1] = atoi(words[i]);
    CHECK(count <= 4 && size[0] > 0 && size[1] > 0 && size[2] > 0 && size[2] % 8 == 0,
          "ladder_gpu: wanted three sizes, M N K, the last one a multiple of 8");
    CudaState state = {};
    Device device = {};
    device.self = &state, device.threads = 2;
    for (const auto &s : steps) {
        const double error = error_of(&device, s.step, 133, 201, 104);
        CHECK(error < 1e-6, "ladder_gpu: %s: error %g, wanted below 1e-6", s.name, error);
    }
    printf("%zu steps agree with sums in double\n", COUNT_OF(steps));
#ifndef LLMC_CUDA_EMU
    measure(&device, size[0], size[1], size[2]);
#endif
    return 0;
}
