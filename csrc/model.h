/* model.h -- one transformer, GPT-2, Llama or Qwen by its Config, on any Device.
 *
 * The model is a function from tokens to a few numbers for each position: under the language head log p(target), the
 * log-sum-exp of the logits and the entropy; under the scalar head a value. A loss is whatever the caller makes of
 * those B*T numbers; its slope by each of them comes back through model_backward. Pre-training, SFT, policy gradients,
 * DPO and reward models differ only in those slopes.
 *
 * Three ways through it:
 *   model_score                       numbers only, in little memory
 *   model_train                       slopes known beforehand: forward and backward, the head chunk by chunk
 *   model_forward … model_backward    slopes made from the numbers; backward computes the logits again, chunk by chunk
 * A block of B*T*V logits never exists. */
#ifndef LLMC_MODEL_H
#define LLMC_MODEL_H

#include "batch.h"
#include "params.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Model Model;

/* What comes out, host arrays (B,T); a NULL is not computed or not copied. Without a target logp is 0. */
typedef struct { float *logp, *lse, *entropy, *value; } Numbers;

/* The loss's slope by each number, host arrays (B,T); NULL means 0. */
typedef struct { const float *logp, *lse, *entropy, *value; } Slopes;

#define MOST_TOKENS (INT64_C(1) << 31)      /* of a batch */

typedef struct Plan {
    int64_t B, T;               /* the largest batch */
    bool train;                 /* room for gradients; otherwise only model_score and model_logits */
    bool recompute;             /* keep only each block's input and compute the rest again on the way back */
    size_t scratch;             /* workspace that the caller's own ops need */
} Plan;

typedef struct PlanBytes { size_t activations, workspace; } PlanBytes;

typedef void SeenTensor(void *context, Tensor t, size_t bytes);

Model  *model_create(Device *d, const Config *c, DType dtype, int ranks);
void    model_free(Model *m);
const Config *model_config(const Model *m);
Params *model_params(Model *m);

/* Adapters beside some weights of each block (params.h), before anything else is made of the model: a plan, a trainer,
 * a decoder. From then on every pass reads weights and adapters, and only these are trained: gradients are theirs, and
 * so is what an optimizer keeps. The weights may be of int8. */
void    model_adapt(Model *m, Lora how, uint64_t seed);
Params *model_trained(Model *m);                        /* what is trained: the adapters, or without any all weights */
Device *model_device(const Model *m);

/* What the plan takes, found without allocating it; seen (may be NULL) is told of each activation. model_plan takes
 * just that, besides the parameters and their gradients. Smaller batches use the same memory. */
PlanBytes model_plan_bytes(Model *m, Plan plan, SeenTensor *seen, void *context);
void    model_plan(Model *m, Plan plan);

/* Logits are divided by the temperature first; 1 for the model's own distribution. */
void    model_set_temperature(Model *m, float temperature);

void    model_score(Model *m, const Batch *b, const Numbers *out);
void    model_forward(Model *m, const Batch *b, const Numbers *out);
/* Parameter gradients: "=" , or "+=" when accumulate. finished (may be NULL) is told of each bucket when it is
 * complete. */
typedef void BucketFinished(void *context, int bucket);
void    model_backward(Model *m, const Slopes *slopes, bool accumulate);
void    model_train(Model *m, const Batch *b, const Slopes *slopes, const Numbers *out, bool accumulate);
void    model_on_bucket(Model *m, BucketFinished *finished, void *context);

/* Raw logits (count, vocab_size) of positions begin .. begin+count-1 (b*T + t) of the last batch, on the host. */
void    model_logits(Model *m, int64_t begin, int64_t count, float *logits);

/* The first tensor of the last training pass that holds a NaN or an infinity ("h.3", "logits" …), or NULL. */
const char *model_first_nonfinite(Model *m);

#ifdef __cplusplus
}
#endif
#endif
