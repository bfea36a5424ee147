/* profile.h -- the stopwatch behind --profile: what each op cost, counted at the front doors. */
#ifndef LLMC_PROFILE_H
#define LLMC_PROFILE_H

#include "ops.h"

typedef struct { int64_t calls; double seconds, flops, bytes; } Cost;

typedef struct Profile {
    Cost   cost[OP_COUNT];
    double entered;         /* when the door that is open now was passed */
} Profile;

#endif
