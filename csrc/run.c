/* run.c -- see run.h */
#define _GNU_SOURCE
#include "run.h"
#include "files.h"
#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static void close_slot(Run **r) { run_close(*r); }

static FILE *open_log(const char *folder, const char *name)
{
    char *path AUTO(auto_free) = text_format("%s/%s", folder, name);
    FILE *f = fopen(path, "a");
    CHECK(f, "%s: cannot be opened for writing: %s", path, strerror(errno));
    return f;
}

/* Locks end with the program, however it ends. File systems that know none (some of networks) do without. */
static void lock_folder(Run *r)
{
    r->lock = open(r->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(r->lock >= 0, "%s: cannot be opened: %s", r->folder, strerror(errno));
    CHECK(flock(r->lock, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK,
          "%s: another program is training there; wait for it, or give another --run", r->folder);
}

static bool same_folder(const char *a, const char *b)
{
    struct stat first, second;
    return stat(a, &first) == 0 && stat(b, &second) == 0
        && first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

static void start_folder(Run *r, const char *data, RunStart start)
{
    char *config AUTO(auto_free) = text_format("%s/config.json", r->folder);
    const bool there = path_exists(config);
    CHECK(!data || !same_folder(r->folder, data), "--run %s is the folder of the data; give the run one of its own",
          r->folder);
    if (start == RUN_RESUME) {
        lock_folder(r);
        return;
    }
    CHECK(!there || start == RUN_OVERWRITE, "%s: a run is there already; say --resume to continue it, --overwrite to "
          "start anew in its place, or --run with another folder", r->folder);
    char *orphan AUTO(auto_free) = there ? NULL : checkpoint_latest(r->checkpoints);
    CHECK(!orphan, "%s: it holds checkpoints but no config.json; move them away, or give another --run", r->folder);
    make_folders(r->folder);
    lock_folder(r);
    const char *parts[] = { "checkpoints", "plots", "metrics.jsonl", "samples.md", "config.json", "tokenizer.json" };
    for (size_t i = 0; there && i < COUNT_OF(parts); i++) {
        char *part AUTO(auto_free) = text_format("%s/%s", r->folder, parts[i]);
        remove_tree(part);
    }
    make_folders(r->checkpoints);
}

Run *run_open(const char *folder, const char *data, RunStart start, Comm *comm)
{
    Run *r AUTO(close_slot) = xcalloc(1, sizeof *r, "the run");
    r->writes = comm_rank(comm) == 0;
    r->lock = -1;
    r->folder = text_format("%s", folder);
    r->checkpoints = text_format("%s/checkpoints", folder);
    if (r->writes) {
        start_folder(r, data, start);
        r->metrics = open_log(r->folder, "metrics.jsonl");
        r->samples = open_log(r->folder, "samples.md");
    }
    comm_barrier(comm);
    Run *opened = r;
    r = NULL;
    return opened;
}

void run_close(Run *r)
{
    if (!r) return;
    if (r->metrics) fclose(r->metrics);
    if (r->samples) fclose(r->samples);
    if (r->lock >= 0) close(r->lock);
    free(r->folder);
    free(r->checkpoints);
    free(r);
}

static void flush(Run *r, FILE *f, const char *name)
{
    CHECK(fflush(f) == 0, "%s/%s: cannot be written: %s", r->folder, name, strerror(errno));
}

void run_metric(Run *r, const char *line)
{
    if (!r->writes) return;
    fprintf(r->metrics, "%s\n", line);
    flush(r, r->metrics, "metrics.jsonl");
}

void run_sample(Run *r, int64_t step, const char *text, size_t size)
{
    if (!r->writes) return;
    fprintf(r->samples, "## step %lld\n\n```text\n", (long long)step);
    fwrite(text, 1, size, r->samples);
    fprintf(r->samples, "\n```\n\n");
    flush(r, r->samples, "samples.md");
}

/* After a power cut a log may be shorter than the checkpoint remembers; then what is left of it stays. */
static void cut(Run *r, FILE *f, const char *name, int64_t size)
{
    fseek(f, 0, SEEK_END);
    if (ftell(f) > size)
        CHECK(ftruncate(fileno(f), (off_t)size) == 0, "%s/%s: cannot be cut: %s", r->folder, name, strerror(errno));
    fseek(f, 0, SEEK_END);
}

/* What a run that begins again has logged before is not its own, and not ours to throw away. */
static void set_aside(Run *r, FILE **f, const char *name)
{
    char *path AUTO(auto_free) = text_format("%s/%s", r->folder, name);
    char *aside AUTO(auto_free) = text_format("%s.before", path);
    fseek(*f, 0, SEEK_END);
    if (ftell(*f) == 0) return;
    for (int n = 2; path_exists(aside); n++) {
        free(aside);
        aside = text_format("%s.before%d", path, n);
    }
    fclose(*f);
    *f = NULL;
    CHECK(rename(path, aside) == 0, "%s: cannot be moved aside: %s", path, strerror(errno));
    *f = open_log(r->folder, name);
}

void run_rewind(Run *r, const Progress *p)
{
    if (!r->writes) return;
    if (!p->step) {
        set_aside(r, &r->metrics, "metrics.jsonl");
        set_aside(r, &r->samples, "samples.md");
        return;
    }
    cut(r, r->metrics, "metrics.jsonl", p->metrics_bytes);
    cut(r, r->samples, "samples.md", p->samples_bytes);
}

void run_note_sizes(Run *r, Progress *p)
{
    if (!r->writes) return;
    fseek(r->metrics, 0, SEEK_END);
    fseek(r->samples, 0, SEEK_END);
    p->metrics_bytes = ftell(r->metrics);
    p->samples_bytes = ftell(r->samples);
}

/* ------------------------------------------------------------------------------------------------------ state.json */

/* The one list of what is saved. */
#define PROGRESS(FIELD) FIELD(step) FIELD(updates) FIELD(cursor) FIELD(tokens) FIELD(update_tokens) \
    FIELD(skips_in_a_row) FIELD(skipped) FIELD(rollbacks) FIELD(metrics_bytes) FIELD(samples_bytes)

static void put_ring(JsonText *out, const char *name, const double *ring, int64_t n)
{
    json_key(out, name);
    json_begin_array(out);
    for (int64_t i = 0; i < n; i++) json_put_double(out, ring[i]);
    json_end(out);
}

void progress_write(const Progress *p, const char *folder)
{
    const int64_t n = p->guard.seen < GUARD_WINDOW ? p->guard.seen : GUARD_WINDOW;
    char *path AUTO(auto_free) = text_format("%s/state.json", folder);
    JsonText out AUTO(json_text_free) = { .pretty = true };
    char fingerprint[24];
    snprintf(fingerprint, sizeof fingerprint, "%016llx", (unsigned long long)p->tokenizer);
    json_begin_object(&out);
#define PUT(field) json_key(&out, #field); json_put_int(&out, p->field);
    PROGRESS(PUT)
#undef PUT
    json_key(&out, "tokenizer");
    json_put_string(&out, fingerprint);
    json_key(&out, "guard_seen");
    json_put_int(&out, p->guard.seen);
    put_ring(&out, "guard_loss", p->guard.loss, n);
    put_ring(&out, "guard_norm", p->guard.norm, n);
    json_end(&out);
    write_file(path, out.text, out.size);
}

static void get_ring(Json state, const char *name, double *ring, int64_t n)
{
    Json array = json_get(state, name);
    if (json_kind(array) != JSON_ARRAY || json_count(array) != n)
        json_fail(array, "an array of %lld numbers", (long long)n);
    for (JsonEach each = json_each(array); json_next(&each);) ring[each.index] = json_double(each.value);
}

Progress progress_read(const char *folder)
{
    char *path AUTO(auto_free) = text_format("%s/state.json", folder);
    JsonFile *file AUTO(json_free) = json_read(path);
    const Json state = json_root(file), fingerprint = json_get(state, "tokenizer");
    Progress p = {0};
#define GET(field) p.field = json_int(json_get(state, #field)); \
    if (p.field < 0) json_fail(json_get(state, #field), "0 or more");
    PROGRESS(GET)
#undef GET
    char *end;
    p.tokenizer = strtoull(json_string(fingerprint), &end, 16);
    if (end != json_string(fingerprint) + 16 || *end) json_fail(fingerprint, "16 hexadecimal digits");
    p.guard.seen = json_int(json_get(state, "guard_seen"));
    if (p.guard.seen < 0) json_fail(json_get(state, "guard_seen"), "0 or more");
    const int64_t n = p.guard.seen < GUARD_WINDOW ? p.guard.seen : GUARD_WINDOW;
    get_ring(state, "guard_loss", p.guard.loss, n);
    get_ring(state, "guard_norm", p.guard.norm, n);
    return p;
}
