/* train_settings.h -- everything train_gpt2 can be told, from the command line, a file, or the run it resumes. */
#ifndef LLMC_TRAIN_SETTINGS_H
#define LLMC_TRAIN_SETTINGS_H

#include "config.h"
#include "flags.h"

enum { CONFIG_FIELDS_MOST = 32, MOST_ROWS = 1 << 20 };

typedef struct Settings {
    /* data */
    const char *data;
    bool    document_mask, shuffle;
    int64_t seed;
    /* model */
    const char *preset, *dtype;
    int64_t config_int[CONFIG_FIELDS_MOST];         /* the Config's fields, by their place in config_fields() */
    double  config_real[CONFIG_FIELDS_MOST];
    bool    config_bool[CONFIG_FIELDS_MOST];
    const char *config_choice[CONFIG_FIELDS_MOST];
    /* batch */
    int64_t batch_size;                             /* FLAG_WORD: as many rows as fit */
    int64_t seq_len, total_batch_size;
    bool    recompute;
    /* optimizer */
    int64_t steps, warmup_steps;
    double  lr, final_lr, decay_fraction, beta1, beta2, eps, weight_decay, grad_clip, spike_z, muon_momentum;
    int64_t max_skips;
    const char *schedule, *optimizer;
    bool    master_weights, stochastic_rounding;
    /* run */
    const char *run;
    bool    resume, overwrite;
    int64_t checkpoint_every, keep, val_every, val_windows, sample_every, sample_tokens;
    double  sample_temperature;
    int64_t sample_top_k;
    /* machine */
    const char *device, *comm, *rendezvous;
    int64_t threads, rendezvous_timeout;
    bool    plan, profile;
} Settings;

typedef struct TrainFlags {
    Flags   *flags;
    Flag    *table;
    Settings settings;
} TrainFlags;

/* Reads the command line; with --resume, the run's own config.json stands under it. NULL: --help was printed. */
TrainFlags *train_flags_read(int argc, char **argv);
void        train_flags_close(TrainFlags *t);

/* The model the settings describe: the preset, changed by the flags that were given, vocab_size from the shards
 * unless it was given (shards that do not know theirs, 0, leave the preset's). */
Config train_config(const TrainFlags *t, int64_t shard_vocab_size);

#endif
