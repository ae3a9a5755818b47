/* Random bits that follow from a seed and the index of each value, and dropout by them.

They come from Philox4x32-7 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011),
the fewest rounds that pass BigCrush there: multiplications turn a counter and a key into 128 bits,
enough for eight values. So no mask is stored, the backward pass draws the same bits once more, and
results do not depend on the number of threads. The loops are written so that compilers vectorize
them. */

#ifndef SPARSEKIT_DROPOUT_PHILOX_H
#define SPARSEKIT_DROPOUT_PHILOX_H

#include <stdint.h>

#define LANES 16
#define ROUNDS 7
/* Numbers that one call of `draw` decides on: 16 bits each, of four words a lane. */
#define NUMBERS (4 * LANES * 2)

/* The products of Philox's constants with each lane: their lower and their upper 32 bits. */
static inline void multiply(uint32_t constant, const uint32_t *restrict x, uint32_t *restrict low,
                            uint32_t *restrict high) {
    for (int i = 0; i < LANES; i++) {
        uint64_t product = (uint64_t)constant * x[i];
        low[i] = (uint32_t)product;
        high[i] = (uint32_t)(product >> 32);
    }
}

/* words[4] of the counters from `first` on, one a lane, under the key `seed`. */
static __attribute__((noinline)) void draw(uint64_t seed, uint64_t first,
                                           uint32_t words[4][LANES]) {
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    for (int i = 0; i < LANES; i++) {
        words[0][i] = (uint32_t)(first + i);
        words[1][i] = (uint32_t)((first + i) >> 32);
        words[2][i] = words[3][i] = 0;
    }
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t low[2][LANES], high[2][LANES];
        multiply(0xD2511F53, words[0], low[0], high[0]);
        multiply(0xCD9E8D57, words[2], low[1], high[1]);
        for (int i = 0; i < LANES; i++) {
            words[0][i] = high[1][i] ^ words[1][i] ^ key[0];
            words[1][i] = low[1][i];
            words[2][i] = high[0][i] ^ words[3][i] ^ key[1];
            words[3][i] = low[0][i];
        }
        key[0] += 0x9E3779B9;
        key[1] += 0xBB67AE85;
    }
}

/* out [count] = values, each times the scale where its bits are below `kept`, else 0. */
static inline void keep(const uint16_t *bits, const float *values, long count, uint16_t kept,
                        float scale, float *restrict out) {
    for (long i = 0; i < count; i++)
        out[i] = bits[i] < kept ? values[i] * scale : 0.0f;
}

#endif
