/* model_plan.c -- a model's memory: made, measured, carved. See model.h. */
#include "model_impl.h"

#include <stdlib.h>

const Config *model_config(const Model *m)        { return &m->cfg; }
Params       *model_params(Model *m)              { return m->params; }
Params       *model_trained(Model *m)             { return m->params->adapters ? m->params->adapters : m->params; }
Device       *model_device(const Model *m)        { return m->dev; }
void model_set_temperature(Model *m, float t)     { m->temperature = t; }

void model_on_bucket(Model *m, BucketFinished *finished, void *context)
{
    m->bucket_finished = finished, m->bucket_context = context;
}

static void free_slot(Model **m) { model_free(*m); }

/* With the params of `of`, or if it is NULL with its own. */
static Model *create(Device *d, const Config *c, DType dtype, int ranks, Model *of)
{
    Model *m AUTO(free_slot) = xcalloc(1, sizeof *m, "a model");
    m->dev = d, m->cfg = *c, m->dtype = activation_type(dtype), m->temperature = 1;
    m->stream = xcalloc((size_t)c->n_layer + 1, sizeof *m->stream, "layers");
    m->block = xcalloc((size_t)c->n_layer, sizeof *m->block, "layers");
    m->host_freq = xcalloc((size_t)c->head_dim / 2 + 1, sizeof *m->host_freq, "RoPE's frequencies");
    for (int i = 0; i < c->head_dim / 2; i++) m->host_freq[i] = (float)config_rope_freq(c, i);
    m->params = of ? of->params : params_create(d, c, dtype, ranks);
    m->lender = of;
    if (of) of->borrowers++;
    Model *made = m;
    m = NULL;
    return made;
}

Model *model_create(Device *d, const Config *c, DType dtype, int ranks)
{
    config_check(c);
    return create(d, c, dtype, ranks, NULL);
}

Model *model_borrow(Model *of) { return create(of->dev, &of->cfg, of->dtype, 1, of); }

void model_free(Model *m)
{
    if (!m) return;
    if (m->lender) m->lender->borrowers--;
    else           params_free(m->params);
    device_free(m->dev, m->memory);
    free(m->stream);
    free(m->block);
    free(m->host_index);
    free(m->host_freq);
    free(m->host_value);
    free(m);
}

void model_adapt(Model *m, Lora how, uint64_t seed)
{
    CHECK(!m->memory && !m->params->grads && !m->borrowers,
          "adapters for a model that has a plan, a trainer or a decoder; add them first");
    params_adapt(m->params, how, seed);
}

/* --------------------------------------------------------------------------------------------------- activations */

static Tensor take_mean(Model *m, Arena *a, const char *name)
{
    return m->cfg.norm == NORM_LAYER ? TAKE(a, name, DT_F32, m->B, m->T) : none();
}

static void lay_out_block(Model *m, Arena *a, Block *k)
{
    const Config *c = &m->cfg;
    const int64_t B = m->B, T = m->T, C = c->n_embd, H = c->n_head, G = c->n_kv_head, D = c->head_dim, F = c->n_ff;
    const bool keep_pre = swiglu(m) || m->train;
    k->n1    = TAKE(a, "ln_1",      m->dtype, B, T, C);
    k->mean1 = take_mean(m, a, "ln_1.mean");
    k->rstd1 = TAKE(a, "ln_1.rstd", DT_F32, B, T);
    k->unturned = c->qk_norm ? TAKE(a, "attn.qkv before rope", m->dtype, B, T, (H + 2 * G) * D) : m->unturned;
    k->qkv   = TAKE(a, "attn.qkv",  m->dtype, B, T, (H + 2 * G) * D);
    k->att   = TAKE(a, "attn.out",  m->dtype, B, T, H * D);
    k->lse   = TAKE(a, "attn.lse",  DT_F32, B, H, T);
    k->mid   = TAKE(a, "mid",       m->dtype, B, T, C);
    k->n2    = TAKE(a, "ln_2",      m->dtype, B, T, C);
    k->mean2 = take_mean(m, a, "ln_2.mean");
    k->rstd2 = TAKE(a, "ln_2.rstd", DT_F32, B, T);
    k->pre   = keep_pre ? TAKE(a, "mlp.up", m->dtype, B, T, swiglu(m) ? 2 * F : F) : none();
    k->act   = TAKE(a, "mlp.act",   m->dtype, B, T, F);
}

/* Logits of this many positions at a time: enough rows to make the product efficient, about 128 MB at most. */
static int64_t head_rows(const Model *m)
{
    const int64_t rows = ((int64_t)1 << 25) / m->cfg.padded_vocab_size, N = m->B * m->T;
    return rows < 64 ? (N < 64 ? N : 64) : rows < N ? rows : N;
}

static void lay_out_head(Model *m, Arena *a)
{
    const Config *c = &m->cfg;
    const int64_t B = m->B, T = m->T, V = c->padded_vocab_size;
    m->xf    = TAKE(a, "ln_f",      m->dtype, B, T, c->n_embd);
    m->meanf = take_mean(m, a, "ln_f.mean");
    m->rstdf = TAKE(a, "ln_f.rstd", DT_F32, B, T);
    if (c->head == HEAD_SCALAR) {
        m->value = TAKE(a, "value", DT_F32, B * T, 1);
        if (m->train) m->dvalue = TAKE(a, "d.value", m->dtype, B * T, 1);
        return;
    }
    m->head_rows = head_rows(m);
    m->logits  = TAKE(a, "logits", DT_F32, m->head_rows, V);
    m->logp    = TAKE(a, "logp", DT_F32, B, T);
    m->lse     = TAKE(a, "lse", DT_F32, B, T);
    m->entropy = TAKE(a, "entropy", DT_F32, B, T);
    if (!m->train) return;
    m->dlogits  = m->dtype == DT_F32 ? m->logits : TAKE(a, "d.logits", m->dtype, m->head_rows, V);
    m->dlogp    = TAKE(a, "d.logp", DT_F32, B, T);
    m->dlse     = TAKE(a, "d.lse", DT_F32, B, T);
    m->dentropy = TAKE(a, "d.entropy", DT_F32, B, T);
}

static void lay_out(Model *m, Arena *a)
{
    const Config *c = &m->cfg;
    const int64_t B = m->B, T = m->T, C = c->n_embd, H = c->n_head, G = c->n_kv_head, D = c->head_dim,
                  F = c->n_ff, L = c->n_layer;
    m->tokens  = TAKE(a, "tokens",  DT_I32, B, T);
    m->targets = TAKE(a, "targets", DT_I32, B, T);
    m->pos     = TAKE(a, "pos",     DT_I32, B, T);
    m->first   = TAKE(a, "first",   DT_I32, B, T);
    m->freq    = rope(m) ? TAKE(a, "rope.freq", DT_F32, D / 2) : none();
    m->unturned = rope(m) && !c->qk_norm ? TAKE(a, "attn.qkv before rope", m->dtype, B, T, (H + 2 * G) * D) : none();
    for (int64_t l = 0; l <= L; l++)
        m->stream[l] = l == 0 || m->train ? TAKE(a, "stream", m->dtype, B, T, C) : m->stream[0];
    for (int64_t l = 0; l < (keeps_all(m) ? L : 1); l++) lay_out_block(m, a, &m->block[l]);
    m->branch = TAKE(a, "branch", m->dtype, B, T, C);
    lay_out_head(m, a);
    if (!m->train) return;
    m->dx   = TAKE(a, "d.stream", m->dtype, B, T, C);
    m->dn   = TAKE(a, "d.ln", m->dtype, B, T, C);
    m->datt = TAKE(a, "d.attn.out", m->dtype, B, T, H * D);
    m->dqkv = TAKE(a, "d.attn.qkv", m->dtype, B, T, (H + 2 * G) * D);
    m->dup  = TAKE(a, "d.mlp.up", m->dtype, B, T, swiglu(m) ? 2 * F : F);
    m->dact = swiglu(m) ? TAKE(a, "d.mlp.act", m->dtype, B, T, F) : none();
}

void model_carve(Model *m, int64_t B, int64_t T, bool train)
{
    if (m->B == B && m->T == T && m->train == train) return;
    m->B = B, m->T = T, m->train = train;
    Arena a = { .block = m->memory, .size = m->memory_size };
    lay_out(m, &a);
    if (rope(m)) device_upload(m->dev, m->freq, m->host_freq);
}

/* ------------------------------------------------------------------------------------------------------- the plan */

static void stop_measuring(Device **d) { (*d)->measuring = false; }

/* Walks through a batch of the plan's size with the doors measuring: shapes are checked and scratch is added up. */
static void measure_scratch(Model *m)
{
    static const float slope;
    const Slopes all = { &slope, &slope, &slope, &slope };
    Device *d AUTO(stop_measuring) = m->dev;
    d->scratch_needed = m->plan.scratch;
    d->measuring = true;
    model_trunk_forward(m);
    model_head(m, true, true, m->train ? &all : NULL, false);
    if (m->train) model_trunk_backward(m, false);
}

static PlanBytes measure(Model *m, bool train, SeenTensor *seen, void *context)
{
    m->B = m->plan.B, m->T = m->plan.T, m->train = train;
    Arena a = { .seen = seen, .context = context };
    lay_out(m, &a);
    measure_scratch(m);
    m->B = m->T = 0;                                    /* no layout: the tensors lie nowhere */
    return (PlanBytes){ a.used, m->dev->scratch_needed };
}

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

PlanBytes model_plan_bytes(Model *m, Plan plan, SeenTensor *seen, void *context)
{
    const Plan kept = m->plan;
    CHECK(!plan.train || model_trained(m)->dtype != DT_I8,
          "int8 weights are not trained; open the model as f32 or bf16, or give it adapters, which are");
    CHECK(plan.B >= 1 && plan.T >= 1, "a batch of %lld x %lld tokens; both must be 1 or more",
          (long long)plan.B, (long long)plan.T);
    CHECK(plan.T <= m->cfg.max_seq_len, "a batch of %lld tokens a row, but the model's max_seq_len is %d",
          (long long)plan.T, m->cfg.max_seq_len);
    CHECK(plan.B <= MOST_TOKENS / plan.T, "a batch of %lld x %lld tokens; at most 2^31 fit",
          (long long)plan.B, (long long)plan.T);
    m->plan = plan;
    PlanBytes bytes = measure(m, plan.train, seen, context);
    if (plan.train) {                                   /* it scores too */
        const PlanBytes score = measure(m, false, NULL, NULL);
        bytes.activations = larger(bytes.activations, score.activations);
        bytes.workspace = larger(bytes.workspace, score.workspace);
    }
    m->plan = kept;
    return bytes;
}

void model_plan(Model *m, Plan plan)
{
    const PlanBytes bytes = model_plan_bytes(m, plan, NULL, NULL);
    device_free(m->dev, m->memory);
    m->memory = NULL;
    m->plan = plan;
    params_allocate(m->params, false);
    params_allocate(model_trained(m), plan.train);
    m->memory_size = bytes.activations;
    m->memory = device_alloc(m->dev, bytes.activations, "activations");
    device_reserve(m->dev, bytes.workspace);
    free(m->host_index);
    free(m->host_value);
    m->host_index = NULL, m->host_value = NULL;
    m->host_index = xcalloc((size_t)(plan.B * plan.T), sizeof *m->host_index, "a batch");
    m->host_value = xcalloc((size_t)(plan.B * plan.T), sizeof(float), "a batch");
}
