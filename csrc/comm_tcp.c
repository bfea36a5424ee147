/* comm_tcp.c -- see comm_tcp.h
 *
 * A thread of each rank watches the control connections, which join rank 0 and each other, so that the group ends as
 * one whatever the ranks are busy with: when a rank fails, or its process or its machine is gone. */
#include "comm_tcp.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "device.h"
#include "exchange.h"
#include "rendezvous.h"

enum { END_SECONDS = 5 };       /* ranks have to end when one has */

/* What still has to go to a rank, and to come from it. */
typedef struct Part { const char *send; char *receive; size_t to_send, to_receive; } Part;

typedef struct Tcp {
    Exchange       x;
    Links          links;
    Part          *part;        /* (ranks) */
    struct pollfd *poll;        /* (ranks), and whom each is to: for the collectives */
    int           *peer;
    struct pollfd *watch_poll;  /* the same for the watching thread */
    int           *watch_peer;
    pthread_t      watcher;
    bool           watching;
    atomic_bool   *left;        /* (ranks): has said that it leaves */
    atomic_bool    leaving, ending, failing, spoken;
    char           sentence[LINK_SENTENCE];     /* when failing: what this rank would say */
} Tcp;

static void wait_seconds(int seconds)
{
    struct timespec left = { .tv_sec = seconds };
    while (nanosleep(&left, &left) && errno == EINTR) { }
}

/* ---- collectives ------------------------------------------------------------------------------------------------- */

/* The watching thread learns what became of that rank, and ends this one; if not, the connection alone has failed. */
__attribute__((noreturn)) static void lost(const Tcp *t, int q, int why)
{
    wait_seconds(END_SECONDS);
    FAIL("rank %d has lost its connection to rank %d, at %s: %s", t->x.table.rank, q, t->links.name[q], strerror(why));
}

static void move(Tcp *t, int q, short events)
{
    Part *p = &t->part[q];
    if (p->to_send && events & (POLLOUT | POLLERR | POLLHUP)) {
        const ssize_t n = net_push(t->links.data[q], p->send, p->to_send);
        if (n < 0) lost(t, q, errno);
        p->send += n, p->to_send -= (size_t)n;
    }
    if (p->to_receive && events & (POLLIN | POLLERR | POLLHUP)) {
        const ssize_t n = net_pull(t->links.data[q], p->receive, p->to_receive);
        if (n < 0) lost(t, q, errno);
        p->receive += n, p->to_receive -= (size_t)n;
    }
}

/* All parts, whichever way is open: no rank waits for another to take or to give first. */
static void move_parts(Tcp *t)
{
    for (;;) {
        int n = 0;
        for (int q = 0; q < t->x.table.ranks; q++) {
            const Part *p = &t->part[q];
            const short events = (short)((p->to_send ? POLLOUT : 0) | (p->to_receive ? POLLIN : 0));
            if (!events) continue;
            t->poll[n] = (struct pollfd){ t->links.data[q], events, 0 };
            t->peer[n++] = q;
        }
        if (!n) return;
        if (poll(t->poll, (nfds_t)n, -1) < 0) continue;
        for (int i = 0; i < n; i++) move(t, t->peer[i], t->poll[i].revents);
    }
}

static void tcp_step(void *self, const char *from, size_t send_stride, char *to, size_t receive_stride, size_t bytes)
{
    Tcp *t = self;
    for (int q = 0; q < t->x.table.ranks; q++)
        if (q != t->x.table.rank)
            t->part[q] = (Part){ from + (size_t)q * send_stride, to + (size_t)q * receive_stride, bytes, bytes };
    move_parts(t);
}

static void tcp_broadcast(void *self, void *x, size_t bytes, int root)
{
    Tcp *t = self;
    if (t->x.table.rank != root) t->part[root] = (Part){ .receive = x, .to_receive = bytes };
    else for (int q = 0; q < t->x.table.ranks; q++)
        if (q != root) t->part[q] = (Part){ .send = x, .to_send = bytes };
    move_parts(t);
}

static void tcp_barrier(void *self)
{
    Tcp *t = self;
    tcp_step(t, "", 0, t->x.scratch, 1, 1);
}

/* ---- ending together --------------------------------------------------------------------------------------------- */

static void say(Tcp *t, const char *text)
{
    if (atomic_exchange(&t->spoken, true)) wait_seconds(1);     /* the other thread is about to, and ends this rank */
    else fprintf(stderr, "llmc: %s\n", text);
}

/* Rank 0 ends the group, once. Rank `speaker` says the sentence it has, the others end in silence; -1: all ranks say
 * this text. It waits for them, so that a launcher that ends what is left of a group does not cut a sentence off. */
__attribute__((noreturn)) static void end_all(Tcp *t, int speaker, const char *text)
{
    if (atomic_exchange(&t->ending, true)) wait_seconds(2 * END_SECONDS), _exit(1);
    const double until = seconds_now() + END_SECONDS;
    const size_t bytes = speaker < 0 ? strlen(text) : 0;
    if (speaker <= 0) say(t, text);
    for (int q = 1; q < t->x.table.ranks; q++)
        if (!atomic_load(&t->left[q]))
            net_send_message(t->links.control[q], q == speaker ? LINK_SPEAK : LINK_END, text, bytes, until);
    for (int q = 1; q < t->x.table.ranks; q++) {
        char rest;
        while (!atomic_load(&t->left[q]) && net_receive(t->links.control[q], &rest, 1, until)) { }
    }
    _exit(1);
}

/* Rank 0 says who of those that fail may speak; a rank that hears nothing from it speaks. */
__attribute__((noreturn)) static void tcp_abort(void *self, const char *message)
{
    Tcp *t = self;
    fflush(stdout);
    if (t->x.table.rank == 0) end_all(t, 0, message);
    snprintf(t->sentence, sizeof t->sentence, "%s", message);
    atomic_store(&t->failing, true);
    net_send_message(t->links.control[0], LINK_FAILED, NULL, 0, seconds_now() + END_SECONDS);
    wait_seconds(END_SECONDS);          /* the watching thread ends this rank as rank 0 answers */
    say(t, t->sentence);
    _exit(1);
}

/* Something has come from rank q, or its connection has ended. */
static void hear_rank(Tcp *t, int q)
{
    char text[LINK_SENTENCE] = "";
    size_t bytes;
    const uint32_t kind = net_receive_message(t->links.control[q], text, sizeof text - 1, &bytes,
                                              seconds_now() + END_SECONDS);
    if (atomic_load(&t->leaving)) return;
    if (kind == LINK_BYE) {
        atomic_store(&t->left[q], true);
        return;
    }
    const bool told = kind == LINK_END || kind == LINK_REFUSED || kind == LINK_SPEAK;
    if (!told && kind != LINK_FAILED)
        snprintf(text, sizeof text, "rank %d, at %s, has ended without a word: it was killed, or its machine or the "
                 "network to it is gone", q, t->links.name[q]);
    if (t->x.table.rank == 0) end_all(t, kind == LINK_FAILED ? q : -1, text);
    if (atomic_load(&t->failing) && kind != LINK_END) say(t, t->sentence);
    else if (*text) say(t, text);
    _exit(1);
}

static void *watch(void *self)
{
    Tcp *t = self;
    while (!atomic_load(&t->leaving)) {
        int n = 0;
        for (int q = 0; q < t->x.table.ranks; q++) {
            if (t->links.control[q] < 0 || atomic_load(&t->left[q])) continue;
            t->watch_poll[n] = (struct pollfd){ t->links.control[q], POLLIN, 0 };
            t->watch_peer[n++] = q;
        }
        if (!n) break;
        if (poll(t->watch_poll, (nfds_t)n, -1) < 0) continue;
        for (int i = 0; i < n; i++)
            if (t->watch_poll[i].revents && !atomic_load(&t->leaving)) hear_rank(t, t->watch_peer[i]);
    }
    return NULL;
}

/* Signals are for the program's own threads. */
static void start_watching(Tcp *t)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int error = pthread_create(&t->watcher, NULL, watch, t);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    CHECK(!error, "a thread to watch the other ranks cannot be started: %s", strerror(error));
    t->watching = true;
}

/* ---- joining and leaving ----------------------------------------------------------------------------------------- */

static void release(Tcp **slot)
{
    Tcp *t = *slot;
    if (!t) return;
    atomic_store(&t->leaving, true);
    for (int q = 0; t->watching && q < t->x.table.ranks; q++)
        if (t->links.control[q] >= 0) shutdown(t->links.control[q], SHUT_RDWR);     /* wakes the watching thread */
    if (t->watching) pthread_join(t->watcher, NULL);
    links_close(&t->links);
    exchange_close(&t->x);
    free(t->part);
    free(t->poll);
    free(t->peer);
    free(t->watch_poll);
    free(t->watch_peer);
    free(t->left);
    free(t);
}

static void tcp_close(void *self)
{
    Tcp *t AUTO(release) = self;
    atomic_store(&t->leaving, true);
    for (int q = 0; q < t->x.table.ranks; q++)
        if (t->links.control[q] >= 0)
            net_send_message(t->links.control[q], LINK_BYE, NULL, 0, seconds_now() + END_SECONDS);
}

const CommTable *tcp_join(const char *host, int port, int rank, int ranks, double patience)
{
    Tcp *t AUTO(release) = xcalloc(1, sizeof *t, "TCP");
    const size_t count = (size_t)ranks;
    t->x = (Exchange){ .step = tcp_step, .table = { COMM_PLUGIN_VERSION, "tcp", t, rank, ranks,
                       .broadcast = tcp_broadcast, .barrier = tcp_barrier, .abort = tcp_abort, .close = tcp_close } };
    exchange_open(&t->x);
    t->part = xcalloc(count, sizeof *t->part, "TCP");
    t->poll = xcalloc(count, sizeof *t->poll, "TCP");
    t->peer = xcalloc(count, sizeof *t->peer, "TCP");
    t->watch_poll = xcalloc(count, sizeof *t->watch_poll, "TCP");
    t->watch_peer = xcalloc(count, sizeof *t->watch_peer, "TCP");
    t->left = xcalloc(count, sizeof *t->left, "TCP");
    rendezvous_meet(&t->links, host, port, rank, ranks, patience);
    start_watching(t);
    tcp_barrier(t);                     /* nobody leaves before all have met */
    const CommTable *joined = &t->x.table;
    t = NULL;
    return joined;
}
