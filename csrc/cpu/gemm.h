/* gemm.h -- the matrix product under linear and attention: out(m,n) = sum_k a(m,k) b(k,n).
 *
 * THE ORDER OF A SUM IS PART OF THE CONTRACT. k is cut from 0 into blocks of DEPTH. Inside a block the terms are added
 * one after the other to a sum that begins at 0, and the blocks' sums are added one after the other. Nothing else
 * enters: not M, not N, not where a tile ends, not the threads. A row computed alone has the bits it has among others.
 * Where bf16 meets in vdpbf16ps or in AMX's tiles, terms are added in the instruction's order, in tiles and attention
 * through all of k; where f32 meets in tiles, in the order of gemm_amx_f32.c, and blocks have gemm_depth(K) terms.
 *
 * The smallest piece of work in vector registers is a tile of TILE_ROWS x TILE_COLS sums that stay there while k runs.
 * Its operands are f32 and laid out for it: b as a panel (k, TILE_COLS), a either as rows of LINE floats or as
 * (k, step): TILE_STEP where it is packed, so that a term is whole registers, stored and read in one line. */
#ifndef LLMC_CPU_GEMM_H
#define LLMC_CPU_GEMM_H

#include "vec.h"

/* EACH_ROWS does something for each number of rows a tile can have. */
#if defined(__AVX512F__)
enum { TILE_ROWS = 14 };        /* of 32 registers: 14 x 2 sums, 2 of b, 1 of a */
#define EACH_ROWS(DO) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13) DO(14)
#else
enum { TILE_ROWS = 6 };         /* of 16 registers: 6 x 2 sums, 2 of b, 1 of a */
#define EACH_ROWS(DO) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6)
#endif
enum { TILE_VECS = 2, TILE_COLS = TILE_VECS * WIDTH };
enum { TILE_STEP = (TILE_ROWS + WIDTH - 1) / WIDTH * WIDTH };  /* numbers a panel of a has for each term */
enum { DEPTH = 256 };           /* a panel of b then fills most of a first-level cache */
enum { LINE = DEPTH + 16 };     /* not a power of two, or all rows of a tile would meet in few sets of that cache */

#ifdef _OPENMP
#include <omp.h>
#define OMP(...) PRAGMA(omp __VA_ARGS__)
#else
#define OMP(...)
static inline int omp_get_thread_num(void) { return 0; }
#endif

INLINE int64_t at_most(int64_t x, int64_t y) { return x < y ? x : y; }
INLINE int64_t at_least(int64_t x, int64_t y) { return x > y ? x : y; }
INLINE int64_t whole(int64_t length, int64_t unit) { return (length + unit - 1) / unit; }   /* how many units hold it */

/* out[r * out_step + c] (+)= sum over K terms of a(r,k) b[k * TILE_COLS + c], for r < rows <= TILE_ROWS and all
 * TILE_COLS columns. tile_lines: a(r,k) = a[r * LINE + k]; tile_steps: a(r,k) = a[k * a_step + r]. ahead, if not NULL:
 * what is read next, TILE_STEP floats a term, and asked for from memory meanwhile. */
void CPU(tile_lines)(int64_t rows, int64_t K, const float *a, const float *b, float *out, int64_t out_step, bool add);
void CPU(tile_steps)(int64_t rows, int64_t K, const float *a, int64_t a_step, const float *b, float *out,
                     int64_t out_step, bool add, const float *ahead);

/* Panels (k, width) out of a matrix of type A, element (i,j) at from[i * stride + j], for a width of TILE_COLS or
 * TILE_STEP. Both fill the panel's first K rows, with 0 in columns from `cols` on.
 * pack_rows: panel[k][c] = (k,c);   pack_columns: panel[k][c] = (c,k) */
void CPU(pack_rows)(float *panel, int64_t width, const void *from, DType A, int64_t stride, int64_t K, int64_t cols);
void CPU(pack_columns)(float *panel, int64_t width, const void *from, DType A, int64_t stride, int64_t K, int64_t cols);

/* to[i * to_step + j] = (i,j) of a matrix as above, as f32 */
void CPU(copy_block)(float *to, int64_t to_step, const void *from, DType A, int64_t stride, int64_t rows, int64_t cols);

/* A product over whole tensors, its operands packed block by block in the device's workspace, with what is done to each
 * sum on its way out:  sum += bias[n];  keep = sum, rounded to its type;  sum = act(sum);  sum *= gelu'(slope_at);
 * out (+)= sum. A tensor of the last line that is none() is left out. */
typedef struct Product {
    int64_t    M, N, K;
    Tensor     a, b;
    bool       a_turned, b_turned;      /* a(m,k) is a[m][k], or a[k][m] when turned; b(k,n) is b[k][n], or b[n][k] */
    Tensor     out;                     /* (M,N) */
    bool       accumulate;
    bool       symmetric;               /* what is above the diagonal of out need not be computed */
    Tensor     bias, keep, slope_at;    /* (N); (M,N); (M,N) */
    Activation act;
} Product;

/* What differs between kinds of products: the tile, and how operands are packed for it. A panel holds the terms of a
 * step for up to `rows` rows of a or TILE_COLS columns of b; sums are (rows, TILE_COLS) f32. */
typedef struct Kind {
    int64_t rows;                               /* of a tile of sums */
    size_t  a_term, b_term;                     /* bytes a panel takes for each term */
    void    (*pack_a)(const Product *p, void *panel, int64_t m, int64_t k, int64_t rows, int64_t depth);
    void    (*pack_b)(const Product *p, void *panel, int64_t n, int64_t k, int64_t cols, int64_t depth);
    void    (*multiply)(const void *a, const void *b, int64_t rows, int64_t depth, float *sums, bool add,
                        const void *next_a);    /* a's next panel, if it has not been used before; else NULL */
    void    (*begin)(void), (*end)(void);       /* of each thread's work, if not NULL */
} Kind;

enum { MOST_ROWS = 32 };                        /* of any kind's tile */

#ifdef __AMX_BF16__
#define AMX                                     /* operands meet in the processor's tiles */
extern const Kind CPU(amx_kind);                /* of bf16: gemm_amx.c */
extern const Kind CPU(amx_f32_kind);            /* of f32, as three bf16 each: gemm_amx_f32.c */

void CPU(amx_begin)(void);                      /* stand around each thread's work in tiles */
void CPU(amx_end)(void);

/* Stands between writing memory and loading it into a tile: GCC does not know that a tile's load reads memory. */
#define WRITTEN() __asm__ volatile("" : : : "memory")
#else
INLINE void CPU(amx_begin)(void) {}
INLINE void CPU(amx_end)(void) {}
#endif

#if defined(__AVX512BF16__) && !defined(AMX)
#define DOT                                     /* they meet in pairs, in vector registers: gemm_dot.c */
extern const Kind CPU(dot_kind);
#endif

#if defined(AMX) || defined(DOT)
#define PAIRED                                  /* one or the other: what attention_bf16.c is made of */
/* sums (rows, TILE_COLS) (+)= a b, of panels that pack_panel of gemm_bf16.h filled; rows <= 32. Terms are added to what
 * is in sums, or to 0, pair after pair. To stand between amx_begin and amx_end. */
void CPU(bf16_multiply)(const uint16_t *a, const uint16_t *b, int64_t rows, int64_t depth, float *sums, bool add);
#endif

/* What a product of few rows asks for beforehand, of w. WIDTH rows are read side by side, and memory answers soonest
 * when it is asked in the order in which things lie: so, while they are used, for the whole of the next ones, a part
 * with every step. Where these would not stay in the second-level cache, for each row a little before it is read. Not
 * into the first level, which waits for few lines at a time. */
enum { NEXT_BYTES = 1 << 18, NEAR_BYTES = 256 };
typedef struct Ahead { const char *at; int64_t line, step; } Ahead;

/* Of rows n, n + spread ... of w, `row` bytes each, a step reads `line` bytes; then come the rows from `next` on. */
INLINE Ahead ahead_of(const void *w, int64_t row, int64_t n, int64_t spread, int64_t next, int64_t line)
{
    if (spread * WIDTH * row <= NEXT_BYTES) return (Ahead){ (const char *)w + next * row, line, WIDTH * line };
    return (Ahead){ (const char *)w + n * row + NEAR_BYTES, spread * row, line };
}

/* A line; WIDTH of them are asked for in a step, between other things */
INLINE void ask(Ahead a, int64_t step, int i) { __builtin_prefetch(a.at + step * a.step + i * a.line, 0, 2); }

/* The first of the next `count` columns that no thread has taken */
INLINE int64_t take_columns(int64_t *taken, int64_t count)
{
    return __atomic_fetch_add(taken, count, __ATOMIC_RELAXED);
}

/* What is done to a tile of sums, (rows, TILE_COLS), on its way out. */
void   CPU(finish)(const Product *p, const float *sums, int64_t m0, int64_t n0, int64_t rows, int64_t cols);

/* A few rows times a weight: gemm goes this way by itself. */
bool   CPU(is_few)(const Product *p);
void   CPU(gemm_few)(Device *d, const Product *p);
size_t CPU(gemm_few_scratch)(const Product *p);

/* With b of int8, (N,K) and turned; w_scale (N, groups). */
void   CPU(gemm_i8)(Device *d, const Product *p, Tensor w_scale);
size_t CPU(gemm_i8_scratch)(Device *d, const Product *p);

void    CPU(gemm)(Device *d, const Product *p);
size_t  CPU(gemm_scratch)(Device *d, const Product *p);
int64_t CPU(gemm_depth)(int64_t K);             /* into how many terms k is cut: equal pieces, some DEPTHs long */

#endif
