/* doors.h -- what the front doors of ops.c and ops_linear.c are made of: checks, and the door itself. */
#ifndef LLMC_DOORS_H
#define LLMC_DOORS_H

#include "ops.h"
#include "profile.h"

#include <stdio.h>

/* ------------------------------------------------------------------------------------------------------- checks */

static inline void print_shape(char *to, size_t size, Tensor t)
{
    int n = snprintf(to, size, "%s (", dtype_name(t.dtype));
    for (int i = 0; i < t.ndim; i++) n += snprintf(to + n, size - (size_t)n, i ? ",%lld" : "%lld", (long long)t.dim[i]);
    snprintf(to + n, size - (size_t)n, ")");
}

static inline void want(const char *op, const char *arg, Tensor t, DType dtype, int ndim, const int64_t *dim)
{
    bool same = t.ndim == ndim && t.dtype == dtype;
    Tensor w = { NULL, NULL, dtype, ndim, {0} };
    for (int i = 0; i < ndim; i++) {
        w.dim[i] = dim[i];
        same = same && t.dim[i] == dim[i];
    }
    if (same) return;
    char got[128] = "none", wanted[128];
    if (!is_none(t)) print_shape(got, sizeof got, t);
    print_shape(wanted, sizeof wanted, w);
    FAIL("%s: %s is %s, wanted %s", op, arg, got, wanted);
}

#define WANT(t, dtype, ...)     want(__func__, #t, (t), (dtype), COUNT_I64(__VA_ARGS__), (int64_t[]){__VA_ARGS__})
#define WANT_OPT(t, dtype, ...) do { if (!is_none(t)) WANT(t, dtype, __VA_ARGS__); } while (0)

static inline void want_float(const char *op, Tensor t, const char *arg, int ndim)
{
    CHECK(!is_none(t), "%s: %s is none, wanted a tensor", op, arg);
    CHECK(t.dtype == DT_F32 || t.dtype == DT_BF16, "%s: %s is %s, wanted f32 or bf16", op, arg, dtype_name(t.dtype));
    CHECK(t.ndim >= ndim, "%s: %s has %d dimensions, wanted %d or more", op, arg, t.ndim, ndim);
    CHECK(numel(t) > 0, "%s: %s is empty", op, arg);
}
#define WANT_FLOAT(t, ndim) want_float(__func__, (t), #t, (ndim))

static inline Tensor as_rows(Tensor t) { return is_none(t) ? t : RESHAPE(t, rows(t), last(t)); }
static inline Tensor as_line(Tensor t) { return is_none(t) ? t : RESHAPE(t, numel(t)); }

static inline double bytes_of(Tensor t) { return is_none(t) ? 0 : (double)tensor_bytes(t); }

/* ------------------------------------------------------------------------------------------------ the door itself */

static inline bool door_opens(Device *d)
{
    if (d->measuring) return false;
    if (d->profile) d->profile->entered = seconds_now();
    return true;
}

static inline void door_shuts(Device *d, OpId op, double flops, double bytes)
{
    if (!d->profile) return;
    d->backend->synchronize(d);
    Cost *c = &d->profile->cost[op];
    c->calls++;
    c->seconds += seconds_now() - d->profile->entered;
    c->flops += flops;
    c->bytes += bytes;
}

static inline void door_reserves(Device *d, size_t bytes)
{
    if (!d->measuring) device_reserve(d, bytes);
    else if (bytes > d->scratch_needed) d->scratch_needed = bytes;
}

#define RUN(op_name, flops, bytes, ...) do {                                                                          \
        if (door_opens(d)) {                                                                                          \
            d->op->op_name(__VA_ARGS__);                                                                              \
            door_shuts(d, OP_##op_name, (flops), (bytes));                                                            \
        }                                                                                                             \
    } while (0)
#define RUN_SCRATCH(op_name, flops, bytes, ...) do {                                                                  \
        door_reserves(d, d->op->op_name##_scratch(__VA_ARGS__));                                                      \
        RUN(op_name, flops, bytes, __VA_ARGS__);                                                                      \
    } while (0)

/* The scratch doors: what the backend says, for callers that plan memory themselves. */
#define SCRATCH_DOOR(name, args, call) size_t name##_scratch args { return d->op->name##_scratch call; }

#endif
