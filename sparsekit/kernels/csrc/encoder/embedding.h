/* The embeddings that the encoder begins with. */

#ifndef SPARSEKIT_ENCODER_EMBEDDING_H
#define SPARSEKIT_ENCODER_EMBEDDING_H

#include "layer_norm.h"
#include "tensors.h"
#include "vectors.h"

/* Rows [.., features] of numbers that (row - zero_point) * scale stands for; ids [batch, length].
 */
typedef struct {
    enum { FLOATS, UNSIGNED, SIGNED } kind;
    float scale, zero_point;
    const void *rows;
    const int64_t *ids;
} table;

/* The sum of rows of tables, normalized if `after.weight` is there. */
typedef struct {
    long tables, length;
    table table[4];
    norm after;
} embedding;

/* The features of token `at` of [batch, length], to row [features]. */
static void embed_token(const embedding *from, long features, long at, float *row) {
    for (long i = 0; i < from->tables; i++) {
        const table *t = &from->table[i];
        int64_t start = (t->ids ? t->ids[at] : at) * features;
        const float *floats = (const float *)t->rows + start;
        const uint8_t *bytes = (const uint8_t *)t->rows + start;
        for (long f = 0; f < features; f++) {
            float x = t->kind == FLOATS     ? floats[f]
                      : t->kind == UNSIGNED ? (bytes[f] - t->zero_point) * t->scale
                                            : ((int8_t)bytes[f] - t->zero_point) * t->scale;
            row[f] = i ? row[f] + x : x;
        }
    }
}

/* Vector i of a sequence; lanes without one become 0. `at`: the sequence's first token
   in [batch, length]; rows: [LANES][features] of scratch. */
static void embed(const embedding *from, long features, long at, const sequence *of, long i,
                  long vectors, const columns *hidden, const columns *to, float *rows) {
    long tile = (of->first + i) / TILE, v = (of->first + i) % TILE, width = width_of(vectors, tile);
    vector *into = (vector *)tile_of(hidden, tile);
    memset(rows, 0, LANES * features * sizeof *rows);
    for (long t = 0; t < least(LANES, of->tokens - i * LANES); t++)
        embed_token(from, features, at + i * LANES + t, rows + t * features);
    for (long f = 0; f < features; f++)
        for (int t = 0; t < LANES; t++)
            into[f * width + v][t] = rows[t * features + f];
    if (from->after.weight) {
        normalize(&from->after, features, into, into, to, tile_of(to, tile), width, v, 1);
        return;
    }
    for (long f = 0; f < features; f += 4) {
        vector four[4][GROUP];
        for (int m = 0; m < 4; m++)
            four[m][0] = into[(f + m) * width + v];
        keep(to, tile_of(to, tile), width, f, v, four, 1);
    }
}

#endif
