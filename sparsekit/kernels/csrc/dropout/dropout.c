/* Dropout whose random bits are a function of a seed and each value's index; CPU only. */

#include <stdint.h>
#include <string.h>

#include "philox.h"

/* words[4] for COUNTERS counters from `first` on; for tests. */
void philox(uint64_t seed, uint64_t first, uint32_t words[4][COUNTERS]) {
    draw(seed, first, words);
}

/* out [count] = values * scale with probability keep_steps / 65536, else 0. */
void drop(const float *values, long count, uint64_t seed, uint16_t keep_steps, float scale,
          float *restrict out, int threads) {
    long blocks = (count + VALUES_PER_DRAW - 1) / VALUES_PER_DRAW;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long block = 0; block < blocks; block++) {
        uint32_t words[4][COUNTERS];
        uint16_t bits[VALUES_PER_DRAW];
        long first = block * VALUES_PER_DRAW;
        long last = count < first + VALUES_PER_DRAW ? count : first + VALUES_PER_DRAW;
        draw(seed, (uint64_t)block * COUNTERS, words);
        memcpy(bits, words, sizeof bits);
        apply_dropout(bits, values + first, last - first, keep_steps, scale, out + first);
    }
}
