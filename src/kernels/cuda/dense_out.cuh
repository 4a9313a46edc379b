/* dense_out.cuh - the end of every dense product: bias, residual, rope, the store. */
#ifndef MOXIE_CUDA_DENSE_OUT_CUH
#define MOXIE_CUDA_DENSE_OUT_CUH

#include <cuda_bf16.h>

#include "kernels/cuda/dense.h"

__device__ __forceinline__ float dense_bias(const struct dense_out &o, int n)
{
	if (!o.b)
		return 0.f;
	return o.b_f32 ? static_cast<const float *>(o.b)[n] : __bfloat162float(static_cast<const __nv_bfloat16 *>(o.b)[n]);
}

__device__ __forceinline__ void dense_put(const struct dense_out &o, int t, int n, float v)
{
	const size_t at = (size_t)t * o.n_out + n;
	v += dense_bias(o, n);
	if (o.d_f32) {
		float *const d = static_cast<float *>(o.d) + at;
		*d = o.add ? *d + v : v;
	} else {
		__nv_bfloat16 *const d = static_cast<__nv_bfloat16 *>(o.d) + at;
		*d = __float2bfloat16_rn(o.add ? __bfloat162float(*d) + v : v);
	}
}

/* Where row (t, KV head ih) lies in k and v, in elements; see struct kv_view. */
__device__ __forceinline__ size_t dense_kv_row(const struct dense_out &o, int t, int ih)
{
	const int pos = o.pos[t];
	int i = pos / KV_PAGE;
	if (o.ring)
		i %= o.n_page_seq;
	const int page = o.page[(size_t)o.seq[t] * o.n_page_seq + i];
	return (((size_t)page * o.n_head_kv + ih) * KV_PAGE + pos % KV_PAGE) * o.d_head;
}

/* The pair (i, i + d_head/2) of head ih of token t, before bias; ih counts q heads, then k, then v. */
__device__ __forceinline__ void dense_put_pair(const struct dense_out &o, int t, int ih, int i, float lo, float hi)
{
	const int half = o.d_head / 2, n = ih * o.d_head + i;
	lo += dense_bias(o, n);
	hi += dense_bias(o, n + half);
	if (ih < o.n_head + o.n_head_kv) {
		const float2 cs = reinterpret_cast<const float2 *>(o.cs)[(size_t)t * half + i];
		const float x = lo, y = hi;
		lo = x * cs.x - y * cs.y;
		hi = y * cs.x + x * cs.y;
	}
	void *base = o.d;
	size_t at = ((size_t)t * o.n_head + ih) * o.d_head + i;
	if (ih >= o.n_head) {
		const bool is_v = ih >= o.n_head + o.n_head_kv;
		base = is_v ? o.v : o.k;
		at = dense_kv_row(o, t, ih - o.n_head - (is_v ? o.n_head_kv : 0)) + i;
		if (o.kv_f32) {
			static_cast<float *>(base)[at] = lo;
			static_cast<float *>(base)[at + half] = hi;
			return;
		}
	}
	static_cast<__nv_bfloat16 *>(base)[at] = __float2bfloat16_rn(lo);
	static_cast<__nv_bfloat16 *>(base)[at + half] = __float2bfloat16_rn(hi);
}

#endif
