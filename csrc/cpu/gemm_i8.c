/* gemm_i8.c -- products with weights of int8, x w^T; see quantize.h.
 *
 * Rows of x are brought to int8 too. Of a group of terms the products of two rows then add up to a whole number below
 * 2^24, which int32 and f32 hold exactly, so that it does not matter what finds it: tiles of AMX, vpdpbusd, or floats.
 * The sums of groups are added one after the other, each times the product of both scales, and nothing else enters: a
 * row computed alone has the bits it has among others. */
#include "gemm.h"
#include "../quantize.h"

enum { PANEL = 16, GROUP = QUANT_GROUP, WORDS = GROUP / 4 };    /* rows of x; terms, and words of four, of a group */

#ifdef __AVX512VNNI__
typedef int8_t Number;
#else
typedef float Number;           /* whole all the same */
#endif

/* x in panels of PANEL rows, with 0 for what is not there: number (panels, groups, PANEL, GROUP), scale and lift
 * (panels, groups, PANEL). For tiles the words of a group are turned: (WORDS, PANEL) of four numbers.
 * ws: each thread's scales of w, (groups, TILE_COLS). */
typedef struct Work {
    const Product *p;
    const float *w_scale;
    int64_t groups, panels;
    bool    tiles;
    Number *number;
    float  *scale;
    int32_t *lift;              /* -128 times the sum of a row's numbers */
    float  *ws;
} Work;

enum { FEWEST = 4 };            /* rows of x for which tiles are no help */

static Work work_of(const Product *p, const float *w_scale, void *workspace, size_t *bytes, int threads)
{
    Work k = { .p = p, .w_scale = w_scale, .groups = quant_groups(p->K), .panels = whole(p->M, PANEL) };
#ifdef AMX
    k.tiles = p->M > FEWEST;
#endif
    const size_t rows = (size_t)(k.panels * k.groups * PANEL);
    k.number = workspace;
    k.scale = (float *)(k.number + rows * GROUP);
    k.lift = (int32_t *)(k.scale + rows);
    k.ws = (float *)(k.lift + rows);
    const size_t all = (size_t)(threads * k.groups * TILE_COLS);
    if (bytes) *bytes = rows * (GROUP * sizeof(Number) + sizeof(float) + sizeof(int32_t)) + all * sizeof(float);
    return k;
}

/* ---- x to int8 -------------------------------------------------------------------------------------------------- */

enum { PARTS = GROUP / WIDTH };

static float largest(const Vec v[PARTS])
{
    VecI top = {0};
    for (int i = 0; i < PARTS; i++) {
        const VecI bits = (VecI)v[i] & 0x7fffffff, more = bits > top;       /* as whole numbers, where a NaN is largest */
        top = (bits & more) | (top & ~more);
    }
    int32_t lane[WIDTH], most = 0;
    memcpy(lane, &top, sizeof lane);
    for (int i = 0; i < WIDTH; i++) most = lane[i] > most ? lane[i] : most;
    float result;
    memcpy(&result, &most, sizeof result);
    return result;
}

static void put_numbers(Number *to, VecI n)
{
#ifdef __AVX512VNNI__
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8((__m512i)n));
#else
    const Vec v = __builtin_convertvector(n, Vec);
    memcpy(to, &v, sizeof v);
#endif
}

/* Terms k .. of row m, which is row r of the panel's group at `at` */
INLINE void quantize_row(const Work *w, const int A, int64_t m, int64_t k, int64_t at, int64_t r)
{
    const Product *p = w->p;
    const Vec shift = vec_all(0x1.8p23f);       /* added, it rounds to a whole number, which is then in the low bits */
    Vec v[PARTS];
    for (int i = 0; i < PARTS; i++) {
        const int64_t from = k + i * WIDTH;
        v[i] = m < p->M && from < p->K ? vec_load(p->a.data, A, m * p->K + from, vec_left(p->K, from)) : (Vec){0};
    }
    float inverse;
    w->scale[at * PANEL + r] = quant_scale(largest(v), &inverse);
    VecI sum = {0};
    for (int i = 0; i < PARTS; i++) {
        const VecI n = (VecI)(v[i] * inverse + shift) - (VecI)shift;
        put_numbers(w->number + (at * PANEL + r) * GROUP + i * WIDTH, n);
        sum += n;
    }
    int32_t lane[WIDTH], total = 0;
    memcpy(lane, &sum, sizeof lane);
    for (int i = 0; i < WIDTH; i++) total += lane[i];
    w->lift[at * PANEL + r] = -128 * total;
}

static void quantize_panel(const Work *w, int64_t panel)
{
    for (int64_t g = 0; g < w->groups; g++) {
        const int64_t at = panel * w->groups + g;
        for (int64_t r = 0; r < PANEL; r++)
            FLOAT_SWITCH(w->p->a.dtype, A, quantize_row(w, A, panel * PANEL + r, g * GROUP, at, r));
#ifdef AMX
        if (w->tiles) {
            Vec *turned = (Vec *)(w->number + at * PANEL * GROUP), v[PANEL];
            memcpy(v, turned, sizeof v);
            vec_transpose(v);
            memcpy(turned, v, sizeof v);
        }
#endif
    }
}

/* ---- in vector registers ---------------------------------------------------------------------------------------- */

/* Numbers of a row of w, from term k on, WIDTH words of four; 0 where there are none */
INLINE Vec words(const Product *p, int64_t n, int64_t k)
{
    const int8_t *from = (const int8_t *)p->b.data + n * p->K + k;
    const int64_t left = n < p->N ? p->K - k : 0;
    Vec v = {0};
#ifdef __AVX512BW__
    if (left < 4 * WIDTH) return (Vec)_mm512_maskz_loadu_epi8(left > 0 ? (UINT64_C(1) << left) - 1 : 0, from);
#else
    if (left < 4 * WIDTH) {
        if (left > 0) memcpy(&v, from, (size_t)left);
        return v;
    }
#endif
    memcpy(&v, from, sizeof v);
    return v;
}

/* dot[m] += for WIDTH rows of w, of which `word` holds four terms, their products with row m of x */
INLINE void add_words(const int M, Vec *dot, Vec word, const Number *x)
{
#ifdef __AVX512VNNI__
    const __m512i lifted = (__m512i)((VecU)word ^ 0x80808080u);     /* by 128, as vpdpbusd wants it */
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) {
        int32_t four;
        memcpy(&four, x + m * GROUP, sizeof four);
        dot[m] = (Vec)_mm512_dpbusd_epi32((__m512i)dot[m], lifted, _mm512_set1_epi32(four));
    }
#else
    for (int i = 0; i < 4; i++) {
        const Vec term = __builtin_convertvector((VecI)((VecU)word << (24 - 8 * i)) >> 24, Vec);
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) dot[m] += term * x[m * GROUP + i];
    }
#endif
}

/* Rows r .. r + M - 1 of a panel, by WIDTH rows of w */
INLINE void rows_by_width(const int M, const Work *w, int64_t panel, int64_t r, int64_t n, const float *ws, float *sums)
{
    Vec sum[8] = {0};
    for (int64_t g = 0; g < w->groups; g++, ws += TILE_COLS) {
        const int64_t at = (panel * w->groups + g) * PANEL + r;
        const Number *x = w->number + at * GROUP;
        Vec dot[8] = {0};
#ifdef __AVX512VNNI__
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) dot[m] = (Vec)_mm512_set1_epi32(w->lift[at + m]);
#endif
        for (int part = 0; part < WORDS; part += WIDTH, x += 4 * WIDTH) {
            Vec v[WIDTH];
#pragma GCC unroll 16
            for (int i = 0; i < WIDTH; i++) v[i] = words(w->p, n + i, g * GROUP + 4 * part);
            vec_transpose(v);
#ifdef __AVX512VNNI__
#pragma GCC unroll 16
#else
#pragma GCC unroll 1
#endif
            for (int i = 0; i < WIDTH; i++) add_words(M, dot, v[i], x + 4 * i);
        }
        const Vec scale = vec_f32(ws);
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) {
#ifdef __AVX512VNNI__
            dot[m] = __builtin_convertvector((VecI)dot[m], Vec);
#endif
            sum[m] += dot[m] * (w->scale[at + m] * scale);
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) memcpy(sums + (r + m) * TILE_COLS, &sum[m], sizeof sum[m]);
}

static void by_vectors(const Work *w, int64_t panel, int64_t n, const float *ws, float *sums)
{
    const int64_t rows = at_most(w->p->M - panel * PANEL, PANEL);
    for (int64_t c = 0; c < TILE_COLS; c += WIDTH)
        for (int64_t r = 0; r < rows;) {
#define ROWS(M) { rows_by_width(M, w, panel, r, n + c, ws + c, sums + c); r += M; }
            if (rows - r > 4)      ROWS(8)
            else if (rows - r > 1) ROWS(4)
            else                   ROWS(1)
#undef ROWS
        }
}

/* ---- in AMX's tiles --------------------------------------------------------------------------------------------- */

#ifdef AMX

enum { SIDE = 16 };             /* rows of w */

INLINE void fetch(Vec lines[SIDE], const Product *p, int64_t n, int64_t k)
{
#pragma GCC unroll 16
    for (int i = 0; i < SIDE; i++) lines[i] = words(p, n + i, k);
}

/* Rows of w stand on the left, rows of x on the right, so sums come out turned. Tiles are loaded from what was fetched
 * a group before: from memory itself they would wait line by line. */
static void by_tiles(const Work *w, int64_t panel, int64_t n, const float *ws, float *sums)
{
    for (int64_t c = 0; c < TILE_COLS; c += SIDE) {
        Vec lines[2][SIDE], sum[SIDE] = {0};
        _Alignas(64) int32_t dots[SIDE * PANEL];
        fetch(lines[0], w->p, n + c, 0);
        for (int64_t g = 0; g < w->groups; g++) {
            const int64_t at = (panel * w->groups + g) * PANEL;
            if (g + 1 < w->groups) fetch(lines[(g + 1) % 2], w->p, n + c, (g + 1) * GROUP);
            _tile_loadd(1, lines[g % 2], GROUP);
            _tile_loadd(2, w->number + at * GROUP, GROUP);
            _tile_zero(0);
            _tile_dpbssd(0, 1, 2);
            _tile_stored(0, dots, PANEL * 4);
            const Vec scale = vec_f32(w->scale + at);
#pragma GCC unroll 16
            for (int i = 0; i < SIDE; i++) {
                VecI dot;
                memcpy(&dot, dots + i * PANEL, sizeof dot);
                sum[i] += __builtin_convertvector(dot, Vec) * (scale * ws[g * TILE_COLS + c + i]);
            }
        }
        vec_transpose(sum);
        for (int r = 0; r < PANEL; r++) memcpy(sums + r * TILE_COLS + c, &sum[r], sizeof sum[r]);
    }
}

#endif

/* ---- all of it -------------------------------------------------------------------------------------------------- */

static void columns(const Work *w, int64_t n, float *ws)
{
    _Alignas(64) float sums[PANEL * TILE_COLS];
    const int64_t cols = at_most(w->p->N - n, TILE_COLS);
    CPU(pack_columns)(ws, TILE_COLS, w->w_scale + n * w->groups, DT_F32, w->groups, w->groups, cols);
    for (int64_t panel = 0; panel < w->panels; panel++) {
#ifdef AMX
        if (w->tiles) by_tiles(w, panel, n, ws, sums);
        else
#endif
        by_vectors(w, panel, n, ws, sums);
        CPU(finish)(w->p, sums, panel * PANEL, n, at_most(w->p->M - panel * PANEL, PANEL), cols);
    }
}

/* b is i8 (N,K), w_scale (N, groups) */
void CPU(gemm_i8)(Device *d, const Product *p, Tensor w_scale)
{
    const Work w = work_of(p, w_scale.data, d->workspace, NULL, d->threads);
    OMP(parallel num_threads(team(d, p->M * p->N * p->K)))
    {
        float *ws = w.ws + omp_get_thread_num() * w.groups * TILE_COLS;
#ifdef AMX
        CPU(amx_begin)();
#endif
        OMP(for schedule(static))
        for (int64_t panel = 0; panel < w.panels; panel++) quantize_panel(&w, panel);
        OMP(for schedule(dynamic))
        for (int64_t n = 0; n < p->N; n += TILE_COLS) columns(&w, n, ws);
#ifdef AMX
        CPU(amx_end)();
#endif
    }
}

size_t CPU(gemm_i8_scratch)(Device *d, const Product *p)
{
    size_t bytes;
    work_of(p, NULL, NULL, &bytes, d->threads);
    return bytes;
}
