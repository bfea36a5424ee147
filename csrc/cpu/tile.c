/* tile.c -- the inner loop of products in vector registers, attention's in f32 among them, and the packing of their
 * operands. See gemm.h. */
#include "gemm.h"

/* ---- the tile --------------------------------------------------------------------------------------------------- */

/* Whether row r's number meets each register of b straight from memory. With AVX-512 that saves an instruction, where a
 * core's other thread leaves fewer than the tile wants; of every third row it would be one load too many. */
#if defined(__AVX512F__)
#define FROM_MEMORY(r) ((r) % 3 > 0)
#else
#define FROM_MEMORY(r) false
#endif

/* rows and a_row are constants where this is inlined, so that all sums live in registers. ahead: what is asked for from
 * memory meanwhile, TILE_STEP floats a term, or NULL. */
INLINE void tile(const int rows, const int64_t a_row, int64_t K, const float *a, int64_t a_step, const float *b,
                 float *out, int64_t out_step, bool add, const float *ahead)
{
    Vec sum[TILE_ROWS][TILE_VECS] = {0};
    const float *again = a;
    __asm__("" : "+r"(again));          /* the same numbers, but the compiler does not know and loads them twice */
    for (int64_t k = 0; k < K; k++, a += a_step, again += a_step, b += TILE_COLS) {
        Vec of_b[TILE_VECS];
        if (ahead) __builtin_prefetch(ahead + k * TILE_STEP, 0, 2);
        for (int j = 0; j < TILE_VECS; j++) of_b[j] = vec_f32(b + j * WIDTH);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
            for (int j = 0; j < TILE_VECS; j++)
                sum[r][j] += (j && FROM_MEMORY(r) ? again : a)[r * a_row] * of_b[j];
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int j = 0; j < TILE_VECS; j++) {
            float *to = out + r * out_step + j * WIDTH;
            vec_store(to, DT_F32, 0, WIDTH, add ? vec_f32(to) + sum[r][j] : sum[r][j]);
        }
}

void CPU(tile_lines)(int64_t rows, int64_t K, const float *a, const float *b, float *out, int64_t out_step, bool add)
{
#define LINES(n) case n: tile(n, LINE, K, a, 1, b, out, out_step, add, NULL); break;
    switch (rows) { EACH_ROWS(LINES) }
}

void CPU(tile_steps)(int64_t rows, int64_t K, const float *a, int64_t a_step, const float *b, float *out,
                     int64_t out_step, bool add, const float *ahead)
{
#define STEPS(n) case n: tile(n, 1, K, a, a_step, b, out, out_step, add, ahead); break;
    switch (rows) { EACH_ROWS(STEPS) }
}

/* ---- packing ---------------------------------------------------------------------------------------------------- */

INLINE void columns(float *panel, const int64_t width, const void *from, const int A, int64_t stride, int64_t K,
                    int64_t cols)
{
    for (int64_t k = 0; k < K; k += WIDTH)
#pragma GCC unroll 2
        for (int64_t c = 0; c < width; c += WIDTH) {
            const int depth = vec_left(K, k), lanes = vec_left(width, c);
            Vec v[WIDTH];
#pragma GCC unroll 16
            for (int i = 0; i < WIDTH; i++)
                v[i] = c + i < cols ? vec_load(from, A, (c + i) * stride + k, depth) : (Vec){0};
            vec_transpose(v);
            for (int i = 0; i < depth; i++) {           /* what is too much is overwritten by the next term */
                const int count = width <= WIDTH && k + i < K - 1 ? WIDTH : lanes;
                vec_store(panel, DT_F32, (k + i) * width + c, count, v[i]);
            }
        }
}

void CPU(pack_columns)(float *panel, int64_t width, const void *from, DType A, int64_t stride, int64_t K, int64_t cols)
{
    if (width == TILE_COLS) FLOAT_SWITCH(A, TYPE, columns(panel, TILE_COLS, from, TYPE, stride, K, cols));
    else                    FLOAT_SWITCH(A, TYPE, columns(panel, TILE_STEP, from, TYPE, stride, K, cols));
}

enum { AHEAD = 16 };        /* rows: they lie too far apart for the processor to guess the next */

INLINE void block(float *to, int64_t to_step, const void *from, const int A, int64_t stride, int64_t rows, int64_t cols)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j += WIDTH) {
            const int count = vec_left(cols, j);
            __builtin_prefetch((const char *)from + ((i + AHEAD) * stride + j) * (A == DT_F32 ? 4 : 2));
            vec_store(to, DT_F32, i * to_step + j, count, vec_load(from, A, i * stride + j, count));
        }
}

void CPU(copy_block)(float *to, int64_t to_step, const void *from, DType A, int64_t stride, int64_t rows, int64_t cols)
{
    FLOAT_SWITCH(A, TYPE, block(to, to_step, from, TYPE, stride, rows, cols));
}

INLINE void rows_to_panel(float *panel, const int64_t width, const void *from, const int A, int64_t stride, int64_t K,
                          int64_t cols)
{
    for (int64_t k = 0; k < K; k++)
#pragma GCC unroll 2
        for (int64_t c = 0; c < width; c += WIDTH) {
            __builtin_prefetch((const char *)from + ((k + AHEAD) * stride + c) * (A == DT_F32 ? 4 : 2));
            const Vec v = cols > c ? vec_load(from, A, k * stride + c, vec_left(cols, c)) : (Vec){0};
            vec_store(panel, DT_F32, k * width + c, WIDTH, v);
        }
}

void CPU(pack_rows)(float *panel, int64_t width, const void *from, DType A, int64_t stride, int64_t K, int64_t cols)
{
    if (width == TILE_COLS) FLOAT_SWITCH(A, TYPE, rows_to_panel(panel, TILE_COLS, from, TYPE, stride, K, cols));
    else                    FLOAT_SWITCH(A, TYPE, rows_to_panel(panel, TILE_STEP, from, TYPE, stride, K, cols));
}
