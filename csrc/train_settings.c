/* train_settings.c -- see train_settings.h */
#include "train_settings.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define S Settings
static const Flag train_table[] = {
    TEXT_FLAG(S, data, NULL, "data",
              "token shards: a folder with *_train_* and *_val_* files, or a glob of training shards"),
    BOOL_FLAG(S, shuffle, "1", "data",
              "read the rows in an order that seed and epoch decide; otherwise in that of the files"),
    BOOL_FLAG(S, document_mask, "0", "data", "tokens see only their own document"),
    INT_FLAG(S, seed, "1337", 0, 9e15, "data", "decides the initial weights, the order of the data and the samples"),

    TEXT_FLAG(S, preset, "gpt2", "model",
              "gpt2 gpt2-medium gpt2-large gpt2-xl gpt2-tiny llama-tiny llama-small llama-110m"),
    CHOICE_FLAG(S, dtype, "f32", "f32 bf16", "model", "type of weights and activations"),

    INT_OR_WORD_FLAG(S, batch_size, "4", 1, MOST_ROWS, "auto", "batch",
                     "rows of a micro-batch, in each process; auto: as many as fit the device's memory, of an update "
                     "of total_batch_size tokens, recomputing if not even one row fits otherwise"),
    INT_FLAG(S, seq_len, "0", 0, 1 << 24, "batch", "tokens a row; 0: the model's max_seq_len"),
    INT_FLAG(S, total_batch_size, "0", 0, 1LL << 40, "batch",
             "tokens an update, over micro-batches and processes; 0: one micro-batch in each process"),
    BOOL_FLAG(S, recompute, "0", "batch",
              "keep only each block's input and compute the rest again on the way back: less memory, a third more "
              "work"),

    INT_FLAG(S, steps, "1000", 1, 1LL << 40, "optimizer", "updates"),
    CHOICE_FLAG(S, optimizer, "adamw", "adamw muon", "optimizer",
                "muon: momentum made orthogonal for the blocks' matrices, AdamW for all else, with one lr"),
    REAL_FLAG(S, lr, "6e-4", 0, 100, "optimizer", "peak learning rate"),
    CHOICE_FLAG(S, schedule, "cosine", "cosine linear wsd constant", "optimizer",
                "how the learning rate falls after the warm-up"),
    INT_FLAG(S, warmup_steps, "0", 0, 1LL << 40, "optimizer", "updates over which it rises"),
    REAL_FLAG(S, final_lr, "0.1", 0, 1, "optimizer", "its last value, as a part of lr"),
    REAL_FLAG(S, decay_fraction, "0.2", 0, 1, "optimizer", "wsd: the part of the run over which it falls"),
    REAL_FLAG(S, beta1, "0.9", 0, 0.999999, "optimizer", "AdamW: memory of the gradient"),
    REAL_FLAG(S, beta2, "0.95", 0, 0.999999999, "optimizer", "AdamW: memory of its square"),
    REAL_FLAG(S, eps, "1e-8", 0, 1, "optimizer", "AdamW: added to the root"),
    REAL_FLAG(S, muon_momentum, "0.95", 0, 0.999999, "optimizer", "Muon: memory of the gradient"),
    REAL_FLAG(S, weight_decay, "0.1", 0, 100, "optimizer", "decoupled, on matrices only"),
    BOOL_FLAG(S, master_weights, "1", "optimizer",
              "bf16: keep the weights in f32 as well; without (--no-master_weights) a parameter takes 4 bytes less, "
              "and steps too small for bf16 are lost, but for stochastic_rounding"),
    BOOL_FLAG(S, stochastic_rounding, "0", "optimizer",
              "bf16: round weights up or down at random, right on average, so that small steps count without master "
              "weights"),
    REAL_FLAG(S, grad_clip, "1", 0, 1e9, "optimizer", "largest gradient norm; 0: no clipping"),
    REAL_FLAG(S, spike_z, "8", 0, 1e9, "optimizer",
              "skip an update whose loss or gradient norm lies this many standard deviations above the mean of the "
              "last 128, each at least 1 % of a mean loss and half of a mean norm (at 8: five times it); 0: only those "
              "not finite"),
    INT_FLAG(S, max_skips, "3", 1, 1 << 20, "optimizer",
             "skips in a row after which the run goes back to its last checkpoint and passes over that data"),

    TEXT_FLAG(S, run, "runs/gpt2", "run", "the run's folder"),
    BOOL_FLAG(S, resume, "0", "run",
              "continue the run from its newest checkpoint, with the settings it was started with"),
    BOOL_FLAG(S, overwrite, "0", "run", "start anew where a run is"),
    INT_FLAG(S, checkpoint_every, "250", 0, 1LL << 40, "run", "updates between checkpoints; 0: only at the end"),
    INT_FLAG(S, keep, "2", 0, 1 << 20, "run", "newest checkpoints to keep; 0: all"),
    INT_FLAG(S, val_every, "100", 0, 1LL << 40, "run", "updates between validations; 0: only at the end"),
    INT_FLAG(S, val_windows, "64", 1, 1LL << 40, "run", "rows of seq_len tokens a validation reads, at most"),
    INT_FLAG(S, sample_every, "0", 0, 1LL << 40, "run", "updates between text samples; 0: only at the end"),
    INT_FLAG(S, sample_tokens, "100", 0, 1 << 20, "run", "tokens of a sample; 0: no samples"),
    REAL_FLAG(S, sample_temperature, "0.8", 0, 100, "run", "0: the likeliest token every time"),
    INT_FLAG(S, sample_top_k, "50", 0, 1 << 28, "run", "draw from the k likeliest tokens; 0: all"),

    TEXT_FLAG(S, device, "cpu", "machine", "cpu: the widest instructions; cuda or cuda:1: a GPU; "
              "or one that `llmc doctor` lists"),
    INT_FLAG(S, threads, "0", 0, 4096, "machine", "0: OMP_NUM_THREADS, or one for each processor"),
    CHOICE_FLAG(S, comm, "auto", "auto single mpi tcp", "machine",
                "how processes talk; auto: TCP with a rendezvous, else MPI when mpirun or srun started several"),
    TEXT_FLAG(S, rendezvous, NULL, "machine",
              "host:port of rank 0, where processes meet over TCP, without MPI; each knows which it is, of how many, "
              "by RANK and WORLD_SIZE in its environment, or SLURM_PROCID and SLURM_NTASKS, and which GPU to take by "
              "LOCAL_RANK or SLURM_LOCALID. MASTER_ADDR and MASTER_PORT are the same as the flag: torchrun sets them "
              "all (it has a server at MASTER_PORT, so there llmc takes the next port)"),
    INT_FLAG(S, rendezvous_timeout, "600", 1, 1 << 20, "machine", "seconds to wait there for the others"),
    BOOL_FLAG(S, plan, "0", "machine",
              "print what every tensor takes, what the device has, and which batch_size and recompute fit, and stop "
              "before allocating"),
    BOOL_FLAG(S, profile, "0", "machine", "time every op; a table at the end"),
};
#undef S

/* One flag for each field of Config. Unset, it leaves the preset's value. */
static Flag config_flag(const ConfigField *f, size_t i)
{
    Flag flag = { .name = f->name, .help = f->help, .group = "model", .fallback = "0", .otherwise = "the preset's" };
    switch (f->type) {
    case FIELD_INT:    flag.type = FLAG_INT;  flag.offset = offsetof(Settings, config_int) + i * sizeof(int64_t);
                       flag.max = 1 << 28; break;
    case FIELD_FLOAT:  flag.type = FLAG_REAL; flag.offset = offsetof(Settings, config_real) + i * sizeof(double);
                       flag.max = 1e12; break;
    case FIELD_BOOL:   flag.type = FLAG_BOOL; flag.offset = offsetof(Settings, config_bool) + i * sizeof(bool); break;
    case FIELD_CHOICE: flag.type = FLAG_CHOICE; flag.offset = offsetof(Settings, config_choice) + i * sizeof(char *);
                       flag.fallback = NULL; flag.choices = f->choices; break;
    }
    return flag;
}

static bool after_model_rows(const Flag *f) { return strcmp(f->group, "data") && strcmp(f->group, "model"); }

/* train_gpt2cu is the same program, and trains on a GPU where it is not told otherwise. */
static bool named_for_gpus(const char *program)
{
    const size_t length = strlen(program);
    return length >= 2 && !strcmp(program + length - 2, "cu");
}

static Flag *whole_table(bool gpu, size_t *count)
{
    int fields;
    const ConfigField *field = config_fields(&fields);
    CHECK(fields <= CONFIG_FIELDS_MOST, "%d config fields; train_settings.h has room for %d",
          fields, CONFIG_FIELDS_MOST);
    Flag *table = xcalloc(COUNT_OF(train_table) + (size_t)fields, sizeof *table, "flags");
    size_t n = 0, i = 0;
    while (!after_model_rows(&train_table[i])) table[n++] = train_table[i++];
    for (int f = 0; f < fields; f++) {
        table[n] = config_flag(&field[f], (size_t)f);
        if (!strcmp(field[f].name, "vocab_size")) table[n].otherwise = "the shards'";
        n++;
    }
    while (i < COUNT_OF(train_table)) table[n++] = train_table[i++];
    for (i = 0; i < n; i++)
        if (gpu && !strcmp(table[i].name, "device")) table[i].fallback = "cuda";
    *count = n;
    return table;
}

void train_flags_close(TrainFlags *t)
{
    if (!t) return;
    flags_close(t->flags);
    free(t->table);
    free(t);
}

static bool parse(TrainFlags *t, int argc, char **argv)
{
    size_t count;
    flags_close(t->flags);
    free(t->table);
    t->flags = NULL, t->table = NULL;
    const bool gpu = argc > 0 && named_for_gpus(argv[0]);
    t->table = whole_table(gpu, &count);
    t->flags = flags_open(gpu ? "train_gpt2cu" : "train_gpt2", "Pre-train a GPT-2 or Llama model on token shards.",
                          t->table, count, &t->settings);
    return flags_parse(t->flags, argc, argv);
}

static void close_slot(TrainFlags **t) { train_flags_close(*t); }

TrainFlags *train_flags_read(int argc, char **argv)
{
    TrainFlags *t AUTO(close_slot) = xcalloc(1, sizeof *t, "settings");
    if (!parse(t, argc, argv)) return NULL;
    if (t->settings.resume) {
        char *file AUTO(auto_free) = text_format("%s/config.json", t->settings.run);
        CHECK(access(file, R_OK) == 0, "--resume: there is no run at %s (no config.json in it)", t->settings.run);
        char **with AUTO(auto_free) = xcalloc((size_t)argc + 3, sizeof *with, "the command line");
        with[0] = argv[0], with[1] = "--config", with[2] = file;
        for (int i = 1; i < argc; i++) with[i + 2] = argv[i];
        parse(t, argc + 2, with);
    }
    CHECK(t->settings.data, "--data is missing: give the folder that `llmc prepare_text` made, or a glob of shards");
    TrainFlags *read = t;
    t = NULL;
    return read;
}

Config train_config(const TrainFlags *t, int64_t shard_vocab_size)
{
    int fields;
    const ConfigField *field = config_fields(&fields);
    Config c = config_preset(t->settings.preset);
    if (shard_vocab_size > 0 && shard_vocab_size < 1 << 28) c.vocab_size = (int)shard_vocab_size;
    for (int i = 0; i < fields; i++) {
        if (flags_source(t->flags, field[i].name) == SET_BY_DEFAULT) continue;
        void *to = (char *)&c + field[i].offset;
        switch (field[i].type) {
        case FIELD_INT:   *(int *)to = (int)t->settings.config_int[i]; break;
        case FIELD_FLOAT: *(float *)to = (float)t->settings.config_real[i]; break;
        case FIELD_BOOL:  *(int *)to = t->settings.config_bool[i]; break;
        case FIELD_CHOICE:
            if (t->settings.config_choice[i]) *(int *)to = config_choice_index(&field[i], t->settings.config_choice[i]);
            break;
        }
    }
    if (flags_source(t->flags, "n_embd") != SET_BY_DEFAULT || flags_source(t->flags, "n_head") != SET_BY_DEFAULT)
        if (flags_source(t->flags, "n_kv_head") == SET_BY_DEFAULT && c.n_head % (c.n_kv_head ? c.n_kv_head : 1))
            c.n_kv_head = 0;
    config_complete(&c);
    config_check(&c);
    CHECK(shard_vocab_size <= c.vocab_size,
          "vocab_size is %d, but the shards' tokenizer has %lld symbols; wanted that many or more",
          c.vocab_size, (long long)shard_vocab_size);
    return c;
}
