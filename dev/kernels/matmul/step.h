/* step.h -- what every step of the ladder computes: out(M,N) = x(M,K) w(N,K)^T in f32, a layer's product. */
#ifndef STEP_H
#define STEP_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef void Step(int64_t M, int64_t N, int64_t K, const float *x, const float *w, float *out);
Step step_1_naive, step_2_vectors, step_3_registers, step_4_panels, step_5_strips, step_6_threads;

/* A tile of sums is ROWS x COLS: 28 of AVX-512's 32 registers, or 12 of 16. REGISTER: gcc's constraint for one. */
#if defined(__AVX512F__)
enum { WIDTH = 16, ROWS = 14, VECS = 2, COLS = VECS * WIDTH };
#define REGISTER "+v"
#else
enum { WIDTH = 8, ROWS = 6, VECS = 2, COLS = VECS * WIDTH };
#if defined(__AVX__)
#define REGISTER "+x"
#else
#define REGISTER "+m"
#endif
#endif
typedef float Vec __attribute__((vector_size(4 * WIDTH)));

static inline Vec load(const float *from) { Vec v; memcpy(&v, from, sizeof v); return v; }
static inline void store(float *to, Vec v) { memcpy(to, &v, sizeof v); }
static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static inline float *room(int64_t floats)
{
    float *at = aligned_alloc(64, ((size_t)floats * 4 + 63) / 64 * 64);
    if (!at) abort();
    return at;
}

/* panel[k][c] = from[c][k] for lines c of length K that are `stride` apart; lines from `count` on are 0 */
static inline void pack(float *panel, int64_t width, const float *from, int64_t stride, int64_t count, int64_t K)
{
    for (int64_t c = 0; c < width; c++)
        for (int64_t k = 0; k < K; k++) panel[k * width + c] = c < count ? from[c * stride + k] : 0;
}

/* sums[ROWS][COLS] = a b, of panels a[K][ROWS] and b[K][COLS] */
static inline void tile(float *sums, const float *a, const float *b, int64_t K)
{
    Vec sum[ROWS][VECS] = {0};
    for (int64_t k = 0; k < K; k++, a += ROWS, b += COLS) {
        const Vec b0 = load(b), b1 = load(b + WIDTH);
#pragma GCC unroll 14
        for (int r = 0; r < ROWS; r++) sum[r][0] += a[r] * b0, sum[r][1] += a[r] * b1;
    }
#pragma GCC unroll 14
    for (int r = 0; r < ROWS; r++) store(sums + r * COLS, sum[r][0]), store(sums + r * COLS + WIDTH, sum[r][1]);
}

/* the part of a tile that is inside out, from row m and column n on */
static inline void put(float *out, int64_t M, int64_t N, int64_t m, int64_t n, const float *sums)
{
    for (int64_t r = 0; r < least(ROWS, M - m); r++)
        memcpy(out + (m + r) * N + n, sums + r * COLS, (size_t)least(COLS, N - n) * 4);
}

#endif
