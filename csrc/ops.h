/* ops.h -- THE CONTRACT between the model and the machines that run it.
 *
 * Every operation is declared once, in OPS below. For each there are
 *   NAME       the front door (ops.c, ops_linear.c): checks shapes and types, flattens, keeps time, forwards
 *   cpu_NAME   csrc/cpu/   vectorised and threaded; plain_NAME is the same in the plainest loops
 *   cuda_NAME  cuda/
 *
 * Letters: B rows of the batch, T steps, N = B*T, C = n_embd, H query heads, G key/value heads, D head_dim,
 * P = (H+2G)*D the packed width of q, k, v, F = n_ff, I and O a product's input and output width, V padded vocabulary.
 *
 * Types: "x" is f32 or bf16, the activation type A; weights have the type of the activations they meet. Statistics
 * (mean, rstd, lse, logp, entropy), parameter gradients and optimizer state are f32; indices are i32.
 *
 * What an op writes: "=" overwrites. "(+)=" overwrites, or adds when accumulate is true; these are parameter gradients.
 * Nothing else is written. A tensor marked ? may be none(): an output that is none() is not computed, an input that is
 * none() is absent from the formula. Unless stated, outputs do not overlap inputs.
 *
 * Ops under SCRATCH need room in the device's workspace: NAME_scratch, same arguments, says how many bytes.
 *
 * Sums are split into fixed blocks, never by thread, so results do not depend on the number of threads; a row's
 * result does not depend on the other rows of the call (but it does where cuBLASLt chooses a kernel by the shape). */
#ifndef LLMC_OPS_H
#define LLMC_OPS_H

#include "device.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { ACT_NONE, ACT_GELU } Activation;

enum { CACHE_PAGE = 32 };       /* steps */
enum { DECAY_BLOCK = 128 };     /* elements that weight decay tells apart from others */

typedef struct { float lr, beta1, beta2, eps, weight_decay, grad_scale; int64_t step; } AdamW;

/* How f32 becomes a weight of bf16: to the nearest, ties to even; or stochastic, to one of its two neighbours, so that
 * the mean of many roundings is the number itself (S. Gupta et al., "Deep learning with limited numerical precision",
 * 2015): 16 random bits are added to its last places, and these cut off. Element i takes half n % 8 of draw n / 8 of
 * (seed, stream), n = first + i; see rng.h. */
typedef struct { bool stochastic; uint64_t seed, stream; int64_t first; } Rounding;

#define OPS(PURE, SCRATCH) \
    /* out[n] = wte[tokens[n]] (+ wpe[pos[n]])                tokens, pos (B,T) i32; wte (V,C); wpe? (S,C); out (B,T,C)
     * The caller has checked that every index is inside its table. */ \
    PURE(embed_forward, (Device *d, Tensor out, Tensor tokens, Tensor pos, Tensor wte, Tensor wpe)) \
    /* The same from a table of int8: wte (V,C) i8; scale (V,ceil(C/64)) f32; out, wpe? A. See quantize.h. */ \
    PURE(embed_int8_forward, (Device *d, Tensor out, Tensor tokens, Tensor pos, Tensor wte, Tensor scale, \
                              Tensor wpe)) \
    /* dw[index[n]] (+)= dout[n], summed in the order of n; "=" zeroes the rows nothing points to
     *                                                        dw (V,C) f32; dout (B,T,C); index (B,T) i32 */ \
    SCRATCH(embed_backward, (Device *d, Tensor dw, Tensor dout, Tensor index, bool accumulate)) \
    /* sum = x + branch, rounded to A;  out = (sum - mean) * rstd * w + b, row by row. With mean? none it is RMSNorm:
     * out = sum * rstd * w. Without branch, the sum is x itself and sum is none.
     *                    x, branch?, sum?, out (N,C) A; mean?, rstd (N) f32; w, b? (C) A. sum may be x or branch. */ \
    PURE(norm_forward, (Device *d, Tensor sum, Tensor out, Tensor mean, Tensor rstd, Tensor x, Tensor branch, \
                        Tensor w, Tensor b, float eps)) \
    /* dx = dres + (d out / d x)^T dout;  dw (+)=, db (+)=    dx, dout, dres?, x (N,C) A; dw?, db? (C) f32; w (C) A
     * x is what was normalised (the sum). dx may be dres. */ \
    SCRATCH(norm_backward, (Device *d, Tensor dx, Tensor dw, Tensor db, Tensor dout, Tensor dres, Tensor x, Tensor w, \
                            Tensor mean, Tensor rstd, bool accumulate)) \
    /* pre = x w^T + b, rounded to A;  out = act(pre)          x (N,I) A; w (O,I) A; b? (O) A; out (N,O) A or f32
     * pre? (N,O) A is kept for the way back; only with an activation. GELU is the tanh form. */ \
    SCRATCH(linear_forward, (Device *d, Tensor out, Tensor pre, Tensor x, Tensor w, Tensor b, Activation act)) \
    /* out = act(x w^T + b), with w of int8 (quantize.h) and each row of x brought to int8 too. Sums of 64 products are
     * exact, and are added one after the other.
     *                x (N,I) A; w (O,I) i8; scale (O,ceil(I/64)) f32; b? (O) A; out (N,O) A or f32 */ \
    SCRATCH(linear_int8_forward, (Device *d, Tensor out, Tensor x, Tensor w, Tensor scale, Tensor b, \
                                  Activation act)) \
    /* dx = (dout w) * gelu'(pre);  dw (+)= dout^T x;  db (+)= sum_n dout
     *                        dx?, x (N,I) A; dout (N,O) A; w (O,I) A; pre? (N,I) A; dw? (O,I), db? (O) f32 */ \
    SCRATCH(linear_backward, (Device *d, Tensor dx, Tensor dw, Tensor db, Tensor dout, Tensor x, Tensor w, \
                              Tensor pre, bool accumulate)) \
    /* dx = (dout w) * gelu'(pre), with what w of int8 stands for, rounded to A; x counts as if it had not been rounded
     *                        dx (N,I) A; dout (N,O) A; w (O,I) i8; scale (O,ceil(I/64)) f32; pre? (N,I) A */ \
    SCRATCH(linear_int8_backward, (Device *d, Tensor dx, Tensor dout, Tensor w, Tensor scale, Tensor pre)) \
    /* A low-rank adapter (E. Hu et al., "LoRA: low-rank adaptation of large language models", 2021) beside a product:
     * low = scale x a^T, rounded to A;  out += low b^T       x (N,I), a (R,I), b (O,R), out (N,O) A */ \
    SCRATCH(lora_forward, (Device *d, Tensor out, Tensor x, Tensor a, Tensor b, float scale)) \
    /* low as above;  dlow = scale dout b, rounded to A;  dx += dlow a;  da (+)= dlow^T x;  db (+)= dout^T low
     *                        dx?, x (N,I), dout (N,O), a (R,I), b (O,R) A; da? (R,I), db? (O,R) f32 */ \
    SCRATCH(lora_backward, (Device *d, Tensor dx, Tensor da, Tensor db, Tensor dout, Tensor x, Tensor a, Tensor b, \
                            float scale, bool accumulate)) \
    /* In each q and k head the pair (x[i], x[i+D/2]) is turned by pos * freq[i]; v is copied. With q_norm and k_norm
     * each q and k head is normalised first: x * w / sqrt(mean_i x[i]^2 + eps). Without them out may be qkv.
     *                                    out, qkv (B,T,P) A; pos (B,T) i32; freq (D/2) f32; q_norm?, k_norm? (D) A */ \
    PURE(rope_forward, (Device *d, Tensor out, Tensor qkv, Tensor pos, Tensor freq, Tensor q_norm, Tensor k_norm, \
                        int H, int G, float eps)) \
    /* dqkv = dout turned back;  with q_norm and k_norm also through the norm, and dq_norm (+)=, dk_norm (+)=
     * qkv is what was normalised. dqkv may be dout.         dqkv, dout, qkv? (B,T,P) A; dq_norm?, dk_norm? (D) f32 */ \
    SCRATCH(rope_backward, (Device *d, Tensor dqkv, Tensor dq_norm, Tensor dk_norm, Tensor dout, Tensor qkv, \
                            Tensor pos, Tensor freq, Tensor q_norm, Tensor k_norm, int H, int G, float eps, \
                            bool accumulate)) \
    /* Causal, grouped: query head h reads key/value head h / (H/G); step t of a row sees keys first[t] .. t.
     * s = q.k / sqrt(D), out = softmax(s) v, lse = log sum exp s     qkv (B,T,P) A; first (B,T) i32; out (B,T,H*D) A;
     *                                                                lse (B,H,T) f32 */ \
    SCRATCH(attention_forward, (Device *d, Tensor out, Tensor lse, Tensor qkv, Tensor first, int H, int G)) \
    /* dqkv =                                                 dqkv (B,T,P) A; dout (B,T,H*D) A */ \
    SCRATCH(attention_backward, (Device *d, Tensor dqkv, Tensor dout, Tensor out, Tensor lse, Tensor qkv, \
                                 Tensor first, int H, int G)) \
    /* The same over a cache of keys and values. Row r brings tokens start[r] .. start[r+1]-1 of the batch, one or more,
     * as its steps length[r] and on. Their k and v are written to the row's pages, step s to page table[r][s /
     * CACHE_PAGE] of the cache; then each token sees its row's keys from 0 to its own. The caller has checked the
     * numbers, and no page that is written to is another row's. A page holds the keys of each group, then the values of
     * each.
     *                                          out (N,H*D) A; cache (pages,2*G,CACHE_PAGE,D) A; qkv (N,P) A;
     *                                          table (R,most), start (R+1), length (R) i32 */ \
    SCRATCH(attention_cached, (Device *d, Tensor out, Tensor cache, Tensor qkv, Tensor table, Tensor start, \
                               Tensor length, int H, int G)) \
    /* out = silu(gate) * up                                  x (N,2F) A holds gate in its first F columns, up after;
     *                                                        out (N,F) A */ \
    PURE(swiglu_forward, (Device *d, Tensor out, Tensor x)) \
    /* dx = */ \
    PURE(swiglu_backward, (Device *d, Tensor dx, Tensor dout, Tensor x)) \
    /* out = gelu(pre), where a product cannot do it on its way out      out, pre A, of one shape; out may be pre */ \
    PURE(gelu_forward, (Device *d, Tensor out, Tensor pre)) \
    /* dx = dout * gelu'(pre)                                      dx, dout, pre A, of one shape; dx may be dout */ \
    PURE(gelu_backward, (Device *d, Tensor dx, Tensor dout, Tensor pre)) \
    /* z = logits / temperature over the first vocab columns;  lse = log sum exp z;  logp = z[target] - lse, 0 where
     * target < 0;  entropy = lse - sum_v p_v z_v             logits (N,V) f32; targets (N) i32;
     *                                                        logp, lse, entropy? (N) f32 */ \
    PURE(logprob_forward, (Device *d, Tensor logp, Tensor lse, Tensor entropy, Tensor logits, Tensor targets, \
                           int vocab, float temperature)) \
    /* dlogits_v = (a (1[v = target] - p_v) + z p_v - e p_v (log p_v + entropy)) / temperature, 0 in the padding, where
     * a, z, e are the slopes dlogp, dlse?, dentropy? (N) f32, and a counts as 0 where target < 0
     *                                                        dlogits (N,V) A; it may be logits when A is f32 */ \
    PURE(logprob_backward, (Device *d, Tensor dlogits, Tensor logits, Tensor dlogp, Tensor dlse, Tensor dentropy, \
                            Tensor lse, Tensor entropy, Tensor targets, int vocab, float temperature)) \
    /* out[0] = sum x^2, added up in f64 over fixed blocks, then rounded      x f32, any shape; out (1) f32 */ \
    SCRATCH(sum_squares, (Device *d, Tensor out, Tensor x)) \
    /* AdamW, I. Loshchilov, F. Hutter, "Decoupled weight decay regularization", 2019; g = grad * grad_scale:
     * m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;
     * w -= lr (m/(1-b1^step) / (sqrt(v/(1-b2^step)) + eps) + weight_decay w)
     * master? holds w in f32 when w is bf16: it is what is updated, and w is it, rounded by r. Without, w itself is
     * decay? is 0 for each DECAY_BLOCK elements of w where weight_decay counts as 0
     *     w any shape, A; master?, m, v, grad the same shape, f32; decay? (ceil(numel(w) / DECAY_BLOCK)) u8 */ \
    PURE(adamw, (Device *d, Tensor w, Tensor master, Tensor m, Tensor v, Tensor grad, Tensor decay, AdamW a, \
                 Rounding r)) \
    /* Nesterov's momentum; g = grad * grad_scale:  m = momentum m + g;  grad = g + momentum m
     *                                                    grad, m any shape, f32 */ \
    PURE(nesterov, (Device *d, Tensor grad, Tensor m, float momentum, float grad_scale)) \
    /* Of each x = U S V^T about U V^T: x /= |x|, then five times x = 3.4445 x + (-4.775 G + 2.0315 G^2) x with
     * G = x x^T. This Newton-Schulz iteration (K. Jordan et al., "Muon", 2024) brings singular values of |x| / 500 and
     * more to 0.68 … 1.21 and leaves 0 where it is. bf16: x, G and G^2 are rounded to it between the products.
     *                              x: any number of matrices (R,C) f32, each of its own shape, none overlapping */ \
    SCRATCH(orthogonalize, (Device *d, Tensors x, bool bf16)) \
    /* w -= lr (scale direction + weight_decay w)               w any shape, A; master? as for adamw;
     *                                                    master?, direction the same shape, f32 */ \
    PURE(descend, (Device *d, Tensor w, Tensor master, Tensor direction, float lr, float scale, float weight_decay, \
                   Rounding r))

#define DECLARE_PURE(name, args)    void name args;
#define DECLARE_SCRATCH(name, args) void name args; size_t name##_scratch args;
OPS(DECLARE_PURE, DECLARE_SCRATCH)
#undef DECLARE_PURE
#undef DECLARE_SCRATCH

typedef enum {
#define NUMBER(name, args) OP_##name,
    OPS(NUMBER, NUMBER)
#undef NUMBER
    OP_COUNT
} OpId;

struct OpTable {
#define ENTRY_PURE(name, args)    void (*name) args;
#define ENTRY_SCRATCH(name, args) void (*name) args; size_t (*name##_scratch) args;
    OPS(ENTRY_PURE, ENTRY_SCRATCH)
#undef ENTRY_PURE
#undef ENTRY_SCRATCH
};

extern const char *const op_names[OP_COUNT];

#ifdef __cplusplus
}
#endif
#endif
