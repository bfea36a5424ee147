/* train_measure.h -- how fast the machine is. */
#ifndef LLMC_TRAIN_MEASURE_H
#define LLMC_TRAIN_MEASURE_H

#include "comm.h"
#include "device.h"

/* FLOP/s of one large product, the best of a few, summed over the ranks: what a step is measured against. It takes
 * memory, half of what is free at most, and gives it back: measure before a plan takes it. */
double measure_peak(Device *d, DType type, Comm *comm);

#endif
