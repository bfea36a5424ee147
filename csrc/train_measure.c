/* train_measure.c -- see train_measure.h */
#include "train_measure.h"
#include "ops.h"

#include <math.h>

/* The shortest of some products of n x n matrices, in seconds. All they took is given back. */
static double shortest_product(Device *d, DType type, int64_t n)
{
    const Tensor shape = { NULL, "a product", type, 2, { n, n } };
    double best = INFINITY, spent = 0;
    void *block = device_alloc(d, 3 * tensor_bytes(shape), "a product to measure the machine by");
    Tensor x = shape, w = shape, out = shape;
    x.data = block, w.data = (char *)block + tensor_bytes(shape), out.data = (char *)block + 2 * tensor_bytes(shape);
    for (int i = 0; i < 8 && spent < 0.5; i++) {
        const double start = seconds_now();
        linear_forward(d, out, none(), x, w, none(), ACT_NONE);
        d->backend->synchronize(d);
        const double took = seconds_now() - start;
        best = took < best ? took : best;
        spent += took;
    }
    device_free(d, block);
    device_free(d, d->workspace);
    d->workspace = NULL, d->workspace_size = 0;
    return best;
}

static bool has_room(Device *d, DType type, int64_t n)
{
    return 3 * (size_t)(n * n) * dtype_size(type) <= d->backend->memory(d).free / 2;
}

/* By a product large enough that its start does not count: a GPU makes a small one in no time. */
double measure_peak(Device *d, DType type, Comm *comm)
{
    enum { LEAST = 32, USUAL = 1024, LARGEST = 8192 };
    int64_t n = USUAL;
    while (n > LEAST && !has_room(d, type, n)) n /= 2;
    double seconds = shortest_product(d, type, n);
    while (seconds < 1e-3 && n < LARGEST && has_room(d, type, 2 * n)) seconds = shortest_product(d, type, n *= 2);
    double peak = 2.0 * (double)(n * n * n) / seconds;
    comm_all_reduce_double(comm, &peak, 1);
    return peak;
}
