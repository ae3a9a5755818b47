/* The two matmuls of an attention head: query and key, probabilities and values.

Lanes are queries; one value of a key or of the values is broadcast to all lanes. In float32 or,
where all four operands are quantized, in int8 with four features or keys at once. */

#ifndef SPARSEKIT_ENCODER_ATTENTION_MATMUL_H
#define SPARSEKIT_ENCODER_ATTENTION_MATMUL_H

#include "score_terms.h"
#include "tensors.h"
#include "vectors.h"

/* Scores are computed for QUERIES vectors of queries and BLOCK_KEYS keys at a time, so that they
   stay in the L1 cache from the first matmul to the second: 16 KB, with 8 lanes 4 and with 4 lanes
   2 KB. For that, BLOCK keys, at most a vector of them, or BLOCK features of the values are in
   registers at once. */
#if LANES == 4
#define QUERIES 4
#define BLOCK 4
#else
#define QUERIES 2
#define BLOCK (4 * ACCUMULATORS)
#endif
/* A tile: a sequence of several blocks begins with a tile, since it is a group of its own. */
#define BLOCK_KEYS (TILE * LANES)

/* In int8, query and key are PACKED and the values PLANES. Key and values are signed, since the
   instruction multiplies unsigned by signed bytes, and probabilities have a zero point of 0. tiles:
   whether the int8 matmuls are those of attention_tiles.h, and the float32 ones those of
   attention_float_tiles.h. */
typedef struct {
    long heads, features, tiles;
    float scale;
    quantizer query, key, probabilities, value;
} attention;

/* The work on one head for n vectors of queries, from vector v on. value holds `vectors` vectors,
   as key does, and query `query_vectors`, of which first_vector has the sequence's first token. */
typedef struct {
    const attention *attention;
    const score_terms *terms;
    const columns *query, *key, *value;
    long head, v, query_vectors, vectors, first_vector;
    const sequence *sequence;
} head_part;

/* The address of one feature of the token at `lane`; the next tokens follow. */
INLINE const float *token_data(const columns *tensor, long vectors, long feature, long lane) {
    long tile = lane / (TILE * LANES);
    const float *data = (const float *)tile_data(tensor, tile);
    return data + feature * tile_width(vectors, tile) * LANES + lane % (TILE * LANES);
}

/* scores [BLOCK][n] of BLOCK keys from `lane` on. */
INLINE void score_block(const head_part *part, long lane, vector *scores, const int n) {
    vector sums[BLOCK][QUERIES];
    long feature = part->head * part->attention->features;
    long width = tile_width(part->query_vectors, part->v / TILE);
    long key_width = tile_width(part->vectors, lane / (TILE * LANES)) * LANES;
    const vector *q =
        (const vector *)tile_data(part->query, part->v / TILE) + feature * width + part->v % TILE;
    const float *k = token_data(part->key, part->vectors, feature, lane);
    memset(sums, 0, sizeof sums);
    for (long f = 0; f < part->attention->features; f++, q += width, k += key_width) {
#pragma GCC unroll 8
        for (int i = 0; i < BLOCK; i++) {
#pragma GCC unroll 4
            for (int j = 0; j < n; j++)
                sums[i][j] = multiply_add_floats(broadcast(k[i]), q[j], sums[i][j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < BLOCK; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < n; j++)
            scores[i * n + j] = sums[i][j];
    }
}

/* out [count][n] = out * rescale + the sums of `count` features of the values of `keys` keys from
   `lane` on, in one tile, weighted by weights [keys][n]. */
INLINE void weighted_sum_block(const head_part *part, const vector *weights, long lane, long keys,
                               long feature, const vector *rescale, vector *out, const int count,
                               const int n) {
    vector sums[BLOCK][QUERIES];
    long width = tile_width(part->vectors, lane / (TILE * LANES)) * LANES;
    const float *values = token_data(part->value, part->vectors, feature, lane);
#pragma GCC unroll 8
    for (int i = 0; i < count; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < n; j++)
            sums[i][j] = out[i * n + j] * rescale[j];
    }
    for (long t = 0; t < keys; t++, weights += n) {
#pragma GCC unroll 8
        for (int i = 0; i < count; i++) {
#pragma GCC unroll 4
            for (int j = 0; j < n; j++)
                sums[i][j] =
                    multiply_add_floats(broadcast(values[i * width + t]), weights[j], sums[i][j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < count; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < n; j++)
            out[i * n + j] = sums[i][j];
    }
}

#ifdef INT8_DOT_PRODUCTS
/* query_terms [n]: the part of each score that depends on the query alone. With zero points z and
   y, the sum of (q - z) (k - y) is the sum of q k, less y times the sum of q and z times the sum of
   k - y. */
INLINE void sum_queries(const head_part *part, integers *query_terms, const int n) {
    const attention *a = part->attention;
    const int32_t query_zero = (int32_t)a->query.zero_point;
    const int32_t key_zero = (int32_t)a->key.zero_point;
    const long units = a->features / 4, width = tile_width(part->query_vectors, part->v / TILE);
    const integers *q =
        tile_data(part->query, part->v / TILE) + part->head * units * width + part->v % TILE;
    for (int j = 0; j < n; j++) {
        integers sum = {0};
        for (long u = 0; u < units; u++)
            sum = (integers)DOT_PRODUCT_ADD(sum, q[u * width + j], (0x01010101 - (integers){0}));
        query_terms[j] = (int32_t)a->features * query_zero * key_zero - sum * key_zero;
    }
}

/* scores [BLOCK][n] of BLOCK keys from `lane` on. key_terms [BLOCK]: the part of each score that
   depends on the key alone, see sum_queries. */
INLINE void score_block_int8(const head_part *part, const integers *query_terms,
                             const int32_t *key_terms, long lane, vector *scores, const int n) {
    const attention *a = part->attention;
    const long units = a->features / 4, width = tile_width(part->query_vectors, part->v / TILE);
    const long key_width = tile_width(part->vectors, lane / (TILE * LANES)) * LANES;
    const int32_t *k =
        (const int32_t *)token_data(part->key, part->vectors, part->head * units, lane);
    const integers *q =
        tile_data(part->query, part->v / TILE) + part->head * units * width + part->v % TILE;
    const float scale = a->query.scale * a->key.scale;
    integers sums[BLOCK][QUERIES];
#pragma GCC unroll 8
    for (int i = 0; i < BLOCK; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < n; j++)
            sums[i][j] = query_terms[j];
    }
    for (long u = 0; u < units; u++, k += key_width, q += width) {
#pragma GCC unroll 8
        for (int i = 0; i < BLOCK; i++) {
#pragma GCC unroll 4
            for (int j = 0; j < n; j++)
                sums[i][j] = (integers)DOT_PRODUCT_ADD(sums[i][j], q[j], (k[i] - (integers){0}));
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < BLOCK; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < n; j++)
            scores[i * n + j] = to_float(sums[i][j] - key_terms[i]) * scale;
    }
}

/* scores [keys][n] of `keys` keys from `lane`, the begin of a vector, on. */
INLINE void score_int8(const head_part *part, const integers *query_terms, long lane, long keys,
                       vector *scores, const int n) {
    const long units = part->attention->features / 4;
    const long key_width = tile_width(part->vectors, lane / (TILE * LANES)) * LANES;
    for (long t = 0; t < keys; t += LANES) {
        const int32_t *k =
            (const int32_t *)token_data(part->key, part->vectors, part->head * units, lane + t);
        integers key_sums = {0};
        for (long u = 0; u < units; u++)
            key_sums = (integers)DOT_PRODUCT_ADD(key_sums, (0x01010101 - (integers){0}),
                                                 *(const integers *)(k + u * key_width));
        integers key_terms = key_sums * (int32_t)part->attention->query.zero_point;
        for (int i = 0; i < LANES && t + i < keys; i += BLOCK)
            score_block_int8(part, query_terms, (const int32_t *)&key_terms + i, lane + t + i,
                             scores + (t + i) * n, n);
    }
}

/* Four probabilities * factor as uint8, side by side. They have a zero point of 0, and none is
   negative, so rounding leaves the integer in the lowest byte, and only the largest is limited. */
INLINE integers pack_four(const quantizer *rounding, const vector *scores, vector factor,
                          const int stride) {
    integers q[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        q[i] = (integers)(minimum(scores[i * stride] * factor * rounding->inverse,
                                  broadcast(rounding->high)) +
                          ROUNDING_SHIFT);
    integers low = (q[0] & 0xff) | ((q[1] << 8) & ~0xff);
    integers high = (q[2] & 0xff) | ((q[3] << 8) & ~0xff);
    return (low & 0xffff) | ((high << 16) & ~0xffff);
}

/* In place, probabilities [keys][n] * factor [n] become uint8, four keys packed in [keys / 4][n].
   probability_sums [n]: the sums of the integers, to which those of these keys are added. */
INLINE void pack_probabilities(const quantizer *rounding, vector *scores, long keys,
                               const vector *factor, integers *probability_sums, const int n) {
    for (long t = keys; t % 4; t++)
        for (int j = 0; j < n; j++)
            scores[t * n + j] = broadcast(0.0f);
    for (long t = 0; t < keys; t += 4) {
        integers four[QUERIES];
#pragma GCC unroll 4
        for (int j = 0; j < n; j++) {
            four[j] = pack_four(rounding, scores + t * n + j, factor[j], n);
            probability_sums[j] = (integers)DOT_PRODUCT_ADD(probability_sums[j], four[j],
                                                            (0x01010101 - (integers){0}));
        }
#pragma GCC unroll 4
        for (int j = 0; j < n; j++)
            scores[t / 4 * n + j] = (vector)four[j];
    }
}

/* The location of the bytes of four tokens among a feature's PLANES of a tile; see `pack`. */
INLINE long plane_row(long token) {
    long v = token / LANES;
    return v / GROUP * LANES + token % LANES + v % GROUP;
}

/* sums [count][n] += the products of `count` features of the values of `keys` keys from `lane` on,
   in one tile, and the output of pack_probabilities. */
INLINE void weighted_sum_int8(const head_part *part, const integers *packed, long lane, long keys,
                              long feature, integers *out, const int count, const int n) {
    integers sums[BLOCK][QUERIES];
    long tile = lane / (TILE * LANES);
    long plane = group_count(tile_width(part->vectors, tile)) * LANES;
    const int32_t *values = (const int32_t *)tile_data(part->value, tile) + feature * plane;
#pragma GCC unroll 8
    for (int i = 0; i < count; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < n; j++)
            sums[i][j] = out[i * n + j];
    }
    for (long t = 0; t < keys; t += 4, packed += n) {
        const int32_t *four = values + plane_row(lane % (TILE * LANES) + t);
#pragma GCC unroll 8
        for (int i = 0; i < count; i++) {
#pragma GCC unroll 4
            for (int j = 0; j < n; j++)
                sums[i][j] = (integers)DOT_PRODUCT_ADD(sums[i][j], packed[j],
                                                       (four[i * plane] - (integers){0}));
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < count; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < n; j++)
            out[i * n + j] = sums[i][j];
    }
}
#endif

#endif
