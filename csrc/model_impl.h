/* model_impl.h -- what model.c (the passes) and model_plan.c (their memory) share. */
#ifndef LLMC_MODEL_IMPL_H
#define LLMC_MODEL_IMPL_H

#include "arena.h"
#include "model.h"
#include "ops.h"

/* What a block keeps for its way back. mid is the stream after attention. unturned is qkv before RoPE: the way back
 * reads it only where heads are normalised too, and otherwise all blocks share it. */
typedef struct { Tensor n1, mean1, rstd1, unturned, qkv, att, lse, mid, n2, mean2, rstd2, pre, act; } Block;

/* Where a decoder's model finds the keys and values of earlier tokens; the tensors are attention_cached's. */
typedef struct Cache { Tensor *layer, table, start, length; } Cache;

struct Model {
    Device *dev;
    Config  cfg;
    DType   dtype;                                  /* of activations */
    Params *params;
    Model  *lender;                                 /* whose params these are, or NULL */
    int     borrowers;                              /* models on these params */
    const Cache *cache;                             /* NULL: a batch holds all that its tokens see */
    float   temperature;
    BucketFinished *bucket_finished;
    void   *bucket_context;
    /* activations, laid out by carve */
    Plan    plan;                                   /* the largest batch there is room for */
    void   *memory;
    size_t  memory_size;
    int64_t B, T;                                   /* the batch they are laid out for */
    bool    train;
    int64_t head_rows;                              /* positions whose logits exist at a time */
    Tensor  tokens, targets, pos, first, freq;
    Tensor *stream;                                 /* [l] goes into block l, [n_layer] into ln_f */
    Block  *block;
    Tensor  branch, unturned, xf, meanf, rstdf, logits, dlogits;
    Tensor  logp, lse, entropy, value;
    Tensor  dlogp, dlse, dentropy, dvalue;
    Tensor  dx, dn, datt, dqkv, dup, dact;          /* gradients of one block's activations, used over and over */
    int32_t *host_index;                            /* (B,T), for what the caller left out */
    float   *host_freq;
    void    *host_value;
};

static inline bool keeps_all(const Model *m) { return m->train && !m->plan.recompute; }
static inline Block *block_of(Model *m, int l) { return &m->block[keeps_all(m) ? l : 0]; }
static inline bool swiglu(const Model *m) { return m->cfg.mlp == MLP_SWIGLU; }
static inline bool rope(const Model *m) { return m->cfg.position == POSITION_ROPE; }

/* Lays the activations of a B x T batch out in the plan's memory. */
void model_carve(Model *m, int64_t B, int64_t T, bool train);

/* A model on the same parameters, with activations of its own. It must not outlive the first. */
Model *model_borrow(Model *of);

/* The two passes over an uploaded batch; also run with the doors measuring. */
void model_trunk_forward(Model *m);
void model_trunk_backward(Model *m, bool accumulate);
void model_download_logits(Model *m, Tensor x, float *logits);  /* of rows of ln_f's output: (rows, vocab_size) */
void model_head(Model *m, bool forward, bool entropy, const Slopes *slopes, bool accumulate);

#endif
