/* pool.h - the backend's threads: one function on all of them, with barriers inside.
 *
 * A waiting thread spins for some 30 microseconds, which covers the gaps inside a step, and then sleeps.  OpenMP's threads spin
 * for milliseconds: with another busy program on the machine, the one that spins keeps the one it waits for from running, and
 * an op of 0.5 ms takes 16 or more.
 * Threads: pool_run from one thread at a time.
 */
#ifndef MOXIE_CPU_POOL_H
#define MOXIE_CPU_POOL_H

#include <stdbool.h>

struct pool;

/* One thread's view of a run: it is thread id of n. */
struct part_of {
	struct pool *pool;
	int id, n;
};

/* n - 1 new threads; the caller of pool_run is the n-th.  NULL: no memory, or no thread could be started. */
struct pool *pool_create(int n);
void pool_free(struct pool *p);

/* fn(ctx, part) on every thread; returns when all are done. */
void pool_run(struct pool *p, void (*fn)(void *ctx, struct part_of me), void *ctx);

/* Inside fn, on every thread alike. */
void pool_barrier(struct part_of me);

#endif
