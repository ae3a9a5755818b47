/* Tiles of up to TOKENS tokens of activations, transposed: packing from and unpacking to memory.

Activations are row-major [tokens, width]; a tile row is one feature of all tokens of the tile. */

#ifndef SPARSEKIT_SPARSE_LINEAR_TILES_H
#define SPARSEKIT_SPARSE_LINEAR_TILES_H

#include <stdint.h>
#include <string.h>

#include "vectors.h"

/* The largest number of tokens in a tile: their sums fit into the 32 registers of AVX-512, or into
   the 16 of AVX, beside what is added to them. */
#define TOKENS (LANES == 16 ? 96 : 64)
#define VECTORS (TOKENS / LANES)

typedef float tile_row[TOKENS] __attribute__((aligned(64)));

static long vector_count(long tokens) { return (tokens + LANES - 1) / LANES; }

/* The number of tiles: even, so that two threads get equal shares. */
static long tile_count(long tokens) {
    long vectors = vector_count(tokens);
    return min_long(vectors, 2 * ((vectors + 2 * VECTORS - 1) / (2 * VECTORS)));
}

/* The first token of a tile; tiles differ by at most one vector in size. */
static long first_token(long tile, long tokens) {
    return LANES * (vector_count(tokens) * tile / tile_count(tokens));
}

static long token_count(long tile, long tokens) {
    return min_long(first_token(tile + 1, tokens), tokens) - first_token(tile, tokens);
}

/* `count` values of x from `start`, followed by zeros. With a zero point x is uint8, and it is
   subtracted. */
static inline vector load(const void *x, const int32_t *zero_point, long start, long count) {
    vector loaded = {0};
    if (zero_point) {
        bytes raw = {0};
        memcpy(&raw, (const uint8_t *)x + start, count);
        loaded = __builtin_convertvector(raw, vector) - (float)*zero_point;
        if (count < LANES)
            loaded = (vector)((integers)loaded & (lane_numbers < (int32_t)count));
    } else
        memcpy(&loaded, (const float *)x + start, 4 * count);
    return loaded;
}

/* packed[width] = `count` tokens of x, transposed, zero up to a multiple of LANES. `start`: index
   of the first value; `stride`: values from one token to the next. */
static void pack(const void *x, const int32_t *zero_point, long start, long stride, long count,
                 long width, tile_row *packed) {
    for (long t = 0; t < count; t += LANES) {
        for (long w = 0; w < width; w += LANES) {
            vector rows[LANES];
            long columns = min_long(LANES, width - w);
            for (int i = 0; i < LANES; i++) {
                long at = start + (t + i) * stride + w;
                if (t + i >= count)
                    rows[i] = (vector){0};
                else if (columns == LANES)
                    rows[i] = load(x, zero_point, at, LANES);
                else
                    rows[i] = load(x, zero_point, at, columns);
            }
            transpose(rows);
            for (int i = 0; i < columns; i++)
                *(vector *)(packed[w + i] + t) = rows[i];
        }
    }
}

/* Writes `count` tokens of tile[width] to y: times scales, plus bias, 0 where mask is 0, even for
   NaN; all optional.
   `stride`: values from one token to the next. */
static void unpack(const tile_row *tile, long count, long width, long stride, const float *scales,
                   const float *bias, const uint8_t *mask, float *y) {
    for (long t = 0; t < count; t += LANES) {
        for (long w = 0; w < width; w += LANES) {
            vector rows[LANES], factors = {0}, added_bias = {0};
            long columns = min_long(LANES, width - w);
            for (int i = 0; i < LANES; i++)
                rows[i] = i < columns ? VECTOR_AT(tile[w + i] + t) : (vector){0};
            transpose(rows);
            if (scales)
                memcpy(&factors, scales + w, 4 * columns);
            if (bias)
                memcpy(&added_bias, bias + w, 4 * columns);
            for (int i = 0; i < min_long(LANES, count - t); i++) {
                if (scales) {
                    rows[i] *= factors;
                    /* Rounded before the bias is added, as torch does it: no multiply-add. */
                    __asm__("" : "+m"(rows[i]));
                }
                rows[i] += added_bias;
                if (mask) {
                    bytes raw = {0};
                    memcpy(&raw, mask + (t + i) * stride + w, columns);
                    integers kept = __builtin_convertvector(raw, integers) != 0;
                    rows[i] = (vector)((integers)rows[i] & kept);
                }
                if (columns == LANES)
                    *(unaligned_vector *)(y + (t + i) * stride + w) = rows[i];
                else
                    memcpy(y + (t + i) * stride + w, &rows[i], 4 * columns);
            }
        }
    }
}

#endif
