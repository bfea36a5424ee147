/* planted.cu -- kernels with one mistake each, for test_emulator.py:  planted NAME SEED  prints what the kernel wrote.
 * Some mistakes are the host's: when it copies, and what it lets a graph keep.
 *
 * "right" stands beside each mistake: the same kernel without it. */
#include "tensor_core.cuh"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

constexpr int THREADS = 128, LENGTH = 2 * THREADS;

enum Mistake { RIGHT, NO_BARRIER, READ_BEYOND, WRITE_BEYOND, UNWRITTEN, NOT_ALL_AT_BARRIER, TWO_BARRIERS, ENDED_LANE,
               APART_LANES, MISALIGNED, TOO_MUCH_SHARED, FLOAT_RACE, NO_WAIT, EARLY_CHANGE, HOST_NUMBER };

/* out[i] = the sum of x's i-th and (LENGTH-1-i)-th element, by way of shared memory */
__global__ void fold_kernel(float *out, const float *x, Mistake mistake)
{
    SHARED(float, tile, [LENGTH]);
    const int i = (int)threadIdx.x;
    tile[i] = x[i];
    tile[i + THREADS] = x[i + THREADS];
    if (mistake == WRITE_BEYOND && i == 7) tile[LENGTH] = 1;
    if (mistake == NOT_ALL_AT_BARRIER && i == 31) return;
    if (mistake == TWO_BARRIERS && i % 2) __syncthreads();
    else if (mistake != NO_BARRIER) __syncthreads();
    const int other = LENGTH - 1 - i + (mistake == READ_BEYOND);
    if (mistake == UNWRITTEN && i == THREADS - 1) return;
    out[i] = tile[i] + tile[other];
}

/* out[i] = the sum of the 32 elements of i's warp */
__global__ void warp_kernel(float *out, const float *x, Mistake mistake)
{
    const int i = (int)threadIdx.x;
    if (mistake == ENDED_LANE && i == 40) return;
    float sum = x[i];
    if (mistake == APART_LANES && i % WARP < 3) sum = __shfl_xor_sync(ALL_LANES, sum, 1);
    out[i] = warp_sum(sum);
}

__global__ void wide_kernel(float *out, const float *x, Mistake mistake)
{
    const int i = (int)threadIdx.x * 4;
    if (i < THREADS) store<4>(out + i, load<4>(x + i + (mistake == MISALIGNED)));
}

__global__ void large_kernel(float *out, const float *x, Mistake mistake)
{
    SHARED(float, large, [12 * 1024]);
    large[threadIdx.x] = x[threadIdx.x];
    if (mistake == TOO_MUCH_SHARED) {
        SHARED(float, more, [1]);
        more[0] = 0;
    }
    out[threadIdx.x] = large[threadIdx.x];
}

/* out[0] = the sum of x, where no order is fixed */
__global__ void race_kernel(float *out, const float *x, Mistake mistake)
{
    SHARED(float, sum, [1]);
    if (threadIdx.x == 0) sum[0] = 0;
    __syncthreads();
    if (mistake == FLOAT_RACE) sum[0] += x[threadIdx.x] * 1e-3f + 1;
    __syncthreads();
    out[threadIdx.x] = mistake == FLOAT_RACE ? sum[0] : x[threadIdx.x];
}

/* out = x, by way of copies that nobody waits for at once */
__global__ void copy_kernel(float *out, const float *x, Mistake mistake)
{
    SHARED(float, tile, [THREADS]);
    const int i = (int)threadIdx.x;
    if (i < THREADS / 4) copy_async(tile + 4 * i, x + 4 * i, true);
    close_group();
    if (mistake != NO_WAIT) wait_copies<0>();
    __syncthreads();
    out[i] = tile[i];
}

template <void kernel(float *, const float *, Mistake)>
static void run(Device *d, float *out, const float *x, Mistake mistake)
{
    launch(d, kernel, 1, THREADS, 0, out, x, mistake);
}

/* ---- the host ---------------------------------------------------------------------------------------------------- */

constexpr size_t BYTES = THREADS * sizeof(float);

/* out = x, by way of the device's memory */
static void there_and_back(Device *d, float *out, const float *x, Mistake mistake)
{
    emu::Stream *s = stream_of(d);
    std::vector<float> source(x, x + THREADS);
    void *there = emu::take_memory(s, BYTES);
    emu::copy(s, there, source.data(), BYTES, BYTES, 1);
    if (mistake == EARLY_CHANGE) source[5]++;
    emu::copy(s, out, there, BYTES, BYTES, 1);
    if (mistake != NO_WAIT) emu::wait(s);
}

/* out = x + number, which lies where `there` points, or is the launch's own */
__global__ void add_kernel(float *out, const float *x, const float *there, float number)
{
    out[threadIdx.x] = x[threadIdx.x] + (there ? *there : number);
}

/* out = x + 3, by a graph that is recorded for 1, and replayed for 1, 2 and 3 */
static void replayed(Device *d, float *out, const float *x, Mistake mistake)
{
    emu::Stream *s = stream_of(d);
    float *there = (float *)emu::take_memory(s, sizeof *there);
    std::unique_ptr<emu::Graph> graph;
    for (float number = 1; number <= 3; number++) {
        emu::copy(s, there, &number, sizeof number, sizeof number, 1);
        emu::wait(s);
        if (!graph) {
            emu::Capture capture(s);
            launch(d, add_kernel, 1, THREADS, 0, out, x, mistake == HOST_NUMBER ? nullptr : there, number);
            graph.reset(capture.end());
        }
        emu::replay(s, *graph);
    }
}

static const struct {
    const char *name;
    void      (*run)(Device *, float *, const float *, Mistake);
    Mistake     mistake;
} cases[] = {
    { "fold", run<fold_kernel>, RIGHT },
    { "fold without its barrier", run<fold_kernel>, NO_BARRIER },
    { "fold that reads one too far", run<fold_kernel>, READ_BEYOND },
    { "fold that writes one too far", run<fold_kernel>, WRITE_BEYOND },
    { "fold that leaves an element out", run<fold_kernel>, UNWRITTEN },
    { "fold whose thread leaves before the barrier", run<fold_kernel>, NOT_ALL_AT_BARRIER },
    { "fold with two barriers for one", run<fold_kernel>, TWO_BARRIERS },
    { "warp", run<warp_kernel>, RIGHT },
    { "warp with a lane that has left", run<warp_kernel>, ENDED_LANE },
    { "warp with lanes apart", run<warp_kernel>, APART_LANES },
    { "wide", run<wide_kernel>, RIGHT },
    { "wide from an odd place", run<wide_kernel>, MISALIGNED },
    { "large", run<large_kernel>, RIGHT },
    { "large and more", run<large_kernel>, TOO_MUCH_SHARED },
    { "copy", run<copy_kernel>, RIGHT },
    { "copy without waiting", run<copy_kernel>, NO_WAIT },
    { "race", run<race_kernel>, RIGHT },
    { "race of floats", run<race_kernel>, FLOAT_RACE },
    { "there and back", there_and_back, RIGHT },
    { "there and back without waiting", there_and_back, NO_WAIT },
    { "there and back out of memory that changes", there_and_back, EARLY_CHANGE },
    { "graph", replayed, RIGHT },
    { "graph with a number of the host's in it", replayed, HOST_NUMBER },
};

int main(int argc, char **argv)
{
    set_fail_handler(fail_and_exit);
    CHECK(argc == 3, "planted NAME SEED");
    CudaState state = {};
    state.stream.seed = strtoull(argv[2], nullptr, 10);
    Device device = {};
    device.self = &state, device.threads = 1;
    alignas(16) float x[LENGTH], out[LENGTH];
    for (int i = 0; i < LENGTH; i++) x[i] = (float)(i * i % 101), out[i] = NAN;
    for (const auto &c : cases)
        if (c.name == std::string(argv[1])) {
            c.run(&device, out, x, c.mistake);
            for (int i = 0; i < THREADS; i++) printf("%.9g\n", (double)out[i]);
            return 0;
        }
    FAIL("planted: no kernel is called '%s'", argv[1]);
}
