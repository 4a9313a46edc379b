/* moe_portable - one expert product of an MoE layer with nothing newer than sm_80: mma.sync m16n8k16, cp.async, ldmatrix.
 *
 * Launched twice: phase 0 (gate, up, activation -> act), then phase 1 (down -> y).  Maths, tables, weights and results are those of
 * moe_experts_sm90.cuh:
 *   x     [n_tok, n_embd]        bf16 in     act  [n_pair, n_ff]    bf16 scratch, sorted order
 *   w     atoms (moe_layout.h)   u8   in     y    [n_pair, n_embd]  bf16, sorted order, out
 *   row_of_pair [n_pair]         i32  out    tables of moe_layout.h, in; none of their counters is used
 *
 * An item is up to RB row blocks of 64 packed rows x one token tile of up to N rows x the whole K.  A warp owns SL slices of 16 packed
 * rows (a wgmma fragment of one warp is an mma.sync fragment, so the layout serves both) and all tokens of the tile: every code is
 * expanded once per tile.  All threads copy: a warp its own slices' codes and scales, everyone the token rows, gathered by index and
 * swizzled, into a ring of n_stage stages of KT k atoms.  One block barrier a stage.  The ring runs across items, so that the weights
 * of the next item arrive during an epilogue.  n_stage is what the device's shared memory allows (moe_experts.cu): 2 are enough.
 *   SHARE    a CTA owns an equal share of consecutive row blocks (few tokens: what counts is that all SMs read the same number of bytes)
 *   else     items round robin, all row blocks of a tile side by side, so that tiles of one expert share weights in L2
 * Numerics: fp32 sums in k order, one rounding at act, one at y; bitwise repeatable and independent of n_stage and of the grid.
 * Cost: 17/32 B per weight of each expert hit + tokens.
 * Test: MOXIE_TEST_PORTABLE=64 build/cuda/test_moe_experts    Bench: build/cuda/bench_moe --portable
 */
#ifndef MOXIE_MOE_PORTABLE_CUH
#define MOXIE_MOE_PORTABLE_CUH

#include <cuda_bf16.h>

#include "device/mxfp4.cuh"
#include "device/ptx.cuh"
#include "moe_epilogue.cuh"
#include "moe_experts.h"

/* WM x WN warps: a warp has SL slices of 16 rows and 1 / WN of the tile's tokens
 * NMIN, NMAX  n8 blocks of a warp: least and most that the main loop has code for        KT  k atoms of a stage
 * REFILL  0, or the stages of a ring of which a warp asks for a stage again as soon as its codes are in registers: for little shared memory, as it costs
 *         instructions */
template <int WM_, int WN_, int SL_, int NMIN_, int NMAX_, int KT_, bool SHARE_, int REFILL_ = 0> struct portable_shape {
	static const int REFILL = REFILL_;
	static const int WM = WM_, WN = WN_, SL = SL_, NMIN = NMIN_, NMAX = NMAX_, KT = KT_;
	static const bool SHARE = SHARE_;
	static const int THREADS = WM * WN * 32, RB = WM * SL / 4, N = WN * NMAX * 8;
	static const int SETS = SL * NMAX <= 2 ? 2 : 1; /* of sums, even and odd k16 steps: where a step's mma are too few to hide their latency */
	static const int X_ATOM = N * 128, W_ATOM = RB * MOE_ATOM_BYTES, ATOM = X_ATOM + W_ATOM; /* a k atom of a stage: tokens, then weights */
	/* REFILL: a ring of that many stages of weights, and one more of tokens behind it, instead of stages of both.  STAGE: bytes a stage, of tokens for two. */
	static const int W_LAST = REFILL > 1 ? (REFILL - 1) * KT * W_ATOM : 0, X_RING = REFILL * KT * W_ATOM, STAGE = REFILL ? KT * W_ATOM + 2 * KT * X_ATOM : KT * ATOM;
	static const int W_NEXT = REFILL ? W_ATOM : ATOM, X_NEXT = REFILL ? X_ATOM : ATOM, W_FROM = REFILL ? 0 : X_ATOM; /* in a stage */
	/* Token rows of a pass over all threads, passes, and k atoms copied side by side. */
	static const int LOAD_ROWS = N * 8 < THREADS ? N : THREADS / 8, PASS = (N + LOAD_ROWS - 1) / LOAD_ROWS, K_PAR = THREADS / 8 / LOAD_ROWS;
	/* Few tokens: two stages, as large as fit, handed over by block barriers, which take fewest instructions.  Else a deeper ring on
	 * mbarriers, on which warps may drift apart: one expands while its neighbour multiplies. */
	static const bool LOCKSTEP = N <= 16;
	static_assert(SL == 1 || SL == 2 || SL == 4, "slices of a warp lie in one row block");
	static_assert(KT * SL * 2 <= 32, "one lane per 16 bytes of scales");
	static_assert(LOAD_ROWS % 8 == 0 && N * 8 <= THREADS * PASS, "a row keeps its place in the swizzle");
};

struct portable_item {
	int expert, row0, n_row;
	int rb, n_rb; /* row blocks */
};

/* The items of this CTA one after the other; all threads walk the same list. */
template <class C> struct portable_items {
	const struct moe_experts_args &a;
	const struct moe_phase &p;
	int at, end;

	__device__ portable_items(const struct moe_experts_args &args, const struct moe_phase &phase) : a(args), p(phase)
	{
		const int n_tile = __shfl_sync(0xffffffff, __ldcg(&a.head->n_tile), 0); /* tells the compiler that all lanes agree on what follows */
		if (C::SHARE) {
			const int64_t n = (int64_t)n_tile * p.row_blocks;
			at = (int)(n * blockIdx.x / gridDim.x);
			end = (int)(n * (blockIdx.x + 1) / gridDim.x);
		} else {
			at = blockIdx.x;
			end = n_tile * p.n_group;
		}
	}
	__device__ bool next(portable_item &w)
	{
		if (at >= end) return false;
		item(w, at);
		at += C::SHARE ? w.n_rb : gridDim.x;
		return true;
	}
	/* The item that next gave last, once more: cheaper than the registers that hold it. */
	__device__ void again(portable_item &w) const { item(w, at - gridDim.x); }
	__device__ void item(portable_item &w, int ix) const
	{
		const int per_tile = C::SHARE ? p.row_blocks : p.n_group, tile = ix / per_tile;
		const int4 t = __ldcg((const int4 *)a.tiles + tile);
		w.rb = (ix - tile * per_tile) * (C::SHARE ? 1 : C::RB);
		w.n_rb = min(C::RB, p.row_blocks - w.rb);
		if (C::SHARE) w.n_rb = min(w.n_rb, end - ix);
		w.expert = t.x;
		w.row0 = t.y;
		w.n_row = t.z;
	}
};

/* Fills one stage after the other of the ring, item after item.  Barriers of a stage: full (all threads' copies), empty (all warps). */
template <class C> struct portable_loader {
	const struct moe_experts_args &a;
	const struct moe_phase &p;
	portable_items<C> items;
	const uint32_t ring, ring_end;
	const int first;
	uint32_t stage, bar, parity = 1, x_stage;
	int k_left = 0, n_row = 0;
	bool mine = false;
	const uint8_t *w = NULL, *scl = NULL; /* this lane's codes, scales */
	const uint4 *x = NULL;
	int off[C::PASS]; /* of a row of tokens, in 16 bytes */

	__device__ portable_loader(const struct moe_portable_args &q, uint32_t ring_)
	    : a(q.e), p(q.e.p[q.phase]), items(q.e, q.e.p[q.phase]), ring(ring_), ring_end(ring_ + q.n_stage * C::STAGE),
	      first(q.phase == 0), stage(ring_), bar(ring_end), x_stage(ring_ + C::X_RING)
	{
	}
	__device__ bool next_item()
	{
		portable_item it;
		if (!items.next(it)) return false;
		const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = threadIdx.x / 8 % C::LOAD_ROWS, ka = threadIdx.x / 8 / C::LOAD_ROWS;
		const int rb = warp % C::WM * C::SL / 4, slice = warp % C::WM * C::SL % 4;
		k_left = p.k_atoms;
		n_row = ka < C::KT ? it.n_row : 0;
		mine = rb < it.n_rb && warp < C::WM;
		w = p.w + (size_t)(it.expert * p.row_blocks + it.rb + rb) * p.k_atoms * MOE_ATOM_BYTES;
		scl = w + lane / (2 * C::SL) * MOE_ATOM_BYTES + MOE_ATOM_CODES + slice * 32 + lane % (2 * C::SL) * 16;
		w += slice * 512 + lane * 16;
		x = p.src + threadIdx.x % 8 + ka * 8;
#pragma unroll
		for (int j = 0; j < C::PASS; j++) {
			int from = it.row0 + row + j * C::LOAD_ROWS;
			if (first && row + j * C::LOAD_ROWS < it.n_row) {
				const int pair = __ldg(a.sorted_pair + from);
				if (it.rb == 0 && threadIdx.x % 8 == 0 && ka == 0) a.row_of_pair[pair] = from;
				from = pair / a.n_used;
			}
			off[j] = from * p.src_pitch;
		}
		return true;
	}
	/* WHOLE: KT k atoms, else n.  Straight-line code, a copy that is not wanted is predicated off. */
	template <bool WHOLE> __device__ __forceinline__ void copy(int n)
	{
		const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = threadIdx.x / 8 % C::LOAD_ROWS, ka = threadIdx.x / 8 / C::LOAD_ROWS;
		const int rb = warp % C::WM * C::SL / 4, slice = warp % C::WM * C::SL % 4, k_scl = lane / (2 * C::SL);
		const uint32_t to_w = stage + C::W_FROM + rb * MOE_ATOM_BYTES + slice * 512 + lane * 16;
		const uint32_t to_scl = stage + C::W_FROM + rb * MOE_ATOM_BYTES + MOE_ATOM_CODES + slice * 32 + k_scl * C::W_NEXT + lane % (2 * C::SL) * 16;
		const uint32_t to_x = (C::REFILL ? x_stage : stage) + ka * C::X_NEXT + row * 128 + ((threadIdx.x % 8 ^ row % 8) << 4);
		if (WHOLE) n = C::KT;
#pragma unroll
		for (int k = 0; k < C::KT; k++)
#pragma unroll
			for (int s = 0; s < C::SL; s++)
				cp_async16_if(mine && k < n, to_w + k * C::W_NEXT + s * 512, w + k * MOE_ATOM_BYTES + s * 512);
		cp_async16_if(mine && k_scl < n, to_scl, scl);
#pragma unroll
		for (int j = 0; j < C::PASS; j++)
#pragma unroll
			for (int k = 0; k < C::KT; k += C::K_PAR)
				cp_async16_if(row + j * C::LOAD_ROWS < n_row && k + ka < n, to_x + k * C::X_NEXT + j * C::LOAD_ROWS * 128, x + off[j] + k * 8);
	}
	__device__ __forceinline__ void load()
	{
		if (k_left == 0 && !next_item()) {
			if (C::REFILL) cp_async_commit(); /* groups are counted */
			return;
		}
		const int n = min(C::KT, k_left);
		if (!C::LOCKSTEP) mbar_wait(bar + 8, parity);
		if (C::KT == 1 || n == C::KT) copy<true>(n);
		else copy<false>(n);
		if (C::LOCKSTEP) cp_async_commit();
		else cp_async_arrive(bar);
		w += n * MOE_ATOM_BYTES;
		scl += n * MOE_ATOM_BYTES;
		x += n * 8;
		k_left -= n;
		if (C::REFILL) {
			stage = stage == ring + C::W_LAST ? ring : stage + C::KT * C::W_ATOM;
			x_stage = x_stage == ring + C::X_RING + C::REFILL * C::KT * C::X_ATOM ? ring + C::X_RING : x_stage + C::KT * C::X_ATOM;
			return;
		}
		stage += C::STAGE;
		bar += 16;
		if (stage == ring_end) {
			stage = ring;
			bar = ring_end;
			parity ^= 1;
		}
	}
};

/* Where a lane reads in an atom of a stage, and the sums of its warp. */
template <class C> struct portable_math {
	uint32_t codes, scales;   /* of the warp's first slice */
	uint32_t rows; /* its row of ldmatrix: one of 16 tokens, or of 8 for two k16 steps; step st is the exclusive or with 32 st */
	const uint32_t merge;
	float d[C::SETS][C::SL][C::NMAX][4];

	__device__ portable_math(int rb, int slice) : merge(mxfp4_merge_mask())
	{
		const int lane = threadIdx.x % 32;
		codes = keep(C::W_FROM + rb * MOE_ATOM_BYTES + slice * 512 + lane * 16);
		scales = keep(C::W_FROM + rb * MOE_ATOM_BYTES + MOE_ATOM_CODES + slice * 32 + lane / 4 * 4);
		rows = keep(C::NMAX == 1 ? lane % 8 * 128 + ((lane / 8 ^ lane % 8) << 4)
		                         : (lane / 16 * 8 + lane % 8) * 128 + ((lane / 8 % 2 ^ lane % 8) << 4));
	}
	__device__ __forceinline__ void clear()
	{
#pragma unroll
		for (int i = 0; i < C::SETS * C::SL * C::NMAX * 4; i++)
			d[0][0][0][i] = 0;
	}
	struct packed { /* an atom's codes and scales */
		uint4 code[C::SL];
		uint32_t scale[C::SL];
	};
	__device__ __forceinline__ void fetch(packed &p, uint32_t atom) const
	{
#pragma unroll
		for (int i = 0; i < C::SL; i++) {
			p.code[i] = lds128(atom + codes + i * 512);
			p.scale[i] = lds32(atom + scales + i * 32);
		}
	}
	/* d += the atom x NB n8 blocks of tokens from row0 on (bytes). */
	template <int NB> __device__ __forceinline__ void atom(const packed &p, uint32_t at)
	{
#pragma unroll
		for (int h = 0; h < 2; h++) {
			uint32_t frag[C::SL][2][4];
#pragma unroll
			for (int i = 0; i < C::SL; i++) {
				const uint32_t m = (h ? __byte_perm(p.scale[i], 0, 0x2301) : p.scale[i]) & 0x7F807F80u;
				mxfp4_expand(h ? p.code[i].z : p.code[i].x, h ? p.code[i].w : p.code[i].y, twice_low(m), twice_high(m), merge, frag[i][0], frag[i][1]);
			}
			if constexpr (C::NMAX == 1) {
				uint32_t b[4];
				ldmatrix4(b, at + (rows ^ h << 6));
#pragma unroll
				for (int st = 0; st < 2; st++)
#pragma unroll
					for (int i = 0; i < C::SL; i++)
						mma_bf16(d[st % C::SETS][i][0], frag[i][st], b[2 * st], b[2 * st + 1]);
			} else
#pragma unroll
				for (int st = 0; st < 2; st++)
#pragma unroll
					for (int j = 0; j < (NB + 1) / 2; j++) { /* of an odd number's last 16 tokens the second 8 are not used */
						uint32_t b[4];
						ldmatrix4(b, at + (rows ^ (2 * h + st) << 5) + j * 2048);
#pragma unroll
						for (int i = 0; i < C::SL; i++) {
							mma_bf16(d[st % C::SETS][i][2 * j], frag[i][st], b[0], b[1]);
							if (2 * j + 1 < NB) mma_bf16(d[st % C::SETS][i][2 * j + 1], frag[i][st], b[2], b[3]);
						}
					}
		}
	}
	/* One stage of n_k atoms with n_block n8 blocks, LO .. HI. */
	template <int LO, int HI> __device__ __forceinline__ void stage(uint32_t at, uint32_t row0, int n_k, int n_block)
	{
		if constexpr (LO == HI) {
			packed p[2];
			fetch(p[0], at);
			if (C::KT == 1 || n_k == C::KT) { /* codes are read one atom ahead */
#pragma unroll
				for (int k = 0; k < C::KT; k++) {
					if (k + 1 < C::KT) fetch(p[(k + 1) % 2], at + (k + 1) * C::ATOM);
					atom<HI>(p[k % 2], at + row0 + k * C::ATOM);
				}
			} else /* the last atoms of an item */
#pragma unroll 1
				for (int k = 0; k < n_k; k++) {
					atom<HI>(p[0], at + row0);
					at += C::ATOM;
					fetch(p[0], at); /* after the last: not used */
				}
		} else {
			constexpr int MID = LO + (HI - LO) / 2;
			if (n_block <= MID) stage<LO, MID>(at, row0, n_k, n_block);
			else stage<MID + 1, HI>(at, row0, n_k, n_block);
		}
	}
};

/* A slice of phase 0: gate in rows g, up in rows g + 8 -> 8 channels of act from ch on. */
template <int NT>
__device__ __forceinline__ void portable_store_act(const struct moe_experts_args &a, const portable_item &w, const float (&d)[NT][4], float mul,
                                                   const float (&bias)[2], int ch)
{
	const int lane = threadIdx.x % 32;
	__nv_bfloat16 *out = a.act + (size_t)(w.row0 + lane / 4) * a.n_ff + ch + lane % 4 * 2;
#pragma unroll
	for (int j = 0; j < NT; j++) {
		if (8 * j >= w.n_row) break;
		float v[2];
#pragma unroll
		for (int i = 0; i < 2; i++)
			v[i] = moe_act(a, moe_restore(d[j][i], mul, bias[0]), moe_restore(d[j][2 + i], mul, bias[1]));
		const uint32_t p = transpose8(moe_pack_bf16(v[0], v[1]));
		if (8 * j + lane / 4 < w.n_row) *(uint32_t *)out = p;
		out += 8 * (size_t)a.n_ff;
	}
}
/* A slice of phase 1 -> 16 channels of y from ch on. */
template <int NT>
__device__ __forceinline__ void portable_store_y(const struct moe_experts_args &a, const portable_item &w, const float (&d)[NT][4], float mul,
                                                 const float (&bias)[2], int ch)
{
	const int lane = threadIdx.x % 32;
	__nv_bfloat16 *out = (__nv_bfloat16 *)a.y + (size_t)(w.row0 + lane / 4) * a.n_embd + ch + lane % 4 * 2;
#pragma unroll
	for (int j = 0; j < NT; j++) {
		if (8 * j >= w.n_row) break;
		uint32_t v[2];
#pragma unroll
		for (int h = 0; h < 2; h++)
			v[h] = transpose8(moe_pack_bf16(moe_restore(d[j][2 * h], mul, bias[h]), moe_restore(d[j][2 * h + 1], mul, bias[h])));
		if (8 * j + lane / 4 < w.n_row) {
			((uint32_t *)out)[0] = v[0];
			((uint32_t *)out)[4] = v[1];
		}
		out += 8 * (size_t)a.n_embd;
	}
}

template <class C> __global__ void __launch_bounds__(C::THREADS, 1) moe_portable_kernel(const __grid_constant__ struct moe_portable_args q)
{
	extern __shared__ __align__(128) uint8_t raw[];
	const struct moe_experts_args &a = q.e;
	const struct moe_phase &p = a.p[q.phase];
	const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, wn = warp / C::WM, rb = warp % C::WM * C::SL / 4, slice = warp % C::WM * C::SL % 4;
	const uint32_t ring = keep(smem_u32(raw)), ring_end = keep(ring + q.n_stage * C::STAGE);
	if (!C::LOCKSTEP && threadIdx.x < q.n_stage) {
		mbar_init(ring_end + threadIdx.x * 16, C::THREADS);
		mbar_init(ring_end + threadIdx.x * 16 + 8, C::THREADS / 32);
	}
	__syncthreads();
	pdl_launch();
	pdl_wait();
	portable_loader<C> loader(q, ring);
	portable_items<C> items(loader.items);
#pragma unroll 1
	for (int i = 0; i < q.ahead; i++)
		loader.load();

	portable_math<C> math(rb, slice);
	uint32_t stage = ring, bar = ring_end, parity = 0, x_stage = ring + C::X_RING;
	portable_item it;
	while (items.next(it)) {
		/* This warp's tokens, in n8 blocks; the warps of a tile share them evenly. */
		const int n_block = max(C::NMIN, ((it.n_row + 7) / 8 + C::WN - 1) / C::WN), tok0 = wn * n_block * 8;
		const bool mine = rb < it.n_rb && tok0 < it.n_row;
		/* Few tokens: loaded before the product, so that it costs no time after it; else registers are dearer. */
		float mul = 1, bias[C::SL][2] = {};
		const auto factors = [&] {
			mul = ld_const(p.mul + it.expert);
			if (p.bias)
#pragma unroll
				for (int i = 0; i < C::SL; i++) {
					const float *const b = p.bias + (q.phase ? (size_t)it.expert * a.n_embd + (it.rb + rb) * 64 + (slice + i) * 16 + lane / 4
					                                         : ((size_t)it.expert * a.n_ff + (it.rb + rb) * 32 + (slice + i) * 8 + lane / 4) * 2);
					bias[i][0] = ld_const(b);
					bias[i][1] = ld_const(b + (q.phase ? 8 : 1));
				}
		};
		if (C::LOCKSTEP && mine) factors();
		math.clear();
		const int k_atoms = p.k_atoms;
#pragma unroll 1
		for (int k = 0; k < k_atoms; k += C::KT) {
			if constexpr (C::REFILL > 0) {
				cp_async_wait<(C::REFILL > 0 ? C::REFILL - 1 : 0)>();
				__syncthreads();
				typename portable_math<C>::packed now[C::KT];
				if (mine)
#pragma unroll
					for (int i = 0; i < C::KT; i++)
						math.fetch(now[i], stage + i * C::W_ATOM);
				__syncwarp(); /* the scales are read */
				loader.load();
				if (mine)
#pragma unroll
					for (int i = 0; i < C::KT; i++)
						if (i == 0 || k + i < k_atoms) math.template atom<C::NMAX>(now[i], x_stage + i * C::X_ATOM);
				stage = stage == ring + C::W_LAST ? ring : stage + C::KT * C::W_ATOM;
				x_stage = x_stage == ring + C::X_RING + C::REFILL * C::KT * C::X_ATOM ? ring + C::X_RING : x_stage + C::KT * C::X_ATOM;
				continue;
			}
			if (C::LOCKSTEP) {
				cp_async_wait<0>();
				__syncthreads();
			}
			loader.load();
			if (!C::LOCKSTEP) mbar_wait(bar, parity);
			if (mine) math.template stage<C::NMIN, C::NMAX>(stage, tok0 * 128, min(C::KT, k_atoms - k), n_block);
			if (!C::LOCKSTEP) {
				__syncwarp();
				if (lane == 0) mbar_arrive(bar + 8);
				bar += 16;
			}
			stage += C::STAGE;
			if (stage == ring_end) {
				stage = ring;
				bar = ring_end;
				parity ^= 1;
			}
		}
		if (!mine) continue;
		if (!C::LOCKSTEP) {
			if (!C::SHARE) items.again(it);
			factors();
		}
		if constexpr (C::SETS == 2)
#pragma unroll
			for (int i = 0; i < C::SL * C::NMAX * 4; i++)
				math.d[0][0][0][i] += math.d[1][0][0][i];
		it.row0 += tok0;
		it.n_row = min(it.n_row - tok0, n_block * 8);
#pragma unroll
		for (int i = 0; i < C::SL; i++)
			if (q.phase == 0) portable_store_act(a, it, math.d[0][i], mul, bias[i], (it.rb + rb) * 32 + (slice + i) * 8);
			else portable_store_y(a, it, math.d[0][i], mul, bias[i], (it.rb + rb) * 64 + (slice + i) * 16);
	}
}

#endif
