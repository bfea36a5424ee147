/* safetensors.c -- see safetensors.h */
#include "safetensors.h"

#include "files.h"
#include "json.h"

#include <stdlib.h>
#include <string.h>

enum { LENGTH_BYTES = 8, MAX_HEADER = 100000000 };

/* The format's types; of is DT_COUNT where llmc has none. */
typedef struct Type {
    char  name[8];
    int   bytes;
    DType of;
} Type;

static const Type types[] = {
    { "F32", 4, DT_F32 },   { "BF16", 2, DT_BF16 },  { "I32", 4, DT_I32 },   { "U8", 1, DT_U8 },
    { "I8", 1, DT_I8 },
    { "F64", 8, DT_COUNT }, { "I64", 8, DT_COUNT },  { "U64", 8, DT_COUNT }, { "C64", 8, DT_COUNT },
    { "U32", 4, DT_COUNT }, { "F16", 2, DT_COUNT },  { "I16", 2, DT_COUNT }, { "U16", 2, DT_COUNT },
    { "BOOL", 1, DT_COUNT }, { "F8_E4M3", 1, DT_COUNT }, { "F8_E5M2", 1, DT_COUNT },
    { "F8_E8M0", 1, DT_COUNT },
};

/* A tensor: its name and description as places in the header's text, and its bytes as places in the data. */
typedef struct Entry {
    uint32_t name, about;
    int64_t  begin, end;
} Entry;

struct Safetensors {
    char       *name;
    FileView    view;       /* of the file; empty for safetensors_parse, and where there is a copy */
    char       *copy;       /* the data, where the mapping would leave it misaligned */
    JsonFile   *header;
    const char *data;
    int64_t     data_bytes;
    int64_t     count;
    Entry      *entries;    /* in the order of their data */
};

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static const Type *read_type(Json about)
{
    const Json v = json_get(about, "dtype");
    const char *name = json_string(v);
    for (size_t i = 0; i < COUNT_OF(types); i++) if (strcmp(types[i].name, name) == 0) return &types[i];
    json_fail(v, "a type of the safetensors format (F32, BF16, I32, U8, ...)");
}

/* Into t: ndim and dim. Returns the number of elements. */
static int64_t read_shape(Json about, Tensor *t)
{
    const Json shape = json_get(about, "shape");
    if (json_kind(shape) != JSON_ARRAY) json_fail(shape, "an array of sizes");
    int64_t elements = 1;
    t->ndim = 0;
    for (JsonEach each = json_each(shape); json_next(&each);) {
        const int64_t size = json_int(each.value);
        if (size < 0) json_fail(each.value, "a size of 0 or more");
        if (t->ndim == 4) json_fail(each.value, "at most 4 dimensions");
        if (__builtin_mul_overflow(elements, size, &elements)) json_fail(each.value, "fewer elements than 2^63");
        t->dim[t->ndim++] = size;
    }
    if (t->ndim == 0) t->dim[t->ndim++] = 1;
    return elements;
}

/* One entry of the header, checked against itself and against the size of the data. */
static Entry read_entry(const Safetensors *file, const char *key, Json about)
{
    if (json_kind(about) != JSON_OBJECT || json_count(about) != 3) json_fail(about, "dtype, shape and data_offsets");
    Tensor t = none();
    int64_t bytes, span[2] = { 0, 0 };
    const Type *type = read_type(about);
    const Json offsets = json_get(about, "data_offsets");
    CHECK(!__builtin_mul_overflow(read_shape(about, &t), type->bytes, &bytes),
          "%s: %s takes 2^63 bytes or more", file->name, key);
    if (json_kind(offsets) != JSON_ARRAY || json_count(offsets) != 2) json_fail(offsets, "a begin and an end");
    for (JsonEach each = json_each(offsets); json_next(&each);) span[each.index] = json_int(each.value);
    CHECK(span[0] >= 0 && span[0] <= span[1] && span[1] <= file->data_bytes,
          "%s: %s lies at bytes %lld to %lld of the data, which has %lld; the file is damaged or was cut",
          file->name, key, (long long)span[0], (long long)span[1], (long long)file->data_bytes);
    CHECK(span[1] - span[0] == bytes, "%s: %s has %lld bytes of data, its shape and type want %lld", file->name, key,
          (long long)(span[1] - span[0]), (long long)bytes);
    const char *text = json_root(file->header).at;
    return (Entry){ (uint32_t)(key - text), (uint32_t)(about.at - text), span[0], span[1] };
}

static int by_place(const void *a, const void *b)
{
    const Entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

static void check_metadata(Json metadata)
{
    if (json_kind(metadata) != JSON_OBJECT) json_fail(metadata, "an object of strings");
    for (JsonEach each = json_each(metadata); json_next(&each);) json_string(each.value);
}

static void read_entries(Safetensors *file)
{
    const Json root = json_root(file->header);
    file->entries = xcalloc((size_t)json_count(root), sizeof *file->entries, file->name);
    bool ordered = true;
    for (JsonEach each = json_each(root); json_next(&each);) {
        if (strcmp(each.key, "__metadata__") == 0) {
            check_metadata(each.value);
            continue;
        }
        Entry *e = &file->entries[file->count];
        *e = read_entry(file, each.key, each.value);
        ordered = ordered && (file->count == 0 || by_place(e - 1, e) <= 0);
        file->count++;
    }
    if (!ordered) qsort(file->entries, (size_t)file->count, sizeof *file->entries, by_place);
    int64_t end = 0;
    for (int64_t i = 0; i < file->count; end = file->entries[i++].end)
        CHECK(file->entries[i].begin == end, "%s: %s begins at byte %lld of the data, the tensor before it ends at "
              "%lld; gaps and overlaps are not allowed", file->name, safetensors_name(file, i),
              (long long)file->entries[i].begin, (long long)end);
    CHECK(end == file->data_bytes, "%s: the tensors take %lld bytes, the file holds %lld after its header", file->name,
          (long long)end, (long long)file->data_bytes);
}

static uint64_t read_length(const char *name, const void *data, size_t size)
{
    static const char lfs[] = "version https://git-";
    const unsigned char *bytes = data;
    uint64_t length = 0;
    CHECK(size >= LENGTH_BYTES + 2, "%s: %zu bytes, wanted a safetensors file", name, size);
    CHECK(size < sizeof lfs - 1 || memcmp(data, lfs, sizeof lfs - 1), "%s is git-lfs's note of a file that was not "
          "downloaded; run git lfs pull in its folder", name);
    for (int i = 0; i < LENGTH_BYTES; i++) length |= (uint64_t)bytes[i] << 8 * i;
    CHECK(length <= size - LENGTH_BYTES && length <= MAX_HEADER && bytes[LENGTH_BYTES] == '{', "%s: its first eight "
          "bytes say %llu of header and '%c' (0x%02x) follows; wanted a safetensors file: at most %d, no more than "
          "the file's %zu, and '{'", name, (unsigned long long)length,
          bytes[8] > 0x20 && bytes[8] < 0x7f ? bytes[8] : '?', bytes[8], MAX_HEADER, size);
    return length;
}

static void parse_into(Safetensors *file, const void *data, size_t size)
{
    const size_t length = (size_t)read_length(file->name, data, size);
    const char *header = (const char *)data + LENGTH_BYTES;
    file->data = header + length;
    file->data_bytes = (int64_t)(size - LENGTH_BYTES - length);
    file->header = json_parse(file->name, header, length);
    read_entries(file);
}

Safetensors *safetensors_parse(const char *name, const void *data, size_t size)
{
    Safetensors *file AUTO(safetensors_close) = xcalloc(1, sizeof *file, name);
    file->name = text_format("%s", name);
    parse_into(file, data, size);
    Safetensors *result = file;
    file = NULL;
    return result;
}

Safetensors *safetensors_open(const char *path)
{
    Safetensors *file AUTO(safetensors_close) = xcalloc(1, sizeof *file, path);
    file->name = text_format("%s", path);
    file->view = view_file(path);
    parse_into(file, file->view.data, file->view.size);
    if ((uintptr_t)file->data % 8) {
        const size_t bytes = (size_t)file->data_bytes;
        file->copy = malloc(bytes + 1);
        CHECK(file->copy, "out of memory: %zu bytes for %s", bytes, path);
        memcpy(file->copy, file->data, bytes);
        file->data = file->copy;
        close_view(&file->view);
    }
    Safetensors *result = file;
    file = NULL;
    return result;
}

void safetensors_close(Safetensors **file)
{
    if (!*file) return;
    free((*file)->name);
    free((*file)->copy);
    free((*file)->entries);
    close_view(&(*file)->view);
    json_free(&(*file)->header);
    free(*file);
    *file = NULL;
}

int64_t safetensors_count(const Safetensors *file) { return file->count; }

static const char *text_at(const Safetensors *file, uint32_t place) { return json_root(file->header).at + place; }

const char *safetensors_name(const Safetensors *file, int64_t index)
{
    return text_at(file, file->entries[index].name);
}

int64_t safetensors_find(const Safetensors *file, const char *name)
{
    for (int64_t i = 0; i < file->count; i++) if (strcmp(safetensors_name(file, i), name) == 0) return i;
    return -1;
}

Tensor safetensors_tensor(const Safetensors *file, int64_t index)
{
    CHECK(index >= 0 && index < file->count, "%s: tensor %lld of %lld", file->name, (long long)index,
          (long long)file->count);
    const Entry *e = &file->entries[index];
    const Json about = { file->header, text_at(file, e->about) };
    const Type *type = read_type(about);
    if (type->of == DT_COUNT) json_fail(json_get(about, "dtype"), "F32, BF16, I32 or U8");
    /* Not const, as a Tensor's data is not; a mapping's pages refuse to be written. */
    Tensor t = { (char *)file->data + e->begin, safetensors_name(file, index), type->of, 0, { 0 } };
    read_shape(about, &t);
    CHECK((uintptr_t)t.data % (uintptr_t)type->bytes == 0, "%s: %s begins at byte %lld of the data, wanted a multiple "
          "of %d; write the file again with wider types first", file->name, t.name, (long long)e->begin, type->bytes);
    return t;
}

RawTensor safetensors_raw(const Safetensors *file, int64_t index)
{
    CHECK(index >= 0 && index < file->count, "%s: tensor %lld of %lld", file->name, (long long)index,
          (long long)file->count);
    const Entry *e = &file->entries[index];
    const Json about = { file->header, text_at(file, e->about) };
    Tensor t = none();
    read_shape(about, &t);
    RawTensor raw = { safetensors_name(file, index), read_type(about)->name, file->data + e->begin,
                      e->end - e->begin, { 0 }, t.ndim };
    memcpy(raw.dim, t.dim, sizeof raw.dim);
    return raw;
}

Tensor safetensors_get(const Safetensors *file, const char *name)
{
    const int64_t index = safetensors_find(file, name);
    CHECK(index >= 0, "%s: no tensor %s among its %lld", file->name, name, (long long)file->count);
    return safetensors_tensor(file, index);
}

const char *safetensors_metadata(const Safetensors *file, const char *key)
{
    const Json metadata = json_find(json_root(file->header), "__metadata__");
    if (!metadata.at) return NULL;
    const Json value = json_find(metadata, key);
    return value.at ? json_string(value) : NULL;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

struct SafetensorsWriter {
    NewFile file;
    int64_t data_at, count;
    struct Slot { int64_t begin, bytes, left; } *slots;
};

static const char *type_name(DType dtype)
{
    size_t i = 0;
    while (types[i].of != dtype) i++;
    return types[i].name;
}

static void put_description(JsonText *out, Tensor t, const struct Slot *slot)
{
    json_key(out, t.name);
    json_begin_object(out);
    json_key(out, "dtype");
    json_put_string(out, type_name(t.dtype));
    json_key(out, "shape");
    json_begin_array(out);
    for (int i = 0; i < t.ndim; i++) json_put_int(out, t.dim[i]);
    json_end(out);
    json_key(out, "data_offsets");
    json_begin_array(out);
    json_put_int(out, slot->begin);
    json_put_int(out, slot->begin + slot->bytes);
    json_end(out);
    json_end(out);
}

/* The header's text, and each tensor's place in w->slots. */
static void lay_out(SafetensorsWriter *w, JsonText *out, const Tensor *tensors, const char *const *metadata)
{
    json_begin_object(out);
    if (metadata) {
        json_key(out, "__metadata__");
        json_begin_object(out);
        for (; *metadata; metadata += 2) {
            json_key(out, metadata[0]);
            json_put_string(out, metadata[1]);
        }
        json_end(out);
    }
    int64_t end = 0;
    for (size_t width = 8; width > 0; width /= 2) {
        for (int64_t i = 0; i < w->count; i++) {
            const Tensor t = tensors[i];
            if (dtype_size(t.dtype) != width) continue;
            const int64_t bytes = (int64_t)tensor_bytes(t);
            w->slots[i] = (struct Slot){ end, bytes, bytes };
            put_description(out, t, &w->slots[i]);
            end += bytes;
        }
    }
    json_end(out);
}

SafetensorsWriter *safetensors_create(const char *path, const Tensor *tensors, int64_t count,
                                      const char *const *metadata)
{
    static const char spaces[] = "       ";
    SafetensorsWriter *w AUTO(safetensors_discard) = xcalloc(1, sizeof *w, path);
    JsonText header AUTO(json_text_free) = { 0 };
    w->file.fd = -1;
    w->count = count;
    w->slots = xcalloc((size_t)count, sizeof *w->slots, path);
    for (int64_t i = 0; i < count; i++)
        CHECK(tensors[i].name && tensors[i].ndim >= 1, "writing %s: tensor %lld has no name or no shape", path,
              (long long)i);
    lay_out(w, &header, tensors, metadata);
    /* Reading it back is the check that no name is there twice. */
    JsonFile *check AUTO(json_free) = json_parse(path, header.text, header.size);
    unsigned char length[LENGTH_BYTES];
    const size_t padding = (8 - header.size % 8) % 8, padded = header.size + padding;
    for (int i = 0; i < LENGTH_BYTES; i++) length[i] = (unsigned char)(padded >> 8 * i);
    w->data_at = LENGTH_BYTES + (int64_t)padded;
    w->file = new_file(path);
    new_file_write(&w->file, 0, length, LENGTH_BYTES);
    new_file_write(&w->file, LENGTH_BYTES, header.text, header.size);
    new_file_write(&w->file, LENGTH_BYTES + (int64_t)header.size, spaces, padding);
    SafetensorsWriter *result = w;
    w = NULL;
    return result;
}

void safetensors_put(SafetensorsWriter *w, int64_t index, int64_t offset, const void *data, int64_t bytes)
{
    CHECK(index >= 0 && index < w->count, "writing %s: tensor %lld of %lld", w->file.path, (long long)index,
          (long long)w->count);
    struct Slot *slot = &w->slots[index];
    CHECK(offset >= 0 && bytes >= 0 && offset <= slot->bytes && bytes <= slot->left && bytes <= slot->bytes - offset,
          "writing %s: %lld bytes at byte %lld of tensor %lld, which has %lld of which %lld are still wanted",
          w->file.path, (long long)bytes, (long long)offset, (long long)index, (long long)slot->bytes,
          (long long)slot->left);
    new_file_write(&w->file, w->data_at + slot->begin + offset, data, (size_t)bytes);
    slot->left -= bytes;
}

void safetensors_finish(SafetensorsWriter **w)
{
    for (int64_t i = 0; i < (*w)->count; i++)
        CHECK((*w)->slots[i].left == 0, "writing %s: %lld bytes of tensor %lld were not put", (*w)->file.path,
              (long long)(*w)->slots[i].left, (long long)i);
    new_file_commit(&(*w)->file);
    safetensors_discard(w);
}

void safetensors_discard(SafetensorsWriter **w)
{
    if (!*w) return;
    new_file_discard(&(*w)->file);
    free((*w)->slots);
    free(*w);
    *w = NULL;
}

void safetensors_write(const char *path, const Tensor *tensors, int64_t count, const char *const *metadata)
{
    SafetensorsWriter *w AUTO(safetensors_discard) = safetensors_create(path, tensors, count, metadata);
    for (int64_t i = 0; i < count; i++) safetensors_put(w, i, 0, tensors[i].data, (int64_t)tensor_bytes(tensors[i]));
    safetensors_finish(&w);
}
