/* muon.c -- Newton-Schulz: the three products of a step, of whichever of x x^T and x^T x is smaller. See ops.h.
 *
 * A tall x is not turned: the products read it as it lies. Both x x^T and its square equal their transposes (in AMX's
 * tiles f32 may differ in the last bit), so only what is on and below their diagonal is computed, and mirrored: a third
 * of a square x's work.
 *
 * All threads work on one large matrix after the other; then each takes small ones by itself. */
#include "../arena.h"
#include "gemm.h"

static int64_t smaller_side(Tensor x) { return x.dim[0] < x.dim[1] ? x.dim[0] : x.dim[1]; }
static bool tall(Tensor x) { return x.dim[0] > x.dim[1]; }

/* gram = x x^T, or x^T x */
static Product gram_product(Tensor gram, Tensor x)
{
    const int64_t side = smaller_side(x);
    return (Product){ .M = side, .N = side, .K = numel(x) / side, .a = x, .a_turned = tall(x), .b = x,
                      .b_turned = !tall(x), .out = gram, .symmetric = true };
}

static Product square_product(Tensor square, Tensor gram)
{
    const int64_t side = gram.dim[0];
    return (Product){ .M = side, .N = side, .K = side, .a = gram, .b = gram, .out = square, .symmetric = true };
}

/* out = poly x, or x poly */
static Product step_product(Tensor out, Tensor poly, Tensor x)
{
    return (Product){ .M = x.dim[0], .N = x.dim[1], .K = smaller_side(x), .a = tall(x) ? x : poly,
                      .b = tall(x) ? poly : x, .out = out };
}

static Tensor as_type(Tensor t, DType type) { t.dtype = type; return t; }

/* What the workspace holds, after the products' own scratch: x as the last step found it, and G and its polynomial */
typedef struct { Tensor other, gram, poly; size_t bytes; } Work;

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

static Work lay_out(Device *d, Tensor x, DType type, void *workspace)
{
    const int64_t side = smaller_side(x);
    const Tensor from = as_type(x, type), square = { NULL, NULL, type, 2, { side, side } };
    const Product gram = gram_product(square, from), poly = square_product(square, square),
                  step = step_product(x, square, from);
    const size_t products = larger(larger(CPU(gemm_scratch)(d, &gram), CPU(gemm_scratch)(d, &poly)),
                                   CPU(gemm_scratch)(d, &step));
    Arena a = { .block = workspace, .size = SIZE_MAX };
    Work w;
    TAKE(&a, "scratch", DT_U8, (int64_t)larger(products, CPU(sum_squares_scratch)(NULL, none(), x)));
    w.other = TAKE(&a, "x", type, x.dim[0], x.dim[1]);
    w.gram = TAKE(&a, "gram", type, side, side);
    w.poly = TAKE(&a, "poly", type, side, side);
    w.bytes = a.used;
    return w;
}

static DType type_of(bool bf16) { return bf16 ? DT_BF16 : DT_F32; }

/* of the largest of the three products */
static int64_t multiply_adds(Tensor x) { return numel(x) * smaller_side(x); }

/* Over smaller ones threads that share a product wait for one another; larger ones would want too much memory for each
 * thread, and caches have no room for several: dev/notes/2026-11-22-products.md */
static bool is_large(Tensor x, bool bf16) { return multiply_adds(x) >= (int64_t)1 << (bf16 ? 30 : 28); }

static Device lone_thread(const Device *d, void *workspace)
{
    Device one = *d;
    one.threads = 1, one.workspace = workspace;
    return one;
}

/* The workspace: large matrices have its beginning in turns, small ones the part there of the thread that took them.
 * Then come the call's matrices, those with the most work first. */
typedef struct { Tensor *sorted; int large; size_t part, bytes; } Call;

static Call plan_call(Device *d, Tensors x, bool bf16, void *workspace)
{
    Arena a = { .block = workspace, .size = SIZE_MAX };
    Call c = {0};
    Device one = lone_thread(d, NULL);
    size_t most = 0;
    for (int i = 0; i < x.count; i++) {
        const bool large = is_large(x.at[i], bf16);
        const size_t bytes = lay_out(large ? d : &one, x.at[i], type_of(bf16), NULL).bytes;
        if (large) most = larger(most, bytes);
        else       c.part = larger(c.part, bytes);
        c.large += large;
    }
    TAKE(&a, "work", DT_U8, (int64_t)larger(most, (size_t)d->threads * c.part));
    c.sorted = TAKE(&a, "matrices", DT_U8, x.count * (int64_t)sizeof(Tensor)).data;
    c.bytes = a.used;
    return c;
}

size_t CPU(orthogonalize_scratch)(Device *d, Tensors x, bool bf16) { return plan_call(d, x, bf16, NULL).bytes; }

/* to = x / |x|; a norm that f32 cannot hold counts as 0 */
static void normalize(Device *d, Tensor to, Tensor x)
{
    const int64_t length = numel(x);
    float squares;
    CPU(sum_squares)(d, (Tensor){ &squares, NULL, DT_F32, 1, { 1 } }, x);
    const float scale = squares > 0 ? 1 / sqrtf(squares) : 0;
    PARALLEL_FOR(d, length)
    for (int64_t i = 0; i < length; i += WIDTH) {
        const int count = vec_left(length, i);
        const Vec v = scale * vec_load(x.data, DT_F32, i, count);
        FLOAT_SWITCH(to.dtype, A, vec_store(to.data, A, i, count, v));
    }
}

/* A square block at (i,j), on or below the diagonal of s, and its mirror image */
INLINE void mirror_block(const int A, void *s, const void *gram, int64_t side, int64_t i, int64_t j)
{
    const int down = vec_left(side, i), across = vec_left(side, j);
    Vec low[WIDTH], high[WIDTH];
    for (int r = 0; r < WIDTH; r++) {
        low[r] = r < down ? vec_load(s, A, (i + r) * side + j, across) : (Vec){0};
        if (!gram || r >= down) continue;
        low[r] = -4.7750f * vec_load(gram, A, (i + r) * side + j, across) + 2.0315f * low[r];
        if (i == j) low[r][r] += 3.4445f;
    }
    memcpy(high, low, sizeof high);
    vec_transpose(high);
    for (int r = 0; r < WIDTH; r++) {
        if (i == j) high[r] = vec_keep(low[r], r + 1, high[r]);
        else if (r < down) vec_store(s, A, (i + r) * side + j, across, low[r]);
        if (r < across) vec_store(s, A, (j + r) * side + i, down, high[r]);
    }
}

/* What is above the diagonal of s becomes what is below it. Given gram, s = 3.4445 - 4.775 gram + 2.0315 s as well. */
static void mirror(Device *d, Tensor s, Tensor gram)
{
    const int64_t side = s.dim[0];
    OMP(parallel for schedule(dynamic) num_threads(team(d, side * side)))
    for (int64_t i = 0; i < side; i += WIDTH)
        for (int64_t j = 0; j <= i; j += WIDTH)
            FLOAT_SWITCH(s.dtype, A, mirror_block(A, s.data, gram.data, side, i, j));
}

static void iterate(Device *d, Tensor x, DType type)
{
    const Work w = lay_out(d, x, type, d->workspace);
    Tensor from = w.other, to = as_type(x, type);
    normalize(d, from, x);                                      /* from here on x is but memory */
    for (int step = 0; step < 5; step++) {                      /* an odd number: the last ends in x */
        const Product gram = gram_product(w.gram, from), square = square_product(w.poly, w.gram),
                      next = step_product(step < 4 ? to : x, w.poly, from);
        CPU(gemm)(d, &gram);
        mirror(d, w.gram, none());
        CPU(gemm)(d, &square);
        mirror(d, w.poly, w.gram);
        CPU(gemm)(d, &next);
        const Tensor swap = from;
        from = to, to = swap;
    }
}

/* by falling work */
static void sort(Tensor *to, Tensors x)
{
    for (int i = 0; i < x.count; i++) {
        int at = i;
        for (; at > 0 && multiply_adds(to[at - 1]) < multiply_adds(x.at[i]); at--) to[at] = to[at - 1];
        to[at] = x.at[i];
    }
}

void CPU(orthogonalize)(Device *d, Tensors x, bool bf16)
{
    const Call c = plan_call(d, x, bf16, d->workspace);
    sort(c.sorted, x);
    for (int i = 0; i < c.large; i++) iterate(d, c.sorted[i], type_of(bf16));
    OMP(parallel for schedule(dynamic) num_threads(d->threads))
    for (int i = c.large; i < x.count; i++) {
        Device one = lone_thread(d, (char *)d->workspace + (size_t)omp_get_thread_num() * c.part);
        iterate(&one, c.sorted[i], type_of(bf16));
    }
}
