/* plain_muon.c -- the reference of orthogonalize: loops over doubles, rounded once. See plain.h and ops.h. */
#include "plain.h"

#include <math.h>
#include <string.h>

static double rounded(double value, bool bf16) { return bf16 ? round_to(DT_BF16, value) : value; }

/* out = a b, or a b^T when turned                            a (M,K); b (K,N), or (N,K) when turned; out (M,N) */
static void product(double *out, const double *a, const double *b, bool turned, int64_t M, int64_t N, int64_t K,
                    bool bf16)
{
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = 0; n < N; n++) {
            double sum = 0;
            for (int64_t k = 0; k < K; k++) sum += a[m * K + k] * (turned ? b[n * K + k] : b[k * N + n]);
            out[m * N + n] = rounded(sum, bf16);
        }
}

static void orthogonalize_one(double *workspace, Tensor x, bool bf16)
{
    const int64_t R = x.dim[0], C = x.dim[1], side = R < C ? R : C, length = R < C ? C : R;
    double *at = workspace, *next = at + R * C, *gram = next + R * C, *square = gram + side * side, squares = 0;
    for (int64_t i = 0; i < R * C; i++) squares += (double)get(x, i) * get(x, i);
    const double scale = squares > 0 ? 1 / sqrt(squares) : 0;
    for (int64_t i = 0; i < side; i++)                          /* a tall x is worked on turned */
        for (int64_t j = 0; j < length; j++)
            at[i * length + j] = rounded(scale * get(x, R > C ? j * side + i : i * length + j), bf16);
    for (int step = 0; step < 5; step++) {
        product(gram, at, at, true, side, side, length, bf16);
        product(square, gram, gram, false, side, side, side, bf16);
        for (int64_t i = 0; i < side * side; i++)
            square[i] = rounded((i % (side + 1) ? 0 : 3.4445) - 4.7750 * gram[i] + 2.0315 * square[i], bf16);
        product(next, square, at, false, side, length, side, bf16 && step < 4);
        memcpy(at, next, (size_t)(R * C) * sizeof *at);
    }
    for (int64_t i = 0; i < side; i++)
        for (int64_t j = 0; j < length; j++) put(x, R > C ? j * side + i : i * length + j, at[i * length + j]);
}

void plain_orthogonalize(Device *d, Tensors x, bool bf16)
{
    for (int i = 0; i < x.count; i++) orthogonalize_one(d->workspace, x.at[i], bf16);
}

size_t plain_orthogonalize_scratch(Device *d, Tensors x, bool bf16)
{
    int64_t most = 0;
    for (int i = 0; i < x.count; i++) {
        const int64_t R = x.at[i].dim[0], C = x.at[i].dim[1], side = R < C ? R : C, doubles = 2 * (R * C + side * side);
        most = doubles > most ? doubles : most;
    }
    return (size_t)most * sizeof(double);
}
