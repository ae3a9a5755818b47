/* Work that threads share without barriers.

The computation of a group is a sequence of phases, each made of pieces that any worker may do. A
worker claims pieces until none are left, and goes on when all are done. So a preempted thread
delays the others only by the piece that it has begun. With barriers, a busy machine took ten times
as long. */

#ifndef SPARSEKIT_ENCODER_PHASES_H
#define SPARSEKIT_ENCODER_PHASES_H

#include "thread_pool.h"
#include "vectors.h"

/* Padded to a cache line, since several threads write to it. */
typedef struct {
    long next, done;
    char padding[64 - 2 * sizeof(long)];
} phase;

/* One of the threads that work on a group, and its current phase. */
typedef struct {
    phase *phase;
    long workers;
    integers *scratch;
} worker;

INLINE long claim_piece(const worker *self) {
    return __atomic_fetch_add(&self->phase->next, 1, __ATOMIC_RELAXED);
}

/* Marks the claimed piece as done, and claims another one. */
INLINE long complete_and_claim(const worker *self) {
    __atomic_fetch_add(&self->phase->done, 1, __ATOMIC_RELEASE);
    return claim_piece(self);
}

/* Waits until all pieces of this phase are done, and goes on to the next. */
static void finish_phase(worker *self, long pieces) {
    for (long spins = 0; __atomic_load_n(&self->phase->done, __ATOMIC_ACQUIRE) < pieces;)
        spin(&spins);
    self->phase++;
}

/* The begin of part i, when `count` items are divided into `parts`. */
INLINE long part_begin(long count, long i, long parts) { return count * i / parts; }

/* The number of pieces, of at most `max_size` items, into which `count` items are divided: a
   multiple of the number of workers. */
INLINE long piece_count(long count, long max_size, const worker *self) {
    long rounds = (count + max_size * self->workers - 1) / (max_size * self->workers);
    return min_long(count, rounds * self->workers);
}

#endif
