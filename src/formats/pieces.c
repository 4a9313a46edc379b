#include "formats/pieces.h"

#include <inttypes.h>
#include <pthread.h>

#define THREAD_MAX 64 /* more readers than this gain nothing on any disk or memory bus */

struct pieces {
	uint64_t n_all;
	size_t step;
	int (*work)(void *ctx, uint64_t at, size_t n, struct moxie_err *err);
	void *ctx;
	int (*progress)(void *ud, uint64_t done, uint64_t all);
	void *ud;
	pthread_mutex_t lock; /* over all that follows */
	uint64_t next, done;
	int rc;
	struct moxie_err err;
};

static void *run(void *arg)
{
	struct pieces *w = arg;
	pthread_mutex_lock(&w->lock);
	while (!w->rc && w->next < w->n_all) {
		uint64_t at = w->next, left = w->n_all - at;
		size_t n = left < w->step ? (size_t)left : w->step;
		w->next += n;
		pthread_mutex_unlock(&w->lock);
		struct moxie_err err = { 0 };
		int rc = w->work(w->ctx, at, n, &err);
		pthread_mutex_lock(&w->lock);
		w->done += n;
		if (!rc && !w->rc && w->progress && w->progress(w->ud, w->done, w->n_all))
			rc = err_set(&err, MOXIE_E_CANCELLED, "stopped after %" PRIu64 " of %" PRIu64 " bytes", w->done, w->n_all);
		if (rc && !w->rc) {
			w->rc = rc;
			w->err = err;
		}
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

int pieces_run(uint64_t n_all, size_t step, int n_thread, int (*work)(void *ctx, uint64_t at, size_t n, struct moxie_err *err), void *ctx,
               int (*progress)(void *ud, uint64_t done, uint64_t all), void *ud, struct moxie_err *err)
{
	struct pieces w = { .n_all = n_all, .step = step, .work = work, .ctx = ctx, .progress = progress, .ud = ud,
			    .lock = PTHREAD_MUTEX_INITIALIZER };
	pthread_t thread[THREAD_MAX];
	int n = 0;
	while (n < n_thread - 1 && n < THREAD_MAX && n_all > (uint64_t)n * step && pthread_create(&thread[n], NULL, run, &w) == 0)
		n++;
	run(&w);
	while (n > 0)
		pthread_join(thread[--n], NULL);
	pthread_mutex_destroy(&w.lock);
	return w.rc ? err_set(err, w.rc, "%s", w.err.text) : 0;
}
