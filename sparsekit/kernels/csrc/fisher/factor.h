/* The Cholesky factors of a group's matrices, and equations that they solve, in float64.

Lower triangles are packed row by row, entry (i, j) at row_start(i) + j, HALF matrices side by side.
*/

#ifndef SPARSEKIT_FISHER_FACTOR_H
#define SPARSEKIT_FISHER_FACTOR_H

#include "vectors.h"

/* The sum over k < count of a[k] * b[k]; four sums hide the latency of an addition. */
static inline doubles dot(const doubles *a, const doubles *b, long count) {
    doubles sums[4] = {{0}};
    long k = 0;
    for (; k + 4 <= count; k += 4)
        for (int s = 0; s < 4; s++)
            sums[s] += a[k + s] * b[k + s];
    for (; k < count; k++)
        sums[0] += a[k] * b[k];
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

/* matrix: the mean of g gᵀ, from `sums` over `count` gradients, with the rows and columns of pruned
   entries (`mask` [size, LANES] is 0) set to zero, and the damping on its diagonal: at least
   `rounding` times the sum of the diagonal, the error of a float32 sum. */
static void damped_matrix(const float *sums, const float *mask, long size, double count,
                          double damp, double rounding, doubles *matrix) {
    doubles trace = {0};
    for (long i = 0; i < size; i++) {
        doubles row_mask = widened(mask + i * LANES) / count;
        for (long j = 0; j <= i; j++)
            matrix[row_start(i) + j] =
                widened(sums + (row_start(i) + j) * LANES) * row_mask * widened(mask + j * LANES);
        trace += matrix[row_start(i) + i];
    }
    doubles added = larger(trace * rounding, damp);
    for (long i = 0; i < size; i++)
        matrix[row_start(i) + i] += added;
}

/* Replaces a matrix by its factor L, matrix = L Lᵀ. inverses [size]: 1 / L's diagonal. */
static void factorize(doubles *matrix, long size, doubles *inverses) {
    for (long i = 0; i < size; i++) {
        doubles *row = matrix + row_start(i);
        for (long j = 0; j < i; j++)
            row[j] = (row[j] - dot(row, matrix + row_start(j), j)) * inverses[j];
        row[i] = square_root(row[i] - dot(row, row, i));
        inverses[i] = 1.0 / row[i];
    }
}

/* x [size] becomes L⁻¹ x; its entries before `first` are zero and not read. */
static void solve_lower(const doubles *factor, const doubles *inverses, long size, long first,
                        doubles *x) {
    for (long i = first; i < size; i++)
        x[i] = (x[i] - dot(factor + row_start(i) + first, x + first, i - first)) * inverses[i];
}

/* x [size] becomes L⁻ᵀ x. */
static void solve_upper(const doubles *factor, const doubles *inverses, long size, doubles *x) {
    for (long i = size - 1; i >= 0; i--) {
        const doubles *row = factor + row_start(i);
        x[i] *= inverses[i];
        for (long k = 0; k < i; k++)
            x[k] -= row[k] * x[i];
    }
}

#endif
