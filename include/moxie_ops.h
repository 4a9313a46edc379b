/* moxie_ops.h - Moxie's CUDA kernels as a C interface: raw device pointers and a stream, no CUDA types.
 *
 * Usable from C, Python ctypes, PyTorch or another engine; the library is libmoxie-cuda.so.
 * Two concepts.  A `moxie_moe_plan` holds what depends on the shape and the device (which kernel serves which number of
 * tokens, workspace sizes); it is immutable after create and may be used from many threads and streams at once, each with
 * its own workspace.  A run enqueues launches on a stream: it never allocates, never waits, keeps no state outside the
 * workspace it was given, and can be captured in a CUDA graph.  Counts of tokens per expert stay on the device.
 *
 * Calls return 0 or a negative enum moxie_status and say why in err (which may be NULL).  After MOXIE_E_ARG, _SHAPE and
 * _UNSUPPORTED nothing was enqueued.  Same inputs, same plan: same bits, run after run.
 */
#ifndef MOXIE_OPS_H
#define MOXIE_OPS_H

#include <stddef.h>
#include <stdint.h>

#include "moxie_fp8.h"   /* FP8 block-scaled GEMM */
#include "moxie_route.h" /* router GEMM, top-k and the tables below */
#include "moxie_status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- packing expert weights, once at load ----------------------------------------------------------------------- */

enum moxie_moe_source {
	/* _blocks [E, 2*n_ff, n_embd/32, 16], _scales [E, 2*n_ff, n_embd/32], rows 2i = gate i, 2i+1 = up i; biases bf16 [E, 2*n_ff] */
	MOXIE_MOE_GPT_OSS = 0,
	/* w1 (gate) and w3 (up) [E, n_ff, n_embd/2], w2 (down) [E, n_embd, n_ff/2] bytes, low nibble = even k; e8m0 scales [.., k/32] */
	MOXIE_MOE_DEEPSEEK_V4 = 1
};

/* One layer's packed experts; device pointers, 128-byte aligned.  Sizes in bytes from moxie_moe_pack_sizes. */
struct moxie_moe_weights {
	void *gate_up;         /* atoms, see src/kernels/cuda/moe_layout.h */
	void *down;            /* atoms */
	float *gate_up_mul;    /* [n_expert] 2^offset of the expert's scales */
	float *down_mul;       /* [n_expert] */
	float *gate_up_bias;   /* [n_expert, n_ff, 2] gate, up; or NULL */
	float *down_bias;      /* [n_expert, n_embd]; or NULL */
};

struct moxie_moe_pack_sizes {
	uint64_t gate_up, down, gate_up_mul, down_mul, gate_up_bias, down_bias;
};

struct moxie_moe_pack_args {
	int source;                     /* enum moxie_moe_source */
	int n_expert, n_embd, n_ff;     /* n_embd % 64 == 0, n_ff % 64 == 0 */
	int expert0, n_expert_part;     /* experts expert0 .. expert0 + n_expert_part - 1 of the layer; 0, 0 = all of them */
	const void *gate_up, *gate_up_scale;   /* GPT-OSS, of the part */
	const void *gate, *gate_scale, *up, *up_scale; /* DeepSeek-V4, of the part */
	const void *down, *down_scale;         /* both */
	const void *gate_up_bias, *down_bias;  /* bf16, GPT-OSS layout, of the part; or NULL */
	struct moxie_moe_weights out;          /* of the whole layer */
};

MOXIE_API int moxie_moe_pack_bytes(int n_expert, int n_embd, int n_ff, struct moxie_moe_pack_sizes *sizes, struct moxie_err *err);
MOXIE_API int moxie_moe_pack(const struct moxie_moe_pack_args *args, void *stream, struct moxie_err *err);

/* ---- routing tables: what routing writes and the experts read; device pointers ------------------------------------ */

struct moxie_moe_tables {
	int32_t *topk_id;     /* [n_tok, k] expert, -1 = slot skipped */
	float *topk_w;        /* [n_tok, k] */
	int32_t *expert_off;  /* [n_expert + 1] */
	int32_t *sorted_pair; /* [n_tok * k] */
	void *tiles;          /* struct moe_tile [moe_max_tiles], see moe_layout.h */
	void *head;           /* struct moe_head */
	int32_t *tok_done;    /* [n_tok] zeros; not read yet */
	int tile_n;           /* most rows of a tile: moxie_moe_plan_tile_n(plan, n_tok) */
};

/* Bytes of one block that holds all tables, and the tables cut from such a block (256-byte aligned).  A smaller tile_n needs more
 * tiles, so for a range of n_tok take the largest of moxie_moe_tables_bytes over it, not the last. */
MOXIE_API uint64_t moxie_moe_tables_bytes(int n_tok, int k, int n_expert, int tile_n);
MOXIE_API void moxie_moe_tables_cut(struct moxie_moe_tables *t, void *block, int n_tok, int k, int n_expert, int tile_n);

/* ---- experts ------------------------------------------------------------------------------------------------------ */

typedef struct moxie_moe_plan moxie_moe_plan;

enum moxie_moe_act {
	MOXIE_ACT_SWIGLU_CLAMP = 0, /* g' = min(g, limit), u' = clamp(u, -limit, limit): g' * sigmoid(alpha g') * (u' + beta) */
	MOXIE_ACT_SWIGLU = 1,       /* g * sigmoid(g) * u */
	MOXIE_ACT_GEGLU_TANH = 2    /* gelu_tanh(g) * u */
};

struct moxie_moe_desc {
	int n_expert, n_used;       /* experts, experts per token (1..16) */
	int n_embd, n_ff;           /* multiples of 64 */
	int max_tok;                /* most tokens of a run */
	int act;                    /* enum moxie_moe_act */
	float alpha, beta, limit;   /* of the clamped SwiGLU; limit <= 0: no clamp */
	float routed_scale;         /* factor of the sum over experts; 0 means 1 */
	int portable;               /* nonzero: the kernels that need nothing newer than sm_80, whatever the device (for tests) */
	int smem_limit;             /* bytes of shared memory a block may use; 0: what the device has (for tests) */
};

struct moxie_moe_args {
	const void *x;                    /* [n_tok, n_embd] bf16, 16-byte aligned */
	const struct moxie_moe_weights *w;
	const struct moxie_moe_tables *t; /* written earlier on the stream; tile_n as the plan says for n_tok */
	const void *residual;             /* [n_tok, n_embd] bf16 or NULL; may be out */
	const void *shared;               /* [n_tok, n_embd] bf16, added unscaled, or NULL */
	void *out;                        /* [n_tok, n_embd] bf16; must not alias x */
	void *workspace;                  /* 256-byte aligned, moxie_moe_plan_workspace_bytes */
	int n_tok;
};

/* Makes *out, NULL on failure; desc is copied.  device -1: none, for the sizes alone, as on an H200.
 *   MOXIE_E_ARG          max_tok or act is out of range
 *   MOXIE_E_SHAPE        a dimension is not served; err holds it
 *   MOXIE_E_UNSUPPORTED  the device has no kernel here; err holds its architecture
 *   MOXIE_E_NOMEM        host memory for the plan
 *   MOXIE_E_DEVICE       a CUDA call failed */
MOXIE_API int moxie_moe_plan_create(moxie_moe_plan **out, const struct moxie_moe_desc *desc, int device, struct moxie_err *err);
MOXIE_API void moxie_moe_plan_free(moxie_moe_plan *plan); /* NULL is fine */
/* For runs of n_tok tokens.  Not quite monotonic (one token keeps its sums in fp32): for a range take the largest. */
MOXIE_API uint64_t moxie_moe_plan_workspace_bytes(const moxie_moe_plan *plan, int n_tok);
/* Most rows of a token tile for this number of tokens: routing needs it to write the tile list. */
MOXIE_API int moxie_moe_plan_tile_n(const moxie_moe_plan *plan, int n_tok);
/* out = residual + shared + routed_scale * sum over slots of topk_w * expert(x).  One launch for one token, two for more.  bf16 between
 * the products, before the sum (fp32 for one token) and in out; sums are fp32.  An infinite sum becomes NaN.  stream is of the plan's
 * device, which must be current.  n_tok = 0 is a no-op.  MOXIE_E_ARG: n_tok or t->tile_n is not what the plan says, or a pointer is
 * NULL or not aligned (x, out, residual, shared, tiles and head to 16 bytes, weights to 128, workspace to 256). */
MOXIE_API int moxie_moe_run(const moxie_moe_plan *plan, const struct moxie_moe_args *args, void *stream, struct moxie_err *err);
/* Which kernel serves which range of tokens, and why, as text lines.  Returns the length without the final NUL, like snprintf. */
MOXIE_API int moxie_moe_plan_explain(const moxie_moe_plan *plan, char *text, size_t n_bytes);

#ifdef __cplusplus
}
#endif
#endif
