/* train_plan.c -- see train_plan.h */
#include "train_plan.h"
#include "train_settings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { int64_t batch_size; bool recompute; } Choice;      /* batch_size 0: nothing fits */

/* ------------------------------------------------------------------------------------------------------ the search */

void run_plan_look(RunPlan *r, Comm *comm)
{
    Device *d = model_device(r->model);
    const Memory mine = d->backend->memory(d);
    Memory *all AUTO(auto_free) = xcalloc((size_t)comm_ranks(comm), sizeof *all, "what the ranks have");
    comm_all_gather(comm, &mine, all, sizeof mine);
    r->memory = mine;
    for (int i = 0; i < comm_ranks(comm); i++)
        if (all[i].free < r->memory.free) r->memory = all[i];
}

static TrainBytes bytes_of(const RunPlan *r, Choice c)
{
    Plan p = r->plan;
    p.B = c.batch_size, p.recompute = c.recompute;
    return trainer_plan_bytes(r->model, p, &r->trainer, NULL, NULL);
}

/* 0: not one row fits */
static int64_t largest_batch(const RunPlan *r, bool recompute, size_t bytes)
{
    int64_t n = r->rows;
    if (n > MOST_ROWS) n = MOST_ROWS;
    if (n > MOST_TOKENS / r->plan.T) n = MOST_TOKENS / r->plan.T;
    while (n > 0 && (r->rows % n || bytes_of(r, (Choice){ n, recompute }).all > bytes)) n--;
    return n;
}

static Choice search(const RunPlan *r, size_t bytes)
{
    const bool first = r->recompute_said && r->plan.recompute, both = !r->recompute_said;
    Choice c = { largest_batch(r, first, bytes), first };
    if (!c.batch_size && both) c = (Choice){ largest_batch(r, true, bytes), true };
    return c;
}

static Choice least(const RunPlan *r) { return (Choice){ 1, !r->recompute_said || r->plan.recompute }; }

/* What may be taken where there is a choice */
static size_t room(const RunPlan *r) { return r->memory.free - r->memory.reserve; }

void run_plan_choose(RunPlan *r, Comm *comm)
{
    if (r->plan.B) return;
    Choice c = search(r, room(r));
    if (!c.batch_size) c = least(r);
    comm_broadcast(comm, &c, sizeof c, 0);      /* ranks on other machines may want other scratch */
    r->plan.B = c.batch_size, r->plan.recompute = c.recompute;
}

/* --------------------------------------------------------------------------------------------------- in a sentence */

static char *flags_of(const RunPlan *r, Choice c)
{
    char *total AUTO(auto_free) = r->total ? text_format(" --total_batch_size %lld", (long long)r->total) : NULL;
    return text_format("--batch_size %lld%s%s", (long long)c.batch_size, c.recompute ? " --recompute" : "",
                       total ? total : "");
}

char *run_plan_advice(void *run_plan, size_t bytes)
{
    const RunPlan *r = run_plan;
    const Choice found = search(r, bytes), c = found.batch_size ? found : least(r);
    char *flags AUTO(auto_free) = flags_of(r, c);
    const double takes = (double)bytes_of(r, c).all / 1e9;
    return found.batch_size ? text_format("%s would fit: %.3f GB", flags, takes)
                            : text_format("nothing would fit: %s, the least, takes %.3f GB", flags, takes);
}

void run_plan_check(const RunPlan *r)
{
    const TrainBytes b = bytes_of(r, (Choice){ r->plan.B, r->plan.recompute });
    const Memory m = r->memory;
    if (b.all <= m.free) return;
    char *advice AUTO(auto_free) = run_plan_advice((void *)r, room(r));
    FAIL("out of memory on %s: training takes %.3f GB (parameters %.3f, gradients %.3f, optimizer state %.3f, "
         "activations %.3f, workspace %.3f), and %.3f GB of %.3f GB are free; %s",
         model_device(r->model)->backend->name, (double)b.all / 1e9, (double)b.parameters / 1e9,
         (double)b.gradients / 1e9, (double)b.optimizer / 1e9, (double)b.activations / 1e9, (double)b.workspace / 1e9,
         (double)m.free / 1e9, (double)m.total / 1e9, advice);
}

/* ------------------------------------------------------------------------------------------------------ in a table */

typedef struct { const char *name[128]; int64_t count[128]; size_t bytes[128]; int n; } Seen;

static void see_tensor(void *context, Tensor x, size_t bytes)
{
    Seen *s = context;
    int i = 0;
    while (i < s->n && strcmp(s->name[i], x.name)) i++;
    if (i == (int)COUNT_OF(s->name)) return;
    if (i == s->n) s->name[s->n++] = x.name;
    s->count[i]++;
    s->bytes[i] += bytes;
}

static void print_row(const char *name, int64_t count, size_t bytes)
{
    printf("  %-34s %6lld %16zu bytes %10.1f MB\n", name, (long long)count, bytes, (double)bytes / 1e6);
}

static void print_parts(const RunPlan *r, TrainBytes b)
{
    const Params *p = model_params(r->model);
    const bool masters = p->dtype == DT_BF16 && r->trainer.master_weights;
    const bool muon = r->trainer.optimizer == OPTIMIZER_MUON;
    printf("\n  total, each process\n");
    print_row("parameters", p->count, b.parameters);
    print_row("gradients", p->count, b.gradients);
    print_row("optimizer state", 2 + masters + muon, b.optimizer);
    print_row("activations", 1, b.activations);
    print_row("workspace", 1, b.workspace);
    print_row("all", 1, b.all);
    printf("\n  %s has %.3f GB, and %.3f GB of it are free: this %s\n", model_device(r->model)->backend->name,
           (double)r->memory.total / 1e9, (double)r->memory.free / 1e9,
           b.all <= r->memory.free ? "fits" : "does not fit");
}

static void print_largest(const RunPlan *r, bool recompute)
{
    const int64_t n = largest_batch(r, recompute, room(r));
    const Choice c = { n ? n : 1, recompute };
    char *name AUTO(auto_free) = text_format("%s--batch_size %lld%s", n ? "" : "too large: ", (long long)c.batch_size,
                                             recompute ? " --recompute" : "");
    print_row(name, r->rows / c.batch_size, bytes_of(r, c).all);
}

void run_plan_print(const RunPlan *r)
{
    Seen seen = {0};
    const Params *p = model_params(r->model);
    const TrainBytes b = trainer_plan_bytes(r->model, r->plan, &r->trainer, see_tensor, &seen);
    printf("\n  parameters\n");
    for (int i = 0; i < p->count; i++) print_row(p->list[i].value.name, 1, tensor_bytes(p->list[i].value));
    printf("\n  %-34s %6s %22s\n", "activations", "number", "together");
    for (int i = 0; i < seen.n; i++) print_row(seen.name[i], seen.count[i], seen.bytes[i]);
    print_parts(r, b);
    printf("\n  the largest that fits, of %lld rows an update: micro-batches, and all they take\n", (long long)r->rows);
    for (int recompute = 0; recompute < 2; recompute++)
        if (!r->recompute_said || recompute == r->plan.recompute) print_largest(r, recompute);
    const Choice c = search(r, room(r));
    char *flags AUTO(auto_free) = flags_of(r, c);
    if (c.batch_size) printf("  --batch_size auto is %s\n", flags);
    else              printf("  --batch_size auto finds nothing that fits\n");
}
