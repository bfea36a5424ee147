/* attention.cuh -- what the kernels of attention share. */
#ifndef LLMC_CUDA_ATTENTION_CUH
#define LLMC_CUDA_ATTENTION_CUH

#include "common.cuh"

struct Shape { int T, H, G, D; float scale; };

__host__ __device__ inline int64_t packed_width(Shape z) { return (int64_t)(z.H + 2 * z.G) * z.D; }

/* attention_flash.cu: has it a kernel for this head_dim, and these tensors? Their shapes are those of the ops; means
 * (B,H,T): dout . out of each query. */
bool is_flash(Shape z, std::initializer_list<Tensor> tensors);
void flash_forward(Device *d, Tensor out, Tensor lse, Tensor qkv, Tensor first, Shape z);
void flash_backward(Device *d, Tensor dqkv, const float *means, Tensor dout, Tensor lse, Tensor qkv, Tensor first,
                    Shape z);

#endif
