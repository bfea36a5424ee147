/* arena.h -- one block of memory, carved in order.
 *
 * Lay out a set of tensors in a function that calls TAKE for each, and run it twice: on an arena with no block it only
 * measures; with a block of that size it carves. Sizes are written once and cannot disagree with pointers. */
#ifndef LLMC_ARENA_H
#define LLMC_ARENA_H

#include "base.h"

typedef struct Arena {
    char  *block;
    size_t used, size;
    void (*seen)(void *context, Tensor t, size_t bytes);    /* told of each tensor taken, if set (--plan) */
    void  *context;
} Arena;

enum { ARENA_ALIGN = 256 };   /* the widest load of any backend, and a whole number of cache lines */

Tensor arena_take(Arena *a, const char *name, DType dtype, int ndim, const int64_t *dim);

#define TAKE(arena, name, dtype, ...) \
    arena_take((arena), (name), (dtype), COUNT_I64(__VA_ARGS__), (int64_t[]){__VA_ARGS__})

#endif
