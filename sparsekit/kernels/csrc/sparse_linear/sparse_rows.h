/* A sparse weight, and the tile features that its entries refer to. */

#ifndef SPARSEKIT_SPARSE_LINEAR_SPARSE_ROWS_H
#define SPARSEKIT_SPARSE_LINEAR_SPARSE_ROWS_H

#include "tiles.h"

/* The largest number of columns in a block: with a tile's tokens they are 36 KB of float32 for the
   L1 cache of 48 KB that comes with AVX-512, else 24 KB for one of 32 KB. */
#define BLOCK 96
/* Rows are sorted within chunks of this size. */
#define CHUNK 768

/* Compressed sparse rows of a weight [rows, width], in blocks of `block` columns. Within a block,
   each chunk of rows is sorted by the number of entries, so that loops over consecutive rows have
   the trip count that the branch predictor expects. The entries of row order[b * rows + i] begin at
   pointers[b * (rows + 1) + i] and end at the next pointer. offsets: for each entry the offset in
   bytes of its column in a tile's block. */
typedef struct {
    long rows, width, block;
    const int32_t *pointers, *order;
    const uint16_t *offsets;
} sparse_rows;

/* Offsets have 16 bits. */
_Static_assert(BLOCK * sizeof(tile_row) <= 1 << 16, "a block is too large");

static long block_count(const sparse_rows *weight) {
    return (weight->width + weight->block - 1) / weight->block;
}

/* features = the features of block b for one tile; see pack. */
static void pack_block(const sparse_rows *weight, long b, const void *x, const int32_t *zero_point,
                       long tile, long tokens, tile_row *features) {
    long column = b * weight->block;
    pack(x, zero_point, first_token(tile, tokens) * weight->width + column, weight->width,
         token_count(tile, tokens), min_long(weight->block, weight->width - column), features);
}

/* The tile row of an entry's column. The asm makes the compiler compute the address once: it would
   otherwise add the offset for each vector, and a multiply-add with an indexed operand takes two
   micro-operations. */
static inline const float *feature_at(const void *features, uint16_t offset) {
    const float *feature = (const float *)((const char *)features + offset);
    __asm__("" : "+r"(feature));
    return feature;
}

/* Inlines a function once for each number of vectors that a tile may have, and selects one. */
#define SPECIALIZED static inline __attribute__((always_inline))
#define CASE(count, function, ...)                                                                 \
    case count: function(__VA_ARGS__, (count) < VECTORS ? (count) : VECTORS); break;
#define FOR_VECTORS(vectors, function, ...)                                                        \
    switch (vectors) {                                                                             \
        CASE(1, function, __VA_ARGS__)                                                             \
        CASE(2, function, __VA_ARGS__)                                                             \
        CASE(3, function, __VA_ARGS__)                                                             \
        CASE(4, function, __VA_ARGS__)                                                             \
        CASE(5, function, __VA_ARGS__)                                                             \
        CASE(6, function, __VA_ARGS__)                                                             \
        CASE(7, function, __VA_ARGS__)                                                             \
    default: function(__VA_ARGS__, VECTORS);                                                       \
    }
_Static_assert(VECTORS <= 8, "FOR_VECTORS has a case for each number of vectors");

#endif
