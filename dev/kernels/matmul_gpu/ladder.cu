/* ladder.cu -- a product on a GPU, from a thread a sum to the tensor cores, step by step: `make ladder_gpu`, or
 * `build/ladder_gpu M N K`.
 *
 * Every step computes out(M,N) = x(M,K) w(N,K)^T of bf16 (default 4096 2304 768, GPT-2's qkv for four rows). Each is
 * first checked on a small, odd product against sums in double; its time is the median of several calls, taken in turns
 * with the others. */
#include "../gpu.cuh"
#include "step.cuh"

static const Rung<Step> steps[] = {
    { "1 naive",           step_1_naive },
    { "2 tiles",           step_2_tiles },
    { "3 registers",       step_3_registers },
    { "4 tensor cores",    step_4_tensor_cores },
    { "5 copies ahead",    step_5_copies_ahead },
};

/* The largest error of any sum, as a share of the sum of its terms' sizes. */
static double error_of(Device *d, Step *step, int M, int N, int K)
{
    const std::vector<bf16> x = numbers((size_t)(M * K), 1), w = numbers((size_t)(N * K), 2);
    const Array<bf16> xs(x), ws(w);
    const Array<float> to(std::vector<float>((size_t)(M * N), NAN));
    step(d, to.at, xs.at, ws.at, M, N, K);
    const std::vector<float> out = to.get();
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
    read_sizes(size, count, words, "M N K, the last one a multiple of 8");
    CHECK(size[2] % 8 == 0, "ladder_gpu: K is %d, wanted a multiple of 8", size[2]);
    CudaState state = {};
    Device device = {};
    device.self = &state, device.threads = 2;
    for (const auto &s : steps) {
        const double error = error_of(&device, s.step, 133, 201, 104);
        CHECK(error < 1e-6, "ladder_gpu: %s: error %g, wanted below 1e-6", s.name, error);
    }
    printf("%zu steps agree with sums in double\n", COUNT_OF(steps));
#ifndef LLMC_CUDA_EMU
    const int M = size[0], N = size[1], K = size[2];
    const Array<bf16> x(numbers((size_t)M * (size_t)K, 1)), w(numbers((size_t)N * (size_t)K, 2));
    const Array<float> out((size_t)M * (size_t)N);
    measure(&device, steps, 2.0 * M * N * K, [&](Step *step) { step(&device, out.at, x.at, w.at, M, N, K); });
#endif
    return 0;
}
