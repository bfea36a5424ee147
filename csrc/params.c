/* params.c -- see params.h */
#include "params.h"
#include "quantize.h"
#include "rng.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

static int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

static Param *add_param(Params *all, int bucket, const char *prefix, const char *name, const char *suffix,
                        InitKind init, int ndim, int64_t d0, int64_t d1)
{
    Param *p = &all->list[all->count++];
    const char *full = text_format("%s%s.%s", prefix, name, suffix);
    *p = (Param){ .value = { NULL, full, activation_type(all->dtype), ndim, { d0, d1 } },
                  .grad = { NULL, full, DT_F32, ndim, { d0, d1 } },
                  .init = init, .decay = ndim == 2, .bucket = bucket };
    return p;
}

/* A matrix that a product reads, or the table of tokens */
static Param *add_weight(Params *all, int bucket, const char *prefix, const char *name, InitKind init, int64_t O,
                         int64_t I)
{
    Param *p = add_param(all, bucket, prefix, name, "weight", init, 2, O, I);
    if (all->dtype != DT_I8) return p;
    p->value.dtype = DT_I8;
    p->scale = (Tensor){ NULL, text_format("%s.scale", p->value.name), DT_F32, 2, { O, quant_groups(I) } };
    return p;
}

static Pair add_linear(Params *all, bool bias, int bucket, const char *prefix, const char *name, InitKind init,
                       int64_t O, int64_t I)
{
    Pair p = { .w = add_weight(all, bucket, prefix, name, init, O, I) };
    if (bias) p.b = add_param(all, bucket, prefix, name, "bias", INIT_ZERO, 1, O, 0);
    return p;
}

static Pair add_norm(Params *all, const Config *c, int bucket, const char *prefix, const char *name)
{
    Pair p = { .w = add_param(all, bucket, prefix, name, "weight", INIT_ONE, 1, c->n_embd, 0) };
    if (c->norm == NORM_LAYER && c->bias)
        p.b = add_param(all, bucket, prefix, name, "bias", INIT_ZERO, 1, c->n_embd, 0);
    return p;
}

static void packs(Param *p, int matrices, int64_t first, int64_t second, int64_t third)
{
    p->matrices = matrices;
    p->matrix_rows[0] = first, p->matrix_rows[1] = second, p->matrix_rows[2] = third;
}

/* The one list of a model's own parameters: names, shapes, initial values and buckets stand here and nowhere else. */
static void list_params(Params *all, const Config *c)
{
    const int64_t C = c->n_embd, P = (int64_t)(c->n_head + 2 * c->n_kv_head) * c->head_dim,
                  HD = (int64_t)c->n_head * c->head_dim;
    const int64_t F = c->n_ff, V = c->padded_vocab_size, up = c->mlp == MLP_SWIGLU ? 2 * F : F;
    const int L = c->n_layer, head_bucket = 0, embedding_bucket = L + 1;
    all->wte.w = add_weight(all, embedding_bucket, "", "wte", INIT_NORMAL, V, C);
    if (c->position == POSITION_LEARNED)
        all->wpe.w = add_param(all, embedding_bucket, "", "wpe", "weight", INIT_NORMAL, 2, c->max_seq_len, C);
    for (int l = 0; l < L; l++) {
        LayerParams *w = &all->layer[l];
        char *at AUTO(auto_free) = text_format("h.%d.", l);
        w->ln_1 = add_norm(all, c, L - l, at, "ln_1");
        w->qkv  = add_linear(all, c->bias || c->qkv_bias, L - l, at, "attn.qkv", INIT_NORMAL, P, C);
        if (c->qk_norm) {
            w->q_norm = add_param(all, L - l, at, "attn.q_norm", "weight", INIT_ONE, 1, c->head_dim, 0);
            w->k_norm = add_param(all, L - l, at, "attn.k_norm", "weight", INIT_ONE, 1, c->head_dim, 0);
        }
        w->proj = add_linear(all, c->bias, L - l, at, "attn.proj", INIT_RESIDUAL, C, HD);
        w->ln_2 = add_norm(all, c, L - l, at, "ln_2");
        w->up   = add_linear(all, c->bias, L - l, at, "mlp.up", INIT_NORMAL, up, C);
        w->down = add_linear(all, c->bias, L - l, at, "mlp.down", INIT_RESIDUAL, C, F);
        packs(w->qkv.w, 3, HD, (P - HD) / 2, (P - HD) / 2);
        packs(w->proj.w, 1, C, 0, 0);
        packs(w->up.w, (int)(up / F), F, F, 0);
        packs(w->down.w, 1, C, 0, 0);
    }
    all->ln_f = add_norm(all, c, head_bucket, "", "ln_f");
    if (c->head == HEAD_SCALAR) all->head.w = add_param(all, head_bucket, "", "value", "weight", INIT_ZERO, 2, 1, C);
    else if (c->tied)           all->head = all->wte;
    else                        all->head.w = add_weight(all, head_bucket, "", "lm_head", INIT_NORMAL, V, C);
}

static void lay_out_buckets(Params *all)
{
    int64_t at = 0, number = 0;
    for (int b = 0; b < all->n_buckets; b++) {
        all->bucket[b].offset = at, all->bucket[b].number = number;
        for (int i = 0; i < all->count; i++) {
            if (all->list[i].bucket != b) continue;
            all->list[i].offset = at;
            at += round_up(numel(all->list[i].value), PARAM_ALIGN);
        }
        number += at - all->bucket[b].offset;
        all->bucket[b].length = round_up(at - all->bucket[b].offset, (int64_t)PARAM_ALIGN * all->ranks);
        at = all->bucket[b].offset + all->bucket[b].length;
    }
    all->elements = at;
}

static void free_slot(Params **p) { params_free(*p); }

Params *params_create(Device *d, const Config *c, DType dtype, int ranks)
{
    CHECK(dtype == DT_F32 || dtype == DT_BF16 || dtype == DT_I8, "weights of type %s; wanted f32, bf16 or i8",
          dtype_name(dtype));
    CHECK(ranks >= 1, "parameters over %d ranks", ranks);
    Params *all AUTO(free_slot) = xcalloc(1, sizeof *all, "parameters");
    all->device = d, all->dtype = dtype, all->ranks = ranks;
    all->n_layer = c->n_layer, all->n_buckets = c->n_layer + 2;
    all->list = xcalloc((size_t)c->n_layer * 14 + 8, sizeof *all->list, "parameters");
    all->layer = xcalloc((size_t)c->n_layer, sizeof *all->layer, "layers");
    all->bucket = xcalloc((size_t)all->n_buckets, sizeof *all->bucket, "buckets");
    list_params(all, c);
    lay_out_buckets(all);
    Params *made = all;
    all = NULL;
    return made;
}

static int64_t int8_bytes(Tensor t) { return is_none(t) ? 0 : round_up((int64_t)tensor_bytes(t), 256); }

/* int8 weights, their scales, and what is bf16 beside them, one after the other */
static void lay_out_int8(Params *all)
{
    char *at = all->values;
    for (int i = 0; i < all->count; i++) {
        Param *p = &all->list[i];
        p->value.data = at, at += int8_bytes(p->value);
        if (!is_none(p->scale)) p->scale.data = at, at += int8_bytes(p->scale);
    }
}

size_t params_bytes(const Params *all)
{
    int64_t bytes = 0;
    if (all->dtype != DT_I8) return (size_t)all->elements * dtype_size(all->dtype);
    for (int i = 0; i < all->count; i++) bytes += int8_bytes(all->list[i].value) + int8_bytes(all->list[i].scale);
    return (size_t)bytes;
}

void params_allocate(Params *all, bool grads)
{
    CHECK(!grads || all->dtype != DT_I8, "int8 weights are not trained; open the model as f32 or bf16, or give it "
          "adapters, which are");
    if (!all->values) {
        all->values = device_alloc(all->device, params_bytes(all), "parameters");
        if (all->dtype == DT_I8) lay_out_int8(all);
        else for (int i = 0; i < all->count; i++)
            all->list[i].value.data = (char *)all->values + (size_t)all->list[i].offset * dtype_size(all->dtype);
    }
    if (grads && !all->grads) {
        all->grads = device_alloc(all->device, (size_t)all->elements * sizeof(float), "gradients");
        for (int i = 0; i < all->count; i++) all->list[i].grad.data = (float *)all->grads + all->list[i].offset;
    }
}

void params_free(Params *all)
{
    if (!all) return;
    params_free(all->adapters);
    device_free(all->device, all->values);
    device_free(all->device, all->grads);
    for (int i = 0; i < all->count; i++) {
        free((char *)all->list[i].value.name);
        free((char *)all->list[i].scale.name);
    }
    free(all->list);
    free(all->layer);
    free(all->bucket);
    free(all);
}

static float initial(const Params *all, const Param *p, uint64_t seed, uint64_t stream, uint64_t j)
{
    const double width = (double)last(p->value);
    switch (p->init) {
    case INIT_ZERO:     return 0;
    case INIT_ONE:      return 1;
    case INIT_NORMAL:   return 0.02f * rng_normal(seed, stream, j);
    case INIT_RESIDUAL: return 0.02f / sqrtf(2.0f * (float)all->n_layer) * rng_normal(seed, stream, j);
    case INIT_UNIFORM:  return (float)((2 * rng_uniform(seed, stream, j) - 1) / sqrt(width));
    }
    return 0;
}

void params_put(Params *all, const Param *p, int64_t begin, int64_t n, const float *x)
{
    const Tensor to = slice_elements(p->value, begin, n);
    if (to.dtype == DT_F32) {
        device_upload(all->device, to, x);
        return;
    }
    void *host AUTO(auto_free) = xcalloc((size_t)n, dtype_size(to.dtype), "weights on their way");
    if (to.dtype == DT_BF16)
        for (int64_t i = 0; i < n; i++) ((uint16_t *)host)[i] = f32_to_bf16(x[i]);
    else {
        const int64_t width = last(p->value), groups = last(p->scale), first = begin / width, count = n / width;
        float *scale AUTO(auto_free) = xcalloc((size_t)(count * groups), sizeof *scale, "scales on their way");
        quantize(host, scale, x, count, width);
        device_upload(all->device, slice_elements(p->scale, first * groups, count * groups), scale);
    }
    device_upload(all->device, to, host);
}

/* Streams of the seed from `stream` on, one for each parameter */
static void draw(Params *all, uint64_t seed, uint64_t stream)
{
    params_allocate(all, false);
    for (int i = 0; i < all->count; i++) {
        const Param *p = &all->list[i];
        const int64_t chunk = params_chunk(p);
        float *x AUTO(auto_free) = xcalloc((size_t)chunk, sizeof *x, "initial weights");
        for (int64_t begin = 0; begin < numel(p->value); begin += chunk) {
            const int64_t n = numel(p->value) - begin < chunk ? numel(p->value) - begin : chunk;
            #pragma omp parallel for num_threads(all->device->threads)
            for (int64_t j = 0; j < n; j++)
                x[j] = initial(all, p, seed, stream + (uint64_t)i, (uint64_t)(begin + j));
            params_put(all, p, begin, n, x);
        }
    }
}

void params_init(Params *all, uint64_t seed) { draw(all, seed, RNG_INIT); }

int64_t params_chunk(const Param *p)
{
    enum { CHUNK = 1 << 16 };
    const int64_t width = last(p->value);
    return width > CHUNK ? width : CHUNK / width * width;
}

Param *params_find(Params *all, const char *name)
{
    for (int i = 0; i < all->count; i++)
        if (!strcmp(all->list[i].value.name, name)) return &all->list[i];
    return NULL;
}

static int64_t clamp(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }

void params_owned(const Params *all, const Param *p, int rank, int64_t *begin, int64_t *end)
{
    const Bucket b = all->bucket[p->bucket];
    const int64_t slice = b.length / all->ranks, from = b.offset + rank * slice, n = numel(p->value);
    *begin = clamp(from - p->offset, 0, n);
    *end = clamp(from + slice - p->offset, 0, n);
}

/* ------------------------------------------------------------------------------------------------------- adapters */

static const char *const adapted_names[] = { "qkv", "proj", "up", "down" };
enum { ADAPTED = COUNT_OF(adapted_names) };

static Pair *adapted(LayerParams *w, int i) { return (Pair *[ADAPTED]){ &w->qkv, &w->proj, &w->up, &w->down }[i]; }

unsigned lora_matrix(const char *name)
{
    for (int i = 0; i < ADAPTED; i++)
        if (!strcmp(name, adapted_names[i])) return 1u << i;
    FAIL("adapters for %s, which is no matrix of a block; wanted some of qkv, proj, up and down", name);
}

char *lora_matrices(unsigned matrices)
{
    char *names = text_format("%s", "");
    for (int i = 0; i < ADAPTED; i++) {
        if (!(matrices & 1u << i)) continue;
        char *before AUTO(auto_free) = names;
        names = text_format("%s%s%s", before, *before ? " " : "", adapted_names[i]);
    }
    return names;
}

static void adapt(Params *all, Pair *p, int bucket)
{
    const int64_t O = p->w->value.dim[0], I = last(p->w->value), R = all->lora.rank;
    const char *of = p->w->value.name;
    CHECK(R <= O && R <= I, "adapters of rank %lld for %s, which is %lld x %lld and has no more than rank %lld",
          (long long)R, of, (long long)O, (long long)I, (long long)(O < I ? O : I));
    char *name AUTO(auto_free) = text_format("%.*s", (int)(strrchr(of, '.') - of), of);
    p->lora_a = add_param(all, bucket, "", name, "lora_a", INIT_UNIFORM, 2, R, I);
    p->lora_b = add_param(all, bucket, "", name, "lora_b", INIT_ZERO, 2, O, R);
}

void params_adapt(Params *of, Lora how, uint64_t seed)
{
    const int L = of->n_layer;
    CHECK(!of->adapters, "the model has adapters already, of rank %d", of->adapters->lora.rank);
    CHECK(how.rank >= 1, "adapters of rank %d; wanted 1 or more", how.rank);
    CHECK(how.alpha > 0 && how.alpha <= FLT_MAX, "adapters with alpha %g; wanted a number above 0", (double)how.alpha);
    CHECK(how.matrices && how.matrices < 1u << ADAPTED,
          "adapters for no matrix; wanted some of qkv, proj, up and down");
    Params *all AUTO(free_slot) = xcalloc(1, sizeof *all, "adapters");
    all->device = of->device, all->dtype = activation_type(of->dtype), all->ranks = of->ranks;
    all->n_layer = all->n_buckets = L, all->lora = how;
    all->list = xcalloc((size_t)L * ADAPTED * 2, sizeof *all->list, "adapters");
    all->bucket = xcalloc((size_t)L, sizeof *all->bucket, "adapters");
    LayerParams *layer AUTO(auto_free) = xcalloc((size_t)L, sizeof *layer, "layers");
    memcpy(layer, of->layer, (size_t)L * sizeof *layer);
    for (int l = 0; l < L; l++)
        for (int i = 0; i < ADAPTED; i++)
            if (how.matrices & 1u << i) adapt(all, adapted(&layer[l], i), L - 1 - l);
    lay_out_buckets(all);
    draw(all, seed, RNG_INIT + (uint64_t)of->count);    /* no number of the weights' own */
    memcpy(of->layer, layer, (size_t)L * sizeof *layer);
    of->adapters = all;
    all = NULL;
}
