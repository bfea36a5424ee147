/* store.c -- see store.h */
#define _GNU_SOURCE     /* syscall */
#include "store.h"

#include "files.h"
#include "safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif

/* ---- names ------------------------------------------------------------------------------------------------------- */

/* Digits at *text, which moves behind them; -1 if there are none or too many for 62 bits. */
static int64_t read_number(const char **text)
{
    int64_t value = 0;
    const char *p = *text;
    for (; *p >= '0' && *p <= '9' && value < INT64_C(100000000000000000); p++) value = 10 * value + (*p - '0');
    if (p == *text || (*p >= '0' && *p <= '9')) return -1;
    *text = p;
    return value;
}

char *checkpoint_path(const char *dir, int64_t step, bool finished)
{
    return text_format("%s/step_%08lld%s", dir, (long long)step, finished ? "" : ".tmp");
}

int64_t checkpoint_step(const char *path)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/') start--;
    if (end - start < 5 || strncmp(path + start, "step_", 5) != 0) return -1;
    const char *digits = path + start + 5;
    const int64_t step = read_number(&digits);
    char name[40];
    const size_t n = (size_t)snprintf(name, sizeof name, "step_%08lld", (long long)step);
    return step >= 0 && n == end - start && strncmp(name, path + start, n) == 0 ? step : -1;
}

static bool is_unfinished(const char *name)
{
    const size_t n = strlen(name);
    return (strncmp(name, "step_", 5) == 0 || strncmp(name, "latest", 6) == 0) && n > 4
        && strcmp(name + n - 4, ".tmp") == 0;
}

/* ---- folders ----------------------------------------------------------------------------------------------------- */

static void auto_closedir(DIR **folder)
{
    if (*folder) closedir(*folder);
}

static DIR *open_folder(const char *path)
{
    DIR *folder = opendir(path);
    CHECK(folder, "cannot open the folder %s: %s", path, strerror(errno));
    return folder;
}

/* The next name in it but . and .., or NULL at the end. */
static const char *next_name(DIR *folder, const char *path)
{
    const struct dirent *entry;
    do {
        errno = 0;
        entry = readdir(folder);
        CHECK(entry || errno == 0, "cannot read the folder %s: %s", path, strerror(errno));
    } while (entry && (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0));
    return entry ? entry->d_name : NULL;
}

static void remove_or_fail(const char *path)
{
    CHECK(remove_tree(path), "cannot remove %s: %s", path, strerror(errno));
}

static void rename_or_fail(const char *from, const char *to)
{
    CHECK(rename(from, to) == 0, "cannot rename %s to %s: %s", from, to, strerror(errno));
}

/* Both names at once, where the system can: no moment at which neither is there. */
static bool swap_names(const char *a, const char *b)
{
#ifdef SYS_renameat2
    enum { EXCHANGE = 2 };
    return syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, EXCHANGE) == 0;
#else
    (void)a, (void)b;
    return false;
#endif
}

/* A deleted checkpoint loses its name first, so half of one never carries it. */
static void remove_checkpoint(const char *path)
{
    char *aside AUTO(auto_free) = text_format("%s.old.tmp", path);
    remove_or_fail(aside);
    rename_or_fail(path, aside);
    remove_or_fail(aside);
}

/* ---- saving ------------------------------------------------------------------------------------------------------ */

char *checkpoint_begin(const char *dir, int64_t step)
{
    CHECK(step >= 0, "a checkpoint of step %lld, wanted 0 or more", (long long)step);
    char *folder AUTO(auto_free) = checkpoint_path(dir, step, false);
    remove_or_fail(folder);
    make_folders(folder);
    char *result = folder;
    folder = NULL;
    return result;
}

void checkpoint_discard(char **folder)
{
    if (*folder) remove_tree(*folder);
    free(*folder);
    *folder = NULL;
}

static void sync_folder(const char *path)
{
    DIR *folder AUTO(auto_closedir) = open_folder(path);
    for (const char *name; (name = next_name(folder, path));) {
        char *file AUTO(auto_free) = text_format("%s/%s", path, name);
        sync_path(file);
    }
    sync_path(path);
}

/* What this replaces is left under an unfinished name. */
static void give_name(const char *unfinished, const char *path)
{
    if (!path_exists(path)) rename_or_fail(unfinished, path);
    else if (!swap_names(unfinished, path)) {
        char *aside AUTO(auto_free) = text_format("%s.old.tmp", path);
        remove_or_fail(aside);
        rename_or_fail(path, aside);
        if (rename(unfinished, path) != 0) {
            const int why = errno;
            rename_or_fail(aside, path);
            FAIL("cannot rename %s to %s: %s", unfinished, path, strerror(why));
        }
    }
    sync_parent(path);
}

static void point_latest(const char *dir, const char *name)
{
    char *link AUTO(auto_free) = text_format("%s/latest", dir);
    char *beside AUTO(auto_free) = text_format("%s/latest.tmp", dir);
    remove_or_fail(beside);
    CHECK(symlink(name, beside) == 0, "cannot write the link %s: %s", link, strerror(errno));
    rename_or_fail(beside, link);
    sync_parent(link);
}

static int by_step(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

typedef struct Steps {
    int64_t *step, count;
} Steps;

static void free_steps(Steps *steps) { free(steps->step); }

/* Steps of all finished checkpoints, rising. */
static Steps list_steps(const char *dir)
{
    Steps steps AUTO(free_steps) = { NULL, 0 };
    DIR *folder AUTO(auto_closedir) = open_folder(dir);
    for (const char *name; (name = next_name(folder, dir));) {
        const int64_t step = checkpoint_step(name);
        char *path AUTO(auto_free) = text_format("%s/%s", dir, name);
        if (step < 0 || !folder_exists(path)) continue;
        int64_t *grown = realloc(steps.step, (size_t)(steps.count + 1) * sizeof *grown);
        CHECK(grown, "out of memory: %lld checkpoints", (long long)steps.count);
        steps.step = grown;
        steps.step[steps.count++] = step;
    }
    if (steps.count) qsort(steps.step, (size_t)steps.count, sizeof *steps.step, by_step);
    const Steps result = steps;
    steps.step = NULL;
    return result;
}

static void remove_unfinished(const char *dir)
{
    DIR *folder AUTO(auto_closedir) = open_folder(dir);
    for (const char *name; (name = next_name(folder, dir));) {
        char *path AUTO(auto_free) = text_format("%s/%s", dir, name);
        if (is_unfinished(name)) remove_or_fail(path);
    }
}

/* Those after `current` from the highest down, then those before it from the lowest up, until `keep` are left. */
static void remove_old(const char *dir, int64_t current, int64_t keep)
{
    Steps steps AUTO(free_steps) = list_steps(dir);
    int64_t before = 0, after = steps.count - 1;
    for (int64_t left = steps.count; left > keep; left--) {
        const int64_t victim = steps.step[after] > current ? steps.step[after--] : steps.step[before++];
        char *path AUTO(auto_free) = checkpoint_path(dir, victim, true);
        remove_checkpoint(path);
    }
}

void checkpoint_commit(char **folder, int64_t keep)
{
    char *dir AUTO(auto_free) = text_format("%s", *folder);
    char *name = strrchr(dir, '/');
    CHECK(name && is_unfinished(name + 1), "%s is no unfinished checkpoint", *folder);
    *name++ = 0;
    name[strlen(name) - strlen(".tmp")] = 0;
    const int64_t step = checkpoint_step(name);
    CHECK(step >= 0, "%s is no unfinished checkpoint", *folder);
    char *path AUTO(auto_free) = checkpoint_path(dir, step, true);
    sync_folder(*folder);
    give_name(*folder, path);
    free(*folder);
    *folder = NULL;
    point_latest(dir, name);
    remove_unfinished(dir);
    if (keep > 0) remove_old(dir, step, keep);
}

char *checkpoint_latest(const char *dir)
{
    if (!folder_exists(dir)) return NULL;
    char *link AUTO(auto_free) = text_format("%s/latest", dir);
    char name[64];
    const ssize_t n = readlink(link, name, sizeof name - 1);
    if (n > 0) {
        name[n] = 0;
        const int64_t step = checkpoint_step(name);
        char *path AUTO(auto_free) = step >= 0 ? checkpoint_path(dir, step, true) : NULL;
        if (path && folder_exists(path)) {
            char *result = path;
            path = NULL;
            return result;
        }
    }
    Steps steps AUTO(free_steps) = list_steps(dir);
    return steps.count ? checkpoint_path(dir, steps.step[steps.count - 1], true) : NULL;
}

char *checkpoint_before(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *dir AUTO(auto_free) = text_format("%.*s", (int)(slash - path), path);
    const int64_t step = checkpoint_step(path);
    Steps steps AUTO(free_steps) = list_steps(dir);
    int64_t before = -1;
    for (int64_t i = 0; i < steps.count && steps.step[i] < step; i++) before = steps.step[i];
    return before < 0 ? NULL : checkpoint_path(dir, before, true);
}

/* ---- the optimizer's files --------------------------------------------------------------------------------------- */

struct OptimizerFiles {
    char         *folder;
    int           ranks;
    Safetensors **file;     /* (ranks) */
};

char *optimizer_path(const char *folder, int rank, int ranks)
{
    return text_format("%s/optimizer.rank%dof%d.safetensors", folder, rank, ranks);
}

char *optimizer_name(const char *group, const char *parameter, int64_t begin, int64_t end)
{
    return text_format("%s/%s[%lld:%lld]", group, parameter, (long long)begin, (long long)end);
}

/* How many ranks the folder's files are of; 0 if there are none. */
static int count_ranks(const char *path)
{
    static const char start[] = "optimizer.rank";
    int64_t ranks = 0, files = 0;
    DIR *folder AUTO(auto_closedir) = open_folder(path);
    for (const char *name; (name = next_name(folder, path));) {
        if (strncmp(name, start, strlen(start)) != 0) continue;
        const char *p = name + strlen(start);
        const int64_t rank = read_number(&p), of = strncmp(p, "of", 2) == 0 ? (p += 2, read_number(&p)) : -1;
        if (strcmp(p, ".safetensors.tmp") == 0) continue;
        CHECK(rank >= 0 && rank < of && of < INT32_MAX && strcmp(p, ".safetensors") == 0,
              "%s: %s is no optimizer's file name, wanted the form optimizer.rank0of2.safetensors", path, name);
        CHECK(ranks == 0 || of == ranks, "%s: optimizer files of %lld and of %lld ranks; delete those of one set", path,
              (long long)ranks, (long long)of);
        ranks = of;
        files++;
    }
    for (int rank = 0; files < ranks && rank <= files; rank++) {
        char *want AUTO(auto_free) = optimizer_path(path, rank, (int)ranks);
        CHECK(path_exists(want), "%s is missing: the optimizer's state is of %lld ranks, %lld have a file", want,
              (long long)ranks, (long long)files);
    }
    return (int)ranks;
}

/* The range behind a tensor's name, "exp_avg/wte.weight[0:128]": begin, end, and the length of what is before it. */
typedef struct Piece {
    size_t  stem;
    int64_t begin, end;
} Piece;

static bool read_piece(const char *name, Piece *piece)
{
    const char *bracket = strrchr(name, '[');
    if (!bracket) return false;
    const char *p = bracket + 1;
    piece->stem = (size_t)(bracket - name);
    piece->begin = read_number(&p);
    if (piece->begin < 0 || *p++ != ':') return false;
    piece->end = read_number(&p);
    return piece->end >= piece->begin && strcmp(p, "]") == 0;
}

static void check_pieces(const Safetensors *file, const char *path)
{
    for (int64_t i = 0; i < safetensors_count(file); i++) {
        const Tensor t = safetensors_tensor(file, i);
        Piece piece;
        CHECK(read_piece(t.name, &piece) && t.ndim == 1 && t.dtype == DT_F32 && numel(t) == piece.end - piece.begin,
              "%s: %s, %lld elements of %s, is no range of an optimizer's state; wanted f32 named like "
              "exp_avg/wte.weight[0:128]", path, t.name, (long long)numel(t), dtype_name(t.dtype));
    }
}

OptimizerFiles *optimizer_open(const char *folder)
{
    OptimizerFiles *files AUTO(optimizer_close) = xcalloc(1, sizeof *files, folder);
    files->folder = text_format("%s", folder);
    const int ranks = count_ranks(folder);
    CHECK(ranks > 0, "%s: no optimizer.rank*of*.safetensors in it; the optimizer's state is needed to resume", folder);
    files->file = xcalloc((size_t)ranks, sizeof *files->file, folder);
    files->ranks = ranks;
    for (int rank = 0; rank < ranks; rank++) {
        char *path AUTO(auto_free) = optimizer_path(folder, rank, ranks);
        files->file[rank] = safetensors_open(path);
        check_pieces(files->file[rank], path);
    }
    OptimizerFiles *result = files;
    files = NULL;
    return result;
}

void optimizer_close(OptimizerFiles **files)
{
    if (!*files) return;
    for (int rank = 0; rank < (*files)->ranks; rank++) safetensors_close(&(*files)->file[rank]);
    free((*files)->file);
    free((*files)->folder);
    free(*files);
    *files = NULL;
}

int optimizer_ranks(const OptimizerFiles *files) { return files->ranks; }

const char *optimizer_metadata(const OptimizerFiles *files, const char *key)
{
    return safetensors_metadata(files->file[0], key);
}

/* Copies what file holds of stem from `at` on, up to end; returns how far it came. */
static int64_t read_from(const Safetensors *file, const char *stem, int64_t at, int64_t end, float *out)
{
    const size_t length = strlen(stem);
    for (int64_t i = 0; i < safetensors_count(file); i++) {
        Piece piece;
        const char *name = safetensors_name(file, i);
        if (!read_piece(name, &piece) || piece.stem != length || strncmp(name, stem, length) != 0) continue;
        if (at < piece.begin || at >= piece.end) continue;
        const int64_t stop = end < piece.end ? end : piece.end;
        const float *data = safetensors_tensor(file, i).data;
        memcpy(out, data + (at - piece.begin), (size_t)(stop - at) * sizeof *out);
        return stop;
    }
    return at;
}

void optimizer_read(const OptimizerFiles *files, const char *group, const char *parameter, int64_t begin, int64_t end,
                    float *out)
{
    char *stem AUTO(auto_free) = text_format("%s/%s", group, parameter);
    for (int64_t at = begin; at < end;) {
        const int64_t before = at;
        for (int rank = 0; rank < files->ranks && at < end; rank++)
            at = read_from(files->file[rank], stem, at, end, out + (at - begin));
        CHECK(at > before, "%s: no optimizer file holds element %lld of %s (%lld to %lld were wanted)", files->folder,
              (long long)at, stem, (long long)begin, (long long)end);
    }
}
