/* trainer.c -- see trainer.h */
#include "trainer.h"
#include "trainer_impl.h"
#include "ops.h"

#include <math.h>
#include <stdlib.h>

static void free_slot(Trainer **t) { trainer_free(*t); }

size_t trainer_state_bytes(const Model *m)
{
    const Params *p = model_params((Model *)m);
    return (size_t)(p->elements / p->ranks) * sizeof(float) * (p->dtype == DT_F32 ? 2 : 3);
}

static float *trainer_state(const Trainer *t, int kind) { return (float *)t->state + kind * t->slice; }

/* The part of a parameter that this rank owns, inside the flat block `base` of elements of `dtype`. */
static Tensor owned(void *base, DType dtype, const Param *p, int64_t at, int64_t count)
{
    return (Tensor){ (char *)base + (size_t)at * dtype_size(dtype), p->value.name, dtype, 1, { count } };
}

Tensor trainer_owned_state(const Trainer *t, int kind, const Param *p, int64_t begin, int64_t end)
{
    return owned(trainer_state(t, kind), DT_F32, p, params_slice_offset(t->params, p, t->rank, begin), end - begin);
}

/* bf16 weights as they are now become the f32 masters: after weights were drawn or read without masters. */
static void masters_from_weights(Trainer *t)
{
    for (int i = 0; i < t->params->count; i++) {
        const Param *p = &t->params->list[i];
        int64_t begin, end;
        params_owned(t->params, p, t->rank, &begin, &end);
        if (begin == end) continue;
        uint16_t *rounded AUTO(auto_free) = xcalloc((size_t)(end - begin), sizeof *rounded, "masters");
        float *exact AUTO(auto_free) = xcalloc((size_t)(end - begin), sizeof *exact, "masters");
        device_download(t->device, rounded, owned(t->params->values, DT_BF16, p, p->offset + begin, end - begin));
        for (int64_t j = 0; j < end - begin; j++) exact[j] = bf16_to_f32(rounded[j]);
        device_upload(t->device, trainer_owned_state(t, STATE_MASTER, p, begin, end), exact);
    }
}

Trainer *trainer_create(Model *m, Comm *comm, TrainerConfig c)
{
    Params *p = model_params(m);
    CHECK(p->ranks == comm_ranks(comm), "a model laid out for %d ranks, trained by %d", p->ranks, comm_ranks(comm));
    Trainer *t AUTO(free_slot) = xcalloc(1, sizeof *t, "a trainer");
    *t = (Trainer){ .model = m, .params = p, .device = p->device, .comm = comm, .config = c, .rank = comm_rank(comm),
                    .slice = p->elements / p->ranks, .kinds = p->dtype == DT_F32 ? 2 : 3 };
    t->state = device_alloc(t->device, (size_t)t->kinds * (size_t)t->slice * sizeof(float), "optimizer state");
    t->norm = device_alloc(t->device, sizeof(float), "the gradient norm");
    params_allocate(p, true);
    if (t->kinds > STATE_MASTER) masters_from_weights(t);
    Trainer *made = t;
    t = NULL;
    return made;
}

void trainer_free(Trainer *t)
{
    if (!t) return;
    device_free(t->device, t->state);
    device_free(t->device, t->norm);
    free(t);
}

int64_t trainer_updates(const Trainer *t) { return t->updates; }

/* --------------------------------------------------------------------------------------------------------- a step */

static void reduce_bucket(void *context, int bucket)
{
    Trainer *t = context;
    const Bucket b = t->params->bucket[bucket];
    const int64_t slice = b.length / t->params->ranks;
    float *grads = (float *)t->params->grads + b.offset;
    comm_reduce_scatter(t->comm, grads, grads + t->rank * slice, slice);
}

/* Buckets are reduced as the last micro-batch's backward finishes them. */
bool trainer_micro_batch(Trainer *t, int64_t index, int64_t count)
{
    CHECK(index >= 0 && index < count, "micro-batch %lld of %lld", (long long)index, (long long)count);
    model_on_bucket(t->model, index == count - 1 && t->params->ranks > 1 ? reduce_bucket : NULL, t);
    t->reduced = false;
    return index > 0;
}

double trainer_reduce(Trainer *t)
{
    double squares = 0;
    for (int i = 0; i < t->params->count; i++) {
        const Param *p = &t->params->list[i];
        int64_t begin, end;
        float part;
        params_owned(t->params, p, t->rank, &begin, &end);
        if (begin == end) continue;
        Tensor sum = { t->norm, "gradient norm", DT_F32, 1, { 1 } };
        sum_squares(t->device, sum, owned(t->params->grads, DT_F32, p, p->offset + begin, end - begin));
        device_download(t->device, &part, sum);
        squares += part;
    }
    comm_all_reduce_double(t->comm, &squares, 1);
    t->grad_norm = sqrt(squares);
    t->reduced = true;
    return t->grad_norm;
}

void trainer_apply(Trainer *t, double lr)
{
    CHECK(t->reduced, "trainer_apply without trainer_reduce before it");
    const TrainerConfig *c = &t->config;
    const double scale = c->grad_clip > 0 && t->grad_norm > c->grad_clip ? c->grad_clip / t->grad_norm : 1;
    t->updates++;
    for (int i = 0; i < t->params->count; i++) {
        const Param *p = &t->params->list[i];
        int64_t begin, end;
        params_owned(t->params, p, t->rank, &begin, &end);
        if (begin == end) continue;
        const AdamW a = { (float)lr, (float)c->beta1, (float)c->beta2, (float)c->eps,
                          p->decay ? (float)c->weight_decay : 0, (float)scale, t->updates };
        adamw(t->device, owned(t->params->values, t->params->dtype, p, p->offset + begin, end - begin),
              t->kinds > STATE_MASTER ? trainer_owned_state(t, STATE_MASTER, p, begin, end) : none(),
              trainer_owned_state(t, STATE_EXP_AVG, p, begin, end),
              trainer_owned_state(t, STATE_EXP_AVG_SQ, p, begin, end),
              owned(t->params->grads, DT_F32, p, p->offset + begin, end - begin), a);
    }
    for (int b = 0; b < t->params->n_buckets && t->params->ranks > 1; b++) {
        const Bucket k = t->params->bucket[b];
        const size_t width = dtype_size(t->params->dtype), slice = (size_t)(k.length / t->params->ranks) * width;
        char *weights = (char *)t->params->values + (size_t)k.offset * width;
        comm_all_gather(t->comm, weights + (size_t)t->rank * slice, weights, slice);
    }
    t->reduced = false;
}

static bool all_finite(Device *d, Tensor g)
{
    float *host AUTO(auto_free) = xcalloc((size_t)numel(g), sizeof *host, "a look at gradients");
    device_download(d, host, g);
    for (int64_t i = 0; i < numel(g); i++)
        if (!isfinite(host[i])) return false;
    return true;
}

const char *trainer_first_nonfinite(Trainer *t)
{
    for (int b = 0; b < t->params->n_buckets; b++)
        for (int i = 0; i < t->params->count; i++) {
            const Param *p = &t->params->list[i];
            if (p->bucket == b && !all_finite(t->device, p->grad)) return p->value.name;
        }
    return NULL;
}
