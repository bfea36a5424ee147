/* tensor_core.cuh -- the instructions of a warp's tensor cores, and copies that a kernel need not wait for (sm_80 and
 * later; NVIDIA, "Parallel thread execution ISA", mma, ldmatrix, cp.async). Each has an emulated body beside it.
 *
 * A lane of the warp holds, with g = lane / 4 and t = lane % 4, pairs of neighbours:
 *   a, 16 x 16:  (g, 2t)  (g+8, 2t)  (g, 2t+8)  (g+8, 2t+8)        four registers of two bf16
 *   b, 16 x 8:   (2t, g)  (2t+8, g)                                two registers of two bf16, down a column
 *   d, 16 x 8:   (g, 2t)  (g, 2t+1)  (g+8, 2t)  (g+8, 2t+1)        four f32
 * so the sums of two products side by side, rounded, are the a of the next one. Of int8 a register holds four:
 *   a, 16 x 32:  (g, 4t)  (g+8, 4t)  (g, 4t+16)  (g+8, 4t+16)
 *   b, 32 x 8:   (4t, g)  (4t+16, g)                               d as above, four i32 */
#ifndef LLMC_CUDA_TENSOR_CORE_CUH
#define LLMC_CUDA_TENSOR_CORE_CUH

#include "common.cuh"

/* d += a b */
__device__ __forceinline__ void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
#ifdef LLMC_CUDA_EMU
    emu::multiply_add(d, a, b);
#else
    /* not volatile: it depends on its registers alone, and the compiler may order it among others */
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/* The same of int8, exactly */
__device__ __forceinline__ void multiply_add(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
#ifdef LLMC_CUDA_EMU
    emu::multiply_add(d, a, b);
#else
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/* Four matrices of 8 rows of 8 bf16 in shared memory: lane i points to row i % 8 of matrix i / 8. Register m becomes of
 * matrix m the pair (g, 2t), (g, 2t+1); turned: the pair (2t, g), (2t+1, g). */
template <bool turned> __device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const bf16 *row)
{
#ifdef LLMC_CUDA_EMU
    emu::load_matrices(r, row, turned);
#else
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    if (turned)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
#endif
}

/* Two floats, rounded; the first in the lower half */
__device__ __forceinline__ uint32_t pair_of(float low, float high)
{
    Vec<bf16, 2> v;
    v.at[0] = bf16(low), v.at[1] = bf16(high);
    uint32_t r;
    memcpy(&r, &v, sizeof r);
    return r;
}

/* 16 bytes of global memory to shared memory, or 16 zero bytes if not `there`: asked for now, arrived for this thread
 * after wait_copies, for the others after a barrier more. A group is what a thread asked for since it closed one. */
__device__ __forceinline__ void copy_async(void *shared, const void *global, bool there)
{
#ifdef LLMC_CUDA_EMU
    emu::copy_async(shared, global, there);
#else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 : : "r"((uint32_t)__cvta_generic_to_shared(shared)), "l"(global), "r"(there ? 16 : 0) : "memory");
#endif
}

__device__ __forceinline__ void close_group()
{
#ifdef LLMC_CUDA_EMU
    emu::close_group();
#else
    asm volatile("cp.async.commit_group;" : : : "memory");
#endif
}

/* All but the last `pending` groups have arrived. */
template <int pending> __device__ __forceinline__ void wait_copies()
{
#ifdef LLMC_CUDA_EMU
    emu::wait_copies(pending);
#else
    asm volatile("cp.async.wait_group %0;" : : "n"(pending) : "memory");
#endif
}

#endif
