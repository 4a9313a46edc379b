/* sched_loop.c - the engine's thread: one thread steps the model for all requests.
 *
 * A request is a timeline of known tokens, of which some are consumed: first the prompt is known, and each time all is consumed one
 * more token is sampled.  Requests wait in order of arrival until a slot is free and the KV cache has pages for what they know.
 * Each step carries one row of every decoding request, then prompt rows in order of arrival: a long prompt delays the others by one
 * chunk at most.  Pages are taken as timelines grow, oldest request first: when none is left, cached prefixes are forgotten, then the
 * youngest request gives its pages up, keeps its place and its known tokens, and is consumed again when there is room.  The oldest
 * never gives way and fits alone (moxie_engine_submit sees to it), so all of them end.
 *
 * An answer is the one that moxie_generate gives, whatever else is served, found in the prefix cache or preempted: each row has
 * the kind that follows from its own request (prompt_zone), the two kinds are passes of their own, and the cache gives nobody a row of
 * another kind than it would compute.
 */
#include <stdlib.h>
#include <string.h>

#include "base/host.h"
#include "engine/sched.h"

#define RETRY_SECONDS 1. /* before a slot that found no memory tries again */

/* ---- the end of a request -------------------------------------------------------------------------------------------- */

static void job_fail(struct job *j, int status, const struct moxie_err *err)
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
	if (j->has_reply && j->status == 0 && reply_finish(&j->reply) < 0) {
		struct moxie_err err;
		job_fail(j, err_nomem(&err, j->reply.held.cap, "text of the answer"), &err);
	}
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

/* Takes every queued request that is cancelled, or all of them, out of the queue; tells their owners. */
static void reap_queue(struct moxie_engine *e, bool all, const struct moxie_err *failed)
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
			job_fail(j, failed->code, failed);
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

/* Where j's rows for a prompt end. */
static size_t zone_of(const struct moxie_engine *e, const struct job *j)
{
	return prompt_zone(e->m, j->req.n);
}

/* Whether the KV cache has room for all tokens that j knows and one page more for everybody, besides what the active requests are
 * still going to take for theirs.  Alone it always has.  Caller holds the model's lock. */
static bool fits(struct moxie_engine *e, const struct job *j, const int32_t *ids, size_t n_known)
{
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
	int found = e->no_reuse ? 0 : prefix_match(&e->prefix, ids, n_known - 1, zone_of(e, j), &n_idle);
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
	session_expect(slot->s, &j->req.p.sampling);
	int rc = reply_init(&j->reply, e->m, &j->req.p, &err);
	j->has_reply = rc == 0;
	if (rc < 0)
		job_fail(j, rc, &err);
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

/* ---- a step ---------------------------------------------------------------------------------------------------------- */

/* Rows that come next in the timeline and are of one kind. */
static size_t rows_ahead(const struct moxie_engine *e, const struct slot *slot)
{
	size_t pos = slot->s->tok.n, zone = zone_of(e, slot->job);
	return (pos < zone ? zone : slot->job->n_known) - pos;
}

static enum row_kind slot_kind(const struct moxie_engine *e, const struct slot *slot)
{
	return row_kind_at(e->m, slot->s->tok.n, slot->job->req.n);
}

/* What planning a step did besides, for the counters: they are under another lock. */
struct planned {
	int n_preempted, n_hits;
	size_t n_reused;
};

/* What a prompt still to be read finds in the prefix cache now: an older request may have read the same meanwhile.  The last token
 * is always computed, for its logits. */
static void extend(struct moxie_engine *e, struct slot *slot, struct planned *d)
{
	struct job *j = slot->job;
	size_t gained = e->no_reuse ? 0 : prefix_extend(&e->prefix, slot->s, j->n_known - 1, zone_of(e, j));
	if (!gained || j->resumed)
		return;
	d->n_hits += j->res.n_reused == 0;
	d->n_reused += gained;
	j->res.n_reused += gained;
}

/* n_row of every slot: one for each decoding request; then prompts in order of arrival, together n_chunk. */
static void share_rows(struct moxie_engine *e)
{
	int n_chunk = e->m->n_chunk, few = n_chunk > e->m->n_seq ? n_chunk : e->m->n_seq, left = n_chunk;
	for (int i = 0; i < e->n_run; i++) {
		struct slot *slot = e->run[i];
		slot->n_row = slot->job->active && !slot->job->over && slot->job->n_known - slot->s->tok.n == 1 && slot->job->res.n_out > 0;
		few -= slot->n_row;
	}
	for (int i = 0; i < e->n_run; i++) {
		struct slot *slot = e->run[i];
		if (!slot->job->active || slot->job->over || slot->n_row)
			continue;
		bool many = slot_kind(e, slot) == ROWS_PROMPT; /* a pass of its own, which decoding requests take nothing from */
		int most = many || left < few ? left : few;
		size_t ahead = most > 0 ? rows_ahead(e, slot) : 0;
		slot->n_row = ahead < (size_t)most ? (int)ahead : most > 0 ? most : 0;
		left -= slot->n_row;
		few -= many ? 0 : slot->n_row;
	}
}

static struct slot *youngest(const struct moxie_engine *e)
{
	for (int i = e->n_run - 1; i >= 0; i--)
		if (e->run[i]->job->active && !e->run[i]->job->over)
			return e->run[i];
	return NULL;
}

static void suspend(struct moxie_engine *e, struct slot *slot)
{
	prefix_detach(&e->prefix, slot->s);
	slot->n_row = 0;
	slot->job->active = false;
	slot->job->resumed = true;
}

/* Pages for the rows of one slot, from whoever has to give way.  False: nobody is left to. */
static bool take_pages(struct moxie_engine *e, struct slot *slot, struct planned *d)
{
	struct kv_lack lack;
	while (slot->n_row && !session_grow(slot->s, slot->s->tok.n + (size_t)slot->n_row, &lack)) {
		if (prefix_evict(&e->prefix, lack))
			continue;
		struct slot *last = youngest(e);
		int n_active = 0;
		for (int i = 0; i < e->n_run; i++)
			n_active += e->run[i]->job->active && !e->run[i]->job->over;
		if (n_active <= 1)
			return false;
		suspend(e, last);
		d->n_preempted++;
	}
	return true;
}

/* Plans the step: parts of rows for few first, then those that are a pass of their own.  Returns their number, of the first in *n_few. */
static int plan_step(struct moxie_engine *e, int *n_few)
{
	int n_part = 0;
	struct planned d = { 0 };
	pthread_mutex_lock(&e->m->lock);
	for (int i = 0; i < e->n_run; i++)
		if (e->run[i]->job->active && !e->run[i]->job->over)
			extend(e, e->run[i], &d);
	share_rows(e);
	for (int i = 0; i < e->n_run; i++)
		if (!take_pages(e, e->run[i], &d)) {
			struct moxie_err err;
			err_set(&err, MOXIE_E_NOMEM, "the KV cache of %d tokens is held by others", e->m->kv.full.n_page * KV_PAGE);
			job_fail(e->run[i]->job, MOXIE_E_NOMEM, &err);
			e->run[i]->n_row = 0;
		}
	pthread_mutex_unlock(&e->m->lock);
	for (int many = 0; many < 2; many++) {
		for (int i = 0; i < e->n_run; i++) {
			struct slot *slot = e->run[i];
			struct moxie_session *s = slot->s;
			enum row_kind kind = slot_kind(e, slot);
			if (!slot->n_row || (kind == ROWS_PROMPT) != many)
				continue;
			e->part[n_part] = (struct part){ s, s->tok.v + s->tok.n, slot->n_row, s->tok.n + (size_t)slot->n_row == slot->job->n_known, kind };
			e->part_job[n_part++] = slot->job;
		}
		*n_few = many ? *n_few : n_part;
	}
	pthread_mutex_lock(&e->lock);
	e->st.n_preempted += (uint64_t)d.n_preempted;
	e->st.n_cache_hits += (uint64_t)d.n_hits;
	e->st.reused_tokens += d.n_reused;
	pthread_mutex_unlock(&e->lock);
	return n_part;
}

/* A part of a step went well.  Returns the number of tokens generated. */
static int job_advance(struct job *j, const struct part *part)
{
	struct moxie_session *s = part->s;
	if (!part->want_logits)
		return 0;
	if (j->res.n_out == 0) {
		j->at_decode = host_now();
		j->res.prefill_seconds = j->at_decode - j->at_start;
	}
	int32_t id;
	struct moxie_err err;
	s->n_out = s->tok.n - j->req.n;
	int rc = reply_next(&j->reply, s, &j->res, &id, &err);
	if (j->res.n_out == 1)
		j->res.first_token_seconds = host_now() - j->at_submit;
	if (rc < 0)
		job_fail(j, rc, &err);
	else if (j->res.finish != MOXIE_FINISH_NONE)
		j->over = true;
	else
		s->tok.v[j->n_known++] = id; /* the context is not full, or the answer had ended */
	return rc == 0;
}

static void count_tokens(struct moxie_engine *e, int n_tok, double busy)
{
	int64_t at = (int64_t)host_now();
	pthread_mutex_lock(&e->lock);
	struct second *s = &e->rate[at % RATE_SECONDS];
	if (s->at != at)
		*s = (struct second){ .at = at };
	s->n_tok += (uint64_t)n_tok;
	s->busy += busy;
	e->st.generated_tokens += (uint64_t)n_tok;
	pthread_mutex_unlock(&e->lock);
}

static void fail_all(struct moxie_engine *e, const struct moxie_err *err)
{
	for (int i = 0; i < e->n_run; i++)
		job_fail(e->run[i]->job, err->code, err);
	pthread_mutex_lock(&e->lock);
	e->failed = *err;
	pthread_mutex_unlock(&e->lock);
	reap_queue(e, true, err); /* submit adds nothing from here on */
}

/* n parts of one kind go through the model. */
static void pass(struct moxie_engine *e, const struct part *part, struct job **job, int n)
{
	if (!n)
		return;
	double start = host_now();
	struct moxie_err err = { 0 };
	int n_tok = 0;
	pthread_mutex_lock(&e->m->lock);
	int rc = engine_step(e->m, part, n, &err);
	for (int i = 0; rc == 0 && i < n; i++) {
		if (!e->no_reuse)
			prefix_insert(&e->prefix, part[i].s, zone_of(e, job[i]));
		session_trim(part[i].s);
	}
	pthread_mutex_unlock(&e->m->lock);
	for (int i = 0; i < n; i++)
		if (rc == 0) {
			n_tok += job_advance(job[i], &part[i]);
			session_drop_logits(part[i].s);
		} else {
			job_fail(job[i], rc, &err);
		}
	if (rc == 0)
		count_tokens(e, n_tok, host_now() - start);
	else if (rc == MOXIE_E_DEVICE)
		fail_all(e, &err);
}

static void step(struct moxie_engine *e)
{
	int n_few = 0, n_part = plan_step(e, &n_few);
	pass(e, e->part, e->part_job, n_few);
	if (e->failed.code == 0) /* this thread alone writes it */
		pass(e, e->part + n_few, e->part_job + n_few, n_part - n_few);
	pthread_mutex_lock(&e->lock);
	e->st.n_steps += n_part > 0;
	pthread_mutex_unlock(&e->lock);
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

		reap_queue(e, stop, NULL);
		for (int i = 0; i < e->n_run; i++)
			if (stop || atomic_load(&e->run[i]->job->cancel))
				job_end(e->run[i]->job, MOXIE_FINISH_CANCEL);
		reap_running(e);
		if (stop)
			return NULL;
		start_waiting(e);
		step(e);
		reap_running(e);
	}
}
