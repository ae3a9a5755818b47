/* The matmul of a tile and the weight, one multiply-add of vectors per entry. */

#ifndef SPARSEKIT_SPARSE_LINEAR_MATMUL_H
#define SPARSEKIT_SPARSE_LINEAR_MATMUL_H

#include <stddef.h>

#include "sparse_rows.h"
#include "tiles.h"

SPECIALIZED void multiply_add(vector *sums, float value, const float *feature, const int vectors) {
    UNROLL for (int v = 0; v < vectors; v++) sums[v] += value * VECTOR_AT(feature + v * LANES);
}

/* out[row - first] += block b of the row times the tile's features, or = in block 0; for the rows
   at `first` to `last` in the order of block b. */
SPECIALIZED void multiply(const sparse_rows *weight, long b, long first, long last,
                          const float *values, const tile_row *features, tile_row *out,
                          const int vectors) {
    const int32_t *pointers = weight->pointers + b * (weight->rows + 1);
    const int32_t *order = weight->order + b * weight->rows;
    for (long i = first; i < last; i++) {
        float *sums = out[order[i] - first];
        vector even[VECTORS], second[VECTORS];
        /* Two chains of sums hide the latency of additions; more than 6 vectors do so by
           themselves, and two chains of them would not fit into the registers. */
        vector *odd = vectors > 6 ? even : second;
        UNROLL for (int v = 0; v < vectors; v++) {
            even[v] = b ? VECTOR_AT(sums + v * LANES) : (vector){0};
            second[v] = (vector){0};
        }
        const uint16_t *offset = weight->offsets + pointers[i];
        const float *value = values + pointers[i];
        int32_t count = pointers[i + 1] - pointers[i];
        if (count & 1)
            multiply_add(even, *value++, feature_at(features, *offset++), vectors);
        if (count & 2) {
            multiply_add(even, value[0], feature_at(features, offset[0]), vectors);
            multiply_add(odd, value[1], feature_at(features, offset[1]), vectors);
            offset += 2, value += 2;
        }
        for (count /= 4; count > 0; count--, offset += 4, value += 4) {
            multiply_add(even, value[0], feature_at(features, offset[0]), vectors);
            multiply_add(odd, value[1], feature_at(features, offset[1]), vectors);
            multiply_add(even, value[2], feature_at(features, offset[2]), vectors);
            multiply_add(odd, value[3], feature_at(features, offset[3]), vectors);
        }
        UNROLL for (int v = 0; v < vectors; v++) * (vector *)(sums + v * LANES) =
            odd == even ? even[v] : even[v] + second[v];
    }
}

static __attribute__((noinline)) void multiply_block(const sparse_rows *weight, long b, long first,
                                                     long last, const float *values,
                                                     const tile_row *features, tile_row *out,
                                                     long tokens) {
    FOR_VECTORS(vector_count(tokens), multiply, weight, b, first, last, values, features, out)
}

/* What the sums of a matmul are made of and written to; see sparse_matmul. */
typedef struct {
    const float *values;
    const void *x;
    const int32_t *zero_point;
    long tokens;
    const float *scales, *bias;
    const uint8_t *mask;
    float *y;
} operands;

/* The outputs of one tile for the chunk of rows that begins at `first`. */
static void multiply_tile(const sparse_rows *weight, const operands *o, long tile, long first,
                          tile_row *out) {
    long rows = weight->rows, chunk = min_long(CHUNK, rows - first);
    long count = token_count(tile, o->tokens), start = first_token(tile, o->tokens) * rows + first;
    tile_row features[BLOCK];
    for (long b = 0; b < block_count(weight); b++) {
        pack_block(weight, b, o->x, o->zero_point, tile, o->tokens, features);
        multiply_block(weight, b, first, first + chunk, o->values, features, out, count);
    }
    unpack(out, count, chunk, rows, o->scales ? o->scales + first : NULL,
           o->bias ? o->bias + first : NULL, o->mask ? o->mask + start : NULL, o->y + start);
}

#endif
