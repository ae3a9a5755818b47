/* Float32 matmuls around the encoder, such as those of a head that reads every token. */

#ifndef SPARSEKIT_ENCODER_DENSE_MATMUL_H
#define SPARSEKIT_ENCODER_DENSE_MATMUL_H

#include "vectors.h"

/* The tile of the result whose sums stay in registers. */
#define DENSE_ROWS 4
#define DENSE_VECTORS (2 * ACCUMULATORS)

/* `rows` (at most DENSE_ROWS) by `vectors` (at most DENSE_VECTORS) of the product, both constants
   where this is inlined. x [rows, inputs] has a stride of `inputs`, w and out one of `columns`. */
INLINE void dense_tile(const float *x, const float *w, long rows, long vectors, long inputs,
                       long columns, float *out) {
    vector sums[DENSE_ROWS][DENSE_VECTORS] = {0};
    for (long i = 0; i < inputs; i++)
        for (long v = 0; v < vectors; v++) {
            vector weights = load(w + i * columns + v * LANES);
            for (long r = 0; r < rows; r++)
                sums[r][v] = multiply_add_floats(broadcast(x[r * inputs + i]), weights, sums[r][v]);
        }
    for (long r = 0; r < rows; r++)
        for (long v = 0; v < vectors; v++)
            *(unaligned_vector *)(out + r * columns + v * LANES) = sums[r][v];
}

/* All rows for as many columns as `vectors` have, so that their weights stay in the cache. */
INLINE void dense_columns(const float *x, const float *w, long rows, long vectors, long inputs,
                          long columns, float *out) {
    long row = 0;
    for (; row + DENSE_ROWS <= rows; row += DENSE_ROWS)
        dense_tile(x + row * inputs, w, DENSE_ROWS, vectors, inputs, columns, out + row * columns);
    for (; row < rows; row++)
        dense_tile(x + row * inputs, w, 1, vectors, inputs, columns, out + row * columns);
}

/* out [rows, columns] = x [rows, inputs] w [inputs, columns]; sums go over the inputs in order.
   columns: a multiple of LANES. */
static void dense_product(const float *x, const float *w, long rows, long inputs, long columns,
                          float *out) {
    long column = 0;
    for (; column + DENSE_VECTORS * LANES <= columns; column += DENSE_VECTORS * LANES)
        dense_columns(x, w + column, rows, DENSE_VECTORS, inputs, columns, out + column);
    for (; column < columns; column += LANES)
        dense_columns(x, w + column, rows, 1, inputs, columns, out + column);
}

#endif
