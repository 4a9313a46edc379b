/* sample.cu - see sample.h.  A row belongs to a cluster of CTAs; each holds its part of the row in shared memory, so the logits are
 * read from device memory once and every later pass costs no bandwidth.
 *
 *   logits [n_row, n_vocab] fp32 in; id [n_row] i32 out; parameters and penalty counts as sample.h has them
 *
 * Nothing is ever sorted.  A token's weight is exp((l - best) / temperature) as an integer of 2^-44: sums of integers have no order,
 * so histograms may be filled by atomics and all CTAs find the same.  "The first token, by falling probability, at which the sum of
 * weights (or of ones) exceeds t" answers top-k (ones, k - 1), top-p (weights, top_p of all) and the draw (weights, u of what is
 * left): a histogram of buckets of equal width in (best - l) names a bucket, whose tokens are gathered in the first CTA; select() narrows one
 * that holds more than N_LIST over the bits of the float.  Tokens that top-k or top-p cannot keep are left out before (cut_k, cut_p).
 * Draws without top-k and top-p go in order of ids, as on the CPU: weights are summed by CTA, by warp, by a lane's share, by 32.
 *
 * Map: cluster of 8 CTAs (16 where rows are few or long) of 512 threads; warp w of CTA r holds ids r S + w C .. in order.
 * Cost: reads 4 n_vocab bytes a row (103 MB at 128 rows of 201088: 24 us at 4.3 TB/s), penalties as much again; a draw needs
 *   one double exp for each token within e^-32 of the best.
 * Test: build/cuda/test_sample   Bench: build/cuda/bench_sample
 */
#include <cuda_runtime.h>
#include <math.h>

extern "C" {
#include "base/err.h"
}
#include "device/launch.cuh"
#include "device/ptx.cuh"
#define SAMPLE_CLUSTER 1
#include "sample.cuh"

namespace {

__global__ void history_kernel(uint32_t *hist, const int32_t *tok, int n, int n_out, int n_vocab)
{
	pdl_wait();
	for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
		const int id = tok[i];
		if (id < 0 || id >= n_vocab)
			continue;
		atomicOr(hist + id, SAMPLE_SEEN);
		if (i >= n - n_out)
			atomicAdd(hist + id, 1);
	}
}

} /* namespace */

extern "C" int cuda_sample(struct cuda_dev *d, const struct sample_args *a, struct moxie_err *err)
{
	if (a->n_row == 0)
		return 0;
	if (a->n_row < 0 || a->n_vocab < 1 || a->n_vocab > SAMPLE_VOCAB_MAX)
		return err_set(err, MOXIE_E_SHAPE, "sample: %d rows of %d logits, wanted at most %d", a->n_row, a->n_vocab, SAMPLE_VOCAB_MAX);
	if (d->portable)
		return sample_portable(d, a, err);
	param p = { *a, 0, 0, 0, NULL };
	size_t bytes;
	for (p.n_cta = a->n_row * CLUSTER_MAX <= d->n_sm ? CLUSTER_MAX : 8;; p.n_cta *= 2) {
		p.slice = ((a->n_vocab + p.n_cta - 1) / p.n_cta + 3) / 4 * 4;
		p.chunk = ((p.slice + N_WARP - 1) / N_WARP + 31) / 32 * 32;
		bytes = sizeof(struct shared) + (a->row ? (size_t)p.slice * 4 : 0);
		if (bytes <= d->shared_per_block || p.n_cta == CLUSTER_MAX)
			break;
	}
	if (bytes > d->shared_per_block)
		return err_set(err, MOXIE_E_SHAPE, "sample: %d logits want %zu bytes of shared memory a block, not %zu", a->n_vocab, bytes,
		               d->shared_per_block);
	void (*kernel)(param) = a->row ? sample_kernel : argmax_kernel;
	cudaError_t rc = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
	if (rc == cudaSuccess && a->row)
		rc = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
	if (rc == cudaSuccess)
		rc = cuda_launch_cluster(kernel, p.n_cta, dim3(a->n_row * p.n_cta), dim3(N_THREAD), bytes, d->stream, p);
	return rc == cudaSuccess ? 0 : err_set(err, MOXIE_E_DEVICE, "sample: %s", cudaGetErrorString(rc));
}

extern "C" int cuda_sample_history(struct cuda_dev *d, const struct sample_history_args *a, struct moxie_err *err)
{
	cudaError_t rc = cudaMemsetAsync(a->hist, 0, (size_t)a->n_vocab * sizeof *a->hist, d->stream);
	if (rc == cudaSuccess && a->n > 0) {
		history_kernel<<<min((a->n + 255) / 256, 64), 256, 0, d->stream>>>(a->hist, a->tok, a->n, a->n_out, a->n_vocab);
		rc = cudaGetLastError();
	}
	return rc == cudaSuccess ? 0 : err_set(err, MOXIE_E_DEVICE, "sample history: %s", cudaGetErrorString(rc));
}
