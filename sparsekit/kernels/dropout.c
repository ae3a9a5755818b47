/* Dropout whose random bits follow from a seed and the place of each number, and attention that
   takes it; on a CPU.

They come from Philox4x32-7 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011),
the fewest rounds that pass BigCrush there: products turn a counter and a key into 128 bits, eight
numbers' worth. So no mask is kept, the gradient's pass draws the same bits once more, and results
do not depend on the number of threads. The loops are written so that compilers make vectors. */

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

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
void draw(uint64_t seed, uint64_t first, uint32_t words[4][LANES]) {
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

/* Attention: what lies between its products never leaves the cache. Tensors are contiguous,
   [batches, tokens, heads, size], `size` a multiple of WIDE. */
#define WIDE 16
typedef float vec __attribute__((vector_size(4 * WIDE), aligned(4), may_alias));

typedef struct {
    long batches, heads, tokens, size;
    long padded; /* tokens, filled up to a multiple of WIDE */
    float scale;
    uint64_t seed;
    uint16_t kept;
    float kept_scale;
    float *scratch; /* one part for each thread */
    long of_thread;
} Attention;

/* 4 rows of a product, and `vectors` of its columns; a constant wherever it is called. */
static inline __attribute__((always_inline)) void tile(int vectors, long inner, const float *a[4],
                                                       long a_column, const float *b, long b_row,
                                                       float *c[4]) {
    vec sums[4][2] = {0};
    for (long k = 0; k < inner; k++)
        for (int v = 0; v < vectors; v++) {
            vec numbers = *(const vec *)(b + k * b_row + v * WIDE);
            for (int r = 0; r < 4; r++)
                sums[r][v] += a[r][k * a_column] * numbers;
        }
    for (int r = 0; r < 4; r++)
        for (int v = 0; v < vectors; v++)
            *(vec *)(c[r] + v * WIDE) = sums[r][v];
}

/* c [rows, columns] = a [rows, inner] @ b [inner, columns]; columns: a multiple of WIDE. */
static void product(long rows, long inner, long columns, const float *a, long a_row, long a_column,
                    const float *b, long b_row, float *c, long c_row) {
    for (long r = 0; r < rows; r += 4) {
        for (long column = 0; column < columns; column += 2 * WIDE) {
            const float *of_a[4];
            float *of_c[4];
            for (int i = 0; i < 4; i++) {
                /* The last row stands in for those behind it. */
                long row = r + i < rows ? r + i : rows - 1;
                of_a[i] = a + row * a_row;
                of_c[i] = c + row * c_row + column;
            }
            if (columns - column > WIDE)
                tile(2, inner, of_a, a_column, b + column, b_row, of_c);
            else
                tile(1, inner, of_a, a_column, b + column, b_row, of_c);
        }
    }
}

/* out [size, padded] = values [tokens, size] transposed, and zeros. */
static void turn(const Attention *p, const float *values, float *restrict out) {
    memset(out, 0, sizeof(float) * p->size * p->padded);
    for (long t = 0; t < p->tokens; t++)
        for (long i = 0; i < p->size; i++)
            out[i * p->padded + t] = values[t * p->heads * p->size + i];
}

/* e^x for LOWEST <= x <= 0, to 1e-7 of it, and 0 for LOWEST. The power of two goes into the bits of
   the exponent, the rest into a polynomial. */
#define LOWEST -88.0f
static inline float exponential(float x) {
    int32_t power = (int32_t)(x * 1.44269504f - 0.5f);
    float rest = x - power * 0.693359375f + power * 2.12194440e-4f;
    float sum = 1.3981999507e-3f + rest * 1.9875691500e-4f;
    sum = 8.3334519073e-3f + rest * sum;
    sum = 4.1665795894e-2f + rest * sum;
    sum = 1.6666665459e-1f + rest * sum;
    sum = 5.0000001201e-1f + rest * sum;
    sum = 1.0f + rest + rest * rest * sum;
    int32_t bits = (power + 127) << 23;
    float of_power;
    memcpy(&of_power, &bits, sizeof bits);
    return sum * of_power;
}

/* A row of scores, `scale` still to be multiplied in, becomes probabilities; zeros behind it. */
static void softmax(const Attention *p, float *restrict row, const float *mask) {
    float largest = -INFINITY, sum = 0;
    for (long i = 0; i < p->padded; i++)
        row[i] = i >= p->tokens ? -INFINITY : row[i] * p->scale + (mask ? mask[i] : 0.0f);
#pragma omp simd reduction(max : largest)
    for (long i = 0; i < p->padded; i++)
        largest = row[i] > largest ? row[i] : largest;
    /* Apart from the next loop, or else compilers branch to the result for LOWEST. */
    for (long i = 0; i < p->padded; i++)
        row[i] = row[i] - largest < LOWEST ? LOWEST : row[i] - largest;
    for (long i = 0; i < p->padded; i++)
        row[i] = exponential(row[i]);
#pragma omp simd reduction(+ : sum)
    for (long i = 0; i < p->padded; i++)
        sum += row[i];
    for (long i = 0; i < p->padded; i++)
        row[i] /= sum;
}

/* The random bits of one head's probabilities [tokens, padded]. */
static void head_bits(const Attention *p, long head, uint16_t *bits) {
    long blocks = (p->tokens * p->padded + NUMBERS - 1) / NUMBERS;
    for (long block = 0; block < blocks; block++) {
        uint32_t words[4][LANES];
        draw(p->seed, (uint64_t)(head * blocks + block) * LANES, words);
        memcpy(bits + block * NUMBERS, words, sizeof words);
    }
}

/* mask: added to the scores, or NULL; its numbers for a batch and a row lie so far apart.
   probabilities [batches, heads, tokens, padded] before dropout, for the backward pass. */
void attention(const Attention *p, const float *query, const float *key, const float *value,
               const float *mask, long mask_batch, long mask_row, float *probabilities, float *out,
               int threads) {
    long row = p->heads * p->size, square = p->tokens * p->padded;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long head = 0; head < p->batches * p->heads; head++) {
        long batch = head / p->heads;
        long first = batch * p->tokens * row + head % p->heads * p->size;
        float *turned = p->scratch + omp_get_thread_num() * p->of_thread;
        float *dropped = turned + p->size * p->padded;
        uint16_t *bits = (uint16_t *)(dropped + 2 * square);
        float *of_head = probabilities + head * square;
        turn(p, key + first, turned);
        product(p->tokens, p->size, p->padded, query + first, row, 1, turned, p->padded, of_head,
                p->padded);
        for (long t = 0; t < p->tokens; t++)
            softmax(p, of_head + t * p->padded,
                    mask ? mask + batch * mask_batch + t * mask_row : NULL);
        head_bits(p, head, bits);
        keep(bits, of_head, square, p->kept, p->kept_scale, dropped);
        product(p->tokens, p->tokens, p->size, dropped, p->padded, 1, value + first, row,
                out + first, row);
    }
}

/* The gradients of query, key and value from `errors`, that of `out`. */
void attention_gradient(const Attention *p, const float *query, const float *key,
                        const float *value, const float *probabilities, const float *errors,
                        float *to_query, float *to_key, float *to_value, int threads) {
    long row = p->heads * p->size, square = p->tokens * p->padded;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long head = 0; head < p->batches * p->heads; head++) {
        long first = head / p->heads * p->tokens * row + head % p->heads * p->size;
        float *turned = p->scratch + omp_get_thread_num() * p->of_thread;
        float *dropped = turned + p->size * p->padded, *to_scores = dropped + square;
        uint16_t *bits = (uint16_t *)(to_scores + square);
        const float *of_head = probabilities + head * square;
        turn(p, value + first, turned);
        product(p->tokens, p->size, p->padded, errors + first, row, 1, turned, p->padded,
                to_scores, p->padded);
        head_bits(p, head, bits);
        for (long t = 0; t < p->tokens; t++) {
            const float *of_row = of_head + t * p->padded;
            float *restrict to_row = to_scores + t * p->padded;
            float *restrict of_dropped = dropped + t * p->padded;
            const uint16_t *of_bits = bits + t * p->padded;
            float mean = 0;
#pragma omp simd reduction(+ : mean)
            for (long i = 0; i < p->padded; i++) {
                float factor = of_bits[i] < p->kept ? p->kept_scale : 0.0f;
                of_dropped[i] = of_row[i] * factor;
                to_row[i] *= factor;
                mean += of_row[i] * to_row[i];
            }
            for (long i = 0; i < p->padded; i++)
                to_row[i] = of_row[i] * (to_row[i] - mean) * p->scale;
        }
        product(p->tokens, p->tokens, p->size, dropped, 1, p->padded, errors + first, row,
                to_value + first, row);
        product(p->tokens, p->tokens, p->size, to_scores, p->padded, 1, key + first, row,
                to_query + first, row);
        product(p->tokens, p->tokens, p->size, to_scores, 1, p->padded, query + first, row,
                to_key + first, row);
    }
}
