/* Attention of each head: scores of query and key, softmax over the keys, weighted sum of the
values.

Keys are processed in blocks. As in Rabe & Staats, "Self-attention Does Not Need O(n^2) Memory", and
in FlashAttention, e^x is computed relative to the largest score so far, and what was added up is
rescaled when a block has a larger one. Probabilities that are quantized have to be complete before
that, so their numerators are kept, and a second pass over the blocks weights the values. */

#ifndef SPARSEKIT_ENCODER_ATTENTION_H
#define SPARSEKIT_ENCODER_ATTENTION_H

#include <float.h>

#include "attention_float_tiles.h"
#include "attention_matmul.h"
#include "attention_tiles.h"
#include "disentangled.h"
#include "score_terms.h"
#include "tensors.h"
#include "vectors.h"

/* Memory of a worker for one part of a head. out [features][n]: the weighted sums, int32 for int8
   matmuls; largest [blocks][n]: the largest score up to each block; scores [keys][n], of a whole
   number of pairs of vectors of keys. */
typedef struct {
    vector *out, *largest, *scores;
#ifdef HAS_AMX
    split_operands split;
#endif
} attention_scratch;

/* The vectors of memory for heads of up to `features`, and sequences of up to `vectors`. */
INLINE long attention_scratch_vectors(long features, long vectors) {
    long all = QUERIES * (features + vectors + LANES * (vectors + 1));
#ifdef HAS_AMX
    all += split_operands_vectors(features, vectors);
#endif
    return all;
}

INLINE attention_scratch allocate_attention(vector *memory, long features, long vectors) {
    vector *largest = memory + QUERIES * features, *scores = largest + QUERIES * vectors;
    attention_scratch s = {.out = memory, .largest = largest, .scores = scores};
#ifdef HAS_AMX
    integers *rest = (integers *)(scores + QUERIES * LANES * (vectors + 1));
    s.split = allocate_split_operands(rest, features, vectors);
#endif
    return s;
}

/* In place, scores [keys][n] = e^(score - largest) of one or two keys, added to sums [n]. */
INLINE void add_numerators(vector *scores, const vector *largest, vector *sums, const int keys,
                           const int n) {
    vector x[2 * QUERIES];
#pragma GCC unroll 8
    for (int i = 0; i < keys * n; i++)
        x[i] = scores[i] - largest[i % n];
    exponentiate(x, keys * n);
#pragma GCC unroll 8
    for (int i = 0; i < keys * n; i++) {
        scores[i] = x[i];
        sums[i % n] += x[i];
    }
}

/* In place, scores [keys][n] = e^(score * scale + mask + pairs - largest), where masks of minus
   infinity count as the smallest number: of a sequence whose keys are all masked by it, the average
   is computed. sums [n]: their sums over all keys so far. pairs: NULL, or [keys][padded]. largest
   [n] is raised to the largest score; rescale [n]: e^(its old value - its new value), which `sums`
   is multiplied by. */
INLINE void softmax_block(vector *scores, long keys, float scale, const float *mask,
                          const float *pairs, long padded, vector *largest, vector *sums,
                          vector *rescale, const int n) {
    vector previous[QUERIES];
#pragma GCC unroll 4
    for (int j = 0; j < n; j++)
        previous[j] = largest[j];
    for (long t = 0; t < keys; t++) {
        const vector masked = broadcast(mask[t] < -FLT_MAX ? -FLT_MAX : mask[t]);
#pragma GCC unroll 4
        for (int j = 0; j < n; j++) {
            scores[t * n + j] = multiply_add_floats(scores[t * n + j], broadcast(scale), masked);
            if (pairs)
                scores[t * n + j] += load(pairs + t * padded + j * LANES);
            largest[j] = maximum(largest[j], scores[t * n + j]);
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < n; j++) {
        rescale[j] = exponential(previous[j] - largest[j]);
        sums[j] *= rescale[j];
    }
    long t = 0;
    for (; t + 2 <= keys; t += 2)
        add_numerators(scores + t * n, largest, sums, 2, n);
    if (t < keys)
        add_numerators(scores + t * n, largest, sums, 1, n);
}

/* scores [keys][n] of `keys` keys from the sequence's key k on. query_terms: see sum_queries. */
INLINE void compute_scores(const head_part *part, const attention_scratch *s,
                           const integers *query_terms, long k, long keys, vector *scores,
                           const int n) {
    const long lane = part->sequence->first * LANES + k;
    (void)query_terms; /* Used with int8 only. */
    (void)s;           /* Used with AMX only. */
#ifdef HAS_AMX
    if (part->attention->tiles && part->attention->query.format != PACKED) {
        score_float_tiles(&s->split, part->attention->features, k, keys, scores, n);
        return;
    }
    if (part->attention->tiles) {
        score_tiles(part, query_terms, lane, keys, scores, n);
        return;
    }
#endif
#ifdef INT8_DOT_PRODUCTS
    if (part->attention->query.format == PACKED) {
        score_int8(part, query_terms, lane, keys, scores, n);
        return;
    }
#endif
    if (part->terms->distance_keys) {
        for (long t = 0; t < keys; t += BLOCK)
            score_block_distances(part, lane + t, scores + t * n, n);
        return;
    }
    for (long t = 0; t < keys; t += BLOCK)
        score_block(part, lane + t, scores + t * n, n);
}

/* out [features][n] = out * rescale + the values of `keys` keys from the sequence's key k on,
   weighted by weights [keys][n], which are overwritten. */
INLINE void add_values(const head_part *part, const attention_scratch *s, vector *weights, long k,
                       long keys, const vector *rescale, vector *out, const int n) {
    long features = part->attention->features, first = part->head * features, f = 0;
    const long lane = part->sequence->first * LANES + k;
    (void)s; /* Used with AMX only. */
#ifdef HAS_AMX
    if (part->attention->tiles) {
        add_values_float_tiles(&s->split, features, weights, k, keys, rescale, out, n);
        return;
    }
#endif
    for (; f + BLOCK <= features; f += BLOCK)
        weighted_sum_block(part, weights, lane, keys, first + f, rescale, out + f * n, BLOCK, n);
    for (; f < features; f += 4)
        weighted_sum_block(part, weights, lane, keys, first + f, rescale, out + f * n, 4, n);
}

#ifdef INT8_DOT_PRODUCTS
/* As add_values, for the output of pack_probabilities; out are integers. */
INLINE void add_values_int8(const head_part *part, const vector *packed, long lane, long keys,
                            vector *out, const int n) {
    long features = part->attention->features, first = part->head * features, f = 0;
    const integers *weights = (const integers *)packed;
    integers *sums = (integers *)out;
    for (; f + BLOCK <= features; f += BLOCK)
        weighted_sum_int8(part, weights, lane, keys, first + f, sums + f * n, BLOCK, n);
    for (; f < features; f += 4)
        weighted_sum_int8(part, weights, lane, keys, first + f, sums + f * n, 4, n);
}

/* out [features][n], in place: float32 values from their int32 sums; see pack_probabilities. */
INLINE void scale_values(const attention *a, const integers *probability_sums, vector *out,
                         const int n) {
    const float scale = a->probabilities.scale * a->value.scale;
    const int32_t zero = (int32_t)a->value.zero_point;
    for (long f = 0; f < a->features; f++)
        for (int j = 0; j < n; j++)
            out[f * n + j] =
                to_float(((integers *)out)[f * n + j] - probability_sums[j] * zero) * scale;
}
#endif

/* The second pass with quantized probabilities: out [features][n] = the values weighted by the
   numerators in `scores`, divided by `sums`, rounded. */
INLINE void weight_values(const head_part *part, attention_scratch s, const vector *last_largest,
                          const vector *sums, const int n) {
    const attention *a = part->attention;
    const long keys = part->sequence->tokens;
    integers probability_sums[QUERIES] = {0};
    vector ones[QUERIES], factor[QUERIES];
    (void)probability_sums; /* Used with int8 only. */
    for (long k = 0; k < keys; k += BLOCK_KEYS, s.largest += n, s.scores += BLOCK_KEYS * n) {
        long count = min_long(BLOCK_KEYS, keys - k);
        for (int j = 0; j < n; j++) {
            ones[j] = broadcast(1.0f);
            factor[j] = exponential(s.largest[j] - last_largest[j]) * (1.0f / sums[j]);
        }
#ifdef HAS_AMX
        if (a->tiles && a->probabilities.format == PACKED) {
            add_values_tiles(part, s.scores, part->sequence->first * LANES + k, count, factor,
                             probability_sums, (integers *)s.out, n);
            continue;
        }
#endif
#ifdef INT8_DOT_PRODUCTS
        if (a->probabilities.format == PACKED) {
            pack_probabilities(&a->probabilities, s.scores, count, factor, probability_sums, n);
            add_values_int8(part, s.scores, part->sequence->first * LANES + k, count, s.out, n);
            continue;
        }
#endif
        for (long t = 0; t < count; t++)
            for (int j = 0; j < n; j++)
                s.scores[t * n + j] =
                    fake_quantize(s.scores[t * n + j] * factor[j], &a->probabilities);
        add_values(part, &s, s.scores, k, count, ones, s.out, n);
    }
#ifdef INT8_DOT_PRODUCTS
    if (a->probabilities.format == PACKED)
        scale_values(a, probability_sums, s.out, n);
#endif
}

/* s.out [features][n]: the weighted sums, still to be multiplied by `factor` [n]. */
INLINE void attend(const head_part *part, attention_scratch s, vector *factor, const int n) {
    const attention *a = part->attention;
    const sequence *seq = part->sequence;
    const score_terms *terms = part->terms;
    const long padded = terms->padded;
    const float *mask = terms->masks + seq->row * terms->length,
                *pairs =
                    pair_terms(terms, seq->row, part->head, (part->v - part->first_vector) * LANES);
    const int quantized = a->probabilities.format != FLOAT32;
    vector largest[QUERIES], sums[QUERIES], rescale[QUERIES], *scores = s.scores;
    integers query_terms[QUERIES] = {0};
    memset(s.out, 0, a->features * n * sizeof *s.out);
    for (int j = 0; j < n; j++) {
        largest[j] = broadcast(-FLT_MAX);
        sums[j] = broadcast(0.0f);
    }
#ifdef INT8_DOT_PRODUCTS
    if (a->query.format == PACKED)
        sum_queries(part, query_terms, n);
#endif
#ifdef HAS_AMX
    if (a->tiles && a->query.format != PACKED)
        _tile_loadconfig(&whole_tiles);
    else if (a->tiles)
        configure_tiles(a);
#endif
    for (long k = 0; k < seq->tokens; k += BLOCK_KEYS) {
        long keys = min_long(BLOCK_KEYS, seq->tokens - k);
        compute_scores(part, &s, query_terms, k, keys, scores, n);
        softmax_block(scores, keys, a->scale, mask + k, pairs ? pairs + k * padded : 0, padded,
                      largest, sums, rescale, n);
        if (!quantized) {
            add_values(part, &s, scores, k, keys, rescale, s.out, n);
            continue;
        }
        for (int j = 0; j < n; j++)
            s.largest[k / BLOCK_KEYS * n + j] = largest[j];
        scores += BLOCK_KEYS * n;
    }
    for (int j = 0; j < n; j++)
        factor[j] = quantized ? broadcast(1.0f) : 1.0f / sums[j];
    if (quantized)
        weight_values(part, s, largest, sums, n);
#ifdef HAS_AMX
    if (a->tiles)
        _tile_release();
#endif
}

/* The output of one head for n vectors of queries, stored in `to`. */
INLINE void attention_head(const head_part *part, const columns *to, attention_scratch *scratch,
                           const int n) {
    vector factor[QUERIES];
#ifdef HAS_AMX
    if (part->attention->tiles && part->attention->query.format != PACKED)
        split(part, &scratch->split, n);
#endif
    const attention_scratch s = *scratch;
    attend(part, s, factor, n);
    long width = tile_width(part->query_vectors, part->v / TILE);
    long features = part->attention->features;
    for (long f = 0; f < features; f += 4) {
        vector four[4][GROUP];
#pragma GCC unroll 4
        for (int m = 0; m < 4; m++) {
#pragma GCC unroll 4
            for (int j = 0; j < n; j++)
                four[m][j] = s.out[(f + m) * n + j] * factor[j];
        }
        store(to, tile_data(to, part->v / TILE), width, part->head * features + f, part->v % TILE,
              four, n);
    }
}

#endif
