/* Dropout whose random bits follow from a seed and the index of each value; on a CPU. */

#include <stdint.h>
#include <string.h>

#include "philox.h"

/* words[4] of LANES counters from `first` on, for tests. */
void philox(uint64_t seed, uint64_t first, uint32_t words[4][LANES]) { draw(seed, first, words); }

/* out [count] = values, each times the scale with the probability kept / 65536, else 0. */
void drop(const float *values, long count, uint64_t seed, uint16_t kept, float scale,
          float *restrict out, int threads) {
    long blocks = (count + NUMBERS - 1) / NUMBERS;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long block = 0; block < blocks; block++) {
        uint32_t words[4][LANES];
        uint16_t bits[NUMBERS];
        long first = block * NUMBERS;
        long last = count < first + NUMBERS ? count : first + NUMBERS;
        draw(seed, (uint64_t)block * LANES, words);
        memcpy(bits, words, sizeof bits);
        keep(bits, values + first, last - first, kept, scale, out + first);
    }
}
