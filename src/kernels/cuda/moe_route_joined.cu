/* router_route - router GEMM, top-k, weights and tables in one launch of one cluster of 16 CTAs, n_tok <= 16.
 *
 * CTA (row block, split) multiplies 16 experts by a part of K for all tokens, adds its slices and stores the sums in the
 * shared memory of the CTA that owns the token (token t is CTA t's), where they count on an mbarrier; the owners finish the
 * logits, one thread per expert, and go on as moe_route_cluster_kernel does (moe_route.cu has the rules).  W and the
 * biases are loaded before the wait for the previous kernel of the stream.
 *
 * NORM: x stands before its RMSNorm.  The products take x times the norm's weights, rounded to bf16, and each owner multiplies its sums by
 * its row's 1 / rms; it makes that row of h as well, with the bits of rmsnorm.cu.
 *
 *   x [n_tok, n_embd] bf16   w_router [n_expert, n_embd] bf16   b_router [n_expert] f32 or bf16   logits_out f32 or NULL
 *
 * Numerics: bf16 products, f32 accumulation in 32 slices of K joined by a balanced tree: the bits of router_gemm.cu.
 * Cost: reads 2 n_expert n_embd bytes of W through 16 SMs, which is why it serves small n_tok and n_expert only;
 *   x is read once per row block.  docs/routing.md has times and the measured limits of its use.
 * Test: build/cuda/test_route joined    Bench: build/cuda/bench_route joined
 */
#include "device/launch.cuh"
#include "moe_route.h"
#include "route_gemm.cuh"
#include "route_table.cuh"
#include "route_topk.cuh"

/* Dynamic shared memory: slice sums | inbox [n_split, n_expert] floats | marks [n_chunk, stride] words. */
__host__ __device__ static int red_floats(const route_param &p, int nt) { return ROUTE_N_SLICE / p.n_split * red_slice(nt); }
__host__ __device__ static int inbox_floats(const route_param &p) { return (p.n_split * p.n_expert + 3) & ~3; }
__host__ __device__ static int mark_stride(const route_param &p) { return (p.n_expert_here + 3) & ~3; }

template <int J, int MODE, int NT, bool NORM>
__global__ void __launch_bounds__(32 * ROUTE_JOIN_WARPS, 1) router_route_kernel(const __grid_constant__ route_param p)
{
	extern __shared__ __align__(16) float red[];
	__shared__ uint32_t base[MOXIE_ROUTE_MAX_EXPERT], part[32];
	__shared__ uint2 sel[MOXIE_ROUTE_MAX_USED];
	__shared__ int ids[MOXIE_ROUTE_MAX_USED];
	__shared__ route_row_block block;
	__shared__ float logit[ROUTE_JOIN_EXPERT_MAX]; /* BY_ID reads it as a row */
	__shared__ uint64_t logits_in, marks_in;
	__shared__ float squares[NORM ? ROUTE_JOIN_WARPS : 1];
	float *const inbox = red + red_floats(p, NT);
	uint32_t *const mark = reinterpret_cast<uint32_t *>(inbox + inbox_floats(p));
	const int rank = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x & 31, g = lane / 4, q = lane & 3, e = threadIdx.x;
	const int split = rank & (p.n_split - 1), row_block = rank >> p.split_shift, stride = mark_stride(p);
	const int n_block = p.n_embd / 32, n_local = ROUTE_N_SLICE >> p.split_shift, s0 = split * n_local;
	const bool works = row_block < p.n_row_block && p.n_tok > 0;

	pdl_launch();
	route_touch(p);
	/* Rows past the last expert read the last one and are dropped later. */
	const int lo = min(row_block * 16 + g, p.n_expert - 1), hi = min(row_block * 16 + g + 8, p.n_expert - 1);
	const size_t hi_step = (size_t)(hi - lo) * p.n_embd;
	const uint16_t *const wr = static_cast<const uint16_t *>(p.w_router) + (size_t)lo * p.n_embd + q * 8;
	router_w f;
	if (works && warp < n_local)
		router_load_w(f, wr, hi_step, slice_first(n_block, s0 + warp), slice_first(n_block, s0 + warp + 1));
	for (int i = threadIdx.x; i < p.n_chunk * stride; i += blockDim.x)
		mark[i] = 0;
	if (warp == 0) {
		inbox_open(&logits_in, rank < p.n_tok ? 4 * p.n_split * p.n_expert : 0);
		inbox_open(&marks_in, 4 * p.n_tok * p.n_used);
	}
	cluster_arrive();
	float b_router = 0.f, b_select = 0.f;
	if (e < p.n_expert) {
		b_router = router_bias(p.b_router, p.bias_dtype, e);
		if (MODE == BY_SCORE && p.select_bias)
			b_select = p.select_bias[e];
	}
	const bool norms = NORM && rank < p.n_tok && threadIdx.x < p.n_embd / 8; /* CTA t norms token t */
	const uint4 g_norm = norms ? __ldg(static_cast<const uint4 *>(p.norm) + threadIdx.x) : make_uint4(0, 0, 0, 0);
	pdl_wait();
	const int n_real = route_n_real(p);

	uint4 row = {};
	if (norms)
		row = __ldcg(static_cast<const uint4 *>(p.x) + (size_t)rank * (p.n_embd / 8) + threadIdx.x);
	if (works) {
		const uint16_t *x[NT];
#pragma unroll
		for (int n = 0; n < NT; n++)
			x[n] = static_cast<const uint16_t *>(p.x) + (size_t)min(n * 8 + g, p.n_tok - 1) * p.n_embd + q * 8;
		for (int s = warp; s < n_local; s += ROUTE_JOIN_WARPS) {
			const int first = slice_first(n_block, s0 + s), last = slice_first(n_block, s0 + s + 1);
			float acc[NT][4] = {};
			if (s != warp)
				router_load_w(f, wr, hi_step, first, last);
			router_slice<NT, NORM>(f, wr, hi_step, x, first, last, acc, NORM ? static_cast<const uint16_t *>(p.norm) + q * 8 : nullptr);
			router_put<NT>(red + s * red_slice(NT), acc);
		}
	}
	if constexpr (NORM) {
		const float sum = warp_sum(norm_squares(row));
		if (lane == 0)
			squares[warp] = sum;
	}
	__syncthreads();
	cluster_wait(); /* every CTA has started and opened its inboxes */
	if (works)
		for (int i = threadIdx.x; i < 16 * 8 * NT; i += blockDim.x) {
			const int to = row_block * 16 + (i & 15), t = i >> 4; /* token t is CTA t's */
			if (to < p.n_expert && t < p.n_tok)
				cluster_store(cluster_address(inbox + split * p.n_expert + to, t),
				              tree_sum(red + (i & 15) * red_row(NT) + (i >> 4), red_slice(NT), n_local), cluster_address(&logits_in, t));
		}
	float r = 1;
	if constexpr (NORM) { /* the bits of rmsnorm.cu */
		float sum = 0;
#pragma unroll
		for (int i = 0; i < ROUTE_JOIN_WARPS; i++)
			sum += squares[i];
		r = 1 / sqrtf(sum / (float)p.n_embd + p.eps);
		if (norms)
			static_cast<uint4 *>(p.h)[(size_t)rank * (p.n_embd / 8) + threadIdx.x] = norm_apply(row, g_norm, r);
	}
	if (rank >= p.n_chunk)
		return; /* gets nothing, routes nothing */
	inbox_wait(&logits_in);
	int id = -1;
	float w = 0.f, denominator = 0.f;
	const int t = rank;
	if (e < p.n_expert && p.n_tok > 0) {
		float sum = tree_sum(inbox + e, p.n_expert, p.n_split);
		if constexpr (NORM)
			sum = __fmul_rn(sum, r);
		const float l = route_add(sum, b_router);
		if (MODE == BY_ID)
			logit[e] = l;
		else
			block.put<MODE>(p, e, l, b_select);
		if (p.logits_out)
			p.logits_out[(size_t)t * p.n_expert + e] = l;
	}
	__syncthreads();
	const bool has = warp == 0 && p.n_tok > 0;
	if (has) {
		if (MODE == BY_ID) {
			const route_row_global row = { logit, MOXIE_LOGIT_F32 };
			const float none[J] = {};
			route_begin<J, MODE>(p, n_real, t, row, none, sel, id, w, denominator);
		} else {
			route_begin_block<J, MODE>(p, n_real, t, block, sel, id, denominator);
		}
	}
	const int local = route_local_id(p, id);
	auto finish = [&] {
		if (MODE != BY_ID)
			w = route_end<MODE>(p, block, sel, denominator, id);
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
	if (has) {
		mark_cluster(p, mark, &marks_in, rank, stride, p.n_chunk, local, 1u);
		finish();
	}
	if (p.n_tok > 1)
		inbox_wait(&marks_in);
	route_tables(p, rank, p.n_chunk, 1, mark, stride, base, part, local);
}

template <int MODE, int NT, bool NORM> static const void *joined_mode(int n_expert)
{
	switch (route_lane_experts(n_expert)) {
	case 1: return reinterpret_cast<const void *>(&router_route_kernel<1, MODE, NT, NORM>);
	case 2: return reinterpret_cast<const void *>(&router_route_kernel<2, MODE, NT, NORM>);
	case 4: return reinterpret_cast<const void *>(&router_route_kernel<4, MODE, NT, NORM>);
	default: return reinterpret_cast<const void *>(&router_route_kernel<8, MODE, NT, NORM>);
	}
}
template <int NT, bool NORM> static const void *joined_of(int mode, int n_expert)
{
	return mode == BY_LOGIT   ? joined_mode<BY_LOGIT, NT, NORM>(n_expert)
	       : mode == BY_SCORE ? joined_mode<BY_SCORE, NT, NORM>(n_expert)
	                          : reinterpret_cast<const void *>(&router_route_kernel<1, BY_ID, NT, NORM>);
}
constexpr int NT_MAX = 2; /* token groups of 8 */

extern "C" cudaError_t route_joined_set_attributes(int smem_max)
{
	const int n_expert[] = { 32, 64, 128, ROUTE_JOIN_EXPERT_MAX };
	for (int i = 0; i < 12; i++)
		for (const void *kernel : { joined_of<1, false>(i / 4, n_expert[i % 4]), joined_of<NT_MAX, false>(i / 4, n_expert[i % 4]),
		                            joined_of<1, true>(i / 4, n_expert[i % 4]), joined_of<NT_MAX, true>(i / 4, n_expert[i % 4]) }) {
			cudaError_t rc = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
			if (!rc)
				rc = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem_max);
			if (rc)
				return rc;
		}
	return cudaSuccess;
}

extern "C" cudaError_t route_launch_joined(const struct route_param *param, cudaStream_t stream, bool pdl)
{
	route_param p = *param;
	const int mode = p.hash_table ? BY_ID : p.score == MOXIE_SCORE_SOFTMAX ? BY_LOGIT : BY_SCORE, nt = p.n_tok <= 8 ? 1 : NT_MAX;
	p.n_row_block = (p.n_expert + 15) / 16;
	p.split_shift = 0;
	while (p.n_row_block << (p.split_shift + 1) <= ROUTE_JOIN_CTAS)
		p.split_shift++;
	p.n_split = 1 << p.split_shift;
	p.chunk = 1, p.n_chunk = p.n_tok ? p.n_tok : 1;
	const size_t smem = 4 * ((size_t)red_floats(p, nt) + inbox_floats(p) + (size_t)p.n_chunk * mark_stride(p));
	const void *const kernel = p.norm ? (nt == 1 ? joined_of<1, true>(mode, p.n_expert) : joined_of<NT_MAX, true>(mode, p.n_expert))
	                                  : (nt == 1 ? joined_of<1, false>(mode, p.n_expert) : joined_of<NT_MAX, false>(mode, p.n_expert));
	return cuda_launch_untyped(kernel, pdl, ROUTE_JOIN_CTAS, dim3(ROUTE_JOIN_CTAS), dim3(32 * ROUTE_JOIN_WARPS), smem, stream, &p);
}

extern "C" int route_joined_max_clusters(void)
{
	int n = 0;
	if (cuda_max_clusters(&n, joined_of<1, false>(BY_LOGIT, 128), ROUTE_JOIN_CTAS, dim3(ROUTE_JOIN_CTAS), dim3(32 * ROUTE_JOIN_WARPS), 64 << 10)) {
		cudaGetLastError();
		return 0;
	}
	return n;
}

extern "C" int route_join_limit(int n_expert, int n_embd)
{
	return n_expert <= ROUTE_JOIN_EXPERT_MAX && (size_t)n_expert * n_embd * 2 <= 1u << 20 ? ROUTE_JOIN_TOK_MAX : 0;
}
