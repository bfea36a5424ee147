/* rng.h -- random numbers that depend on nothing but (seed, stream, counter).
 *
 * Philox4x32-10: J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11, 2011.
 * Key = (seed, stream), counter = index: the same number on any device, in any order, with any neighbours. */
#ifndef LLMC_RNG_H
#define LLMC_RNG_H

#include <math.h>
#include <stdint.h>

/* What a stream is drawn for: two uses of one seed never share numbers. The last has one for each update. */
enum { RNG_INIT = 1 << 20, RNG_SHUFFLE = 2 << 20, RNG_SAMPLE = 3 << 20, RNG_ROUND = 4 << 20 };

/* What includes this for a machine whose functions are marked defines it first. */
#ifndef RNG_FUNCTION
#define RNG_FUNCTION static inline
#endif

typedef struct { uint32_t word[4]; } Philox;

RNG_FUNCTION Philox philox(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint32_t c[4] = { (uint32_t)index, (uint32_t)(index >> 32), (uint32_t)stream, (uint32_t)(stream >> 32) };
    uint32_t k[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    for (int round = 0; round < 10; round++) {
        const uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];
        const uint32_t next[4] = { (uint32_t)(b >> 32) ^ c[1] ^ k[0], (uint32_t)b,
                                   (uint32_t)(a >> 32) ^ c[3] ^ k[1], (uint32_t)a };
        for (int i = 0; i < 4; i++) c[i] = next[i];
        k[0] += 0x9E3779B9u, k[1] += 0xBB67AE85u;
    }
    const Philox drawn = { { c[0], c[1], c[2], c[3] } };
    return drawn;
}

/* Of the eight numbers of 16 bits in a draw, the one with this index: in turns the lower and the upper half of a word.
 * Chosen by conditions, so that the words stay in registers where an array would not. */
RNG_FUNCTION uint32_t rng_half(Philox p, int index)
{
    const uint32_t even = index & 4 ? p.word[2] : p.word[0], odd = index & 4 ? p.word[3] : p.word[1];
    return (index & 2 ? odd : even) >> 16 * (index & 1) & 0xffff;
}

/* in [0, 1), 53 bits */
static inline double rng_uniform(uint64_t seed, uint64_t stream, uint64_t index)
{
    const Philox p = philox(seed, stream, index);
    return (double)(((uint64_t)p.word[1] << 32 | p.word[0]) >> 11) * 0x1p-53;
}

/* mean 0, variance 1 (Box-Muller) */
static inline float rng_normal(uint64_t seed, uint64_t stream, uint64_t index)
{
    const Philox p = philox(seed, stream, index);
    const double u = (double)(((uint64_t)p.word[1] << 32 | p.word[0]) >> 11) * 0x1p-53;
    const double v = (double)(((uint64_t)p.word[3] << 32 | p.word[2]) >> 11) * 0x1p-53;
    return (float)(sqrt(-2 * log(1 - u)) * cos(6.283185307179586 * v));
}

#endif
