/* Vectors with one lane for each block of the Fisher information, so that all operations on small
matrices are elementwise; those of float64 have half as many lanes. */

#ifndef SPARSEKIT_FISHER_VECTORS_H
#define SPARSEKIT_FISHER_VECTORS_H

#include <math.h>

#include "../lanes.h"

#define HALF (LANES / 2)

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

#endif
