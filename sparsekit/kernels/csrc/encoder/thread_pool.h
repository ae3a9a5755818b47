/* Threads that help a caller with a job.

The caller works too, and waits for no helper that has not begun: when no work is left, it closes
the job and waits only for the helpers inside it. So a helper that the system wakes late, or never,
costs nothing, while a barrier, as at the end of an OpenMP region, would wait for it on a busy core.
*/

#ifndef SPARSEKIT_ENCODER_THREAD_POOL_H
#define SPARSEKIT_ENCODER_THREAD_POOL_H

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>

#include "vectors.h"

/* How often a waiting thread looks before it yields its core, about 50 us. */
#define SPIN_LIMIT 1000

/* The part of a worker in a job; worker 0 is the caller. */
typedef void (*job_function)(const void *job, long worker_index);

/* round: the number of the job. accepting: whether helpers may enter it. active: how many are in
   it. */
typedef struct {
    long helpers, stopping, round, accepting, active, next_worker, sleeping;
    job_function function;
    const void *job;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t threads[];
} pool;

/* One iteration of a loop that waits for another thread; yields the core after SPIN_LIMIT of them.
 */
INLINE void spin(long *spins) {
#ifdef __x86_64__
    __builtin_ia32_pause();
#elif defined __aarch64__
    __asm__ volatile("yield");
#endif
    if (++*spins > SPIN_LIMIT)
        sched_yield();
}

INLINE long atomic_read(const long *variable) {
    return __atomic_load_n(variable, __ATOMIC_SEQ_CST);
}
INLINE void atomic_write(long *variable, long to) {
    __atomic_store_n(variable, to, __ATOMIC_SEQ_CST);
}
INLINE long atomic_add(long *variable, long by) {
    return __atomic_fetch_add(variable, by, __ATOMIC_SEQ_CST);
}

/* Waits for a round other than `previous`, spinning at first, then asleep; returns its number. */
static long next_round(pool *p, long previous) {
    for (long spins = 0; spins < SPIN_LIMIT && atomic_read(&p->round) == previous;)
        spin(&spins);
    if (atomic_read(&p->round) == previous) {
        pthread_mutex_lock(&p->lock);
        atomic_add(&p->sleeping, 1);
        while (atomic_read(&p->round) == previous)
            pthread_cond_wait(&p->wake, &p->lock);
        atomic_add(&p->sleeping, -1);
        pthread_mutex_unlock(&p->lock);
    }
    return atomic_read(&p->round);
}

static void start_round(pool *p) {
    atomic_add(&p->round, 1);
    if (!atomic_read(&p->sleeping))
        return;
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

static void *helper_main(void *argument) {
    pool *p = argument;
    for (long previous = 0;;) {
        previous = next_round(p, previous);
        if (atomic_read(&p->stopping))
            return 0;
        /* Increment, then look: the caller stops accepting, then looks at `active`. */
        atomic_add(&p->active, 1);
        if (atomic_read(&p->accepting)) {
            long worker_index = atomic_add(&p->next_worker, 1);
            if (worker_index <= p->helpers)
                p->function(p->job, worker_index);
        }
        atomic_add(&p->active, -1);
    }
}

/* Starts `threads` threads, including the caller, for one caller at a time. They belong to this
   process only: a fork has none. The pool has fewer where the system gives fewer; NULL where memory
   is short. */
pool *start_pool(long threads) {
    pool *p = calloc(1, sizeof *p + threads * sizeof *p->threads);
    if (!p)
        return 0;
    pthread_mutex_init(&p->lock, 0);
    pthread_cond_init(&p->wake, 0);
    /* Signals are delivered to the program's own threads. */
    sigset_t all_signals, previous_mask;
    sigfillset(&all_signals);
    pthread_sigmask(SIG_SETMASK, &all_signals, &previous_mask);
    while (p->helpers < threads - 1 && !pthread_create(p->threads + p->helpers, 0, helper_main, p))
        p->helpers++;
    pthread_sigmask(SIG_SETMASK, &previous_mask, 0);
    return p;
}

/* Ends the threads, which must be idle. */
void stop_pool(pool *p) {
    atomic_write(&p->stopping, 1);
    start_round(p);
    for (long i = 0; i < p->helpers; i++)
        pthread_join(p->threads[i], 0);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

/* Runs a job to its end, with the helpers that come in time. */
static void run_job(pool *p, job_function function, const void *job) {
    if (p->helpers) {
        p->function = function;
        p->job = job;
        atomic_write(&p->next_worker, 1);
        atomic_write(&p->accepting, 1);
        start_round(p);
    }
    function(job, 0);
    atomic_write(&p->accepting, 0);
    for (long spins = 0; atomic_read(&p->active);)
        spin(&spins);
}

#endif
