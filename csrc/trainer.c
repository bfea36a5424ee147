/* trainer.c -- see trainer.h */
#include "trainer.h"
#include "trainer_impl.h"
#include "arena.h"
#include "ops.h"
#include "rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void free_slot(Trainer **t) { trainer_free(*t); }

/* ---------------------------------------------------------------------------------------------------------- state */

_Static_assert(PARAM_ALIGN % DECAY_BLOCK == 0, "no block that decays holds a parameter that does not");

/* A rank's spans, in a list that has room for one of each parameter. Returns how many. */
static int list_spans(const Params *all, OptimizerKind optimizer, int rank, Span *span)
{
    int count = 0;
    for (int b = 0; b < all->n_buckets; b++)
        for (int i = 0; i < all->count; i++) {
            const Param *p = &all->list[i];
            int64_t begin, end;
            params_owned(all, p, rank, &begin, &end);
            if (p->bucket != b || begin == end) continue;
            const Span s = { .begin = p->offset + begin,
                             .end = p->offset + (end + PARAM_ALIGN - 1) / PARAM_ALIGN * PARAM_ALIGN,
                             .bucket = b, .muon = optimizer == OPTIMIZER_MUON && p->matrices };
            Span *before = count ? &span[count - 1] : NULL;
            if (before && before->end == s.begin && before->muon == s.muon) before->end = s.end;
            else span[count++] = s;
        }
    return count;
}

bool trainer_keeps_masters(const Params *all, const TrainerConfig *c)
{
    return all->dtype == DT_BF16 && c->master_weights;
}

static bool keeps(const Params *all, const TrainerConfig *c, const Span *s, int kind)
{
    return kind == STATE_MASTER ? trainer_keeps_masters(all, c) : kind == STATE_MOMENTUM ? s->muon : !s->muon;
}

/* Gives weight decay's table: of the flat blocks, whatever the rank; and room for the sum of squares of each
 * parameter's gradient. */
static Tensor lay_out_state(const Params *all, const TrainerConfig *c, Arena *a, Span *span, int spans, Tensor *squares)
{
    for (int kind = 0; kind < STATE_KINDS; kind++)
        for (int i = 0; i < spans; i++)
            if (keeps(all, c, &span[i], kind))
                span[i].kind[kind] = TAKE(a, "optimizer state", DT_F32, span[i].end - span[i].begin);
    *squares = TAKE(a, "squares", DT_F32, all->count);
    return TAKE(a, "weight decay", DT_U8, all->elements / DECAY_BLOCK);
}

static size_t state_bytes(const Params *all, const TrainerConfig *c, int rank)
{
    Span *span AUTO(auto_free) = xcalloc((size_t)all->count, sizeof *span, "optimizer state");
    Arena a = {0};
    Tensor squares;
    lay_out_state(all, c, &a, span, list_spans(all, c->optimizer, rank, span), &squares);
    return a.used;
}

/* The matrices of Muon that a rank's slices touch, and their gradients, in lists that have room for MOST_PACKED of each
 * parameter. Returns how many. */
static int list_matrices(const Params *all, int rank, Matrix *matrix, Tensor *grad)
{
    int count = 0;
    for (int i = 0; i < all->count; i++) {
        const Param *p = &all->list[i];
        int64_t owned_begin, owned_end, row = 0;
        params_owned(all, p, rank, &owned_begin, &owned_end);
        for (int k = 0; k < p->matrices; row += p->matrix_rows[k++]) {
            const int64_t from = row * last(p->value), to = from + p->matrix_rows[k] * last(p->value);
            const int64_t begin = owned_begin > from ? owned_begin : from, end = owned_end < to ? owned_end : to;
            if (begin >= end) continue;
            matrix[count] = (Matrix){ p, begin, end };
            grad[count++] = slice_rows(p->grad, row, p->matrix_rows[k]);
        }
    }
    return count;
}

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

static size_t norm_scratch(const Model *m, int rank)
{
    const Params *all = model_trained((Model *)m);
    size_t most = 0;
    for (int i = 0; i < all->count; i++) {
        int64_t begin, end;
        params_owned(all, &all->list[i], rank, &begin, &end);
        const Tensor part = { NULL, "a gradient", DT_F32, 1, { end - begin } };
        if (begin < end) most = larger(most, sum_squares_scratch(model_device(m), none(), part));
    }
    return most;
}

size_t trainer_scratch(const Model *m, OptimizerKind kind)
{
    const Params *all = model_trained((Model *)m);
    Matrix *matrix AUTO(auto_free) = xcalloc((size_t)all->count * MOST_PACKED, sizeof *matrix, "matrices");
    Tensor *grad AUTO(auto_free) = xcalloc((size_t)all->count * MOST_PACKED, sizeof *grad, "matrices");
    size_t most = 0;
    for (int rank = 0; rank < all->ranks; rank++) {
        most = larger(most, norm_scratch(m, rank));
        if (kind != OPTIMIZER_MUON) continue;
        const Tensors x = { grad, list_matrices(all, rank, matrix, grad) };
        most = larger(most, orthogonalize_scratch(model_device(m), x, all->dtype == DT_BF16));
    }
    return most;
}

TrainBytes trainer_plan_bytes(Model *m, Plan plan, const TrainerConfig *c, SeenTensor *seen, void *context)
{
    const Params *p = model_trained(m);
    const PlanBytes model = model_plan_bytes(m, plan, seen, context);
    TrainBytes b = { .parameters = params_bytes(model_params(m)) + (p == model_params(m) ? 0 : params_bytes(p)),
                     .gradients = (size_t)p->elements * sizeof(float),
                     .activations = model.activations, .workspace = model.workspace };
    for (int rank = 0; rank < p->ranks; rank++) b.optimizer = larger(b.optimizer, state_bytes(p, c, rank));
    b.all = b.parameters + b.gradients + b.optimizer + b.activations + b.workspace;
    return b;
}

/* `count` elements of a flat block */
static Tensor stretch(void *block, DType dtype, int64_t begin, int64_t count)
{
    return (Tensor){ (char *)block + (size_t)begin * dtype_size(dtype), "parameters", dtype, 1, { count } };
}

Tensor trainer_owned_state(const Trainer *t, int kind, const Param *p, int64_t begin, int64_t end)
{
    const int64_t at = p->offset + begin;
    const Span *s = t->span;
    while (s->end <= at) s++;
    return is_none(s->kind[kind]) ? none() : slice_elements(s->kind[kind], at - s->begin, end - begin);
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
        device_download(t->device, rounded, slice_elements(p->value, begin, end - begin));
        for (int64_t j = 0; j < end - begin; j++) exact[j] = bf16_to_f32(rounded[j]);
        device_upload(t->device, trainer_owned_state(t, STATE_MASTER, p, begin, end), exact);
    }
}

static void upload_decay(Trainer *t)
{
    uint8_t *host AUTO(auto_free) = xcalloc((size_t)numel(t->decay), 1, "weight decay");
    for (int i = 0; i < t->params->count; i++) {
        const Param *p = &t->params->list[i];
        const int64_t blocks = (numel(p->value) + DECAY_BLOCK - 1) / DECAY_BLOCK;
        memset(host + p->offset / DECAY_BLOCK, p->decay, (size_t)blocks);
    }
    device_upload(t->device, t->decay, host);
}

Trainer *trainer_create(Model *m, Comm *comm, TrainerConfig c)
{
    Params *p = model_trained(m);
    CHECK(p->ranks == comm_ranks(comm), "a model laid out for %d ranks, trained by %d", p->ranks, comm_ranks(comm));
    CHECK(p->dtype == DT_BF16 || (c.master_weights && !c.stochastic_rounding),
          "%s is for weights of bf16, and these are %s; say --dtype bf16, or leave it out",
          c.stochastic_rounding ? "--stochastic_rounding" : "--no-master_weights", dtype_name(p->dtype));
    CHECK(c.optimizer != OPTIMIZER_MUON || !p->lora.rank, "Muon is for whole matrices; adapters are trained by AdamW");
    Trainer *t AUTO(free_slot) = xcalloc(1, sizeof *t, "a trainer");
    *t = (Trainer){ .model = m, .params = p, .device = p->device, .comm = comm, .config = c, .rank = comm_rank(comm),
                    .span = xcalloc((size_t)p->count, sizeof *t->span, "optimizer state") };
    t->spans = list_spans(p, c.optimizer, t->rank, t->span);
    Arena a = { .size = state_bytes(p, &c, t->rank) };
    a.block = t->memory = device_alloc(t->device, a.size, "optimizer state");
    t->decay = lay_out_state(p, &c, &a, t->span, t->spans, &t->squares);
    upload_decay(t);
    device_reserve(t->device, trainer_scratch(m, c.optimizer));
    t->host_squares = xcalloc((size_t)p->count, sizeof(float), "the gradient norm");
    params_allocate(p, true);
    if (p->ranks > 1) t->device->backend->join(t->device, comm);
    if (trainer_keeps_masters(p, &c)) masters_from_weights(t);
    t->matrix = xcalloc((size_t)p->count * MOST_PACKED, sizeof *t->matrix, "matrices");
    t->direction = xcalloc((size_t)p->count * MOST_PACKED, sizeof *t->direction, "matrices");
    if (c.optimizer == OPTIMIZER_MUON) t->matrices = list_matrices(p, t->rank, t->matrix, t->direction);
    Trainer *made = t;
    t = NULL;
    return made;
}

void trainer_free(Trainer *t)
{
    if (!t) return;
    device_free(t->device, t->memory);
    free(t->host_squares);
    free(t->span);
    free(t->matrix);
    free(t->direction);
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
    t->device->backend->reduce_scatter(t->device, grads, grads + t->rank * slice, slice);
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
    const int count = t->params->count;
    double squares = 0;
    if (t->params->ranks > 1) t->device->backend->meet(t->device);
    device_zero(t->device, t->squares);
    for (int i = 0; i < count; i++) {
        const Param *p = &t->params->list[i];
        int64_t begin, end;
        params_owned(t->params, p, t->rank, &begin, &end);
        if (begin < end) sum_squares(t->device, slice_elements(t->squares, i, 1),
                                     slice_elements(p->grad, begin, end - begin));
    }
    device_download(t->device, t->host_squares, t->squares);
    for (int i = 0; i < count; i++) squares += t->host_squares[i];
    comm_all_reduce_double(t->comm, &squares, 1);
    t->grad_norm = sqrt(squares);
    t->reduced = true;
    return t->grad_norm;
}

/* Of weights that begin at this place in the flat blocks: by numbers that are the same whatever the ranks. */
static Rounding rounding(const Trainer *t, int bucket, int64_t at)
{
    const Bucket b = t->params->bucket[bucket];
    return (Rounding){ t->config.stochastic_rounding, t->config.seed, (uint64_t)RNG_ROUND + (uint64_t)t->updates,
                       b.number + at - b.offset };
}

/* All that a slice can do by itself: AdamW's step, or the momentum that becomes Muon's direction. */
static void apply_spans(Trainer *t, double lr, double grad_scale)
{
    const TrainerConfig *c = &t->config;
    const Params *all = t->params;
    const AdamW a = { (float)lr, (float)c->beta1, (float)c->beta2, (float)c->eps, (float)c->weight_decay,
                      (float)grad_scale, t->updates };
    for (int i = 0; i < t->spans; i++) {
        const Span *s = &t->span[i];
        const int64_t n = s->end - s->begin;
        const Tensor grad = stretch(all->grads, DT_F32, s->begin, n);
        if (s->muon) nesterov(t->device, grad, s->kind[STATE_MOMENTUM], (float)c->muon_momentum, (float)grad_scale);
        else adamw(t->device, stretch(all->values, all->dtype, s->begin, n), s->kind[STATE_MASTER],
                   s->kind[STATE_EXP_AVG], s->kind[STATE_EXP_AVG_SQ], grad,
                   slice_elements(t->decay, s->begin / DECAY_BLOCK, n / DECAY_BLOCK), a,
                   rounding(t, s->bucket, s->begin));
    }
}

/* Of each matrix that this rank's slices touch, the direction; of what it owns, the step. */
static void apply_matrices(Trainer *t, double lr)
{
    orthogonalize(t->device, (Tensors){ t->direction, t->matrices }, t->params->dtype == DT_BF16);
    for (int i = 0; i < t->matrices; i++) {
        const Matrix m = t->matrix[i];
        const int64_t R = t->direction[i].dim[0], C = t->direction[i].dim[1], n = m.end - m.begin;
        descend(t->device, slice_elements(m.param->value, m.begin, n),
                trainer_owned_state(t, STATE_MASTER, m.param, m.begin, m.end),
                slice_elements(m.param->grad, m.begin, n), (float)lr, (float)(0.2 * sqrt((double)(R > C ? R : C))),
                m.param->decay ? (float)t->config.weight_decay : 0,
                rounding(t, m.param->bucket, m.param->offset + m.begin));
    }
}

/* Each rank's slices of a flat block, to all. */
static void gather(Trainer *t, void *block, DType dtype)
{
    if (t->params->ranks == 1) return;
    for (int b = 0; b < t->params->n_buckets; b++) {
        const Bucket k = t->params->bucket[b];
        const size_t width = dtype_size(dtype), slice = (size_t)(k.length / t->params->ranks) * width;
        char *at = (char *)block + (size_t)k.offset * width;
        t->device->backend->all_gather(t->device, at + (size_t)t->rank * slice, at, slice);
    }
    t->device->backend->meet(t->device);
}

void trainer_apply(Trainer *t, double lr)
{
    CHECK(t->reduced, "trainer_apply without trainer_reduce before it");
    const double clip = t->config.grad_clip;
    t->updates++;
    apply_spans(t, lr, clip > 0 && t->grad_norm > clip ? clip / t->grad_norm : 1);
    if (t->config.optimizer == OPTIMIZER_MUON) {
        gather(t, t->params->grads, DT_F32);
        apply_matrices(t, lr);
    }
    gather(t, t->params->values, t->params->dtype);
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
