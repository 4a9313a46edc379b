/* route_gemm.cuh - the inner loop of the router GEMM: 16 experts x 8*NT tokens x one slice of K, by one warp.
 *
 * K is cut in blocks of 32.  Lane (g, q) = (lane / 4, lane % 4) loads 16 bytes = 8 consecutive k from rows g and g + 8
 * of W and from token rows g of x, straight from global memory: with the same permutation of k on both sides these are
 * the operands of two mma.m16n8k16, so nothing is staged and every load of a slice can be in flight at once.
 * The 32 slice sums of an output are added as a balanced tree, whatever the grid: (s0+s1)+(s2+s3) ...
 */
#pragma once
#include <cuda_bf16.h>
#include <stdint.h>

#include "device/cluster.cuh"
#include "device/mxfp4.cuh"
#include "device/warp.cuh"
#include "moe_route.h"
#include "route_math.h"

constexpr int W_AHEAD = 4; /* k blocks loaded together: 4 x (2 + NT) 16-byte loads per lane */

__device__ __forceinline__ void mma_bf16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1)
{
	asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
	    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
	    : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* b[e] as float; 0 without a bias. */
__device__ __forceinline__ float router_bias(const void *b, int dtype, int e)
{
	if (!b)
		return 0.f;
	return dtype == MOXIE_LOGIT_F32 ? static_cast<const float *>(b)[e] : route_float((uint32_t)static_cast<const uint16_t *>(b)[e] << 16);
}

/* First k block of slice s; slice 32 would start at n_block. */
__device__ __forceinline__ int slice_first(int n_block, int s) { return n_block * s / ROUTE_N_SLICE; }

struct router_w {
	uint4 lo[W_AHEAD], hi[W_AHEAD]; /* rows g and g + 8 of up to W_AHEAD k blocks; zeros past the slice */
};

/* w: this lane's first 16 bytes of row g; rows in elements; hi_step: elements from row g to row g + 8 (clamped to E). */
__device__ __forceinline__ void router_load_w(router_w &f, const uint16_t *w, size_t hi_step, int block, int last)
{
#pragma unroll
	for (int i = 0; i < W_AHEAD; i++) {
		f.lo[i] = f.hi[i] = make_uint4(0, 0, 0, 0);
		if (block + i < last) {
			f.lo[i] = __ldg(reinterpret_cast<const uint4 *>(w + (size_t)(block + i) * 32));
			f.hi[i] = __ldg(reinterpret_cast<const uint4 *>(w + hi_step + (size_t)(block + i) * 32));
		}
	}
}

/* a * b, eight bf16 each, rounded. */
__device__ __forceinline__ uint4 mul_bf16x8(uint4 a, uint4 b)
{
	return make_uint4(mul_bf16x2(a.x, b.x), mul_bf16x2(a.y, b.y), mul_bf16x2(a.z, b.z), mul_bf16x2(a.w, b.w));
}

/* acc += the slice's product.  f holds its first W_AHEAD blocks already.  x[n]: this lane's first 16 bytes of token g of
 * token group n.  NORM: x is multiplied by the weights of which norm is this lane's first 16 bytes. */
template <int NT, bool NORM = false>
__device__ __forceinline__ void router_slice(router_w &f, const uint16_t *w, size_t hi_step, const uint16_t *const (&x)[NT], int first,
                                             int last, float (&acc)[NT][4], const uint16_t *norm = nullptr)
{
	for (int b = first; b < last; b += W_AHEAD) {
		if (b != first)
			router_load_w(f, w, hi_step, b, last);
		uint4 v[W_AHEAD][NT];
#pragma unroll
		for (int i = 0; i < W_AHEAD; i++)
#pragma unroll
			for (int n = 0; n < NT; n++) {
				v[i][n] = make_uint4(0, 0, 0, 0);
				if (b + i < last)
					v[i][n] = *reinterpret_cast<const uint4 *>(x[n] + (size_t)(b + i) * 32);
			}
		if constexpr (NORM) {
#pragma unroll
			for (int i = 0; i < W_AHEAD; i++) {
				const uint4 by = b + i < last ? __ldg(reinterpret_cast<const uint4 *>(norm + (size_t)(b + i) * 32)) : make_uint4(0, 0, 0, 0);
#pragma unroll
				for (int n = 0; n < NT; n++)
					v[i][n] = mul_bf16x8(v[i][n], by);
			}
		}
#pragma unroll
		for (int i = 0; i < W_AHEAD; i++)
#pragma unroll
			for (int n = 0; n < NT; n++) {
				mma_bf16(acc[n], f.lo[i].x, f.hi[i].x, f.lo[i].y, f.hi[i].y, v[i][n].x, v[i][n].y);
				mma_bf16(acc[n], f.lo[i].z, f.hi[i].z, f.lo[i].w, f.hi[i].w, v[i][n].z, v[i][n].w);
			}
	}
}

/* ---- RMSNorm of a row on the way, with the bits of rmsnorm.cu: eight channels at a time ------------------------------------ */

__device__ __forceinline__ float norm_squares(uint4 x)
{
	const uint32_t u[4] = { x.x, x.y, x.z, x.w };
	float sum = 0;
#pragma unroll
	for (int i = 0; i < 4; i++) {
		const float2 v = unpack_bf16(u[i]);
		sum = fmaf(v.x, v.x, sum), sum = fmaf(v.y, v.y, sum);
	}
	return sum;
}
/* x r g */
__device__ __forceinline__ uint4 norm_apply(uint4 x, uint4 g, float r)
{
	const uint32_t a[4] = { x.x, x.y, x.z, x.w }, b[4] = { g.x, g.y, g.z, g.w };
	uint32_t u[4];
#pragma unroll
	for (int i = 0; i < 4; i++) {
		const float2 v = unpack_bf16(a[i]), w = unpack_bf16(b[i]);
		u[i] = pack_bf16(v.x * r * w.x, v.y * r * w.y);
	}
	return make_uint4(u[0], u[1], u[2], u[3]);
}

/* Floats of one slice's sums in shared memory: [16 experts][8 NT tokens], rows padded by 2 against bank conflicts. */
__host__ __device__ constexpr int red_row(int nt) { return 8 * nt + 2; }
__host__ __device__ constexpr int red_slice(int nt) { return 16 * red_row(nt); }

/* Writes a warp's accumulators there. */
template <int NT> __device__ __forceinline__ void router_put(float *red, const float (&acc)[NT][4])
{
	const int g = (threadIdx.x & 31) / 4, q = threadIdx.x & 3;
#pragma unroll
	for (int n = 0; n < NT; n++) {
		*reinterpret_cast<float2 *>(red + g * red_row(NT) + n * 8 + q * 2) = make_float2(acc[n][0], acc[n][1]);
		*reinterpret_cast<float2 *>(red + (g + 8) * red_row(NT) + n * 8 + q * 2) = make_float2(acc[n][2], acc[n][3]);
	}
}

template <int N> __device__ __forceinline__ float tree_sum(const float *p, int stride)
{
	if constexpr (N == 1)
		return *p;
	else
		return route_add(tree_sum<N / 2>(p, stride), tree_sum<N / 2>(p + (N / 2) * stride, stride));
}
/* Balanced tree over n = 1, 2, 4 .. 32 values. */
__device__ __forceinline__ float tree_sum(const float *p, int stride, int n)
{
	switch (n) {
	case 1: return tree_sum<1>(p, stride);
	case 2: return tree_sum<2>(p, stride);
	case 4: return tree_sum<4>(p, stride);
	case 8: return tree_sum<8>(p, stride);
	case 16: return tree_sum<16>(p, stride);
	default: return tree_sum<32>(p, stride);
	}
}
