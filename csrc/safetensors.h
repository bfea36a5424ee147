/* safetensors.h -- named tensors in one file: eight bytes with the header's length, a JSON header, the data.
 *
 * Reading maps the file and copies no tensor (a header whose length is not a multiple of eight leaves the data
 * misaligned; such a file is read into memory instead). Everything the header says is checked before anything is
 * handed out: its length, its JSON, types, shapes, and that the tensors fill the data exactly, without gap or overlap.
 * Held beside the mapping: the header's bytes and 24 bytes a tensor, at most twice the header while it is read.
 * A shape of [] is given as (1). Types the format knows and llmc does not (I64, F16, …) may be in the file and named;
 * only asking for such a tensor fails. */
#ifndef LLMC_SAFETENSORS_H
#define LLMC_SAFETENSORS_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Safetensors Safetensors;

Safetensors *safetensors_open(const char *path);
Safetensors *safetensors_parse(const char *name, const void *data, size_t size);    /* data is not copied: keep it */
void         safetensors_close(Safetensors **file);                                 /* AUTO(safetensors_close) */

int64_t     safetensors_count(const Safetensors *file);
const char *safetensors_name(const Safetensors *file, int64_t index);         /* in the order of their data */
int64_t     safetensors_find(const Safetensors *file, const char *name);      /* its index, or -1 */
Tensor      safetensors_tensor(const Safetensors *file, int64_t index);       /* read-only; good until the close */
Tensor      safetensors_get(const Safetensors *file, const char *name);       /* fails if it is missing */
const char *safetensors_metadata(const Safetensors *file, const char *key);   /* NULL if it is missing */

/* A tensor of any type the format knows, as it lies in the file: not always aligned. */
typedef struct RawTensor {
    const char *name, *dtype;       /* dtype by the format's own name: F32, F16, I64, … */
    const void *data;
    int64_t     bytes, dim[4];
    int         ndim;
} RawTensor;

RawTensor safetensors_raw(const Safetensors *file, int64_t index);            /* read-only; good until the close */

/* ---- writing: the names and shapes first, then the data in any order and any pieces ------------------------------
 *     SafetensorsWriter *w AUTO(safetensors_discard) = safetensors_create(path, tensors, count, metadata);
 *     for each tensor i:  safetensors_put(w, i, 0, host_copy, tensor_bytes(tensors[i]));
 *     safetensors_finish(&w);
 * The file appears at its path when it is finished, synced, and whole; a discarded one leaves nothing. Its bytes depend
 * on what is written alone: wider types first, so that all are aligned, and otherwise the order given. */
typedef struct SafetensorsWriter SafetensorsWriter;

/* tensors: names, types and shapes (their data is not read). metadata: key, value, key, value, …, NULL; or NULL.
 * Both are only read during this call. */
SafetensorsWriter *safetensors_create(const char *path, const Tensor *tensors, int64_t count,
                                      const char *const *metadata);
void safetensors_put(SafetensorsWriter *w, int64_t index, int64_t offset, const void *data, int64_t bytes);
void safetensors_finish(SafetensorsWriter **w);       /* fails if a byte of a tensor was not put */
void safetensors_discard(SafetensorsWriter **w);

/* All of it, from tensors whose data the host can read. */
void safetensors_write(const char *path, const Tensor *tensors, int64_t count, const char *const *metadata);

#ifdef __cplusplus
}
#endif
#endif
