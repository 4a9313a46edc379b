/* warp.cuh - sum and maximum over the 32 lanes of a warp, in every lane: a butterfly from 16 down to 1, so the same bits each time. */
#ifndef MOXIE_DEVICE_WARP_CUH
#define MOXIE_DEVICE_WARP_CUH

template <class T> __device__ __forceinline__ T warp_sum(T v)
{
#pragma unroll
	for (int d = 16; d; d /= 2)
		v += __shfl_xor_sync(~0u, v, d);
	return v;
}
/* A NaN loses against a number. */
__device__ __forceinline__ float warp_most(float v)
{
#pragma unroll
	for (int d = 16; d; d /= 2)
		v = fmaxf(v, __shfl_xor_sync(~0u, v, d));
	return v;
}

#endif
