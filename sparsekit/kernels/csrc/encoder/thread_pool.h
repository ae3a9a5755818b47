/* Threads that help a caller with its work, if they come in time.

The caller works too, and waits for nobody who has not begun: it closes the work when it finds none
left, and waits for those inside only. So a helper that the system wakes late, or not at all, costs
nothing; a barrier, as OpenMP has at the end, would wait for its turn of a busy core. */

#ifndef SPARSEKIT_ENCODER_THREAD_POOL_H
#define SPARSEKIT_ENCODER_THREAD_POOL_H

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>

#include "vectors.h"

/* How often a waiting thread looks before it lets other programs have its core: some 50 us. */
#define LOOKS 1000

/* What a helper, or the caller (seat 0), does of a job. */
typedef void (*helping)(const void *job, long seat);

/* A round is a job's number. `open`: whether helpers may enter; `inside`: how many are. */
typedef struct {
    long helpers, stopping, round, open, inside, seats, asleep;
    helping work;
    const void *job;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t threads[];
} pool;

/* One more look at something that another thread is to change; lets other programs have the core
   after some 50 us of them. */
INLINE void look_again(long *looks) {
#ifdef __x86_64__
    __builtin_ia32_pause();
#endif
    if (++*looks > LOOKS)
        sched_yield();
}

INLINE long read_now(const long *number) { return __atomic_load_n(number, __ATOMIC_SEQ_CST); }
INLINE void write_now(long *number, long to) { __atomic_store_n(number, to, __ATOMIC_SEQ_CST); }
INLINE long add_now(long *number, long by) {
    return __atomic_fetch_add(number, by, __ATOMIC_SEQ_CST);
}

/* Waits for a round after `seen`, awake at first; returns its number. */
static long next_round(pool *p, long seen) {
    for (long looks = 0; looks < LOOKS && read_now(&p->round) == seen;)
        look_again(&looks);
    if (read_now(&p->round) == seen) {
        pthread_mutex_lock(&p->lock);
        add_now(&p->asleep, 1);
        while (read_now(&p->round) == seen)
            pthread_cond_wait(&p->wake, &p->lock);
        add_now(&p->asleep, -1);
        pthread_mutex_unlock(&p->lock);
    }
    return read_now(&p->round);
}

static void new_round(pool *p) {
    add_now(&p->round, 1);
    if (!read_now(&p->asleep))
        return;
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

static void *help(void *of) {
    pool *p = of;
    for (long seen = 0;;) {
        seen = next_round(p, seen);
        if (read_now(&p->stopping))
            return 0;
        /* First inside, then looking: the caller closes first, then looks who is inside. */
        add_now(&p->inside, 1);
        if (read_now(&p->open)) {
            long seat = add_now(&p->seats, 1);
            if (seat <= p->helpers)
                p->work(p->job, seat);
        }
        add_now(&p->inside, -1);
    }
}

/* Threads for one caller at a time, itself among them, of this process only: a fork has none of
   them. There are fewer where the system gives fewer; 0 where there is no memory. */
pool *start_pool(long threads) {
    pool *p = calloc(1, sizeof *p + threads * sizeof *p->threads);
    if (!p)
        return 0;
    pthread_mutex_init(&p->lock, 0);
    pthread_cond_init(&p->wake, 0);
    /* Signals are for the threads that the program knows. */
    sigset_t all_signals, before;
    sigfillset(&all_signals);
    pthread_sigmask(SIG_SETMASK, &all_signals, &before);
    while (p->helpers < threads - 1 && !pthread_create(p->threads + p->helpers, 0, help, p))
        p->helpers++;
    pthread_sigmask(SIG_SETMASK, &before, 0);
    return p;
}

/* Ends the threads, none of which may be at work. */
void stop_pool(pool *p) {
    write_now(&p->stopping, 1);
    new_round(p);
    for (long i = 0; i < p->helpers; i++)
        pthread_join(p->threads[i], 0);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

/* Does all of a job, with whoever helps. */
static void work_together(pool *p, helping work, const void *job) {
    if (p->helpers) {
        p->work = work;
        p->job = job;
        write_now(&p->seats, 1);
        write_now(&p->open, 1);
        new_round(p);
    }
    work(job, 0);
    write_now(&p->open, 0);
    for (long looks = 0; read_now(&p->inside);)
        look_again(&looks);
}

#endif
