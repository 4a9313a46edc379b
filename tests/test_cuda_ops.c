/* test_cuda_ops.c - the CUDA backend's ops through the op table against the plain CPU ops, on random bf16 data.  Skipped without a GPU.
 *
 * Products and attention have tests of their own (tests/cuda/test_dense.cu, test_attn.cu); here is what lies between them. */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "formats/synth.h"
#include "moe/moe.h"
#include "test.h"

static struct moxie_err err;
static uint32_t state;

static uint32_t bits(void)
{
	state = state * 1664525u + 1013904223u;
	return state >> 8;
}

/* About normal, as bf16 has it. */
static float value(float scale)
{
	float f = 0;
	for (int i = 0; i < 4; i++)
		f += (float)(bits() & 0xffff) / 65536 - .5f;
	return bf16_to_f32(bf16_from_f32(f * 1.7f * scale));
}

struct two { /* the same limits on both */
	struct kern *cpu, *dev;
};

static const struct kern_limits wide = { .n_tok = 300, .n_seq = 4, .n_embd = 128, .n_head = 8, .n_head_kv = 2, .d_head = 32, .n_ff = 192,
	.n_expert = 16, .n_used = 4, .n_vocab = 512, .alpha = 1.702f, .limit = 7 };

static struct two open_two(const struct kern_limits *l)
{
	struct two t;
	const char *other = getenv("MOXIE_TEST_DEVICE"); /* such as cuda:portable,shared=64 */
	int rc = backend_open(&t.dev, other ? other : "cuda", l, 0, &err);
	if (rc == MOXIE_E_UNSUPPORTED)
		SKIP("%s", err.text);
	OK(rc, err);
	OK(kern_cpu_create(&t.cpu, l, CPU_REF, 2, &err), err);
	return t;
}

static void close_two(struct two *t)
{
	t->cpu->free(t->cpu);
	t->dev->free(t->dev);
}

static void *to_device(struct two *t, const void *from, size_t n)
{
	void *p = t->dev->dev->take(t->dev, n, &err);
	CHECK(p, "%s", err.text);
	t->dev->dev->upload(t->dev, p, from, n);
	OK(t->dev->sync(t->dev, &err), err);
	return p;
}

static void from_device(struct two *t, void *to, const void *from, size_t n)
{
	t->dev->dev->fetch(t->dev, to, from, n);
	OK(t->dev->sync(t->dev, &err), err);
}

static float *floats(size_t n, float scale)
{
	float *p = malloc(n * sizeof *p);
	CHECK(p, "%zu floats", n);
	for (size_t i = 0; i < n; i++)
		p[i] = value(scale);
	return p;
}

static bf16 *halves(const float *from, size_t n)
{
	bf16 *p = malloc(n * sizeof *p);
	CHECK(p, "%zu halves", n);
	for (size_t i = 0; i < n; i++)
		p[i] = bf16_from_f32(from[i]);
	return p;
}

static void *act_to_device(struct two *t, const float *from, size_t n)
{
	bf16 *h = halves(from, n);
	void *p = to_device(t, h, n * sizeof *h);
	free(h);
	return p;
}

/* got (device, bf16) against want: within one rounding of bf16 of each, or tol of the largest. */
static void compare(struct two *t, const void *got, const float *want, size_t n, double tol, const char *what)
{
	bf16 *g = malloc(n * sizeof *g);
	CHECK(g, "%zu halves", n);
	from_device(t, g, got, n * sizeof *g);
	double top = 0;
	for (size_t i = 0; i < n; i++)
		top = fmax(top, fabs((double)want[i]));
	for (size_t i = 0; i < n; i++) {
		double d = fabs((double)bf16_to_f32(g[i]) - (double)want[i]), most = fmax(fabs((double)want[i]) * 0x1.02p-8, tol * top);
		CHECK(d <= most, "%s: element %zu is %g, wanted %g (of at most %g)", what, i, (double)bf16_to_f32(g[i]), (double)want[i], top);
	}
	free(g);
}

static void rmsnorm_case(struct two *t, int n_tok, int n_embd, bool f32, bool rows)
{
	size_t n = (size_t)n_tok * (size_t)n_embd;
	float *x = floats(n, 3), *w = floats((size_t)n_embd, 1), *want = malloc(n * sizeof *want);
	int32_t row[64];
	for (int i = 0; i < n_tok; i++)
		row[i] = (i * 7 + 3) % n_tok;
	bf16 *wh = halves(w, (size_t)n_embd);
	struct weight cw = { .dtype = f32 ? DT_F32 : DT_BF16, .n_dim = 1, .shape = { n_embd }, .data = f32 ? (void *)w : (void *)wh }, dw = cw;
	dw.data = to_device(t, cw.data, (size_t)n_embd * (f32 ? 4 : 2));
	struct rmsnorm_args a = { .h = want, .x = x, .w = &cw, .row = rows ? row : NULL, .eps = 1e-5f, .n_tok = n_tok, .n_embd = n_embd }, d = a;
	t->cpu->rmsnorm(t->cpu, &a);
	d.x = act_to_device(t, x, n);
	d.w = &dw;
	d.h = act_to_device(t, x, n);
	d.row = rows ? to_device(t, row, (size_t)n_tok * sizeof *row) : NULL;
	t->dev->rmsnorm(t->dev, &d);
	compare(t, d.h, want, n, 1e-6, "rmsnorm");
	free(x);
	free(w);
	free(wh);
	free(want);
}

TEST(rmsnorm)
{
	struct two t = open_two(&wide);
	rmsnorm_case(&t, 1, 32, false, false);
	rmsnorm_case(&t, 3, 2880, false, true);
	rmsnorm_case(&t, 64, 2880, true, false);
	rmsnorm_case(&t, 5, 4096, false, false);
	rmsnorm_case(&t, 5, 4128, true, true);
	rmsnorm_case(&t, 2, 16384, false, false);
	close_two(&t);
}

TEST(embed_and_rope)
{
	struct two t = open_two(&wide);
	enum { VOCAB = 512, EMBD = 2880, TOK = 70, ROT = 64 };
	float *w = floats((size_t)VOCAB * EMBD, 1), *want = malloc(sizeof(float) * TOK * EMBD), freq[ROT / 2], cs[2][TOK * ROT];
	bf16 *wh = halves(w, (size_t)VOCAB * EMBD);
	int32_t tok[TOK], pos[TOK];
	for (int i = 0; i < TOK; i++) {
		tok[i] = i ? (int32_t)(bits() % VOCAB) : VOCAB - 1;
		pos[i] = i < 4 ? 131071 - i : (int32_t)(bits() % 131072);
	}
	for (int i = 0; i < ROT / 2; i++)
		freq[i] = (float)pow(150000, -2. * i / ROT);
	struct weight cw = { .dtype = DT_BF16, .n_dim = 2, .shape = { VOCAB, EMBD }, .data = wh }, dw = cw;
	dw.data = to_device(&t, wh, sizeof(bf16) * VOCAB * EMBD);
	struct embed_args a = { .x = want, .w = &cw, .tok = tok, .n_tok = TOK, .n_embd = EMBD }, d = a;
	t.cpu->embed(t.cpu, &a);
	d.w = &dw;
	d.tok = to_device(&t, tok, sizeof tok);
	d.x = act_to_device(&t, w, (size_t)TOK * EMBD); /* anything but the answer */
	t.dev->embed(t.dev, &d);
	compare(&t, d.x, want, (size_t)TOK * EMBD, 0, "embed");

	struct rope_args r = { .cs = cs[0], .pos = pos, .inv_freq = freq, .mscale = 1.3465736f, .n_tok = TOK, .n_rot = ROT }, e = r;
	t.cpu->rope(t.cpu, &r);
	memset(cs[1], 0xff, sizeof cs[1]);
	e.cs = to_device(&t, cs[1], sizeof cs[1]);
	e.pos = to_device(&t, pos, sizeof pos);
	e.inv_freq = to_device(&t, freq, sizeof freq);
	t.dev->rope(t.dev, &e);
	from_device(&t, cs[1], e.cs, sizeof cs[1]);
	for (int i = 0; i < TOK * ROT; i++)
		CHECK(fabsf(cs[0][i] - cs[1][i]) <= 2e-7f, "rope: element %d is %.9g, wanted %.9g", i, (double)cs[1][i], (double)cs[0][i]);
	free(w);
	free(wh);
	free(want);
	close_two(&t);
}

static void argmax_case(struct two *t, int n_row, int n_vocab)
{
	size_t n = (size_t)n_row * (size_t)n_vocab;
	float *l = floats(n, 4);
	int32_t *want = malloc((size_t)n_row * sizeof *want), *got = malloc((size_t)n_row * sizeof *got);
	for (int i = 0; i < n_row; i++) {
		float *row = l + (size_t)i * (size_t)n_vocab;
		int kind = i % 5;
		for (int j = 0; j < n_vocab && kind == 1; j++)
			row[j] = -INFINITY;
		for (int j = 0; j < n_vocab && kind == 2; j++)
			row[j] = j % 3 ? NAN : row[j];
		for (int j = 0; j < n_vocab && kind == 3; j++)
			row[j] = j % 2 ? -0.f : 0.f;
		if (kind == 4)
			row[n_vocab - 1] = row[n_vocab / 2] = 99; /* the first of two */
		int best = -1;
		for (int j = 0; j < n_vocab; j++)
			if (!isnan(row[j]) && (best < 0 || row[j] > row[best]))
				best = j;
		want[i] = best;
	}
	struct sample_args a = { .id = to_device(t, l, (size_t)n_row * sizeof *got), .n_row = n_row, .n_vocab = n_vocab };
	a.logits = to_device(t, l, n * sizeof *l);
	t->dev->sample(t->dev, &a);
	from_device(t, got, a.id, (size_t)n_row * sizeof *got);
	for (int i = 0; i < n_row; i++)
		CHECK(got[i] == want[i], "argmax of %d: row %d is %d, wanted %d", n_vocab, i, (int)got[i], (int)want[i]);
	free(l);
	free(want);
	free(got);
}

TEST(argmax)
{
	struct two t = open_two(&wide);
	argmax_case(&t, 5, 1);
	argmax_case(&t, 10, 129);
	argmax_case(&t, 5, 2048);
	argmax_case(&t, 10, 201088);
	close_two(&t);
}

static int rule_of(void *ud, const void *data, struct dummy_rule *rule, struct moxie_err *e)
{
	const struct tensor_want *t = ud;
	int rc = synth_rule(t, 77, rule, e);
	rule->at = (uint64_t)(uintptr_t)data;
	return rc;
}

TEST(dummy)
{
	static const struct tensor_want want[] = {
		{ .name = "model.layers.3.self_attn.q_proj.weight", .dtype = DT_BF16, .n_dim = 2, .shape = { 96, 64 } },
		{ .name = "model.norm.weight", .dtype = DT_F32, .n_dim = 1, .shape = { 2880 } },
		{ .name = "model.layers.0.mlp.experts.down_proj_blocks", .dtype = DT_U8, .n_dim = 3, .shape = { 3, 50, 256 } },
		{ .name = "model.layers.0.mlp.experts.down_proj_scales", .dtype = DT_U8, .n_dim = 3, .shape = { 3, 50, 16 } },
	};
	struct two t = open_two(&wide);
	for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
		size_t n = (size_t)(want[i].n_dim == 1 ? 2880 * 4 : want[i].n_dim == 2 ? 96 * 64 * 2 : want[i].shape[0] * want[i].shape[1] * want[i].shape[2]);
		uint8_t *a = malloc(n), *b = malloc(n), skip = 32; /* from inside the tensor */
		CHECK(a && b, "memory");
		synth_fill(&want[i], 77, a, n);
		struct weight w = { .dtype = DT_BF16, .n_dim = 1, .shape = { (int64_t)(n - skip) / 2 }, .data = (void *)(uintptr_t)skip }, *list = &w;
		struct arena ws = { .base = t.dev->dev->take(t.dev, n + 256, &err), .cap = n + 256 };
		t.dev->dev->made(t.dev, rule_of, (void *)&want[i]);
		OK(t.dev->dev->place(t.dev, &ws, &list, 1, &err), err);
		t.dev->dev->made(t.dev, NULL, NULL);
		from_device(&t, b, w.data, n - skip);
		CHECK(!memcmp(a + skip, b, n - skip), "%s: not the host's bytes", want[i].name);
		free(a);
		free(b);
	}
	close_two(&t);
}

/* One random MoE layer, in host memory. */
struct layer {
	struct moe_weights w;
	struct moe_config c;
	void *block[8];
};

static struct weight bytes_weight(struct layer *l, int i, int64_t n, int64_t k, int64_t e)
{
	size_t n_codes = (size_t)(e * n * k / 2), n_scl = (size_t)(e * n * k / 32);
	uint8_t *p = l->block[i] = malloc(n_codes + n_scl);
	CHECK(p, "codes");
	for (size_t j = 0; j < n_codes; j++)
		p[j] = (uint8_t)bits();
	int mid = 127 - (int)lrint(log2(sqrt((double)k * 8.6)));
	for (size_t j = 0; j < n_scl; j++)
		p[n_codes + j] = (uint8_t)(mid + (int)(bits() % 3) - 1);
	return (struct weight){ .dtype = DT_U8, .n_dim = 3, .shape = { e, n, k }, .data = p, .scl = p + n_codes };
}

static struct weight half_weight(struct layer *l, int i, int64_t n, int64_t k, float scale)
{
	float *f = floats((size_t)(n * k), scale);
	l->block[i] = halves(f, (size_t)(n * k));
	free(f);
	return (struct weight){ .dtype = DT_BF16, .n_dim = 2, .shape = { n, k }, .data = l->block[i] };
}

/* A row whose n_used-th and next expert are well apart: rounding then has no say in who is picked. */
static void decided_row(float *x, const struct kern_limits *lim, const bf16 *router, const bf16 *bias, const bf16 *norm)
{
	for (int tries = 0; tries < 1000; tries++) {
		double squares = 0, logit[16];
		for (int c = 0; c < lim->n_embd; c++) {
			x[c] = bf16_to_f32(bf16_from_f32(value(1)));
			squares += (double)x[c] * (double)x[c];
		}
		for (int e = 0; e < lim->n_expert; e++) {
			logit[e] = 0;
			for (int c = 0; c < lim->n_embd; c++)
				logit[e] += (double)x[c] * (double)bf16_to_f32(norm[c]) * (double)bf16_to_f32(router[e * lim->n_embd + c]);
			logit[e] = logit[e] / sqrt(squares / lim->n_embd) + (double)bf16_to_f32(bias[e]);
		}
		for (int i = 0; i < lim->n_expert; i++) /* falling */
			for (int j = i + 1; j < lim->n_expert; j++)
				if (logit[j] > logit[i]) {
					double t = logit[i];
					logit[i] = logit[j], logit[j] = t;
				}
		if (lim->n_expert == lim->n_used || logit[lim->n_used - 1] - logit[lim->n_used] > .1)
			return;
	}
	CHECK(0, "no row of %d channels is decided", lim->n_embd);
}

/* h has the bits that the rmsnorm op makes of x. */
static void same_norm(struct two *t, void *x, const void *h, const struct weight *norm, int n_tok, int n_embd)
{
	size_t n = (size_t)n_tok * (size_t)n_embd;
	bf16 *a = malloc(n * sizeof *a), *b = malloc(n * sizeof *b);
	CHECK(a && b, "%zu halves", n);
	memset(b, 0xff, n * sizeof *b);
	void *own = to_device(t, b, n * sizeof *b);
	t->dev->rmsnorm(t->dev, &(struct rmsnorm_args){ .h = own, .x = x, .w = norm, .eps = 1e-5f, .n_tok = n_tok, .n_embd = n_embd });
	from_device(t, a, h, n * sizeof *a);
	from_device(t, b, own, n * sizeof *b);
	CHECK(!memcmp(a, b, n * sizeof *a), "%d tokens: the norm after the block has other bits than rmsnorm", n_tok);
	free(a);
	free(b);
}

static float *from_halves(struct two *t, const void *p, size_t n)
{
	bf16 *h = malloc(n * sizeof *h);
	float *f = malloc(n * sizeof *f);
	CHECK(h && f, "%zu halves", n);
	from_device(t, h, p, n * sizeof *h);
	for (size_t i = 0; i < n; i++)
		f[i] = bf16_to_f32(h[i]);
	free(h);
	return f;
}

/* One token's qkv after the block, once as an op of its own and once offered to the block: the same but for the order of sums. */
static void qkv_case(struct two *t, const struct kern_limits *lim, const struct layer *l, const struct moe_weights *placed, const struct weight *norm,
                     const float *x, bool f8, struct arena *ws)
{
	size_t n = (size_t)lim->n_embd, d = (size_t)lim->d_head, n_q = (size_t)lim->n_head * d, n_kv = (size_t)lim->n_head_kv * d;
	size_t n_out = n_q + 2 * n_kv, n_cache = 2 * n_kv * KV_PAGE;
	float *w = floats(n_out * n, 1 / sqrtf((float)n)), *b = floats(n_out, .5f), *cs = floats(d, 1), *none = calloc(n_cache, sizeof *none);
	bf16 *hw = halves(w, n_out * n), *db = act_to_device(t, b, n_out);
	struct weight wq = { .dtype = DT_BF16, .n_dim = 2, .shape = { (int64_t)n_q, (int64_t)n }, .data = hw }, wk = wq, wv = wq;
	const struct weight bq = { .dtype = DT_BF16, .n_dim = 1, .shape = { (int64_t)n_q }, .data = db };
	struct weight bk = bq, bv = bq, *const all[] = { &wq, &wk, &wv };
	wk.data = hw + n_q * n, wv.data = hw + (n_q + n_kv) * n, bk.data = db + n_q, bv.data = db + n_q + n_kv;
	wk.shape[0] = wv.shape[0] = bk.shape[0] = bv.shape[0] = (int64_t)n_kv;
	struct arena place = { .base = t->dev->dev->take(t->dev, n_out * n * 2 + n_out * 4 + 4096, &err), .cap = n_out * n * 2 + n_out * 4 + 4096 };
	CHECK(place.base, "%s", err.text);
	OK((f8 ? t->dev->dev->place_f8 : t->dev->dev->place)(t->dev, &place, all, 3, &err), err);
	OK(t->dev->sync(t->dev, &err), err);
	const int32_t at[] = { 1, 5, 0 }; /* page, position, sequence */
	const int32_t *dat = to_device(t, at, sizeof at);
	const struct batch batch = { .n_tok = 1, .n_seq = 1, .pos = dat + 1, .seq = dat + 2 };
	void *q[2], *k[2], *v[2];
	for (int i = 0; i < 2; i++) {
		void *dx = act_to_device(t, x, n), *dh = act_to_device(t, x, n);
		q[i] = act_to_device(t, none, n_q), k[i] = act_to_device(t, none, n_cache), v[i] = act_to_device(t, none, n_cache);
		const struct kv_view kv = { .dtype = DT_BF16, .k = k[i], .v = v[i], .page = dat, .n_page_seq = 1 };
		const struct qkv_args a = { .q = q[i], .h = dh, .wq = &wq, .wk = &wk, .wv = &wv, .bq = &bq, .bk = &bk, .bv = &bv,
			.cs = to_device(t, cs, d * sizeof *cs), .kv = &kv, .batch = &batch, .n_embd = lim->n_embd, .n_head = lim->n_head, .n_head_kv = lim->n_head_kv,
			.d_head = lim->d_head, .eps = 1e-5f };
		bool made = true;
		OK(moe_forward(t->dev, &l->c, placed, norm, norm, 1e-5f, dx, dh, 1, NULL, i ? &a : NULL, &made, ws, &err), err);
		if (i && made)
			printf("     %d/%d: qkv of %s made by the block\n", lim->n_embd, lim->n_ff, dtype_name(wq.dtype));
		if (!i || !made)
			t->dev->qkv(t->dev, &a);
		OK(t->dev->sync(t->dev, &err), err);
	}
	float *want[] = { from_halves(t, q[0], n_q), from_halves(t, k[0], n_cache), from_halves(t, v[0], n_cache) };
	compare(t, q[1], want[0], n_q, 2e-3, "q behind the block");
	compare(t, k[1], want[1], n_cache, 2e-3, "k behind the block");
	compare(t, v[1], want[2], n_cache, 2e-3, "v behind the block");
	free(hw);
	float *const host[] = { w, b, cs, none, want[0], want[1], want[2] };
	for (size_t i = 0; i < sizeof host / sizeof *host; i++)
		free(host[i]);
}

static void moe_case(const struct kern_limits *lim, const int *n_tok, int n_case, double tol)
{
	struct two t = open_two(lim);
	struct layer l = { .c = { ROUTE_TOPK_SOFTMAX, lim->n_embd, lim->n_ff, lim->n_expert, lim->n_used, lim->alpha, lim->limit } };
	l.w.router = half_weight(&l, 0, lim->n_expert, lim->n_embd, 2 / sqrtf((float)lim->n_embd));
	l.w.router_b = half_weight(&l, 1, lim->n_expert, 1, .5f);
	l.w.gate_up = bytes_weight(&l, 2, 2 * lim->n_ff, lim->n_embd, lim->n_expert);
	l.w.gate_up_b = half_weight(&l, 3, lim->n_expert, 2 * lim->n_ff, .5f);
	l.w.down = bytes_weight(&l, 4, lim->n_embd, lim->n_ff, lim->n_expert);
	l.w.down_b = half_weight(&l, 5, lim->n_expert, lim->n_embd, .5f);
	struct weight norm = half_weight(&l, 6, lim->n_embd, 1, .1f), dnorm;
	for (int i = 0; i < lim->n_embd; i++)
		((bf16 *)l.block[6])[i] = bf16_from_f32(1 + bf16_to_f32(((bf16 *)l.block[6])[i]));
	dnorm = norm;
	dnorm.data = to_device(&t, norm.data, (size_t)lim->n_embd * sizeof(bf16));
	struct moe_weights placed = l.w;
	struct arena dry = { .cap = SIZE_MAX }, ws = { 0 };
	OK(t.dev->dev->place_moe(t.dev, &dry, &placed, &l.c, &err), err);
	ws.base = t.dev->dev->take(t.dev, dry.top, &err);
	CHECK(ws.base, "%s", err.text);
	ws.cap = dry.top;
	OK(t.dev->dev->place_moe(t.dev, &ws, &placed, &l.c, &err), err);
	OK(t.dev->sync(t.dev, &err), err);
	CHECK(ws.n == dry.top, "placed %zu bytes, planned %zu", ws.n, dry.top);
	for (int i = 0; i < n_case; i++) {
		size_t n = (size_t)n_tok[i] * (size_t)lim->n_embd;
		float *h = floats(n, 1), *x = floats(n, 1);
		for (int row = 0; row < n_tok[i]; row++)
			decided_row(x + (size_t)row * (size_t)lim->n_embd, lim, l.block[0], l.block[1], l.block[6]);
		void *dh = act_to_device(&t, h, n), *dx = act_to_device(&t, x, n);
		struct arena step, dstep = { .base = t.dev->dev->take(t.dev, 16 << 20, &err), .cap = 16 << 20 };
		CHECK(arena_init(&step, 64 << 20) && dstep.base, "arenas");
		for (int f8 = 0; f8 < 2 && n_tok[i] == 1; f8++)
			qkv_case(&t, lim, &l, &placed, &dnorm, x, f8, &dstep);
		OK(moe_forward(t.cpu, &l.c, &l.w, &norm, &norm, 1e-5f, x, h, n_tok[i], NULL, NULL, NULL, &step, &err), err);
		OK(moe_forward(t.dev, &l.c, &placed, &dnorm, &dnorm, 1e-5f, dx, dh, n_tok[i], NULL, NULL, NULL, &dstep, &err), err);
		char what[64];
		snprintf(what, sizeof what, "moe %d/%d, %d tokens", lim->n_embd, lim->n_ff, n_tok[i]);
		compare(&t, dx, x, n, tol, what);
		strcat(what, ", the norm after");
		compare(&t, dh, h, n, tol, what);
		same_norm(&t, dx, dh, &dnorm, n_tok[i], lim->n_embd);
		arena_free(&step);
		t.dev->dev->give(t.dev, dstep.base);
		free(h);
		free(x);
	}
	for (int i = 0; i < 8; i++)
		free(l.block[i]);
	close_two(&t);
}

TEST(moe_packed)
{
	static const int n_tok[] = { 1, 2, 5, 64, 300 };
	moe_case(&wide, n_tok, 5, 2e-2);
}

/* GPT-OSS's attention: the shares of qkv that CTAs have, and a row that ends within 128 channels. */
TEST(moe_qkv)
{
	struct kern_limits l = wide;
	l.n_tok = 1, l.n_embd = 2880, l.n_ff = 320, l.n_head = 64, l.n_head_kv = 8, l.d_head = 64;
	static const int n_tok[] = { 1 };
	moe_case(&l, n_tok, 1, 2e-2);
}

TEST(moe_plain)
{
	struct kern_limits odd = wide;
	odd.n_embd = 96, odd.n_ff = 160, odd.n_expert = 4;
	static const int n_tok[] = { 1, 7, 33 };
	moe_case(&odd, n_tok, 3, 2e-2);
}

TEST_MAIN
