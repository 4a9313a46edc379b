/* sched_loop.c - the engine's thread: one thread steps the model for all requests.
 *
 * Requests wait in order of arrival until a slot is free.  A slot keeps its session, and with it the KV cache, from one
 * request to the next, so that a prompt which begins like an earlier timeline continues there.  Each step carries one row of
 * every decoding request, then prompt chunks in order of arrival in the rows that are left: a long prompt delays the others by
 * one chunk at most.
 *
 * An answer is the one that moxie_generate gives wherever the kernels give a row the same bits in any company: cpu:ref always,
 * the fast CPU kernels within each of their two forms (few rows, many rows; see kernels/cpu/cpu.h), so that rows beside a
 * prompt's chunk may differ in the last bits.
 */
#include <stdlib.h>

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
	if (j->decoding)
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

/* Running requests that are over leave their slots. */
static void reap_running(struct moxie_engine *e)
{
	struct job *gone = NULL, **tail = &gone;
	for (int i = 0; i < e->n_run; i++)
		if (e->run[i]->job->over)
			job_settle(e->run[i]->job);
	pthread_mutex_lock(&e->lock);
	int n = 0;
	uint64_t kv_tokens = 0;
	for (int i = 0; i < e->n_run; i++) {
		struct slot *slot = e->run[i];
		if (!slot->job->over) {
			e->run[n++] = slot;
			kv_tokens += slot->s->tok.n;
			continue;
		}
		count_end(e, slot->job);
		*tail = slot->job;
		tail = &slot->job->next;
		slot->job = NULL;
		slot->last_used = ++e->clock;
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

/* The idle slot that can keep most of the prompt; among equals the least recently used.  But a timeline that would lose more
 * than the prompt saves is left to its owner while another slot is empty: many prompts share only their first lines.
 * NULL: the idle ones found no memory; slot 0 has a session from the start, so one is busy. */
static struct slot *pick_slot(struct moxie_engine *e, const struct job *j)
{
	struct moxie_session_params p = { .struct_size = sizeof p, .n_ctx = e->n_ctx };
	double now = host_now();
	for (;;) {
		struct slot *best = NULL, *empty = NULL;
		size_t best_keep = 0;
		for (int i = 0; i < e->m->n_seq; i++) {
			struct slot *slot = &e->slot[i];
			if (slot->job || (!slot->s && now < slot->retry_at))
				continue;
			size_t keep = slot->s && !e->no_reuse ? session_reusable(slot->s, j->req.ids, j->req.n) : 0;
			if (!best || keep > best_keep || (keep == best_keep && slot->last_used < best->last_used))
				best = slot, best_keep = keep;
			if (!empty && (!slot->s || slot->s->tok.n == 0))
				empty = slot;
		}
		if (best && best->s && empty && best->s->tok.n - best_keep > best_keep)
			best = empty;
		if (!best || best->s || moxie_session_create(&best->s, e->m, &p, NULL) == 0)
			return best;
		best->retry_at = now + RETRY_SECONDS;
	}
}

/* The session goes back to what it shares with the prompt. */
static void job_start(struct moxie_engine *e, struct slot *slot, struct job *j)
{
	j->at_start = host_now();
	j->res.queue_seconds = j->at_start - j->at_submit;
	j->n_fed = e->no_reuse ? moxie_session_rewind(slot->s, 0) : moxie_session_reuse(slot->s, j->req.ids, j->req.n);
	j->res.n_reused = j->n_fed;
	struct moxie_err err;
	int rc = reply_init(&j->reply, e->m, &j->req.p, &err);
	j->has_reply = rc == 0;
	if (rc < 0)
		job_fail(j, rc, &err);
}

static void start_waiting(struct moxie_engine *e)
{
	while (e->n_run < e->m->n_seq) {
		pthread_mutex_lock(&e->lock);
		struct job *j = e->first; /* nobody but this thread takes it out */
		pthread_mutex_unlock(&e->lock);
		if (!j)
			return;
		struct slot *slot = pick_slot(e, j);
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
		e->st.reused_tokens += j->res.n_reused;
		pthread_mutex_unlock(&e->lock);
	}
}

/* ---- a step ---------------------------------------------------------------------------------------------------------- */

/* Decoding requests first, one row each; the rows that are left go to prompts, in order of arrival. */
static int plan_step(struct moxie_engine *e)
{
	int n_chunk = e->m->n_chunk, n_row = n_chunk > e->m->n_seq ? n_chunk : e->m->n_seq, n_part = 0;
	for (int i = 0; i < e->n_run; i++) {
		struct job *j = e->run[i]->job;
		if (j->over || !j->decoding)
			continue;
		e->part[n_part] = (struct part){ e->run[i]->s, &j->next_id, 1, true };
		e->part_job[n_part++] = j;
		n_row--;
	}
	for (int i = 0; i < e->n_run && n_row > 0; i++) {
		struct job *j = e->run[i]->job;
		if (j->over || j->decoding)
			continue;
		size_t left = j->req.n - j->n_fed;
		int most = n_row < n_chunk ? n_row : n_chunk, n = left < (size_t)most ? (int)left : most;
		e->part[n_part] = (struct part){ e->run[i]->s, j->req.ids + j->n_fed, n, (size_t)n == left };
		e->part_job[n_part++] = j;
		n_row -= n;
	}
	return n_part;
}

/* A part of a step went well.  Returns the number of tokens generated. */
static int job_advance(struct job *j, const struct part *part)
{
	if (j->decoding) {
		part->s->n_out++;
	} else {
		j->n_fed += (size_t)part->n_row;
		if (!part->want_logits)
			return 0;
		part->s->n_out = 0;
		j->decoding = true;
		j->at_decode = host_now();
		j->res.prefill_seconds = j->at_decode - j->at_start;
	}
	struct moxie_err err;
	int rc = reply_next(&j->reply, part->s, &j->res, &j->next_id, &err);
	if (j->res.n_out == 1)
		j->res.first_token_seconds = host_now() - j->at_submit;
	if (rc < 0)
		job_fail(j, rc, &err);
	else if (j->res.finish != MOXIE_FINISH_NONE)
		j->over = true;
	return rc == 0;
}

static void count_step(struct moxie_engine *e, int n_tok, double busy)
{
	int64_t at = (int64_t)host_now();
	pthread_mutex_lock(&e->lock);
	struct second *s = &e->rate[at % RATE_SECONDS];
	if (s->at != at)
		*s = (struct second){ .at = at };
	s->n_tok += (uint64_t)n_tok;
	s->busy += busy;
	e->st.n_steps++;
	e->st.generated_tokens += (uint64_t)n_tok;
	pthread_mutex_unlock(&e->lock);
}

static void step(struct moxie_engine *e)
{
	int n_part = plan_step(e);
	if (!n_part)
		return;
	double start = host_now();
	struct moxie_err err = { 0 };
	pthread_mutex_lock(&e->m->lock);
	int rc = engine_step(e->m, e->part, n_part, &err);
	pthread_mutex_unlock(&e->m->lock);
	if (rc == 0) {
		int n_tok = 0;
		for (int i = 0; i < n_part; i++)
			n_tok += job_advance(e->part_job[i], &e->part[i]);
		count_step(e, n_tok, host_now() - start);
		return;
	}
	for (int i = 0; i < n_part; i++)
		job_fail(e->part_job[i], rc, &err);
	if (rc != MOXIE_E_DEVICE)
		return;
	for (int i = 0; i < e->n_run; i++)
		job_fail(e->run[i]->job, rc, &err);
	pthread_mutex_lock(&e->lock);
	e->failed = err;
	pthread_mutex_unlock(&e->lock);
	reap_queue(e, true, &err); /* submit adds nothing from here on */
}

void *sched_thread(void *arg)
{
	struct moxie_engine *e = arg;
	for (;;) {
		pthread_mutex_lock(&e->lock);
		while (!e->stop && !e->n_run && !e->first)
			pthread_cond_wait(&e->wake, &e->lock);
		bool stop = e->stop;
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
