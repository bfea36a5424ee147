/* train_data.c -- see train_data.h */
#include "train_data.h"
#include "files.h"
#include "run.h"
#include "shards.h"
#include "store.h"

#include <glob.h>
#include <stdlib.h>
#include <string.h>

static bool any_file(const char *pattern)
{
    glob_t found = {0};
    const bool any = glob(pattern, 0, NULL, &found) == 0 && found.gl_pathc > 0;
    globfree(&found);
    return any;
}

/* The validation shards that belong to --data: its folder, or the pattern with the last _train of the file's name made
 * _val; NULL: there are none. */
static char *val_data(const char *data)
{
    if (folder_exists(data)) return shards_exist(data, "val") ? text_format("%s", data) : NULL;
    const char *slash = strrchr(data, '/'), *split = NULL;
    for (const char *at = slash ? slash : data; (at = strstr(at, "_train")); at++)
        if (at[6] == '_' || at[6] == '.') split = at;
    if (!split) return NULL;
    char *pattern = text_format("%.*s_val%s", (int)(split - data), data, split + strlen("_train"));
    if (path_exists(pattern) || any_file(pattern)) return pattern;
    free(pattern);
    return NULL;
}

static char *tokenizer_beside(const char *data)
{
    const char *slash = strrchr(data, '/');
    char *path = folder_exists(data) ? text_format("%s/tokenizer.json", data)
               : slash               ? text_format("%.*s/tokenizer.json", (int)(slash - data), data)
                                     : text_format("tokenizer.json");
    if (path_exists(path)) return path;
    free(path);
    return NULL;
}

static void open_tokenizer(TrainData *d, const char *data)
{
    d->tokenizer = tokenizer_beside(data);
    if (!d->tokenizer) return;
    size_t size;
    char *text AUTO(auto_free) = read_file(d->tokenizer, &size);
    const uint64_t found = fingerprint(text, size), wanted = loader_fingerprint(d->train);
    CHECK(!wanted || found == wanted, "%s: its fingerprint is %016llx, but the shards were made with tokenizer "
          "%016llx; put that tokenizer.json beside them", d->tokenizer, (unsigned long long)found,
          (unsigned long long)wanted);
    d->words = detokenizer_open(d->tokenizer);
}

static void open_val(TrainData *d, const Settings *s)
{
    char *val AUTO(auto_free) = val_data(s->data);
    if (!val) return;
    d->val = loader_open(&(LoaderConfig){ .data = val, .split = "val", .B = 1, .T = d->T,
                                          .document_mask = s->document_mask });
    CHECK(loader_fingerprint(d->val) == loader_fingerprint(d->train)
          && loader_vocab_size(d->val) == loader_vocab_size(d->train),
          "%s: tokenizer %016llx with %lld symbols, but the training shards have %016llx with %lld; prepare both "
          "together", val,
          (unsigned long long)loader_fingerprint(d->val), (long long)loader_vocab_size(d->val),
          (unsigned long long)loader_fingerprint(d->train), (long long)loader_vocab_size(d->train));
    Batch b;                            /* a token that is none is found now, not after the first hundred updates */
    for (int64_t i = 0; i < s->val_windows && i < loader_windows(d->val); i++) loader_next(d->val, &b);
}

/* Tokens an update of the checkpoint that is resumed; 0: none is. */
static int64_t resumed_batch(const Settings *s)
{
    char *checkpoints AUTO(auto_free) = text_format("%s/checkpoints", s->run);
    char *folder AUTO(auto_free) = s->resume ? checkpoint_latest(checkpoints) : NULL;
    return folder ? progress_read(folder).update_tokens : 0;
}

/* Rows an update: all the ranks' micro-batches of `batch_size`, as many as make up its tokens. */
static int64_t update_windows(TrainData *d, const Settings *s, int ranks)
{
    const bool fits = s->batch_size == FLAG_WORD;
    const int64_t rows = fits ? 1 : s->batch_size, least = rows * ranks * d->T;
    const int64_t resumed = s->total_batch_size ? 0 : resumed_batch(s);
    const int64_t total = s->total_batch_size ? s->total_batch_size : resumed ? resumed : least;
    d->windows_follow = !s->total_batch_size && !resumed;
    CHECK(!fits || !d->windows_follow, "--batch_size auto wants --total_batch_size, the tokens of an update: how a "
          "model learns is not to depend on a machine's memory");
    CHECK(total % least == 0, "%s is %lld tokens, wanted a multiple of seq_len x batch_size x processes = "
          "%lld x %lld x %d = %lld", resumed ? "an update of the run's checkpoint" : "total_batch_size",
          (long long)total, (long long)d->T, (long long)rows, ranks, (long long)least);
    return total / d->T;
}

Config train_data_config(TrainData *d, const TrainFlags *flags, const Comm *comm)
{
    const Settings *s = &flags->settings;
    d->train = loader_open(&(LoaderConfig){ .data = s->data, .split = "train", .B = 1, .T = 1 });   /* its header */
    const Config config = train_config(flags, loader_vocab_size(d->train));
    CHECK(config.head == HEAD_LM, "head is scalar, but pre-training predicts tokens; wanted --head lm");
    d->T = s->seq_len ? s->seq_len : config.max_seq_len;
    CHECK(d->T <= config.max_seq_len,
          "seq_len is %lld, but the model's max_seq_len is %d; lower one or raise the other",
          (long long)d->T, config.max_seq_len);
    d->windows = update_windows(d, s, comm_ranks(comm));
    return config;
}

void train_data_open(TrainData *d, const TrainFlags *flags, const Comm *comm)
{
    const Settings *s = &flags->settings;
    loader_close(d->train);
    d->train = NULL;
    d->train = loader_open(&(LoaderConfig){
        .data = s->data, .split = "train", .B = s->batch_size, .T = d->T, .update_windows = d->windows,
        .rank = comm_rank(comm), .ranks = comm_ranks(comm), .seed = (uint64_t)s->seed, .shuffle = s->shuffle,
        .document_mask = s->document_mask, .prefetch = 2 });
    open_tokenizer(d, s->data);
    open_val(d, s);
}

void train_data_close(TrainData *d)
{
    loader_close(d->train);
    loader_close(d->val);
    detokenizer_close(d->words);
    free(d->tokenizer);
}
