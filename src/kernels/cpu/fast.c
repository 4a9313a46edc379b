/* fast.c - the ops over an instruction set's loops: packing, threads, epilogues.
 *
 * Every thread owns a range of output rows of every matrix it meets, all experts alike, so the load is even under any routing
 * and a result never crosses threads.  Inside its range a thread works in blocks of isa->block rows: expand them once, multiply
 * with every token that wants them, finish the outputs, move on.
 * Nothing here is hot except through the loops it calls.   Test: build/test_kernels   Bench: moxie bench op
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/ref.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

static int min_int(int a, int b)
{
	return a < b ? a : b;
}

/* This thread's share of n things in units: [*lo, *hi). */
static void my_share(struct part_of me, int n, int unit, int *lo, int *hi)
{
	int64_t n_unit = (n + unit - 1) / unit;
	*lo = min_int(n, (int)(n_unit * me.id / me.n) * unit);
	*hi = min_int(n, (int)(n_unit * (me.id + 1) / me.n) * unit);
}

static size_t row_bytes(const struct cpu *c, int n_in)
{
	return (size_t)pad_to(n_in, MX_CHUNK) * (size_t)c->isa->elem;
}

/* Scratch was taken for the limits given at create; a caller that goes beyond them has failed the backend for good. */
static bool within(struct cpu *c, int n_tok, int n_in, int n_pair)
{
	const struct kern_limits *l = &c->lim;
	int max_in = l->n_embd > l->n_ff ? l->n_embd : l->n_ff;
	max_in = max_in > l->n_head * l->d_head ? max_in : l->n_head * l->d_head;
	if (n_tok <= l->n_tok && n_in <= max_in && n_pair <= l->n_tok * (l->n_used ? l->n_used : 1))
		return true;
	c->status = MOXIE_E_DEVICE;
	snprintf(c->text, sizeof c->text, "an op of %d tokens, %d pairs, K = %d is beyond the limits of %d tokens, K = %d", n_tok, n_pair, n_in,
	         l->n_tok, max_in);
	return false;
}

/* Tokens of one matrix from which they are served by panels. */
static int min_panel(const struct cpu *c, bool mx)
{
	if (c->kern.rows != ROWS_ANY)
		return c->kern.rows == ROWS_PROMPT ? 1 : INT_MAX;
	return mx ? c->isa->min_panel_mx : c->isa->min_panel;
}

/* ---- packing ---- */

/* The rows that one op's products read, grouped by expert (dense: one group, off = { 0, n }, no pair). */
struct source {
	const float *a;
	int n_in, n_expert;
	const int32_t *off, *pair;
	int per_row; /* pairs that read the same row: n_used, or 1 */
	bool mx;
};

static const float *source_row(const struct source *s, int i)
{
	return s->a + (int64_t)(s->pair ? s->pair[i] / s->per_row : i) * s->n_in;
}

/* Which rows go where: groups below min_panel one by one, others in panels.  One thread. */
static void plan_pack(struct cpu *c, const struct source *s)
{
	int row = 0, lane = c->isa->lane;
	c->n_item = 0;
	for (int e = 0; e < s->n_expert; e++) {
		int n = s->off[e + 1] - s->off[e], step = n < min_panel(c, s->mx) ? 1 : lane;
		c->row_of[e] = row;
		for (int i = 0; i < n; i += step, row += step)
			c->item[c->n_item++] = (struct pack_item){ s->off[e] + i, min_int(step, n - i), row, n >= min_panel(c, s->mx) };
	}
}

/* By all threads, after plan_pack by one; ends with a barrier. */
static void pack(const struct cpu *c, const struct source *s, struct part_of me)
{
	size_t bytes = row_bytes(c, s->n_in);
	int lo, hi;
	my_share(me, c->n_item, 1, &lo, &hi);
	for (int i = lo; i < hi; i++) {
		const struct pack_item *it = c->item + i;
		uint8_t *dst = (uint8_t *)c->packed + (size_t)it->row * bytes;
		if (it->panel) {
			const float *row[32];
			for (int j = 0; j < it->n; j++)
				row[j] = source_row(s, it->i0 + j);
			c->isa->pack_panel(dst, row, it->n, s->n_in, s->mx);
		} else
			c->isa->pack_dot(dst, source_row(s, it->i0), s->n_in, s->mx);
	}
	pool_barrier(me);
}

static const void *packed_of(const struct cpu *c, int e, int n_in)
{
	return (const uint8_t *)c->packed + (size_t)c->row_of[e] * row_bytes(c, n_in);
}

/* ---- products ---- */

static struct mat mat_of(const struct weight *w, int64_t e, int64_t n_row, int n_in)
{
	int64_t at = e * n_row * n_in;
	if (w->dtype == DT_U8)
		return (struct mat){ true, n_in, (const uint8_t *)w->data + at / 2, w->scl + at / MX_GROUP };
	return (struct mat){ false, n_in, (const uint8_t *)w->data + at * 2, NULL };
}

static float *my_y(const struct cpu *c, struct part_of me)
{
	return (float *)(void *)(c->thread + (size_t)me.id * c->thread_bytes);
}

/* y[t * ldy + r] = w[r0 + r] . a[t] + b[b0 + r0 + r] */
static void product(const struct cpu *c, const struct mat *w, const struct weight *b, int64_t b0, int r0, int n_row, const void *a, int n_tok,
                    bool panels, float *y, int ldy, struct part_of me)
{
	float bias[256]; /* block <= 256 */
	for (int r = 0; r < n_row; r++)
		bias[r] = bias_at(b, b0 + r0 + r);
	if (panels)
		c->isa->panel(w, r0, n_row, a, n_tok, bias, y, ldy, (uint8_t *)my_y(c, me) + c->y_bytes);
	else
		c->isa->dot(w, r0, n_row, a, n_tok, bias, y, ldy);
}

/* Rows that one thread may be given: whole units of the panel kernel where there are panels, else what dots take at once. */
static int share_unit(const struct cpu *c)
{
	for (int i = 0; i < c->n_item; i++)
		if (c->item[i].panel)
			return c->isa->unit;
	return 4;
}

/* d[t, r] of one dense matrix from what pack() left; all threads. */
static void dense(const struct cpu *c, float *d, const struct weight *w, const struct weight *b, int n_tok, int n_out, int n_in, int ldd, bool add,
                  struct part_of me)
{
	struct mat m = mat_of(w, 0, n_out, n_in);
	const void *a = packed_of(c, 0, n_in);
	int lo, hi, n;
	float *y = my_y(c, me);
	my_share(me, n_out, share_unit(c), &lo, &hi);
	/* Panels leave 16 outputs of a token at a time: by way of y, whole blocks of rows go out, not a cache line to each of n_tok pages. */
	bool panels = n_tok >= min_panel(c, m.mx), aside = add || panels;
	for (int64_t t0 = 0; t0 < n_tok; t0 += c->isa->tok_block)
		for (int r0 = lo; r0 < hi; r0 += n) {
			int nt = min_int(c->isa->tok_block, (int)(n_tok - t0));
			const void *at = (const uint8_t *)a + (size_t)t0 * row_bytes(c, n_in);
			float *dt = d + t0 * ldd + r0;
			n = min_int(c->isa->block, hi - r0);
			product(c, &m, b, 0, r0, n, at, nt, panels, aside ? y : dt, aside ? n : ldd, me);
			for (int t = 0; t < nt && add; t++)
				for (int r = 0; r < n; r++)
					dt[(int64_t)t * ldd + r] += y[t * n + r];
			for (int t = 0; t < nt && aside && !add; t++)
				memcpy(dt + (int64_t)t * ldd, y + (int64_t)t * n, (size_t)n * sizeof *y);
		}
}

/* What the threads of one op are handed. */
struct job {
	struct cpu *c;
	const void *a; /* the op's args */
	struct source s;
};

static void gemm_part(void *ctx, struct part_of me)
{
	struct job *j = ctx;
	const struct gemm_args *a = j->a;
	pack(j->c, &j->s, me);
	dense(j->c, a->d, a->w, a->b, a->n_tok, a->n_out, a->n_in, a->n_out, a->add, me);
}

static void fast_gemm(struct kern *k, const struct gemm_args *a)
{
	struct cpu *c = k->impl;
	int32_t off[2] = { 0, a->n_tok };
	struct job j = { c, a, { .a = a->a, .n_in = a->n_in, .n_expert = 1, .off = off, .mx = a->w->dtype == DT_U8 } };
	if (a->w->dtype == DT_F32) {
		ref_gemm(k, a);
		return;
	}
	if (a->n_tok < 1 || !within(c, a->n_tok, a->n_in, 0))
		return;
	plan_pack(c, &j.s);
	pool_run(c->pool, gemm_part, &j);
}

static void qkv_part(void *ctx, struct part_of me)
{
	struct job *j = ctx;
	struct cpu *c = j->c;
	const struct qkv_args *a = j->a;
	int n_tok = a->batch->n_tok, n_q = a->n_head * a->d_head, n_kv = a->n_head_kv * a->d_head, lo, hi;
	pack(c, &j->s, me);
	dense(c, a->q, a->wq, a->bq, n_tok, n_q, a->n_embd, n_q, false, me);
	dense(c, c->kv_new, a->wk, a->bk, n_tok, n_kv, a->n_embd, 2 * n_kv, false, me);
	dense(c, c->kv_new + n_kv, a->wv, a->bv, n_tok, n_kv, a->n_embd, 2 * n_kv, false, me);
	pool_barrier(me);
	my_share(me, n_tok, 1, &lo, &hi);
	for (int t = lo; t < hi; t++)
		ref_rope_store(a, t, c->kv_new + (int64_t)t * 2 * n_kv, c->kv_new + (int64_t)t * 2 * n_kv + n_kv);
}

static void fast_qkv(struct kern *k, const struct qkv_args *a)
{
	struct cpu *c = k->impl;
	int32_t off[2] = { 0, a->batch->n_tok };
	struct job j = { c, a, { .a = a->h, .n_in = a->n_embd, .n_expert = 1, .off = off } };
	if (a->wq->dtype != DT_BF16 || a->wk->dtype != DT_BF16 || a->wv->dtype != DT_BF16) {
		ref_qkv(k, a);
		return;
	}
	if (a->batch->n_tok < 1 || !within(c, a->batch->n_tok, a->n_embd, 0))
		return;
	plan_pack(c, &j.s);
	pool_run(c->pool, qkv_part, &j);
}

/* ---- experts ---- */

static void gate_up_part(void *ctx, struct part_of me)
{
	struct job *j = ctx;
	struct cpu *c = j->c;
	const struct moe_gate_up_args *a = j->a;
	int lo, hi, n, n_row = 2 * a->n_ff;
	float *y = my_y(c, me);
	pack(c, &j->s, me);
	my_share(me, n_row, share_unit(c), &lo, &hi);
	for (int e = 0; e < a->n_expert; e++)
		for (int i0 = a->t.expert_off[e], i1 = a->t.expert_off[e + 1], i = i0; i < i1; i += min_int(c->isa->tok_block, i1 - i))
			for (int r0 = lo; r0 < hi; r0 += n) {
				struct mat m = mat_of(a->w, e, n_row, a->n_embd);
				const uint8_t *at = (const uint8_t *)packed_of(c, e, a->n_embd) + (size_t)(i - i0) * row_bytes(c, a->n_embd);
				int nt = min_int(c->isa->tok_block, i1 - i);
				n = min_int(c->isa->block, hi - r0);
				product(c, &m, a->b, (int64_t)e * n_row, r0, n, at, nt, i1 - i0 >= min_panel(c, true), y, n, me);
				for (int t = 0; t < nt; t++)
					c->isa->swiglu((float *)a->act + (int64_t)a->t.pair[i + t] * a->n_ff + r0 / 2, y + (int64_t)t * n, n / 2, a->alpha,
					               a->limit);
			}
}

static void fast_moe_gate_up(struct kern *k, const struct moe_gate_up_args *a)
{
	struct cpu *c = k->impl;
	struct job j = { c, a, { a->h, a->n_embd, a->n_expert, a->t.expert_off, a->t.pair, a->n_used, true } };
	if (a->n_tok < 1 || !within(c, a->n_tok, a->n_embd, a->n_tok * a->n_used))
		return;
	plan_pack(c, &j.s);
	pool_run(c->pool, gate_up_part, &j);
}

/* x[t, r0 ..] += the token's slots in order; y holds the sorted pairs. */
static void combine(const struct cpu *c, const struct moe_down_args *a, const float *y, int r0, int n)
{
	for (int t = 0; t < a->n_tok; t++) {
		const float *slot[16]; /* n_used <= 16 */
		for (int s = 0; s < a->n_used; s++)
			slot[s] = y + (int64_t)c->inv[t * a->n_used + s] * n;
		c->isa->combine((float *)a->x + (int64_t)t * a->n_embd + r0, slot, a->t.topk_w + (int64_t)t * a->n_used, a->n_used, n);
	}
}

static void down_part(void *ctx, struct part_of me)
{
	struct job *j = ctx;
	struct cpu *c = j->c;
	const struct moe_down_args *a = j->a;
	int lo, hi, n;
	float *y = my_y(c, me);
	my_share(me, a->n_tok * a->n_used, 1, &lo, &hi);
	for (int i = lo; i < hi; i++)
		c->inv[a->t.pair[i]] = i;
	pack(c, &j->s, me);
	my_share(me, a->n_embd, share_unit(c), &lo, &hi);
	for (int r0 = lo; r0 < hi; r0 += n) {
		n = min_int(c->isa->block, hi - r0);
		for (int e = 0; e < a->n_expert; e++) {
			int i0 = a->t.expert_off[e], n_tok = a->t.expert_off[e + 1] - i0;
			struct mat m = mat_of(a->w, e, a->n_embd, a->n_ff);
			if (n_tok)
				product(c, &m, a->b, (int64_t)e * a->n_embd, r0, n, packed_of(c, e, a->n_ff), n_tok, n_tok >= min_panel(c, true),
				        y + (int64_t)i0 * n, n, me);
		}
		combine(c, a, y, r0, n);
	}
}

static void fast_moe_down(struct kern *k, const struct moe_down_args *a)
{
	struct cpu *c = k->impl;
	struct job j = { c, a, { a->act, a->n_ff, a->n_expert, a->t.expert_off, a->t.pair, 1, true } };
	if (a->n_tok < 1 || !within(c, a->n_tok, a->n_ff, a->n_tok * a->n_used))
		return;
	plan_pack(c, &j.s);
	pool_run(c->pool, down_part, &j);
}

/* ---- router, norm, rope ---- */

static void route_part(void *ctx, struct part_of me)
{
	enum { GROUP = 16 }; /* experts that one thread takes for one token */
	struct job *j = ctx;
	struct cpu *c = j->c;
	const struct route_args *a = j->a;
	int n_group = (a->n_expert + GROUP - 1) / GROUP, lo, hi;
	my_share(me, a->n_tok * n_group, 1, &lo, &hi);
	for (int i = lo; i < hi; i++) {
		int t = i / n_group, e0 = i % n_group * GROUP, n = min_int(GROUP, a->n_expert - e0);
		float *l = c->logit + (int64_t)t * a->n_expert + e0;
		c->isa->dot_f32(l, (const float *)a->h + (int64_t)t * a->n_embd, (const bf16 *)a->w->data + (int64_t)e0 * a->n_embd, n, a->n_embd);
		for (int e = 0; e < n && a->b; e++)
			l[e] += weight_at(a->b, e0 + e);
	}
	pool_barrier(me);
	my_share(me, a->n_tok, 1, &lo, &hi);
	for (int t = lo; t < hi; t++)
		ref_topk_softmax(c->logit + (int64_t)t * a->n_expert, a->n_expert, a->n_used, a->t.topk_id + (int64_t)t * a->n_used,
		                 a->t.topk_w + (int64_t)t * a->n_used);
}

static void fast_route(struct kern *k, const struct route_args *a)
{
	struct cpu *c = k->impl;
	struct job j = { .c = c, .a = a };
	if (a->w->dtype != DT_BF16) {
		ref_route(k, a);
		return;
	}
	if (a->n_tok < 1 || !within(c, a->n_tok, a->n_embd, a->n_tok * a->n_used))
		return;
	if ((int64_t)a->n_tok * a->n_expert * a->n_embd < 1 << 16) /* a few microseconds: not worth waking anybody */
		route_part(&j, (struct part_of){ c->pool, 0, 1 });
	else
		pool_run(c->pool, route_part, &j);
	ref_route_tables(&a->t, a->n_tok, a->n_expert, a->n_used);
}

static void rmsnorm_part(void *ctx, struct part_of me)
{
	struct job *j = ctx;
	const struct rmsnorm_args *a = j->a;
	int lo, hi;
	my_share(me, a->n_tok, 1, &lo, &hi);
	for (int t = lo; t < hi; t++)
		j->c->isa->rmsnorm((float *)a->h + (int64_t)t * a->n_embd, (const float *)a->x + (int64_t)(a->row ? a->row[t] : t) * a->n_embd, a->w,
		                   a->n_embd, a->eps);
}

static void fast_rmsnorm(struct kern *k, const struct rmsnorm_args *a)
{
	struct job j = { .c = k->impl, .a = a };
	if ((int64_t)a->n_tok * a->n_embd < 1 << 15)
		rmsnorm_part(&j, (struct part_of){ j.c->pool, 0, 1 });
	else
		pool_run(j.c->pool, rmsnorm_part, &j);
}

static void rope_part(void *ctx, struct part_of me)
{
	struct job *j = ctx;
	struct rope_args a = *(const struct rope_args *)j->a;
	int lo, hi;
	my_share(me, a.n_tok, 1, &lo, &hi);
	a.cs += (int64_t)lo * a.n_rot;
	a.pos += lo;
	a.n_tok = hi - lo;
	ref_rope(NULL, &a);
}

static void fast_rope(struct kern *k, const struct rope_args *a)
{
	struct job j = { .c = k->impl, .a = a };
	if (a->n_tok < 8)
		rope_part(&j, (struct part_of){ j.c->pool, 0, 1 });
	else
		pool_run(j.c->pool, rope_part, &j);
}

/* ---- memory ---- */

void fast_plan(struct cpu *c)
{
	const struct kern_limits *l = &c->lim;
	size_t n_tok = (size_t)l->n_tok, n_used = (size_t)(l->n_used ? l->n_used : 1), n_pair = n_tok * n_used, n_expert = (size_t)l->n_expert + 1;
	size_t lane = (size_t)c->isa->lane, n_thread = (size_t)c->kern.n_thread, block = (size_t)c->isa->block;
	size_t full = n_pair < n_expert ? n_pair : n_expert; /* groups that may be panels, each up to lane - 1 rows short */
	size_t n_row = n_pair + full * (lane - 1), dense_row = (n_tok + lane - 1) / lane * lane;
	size_t in_moe = row_bytes(c, l->n_embd > l->n_ff ? l->n_embd : l->n_ff);
	size_t in_dense = row_bytes(c, l->n_embd > l->n_head * l->d_head ? l->n_embd : l->n_head * l->d_head);
	size_t packed = l->n_expert ? n_row * in_moe : 0, max_in = in_moe > in_dense ? in_moe : in_dense;
	if (packed < dense_row * in_dense)
		packed = dense_row * in_dense;
	c->packed = arena_take(&c->mem, packed, 1);
	c->item = arena_take(&c->mem, n_row > dense_row ? n_row : dense_row, sizeof *c->item);
	c->row_of = arena_take(&c->mem, n_expert, sizeof *c->row_of);
	c->inv = arena_take(&c->mem, n_pair, sizeof *c->inv);
	c->logit = arena_take(&c->mem, n_tok * n_expert, sizeof *c->logit);

	c->y_bytes = (n_pair * block * sizeof(float) + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
	size_t product_bytes = c->y_bytes + block * max_in, attn_bytes = fast_attn_plan(c);
	c->thread_bytes = (product_bytes > attn_bytes ? product_bytes : attn_bytes) + 4096; /* two threads never write one page */
	c->thread_bytes = (c->thread_bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
	c->thread = arena_take(&c->mem, n_thread, c->thread_bytes);
}

void fast_fill(struct kern *k)
{
	const struct cpu *c = k->impl;
	int used = c->lim.n_used ? c->lim.n_used : 1, spread = (c->lim.n_expert + used - 1) / used;
	k->many_rows = c->isa->min_panel_mx * 4 / 3 * (spread ? spread : 1); /* an expert's share on average: many get less */
	k->rmsnorm = fast_rmsnorm;
	k->rope = fast_rope;
	k->gemm = fast_gemm;
	k->qkv = fast_qkv;
	k->attn = fast_attn;
	k->route = fast_route;
	k->moe_gate_up = fast_moe_gate_up;
	k->moe_down = fast_moe_down;
}
