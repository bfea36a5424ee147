/* The engine's own, cuda/attention_flash.cu: the next panel is on its way while one is used, panels lie in memory
 * without gaps, only panels at the edge are masked, and it keeps what the way back needs. */
#include "attention.cuh"
#include "step.cuh"

void step_5_engine(Device *d, bf16 *out, const bf16 *qkv, Work w)
{
    const Shape z = { w.T, w.H, w.H, HEAD, SCALE };
    const Tensor packed = { (void *)qkv, "qkv", DT_BF16, 3, { w.B, w.T, 3 * w.H * HEAD } };
    const Tensor to = { out, "out", DT_BF16, 3, { w.B, w.T, w.H * HEAD } };
    const Tensor lse = { w.lse, "lse", DT_F32, 3, { w.B, w.H, w.T } };
    const Tensor first = { (void *)w.first, "first", DT_I32, 2, { w.B, w.T } };
    flash_forward(d, to, lse, packed, first, z);
}
