/* The two matmuls of an attention head: query and key, probabilities and values.

Lanes are queries; one value of a key or of the values is broadcast to all lanes. In float32 or,
where all four operands are quantized, in int8 with four features or keys at once. */

#ifndef SPARSEKIT_ENCODER_ATTENTION_MATMUL_H
#define SPARSEKIT_ENCODER_ATTENTION_MATMUL_H

#include "tensors.h"
#include "vectors.h"

/* Scores are computed for QUERIES vectors of queries at a time, 16 KB for 128 keys; keys, or
   features of the values, BLOCK at a time. */
#define QUERIES 2
#define BLOCK (4 * ACCUMULATORS)

/* In int8, query and key are PACKED and the values PLANES. Key and values are signed, since the
   instruction multiplies unsigned by signed bytes, and probabilities have a zero point of 0. */
typedef struct {
    long heads, features;
    float scale;
    quantizer query, key, probabilities, value;
} attention;

/* The address of one feature of the token at `lane`; the next tokens follow. */
INLINE const float *token_data(const columns *tensor, long vectors, long feature, long lane) {
    long tile = lane / (TILE * LANES);
    const float *data = (const float *)tile_data(tensor, tile);
    return data + feature * tile_width(vectors, tile) * LANES + lane % (TILE * LANES);
}

/* scores [BLOCK][n] of BLOCK keys from `lane` on. */
INLINE void score_block(const columns *query, long query_vectors, long v, const columns *key,
                        long key_vectors, long lane, long feature, long features, vector *scores,
                        const int n) {
    vector sums[BLOCK][QUERIES];
    long width = tile_width(query_vectors, v / TILE);
    long key_width = tile_width(key_vectors, lane / (TILE * LANES));
    const vector *q = (const vector *)tile_data(query, v / TILE) + feature * width + v % TILE;
    const float *k = token_data(key, key_vectors, feature, lane);
    memset(sums, 0, sizeof sums);
    for (long f = 0; f < features; f++, q += width, k += key_width * LANES) {
#pragma GCC unroll 8
        for (int i = 0; i < BLOCK; i++) {
#pragma GCC unroll 2
            for (int j = 0; j < n; j++)
                sums[i][j] += k[i] * q[j];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < BLOCK; i++) {
#pragma GCC unroll 2
        for (int j = 0; j < n; j++)
            scores[i * n + j] = sums[i][j];
    }
}

/* out [count][n] = the sums of `count` features of the sequence's values, weighted by scores
   [keys][n]. */
INLINE void weighted_sum_block(const vector *scores, const columns *value, long vectors,
                               long first_lane, long keys, long feature, vector *out,
                               const int count, const int n) {
    vector sums[BLOCK][QUERIES];
    memset(sums, 0, sizeof sums);
    for (long first_key = 0; first_key < keys; first_key += TILE * LANES) {
        long lane = first_lane + first_key, width = tile_width(vectors, lane / (TILE * LANES));
        const float *values = token_data(value, vectors, feature, lane);
        const vector *weights = scores + first_key * n;
        long key_count = min_long(keys - first_key, TILE * LANES);
        for (long t = 0; t < key_count; t++, weights += n) {
#pragma GCC unroll 8
            for (int i = 0; i < count; i++) {
#pragma GCC unroll 2
                for (int j = 0; j < n; j++)
                    sums[i][j] += values[i * width * LANES + t] * weights[j];
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < count; i++) {
#pragma GCC unroll 2
        for (int j = 0; j < n; j++)
            out[i * n + j] = sums[i][j];
    }
}

#ifdef INT8_DOT_PRODUCTS
/* scores [keys][n] for n vectors of queries from v on. With zero points z and y, the sum of (q - z)
   (k - y) is the sum of q k, less y times the sum of q and z times the sum of k - y. */
INLINE void score_int8(const attention *a, long head, const columns *query, long query_vectors,
                       long v, const columns *key, long key_vectors, const sequence *seq,
                       vector *scores, const int n) {
    const integers ones = 0x01010101 - (integers){0};
    const int32_t query_zero = (int32_t)a->query.zero_point;
    const int32_t key_zero = (int32_t)a->key.zero_point;
    const long units = a->features / 4, unit = head * units;
    const long width = tile_width(query_vectors, v / TILE);
    const integers *q = tile_data(query, v / TILE) + unit * width + v % TILE;
    const float scale = a->query.scale * a->key.scale;
    integers query_terms[QUERIES] = {0}, key_sums = {0};
    for (long u = 0; u < units; u++)
        for (int j = 0; j < n; j++)
            query_terms[j] = (integers)DOT_PRODUCT_ADD(query_terms[j], q[u * width + j], ones);
    for (int j = 0; j < n; j++)
        query_terms[j] = (int32_t)a->features * query_zero * key_zero - query_terms[j] * key_zero;
    for (long t = 0; t < seq->tokens; t += BLOCK) {
        long lane = seq->first * LANES + t;
        long key_width = tile_width(key_vectors, lane / (TILE * LANES)) * LANES;
        const int32_t *k = (const int32_t *)token_data(key, key_vectors, unit, lane);
        for (long u = 0; u < units && t % LANES == 0; u++)
            key_sums = (integers)DOT_PRODUCT_ADD((u ? key_sums : (integers){0}), ones,
                                                 *(const integers *)(k + u * key_width));
        integers sums[BLOCK][QUERIES];
#pragma GCC unroll 8
        for (int i = 0; i < BLOCK; i++) {
#pragma GCC unroll 2
            for (int j = 0; j < n; j++)
                sums[i][j] = query_terms[j] - key_sums[t % LANES + i] * query_zero;
        }
        for (long u = 0; u < units; u++, k += key_width) {
#pragma GCC unroll 8
            for (int i = 0; i < BLOCK; i++) {
#pragma GCC unroll 2
                for (int j = 0; j < n; j++)
                    sums[i][j] = (integers)DOT_PRODUCT_ADD(sums[i][j], q[u * width + j],
                                                           (k[i] - (integers){0}));
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < BLOCK; i++) {
#pragma GCC unroll 2
            for (int j = 0; j < n; j++)
                scores[(t + i) * n + j] = to_float(sums[i][j]) * scale;
        }
    }
}

/* In place, probabilities [keys][n] * factor [n] become uint8, four keys packed in [keys / 4][n].
   probability_sums [n]: the sums of the integers. */
INLINE void pack_probabilities(const quantizer *rounding, vector *scores, long keys,
                               const vector *factor, integers *probability_sums, const int n) {
    for (int j = 0; j < n; j++)
        probability_sums[j] = (integers){0};
    for (long t = 0; t < keys; t += 4) {
        for (int j = 0; j < n; j++) {
            integers four = {0};
            for (long i = 0; i < min_long(4, keys - t); i++)
                four |= to_byte(scores[(t + i) * n + j] * factor[j], rounding) << (8 * i);
            scores[t / 4 * n + j] = (vector)four;
            probability_sums[j] =
                (integers)DOT_PRODUCT_ADD(probability_sums[j], four, (0x01010101 - (integers){0}));
        }
    }
}

/* As weighted_sum_block, for the output of pack_probabilities. */
INLINE void weighted_sum_int8(const attention *a, const vector *packed, const columns *value,
                              long vectors, long first_lane, long keys, long feature,
                              const integers *probability_sums, vector *out, const int count,
                              const int n) {
    integers sums[BLOCK][QUERIES];
    const float scale = a->probabilities.scale * a->value.scale;
    memset(sums, 0, sizeof sums);
    for (long first_key = 0; first_key < keys; first_key += TILE * LANES) {
        long lane = first_lane + first_key, tile = lane / (TILE * LANES);
        long plane = group_count(tile_width(vectors, tile)) * LANES;
        const int32_t *values = (const int32_t *)tile_data(value, tile) + feature * plane;
        for (long t = 0; t < min_long(keys - first_key, TILE * LANES); t += 4) {
            /* The location of the bytes of four tokens; see `pack`. */
            long token = lane % (TILE * LANES) + t, v = token / LANES;
            const int32_t *four = values + v / GROUP * LANES + token % LANES + v % GROUP;
            const integers *p = (const integers *)packed + (first_key + t) / 4 * n;
#pragma GCC unroll 8
            for (int i = 0; i < count; i++) {
#pragma GCC unroll 2
                for (int j = 0; j < n; j++)
                    sums[i][j] = (integers)DOT_PRODUCT_ADD(sums[i][j], p[j],
                                                           (four[i * plane] - (integers){0}));
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < count; i++) {
#pragma GCC unroll 2
        for (int j = 0; j < n; j++)
            out[i * n + j] =
                to_float(sums[i][j] - probability_sums[j] * (int32_t)a->value.zero_point) * scale;
    }
}
#endif

#endif
