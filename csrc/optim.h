/* optim.h -- what stands around an optimizer's step: learning-rate schedules, and the guard against bad steps. */
#ifndef LLMC_OPTIM_H
#define LLMC_OPTIM_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { SCHEDULE_COSINE, SCHEDULE_LINEAR, SCHEDULE_WSD, SCHEDULE_CONSTANT } ScheduleKind;

/* Linear warm-up to lr, then down to lr * final: along half a cosine (I. Loshchilov, F. Hutter, SGDR, 2017), along a
 * line, or constant until the last `decay` part of the run and then along a line (WSD: S. Hu et al., MiniCPM, 2024). */
typedef struct Schedule {
    ScheduleKind kind;
    double  lr, final, decay;
    int64_t warmup, steps;
} Schedule;

double schedule_lr(const Schedule *s, int64_t step);    /* of the update that makes `step` into step + 1 */

/* The guard keeps the loss and the gradient norm of the last updates that were applied. A value that is not finite, or
 * whose distance above their mean is more than z standard deviations, says: do not apply this one. The deviation counts
 * as at least 1 % of the mean for the loss and half of it for the norm: at z = 8 less than 1.08 and 5 times the mean
 * always passes. */
enum { GUARD_WINDOW = 128, GUARD_LEAST = 32 };

typedef struct Guard {
    double  z;                                          /* 0: only what is not finite is refused */
    double  loss[GUARD_WINDOW], norm[GUARD_WINDOW];     /* rings */
    int64_t seen;                                       /* updates that entered */
} Guard;

typedef enum { GUARD_PASS, GUARD_LOSS_NOT_FINITE, GUARD_NORM_NOT_FINITE, GUARD_LOSS_SPIKE, GUARD_NORM_SPIKE } Verdict;

Verdict guard_judge(const Guard *g, double loss, double norm, double *z);   /* z: of a spike */
const char *guard_reason(Verdict v);                    /* "the loss is a spike"; "" of GUARD_PASS */
void    guard_enter(Guard *g, double loss, double norm);

#ifdef __cplusplus
}
#endif
#endif
