/* The two int8 matmuls of an attention head with AMX.

As with the tiles of weights, queries are the columns, and the inputs that both operands share are
the rows of the unsigned tile: features of the query, then keys of the probabilities. The query is
stored that way. A key's features have to be side by side in the signed tile, so 16 keys at a time
are transposed. The values are PLANES, where 64 tokens of a feature lie together in the order of
`pack`: probabilities are packed in that order too, with zeros for the tokens of other sequences. */

#ifndef SPARSEKIT_ENCODER_ATTENTION_TILES_H
#define SPARSEKIT_ENCODER_ATTENTION_TILES_H

#include "attention_matmul.h"
#include "tensors.h"
#include "tile_matmul.h"
#include "vectors.h"

#ifdef HAS_AMX
/* The rows of tiles for the keys of a block, which lie in one tile of vectors. */
#define KEY_ROWS (TILE / GROUP * TILE_UNITS)

/* The units of a query or key that one instruction multiplies: as many as fit, all steps alike. */
INLINE long units_per_step(const attention *a) {
    long units = a->features / 4, step = min_long(units, TILE_UNITS);
    while (units % step)
        step--;
    return step;
}

/* Sets the sizes of tiles: 0 and 1 sums, 4 keys, 5 values, 6 a query, 7 probabilities. */
INLINE void configure_tiles(const attention *a) {
    const uint8_t units = (uint8_t)units_per_step(a);
    tile_config config = {.palette = 1,
                          .row_bytes = {64, 64, 0, 0, (uint16_t)(4 * units), 64, 64, 64},
                          .rows = {16, 16, 0, 0, 16, 16, units, 16}};
    FINISH_STORES();
    _tile_loadconfig(&config);
}

#define SHUFFLE_QUARTERS(a, b, order)                                                              \
    ((integers)_mm512_shuffle_i32x4((__m512i)(a), (__m512i)(b), order))

/* In place, the transpose of x [16][16]: elements of pairs of rows, pairs of these, then quarters
   of vectors change places. */
INLINE void transpose(integers x[LANES]) {
    integers y[LANES];
#pragma GCC unroll 8
    for (int i = 0; i < LANES; i += 2) {
        y[i] = INTERLEAVE(lo, 32, x[i], x[i + 1]);
        y[i + 1] = INTERLEAVE(hi, 32, x[i], x[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < LANES; i += 4) {
        x[i] = INTERLEAVE(lo, 64, y[i], y[i + 2]);
        x[i + 1] = INTERLEAVE(hi, 64, y[i], y[i + 2]);
        x[i + 2] = INTERLEAVE(lo, 64, y[i + 1], y[i + 3]);
        x[i + 3] = INTERLEAVE(hi, 64, y[i + 1], y[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        integers low[] = {SHUFFLE_QUARTERS(x[i], x[i + 4], 0x44),
                          SHUFFLE_QUARTERS(x[i + 8], x[i + 12], 0x44)};
        integers high[] = {SHUFFLE_QUARTERS(x[i], x[i + 4], 0xee),
                           SHUFFLE_QUARTERS(x[i + 8], x[i + 12], 0xee)};
        x[i] = SHUFFLE_QUARTERS(low[0], low[1], 0x88);
        x[i + 4] = SHUFFLE_QUARTERS(low[0], low[1], 0xdd);
        x[i + 8] = SHUFFLE_QUARTERS(high[0], high[1], 0x88);
        x[i + 12] = SHUFFLE_QUARTERS(high[0], high[1], 0xdd);
    }
}

/* sums [16][n] of the products of a vector of keys from k on and n vectors of queries from q on.
   Returns the sum of each key's features. */
INLINE integers multiply_keys(const attention *a, const int32_t *k, long key_width,
                              const integers *q, long width, integers *sums, const int n) {
    const long units = a->features / 4, step = units_per_step(a);
    integers key_sums = {0};
    _tile_zero(0);
    _tile_zero(1);
    for (long u = 0; u < units; u += step, q += step * width) {
        integers rows[LANES] = {{0}};
        for (long i = 0; i < step; i++, k += key_width) {
            rows[i] = *(const integers *)k;
            key_sums = (integers)DOT_PRODUCT_ADD(key_sums, (0x01010101 - (integers){0}), rows[i]);
        }
        transpose(rows);
        FINISH_STORES();
        _tile_loadd(4, rows, sizeof *rows);
        _tile_loadd(6, q, width * (long)sizeof *q);
        _tile_dpbsud(0, 4, 6);
        if (n > 1) {
            _tile_loadd(6, q + 1, width * (long)sizeof *q);
            _tile_dpbsud(1, 4, 6);
        }
    }
    _tile_stored(0, sums, n * (long)sizeof *sums);
    if (n > 1)
        _tile_stored(1, sums + 1, n * (long)sizeof *sums);
    return key_sums;
}

/* As score_int8. */
INLINE void score_tiles(const head_part *part, const integers *query_terms, long lane, long keys,
                        vector *scores, const int n) {
    const attention *a = part->attention;
    const long units = a->features / 4, width = tile_width(part->query_vectors, part->v / TILE);
    const long key_width = tile_width(part->vectors, lane / (TILE * LANES)) * LANES;
    const integers *q =
        tile_data(part->query, part->v / TILE) + part->head * units * width + part->v % TILE;
    const float scale = a->query.scale * a->key.scale;
    for (long t = 0; t < keys; t += LANES, scores += LANES * n) {
        integers sums[LANES * QUERIES];
        const int32_t *k =
            (const int32_t *)token_data(part->key, part->vectors, part->head * units, lane + t);
        integers key_terms =
            multiply_keys(a, k, key_width, q, width, sums, n) * (int32_t)a->query.zero_point;
        for (int i = 0; i < LANES; i++)
            for (int j = 0; j < n; j++)
                scores[i * n + j] =
                    to_float(sums[i * n + j] + query_terms[j] - key_terms[i]) * scale;
    }
}

/* packed [KEY_ROWS][n]: probabilities [keys][n] * factor [n] as uint8, those of four keys where the
   values of `lane` and the next ones are. probability_sums: see pack_probabilities. */
INLINE void pack_rows(const quantizer *rounding, vector *scores, long lane, long keys,
                      const vector *factor, integers *packed, integers *probability_sums,
                      const int n) {
    memset(packed, 0, KEY_ROWS * n * sizeof *packed);
    for (long t = keys; t % 4; t++)
        for (int j = 0; j < n; j++)
            scores[t * n + j] = broadcast(0.0f);
    for (long t = 0; t < keys; t += 4)
#pragma GCC unroll 4
        for (int j = 0; j < n; j++) {
            integers four = pack_four(rounding, scores + t * n + j, factor[j], n);
            probability_sums[j] =
                (integers)DOT_PRODUCT_ADD(probability_sums[j], four, (0x01010101 - (integers){0}));
            packed[plane_row(lane % (TILE * LANES) + t) * n + j] = four;
        }
}

/* out [features][n], int32, += the values of `keys` keys from `lane` on, in one tile, weighted by
   the scores [keys][n] * factor [n] as uint8. */
INLINE void add_values_tiles(const head_part *part, vector *scores, long lane, long keys,
                             const vector *factor, integers *probability_sums, integers *out,
                             const int n) {
    const attention *a = part->attention;
    const long tile = lane / (TILE * LANES), group = GROUP * LANES;
    const long first = lane % (TILE * LANES), plane = group_count(tile_width(part->vectors, tile));
    const integers *values = tile_data(part->value, tile) + part->head * a->features * plane;
    integers packed[KEY_ROWS * QUERIES];
    pack_rows(&a->probabilities, scores, lane, keys, factor, packed, probability_sums, n);
    FINISH_STORES();
    for (long f = 0; f < a->features; f += TILE_ROWS, out += TILE_ROWS * n) {
        _tile_loadd(0, out, n * (long)sizeof *out);
        if (n > 1)
            _tile_loadd(1, out + 1, n * (long)sizeof *out);
        for (long g = first / group; g * group < first + keys; g++) {
            const integers *rows = packed + g * TILE_UNITS * n;
            _tile_loadd(5, values + f * plane + g, plane * (long)sizeof *values);
            _tile_loadd(7, rows, n * (long)sizeof *rows);
            _tile_dpbsud(0, 5, 7);
            if (n > 1) {
                _tile_loadd(7, rows + 1, n * (long)sizeof *rows);
                _tile_dpbsud(1, 5, 7);
            }
        }
        _tile_stored(0, out, n * (long)sizeof *out);
        if (n > 1)
            _tile_stored(1, out + 1, n * (long)sizeof *out);
    }
}
#endif

#endif
