/* comm_test.c -- one rank of a group: takes each collective's input from files, leaves its output in files. What the
 * output must be is worked out by test_comm.py, which started it.
 *
 *     comm_test collect FOLDER KIND N...      FOLDER/in_RANK.f32 and FOLDER/bytes_RANK are this rank's numbers
 *     comm_test adapt FOLDER                  adapters are trained, and saved in FOLDER
 *     comm_test fail WHEN RANK                a CHECK fails before or after comm_open, on one rank or on all (-1)
 *     comm_test drift                         rank 1 asks for another size than the others
 *     comm_test work RANK                     all are busy, in no collective, when a CHECK fails on that rank
 *     comm_test stop                          SIGTERM on any rank: all leave together, status 0
 *
 * RENDEZVOUS and PATIENCE in the environment are given to comm_open. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "comm.h"
#include "files.h"
#include "trainer.h"

static Comm *comm;

static void fail_together(const char *message) { comm_abort(comm, message); }

static void wait_milliseconds(int ms)
{
    nanosleep(&(struct timespec){ ms / 1000, ms % 1000 * 1000000L }, NULL);
}

static void save(const char *folder, const char *what, int64_t n, const void *data, size_t bytes)
{
    char *path AUTO(auto_free) = text_format("%s/%s_%lld_%d", folder, what, (long long)n, comm_rank(comm));
    write_file(path, data, bytes);
}

/* Each collective from its own copy of the input, ranks arriving at different times. */
static void collect(const char *folder, int64_t n)
{
    const int rank = comm_rank(comm), ranks = comm_ranks(comm);
    char *path AUTO(auto_free) = text_format("%s/in_%d.f32", folder, rank);
    char *read AUTO(auto_free) = read_file(path, NULL);
    const size_t bytes = (size_t)n * sizeof(float), odd = bytes ? bytes - 1 : 0;
    char *copy AUTO(auto_free) = xcalloc((size_t)ranks, bytes, "input");
    char *out AUTO(auto_free) = xcalloc((size_t)ranks, bytes, "output");
    double *sums AUTO(auto_free) = xcalloc((size_t)n, sizeof *sums, "sums");

    wait_milliseconds((rank * 7 + (int)n) % 5 * 3);
    comm_reduce_scatter(comm, (const float *)read, (float *)out, n);
    save(folder, "reduce_scatter", n, out, bytes);

    memcpy(copy, read, (size_t)ranks * bytes);
    comm_reduce_scatter(comm, (const float *)copy, (float *)copy + rank * n, n);
    save(folder, "reduce_scatter_in_place", n, copy + (size_t)rank * bytes, bytes);

    wait_milliseconds((ranks - rank) % 3 * 4);
    comm_all_gather(comm, read, out, odd);
    save(folder, "all_gather", n, out, (size_t)ranks * odd);
    memset(out, 0, (size_t)ranks * bytes);
    memcpy(out + (size_t)rank * odd, read, odd);
    comm_all_gather(comm, out + (size_t)rank * odd, out, odd);
    save(folder, "all_gather_in_place", n, out, (size_t)ranks * odd);

    for (int64_t i = 0; i < n; i++) sums[i] = (double)((const float *)read)[i] / 3;
    comm_all_reduce_double(comm, sums, n);
    save(folder, "all_reduce_double", n, sums, (size_t)n * sizeof *sums);

    wait_milliseconds(rank % 2 * 5);
    memcpy(copy, read, bytes);
    comm_broadcast(comm, copy, odd, ranks - 1);
    save(folder, "broadcast", n, copy, odd);
    comm_barrier(comm);
}

/* Each rank brings its part of the rows. */
static void adapt(const char *folder)
{
    enum { ROWS = 4, T = 16, STEPS = 8 };
    const int ranks = comm_ranks(comm), rows = ROWS / ranks, first = comm_rank(comm) * rows;
    Config c = config_preset("gpt2-tiny");
    c.vocab_size = 64, c.padded_vocab_size = 64;
    config_complete(&c);
    Model *m = model_create(device_open("cpu", 1), &c, DT_BF16, ranks);
    params_init(model_params(m), 1);
    model_adapt(m, (Lora){ 4, 8, lora_matrix("qkv") | lora_matrix("down") }, 2);
    model_plan(m, (Plan){ .B = rows, .T = T, .train = true });
    const TrainerConfig how = { .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .grad_clip = 1, .master_weights = true };
    Trainer *t = trainer_create(m, comm, how);
    for (int step = 0; step < STEPS; step++) {
        int32_t tokens[ROWS * T], targets[ROWS * T];
        float slope[ROWS * T], logp[ROWS * T];
        double loss = 0;
        for (int i = 0; i < rows * T; i++) {
            tokens[i] = (first * T + i) * 7 % 61, targets[i] = (first * T + i) * 5 % 53;
            slope[i] = -1.0f / (ROWS * T);
        }
        const bool accumulate = trainer_micro_batch(t, 0, 1);
        const Batch b = { .B = rows, .T = T, .tokens = tokens, .targets = targets };
        model_train(m, &b, &(Slopes){ .logp = slope }, &(Numbers){ .logp = logp }, accumulate);
        for (int i = 0; i < rows * T; i++) loss -= logp[i] / (ROWS * T);
        comm_all_reduce_double(comm, &loss, 1);
        const double norm = trainer_reduce(t);
        trainer_apply(t, 1e-2);
        if (comm_rank(comm) == 0) printf("%.9g %.9g\n", loss, norm);
    }
    trainer_save(t, folder);
    comm_barrier(comm);
    trainer_free(t);
    Device *d = model_device(m);
    model_free(m);
    device_close(d);
}

static volatile sig_atomic_t asked_to_stop;

static void note_stop(int signal) { asked_to_stop = 1; }

static void say_ready(void)
{
    comm_barrier(comm);
    if (comm_rank(comm) == 0) printf("ready\n"), fflush(stdout);
}

static void run_until_stopped(void)
{
    struct sigaction act = { .sa_handler = note_stop };
    sigaction(SIGTERM, &act, NULL);
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGUSR1, &act, NULL);
    say_ready();
    double stop = 0;
    while (!stop) {
        wait_milliseconds(10);
        stop = asked_to_stop;
        comm_all_reduce_double(comm, &stop, 1);
    }
    wait_milliseconds(300);     /* what saving takes */
    comm_barrier(comm);
    printf("rank %d stopped\n", comm_rank(comm));
}

static void fail_if(bool now, int who)
{
    CHECK(!now || (who >= 0 && who != comm_rank(comm)), "this is the sentence");
}

int main(int argc, char **argv)
{
    set_fail_handler(fail_together);
    CHECK(argc >= 2, "no test was named");
    const bool fails = !strcmp(argv[1], "fail");
    CHECK(!fails || strcmp(argv[2], "early"), "this is the sentence");
    const char *patience = getenv("PATIENCE");
    comm = comm_open(argc > 3 && !fails ? argv[3] : "auto", getenv("RENDEZVOUS"), patience ? atof(patience) : 60);
    signal(SIGTERM, SIG_IGN);   /* as a program that saves first: a failure has to end it all the same */
    if (fails) {
        fail_if(true, atoi(argv[3]));
        comm_barrier(comm);
    } else if (!strcmp(argv[1], "collect")) {
        for (int i = 4; i < argc; i++) collect(argv[2], atoll(argv[i]));
        printf("%s: rank %d of %d\n", comm_name(comm), comm_rank(comm), comm_ranks(comm));
    } else if (!strcmp(argv[1], "adapt")) {
        adapt(argv[2]);
    } else if (!strcmp(argv[1], "drift")) {
        double x[2] = { 0 };
        comm_all_reduce_double(comm, x, 1 + (comm_rank(comm) == 1));
    } else if (!strcmp(argv[1], "work")) {
        say_ready();
        wait_milliseconds(500);
        fail_if(true, atoi(argv[2]));
        wait_milliseconds(60000);
    } else {
        run_until_stopped();
    }
    comm_close(comm);
    return 0;
}
