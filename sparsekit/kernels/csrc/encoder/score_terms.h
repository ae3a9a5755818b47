/* What attention reads besides activations: terms that are added to scores, and rotations. */

#ifndef SPARSEKIT_ENCODER_SCORE_TERMS_H
#define SPARSEKIT_ENCODER_SCORE_TERMS_H

#include "vectors.h"

/* masks [rows][length]: added to the scores of each key.
   pairs: NULL, or [rows or 1][heads or 1][length][padded]: added to the scores of each key and
   query; pair_row and pair_head are the distances of two rows and of two heads, 0 for 1.
   cosines and sines: NULL, or [features of a head][padded], of each position.
   padded: the length rounded up to whole vectors.
   distance_keys and distance_queries: NULL, or [features of all heads][distances], the key and the
   query of each distance that a query may have from a key; see disentangled.h. Rows of features
   are distance_stride apart, of which element distance_center belongs to the distance 0. */
typedef struct {
    const float *masks, *pairs, *cosines, *sines;
    long length, padded, pair_row, pair_head;
    const float *distance_keys, *distance_queries;
    long distance_stride, distance_center;
} score_terms;

/* The terms of one head for the vector of queries that begins at position `first` of a row. */
INLINE const float *pair_terms(const score_terms *terms, long row, long head, long first) {
    if (!terms->pairs)
        return 0;
    return terms->pairs + row * terms->pair_row + head * terms->pair_head + first;
}

#endif
