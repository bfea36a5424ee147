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
void multiply_tiles(Device *d, const Product &p);       /* the same, by our own kernel */

/* What a device takes for its products, and gives back. */
void open_products(CudaState *s);
void close_products(CudaState *s);

#ifndef LLMC_CUDA_EMU
cudaError_t probe_kernel(cudaFuncAttributes *found);    /* has this GPU a kernel in this build? */
#endif

/* ---- for those that multiply ------------------------------------------------------------------------------------- */

/* What follows a sum; pointers that are null are absent. */
template <typename T, typename O> struct Finish {
    O       *out;
    T       *pre;
    const T *bias, *slope;
    bool     gelu, accumulate;
};

template <typename T, typename O>
__device__ __forceinline__ void finish(const Finish<T, O> &f, float value, int64_t m, int64_t n, int64_t N)
{
    const int64_t at = m * N + n;
    if (f.bias) value += float(f.bias[n]);
    if (f.pre) f.pre[at] = T(value);
    if (f.gelu) value = gelu(float(T(value)));
    if (f.slope) value *= gelu_slope(float(f.slope[at]));
    f.out[at] = O(f.accumulate ? float(f.out[at]) + value : value);
}

template <typename T, typename O> Finish<T, O> finish_of(const Product &p)
{
    return { data_of<O>(p.out), data_of<T>(p.pre), data_of<T>(p.bias), data_of<T>(p.slope), p.gelu, p.accumulate };
}

/* function<type of a, type of out>(the rest); with the types a product has */
#define PRODUCT_SWITCH(p, function, ...) do { \
        if ((p).a.dtype == DT_F32)        function<float, float>(__VA_ARGS__); \
        else if ((p).out.dtype == DT_F32) function<bf16, float>(__VA_ARGS__); \
        else                              function<bf16, bf16>(__VA_ARGS__); \
    } while (0)

#endif
