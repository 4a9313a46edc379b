/* route_table.cuh - expert offsets, sorted pairs and tiles from marks.
 *
 * A mark word holds one bit per token of a chunk of 32: mark[e] bit i = token i of the chunk uses expert e.  An expert's
 * count is a popcount, and a pair's place inside its expert is a popcount of the lower bits: no sort, no ordered loop,
 * and the bits do not depend on the order in which they were set.
 */
#pragma once
#include "moe_route.h"
#include "route_gemm.cuh"
#include "route_topk.cuh"

__device__ __forceinline__ uint32_t warp_total(uint32_t v) { return __reduce_add_sync(FULL, v); }
__device__ __forceinline__ unsigned long long warp_total(unsigned long long v)
{
	for (int o = 1; o < 32; o *= 2)
		v += __shfl_xor_sync(FULL, v, o);
	return v;
}

/* Exclusive scan over the threads of the block; part[32] is shared scratch.  Two syncs may separate two calls. */
template <class U> __device__ __forceinline__ U block_scan(U v, U *part, U &total)
{
	const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, n_warp = blockDim.x / 32;
	U sum = v;
#pragma unroll
	for (int o = 1; o < 32; o *= 2) {
		const U up = __shfl_up_sync(FULL, sum, o);
		if (lane >= o)
			sum += up;
	}
	if (lane == 31)
		part[warp] = sum;
	__syncthreads();
	const U p = lane < n_warp ? part[lane] : 0;
	total = warp_total(p);
	return warp_total(lane < warp ? p : U(0)) + sum - v;
}

__device__ __forceinline__ uint32_t n_tile_of(const route_param &p, uint32_t n_row)
{
	return p.tile_shift >= 0 ? (n_row + p.tile_n - 1) >> p.tile_shift : (n_row + p.tile_n - 1) / p.tile_n;
}

/* All tiles of expert e, whose rows are sorted_pair[off .. off + n_row): as many as the threads i, i + step .. write. */
__device__ __forceinline__ void put_tiles(const route_param &p, uint32_t place, int e, uint32_t off, uint32_t n_row, uint32_t i, uint32_t step)
{
	if (!n_row)
		return;
	const uint32_t rows = n_row <= (uint32_t)p.tile_n ? n_row : moe_tile_rows(n_row, p.tile_n); /* spares the divisions */
	for (uint32_t r = i * rows; r < n_row; r += step * rows, place += step)
		reinterpret_cast<int4 *>(p.tiles)[place + i] = make_int4(e, off + r, min(rows, n_row - r), 0);
}

__device__ __forceinline__ void put_head(const route_param &p, uint32_t n_pair, uint32_t n_tile)
{
	p.expert_off[p.n_expert_here] = n_pair;
	if (p.tiles) {
		reinterpret_cast<int4 *>(p.head)[0] = make_int4(n_tile, 0, 0, 0);
		reinterpret_cast<int4 *>(p.head)[1] = make_int4(0, 0, 0, 0);
	}
}

/* What the routing warp of token t writes. */
__device__ __forceinline__ void put_token(const route_param &p, int t, int id, float w)
{
	const int lane = threadIdx.x & 31;
	if (lane < p.n_used) {
		p.topk_id[(size_t)t * p.n_used + lane] = id;
		if (p.topk_w)
			p.topk_w[(size_t)t * p.n_used + lane] = w;
	}
	if (lane == 31 && p.tok_done)
		p.tok_done[t] = 0;
}

/* Sets token bit `bit` of slot s's expert in row `row` of mark, in every one of n_cta CTAs; 4 bytes per slot arrive on
 * each CTA's barrier, whether the slot is empty or not.  Whole warps call it. */
__device__ __forceinline__ void mark_cluster(const route_param &p, uint32_t *mark, uint64_t *barrier, int row, int stride, int n_cta,
                                             int id, uint32_t bit)
{
	if ((threadIdx.x & 31) < p.n_used)
		for (int c = 0; c < n_cta; c++)
			cluster_or(cluster_address(mark + row * stride + max(id, 0), c), id >= 0 ? bit : 0, cluster_address(barrier, c));
}

/* Sends this CTA's marks [stride], complete and synced, to row `row` of mark in every one of n_cta CTAs. */
__device__ __forceinline__ void send_marks(const uint32_t *mine, uint32_t *mark, uint64_t *barrier, int row, int stride, int n_cta)
{
	const int lane = threadIdx.x & 31;
	for (int c = threadIdx.x / 32; c < n_cta; c += blockDim.x / 32) {
		const uint32_t to = cluster_address(mark + row * stride, c), b = cluster_address(barrier, c);
		for (int i = lane; i < stride / 4; i += 32)
			cluster_store4(to + 16 * i, reinterpret_cast<const uint4 *>(mine)[i], b);
	}
}

/* The tables of a single token: at most one row per expert, so a pair's place is the number of lower ids, and no scan is
 * needed.  ids: [n_used] local experts, shared and synced.  Thread e <= n_expert_here does expert e. */
__device__ __forceinline__ void route_tables_one(const route_param &p, const int *ids, int e)
{
	const int n = p.n_expert_here;
	if (e > n)
		return;
	int off = 0, slot = -1;
	for (int s = 0; s < p.n_used; s++) {
		off += ids[s] >= 0 && ids[s] < e;
		slot = ids[s] == e ? s : slot;
	}
	if (e == n) {
		put_head(p, off, off);
		return;
	}
	p.expert_off[e] = off;
	if (slot >= 0) {
		p.sorted_pair[off] = slot;
		if (p.tiles)
			reinterpret_cast<int4 *>(p.tiles)[off] = make_int4(e, off, 1, 0);
	}
}

/* The table stage of a cluster launch; n_cta chunks of `chunk` tokens, this CTA is number rank.
 *   mark  [n_cta, stride] shared, complete     base [n_expert_here] and part [32]: shared scratch
 *   lane s of warp i < chunk holds local expert id of slot s of token rank * chunk + i, or -1
 * blockDim.x >= n_expert_here.  Counts stay below 2^16 (512 tokens x 16), so pairs and tiles share one scan. */
__device__ __forceinline__ void route_tables(const route_param &p, int rank, int n_cta, int chunk, const uint32_t *mark, int stride,
                                             uint32_t *base, uint32_t *part, int id)
{
	const int e = threadIdx.x, n = p.n_expert_here;
	uint32_t count = 0, before = 0;
	if (e < n)
		for (int r = 0; r < n_cta; r++) {
			const uint32_t c = __popc(mark[r * stride + e]);
			before += r < rank ? c : 0;
			count += c;
		}
	uint32_t total;
	const uint32_t n_tile = n_tile_of(p, count), at = block_scan<uint32_t>(count | n_tile << 16, part, total);
	const uint32_t off = at & 0xffff;
	if (e < n)
		base[e] = off + before;
	__syncthreads();
	const int warp = threadIdx.x / 32, slot = threadIdx.x & 31, t = rank * chunk + warp;
	if (warp < chunk && t < p.n_tok && slot < p.n_used && id >= 0) {
		const uint32_t lower = mark[rank * stride + id] & ((1u << warp) - 1);
		p.sorted_pair[base[id] + __popc(lower)] = t * p.n_used + slot;
	}
	if (rank)
		return;
	if (e < n) {
		p.expert_off[e] = off;
		if (p.tiles)
			put_tiles(p, at >> 16, e, off, count, 0, 1);
	}
	if (e == 0)
		put_head(p, total & 0xffff, total >> 16);
}
