/* linear.cu -- products with weights. The product itself, with bias and GELU at its end, stands behind gemm.cuh. */
#include "gemm.cuh"
#include "sums.cuh"

void cuda_linear_forward(Device *d, Tensor out, Tensor pre, Tensor x, Tensor w, Tensor b, Activation act)
{
    Product p = product(out, x, w, rows(x), w.dim[0], last(x), false, true);
    p.bias = b, p.pre = pre, p.gelu = act == ACT_GELU;
    multiply(d, p);
}

size_t cuda_linear_forward_scratch(Device *d, Tensor out, Tensor pre, Tensor x, Tensor w, Tensor b, Activation act)
{
    return 0;
}

void cuda_linear_backward(Device *d, Tensor dx, Tensor dw, Tensor db, Tensor dout, Tensor x, Tensor w, Tensor pre,
                          bool accumulate)
{
    const int64_t N = rows(dout), O = w.dim[0], I = w.dim[1];
    if (!is_none(dx)) {
        Product p = product(dx, dout, w, N, I, O, false, false);
        p.slope = pre;
        multiply(d, p);
    }
    if (!is_none(dw)) {
        Product p = product(dw, dout, x, O, I, N, true, false);
        p.accumulate = accumulate;
        multiply(d, p);
    }
    if (!is_none(db)) add_rows(d, db, dout, (float *)d->workspace, accumulate);
}

size_t cuda_linear_backward_scratch(Device *d, Tensor dx, Tensor dw, Tensor db, Tensor dout, Tensor x, Tensor w,
                                    Tensor pre, bool accumulate)
{
    return is_none(db) ? 0 : (size_t)(row_chunks(rows(dout)) * last(dout)) * sizeof(float);
}
