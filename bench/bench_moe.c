/* bench_moe.c - see bench_moe.h.  Speaks to the two libraries a user of moxie_ops.h would speak to, both opened at run time: Moxie's
 * kernels, and the CUDA driver for memory, graphs and clocks.  The command itself needs no CUDA to build or start.
 *
 * One graph holds N_CALL calls with different tokens, so that no call finds its weights in the L2 cache (layers of few experts have two
 * sets of weights); a value is the median replay over N_CALL.  Weights are random codes in the checkpoint's layout, packed on the GPU.
 */
#include "bench/bench_moe.h"

#include <dlfcn.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "moxie_ops.h"

enum { N_CALL = 16, MAX_LIST = 16, MAX_SET = 2 };

struct shape {
	const char *name;
	int n_expert, n_used, n_embd, n_ff;
};
static const struct shape shapes[] = {
	{ "gpt-oss-20b", 32, 4, 2880, 2880 }, { "gpt-oss-120b", 128, 4, 2880, 2880 }, { "deepseek-v4-flash", 256, 6, 4096, 2048 }, { 0 },
};

/* ---- the libraries: name, result, arguments ------------------------------------------------------------------------ */
#define OPS(F)                                                                                                                      \
	F(moxie_moe_pack_bytes, int, (int, int, int, struct moxie_moe_pack_sizes *, struct moxie_err *))                                 \
	F(moxie_moe_pack, int, (const struct moxie_moe_pack_args *, void *, struct moxie_err *))                                         \
	F(moxie_moe_plan_create, int, (moxie_moe_plan **, const struct moxie_moe_desc *, int, struct moxie_err *))                       \
	F(moxie_moe_plan_free, void, (moxie_moe_plan *))                                                                                 \
	F(moxie_moe_plan_tile_n, int, (const moxie_moe_plan *, int))                                                                     \
	F(moxie_moe_plan_workspace_bytes, uint64_t, (const moxie_moe_plan *, int))                                                       \
	F(moxie_moe_plan_explain, int, (const moxie_moe_plan *, char *, size_t))                                                         \
	F(moxie_moe_run, int, (const moxie_moe_plan *, const struct moxie_moe_args *, void *, struct moxie_err *))                       \
	F(moxie_moe_tables_bytes, uint64_t, (int, int, int, int))                                                                        \
	F(moxie_moe_tables_cut, void, (struct moxie_moe_tables *, void *, int, int, int, int))                                           \
	F(moxie_router_plan_create, int, (struct moxie_router_plan **, const struct moxie_router_shape *, int, struct moxie_err *))      \
	F(moxie_router_plan_free, void, (struct moxie_router_plan *))                                                                    \
	F(moxie_router_ws_bytes, size_t, (const struct moxie_router_plan *))                                                             \
	F(moxie_router_explain, void, (const struct moxie_router_plan *, char *, size_t))                                                \
	F(moxie_router_run, int, (const struct moxie_router_plan *, const struct moxie_router_args *, void *, struct moxie_err *))
typedef unsigned long long dptr; /* CUdeviceptr */
#define DRIVER(F)                                                                                                                   \
	F(cuInit, int, (unsigned))                                                                                                       \
	F(cuDeviceGet, int, (int *, int))                                                                                                \
	F(cuDeviceGetName, int, (char *, int, int))                                                                                      \
	F(cuDevicePrimaryCtxRetain, int, (void **, int))                                                                                 \
	F(cuCtxSetCurrent, int, (void *))                                                                                                \
	F(cuCtxSynchronize, int, (void))                                                                                                 \
	F(cuMemAlloc_v2, int, (dptr *, size_t))                                                                                          \
	F(cuMemFree_v2, int, (dptr))                                                                                                     \
	F(cuMemcpyHtoD_v2, int, (dptr, const void *, size_t))                                                                            \
	F(cuMemcpyDtoH_v2, int, (void *, dptr, size_t))                                                                                  \
	F(cuStreamCreate, int, (void **, unsigned))                                                                                      \
	F(cuStreamBeginCapture_v2, int, (void *, int))                                                                                   \
	F(cuStreamEndCapture, int, (void *, void **))                                                                                    \
	F(cuGraphInstantiateWithFlags, int, (void **, void *, unsigned long long))                                                       \
	F(cuGraphLaunch, int, (void *, void *))                                                                                          \
	F(cuGraphExecDestroy, int, (void *))                                                                                             \
	F(cuGraphDestroy, int, (void *))                                                                                                 \
	F(cuEventCreate, int, (void **, unsigned))                                                                                       \
	F(cuEventRecord, int, (void *, void *))                                                                                          \
	F(cuEventSynchronize, int, (void *))                                                                                             \
	F(cuEventElapsedTime, int, (float *, void *, void *))                                                                            \
	F(cuGetErrorString, int, (int, const char **))
#define FIELD(name, result, args) result(*name) args;
static struct {
	OPS(FIELD)
	DRIVER(FIELD)
} f;

static int find(void *lib, const char *lib_name, const char *name, void *to)
{
	void *symbol = lib ? dlsym(lib, name) : NULL;
	if (!symbol)
		return fprintf(stderr, "moxie: bench moe: %s%s%s\n", lib ? lib_name : dlerror(), lib ? " has no " : "", lib ? name : ""), 1;
	memcpy(to, &symbol, sizeof symbol); /* ISO C has no cast from data to function pointers */
	return 0;
}

static int open_libraries(void)
{
	const char *const ops_name = "libmoxie-cuda.so.0", *const driver_name = "libcuda.so.1";
	void *ops = dlopen(ops_name, RTLD_NOW | RTLD_LOCAL);
#define FIND_OP(name, result, args) if (find(ops, ops_name, #name, &f.name)) return 1;
	OPS(FIND_OP)
	void *driver = dlopen(driver_name, RTLD_NOW | RTLD_LOCAL);
#define FIND_CALL(name, result, args) if (find(driver, driver_name, #name, &f.name)) return 1;
	DRIVER(FIND_CALL)
	return 0;
}

/* A failed call ends the program: it is a measurement, and nothing is left to save. */
static void cu(int code, const char *what)
{
	const char *text = "unknown error";
	if (!code)
		return;
	f.cuGetErrorString(code, &text);
	fprintf(stderr, "moxie: bench moe: %s: %s\n", what, text);
	exit(1);
}
static void op(int code, const struct moxie_err *err, const char *what)
{
	if (!code)
		return;
	fprintf(stderr, "moxie: bench moe: %s: %s\n", what, err->text);
	exit(1);
}

/* ---- data ---------------------------------------------------------------------------------------------------------- */
static uint64_t seed = 88172645463325252u;
static uint64_t rnd_u64(void)
{
	seed ^= seed >> 12, seed ^= seed << 25, seed ^= seed >> 27;
	return seed * 2685821657736338717u;
}

static void *dev_alloc(size_t bytes)
{
	dptr p = 0;
	cu(f.cuMemAlloc_v2(&p, bytes ? bytes : 256), "device memory");
	return (void *)(uintptr_t)p;
}
static void dev_free(void *p) { cu(f.cuMemFree_v2((dptr)(uintptr_t)p), "free"); }

enum { POOL = 16 << 20 };
/* Bytes lo .. lo + span - 1; big buffers repeat a pool of 16 MB, shifted. */
static void *dev_random(size_t bytes, int lo, int span)
{
	uint8_t *pool = malloc(POOL), *const to = dev_alloc(bytes);
	if (!pool)
		cu(2, "host memory");
	for (size_t i = 0; i < POOL; i++)
		pool[i] = (uint8_t)(lo + rnd_u64() % (uint64_t)span);
	for (size_t at = 0; at < bytes;) {
		const size_t skip = rnd_u64() % (POOL / 2) / 16 * 16, n = bytes - at < POOL - skip ? bytes - at : POOL - skip;
		cu(f.cuMemcpyHtoD_v2((dptr)(uintptr_t)(to + at), pool + skip, n), "upload");
		at += n;
	}
	free(pool);
	return to;
}
/* bf16 values of magnitude 2^-4 .. 4. */
static void *dev_random_bf16(size_t n)
{
	uint16_t *v = malloc(n * 2), *const to = dev_alloc(n * 2);
	if (!v)
		cu(2, "host memory");
	for (size_t i = 0; i < n; i++)
		v[i] = (uint16_t)(rnd_u64() >> 48 & 0x80ff) | (uint16_t)((123 + rnd_u64() % 6) << 7);
	cu(f.cuMemcpyHtoD_v2((dptr)(uintptr_t)to, v, n * 2), "upload");
	free(v);
	return to;
}

static struct moxie_moe_weights make_weights(const struct shape *s)
{
	struct moxie_err err = { 0 };
	struct moxie_moe_pack_sizes b;
	op(f.moxie_moe_pack_bytes(s->n_expert, s->n_embd, s->n_ff, &b, &err), &err, "pack");
	const struct moxie_moe_weights w = { dev_alloc(b.gate_up),      dev_alloc(b.down),         dev_alloc(b.gate_up_mul),
		                                 dev_alloc(b.down_mul),     dev_alloc(b.gate_up_bias), dev_alloc(b.down_bias) };
	const size_t n = (size_t)s->n_expert * s->n_embd * s->n_ff; /* weights of down, half those of gate and up */
	struct moxie_moe_pack_args a = { .source = MOXIE_MOE_GPT_OSS, .n_expert = s->n_expert, .n_embd = s->n_embd, .n_ff = s->n_ff, .out = w };
	void *raw[] = { dev_random(n, 0, 256), dev_random(n / 16, 116, 5), dev_random(n / 2, 0, 256), dev_random(n / 32, 116, 5),
		            dev_random_bf16((size_t)s->n_expert * s->n_ff * 2), dev_random_bf16((size_t)s->n_expert * s->n_embd) };
	a.gate_up = raw[0], a.gate_up_scale = raw[1], a.down = raw[2], a.down_scale = raw[3], a.gate_up_bias = raw[4], a.down_bias = raw[5];
	op(f.moxie_moe_pack(&a, NULL, &err), &err, "pack");
	cu(f.cuCtxSynchronize(), "pack");
	for (int i = 0; i < 6; i++)
		dev_free(raw[i]);
	return w;
}

/* ---- measuring ----------------------------------------------------------------------------------------------------- */
struct bench {
	const struct shape *s;
	moxie_moe_plan *plan;
	struct moxie_router_plan *router;
	struct moxie_moe_weights w[MAX_SET];
	int n_set, n_replay, rest_ms;
	void *stream, *begin, *end, *router_ws;
};

struct call {
	float *logits;
	void *block;
	struct moxie_moe_tables t;
};

static void make_call(const struct bench *b, int n_tok, struct call *c)
{
	const size_t n = (size_t)n_tok * b->s->n_expert;
	const int tile_n = f.moxie_moe_plan_tile_n(b->plan, n_tok);
	float *l = malloc(n * sizeof *l);
	if (!l)
		cu(2, "host memory");
	for (size_t i = 0; i < n; i++)
		l[i] = (float)(rnd_u64() >> 40) / (1 << 22);
	c->logits = dev_alloc(n * sizeof *l);
	cu(f.cuMemcpyHtoD_v2((dptr)(uintptr_t)c->logits, l, n * sizeof *l), "upload");
	free(l);
	c->block = dev_alloc(f.moxie_moe_tables_bytes(n_tok, b->s->n_used, b->s->n_expert, tile_n));
	f.moxie_moe_tables_cut(&c->t, c->block, n_tok, b->s->n_used, b->s->n_expert, tile_n);
}

static void enqueue(const struct bench *b, int n_tok, const struct call *c, const struct moxie_moe_weights *w, void *x, void *out, void *ws)
{
	struct moxie_err err = { 0 };
	const struct moxie_router_args r = { .n_tok = n_tok, .tile_n = c->t.tile_n, .logits = c->logits, .topk_id = c->t.topk_id, .topk_w = c->t.topk_w,
		                                 .expert_off = c->t.expert_off, .sorted_pair = c->t.sorted_pair, .tiles = c->t.tiles, .head = c->t.head,
		                                 .tok_done = c->t.tok_done, .ws = b->router_ws };
	const struct moxie_moe_args a = { .x = x, .w = w, .t = &c->t, .out = out, .workspace = ws, .n_tok = n_tok };
	op(f.moxie_router_run(b->router, &r, b->stream, &err), &err, "route");
	op(f.moxie_moe_run(b->plan, &a, b->stream, &err), &err, "experts");
}

static int by_value(const void *a, const void *b)
{
	const float x = *(const float *)a, y = *(const float *)b;
	return (x > y) - (x < y);
}

/* us of one call */
static double replay(const struct bench *b, void *exec)
{
	float us[b->n_replay];
	for (int i = -2; i < b->n_replay; i++) {
		float ms;
		nanosleep(&(struct timespec){ b->rest_ms / 1000, b->rest_ms % 1000 * 1000000L }, NULL);
		cu(f.cuEventRecord(b->begin, b->stream), "event");
		cu(f.cuGraphLaunch(exec, b->stream), "graph");
		cu(f.cuEventRecord(b->end, b->stream), "event");
		cu(f.cuEventSynchronize(b->end), "run");
		cu(f.cuEventElapsedTime(&ms, b->begin, b->end), "event");
		if (i >= 0)
			us[i] = ms * 1000 / N_CALL;
	}
	qsort(us, (size_t)b->n_replay, sizeof *us, by_value);
	return us[b->n_replay / 2];
}

/* Experts that a call's tokens chose, read back from its table. */
static int experts_hit(const struct bench *b, const struct call *c)
{
	int n = 0;
	int32_t off[MOXIE_ROUTE_MAX_EXPERT + 1];
	cu(f.cuMemcpyDtoH_v2(off, (dptr)(uintptr_t)c->t.expert_off, (size_t)(b->s->n_expert + 1) * sizeof *off), "download");
	for (int e = 0; e < b->s->n_expert; e++)
		n += off[e + 1] > off[e];
	return n;
}

static void measure(const struct bench *b, int n_tok)
{
	const struct shape *s = b->s;
	struct call c[N_CALL];
	void *x = dev_random_bf16((size_t)n_tok * s->n_embd), *out = dev_alloc((size_t)n_tok * s->n_embd * 2);
	void *ws = dev_alloc(f.moxie_moe_plan_workspace_bytes(b->plan, n_tok)), *graph, *exec;
	for (int i = 0; i < N_CALL; i++)
		make_call(b, n_tok, &c[i]);
	cu(f.cuStreamBeginCapture_v2(b->stream, 2), "capture"); /* CU_STREAM_CAPTURE_MODE_RELAXED */
	for (int i = 0; i < N_CALL; i++)
		enqueue(b, n_tok, &c[i], &b->w[i % b->n_set], x, out, ws);
	cu(f.cuStreamEndCapture(b->stream, &graph), "capture");
	cu(f.cuGraphInstantiateWithFlags(&exec, graph, 0), "graph");
	const double us = replay(b, exec);
	double hit = 0;
	for (int i = 0; i < N_CALL; i++)
		hit += experts_hit(b, &c[i]) / (double)N_CALL;
	const double bytes = hit * 3 * s->n_embd * s->n_ff * 17 / 32, flop = 6.0 * n_tok * s->n_used * s->n_embd * s->n_ff;
	const double act = 4.0 * n_tok * s->n_embd + 4.0 * n_tok * s->n_used * s->n_ff, floor = fmax((bytes + act) / 4.3e6, flop / 790e6);
	printf("%7d  %10.1f us  %6.1f experts  %5.2f TB/s  %6.1f TFLOP/s  floor %8.1f us  %3.0f %%\n", n_tok, us, hit, bytes / us / 1e6, flop / us / 1e6,
	       floor, 100 * floor / us);
	fflush(stdout);
	cu(f.cuGraphExecDestroy(exec), "graph");
	cu(f.cuGraphDestroy(graph), "graph");
	for (int i = 0; i < N_CALL; i++)
		dev_free(c[i].logits), dev_free(c[i].block);
	dev_free(x), dev_free(out), dev_free(ws);
}

/* ---- the command ---------------------------------------------------------------------------------------------------- */
struct flags {
	const char *shape;
	int n_tok[MAX_LIST], n_list, n_replay, rest_ms, explain, help;
};

static int read_int(const char *flag, const char *text, char **end, int least, int *v)
{
	const long n = strtol(text, end, 10);
	if (*end == text || n < least || n > 65536)
		return fprintf(stderr, "moxie: bench moe: --%s is \"%s\", wanted numbers from %d to 65536\n", flag, text, least), 1;
	*v = (int)n;
	return 0;
}

static int read_flags(int argc, char **argv, struct flags *o)
{
	static const struct option known[] = { { "shape", 1, NULL, 's' },   { "tokens", 1, NULL, 't' }, { "replays", 1, NULL, 'r' },
		                                   { "rest", 1, NULL, 'p' },    { "explain", 0, NULL, 'e' }, { "help", 0, NULL, 'h' }, { 0 } };
	char *end;
	optind = 1;
	for (int k; (k = getopt_long(argc, argv, "h", known, NULL)) != -1;)
		if (k == 's')
			o->shape = optarg;
		else if (k == 'e')
			o->explain = 1;
		else if (k == 'h')
			o->help = 1;
		else if (k == 'r' || k == 'p') {
			if (read_int(k == 'r' ? "replays" : "rest", optarg, &end, k == 'r', k == 'r' ? &o->n_replay : &o->rest_ms))
				return 2;
		} else if (k == 't') {
			o->n_list = 0;
			for (end = optarg; *end || end == optarg; end += *end == ',')
				if (o->n_list == MAX_LIST || read_int("tokens", end, &end, 1, &o->n_tok[o->n_list++]))
					return 2;
		} else
			return 2;
	if (optind < argc)
		return fprintf(stderr, "moxie: bench moe takes no \"%s\"\n", argv[optind]), 2;
	for (const struct shape *s = shapes; o->shape; s++)
		if (!s->name)
			return fprintf(stderr, "moxie: bench moe: --shape is \"%s\", wanted gpt-oss-20b, gpt-oss-120b or deepseek-v4-flash\n", o->shape), 2;
		else if (!strcmp(s->name, o->shape))
			break;
	return 0;
}

static void bench_shape(const struct shape *s, const struct flags *o)
{
	struct bench b = { .s = s, .n_set = s->n_expert <= 64 ? MAX_SET : 1, .n_replay = o->n_replay, .rest_ms = o->rest_ms };
	struct moxie_err err = { 0 };
	char text[4096];
	int most = 1;
	for (int i = 0; i < o->n_list; i++)
		most = o->n_tok[i] > most ? o->n_tok[i] : most;
	const struct moxie_moe_desc d = { .n_expert = s->n_expert, .n_used = s->n_used, .n_embd = s->n_embd, .n_ff = s->n_ff, .max_tok = most,
		                              .act = MOXIE_ACT_SWIGLU_CLAMP, .alpha = 1.702f, .beta = 1, .limit = 7 };
	const struct moxie_router_shape r = { .n_expert = s->n_expert, .n_used = s->n_used, .score = MOXIE_SCORE_SOFTMAX, .renormalise = 1, .n_tok_max = most };
	op(f.moxie_moe_plan_create(&b.plan, &d, 0, &err), &err, "plan");
	op(f.moxie_router_plan_create(&b.router, &r, 0, &err), &err, "router");
	if (o->explain) {
		f.moxie_moe_plan_explain(b.plan, text, sizeof text);
		printf("%s: %s", s->name, text);
		f.moxie_router_explain(b.router, text, sizeof text);
		printf("%s\n", text);
	} else {
		printf("%s: %d/%d/E%d/k%d\n", s->name, s->n_embd, s->n_ff, s->n_expert, s->n_used);
		b.router_ws = dev_alloc(f.moxie_router_ws_bytes(b.router));
		cu(f.cuStreamCreate(&b.stream, 1), "stream"); /* CU_STREAM_NON_BLOCKING */
		cu(f.cuEventCreate(&b.begin, 0), "event");
		cu(f.cuEventCreate(&b.end, 0), "event");
		for (int i = 0; i < b.n_set; i++)
			b.w[i] = make_weights(s);
		for (int i = 0; i < o->n_list; i++)
			measure(&b, o->n_tok[i]);
		for (int i = 0; i < b.n_set; i++) {
			void *const w[] = { b.w[i].gate_up, b.w[i].down, b.w[i].gate_up_mul, b.w[i].down_mul, b.w[i].gate_up_bias, b.w[i].down_bias };
			for (int j = 0; j < 6; j++)
				dev_free(w[j]);
		}
		dev_free(b.router_ws);
	}
	f.moxie_router_plan_free(b.router);
	f.moxie_moe_plan_free(b.plan);
}

int bench_moe_main(int argc, char **argv)
{
	static const char usage[] =
		"usage: moxie bench moe [--shape gpt-oss-20b|gpt-oss-120b|deepseek-v4-flash] [--tokens N,...] [--replays N] [--rest MS] [--explain]\n"
		"One MoE layer on the GPU, from logits to combined output: the median of N replays of a graph of 16 calls, MS of rest before each.\n"
		"--explain: which kernel serves how many tokens, and why.\n";
	struct flags o = { .n_tok = { 1, 4, 16, 64, 256, 1024, 4096 }, .n_list = 7, .n_replay = 15, .rest_ms = 20 };
	if (read_flags(argc, argv, &o))
		return 2;
	if (o.help)
		return fputs(usage, stdout), 0;
	if (open_libraries())
		return 1;
	char name[100];
	int device;
	void *ctx;
	cu(f.cuInit(0), "cuInit");
	cu(f.cuDeviceGet(&device, 0), "device 0");
	cu(f.cuDeviceGetName(name, sizeof name, device), "device 0");
	cu(f.cuDevicePrimaryCtxRetain(&ctx, device), "device 0");
	cu(f.cuCtxSetCurrent(ctx), "device 0");
	if (!o.explain)
		printf("# %s; from logits to combined output in a CUDA graph, median of %d replays, %d ms of rest before each\n"
		       "# floor: weight + activation bytes / 4.3 TB/s, or flops / 790 TFLOP/s\n", name, o.n_replay, o.rest_ms);
	for (const struct shape *s = shapes; s->name; s++)
		if (!o.shape || !strcmp(s->name, o.shape))
			bench_shape(s, &o);
	return 0;
}
