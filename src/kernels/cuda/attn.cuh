/* attn.cuh - device side of attn.h: where a key lies, which keys a row sees, small arithmetic. */
#ifndef MOXIE_CUDA_ATTN_CUH
#define MOXIE_CUDA_ATTN_CUH

#include "attn.h"
#include "device/ptx.cuh"

#define LOG2E 1.4426950408889634f

/* First key that position pos sees. */
__device__ __forceinline__ int attn_first_key(int pos, int window) { return window > 0 && pos >= window ? pos - window + 1 : 0; }

/* Id of the page that holds positions i * KV_PAGE .. of sequence seq. */
__device__ __forceinline__ int attn_page(const attn_param &p, int seq, int i)
{
	return p.page[(int64_t)seq * p.n_page_seq + (p.ring ? i % p.n_page_seq : i)];
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
/* 2^x, 2 ulp; 2^-inf = 0. */
__device__ __forceinline__ float exp2_approx(float x)
{
	float y;
	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
	return y;
}
__device__ __forceinline__ uint32_t pack_bf16(float low, float high)
{
	uint32_t d;
	asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
	return d;
}

/* 16 bytes global -> shared past L1; zeros where not wanted. */
__device__ __forceinline__ void cp_async16_if(uint32_t dst, const void *src, bool wanted)
{
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(dst), "l"(src), "r"(wanted ? 16 : 0) : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/* Tiles are TILE rows of D bf16; the 16-byte columns of a row are exclusive-ored with the row's number, so that neither
 * the copies nor ldmatrix meet in a bank. */
template <int D> struct tile_of {
	static constexpr int KEYS = D <= 64 ? 64 : 4096 / D, COL = D / 8, BYTES = KEYS * D * 2, PER_PAGE = KV_PAGE / KEYS;
	static __device__ __forceinline__ uint32_t at(int row, int col) { return (row * COL + (col ^ (row & 7))) * 16; }
	/* src: the tile's first row; rows from n_row on are filled with zeros. */
	static __device__ __forceinline__ void fetch(uint32_t dst, const __nv_bfloat16 *src, int n_row)
	{
		const int lane = threadIdx.x % 32;
#pragma unroll
		for (int i = 0; i < KEYS * COL / 32; i++) {
			const int c = i * 32 + lane, row = c / COL;
			cp_async16_if(dst + at(row, c % COL), src + c * 8, row < n_row);
		}
	}
};

#endif
