/* rendezvous.c -- see rendezvous.h */
#define _GNU_SOURCE
#include "rendezvous.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "device.h"

enum {
    MAGIC = 0x6c6c6d74, VERSION = 1,
    MOST_CALLERS = 64,          /* who have called and not yet said who they are */
    GREETING_SECONDS = 10,      /* a caller has to say so */
    CALL_SECONDS = 60,          /* ranks that are all there have to reach each other */
    QUIET_SECONDS = 5           /* a wait needs no explanation */
};

typedef enum { JOIN, DATA } Wish;
typedef struct Key { uint8_t byte[16]; } Key;

/* The first thing on every connection. */
typedef struct Greeting {
    uint32_t magic, version, wish, rank, ranks;
    uint32_t port;              /* JOIN: where this rank listens */
    Key      key;               /* DATA: the group's */
} Greeting;

/* Where a rank listens. family 0: on the machine of rank 0, which each rank knows by the address it called. */
typedef struct Spot {
    uint32_t family, port;      /* 4, 6, or 0 */
    uint8_t  address[16];
} Spot;

/* What rank 0 sends when all are there. */
typedef struct Group { Key key; Spot place[]; } Group;

typedef struct Caller { int fd; double until; size_t heard; Address from; Greeting said; } Caller;

typedef struct Meeting {
    Links      *links;
    const char *host;
    int         port, rank, ranks, listener;
    double      since, until;
    Address     root;           /* where this rank has reached rank 0 */
    Group      *group;
    size_t      group_bytes;
    Caller      caller[MOST_CALLERS];
    int         callers;
    struct pollfd *poll;        /* (1 + MOST_CALLERS + ranks) */
    bool        explained, warned;
} Meeting;

static void close_if_open(int fd) { if (fd >= 0) close(fd); }

void links_close(Links *l)
{
    for (int q = 0; q < l->ranks; q++) {
        if (l->data) close_if_open(l->data[q]);
        if (l->control) close_if_open(l->control[q]);
    }
    free(l->data);
    free(l->control);
    free(l->name);
    *l = (Links){0};
}

static void end_meeting(Meeting *m)
{
    close_if_open(m->listener);
    for (int i = 0; i < m->callers; i++) close(m->caller[i].fd);
    free(m->group);
    free(m->poll);
}

/* ---- waiting, and what is said meanwhile ------------------------------------------------------------------------- */

static void start_waiting(Meeting *m, double seconds)
{
    m->since = seconds_now();
    m->until = m->since + seconds;
    m->explained = false;
}

static void explain(Meeting *m, const char *what)
{
    if (m->explained || seconds_now() - m->since < QUIET_SECONDS) return;
    m->explained = true;
    fprintf(stderr, "llmc: rank %d of %d waits for %s at %s:%d, for up to %.0f seconds\n", m->rank, m->ranks, what,
            m->host, m->port, m->until - m->since);
}

/* "rank 2", "ranks 2, 3, 5", "ranks 1, 2, 3, 4, 5, 6, 7, 8 and 55 more"; NULL: all from first on are there */
static char *name_missing(const Meeting *m, const int *joined, int first)
{
    char list[128] = "";
    int missing = 0;
    for (int q = first; q < m->ranks; q++) {
        if (joined[q] >= 0) continue;
        const size_t at = strlen(list);
        if (missing++ < 8) snprintf(list + at, sizeof list - at, "%s%d", at ? ", " : "", q);
    }
    if (!missing) return NULL;
    if (missing > 8) return text_format("ranks %s and %d more", list, missing - 8);
    return text_format("rank%s %s", missing > 1 ? "s" : "", list);
}

/* The meeting fails. Everyone who has come to rank 0, and who calls it now, fails with this sentence too. */
__attribute__((noreturn)) static void refuse(Meeting *m, int caller, const char *why)
{
    const double until = seconds_now() + 1;
    const size_t bytes = strlen(why) < LINK_SENTENCE ? strlen(why) : LINK_SENTENCE - 1;
    for (int q = 1; q < m->ranks; q++)
        if (m->links->control[q] >= 0) net_send_message(m->links->control[q], LINK_REFUSED, why, bytes, until);
    if (caller >= 0) net_send_message(caller, LINK_REFUSED, why, bytes, until);
    FAIL("%s", why);
}

static void fail_missing(Meeting *m, Wish wish, const char *missing)
{
    char *why AUTO(auto_free) = wish == JOIN
        ? text_format("%s of %d did not come to %s:%d within %.0f seconds; was every rank started, with the same "
                      "rendezvous, and does its machine reach that port? (--rendezvous_timeout sets the wait)",
                      missing, m->ranks, m->host, m->port, m->until - m->since)
        : text_format("%s of %d did not reach rank %d within %d seconds, though all had come to %s:%d; the machines "
                      "have to reach each other on any port", missing, m->ranks, m->rank, CALL_SECONDS, m->host,
                      m->port);
    refuse(m, -1, why);
}

/* ---- who calls --------------------------------------------------------------------------------------------------- */

static void turn_away(Meeting *m, const Caller *c)
{
    char name[NET_NAME];
    net_name(&c->from, name);
    close(c->fd);
    if (m->warned) return;
    m->warned = true;
    fprintf(stderr, "llmc: somebody at %s has called rank %d and is no rank of this group; turned away, as others "
            "like it will be\n", name, m->rank);
}

static Spot place_of(const Address *from, uint32_t port)
{
    Spot p = { .port = port };
    if (from->at.ss_family == AF_INET6) {
        const struct sockaddr_in6 six = *(const struct sockaddr_in6 *)&from->at;
        p.family = IN6_IS_ADDR_LOOPBACK(&six.sin6_addr) ? 0 : 6;
        memcpy(p.address, &six.sin6_addr, 16);
    } else {
        const struct sockaddr_in four = *(const struct sockaddr_in *)&from->at;
        p.family = ntohl(four.sin_addr.s_addr) >> 24 == 127 ? 0 : 4;
        memcpy(p.address, &four.sin_addr, 4);
    }
    return p;
}

/* At rank 0: somebody who says to be a rank. The names of machines are taken from where they call. */
static void admit_rank(Meeting *m, const Caller *c)
{
    const Greeting *g = &c->said;
    const int q = (int)g->rank;
    char name[NET_NAME], *why AUTO(auto_free) = NULL;
    net_name(&c->from, name);
    if (g->version != VERSION)
        why = text_format("rank %d, at %s, and rank 0 are of different versions of llmc, which meet in other ways "
                          "(%u and %d); install the same everywhere", q, name, g->version, VERSION);
    else if ((int)g->ranks != m->ranks)
        why = text_format("rank %d, at %s, was started as one of %u ranks, and rank 0 as one of %d; give all the same "
                          "WORLD_SIZE (or SLURM_NTASKS)", q, name, g->ranks, m->ranks);
    else if (q == 0 || m->links->control[q] >= 0)
        why = text_format("two processes say they are rank %d of %d, one at %s and one at %s; give each its own RANK "
                          "(or SLURM_PROCID)", q, m->ranks, m->links->name[q], name);
    if (why) refuse(m, c->fd, why);
    m->links->control[q] = c->fd;
    memcpy(m->links->name[q], name, NET_NAME);
    m->group->place[q] = place_of(&c->from, g->port);
    net_send_message(c->fd, LINK_WELCOME, NULL, 0, seconds_now() + 1);
}

/* joined (ranks) gets the connection of a rank; first: the lowest that is waited for */
static void hear_caller(Meeting *m, Caller c, Wish wish, int *joined, int first)
{
    const Greeting *g = &c.said;
    const bool sound = c.heard == sizeof *g && g->magic == MAGIC && g->wish == wish && g->rank < g->ranks
                    && g->ranks <= INT_MAX;
    if (sound && wish == JOIN) {
        admit_rank(m, &c);
    } else if (sound && wish == DATA && !memcmp(&g->key, &m->group->key, sizeof g->key) && (int)g->rank >= first
               && (int)g->rank < m->ranks && joined[g->rank] < 0) {
        joined[g->rank] = c.fd;
    } else {
        turn_away(m, &c);
    }
}

static void hear_callers(Meeting *m, Wish wish, int *joined, int first)
{
    for (int i = 0; i < m->callers; ) {
        Caller *c = &m->caller[i];
        const ssize_t n = net_pull(c->fd, (char *)&c->said + c->heard, sizeof c->said - c->heard);
        if (n > 0) c->heard += (size_t)n;
        const bool stranger = c->heard >= sizeof c->said.magic && c->said.magic != MAGIC;
        if (n >= 0 && !stranger && c->heard < sizeof c->said && seconds_now() < c->until) {
            i++;
            continue;
        }
        const Caller done = *c;
        *c = m->caller[--m->callers];
        hear_caller(m, done, wish, joined, first);
    }
}

static void answer_calls(Meeting *m)
{
    while (m->callers < MOST_CALLERS) {
        Caller c = { .until = seconds_now() + GREETING_SECONDS };
        c.fd = net_accept(m->listener, &c.from);
        CHECK(c.fd >= 0 || (errno != EMFILE && errno != ENFILE), "rank %d of %d cannot have another connection: %s; "
              "raise the limit (ulimit -n)", m->rank, m->ranks, strerror(errno));
        if (c.fd < 0) return;
        m->caller[m->callers++] = c;
    }
}

/* On a control connection nothing comes while the ranks meet, but its end. */
static void notice_ends(Meeting *m)
{
    for (int q = 0; q < m->ranks; q++) {
        char byte;
        if (m->links->control[q] < 0) continue;
        const ssize_t n = recv(m->links->control[q], &byte, 1, MSG_PEEK);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) continue;
        char *why AUTO(auto_free) = text_format("rank %d, at %s, has ended before all %d ranks had met", q,
                                                m->links->name[q], m->ranks);
        close(m->links->control[q]);
        m->links->control[q] = -1;
        refuse(m, -1, why);
    }
}

static void sleep_until_something(Meeting *m)
{
    int n = 0;
    if (m->callers < MOST_CALLERS) m->poll[n++] = (struct pollfd){ m->listener, POLLIN, 0 };
    for (int i = 0; i < m->callers; i++) m->poll[n++] = (struct pollfd){ m->caller[i].fd, POLLIN, 0 };
    for (int q = 0; q < m->ranks; q++)
        if (m->links->control[q] >= 0) m->poll[n++] = (struct pollfd){ m->links->control[q], POLLIN, 0 };
    const double soon = seconds_now() + 0.5;
    poll(m->poll, (nfds_t)n, net_milliseconds(soon < m->until ? soon : m->until));
}

/* Until every rank from `first` on has called with this wish. */
static void receive_ranks(Meeting *m, Wish wish, int *joined, int first)
{
    for (;;) {
        char *missing AUTO(auto_free) = name_missing(m, joined, first);
        if (!missing) return;
        if (seconds_now() > m->until) fail_missing(m, wish, missing);
        explain(m, missing);
        sleep_until_something(m);
        answer_calls(m);
        hear_callers(m, wish, joined, first);
        notice_ends(m);
    }
}

/* ---- calling ----------------------------------------------------------------------------------------------------- */

static void pause_seconds(double seconds)
{
    nanosleep(&(struct timespec){ (time_t)seconds, (long)(1e9 * fmod(seconds, 1)) }, NULL);
}

/* Rank 0 may be started last: tries again until it is there. */
static int call_rank_0(Meeting *m, const struct addrinfo *found)
{
    for (double nap = 0.05; ; nap = nap < 0.5 ? 1.5 * nap : nap) {
        const double soon = seconds_now() + GREETING_SECONDS;
        int why = 0;
        for (const struct addrinfo *a = found; a; a = a->ai_next) {
            m->root = net_address(a);
            const int fd = net_call(&m->root, soon < m->until ? soon : m->until);
            if (fd >= 0) return fd;
            why = errno;
        }
        const double left = m->until - seconds_now();
        CHECK(left > 0, "rank %d of %d found nobody at %s:%d within %.0f seconds (%s); was rank 0 started there, and "
              "does this machine reach that port? (--rendezvous_timeout sets the wait)", m->rank, m->ranks, m->host,
              m->port, m->until - m->since, strerror(why));
        explain(m, "rank 0");
        pause_seconds(nap < left ? nap : left);
    }
}

/* Says who this is; what comes back, after which text holds its sentence or nothing. */
static uint32_t greet_rank_0(Meeting *m, int fd, int port, char text[LINK_SENTENCE], double seconds)
{
    const Greeting g = { MAGIC, VERSION, JOIN, (uint32_t)m->rank, (uint32_t)m->ranks, (uint32_t)port, {{0}} };
    const double until = seconds_now() + seconds;
    size_t bytes = 0;
    const uint32_t kind = net_send(fd, &g, sizeof g, until)
                        ? net_receive_message(fd, text, LINK_SENTENCE - 1, &bytes, until) : 0;
    text[kind ? bytes : 0] = 0;
    return kind;
}

/* Waits until rank 0 has the whole group, which is as long as rank 0 does. */
static void receive_group(Meeting *m)
{
    char *body AUTO(auto_free) = xcalloc(1, m->group_bytes + LINK_SENTENCE, "the group");
    size_t bytes = 0;
    const uint32_t kind = net_receive_message(m->links->control[0], body, m->group_bytes + LINK_SENTENCE - 1, &bytes,
                                              INFINITY);
    CHECK(kind != LINK_REFUSED, "%s", body);
    CHECK(kind == LINK_GROUP && bytes == m->group_bytes, "rank 0, at %s:%d, has ended before all %d ranks had met",
          m->host, m->port, m->ranks);
    memcpy(m->group, body, bytes);
}

static Address address_of(const Meeting *m, int q)
{
    const Spot *p = &m->group->place[q];
    Address a = m->root;
    if (p->family == 4) {
        struct sockaddr_in four = { .sin_family = AF_INET };
        memcpy(&four.sin_addr, p->address, 4);
        memcpy(&a.at, &four, sizeof four);
        a.size = sizeof four;
    } else if (p->family == 6) {
        struct sockaddr_in6 six = { .sin6_family = AF_INET6 };
        memcpy(&six.sin6_addr, p->address, 16);
        if (a.at.ss_family == AF_INET6)                 /* a link-local address is of the network rank 0 is on */
            six.sin6_scope_id = ((const struct sockaddr_in6 *)&a.at)->sin6_scope_id;
        memcpy(&a.at, &six, sizeof six);
        a.size = sizeof six;
    }
    if (q) net_set_port(&a, (int)p->port);
    return a;
}

static void call_lower_ranks(Meeting *m)
{
    const Greeting g = { MAGIC, VERSION, DATA, (uint32_t)m->rank, (uint32_t)m->ranks, 0, m->group->key };
    for (int q = 0; m->rank && q < m->ranks; q++) {     /* rank 0 knows them from their calls */
        const Address at = address_of(m, q);
        net_name(&at, m->links->name[q]);
    }
    for (int q = 0; q < m->rank; q++) {
        const Address to = address_of(m, q);
        const int fd = m->links->data[q] = net_call(&to, m->until);
        CHECK(fd >= 0 && net_send(fd, &g, sizeof g, m->until), "rank %d cannot reach rank %d at %s, port %d: %s; the "
              "machines have to reach each other on any port", m->rank, q, m->links->name[q], net_port(&to),
              strerror(errno));
    }
}

/* ---- meeting ----------------------------------------------------------------------------------------------------- */

/* Whether the rendezvous is for this machine alone, by its text: many a machine finds its own name at 127.0.1.1. */
static bool on_this_machine(const char *host)
{
    return !strcmp(host, "localhost") || !strncmp(host, "127.", 4) || !strcmp(host, "::1");
}

/* The port is in use: by another rank 0, which knows the sentence for it, or by some other program. */
__attribute__((noreturn)) static void fail_in_use(Meeting *m, const Address *at)
{
    char text[LINK_SENTENCE];
    const int fd = net_call(at, seconds_now() + 2);
    const bool rank_0 = fd >= 0 && greet_rank_0(m, fd, 0, text, 2) == LINK_REFUSED;
    close_if_open(fd);
    CHECK(!rank_0, "%s", text);
    FAIL("rank 0 cannot listen at %s:%d, where another program does; end that one, or take another port", m->host,
         m->port);
}

static void listen_as_rank_0(Meeting *m, const struct addrinfo *found)
{
    for (const struct addrinfo *a = found; a && m->listener < 0; a = a->ai_next) {
        const Address at = net_address(a);
        m->listener = net_listen(on_this_machine(m->host) ? &at : NULL, m->port);
        if (m->listener < 0 && errno == EADDRINUSE) fail_in_use(m, &at);
    }
    CHECK(m->listener >= 0, "rank 0 cannot listen at %s:%d: %s", m->host, m->port, strerror(errno));
}

static void be_rank_0(Meeting *m, const struct addrinfo *found)
{
    listen_as_rank_0(m, found);
    receive_ranks(m, JOIN, m->links->control, 1);
    CHECK(!getentropy(&m->group->key, sizeof m->group->key), "no random numbers: %s", strerror(errno));
    const double until = seconds_now() + GREETING_SECONDS;
    for (int q = 1; q < m->ranks; q++)
        CHECK(net_send_message(m->links->control[q], LINK_GROUP, m->group, m->group_bytes, until),
              "rank %d, at %s, has ended before all %d ranks had met", q, m->links->name[q], m->ranks);
}

static void join_rank_0(Meeting *m, const struct addrinfo *found)
{
    char text[LINK_SENTENCE];
    const int fd = m->links->control[0] = call_rank_0(m, found);
    m->listener = net_listen(on_this_machine(m->host) ? &m->root : NULL, 0);
    Address here = { .size = sizeof here.at };
    CHECK(m->listener >= 0 && !getsockname(m->listener, (struct sockaddr *)&here.at, &here.size),
          "rank %d of %d cannot listen: %s", m->rank, m->ranks, strerror(errno));
    const uint32_t kind = greet_rank_0(m, fd, net_port(&here), text, GREETING_SECONDS);
    CHECK(kind != LINK_REFUSED, "%s", text);
    CHECK(kind == LINK_WELCOME, "rank %d of %d was not received at %s:%d; another program listens there, or another "
          "version of llmc: take another port", m->rank, m->ranks, m->host, m->port);
    receive_group(m);
}

static void free_found(struct addrinfo **found) { if (*found) freeaddrinfo(*found); }

void rendezvous_meet(Links *links, const char *host, int port, int rank, int ranks, double patience)
{
    Meeting m AUTO(end_meeting) = { .links = links, .host = host, .port = port, .rank = rank, .ranks = ranks,
                                    .listener = -1 };
    *links = (Links){ .ranks = ranks };
    links->data = xcalloc((size_t)ranks, sizeof *links->data, "connections");
    links->control = xcalloc((size_t)ranks, sizeof *links->control, "connections");
    for (int q = 0; q < ranks; q++) links->data[q] = links->control[q] = -1;
    links->name = xcalloc((size_t)ranks, sizeof *links->name, "connections");
    m.poll = xcalloc((size_t)ranks + 1 + MOST_CALLERS, sizeof *m.poll, "connections");
    m.group_bytes = sizeof(Group) + (size_t)ranks * sizeof(Spot);
    m.group = xcalloc(1, m.group_bytes, "the group");
    snprintf(links->name[0], NET_NAME, "%s", host);
    struct addrinfo *found AUTO(free_found) = net_resolve(host, port);
    start_waiting(&m, patience);
    if (rank == 0) be_rank_0(&m, found);
    else           join_rank_0(&m, found);
    start_waiting(&m, CALL_SECONDS);
    call_lower_ranks(&m);
    receive_ranks(&m, DATA, links->data, rank + 1);
}
