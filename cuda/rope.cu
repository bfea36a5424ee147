/* rope.cu -- q and k heads turned by their position, and normalised before.
 *
 * A block owns a row of qkv: its angles are worked out once and serve all heads, of which each warp takes every
 * WARPS-th. A lane reads both of a pair before it writes either, so results may lie where inputs did. */
#include "sums.cuh"

constexpr int WARPS = 4;

/* cos and sin of pos * freq. The product is made in double, and brought into one turn there: a float of it would be
 * off by more than it keeps from some thousand positions on. */
__device__ __forceinline__ void cos_sin(float *cosine, float *sine, int32_t pos, float freq)
{
    constexpr double TURN = 6.283185307179586477;
    const double turns = (double)pos * (double)freq / TURN;
    sincosf((float)((turns - rint(turns)) * TURN), sine, cosine);
}

/* A row of `width` heads, of which the first H + G turn. */
struct Heads { int H, G, D; };

__device__ __forceinline__ void fill_angles(float *cosine, float *sine, const int32_t *pos, const float *freq, int D)
{
    const int thread = (int)(threadIdx.y * WARP + threadIdx.x);
    for (int i = thread; i < D / 2; i += WARPS * WARP) cos_sin(cosine + i, sine + i, pos[blockIdx.x], freq[i]);
    __syncthreads();
}

/* 1 / sqrt(mean x^2 + eps) of a head */
template <typename T> __device__ float head_rstd(const T *x, int D, float eps)
{
    float squares = 0;
    for (int i = (int)threadIdx.x; i < D; i += WARP) squares += float(x[i]) * float(x[i]);
    return 1 / sqrtf(warp_sum(squares) / float(D) + eps);
}

template <typename T>
__global__ void rope_forward_kernel(T *out, const T *qkv, const int32_t *pos, const float *freq, const T *q_norm,
                                    const T *k_norm, Heads z, float eps)
{
    SHARED_DYNAMIC(float, cosine);
    float *sine = cosine + z.D / 2;
    fill_angles(cosine, sine, pos, freq, z.D);
    const int lane = (int)threadIdx.x, half = z.D / 2;
    for (int h = (int)threadIdx.y; h < z.H + 2 * z.G; h += WARPS) {
        const int64_t at = ((int64_t)blockIdx.x * (z.H + 2 * z.G) + h) * z.D;
        const T *in = qkv + at, *w = h < z.H ? q_norm : k_norm;
        T *to = out + at;
        if (h >= z.H + z.G) {
            for (int i = lane; i < z.D && to != in; i += WARP) to[i] = in[i];
            continue;
        }
        const float r = w ? head_rstd(in, z.D, eps) : 1;
        for (int i = lane; i < half; i += WARP) {
            const float lo = float(in[i]) * r * (w ? float(w[i]) : 1);
            const float hi = float(in[i + half]) * r * (w ? float(w[i + half]) : 1);
            to[i] = T(lo * cosine[i] - hi * sine[i]);
            to[i + half] = T(lo * sine[i] + hi * cosine[i]);
        }
    }
}

static Heads heads_of(Tensor qkv, int H, int G) { return { H, G, (int)(last(qkv) / (H + 2 * G)) }; }

void cuda_rope_forward(Device *d, Tensor out, Tensor qkv, Tensor pos, Tensor freq, Tensor q_norm, Tensor k_norm,
                       int H, int G, float eps)
{
    const Heads z = heads_of(qkv, H, G);
    FLOAT_SWITCH(qkv.dtype, T,
        launch(d, rope_forward_kernel<T>, (unsigned)rows(qkv), dim3(WARP, WARPS), (size_t)z.D * sizeof(float),
               data_of<T>(out), data_of<T>(qkv), data_of<int32_t>(pos), data_of<float>(freq), data_of<T>(q_norm),
               data_of<T>(k_norm), z, eps));
}

/* ---- backward --------------------------------------------------------------------------------------------------- */

/* A warp owns a head that has a norm: of each row H + G. */
template <typename T>
__global__ void head_rstd_kernel(float *rstd, const T *qkv, int64_t count, Heads z, float eps)
{
    const int64_t i = (int64_t)blockIdx.x * WARPS + threadIdx.y, n = i / (z.H + z.G), h = i % (z.H + z.G);
    if (i >= count) return;
    const float r = head_rstd(qkv + (n * (z.H + 2 * z.G) + h) * z.D, z.D, eps);
    if (threadIdx.x == 0) rstd[i] = r;
}

/* unit = x rstd;  g = dout turned back;  dx = rstd (g w - unit mean_i(g w unit)), or g without a norm */
template <typename T>
__global__ void rope_backward_kernel(T *dqkv, const T *dout, const T *qkv, const int32_t *pos, const float *freq,
                                     const T *q_norm, const T *k_norm, Heads z, float eps)
{
    SHARED_DYNAMIC(float, cosine);
    float *sine = cosine + z.D / 2;
    fill_angles(cosine, sine, pos, freq, z.D);
    const int lane = (int)threadIdx.x, half = z.D / 2;
    for (int h = (int)threadIdx.y; h < z.H + 2 * z.G; h += WARPS) {
        const int64_t at = ((int64_t)blockIdx.x * (z.H + 2 * z.G) + h) * z.D;
        const T *slope = dout + at, *w = h < z.H ? q_norm : k_norm, *x = qkv + at;
        T *to = dqkv + at;
        if (h >= z.H + z.G) {
            for (int i = lane; i < z.D && to != slope; i += WARP) to[i] = slope[i];
            continue;
        }
        const float r = w ? head_rstd(x, z.D, eps) : 1;
        float dot = 0;
        for (int i = lane; w && i < half; i += WARP) {
            const float a = float(slope[i]), b = float(slope[i + half]);
            dot += (a * cosine[i] + b * sine[i]) * float(w[i]) * float(x[i]) * r;
            dot += (b * cosine[i] - a * sine[i]) * float(w[i + half]) * float(x[i + half]) * r;
        }
        dot = w ? warp_sum(dot) / float(z.D) : 0;
        for (int i = lane; i < half; i += WARP) {
            const float a = float(slope[i]), b = float(slope[i + half]);
            const float lo = a * cosine[i] + b * sine[i], hi = b * cosine[i] - a * sine[i];
            to[i] = T(w ? r * (lo * float(w[i]) - float(x[i]) * r * dot) : lo);
            to[i + half] = T(w ? r * (hi * float(w[i + half]) - float(x[i + half]) * r * dot) : hi);
        }
    }
}

/* parts[chunk][i] = sum over a chunk's rows and the heads first .. first + heads - 1 of g[i] x[i] rstd, g as above. A
 * thread owns one i. */
template <typename T>
__global__ void head_norm_parts_kernel(float *parts, const T *dout, const T *qkv, const int32_t *pos, const float *freq,
                                       const float *rstd, Heads z, int first, int heads, int64_t N, int64_t chunk_rows)
{
    const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x), half = z.D / 2, pair = i % half;
    const int64_t end = at_most(N, ((int64_t)blockIdx.y + 1) * chunk_rows);
    if (i >= z.D) return;
    float sum = 0;
    for (int64_t n = blockIdx.y * chunk_rows; n < end; n++) {
        float cosine, sine;
        cos_sin(&cosine, &sine, pos[n], freq[pair]);
        for (int h = first; h < first + heads; h++) {
            const int64_t at = (n * (z.H + 2 * z.G) + h) * z.D;
            const float a = float(dout[at + pair]), b = float(dout[at + pair + half]);
            const float g = i < half ? a * cosine + b * sine : b * cosine - a * sine;
            sum += g * float(qkv[at + i]) * rstd[n * (z.H + z.G) + h];
        }
    }
    parts[(int64_t)blockIdx.y * z.D + i] = sum;
}

/* The workspace: rstd of each head that has a norm, and the parts of dq_norm and dk_norm. */
static size_t rstd_count(Tensor dout, int H, int G) { return (size_t)(rows(dout) * (H + G)); }

void cuda_rope_backward(Device *d, Tensor dqkv, Tensor dq_norm, Tensor dk_norm, Tensor dout, Tensor qkv, Tensor pos,
                        Tensor freq, Tensor q_norm, Tensor k_norm, int H, int G, float eps, bool accumulate)
{
    const Heads z = heads_of(dout, H, G);
    const int64_t N = rows(dout), chunks = row_chunks(N);
    float *rstd = (float *)d->workspace, *parts = rstd + rstd_count(dout, H, G);
    FLOAT_SWITCH(dout.dtype, T, {
        const auto slope = [&](Tensor dw, int first, int heads) {
            if (is_none(dw)) return;
            launch(d, head_norm_parts_kernel<T>, dim3(blocks_for(z.D, WARP), (unsigned)chunks), WARP, 0, parts,
                   data_of<T>(dout), data_of<T>(qkv), data_of<int32_t>(pos), data_of<float>(freq), rstd, z, first,
                   heads, N, rows_of_chunk(N));
            add_parts(d, dw, parts, chunks, accumulate);
        };
        const int64_t heads = N * (H + G);
        if (!is_none(dq_norm) || !is_none(dk_norm))
            launch(d, head_rstd_kernel<T>, blocks_for(heads, WARPS), dim3(WARP, WARPS), 0, rstd, data_of<T>(qkv), heads,
                   z, eps);
        slope(dq_norm, 0, H);
        slope(dk_norm, H, G);
        launch(d, rope_backward_kernel<T>, (unsigned)N, dim3(WARP, WARPS), (size_t)z.D * sizeof(float),
               data_of<T>(dqkv), data_of<T>(dout), data_of<T>(qkv), data_of<int32_t>(pos), data_of<float>(freq),
               data_of<T>(q_norm), data_of<T>(k_norm), z, eps);
    });
}

size_t cuda_rope_backward_scratch(Device *d, Tensor dqkv, Tensor dq_norm, Tensor dk_norm, Tensor dout, Tensor qkv,
                                  Tensor pos, Tensor freq, Tensor q_norm, Tensor k_norm, int H, int G, float eps,
                                  bool accumulate)
{
    if (is_none(dq_norm) && is_none(dk_norm)) return 0;
    return (rstd_count(dout, H, G) + (size_t)(row_chunks(rows(dout)) * 2 * freq.dim[0])) * sizeof(float);
}
