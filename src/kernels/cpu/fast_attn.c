/* fast_attn.c - attention cut into jobs: (sequence, block of tokens, KV head) times chunks of ATTN_CHUNK keys.
 *
 * A job's result is m, l, o: largest score, sum of exp(s - m), sum of exp(s - m) * v.  Results of a unit's chunks are joined in
 * ascending order, then the sink.  Chunks start at multiples of ATTN_CHUNK whatever the batch, and whether one thread walks
 * them all or several share them, the same operations happen in the same order: bits depend on neither.
 * Cost: reads each key and value once a block of tokens; 4 * d_head flops a key and query head.
 * Test: build/test_kernels attn   Bench: moxie bench op attn
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/ref.h"

/* Running or partial result of one unit. */
struct part {
	float *m, *l, *o;
};

static size_t pad_row(int n)
{
	return (size_t)pad_to(n, ARENA_ALIGN / (int)sizeof(float));
}

static size_t part_floats(int n_row, int d_head)
{
	return 2 * pad_row(n_row) + pad_row(pad_to(n_row, ATTN_ROW_PAD) * d_head);
}

static struct part part_at(float *base, int n_row)
{
	return (struct part){ base, base + pad_row(n_row), base + 2 * pad_row(n_row) };
}

static int tokens_of_job(int heads_of_kv)
{
	return heads_of_kv >= ATTN_ROW ? 1 : ATTN_ROW / heads_of_kv;
}

/* Unit i of the batch: one block of tokens of one sequence against one KV head. */
static struct attn_job unit_at(const struct attn_args *a, int i)
{
	int n_tok = tokens_of_job(a->n_head / a->n_head_kv);
	struct attn_job j = { .a = a, .ihkv = i % a->n_head_kv };
	for (i /= a->n_head_kv;; j.seq++) {
		const struct span *s = a->batch->span + j.seq;
		int n_block = (s->n_row + n_tok - 1) / n_tok;
		if (i < n_block) {
			j.row0 = s->row0 + i * n_tok;
			j.pos0 = s->pos0 + i * n_tok;
			j.n_tok = s->n_row - i * n_tok < n_tok ? s->n_row - i * n_tok : n_tok;
			j.lo = attn_first_key(j.pos0, a->window);
			j.hi = j.pos0 + j.n_tok;
			return j;
		}
		i -= n_block;
	}
}

static int count_units(const struct attn_args *a)
{
	int n = 0, n_tok = tokens_of_job(a->n_head / a->n_head_kv);
	for (int s = 0; s < a->batch->n_seq; s++)
		n += (a->batch->span[s].n_row + n_tok - 1) / n_tok;
	return n * a->n_head_kv;
}

static int n_chunk(const struct attn_job *u)
{
	return (u->hi - 1) / ATTN_CHUNK - u->lo / ATTN_CHUNK + 1;
}

static void run_chunk(const struct cpu *c, struct attn_job u, int chunk, struct part p, void *tmp)
{
	int at = (u.lo / ATTN_CHUNK + chunk) * ATTN_CHUNK;
	u.lo = u.lo > at ? u.lo : at;
	u.hi = u.hi < at + ATTN_CHUNK ? u.hi : at + ATTN_CHUNK;
	u.m = p.m, u.l = p.l, u.o = p.o, u.tmp = tmp;
	c->isa->attn(&u);
}

/* acc = acc joined with p.  A part without any key of its row has m = -inf, l = 0, o = 0. */
static void join(struct part acc, struct part p, int n_row, int d_head)
{
	for (int r = 0; r < n_row; r++) {
		float m = fmaxf(acc.m[r], p.m[r]);
		float fa = acc.m[r] == m ? 1 : expf(acc.m[r] - m), fp = p.m[r] == m ? 1 : expf(p.m[r] - m);
		acc.m[r] = m;
		acc.l[r] = acc.l[r] * fa + p.l[r] * fp;
		for (int i = 0; i < d_head; i++)
			acc.o[r * d_head + i] = acc.o[r * d_head + i] * fa + p.o[r * d_head + i] * fp;
	}
}

/* The sink, the division, the store. */
static void finish(const struct attn_job *u, struct part p)
{
	const struct attn_args *a = u->a;
	int m = a->n_head / a->n_head_kv, d = a->d_head;
	for (int r = 0; r < u->n_tok * m; r++) {
		int ih = u->ihkv * m + r % m;
		float *o = (float *)a->o + ((int64_t)(u->row0 + r / m) * a->n_head + ih) * d, f = 1, l = p.l[r];
		if (a->sinks) {
			float sink = weight_at(a->sinks, ih), top = fmaxf(sink, p.m[r]);
			f = expf(p.m[r] - top);
			l = l * f + expf(sink - top);
		}
		f /= l;
		for (int i = 0; i < d; i++)
			o[i] = p.o[r * d + i] * f;
	}
}

/* A unit whose chunks one thread walks.  base, tmp: this thread's. */
static void whole_unit(const struct cpu *c, const struct attn_job *u, float *base, size_t floats, void *tmp)
{
	int n_row = u->n_tok * (u->a->n_head / u->a->n_head_kv);
	struct part acc = part_at(base, n_row), next = part_at(base + floats, n_row);
	run_chunk(c, *u, 0, acc, tmp);
	for (int i = 1; i < n_chunk(u); i++) {
		run_chunk(c, *u, i, next, tmp);
		join(acc, next, n_row, u->a->d_head);
	}
	finish(u, acc);
}

/* One attention op.  shared: chunks are the pieces of work, and units are joined afterwards. */
struct attn_op {
	struct cpu *c;
	const struct attn_args *a;
	int n_unit, n_part;
	bool shared;
};

static void chunk_pieces(const struct attn_op *op, void *tmp)
{
	struct cpu *c = op->c;
	int m = op->a->n_head / op->a->n_head_kv, p;
	while ((p = atomic_fetch_add(&c->next, 1)) < op->n_part) {
		int i = 0, chunk = p;
		struct attn_job u = unit_at(op->a, 0);
		for (; chunk >= n_chunk(&u); u = unit_at(op->a, ++i))
			chunk -= n_chunk(&u);
		run_chunk(c, u, chunk, part_at(c->part + (size_t)p * c->part_floats, u.n_tok * m), tmp);
	}
}

static void join_units(const struct attn_op *op, struct part_of me)
{
	struct cpu *c = op->c;
	int first = 0;
	for (int i = 0; i < op->n_unit; i++) {
		struct attn_job u = unit_at(op->a, i);
		int n_row = u.n_tok * (op->a->n_head / op->a->n_head_kv), n = n_chunk(&u);
		struct part acc = part_at(c->part + (size_t)first * c->part_floats, n_row);
		for (int p = first + 1; p < first + n && i % me.n == me.id; p++)
			join(acc, part_at(c->part + (size_t)p * c->part_floats, n_row), n_row, op->a->d_head);
		if (i % me.n == me.id)
			finish(&u, acc);
		first += n;
	}
}

static void attn_part(void *ctx, struct part_of me)
{
	const struct attn_op *op = ctx;
	struct cpu *c = op->c;
	float *base = (float *)(void *)(c->thread + (size_t)me.id * c->thread_bytes);
	void *tmp = base + 2 * c->part_floats;
	if (op->shared) {
		chunk_pieces(op, tmp);
		pool_barrier(me);
		join_units(op, me);
		return;
	}
	for (int i; (i = atomic_fetch_add(&c->next, 1)) < op->n_unit;) { /* from the end: the last blocks see the most keys */
		struct attn_job u = unit_at(op->a, op->n_unit - 1 - i);
		whole_unit(c, &u, base, c->part_floats, tmp);
	}
}

void fast_attn(struct kern *k, const struct attn_args *a)
{
	struct cpu *c = k->impl;
	struct attn_op op = { .c = c, .a = a, .n_unit = count_units(a) };
	int m = a->n_head / a->n_head_kv, most = 0;
	if (a->d_head % c->isa->attn_d_head || m > c->lim.n_head / c->lim.n_head_kv || a->d_head > c->lim.d_head) {
		ref_attn(k, a);
		return;
	}
	op.shared = op.n_unit < 4 * k->n_thread && k->n_thread > 1;
	for (int i = 0; op.shared && i < op.n_unit; i++) {
		struct attn_job u = unit_at(a, i);
		int n = n_chunk(&u);
		op.n_part += n;
		most = n > most ? n : most;
		op.shared = op.n_part <= c->n_part;
	}
	op.shared = op.shared && most > 1;
	atomic_store(&c->next, 0);
	if (op.n_unit)
		pool_run(c->pool, attn_part, &op);
}

size_t fast_attn_plan(struct cpu *c)
{
	const struct kern_limits *l = &c->lim;
	int m = l->n_head / l->n_head_kv, n_row = m * tokens_of_job(m);
	c->part_floats = part_floats(n_row, l->d_head);
	/* enough for a few sequences at 128 chunks; beyond that the units are shared out whole */
	c->n_part = c->kern.n_thread > 1 ? 128 * (l->n_head_kv > 2 * c->kern.n_thread ? l->n_head_kv : 2 * c->kern.n_thread) : 0;
	size_t most = ((size_t)64 << 20) / (c->part_floats * sizeof(float));
	c->n_part = (size_t)c->n_part < most ? c->n_part : (int)most;
	c->part = arena_take(&c->mem, (size_t)c->n_part * c->part_floats, sizeof(float));
	return 2 * c->part_floats * sizeof(float) + c->isa->attn_tmp_bytes(n_row, l->d_head);
}
