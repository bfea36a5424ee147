/* base.c -- see base.h */
#include "base.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct { const char *name; size_t bytes; } dtypes[DT_COUNT] = {
    [DT_F32] = { "f32", 4 }, [DT_BF16] = { "bf16", 2 }, [DT_I32] = { "i32", 4 }, [DT_U8] = { "u8", 1 },
    [DT_I8] = { "i8", 1 },
};

size_t      dtype_size(DType dtype) { return dtypes[dtype].bytes; }
const char *dtype_name(DType dtype) { return dtypes[dtype].name; }

int64_t numel(Tensor t)
{
    int64_t n = 1;
    for (int i = 0; i < t.ndim; i++) n *= t.dim[i];
    return n;
}

int64_t last(Tensor t) { return t.ndim ? t.dim[t.ndim - 1] : 1; }
int64_t rows(Tensor t) { return last(t) ? numel(t) / last(t) : 0; }
size_t  tensor_bytes(Tensor t) { return (size_t)numel(t) * dtype_size(t.dtype); }

Tensor reshape(Tensor t, int ndim, const int64_t *dim)
{
    Tensor r = { t.data, t.name, t.dtype, ndim, {0} };
    for (int i = 0; i < ndim; i++) r.dim[i] = dim[i];
    CHECK(numel(r) == numel(t), "reshape %s: %lld elements do not fill %lld",
          t.name ? t.name : "a tensor", (long long)numel(t), (long long)numel(r));
    return r;
}

Tensor slice_rows(Tensor t, int64_t begin, int64_t count)
{
    CHECK(begin >= 0 && count >= 0 && begin + count <= rows(t), "slice of %s: rows %lld to %lld of %lld",
          t.name ? t.name : "a tensor", (long long)begin, (long long)(begin + count), (long long)rows(t));
    Tensor r = { t.data, t.name, t.dtype, 2, { count, last(t) } };
    if (t.data) r.data = (char *)t.data + (size_t)(begin * last(t)) * dtype_size(t.dtype);
    return r;
}

Tensor slice_elements(Tensor t, int64_t begin, int64_t count)
{
    return RESHAPE(slice_rows(RESHAPE(t, numel(t), 1), begin, count), count);
}

float bf16_to_f32(uint16_t value)
{
    const uint32_t bits = (uint32_t)value << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

uint16_t f32_to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

static FailHandler *fail_handler;

void set_fail_handler(FailHandler *handler) { fail_handler = handler; }

int utf8_length(const char *text)
{
    const unsigned char *s = (const unsigned char *)text;
    if (s[0] < 0x80) return 1;
    if (s[0] < 0xc2 || s[0] > 0xf4) return 0;
    const int n = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    const int low = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : 0x80;
    const int high = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : 0xbf;
    if (s[1] < low || s[1] > high) return 0;
    for (int i = 2; i < n; i++) if (s[i] < 0x80 || s[i] > 0xbf) return 0;
    return n;
}

/* A sentence may quote any file's bytes; it is shown on one line, as UTF-8. */
static void make_printable(char *text)
{
    while (*text) {
        const int n = utf8_length(text);
        if (n == 0 || (unsigned char)*text < 0x20 || *text == 0x7f) *text = '?';
        text += n ? n : 1;
    }
}

void llmc_fail(const char *format, ...)
{
    static _Thread_local char message[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    make_printable(message);
    if (fail_handler) fail_handler(message);
    __builtin_trap();    /* no handler was installed, or it returned: a bug of the program, not of its input */
}

void fail_and_exit(const char *message)
{
    fflush(stdout);
    fprintf(stderr, "llmc: %s\n", message);
    exit(1);
}

void auto_free(void *pointer_to_pointer) { free(*(void **)pointer_to_pointer); }

void *xcalloc(size_t count, size_t size, const char *what)
{
    void *block = calloc(count ? count : 1, size ? size : 1);
    CHECK(block, "out of memory: %zu times %zu bytes for %s", count, size, what);
    return block;
}

char *text_format(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = xcalloc((size_t)n + 1, 1, "text");
    va_start(args, format);
    vsnprintf(text, (size_t)n + 1, format, args);
    va_end(args);
    return text;
}
