/* cuda_ops.h - what the CUDA ops of kernels.h share: the device, the launch, the op functions that backend.cu puts in the table.
 *
 * Every op is one file: `int cuda_<op>(struct cuda_dev *d, const struct <op>_args *a, struct moxie_err *err)` enqueues on
 * d->stream and returns 0 or MOXIE_E_DEVICE / _SHAPE.  No op allocates, waits, or keeps state; what it needs between its
 * own launches lies in d->scratch, whose size is the largest `cuda_<op>_scratch(lim)`.
 *
 * Programmatic dependent launch.  Every kernel of the chain is started by cuda_launch, so it may begin while the one before
 * still runs: it may read weights at once, and must call pdl_wait() before it touches anything another kernel wrote - x, KV
 * pages, tables, scratch, counters - and before it writes anything.  It calls pdl_launch() early, but for the kernels that write K and V
 * or that stand between them and attn_decode: these call it after their wait.  When attn_decode starts, all that was before them has
 * ended then, and it fetches old rows of K and V, page lists and spans before its own wait.
 * The first CUDA_COUNTER_BYTES of scratch are int32 counters, zero between ops: whoever uses one leaves it zero.  Data lies
 * behind them, and cuda_<op>_scratch counts both.
 *
 * act is bf16.  Weights: bf16 as in the checkpoint, row-major, 16-byte aligned; wq, wk, wv and bq, bk, bv of a layer lie one
 * after the other (kern.place saw to it), so qkv is one matrix [(n_head + 2 n_head_kv) d_head, n_embd].
 */
#ifndef MOXIE_CUDA_OPS_H
#define MOXIE_CUDA_OPS_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

#define CUDA_COUNTER_BYTES 65536

struct cuda_dev {
	int id, n_sm;
	size_t shared_per_block; /* bytes, opt-in */
	bool portable;           /* no wgmma, TMA, clusters: kernels that need nothing newer than sm_80 */
	cudaStream_t stream;
	void *scratch;           /* 256-byte aligned */
	size_t scratch_bytes;
	struct dense_lib *dense; /* cuda_dense_open made it; NULL: own kernels serve every product */
	struct dense_f8 *dense_f8; /* cuda_dense_f8_open made it; NULL: dense weights are bf16, or dense_small serves every product of theirs */
};

#define RMSNORM_MAX_EMBD 16384
/* The dense products make their RMSNorm themselves up to so many tokens, and should from the least on: one token's waits for nothing
 * but the norm's instructions, which a kernel before it has done while weights arrive. */
#define CUDA_NORM_TOK 16
#define CUDA_NORM_TOK_MIN 2

#ifdef __cplusplus
extern "C" {
#endif

int cuda_embed(struct cuda_dev *d, const struct embed_args *a, struct moxie_err *err);
int cuda_rmsnorm(struct cuda_dev *d, const struct rmsnorm_args *a, struct moxie_err *err);
int cuda_rope(struct cuda_dev *d, const struct rope_args *a, struct moxie_err *err);

/* dense*.cu: any n_tok >= 0.  open fills d->dense where cuBLASLt can be loaded and has something to offer; it may wait and allocate.
 * Before scratch is sized: cuda_dense_scratch depends on it. */
void cuda_dense_open(struct cuda_dev *d, const struct kern_limits *lim);
void cuda_dense_close(struct cuda_dev *d);
/* dense_f8_many.cu: where dense weights are e4m3.   MOXIE_E_NOMEM, _DEVICE, _UNSUPPORTED */
int cuda_dense_f8_open(struct cuda_dev *d, const struct kern_limits *lim, struct moxie_err *err);
void cuda_dense_f8_close(struct cuda_dev *d);
int cuda_gemm(struct cuda_dev *d, const struct gemm_args *a, struct moxie_err *err);
int cuda_qkv(struct cuda_dev *d, const struct qkv_args *a, struct moxie_err *err);
size_t cuda_dense_scratch(const struct cuda_dev *d, const struct kern_limits *lim);

/* attn_decode.cu, attn_prefill.cu: spans of any length in one batch. */
int cuda_attn(struct cuda_dev *d, const struct attn_args *a, struct moxie_err *err);
size_t cuda_attn_scratch(const struct cuda_dev *d, const struct kern_limits *lim);

#ifdef __cplusplus
}
#endif

#endif
