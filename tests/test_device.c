/* test_device.c - the engine over a backend with memory of its own (tests/fake_device.c): the same bits as on the CPU, since the
 * fake's ops are the plain CPU ops.  What is proven is the engine: placing weights, inputs, pages, logits, recorded steps. */
#include <dlfcn.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine.h"
#include "tiny.h"

enum { VOCAB = 512 };

static void ids_of(int32_t *id, size_t n, uint32_t x)
{
	for (size_t i = 0; i < n; i++) {
		x = x * 1664525u + 1013904223u;
		id[i] = (int32_t)(x >> 8) % VOCAB;
	}
}

static moxie_session *session(moxie_model *m)
{
	moxie_session *s;
	OK(moxie_session_create(&s, m, NULL, &err), err);
	return s;
}

static void same_logits(const moxie_session *a, const moxie_session *b, const char *what)
{
	const float *x = moxie_session_logits(a), *y = moxie_session_logits(b);
	CHECK(x && y && !memcmp(x, y, VOCAB * sizeof *x), "%s: logits differ", what);
}

TEST(device_steps_as_the_cpu)
{
	moxie_model *m[2] = { tiny("cpu:ref", 8, 4), tiny("cuda", 8, 4) };
	moxie_session *s[2][4];
	int32_t id[150];
	for (int d = 0; d < 2; d++)
		for (int i = 0; i < 4; i++)
			s[d][i] = session(m[d]);
	for (int i = 0; i < 4; i++) { /* prompts of several chunks, beyond the window of 32 */
		ids_of(id, 150, (uint32_t)i);
		for (int d = 0; d < 2; d++)
			OK(moxie_session_append(s[d][i], id, (size_t)(3 + 40 * i), &err), err);
	}
	for (int i = 0; i < 4; i++)
		same_logits(s[0][i], s[1][i], "after prompts, of a session that did not step last");
	for (int step = 0; step < 70; step++) { /* 1 .. 4 rows, recorded once and played again, over a page's end */
		int n = 1 + step % 4;
		int32_t next[2][4];
		for (int d = 0; d < 2; d++) {
			for (int i = 0; i < n; i++)
				OK(moxie_session_sample(s[d][i], NULL, &next[d][i], &err), err);
			OK(moxie_step(s[d], next[d], n, &err), err);
		}
		CHECK(!memcmp(next[0], next[1], (size_t)n * sizeof **next), "step %d: other tokens", step);
		if (step % 7 == 0)
			for (int i = 0; i < 4; i++)
				same_logits(s[0][i], s[1][i], "decoding");
	}
	for (int i = 0; i < 4; i++)
		same_logits(s[0][i], s[1][i], "at the end");
	for (int d = 0; d < 2; d++) {
		for (int i = 0; i < 4; i++)
			moxie_session_free(s[d][i]);
		moxie_model_free(m[d]);
	}
}

TEST(device_sampling_and_rewind)
{
	static const struct moxie_sampling sp = { .struct_size = sizeof sp, .temperature = 1.3f, .top_p = .9f, .repetition_penalty = 1.1f, .seed = 5 };
	struct moxie_sampling drawn = sp; /* which the device can do */
	drawn.repetition_penalty = 1;
	const struct moxie_sampling *with[] = { &sp, NULL, &drawn, &sp, &drawn };
	moxie_model *m[2] = { tiny("cpu:ref", 16, 1), tiny("cuda", 16, 1) };
	int32_t id[40], out[2][5][20];
	ids_of(id, 40, 9);
	for (int d = 0; d < 2; d++) {
		moxie_session *s = session(m[d]);
		for (int round = 0; round < 5; round++) {
			moxie_session_rewind(s, 20);
			CHECK(round == 0 || !moxie_session_logits(s), "logits after a rewind");
			size_t n = moxie_session_n_tok(s);
			OK(moxie_session_append(s, id + n, 40 - n, &err), err);
			for (int i = 0; i < 20; i++)
				OK(moxie_session_next(s, with[round], &out[d][round][i], &err), err);
		}
		moxie_session_free(s);
		moxie_model_free(m[d]);
	}
	CHECK(!memcmp(out[0], out[1], sizeof out[0]), "other tokens than on the CPU");
	CHECK(!memcmp(out[1][0], out[1][3], sizeof out[0][0]) && !memcmp(out[1][2], out[1][4], sizeof out[0][0]), "a rewound session draws the same again");
	CHECK(memcmp(out[1][0], out[1][1], sizeof out[0][0]) && memcmp(out[1][1], out[1][2], sizeof out[0][0]), "draws are no different from the best");
}

static void *device_symbol(const char *name)
{
	void *lib = dlopen("libmoxie-cuda.so.0", RTLD_NOW | RTLD_NOLOAD);
	void *p = lib ? dlsym(lib, name) : NULL;
	CHECK(p, "the fake device has no %s", name);
	dlclose(lib);
	return p;
}

static int *device_count(const char *name) { return device_symbol(name); }

/* Rungs: none below its number, the powers of two among them, never more than a quarter of padding. */
TEST(ladder)
{
	static const int most[] = { 1, 2, 7, 8, 9, 11, 33, 40, 64, 256 };
	CHECK(ladder_rows(8, 64) == 8 && ladder_rows(9, 64) == 10 && ladder_rows(17, 64) == 20 && ladder_rows(33, 64) == 40 && ladder_rows(33, 37) == 37 &&
	      ladder_rows(129, 256) == 160, "rungs");
	for (int i = 0; i < (int)(sizeof most / sizeof *most); i++)
		for (int n = 1, last = 0; n <= most[i]; n++) {
			int r = ladder_rows(n, most[i]);
			CHECK(r >= n && r <= most[i] && r >= last && ladder_rows(r, most[i]) == r, "%d of %d: %d after %d", n, most[i], r, last);
			CHECK(r == n || (n > 8 && 4 * (r - n) < n && ladder_pads(r, most[i])), "%d of %d: %d", n, most[i], r);
			CHECK(n & (n - 1) || r == n, "%d of %d: %d", n, most[i], r);
			last = r;
		}
}

/* Any number of sessions, coming and going, is served by what was recorded when the model opened, with the CPU's tokens and logits. */
TEST(device_pads_steps)
{
	enum { N = 40 };
	static const struct moxie_sampling drawn = { .struct_size = sizeof drawn, .temperature = 1.3f, .top_p = .9f, .seed = 5 };
	moxie_model *m[2] = { tiny("cpu:ref", 64, N), tiny("cuda", 64, N) };
	int *records = device_count("fake_device_records"), *replays = device_count("fake_device_replays"), before = *records;
	moxie_session *s[2][N];
	int32_t id[40], next[2][N];
	CHECK(m[1]->n_graph == engine_n_graph(m[1]), "%d recorded, %d shapes", m[1]->n_graph, engine_n_graph(m[1]));
	for (int d = 0; d < 2; d++)
		for (int i = 0; i < N; i++) {
			ids_of(id, 40, (uint32_t)i);
			s[d][i] = session(m[d]);
			OK(moxie_session_append(s[d][i], id, (size_t)(2 + i % 7 * 6), &err), err);
		}
	static const int size[] = { 1, 3, 8, 9, 10, 11, 16, 17, 23, 29, 33, 40, 39, 35, 27, 18, 9, 2, 1 };
	for (int step = 0; step < (int)(sizeof size / sizeof *size); step++) { /* others at the front each time */
		int n = size[step], ran = *replays;
		for (int d = 0; d < 2; d++) {
			moxie_session *row[N];
			for (int i = 0; i < n; i++) {
				row[i] = s[d][(step + i) % N];
				OK(moxie_session_sample(row[i], (step + i) % 5 == 4 ? &drawn : NULL, &next[d][i], &err), err);
			}
			OK(moxie_step(row, next[d], n, &err), err);
		}
		CHECK(!memcmp(next[0], next[1], (size_t)n * sizeof **next), "%d sessions: other tokens", n);
		CHECK(*replays == ran + 1, "%d sessions: %d recorded steps ran", n, *replays - ran);
		if (step % 6 == 0)
			for (int i = 0; i < N; i++)
				same_logits(s[0][i], s[1][i], "with padding");
	}
	CHECK(*records == before, "%d steps were recorded while serving", *records - before);
	for (int d = 0; d < 2; d++) {
		for (int i = 0; i < N; i++)
			moxie_session_free(s[d][i]);
		moxie_model_free(m[d]);
	}
}

/* Recordings that take more than was planned end early; what has none runs op by op, and is the same. */
TEST(device_records_within_its_budget)
{
	enum { N = 12 };
	moxie_model *m[2] = { tiny("cpu:ref", 64, N), tiny_kv("cuda", 64, N, 4096) };
	int most = engine_n_graph(m[1]);
	size_t *each = device_symbol("fake_device_graph_bytes"), usual = *each;
	*each = engine_graph_bytes(m[1]) / 4; /* spent at the first look, after 8 */
	size_t big = *each;
	moxie_model_free(m[1]);
	m[1] = tiny_kv("cuda", 64, N, 4096);
	*each = usual;
	struct moxie_model_info is = { .struct_size = sizeof is };
	OK(moxie_model_get_info(m[1], &is), err);
	CHECK(m[1]->n_graph == 8 && is.graph_bytes == 8 * big, "%d of %d recorded, %llu bytes", m[1]->n_graph, most,
	      (unsigned long long)is.graph_bytes);
	int *records = device_count("fake_device_records"), *replays = device_count("fake_device_replays"), before = *records;
	moxie_session *s[2][N];
	int32_t id[20], next[2][N];
	for (int d = 0; d < 2; d++)
		for (int i = 0; i < N; i++) {
			ids_of(id, 20, (uint32_t)i);
			s[d][i] = session(m[d]);
			OK(moxie_session_append(s[d][i], id, 20, &err), err);
		}
	for (int n = 1; n <= N; n++) {
		int ran = *replays;
		for (int d = 0; d < 2; d++) {
			for (int i = 0; i < n; i++)
				OK(moxie_session_sample(s[d][i], NULL, &next[d][i], &err), err);
			OK(moxie_step(s[d], next[d], n, &err), err);
		}
		CHECK(!memcmp(next[0], next[1], (size_t)n * sizeof **next), "%d sessions: other tokens", n);
		CHECK(*replays - ran == (n <= 4), "%d sessions: %d recorded steps ran", n, *replays - ran);
	}
	CHECK(*records == before, "%d steps were recorded while serving", *records - before);
	for (int d = 0; d < 2; d++) {
		for (int i = 0; i < N; i++)
			moxie_session_free(s[d][i]);
		moxie_model_free(m[d]);
	}
}

/* Sessions that said what they will do: the device takes one step more than it was asked for, and then none for what it has done already. */
TEST(device_goes_ahead)
{
	static const struct moxie_sampling drawn = { .struct_size = sizeof drawn, .temperature = 1.3f, .top_p = .9f, .seed = 5 };
	enum { N = 80 };
	moxie_model *m[2] = { tiny("cpu:ref", 16, 3), tiny("cuda", 16, 3) };
	int *ran = device_count("fake_device_steps");
	moxie_session *s[2][3];
	int32_t id[60], next[2][3];
	for (int d = 0; d < 2; d++)
		for (int i = 0; i < 3; i++) {
			ids_of(id, 60, (uint32_t)i);
			s[d][i] = session(m[d]);
			OK(moxie_session_expect(s[d][i], i ? NULL : &drawn, 0, &err), err);
			OK(moxie_session_append(s[d][i], id, (size_t)(20 + 15 * i), &err), err);
			OK(moxie_session_expect(s[d][i], i ? NULL : &drawn, N, &err), err);
		}
	int before = *ran;
	for (int step = 0; step < N; step++) { /* over ends of pages, of the ring and of lists of pages */
		for (int d = 0; d < 2; d++) {
			for (int i = 0; i < 3; i++)
				OK(moxie_session_sample(s[d][i], i ? NULL : &drawn, &next[d][i], &err), err);
			OK(moxie_step(s[d], next[d], 3, &err), err);
		}
		CHECK(!memcmp(next[0], next[1], sizeof next[0]), "step %d: other tokens", step);
		CHECK(*ran - before == (step + 1 < N ? step + 2 : N), "after step %d the device ran %d", step, *ran - before);
		CHECK(step + 1 == N || !moxie_session_logits(s[1][0]), "logits of a step that was overtaken");
	}
	for (int i = 0; i < 3; i++)
		same_logits(s[0][i], s[1][i], "after the last");
	for (int d = 0; d < 2; d++) {
		for (int i = 0; i < 3; i++)
			moxie_session_free(s[d][i]);
		moxie_model_free(m[d]);
	}
}

/* Sessions end one after the other: the step that runs ahead is taken over by those that are left, in any order. */
TEST(device_goes_ahead_of_fewer)
{
	enum { N = 4 };
	moxie_model *m[2] = { tiny("cpu:ref", 16, N), tiny("cuda", 16, N) };
	moxie_session *s[2][N], *left[2][N];
	int32_t id[60], next[2][N];
	int *ran = device_count("fake_device_steps");
	for (int d = 0; d < 2; d++)
		for (int i = 0; i < N; i++) {
			ids_of(id, 60, (uint32_t)i);
			left[d][i] = s[d][i] = session(m[d]);
			OK(moxie_session_append(s[d][i], id, (size_t)(20 + 13 * i), &err), err);
			OK(moxie_session_expect(s[d][i], NULL, 64, &err), err);
		}
	int before = *ran, n = N;
	for (int step = 0; step < 40; step++) {
		if (step % 10 == 9) { /* the second is out, the others turn round */
			n--;
			for (int d = 0; d < 2; d++) {
				moxie_session *first = left[d][0];
				left[d][0] = left[d][n], left[d][1 < n ? 1 : 0] = n > 1 ? first : left[d][0];
			}
		}
		if (!n)
			break;
		for (int d = 0; d < 2; d++) {
			for (int i = 0; i < n; i++)
				OK(moxie_session_sample(left[d][i], NULL, &next[d][i], &err), err);
			OK(moxie_step(left[d], next[d], n, &err), err);
		}
		CHECK(!memcmp(next[0], next[1], (size_t)n * sizeof **next), "step %d: other tokens", step);
		CHECK(*ran - before == step + 2, "after step %d the device ran %d", step, *ran - before);
	}
	for (int d = 0; d < 2; d++) {
		for (int i = 0; i < N; i++)
			moxie_session_free(s[d][i]);
		moxie_model_free(m[d]);
	}
}

static int take_id(void *ud, const struct moxie_event *ev, int32_t id)
{
	struct { int32_t id[64]; int n; } *out = ud;
	(void)ev;
	if (id >= 0 && out->n < 64)
		out->id[out->n++] = id;
	return 0;
}

/* Penalties and biases: the device's sampler has them, no logits come to the host, and the tokens are the CPU's. */
TEST(device_penalties_and_bias)
{
	static const struct moxie_sampling with[] = { { .struct_size = sizeof *with, .repetition_penalty = 1.3f },
		{ .struct_size = sizeof *with, .temperature = 1.1f, .top_p = .95f, .presence_penalty = .7f, .frequency_penalty = .4f, .seed = 3 },
		{ .struct_size = sizeof *with, .temperature = .9f, .repetition_penalty = 1.2f, .frequency_penalty = -.3f, .seed = 4 } };
	static const struct moxie_bias bias[] = { { 7, 4.f }, { 100, -100.f }, { 411, 2.5f } };
	moxie_model *m[2] = { tiny("cpu:ref", 16, 2), tiny("cuda", 16, 2) };
	int *fetches = device_count("fake_device_fetches");
	int32_t id[90];
	ids_of(id, 90, 11);
	for (int c = 0; c < 8; c++) {
		struct { int32_t id[64]; int n; } out[2] = { { .n = 0 }, { .n = 0 } };
		int before = *fetches;
		for (int d = 0; d < 2; d++) {
			moxie_session *s = session(m[d]);
			struct moxie_generate_params p = { .struct_size = sizeof p, .max_tokens = 40, .ignore_eos = 1, .on_event = take_id, .ud = &out[d] };
			if (c % 4)
				p.sampling = with[c % 4 - 1];
			p.sampling.struct_size = sizeof p.sampling;
			p.bias = c >= 4 || c == 0 ? bias : NULL;
			p.n_bias = p.bias ? 3 : 0;
			OK(moxie_generate(s, id, (size_t)(20 + 10 * c), &p, NULL, &err), err);
			p.ud = &(struct { int32_t id[64]; int n; }){ .n = 0 };
			OK(moxie_generate(s, id, 15, &p, NULL, &err), err); /* a row that is counted anew */
			moxie_session_free(s);
		}
		CHECK(out[0].n == 40 && out[1].n == 40 && !memcmp(out[0].id, out[1].id, sizeof out[0].id), "case %d: other tokens than on the CPU", c);
		CHECK(*fetches == before, "case %d: %d copies to the host", c, *fetches - before);
	}
	for (int d = 0; d < 2; d++)
		moxie_model_free(m[d]);
}

/* Fed something else than was picked, rewound, more sessions than rows: the counts are the timeline's, or the host samples. */
TEST(device_penalties_of_other_timelines)
{
	static const struct moxie_sampling sp = { .struct_size = sizeof sp, .repetition_penalty = 1.4f, .frequency_penalty = .5f };
	moxie_model *m[2] = { tiny("cpu:ref", 16, 1), tiny("cuda", 16, 1) };
	moxie_session *s[2][3];
	int32_t id[64], next[2];
	ids_of(id, 64, 21);
	for (int d = 0; d < 2; d++)
		for (int i = 0; i < 3; i++) {
			s[d][i] = session(m[d]);
			OK(moxie_session_append(s[d][i], id + i, 24, &err), err);
		}
	for (int step = 0; step < 60; step++) {
		int i = step / 7 % 3;
		for (int d = 0; d < 2; d++) {
			if (step % 11 == 10)
				moxie_session_rewind(s[d][i], moxie_session_n_tok(s[d][i]) - 2);
			if (step % 5 == 4)
				OK(moxie_session_append(s[d][i], id + step % 40, 1 + (size_t)step % 3, &err), err);
			else if (step % 11 != 10)
				OK(moxie_session_next(s[d][i], &sp, &next[d], &err), err);
			if (step % 11 == 10)
				OK(moxie_session_append(s[d][i], id + 3, 1, &err), err);
			OK(moxie_session_sample(s[d][i], &sp, &next[d], &err), err);
		}
		CHECK(next[0] == next[1], "step %d: %d, wanted %d", step, next[1], next[0]);
	}
	for (int d = 0; d < 2; d++) {
		for (int i = 0; i < 3; i++)
			moxie_session_free(s[d][i]);
		moxie_model_free(m[d]);
	}
}

/* What is opened is what was planned. */
TEST(device_plan)
{
	moxie_model *m;
	struct moxie_model_params p = { .struct_size = sizeof p, .path = "gpt-oss-tiny", .device = "cuda", .dummy = 1, .n_chunk = 16, .n_seq = 3,
		.kv_tokens = 4096, .graph_max_seq = 2 };
	struct moxie_model_info plan = { .struct_size = sizeof plan }, is = plan, f8 = plan;
	OK(moxie_inspect(&p, &plan, NULL, NULL, &err), err);
	OK(moxie_model_open(&m, &p, &err), err);
	OK(moxie_model_get_info(m, &is), err);
	uint64_t mb = 2 << 20;
	CHECK(plan.kv_pool_bytes == is.kv_pool_bytes && is.kv_pool_bytes > 0 && plan.kv_pool_tokens == 4096 && is.kv_pool_tokens == 4096, "pools of %llu, planned %llu",
	      (unsigned long long)is.kv_pool_bytes, (unsigned long long)plan.kv_pool_bytes);
	CHECK(plan.device_weight_bytes >= is.device_weight_bytes && plan.device_weight_bytes < is.device_weight_bytes + mb, "weights");
	CHECK(plan.step_bytes >= is.step_bytes && plan.step_bytes < is.step_bytes + mb && is.step_bytes > 0, "step: %llu, planned %llu",
	      (unsigned long long)is.step_bytes, (unsigned long long)plan.step_bytes);
	moxie_model_free(m);
	p.kv_fp8 = 1;
	OK(moxie_inspect(&p, &f8, NULL, NULL, &err), err);
	CHECK(2 * f8.kv_pool_bytes == plan.kv_pool_bytes && 2 * f8.kv_token_bytes == plan.kv_token_bytes, "fp8 takes %llu, bf16 %llu",
	      (unsigned long long)f8.kv_pool_bytes, (unsigned long long)plan.kv_pool_bytes);
}

/* Dense weights in FP8, made while they go over: the CPU's logits bit for bit, fewer bytes, and the plan knows. */
TEST(device_dense_fp8)
{
	moxie_model *m[2];
	moxie_session *s[2];
	int32_t id[40];
	struct moxie_model_params p = { .struct_size = sizeof p, .path = "gpt-oss-tiny", .dummy = 1, .dummy_seed = 7, .n_chunk = 16, .n_seq = 2, .n_thread = 2 };
	struct moxie_model_info bf16 = { .struct_size = sizeof bf16 }, plan = bf16, is = bf16;
	p.device = "cuda";
	OK(moxie_inspect(&p, &bf16, NULL, NULL, &err), err);
	p.dense_fp8 = 1;
	OK(moxie_inspect(&p, &plan, NULL, NULL, &err), err);
	for (int d = 0; d < 2; d++) {
		p.device = d ? "cuda" : "cpu:ref";
		OK(moxie_model_open(&m[d], &p, &err), err);
		s[d] = session(m[d]);
	}
	OK(moxie_model_get_info(m[1], &is), err);
	uint64_t mb = 2 << 20, n_dense = 4 * (2 * 256 + 2 * 64) * 128 + 512 * 128, n_row = 4 * (256 + 2 * 64 + 128) + 512, saved = n_dense - 4 * n_row;
	CHECK(plan.weight_bytes + saved == bf16.weight_bytes && is.weight_bytes == plan.weight_bytes, "%llu bytes of weights, %llu planned, bf16 %llu",
	      (unsigned long long)is.weight_bytes, (unsigned long long)plan.weight_bytes, (unsigned long long)bf16.weight_bytes);
	CHECK(plan.device_weight_bytes >= is.device_weight_bytes && plan.device_weight_bytes < is.device_weight_bytes + mb, "weights on the device");
	ids_of(id, 40, 3);
	for (int at = 0, n = 30; at < 40; at += n, n = 1)
		for (int d = 0; d < 2; d++)
			OK(moxie_session_append(s[d], id + at, (size_t)n, &err), err);
	same_logits(s[0], s[1], "dense weights in FP8");
	for (int d = 0; d < 2; d++) {
		moxie_session_free(s[d]);
		moxie_model_free(m[d]);
	}
}

/* And what comes of it when they do something else. */
TEST(device_went_ahead_in_vain)
{
	enum { N = 3 };
	moxie_model *m[2] = { tiny("cpu:ref", 16, N), tiny("cuda", 16, N) };
	moxie_session *s[2][N];
	int32_t id[60], next[2][N];
	for (int d = 0; d < 2; d++)
		for (int i = 0; i < N; i++) {
			ids_of(id, 60, (uint32_t)i);
			s[d][i] = session(m[d]);
			OK(moxie_session_append(s[d][i], id, (size_t)(20 + 15 * i), &err), err);
		}
	for (int round = 0; round < 40; round++) {
		for (int d = 0; d < 2; d++) {
			int n = N;
			for (int i = 0; i < N; i++) {
				OK(moxie_session_sample(s[d][i], NULL, &next[d][i], &err), err);
				OK(moxie_session_expect(s[d][i], NULL, 9, &err), err);
			}
			OK(moxie_step(s[d], next[d], N, &err), err);
			for (int i = 0; i < N; i++)
				OK(moxie_session_sample(s[d][i], NULL, &next[d][i], &err), err);
			switch (round % 6) {
			case 0: /* another token */
				next[d][1] = (next[d][1] + 1) % VOCAB;
				break;
			case 1: /* fewer sessions: what ran is taken over */
				n = 2;
				break;
			case 2: { /* another order */
				moxie_session *t = s[d][0];
				int32_t x = next[d][0];
				s[d][0] = s[d][2], s[d][2] = t;
				next[d][0] = next[d][2], next[d][2] = x;
				break;
			}
			case 3: /* back, and forth by another way to the same length */
				n = 1;
				moxie_session_rewind(s[d][0], moxie_session_n_tok(s[d][0]) - 2);
				ids_of(id, 2, 77);
				OK(moxie_session_append(s[d][0], id, 2, &err), err);
				break;
			case 4: /* one is gone, another in its place */
				moxie_session_free(s[d][1]);
				s[d][1] = session(m[d]);
				ids_of(id, 60, (uint32_t)round);
				OK(moxie_session_append(s[d][1], id, 50, &err), err);
				OK(moxie_session_sample(s[d][1], NULL, &next[d][1], &err), err);
				break;
			case 5: { /* sampled as nobody expected */
				struct moxie_sampling hot = { .struct_size = sizeof hot, .temperature = 1 };
				int rc = moxie_session_sample(s[d][0], &hot, &id[0], &err);
				CHECK(rc == (d ? MOXIE_E_ARG : 0), "%d, %s", rc, err.text);
				break;
			}
			}
			OK(moxie_step(s[d], next[d], n, &err), err);
			for (int i = 0; i < N; i++)
				OK(moxie_session_expect(s[d][i], NULL, 0, &err), err);
			for (int i = 0; i < N; i++)
				OK(moxie_session_sample(s[d][i], NULL, &next[d][i], &err), err);
			OK(moxie_step(s[d], next[d], N, &err), err);
		}
		CHECK(!memcmp(next[0], next[1], sizeof next[0]), "round %d: other tokens", round);
		for (int i = 0; i < N; i++)
			same_logits(s[0][i], s[1][i], "after going another way");
	}
	for (int d = 0; d < 2; d++) {
		for (int i = 0; i < N; i++)
			moxie_session_free(s[d][i]);
		moxie_model_free(m[d]);
	}
}

TEST(device_is_checked_before_it_serves)
{
	moxie_model *m;
	struct moxie_model_params p = { .struct_size = sizeof p, .path = "tests/vectors/gptoss_h320", .device = "cuda" };
	OK(moxie_model_open(&m, &p, &err), err);
	moxie_model_free(m);
	void *lib = dlopen("libmoxie-cuda.so.0", RTLD_NOW | RTLD_NOLOAD);
	int *breaks = lib ? dlsym(lib, "fake_device_breaks") : NULL;
	CHECK(breaks, "the fake device has no switch");
	*breaks = 1;
	int rc = moxie_model_open(&m, &p, &err);
	*breaks = 0;
	dlclose(lib);
	CHECK(rc == MOXIE_E_DEVICE && !m && strstr(err.text, "something else"), "weights that arrive changed: %d, %s", rc, err.text);
	printf("    %s\n", err.text);
}

enum { LONG = 90 };
struct ask {
	int most;  /* tokens, then the callback refuses; 0: never */
	int32_t got[LONG];
	int n;
	atomic_int done;
};

static int on_event(void *ud, const struct moxie_event *ev, int32_t id)
{
	struct ask *a = ud;
	(void)ev;
	if (a->n < LONG)
		a->got[a->n++] = id;
	return a->n == a->most; /* it may compute the next one already */
}

static void on_finish(void *ud, const struct moxie_generate_result *r, int status, const struct moxie_err *e)
{
	struct ask *a = ud;
	CHECK(status == 0, "%s", e->text);
	CHECK(r->finish == (a->most ? MOXIE_FINISH_CANCEL : MOXIE_FINISH_LENGTH) && (int)r->n_out == a->n, "finish %d, %zu tokens", r->finish, r->n_out);
	atomic_store(&a->done, 1);
}

/* Tokens of a session that no engine steps, while one does. */
static void own_session(moxie_model *m, int32_t *got, int n)
{
	int32_t id[30];
	moxie_session *s = session(m);
	ids_of(id, 30, 99);
	OK(moxie_session_append(s, id, 30, &err), err);
	for (int i = 0; i < n; i++)
		OK(moxie_session_next(s, NULL, &got[i], &err), err);
	moxie_session_free(s);
}

/* The same requests on both, and on the device with so little memory that requests give way to each other. */
TEST(device_serves_many)
{
	enum { N = 12 };
	static struct ask ask[3][N];
	int32_t own[2][60];
	for (int d = 0; d < 3; d++) {
		moxie_model *m = tiny_kv(d ? "cuda" : "cpu:ref", 16, 5, d == 2 ? 4 * 64 : 0);
		moxie_engine *e;
		int *records = d ? device_count("fake_device_records") : NULL, before = d ? *records : 0;
		OK(moxie_engine_create(&e, m, NULL, &err), err);
		for (int i = 0; i < N; i++) {
			int32_t id[60];
			ids_of(id, 60, (uint32_t)i);
			struct moxie_request r = { .struct_size = sizeof r, .ids = id, .n = (size_t)(52 - i), .on_finish = on_finish };
			r.p = (struct moxie_generate_params){ .struct_size = sizeof r.p, .max_tokens = i < 3 ? LONG : 24, .raw = 1, .ignore_eos = 1,
				.on_event = on_event, .ud = &ask[d][i] };
			uint64_t unused;
			ask[d][i].most = i % 4 == 1 ? 7 : 0;
			OK(moxie_engine_submit(e, &r, &unused, &err), err);
		}
		if (d < 2) /* steps take turns */
			own_session(m, own[d], 60);
		for (int i = 0; i < N; i++)
			for (int wait = 0; !atomic_load(&ask[d][i].done); wait++) {
				CHECK(wait < 6000, "request %d of device %d does not end", i, d);
				usleep(10000);
			}
		struct moxie_engine_stats st = { .struct_size = sizeof st };
		CHECK(moxie_engine_get_stats(e, &st) == 0 && (st.n_preempted > 0) == (d == 2), "%llu gave way", (unsigned long long)st.n_preempted);
		CHECK(st.n_page_free + st.n_page_cached == st.n_page && st.n_ring_free + st.n_ring_cached == st.n_ring, "%d + %d of %d pages",
		      st.n_page_free, st.n_page_cached, st.n_page);
		CHECK(!d || *records == before, "%d steps were recorded while serving", *records - before);
		moxie_engine_free(e);
		moxie_model_free(m);
	}
	CHECK(!memcmp(own[0], own[1], sizeof own[0]), "a session beside the engine got other tokens");
	for (int d = 1; d < 3; d++)
		for (int i = 0; i < N; i++)
			CHECK(ask[d][i].n == (ask[d][i].most ? 7 : i < 3 ? LONG : 24) && !memcmp(ask[0][i].got, ask[d][i].got, sizeof ask[0][i].got), 
			      "request %d got other tokens in run %d", i, d);
}

/* What tests take from a device is part of its name; anything else after "cuda" is not a device. */
TEST(device_names)
{
	const struct { const char *name; bool good; } t[] = {
		{ "cuda", true }, { "cuda:portable", true }, { "cuda:portable,shared=64,memory=80", true }, { "cuda:memory=40", true },
		{ "cudax", false }, { "cuda:", false }, { "cuda:shared=", false }, { "cuda:portable;shared=64", false }, { "cuda:shared=64x", false },
		{ "cpu", false },
	};
	for (size_t i = 0; i < sizeof t / sizeof *t; i++)
		CHECK(backend_is_device(t[i].name) == t[i].good, "%s", t[i].name);
}

TEST_MAIN
