/* The gradient of the weight's entries: grad_output times features, summed over tokens.

Products are added lane by lane; the horizontal sums of many entries are computed together. */

#ifndef SPARSEKIT_SPARSE_LINEAR_WEIGHT_GRADIENT_H
#define SPARSEKIT_SPARSE_LINEAR_WEIGHT_GRADIENT_H

#include "sparse_rows.h"
#include "tiles.h"

/* Horizontal sums are computed for at least this many entries at once, except the last. */
#define FOLDED_AT_ONCE 64

/* sums[i] += the sum over the lanes of terms[i], for `count` terms. `available`: how many sums may
   be read and written, at least `count`. */
static inline void add_folded(const vector *terms, long count, long available, float *sums) {
    for (; count >= LANES; count -= LANES, available -= LANES, terms += LANES, sums += LANES)
        *(unaligned_vector *)sums += fold(terms);
    vector last_sums = fold(terms);
    if (available < LANES)
        for (long i = 0; i < count; i++)
            sums[i] += last_sums[i];
    else {
        /* Adds 0 to the sums past `count`, to avoid a branch that is hard to predict. */
        *(unaligned_vector *)sums +=
            (vector)((integers)last_sums & (lane_numbers < (int32_t)count));
    }
}

SPECIALIZED vector dot(const vector *grad_output, const float *feature, const int vectors) {
    vector sum = grad_output[0] * VECTOR_AT(feature);
    UNROLL for (int v = 1; v < vectors; v++) sum += grad_output[v] * VECTOR_AT(feature + v * LANES);
    return sum;
}

/* terms[k] = row * the feature of entry k, lane by lane and added over vectors, for `count`
   entries. */
SPECIALIZED void correlate_row(const float *row, const tile_row *features, const uint16_t *offset,
                               int32_t count, vector *terms, const int vectors) {
    vector grad_output[VECTORS];
    UNROLL for (int v = 0; v < vectors; v++) grad_output[v] = VECTOR_AT(row + v * LANES);
    if (count & 1)
        *terms++ = dot(grad_output, feature_at(features, *offset++), vectors);
    if (count & 2) {
        terms[0] = dot(grad_output, feature_at(features, offset[0]), vectors);
        terms[1] = dot(grad_output, feature_at(features, offset[1]), vectors);
        offset += 2, terms += 2;
    }
    for (count /= 4; count > 0; count--, offset += 4, terms += 4)
        UNROLL for (int i = 0; i < 4; i++) terms[i] =
            dot(grad_output, feature_at(features, offset[i]), vectors);
}

/* sums[k] += the dot product of grad_output's row and the feature of entry k, for the rows at
   `first` to `last` in the order of block b. Horizontal sums are taken over several rows at a time:
   LANES entries need as many operations as fewer. */
SPECIALIZED void correlate(const sparse_rows *weight, long b, long first, long last,
                           const tile_row *features, const tile_row *grad_output, float *sums,
                           const int vectors) {
    const int32_t *pointers = weight->pointers + b * (weight->rows + 1);
    const int32_t *order = weight->order + b * weight->rows;
    vector terms[FOLDED_AT_ONCE + BLOCK + LANES];
    int32_t begin = pointers[first], end = pointers[last];
    for (long i = first; i < last; i++) {
        int32_t entry = pointers[i], next = pointers[i + 1];
        const float *upcoming = grad_output[order[i + 2 < last ? i + 2 : i]];
        UNROLL for (int v = 0; v < vectors; v++) __builtin_prefetch(upcoming + v * LANES);
        correlate_row(grad_output[order[i]], features, weight->offsets + entry, next - entry,
                      terms + (entry - begin), vectors);
        if (next - begin >= FOLDED_AT_ONCE || i + 1 == last) {
            add_folded(terms, next - begin, end - begin, sums + begin);
            begin = next;
        }
    }
}

static __attribute__((noinline)) void correlate_block(const sparse_rows *weight, long b, long first,
                                                      long last, const tile_row *features,
                                                      const tile_row *grad_output, float *sums,
                                                      long tokens) {
    FOR_VECTORS(vector_count(tokens), correlate, weight, b, first, last, features, grad_output,
                sums)
}

/* The first index in a block's order at which a row's entries begin at `entry` or later. */
static long lower_bound(const int32_t *pointers, long rows, int32_t entry) {
    long low = 0, high = rows;
    while (low < high) {
        long middle = (low + high) / 2;
        if (pointers[middle] < entry)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The gradient of entry k: its sum times its factor, and 0 for a factor of 0, even for NaN. */
static inline float scaled_sum(const float *sums, const float *factors, int32_t k) {
    if (!factors)
        return sums[k];
    return factors[k] == 0.0f ? 0.0f : sums[k] * factors[k];
}

/* Writes the gradient of block b for the rows at `first` to `last` in its order. */
static void scatter(const sparse_rows *weight, long b, long first, long last, const float *sums,
                    const float *factors, float *gradient) {
    const int32_t *pointers = weight->pointers + b * (weight->rows + 1);
    const int32_t *order = weight->order + b * weight->rows;
    long column = b * weight->block, columns = min_long(weight->block, weight->width - column);
    for (long i = first; i < last; i++) {
        float *piece = gradient + order[i] * weight->width + column;
        memset(piece, 0, 4 * columns);
        for (int32_t k = pointers[i]; k < pointers[i + 1]; k++)
            piece[weight->offsets[k] / sizeof(tile_row)] = scaled_sum(sums, factors, k);
    }
}

/* The gradient of the entries `begin` to `end` and of the zeros between them, for all tiles, block
   by block. */
static void correlate_part(const sparse_rows *weight, const float *factors, const void *x,
                           const int32_t *zero_point, const tile_row *grad_output, long tokens,
                           int32_t begin, int32_t end, float *sums, float *gradient) {
    long rows = weight->rows, blocks = block_count(weight);
    long first[blocks], last[blocks];
    tile_row features[BLOCK];
    for (long b = 0; b < blocks; b++) {
        const int32_t *pointers = weight->pointers + b * (rows + 1);
        first[b] = lower_bound(pointers, rows, begin);
        last[b] = lower_bound(pointers, rows, end);
        long count = pointers[last[b]] - pointers[first[b]];
        if (count > 0) /* weights without entries have no sums at all */
            memset(sums + pointers[first[b]], 0, 4 * count);
    }
    for (long tile = 0; tile < tile_count(tokens); tile++)
        for (long b = 0; b < blocks; b++)
            if (first[b] < last[b]) {
                pack_block(weight, b, x, zero_point, tile, tokens, features);
                correlate_block(weight, b, first[b], last[b], features, grad_output + tile * rows,
                                sums, token_count(tile, tokens));
            }
    for (long b = 0; b < blocks; b++)
        scatter(weight, b, first[b], last[b], sums, factors, gradient);
}

#endif
