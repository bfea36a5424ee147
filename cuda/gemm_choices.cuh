/* gemm_choices.cuh -- which kernel of cuBLASLt was fastest for a product: kept in $LLMC_CACHE, or ~/.cache/llmc, one
 * file for a GPU's name and a version of cuBLASLt. What cannot be read or written is not kept, and found again.
 *
 * While texts are written, a call has as many rows as there are texts, and while prompts are read any number of them:
 * timing kernels for each number would take longer than the products. So products whose M is about the same share a
 * choice: M is rounded up to a power of two up to 64, which is a tile's height or less, so that the time goes into
 * reading the other factor whatever M is; above, to an eighth of the next power of two, but no less than a tile, as
 * kernels differ by how well whole tiles fill the GPU. Up to M = 8192 that is 30 choices. */
#ifndef LLMC_CUDA_GEMM_CHOICES_CUH
#define LLMC_CUDA_GEMM_CHOICES_CUH

#include <cstdint>
#include <map>
#include <string>

struct Choice {
    uint64_t words[8];              /* cuBLASLt's own name of the kernel, for its version alone */
    bool     usable;                /* there is such a kernel */
};

struct Choices {
    std::string head, path;         /* the file's first line; empty path: there is no place for it */
    std::map<std::string, Choice> made;         /* what the file holds, by products with M rounded */
    std::map<std::string, Choice> of_run;       /* by products as they are: equal calls give equal bits */
};

constexpr int64_t rounded_rows(int64_t M)
{
    int64_t power = 1;
    while (power < M) power *= 2;
    const int64_t tile = power / 8 < 64 ? 64 : power / 8;
    return power <= 64 ? power : (M + tile - 1) / tile * tile;
}

Choices choices_read(const char *gpu, size_t version);
void    choices_write(const Choices &all);      /* by renaming: a reader sees a whole file */

#endif
