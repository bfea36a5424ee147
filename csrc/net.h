/* net.h -- TCP connections that never wait longer than they are told: until a time of seconds_now(), INFINITY for as
 * long as it takes. What fails says so by its result and errno; the end of a connection is ECONNRESET. Connections
 * send at once (TCP_NODELAY), and one to a machine that is gone fails after a minute. */
#ifndef LLMC_NET_H
#define LLMC_NET_H

#include <netdb.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "base.h"

typedef struct Address { struct sockaddr_storage at; socklen_t size; } Address;

enum { NET_NAME = 64 };                                 /* bytes of a numeric address with its zero */

/* The addresses of a host, in the order to try them; fails for a host that is not known. Free with freeaddrinfo. */
struct addrinfo *net_resolve(const char *host, int port);
Address net_address(const struct addrinfo *found);
int     net_port(const Address *a);
void    net_set_port(Address *a, int port);
void    net_name(const Address *a, char name[NET_NAME]);        /* "10.0.0.7", "fd00::7" */

/* Each gives a socket, or -1. only NULL: listens on all of this machine's addresses, IPv6 and IPv4; port 0: on one
 * that is free. net_accept gives EAGAIN when nobody calls. */
int net_listen(const Address *only, int port);
int net_accept(int listener, Address *from);
int net_call(const Address *to, double until);

/* Bytes that went now; 0: none, or -1. */
ssize_t net_push(int fd, const void *data, size_t bytes);
ssize_t net_pull(int fd, void *data, size_t bytes);
/* All of them, or false. */
bool net_send(int fd, const void *data, size_t bytes, double until);
bool net_receive(int fd, void *data, size_t bytes, double until);

/* What poll() is to be told to wait until then: milliseconds, -1 for ever. */
int net_milliseconds(double until);

/* Messages of a kind, which is not 0, and a length. To receive gives the kind and the length, or kind 0; EPROTO: that
 * was no message, or one of more than `most` bytes. */
bool     net_send_message(int fd, uint32_t kind, const void *body, size_t bytes, double until);
uint32_t net_receive_message(int fd, void *body, size_t most, size_t *bytes, double until);

#endif
