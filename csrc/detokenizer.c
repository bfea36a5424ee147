/* detokenizer.c -- see detokenizer.h */
#include "detokenizer.h"
#include "files.h"
#include "json.h"

#include <stdlib.h>
#include <string.h>

struct Detokenizer {
    int64_t  vocab_size;
    uint32_t *begin, *length;       /* [id]: where its bytes stand */
    char     *bytes;
    size_t    used, room;
};

static void close_slot(Detokenizer **d) { detokenizer_close(*d); }

void detokenizer_close(Detokenizer *d)
{
    if (!d) return;
    free(d->begin);
    free(d->length);
    free(d->bytes);
    free(d);
}

static bool stands_for_itself(int byte)
{
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

/* byte_of[c]: the byte that character c stands for, or -1 */
static void fill_alphabet(int16_t byte_of[512])
{
    int next = 256;
    memset(byte_of, -1, 512 * sizeof *byte_of);
    for (int b = 0; b < 256; b++) byte_of[stands_for_itself(b) ? b : next++] = (int16_t)b;
}

/* The character at *at, which is valid UTF-8; moves past it. */
static uint32_t next_character(const char **at)
{
    const unsigned char *p = (const unsigned char *)*at;
    const int n = utf8_length(*at);
    uint32_t c = n == 1 ? p[0] : n == 2 ? p[0] & 0x1f : n == 3 ? p[0] & 0x0f : p[0] & 0x07;
    for (int i = 1; i < n; i++) c = c << 6 | (p[i] & 0x3f);
    *at += n > 0 ? n : 1;
    return c;
}

static void put(Detokenizer *d, Json where, int64_t id, const char *bytes, size_t n)
{
    if (d->length[id]) json_fail(where, "a number that no other token has, not %lld again", (long long)id);
    CHECK(d->used + n <= d->room, "the detokenizer's tokens do not fit their file's size");
    memcpy(d->bytes + d->used, bytes, n);
    d->begin[id] = (uint32_t)d->used;
    d->length[id] = (uint32_t)n;
    d->used += n;
}

static int64_t id_of(Json v, int64_t limit)
{
    const int64_t id = json_int(v);
    if (id < 0 || id >= limit) json_fail(v, "a token's number, 0 to %lld", (long long)limit - 1);
    return id;
}

static void add_vocab(Detokenizer *d, Json vocab)
{
    int16_t byte_of[512];
    fill_alphabet(byte_of);
    for (JsonEach each = json_each(vocab); json_next(&each);) {
        const char *at = each.key;
        char *spelled AUTO(auto_free) = xcalloc(strlen(at) + 1, 1, "a token");
        size_t n = 0;
        while (*at) {
            const uint32_t c = next_character(&at);
            if (c >= 512 || byte_of[c] < 0)
                json_fail(each.value, "a byte-level BPE token: the character U+%04X stands for no byte there", c);
            spelled[n++] = (char)byte_of[c];
        }
        put(d, each.value, id_of(each.value, d->vocab_size), spelled, n);
    }
}

/* A token may stand in the vocabulary and among the added ones. Then the added one holds: it is not spelled in bytes. */
static void add_added(Detokenizer *d, Json added)
{
    for (JsonEach each = json_each(added); json_next(&each);) {
        const Json number = json_get(each.value, "id");
        const int64_t id = id_of(number, d->vocab_size);
        const char *content = json_string(json_get(each.value, "content"));
        d->length[id] = 0;
        put(d, number, id, content, strlen(content));
    }
}

/* Published vocabularies leave some numbers out, but never more than they use. */
static int64_t highest(Json vocab, Json added, int64_t limit)
{
    int64_t top = -1;
    for (JsonEach each = json_each(vocab); json_next(&each);) {
        const int64_t id = id_of(each.value, limit);
        top = id > top ? id : top;
    }
    for (JsonEach each = json_each(added); added.at && json_next(&each);) {
        const int64_t id = id_of(json_get(each.value, "id"), limit);
        top = id > top ? id : top;
    }
    return top + 1;
}

static Detokenizer *build(JsonFile *file, size_t size)
{
    Detokenizer *d AUTO(close_slot) = xcalloc(1, sizeof *d, "a detokenizer");
    const Json model = json_get(json_root(file), "model"), type = json_get(model, "type"), vocab = json_get(model, "vocab");
    const Json added = json_find(json_root(file), "added_tokens");
    if (strcmp(json_string(type), "BPE")) json_fail(type, "\"BPE\", byte-level");
    if (json_kind(vocab) != JSON_OBJECT) json_fail(vocab, "an object from tokens to numbers");
    if (added.at && json_kind(added) != JSON_ARRAY) json_fail(added, "an array");
    const int64_t tokens = json_count(vocab) + (added.at ? json_count(added) : 0);
    d->vocab_size = highest(vocab, added, 2 * tokens + 64);
    d->room = size;
    d->begin = xcalloc((size_t)d->vocab_size, sizeof *d->begin, "tokens");
    d->length = xcalloc((size_t)d->vocab_size, sizeof *d->length, "tokens");
    d->bytes = xcalloc(size, 1, "tokens");
    add_vocab(d, vocab);
    if (added.at) add_added(d, added);
    Detokenizer *built = d;
    d = NULL;
    return built;
}

Detokenizer *detokenizer_parse(const char *name, const char *text, size_t size)
{
    JsonFile *file AUTO(json_free) = json_parse(name, text, size);
    return build(file, size);
}

Detokenizer *detokenizer_open(const char *path)
{
    size_t size;
    char *text AUTO(auto_free) = read_file(path, &size);
    return detokenizer_parse(path, text, size);
}

int64_t detokenizer_vocab_size(const Detokenizer *d) { return d->vocab_size; }

const char *detokenizer_bytes(const Detokenizer *d, int64_t id, size_t *n)
{
    CHECK(id >= 0 && id < d->vocab_size, "token %lld, but the tokenizer has %lld", (long long)id, (long long)d->vocab_size);
    *n = d->length[id];
    return d->bytes + d->begin[id];
}
