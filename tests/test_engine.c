/* test_engine.c - sampling, KV pages and rings, sessions, batching, answers.
 *
 * Models come from the built-in tiny config with random weights, so nothing is read from disk unless a test says so.
 */
#include <pthread.h>
#include <unistd.h>

#include "engine/engine.h"
#include "tiny.h"

static moxie_session *session(moxie_model *m, int n_ctx)
{
	moxie_session *s;
	OK(moxie_session_create(&s, m, &(struct moxie_session_params){ sizeof(struct moxie_session_params), n_ctx }, &err), err);
	return s;
}

static void random_ids(int32_t *ids, int n, int n_vocab)
{
	for (int i = 0; i < n; i++)
		ids[i] = rnd_int(n_vocab);
}

/* ---- sampler ---------------------------------------------------------------------------------------------------- */

static int32_t pick(const struct moxie_sampling *sp, const float *l, int n, const int32_t *history, size_t n_history, size_t n_out)
{
	struct sampler s;
	CHECK(sampler_init(&s, n), "no memory");
	int32_t id = sampler_pick(&s, sp, l, n, history, n_history, n_out);
	sampler_free(&s);
	return id;
}

TEST(sampler_greedy_ties_and_nan)
{
	float l[5] = { 1, 3, NAN, 3, -INFINITY };
	struct moxie_sampling sp = { 0 };
	CHECK(pick(&sp, l, 5, NULL, 0, 0) == 1, "ties go to the lowest id");
	float all_nan[3] = { NAN, NAN, NAN };
	CHECK(pick(&sp, all_nan, 3, NULL, 0, 0) == 0, "all NaN: 0");
	sp.temperature = 1;
	for (int seed = 0; seed < 100; seed++) {
		sp.seed = (uint64_t)seed;
		int32_t id = pick(&sp, l, 5, NULL, 0, 0);
		CHECK(id != 2 && id != 4, "picked %d", id);
	}
}

/* Draws many times and compares with the distribution written down independently: sort, cut, renormalise. */
static void check_distribution(struct moxie_sampling sp)
{
	enum { N = 50, DRAWS = 40000 };
	float l[N];
	double p[N], sum = 0;
	int order[N], n_got[N] = { 0 }, n = N;
	for (int i = 0; i < N; i++)
		l[i] = 2 * rnd_normal(), order[i] = i;
	for (int i = 0; i < N; i++)
		for (int j = i + 1; j < N; j++)
			if (l[order[j]] > l[order[i]]) {
				int t = order[i];
				order[i] = order[j], order[j] = t;
			}
	for (int i = 0; i < N; i++)
		sum += p[i] = exp((double)l[order[i]] / (double)sp.temperature);
	if (sp.top_k)
		n = sp.top_k;
	sum = 0;
	for (int i = 0; i < n; i++)
		sum += p[i];
	double mass = 0;
	int n_p = n;
	if (sp.top_p > 0 && sp.top_p < 1)
		for (n_p = 0; n_p < n && mass < (double)sp.top_p * sum; n_p++)
			mass += p[n_p];
	n = n_p;
	while (n > 1 && p[n - 1] < (double)sp.min_p * p[0])
		n--;
	sum = 0;
	for (int i = 0; i < n; i++)
		sum += p[i];
	struct sampler s;
	CHECK(sampler_init(&s, N), "no memory");
	int32_t history[DRAWS];
	for (int i = 0; i < DRAWS; i++) {
		history[i] = 0;
		n_got[sampler_pick(&s, &sp, l, N, history, (size_t)i, 0)]++;
	}
	sampler_free(&s);
	for (int i = 0; i < N; i++) {
		double want = i < n ? p[i] / sum : 0, got = (double)n_got[order[i]] / DRAWS;
		NEAR(got, want, 5 * sqrt(want * (1 - want) / DRAWS) + (i < n ? 1e-4 : 0));
	}
}

TEST(sampler_temperature) { check_distribution((struct moxie_sampling){ .temperature = 0.7f, .seed = rnd_u64() }); }
TEST(sampler_top_k) { check_distribution((struct moxie_sampling){ .temperature = 1.3f, .top_k = 7, .seed = rnd_u64() }); }
TEST(sampler_top_p) { check_distribution((struct moxie_sampling){ .temperature = 1, .top_p = 0.8f, .seed = rnd_u64() }); }
TEST(sampler_min_p) { check_distribution((struct moxie_sampling){ .temperature = 1, .min_p = 0.05f, .seed = rnd_u64() }); }
TEST(sampler_all_cuts)
{
	check_distribution((struct moxie_sampling){ .temperature = 0.9f, .top_k = 20, .top_p = 0.9f, .min_p = 0.02f, .seed = rnd_u64() });
}

TEST(sampler_penalties)
{
	float l[4] = { 2, 1.9f, -1, 0 };
	int32_t history[3] = { 0, 0, 2 };
	struct moxie_sampling rep = { .repetition_penalty = 2 };
	CHECK(pick(&rep, l, 4, history, 3, 0) == 1, "2 / 2 is below 1.9");
	struct moxie_sampling presence = { .presence_penalty = 0.5f };
	CHECK(pick(&presence, l, 4, history, 3, 0) == 0, "prompt tokens are not penalised");
	CHECK(pick(&presence, l, 4, history, 3, 3) == 1, "generated ones are");
	struct moxie_sampling frequency = { .frequency_penalty = 0.06f };
	CHECK(pick(&frequency, l, 4, history, 3, 3) == 1, "two times 0.06 puts 2 below 1.9");
	CHECK(pick(&frequency, l, 4, history + 1, 2, 2) == 0, "once does not");
}

TEST(sampler_rules)
{
	float l[4] = { 3, 2, 1, NAN };
	struct moxie_sampling sp = { 0 };
	struct sampler s;
	CHECK(sampler_init(&s, 4), "no memory");
	uint32_t none = 0, last_two = 12, only_nan = 8;
	struct moxie_bias up = { 2, 2.5f };
	const int32_t ends[] = { 0, 1 };
	const struct { const char *what; struct sampler_rule r; int32_t want; } cases[] = {
		{ "no rule", { 0 }, 0 },
		{ "a bias lifts", { .bias = &up, .n_bias = 1 }, 2 },
		{ "only what is allowed", { .allow = &last_two }, 2 },
		{ "allowed, though NaN", { .allow = &only_nan }, 3 },
		{ "nothing is allowed", { .allow = &none }, -1 },
		{ "banned ones are passed over", { .ban = ends, .n_ban = 2 }, 2 },
		{ "unless nothing else is left", { .ban = ends, .n_ban = 2, .allow = &(uint32_t){ 2 } }, 1 },
	};
	for (int hot = 0; hot < 2; hot++)
		for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
			for (sp.seed = 0; sp.seed < 50; sp.seed++) {
				sp.temperature = hot ? 1e-3f : 0;
				int32_t id = sampler_pick_ruled(&s, &sp, &cases[i].r, l, 4, NULL, 0, 0);
				CHECK(id == cases[i].want, "%s: %d, wanted %d", cases[i].what, id, cases[i].want);
			}
	sp.temperature = 50;
	for (sp.seed = 0; sp.seed < 200; sp.seed++) { /* however hot, never what the rule leaves out */
		int32_t id = sampler_pick_ruled(&s, &sp, &(struct sampler_rule){ .allow = &last_two }, l, 4, NULL, 0, 0);
		CHECK(id == 2, "picked %d", id);
	}
	sampler_free(&s);
}

TEST(sampler_logprobs_match)
{
	enum { N = 300 };
	float l[N];
	double sum = 0;
	struct moxie_logprobs p;
	for (int i = 0; i < N; i++)
		l[i] = roundf(4 * rnd_normal()) / 2; /* coarse: many ties */
	l[7] = NAN, l[9] = -INFINITY;
	for (int i = 0; i < N; i++)
		sum += isnan(l[i]) ? 0 : exp((double)l[i]);
	for (int n_top = 0; n_top <= MOXIE_MAX_TOP; n_top++) {
		int id = rnd_int(5);
		sampler_logprobs(l, N, id, n_top, &p);
		CHECK(p.n_top == n_top && p.token.id == id, "%d likeliest", p.n_top);
		NEAR(p.token.logprob, (double)l[id] - log(sum), 1e-6);
		for (int k = 0; k < n_top; k++) {
			int better = 0; /* tokens before this one: its place */
			for (int i = 0; i < N; i++)
				better += l[i] > l[p.top[k].id] || (l[i] == l[p.top[k].id] && i < p.top[k].id);
			CHECK(better == k, "token %d is number %d, not %d", p.top[k].id, better, k);
			NEAR(p.top[k].logprob, (double)l[p.top[k].id] - log(sum), 1e-6);
		}
	}
	float none[2] = { NAN, -INFINITY };
	sampler_logprobs(none, 2, 0, 2, &p);
	CHECK(p.token.logprob == 0 && p.top[0].logprob == -INFINITY, "no distribution: %g", (double)p.token.logprob);
}

TEST(sampler_refuses_impossible_values)
{
	struct moxie_sampling bad[] = { { .temperature = -1 }, { .temperature = NAN }, { .temperature = INFINITY }, { .top_p = 1.5f },
		{ .top_p = -0.1f }, { .min_p = 2 }, { .top_k = -1 }, { .repetition_penalty = -1 }, { .presence_penalty = 3 },
		{ .frequency_penalty = NAN } };
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		err.text[0] = 0;
		int rc = moxie_sampling_check(&bad[i], &err);
		CHECK(rc == MOXIE_E_ARG && strstr(err.text, "wanted"), "case %zu: %d %s", i, rc, err.text);
	}
}

/* ---- sessions --------------------------------------------------------------------------------------------------- */

/* The same prompt through chunks of every size gives the same logits, within the rounding of other kernels. */
TEST(session_chunks_agree)
{
	int32_t ids[300];
	float *want = NULL;
	for (int chunk = 512; chunk >= 1; chunk = chunk == 512 ? 64 : chunk == 64 ? 17 : chunk == 17 ? 1 : 0) {
		moxie_model *m = tiny("cpu:ref", chunk, 1);
		size_t n_bytes = (size_t)m->config.n_vocab * sizeof(float);
		if (!want)
			random_ids(ids, 300, m->config.n_vocab);
		moxie_session *s = session(m, 512);
		OK(moxie_session_append(s, ids, 300, &err), err);
		const float *l = moxie_session_logits(s);
		if (!want)
			want = memcpy(malloc(n_bytes), l, n_bytes);
		for (int i = 0; i < m->config.n_vocab; i++)
			NEAR(l[i], want[i], 1e-4 * (1 + fabs((double)want[i])));
		moxie_session_free(s);
		moxie_model_free(m);
	}
	free(want);
}

TEST(session_rewind_continues_exactly)
{
	moxie_model *m = tiny("cpu", 32, 1);
	int n_vocab = m->config.n_vocab;
	size_t n_bytes = (size_t)n_vocab * sizeof(float);
	int32_t ids[200];
	random_ids(ids, 200, n_vocab);
	moxie_session *fresh = session(m, 256), *s = session(m, 256);
	for (int back = 0; back <= 64; back += 16) {
		int n = 150;
		CHECK(moxie_session_rewind(fresh, 0) == 0, "to the start");
		OK(moxie_session_append(fresh, ids, (size_t)n, &err), err);
		for (int i = n; i < n + 8; i++)
			OK(moxie_session_append(fresh, ids + i, 1, &err), err);

		moxie_session_rewind(s, 0);
		OK(moxie_session_append(s, ids, (size_t)n, &err), err);
		for (int i = 0; i < back; i++) /* goes astray */
			OK(moxie_session_append(s, ids + rnd_int(200), 1, &err), err);
		size_t kept = moxie_session_rewind(s, (size_t)n);
		CHECK(kept == (size_t)n || kept == 0, "kept %zu of %d", kept, n);
		if (back <= 16) /* window 128 is wider than the tiny ring's slack beyond that */
			CHECK(kept == (size_t)n, "going back %d must work", back);
		if (kept == 0)
			OK(moxie_session_append(s, ids, (size_t)n, &err), err);
		for (int i = n; i < n + 8; i++)
			OK(moxie_session_append(s, ids + i, 1, &err), err);
		CHECK(!memcmp(moxie_session_logits(s), moxie_session_logits(fresh), n_bytes), "back %d: logits differ", back);
	}
	moxie_session_free(s);
	moxie_session_free(fresh);
	moxie_model_free(m);
}

TEST(session_batch_equals_alone)
{
	enum { N = 5, STEPS = 40 };
	moxie_model *m = tiny("cpu", 64, N);
	size_t n_bytes = (size_t)m->config.n_vocab * sizeof(float);
	int32_t ids[N][200];
	moxie_session *s[N], *alone = session(m, 256);
	for (int i = 0; i < N; i++) {
		random_ids(ids[i], 200, m->config.n_vocab);
		s[i] = session(m, 256);
		OK(moxie_session_append(s[i], ids[i], (size_t)(1 + 29 * i), &err), err);
	}
	for (int t = 0; t < STEPS; t++) {
		int32_t next[N];
		for (int i = 0; i < N; i++)
			next[i] = ids[i][1 + 29 * i + t];
		OK(moxie_step(s, next, N, &err), err);
	}
	double worst = 0;
	for (int i = 0; i < N; i++) {
		moxie_session_rewind(alone, 0);
		OK(moxie_session_append(alone, ids[i], (size_t)(1 + 29 * i), &err), err);
		for (int t = 0; t < STEPS; t++)
			OK(moxie_session_append(alone, ids[i] + 1 + 29 * i + t, 1, &err), err);
		const float *a = moxie_session_logits(alone), *b = moxie_session_logits(s[i]);
		for (size_t v = 0; v < n_bytes / sizeof *a; v++)
			worst = fmax(worst, fabs((double)a[v] - (double)b[v]) / (1 + fabs((double)a[v])));
	}
	printf("    %s: largest difference between a batch of %d and alone %.2e\n", m->kern->name, N, worst);
	NEAR(worst, 0, 2e-2);
	for (int i = 0; i < N; i++)
		moxie_session_free(s[i]);
	moxie_session_free(alone);
	moxie_model_free(m);
}

TEST(session_same_bits_every_run_and_thread_count)
{
	float *want = NULL;
	for (int n_thread = 1; n_thread <= 3; n_thread++) {
		moxie_model *m;
		struct moxie_model_params p = { .struct_size = sizeof p, .path = "gpt-oss-tiny", .dummy = 1, .dummy_seed = 3, .n_thread = n_thread };
		OK(moxie_model_open(&m, &p, &err), err);
		size_t n_bytes = (size_t)m->config.n_vocab * sizeof(float);
		int32_t ids[100];
		for (int i = 0; i < 100; i++)
			ids[i] = (i * 37 + 11) % m->config.n_vocab;
		moxie_session *s = session(m, 256);
		OK(moxie_session_append(s, ids, 97, &err), err);
		for (int i = 97; i < 100; i++)
			OK(moxie_session_append(s, ids + i, 1, &err), err);
		if (!want)
			want = memcpy(malloc(n_bytes), moxie_session_logits(s), n_bytes);
		CHECK(!memcmp(want, moxie_session_logits(s), n_bytes), "%d threads give other bits", n_thread);
		moxie_session_free(s);
		moxie_model_free(m);
	}
	free(want);
}

TEST(session_errors_consume_nothing)
{
	moxie_model *m = tiny("cpu", 16, 1);
	moxie_session *s = session(m, 40), *none;
	int32_t ids[64] = { 0 };
	OK(moxie_session_append(s, ids, 30, &err), err);
	CHECK(moxie_session_append(s, ids, 11, &err) == MOXIE_E_KV_FULL, "%s", err.text);
	CHECK(moxie_session_n_tok(s) == 30, "%zu", moxie_session_n_tok(s));
	ids[3] = m->config.n_vocab;
	CHECK(moxie_session_append(s, ids, 5, &err) == MOXIE_E_ARG, "%s", err.text);
	ids[3] = -1;
	CHECK(moxie_session_append(s, ids, 5, &err) == MOXIE_E_ARG, "%s", err.text);
	CHECK(moxie_session_n_tok(s) == 30, "%zu", moxie_session_n_tok(s));
	ids[3] = 0;
	OK(moxie_session_append(s, ids, 10, &err), err);
	CHECK(moxie_session_create(&none, m, &(struct moxie_session_params){ sizeof(struct moxie_session_params), m->config.n_ctx + 1 }, &err) ==
	      MOXIE_E_ARG && !none, "%s", err.text);
	moxie_session *twice[2] = { s, s };
	CHECK(moxie_step(twice, ids, 2, &err) == MOXIE_E_ARG, "%s", err.text);
	moxie_session_free(s);
	moxie_model_free(m);
}

TEST(session_pages_come_as_it_grows)
{
	moxie_model *m = tiny("cpu", 16, 1);
	int n_full = m->kv.full.n_free, n_ring = m->kv.ring.n_free, ring_pages = m->kv.plan.ring_pages;
	int32_t ids[520] = { 0 };
	moxie_session *s[8];
	CHECK(ring_pages == 2, "window 32, chunk 16: 47 positions lie in %d pages", ring_pages);
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 8; i++)
			s[i] = session(m, 520);
		CHECK(m->kv.full.n_free == n_full && m->kv.ring.n_free == n_ring, "an empty session takes %d pages", n_full - m->kv.full.n_free);
		for (int i = 0; i < 8; i++)
			OK(moxie_session_append(s[i], ids, (size_t)(64 * (i + 1)), &err), err);
		CHECK(m->kv.full.n_free == n_full - 36 && m->kv.ring.n_free == n_ring - 15, "%d and %d pages taken", n_full - m->kv.full.n_free,
		      n_ring - m->kv.ring.n_free);
		OK(moxie_session_append(s[7], ids, 1, &err), err);
		CHECK(m->kv.full.n_free == n_full - 37, "one token more takes %d pages", n_full - 36 - m->kv.full.n_free);
		for (int i = 0; i < 8; i++)
			moxie_session_free(s[(i * 3) % 8]);
		CHECK(m->kv.full.n_free == n_full && m->kv.ring.n_free == n_ring, "%d %d", m->kv.full.n_free, m->kv.ring.n_free);
	}
	moxie_model_free(m);
}

/* The pool is as large as asked for; who finds no page consumes nothing, and goes on when another has left. */
TEST(session_pages_run_out)
{
	moxie_model *m = tiny_kv("cpu", 16, 1, 4 * KV_PAGE);
	int32_t ids[300];
	moxie_session *a = session(m, 0), *b = session(m, 200), *none;
	random_ids(ids, 300, m->config.n_vocab);
	CHECK(m->kv.full.n_page == 4 && a->n_ctx == 4 * KV_PAGE, "%d pages, a context of %d", m->kv.full.n_page, a->n_ctx);
	struct moxie_session_params sp = { sizeof sp, 4 * KV_PAGE + 1 };
	CHECK(moxie_session_create(&none, m, &sp, &err) == MOXIE_E_NOMEM && !none, "%s", err.text);
	OK(moxie_session_append(a, ids, 2 * KV_PAGE + 1, &err), err);
	OK(moxie_session_append(b, ids, KV_PAGE, &err), err);
	for (int i = 0; i < 3; i++)
		CHECK(moxie_session_append(b, ids + KV_PAGE, 1, &err) == MOXIE_E_KV_FULL && moxie_session_n_tok(b) == KV_PAGE, "%s", err.text);
	moxie_session_free(a);
	OK(moxie_session_append(b, ids + KV_PAGE, 100, &err), err);
	moxie_session *fresh = session(m, 0);
	moxie_session_free(b);
	OK(moxie_session_append(fresh, ids, KV_PAGE + 100, &err), err);
	CHECK(fresh->has_logits && m->kv.full.n_free == 1, "%d pages are free", m->kv.full.n_free);
	moxie_session_free(fresh);
	moxie_model_free(m);
}

/* A prompt's rows have their kind from their place in it, so chunks of any size give the same bits, and so does a token that is
 * generated alone or beside others: on every kernel. */
static void chunks_keep_bits(const char *device)
{
	enum { N = 200, N_OUT = 5 };
	static const int chunk[] = { 512, 64, 17, 7, 1 };
	float *want = NULL;
	int32_t ids[N + N_OUT];
	size_t n_bytes = 0;
	for (size_t c = 0; c < sizeof chunk / sizeof *chunk; c++) {
		moxie_model *m = tiny(device, chunk[c], 1);
		n_bytes = (size_t)m->config.n_vocab * sizeof(float);
		if (!want)
			random_ids(ids, N + N_OUT, m->config.n_vocab);
		moxie_session *s = session(m, 512);
		OK(moxie_session_append(s, ids, N, &err), err);
		for (int i = 0; i < N_OUT; i++)
			OK(moxie_session_append(s, ids + N + i, 1, &err), err);
		if (!want)
			want = memcpy(malloc(n_bytes), moxie_session_logits(s), n_bytes);
		CHECK(!memcmp(want, moxie_session_logits(s), n_bytes), "%s: chunks of %d give other bits", m->kern->name, chunk[c]);
		moxie_session_free(s);
		moxie_model_free(m);
	}
	free(want);
}

TEST(session_chunks_keep_bits_ref) { chunks_keep_bits("cpu:ref"); }
TEST(session_chunks_keep_bits_avx2) { chunks_keep_bits("cpu:avx2"); }
TEST(session_chunks_keep_bits_avx512) { chunks_keep_bits("cpu:avx512"); }
TEST(session_chunks_keep_bits_amx) { chunks_keep_bits("cpu:amx"); }

static void *cancel_soon(void *s)
{
	usleep(20000);
	moxie_session_cancel(s);
	return NULL;
}

TEST(session_cancel_stops_and_recovers)
{
	moxie_model *m = tiny("cpu:ref", 64, 1);
	int n = m->config.n_ctx < 4096 ? m->config.n_ctx : 4096;
	int32_t *ids = malloc((size_t)n * sizeof *ids);
	random_ids(ids, n, m->config.n_vocab);
	moxie_session *s = session(m, n);
	moxie_session_cancel(s);
	CHECK(moxie_session_append(s, ids, 10, &err) == MOXIE_E_CANCELLED, "a cancel before the call counts");
	pthread_t t;
	CHECK(pthread_create(&t, NULL, cancel_soon, s) == 0, "thread");
	int rc = moxie_session_append(s, ids, (size_t)n, &err);
	pthread_join(t, NULL);
	CHECK(rc == MOXIE_E_CANCELLED || rc == 0, "%d %s", rc, err.text);
	CHECK(moxie_session_n_tok(s) % 64 == 0, "%zu tokens is not a whole number of chunks", moxie_session_n_tok(s));
	moxie_session_rewind(s, 0);
	if (rc == 0) /* it was too late: the flag is still up */
		CHECK(moxie_session_append(s, ids, 1, &err) == MOXIE_E_CANCELLED, "flag");
	OK(moxie_session_append(s, ids, 10, &err), err);
	free(ids);
	moxie_session_free(s);
	moxie_model_free(m);
}

struct caller {
	moxie_session *s;
	int32_t ids[64];
	float *logits;
	int rc;
};

static void *run_caller(void *arg)
{
	struct caller *c = arg;
	for (int i = 0; c->rc == 0 && i < 64; i += 4)
		c->rc = moxie_session_append(c->s, c->ids + i, 4, NULL);
	return NULL;
}

TEST(session_threads_share_a_model)
{
	enum { N = 4 };
	moxie_model *m = tiny("cpu", 16, 1);
	size_t n_bytes = (size_t)m->config.n_vocab * sizeof(float);
	struct caller c[N] = { 0 };
	pthread_t t[N];
	for (int i = 0; i < N; i++) {
		random_ids(c[i].ids, 64, m->config.n_vocab);
		c[i].s = session(m, 64);
		run_caller(&c[i]);
		CHECK(c[i].rc == 0, "%d", c[i].rc);
		c[i].logits = memcpy(malloc(n_bytes), moxie_session_logits(c[i].s), n_bytes);
		moxie_session_rewind(c[i].s, 0);
	}
	for (int i = 0; i < N; i++)
		CHECK(pthread_create(&t[i], NULL, run_caller, &c[i]) == 0, "thread");
	for (int i = 0; i < N; i++)
		pthread_join(t[i], NULL);
	for (int i = 0; i < N; i++) {
		CHECK(c[i].rc == 0 && !memcmp(c[i].logits, moxie_session_logits(c[i].s), n_bytes), "caller %d differs", i);
		free(c[i].logits);
		moxie_session_free(c[i].s);
	}
	moxie_model_free(m);
}

/* ---- models ------------------------------------------------------------------------------------------------------ */

TEST(model_open_refuses_bad_parameters)
{
	moxie_model *m = (moxie_model *)1;
	struct moxie_model_params good = { .struct_size = sizeof good, .path = "gpt-oss-tiny", .dummy = 1 }, p;
#define CHECK_RC(call, code) do { int rc_ = (call); CHECK(rc_ == (code) && !m, "%d: %s", rc_, err.text); m = (moxie_model *)1; } while (0)
	p = good, p.struct_size = 3;
	CHECK_RC(moxie_model_open(&m, &p, &err), MOXIE_E_ARG);
	p = good, p.path = "no-such-config";
	CHECK_RC(moxie_model_open(&m, &p, &err), MOXIE_E_IO);
	p = good, p.path = "no/such/dir", p.dummy = 0;
	CHECK_RC(moxie_model_open(&m, &p, &err), MOXIE_E_IO);
	p = good, p.device = "gpu";
	CHECK_RC(moxie_model_open(&m, &p, &err), MOXIE_E_UNSUPPORTED);
	p = good, p.n_chunk = -1;
	CHECK_RC(moxie_model_open(&m, &p, &err), MOXIE_E_ARG);
	p = good, p.n_thread = -5;
	CHECK_RC(moxie_model_open(&m, &p, &err), MOXIE_E_ARG);
	p = good, p.n_seq = 100000;
	CHECK_RC(moxie_model_open(&m, &p, &err), MOXIE_E_ARG);
}

TEST(model_inspect_plans_what_open_takes)
{
	struct moxie_model_params p = { .struct_size = sizeof p, .path = "gpt-oss-20b", .dummy = 1 };
	struct moxie_model_info info = { .struct_size = sizeof info };
	OK(moxie_inspect(&p, &info, NULL, NULL, &err), err);
	CHECK(info.weight_bytes == 13761264768u, "20B: %llu bytes, the published index says 13761264768", (unsigned long long)info.weight_bytes);
	CHECK(info.kv_token_bytes == 12 * 2048, "%llu", (unsigned long long)info.kv_token_bytes);
	NEAR((double)info.n_param, 20.9e9, 0.1e9);
	NEAR((double)info.token_bytes, 3708089088.0 + 5760, 2e5);
	p.path = "gpt-oss-120b";
	OK(moxie_inspect(&p, &info, NULL, NULL, &err), err);
	CHECK(info.weight_bytes == 65248815744u, "120B: %llu", (unsigned long long)info.weight_bytes);
}

TEST_MAIN
