/* A whole encoder of BERT's kind in one call; see the headers for its parts.

The sequences of a batch are taken in groups: as many as fill a tile of 128 tokens, each padded to
whole vectors, or one that is longer. The numbers of a group stay in the second-level cache from the
first layer to the last. While there are groups for all threads each thread takes whole groups; the
rest they share, by outputs, heads or tokens. Each number is computed in one way in both cases, so
results do not depend on the number of threads.

Of the last layer only each sequence's first token is read: only its first vector is computed. */

#include <string.h>

#include "embedding.h"
#include "layers.h"
#include "layouts.h"
#include "phases.h"
#include "tensors.h"
#include "thread_pool.h"
#include "vectors.h"

/* Work that is worth calling for help: some 200 us for one thread, where to wake another takes 50.
   A value takes 1.6 cycles for each vector of its tile, and as long as for three more. */
#define WORTH_HELP 450000

/* Each layer's, that of embeddings and that of the output. */
static long phases(const encoder *e) { return 8 * e->layers + 2; }

/* Vectors of memory of one thread, or of what all share, for groups of up to `vectors`. */
static long part_vectors(const encoder *e, long vectors, long threads) {
    tensors t;
    long most = vectors > TILE ? vectors : TILE;
    return lay_out(&t, e, 0, most) - (integers *)0 + scratch_vectors(e, most) +
           threads * phases(e) * (long)(sizeof(phase) / sizeof(integers));
}

/* Vectors of memory, at a multiple of their size, for sequences of up to `length` tokens. */
long workspace_vectors(const encoder *e, long length, const pool *helpers) {
    long threads = helpers->helpers + 1;
    return (threads + 1) * part_vectors(e, (length + LANES - 1) / LANES, threads);
}

/* Whether Linear layers with quantized inputs are to come as bytes. */
int multiplies_bytes(void) {
#ifdef PRODUCTS_OF_BYTES
    return 1;
#else
    return 0;
#endif
}

/* A batch: groups begin at the rows `firsts`. The first `alone` of them are each for one thread,
   which claims it at `claimed`; all threads share the others, fewer than there are threads.
   `longest`: vectors of the longest group; `room`: those of the workspace of a thread. */
typedef struct {
    const encoder *encoder;
    const embedding *from;
    const long *tokens, *firsts;
    const float *masks;
    float *y;
    integers *workspace;
    long *claimed;
    long groups, alone, threads, longest, room;
} batch;

/* The part of the workspace that is shared, or that of seat `part - 1`. */
static integers *lay_out_part(tensors *t, const batch *b, long part) {
    return lay_out(t, b->encoder, b->workspace + part * b->room, b->longest);
}

/* Where the phases of a group lie in a part, behind its scratch. */
static phase *phases_in(integers *scratch, const batch *b) {
    return (phase *)(scratch + scratch_vectors(b->encoder, b->longest));
}

static void run_one(const batch *b, long group, tensors t, member me) {
    run_group(b->encoder, b->from, b->tokens, b->masks, b->firsts[group],
              b->firsts[group + 1] - b->firsts[group], t, b->y, me);
}

static void run_seat(const void *of, long seat) {
    const batch *b = of;
    tensors shared, own;
    integers *scratch = lay_out_part(&own, b, seat + 1);
    phase *mine = phases_in(scratch, b);
    for (long g; (g = __atomic_fetch_add(b->claimed, 1, __ATOMIC_RELAXED)) < b->alone;) {
        memset(mine, 0, phases(b->encoder) * sizeof *mine);
        run_one(b, g, own, (member){mine, 1, scratch});
    }
    phase *theirs = phases_in(lay_out_part(&shared, b, 0), b);
    for (long g = b->alone; g < b->groups; g++, theirs += phases(b->encoder))
        run_one(b, g, shared, (member){theirs, b->threads, scratch});
}

/* y [batch, features]: the last layer's output for the first token of each sequence. tokens [rows]:
   how many of a row's tokens count; masks [rows, length]: added to each key's scores. */
void encode(const encoder *e, const embedding *from, long rows, const long *tokens,
            const float *masks, float *y, integers *workspace, pool *helpers) {
    long firsts[rows + 1], groups = 0, filled = TILE, longest = TILE, claimed = 0, all_vectors = 0;
    for (long row = 0; row < rows; row++) {
        long vectors = (tokens[row] + LANES - 1) / LANES;
        longest = vectors > longest ? vectors : longest;
        if (filled + vectors > TILE) {
            firsts[groups++] = row;
            filled = 0;
        }
        filled += vectors;
        all_vectors += vectors;
    }
    firsts[groups] = rows;
    long threads = helpers->helpers + 1, alone = groups / threads * threads;
    batch b = {e,
               from,
               tokens,
               firsts,
               masks,
               y,
               workspace,
               &claimed,
               groups,
               alone,
               threads,
               longest,
               part_vectors(e, longest, threads)};
    tensors shared;
    memset(phases_in(lay_out_part(&shared, &b, 0), &b), 0,
           (groups - alone) * phases(e) * sizeof(phase));
    if (e->values * (all_vectors + 3 * groups) < WORTH_HELP)
        run_seat(&b, 0);
    else
        work_together(helpers, run_seat, &b);
}
