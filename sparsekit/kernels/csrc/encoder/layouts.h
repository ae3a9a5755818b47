/* The structures and constants that Python mirrors, compared when it loads the library. */

#ifndef SPARSEKIT_ENCODER_LAYOUTS_H
#define SPARSEKIT_ENCODER_LAYOUTS_H

#include "../layout.h"
#include "attention_matmul.h"
#include "embedding.h"
#include "layer_norm.h"
#include "layers.h"
#include "score_terms.h"
#include "sparse_matmul.h"
#include "tensors.h"
#include "vectors.h"

/* What the layout of packed weights depends on. */
const long chunk_units = CHUNK_UNITS, chunk_inputs = CHUNK_INPUTS;

const layout_entry quantizer_layout[] = {
    SIZE(quantizer),
    FIELD(quantizer, format),
    FIELD(quantizer, scale),
    FIELD(quantizer, inverse),
    FIELD(quantizer, zero_point),
    FIELD(quantizer, low),
    FIELD(quantizer, high),
    END,
};
const layout_entry weight_layout[] = {
    SIZE(weight),
    FIELD(weight, rows),
    FIELD(weight, chunks),
    FIELD(weight, format),
    FIELD(weight, pointers),
    FIELD(weight, indices),
    FIELD(weight, values),
    FIELD(weight, initial_sums),
    FIELD(weight, scales),
    FIELD(weight, biases),
    END,
};
const layout_entry attention_layout[] = {
    SIZE(attention),
    FIELD(attention, heads),
    FIELD(attention, features),
    FIELD(attention, tiles),
    FIELD(attention, scale),
    FIELD(attention, query),
    FIELD(attention, key),
    FIELD(attention, probabilities),
    FIELD(attention, value),
    END,
};
const layout_entry norm_layout[] = {
    SIZE(norm),           FIELD(norm, weight),   FIELD(norm, bias),
    FIELD(norm, epsilon), FIELD(norm, centered), END,
};
const layout_entry layer_layout[] = {
    SIZE(layer),
    FIELD(layer, projection),
    FIELD(layer, value),
    FIELD(layer, attention_output),
    FIELD(layer, intermediate),
    FIELD(layer, output),
    FIELD(layer, input),
    FIELD(layer, value_input),
    FIELD(layer, context),
    FIELD(layer, normalized),
    FIELD(layer, activated),
    FIELD(layer, attention),
    FIELD(layer, attention_norm),
    FIELD(layer, output_norm),
    FIELD(layer, activation),
    FIELD(layer, terms),
    END,
};
const layout_entry encoder_layout[] = {
    SIZE(encoder),
    FIELD(encoder, layers),
    FIELD(encoder, features),
    FIELD(encoder, attention_features),
    FIELD(encoder, intermediate_features),
    FIELD(encoder, values),
    FIELD(encoder, all_tokens),
    FIELD(encoder, pre_norm),
    FIELD(encoder, layer),
    END,
};
const layout_entry table_layout[] = {
    SIZE(table),
    FIELD(table, type),
    FIELD(table, scale),
    FIELD(table, zero_point),
    FIELD(table, rows),
    FIELD(table, ids),
    END,
};
const layout_entry embedding_layout[] = {
    SIZE(embedding),           FIELD(embedding, tables),
    FIELD(embedding, length),  FIELD(embedding, keep_sums),
    FIELD(embedding, table),   FIELD(embedding, norm),
    FIELD(embedding, factors), END,
};
const layout_entry score_terms_layout[] = {
    SIZE(score_terms),
    FIELD(score_terms, masks),
    FIELD(score_terms, pairs),
    FIELD(score_terms, cosines),
    FIELD(score_terms, sines),
    FIELD(score_terms, length),
    FIELD(score_terms, padded),
    FIELD(score_terms, pair_row),
    FIELD(score_terms, pair_head),
    FIELD(score_terms, distance_keys),
    FIELD(score_terms, distance_queries),
    FIELD(score_terms, distance_stride),
    FIELD(score_terms, distance_center),
    END,
};

#endif
