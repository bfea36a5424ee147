/* muon.cu -- orthogonalize: Newton-Schulz, five times, matrix after matrix. The formula is in ops.h. A tall x is worked
 * on turned, so the Gram matrix is of the shorter side. */
#include "gemm.cuh"

constexpr int THREADS = 256;
constexpr int STEPS = 5;

/* at (side,length) = x / |x|, turned if x is tall. squares: |x|^2 */
template <typename T>
__global__ void unit_kernel(T *at, const float *x, const float *squares, int64_t side, int64_t length, bool tall)
{
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= side * length) return;
    const float scale = *squares > 0 ? 1 / sqrtf(*squares) : 0;
    at[i] = T(scale * x[tall ? i % length * side + i / length : i]);
}

/* square = 3.4445 I - 4.775 gram + 2.0315 square */
template <typename T> __global__ void polynomial_kernel(T *square, const T *gram, int64_t side)
{
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= side * side) return;
    const float one = i % (side + 1) ? 0 : 3.4445f;
    square[i] = T(one - 4.7750f * float(gram[i]) + 2.0315f * float(square[i]));
}

/* The workspace: what sum_squares needs, |x|^2, x and the next x, and two matrices of the shorter side. */
struct Room { Tensor squares, at, next, gram, square; size_t bytes; };

static Tensor take(char *&block, DType dtype, int64_t rows, int64_t cols)
{
    const Tensor t = { block, "workspace", dtype, 2, { rows, cols } };
    block += (tensor_bytes(t) + 255) / 256 * 256;
    return t;
}

static Room room_for(Device *d, void *workspace, Tensor x, bool bf16)
{
    const int64_t R = x.dim[0], C = x.dim[1], side = at_most(R, C), length = R * C / side;
    const DType dtype = bf16 ? DT_BF16 : DT_F32;
    char *block = (char *)workspace;
    Room r;
    block += (cuda_sum_squares_scratch(d, x, x) + 255) / 256 * 256;
    r.squares = take(block, DT_F32, 1, 1);
    r.at = take(block, dtype, side, length);
    r.next = take(block, dtype, side, length);
    r.gram = take(block, dtype, side, side);
    r.square = take(block, dtype, side, side);
    r.bytes = (size_t)(block - (char *)workspace);
    return r;
}

template <typename T> static void orthogonalize_one(Device *d, Tensor x, Room r)
{
    const int64_t side = r.at.dim[0], length = r.at.dim[1];
    const bool tall = x.dim[0] > x.dim[1];
    const Tensor line = { x.data, x.name, DT_F32, 1, { numel(x) } };
    cuda_sum_squares(d, r.squares, line);
    launch(d, unit_kernel<T>, blocks_for(side * length, THREADS), THREADS, 0, data_of<T>(r.at), data_of<float>(x),
           data_of<float>(r.squares), side, length, tall);
    for (int step = 1; step <= STEPS; step++) {
        multiply(d, product(r.gram, r.at, r.at, side, side, length, false, true));
        multiply(d, product(r.square, r.gram, r.gram, side, side, side, false, false));
        launch(d, polynomial_kernel<T>, blocks_for(side * side, THREADS), THREADS, 0, data_of<T>(r.square),
               data_of<T>(r.gram), side);
        if (step < STEPS) {
            multiply(d, product(r.next, r.square, r.at, side, length, side, false, false));
            const Tensor free = r.at;
            r.at = r.next, r.next = free;
        } else if (tall)                        /* the square is its own transpose */
            multiply(d, product(x, r.at, r.square, length, side, side, true, false));
        else
            multiply(d, product(x, r.square, r.at, side, length, side, false, false));
    }
}

void cuda_orthogonalize(Device *d, Tensors x, bool bf16_products)
{
    for (int i = 0; i < x.count; i++) {
        const Room r = room_for(d, d->workspace, x.at[i], bf16_products);
        if (bf16_products) orthogonalize_one<bf16>(d, x.at[i], r);
        else               orthogonalize_one<float>(d, x.at[i], r);
    }
}

size_t cuda_orthogonalize_scratch(Device *d, Tensors x, bool bf16_products)
{
    size_t most = 0;
    for (int i = 0; i < x.count; i++) {
        const size_t bytes = room_for(d, nullptr, x.at[i], bf16_products).bytes;
        most = bytes > most ? bytes : most;
    }
    return most;
}
