/* The matmul of a tile and the weight, one multiply-add of vectors per entry. */

#ifndef SPARSEKIT_SPARSE_LINEAR_MATMUL_H
#define SPARSEKIT_SPARSE_LINEAR_MATMUL_H

#include "sparse_rows.h"
#include "tiles.h"

SPECIALIZED void multiply_add(vector *sums, float value, const float *feature, const int vectors) {
    UNROLL for (int v = 0; v < vectors; v++) sums[v] += value * VECTOR_AT(feature + v * LANES);
}

/* out[row - first] += block b of the row times the tile's features, or = in block 0; for the rows
   at `first` to `last` in the order of block b. Two chains of sums hide latency. */
SPECIALIZED void multiply(const sparse_rows *weight, long b, long first, long last,
                          const float *values, const tile_row *features, tile_row *out,
                          const int vectors) {
    const int32_t *pointers = weight->pointers + b * (weight->rows + 1);
    const int32_t *order = weight->order + b * weight->rows;
    for (long i = first; i < last; i++) {
        float *sums = out[order[i] - first];
        vector even[VECTORS], odd[VECTORS];
        UNROLL for (int v = 0; v < vectors; v++) {
            even[v] = b ? VECTOR_AT(sums + v * LANES) : (vector){0};
            odd[v] = (vector){0};
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
        UNROLL for (int v = 0; v < vectors; v++) * (vector *)(sums + v * LANES) = even[v] + odd[v];
    }
}

static __attribute__((noinline)) void multiply_block(const sparse_rows *weight, long b, long first,
                                                     long last, const float *values,
                                                     const tile_row *features, tile_row *out,
                                                     long tokens) {
    FOR_VECTORS(vector_count(tokens), multiply, weight, b, first, last, values, features, out)
}

/* The outputs of one tile for the chunk of rows that begins at `first`. */
static void multiply_tile(const sparse_rows *weight, const float *values, const float *x,
                          long tokens, long tile, long first, const float *bias,
                          const uint8_t *mask, float *y, tile_row *out) {
    long rows = weight->rows, chunk = min_long(CHUNK, rows - first),
         count = token_count(tile, tokens);
    long start = first_token(tile, tokens) * rows + first;
    tile_row features[BLOCK];
    for (long b = 0; b < block_count(weight); b++) {
        pack_block(weight, b, x, NULL, tile, tokens, features);
        multiply_block(weight, b, first, first + chunk, values, features, out, count);
    }
    unpack(out, count, chunk, rows, bias ? bias + first : bias, mask ? mask + start : mask,
           y + start);
}

#endif
