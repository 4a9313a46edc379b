/* moe_experts_sm90 - both expert products of an MoE layer in one persistent launch: MXFP4 weights, bf16 tokens.
 *
 * For sorted row r (pair p = sorted_pair[r] = t * k + slot, expert e):
 *   phase 0   g = W_gate[e] . x[t] + b_gate,  u = W_up[e] . x[t] + b_up
 *             act[r] = g' * sigmoid(g' (c1 + c3 g'^2)) * (u' + beta),  g' = min(g, limit),  u' = clamp(u, -limit, limit)
 *   phase 1   y[r] = W_down[e] . act[r] + b_down
 *
 *   x     [n_tok, n_embd]        bf16 in     act  [n_pair, n_ff]            bf16 scratch, sorted order
 *   w     atoms (moe_layout.h)   u8   in     y    [n_split, n_pair, n_embd] bf16, or fp32 where C::LOOSE; sorted order, out
 *   row_of_pair [n_pair]         i32  out    the sorted row of a pair
 *   tables of moe_layout.h, in; tiles[].done is counted up from 0
 *
 * Weights are the M operand (64 rows an instruction), tokens are N.  An item is RB row blocks of 64 rows x one token tile x
 * the whole K (or a fixed part of it).  Items are claimed in order, all of phase 0 before phase 1, so that whoever waits for
 * a tile of phase 0 waits for CTAs that are running.  A CTA has two or four math warpgroups and four producer warps:
 *   warp 0     fills the ring with weights by bulk copies; it waits for nothing but ring space, so at the border of the
 *              phases the next weights are already on their way while warps 1, 2 wait for tiles[].done
 *   warps 1, 2 gather token rows with cp.async and swizzle them; a stage is full when the copies have landed.  (No proxy fence
 *              between cp.async and wgmma: it cost 6 % on the math side, and public cp.async + wgmma main loops have none)
 *   warp 3     works out the items ahead of their use, and counts tiles[].done when the math warps have stored one: the
 *              memory barrier that this needs would cost the math warps a microsecond an item
 *   A warpgroup owns MT row blocks of its item.
 * Numerics: fp32 accumulation in k order, one rounding at act, one at y; bitwise repeatable.  exp by ex2.approx (2 ulp).
 * Cost: 17/32 B per weight of each expert hit + tokens; floor = bytes / 4.3 TB/s or 6 n_pair n_embd n_ff / 790 TFLOP/s (H200).
 * Test: build/cuda/test_moe_experts    Bench: build/cuda/bench_moe
 */
#ifndef MOXIE_MOE_EXPERTS_SM90_CUH
#define MOXIE_MOE_EXPERTS_SM90_CUH

#include <cuda_bf16.h>

#include "device/mxfp4.cuh"
#include "device/ptx.cuh"
#include "device/wgmma.cuh"
#include "moe_epilogue.cuh"
#include "moe_experts.h"

/* WGS  math warpgroups                             NMIN, NMAX, NSTEP   instruction widths; NMAX = most tokens of a tile
 *                                                  NMID    widths up to this have a loop of their own; 0: one loop for all
 * MT   row blocks of a warpgroup                   STAGES  ring depth: 3-4 stages of 34 KB of weights keep HBM busy; wide tiles,
 *                                                          bound by multiplying, make do with 2
 * KT   k atoms of a stage                          LOOSE   an item is any up to four row blocks, each with its own tokens */
template <int WGS_, int MT_, bool LOOSE_, int KT_, int STAGES_, int NMIN_, int NMID_, int NMAX_, int NSTEP_> struct moe_shape {
	static const int WGS = WGS_, MT = MT_, KT = KT_, STAGES = STAGES_, NMIN = NMIN_, NMID = NMID_, NMAX = NMAX_, NSTEP = NSTEP_;
	static const bool LOOSE = LOOSE_;
	static const int RB = MT * WGS;                        /* row blocks of an item */
	static const int UNITS = LOOSE ? RB : 1;               /* token tiles of an item */
	static const int X_TILE = NMAX * 128;                  /* one k atom of a token tile */
	static const int X_UNIT = KT * X_TILE, X_STAGE = UNITS * X_UNIT, W_STAGE = RB * KT * MOE_ATOM_BYTES;
	static const int QUEUE = 2;                            /* items worked out ahead */
	static const int ASK = 2;                              /* the next item is claimed this many stages before the last one is loaded */
	static const int HALVES = NMAX > 32 ? 1 : 2;           /* half items an SM: half of the warpgroups take 2/3 of a whole one's time */
	static const int WORK = UNITS * 32;                    /* bytes of an item in the queue */
	static const int SMEM = 1024 + STAGES * (X_STAGE + W_STAGE) + STAGES * 16 + QUEUE * (WORK + 32);
	/* Clocks by which warpgroup 1 starts late, to multiply while the other stores; gained 0.6 % at 4096 tokens on an H200. */
	static const int SKEW = WGS == 2 ? 3000 : 0;
	static const int MATH = WGS * 128, THREADS = MATH + 128, GATHER = 64;
	/* Shares of the registers given at launch: 96 x 5 warpgroups = 104 x 4 + 64 = 112 x 4 + 32; 168 x 3 = 224 x 2 + 56. */
	static const int MATH_REGS = WGS == 2 ? 224 : NMAX > 40 ? 112 : 104, PRODUCER_REGS = WGS == 2 ? 56 : NMAX > 40 ? 32 : 64;
	static_assert(SMEM <= 227 * 1024, "shared memory");
	static_assert((NMAX - NMIN) % NSTEP == 0, "widths");
	static_assert(MT == 1 || (MT == 2 && !LOOSE), "one row block, in pairs of k atoms, or two");
	static_assert(W_STAGE % 16 == 0 && X_TILE % 1024 == 0, "alignment of bulk copies and swizzled tiles");
};

/* ---- the items ------------------------------------------------------------------------------------------------------ */
struct moe_work {
	int phase;               /* 0, 1; -1: no more work */
	int tile, rb;            /* rb: first row block */
	int part;                /* LOOSE: part of K; else: the row block after the last */
	int expert, row0, n_row; /* n_row 0: nothing for this warpgroup (LOOSE) */
	int n_k;                 /* k atoms */
};

/* Item ix of a phase that is dealt tile by tile, then part of K by part, then by `step` row blocks.  near: tile number `lane`;
 * rows: `part` is the row block after the last. */
__device__ __forceinline__ moe_work moe_work_of(const struct moe_experts_args &a, const int4 &near, bool rows, int phase, int ix, int step)
{
	moe_work w = {};
	const struct moe_phase &p = a.p[phase];
	const int n_group = (p.row_blocks + step - 1) / step;
	w.phase = phase;
	w.tile = ix / (n_group * p.n_split);
	ix -= w.tile * n_group * p.n_split;
	w.part = ix / n_group;
	w.rb = (ix - w.part * n_group) * step;
	int4 t;
	t.x = __shfl_sync(0xffffffff, near.x, w.tile);
	t.y = __shfl_sync(0xffffffff, near.y, w.tile);
	t.z = __shfl_sync(0xffffffff, near.z, w.tile);
	if (w.tile >= 32) t = __ldcg((const int4 *)(a.tiles + w.tile));
	w.expert = t.x;
	w.row0 = t.y;
	w.n_row = t.z;
	w.n_k = p.k_atoms * (w.part + 1) / p.n_split - p.k_atoms * w.part / p.n_split;
	if (rows) w.part = min(w.rb + step, p.row_blocks);
	return w;
}

/* The ring of stages and the queue of items, as one role sees them.  Barriers: stage full, stage empty; item known,
 * stored, wanted. */
template <class C> struct moe_ring {
	uint32_t x, w, bars, queue;
	int s = 0, parity = 0, item = 0;
	__device__ uint32_t full() const { return bars + s * 16; }
	__device__ uint32_t empty() const { return bars + s * 16 + 8; }
	__device__ uint32_t known(int i) const { return bars + C::STAGES * 16 + i % C::QUEUE * 32; }
	__device__ uint32_t stored(int i) const { return known(i) + 8; }
	__device__ uint32_t wanted(int i) const { return known(i) + 16; }
	__device__ void next()
	{
		if (++s == C::STAGES) {
			s = 0;
			parity ^= 1;
		}
	}
	__device__ moe_work work(int unit) const
	{
		const uint32_t at = queue + item % C::QUEUE * C::WORK + unit * 32;
		const uint4 u = lds128(at), v = lds128(at + 16);
		return { (int)u.x, (int)u.y, (int)u.z, (int)u.w, (int)v.x, (int)v.y, (int)v.z, (int)v.w };
	}
	__device__ void wait_work() const { mbar_wait(known(item), item / C::QUEUE & 1); }
};

/* ---- producers ---------------------------------------------------------------------------------------------------- */
/* The items of this CTA, one after the other; a warp calls it together, lane l answers for unit l.
 * LOOSE: a CTA has an equal share of consecutive row blocks of each phase, four at a time.  Else the first item is fixed and the
 * rest are claimed from a counter, late, while the last stages of the one before are being loaded: SMs differ in speed by several
 * per cent, and whoever claims early holds items at the end that others are free for.  What an item computes does not depend on
 * who computes it. */
template <class C> struct moe_dealer {
	const struct moe_experts_args &a;
	const int n_tile;
	const int4 near; /* tile number `lane`: read together with n_tile, so that the first items cost one round trip */
	int phase = 0, at, end;

	__device__ moe_dealer(const struct moe_experts_args &args)
	    : a(args), n_tile(__ldcg(&args.head->n_tile)), near(__ldcg((const int4 *)(args.tiles + min((int)threadIdx.x % 32, args.max_tile - 1))))
	{
		share();
	}
	__device__ void share()
	{
		const int64_t n = (int64_t)n_tile * a.p[phase].row_blocks * a.p[phase].n_split;
		at = (int)(n * blockIdx.x / gridDim.x);
		end = (int)(n * (blockIdx.x + 1) / gridDim.x);
	}
	__device__ moe_work get(int i)
	{
		const int lane = threadIdx.x % 32;
		moe_work w = {};
		if constexpr (C::LOOSE) {
			while (at == end && phase < 2)
				if (++phase < 2) share();
			w.phase = -1;
			if (phase == 2) return w;
			const bool some = at + lane < end;
			w = moe_work_of(a, near, !C::LOOSE, phase, min(at + lane, end - 1), 1);
			const int n_k = __shfl_sync(0xffffffff, w.n_k, 0);
			/* Parts of K may differ by an atom: such blocks do not share an item. */
			const uint32_t same = __ballot_sync(0xffffffff, some && w.n_k == n_k && lane < C::UNITS);
			const int n = __ffs(~same) - 1;
			if (lane >= n) w.n_row = 0;
			w.n_k = n_k;
			at += n;
		} else {
			int ix = blockIdx.x;
			if (i > 0) {
				if (lane == 0) ix = gridDim.x + atomicAdd(&a.head->zero[0], 1);
				ix = __shfl_sync(0xffffffff, ix, 0);
			}
			/* The last items, HALVES an SM or more in whole tiles, are half as long, so that the SMs end together. */
			constexpr int HALF = C::RB / 2;
			const int half_groups = (a.p[1].row_blocks + HALF - 1) / HALF, n_half = min(n_tile, (C::HALVES * (int)gridDim.x + half_groups - 1) / half_groups);
			const int n0 = n_tile * a.p[0].n_group, n1 = (n_tile - n_half) * a.p[1].n_group, n2 = n_half * half_groups;
			if (ix < n0) w = moe_work_of(a, near, !C::LOOSE, 0, ix, C::RB);
			else if (ix < n0 + n1) w = moe_work_of(a, near, !C::LOOSE, 1, ix - n0, C::RB);
			else if (ix < n0 + n1 + n2) w = moe_work_of(a, near, !C::LOOSE, 1, ix - n0 - n1 + (n_tile - n_half) * half_groups, HALF);
			else w.phase = -1;
		}
		return w;
	}
};

/* Works items out and counts stored ones; one warp.  LOOSE items are fixed and short: worked out one item earlier. */
template <class C> __device__ void moe_deal_items(const struct moe_experts_args &a, moe_ring<C> ring)
{
	const int lane = threadIdx.x % 32;
	moe_dealer<C> dealer(a);
	int tile[C::QUEUE]; /* of this lane's unit of the items in the queue; -1: nothing to count; NONE: not yet used; END */
	const int NONE = -2, END = -3;
	bool ended = false;
#pragma unroll
	for (int i = 0; i < C::QUEUE; i++)
		tile[i] = NONE;
	for (int i0 = 0, more = 1; more; i0 += C::QUEUE)
#pragma unroll
		for (int q = 0; q < C::QUEUE; q++) {
			const int i = i0 + q;
			moe_work w = {};
			if (tile[q] == END) more = 0; /* dealt a round ago: all items are stored */
			if (C::LOOSE && more) w = dealer.get(i);
			if (tile[q] >= -1) {
				mbar_wait(ring.stored(i), (i / C::QUEUE - 1) & 1);
				if (lane < C::UNITS && tile[q] >= 0) red_release(&a.tiles[tile[q]].done, 1);
				__syncwarp();
			}
			if (more) {
				if (!C::LOOSE) {
					if (i > 0 && !ended) mbar_wait(ring.wanted(i), (i - 1) / C::QUEUE & 1);
					w = dealer.get(i);
				}
				if (lane < C::UNITS) {
					const uint32_t at = ring.queue + q * C::WORK + lane * 32;
					sts128(at, make_uint4(w.phase, w.tile, w.rb, w.part));
					sts128(at + 16, make_uint4(w.expert, w.row0, w.n_row, w.n_k));
				}
				__syncwarp();
				if (lane == 0) mbar_arrive(ring.known(i));
				ended = w.phase < 0;
				tile[q] = ended ? END : w.phase == 0 && w.n_row > 0 ? w.tile : -1;
			}
		}
}

/* Before routing has run: where experts without tokens are rare, tile i is most likely of expert i, and this CTA's first item known.  What
 * the ring holds of it is asked for while HBM is idle; a wrong guess costs as much traffic, and nothing else. */
template <class C> __device__ void moe_prefetch(const struct moe_experts_args &a)
{
	const struct moe_phase &p = a.p[0];
	const int expert = blockIdx.x / p.n_group, rb = (blockIdx.x - expert * p.n_group) * C::RB + threadIdx.x % 32;
	if (expert < a.n_likely && threadIdx.x % 32 < C::RB && rb < p.row_blocks)
		bulk_prefetch(p.w + (size_t)(expert * p.row_blocks + rb) * p.k_atoms * MOE_ATOM_BYTES, min(p.k_atoms, C::STAGES * C::KT) * MOE_ATOM_BYTES);
}

template <class C> __device__ void moe_load_weights(const struct moe_experts_args &a, moe_ring<C> ring)
{
	const int lane = threadIdx.x % 32;
	const uint64_t policy = a.read_once ? l2_evict_first() : l2_evict_normal();
	for (;; ring.item++) {
		ring.wait_work();
		const moe_work w = ring.work(C::LOOSE ? lane % C::UNITS : 0);
		if (w.phase < 0) break;
		const struct moe_phase &p = a.p[w.phase];
		const int k0 = C::LOOSE ? p.k_atoms * w.part / p.n_split : 0, rb = w.rb + (C::LOOSE ? 0 : lane);
		const bool mine = lane < C::RB && (C::LOOSE ? w.n_row > 0 : rb < w.part);
		const int n_block = __popc(__ballot_sync(0xffffffff, mine));
		const uint8_t *src = p.w + ((size_t)(w.expert * p.row_blocks + rb) * p.k_atoms + k0) * MOE_ATOM_BYTES;
		const int k_ask = max((w.n_k - 1) / C::KT - C::ASK, 0) * C::KT;
		for (int k = 0; k < w.n_k; k += C::KT) {
			const int bytes = min(C::KT, w.n_k - k) * MOE_ATOM_BYTES;
			if (!C::LOOSE && k == k_ask && lane == 0) mbar_arrive(ring.wanted(ring.item + 1));
			mbar_wait(ring.empty(), ring.parity ^ 1);
			if (lane == 0) mbar_expect(ring.full(), n_block * bytes);
			__syncwarp();
			if (mine) bulk_load(ring.w + ring.s * C::W_STAGE + lane * C::KT * MOE_ATOM_BYTES, src, bytes, ring.full(), policy);
			src += bytes;
			ring.next();
		}
	}
}

template <class C> __device__ void moe_gather_tokens(const struct moe_experts_args &a, moe_ring<C> ring)
{
	constexpr int PASS = C::NMAX / 8; /* 8 rows a pass */
	const int t = threadIdx.x - (C::MATH + 32), chunk = t & 7, row = t >> 3; /* 16-byte chunk of a row's atom */
	const uint32_t dst0 = ring.x + row * 128 + ((chunk ^ row) << 4);
	int ready = -1;
	for (;; ring.item++) {
		ring.wait_work();
		uint32_t off[C::UNITS][PASS]; /* in 16 bytes */
		int n_row[C::UNITS], phase = -1, n_k = 0;
		const uint4 *src = NULL;
#pragma unroll
		for (int u = 0; u < C::UNITS; u++) {
			const moe_work w = ring.work(u);
			if (w.phase < 0) {
				cp_async_wait<0>();
				return;
			}
			const struct moe_phase &p = a.p[w.phase];
			phase = w.phase;
			n_k = w.n_k;
			n_row[u] = w.n_row;
			src = p.src + chunk;
#pragma unroll
			for (int j = 0; j < PASS; j++) {
				int from = w.row0 + row + 8 * j;
				if (phase == 0 && row + 8 * j < w.n_row) {
					const int pair = a.sorted_pair[from];
					if (w.rb == 0 && chunk == 0) a.row_of_pair[pair] = from;
					from = pair / a.n_used;
				}
				off[u][j] = from * p.src_pitch + (C::LOOSE ? p.k_atoms * w.part / p.n_split * 8 : 0);
			}
			if (phase && w.n_row > 0 && ready != w.tile) { /* the rows of act must be complete */
				if (t % 32 == 0)
					while (ld_acquire(&a.tiles[w.tile].done) < a.p[0].n_group)
						;
				__syncwarp();
				ready = w.tile;
			}
		}
		for (int k = 0; k < n_k; k += C::KT) {
			const uint32_t dst = dst0 + ring.s * C::X_STAGE;
			mbar_wait(ring.empty(), ring.parity ^ 1);
#pragma unroll
			for (int u = 0; u < C::UNITS; u++)
				if (n_k - k >= C::KT) {
#pragma unroll
					for (int j = 0; j < PASS; j++)
						if (row + 8 * j < n_row[u]) {
							const uint4 *from = src + off[u][j];
#pragma unroll
							for (int ka = 0; ka < C::KT; ka++)
								cp_async16(dst + u * C::X_UNIT + j * 1024 + ka * C::X_TILE, from + ka * 8);
						}
				} else
					for (int ka = 0; ka < n_k - k; ka++)
#pragma unroll
						for (int j = 0; j < PASS; j++)
							if (row + 8 * j < n_row[u]) cp_async16(dst + u * C::X_UNIT + j * 1024 + ka * C::X_TILE, src + off[u][j] + ka * 8);
			cp_async_arrive(ring.full());
			src += C::KT * 8;
			ring.next();
		}
	}
}

/* ---- math --------------------------------------------------------------------------------------------------------- */
/* d += fragments x tokens with the narrowest instruction of LO, LO + STEP .. HI that holds n_row tokens.  A loop serves several
 * widths: with a loop for each, ptxas runs out of registers from the third on (C7512).  Fence and commit stand in each branch, next to
 * their wgmma, or ptxas adds its own (C7519).  ONE, a loop of one width: steps of k are added to the whole descriptor, which leaves one
 * instruction for each; between branches it would cost more. */
template <int LO, int HI, int STEP, bool ONE, int NR>
__device__ __forceinline__ void moe_wgmma_atom(float (&d)[NR], const uint32_t (&frag)[4][4], uint32_t desc, int n_row)
{
	if constexpr (LO == HI) {
		wgmma_fence();
#pragma unroll
		for (int k = 0; k < 4; k++)
			wgmma<HI>::rs(*(float(*)[HI / 2]) & d, frag[k], ONE ? wgmma_desc(desc) + 2 * k : wgmma_desc(desc + 2 * k));
		wgmma_commit();
	} else {
		constexpr int MID = LO + (HI - LO) / STEP / 2 * STEP;
		if (n_row <= MID) moe_wgmma_atom<LO, MID, STEP, ONE>(d, frag, desc, n_row);
		else moe_wgmma_atom<MID + STEP, HI, STEP, ONE>(d, frag, desc, n_row);
	}
}

/* One item's product: d[m] += W x over n_k atoms.  Atoms are taken in pairs, one per fragment set, so that a set is rewritten
 * only after its instructions have retired (wait 1).  MT = 2: a pair is one k atom of the two row blocks; MT = 1: two k atoms
 * of the one row block.  Two pairs in a row: a stage of k 256 of MT = 1, so that all addresses in it are constants (78
 * instructions an atom, 66 of them not for descriptors, instead of 84 and 75).  k atoms that do not fill a stage go one by one. */
template <class C, int LO, int HI, int NR>
__device__ __forceinline__ void moe_multiply(float (&d)[C::MT][NR], moe_ring<C> &ring, int n_k, int n_row, int wg, int t)
{
	constexpr int ATOM = MOE_ATOM_BYTES;
	constexpr bool ALONG_K = C::MT == 1;
	constexpr int W_STEP = ALONG_K ? ATOM : C::KT * ATOM, W_PAIR = ALONG_K ? 2 * ATOM : ATOM;
	constexpr int X_STEP = ALONG_K ? C::X_TILE : 0, X_PAIR = ALONG_K ? 2 * C::X_TILE : C::X_TILE;
	const uint32_t base = ring.w + wg * C::MT * C::KT * ATOM;
	const uint32_t codes = base + t * 16, scales = base + MOE_ATOM_CODES + (t / 32 * 8 + t % 32 / 4) * 4;
	const uint32_t desc0 = wgmma_desc_low(ring.x + (C::LOOSE ? wg * C::X_UNIT : 0));
	const auto release = [&](int stage) {
		__syncwarp();
		if (t % 32 == 0) mbar_arrive(ring.bars + stage * 16 + 8);
	};
	const auto wait_full = [&] { mbar_wait(ring.full(), ring.parity); };
	constexpr int PAIRS = ALONG_K ? C::KT / 2 : C::KT;
	const int n_full = n_k / C::KT, left = n_k - n_full * C::KT;

#pragma unroll
	for (int m = 0; m < C::MT; m++)
#pragma unroll
		for (int i = 0; i < HI / 2; i++)
			d[m][i] = 0;
	const uint32_t merge = mxfp4_merge_mask();
	uint32_t frag[2][4][4];
	uint4 code[2];
	uint32_t scale[2];
	int last = -1;
	if (n_full > 0) { /* codes are read one pair ahead of their use */
		wait_full();
#pragma unroll
		for (int j = 0; j < 2; j++) {
			code[j] = lds128(codes + ring.s * C::W_STAGE + j * W_STEP);
			scale[j] = lds32(scales + ring.s * C::W_STAGE + j * W_STEP);
		}
	}
#pragma unroll 1
	for (int st = 0; st < n_full; st++) {
		const int now = ring.s;
		/* Only the low word of a descriptor changes; the shuffle tells the compiler that it is the same in all lanes. */
		const uint32_t desc = __shfl_sync(0xffffffff, desc0 + now * (C::X_STAGE / 16), 0);
		const uint32_t at_c = codes + now * C::W_STAGE, at_s = scales + now * C::W_STAGE;
#pragma unroll C::NMAX > 120 ? 2 : PAIRS
		for (int pair = 0; pair < PAIRS; pair++) {
			mxfp4_expand_atom(code[0], scale[0], merge, frag[0]);
			moe_wgmma_atom<LO, HI, C::NSTEP, LO == HI>(d[0], frag[0], desc + pair * (X_PAIR / 16), n_row);
			wgmma_wait<1>();
			if (pair == 0 && last >= 0) release(last);
			uint32_t next_c = at_c + (pair + 1) * W_PAIR, next_s = at_s + (pair + 1) * W_PAIR;
			if (pair == PAIRS - 1) {
				ring.next();
				next_c = codes + ring.s * C::W_STAGE;
				next_s = scales + ring.s * C::W_STAGE;
				if (st + 1 < n_full) wait_full();
			}
			code[0] = lds128(next_c); /* after the last stage: not used */
			scale[0] = lds32(next_s);
			mxfp4_expand_atom(code[1], scale[1], merge, frag[1]);
			moe_wgmma_atom<LO, HI, C::NSTEP, LO == HI>(d[C::MT - 1], frag[1], desc + (pair * X_PAIR + X_STEP) / 16, n_row);
			code[1] = lds128(next_c + W_STEP);
			scale[1] = lds32(next_s + W_STEP);
			wgmma_wait<1>();
		}
		last = now;
	}
	wgmma_wait<0>();
#pragma unroll
	for (int m = 0; m < C::MT; m++)
		pin(*(float(*)[HI / 2]) & d[m]);
	if (left) {
		if (last >= 0) release(last);
		wait_full();
		last = ring.s;
		ring.next();
#pragma unroll 1
		for (int k = 0; k < left; k++) {
			const uint32_t at = last * C::W_STAGE + k * ATOM;
			const uint32_t desc = __shfl_sync(0xffffffff, desc0 + last * (C::X_STAGE / 16) + k * (C::X_TILE / 16), 0);
#pragma unroll
			for (int m = 0; m < C::MT; m++) {
				code[0] = lds128(codes + at + m * C::KT * ATOM);
				scale[0] = lds32(scales + at + m * C::KT * ATOM);
				mxfp4_expand_atom(code[0], scale[0], merge, frag[0]);
				moe_wgmma_atom<LO, HI, C::NSTEP, LO == HI>(d[m], frag[0], desc, n_row);
				wgmma_wait<0>();
				pin(*(float(*)[HI / 2]) & d[m]);
			}
		}
	}
	release(last);
}

/* A stage that holds nothing for this warpgroup (last item of a matrix whose row blocks are no multiple of 4). */
template <class C> __device__ void moe_skip(moe_ring<C> &ring, int n_k, int t)
{
	for (int k = 0; k < n_k; k += C::KT) {
		mbar_wait(ring.full(), ring.parity);
		__syncwarp();
		if (t % 32 == 0) mbar_arrive(ring.empty());
		ring.next();
	}
}

/* A value the compiler cannot compute ahead: keeps it from hoisting one copy per width out of the item loop, which costs
 * the main loops their registers (C7512). */
__device__ __forceinline__ int opaque(int v)
{
	asm volatile("" : "+r"(v));
	return v;
}

/* What the epilogue needs of an expert: loaded before the main loop, so that it costs no time after it. */
struct moe_factors {
	float mul, bias[2][2]; /* [m][row g, row g + 8] */
};
template <class C> __device__ __forceinline__ moe_factors moe_load_factors(const struct moe_experts_args &a, const moe_work &w, int rb, int t)
{
	const struct moe_phase &p = a.p[w.phase];
	const int g = t % 32 / 4;
	moe_factors f;
	f.mul = ld_const(p.mul + w.expert);
#pragma unroll
	for (int m = 0; m < C::MT; m++) {
		f.bias[m][0] = f.bias[m][1] = 0;
		if (p.bias && (C::LOOSE ? w.part == 0 : rb + m < w.part)) {
			const float *b = p.bias + (w.phase ? (size_t)w.expert * a.n_embd + (rb + m) * 64 + t / 32 * 16 + g
			                                   : ((size_t)w.expert * a.n_ff + (rb + m) * 32 + t / 32 * 8 + g) * 2);
			f.bias[m][0] = ld_const(b);
			f.bias[m][1] = ld_const(b + (w.phase ? 8 : 1));
		}
	}
	return f;
}

/* Row block rb of phase 0: gate in rows g, up in rows g + 8 -> 32 channels of act. */
template <int N> __device__ __forceinline__ void moe_store_act(const struct moe_experts_args &a, const moe_work &w, float (&d)[N / 2], float mul,
                                                               const float (&bias)[2], int rb, int t)
{
	const int lane = t % 32, ch = rb * 32 + t / 32 * 8, stride = opaque(8 * a.n_ff);
	__nv_bfloat16 *out = a.act + (size_t)(w.row0 + lane / 4) * a.n_ff + ch + lane % 4 * 2;
#pragma unroll
	for (int j = 0; j < N / 8; j++) {
		if (8 * j >= w.n_row) break;
		float v[2];
#pragma unroll
		for (int i = 0; i < 2; i++)
			v[i] = moe_act(a, moe_restore(d[4 * j + i], mul, bias[0]), moe_restore(d[4 * j + 2 + i], mul, bias[1]));
		const uint32_t p = transpose8(moe_pack_bf16(v[0], v[1]));
		if (8 * j + lane / 4 < w.n_row) *(uint32_t *)out = p;
		out += stride;
	}
}

/* Row block rb of phase 1 -> 64 channels of y. */
template <int N, bool F32> __device__ __forceinline__ void moe_store_y(const struct moe_experts_args &a, const moe_work &w, float (&d)[N / 2],
                                                                       float mul, const float (&bias)[2], int rb, int t)
{
	const int lane = t % 32, ch = rb * 64 + t / 32 * 16, stride = opaque(8 * a.n_embd);
	if constexpr (F32) {
		float *out = (float *)a.y + ((size_t)w.part * a.n_pair + w.row0 + lane % 4 * 2) * a.n_embd + ch + lane / 4;
#pragma unroll
		for (int j = 0; j < N / 8; j++) {
#pragma unroll
			for (int i = 0; i < 2; i++)
				if (8 * j + lane % 4 * 2 + i < w.n_row) {
					out[i * a.n_embd] = moe_restore(d[4 * j + i], mul, bias[0]);
					out[i * a.n_embd + 8] = moe_restore(d[4 * j + 2 + i], mul, bias[1]);
				}
			out += stride;
		}
	} else {
		__nv_bfloat16 *out = (__nv_bfloat16 *)a.y + (size_t)(w.row0 + lane / 4) * a.n_embd + ch + lane % 4 * 2;
#pragma unroll
		for (int j = 0; j < N / 8; j++) {
			if (8 * j >= w.n_row) break;
			uint32_t v[2];
#pragma unroll
			for (int h = 0; h < 2; h++)
				v[h] = transpose8(moe_pack_bf16(moe_restore(d[4 * j + 2 * h], mul, bias[h]), moe_restore(d[4 * j + 2 * h + 1], mul, bias[h])));
			if (8 * j + lane / 4 < w.n_row) {
				((uint32_t *)out)[0] = v[0];
				((uint32_t *)out)[4] = v[1];
			}
			out += stride;
		}
	}
}

/* The product: by one of two loops, each for some of the widths. */
template <class C, int NR> __device__ __forceinline__ void moe_multiply_width(float (&d)[C::MT][NR], moe_ring<C> &ring, int n_k, int n_row, int wg, int t)
{
	if constexpr (C::NMIN < C::NMAX && C::NMID > 0) {
		if (n_row <= C::NMID) moe_multiply<C, C::NMIN, C::NMID>(d, ring, n_k, n_row, wg, t);
		else moe_multiply<C, C::NMID + C::NSTEP, C::NMAX>(d, ring, n_k, n_row, wg, t);
	} else
		moe_multiply<C, C::NMIN, C::NMAX>(d, ring, n_k, n_row, wg, t);
}

template <class C> __device__ __forceinline__ void moe_item(const struct moe_experts_args &a, const moe_work &w, moe_ring<C> &ring, int wg, int t)
{
	const int rb = w.rb + (C::LOOSE ? 0 : wg * C::MT);
	const moe_factors f = moe_load_factors<C>(a, w, rb, t);
	float d[C::MT][C::NMAX / 2];
	moe_multiply_width<C>(d, ring, w.n_k, w.n_row, wg, t);
	/* The item is read again rather than kept in registers over the main loop. */
	const moe_work v = ring.work(C::LOOSE ? wg : 0);
	const int rb1 = v.rb + (C::LOOSE ? 0 : wg * C::MT);
#pragma unroll
	for (int m = 0; m < C::MT; m++)
		if (C::LOOSE || rb1 + m < v.part) {
			if (v.phase == 0) moe_store_act<C::NMAX>(a, v, d[m], f.mul, f.bias[m], rb1 + m, t);
			else moe_store_y<C::NMAX, C::LOOSE>(a, v, d[m], f.mul, f.bias[m], rb1 + m, t);
		}
}

template <class C> __global__ void __launch_bounds__(C::THREADS, 1) moe_experts_sm90_kernel(const __grid_constant__ struct moe_experts_args a)
{
	extern __shared__ __align__(1024) uint8_t raw[];
	const uint32_t base = (smem_u32(raw) + 1023) & ~1023u;
	moe_ring<C> ring;
	ring.x = base;
	ring.w = ring.x + C::STAGES * C::X_STAGE;
	ring.queue = ring.w + C::STAGES * C::W_STAGE;
	ring.bars = ring.queue + C::QUEUE * C::WORK;

	if (threadIdx.x == 0) {
		for (int s = 0; s < C::STAGES; s++) {
			mbar_init(ring.bars + s * 16, 1 + C::GATHER);
			mbar_init(ring.bars + s * 16 + 8, C::MATH / 32);
		}
		for (int i = 0; i < C::QUEUE; i++) {
			mbar_init(ring.known(i), 1);
			mbar_init(ring.stored(i), C::MATH / 32);
			mbar_init(ring.wanted(i), 1);
		}
		mbar_init_fence();
	}
	__syncthreads();
	pdl_launch();
	if (!C::LOOSE && threadIdx.x / 32 == C::MATH / 32) moe_prefetch<C>(a);
	pdl_wait();

	if (threadIdx.x >= C::MATH) {
		regs_dec<C::PRODUCER_REGS>();
		const int role = __shfl_sync(0xffffffff, (threadIdx.x - C::MATH) / 32, 0);
		if (role == 0) moe_load_weights<C>(a, ring);
		else if (role == 3) moe_deal_items<C>(a, ring);
		else moe_gather_tokens<C>(a, ring);
	} else {
		regs_inc<C::MATH_REGS>();
		const int wg = __shfl_sync(0xffffffff, threadIdx.x / 128, 0), t = threadIdx.x % 128;
		for (;; ring.item++) {
			ring.wait_work();
			const moe_work w = ring.work(C::LOOSE ? wg : 0);
			if (w.phase < 0) break;
			if (C::SKEW && wg == 1 && ring.item == 0) {
				mbar_wait(ring.full(), 0);
				for (const int t0 = clock(); clock() - t0 < C::SKEW;)
					;
			}
			if (C::LOOSE ? w.n_row == 0 : w.rb + wg * C::MT >= w.part) moe_skip<C>(ring, w.n_k, t);
			else moe_item<C>(a, w, ring, wg, t);
			__syncwarp();
			if (t % 32 == 0) mbar_arrive(ring.stored(ring.item));
		}
	}
}

#endif
