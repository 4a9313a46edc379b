/* dense_out.cuh - the end of every dense product: bias, residual, rope, the store.
 *
 * What an output needs besides its sum is found first (dense_at, dense_pair_at) and used later (dense_put): the loads behind it,
 * of which those of the cache depend on each other, take most of a microsecond, and a kernel has time for them earlier.
 */
#ifndef MOXIE_CUDA_DENSE_OUT_CUH
#define MOXIE_CUDA_DENSE_OUT_CUH

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "kernels/cuda/dense.h"

/* v = elements i .. i + 7 of p, bf16 or f32, i % 8 == 0, p 16-byte aligned. */
__device__ __forceinline__ void dense_load8(float (&v)[8], const void *p, bool f32, size_t i)
{
	if (f32) {
		const float4 *const q = reinterpret_cast<const float4 *>(static_cast<const float *>(p) + i);
		const float4 a = q[0], b = q[1];
		v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
		return;
	}
	const uint4 u = *reinterpret_cast<const uint4 *>(static_cast<const __nv_bfloat16 *>(p) + i);
	const uint32_t w[4] = { u.x, u.y, u.z, u.w };
#pragma unroll
	for (int e = 0; e < 4; e++)
		v[2 * e] = __uint_as_float(w[e] << 16), v[2 * e + 1] = __uint_as_float(w[e] & 0xffff0000u);
}

/* One output, or the two of a rope pair. */
struct dense_at {
	void *to;        /* of the first; NULL: nothing to store */
	int step;        /* elements to the second */
	float s0, s1;    /* what the products are multiplied by */
	float b0, b1;    /* bias */
	float old;       /* residual, of one output */
	float2 cs;       /* cos, sin */
	bool f32, f8, rope; /* what `to` is: f32, e4m3, else bf16 */
};

__device__ __forceinline__ float dense_bias(const struct dense_out &o, int n)
{
	if (!o.b)
		return 0.f;
	return o.b_f32 ? static_cast<const float *>(o.b)[n] : __bfloat162float(static_cast<const __nv_bfloat16 *>(o.b)[n]);
}

__device__ __forceinline__ float dense_scale(const struct dense_out &o, int n) { return o.scale ? __ldg(o.scale + n) : 1.f; }

/* gemm's output (t, n). */
__device__ __forceinline__ struct dense_at dense_one_at(const struct dense_out &o, int t, int n)
{
	struct dense_at a = {};
	const size_t at = (size_t)t * o.n_out + n;
	a.f32 = o.d_f32;
	a.to = o.d_f32 ? (void *)(static_cast<float *>(o.d) + at) : (void *)(static_cast<__nv_bfloat16 *>(o.d) + at);
	a.b0 = dense_bias(o, n), a.s0 = dense_scale(o, n);
	if (o.add)
		a.old = o.d_f32 ? *static_cast<const float *>(a.to) : __bfloat162float(*static_cast<const __nv_bfloat16 *>(a.to));
	return a;
}
__device__ __forceinline__ void dense_put(const struct dense_at &a, float v)
{
	v = v * a.s0 + a.b0;
	v += a.old;
	if (a.f32)
		*static_cast<float *>(a.to) = v;
	else
		*static_cast<__nv_bfloat16 *>(a.to) = __float2bfloat16_rn(v);
}

/* e4m3 of lo in bits 0-7, of hi in bits 8-15; beyond 448: 448. */
__device__ __forceinline__ uint32_t dense_f8x2(float lo, float hi)
{
	return __nv_cvt_float2_to_fp8x2(make_float2(lo, hi), __NV_SATFINITE, __NV_E4M3);
}

/* Where token t's row of KV head ih lies in k and v, in elements; see struct kv_view. */
__device__ __forceinline__ size_t dense_kv_row(const struct dense_out &o, int t, int ih)
{
	const int pos = o.pos[t];
	int i = pos / KV_PAGE;
	if (o.ring)
		i %= o.n_page_seq;
	const int page = o.page[(size_t)o.seq[t] * o.n_page_seq + i];
	return (((size_t)page * o.n_head_kv + ih) * KV_PAGE + pos % KV_PAGE) * o.d_head;
}

/* Where token t's row of head ih goes; ih counts q heads, then k, then v.  kv_bytes: of an element of the cache. */
__device__ __forceinline__ void *dense_head_at(const struct dense_out &o, int t, int ih, int kv_bytes)
{
	if (ih < o.n_head)
		return static_cast<__nv_bfloat16 *>(o.d) + ((size_t)t * o.n_head + ih) * o.d_head;
	const bool is_v = ih >= o.n_head + o.n_head_kv;
	const size_t at = dense_kv_row(o, t, ih - o.n_head - (is_v ? o.n_head_kv : 0));
	return static_cast<char *>(is_v ? o.v : o.k) + at * kv_bytes;
}

/* qkv's pair (i, i + d_head/2) of head ih of token t. */
__device__ __forceinline__ struct dense_at dense_pair_at(const struct dense_out &o, int t, int ih, int i)
{
	struct dense_at a = {};
	const int half = o.d_head / 2, n = ih * o.d_head + i;
	a.b0 = dense_bias(o, n), a.b1 = dense_bias(o, n + half);
	a.s0 = dense_scale(o, n), a.s1 = dense_scale(o, n + half);
	a.rope = ih < o.n_head + o.n_head_kv;
	if (a.rope)
		a.cs = reinterpret_cast<const float2 *>(o.cs)[(size_t)t * half + i];
	a.f32 = ih >= o.n_head && o.kv == DT_F32;
	a.f8 = ih >= o.n_head && o.kv == DT_F8_E4M3;
	const int bytes = a.f32 ? 4 : a.f8 ? 1 : 2;
	a.to = static_cast<char *>(dense_head_at(o, t, ih, bytes)) + i * bytes;
	a.step = half;
	return a;
}
__device__ __forceinline__ void dense_put(const struct dense_at &a, float lo, float hi)
{
	lo = lo * a.s0 + a.b0, hi = hi * a.s1 + a.b1;
	if (a.rope) {
		const float x = lo, y = hi;
		lo = x * a.cs.x - y * a.cs.y;
		hi = y * a.cs.x + x * a.cs.y;
	}
	if (a.f32) {
		float *const to = static_cast<float *>(a.to);
		to[0] = lo, to[a.step] = hi;
	} else if (a.f8) {
		const uint32_t v = dense_f8x2(lo, hi);
		static_cast<uint8_t *>(a.to)[0] = (uint8_t)v, static_cast<uint8_t *>(a.to)[a.step] = (uint8_t)(v >> 8);
	} else {
		__nv_bfloat16 *const to = static_cast<__nv_bfloat16 *>(a.to);
		to[0] = __float2bfloat16_rn(lo), to[a.step] = __float2bfloat16_rn(hi);
	}
}

#endif
