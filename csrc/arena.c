/* arena.c -- see arena.h */
#include "arena.h"

Tensor arena_take(Arena *a, const char *name, DType dtype, int ndim, const int64_t *dim)
{
    Tensor t = { NULL, name, dtype, ndim, {0} };
    for (int i = 0; i < ndim; i++) t.dim[i] = dim[i];
    const size_t bytes = (tensor_bytes(t) + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    if (a->block) {
        CHECK(a->used + bytes <= a->size, "arena: no room for %s", name);
        t.data = a->block + a->used;
    }
    if (a->seen) a->seen(a->context, t, bytes);
    a->used += bytes;
    return t;
}
