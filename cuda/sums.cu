/* sums.cu -- see sums.cuh. A thread owns a column; a warp reads 32 neighbours at a time. */
#include "sums.cuh"

__global__ void add_parts_kernel(float *to, const float *parts, int64_t chunks, int C, bool accumulate)
{
    const int c = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (c >= C) return;
    float sum = 0;
    UNROLL_SOME for (int64_t chunk = 0; chunk < chunks; chunk++) sum += parts[chunk * C + c];
    put_sum(to + c, sum, accumulate);
}

void add_parts(Device *d, Tensor to, const float *parts, int64_t chunks, bool accumulate)
{
    if (is_none(to)) return;
    const int64_t C = last(to);
    launch(d, add_parts_kernel, blocks_for(C, WARP), WARP, 0, data_of<float>(to), parts, chunks, (int)C, accumulate);
}

template <typename T>
__global__ void row_parts_kernel(float *parts, const T *x, int64_t N, int C, int64_t chunk_rows)
{
    const int c = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    const int64_t chunk = blockIdx.y, end = at_most(N, (chunk + 1) * chunk_rows);
    if (c >= C) return;
    float sum = 0;
    for (int64_t n = chunk * chunk_rows; n < end; n++) sum += float(x[n * C + c]);
    parts[chunk * C + c] = sum;
}

void add_rows(Device *d, Tensor to, Tensor x, float *parts, bool accumulate)
{
    const int64_t N = rows(x), C = last(x), chunks = row_chunks(N);
    FLOAT_SWITCH(x.dtype, T, launch(d, row_parts_kernel<T>, dim3(blocks_for(C, WARP), (unsigned)chunks), WARP, 0, parts,
                                    data_of<T>(x), N, (int)C, rows_of_chunk(N)));
    add_parts(d, to, parts, chunks, accumulate);
}
