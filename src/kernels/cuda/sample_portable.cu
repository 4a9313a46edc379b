/* sample_portable.cu - sampling with nothing newer than sm_80: a row belongs to one CTA of 512 threads, which keeps its cleaned (and
 * penalised) logits in scratch, as a row does not fit a block's shared memory; passes after the first find them in L2.
 *
 * sample.h has the interface, sample.cu the formulas; the same integers are added up here, so picks are the same.
 * Cost: reads 4 n_vocab bytes a row, and one SM's share of L2 bandwidth for each pass (about 8 us for 201088 logits).
 * Test: MOXIE_TEST_PORTABLE=64 build/cuda/test_sample
 */
extern "C" {
#include "base/err.h"
}
#include "device/launch.cuh"
#define SAMPLE_CLUSTER 0
#include "sample.cuh"

static size_t row_of(int n_vocab) { return ((size_t)n_vocab + 3) / 4 * 4; }

extern "C" size_t cuda_sample_scratch(const struct cuda_dev *d, const struct kern_limits *lim)
{
	return d->portable ? CUDA_COUNTER_BYTES + (size_t)lim->n_seq * row_of(lim->n_vocab) * sizeof(float) : 0;
}

int sample_portable(struct cuda_dev *d, const struct sample_args *a, struct moxie_err *err)
{
	const size_t row = row_of(a->n_vocab), left = d->scratch_bytes > CUDA_COUNTER_BYTES ? d->scratch_bytes - CUDA_COUNTER_BYTES : 0;
	const int most = a->row ? (int)(left / (row * sizeof(float)) < INT32_MAX ? left / (row * sizeof(float)) : INT32_MAX) : INT32_MAX;
	if (most < 1)
		return err_set(err, MOXIE_E_SHAPE, "sample: %d logits want %zu bytes of scratch, there are %zu", a->n_vocab, row * sizeof(float), left);
	cudaError_t rc = cudaSuccess;
	for (int r0 = 0; r0 < a->n_row && rc == cudaSuccess; r0 += most) { /* as many rows a launch as scratch holds */
		param p = { *a, (int)row, (int)((row + N_WARP - 1) / N_WARP + 31) / 32 * 32, 1, NULL };
		p.scratch = (float *)((char *)d->scratch + CUDA_COUNTER_BYTES);
		p.a.logits += (size_t)r0 * a->n_vocab;
		p.a.id += r0;
		if (a->row) p.a.row += r0;
		if (a->logprob) p.a.logprob += r0;
		if (a->top_id) p.a.top_id += (size_t)r0 * SAMPLE_TOP_MAX;
		if (a->top_logprob) p.a.top_logprob += (size_t)r0 * SAMPLE_TOP_MAX;
		const int n = a->n_row - r0 < most ? a->n_row - r0 : most;
		rc = cuda_launch(a->row ? sample_kernel : argmax_kernel, dim3(n), dim3(N_THREAD), sizeof(struct shared), d->stream, p);
	}
	return rc == cudaSuccess ? 0 : err_set(err, MOXIE_E_DEVICE, "sample: %s", cudaGetErrorString(rc));
}
