/* Linear layers: the matmul, then scaling, bias, activation and residual while the sums are in the
cache. */

#ifndef SPARSEKIT_ENCODER_LINEAR_H
#define SPARSEKIT_ENCODER_LINEAR_H

#include "phases.h"
#include "sparse_matmul.h"
#include "tensors.h"
#include "vectors.h"

/* The largest number of outputs per piece, whose sums stay in the cache for all chunks: up to 96 KB
   for a tile. */
#define PANEL 192

enum { NONE, GELU, RELU, GELU_TANH, SILU };

/* Four rows from their sums [4][width], n vectors of them: scaled, plus bias, through the
   activation, plus the residual, which is indexed by the rows of the whole layer; then stored at
   row r - row. */
INLINE void epilogue_block(const weight *w, long r, const integers *sums, long activation,
                           const vector *residual, const columns *to, integers *tile, long row,
                           long width, long v, const int n) {
    vector y[4][GROUP];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        vector scale = broadcast(w->scales[r + i]), bias = broadcast(w->biases[r + i]);
#pragma GCC unroll 4
        for (int j = 0; j < n; j++) {
            integers sum = sums[i * width + v + j];
            vector x = (w->format == FLOAT32 ? (vector)sum : to_float(sum)) * scale + bias;
            if (activation == GELU)
                x = gelu(x);
            if (activation == RELU)
                x = maximum(x, broadcast(0.0f));
            if (activation == GELU_TANH)
                x = gelu_tanh(x);
            if (activation == SILU)
                x = silu(x);
            y[i][j] = residual ? x + residual[(r + i) * width + v + j] : x;
        }
    }
    store(to, tile, width, r - row, v, y, n);
}

/* Rows `first` to `last` from their sums. */
static void epilogue(const weight *w, long first, long last, const integers *sums, long activation,
                     const vector *residual, const columns *to, integers *tile, long row,
                     long width) {
    for (long r = first; r < last; r += 4, sums += 4 * width) {
        long v = 0;
        for (; v + GROUP <= width; v += GROUP)
            epilogue_block(w, r, sums, activation, residual, to, tile, row, width, v, GROUP);
        for (; v < width; v++)
            epilogue_block(w, r, sums, activation, residual, to, tile, row, width, v, 1);
    }
}

/* to = rows `row` to `row + rows` of a Linear layer for `vectors` vectors of x: piece i of
   `pieces`. Rows are multiples of four. */
static void linear(const weight *w, long row, long rows, const columns *x, long vectors,
                   long activation, const columns *residual, const columns *to, integers *sums,
                   long i, long pieces) {
    long first = row + 4 * part_begin(rows / 4, i, pieces),
         last = row + 4 * part_begin(rows / 4, i + 1, pieces);
    for (long tile = 0; tile * TILE < vectors; tile++) {
        long width = tile_width(vectors, tile);
        const integers *input = tile_data(x, tile);
        for (long chunk = 0; chunk < w->chunks; chunk++)
            multiply(w, chunk, first, last, input + chunk * chunk_vectors(w, width), sums, width);
        epilogue(w, first, last, sums, activation,
                 residual ? (const vector *)tile_data(residual, tile) : 0, to, tile_data(to, tile),
                 row, width);
    }
}

/* All rows of a Linear layer, divided among the workers. */
static void linear_layer(const weight *w, const columns *x, long vectors, long activation,
                         const columns *residual, const columns *to, worker *self) {
    long pieces = piece_count(w->rows / 4, PANEL / 4, self);
    for (long i = claim_piece(self); i < pieces; i = complete_and_claim(self))
        linear(w, 0, w->rows, x, vectors, activation, residual, to, self->scratch, i, pieces);
    finish_phase(self, pieces);
}

#endif
