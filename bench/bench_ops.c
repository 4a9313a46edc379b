/* bench_ops.c - see bench_ops.h.  Weights rotate through more memory than the last cache holds; each line is the median of many. */
#include "bench/bench_ops.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/host.h"
#include "bench/bench_rate.h"

enum { N_EMBD = 2880, N_FF = 2880, N_EXPERT = 32, N_USED = 4, N_HEAD = 64, N_HEAD_KV = 8, D_HEAD = 64, MAX_TOK = 512 };

struct bench {
	struct kern *k;
	enum cpu_isa isa;
	const char *rate_name;
	double read_rate, flop_rate, seconds;
	FILE *json;
	uint8_t *pool; /* random bytes: weights of every kind are windows of it */
	size_t pool_bytes, at;
	uint8_t *scl; /* e8m0 around 2^-7, as trained weights have them */
	size_t scl_bytes, scl_at;
	float *x, *h, *act, *d;
	struct moe_tables t;
	char **name;
	int n_name, n_line; /* n_line: printed */
};

static uint64_t seed = 88172645463325252u;
static uint64_t rnd_u64(void)
{
	seed ^= seed >> 12, seed ^= seed << 25, seed ^= seed >> 27;
	return seed * 2685821657736338717u;
}

static void *map(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED) {
		fprintf(stderr, "bench: no memory for %zu MB\n", bytes >> 20);
		exit(1);
	}
	madvise(p, bytes, MADV_HUGEPAGE);
	return p;
}

/* The next window of the pool, so that no weight is met twice before the caches have forgotten it. */
static const void *window(struct bench *b, size_t bytes)
{
	if (b->at + bytes > b->pool_bytes)
		b->at = 0;
	const void *p = b->pool + b->at;
	b->at += (bytes + 63) / 64 * 64;
	return p;
}

static struct weight dense(struct bench *b, int64_t n, int64_t k)
{
	return (struct weight){ .dtype = DT_BF16, .n_dim = 2, .shape = { n, k }, .data = window(b, (size_t)(n * k) * 2) };
}

static struct weight experts(struct bench *b, int64_t n, int64_t k)
{
	struct weight w = { .dtype = DT_U8, .n_dim = 3, .shape = { N_EXPERT, n, k }, .data = window(b, (size_t)(N_EXPERT * n * k) / 2) };
	size_t bytes = (size_t)(N_EXPERT * n * k) / 32;
	if (b->scl_at + bytes > b->scl_bytes)
		b->scl_at = 0;
	w.scl = b->scl + b->scl_at;
	b->scl_at += bytes;
	return w;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double read_rate(const struct bench *b)
{
	return bench_read_rate(b->pool, b->pool_bytes / 4, b->k->n_thread);
}

static double flop_rate(struct bench *b)
{
	return bench_flop_rate(b->isa, b->k->n_thread, &b->rate_name);
}

/* The machine's two rates: the best seen so far. */
static void measure_rates(struct bench *b)
{
	double read = read_rate(b), flop = flop_rate(b);
	b->read_rate = read > b->read_rate ? read : b->read_rate;
	b->flop_rate = flop > b->flop_rate ? flop : b->flop_rate;
}

/* Runs op until the time is spent and prints its line.  bytes: what it must read; flop: what it must do.  The rate that bounds it is
 * measured again before every run, and the line's fraction is of the median of these: clocks and neighbours change within seconds. */
static void line(struct bench *b, const char *op, const char *shape, double bytes, double flop, void (*run)(struct bench *b, int arg), int arg)
{
	bool wanted = b->n_name == 0;
	for (int i = 0; i < b->n_name; i++)
		wanted |= strstr(op, b->name[i]) != NULL;
	if (!wanted)
		return;
	static double us[1000], beside[1000];
	bool reads = b->flop_rate <= 0 || bytes / b->read_rate > flop / b->flop_rate;
	double start = host_now();
	int n = 0;
	run(b, arg);
	run(b, arg);
	while (n < 1000 && (n < 5 || host_now() - start < b->seconds)) {
		beside[n] = reads ? read_rate(b) : flop_rate(b);
		double t0 = host_now();
		run(b, arg);
		us[n++] = 1e6 * (host_now() - t0);
	}
	qsort(us, (size_t)n, sizeof *us, by_value);
	qsort(beside, (size_t)n, sizeof *beside, by_value);
	double t = us[n / 2] * 1e-6, rate = beside[n / 2], of = (reads ? bytes : flop) / t / rate;
	printf("%-12s %-34s | %9.1f us (best %.1f) | %6.1f GB/s | %7.1f GFLOP/s | %3.0f %% of %s %.1f | median of %d\n", op, shape, t * 1e6, us[0],
	       bytes / t * 1e-9, flop / t * 1e-9, 100 * of, reads ? "bandwidth" : "rate", rate * 1e-9, n);
	fflush(stdout);
	b->n_line++;
	if (b->json)
		fprintf(b->json, "{\"op\":\"%s\",\"shape\":\"%s\",\"isa\":\"%s\",\"threads\":%d,\"us\":%.2f,\"us_min\":%.2f,\"gb_s\":%.2f,\"gflop_s\":%.2f,"
			"\"%s\":%.4f,\"beside\":%.2f,\"runs\":%d}\n", op, shape, b->k->name, b->k->n_thread, t * 1e6, us[0],
			bytes / t * 1e-9, flop / t * 1e-9, reads ? "of_bandwidth" : "of_rate", of, rate * 1e-9, n);
}

/* ---- ops ---- */

static void run_gemm(struct bench *b, int n_tok)
{
	struct weight w = dense(b, N_HEAD * D_HEAD, N_EMBD);
	b->k->gemm(b->k, &(struct gemm_args){ .d = b->d, .a = b->h, .w = &w, .n_tok = n_tok, .n_out = N_HEAD * D_HEAD, .n_in = N_EMBD });
}

/* n_tok tokens, each with its own n_used of the first n_expert experts, evenly. */
static void tables(struct bench *b, int n_tok, int n_expert)
{
	int32_t *id = b->t.topk_id, at = 0, base = (int)(rnd_u64() % (uint64_t)(N_EXPERT - n_expert + 1));
	for (int p = 0; p < n_tok * N_USED; p++) {
		id[p] = base + p % n_expert;
		b->t.topk_w[p] = 0.25f;
	}
	for (int e = 0; e < N_EXPERT; e++) {
		b->t.expert_off[e] = at;
		for (int p = 0; p < n_tok * N_USED; p++)
			if (id[p] == e)
				b->t.pair[at++] = p;
	}
	b->t.expert_off[N_EXPERT] = at;
}

static void run_gate_up(struct bench *b, int n_tok)
{
	struct weight w = experts(b, 2 * N_FF, N_EMBD), bias = dense(b, N_EXPERT, 2 * N_FF);
	b->k->moe_gate_up(b->k, &(struct moe_gate_up_args){ .act = b->act, .h = b->h, .w = &w, .b = &bias, .t = b->t, .alpha = 1.702f, .limit = 7,
		.n_tok = n_tok, .n_used = N_USED, .n_expert = N_EXPERT, .n_embd = N_EMBD, .n_ff = N_FF });
}

static void run_down(struct bench *b, int n_tok)
{
	struct weight w = experts(b, N_EMBD, N_FF), bias = dense(b, N_EXPERT, N_EMBD);
	b->k->moe_down(b->k, &(struct moe_down_args){ .x = b->x, .act = b->d, .w = &w, .b = &bias, .t = b->t, .n_tok = n_tok,
		.n_used = N_USED, .n_expert = N_EXPERT, .n_embd = N_EMBD, .n_ff = N_FF });
}

static void run_rmsnorm(struct bench *b, int n_tok)
{
	struct weight w = dense(b, 1, N_EMBD);
	b->k->rmsnorm(b->k, &(struct rmsnorm_args){ .h = b->d, .x = b->h, .w = &w, .eps = 1e-5f, .n_tok = n_tok, .n_embd = N_EMBD });
}

static void run_route(struct bench *b, int n_tok)
{
	struct weight w = dense(b, N_EXPERT, N_EMBD), bias = dense(b, 1, N_EXPERT);
	b->k->route(b->k, &(struct route_args){ .t = b->t, .h = b->h, .w = &w, .b = &bias, .rule = ROUTE_TOPK_SOFTMAX, .n_tok = n_tok,
		.n_embd = N_EMBD, .n_expert = N_EXPERT, .n_used = N_USED });
}

static struct { int pos0, n_row, window; } attn_shape;

static void run_attn(struct bench *b, int n_page)
{
	size_t bytes = (size_t)n_page * N_HEAD_KV * KV_PAGE * D_HEAD * 2;
	struct kv_view kv = { .dtype = DT_BF16, .n_page_seq = n_page, .k = (void *)(uintptr_t)window(b, bytes) };
	kv.v = (void *)(uintptr_t)window(b, bytes);
	int32_t *page = b->t.pair, *pos = b->t.topk_id, *seq = b->t.expert_off;
	for (int i = 0; i < n_page; i++)
		page[i] = i;
	kv.page = page;
	for (int i = 0; i < attn_shape.n_row; i++) {
		pos[i] = attn_shape.pos0 + i;
		seq[i] = 0;
	}
	struct span span = { 0, attn_shape.n_row, attn_shape.pos0 };
	struct batch batch = { .n_tok = attn_shape.n_row, .n_seq = 1, .pos = pos, .seq = seq, .span = &span, .span_dev = &span };
	b->k->attn(b->k, &(struct attn_args){ .o = b->d, .q = b->h, .kv = &kv, .batch = &batch, .n_head = N_HEAD, .n_head_kv = N_HEAD_KV,
		.d_head = D_HEAD, .window = attn_shape.window, .scale = 0.125f });
}

static void attn_line(struct bench *b, int pos0, int n_row, int window)
{
	char shape[80];
	double key = 0;
	attn_shape.pos0 = pos0, attn_shape.n_row = n_row, attn_shape.window = window;
	for (int i = 0; i < n_row; i++)
		key += window && window < pos0 + i + 1 ? window : pos0 + i + 1;
	int lo = window && pos0 >= window ? pos0 - window + 1 : 0;
	snprintf(shape, sizeof shape, "n_tok=%d at %d%s", n_row, pos0, window ? " window=128" : "");
	line(b, "attn", shape, (double)(pos0 + n_row - lo) * N_HEAD_KV * D_HEAD * 4, key * N_HEAD * D_HEAD * 4, run_attn, (pos0 + n_row + KV_PAGE - 1) / KV_PAGE);
}

static void all_lines(struct bench *b)
{
	char shape[80];
	static const int gemm_tok[] = { 1, 4, 16, 64, 512 }, moe_tok[] = { 1, 4, 16, 64, 512 };
	for (size_t i = 0; i < sizeof gemm_tok / sizeof *gemm_tok; i++) {
		int n = gemm_tok[i];
		snprintf(shape, sizeof shape, "n_tok=%d %dx%d bf16", n, N_HEAD * D_HEAD, N_EMBD);
		line(b, "gemm", shape, (double)N_HEAD * D_HEAD * N_EMBD * 2, 2. * n * N_HEAD * D_HEAD * N_EMBD, run_gemm, n);
	}
	for (size_t i = 0; i < sizeof moe_tok / sizeof *moe_tok; i++) {
		int n = moe_tok[i], n_expert = n == 64 ? 4 : n * N_USED < N_EXPERT ? n * N_USED : N_EXPERT;
		double w = (double)n_expert * N_FF * N_EMBD * 17 / 32, f = 2. * n * N_USED * N_FF * N_EMBD;
		tables(b, n, n_expert);
		snprintf(shape, sizeof shape, "n_tok=%d used=4 (%d a expert) mxfp4", n, n * N_USED / n_expert);
		line(b, "moe_gate_up", shape, 2 * w, 2 * f, run_gate_up, n);
		line(b, "moe_down", shape, w, f, run_down, n);
	}
	attn_line(b, 4095, 1, 0);
	attn_line(b, 32767, 1, 0);
	attn_line(b, 32767, 1, 128);
	attn_line(b, 0, 512, 0);
	attn_line(b, 3584, 512, 0);
	attn_line(b, 3584, 512, 128);
	for (int n = 1; n <= 512; n += 511) {
		snprintf(shape, sizeof shape, "n_tok=%d %d", n, N_EMBD);
		line(b, "rmsnorm", shape, (double)n * N_EMBD * 8, 4. * n * N_EMBD, run_rmsnorm, n);
		snprintf(shape, sizeof shape, "n_tok=%d %d of %d", n, N_USED, N_EXPERT);
		line(b, "route", shape, (double)N_EXPERT * N_EMBD * 2, 2. * n * N_EXPERT * N_EMBD, run_route, n);
	}
}

int bench_ops_main(int argc, char **argv)
{
	static const struct option opt[] = { { "threads", 1, 0, 't' }, { "isa", 1, 0, 'i' }, { "json", 1, 0, 'j' }, { "seconds", 1, 0, 's' },
		{ "help", 0, 0, 'h' }, { 0 } };
	static const char *const isa_word[] = { "ref", "avx2", "avx512", "amx", "auto" };
	struct bench b = { .seconds = 1, .pool_bytes = (size_t)2 << 30 };
	int n_thread = 0, isa = CPU_AUTO;
	const char *json = NULL;
	static const char usage[] = "usage: moxie bench op [NAME...] [--isa ref|avx2|avx512|amx|auto] [--threads N] [--seconds S] [--json FILE]\n"
				    "Ops whose name contains NAME; S seconds each.\n";
	optind = 1;
	for (int o; (o = getopt_long(argc, argv, "t:i:j:s:h", opt, NULL)) != -1;) {
		if (o == 't')
			n_thread = atoi(optarg);
		else if (o == 'j')
			json = optarg;
		else if (o == 's')
			b.seconds = atof(optarg);
		else if (o == 'i') {
			for (isa = 0; isa < CPU_AUTO && strcmp(optarg, isa_word[isa]); isa++)
				;
			if (strcmp(optarg, isa_word[isa])) {
				fprintf(stderr, "moxie bench: no instruction set '%s'\n%s", optarg, usage);
				return 2;
			}
		} else {
			fputs(usage, o == 'h' ? stdout : stderr);
			return o == 'h' ? 0 : 2;
		}
	}
	b.name = argv + optind;
	b.n_name = argc - optind;

	struct kern_limits lim = { .n_tok = MAX_TOK, .n_seq = 1, .n_embd = N_EMBD, .n_head = N_HEAD, .n_head_kv = N_HEAD_KV, .d_head = D_HEAD,
		.n_ff = N_FF, .n_expert = N_EXPERT, .n_used = N_USED, .n_vocab = 201088 };
	struct moxie_err err;
	if (kern_cpu_create(&b.k, &lim, (enum cpu_isa)isa, n_thread, &err) < 0) {
		fprintf(stderr, "moxie bench: %s\n", err.text);
		return 2;
	}
	if (json && !(b.json = fopen(json, "w"))) {
		fprintf(stderr, "moxie bench: cannot write %s\n", json);
		b.k->free(b.k);
		return 2;
	}
	b.isa = strstr(b.k->name, "amx") ? CPU_AMX : strstr(b.k->name, "avx512") ? CPU_AVX512 : strstr(b.k->name, "avx2") ? CPU_AVX2 : CPU_REF;
	b.pool = map(b.pool_bytes + 65536);
	/* weights of moderate size when read as bf16, any code when read as MXFP4 */
#pragma omp parallel for num_threads(b.k->n_thread)
	for (size_t i = 0; i < b.pool_bytes; i += 8) {
		uint64_t v = (i + 1) * 0x9e3779b97f4a7c15u;
		v ^= v >> 29;
		v = (v & 0x83ff83ff83ff83ffu) | 0x3c003c003c003c00u;
		memcpy(b.pool + i, &v, 8);
	}
	b.scl_bytes = (size_t)128 << 20;
	b.scl = map(b.scl_bytes + 65536);
	for (size_t i = 0; i < b.scl_bytes; i++)
		b.scl[i] = (uint8_t)(117 + (i * 2654435761u >> 13) % 7);
	size_t n_act = (size_t)MAX_TOK * N_USED * N_FF * sizeof(float), n_pair = (size_t)MAX_TOK * N_USED;
	b.x = map(n_act), b.h = map(n_act), b.act = map(n_act), b.d = map(n_act);
	b.t = (struct moe_tables){ map(n_pair * 4), map(n_pair * 4), map(n_pair * 4), map(n_pair * 4) };
	for (size_t i = 0; i < n_act / sizeof(float); i++)
		b.h[i] = b.d[i] = (float)((double)rnd_u64() * 0x1p-63 - 1);

	for (int i = 0; i < 3; i++)
		measure_rates(&b);
	printf("# %s, %d threads\n", b.k->name, b.k->n_thread);
	all_lines(&b);
	if (!b.n_line)
		fprintf(stderr, "moxie bench: no op's name contains '%s'\n", b.name[0]);
	printf("# reads %.1f GB/s, %s %.1f GFLOP/s (the best of this run)\n", b.read_rate * 1e-9, b.rate_name, b.flop_rate * 1e-9);
	if (b.json)
		fprintf(b.json, "{\"isa\":\"%s\",\"threads\":%d,\"read_gb_s\":%.2f,\"rate\":\"%s\",\"rate_gflop_s\":%.2f}\n", b.k->name, b.k->n_thread,
			b.read_rate * 1e-9, b.rate_name, b.flop_rate * 1e-9);
	b.k->free(b.k);
	if (b.json)
		fclose(b.json);
	return b.n_line ? 0 : 2;
}

#if defined(BENCH_OPS_MAIN)
int main(int argc, char **argv)
{
	return bench_ops_main(argc, argv);
}
#endif
