/* sched_loop.c - the engine's thread: one thread steps the model for all requests.
 *
 * A request is a timeline of known tokens, of which some are consumed: first the prompt is known, and each time all is consumed one
 * more token is sampled.  Requests wait in order of arrival until a slot is free and the KV cache has pages for what they know; those
 * that gave their pages up in a step (sched_step.c) come before them.
 */
#include <stdlib.h>
#include <string.h>

#include "base/host.h"
#include "engine/sched.h"

#define RETRY_SECONDS 1. /* before a slot that found no memory tries again */

/* ---- the end of a request -------------------------------------------------------------------------------------------- */

void sched_job_fail(struct job *j, int status, const struct moxie_err *err)
{
	j->status = status;
	j->err = *err;
	j->res.finish = MOXIE_FINISH_NONE;
	j->over = true;
}

static void job_end(struct job *j, enum moxie_finish finish)
{
	j->res.finish = finish;
	j->over = true;
}

/* What is held back goes out, and the times are taken. */
static void job_settle(struct job *j)
{
	double now = host_now();
	if (j->at_decode > 0)
		j->res.decode_seconds = now - j->at_decode;
	else if (j->at_start > 0)
		j->res.prefill_seconds = now - j->at_start;
	else
		j->res.queue_seconds = now - j->at_submit;
	struct moxie_err err;
	struct moxie_generate_result res = j->res; /* how it ended is known */
	if (j->has_reply && j->status == 0 && (reply_give(&j->reply, &res, &err) < 0 || reply_finish(&j->reply) < 0))
		sched_job_fail(j, err_nomem(&err, j->reply.held.cap, "text of the answer"), &err);
	if (j->has_reply)
		reply_free(&j->reply);
	j->has_reply = false;
}

/* Caller holds the lock: by the time on_finish runs, the counters know. */
static void count_end(struct moxie_engine *e, const struct job *j)
{
	if (j->status < 0)
		e->st.n_failed++;
	else if (j->res.finish == MOXIE_FINISH_CANCEL)
		e->st.n_cancelled++;
	else
		e->st.n_finished++;
}

static void job_deliver(struct job *j)
{
	if (j->req.on_finish)
		j->req.on_finish(j->req.p.ud, &j->res, j->status, &j->err);
	free(j);
}

void sched_reap_queue(struct moxie_engine *e, bool all, const struct moxie_err *failed)
{
	struct job *gone = NULL, **tail = &gone;
	pthread_mutex_lock(&e->lock);
	for (struct job **at = &e->first; *at;) {
		struct job *j = *at;
		if (!all && !atomic_load(&j->cancel)) {
			at = &j->next;
			continue;
		}
		*at = j->next;
		e->n_waiting--;
		j->next = NULL;
		*tail = j;
		tail = &j->next;
		if (failed)
			sched_job_fail(j, failed->code, failed);
		else
			job_end(j, MOXIE_FINISH_CANCEL);
		count_end(e, j);
	}
	e->last = &e->first;
	while (*e->last)
		e->last = &(*e->last)->next;
	pthread_mutex_unlock(&e->lock);
	while (gone) {
		struct job *j = gone;
		gone = j->next;
		job_settle(j);
		job_deliver(j);
	}
}

void sched_count_pages(struct moxie_engine *e)
{
	const struct kv_cache *kv = &e->m->kv;
	const struct prefix *p = &e->prefix;
	e->st.n_page = kv->full.n_page;
	e->st.n_page_free = kv->full.n_free;
	e->st.n_page_cached = kv->plan.n_full ? p->n_node : 0;
	e->st.n_ring = kv->ring.n_page;
	e->st.n_ring_free = kv->ring.n_free;
	e->st.n_ring_cached = p->n_ring;
	e->st.cached_tokens = (uint64_t)p->n_node * KV_PAGE;
	e->st.evictable_tokens = (uint64_t)p->n_idle * KV_PAGE;
	e->st.evicted_tokens = p->n_evicted * KV_PAGE;
}

/* Running requests that are over leave their slots, and their pages. */
static void reap_running(struct moxie_engine *e)
{
	struct job *gone = NULL, **tail = &gone;
	for (int i = 0; i < e->n_run; i++)
		if (e->run[i]->job->over)
			job_settle(e->run[i]->job);
	pthread_mutex_lock(&e->lock);
	pthread_mutex_lock(&e->m->lock);
	for (int i = 0; i < e->n_run; i++)
		if (e->run[i]->job->over)
			prefix_detach(&e->prefix, e->run[i]->s);
	sched_count_pages(e);
	pthread_mutex_unlock(&e->m->lock);
	int n = 0;
	uint64_t kv_tokens = 0;
	e->n_suspended = 0;
	for (int i = 0; i < e->n_run; i++) {
		struct slot *slot = e->run[i];
		if (!slot->job->over) {
			e->run[n++] = slot;
			e->n_suspended += !slot->job->active;
			kv_tokens += slot->s->tok.n;
			continue;
		}
		count_end(e, slot->job);
		*tail = slot->job;
		tail = &slot->job->next;
		slot->job = NULL;
	}
	e->n_run = n;
	e->st.kv_tokens = kv_tokens;
	pthread_mutex_unlock(&e->lock);
	*tail = NULL;
	while (gone) {
		struct job *j = gone;
		gone = j->next;
		job_deliver(j);
	}
}

/* ---- the start of a request ------------------------------------------------------------------------------------------ */

static int pages_of(const struct moxie_engine *e, size_t n)
{
	return e->m->kv.plan.n_full ? (int)((n + KV_PAGE - 1) / KV_PAGE) : 0;
}

/* Whether the KV cache has room for all tokens that j knows and one page more for everybody, besides what the active requests are
 * still going to take for theirs.  Alone it always has.  Caller holds the model's lock. */
static bool fits(struct moxie_engine *e, const struct job *j, const int32_t *ids, size_t n_known)
{
	size_t reusable = job_reusable(j);
	int n_idle = 0, room = e->m->kv.full.n_free + e->prefix.n_idle - 1, n_active = 0;
	for (int i = 0; i < e->n_run; i++) {
		const struct job *other = e->run[i]->job;
		if (!other->active)
			continue;
		int more = pages_of(e, other->n_known) - e->run[i]->s->n_page;
		room -= 1 + (more > 0 ? more : 0);
		n_active++;
	}
	if (!n_active)
		return true;
	/* The first in line is asked about before every step: nothing new, the same answer. */
	if (j->id == e->blocked_id && room <= e->blocked_room && e->prefix.n_node == e->blocked_node)
		return false;
	int found = e->no_reuse ? 0 : prefix_match(&e->prefix, ids, reusable < n_known - 1 ? reusable : n_known - 1, job_zone(e, j), &n_idle);
	int need = pages_of(e, n_known) - found;
	if (need + n_idle <= room)
		return true;
	e->blocked_id = j->id;
	e->blocked_room = room;
	e->blocked_node = e->prefix.n_node;
	return false;
}

/* An idle slot with a session.  NULL: there is none, or no memory for it; slot 0 has one from the start, so it is busy. */
static struct slot *pick_slot(struct moxie_engine *e)
{
	struct moxie_session_params p = { .struct_size = sizeof p, .n_ctx = e->n_ctx };
	double now = host_now();
	for (int i = 0; i < e->m->n_seq; i++) {
		struct slot *slot = &e->slot[i];
		if (slot->job || (!slot->s && now < slot->retry_at))
			continue;
		if (slot->s || moxie_session_create(&slot->s, e->m, &p, NULL) == 0)
			return slot;
		slot->retry_at = now + RETRY_SECONDS;
	}
	return NULL;
}

static void job_start(struct moxie_engine *e, struct slot *slot, struct job *j)
{
	j->at_start = host_now();
	j->res.queue_seconds = j->at_start - j->at_submit;
	j->active = true;
	j->n_known = j->req.n;
	memcpy(slot->s->tok.v, j->req.ids, j->req.n * sizeof *j->req.ids); /* n_ctx has room: moxie_engine_submit has checked it */
	struct moxie_err err;
	session_expect(slot->s, &j->req.p.sampling, j->req.p.bias, j->req.p.n_bias, 0);
	int rc = reply_init(&j->reply, e->m, &j->req.p, &err);
	j->has_reply = rc == 0;
	if (rc < 0)
		sched_job_fail(j, rc, &err);
}

/* Requests that gave way come back first: they are older than any that waits.  False: the next one has to wait. */
static bool resume(struct moxie_engine *e)
{
	for (int i = 0; i < e->n_run; i++) {
		struct slot *slot = e->run[i];
		if (slot->job->active || slot->job->over)
			continue;
		pthread_mutex_lock(&e->m->lock);
		slot->job->active = fits(e, slot->job, slot->s->tok.v, slot->job->n_known);
		pthread_mutex_unlock(&e->m->lock);
		if (!slot->job->active)
			return false;
	}
	return true;
}

static void start_waiting(struct moxie_engine *e)
{
	if (!resume(e))
		return;
	while (e->n_run < e->m->n_seq) {
		pthread_mutex_lock(&e->lock);
		struct job *j = e->first; /* nobody but this thread takes it out */
		pthread_mutex_unlock(&e->lock);
		if (!j)
			return;
		pthread_mutex_lock(&e->m->lock);
		bool fit = fits(e, j, j->req.ids, j->req.n);
		pthread_mutex_unlock(&e->m->lock);
		struct slot *slot = fit ? pick_slot(e) : NULL;
		if (!slot)
			return;
		job_start(e, slot, j);
		pthread_mutex_lock(&e->lock);
		e->first = j->next;
		if (!e->first)
			e->last = &e->first;
		e->n_waiting--;
		slot->job = j;
		e->run[e->n_run++] = slot;
		e->st.prompt_tokens += j->req.n;
		pthread_mutex_unlock(&e->lock);
	}
}

void *sched_thread(void *arg)
{
	struct moxie_engine *e = arg;
	for (;;) {
		pthread_mutex_lock(&e->lock);
		while (!e->stop && !e->flush && !e->n_run && !e->first)
			pthread_cond_wait(&e->wake, &e->lock);
		bool stop = e->stop;
		if (e->flush) {
			e->flush = false;
			pthread_mutex_lock(&e->m->lock);
			prefix_flush(&e->prefix);
			pthread_mutex_unlock(&e->m->lock);
		}
		pthread_mutex_unlock(&e->lock);

		sched_reap_queue(e, stop, NULL);
		for (int i = 0; i < e->n_run; i++)
			if (stop || atomic_load(&e->run[i]->job->cancel))
				job_end(e->run[i]->job, MOXIE_FINISH_CANCEL);
		reap_running(e);
		if (stop)
			return NULL;
		start_waiting(e);
		sched_step(e);
		reap_running(e);
	}
}
