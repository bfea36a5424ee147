/* shards.c -- see shards.h */
#include "shards.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "tokens are used as they lie in the file, which is little-endian"
#endif

/* ---- the file ---------------------------------------------------------------------------------------------------- */

/* llm.c's headers leave out what is the same for every file of that kind. */
static const struct { int32_t magic, version; int width; int64_t vocab_size, eot; } llmc_kinds[] = {
    { 20240520, 1, 2, 50257, 50256 },           /* GPT-2 */
    { 20240801, 7, 4, 128256, 128000 },         /* Llama 3 */
};

enum { AT_MAGIC = 0, AT_VERSION = 4, AT_COUNT = 8, AT_WIDTH = 16, AT_VOCAB_SIZE = 20, AT_FINGERPRINT = 24, AT_EOT = 32,
       AT_ZEROS = 36 };

static int32_t read_i32(const char *at) { int32_t v; memcpy(&v, at, sizeof v); return v; }
static int64_t read_i64(const char *at) { int64_t v; memcpy(&v, at, sizeof v); return v; }

static void close_descriptor(int *fd) { if (*fd >= 0) close(*fd); }

static void map_file(Shard *s)
{
    int fd AUTO(close_descriptor) = open(s->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);    /* a pipe must not block */
    CHECK(fd >= 0, "%s: cannot be opened (%s); a token shard was wanted", s->path, strerror(errno));
    struct stat info;
    CHECK(fstat(fd, &info) == 0, "%s: cannot be examined (%s)", s->path, strerror(errno));
    CHECK(S_ISREG(info.st_mode), "%s: is not a regular file; a token shard was wanted", s->path);
    CHECK(info.st_size > 0, "%s: is empty; a token shard has a header of %d bytes, then tokens; write it again",
          s->path, SHARD_HEADER_BYTES);
    CHECK(info.st_size >= SHARD_HEADER_BYTES, "%s: %lld bytes are too few for the header of %d bytes of a token shard; "
          "write it again", s->path, (long long)info.st_size, SHARD_HEADER_BYTES);
    void *map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    CHECK(map != MAP_FAILED, "%s: cannot be mapped into memory (%s)", s->path, strerror(errno));
    s->map = map;
    s->map_bytes = (size_t)info.st_size;
}

static void read_own_header(Shard *s, const char *header)
{
    CHECK(read_i32(header + AT_VERSION) == SHARD_VERSION, "%s: version %d of the shard format, wanted %d; "
          "write the shard again", s->path, (int)read_i32(header + AT_VERSION), SHARD_VERSION);
    s->count = read_i64(header + AT_COUNT);
    s->width = read_i32(header + AT_WIDTH);
    s->vocab_size = read_i32(header + AT_VOCAB_SIZE);
    memcpy(&s->fingerprint, header + AT_FINGERPRINT, sizeof s->fingerprint);
    s->eot = read_i32(header + AT_EOT);
    CHECK(s->width == 2 || s->width == 4, "%s: tokens of %d bytes, wanted 2 or 4; the header is damaged",
          s->path, s->width);
    CHECK(s->vocab_size >= 1 && (s->width == 4 || s->vocab_size <= 65536), "%s: vocab_size is %lld, wanted 1 to %lld "
          "for tokens of %d bytes; the header is damaged", s->path, (long long)s->vocab_size,
          s->width == 4 ? (long long)INT32_MAX : 65536, s->width);
    CHECK(s->eot >= -1 && s->eot < s->vocab_size, "%s: the end-of-text token is %lld, wanted -1 (none) or one below "
          "vocab_size %lld; the header is damaged", s->path, (long long)s->eot, (long long)s->vocab_size);
    for (int i = AT_ZEROS; i < SHARD_HEADER_BYTES; i++)
        CHECK(header[i] == 0, "%s: header byte %d is %d, wanted 0; the header is damaged, or newer than this program",
              s->path, i, (unsigned char)header[i]);
    s->mark = s->width == 4 ? 0x80000000u : 0;
}

static void read_header(Shard *s)
{
    const char *header = s->map;
    const int32_t magic = read_i32(header + AT_MAGIC), version = read_i32(header + AT_VERSION);
    if (magic == SHARD_MAGIC) {
        read_own_header(s, header);
        return;
    }
    for (size_t i = 0; i < COUNT_OF(llmc_kinds); i++) {
        if (magic != llmc_kinds[i].magic) continue;
        CHECK(version == llmc_kinds[i].version, "%s: version %d of llm.c's format %d, wanted %d; write it again",
              s->path, (int)version, (int)magic, (int)llmc_kinds[i].version);
        s->count = read_i32(header + AT_COUNT);
        s->width = llmc_kinds[i].width;
        s->vocab_size = llmc_kinds[i].vocab_size;
        s->eot = llmc_kinds[i].eot;
        return;
    }
    FAIL("%s: begins with %d, wanted %d (a token shard) or %d or %d (llm.c's); it is another kind of file, or damaged",
         s->path, (int)magic, SHARD_MAGIC, (int)llmc_kinds[0].magic, (int)llmc_kinds[1].magic);
}

void shard_open(Shard *s, const char *path)
{
    *s = (Shard){ .eot = -1 };
    s->path = text_format("%s", path);
    map_file(s);
    read_header(s);
    const int64_t room = (int64_t)s->map_bytes - SHARD_HEADER_BYTES;
    CHECK(s->count >= 1, "%s: the header promises %lld tokens, wanted at least 1; write the shard again",
          s->path, (long long)s->count);
    CHECK(s->count <= room / s->width, "%s: is truncated: %lld bytes hold %lld tokens, the header promises %lld; "
          "copy or write it again", s->path, (long long)s->map_bytes, (long long)(room / s->width),
          (long long)s->count);
    CHECK(s->count * s->width == room, "%s: %lld bytes follow the last of the %lld tokens the header promises, wanted "
          "none; copy or write it again", s->path, (long long)(room - s->count * s->width), (long long)s->count);
    s->tokens = (const char *)s->map + SHARD_HEADER_BYTES;
}

void shard_close(Shard *s)
{
    if (s->map) munmap(s->map, s->map_bytes);
    free(s->path);
    *s = (Shard){0};
}

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

void shard_will_need(const Shard *s, int64_t begin, int64_t count)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t from = ((uintptr_t)s->tokens + (uintptr_t)(begin * s->width)) / page * page;
    const uintptr_t to = (uintptr_t)s->tokens + (uintptr_t)((begin + count) * s->width);
    madvise((void *)from, to - from, MADV_WILLNEED);        /* advice: nothing depends on its being taken */
}

int64_t shard_token(const Shard *s, int64_t at)
{
    return s->width == 2 ? ((const uint16_t *)s->tokens)[at] : ((const uint32_t *)s->tokens)[at] & ~s->mark;
}

int64_t shard_read(const Shard *s, int32_t *out, int64_t begin, int64_t count, bool as_targets)
{
    uint32_t most = 0;
    if (s->width == 2) {
        const uint16_t *in = (const uint16_t *)s->tokens + begin;
        for (int64_t i = 0; i < count; i++) {
            out[i] = in[i];
            most = in[i] > most ? in[i] : most;
        }
    } else {
        const uint32_t *in = (const uint32_t *)s->tokens + begin, mark = s->mark, hide = as_targets ? mark : 0;
        for (int64_t i = 0; i < count; i++) {
            const uint32_t id = in[i] & ~mark;
            out[i] = in[i] & hide ? -1 : (int32_t)id;
            most = id > most ? id : most;
        }
    }
    if (most < s->vocab_size) return -1;
    while (shard_token(s, begin) < s->vocab_size) begin++;
    return begin;
}

int64_t shard_count_learned(const Shard *s, int64_t begin, int64_t count)
{
    if (!s->mark) return count;
    const uint32_t *in = (const uint32_t *)s->tokens + begin;
    int64_t learned = 0;
    for (int64_t i = 0; i < count; i++) learned += !(in[i] & s->mark);
    return learned;
}

uint64_t fingerprint(const void *bytes, size_t size)
{
    const unsigned char *in = bytes;
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < size; i++) hash = (hash ^ in[i]) * 0x100000001b3u;
    return hash;
}

/* ---- finding them ------------------------------------------------------------------------------------------------ */

static void paths_add(ShardPaths *p, const char *folder, const char *name)
{
    if ((p->count & (p->count - 1)) == 0) {             /* full at every power of two */
        char **more = realloc(p->path, (size_t)(p->count ? 2 * p->count : 1) * sizeof *more);
        CHECK(more, "out of memory for the paths of %lld shards", (long long)p->count + 1);
        p->path = more;
    }
    p->path[p->count] = folder ? text_format("%s/%s", folder, name) : text_format("%s", name);
    p->count++;
}

/* NAME_SPLIT.bin or NAME_SPLIT_DIGITS.bin */
static bool is_shard_name(const char *name, const char *split)
{
    const size_t length = strlen(name), split_length = strlen(split);
    if (length < 4 || strcmp(name + length - 4, ".bin") != 0) return false;
    size_t end = length - 4, digits = end;
    while (digits > 0 && name[digits - 1] >= '0' && name[digits - 1] <= '9') digits--;
    if (digits < end && digits > 0 && name[digits - 1] == '_') end = digits - 1;
    return end > split_length + 1 && name[end - split_length - 1] == '_' &&
           memcmp(name + end - split_length, split, split_length) == 0;
}

static void close_folder(DIR **folder) { if (*folder) closedir(*folder); }

static void paths_in_folder(ShardPaths *p, const char *data, const char *split)
{
    CHECK(split, "%s is a folder: say which split of it to read, \"train\" or \"val\"", data);
    DIR *folder AUTO(close_folder) = opendir(data);
    CHECK(folder, "%s: the folder cannot be read (%s)", data, strerror(errno));
    for (const struct dirent *entry; (entry = readdir(folder)); )
        if (is_shard_name(entry->d_name, split)) paths_add(p, data, entry->d_name);
}

static void paths_of_pattern(ShardPaths *p, const char *pattern)
{
    glob_t found AUTO(globfree) = {0};
    const int error = glob(pattern, 0, NULL, &found);
    CHECK(error == 0 || error == GLOB_NOMATCH, "%s: the pattern cannot be searched (%s)", pattern, strerror(errno));
    CHECK(found.gl_pathc, "%s: no such file, and no file matches it as a pattern; make token shards of the text first, "
          "or name the right ones", pattern);
    for (size_t i = 0; i < found.gl_pathc; i++) paths_add(p, NULL, found.gl_pathv[i]);
}

static int by_bytes(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

ShardPaths shard_paths(const char *data, const char *split)
{
    ShardPaths paths AUTO(shard_paths_free) = {0};
    struct stat info;
    if (stat(data, &info) != 0) paths_of_pattern(&paths, data);
    else if (S_ISDIR(info.st_mode)) paths_in_folder(&paths, data, split);
    else paths_add(&paths, NULL, data);
    CHECK(paths.count, "%s: no file in the folder is named NAME_%s_000001.bin; make token shards of the text first, or "
          "name the right folder", data, split);
    qsort(paths.path, (size_t)paths.count, sizeof *paths.path, by_bytes);   /* glob's own order follows the locale */
    const ShardPaths result = paths;
    paths = (ShardPaths){0};
    return result;
}

bool shards_exist(const char *folder, const char *split)
{
    ShardPaths paths AUTO(shard_paths_free) = {0};
    paths_in_folder(&paths, folder, split);
    return paths.count > 0;
}

void shard_paths_free(ShardPaths *paths)
{
    for (int64_t i = 0; i < paths->count; i++) free(paths->path[i]);
    free(paths->path);
    *paths = (ShardPaths){0};
}
