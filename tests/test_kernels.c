/* test_kernels.c - every CPU op of every instruction set this machine has, against an oracle in double written here.
 *
 * Each case runs with 1, 2 and 3 threads and twice over: the bits must not change.  Outputs are filled with NaN first.
 * Activations come in two kinds: on the bf16 grid, where a kernel that rounds its input loses nothing and must be as exact as
 * an fp32 one, and plain fp32, where the bf16 kernels are allowed their one rounding.
 */
#include "kernels_case.h"

/* The sanitizer's allocator would end the program where a plain one says no; create() must meet the no. */
__attribute__((visibility("default"))) const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "allocator_may_return_null=1";
}

/* ---- create ---- */

TEST(create)
{
	struct kern *k;
	struct moxie_err err;
	struct { struct kern_limits lim; int n_thread; } bad[] = {
		{ small, -1 }, { small, 1 }, { small, 1 }, { small, 1 }, { small, 1 }, { small, 1 }, { small, 1 },
	};
	bad[1].lim.n_embd = 65;
	bad[2].lim.n_used = 9;
	bad[3].lim.n_head_kv = 3;
	bad[4].lim.n_tok = 0;
	bad[5].lim.n_ff = 33;
	bad[6].lim.d_head = 1024;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		for (int isa = CPU_REF; isa <= CPU_AUTO; isa++) {
			int rc = kern_cpu_create(&k, &bad[i].lim, (enum cpu_isa)isa, bad[i].n_thread, &err);
			CHECK(rc == MOXIE_E_ARG && !k && strlen(err.text) > 10, "case %zu: %d, %s", i, rc, err.text);
		}
	for (int isa = CPU_REF; isa <= CPU_AUTO; isa++) {
		int rc = kern_cpu_create(&k, &small, (enum cpu_isa)isa, 0, &err);
		if (rc == MOXIE_E_UNSUPPORTED) {
			printf("    %s\n", err.text);
			CHECK(isa != CPU_REF && isa != CPU_AUTO && !k && strstr(err.text, "no "), "%s", err.text);
			continue;
		}
		OK(rc, err);
		CHECK(k->act == DT_F32 && k->n_thread >= 1 && k->name[0], "act %d, %d threads", k->act, k->n_thread);
		printf("    %s: %s, %d threads\n", isa < CPU_AUTO ? isa_word[isa] : "auto", k->name, k->n_thread);
		OK(k->sync(k, &err), err);
		k->free(k);
	}
	struct kern_limits huge = small;
	huge.n_tok = 1 << 24;
	huge.n_head_kv = huge.n_head = 1 << 14;
	CHECK(kern_cpu_create(&k, &huge, CPU_REF, 1, &err) == MOXIE_E_NOMEM && !k, "%s", err.text);
}

/* ---- embed, rmsnorm, rope ---- */

struct norm_ctx {
	struct weight *w;
	const float *x;
	const int32_t *row;
	int n_tok, n_embd;
};

static void run_embed(struct kern *k, void *ctx, float *out)
{
	struct norm_ctx *c = ctx;
	k->embed(k, &(struct embed_args){ .x = out, .w = c->w, .tok = c->row, .n_tok = c->n_tok, .n_embd = c->n_embd });
}

static void run_rmsnorm(struct kern *k, void *ctx, float *out)
{
	struct norm_ctx *c = ctx;
	k->rmsnorm(k, &(struct rmsnorm_args){ .h = out, .x = c->x, .w = c->w, .row = c->row, .eps = 1e-5f, .n_tok = c->n_tok, .n_embd = c->n_embd });
}

TEST(embed)
{
	struct weight w = rnd_bf16(100, 96, 1);
	int32_t tok[] = { 0, 99, 5, 5 };
	double want[4 * 96];
	for (int i = 0; i < 4 * 96; i++)
		want[i] = wt(&w, tok[i / 96] * 96 + i % 96);
	struct norm_ctx c = { &w, NULL, tok, 4, 96 };
	struct world wd = { small, { 0 }, run_embed, &c, want, 4 * 96, "embed" };
	check(&wd);
	weight_free(&w);
}

TEST(rmsnorm)
{
	static const int shape[][2] = { { 1, 32 }, { 3, 64 }, { 2, 96 }, { 5, 2880 } };
	for (int cs = 0; cs < 8; cs++) {
		int n_tok = shape[cs / 2][0], n = shape[cs / 2][1];
		struct weight w = cs % 2 ? rnd_f32(n, 1) : rnd_bf16(n, 1, 1);
		float *x = rnd_act((size_t)(n_tok + 2) * (size_t)n, PLAIN);
		int32_t row[5];
		double *want = take((size_t)n_tok * (size_t)n, sizeof *want);
		for (int t = 0; t < n_tok; t++) {
			row[t] = cs % 2 ? (t * 3 + 1) % (n_tok + 2) : t;
			double s = 0;
			for (int i = 0; i < n; i++)
				s += (double)x[row[t] * n + i] * x[row[t] * n + i];
			for (int i = 0; i < n; i++)
				want[t * n + i] = x[row[t] * n + i] / sqrt(s / n + (double)1e-5f) * wt(&w, i);
		}
		struct norm_ctx c = { &w, x, cs % 2 ? row : NULL, n_tok, n };
		struct world wd = { small, TOL_FP32, run_rmsnorm, &c, want, (size_t)n_tok * (size_t)n, "" };
		snprintf(wd.name, sizeof wd.name, "rmsnorm %d x %d", n_tok, n);
		check(&wd);
		free(want);
		free(x);
		weight_free(&w);
	}
}

struct rope_ctx {
	int32_t pos[20];
	float inv_freq[32];
};

static void run_rope(struct kern *k, void *ctx, float *out)
{
	struct rope_ctx *c = ctx;
	k->rope(k, &(struct rope_args){ .cs = out, .pos = c->pos, .inv_freq = c->inv_freq, .mscale = 1.3465735f, .n_tok = 20, .n_rot = 64 });
}

TEST(rope)
{
	struct rope_ctx c;
	double want[20 * 64];
	for (int t = 0; t < 20; t++)
		c.pos[t] = t < 2 ? t : rnd_int(131072);
	for (int i = 0; i < 32; i++)
		c.inv_freq[i] = (float)pow(150000, -i / 32.);
	for (int t = 0; t < 20; t++)
		for (int i = 0; i < 32; i++) {
			float angle = (float)c.pos[t] * c.inv_freq[i];
			want[(t * 32 + i) * 2] = cos(angle) * (double)1.3465735f;
			want[(t * 32 + i) * 2 + 1] = sin(angle) * (double)1.3465735f;
		}
	struct world wd = { small, { 1e-7, 1e-7, 1e-7, 1e-7 }, run_rope, &c, want, 20 * 64, "rope" };
	check(&wd);
}

/* ---- gemm ---- */

struct gemm_ctx {
	struct weight w, b;
	float *a, *d;
	int n_tok, n_out, n_in;
	bool add, bias;
};

static void run_gemm(struct kern *k, void *ctx, float *out)
{
	struct gemm_ctx *c = ctx;
	if (c->add)
		memcpy(out, c->d, sizeof *out * (size_t)c->n_tok * (size_t)c->n_out);
	k->gemm(k, &(struct gemm_args){ .d = out, .a = c->a, .w = &c->w, .b = c->bias ? &c->b : NULL, .n_tok = c->n_tok,
		.n_out = c->n_out, .n_in = c->n_in, .add = c->add, .d_f32 = !c->add });
}

static void gemm_case(int n_tok, int n_out, int n_in, int kind, enum dtype dtype)
{
	struct gemm_ctx c = { .w = dtype == DT_F8_E4M3 ? rnd_f8(n_out, n_in) : dtype == DT_U8 ? rnd_mx(1, n_out, n_in) : dtype == DT_F32 ? rnd_f32(n_out, n_in) : rnd_bf16(n_out, n_in, 1),
		.b = rnd_bf16(n_out, 1, 10), .a = rnd_act((size_t)n_tok * (size_t)n_in, kind), .n_tok = n_tok, .n_out = n_out, .n_in = n_in,
		.add = n_out % 2, .bias = n_tok % 3 != 1 };
	size_t n = (size_t)n_tok * (size_t)n_out;
	c.d = rnd_act(n, PLAIN);
	double *want = take(n, sizeof *want), norm = 1e-30, terms = 0;
	for (size_t i = 0; i < n; i++) {
		int64_t t = (int64_t)i / n_out, r = (int64_t)i % n_out;
		for (int64_t k = 0; k < n_in; k++)
			terms += pow(wt(&c.w, r * n_in + k) * (double)c.a[t * n_in + k], 2);
		want[i] = (c.add ? c.d[i] : 0) + dot(&c.w, r, c.a + t * n_in, n_in) + (c.bias ? wt(&c.b, r) : 0);
		norm += want[i] * want[i];
	}
	struct kern_limits lim = small;
	lim.n_tok = n_tok;
	lim.n_embd = n_in;
	lim.dense = dtype == DT_F8_E4M3 && n_out % 3 ? DT_F8_E4M3 : DT_NONE; /* without it the plain op serves */
	struct world wd = { lim, TOL_FP32, run_gemm, &c, want, n, "" };
	if (kind == PLAIN && dtype != DT_F32)
		wd.tol[CPU_AVX512] = wd.tol[CPU_AMX] = 4e-3;
	else if (dtype == DT_U8)
		wd.tol[CPU_AVX512] = wd.tol[CPU_AMX] = TOL_INT16;
	for (int isa = 0; isa < CPU_AUTO; isa++) /* a few outputs may cancel nearly to nothing: errors are then judged by what they sum */
		wd.tol[isa] *= fmax(1, sqrt(terms / norm));
	snprintf(wd.name, sizeof wd.name, "gemm %s [%d, %d] x [%d, %d]", dtype_name(dtype), n_tok, n_in, n_out, n_in);
	check(&wd);
	free(want);
	free(c.a);
	free(c.d);
	weight_free(&c.w);
	weight_free(&c.b);
}

TEST(gemm)
{
	static const int tok[] = { 1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 15, 16, 17, 31, 32, 33, 48, 49, 65, 97 };
	static const int out[] = { 1, 2, 3, 5, 8, 16, 17, 33, 64, 65, 130 }, in[] = { 32, 64, 96, 128, 160, 288, 544 };
	for (size_t i = 0; i < sizeof tok / sizeof *tok; i++) {
		int n_out = out[rnd_int(11)], n_in = in[rnd_int(7)];
		gemm_case(tok[i], n_out, n_in, GRID, DT_BF16);
		gemm_case(tok[i], out[rnd_int(11)], in[rnd_int(7)], PLAIN, DT_BF16);
		gemm_case(tok[i], out[rnd_int(11)], in[rnd_int(7)], GRID, DT_U8);
	}
	for (int i = 0; i < 11; i++) {
		gemm_case(1, out[i], in[i % 7], GRID, DT_BF16);
		gemm_case(20, out[i], in[i % 7], GRID, DT_BF16);
		gemm_case(20, out[i], in[i % 7], GRID, DT_U8);
		gemm_case(1 + i % 3, out[i], in[i % 7], GRID, DT_F8_E4M3);
		gemm_case(20, out[i], in[i % 7], GRID, DT_F8_E4M3);
	}
	gemm_case(1, 70, 2880, GRID, DT_BF16);
	gemm_case(33, 70, 2880, GRID, DT_BF16);
	gemm_case(3, 9, 64, PLAIN, DT_F32);
}

/* Codes are the nearest there are, of ties the even one; scales the least powers of two that hold the row. */
TEST(quant_rows)
{
	enum { N = 24, K = 96 };
	struct weight w = rnd_bf16(N, K, 1);
	bf16 *v = (bf16 *)(uintptr_t)w.data;
	uint8_t code[N * K];
	float scl[N];
	for (int i = 0; i < K; i++) {
		v[i] = 0;
		v[K + i] = bf16_from_f32(i == 7 ? NAN : 1);
		v[2 * K + i] = bf16_from_f32(i == 7 ? -INFINITY : 1);
		v[3 * K + i] = bf16_from_f32(i == 5 ? 448 : ldexpf((float)(i % 16 + 17), -12)); /* ties, and below 2^-6 */
		v[4 * K + i] = bf16_from_f32(i == 5 ? -450 : 7);
		v[5 * K + i] = bf16_from_f32(ldexpf((float)i, -133));
		v[6 * K + i] = bf16_from_f32(i % 2 ? 3e38f : -1e30f);
	}
	struct kern *k = open_kern(&small, CPU_REF, 2);
	k->quant_rows(k, &(struct quant_rows_args){ .code = code, .scl = scl, .w = &w });
	k->free(k);
	CHECK(scl[0] == 1 && isnan(scl[1]) && isnan(scl[2]) && scl[3] == 1 && scl[4] == 2, "scales %g %g %g %g %g", scl[0], scl[1], scl[2], scl[3], scl[4]);
	for (int r = 0; r < N; r++) {
		double most = 0;
		int e;
		for (int i = 0; i < K; i++)
			most = fmax(most, fabs((double)bf16_to_f32(v[r * K + i])));
		if (!(scl[r] > 0))
			continue;
		CHECK(frexp((double)scl[r], &e) == .5 && most <= 448 * (double)scl[r] && (most > 224 * (double)scl[r] || r == 0 || scl[r] == 0x1p-126f),
		      "row %d: scale %g of a largest %g", r, scl[r], most);
		for (int i = 0; i < K; i++) {
			double x = (double)bf16_to_f32(v[r * K + i]) / (double)scl[r], off = fabs((double)e4m3_to_f32(code[r * K + i]) - x);
			for (int c = 0; c < 256; c++)
				if ((c & 127) != 127) {
					double other = fabs((double)e4m3_to_f32((uint8_t)c) - x);
					CHECK(off < other || (off == other && (c % 2 || !(code[r * K + i] % 2))), "row %d [%d]: %g is %#x, %#x is nearer", r, i, x,
					      code[r * K + i], c);
				}
		}
	}
	weight_free(&w);
}

/* A token alone and the same token in a batch of the same form give the same bits. */
TEST(gemm_batch_invariant)
{
	enum { N = 70, K = 288, T = 64 };
	struct weight w = rnd_bf16(N, K, 1);
	float *a = rnd_act(T * K, PLAIN), *all = take(T * N, sizeof *all), *some = take(T * N, sizeof *some);
	struct kern_limits lim = small;
	lim.n_embd = K;
	for (int isa = FIRST_ISA; isa < CPU_AUTO; isa++) {
		struct kern *k = open_kern(&lim, isa, 2);
		if (!k)
			continue;
		static const int size[][2] = { { 1, 3 }, { 2, 4 }, { 33, 64 }, { 40, 50 } };
		for (int i = 0; i < 4; i++) {
			struct gemm_args g = { .d = some, .a = a, .w = &w, .n_tok = size[i][0], .n_out = N, .n_in = K };
			k->gemm(k, &g);
			g.d = all, g.n_tok = size[i][1];
			k->gemm(k, &g);
			CHECK(!memcmp(some, all, sizeof *all * N * (size_t)size[i][0]), "%s: %d tokens differ inside %d", isa_word[isa], size[i][0], size[i][1]);
		}
		k->free(k);
	}
	free(a);
	free(all);
	free(some);
	weight_free(&w);
}

/* ---- KV cache, qkv, attention ---- */

#define MAX_SEQ 4

struct kv_ctx {
	int n_seq, n_tok, n_head, n_head_kv, d_head, n_embd, window;
	struct span span[MAX_SEQ];
	int32_t pos[512], seq[512];
	struct kv_view kv;
	int n_page;
	float *q, *cs, *h;                /* inputs of attn | of qkv */
	struct weight sinks, wq, wk, wv, bq, bk, bv;
	bool has_sinks;
};

static size_t kv_elems(const struct kv_ctx *c)
{
	return (size_t)c->n_page * (size_t)c->n_head_kv * KV_PAGE * (size_t)c->d_head;
}

/* Spans, a shuffled page table and caches full of NaN. */
static void kv_init(struct kv_ctx *c, const int (*span)[2], int n_seq, enum dtype dtype, bool ring)
{
	int last = 0, longest = 0, row = 0;
	c->n_seq = n_seq;
	for (int s = 0; s < n_seq; s++) {
		c->span[s] = (struct span){ row, span[s][1], span[s][0] };
		for (int i = 0; i < span[s][1]; i++, row++)
			c->pos[row] = span[s][0] + i, c->seq[row] = s;
		last = last > span[s][0] + span[s][1] ? last : span[s][0] + span[s][1];
		longest = longest > span[s][1] ? longest : span[s][1];
	}
	c->n_tok = row;
	int need = ring ? c->window + longest - 1 : last, n_page_seq = (need + KV_PAGE - 1) / KV_PAGE;
	c->n_page = n_page_seq * n_seq + 1;
	int32_t *page = take((size_t)(n_page_seq * n_seq), sizeof *page);
	for (int i = 0; i < n_page_seq * n_seq; i++) { /* a shuffle of 1 .. n, page 0 stays unused */
		int j = rnd_int(i + 1);
		page[i] = page[j];
		page[j] = i + 1;
	}
	c->kv = (struct kv_view){ .dtype = dtype, .page = page, .n_page_seq = n_page_seq, .ring = ring };
	size_t bytes = kv_elems(c) * (size_t)dtype_bytes(dtype);
	c->kv.k = take(bytes, 1);
	c->kv.v = take(bytes, 1);
	memset(c->kv.k, 0xff, bytes); /* NaN in bf16, f32 and e4m3 */
	memset(c->kv.v, 0xff, bytes);
}

static void kv_done(struct kv_ctx *c)
{
	free((void *)(uintptr_t)c->kv.page);
	free(c->kv.k);
	free(c->kv.v);
}

static size_t kv_at(const struct kv_ctx *c, int seq, int pos, int ih)
{
	int i = pos / KV_PAGE;
	if (c->kv.ring)
		i %= c->kv.n_page_seq;
	return (((size_t)c->kv.page[seq * c->kv.n_page_seq + i] * (size_t)c->n_head_kv + (size_t)ih) * KV_PAGE + (size_t)(pos % KV_PAGE)) * (size_t)c->d_head;
}

static double kv_get(const struct kv_ctx *c, const void *base, size_t i)
{
	return c->kv.dtype == DT_F32 ? ((const float *)base)[i] : c->kv.dtype == DT_BF16 ? bf16_to_f32(((const bf16 *)base)[i])
	                                                                                : e4m3_to_f32(((const uint8_t *)base)[i]);
}

static void kv_set(const struct kv_ctx *c, void *base, size_t i, float v)
{
	if (c->kv.dtype == DT_F32)
		((float *)base)[i] = v;
	else if (c->kv.dtype == DT_BF16)
		((bf16 *)base)[i] = bf16_from_f32(v);
	else
		((uint8_t *)base)[i] = e4m3_from_f32(v);
}

static void run_attn(struct kern *k, void *ctx, float *out)
{
	struct kv_ctx *c = ctx;
	struct batch b = { .n_tok = c->n_tok, .n_seq = c->n_seq, .pos = c->pos, .seq = c->seq, .span = c->span, .span_dev = c->span };
	k->attn(k, &(struct attn_args){ .o = out, .q = c->q, .sinks = c->has_sinks ? &c->sinks : NULL, .kv = &c->kv, .batch = &b,
		.n_head = c->n_head, .n_head_kv = c->n_head_kv, .d_head = c->d_head, .window = c->window, .scale = 0.125f });
}

static const enum dtype kv_dtype[] = { DT_BF16, DT_F32, DT_F8_E4M3 };

static void attn_case(struct kv_ctx c, const int (*span)[2], int n_seq, enum dtype dtype, bool ring)
{
	kv_init(&c, span, n_seq, dtype, ring);
	int n_q = c.n_head * c.d_head;
	c.q = rnd_act((size_t)(c.n_tok * n_q), GRID);
	c.sinks = rnd_bf16(c.n_head, 1, 2);
	/* where there is a window, only what some row may see is ever written, in the order of the positions */
	for (int s = 0; s < n_seq; s++)
		for (int p = c.window ? (int)fmax(0, span[s][0] - c.window + 1) : 0; p < span[s][0] + span[s][1]; p++)
			for (int i = 0; i < c.n_head_kv * c.d_head; i++) {
				kv_set(&c, c.kv.k, kv_at(&c, s, p, i / c.d_head) + (size_t)(i % c.d_head), 1.5f * rnd_normal());
				kv_set(&c, c.kv.v, kv_at(&c, s, p, i / c.d_head) + (size_t)(i % c.d_head), rnd_normal());
			}
	double *want = take((size_t)(c.n_tok * n_q), sizeof *want), *p = take(1 << 18, sizeof *p);
	for (int r = 0; r < c.n_tok * c.n_head; r++) {
		int t = r / c.n_head, ih = r % c.n_head, kvh = ih / (c.n_head / c.n_head_kv), pos = c.pos[t];
		int lo = c.window && pos - c.window + 1 > 0 ? pos - c.window + 1 : 0;
		double max = c.has_sinks ? wt(&c.sinks, ih) : -1e300, sum;
		for (int j = lo; j <= pos; j++) {
			p[j] = 0;
			for (int i = 0; i < c.d_head; i++)
				p[j] += 0.125 * c.q[r * c.d_head + i] * kv_get(&c, c.kv.k, kv_at(&c, c.seq[t], j, kvh) + (size_t)i);
			max = fmax(max, p[j]);
		}
		sum = c.has_sinks ? exp(wt(&c.sinks, ih) - max) : 0;
		for (int j = lo; j <= pos; j++)
			sum += p[j] = exp(p[j] - max);
		for (int j = lo; j <= pos; j++)
			for (int i = 0; i < c.d_head; i++)
				want[r * c.d_head + i] += p[j] / sum * kv_get(&c, c.kv.v, kv_at(&c, c.seq[t], j, kvh) + (size_t)i);
	}
	struct kern_limits lim = small;
	lim.n_tok = c.n_tok, lim.n_head = c.n_head, lim.n_head_kv = c.n_head_kv, lim.d_head = c.d_head;
	struct world wd = { lim, { 2e-6, 2e-6, 2e-6, 2e-6 }, run_attn, &c, want, (size_t)(c.n_tok * n_q), "" };
	if (dtype == DT_BF16)
		wd.tol[CPU_AVX512] = wd.tol[CPU_AMX] = 4e-3; /* the weights p are rounded to bf16 */
	snprintf(wd.name, sizeof wd.name, "attn %s%s heads %d/%d x %d, window %d, %d sequences, first %d + %d", dtype_name(dtype),
	         ring ? " ring" : "", c.n_head, c.n_head_kv, c.d_head, c.window, n_seq, span[0][0], span[0][1]);
	check(&wd);
	free(want);
	free(p);
	free(c.q);
	weight_free(&c.sinks);
	kv_done(&c);
}

TEST(attn)
{
	static const int one[][2] = { { 0, 1 } }, prompt[][2] = { { 0, 65 } }, chunk[][2] = { { 100, 37 } }, many[][2] = { { 0, 5 }, { 63, 1 }, { 64, 1 }, { 200, 30 } };
	static const int deep[][2] = { { 2300, 1 } }, deeper[][2] = { { 1020, 9 }, { 3000, 1 } };
	for (int i = 0; i < 3; i++) {
		enum dtype dt = kv_dtype[i];
		struct kv_ctx c = { .n_head = 8, .n_head_kv = 2, .d_head = 64, .has_sinks = true };
		attn_case(c, one, 1, dt, false);
		attn_case(c, prompt, 1, dt, false);
		attn_case(c, chunk, 1, dt, false);
		attn_case(c, many, 4, dt, false);
		attn_case(c, deep, 1, dt, false);
		attn_case(c, deeper, 2, dt, false);
		c.has_sinks = false;
		attn_case(c, many, 4, dt, false);
		c.window = 128;
		attn_case(c, many, 4, dt, true);
		c.window = 5, c.has_sinks = true;
		attn_case(c, many, 4, dt, false);
		attn_case(c, many, 4, dt, true);
		c.window = 1;
		attn_case(c, chunk, 1, dt, true);
		struct kv_ctx odd = { .n_head = 6, .n_head_kv = 2, .d_head = 16, .window = 20, .has_sinks = true };
		attn_case(odd, many, 4, dt, true);
		odd.n_head = 4, odd.n_head_kv = 4, odd.d_head = 8, odd.window = 0;
		attn_case(odd, many, 4, dt, false);
		odd.n_head = 2, odd.n_head_kv = 1, odd.d_head = 80;
		attn_case(odd, chunk, 1, dt, false);
		odd.n_head = 16, odd.n_head_kv = 2, odd.d_head = 64, odd.window = 100;
		attn_case(odd, many, 4, dt, true);
		odd.n_head = 7, odd.n_head_kv = 1, odd.d_head = 128, odd.window = 0;
		attn_case(odd, deeper, 2, dt, false);
	}
}

/* A token has the same bits alone, where few query rows meet a page, and inside a prompt, where many do. */
static void attn_invariant_case(int n_head, int n_head_kv, int d_head, int window)
{
	static const int span[][2] = { { 1000, 60 } };
	struct kv_ctx c = { .n_head = n_head, .n_head_kv = n_head_kv, .d_head = d_head, .window = window };
	kv_init(&c, span, 1, DT_BF16, false);
	for (size_t i = 0; i < kv_elems(&c); i++) {
		kv_set(&c, c.kv.k, i, 1.5f * rnd_normal());
		kv_set(&c, c.kv.v, i, rnd_normal());
	}
	size_t n_q = (size_t)(n_head * d_head);
	float *q = c.q = rnd_act(60 * n_q, PLAIN), *all = take(60 * n_q, sizeof *all), *one = take(n_q, sizeof *one);
	struct kern_limits lim = small;
	lim.n_head = n_head, lim.n_head_kv = n_head_kv, lim.d_head = d_head;
	for (int isa = FIRST_ISA; isa < CPU_AUTO; isa++) {
		struct kern *k = open_kern(&lim, isa, 2);
		if (!k)
			continue;
		c.n_tok = 60, c.span[0] = (struct span){ 0, 60, 1000 }, c.pos[0] = 1000, c.q = q;
		run_attn(k, &c, all);
		for (int t = 0; t < 60; t += 7) {
			c.n_tok = 1, c.span[0] = (struct span){ 0, 1, 1000 + t }, c.pos[0] = 1000 + t, c.q = q + (size_t)t * n_q;
			run_attn(k, &c, one);
			CHECK(!memcmp(one, all + (size_t)t * n_q, sizeof *one * n_q), "%s, %d heads: token %d differs", isa_word[isa], n_head, t);
		}
		k->free(k);
	}
	free(q);
	free(all);
	free(one);
	kv_done(&c);
}

TEST(attn_batch_invariant)
{
	attn_invariant_case(16, 2, 64, 0);
	attn_invariant_case(10, 2, 96, 128);
	attn_invariant_case(3, 1, 32, 0);
	attn_invariant_case(2, 2, 64, 5);
	attn_invariant_case(12, 1, 32, 0);
}

static void run_qkv(struct kern *k, void *ctx, float *out)
{
	struct kv_ctx *c = ctx;
	size_t n_q = (size_t)(c->n_tok * c->n_head * c->d_head), n_kv = kv_elems(c);
	memset(c->kv.k, 0xff, n_kv * (size_t)dtype_bytes(c->kv.dtype));
	memset(c->kv.v, 0xff, n_kv * (size_t)dtype_bytes(c->kv.dtype));
	struct batch b = { .n_tok = c->n_tok, .n_seq = c->n_seq, .pos = c->pos, .seq = c->seq, .span = c->span, .span_dev = c->span };
	k->qkv(k, &(struct qkv_args){ .q = out, .h = c->h, .wq = &c->wq, .wk = &c->wk, .wv = &c->wv, .bq = &c->bq, .bk = &c->bk, .bv = &c->bv,
		.cs = c->cs, .kv = &c->kv, .batch = &b, .n_embd = c->n_embd, .n_head = c->n_head, .n_head_kv = c->n_head_kv, .d_head = c->d_head });
	for (size_t i = 0; i < n_kv; i++) {
		out[n_q + i] = (float)kv_get(c, c->kv.k, i);
		out[n_q + n_kv + i] = (float)kv_get(c, c->kv.v, i);
	}
}

static void qkv_case(const int (*span)[2], int n_seq, enum dtype dtype, int kind, bool f8)
{
	struct kv_ctx c = { .n_head = 4, .n_head_kv = 2, .d_head = 32, .n_embd = 96, .window = 100 };
	kv_init(&c, span, n_seq, dtype, n_seq > 1);
	int d = c.d_head, n_q = c.n_head * d, n_kvh = c.n_head_kv * d;
	c.h = rnd_act((size_t)(c.n_tok * c.n_embd), kind);
	c.cs = rnd_act((size_t)(c.n_tok * d), PLAIN);
	struct weight *const w3[] = { &c.wq, &c.wk, &c.wv };
	for (int i = 0; i < 3; i++)
		*w3[i] = f8 ? rnd_f8(i ? n_kvh : n_q, c.n_embd) : rnd_bf16(i ? n_kvh : n_q, c.n_embd, 1);
	c.bq = rnd_bf16(n_q, 1, 5), c.bk = rnd_bf16(n_kvh, 1, 5), c.bv = rnd_bf16(n_kvh, 1, 5);
	size_t n = (size_t)(c.n_tok * n_q), n_kv = kv_elems(&c);
	double *want = take(n + 2 * n_kv, sizeof *want);
	for (size_t i = 0; i < 2 * n_kv; i++)
		want[n + i] = NAN; /* no slot but the batch's own may change */
	for (int t = 0; t < c.n_tok; t++) {
		const float *h = c.h + t * c.n_embd;
		for (int i = 0; i < n_q + n_kvh; i++) {
			int head = i / d, j = i % d, half = d / 2, at = j % half, r0 = head * d + at - (head < c.n_head ? 0 : n_q);
			const struct weight *w = head < c.n_head ? &c.wq : &c.wk, *b = head < c.n_head ? &c.bq : &c.bk;
			double x = dot(w, r0, h, c.n_embd) + wt(b, r0), y = dot(w, r0 + half, h, c.n_embd) + wt(b, r0 + half);
			double co = c.cs[t * d + 2 * at], si = c.cs[t * d + 2 * at + 1], v = j < half ? x * co - y * si : y * co + x * si;
			if (head < c.n_head)
				want[t * n_q + i] = v;
			else
				want[n + kv_at(&c, c.seq[t], c.pos[t], head - c.n_head) + (size_t)j] = v;
		}
		for (int i = 0; i < n_kvh; i++)
			want[n + n_kv + kv_at(&c, c.seq[t], c.pos[t], i / d) + (size_t)(i % d)] = dot(&c.wv, i, h, c.n_embd) + wt(&c.bv, i);
	}
	struct kern_limits lim = small;
	lim.n_tok = c.n_tok, lim.n_embd = c.n_embd, lim.d_head = d, lim.dense = f8 ? DT_F8_E4M3 : DT_NONE;
	struct world wd = { lim, TOL_FP32, run_qkv, &c, want, n + 2 * n_kv, "" };
	for (int isa = 0; isa < CPU_AUTO; isa++)
		wd.tol[isa] = dtype == DT_F8_E4M3 ? 4e-2 : dtype == DT_BF16 ? 3e-3 : kind == PLAIN && isa >= CPU_AVX512 ? 4e-3 : 1.5e-6;
	snprintf(wd.name, sizeof wd.name, "qkv %s, %d tokens", dtype_name(dtype), c.n_tok);
	check(&wd);
	for (int i = 0; i < 6; i++)
		weight_free((struct weight *[]){ &c.wq, &c.wk, &c.wv, &c.bq, &c.bk, &c.bv }[i]);
	free(c.h);
	free(c.cs);
	free(want);
	kv_done(&c);
}

TEST(qkv)
{
	static const int one[][2] = { { 70, 1 } }, prompt[][2] = { { 0, 33 } }, many[][2] = { { 0, 5 }, { 63, 1 }, { 64, 1 }, { 200, 30 } };
	for (int i = 0; i < 6; i++) {
		for (int f8 = 0; f8 < 2; f8++) {
			qkv_case(one, 1, kv_dtype[i % 3], i / 3, f8);
			qkv_case(prompt, 1, kv_dtype[i % 3], i / 3, f8);
			qkv_case(many, 4, kv_dtype[i % 3], i / 3, f8);
		}
	}
}

/* ---- router ---- */

struct moe_ctx {
	int n_tok, n_used, n_expert, n_embd, n_ff;
	float *h, *x, *act;
	struct weight w, b;
	struct moe_tables t;
};

static void tables_init(struct moe_ctx *c)
{
	size_t n = (size_t)(c->n_tok * c->n_used);
	c->t = (struct moe_tables){ take(n, 4), take(n, 4), take((size_t)c->n_expert + 1, 4), take(n, 4) };
}

static void tables_free(struct moe_ctx *c)
{
	free(c->t.topk_id);
	free(c->t.topk_w);
	free(c->t.expert_off);
	free(c->t.pair);
}

/* expert_off and pair agree with topk_id: every pair once, by expert, ascending inside one. */
static void tables_check(const struct moe_ctx *c, const char *name)
{
	int at = 0;
	for (int e = 0; e < c->n_expert; e++) {
		CHECK(c->t.expert_off[e] == at, "%s: expert %d starts at %d, wanted %d", name, e, c->t.expert_off[e], at);
		for (int p = 0; p < c->n_tok * c->n_used; p++)
			if (c->t.topk_id[p] == e) {
				CHECK(c->t.pair[at] == p, "%s: place %d holds pair %d, wanted %d", name, at, c->t.pair[at], p);
				at++;
			}
	}
	CHECK(c->t.expert_off[c->n_expert] == at && at == c->n_tok * c->n_used, "%s: %d pairs", name, at);
}

static double logit_of(const struct moe_ctx *c, int t, int e)
{
	return dot(&c->w, e, c->h + t * c->n_embd, c->n_embd) + wt(&c->b, e);
}

static void route_case(int n_tok, int n_expert, int n_used, int n_embd, int ties)
{
	struct moe_ctx c = { .n_tok = n_tok, .n_used = n_used, .n_expert = n_expert, .n_embd = n_embd, .h = rnd_act((size_t)(n_tok * n_embd), PLAIN),
		.w = rnd_bf16(n_expert, n_embd, 0.05), .b = rnd_bf16(n_expert, 1, 1) };
	bf16 *w = (bf16 *)(uintptr_t)c.w.data, *b = (bf16 *)(uintptr_t)c.b.data;
	for (int e = 1; ties == 1 && e < n_expert; e++) { /* experts in equal pairs */
		memcpy(w + e * n_embd, w + e / 2 * 2 * n_embd, 2 * (size_t)n_embd);
		b[e] = b[e / 2 * 2];
	}
	for (int e = 0; ties >= 2 && e < n_expert; e++) /* NaN everywhere but a few | everywhere */
		if (ties == 3 || e % 3)
			b[e] = 0x7fc0;
	tables_init(&c);
	struct kern_limits lim = small;
	lim.n_tok = n_tok, lim.n_embd = n_embd, lim.n_expert = n_expert, lim.n_used = n_used;
	for (int isa = FIRST_ISA; isa < CPU_AUTO; isa++) {
		struct kern *k = open_kern(&lim, isa, 2);
		if (!k)
			continue;
		char name[100];
		snprintf(name, sizeof name, "route %s, %d tokens, %d of %d, kind %d", isa_word[isa], n_tok, n_used, n_expert, ties);
		memset(c.t.topk_id, 0x7f, 4 * (size_t)(n_tok * n_used));
		k->route(k, &(struct route_args){ .t = c.t, .h = c.h, .w = &c.w, .b = &c.b, .rule = ROUTE_TOPK_SOFTMAX, .n_tok = n_tok,
			.n_embd = n_embd, .n_expert = n_expert, .n_used = n_used });
		tables_check(&c, name);
		for (int t = 0; t < n_tok; t++) {
			double sum = 0, l[16];
			bool used[512] = { 0 };
			for (int s = 0; s < n_used; s++) {
				int id = c.t.topk_id[t * n_used + s], best = -1;
				double top = -INFINITY;
				for (int e = 0; e < n_expert; e++)
					if (!used[e] && (best < 0 || logit_of(&c, t, e) > top + 1e-9)) {
						double le = logit_of(&c, t, e);
						if (best < 0 || !isnan(le))
							best = e, top = isnan(le) ? -INFINITY : le;
					}
				CHECK(id >= 0 && id < n_expert && !used[id], "%s: token %d slot %d is %d", name, t, s, id);
				l[s] = logit_of(&c, t, id);
				/* fp32 may swap two logits that are equal to 1e-5; equal experts must still come lowest first */
				CHECK(id == best || (ties != 1 && fabs(l[s] - top) < 1e-5 * (1 + fabs(top))), "%s: token %d slot %d is %d (%g), wanted %d (%g)",
				      name, t, s, id, l[s], best, top);
				used[id] = true;
				sum += exp(l[s] - l[0]);
			}
			for (int s = 0; s < n_used && ties < 2; s++)
				NEAR(c.t.topk_w[t * n_used + s], exp(l[s] - l[0]) / sum, 2e-6);
		}
		k->free(k);
	}
	tables_free(&c);
	free(c.h);
	weight_free(&c.w);
	weight_free(&c.b);
}

TEST(route)
{
	route_case(1, 32, 4, 2880, 0);
	route_case(7, 128, 4, 96, 0);
	route_case(65, 9, 1, 32, 0);
	route_case(3, 512, 16, 64, 0);
	route_case(5, 16, 16, 64, 0);
	for (int kind = 1; kind <= 3; kind++)
		route_case(6, 16, 4, 64, kind);
}

/* ---- experts ---- */

enum { SPREAD, ONE_EXPERT, HALF_EMPTY };

static void rnd_tables(struct moe_ctx *c, int skew)
{
	tables_init(c);
	for (int t = 0; t < c->n_tok; t++) {
		bool used[512] = { 0 };
		for (int s = 0; s < c->n_used; s++) {
			int e = skew == ONE_EXPERT && s == 0 ? 3 % c->n_expert : rnd_int(skew == HALF_EMPTY ? (c->n_expert + 1) / 2 : c->n_expert);
			while (used[e])
				e = (e + 1) % c->n_expert;
			used[e] = true;
			c->t.topk_id[t * c->n_used + s] = e;
			c->t.topk_w[t * c->n_used + s] = (float)rnd();
		}
	}
	int at = 0;
	for (int e = 0; e < c->n_expert; e++) {
		c->t.expert_off[e] = at;
		for (int p = 0; p < c->n_tok * c->n_used; p++)
			if (c->t.topk_id[p] == e)
				c->t.pair[at++] = p;
	}
	c->t.expert_off[c->n_expert] = at;
}

static void run_gate_up(struct kern *k, void *ctx, float *out)
{
	struct moe_ctx *c = ctx;
	k->moe_gate_up(k, &(struct moe_gate_up_args){ .act = out, .h = c->h, .w = &c->w, .b = &c->b, .t = c->t, .alpha = 1.702f, .limit = 7,
		.n_tok = c->n_tok, .n_used = c->n_used, .n_expert = c->n_expert, .n_embd = c->n_embd, .n_ff = c->n_ff });
}

static void run_down(struct kern *k, void *ctx, float *out)
{
	struct moe_ctx *c = ctx;
	memcpy(out, c->x, sizeof *out * (size_t)(c->n_tok * c->n_embd));
	k->moe_down(k, &(struct moe_down_args){ .x = out, .act = c->act, .w = &c->w, .b = &c->b, .t = c->t, .n_tok = c->n_tok,
		.n_used = c->n_used, .n_expert = c->n_expert, .n_embd = c->n_embd, .n_ff = c->n_ff });
}

static double clamped_swiglu(double g, double l)
{
	g = g > 7 ? 7 : g;
	l = l > 7 ? 7 : l < -7 ? -7 : l;
	return g / (1 + exp(-(double)1.702f * g)) * (l + 1);
}

enum { SCALE_PLAIN, SCALE_EDGES, SCALE_NAN };

static void edge_scales(struct weight *w, int scales)
{
	int64_t n = w->shape[0] * w->shape[1] * w->shape[2] / 32;
	uint8_t *s = (uint8_t *)(uintptr_t)w->scl;
	for (int64_t i = 0; i < n && scales != SCALE_PLAIN; i++)
		if (rnd_int(4) == 0)
			s[i] = scales == SCALE_NAN && rnd_int(8) == 0 ? 255 : (uint8_t[]){ 0, 1, 2, 30 }[rnd_int(4)];
	if (scales == SCALE_EDGES) /* one group so large that fp32 is nearly full: nothing may overflow on the way */
		s[n / 2] = 200;
}

static void moe_case(bool down, int n_tok, int n_used, int n_expert, int n_in, int n_out, int skew, int scales, int kind)
{
	int n_embd = down ? n_out : n_in, n_ff = down ? n_in : n_out, n_row = down ? n_out : 2 * n_out, n_pair = n_tok * n_used;
	struct moe_ctx c = { .n_tok = n_tok, .n_used = n_used, .n_expert = n_expert, .n_embd = n_embd, .n_ff = n_ff,
		.h = rnd_act((size_t)(n_tok * n_in), kind), .act = rnd_act((size_t)(n_pair * n_in), kind), .x = rnd_act((size_t)(n_tok * n_embd), PLAIN),
		.w = rnd_mx(n_expert, n_row, n_in), .b = rnd_bf16(n_expert, n_row, 0.5) };
	rnd_tables(&c, skew);
	edge_scales(&c.w, scales);
	size_t n = (size_t)(down ? n_tok * n_embd : n_pair * n_ff);
	double *want = take(n, sizeof *want), norm = 0;
	for (int t = 0; down && t < n_tok * n_embd; t++)
		want[t] = c.x[t];
	for (int p = 0; p < n_pair; p++)
		for (int i = 0; i < n_out; i++) {
			int64_t r = (int64_t)c.t.topk_id[p] * n_row;
			int t = p / n_used;
			if (down)
				want[t * n_embd + i] += c.t.topk_w[p] * (dot(&c.w, r + i, c.act + p * n_in, n_in) + wt(&c.b, r + i));
			else
				want[p * n_ff + i] = clamped_swiglu(dot(&c.w, r + 2 * i, c.h + t * n_in, n_in) + wt(&c.b, r + 2 * i),
				                                    dot(&c.w, r + 2 * i + 1, c.h + t * n_in, n_in) + wt(&c.b, r + 2 * i + 1));
		}
	for (size_t i = 0; i < n; i++)
		norm += isnan(want[i]) ? 0 : want[i] * want[i];
	struct kern_limits lim = small;
	lim.n_tok = n_tok, lim.n_embd = n_embd, lim.n_ff = n_ff, lim.n_expert = n_expert, lim.n_used = n_used;
	struct world wd = { lim, TOL_BF16, down ? run_down : run_gate_up, &c, want, n, "" };
	for (int isa = 0; isa < CPU_AUTO && kind == GRID; isa++)
		wd.tol[isa] = isa < CPU_AVX512 ? 3e-6 : TOL_INT16; /* exp and the clamp's edges included */
	snprintf(wd.name, sizeof wd.name, "%s %d tokens, %d of %d, [%d, %d], skew %d, scales %d", down ? "moe_down" : "moe_gate_up", n_tok, n_used,
	         n_expert, n_row, n_in, skew, scales);
	CHECK(isfinite(norm) && norm > 0, "%s: the case is empty (%g)", wd.name, norm);
	check(&wd);
	tables_free(&c);
	weight_free(&c.w);
	weight_free(&c.b);
	free(c.h);
	free(c.act);
	free(c.x);
	free(want);
}

static void moe_cases(bool down)
{
	static const int tok[] = { 1, 2, 3, 5, 13, 16, 17, 40, 70 }, in[] = { 32, 64, 96, 128, 160, 288 };
	for (size_t i = 0; i < sizeof tok / sizeof *tok; i++)
		for (int skew = SPREAD; skew <= HALF_EMPTY; skew++)
			moe_case(down, tok[i], 4, 8, in[rnd_int(6)], down ? 32 * (1 + rnd_int(3)) : 32 * (1 + rnd_int(2)), skew, SCALE_PLAIN, (int)i % 2);
	for (int i = 0; i < 6; i++)
		moe_case(down, i * 9 + 1, 1 + i % 3, 5, in[i], 32, SPREAD, i % 3, GRID);
	moe_case(down, 1, 4, 4, 2880, 96, SPREAD, SCALE_PLAIN, GRID);
	moe_case(down, 33, 2, 2, 2880, 32, ONE_EXPERT, SCALE_PLAIN, GRID);
	moe_case(down, 2, 2, 2, 544, 2880, SPREAD, SCALE_PLAIN, GRID);
	moe_case(down, 3, 16, 40, 64, 32, SPREAD, SCALE_PLAIN, GRID);
	for (int n = 1; n < 50; n += 24)
		for (int scales = SCALE_EDGES; scales <= SCALE_NAN; scales++)
			moe_case(down, n, 1, 1, 288, 64, SPREAD, scales, GRID);
}

TEST(moe_gate_up) { moe_cases(false); }
TEST(moe_down) { moe_cases(true); }

TEST_MAIN
