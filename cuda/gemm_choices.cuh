/* gemm_choices.cuh -- which kernel of cuBLASLt was fastest for a product: kept in $LLMC_CACHE, or ~/.cache/llmc, one
 * file for a GPU's name and a version of cuBLASLt. What cannot be read or written is not kept, and found again. */
#ifndef LLMC_CUDA_GEMM_CHOICES_CUH
#define LLMC_CUDA_GEMM_CHOICES_CUH

#include <cstdint>
#include <map>
#include <string>

struct Choice {
    uint64_t words[8];              /* cuBLASLt's own name of the kernel, for its version alone */
    bool     usable, settled;       /* there is such a kernel; it is the one of this run */
};

struct Choices {
    std::string head, path;         /* the file's first line; empty path: there is no place for it */
    std::map<std::string, Choice> made;
};

Choices choices_read(const char *gpu, size_t version);
void    choices_write(const Choices &all);      /* by renaming: a reader sees a whole file */

#endif
