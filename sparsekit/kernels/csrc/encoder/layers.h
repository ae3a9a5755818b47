/* The layers of an encoder, one after the other, on a group of sequences. */

#ifndef SPARSEKIT_ENCODER_LAYERS_H
#define SPARSEKIT_ENCODER_LAYERS_H

#include "attention.h"
#include "embedding.h"
#include "layer_norm.h"
#include "linear.h"
#include "phases.h"
#include "sparse_matmul.h"
#include "tensors.h"
#include "vectors.h"

/* The forms are those of the tensors that Linear layers read: the layer's input, the attention's
   output, the normalized sum, and what the activation yields. projection: query, key and value. */
typedef struct {
    weight projection, attended, widened, narrowed;
    quantizer input, context, middle, active;
    attention attention;
    norm first, second;
    long activation;
} layer;

/* `values`: of all weights, units and steps. */
typedef struct {
    long layers, features, widened, values;
    const layer *layer;
} encoder;

/* The tensors of a group, and the scratch of each thread. */
typedef struct {
    columns hidden, sums, input, query, key, value, context, active, first_hidden, first_input;
} tensors;

static const quantizer plain = {.kind = PLAIN};

static void place(integers **free, columns *tensor, long units, long vectors) {
    tensor->data = *free;
    tensor->units = units;
    tensor->form = &plain;
    *free += units * vectors;
}

/* Lays the tensors out for groups of up to `vectors`; returns where they end. */
static integers *lay_out(tensors *t, const encoder *e, integers *free, long vectors) {
    columns *wide[] = {&t->hidden, &t->sums, &t->input, &t->query, &t->key, &t->value, &t->context};
    for (int i = 0; i < 7; i++)
        place(&free, wide[i], e->features, vectors);
    place(&free, &t->first_hidden, e->features, TILE);
    place(&free, &t->first_input, e->features, TILE);
    place(&free, &t->active, e->widened, vectors);
    return free;
}

static long scratch_vectors(const encoder *e, long vectors) {
    long sums = (PANEL + 4) * TILE, scores = QUERIES * LANES * vectors;
    long most = sums > scores ? sums : scores;
    return most > e->features ? most : e->features;
}

/* `form` with as many units as it takes. */
static columns in_form(columns tensor, const quantizer *form) {
    tensor.form = form;
    if (form->kind == FOURS || form->kind == PLANES)
        tensor.units /= 4;
    return tensor;
}

/* All heads and queries: all vectors of each sequence, or its first one. */
static void attend_all(const attention *a, const tensors *t, long query_vectors, long vectors,
                       const sequence *of, long count, int first_only, const columns *to,
                       member *me) {
    vector *scores = (vector *)me->scratch;
    long pairs = 0;
    for (long s = 0; s < count; s++)
        pairs += first_only ? 1 : (vectors_of(of + s) + 1) / 2;
    for (long i = claim(me); i < a->heads * pairs; i = claim_next(me)) {
        long s = 0, pair = i % pairs, head = i / pairs;
        for (; !first_only && pair >= (vectors_of(of + s) + 1) / 2; s++)
            pair -= (vectors_of(of + s) + 1) / 2;
        if (first_only)
            attend(a, head, &t->query, query_vectors, pair, &t->key, &t->value, vectors, of + pair,
                   to, scores, 1);
        else if (vectors_of(of + s) - 2 * pair > 1)
            attend(a, head, &t->query, query_vectors, of[s].first + 2 * pair, &t->key, &t->value,
                   vectors, of + s, to, scores, 2);
        else
            attend(a, head, &t->query, query_vectors, of[s].first + 2 * pair, &t->key, &t->value,
                   vectors, of + s, to, scores, 1);
    }
    settle(me, a->heads * pairs);
}

/* Query, key and value, the first of them of its own vectors of the input. */
static void project(const weight *w, long features, const columns *asking, long own,
                    const columns *input, long vectors, const tensors *t, member *me) {
    long pieces = pieces_of(features / 4, PANEL / 4, me);
    for (long i = claim(me); i < 3 * pieces; i = claim_next(me)) {
        const columns *to[] = {&t->query, &t->key, &t->value};
        long side = i / pieces;
        linear(w, side * features, features, side ? input : asking, side ? vectors : own, NONE, 0,
               to[side], me->scratch, i % pieces, pieces);
    }
    settle(me, 3 * pieces);
}

/* One layer on a group of `vectors`; its output is hidden, and input in the form `next`. */
static void run_layer(const encoder *e, const layer *l, const quantizer *next, tensors t,
                      long vectors, const sequence *of, long count, member *me) {
    long features = e->features, own = vectors;
    columns input = in_form(t.input, &l->input), hidden = t.hidden, asking = input;
    t.query = in_form(t.query, &l->attention.query);
    t.key = in_form(t.key, &l->attention.key);
    t.value = in_form(t.value, &l->attention.value);
    if (!next) {
        own = count;
        hidden = t.first_hidden;
        asking = in_form(t.first_input, &l->input);
        for (long i = claim(me); i < 1; i = claim_next(me)) {
            take_first(&t.hidden, vectors, of, count, &hidden);
            take_first(&input, vectors, of, count, &asking);
        }
        settle(me, 1);
    }
    project(&l->projection, features, &asking, own, &input, vectors, &t, me);
    columns context = in_form(t.context, &l->context), active = in_form(t.active, &l->active);
    attend_all(&l->attention, &t, own, vectors, of, count, !next, &context, me);
    linear_layer(&l->attended, &context, own, NONE, &hidden, &t.sums, me);
    columns middle = in_form(t.input, &l->middle);
    layer_norm(&l->first, features, &t.sums, own, &hidden, &middle, me);
    linear_layer(&l->widened, &middle, own, l->activation, 0, &active, me);
    linear_layer(&l->narrowed, &active, own, NONE, &hidden, &t.sums, me);
    columns output = next ? in_form(t.input, next) : hidden;
    layer_norm(&l->second, features, &t.sums, own, &hidden, &output, me);
}

/* A group of sequences, `count` of them from row `first` of the batch on. */
static void run_group(const encoder *e, const embedding *from, const long *tokens,
                      const float *masks, long first, long count, tensors t, float *y, member me) {
    sequence of[TILE];
    long vectors = 0;
    for (long s = 0; s < count; s++) {
        of[s] = (sequence){vectors, tokens[first + s], masks + (first + s) * from->length};
        vectors += vectors_of(of + s);
    }
    columns input = in_form(t.input, &e->layer[0].input);
    for (long i = claim(&me); i < vectors; i = claim_next(&me)) {
        long s = count - 1;
        while (of[s].first > i)
            s--;
        embed(from, e->features, (first + s) * from->length, of + s, i - of[s].first, vectors,
              &t.hidden, &input, (float *)me.scratch);
    }
    settle(&me, vectors);
    for (long i = 0; i < e->layers; i++)
        run_layer(e, e->layer + i, i + 1 < e->layers ? &e->layer[i + 1].input : 0, t, vectors, of,
                  count, &me);
    const vector *last = (const vector *)t.first_hidden.data;
    for (long i = claim(&me); i < 1; i = claim_next(&me))
        for (long s = 0; s < count; s++)
            for (long f = 0; f < e->features; f++)
                y[(first + s) * e->features + f] = last[f * count + s][0];
    settle(&me, 1);
}

#endif
