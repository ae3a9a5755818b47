/* Attention: for each head, query and key, softmax over the keys, probabilities and values. */

#ifndef SPARSEKIT_ENCODER_ATTENTION_H
#define SPARSEKIT_ENCODER_ATTENTION_H

#include "attention_matmul.h"
#include "tensors.h"
#include "vectors.h"

/* scores [keys][n] become e^(score - largest), and `sums` [n] what these add up to. */
INLINE void softmax(vector *scores, long keys, float scale, const float *mask, vector *sums,
                    const int n) {
    vector most[QUERIES];
#pragma GCC unroll 2
    for (int j = 0; j < n; j++) {
        most[j] = all(-__builtin_inff());
        sums[j] = all(0.0f);
    }
    for (long t = 0; t < keys; t++) {
#pragma GCC unroll 2
        for (int j = 0; j < n; j++) {
            scores[t * n + j] = scores[t * n + j] * scale + mask[t];
            most[j] = larger(most[j], scores[t * n + j]);
        }
    }
    for (long t = 0; t < keys; t++) {
#pragma GCC unroll 2
        for (int j = 0; j < n; j++) {
            scores[t * n + j] = exponential(scores[t * n + j] - most[j]);
            sums[j] += scores[t * n + j];
        }
    }
}

/* All scores [keys][n] of n vectors of queries, from v on. */
INLINE void score(const attention *a, long head, const columns *query, long query_vectors, long v,
                  const columns *key, long vectors, const sequence *of, vector *scores,
                  const int n) {
#ifdef PRODUCTS_OF_BYTES
    if (a->query.kind == FOURS) {
        score_bytes(a, head, query, query_vectors, v, key, vectors, of, scores, n);
        return;
    }
#endif
    for (long t = 0; t < of->tokens; t += BLOCK)
        score_block(query, query_vectors, v, key, vectors, of->first * LANES + t,
                    head * a->features, a->features, scores + t * n, n);
}

/* Scores e^(score - largest) that add up to `sums` [n] become what the values are weighted by,
   which is then to be multiplied by `sums`; `totals`: see pack_probabilities. */
INLINE void weigh(const attention *a, vector *scores, long keys, vector *sums, integers *totals,
                  const int n) {
#pragma GCC unroll 2
    for (int j = 0; j < n; j++)
        sums[j] = 1.0f / sums[j];
    (void)totals; /* Used in bytes only. */
    if (a->probabilities.kind == PLAIN)
        return;
#ifdef PRODUCTS_OF_BYTES
    if (a->probabilities.kind == FOURS)
        pack_probabilities(&a->probabilities, scores, keys, sums, totals, n);
#endif
    for (long t = 0; t < keys && a->probabilities.kind == ROUNDED; t++)
        for (int j = 0; j < n; j++)
            scores[t * n + j] = rounded(scores[t * n + j] * sums[j], &a->probabilities);
    for (int j = 0; j < n; j++)
        sums[j] = all(1.0f);
}

/* out [count][n]: `count` features, from `feature` on, of the values, weighted. */
INLINE void mix(const attention *a, const vector *weights, const columns *value, long vectors,
                const sequence *of, long feature, const integers *totals, vector *out,
                const int count, const int n) {
    long lane = of->first * LANES;
    (void)a, (void)totals; /* Used in bytes only. */
#ifdef PRODUCTS_OF_BYTES
    if (a->probabilities.kind == FOURS) {
        mix_bytes(a, weights, value, vectors, lane, of->tokens, feature, totals, out, count, n);
        return;
    }
#endif
    mix_block(weights, value, vectors, lane, of->tokens, feature, out, count, n);
}

/* One head of n vectors of queries, from v on. */
INLINE void attend(const attention *a, long head, const columns *query, long query_vectors, long v,
                   const columns *key, const columns *value, long vectors, const sequence *of,
                   const columns *to, vector *scores, const int n) {
    vector sums[QUERIES];
    integers totals[QUERIES];
    score(a, head, query, query_vectors, v, key, vectors, of, scores, n);
    softmax(scores, of->tokens, a->scale, of->mask, sums, n);
    weigh(a, scores, of->tokens, sums, totals, n);
    integers *tile = tile_of(to, v / TILE);
    long width = width_of(query_vectors, v / TILE), feature = head * a->features;
    for (long f = 0; f < a->features;) {
        vector out[BLOCK * QUERIES], four[4][GROUP];
        int count = a->features - f >= BLOCK ? BLOCK : 4;
        if (count == BLOCK)
            mix(a, scores, value, vectors, of, feature + f, totals, out, BLOCK, n);
        else
            mix(a, scores, value, vectors, of, feature + f, totals, out, 4, n);
        for (int i = 0; i < count; i += 4) {
#pragma GCC unroll 4
            for (int m = 0; m < 4; m++) {
#pragma GCC unroll 2
                for (int j = 0; j < n; j++)
                    four[m][j] = out[(i + m) * n + j] * sums[j];
            }
            keep(to, tile, width, feature + f + i, v % TILE, four, n);
        }
        f += count;
    }
}

#endif
