/* planted.cu -- kernels with one mistake each, for test_emulator.py:  planted NAME SEED  prints what the kernel wrote.
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
               APART_LANES, MISALIGNED, TOO_MUCH_SHARED, FLOAT_RACE, NO_WAIT };

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

typedef void Kernel(float *, const float *, Mistake);
static const struct { const char *name; Kernel *kernel; Mistake mistake; } cases[] = {
    { "fold", fold_kernel, RIGHT },
    { "fold without its barrier", fold_kernel, NO_BARRIER },
    { "fold that reads one too far", fold_kernel, READ_BEYOND },
    { "fold that writes one too far", fold_kernel, WRITE_BEYOND },
    { "fold that leaves an element out", fold_kernel, UNWRITTEN },
    { "fold whose thread leaves before the barrier", fold_kernel, NOT_ALL_AT_BARRIER },
    { "fold with two barriers for one", fold_kernel, TWO_BARRIERS },
    { "warp", warp_kernel, RIGHT },
    { "warp with a lane that has left", warp_kernel, ENDED_LANE },
    { "warp with lanes apart", warp_kernel, APART_LANES },
    { "wide", wide_kernel, RIGHT },
    { "wide from an odd place", wide_kernel, MISALIGNED },
    { "large", large_kernel, RIGHT },
    { "large and more", large_kernel, TOO_MUCH_SHARED },
    { "copy", copy_kernel, RIGHT },
    { "copy without waiting", copy_kernel, NO_WAIT },
    { "race", race_kernel, RIGHT },
    { "race of floats", race_kernel, FLOAT_RACE },
};

int main(int argc, char **argv)
{
    set_fail_handler(fail_and_exit);
    CHECK(argc == 3, "planted NAME SEED");
    CudaState state = {};
    state.seed = strtoull(argv[2], nullptr, 10);
    Device device = {};
    device.self = &state, device.threads = 1;
    alignas(16) float x[LENGTH], out[LENGTH];
    for (int i = 0; i < LENGTH; i++) x[i] = (float)(i * i % 101), out[i] = NAN;
    for (const auto &c : cases)
        if (c.name == std::string(argv[1])) {
            launch(&device, c.kernel, 1, THREADS, 0, out, x, c.mistake);
            for (int i = 0; i < THREADS; i++) printf("%.9g\n", (double)out[i]);
            return 0;
        }
    FAIL("planted: no kernel is called '%s'", argv[1]);
}
