/* argmax - id[i] = where row i of logits is largest; lowest id among equals, a NaN is below everything.
 *
 *   id      [n_row] int32 out
 *   logits  [n_row, n_vocab] f32
 *
 * Map: one CTA of 1024 threads a row; a thread's own candidates come in ascending order, then keys (order-preserving integer of the
 * logit above the complement of the id) are compared, so the order of threads cannot matter.
 * Cost: 4 n_row n_vocab bytes.   Test: build/cuda/test_cuda_ops argmax
 */
#include "cuda.h"
#include "device/launch.cuh"
#include "device/ptx.cuh"

/* Ascending with the float; NaN is 0, -0 equals +0. */
__device__ __forceinline__ uint32_t order(float f)
{
	const uint32_t u = __float_as_uint(f + 0.f);
	return isnan(f) ? 0 : u >> 31 ? ~u : u | 0x80000000u;
}

__device__ __forceinline__ unsigned long long better(unsigned long long a, unsigned long long b) { return a > b ? a : b; }

__device__ __forceinline__ unsigned long long key(float f, int id) { return (unsigned long long)order(f) << 32 | (uint32_t)~id; }

__global__ void __launch_bounds__(1024) argmax_kernel(int32_t *id, const float *logits, int n_vocab)
{
	__shared__ unsigned long long part[32];
	pdl_launch();
	pdl_wait();
	const float *row = logits + (size_t)blockIdx.x * n_vocab;
	unsigned long long best = 0;
	if (n_vocab % 4 == 0) {
		for (int i = threadIdx.x; i < n_vocab / 4; i += blockDim.x) {
			const float4 v = __ldcg((const float4 *)row + i);
			best = better(best, better(better(key(v.x, 4 * i), key(v.y, 4 * i + 1)), better(key(v.z, 4 * i + 2), key(v.w, 4 * i + 3))));
		}
	} else {
		for (int i = threadIdx.x; i < n_vocab; i += blockDim.x)
			best = better(best, key(__ldcg(row + i), i));
	}
#pragma unroll
	for (int d = 16; d; d /= 2)
		best = better(best, __shfl_xor_sync(~0u, best, d));
	if (threadIdx.x % 32 == 0)
		part[threadIdx.x / 32] = best;
	__syncthreads();
	if (threadIdx.x < 32) {
		best = part[threadIdx.x];
#pragma unroll
		for (int d = 16; d; d /= 2)
			best = better(best, __shfl_xor_sync(~0u, best, d));
		if (threadIdx.x == 0)
			id[blockIdx.x] = (int32_t)~(uint32_t)best;
	}
}

extern "C" int cuda_argmax(struct cuda_dev *d, const struct argmax_args *a, struct moxie_err *err)
{
	if (a->n_row <= 0)
		return 0;
	cudaError_t e = cuda_launch(argmax_kernel, dim3(a->n_row), dim3(1024), 0, d->stream, a->id, a->logits, a->n_vocab);
	return e == cudaSuccess ? 0 : err_set(err, MOXIE_E_DEVICE, "argmax: %s", cudaGetErrorString(e));
}
