/* train_measure.c -- see train_measure.h */
#include "train_measure.h"
#include "ops.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ----------------------------------------------------------------------------------------------------------- plan */

typedef struct { const char *name[128]; int64_t count[128]; size_t bytes[128]; int n; } PlanTable;

static void see_tensor(void *context, Tensor x, size_t bytes)
{
    PlanTable *p = context;
    int i = 0;
    while (i < p->n && strcmp(p->name[i], x.name)) i++;
    if (i == (int)COUNT_OF(p->name)) return;
    if (i == p->n) p->name[p->n++] = x.name;
    p->count[i]++;
    p->bytes[i] += bytes;
}

static void print_row(const char *name, int64_t count, size_t bytes)
{
    printf("  %-24s %6lld %16zu bytes %10.1f MB\n", name, (long long)count, bytes, (double)bytes / 1e6);
}

void print_plan(Model *m, Plan plan, const TrainerConfig *c)
{
    PlanTable table = {0};
    Params *p = model_params(m);
    const TrainBytes b = trainer_plan_bytes(m, plan, c, see_tensor, &table);
    printf("\n  %-24s %6s %22s\n", "parameters", "", "");
    for (int i = 0; i < p->count; i++) print_row(p->list[i].value.name, 1, tensor_bytes(p->list[i].value));
    printf("\n  %-24s %6s %22s\n", "activations", "number", "together");
    for (int i = 0; i < table.n; i++) print_row(table.name[i], table.count[i], table.bytes[i]);
    printf("\n  total, each process\n");
    print_row("parameters", p->count, b.parameters);
    print_row("gradients", p->count, b.gradients);
    const bool masters = p->dtype == DT_BF16 && c->master_weights;
    print_row("optimizer state", 2 + masters + (c->optimizer == OPTIMIZER_MUON), b.optimizer);
    print_row("activations", 1, b.activations);
    print_row("workspace", 1, b.workspace);
    print_row("all", 1, b.all);
}

/* ----------------------------------------------------------------------------------------------------- the machine */

/* The shortest of some products of n x n matrices, in seconds */
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
    return best;
}

/* By a product large enough that its start does not count: a GPU makes a small one in no time. */
double measure_peak(Device *d, DType type, Comm *comm)
{
    enum { LARGEST = 8192 };
    int64_t n = 1024;
    double seconds = shortest_product(d, type, n);
    while (seconds < 1e-3 && n < LARGEST) seconds = shortest_product(d, type, n *= 2);
    double peak = 2.0 * (double)(n * n * n) / seconds;
    comm_all_reduce_double(comm, &peak, 1);
    return peak;
}
