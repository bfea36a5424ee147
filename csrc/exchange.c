/* exchange.c -- see exchange.h */
#include "exchange.h"

#include <stdlib.h>
#include <string.h>

/* What the other ranks have for out, and this rank's own, side by side in scratch: (ranks) shares. */
static void collect_shares(Exchange *x, const char *in, size_t stride, size_t bytes)
{
    x->step(x, in, stride, x->scratch, x->share, bytes);
    memcpy(x->scratch + (size_t)x->table.rank * x->share, in + (size_t)x->table.rank * stride, bytes);
}

static void reduce_scatter(void *self, const float *in, float *out, int64_t n)
{
    Exchange *x = self;
    const int64_t most = (int64_t)(x->share / sizeof(float));
    for (int64_t at = 0; at < n; at += most) {
        const int64_t count = n - at < most ? n - at : most;
        collect_shares(x, (const char *)(in + at), (size_t)n * sizeof(float), (size_t)count * sizeof(float));
        for (int q = 0; q < x->table.ranks; q++) {
            const float *piece = (const float *)(x->scratch + (size_t)q * x->share);
            if (q == 0) memcpy(out + at, piece, (size_t)count * sizeof(float));
            else for (int64_t i = 0; i < count; i++) out[at + i] += piece[i];
        }
    }
}

static void all_gather(void *self, const void *in, void *out, size_t bytes)
{
    Exchange *x = self;
    char *own = (char *)out + (size_t)x->table.rank * bytes;
    if (in != own) memcpy(own, in, bytes);
    for (size_t at = 0; at < bytes; at += EXCHANGE_PIECE) {
        const size_t piece = bytes - at < EXCHANGE_PIECE ? bytes - at : EXCHANGE_PIECE;
        x->step(x, own + at, 0, (char *)out + at, bytes, piece);
    }
}

static void all_reduce_double(void *self, double *sums, int64_t n)
{
    Exchange *x = self;
    const int64_t most = (int64_t)(x->share / sizeof(double));
    for (int64_t at = 0; at < n; at += most) {
        const int64_t count = n - at < most ? n - at : most;
        collect_shares(x, (const char *)(sums + at), 0, (size_t)count * sizeof(double));
        for (int q = 0; q < x->table.ranks; q++) {
            const double *piece = (const double *)(x->scratch + (size_t)q * x->share);
            if (q == 0) memcpy(sums + at, piece, (size_t)count * sizeof(double));
            else for (int64_t i = 0; i < count; i++) sums[at + i] += piece[i];
        }
    }
}

void exchange_open(Exchange *x)
{
    x->table.reduce_scatter = reduce_scatter;
    x->table.all_gather = all_gather;
    x->table.all_reduce_double = all_reduce_double;
    x->share = EXCHANGE_PIECE / (size_t)x->table.ranks / 8 * 8;
    CHECK(x->share, "%d ranks; wanted at most %d", x->table.ranks, EXCHANGE_PIECE / 8);
    x->scratch = xcalloc(1, EXCHANGE_PIECE, "communication");
}

void exchange_close(Exchange *x) { free(x->scratch); }
