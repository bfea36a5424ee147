/* table.c -- which function each op is on this instruction set. An op not yet vectorised is the reference loop. */
#include "isa.h"
#include "plain.h"

const OpTable CONCAT(cpu_ops_, CPU_ISA) = {
    .embed_forward = CPU(embed_forward),
    .embed_backward = CPU(embed_backward),
    .norm_forward = CPU(norm_forward),
    .norm_backward = CPU(norm_backward),
    .norm_backward_scratch = CPU(norm_backward_scratch),
    .linear_forward = CPU(linear_forward),
    .linear_forward_scratch = CPU(linear_forward_scratch),
    .linear_backward = CPU(linear_backward),
    .linear_backward_scratch = CPU(linear_backward_scratch),
    .rope_forward = CPU(rope_forward),
    .rope_backward = CPU(rope_backward),
    .attention_forward = CPU(attention_forward),
    .attention_forward_scratch = CPU(attention_forward_scratch),
    .attention_backward = CPU(attention_backward),
    .attention_backward_scratch = CPU(attention_backward_scratch),
    .swiglu_forward = CPU(swiglu_forward),
    .swiglu_backward = CPU(swiglu_backward),
    .logprob_forward = CPU(logprob_forward),
    .logprob_backward = CPU(logprob_backward),
    .sum_squares = CPU(sum_squares),
    .sum_squares_scratch = CPU(sum_squares_scratch),
    .adamw = CPU(adamw),
};
