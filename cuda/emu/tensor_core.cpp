/* tensor_core.cpp -- see emu.h: a warp's products and its loads of matrices, laid out as ../tensor_core.cuh says. */
#include "emu.h"

namespace emu {

void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const char *file, int line)
{
    struct Registers { uint32_t a[4], b[2]; } mine;
    memcpy(mine.a, a, sizeof mine.a);
    memcpy(mine.b, b, sizeof mine.b);
    const char *all = exchange(&mine, sizeof mine, file, line);
    const auto of_lane = [all](int lane) { return (const Registers *)(all + (size_t)lane * LARGEST_EXCHANGE); };
    const auto half = [](uint32_t r, int i) { bf16 x; x.bits = (uint16_t)(r >> 16 * i); return float(x); };
    for (int i = 0; i < 4; i++) {
        const int upper = i / 2, column = here->lane % 4 * 2 + i % 2;
        float sum = 0;
        for (int k = 0; k < 16; k++) {
            const uint32_t x = of_lane(here->lane / 4 * 4 + k % 8 / 2)->a[k / 8 * 2 + upper];
            const uint32_t y = of_lane(column * 4 + k % 8 / 2)->b[k / 8];
            sum += half(x, k % 2) * half(y, k % 2);
        }
        d[i] += sum;
    }
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
