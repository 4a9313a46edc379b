/* attn.cuh - device side of attn.h: where a key lies, which keys a row sees, small arithmetic. */
#ifndef MOXIE_CUDA_ATTN_CUH
#define MOXIE_CUDA_ATTN_CUH

#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "attn.h"
#include "device/ptx.cuh"

#define LOG2E 1.4426950408889634f

/* First key that position pos sees. */
__device__ __forceinline__ int attn_first_key(int pos, int window) { return window > 0 && pos >= window ? pos - window + 1 : 0; }

/* Id of the page that holds positions i * KV_PAGE .. of sequence seq. */
__device__ __forceinline__ int attn_page(const attn_param &p, int seq, int i)
{
	return __ldcg(p.page + (int64_t)seq * p.n_page_seq + (p.ring ? i % p.n_page_seq : i));
}
/* Element offset of a page's rows of one KV head. */
__device__ __forceinline__ int64_t attn_page_at(const attn_param &p, int page, int ihkv, int d_head)
{
	return ((int64_t)page * p.n_head_kv + ihkv) * (KV_PAGE * d_head);
}
/* The sink of a head on the scale of base-2 scores; -inf: none. */
__device__ __forceinline__ float attn_sink(const attn_param &p, int ih)
{
	if (!p.sinks)
		return -INFINITY;
	return LOG2E * (p.sinks_f32 ? ((const float *)p.sinks)[ih] : __bfloat162float(((const __nv_bfloat16 *)p.sinks)[ih]));
}
/* Two e4m3 (the low half of v) as two fp16: exact. */
__device__ __forceinline__ uint32_t f8x2_to_f16x2(uint16_t v)
{
	uint32_t d;
#if __CUDA_ARCH__ >= 890
	asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(d) : "h"(v));
#else /* the same, in software */
	const __half2_raw h = __nv_cvt_fp8x2_to_halfraw2(v, __NV_E4M3);
	d = h.x | (uint32_t)h.y << 16;
#endif
	return d;
}
__device__ __forceinline__ float2 f16x2_to_float2(uint32_t v) { return __half22float2(reinterpret_cast<const __half2 &>(v)); }
/* A number beyond fp16 becomes the largest one; NaN stays. */
__device__ __forceinline__ float clamp_f16(float x) { return x > 65504 ? 65504 : x < -65504 ? -65504 : x; }
__device__ __forceinline__ uint32_t bf16x2_to_f16x2(uint32_t v)
{
	return pack_f16(clamp_f16(__uint_as_float(v << 16)), clamp_f16(__uint_as_float(v & 0xffff0000u)));
}

#endif
