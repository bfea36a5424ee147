/* config.h -- what a model is: GPT-2, Llama and Qwen are values of one Config. Every field is described once, in the
 * table of config.c; JSON files, command-line flags, Python and error messages are all made from that table. */
#ifndef LLMC_CONFIG_H
#define LLMC_CONFIG_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { NORM_LAYER, NORM_RMS } NormKind;
typedef enum { POSITION_LEARNED, POSITION_ROPE } PositionKind;
typedef enum { MLP_GELU, MLP_SWIGLU } MlpKind;
typedef enum { HEAD_LM, HEAD_SCALAR } HeadKind;
typedef enum { ROPE_PLAIN, ROPE_LINEAR, ROPE_LLAMA3 } RopeScaling;

/* Integers (also the kinds and the flags, so that one table can reach every field) and floats. */
typedef struct Config {
    int vocab_size, padded_vocab_size, max_seq_len;
    int n_layer, n_embd, n_head, n_kv_head, head_dim, n_ff;
    int norm, position, mlp, head;      /* NormKind, PositionKind, MlpKind, HeadKind */
    int bias, tied;                     /* biases in linear layers and LayerNorm; lm_head is wte */
    int qkv_bias;                       /* a bias on q, k and v, whatever `bias` says of the other layers */
    int qk_norm;                        /* RMSNorm of every q and k head, before RoPE */
    int rope_scaling;                   /* RopeScaling; the rest are its numbers, see config_rope_freq */
    int rope_original_max_seq_len;
    float rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    float norm_eps, rope_theta;
} Config;

typedef enum { FIELD_INT, FIELD_BOOL, FIELD_CHOICE, FIELD_FLOAT } FieldType;

typedef struct ConfigField {
    const char *name, *help;
    FieldType   type;
    size_t      offset;
    const char *choices;                /* FIELD_CHOICE: the names of values 0, 1, …, separated by spaces */
    bool        optional;               /* a config.json may leave it out: 0, what models are that never had it */
} ConfigField;

const ConfigField *config_fields(int *count);
int config_choice_index(const ConfigField *f, const char *name);    /* fails for a name that is none of the choices */

Config      config_preset(const char *name);    /* fails for an unknown name, listing the known ones */
const char *config_presets(void);               /* their names, separated by spaces */

/* Fills the fields that are 0 and follow from others or have a usual value: n_kv_head, head_dim, n_ff, … */
void config_complete(Config *c);
/* Fails with a sentence when the model is impossible. */
void config_check(const Config *c);

/* What RoPE turns pair i of a head by, a position: rope_theta^(-2i / head_dim), scaled. */
double  config_rope_freq(const Config *c, int i);

int64_t config_param_count(const Config *c);                    /* padding of the vocabulary not counted */
double  config_train_flops(const Config *c, int64_t T);         /* of one token, forward and backward: 6N + 12LCT,
                                                                 * N without wpe */

/* config.json. Reading fails with the file's name for unknown, missing and impossible values. */
Config config_read(const char *path);
char  *config_to_json(const Config *c);                         /* free it */

#ifdef __cplusplus
}
#endif
#endif
