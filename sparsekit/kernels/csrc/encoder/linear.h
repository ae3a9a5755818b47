/* Linear layers: the product with a weight, then what follows it while the sums are at hand. */

#ifndef SPARSEKIT_ENCODER_LINEAR_H
#define SPARSEKIT_ENCODER_LINEAR_H

#include "phases.h"
#include "sparse_matmul.h"
#include "tensors.h"
#include "vectors.h"

/* Outputs of a piece, whose sums are kept while the chunks go by: at most 96 KB of a tile. */
#define PANEL 192

enum { NONE, GELU, RELU };

/* Rows `row` and on of y, [4][n] of them, from their sums [4][width]: scaled, plus bias, through
   the activation, plus the residual, which lies as the sums of all rows do; then kept. */
INLINE void finish_block(const weight *w, long r, const integers *sums, long activation,
                         const vector *residual, const columns *to, integers *tile, long row,
                         long width, long v, const int n) {
    vector y[4][GROUP];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        vector scale = all(w->scales[r + i]), bias = all(w->biases[r + i]);
#pragma GCC unroll 4
        for (int j = 0; j < n; j++) {
            integers sum = sums[i * width + v + j];
            vector x = (w->form == PLAIN ? (vector)sum : as_floats(sum)) * scale + bias;
            if (activation == GELU)
                x = gelu(x);
            if (activation == RELU)
                x = larger(x, all(0.0f));
            y[i][j] = residual ? x + residual[(r + i) * width + v + j] : x;
        }
    }
    keep(to, tile, width, r - row, v, y, n);
}

/* Rows `first` to `last` from their sums. */
static void finish(const weight *w, long first, long last, const integers *sums, long activation,
                   const vector *residual, const columns *to, integers *tile, long row,
                   long width) {
    for (long r = first; r < last; r += 4, sums += 4 * width) {
        long v = 0;
        for (; v + GROUP <= width; v += GROUP)
            finish_block(w, r, sums, activation, residual, to, tile, row, width, v, GROUP);
        for (; v < width; v++)
            finish_block(w, r, sums, activation, residual, to, tile, row, width, v, 1);
    }
}

/* to = rows `row` to `row + rows` of a Linear layer on `vectors` vectors of x: piece i of `pieces`.
   Rows are multiples of four. */
static void linear(const weight *w, long row, long rows, const columns *x, long vectors,
                   long activation, const columns *residual, const columns *to, integers *sums,
                   long i, long pieces) {
    long first = row + 4 * part(rows / 4, i, pieces),
         last = row + 4 * part(rows / 4, i + 1, pieces);
    for (long tile = 0; tile * TILE < vectors; tile++) {
        long width = width_of(vectors, tile);
        const integers *input = tile_of(x, tile);
        for (long chunk = 0; chunk < w->chunks; chunk++)
            multiply(w, chunk, first, last, input + chunk * chunk_vectors(w, width), sums, width);
        finish(w, first, last, sums, activation,
               residual ? (const vector *)tile_of(residual, tile) : 0, to, tile_of(to, tile), row,
               width);
    }
}

/* All rows of a Linear layer, shared by the threads. */
static void linear_layer(const weight *w, const columns *x, long vectors, long activation,
                         const columns *residual, const columns *to, member *me) {
    long pieces = pieces_of(w->rows / 4, PANEL / 4, me);
    for (long i = claim(me); i < pieces; i = claim_next(me))
        linear(w, 0, w->rows, x, vectors, activation, residual, to, me->scratch, i, pieces);
    settle(me, pieces);
}

#endif
