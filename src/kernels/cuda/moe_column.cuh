/* moe_column.cuh - what the kernels of one token (moe_experts_pair.cu, moe_experts_column.cu) and of few (moe_experts_few.cu) have in common: words polled in
 * memory, codes unscaled; of the latter two also a CTA's share of columns.
 *
 * Test: build/cuda/test_moe_experts
 */
#ifndef MOXIE_MOE_COLUMN_CUH
#define MOXIE_MOE_COLUMN_CUH

#include "device/mxfp4.cuh"
#include "device/ptx.cuh"
#include "moe_epilogue.cuh"
#include "moe_experts.h"

constexpr uint32_t EMPTY = 0xffffffffu; /* a word not yet written: a NaN that no sum makes */
constexpr int HALF = 1024 + 64;         /* 32 rows of an atom: codes, then scales */
constexpr int X_ATOM = 128;             /* 64 channels in shared memory: [q][two words of each of four k16 steps] */
constexpr float UNSCALE = 0x1p-40f;     /* x is scaled by 2^40 */

/* n / d by the reciprocal of moe_pair_divisor. */
__device__ __forceinline__ int divide(uint32_t n, uint32_t by) { return by ? __umulhi(n, by) : n; }
/* The same for small numbers that nobody has a reciprocal of. */
__device__ __forceinline__ int divide_small(int n, float by) { return (int)(((float)n + 0.5f) * by); }

__device__ __forceinline__ void put_word(void *p, uint32_t v) { asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory"); }
__device__ __forceinline__ uint32_t poll32(const void *p)
{
	uint32_t v;
	asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
	return v;
}
__device__ __forceinline__ uint4 poll128(const void *p)
{
	uint4 v;
	asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
	return v;
}
/* sum += the float4 at at(j) for each j with on[j], in that order; all are under way at once, and read again until none is EMPTY. */
template <int N, typename F> __device__ __forceinline__ void add_written(float4 &sum, const bool (&on)[N], F at)
{
	uint4 v[N];
	for (bool again = true; again;) {
		again = false;
#pragma unroll
		for (int j = 0; j < N; j++) {
			v[j] = make_uint4(0, 0, 0, 0);
			if (on[j]) v[j] = poll128(at(j));
		}
#pragma unroll
		for (int j = 0; j < N; j++)
			again |= v[j].x == EMPTY || v[j].y == EMPTY || v[j].z == EMPTY || v[j].w == EMPTY;
	}
#pragma unroll
	for (int j = 0; j < N; j++) {
		sum.x += __uint_as_float(v[j].x);
		sum.y += __uint_as_float(v[j].y);
		sum.z += __uint_as_float(v[j].z);
		sum.w += __uint_as_float(v[j].w);
	}
}
__device__ __forceinline__ uint32_t scale_x(uint32_t two) { return mul_bf16x2(two, 0x53805380u); }

/* Two words of codes -> fragments of two k16 steps, times 2^-126. */
__device__ __forceinline__ void unpack(uint32_t u, uint32_t v, uint32_t merge, uint32_t (&a)[4], uint32_t (&b)[4])
{
	uint32_t w;
	asm("lop3.b32 %0, %1, %2, %3, 0xE4;" : "=r"(w) : "r"(u), "r"(v), "r"(merge));
	a[0] = u & MXFP4_CODE_MASK;
	a[1] = (u << 6) & MXFP4_CODE_MASK;
	a[2] = rotl(u, 12) & MXFP4_CODE_MASK;
	a[3] = (w << 4) & MXFP4_CODE_MASK;
	b[0] = (v << 2) & MXFP4_CODE_MASK;
	b[1] = rotl(v, 8) & MXFP4_CODE_MASK;
	b[2] = rotl(v, 14) & MXFP4_CODE_MASK;
	b[3] = rotl(w, 10) & MXFP4_CODE_MASK;
}

/* A CTA's part: row blocks of gate_up [h0, h0 + n_half) of all tiles' in a row, of which row blocks 2 c and 2 c + 1 are column c. */
struct column_share {
	int h0, n_half;
	bool odd, even; /* h0 is the second half of a column whose first is another CTA's; the last row block a first half */
	int first, n_full; /* whole columns */

	/* n: row blocks of all tiles */
	__device__ __forceinline__ column_share(uint32_t n, uint32_t cta, uint32_t by_grid)
	{
		h0 = divide(n * cta, by_grid);
		const int h1 = divide(n * (cta + 1), by_grid);
		n_half = h1 - h0;
		odd = n_half > 0 && h0 % 2;
		even = n_half > 0 && h1 % 2;
		first = (h0 + 1) / 2;
		n_full = max(h1 / 2 - first, 0);
	}
	__device__ __forceinline__ int n_shared() const { return odd + even; }
	/* Row blocks of gate_up and columns in the order of the work: what is shared first. */
	__device__ __forceinline__ int half_at(int j) const { return j < n_shared() ? (j == 0 && odd ? h0 : h0 + n_half - 1) : 2 * first + j - n_shared(); }
	__device__ __forceinline__ int place_of(int j) const { return j < n_shared() ? j : n_shared() + (j - n_shared()) / 2; }
	__device__ __forceinline__ int column_at(int place) const { return place < n_shared() ? half_at(place) / 2 : first + place - n_shared(); }
	/* Of the first (0) or second half of down's row blocks: columns, and the place of the m-th. */
	__device__ __forceinline__ int columns(int side) const { return n_full + (side ? odd : even); }
	__device__ __forceinline__ int place(int side, int m) const
	{
		const int shared = side ? odd : even;
		return m < shared ? (side ? 0 : odd) : n_shared() + m - shared;
	}
};

#endif
