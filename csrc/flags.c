/* flags.c -- see flags.h */
#include "flags.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "files.h"
#include "json.h"

enum { NAME_MAX_LENGTH = 63, HELP_WIDTH = 100, HELP_INDENT = 30 };

struct Flags {
    const char *program, *about;
    const Flag *table;
    int         count;
    char       *settings;
    char      **text;           /* by row: the text a field points to, owned here */
    FlagSource *source;
};

static void close_flags(Flags **f) { flags_close(*f); }

/* ---- finding a row ---------------------------------------------------------------------------------------------- */

/* Levenshtein: how many letters to insert, delete or change to make b of a. */
static int edit_distance(const char *a, const char *b)
{
    const int n = (int)strnlen(a, NAME_MAX_LENGTH), m = (int)strnlen(b, NAME_MAX_LENGTH);
    int row[NAME_MAX_LENGTH + 1];
    for (int j = 0; j <= m; j++) row[j] = j;
    for (int i = 1; i <= n; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= m; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[m];
}

/* Of words separated by spaces, the one nearest to what was typed; false when none is near enough to be meant. */
static bool nearest_word(const char *typed, const char *words, char nearest[NAME_MAX_LENGTH + 1])
{
    const int length_typed = (int)strnlen(typed, NAME_MAX_LENGTH);
    int best = length_typed <= 2 ? 1 : length_typed <= 5 ? 2 : length_typed / 3 + 1;
    bool found = false;
    for (const char *at = words; *at; at += strspn(at, " ")) {
        char word[NAME_MAX_LENGTH + 1];
        const int length = (int)strcspn(at, " ");
        snprintf(word, sizeof word, "%.*s", length, at);
        const int distance = edit_distance(typed, word);
        if (distance < best + !found) {
            best = distance, found = true;
            memcpy(nearest, word, sizeof word);
        }
        at += length;
    }
    return found;
}

static void normalize(char name[NAME_MAX_LENGTH + 1], const char *typed, size_t length)
{
    if (length > NAME_MAX_LENGTH) length = NAME_MAX_LENGTH;
    for (size_t i = 0; i < length; i++) name[i] = typed[i] == '-' ? '_' : typed[i];
    name[length] = 0;
}

static int row_of(const Flags *f, const char *name)
{
    for (int i = 0; i < f->count; i++)
        if (!strcmp(f->table[i].name, name)) return i;
    return -1;
}

/* where: "" on the command line, else "FILE: " */
__attribute__((noreturn)) static void fail_unknown(const Flags *f, const char *where, const char *name)
{
    char *names = NULL, nearest[NAME_MAX_LENGTH + 1];
    size_t length;
    FILE *out = open_memstream(&names, &length);
    CHECK(out, "out of memory for the names of %d flags", f->count);
    for (int i = 0; i < f->count; i++) fprintf(out, "%s ", f->table[i].name);
    if (!*where) fprintf(out, "config help");           /* a file cannot say these */
    fclose(out);
    const bool found = nearest_word(name, names, nearest);
    free(names);
    const char *dashes = *where ? "" : "--";
    if (found) FAIL("%sunknown flag %s%s; did you mean %s%s?", where, dashes, name, dashes, nearest);
    FAIL("%sunknown flag %s%s; %s --help lists them all", where, dashes, name, f->program);
}

/* ---- setting a value -------------------------------------------------------------------------------------------- */

static bool in_range(const Flag *flag, double value)
{
    return (flag->min == 0 && flag->max == 0) || (value >= flag->min && value <= flag->max);
}

static void format_range(const Flag *flag, char range[80])
{
    const int used =
        flag->max == INFINITY ? snprintf(range, 80, "%g or more", flag->min) :
        flag->min == -INFINITY ? snprintf(range, 80, "%g or less", flag->max) :
        flag->type == FLAG_INT ? snprintf(range, 80, "%.0f to %.0f", flag->min, flag->max)
                               : snprintf(range, 80, "%.15g to %.15g", flag->min, flag->max);
    if (flag->word) snprintf(range + used, 80 - (size_t)used, ", or %s", flag->word);
}

static bool has_word(const char *words, const char *word)
{
    const size_t length = strlen(word);
    for (const char *at = words; *at; at += strcspn(at, " "), at += strspn(at, " "))
        if (strcspn(at, " ") == length && !strncmp(at, word, length)) return true;
    return false;
}

/* 1, 0, or -1 for a text that is neither yes nor no. */
static int truth(const char *text)
{
    if (has_word("1 true yes on", text)) return 1;
    return has_word("0 false no off", text) ? 0 : -1;
}

static void set_number(const Flag *flag, void *field, const char *text, const char *name)
{
    char *end = NULL, range[80];
    double value;
    if (flag->word && !strcmp(text, flag->word)) {
        *(int64_t *)field = FLAG_WORD;
        return;
    }
    errno = 0;
    if (flag->type == FLAG_INT) {
        const long long whole = strtoll(text, &end, 10);
        CHECK(*text && !isspace((unsigned char)*text) && !*end && errno == 0, "%s is '%s'; wanted a whole number%s%s%s",
              name, text, errno == ERANGE ? " of at most 64 bits" : "", flag->word ? ", or " : "",
              flag->word ? flag->word : "");
        *(int64_t *)field = whole;
        value = (double)whole;
    } else {
        value = strtod(text, &end);
        CHECK(*text && !isspace((unsigned char)*text) && !*end && isfinite(value), "%s is '%s'; wanted a number",
              name, text);
        *(double *)field = value;
    }
    format_range(flag, range);
    CHECK(in_range(flag, value), "%s is %s; wanted %s", name, text, range);
}

/* text NULL: not set, for texts and choices only. name is what messages call the flag. */
static void set_value(Flags *f, int i, const char *text, const char *name, FlagSource source)
{
    const Flag *flag = &f->table[i];
    void *field = f->settings + flag->offset;
    if (flag->type == FLAG_INT || flag->type == FLAG_REAL) {
        set_number(flag, field, text, name);
    } else if (flag->type == FLAG_BOOL) {
        CHECK(truth(text) >= 0, "%s is '%s'; wanted 1 or 0, true or false, yes or no, on or off", name, text);
        *(bool *)field = truth(text);
    } else {
        if (text && flag->type == FLAG_CHOICE && !has_word(flag->choices, text)) {
            char nearest[NAME_MAX_LENGTH + 1];
            if (nearest_word(text, flag->choices, nearest)) FAIL("%s is '%s'; did you mean %s?", name, text, nearest);
            FAIL("%s is '%s'; wanted one of: %s", name, text, flag->choices);
        }
        CHECK(!text || *text, "%s is empty; wanted a text", name);
        char *copy = text ? text_format("%s", text) : NULL;
        free(f->text[i]);
        *(const char **)field = f->text[i] = copy;
    }
    f->source[i] = source;
}

/* ---- the config file -------------------------------------------------------------------------------------------- */

/* Without the blanks around it; text is written to. */
static char *trim(char *text)
{
    while (isspace((unsigned char)*text)) text++;
    char *end = text + strlen(text);
    while (end > text && isspace((unsigned char)end[-1])) *--end = 0;
    return text;
}

static int row_of_config(const Flags *f, const char *where, const char *typed)
{
    char name[NAME_MAX_LENGTH + 1];
    normalize(name, typed, strlen(typed));
    const int i = row_of(f, name);
    if (i < 0) fail_unknown(f, where, name);
    return i;
}

static void set_from_config(Flags *f, const char *where, int i, const char *value)
{
    char *described AUTO(auto_free) = text_format("%s%s", where, f->table[i].name);
    set_value(f, i, value, described, SET_BY_CONFIG);
}

/* Lines of `name = value`. A value may stand in double quotes, which are taken off. */
static void read_lines(Flags *f, const char *path, char *text)
{
    int number = 1;
    for (char *line = text, *next; line; line = next, number++) {
        next = strchr(line, '\n');
        if (next) *next++ = 0;
        char *name = trim(line), *value = strchr(name, '=');
        if (!*name || *name == '#') continue;
        char *where AUTO(auto_free) = text_format("%s:%d: ", path, number);
        CHECK(value, "%s'%.60s' is not name = value", where, name);
        *value++ = 0;
        value = trim(value);
        const size_t length = strlen(value);
        if (length >= 2 && value[0] == '"' && value[length - 1] == '"') value[length - 1] = 0, value++;
        set_from_config(f, where, row_of_config(f, where, trim(name)), value);
    }
}

/* As one would type it. Kinds that do not fit the flag fail with the place and what was wanted there. */
static char *typed_from_json(Json v, const Flag *flag)
{
    if (flag->word && json_kind(v) == JSON_STRING) return text_format("%s", json_string(v));
    switch (flag->type) {
    case FLAG_INT:  return text_format("%lld", (long long)json_int(v));
    case FLAG_REAL: return text_format("%.17g", json_double(v));
    case FLAG_BOOL: return text_format("%d", json_bool(v));
    default:        return text_format("%s", json_string(v));
    }
}

/* A JSON object; null leaves a flag as it is. */
static void read_json(Flags *f, const char *path, const char *text, size_t size)
{
    JsonFile *file AUTO(json_free) = json_parse(path, text, size);
    char *where AUTO(auto_free) = text_format("%s: ", path);
    for (JsonEach each = json_each(json_root(file)); json_next(&each); ) {
        const int i = row_of_config(f, where, each.key);
        if (json_kind(each.value) == JSON_NULL) continue;
        char *value AUTO(auto_free) = typed_from_json(each.value, &f->table[i]);
        set_from_config(f, where, i, value);
    }
}

static void read_config(Flags *f, const char *path)
{
    size_t size;
    char *whole AUTO(auto_free) = read_file(path, &size), *text = whole;
    if (!strncmp(text, "\xef\xbb\xbf", 3)) text += 3, size -= 3;       /* a byte order mark, as some editors write */
    if (text[strspn(text, " \t\r\n")] == '{') {
        read_json(f, path, text, size);
    } else {
        CHECK(strlen(text) == size, "%s: byte %zu is 0; wanted a JSON object or lines of name = value", path,
              strlen(text));
        read_lines(f, path, text);
    }
}

/* ---- the command line ------------------------------------------------------------------------------------------- */

/* One argument, taken apart. row is -1 for --config. */
typedef struct { char name[NAME_MAX_LENGTH + 1]; int row; const char *value; } Setting;

/* Takes the setting at argv[*at] and moves *at past it and its value. */
static Setting take_setting(const Flags *f, int argc, char **argv, int *at)
{
    const char *argument = argv[(*at)++];
    CHECK(!strncmp(argument, "--", 2) && argument[2], "unexpected argument '%s'; flags are written --name value, and "
          "%s --help lists them all", argument, f->program);
    const char *equals = strchr(argument, '=');
    Setting s = { .value = equals ? equals + 1 : NULL };
    normalize(s.name, argument + 2, equals ? (size_t)(equals - argument - 2) : strlen(argument + 2));
    s.row = row_of(f, s.name);
    CHECK(s.row >= 0 || strcmp(s.name, "help"), "--help takes no value, but '%s' is given", s.value);
    if (s.row < 0 && !strncmp(s.name, "no_", 3)) {
        const int i = row_of(f, s.name + 3);
        if (i >= 0 && f->table[i].type == FLAG_BOOL) {
            CHECK(!s.value, "--%s takes no value, but '%s' is given; write --%s=0 or --%s=1", s.name, s.value,
                  f->table[i].name, f->table[i].name);
            s.row = i, s.value = "0";
            return s;
        }
    }
    const bool config = s.row < 0 && !strcmp(s.name, "config");
    if (s.row < 0 && !config) fail_unknown(f, "", s.name);
    const bool is_switch = !config && f->table[s.row].type == FLAG_BOOL;
    const char *next = *at < argc ? argv[*at] : NULL;
    if (s.value) return s;
    if (is_switch) {
        s.value = next && truth(next) >= 0 ? argv[(*at)++] : "1";
        return s;
    }
    CHECK(next && strncmp(next, "--", 2), "--%s needs a value, and %s; write --%s VALUE (or --%s=VALUE)", s.name,
          next ? "the next argument is a flag" : "the command line ends there", s.name, s.name);
    s.value = argv[(*at)++];
    return s;
}

bool flags_parse(Flags *f, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") && strcmp(argv[i], "-h")) continue;
        char *help AUTO(auto_free) = flags_help(f);
        fputs(help, stdout);
        return false;
    }
    for (int at = 1; at < argc; ) {         /* a later file's settings win; those of the command line win over all */
        const Setting s = take_setting(f, argc, argv, &at);
        if (s.row < 0) read_config(f, s.value);
    }
    for (int at = 1; at < argc; ) {
        const Setting s = take_setting(f, argc, argv, &at);
        char name[NAME_MAX_LENGTH + 3];
        snprintf(name, sizeof name, "--%s", s.name);
        if (s.row >= 0) set_value(f, s.row, s.value, name, SET_BY_COMMAND_LINE);
    }
    return true;
}

/* ---- out: help and JSON ----------------------------------------------------------------------------------------- */

/* Words of text from column `column` on, broken before HELP_WIDTH; later lines begin at `indent`. */
static void print_wrapped(FILE *out, const char *text, int column, int indent)
{
    for (const char *at = text; *at; at += strspn(at, " ")) {
        const int length = (int)strcspn(at, " ");
        if (column > indent && column + 1 + length > HELP_WIDTH) {
            fprintf(out, "\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            fputc(' ', out);
            column++;
        }
        fprintf(out, "%.*s", length, at);
        column += length;
        at += length;
    }
    fputc('\n', out);
}

static void print_flag(FILE *out, const Flag *flag)
{
    static const char *const kinds[] = { " N", " X", "", " TEXT", " WORD" };
    char range[80];
    int column = fprintf(out, "  --%s%s", flag->name, kinds[flag->type]);
    if (column + 2 > HELP_INDENT) fputc('\n', out), column = 0;
    fprintf(out, "%*s", HELP_INDENT - column, "");
    format_range(flag, range);
    const bool ranged = flag->type <= FLAG_REAL && (flag->min != 0 || flag->max != 0);
    const bool chosen = flag->type == FLAG_CHOICE;
    const char *standard = flag->otherwise ? flag->otherwise : flag->fallback;
    char *text AUTO(auto_free) = text_format("%s%s%s%s%s (%s%s)", flag->help, ranged ? "; " : "", ranged ? range : "",
                                             chosen ? "; one of: " : "", chosen ? flag->choices : "",
                                             standard ? "default " : "not set", standard ? standard : "");
    print_wrapped(out, text, HELP_INDENT, HELP_INDENT);
}

char *flags_help(const Flags *f)
{
    char *help = NULL;
    size_t length;
    FILE *out = open_memstream(&help, &length);
    CHECK(out, "out of memory for the help of %d flags", f->count);
    fprintf(out, "usage: %s [--name value | --name=value | --switch | --no-switch]...\n\n", f->program);
    print_wrapped(out, f->about, 0, 0);
    for (int i = 0; i < f->count; i++) {
        if (i == 0 || strcmp(f->table[i].group, f->table[i - 1].group)) fprintf(out, "\n%s\n", f->table[i].group);
        print_flag(out, &f->table[i]);
    }
    fprintf(out, "\nalso\n");
    const Flag config = { "config", FLAG_TEXT, .help = "read flags from this file, a JSON object or lines of "
                          "`name = value`; the command line wins over it" };
    print_flag(out, &config);
    fprintf(out, "  --help%*sthis text\n", HELP_INDENT - 8, "");
    fclose(out);
    return help;
}

char *flags_json(const Flags *f, bool only_set, const char *without)
{
    JsonText out AUTO(json_text_free) = { .pretty = true };
    json_begin_object(&out);
    for (int i = 0; i < f->count; i++) {
        if (only_set && f->source[i] == SET_BY_DEFAULT) continue;
        if (without && has_word(without, f->table[i].name)) continue;
        const void *field = f->settings + f->table[i].offset;
        json_key(&out, f->table[i].name);
        switch (f->table[i].type) {
        case FLAG_INT:
            if (f->table[i].word && *(const int64_t *)field == FLAG_WORD) json_put_string(&out, f->table[i].word);
            else json_put_int(&out, *(const int64_t *)field);
            break;
        case FLAG_REAL: json_put_double(&out, *(const double *)field); break;
        case FLAG_BOOL: json_put_bool(&out, *(const bool *)field); break;
        default:
            if (f->text[i]) json_put_string(&out, f->text[i]);
            else            json_put_null(&out);
        }
    }
    json_end(&out);
    char *json = out.text;
    out.text = NULL;
    return json;
}

/* ---- open and close --------------------------------------------------------------------------------------------- */

Flags *flags_open(const char *program, const char *about, const Flag *table, size_t count, void *settings)
{
    Flags *f AUTO(close_flags) = xcalloc(1, sizeof *f, "flags");
    f->program = program, f->about = about, f->table = table, f->count = (int)count, f->settings = settings;
    f->text = xcalloc(count, sizeof *f->text, "flags");
    f->source = xcalloc(count, sizeof *f->source, "flags");
    for (int i = 0; i < f->count; i++) {
        const Flag *flag = &table[i];
        CHECK(strlen(flag->name) <= NAME_MAX_LENGTH && row_of(f, flag->name) == i, "the flag %s stands twice in its "
              "table, or has more than %d letters", flag->name, NAME_MAX_LENGTH);
        CHECK(flag->fallback || flag->type >= FLAG_TEXT, "the flag %s has no default", flag->name);
        set_value(f, i, flag->fallback, flag->name, SET_BY_DEFAULT);
    }
    Flags *opened = f;
    f = NULL;
    return opened;
}

void flags_close(Flags *f)
{
    if (!f) return;
    for (int i = 0; f->text && i < f->count; i++) free(f->text[i]);
    free(f->text);
    free(f->source);
    free(f);
}

void flags_set(Flags *f, const char *name, const char *value)
{
    const int i = row_of(f, name);
    CHECK(i >= 0, "flags_set: the table has no flag %s", name);
    set_value(f, i, value, name, SET_BY_COMMAND_LINE);
}

FlagSource flags_source(const Flags *f, const char *name)
{
    const int i = row_of(f, name);
    CHECK(i >= 0, "flags_source: the table has no flag %s", name);
    return f->source[i];
}
