/* attention_bf16.c -- attention of bf16 where the processor multiplies it: products of bf16, sums and softmax of f32.
 * In AMX's tiles or by vdpbf16ps is up to bf16_multiply (gemm_amx.c, gemm_dot.c).
 *
 * As in attention.c a thread takes one head, or the heads of one group, and keys are cut into panels of 32. Scores are
 * computed 32 queries at a time; their weights p, and in the way back their slopes ds, are rounded to bf16 where they
 * meet a tile again. Forward the weights of 32 queries and all their keys are one operand. Backward dk and dv are
 * summed transposed, (D, keys): then p and ds of two queries only have to be woven to be columns of an operand. They
 * are added up in blocks of QUERIES, so that their sums seldom pass through memory.
 *
 * Sums run over keys, or queries, in pairs from 0 on, and terms of 0 leave their bits alone: what is computed depends
 * neither on T nor on the queries beside. But -0, which a sum below 2^-126 can become, is 0 after a term of 0;
 * so forward 0 is added to every sum. */
#include "attention.h"
#include "gemm_bf16.h"

#ifdef PAIRED

enum { TILE = PANEL_LINES };                                    /* queries, keys or columns of D of a panel */
enum { QUERIES = MOST_QUERIES, TILES = QUERIES / TILE };
enum { PANEL = TILE * TILE };                                   /* elements of 32 lines of 32 terms */

/* ---- rooms ------------------------------------------------------------------------------------------------------ */

/* One thread's scratch. "across" panels have keys for columns and D for terms; "along" panels columns of D, and steps
 * for terms; "lines" are operands on the left, queries of D terms; "turned" ones have columns of D for lines. */
typedef struct Room {
    uint16_t *k_across, *v_across, *k_along, *v_along;
    uint16_t *q_lines, *dout_lines, *q_turned, *dout_turned;
    uint16_t *p, *ds, *p_pairs, *ds_pairs;
    float    *scores, *dp, *mean, *dk, *dv;
} Room;

static void *take(Arena *a, const char *name, DType dtype, int64_t panels)
{
    return TAKE(a, name, dtype, panels, PANEL).data;
}

static Room forward_room(Arena *a, Shape z)
{
    const int64_t keys = whole(z.T, TILE), depth = z.width / TILE;
    return (Room){
        .k_across = take(a, "k_across", DT_BF16, keys * depth),
        .v_along = take(a, "v_along", DT_BF16, keys * depth),
        .q_lines = take(a, "q_lines", DT_BF16, depth),
        .p = take(a, "p", DT_BF16, keys),
        .scores = take(a, "scores", DT_F32, keys),
        .mean = take(a, "mean", DT_F32, 1),
    };
}

static Room backward_room(Arena *a, Shape z)
{
    const int64_t keys = whole(z.T, TILE), depth = z.width / TILE;
    return (Room){
        .k_across = take(a, "k_across", DT_BF16, keys * depth),
        .v_across = take(a, "v_across", DT_BF16, keys * depth),
        .k_along = take(a, "k_along", DT_BF16, keys * depth),
        .q_lines = take(a, "q_lines", DT_BF16, TILES * depth),
        .dout_lines = take(a, "dout_lines", DT_BF16, TILES * depth),
        .q_turned = take(a, "q_turned", DT_BF16, TILES * depth),
        .dout_turned = take(a, "dout_turned", DT_BF16, TILES * depth),
        .ds = take(a, "ds", DT_BF16, TILES * keys),
        .p_pairs = take(a, "p_pairs", DT_BF16, TILES),
        .ds_pairs = take(a, "ds_pairs", DT_BF16, TILES),
        .scores = take(a, "scores", DT_F32, 1),
        .dp = take(a, "dp", DT_F32, 1),
        .mean = take(a, "mean", DT_F32, 1),
        .dk = take(a, "dk", DT_F32, keys * depth),
        .dv = take(a, "dv", DT_F32, keys * depth),
    };
}

size_t CPU(bf16_forward_bytes)(Shape z)
{
    Arena measure = {0};
    forward_room(&measure, z);
    return measure.used;
}

size_t CPU(bf16_backward_bytes)(Shape z)
{
    Arena measure = {0};
    backward_room(&measure, z);
    return measure.used;
}

/* ---- packing ---------------------------------------------------------------------------------------------------- */

static const uint16_t *step(const void *from, int64_t elements) { return (const uint16_t *)from + elements; }

static void pack_across(uint16_t *to, const void *from, Shape z, int64_t stride, int64_t steps)
{
    for (int64_t s = 0; s < steps; s += TILE)
        pack_panel(false, true, to + s * z.width, step(from, s * stride), stride, at_most(steps - s, TILE), z.D);
}

/* Columns of D as columns (turn false) or lines (true) of an operand, with `steps` terms; panels lie `room` apart. */
static void pack_along(bool turn, uint16_t *to, int64_t room, const void *from, Shape z, int64_t stride, int64_t steps)
{
    for (int64_t i = 0; i < z.D; i += TILE, to += room) {
        const int64_t lines = at_most(z.D - i, TILE);
        if (turn) pack_panel(true, true, to, step(from, i), stride, lines, steps);
        else      pack_panel(true, false, to, step(from, i), stride, lines, steps);
    }
}

static void pack_lines(uint16_t *to, const void *from, Shape z, int64_t stride, int64_t rows)
{
    for (int64_t r = 0; r < rows; r += TILE)
        pack_panel(false, false, to + r * z.width, step(from, r * stride), stride, at_most(rows - r, TILE), z.D);
}

/* Where line r of a panel on the left begins; where a pair of terms does on the right, 16 columns together */
INLINE int64_t line(int64_t r) { return r / 16 * (PANEL / 2) + r % 16 * TILE; }
INLINE int64_t pair(int64_t r, int64_t half) { return half * (PANEL / 2) + r / 2 * TILE; }

INLINE __m512i two(Vec low, Vec high) { return (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low); }

INLINE __m512i woven(Vec even, Vec odd)
{
    const __m512i weave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
                                           23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(weave, two(even, odd));
}

/* ---- forward ---------------------------------------------------------------------------------------------------- */

/* Of each query of a tile: the largest score, in 16 lanes and of all keys; the sum of p, likewise */
typedef struct Softmax { Vec tops[TILE], sums[TILE]; float top[TILE], sum[TILE]; } Softmax;

/* Walks one panel of keys, from s on, line by line: queries' lines of all panels would meet in few sets of a cache. */
static void raise_tops(Softmax *of, const float *scores, Shape z, int64_t rows, int64_t s, const int32_t *first,
                       int64_t t)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < TILE; c += WIDTH)
            of->tops[r] = vec_max(where_seen(z.scale * vec_f32(scores + r * TILE + c), of->tops[r], s + c, first[r],
                                             t + r), of->tops[r]);
}

/* p = exp(scale * score - top) for the keys that the query sees, 0 for the others */
static void soften(Softmax *of, uint16_t *p, const float *scores, Shape z, int64_t rows, int64_t s,
                   const int32_t *first, int64_t t)
{
    for (int64_t r = 0; r < rows; r++) {
        Vec weight[2];
        for (int64_t c = 0; c < 2; c++) {
            const Vec score = z.scale * vec_f32(scores + r * TILE + c * WIDTH);
            weight[c] = where_seen(vec_exp(score - of->top[r]), (Vec){0}, s + c * WIDTH, first[r], t + r);
            of->sums[r] += weight[c];
        }
        _mm512_storeu_si512(p + line(r), two(weight[0], weight[1]));
    }
}

/* The queries of steps t .. of one head. q, lse and first are theirs; out's begin at element `at`. */
static void forward_tile(Shape z, Room m, Tensor out, int64_t at, float *lse, const void *q, const int32_t *first,
                         int64_t t)
{
    const int64_t rows = at_most(z.T - t, TILE), begin = first_panel(first, rows), end = t + rows;
    Softmax of;
    pack_lines(m.q_lines, q, z, z.P, rows);
    for (int64_t r = 0; r < rows; r++) of.tops[r] = vec_all(-INFINITY), of.sums[r] = (Vec){0};
    for (int64_t s = begin; s < end; s += TILE) {
        CPU(bf16_multiply)(m.q_lines, m.k_across + s * z.width, rows, z.D, m.scores + s * TILE, false);
        raise_tops(&of, m.scores + s * TILE, z, rows, s, first, t);
    }
    for (int64_t r = 0; r < rows; r++) of.top[r] = vec_top(of.tops[r]);
    for (int64_t s = begin; s < end; s += TILE)
        soften(&of, m.p + s * TILE, m.scores + s * TILE, z, rows, s, first, t);
    for (int64_t r = 0; r < rows; r++) {
        of.sum[r] = vec_sum(of.sums[r]);
        lse[r] = of.top[r] + logf(of.sum[r]);
    }
    for (int64_t i = 0; i < z.D; i += TILE) {
        const uint16_t *v = m.v_along + i * whole(z.T, TILE) * TILE;
        CPU(bf16_multiply)(m.p + begin * TILE, v + begin * TILE, rows, end - begin, m.mean, false);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < TILE && i + c < z.D; c += WIDTH)
                vec_store(out.data, DT_BF16, at + r * z.H * z.D + i + c, vec_left(z.D, i + c),
                          (vec_f32(m.mean + r * TILE + c) + 0.0f) / of.sum[r]);
    }
}

void CPU(bf16_attention_forward)(Device *d, Tensor out, Tensor lse, Tensor qkv, Tensor first, int H, int G)
{
    const Shape z = shape_of(qkv, H, G);
    const size_t bytes = CPU(bf16_forward_bytes)(z);
    OMP(parallel num_threads(team(d, z.B * H * z.T * z.D)))
    {
        CPU(amx_begin)();
        OMP(for schedule(dynamic))
        for (int64_t task = 0; task < z.B * H; task++) {
            const int64_t b = task / H, h = task % H, g = h / (H / G);
            Arena part = my_part(d, bytes);
            const Room m = forward_room(&part, z);
            pack_across(m.k_across, k_of(z, qkv, b, g), z, z.P, z.T);
            pack_along(false, m.v_along, whole(z.T, TILE) * PANEL, v_of(z, qkv, b, g), z, z.P, z.T);
            for (int64_t t = 0; t < z.T; t += TILE)
                forward_tile(z, m, out, ((b * z.T + t) * H + h) * z.D, (float *)lse.data + task * z.T + t,
                             step(q_of(z, qkv, b, h), t * z.P), (const int32_t *)first.data + b * z.T + t, t);
        }
        CPU(amx_end)();
    }
}

void CPU(bf16_attend)(Shape z, Device *d, size_t bytes, Tensor out, Tensor cache, Tensor qkv, const CachedRow *row,
                      int64_t h)
{
    const int64_t g = h / (z.H / z.G), room = whole(z.T, TILE) * PANEL;
    Arena part = my_part(d, bytes);
    const Room m = forward_room(&part, z);
    for (int64_t s = 0; s < z.T; s += CACHE_PAGE) {
        const int64_t steps = at_most(z.T - s, CACHE_PAGE);
        pack_across(m.k_across + s * z.width, cached_k(z, cache, row, s, g), z, z.D, steps);
        pack_along(false, m.v_along + s * TILE, room, cached_v(z, cache, row, s, g), z, z.D, steps);
    }
    CPU(amx_begin)();
    for (int64_t t = row->length; t < z.T; t += TILE) {
        const int64_t n = row->begin + t - row->length;
        float lse[TILE];
        forward_tile(z, m, out, (n * z.H + h) * z.D, lse, element(qkv, n * z.P + h * z.D), from_the_first, t);
    }
    CPU(amx_end)();
}

_Static_assert(CACHE_PAGE % TILE == 0 && (int)TILE <= (int)MOST_TILE, "a page is some panels");

/* ---- backward --------------------------------------------------------------------------------------------------- */

/* p and ds of line r of the tile and the 16 keys from s + c on; 0 if there is no such query */
INLINE void slopes(Shape z, Room m, const Queries *n, int64_t r, int64_t tile, int64_t s, int64_t c, Vec *p, Vec *ds)
{
    const int64_t query = tile * TILE + r;
    *p = *ds = (Vec){0};
    if (query >= n->rows) return;
    const int64_t first = n->first[n->t + query], t = n->t + query;
    const Vec score = z.scale * vec_f32(m.scores + r * TILE + c), dp = vec_f32(m.dp + r * TILE + c);
    *p = where_seen(vec_exp(score - n->lse[t]), (Vec){0}, s + c, first, t);
    *ds = where_seen(z.scale * *p * (dp - n->mean[query]), (Vec){0}, s + c, first, t);
}

/* p and ds of one tile of queries and one panel of keys, ready to be operands */
static void weigh(Shape z, Room m, const Queries *n, int64_t tile, int64_t s)
{
    const int64_t rows = at_most(n->rows - tile * TILE, TILE), lines = tile * TILE * z.width;
    uint16_t *ds_lines = m.ds + tile * whole(z.T, TILE) * PANEL + s * TILE;
    CPU(bf16_multiply)(m.q_lines + lines, m.k_across + s * z.width, rows, z.D, m.scores, false);
    CPU(bf16_multiply)(m.dout_lines + lines, m.v_across + s * z.width, rows, z.D, m.dp, false);
    for (int64_t r = 0; r < TILE; r += 2) {
        Vec p[2][2], ds[2][2];          /* of two queries, two halves of the panel's keys each */
        for (int64_t k = 0; k < 4; k++)
            slopes(z, m, n, r + k / 2, tile, s, k % 2 * WIDTH, &p[k / 2][k % 2], &ds[k / 2][k % 2]);
        for (int64_t half = 0; half < 2; half++) {
            _mm512_storeu_si512(ds_lines + line(r + half), two(ds[half][0], ds[half][1]));
            _mm512_storeu_si512(m.p_pairs + tile * PANEL + pair(r, half), woven(p[0][half], p[1][half]));
            _mm512_storeu_si512(m.ds_pairs + tile * PANEL + pair(r, half), woven(ds[0][half], ds[1][half]));
        }
    }
}

/* dq of each tile of queries = ds k, over all keys at once */
static void write_dq(Shape z, Room m, const Queries *n, Tensor dqkv, int64_t at)
{
    const int64_t keys = whole(z.T, TILE) * PANEL;
    for (int64_t r = 0; r < n->rows; r += TILE)
        for (int64_t i = 0; i < z.D; i += TILE) {
            const int64_t rows = at_most(n->rows - r, TILE), skip = n->begin * TILE;
            CPU(bf16_multiply)(m.ds + r / TILE * keys + skip, m.k_along + i / TILE * keys + skip, rows,
                              n->t + r + rows - n->begin, m.mean, false);
            for (int64_t k = 0; k < rows; k++)
                for (int64_t c = 0; c < TILE && i + c < z.D; c += WIDTH)
                    vec_store(dqkv.data, DT_BF16, at + (r + k) * z.P + i + c, vec_left(z.D, i + c),
                              vec_f32(m.mean + k * TILE + c));
        }
}

static void backward_queries(Shape z, Room m, Queries *n, Tensor dqkv, Tensor dout, Tensor out, const void *q,
                             int64_t b, int64_t h)
{
    const int64_t at = ((b * z.T + n->t) * z.H + h) * z.D;
    const void *q_rows = step(q, n->t * z.P), *dout_rows = element(dout, at);
    pack_lines(m.q_lines, q_rows, z, z.P, n->rows);
    pack_lines(m.dout_lines, dout_rows, z, z.H * z.D, n->rows);
    pack_along(true, m.q_turned, TILES * PANEL, q_rows, z, z.P, n->rows);
    pack_along(true, m.dout_turned, TILES * PANEL, dout_rows, z, z.H * z.D, n->rows);
    for (int64_t r = 0; r < n->rows; r++) n->mean[r] = mean_slope(z, dout, out, at + r * z.H * z.D);
    for (int64_t s = n->begin; s < n->end; s += TILE) {
        const int64_t tile = s > n->t ? (s - n->t) / TILE : 0, skip = tile * PANEL;     /* none before sees the panel */
        for (int64_t i = tile; i * TILE < n->rows; i++) weigh(z, m, n, i, s);
        for (int64_t i = 0; i < z.D; i += TILE) {
            const int64_t rows = at_most(z.D - i, TILE), to = s * z.width + i * TILE;
            const int64_t from = i / TILE * TILES * PANEL + skip;
            CPU(bf16_multiply)(m.q_turned + from, m.ds_pairs + skip, rows, n->rows - tile * TILE, m.dk + to, true);
            CPU(bf16_multiply)(m.dout_turned + from, m.p_pairs + skip, rows, n->rows - tile * TILE, m.dv + to, true);
        }
    }
    write_dq(z, m, n, dqkv, (b * z.T + n->t) * z.P + h * z.D);
}

/* (D, keys) sums to rows of D; `at` is where the first key's begin */
static void write_turned(Shape z, Tensor to, int64_t at, const float *sums)
{
    for (int64_t s = 0; s < z.T; s += WIDTH)
        for (int64_t i = 0; i < z.D; i += WIDTH) {
            Vec v[WIDTH];
            const float *from = sums + s / TILE * TILE * z.width + i / TILE * PANEL + i % TILE * TILE + s % TILE;
            for (int k = 0; k < WIDTH; k++) v[k] = i + k < z.D ? vec_f32(from + k * TILE) : (Vec){0};
            vec_transpose(v);
            for (int64_t k = 0; k < vec_left(z.T, s); k++)
                vec_store(to.data, DT_BF16, at + (s + k) * z.P + i, vec_left(z.D, i), v[k]);
        }
}

void CPU(bf16_attention_backward)(Device *d, Tensor dqkv, Tensor dout, Tensor out, Tensor lse, Tensor qkv,
                                  Tensor first, int H, int G)
{
    const Shape z = shape_of(qkv, H, G);
    const int64_t keys = whole(z.T, TILE) * TILE;
    const size_t bytes = CPU(bf16_backward_bytes)(z), sums = (size_t)(keys * z.width) * sizeof(float);
    OMP(parallel num_threads(team(d, z.B * H * z.T * z.D)))
    {
        CPU(amx_begin)();
        OMP(for schedule(dynamic))
        for (int64_t task = 0; task < z.B * G; task++) {
            const int64_t b = task / G, g = task % G, at = b * z.T * z.P + (H + g) * z.D;
            Arena part = my_part(d, bytes);
            const Room m = backward_room(&part, z);
            pack_across(m.k_across, k_of(z, qkv, b, g), z, z.P, z.T);
            pack_across(m.v_across, v_of(z, qkv, b, g), z, z.P, z.T);
            pack_along(false, m.k_along, keys * TILE, k_of(z, qkv, b, g), z, z.P, z.T);
            memset(m.dk, 0, sums);
            memset(m.dv, 0, sums);
            for (int64_t h = g * (H / G); h < (g + 1) * (H / G); h++)
                for (int64_t t = 0; t < z.T; t += QUERIES) {
                    Queries n = queries_at(z, lse, first, b, h, t, QUERIES);
                    backward_queries(z, m, &n, dqkv, dout, out, q_of(z, qkv, b, h), b, h);
                }
            write_turned(z, dqkv, at, m.dk);
            write_turned(z, dqkv, at + G * z.D, m.dv);
        }
        CPU(amx_end)();
    }
}

#endif
