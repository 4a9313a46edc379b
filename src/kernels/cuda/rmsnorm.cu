/* rmsnorm - h[t] = x[row[t]] * rsqrt(mean(x^2) + eps) * w, in fp32, one rounding to bf16.
 *
 *   h    [n_tok, n_embd] bf16 out; must not alias x
 *   x    [.., n_embd] bf16
 *   w    [n_embd] bf16 or f32
 *   row  [n_tok] int32 or NULL: 0, 1, ...
 *
 * Map: one CTA a row, a thread has N_VEC vectors of 8 channels in registers; squares are added per thread, per warp by a butterfly,
 * then over warps in order: the same bits whatever else is in the batch.  w is fetched before the wait.
 * Cost: 4 n_tok n_embd bytes.   Test: build/test_cuda_ops rmsnorm
 */
#include <cuda_bf16.h>

#include "cuda_ops.h"
#include "device/launch.cuh"
#include "device/ptx.cuh"
#include "device/warp.cuh"

constexpr int MAX_THREAD = 512; /* 2880 channels are 360 vectors: 12 warps; above 4096 a thread has several */

/* Eight weights from bf16 or f32. */
template <bool W_F32> __device__ __forceinline__ void load_w(float (&f)[8], const void *w, int vec)
{
	if constexpr (W_F32) {
		const float4 a = __ldg((const float4 *)w + 2 * vec), b = __ldg((const float4 *)w + 2 * vec + 1);
		f[0] = a.x, f[1] = a.y, f[2] = a.z, f[3] = a.w, f[4] = b.x, f[5] = b.y, f[6] = b.z, f[7] = b.w;
	} else {
		const uint4 v = __ldg((const uint4 *)w + vec);
		const uint32_t u[4] = { v.x, v.y, v.z, v.w };
#pragma unroll
		for (int i = 0; i < 4; i++) {
			const float2 p = unpack_bf16(u[i]);
			f[2 * i] = p.x, f[2 * i + 1] = p.y;
		}
	}
}

template <int N_VEC, bool W_F32>
__global__ void __launch_bounds__(MAX_THREAD) rmsnorm_kernel(uint4 *h, const uint4 *x, const void *w, const int32_t *row, float eps, int n_vec)
{
	__shared__ float part[MAX_THREAD / 32];
	float wf[N_VEC][8], xf[N_VEC][8], sum = 0;
#pragma unroll
	for (int v = 0; v < N_VEC; v++) {
		const int i = v * blockDim.x + threadIdx.x;
		if (i < n_vec)
			load_w<W_F32>(wf[v], w, i);
	}
	pdl_launch();
	pdl_wait();
	const size_t from = (size_t)(row ? __ldcg(row + blockIdx.x) : (int)blockIdx.x) * n_vec;
#pragma unroll
	for (int v = 0; v < N_VEC; v++) {
		const int i = v * blockDim.x + threadIdx.x;
		const uint4 u4 = i < n_vec ? __ldcg(x + from + i) : make_uint4(0, 0, 0, 0);
		const uint32_t u[4] = { u4.x, u4.y, u4.z, u4.w };
#pragma unroll
		for (int j = 0; j < 4; j++) {
			const float2 p = unpack_bf16(u[j]);
			xf[v][2 * j] = p.x, xf[v][2 * j + 1] = p.y;
			sum = fmaf(p.x, p.x, sum), sum = fmaf(p.y, p.y, sum);
		}
	}
	sum = warp_sum(sum);
	if (threadIdx.x % 32 == 0)
		part[threadIdx.x / 32] = sum;
	__syncthreads();
	sum = 0;
	for (int i = 0; i < (int)blockDim.x / 32; i++)
		sum += part[i];
	const float r = 1 / sqrtf(sum / (float)(n_vec * 8) + eps);
#pragma unroll
	for (int v = 0; v < N_VEC; v++) {
		const int i = v * blockDim.x + threadIdx.x;
		uint32_t u[4];
#pragma unroll
		for (int j = 0; j < 4; j++)
			u[j] = pack_bf16(xf[v][2 * j] * r * wf[v][2 * j], xf[v][2 * j + 1] * r * wf[v][2 * j + 1]);
		if (i < n_vec)
			h[(size_t)blockIdx.x * n_vec + i] = make_uint4(u[0], u[1], u[2], u[3]);
	}
}

extern "C" int cuda_rmsnorm(struct cuda_dev *d, const struct rmsnorm_args *a, struct moxie_err *err)
{
	if (a->n_tok <= 0)
		return 0;
	if (a->n_embd % 8 || a->n_embd > RMSNORM_MAX_EMBD)
		return err_set(err, MOXIE_E_SHAPE, "n_embd is %d, wanted a multiple of 8 up to %d", a->n_embd, RMSNORM_MAX_EMBD);
	const int n_vec = a->n_embd / 8, each = (n_vec + MAX_THREAD - 1) / MAX_THREAD, per = (n_vec + each - 1) / each, n_thread = (per + 31) / 32 * 32;
	const bool f32 = a->w->dtype == DT_F32;
	void (*kernel)(uint4 *, const uint4 *, const void *, const int32_t *, float, int) =
	    each == 1 ? (f32 ? rmsnorm_kernel<1, true> : rmsnorm_kernel<1, false>) : each == 2 ? (f32 ? rmsnorm_kernel<2, true> : rmsnorm_kernel<2, false>)
	                                                                                       : (f32 ? rmsnorm_kernel<4, true> : rmsnorm_kernel<4, false>);
	cudaError_t e = cuda_launch(kernel, dim3(a->n_tok), dim3(n_thread), 0, d->stream, (uint4 *)a->h, (const uint4 *)a->x, a->w->data, a->row, a->eps, n_vec);
	return e == cudaSuccess ? 0 : err_set(err, MOXIE_E_DEVICE, "rmsnorm: %s", cudaGetErrorString(e));
}
