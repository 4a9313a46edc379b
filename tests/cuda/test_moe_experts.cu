/* test_moe_experts - the expert kernels against a double oracle over fresh random data.
 *
 * Bound: ||out - ref|| / ||ref|| <= 4e-3 and max |out - ref| <= 3e-2 max |ref| (bf16 activations between the products and a
 * bf16 result: each rounding is 1.7e-3 in the first measure); 8e-3 for each token alone.
 * Usage: test_moe_experts [--list] [--seed n] [--most n_tok] [name ...]        a name selects every test that begins with it
 */
#include <string>
#include <time.h>

#include "cap.cuh"
#include "moe_data.cuh"

static uint64_t seed;
static int n_pass, n_fail;

struct run_options {
	int kind = ROUTE_EVEN, act = MOXIE_ACT_SWIGLU_CLAMP, extras = 0, repeats = 1, graph = 0, want_nan = 0;
};

static double to_double(__nv_bfloat16 v) { return __bfloat162float(v); }

/* One run of n_tok tokens compared with the oracle; "" or what is wrong. */
static std::string check(const moe_model &m, const moxie_moe_weights &w, int n_tok, const run_options &o)
{
	char text[300];
	moxie_err err = {};
	moxie_moe_plan *plan;
	moxie_moe_desc d = m.desc(n_tok + 3);
	d.act = o.act;
	d.portable = test_cap() > 0;
	d.smem_limit = test_cap();
	if (o.extras) d.routed_scale = 2.5f;
	if (moxie_moe_plan_create(&plan, &d, 0, &err) < 0) return err.text;

	std::vector<int32_t> id;
	std::vector<float> tw;
	moe_make_routing(m, n_tok, o.kind, seed + n_tok, id, tw);
	moe_tables_block tables;
	tables.make(m, n_tok, moxie_moe_plan_tile_n(plan, n_tok), id, tw);

	const int64_t n = (int64_t)n_tok * m.n_embd;
	__nv_bfloat16 *x = (__nv_bfloat16 *)device_alloc(n * 2), *out = (__nv_bfloat16 *)device_alloc(n * 2 + 4096);
	__nv_bfloat16 *residual = NULL, *shared = NULL;
	moe_fill_x<<<256, 256>>>(x, seed + 1, n);
	if (o.extras) {
		residual = (__nv_bfloat16 *)device_alloc(n * 2);
		shared = (__nv_bfloat16 *)device_alloc(n * 2);
		moe_fill_x<<<256, 256>>>(residual, seed + 2, n);
		moe_fill_x<<<256, 256>>>(shared, seed + 3, n);
	}
	const uint64_t ws_bytes = moxie_moe_plan_workspace_bytes(plan, n_tok);
	void *ws = device_alloc(ws_bytes);
	CU(cudaMemset(ws, 0xff, ws_bytes)); /* NaN everywhere */
	CU(cudaMemset(out, 0xff, n * 2 + 4096));
	moxie_moe_args a = {};
	a.x = x;
	a.w = &w;
	a.t = &tables.t;
	a.residual = residual;
	a.shared = shared;
	a.out = out;
	a.workspace = ws;
	a.n_tok = n_tok;

	std::string wrong;
	cudaStream_t stream;
	CU(cudaStreamCreate(&stream));
	CU(cudaDeviceSynchronize());
	std::vector<__nv_bfloat16> got(n + 2048), first;
	for (int r = 0; r < o.repeats && wrong.empty(); r++) {
		if (r) {
			CU(cudaMemsetAsync(ws, r & 1 ? 0x7f : 0xff, ws_bytes, stream));
			CU(cudaMemsetAsync(out, 0xff, n * 2, stream));
			tables.upload(stream);
		}
		if (moxie_moe_run(plan, &a, stream, &err) < 0) wrong = err.text;
		cudaError_t e = cudaStreamSynchronize(stream);
		if (e != cudaSuccess) {
			fprintf(stderr, "device: %s\n", cudaGetErrorString(e));
			exit(1);
		}
		CU(cudaMemcpy(got.data(), out, n * 2 + 4096, cudaMemcpyDeviceToHost));
		if (!r) first = got;
		else if (memcmp(first.data(), got.data(), n * 2)) {
			snprintf(text, sizeof text, "run %d differs from run 0", r);
			wrong = text;
		}
	}
	for (int64_t i = n; i < n + 2048 && wrong.empty(); i++)
		if (((uint16_t *)got.data())[i] != 0xffff) wrong = "wrote past the end of out";

	/* Oracle: all tokens where that is cheap, else a sample with the first and the last. */
	std::vector<int> list;
	const double cost = 3.0 * n_tok * m.n_used * m.n_embd * m.n_ff;
	const int n_list = cost <= 3e9 ? n_tok : std::max(4, std::min(n_tok, (int)(3e9 / (cost / n_tok))));
	for (int i = 0; i < n_list; i++)
		list.push_back(n_list == n_tok ? i : i == 0 ? 0 : i == 1 ? n_tok - 1 : hash32(seed + i * 77) % n_tok);
	if (n_list && wrong.empty()) {
		int *dlist = (int *)device_alloc(n_list * 4);
		const int64_t n_act = (int64_t)n_list * m.n_used * m.n_ff, n_out = (int64_t)n_list * m.n_embd;
		double *act = (double *)device_alloc(n_act * 8), *ref = (double *)device_alloc(n_out * 8);
		CU(cudaMemcpy(dlist, list.data(), n_list * 4, cudaMemcpyHostToDevice));
		oracle_gate_up<<<(unsigned)((n_act + 127) / 128), 128>>>(m, d, x, dlist, tables.t.topk_id, act, n_act);
		oracle_down<<<(unsigned)((n_out + 127) / 128), 128>>>(m, d, act, dlist, tables.t.topk_id, tables.t.topk_w, residual, shared, ref, n_out);
		std::vector<double> want(n_out);
		CU(cudaMemcpy(want.data(), ref, n_out * 8, cudaMemcpyDeviceToHost));
		double e2 = 0, r2 = 0, worst = 0, largest = 0, row_worst = 0;
		int64_t n_nan = 0, bad_nan = 0, at = -1;
		for (int64_t i = 0; i < n_out; i++) {
			const double v = to_double(first[(int64_t)list[i / m.n_embd] * m.n_embd + i % m.n_embd]), r = fabs(want[i]) < 1e-37 ? 0 : want[i]; /* below fp32 */
			if (isnan(r) || isnan(v)) {
				n_nan += isnan(r);
				bad_nan += isnan(r) != isnan(v);
				continue;
			}
			const double e = fabs(v - r);
			e2 += e * e;
			r2 += r * r;
			largest = std::max(largest, fabs(r));
			if (e > worst) worst = e, at = i;
		}
		for (int l = 0; l < n_list; l++) { /* experts with tiny scales must be as good as those with large ones */
			double te = 0, tr = 0;
			for (int c = 0; c < m.n_embd; c++) {
				const double v = to_double(first[(int64_t)list[l] * m.n_embd + c]), r = want[(int64_t)l * m.n_embd + c];
				if (!isnan(r) && !isnan(v)) te += (v - r) * (v - r), tr += r * r;
			}
			if (tr > 1e-60) row_worst = std::max(row_worst, sqrt(te / tr));
		}
		const double rel = r2 > 0 ? sqrt(e2 / r2) : sqrt(e2);
		snprintf(text, sizeof text, "rel %.2e (worst token %.2e) max %.2e of %.3g at token %d channel %d, %lld NaN wanted, %lld wrong", rel, row_worst, worst, largest,
		         at < 0 ? -1 : list[at / m.n_embd], (int)(at < 0 ? -1 : at % m.n_embd), (long long)n_nan, (long long)bad_nan);
		if (!(rel <= 4e-3) || !(worst <= 3e-2 * largest) || !(row_worst <= 8e-3) || bad_nan || (n_nan > 0) != (o.want_nan != 0)) wrong = text;
		else if (getenv("VERBOSE")) printf("    T %d: %s\n", n_tok, text);
		for (void *p : { (void *)dlist, (void *)act, (void *)ref })
			CU(cudaFree(p));
	}
	CU(cudaStreamDestroy(stream));
	for (void *p : { (void *)x, (void *)out, (void *)residual, (void *)shared, ws })
		CU(cudaFree(p));
	moxie_moe_plan_free(plan);
	return wrong;
}

struct test {
	const char *name;
	moe_model m;
	run_options o;
	std::vector<int> n_tok;
};

static std::vector<test> all_tests()
{
	const std::vector<int> sizes = { 0, 1, 2, 3, 4, 7, 8, 9, 31, 64, 65, 257, 1024 };
	std::vector<test> v;
	run_options o, extras, one, holes, repeat, silu, gelu, nan;
	extras.extras = 1;
	one.kind = ROUTE_ONE;
	holes.kind = ROUTE_HOLES;
	repeat.repeats = 100;
	silu.act = MOXIE_ACT_SWIGLU;
	gelu.act = MOXIE_ACT_GEGLU_TANH;
	nan.want_nan = 1;
	v.push_back({ "tiny_64_64", { 4, 2, 64, 64, 0, 1, 0 }, o, sizes });
	v.push_back({ "odd_320_192", { 8, 3, 320, 192, 0, 1, 0 }, o, sizes });
	v.push_back({ "odd_128_704_extras", { 5, 2, 128, 704, 0, 1, 0 }, extras, sizes });
	v.push_back({ "all_experts_used", { 8, 8, 256, 128, 0, 1, 0 }, o, sizes });
	v.push_back({ "silu", { 8, 2, 256, 320, 0, 0, 0 }, silu, { 1, 9, 65, 257 } });
	v.push_back({ "gelu_tanh", { 8, 2, 256, 320, 0, 0, 0 }, gelu, { 1, 9, 65, 257 } });
	v.push_back({ "one_expert", { 8, 2, 448, 192, 0, 1, 0 }, one, sizes });
	v.push_back({ "holes", { 16, 4, 448, 192, 0, 1, 0 }, holes, sizes });
	v.push_back({ "scales_wide", { 6, 1, 256, 192, SCALES_WIDE, 0, 0 }, silu, { 1, 3, 9, 65, 257 } });
	v.push_back({ "scales_nan", { 6, 1, 256, 192, SCALES_NAN, 0, 0 }, nan, { 1, 2, 4, 9, 65 } });
	v.push_back({ "repeat_small", { 8, 3, 320, 192, 0, 1, 0 }, repeat, { 1, 2, 3, 8, 31, 257, 1024 } });
	v.push_back({ "gpt_oss_20b", { 32, 4, 2880, 2880, 0, 1, 0 }, extras, sizes });
	v.push_back({ "gpt_oss_20b_repeat", { 32, 4, 2880, 2880, 0, 1, 0 }, repeat, { 1, 4, 64, 1024 } });
	v.push_back({ "gpt_oss_20b_skew", { 32, 4, 2880, 2880, 0, 1, 0 }, one, { 31, 257 } });
	v.push_back({ "gpt_oss_120b", { 128, 4, 2880, 2880, 0, 1, 0 }, o, { 1, 4, 9, 65, 1024 } });
	v.push_back({ "gemma4", { 128, 8, 2816, 704, 0, 0, 0 }, gelu, { 1, 2, 4, 9, 65, 257, 1024 } });
	v.push_back({ "deepseek_v4", { 256, 6, 4096, 2048, 0, 0, 0 }, silu, { 1, 2, 3, 4, 8, 9, 64, 257, 1024, 2048, 4096 } });
	v.push_back({ "deepseek_v4_repeat", { 256, 6, 4096, 2048, 0, 0, 0 }, repeat, { 4, 16, 2048 } });
	return v;
}

static void test_refusals()
{
	moxie_err err = {};
	moxie_moe_plan *p;
	moe_model m = { 8, 2, 256, 256, 0, 0, 0 };
	bool good = true;
	for (int i = 0; i < 4; i++) {
		moxie_moe_desc d = m.desc(16);
		if (i == 0) d.n_embd = 2881;
		if (i == 1) d.n_ff = 96;
		if (i == 2) d.n_used = 9;
		if (i == 3) d.act = 7;
		good &= moxie_moe_plan_create(&p, &d, 0, &err) < 0 && !p && err.text[0];
		if (i == 0) good &= strstr(err.text, "2881") != NULL;
	}
	/* Pointers of a run; nothing may be launched. */
	moxie_moe_desc d = m.desc(16);
	good &= moxie_moe_plan_create(&p, &d, 0, &err) == 0;
	alignas(256) static char some[512];
	for (int i = 0; good && i < 5; i++) {
		moxie_moe_weights w = { some, some, (float *)some, (float *)some, NULL, NULL };
		moxie_moe_tables t = { (int32_t *)some, (float *)some, (int32_t *)some, (int32_t *)some, some, some, NULL, moxie_moe_plan_tile_n(p, 9) };
		moxie_moe_args a = { some, &w, &t, NULL, NULL, some + 256, some, 9 };
		const char *const want[] = { "x is NULL", "workspace is", "w->down is NULL", "tiles of", "n_tok is 17" };
		if (i == 0) a.x = NULL;
		if (i == 1) a.workspace = some + 128;
		if (i == 2) w.down = NULL;
		if (i == 3) t.tile_n += 8;
		if (i == 4) a.n_tok = 17;
		good &= moxie_moe_run(p, &a, 0, &err) == MOXIE_E_ARG && strstr(err.text, want[i]);
	}
	moxie_moe_plan_free(p);
	printf("%s refusals\n", good ? "ok  " : "FAIL");
	good ? n_pass++ : n_fail++;
}

int main(int argc, char **argv)
{
	std::vector<test> tests = all_tests();
	std::vector<const char *> names;
	int most = INT32_MAX;
	seed = (uint64_t)time(NULL);
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--list")) {
			printf("refusals\n");
			for (test &t : tests)
				printf("%s\n", t.name);
			return 0;
		}
		if (!strcmp(argv[i], "--seed") && i + 1 < argc) seed = strtoull(argv[++i], NULL, 10);
		else if (!strcmp(argv[i], "--most") && i + 1 < argc) most = atoi(argv[++i]);
		else names.push_back(argv[i]);
	}
	const auto wanted = [&](const char *name) {
		bool hit = names.empty();
		for (const char *n : names)
			hit |= !strncmp(name, n, strlen(n));
		return hit;
	};
	printf("seed %llu\n", (unsigned long long)seed);
	if (wanted("refusals")) test_refusals();
	for (test &t : tests) {
		if (!wanted(t.name)) continue;
		t.m.seed = seed;
		moxie_moe_weights w = moe_make_weights(t.m);
		bool good = true;
		for (int n : t.n_tok) {
			if (n > most) continue;
			std::string wrong = check(t.m, w, n, t.o);
			if (!wrong.empty()) {
				printf("FAIL %s, %d tokens: %s\n", t.name, n, wrong.c_str());
				good = false;
			}
		}
		if (good) printf("ok   %s\n", t.name);
		good ? n_pass++ : n_fail++;
		fflush(stdout);
		moe_free_weights(w);
	}
	printf("%d passed, %d failed\n", n_pass, n_fail);
	return n_fail != 0;
}
