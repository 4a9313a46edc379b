/* dummy - dummy weights made where they are wanted: the bytes of formats/synth.c (base/dummy.h), without a copy from the host.
 *
 *   to  [n_bytes], 4-byte aligned; n_bytes a multiple of 4
 *
 * Map: a thread a 4-byte word.  Products and sums are rounded one by one, as the host's C does.
 * Cost: writes n_bytes.   Test: build/test_cuda_ops dummy
 */
#include <cuda_bf16.h>

#include "backend.h"

__device__ __forceinline__ float value(uint32_t i, const dummy_rule &r)
{
	return __fadd_rn(r.mean, __fmul_rn(r.std, __fmul_rn(dummy_sum(dummy_mix(i + r.key)), DUMMY_NORMAL)));
}

__device__ __forceinline__ uint32_t word(uint64_t i, const dummy_rule &r)
{
	if (r.dtype == DT_F32)
		return __float_as_uint(value((uint32_t)i, r));
	if (r.dtype == DT_BF16) {
		const __nv_bfloat162 v = __floats2bfloat162_rn(value((uint32_t)(2 * i), r), value((uint32_t)(2 * i + 1), r));
		return *reinterpret_cast<const uint32_t *>(&v);
	}
	uint32_t x = dummy_mix((uint32_t)i + r.key), y = 0;
	for (int b = 0; b < 4 && r.scale; b++)
		y |= (uint32_t)dummy_scale(r.scale, (uint8_t)(x >> 8 * b)) << 8 * b;
	return r.scale ? y : x;
}

__global__ void dummy_kernel(uint32_t *to, uint64_t n, const dummy_rule r)
{
	for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < n; i += (uint64_t)gridDim.x * blockDim.x)
		to[i] = word(i + r.at / 4, r);
}

cudaError_t cuda_dummy(void *to, size_t n_bytes, const struct dummy_rule *r, cudaStream_t stream)
{
	if (n_bytes % 4 || r->at % 4 || (uintptr_t)to % 4)
		return cudaErrorInvalidValue;
	dummy_kernel<<<2048, 256, 0, stream>>>((uint32_t *)to, n_bytes / 4, *r);
	return cudaGetLastError();
}
