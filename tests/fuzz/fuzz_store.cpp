// fuzz_store.cpp -- JSON, safetensors, and the files of a checkpoint.
#include "fuzz.h"

#include <string.h>
#include <unistd.h>

#include "config.h"
#include "json.h"
#include "safetensors.h"
#include "store.h"

// Every value is asked for what it is, and by its key.
static int64_t visit(Json v)
{
    int64_t seen = 1;
    switch (json_kind(v)) {
        case JSON_OBJECT:
        case JSON_ARRAY:
            for (JsonEach each = json_each(v); json_next(&each);) {
                if (each.key && each.index < 20 && json_get(v, each.key).at != each.value.at) __builtin_trap();
                seen += visit(each.value);
            }
            if (json_count(v) + 1 > seen) __builtin_trap();
            return seen;
        case JSON_STRING: return seen + (int64_t)(strlen(json_string(v)) & 0);
        case JSON_NUMBER: return seen + (json_double(v) == 0 && json_double(v) == 1);
        case JSON_BOOL:   return seen + (json_bool(v) & 0);
        case JSON_NULL:   json_fail(v, "anything else");        // the way to a value in a message
    }
    return seen;
}

TARGET(json)
{
    JsonFile *file AUTO(json_free) = json_parse("json", (const char *)data, size);
    visit(json_root(file));
}

// Every byte of every tensor is read.
static void read_all(const Safetensors *file)
{
    uint64_t sum = 0;
    for (int64_t i = 0; i < safetensors_count(file); i++) {
        const char *name = safetensors_name(file, i);
        if (i < 20 && safetensors_find(file, name) != i) __builtin_trap();
        const Tensor t = safetensors_tensor(file, i);
        for (size_t b = 0; b < tensor_bytes(t); b++) sum += ((const uint8_t *)t.data)[b];
    }
    const char *format = safetensors_metadata(file, "format");
    volatile uint64_t used = sum + (format ? strlen(format) : 0);
    (void)used;
}

TARGET(safetensors)
{
    Safetensors *file AUTO(safetensors_close) = safetensors_parse("safetensors", data, size);
    read_all(file);
}

// The same from a mapped file.
TARGET(safetensors_file)
{
    Safetensors *file AUTO(safetensors_close) = safetensors_open(scratch_file("model.safetensors", data, size));
    read_all(file);
}

// The header, with the eight bytes before it always right: mutations reach what it says.
TARGET(safetensors_header)
{
    const uint8_t *brace = data, *end = data + size;
    for (const uint8_t *p = data; p < end; p++) if (*p == '}') brace = p + 1;
    const uint64_t length = (uint64_t)(brace - data);
    const size_t shift = (8 - length % 8) % 8;             /* so that the data is aligned for a header of any length */
    uint8_t *bytes = scratch_block(shift + 8 + size) + shift;
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, data, size);
    Safetensors *file AUTO(safetensors_close) = safetensors_parse("safetensors", bytes, size + 8);
    read_all(file);
}

// A folder of two ranks, of which the second's file is the input; the first has elements 0 to 4 of m/w, it 4 to 8.
TARGET(optimizer)
{
    static bool ready = false;
    if (!ready) {
        float values[4] = { 0, 1, 2, 3 };
        const Tensor t = { values, "m/w[0:4]", DT_F32, 1, { 4 } };
        char *path AUTO(auto_free) = optimizer_path(scratch_folder(), 0, 2);
        safetensors_write(path, &t, 1, nullptr);
        ready = true;
    }
    scratch_file("optimizer.rank1of2.safetensors", data, size);
    OptimizerFiles *files AUTO(optimizer_close) = optimizer_open(scratch_folder());
    float out[8];
    optimizer_read(files, "m", "w", 0, 8, out);
    optimizer_read(files, "m", "w", 3, 5, out);
}

TARGET(config)
{
    config_read(scratch_file("config.json", data, size));
}
