/* attention.cuh -- what the kernels of attention share: shapes, and where keys and values lie. */
#ifndef LLMC_CUDA_ATTENTION_CUH
#define LLMC_CUDA_ATTENTION_CUH

#include "common.cuh"

struct Shape { int T, H, G, D; float scale; };

__host__ __device__ inline int64_t packed_width(Shape z) { return (int64_t)(z.H + 2 * z.G) * z.D; }

/* Keys of one head of one row in the packed activation. A value lies `apart` elements after its key. */
template <typename T> struct Packed {
    const T *keys;
    int64_t  step;                                          /* elements, from a key to the next one */
    int      apart;
    __device__ const T *key(int s) const { return keys + s * step; }
    __device__ const T *value(int s) const { return key(s) + apart; }
};

/* The same in a cache's pages; a step leads on inside a page only. */
template <typename T> struct Paged {
    const T       *keys;                                    /* of page 0 */
    const int32_t *table;
    int            page, step, apart;
    __device__ const T *key(int s) const
    {
        return keys + ((int64_t)table[s / CACHE_PAGE] * page + s % CACHE_PAGE * step);
    }
    __device__ const T *value(int s) const { return key(s) + apart; }
};

/* The rows of a call of attention_cached, as ops.h has them; `most`: pages of a row of the table. */
struct CachedRows {
    const int32_t *table, *start, *length;
    int64_t        most;
    int            R;
    __device__ int count(int64_t r) const { return start[r + 1] - start[r]; }
    __device__ int last_seen(int64_t r, int64_t n) const { return (int)(length[r] + n - start[r]); }  /* by token n */
};

/* Row r's keys for query head h. D: z.D, maybe a constant */
template <typename T>
__device__ __forceinline__ Paged<T> keys_of(const T *cache, const CachedRows &rows, int64_t r, int h, int D, Shape z)
{
    const int all = z.G * CACHE_PAGE * D;                   /* the keys of a page */
    return { cache + (int64_t)(h / (z.H / z.G)) * CACHE_PAGE * D, rows.table + r * rows.most, 2 * all, D, all };
}

/* attention_flash.cu: has it a kernel for this head_dim, and these tensors? Their shapes are those of the ops; means
 * (B,H,T): dout . out of each query. flash_cached leaves out rows that bring one token. */
bool is_flash(Shape z, std::initializer_list<Tensor> tensors);
void flash_forward(Device *d, Tensor out, Tensor lse, Tensor qkv, Tensor first, Shape z);
void flash_cached(Device *d, Tensor out, Tensor cache, Tensor qkv, CachedRows rows, Shape z);
void flash_backward(Device *d, Tensor dqkv, const float *means, Tensor dout, Tensor lse, Tensor qkv, Tensor first,
                    Shape z);

#endif
