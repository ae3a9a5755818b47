/* A whole encoder of BERT's kind in one call; see the headers for its parts.

The sequences of a batch are taken in groups: as many as fill a tile of 128 tokens, each padded to
the next 16, or one that is longer. The numbers of a group stay in the second-level cache from the
first layer to the last. While there are groups for all threads each thread takes whole groups, and
nobody waits; the rest they work on together, each on its own outputs, heads or tokens. Each number
is computed in one way in both cases, so results do not depend on the number of threads.

Of the last layer only each sequence's first token is read: only its first vector is computed. */

#include "encoder_vectors.h"
#include "encoder_linear.h"
#include "encoder_attention.h"
#include "encoder_norm.h"

#include <omp.h>

/* The forms are those of the tensors that Linear layers read: the layer's input, the attention's
   output, the normalized sum, and what the activation yields. projection: query, key and value. */
typedef struct {
    weight projection, attended, widened, narrowed;
    quantizer input, context, middle, active;
    attention attention;
    norm first, second;
    long activation;
} layer;

typedef struct {
    long layers, features, widened;
    const layer *layer;
} encoder;

/* The tensors of a group, and the scratch of each thread. */
typedef struct {
    columns hidden, sums, input, query, key, value, context, active, first_hidden, first_input;
} tensors;

static const quantizer plain = {.kind = PLAIN};

static integers *claim(integers **free, columns *tensor, long units, long vectors) {
    tensor->data = *free;
    tensor->units = units;
    tensor->form = &plain;
    return *free += units * vectors;
}

/* Lays the tensors out for groups of up to `vectors`; returns where they end. */
static integers *lay_out(tensors *t, const encoder *e, integers *free, long vectors) {
    columns *wide[] = {&t->hidden, &t->sums, &t->input, &t->query, &t->key, &t->value, &t->context};
    for (int i = 0; i < 7; i++)
        claim(&free, wide[i], e->features, vectors);
    claim(&free, &t->first_hidden, e->features, TILE);
    claim(&free, &t->first_input, e->features, TILE);
    claim(&free, &t->active, e->widened, vectors);
    return free;
}

static long scratch_vectors(const encoder *e, long vectors) {
    long sums = PANEL * TILE, scores = QUERIES * LANES * vectors;
    long most = sums > scores ? sums : scores;
    return most > e->features ? most : e->features;
}

/* Vectors of memory, at a multiple of 64 bytes, for sequences of up to `length` tokens. */
long workspace_vectors(const encoder *e, long length, long threads) {
    tensors t;
    long vectors = (length + LANES - 1) / LANES;
    vectors = vectors > TILE ? vectors : TILE;
    return threads * (lay_out(&t, e, 0, vectors) - (integers *)0 + scratch_vectors(e, vectors));
}

/* Whether Linear layers with quantized inputs are to come as bytes. */
int multiplies_bytes(void) {
#ifdef __AVX512VNNI__
    return 1;
#else
    return 0;
#endif
}

/* `form` with as many units as it takes. */
static columns in_form(columns tensor, const quantizer *form) {
    tensor.form = form;
    if (form->kind == BYTES)
        tensor.units /= 4;
    return tensor;
}

static void wait(const member *me) {
    if (me->members > 1) {
#pragma omp barrier
    }
}

/* The first vector of each sequence, side by side. */
static void take_first(const columns *from, long vectors, const sequence *of, long count,
                       const columns *to, const member *me) {
    for (long u = part(from->units, me->rank, me->members);
         u < part(from->units, me->rank + 1, me->members); u++)
        for (long s = 0; s < count; s++)
            to->data[u * count + s] = from->data[u * width_of(vectors, 0) + of[s].first];
}

/* This thread's part of the heads and queries: all vectors of each sequence, or its first one. */
static void attend_all(const attention *a, const tensors *t, long query_vectors, long vectors,
                       const sequence *of, long count, int first_only, const columns *to,
                       const member *me) {
    long pairs = 0, done = 0;
    for (long s = 0; s < count; s++)
        pairs += first_only ? 1 : ((of[s].tokens + LANES - 1) / LANES + 1) / 2;
    long from = part(a->heads * pairs, me->rank, me->members);
    long until = part(a->heads * pairs, me->rank + 1, me->members);
    for (long head = 0; head < a->heads; head++) {
        for (long s = 0; s < count; s++) {
            long queries = first_only ? 1 : (of[s].tokens + LANES - 1) / LANES;
            for (long v = 0; v < queries; v += 2, done++) {
                long at = first_only ? s : of[s].first + v;
                if (done < from || done >= until)
                    continue;
                if (queries - v > 1)
                    attend(a, head, &t->query, query_vectors, at, &t->key, &t->value, vectors,
                           of + s, to, (vector *)me->scratch, 2);
                else
                    attend(a, head, &t->query, query_vectors, at, &t->key, &t->value, vectors,
                           of + s, to, (vector *)me->scratch, 1);
            }
        }
    }
}

/* One layer on a group of `vectors`; its output is hidden, and input in the form `next`. */
static void run_layer(const encoder *e, const layer *l, const quantizer *next, tensors *t,
                      long vectors, const sequence *of, long count, const member *me) {
    long features = e->features, own = vectors;
    columns input = in_form(t->input, &l->input), hidden = t->hidden, asking = input;
    t->query.form = &l->attention.query;
    t->key.form = &l->attention.key;
    t->value.form = &l->attention.value;
    if (!next) {
        own = count;
        hidden = t->first_hidden;
        asking = in_form(t->first_input, &l->input);
        take_first(&t->hidden, vectors, of, count, &hidden, me);
        take_first(&input, vectors, of, count, &asking, me);
        wait(me);
    }
    const weight *w = &l->projection;
    linear(w, 0, features, &asking, own, NONE, 0, &t->query, me);
    linear(w, features, features, &input, vectors, NONE, 0, &t->key, me);
    linear(w, 2 * features, features, &input, vectors, NONE, 0, &t->value, me);
    wait(me);
    columns context = in_form(t->context, &l->context), active = in_form(t->active, &l->active);
    attend_all(&l->attention, t, own, vectors, of, count, !next, &context, me);
    wait(me);
    linear(&l->attended, 0, features, &context, own, NONE, &hidden, &t->sums, me);
    wait(me);
    columns middle = in_form(t->input, &l->middle);
    layer_norm(&l->first, features, &t->sums, own, &hidden, &middle, me);
    wait(me);
    linear(&l->widened, 0, e->widened, &middle, own, l->activation, 0, &active, me);
    wait(me);
    linear(&l->narrowed, 0, features, &active, own, NONE, &hidden, &t->sums, me);
    wait(me);
    columns output = next ? in_form(t->input, next) : hidden;
    layer_norm(&l->second, features, &t->sums, own, &hidden, &output, me);
    wait(me);
}

/* A group of sequences, `count` of them from row `first` of the batch on. */
static void run_group(const encoder *e, const embedding *from, const long *tokens,
                      const float *masks, long first, long count, tensors t, float *y,
                      const member *me) {
    sequence of[TILE];
    long vectors = 0;
    for (long s = 0; s < count; s++) {
        of[s] = (sequence){vectors, tokens[first + s], masks + (first + s) * from->length};
        vectors += (of[s].tokens + LANES - 1) / LANES;
    }
    columns input = in_form(t.input, &e->layer[0].input);
    for (long s = 0; s < count; s++)
        embed(from, e->features, first + s, of + s, vectors, &t.hidden, &input, me);
    wait(me);
    for (long i = 0; i < e->layers; i++)
        run_layer(e, e->layer + i, i + 1 < e->layers ? &e->layer[i + 1].input : 0, &t, vectors, of,
                  count, me);
    if (me->rank)
        return;
    for (long s = 0; s < count; s++)
        for (long f = 0; f < e->features; f++)
            y[(first + s) * e->features + f] = ((vector *)t.first_hidden.data)[f * count + s][0];
}

/* y [batch, features]: the last layer's output for the first token of each sequence. tokens [batch]:
   how many of a row's tokens count; masks [batch, length]: added to each key's scores. */
void encode(const encoder *e, const embedding *from, long batch, const long *tokens,
            const float *masks, float *y, integers *workspace, int threads) {
    long firsts[batch + 1], groups = 0, filled = TILE, longest = TILE;
    for (long row = 0; row < batch; row++) {
        long vectors = (tokens[row] + LANES - 1) / LANES;
        longest = vectors > longest ? vectors : longest;
        if (filled + vectors > TILE) {
            firsts[groups++] = row;
            filled = 0;
        }
        filled += vectors;
    }
    firsts[groups] = batch;
    long alone = groups / threads * threads;
#pragma omp parallel num_threads(threads)
    {
        long rank = omp_get_thread_num(), each = workspace_vectors(e, longest * LANES, 1);
        tensors shared, own;
        lay_out(&shared, e, workspace, longest);
        integers *scratch = lay_out(&own, e, workspace + rank * each, longest);
        member single = {0, 1, scratch}, one = {rank, omp_get_num_threads(), scratch};
#pragma omp for schedule(dynamic)
        for (long g = 0; g < alone; g++)
            run_group(e, from, tokens, masks, firsts[g], firsts[g + 1] - firsts[g], own, y, &single);
        for (long g = alone; g < groups; g++) {
            run_group(e, from, tokens, masks, firsts[g], firsts[g + 1] - firsts[g], shared, y, &one);
#pragma omp barrier
        }
    }
}
