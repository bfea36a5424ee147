/* ladder.c -- from three loops to the engine's product, step by step: `make ladder`, or `build/ladder M N K`.
 *
 * Every step computes out(M,N) = x(M,K) w(N,K)^T in f32 (default 1024 2304 768, GPT-2's qkv for 1,024 tokens). Each is
 * first checked on a small, odd product against sums in double; its time is the median of several calls, taken in turns
 * with the others. The peak is what multiply-adds in registers reach on all cores at once, in the same run. */
#include "../../../csrc/ops.h"
#include "step.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>

enum { TURNS = 5 };

#ifdef __AVX512F__
#define BY_FMA "cpu:avx512"
#else
#define BY_FMA "cpu"
#endif

typedef struct Rung {
    const char *name, *on;      /* on: the engine's device, where it is not the best there is */
    Step       *step;
    Device     *device;
    DType       dtype;
    double      seconds[TURNS];
} Rung;

static Rung rungs[] = {
    { .name = "1 naive",                    .step = step_1_naive },
    { .name = "2 vectors along a row",      .step = step_2_vectors },
    { .name = "3 sums in registers",        .step = step_3_registers },
    { .name = "4 operands in panels",       .step = step_4_panels },
    { .name = "5 strips in a cache",        .step = step_5_strips },
    { .name = "6 all threads",              .step = step_6_threads },
    { .name = "the engine, f32 by fma",     .on = BY_FMA },
    { .name = "the engine, f32" },
    { .name = "the engine, bf16",           .dtype = DT_BF16 },
};
enum { RUNGS = sizeof rungs / sizeof *rungs };

/* ---- the engine's own ------------------------------------------------------------------------------------------- */

static Tensor matrix(Device *d, DType dtype, int64_t rows, int64_t cols, const float *from)
{
    Tensor t = { NULL, "a matrix", dtype, 2, { rows, cols } };
    t.data = device_alloc(d, (size_t)(rows * cols) * dtype_size(dtype), t.name);
    for (int64_t i = 0; from && i < rows * cols; i++)
        if (dtype == DT_BF16) ((uint16_t *)t.data)[i] = f32_to_bf16(from[i]);
        else                  ((float *)t.data)[i] = from[i];
    return t;
}

static double engine(Rung *r, int64_t M, int64_t N, int64_t K, const float *x, const float *w, float *out)
{
    Device *d = r->device;
    Tensor xt = matrix(d, r->dtype, M, K, x), wt = matrix(d, r->dtype, N, K, w), to = matrix(d, DT_F32, M, N, NULL);
    linear_forward(d, to, none(), xt, wt, none(), ACT_NONE);        /* finds its scratch, and touches all memory */
    const double start = seconds_now();
    linear_forward(d, to, none(), xt, wt, none(), ACT_NONE);
    const double seconds = seconds_now() - start;
    memcpy(out, to.data, (size_t)(M * N) * 4);
    device_free(d, xt.data);
    device_free(d, wt.data);
    device_free(d, to.data);
    return seconds;
}

/* ---- measuring -------------------------------------------------------------------------------------------------- */

static double run(Rung *r, int64_t M, int64_t N, int64_t K, const float *x, const float *w, float *out)
{
    if (!r->step) return engine(r, M, N, K, x, w, out);
    const double start = seconds_now();
    r->step(M, N, K, x, w, out);
    return seconds_now() - start;
}

/* The largest error of any sum, as a share of the sum of its terms' sizes. */
static double error(int64_t M, int64_t N, int64_t K, const float *x, const float *w, const float *out)
{
    double worst = 0;
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = 0; n < N; n++) {
            double sum = 0, sizes = 1e-30;
            for (int64_t k = 0; k < K; k++) {
                const double term = (double)x[m * K + k] * w[n * K + k];
                sum += term, sizes += fabs(term);
            }
            worst = fmax(worst, fabs(out[m * N + n] - sum) / sizes);
        }
    return worst;
}

static float *numbers(int64_t count, unsigned seed)
{
    float *at = room(count);
    for (int64_t i = 0; i < count; i++) {
        seed = seed * 1664525 + 1013904223;
        at[i] = (float)(seed >> 8) / (1 << 23) - 1;
    }
    return at;
}

static double peak(void)
{
    enum { TIMES = 2000000, SUMS = ROWS * VECS };
    const double start = seconds_now();
#pragma omp parallel
    {
        Vec sum[SUMS] = {0}, a = {1}, b = {1e-9f};
        for (int i = 0; i < TIMES; i++) {
#pragma GCC unroll 28
            for (int s = 0; s < SUMS; s++) {
                sum[s] += a * b;
                __asm__ volatile("" : REGISTER(a));         /* or the product would be taken out of the loop */
            }
        }
        for (int s = 0; s < SUMS; s++) __asm__ volatile("" : REGISTER(sum[s]));
    }
    return 2.0 * TIMES * SUMS * WIDTH * omp_get_max_threads() / (seconds_now() - start);
}

static int by_size(const void *a, const void *b)
{
    const double d = *(const double *)a - *(const double *)b;
    return (d > 0) - (d < 0);
}

int main(int count, char **words)
{
    int64_t size[3] = { 1024, 2304, 768 };
    for (int i = 1; i < count && i <= 3; i++) size[i - 1] = atoll(words[i]);
    const int64_t M = size[0], N = size[1], K = size[2];
    if (M < 1 || N < 1 || K < 1 || count > 4) return fprintf(stderr, "ladder: wanted three sizes, M N K\n"), 2;
    float *x = numbers(M * K, 1), *w = numbers(N * K, 2), *out = room(M * N), *small = room(37 * 101);
    for (Rung *r = rungs; r < rungs + RUNGS; r++) {
        if (!r->step) r->device = device_open(r->on ? r->on : "cpu", 0);
        run(r, 37, 101, 67, x, w, small);
        const double found = error(37, 101, 67, x, w, small), most = r->dtype == DT_BF16 ? 8e-3 : 1e-6;
        if (!(found < most)) return fprintf(stderr, "ladder: %s: error %g, wanted below %g\n", r->name, found, most), 1;
    }
    double most = 0;
    for (int turn = 0; turn < TURNS; turn++) {
        most = fmax(most, peak());
        for (Rung *r = rungs; r < rungs + RUNGS; r++) r->seconds[turn] = run(r, M, N, K, x, w, out);
    }
    printf("(%lld, %lld) by (%lld, %lld)^T, f32, %d threads; multiply-adds in registers: %.0f GFLOP/s\n", (long long)M,
           (long long)K, (long long)N, (long long)K, omp_get_max_threads(), most * 1e-9);
    for (Rung *r = rungs; r < rungs + RUNGS; r++) {
        qsort(r->seconds, TURNS, sizeof(double), by_size);
        const double speed = 2.0 * (double)(M * N) * (double)K / r->seconds[TURNS / 2];
        printf("%-24s %10.2f ms %9.1f GFLOP/s %6.1f %% of the peak\n", r->name, r->seconds[TURNS / 2] * 1e3,
               speed * 1e-9, 100 * speed / most);
        if (r->device) device_close(r->device);
    }
    free(x), free(w), free(out), free(small);
    return 0;
}
