/* json.h -- a strict reader of JSON (RFC 8259), and a small writer.
 *
 * A document is its own text. Reading checks every byte once, decodes the strings where they stand, and builds nothing
 * beside them: a value is a place in the text. So a document takes its size in memory, and a 10 MB tokenizer.json is
 * ready in the time of a few passes over it; looking up a key or an index walks, so visit a large container with
 * json_each. While it is read, an object of n > 16 keys takes 5.3 n bytes more for a moment (that no key stands twice):
 * at most 1.9 times the text in all.
 *
 * Refused: anything the grammar does not allow, invalid UTF-8, half a surrogate pair, a key twice in one object, more
 * than 64 levels, 4 GiB and above. U+0000 in a string is kept as the two bytes C0 80, which no other text contains, so
 * a string always ends at its zero. */
#ifndef LLMC_JSON_H
#define LLMC_JSON_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct JsonFile JsonFile;

/* A value in a document; it is good for as long as the document. `at` is NULL for one that json_find did not find. */
typedef struct Json {
    const JsonFile *file;
    const char     *at;
} Json;

typedef enum { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT } JsonKind;

enum { JSON_MAX_DEPTH = 64 };

JsonFile *json_read(const char *path);
JsonFile *json_parse(const char *name, const char *text, size_t size);    /* text is copied; name is for messages */
void      json_free(JsonFile **file);                                     /* AUTO(json_free) */
Json      json_root(const JsonFile *file);

JsonKind json_kind(Json v);
Json     json_get(Json object, const char *key);      /* fails: "config.json: n_head is missing" */
Json     json_find(Json object, const char *key);     /* at == NULL if it has no such key */
int64_t  json_count(Json v);                          /* elements of an array, keys of an object */

/* Each fails where the value is not of that kind: "config.json: n_head is "twelve", wanted a whole number". */
int64_t     json_int(Json v);                         /* exact; 4.0 and 4e0 are whole too */
double      json_double(Json v);                      /* the nearest double */
bool        json_bool(Json v);
const char *json_string(Json v);                      /* UTF-8, zero at its end, inside the document */

/* Fail with the place, what was found there, and what was wanted: "FILE: PLACE is FOUND, wanted WANTED". */
__attribute__((noreturn, format(printf, 2, 3))) void json_fail(Json v, const char *wanted, ...);

/* for (JsonEach each = json_each(vocab); json_next(&each);) use(each.key, each.value);    key is NULL in an array */
typedef struct JsonEach {
    const char *key;
    Json        value;
    int64_t     index;
    const char *next;      /* where the next one is looked for; NULL: behind value */
    bool        keyed;
} JsonEach;

JsonEach json_each(Json container);
bool     json_next(JsonEach *each);

/* ---- writing ------------------------------------------------------------------------------------------------------
 * Values in order; commas, quotes and escapes are put where they belong.
 *     JsonText out AUTO(json_text_free) = { .pretty = true };
 *     json_begin_object(&out);  json_key(&out, "step");  json_put_int(&out, 7);  json_end(&out);
 *     write_file(path, out.text, out.size); */
typedef struct JsonText {
    char    *text;         /* zero at its end */
    size_t   size, room;
    bool     pretty;       /* an entry a line in objects; arrays stay on one */
    int      depth;
    uint64_t arrays;       /* bit d: the container at depth d is an array */
} JsonText;

void json_text_free(JsonText *out);
void json_begin_object(JsonText *out);
void json_begin_array(JsonText *out);
void json_end(JsonText *out);                         /* of the innermost one begun */
void json_key(JsonText *out, const char *key);
void json_put_null(JsonText *out);
void json_put_bool(JsonText *out, bool value);
void json_put_int(JsonText *out, int64_t value);
void json_put_double(JsonText *out, double value);    /* reads back the same; NaN and infinities become null */
void json_put_string(JsonText *out, const char *text);/* bytes that are no UTF-8 become U+FFFD; C0 80 is U+0000 */

#ifdef __cplusplus
}
#endif
#endif
