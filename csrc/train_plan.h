/* train_plan.h -- what a run takes of its device's memory, and what would fit: measured, and nothing is allocated. */
#ifndef LLMC_TRAIN_PLAN_H
#define LLMC_TRAIN_PLAN_H

#include "trainer.h"

/* A run, as far as memory is concerned. */
typedef struct RunPlan {
    Model  *model;
    TrainerConfig trainer;
    Plan    plan;                   /* B 0: until it is chosen */
    bool    recompute_said;         /* plan.recompute is wanted as it is; otherwise what fits decides */
    int64_t rows;                   /* of an update, in each process; micro-batches divide them equally */
    int64_t total;                  /* tokens of an update, if they must be said beside another batch_size; or 0 */
    Memory  memory;                 /* of the rank with the least of it */
} RunPlan;

void  run_plan_look(RunPlan *r, Comm *comm);        /* at the memory: before any rank takes some */

/* Where plan.B is 0, the largest that fits on every rank: without recomputation, or if not one row fits, with it. If
 * nothing fits, the least there is. */
void  run_plan_choose(RunPlan *r, Comm *comm);
void  run_plan_check(const RunPlan *r);             /* fails, with flags that fit, where the plan does not */
char *run_plan_advice(void *run_plan, size_t bytes);        /* a Device's when_full */

/* Every tensor's bytes, the total of one process, and what fits, on stdout. */
void  run_plan_print(const RunPlan *r);

#endif
