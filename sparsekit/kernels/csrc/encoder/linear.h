/* Linear layers: the matmul, then scaling, bias, activation and residual while the sums are in the
cache. */

#ifndef SPARSEKIT_ENCODER_LINEAR_H
#define SPARSEKIT_ENCODER_LINEAR_H

#include "phases.h"
#include "sparse_matmul.h"
#include "tensors.h"
#include "tile_matmul.h"
#include "vectors.h"

/* The largest number of outputs per piece, whose sums stay in the cache for all chunks: up to 96 KB
   for a tile. */
#define PANEL 192

/* With GATED, rows are alternately four of the gate and four that its activation is multiplied by:
   half as many outputs. */
enum { NONE = 0, GELU = 1, RELU = 2, GELU_TANH = 3, SILU = 4, GATED = 8 };

INLINE vector activate(vector x, long activation) {
    switch (activation & ~GATED) {
    case GELU: return gelu(x);
    case RELU: return at_least(x, broadcast(0.0f));
    case GELU_TANH: return gelu_tanh(x);
    case SILU: return silu(x);
    default: return x;
    }
}

INLINE vector scaled(const weight *w, long r, integers sum) {
    vector x = w->format == FLOAT32 ? (vector)sum : to_float(sum);
    return multiply_add_floats(x, broadcast(w->scales[r]), broadcast(w->biases[r]));
}

/* Four outputs from the sums of row r on, [4 or with GATED 8][width], n vectors of them: scaled,
   plus bias, through the activation, plus the residual, which is indexed by the rows of the whole
   layer; then stored from `feature` on. */
INLINE void epilogue_block(const weight *w, long r, const integers *sums, long activation,
                           const vector *residual, const columns *to, integers *tile, long feature,
                           long width, long v, const int n) {
    vector y[4][GROUP];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < n; j++) {
            vector x = activate(scaled(w, r + i, sums[i * width + v + j]), activation);
            if (activation & GATED)
                x *= scaled(w, r + 4 + i, sums[(4 + i) * width + v + j]);
            y[i][j] = residual ? x + residual[(r + i) * width + v + j] : x;
        }
    }
    store(to, tile, width, feature, v, y, n);
}

/* The rows that make four outputs. */
INLINE long rows_of_four(long activation) { return activation & GATED ? 8 : 4; }

/* Rows `first` to `last` from their sums; row `row` makes feature 0. */
static void epilogue(const weight *w, long first, long last, const integers *sums, long activation,
                     const vector *residual, const columns *to, integers *tile, long row,
                     long width) {
    long step = rows_of_four(activation);
    for (long r = first; r < last; r += step, sums += step * width) {
        long v = 0, feature = (r - row) / step * 4;
        for (; v + GROUP <= width; v += GROUP)
            epilogue_block(w, r, sums, activation, residual, to, tile, feature, width, v, GROUP);
        for (; v < width; v++)
            epilogue_block(w, r, sums, activation, residual, to, tile, feature, width, v, 1);
    }
}

/* Pieces have a multiple of so many rows, as the layer has: of whole outputs, or of whole tiles. */
INLINE long rows_per_step(const weight *w, long activation) {
    return w->format == TILES          ? TILE_ROWS
           : w->format == MASKED_TILES ? BLOCK_ROWS
                                       : rows_of_four(activation);
}

/* sums [last - first][width] = the rows times a tile of x. */
static void multiply_rows(const weight *w, long first, long last, const integers *x, integers *sums,
                          long width) {
#ifdef HAS_AMX
    if (w->format == TILES) {
        multiply_tiles(w, first, last, x, sums, width);
        return;
    }
    if (w->format == MASKED_TILES) {
        multiply_masked_tiles(w, first, last, x, sums, width);
        return;
    }
#endif
    for (long chunk = 0; chunk < w->chunks; chunk++)
        multiply(w, chunk, first, last, x + chunk * chunk_vectors(w, width), sums, width);
}

/* to = rows `row` to `row + rows` of a Linear layer for `vectors` vectors of x: piece i of
   `pieces`. Rows are multiples of `rows_per_step`. */
static void linear(const weight *w, long row, long rows, const columns *x, long vectors,
                   long activation, const columns *residual, const columns *to, integers *sums,
                   long i, long pieces) {
    long step = rows_per_step(w, activation);
    long first = row + step * part_begin(rows / step, i, pieces),
         last = row + step * part_begin(rows / step, i + 1, pieces);
    for (long tile = 0; tile * TILE < vectors; tile++) {
        long width = tile_width(vectors, tile);
        multiply_rows(w, first, last, tile_data(x, tile), sums, width);
        epilogue(w, first, last, sums, activation,
                 residual ? (const vector *)tile_data(residual, tile) : 0, to, tile_data(to, tile),
                 row, width);
    }
}

/* All rows of a Linear layer, divided among the workers. */
static void linear_layer(const weight *w, const columns *x, long vectors, long activation,
                         const columns *residual, const columns *to, worker *self) {
    long step = rows_per_step(w, activation);
    long pieces = piece_count(w->rows / step, PANEL / step, self);
    for (long i = claim_piece(self); i < pieces; i = complete_and_claim(self))
        linear(w, 0, w->rows, x, vectors, activation, residual, to, self->scratch, i, pieces);
    finish_phase(self, pieces);
}

#endif
