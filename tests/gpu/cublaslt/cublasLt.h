/* cublasLt.h -- a stand-in for NVIDIA's, with the names that gemm_cublaslt.cu uses; products.cu has its loops. It has
 * three kernels, 1, 2 and 3, of which 2 is the fastest but not for 6 rows, and 1 cannot be run. */
#ifndef STAND_IN_CUBLASLT_H
#define STAND_IN_CUBLASLT_H

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "common.cuh"

typedef void *cudaStream_t;
typedef int cudaEvent_t;
typedef enum { cudaSuccess, cudaErrorMemoryAllocation } cudaError_t;
struct cudaDeviceProp { char name[64]; };

typedef enum { CUBLAS_STATUS_SUCCESS, CUBLAS_STATUS_NOT_SUPPORTED } cublasStatus_t;
typedef enum { CUDA_R_32F, CUDA_R_16BF } cudaDataType;
typedef enum { CUBLAS_COMPUTE_32F } cublasComputeType_t;
typedef enum { CUBLAS_OP_N, CUBLAS_OP_T } cublasOperation_t;
typedef enum {
    CUBLASLT_EPILOGUE_DEFAULT = 1, CUBLASLT_EPILOGUE_BIAS = 4, CUBLASLT_EPILOGUE_GELU = 32,
    CUBLASLT_EPILOGUE_GELU_BIAS = 36, CUBLASLT_EPILOGUE_GELU_AUX = 160, CUBLASLT_EPILOGUE_GELU_AUX_BIAS = 164,
    CUBLASLT_EPILOGUE_DGELU = 192
} cublasLtEpilogue_t;
typedef enum {
    CUBLASLT_MATMUL_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSB, CUBLASLT_MATMUL_DESC_EPILOGUE,
    CUBLASLT_MATMUL_DESC_BIAS_POINTER, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD
} cublasLtMatmulDescAttributes_t;
typedef enum {
    CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES
} cublasLtMatmulPreferenceAttributes_t;
enum { CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE = 2 };

struct cublasLtMatmulDescOpaque_t {
    int32_t trans[2];
    uint32_t epilogue;
    const void *bias;
    void *aux;
    int64_t aux_ld;
};
struct cublasLtMatrixLayoutOpaque_t { cudaDataType type; uint64_t rows, cols; int64_t ld; };
struct cublasLtMatmulPreferenceOpaque_t { uint32_t aligned[4]; };
typedef struct { uint64_t data[8]; } cublasLtMatmulAlgo_t;
struct cublasLtMatmulHeuristicResult_t { cublasLtMatmulAlgo_t algo; size_t workspaceSize; cublasStatus_t state; };
typedef int *cublasLtHandle_t;

/* What products.cu decides, and what it counts. */
struct StandIn {
    bool no_kernel, no_epilogue, no_memory;
    int  asked, timed, last;                /* heuristics; stopwatches read; the kernel that ran last */
};
extern StandIn stand_in;

inline void cuda_check(cudaError_t, const char *) {}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int)
{
    strcpy(p->name, "A stand-in, 1");
    return cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
template <typename T> cudaError_t cudaMalloc(T **to, size_t bytes)
{
    if (stand_in.no_memory) return cudaErrorMemoryAllocation;
    *to = (T *)malloc(bytes);
    return cudaSuccess;
}
inline cudaError_t cudaFree(void *p) { free(p); return cudaSuccess; }
inline cudaError_t cudaEventCreate(cudaEvent_t *) { return cudaSuccess; }
inline cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventElapsedTime(float *to, cudaEvent_t, cudaEvent_t)
{
    stand_in.timed++;
    *to = stand_in.last == 2 ? 1 : 2;
    return cudaSuccess;
}

inline const char *cublasLtGetStatusString(cublasStatus_t) { return "not supported"; }
inline size_t cublasLtGetVersion() { return 130000; }
inline cublasStatus_t cublasLtCreate(cublasLtHandle_t *to) { *to = nullptr; return CUBLAS_STATUS_SUCCESS; }
inline cublasStatus_t cublasLtDestroy(cublasLtHandle_t) { return CUBLAS_STATUS_SUCCESS; }
inline cublasStatus_t cublasLtMatmulDescInit(cublasLtMatmulDescOpaque_t *d, cublasComputeType_t, cudaDataType)
{
    *d = {};
    return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatrixLayoutInit(cublasLtMatrixLayoutOpaque_t *m, cudaDataType type, uint64_t rows,
                                               uint64_t cols, int64_t ld)
{
    *m = { type, rows, cols, ld };
    return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDescOpaque_t *d,
                                                     cublasLtMatmulDescAttributes_t which, const void *value,
                                                     size_t bytes)
{
    void *const to[] = { &d->trans[0], &d->trans[1], &d->epilogue, &d->bias, &d->aux, &d->aux_ld };
    const size_t size[] = { 4, 4, 4, 8, 8, 8 };
    if (bytes != size[which]) return CUBLAS_STATUS_NOT_SUPPORTED;
    memcpy(to[which], value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulPreferenceInit(cublasLtMatmulPreferenceOpaque_t *p)
{
    *p = {};
    return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreferenceOpaque_t *p,
                                                           cublasLtMatmulPreferenceAttributes_t which,
                                                           const void *value, size_t bytes)
{
    if (bytes != (which == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES ? 8 : 4)) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (which >= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES)
        memcpy(&p->aligned[which - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

typedef cublasLtMatrixLayoutOpaque_t Layout;

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, const cublasLtMatmulDescOpaque_t *what, const Layout *a,
                                              const Layout *b, const Layout *c, const Layout *d,
                                              const cublasLtMatmulPreferenceOpaque_t *wish, int most,
                                              cublasLtMatmulHeuristicResult_t *to, int *count);
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, const cublasLtMatmulDescOpaque_t *what, const Layout *a,
                                       const Layout *b, const Layout *c, const Layout *d,
                                       const cublasLtMatmulAlgo_t *how, cublasLtMatmulHeuristicResult_t *to);
cublasStatus_t cublasLtMatmul(cublasLtHandle_t, const cublasLtMatmulDescOpaque_t *what, const void *alpha,
                              const void *a, const Layout *la, const void *b, const Layout *lb, const void *beta,
                              const void *c, const Layout *lc, void *d, const Layout *ld,
                              const cublasLtMatmulAlgo_t *how, void *workspace, size_t, cudaStream_t);

#endif
