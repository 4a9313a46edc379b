#include "kernels/cpu/pool.h"

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <sched.h>
#endif

/* A counter that threads wait to see change. */
struct gate {
	_Alignas(64) _Atomic uint32_t turn;
	_Atomic int n_asleep;
};

struct pool {
	struct gate start, meet;
	_Alignas(64) _Atomic int n_met;
	void (*fn)(void *ctx, struct part_of me); /* NULL: the threads end */
	void *ctx;
	int n;
	struct worker {
		struct pool *pool;
		int id;
		pthread_t thread;
	} worker[];
};

static void spin_once(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

static void gate_wait(struct gate *g, uint32_t seen)
{
	enum { SPIN = 1500 }; /* pause takes 40 to 140 cycles */
	for (int i = 0; i < SPIN; i++) {
		if (atomic_load_explicit(&g->turn, memory_order_acquire) != seen)
			return;
		spin_once();
	}
	atomic_fetch_add(&g->n_asleep, 1);
	while (atomic_load(&g->turn) == seen)
#if defined(__linux__)
		syscall(SYS_futex, &g->turn, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
#else
		sched_yield();
#endif
	atomic_fetch_sub(&g->n_asleep, 1);
}

static void gate_open(struct gate *g)
{
	atomic_fetch_add(&g->turn, 1);
#if defined(__linux__)
	if (atomic_load(&g->n_asleep))
		syscall(SYS_futex, &g->turn, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
#endif
}

void pool_barrier(struct part_of me)
{
	struct pool *p = me.pool;
	if (me.n < 2)
		return;
	uint32_t seen = atomic_load_explicit(&p->meet.turn, memory_order_relaxed);
	if (atomic_fetch_add(&p->n_met, 1) + 1 < me.n) {
		gate_wait(&p->meet, seen);
		return;
	}
	atomic_store_explicit(&p->n_met, 0, memory_order_relaxed); /* the gate's turn publishes it */
	gate_open(&p->meet);
}

static void *work(void *arg)
{
	struct worker *w = arg;
	struct pool *p = w->pool;
	for (uint32_t seen = 0;; seen++) {
		gate_wait(&p->start, seen);
		if (!p->fn)
			return NULL;
		struct part_of me = { p, w->id, p->n };
		p->fn(p->ctx, me);
		pool_barrier(me);
	}
}

void pool_run(struct pool *p, void (*fn)(void *ctx, struct part_of me), void *ctx)
{
	struct part_of me = { p, 0, p->n };
	p->fn = fn;
	p->ctx = ctx;
	if (p->n > 1)
		gate_open(&p->start);
	fn(ctx, me);
	pool_barrier(me);
}

struct pool *pool_create(int n)
{
	size_t bytes = (sizeof(struct pool) + (size_t)n * sizeof(struct worker) + 63) / 64 * 64;
	struct pool *p = aligned_alloc(64, bytes);
	if (!p)
		return NULL;
	*p = (struct pool){ .n = 1 };
	for (; p->n < n; p->n++) { /* nobody reads n before the first pool_run */
		struct worker *w = p->worker + p->n;
		w->pool = p;
		w->id = p->n;
		if (pthread_create(&w->thread, NULL, work, w)) {
			pool_free(p);
			return NULL;
		}
	}
	return p;
}

void pool_free(struct pool *p)
{
	p->fn = NULL;
	if (p->n > 1)
		gate_open(&p->start);
	for (int i = 1; i < p->n; i++)
		pthread_join(p->worker[i].thread, NULL);
	free(p);
}
