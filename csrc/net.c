/* net.c -- see net.h */
#define _GNU_SOURCE
#include "net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "device.h"

#ifndef MSG_NOSIGNAL                    /* where there is none, SO_NOSIGPIPE is */
#define MSG_NOSIGNAL 0
#endif

/* ---- addresses -------------------------------------------------------------------------------------------------- */

struct addrinfo *net_resolve(const char *host, int port)
{
    const struct addrinfo wanted = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
    struct addrinfo *found = NULL;
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    const int error = getaddrinfo(host, service, &wanted, &found);
    CHECK(!error, "the host '%s' cannot be found (%s); give a name or an address that every machine knows", host,
          error == EAI_SYSTEM ? strerror(errno) : gai_strerror(error));
    return found;
}

Address net_address(const struct addrinfo *found)
{
    Address a = { .size = found->ai_addrlen };
    memcpy(&a.at, found->ai_addr, found->ai_addrlen);
    return a;
}

int net_port(const Address *a)
{
    if (a->at.ss_family == AF_INET6) return ntohs(((const struct sockaddr_in6 *)&a->at)->sin6_port);
    return ntohs(((const struct sockaddr_in *)&a->at)->sin_port);
}

void net_set_port(Address *a, int port)
{
    const in_port_t value = htons((uint16_t)port);
    if (a->at.ss_family == AF_INET6) ((struct sockaddr_in6 *)&a->at)->sin6_port = value;
    else                             ((struct sockaddr_in *)&a->at)->sin_port = value;
}

void net_name(const Address *a, char name[NET_NAME])
{
    if (getnameinfo((const struct sockaddr *)&a->at, a->size, name, NET_NAME, NULL, 0, NI_NUMERICHOST))
        snprintf(name, NET_NAME, "an unknown address");
}

/* ---- sockets ---------------------------------------------------------------------------------------------------- */

static void set(int fd, int level, int option, int value)
{
    setsockopt(fd, level, option, &value, sizeof value);
}

static void make_unblocking(int fd)
{
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    fcntl(fd, F_SETFL, O_NONBLOCK);
}

static void tune(int fd)
{
    make_unblocking(fd);
    set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
#ifdef TCP_KEEPIDLE
    set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 30);
    set(fd, IPPROTO_TCP, TCP_KEEPINTVL, 10);
    set(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
#endif
#ifdef SO_NOSIGPIPE
    set(fd, SOL_SOCKET, SO_NOSIGPIPE, 1);
#endif
}

static int close_failed(int fd)
{
    const int why = errno;
    close(fd);
    errno = why;
    return -1;
}

static int listen_at(const Address *a)
{
    const int fd = socket(a->at.ss_family, SOCK_STREAM, 0);
    if (fd < 0) return -1;
    make_unblocking(fd);
    set(fd, SOL_SOCKET, SO_REUSEADDR, 1);               /* connections of a run before may still be fading away */
    if (a->at.ss_family == AF_INET6) set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    if (bind(fd, (const struct sockaddr *)&a->at, a->size) || listen(fd, SOMAXCONN)) return close_failed(fd);
    return fd;
}

int net_listen(const Address *only, int port)
{
    if (only) {
        Address a = *only;
        net_set_port(&a, port);
        return listen_at(&a);
    }
    Address six = { .size = sizeof(struct sockaddr_in6) }, four = { .size = sizeof(struct sockaddr_in) };
    six.at.ss_family = AF_INET6, four.at.ss_family = AF_INET;         /* the address of zeros stands for all */
    net_set_port(&six, port), net_set_port(&four, port);
    const int fd = listen_at(&six);
    return fd >= 0 || errno == EADDRINUSE || errno == EACCES ? fd : listen_at(&four);
}

/* A caller over IPv4 at a socket of both kinds, ::ffff:10.0.0.7, becomes 10.0.0.7: so others can call it back. */
static void unmap(Address *a)
{
    const struct sockaddr_in6 six = *(const struct sockaddr_in6 *)&a->at;
    if (a->at.ss_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&six.sin6_addr)) return;
    struct sockaddr_in four = { .sin_family = AF_INET, .sin_port = six.sin6_port };
    memcpy(&four.sin_addr, six.sin6_addr.s6_addr + 12, 4);
    memset(&a->at, 0, sizeof a->at);
    memcpy(&a->at, &four, sizeof four);
    a->size = sizeof four;
}

int net_accept(int listener, Address *from)
{
    *from = (Address){ .size = sizeof from->at };
    const int fd = accept(listener, (struct sockaddr *)&from->at, &from->size);
    if (fd < 0) return -1;
    tune(fd);
    unmap(from);
    return fd;
}

/* Whoever calls a port of its own machine at which nobody listens may, by chance, be given that very port to call
 * from, and finds itself at the other end. */
static bool calls_itself(int fd)
{
    Address here = { .size = sizeof here.at }, there = { .size = sizeof there.at };
    return !getsockname(fd, (struct sockaddr *)&here.at, &here.size)
        && !getpeername(fd, (struct sockaddr *)&there.at, &there.size)
        && here.size == there.size && !memcmp(&here.at, &there.at, here.size);
}

static bool wait_for(int fd, short events, double until)
{
    for (;;) {
        struct pollfd p = { fd, events, 0 };
        const int n = poll(&p, 1, net_milliseconds(until));
        if (n > 0) return true;
        if (n < 0 && errno != EINTR) return false;
        if (seconds_now() >= until) return errno = ETIMEDOUT, false;
    }
}

int net_call(const Address *to, double until)
{
    const int fd = socket(to->at.ss_family, SOCK_STREAM, 0);
    if (fd < 0) return -1;
    tune(fd);
    if (connect(fd, (const struct sockaddr *)&to->at, to->size)) {
        if (errno != EINPROGRESS && errno != EINTR) return close_failed(fd);
        if (!wait_for(fd, POLLOUT, until)) return close_failed(fd);
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) return errno = error, close_failed(fd);
    }
    if (calls_itself(fd)) return errno = ECONNREFUSED, close_failed(fd);
    return fd;
}

/* ---- bytes and messages ----------------------------------------------------------------------------------------- */

static bool later(void) { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

ssize_t net_push(int fd, const void *data, size_t bytes)
{
    const ssize_t n = send(fd, data, bytes, MSG_NOSIGNAL);
    return n < 0 && later() ? 0 : n;
}

ssize_t net_pull(int fd, void *data, size_t bytes)
{
    const ssize_t n = recv(fd, data, bytes, 0);
    if (n == 0) return errno = ECONNRESET, -1;
    return n < 0 && later() ? 0 : n;
}

bool net_send(int fd, const void *data, size_t bytes, double until)
{
    for (const char *at = data, *end = at + bytes; at < end; ) {
        const ssize_t n = net_push(fd, at, (size_t)(end - at));
        if (n < 0 || (n == 0 && !wait_for(fd, POLLOUT, until))) return false;
        at += n;
    }
    return true;
}

bool net_receive(int fd, void *data, size_t bytes, double until)
{
    for (char *at = data, *end = at + bytes; at < end; ) {
        const ssize_t n = net_pull(fd, at, (size_t)(end - at));
        if (n < 0 || (n == 0 && !wait_for(fd, POLLIN, until))) return false;
        at += n;
    }
    return true;
}

int net_milliseconds(double until)
{
    const double left = until - seconds_now();
    return left > 1e6 ? -1 : left > 0 ? (int)ceil(1e3 * left) : 0;
}

bool net_send_message(int fd, uint32_t kind, const void *body, size_t bytes, double until)
{
    const uint32_t head[2] = { kind, (uint32_t)bytes };
    return net_send(fd, head, sizeof head, until) && net_send(fd, body, bytes, until);
}

uint32_t net_receive_message(int fd, void *body, size_t most, size_t *bytes, double until)
{
    uint32_t head[2];
    if (!net_receive(fd, head, sizeof head, until)) return 0;
    if (head[1] > most) return errno = EPROTO, 0;
    *bytes = head[1];
    return net_receive(fd, body, *bytes, until) ? head[0] : 0;
}
