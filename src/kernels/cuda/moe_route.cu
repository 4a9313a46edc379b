/* moe_route - top-k, weights, expert offsets, sorted pairs and tiles in one launch (n_tok <= 512, 384 for n_expert > 384) or two.
 *
 * For token t with logits l = logits[t]:
 *   SOFTMAX        rank l; w = e^(l_s - max) / sum over the selected (renormalise) or over all experts
 *   SIGMOID        s = 1 / (1 + e^-l); rank s + select_bias; w = s, or s / (sum of the selected s + 1e-20)
 *   SQRTSOFTPLUS   s = sqrt(ln(1 + e^l)); the same
 *   then           w *= scale, w *= expert_scale[id]
 * n_group > 1: groups of consecutive experts, ranked by the sum of their two best ranks; only the best n_group_used
 * are selected from.  hash_table: ids = hash_table[tok_id[t]], weights as above.  GIVEN: ids and weights are copied.
 *
 * Order and odd values, for every rule: descending rank, equal ranks by ascending id; -0 equals +0; NaN ranks below
 * -inf, so it is selected only when fewer than k others exist, and weighs like -inf (SOFTMAX) or 0 (scored rules);
 * +inf logits share the weight (SOFTMAX) or count as 1e30; all -inf: equal weights.  A token that names
 * an expert twice (hash table, GIVEN): the first slot takes the sum of the weights, the others get id -1.
 * Empty slots (padding rows, ids out of range, experts of other ranks) are id -1 and appear in no table.
 *
 * Map: one warp per token (route_topk.cuh); where a CTA has one token (scored rules: up to 4), all its threads rank.
 *   up to there    one cluster of 1..16 CTAs.  Every CTA marks its tokens, one 32-bit word per expert, and sends the row of
 *                  marks to all (st.async on an mbarrier); then each CTA scans the counts and places its own pairs.
 *   above          chunks of 8..1024 tokens, one block each: marks in shared memory, count per (chunk, expert) and rank
 *                  per pair to the workspace; a second launch sums the counts of the chunks before its own.
 * Numerics: f32, IEEE operations in a fixed order (route_math.h): bitwise equal to the C twin in the test.
 * Cost: reads 4 E bytes per token, writes 12 k; 1.6 .. 2.5 us for one token, 3.1 .. 7.4 us for 256, in a PDL chain on an
 *   H200; 13 us (E = 128, k = 8) and 22 us (E = 256, k = 6, scored) for 8192.  docs/routing.md has all times.
 * Limits: n_expert <= 512, n_used <= 16, groups a power of two with n_expert a power of two.
 * Source: models' own code (openai/gpt-oss, transformers gemma4 and deepseek_v3, deepseek_v4 inference).
 * Test: build/cuda/test_route    Bench: build/cuda/bench_route
 */
#include "device/launch.cuh"
#include "moe_route.h"
#include "route_gemm.cuh"
#include "route_table.cuh"
#include "route_topk.cuh"

constexpr int BLOCK_TOK = 4; /* tokens of a CTA that all its threads score together */

template <int J, int MODE>
__global__ void __launch_bounds__(32 * route_cluster_tok(32 * J), 1) moe_route_cluster_kernel(const __grid_constant__ route_param p)
{
	extern __shared__ __align__(16) uint32_t mark[]; /* [n_chunk, stride], then [stride] of our own */
	__shared__ uint32_t base[MOXIE_ROUTE_MAX_EXPERT], part[32];
	__shared__ uint2 sel[32][MOXIE_ROUTE_MAX_USED];
	__shared__ int ids[MOXIE_ROUTE_MAX_USED];
	__shared__ route_row_block block[MODE == BY_SCORE ? BLOCK_TOK : 1];
	__shared__ float select_bias[MODE == BY_SCORE ? MOXIE_ROUTE_MAX_EXPERT : 1];
	__shared__ uint64_t barrier;
	const int n_cta = gridDim.x, rank = blockIdx.x, warp = threadIdx.x / 32, t = rank * p.chunk + warp, stride = (p.n_expert_here + 3) & ~3;
	uint32_t *const mine = n_cta > 1 ? mark + p.n_chunk * stride : mark;
	/* Few tokens per CTA: all threads score.  Warp i scores for token i % chunk, chunk a power of two. */
	const bool together = MODE != BY_ID && p.chunk <= (MODE == BY_SCORE ? BLOCK_TOK : 1);

	pdl_launch();
	route_touch(p);
	for (int i = threadIdx.x; i < stride; i += blockDim.x)
		mine[i] = 0;
	if (n_cta > 1) {
		if (warp == 0)
			inbox_open(&barrier, 4 * stride * p.n_chunk);
		cluster_arrive();
	}
	float bias[J];
	if (MODE == BY_SCORE && !together)
		route_load_bias<J>(p, bias);
	if (MODE == BY_SCORE && together)
		for (int e = threadIdx.x; e < p.n_expert; e += blockDim.x)
			select_bias[e] = p.select_bias ? p.select_bias[e] : 0.f;
	__syncthreads();
	pdl_wait();
	const int n_real = route_n_real(p);

	/* Experts first: other threads build tables from them while the warps of the tokens work out the weights. */
	int id = -1;
	float w = 0.f, denominator = 0.f;
	const bool has = warp < p.chunk && t < p.n_tok;
	const int bytes = p.logit_dtype == MOXIE_LOGIT_F32 ? 4 : 2;
	auto row_of = [&](int t_row) {
		return route_row_global{ static_cast<const char *>(p.logits) + (size_t)t_row * p.n_expert * bytes, p.logit_dtype };
	};
	const route_row_global row = row_of(t);
	if (together && MODE == BY_LOGIT) { /* one token */
		if (threadIdx.x < p.n_expert && rank < p.n_tok)
			block[0].template put<MODE>(p, threadIdx.x, row_of(rank).at(threadIdx.x), 0.f);
		__syncthreads();
		if (has)
			route_begin_block<J, MODE>(p, n_real, t, block[0], sel[0], id, denominator);
	} else if (together) {
		const int c = warp & (p.chunk - 1), n_warp = blockDim.x / 32 >> p.split_shift;
		if (rank * p.chunk + c < p.n_tok) {
			const route_row_global of_c = row_of(rank * p.chunk + c);
			for (int e = (warp >> p.split_shift) * 32 + (threadIdx.x & 31); e < p.n_expert; e += n_warp * 32)
				block[c].template put<MODE>(p, e, of_c.at(e), MODE == BY_SCORE ? select_bias[e] : 0.f);
		}
		__syncthreads();
		if (has)
			route_begin_block<J, MODE>(p, n_real, t, block[warp], sel[warp], id, denominator);
	} else if (has) {
		route_begin<J, MODE>(p, n_real, t, row, bias, sel[warp], id, w, denominator);
	}
	const int local = route_local_id(p, id);
	auto finish = [&] {
		if (MODE != BY_ID)
			w = together ? route_end<MODE>(p, block[MODE == BY_SCORE ? warp : 0], sel[warp], denominator, id) : route_end<MODE>(p, row, sel[warp], denominator, id);
		put_token(p, t, local, w);
	};
	if (p.n_tok == 1) {
		if (threadIdx.x < p.n_used)
			ids[threadIdx.x] = local;
		__syncthreads();
		if (has)
			finish();
		else
			route_tables_one(p, ids, threadIdx.x - 32);
		return;
	}
	if (local >= 0)
		atomicOr(mine + local, 1u << warp);
	__syncthreads();
	if (n_cta > 1) {
		cluster_wait(); /* every CTA has started and opened its inbox */
		if (rank >= p.n_chunk)
			return;
		send_marks(mine, mark, &barrier, rank, stride, p.n_chunk);
	}
	if (has)
		finish();
	if (n_cta > 1)
		inbox_wait(&barrier);
	route_tables(p, rank, p.n_chunk, p.chunk, mark, stride, base, part, local);
}

/* First of two launches: block b routes tokens [b * chunk, (b + 1) * chunk). */
template <int J, int MODE> __global__ void __launch_bounds__(J > 8 ? 512 : 1024, 1) moe_route_chunk_kernel(const __grid_constant__ route_param p)
{
	extern __shared__ uint32_t mark[]; /* [n_expert_here, n_word] */
	__shared__ uint2 sel[32][MOXIE_ROUTE_MAX_USED];
	const int n_word = (p.chunk + 31) / 32, warp = threadIdx.x / 32, n_warp = blockDim.x / 32;
	const int t0 = blockIdx.x * p.chunk, n_mine = min(p.chunk, p.n_tok - t0);

	route_touch(p);
	for (int i = threadIdx.x; i < p.n_expert_here * n_word; i += blockDim.x)
		mark[i] = 0;
	float bias[J];
	if (MODE == BY_SCORE)
		route_load_bias<J>(p, bias);
	pdl_wait();
	const int n_real = route_n_real(p);
	__syncthreads();
	const int bytes = p.logit_dtype == MOXIE_LOGIT_F32 ? 4 : 2;
	for (int i = warp; i < n_mine; i += n_warp) {
		const int t = t0 + i;
		const route_row_global row = { static_cast<const char *>(p.logits) + (size_t)t * p.n_expert * bytes, p.logit_dtype };
		int id;
		float w, denominator;
		route_begin<J, MODE>(p, n_real, t, row, bias, sel[warp], id, w, denominator);
		if (MODE != BY_ID)
			w = route_end<MODE>(p, row, sel[warp], denominator, id);
		__syncwarp(); /* sel is written again by the next token */
		id = route_local_id(p, id);
		put_token(p, t, id, w);
		if (id >= 0)
			atomicOr(mark + id * n_word + i / 32, 1u << (i & 31));
	}
	/* Not earlier: blocks of the next launch that wait beside ours would crowd some SMs and leave others idle. */
	pdl_launch();
	__syncthreads();
	for (int i = threadIdx.x; i < n_mine * p.n_used; i += blockDim.x) {
		const int tl = i / p.n_used, id = p.topk_id[(size_t)t0 * p.n_used + i]; /* written by this block */
		uint32_t rank = 0;
		if (id >= 0) {
			for (int j = 0; j < tl / 32; j++)
				rank += __popc(mark[id * n_word + j]);
			rank += __popc(mark[id * n_word + tl / 32] & ((1u << (tl & 31)) - 1));
		}
		p.rank[(size_t)t0 * p.n_used + i] = (uint16_t)rank;
	}
	for (int e = threadIdx.x; e < p.hist_stride; e += blockDim.x) {
		uint32_t n = 0;
		if (e < p.n_expert_here)
			for (int j = 0; j < n_word; j++)
				n += __popc(mark[e * n_word + j]);
		p.hist[(size_t)blockIdx.x * p.hist_stride + e] = (uint16_t)n;
	}
}

/* Second: places the pairs of the same chunk.  Experts are dealt to blocks for the tile list. */
__global__ void __launch_bounds__(1024) moe_route_scatter_kernel(const __grid_constant__ route_param p)
{
	__shared__ uint32_t before[MOXIE_ROUTE_MAX_EXPERT], count[MOXIE_ROUTE_MAX_EXPERT];
	__shared__ uint32_t off[MOXIE_ROUTE_MAX_EXPERT], tile_at[MOXIE_ROUTE_MAX_EXPERT];
	__shared__ unsigned long long part[32];
	const int e = threadIdx.x, n = p.n_expert_here, half = p.hist_stride / 2;

	route_touch(p);
	if (e < MOXIE_ROUTE_MAX_EXPERT)
		before[e] = count[e] = 0;
	pdl_wait();
	__syncthreads();
	const int pair = threadIdx.x % half, group = threadIdx.x / half, n_group = blockDim.x / half;
	if (group < n_group) {
		uint32_t b0 = 0, b1 = 0, c0 = 0, c1 = 0;
#pragma unroll 8
		for (int r = group; r < p.n_chunk; r += n_group) {
			const uint32_t two = reinterpret_cast<const uint32_t *>(p.hist + (size_t)r * p.hist_stride)[pair];
			c0 += two & 0xffff, c1 += two >> 16;
			if (r < blockIdx.x)
				b0 += two & 0xffff, b1 += two >> 16;
		}
		atomicAdd(count + pair * 2, c0), atomicAdd(count + pair * 2 + 1, c1); /* integers: any order, same sum */
		atomicAdd(before + pair * 2, b0), atomicAdd(before + pair * 2 + 1, b1);
	}
	__syncthreads();
	const uint32_t c = e < n ? count[e] : 0, tiles = n_tile_of(p, c);
	unsigned long long total;
	const unsigned long long at = block_scan<unsigned long long>((unsigned long long)tiles << 32 | c, part, total);
	if (e < n) {
		off[e] = (uint32_t)at;
		before[e] += (uint32_t)at;
		tile_at[e] = (uint32_t)(at >> 32);
		if (blockIdx.x == 0)
			p.expert_off[e] = (uint32_t)at;
	}
	if (blockIdx.x == 0 && e == 0)
		put_head(p, (uint32_t)total, (uint32_t)(total >> 32));
	pdl_launch();
	__syncthreads();
	const int t0 = blockIdx.x * p.chunk, n_pair = min(p.chunk, p.n_tok - t0) * p.n_used;
	for (int i = threadIdx.x; i < n_pair; i += blockDim.x) {
		const size_t at_pair = (size_t)t0 * p.n_used + i;
		const int id = p.topk_id[at_pair];
		if (id >= 0)
			p.sorted_pair[before[id] + p.rank[at_pair]] = (int32_t)at_pair;
	}
	if (p.tiles)
		for (int x = blockIdx.x; x < n; x += gridDim.x)
			put_tiles(p, tile_at[x], x, off[x], count[x], threadIdx.x, blockDim.x);
}

/* ---- launches ---- */

static int mode_of(const struct route_param *p)
{
	return p->hash_table || p->score == MOXIE_SCORE_GIVEN ? BY_ID : p->score == MOXIE_SCORE_SOFTMAX ? BY_LOGIT : BY_SCORE;
}

/* The instance of a kernel template <J, MODE>. */
#define INSTANCE_OF(kernel)                                                                                               \
	template <int MODE> static const void *kernel##_mode(int n_expert)                                                \
	{                                                                                                                 \
		switch (route_lane_experts(n_expert)) {                                                                   \
		case 1: return reinterpret_cast<const void *>(&kernel<1, MODE>);                                          \
		case 2: return reinterpret_cast<const void *>(&kernel<2, MODE>);                                          \
		case 4: return reinterpret_cast<const void *>(&kernel<4, MODE>);                                          \
		case 8: return reinterpret_cast<const void *>(&kernel<8, MODE>);                                          \
		case 12: return reinterpret_cast<const void *>(&kernel<12, MODE>);                                        \
		default: return reinterpret_cast<const void *>(&kernel<16, MODE>);                                        \
		}                                                                                                         \
	}                                                                                                                 \
	static const void *kernel##_of(int mode, int n_expert)                                                            \
	{                                                                                                                 \
		return mode == BY_LOGIT   ? kernel##_mode<BY_LOGIT>(n_expert)                                             \
		       : mode == BY_SCORE ? kernel##_mode<BY_SCORE>(n_expert)                                             \
		                          : reinterpret_cast<const void *>(&kernel<1, BY_ID>); /* lanes hold slots, not experts */ \
	}
INSTANCE_OF(moe_route_cluster_kernel)
INSTANCE_OF(moe_route_chunk_kernel)

extern "C" cudaError_t route_set_attributes(bool clusters)
{
	const int n_expert[] = { 32, 64, 128, 256, 384, 512 };
	for (int i = 0; i < 18; i++) {
		const int e = n_expert[i % 6], mode = i / 6, most = mode == BY_ID ? MOXIE_ROUTE_MAX_EXPERT : e;
		const void *cluster = moe_route_cluster_kernel_of(mode, e), *chunk = moe_route_chunk_kernel_of(mode, e);
		cudaError_t rc = clusters ? cudaFuncSetAttribute(cluster, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) : cudaSuccess;
		if (!rc && clusters)
			rc = cudaFuncSetAttribute(cluster, cudaFuncAttributeMaxDynamicSharedMemorySize, (16 + 1) * most * 4);
		if (!rc && clusters)
			rc = cudaFuncSetAttribute(chunk, cudaFuncAttributeMaxDynamicSharedMemorySize, ROUTE_CHUNK_MAX / 32 * most * 4);
		if (rc)
			return rc;
	}
	return cudaSuccess;
}

extern "C" cudaError_t route_launch_cluster(const struct route_param *param, int n_cta, cudaStream_t stream, bool pdl)
{
	route_param p = *param;
	if (p.n_tok <= 1)
		n_cta = 1;
	/* One thread per expert for the scan; for one token a warp for the weights and one thread more. */
	const int experts = p.n_tok == 1 ? 32 + (p.n_expert_here + 32) / 32 * 32 : (p.n_expert_here + 31) / 32 * 32;
	p.chunk = p.n_tok > n_cta ? (p.n_tok + n_cta - 1) / n_cta : 1;
	const int mode = mode_of(&p), most = 32 * route_cluster_tok(p.n_expert);
	const bool together = mode != BY_ID && p.chunk <= (mode == BY_SCORE ? BLOCK_TOK : 1);
	p.split_shift = p.chunk <= 1 ? 0 : p.chunk <= 2 ? 1 : 2;
	if (together)
		p.chunk = 1 << p.split_shift;
	p.n_chunk = p.n_tok ? (p.n_tok + p.chunk - 1) / p.chunk : 1;
	int n_thread = 32 * p.chunk > experts ? 32 * p.chunk : experts;
	n_thread = n_thread < 128 ? 128 : n_thread;
	if (together) { /* one thread per expert and token, in whole warps per token */
		int score = (p.n_expert + 31) / 32 * 32 << p.split_shift;
		score = score > most ? most / (32 << p.split_shift) * (32 << p.split_shift) : score;
		n_thread = score > n_thread ? score : (n_thread + (32 << p.split_shift) - 1) / (32 << p.split_shift) * (32 << p.split_shift);
	}
	const size_t smem = (size_t)(p.n_chunk + (n_cta > 1)) * ((p.n_expert_here + 3) & ~3) * 4;
	return cuda_launch_untyped(moe_route_cluster_kernel_of(mode, p.n_expert), pdl, n_cta, dim3(n_cta), dim3(n_thread), smem, stream, &p);
}

extern "C" void route_chunks(int n_tok, int chunk_max, int *chunk, int *n_chunk)
{
	int c = (n_tok + 127) / 128; /* about one block per SM; more tokens than that share a block */
	c = c < 8 ? 8 : c > chunk_max ? chunk_max : (c + 7) / 8 * 8;
	*chunk = c, *n_chunk = n_tok ? (n_tok + c - 1) / c : 1;
}

extern "C" cudaError_t route_launch_chunks(const struct route_param *param, cudaStream_t stream, bool pdl)
{
	route_param p = *param;
	route_chunks(p.n_tok, p.chunk, &p.chunk, &p.n_chunk);
	p.hist_stride = (p.n_expert_here + 1) / 2 * 2;
	const int mode = mode_of(&p), most = mode != BY_ID && route_lane_experts(p.n_expert) > 8 ? 512 : 1024;
	const int n_thread = 32 * p.chunk < most ? 32 * p.chunk : most;
	const size_t smem = (size_t)(p.chunk + 31) / 32 * p.n_expert_here * 4;
	const dim3 grid(p.n_chunk);
	const cudaError_t rc = cuda_launch_untyped(moe_route_chunk_kernel_of(mode, p.n_expert), pdl, 1, grid, dim3(n_thread), smem, stream, &p);
	return rc ? rc : cuda_launch_untyped(reinterpret_cast<const void *>(&moe_route_scatter_kernel), pdl, 1, grid, dim3(1024), 0, stream, &p);
}
