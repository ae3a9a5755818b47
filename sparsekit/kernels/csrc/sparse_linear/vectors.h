/* What depends on the number of lanes of a vector. */

#ifndef SPARSEKIT_SPARSE_LINEAR_VECTORS_H
#define SPARSEKIT_SPARSE_LINEAR_VECTORS_H

#include <stdint.h>
#include <string.h>

#include "../lanes.h"

typedef int32_t integers __attribute__((vector_size(4 * LANES)));
typedef uint8_t bytes __attribute__((vector_size(LANES)));

#define VECTOR_AT(address) (*(const vector *)(address))
#define SHUFFLE __builtin_shufflevector
#define UNROLL _Pragma("GCC unroll 8")

#if LANES == 16

static const integers lane_numbers = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/* Transposes 16 x 16 values in place: four times, rows i and i + 8 are interleaved. */
static inline void transpose(vector rows[LANES]) {
    for (int round = 0; round < 4; round++) {
        vector interleaved[LANES];
        for (int i = 0; i < LANES / 2; i++) {
            vector a = rows[i], b = rows[i + LANES / 2];
            interleaved[2 * i] =
                SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            interleaved[2 * i + 1] =
                SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        memcpy(rows, interleaved, sizeof interleaved);
    }
}

/* Sums of lanes that are 8 apart, terms[0]'s in the lower half, terms[1]'s in the upper. The terms
   are adjacent in memory, so one load gives the upper half of the first and the lower half of the
   second. */
static inline vector fold8(const vector terms[2]) {
    vector middle = *(const unaligned_vector *)((const float *)terms + LANES / 2);
    return middle +
           SHUFFLE(terms[0], terms[1], 0, 1, 2, 3, 4, 5, 6, 7, 24, 25, 26, 27, 28, 29, 30, 31);
}

/* Sums of lanes that are 4 apart (2, 1 in the next functions): a's in the lower half of each group
   of 8 lanes (4, 2), b's in the upper. */
static inline vector fold4(vector a, vector b) {
    return SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
           SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
}
static inline vector fold2(vector a, vector b) {
    return SHUFFLE(a, b, 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) +
           SHUFFLE(a, b, 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31);
}
static inline vector fold1(vector a, vector b) {
    return SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
           SHUFFLE(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

/* Lane i of the result is the sum over the lanes of terms[i]. */
static inline vector fold(const vector terms[LANES]) {
    vector fours[4];
    UNROLL for (int i = 0; i < 4; i++) fours[i] =
        fold4(fold8(terms + 4 * i), fold8(terms + 4 * i + 2));
    return fold1(fold2(fours[0], fours[1]), fold2(fours[2], fours[3]));
}

#else

/* Shuffles within the halves of these registers are cheap, those across the halves are not: each
   function ends with one of these. */

static const integers lane_numbers = {0, 1, 2, 3, 4, 5, 6, 7};

/* The lower halves of both, and the upper ones. */
static inline vector lower_halves(vector a, vector b) {
    return SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
}
static inline vector upper_halves(vector a, vector b) {
    return SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
}

/* Transposes the 4 x 4 values in the lower halves of four rows, and those in the upper halves. */
static inline void transpose_halves(vector rows[4]) {
    vector even0 = SHUFFLE(rows[0], rows[1], 0, 8, 1, 9, 4, 12, 5, 13);
    vector odd0 = SHUFFLE(rows[0], rows[1], 2, 10, 3, 11, 6, 14, 7, 15);
    vector even2 = SHUFFLE(rows[2], rows[3], 0, 8, 1, 9, 4, 12, 5, 13);
    vector odd2 = SHUFFLE(rows[2], rows[3], 2, 10, 3, 11, 6, 14, 7, 15);
    rows[0] = SHUFFLE(even0, even2, 0, 1, 8, 9, 4, 5, 12, 13);
    rows[1] = SHUFFLE(even0, even2, 2, 3, 10, 11, 6, 7, 14, 15);
    rows[2] = SHUFFLE(odd0, odd2, 0, 1, 8, 9, 4, 5, 12, 13);
    rows[3] = SHUFFLE(odd0, odd2, 2, 3, 10, 11, 6, 7, 14, 15);
}

/* Transposes 8 x 8 values in place. */
static inline void transpose(vector rows[LANES]) {
    transpose_halves(rows);
    transpose_halves(rows + 4);
    for (int i = 0; i < 4; i++) {
        vector first = rows[i], second = rows[i + 4];
        rows[i] = lower_halves(first, second);
        rows[i + 4] = upper_halves(first, second);
    }
}

/* Sums of adjacent lanes, in each half a's before b's. */
static inline vector fold_pairs(vector a, vector b) {
    return SHUFFLE(a, b, 0, 2, 8, 10, 4, 6, 12, 14) + SHUFFLE(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
}

/* Lane i of the result is the sum over the lanes of terms[i]. */
static inline vector fold(const vector terms[LANES]) {
    vector first = fold_pairs(fold_pairs(terms[0], terms[1]), fold_pairs(terms[2], terms[3]));
    vector second = fold_pairs(fold_pairs(terms[4], terms[5]), fold_pairs(terms[6], terms[7]));
    return lower_halves(first, second) + upper_halves(first, second);
}

#endif

#endif
