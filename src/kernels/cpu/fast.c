/* fast.c - the ops over an instruction set's loops: packing, threads, epilogues.
 *
 * Every thread owns a range of output rows of every matrix it meets, all experts alike, so the load is even under any routing
 * and a result never crosses threads.  Inside its range a thread works in blocks of isa->block rows: expand them once, multiply
 * with every token that wants them, finish the outputs, move on.
 * Nothing here is hot except through the loops it calls.   Test: build/test_kernels   Bench: moxie bench op
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/ref.h"

#include <omp.h>
#include <stdio.h>

static int min_int(int a, int b)
{
	return a < b ? a : b;
}

/* This thread's share of n things in units: [*lo, *hi). */
static void my_share(int n, int unit, int *lo, int *hi)
{
	int64_t n_unit = (n + unit - 1) / unit, n_thread = omp_get_num_threads(), id = omp_get_thread_num();
	*lo = min_int(n, (int)(n_unit * id / n_thread) * unit);
	*hi = min_int(n, (int)(n_unit * (id + 1) / n_thread) * unit);
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
		int n = s->off[e + 1] - s->off[e], step = n < c->isa->min_panel ? 1 : lane;
		c->row_of[e] = row;
		for (int i = 0; i < n; i += step, row += step)
			c->item[c->n_item++] = (struct pack_item){ s->off[e] + i, min_int(step, n - i), row, step > 1 };
	}
}

/* All threads of a parallel region; ends with a barrier. */
static void pack(struct cpu *c, const struct source *s)
{
	size_t bytes = row_bytes(c, s->n_in);
#pragma omp single
	plan_pack(c, s);
#pragma omp for schedule(static)
	for (int i = 0; i < c->n_item; i++) {
		const struct pack_item *it = c->item + i;
		uint8_t *dst = (uint8_t *)c->packed + (size_t)it->row * bytes;
		if (it->panel) {
			const float *row[32];
			for (int j = 0; j < it->n; j++)
				row[j] = source_row(s, it->i0 + j);
			c->isa->pack_panel(dst, row, it->n, s->n_in);
		} else
			c->isa->pack_dot(dst, source_row(s, it->i0), s->n_in, s->mx);
	}
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

static float *my_y(const struct cpu *c)
{
	return (float *)(void *)(c->thread + (size_t)omp_get_thread_num() * c->thread_bytes);
}

/* y[t * ldy + r] = w[r0 + r] . a[t] + b[r0 + r] */
static void product(const struct cpu *c, const struct mat *w, const struct weight *b, int64_t b0, int r0, int n_row, const void *a, int n_tok,
                    float *y, int ldy)
{
	if (n_tok < c->isa->min_panel)
		c->isa->dot(w, r0, n_row, a, n_tok, y, ldy);
	else
		c->isa->panel(w, r0, n_row, a, n_tok, y, ldy, (uint8_t *)my_y(c) + c->y_bytes);
	float bias[256]; /* block <= 256 */
	for (int r = 0; r < n_row && b; r++)
		bias[r] = weight_at(b, b0 + r0 + r);
	for (int t = 0; t < n_tok && b; t++)
		for (int r = 0; r < n_row; r++)
			y[(int64_t)t * ldy + r] += bias[r];
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
static void dense(const struct cpu *c, float *d, const struct weight *w, const struct weight *b, int n_tok, int n_out, int n_in, int ldd, bool add)
{
	struct mat m = mat_of(w, 0, n_out, n_in);
	const void *a = packed_of(c, 0, n_in);
	int lo, hi, n;
	float *y = my_y(c);
	my_share(n_out, share_unit(c), &lo, &hi);
	for (int r0 = lo; r0 < hi; r0 += n) {
		n = min_int(c->isa->block, hi - r0);
		product(c, &m, b, 0, r0, n, a, n_tok, y, n);
		for (int t = 0; t < n_tok; t++) {
			float *dt = d + (int64_t)t * ldd + r0;
			for (int r = 0; r < n; r++)
				dt[r] = add ? dt[r] + y[t * n + r] : y[t * n + r];
		}
	}
}

static void fast_gemm(struct kern *k, const struct gemm_args *a)
{
	struct cpu *c = k->impl;
	int32_t off[2] = { 0, a->n_tok };
	struct source s = { .a = a->a, .n_in = a->n_in, .n_expert = 1, .off = off, .mx = a->w->dtype == DT_U8 };
	if (a->w->dtype == DT_F32) {
		ref_gemm(k, a);
		return;
	}
	if (a->n_tok < 1 || !within(c, a->n_tok, a->n_in, 0))
		return;
#pragma omp parallel num_threads(k->n_thread)
	{
		pack(c, &s);
		dense(c, a->d, a->w, a->b, a->n_tok, a->n_out, a->n_in, a->n_out, a->add);
	}
}

static void fast_qkv(struct kern *k, const struct qkv_args *a)
{
	struct cpu *c = k->impl;
	int n_tok = a->batch->n_tok, n_q = a->n_head * a->d_head, n_kv = a->n_head_kv * a->d_head;
	int32_t off[2] = { 0, n_tok };
	struct source s = { .a = a->h, .n_in = a->n_embd, .n_expert = 1, .off = off };
	if (a->wq->dtype != DT_BF16 || a->wk->dtype != DT_BF16 || a->wv->dtype != DT_BF16) {
		ref_qkv(k, a);
		return;
	}
	if (n_tok < 1 || !within(c, n_tok, a->n_embd, 0))
		return;
#pragma omp parallel num_threads(k->n_thread)
	{
		pack(c, &s);
		dense(c, a->q, a->wq, a->bq, n_tok, n_q, a->n_embd, n_q, false);
		dense(c, c->kv_new, a->wk, a->bk, n_tok, n_kv, a->n_embd, 2 * n_kv, false);
		dense(c, c->kv_new + n_kv, a->wv, a->bv, n_tok, n_kv, a->n_embd, 2 * n_kv, false);
#pragma omp barrier
#pragma omp for schedule(static)
		for (int t = 0; t < n_tok; t++)
			ref_rope_store(a, t, c->kv_new + (int64_t)t * 2 * n_kv, c->kv_new + (int64_t)t * 2 * n_kv + n_kv);
	}
}

/* ---- experts ---- */

static void fast_moe_gate_up(struct kern *k, const struct moe_gate_up_args *a)
{
	struct cpu *c = k->impl;
	struct source s = { a->h, a->n_embd, a->n_expert, a->t.expert_off, a->t.pair, a->n_used, true };
	if (a->n_tok < 1 || !within(c, a->n_tok, a->n_embd, a->n_tok * a->n_used))
		return;
#pragma omp parallel num_threads(k->n_thread)
	{
		pack(c, &s);
		int lo, hi, n, n_row = 2 * a->n_ff;
		float *y = my_y(c);
		my_share(n_row, share_unit(c), &lo, &hi);
		for (int e = 0; e < a->n_expert; e++) {
			int n_tok = a->t.expert_off[e + 1] - a->t.expert_off[e];
			struct mat m = mat_of(a->w, e, n_row, a->n_embd);
			for (int r0 = lo; n_tok && r0 < hi; r0 += n) {
				n = min_int(c->isa->block, hi - r0);
				product(c, &m, a->b, (int64_t)e * n_row, r0, n, packed_of(c, e, a->n_embd), n_tok, y, n);
				for (int i = 0; i < n_tok; i++) {
					int64_t p = a->t.pair[a->t.expert_off[e] + i];
					c->isa->swiglu((float *)a->act + p * a->n_ff + r0 / 2, y + (int64_t)i * n, n / 2, a->alpha, a->limit);
				}
			}
		}
	}
}

/* x[t, r0 ..] += the token's slots in order; y holds the sorted pairs. */
static void combine(const struct cpu *c, const struct moe_down_args *a, const float *y, int r0, int n)
{
	for (int t = 0; t < a->n_tok; t++) {
		float *x = (float *)a->x + (int64_t)t * a->n_embd + r0, sum[256] = { 0 };
		for (int s = 0; s < a->n_used; s++) {
			int64_t p = (int64_t)t * a->n_used + s;
			const float *yp = y + (int64_t)c->inv[p] * n;
			for (int r = 0; r < n; r++)
				sum[r] += a->t.topk_w[p] * yp[r];
		}
		for (int r = 0; r < n; r++)
			x[r] += sum[r];
	}
}

static void fast_moe_down(struct kern *k, const struct moe_down_args *a)
{
	struct cpu *c = k->impl;
	int n_pair = a->n_tok * a->n_used;
	struct source s = { a->act, a->n_ff, a->n_expert, a->t.expert_off, a->t.pair, 1, true };
	if (a->n_tok < 1 || !within(c, a->n_tok, a->n_ff, n_pair))
		return;
#pragma omp parallel num_threads(k->n_thread)
	{
#pragma omp for schedule(static) nowait
		for (int i = 0; i < n_pair; i++)
			c->inv[a->t.pair[i]] = i;
		pack(c, &s);
		int lo, hi, n;
		float *y = my_y(c);
		my_share(a->n_embd, share_unit(c), &lo, &hi);
		for (int r0 = lo; r0 < hi; r0 += n) {
			n = min_int(c->isa->block, hi - r0);
			for (int e = 0; e < a->n_expert; e++) {
				int i0 = a->t.expert_off[e], n_tok = a->t.expert_off[e + 1] - i0;
				struct mat m = mat_of(a->w, e, a->n_embd, a->n_ff);
				if (n_tok)
					product(c, &m, a->b, (int64_t)e * a->n_embd, r0, n, packed_of(c, e, a->n_ff), n_tok, y + (int64_t)i0 * n, n);
			}
			combine(c, a, y, r0, n);
		}
	}
}

/* ---- router, norm ---- */

static void fast_route(struct kern *k, const struct route_args *a)
{
	enum { GROUP = 16 }; /* experts that one thread takes for one token */
	struct cpu *c = k->impl;
	int n_group = (a->n_expert + GROUP - 1) / GROUP;
	if (a->w->dtype != DT_BF16) {
		ref_route(k, a);
		return;
	}
	if (a->n_tok < 1 || !within(c, a->n_tok, a->n_embd, a->n_tok * a->n_used))
		return;
#pragma omp parallel num_threads(k->n_thread)
	{
#pragma omp for schedule(static)
		for (int i = 0; i < a->n_tok * n_group; i++) {
			int t = i / n_group, e0 = i % n_group * GROUP, n = min_int(GROUP, a->n_expert - e0);
			float *l = c->logit + (int64_t)t * a->n_expert + e0;
			c->isa->dot_f32(l, (const float *)a->h + (int64_t)t * a->n_embd, (const bf16 *)a->w->data + (int64_t)e0 * a->n_embd, n, a->n_embd);
			for (int e = 0; e < n && a->b; e++)
				l[e] += weight_at(a->b, e0 + e);
		}
#pragma omp for schedule(static)
		for (int t = 0; t < a->n_tok; t++)
			ref_topk_softmax(c->logit + (int64_t)t * a->n_expert, a->n_expert, a->n_used, a->t.topk_id + (int64_t)t * a->n_used,
			                 a->t.topk_w + (int64_t)t * a->n_used);
	}
	ref_route_tables(&a->t, a->n_tok, a->n_expert, a->n_used);
}

static void fast_rmsnorm(struct kern *k, const struct rmsnorm_args *a)
{
	struct cpu *c = k->impl;
#pragma omp parallel for schedule(static) num_threads(k->n_thread) if (a->n_tok > 3)
	for (int t = 0; t < a->n_tok; t++)
		c->isa->rmsnorm((float *)a->h + (int64_t)t * a->n_embd, (const float *)a->x + (int64_t)(a->row ? a->row[t] : t) * a->n_embd, a->w,
		                a->n_embd, a->eps);
}

/* ---- memory ---- */

void fast_plan(struct cpu *c)
{
	const struct kern_limits *l = &c->lim;
	size_t n_tok = (size_t)l->n_tok, n_used = (size_t)(l->n_used ? l->n_used : 1), n_pair = n_tok * n_used, n_expert = (size_t)l->n_expert + 1;
	size_t lane = (size_t)c->isa->lane, n_thread = (size_t)c->kern.n_thread, block = (size_t)c->isa->block;
	size_t full = n_pair / (size_t)c->isa->min_panel + 1; /* groups that are panels, each up to lane - 1 rows short */
	size_t n_row = n_pair + (full < n_expert ? full : n_expert) * (lane - 1), dense_row = (n_tok + lane - 1) / lane * lane;
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
	k->rmsnorm = fast_rmsnorm;
	k->gemm = fast_gemm;
	k->qkv = fast_qkv;
	k->attn = fast_attn;
	k->route = fast_route;
	k->moe_gate_up = fast_moe_gate_up;
	k->moe_down = fast_moe_down;
}
