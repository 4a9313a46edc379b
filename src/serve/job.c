/* job.c - requests that generate: on their way to the engine, and what it says back to the loop. */
#include <event2/bufferevent.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/host.h"
#include "serve/serve_int.h"

#define MAX_ITEMS (1 << 20)          /* of one part that the loop has not taken */
#define PENDING_BYTES (16 << 10)     /* what a client may send before its answer came */

/* ---- the engine's thread ------------------------------------------------------------------------------------------ */

/* Under server.lock.  true: the loop must be woken. */
static bool make_ready(struct server *s, struct part *p)
{
	if (p->is_ready)
		return false;
	bool was_empty = !s->ready;
	p->is_ready = true;
	p->next_ready = NULL;
	*s->ready_end = p;
	s->ready_end = &p->next_ready;
	return was_empty;
}

static void wake(struct server *s)
{
	uint64_t one = 1;
	ssize_t n = write(s->wake_fd, &one, sizeof one);
	(void)n; /* full: it is awake */
}

static bool queue_add(struct queue *q, struct item it, const char *text, size_t n, const struct moxie_logprobs *probs)
{
	if (q->n_item == q->cap_item) {
		size_t cap = q->cap_item ? 2 * q->cap_item : 16;
		struct item *p = cap > MAX_ITEMS ? NULL : realloc(q->item, cap * sizeof *p);
		if (!p)
			return false;
		q->item = p;
		q->cap_item = cap;
	}
	it.at = q->text.n;
	it.n_text = n;
	it.probs_at = q->probs.n;
	it.n_probs = probs ? 1 + (size_t)probs->n_top : 0;
	if (n && !buf_append(&q->text, text, n))
		return false;
	if (probs && !(buf_append(&q->probs, &probs->token, sizeof probs->token) &&
	               buf_append(&q->probs, probs->top, (size_t)probs->n_top * sizeof *probs->top)))
		return false;
	q->item[q->n_item++] = it;
	return true;
}

static int on_event(void *ud, const struct moxie_event *ev, int32_t id)
{
	struct part *p = ud;
	struct server *s = p->job->s;
	if (p->job->scores_only)
		return 0;
	bool is_end = ev->kind == MOXIE_EV_END || ev->kind == MOXIE_EV_CALL || ev->kind == MOXIE_EV_RETURN;
	struct item it = { .id = id, .time = host_now(), .is_token = id >= 0 && !(is_end && id == p->last_id) };
	p->last_id = id;
	it.in_text = !is_end && !ev->recipient && (!is_talk(p->job->kind) || (*ev->channel && strcmp(ev->channel, "analysis")));
	bool to_call = ev->recipient && (ev->kind == MOXIE_EV_TEXT || ev->kind == MOXIE_EV_CALL);
	bool begins = to_call && !p->in_call;
	if (ev->kind == MOXIE_EV_TEXT)
		it.kind = to_call ? IT_ARGUMENTS : ev->channel && !strcmp(ev->channel, "analysis") ? IT_REASONING : IT_CONTENT;

	pthread_mutex_lock(&s->lock);
	bool ok = p->in.text.n + ev->n_text <= s->p.max_output;
	if (ok && begins) {
		struct item call = { .kind = IT_CALL, .id = -1, .time = it.time };
		ok = queue_add(&p->in, call, ev->recipient, strlen(ev->recipient), NULL);
	}
	ok = ok && queue_add(&p->in, it, ev->text, it.kind ? ev->n_text : 0, it.is_token ? ev->probs : NULL);
	bool wanted = make_ready(s, p);
	pthread_mutex_unlock(&s->lock);
	if (wanted)
		wake(s);
	p->in_call = (p->in_call || to_call) && !is_end;
	return !ok; /* the loop is far behind, or memory is gone: stop */
}

static void on_prompt(void *ud, size_t i, const struct moxie_logprobs *probs)
{
	struct part *p = ud;
	struct server *s = p->job->s;
	struct item it = { .kind = IT_PROMPT, .id = (int32_t)i };
	pthread_mutex_lock(&s->lock);
	bool wanted = queue_add(&p->in, it, "", 0, probs) && make_ready(s, p); /* without memory the list is short */
	pthread_mutex_unlock(&s->lock);
	if (wanted)
		wake(s);
}

static void on_finish(void *ud, const struct moxie_generate_result *r, int status, const struct moxie_err *err)
{
	struct part *p = ud;
	struct server *s = p->job->s;
	pthread_mutex_lock(&s->lock);
	if (r)
		p->result = *r;
	if (p->job->scores_only)
		p->result.n_out = 0;
	p->status = status;
	if (status < 0 && err)
		p->err = *err;
	p->is_done = true;
	bool wanted = make_ready(s, p);
	pthread_mutex_unlock(&s->lock); /* from here on the loop may free p */
	if (wanted)
		wake(s);
}

/* ---- jobs ------------------------------------------------------------------------------------------------------------ */

static void part_free(struct part *p)
{
	for (size_t i = 0; i < p->n_call; i++) {
		free(p->call[i].id);
		buf_free(&p->call[i].name);
		buf_free(&p->call[i].arguments);
	}
	free(p->call);
	free(p->in.item);
	free(p->out.item);
	buf_free(&p->in.text);
	buf_free(&p->out.text);
	buf_free(&p->in.probs);
	buf_free(&p->out.probs);
	probs_free(p);
	resp_free(p);
	buf_free(&p->echo);
	buf_free(&p->content);
	buf_free(&p->reasoning);
	ids_free(&p->prompt);
	ids_free(&p->output);
}

static void job_free(struct job *j)
{
	struct server *s = j->s;
	for (int i = 0; i < j->n_part; i++)
		part_free(&j->part[i]);
	for (size_t i = 0; i < j->n_stop; i++)
		free(j->stop[i]);
	ids_free(&j->stop_ids);
	free(j->bias);
	moxie_guide_free(j->guide);
	buf_free(&j->echo_fields);
	free(j->part);
	*j->prev = j->next;
	if (j->next)
		j->next->prev = j->prev;
	free(j);
	s->n_job--;
	server_check_drained(s);
}

static void cancel_parts(struct job *j)
{
	for (int i = 0; i < j->n_part; i++)
		if (j->part[i].submitted && !j->part[i].finished)
			moxie_engine_cancel(j->s->e, j->part[i].engine_id);
}

void job_abort(struct job *j)
{
	cancel_parts(j);
}

static void on_close(struct evhttp_connection *c, void *arg)
{
	(void)c;
	struct job *j = arg;
	struct evhttp_request *req = j->req;
	j->req = NULL;
	/* A request that its connection has let go is ours; else it goes with the connection. */
	if (req && !evhttp_request_get_connection(req))
		evhttp_request_free(req);
	cancel_parts(j);
}

/* The server library reads nothing while an answer is due, and would not see the client leave.  So: read, but call nobody for
 * what comes (its reader ends the program when it is called in this state), keep a little, and wait without a time limit. */
static void watch_client(struct job *j)
{
	struct evhttp_connection *c = evhttp_request_get_connection(j->req);
	struct bufferevent *bev = evhttp_connection_get_bufferevent(c);
	bufferevent_data_cb on_read, on_write;
	bufferevent_event_cb on_other;
	void *arg;
	struct timeval t = { .tv_sec = j->s->p.read_seconds };
	bufferevent_getcb(bev, &on_read, &on_write, &on_other, &arg);
	bufferevent_setcb(bev, NULL, on_write, on_other, arg);
	bufferevent_setwatermark(bev, EV_READ, 0, PENDING_BYTES);
	bufferevent_set_timeouts(bev, NULL, &t);
	bufferevent_enable(bev, EV_READ);
	evhttp_connection_set_closecb(c, on_close, j);
}

struct evhttp_request *job_release(struct job *j)
{
	struct evhttp_request *req = j->req;
	struct evhttp_connection *c = req ? evhttp_request_get_connection(req) : NULL;
	if (c)
		evhttp_connection_set_closecb(c, NULL, NULL);
	j->req = NULL;
	return req;
}

void job_drop(struct job *j)
{
	struct evhttp_connection *c = j->req ? evhttp_request_get_connection(j->req) : NULL;
	server_log(j->s, SERVE_WARN, "%s: the client reads too slowly, its request is cancelled", j->rid);
	if (c)
		evhttp_connection_free(c); /* calls on_close */
	j->req = NULL;
	cancel_parts(j);
}

struct job *job_create(struct server *s, struct evhttp_request *req, enum job_kind kind)
{
	static const char *const prefix[] = { "chatcmpl-", "cmpl-", "", "health-", "resp_" };
	if (s->draining) {
		reply_error(s, req, 503, NULL, "the server is shutting down");
		return NULL;
	}
	struct job *j = calloc(1, sizeof *j);
	if (!j) {
		reply_error(s, req, 503, NULL, "out of memory");
		return NULL;
	}
	uint64_t r[2] = { 0 };
	if (getrandom(r, sizeof r, 0) < 0)
		r[0] = (uint64_t)(uintptr_t)j, r[1] = (uint64_t)(1e6 * host_now());
	snprintf(j->rid, sizeof j->rid, "%s%016llx%08llx", prefix[kind], (unsigned long long)r[0], (unsigned long long)r[1] & 0xffffffff);
	j->s = s;
	j->req = req;
	j->kind = kind;
	j->created = (long)time(NULL);
	j->start = host_now();
	j->n = 1;
	j->gen = (struct moxie_generate_params){ .struct_size = sizeof j->gen, .raw = !is_talk(kind) };
	moxie_sampling_default(s->m, &j->gen.sampling);
	if (s->p.sampling_openai)
		j->gen.sampling = (struct moxie_sampling){ .temperature = 1 };
	j->gen.sampling.struct_size = sizeof j->gen.sampling;
	j->gen.sampling.seed = r[1];
	j->next = s->jobs;
	j->prev = &s->jobs;
	if (j->next)
		j->next->prev = &j->next;
	s->jobs = j;
	s->n_job++;
	watch_client(j);
	return j;
}

bool job_add_prompt(struct job *j, const int32_t *ids, size_t n)
{
	struct part *p = realloc(j->part, (size_t)(j->n_part + 1) * sizeof *p);
	if (!p)
		return false;
	j->part = p;
	p += j->n_part;
	*p = (struct part){ .job = j, .index = j->n_part++, .last_id = -1 };
	return ids_append(&p->prompt, ids, n);
}

bool job_copy_parts(struct job *j, int n)
{
	int n_prompt = j->n_part;
	struct part *all = n_prompt ? calloc((size_t)n_prompt * (size_t)n, sizeof *all) : NULL;
	bool ok = all != NULL;
	for (int i = 0; all && i < n_prompt * n; i++) {
		struct part *p = &all[i], *from = &j->part[i / n];
		*p = (struct part){ .job = j, .index = i, .last_id = -1 };
		if (i % n == n - 1) { /* the last copy takes what is there */
			p->prompt = from->prompt;
			from->prompt = (struct ids){ 0 };
		} else {
			ok = ids_append(&p->prompt, from->prompt.v, from->prompt.n) && ok;
		}
	}
	if (!all)
		return false;
	free(j->part);
	j->part = all;
	j->n_part = n_prompt * n;
	j->n = n;
	return ok;
}

void job_refuse(struct job *j, int code, const char *param, const char *fmt, ...)
{
	char text[600];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	struct evhttp_request *req = job_release(j);
	if (req)
		reply_error(j->s, req, code, param, "%s", text);
	cancel_parts(j);
	if (!j->n_left)
		job_free(j);
}

/* ---- to the engine ------------------------------------------------------------------------------------------------------- */

void job_submit(struct job *j)
{
	struct server *s = j->s;
	for (int i = 0; i < j->n_part; i++) {
		struct part *p = &j->part[i];
		struct moxie_err err = { 0 };
		struct moxie_request r = { .struct_size = sizeof r, .ids = p->prompt.v, .n = p->prompt.n, .p = j->gen, .on_finish = on_finish };
		r.p.sampling.seed += (uint64_t)(i % j->n); /* the first of n answers is the one given alone */
		r.p.on_event = on_event;
		r.p.ud = p;
		r.on_prompt = j->scores ? on_prompt : NULL;
		r.prompt_from = j->score_from;
		int rc = moxie_engine_submit(s->e, &r, &p->engine_id, &err);
		if (rc < 0) {
			const char *text;
			err.code = rc;
			int code = error_of_engine(s, &err, &text);
			job_refuse(j, code, NULL, "%s", text);
			return;
		}
		p->submitted = true;
		j->n_left++;
		s->metrics.n_requests += j->kind != JOB_HEALTH;
	}
	if (j->stream && !out_begin(j))
		job_drop(j);
}

/* ---- back in the loop ---------------------------------------------------------------------------------------------------- */

static void count_token(struct part *p, double time)
{
	struct metrics *m = &p->job->s->metrics;
	if (p->n_tok++)
		metrics_see(&m->itl, time - p->last_time, 1);
	else
		metrics_see(&m->ttft, time - p->job->start, 1);
	p->last_time = time;
}

static void log_part(const struct part *p)
{
	const struct moxie_generate_result *r = &p->result;
	const char *end = p->status < 0 ? "failed" : r->finish == MOXIE_FINISH_CANCEL ? "cancelled"
	                : r->finish == MOXIE_FINISH_LENGTH ? "length" : "stop";
	server_log(p->job->s, SERVE_INFO, "%s: %zu tokens in, %zu of them cached, %zu out; %.3f s, %.3f of them waiting; %s", p->job->rid,
	           r->n_prompt, r->n_reused, r->n_out, host_now() - p->job->start, r->queue_seconds, end);
}

static void count_part(struct part *p)
{
	struct metrics *m = &p->job->s->metrics;
	m->n_guided += p->job->guide != NULL;
	metrics_see(&m->queue, p->result.queue_seconds, 1);
	if (p->job->s->p.log_requests)
		log_part(p);
	m->prompt_tokens += p->result.n_prompt;
	m->cached_tokens += p->result.n_reused;
	m->generated_tokens += p->result.n_out;
	if (p->status < 0 || p->result.finish == MOXIE_FINISH_CANCEL)
		m->n_aborted++;
	else
		metrics_see(&m->e2e, host_now() - p->job->start, 1);
}

static void take_part(struct part *p, bool is_done)
{
	struct job *j = p->job;
	for (size_t i = 0; i < p->out.n_item; i++) {
		const struct item *it = &p->out.item[i];
		if (it->is_token && j->kind != JOB_HEALTH)
			count_token(p, it->time);
		p->n_reasoning += it->is_token && it->kind == IT_REASONING;
		if (j->req && !out_item(p, it, it->n_text ? p->out.text.p + it->at : ""))
			job_drop(j);
	}
	p->out.n_item = 0;
	p->out.text.n = 0;
	p->out.probs.n = 0;
	if (!is_done)
		return;
	p->finished = true;
	j->n_left--;
	if (j->kind != JOB_HEALTH)
		count_part(p);
	if (j->req && !out_part_end(p))
		job_drop(j);
	if (j->n_left)
		return;
	if (j->req)
		out_end(j);
	job_free(j);
}

void jobs_take(struct server *s)
{
	uint64_t n;
	ssize_t got = read(s->wake_fd, &n, sizeof n);
	(void)got; /* nothing to read: nothing was said since */
	for (;;) {
		pthread_mutex_lock(&s->lock);
		struct part *p = s->ready;
		bool is_done = false;
		if (p) {
			s->ready = p->next_ready;
			if (!s->ready)
				s->ready_end = &s->ready;
			p->is_ready = false;
			is_done = p->is_done;
			struct queue q = p->in;
			p->in = p->out;
			p->out = q;
		}
		pthread_mutex_unlock(&s->lock);
		if (!p)
			return;
		take_part(p, is_done);
	}
}
