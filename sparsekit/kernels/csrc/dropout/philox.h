/* Random bits that are a function of a seed and each value's index, and dropout with them.

The generator is Philox4x32-7 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC
2011), with the fewest rounds that pass BigCrush there: multiplications turn a counter and a key
into 128 bits, enough for eight values. So no mask is stored, the backward pass draws the same bits
again, and results do not depend on the number of threads. The loops are written so that compilers
vectorize them. */

#ifndef SPARSEKIT_DROPOUT_PHILOX_H
#define SPARSEKIT_DROPOUT_PHILOX_H

#include <stdint.h>

#define COUNTERS 16
#define ROUNDS 7
/* Values per call of `draw`: 16 bits each, from four 32-bit words a lane. */
#define VALUES_PER_DRAW (4 * COUNTERS * 2)

/* The low and high 32 bits of x times the constant, for each lane. */
static inline void multiply_wide(uint32_t constant, const uint32_t *restrict x,
                                 uint32_t *restrict low, uint32_t *restrict high) {
    for (int i = 0; i < COUNTERS; i++) {
        uint64_t product = (uint64_t)constant * x[i];
        low[i] = (uint32_t)product;
        high[i] = (uint32_t)(product >> 32);
    }
}

/* words[4]: the output for the counters first, first + 1, ..., one a lane, with the key `seed`. */
static __attribute__((noinline)) void draw(uint64_t seed, uint64_t first,
                                           uint32_t words[4][COUNTERS]) {
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    for (int i = 0; i < COUNTERS; i++) {
        words[0][i] = (uint32_t)(first + i);
        words[1][i] = (uint32_t)((first + i) >> 32);
        words[2][i] = words[3][i] = 0;
    }
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t low[2][COUNTERS], high[2][COUNTERS];
        multiply_wide(0xD2511F53, words[0], low[0], high[0]);
        multiply_wide(0xCD9E8D57, words[2], low[1], high[1]);
        for (int i = 0; i < COUNTERS; i++) {
            words[0][i] = high[1][i] ^ words[1][i] ^ key[0];
            words[1][i] = low[1][i];
            words[2][i] = high[0][i] ^ words[3][i] ^ key[1];
            words[3][i] = low[0][i];
        }
        key[0] += 0x9E3779B9;
        key[1] += 0xBB67AE85;
    }
}

/* out [count] = values * scale where the bits are below `keep_steps`, else 0. */
static inline void apply_dropout(const uint16_t *bits, const float *values, long count,
                                 uint16_t keep_steps, float scale, float *restrict out) {
    for (long i = 0; i < count; i++)
        out[i] = bits[i] < keep_steps ? values[i] * scale : 0.0f;
}

#endif
