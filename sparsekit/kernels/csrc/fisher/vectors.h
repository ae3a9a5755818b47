/* Vectors with one lane for each block of the Fisher information, so that all operations on small
matrices are elementwise. They are extensions of GCC and Clang. */

#ifndef SPARSEKIT_FISHER_VECTORS_H
#define SPARSEKIT_FISHER_VECTORS_H

#include <math.h>

/* The ABI of vector arguments does not matter: they are passed within one file only. */
#pragma GCC diagnostic ignored "-Wpsabi"

/* The blocks of a group: the float32 values of a register. Twice as many registers of float64. */
#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#define HALF (LANES / 2)

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef float unaligned_vector __attribute__((vector_size(4 * LANES), aligned(4)));
typedef float half_vector __attribute__((vector_size(4 * HALF)));
typedef double doubles __attribute__((vector_size(8 * HALF)));

static inline doubles widened(const float *values) {
    return __builtin_convertvector(*(const half_vector *)values, doubles);
}

static inline doubles square_root(doubles values) {
    for (int lane = 0; lane < HALF; lane++)
        values[lane] = sqrt(values[lane]);
    return values;
}

static inline doubles larger(doubles a, double b) {
    for (int lane = 0; lane < HALF; lane++)
        a[lane] = a[lane] > b ? a[lane] : b;
    return a;
}

/* The number of entries above row `row` of a packed lower triangle, where its first one lies. */
static inline long row_start(long row) { return row * (row + 1) / 2; }

static inline long min_long(long a, long b) { return a < b ? a : b; }

#endif
