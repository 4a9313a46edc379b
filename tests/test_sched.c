/* test_sched.c - many requests at once: answers, order, cancelling, limits, reuse.
 *
 * The tiny model has random weights and no tokenizer: every event is one token.  Answers are compared with those of
 * moxie_generate token by token: they are the same bits in any company, found in the prefix cache, preempted or not.
 */
#include <pthread.h>
#include <unistd.h>

#include "engine/sched.h"
#include "tiny.h"

#define MAX_OUT 256

static moxie_engine *engine(moxie_model *m, int n_ctx, int n_queued, int no_reuse)
{
	moxie_engine *e;
	struct moxie_engine_params p = { sizeof p, n_ctx, n_queued, no_reuse };
	OK(moxie_engine_create(&e, m, &p, &err), err);
	return e;
}

static struct moxie_engine_stats stats(moxie_engine *e)
{
	struct moxie_engine_stats st = { .struct_size = sizeof st };
	CHECK(moxie_engine_get_stats(e, &st) == 0, "no stats");
	return st;
}

/* A request and what came of it.  Written by the engine's thread until n_finish is 1. */
struct ask {
	int32_t ids[600], out[MAX_OUT];
	size_t n;
	struct moxie_request req;
	uint64_t id;
	moxie_engine *e;
	int hold_us;                 /* sleep in each event: a slow model */
	atomic_int n_out, n_finish, n_late;
	uint64_t step[MAX_OUT], end_step, order; /* the engine's step of each token and of the end; when the first came among all requests */
	struct moxie_generate_result res;
	int status;
	char text[4096];
};
static atomic_ullong n_started;

static int on_event(void *ud, const struct moxie_event *ev, int32_t id)
{
	struct ask *a = ud;
	int n = atomic_load(&a->n_out);
	if (atomic_load(&a->n_finish))
		a->n_late++;
	if (n == 0)
		a->order = n_started++;
	if (n < MAX_OUT && id >= 0) {
		a->out[n] = id;
		a->step[n] = a->e ? a->e->st.n_steps : 0; /* this thread alone writes it */
		atomic_store(&a->n_out, n + 1);
	}
	if (ev->kind == MOXIE_EV_TEXT && (!*ev->channel || !strcmp(ev->channel, "final")))
		strncat(a->text, ev->text, sizeof a->text - strlen(a->text) - 1);
	if (a->hold_us)
		usleep((unsigned)a->hold_us);
	return 0;
}

static void on_finish(void *ud, const struct moxie_generate_result *r, int status, const struct moxie_err *e)
{
	struct ask *a = ud;
	(void)e;
	a->res = *r;
	a->status = status;
	a->end_step = a->e->st.n_steps;
	a->n_finish++;
}

static void ask_init(struct ask *a, moxie_engine *e, int n, int max_tokens)
{
	memset(a, 0, sizeof *a);
	a->n = (size_t)n;
	a->e = e;
	for (int i = 0; i < n; i++)
		a->ids[i] = rnd_int(500);
	a->req = (struct moxie_request){ .struct_size = sizeof a->req, .ids = a->ids, .n = a->n, .on_finish = on_finish,
		.p = { .struct_size = sizeof a->req.p, .max_tokens = max_tokens, .ignore_eos = 1, .on_event = on_event, .ud = a } };
}

static void submit(struct ask *a)
{
	OK(moxie_engine_submit(a->e, &a->req, &a->id, &err), err);
	CHECK(a->id != 0, "no id");
}

/* With no request, every page is free or the prefix cache's, and the counters say so. */
static void pages_are_all_there(moxie_engine *e)
{
	struct moxie_engine_stats st = stats(e);
	const struct kv_cache *kv = &e->m->kv;
	CHECK(st.n_running == 0 && st.n_queued == 0 && st.kv_tokens == 0, "%d running, %d queued", st.n_running, st.n_queued);
	CHECK(st.n_page == kv->full.n_page && st.n_page_free + st.n_page_cached == st.n_page && st.n_page_free == kv->full.n_free, 
	      "%d + %d of %d pages", st.n_page_free, st.n_page_cached, st.n_page);
	CHECK(st.n_ring == kv->ring.n_page && st.n_ring_free + st.n_ring_cached == st.n_ring && st.n_ring_free == kv->ring.n_free,
	      "%d + %d of %d pages of sliding layers", st.n_ring_free, st.n_ring_cached, st.n_ring);
	CHECK(e->prefix.n_idle == e->prefix.n_node && e->prefix.n_ring_idle == e->prefix.n_ring, "%d of %d cached pages are held",
	      e->prefix.n_node - e->prefix.n_idle, e->prefix.n_node);
	moxie_engine_flush(e);
	st = stats(e);
	CHECK(st.n_page_free == st.n_page && st.n_ring_free == st.n_ring && !st.cached_tokens, "%d of %d pages after a flush",
	      st.n_page_free, st.n_page);
}

#ifdef __SANITIZE_THREAD__ /* all is some twenty times slower */
#define WAIT_SECONDS 300
#else
#define WAIT_SECONDS 20
#endif

/* Until *what reaches n; fails after WAIT_SECONDS. */
static void wait_for(atomic_int *what, int n)
{
	for (int i = 0; i < WAIT_SECONDS * 1000 && atomic_load(what) < n; i++)
		usleep(1000);
	CHECK(atomic_load(what) >= n, "%d after %d s, wanted %d", atomic_load(what), WAIT_SECONDS, n);
}

/* The same through moxie_generate. */
static void same_as_alone(const struct ask *a, moxie_model *m, int n_ctx, const char *what)
{
	static struct ask b;
	moxie_session *s;
	OK(moxie_session_create(&s, m, &(struct moxie_session_params){ sizeof(struct moxie_session_params), n_ctx }, &err), err);
	memset(&b, 0, sizeof b);
	struct moxie_generate_params p = a->req.p;
	struct moxie_generate_result r = { .struct_size = sizeof r };
	p.ud = &b;
	OK(moxie_generate(s, a->ids, a->n, &p, &r, &err), err);
	moxie_session_free(s);
	CHECK(a->status == 0 && a->n_finish == 1 && a->n_late == 0, "%s: status %d, %d ends, %d late", what, a->status, a->n_finish, a->n_late);
	CHECK(a->res.n_prompt == a->n, "%s: prompt of %zu", what, a->res.n_prompt);
	CHECK(a->res.n_out == r.n_out && a->res.finish == r.finish && a->n_out == b.n_out, "%s: %zu tokens, finish %d; alone %zu, %d", what,
	      a->res.n_out, a->res.finish, r.n_out, r.finish);
	for (int i = 0; i < b.n_out; i++)
		CHECK(a->out[i] == b.out[i], "%s: token %d is %d, alone %d", what, i, (int)a->out[i], (int)b.out[i]);
}

static void answers_are_those_alone(const char *device, int n_seq, int n_chunk, int n)
{
	static struct ask a[20];
	tiny_threads = 1 + (n_chunk == 128);
	moxie_model *m = tiny(device, n_chunk, n_seq);
	moxie_engine *e = engine(m, 200, 0, 0);
	uint64_t n_prompt = 0, n_out = 0;
	for (int i = 0; i < n; i++) {
		ask_init(&a[i], e, i ? 1 + rnd_int(150) : 200, i == 0 ? 0 : 1 + rnd_int(40));
		a[i].req.p.ignore_eos = i % 2;
		if (i % 3 == 1)
			a[i].req.p.sampling = (struct moxie_sampling){ .temperature = 1, .top_p = 0.9f, .presence_penalty = 0.5f, .seed = rnd_u64() };
		if (i == 4)
			a[i].req.p.max_tokens = 0, a[i].req.p.ignore_eos = 1, a[i].n = a[i].req.n = 170; /* until the cache is full */
		submit(&a[i]);
	}
	for (int i = 0; i < n; i++)
		wait_for(&a[i].n_finish, 1);
	struct moxie_engine_stats st = stats(e);
	pages_are_all_there(e);
	moxie_engine_free(e);
	for (int i = 0; i < n; i++) {
		char what[64];
		snprintf(what, sizeof what, "request %d of %zu tokens", i, a[i].n);
		same_as_alone(&a[i], m, 200, what);
		n_prompt += a[i].n, n_out += a[i].res.n_out;
	}
	CHECK(a[4].res.n_out == 31 && a[4].res.finish == MOXIE_FINISH_LENGTH, "170 + %zu", a[4].res.n_out);
	CHECK(st.n_requests == (uint64_t)n && st.n_finished == (uint64_t)n && !st.n_cancelled && !st.n_failed && !st.n_running && !st.n_queued, "%d left", st.n_running);
	CHECK(st.prompt_tokens == n_prompt && st.generated_tokens == n_out, "%llu, %llu", (unsigned long long)st.prompt_tokens,
	      (unsigned long long)st.generated_tokens);
	CHECK(st.decode_tokens_per_second > 0 && st.kv_tokens == 0 && st.kv_capacity == (uint64_t)st.n_page * KV_PAGE, "%g tok/s",
	      st.decode_tokens_per_second);
	CHECK(m->kv.full.n_free == m->kv.full.n_page && m->kv.ring.n_free > 0, "pages are missing");
	printf("    %s, n_seq %d, chunk %d: %llu steps, %.0f tok/s\n", m->kern->name, n_seq, n_chunk, (unsigned long long)st.n_steps, st.decode_tokens_per_second);
	moxie_model_free(m);
}

TEST(sched_answers_are_those_alone) { answers_are_those_alone("cpu", 4, 128, 20); }
TEST(sched_answers_one_at_a_time) { answers_are_those_alone("cpu", 1, 64, 20); }
TEST(sched_answers_chunk_below_batch) { answers_are_those_alone("cpu", 5, 2, 20); }
TEST(sched_answers_in_large_batches) { answers_are_those_alone("cpu", 20, 30, 20); }
TEST(sched_answers_avx2) { answers_are_those_alone("cpu:avx2", 9, 128, 20); }
TEST(sched_answers_amx) { answers_are_those_alone("cpu:amx", 9, 128, 20); }
TEST(sched_answers_in_wide_steps) { answers_are_those_alone("cpu:ref", 4, 32, 6); }

TEST(sched_starts_in_order_of_arrival)
{
	enum { N = 12 };
	static struct ask a[N];
	moxie_model *m = tiny("cpu", 16, 3);
	moxie_engine *e = engine(m, 256, 0, 0);
	for (int i = 0; i < N; i++) {
		ask_init(&a[i], e, 40, 5 + i % 3);
		submit(&a[i]);
	}
	for (int i = 0; i < N; i++)
		wait_for(&a[i].n_finish, 1);
	for (int i = 1; i < N; i++)
		CHECK(a[i].order > a[i - 1].order && a[i].id > a[i - 1].id, "request %d began before %d", i, i - 1);
	CHECK(a[N - 1].res.queue_seconds > 0 && a[N - 1].res.first_token_seconds > a[N - 1].res.queue_seconds, "times");
	moxie_engine_free(e);
	moxie_model_free(m);
}

/* While a long prompt is read, requests that decode get a token in every step. */
TEST(sched_long_prompt_stalls_nobody)
{
	enum { N = 4 };
	static struct ask a[N];
	moxie_model *m = tiny("cpu", 16, N);
	moxie_engine *e = engine(m, 700, 0, 0);
	for (int i = 0; i < N - 1; i++) {
		ask_init(&a[i], e, 5, 250);
		a[i].hold_us = 1000;
		submit(&a[i]);
	}
	wait_for(&a[N - 2].n_out, 3);
	ask_init(&a[N - 1], e, 500, 2);
	submit(&a[N - 1]);
	for (int i = 0; i < N; i++)
		wait_for(&a[i].n_finish, 1);
	moxie_engine_free(e);
	uint64_t last = a[N - 1].step[0], n_chunk = (500 + 15) / 16;
	CHECK(a[0].step[249] > last, "the others ended too soon");
	for (int i = 0; i < N - 1; i++)
		for (int t = 1; t < 250; t++)
			CHECK(a[i].step[t] == a[i].step[t - 1] + 1, "request %d waited %llu steps for token %d", i,
			      (unsigned long long)(a[i].step[t] - a[i].step[t - 1]), t);
	CHECK(last >= a[0].step[0] + n_chunk, "500 tokens in %llu steps", (unsigned long long)(last - a[0].step[0]));
	moxie_model_free(m);
}

TEST(sched_cancel)
{
	static struct ask a[3];
	moxie_model *m = tiny("cpu", 16, 1);
	moxie_engine *e = engine(m, 400, 0, 0);
	for (int i = 0; i < 3; i++) {
		ask_init(&a[i], e, 20, i == 2 ? 4 : 200);
		a[i].hold_us = i == 0 ? 2000 : 0;
		submit(&a[i]);
	}
	wait_for(&a[0].n_out, 2);
	moxie_engine_cancel(e, a[1].id); /* queued */
	wait_for(&a[1].n_finish, 1);
	CHECK(a[1].res.finish == MOXIE_FINISH_CANCEL && a[1].status == 0 && a[1].n_out == 0 && a[1].res.queue_seconds > 0, "finish %d", a[1].res.finish);
	CHECK(a[0].n_finish == 0, "the wrong one");
	struct moxie_engine_stats st = stats(e);
	CHECK(st.n_running == 1 && st.n_queued == 1 && st.n_cancelled == 1 && st.kv_tokens > 20, "%d running, %d queued", st.n_running, st.n_queued);
	moxie_engine_cancel(e, 12345); /* unknown */
	moxie_engine_cancel(e, a[1].id); /* over */
	moxie_engine_cancel(e, a[0].id); /* running */
	int before = a[0].n_out;
	wait_for(&a[0].n_finish, 1);
	CHECK(a[0].res.finish == MOXIE_FINISH_CANCEL && a[0].n_out <= before + 2, "finish %d, %d more tokens", a[0].res.finish, a[0].n_out - before);
	wait_for(&a[2].n_finish, 1);
	CHECK(a[2].res.finish == MOXIE_FINISH_LENGTH && a[2].n_out == 4, "finish %d", a[2].res.finish);
	st = stats(e);
	CHECK(st.n_finished == 1 && st.n_cancelled == 2 && st.n_requests == 3, "%llu finished", (unsigned long long)st.n_finished);
	moxie_engine_free(e);
	for (int i = 0; i < 3; i++)
		CHECK(a[i].n_finish == 1 && a[i].n_late == 0, "%d ends", a[i].n_finish);
	moxie_model_free(m);
}

TEST(sched_queue_is_bounded)
{
	static struct ask a[6];
	moxie_model *m = tiny("cpu", 16, 2);
	moxie_engine *e = engine(m, 400, 2, 0);
	for (int i = 0; i < 6; i++) {
		ask_init(&a[i], e, 20, 100);
		a[i].hold_us = 1000;
		int rc = moxie_engine_submit(e, &a[i].req, &a[i].id, &err);
		CHECK(rc == (i < 4 ? 0 : MOXIE_E_TOO_SMALL), "request %d: %d %s", i, rc, err.text);
		CHECK((a[i].id != 0) == (i < 4), "id %llu", (unsigned long long)a[i].id);
	}
	moxie_engine_cancel(e, a[0].id);
	wait_for(&a[0].n_finish, 1);
	submit(&a[4]);
	moxie_engine_free(e); /* with work left */
	for (int i = 0; i < 6; i++)
		CHECK(a[i].n_finish == (i < 5) && (i == 5 || a[i].res.finish == MOXIE_FINISH_CANCEL), "request %d: %d ends", i, a[i].n_finish);
	CHECK(m->kv.full.n_free == m->kv.full.n_page, "pages are missing");
	moxie_model_free(m);
}

/* The prompt of a is the first n tokens of b's, and something else than comes there. */
static void go_on(struct ask *a, const struct ask *b, size_t n)
{
	memcpy(a->ids, b->ids, n * sizeof *b->ids);
	a->ids[n] = (n < b->n ? b->ids[n] : b->out[0]) ? 0 : 1;
}

TEST(sched_prefix_is_reused)
{
	enum { N = 8 };
	static const int from[N] = { -1, -1, 1, 0, 3, 0, 2, 4 }, n_same[N] = { 0, 0, 200, 200, 330, 100, 64, 63 };
	static const int n_prompt[N] = { 200, 200, 230, 330, 400, 300, 129, 200 },
		n_out[N] = { 70, 8, 8, 100, 8, 8, 8, 8 };
	for (int no_reuse = 0; no_reuse < 2; no_reuse++) {
		static struct ask a[N];
		moxie_model *m = tiny("cpu", 48, 2);
		moxie_engine *e = engine(m, 500, 0, no_reuse);
		uint64_t n_all = 0, n_reused = 0;
		CHECK(m->group == 64 || m->group == 0, "the numbers below are for whole pages, groups have %d rows", m->group);
		for (int i = 0; i < N; i++) {
			ask_init(&a[i], e, n_prompt[i], n_out[i]);
			a[i].ids[0] = i % 2;
			if (from[i] >= 0)
				go_on(&a[i], &a[from[i]], (size_t)n_same[i]);
			submit(&a[i]);
			wait_for(&a[i].n_finish, 1);
			size_t want = no_reuse ? 0 : (size_t)n_same[i] / KV_PAGE * KV_PAGE;
			CHECK(a[i].res.n_reused == want, "request %d reused %zu, wanted %zu", i, a[i].res.n_reused, want);
			n_all += a[i].n, n_reused += want;
		}
		struct moxie_engine_stats st = stats(e);
		CHECK(st.reused_tokens == n_reused && st.prompt_tokens == n_all && st.n_cache_hits == (no_reuse ? 0u : 5u), "%llu reused, %llu hits",
		      (unsigned long long)st.reused_tokens, (unsigned long long)st.n_cache_hits);
		CHECK((st.cached_tokens > 0) == !no_reuse && st.evicted_tokens == 0, "%llu cached", (unsigned long long)st.cached_tokens);
		pages_are_all_there(e);
		ask_init(&a[0], e, 100, 1); /* after the flush */
		go_on(&a[0], &a[1], 99);
		submit(&a[0]);
		wait_for(&a[0].n_finish, 1);
		CHECK(a[0].res.n_reused == 0, "a flush leaves %zu tokens", a[0].res.n_reused);
		moxie_engine_free(e);
		for (int i = 1; i < N; i++)
			same_as_alone(&a[i], m, 500, "continued");
		moxie_model_free(m);
	}
}

/* Pages keep the kind of their rows: short prompts find short prompts and answers, long ones what long ones computed. */
TEST(sched_prefix_keeps_kinds)
{
	enum { N = 5, GROUP = 256 };
	static const int from[N] = { -1, 0, 1, 2, 0 }, n_same[N] = { 0, 200, 200, 310, 220 }, n_prompt[N] = { 150, 205, 310, 350, 255 };
	static struct ask a[N];
	moxie_model *m = tiny("cpu", 64, 2);
	if (m->group)
		m->group = GROUP;
	moxie_engine *e = engine(m, 500, 0, 0);
	for (int i = 0; i < N; i++) {
		ask_init(&a[i], e, n_prompt[i], 80);
		for (int t = 0; t < n_same[i]; t++) {
			const struct ask *b = &a[from[i]];
			a[i].ids[t] = (size_t)t < b->n ? b->ids[t] : b->out[(size_t)t - b->n];
		}
		submit(&a[i]);
		wait_for(&a[i].n_finish, 1);
		size_t want = !i ? 0 : !m->group || n_prompt[i] < GROUP ? (size_t)n_same[i] / KV_PAGE * KV_PAGE : i == 2 ? 0 : GROUP;
		CHECK(a[i].res.n_reused == want, "request %d reused %zu, wanted %zu", i, a[i].res.n_reused, want);
	}
	pages_are_all_there(e);
	moxie_engine_free(e);
	for (int i = 0; i < N; i++)
		same_as_alone(&a[i], m, 500, "of either kind");
	moxie_model_free(m);
}

/* Requests that come together compute what they share once: the others wait their turn and find it. */
TEST(sched_prefix_is_shared_at_once)
{
	enum { N = 6, SHARED = 320 };
	static struct ask a[N], first;
	moxie_model *m = tiny("cpu", 64, N);
	moxie_engine *e = engine(m, 500, 0, 0);
	ask_init(&first, e, 20, 3); /* the thread is busy while the others arrive */
	first.hold_us = 20000;
	submit(&first);
	wait_for(&first.n_out, 1);
	for (int i = 0; i < N; i++) {
		ask_init(&a[i], e, SHARED + 40 + i, 10);
		if (i)
			memcpy(a[i].ids, a[0].ids, SHARED * sizeof *a[i].ids);
		submit(&a[i]);
	}
	for (int i = 0; i < N; i++)
		wait_for(&a[i].n_finish, 1);
	pages_are_all_there(e);
	moxie_engine_free(e);
	for (int i = 0; i < N; i++) {
		CHECK(a[i].res.n_reused == (i ? SHARED : 0), "request %d reused %zu", i, a[i].res.n_reused);
		same_as_alone(&a[i], m, 500, "shared");
	}
	moxie_model_free(m);
}

/* ---- less memory than is asked for ---------------------------------------------------------------------------------------- */

/* Demand is at least three times what the pool holds.  Every request ends, and as it would alone. */
static void under_pressure(const char *device, int n_chunk, int n_pool_page, int no_reuse)
{
	enum { N = 24, N_SEQ = 8, CTX = 320 };
	static struct ask a[N];
	tiny_threads = 1;
	moxie_model *m = tiny_kv(device, n_chunk, N_SEQ, (uint64_t)n_pool_page * KV_PAGE), *roomy = tiny(device, n_chunk, 1);
	moxie_engine *e = engine(m, CTX, 0, no_reuse);
	int n_page = 0;
	for (int i = 0; i < N; i++) {
		int n = 1 + rnd_int(i % 3 ? 60 : 200), n_out = i % 5 ? CTX - n < 230 - i ? CTX - n : 230 - i : 1 + rnd_int(100);
		ask_init(&a[i], e, n, n_out);
		if (i % 4 == 1 && n > 70)
			memcpy(a[i].ids, a[i - 1].ids, 70 * sizeof *a[i].ids);
		if (i % 3 == 1)
			a[i].req.p.sampling = (struct moxie_sampling){ .temperature = 1, .frequency_penalty = 0.3f, .repetition_penalty = 1.1f,
				.seed = rnd_u64() };
		n_page += (n + n_out + KV_PAGE - 1) / KV_PAGE;
		submit(&a[i]);
	}
	for (int i = 0; i < N; i++)
		wait_for(&a[i].n_finish, 1);
	struct moxie_engine_stats st = stats(e);
	pages_are_all_there(e);
	moxie_engine_free(e);
	CHECK(st.n_finished == N && !st.n_failed, "%llu finished", (unsigned long long)st.n_finished);
	CHECK(st.n_preempted > 0, "nobody gave way");
	for (int i = 0; i < N; i++) {
		char what[64];
		snprintf(what, sizeof what, "request %d of %zu + %zu tokens", i, a[i].n, a[i].res.n_out);
		same_as_alone(&a[i], roomy, CTX, what);
	}
	printf("    %s, chunk %d: %d pages wanted, %d there, %llu preempted, %llu tokens evicted\n", m->kern->name, n_chunk, n_page, n_pool_page,
	       (unsigned long long)st.n_preempted, (unsigned long long)st.evicted_tokens);
	moxie_model_free(roomy);
	moxie_model_free(m);
}

TEST(sched_pressure) { under_pressure("cpu", 64, 9, 0); }
TEST(sched_pressure_avx2) { under_pressure("cpu:avx2", 64, 9, 0); }
TEST(sched_pressure_small_chunks) { under_pressure("cpu", 7, 9, 0); }
TEST(sched_pressure_room_for_one) { under_pressure("cpu", 128, 5, 0); }
TEST(sched_pressure_without_cache) { under_pressure("cpu", 64, 9, 1); }

/* Cancelled queued, preempted, while reading its prompt or answering: its pages are back two steps later. */
TEST(sched_cancel_gives_pages_back)
{
	enum { N = 6 };
	static struct ask a[N];
	for (int round = 0; round < 12; round++) {
		moxie_model *m = tiny_kv("cpu", 16, 4, 8 * KV_PAGE);
		moxie_engine *e = engine(m, 500, 0, round % 2);
		for (int i = 0; i < N; i++) {
			ask_init(&a[i], e, 1 + rnd_int(300), 100);
			a[i].hold_us = 200;
			submit(&a[i]);
		}
		usleep((unsigned)rnd_int(20000));
		for (int i = 0; i < N; i++) {
			moxie_engine_cancel(e, a[i].id);
			uint64_t step = stats(e).n_steps;
			wait_for(&a[i].n_finish, 1);
			CHECK(a[i].end_step <= step + 2, "request %d took %llu steps to end", i, (unsigned long long)(a[i].end_step - step));
		}
		pages_are_all_there(e);
		moxie_engine_free(e);
		moxie_model_free(m);
	}
}

TEST(sched_submit_refuses)
{
	static struct ask a;
	moxie_model *m = tiny("cpu", 16, 1);
	moxie_engine *e, *none;
	struct moxie_engine_params bad[] = { { 0 }, { sizeof *bad, m->config.n_ctx + 1, 0, 0 }, { sizeof *bad, 0, -1, 0 } };
	for (size_t i = 0; i < 3; i++)
		CHECK(moxie_engine_create(&none, m, &bad[i], &err) == MOXIE_E_ARG && !none, "case %zu", i);
	OK(moxie_engine_create(&e, m, NULL, &err), err);
	moxie_engine_free(e);
	moxie_engine_free(NULL);
	e = engine(m, 64, 0, 0);
	struct { int n, max_tokens, want, id; float temperature; } c[] = { { 0, 4, MOXIE_E_ARG, 0, 0 }, { 65, 0, MOXIE_E_KV_FULL, 0, 0 },
		{ 60, 5, MOXIE_E_KV_FULL, 0, 0 }, { 10, INT32_MAX, MOXIE_E_KV_FULL, 0, 0 }, { 10, -1, MOXIE_E_ARG, 0, 0 },
		{ 10, 4, MOXIE_E_ARG, -1, 0 }, { 10, 4, MOXIE_E_ARG, m->config.n_vocab, 0 }, { 10, 4, MOXIE_E_ARG, 0, -1 } };
	for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
		ask_init(&a, e, c[i].n, c[i].max_tokens);
		a.ids[7] = c[i].id;
		a.req.p.sampling.temperature = c[i].temperature;
		int rc = moxie_engine_submit(e, &a.req, &a.id, &err);
		CHECK(rc == c[i].want && a.id == 0 && strlen(err.text) > 5, "case %zu: %d %s", i, rc, err.text);
	}
	ask_init(&a, e, 10, 4);
	a.req.struct_size = 8;
	CHECK(moxie_engine_submit(e, &a.req, NULL, &err) == MOXIE_E_ARG, "%s", err.text);
	ask_init(&a, e, 60, 4);
	submit(&a);
	wait_for(&a.n_finish, 1);
	CHECK(a.res.n_out == 4, "%zu", a.res.n_out);
	CHECK(stats(e).n_requests == 1, "refused requests are counted");
	moxie_engine_free(e);
	moxie_model_free(m);
}

/* ---- what goes wrong inside -------------------------------------------------------------------------------------------- */

TEST(sched_context_is_bounded_by_the_pool)
{
	static struct ask a;
	moxie_model *m = tiny_kv("cpu", 16, 4, 4 * KV_PAGE);
	moxie_engine *e;
	struct moxie_engine_params p = { sizeof p, 400, 0, 0 };
	CHECK(moxie_engine_create(&e, m, &p, &err) == MOXIE_E_NOMEM && !e && strstr(err.text, "400"), "%s", err.text);
	OK(moxie_engine_create(&e, m, NULL, &err), err);
	CHECK(e->n_ctx == 4 * KV_PAGE, "%d", e->n_ctx);
	ask_init(&a, e, 200, 4 * KV_PAGE - 199);
	CHECK(moxie_engine_submit(e, &a.req, &a.id, &err) == MOXIE_E_KV_FULL, "%s", err.text);
	ask_init(&a, e, 200, 4 * KV_PAGE - 200);
	submit(&a);
	wait_for(&a.n_finish, 1);
	CHECK(a.status == 0 && a.n_out == 4 * KV_PAGE - 200, "%d tokens", a.n_out);
	moxie_engine_free(e);
	moxie_model_free(m);
}

/* Pages that somebody else holds: a request that finds none ends with an error, and the next one finds them. */
TEST(sched_pool_held_by_others)
{
	static struct ask a[2];
	moxie_model *m = tiny_kv("cpu", 16, 2, 4 * KV_PAGE);
	moxie_engine *e = engine(m, 0, 0, 0);
	moxie_session *s;
	int32_t ids[150] = { 0 };
	OK(moxie_session_create(&s, m, NULL, &err), err);
	OK(moxie_session_append(s, ids, 150, &err), err);
	for (int i = 0; i < 2; i++) {
		ask_init(&a[i], e, 50, 100);
		submit(&a[i]);
		wait_for(&a[i].n_finish, 1);
		if (i == 0)
			moxie_session_free(s);
	}
	CHECK(a[0].status == MOXIE_E_NOMEM && a[0].n_out == 15, "status %d after %d tokens", a[0].status, a[0].n_out);
	CHECK(a[1].status == 0 && a[1].n_out == 100, "status %d", a[1].status);
	pages_are_all_there(e);
	moxie_engine_free(e);
	moxie_model_free(m);
}

TEST(sched_failed_step_fails_its_requests)
{
	static struct ask a[2];
	moxie_model *m = tiny("cpu", 16, 2);
	moxie_engine *e = engine(m, 400, 0, 0);
	size_t cap = m->ws.cap;
	for (int i = 0; i < 2; i++) {
		m->ws.cap = i ? cap : 64; /* no step is under way */
		ask_init(&a[i], e, 20, 30);
		submit(&a[i]);
		wait_for(&a[i].n_finish, 1);
	}
	CHECK(a[0].status == MOXIE_E_NOMEM && a[0].res.finish == MOXIE_FINISH_NONE && a[0].n_out == 0, "status %d", a[0].status);
	CHECK(a[1].status == 0 && a[1].n_out == 30, "status %d", a[1].status);
	CHECK(stats(e).n_failed == 1 && stats(e).n_finished == 1, "counts");
	moxie_engine_free(e);
	moxie_model_free(m);
}

static int device_fails(struct kern *k, struct moxie_err *e)
{
	(void)k;
	return err_set(e, MOXIE_E_DEVICE, "the device is gone");
}

TEST(sched_failed_device_fails_all)
{
	static struct ask a[5];
	moxie_model *m = tiny("cpu", 16, 2);
	moxie_engine *e = engine(m, 400, 0, 0);
	m->kern->sync = device_fails;
	for (int i = 0; i < 5; i++) {
		ask_init(&a[i], e, 200, 30);
		int rc = moxie_engine_submit(e, &a[i].req, &a[i].id, &err); /* the first may have failed by now */
		CHECK(rc == 0 || (rc == MOXIE_E_DEVICE && i), "%d %s", rc, err.text);
	}
	for (int i = 0; i < 5; i++)
		if (a[i].id) {
			wait_for(&a[i].n_finish, 1);
			CHECK(a[i].status == MOXIE_E_DEVICE, "status %d", a[i].status);
		}
	CHECK(moxie_engine_submit(e, &a[0].req, NULL, &err) == MOXIE_E_DEVICE && strstr(err.text, "is gone"), "%s", err.text);
	struct moxie_engine_stats st = stats(e);
	CHECK(st.n_failed == st.n_requests && !st.n_running && !st.n_queued, "%llu failed", (unsigned long long)st.n_failed);
	moxie_engine_free(e);
	for (int i = 0; i < 5; i++)
		CHECK(a[i].n_finish == (a[i].id != 0), "request %d: %d ends", i, a[i].n_finish);
	moxie_model_free(m);
}

/* ---- what the scheduler itself costs ----------------------------------------------------------------------------------------- */

static void no_embed(struct kern *k, const struct embed_args *a) { (void)k, (void)a; }
static void no_rmsnorm(struct kern *k, const struct rmsnorm_args *a) { (void)k, (void)a; }
static void no_gemm(struct kern *k, const struct gemm_args *a) { (void)k, (void)a; }
static void no_rope(struct kern *k, const struct rope_args *a) { (void)k, (void)a; }
static void no_qkv(struct kern *k, const struct qkv_args *a) { (void)k, (void)a; }
static void no_attn(struct kern *k, const struct attn_args *a) { (void)k, (void)a; }
static void no_route(struct kern *k, const struct route_args *a) { (void)k, (void)a; }
static void no_gate_up(struct kern *k, const struct moe_gate_up_args *a) { (void)k, (void)a; }
static void no_down(struct kern *k, const struct moe_down_args *a) { (void)k, (void)a; }

/* The shipped model's shape over ops that do nothing: what is left is scheduling, sampling and text.  Seconds of this process. */
TEST(sched_overhead)
{
	enum { N = 64, N_OUT = 250 };
	static struct ask a[N];
	moxie_model *m;
	struct moxie_model_params mp = { .struct_size = sizeof mp, .path = "models/wordmath", .n_seq = 16, .n_thread = 1 };
	OK(moxie_model_open(&m, &mp, &err), err);
	struct kern *k = m->kern;
	k->embed = no_embed, k->rmsnorm = no_rmsnorm, k->gemm = no_gemm, k->rope = no_rope, k->qkv = no_qkv, k->attn = no_attn;
	k->route = no_route, k->moe_gate_up = no_gate_up, k->moe_down = no_down;
	moxie_engine *e = engine(m, 1024, 0, 0);
	clock_t start = clock();
	for (int i = 0; i < N; i++) {
		ask_init(&a[i], e, 300, N_OUT);
		a[i].req.p.raw = 1;
		submit(&a[i]);
	}
	for (int i = 0; i < N; i++)
		wait_for(&a[i].n_finish, 1);
	double seconds = (double)(clock() - start) / CLOCKS_PER_SEC, rate = N * (300 + N_OUT) / seconds;
	printf("    %.0f tokens a second (%.0f generated), 16 at a time\n", rate, N * N_OUT / seconds);
	CHECK(rate > 2000, "%g tokens a second", rate); /* slack for sanitizers; docs/serving.md has a quiet machine's */
	moxie_engine_free(e);
	moxie_model_free(m);
}

/* ---- everything at once ------------------------------------------------------------------------------------------------ */

#define N_THREAD 4
#define N_EACH 1500
static struct ask *all[N_THREAD];
static atomic_bool time_is_up;

static void *client(void *arg)
{
	struct ask *a = arg;
	uint64_t x = (uint64_t)(uintptr_t)a | 1;
	for (int i = 0; i < N_EACH && !time_is_up; i++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		unsigned r = (unsigned)(x >> 33);
		while (moxie_engine_submit(a[i].e, &a[i].req, &a[i].id, NULL) == MOXIE_E_TOO_SMALL && !time_is_up)
			usleep(500);
		if (r % 3)
			moxie_engine_cancel(a[i].e, a[r / 3 % (unsigned)(i + 1)].id);
		if (r % 16 == 0)
			usleep(r / 16 % 2000);
		struct moxie_engine_stats st = { .struct_size = sizeof st };
		moxie_engine_get_stats(a[i].e, &st);
	}
	return NULL;
}

TEST(sched_ends_once_under_random_cancels)
{
	moxie_model *m = tiny_kv("cpu", 16, 5, 6 * KV_PAGE);
	moxie_engine *e = engine(m, 200, 40, 0);
	pthread_t t[N_THREAD];
	time_is_up = false;
	for (int i = 0; i < N_THREAD; i++) {
		all[i] = malloc(N_EACH * sizeof *all[i]);
		for (int j = 0; j < N_EACH; j++) {
			ask_init(&all[i][j], e, 1 + rnd_int(j % 4 ? 8 : 100), 1 + rnd_int(40));
			all[i][j].ids[0] = rnd_int(3);
		}
	}
	for (int i = 0; i < N_THREAD; i++)
		pthread_create(&t[i], NULL, client, all[i]);
	usleep(2500000);
	time_is_up = true;
	for (int i = 0; i < N_THREAD; i++)
		pthread_join(t[i], NULL);
	struct moxie_engine_stats st;
	while (st = stats(e), st.n_running || st.n_queued)
		usleep(1000);
	pages_are_all_there(e);
	moxie_engine_free(e);
	int n_accepted = 0, n_cancelled = 0;
	for (int i = 0; i < N_THREAD; i++) {
		for (int j = 0; j < N_EACH; j++) {
			struct ask *a = &all[i][j];
			n_accepted += a->id != 0;
			n_cancelled += a->n_finish && a->res.finish == MOXIE_FINISH_CANCEL;
			CHECK(a->n_finish == (a->id != 0) && a->n_late == 0 && a->status == 0, "%d ends, %d late, status %d", a->n_finish, a->n_late, a->status);
			CHECK(!a->id || a->res.finish == MOXIE_FINISH_CANCEL || a->n_out == a->req.p.max_tokens, "%d tokens", a->n_out);
		}
		free(all[i]);
	}
	printf("    %d requests, %d cancelled, %llu steps\n", n_accepted, n_cancelled, (unsigned long long)st.n_steps);
	CHECK(m->kv.full.n_free == m->kv.full.n_page, "pages are missing");
	moxie_model_free(m);
}

/* ---- text -------------------------------------------------------------------------------------------------------------- */

TEST(sched_text)
{
	static const struct { const char *question, *stop, *want; } c[] = { { "What is 17 + 25?", NULL, "42" }, { "What is 9 * 8?", NULL, "72" },
		{ "What is 17 + 25?", "4", NULL }, { "What is 100 - 58?", NULL, "42" }, { "What is 7 + 6?", NULL, "13" } };
	enum { N = sizeof c / sizeof *c };
	static struct ask a[N];
	moxie_model *m;
	struct moxie_model_params mp = { .struct_size = sizeof mp, .path = "models/wordmath", .n_seq = 3 };
	OK(moxie_model_open(&m, &mp, &err), err);
	moxie_engine *e = engine(m, 1024, 0, 0);
	for (int i = 0; i < N; i++) {
		ask_init(&a[i], e, 0, 300);
		struct moxie_message msg = { .role = MOXIE_ROLE_USER, .content = c[i].question };
		OK(moxie_chat_render(m, NULL, &msg, 1, a[i].ids, 600, &a[i].n, &err), err);
		a[i].req.n = a[i].n;
		a[i].req.p.ignore_eos = 0;
		char stop[8] = "", *stops[1] = { stop }; /* gone when submit returns */
		if (c[i].stop) {
			strcpy(stop, c[i].stop);
			a[i].req.p.stop = (const char *const *)stops;
			a[i].req.p.n_stop = 1;
		}
		submit(&a[i]);
		memset(stop, 'x', sizeof stop - 1);
		a[i].req.p.stop = NULL;
	}
	for (int i = 0; i < N; i++) {
		wait_for(&a[i].n_finish, 1);
		CHECK(a[i].status == 0 && a[i].res.finish == (c[i].stop ? MOXIE_FINISH_STOP : MOXIE_FINISH_EOS), "%s: finish %d", c[i].question,
		      a[i].res.finish);
		CHECK(c[i].stop ? !strstr(a[i].text, c[i].stop) : !!strstr(a[i].text, c[i].want), "%s: %s", c[i].question, a[i].text);
	}
	printf("    %s %.0f tok/s\n", m->kern->name, stats(e).decode_tokens_per_second);
	moxie_engine_free(e);
	moxie_model_free(m);
}

TEST_MAIN
