/* train_gpt2.c -- pre-training: token shards in, checkpoints, metrics and samples out. One line an update.
 *
 *     ./train_gpt2 --data data/shakespeare --preset gpt2-tiny --steps 500
 *     mpirun -np 4 ./train_gpt2 --data data/shakespeare --preset gpt2-tiny --steps 500
 *     torchrun --nproc_per_node 4 --no_python -- ./train_gpt2 --data data/shakespeare --preset gpt2-tiny --steps 500 */
#define _GNU_SOURCE
#include "files.h"
#include "ops.h"
#include "run.h"
#include "store.h"
#include "train_data.h"
#include "train_eval.h"
#include "train_measure.h"
#include "train_plan.h"

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct Train {
    TrainFlags *flags;
    const Settings *s;
    Comm    *comm;
    Device  *device;
    Config   config;
    Model   *model;
    RunPlan  plan;
    bool     chosen;            /* the batch, by --batch_size auto */
    Trainer *trainer;
    TrainData data;
    Sampler *sampler;
    Run     *run;
    Schedule schedule;
    Progress progress;
    float   *slope, *logp;      /* (B,T) */
    double   peak;              /* FLOP/s of all ranks' devices, measured; 0: not measured */
} Train;

/* ------------------------------------------------------------------------------------------- failures and signals */

/* A handler takes no context, so what it needs stands here: which ranks to end, and what was being written. */
static Comm *failing_comm;
static char *saving;
static const char *fallback;                            /* the checkpoint before the one that is read; NULL: none */
static volatile sig_atomic_t stop_asked;

static void fail_everywhere(const char *message)
{
    checkpoint_discard(&saving);
    if (fallback) message = text_format("%s; move that checkpoint away to resume from %s", message, fallback);
    comm_abort(failing_comm, message);
}

static void ask_stop(int signal_number)
{
    stop_asked = 1;
    signal(signal_number, SIG_DFL);                     /* a second one ends the program at once */
}

/* Whoever read our lines is gone: there is nobody to train for, but what was learned is kept. */
static void lost_reader(int signal_number)
{
    (void)signal_number;
    stop_asked = 1;
}

/* A file that is opened while 0, 1 or 2 is free would get what is printed. */
static void open_standard_streams(void)
{
    int fd = 0;
    while (fd >= 0 && fd <= 2) fd = open("/dev/null", O_RDWR);
    if (fd > 2) close(fd);
}

static bool root(const Train *t) { return comm_rank(t->comm) == 0; }

static void print_start(const Train *t)
{
    if (!root(t)) return;
    const double n = (double)config_param_count(&t->config);
    printf("model      %s, %.1fM parameters: n_layer %d, n_embd %d, n_head %d, vocab_size %d, max_seq_len %d\n",
           t->s->preset, n / 1e6, t->config.n_layer, t->config.n_embd, t->config.n_head, t->config.vocab_size,
           t->config.max_seq_len);
    printf("data       %s: %lld tokens in %lld shards%s%s\n", t->s->data, (long long)loader_tokens(t->data.train),
           (long long)loader_shards(t->data.train), t->data.val ? "" : ", no validation shards",
           t->data.words ? "" : ", no tokenizer.json");
    printf("update     %lld tokens: %lld rows of %lld, %d %s\n", (long long)(t->data.windows * t->data.T),
           (long long)t->data.windows, (long long)t->data.T, comm_ranks(t->comm),
           comm_ranks(t->comm) == 1 ? "process" : "processes");
    printf("machine    %s, %d threads, %s; one large product runs at %.1f GFLOP/s\n", t->device->backend->name,
           t->device->threads, t->s->dtype, t->peak / 1e9);
    printf("memory     %.3f GB of %.3f GB taken: micro-batches of %lld rows, %lld an update, %s%s\n",
           (double)t->device->taken / 1e9, (double)t->plan.memory.total / 1e9, (long long)t->s->batch_size,
           (long long)loader_micro_batches(t->data.train), t->s->recompute ? "recomputing" : "nothing recomputed",
           t->chosen ? " (--batch_size auto)" : "");
    printf("run        %s, step %lld of %lld\n\n", t->s->run, (long long)t->progress.step, (long long)t->s->steps);
    fflush(stdout);
}

/* ----------------------------------------------------------------------------------------------------- checkpoints */

static void save(Train *t)
{
    Progress *p = &t->progress;
    p->updates = trainer_updates(t->trainer);
    p->update_tokens = t->data.windows * t->data.T;
    p->cursor = loader_cursor(t->data.train);
    p->tokenizer = loader_fingerprint(t->data.train);
    run_note_sizes(t->run, p);
    if (root(t)) saving = checkpoint_begin(t->run->checkpoints, p->step);
    comm_barrier(t->comm);
    char *folder AUTO(auto_free) = checkpoint_path(t->run->checkpoints, p->step, false);
    trainer_save(t->trainer, folder);
    if (root(t)) {
        char *config AUTO(auto_free) = text_format("%s/config.json", folder);
        char *tokenizer AUTO(auto_free) = text_format("%s/tokenizer.json", folder);
        char *json AUTO(auto_free) = config_to_json(&t->config);
        write_file(config, json, strlen(json));
        if (t->data.tokenizer) copy_file(t->data.tokenizer, tokenizer);
        progress_write(p, folder);
    }
    comm_barrier(t->comm);
    if (root(t)) {
        checkpoint_commit(&saving, t->s->keep);
        printf("saved      %s/step_%08lld\n", t->run->checkpoints, (long long)p->step);
        fflush(stdout);
    }
    comm_barrier(t->comm);
}

/* Weights, optimizer and progress of the newest checkpoint; the loader stands where it stood then. */
static void load(Train *t, const char *folder)
{
    char *config AUTO(auto_free) = text_format("%s/config.json", folder),
         *before AUTO(auto_free) = checkpoint_before(folder);
    fallback = before;
    const Config saved = config_read(config);
    t->progress = progress_read(folder);
    const TrainedAs was = trainer_trained_as(folder);
    fallback = NULL;                                    /* what is found is whole; it may be another run's */
    char *here AUTO(auto_free) = config_to_json(&t->config), *there AUTO(auto_free) = config_to_json(&saved);
    CHECK(!strcmp(here, there),
          "%s: it describes another model than the flags do; leave the model's flags out when resuming", config);
    CHECK(t->progress.tokenizer == loader_fingerprint(t->data.train),
          "%s: trained with tokenizer %016llx, but the shards at %s were made with %016llx; give the data the run was "
          "started with", folder, (unsigned long long)t->progress.tokenizer, t->s->data,
          (unsigned long long)loader_fingerprint(t->data.train));
    trainer_check(t->trainer, folder, was);
    t->progress.guard.z = t->s->spike_z;
    fallback = before;
    trainer_load(t->trainer, folder, t->progress.updates);
    fallback = NULL;
    loader_seek(t->data.train, t->progress.cursor);
}

/* --------------------------------------------------------------------------------------------------------- looking */

static void look_at_validation(Train *t)
{
    if (!t->data.val) return;
    const Validation v = validate(t->model, t->comm, t->data.val, t->s->val_windows, t->s->batch_size, t->data.words);
    if (!root(t)) return;
    printf("validation loss %.4f nats a token", v.loss);
    if (v.bits_per_byte > 0) printf(", %.4f bits a byte", v.bits_per_byte);
    printf(", over %lld tokens\n", (long long)v.targets);
    fflush(stdout);
    JsonText line AUTO(json_text_free) = {0};
    json_begin_object(&line);
    json_key(&line, "step"), json_put_int(&line, t->progress.step);
    json_key(&line, "val_loss"), json_put_double(&line, v.loss);
    if (v.bits_per_byte > 0) json_key(&line, "val_bits_per_byte"), json_put_double(&line, v.bits_per_byte);
    json_end(&line);
    run_metric(t->run, line.text);
}

static void look_at_sample(Train *t)
{
    if (!root(t) || !t->s->sample_tokens) return;
    const int32_t eot = (int32_t)loader_eot(t->data.train);
    const Sampling how = { .temperature = t->s->sample_temperature, .top_k = t->s->sample_top_k, .top_p = 1,
                           .seed = (uint64_t)t->s->seed + (uint64_t)t->progress.step };
    size_t size;
    char *text AUTO(auto_free) = write_text(t->model, t->data.words, t->sampler, &how, eot >= 0 ? eot : 0, eot,
                                            t->s->sample_tokens, t->data.T, &size);
    run_sample(t->run, t->progress.step, text, size);
    printf("---- sample at step %lld\n%.*s\n----\n", (long long)t->progress.step, (int)size, text);
    fflush(stdout);
}

/* ---------------------------------------------------------------------------------------------------------- a step */

typedef struct { double loss, norm, lr, seconds, z; Verdict verdict; bool stop; char broken[64]; } Update;

static void note_broken(Update *u, const char *name)
{
    if (name && !u->broken[0]) snprintf(u->broken, sizeof u->broken, "%s", name);
}

/* What the first rank that knows says. */
static void agree_on_broken(const Train *t, Update *u)
{
    const int ranks = comm_ranks(t->comm);
    char *all AUTO(auto_free) = xcalloc((size_t)ranks, sizeof u->broken, "names");
    note_broken(u, trainer_first_nonfinite(t->trainer));
    comm_all_gather(t->comm, u->broken, all, sizeof u->broken);
    for (int r = ranks - 1; r >= 0; r--)
        if (all[(size_t)r * sizeof u->broken]) memcpy(u->broken, all + (size_t)r * sizeof u->broken, sizeof u->broken);
}

/* Sums the losses and gradients of one update over micro-batches and ranks, and applies it if it looks sane. */
static Update update(Train *t)
{
    Update u = { .lr = schedule_lr(&t->schedule, t->progress.step) };
    const double start = seconds_now();
    const int64_t micro = loader_micro_batches(t->data.train), N = t->s->batch_size * t->data.T;
    double targets = (double)loader_count_targets(t->data.train);
    comm_all_reduce_double(t->comm, &targets, 1);
    for (int64_t i = 0; i < N; i++) t->slope[i] = targets > 0 ? (float)(-1 / targets) : 0;
    double sums[2] = {0};
    for (int64_t k = 0; k < micro; k++) {
        Batch b;
        loader_next(t->data.train, &b);
        const bool accumulate = trainer_micro_batch(t->trainer, k, micro);
        model_train(t->model, &b, &(Slopes){ .logp = t->slope }, &(Numbers){ .logp = t->logp }, accumulate);
        double nats = 0;
        for (int64_t i = 0; i < N; i++) nats -= t->logp[i];
        if (!isfinite(nats)) note_broken(&u, model_first_nonfinite(t->model));
        sums[0] += nats;
    }
    sums[1] = stop_asked;
    comm_all_reduce_double(t->comm, sums, 2);
    u.loss = targets > 0 ? sums[0] / targets : 0;
    u.stop = sums[1] > 0;
    u.norm = trainer_reduce(t->trainer);
    u.verdict = guard_judge(&t->progress.guard, u.loss, u.norm, &u.z);
    if (u.verdict == GUARD_LOSS_NOT_FINITE || u.verdict == GUARD_NORM_NOT_FINITE) agree_on_broken(t, &u);
    if (u.verdict == GUARD_PASS && targets > 0) {
        trainer_apply(t->trainer, u.lr);
        guard_enter(&t->progress.guard, u.loss, u.norm);
    }
    u.seconds = seconds_now() - start;
    return u;
}

static void print_update(const Train *t, const Update *u)
{
    if (!root(t)) return;
    const double tokens = (double)(t->data.windows * t->data.T),
                 flops = config_train_flops(&t->config, t->data.T) * tokens / u->seconds;
    printf("step %6lld/%lld | loss %8.4f | lr %.2e | norm %8.4f | %8.1f ms | %8.0f tok/s | %.3f TFLOP/s",
           (long long)t->progress.step, (long long)t->s->steps, u->loss, u->lr, u->norm, 1e3 * u->seconds,
           tokens / u->seconds, flops / 1e12);
    if (t->peak > 0) printf(" (%.0f%% of peak)", 100 * flops / t->peak);
    printf("\n");
    fflush(stdout);
    JsonText line AUTO(json_text_free) = {0};
    json_begin_object(&line);
    json_key(&line, "step"), json_put_int(&line, t->progress.step);
    json_key(&line, "loss"), json_put_double(&line, u->loss);
    json_key(&line, "lr"), json_put_double(&line, u->lr);
    json_key(&line, "grad_norm"), json_put_double(&line, u->norm);
    json_key(&line, "ms"), json_put_double(&line, 1e3 * u->seconds);
    json_key(&line, "tokens_per_second"), json_put_double(&line, tokens / u->seconds);
    json_key(&line, "tflops"), json_put_double(&line, flops / 1e12);
    if (u->verdict != GUARD_PASS) json_key(&line, "skipped"), json_put_bool(&line, true);
    json_end(&line);
    run_metric(t->run, line.text);
}

static void say_skipped(const Train *t, const Update *u)
{
    if (!root(t)) return;
    printf("skipped    step %lld: %s", (long long)t->progress.step, guard_reason(u->verdict));
    if (u->z > 0) printf(" (%.1f standard deviations above the last updates)", u->z);
    if (u->broken[0]) printf("; the first that is not finite: %s", u->broken);
    printf("\n");
    fflush(stdout);
}

enum { MOST_ROLLBACKS = 10 };

/* Too many refusals in a row: the weights of the last checkpoint, and the data after it is passed over. Where that
 * cannot be or did not help, losses that are finite are what this run has come to. */
static void go_back(Train *t, bool finite)
{
    const int64_t here = loader_cursor(t->data.train);
    const int64_t rollbacks = t->progress.rollbacks + 1, skipped = t->progress.skipped;
    char *folder AUTO(auto_free) = checkpoint_latest(t->run->checkpoints);
    if (finite && (!folder || rollbacks > MOST_ROLLBACKS)) {
        t->progress.guard.seen = t->progress.skips_in_a_row = 0;
        if (root(t))
            printf("went on    %s; spikes are measured anew\n",
                   folder ? "after many returns to a checkpoint" : "without a checkpoint to go back to");
        return;
    }
    if (!folder) {
        save(t);                                        /* the weights of the last update that was applied */
        FAIL("%lld updates in a row were refused, and there is no checkpoint to go back to; lower --lr, or look at "
             "the data", (long long)t->s->max_skips);
    }
    CHECK(rollbacks <= MOST_ROLLBACKS,
          "%lld updates in a row were refused, after %d returns to a checkpoint; lower --lr or look at the data",
          (long long)t->s->max_skips, MOST_ROLLBACKS);
    load(t, folder);
    loader_seek(t->data.train, here);
    t->progress.rollbacks = rollbacks, t->progress.skipped = skipped, t->progress.skips_in_a_row = 0;
    if (root(t)) printf("went back  to %s; the data since then is passed over\n", folder);
}

static bool due(int64_t step, int64_t every) { return every && step % every == 0; }

static void train(Train *t)
{
    bool stop = false;
    int64_t saved = t->progress.step;
    while (t->progress.step < t->s->steps && !stop) {
        const Update u = update(t);
        Progress *p = &t->progress;
        p->step++;
        p->tokens += t->data.windows * t->data.T;
        stop = u.stop;
        print_update(t, &u);
        p->skips_in_a_row = u.verdict == GUARD_PASS ? 0 : p->skips_in_a_row + 1;
        if (u.verdict != GUARD_PASS) {
            p->skipped++;
            say_skipped(t, &u);
            if (p->skips_in_a_row >= t->s->max_skips) {
                go_back(t, u.verdict == GUARD_LOSS_SPIKE || u.verdict == GUARD_NORM_SPIKE);
                continue;
            }
        }
        const bool end = p->step == t->s->steps;
        if (end || due(p->step, t->s->val_every)) look_at_validation(t);
        if (end || due(p->step, t->s->sample_every)) look_at_sample(t);
        if (end || stop || due(p->step, t->s->checkpoint_every)) save(t), saved = p->step;
    }
    if (saved != t->progress.step) save(t);
    if (stop && root(t)) printf("stopped    at step %lld; --resume continues\n", (long long)t->progress.step);
}

/* --------------------------------------------------------------------------------------------------- start and end */

static TrainerConfig trainer_config(const Settings *s)
{
    return (TrainerConfig){
        .beta1 = s->beta1, .beta2 = s->beta2, .eps = s->eps, .weight_decay = s->weight_decay, .grad_clip = s->grad_clip,
        .optimizer = strcmp(s->optimizer, "muon") ? OPTIMIZER_ADAMW : OPTIMIZER_MUON, .muon_momentum = s->muon_momentum,
        .master_weights = s->master_weights, .stochastic_rounding = s->stochastic_rounding, .seed = (uint64_t)s->seed,
    };
}

static void start_or_resume(Train *t)
{
    char *config AUTO(auto_free) = text_format("%s/config.json", t->s->run),
         *tokenizer AUTO(auto_free) = text_format("%s/tokenizer.json", t->s->run);
    params_init(model_params(t->model), (uint64_t)t->s->seed);
    t->trainer = trainer_create(t->model, t->comm, trainer_config(t->s));
    t->progress.guard.z = t->s->spike_z;
    /* last of what may fail: it may remove the run that is there */
    t->run = run_open(t->s->run, t->s->data, t->s->resume ? RUN_RESUME : t->s->overwrite ? RUN_OVERWRITE : RUN_NEW,
                      t->comm);
    char *folder AUTO(auto_free) = t->s->resume ? checkpoint_latest(t->run->checkpoints) : NULL;
    if (folder) load(t, folder);
    else if (t->s->resume && root(t)) printf("no checkpoint in %s: starting at step 0\n", t->run->checkpoints);
    CHECK(t->progress.step < t->s->steps,
          "the run has made %lld steps and steps is %lld; give a larger --steps to go on",
          (long long)t->progress.step, (long long)t->s->steps);
    run_rewind(t->run, &t->progress);
    if (root(t)) {
        const char *const of_this_start = "run resume overwrite plan profile comm rendezvous rendezvous_timeout";
        char *json AUTO(auto_free) = flags_json(t->flags->flags, true, of_this_start);
        write_file(config, json, strlen(json));
        if (t->data.tokenizer) copy_file(t->data.tokenizer, tokenizer);
    }
}

static void stop_train(Train *t)
{
    train_flags_close(t->flags);
    trainer_free(t->trainer);
    model_free(t->model);
    train_data_close(&t->data);
    sampler_close(t->sampler);
    run_close(t->run);
    device_close(t->device);
    free(t->slope);
    free(t->logp);
    comm_close(t->comm);
}

/* What the flags ask for, and what the device has for it. */
static void plan_run(Train *t)
{
    const Settings *s = t->s;
    const TrainerConfig trainer = trainer_config(s);
    t->chosen = s->batch_size == FLAG_WORD;
    t->plan = (RunPlan){
        .model = t->model, .trainer = trainer,
        .plan = { t->chosen ? 0 : s->batch_size, t->data.T, .train = true, .recompute = s->recompute,
                  .scratch = trainer_scratch(t->model, trainer.optimizer) },
        .recompute_said = flags_source(t->flags->flags, "recompute") != SET_BY_DEFAULT,
        .rows = t->data.windows / comm_ranks(t->comm),
        .total = t->data.windows_follow ? t->data.windows * t->data.T : 0 };
    run_plan_look(&t->plan, t->comm);
    run_plan_choose(&t->plan, t->comm);
}

/* From here on what was chosen is what the flags say, and what a run that is resumed goes on with. */
static void take_memory(Train *t)
{
    const Plan *p = &t->plan.plan;
    char *rows AUTO(auto_free) = text_format("%lld", (long long)p->B);
    run_plan_check(&t->plan);
    if (t->chosen) flags_set(t->flags->flags, "batch_size", rows);
    if (t->chosen && p->recompute) flags_set(t->flags->flags, "recompute", "1");
    train_data_open(&t->data, t->flags, t->comm);
    t->peak = measure_peak(t->device, model_params(t->model)->dtype, t->comm);
    t->device->when_full = run_plan_advice, t->device->when_full_context = &t->plan;
    model_plan(t->model, *p);
    t->slope = xcalloc((size_t)(p->B * p->T), sizeof(float), "a batch");
    t->logp = xcalloc((size_t)(p->B * p->T), sizeof(float), "a batch");
}

static Schedule schedule_of(const Settings *s)
{
    const char *const kinds[] = { "cosine", "linear", "wsd", "constant" };
    Schedule schedule = { .lr = s->lr, .final = s->final_lr, .decay = s->decay_fraction, .warmup = s->warmup_steps,
                          .steps = s->steps };
    while (strcmp(kinds[schedule.kind], s->schedule)) schedule.kind++;
    return schedule;
}

static void catch_signals(void)
{
    signal(SIGINT, ask_stop);
    signal(SIGTERM, ask_stop);
    if (signal(SIGHUP, ask_stop) == SIG_IGN) signal(SIGHUP, SIG_IGN);   /* the terminal is gone; nohup: so what */
    signal(SIGPIPE, lost_reader);
    signal(SIGUSR1, ask_stop);      /* how llmc.launch says it: mpirun passes this one on, and kills on the others */
}

int main(int argc, char **argv)
{
    open_standard_streams();
    set_fail_handler(fail_everywhere);
    Train t AUTO(stop_train) = {0};
    if (!(t.flags = train_flags_read(argc, argv))) return 0;
    t.s = &t.flags->settings;
    failing_comm = t.comm = comm_open(t.s->comm, t.s->rendezvous, (double)t.s->rendezvous_timeout);
    catch_signals();
    t.config = train_data_config(&t.data, t.flags, t.comm);
    t.device = device_open(t.s->device, (int)t.s->threads);
    t.model = model_create(t.device, &t.config, strcmp(t.s->dtype, "bf16") ? DT_F32 : DT_BF16, comm_ranks(t.comm));
    plan_run(&t);
    if (t.s->plan) {
        if (root(&t)) run_plan_print(&t.plan);
        return 0;
    }
    take_memory(&t);
    t.sampler = sampler_open(t.config.vocab_size);
    t.schedule = schedule_of(t.s);
    start_or_resume(&t);
    if (t.s->profile) profile_start(t.device);
    print_start(&t);
    train(&t);
    if (t.s->profile && root(&t)) profile_print(t.device, t.peak / comm_ranks(t.comm));
    return 0;
}
