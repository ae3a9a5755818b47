/* A sparse weight, and how its entries meet the features of a tile. */

#ifndef SPARSEKIT_SPARSE_LINEAR_SPARSE_ROWS_H
#define SPARSEKIT_SPARSE_LINEAR_SPARSE_ROWS_H

#include "tiles.h"

/* Columns of a block at most: with the tokens of a tile they are 36 KB of float32, in a first-level
   cache of 48. */
#define BLOCK 96
/* Rows that are sorted among themselves. */
#define CHUNK 768

/* Compressed sparse rows of a weight [rows, width], in blocks of `block` columns. Within a block,
   each chunk of rows is sorted by how many entries they have: loops over the entries of one row
   after another then end where the processor expects it. The entries of the row order[b * rows + i]
   begin at pointers[b * (rows + 1) + i] and end at the next pointer; each has the offset, in bytes,
   of its column in a tile's block. */
typedef struct {
    long rows, width, block;
    const int32_t *pointers, *order;
    const uint16_t *offsets;
} sparse_rows;

/* The place of an entry in a block is 16 bits. */
_Static_assert(BLOCK * sizeof(tile_row) <= 1 << 16, "a block is too large");

static long blocks_of(const sparse_rows *weight) {
    return (weight->width + weight->block - 1) / weight->block;
}

/* What block b of a tile's features holds: see pack. */
static void pack_block(const sparse_rows *weight, long b, const void *x, const int32_t *zero_point,
                       long tile, long tokens, tile_row *features) {
    long column = b * weight->block;
    pack(x, zero_point, first_of(tile, tokens) * weight->width + column, weight->width,
         count_of(tile, tokens), least(weight->block, weight->width - column), features);
}

/* The feature of an entry, as an address: the compiler would otherwise add the offset anew for each
   vector, and a product of an indexed vector takes two steps of the processor. */
static inline const float *feature_of(const void *features, uint16_t offset) {
    const float *feature = (const float *)((const char *)features + offset);
    __asm__("" : "+r"(feature));
    return feature;
}

/* A function inlined for each number of vectors, and the choice among those that a tile may have.
 */
#define SPECIALIZED static inline __attribute__((always_inline))
#define FOR_VECTORS(vectors, function, ...)                                                        \
    switch (vectors) {                                                                             \
    case 1: function(__VA_ARGS__, 1); break;                                                       \
    case 2: function(__VA_ARGS__, 2); break;                                                       \
    case 3: function(__VA_ARGS__, 3); break;                                                       \
    case 4: function(__VA_ARGS__, 4); break;                                                       \
    case 5: function(__VA_ARGS__, 5); break;                                                       \
    default: function(__VA_ARGS__, VECTORS);                                                       \
    }
_Static_assert(VECTORS == 6, "FOR_VECTORS has a case for each number of vectors");

#endif
