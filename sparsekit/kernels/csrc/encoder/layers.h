/* The layers of an encoder, applied to a group of sequences. */

#ifndef SPARSEKIT_ENCODER_LAYERS_H
#define SPARSEKIT_ENCODER_LAYERS_H

#include "attention.h"
#include "embedding.h"
#include "layer_norm.h"
#include "linear.h"
#include "phases.h"
#include "rotary.h"
#include "score_terms.h"
#include "sparse_matmul.h"
#include "tensors.h"
#include "vectors.h"

/* projection: query, key and value, or query and key where the value's input has a quantizer of its
   own; value: then the value alone, otherwise without rows. The quantizers are those of the inputs
   of Linear layers: of the projection, of value, of attention_output, of intermediate and of
   output. A layer without heads has no projection, and one without neurons has an intermediate
   without rows: attention_output and output then are biases alone, which read no input. With
   pre-norm, output_norm is the norm of the next layer's input. terms: the index of the terms of its
   scores. */
typedef struct {
    weight projection, value, attention_output, intermediate, output;
    quantizer input, value_input, context, normalized, activated;
    attention attention;
    norm attention_norm, output_norm;
    long activation, terms;
} layer;

/* attention_features, intermediate_features: the most features of all heads of a layer, and the
   most outputs of an intermediate. values: the number of units and steps of all weights.
   all_tokens: whether the last layer is computed for all tokens, not for each sequence's first
   vector alone. pre_norm: whether layers normalize their inputs, and sums are kept as the hidden
   state. */
typedef struct {
    long layers, features, attention_features, intermediate_features, values, all_tokens, pre_norm;
    const layer *layer;
} encoder;

/* The activations of a group. */
typedef struct {
    columns hidden, sums, input, query, key, value, context, activated, first_hidden, first_input;
} tensors;

static const quantizer float32 = {.format = FLOAT32};

static void allocate(integers **memory, columns *tensor, long units, long vectors) {
    tensor->data = *memory;
    tensor->units = units;
    tensor->rounding = &float32;
    *memory += units * vectors;
}

/* Places the tensors in memory for groups of up to `vectors`; returns the end. */
static integers *allocate_tensors(tensors *t, const encoder *e, integers *memory, long vectors) {
    columns *wide[] = {&t->hidden, &t->sums, &t->input};
    for (int i = 0; i < 3; i++)
        allocate(&memory, wide[i], e->features, vectors);
    columns *of_heads[] = {&t->query, &t->key, &t->value, &t->context};
    for (int i = 0; i < 4; i++)
        allocate(&memory, of_heads[i], e->attention_features, vectors);
    allocate(&memory, &t->first_hidden, e->features, TILE);
    allocate(&memory, &t->first_input, e->features, TILE);
    allocate(&memory, &t->activated, e->intermediate_features, vectors);
    return memory;
}

static long scratch_vectors(const encoder *e, long vectors) {
    long head_features = 0;
    for (long i = 0; i < e->layers; i++)
        if (e->layer[i].attention.features > head_features)
            head_features = e->layer[i].attention.features;
    long sums = (PANEL + 4) * TILE, attention = attention_scratch_vectors(head_features, vectors);
    long largest = sums > attention ? sums : attention;
    return largest > e->features ? largest : e->features;
}

/* A tensor with the number of units that its format needs. */
static columns with_rounding(columns tensor, const quantizer *rounding) {
    tensor.rounding = rounding;
    if (rounding->format == PACKED || rounding->format == PLANES)
        tensor.units /= 4;
    return tensor;
}

/* The number of pieces of a sequence's queries, QUERIES vectors each. */
INLINE long query_parts(const sequence *seq) { return (vector_count(seq) + QUERIES - 1) / QUERIES; }

/* All heads, for all queries, or with first_only for the first vector of each sequence. */
static void attention_heads(const attention *a, const score_terms *terms, const tensors *t,
                            long query_vectors, long vectors, const sequence *sequences, long count,
                            int first_only, const columns *to, worker *self) {
    attention_scratch scratch = allocate_attention((vector *)self->scratch, a->features, vectors);
    long parts = 0;
    for (long s = 0; s < count; s++)
        parts += first_only ? 1 : query_parts(sequences + s);
    for (long i = claim_piece(self); i < a->heads * parts; i = complete_and_claim(self)) {
        /* Without parts there are no pieces. NOLINTNEXTLINE(clang-analyzer-core.DivideZero) */
        long s = 0, index = i % parts, head = i / parts;
        if (first_only) {
            head_part part = {a,     terms,         &t->query, &t->key, &t->value,        head,
                              index, query_vectors, vectors,   index,   sequences + index};
            attention_head(&part, to, &scratch, 1);
            continue;
        }
        for (; index >= query_parts(sequences + s); s++)
            index -= query_parts(sequences + s);
        long v = sequences[s].first + QUERIES * index;
        long end = min_long(v + QUERIES, sequences[s].first + vector_count(sequences + s));
        head_part part = {a,
                          terms,
                          &t->query,
                          &t->key,
                          &t->value,
                          head,
                          v,
                          query_vectors,
                          vectors,
                          sequences[s].first,
                          sequences + s};
        for (; part.v + QUERIES <= end; part.v += QUERIES)
            attention_head(&part, to, &scratch, QUERIES);
        for (; part.v < end; part.v++)
            attention_head(&part, to, &scratch, 1);
    }
    finish_phase(self, a->heads * parts);
}

/* Query, key and value of `features` each; the query from its query_vectors input, the value from
   value_input. Those to be rotated are still float32. */
static void project(const layer *l, long features, const columns *query_input, long query_vectors,
                    const columns *input, const columns *value_input, long vectors, int rotated,
                    const tensors *t, worker *self) {
    const columns *inputs[] = {query_input, input, value_input};
    columns query = t->query, key = t->key;
    if (rotated)
        query.rounding = key.rounding = &float32;
    long pieces = piece_count(features / 4, PANEL / 4, self);
    for (long i = claim_piece(self); i < 3 * pieces; i = complete_and_claim(self)) {
        const columns *to[] = {&query, &key, &t->value};
        long operand = i / pieces;
        int apart = operand == 2 && l->value.rows;
        linear(apart ? &l->value : &l->projection, apart ? 0 : operand * features, features,
               inputs[operand], operand ? vectors : query_vectors, NONE, 0, to[operand],
               self->scratch, i % pieces, pieces);
    }
    finish_phase(self, 3 * pieces);
}

/* Stores `features` of x [features][vectors], float32, in another format. */
static void convert(const columns *x, long features, long vectors, const columns *to,
                    worker *self) {
    long pieces = piece_count(features / 4, PANEL / 4, self);
    for (long i = claim_piece(self); i < pieces; i = complete_and_claim(self))
        for (long f = 4 * part_begin(features / 4, i, pieces);
             f < 4 * part_begin(features / 4, i + 1, pieces); f += 4)
            for (long v = 0; v < vectors; v++) {
                long width = tile_width(vectors, v / TILE);
                const vector *source =
                    (const vector *)tile_data(x, v / TILE) + f * width + v % TILE;
                vector four[4][GROUP];
                for (int m = 0; m < 4; m++)
                    four[m][0] = source[m * width];
                store(to, tile_data(to, v / TILE), width, f, v % TILE, four, 1);
            }
    finish_phase(self, pieces);
}

/* One layer for a group of `vectors`. Its output is hidden and, quantized as next_input, input;
   without next_input it is the last layer, and only each sequence's first vector is computed. */
static void run_layer(const encoder *e, const layer *l, const quantizer *next_input, tensors t,
                      const score_terms *all_terms, long vectors, const sequence *sequences,
                      long count, worker *self) {
    const score_terms *terms = all_terms + l->terms;
    const attention *a = &l->attention;
    int last = l == e->layer + e->layers - 1;
    long features = e->features, query_vectors = vectors;
    long attention_features = l->attention.heads * l->attention.features;
    columns input = with_rounding(t.input, &l->input), hidden = t.hidden, query_input = input;
    t.query = with_rounding(t.query, &l->attention.query);
    t.key = with_rounding(t.key, &l->attention.key);
    t.value = with_rounding(t.value, &l->attention.value);
    if (!next_input) {
        query_vectors = count;
        hidden = t.first_hidden;
        query_input = with_rounding(t.first_input, &l->input);
        for (long i = claim_piece(self); i < 1; i = complete_and_claim(self)) {
            gather_first_vectors(&t.hidden, vectors, sequences, count, &hidden);
            gather_first_vectors(&input, vectors, sequences, count, &query_input);
        }
        finish_phase(self, 1);
    }
    columns context = with_rounding(t.context, &l->context),
            activated = with_rounding(t.activated, &l->activated);
    columns value_input = input;
    if (l->value.rows) {
        /* Here the sums of the layer before have been read. */
        value_input = with_rounding(t.sums, &l->value_input);
        convert(&t.hidden, features, vectors, &value_input, self);
    }
    if (attention_features)
        project(l, attention_features, &query_input, query_vectors, &input, &value_input, vectors,
                terms->cosines != 0, &t, self);
    if (attention_features && terms->cosines) {
        rotate(terms, &t.query, &a->query, a->heads, a->features, query_vectors, sequences, count,
               !next_input, self);
        rotate(terms, &t.key, &a->key, a->heads, a->features, vectors, sequences, count, 0, self);
    }
    if (attention_features)
        attention_heads(a, terms, &t, query_vectors, vectors, sequences, count, !next_input,
                        &context, self);
    linear_layer(&l->attention_output, &context, query_vectors, NONE, &hidden, &t.sums, self);
    columns normalized = with_rounding(t.input, &l->normalized);
    layer_norm(&l->attention_norm, features, &t.sums, query_vectors, &hidden, e->pre_norm != 0,
               &normalized, self);
    if (l->intermediate.rows)
        linear_layer(&l->intermediate, &normalized, query_vectors, l->activation, 0, &activated,
                     self);
    linear_layer(&l->output, &activated, query_vectors, NONE, &hidden, &t.sums, self);
    columns output = next_input ? with_rounding(t.input, next_input) : hidden;
    layer_norm(&l->output_norm, features, &t.sums, query_vectors, &hidden, e->pre_norm && !last,
               &output, self);
}

/* Copies one sequence of the hidden states to y [tokens, features]. */
static void store_tokens(const encoder *e, const tensors *t, long vectors, const sequence *s,
                         float *y) {
    for (long token = 0; token < s->tokens; token++)
        for (long f = 0; f < e->features; f++)
            y[token * e->features + f] =
                *token_data(&t->hidden, vectors, f, s->first * LANES + token);
}

/* Runs the encoder for `count` sequences from row `first` of the batch on. */
static void run_group(const encoder *e, const embedding *embeddings, const long *tokens,
                      const score_terms *terms, long first, long count, tensors t, float *y,
                      worker self) {
    sequence sequences[TILE];
    long vectors = 0;
    for (long s = 0; s < count; s++) {
        sequences[s] = (sequence){vectors, tokens[first + s], first + s};
        vectors += vector_count(sequences + s);
    }
    columns input = with_rounding(t.input, &e->layer[0].input);
    /* Without sequences there are no vectors, and the first sequence begins at 0.
       NOLINTBEGIN(clang-analyzer-security.ArrayBound) */
    for (long i = claim_piece(&self); i < vectors; i = complete_and_claim(&self)) {
        long s = count - 1;
        while (sequences[s].first > i)
            s--;
        embed(embeddings, e->features, (first + s) * embeddings->length, sequences + s,
              i - sequences[s].first, vectors, &t.hidden, &input, (float *)self.scratch);
    }
    /* NOLINTEND(clang-analyzer-security.ArrayBound) */
    finish_phase(&self, vectors);
    const quantizer *last_output = e->all_tokens ? &float32 : 0;
    for (long i = 0; i < e->layers; i++)
        run_layer(e, e->layer + i, i + 1 < e->layers ? &e->layer[i + 1].input : last_output, t,
                  terms, vectors, sequences, count, &self);
    if (e->all_tokens) {
        for (long s = claim_piece(&self); s < count; s = complete_and_claim(&self))
            store_tokens(e, &t, vectors, sequences + s,
                         y + (first + s) * embeddings->length * e->features);
        finish_phase(&self, count);
        return;
    }
    const vector *last = (const vector *)t.first_hidden.data;
    for (long i = claim_piece(&self); i < 1; i = complete_and_claim(&self))
        for (long s = 0; s < count; s++)
            for (long f = 0; f < e->features; f++)
                y[(first + s) * e->features + f] = last[f * count + s][0];
    finish_phase(&self, 1);
}

#endif
