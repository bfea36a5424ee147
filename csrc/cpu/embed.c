/* embed.c -- rows of a table out, and gradients added back to them. */
#include "vec.h"
#include "../quantize.h"

static void add_row(int A, char *out, const char *token, const char *position, int64_t C)
{
    for (int64_t c = 0; c < C; c += WIDTH) {
        const int count = vec_left(C, c);
        vec_store(out, A, c, count, vec_load(token, A, c, count) + vec_load(position, A, c, count));
    }
}

void CPU(embed_forward)(Device *d, Tensor out, Tensor tokens, Tensor pos, Tensor wte, Tensor wpe)
{
    const int64_t N = numel(tokens), C = last(wte);
    const int32_t *token = tokens.data, *position = pos.data;
    PARALLEL_FOR(d, N * C)
    for (int64_t n = 0; n < N; n++)
        if (is_none(wpe)) memcpy(row(out, n), row(wte, token[n]), (size_t)C * dtype_size(wte.dtype));
        else FLOAT_SWITCH(out.dtype, A, add_row(A, row(out, n), row(wte, token[n]), row(wpe, position[n]), C));
}

static void add_int8_row(int A, char *out, const int8_t *q, const float *scale, const char *position, int64_t C)
{
    for (int64_t k = 0; k < C; k += QUANT_GROUP, q += QUANT_GROUP, scale++)
        for (int64_t i = 0; i < QUANT_GROUP && k + i < C; i += WIDTH) {
            const int count = vec_left(C, k + i);
            Vec v = {0};
            for (int lane = 0; lane < count; lane++) v[lane] = q[i + lane];
            v *= *scale;
            if (position) v += vec_load(position, A, k + i, count);
            vec_store(out, A, k + i, count, v);
        }
}

void CPU(embed_int8_forward)(Device *d, Tensor out, Tensor tokens, Tensor pos, Tensor wte, Tensor scale, Tensor wpe)
{
    const int64_t N = numel(tokens), C = last(wte), groups = quant_groups(C);
    const int32_t *token = tokens.data, *position = pos.data;
    PARALLEL_FOR(d, N * C)
    for (int64_t n = 0; n < N; n++) {
        const int8_t *q = (const int8_t *)wte.data + token[n] * C;
        const float *s = (const float *)scale.data + token[n] * groups;
        const char *p = is_none(wpe) ? NULL : row(wpe, position[n]);
        FLOAT_SWITCH(out.dtype, A, add_int8_row(A, row(out, n), q, s, p, C));
    }
}

/* Each thread owns some columns of the whole table: every sum is in the order of n, whoever makes it. */
INLINE void add_columns(int A, Tensor dw, Tensor dout, const int32_t *index, int64_t N, int64_t begin, int64_t end)
{
    for (int64_t n = 0; n < N; n++) {
        char *to = row(dw, index[n]);
        const char *from = row(dout, n);
        for (int64_t c = begin; c < end; c += WIDTH) {
            const int count = vec_left(end, c);
            vec_store(to, DT_F32, c, count, vec_load(to, DT_F32, c, count) + vec_load(from, A, c, count));
        }
    }
}

void CPU(embed_backward)(Device *d, Tensor dw, Tensor dout, Tensor index, bool accumulate)
{
    const int64_t N = numel(index), C = last(dw), V = rows(dw);
    if (!accumulate) {
        PARALLEL_FOR(d, V * C)
        for (int64_t v = 0; v < V; v++) memset(row(dw, v), 0, (size_t)C * sizeof(float));
    }
    /* Whole cache lines, so that no two threads write to one. */
    const int64_t threads = team(d, N * C), width = ((C + threads - 1) / threads + 15) / 16 * 16;
    PARALLEL_FOR(d, N * C)
    for (int64_t begin = 0; begin < C; begin += width) {
        const int64_t end = begin + width < C ? begin + width : C;
        FLOAT_SWITCH(dout.dtype, A, add_columns(A, dw, dout, index.data, N, begin, end));
    }
}

size_t CPU(embed_backward_scratch)(Device *d, Tensor dw, Tensor dout, Tensor index, bool accumulate) { return 0; }
