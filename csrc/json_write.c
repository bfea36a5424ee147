/* json_write.c -- JsonText: see json.h */
#include "json.h"

#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __APPLE__
#include <xlocale.h>
#endif

void json_text_free(JsonText *out)
{
    free(out->text);
    out->text = NULL;
    out->size = out->room = 0;
}

static void append(JsonText *out, const char *text, size_t n)
{
    if (out->size + n + 1 > out->room) {
        const size_t room = 2 * (out->size + n + 1) + 64;
        char *grown = realloc(out->text, room);
        CHECK(grown, "out of memory: %zu bytes of JSON", room);
        out->text = grown;
        out->room = room;
    }
    memcpy(out->text + out->size, text, n);
    out->size += n;
    out->text[out->size] = 0;
}

static bool in_array(const JsonText *out) { return out->arrays >> out->depth & 1; }

static void new_line(JsonText *out)
{
    append(out, "\n", 1);
    for (int i = 0; i < out->depth; i++) append(out, "    ", 4);
}

/* What stands before the next key, or the next value of an array. The last character tells whether it is the first. */
static void separate(JsonText *out)
{
    const char last = out->size ? out->text[out->size - 1] : 0;
    const bool first = last == '{' || last == '[';
    if (out->depth == 0 || last == ':' || last == ' ') return;      /* behind a key */
    if (!first) append(out, ",", 1);
    if (out->pretty && !in_array(out)) new_line(out);
    else if (out->pretty && !first) append(out, " ", 1);
}

static void begin(JsonText *out, char bracket)
{
    CHECK(out->depth < JSON_MAX_DEPTH - 1, "writing JSON: more than %d levels", JSON_MAX_DEPTH - 1);
    separate(out);
    append(out, &bracket, 1);
    out->depth++;
    out->arrays &= ~(UINT64_C(1) << out->depth);
    out->arrays |= (uint64_t)(bracket == '[') << out->depth;
}

void json_begin_object(JsonText *out) { begin(out, '{'); }
void json_begin_array(JsonText *out) { begin(out, '['); }

void json_end(JsonText *out)
{
    CHECK(out->depth > 0, "writing JSON: an end without a beginning");
    const bool array = in_array(out), empty = out->text[out->size - 1] == '{';
    out->depth--;
    if (out->pretty && !array && !empty) new_line(out);
    append(out, array ? "]" : "}", 1);
}

static void put_word(JsonText *out, const char *word)
{
    separate(out);
    append(out, word, strlen(word));
}

void json_put_null(JsonText *out) { put_word(out, "null"); }
void json_put_bool(JsonText *out, bool value) { put_word(out, value ? "true" : "false"); }

void json_put_int(JsonText *out, int64_t value)
{
    char word[32];
    snprintf(word, sizeof word, "%lld", (long long)value);
    put_word(out, word);
}

void json_put_double(JsonText *out, double value)
{
    char word[40];
    if (!isfinite(value)) {
        json_put_null(out);
        return;
    }
    const locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0), mine = uselocale(plain);
    for (int digits = 15; digits <= 17; digits++) {      /* 17 always read back the same; fewer often do */
        snprintf(word, sizeof word, "%.*g", digits, value);
        if (strtod(word, NULL) == value) break;
    }
    uselocale(mine);
    freelocale(plain);
    if (!strpbrk(word, ".e")) strcat(word, ".0");        /* so that a reader with two types sees a float */
    put_word(out, word);
}

static void put_quoted(JsonText *out, const char *text)
{
    append(out, "\"", 1);
    while (*text) {
        char code[8];
        const unsigned char c = (unsigned char)*text;
        const char *const names = "\"\"\\\\\bb\ff\nn\rr\tt", *name = names;
        while (*name && *name != *text) name += 2;
        const int n = utf8_length(text);
        if (*name) append(out, (const char[]){ '\\', name[1] }, 2);
        else if (c < 0x20) append(out, code, (size_t)snprintf(code, sizeof code, "\\u%04x", c));
        else if (n) append(out, text, (size_t)n);
        else if (c == 0xc0 && (unsigned char)text[1] == 0x80) append(out, "\\u0000", 6), text++;
        else append(out, "\xef\xbf\xbd", 3);
        text += n ? n : 1;
    }
    append(out, "\"", 1);
}

void json_put_string(JsonText *out, const char *text)
{
    separate(out);
    put_quoted(out, text);
}

void json_key(JsonText *out, const char *key)
{
    CHECK(out->depth > 0 && !in_array(out), "writing JSON: the key %s outside an object", key);
    separate(out);
    put_quoted(out, key);
    append(out, ": ", out->pretty ? 2 : 1);
}
