/* profile.c -- see profile.h and device.h */
#include "profile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void profile_start(Device *d)
{
    if (!d->profile) d->profile = xcalloc(1, sizeof *d->profile, "the profile");
    memset(d->profile, 0, sizeof *d->profile);
}

static const Cost *costs_to_sort(const Cost *set, int *order)
{
    for (int i = 0; i < OP_COUNT; i++) order[i] = i;
    for (int i = 1; i < OP_COUNT; i++)                      /* insertion: a handful of rows */
        for (int j = i; j > 0 && set[order[j]].seconds > set[order[j - 1]].seconds; j--) {
            const int swap = order[j];
            order[j] = order[j - 1], order[j - 1] = swap;
        }
    return set;
}

void profile_print(Device *d, double peak_flops)
{
    CHECK(d->profile, "profile_print before profile_start");
    int order[OP_COUNT];
    const Cost *cost = costs_to_sort(d->profile->cost, order);
    double total = 0;
    for (int i = 0; i < OP_COUNT; i++) total += cost[i].seconds;
    printf("\n%-20s %8s %11s %7s %9s %8s %7s\n", "op", "calls", "ms", "share", "GFLOP/s", "GB/s", "peak");
    for (int i = 0; i < OP_COUNT; i++) {
        const Cost c = cost[order[i]];
        if (!c.calls) continue;
        printf("%-20s %8lld %11.1f %6.1f%% %9.2f %8.2f", op_names[order[i]], (long long)c.calls, 1e3 * c.seconds,
               100 * c.seconds / total, 1e-9 * c.flops / c.seconds, 1e-9 * c.bytes / c.seconds);
        if (peak_flops > 0) printf(" %6.1f%%", 100 * c.flops / c.seconds / peak_flops);
        printf("\n");
    }
    printf("%-20s %8s %11.1f\n", "all ops", "", 1e3 * total);
}
