/* detokenizer.c -- see detokenizer.h */
#include "detokenizer.h"
#include "files.h"
#include "json.h"

#include <stdlib.h>
#include <string.h>

struct Detokenizer {
    int64_t   vocab_size;
    uint32_t *begin, *length;       /* [id]: where its bytes stand; length 0: not in use */
    char     *bytes;
    size_t    used;
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

/* The n bytes at the end of d->bytes become token id. */
static void claim(Detokenizer *d, Json where, int64_t id, size_t n)
{
    if (!n) json_fail(where, "a token of at least one byte");
    if (d->length[id]) json_fail(where, "a number that no other token has, not %lld again", (long long)id);
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

static void add_added(Detokenizer *d, Json added)
{
    for (JsonEach each = json_each(added); json_next(&each);) {
        const Json number = json_get(each.value, "id");
        const char *content = json_string(json_get(each.value, "content"));
        const size_t n = strlen(content);
        memcpy(d->bytes + d->used, content, n);
        claim(d, number, id_of(number, d->vocab_size), n);
    }
}

/* After the added tokens: some of them stand in the vocabulary as well, and are not spelled in the alphabet there. */
static void add_vocab(Detokenizer *d, Json vocab)
{
    const size_t end_of_added = d->used;
    int16_t byte_of[512];
    fill_alphabet(byte_of);
    for (JsonEach each = json_each(vocab); json_next(&each);) {
        const int64_t id = id_of(each.value, d->vocab_size);
        const bool is_added = d->length[id] && d->begin[id] < end_of_added;
        if (is_added && d->length[id] == strlen(each.key) && !memcmp(d->bytes + d->begin[id], each.key, d->length[id]))
            continue;
        size_t n = 0;
        for (const char *at = each.key; *at; n++) {
            const uint32_t c = next_character(&at);
            if (c >= 512 || byte_of[c] < 0)
                json_fail(each.value, "a byte-level BPE token: the character U+%04X stands for no byte there", c);
            d->bytes[d->used + n] = (char)byte_of[c];
        }
        claim(d, each.value, id, n);
    }
}

/* The decoder turns the alphabet back into bytes, alone or as one step of a sequence. */
static bool is_byte_level(Json decoder)
{
    if (json_kind(decoder) != JSON_OBJECT) return false;
    const char *type = json_string(json_get(decoder, "type"));
    if (strcmp(type, "Sequence")) return !strcmp(type, "ByteLevel");
    const Json steps = json_get(decoder, "decoders");
    if (json_kind(steps) != JSON_ARRAY) json_fail(steps, "an array");
    for (JsonEach each = json_each(steps); json_next(&each);)
        if (!strcmp(json_string(json_get(each.value, "type")), "ByteLevel")) return true;
    return false;
}

static void check_kind(Json root)
{
    const Json model = json_get(root, "model"), type = json_get(model, "type"), decoder = json_get(root, "decoder");
    if (strcmp(json_string(type), "BPE")) json_fail(type, "\"BPE\", byte-level");
    if (!is_byte_level(decoder)) json_fail(decoder, "one of type \"ByteLevel\": only byte-level BPE is read");
    const char *const affixes[] = { "continuing_subword_prefix", "end_of_word_suffix" };
    for (size_t i = 0; i < COUNT_OF(affixes); i++) {
        const Json affix = json_find(model, affixes[i]);
        if (affix.at && json_kind(affix) != JSON_NULL && *json_string(affix))
            json_fail(affix, "null: in byte-level BPE a token is its bytes and nothing more");
    }
}

/* One more than the highest number. Published vocabularies leave some out, but never more than they use. */
static int64_t count_numbers(Json vocab, Json added)
{
    const int64_t limit = 2 * (json_count(vocab) + (added.at ? json_count(added) : 0)) + 64;
    int64_t top = -1;
    for (JsonEach each = json_each(vocab); json_next(&each);) {
        const int64_t id = id_of(each.value, limit);
        top = id > top ? id : top;
    }
    if (!added.at) return top + 1;
    for (JsonEach each = json_each(added); json_next(&each);) {
        const int64_t id = id_of(json_get(each.value, "id"), limit);
        top = id > top ? id : top;
    }
    return top + 1;
}

static Detokenizer *build(Json root, size_t size)
{
    Detokenizer *d AUTO(close_slot) = xcalloc(1, sizeof *d, "a detokenizer");
    check_kind(root);
    const Json vocab = json_get(json_get(root, "model"), "vocab"), added = json_find(root, "added_tokens");
    if (json_kind(vocab) != JSON_OBJECT) json_fail(vocab, "an object from tokens to numbers");
    if (added.at && json_kind(added) != JSON_ARRAY) json_fail(added, "an array");
    d->vocab_size = count_numbers(vocab, added);
    d->begin = xcalloc((size_t)d->vocab_size, sizeof *d->begin, "tokens");
    d->length = xcalloc((size_t)d->vocab_size, sizeof *d->length, "tokens");
    d->bytes = xcalloc(size, 1, "tokens");      /* each stands in the file, spelled in at least as many bytes */
    if (added.at) add_added(d, added);
    add_vocab(d, vocab);
    Detokenizer *built = d;
    d = NULL;
    return built;
}

Detokenizer *detokenizer_parse(const char *name, const char *text, size_t size)
{
    JsonFile *file AUTO(json_free) = json_parse(name, text, size);
    return build(json_root(file), size);
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
    CHECK(id >= 0 && id < d->vocab_size, "token %lld, but the tokenizer has %lld", (long long)id,
          (long long)d->vocab_size);
    *n = d->length[id];
    return d->bytes + d->begin[id];
}
