/* kernels.h - the op table: everything a model asks of a processor, and nothing else.
 *
 * A backend fills one `struct kern`.  Models call its ops by name and in order; there is no graph.  An op enqueues
 * (CPU: does) its work and returns; it never allocates and never waits, so a whole decode step can be captured.
 * A device fault is kept inside the backend and comes out of sync().
 *
 * Conventions.  Shapes are slowest first, row-major, dense.  "act" is the backend's activation type, k->act: F32 on the
 * CPU, BF16 on CUDA.  All pointers in args are device pointers of that backend unless marked host.  Weights are bf16
 * unless stated.  n_tok = 0 is a no-op.  Sums are fp32 in a fixed order: the same batch gives the same bits, and a
 * token's result does not depend on the other tokens of its batch where the same kernel serves both.
 * Threads: one caller per struct kern.
 * Truth: kernels/cpu/ref_*.c, plain C.  Test: build/test_kernels <op>.  Bench: moxie bench op <op>.
 */
#ifndef MOXIE_KERNELS_H
#define MOXIE_KERNELS_H

#include "base/arena.h"
#include "base/dtype.h"
#include "base/dummy.h"
#include "base/err.h"

/* A tensor of the checkpoint as the backend holds it.  CPU: data points into the mapped file, nothing is copied. */
struct weight {
	enum dtype dtype;    /* BF16 or F32; U8 = MXFP4 codes; F8_E4M3 = dense weights made smaller at load, see quant_rows */
	int n_dim;           /* 1..3, of the logical matrix: MXFP4 counts weights, not bytes */
	int64_t shape[3];    /* [N], [N, K] or [E, N, K] */
	const void *data;    /* MXFP4: [E, N, K/32, 16] u8, low nibble = even k */
	const uint8_t *scl;  /* MXFP4: [E, N, K/32] e8m0; else NULL */
	const float *row_scl; /* F8_E4M3: [N], weight = code * row_scl; else NULL */
};

#define KV_PAGE 64 /* tokens a page; a multiple of every tile the attention kernels use */

/* One layer's view of the paged KV cache.  Position p of sequence s lies in page
 * page[s * n_page_seq + i], i = p / KV_PAGE (ring: modulo n_page_seq), at row p % KV_PAGE.
 * A ring keeps at least window + n_row - 1 positions, n_row = the longest span of a batch. */
struct kv_view {
	enum dtype dtype;      /* BF16; F8_E4M3: half of that, values as they are (no scale), beyond 448 taken as 448;
	                          F32 (tests: exact against a float reference) */
	void *k, *v;           /* [n_page, n_head_kv, KV_PAGE, d_head] */
	const int32_t *page;   /* [n_seq, n_page_seq] */
	int n_page_seq;
	bool ring;
};

/* Rows row0 .. row0 + n_row - 1 of a batch are positions pos0, pos0 + 1, ... of one sequence. */
struct span {
	int row0, n_row, pos0;
};

/* The tokens of one step: one span a sequence, in sequence order, rows dense. */
struct batch {
	int n_tok, n_seq, n_out;
	const int32_t *tok;      /* [n_tok] */
	const int32_t *pos;      /* [n_tok] */
	const int32_t *seq;      /* [n_tok] sequence of each row */
	const struct span *span; /* [n_seq] host */
	const struct span *span_dev; /* the same where ops read it; the CPU has one for both */
	const int32_t *out_row;  /* [n_out] rows whose logits are wanted */
	const int32_t *n_real;   /* where ops read it, or NULL: rows from *n_real on are padding, see moe_args */
};

/* x[t] = w[tok[t]].  tok must be in [0, n_vocab). */
struct embed_args {
	void *x;                 /* [n_tok, n_embd] act, out */
	const struct weight *w;  /* [n_vocab, n_embd] */
	const int32_t *tok;      /* [n_tok] */
	int n_tok, n_embd;
};

/* h = x * rsqrt(mean(x^2) + eps) * w, in fp32; one rounding to act. */
struct rmsnorm_args {
	void *h;                 /* [n_out, n_embd] act, out; must not alias x */
	const void *x;           /* [n_tok, n_embd] act */
	const struct weight *w;  /* [n_embd] bf16 or f32 */
	const int32_t *row;      /* [n_tok] rows of x to take, or NULL for 0, 1, ... */
	float eps;
	int n_tok, n_embd;       /* n_tok: rows of h */
};

/* d = a . w^T + b, or d += that. */
struct gemm_args {
	void *d;                 /* [n_tok, n_out] act, or f32 where d_f32; out, in/out with add */
	const void *a;           /* [n_tok, n_in] act; must not alias d */
	const struct weight *w;  /* [n_out, n_in] */
	const struct weight *b;  /* [n_out] or NULL */
	int n_tok, n_out, n_in;  /* n_in % 32 == 0 */
	bool add, d_f32;
	const struct weight *norm; /* or NULL: a stands before RMSNorm with these weights [n_in] and eps.  See kern.norm_tok_max */
	float eps;
};

/* Rows of a bf16 matrix as e4m3: scl[n] = the least 2^e with largest |w[n][k]| <= 448 2^e (1 for a row of zeros, NaN for one that is not
 * finite), code = w / scl to nearest, ties to even.  code * scl is then exactly a bf16 again. */
struct quant_rows_args {
	uint8_t *code;           /* [N, K] out */
	float *scl;              /* [N] out */
	const struct weight *w;  /* [N, K] bf16 */
};

/* cs[t][i] = (cos, sin)(pos[t] * inv_freq[i]) * mscale, the angle in fp32 as transformers has it. */
struct rope_args {
	float *cs;               /* [n_tok, n_rot/2, 2], out */
	const int32_t *pos;      /* [n_tok] */
	const float *inv_freq;   /* [n_rot/2] */
	float mscale;
	int n_tok, n_rot;
};

/* q = rope(h . wq^T + bq);  K, V rows of the batch go to their KV slots: k roped, v as is.
 * Half-split pairs: (i, i + d_head/2). */
struct qkv_args {
	void *q;                           /* [n_tok, n_head, d_head] act, out */
	const void *h;                     /* [n_tok, n_embd] act */
	const struct weight *wq, *wk, *wv; /* [n_head * d_head, n_embd], [n_head_kv * d_head, n_embd] x 2 */
	const struct weight *bq, *bk, *bv; /* matching [N], or NULL */
	const float *cs;                   /* from rope */
	const struct kv_view *kv;
	const struct batch *batch;
	int n_embd, n_head, n_head_kv, d_head;
	const struct weight *norm; /* or NULL: h stands before RMSNorm with these weights [n_embd] and eps.  See kern.norm_tok_max */
	float eps;
};

/* o[t,h] = sum_j p_j v_j,  p_j = exp(s_j - m) / (sum_k exp(s_k - m) + exp(sink_h - m)),  s_j = scale * q[t,h] . k_j,
 * over keys j <= pos[t], and pos[t] - j < window where window > 0.  Query head h reads KV head h / (n_head / n_head_kv). */
struct attn_args {
	void *o;                 /* [n_tok, n_head, d_head] act, out; must not alias q */
	const void *q;           /* [n_tok, n_head, d_head] act */
	const struct weight *sinks; /* [n_head] on the scale of s, or NULL: no sink */
	const struct kv_view *kv;
	const struct batch *batch;
	int n_head, n_head_kv, d_head, window;
	float scale;
};

/* How experts are picked from logits l = h . w^T + b.  Ties go to the lowest id. */
enum route_rule {
	ROUTE_TOPK_SOFTMAX /* the n_used largest l; weights = softmax over those (GPT-OSS; Gemma 4 times a per-expert scale) */
};

/* Fills the tables that the two expert ops share.  A pair is p = t * n_used + slot. */
struct moe_tables {
	int32_t *topk_id;    /* [n_tok, n_used] expert, by descending weight */
	float *topk_w;       /* [n_tok, n_used] */
	int32_t *expert_off; /* [n_expert + 1] start of each expert in pair */
	int32_t *pair;       /* [n_tok * n_used] pairs by expert, ascending p inside one expert */
};

struct route_args {
	struct moe_tables t;     /* out */
	const void *h;           /* [n_tok, n_embd] act */
	const struct weight *w;  /* [n_expert, n_embd] */
	const struct weight *b;  /* [n_expert] or NULL */
	enum route_rule rule;
	int n_tok, n_embd, n_expert, n_used; /* n_used <= 16, n_expert <= 512 */
};

/* For pair p = (t, slot), e = topk_id[p]:  u = w[e] . h[t] + b[e],  g = min(u[2j], limit),  l = clamp(u[2j+1], -limit, limit)
 *   act[p][j] = g * sigmoid(alpha * g) * (l + 1) */
struct moe_gate_up_args {
	void *act;               /* [n_tok * n_used, n_ff] act, out */
	const void *h;           /* [n_tok, n_embd] act */
	const struct weight *w;  /* [n_expert, 2 * n_ff, n_embd] MXFP4, rows 2j = gate j, 2j + 1 = up j */
	const struct weight *b;  /* [n_expert, 2 * n_ff] */
	struct moe_tables t;
	float alpha, limit;
	int n_tok, n_used, n_expert, n_embd, n_ff;
};

/* x[t] += sum over slots, ascending, of topk_w[t,slot] * (w[e] . act[p] + b[e]) */
struct moe_down_args {
	void *x;                 /* [n_tok, n_embd] act, in/out */
	const void *act;         /* [n_tok * n_used, n_ff] act */
	const struct weight *w;  /* [n_expert, n_embd, n_ff] MXFP4 */
	const struct weight *b;  /* [n_expert, n_embd] */
	struct moe_tables t;
	int n_tok, n_used, n_expert, n_embd, n_ff;
};

/* The weights of one layer's MoE block. */
struct moe_weights {
	struct weight router, router_b;   /* [n_expert, n_embd], [n_expert] */
	struct weight gate_up, gate_up_b; /* [n_expert, 2 * n_ff, n_embd] MXFP4, [n_expert, 2 * n_ff] */
	struct weight down, down_b;       /* [n_expert, n_embd, n_ff] MXFP4, [n_expert, n_embd] */
	const void *packed;               /* place_moe: the experts in the backend's own form, which only its moe op reads; else NULL */
};

struct moe_config {
	enum route_rule rule;
	int n_embd, n_ff, n_expert, n_used;
	float alpha, limit;      /* clamped SwiGLU */
};

/* The whole block: h = rmsnorm(x), x[t] += sum over slots of topk_w * expert(h[t]), as rmsnorm, route, moe_gate_up and moe_down make it. */
struct moe_args {
	void *x;                 /* [n_tok, n_embd] act, in/out */
	void *h;                 /* [n_tok, n_embd] act, out: scratch; must not alias x */
	const struct weight *norm; /* [n_embd] bf16 or f32 */
	float eps;
	const struct moe_config *c;
	const struct moe_weights *w;
	int n_tok;
	const struct weight *next; /* [n_embd] bf16 or f32, or NULL.  The norm after the block: h = rmsnorm(x) by these in the end, else h is undefined */
	const int32_t *n_real;   /* device, or NULL: rows from *n_real on claim no expert, x[t] stays as it is */
	/* Or NULL: the qkv op that comes next, of h as next makes it (its norm is NULL).  An op may make it in the same go, *qkv_made says
	 * whether it did, and h is undefined then. */
	const struct qkv_args *qkv;
	bool *qkv_made;          /* out, where qkv is given */
};

/* The next token of each row of logits, as engine/sampler.c picks it; cuda/sample.h says how close. */
#define SAMPLE_TOP_MAX 20          /* most log-probabilities a row may ask for beside its own */
#define SAMPLE_VOCAB_MAX (1 << 19) /* sums of 2^44 stay below 2^63 */

/* What one row asks for: moxie_sampling's fields, as sampler_check() passed them, and what the row is.  Device memory, read by the
 * kernel, so a captured graph takes whatever lies there when it is replayed. */
struct sample_row {
	uint64_t seed, n;  /* the draw is a function of these two and the logits; n: tokens of the timeline so far */
	float temperature; /* 0: the most likely token, lowest id among equals */
	float top_p;       /* 0 or 1: off */
	float min_p;       /* 0: off */
	float repetition_penalty; /* 0 or 1: off */
	float presence_penalty, frequency_penalty;
	int32_t top_k;     /* 0: off */
	int32_t n_top;     /* log-probabilities wanted beside the picked token's, 0 .. SAMPLE_TOP_MAX; -1: none at all */
	int32_t hist;      /* row of sample_args.hist and .bias, or -1: no penalties, no bias */
	int32_t append;    /* 1: the pick is counted in hist and n grows by one, ready for the next replay */
	int32_t n_bias;    /* entries of the row's bias list, 0 .. SAMPLE_BIAS_MAX */
};

/* Added to a logit before penalties.  No id twice in a list. */
#define SAMPLE_BIAS_MAX 1024
struct sample_bias {
	int32_t id;
	float bias;
};

/* Why counts and not lists of tokens: a penalty is then one read beside each logit, whatever the length of the timeline, and the
 * kernel itself can add its pick.  A word: times generated in bits 0-30 (taken as 65535 beyond, as on the CPU), seen at all in bit 31.
 * No two rows of a call share a row of hist. */
#define SAMPLE_SEEN (1u << 31)

struct sample_args {
	int32_t *id;            /* [n_row] out */
	const float *logits;    /* [n_row, n_vocab] fp32, not changed; rows 16-byte aligned are read fastest */
	struct sample_row *row; /* [n_row], or NULL: greedy, and nothing below is used */
	uint32_t *hist;         /* [n_hist, n_vocab], or NULL: no row has penalties or a bias */
	const struct sample_bias *bias; /* [n_hist, SAMPLE_BIAS_MAX], with hist */
	float *logprob;         /* [n_row] out: ln p of the pick under the logits as given (no penalties, temperature 1), or NULL: none wanted */
	int32_t *top_id;        /* [n_row, SAMPLE_TOP_MAX] out: the n_top most likely by falling probability, ties lowest id first */
	float *top_logprob;     /* the same shape */
	int n_row, n_vocab;     /* n_row = 0 is a no-op */
};

/* Forgets a row of hist and counts a timeline anew: when a request with penalties begins, or was rewound. */
struct sample_history_args {
	uint32_t *hist;     /* [n_vocab]: one row of sample_args.hist, out */
	const int32_t *tok; /* [n] the timeline */
	int n, n_out;       /* the last n_out of them were generated */
	int n_vocab;
};

/* For tests of a device: what it is to do without.  Zeros: nothing. */
struct kern_cap {
	bool portable;           /* no kernel that needs one architecture */
	uint32_t shared;         /* most shared memory of a block, bytes */
	uint64_t memory;         /* bytes of a smaller device */
};

/* What a backend must be ready for; its scratch memory is taken once, from these. */
struct kern_limits {
	int n_tok;               /* rows of the largest batch */
	int n_seq;               /* sequences of the largest batch */
	int n_embd, n_head, n_head_kv, d_head, n_ff, n_expert, n_used, n_vocab;
	float alpha, limit;      /* as in moe_config */
	int n_ctx;               /* positions of the longest sequence */
	enum dtype kv;           /* of the KV cache; DT_NONE: bf16 */
	enum dtype dense;        /* of attention's projections and the unembedding; DT_NONE: bf16; else F8_E4M3 */
	bool plan_only;          /* to learn sizes: a device need not be there, and no op may be called */
	struct kern_cap cap;
};

struct kern;

/* A step that can be recorded: every sequence has one row and wants its logits.  Equal shapes have equal addresses. */
struct step_shape {
	int n_seq;
	int n_page_seq;          /* of the full-attention page lists */
	bool drawn;              /* rows are sampled with parameters; else all greedily */
};

struct kern_time {
	const char *name;        /* of a kernel, as the compiler spells it; or of what else takes time */
	int n;
	double us;               /* by how much its launches moved the end of all work: rows add up to the time that passed */
};

/* What a backend with memory of its own adds.  take, give and place belong to opening and closing; the rest to a step, and
 * enqueues like an op. */
struct kern_device {
	/* Bytes that take could still give. */
	uint64_t (*memory)(struct kern *k);
	/* 256-byte aligned, undefined content; NULL: *err says why. */
	void *(*take)(struct kern *k, size_t n_bytes, struct moxie_err *err);
	void (*give)(struct kern *k, void *p);

	/* From here on the tensors that place and place_moe are given do not lie where they point: rule says what would lie there.
	 * NULL: they lie there again. */
	void (*made)(struct kern *k, dummy_rule_fn *rule, void *ud);

	/* Puts n tensors into ws, a device arena, one after the other without a gap, and points them there; what w[i]->data pointed
	 * to may go once sync() has returned.  place_f8 makes e4m3 of bf16 matrices of one K as quant_rows does it, in whatever order of k the
	 * products want: all codes, then all scales.  place_moe does the same with everything in w, packed as the moe op wants it.
	 * Dry arena: only counted, nothing changes.  MOXIE_E_NOMEM, MOXIE_E_DEVICE. */
	int (*place)(struct kern *k, struct arena *ws, struct weight *const *w, int n, struct moxie_err *err);
	int (*place_f8)(struct kern *k, struct arena *ws, struct weight *const *w, int n, struct moxie_err *err);
	int (*place_moe)(struct kern *k, struct arena *ws, struct moe_weights *w, const struct moe_config *c, struct moxie_err *err);

	/* A step, which the host does not wait for unless it asks: the next may be enqueued behind it before its picks are known.
	 * stage     host: keeps a copy of its inputs, n_bytes at from; waits for the step before the last.   MOXIE_E_ARG: they are too many
	 * take_in   op, the step's first: they arrive at to, n_bytes rounded up to 16.  The first n_tok words are ids of tokens, of which
	 *           -1 - i stands for what the step before put at picked[i]
	 * give_out  op, the step's last: the step is over, and picked[0 .. n) are what outcome() returns of it.  n = 0: nothing
	 * outcome   host: waits until all but the n_after steps staged last are over, of the last of those brings n picks to id;
	 *           n_after: 0 or 1.   MOXIE_E_DEVICE as sync() */
	int (*stage)(struct kern *k, const void *from, size_t n_bytes, struct moxie_err *err);
	void (*take_in)(struct kern *k, void *to, size_t n_bytes, int n_tok, const int32_t *picked);
	void (*give_out)(struct kern *k, const int32_t *picked, int n);
	int (*outcome)(struct kern *k, int n_after, int32_t *id, int n, struct moxie_err *err);

	/* Host to device: from may change at once.  Device to host: to is filled when sync() returns. */
	void (*upload)(struct kern *k, void *to, const void *from, size_t n_bytes);
	void (*fetch)(struct kern *k, void *to, const void *from, size_t n_bytes);

	/* record, the ops of a step, keep: they do not run, and are kept (ok false: they are not).  replay: true where a step of this shape
	 * was recorded; it is enqueued, nothing else is to be done.  Recording belongs to opening: it takes memory.  NULL: nothing is
	 * recorded. */
	bool (*replay)(struct kern *k, const struct step_shape *s);
	void (*record)(struct kern *k, const struct step_shape *s);
	void (*keep)(struct kern *k, bool ok);

	/* Between begin and end every launch is timed.  end fills up to `most` rows, by falling time, and returns their number; what has
	 * no row of its own is in the last.  NULL: this backend has no profile. */
	int (*profile_begin)(struct kern *k, struct moxie_err *err);
	int (*profile_end)(struct kern *k, struct kern_time *row, int most, struct moxie_err *err);

	/* Bytes a second at which the device reads the n_bytes at p, 16-byte aligned; 0: failed.  Waits. */
	double (*bandwidth)(struct kern *k, const void *p, size_t n_bytes);
};

/* What the rows of the next ops are.  A backend with several forms of one product picks by the number of rows that share a
 * matrix, and a row's last bits follow the form.  Told that all rows are of one kind, it keeps to that kind's form for any number:
 * then a row's bits do not depend on its company at all. */
enum row_kind {
	ROWS_ANY,    /* whatever is fastest for their number */
	ROWS_DECODE, /* generated tokens: the form for few rows */
	ROWS_PROMPT  /* the form for many */
};

struct kern {
	const char *name;        /* "cpu avx512-bf16", as --verbose and bench print it */
	enum dtype act;          /* activation type in memory */
	enum row_kind rows;      /* set by the caller before a forward pass */
	int many_rows;           /* rows of a batch from which ROWS_PROMPT is the faster kind; 0: one form, rows is ignored */
	int norm_tok_min, norm_tok_max; /* so many rows qkv and gemm take before their RMSNorm (norm, bf16); 0: never */
	int n_thread;
	uint64_t scratch_bytes;  /* memory that the kernels keep for themselves, beside all that they are given */
	void (*embed)(struct kern *k, const struct embed_args *a);
	void (*rmsnorm)(struct kern *k, const struct rmsnorm_args *a);
	void (*gemm)(struct kern *k, const struct gemm_args *a);
	void (*rope)(struct kern *k, const struct rope_args *a);
	void (*qkv)(struct kern *k, const struct qkv_args *a);
	void (*attn)(struct kern *k, const struct attn_args *a);
	void (*route)(struct kern *k, const struct route_args *a);
	void (*quant_rows)(struct kern *k, const struct quant_rows_args *a); /* while a model is opened; NULL: dev->place_f8 does it */
	void (*moe_gate_up)(struct kern *k, const struct moe_gate_up_args *a);
	void (*moe_down)(struct kern *k, const struct moe_down_args *a);
	void (*moe)(struct kern *k, const struct moe_args *a);       /* or NULL: route, moe_gate_up, moe_down in turn */
	void (*sample)(struct kern *k, const struct sample_args *a); /* or NULL: the sampler works on logits in host memory */

	void (*sample_history)(struct kern *k, const struct sample_history_args *a); /* or NULL: sample takes no hist */

	const struct kern_device *dev; /* NULL: ops read and write host memory */

	/* Waits for everything enqueued; MOXIE_E_DEVICE once anything has failed, for good. */
	int (*sync)(struct kern *k, struct moxie_err *err);
	void (*free)(struct kern *k);
	void *impl;              /* the backend's own */
};

/* A backend library has moxie_kern_<name>_layout equal to this, or it was built from other headers and is not to be called. */
#define KERN_LAYOUT ((uint32_t)(sizeof(struct kern) << 20 | sizeof(struct kern_device) << 10 | sizeof(struct kern_limits)))

/* CPU instruction sets, from the plain truth up.  AUTO takes the last one that CPUID and the kernel (AMX permission) allow. */
enum cpu_isa { CPU_REF, CPU_AVX2, CPU_AVX512, CPU_AMX, CPU_AUTO };

/* Opens the CPU backend.  n_thread = 0: host_n_cpu().
 *   MOXIE_E_UNSUPPORTED  this processor lacks isa; err names what is missing
 *   MOXIE_E_ARG          limits the kernels cannot serve, e.g. n_embd % 32; err holds them
 *   MOXIE_E_NOMEM        no scratch memory */
int kern_cpu_create(struct kern **out, const struct kern_limits *lim, enum cpu_isa isa, int n_thread, struct moxie_err *err);

#endif
