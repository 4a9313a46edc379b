/* router_route - router GEMM, top-k, weights and tables in one launch of one cluster of 16 CTAs, n_tok <= 64.
 *
 * CTA (row block, split) multiplies 16 experts by a part of K for all tokens, adds its slices and stores the sums in the
 * shared memory of the CTA that owns the token (tokens are dealt to CTAs in runs of `chunk`); after one cluster barrier
 * the owners finish the logits and go on as moe_route_cluster_kernel does (moe_route.cu has the rules).  W is loaded
 * before the wait for the previous kernel of the stream.
 *
 *   x [n_tok, n_embd] bf16   w_router [n_expert, n_embd] bf16   b_router [n_expert] f32 or bf16   logits_out f32 or NULL
 *
 * Numerics: bf16 products, f32 accumulation in 32 slices of K joined by a balanced tree: the bits of router_gemm.cu.
 * Cost: reads 2 n_expert n_embd bytes of W through 16 SMs, which is why it serves small n_tok and n_expert only;
 *   x is read once per row block.  docs/routing.md has times and the measured limits of its use.
 * Test: build/test_route joined    Bench: build/bench_route joined
 */
#include "moe_route.h"
#include "route_gemm.cuh"
#include "route_table.cuh"
#include "route_topk.cuh"

/* How the joined launch is cut, on host and device alike. */
struct join_cut {
	int n_row_block, n_split, chunk, n_cta_tok; /* expert blocks of 16; parts of K; tokens per CTA; CTAs that have tokens */
	__host__ __device__ join_cut(const route_param &p)
	{
		n_row_block = (p.n_expert + 15) / 16;
		n_split = 1;
		while (n_row_block * n_split * 2 <= ROUTE_JOIN_CTAS)
			n_split *= 2;
		chunk = (p.n_tok + ROUTE_JOIN_CTAS - 1) / ROUTE_JOIN_CTAS;
		chunk = chunk < 1 ? 1 : chunk;
		n_cta_tok = (p.n_tok + chunk - 1) / chunk;
		n_cta_tok = n_cta_tok < 1 ? 1 : n_cta_tok;
	}
	/* floats of shared memory: slice sums, inbox, logits; then the marks */
	__host__ __device__ int red(int nt) const { return ROUTE_N_SLICE / n_split * red_slice(nt); }
	__host__ __device__ int inbox(const route_param &p) const { return chunk * n_split * p.n_expert; }
	__host__ __device__ int logit(const route_param &p) const { return (chunk * p.n_expert + 3) & ~3; }
};

template <int J, int NT> __global__ void __launch_bounds__(32 * ROUTE_JOIN_WARPS, 1) router_route_kernel(const __grid_constant__ route_param p)
{
	extern __shared__ __align__(16) float shared[];
	__shared__ uint32_t base[MOXIE_ROUTE_MAX_EXPERT], part[32];
	const join_cut cut(p);
	float *red = shared, *inbox = red + cut.red(NT), *logit = inbox + cut.inbox(p);
	uint32_t *mark = reinterpret_cast<uint32_t *>(logit + cut.logit(p));
	const int rank = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x & 31, g = lane / 4, q = lane & 3;
	const int split = rank % cut.n_split, n_block = p.n_embd / 32, n_local = ROUTE_N_SLICE / cut.n_split;
	const uint16_t *const x = static_cast<const uint16_t *>(p.x), *const w = static_cast<const uint16_t *>(p.w_router);

	grid_launch_dependents();
	for (int i = threadIdx.x; i < cut.n_cta_tok * p.n_expert_here; i += blockDim.x)
		mark[i] = 0;
	cluster_arrive();

	/* Row g of this CTA's (first) row block, rows past the last expert read the last one and are dropped later. */
	int row_block = rank / cut.n_split;
	bool started = false;
	router_w f;
	auto w_of = [&](int rb, size_t &hi_step) {
		const int lo = min(rb * 16 + g, p.n_expert - 1), hi = min(rb * 16 + g + 8, p.n_expert - 1);
		hi_step = (size_t)(hi - lo) * p.n_embd;
		return w + (size_t)lo * p.n_embd + q * 8;
	};
	size_t hi_step;
	const int slice0 = split * n_local + warp;
	if (row_block < cut.n_row_block && warp < n_local) {
		const uint16_t *const wr = w_of(row_block, hi_step);
		router_load_w(f, wr, hi_step, slice_first(n_block, slice0), slice_first(n_block, slice0 + 1));
	}
	float bias[J];
	route_load_bias<J>(p, bias);
	grid_wait();

	for (; row_block < cut.n_row_block; row_block += ROUTE_JOIN_CTAS) {
		const uint16_t *const wr = w_of(row_block, hi_step);
		for (int t0 = 0; t0 < p.n_tok; t0 += 8 * NT) {
			const uint16_t *xr[NT];
#pragma unroll
			for (int n = 0; n < NT; n++)
				xr[n] = x + (size_t)min(t0 + n * 8 + g, p.n_tok - 1) * p.n_embd + q * 8;
			for (int s = warp; s < n_local; s += ROUTE_JOIN_WARPS) {
				const int first = slice_first(n_block, split * n_local + s), last = slice_first(n_block, split * n_local + s + 1);
				float acc[NT][4] = {};
				if (started)
					router_load_w(f, wr, hi_step, first, last);
				router_slice<NT>(f, wr, hi_step, xr, first, last, acc);
				router_put<NT>(red + s * red_slice(NT), acc);
				started = true;
			}
			__syncthreads();
			if (!t0 && row_block == rank / cut.n_split)
				cluster_wait(); /* every CTA has started: its shared memory may be written */
			for (int i = threadIdx.x; i < 16 * 8 * NT; i += blockDim.x) {
				const int e = row_block * 16 + (i & 15), t = t0 + (i >> 4);
				if (e < p.n_expert && t < p.n_tok) {
					const float sum = tree_sum(red + (i & 15) * red_row(NT) + (i >> 4), red_slice(NT), n_local);
					const int owner = t / cut.chunk, tl = t % cut.chunk;
					cluster_store(cluster_address(inbox + (tl * cut.n_split + split) * p.n_expert + e, owner), sum);
				}
			}
			__syncthreads();
		}
	}
	if (rank / cut.n_split >= cut.n_row_block || p.n_tok == 0)
		cluster_wait(); /* had no work above */
	cluster_arrive();
	cluster_wait();

	const int t0 = rank * cut.chunk, n_mine = max(0, min(cut.chunk, p.n_tok - t0));
	for (int i = threadIdx.x; i < n_mine * p.n_expert; i += blockDim.x) {
		const int tl = i / p.n_expert, e = i - tl * p.n_expert;
		float v = tree_sum(inbox + tl * cut.n_split * p.n_expert + e, p.n_expert, cut.n_split);
		v = route_add(v, router_bias(p.b_router, p.bias_dtype, e));
		logit[i] = v;
		if (p.logits_out)
			p.logits_out[(size_t)t0 * p.n_expert + i] = v;
	}
	__syncthreads();
	int id = -1;
	float wt = 0.f;
	const int t = t0 + warp;
	if (warp < n_mine) {
		const route_row_shared row = { logit + warp * p.n_expert };
		route_token<J>(p, t, row, bias, id, wt);
		put_token(p, t, id, wt);
	}
	if (cut.n_cta_tok > 1) {
		if (warp < n_mine)
			mark_cluster(p, mark, rank, cut.n_cta_tok, id, 1u << warp);
		cluster_arrive();
		cluster_wait();
	} else {
		if (id >= 0)
			atomicOr(mark + id, 1u << warp);
		__syncthreads();
	}
	if (rank < cut.n_cta_tok)
		route_tables(p, rank, cut.n_cta_tok, cut.chunk, mark, base, part, id);
}

template <int NT> static const void *joined_of(int n_expert)
{
	switch (route_lane_experts(n_expert)) {
	case 1: return reinterpret_cast<const void *>(&router_route_kernel<1, NT>);
	case 2: return reinterpret_cast<const void *>(&router_route_kernel<2, NT>);
	case 4: return reinterpret_cast<const void *>(&router_route_kernel<4, NT>);
	default: return reinterpret_cast<const void *>(&router_route_kernel<8, NT>);
	}
}
constexpr int NT_MAX = 2; /* 16 tokens a pass; more would need the registers of the W prefetch */

extern "C" cudaError_t route_joined_set_attributes(int smem_max)
{
	const int n_expert[] = { 32, 64, 128, ROUTE_JOIN_EXPERT_MAX };
	for (int e : n_expert)
		for (const void *kernel : { joined_of<1>(e), joined_of<NT_MAX>(e) }) {
			cudaError_t rc = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
			if (!rc)
				rc = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem_max);
			if (rc)
				return rc;
		}
	return cudaSuccess;
}

extern "C" size_t route_joined_smem(const struct route_param *p)
{
	const join_cut cut(*p);
	return 4 * ((size_t)cut.red(p->n_tok <= 8 ? 1 : NT_MAX) + cut.inbox(*p) + cut.logit(*p) + (size_t)cut.n_cta_tok * p->n_expert_here);
}

extern "C" cudaError_t route_launch_joined(const struct route_param *p, cudaStream_t stream, bool pdl)
{
	const void *kernel = p->n_tok <= 8 ? joined_of<1>(p->n_expert) : joined_of<NT_MAX>(p->n_expert);
	return route_launch(kernel, dim3(ROUTE_JOIN_CTAS), 32 * ROUTE_JOIN_WARPS, route_joined_smem(p), ROUTE_JOIN_CTAS, p, stream, pdl);
}

extern "C" int route_joined_max_clusters(void)
{
	cudaLaunchConfig_t c = {};
	cudaLaunchAttribute at;
	int n = 0;
	at.id = cudaLaunchAttributeClusterDimension;
	at.val.clusterDim.x = ROUTE_JOIN_CTAS, at.val.clusterDim.y = at.val.clusterDim.z = 1;
	c.gridDim = dim3(ROUTE_JOIN_CTAS), c.blockDim = 32 * ROUTE_JOIN_WARPS, c.dynamicSmemBytes = 64 << 10, c.attrs = &at, c.numAttrs = 1;
	if (cudaOccupancyMaxActiveClusters(&n, joined_of<1>(128), &c)) {
		cudaGetLastError();
		return 0;
	}
	return n;
}

extern "C" int route_join_limit(int n_expert, int n_embd)
{
	return n_expert <= ROUTE_JOIN_EXPERT_MAX && (size_t)n_expert * n_embd * 2 <= 1u << 20 ? 8 : 0;
}
