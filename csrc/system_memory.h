/* system_memory.h -- how much of the machine's memory this process can have. */
#ifndef LLMC_SYSTEM_MEMORY_H
#define LLMC_SYSTEM_MEMORY_H

#include "device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What the kernel says is available, within the limits of the control groups (both versions) and of the process
 * (ulimit -v); an equal part of it for each process that a launcher started on this machine. root: "", or a folder
 * that holds another proc and sys, for tests. */
Memory system_memory(const char *root);

#ifdef __cplusplus
}
#endif
#endif
