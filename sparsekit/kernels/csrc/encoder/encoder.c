/* A whole BERT encoder in one call; see the headers for its parts.

The sequences of a batch are processed in groups: as many sequences, each padded to whole vectors,
as fit into a tile of 128 tokens, or a single longer one. The activations of a group stay in the L2
cache from the first layer to the last. While there are at least as many groups as threads, each
thread processes whole groups; the remaining groups are shared by all threads, which divide outputs,
heads or tokens. Every value is computed the same way in both cases, so results do not depend on the
number of threads.

Of the last layer of a classifier only the output for each sequence's first token is used: only its
first vector is computed, unless all tokens are asked for. */

#include <stdint.h>
#include <string.h>

#include "dense_matmul.h"
#include "embedding.h"
#include "layers.h"
#include "layouts.h"
#include "phases.h"
#include "score_terms.h"
#include "tensors.h"
#include "thread_pool.h"
#include "vectors.h"

/* The least work for which other threads are woken: some 200 us of one thread, while waking one
   takes 50. In units of about 1.6 cycles: a weight value costs one per vector of its tile, and
   three for itself. */
#define MIN_PARALLEL_WORK 450000

/* The phases of all layers, of the embeddings and of the output. */
static long phase_count(const encoder *e) { return 11 * e->layers + 2; }

/* The vectors of memory for one thread, or for what all threads share, for groups of up to
   `vectors`. */
static long part_vectors(const encoder *e, long vectors, long threads) {
    tensors t;
    long largest = vectors > TILE ? vectors : TILE;
    long end = (long)((uintptr_t)allocate_tensors(&t, e, 0, largest) / sizeof(integers));
    return end + scratch_vectors(e, largest) +
           threads * phase_count(e) * (long)(sizeof(phase) / sizeof(integers));
}

/* The size of the workspace in vectors, to which it must be aligned, for sequences of up to
   `length` tokens. */
long workspace_vectors(const encoder *e, long length, const pool *p) {
    long threads = p->helpers + 1;
    return (threads + 1) * part_vectors(e, (length + LANES - 1) / LANES, threads);
}

/* Whether Linear layers with quantized inputs must be packed as int8. */
int has_int8_dot_products(void) {
#ifdef INT8_DOT_PRODUCTS
    return 1;
#else
    return 0;
#endif
}

/* The largest sum of the magnitudes of two weights that make a pair of PLANES, to which Linear
   layers with quantized inputs may be packed where there are no dot products of int8; 0 for none.
 */
int max_int8_pair(void) {
#ifdef INT8_PAIRS
    return MAX_PAIR;
#else
    return 0;
#endif
}

/* Whether weights may be stored as TILES; asks the system for them. */
int has_amx(void) {
#ifdef HAS_AMX
    return allow_tiles();
#else
    return 0;
#endif
}

/* out [rows, columns] = x [rows, inputs] w [inputs, columns], all float32 and contiguous.
   columns: a multiple of 16, which all processors' vectors divide. */
void multiply_dense(const float *x, const float *w, long rows, long inputs, long columns,
                    float *out) {
    dense_product(x, w, rows, inputs, columns, out);
}

/* A batch. Group g has the rows group_starts[g] to group_starts[g + 1]. The first `unshared` groups
   are processed by one thread each, which claims the next one from `next_group`; all threads share
   the remaining ones, fewer than there are threads. longest: the vectors of the longest group.
   part_size: the vectors of workspace per thread. */
typedef struct {
    const encoder *encoder;
    const embedding *embeddings;
    const long *tokens, *group_starts;
    const score_terms *terms;
    float *y;
    integers *workspace;
    long *next_group;
    long groups, unshared, threads, longest, part_size;
} batch;

/* Part 0 of the workspace is shared, part i + 1 belongs to worker i. Returns its scratch. */
static integers *allocate_part(tensors *t, const batch *b, long part) {
    return allocate_tensors(t, b->encoder, b->workspace + part * b->part_size, b->longest);
}

/* The phases of a group follow the scratch in a part of the workspace. */
static phase *group_phases(integers *scratch, const batch *b) {
    return (phase *)(scratch + scratch_vectors(b->encoder, b->longest));
}

static void run_batch_group(const batch *b, long group, tensors t, worker self) {
    /* Groups are counted from 0. NOLINTNEXTLINE(clang-analyzer-security.ArrayBound) */
    run_group(b->encoder, b->embeddings, b->tokens, b->terms, b->group_starts[group],
              b->group_starts[group + 1] - b->group_starts[group], t, b->y, self);
}

static void run_worker(const void *argument, long worker_index) {
    const batch *b = argument;
    tensors shared, own;
    integers *scratch = allocate_part(&own, b, worker_index + 1);
    phase *own_phases = group_phases(scratch, b);
    for (long g; (g = __atomic_fetch_add(b->next_group, 1, __ATOMIC_RELAXED)) < b->unshared;) {
        memset(own_phases, 0, phase_count(b->encoder) * sizeof *own_phases);
        run_batch_group(b, g, own, (worker){own_phases, 1, scratch});
    }
    phase *shared_phases = group_phases(allocate_part(&shared, b, 0), b);
    for (long g = b->unshared; g < b->groups; g++, shared_phases += phase_count(b->encoder))
        run_batch_group(b, g, shared, (worker){shared_phases, b->threads, scratch});
}

/* y: the last layer's output for the first token of each sequence, [rows, features], or for all
   tokens, [rows, length, features]. tokens [rows]: the number of tokens per row. terms: those that
   layers name by index. */
void encode(const encoder *e, const embedding *embeddings, long rows, const long *tokens,
            const score_terms *terms, float *y, integers *workspace, pool *p) {
    long group_starts[rows + 1], groups = 0, tile_vectors = TILE, longest = TILE, next_group = 0,
                                 all_vectors = 0;
    for (long row = 0; row < rows; row++) {
        long vectors = (tokens[row] + LANES - 1) / LANES;
        longest = vectors > longest ? vectors : longest;
        if (tile_vectors + vectors > TILE) {
            group_starts[groups++] = row;
            tile_vectors = 0;
        }
        tile_vectors += vectors;
        all_vectors += vectors;
    }
    group_starts[groups] = rows;
    long threads = p->helpers + 1, unshared = groups / threads * threads;
    batch b = {e,
               embeddings,
               tokens,
               group_starts,
               terms,
               y,
               workspace,
               &next_group,
               groups,
               unshared,
               threads,
               longest,
               part_vectors(e, longest, threads)};
    tensors shared;
    memset(group_phases(allocate_part(&shared, &b, 0), &b), 0,
           (groups - unshared) * phase_count(e) * sizeof(phase));
    if (e->values * (all_vectors + 3 * groups) < MIN_PARALLEL_WORK)
        run_worker(&b, 0);
    else
        run_job(p, run_worker, &b);
}
