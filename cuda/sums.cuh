/* sums.cuh -- sums over rows, for the gradients of parameters: first over chunks of rows, whose parts lie in the
 * workspace, then over the parts in their order. How the rows are cut depends on their number alone. */
#ifndef LLMC_CUDA_SUMS_CUH
#define LLMC_CUDA_SUMS_CUH

#include "common.cuh"

constexpr int64_t LEAST_ROWS = 16, MOST_CHUNKS = 256;

inline int64_t rows_of_chunk(int64_t N)
{
    const int64_t rows = ceil_div(N, MOST_CHUNKS);
    return rows > LEAST_ROWS ? rows : LEAST_ROWS;
}

inline int64_t row_chunks(int64_t N) { return ceil_div(N, rows_of_chunk(N)); }

/* to[c] (+)= sum over chunks of parts[chunk][c]. Nothing is done where to is none. */
void add_parts(Device *d, Tensor to, const float *parts, int64_t chunks, bool accumulate);

/* to[c] (+)= sum over rows of x[n][c], of f32 or bf16; parts (row_chunks, C). */
void add_rows(Device *d, Tensor to, Tensor x, float *parts, bool accumulate);

#endif
