/* flags.h -- a program's command line, its --help and its --config from one table.
 *
 *     typedef struct { int64_t batch_size; double lr; bool resume; const char *data, *schedule; } Settings;
 *     static const Flag table[] = {
 *         INT_FLAG(Settings, batch_size, "8", 1, 4096, "data", "rows in one micro-batch"),
 *         CHOICE_FLAG(Settings, schedule, "cosine", "cosine linear wsd", "optimizer", "how lr falls"),
 *     };
 *     Flags *flags = flags_open("train_gpt2", "Pre-train a model.", table, COUNT_OF(table), &settings);
 *     if (!flags_parse(flags, argc, argv)) return 0;      // --help was printed
 *
 * A flag is `--name value` or `--name=value`; `-` and `_` in a name are the same. A switch is also `--name` alone or
 * `--no-name`. Given twice, the last one holds. `--config FILE` sets flags from a file, a JSON object or lines of
 * `name = value` (# begins a comment line); the command line wins over it. Every mistake is a sentence. */
#ifndef LLMC_FLAGS_H
#define LLMC_FLAGS_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { FLAG_INT, FLAG_REAL, FLAG_BOOL, FLAG_TEXT, FLAG_CHOICE } FlagType;

typedef struct Flag {
    const char *name;           /* words joined by underscores */
    FlagType    type;           /* of the field at offset: int64_t, double, bool, const char *, const char * */
    size_t      offset;         /* in the struct of settings */
    const char *fallback;       /* the default as one would type it; for text and choices NULL: not set */
    const char *help, *group;   /* rows of a group stand together */
    const char *otherwise;      /* what --help says instead of the default; NULL: the default */
    double      min, max;       /* of numbers, both included; 0, 0: any */
    const char *choices;        /* of FLAG_CHOICE: words separated by spaces */
    const char *word;           /* of FLAG_INT: may be given instead of a number, and makes it FLAG_WORD */
} Flag;

#define FLAG_WORD INT64_MIN

/* Rows whose field has the flag's name; another type does not compile. No limit: -INFINITY, INFINITY. */
#define FLAG_ROW(S, field, c_type, kind, ...) \
    { .name = #field, .type = _Generic(((S *)0)->field, c_type: kind), .offset = offsetof(S, field), __VA_ARGS__ }
#define INT_FLAG(S, field, value, least, most, in_group, text) \
    FLAG_ROW(S, field, int64_t, FLAG_INT, .fallback = value, .min = least, .max = most, .group = in_group, .help = text)
#define INT_OR_WORD_FLAG(S, field, value, least, most, or_word, in_group, text) \
    FLAG_ROW(S, field, int64_t, FLAG_INT, .fallback = value, .min = least, .max = most, .word = or_word, \
             .group = in_group, .help = text)
#define REAL_FLAG(S, field, value, least, most, in_group, text) \
    FLAG_ROW(S, field, double, FLAG_REAL, .fallback = value, .min = least, .max = most, .group = in_group, .help = text)
#define BOOL_FLAG(S, field, value, in_group, text) \
    FLAG_ROW(S, field, bool, FLAG_BOOL, .fallback = value, .group = in_group, .help = text)
#define TEXT_FLAG(S, field, value, in_group, text) \
    FLAG_ROW(S, field, const char *, FLAG_TEXT, .fallback = value, .group = in_group, .help = text)
#define CHOICE_FLAG(S, field, value, words, in_group, text) \
    FLAG_ROW(S, field, const char *, FLAG_CHOICE, .fallback = value, .choices = words, .group = in_group, .help = text)

typedef enum { SET_BY_DEFAULT, SET_BY_CONFIG, SET_BY_COMMAND_LINE } FlagSource;

typedef struct Flags Flags;

/* Writes the defaults into settings. Table and settings must outlive the result, which owns the texts put there. */
Flags *flags_open(const char *program, const char *about, const Flag *table, size_t count, void *settings);
void   flags_close(Flags *f);                           /* NULL is fine */

bool   flags_parse(Flags *f, int argc, char **argv);    /* false: --help was asked for, and printed on stdout */
void   flags_set(Flags *f, const char *name, const char *value);        /* as if the command line had said so */
char  *flags_help(const Flags *f);                      /* at most 100 columns wide; a new string, free it */

FlagSource flags_source(const Flags *f, const char *name);      /* who set it; fails for a name not in the table */

/* All values as one JSON object in the table's order, or only those that config or command line set, without the names
 * in `without` (separated by spaces, may be NULL). What is not set is null. Reads back through --config. A new string,
 * free it. */
char  *flags_json(const Flags *f, bool only_set, const char *without);

#ifdef __cplusplus
}
#endif
#endif
