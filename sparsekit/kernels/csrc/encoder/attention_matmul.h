/* Attention's two products, of a head: query and key, probabilities and values.

Lanes are queries: a key's or a value's number is in all lanes of its vector. In float32; or, where
the recipe has quantized all four operands, in bytes, four features or keys of them at once. */

#ifndef SPARSEKIT_ENCODER_ATTENTION_MATMUL_H
#define SPARSEKIT_ENCODER_ATTENTION_MATMUL_H

#include "tensors.h"
#include "vectors.h"

/* Scores are kept of two vectors of queries at a time: 16 KB of 128 keys. Keys, or features of
   values, are taken BLOCK at a time. */
#define QUERIES 2
#define BLOCK (4 * CHAINS)

/* In bytes query and key are FOURS, values PLANES; key and values are signed, as the processor
   wants one side to be, and no probability's byte stands for less than zero. */
typedef struct {
    long heads, features;
    float scale;
    quantizer query, key, probabilities, value;
} attention;

/* The number of feature f of the sequence's token t, and on from there those of the next ones. */
INLINE const float *token_at(const columns *of, long vectors, long feature, long lane) {
    long tile = lane / (TILE * LANES);
    const float *data = (const float *)tile_of(of, tile);
    return data + feature * width_of(vectors, tile) * LANES + lane % (TILE * LANES);
}

/* scores [BLOCK][n] of BLOCK keys from `lane` on. */
INLINE void score_block(const columns *query, long query_vectors, long v, const columns *key,
                        long key_vectors, long lane, long feature, long features, vector *scores,
                        const int n) {
    vector sums[BLOCK][QUERIES];
    long width = width_of(query_vectors, v / TILE);
    long key_width = width_of(key_vectors, lane / (TILE * LANES));
    const vector *q = (const vector *)tile_of(query, v / TILE) + feature * width + v % TILE;
    const float *k = token_at(key, key_vectors, feature, lane);
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

/* out [count][n] = the sequence's values of `count` features, weighted by scores [keys][n]. */
INLINE void mix_block(const vector *scores, const columns *value, long vectors, long first_lane,
                      long keys, long feature, vector *out, const int count, const int n) {
    vector sums[BLOCK][QUERIES];
    memset(sums, 0, sizeof sums);
    for (long done = 0; done < keys; done += TILE * LANES) {
        long lane = first_lane + done, width = width_of(vectors, lane / (TILE * LANES));
        const float *values = token_at(value, vectors, feature, lane);
        const vector *weights = scores + done * n;
        long here = least(keys - done, TILE * LANES);
        for (long t = 0; t < here; t++, weights += n) {
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

#ifdef PRODUCTS_OF_BYTES
/* All scores [keys][n] of n vectors of queries from v on. The sum of (q - z) (k - y) is that of q
   k, less y times that of q and z times that of k; z and y are the zero points. */
INLINE void score_bytes(const attention *a, long head, const columns *query, long query_vectors,
                        long v, const columns *key, long key_vectors, const sequence *of,
                        vector *scores, const int n) {
    const integers ones = 0x01010101 - (integers){0};
    const int32_t query_zero = (int32_t)a->query.zero_point;
    const int32_t key_zero = (int32_t)a->key.zero_point;
    const long units = a->features / 4, unit = head * units;
    const long width = width_of(query_vectors, v / TILE);
    const integers *q = tile_of(query, v / TILE) + unit * width + v % TILE;
    const float scale = a->query.scale * a->key.scale;
    integers own[QUERIES] = {0}, keys = {0};
    for (long u = 0; u < units; u++)
        for (int j = 0; j < n; j++)
            own[j] = (integers)BYTES_ADDED(own[j], q[u * width + j], ones);
    for (int j = 0; j < n; j++)
        own[j] = (int32_t)a->features * query_zero * key_zero - own[j] * key_zero;
    for (long t = 0; t < of->tokens; t += BLOCK) {
        long lane = of->first * LANES + t;
        long key_width = width_of(key_vectors, lane / (TILE * LANES)) * LANES;
        const int32_t *k = (const int32_t *)token_at(key, key_vectors, unit, lane);
        for (long u = 0; u < units && t % LANES == 0; u++)
            keys = (integers)BYTES_ADDED((u ? keys : (integers){0}), ones,
                                         *(const integers *)(k + u * key_width));
        integers sums[BLOCK][QUERIES];
#pragma GCC unroll 8
        for (int i = 0; i < BLOCK; i++) {
#pragma GCC unroll 2
            for (int j = 0; j < n; j++)
                sums[i][j] = own[j] - keys[t % LANES + i] * query_zero;
        }
        for (long u = 0; u < units; u++, k += key_width) {
#pragma GCC unroll 8
            for (int i = 0; i < BLOCK; i++) {
#pragma GCC unroll 2
                for (int j = 0; j < n; j++)
                    sums[i][j] =
                        (integers)BYTES_ADDED(sums[i][j], q[u * width + j], (k[i] - (integers){0}));
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < BLOCK; i++) {
#pragma GCC unroll 2
            for (int j = 0; j < n; j++)
                scores[(t + i) * n + j] = as_floats(sums[i][j]) * scale;
        }
    }
}

/* Probabilities [keys][n] times `factor` [n] become bytes of four keys, [keys / 4][n], in their
   place; `totals` [n] become the sums of those. */
INLINE void pack_probabilities(const quantizer *form, vector *scores, long keys,
                               const vector *factor, integers *totals, const int n) {
    for (int j = 0; j < n; j++)
        totals[j] = (integers){0};
    for (long t = 0; t < keys; t += 4) {
        for (int j = 0; j < n; j++) {
            integers four = {0};
            for (long i = 0; i < least(4, keys - t); i++)
                four |= byte_of(scores[(t + i) * n + j] * factor[j], form) << (8 * i);
            scores[t / 4 * n + j] = (vector)four;
            totals[j] = (integers)BYTES_ADDED(totals[j], four, (0x01010101 - (integers){0}));
        }
    }
}

/* As mix_block, of what pack_probabilities yields. */
INLINE void mix_bytes(const attention *a, const vector *packed, const columns *value, long vectors,
                      long first_lane, long keys, long feature, const integers *totals, vector *out,
                      const int count, const int n) {
    integers sums[BLOCK][QUERIES];
    const float scale = a->probabilities.scale * a->value.scale;
    memset(sums, 0, sizeof sums);
    for (long done = 0; done < keys; done += TILE * LANES) {
        long lane = first_lane + done, tile = lane / (TILE * LANES);
        long plane = groups_of(width_of(vectors, tile)) * LANES;
        const int32_t *values = (const int32_t *)tile_of(value, tile) + feature * plane;
        for (long t = 0; t < least(keys - done, TILE * LANES); t += 4) {
            /* Where the bytes of four tokens lie, see `pack`. */
            long token = lane % (TILE * LANES) + t, v = token / LANES;
            const int32_t *four = values + v / GROUP * LANES + token % LANES + v % GROUP;
            const integers *p = (const integers *)packed + (done + t) / 4 * n;
#pragma GCC unroll 8
            for (int i = 0; i < count; i++) {
#pragma GCC unroll 2
                for (int j = 0; j < n; j++)
                    sums[i][j] =
                        (integers)BYTES_ADDED(sums[i][j], p[j], (four[i * plane] - (integers){0}));
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < count; i++) {
#pragma GCC unroll 2
        for (int j = 0; j < n; j++)
            out[i * n + j] =
                as_floats(sums[i][j] - totals[j] * (int32_t)a->value.zero_point) * scale;
    }
}
#endif

#endif
