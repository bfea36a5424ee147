/* loader.c -- see loader.h */
#include "loader.h"

#include "shards.h"
#include "shuffle.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef struct { int64_t cursor, micro; } Position;        /* an update, and a micro-batch of it */
typedef struct { const Shard *shard; int64_t begin; } Window;

typedef struct {
    int32_t *numbers;       /* four arrays (B,T): what batch points to */
    Batch   batch;
    int64_t update_targets;         /* of the update that the batch belongs to, this rank's share */
    char    error[1024];            /* empty, or why the batch could not be made: raised where it would be delivered */
} Slot;

/* Slots are a ring. The consumer holds the one it took last; the producer (the thread, or loader_next itself without
 * prefetch) fills the `prefetch` slots after it. `made`, `taken` and `stop` are guarded by `lock`; a slot belongs to
 * the producer until `made` counts it. */
struct Loader {
    LoaderConfig config;
    Shard   *shards;
    int64_t  shard_count;
    int64_t *first_window;          /* (shard_count + 1): windows of the shards before each */
    int64_t  windows, tokens;
    bool     marked;                /* some shard has tokens that are not learned */
    Position at;                    /* of the next batch to hand out */
    Slot    *slots;
    int64_t  slot_count;
    int32_t *numbers;               /* the slots' arrays */
    Window  *batch_windows;         /* (B), the producer's */

    pthread_t       thread;
    pthread_mutex_t lock;
    pthread_cond_t  slot_made, slot_taken;
    int64_t         made, taken;    /* batches since the thread started */
    bool            started, stop;
};

/* ---- which windows ----------------------------------------------------------------------------------------------- */

static int64_t share_windows(const Loader *l) { return l->config.update_windows / l->config.ranks; }

/* The index-th window this rank visits in the update at `cursor`. */
static Window window_at(const Loader *l, int64_t cursor, int64_t index)
{
    const int64_t visit = cursor + l->config.rank * share_windows(l) + index;
    int64_t window = visit % l->windows;
    if (l->config.shuffle) window = shuffle_index(l->config.seed, visit / l->windows, l->windows, window);
    int64_t low = 0, high = l->shard_count;             /* first_window[low] <= window < first_window[high] */
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        if (l->first_window[middle] <= window) low = middle;
        else high = middle;
    }
    return (Window){ &l->shards[low], (window - l->first_window[low]) * l->config.T };
}

static int64_t count_share(const Loader *l, int64_t cursor)
{
    if (!l->marked) return share_windows(l) * l->config.T;
    int64_t learned = 0;
    for (int64_t i = 0; i < share_windows(l); i++) {
        const Window w = window_at(l, cursor, i);
        learned += shard_count_learned(w.shard, w.begin + 1, l->config.T);
    }
    return learned;
}

static Position after(const Loader *l, Position p)
{
    if (p.micro + 1 < loader_micro_batches(l)) return (Position){ p.cursor, p.micro + 1 };
    return (Position){ p.cursor + l->config.update_windows, 0 };
}

/* ---- making a batch ---------------------------------------------------------------------------------------------- */

static bool make_row(const Loader *l, Slot *slot, int64_t b)
{
    const int64_t T = l->config.T, eot = l->config.document_mask ? loader_eot(l) : -1;
    const Window w = l->batch_windows[b];
    const int64_t N = l->config.B * T;
    int32_t *tokens = slot->numbers + b * T, *targets = tokens + N, *pos = targets + N, *first = pos + N;
    int64_t bad = shard_read(w.shard, tokens, w.begin, T, false);
    if (bad < 0) bad = shard_read(w.shard, targets, w.begin + 1, T, true);
    if (bad >= 0) {
        snprintf(slot->error, sizeof slot->error, "%s: token %lld of %lld is %lld, wanted one below vocab_size %lld; "
                 "the shard is damaged or its header is of another tokenizer: write it again", w.shard->path,
                 (long long)bad, (long long)w.shard->count, (long long)shard_token(w.shard, bad),
                 (long long)w.shard->vocab_size);
        return false;
    }
    int64_t learned = 0;
    for (int64_t t = 0; t < T; t++) learned += targets[t] >= 0;
    slot->batch.target_count += learned;

    int64_t start = 0;                                  /* of the document; no token is -1 */
    for (int64_t t = 0; t < T; t++) {
        pos[t] = (int32_t)(t - start);
        first[t] = (int32_t)start;
        if (tokens[t] == eot) start = t + 1;
    }
    return true;
}

/* Calls nothing that may fail: it runs on the thread. */
static void make_batch(const Loader *l, Slot *slot, Position at)
{
    const int64_t B = l->config.B;
    slot->error[0] = 0;
    slot->batch.target_count = 0;
    for (int64_t b = 0; b < B; b++) l->batch_windows[b] = window_at(l, at.cursor, at.micro * B + b);
    if (l->config.shuffle)      /* all of a batch's reads at once: a disk orders them, a network overlaps them */
        for (int64_t b = 0; b < B; b++)
            shard_will_need(l->batch_windows[b].shard, l->batch_windows[b].begin, l->config.T + 1);
    for (int64_t b = 0; b < B; b++)
        if (!make_row(l, slot, b)) return;
}

/* ---- the thread -------------------------------------------------------------------------------------------------- */

static bool wait_for_room(Loader *l, int64_t made)
{
    pthread_mutex_lock(&l->lock);
    while (!l->stop && made - l->taken >= l->config.prefetch) pthread_cond_wait(&l->slot_taken, &l->lock);
    const bool stop = l->stop;
    pthread_mutex_unlock(&l->lock);
    return !stop;
}

static void *make_batches(void *context)
{
    Loader *l = context;
    Position at = l->at;
    int64_t update_targets = 0;
    for (int64_t made = 0; ; made++, at = after(l, at)) {
        if (at.micro == 0) update_targets = count_share(l, at.cursor);
        if (!wait_for_room(l, made)) return NULL;
        Slot *slot = &l->slots[made % l->slot_count];
        slot->update_targets = update_targets;
        make_batch(l, slot, at);
        pthread_mutex_lock(&l->lock);
        l->made = made + 1;
        pthread_cond_signal(&l->slot_made);
        pthread_mutex_unlock(&l->lock);
    }
}

static void start_thread(Loader *l)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);        /* signals are the program's: its own threads take them */
    l->made = l->taken = 0;
    l->stop = false;
    const int error = pthread_create(&l->thread, NULL, make_batches, l);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    CHECK(!error, "the loader's thread cannot be started (%s); set prefetch to 0 to do without it", strerror(error));
    l->started = true;
}

static void stop_thread(Loader *l)
{
    if (!l->started) return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_signal(&l->slot_taken);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    l->started = false;
}

/* The slot of the next batch, made; it is not taken yet. */
static Slot *wait_for_slot(Loader *l)
{
    if (!l->started) start_thread(l);
    pthread_mutex_lock(&l->lock);
    while (l->made == l->taken) pthread_cond_wait(&l->slot_made, &l->lock);
    Slot *slot = &l->slots[l->taken % l->slot_count];
    pthread_mutex_unlock(&l->lock);
    return slot;
}

void loader_next(Loader *l, Batch *out)
{
    Slot *slot = l->slots;
    if (l->config.prefetch) slot = wait_for_slot(l);
    else make_batch(l, slot, l->at);
    CHECK(!slot->error[0], "%s", slot->error);
    if (l->config.prefetch) {
        pthread_mutex_lock(&l->lock);
        l->taken++;
        pthread_cond_signal(&l->slot_taken);
        pthread_mutex_unlock(&l->lock);
    }
    l->at = after(l, l->at);
    *out = slot->batch;
}

int64_t loader_count_targets(Loader *l)
{
    return l->config.prefetch ? wait_for_slot(l)->update_targets : count_share(l, l->at.cursor);
}

void loader_seek(Loader *l, int64_t cursor)
{
    CHECK(cursor >= 0 && cursor <= INT64_MAX / 2, "loader: the cursor is %lld, wanted 0 or more", (long long)cursor);
    stop_thread(l);
    l->at = (Position){ cursor, 0 };
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static void check_config(LoaderConfig *c)
{
    if (!c->ranks) c->ranks = 1;
    CHECK(c->B >= 1 && c->B <= INT32_MAX && c->T >= 1 && c->T <= INT32_MAX, "loader: micro-batches of B=%lld rows and "
          "T=%lld steps, wanted at least 1 of each", (long long)c->B, (long long)c->T);
    CHECK(c->ranks >= 1 && c->ranks <= INT32_MAX && c->rank >= 0 && c->rank < c->ranks, "loader: rank %lld of %lld, "
          "wanted one from 0 to ranks - 1", (long long)c->rank, (long long)c->ranks);
    if (!c->update_windows) c->update_windows = c->ranks * c->B;
    CHECK(c->update_windows >= 1 && c->update_windows <= INT64_MAX / 4 && c->update_windows % (c->ranks * c->B) == 0,
          "loader: updates of %lld windows, wanted a multiple of ranks * B = %lld * %lld = %lld",
          (long long)c->update_windows, (long long)c->ranks, (long long)c->B, (long long)(c->ranks * c->B));
    CHECK(c->prefetch >= 0 && c->prefetch <= 1024, "loader: prefetch is %lld micro-batches, wanted 0 to 1024",
          (long long)c->prefetch);
}

static void open_shards(Loader *l, const LoaderConfig *c)
{
    CHECK(c->data || c->path_count > 0, "loader: no data; give a shard, a glob or a folder");
    ShardPaths found AUTO(shard_paths_free) = {0};
    if (c->path_count <= 0) found = shard_paths(c->data, c->split);
    const int64_t count = c->path_count > 0 ? c->path_count : found.count;
    l->shards = xcalloc((size_t)count, sizeof *l->shards, "the list of shards");
    l->first_window = xcalloc((size_t)count + 1, sizeof *l->first_window, "the list of shards");
    for (int64_t i = 0; i < count; i++) {
        Shard *s = &l->shards[l->shard_count++];        /* counted first: what opens halfway is closed too */
        shard_open(s, c->path_count > 0 ? c->paths[i] : found.path[i]);
        if (!c->shuffle) madvise(s->map, s->map_bytes, MADV_SEQUENTIAL);
    }
}

static void check_together(const Loader *l)
{
    const Shard *a = l->shards;
    for (const Shard *b = a + 1; b < a + l->shard_count; b++) {
        CHECK(b->vocab_size == a->vocab_size, "%s: vocab_size is %lld, but that of %s is %lld; the shards of a run "
              "must be cut with one tokenizer", b->path, (long long)b->vocab_size, a->path, (long long)a->vocab_size);
        CHECK(b->fingerprint == a->fingerprint, "%s: the tokenizer's fingerprint is %016llx, but that of %s is "
              "%016llx; the shards of a run must be cut with one tokenizer", b->path,
              (unsigned long long)b->fingerprint, a->path, (unsigned long long)a->fingerprint);
        CHECK(b->eot == a->eot, "%s: the end-of-text token is %lld, but that of %s is %lld; the shards of a run must "
              "be cut with one tokenizer", b->path, (long long)b->eot, a->path, (long long)a->eot);
    }
}

static void count_windows(Loader *l)
{
    int64_t longest = 0;
    for (int64_t i = 0; i < l->shard_count; i++) {
        const Shard *s = &l->shards[i];
        l->tokens += s->count;
        l->marked |= s->mark != 0;
        l->first_window[i + 1] = l->first_window[i] + (s->count - 1) / l->config.T;
        if (s->count > l->shards[longest].count) longest = i;
    }
    l->windows = l->first_window[l->shard_count];
    CHECK(l->windows, "%s: %lld tokens are fewer than a window of T=%lld and the token after it; use a smaller T or "
          "more text", l->shards[longest].path, (long long)l->shards[longest].count, (long long)l->config.T);
}

static void make_slots(Loader *l)
{
    const int64_t B = l->config.B, T = l->config.T;
    l->slot_count = l->config.prefetch + 1;
    l->slots = xcalloc((size_t)l->slot_count, sizeof *l->slots, "the loader's batches");
    l->batch_windows = xcalloc((size_t)B, sizeof *l->batch_windows, "the loader's batches");
    l->numbers = xcalloc((size_t)(B * T), (size_t)l->slot_count * 4 * sizeof *l->numbers, "the loader's batches");
    for (int64_t i = 0; i < l->slot_count; i++) {
        int32_t *n = l->numbers + i * 4 * B * T;
        l->slots[i].numbers = n;
        l->slots[i].batch = (Batch){ B, T, n, n + B * T, n + 2 * B * T, n + 3 * B * T, 0 };
    }
}

static void close_loader(Loader **l) { loader_close(*l); }

Loader *loader_open(const LoaderConfig *config)
{
    Loader *l AUTO(close_loader) = xcalloc(1, sizeof *l, "a loader");
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->slot_made, NULL);
    pthread_cond_init(&l->slot_taken, NULL);
    l->config = *config;
    check_config(&l->config);
    open_shards(l, config);
    check_together(l);
    count_windows(l);
    CHECK(!config->document_mask || loader_eot(l) >= 0, "%s: names no end-of-text token, and document_mask needs one; "
          "write the shard with one, or leave document_mask off", l->shards[0].path);
    make_slots(l);
    l->config.data = l->config.split = NULL;            /* the caller's */
    l->config.paths = NULL;
    Loader *opened = l;
    l = NULL;
    return opened;
}

void loader_close(Loader *l)
{
    if (!l) return;
    stop_thread(l);
    for (int64_t i = 0; i < l->shard_count; i++) shard_close(&l->shards[i]);
    pthread_cond_destroy(&l->slot_taken);
    pthread_cond_destroy(&l->slot_made);
    pthread_mutex_destroy(&l->lock);
    free(l->shards);
    free(l->first_window);
    free(l->batch_windows);
    free(l->slots);
    free(l->numbers);
    free(l);
}

int64_t  loader_micro_batches(const Loader *l) { return share_windows(l) / l->config.B; }
int64_t  loader_cursor(const Loader *l)        { return l->at.cursor; }
int64_t  loader_windows(const Loader *l)       { return l->windows; }
int64_t  loader_tokens(const Loader *l)        { return l->tokens; }
int64_t  loader_shards(const Loader *l)        { return l->shard_count; }
int64_t  loader_vocab_size(const Loader *l)    { return l->shards[0].vocab_size; }
uint64_t loader_fingerprint(const Loader *l)   { return l->shards[0].fingerprint; }
int64_t  loader_eot(const Loader *l)           { return l->shards[0].eot; }
