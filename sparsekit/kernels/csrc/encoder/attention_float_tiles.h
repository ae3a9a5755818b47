/* The two float32 matmuls of an attention head with AMX, which multiplies bf16 and adds up float32.

A float32 number is split into its high part, rounded to bf16, and its low part, the rest rounded to
bf16. Of each product of two numbers all but low times low is computed, as in Henry, Tang &
Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision
Computations": each of the three errors is at most 2^-16 of the product. Sums are float32.

Queries are the columns of a tile, as in the other kernels. What both operands share, features of
the query or keys of the probabilities, lies in pairs in 32 bits. A pair of keys lies in two vectors
of tokens, at the same lane. Keys and values are split once for all queries of a head. */

#ifndef SPARSEKIT_ENCODER_ATTENTION_FLOAT_TILES_H
#define SPARSEKIT_ENCODER_ATTENTION_FLOAT_TILES_H

#include "attention_matmul.h"
#include "attention_tiles.h"
#include "tensors.h"
#include "tile_matmul.h"
#include "vectors.h"

#ifdef HAS_AMX
/* Features or keys that one instruction multiplies, of which high parts are followed by low ones in
   as many vectors. */
#define STEP 32

/* The operands of one head and sequence in parts:
   keys [vectors][features / 32][high, low][16 keys][16 pairs of features],
   values [vectors / 2, rounded up][high, low][features][16 pairs of keys],
   query [features / 32][high, low][16 pairs][n], of one part of the head. */
typedef struct {
    integers *keys, *values, *query;
    long head;
    const sequence *sequence;
} split_operands;

/* The vectors of memory for sequences of up to `vectors`. */
INLINE long split_operands_vectors(long features, long vectors) {
    return features * (vectors + (vectors + 1) + QUERIES);
}

INLINE split_operands allocate_split_operands(integers *memory, long features, long vectors) {
    integers *values = memory + features * vectors;
    return (split_operands){memory, values, values + features * (vectors + 1), 0, 0};
}

/* The high part of x as the bits of a float32. */
INLINE integers round_to_bf16(vector x) { return ((integers)x + 0x8000) & ~0xffff; }

/* The parts of x, in the lower halves, and of y. */
INLINE void split_pair(vector x, vector y, integers *high, integers *low) {
    integers high_x = round_to_bf16(x), high_y = round_to_bf16(y);
    integers low_x = round_to_bf16(x - (vector)high_x);
    integers low_y = round_to_bf16(y - (vector)high_y);
    *high = (high_x >> 16 & 0xffff) | high_y;
    *low = (low_x >> 16 & 0xffff) | low_y;
}

static void split_keys(const head_part *part, integers *to) {
    const long features = part->attention->features, count = vector_count(part->sequence);
    for (long v = part->sequence->first; v < part->sequence->first + count; v++) {
        const long width = tile_width(part->vectors, v / TILE);
        const vector *k =
            (const vector *)token_data(part->key, part->vectors, part->head * features, v * LANES);
        for (long f = 0; f < features; f += STEP, to += STEP) {
            for (int i = 0; i < TILE_ROWS; i++, k += 2 * width)
                split_pair(k[0], k[width], to + i, to + TILE_ROWS + i);
            transpose(to);
            transpose(to + TILE_ROWS);
        }
    }
}

/* A vector of one feature of the values; 0 for tokens that the sequence does not have. */
INLINE vector masked_values(const head_part *part, long v, long feature) {
    const long tokens = part->sequence->tokens - v * LANES;
    const integers lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    if (tokens <= 0)
        return broadcast(0.0f);
    const integers values = *(const integers *)token_data(part->value, part->vectors, feature,
                                                          (part->sequence->first + v) * LANES);
    return (vector)(values & (lanes < (int32_t)min_long(tokens, LANES)));
}

static void split_values(const head_part *part, integers *to) {
    const long features = part->attention->features, first = part->head * features;
    for (long v = 0; v < vector_count(part->sequence); v += 2, to += 2 * features)
        for (long f = 0; f < features; f++)
            split_pair(masked_values(part, v, first + f), masked_values(part, v + 1, first + f),
                       to + f, to + features + f);
}

INLINE void split_query(const head_part *part, integers *to, const int n) {
    const long features = part->attention->features;
    const long width = tile_width(part->query_vectors, part->v / TILE);
    const vector *q = (const vector *)tile_data(part->query, part->v / TILE) +
                      part->head * features * width + part->v % TILE;
    for (long f = 0; f < features; f += STEP, to += STEP * n)
        for (int i = 0; i < TILE_ROWS; i++, q += 2 * width)
            for (int j = 0; j < n; j++)
                split_pair(q[j], q[width + j], to + i * n + j, to + (TILE_ROWS + i) * n + j);
}

/* Splits the query, and keys and values where those of another head or sequence were split last. */
INLINE void split(const head_part *part, split_operands *operands, const int n) {
    split_query(part, operands->query, n);
    if (operands->sequence == part->sequence && operands->head == part->head)
        return;
    split_keys(part, operands->keys);
    split_values(part, operands->values);
    operands->sequence = part->sequence;
    operands->head = part->head;
}

/* In place, rows [keys, rounded up to 32][n] become parts: of each 32 rows, the high parts of the
   pairs of one of the first 16 and one of the others, then the low parts. */
INLINE void split_probabilities(vector *rows, long keys, const int n) {
    for (long i = keys * n; i % (STEP * n); i++)
        rows[i] = broadcast(0.0f);
    for (long t = 0; t < keys; t += STEP, rows += STEP * n)
        for (int i = 0; i < TILE_ROWS * n; i++)
            split_pair(rows[i], rows[TILE_ROWS * n + i], (integers *)rows + i,
                       (integers *)rows + TILE_ROWS * n + i);
}

/* What a block of 16 or 32 outputs multiplies: rows of the left operand, of which low parts and the
   next 16 outputs lie `low` and `below` vectors behind the high parts and the first, and rows
   [high, low][16][n] of the right one. The next step follows after left_step and STEP * n. */
typedef struct {
    const integers *left, *right;
    long low, below, left_step, steps;
} split_product;

/* tiles 0 to 3, of 16 outputs for one vector of queries or two, then of the next 16, += tiles 4 and
   5 times tiles 6 and 7. */
INLINE void multiply_loaded(const int rows, const int n) {
    _tile_dpbf16ps(0, 4, 6);
    if (n > 1)
        _tile_dpbf16ps(1, 4, 7);
    if (rows > 1)
        _tile_dpbf16ps(2, 5, 6);
    if (rows > 1 && n > 1)
        _tile_dpbf16ps(3, 5, 7);
}

INLINE void load_left(const integers *from, long below, const int rows) {
    _tile_loadd(4, from, 64);
    if (rows > 1)
        _tile_loadd(5, from + below, 64);
}

INLINE void load_right(const integers *from, const int n) {
    _tile_loadd(6, from, n * 64);
    if (n > 1)
        _tile_loadd(7, from + 1, n * 64);
}

/* Adds a product to tiles 0 to 3. */
INLINE void multiply_split(split_product p, const int rows, const int n) {
    for (long s = 0; s < p.steps; s++, p.left += p.left_step, p.right += STEP * n) {
        load_left(p.left, p.below, rows);
        load_right(p.right + TILE_ROWS * n, n);
        multiply_loaded(rows, n);
        load_right(p.right, n);
        multiply_loaded(rows, n);
        load_left(p.left + p.low, p.below, rows);
        multiply_loaded(rows, n);
    }
}

INLINE void load_sums(const vector *sums, const int rows, const int n) {
    _tile_loadd(0, sums, n * 64);
    if (n > 1)
        _tile_loadd(1, sums + 1, n * 64);
    if (rows > 1)
        _tile_loadd(2, sums + TILE_ROWS * n, n * 64);
    if (rows > 1 && n > 1)
        _tile_loadd(3, sums + TILE_ROWS * n + 1, n * 64);
}

INLINE void store_sums(vector *sums, const int rows, const int n) {
    _tile_stored(0, sums, n * 64);
    if (n > 1)
        _tile_stored(1, sums + 1, n * 64);
    if (rows > 1)
        _tile_stored(2, sums + TILE_ROWS * n, n * 64);
    if (rows > 1 && n > 1)
        _tile_stored(3, sums + TILE_ROWS * n + 1, n * 64);
}

/* scores [16 * rows][n] of the vectors of keys from v on, counted from the sequence's first. */
INLINE void score_split_keys(const split_operands *operands, long features, long v, vector *scores,
                             const int rows, const int n) {
    split_product p = {
        operands->keys + v * features, operands->query, TILE_ROWS, features, STEP, features / STEP};
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    multiply_split(p, rows, n);
    store_sums(scores, rows, n);
}

/* scores [keys, rounded up to 16][n] of `keys` keys from the sequence's key k on. */
INLINE void score_float_tiles(const split_operands *operands, long features, long k, long keys,
                              vector *scores, const int n) {
    long v = k / LANES, end = v + (keys + LANES - 1) / LANES;
    FINISH_STORES();
    for (; v + 2 <= end; v += 2, scores += STEP * n)
        score_split_keys(operands, features, v, scores, 2, n);
    if (v < end)
        score_split_keys(operands, features, v, scores, 1, n);
}

/* out [features][n] = out * rescale + the values of `keys` keys from the sequence's key k, a
   multiple of 32, on, weighted by weights [keys][n], which are overwritten. */
INLINE void add_values_float_tiles(const split_operands *operands, long features, vector *weights,
                                   long k, long keys, const vector *rescale, vector *out,
                                   const int n) {
    for (long i = 0; i < features * n; i++)
        out[i] *= rescale[i % n];
    split_probabilities(weights, keys, n);
    FINISH_STORES();
    split_product p = {operands->values + k / STEP * 2 * features,
                       (const integers *)weights,
                       features,
                       TILE_ROWS,
                       2 * features,
                       (keys + STEP - 1) / STEP};
    for (long f = 0; f < features; f += STEP, p.left += STEP, out += STEP * n) {
        load_sums(out, 2, n);
        multiply_split(p, 2, n);
        store_sums(out, 2, n);
    }
}
#endif

#endif
