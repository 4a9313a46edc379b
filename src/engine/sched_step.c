/* sched_step.c - one step of the engine for all requests: whose rows, whose pages, and what became of them.
 *
 * A step carries one row of every decoding request, then prompt rows in order of arrival: a long prompt delays the others by one chunk
 * at most.  Pages are taken as timelines grow, oldest request first: when none is left, cached prefixes are forgotten, then the youngest
 * request gives its pages up, keeps its place and its known tokens, and is consumed again when there is room.  The oldest never gives
 * way and fits alone (moxie_engine_submit sees to it), so all of them end.
 *
 * An answer is the one that moxie_generate gives, whatever else is served, found in the prefix cache or preempted: each row has
 * the kind that follows from its own request (prompt_zone), the two kinds are passes of their own, and the cache gives nobody a row of
 * another kind than it would compute.
 */
#include "base/host.h"
#include "engine/sched.h"

/* Rows that come next in the timeline and are of one kind. */
static size_t rows_ahead(const struct moxie_engine *e, const struct slot *slot)
{
	size_t pos = slot->s->tok.n, zone = job_zone(e, slot->job);
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
	size_t gained = e->no_reuse ? 0 : prefix_extend(&e->prefix, slot->s, job_reusable(j), job_zone(e, j));
	if (!gained || j->resumed)
		return;
	d->n_hits += j->res.n_reused == 0;
	d->n_reused += gained;
	j->res.n_reused += gained;
}

/* Rows of a prompt as far as they go on without logits, or of which all give some: of these no more than *spare besides one. */
static int score_rows(struct slot *slot, int n_row, int *spare)
{
	const struct job *j = slot->job;
	size_t pos = slot->s->tok.n;
	if (!j->req.on_prompt || j->n_scored >= j->req.n)
		return n_row;
	if (pos + 1 < j->n_scored) /* rows before the first that counts */
		return pos + (size_t)n_row + 1 <= j->n_scored ? n_row : (int)(j->n_scored - 1 - pos);
	slot->n_before = n_row - 1 < *spare ? n_row - 1 : *spare;
	*spare -= slot->n_before;
	slot->scores = true;
	return slot->n_before + 1;
}

/* n_row of every slot: one for each decoding request; then prompts in order of arrival, together n_chunk. */
static void share_rows(struct moxie_engine *e)
{
	int spare = e->m->n_seq - e->n_run; /* rows with logits beyond one for everybody */
	int n_chunk = e->m->n_chunk, few = n_chunk > e->m->n_seq ? n_chunk : e->m->n_seq, left = n_chunk;
	for (int i = 0; i < e->n_run; i++) {
		struct slot *slot = e->run[i];
		slot->n_before = 0;
		slot->scores = false;
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
		if (slot->n_row)
			slot->n_row = score_rows(slot, slot->n_row, &spare);
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
			sched_job_fail(e->run[i]->job, MOXIE_E_NOMEM, &err);
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
			size_t n = s->tok.n + (size_t)slot->n_row;
			e->part[n_part] = (struct part){ s, s->tok.v + s->tok.n, slot->n_row, slot->scores || n == slot->job->n_known, slot->n_before, kind,
				n > slot->job->req.n ? n - slot->job->req.n : 0 };
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

/* What was picked goes to its owner.  The request may turn out to be over. */
static void job_give(struct job *j)
{
	struct moxie_err err;
	int rc = reply_give(&j->reply, &j->res, &err);
	if (j->res.n_out == 1 && j->res.first_token_seconds == 0)
		j->res.first_token_seconds = host_now() - j->at_submit;
	if (rc < 0)
		sched_job_fail(j, rc, &err);
	else if (j->res.finish != MOXIE_FINISH_NONE)
		j->over = true;
}

/* Text and answers are made while a device computes the next step: see struct meanwhile.  A request that turns out to be over then
 * has a row in that step, which is forgotten. */
void sched_give_due(void *engine)
{
	struct moxie_engine *e = engine;
	for (int i = 0; i < e->n_run; i++)
		if (e->run[i]->job->has_reply && !e->run[i]->job->over)
			job_give(e->run[i]->job);
}

/* The likelihoods that the rows of part tell; row: the first of its wanted rows among all of the step. */
static void job_score(struct job *j, const struct part *part, int row)
{
	struct moxie_session *s = part->s;
	struct moxie_err err;
	size_t n_vocab = (size_t)s->m->config.n_vocab, first = s->tok.n - (size_t)part->n_before; /* the token after the first wanted row */
	for (int i = 0; i <= part->n_before && !j->over; i++) {
		size_t at = first + (size_t)i;
		if (at < j->n_scored || at >= j->req.n)
			continue;
		struct moxie_logprobs probs;
		int rc = engine_row(s->m, row + i, s->logits, &err); /* free until the session's own are fetched */
		if (rc < 0) {
			sched_job_fail(j, rc, &err);
			return;
		}
		sampler_logprobs(s->logits, (int)n_vocab, j->req.ids[at], j->req.p.n_top, &probs);
		j->req.on_prompt(j->req.p.ud, at, &probs);
		j->n_scored = at + 1;
	}
}

/* A part of a step went well.  Returns the number of tokens generated. */
static int job_advance(const struct moxie_engine *e, struct job *j, const struct part *part)
{
	struct moxie_session *s = part->s;
	if (!part->want_logits || j->over || s->tok.n < j->n_known)
		return 0;
	if (j->res.n_out == 0) {
		j->at_decode = host_now();
		j->res.prefill_seconds = j->at_decode - j->at_start;
	}
	int32_t id;
	struct moxie_err err;
	s->n_out = s->tok.n - j->req.n;
	int rc = reply_pick(&j->reply, s, &j->res, &id, &err);
	if (rc < 0)
		sched_job_fail(j, rc, &err);
	else if (j->res.finish == MOXIE_FINISH_NONE)
		s->tok.v[j->n_known++] = id; /* the context is not full, or the answer had ended */
	if (rc == 0 && (!e->m->kern->dev || j->res.finish != MOXIE_FINISH_NONE))
		job_give(j);
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
		sched_job_fail(e->run[i]->job, err->code, err);
	pthread_mutex_lock(&e->lock);
	e->failed = *err;
	pthread_mutex_unlock(&e->lock);
	sched_reap_queue(e, true, err); /* submit adds nothing from here on */
}

/* Whether what part picks is likely to be fed as it is, and what that picks as well: a step too many costs nobody time if this is wrong. */
static bool goes_on(const struct job *j, const struct part *part)
{
	return part->n_row == 1 && part->want_logits && !part->n_before && !j->over && !j->req.on_prompt && reply_is_plain(&j->reply, j->res.n_out);
}

/* n parts of one kind go through the model.  alone: there are no others, so that the next step is likely to have the same requests: a new
 * one's prompt comes first, in a step that finds these done.  A device may then run it ahead. */
static void pass(struct moxie_engine *e, const struct part *part, struct job **job, int n, bool alone)
{
	if (!n)
		return;
	double start = host_now();
	struct moxie_err err = { 0 };
	int n_tok = 0;
	pthread_mutex_lock(&e->m->lock);
	for (int i = 0; i < n; i++)
		part[i].s->n_more = alone && goes_on(job[i], &part[i]) ? 2 : 0;
	int rc = engine_step(e->m, part, n, &(struct meanwhile){ sched_give_due, e }, &err);
	for (int i = 0; rc == 0 && i < n; i++) {
		if (!e->no_reuse)
			prefix_insert(&e->prefix, part[i].s, job_zone(e, job[i]));
		session_trim(part[i].s);
	}
	pthread_mutex_unlock(&e->m->lock);
	for (int i = 0, row = 0; i < n; i++)
		if (rc == 0) {
			if (part[i].want_logits && job[i]->req.on_prompt && !job[i]->over)
				job_score(job[i], &part[i], row);
			row += part[i].want_logits ? 1 + part[i].n_before : 0;
			n_tok += job_advance(e, job[i], &part[i]);
			session_drop_logits(part[i].s);
		} else {
			sched_job_fail(job[i], rc, &err);
		}
	if (rc == 0)
		count_tokens(e, n_tok, host_now() - start);
	else if (rc == MOXIE_E_DEVICE)
		fail_all(e, &err);
}

/* A step that reads prompts is long, and its launches are many: whoever waits for text shall not wait for those too. */
static bool reads_prompt(const struct moxie_engine *e)
{
	for (int i = 0; i < e->n_run; i++)
		if (e->run[i]->job->active && !e->run[i]->job->over && e->run[i]->job->n_known - e->run[i]->s->tok.n > 1)
			return true;
	return false;
}

void sched_step(struct moxie_engine *e)
{
	if (reads_prompt(e))
		sched_give_due(e);
	int n_few = 0, n_part = plan_step(e, &n_few);
	pass(e, e->part, e->part_job, n_few, n_few == n_part);
	if (e->failed.code == 0) /* this thread alone writes it */
		pass(e, e->part + n_few, e->part_job + n_few, n_part - n_few, false);
	pthread_mutex_lock(&e->lock);
	e->st.n_steps += n_part > 0;
	pthread_mutex_unlock(&e->lock);
}
