/* gemm.cuh -- the seam behind which matrices are multiplied: by cuBLASLt on a GPU, by our own kernel elsewhere. */
#ifndef LLMC_CUDA_GEMM_CUH
#define LLMC_CUDA_GEMM_CUH

#include "common.cuh"

/* out (M,N) = a (M,K) b (K,N), row-major and contiguous, added up in f32; a and b of one type. Where a_turned, a lies
 * in memory as (K,M); where b_turned, b as (N,K). Then, in this order and where given,
 *     value += bias[n];  pre[m][n] = value, rounded;  value = gelu of it, if gelu;  value *= gelu'(slope[m][n])
 *     out (+)= value
 * bias, pre and slope have the type of a; out is of that type or f32. */
struct Product {
    Tensor  out, a, b;
    int64_t M, N, K;
    bool    a_turned, b_turned, accumulate, gelu;
    Tensor  bias, pre, slope;
};

inline Product product(Tensor out, Tensor a, Tensor b, int64_t M, int64_t N, int64_t K, bool a_turned, bool b_turned)
{
    return { out, a, b, M, N, K, a_turned, b_turned, false, false, none(), none(), none() };
}

void multiply(Device *d, const Product &p);

#ifndef LLMC_CUDA_EMU
void close_products(CudaState *s);
cudaError_t probe_kernel(cudaFuncAttributes *found);    /* has this GPU a kernel in this build? */
#endif

#endif
