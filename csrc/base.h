/* base.h -- what every file of the core may use: tensors, and the one way to fail. */
#ifndef LLMC_BASE_H
#define LLMC_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { DT_F32, DT_BF16, DT_I32, DT_U8, DT_I8, DT_COUNT } DType;

/* A contiguous, row-major array. It owns nothing: the arena it was taken from does.
 * The name is for messages and checkpoints; no decision in the program reads it. */
typedef struct Tensor {
    void       *data;
    const char *name;
    DType       dtype;
    int         ndim;
    int64_t     dim[4];     /* outermost first */
} Tensor;

/* Several, each with a shape of its own. */
typedef struct Tensors { const Tensor *at; int count; } Tensors;

static inline Tensor none(void) { Tensor t = { NULL, NULL, DT_F32, 0, {0} }; return t; }
static inline bool is_none(Tensor t) { return t.ndim == 0; }

size_t      dtype_size(DType dtype);
const char *dtype_name(DType dtype);                  /* "f32", "bf16", "i32", "u8", "i8" */
int64_t     numel(Tensor t);
int64_t     last(Tensor t);                           /* length of the innermost dimension */
int64_t     rows(Tensor t);                           /* numel / last: how many innermost rows */
size_t      tensor_bytes(Tensor t);
Tensor      reshape(Tensor t, int ndim, const int64_t *dim);
Tensor      slice_rows(Tensor t, int64_t begin, int64_t count);   /* of t seen as (rows, last) */
Tensor      slice_elements(Tensor t, int64_t begin, int64_t count);     /* (count), of t seen as one row */

/* bf16 is the upper half of an f32; rounding is to nearest, ties to even, and a NaN stays one. */
float    bf16_to_f32(uint16_t value);
uint16_t f32_to_bf16(float value);

/* Fail with a sentence: what was found, what was wanted, what to do. A program or a binding installs the handler;
 * it prints and exits, or throws. It does not return. Never fail inside a parallel region. */
typedef void FailHandler(const char *message);
void set_fail_handler(FailHandler *handler);
__attribute__((noreturn, format(printf, 1, 2))) void llmc_fail(const char *format, ...);

#define FAIL(...)        llmc_fail(__VA_ARGS__)
#define CHECK(cond, ...) do { if (!(cond)) FAIL(__VA_ARGS__); } while (0)

/* The handler of the C programs: prints "llmc: <sentence>" on stderr and exits 1. */
__attribute__((noreturn)) void fail_and_exit(const char *message);

/* A local that is released however the block is left, also when a failure unwinds through it:
 *     char *text AUTO(free_text) = NULL; */
#define AUTO(release) __attribute__((cleanup(release)))
void auto_free(void *pointer_to_pointer);             /* AUTO(auto_free): free(*p) */

void *xcalloc(size_t count, size_t size, const char *what);   /* zeroed memory, or a failure that says what for */
char *text_format(const char *format, ...) __attribute__((format(printf, 1, 2)));   /* a new string; free it */

/* The bytes of the UTF-8 character at text, which ends with a zero; 0 if it is none: no long forms, no surrogates,
 * nothing above U+10FFFF. */
int utf8_length(const char *text);

#define COUNT_OF(array)  (sizeof(array) / sizeof((array)[0]))
#define COUNT_I64(...)   ((int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)))
#define RESHAPE(t, ...)  reshape((t), COUNT_I64(__VA_ARGS__), (int64_t[]){__VA_ARGS__})

#ifdef __cplusplus
}
#endif
#endif
