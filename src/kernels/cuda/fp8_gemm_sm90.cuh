/* fp8_gemm_sm90.cuh - the FP8 block-scaled GEMM: streams of weights for few tokens, and prompts.
 *
 *   out[t][n] = sum over blocks b of 128 k of  x_scale[b][t] * w_scale[n / 128][b] * sum over k of x[t][k] w[n][k]
 *
 *   x    [rows, n_in] e4m3, w [n_group, n_out, n_in] e4m3: both K-major, read by tensor copies into 128-byte swizzled tiles
 *   out  [rows, n_out] bf16
 *
 * One warp (or warpgroup, where registers are short) fills a ring of stages, a stage being one block of 128 k; per block and
 * warpgroup four wgmma of k32, then  sum += x_scale w_scale part  in fp32.
 *
 * Streams: weights are the M operand.  A tile is 64 weight rows a warpgroup x N tokens, N = 8 .. 128.  Bound by memory: all CTAs are
 * resident at once, and where there are few tiles a cluster of n_split CTAs shares a tile's K and adds the parts in rank order
 * through its shared memory.
 * Prompts: tokens are the M operand, since then a thread needs two x_scale a product and not one for every second column: 128 weight
 * rows x 128 or 256 tokens.  With 128, parts have two accumulators, so that one block is added while the next multiplies.  Two CTAs
 * of a cluster have neighbouring weight rows and send each other half of the tokens' tile, which saves traffic from L2.  CTAs walk
 * over tiles, panels of 8 row tiles at a time so that what runs at once shares rows and tokens in L2.
 *
 * Test: build/cuda/test_fp8    Bench: build/cuda/bench_fp8    Why: docs/fp8.md
 */
#ifndef MOXIE_CUDA_FP8_GEMM_SM90_CUH
#define MOXIE_CUDA_FP8_GEMM_SM90_CUH

#include "device/cluster.cuh"
#include "device/wgmma_fp8.cuh"
#include "fp8_gemm.h"

constexpr int FP8_BLOCK = 128; /* k of a scale, and bytes of a row of a stage */
constexpr int FP8_PANEL = 8;   /* row tiles that are walked through together */
constexpr int FP8_MAX_STAGE = 24;

template <int N_, int WG_, bool PROMPT_, int PAIR_> struct fp8_tile_shape {
	static constexpr bool PROMPT = PROMPT_;
	static constexpr int N = N_, WG = WG_, ROWS = PROMPT ? 128 : 64 * WG; /* tokens; weight rows */
	static constexpr int M64 = PROMPT ? N / 64 / WG : 1; /* products of 64 rows of the M operand a warpgroup and block */
	static constexpr int PAIR = PAIR_;             /* CTAs that share the tokens */
	static constexpr int FILL = PROMPT ? 128 : 32; /* threads that fill the ring */
	static constexpr int PART = PROMPT ? ROWS / 2 : N / 2, SUM = M64 * PART; /* fp32 numbers of a thread: of a product, in all */
	static constexpr int THREADS = 128 * WG + FILL;
	static constexpr int W_BYTES = ROWS * FP8_BLOCK, X_BYTES = N * FP8_BLOCK;
	/* Streams: scales lie as threads read them, those of columns 8j + 2t, 8j + 2t + 1 at t SCALE_T + 2j: a thread's are 16-byte
	 * loads, and the four t of a warp start in different banks.  Prompts: by token. */
	static constexpr int SCALE_T = (((N + 15) / 16) | 1) * 4, SCALE_BYTES = PROMPT ? N * 4 : 4 * SCALE_T * 4;
	static constexpr int STAGE = W_BYTES + X_BYTES; /* scales lie behind all stages, as tiles want 1024-byte alignment */
	static constexpr int OUT_TOK = N < 64 ? N : 64, OUT_BYTES = WG * OUT_TOK * 128; /* bf16 [token][64 rows] a warpgroup, 64 tokens at a time */
	/* Shared memory: barriers and the room for the store, then the stages' tiles, then their scales. */
	static constexpr int BARS = 2 * 8 * FP8_MAX_STAGE, DATA = (BARS + OUT_BYTES + 1023) / 1024 * 1024, FIXED = 1024 + DATA;
	/* Prompts have as many stages as there is room for: a constant, since registers are short. */
	static constexpr int STAGES = PROMPT ? (232448 - FIXED) / (STAGE + SCALE_BYTES) : 0;
};

__device__ __forceinline__ void tensor_load2(uint32_t dst, const CUtensorMap *map, int c0, int c1, uint32_t bar)
{
	asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(dst), "l"(map),
	             "r"(c0), "r"(c1), "r"(bar)
	             : "memory");
}
/* To both CTAs of a cluster, at the same place of each; its bytes count on each one's barrier. */
__device__ __forceinline__ void tensor_load2_pair(uint32_t dst, const CUtensorMap *map, int c0, int c1, uint32_t bar)
{
	asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(dst),
	             "l"(map), "r"(c0), "r"(c1), "r"(bar), "h"((uint16_t)3)
	             : "memory");
}
/* Without .release.cluster, which costs a membar a stage: what is released are reads that have returned. */
__device__ __forceinline__ void cluster_mbar_arrive(uint32_t bar)
{
	asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(bar) : "memory");
}
__device__ __forceinline__ void tensor_load3(uint32_t dst, const CUtensorMap *map, int c0, int c1, int c2, uint32_t bar)
{
	asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(dst),
	             "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(bar)
	             : "memory");
}
__device__ __forceinline__ void cp_async4(uint32_t dst, const void *src)
{
	asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(dst), "l"(src) : "memory");
}
__device__ __forceinline__ float4 cluster_load4(uint32_t address)
{
	float4 v;
	asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(address) : "memory");
	return v;
}
template <int THREADS> __device__ __forceinline__ void named_barrier(int id) { asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(THREADS) : "memory"); }

/* ---- which tile -------------------------------------------------------------------------------------------------------- */

struct fp8_work {
	int group, row0; /* weight rows from row0 of this group */
	int tok0, n_tok; /* rows of x from tok0; n_tok of the tile's N are the group's */
};

/* Finds tile after tile, in ascending order; every warp walks by itself. */
struct fp8_walk {
	int g, base; /* the first group of the 32 in hand, and the number of tiles before it */
};

__device__ __forceinline__ int fp8_group_rows(const struct fp8_gemm_args &a, int g, int *tok0)
{
	if (a.mode == MOXIE_FP8_DENSE) {
		*tok0 = 0;
		return g == 0 ? a.n_tok : 0;
	}
	*tok0 = 0;
	if (g >= a.n_group)
		return 0;
	if (a.mode == MOXIE_FP8_CONTIGUOUS) {
		*tok0 = max(0, min(__ldcg(a.group + g), a.n_tok));
		return max(0, min(__ldcg(a.group + g + 1), a.n_tok) - *tok0);
	}
	*tok0 = g * a.n_tok;
	return max(0, min(__ldcg(a.group + g), a.n_tok));
}

/* PAIR: of two CTAs with neighbouring rows, the `half`th. */
template <class S> __device__ __forceinline__ bool fp8_find(const struct fp8_gemm_args &a, struct fp8_walk *at, int tile, int half, struct fp8_work *w)
{
	constexpr int N = S::N;
	const int lane = threadIdx.x & 31;
	for (; at->g < a.n_group; at->g += 32) {
		int tok0;
		const int n = fp8_group_rows(a, at->g + lane, &tok0), n_tile = (n + N - 1) / N * a.n_row_tile;
		int sum = n_tile; /* inclusive */
#pragma unroll
		for (int d = 1; d < 32; d *= 2) {
			const int v = __shfl_up_sync(~0u, sum, d);
			if (lane >= d) sum += v;
		}
		const int all = __shfl_sync(~0u, sum, 31);
		if (tile >= at->base + all) {
			at->base += all;
			continue;
		}
		const int who = __ffs(__ballot_sync(~0u, tile < at->base + sum)) - 1;
		const int rows = __shfl_sync(~0u, n, who), first = at->base + __shfl_sync(~0u, sum - n_tile, who), n_tok_tile = (rows + N - 1) / N;
		const int i = tile - first, panel = i / (FP8_PANEL * n_tok_tile), in_panel = i - panel * FP8_PANEL * n_tok_tile;
		const int wide = min(FP8_PANEL, a.n_row_tile - panel * FP8_PANEL), t = in_panel / wide;
		w->group = at->g + who;
		w->row0 = ((panel * FP8_PANEL + in_panel - t * wide) * S::PAIR + half) * S::ROWS;
		w->tok0 = __shfl_sync(~0u, tok0, who) + t * N;
		w->n_tok = min(N, rows - t * N);
		return true;
	}
	return false;
}

/* ---- the ring ------------------------------------------------------------------------------------------------------------ */

template <class S> struct fp8_ring {
	uint32_t base;  /* shared memory address */
	int n_, at;     /* stages; the one in hand */
	uint32_t phase;
	__device__ __forceinline__ int n() const { return S::PROMPT ? S::STAGES : n_; }
	__device__ __forceinline__ uint32_t full(int i) const { return base + 8 * i; }
	__device__ __forceinline__ uint32_t empty(int i) const { return base + 8 * (FP8_MAX_STAGE + i); }
	__device__ __forceinline__ uint32_t w(int i) const { return base + S::DATA + i * S::STAGE; }
	__device__ __forceinline__ uint32_t x(int i) const { return w(i) + S::W_BYTES; }
	__device__ __forceinline__ uint32_t scale(int i) const { return base + S::DATA + n() * S::STAGE + i * S::SCALE_BYTES; }
	__device__ __forceinline__ void next()
	{
		if (++at == n()) at = 0, phase ^= 1;
	}
};

template <class S> __device__ __forceinline__ void fp8_load_w(const struct fp8_gemm_args &a, const struct fp8_work &w, uint32_t stage, uint32_t full, int kb)
{
	tensor_load3(stage, &a.w, kb * FP8_BLOCK, w.row0, w.group, full);
}
template <class S> __device__ __forceinline__ void fp8_load_x(const struct fp8_gemm_args &a, const struct fp8_work &w, const struct fp8_ring<S> &r, int kb, int half, int lane)
{
	const uint32_t full = r.full(r.at), scale = r.scale(r.at);
	const uint32_t x = r.x(r.at);
	if (lane == 0 && S::PAIR == 1) tensor_load2(x, &a.x, kb * FP8_BLOCK, w.tok0, full);
	if (lane == 0 && S::PAIR == 2) tensor_load2_pair(x + half * S::X_BYTES / 2, &a.x, kb * FP8_BLOCK, w.tok0 + half * S::N / 2, full);
#pragma unroll
	for (int c = lane; c < S::N; c += 32) { /* past the last row: any finite or other number, its column is not stored */
		const int slot = S::PROMPT ? c : (c & 7) / 2 * S::SCALE_T + c / 8 * 2 + (c & 1);
		cp_async4(scale + 4 * slot, a.x_scale + kb * a.x_scale_ld + min(w.tok0 + c, a.n_row - 1));
	}
	cp_async_arrive(full);
}

/* One warp.  A dense tile's weights are on their way before the kernel in front has ended. */
template <class S> __device__ __forceinline__ void fp8_fill(const struct fp8_gemm_args &a, struct fp8_ring<S> r, int kb0, int kb1, int first, int step, int half)
{
	const int lane = threadIdx.x & 31, n_early = min(a.mode == MOXIE_FP8_DENSE ? r.n() : 0, kb1 - kb0);
	struct fp8_walk at = {};
	struct fp8_work w = {};
	bool more = false;
	if (n_early) {
		more = fp8_find<S>(a, &at, first, half, &w);
		if (lane == 0 && more)
			for (int i = 0; i < n_early; i++) {
				mbar_expect(r.full(i), S::W_BYTES + S::X_BYTES);
				fp8_load_w<S>(a, w, r.w(i), r.full(i), kb0 + i);
			}
		__syncwarp();
	}
	pdl_wait();
	if (!n_early) more = fp8_find<S>(a, &at, first, half, &w);
	for (int tile = first, n_done = 0; more; more = fp8_find<S>(a, &at, tile += step, half, &w))
		for (int kb = kb0; kb < kb1; kb++, n_done++, r.next()) {
			if (n_done >= n_early) {
				mbar_wait(r.empty(r.at), r.phase ^ 1);
				if (lane == 0) {
					mbar_expect(r.full(r.at), S::W_BYTES + S::X_BYTES);
					fp8_load_w<S>(a, w, r.w(r.at), r.full(r.at), kb);
				}
			}
			fp8_load_x<S>(a, w, r, kb, half, lane);
		}
}

/* ---- products ---------------------------------------------------------------------------------------------------------- */

__device__ __forceinline__ float fp8_w_scale(const struct fp8_gemm_args &a, size_t at)
{
	if (!a.w_e8m0) return __ldg((const float *)a.w_scale + at);
	const uint32_t s = __ldg((const uint8_t *)a.w_scale + at);
	return __uint_as_float(s == 255 ? 0x7fc00000u : s == 0 ? 0x00400000u : s << 23);
}

/* part = the i-th 64 of this warpgroup's rows of the M operand x the N operand, of the stage in hand; enqueued. */
template <class S> __device__ __forceinline__ void fp8_issue(const struct fp8_ring<S> &r, int i, float (&part)[S::PART])
{
	const uint32_t w = wgmma_desc_low(r.w(r.at)), x = wgmma_desc_low(r.x(r.at)), rows = (threadIdx.x / 128 * S::M64 + i) * (64 * FP8_BLOCK / 16);
	const uint32_t m = (S::PROMPT ? x : w) + rows, n = S::PROMPT ? w : x;
	wgmma_fence();
#pragma unroll
	for (int k = 0; k < 4; k++)
		wgmma_e4m3<S::PART * 2>::ss(part, wgmma_desc(m + 2 * k), wgmma_desc(n + 2 * k), k > 0);
	wgmma_commit();
}

/* sum += x_scale w_scale part, of the stage at `stage` of the ring. */
template <class S> __device__ __forceinline__ void fp8_add(const struct fp8_ring<S> &r, int stage, int i, float w_scale, float (&part)[S::PART], float (&sum)[S::SUM])
{
	pin(part);
	if constexpr (S::PROMPT) { /* rows g and g + 8 of the warp's 16 */
		const uint32_t scale = r.scale(stage) + ((threadIdx.x / 128 * S::M64 + i) * 64 + threadIdx.x / 32 % 4 * 16 + (threadIdx.x & 31) / 4) * 4;
		const float s[2] = { w_scale * __uint_as_float(lds32(scale)), w_scale * __uint_as_float(lds32(scale + 32)) };
#pragma unroll
		for (int j = 0; j < S::PART; j++)
			sum[i * S::PART + j] = fmaf(s[j >> 1 & 1], part[j], sum[i * S::PART + j]);
		return;
	}
	const uint32_t scale = r.scale(stage) + (threadIdx.x & 3) * (S::SCALE_T * 4);
#pragma unroll
	for (int j = 0; j < S::N / 8; j += 2) {
		float4 f;
		if (S::N == 8)
			asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(f.x), "=f"(f.y) : "r"(scale) : "memory");
		else
			asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(f.x), "=f"(f.y), "=f"(f.z), "=f"(f.w) : "r"(scale + 8 * j) : "memory");
		const float s[4] = { f.x * w_scale, f.y * w_scale, f.z * w_scale, f.w * w_scale };
#pragma unroll
		for (int c = 0; c < (S::N - 8 * j < 16 ? 4 : 8); c++)
			sum[4 * j + c] = fmaf(s[(c & 1) + c / 4 * 2], part[4 * j + c], sum[4 * j + c]);
	}
}

template <class S> __device__ __forceinline__ void fp8_await(const struct fp8_ring<S> &r) { mbar_wait(r.full(r.at), r.phase); }
/* This warp has read all it needs of a stage; so must the other CTA's warps, which share the tokens. */
template <class S> __device__ __forceinline__ void fp8_release(const struct fp8_ring<S> &r, int stage)
{
	const int lane = threadIdx.x & 31;
	__syncwarp();
	if (S::PAIR == 1 && lane == 0) mbar_arrive(r.empty(stage));
	if (S::PAIR == 2 && lane < 2) {
		uint32_t bar;
		asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(bar) : "r"(r.empty(stage)), "r"(lane));
		cluster_mbar_arrive(bar);
	}
}

/* The next K blocks of a prompt's tile: while one block is added, the next multiplies.  Only within K blocks: ptxas serialises
 * products that are in flight over the edge of a loop. */
template <class S, int K>
__device__ __forceinline__ void fp8_blocks(const struct fp8_gemm_args &a, struct fp8_ring<S> *r, size_t scale_at, float (&sum)[S::SUM])
{
	float part0[S::PART], part1[S::PART];
	fp8_await(*r);
	fp8_issue<S>(*r, 0, part0);
#pragma unroll
	for (int k = 0; k < K; k++) {
		const int stage = r->at;
		const float w_scale = fp8_w_scale(a, scale_at + k);
		r->next();
		if (k == K - 1)
			wgmma_wait<0>();
		else {
			fp8_await(*r);
			if (k & 1) fp8_issue<S>(*r, 0, part0);
			else fp8_issue<S>(*r, 0, part1);
			wgmma_wait<1>();
		}
		if (k & 1) fp8_add<S>(*r, stage, 0, w_scale, part1, sum);
		else fp8_add<S>(*r, stage, 0, w_scale, part0, sum);
		fp8_release<S>(*r, stage);
	}
}

/* sum = this warpgroup's part of the tile over blocks kb0 .. kb1 - 1. */
template <class S>
__device__ __forceinline__ void fp8_multiply(const struct fp8_gemm_args &a, const struct fp8_work &w, struct fp8_ring<S> *r, int kb0, int kb1, float (&sum)[S::SUM])
{
	/* A tile may hang over n_out: its rows are zeros, and their scale is any that exists. */
	const int block = min(w.row0, a.n_out - 1) / 128; /* of all rows of the tile: 64, or 128 from a multiple of 128 */
	size_t scale_at = ((size_t)w.group * ((a.n_out + 127) / 128) + block) * a.n_block + kb0;
#pragma unroll
	for (int i = 0; i < S::SUM; i++)
		sum[i] = 0;
	if constexpr (S::PROMPT && S::M64 == 1) {
		int n = kb1 - kb0;
		for (; n >= 8; n -= 8, scale_at += 8)
			fp8_blocks<S, 8>(a, r, scale_at, sum);
		for (; n >= 4; n -= 4, scale_at += 4)
			fp8_blocks<S, 4>(a, r, scale_at, sum);
		for (; n; n--, scale_at++)
			fp8_blocks<S, 1>(a, r, scale_at, sum);
	} else {
		float w_scale = fp8_w_scale(a, scale_at);
		for (int n = kb1 - kb0; n; n--, r->next()) {
			const float next_scale = n > 1 ? fp8_w_scale(a, ++scale_at) : 0;
			fp8_await(*r);
#pragma unroll
			for (int i = 0; i < S::M64; i++) {
				float part[S::PART];
				fp8_issue<S>(*r, i, part);
				wgmma_wait<0>();
				fp8_add<S>(*r, r->at, i, w_scale, part, sum);
			}
			fp8_release<S>(*r, r->at);
			w_scale = next_scale;
		}
	}
}

/* Tile to global memory through shared memory: 128 bytes of one token at a time. */
template <class S> __device__ __forceinline__ void fp8_store(const struct fp8_gemm_args &a, const struct fp8_work &w, const float (&sum)[S::SUM], uint32_t out)
{
	const int lane = threadIdx.x & 31, warp = threadIdx.x / 32 % 4, wg = threadIdx.x / 128;
	out += wg * S::OUT_TOK * 128;
	/* Streams: 64 tokens of the warpgroup's 64 rows a round; prompts: 64 rows of its 64 tokens. */
#pragma unroll
	for (int round = 0; round < (2 * S::SUM + 63) / 64; round++) {
		const int tok0 = S::PROMPT ? (wg * S::M64 + round / 2) * 64 : round * 64, row0 = w.row0 + (S::PROMPT ? round % 2 : wg) * 64;
#pragma unroll
		for (int j = 0; j < (2 * S::SUM < 64 ? 2 * S::SUM : 64) / 8; j++) {
			const int at = round * 32 + 4 * j;
			const __nv_bfloat162 lo = __floats2bfloat162_rn(sum[at], sum[at + 1]), hi = __floats2bfloat162_rn(sum[at + 2], sum[at + 3]);
			/* Lanes 16 .. 31 give no address. */
			const int tok = S::PROMPT ? warp * 16 + (lane & 15) : 8 * j + (lane & 7), chunk = S::PROMPT ? j : 2 * warp + (lane >> 3 & 1);
			const uint32_t to = out + tok * 128 + ((chunk ^ (tok & 7)) * 16), u0 = *(const uint32_t *)&lo, u1 = *(const uint32_t *)&hi;
			if constexpr (S::PROMPT)
				asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(to), "r"(u0), "r"(u1) : "memory");
			else
				asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(to), "r"(u0), "r"(u1) : "memory");
		}
		named_barrier<128>(1 + wg);
		for (int i = threadIdx.x & 127; i < 8 * min(w.n_tok - tok0, S::OUT_TOK); i += 128) {
			const int tok = i / 8, chunk = i & 7;
			const uint4 v = lds128(out + tok * 128 + ((chunk ^ (tok & 7)) * 16));
			if (row0 < a.n_out) *(uint4 *)(a.out + (size_t)(w.tok0 + tok0 + tok) * a.n_out + row0 + 8 * chunk) = v;
		}
		named_barrier<128>(1 + wg);
	}
}

/* The parts of a cluster, added in rank order; each CTA writes every n_split-th token. */
template <class S>
__device__ __forceinline__ void fp8_reduce(const struct fp8_gemm_args &a, const struct fp8_work &w, int rank, char *parts)
{
	constexpr int LD = S::ROWS + 4, PER_TOK = S::ROWS / 4;
	for (int i = threadIdx.x; i < PER_TOK * ((w.n_tok - rank + a.n_split - 1) / a.n_split); i += 128 * S::WG) {
		const int tok = rank + i / PER_TOK * a.n_split, row = i % PER_TOK * 4;
		if (w.row0 + row >= a.n_out) continue;
		float4 s = { 0, 0, 0, 0 };
		for (int from = 0; from < a.n_split; from++) {
			const float4 v = cluster_load4(cluster_address(parts + (tok * LD + row) * 4, from));
			s.x += v.x, s.y += v.y, s.z += v.z, s.w += v.w;
		}
		const __nv_bfloat162 lo = __floats2bfloat162_rn(s.x, s.y), hi = __floats2bfloat162_rn(s.z, s.w);
		*(uint2 *)(a.out + (size_t)(w.tok0 + tok) * a.n_out + w.row0 + row) = { *(const uint32_t *)&lo, *(const uint32_t *)&hi };
	}
}

/* ---- the kernel -------------------------------------------------------------------------------------------------------- */

template <int N, int WG, bool PROMPT, int PAIR>
__global__ void __launch_bounds__(fp8_tile_shape<N, WG, PROMPT, PAIR>::THREADS, 1) fp8_gemm_kernel(const __grid_constant__ struct fp8_gemm_args a)
{
	using S = fp8_tile_shape<N, WG, PROMPT, PAIR>;
	extern __shared__ char shared[];
	char *base = (char *)(((size_t)shared + 1023) & ~(size_t)1023);
	const uint32_t out = smem_u32(base) + S::BARS;
	struct fp8_ring<S> r = { smem_u32(base), a.n_stage, 0, 0 };
	/* A cluster is a pair over all of K, or n_split CTAs that share K, or one CTA. */
	const int size = S::PAIR * a.n_split, cta = blockIdx.x % size, rank = cta / S::PAIR, half = cta % S::PAIR;
	const int first = blockIdx.x / size, step = gridDim.x / size, kb0 = a.n_block * rank / a.n_split, kb1 = a.n_block * (rank + 1) / a.n_split;
	if (threadIdx.x == 0) {
		for (int i = 0; i < r.n(); i++) {
			mbar_init(r.full(i), 1 + 32); /* bytes of both tiles; scales, by lane */
			mbar_init(r.empty(i), 4 * WG * S::PAIR);
		}
		mbar_init_fence();
	}
	__syncthreads();
	pdl_launch();
	if (S::PAIR == 2) { /* no byte and no arrival before both have their barriers; the fence above released them */
		cluster_arrive_relaxed();
		cluster_wait();
	}

	if (threadIdx.x >= 128 * WG) {
		if constexpr (S::FILL == 128) regs_dec<56>();
		if (threadIdx.x < 128 * WG + 32) fp8_fill<S>(a, r, kb0, kb1, first, step, half);
		if (a.n_split > 1) { /* the first of the two meetings below */
			__syncwarp();
			cluster_arrive();
			cluster_wait();
		}
	} else {
		if constexpr (S::FILL == 128) regs_inc<224>();
		struct fp8_walk at = {};
		struct fp8_work w = {};
		bool waited = a.mode != MOXIE_FP8_DENSE;
		if (waited) pdl_wait();
		for (int tile = first; fp8_find<S>(a, &at, tile, half, &w); tile += step) {
			float sum[S::SUM];
			fp8_multiply<S>(a, w, &r, kb0, kb1, sum);
			if (!waited) pdl_wait(); /* out may be read by the kernel in front; tokens came after it, so this returns at once */
			waited = true;
			if (S::PROMPT || a.n_split == 1) {
				fp8_store<S>(a, w, sum, out);
				continue;
			}
			const int lane = threadIdx.x & 31, row = threadIdx.x / 128 * 64 + threadIdx.x / 32 % 4 * 16 + lane / 4;
			float *part = (float *)(base + S::DATA);
			named_barrier<128 * WG>(1); /* the ring is drained: it becomes the place of the parts */
#pragma unroll
			for (int i = 0; i < S::SUM; i++) {
				const int tok = i / 4 * 8 + (lane & 3) * 2 + (i & 1);
				part[tok * (S::ROWS + 4) + row + (i >> 1 & 1) * 8] = sum[i];
			}
			break;
		}
		if (a.n_split > 1) { /* a cluster has one tile, or none */
			cluster_arrive();
			cluster_wait();
			if (w.n_tok) fp8_reduce<S>(a, w, rank, base + S::DATA);
		}
	}
	if (size > 1) { /* nobody leaves whose shared memory another may still reach; what was read has come */
		__syncwarp();
		cluster_arrive_relaxed();
		cluster_wait();
	}
}

#define FP8_INSTANCE(name, n, wg, prompt, pair)                                                                                           \
	{                                                                                                                                     \
		name, (const void *)fp8_gemm_kernel<n, wg, prompt, pair>, fp8_tile_shape<n, wg, prompt, pair>::ROWS, n, pair,                       \
		    fp8_tile_shape<n, wg, prompt, pair>::THREADS,                                                                                   \
		    fp8_tile_shape<n, wg, prompt, pair>::STAGE + fp8_tile_shape<n, wg, prompt, pair>::SCALE_BYTES,                                  \
		    fp8_tile_shape<n, wg, prompt, pair>::FIXED                                                                                      \
	}

#endif
