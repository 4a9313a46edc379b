/* fp8_quant.cu - bf16 activations to e4m3 with one scale per 128 of a token, alone or joined with RMSNorm or SwiGLU.
 *
 *   q[t][i] = e4m3(y[t][i] / scale[i / 128][t]),  scale = largest |y| of the block / 448   (1 for a block of zeros)
 *   y = x;  x rsqrt(mean x^2 + eps) norm;  or silu(x[t][i]) x[t][n + i]
 *
 * Map: a CTA has one token; a warp takes blocks of 128, a lane four channels.  A NaN in a block makes all of it NaN.
 * Cost: n_tok n (2 + 1) bytes and a scale; SwiGLU reads 4.   Test: build/cuda/test_fp8    Bench: build/cuda/bench_fp8
 */
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <stdint.h>

#include "base/err.h"
#include "device/launch.cuh"
#include "device/ptx.cuh"
#include "device/warp.cuh"
#include "moxie_fp8.h"

constexpr int THREADS = 256, MAX_N = 32768;

__device__ __forceinline__ void load4(float (&v)[4], const __nv_bfloat16 *p)
{
	const uint2 u = *(const uint2 *)p;
	v[0] = __uint_as_float(u.x << 16), v[1] = __uint_as_float(u.x & 0xffff0000u);
	v[2] = __uint_as_float(u.y << 16), v[3] = __uint_as_float(u.y & 0xffff0000u);
}

/* Of the whole CTA, in fixed order. */
__device__ __forceinline__ float sum_all(float v)
{
	__shared__ float part[THREADS / 32];
	v = warp_sum(v);
	if ((threadIdx.x & 31) == 0) part[threadIdx.x / 32] = v;
	__syncthreads();
	v = 0;
	for (int i = 0; i < THREADS / 32; i++)
		v += part[i];
	return v;
}

template <int INPUT> __global__ void __launch_bounds__(THREADS) fp8_quant_kernel(const struct moxie_fp8_quant_args a)
{
	const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
	const int64_t t = blockIdx.x;
	const __nv_bfloat16 *x = (const __nv_bfloat16 *)a.x + t * a.n * (INPUT == MOXIE_FP8_SWIGLU ? 2 : 1);
	pdl_launch();
	pdl_wait();
	float rms = 1;
	if (INPUT == MOXIE_FP8_RMSNORM) {
		float sum = 0;
		for (int i = threadIdx.x * 4; i < a.n; i += THREADS * 4) {
			float v[4];
			load4(v, x + i);
			for (int j = 0; j < 4; j++)
				sum = fmaf(v[j], v[j], sum);
		}
		rms = rsqrtf(sum_all(sum) / (float)a.n + a.eps);
	}
	for (int b = warp; b < (a.n + 127) / 128; b += THREADS / 32) {
		const int i = b * 128 + lane * 4;
		const bool in = i < a.n; /* the last block may be 64 */
		float v[4] = {}, most = 0;
		if (in) load4(v, x + i);
		if (in && INPUT == MOXIE_FP8_RMSNORM) {
			float g[4];
			load4(g, (const __nv_bfloat16 *)a.norm + i);
			for (int j = 0; j < 4; j++)
				v[j] = v[j] * rms * g[j];
		} else if (in && INPUT == MOXIE_FP8_SWIGLU) {
			float u[4];
			load4(u, x + a.n + i);
			for (int j = 0; j < 4; j++)
				v[j] = v[j] / (1 + expf(-v[j])) * u[j];
		}
		bool nan = false;
		for (int j = 0; j < 4; j++)
			most = fmaxf(most, fabsf(v[j])), nan |= v[j] != v[j];
		most = warp_most(most);
		if (__any_sync(~0u, nan)) most = __int_as_float(0x7fc00000);
		const float scale = most == 0 ? 1 : most / 448;
		uint32_t q = 0;
		for (int j = 0; j < 4; j++)
			q |= (uint32_t)__nv_cvt_float_to_fp8(v[j] / scale, __NV_SATFINITE, __NV_E4M3) << 8 * j;
		if (in) *(uint32_t *)((uint8_t *)a.q + t * a.n + i) = q;
		if (lane == 0) a.scale[(int64_t)b * a.scale_ld + t] = scale;
	}
}

int moxie_fp8_quant(const struct moxie_fp8_quant_args *a, void *stream, struct moxie_err *err)
{
	if (!a || a->n_tok < 0 || a->input < MOXIE_FP8_QUANT || a->input > MOXIE_FP8_SWIGLU || a->scale_ld < a->n_tok)
		return err_set(err, MOXIE_E_ARG, "%d tokens, input %d, scale_ld %lld", a ? a->n_tok : 0, a ? a->input : -1, a ? (long long)a->scale_ld : 0);
	if (a->n < 64 || a->n % 64 || a->n > MAX_N) return err_set(err, MOXIE_E_SHAPE, "n is %d, wanted a multiple of 64 up to %d", a->n, MAX_N);
	if (!a->x || !a->q || !a->scale || (a->input == MOXIE_FP8_RMSNORM && !a->norm) || (uintptr_t)a->x % 16 || (uintptr_t)a->q % 16 || (uintptr_t)a->norm % 8)
		return err_set(err, MOXIE_E_ARG, "x %p, norm %p, q %p, scale %p: NULL or not aligned", a->x, a->norm, a->q, (void *)a->scale);
	if (a->n_tok == 0) return MOXIE_OK;
	void (*const kernel[])(struct moxie_fp8_quant_args) = { fp8_quant_kernel<MOXIE_FP8_QUANT>, fp8_quant_kernel<MOXIE_FP8_RMSNORM>, fp8_quant_kernel<MOXIE_FP8_SWIGLU> };
	const cudaError_t e = cuda_launch(kernel[a->input], dim3((unsigned)a->n_tok), dim3(THREADS), 0, (cudaStream_t)stream, *a);
	return e == cudaSuccess ? MOXIE_OK : err_set(err, MOXIE_E_DEVICE, "fp8_quant: %s", cudaGetErrorString(e));
}
