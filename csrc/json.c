/* json.c -- see json.h */
#include "json.h"

#include "files.h"

#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __APPLE__
#include <xlocale.h>
#endif

struct JsonFile {
    char  *name;
    char  *text;       /* the document, its strings decoded in place: " bytes zero, then FILLER up to their old end */
    size_t size;
};

static const char FILLER = (char)0xff;      /* a byte of no UTF-8 text */

/* ---- walking a document that was checked ------------------------------------------------------------------------ */

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

static const char *skip_space(const char *p)
{
    while (is_space(*p)) p++;
    return p;
}

static const char *skip_string(const char *p)
{
    p += strlen(p) + 1;
    while (*p == FILLER) p++;
    return p;
}

static const char *skip_value(const char *p)
{
    int depth = 0;
    do {
        if (*p == '"') p = skip_string(p);
        else {
            depth += (*p == '{' || *p == '[') - (*p == '}' || *p == ']');
            p++;
        }
    } while (depth > 0);
    while (*p && !is_space(*p) && *p != ',' && *p != ']' && *p != '}') p++;      /* the rest of a number or a word */
    return p;
}

JsonEach json_each(Json container)
{
    const JsonKind kind = json_kind(container);
    if (kind != JSON_OBJECT && kind != JSON_ARRAY) json_fail(container, "an array or an object");
    return (JsonEach){ NULL, { container.file, NULL }, -1, container.at + 1, kind == JSON_OBJECT };
}

bool json_next(JsonEach *each)
{
    const char *p = skip_space(each->next ? each->next : skip_value(each->value.at));
    if (*p == ',') p = skip_space(p + 1);
    if (*p == '}' || *p == ']') {
        each->next = p;
        return false;
    }
    if (each->keyed) {
        each->key = p + 1;
        p = skip_space(skip_space(skip_string(p)) + 1);      /* behind the colon */
    }
    each->value.at = p;
    each->next = NULL;
    each->index++;
    return true;
}

/* ---- reading: the grammar ---------------------------------------------------------------------------------------- */

typedef struct Parser {
    JsonFile   *file;
    char       *at;
    int64_t     line;
    const char *line_start;
} Parser;

__attribute__((noreturn)) static void parse_fail(const Parser *p, const char *at, const char *wanted)
{
    const unsigned char c = (unsigned char)*at;
    char found[32];
    if (at == p->file->text + p->file->size) snprintf(found, sizeof found, "the end of the text");
    else snprintf(found, sizeof found, c > 0x20 && c < 0x7f ? "'%c'" : "the byte 0x%02x", c);
    FAIL("%s: line %lld, byte %lld: %s, wanted %s", p->file->name, (long long)p->line,
         (long long)(at - p->line_start) + 1, found, wanted);
}

static char next_token(Parser *p)
{
    for (; is_space(*p->at); p->at++) {
        if (*p->at != '\n') continue;
        p->line++;
        p->line_start = p->at + 1;
    }
    return *p->at;
}

static unsigned parse_hex4(const Parser *p, const char *digits)
{
    unsigned value = 0;
    for (int i = 0; i < 4; i++) {
        const char c = digits[i];
        const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (digit < 0) parse_fail(p, digits + i, "four hexadecimal digits after \\u");
        value = value << 4 | (unsigned)digit;
    }
    return value;
}

static char *put_utf8(char *out, unsigned c)
{
    if (c == 0) { *out++ = (char)0xc0; *out++ = (char)0x80; }
    else if (c < 0x80) *out++ = (char)c;
    else {
        if (c < 0x800) *out++ = (char)(0xc0 | c >> 6);
        else {
            if (c < 0x10000) *out++ = (char)(0xe0 | c >> 12);
            else {
                *out++ = (char)(0xf0 | c >> 18);
                *out++ = (char)(0x80 | (c >> 12 & 0x3f));
            }
            *out++ = (char)(0x80 | (c >> 6 & 0x3f));
        }
        *out++ = (char)(0x80 | (c & 0x3f));
    }
    return out;
}

/* in is at a backslash; returns behind the escape, whose character went to *out. It is never longer than its escape. */
static char *parse_escape(const Parser *p, char *in, char **out)
{
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    if (in[1] != 'u') {
        const char *name = in[1] ? strchr(names, in[1]) : NULL;
        if (!name) parse_fail(p, in + 1, "one of \" \\ / b f n r t u after a backslash");
        *(*out)++ = values[name - names];
        return in + 2;
    }
    unsigned c = parse_hex4(p, in + 2);
    char *after = in + 6;
    if (c >= 0xd800 && c < 0xe000) {
        const bool pair = c < 0xdc00 && after[0] == '\\' && after[1] == 'u';
        const unsigned low = pair ? parse_hex4(p, after + 2) : 0;
        if (low < 0xdc00 || low > 0xdfff) parse_fail(p, in, "no half of a surrogate pair");
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
        after += 6;
    }
    *out = put_utf8(*out, c);
    return after;
}

static void parse_string(Parser *p)
{
    char *in = p->at + 1, *out = in;
    while (*in != '"') {
        const unsigned char c = (unsigned char)*in;
        if (c == '\\') in = parse_escape(p, in, &out);
        else if (c < 0x20) parse_fail(p, in, "the rest of a string");
        else {
            const int n = utf8_length(in);
            if (n == 0) parse_fail(p, in, "UTF-8");
            for (int i = 0; i < n; i++) *out++ = *in++;
        }
    }
    *out++ = 0;
    p->at = in + 1;
    while (out < p->at) *out++ = FILLER;
}

static void parse_digits(Parser *p)
{
    if (*p->at < '0' || *p->at > '9') parse_fail(p, p->at, "a digit");
    while (*p->at >= '0' && *p->at <= '9') p->at++;
}

static void parse_number(Parser *p)
{
    if (*p->at == '-') p->at++;
    if (*p->at == '0') p->at++;       /* nothing may follow a leading zero: the caller wants a comma or an end */
    else parse_digits(p);
    if (*p->at == '.') {
        p->at++;
        parse_digits(p);
    }
    if (*p->at == 'e' || *p->at == 'E') {
        p->at++;
        if (*p->at == '+' || *p->at == '-') p->at++;
        parse_digits(p);
    }
}

__attribute__((noreturn)) static void fail_twice(const Parser *p, const char *key)
{
    FAIL("%s: line %lld: the key \"%.200s\" is twice in one object", p->file->name, (long long)p->line, key);
}

/* No key twice in a large object that has just been read: an open-addressed table of places in the text. Its seed is
 * an address, so that nobody can choose keys that all fall together. */
static void check_keys_differ(const Parser *p, const char *object, int64_t count)
{
    const uint64_t size = (uint64_t)(count + count / 3 + 1);
    uint32_t *place AUTO(auto_free) = xcalloc(size, sizeof *place, p->file->name);
    const char *text = p->file->text;
    for (JsonEach each = json_each((Json){ p->file, object }); json_next(&each);) {
        uint64_t hash = (uint64_t)(uintptr_t)text ^ 0xcbf29ce484222325u;
        for (const char *s = each.key; *s; s++) hash = (hash ^ (unsigned char)*s) * 0x100000001b3u;
        hash ^= hash >> 32;
        uint64_t slot = (hash * 0x9e3779b97f4a7c15u >> 32) * size >> 32;
        for (; place[slot]; slot = slot + 1 == size ? 0 : slot + 1)
            if (strcmp(text + place[slot], each.key) == 0) fail_twice(p, each.key);
        place[slot] = (uint32_t)(each.key - text);
    }
}

static void parse_value(Parser *p, int depth);

static void parse_object(Parser *p, int depth)
{
    enum { FEW = 16 };
    const char *seen[FEW], *object = p->at++;
    int64_t count = 0;
    if (next_token(p) == '}') { p->at++; return; }
    while (true) {
        if (next_token(p) != '"') parse_fail(p, p->at, "a key in quotes");
        const char *key = p->at + 1;
        parse_string(p);
        for (int64_t i = 0; i < count && i < FEW; i++) if (strcmp(seen[i], key) == 0) fail_twice(p, key);
        if (count < FEW) seen[count] = key;
        count++;
        if (next_token(p) != ':') parse_fail(p, p->at, "a colon after the key");
        p->at++;
        parse_value(p, depth + 1);
        if (next_token(p) == '}') break;
        if (*p->at != ',') parse_fail(p, p->at, "',' or '}'");
        p->at++;
    }
    p->at++;
    if (count > FEW) check_keys_differ(p, object, count);
}

static void parse_array(Parser *p, int depth)
{
    p->at++;
    if (next_token(p) == ']') { p->at++; return; }
    while (true) {
        parse_value(p, depth + 1);
        if (next_token(p) == ']') break;
        if (*p->at != ',') parse_fail(p, p->at, "',' or ']'");
        p->at++;
    }
    p->at++;
}

static void parse_value(Parser *p, int depth)
{
    static const char *words[] = { "null", "true", "false" };
    const char c = next_token(p);
    if ((c == '{' || c == '[') && depth >= JSON_MAX_DEPTH) parse_fail(p, p->at, "at most 64 levels");
    if (c == '{') parse_object(p, depth);
    else if (c == '[') parse_array(p, depth);
    else if (c == '"') parse_string(p);
    else if (c == '-' || (c >= '0' && c <= '9')) parse_number(p);
    else {
        for (size_t i = 0; i < COUNT_OF(words); i++) {
            const size_t n = strlen(words[i]);
            if (strncmp(p->at, words[i], n) != 0) continue;
            p->at += n;
            return;
        }
        parse_fail(p, p->at, "a value");
    }
}

/* text: a block with a zero behind its size bytes, which becomes the document's. */
static JsonFile *parse(const char *name, char **text, size_t size)
{
    JsonFile *file AUTO(json_free) = xcalloc(1, sizeof *file, name);
    file->text = *text;
    file->size = size;
    *text = NULL;
    file->name = text_format("%s", name);
    CHECK(size < UINT32_MAX, "%s: %zu bytes of JSON, wanted less than 4 GiB", name, size);
    Parser p = { file, file->text, 1, file->text };
    parse_value(&p, 0);
    next_token(&p);
    if (p.at != file->text + size) parse_fail(&p, p.at, "nothing after the value");
    JsonFile *result = file;
    file = NULL;
    return result;
}

JsonFile *json_read(const char *path)
{
    size_t size;
    char *text AUTO(auto_free) = read_file(path, &size);
    return parse(path, &text, size);
}

JsonFile *json_parse(const char *name, const char *text, size_t size)
{
    char *copy AUTO(auto_free) = malloc(size + 1);
    CHECK(copy, "out of memory: %zu bytes for %s", size + 1, name);
    if (size) memcpy(copy, text, size);
    copy[size] = 0;
    return parse(name, &copy, size);
}

void json_free(JsonFile **file)
{
    if (!*file) return;
    free((*file)->name);
    free((*file)->text);
    free(*file);
    *file = NULL;
}

Json json_root(const JsonFile *file) { return (Json){ file, skip_space(file->text) }; }

/* ---- reading: values --------------------------------------------------------------------------------------------- */

JsonKind json_kind(Json v)
{
    switch (*v.at) {
        case '{': return JSON_OBJECT;
        case '[': return JSON_ARRAY;
        case '"': return JSON_STRING;
        case 'n': return JSON_NULL;
        case 't': case 'f': return JSON_BOOL;
        default:  return JSON_NUMBER;
    }
}

/* The way from the root to v, "model.vocab" or "layers[3].name", as far as it fits. */
static void write_path(Json v, char *out, size_t room)
{
    Json here = json_root(v.file);
    size_t used = 0;
    snprintf(out, room, "the document");
    while (here.at != v.at && used + 1 < room) {
        JsonEach each = json_each(here);
        while (json_next(&each) && skip_value(each.value.at) <= v.at) continue;
        if (each.keyed) snprintf(out + used, room - used, used ? ".%s" : "%s", each.key);
        else snprintf(out + used, room - used, "[%lld]", (long long)each.index);
        used += strlen(out + used);
        here = each.value;
    }
}

void json_fail(Json v, const char *wanted, ...)
{
    char path[200], found[100], want[400];
    va_list args;
    va_start(args, wanted);
    vsnprintf(want, sizeof want, wanted, args);
    va_end(args);
    write_path(v, path, sizeof path);
    const JsonKind kind = json_kind(v);
    if (kind == JSON_OBJECT || kind == JSON_ARRAY)
        snprintf(found, sizeof found, kind == JSON_OBJECT ? "an object" : "an array");
    else if (kind == JSON_STRING) snprintf(found, sizeof found, "\"%.60s\"", v.at + 1);
    else {
        const ptrdiff_t n = skip_value(v.at) - v.at;
        snprintf(found, sizeof found, "%.*s", (int)(n < 60 ? n : 60), v.at);
    }
    FAIL("%s: %s is %s, wanted %s", v.file->name, path, found, want);
}

Json json_find(Json object, const char *key)
{
    if (json_kind(object) != JSON_OBJECT) json_fail(object, "an object");
    for (JsonEach each = json_each(object); json_next(&each);)
        if (strcmp(each.key, key) == 0) return each.value;
    return (Json){ object.file, NULL };
}

Json json_get(Json object, const char *key)
{
    const Json v = json_find(object, key);
    if (v.at) return v;
    char path[200];
    write_path(object, path, sizeof path);
    const bool top = object.at == json_root(object.file).at;
    FAIL("%s: %s%s%s is missing", object.file->name, top ? "" : path, top ? "" : ".", key);
}

int64_t json_count(Json v)
{
    int64_t count = 0;
    for (JsonEach each = json_each(v); json_next(&each);) count++;
    return count;
}

/* strtod and printf obey the program's locale; JSON does not. */
static double plain_strtod(const char *text)
{
    const locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0), mine = uselocale(plain);
    const double value = strtod(text, NULL);
    uselocale(mine);
    freelocale(plain);
    return value;
}

double json_double(Json v)
{
    if (json_kind(v) != JSON_NUMBER) json_fail(v, "a number");
    const double value = plain_strtod(v.at);
    if (!isfinite(value)) json_fail(v, "a number of at most 1.8e308");
    return value;
}

int64_t json_int(Json v)
{
    if (json_kind(v) != JSON_NUMBER) json_fail(v, "a whole number");
    const char *p = v.at + (*v.at == '-');
    int64_t value = 0;
    bool fits = true;
    for (; *p >= '0' && *p <= '9'; p++)       /* downwards, where there is room for the lowest number too */
        fits = fits && !__builtin_mul_overflow(value, 10, &value) && !__builtin_sub_overflow(value, *p - '0', &value);
    if (*v.at != '-') fits = fits && !__builtin_sub_overflow(0, value, &value);
    if (*p == '.' || *p == 'e' || *p == 'E') {
        const double number = plain_strtod(v.at);
        if (floor(number) != number) json_fail(v, "a whole number");
        fits = fabs(number) <= 0x1p53;        /* above, a double does not tell its neighbours apart */
        value = fits ? (int64_t)number : 0;
    }
    if (!fits) json_fail(v, "a whole number of at most 64 bits");
    return value;
}

bool json_bool(Json v)
{
    if (json_kind(v) != JSON_BOOL) json_fail(v, "true or false");
    return *v.at == 't';
}

const char *json_string(Json v)
{
    if (json_kind(v) != JSON_STRING) json_fail(v, "a string");
    return v.at + 1;
}
