/* moe_route - top-k, weights, expert offsets, sorted pairs and tiles in one launch (n_tok <= 512) or two.
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
 * +inf logits share the weight (SOFTMAX) or count as the largest float; all -inf: equal weights.  A token that names
 * an expert twice (hash table, GIVEN): the first slot takes the sum of the weights, the others get id -1.
 * Empty slots (padding rows, ids out of range, experts of other ranks) are id -1 and appear in no table.
 *
 * Map: one warp per token (route_topk.cuh).
 *   n_tok <= 512   one cluster of 1..16 CTAs.  Every CTA sets its tokens' marks in the shared memory of all (one 32-bit
 *                  word per expert and CTA), one cluster barrier, then each CTA scans the counts and places its pairs.
 *   above          chunks of 8..1024 tokens, one block each: marks in shared memory, count per (chunk, expert) and rank
 *                  per pair to the workspace; a second launch sums the counts of the chunks before its own.
 * Numerics: f32, IEEE operations in a fixed order (route_math.h): bitwise equal to the C twin in the test.
 * Cost: reads 4 E bytes per token, writes 12 k; one token 1.x us in a graph, see docs/routing.md.
 * Limits: n_expert <= 512, n_used <= 16, groups a power of two with n_expert a power of two.
 * Source: models' own code (openai/gpt-oss, transformers gemma4 and deepseek_v3, deepseek_v4 inference).
 * Test: build/test_route    Bench: build/bench_route
 */
#include "moe_route.h"
#include "route_gemm.cuh"
#include "route_table.cuh"
#include "route_topk.cuh"

template <int J> __global__ void __launch_bounds__(1024) moe_route_cluster_kernel(const __grid_constant__ route_param p)
{
	extern __shared__ uint32_t mark[]; /* [n_cta, n_expert_here] */
	__shared__ uint32_t base[MOXIE_ROUTE_MAX_EXPERT], part[32];
	const int n_cta = gridDim.x, rank = blockIdx.x, warp = threadIdx.x / 32;
	const int chunk = (p.n_tok + n_cta - 1) / n_cta, t = rank * chunk + warp;

	grid_launch_dependents();
	for (int i = threadIdx.x; i < n_cta * p.n_expert_here; i += blockDim.x)
		mark[i] = 0;
	if (n_cta > 1)
		cluster_arrive();
	float bias[J];
	route_load_bias<J>(p, bias);
	grid_wait();

	int id = -1;
	float w = 0.f;
	const bool has = warp < chunk && t < p.n_tok;
	if (has) {
		const int bytes = p.logit_dtype == MOXIE_LOGIT_F32 ? 4 : 2;
		const route_row_global row = { static_cast<const char *>(p.logits) + (size_t)t * p.n_expert * bytes, p.logit_dtype };
		route_token<J>(p, t, row, bias, id, w);
		put_token(p, t, id, w);
	}
	if (n_cta > 1) {
		cluster_wait(); /* every CTA has started and cleared its marks */
		if (has)
			mark_cluster(p, mark, rank, n_cta, id, 1u << warp);
		cluster_arrive();
		cluster_wait();
	} else {
		__syncthreads();
		if (id >= 0)
			atomicOr(mark + id, 1u << warp);
		__syncthreads();
	}
	route_tables(p, rank, n_cta, chunk, mark, base, part, id);
}

/* First of two launches: block b routes tokens [b * chunk, (b + 1) * chunk). */
template <int J> __global__ void __launch_bounds__(512) moe_route_chunk_kernel(const __grid_constant__ route_param p)
{
	extern __shared__ uint32_t mark[]; /* [n_expert_here, n_word] */
	const int n_word = (p.chunk + 31) / 32, warp = threadIdx.x / 32, n_warp = blockDim.x / 32;
	const int t0 = blockIdx.x * p.chunk, n_mine = min(p.chunk, p.n_tok - t0);

	grid_launch_dependents();
	for (int i = threadIdx.x; i < p.n_expert_here * n_word; i += blockDim.x)
		mark[i] = 0;
	float bias[J];
	route_load_bias<J>(p, bias);
	grid_wait();
	__syncthreads();
	const int bytes = p.logit_dtype == MOXIE_LOGIT_F32 ? 4 : 2;
	for (int i = warp; i < n_mine; i += n_warp) {
		const int t = t0 + i;
		const route_row_global row = { static_cast<const char *>(p.logits) + (size_t)t * p.n_expert * bytes, p.logit_dtype };
		int id;
		float w;
		route_token<J>(p, t, row, bias, id, w);
		put_token(p, t, id, w);
		if (id >= 0)
			atomicOr(mark + id * n_word + i / 32, 1u << (i & 31));
	}
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

	grid_launch_dependents();
	if (e < MOXIE_ROUTE_MAX_EXPERT)
		before[e] = count[e] = 0;
	grid_wait();
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

extern "C" cudaError_t route_launch(const void *kernel, dim3 grid, int n_thread, size_t smem, int cluster, const struct route_param *p,
                                    cudaStream_t stream, bool pdl)
{
	cudaLaunchConfig_t c = {};
	cudaLaunchAttribute at[2];
	c.gridDim = grid, c.blockDim = n_thread, c.dynamicSmemBytes = smem, c.stream = stream, c.attrs = at;
	if (pdl) {
		at[c.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
		at[c.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
	}
	if (cluster > 1) {
		at[c.numAttrs].id = cudaLaunchAttributeClusterDimension;
		at[c.numAttrs].val.clusterDim.x = cluster;
		at[c.numAttrs].val.clusterDim.y = at[c.numAttrs].val.clusterDim.z = 1;
		c.numAttrs++;
	}
	void *args[] = { const_cast<route_param *>(p) };
	return cudaLaunchKernelExC(&c, kernel, args);
}

#define BY_LANE_EXPERTS(kernel)                                                                         \
	static const void *kernel##_of(int n_expert)                                                    \
	{                                                                                               \
		switch (route_lane_experts(n_expert)) {                                                 \
		case 1: return reinterpret_cast<const void *>(&kernel<1>);                              \
		case 2: return reinterpret_cast<const void *>(&kernel<2>);                              \
		case 4: return reinterpret_cast<const void *>(&kernel<4>);                              \
		case 8: return reinterpret_cast<const void *>(&kernel<8>);                              \
		case 12: return reinterpret_cast<const void *>(&kernel<12>);                            \
		default: return reinterpret_cast<const void *>(&kernel<16>);                            \
		}                                                                                       \
	}
BY_LANE_EXPERTS(moe_route_cluster_kernel)
BY_LANE_EXPERTS(moe_route_chunk_kernel)

constexpr int CHUNK_MAX = 1024; /* tokens; 32 marks per expert: 64 KB at 512 experts, and ranks fit 16 bits */

extern "C" cudaError_t route_set_attributes(void)
{
	const int n_expert[] = { 32, 64, 128, 256, 384, 512 };
	for (int e : n_expert) {
		const void *cluster = moe_route_cluster_kernel_of(e), *chunk = moe_route_chunk_kernel_of(e);
		cudaError_t rc = cudaFuncSetAttribute(cluster, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
		if (!rc)
			rc = cudaFuncSetAttribute(cluster, cudaFuncAttributeMaxDynamicSharedMemorySize, ROUTE_JOIN_CTAS * e * 4);
		if (!rc)
			rc = cudaFuncSetAttribute(chunk, cudaFuncAttributeMaxDynamicSharedMemorySize, CHUNK_MAX / 32 * e * 4);
		if (rc)
			return rc;
	}
	return cudaSuccess;
}

extern "C" cudaError_t route_launch_cluster(const struct route_param *p, int n_cta, cudaStream_t stream, bool pdl)
{
	const int chunk = (p->n_tok + n_cta - 1) / n_cta, experts = (p->n_expert_here + 31) / 32 * 32;
	int n_thread = 32 * chunk > experts ? 32 * chunk : experts;
	n_thread = n_thread < 128 ? 128 : n_thread;
	return route_launch(moe_route_cluster_kernel_of(p->n_expert), dim3(n_cta), n_thread, (size_t)n_cta * p->n_expert_here * 4, n_cta, p, stream,
	                    pdl);
}

extern "C" void route_chunks(int n_tok, int *chunk, int *n_chunk)
{
	int c = (n_tok + 127) / 128; /* about one block per SM; more tokens than that share a block */
	c = c < 8 ? 8 : c > CHUNK_MAX ? CHUNK_MAX : (c + 7) / 8 * 8;
	*chunk = c, *n_chunk = n_tok ? (n_tok + c - 1) / c : 1;
}

extern "C" cudaError_t route_launch_chunks(const struct route_param *param, cudaStream_t stream, bool pdl)
{
	route_param p = *param;
	route_chunks(p.n_tok, &p.chunk, &p.n_chunk);
	p.hist_stride = (p.n_expert_here + 1) / 2 * 2;
	const int n_thread = p.chunk >= 16 ? 512 : 32 * p.chunk;
	const size_t smem = (size_t)(p.chunk + 31) / 32 * p.n_expert_here * 4;
	cudaError_t rc = route_launch(moe_route_chunk_kernel_of(p.n_expert), dim3(p.n_chunk), n_thread, smem, 1, &p, stream, pdl);
	return rc ? rc : route_launch(reinterpret_cast<const void *>(&moe_route_scatter_kernel), dim3(p.n_chunk), 1024, 0, 1, &p, stream, pdl);
}
