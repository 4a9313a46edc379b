/* test_route.cu - router GEMM, routing and tables on the device.
 *
 * ids, weights and tables: bit for bit against the C twin (route_ref.h); scores, weights and logits against double.
 * Every output is poisoned before each run and has a guard behind it.
 */
#include <algorithm>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <thread>
#include <vector>

#include "../test.h"
#include "cap.cuh"
#include "cu.cuh"
#include "moe_route.h"
#include "route_ref.h"

constexpr size_t GUARD = 256;
constexpr int POISON = 0xA5;

/* A device array with poison in it and behind it. */
template <class T> struct dev {
	T *p = nullptr;
	size_t n = 0;
	explicit dev(size_t n_) : n(n_) 
	{
		CU(cudaMalloc(&p, n * sizeof(T) + GUARD));
		poison();
	}
	explicit dev(const std::vector<T> &v) : dev(v.size()) { put(v); }
	~dev() { cudaFree(p); }
	dev(const dev &) = delete;
	void poison() { CU(cudaMemset(p, POISON, n * sizeof(T) + GUARD)); }
	void put(const std::vector<T> &v) { CU(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice)); }
	std::vector<T> get() const
	{
		std::vector<T> v(n);
		CU(cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost));
		return v;
	}
	bool guard_ok() const
	{
		uint8_t g[GUARD];
		CU(cudaMemcpy(g, p + n, GUARD, cudaMemcpyDeviceToHost));
		return std::all_of(g, g + GUARD, [](uint8_t b) { return b == POISON; });
	}
};

static uint16_t to_bf16(float f)
{
	uint32_t u = route_bits(f);
	return (u & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
static float from_bf16(uint16_t h) { return route_float((uint32_t)h << 16); }

static std::vector<uint16_t> random_bf16(size_t n, float deviation, float mean = 0)
{
	std::vector<uint16_t> v(n);
	for (auto &x : v)
		x = to_bf16(mean + rnd_normal() * deviation);
	return v;
}

enum kind { NORMAL, TIES, ODD };
static std::vector<float> random_logits(size_t n, int kind)
{
	std::vector<float> v(n);
	const float odd[] = { NAN, -NAN, 0.f, -0.f, INFINITY, -INFINITY, 1e30f, -1e30f, 1e-40f, -1e-40f, 88.f, -88.f };
	for (auto &x : v) {
		x = 2 * rnd_normal();
		if (kind != NORMAL)
			x = rintf(x * 2) / 2; /* ties, and -0 */
		if (kind == ODD && rnd_int(3) == 0)
			x = odd[rnd_int(12)];
	}
	return v;
}

/* Runs f(first, last) over n items on all cores. */
template <class F> static void spread(int n, F f)
{
	const int n_thread = std::max(1, (int)std::thread::hardware_concurrency());
	std::vector<std::thread> th;
	for (int i = 0; i < n_thread; i++)
		th.emplace_back([=] { f((int)((int64_t)n * i / n_thread), (int)((int64_t)n * (i + 1) / n_thread)); });
	for (auto &t : th)
		t.join();
}

struct plan {
	struct moxie_router_plan *p = nullptr;
	plan(struct moxie_router_shape s)
	{
		struct moxie_err err = {};
		if (test_cap()) s.flags |= MOXIE_ROUTER_PORTABLE;
		if (moxie_router_plan_create(&p, &s, 0, &err))
			printf("    plan: %s\n", err.text), exit(1);
	}
	~plan() { moxie_router_plan_free(p); }
};

struct outputs {
	dev<int32_t> id, off, pair, done;
	dev<float> w;
	dev<struct moe_tile> tiles;
	dev<struct moe_head> head;
	outputs(int T, int k, int n_here, int tile_n)
	    : id((size_t)T * k), off(n_here + 1), pair((size_t)T * k), done(T), w((size_t)T * k),
	      tiles(moe_max_tiles(T, k, n_here, tile_n)), head(1)
	{
	}
	void poison() { id.poison(), off.poison(), pair.poison(), done.poison(), w.poison(), tiles.poison(), head.poison(); }
	bool guards() const
	{
		return id.guard_ok() && off.guard_ok() && pair.guard_ok() && done.guard_ok() && w.guard_ok() && tiles.guard_ok() && head.guard_ok();
	}
	void bind(struct moxie_router_args &a, int tile_n)
	{
		a.topk_id = id.p, a.topk_w = w.p, a.expert_off = off.p, a.sorted_pair = pair.p;
		a.tiles = tiles.p, a.head = head.p, a.tok_done = done.p, a.tile_n = tile_n;
	}
};

/* Tables against the twin's, given the ids. */
static void check_tables(const struct outputs &o, const std::vector<int32_t> &id, int T, int k, int n_here, int tile_n, const char *what)
{
	std::vector<int32_t> off(n_here + 1), pair((size_t)T * k + 1);
	std::vector<struct moe_tile> tiles(moe_max_tiles(T, k, n_here, tile_n) + 1);
	const int n_tile = ref_tables(T, k, n_here, tile_n, id.data(), off.data(), pair.data(), tiles.data());
	const auto got_off = o.off.get(), got_pair = o.pair.get(), done = o.done.get();
	CHECK(got_off == off, "%s: expert_off", what);
	CHECK(!memcmp(got_pair.data(), pair.data(), (size_t)off[n_here] * 4), "%s: sorted_pair", what);
	const struct moe_head head = o.head.get()[0];
	CHECK(head.n_tile == n_tile, "%s: n_tile %d, wanted %d", what, head.n_tile, n_tile);
	for (int z : head.zero)
		CHECK(z == 0, "%s: head has %d", what, z);
	const auto got_tiles = o.tiles.get();
	CHECK(!memcmp(got_tiles.data(), tiles.data(), n_tile * sizeof tiles[0]), "%s: tiles", what);
	CHECK(std::all_of(done.begin(), done.end(), [](int d) { return d == 0; }), "%s: tok_done", what);
	CHECK(o.guards(), "%s: something was written past an end", what);
}

struct variant {
	int kind = NORMAL;
	bool select_bias = false, expert_scale = false, hash = false, padding = false;
	int tile_n = 16;
};

/* One run with given logits (or ids), everything compared bit for bit. */
static void route_case(struct moxie_router_shape s, int T, const variant &v)
{
	const int E = s.n_expert, k = s.n_used, here = s.n_expert_here ? s.n_expert_here : E, n_vocab = 97;
	char what[160];
	snprintf(what, sizeof what, "T %d E %d k %d score %d norm %d groups %d dtype %d kind %d hash %d here %d+%d tile %d", T, E, k, s.score,
	         s.renormalise, s.n_group, s.logit_dtype, v.kind, v.hash, s.expert_first, here, v.tile_n);
	s.n_tok_max = std::max(T, 1);
	const plan plan(s);
	std::vector<float> l = random_logits((size_t)T * E, v.kind), sb(E), es(E), w_in((size_t)T * k);
	std::vector<uint16_t> l16(l.size());
	for (size_t i = 0; i < l.size(); i++) {
		if (s.logit_dtype == MOXIE_LOGIT_BF16)
			l16[i] = to_bf16(l[i]), l[i] = from_bf16(l16[i]);
		if (s.logit_dtype == MOXIE_LOGIT_F16) {
			const __half h = __float2half(l[i]);
			memcpy(&l16[i], &h, 2), l[i] = __half2float(h);
		}
	}
	std::vector<int32_t> table((size_t)n_vocab * k), tok(T), id_in((size_t)T * k);
	for (int e = 0; e < E; e++)
		sb[e] = (float)rnd_int(9) / 16, es[e] = 0.5f + (float)rnd();
	for (auto &x : table)
		x = rnd_int(E + (v.kind == ODD ? 3 : 0)) - (v.kind == ODD); /* repeats happen; ODD: out of range too */
	for (auto &x : tok)
		x = rnd_int(n_vocab + 2) - 1;
	for (auto &x : id_in)
		x = rnd_int(E + 2) - 1;
	for (auto &x : w_in)
		x = (float)rnd();
	const int n_real = v.padding ? T / 2 : T;
	dev<float> d_l(l), d_sb(sb), d_es(es), d_w_in(w_in);
	dev<uint16_t> d_l16(l16);
	dev<int32_t> d_table(table), d_tok(tok), d_id_in(id_in), d_real(std::vector<int32_t>{ n_real });
	dev<uint8_t> ws(moxie_router_ws_bytes(plan.p));
	outputs o(T, k, here, v.tile_n);
	struct moxie_router_args a = {};
	struct ref_in in = {};
	a.n_tok = T, a.ws = ws.p;
	in.n_tok_real = n_real, in.n_vocab = a.n_vocab = n_vocab;
	if (v.padding)
		a.n_tok_real = d_real.p;
	if (s.score == MOXIE_SCORE_GIVEN) {
		a.topk_id_in = d_id_in.p, a.topk_w_in = d_w_in.p, in.topk_id_in = id_in.data(), in.topk_w_in = w_in.data();
	} else {
		a.logits = s.logit_dtype == MOXIE_LOGIT_F32 ? (void *)d_l.p : (void *)d_l16.p, in.logits = l.data();
	}
	if (v.select_bias)
		a.select_bias = d_sb.p, in.select_bias = sb.data();
	if (v.expert_scale)
		a.expert_scale = d_es.p, in.expert_scale = es.data();
	if (v.hash)
		a.hash_table = d_table.p, a.tok_id = d_tok.p, in.hash_table = table.data(), in.tok_id = tok.data();
	o.bind(a, v.tile_n);
	struct moxie_err err = {};
	OK(moxie_router_run(plan.p, &a, 0, &err), err);
	CU(cudaDeviceSynchronize());
	std::vector<int32_t> id((size_t)T * k);
	std::vector<float> w((size_t)T * k);
	for (int t = 0; t < T; t++)
		ref_route_token(&s, &in, t, &id[(size_t)t * k], &w[(size_t)t * k]);
	const auto got_id = o.id.get();
	const auto got_w = o.w.get();
	for (size_t i = 0; i < id.size(); i++) {
		CHECK(got_id[i] == id[i], "%s: token %zu slot %zu is %d, wanted %d", what, i / k, i % k, got_id[i], id[i]);
		CHECK(!memcmp(&got_w[i], &w[i], 4), "%s: token %zu slot %zu weighs %.9g, wanted %.9g", what, i / k, i % k, got_w[i], w[i]);
	}
	check_tables(o, id, T, k, here, v.tile_n, what);
}

static struct moxie_router_shape shape_of(int E, int k, int score, int renormalise)
{
	struct moxie_router_shape s = {};
	s.n_expert = E, s.n_used = k, s.score = score, s.renormalise = renormalise;
	return s;
}

static const int all_t[] = { 0, 1, 2, 7, 8, 9, 31, 64, 65, 257, 1024, 8192 };
static const int some_t[] = { 0, 1, 7, 9, 65, 257, 513, 1024 };
static const int all_e[] = { 8, 32, 60, 64, 128, 256, 384, 512 };

TEST(scalar_exp)
{
	double worst = 0;
	for (int i = 0; i < 2000000; i++) {
		const float x = -87.f * (float)rnd();
		const double want = exp((double)x);
		worst = fmax(worst, fabs(route_exp(x) - want) / want);
	}
	CHECK(worst < 2 * 0x1p-23, "exp: %.3g", worst);
	CHECK(route_exp(0) == 1 && route_exp(-88) == 0 && route_exp(-INFINITY) == 0, "ends");
	printf("    route_exp: %.2f ulp (of 2^-23)\n", worst * 0x1p23);
}

TEST(scalar_scores)
{
	double sig = 0, soft = 0;
	for (int i = 0; i < 2000000; i++) {
		const float x = 60.f * ((float)rnd() - 0.5f);
		const double want = 1 / (1 + exp(-(double)x)), sp = sqrt(fmax(x, 0.) + log1p(exp(-fabs((double)x))));
		sig = fmax(sig, fabs(route_sigmoid(x) - want) / want), soft = fmax(soft, fabs(route_sqrt_softplus(x) - sp) / sp);
	}
	CHECK(sig < 4 * 0x1p-23 && soft < 3 * 0x1p-23, "sigmoid %.3g, sqrt softplus %.3g", sig, soft);
	printf("    sigmoid %.2f, sqrt(softplus) %.2f ulp (of 2^-23)\n", sig * 0x1p23, soft * 0x1p23);
}

TEST(softmax)
{
	for (int E : all_e)
		for (int T : all_t) {
			variant v;
			v.kind = rnd_int(3), v.expert_scale = rnd_int(2), v.tile_n = 8 << rnd_int(4);
			struct moxie_router_shape s = shape_of(E, std::min(E, 1 + rnd_int(16)), MOXIE_SCORE_SOFTMAX, rnd_int(2));
			s.logit_dtype = rnd_int(3);
			route_case(s, T, v);
		}
	for (int e = 1; e < 40; e += 3)
		route_case(shape_of(e, std::min(e, 3), MOXIE_SCORE_SOFTMAX, 0), 33, variant());
}

TEST(models)
{
	for (int T : some_t) {
		variant v;
		v.kind = T % 3;
		route_case(shape_of(32, 4, MOXIE_SCORE_SOFTMAX, 1), T, v);
		route_case(shape_of(128, 4, MOXIE_SCORE_SOFTMAX, 1), T, v);
		route_case(shape_of(128, 8, MOXIE_SCORE_SOFTMAX, 0), T, v);
		v.expert_scale = true;
		route_case(shape_of(128, 8, MOXIE_SCORE_SOFTMAX, 1), T, v);
		v.expert_scale = false, v.select_bias = true;
		struct moxie_router_shape s = shape_of(256, 6, MOXIE_SCORE_SQRTSOFTPLUS, 1);
		s.scale = 1.5f;
		route_case(s, T, v);
		s.n_expert = 384, s.scale = 2.5f;
		route_case(s, T, v);
		s = shape_of(384, 8, MOXIE_SCORE_SIGMOID, 1), s.scale = 2.827f;
		route_case(s, T, v);
		s = shape_of(256, 8, MOXIE_SCORE_SIGMOID, 1), s.scale = 2.5f, s.n_group = 8, s.n_group_used = 4;
		route_case(s, T, v);
		v.select_bias = false, v.hash = true;
		s = shape_of(256, 6, MOXIE_SCORE_SQRTSOFTPLUS, 1), s.scale = 1.5f;
		route_case(s, T, v);
	}
}

TEST(scored)
{
	for (int E : all_e)
		for (int T : some_t) {
			variant v;
			v.kind = rnd_int(3), v.select_bias = rnd_int(2), v.expert_scale = rnd_int(2), v.tile_n = 8 * (1 + rnd_int(9));
			struct moxie_router_shape s = shape_of(E, std::min(E, 1 + rnd_int(16)), 1 + rnd_int(2), rnd_int(2));
			s.logit_dtype = rnd_int(3), s.scale = rnd_int(2) ? 2.5f : 0.f;
			route_case(s, T, v);
			v.hash = true, v.select_bias = false;
			route_case(s, T, v);
		}
}

TEST(groups)
{
	for (int E : { 8, 32, 64, 256, 512 })
		for (int G : { 2, 4, 8, 32 })
			for (int T : { 1, 9, 600 })
				if (E / G >= std::max(2, E / 32)) {
					variant v;
					v.kind = rnd_int(3), v.select_bias = true;
					struct moxie_router_shape s = shape_of(E, 1, MOXIE_SCORE_SIGMOID, 1);
					s.n_group = G, s.n_group_used = 1 + rnd_int(G), s.n_used = 1 + rnd_int(std::min(16, s.n_group_used * (E / G)));
					s.score = rnd_int(3);
					v.select_bias = s.score != 0;
					route_case(s, T, v);
				}
}

TEST(given)
{
	for (int E : { 8, 60, 256, 512 })
		for (int T : some_t) {
			variant v;
			v.padding = rnd_int(2), v.tile_n = 8 << rnd_int(5);
			route_case(shape_of(E, std::min(E, 1 + rnd_int(16)), MOXIE_SCORE_GIVEN, 0), T, v);
		}
}

TEST(ranks)
{
	for (int T : { 1, 40, 300, 1500 }) {
		variant v;
		v.padding = true;
		for (int first : { 0, 64, 192 }) {
			struct moxie_router_shape s = shape_of(256, 8, MOXIE_SCORE_SOFTMAX, 1);
			s.expert_first = first, s.n_expert_here = 64;
			route_case(s, T, v);
			s.n_expert_here = 37, s.score = MOXIE_SCORE_GIVEN;
			route_case(s, T, v);
		}
	}
}

TEST(large)
{
	variant v;
	route_case(shape_of(128, 4, MOXIE_SCORE_SOFTMAX, 1), 65536, v);
	v.select_bias = true, v.tile_n = 128;
	route_case(shape_of(256, 6, MOXIE_SCORE_SQRTSOFTPLUS, 1), 65536 + 77, v);
	v.select_bias = false;
	route_case(shape_of(512, 16, MOXIE_SCORE_GIVEN, 1), 140000, v);
}

/* All tokens to one expert; k = E. */
TEST(skewed)
{
	for (int T : { 1, 64, 512, 513, 4000 }) {
		struct moxie_router_shape s = shape_of(64, 1, MOXIE_SCORE_GIVEN, 0);
		s.n_tok_max = T;
		const plan plan(s);
		dev<int32_t> id(std::vector<int32_t>(T, 63));
		dev<float> w(std::vector<float>(T, 1.f));
		dev<uint8_t> ws(moxie_router_ws_bytes(plan.p));
		outputs o(T, 1, 64, 8);
		struct moxie_router_args a = {};
		a.n_tok = T, a.ws = ws.p, a.topk_id_in = id.p, a.topk_w_in = w.p;
		o.bind(a, 8);
		struct moxie_err err = {};
		OK(moxie_router_run(plan.p, &a, 0, &err), err);
		CU(cudaDeviceSynchronize());
		check_tables(o, std::vector<int32_t>(T, 63), T, 1, 64, 8, "one expert");
		route_case(shape_of(8, 8, MOXIE_SCORE_SOFTMAX, 1), T, variant());
		route_case(shape_of(16, 16, MOXIE_SCORE_SIGMOID, 1), T, variant());
	}
}

/* 819,200 random tokens a rule: the same experts as the twin, and as double but for ties within rounding. */
TEST(sets_819200)
{
	struct rule {
		const char *name;
		struct moxie_router_shape s;
		bool bias;
	} rules[] = { { "gpt-oss", shape_of(32, 4, 0, 1), false },   { "gpt-oss-120b", shape_of(128, 4, 0, 1), false },
		      { "gemma4", shape_of(128, 8, 0, 1), false },   { "qwen3 no renorm", shape_of(128, 8, 0, 0), false },
		      { "deepseek-v3", shape_of(256, 8, 1, 1), true }, { "deepseek-v4", shape_of(256, 6, 2, 1), true } };
	rules[4].s.n_group = 8, rules[4].s.n_group_used = 4;
	const int T = 65536, rounds = 13; /* 851,968 */
	for (auto &r : rules) {
		r.s.n_tok_max = T;
		const plan plan(r.s);
		const int E = r.s.n_expert, k = r.s.n_used;
		dev<uint8_t> ws(moxie_router_ws_bytes(plan.p));
		outputs o(T, k, E, 64);
		std::vector<float> sb(E);
		for (auto &x : sb)
			x = 0.2f * rnd_normal();
		dev<float> d_sb(sb), d_l((size_t)T * E);
		std::vector<float> l((size_t)T * E);
		std::vector<int> bad(64), far(64);
		for (int round = 0; round < rounds; round++) {
			const uint64_t seed = rnd_u64();
			spread(T, [&](int t0, int t1) {
				uint64_t x = seed + (uint64_t)t0 * 0x9E3779B97F4A7C15u;
				for (size_t i = (size_t)t0 * E; i < (size_t)t1 * E; i++) {
					x += 0x9E3779B97F4A7C15u;
					uint64_t z = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
					z = (z ^ z >> 27) * 0x94D049BB133111EBu, z ^= z >> 31;
					const float u = (float)(z & 0xffff) + (float)(z >> 16 & 0xffff) + (float)(z >> 32 & 0xffff) + (float)(z >> 48);
					l[i] = from_bf16(to_bf16((u / 65536 - 2) * 3)); /* bf16 logits: ties are common */
				}
			});
			d_l.put(l);
			struct moxie_router_args a = {};
			a.n_tok = T, a.ws = ws.p, a.logits = d_l.p, a.select_bias = r.bias ? d_sb.p : nullptr;
			o.poison(), o.bind(a, 64);
			struct moxie_err err = {};
			OK(moxie_router_run(plan.p, &a, 0, &err), err);
			CU(cudaDeviceSynchronize());
			const auto id = o.id.get();
			const auto w = o.w.get();
			struct ref_in in = {};
			in.logits = l.data(), in.n_tok_real = T, in.select_bias = r.bias ? sb.data() : nullptr;
			std::vector<int> bad_of(T), far_of(T);
			spread(T, [&](int t0, int t1) {
				for (int t = t0; t < t1; t++) {
					int32_t want[16];
					float ww[16];
					ref_route_token(&r.s, &in, t, want, ww);
					bad_of[t] = memcmp(want, &id[(size_t)t * k], 4 * k) || memcmp(ww, &w[(size_t)t * k], 4 * k);
					if (r.s.n_group > 1)
						continue;
					/* double: nothing left out may beat what was taken by more than rounding */
					double least = INFINITY, most = -INFINITY;
					bool taken[512] = {};
					for (int i = 0; i < k; i++)
						if (const int e = id[(size_t)t * k + i]; e >= 0 && e < E) taken[e] = true;
					for (int e = 0; e < E; e++) {
						const double x = l[(size_t)t * E + e];
						const double rank = r.s.score == 0 ? x
						                    : (r.s.score == 1 ? 1 / (1 + exp(-x)) : sqrt(fmax(x, 0.) + log1p(exp(-fabs(x))))) +
						                              (r.bias ? sb[e] : 0.);
						if (taken[e])
							least = fmin(least, rank);
						else
							most = fmax(most, rank);
					}
					far_of[t] = most > least + 1e-6;
				}
			});
			for (int t = 0; t < T; t++)
				bad[0] += bad_of[t], far[0] += far_of[t];
		}
		CHECK(bad[0] == 0 && far[0] == 0, "%s: %d tokens differ from the twin, %d from double", r.name, bad[0], far[0]);
		printf("    %-16s %d tokens: ids and weights equal the twin's bits, sets right in double\n", r.name, T * rounds);
	}
}

TEST(repeat_100)
{
	for (int T : { 1, 64, 300, 3000 }) {
		struct moxie_router_shape s = shape_of(128, 8, MOXIE_SCORE_SOFTMAX, 0);
		s.n_tok_max = T, s.n_embd = 2880;
		const plan plan(s);
		std::vector<uint16_t> x((size_t)T * 2880), w((size_t)128 * 2880);
		for (auto &v : x)
			v = to_bf16(rnd_normal());
		for (auto &v : w)
			v = to_bf16(rnd_normal() * 0.02f);
		dev<uint16_t> dx(x), dw(w);
		dev<float> logits((size_t)T * 128);
		dev<uint8_t> ws(moxie_router_ws_bytes(plan.p));
		outputs o(T, 8, 128, 16);
		struct moxie_router_args a = {};
		a.n_tok = T, a.ws = ws.p, a.x = dx.p, a.w_router = dw.p, a.logits_out = logits.p;
		o.bind(a, 16);
		std::vector<int32_t> id, pair, off;
		std::vector<float> wt, l;
		for (int i = 0; i < 100; i++) {
			o.poison(), logits.poison(), ws.poison();
			struct moxie_err err = {};
			OK(moxie_router_run(plan.p, &a, 0, &err), err);
			if (i == 0)
				id = o.id.get(), pair = o.pair.get(), off = o.off.get(), wt = o.w.get(), l = logits.get();
			CHECK(id == o.id.get() && pair == o.pair.get() && off == o.off.get(), "T %d run %d: tables changed", T, i);
			const auto wt2 = o.w.get(), l2 = logits.get();
			CHECK(!memcmp(wt2.data(), wt.data(), 4 * wt.size()) && !memcmp(l2.data(), l.data(), 4 * l.size()), "T %d run %d", T, i);
		}
	}
}

/* What the twin makes of logits l [T, n_expert], rows from n_real on being padding. */
struct ref_routing {
	std::vector<int32_t> id;
	std::vector<float> w;
	ref_routing(const struct moxie_router_shape &s, const std::vector<float> &l, int T, int n_real) : id((size_t)T * s.n_used), w((size_t)T * s.n_used)
	{
		struct ref_in in = {};
		in.logits = l.data(), in.n_tok_real = n_real;
		for (int t = 0; t < T; t++)
			ref_route_token(&s, &in, t, &id[(size_t)t * s.n_used], &w[(size_t)t * s.n_used]);
	}
};

/* The run of a once more with some of its T rows as padding: these claim no expert, the others what the logits l say. */
static void padded_run(const plan &p, struct moxie_router_args a, const struct moxie_router_shape &s, outputs &o, const std::vector<float> &l, int E, int T)
{
	const int n_real = rnd_int(T), k = s.n_used;
	dev<int32_t> real(std::vector<int32_t>{ n_real });
	struct moxie_err err = {};
	a.n_tok_real = real.p;
	const ref_routing want(s, l, T, n_real);
	o.poison();
	OK(moxie_router_run(p.p, &a, 0, &err), err);
	CU(cudaDeviceSynchronize());
	const auto got_w = o.w.get();
	CHECK(o.id.get() == want.id, "E %d T %d: experts of %d rows and padding", E, T, n_real);
	CHECK(!memcmp(got_w.data(), want.w.data(), 4 * want.w.size()), "E %d T %d: weights of %d rows and padding", E, T, n_real);
	check_tables(o, want.id, T, k, E, 16, "with padding");
}

/* logits against double, joined and separate bit-equal, one token alone and in a batch bit-equal, tables right. */
static void gemm_case(int E, int K, int T, int bias_dtype, int flags = 0)
{
	const int k = std::min(E, 6);
	const auto x = random_bf16((size_t)T * K, 1), w = random_bf16((size_t)E * K, 0.03f), b16 = random_bf16(E, 1);
	std::vector<float> b(E);
	std::transform(b16.begin(), b16.end(), b.begin(), from_bf16);
	dev<uint16_t> dx(x), dw(w), db16(b16);
	dev<float> db(b), la((size_t)T * E), lb((size_t)T * E), lc((size_t)E);
	const void *bias = bias_dtype < 0 ? nullptr : bias_dtype ? (void *)db16.p : (void *)db.p;
	struct moxie_router_shape s = shape_of(E, k, MOXIE_SCORE_SOFTMAX, 1);
	s.n_tok_max = std::max(T, 1), s.n_embd = K, s.bias_dtype = std::max(bias_dtype, 0), s.flags = flags;
	const plan p(s);
	dev<uint8_t> ws(moxie_router_ws_bytes(p.p));
	outputs o(T, k, E, 16);
	struct moxie_router_args a = {};
	a.n_tok = T, a.ws = ws.p, a.x = dx.p, a.w_router = dw.p, a.b_router = bias, a.logits_out = la.p;
	o.bind(a, 16);
	struct moxie_err err = {};
	if (T <= ROUTE_JOIN_TOK_MAX && E <= ROUTE_JOIN_EXPERT_MAX && !test_cap())
		p.p->join_tok_max = ROUTE_JOIN_TOK_MAX; /* the joined launch, also where it is not the choice */
	OK(moxie_router_run(p.p, &a, 0, &err), err);
	OK(moxie_router_gemm_run(p.p, dx.p, dw.p, bias, lb.p, T, ws.p, 0, &err), err);
	CU(cudaDeviceSynchronize());
	const auto l = la.get(), l2 = lb.get();
	CHECK(!memcmp(l.data(), l2.data(), 4 * l.size()), "E %d K %d T %d: joined and separate logits differ", E, K, T);
	CHECK(la.guard_ok() && lb.guard_ok(), "E %d K %d T %d: guard", E, K, T);
	if (T && (T < p.p->lib_tok_min || !p.p->lib)) {
		const int t = rnd_int(T);
		OK(moxie_router_gemm_run(p.p, dx.p + (size_t)t * K, dw.p, bias, lc.p, 1, ws.p, 0, &err), err);
		const auto one = lc.get();
		CHECK(!memcmp(one.data(), &l[(size_t)t * E], 4 * E), "E %d K %d T %d: token %d differs alone", E, K, T, t);
	}
	double worst = 0, norm = 0;
	for (int i = 0; i < std::min(T * E, 4000); i++) {
		const int j = T * E <= 4000 ? i : rnd_int(T * E), t = j / E, e = j % E;
		double sum = bias ? b[e] : 0, mag = fabs(sum);
		for (int c = 0; c < K; c++) {
			const double q = (double)from_bf16(x[(size_t)t * K + c]) * from_bf16(w[(size_t)e * K + c]);
			sum += q, mag += fabs(q);
		}
		worst = fmax(worst, fabs(l[j] - sum) / mag), norm = fmax(norm, mag);
	}
	CHECK(worst < 2e-6, "E %d K %d T %d: error %.3g of the sum of magnitudes", E, K, T, worst);
	const ref_routing want(s, l, T, T);
	const auto got_w = o.w.get();
	CHECK(o.id.get() == want.id && !memcmp(got_w.data(), want.w.data(), 4 * want.w.size()), "E %d K %d T %d: routing of the logits", E, K, T);
	check_tables(o, want.id, T, k, E, 16, "after the GEMM");
	if (T)
		padded_run(p, a, s, o, l, E, T);
}

/* Rows before their norm: logits against double of what is multiplied, normed rows against double, alone as in a batch, tables right. */
static void norm_case(int E, int K, int T)
{
	const int k = std::min(E, 4);
	const float eps = 1e-5f;
	const auto x = random_bf16((size_t)T * K, 3), w = random_bf16((size_t)E * K, 0.03f), b = random_bf16(E, 1), g = random_bf16(K, 0.3f, 1);
	dev<uint16_t> dx(x), dw(w), db(b), dg(g), h((size_t)T * K), h_alone(K);
	dev<float> la((size_t)T * E), lc(E);
	struct moxie_router_shape s = shape_of(E, k, MOXIE_SCORE_SOFTMAX, 1);
	s.n_tok_max = T, s.n_embd = K, s.bias_dtype = MOXIE_LOGIT_BF16;
	const plan p(s);
	if (T <= ROUTE_JOIN_TOK_MAX)
		p.p->join_tok_max = ROUTE_JOIN_TOK_MAX;
	if (T > moxie_router_norm_max(p.p)) {
		CHECK(p.p->lib || p.p->portable, "E %d K %d T %d: nothing norms", E, K, T);
		return;
	}
	dev<uint8_t> ws(moxie_router_ws_bytes(p.p));
	outputs o(T, k, E, 16), o_alone(1, k, E, 16);
	struct moxie_router_args a = {};
	struct moxie_err err = {};
	a.n_tok = T, a.ws = ws.p, a.x = dx.p, a.w_router = dw.p, a.b_router = db.p, a.logits_out = la.p, a.norm = dg.p, a.h = h.p, a.eps = eps;
	o.bind(a, 16);
	OK(moxie_router_run(p.p, &a, 0, &err), err);
	CU(cudaDeviceSynchronize());
	const auto l = la.get();
	const auto got = h.get();
	CHECK(la.guard_ok() && h.guard_ok(), "E %d K %d T %d: guard", E, K, T);
	double worst = 0;
	for (int t = 0; t < T; t++) {
		const uint16_t *const row = &x[(size_t)t * K];
		double sq = 0;
		for (int c = 0; c < K; c++)
			sq += (double)from_bf16(row[c]) * from_bf16(row[c]);
		const double r = 1 / sqrt(sq / K + eps);
		for (int c = 0; c < K; c++) {
			const double want = from_bf16(row[c]) * r * from_bf16(g[c]);
			CHECK(fabs(from_bf16(got[(size_t)t * K + c]) - want) <= fabs(want) / 255, "E %d K %d T %d: h[%d][%d] is %g, wanted %g", E, K, T, t, c,
			      from_bf16(got[(size_t)t * K + c]), want);
		}
		for (int e = 0; e < E; e++) {
			double sum = 0, mag = fabs(from_bf16(b[e]));
			for (int c = 0; c < K; c++) {
				const double q = (double)from_bf16(to_bf16(from_bf16(row[c]) * from_bf16(g[c]))) * from_bf16(w[(size_t)e * K + c]);
				sum += q, mag += fabs(q) * r;
			}
			worst = fmax(worst, fabs(l[(size_t)t * E + e] - (sum * r + from_bf16(b[e]))) / mag);
		}
	}
	CHECK(worst < 2e-6, "E %d K %d T %d: error %.3g of the sum of magnitudes", E, K, T, worst);
	const ref_routing want(s, l, T, T);
	CHECK(o.id.get() == want.id, "E %d K %d T %d: routing of the logits", E, K, T);
	check_tables(o, want.id, T, k, E, 16, "after the norm");
	padded_run(p, a, s, o, l, E, T);
	const int t = rnd_int(T);
	p.p->join_tok_max = ROUTE_JOIN_TOK_MAX;
	a.n_tok = 1, a.x = dx.p + (size_t)t * K, a.logits_out = lc.p, a.h = h_alone.p;
	o_alone.bind(a, 16);
	OK(moxie_router_run(p.p, &a, 0, &err), err);
	CU(cudaDeviceSynchronize());
	const auto one = lc.get();
	const auto h_one = h_alone.get();
	CHECK(!memcmp(one.data(), &l[(size_t)t * E], 4 * E) && !memcmp(h_one.data(), &got[(size_t)t * K], 2 * K), "E %d K %d T %d: token %d differs alone", E,
	      K, T, t);
}
TEST(norm_and_gemm)
{
	for (int T : { 1, 2, 7, 8, 9, 16, 17, 31, 64, 65, 128, 200 }) {
		norm_case(32, 2880, T);
		norm_case(128, 2880, T);
		norm_case(64, 4096, T);
		norm_case(8, 64, T);
	}
}

TEST(gemm_and_joined)
{
	for (int T : { 17, 18, 32, 47, 48, 49, 63 }) { /* joined for few experts */
		gemm_case(32, 2880, T, MOXIE_LOGIT_BF16), gemm_case(32, 4096, T, -1), gemm_case(9, 704, T, MOXIE_LOGIT_F32);
		gemm_case(16, 64, T, -1);
		gemm_case(32, 2880, T, MOXIE_LOGIT_BF16, MOXIE_ROUTER_APART);
	}
	for (int T : { 0, 1, 2, 7, 8, 9, 16, 31, 33, 64, 65, 128, 257, 1024 }) {
		gemm_case(32, 2880, T, MOXIE_LOGIT_BF16);
		gemm_case(128, 2880, T, MOXIE_LOGIT_BF16);
		gemm_case(128, 2816, T, -1);
		gemm_case(256, 4096, T, -1);
	}
	for (int T : { 1, 8, 40, 300 }) {
		gemm_case(8, 64, T, MOXIE_LOGIT_F32), gemm_case(60, 704, T, MOXIE_LOGIT_F32), gemm_case(64, 128, T, -1);
		gemm_case(256, 7168, T, -1), gemm_case(384, 7168, T, -1), gemm_case(512, 192, T, MOXIE_LOGIT_F32);
		gemm_case(100, 1024, T, MOXIE_LOGIT_BF16);
	}
	gemm_case(128, 2880, 8192, MOXIE_LOGIT_BF16);
}

/* Captured once, replayed on new inputs; with programmatic dependent launch between the steps. */
TEST(graph)
{
	for (int T : { 4, 64, 2000 }) {
		struct moxie_router_shape s = shape_of(128, 8, MOXIE_SCORE_SOFTMAX, 1);
		s.n_tok_max = T;
		const plan plan(s);
		dev<float> l((size_t)T * 128);
		dev<uint8_t> ws(moxie_router_ws_bytes(plan.p));
		outputs o(T, 8, 128, 16), o2(T, 8, 128, 16);
		cudaStream_t st;
		cudaGraph_t g;
		cudaGraphExec_t x;
		CU(cudaStreamCreate(&st));
		CU(cudaStreamBeginCapture(st, cudaStreamCaptureModeGlobal));
		struct moxie_router_args a = {};
		struct moxie_err err = {};
		a.n_tok = T, a.ws = ws.p, a.logits = l.p;
		o.bind(a, 16);
		OK(moxie_router_run(plan.p, &a, st, &err), err);
		o2.bind(a, 16);
		OK(moxie_router_run(plan.p, &a, st, &err), err);
		CU(cudaStreamEndCapture(st, &g));
		CU(cudaGraphInstantiate(&x, g, 0));
		for (int i = 0; i < 20; i++) {
			const auto v = random_logits((size_t)T * 128, TIES);
			l.put(v), o.poison(), o2.poison();
			CU(cudaGraphLaunch(x, st));
			CU(cudaStreamSynchronize(st));
			const ref_routing want(s, v, T, T);
			CHECK(o.id.get() == want.id && o2.id.get() == want.id, "T %d replay %d", T, i);
			check_tables(o, want.id, T, 8, 128, 16, "replay"), check_tables(o2, want.id, T, 8, 128, 16, "replay, second");
		}
		CU(cudaGraphExecDestroy(x));
		CU(cudaGraphDestroy(g));
		CU(cudaStreamDestroy(st));
	}
}

/* Every launch and mode once on small inputs: what the sanitizers run (memcheck, racecheck, initcheck, synccheck). */
TEST(sanitize)
{
	for (int T : { 1, 5, 40, 600 }) {
		variant v;
		v.kind = ODD;
		route_case(shape_of(32, 4, MOXIE_SCORE_SOFTMAX, 1), T, v);
		route_case(shape_of(60, 3, MOXIE_SCORE_SOFTMAX, 0), T, v);
		v.padding = true;
		route_case(shape_of(64, 6, MOXIE_SCORE_GIVEN, 0), T, v);
		v.select_bias = true;
		struct moxie_router_shape s = shape_of(256, 8, MOXIE_SCORE_SIGMOID, 1);
		s.n_group = 8, s.n_group_used = 4;
		route_case(s, T, v);
		v.select_bias = false, v.hash = true;
		route_case(shape_of(64, 6, MOXIE_SCORE_SQRTSOFTPLUS, 1), T, v);
	}
	for (int T : { 1, 5, 16, 40 })
		gemm_case(128, 192, T, MOXIE_LOGIT_BF16), gemm_case(24, 64, T, -1);
}

TEST(refusals)
{
	struct moxie_router_plan *p;
	struct moxie_err err = {};
	struct moxie_router_shape good = shape_of(128, 8, MOXIE_SCORE_SOFTMAX, 1), s;
	good.n_tok_max = 16, good.n_embd = 2880;
#define REFUSED(change, code)                                                                     \
	do {                                                                                      \
		s = good;                                                                         \
		change;                                                                           \
		const int rc = moxie_router_plan_create(&p, &s, 0, &err);                         \
		CHECK(rc == code && !p && err.text[0], "%s: %d (%s)", #change, rc, err.text);     \
	} while (0)
	REFUSED(s.n_expert = 0, MOXIE_E_ARG);
	REFUSED(s.n_expert = 513, MOXIE_E_ARG);
	REFUSED(s.n_expert = 7, MOXIE_E_ARG);
	REFUSED(s.n_used = 17, MOXIE_E_ARG);
	REFUSED(s.n_used = 0, MOXIE_E_ARG);
	REFUSED((s.n_expert = 8, s.n_used = 9), MOXIE_E_ARG);
	REFUSED(s.n_embd = 2900, MOXIE_E_SHAPE);
	REFUSED(s.score = 4, MOXIE_E_ARG);
	REFUSED(s.n_tok_max = 0, MOXIE_E_ARG);
	REFUSED((s.n_group = 3, s.n_group_used = 1), MOXIE_E_SHAPE);
	REFUSED((s.n_group = 8, s.n_group_used = 9), MOXIE_E_ARG);
	REFUSED((s.n_group = 32, s.n_group_used = 1), MOXIE_E_ARG);
	REFUSED((s.expert_first = 100, s.n_expert_here = 29), MOXIE_E_ARG);
	const plan plan(good);
	dev<uint8_t> mem(4 << 20);
	struct moxie_router_args a = {}, b;
	a.n_tok = 16, a.x = mem.p, a.w_router = mem.p, a.ws = mem.p, a.topk_id = (int32_t *)mem.p, a.topk_w = (float *)mem.p;
	a.expert_off = (int32_t *)mem.p, a.sorted_pair = (int32_t *)mem.p, a.tiles = a.head = mem.p, a.tile_n = 16;
#define BAD_ARG(change)                                                                           \
	do {                                                                                      \
		b = a;                                                                            \
		change;                                                                           \
		const int rc = moxie_router_run(plan.p, &b, 0, &err);                             \
		CHECK(rc == MOXIE_E_ARG && err.text[0], "%s: %d", #change, rc);                   \
	} while (0)
	BAD_ARG(b.n_tok = -1);
	BAD_ARG(b.n_tok = 17);
	BAD_ARG(b.x = NULL);
	BAD_ARG(b.x = mem.p + 8);
	BAD_ARG(b.topk_id = NULL);
	BAD_ARG(b.tile_n = 12);
	BAD_ARG(b.head = NULL);
	BAD_ARG(b.select_bias = (float *)mem.p);
	BAD_ARG((b.hash_table = (int32_t *)mem.p, b.tok_id = (int32_t *)mem.p));
	char text[600];
	moxie_router_explain(plan.p, text, sizeof text);
	printf("%s", text);
}

TEST_MAIN
