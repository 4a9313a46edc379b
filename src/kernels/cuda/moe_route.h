/* moe_route.h - what the routing files share: kernel parameters, launch choices, the plan. */
#ifndef MOE_ROUTE_H
#define MOE_ROUTE_H

#include <cuda_runtime.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "moe_layout.h"
#include "moxie_route.h"

/* Kernel parameter of every routing launch; see moxie_route.h for the fields with the same names. */
struct route_param {
	int n_tok, n_expert, n_used, score, renormalise, n_group, n_group_used, logit_dtype, bias_dtype;
	int tile_n, tile_shift, expert_first, n_expert_here, n_vocab; /* tile_n == 1 << tile_shift, or tile_shift < 0 */
	float scale;
	const void *logits;
	const float *select_bias, *expert_scale;
	const int32_t *hash_table, *tok_id, *n_tok_real, *topk_id_in;
	const float *topk_w_in;
	int32_t *topk_id;
	float *topk_w;
	int32_t *expert_off, *sorted_pair;
	struct moe_tile *tiles;
	struct moe_head *head;
	int32_t *tok_done;
	/* router GEMM, joined form */
	int n_embd;
	const void *x, *w_router;
	const void *b_router; /* bias_dtype */
	const void *norm;     /* [n_embd] bf16 or NULL: x stands before RMSNorm with these weights and eps, normed rows go to h; joined form */
	void *h;
	float eps;
	float *logits_out;
	/* chunk tokens per CTA or block; n_chunk of them hold tokens (at least 1) */
	int chunk, n_chunk;
	/* joined form: blocks of 16 experts; n_split == 1 << split_shift parts of K.  Cluster form: chunk == 1 << split_shift
	 * where all threads of a CTA score */
	int n_row_block, n_split, split_shift;
	uint32_t by_chunk; /* t * by_chunk >> 16 = t / chunk */
	/* two-launch form */
	uint16_t *hist; /* [n_chunk, hist_stride] pairs of each expert in a chunk */
	uint16_t *rank; /* [n_tok, n_used] place of a pair among its expert's pairs of the same chunk */
	int hist_stride;
};

#define ROUTE_CHUNK_MAX 1024 /* tokens; 32 marks per expert: 64 KB at 512 experts, and ranks fit 16 bits */
#define ROUTE_CHUNK_PORTABLE 512
#define ROUTE_N_SLICE 32     /* K is always cut in 32 slices, summed as a balanced tree: same bits for every grid */
#define ROUTE_JOIN_WARPS 16
#define ROUTE_JOIN_CTAS 16
#define ROUTE_JOIN_TOK_MAX 16 /* one CTA per token */
#define ROUTE_JOIN_EXPERT_MAX 256
#define ROUTE_MANY_TOK_MAX 64 /* of moe_route_joined_many.cu */
#define ROUTE_MANY_EXPERT_MAX 32

/* Most tokens of one CTA of a cluster: one bit each of a word per expert, one warp each; fewer where a lane holds 16
 * experts and 32 warps would spill. */
#ifdef __cplusplus
constexpr int route_cluster_tok(int n_expert) { return n_expert > 384 ? 24 : 32; }
#endif

struct moxie_router_plan {
	struct moxie_router_shape s;
	int device, n_sm;
	int cluster_max;       /* CTAs: 16, or 8 where 16 do not fit, or 1 where there are no clusters */
	bool portable, pdl;
	int join_tok_max;      /* 0: never joined */
	int many_tok_max;      /* joined by moe_route_joined_many.cu from join_tok_max + 1 tokens; 0: never */
	int lib_tok_min;       /* cuBLASLt from here on, if lib */
	struct router_lib *lib; /* NULL: not used */
	size_t ws_lib_bytes; /* of the library, at ws_lib */
	size_t ws_lib, ws_hist, ws_rank, ws_bytes; /* logits lie at 0 */
};

#ifdef __cplusplus
extern "C" {
#endif
/* One cluster of n_cta CTAs, n_tok <= route_cluster_tok(n_expert) * n_cta.  n_cta is a power of two <= 16. */
cudaError_t route_launch_cluster(const struct route_param *p, int n_cta, cudaStream_t stream, bool pdl);
/* Router GEMM and routing in one cluster of 16, n_tok <= 16, n_expert <= 256. */
cudaError_t route_launch_joined(const struct route_param *p, cudaStream_t stream, bool pdl);
/* Any n_tok: chunks of at most p->chunk tokens, then scatter. */
cudaError_t route_launch_chunks(const struct route_param *p, cudaStream_t stream, bool pdl);
cudaError_t route_set_attributes(bool clusters); /* false: one CTA, 48 KB of shared memory */
cudaError_t route_joined_set_attributes(int smem_max);
int route_join_limit(int n_expert, int n_embd); /* most tokens for which joining won when measured */
/* The same for n_tok <= route_many_limit. */
cudaError_t route_launch_many(const struct route_param *p, cudaStream_t stream, bool pdl);
cudaError_t route_many_set_attributes(void);
int route_many_limit(const struct moxie_router_shape *s); /* 0: shape not served */
int route_joined_max_clusters(void); /* 0: a cluster of 16 does not fit this device */
int route_cluster_size(const struct moxie_router_plan *plan, int n_tok); /* 0: use chunks */
void route_chunks(int n_tok, int chunk_max, int *chunk, int *n_chunk);

/* x stands before RMSNorm with weights w [n_embd] bf16 and eps; normed rows go to h [n_tok, n_embd] bf16.  n_embd <= ROUTER_NORM_EMBD_MAX */
#define ROUTER_NORM_EMBD_MAX 4096
struct router_norm {
	const void *w;
	void *h;
	float eps;
};
/* Own router GEMM, any n_tok.  norm: or NULL. */
cudaError_t router_gemm_launch(const void *x, const void *w, const void *b, int bias_dtype, float *logits, int n_tok, int n_expert,
                               int n_embd, int n_sm, const struct router_norm *norm, cudaStream_t stream, bool pdl);
cudaError_t router_gemm_set_attributes(bool clusters); /* as above */
/* 8 * nt tokens and 1 / n_split of K per CTA.  n_sm 0: no clusters and little shared memory. */
void router_gemm_grid(int n_tok, int n_expert, int n_sm, int *nt, int *n_split, int *n_cta);

/* cuBLASLt, opened by name; for n_tok_min.. n_tok_max.  NULL where it is missing (not an error). */
#define ROUTER_LIB_WS_MAX ((size_t)8 << 20) /* most that *ws_bytes can become */
struct router_lib *router_lib_create(int n_tok_min, int n_tok_max, int n_expert, int n_embd, int bias_dtype, size_t *ws_bytes);
void router_lib_free(struct router_lib *lib);
/* False: not served, nothing was enqueued. */
bool router_lib_run(const struct router_lib *lib, const void *x, const void *w, const void *b, float *logits, int n_tok, void *ws,
                    size_t ws_bytes, cudaStream_t stream);
#ifdef __cplusplus
}
#endif
#endif
