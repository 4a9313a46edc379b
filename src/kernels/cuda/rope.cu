/* rope - the table of cosines and sines of a batch: cs[t][i] = (cos, sin)(pos[t] * inv_freq[i]) * mscale.
 *
 *   cs        [n_tok, n_rot/2, 2] f32 out
 *   pos       [n_tok] int32
 *   inv_freq  [n_rot/2] f32
 *
 * The angle is rounded to fp32 first, as transformers has it; cosine and sine of that are taken in double, as in ref_norm.c.
 * Map: a thread an angle.   Cost: 4 n_tok n_rot bytes and n_tok n_rot/2 double sincos, once a step.
 * Test: build/test_cuda_ops rope
 */
#include "cuda_ops.h"
#include "device/launch.cuh"
#include "device/ptx.cuh"

__global__ void rope_kernel(float2 *cs, const int32_t *pos, const float *inv_freq, float mscale, int n_angle, int half)
{
	const int i = blockIdx.x * blockDim.x + threadIdx.x;
	pdl_launch();
	pdl_wait();
	if (i >= n_angle)
		return;
	const float angle = __fmul_rn((float)__ldcg(pos + i / half), __ldg(inv_freq + i % half));
	double s, c;
	sincos((double)angle, &s, &c);
	cs[i] = make_float2((float)c * mscale, (float)s * mscale);
}

extern "C" int cuda_rope(struct cuda_dev *d, const struct rope_args *a, struct moxie_err *err)
{
	const int half = a->n_rot / 2, n_angle = a->n_tok * half, n_thread = 128;
	if (n_angle <= 0)
		return 0;
	cudaError_t e = cuda_launch(rope_kernel, dim3((n_angle + n_thread - 1) / n_thread), dim3(n_thread), 0, d->stream, (float2 *)a->cs, a->pos,
	                            a->inv_freq, a->mscale, n_angle, half);
	return e == cudaSuccess ? 0 : err_set(err, MOXIE_E_DEVICE, "rope: %s", cudaGetErrorString(e));
}
