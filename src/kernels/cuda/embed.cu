/* embed - x[t] = w[tok[t]].
 *
 *   x    [n_tok, n_embd] bf16 out
 *   w    [n_vocab, n_embd] bf16
 *   tok  [n_tok] int32, in [0, n_vocab)
 *
 * Map: one CTA a token, 16 bytes a thread and turn.   Cost: 4 n_tok n_embd bytes.
 * Test: build/test_cuda_ops embed
 */
#include "cuda_ops.h"
#include "device/launch.cuh"
#include "device/ptx.cuh"

__global__ void embed_kernel(uint4 *x, const uint4 *w, const int32_t *tok, int n_vec)
{
	pdl_launch();
	pdl_wait();
	const uint4 *from = w + (size_t)__ldcg(tok + blockIdx.x) * n_vec;
	for (int i = threadIdx.x; i < n_vec; i += blockDim.x)
		x[(size_t)blockIdx.x * n_vec + i] = __ldg(from + i);
}

extern "C" int cuda_embed(struct cuda_dev *d, const struct embed_args *a, struct moxie_err *err)
{
	if (a->n_tok <= 0)
		return 0;
	if (a->n_embd % 8)
		return err_set(err, MOXIE_E_SHAPE, "n_embd is %d, wanted a multiple of 8", a->n_embd);
	const int n_vec = a->n_embd / 8, n_thread = n_vec < 512 ? (n_vec + 31) / 32 * 32 : 512;
	cudaError_t e = cuda_launch(embed_kernel, dim3(a->n_tok), dim3(n_thread), 0, d->stream, (uint4 *)a->x, (const uint4 *)a->w->data, a->tok, n_vec);
	return e == cudaSuccess ? 0 : err_set(err, MOXIE_E_DEVICE, "embed: %s", cudaGetErrorString(e));
}
