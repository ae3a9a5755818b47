/* Threads that share work without waiting for each other's turn.

What a group of tokens takes is a row of phases, each made of pieces that any thread may do. A
thread claims pieces until there are none, and goes on when all are done, so one that the system has
put aside holds nobody up but by the piece that it has begun: the others do the rest. With barriers
a busy machine took ten times as long. */

#ifndef SPARSEKIT_ENCODER_PHASES_H
#define SPARSEKIT_ENCODER_PHASES_H

#include "thread_pool.h"
#include "vectors.h"

/* A cache line of its own: threads write to it at the same time. */
typedef struct {
    long next, done;
    char others[64 - 2 * sizeof(long)];
} phase;

/* One of the threads that work on the same tokens, and the phase that it is in. */
typedef struct {
    phase *phase;
    long members;
    integers *scratch;
} member;

INLINE long claim(const member *me) {
    return __atomic_fetch_add(&me->phase->next, 1, __ATOMIC_RELAXED);
}

/* The piece that was claimed is done; claims another one. */
INLINE long claim_next(const member *me) {
    __atomic_fetch_add(&me->phase->done, 1, __ATOMIC_RELEASE);
    return claim(me);
}

/* Goes on to the next phase once all pieces of this one are done. */
static void settle(member *me, long pieces) {
    for (long looks = 0; __atomic_load_n(&me->phase->done, __ATOMIC_ACQUIRE) < pieces;)
        look_again(&looks);
    me->phase++;
}

/* Where part i begins, of `count` things in so many parts. */
INLINE long part(long count, long i, long parts) { return count * i / parts; }

/* In how many pieces of at most `most` things `count` of them are done: as many for each thread. */
INLINE long pieces_of(long count, long most, const member *me) {
    long rounds = (count + most * me->members - 1) / (most * me->members);
    return least(count, rounds * me->members);
}

#endif
