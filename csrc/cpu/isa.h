/* isa.h -- files of this folder are compiled once for each instruction set; CPU(name) is this one's copy of a name. */
#ifndef LLMC_CPU_ISA_H
#define LLMC_CPU_ISA_H

#include "../ops.h"

#ifndef CPU_ISA
#define CPU_ISA generic
#endif

#define CONCAT_(a, b) a##b
#define CONCAT(a, b)  CONCAT_(a, b)
#define CPU(name)     CONCAT(cpu_##name##_, CPU_ISA)

#define DECLARE_PURE(name, args)    void CPU(name) args;
#define DECLARE_SCRATCH(name, args) void CPU(name) args; size_t CPU(name##_scratch) args;
OPS(DECLARE_PURE, DECLARE_SCRATCH)
#undef DECLARE_PURE
#undef DECLARE_SCRATCH

#endif
