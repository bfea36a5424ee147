/* shuffle.h -- a random order of n things that needs no array: the i-th is computed.
 *
 * A Feistel network permutes the smallest power of four that holds n; its round function is Philox, keyed by
 * (seed, epoch). Results outside [0, n) are sent through again until one falls inside (cycle walking: J. Black,
 * P. Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002); under four passes are expected. */
#ifndef LLMC_SHUFFLE_H
#define LLMC_SHUFFLE_H

#include "rng.h"

enum { SHUFFLE_ROUNDS = 6 };

/* Where `index` of [0, n) goes in the order of (seed, epoch); a bijection of [0, n) for each of them. */
static inline int64_t shuffle_index(uint64_t seed, int64_t epoch, int64_t n, int64_t index)
{
    int bits = 1;                                   /* of one half */
    while (bits < 31 && (int64_t)1 << 2 * bits < n) bits++;
    const uint64_t mask = ((uint64_t)1 << bits) - 1, stream = (uint64_t)RNG_SHUFFLE + (uint64_t)epoch;
    uint64_t x = (uint64_t)index;
    do {
        uint64_t left = x >> bits, right = x & mask;
        for (uint64_t round = 0; round < SHUFFLE_ROUNDS; round++) {
            const uint64_t mixed = left ^ (philox(seed, stream, round << 32 | right).word[0] & mask);
            left = right, right = mixed;
        }
        x = left << bits | right;
    } while (x >= (uint64_t)n);
    return (int64_t)x;
}

#endif
