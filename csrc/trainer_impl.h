/* trainer_impl.h -- what trainer.c (the step) and trainer_store.c (saving and loading it) share. */
#ifndef LLMC_TRAINER_IMPL_H
#define LLMC_TRAINER_IMPL_H

#include "trainer.h"

enum { STATE_EXP_AVG, STATE_EXP_AVG_SQ, STATE_MASTER };

struct Trainer {
    Model  *model;
    Params *params;
    Device *device;
    Comm   *comm;
    TrainerConfig config;
    int     rank, kinds;        /* kinds of state kept: 2, or 3 with masters */
    int64_t slice;              /* elements this rank owns, over all buckets */
    void   *state, *norm;       /* on the device: kinds x slice f32, and one f32 */
    int64_t updates;
    double  grad_norm;
    bool    reduced;
};

/* The owned part [begin, end) of a parameter in the rank's state of one kind. */
Tensor trainer_owned_state(const Trainer *t, int kind, const Param *p, int64_t begin, int64_t end);

#endif
