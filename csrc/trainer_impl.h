/* trainer_impl.h -- what trainer.c (the step) and trainer_store.c (saving and loading it) share. */
#ifndef LLMC_TRAINER_IMPL_H
#define LLMC_TRAINER_IMPL_H

#include "trainer.h"

enum { STATE_EXP_AVG, STATE_EXP_AVG_SQ, STATE_MOMENTUM, STATE_MASTER, STATE_KINDS };

/* Elements [begin, end) of the flat blocks that this rank owns and that AdamW moves, or Muon, what pads them included;
 * and their state, none() where it is not kept. A step is one op: on one rank, by AdamW, of the whole model. */
typedef struct { int64_t begin, end; int bucket; bool muon; Tensor kind[STATE_KINDS]; } Span;

/* A matrix that Muon moves: the elements [begin, end) of a parameter are what this rank owns of it. */
typedef struct { const Param *param; int64_t begin, end; } Matrix;

struct Trainer {
    Model  *model;
    Params *params;
    Device *device;
    Comm   *comm;
    TrainerConfig config;
    int     rank;
    int     spans;
    Span   *span;               /* in the order of the flat blocks */
    Tensor  decay;              /* of the flat blocks, for adamw */
    int     matrices;           /* of Muon: those that this rank's slices touch */
    Matrix *matrix;
    Tensor *direction;          /* of each: its gradient, in the end orthogonalized momentum */
    void   *memory;             /* on the device: all state */
    Tensor  squares;            /* there too: of each parameter's gradient */
    float  *host_squares;
    int64_t updates;
    double  grad_norm;
    bool    reduced;
};

bool trainer_keeps_masters(const Params *all, const TrainerConfig *c);

/* Elements [begin, end) of a parameter, all owned by this rank, in its state of one kind; none() if that is not kept */
Tensor trainer_owned_state(const Trainer *t, int kind, const Param *p, int64_t begin, int64_t end);

#endif
