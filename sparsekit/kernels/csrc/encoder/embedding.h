/* The embeddings at the input of the encoder. */

#ifndef SPARSEKIT_ENCODER_EMBEDDING_H
#define SPARSEKIT_ENCODER_EMBEDDING_H

#include "layer_norm.h"
#include "tensors.h"
#include "vectors.h"

/* Rows [.., features], float32 or quantized: (row - zero_point) * scale. ids [batch, length]: row
   indices, or NULL for the position in [batch, length]. */
typedef struct {
    enum { TABLE_FLOAT32, TABLE_UINT8, TABLE_INT8 } type;
    float scale, zero_point;
    const void *rows;
    const int64_t *ids;
} table;

/* The sum of rows of tables, with a norm if `norm.weight` is not NULL. keep_sums: whether the
   hidden state is the sum, and its norm the first layer's input. factors: NULL, or [batch][length],
   which each token's result is multiplied by. */
typedef struct {
    long tables, length, keep_sums;
    table table[4];
    norm norm;
    const float *factors;
} embedding;

/* row [features] = the embedding of the token at `position` of [batch, length]. */
static void embed_token(const embedding *source, long features, long position, float *row) {
    for (long i = 0; i < source->tables; i++) {
        const table *t = &source->table[i];
        int64_t start = (t->ids ? t->ids[position] : position) * features;
        const float *floats = (const float *)t->rows + start;
        const uint8_t *bytes = (const uint8_t *)t->rows + start;
        for (long f = 0; f < features; f++) {
            float x = t->type == TABLE_FLOAT32 ? floats[f]
                      : t->type == TABLE_UINT8
                          ? ((float)bytes[f] - t->zero_point) * t->scale
                          : ((float)(int8_t)bytes[f] - t->zero_point) * t->scale;
            row[f] = i ? row[f] + x : x;
        }
    }
}

/* Computes vector i of a sequence; unused lanes become 0, or a norm's bias where there are no
   factors. position: that of the sequence's first token in [batch, length]; rows: [LANES][features]
   of scratch. */
static void embed(const embedding *source, long features, long position, const sequence *seq,
                  long i, long vectors, const columns *hidden, const columns *to, float *rows) {
    long tile = (seq->first + i) / TILE, v = (seq->first + i) % TILE,
         width = tile_width(vectors, tile);
    vector *hidden_tile = (vector *)tile_data(hidden, tile);
    memset(rows, 0, LANES * features * sizeof *rows);
    for (long t = 0; t < min_long(LANES, seq->tokens - i * LANES); t++)
        embed_token(source, features, position + i * LANES + t, rows + t * features);
    for (long f = 0; f < features; f++)
        for (int t = 0; t < LANES; t++)
            hidden_tile[f * width + v][t] = rows[t * features + f];
    if (source->norm.weight) {
        normalize(&source->norm, features, hidden_tile, hidden_tile, source->keep_sums != 0, to,
                  tile_data(to, tile), width, v, 1);
        if (!source->factors)
            return;
    }
    if (source->factors) {
        vector factor = broadcast(0.0f);
        for (int t = 0; t < min_long(LANES, seq->tokens - i * LANES); t++)
            factor[t] = source->factors[position + i * LANES + t];
        for (long f = 0; f < features; f++)
            hidden_tile[f * width + v] *= factor;
    }
    for (long f = 0; f < features; f += 4) {
        vector four[4][GROUP];
        for (int m = 0; m < 4; m++)
            four[m][0] = hidden_tile[(f + m) * width + v];
        store(to, tile_data(to, tile), width, f, v, four, 1);
    }
}

#endif
