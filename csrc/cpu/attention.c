/* attention.c -- causal grouped attention, a tile of queries against panels of keys, with the products of gemm.h.
 *
 * A thread takes one head of one row of the batch, packs its keys and values, and walks the queries, a few at a time.
 * Forward, the scores of TILE_ROWS queries against all their keys lie side by side: the largest is known before the
 * first exponential. Backward recomputes p = exp(s - lse) for blocks of QUERIES x DEPTH. Keys that no query of the tile
 * sees are never touched; keys that some do not see have p = 0 there, and a term of 0 leaves a sum's bits alone.
 *
 * Sums over keys are cut into blocks of DEPTH from key 0, so a query's result depends on its own keys only: not on T,
 * not on the queries beside it. Sums over queries, for dk and dv, are cut into blocks of QUERIES, and run over the
 * group's heads in order. bf16 goes another way where the processor multiplies it: attention_bf16.c. */
#include "attention.h"

enum { QUERIES = 64 / TILE_ROWS * TILE_ROWS };
_Static_assert((int)QUERIES <= (int)MOST_QUERIES, "means have room for so many");

/* ---- rooms ------------------------------------------------------------------------------------------------------ */

/* One thread's scratch. "across" panels are (D, TILE_COLS keys), for products over D; "along" panels are (steps,
 * TILE_COLS of D), for products over steps. lines are rows of D, cut every DEPTH, as tile_lines reads them. */
typedef struct Room {
    float *k_across, *v_across, *k_along, *v_along, *q_along, *dout_along;
    float *q_lines, *dout_lines, *p, *ds;
    float *mean, *dq, *dk, *dv;
} Room;

static float *take(Arena *a, const char *name, int64_t rows, int64_t cols)
{
    return TAKE(a, name, DT_F32, rows, cols).data;
}

static Room forward_room(Arena *a, Shape z)
{
    const int64_t keys = whole(z.T, TILE_COLS) * TILE_COLS;
    return (Room){
        .k_across = take(a, "k_across", keys, z.D),
        .v_along = take(a, "v_along", z.width, z.T),
        .q_lines = take(a, "q_lines", whole(z.D, DEPTH) * TILE_ROWS, LINE),
        .p = take(a, "p", whole(z.T, DEPTH) * TILE_ROWS, LINE),
        .mean = take(a, "mean", TILE_ROWS, z.width),
    };
}

static Room backward_room(Arena *a, Shape z)
{
    const int64_t keys = whole(z.T, TILE_COLS) * TILE_COLS;
    return (Room){
        .k_across = take(a, "k_across", keys, z.D),
        .v_across = take(a, "v_across", keys, z.D),
        .k_along = take(a, "k_along", z.width, z.T),
        .q_along = take(a, "q_along", z.width, QUERIES),
        .dout_along = take(a, "dout_along", z.width, QUERIES),
        .q_lines = take(a, "q_lines", whole(z.D, DEPTH) * QUERIES, LINE),
        .dout_lines = take(a, "dout_lines", whole(z.D, DEPTH) * QUERIES, LINE),
        .p = take(a, "p", QUERIES, LINE),
        .ds = take(a, "ds", QUERIES, LINE),
        .dq = take(a, "dq", QUERIES, z.width),
        .dk = take(a, "dk", z.T, z.width),
        .dv = take(a, "dv", z.T, z.width),
    };
}

/* ---- packing ---------------------------------------------------------------------------------------------------- */

static const void *step(const void *from, Shape z, int64_t elements)
{
    return (const char *)from + (size_t)elements * dtype_size(z.A);
}

static void pack_across(float *to, const void *from, Shape z, int64_t stride, int64_t steps)
{
    for (int64_t s = 0; s < steps; s += TILE_COLS)
        CPU(pack_columns)(to + s * z.D, TILE_COLS, step(from, z, s * stride), z.A, stride, z.D,
                          at_most(steps - s, TILE_COLS));
}

/* Each panel has room for `room` steps. */
static void pack_along(float *to, int64_t room, const void *from, Shape z, int64_t stride, int64_t steps)
{
    for (int64_t i = 0; i < z.D; i += TILE_COLS)
        CPU(pack_rows)(to + i * room, TILE_COLS, step(from, z, i), z.A, stride, steps, z.D - i);
}

static void copy_lines(float *to, const void *from, Shape z, int64_t stride, int64_t rows, int64_t tall)
{
    for (int64_t i = 0; i < z.D; i += DEPTH)
        CPU(copy_block)(to + i / DEPTH * tall * LINE, LINE, step(from, z, i), z.A, stride, rows,
                        at_most(z.D - i, DEPTH));
}

static void store_rows(Tensor to, int64_t at, int64_t stride, const float *from, Shape z, int64_t rows)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < z.D; i += WIDTH)
            vec_store(to.data, (int)z.A, at + r * stride + i, vec_left(z.D, i), vec_f32(from + r * z.width + i));
}

/* ---- what both ways share --------------------------------------------------------------------------------------- */

/* to[r * LINE + c] = sum_i lines(r,i) across(i,c): one tile of scores. tall: rows of lines in each cut of D */
static void score(float *to, const float *lines, const float *across, Shape z, int64_t rows, int64_t tall)
{
    for (int64_t i = 0; i < z.D; i += DEPTH)
        CPU(tile_lines)(rows, at_most(z.D - i, DEPTH), lines + i / DEPTH * tall * LINE, across + i * TILE_COLS,
                        to, LINE, i > 0);
}

/* ---- forward ---------------------------------------------------------------------------------------------------- */

/* Key s of the queries' scores lies at spot(s) in each line: blocks of TILE_ROWS lines, DEPTH keys a line. */
INLINE int64_t spot(int64_t s) { return s / DEPTH * TILE_ROWS * LINE + s % DEPTH; }

/* p = exp(scale * score - top) for the keys that step t sees, 0 for the others; lse. Returns the sum of p. */
static float soften(float *p, Shape z, int64_t begin, int64_t end, int64_t first, int64_t t, float *lse)
{
    Vec tops = vec_all(-INFINITY), sums = {0};
    for (int64_t s = begin; s <= t; s += WIDTH)
        tops = vec_max(where_seen(z.scale * vec_f32(p + spot(s)), tops, s, first, t), tops);
    const float top = vec_top(tops);
    int64_t s = begin;
    for (; s <= t; s += WIDTH) {
        float *at = p + spot(s);
        const Vec weight = where_seen(vec_exp(z.scale * vec_f32(at) - top), (Vec){0}, s, first, t);
        vec_store(at, DT_F32, 0, WIDTH, weight);
        sums += weight;
    }
    for (; s < end; s += WIDTH) vec_store(p + spot(s), DT_F32, 0, WIDTH, (Vec){0});
    const float sum = vec_sum(sums);
    *lse = top + logf(sum);
    return sum;
}

/* The queries of steps t .. of one head. q, lse and first are theirs; out's begin at element `at`. */
static void forward_tile(Shape z, Room m, Tensor out, int64_t at, float *lse, const void *q, const int32_t *first,
                         int64_t t)
{
    const int64_t rows = at_most(z.T - t, TILE_ROWS), begin = first_panel(first, rows), end = t + rows;
    copy_lines(m.q_lines, q, z, z.P, rows, TILE_ROWS);
    for (int64_t s = begin; s < end; s += TILE_COLS)
        score(m.p + spot(s), m.q_lines, m.k_across + s * z.D, z, rows, TILE_ROWS);
    float sum[TILE_ROWS];
    for (int64_t r = 0; r < rows; r++)
        sum[r] = soften(m.p + r * LINE, z, begin, end, first[r], t + r, &lse[r]);
    for (int64_t i = 0; i < z.D; i += TILE_COLS)
        for (int64_t s = begin, next; s < end; s = next) {
            next = at_most(end, (s / DEPTH + 1) * DEPTH);
            CPU(tile_lines)(rows, next - s, m.p + spot(s), m.v_along + i * z.T + s * TILE_COLS, m.mean + i, z.width,
                            s > begin);
        }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < z.width; i += WIDTH)
            vec_store(m.mean, DT_F32, r * z.width + i, WIDTH, vec_f32(m.mean + r * z.width + i) / sum[r]);
    store_rows(out, at, z.H * z.D, m.mean, z, rows);
}

static size_t forward_bytes(Shape z)
{
#ifdef PAIRED
    if (z.A == DT_BF16) return CPU(bf16_forward_bytes)(z);
#endif
    Arena measure = {0};
    forward_room(&measure, z);
    return measure.used;
}

void CPU(attention_forward)(Device *d, Tensor out, Tensor lse, Tensor qkv, Tensor first, int H, int G)
{
#ifdef PAIRED
    if (qkv.dtype == DT_BF16) {
        CPU(bf16_attention_forward)(d, out, lse, qkv, first, H, G);
        return;
    }
#endif
    const Shape z = shape_of(qkv, H, G);
    const size_t bytes = forward_bytes(z);
    OMP(parallel for schedule(dynamic) num_threads(team(d, z.B * H * z.T * z.D)))
    for (int64_t task = 0; task < z.B * H; task++) {
        const int64_t b = task / H, h = task % H, g = h / (H / G);
        Arena part = my_part(d, bytes);
        const Room m = forward_room(&part, z);
        pack_across(m.k_across, k_of(z, qkv, b, g), z, z.P, z.T);
        pack_along(m.v_along, z.T, v_of(z, qkv, b, g), z, z.P, z.T);
        for (int64_t t = 0; t < z.T; t += TILE_ROWS)
            forward_tile(z, m, out, ((b * z.T + t) * H + h) * z.D, (float *)lse.data + task * z.T + t,
                         step(q_of(z, qkv, b, h), z, t * z.P), (const int32_t *)first.data + b * z.T + t, t);
    }
}

size_t CPU(attention_forward_scratch)(Device *d, Tensor out, Tensor lse, Tensor qkv, Tensor first, int H, int G)
{
    return (size_t)d->threads * forward_bytes(shape_of(qkv, H, G));
}

/* ---- forward over a cache --------------------------------------------------------------------------------------- */

/* One head's new tokens. z.T: the row's keys, the new ones among them. */
static void attend(Shape z, Device *d, size_t bytes, Tensor out, Tensor cache, Tensor qkv, const CachedRow *row,
                   int64_t h)
{
    const int64_t g = h / (z.H / z.G);
    Arena part = my_part(d, bytes);
    const Room m = forward_room(&part, z);
    for (int64_t s = 0; s < z.T; s += CACHE_PAGE) {
        const int64_t steps = at_most(z.T - s, CACHE_PAGE);
        pack_across(m.k_across + s * z.D, cached_k(z, cache, row, s, g), z, z.D, steps);
        pack_along(m.v_along + s * TILE_COLS, z.T, cached_v(z, cache, row, s, g), z, z.D, steps);
    }
    for (int64_t t = row->length; t < z.T; t += TILE_ROWS) {
        const int64_t n = row->begin + t - row->length;
        float lse[TILE_ROWS];
        forward_tile(z, m, out, (n * z.H + h) * z.D, lse, element(qkv, n * z.P + h * z.D), from_the_first, t);
    }
}

_Static_assert(CACHE_PAGE % TILE_COLS == 0 && (int)TILE_ROWS <= (int)MOST_TILE, "a page is some panels");

static void store_new(Device *d, Shape z, Tensor cache, Tensor qkv, Tensor table, Tensor start, Tensor length)
{
    const size_t size = (size_t)z.D * dtype_size(z.A);
    for (int64_t r = 0; r < numel(length); r++) {
        const CachedRow row = cached_row(table, start, length, r);
        PARALLEL_FOR(d, row.count * z.P)
        for (int64_t i = 0; i < row.count; i++)
            for (int64_t g = 0; g < 2 * z.G; g++)       /* the keys', then the values' */
                memcpy((void *)cached_k(z, cache, &row, row.length + i, g),
                       element(qkv, (row.begin + i) * z.P + (z.H + g) * z.D), size);
    }
}

static size_t cached_bytes(Shape z)
{
    const size_t some = forward_bytes(z), one = CPU(attend_one_bytes)(z);
    return some > one ? some : one;
}

void CPU(attention_cached)(Device *d, Tensor out, Tensor cache, Tensor qkv, Tensor table, Tensor start, Tensor length,
                           int H, int G)
{
    const Shape z = cached_shape(qkv, table, H, G);
    const size_t bytes = cached_bytes(z);
    const int64_t R = numel(length);
    store_new(d, z, cache, qkv, table, start, length);
    int64_t keys = 0;
    for (int64_t r = 0; r < R; r++) keys += cached_row(table, start, length, r).length + 1;
    const int64_t heads = at_least(at_most(R * H / (2 * d->threads), H), 1);    /* of a row, for one thread */
    OMP(parallel for schedule(dynamic, heads) num_threads(team(d, keys * H * z.D)))
    for (int64_t task = 0; task < R * H; task++) {
        const CachedRow row = cached_row(table, start, length, task / H);
        Shape own = z;
        own.T = row.length + row.count;
        if (row.count == 1) {
            CPU(attend_one)(own, d, bytes, out, cache, qkv, &row, task % H);
            continue;
        }
#ifdef PAIRED
        if (z.A == DT_BF16) {
            CPU(bf16_attend)(own, d, bytes, out, cache, qkv, &row, task % H);
            continue;
        }
#endif
        attend(own, d, bytes, out, cache, qkv, &row, task % H);
    }
}

size_t CPU(attention_cached_scratch)(Device *d, Tensor out, Tensor cache, Tensor qkv, Tensor table, Tensor start,
                                     Tensor length, int H, int G)
{
    return (size_t)d->threads * cached_bytes(cached_shape(qkv, table, H, G));
}

/* ---- backward --------------------------------------------------------------------------------------------------- */

/* One query's line over keys s0 .. s1:  p = exp(scale * p - lse), ds = scale * p * (ds - mean); 0 where not seen, and
 * whatever stands there is not read from key t + 1 on */
static void slopes(float *p, float *ds, Shape z, int64_t s0, int64_t s1, int64_t first, int64_t t, float lse,
                   float mean)
{
    for (int64_t s = s0; s < s1; s += WIDTH) {
        float *p_at = p + s % DEPTH, *ds_at = ds + s % DEPTH;
        if (s > t) {
            vec_store(p_at, DT_F32, 0, WIDTH, (Vec){0});
            vec_store(ds_at, DT_F32, 0, WIDTH, (Vec){0});
            continue;
        }
        const Vec weight = where_seen(vec_exp(z.scale * vec_f32(p_at) - lse), (Vec){0}, s, first, t);
        const Vec slope = where_seen(z.scale * weight * (vec_f32(ds_at) - mean), (Vec){0}, s, first, t);
        vec_store(p_at, DT_F32, 0, WIDTH, weight);
        vec_store(ds_at, DT_F32, 0, WIDTH, slope);
    }
}

/* p and ds of the queries over keys s0 .. s1, which lie in one block of DEPTH. Scores of a tile whose queries come
 * before all keys are not computed; nor are, below, sums of their zeros, which would leave the bits alone. */
static void weigh(Shape z, Room m, const Queries *n, int64_t s0, int64_t s1)
{
    for (int64_t s = s0; s < s1; s += TILE_COLS)
        for (int64_t r = 0; r < n->rows; r += TILE_ROWS) {
            const int64_t rows = at_most(n->rows - r, TILE_ROWS), at = r * LINE + s % DEPTH;
            if (s >= n->t + r + rows) continue;
            score(m.p + at, m.q_lines + r * LINE, m.k_across + s * z.D, z, rows, QUERIES);
            score(m.ds + at, m.dout_lines + r * LINE, m.v_across + s * z.D, z, rows, QUERIES);
        }
    for (int64_t r = 0; r < n->rows; r++)
        slopes(m.p + r * LINE, m.ds + r * LINE, z, s0, s1, n->first[n->t + r], n->t + r, n->lse[n->t + r], n->mean[r]);
}

/* dq += ds k;  dk += ds^T q;  dv += p^T dout */
static void spread(Shape z, Room m, const Queries *n, int64_t s0, int64_t s1)
{
    for (int64_t i = 0; i < z.D; i += TILE_COLS) {
        for (int64_t r = 0; r < n->rows; r += TILE_ROWS) {
            const int64_t rows = at_most(n->rows - r, TILE_ROWS), keys = at_most(s1, n->t + r + rows) - s0;
            if (keys > 0)
                CPU(tile_lines)(rows, keys, m.ds + r * LINE + s0 % DEPTH, m.k_along + i * z.T + s0 * TILE_COLS,
                                m.dq + r * z.width + i, z.width, s0 > n->begin);
        }
        for (int64_t s = s0; s < s1; s += TILE_ROWS) {
            const int64_t rows = at_most(s1 - s, TILE_ROWS), at = s * z.width + i, r = at_least(s - n->t, 0);
            const int64_t from = r * LINE + s % DEPTH, along = i * n->rows + r * TILE_COLS;
            CPU(tile_steps)(rows, n->rows - r, m.ds + from, LINE, m.q_along + along, m.dk + at, z.width, true, NULL);
            CPU(tile_steps)(rows, n->rows - r, m.p + from, LINE, m.dout_along + along, m.dv + at, z.width, true, NULL);
        }
    }
}

static void backward_head(Shape z, Room m, Tensor dqkv, Tensor dout, Tensor out, Tensor lse, Tensor qkv, Tensor first,
                          int64_t b, int64_t h)
{
    const void *q = q_of(z, qkv, b, h);
    for (int64_t t = 0; t < z.T; t += QUERIES) {
        Queries n = queries_at(z, lse, first, b, h, t, QUERIES);
        const int64_t at = ((b * z.T + t) * z.H + h) * z.D;
        const void *q_rows = step(q, z, t * z.P), *dout_rows = element(dout, at);
        copy_lines(m.q_lines, q_rows, z, z.P, n.rows, QUERIES);
        copy_lines(m.dout_lines, dout_rows, z, z.H * z.D, n.rows, QUERIES);
        pack_along(m.q_along, n.rows, q_rows, z, z.P, n.rows);
        pack_along(m.dout_along, n.rows, dout_rows, z, z.H * z.D, n.rows);
        for (int64_t r = 0; r < n.rows; r++) n.mean[r] = mean_slope(z, dout, out, at + r * z.H * z.D);
        for (int64_t s = n.begin, next; s < n.end; s = next) {
            next = at_most(n.end, (s / DEPTH + 1) * DEPTH);
            weigh(z, m, &n, s, next);
            spread(z, m, &n, s, next);
        }
        store_rows(dqkv, (b * z.T + t) * z.P + h * z.D, z.P, m.dq, z, n.rows);
    }
}

static size_t backward_bytes(Shape z)
{
#ifdef PAIRED
    if (z.A == DT_BF16) return CPU(bf16_backward_bytes)(z);
#endif
    Arena measure = {0};
    backward_room(&measure, z);
    return measure.used;
}

void CPU(attention_backward)(Device *d, Tensor dqkv, Tensor dout, Tensor out, Tensor lse, Tensor qkv, Tensor first,
                             int H, int G)
{
#ifdef PAIRED
    if (qkv.dtype == DT_BF16) {
        CPU(bf16_attention_backward)(d, dqkv, dout, out, lse, qkv, first, H, G);
        return;
    }
#endif
    const Shape z = shape_of(qkv, H, G);
    const size_t bytes = backward_bytes(z);
    OMP(parallel for schedule(dynamic) num_threads(team(d, z.B * H * z.T * z.D)))
    for (int64_t task = 0; task < z.B * G; task++) {
        const int64_t b = task / G, g = task % G, at = b * z.T * z.P + (H + g) * z.D;
        Arena part = my_part(d, bytes);
        const Room m = backward_room(&part, z);
        pack_across(m.k_across, k_of(z, qkv, b, g), z, z.P, z.T);
        pack_across(m.v_across, v_of(z, qkv, b, g), z, z.P, z.T);
        pack_along(m.k_along, z.T, k_of(z, qkv, b, g), z, z.P, z.T);
        memset(m.dk, 0, (size_t)(z.T * z.width) * sizeof *m.dk);
        memset(m.dv, 0, (size_t)(z.T * z.width) * sizeof *m.dv);
        for (int64_t h = g * (H / G); h < (g + 1) * (H / G); h++)
            backward_head(z, m, dqkv, dout, out, lse, qkv, first, b, h);
        store_rows(dqkv, at, z.P, m.dk, z, z.T);
        store_rows(dqkv, at + G * z.D, z.P, m.dv, z, z.T);
    }
}

size_t CPU(attention_backward_scratch)(Device *d, Tensor dqkv, Tensor dout, Tensor out, Tensor lse, Tensor qkv,
                                       Tensor first, int H, int G)
{
    return (size_t)d->threads * backward_bytes(shape_of(qkv, H, G));
}
