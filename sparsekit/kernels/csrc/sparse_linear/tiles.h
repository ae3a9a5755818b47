/* Tiles: up to TOKENS tokens of activations, transposed; packed from memory and unpacked into it.

Activations are row-major, [tokens, width]; a tile row is one feature of its tokens. Vectors are
those of GCC and Clang, so the compiler maps them to what the processor has. */

#ifndef SPARSEKIT_SPARSE_LINEAR_TILES_H
#define SPARSEKIT_SPARSE_LINEAR_TILES_H

#include <stdint.h>
#include <string.h>

/* Vectors pass between functions of one file only, so their calling convention is no matter. */
#pragma GCC diagnostic ignored "-Wpsabi"

#define LANES 16
/* Tokens of a tile at most. */
#define TOKENS 96
#define VECTORS (TOKENS / LANES)

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef float unaligned __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t integers __attribute__((vector_size(4 * LANES)));
typedef uint8_t bytes __attribute__((vector_size(LANES)));
typedef float tile_row[TOKENS] __attribute__((aligned(64)));

#define VECTOR_AT(address) (*(const vector *)(address))
#define SHUFFLE __builtin_shufflevector
#define UNROLL _Pragma("GCC unroll 8")

static long least(long a, long b) { return a < b ? a : b; }

static long vectors_of(long tokens) { return (tokens + LANES - 1) / LANES; }

/* How many tiles there are: an even number, so that two threads get the same work. */
static long tile_count(long tokens) {
    long vectors = vectors_of(tokens);
    return least(vectors, 2 * ((vectors + 2 * VECTORS - 1) / (2 * VECTORS)));
}

/* The first token of a tile; all have the same number of vectors, or one more. */
static long first_of(long tile, long tokens) {
    return LANES * (vectors_of(tokens) * tile / tile_count(tokens));
}

static long count_of(long tile, long tokens) {
    return least(first_of(tile + 1, tokens), tokens) - first_of(tile, tokens);
}

/* 16 x 16 numbers, in place: four times, rows i and i + 8 are laced into one another. */
static inline void transpose(vector rows[LANES]) {
    for (int round = 0; round < 4; round++) {
        vector laced[LANES];
        for (int i = 0; i < LANES / 2; i++) {
            vector a = rows[i], b = rows[i + LANES / 2];
            laced[2 * i] = SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            laced[2 * i + 1] =
                SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        memcpy(rows, laced, sizeof laced);
    }
}

/* 16 numbers of x from `start`, the first `count` of them, the others 0. With a zero point x holds
   bytes, which become its differences from it. */
static inline vector load(const void *x, const int32_t *zero_point, long start, long count) {
    vector loaded = {0};
    if (zero_point) {
        bytes found = {0};
        memcpy(&found, (const uint8_t *)x + start, count);
        loaded = __builtin_convertvector(found, vector);
        for (int i = 0; i < count; i++)
            loaded[i] -= (float)*zero_point;
    } else
        memcpy(&loaded, (const float *)x + start, 4 * count);
    return loaded;
}

/* packed[width] from `count` tokens of x; what lacks to LANES is zero. The first token's numbers
   begin at `start`, and one token's begin `stride` after those of the one before. */
static void pack(const void *x, const int32_t *zero_point, long start, long stride, long count,
                 long width, tile_row *packed) {
    for (long t = 0; t < count; t += LANES) {
        for (long w = 0; w < width; w += LANES) {
            vector rows[LANES];
            long columns = least(LANES, width - w);
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

/* `count` tokens of y from tile[width]: plus a bias, or NULL, and 0 where `kept`, or NULL, is 0.
   One token's numbers begin `stride` after those of the one before. */
static void unpack(const tile_row *tile, long count, long width, long stride, const float *bias,
                   const uint8_t *kept, float *y) {
    for (long t = 0; t < count; t += LANES) {
        for (long w = 0; w < width; w += LANES) {
            vector rows[LANES], added = {0};
            long columns = least(LANES, width - w);
            for (int i = 0; i < LANES; i++)
                rows[i] = i < columns ? VECTOR_AT(tile[w + i] + t) : (vector){0};
            transpose(rows);
            if (bias)
                memcpy(&added, bias + w, 4 * columns);
            for (int i = 0; i < least(LANES, count - t); i++) {
                rows[i] += added;
                if (kept) {
                    bytes found = {0};
                    memcpy(&found, kept + (t + i) * stride + w, columns);
                    rows[i] *= __builtin_convertvector(found, vector);
                }
                if (columns == LANES)
                    *(unaligned *)(y + (t + i) * stride + w) = rows[i];
                else
                    memcpy(y + (t + i) * stride + w, &rows[i], 4 * columns);
            }
        }
    }
}

#endif
