/* rendezvous.h -- how the ranks of a group find each other over TCP.
 *
 * Rank 0 listens at a host and port that all know. The others call there and say which rank they are, of how many, and
 * where they listen themselves. When all have come, rank 0 sends everyone the list, and each rank calls those below
 * it: every two are joined by a connection of their own. Who calls and is no rank of the group is turned away. */
#ifndef LLMC_RENDEZVOUS_H
#define LLMC_RENDEZVOUS_H

#include "net.h"

typedef struct Links {
    int   ranks;
    int  *data;                 /* (ranks): to each other rank; -1: to itself */
    int  *control;              /* (ranks): between rank 0 and each other, where the meeting was made; -1: none */
    char (*name)[NET_NAME];     /* (ranks): the machine of each, as messages call it */
} Links;

/* Fills in links. Fails with a sentence, on every rank that has come, when a rank is missing after `patience` seconds
 * or they do not fit together; the wait is explained on stderr when it takes some seconds. */
void rendezvous_meet(Links *links, const char *host, int port, int rank, int ranks, double patience);
void links_close(Links *links);

/* The kinds of messages on control connections. */
typedef enum {
    LINK_WELCOME = 0x6c6c6d01,  /* rank 0: wait here for the others */
    LINK_GROUP,                 /* rank 0: all are there; how to reach them */
    LINK_REFUSED,               /* rank 0: the group cannot be; a sentence why */
    LINK_FAILED,                /* to rank 0: this rank has a sentence to say, and all must end */
    LINK_SPEAK,                 /* rank 0: say it, and end */
    LINK_END,                   /* rank 0: end; with a sentence, or in silence */
    LINK_BYE                    /* this rank leaves, and all is well */
} LinkMessage;

enum { LINK_SENTENCE = 2048 };  /* bytes of a sentence, with its zero */

#endif
