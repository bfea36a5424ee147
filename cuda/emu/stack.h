/* stack.h -- changing from one stack to another, for emu.cpp alone: the symbol is defined here. */
#ifndef LLMC_CUDA_EMU_STACK_H
#define LLMC_CUDA_EMU_STACK_H

#include <cstddef>

/* Keeps what a function call must keep, changes stacks, and returns there. */
extern "C" void llmc_emu_switch(void **from, void *to);
#if defined(__x86_64__)
asm(R"(
.text
.globl llmc_emu_switch
.hidden llmc_emu_switch
.type llmc_emu_switch, @function
llmc_emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size llmc_emu_switch, .-llmc_emu_switch
)");
constexpr size_t KEPT = 6, RETURN = 6, FRAME = 8;       /* words: registers, where the return address is, all */
#elif defined(__aarch64__)
asm(R"(
.text
.globl llmc_emu_switch
.hidden llmc_emu_switch
.type llmc_emu_switch, %function
llmc_emu_switch:
    sub sp, sp, #160
    stp x19, x20, [sp]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x2, sp
    str x2, [x0]
    mov sp, x1
    ldp x19, x20, [sp]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size llmc_emu_switch, .-llmc_emu_switch
)");
constexpr size_t KEPT = 20, RETURN = 11, FRAME = 20;
#else
#error "cuda-emu changes stacks by hand, and knows how to on x86-64 and aarch64"
#endif

#endif
