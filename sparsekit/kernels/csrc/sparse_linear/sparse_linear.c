/* Matmuls with a sparse float32 weight that skip its zeros; CPU only.

Activations are processed in tiles of at most TOKENS tokens, transposed: one entry of the weight
times one feature of the tile is VECTORS multiplications of vectors, and the features of a BLOCK of
columns (TOKENS * BLOCK * 4 bytes) stay in the L1 cache with room for the data that streams past.
The sums of a CHUNK of rows stay in the L2 cache.

Threads write disjoint memory and add in a fixed order, so results do not depend on their number. */

#include <stdint.h>

#include "../layout.h"
#include "matmul.h"
#include "sparse_rows.h"
#include "tiles.h"
#include "weight_gradient.h"

/* What Python lays out weights and scratch by. */
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

/* The number of tiles for which sparse_weight_gradient needs scratch. */
long count_tiles(long tokens) { return tile_count(tokens); }

/* out [count] = values[indices] */
void gather(const float *values, const int32_t *indices, long count, float *restrict out,
            int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long i = 0; i < count; i++)
        out[i] = values[indices[i]];
}

/* y [tokens, rows] = x [tokens, width] @ weight.T * scales [rows] + bias [rows]; scales and bias
   may be NULL. x is float32 or, with a zero point, uint8, from which it is subtracted. values: one
   per entry of the weight. mask [tokens, rows]: where it is 0, so is y; or NULL. scratch: for
   each thread as many tile rows as a chunk has rows, 64-byte aligned. */
void sparse_matmul(const sparse_rows *weight, const float *values, const void *x,
                   const int32_t *zero_point, long tokens, const float *scales, const float *bias,
                   const uint8_t *mask, float *y, tile_row *scratch, int threads) {
    const operands all = {values, x, zero_point, tokens, scales, bias, mask, y};
    long rows = weight->rows, tiles = tile_count(tokens);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int part = 0; part < threads; part++) {
        tile_row *out = scratch + part * min_long(rows, CHUNK);
        /* All tiles use a chunk of the weight while it is in the L2 cache. */
        for (long first = 0; first < rows; first += CHUNK)
            for (long tile = tiles * part / threads; tile < tiles * (part + 1) / threads; tile++)
                multiply_tile(weight, &all, tile, first, out);
    }
}

/* gradient [rows, width] = grad_output [tokens, rows].T @ x [tokens, width] at the weight's
   entries, and 0 elsewhere. x is float32 or, with a zero point, uint8. factors: one per entry,
   multiplied into its gradient, which is 0 where the factor is 0; or NULL. packed:
   count_tiles(tokens) * rows tile rows of scratch, 64-byte aligned. sums: scratch, one value per
   entry. */
void sparse_weight_gradient(const sparse_rows *weight, const float *factors, const void *x,
                            const int32_t *zero_point, const float *grad_output, long tokens,
                            tile_row *packed, float *sums, float *gradient, int threads) {
    long rows = weight->rows;
    int64_t entries = weight->pointers[block_count(weight) * (rows + 1) - 1];
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (long tile = 0; tile < tile_count(tokens); tile++)
            pack(grad_output, NULL, first_token(tile, tokens) * rows, rows,
                 token_count(tile, tokens), rows, packed + tile * rows);
#pragma omp for schedule(static)
        for (int part = 0; part < threads; part++)
            /* The last part includes the rows after the last entry. */
            correlate_part(
                weight, factors, x, zero_point, packed, tokens, (int32_t)(entries * part / threads),
                (int32_t)(part + 1 < threads ? entries * (part + 1) / threads : entries + 1), sums,
                gradient);
    }
}
