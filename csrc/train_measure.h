/* train_measure.h -- what a run will take, and what the machine can give. */
#ifndef LLMC_TRAIN_MEASURE_H
#define LLMC_TRAIN_MEASURE_H

#include "trainer.h"

/* Every tensor's bytes and the total of one process, on stdout; nothing is allocated. */
void   print_plan(Model *m, Plan plan, const TrainerConfig *c);

/* FLOP/s of one large product, the best of a few, summed over the ranks: what a step is measured against. */
double measure_peak(Device *d, DType type, Comm *comm);

#endif
