/* bench_moe - the MoE layer on the device: from logits to combined output, or the experts alone.
 *
 * One CUDA graph holds n_call calls, each with its own routing (and with two weight sets where one is small), so that no call
 * finds its weights in L2; value = median replay / n_call.  Random data.  Prints CSV with floor and fraction.
 * Usage: bench_moe [--experts] [--shape ds|20b|120b|gemma] [--tokens 1,4,...] [--replays n] [--rest ms] [--routing even|same|half] [--portable] [--smem bytes]
 *                  [--header text]
 *   --routing   even: random experts; same: all tokens have the experts of the first; half: random experts of even number, the others get nothing
 *   --portable, --smem   the kernels for devices without wgmma and TMA, with that much shared memory a block
 *   --rest      pause before each replay: the clock of a rested chip instead of the sustained, power-limited one
 *   --experts   tables are given and reset by a small kernel (about 1 us a call); otherwise routing is part of the time
 */
#include <unistd.h>

#include "../tests/cuda/moe_data.cuh"
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/ptx.cuh"

#ifndef BENCH_ROUTE
#define BENCH_ROUTE 1
#endif

struct shape {
	const char *name;
	moe_model m;
	int act;
	std::vector<int> n_tok;
	std::vector<double> goal; /* us */
};

/* Start of a call without routing: zero the counters that routing would have written. */
__global__ void reset_tables(moe_tile *tiles, moe_head *head)
{
	pdl_launch();
	pdl_wait();
	for (int i = threadIdx.x; i < head->n_tile; i += blockDim.x)
		tiles[i].done = 0;
	if (threadIdx.x < 7) head->zero[threadIdx.x] = 0;
}

static int portable, smem_limit;
static const char *routing = "even";

/* k experts a token as --routing says. */
static void make_routing(const moe_model &m, int n_tok, uint64_t seed, std::vector<int32_t> &id, std::vector<float> &w)
{
	moe_model part = m;
	if (!strcmp(routing, "half")) part.n_expert /= 2;
	moe_make_routing(part, n_tok, ROUTE_EVEN, seed, id, w);
	for (size_t p = 0; p < id.size(); p++) {
		if (!strcmp(routing, "half")) id[p] *= 2;
		if (!strcmp(routing, "same")) id[p] = id[p % m.n_used];
	}
}

static double median(std::vector<float> v)
{
	std::sort(v.begin(), v.end());
	return v[v.size() / 2];
}

static void bench(const shape &s, const std::vector<int> &tokens, bool experts_only, int replays, int rest_ms)
{
	const moe_model &m = s.m;
	const int n_set = m.n_expert <= 64 ? 2 : 1, max_tok = *std::max_element(tokens.begin(), tokens.end());
	std::vector<moxie_moe_weights> w;
	for (int i = 0; i < n_set; i++) {
		moe_model mi = m;
		mi.seed += i;
		w.push_back(moe_make_weights(mi));
	}
	moxie_err err = {};
	moxie_moe_plan *plan;
	moxie_moe_desc d = m.desc(max_tok);
	d.act = s.act;
	d.portable = portable;
	d.smem_limit = smem_limit;
	if (moxie_moe_plan_create(&plan, &d, 0, &err) < 0) {
		fprintf(stderr, "plan: %s\n", err.text);
		exit(1);
	}
	char text[2048];
	moxie_moe_plan_explain(plan, text, sizeof text);
	fprintf(stderr, "%s", text);
	__nv_bfloat16 *x = (__nv_bfloat16 *)device_alloc((size_t)max_tok * m.n_embd * 2), *out = (__nv_bfloat16 *)device_alloc((size_t)max_tok * m.n_embd * 2);
	moe_fill_x<<<256, 256>>>(x, 3, (int64_t)max_tok * m.n_embd);
	for (size_t it = 0; it < tokens.size(); it++) {
		const int n_tok = tokens[it], n_call = n_tok <= 64 ? 16 : n_tok <= 512 ? 8 : 4, tile_n = moxie_moe_plan_tile_n(plan, n_tok);
		std::vector<moe_tables_block> tables(n_call);
		double n_hit = 0, n_tile = 0;
		std::vector<float *> logits(n_call, NULL);
		for (int c = 0; c < n_call; c++) {
			std::vector<int32_t> id;
			std::vector<float> tw;
			make_routing(m, n_tok, 1000 + c * 17 + n_tok, id, tw);
			tables[c].make(m, n_tok, tile_n, id, tw);
			std::vector<char> hit(m.n_expert);
			for (int e : id)
				hit[e] = 1;
			n_hit += std::count(hit.begin(), hit.end(), 1) / (double)n_call;
			moxie_moe_tables h;
			moxie_moe_tables_cut(&h, tables[c].host.data(), n_tok, m.n_used, m.n_expert, tile_n);
			n_tile += ((moe_head *)h.head)->n_tile / (double)n_call;
			std::vector<float> l((size_t)n_tok * m.n_expert, -10);
			for (int p = 0; p < n_tok * m.n_used; p++)
				l[(size_t)(p / m.n_used) * m.n_expert + id[p]] = hash32(p + c * 999983ull) % 1000 / 500.f;
			logits[c] = (float *)device_alloc(l.size() * 4);
			CU(cudaMemcpy(logits[c], l.data(), l.size() * 4, cudaMemcpyHostToDevice));
		}
		void *ws = device_alloc(moxie_moe_plan_workspace_bytes(plan, n_tok));
#if BENCH_ROUTE
		moxie_router_shape rs = {};
		rs.n_expert = m.n_expert;
		rs.n_used = m.n_used;
		rs.score = MOXIE_SCORE_SOFTMAX;
		rs.renormalise = 1;
		rs.n_tok_max = n_tok;
		struct moxie_router_plan *router;
		if (moxie_router_plan_create(&router, &rs, 0, &err) < 0) {
			fprintf(stderr, "router: %s\n", err.text);
			exit(1);
		}
		void *router_ws = device_alloc(moxie_router_ws_bytes(router));
#endif
		cudaStream_t stream;
		CU(cudaStreamCreate(&stream));
		const auto call = [&](int c) {
			moxie_moe_tables &t = tables[c].t;
			if (experts_only) {
				CU(cuda_launch(reset_tables, dim3(1), dim3(256), 0, stream, (moe_tile *)t.tiles, (moe_head *)t.head));
			} else {
#if BENCH_ROUTE
				moxie_router_args ra = {};
				ra.n_tok = n_tok;
				ra.tile_n = tile_n;
				ra.logits = logits[c];
				ra.topk_id = t.topk_id;
				ra.topk_w = t.topk_w;
				ra.expert_off = t.expert_off;
				ra.sorted_pair = t.sorted_pair;
				ra.tiles = t.tiles;
				ra.head = t.head;
				ra.tok_done = t.tok_done;
				ra.ws = router_ws;
				if (moxie_router_run(router, &ra, stream, &err) < 0) {
					fprintf(stderr, "route: %s\n", err.text);
					exit(1);
				}
#endif
			}
			moxie_moe_args a = {};
			a.x = x;
			a.w = &w[c % n_set];
			a.t = &t;
			a.out = out;
			a.workspace = ws;
			a.n_tok = n_tok;
			if (moxie_moe_run(plan, &a, stream, &err) < 0) {
				fprintf(stderr, "run: %s\n", err.text);
				exit(1);
			}
		};
		CU(cudaDeviceSynchronize());
		cudaGraph_t graph;
		cudaGraphExec_t exec;
		CU(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
		for (int c = 0; c < n_call; c++)
			call(c);
		CU(cudaStreamEndCapture(stream, &graph));
		CU(cudaGraphInstantiate(&exec, graph, 0));
		cudaEvent_t a, b;
		CU(cudaEventCreate(&a));
		CU(cudaEventCreate(&b));
		std::vector<float> us;
		for (int r = 0; r < replays + 3; r++) {
			float ms;
			if (rest_ms) usleep(rest_ms * 1000);
			CU(cudaEventRecord(a, stream));
			CU(cudaGraphLaunch(exec, stream));
			CU(cudaEventRecord(b, stream));
			CU(cudaEventSynchronize(b));
			CU(cudaEventElapsedTime(&ms, a, b));
			if (r >= 3) us.push_back(ms * 1000 / n_call);
		}
		const double t = median(us), bytes = n_hit * 3.0 * m.n_embd * m.n_ff * 4.25 / 8, flop = 6.0 * n_tok * m.n_used * m.n_embd * m.n_ff;
		const double act = 4.0 * n_tok * m.n_embd + 4.0 * n_tok * m.n_used * m.n_ff, floor = std::max((bytes + act) / 4.3e6, flop / 790e6);
		const double goal = it < s.goal.size() && tokens == s.n_tok ? s.goal[it] : 0;
		printf("%s,%d,%s,%s,%.1f,%.1f,%.1f,%.2f,%.1f,%.1f,%.2f,%.0f,%s\n", s.name, n_tok, experts_only ? "experts" : "whole", "mxfp4", n_hit, n_tile, t,
		       bytes / t / 1e6, flop / t / 1e6, floor, floor / t, goal, goal ? t <= goal ? "yes" : "NO" : "");
		fflush(stdout);
		CU(cudaGraphExecDestroy(exec));
		CU(cudaGraphDestroy(graph));
		CU(cudaStreamDestroy(stream));
		for (float *p : logits)
			CU(cudaFree(p));
		CU(cudaFree(ws));
#if BENCH_ROUTE
		CU(cudaFree(router_ws));
		moxie_router_plan_free(router);
#endif
	}
	moxie_moe_plan_free(plan);
	for (auto &i : w)
		moe_free_weights(i);
	CU(cudaFree(x));
	CU(cudaFree(out));
}

int main(int argc, char **argv)
{
	std::vector<shape> shapes = {
		{ "ds", { 256, 6, 4096, 2048, 0, 0, 1 }, MOXIE_ACT_SWIGLU_CLAMP, { 1, 4, 16, 64, 256, 1024, 2048, 4096, 8192 }, { 26, 85, 290, 710, 920, 1000, 1320, 1950, 3700 } },
		{ "20b", { 32, 4, 2880, 2880, 0, 1, 2 }, MOXIE_ACT_SWIGLU_CLAMP, { 1, 4, 16, 64, 256, 1024, 4096 }, { 20, 52, 104, 116, 140, 310, 1200 } },
		{ "120b", { 128, 4, 2880, 2880, 0, 1, 3 }, MOXIE_ACT_SWIGLU_CLAMP, { 1, 4, 16, 64, 256, 1024, 4096 }, {} },
		{ "gemma", { 128, 8, 2816, 704, 0, 0, 4 }, MOXIE_ACT_GEGLU_TANH, { 1, 4, 16, 64, 256, 1024, 4096 }, {} },
	};
	bool experts_only = !BENCH_ROUTE;
	const char *only = NULL, *header = "";
	std::vector<int> tokens;
	int replays = 30, rest_ms = 0;
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--experts")) experts_only = true;
		else if (!strcmp(argv[i], "--portable")) portable = 1;
		else if (!strcmp(argv[i], "--smem") && i + 1 < argc) smem_limit = atoi(argv[++i]);
		else if (!strcmp(argv[i], "--shape") && i + 1 < argc) only = argv[++i];
		else if (!strcmp(argv[i], "--replays") && i + 1 < argc) replays = atoi(argv[++i]);
		else if (!strcmp(argv[i], "--rest") && i + 1 < argc) rest_ms = atoi(argv[++i]);
		else if (!strcmp(argv[i], "--routing") && i + 1 < argc && (!strcmp(argv[i + 1], "even") || !strcmp(argv[i + 1], "same") || !strcmp(argv[i + 1], "half")))
			routing = argv[++i];
		else if (!strcmp(argv[i], "--header") && i + 1 < argc) header = argv[++i];
		else if (!strcmp(argv[i], "--tokens") && i + 1 < argc)
			for (char *p = argv[++i]; *p; p += *p == ',')
				tokens.push_back((int)strtol(p, &p, 10));
		else {
			fprintf(stderr, "usage: bench_moe [--experts] [--shape ds|20b|120b|gemma] [--tokens 1,4,...] [--replays n] [--rest ms] [--routing even|same|half] [--portable] [--smem bytes] [--header text]\n");
			return 2;
		}
	}
	cudaDeviceProp prop;
	CU(cudaGetDeviceProperties(&prop, 0));
	printf("# %s, %d SMs; %s\n", prop.name, prop.multiProcessorCount, header);
	printf("# command: bench_moe");
	for (int i = 1; i < argc; i++)
		printf(" %s", argv[i]);
	printf("\n# floor: max(weight + activation bytes / 4.3 TB/s, flops / 790 TFLOP/s)\n");
	printf("shape,n_tok,what,weights,experts_hit,tiles,us,weight_TB_s,TFLOP_s,floor_us,fraction,goal_us,met\n");
	for (const shape &s : shapes)
		if (!only || !strcmp(only, s.name)) bench(s, tokens.empty() ? s.n_tok : tokens, experts_only, replays, rest_ms);
	return 0;
}
