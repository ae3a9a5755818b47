/* Attention with dropout; on a CPU.

What lies between its matmuls never leaves the cache. Tensors are contiguous, [batches, tokens,
heads, size], `size` a multiple of WIDE. */

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#include "../layout.h"
#include "philox.h"

/* Values of a vector. */
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
} attention_call;

/* What Python must know to allocate; it compares them with its own. */
const long vector_lanes = WIDE, values_per_draw = NUMBERS;

const layout_entry attention_call_layout[] = {
    SIZE(attention_call),
    FIELD(attention_call, batches),
    FIELD(attention_call, heads),
    FIELD(attention_call, tokens),
    FIELD(attention_call, size),
    FIELD(attention_call, padded),
    FIELD(attention_call, scale),
    FIELD(attention_call, seed),
    FIELD(attention_call, kept),
    FIELD(attention_call, kept_scale),
    FIELD(attention_call, scratch),
    FIELD(attention_call, of_thread),
    END,
};

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
static void turn(const attention_call *p, const float *values, float *restrict out) {
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
static void softmax(const attention_call *p, float *restrict row, const float *mask) {
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
static void head_bits(const attention_call *p, long head, uint16_t *bits) {
    long blocks = (p->tokens * p->padded + NUMBERS - 1) / NUMBERS;
    for (long block = 0; block < blocks; block++) {
        uint32_t words[4][LANES];
        draw(p->seed, (uint64_t)(head * blocks + block) * LANES, words);
        memcpy(bits + block * NUMBERS, words, sizeof words);
    }
}

/* mask: added to the scores, or NULL; its numbers for a batch and a row lie so far apart.
   probabilities [batches, heads, tokens, padded] before dropout, for the backward pass. */
void attention(const attention_call *p, const float *query, const float *key, const float *value,
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
void attention_gradient(const attention_call *p, const float *query, const float *key,
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
        product(p->tokens, p->size, p->padded, errors + first, row, 1, turned, p->padded, to_scores,
                p->padded);
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
