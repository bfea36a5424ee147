/* table.c -- which function each op is on this instruction set. An op not yet vectorised is the reference loop. */
#include "isa.h"
#include "plain.h"

const OpTable CONCAT(cpu_ops_, CPU_ISA) = {
    .embed_forward = plain_embed_forward,
    .embed_backward = plain_embed_backward,
    .norm_forward = plain_norm_forward,
    .norm_backward = plain_norm_backward,
    .norm_backward_scratch = plain_norm_backward_scratch,
    .linear_forward = CPU(linear_forward),
    .linear_forward_scratch = CPU(linear_forward_scratch),
    .linear_backward = CPU(linear_backward),
    .linear_backward_scratch = CPU(linear_backward_scratch),
    .rope_forward = plain_rope_forward,
    .rope_backward = plain_rope_backward,
    .attention_forward = plain_attention_forward,
    .attention_forward_scratch = plain_attention_forward_scratch,
    .attention_backward = plain_attention_backward,
    .attention_backward_scratch = plain_attention_backward_scratch,
    .swiglu_forward = plain_swiglu_forward,
    .swiglu_backward = plain_swiglu_backward,
    .logprob_forward = plain_logprob_forward,
    .logprob_backward = plain_logprob_backward,
    .sum_squares = plain_sum_squares,
    .sum_squares_scratch = plain_sum_squares_scratch,
    .adamw = plain_adamw,
};
