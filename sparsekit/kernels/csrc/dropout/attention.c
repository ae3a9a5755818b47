/* Attention with or without dropout; CPU only.

Intermediate results of a head stay in the cache. Tensors are contiguous, [batches, tokens, heads,
size], `size` a multiple of VECTOR_LANES. */

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#include "../lanes.h"
#include "../layout.h"
#include "philox.h"

/* What `size` and `padded` are multiples of. */
#define VECTOR_LANES 16

typedef struct {
    long batches, heads, tokens, size;
    long padded; /* tokens, rounded up to a multiple of VECTOR_LANES */
    float scale;
    uint64_t seed;
    uint16_t keep_steps; /* 0: no dropout */
    float keep_scale;
    float *scratch; /* one part per thread */
    long scratch_per_thread;
} attention_call;

/* What Python allocates by; library.py compares them with its own values. */
const long vector_lanes = VECTOR_LANES, values_per_draw = VALUES_PER_DRAW;

const layout_entry attention_call_layout[] = {
    SIZE(attention_call),
    FIELD(attention_call, batches),
    FIELD(attention_call, heads),
    FIELD(attention_call, tokens),
    FIELD(attention_call, size),
    FIELD(attention_call, padded),
    FIELD(attention_call, scale),
    FIELD(attention_call, seed),
    FIELD(attention_call, keep_steps),
    FIELD(attention_call, keep_scale),
    FIELD(attention_call, scratch),
    FIELD(attention_call, scratch_per_thread),
    END,
};

/* 4 rows of a matmul and `vectors` vectors of its columns; every caller passes a constant. */
static inline __attribute__((always_inline)) void tile(int vectors, long inner, const float *a[4],
                                                       long a_column, const float *b, long b_row,
                                                       float *c[4]) {
    vector sums[4][2] = {0};
    for (long k = 0; k < inner; k++)
        for (int v = 0; v < vectors; v++) {
            vector b_values = *(const unaligned_vector *)(b + k * b_row + v * LANES);
            for (int r = 0; r < 4; r++)
                sums[r][v] += a[r][k * a_column] * b_values;
        }
    for (int r = 0; r < 4; r++)
        for (int v = 0; v < vectors; v++)
            *(unaligned_vector *)(c[r] + v * LANES) = sums[r][v];
}

/* c [rows, columns] = a [rows, inner] @ b [inner, columns]; columns is a multiple of VECTOR_LANES.
 */
static void matmul(long rows, long inner, long columns, const float *a, long a_row, long a_column,
                   const float *b, long b_row, float *c, long c_row) {
    for (long r = 0; r < rows; r += 4) {
        for (long column = 0; column < columns; column += 2 * LANES) {
            const float *a_rows[4];
            float *c_rows[4];
            for (int i = 0; i < 4; i++) {
                /* The last row is repeated to make four. */
                long row = r + i < rows ? r + i : rows - 1;
                a_rows[i] = a + row * a_row;
                c_rows[i] = c + row * c_row + column;
            }
            if (columns - column > LANES)
                tile(2, inner, a_rows, a_column, b + column, b_row, c_rows);
            else
                tile(1, inner, a_rows, a_column, b + column, b_row, c_rows);
        }
    }
}

/* out [size, padded] = values [tokens, size] transposed, padded with zeros. */
static void transpose(const attention_call *p, const float *values, float *restrict out) {
    memset(out, 0, sizeof(float) * p->size * p->padded);
    for (long t = 0; t < p->tokens; t++)
        for (long i = 0; i < p->size; i++)
            out[i * p->padded + t] = values[t * p->heads * p->size + i];
}

/* e^x for LOWEST <= x <= 0, with a relative error of 1e-7; below -87.68 it is 0, as the
   power of two is no normal float32 there. The power of two goes into the exponent bits, the rest
   through a polynomial. */
#define LOWEST (-88.0f)
static inline float exponential(float x) {
    int32_t power = (int32_t)(x * 1.44269504f - 0.5f);
    float rest = x - (float)power * 0.693359375f + (float)power * 2.12194440e-4f;
    float sum = 1.3981999507e-3f + rest * 1.9875691500e-4f;
    sum = 8.3334519073e-3f + rest * sum;
    sum = 4.1665795894e-2f + rest * sum;
    sum = 1.6666665459e-1f + rest * sum;
    sum = 5.0000001201e-1f + rest * sum;
    sum = 1.0f + rest + rest * rest * sum;
    /* Unsigned: NaN becomes the lowest integer. The result is NaN by `sum`. */
    uint32_t bits = (uint32_t)(power + 127) << 23;
    float power_of_two;
    memcpy(&power_of_two, &bits, sizeof bits);
    return sum * power_of_two;
}

/* In place, row [padded] = softmax(row * scale + mask), 0 in the padding. */
static void softmax(const attention_call *p, float *restrict row, const float *mask) {
    float largest = -INFINITY, sum = 0;
    for (long i = 0; i < p->padded; i++)
        row[i] = i >= p->tokens ? -INFINITY : row[i] * p->scale + (mask ? mask[i] : 0.0f);
#pragma omp simd reduction(max : largest)
    for (long i = 0; i < p->padded; i++)
        largest = row[i] > largest ? row[i] : largest;
    /* A loop of its own: merged with the next one, compilers branch on x == LOWEST. */
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
    long blocks = (p->tokens * p->padded + VALUES_PER_DRAW - 1) / VALUES_PER_DRAW;
    for (long block = 0; block < blocks; block++) {
        uint32_t words[4][COUNTERS];
        draw(p->seed, (uint64_t)(head * blocks + block) * COUNTERS, words);
        memcpy(bits + block * VALUES_PER_DRAW, words, sizeof words);
    }
}

/* mask: added to the scores, or NULL; mask_batch and mask_row are its strides in values.
   probabilities [batches, heads, tokens, padded]: before dropout, saved for the backward pass. */
void attention(const attention_call *p, const float *query, const float *key, const float *value,
               const float *mask, long mask_batch, long mask_row, float *probabilities, float *out,
               int threads) {
    long row = p->heads * p->size, head_values = p->tokens * p->padded;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long head = 0; head < p->batches * p->heads; head++) {
        long batch = head / p->heads;
        long first = batch * p->tokens * row + head % p->heads * p->size;
        float *transposed = p->scratch + omp_get_thread_num() * p->scratch_per_thread;
        float *dropped = transposed + p->size * p->padded;
        uint16_t *bits = (uint16_t *)(dropped + 2 * head_values);
        float *head_probabilities = probabilities + head * head_values;
        transpose(p, key + first, transposed);
        matmul(p->tokens, p->size, p->padded, query + first, row, 1, transposed, p->padded,
               head_probabilities, p->padded);
        for (long t = 0; t < p->tokens; t++)
            softmax(p, head_probabilities + t * p->padded,
                    mask ? mask + batch * mask_batch + t * mask_row : NULL);
        const float *kept = head_probabilities;
        if (p->keep_steps) {
            head_bits(p, head, bits);
            apply_dropout(bits, head_probabilities, head_values, p->keep_steps, p->keep_scale,
                          dropped);
            kept = dropped;
        }
        matmul(p->tokens, p->tokens, p->size, kept, p->padded, 1, value + first, row, out + first,
               row);
    }
}

/* The gradients of query, key and value; grad_output is that of `out`. */
void attention_gradient(const attention_call *p, const float *query, const float *key,
                        const float *value, const float *probabilities, const float *grad_output,
                        float *grad_query, float *grad_key, float *grad_value, int threads) {
    long row = p->heads * p->size, head_values = p->tokens * p->padded;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long head = 0; head < p->batches * p->heads; head++) {
        long first = head / p->heads * p->tokens * row + head % p->heads * p->size;
        float *transposed = p->scratch + omp_get_thread_num() * p->scratch_per_thread;
        float *dropped = transposed + p->size * p->padded, *grad_scores = dropped + head_values;
        uint16_t *bits = (uint16_t *)(grad_scores + head_values);
        const float *head_probabilities = probabilities + head * head_values;
        transpose(p, value + first, transposed);
        matmul(p->tokens, p->size, p->padded, grad_output + first, row, 1, transposed, p->padded,
               grad_scores, p->padded);
        if (p->keep_steps)
            head_bits(p, head, bits);
        for (long t = 0; t < p->tokens; t++) {
            const float *row_probabilities = head_probabilities + t * p->padded;
            float *restrict grad_row = grad_scores + t * p->padded;
            float *restrict row_dropped = dropped + t * p->padded;
            const uint16_t *row_bits = bits + t * p->padded;
            float weighted_sum = 0;
            if (p->keep_steps)
                for (long i = 0; i < p->padded; i++) {
                    float factor = row_bits[i] < p->keep_steps ? p->keep_scale : 0.0f;
                    row_dropped[i] = row_probabilities[i] * factor;
                    grad_row[i] *= factor;
                }
#pragma omp simd reduction(+ : weighted_sum)
            for (long i = 0; i < p->padded; i++)
                weighted_sum += row_probabilities[i] * grad_row[i];
            for (long i = 0; i < p->padded; i++)
                grad_row[i] = row_probabilities[i] * (grad_row[i] - weighted_sum) * p->scale;
        }
        matmul(p->tokens, p->tokens, p->size, p->keep_steps ? dropped : head_probabilities, 1,
               p->padded, grad_output + first, row, grad_value + first, row);
        matmul(p->tokens, p->tokens, p->size, grad_scores, p->padded, 1, key + first, row,
               grad_query + first, row);
        matmul(p->tokens, p->tokens, p->size, grad_scores, 1, p->padded, query + first, row,
               grad_key + first, row);
    }
}
