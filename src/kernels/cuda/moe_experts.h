/* moe_experts.h - arguments of the expert launches and the list of their instances; host and device. */
#ifndef MOXIE_MOE_EXPERTS_H
#define MOXIE_MOE_EXPERTS_H

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "moe_layout.h"
#include "moxie_ops.h"

struct dense_job;

struct moe_phase {
	const uint8_t *w;  /* [n_expert, row_blocks, k_atoms] atoms */
	const float *mul;  /* [n_expert] */
	const float *bias; /* phase 0 [n_expert, n_ff, 2], phase 1 [n_expert, n_embd]; or NULL */
	const uint4 *src;  /* rows of activations */
	int src_pitch;     /* row pitch in 16-byte units */
	int k_atoms, row_blocks;
	int n_group;       /* items along the rows; loose: row blocks */
	int n_split;       /* fixed parts of K; above 1 only in phase 1 of the loose instance */
};

struct moe_experts_args {
	struct moe_phase p[2];
	const int32_t *sorted_pair;  /* [n_pair] */
	struct moe_tile *tiles;
	struct moe_head *head;       /* zero[0]: items claimed from a counter */
	__nv_bfloat16 *act;          /* [n_pair, n_ff] */
	void *y;                     /* [n_split, n_pair, n_embd] bf16, loose: fp32; rows as in act */
	int32_t *row_of_pair;        /* [n_pair] sorted row of a pair, out */
	int n_used, n_pair, n_embd, n_ff;
	int max_tile;                /* entries of tiles that may be read */
	int n_likely;                /* experts that are all hit in all likelihood; 0: not to be told before routing has run */
	int read_once;               /* most experts have one tile: their weights need not stay in L2, where tokens and sums had better */
	float c1, c3, beta, limit;   /* activation: see moe_experts_sm90.cuh */
};

struct moe_combine_args {
	const void *y;               /* [n_split, n_tok * n_used, n_embd] bf16 or fp32 */
	const int32_t *row_of_pair;  /* [n_tok * n_used] row of y */
	const int32_t *topk_id;      /* [n_tok, n_used], -1 = skipped */
	const float *topk_w;         /* [n_tok, n_used] */
	const __nv_bfloat16 *residual, *shared; /* [n_tok, n_embd] or NULL */
	__nv_bfloat16 *out;          /* [n_tok, n_embd] */
	int n_tok, n_used, n_embd, n_split;
	float scale;
	const __nv_bfloat16 *next;   /* [n_embd] weights of the RMSNorm that follows, or NULL: not made here; n_embd at most MOE_NEXT_EMBD */
	__nv_bfloat16 *h;            /* [n_tok, n_embd] its result; may be what the experts read */
	float eps;
};
#define MOE_NEXT_EMBD 4096

/* The norm after the block, which the combine makes; one token's kernel has no combine, and makes it of qkv alone. */
struct moe_next {
	const void *norm; /* [n_embd] bf16 */
	void *h;          /* [n_tok, n_embd] bf16 */
	float eps;
	const struct dense_job *qkv; /* or NULL: the next layer's qkv, of h, which is not written then; moe_serves_qkv said that it can be made */
};
/* Whether moe_run_next may be given this qkv with n_tok tokens. */
bool moe_serves_qkv(const moxie_moe_plan *p, int n_tok, const struct dense_job *qkv);
/* moxie_moe_run, and with next != NULL that norm too. */
int moe_run_next(const moxie_moe_plan *p, const struct moxie_moe_args *r, const struct moe_next *next, void *stream, struct moxie_err *err);

/* The kernel of one token where the pair kernel does not serve: any device from sm_80 on. */
struct moe_column_args {
	struct moe_experts_args e;   /* y and row_of_pair are not used; act holds what two CTAs share of it */
	struct moe_combine_args c;   /* y and row_of_pair are not used */
	float *y;                    /* [n_cta, n_embd], of few tokens [n_cta, n_embd, 4] */
	uint32_t *act;               /* few tokens: [max_tile * n_ff / 32, 4, 16] */
	uint32_t by_grid, by_k_atoms1; /* moe_pair_divisor of CTAs and k atoms of the down product */
	int n_col;                   /* most columns of a CTA: moe_column_n_col */
};
#define MOE_FEW_TILE_N 8
extern const void *const moe_column_kernel;
extern const int moe_column_threads;
/* The kernel of 2 .. moe_few_tokens tokens beside it; n_tile: most tiles. */
extern const void *const moe_few_kernel;
extern const int moe_few_threads, moe_few_tokens;
uint64_t moe_few_y_bytes(int n_embd, int n_cta);
uint64_t moe_few_act_bytes(int n_tile, int n_ff);
int moe_few_smem(int n_tile, int n_embd, int n_ff, int n_cta); /* as moe_column_smem */
int moe_column_n_col(int n_tile, int n_ff, int n_cta); /* n_tile: most experts hit */
int moe_column_smem(int n_used, int n_embd, int n_ff, int n_cta); /* dynamic, there is no other; INT32_MAX: shape not served */

/* The kernel of one token on Hopper, in clusters of two CTAs. */
struct moe_pair_args {
	struct moe_experts_args e;   /* act, y and row_of_pair are not used */
	struct moe_combine_args c;   /* y and row_of_pair are not used */
	float *y;                    /* [n_cluster, 2, n_embd] */
	uint32_t by_grid, by_cluster, by_k_atoms1; /* moe_pair_divisor of CTAs, clusters and k atoms of the down product */
};
extern const void *const moe_pair_kernel[3]; /* (struct moe_pair_args, struct moe_pair_qkv): without qkv, with it in bf16, in e4m3 */
extern const int moe_pair_threads;
int moe_pair_smem(int n_used, int n_embd, int n_ff, int n_cluster); /* dynamic shared memory; INT32_MAX: shape not served */
int moe_pair_smem_static(void);
int moe_pair_clusters(int smem); /* resident at once on the current device with smem dynamic bytes a CTA */
uint32_t moe_pair_divisor(int d);

/* One compiled shape of the expert kernel. */
struct moe_instance {
	const char *name;
	int tile_n;    /* most tokens of a tile */
	int rb;        /* row blocks of an item, 64 rows each */
	int loose;     /* an item's row blocks need not belong together; y in fp32 */
	int n_thread;
	int smem;
	const void *kernel;
};
extern const struct moe_instance moe_instance_loose_n8, moe_instance_rows256_n16, moe_instance_rows256_n40, moe_instance_rows256_n48,
	moe_instance_rows256_n64, moe_instance_rows256_n96, moe_instance_rows256_n120, moe_instance_rows256_n144, moe_instance_rows256_n152;

/* One compiled shape of the portable kernel (sm_80 and later).  The ring has as many stages as the device's shared memory holds. */
struct moe_portable_args {
	struct moe_experts_args e;
	int phase;
	int n_stage, ahead; /* stages fetched ahead: n_stage - 1, or n_stage - 2, which lets warps drift apart */
};
struct moe_portable_instance {
	const char *name;
	int tile_n;      /* most tokens of a tile */
	int rb;          /* most row blocks of an item */
	int n_thread;
	int stage_bytes;
	int n_stage;     /* of the ring; 0: as many as fit, two at least */
	bool refill;     /* all of them ahead: see moe_portable.cuh */
	const void *kernel;
};
#define MOE_N_PORTABLE 7
extern const struct moe_portable_instance moe_portable_instances[MOE_N_PORTABLE]; /* by ascending width, then by falling shared memory */
int moe_portable_stages(const struct moe_portable_instance *in, int smem); /* in smem bytes; 0: not even the two it needs */
int moe_portable_smem(const struct moe_portable_instance *in, int n_stage); /* bytes */

cudaError_t moe_combine(const struct moe_combine_args *a, int y_f32, cudaStream_t stream);

#endif
