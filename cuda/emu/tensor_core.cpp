/* tensor_core.cpp -- see emu.h: a warp's products and its loads of matrices, laid out as ../tensor_core.cuh says. */
#include "emu.h"

namespace emu {

static float number(uint32_t r, int i, float)
{
    bf16 x;
    x.bits = (uint16_t)(r >> 16 * i);
    return x;
}

static int32_t number(uint32_t r, int i, int32_t) { return (int8_t)(r >> 8 * i); }

/* EACH: numbers of a register */
template <int EACH, typename Sum>
static void multiply(Sum (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const char *file, int line)
{
    constexpr int HALF = 4 * EACH;          /* terms of four lanes' registers */
    struct Registers { uint32_t a[4], b[2]; } mine;
    memcpy(mine.a, a, sizeof mine.a);
    memcpy(mine.b, b, sizeof mine.b);
    const char *all = exchange(&mine, sizeof mine, file, line);
    const auto of_lane = [all](int lane) { return (const Registers *)(all + (size_t)lane * LARGEST_EXCHANGE); };
    for (int i = 0; i < 4; i++) {
        const int upper = i / 2, column = here->lane % 4 * 2 + i % 2;
        Sum sum = 0;
        for (int k = 0; k < 2 * HALF; k++) {
            const uint32_t x = of_lane(here->lane / 4 * 4 + k % HALF / EACH)->a[k / HALF * 2 + upper];
            const uint32_t y = of_lane(column * 4 + k % HALF / EACH)->b[k / HALF];
            sum += number(x, k % EACH, sum) * number(y, k % EACH, sum);
        }
        d[i] += sum;
    }
}

void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const char *file, int line)
{
    multiply<2>(d, a, b, file, line);
}

void multiply_add(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const char *file, int line)
{
    multiply<4>(d, a, b, file, line);
}

/* Each lane gives the row it points to, as it is when it comes. */
void load_matrices(uint32_t (&r)[4], const bf16 *row, bool turned, const char *file, int line)
{
    const char *all = exchange(aligned((const uint4 *)row), sizeof(uint4), file, line);
    const int g = here->lane / 4, t = here->lane % 4;
    for (int m = 0; m < 4; m++) {
        uint16_t pair[2];
        for (int i = 0; i < 2; i++) {
            const int y = turned ? 2 * t + i : g, x = turned ? g : 2 * t + i;
            memcpy(&pair[i], all + (size_t)(m * 8 + y) * LARGEST_EXCHANGE + (size_t)x * sizeof pair[i], sizeof pair[i]);
        }
        r[m] = (uint32_t)pair[1] << 16 | pair[0];
    }
}

}
