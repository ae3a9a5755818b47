/* Products with a sparse weight that take time for its nonzero numbers only; float32, on a CPU.

Activations are worked on in tiles: TOKENS tokens at most, transposed, so that one entry of the
weight times one feature of the tile is VECTORS products of vectors, and the features of a BLOCK of
the weight's columns stay in the first-level cache (TOKENS * BLOCK * 4 bytes) with room for what
streams past them. The sums of a CHUNK of rows stay in the second-level cache.

Threads write disjoint memory and add in a fixed order: results do not depend on their number. */

#include <stdint.h>

#include "../layout.h"
#include "matmul.h"
#include "sparse_rows.h"
#include "tiles.h"
#include "weight_gradient.h"

/* What Python must know to lay out a weight and scratch; it compares them with its own. */
const long tile_tokens = TOKENS, block_columns = BLOCK, chunk_rows = CHUNK;

const layout_entry sparse_rows_layout[] = {
    SIZE(sparse_rows),
    FIELD(sparse_rows, rows),
    FIELD(sparse_rows, width),
    FIELD(sparse_rows, block),
    FIELD(sparse_rows, pointers),
    FIELD(sparse_rows, order),
    FIELD(sparse_rows, offsets),
    END,
};

/* How many tiles the scratch of a gradient has. */
long tiles_of(long tokens) { return tile_count(tokens); }

/* out [count] = the numbers at those indices. */
void gather(const float *numbers, const int32_t *indices, long count, float *restrict out,
            int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long i = 0; i < count; i++)
        out[i] = numbers[indices[i]];
}

/* y [tokens, rows] = x [tokens, width] times the weight, transposed, plus bias [rows] or NULL.
   values: one for each entry of the weight; kept [tokens, rows]: 0 where y is to be 0, 1 elsewhere,
   or NULL; scratch: `threads` times as many tile rows as a chunk has rows, at a multiple of 64
   bytes. */
void sparse_product(const sparse_rows *weight, const float *values, const float *x, long tokens,
                    const float *bias, const uint8_t *kept, float *y, tile_row *scratch,
                    int threads) {
    long rows = weight->rows, tiles = tile_count(tokens);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int part = 0; part < threads; part++) {
        tile_row *out = scratch + part * least(rows, CHUNK);
        /* All tiles meet a chunk of the weight while it is in the second-level cache. */
        for (long first = 0; first < rows; first += CHUNK)
            for (long tile = tiles * part / threads; tile < tiles * (part + 1) / threads; tile++)
                multiply_tile(weight, values, x, tokens, tile, first, bias, kept, y, out);
    }
}

/* gradient [rows, width] = errors [tokens, rows], transposed, times x [tokens, width] at the
   weight's entries, and 0 elsewhere. x is float32, or, with a zero point, uint8; factors: what each
   entry's gradient is multiplied by, or NULL; packed: tiles_of(tokens) * rows tile rows of scratch,
   at a multiple of 64 bytes; sums: one number for each entry. */
void sparse_weight_gradient(const sparse_rows *weight, const float *factors, const void *x,
                            const int32_t *zero_point, const float *errors, long tokens,
                            tile_row *packed, float *sums, float *gradient, int threads) {
    long rows = weight->rows;
    int64_t entries = weight->pointers[blocks_of(weight) * (rows + 1) - 1];
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (long tile = 0; tile < tile_count(tokens); tile++)
            pack(errors, NULL, first_of(tile, tokens) * rows, rows, count_of(tile, tokens), rows,
                 packed + tile * rows);
#pragma omp for schedule(static)
        for (int part = 0; part < threads; part++)
            /* The last part has the rows after the last entry, too. */
            correlate_part(weight, factors, x, zero_point, packed, tokens, entries * part / threads,
                           part + 1 < threads ? entries * (part + 1) / threads : entries + 1, sums,
                           gradient);
    }
}
