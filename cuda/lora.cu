/* lora.cu -- low-rank adapters. Their products are those behind gemm.cuh; what is narrow between two of them lies in the
 * workspace: as it is summed up, in f32, and scaled, as the next product reads it. In f32 both are one. */
#include "gemm.cuh"

constexpr int THREADS = 256;

struct Narrow { Tensor sum, low; };

static Narrow narrow_of(Device *d, Tensor x, int64_t R)
{
    const int64_t N = rows(x);
    Narrow z = { { d->workspace, "low", DT_F32, 2, { N, R } }, {} };
    z.low = z.sum;
    if (x.dtype != DT_F32) z.low.dtype = x.dtype, z.low.data = (float *)d->workspace + ceil_div(N * R, 4) * 4;
    return z;
}

static size_t narrow_bytes(Tensor x, int64_t R)
{
    const int64_t count = rows(x) * R;
    return x.dtype == DT_F32 ? (size_t)count * 4 : (size_t)(ceil_div(count, 4) * 16 + count * 2);
}

/* A thread owns an element. */
template <typename T> __global__ void scale_kernel(T *low, const float *sum, int64_t n, float scale)
{
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) low[i] = T(sum[i] * scale);
}

/* low (N,R) = scale x (N,K) w, of w as (R,K), or turned as (K,R) */
static void narrow(Device *d, const Narrow &z, Tensor x, Tensor w, bool turned, float scale)
{
    const int64_t n = numel(z.sum);
    multiply(d, product(z.sum, x, w, rows(x), last(z.sum), last(x), false, !turned));
    FLOAT_SWITCH(z.low.dtype, T, launch(d, scale_kernel<T>, blocks_for(n, THREADS), THREADS, 0, data_of<T>(z.low),
                                        data_of<float>(z.sum), n, scale));
}

/* out (M,N) (+)= a (M,K) b (K,N); where turned they lie as (K,M) and (N,K) */
static void add_product(Device *d, Tensor out, Tensor a, bool a_turned, Tensor b, bool b_turned, bool accumulate)
{
    const int64_t K = a_turned ? rows(a) : last(a);
    Product p = product(out, a, b, rows(out), last(out), K, a_turned, b_turned);
    p.accumulate = accumulate;
    multiply(d, p);
}

void cuda_lora_forward(Device *d, Tensor out, Tensor x, Tensor a, Tensor b, float scale)
{
    const Narrow z = narrow_of(d, x, a.dim[0]);
    narrow(d, z, x, a, false, scale);
    add_product(d, out, z.low, false, b, true, true);
}

size_t cuda_lora_forward_scratch(Device *d, Tensor out, Tensor x, Tensor a, Tensor b, float scale)
{
    return narrow_bytes(x, a.dim[0]);
}

/* low and then dlow, in one place */
void cuda_lora_backward(Device *d, Tensor dx, Tensor da, Tensor db, Tensor dout, Tensor x, Tensor a, Tensor b,
                        float scale, bool accumulate)
{
    const Narrow z = narrow_of(d, x, a.dim[0]);
    if (!is_none(db)) {
        narrow(d, z, x, a, false, scale);
        add_product(d, db, dout, true, z.low, false, accumulate);
    }
    if (is_none(dx) && is_none(da)) return;
    narrow(d, z, dout, b, true, scale);
    if (!is_none(da)) add_product(d, da, z.low, true, x, false, accumulate);
    if (!is_none(dx)) add_product(d, dx, z.low, false, a, false, true);
}

size_t cuda_lora_backward_scratch(Device *d, Tensor dx, Tensor da, Tensor db, Tensor dout, Tensor x, Tensor a,
                                  Tensor b, float scale, bool accumulate)
{
    return narrow_bytes(x, a.dim[0]);
}
