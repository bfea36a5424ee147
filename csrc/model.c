/* model.c -- the transformer, written once over ops.h. No pointer of a tensor is followed here and no kernel launched:
 * if a line of this file does arithmetic on activations, it is misplaced. */
#include "model_impl.h"

#include <math.h>

/* ------------------------------------------------------------------------------------------------ the ops, by Pair */

static Tensor value(const Param *p) { return p ? p->value : none(); }

/* Where there are adapters, the weights beside them are not trained. */
static bool frozen(const Model *m) { return m->params->adapters != NULL; }
static Tensor grad(const Model *m, const Param *p) { return p && !frozen(m) ? p->grad : none(); }

static float lora_scale(const Model *m)
{
    const Lora how = m->params->adapters->lora;
    return how.alpha / (float)how.rank;
}

/* GELU follows in an op of its own where an adapter adds to what it reads, and where that is kept of a product of int8,
 * which does not. */
static void linear(Model *m, Tensor out, Tensor pre, Tensor x, Pair p, Activation act)
{
    const bool int8 = !is_none(p.w->scale), apart = act == ACT_GELU && (p.lora_a || (int8 && !is_none(pre)));
    const Tensor sum = apart && !is_none(pre) ? pre : out;
    const Activation fused = apart ? ACT_NONE : act;
    if (int8) linear_int8_forward(m->dev, sum, x, value(p.w), p.w->scale, value(p.b), fused);
    else      linear_forward(m->dev, sum, apart ? none() : pre, x, value(p.w), value(p.b), fused);
    if (p.lora_a) lora_forward(m->dev, sum, x, value(p.lora_a), value(p.lora_b), lora_scale(m));
    if (apart) gelu_forward(m->dev, out, sum);
}

static void linear_back(Model *m, Tensor dx, Tensor dout, Tensor x, Pair p, Tensor pre, bool accumulate)
{
    const Tensor fused = p.lora_a ? none() : pre;
    if (!is_none(p.w->scale)) linear_int8_backward(m->dev, dx, dout, value(p.w), p.w->scale, fused);
    else linear_backward(m->dev, dx, grad(m, p.w), grad(m, p.b), dout, x, value(p.w), fused, accumulate);
    if (!p.lora_a) return;
    lora_backward(m->dev, dx, p.lora_a->grad, p.lora_b->grad, dout, x, value(p.lora_a), value(p.lora_b), lora_scale(m),
                  accumulate);
    if (!is_none(pre)) gelu_backward(m->dev, dx, dx, pre);
}

static void norm(Model *m, Tensor sum, Tensor out, Tensor mean, Tensor rstd, Tensor x, Tensor branch, Pair p)
{
    norm_forward(m->dev, sum, out, mean, rstd, x, branch, value(p.w), value(p.b), m->cfg.norm_eps);
}

static void norm_back(Model *m, Tensor dx, Tensor dout, Tensor dres, Tensor x, Tensor mean, Tensor rstd, Pair p,
                      bool accumulate)
{
    norm_backward(m->dev, dx, grad(m, p.w), grad(m, p.b), dout, dres, x, value(p.w), mean, rstd, accumulate);
}

static void finish_bucket(Model *m, int bucket)
{
    if (m->bucket_finished && !m->dev->measuring) m->bucket_finished(m->bucket_context, bucket);
}

/* ---------------------------------------------------------------------------------------------------- one block */

/* From ln_1's output to the MLP's hidden layer: what forward does, and backward does again when it was not kept. */
static void block_inside(Model *m, int l)
{
    const Config *c = &m->cfg;
    const LayerParams *w = &m->params->layer[l];
    Block *k = block_of(m, l);
    linear(m, rope(m) ? k->unturned : k->qkv, none(), k->n1, w->qkv, ACT_NONE);
    if (rope(m)) rope_forward(m->dev, k->qkv, k->unturned, m->pos, m->freq, value(w->q_norm), value(w->k_norm),
                              c->n_head, c->n_kv_head, c->norm_eps);
    if (m->cache) attention_cached(m->dev, k->att, m->cache->layer[l], k->qkv, m->cache->table, m->cache->start,
                                   m->cache->length, c->n_head, c->n_kv_head);
    else          attention_forward(m->dev, k->att, k->lse, k->qkv, m->first, c->n_head, c->n_kv_head);
    linear(m, m->branch, none(), k->att, w->proj, ACT_NONE);
    norm(m, k->mid, k->n2, k->mean2, k->rstd2, m->stream[l], m->branch, w->ln_2);
    if (swiglu(m)) {
        linear(m, k->pre, none(), k->n2, w->up, ACT_NONE);
        swiglu_forward(m->dev, k->act, k->pre);
    } else {
        linear(m, k->act, k->pre, k->n2, w->up, ACT_GELU);
    }
}

/* stream[l] = mid of the block before + its branch;  mid = stream[l] + attention(ln_1);  branch = mlp(ln_2(mid)) */
static void block_forward(Model *m, int l)
{
    const LayerParams *w = &m->params->layer[l];
    Block *k = block_of(m, l);
    if (l == 0) norm(m, none(), k->n1, k->mean1, k->rstd1, m->stream[0], none(), w->ln_1);
    else        norm(m, m->stream[l], k->n1, k->mean1, k->rstd1, block_of(m, l - 1)->mid, m->branch, w->ln_1);
    block_inside(m, l);
    linear(m, m->branch, none(), k->act, w->down, ACT_NONE);
}

/* On entry dx is the loss's slope by the block's output, on return by its input. */
static void block_backward(Model *m, int l, bool accumulate)
{
    const Config *c = &m->cfg;
    const LayerParams *w = &m->params->layer[l];
    Block *k = block_of(m, l);
    if (!keeps_all(m)) {
        norm(m, none(), k->n1, k->mean1, k->rstd1, m->stream[l], none(), w->ln_1);
        block_inside(m, l);
    }
    if (swiglu(m)) {
        linear_back(m, m->dact, m->dx, k->act, w->down, none(), accumulate);
        swiglu_backward(m->dev, m->dup, m->dact, k->pre);
    } else {
        linear_back(m, m->dup, m->dx, k->act, w->down, k->pre, accumulate);
    }
    linear_back(m, m->dn, m->dup, k->n2, w->up, none(), accumulate);
    norm_back(m, m->dx, m->dn, m->dx, k->mid, k->mean2, k->rstd2, w->ln_2, accumulate);

    linear_back(m, m->datt, m->dx, k->att, w->proj, none(), accumulate);
    attention_backward(m->dev, m->dqkv, m->datt, k->att, k->lse, k->qkv, m->first, c->n_head, c->n_kv_head);
    if (rope(m)) rope_backward(m->dev, m->dqkv, grad(m, w->q_norm), grad(m, w->k_norm), m->dqkv, k->unturned, m->pos,
                               m->freq, value(w->q_norm), value(w->k_norm), c->n_head, c->n_kv_head, c->norm_eps,
                               accumulate);
    linear_back(m, m->dn, m->dqkv, k->n1, w->qkv, none(), accumulate);
    norm_back(m, m->dx, m->dn, m->dx, m->stream[l], k->mean1, k->rstd1, w->ln_1, accumulate);
}

/* ---------------------------------------------------------------------------------------------------- the head */

/* Logits of rows of ln_f's output, at most head_rows */
static Tensor head_logits(Model *m, Tensor x)
{
    Tensor z = slice_rows(m->logits, 0, rows(x));
    linear(m, z, none(), x, m->params->head, ACT_NONE);
    return z;
}

static void head_backward(Model *m, Tensor z, int64_t begin, int64_t n, const Slopes *s, bool accumulate)
{
    Tensor dz = slice_rows(m->dlogits, 0, n);
    logprob_backward(m->dev, dz, z, slice_elements(m->dlogp, begin, n),
                     s->lse ? slice_elements(m->dlse, begin, n) : none(),
                     s->entropy ? slice_elements(m->dentropy, begin, n) : none(), slice_elements(m->lse, begin, n),
                     s->entropy ? slice_elements(m->entropy, begin, n) : none(),
                     slice_elements(m->targets, begin, n), m->cfg.vocab_size, m->temperature);
    linear_back(m, slice_rows(m->dn, begin, n), dz, slice_rows(m->xf, begin, n), m->params->head, none(), accumulate);
}

/* forward: fill logp, lse and, when asked, the entropy. s: also go back, chunk by chunk, leaving ln_f's slope in dn. */
static void lm_head(Model *m, bool forward, bool entropy, const Slopes *s, bool accumulate)
{
    const int64_t N = m->B * m->T;
    for (int64_t begin = 0; begin < N; begin += m->head_rows) {
        const int64_t n = N - begin < m->head_rows ? N - begin : m->head_rows;
        Tensor z = head_logits(m, slice_rows(m->xf, begin, n));
        if (forward)
            logprob_forward(m->dev, slice_elements(m->logp, begin, n), slice_elements(m->lse, begin, n),
                            entropy ? slice_elements(m->entropy, begin, n) : none(), z,
                            slice_elements(m->targets, begin, n), m->cfg.vocab_size, m->temperature);
        if (s) head_backward(m, z, begin, n, s, accumulate || begin > 0);
    }
}

static void scalar_head(Model *m, bool forward, const Slopes *s, bool accumulate)
{
    if (forward) linear(m, m->value, none(), m->xf, m->params->head, ACT_NONE);
    if (s) linear_back(m, m->dn, m->dvalue, m->xf, m->params->head, none(), accumulate);
}

void model_head(Model *m, bool forward, bool entropy, const Slopes *s, bool accumulate)
{
    if (m->cfg.head == HEAD_SCALAR) scalar_head(m, forward, s, accumulate);
    else                            lm_head(m, forward, entropy, s, accumulate);
}

/* ------------------------------------------------------------------------------------------------ through it all */

void model_trunk_forward(Model *m)
{
    const int L = m->cfg.n_layer;
    const Param *wte = m->params->wte.w;
    if (is_none(wte->scale)) embed_forward(m->dev, m->stream[0], m->tokens, m->pos, wte->value,
                                           value(m->params->wpe.w));
    else embed_int8_forward(m->dev, m->stream[0], m->tokens, m->pos, wte->value, wte->scale,
                            value(m->params->wpe.w));
    for (int l = 0; l < L; l++) block_forward(m, l);
    norm(m, m->stream[L], m->xf, m->meanf, m->rstdf, block_of(m, L - 1)->mid, m->branch, m->params->ln_f);
}

/* From dn, the slope by ln_f's output, down to the embeddings. Of adapters there is a bucket for each block and no
 * other. */
void model_trunk_backward(Model *m, bool accumulate)
{
    const int L = m->cfg.n_layer;
    const Params *p = m->params;
    norm_back(m, m->dx, m->dn, none(), m->stream[L], m->meanf, m->rstdf, p->ln_f, accumulate);
    if (!frozen(m)) finish_bucket(m, 0);
    for (int l = L - 1; l >= 0; l--) {
        block_backward(m, l, accumulate);
        finish_bucket(m, L - l - frozen(m));
    }
    if (frozen(m)) return;
    const bool head_wrote = p->head.w == p->wte.w;
    embed_backward(m->dev, grad(m, p->wte.w), m->dx, m->tokens, accumulate || head_wrote);
    if (p->wpe.w) embed_backward(m->dev, grad(m, p->wpe.w), m->dx, m->pos, accumulate);
    finish_bucket(m, L + 1);
}

/* ------------------------------------------------------------------------------------------ batches in, numbers out */

static void check_indices(const int32_t *x, int64_t n, int64_t T, int low, int high, const char *what,
                          const char *limit)
{
    for (int64_t i = 0; i < n; i++)
        CHECK(x[i] >= low && x[i] < high, "%s %d at row %lld, column %lld; wanted %d to %d (%s)", what, x[i],
              (long long)(i / T), (long long)(i % T), low, high - 1, limit);
}

static void check_batch(const Model *m, const Batch *b, bool train)
{
    CHECK(m->memory, "a batch before model_plan");
    CHECK(!train || m->plan.train, "a training pass on a plan without gradients");
    CHECK(b->B >= 1 && b->T >= 1 && b->B * b->T <= m->plan.B * m->plan.T && b->T <= m->cfg.max_seq_len,
          "a batch of %lld x %lld tokens; the plan has room for %lld x %lld and max_seq_len is %d",
          (long long)b->B, (long long)b->T, (long long)m->plan.B, (long long)m->plan.T, m->cfg.max_seq_len);
    const int64_t n = b->B * b->T, T = b->T;
    check_indices(b->tokens, n, T, 0, m->cfg.vocab_size, "token", "vocab_size");
    if (b->targets) check_indices(b->targets, n, T, -1, m->cfg.vocab_size, "target", "vocab_size");
    if (b->pos) check_indices(b->pos, n, T, 0, m->cfg.max_seq_len, "position", "max_seq_len");
    for (int64_t i = 0; b->first && i < n; i++)
        CHECK(b->first[i] >= (i % T ? b->first[i - 1] : 0) && b->first[i] <= i % T,
              "first visible key %d at row %lld, column %lld; wanted no less than the one before it, and no more than "
              "its own column", b->first[i], (long long)(i / T), (long long)(i % T));
}

static void upload_index(Model *m, Tensor to, const int32_t *from, bool columns, int32_t otherwise)
{
    if (!from) {
        for (int64_t i = 0; i < m->B * m->T; i++) m->host_index[i] = columns ? (int32_t)(i % m->T) : otherwise;
        from = m->host_index;
    }
    device_upload(m->dev, to, from);
}

static void take_batch(Model *m, const Batch *b, bool train)
{
    check_batch(m, b, train);
    model_carve(m, b->B, b->T, train);
    device_upload(m->dev, m->tokens, b->tokens);
    upload_index(m, m->targets, b->targets, false, -1);
    upload_index(m, m->pos, b->pos, true, 0);
    upload_index(m, m->first, b->first, false, 0);
}

static void take_slopes(Model *m, const Slopes *s)
{
    if (m->cfg.head == HEAD_SCALAR) {
        float *f = m->host_value;
        for (int64_t i = 0; i < m->B * m->T; i++) {
            const float slope = s->value ? s->value[i] : 0;
            if (m->dtype == DT_F32) f[i] = slope;
            else                    ((uint16_t *)m->host_value)[i] = f32_to_bf16(slope);
        }
        device_upload(m->dev, m->dvalue, m->host_value);
        return;
    }
    if (s->logp)    device_upload(m->dev, m->dlogp, s->logp);
    else            device_zero(m->dev, m->dlogp);
    if (s->lse)     device_upload(m->dev, m->dlse, s->lse);
    if (s->entropy) device_upload(m->dev, m->dentropy, s->entropy);
}

static void give_numbers(Model *m, const Numbers *out)
{
    const bool scalar = m->cfg.head == HEAD_SCALAR;
    if (out->value && scalar)    device_download(m->dev, out->value, m->value);
    if (out->logp && !scalar)    device_download(m->dev, out->logp, m->logp);
    if (out->lse && !scalar)     device_download(m->dev, out->lse, m->lse);
    if (out->entropy && !scalar) device_download(m->dev, out->entropy, m->entropy);
}

static bool asks_anything(const Numbers *out) { return out->logp || out->lse || out->entropy || out->value; }

void model_score(Model *m, const Batch *b, const Numbers *out)
{
    take_batch(m, b, false);
    model_trunk_forward(m);
    if (asks_anything(out)) model_head(m, true, out->entropy, NULL, false);
    give_numbers(m, out);
}

/* The entropy is kept in any case: a slope of it may come. */
void model_forward(Model *m, const Batch *b, const Numbers *out)
{
    take_batch(m, b, true);
    model_trunk_forward(m);
    model_head(m, true, true, NULL, false);
    give_numbers(m, out);
}

void model_backward(Model *m, const Slopes *slopes, bool accumulate)
{
    CHECK(m->train && m->B, "model_backward without a model_forward before it");
    take_slopes(m, slopes);
    model_head(m, false, false, slopes, accumulate);
    model_trunk_backward(m, accumulate);
}

void model_train(Model *m, const Batch *b, const Slopes *slopes, const Numbers *out, bool accumulate)
{
    take_batch(m, b, true);
    take_slopes(m, slopes);
    model_trunk_forward(m);
    model_head(m, true, out->entropy || slopes->entropy, slopes, accumulate);
    model_trunk_backward(m, accumulate);
    give_numbers(m, out);
}

void model_download_logits(Model *m, Tensor x, float *logits)
{
    const int64_t vocab = m->cfg.vocab_size, count = rows(x);
    for (int64_t done = 0; done < count; ) {
        const int64_t n = count - done < m->head_rows ? count - done : m->head_rows;
        Tensor z = head_logits(m, slice_rows(x, done, n));
        device_download_columns(m->dev, logits + done * vocab, z, vocab);
        done += n;
    }
}

void model_logits(Model *m, int64_t begin, int64_t count, float *logits)
{
    const int64_t N = m->B * m->T;
    CHECK(m->cfg.head == HEAD_LM, "logits of a model with a scalar head");
    CHECK(N, "logits without a pass before them");
    CHECK(begin >= 0 && count >= 0 && begin + count <= N, "logits of positions %lld to %lld; the batch has %lld",
          (long long)begin, (long long)(begin + count), (long long)N);
    model_download_logits(m, slice_rows(m->xf, begin, count), logits);
}

/* ---------------------------------------------------------------------------------------------------- what broke */

static bool all_finite(Model *m, Tensor t)
{
    const int64_t n = numel(t);
    void *host AUTO(auto_free) = xcalloc((size_t)n, dtype_size(t.dtype), "a look at activations");
    device_download(m->dev, host, t);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(t.dtype == DT_F32 ? ((float *)host)[i] : bf16_to_f32(((uint16_t *)host)[i]))) return false;
    return true;
}

const char *model_first_nonfinite(Model *m)
{
    static _Thread_local char name[32];
    const int L = m->cfg.n_layer;
    if (!m->train || !m->B) return NULL;
    if (!all_finite(m, m->stream[0])) return m->params->wpe.w ? "wte + wpe" : "wte";
    for (int l = 0; l < L; l++) {
        if (all_finite(m, m->stream[l + 1])) continue;
        __builtin_snprintf(name, sizeof name, "h.%d", l);
        return name;
    }
    if (!all_finite(m, m->xf)) return "ln_f";
    return all_finite(m, m->cfg.head == HEAD_SCALAR ? m->value : m->lse) ? NULL : "the head";
}
