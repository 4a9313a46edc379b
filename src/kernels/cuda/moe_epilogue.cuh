/* moe_epilogue.cuh - what the expert kernels do to a sum before they store it: bias and scale offset, activation, rounding.
 *
 * Test: build/cuda/test_moe_experts
 */
#ifndef MOXIE_MOE_EPILOGUE_CUH
#define MOXIE_MOE_EPILOGUE_CUH

#include <cuda_bf16.h>

#include "device/ptx.cuh"
#include "moe_experts.h"

__device__ __forceinline__ uint32_t moe_pack_bf16(float a, float b)
{
	const __nv_bfloat162 v = __floats2bfloat162_rn(a, b);
	return *(const uint32_t *)&v;
}
/* min, max that keep NaN. */
__device__ __forceinline__ float min_nan(float a, float b)
{
	float d;
	asm("min.NaN.f32 %0, %1, %2;" : "=f"(d) : "f"(a), "f"(b));
	return d;
}
__device__ __forceinline__ float max_nan(float a, float b)
{
	float d;
	asm("max.NaN.f32 %0, %1, %2;" : "=f"(d) : "f"(a), "f"(b));
	return d;
}
/* acc * mul + bias, but NaN for an infinite sum: a NaN scale makes the sum infinite or NaN. */
__device__ __forceinline__ float moe_restore(float acc, float mul, float bias)
{
	const float v = fmaf(acc, mul, bias);
	return fmaf(v, 0.f, v);
}
/* 2 ulp; what it flushes to zero is below 2^-126. */
__device__ __forceinline__ float rcp_approx(float x)
{
	float d;
	asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x));
	return d;
}
/* g * sigmoid(g (c1 + c3 g^2)) * (u + beta); a.c1, a.c3 hold -log2(e) as a factor. */
__device__ __forceinline__ float moe_act(const struct moe_experts_args &a, float g, float u)
{
	g = min_nan(g, a.limit);
	u = max_nan(min_nan(u, a.limit), -a.limit);
	const float z = g * fmaf(a.c3, g * g, a.c1);
	return g * rcp_approx(1 + exp2_approx(z)) * (u + a.beta);
}

__device__ __forceinline__ float ld_const(const float *p)
{
	float v;
	asm volatile("ld.global.nc.f32 %0, [%1];" : "=f"(v) : "l"(p));
	return v;
}

#endif
