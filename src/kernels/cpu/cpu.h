/* cpu.h - what the CPU backend keeps between ops, and what an instruction set brings to it.
 *
 * fast.c holds the ops, the threads and the memory; avx2.c, avx512.c and amx.c hold the loops, behind `struct cpu_ops`.
 * A product meets its tokens in one of two forms:
 *   dots    up to min_panel - 1 tokens: weight rows stream from memory once, each against up to 4 tokens, no other traffic
 *   panels  from min_panel tokens: `lane` tokens side by side in a vector, weights broadcast, MXFP4 rows expanded into cache
 * Left to itself (ROWS_ANY) the form that serves a token depends on how many tokens share the matrix, and a token's bits may differ
 * between the two forms, and only there: inside one form its result does not depend on its neighbours, and never on the thread
 * count.  ROWS_DECODE is dots and ROWS_PROMPT panels for any number of tokens.
 */
#ifndef MOXIE_CPU_H
#define MOXIE_CPU_H

#include <stdatomic.h>

#include "base/arena.h"
#include "kernels/cpu/pool.h"
#include "kernels/kernels.h"

#define MX_CHUNK 128    /* k that the MXFP4 dot kernels take at once: packed activation rows are padded to it */
#define MAX_D_HEAD 512
#define ATTN_ROW 64     /* query rows of one attention job, unless one token's heads are more */
#define ATTN_ROW_PAD 4
#define N_QUEUE 3       /* matrices of one op: q, k, v */
#define DOT_ROW 32      /* rows that dots finish before the next, at most */
#define ATTN_CHUNK 1024 /* keys folded into one partial result of attention; absolute, so that any split gives the same bits */

/* One [rows, n_in] matrix: a weight, or one expert of one. */
struct mat {
	bool mx;
	int n_in;
	const uint8_t *data; /* bf16 [rows, n_in], or codes [rows, n_in/2] */
	const uint8_t *scl;  /* [rows, n_in/32] */
	const uint8_t *next, *next_scl; /* rows that this thread will read after those of this call: to be fetched meanwhile; or NULL */
};

/* One unit of attention work: n_row query rows (token major, then the heads of one KV head) against keys [lo, hi). */
struct attn_job {
	const struct attn_args *a;
	int seq, ihkv;         /* whose keys */
	int row0, pos0, n_tok; /* batch rows row0.., at positions pos0.. */
	int lo, hi;
	float *m, *l, *o;      /* [n_row], [n_row], [n_row padded to ATTN_ROW_PAD, d_head]: largest score, sum, weighted values */
	void *tmp;             /* attn_tmp_bytes, aligned to ARENA_ALIGN */
};

struct cpu_ops {
	const char *name;
	int elem;      /* bytes of a packed activation: 2 = bf16, 4 = f32 */
	int lane;      /* tokens a panel */
	int unit;      /* rows that the panel kernel takes at once, even */
	int block;     /* rows that a call may have at most: their expansion should stay in L2 */
	int piece;     /* rows of a matrix that a thread finishes before the next, whole units, at most block */
	bool whole_lines; /* panel() writes whole cache lines, fetched in time: it may write to the op's output */
	int min_panel, min_panel_mx; /* tokens from which panels are the better form */
	int tok_block; /* tokens that panels take at once: their packed rows and a block of weights share L2 */

	/* One row of n_in floats for dots, padded with zeros to MX_CHUNK; packed_row(n_in) elements. */
	void (*pack_dot)(void *dst, const float *a, int n_in, bool mx);
	/* Up to `lane` rows for panels, in the order of k that this kind of matrix is expanded to; missing ones are zero. */
	void (*pack_panel)(void *dst, const float *const *row, int n_row, int n_in, bool mx);
	/* y[t * ldy + r] = w[r0 + r] . a[t] + bias[r] */
	void (*dot)(const struct mat *w, int r0, int n_row, const void *a, int n_tok, const float *bias, float *y, int ldy);
	/* The same from panels, n_row <= block; expanded: block * padded n_in elements of scratch, aligned to ARENA_ALIGN. */
	void (*panel)(const struct mat *w, int r0, int n_row, const void *a, int n_tok, const float *bias, float *y, int ldy, void *expanded);
	/* y[r] = w[r] . a in fp32, for the router */
	void (*dot_f32)(float *y, const float *a, const bf16 *w, int n_row, int n_in);
	/* act[j] from u[2j], u[2j + 1] */
	void (*swiglu)(float *act, const float *u, int n, float alpha, float limit);
	/* x[i] += sum over s, ascending, of w[s] * y[s][i] */
	void (*combine)(float *x, const float *const *y, const float *w, int n_used, int n);
	void (*rmsnorm)(float *h, const float *x, const struct weight *w, int n, float eps);
	/* Fills m, l, o of the job. */
	void (*attn)(const struct attn_job *j);
	size_t (*attn_tmp_bytes)(int n_row, int d_head);
	int attn_d_head; /* d_head must be a multiple of this for attn; else the reference serves */
};

/* Activations of sorted pairs (dense: tokens) i0 .. i0 + n - 1 go to rows row .. of the packed buffer. */
struct pack_item {
	int i0, n, row;
	bool panel;
};

/* Tokens of one matrix that panels take at once: pairs (dense: rows) i0 .. i0 + n - 1. */
struct tok_group {
	int e, i0, n;
};

/* What a thread has to do for one matrix, in pieces of rows; others take from it when they have done theirs. */
struct queue {
	_Alignas(64) _Atomic int next;
	int n;
};

struct cpu {
	struct kern kern; /* kern.impl points to the whole */
	struct kern_limits lim;
	const struct cpu_ops *isa; /* &ops, or NULL: reference */
	struct cpu_ops ops;
	struct pool *pool; /* NULL: reference, whose threads are OpenMP's */
	_Atomic int next;  /* the next piece of work to take, where pieces differ in size */
	struct arena mem;
	int status; /* sticky, what sync() returns */
	char text[128];

	float *kv_new;   /* [n_tok, 2, n_head_kv * d_head]: this batch's keys and values before they are stored */
	float *logit;    /* [n_tok, n_expert] */
	void *packed;    /* activations of the running op in the form its kernels take */
	struct pack_item *item;
	int n_item;
	struct tok_group *group; /* those of the running op, by expert */
	int n_group;
	struct queue *queue;     /* [N_QUEUE, n_thread] */
	int32_t *row_of; /* [n_expert] first packed row of each expert */
	int32_t *inv;    /* [n_pair] place of pair p in moe_tables.pair */
	uint8_t *thread; /* [n_thread, thread_bytes]: y and the expansion of a product, or what attention needs */
	size_t thread_bytes, y_bytes, wide_at; /* wide_at: a block of e4m3 weights as bf16; 0: limits had none */
	float *part;     /* [n_part, part_floats]: results of attention chunks that several threads share */
	int n_part;
	size_t part_floats;
};

/* NULL where this processor has the instruction set, and *ops is filled; else what is missing. */
const char *cpu_isa_avx2(struct cpu_ops *ops);
const char *cpu_isa_avx512(struct cpu_ops *ops);
const char *cpu_isa_amx(struct cpu_ops *ops);

/* Replaces the reference ops of k by the fast ones over c->isa. */
void fast_fill(struct kern *k);
/* Takes the scratch memory of the fast ops from c->mem, which may be dry. */
void fast_plan(struct cpu *c);
void fast_attn(struct kern *k, const struct attn_args *a);
size_t fast_attn_plan(struct cpu *c); /* the same for attention; returns bytes needed of each thread's scratch */

static inline int pad_to(int n, int m)
{
	return (n + m - 1) / m * m;
}

/* Elements between packed rows: whole chunks, and behind them room for a scale of each group (avx512.c's dots). */
static inline int packed_row(int n_in)
{
	int n = pad_to(n_in, MX_CHUNK);
	return n + pad_to(n / 16, 32);
}

#endif
