/* gemm_cublaslt.cu -- products by cuBLASLt, a library of many kernels. Of those it proposes for a product that is new,
 * each is timed once and the fastest kept: in the run, so that equal calls give equal bits, and in a file for products
 * about as large (gemm_choices.cuh).
 *
 * cuBLASLt counts along columns: a row-major (M,N) is its (N,M). So it is asked for  out^T = b^T a^T.
 *
 * What it cannot do in one go is a product followed by finish_kernel; what it cannot do at all is done by gemm.cu.
 * Builds leave this file out where there is no cuBLASLt. */
#include "gemm.cuh"

#include <cublasLt.h>

#include "gemm_choices.cuh"

constexpr size_t WORKSPACE = 32 << 20;
constexpr int MOST_GUESSES = 8, REPEATS = 5;
constexpr uintptr_t ALIGNED = 16;           /* bytes; kernels want no more of an address */

struct CublasLt {
    cublasLtHandle_t handle;
    void            *workspace;
    Choices          choices;
};

static void check(cublasStatus_t status, const char *what)
{
    CHECK(status == CUBLAS_STATUS_SUCCESS, "cuBLASLt: %s failed: %s", what, cublasLtGetStatusString(status));
}

void open_products(CudaState *s)
{
    cudaDeviceProp gpu;
    cuda_check(cudaGetDeviceProperties(&gpu, s->index), "a look at the GPU");
    s->products = new CublasLt{};
    check(cublasLtCreate(&s->products->handle), "its start");
    cuda_check(cudaMalloc(&s->products->workspace, WORKSPACE), "room for products");
    s->products->choices = choices_read(gpu.name, cublasLtGetVersion());
}

void close_products(CudaState *s)
{
    if (!s->products) return;
    cudaFree(s->products->workspace);
    cublasLtDestroy(s->products->handle);
    delete s->products;
}

/* ---- what a product is called there ------------------------------------------------------------------------------ */

static bool has_finish(const Product &p)
{
    return p.gelu || !is_none(p.bias) || !is_none(p.pre) || !is_none(p.slope);
}

static cublasLtEpilogue_t epilogue_of(const Product &p)
{
    const bool bias = !is_none(p.bias);
    if (!is_none(p.slope)) return CUBLASLT_EPILOGUE_DGELU;
    if (p.gelu && !is_none(p.pre)) return bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
    if (p.gelu) return bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
    return bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

static Tensor aux_of(const Product &p) { return is_none(p.slope) ? p.pre : p.slope; }

/* An epilogue says what follows the sum. It takes gelu of the sum before that is rounded, which an out of bf16 hides;
 * an out of f32 beside inputs of bf16 would show it. */
static bool fits_epilogue(const Product &p)
{
    const Tensor aux = aux_of(p);
    const bool only_slope = is_none(p.bias) && is_none(p.pre) && !p.gelu;
    return !p.accumulate && p.out.dtype == p.a.dtype && (is_none(p.slope) || only_slope) &&
           (is_none(p.pre) || p.gelu) && (is_none(aux) || (p.N % 8 == 0 && (uintptr_t)aux.data % ALIGNED == 0));
}

static cudaDataType type_of(Tensor t) { return t.dtype == DT_BF16 ? CUDA_R_16BF : CUDA_R_32F; }

/* A product in cuBLASLt's words. */
struct Call {
    const Product                   &p;
    cublasLtEpilogue_t               epilogue;
    cublasLtMatmulDescOpaque_t       what;
    cublasLtMatrixLayoutOpaque_t     a, b, out;
    Call(const Product &p, cublasLtEpilogue_t epilogue);
    Call(const Call &) = delete;
};

template <typename T> static void set(Call *c, cublasLtMatmulDescAttributes_t attribute, T value)
{
    check(cublasLtMatmulDescSetAttribute(&c->what, attribute, &value, sizeof value), "describing a product");
}

/* to lies in memory as rows of `length` elements */
static void lay_out(cublasLtMatrixLayoutOpaque_t *to, Tensor t, int64_t rows, int64_t length)
{
    check(cublasLtMatrixLayoutInit(to, type_of(t), (uint64_t)length, (uint64_t)rows, length), "describing a matrix");
}

Call::Call(const Product &p, cublasLtEpilogue_t epilogue) : p(p), epilogue(epilogue)
{
    check(cublasLtMatmulDescInit(&what, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describing a product");
    p.a_turned ? lay_out(&a, p.a, p.K, p.M) : lay_out(&a, p.a, p.M, p.K);
    p.b_turned ? lay_out(&b, p.b, p.N, p.K) : lay_out(&b, p.b, p.K, p.N);
    lay_out(&out, p.out, p.M, p.N);
    set<int32_t>(this, CUBLASLT_MATMUL_DESC_TRANSA, p.b_turned ? CUBLAS_OP_T : CUBLAS_OP_N);
    set<int32_t>(this, CUBLASLT_MATMUL_DESC_TRANSB, p.a_turned ? CUBLAS_OP_T : CUBLAS_OP_N);
    set<uint32_t>(this, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
    if (epilogue == CUBLASLT_EPILOGUE_DEFAULT) return;
    if (!is_none(p.bias)) set<const void *>(this, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias.data);
    if (is_none(aux_of(p))) return;
    set<void *>(this, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, aux_of(p).data);
    set<int64_t>(this, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.N);
}

static cublasStatus_t start(Device *d, Call *c, const cublasLtMatmulAlgo_t &how, void *to)
{
    const CublasLt *s = state_of(d)->products;
    const float one = 1, before = c->p.accumulate;
    return cublasLtMatmul(s->handle, &c->what, &one, c->p.b.data, &c->b, c->p.a.data, &c->a, &before, c->p.out.data,
                          &c->out, to, &c->out, &how, s->workspace, WORKSPACE, stream_of(d));
}

/* ---- the choice of a kernel -------------------------------------------------------------------------------------- */

/* The largest power of two that divides the address, up to ALIGNED */
static uint32_t alignment(const void *p)
{
    return (uint32_t)(((uintptr_t)p | ALIGNED) & -((uintptr_t)p | ALIGNED));
}

/* All that decides which kernels can run, and how fast they are. M: the product's own, or rounded */
static std::string key_of(const Call &c, int64_t M)
{
    const Product &p = c.p;
    char key[160];
    snprintf(key, sizeof key, "%lld %lld %lld %s%s %s%s %s%s epilogue %d aligned %u %u %u %u", (long long)M,
             (long long)p.N, (long long)p.K, dtype_name(p.a.dtype), p.a_turned ? "^T" : "", dtype_name(p.b.dtype),
             p.b_turned ? "^T" : "", p.accumulate ? "+" : "=", dtype_name(p.out.dtype), (int)c.epilogue,
             alignment(p.a.data), alignment(p.b.data), alignment(p.out.data), alignment(p.bias.data));
    return key;
}

/* cuBLASLt's guesses, the likeliest first; how many there are. Parts of a sum are never rounded to bf16. */
static int guesses_for(Device *d, Call *c, cublasLtMatmulHeuristicResult_t *guess)
{
    cublasLtMatmulPreferenceOpaque_t wish;
    check(cublasLtMatmulPreferenceInit(&wish), "a wish");
    const auto want = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
        check(cublasLtMatmulPreferenceSetAttribute(&wish, attribute, &value, sizeof value), "a wish");
    };
    want(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (uint64_t)WORKSPACE);
    want(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, (uint32_t)CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
    want(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(c->p.b.data));       /* its A is our b */
    want(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(c->p.a.data));
    want(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(c->p.out.data));
    want(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(c->p.out.data));
    int count = 0, kept = 0;
    if (cublasLtMatmulAlgoGetHeuristic(state_of(d)->products->handle, &c->what, &c->b, &c->a, &c->out, &c->out, &wish,
                                       MOST_GUESSES, guess, &count) != CUBLAS_STATUS_SUCCESS) return 0;
    for (int i = 0; i < count; i++)
        if (guess[i].state == CUBLAS_STATUS_SUCCESS) guess[kept++] = guess[i];
    return kept;
}

/* INFINITY where the kernel does not start */
static float milliseconds(Device *d, Call *c, const cublasLtMatmulAlgo_t &how, void *to)
{
    if (start(d, c, how, to) != CUBLAS_STATUS_SUCCESS) return INFINITY;
    cudaEvent_t begin, end;
    float taken = INFINITY;
    cuda_check(cudaEventCreate(&begin), "a stopwatch");
    cuda_check(cudaEventCreate(&end), "a stopwatch");
    cuda_check(cudaEventRecord(begin, stream_of(d)), "a stopwatch");
    for (int i = 0; i < REPEATS; i++) start(d, c, how, to);
    cuda_check(cudaEventRecord(end, stream_of(d)), "a stopwatch");
    cuda_check(cudaEventSynchronize(end), "a product");
    cuda_check(cudaEventElapsedTime(&taken, begin, end), "a stopwatch");
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return taken;
}

/* The fastest guess; false: cuBLASLt has none. What is added to out may be added once only, so those are timed into
 * memory of their own; without room for it, the first guess is taken. */
static bool fastest(Device *d, Call *c, cublasLtMatmulAlgo_t *best)
{
    cublasLtMatmulHeuristicResult_t guess[MOST_GUESSES];
    const int count = guesses_for(d, c, guess);
    void *apart = nullptr;
    if (count) *best = guess[0].algo;
    if (count < 2) return count;
    if (c->p.accumulate && cudaMalloc(&apart, tensor_bytes(c->p.out)) != cudaSuccess) {
        cudaGetLastError();
        return true;
    }
    float least = INFINITY;
    for (int i = 0; i < count; i++) {
        const float taken = milliseconds(d, c, guess[i].algo, apart ? apart : c->p.out.data);
        if (taken < least) least = taken, *best = guess[i].algo;
    }
    cudaFree(apart);
    return least < INFINITY;
}

/* Does a kernel that was chosen for about such a product do for this one? */
static bool fits(Device *d, Call *c, const cublasLtMatmulAlgo_t &how)
{
    cublasLtMatmulHeuristicResult_t found = {};
    return cublasLtMatmulAlgoCheck(state_of(d)->products->handle, &c->what, &c->b, &c->a, &c->out, &c->out, &how,
                                   &found) == CUBLAS_STATUS_SUCCESS && found.workspaceSize <= WORKSPACE;
}

static cublasLtMatmulAlgo_t kernel_of(const Choice &choice)
{
    cublasLtMatmulAlgo_t how;
    static_assert(sizeof how == sizeof choice.words, "what is kept is what cuBLASLt calls a kernel by");
    memcpy(&how, choice.words, sizeof how);
    return how;
}

/* For a product that is new to this run: the kernel that is kept for about such ones, or the fastest, kept then. */
static Choice choose(Device *d, Call *c, Choices *all)
{
    Choice &kept = all->made[key_of(*c, rounded_rows(c->p.M))];
    if (kept.usable && fits(d, c, kernel_of(kept))) return kept;
    cublasLtMatmulAlgo_t how = {};
    Choice found = { {}, fastest(d, c, &how) };
    memcpy(found.words, &how, sizeof how);
    if (found.usable) {
        kept = found;
        choices_write(*all);
    }
    return found;
}

/* False: cuBLASLt has no kernel for this product, and nothing was done. */
static bool multiply_lt(Device *d, const Product &p, cublasLtEpilogue_t epilogue)
{
    Call c(p, epilogue);
    Choices &all = state_of(d)->products->choices;
    const std::string key = key_of(c, p.M);
    auto found = all.of_run.find(key);
    if (found == all.of_run.end()) found = all.of_run.emplace(key, choose(d, &c, &all)).first;
    const Choice &choice = found->second;
    if (choice.usable) check(start(d, &c, kernel_of(choice), p.out.data), "a product");
    return choice.usable;
}

/* ---- what follows a product, where no epilogue says it ----------------------------------------------------------- */

/* A thread owns an element of out, where the product lies. */
template <typename T, typename O> __global__ void finish_kernel(Finish<T, O> f, int64_t M, int64_t N)
{
    const int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (at < M * N) finish(f, float(f.out[at]), at / N, at % N, N);
}

template <typename T, typename O> static void finish_product(Device *d, const Product &p)
{
    constexpr int THREADS = 256;
    launch(d, finish_kernel<T, O>, blocks_for(p.M * p.N, THREADS), THREADS, 0, finish_of<T, O>(p), p.M, p.N);
}

void multiply(Device *d, const Product &p)
{
    const bool finishes = has_finish(p);
    if ((!finishes || fits_epilogue(p)) && multiply_lt(d, p, epilogue_of(p))) return;
    if (finishes && !p.accumulate && multiply_lt(d, p, CUBLASLT_EPILOGUE_DEFAULT))
        PRODUCT_SWITCH(p, finish_product, d, p);
    else multiply_tiles(d, p);
}
