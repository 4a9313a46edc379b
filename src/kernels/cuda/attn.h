/* attn.h - the attention kernels behind cuda_attn (attn.cu), and what they share.
 *
 * A span of a batch is served by one of these kernels:
 *   attn_decode    1 or a few rows; any context, split over the GPU       d_head 64; 128 and 256: any rows
 *   attn_prefill   many rows, tiles of (position, head) pairs on wgmma    d_head 64; attn_prefill_portable where there is no wgmma
 *   attn_plain     anything else: d_head % 8 == 0 up to 512
 * Each reads a cache of bf16 or of e4m3, prefill the latter by way of a bf16 copy of the spans' pages in scratch (attn_widen).
 */
#ifndef MOXIE_CUDA_ATTN_H
#define MOXIE_CUDA_ATTN_H

#include <cuda_bf16.h>

#include "kernels/cuda/cuda_ops.h"

/* attn_args, unpacked; by value in every attention kernel. */
struct attn_param {
	__nv_bfloat16 *o;          /* [n_tok, n_head, d_head] */
	const __nv_bfloat16 *q;    /* [n_tok, n_head, d_head] */
	const void *k, *v;         /* [n_page, n_head_kv, KV_PAGE, d_head] bf16, or e4m3 where kv_f8 */
	const void *sinks;         /* [n_head] bf16, or f32 where sinks_f32; NULL: none */
	const int32_t *page;       /* [n_seq, n_page_seq] */
	const int32_t *pos, *seq;  /* [n_tok] */
	const struct span *span;   /* [n_seq] device */
	int n_page_seq, n_head, n_head_kv, d_head, window;
	bool ring, sinks_f32, kv_f8;
	float scale_log2;          /* scale * log2(e): weights are powers of two */
};

/* Rows row0 .. row0 + n_row - 1 of the batch. */
cudaError_t attn_plain(cudaStream_t stream, const attn_param &p, int row0, int n_row);

/* Those of the n_seq sequences whose spans have 1 .. max_row rows; the others are left alone.  Partial results go to scratch;
 * as many sequences a launch as scratch holds.  Returns cudaErrorInvalidValue if it holds not even one. */
bool attn_decode_serves(const cuda_dev *d, int d_head); /* by head size and the device's shared memory */
cudaError_t attn_decode(const cuda_dev *d, const attn_param &p, int n_seq, int max_row);
size_t attn_decode_scratch(int n_tok, int n_head, int n_head_kv, int d_head);

/* Those of the n_seq spans (host) that have more than min_row rows.  d_head 64, scale > 0. */
bool attn_prefill_serves(const attn_param &p);
cudaError_t attn_prefill(const cuda_dev *d, const attn_param &p, const span *spans, int n_seq, int min_row);
/* The same on mma.sync and cp.async. */
cudaError_t attn_prefill_portable(const cuda_dev *d, const attn_param &p, const span *spans, int n_seq, int min_row);

/* The same of a cache of e4m3: pages that the spans see are copied to scratch as bf16, as many spans at a time as it holds. */
cudaError_t attn_prefill_f8(const cuda_dev *d, const attn_param &p, const span *spans, int n_seq, int min_row);
size_t attn_prefill_f8_scratch(const kern_limits *lim);

#endif
