/* Attention of each head: scores of query and key, softmax over the keys, weighted sum of the
values. */

#ifndef SPARSEKIT_ENCODER_ATTENTION_H
#define SPARSEKIT_ENCODER_ATTENTION_H

#include "attention_matmul.h"
#include "tensors.h"
#include "vectors.h"

/* In place, scores [keys][n] = e^(score * scale + mask - largest); sums [n]: their sums over the
   keys. */
INLINE void softmax_numerators(vector *scores, long keys, float scale, const float *mask,
                               vector *sums, const int n) {
    vector largest[QUERIES];
#pragma GCC unroll 2
    for (int j = 0; j < n; j++) {
        largest[j] = broadcast(-__builtin_inff());
        sums[j] = broadcast(0.0f);
    }
    for (long t = 0; t < keys; t++) {
#pragma GCC unroll 2
        for (int j = 0; j < n; j++) {
            scores[t * n + j] = scores[t * n + j] * scale + mask[t];
            largest[j] = maximum(largest[j], scores[t * n + j]);
        }
    }
    for (long t = 0; t < keys; t++) {
#pragma GCC unroll 2
        for (int j = 0; j < n; j++) {
            scores[t * n + j] = exponential(scores[t * n + j] - largest[j]);
            sums[j] += scores[t * n + j];
        }
    }
}

/* scores [keys][n] for n vectors of queries from v on. */
INLINE void compute_scores(const attention *a, long head, const columns *query, long query_vectors,
                           long v, const columns *key, long vectors, const sequence *seq,
                           vector *scores, const int n) {
#ifdef INT8_DOT_PRODUCTS
    if (a->query.format == PACKED) {
        score_int8(a, head, query, query_vectors, v, key, vectors, seq, scores, n);
        return;
    }
#endif
    for (long t = 0; t < seq->tokens; t += BLOCK)
        score_block(query, query_vectors, v, key, vectors, seq->first * LANES + t,
                    head * a->features, a->features, scores + t * n, n);
}

/* Turns the numerators of softmax into the weights that weighted_sum takes, quantized if the
   probabilities are. The weighted sum is then to be multiplied by `sums`, which is 1 / sum or 1.
   probability_sums: see pack_probabilities. */
INLINE void finish_probabilities(const attention *a, vector *scores, long keys, vector *sums,
                                 integers *probability_sums, const int n) {
#pragma GCC unroll 2
    for (int j = 0; j < n; j++)
        sums[j] = 1.0f / sums[j];
    (void)probability_sums; /* Used with int8 only. */
    if (a->probabilities.format == FLOAT32)
        return;
#ifdef INT8_DOT_PRODUCTS
    if (a->probabilities.format == PACKED)
        pack_probabilities(&a->probabilities, scores, keys, sums, probability_sums, n);
#endif
    for (long t = 0; t < keys && a->probabilities.format == ROUNDED; t++)
        for (int j = 0; j < n; j++)
            scores[t * n + j] = fake_quantize(scores[t * n + j] * sums[j], &a->probabilities);
    for (int j = 0; j < n; j++)
        sums[j] = broadcast(1.0f);
}

/* out [count][n]: the weighted sums of `count` features of the values, from `feature` on. */
INLINE void weighted_sum(const attention *a, const vector *weights, const columns *value,
                         long vectors, const sequence *seq, long feature,
                         const integers *probability_sums, vector *out, const int count,
                         const int n) {
    long lane = seq->first * LANES;
    (void)a, (void)probability_sums; /* Used with int8 only. */
#ifdef INT8_DOT_PRODUCTS
    if (a->probabilities.format == PACKED) {
        weighted_sum_int8(a, weights, value, vectors, lane, seq->tokens, feature, probability_sums,
                          out, count, n);
        return;
    }
#endif
    weighted_sum_block(weights, value, vectors, lane, seq->tokens, feature, out, count, n);
}

/* The output of one head for n vectors of queries from v on. */
INLINE void attention_head(const attention *a, long head, const columns *query, long query_vectors,
                           long v, const columns *key, const columns *value, long vectors,
                           const sequence *seq, const columns *to, vector *scores, const int n) {
    vector sums[QUERIES];
    integers probability_sums[QUERIES];
    compute_scores(a, head, query, query_vectors, v, key, vectors, seq, scores, n);
    softmax_numerators(scores, seq->tokens, a->scale, seq->mask, sums, n);
    finish_probabilities(a, scores, seq->tokens, sums, probability_sums, n);
    integers *tile = tile_data(to, v / TILE);
    long width = tile_width(query_vectors, v / TILE), feature = head * a->features;
    for (long f = 0; f < a->features;) {
        vector out[BLOCK * QUERIES], four[4][GROUP];
        int count = a->features - f >= BLOCK ? BLOCK : 4;
        if (count == BLOCK)
            weighted_sum(a, scores, value, vectors, seq, feature + f, probability_sums, out, BLOCK,
                         n);
        else
            weighted_sum(a, scores, value, vectors, seq, feature + f, probability_sums, out, 4, n);
        for (int i = 0; i < count; i += 4) {
#pragma GCC unroll 4
            for (int m = 0; m < 4; m++) {
#pragma GCC unroll 2
                for (int j = 0; j < n; j++)
                    four[m][j] = out[(i + m) * n + j] * sums[j];
            }
            store(to, tile, width, feature + f + i, v % TILE, four, n);
        }
        f += count;
    }
}

#endif
