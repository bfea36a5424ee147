/* trainer.h -- one optimisation step over one or many processes: gradients are summed, clipped and applied.
 *
 *     for (k = 0; k < micro_batches; k++) {
 *         const bool accumulate = trainer_micro_batch(t, k, micro_batches);
 *         model_train(model, &batch, &slopes, &numbers, accumulate);
 *     }
 *     const double norm = trainer_reduce(t);
 *     trainer_apply(t, lr);                   // or not, if the step looks bad
 *
 * Data parallel with the optimizer's state sharded (ZeRO-1): every rank holds all weights and gradients, owns a slice
 * of each bucket, and keeps moments (and f32 masters of bf16 weights) for that slice only. The slopes already divide by
 * the target count of the whole update over all ranks, so gradients are summed, not averaged.
 *
 * Muon (K. Jordan et al., 2024) is for the matrices of the blocks, each of q, k, v, gate and up by itself; AdamW does
 * the rest. A matrix moves by its orthogonalized momentum times 0.2 sqrt(max(rows, columns)), so that its elements move
 * as far as AdamW's do, and one learning rate and decay serve both (J. Liu et al., "Muon is scalable for LLM training",
 * 2025). Every rank keeps momentum for its slice, and orthogonalizes the matrices that its slices touch.
 *
 * Of a model with adapters these are what is trained, by AdamW, and "weights" below are theirs. */
#ifndef LLMC_TRAINER_H
#define LLMC_TRAINER_H

#include "comm.h"
#include "model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { OPTIMIZER_ADAMW, OPTIMIZER_MUON } OptimizerKind;

typedef struct TrainerConfig {
    double beta1, beta2, eps, weight_decay;     /* AdamW's; the decay is Muon's as well, for matrices only */
    double grad_clip;                           /* largest gradient norm; 0: no clipping */
    OptimizerKind optimizer;
    double muon_momentum;
    /* Of bf16 weights: whether f32 masters are kept, and whether weights are rounded stochastically, by this seed. bf16
     * is too coarse for small steps; a weight that has no master but is rounded so makes them on average. */
    bool     master_weights, stochastic_rounding;
    uint64_t seed;
} TrainerConfig;

typedef struct Trainer Trainer;

Trainer *trainer_create(Model *m, Comm *comm, TrainerConfig c);     /* after the model's weights were set */
void     trainer_free(Trainer *t);
size_t   trainer_scratch(const Model *m, OptimizerKind kind);       /* workspace that a step takes */

/* All that model_plan and trainer_create take of a process's device, the optimizer's part on the rank that keeps most;
 * plan.scratch is trainer_scratch. Nothing is allocated; seen as in model_plan_bytes. */
typedef struct TrainBytes { size_t parameters, gradients, optimizer, activations, workspace, all; } TrainBytes;
TrainBytes trainer_plan_bytes(Model *m, Plan plan, const TrainerConfig *c, SeenTensor *seen, void *context);

bool     trainer_micro_batch(Trainer *t, int64_t index, int64_t count);     /* whether this one accumulates */
double   trainer_reduce(Trainer *t);                /* the sum's global norm; the same on all ranks */
void     trainer_apply(Trainer *t, double lr);      /* once after trainer_reduce; the gradients are used up */
int64_t  trainer_updates(const Trainer *t);         /* applied so far: AdamW's step */

/* The first parameter, in the order backward reaches them, with a gradient that is not finite; NULL: none on this
 * rank. */
const char *trainer_first_nonfinite(Trainer *t);

/* Into a checkpoint folder under construction: rank 0 writes model.safetensors, or of adapters adapter.safetensors, and
 * every rank its optimizer file. Loading takes any number of ranks' files; updates is what trainer_updates was when
 * they were saved. */
void     trainer_save(Trainer *t, const char *folder);
void     trainer_load(Trainer *t, const char *folder, int64_t updates);      /* after trainer_check, below */

/* How a checkpoint was trained. Another trainer may start from its weights, but not go on exactly: check, then load. */
typedef struct TrainedAs { DType dtype; OptimizerKind optimizer; bool masters; Lora lora; } TrainedAs;
TrainedAs trainer_trained_as(const char *folder);
void      trainer_check(const Trainer *t, const char *folder, TrainedAs was);

/* Weights alone, or adapters, with their rank, alpha and matrices. Loading converts between f32 and bf16; names and
 * shapes must be the model's, and are checked before anything changes. */
void     params_save(Params *p, const char *path);
void     params_load(Params *p, const char *path);

#ifdef __cplusplus
}
#endif
#endif
