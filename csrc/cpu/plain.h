/* plain.h -- what the reference loops share: elements read and written one at a time, and the names of the ops. */
#ifndef LLMC_CPU_PLAIN_H
#define LLMC_CPU_PLAIN_H

#include "../ops.h"

#define DECLARE_PURE(name, args)    void plain_##name args;
#define DECLARE_SCRATCH(name, args) void plain_##name args; size_t plain_##name##_scratch args;
OPS(DECLARE_PURE, DECLARE_SCRATCH)
#undef DECLARE_PURE
#undef DECLARE_SCRATCH

static inline float get(Tensor t, int64_t i)
{
    return t.dtype == DT_BF16 ? bf16_to_f32(((const uint16_t *)t.data)[i]) : ((const float *)t.data)[i];
}

static inline void put(Tensor t, int64_t i, double value)
{
    if (t.dtype == DT_BF16) ((uint16_t *)t.data)[i] = f32_to_bf16((float)value);
    else ((float *)t.data)[i] = (float)value;
}

/* dw (+)= value, for the gradients of parameters */
static inline void put_sum(Tensor t, int64_t i, double value, bool accumulate)
{
    put(t, i, accumulate ? get(t, i) + value : value);
}

static inline float round_to(DType dtype, double value)
{
    return dtype == DT_BF16 ? bf16_to_f32(f32_to_bf16((float)value)) : (float)value;
}

static inline int32_t index_at(Tensor t, int64_t i) { return ((const int32_t *)t.data)[i]; }

#endif
