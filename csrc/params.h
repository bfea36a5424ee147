/* params.h -- a model's parameters and their gradients: one list of names and shapes, two flat blocks.
 *
 * Both blocks are cut into the same buckets, in the order backward finishes them: the head's, the blocks' from last to
 * first, the embeddings' (a tied wte is there). A bucket is padded so that each of `ranks` processes owns an equal,
 * aligned slice of it: that process keeps the optimizer's state for the slice (ZeRO-1; S. Rajbhandari et al., 2020). */
#ifndef LLMC_PARAMS_H
#define LLMC_PARAMS_H

#include "config.h"
#include "device.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { INIT_ZERO, INIT_ONE, INIT_NORMAL, INIT_RESIDUAL, INIT_UNIFORM } InitKind;

enum { MOST_PACKED = 3 };    /* matrices in one weight: q, k and v */
/* Elements; each parameter, and each rank's slice of a bucket, begins at a multiple: 256 bytes of bf16, 512 of f32 */
enum { PARAM_ALIGN = 128 };

typedef struct Param {
    Tensor   value, grad;       /* grad is f32; their data is NULL until params_allocate */
    Tensor   scale;             /* of int8 weights, (rows, groups) f32; otherwise none() */
    InitKind init;
    bool     decay;             /* weight decay applies: matrices only */
    int      bucket;
    int64_t  offset;            /* first element in both flat blocks */
    int      matrices;          /* of a block's weight: how many are packed in it, one below the other; otherwise 0 */
    int64_t  matrix_rows[MOST_PACKED];
} Param;

/* Low-rank adapters (E. Hu et al., "LoRA: low-rank adaptation of large language models", 2021): beside a weight w (O,I)
 * stand a (rank,I) and b (O,rank), and x w^T becomes x w^T + alpha / rank (x a^T) b^T. Only they are trained. */
typedef struct Lora {
    int      rank;
    float    alpha;
    unsigned matrices;          /* which of a block's are adapted: lora_matrix() of each */
} Lora;

/* A weight and its bias, and what adapts the weight; NULL where there is none */
typedef struct { Param *w, *b, *lora_a, *lora_b; } Pair;
typedef struct { Pair ln_1, qkv, proj, ln_2, up, down; Param *q_norm, *k_norm; } LayerParams;
typedef struct { int64_t offset, length, number; } Bucket;  /* number: the offset that it has on one rank */

static inline DType activation_type(DType weights) { return weights == DT_I8 ? DT_BF16 : weights; }

typedef struct Params {
    Device *device;
    DType   dtype;              /* i8: of the matrices; what is beside them is bf16, and so are activations */
    int     count, n_layer, n_buckets, ranks;
    int64_t elements;           /* of a flat block, padding included */
    Param  *list;               /* in the order of checkpoints: wte, wpe, h.0 …, ln_f, head */
    Pair    wte, wpe, ln_f, head;
    LayerParams *layer;
    Bucket *bucket;
    void   *values, *grads;
    struct Params *adapters;    /* of these weights, which are then not trained; or NULL */
    Lora    lora;               /* of what are adapters; otherwise nothing */
} Params;

Params *params_create(Device *d, const Config *c, DType dtype, int ranks);
/* Zeroed values, and gradients if asked; what is there already stays. */
void    params_allocate(Params *p, bool grads);
size_t  params_bytes(const Params *p);                      /* of the values */
void    params_free(Params *p);
/* Allocates, and draws. GPT-2's way: N(0, 0.02), the projections into the residual stream divided by sqrt(2 n_layer),
 * biases 0, norms 1. */
void    params_init(Params *p, uint64_t seed);
/* Elements begin .. begin+n-1 of p, rounded to its type; of int8, whole rows. params_chunk: a handy number of them. */
void    params_put(Params *all, const Param *p, int64_t begin, int64_t n, const float *x);
int64_t params_chunk(const Param *p);
Param  *params_find(Params *p, const char *name);           /* NULL if there is none */

/* Gives the weights adapters, named h.3.attn.qkv.lora_a and so on, of the activations' type, in a bucket for each block
 * as backward finishes it; they belong to `of`. a is drawn from U(-1/sqrt(I), 1/sqrt(I)), as PyTorch draws a layer's
 * weights, and b is 0: the model is what it was. Weight decay is for both: what it draws towards 0 is the difference
 * from the weights, so it holds a model near the one it began as. */
void    params_adapt(Params *of, Lora how, uint64_t seed);
unsigned lora_matrix(const char *name);                     /* qkv, proj, up or down; fails for others */
char   *lora_matrices(unsigned matrices);                   /* their names, separated by spaces; free it */

/* Elements of p that rank owns: [*begin, *end) of the flattened parameter; empty when equal. */
void    params_owned(const Params *all, const Param *p, int rank, int64_t *begin, int64_t *end);

#ifdef __cplusplus
}
#endif
#endif
