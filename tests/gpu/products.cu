/* products.cu -- gemm_cublaslt.cu over a stand-in for cuBLASLt, for test_products.py:  products WORDS...  multiplies in
 * all ways, holds each against our own kernel, and prints what was asked. Words: no_kernel no_epilogue, rows=M of the
 * first products; last of all no_memory. */
#include <cublasLt.h>

#include <cinttypes>
#include <cstdio>
#include <string>
#include <vector>

#include "gemm.cuh"
#include "gemm_choices.cuh"

StandIn stand_in;

/* ---- the stand-in: plain loops ----------------------------------------------------------------------------------- */

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, const cublasLtMatmulDescOpaque_t *what,
                                              const Layout *, const Layout *, const Layout *, const Layout *,
                                              const cublasLtMatmulPreferenceOpaque_t *wish, int most,
                                              cublasLtMatmulHeuristicResult_t *to, int *count)
{
    stand_in.asked++;
    for (uint32_t bytes : wish->aligned) CHECK(bytes && bytes <= 16 && !(bytes & (bytes - 1)), "alignment %u", bytes);
    if (stand_in.no_kernel || (stand_in.no_epilogue && what->epilogue != CUBLASLT_EPILOGUE_DEFAULT))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    CHECK(most >= 3, "%d guesses, wanted 3", most);
    for (int i = 0; i < 3; i++)
        to[i] = { { { (uint64_t)i + 1 } }, 0, i ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED };
    *count = 3;
    return CUBLAS_STATUS_SUCCESS;
}

/* out has as many columns there as the product has rows */
static bool runs(const cublasLtMatmulAlgo_t *how, const Layout *out)
{
    return how->data[0] == 3 || (how->data[0] == 2 && out->cols != 6);
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, const cublasLtMatmulDescOpaque_t *,
                                       const Layout *, const Layout *, const Layout *, const Layout *out,
                                       const cublasLtMatmulAlgo_t *how, cublasLtMatmulHeuristicResult_t *to)
{
    return runs(how, out) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

static float read(const void *p, cudaDataType type, uint64_t i)
{
    return type == CUDA_R_16BF ? (float)((const bf16 *)p)[i] : ((const float *)p)[i];
}

static void write(void *p, cudaDataType type, uint64_t i, float value)
{
    if (type == CUDA_R_16BF) ((bf16 *)p)[i] = bf16(value);
    else ((float *)p)[i] = value;
}

/* Row i, column j of a matrix that lies in columns, turned or not */
static float element(const void *p, const Layout *l, bool turned, uint64_t i, uint64_t j)
{
    if (turned) std::swap(i, j);
    CHECK(i < l->rows && j < l->cols && l->ld == (int64_t)l->rows, "an element beyond a matrix");
    return read(p, l->type, i + j * (uint64_t)l->ld);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, const cublasLtMatmulDescOpaque_t *what, const void *alpha,
                              const void *a, const Layout *la, const void *b, const Layout *lb, const void *beta, const void *c,
                              const Layout *lc, void *d, const Layout *ld,
                              const cublasLtMatmulAlgo_t *how, void *, size_t, cudaStream_t)
{
    if (!runs(how, ld)) return CUBLAS_STATUS_NOT_SUPPORTED;
    const uint64_t terms = what->trans[0] ? la->rows : la->cols;
    const bool gelu_first = what->epilogue & CUBLASLT_EPILOGUE_GELU, slope = what->epilogue == CUBLASLT_EPILOGUE_DGELU;
    CHECK(what->epilogue == CUBLASLT_EPILOGUE_DEFAULT || la->type == ld->type, "an epilogue between two types");
    CHECK(!what->aux || (what->aux_ld % 8 == 0 && (uintptr_t)what->aux % 16 == 0), "aux is not aligned");
    stand_in.last = (int)how->data[0];
    for (uint64_t j = 0; j < ld->cols; j++)
        for (uint64_t i = 0; i < ld->rows; i++) {
            float sum = 0;
            for (uint64_t k = 0; k < terms; k++)
                sum += element(a, la, what->trans[0], i, k) * element(b, lb, what->trans[1], k, j);
            sum *= *(const float *)alpha;
            if (*(const float *)beta != 0) sum += *(const float *)beta * element(c, lc, false, i, j);
            if (what->epilogue & CUBLASLT_EPILOGUE_BIAS) sum += read(what->bias, ld->type, i);
            const uint64_t at = i + j * (uint64_t)what->aux_ld;
            if (slope) sum *= gelu_slope(read(what->aux, ld->type, at));
            else if (what->aux) write(what->aux, ld->type, at, sum);
            if (gelu_first) sum = gelu(sum);
            write(d, ld->type, i + j * (uint64_t)ld->ld, sum);
        }
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- the products ------------------------------------------------------------------------------------------------ */

/* A matrix of numbers that depend on `seed`, in memory of its own. */
struct Matrix {
    std::vector<float> room;
    Tensor t;
    Matrix(DType dtype, int64_t rows, int64_t length, unsigned seed, int64_t odd) : room((size_t)(rows * length + 16))
    {
        char *start = (char *)room.data();
        start += (16 - (uintptr_t)start % 16) % 16 + (size_t)odd * dtype_size(dtype);
        t = { start, "a matrix", dtype, 2, { rows, length } };
        for (int64_t i = 0; i < rows * length; i++) {
            seed = seed * 1664525u + 1013904223u;
            write(t.data, type(), (uint64_t)i, (float)(seed >> 8) / (1 << 23) - 1);
        }
    }
    cudaDataType type() const { return t.dtype == DT_BF16 ? CUDA_R_16BF : CUDA_R_32F; }
};

static float difference(const Matrix &x, const Matrix &y)
{
    float most = 0;
    for (int64_t i = 0; i < numel(x.t); i++)
        most = fmaxf(most, fabsf(read(x.t.data, x.type(), (uint64_t)i) - read(y.t.data, y.type(), (uint64_t)i)));
    return most;
}

enum { BIAS = 1, GELU = 2, PRE = 4, SLOPE = 8, ADD = 16 };

/* How far multiply is from multiply_tiles, in out and pre. odd: elements by which addresses are off 16 bytes */
static void compare(Device *d, DType in, DType to, const int64_t (&size)[3], int turned, int finish, int64_t odd,
                    float *worst)
{
    const int64_t M = size[0], N = size[1], K = size[2];
    Matrix a(in, M, K, 1, odd), b(in, K, N, 2, odd), bias(in, 1, N, 3, odd), slope(in, M, N, 4, odd);
    Matrix out[2] = { { to, M, N, 5, odd }, { to, M, N, 5, odd } };
    Matrix pre[2] = { { in, M, N, 6, odd }, { in, M, N, 6, odd } };
    for (int i = 0; i < 2; i++) {
        Product p = product(out[i].t, a.t, b.t, M, N, K, turned & 1, turned & 2);
        if (finish & BIAS) p.bias = bias.t;
        if (finish & PRE) p.pre = pre[i].t;
        if (finish & SLOPE) p.slope = slope.t;
        p.gelu = finish & GELU, p.accumulate = finish & ADD;
        i ? multiply_tiles(d, p) : multiply(d, p);
    }
    *worst = fmaxf(*worst, difference(out[0], out[1]) / sqrtf((float)K));
    *worst = fmaxf(*worst, difference(pre[0], pre[1]) / sqrtf((float)K));
}

static_assert(rounded_rows(1) == 1 && rounded_rows(3) == 4 && rounded_rows(33) == 64, "powers of two");
static_assert(rounded_rows(65) == 128 && rounded_rows(129) == 192 && rounded_rows(512) == 512, "whole tiles");
static_assert(rounded_rows(513) == 640 && rounded_rows(4097) == 5120 && rounded_rows(8192) == 8192, "eighths");

int main(int argc, char **argv)
{
    int64_t sizes[][3] = { { 5, 8, 7 }, { 3, 7, 5 }, { 16, 24, 33 }, { 1, 1, 1 } };
    set_fail_handler(fail_and_exit);
    for (int i = 1; i < argc; i++) {
        sscanf(argv[i], "rows=%" SCNd64, &sizes[0][0]);
        if (argv[i] == std::string("no_kernel")) stand_in.no_kernel = true;
        if (argv[i] == std::string("no_epilogue")) stand_in.no_epilogue = true;
    }
    CudaState state = {};
    Device device = {};
    device.self = &state, device.threads = 1;
    open_products(&state);
    stand_in.no_memory = argc > 1 && argv[argc - 1] == std::string("no_memory");
    const int finishes[] = { 0, ADD, BIAS, GELU, GELU | PRE, GELU | BIAS, GELU | BIAS | PRE, SLOPE, ADD | BIAS };
    float exact = 0, half = 0;
    for (int round = 0; round < 2; round++)             /* the second time nothing is asked */
        for (const auto &size : sizes)
            for (int turned = 0; turned < 4; turned++)
                for (int finish : finishes)
                    for (int64_t odd = 0; odd < 2; odd++) {
                        compare(&device, DT_F32, DT_F32, size, turned, finish, odd, &exact);
                        compare(&device, DT_BF16, DT_F32, size, turned, finish, odd, finish & PRE ? &half : &exact);
                        compare(&device, DT_BF16, DT_BF16, size, turned, finish, odd, &half);
                    }
    printf("%g %g %d %d %d\n", (double)exact, (double)half, stand_in.asked, stand_in.timed, stand_in.last);
    close_products(&state);
}
