/* attention.h -- what both ways to compute attention share: shapes, places in the packed rows, and the mask. */
#ifndef LLMC_CPU_ATTENTION_H
#define LLMC_CPU_ATTENTION_H

#include "gemm.h"
#include "../arena.h"

typedef struct Shape {
    int64_t B, T, H, G, D, P;
    int64_t width;              /* D, in whole panels */
    DType   A;
    float   scale;              /* 1 / sqrt(D) */
} Shape;

INLINE Shape shape_of(Tensor qkv, int H, int G)
{
    const int64_t P = last(qkv), D = P / (H + 2 * G);
    return (Shape){ qkv.dim[0], qkv.dim[1], H, G, D, P, whole(D, TILE_COLS) * TILE_COLS, qkv.dtype,
                    1 / sqrtf((float)D) };
}

INLINE const void *element(Tensor t, int64_t i) { return (const char *)t.data + (size_t)i * dtype_size(t.dtype); }

/* Where head h's q, and group g's k and v, begin in the packed row of step 0. */
INLINE const void *q_of(Shape z, Tensor qkv, int64_t b, int64_t h) { return element(qkv, b * z.T * z.P + h * z.D); }
INLINE const void *k_of(Shape z, Tensor qkv, int64_t b, int64_t g) { return q_of(z, qkv, b, z.H + g); }
INLINE const void *v_of(Shape z, Tensor qkv, int64_t b, int64_t g) { return q_of(z, qkv, b, z.H + z.G + g); }

/* This thread's part of the workspace. */
INLINE Arena my_part(Device *d, size_t bytes)
{
    return (Arena){ .block = (char *)d->workspace + (size_t)omp_get_thread_num() * bytes, .size = bytes };
}

/* -1 in the lanes of keys that the query of step t sees, when the first lane is key s */
INLINE VecI seen(int64_t s, int64_t first, int64_t t)
{
    VecI key;
    for (int i = 0; i < WIDTH; i++) key[i] = (int32_t)s + i;
    return (key >= (int32_t)first) & (key <= (int32_t)t);
}

/* v in the lanes of keys, from s on, that the query of step t sees, and rest in the others; mostly it sees them all */
INLINE Vec where_seen(Vec v, Vec rest, int64_t s, int64_t first, int64_t t)
{
    return s >= first && s + WIDTH <= t + 1 ? v : vec_where(seen(s, first, t), v, rest);
}

/* The first panel of keys that any of the queries sees. */
INLINE int64_t first_panel(const int32_t *first, int64_t rows)
{
    int64_t least = first[0];
    for (int64_t r = 1; r < rows; r++) least = at_most(least, first[r]);
    return least / TILE_COLS * TILE_COLS;
}

enum { MOST_QUERIES = 128 };

/* One head's rows, from step t on. */
typedef struct Queries {
    int64_t t, rows, begin, end;        /* begin .. end: the keys they see, from a whole panel on */
    const float *lse;                   /* from step 0 on, as first */
    const int32_t *first;
    float mean[MOST_QUERIES];           /* dout . out, which is the mean of dp under p */
} Queries;

/* Up to `most` of them; means are not set. */
INLINE Queries queries_at(Shape z, Tensor lse, Tensor first, int64_t b, int64_t h, int64_t t, int64_t most)
{
    Queries n = { .t = t, .rows = at_most(z.T - t, most), .lse = (const float *)lse.data + (b * z.H + h) * z.T,
                  .first = (const int32_t *)first.data + b * z.T };
    n.begin = first_panel(n.first + t, n.rows), n.end = t + n.rows;
    return n;
}

/* dout . out of a query, whose D numbers begin at `at` in both */
INLINE float mean_slope(Shape z, Tensor dout, Tensor out, int64_t at)
{
    Vec sum = {0};
    for (int64_t i = 0; i < z.D; i += WIDTH) {
        const int count = vec_left(z.D, i);
        sum += vec_load(dout.data, (int)z.A, at + i, count) * vec_load(out.data, (int)z.A, at + i, count);
    }
    return vec_sum(sum);
}

/* ---- cached ----------------------------------------------------------------------------------------------------- */

/* One row of a batch over a cache: `count` tokens from token `begin` on, which are its steps `length` and on. */
typedef struct CachedRow { int64_t begin, count, length; const int32_t *table; } CachedRow;

INLINE CachedRow cached_row(Tensor table, Tensor start, Tensor length, int64_t r)
{
    const int32_t *from = (const int32_t *)start.data + r;
    return (CachedRow){ from[0], from[1] - from[0], ((const int32_t *)length.data)[r],
                        (const int32_t *)table.data + r * last(table) };
}

/* k of group g at step s, and v; the page's next step lies D numbers on */
INLINE const void *cached_k(Shape z, Tensor cache, const CachedRow *row, int64_t s, int64_t g)
{
    return element(cache, ((row->table[s / CACHE_PAGE] * 2 * z.G + g) * CACHE_PAGE + s % CACHE_PAGE) * z.D);
}

INLINE const void *cached_v(Shape z, Tensor cache, const CachedRow *row, int64_t s, int64_t g)
{
    return cached_k(z, cache, row, s, z.G + g);
}

/* No query of theirs sees less than all keys before it. */
enum { MOST_TILE = 32 };
static const int32_t from_the_first[MOST_TILE] = {0};

/* The most keys a row can have: what rooms are measured by, before there are numbers. */
INLINE Shape cached_shape(Tensor qkv, Tensor table, int H, int G)
{
    Shape z = shape_of(qkv, H, G);
    z.B = 1, z.T = last(table) * CACHE_PAGE;
    return z;
}

/* attention_one.c: one head of a row that brings one token; bytes: of each thread's part of the workspace */
void   CPU(attend_one)(Shape z, Device *d, size_t bytes, Tensor out, Tensor cache, Tensor qkv, const CachedRow *row,
                       int64_t h);
size_t CPU(attend_one_bytes)(Shape z);

#ifdef PAIRED
/* attention_bf16.c: bf16, by vdpbf16ps or in AMX's tiles */
void   CPU(bf16_attention_forward)(Device *d, Tensor out, Tensor lse, Tensor qkv, Tensor first, int H, int G);
void   CPU(bf16_attention_backward)(Device *d, Tensor dqkv, Tensor dout, Tensor out, Tensor lse, Tensor qkv,
                                    Tensor first, int H, int G);
void   CPU(bf16_attend)(Shape z, Device *d, size_t bytes, Tensor out, Tensor cache, Tensor qkv, const CachedRow *row,
                        int64_t h);
size_t CPU(bf16_forward_bytes)(Shape z);        /* of each thread's part of the workspace */
size_t CPU(bf16_backward_bytes)(Shape z);
#endif

#endif
