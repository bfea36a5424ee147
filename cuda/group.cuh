/* group.cuh -- the devices of all ranks as one: see Backend's join in device.h. */
#ifndef LLMC_CUDA_GROUP_CUH
#define LLMC_CUDA_GROUP_CUH

#include "common.cuh"

void join_group(Device *d, struct Comm *comm);
void leave_group(Device *d);            /* nothing is done for a device that is in none */
void group_reduce_scatter(Device *d, const float *in, float *out, int64_t n);
void group_all_gather(Device *d, const void *in, void *out, size_t bytes);
void group_meet(Device *d);

#endif
