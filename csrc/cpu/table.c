/* table.c -- every op on this instruction set. */
#include "isa.h"

const OpTable CONCAT(cpu_ops_, CPU_ISA) = {
#define ENTRY_PURE(name, args)    .name = CPU(name),
#define ENTRY_SCRATCH(name, args) .name = CPU(name), .name##_scratch = CPU(name##_scratch),
    OPS(ENTRY_PURE, ENTRY_SCRATCH)
#undef ENTRY_PURE
#undef ENTRY_SCRATCH
};
