/* ladder.cu -- causal attention on a GPU, from an array of all scores to the engine's kernel, step by step: `make
 * ladder_gpu`, or `build/ladder_attention B H T`.
 *
 * Each step (step.cuh) is first checked on a small, odd shape against sums in double; its time is the median of
 * several calls, taken in turns with the others (default 16 32 1024). FLOP are 2 B H T^2 HEAD: half of two products of
 * T x T. */
#include "../gpu.cuh"
#include "step.cuh"

static const Rung<Step> steps[] = {
    { "1 naive",           step_1_naive },
    { "2 online",          step_2_online },
    { "3 tiles",           step_3_tiles },
    { "4 tensor cores",    step_4_tensor_cores },
    { "5 the engine",      step_5_engine },
};

/* What steps write beside `out`, of one shape */
struct Room {
    Array<float>   scores, lse;
    Array<int32_t> first;
    Room(size_t B, size_t T, size_t H) : scores(B * H * T * T), lse(B * H * T), first(std::vector<int32_t>(B * T)) {}
};

/* The largest error of any number of out (T,H*HEAD), one row of the batch, as a share of the sum of its terms' sizes:
 * of the weights times v. */
static double error_of_row(const bf16 *out, const bf16 *qkv, int T, int H)
{
    const auto at = [&](int part, int t, int h, int i) {
        return (double)float(qkv[((size_t)t * 3 + (size_t)part) * (size_t)(H * HEAD) + (size_t)(h * HEAD + i)]);
    };
    double worst = 0;
    for (int h = 0; h < H; h++)
        for (int t = 0; t < T; t++) {
            std::vector<double> weight((size_t)t + 1);
            double all = 0;
            for (int s = 0; s <= t; s++) {
                double score = 0;
                for (int i = 0; i < HEAD; i++) score += at(0, t, h, i) * at(1, s, h, i);
                all += weight[(size_t)s] = std::exp(score / std::sqrt((double)HEAD));
            }
            for (int i = 0; i < HEAD; i++) {
                double sum = 0, sizes = 1e-30;
                for (int s = 0; s <= t; s++) {
                    const double term = weight[(size_t)s] / all * at(2, s, h, i);
                    sum += term, sizes += std::fabs(term);
                }
                const double error = std::fabs(float(out[(size_t)((t * H + h) * HEAD + i)]) - sum) / sizes;
                worst = error <= worst ? worst : error;         /* a NaN becomes the worst, and stays it */
            }
        }
    return worst;
}

static double error_of(Device *d, Step *step, int B, int T, int H)
{
    const size_t row = (size_t)(T * H * HEAD);
    const std::vector<bf16> qkv = numbers((size_t)B * 3 * row, 1);
    const Array<bf16> from(qkv), to(std::vector<bf16>((size_t)B * row, bf16(NAN)));
    const Room room((size_t)B, (size_t)T, (size_t)H);
    step(d, to.at, from.at, { B, T, H, room.scores.at, room.lse.at, room.first.at });
    const std::vector<bf16> out = to.get();
    double worst = 0;
    for (size_t b = 0; b < (size_t)B; b++) {
        const double error = error_of_row(&out[b * row], &qkv[b * 3 * row], T, H);
        worst = error <= worst ? worst : error;
    }
    return worst;
}

int main(int count, char **words)
{
    /* out is rounded, and in the tensor cores every weight before it: by 2^-8 of it at most, half of what two bf16 lie
     * apart */
    constexpr double MOST = 2.0 / 256;
    set_fail_handler(fail_and_exit);
    int size[3] = { 16, 32, 1024 };
    read_sizes(size, count, words, "B H T");
    CudaState state = {};
    Device device = {};
    device.self = &state, device.threads = 2;
    for (const auto &s : steps) {
        const double error = error_of(&device, s.step, 2, 133, 3);
        CHECK(error < MOST, "ladder_attention: %s: error %g, wanted below %g", s.name, error, MOST);
    }
    printf("%zu steps agree with sums in double\n", COUNT_OF(steps));
#ifndef LLMC_CUDA_EMU
    const int B = size[0], H = size[1], T = size[2];
    const size_t all = (size_t)B * (size_t)T * (size_t)H * HEAD;
    const Array<bf16> qkv(numbers(3 * all, 1)), out(all);
    const Room room((size_t)B, (size_t)T, (size_t)H);
    measure(&device, steps, 2.0 * B * H * T * T * HEAD, [&](Step *step) {
        step(&device, out.at, qkv.at, { B, T, H, room.scores.at, room.lse.at, room.first.at });
    });
#endif
    return 0;
}
