/* dense.h - inside of the dense products: what becomes of a product, and the kernels that dense.cu chooses from.
 *
 * Weights are the M operand everywhere: a product is P[n][t] = sum_k w[n][k] x[t][k], stored token by token.
 */
#ifndef MOXIE_CUDA_DENSE_H
#define MOXIE_CUDA_DENSE_H

#include "kernels/cuda/cuda_ops.h"

/* Where P goes.  gemm: d[t][n] = P + b[n] (+ d[t][n]).  qkv: rows of q and k roped, all stored where attention reads them. */
struct dense_out {
	void *d;                     /* [n_tok, n_out] bf16 or f32; qkv: q [n_tok, n_head, d_head] bf16 */
	const void *b;               /* [n_out] bf16 or f32, or NULL; qkv: bq, bk, bv one after the other */
	int n_tok, n_out;            /* qkv: n_out = (n_head + 2 n_head_kv) d_head */
	const float *scale;          /* [n_out] P is multiplied by before all else, or NULL: 1 */
	bool b_f32, add, d_f32, qkv;
	/* qkv */
	enum dtype kv;               /* BF16, F32 or F8_E4M3 */
	bool ring;
	int n_head, n_head_kv, d_head, n_page_seq;
	void *k, *v;                 /* [n_page, n_head_kv, KV_PAGE, d_head] of kv */
	const float *cs;             /* [n_tok, d_head / 2, 2] */
	const int32_t *page, *pos, *seq; /* [n_seq, n_page_seq], [n_tok], [n_tok] */
};

/* One product.  x, w: 16-byte aligned, n_in % 32 == 0. */
struct dense_job {
	const void *x, *w;           /* [n_tok, n_in] bf16, [n_out, n_in] bf16 or f8 */
	bool f8;                     /* w is e4m3 as dense_f8.cu lays it out, with out.scale; dense_small and dense_f8_many take it */
	const void *norm;            /* [n_in] bf16, or NULL: x stands before this RMSNorm; dense_small and dense_f8_many take it */
	float eps;
	int n_in;
	size_t shared_max;           /* of a CTA of dense_small with one row block, bytes; 0: no limit of ours */
	struct dense_out out;
};

#ifdef __cplusplus
extern "C" {
#endif

/* dense.cu: checks the arguments and writes j; 0 or MOXIE_E_SHAPE. */
int dense_gemm_job(struct dense_job *j, const struct gemm_args *a, struct moxie_err *err);
int dense_qkv_job(struct dense_job *j, const struct qkv_args *a, struct moxie_err *err);

/* dense_f8.cu: rows of bf16 weights to e4m3 with a power of two each, as ref_quant_rows does it; in every 16 of k the two eights stand
 * interleaved by pairs (0 1 8 9 2 3 ..), so that a 32-bit word is one lane's part of an mma's k16.  code: [n_row, n_in], n_in % 16 == 0. */
cudaError_t dense_f8_pack(uint8_t *code, float *scl, const void *w, int64_t n_row, int n_in, cudaStream_t stream);

/* dense_small.cu: any n_tok, meant for few; a token's bits do not depend on n_tok. */
cudaError_t dense_small(const struct cuda_dev *d, const struct dense_job *j);

/* dense_wide.cu: for many tokens, of the products it serves. */
bool dense_wide_serves(const struct dense_job *j);
cudaError_t dense_wide(const struct cuda_dev *d, const struct dense_job *j);

/* dense_portable.cu: any n_tok, on any device; as dense_small. */
cudaError_t dense_portable(const struct cuda_dev *d, const struct dense_job *j);

/* dense_f8_many.cu: e4m3 weights, any n_tok, meant for many; ws: n_ws bytes that are enough, 256-byte aligned. */
bool dense_f8_many_serves(const struct cuda_dev *d, const struct dense_job *j, size_t n_ws);
int dense_f8_many(const struct cuda_dev *d, const struct dense_job *j, void *ws, struct moxie_err *err);
size_t dense_f8_ws_bytes(const struct kern_limits *l); /* enough for a model's products within its limits */

/* dense.cu: scale, bias, rope and stores of qkv's product p [n_tok, n_out] bf16. */
cudaError_t dense_rope_store(const struct cuda_dev *d, const struct dense_out *o, const void *p);

/* dense_lib.cu: cuBLASLt.  gemm alone; false: it does not serve this one. */
bool dense_lib_gemm(const struct cuda_dev *d, const struct dense_job *j, void *ws, size_t ws_bytes);
size_t dense_lib_ws_bytes(const struct dense_lib *l);

#ifdef __cplusplus
}
#endif

#endif
