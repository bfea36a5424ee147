/* trainer_store.c -- weights and optimizer state to and from a checkpoint folder. See trainer.h. */
#include "files.h"
#include "quantize.h"
#include "safetensors.h"
#include "store.h"
#include "trainer_impl.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNK = 1 << 20 };           /* elements on the host at a time */

static const char *const state_group[] = {
    [STATE_EXP_AVG] = "exp_avg", [STATE_EXP_AVG_SQ] = "exp_avg_sq", [STATE_MOMENTUM] = "momentum",
    [STATE_MASTER] = "master"
};
static const char *const optimizer_names[] = { [OPTIMIZER_ADAMW] = "adamw", [OPTIMIZER_MUON] = "muon" };

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static void put_tensor(SafetensorsWriter *w, int64_t index, Device *d, Tensor t, void *host)
{
    const int64_t width = (int64_t)dtype_size(t.dtype);
    for (int64_t begin = 0; begin < numel(t); begin += CHUNK) {
        const int64_t n = least(CHUNK, numel(t) - begin);
        device_download(d, host, slice_elements(t, begin, n));
        safetensors_put(w, index, begin * width, host, n * width);
    }
}

/* -------------------------------------------------------------------------------------------------------- weights */

void params_save(Params *p, const char *path)
{
    CHECK(p->values, "%s: the model has no weights yet; draw or load some before saving", path);
    Tensor *list AUTO(auto_free) = xcalloc((size_t)p->count * 2, sizeof *list, "a list of parameters");
    void *host AUTO(auto_free) = xcalloc(CHUNK, sizeof(float), "weights on their way to a file");
    int count = 0;
    for (int i = 0; i < p->count; i++) {
        list[count++] = p->list[i].value;
        if (!is_none(p->list[i].scale)) list[count++] = p->list[i].scale;
    }
    char *rank AUTO(auto_free) = text_format("%d", p->lora.rank);
    char *alpha AUTO(auto_free) = text_format("%.9g", (double)p->lora.alpha);
    char *matrices AUTO(auto_free) = lora_matrices(p->lora.matrices);
    const char *const about[] = { "format", "llmc", p->lora.rank ? "rank" : NULL, rank, "alpha", alpha,
                                  "matrices", matrices, NULL };
    SafetensorsWriter *w AUTO(safetensors_discard) = safetensors_create(path, list, count, about);
    for (int i = 0; i < count; i++) put_tensor(w, i, p->device, list[i], host);
    safetensors_finish(&w);
}

static void check_shape(const char *path, Tensor found, Tensor wanted, const char *types)
{
    bool same = found.ndim == wanted.ndim;
    for (int i = 0; same && i < wanted.ndim; i++) same = found.dim[i] == wanted.dim[i];
    CHECK(same, "%s: %s is %s of %lld x %lld, wanted %s of %lld x %lld", path, found.name, dtype_name(found.dtype),
          (long long)found.dim[0], (long long)(found.ndim > 1 ? found.dim[1] : 1), types, (long long)wanted.dim[0],
          (long long)(wanted.ndim > 1 ? wanted.dim[1] : 1));
}

/* A parameter as it lies in a file; scale is none() unless it is int8 there. */
typedef struct Stored { Tensor value, scale; } Stored;

static Stored stored_param(const Safetensors *file, const char *path, const Param *p)
{
    const Tensor wanted = p->value;
    Stored s = { safetensors_get(file, wanted.name), none() };
    check_shape(path, s.value, wanted, "f32 or bf16");
    if (s.value.dtype == DT_I8 && wanted.ndim == 2) {
        char *name AUTO(auto_free) = text_format("%s.scale", wanted.name);
        s.scale = safetensors_get(file, name);
        check_shape(path, s.scale, (Tensor){ NULL, NULL, DT_F32, 2, { wanted.dim[0], quant_groups(wanted.dim[1]) } },
                    "f32");
        CHECK(s.scale.dtype == DT_F32, "%s: %s is %s, wanted f32", path, s.scale.name, dtype_name(s.scale.dtype));
    } else
        CHECK(s.value.dtype == DT_F32 || s.value.dtype == DT_BF16, "%s: %s is %s, wanted f32 or bf16", path,
              s.value.name, dtype_name(s.value.dtype));
    return s;
}

/* A name is a parameter's, or that of the scale beside one of int8. */
static bool is_known(Params *p, const Safetensors *file, const char *name)
{
    if (params_find(p, name)) return true;
    const char *end = strrchr(name, '.');
    if (!end || strcmp(end, ".scale")) return false;
    char *weight AUTO(auto_free) = text_format("%.*s", (int)(end - name), name);
    return params_find(p, weight) && safetensors_get(file, weight).dtype == DT_I8;
}

/* Elements begin .. of what is stored, as f32; of int8, whole rows */
static void as_f32(float *to, Stored from, int64_t begin, int64_t n)
{
    const void *data = slice_elements(from.value, begin, n).data;
    const int64_t width = last(from.value);
    switch (from.value.dtype) {
    case DT_F32: memcpy(to, data, (size_t)n * sizeof *to); break;
    case DT_I8:  dequantize(to, data, (const float *)from.scale.data + begin / width * last(from.scale), n / width,
                            width); break;
    default:     for (int64_t i = 0; i < n; i++) to[i] = bf16_to_f32(((const uint16_t *)data)[i]);
    }
}

static void load_param(Params *all, const Param *p, Stored from)
{
    if (from.value.dtype == p->value.dtype) {
        device_upload(all->device, p->value, from.value.data);
        if (!is_none(p->scale)) device_upload(all->device, p->scale, from.scale.data);
        return;
    }
    const int64_t chunk = params_chunk(p), total = numel(p->value);
    float *host AUTO(auto_free) = xcalloc((size_t)chunk, sizeof *host, "weights on their way from a file");
    for (int64_t begin = 0; begin < total; begin += chunk) {
        const int64_t n = least(chunk, total - begin);
        as_f32(host, from, begin, n);
        params_put(all, p, begin, n, host);
    }
}

/* Everything is checked before the first weight changes. */
void params_load(Params *p, const char *path)
{
    Safetensors *file AUTO(safetensors_close) = safetensors_open(path);
    for (int i = 0; i < p->count; i++) stored_param(file, path, &p->list[i]);
    for (int64_t i = 0; i < safetensors_count(file); i++)
        CHECK(is_known(p, file, safetensors_name(file, i)), "%s: it holds %s, which this model has not",
              path, safetensors_name(file, i));
    params_allocate(p, false);
    for (int i = 0; i < p->count; i++) load_param(p, &p->list[i], stored_param(file, path, &p->list[i]));
}

/* -------------------------------------------------------------------------------------------------- optimizer state */

/* The tensors of this rank's file: each kind of state, each parameter's owned part. */
static int64_t list_state(const Trainer *t, Tensor *list)
{
    int64_t n = 0;
    for (int kind = 0; kind < STATE_KINDS; kind++)
        for (int i = 0; i < t->params->count; i++) {
            const Param *p = &t->params->list[i];
            int64_t begin, end;
            params_owned(t->params, p, t->rank, &begin, &end);
            if (begin == end) continue;
            list[n] = trainer_owned_state(t, kind, p, begin, end);
            if (is_none(list[n])) continue;
            list[n++].name = optimizer_name(state_group[kind], p->value.name, begin, end);
        }
    return n;
}

typedef struct { Tensor *list; int64_t n; } StateList;

static void free_state_list(StateList *s)
{
    for (int64_t i = 0; i < s->n; i++) free((char *)s->list[i].name);
    free(s->list);
}

/* The file in a folder that holds what was trained; free it. */
static char *trained_path(const char *folder, bool adapters)
{
    return text_format("%s/%s.safetensors", folder, adapters ? "adapter" : "model");
}

void trainer_save(Trainer *t, const char *folder)
{
    char *weights AUTO(auto_free) = trained_path(folder, t->params->lora.rank);
    char *path AUTO(auto_free) = optimizer_path(folder, t->rank, t->params->ranks);
    void *host AUTO(auto_free) = xcalloc(CHUNK, sizeof(float), "optimizer state on its way to a file");
    StateList state AUTO(free_state_list) =
        { xcalloc((size_t)(STATE_KINDS * t->params->count), sizeof(Tensor), "a list of tensors"), 0 };
    if (t->rank == 0) params_save(t->params, weights);
    state.n = list_state(t, state.list);
    const char *const about[] = { "optimizer", optimizer_names[t->config.optimizer], "masters",
                                  trainer_keeps_masters(t->params, &t->config) ? "f32" : "none", NULL };
    SafetensorsWriter *w AUTO(safetensors_discard) = safetensors_create(path, state.list, state.n, about);
    for (int64_t i = 0; i < state.n; i++) put_tensor(w, i, t->device, state.list[i], host);
    safetensors_finish(&w);
}

/* What the adapters in a file are */
static Lora lora_of(const Safetensors *file, const char *path)
{
    const char *rank = safetensors_metadata(file, "rank"), *alpha = safetensors_metadata(file, "alpha");
    const char *matrices = safetensors_metadata(file, "matrices");
    CHECK(rank && alpha && matrices, "%s: it does not say the rank, the alpha and the matrices of its adapters", path);
    Lora how = { .rank = (int)strtol(rank, NULL, 10), .alpha = strtof(alpha, NULL) };
    char *names AUTO(auto_free) = text_format("%s", matrices), *rest = names;
    for (const char *name; (name = strsep(&rest, " "));) how.matrices |= lora_matrix(name);
    return how;
}

TrainedAs trainer_trained_as(const char *folder)
{
    char *adapter AUTO(auto_free) = trained_path(folder, true);
    const bool adapters = path_exists(adapter);
    char *weights AUTO(auto_free) = trained_path(folder, adapters);
    Safetensors *model AUTO(safetensors_close) = safetensors_open(weights);
    OptimizerFiles *files AUTO(optimizer_close) = optimizer_open(folder);
    const char *written = optimizer_metadata(files, "optimizer"), *masters = optimizer_metadata(files, "masters");
    const bool adamw = !written || !strcmp(written, optimizer_names[OPTIMIZER_ADAMW]);
    CHECK(adamw || !strcmp(written, optimizer_names[OPTIMIZER_MUON]), "%s: trained with %s; wanted adamw or muon",
          folder, written);
    CHECK(safetensors_count(model), "%s: holds no weights", weights);
    const DType dtype = safetensors_tensor(model, 0).dtype;
    return (TrainedAs){ dtype, adamw ? OPTIMIZER_ADAMW : OPTIMIZER_MUON,
                        masters ? !strcmp(masters, "f32") : dtype == DT_BF16,       /* older files do not say */
                        adapters ? lora_of(model, weights) : (Lora){0} };
}

/* in words; free it */
static char *lora_text(Lora how)
{
    if (!how.rank) return text_format("all weights");
    char *matrices AUTO(auto_free) = lora_matrices(how.matrices);
    return text_format("adapters of rank %d and alpha %g for %s", how.rank, (double)how.alpha, matrices);
}

void trainer_check(const Trainer *t, const char *folder, TrainedAs was)
{
    const DType dtype = t->params->dtype;
    const OptimizerKind optimizer = t->config.optimizer;
    const Lora lora = t->params->lora;
    char *then AUTO(auto_free) = lora_text(was.lora), *now AUTO(auto_free) = lora_text(lora);
    CHECK(!strcmp(then, now), "%s: %s were trained there, but now %s would be; ask for the same when resuming", folder,
          then, now);
    CHECK(was.dtype == dtype, "%s: trained in %s, but --dtype is %s; leave --dtype out when resuming", folder,
          dtype_name(was.dtype), dtype_name(dtype));
    CHECK(was.optimizer == optimizer, "%s: trained with %s, but --optimizer is %s; leave --optimizer out when resuming",
          folder, optimizer_names[was.optimizer], optimizer_names[optimizer]);
    CHECK(was.masters == trainer_keeps_masters(t->params, &t->config),
          "%s: trained with%s f32 masters of its weights, but --%smaster_weights is given; leave it out when resuming",
          folder, was.masters ? "" : "out", was.masters ? "no-" : "");
}

void trainer_load(Trainer *t, const char *folder, int64_t updates)
{
    char *weights AUTO(auto_free) = trained_path(folder, t->params->lora.rank);
    OptimizerFiles *files AUTO(optimizer_close) = optimizer_open(folder);
    void *host AUTO(auto_free) = xcalloc(CHUNK, sizeof(float), "optimizer state on its way from a file");
    params_load(t->params, weights);
    for (int kind = 0; kind < STATE_KINDS; kind++)
        for (int i = 0; i < t->params->count; i++) {
            const Param *p = &t->params->list[i];
            int64_t begin, end;
            params_owned(t->params, p, t->rank, &begin, &end);
            if (begin == end || is_none(trainer_owned_state(t, kind, p, begin, end))) continue;
            for (int64_t at = begin; at < end; at += CHUNK) {
                const int64_t n = least(CHUNK, end - at);
                optimizer_read(files, state_group[kind], p->value.name, at, at + n, host);
                device_upload(t->device, trainer_owned_state(t, kind, p, at, at + n), host);
            }
        }
    t->updates = updates;
}
