/* moxie_route.h - from hidden states to dispatch tables: router GEMM, top-k, weights, sorted pairs and tiles.
 *
 * Part of moxie_ops.h: raw device pointers, a stream, a plan made once.  A plan is the shape and the rule; it is
 * read-only after moxie_router_plan_create, so any number of threads may run it at once, each with its own workspace
 * and outputs.  A run enqueues 1 to 3 launches and returns: no allocation, no sync, no global state; it can be
 * captured in a CUDA graph.  The same inputs give the same bits, and a token's results do not depend on the other
 * tokens of the call (unless cuBLASLt makes the logits: moxie_router_explain says from how many tokens on).
 *
 * Rules (docs/routing.md has the formulas):
 *   GPT-OSS                 SOFTMAX, renormalise 1
 *   Gemma 4                 SOFTMAX, renormalise 1, args.expert_scale
 *   Mixtral                 SOFTMAX, renormalise 1
 *   Qwen3-MoE               SOFTMAX, renormalise = norm_topk_prob
 *   DeepSeek-V3, Kimi K2    SIGMOID, renormalise 1, args.select_bias, scale, n_group / n_group_used
 *   DeepSeek-V4             SQRTSOFTPLUS, renormalise 1, args.select_bias, scale
 *   DeepSeek-V4 hash layers the same without select_bias, with args.hash_table and args.tok_id
 *   ids chosen elsewhere    GIVEN: args.topk_id_in; topk_w is copied from topk_w_in; only the tables are made
 */
#ifndef MOXIE_ROUTE_H
#define MOXIE_ROUTE_H

#include <stddef.h>
#include <stdint.h>

#include "moxie_status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum moxie_score { MOXIE_SCORE_SOFTMAX = 0, MOXIE_SCORE_SIGMOID = 1, MOXIE_SCORE_SQRTSOFTPLUS = 2, MOXIE_SCORE_GIVEN = 3 };
enum moxie_logit { MOXIE_LOGIT_F32 = 0, MOXIE_LOGIT_BF16 = 1, MOXIE_LOGIT_F16 = 2 };
enum moxie_router_flag {
	MOXIE_ROUTER_NO_PDL = 1,  /* launch without the programmatic dependent launch attribute */
	MOXIE_ROUTER_NO_JOIN = 2, /* never join the router GEMM and the routing in one launch */
	MOXIE_ROUTER_NO_LIB = 4,  /* never use cuBLASLt */
	MOXIE_ROUTER_PORTABLE = 8, /* no clusters, little shared memory (48 KB a block), whatever the device */
	/* From 33 tokens on two launches on many SMs, also where one launch on 16 SMs would do: faster where the kernel before holds every SM to
	 * its end, so that little of a launch can be made ahead. */
	MOXIE_ROUTER_APART = 16
};

#define MOXIE_ROUTE_MAX_EXPERT 512
#define MOXIE_ROUTE_MAX_USED 16

struct moxie_router_shape {
	int32_t n_expert;      /* 1..512; 8..512 with a router GEMM */
	int32_t n_used;        /* k: 1..min(16, n_expert) */
	int32_t score;         /* enum moxie_score */
	int32_t renormalise;   /* 1: weights of a token sum to `scale` (before expert_scale) */
	int32_t n_group;       /* 0 or 1: no groups; else a power of two, n_expert too, >= 2 experts per group */
	int32_t n_group_used;  /* groups that may be selected from: 1..n_group */
	int32_t logit_dtype;   /* enum moxie_logit, of args.logits; a router GEMM always makes F32 */
	int32_t n_embd;        /* > 0: logits = x . w_router^T + b_router, n_embd % 64 == 0;  0: logits are given */
	int32_t n_tok_max;     /* most tokens of one run, >= 1; n_tok_max * n_used < 2^31 */
	int32_t bias_dtype;    /* enum moxie_logit, of args.b_router: F32 or BF16 */
	int32_t expert_first;  /* this rank's experts are [expert_first, expert_first + n_expert_here); */
	int32_t n_expert_here; /* 0 means all.  Tables use local numbers, from 0; other experts' slots get id -1 */
	float scale;           /* routed scaling factor; 0 is read as 1 */
	uint32_t flags;        /* enum moxie_router_flag */
};

/* Device pointers, 16-byte aligned unless stated.  Inputs may not overlap outputs. */
struct moxie_router_args {
	int32_t n_tok;             /* 0..n_tok_max; 0 writes empty tables */
	int32_t tile_n;            /* most rows of a tile, a multiple of 8; with tiles */
	int32_t n_vocab;           /* rows of hash_table */
	int32_t reserved;          /* 0 */
	const void *x;             /* [n_tok, n_embd] bf16;    with n_embd > 0 */
	const void *w_router;      /* [n_expert, n_embd] bf16; with n_embd > 0.  Read before the previous kernel of the */
	                           /*   stream has ended (PDL): a constant */
	const void *b_router;      /* [n_expert] of bias_dtype, or NULL; aligned to its element; a constant too */
	const void *logits;        /* [n_tok, n_expert]; with n_embd == 0, unless GIVEN */
	const float *select_bias;  /* [n_expert] or NULL: added for selection only (SIGMOID, SQRTSOFTPLUS); 4-byte aligned */
	const float *expert_scale; /* [n_expert] or NULL: factor on the weight; 4-byte aligned */
	const int32_t *hash_table; /* [n_vocab, n_used] or NULL: global expert ids of each vocabulary entry; 4-byte aligned */
	const int32_t *tok_id;     /* [n_tok], with hash_table; outside [0, n_vocab): all slots -1; 4-byte aligned */
	const int32_t *n_tok_real; /* device scalar or NULL: rows from *n_tok_real on are graph padding: all slots -1 */
	const int32_t *topk_id_in; /* [n_tok, n_used] global ids, GIVEN only; outside [0, n_expert): slot skipped. */
	                           /*   May be topk_id, as topk_w_in may be topk_w */
	const float *topk_w_in;    /* [n_tok, n_used] or NULL, GIVEN only */
	float *logits_out;         /* [n_tok, n_expert] f32 or NULL (n_embd > 0) */
	int32_t *topk_id;          /* out [n_tok, n_used]: local expert number by descending rank, or -1 */
	float *topk_w;             /* out [n_tok, n_used]; 0 where the token itself is padding.  GIVEN: may be NULL */
	int32_t *expert_off;       /* out [n_expert_here + 1]: pairs of expert e are sorted_pair[off[e]..off[e+1]) */
	int32_t *sorted_pair;      /* out [n_tok * n_used]: t * n_used + slot, ascending inside an expert; off[n] are written */
	void *tiles;               /* out: struct moe_tile [moxie_router_n_tile_max], by ascending expert, then row; see */
	                           /*   src/kernels/cuda/moe_layout.h.  NULL: no tiles wanted, head and tile_n unused */
	void *head;                /* out: struct moe_head */
	int32_t *tok_done;         /* out [n_tok] zeros, or NULL */
	void *ws;                  /* moxie_router_ws_bytes; contents undefined before and after */
	const void *norm;          /* [n_embd] bf16 or NULL: x stands before RMSNorm with these weights, constants too, and eps; */
	void *h;                   /*   out [n_tok, n_embd] bf16: normed.  Both 16-byte aligned; see moxie_router_norm_max */
	float eps;
};

struct moxie_router_plan;

/* Makes *out (NULL on failure) for a device.  Reads the device's limits; allocates host memory, and a cuBLASLt handle
 * where one is used.  MOXIE_E_ARG (a value out of range, named in err), MOXIE_E_SHAPE (n_embd % 64, groups),
 * MOXIE_E_UNSUPPORTED (older than sm_80), MOXIE_E_NOMEM, MOXIE_E_DEVICE. */
MOXIE_API int moxie_router_plan_create(struct moxie_router_plan **out, const struct moxie_router_shape *shape, int device,
                                      struct moxie_err *err);
MOXIE_API void moxie_router_plan_free(struct moxie_router_plan *plan); /* NULL is fine */

MOXIE_API size_t moxie_router_ws_bytes(const struct moxie_router_plan *plan);
/* Most tiles a run of n_tok tokens can write. */
MOXIE_API int64_t moxie_router_n_tile_max(const struct moxie_router_plan *plan, int32_t n_tok, int32_t tile_n);
/* One line per range of n_tok: which launches, with which grids.  Truncated to n_bytes, always NUL-terminated. */
MOXIE_API void moxie_router_explain(const struct moxie_router_plan *plan, char *text, size_t n_bytes);

/* Everything: logits (if n_embd > 0), top-k, weights, tables.  stream is a cudaStream_t of the plan's device, which
 * must be current.  MOXIE_E_ARG: nothing was enqueued.  MOXIE_E_DEVICE: a launch failed, outputs are undefined. */
MOXIE_API int moxie_router_run(const struct moxie_router_plan *plan, const struct moxie_router_args *args, void *stream,
                              struct moxie_err *err);

/* Up to so many tokens args may have norm; 0: never. */
MOXIE_API int32_t moxie_router_norm_max(const struct moxie_router_plan *plan);

/* Only logits [n_tok, n_expert] f32 = x . w^T + b (b may be NULL).  Same rules. */
MOXIE_API int moxie_router_gemm_run(const struct moxie_router_plan *plan, const void *x, const void *w, const void *b,
                                    float *logits, int32_t n_tok, void *ws, void *stream, struct moxie_err *err);

#ifdef __cplusplus
}
#endif
#endif
