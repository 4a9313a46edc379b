/* sched.c - many requests at once: the queue and its interface.  The thread that works through it is in sched_loop.c. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/host.h"
#include "engine/sched.h"

#define DEFAULT_QUEUED 1024

/* What create made, as far as it got; the thread is over. */
static void release(struct moxie_engine *e)
{
	for (int i = 0; e->slot && i < e->m->n_seq; i++)
		moxie_session_free(e->slot[i].s);
	pthread_mutex_lock(&e->m->lock);
	prefix_free(&e->prefix);
	pthread_mutex_unlock(&e->m->lock);
	if (e->has_lock)
		pthread_mutex_destroy(&e->lock);
	if (e->has_wake)
		pthread_cond_destroy(&e->wake);
	free(e->part_job);
	free(e->part);
	free(e->run);
	free(e->slot);
	free(e);
}

MOXIE_API int moxie_engine_create(moxie_engine **out, moxie_model *m, const struct moxie_engine_params *params, struct moxie_err *err)
{
	struct moxie_engine_params p = { 0 };
	struct moxie_session_params sp = { .struct_size = sizeof sp };
	*out = NULL;
	if (params && (params->struct_size < sizeof params->struct_size || params->struct_size > 4096))
		return err_set(err, MOXIE_E_ARG, "struct_size of the engine parameters is %zu, wanted %zu", params->struct_size, sizeof p);
	if (params)
		memcpy(&p, params, params->struct_size < sizeof p ? params->struct_size : sizeof p);
	if (p.n_queued < 0)
		return err_set(err, MOXIE_E_ARG, "requests waiting: %d, wanted >= 0", p.n_queued);

	struct moxie_engine *e = calloc(1, sizeof *e);
	if (!e)
		return err_nomem(err, sizeof *e, "an engine");
	size_t n_seq = (size_t)m->n_seq;
	e->m = m;
	e->no_reuse = p.no_reuse;
	e->n_queued_max = p.n_queued ? p.n_queued : DEFAULT_QUEUED;
	e->last = &e->first;
	e->slot = calloc(n_seq, sizeof *e->slot);
	e->run = calloc(n_seq, sizeof *e->run);
	e->part = calloc(n_seq, sizeof *e->part);
	e->part_job = calloc(n_seq, sizeof *e->part_job);
	e->has_lock = pthread_mutex_init(&e->lock, NULL) == 0;
	e->has_wake = pthread_cond_init(&e->wake, NULL) == 0;
	bool ok = e->slot && e->run && e->part && e->part_job && e->has_lock && e->has_wake;
	int rc = ok ? prefix_init(&e->prefix, m, m->n_idle_most, err) : err_nomem(err, n_seq * sizeof *e->slot, "an engine");
	/* The first slot's session settles n_ctx, and whether there is memory for one request at all. */
	sp.n_ctx = p.n_ctx;
	if (rc == 0 && (rc = moxie_session_create(&e->slot[0].s, m, &sp, err)) == 0) {
		e->n_ctx = e->slot[0].s->n_ctx;
		e->st.n_seq = m->n_seq;
		e->st.kv_capacity = m->kv.plan.n_full ? (uint64_t)m->kv.full.n_page * KV_PAGE : n_seq * (uint64_t)e->n_ctx;
		pthread_mutex_lock(&m->lock);
		sched_count_pages(e);
		pthread_mutex_unlock(&m->lock);
		sigset_t all, old; /* signals are for the caller's threads */
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &old);
		if (pthread_create(&e->thread, NULL, sched_thread, e) != 0)
			rc = err_set(err, MOXIE_E_NOMEM, "no thread for the engine");
		pthread_sigmask(SIG_SETMASK, &old, NULL);
	}
	if (rc == 0)
		*out = e;
	else
		release(e);
	return rc;
}

MOXIE_API void moxie_engine_free(moxie_engine *e)
{
	if (!e)
		return;
	pthread_mutex_lock(&e->lock);
	e->stop = true;
	pthread_cond_signal(&e->wake);
	pthread_mutex_unlock(&e->lock);
	pthread_join(e->thread, NULL);
	release(e);
}

static int check_request(const moxie_engine *e, const struct moxie_request *r, struct moxie_err *err)
{
	if (r->struct_size != sizeof *r)
		return err_set(err, MOXIE_E_ARG, "struct_size of the request is %zu, wanted %zu", r->struct_size, sizeof *r);
	int rc = reply_check(e->m, &r->p, r->n, e->n_ctx, err);
	if (rc < 0)
		return rc;
	if (r->p.max_tokens && r->n + (size_t)r->p.max_tokens > (size_t)e->n_ctx)
		return err_set(err, MOXIE_E_KV_FULL, "%zu tokens of prompt and %d of answer, the context length is %d", r->n, r->p.max_tokens,
		               e->n_ctx);
	int n_vocab = e->m->config.n_vocab;
	for (size_t i = 0; i < r->n; i++)
		if (r->ids[i] < 0 || r->ids[i] >= n_vocab)
			return err_set(err, MOXIE_E_ARG, "token %zu is %d, wanted 0 .. %d", i, (int)r->ids[i], n_vocab - 1);
	return 0;
}

/* A copy of the request in one block: the job, stop pointers, ids, stop strings.  NULL: out of memory. */
static struct job *job_create(const struct moxie_request *r, struct moxie_err *err)
{
	size_t n_bytes = sizeof(struct job) + r->p.n_stop * sizeof(char *) + r->n * sizeof *r->ids;
	for (size_t i = 0; i < r->p.n_stop; i++)
		n_bytes += strlen(r->p.stop[i]) + 1;
	struct job *j = calloc(1, n_bytes);
	if (!j) {
		err_nomem(err, n_bytes, "a request");
		return NULL;
	}
	const char **stop = (const char **)(j + 1);
	int32_t *ids = memcpy(stop + r->p.n_stop, r->ids, r->n * sizeof *ids);
	char *text = (char *)(ids + r->n);
	for (size_t i = 0; i < r->p.n_stop; i++) {
		stop[i] = text;
		text = stpcpy(text, r->p.stop[i]) + 1;
	}
	j->req = *r;
	j->req.ids = ids;
	j->req.p.stop = stop;
	j->res = (struct moxie_generate_result){ .struct_size = sizeof j->res, .n_prompt = r->n };
	j->n_scored = r->prompt_from > 1 ? r->prompt_from : 1;
	j->at_submit = host_now();
	return j;
}

MOXIE_API int moxie_engine_submit(moxie_engine *e, const struct moxie_request *r, uint64_t *id, struct moxie_err *err)
{
	uint64_t unused;
	id = id ? id : &unused;
	*id = 0;
	int rc = check_request(e, r, err);
	if (rc < 0)
		return rc;
	struct job *j = job_create(r, err);
	if (!j)
		return MOXIE_E_NOMEM;
	pthread_mutex_lock(&e->lock);
	int n_idle = e->n_suspended ? 0 : e->m->n_seq - e->n_run; /* as many are about to start, and do not wait */
	if (e->failed.code < 0)
		rc = err_set(err, e->failed.code, "%s", e->failed.text);
	else if (e->n_waiting - n_idle >= e->n_queued_max)
		rc = err_set(err, MOXIE_E_TOO_SMALL, "%d requests are waiting, the queue takes %d", e->n_waiting, e->n_queued_max);
	if (rc == 0) {
		*id = j->id = ++e->last_id;
		e->st.n_requests++;
		e->n_waiting++;
		*e->last = j;
		e->last = &j->next;
		pthread_cond_signal(&e->wake);
	}
	pthread_mutex_unlock(&e->lock);
	if (rc < 0)
		free(j);
	return rc;
}

MOXIE_API void moxie_engine_cancel(moxie_engine *e, uint64_t id)
{
	pthread_mutex_lock(&e->lock);
	for (struct job *j = e->first; j; j = j->next)
		if (j->id == id)
			atomic_store(&j->cancel, 1);
	for (int i = 0; i < e->n_run; i++)
		if (e->run[i]->job->id == id)
			atomic_store(&e->run[i]->job->cancel, 1);
	pthread_mutex_unlock(&e->lock);
}

MOXIE_API int moxie_engine_get_stats(moxie_engine *e, struct moxie_engine_stats *st)
{
	size_t n = st->struct_size;
	if (n < sizeof n || n > 4096)
		return MOXIE_E_ARG;
	int64_t now = (int64_t)host_now();
	uint64_t n_tok = 0;
	double busy = 0;
	pthread_mutex_lock(&e->lock);
	struct moxie_engine_stats all = e->st;
	all.n_running = e->n_run - e->n_suspended;
	all.n_queued = e->n_waiting + e->n_suspended;
	for (int i = 0; i < RATE_SECONDS; i++)
		if (now - e->rate[i].at < RATE_SECONDS) {
			n_tok += e->rate[i].n_tok;
			busy += e->rate[i].busy;
		}
	pthread_mutex_unlock(&e->lock);
	all.struct_size = n;
	all.decode_tokens_per_second = busy > 0 ? (double)n_tok / busy : 0;
	memcpy(st, &all, n < sizeof all ? n : sizeof all);
	return 0;
}

MOXIE_API void moxie_engine_flush(moxie_engine *e)
{
	pthread_mutex_lock(&e->lock);
	e->flush = e->n_run || e->first;
	if (!e->flush) { /* the thread sleeps, or is about to: it has nothing to do with pages */
		pthread_mutex_lock(&e->m->lock);
		prefix_flush(&e->prefix);
		sched_count_pages(e);
		pthread_mutex_unlock(&e->m->lock);
	}
	pthread_mutex_unlock(&e->lock);
}
