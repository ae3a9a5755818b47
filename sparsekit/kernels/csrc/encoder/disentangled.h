/* Disentangled attention (DeBERTa, arXiv:2006.03654), in float32.

The score of a query and a key that is i - j tokens before it is q_i k_j + q_i K_(i-j) + k_j
Q_(i-j), where K and Q, the key and the query of each distance, are constants of the layer. Lanes
are queries, so neighbouring lanes have neighbouring distances: with the constants stored by
distance, each vector of them is one load, and nothing has to be gathered. The last two products
cost an addition and a multiply-add for each multiply-add of the first. */

#ifndef SPARSEKIT_ENCODER_DISENTANGLED_H
#define SPARSEKIT_ENCODER_DISENTANGLED_H

#include "attention_matmul.h"
#include "score_terms.h"
#include "tensors.h"
#include "vectors.h"

/* As score_block, with both products of distances. Distances of lanes and keys beyond the last
   token exist too: the constants cover lengths of whole vectors. */
INLINE void score_block_distances(const head_part *part, long lane, vector *scores, const int n) {
    const score_terms *terms = part->terms;
    vector sums[BLOCK][QUERIES];
    long feature = part->head * part->attention->features;
    long width = tile_width(part->query_vectors, part->v / TILE);
    long key_width = tile_width(part->vectors, lane / (TILE * LANES)) * LANES;
    long distance = (part->v - part->first_vector) * LANES -
                    (lane - part->sequence->first * LANES) + terms->distance_center;
    const vector *q =
        (const vector *)tile_data(part->query, part->v / TILE) + feature * width + part->v % TILE;
    const float *k = token_data(part->key, part->vectors, feature, lane);
    const float *distance_key = terms->distance_keys + feature * terms->distance_stride + distance;
    const float *distance_query =
        terms->distance_queries + feature * terms->distance_stride + distance;
    memset(sums, 0, sizeof sums);
    for (long f = 0; f < part->attention->features; f++, q += width, k += key_width,
              distance_key += terms->distance_stride, distance_query += terms->distance_stride) {
#pragma GCC unroll 8
        for (int i = 0; i < BLOCK; i++) {
#pragma GCC unroll 4
            for (int j = 0; j < n; j++) {
                sums[i][j] = multiply_add_floats(
                    broadcast(k[i]), q[j] + load(distance_query + j * LANES - i), sums[i][j]);
                sums[i][j] =
                    multiply_add_floats(q[j], load(distance_key + j * LANES - i), sums[i][j]);
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < BLOCK; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < n; j++)
            scores[i * n + j] = sums[i][j];
    }
}

#endif
