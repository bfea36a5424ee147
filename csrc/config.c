/* config.c -- see config.h */
#include "config.h"
#include "json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define AT(field) offsetof(Config, field)

static const ConfigField fields[] = {
    { "vocab_size",        "symbols of the tokenizer",
                           FIELD_INT,    AT(vocab_size), NULL, false },
    { "padded_vocab_size", "rows of wte; 0: vocab_size rounded up to 128",
                           FIELD_INT,    AT(padded_vocab_size), NULL, false },
    { "max_seq_len",       "longest context, in tokens",
                           FIELD_INT,    AT(max_seq_len), NULL, false },
    { "n_layer",           "transformer blocks",
                           FIELD_INT,    AT(n_layer), NULL, false },
    { "n_embd",            "width of the residual stream",
                           FIELD_INT,    AT(n_embd), NULL, false },
    { "n_head",            "query heads",
                           FIELD_INT,    AT(n_head), NULL, false },
    { "n_kv_head",         "key/value heads; 0: n_head",
                           FIELD_INT,    AT(n_kv_head), NULL, false },
    { "head_dim",          "width of a head; 0: n_embd / n_head",
                           FIELD_INT,    AT(head_dim), NULL, false },
    { "n_ff",              "hidden width of the MLP; 0: 4 n_embd, or 8/3 n_embd for swiglu",
                           FIELD_INT,    AT(n_ff), NULL, false },
    { "norm",              "normalisation",
                           FIELD_CHOICE, AT(norm), "layernorm rmsnorm", false },
    { "position",          "how a token knows its place",
                           FIELD_CHOICE, AT(position), "learned rope", false },
    { "mlp",               "the MLP's nonlinearity",
                           FIELD_CHOICE, AT(mlp), "gelu swiglu", false },
    { "head",              "what a position yields: log p(target), or a value",
                           FIELD_CHOICE, AT(head), "lm scalar", false },
    { "bias",              "biases in linear layers and LayerNorm",
                           FIELD_BOOL,   AT(bias), NULL, false },
    { "tied",              "lm_head is wte",
                           FIELD_BOOL,   AT(tied), NULL, false },
    { "norm_eps",          "epsilon of the normalisation",
                           FIELD_FLOAT,  AT(norm_eps), NULL, false },
    { "rope_theta",        "base of RoPE's wavelengths",
                           FIELD_FLOAT,  AT(rope_theta), NULL, false },
    { "qkv_bias",          "biases on q, k and v, also where the other layers have none",
                           FIELD_BOOL,   AT(qkv_bias), NULL, .optional = true },
    { "qk_norm",           "RMSNorm of every q and k head, before RoPE",
                           FIELD_BOOL,   AT(qk_norm), NULL, .optional = true },
    { "rope_scaling",      "how RoPE reaches a context longer than the one first learned",
                           FIELD_CHOICE, AT(rope_scaling), "none linear llama3", .optional = true },
    { "rope_factor",       "how many times longer: what rope_scaling divides frequencies by",
                           FIELD_FLOAT,  AT(rope_factor), NULL, .optional = true },
    { "rope_low_freq_factor", "llama3: pairs with fewer turns in the first context are divided; 0: 1",
                           FIELD_FLOAT,  AT(rope_low_freq_factor), NULL, .optional = true },
    { "rope_high_freq_factor", "llama3: pairs with more turns there are left alone; 0: 4",
                           FIELD_FLOAT,  AT(rope_high_freq_factor), NULL, .optional = true },
    { "rope_original_max_seq_len", "llama3: that first context; 0: 8192",
                           FIELD_INT,    AT(rope_original_max_seq_len), NULL, .optional = true },
};

const ConfigField *config_fields(int *count)
{
    *count = (int)COUNT_OF(fields);
    return fields;
}

int config_choice_index(const ConfigField *f, const char *name)
{
    int index = 0;
    for (const char *at = f->choices; *at; index++) {
        const size_t length = strcspn(at, " ");
        if (strlen(name) == length && !strncmp(at, name, length)) return index;
        at += length + (at[length] == ' ');
    }
    FAIL("%s is %s, wanted one of: %s", f->name, name, f->choices);
}

/* ------------------------------------------------------------------------------------------------------- presets */

#define GPT2(L, C, H) { .vocab_size = 50257, .max_seq_len = 1024, .n_layer = L, .n_embd = C, .n_head = H, \
                        .bias = 1, .tied = 1, .norm_eps = 1e-5f }
#define LLAMA(L, C, H, G) { .vocab_size = 32000, .max_seq_len = 1024, .n_layer = L, .n_embd = C, .n_head = H, \
                            .n_kv_head = G, .norm = NORM_RMS, .position = POSITION_ROPE, .mlp = MLP_SWIGLU, \
                            .norm_eps = 1e-5f, .rope_theta = 10000 }

static const struct { const char *name; Config c; } presets[] = {
    { "gpt2",        GPT2(12, 768, 12) },       /* 124M */
    { "gpt2-medium", GPT2(24, 1024, 16) },      /* 350M */
    { "gpt2-large",  GPT2(36, 1280, 20) },      /* 774M */
    { "gpt2-xl",     GPT2(48, 1600, 25) },      /* 1,558M */
    { "gpt2-tiny",   GPT2(4, 128, 4) },
    { "llama-tiny",  LLAMA(4, 128, 4, 2) },
    { "llama-small", LLAMA(6, 288, 6, 6) },
    { "llama-110m",  LLAMA(12, 768, 12, 12) },
};

const char *config_presets(void)
{
    static _Thread_local char list[256];
    list[0] = 0;
    for (size_t i = 0; i < COUNT_OF(presets); i++) {
        if (i) strcat(list, " ");
        strcat(list, presets[i].name);
    }
    return list;
}

Config config_preset(const char *name)
{
    for (size_t i = 0; i < COUNT_OF(presets); i++)
        if (!strcmp(presets[i].name, name)) return presets[i].c;
    FAIL("preset %s is unknown; the presets are: %s", name, config_presets());
}

/* ------------------------------------------------------------------------------------------------- derived, checked */

static int round_up(int x, int to) { return (x + to - 1) / to * to; }

void config_complete(Config *c)
{
    if (!c->padded_vocab_size && c->vocab_size > 0 && c->vocab_size < 1 << 30)
        c->padded_vocab_size = round_up(c->vocab_size, 128);
    if (!c->n_kv_head) c->n_kv_head = c->n_head;
    if (!c->head_dim && c->n_head > 0) {
        CHECK(c->n_embd % c->n_head == 0, "n_embd %d is not divisible by n_head %d; change one, or give head_dim",
              c->n_embd, c->n_head);
        c->head_dim = c->n_embd / c->n_head;
    }
    if (!c->n_ff && c->n_embd < 1 << 26)
        c->n_ff = c->mlp == MLP_SWIGLU ? round_up(c->n_embd * 8 / 3, 32) : 4 * c->n_embd;
    if (!c->rope_theta) c->rope_theta = 10000;
    if (!c->norm_eps) c->norm_eps = 1e-5f;
    if (c->rope_scaling == ROPE_LLAMA3) {
        if (!c->rope_low_freq_factor) c->rope_low_freq_factor = 1;
        if (!c->rope_high_freq_factor) c->rope_high_freq_factor = 4;
        if (!c->rope_original_max_seq_len) c->rope_original_max_seq_len = 8192;
    }
}

void config_check(const Config *c)
{
    const struct { const char *name; int value, low, high; } bounds[] = {
        { "vocab_size", c->vocab_size, 1, 1 << 28 },     { "max_seq_len", c->max_seq_len, 1, 1 << 24 },
        { "n_layer", c->n_layer, 1, 4096 },              { "n_embd", c->n_embd, 1, 1 << 20 },
        { "n_head", c->n_head, 1, 1 << 14 },             { "n_kv_head", c->n_kv_head, 1, 1 << 14 },
        { "head_dim", c->head_dim, 1, 1 << 14 },         { "n_ff", c->n_ff, 1, 1 << 22 },
    };
    for (size_t i = 0; i < COUNT_OF(bounds); i++)
        CHECK(bounds[i].value >= bounds[i].low && bounds[i].value <= bounds[i].high, "%s is %d, wanted %d to %d",
              bounds[i].name, bounds[i].value, bounds[i].low, bounds[i].high);
    CHECK(c->padded_vocab_size >= c->vocab_size && c->padded_vocab_size <= 1 << 28,
          "padded_vocab_size is %d, wanted %d (vocab_size) or more", c->padded_vocab_size, c->vocab_size);
    CHECK(c->n_head % c->n_kv_head == 0, "n_head %d is not divisible by n_kv_head %d", c->n_head, c->n_kv_head);
    CHECK(c->position != POSITION_ROPE || c->head_dim % 2 == 0,
          "head_dim is %d; RoPE turns pairs, so it must be even", c->head_dim);
    CHECK(c->position == POSITION_ROPE || !c->qk_norm, "qk_norm without RoPE; set position to rope");
    CHECK(c->norm_eps > 0 && c->norm_eps < 1, "norm_eps is %g, wanted more than 0 and less than 1",
          (double)c->norm_eps);
    CHECK(c->rope_theta > 1, "rope_theta is %g, wanted more than 1", (double)c->rope_theta);
    CHECK(c->rope_scaling == ROPE_PLAIN || (c->rope_factor >= 1 && c->rope_factor <= 1e6f),
          "rope_factor is %g; rope_scaling wants 1 to 1e6", (double)c->rope_factor);
    if (c->rope_scaling == ROPE_LLAMA3) {
        CHECK(c->rope_low_freq_factor > 0 && c->rope_high_freq_factor > c->rope_low_freq_factor,
              "rope_low_freq_factor is %g and rope_high_freq_factor %g, wanted more than 0 and more than that",
              (double)c->rope_low_freq_factor, (double)c->rope_high_freq_factor);
        CHECK(c->rope_original_max_seq_len > 0, "rope_original_max_seq_len is %d, wanted 1 or more",
              c->rope_original_max_seq_len);
    }
    CHECK(c->head == HEAD_LM || !c->tied, "a scalar head cannot be tied to wte; set tied to false");
}

/* llama3: pairs that turn seldom in the first context are slowed down, those that turn often keep their speed, and
 * between the two it goes over from one to the other (Llama 3.1, 2024). */
double config_rope_freq(const Config *c, int i)
{
    const double freq = pow(c->rope_theta, -2.0 * i / c->head_dim), low = c->rope_low_freq_factor;
    if (c->rope_scaling == ROPE_PLAIN) return freq;
    if (c->rope_scaling == ROPE_LINEAR) return freq / c->rope_factor;
    const double turns = c->rope_original_max_seq_len * freq / (2 * 3.14159265358979323846);
    const double kept = fmin(1, fmax(0, (turns - low) / (c->rope_high_freq_factor - low)));
    return freq * (kept + (1 - kept) / c->rope_factor);
}

int64_t config_param_count(const Config *c)
{
    const int64_t C = c->n_embd, P = (int64_t)(c->n_head + 2 * c->n_kv_head) * c->head_dim,
                  HD = (int64_t)c->n_head * c->head_dim;
    const int64_t up = (int64_t)c->n_ff * (c->mlp == MLP_SWIGLU ? 2 : 1), F = c->n_ff, V = c->vocab_size;
    const int64_t norm = C * (c->norm == NORM_LAYER && c->bias ? 2 : 1);
    const int64_t block = 2 * norm + C * (P + HD + up + F) + (c->bias ? C + up + C : 0)
                        + (c->bias || c->qkv_bias ? P : 0) + (c->qk_norm ? 2 * c->head_dim : 0);
    return V * C + (c->position == POSITION_LEARNED ? c->max_seq_len * C : 0) + c->n_layer * block + norm
         + (c->head == HEAD_SCALAR ? C : c->tied ? 0 : V * C);
}

double config_train_flops(const Config *c, int64_t T)
{
    int64_t n = config_param_count(c);
    if (c->position == POSITION_LEARNED) n -= (int64_t)c->max_seq_len * c->n_embd;
    if (!c->tied) n -= (int64_t)c->vocab_size * c->n_embd;          /* an untied wte is only looked up */
    return 6.0 * (double)n + 12.0 * c->n_layer * (double)(c->n_head * c->head_dim) * (double)T;
}

/* ---------------------------------------------------------------------------------------------------------- JSON */

static const char *choice_name(const ConfigField *f, int index, char *to, size_t size)
{
    const char *at = f->choices;
    for (; index > 0; index--) at += strcspn(at, " ") + 1;
    snprintf(to, size, "%.*s", (int)strcspn(at, " "), at);
    return to;
}

char *config_to_json(const Config *c)
{
    JsonText out = { .pretty = true };
    json_begin_object(&out);
    for (size_t i = 0; i < COUNT_OF(fields); i++) {
        const ConfigField *f = &fields[i];
        const void *at = (const char *)c + f->offset;
        char name[32];
        json_key(&out, f->name);
        switch (f->type) {
        case FIELD_INT:    json_put_int(&out, *(const int *)at); break;
        case FIELD_BOOL:   json_put_bool(&out, *(const int *)at); break;
        case FIELD_CHOICE: json_put_string(&out, choice_name(f, *(const int *)at, name, sizeof name)); break;
        case FIELD_FLOAT:  json_put_double(&out, *(const float *)at); break;
        }
    }
    json_end(&out);
    return out.text;
}

static const ConfigField *field_named(const char *name)
{
    for (size_t i = 0; i < COUNT_OF(fields); i++)
        if (!strcmp(fields[i].name, name)) return &fields[i];
    return NULL;
}

static int int_in_range(Json v)
{
    const int64_t n = json_int(v);
    if (n < 0 || n > 1 << 28) json_fail(v, "a whole number from 0 to %d", 1 << 28);
    return (int)n;
}

Config config_read(const char *path)
{
    JsonFile *file AUTO(json_free) = json_read(path);
    const Json root = json_root(file);
    Config c = {0};
    for (JsonEach each = json_each(root); json_next(&each);)
        if (!field_named(each.key)) json_fail(each.value, "only fields this version knows");
    for (size_t i = 0; i < COUNT_OF(fields); i++) {
        if (fields[i].optional && !json_find(root, fields[i].name).at) continue;
        const Json v = json_get(root, fields[i].name);
        void *at = (char *)&c + fields[i].offset;
        switch (fields[i].type) {
        case FIELD_INT:    *(int *)at = int_in_range(v); break;
        case FIELD_BOOL:   *(int *)at = json_bool(v); break;
        case FIELD_CHOICE: *(int *)at = config_choice_index(&fields[i], json_string(v)); break;
        case FIELD_FLOAT:  *(float *)at = (float)json_double(v); break;
        }
    }
    config_check(&c);
    return c;
}
