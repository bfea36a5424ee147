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
 * (panels, groups, PANEL). turned: the words of a group stand as (WORDS, PANEL) of four numbers, as tiles want them,
 * and registers whose lanes are x's rows. */
typedef struct Work {
    const Product *p;
    const float *w_scale;
    int64_t groups, panels;
    bool    turned;
    Number *number;
    float  *scale;
    int32_t *lift;              /* -128 times the sum of a row's numbers */
} Work;

enum { FEWEST = 2 };            /* rows of x that go one by one where there is vpdpbusd */
enum { SOME = 8 };              /* rows of x at most, while lanes are rows of w */

static Work work_of(const Product *p, const float *w_scale, void *workspace, size_t *bytes)
{
    Work k = { .p = p, .w_scale = w_scale, .groups = quant_groups(p->K), .panels = whole(p->M, PANEL) };
#if defined(AMX)
    k.turned = p->M > FEWEST;
#elif defined(__AVX512VNNI__)
    k.turned = p->M > SOME;
#endif
    const size_t rows = (size_t)(k.panels * k.groups * PANEL);
    k.number = workspace;
    k.scale = (float *)(k.number + rows * GROUP);
    k.lift = (int32_t *)(k.scale + rows);
    if (bytes) *bytes = rows * (GROUP * sizeof(Number) + sizeof(float) + sizeof(int32_t));
    return k;
}

/* ---- x to int8 -------------------------------------------------------------------------------------------------- */

enum { PARTS = GROUP / WIDTH };

static float largest(const Vec v[PARTS])
{
    VecI top = {0};
    for (int i = 0; i < PARTS; i++) {
        const VecI bits = (VecI)v[i] & 0x7fffffff, more = bits > top;   /* of whole numbers a NaN's are the largest */
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
    const int64_t place = at * PANEL + r;
    if (m >= p->M) {
        memset(w->number + place * GROUP, 0, GROUP * sizeof(Number));
        w->scale[place] = 0, w->lift[place] = 0;
        return;
    }
    const Vec shift = vec_all(0x1.8p23f);       /* added, it rounds to a whole number, which is then in the low bits */
    Vec v[PARTS];
    for (int i = 0; i < PARTS; i++) {
        const int64_t from = k + i * WIDTH;
        v[i] = from < p->K ? vec_load(p->a.data, A, m * p->K + from, vec_left(p->K, from)) : (Vec){0};
    }
    float inverse;
    w->scale[place] = quant_scale(largest(v), &inverse);
    VecU sum = {0};             /* unsigned: of a NaN come numbers of any size */
    for (int i = 0; i < PARTS; i++) {
        const VecU n = (VecU)(v[i] * inverse + shift) - (VecU)shift;
        put_numbers(w->number + place * GROUP + i * WIDTH, (VecI)n);
        sum += n;
    }
    uint32_t lane[WIDTH], total = 0;
    memcpy(lane, &sum, sizeof lane);
    for (int i = 0; i < WIDTH; i++) total += lane[i];
    w->lift[place] = (int32_t)(0 - 128 * total);
}

static void quantize_group(const Work *w, int64_t panel, int64_t g)
{
    const int64_t at = panel * w->groups + g;
    for (int64_t r = 0; r < PANEL; r++)
        FLOAT_SWITCH(w->p->a.dtype, A, quantize_row(w, A, panel * PANEL + r, g * GROUP, at, r));
#ifdef __AVX512VNNI__
    if (w->turned) {
        Vec *turned = (Vec *)(w->number + at * PANEL * GROUP), v[PANEL];
        memcpy(v, turned, sizeof v);
        vec_transpose(v);
        memcpy(turned, v, sizeof v);
    }
#endif
}

/* ---- w ---------------------------------------------------------------------------------------------------------- */

/* Lane i stands for row n + SPREAD * i: rows that are read side by side should not lie in one page of memory, or the
 * processor does not see that each is read in order. */
enum { SPREAD = 4 };

/* Of lane i's row: WIDTH words of four numbers from term k on, 0 where there are none */
INLINE Vec words(const Product *p, int64_t n, int i, int64_t k)
{
    const int8_t *from = (const int8_t *)p->b.data + (n + SPREAD * i) * p->K + k;
    const int64_t left = n + SPREAD * i < p->N ? p->K - k : 0;
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

/* The same of all lanes */
INLINE void lines_of(Vec v[WIDTH], const Product *p, int64_t n, int64_t k)
{
    const int8_t *from = (const int8_t *)p->b.data + n * p->K + k;
    const int64_t stride = SPREAD * p->K;
    if (n + SPREAD * (WIDTH - 1) < p->N && k + 4 * WIDTH <= p->K) {
#pragma GCC unroll 16
        for (int i = 0; i < WIDTH; i++) memcpy(&v[i], from + i * stride, sizeof v[i]);
    } else
        for (int i = 0; i < WIDTH; i++) v[i] = words(p, n, i, k);
}

/* of the lanes' group g */
INLINE Vec scales(const Work *w, int64_t n, int64_t g)
{
    Vec v = {0};
#pragma GCC unroll 16
    for (int i = 0; i < WIDTH; i++)
        if (n + SPREAD * i < w->p->N) v[i] = w->w_scale[(n + SPREAD * i) * w->groups + g];
    return v;
}

/* ---- in vector registers ---------------------------------------------------------------------------------------- */

#ifdef __AVX512VNNI__
/* by 128, as vpdpbusd wants it */
INLINE __m512i lifted(Vec words) { return (__m512i)((VecU)words ^ 0x80808080u); }
INLINE Vec folded(Vec a, Vec b) { return (Vec)((VecI)WEAVE_LOW(a, b) + (VecI)WEAVE_HIGH(a, b)); }

/* found = row r of a panel, times the lanes */
static void one_row(const Work *w, Ahead ahead, int64_t panel, int64_t r, int64_t n, Vec *found)
{
    Vec sum = {0};
    for (int64_t g = 0; g < w->groups; g++) {
        const int64_t at = (panel * w->groups + g) * PANEL + r;
        const __m512i x = _mm512_loadu_si512(w->number + at * GROUP);
        Vec v[WIDTH];
        lines_of(v, w->p, n, g * GROUP);
#pragma GCC unroll 16
        for (int i = 0; i < WIDTH; i++) {
            ask(ahead, g, i);
            v[i] = (Vec)_mm512_dpbusd_epi32(_mm512_setzero_si512(), lifted(v[i]), x);
        }
#pragma GCC unroll 4
        for (int many = WIDTH / 2; many; many /= 2)
#pragma GCC unroll 8
            for (int i = 0; i < many; i++) v[i] = folded(v[i], v[i + many]);
        sum += __builtin_convertvector((VecI)v[0] + w->lift[at], Vec) * (w->scale[at] * scales(w, n, g));
    }
    *found = sum;
}
#endif

/* dot[m] += for WIDTH rows of w, of which `word` holds four terms, their products with row m of x */
INLINE void add_words(const int M, Vec *dot, Vec word, const Number *x)
{
#ifdef __AVX512VNNI__
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) {
        int32_t four;
        memcpy(&four, x + m * GROUP, sizeof four);
        dot[m] = (Vec)_mm512_dpbusd_epi32((__m512i)dot[m], lifted(word), _mm512_set1_epi32(four));
    }
#else
    for (int i = 0; i < 4; i++) {
        const Vec term = __builtin_convertvector((VecI)((VecU)word << (24 - 8 * i)) >> 24, Vec);
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) dot[m] += term * x[m * GROUP + i];
    }
#endif
}

/* found[m] = row r + m of a panel, times the lanes */
INLINE void some_rows(const int M, const Work *w, Ahead ahead, int64_t panel, int64_t r, int64_t n, Vec *found)
{
    Vec sum[SOME] = {0};
    for (int64_t g = 0; g < w->groups; g++) {
        const int64_t at = (panel * w->groups + g) * PANEL + r;
        const Number *x = w->number + at * GROUP;
        Vec dot[SOME] = {0};
#ifdef __AVX512VNNI__
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) dot[m] = (Vec)_mm512_set1_epi32(w->lift[at + m]);
#endif
        for (int part = 0; part < WORDS; part += WIDTH, x += 4 * WIDTH) {
            Vec v[WIDTH];
            lines_of(v, w->p, n, g * GROUP + 4 * part);
            vec_transpose(v);
#ifdef __AVX512VNNI__
#pragma GCC unroll 16
#else
#pragma GCC unroll 1
#endif
            for (int i = 0; i < WIDTH; i++) {
                ask(ahead, (g * WORDS + part) / WIDTH, i);
                add_words(M, dot, v[i], x + 4 * i);
            }
        }
        const Vec scale = scales(w, n, g);
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) {
#ifdef __AVX512VNNI__
            dot[m] = __builtin_convertvector((VecI)dot[m], Vec);
#endif
            sum[m] += dot[m] * (w->scale[at + m] * scale);
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) found[m] = sum[m];
}

#if defined(__AVX512VNNI__) && !defined(AMX)
/* Group g of the lanes, as vpdpbusd wants it */
INLINE void copy_group(Vec v[WIDTH], const Work *w, Ahead ahead, int64_t n, int64_t g)
{
    const Product *p = w->p;
    if (n + SPREAD * (WIDTH - 1) >= p->N || (g + 1) * GROUP > p->K) {
        for (int i = 0; i < WIDTH; i++) v[i] = (Vec)lifted(words(p, n, i, g * GROUP));
        return;
    }
    const char *at = (const char *)p->b.data + n * p->K + g * GROUP, *asked = ahead.at + g * ahead.step;
#pragma GCC unroll 16
    for (int i = 0; i < WIDTH; i++, at += SPREAD * p->K, asked += ahead.line) {
        __asm__("" : "+r"(at), "+r"(asked));    /* or the compiler keeps 32 addresses, most of them in memory */
        __builtin_prefetch(asked, 0, 2);
        v[i] = (Vec)lifted(vec_f32((const float *)at));
    }
}

/* found[m] = row m of a panel, times the lanes. Here rows of x stand in lanes, and nothing of w is turned: its words
 * are copied to where they lie side by side, a group before they are wanted, and each meets all rows. */
static void all_rows(const Work *w, Ahead ahead, int64_t panel, int64_t n, Vec found[PANEL])
{
    const int64_t there = whole(at_most(w->p->N - n, SPREAD * WIDTH), SPREAD);
    const float *w_scale = w->w_scale + n * w->groups;
    Vec group[2][WIDTH], sum[WIDTH] = {0};
    copy_group(group[0], w, ahead, n, 0);
    for (int64_t g = 0; g < w->groups; g++) {
        const int64_t at = (panel * w->groups + g) * PANEL;
        const Vec *x = (const Vec *)(w->number + at * GROUP), x_scale = vec_f32(w->scale + at);
        const __m512i lift = _mm512_loadu_si512(w->lift + at);
        const int32_t *word = (const int32_t *)group[g % 2];
        __m512i dot[WIDTH];
        if (g + 1 < w->groups) copy_group(group[(g + 1) % 2], w, ahead, n, g + 1);
#pragma GCC unroll 16
        for (int i = 0; i < WIDTH; i++) dot[i] = lift;
        for (int u = 0; u < WORDS; u++)
#pragma GCC unroll 16
            for (int i = 0; i < WIDTH; i++)
                dot[i] = _mm512_dpbusd_epi32(dot[i], _mm512_set1_epi32(word[i * WORDS + u]), (__m512i)x[u]);
#pragma GCC unroll 16
        for (int i = 0; i < WIDTH; i++)
            sum[i] += __builtin_convertvector((VecI)dot[i], Vec)
                    * (x_scale * w_scale[at_most(i, there - 1) * SPREAD * w->groups + g]);
    }
    vec_transpose(sum);
    memcpy(found, sum, sizeof sum);
}
#endif

static void by_vectors(const Work *w, Ahead ahead, int64_t panel, int64_t rows, int64_t n, Vec *found)
{
#if defined(__AVX512VNNI__) && !defined(AMX)
    if (w->turned) {
        all_rows(w, ahead, panel, n, found);
        return;
    }
#endif
#ifdef __AVX512VNNI__
    if (rows <= FEWEST) {
        for (int64_t r = 0; r < rows; r++) one_row(w, ahead, panel, r, n, found + r);
        return;
    }
#endif
    for (int64_t r = 0; r < rows; r += SOME)
        if (rows - r > 4) some_rows(SOME, w, ahead, panel, r, n, found + r);
        else              some_rows(4, w, ahead, panel, r, n, found + r);
}

/* ---- in AMX's tiles --------------------------------------------------------------------------------------------- */

#ifdef AMX

enum { AHEAD = 2 };             /* groups, that memory is asked for beforehand */

INLINE void ask_groups(const Product *p, const int8_t *from)
{
#pragma GCC unroll 16
    for (int i = 0; i < WIDTH; i++) __builtin_prefetch(from + i * SPREAD * p->K + AHEAD * GROUP);
}

/* Lanes stand on the left, rows of x on the right, so sums come out turned. Tiles are loaded from w itself, whose lines
 * were asked for some groups before; where it ends within a tile, from a copy. Sums of a group are taken up while the
 * next is multiplied. */
static void by_tiles(const Work *w, int64_t panel, int64_t n, Vec found[PANEL])
{
    const Product *p = w->p;
    const int64_t lanes = whole(at_most(p->N - n, SPREAD * WIDTH), SPREAD);
    const float *ws = w->w_scale + n * w->groups;
    Vec copy[WIDTH], sum[WIDTH] = {0};
    _Alignas(64) int32_t dots[2][WIDTH * PANEL];
    const bool whole_lines = lanes == WIDTH && p->K % GROUP == 0;
    const int8_t *from = (const int8_t *)p->b.data + n * p->K;
    for (int64_t g = 0; g <= w->groups; g++) {
        const int64_t at = (panel * w->groups + g) * PANEL;
        if (g < w->groups) {
            if (panel == 0) ask_groups(p, from + g * GROUP);
            if (!whole_lines) lines_of(copy, p, n, g * GROUP);
            WRITTEN();
            if (whole_lines) _tile_loadd(1, from + g * GROUP, SPREAD * p->K);
            else             _tile_loadd(1, copy, GROUP);
            _tile_loadd(2, w->number + at * GROUP, GROUP);
            _tile_zero(0);
            _tile_dpbssd(0, 1, 2);
            _tile_stored(0, dots[g % 2], PANEL * 4);
        }
        if (g == 0) continue;
        const Vec scale = vec_f32(w->scale + at - PANEL);
#pragma GCC unroll 16
        for (int i = 0; i < WIDTH; i++) {
            VecI dot;
            memcpy(&dot, dots[(g - 1) % 2] + i * PANEL, sizeof dot);
            const float w_scale = ws[at_most(i, lanes - 1) * SPREAD * w->groups + g - 1];
            sum[i] += __builtin_convertvector(dot, Vec) * (scale * w_scale);
        }
    }
    vec_transpose(sum);
    memcpy(found, sum, sizeof sum);
}

#endif

/* ---- all of it -------------------------------------------------------------------------------------------------- */

enum { TOGETHER = 4 };          /* panels of x that meet the same rows of w while these are in the nearest cache */

static void write_panel(const Product *p, int64_t m, int64_t n, Vec f[SPREAD][PANEL])
{
    const int64_t rows = at_most(p->M - m, PANEL);
    _Alignas(64) float sums[2][PANEL * TILE_COLS];
    for (int64_t r = 0; r < rows; r++)
        for (int half = 0; half < 2; half++) {
            const Vec even = half ? WEAVE_HIGH(f[0][r], f[2][r]) : WEAVE_LOW(f[0][r], f[2][r]);
            const Vec odd = half ? WEAVE_HIGH(f[1][r], f[3][r]) : WEAVE_LOW(f[1][r], f[3][r]);
            vec_store(sums[half], DT_F32, r * TILE_COLS, WIDTH, WEAVE_LOW(even, odd));
            vec_store(sums[half], DT_F32, r * TILE_COLS + WIDTH, WIDTH, WEAVE_HIGH(even, odd));
        }
    for (int half = 0; half < 2 && n + half * TILE_COLS < p->N; half++)
        CPU(finish)(p, sums[half], m, n + half * TILE_COLS, rows, at_most(p->N - n - half * TILE_COLS, TILE_COLS));
}

/* SPREAD * WIDTH columns of out from n on; the thread's next ones will be from `next` on */
static void columns(const Work *w, int64_t n, int64_t next)
{
    Vec found[TOGETHER][SPREAD][PANEL];
    for (int64_t first = 0; first < w->panels; first += TOGETHER) {
        const int64_t end = at_most(w->panels, first + TOGETHER);
        for (int j = 0; j < SPREAD; j++) {
            const Ahead ahead = ahead_of(w->p->b.data, w->p->K, n + j, SPREAD, next + j * WIDTH, 4 * WIDTH);
            for (int64_t panel = first; panel < end; panel++) {
                Vec *to = found[panel - first][j];
                if (n + j >= w->p->N) memset(to, 0, PANEL * sizeof *to);
#ifdef AMX
                else if (w->turned) by_tiles(w, panel, n + j, to);
#endif
                else by_vectors(w, ahead, panel, at_most(w->p->M - panel * PANEL, PANEL), n + j, to);
            }
        }
        for (int64_t panel = first; panel < end; panel++) write_panel(w->p, panel * PANEL, n, found[panel - first]);
    }
}

void CPU(gemm_i8)(Device *d, const Product *p, Tensor w_scale)
{
    const Work w = work_of(p, w_scale.data, d->workspace, NULL);
    const int64_t some = SPREAD * WIDTH;
    int64_t taken = 0;
    OMP(parallel num_threads(team(d, p->M * p->N * p->K)))
    {
        CPU(amx_begin)();
        OMP(for schedule(static) collapse(2))
        for (int64_t panel = 0; panel < w.panels; panel++)
            for (int64_t g = 0; g < w.groups; g++) quantize_group(&w, panel, g);
        for (int64_t n = take_columns(&taken, some), next; n < p->N; n = next) {
            next = take_columns(&taken, some);
            columns(&w, n, next);
        }
        CPU(amx_end)();
    }
}

size_t CPU(gemm_i8_scratch)(Device *d, const Product *p)
{
    size_t bytes;
    work_of(p, NULL, NULL, &bytes);
    (void)d;
    return bytes;
}
