/* moe_pair_qkv.cuh - the next layer's qkv behind the experts of one token, in the same launch (moe_experts_pair.cu).
 *
 *   q, k, v = dense_out.cuh of (w . rmsnorm(out))     w [n_out, n_embd] bf16     out [n_embd] bf16, the experts' result
 *
 * Memory would idle from the experts' last weight to the qkv kernel's first: while the sums are added up, exchanged and a norm is launched.  Here a warp
 * goes on to fill its ring with rows of w as atoms leave it, and all of them have come by the time `out` is known.
 *   share     CTA b makes row block b of dense_rows.cuh: boxes of 8 rows, 4 rope pairs.  A piece is 128 k of a box, 2 KB; a warp has an equal share of the
 *             CTA's pieces (box, k), in that order: RINGED of them in its ring, the others in registers
 *   exchange  out goes through memory: words of x are EMPTY until their CTA has written them, readers poll them.  Each CTA makes the norm, as rmsnorm.cu does
 *   multiply  mma.sync m16n8k16: the 8 rows of a box are rows 0..7 with the first 64 k of a piece and rows 8..15 with the second; even columns of B hold x for
 *             the first, odd ones for the second.  Lane (g, q) has copied what it multiplies: 16 bytes of row g at 64 s + 16 q, s = 0..3
 * Numerics: a warp adds its pieces in order in fp32, the 16 sums of a row are added in warp order; repeatable for a number of SMs.
 * Cost: n_out x n_embd x 2 bytes, behind the experts'.
 * Test: build/test_cuda_ops moe_qkv    Bench: moxie bench latency --batch 1
 */
#ifndef MOXIE_MOE_PAIR_QKV_CUH
#define MOXIE_MOE_PAIR_QKV_CUH

#include "dense_rows.cuh"
#include "device/ptx.cuh"
#include "device/warp.cuh"
#include "moe_pair_qkv.h"

namespace pair_qkv {

constexpr int RINGED = 5, LATE = 3;       /* most pieces of a warp in its ring, in registers */
constexpr int PIECE = 256;                /* bytes of a row */
__host__ __device__ constexpr int piece_k(bool f8) { return f8 ? 256 : 128; }
constexpr int WARPS = 16;

/* 16 bytes between dst + TO and src + FROM, for once: they leave L2 before all else, which holds the kernels' code, caches and tables. */
constexpr uint64_t ONCE = 0x12F0000000000000; /* what createpolicy makes of L2::evict_first for all */
template <int TO, int FROM> __device__ __forceinline__ void copy_once(uint32_t dst, const void *src)
{
	asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0 + %2], [%1 + %3], 16, %4;" ::"r"(dst), "l"(src), "n"(TO), "n"(FROM), "l"(ONCE) : "memory");
}
/* Zeros where not wanted. */
__device__ __forceinline__ void copy_once_or_zero(uint32_t dst, const void *src, bool wanted)
{
	asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(dst), "l"(src), "r"(wanted ? 16 : 0), "l"(ONCE) : "memory");
}

/* A warp's share of its CTA's pieces. */
struct share {
	int first, n; /* pieces */
	int box, k;   /* of the first */
};
__device__ __forceinline__ share share_of(const moe_pair_qkv &p, int warp)
{
	const int n = (int)blockIdx.x < p.rows.n_tile ? p.rows.n_box * p.n_k : 0;
	share s;
	s.first = n * warp / WARPS, s.n = n * (warp + 1) / WARPS - s.first;
	s.box = s.first / p.n_k, s.k = s.first - s.box * p.n_k;
	return s;
}

/* Walks over a warp's pieces and asks for them. */
struct loader {
	const uint8_t *at; /* this lane's bytes of the next piece */
	int box, k, left;
	__device__ __forceinline__ void seek(const moe_pair_qkv &p, int lane)
	{
		const dense_box b = dense_box_at(&p.rows, (int)blockIdx.x * p.rows.n_box + box);
		const int g = lane / 4, row = min((b.z + g / 4) * (p.out.d_head / 2) + b.y + g % 4, p.out.n_out - 1);
		at = p.w + (size_t)row * p.row_bytes + k * PIECE + lane % 4 * 16;
	}
	__device__ __forceinline__ void begin(const moe_pair_qkv &p, const share &s, int lane)
	{
		box = s.box, k = s.k, left = s.n;
		if (left) seek(p, lane);
	}
	/* Quarters of the next piece that the row still has. */
	__device__ __forceinline__ int quarters(const moe_pair_qkv &p) const { return (p.row_bytes - k * PIECE) / 64; }
	__device__ __forceinline__ void step(const moe_pair_qkv &p, int lane)
	{
		left--, k++, at += PIECE;
		if (k == p.n_k && left) k = 0, box++, seek(p, lane);
	}
	/* to: this lane's 16 bytes of the first 512 of a slot. */
	__device__ __forceinline__ void ring(const moe_pair_qkv &p, uint32_t to, int lane)
	{
		if (left <= 0) return;
		const int have = quarters(p);
#pragma unroll
		for (int s = 0; s < 4; s++)
			copy_once_or_zero(to + s * 512, at + (s < have ? s * 64 : 0), s < have);
		step(p, lane);
	}
	__device__ __forceinline__ void late(const moe_pair_qkv &p, uint4 (&v)[4], int lane)
	{
#pragma unroll
		for (int s = 0; s < 4; s++)
			v[s] = make_uint4(0, 0, 0, 0);
		if (left <= 0) return;
		const int have = quarters(p);
#pragma unroll
		for (int s = 0; s < 4; s++)
			if (s < have)
				asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
				             : "=r"(v[s].x), "=r"(v[s].y), "=r"(v[s].z), "=r"(v[s].w) : "l"(at + s * 64));
		step(p, lane);
	}
};

/* Four codes to two pairs of fp16. */
__device__ __forceinline__ void widen(uint32_t w, uint32_t &lo, uint32_t &hi)
{
	asm("{ .reg .b16 l, h; mov.b32 {l, h}, %2; cvt.rn.f16x2.e4m3x2 %0, l; cvt.rn.f16x2.e4m3x2 %1, h; }" : "=r"(lo), "=r"(hi) : "r"(w));
}

/* d += a piece's product.  v: this lane's part of it; x: the row of B in shared memory, from the piece's first k on. */
template <bool F8> __device__ __forceinline__ void add_piece(float (&d)[2][4], const uint4 (&v)[4], uint32_t x, int lane)
{
	/* Of either half of a piece 64 bytes of codes meet 64 (e4m3: 128) of x. */
	const uint32_t at = x + lane / 4 % 2 * piece_k(F8) + lane % 4 * (F8 ? 32 : 16);
#pragma unroll
	for (int s = 0; s < 2; s++) {
		const uint32_t lo[4] = { v[s].x, v[s].y, v[s].z, v[s].w }, hi[4] = { v[s + 2].x, v[s + 2].y, v[s + 2].z, v[s + 2].w };
		const uint4 xa = lds128(at + s * (F8 ? 128 : 64)), xb = F8 ? lds128(at + s * 128 + 16) : xa;
		if constexpr (F8) { /* word i of a k16: its codes 2 i, 2 i + 1, 2 i + 8, 2 i + 9 (dense_f8.cu) */
			const uint32_t b0[4] = { xa.x, xa.y, xa.z, xa.w }, b1[4] = { xb.x, xb.y, xb.z, xb.w };
#pragma unroll
			for (int i = 0; i < 4; i++) {
				uint32_t a[4];
				widen(lo[i], a[0], a[2]), widen(hi[i], a[1], a[3]);
				mma_f16(d[i % 2], a, b0[i], b1[i]);
			}
		} else {
			const uint32_t a0[4] = { lo[0], hi[0], lo[1], hi[1] }, a1[4] = { lo[2], hi[2], lo[3], hi[3] };
			mma_bf16(d[0], a0, xa.x, xa.y);
			mma_bf16(d[1], a1, xa.z, xa.w);
		}
	}
}

/* Polls out and leaves its norm at xs, in bf16, F8: that as fp16, zeros from n_embd on.  part: one float a warp. */
template <bool F8> __device__ __forceinline__ void take_norm(const moe_pair_qkv &p, int n_embd, uint32_t xs, uint4 weights, float *part)
{
	const int n_vec = n_embd / 8, i = threadIdx.x;
	uint4 u = make_uint4(0, 0, 0, 0);
	if (i < n_vec)
		do
			asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(u.x), "=r"(u.y), "=r"(u.z), "=r"(u.w) : "l"(p.x + i * 4) : "memory");
		while (u.x == MOE_PAIR_EMPTY || u.y == MOE_PAIR_EMPTY || u.z == MOE_PAIR_EMPTY || u.w == MOE_PAIR_EMPTY);
	const uint32_t w[4] = { weights.x, weights.y, weights.z, weights.w };
	uint32_t v[4] = { u.x, u.y, u.z, u.w };
	float sum = 0;
#pragma unroll
	for (int j = 0; j < 4; j++) {
		const float2 f = unpack_bf16(v[j]);
		sum = fmaf(f.x, f.x, sum), sum = fmaf(f.y, f.y, sum);
	}
	sum = warp_sum(sum);
	if (i % 32 == 0) part[i / 32] = sum;
	__syncthreads();
	sum = 0;
#pragma unroll
	for (int j = 0; j < WARPS; j++)
		sum += part[j];
	const float r = 1 / sqrtf(sum / (float)n_embd + p.eps);
#pragma unroll
	for (int j = 0; j < 4; j++) {
		const float2 f = unpack_bf16(v[j]), c = unpack_bf16(w[j]);
		v[j] = pack_bf16(f.x * r * c.x, f.y * r * c.y);
		if constexpr (F8) v[j] = pack_f16(unpack_bf16(v[j]).x, unpack_bf16(v[j]).y);
	}
	if (i < p.n_k * (piece_k(F8) / 8))
		sts128(xs + i * 16, i < n_vec ? make_uint4(v[0], v[1], v[2], v[3]) : make_uint4(0, 0, 0, 0));
	__syncthreads();
}

/* A warp's pieces times x, into sums [box][warp][8 rows].  slot: of the first piece, this lane's; ring, ring_last: the ring's first and last slot. */
template <bool F8>
__device__ __forceinline__ void multiply(const moe_pair_qkv &p, const share &s, uint32_t xs, uint32_t slot, uint32_t ring, uint32_t ring_last, int slot_bytes,
                                         const uint4 (&late)[LATE][4], float *sums, int warp, int lane)
{
	for (int b = 0; b < p.rows.n_box; b++)
		if (lane < 8) sums[(b * WARPS + warp) * 8 + lane] = 0;
	__syncwarp();
	int box = s.box, k = s.k;
	float d[2][4] = {};
	const auto next = [&](int i) { /* after piece i */
		if (++k < p.n_k && i + 1 < s.n) return;
		if (lane % 4 == 0) sums[(box * WARPS + warp) * 8 + lane / 4] = d[0][0] + d[1][0] + (d[0][3] + d[1][3]);
#pragma unroll
		for (int j = 0; j < 4; j++)
			d[0][j] = d[1][j] = 0;
		k = 0, box++;
	};
#pragma unroll 1
	for (int i = 0; i < min(s.n, RINGED); i++) {
		uint4 v[4];
#pragma unroll
		for (int j = 0; j < 4; j++)
			v[j] = lds128(slot + j * 512);
		add_piece<F8>(d, v, xs + k * piece_k(F8) * 2, lane);
		slot = slot == ring_last ? ring : slot + slot_bytes;
		next(i);
	}
#pragma unroll
	for (int i = 0; i < LATE; i++)
		if (RINGED + i < s.n) {
			add_piece<F8>(d, late[i], xs + k * piece_k(F8) * 2, lane);
			next(RINGED + i);
		}
}

/* The output of this thread, and its store. */
__device__ __forceinline__ dense_at output_of(const moe_pair_qkv &p)
{
	const int box = threadIdx.x / 8, row = threadIdx.x % 8;
	dense_at none = {};
	return (int)blockIdx.x < p.rows.n_tile && box < p.rows.n_box && row < 4 ? dense_item_at(p.out, p.rows, blockIdx.x, 0, box * 4 + row).place : none;
}
__device__ __forceinline__ void put(const moe_pair_qkv &p, const dense_at &to, const float *sums)
{
	if ((int)threadIdx.x / 32 * 4 >= p.rows.n_box) return;
	const int box = min((int)threadIdx.x / 8, p.rows.n_box - 1), row = threadIdx.x % 8;
	float v = 0;
#pragma unroll
	for (int w = 0; w < WARPS; w++)
		v += sums[(box * WARPS + w) * 8 + row];
	const float high = __shfl_xor_sync(~0u, v, 4);
	if (to.to) dense_put(to, v, high);
}

}

#endif
