/* fast.c - the ops over an instruction set's loops: packing, threads, epilogues.
 *
 * Every thread owns a range of output rows of every matrix it meets, all experts alike, so the load is even under any routing
 * and a result never crosses threads.  Inside its range a thread works in blocks of isa->piece rows: expand them once, multiply
 * with every token that wants them, finish the outputs, move on.  Done with its own, it takes blocks from others: a core that also
 * runs something else delays nobody, and which thread computes a block changes no bit of it.
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
	return (size_t)packed_row(n_in) * (size_t)c->isa->elem;
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
	c->n_group = 0;
	for (int e = 0; e < s->n_expert; e++) {
		int n = s->off[e + 1] - s->off[e], step = n < min_panel(c, s->mx) ? 1 : lane;
		c->row_of[e] = row;
		for (int i = 0; i < n; i += min_int(c->isa->tok_block, n - i))
			c->group[c->n_group++] = (struct tok_group){ e, s->off[e] + i, min_int(c->isa->tok_block, n - i) };
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
		return (struct mat){ .mx = true, .n_in = n_in, .data = (const uint8_t *)w->data + at / 2, .scl = w->scl + at / MX_GROUP };
	return (struct mat){ .n_in = n_in, .data = (const uint8_t *)w->data + at * 2 };
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

/* ---- who computes which rows ---- */

/* n_row rows of each of n_group matrices (or of one for each group of tokens): shares of whole units, taken in blocks. */
struct split {
	int n_row, n_group, unit, block;
};

/* Rows r0 .. r0 + n - 1 of group `group`; then, if more, the same thread's next begin with next_row of next_group. */
struct piece {
	int step; /* how many threads' queues are empty */
	int group, r0, n;
	bool more;
	int next_group, next_row;
};

/* Shares are whole units of the panel kernel where there are panels, else what dots take at once. */
static struct split split_of(const struct cpu *c, int n_row, int n_group)
{
	for (int i = 0; i < c->n_item; i++)
		if (c->item[i].panel)
			return (struct split){ n_row, n_group, c->isa->unit, c->isa->piece };
	return (struct split){ n_row, n_group, 4, min_int(DOT_ROW, c->isa->block) };
}

static int n_block_of(struct part_of me, const struct split *s, int *lo, int *hi)
{
	my_share(me, s->n_row, s->unit, lo, hi);
	return (*hi - *lo + s->block - 1) / s->block;
}

/* Fills queue number `which`; one thread, before the others begin. */
static void deal(struct cpu *c, int which, struct split s)
{
	for (int i = 0, lo, hi; i < c->kern.n_thread; i++) {
		struct queue *q = c->queue + which * c->kern.n_thread + i;
		atomic_store_explicit(&q->next, 0, memory_order_relaxed);
		q->n = n_block_of((struct part_of){ c->pool, i, c->kern.n_thread }, &s, &lo, &hi) * s.n_group;
	}
}

/* The next piece, of one's own or of another's; *p begins as zeros. */
static bool take(const struct cpu *c, int which, const struct split *s, struct part_of me, struct piece *p)
{
	for (; p->step < me.n; p->step++) {
		struct part_of whose = { me.pool, (me.id + p->step) % me.n, me.n };
		struct queue *q = c->queue + which * me.n + whose.id;
		if (atomic_load_explicit(&q->next, memory_order_relaxed) >= q->n)
			continue;
		int i = atomic_fetch_add_explicit(&q->next, 1, memory_order_relaxed), lo, hi, n_block = n_block_of(whose, s, &lo, &hi);
		if (i >= q->n)
			continue;
		p->group = i / n_block;
		p->r0 = lo + i % n_block * s->block;
		p->n = min_int(s->block, hi - p->r0);
		p->more = i + 1 < q->n;
		p->next_group = (i + 1) / n_block;
		p->next_row = lo + (i + 1) % n_block * s->block;
		return true;
	}
	return false;
}

/* m's next rows are those from r on of matrix w. */
static void set_next(struct mat *m, const struct mat *w, int r)
{
	m->next = w->data + (int64_t)r * (w->mx ? w->n_in / 2 : w->n_in * 2);
	m->next_scl = w->mx ? w->scl + (int64_t)r * w->n_in / MX_GROUP : NULL;
}

/* n_row rows of e4m3 from row r0 on, as the bf16 numbers that they are exactly (see quant_rows): [n_row, n_in]. */
static void widen(bf16 *to, const struct weight *w, int r0, int n_row, int n_in)
{
	float value[256];
	for (int i = 0; i < 256; i++)
		value[i] = e4m3_to_f32((uint8_t)i);
	for (int r = 0; r < n_row; r++, to += n_in) {
		const uint8_t *code = (const uint8_t *)w->data + (int64_t)(r0 + r) * n_in;
		bf16 part[256];
		for (int i = 0; i < 256; i++)
			part[i] = bf16_from_f32(value[i] * w->row_scl[r0 + r]);
		for (int i = 0; i < n_in; i++)
			to[i] = part[code[i]];
	}
}

/* d[t, r] of one dense matrix from what pack() left; all threads. */
static void dense(const struct cpu *c, int which, float *d, const struct weight *w, const struct weight *b, int n_tok, int n_out, int n_in, int ldd,
                  bool add, struct part_of me)
{
	struct split s = split_of(c, n_out, c->n_group);
	bool f8 = w->dtype == DT_F8_E4M3;
	struct mat m = mat_of(w, 0, n_out, n_in);
	float *y = my_y(c, me);
	bf16 *wide = (bf16 *)(void *)((uint8_t *)y + c->wide_at);
	if (f8)
		m.data = (const uint8_t *)wide;
	/* Where panels leave a few outputs of a token at a time, whole blocks of rows go out by way of y, not a cache line to each of n_tok pages. */
	bool panels = n_tok >= min_panel(c, m.mx), aside = add || (panels && !c->isa->whole_lines);
	for (struct piece p = { 0 }; take(c, which, &s, me, &p);) {
		const struct tok_group *g = c->group + p.group;
		const void *at = (const uint8_t *)packed_of(c, 0, n_in) + (size_t)g->i0 * row_bytes(c, n_in);
		float *dt = d + (int64_t)g->i0 * ldd + p.r0;
		if (f8)
			widen(wide, w, p.r0, p.n, n_in);
		else
			set_next(&m, &m, p.more ? p.next_row : p.r0 + p.n);
		product(c, &m, b, f8 ? p.r0 : 0, f8 ? 0 : p.r0, p.n, at, g->n, panels, aside ? y : dt, aside ? p.n : ldd, me);
		for (int t = 0; t < g->n && add; t++)
			for (int r = 0; r < p.n; r++)
				dt[(int64_t)t * ldd + r] += y[t * p.n + r];
		for (int t = 0; t < g->n && aside && !add; t++)
			memcpy(dt + (int64_t)t * ldd, y + (int64_t)t * p.n, (size_t)p.n * sizeof *y);
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
	dense(j->c, 0, a->d, a->w, a->b, a->n_tok, a->n_out, a->n_in, a->n_out, a->add, me);
}

static void fast_gemm(struct kern *k, const struct gemm_args *a)
{
	struct cpu *c = k->impl;
	int32_t off[2] = { 0, a->n_tok };
	struct job j = { c, a, { .a = a->a, .n_in = a->n_in, .n_expert = 1, .off = off, .mx = a->w->dtype == DT_U8 } };
	if (a->w->dtype == DT_F32 || (a->w->dtype == DT_F8_E4M3 && !c->wide_at)) {
		ref_gemm(k, a);
		return;
	}
	if (a->n_tok < 1 || !within(c, a->n_tok, a->n_in, 0))
		return;
	plan_pack(c, &j.s);
	deal(c, 0, split_of(c, a->n_out, c->n_group));
	pool_run(c->pool, gemm_part, &j);
}

static void qkv_part(void *ctx, struct part_of me)
{
	struct job *j = ctx;
	struct cpu *c = j->c;
	const struct qkv_args *a = j->a;
	int n_tok = a->batch->n_tok, n_q = a->n_head * a->d_head, n_kv = a->n_head_kv * a->d_head, lo, hi;
	pack(c, &j->s, me);
	dense(c, 0, a->q, a->wq, a->bq, n_tok, n_q, a->n_embd, n_q, false, me);
	dense(c, 1, c->kv_new, a->wk, a->bk, n_tok, n_kv, a->n_embd, 2 * n_kv, false, me);
	dense(c, 2, c->kv_new + n_kv, a->wv, a->bv, n_tok, n_kv, a->n_embd, 2 * n_kv, false, me);
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
	enum dtype w = c->wide_at && a->wq->dtype == DT_F8_E4M3 ? DT_F8_E4M3 : DT_BF16;
	if (a->wq->dtype != w || a->wk->dtype != w || a->wv->dtype != w) {
		ref_qkv(k, a);
		return;
	}
	if (a->batch->n_tok < 1 || !within(c, a->batch->n_tok, a->n_embd, 0))
		return;
	plan_pack(c, &j.s);
	deal(c, 0, split_of(c, a->n_head * a->d_head, c->n_group));
	deal(c, 1, split_of(c, a->n_head_kv * a->d_head, c->n_group));
	deal(c, 2, split_of(c, a->n_head_kv * a->d_head, c->n_group));
	pool_run(c->pool, qkv_part, &j);
}

/* ---- experts ---- */

static void gate_up_part(void *ctx, struct part_of me)
{
	struct job *j = ctx;
	struct cpu *c = j->c;
	const struct moe_gate_up_args *a = j->a;
	int n_row = 2 * a->n_ff;
	float *y = my_y(c, me);
	struct split s = split_of(c, n_row, c->n_group);
	pack(c, &j->s, me);
	for (struct piece p = { 0 }; take(c, 0, &s, me, &p);) {
		const struct tok_group *g = c->group + p.group;
		const int32_t *off = a->t.expert_off + g->e;
		struct mat m = mat_of(a->w, g->e, n_row, a->n_embd), then = p.more ? mat_of(a->w, c->group[p.next_group].e, n_row, a->n_embd) : m;
		const uint8_t *at = (const uint8_t *)packed_of(c, g->e, a->n_embd) + (size_t)(g->i0 - off[0]) * row_bytes(c, a->n_embd);
		float *act = (float *)a->act + p.r0 / 2;
		set_next(&m, &then, p.more ? p.next_row : p.r0 + p.n);
		for (int t = 0; t < g->n; t++) /* a line in each of n pages: fetched while the product runs */
			__builtin_prefetch(act + (int64_t)a->t.pair[g->i0 + t] * a->n_ff, 1);
		product(c, &m, a->b, (int64_t)g->e * n_row, p.r0, p.n, at, g->n, off[1] - off[0] >= min_panel(c, true), y, p.n, me);
		for (int t = 0; t < g->n; t++)
			c->isa->swiglu(act + (int64_t)a->t.pair[g->i0 + t] * a->n_ff, y + (int64_t)t * p.n, p.n / 2, a->alpha, a->limit);
	}
}

static void fast_moe_gate_up(struct kern *k, const struct moe_gate_up_args *a)
{
	struct cpu *c = k->impl;
	struct job j = { c, a, { a->h, a->n_embd, a->n_expert, a->t.expert_off, a->t.pair, a->n_used, true } };
	if (a->n_tok < 1 || !within(c, a->n_tok, a->n_embd, a->n_tok * a->n_used))
		return;
	plan_pack(c, &j.s);
	deal(c, 0, split_of(c, 2 * a->n_ff, c->n_group));
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

/* A block of rows meets the tokens of all experts, which come from L3 again for every block: as many rows as leave each thread four blocks,
 * so that the last ones end together. */
static struct split down_split(const struct cpu *c, int n_row)
{
	struct split s = split_of(c, n_row, 1);
	int rows = n_row / (4 * c->kern.n_thread) / s.unit * s.unit;
	if (s.unit == c->isa->unit)
		s.block = rows < s.block ? s.block : min_int(rows, c->isa->block);
	return s;
}

static void down_part(void *ctx, struct part_of me)
{
	struct job *j = ctx;
	struct cpu *c = j->c;
	const struct moe_down_args *a = j->a;
	int lo, hi;
	float *y = my_y(c, me);
	struct split s = down_split(c, a->n_embd);
	my_share(me, a->n_tok * a->n_used, 1, &lo, &hi);
	for (int i = lo; i < hi; i++)
		c->inv[a->t.pair[i]] = i;
	pack(c, &j->s, me);
	for (struct piece p = { 0 }; take(c, 0, &s, me, &p);) {
		for (int i = 0; i < c->n_group; i++) { /* all experts against the same rows: then the sums of a token can be made */
			const struct tok_group *g = c->group + i;
			const int32_t *off = a->t.expert_off + g->e;
			bool last = i + 1 == c->n_group;
			struct mat m = mat_of(a->w, g->e, a->n_embd, a->n_ff), then = mat_of(a->w, c->group[last ? 0 : i + 1].e, a->n_embd, a->n_ff);
			const uint8_t *at = (const uint8_t *)packed_of(c, g->e, a->n_ff) + (size_t)(g->i0 - off[0]) * row_bytes(c, a->n_ff);
			set_next(&m, &then, !last ? p.r0 : p.more ? p.next_row : p.r0 + p.n);
			product(c, &m, a->b, (int64_t)g->e * a->n_embd, p.r0, p.n, at, g->n, off[1] - off[0] >= min_panel(c, true), y + (int64_t)g->i0 * p.n, p.n,
			        me);
		}
		combine(c, a, y, p.r0, p.n);
	}
}

static void fast_moe_down(struct kern *k, const struct moe_down_args *a)
{
	struct cpu *c = k->impl;
	struct job j = { c, a, { a->act, a->n_ff, a->n_expert, a->t.expert_off, a->t.pair, 1, true } };
	if (a->n_tok < 1 || !within(c, a->n_tok, a->n_ff, a->n_tok * a->n_used))
		return;
	plan_pack(c, &j.s);
	deal(c, 0, down_split(c, a->n_embd));
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
	c->group = arena_take(&c->mem, (n_pair + n_expert) / (size_t)c->isa->tok_block + n_expert + 1, sizeof *c->group);
	c->queue = arena_take(&c->mem, N_QUEUE * n_thread, sizeof *c->queue);
	c->inv = arena_take(&c->mem, n_pair, sizeof *c->inv);
	c->logit = arena_take(&c->mem, n_tok * n_expert, sizeof *c->logit);

	c->y_bytes = (n_pair * block * sizeof(float) + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
	size_t product_bytes = c->y_bytes + block * max_in, attn_bytes = fast_attn_plan(c);
	if (l->dense == DT_F8_E4M3) {
		c->wide_at = (product_bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
		product_bytes = c->wide_at + block * sizeof(bf16) * (size_t)(l->n_embd > l->n_head * l->d_head ? l->n_embd : l->n_head * l->d_head);
	}
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
