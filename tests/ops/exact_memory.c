/* exact_memory.c -- every op that takes scratch, in memory of exactly the size it asked for.
 *
 * Built with the sanitizers by test_exact_memory.py: a tensor or a scratch read or written past its end is an
 * error there. They do not see what a tile or a masked vector reads, so every op runs once more with tensors that end
 * where a page begins that nobody may touch. Values are the other tests' affair. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "ops.h"
#include "quantize.h"

enum { MOST = 16, PAGE = 4096 };

/* What one call holds. Each tensor is a block of its own, so that its ends are watched: by the sanitizers, or guarded
 * by a page. */
typedef struct { void *block[MOST]; size_t bytes[MOST]; int count; DType A; unsigned state; bool guarded; } Call;

static size_t pages(size_t bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }

static void *take(Call *c, size_t bytes)
{
    const int i = c->count++;
    c->bytes[i] = bytes;
    if (!c->guarded) return c->block[i] = malloc(bytes);
    char *block = mmap(NULL, pages(bytes) + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED || mprotect(block + pages(bytes), PAGE, PROT_NONE)) FAIL("no room for %zu bytes", bytes);
    c->block[i] = block;
    return block + pages(bytes) - bytes;
}

static Tensor tensor(Call *c, DType dtype, int64_t rows, int64_t cols)
{
    Tensor t = { NULL, "test", dtype, 2, { rows, cols } };
    t.data = take(c, tensor_bytes(t));
    for (int64_t i = 0; i < numel(t); i++) {
        const float value = (float)((c->state = c->state * 1103515245u + 12345u) >> 16 & 255) / 128 - 1;
        if (dtype == DT_BF16) ((uint16_t *)t.data)[i] = f32_to_bf16(value);
        else if (dtype == DT_I8) ((int8_t *)t.data)[i] = (int8_t)(value * 127);
        else ((float *)t.data)[i] = value;
    }
    return t;
}

static Tensor line(Call *c, DType dtype, int64_t length) { return RESHAPE(tensor(c, dtype, 1, length), length); }

static Device *open_exact(const char *name, int threads)
{
    Device *d = device_open(name, threads);
    d->workspace = NULL, d->workspace_size = 0;
    return d;
}

/* The workspace of the call: no byte more than it said. */
static void give(Device *d, size_t bytes)
{
    free(d->workspace);
    d->workspace = NULL, d->workspace_size = bytes;
    if (bytes && posix_memalign(&d->workspace, 256, bytes)) FAIL("no room for %zu bytes", bytes);
}

static void drop(Device *d, Call *c)
{
    for (int i = 0; i < c->count; i++)
        if (c->guarded) munmap(c->block[i], pages(c->bytes[i]) + PAGE);
        else            free(c->block[i]);
    c->count = 0;
    free(d->workspace);
    d->workspace = NULL, d->workspace_size = 0;
}

#define EXACTLY(op, ...) do { give(d, op##_scratch(d, __VA_ARGS__)); op(d, __VA_ARGS__); } while (0)

static void linear(Device *d, Call c, int64_t N, int64_t I, int64_t O)
{
    const Tensor x = tensor(&c, c.A, N, I), w = tensor(&c, c.A, O, I), b = line(&c, c.A, O);
    const Tensor out = tensor(&c, c.A, N, O), pre = tensor(&c, c.A, N, O);
    const Tensor dx = tensor(&c, c.A, N, I), dw = tensor(&c, DT_F32, O, I), db = line(&c, DT_F32, O);
    EXACTLY(linear_forward, out, pre, x, w, b, ACT_GELU);
    EXACTLY(linear_backward, dx, none(), none(), out, x, w, x, false);
    EXACTLY(linear_backward, none(), dw, db, out, x, w, none(), true);
    drop(d, &c);
}

static void int8(Device *d, Call c, int64_t N, int64_t I, int64_t O)
{
    const Tensor x = tensor(&c, c.A, N, I), w = tensor(&c, DT_I8, O, I), b = line(&c, c.A, O);
    const Tensor scale = tensor(&c, DT_F32, O, quant_groups(I)), out = tensor(&c, c.A, N, O);
    static int32_t rows[] = { 0, 0 };
    const Tensor index = { rows, "test", DT_I32, 2, { 1, 2 } };
    EXACTLY(linear_int8_forward, out, x, w, scale, b, ACT_GELU);
    EXACTLY(linear_int8_backward, tensor(&c, c.A, N, I), out, w, scale, x);
    embed_int8_forward(d, RESHAPE(tensor(&c, c.A, 2, I), 1, 2, I), index, index, w, scale, none());
    drop(d, &c);
}

static void lora(Device *d, Call c, int64_t N, int64_t I, int64_t O, int64_t R)
{
    const Tensor x = tensor(&c, c.A, N, I), a = tensor(&c, c.A, R, I), b = tensor(&c, c.A, O, R);
    const Tensor out = tensor(&c, c.A, N, O), dx = tensor(&c, c.A, N, I);
    const Tensor da = tensor(&c, DT_F32, R, I), db = tensor(&c, DT_F32, O, R);
    EXACTLY(lora_forward, out, x, a, b, 2);
    EXACTLY(lora_backward, dx, da, db, out, x, a, b, 2, true);
    EXACTLY(lora_backward, dx, none(), none(), out, x, a, b, 2, false);
    EXACTLY(lora_backward, none(), none(), db, out, x, a, b, 2, false);
    gelu_forward(d, dx, x);
    gelu_backward(d, dx, dx, x);
    drop(d, &c);
}

static void embed(Device *d, Call c, int64_t N, int64_t V, int64_t C)
{
    const Tensor dw = tensor(&c, DT_F32, V, C), dout = RESHAPE(tensor(&c, c.A, N, C), 1, N, C);
    Tensor index = tensor(&c, DT_F32, 1, N);
    index.dtype = DT_I32;
    for (int64_t n = 0; n < N; n++) ((int32_t *)index.data)[n] = (int32_t)(n * 7 % V);
    EXACTLY(embed_backward, dw, dout, index, true);
    drop(d, &c);
}

static void attention(Device *d, Call c, int64_t B, int64_t T, int H, int G, int64_t D)
{
    const int64_t P = (H + 2 * G) * D;
    const Tensor qkv = RESHAPE(tensor(&c, c.A, B * T, P), B, T, P), dqkv = RESHAPE(tensor(&c, c.A, B * T, P), B, T, P);
    const Tensor out = RESHAPE(tensor(&c, c.A, B * T, H * D), B, T, H * D);
    const Tensor lse = RESHAPE(line(&c, DT_F32, B * H * T), B, H, T);
    Tensor first = tensor(&c, DT_F32, B, T);
    first.dtype = DT_I32;
    for (int64_t i = 0; i < B * T; i++) ((int32_t *)first.data)[i] = (int32_t)(i % T / 7 * 7);
    EXACTLY(attention_forward, out, lse, qkv, first, H, G);
    EXACTLY(attention_backward, dqkv, out, out, lse, qkv, first, H, G);
    drop(d, &c);
}

/* Two rows that end at the end of a page and within one; the second's pages come first. */
static void cached(Device *d, Call c, int H, int G, int64_t D)
{
    static int32_t table[] = { 3, 2, 0, 1 }, start[] = { 0, 2, 5 }, length[] = { 2 * CACHE_PAGE - 2, 0 };
    const Tensor pages = { table, "test", DT_I32, 2, { 2, 2 } }, starts = { start, "test", DT_I32, 1, { 3 } };
    const Tensor lengths = { length, "test", DT_I32, 1, { 2 } };
    const Tensor qkv = tensor(&c, c.A, 5, (H + 2 * G) * D), out = tensor(&c, c.A, 5, H * D);
    const Tensor cache = RESHAPE(tensor(&c, c.A, 4 * CACHE_PAGE, 2 * G * D), 4, 2 * G, CACHE_PAGE, D);
    EXACTLY(attention_cached, out, cache, qkv, pages, starts, lengths, H, G);
    drop(d, &c);
}

static void rope(Device *d, Call c, int64_t B, int64_t T, int H, int G, int64_t D)
{
    const int64_t P = (H + 2 * G) * D;
    const Tensor qkv = RESHAPE(tensor(&c, c.A, B * T, P), B, T, P), dqkv = RESHAPE(tensor(&c, c.A, B * T, P), B, T, P);
    const Tensor freq = line(&c, DT_F32, D / 2), q_norm = line(&c, c.A, D), k_norm = line(&c, c.A, D);
    const Tensor dq_norm = line(&c, DT_F32, D), dk_norm = line(&c, DT_F32, D);
    Tensor pos = tensor(&c, DT_F32, B, T);
    pos.dtype = DT_I32;
    for (int64_t i = 0; i < B * T; i++) ((int32_t *)pos.data)[i] = (int32_t)(i % T);
    rope_forward(d, dqkv, qkv, pos, freq, q_norm, k_norm, H, G, 1e-6f);
    EXACTLY(rope_backward, dqkv, dq_norm, dk_norm, dqkv, qkv, pos, freq, q_norm, k_norm, H, G, 1e-6f, true);
    EXACTLY(rope_backward, dqkv, none(), none(), dqkv, none(), pos, freq, none(), none(), H, G, 0, false);
    drop(d, &c);
}

static void norm(Device *d, Call c, int64_t N, int64_t C)
{
    const Tensor x = tensor(&c, c.A, N, C), dout = tensor(&c, c.A, N, C), dx = tensor(&c, c.A, N, C);
    const Tensor mean = line(&c, DT_F32, N), rstd = line(&c, DT_F32, N), w = line(&c, c.A, C);
    const Tensor dw = line(&c, DT_F32, C), db = line(&c, DT_F32, C);
    EXACTLY(norm_backward, dx, dw, db, dout, dout, x, w, mean, rstd, true);
    drop(d, &c);
}

static void squares(Device *d, Call c, int64_t count)
{
    EXACTLY(sum_squares, line(&c, DT_F32, 1), line(&c, DT_F32, count));
    drop(d, &c);
}

/* one by one, and all in one call */
static void matrices(Device *d, Call c, const int64_t (*shape)[2], int count)
{
    Tensor x[MOST];
    for (int i = 0; i < count; i++) x[i] = tensor(&c, DT_F32, shape[i][0], shape[i][1]);
    for (int i = 0; i < count; i++) EXACTLY(orthogonalize, ((Tensors){ &x[i], 1 }), c.A == DT_BF16);
    EXACTLY(orthogonalize, ((Tensors){ x, count }), c.A == DT_BF16);
    EXACTLY(orthogonalize, ((Tensors){ NULL, 0 }), c.A == DT_BF16);
    drop(d, &c);
}

static void every_op(Device *d, Call c)
{
    static const int64_t products[][3] = {
        { 1, 1, 1 }, { 29, 3, 1 }, { 15, 259, 33 }, { 67, 521, 131 }, { 1361, 7, 5 }, { 3, 5, 2083 },
        { 84, 256, 96 }, { 84, 512, 96 }, { 256, 96, 84 }, { 512, 96, 84 },     /* whole tiles and blocks */
        { 1, 64, 33 }, { 7, 64, 63 }, { 33, 96, 79 }, { 5, 31, 1 },             /* few rows, in steps of 32 */
    };
    for (size_t i = 0; i < COUNT_OF(products); i++) {
        linear(d, c, products[i][0], products[i][1], products[i][2]);
        int8(d, c, products[i][0], products[i][1], products[i][2]);
        lora(d, c, products[i][0], products[i][1], products[i][2], 1 + (int64_t)i * 3);
    }
    static const int64_t heads[][5] = {
        { 1, 1, 1, 1, 1 }, { 3, 13, 4, 2, 5 }, { 1, 291, 2, 1, 80 }, { 2, 35, 2, 2, 261 }, { 1, 256, 1, 1, 32 },
    };
    for (size_t i = 0; i < COUNT_OF(heads); i++) {
        attention(d, c, heads[i][0], heads[i][1], (int)heads[i][2], (int)heads[i][3], heads[i][4]);
        cached(d, c, (int)heads[i][2], (int)heads[i][3], heads[i][4]);
    }
    static const int64_t turned[][5] = {
        { 1, 1, 1, 1, 2 }, { 3, 13, 4, 2, 6 }, { 2, 35, 2, 2, 262 }, { 1, 300, 3, 1, 64 },
    };
    for (size_t i = 0; i < COUNT_OF(turned); i++)
        rope(d, c, turned[i][0], turned[i][1], (int)turned[i][2], (int)turned[i][3], turned[i][4]);
    embed(d, c, 1, 1, 1);
    embed(d, c, 67, 29, 131);
    static const int64_t rows_cols[][2] = { { 1, 1 }, { 3, 5 }, { 133, 67 }, { 17, 1031 } };
    for (size_t i = 0; i < COUNT_OF(rows_cols); i++) norm(d, c, rows_cols[i][0], rows_cols[i][1]);
    static const int64_t shapes[][2] = { { 1, 1 }, { 1, 67 }, { 67, 1 }, { 33, 259 }, { 259, 33 }, { 130, 131 } };
    matrices(d, c, shapes, COUNT_OF(shapes));
    for (int64_t count = 1; count < 200000; count = count * 7 + 3) squares(d, c, count);
}

int main(void)
{
    char names[128], *rest = names;
    snprintf(names, sizeof names, "%s", device_list());
    set_fail_handler(fail_and_exit);
    for (const char *name; (name = strsep(&rest, " "));)
        for (int threads = 1; threads < 4; threads += 2) {
            Device *d = open_exact(name, threads);
            for (int guarded = 0; guarded < 2; guarded++) {
                every_op(d, (Call){ .A = DT_F32, .state = 1, .guarded = guarded });
                every_op(d, (Call){ .A = DT_BF16, .state = 2, .guarded = guarded });
            }
            device_close(d);
            printf("%s with %d threads kept to its memory\n", name, threads);
        }
    return 0;
}
