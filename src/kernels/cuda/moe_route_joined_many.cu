/* router_route_many - router GEMM, top-k, weights and tables in one launch of one cluster of 16 CTAs, n_tok <= 64, n_expert <= 32.
 *
 * As moe_route_joined.cu, for more tokens and few experts: CTA (row block, split) multiplies 16 experts by a part of K, its warps share slices and
 * groups of 16 tokens.  CTA r owns tokens [r * chunk, (r + 1) * chunk), a warp each, lane e being expert e.  Unscored softmax rules only.
 * x, w_router, b_router, logits_out, NORM: as there.
 *
 * Numerics: f32 accumulation in 32 slices of K joined by a balanced tree: the bits of router_gemm.cu.
 * Cost: reads 2 n_expert n_embd bytes of W and x once per row block, through 16 SMs.  docs/routing.md has times.
 * Test: build/cuda/test_route joined    Bench: build/cuda/bench_route joined
 */
#include "device/launch.cuh"
#include "moe_route.h"
#include "route_gemm.cuh"
#include "route_table.cuh"
#include "route_topk.cuh"

constexpr int CHUNK_MAX = ROUTE_MANY_TOK_MAX / ROUTE_JOIN_CTAS; /* tokens of a CTA */
constexpr int NT = 2;                                           /* token groups of 8 that a warp multiplies at once */
constexpr int EXPERTS = ROUTE_MANY_EXPERT_MAX;                  /* one a lane */

template <bool NORM> __global__ void __launch_bounds__(32 * ROUTE_JOIN_WARPS, 1) router_route_many_kernel(const __grid_constant__ route_param p)
{
	__shared__ float red[ROUTE_JOIN_WARPS * red_slice(NT)];        /* [token group, slice] */
	__shared__ float inbox[CHUNK_MAX * ROUTE_JOIN_CTAS * EXPERTS]; /* [token, split, expert] */
	__shared__ __align__(16) uint32_t mark[ROUTE_JOIN_CTAS * EXPERTS], mine[EXPERTS];
	__shared__ uint32_t base[EXPERTS], part[32];
	__shared__ uint2 sel[CHUNK_MAX][MOXIE_ROUTE_MAX_USED];
	__shared__ uint64_t logits_in, marks_in;
	__shared__ float squares[CHUNK_MAX][ROUTE_JOIN_WARPS];
	const int rank = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x & 31, g = lane / 4, q = lane & 3;
	const int split = rank & (p.n_split - 1), row_block = rank >> p.split_shift, stride = (p.n_expert_here + 3) & ~3;
	const int n_block = p.n_embd / 32, n_local = ROUTE_N_SLICE >> p.split_shift, n_mine = max(0, min(p.chunk, p.n_tok - rank * p.chunk));
	const int slice = warp & (n_local - 1), n_group = ROUTE_JOIN_WARPS / n_local, per_row = p.n_embd / 8;
	const bool works = row_block < p.n_row_block;

	pdl_launch();
	route_touch(p);
	/* Rows past the last expert read the last one and are dropped later. */
	const int lo = min(row_block * 16 + g, p.n_expert - 1), hi = min(row_block * 16 + g + 8, p.n_expert - 1);
	const size_t hi_step = (size_t)(hi - lo) * p.n_embd;
	const uint16_t *const wr = static_cast<const uint16_t *>(p.w_router) + (size_t)lo * p.n_embd + q * 8;
	const int first = slice_first(n_block, split * n_local + slice), last = slice_first(n_block, split * n_local + slice + 1);
	router_w f;
	if (works)
		router_load_w(f, wr, hi_step, first, last);
	if (threadIdx.x < EXPERTS)
		mine[threadIdx.x] = 0;
	if (warp == 0) {
		inbox_open(&logits_in, 4 * n_mine * p.n_split * p.n_expert);
		inbox_open(&marks_in, 4 * stride * p.n_chunk);
	}
	cluster_arrive();
	const float b_router = lane < p.n_expert ? router_bias(p.b_router, p.bias_dtype, lane) : 0.f;
	const bool norms = NORM && (int)threadIdx.x < per_row;
	const uint4 g_norm = norms ? __ldg(static_cast<const uint4 *>(p.norm) + threadIdx.x) : make_uint4(0, 0, 0, 0);
	pdl_wait();
	const int n_real = route_n_real(p);

	uint4 row[NORM ? CHUNK_MAX : 1];
	if constexpr (NORM)
#pragma unroll
		for (int i = 0; i < CHUNK_MAX; i++)
			row[i] = norms && i < n_mine ? __ldcg(static_cast<const uint4 *>(p.x) + (size_t)(rank * p.chunk + i) * per_row + threadIdx.x) : make_uint4(0, 0, 0, 0);
	for (int group = warp / n_local; works && group * 8 * NT < p.n_tok; group += n_group) {
		const uint16_t *x[NT];
#pragma unroll
		for (int n = 0; n < NT; n++)
			x[n] = static_cast<const uint16_t *>(p.x) + (size_t)min((group * NT + n) * 8 + g, p.n_tok - 1) * p.n_embd + q * 8;
		float acc[NT][4] = {};
		router_slice<NT, NORM>(f, wr, hi_step, x, first, last, acc, NORM ? static_cast<const uint16_t *>(p.norm) + q * 8 : nullptr);
		router_put<NT>(red + (group * n_local + slice) * red_slice(NT), acc);
	}
	if constexpr (NORM)
#pragma unroll
		for (int i = 0; i < CHUNK_MAX; i++) {
			const float sum = warp_sum(norm_squares(row[i]));
			if (lane == 0)
				squares[i][warp] = sum;
		}
	__syncthreads();
	cluster_wait(); /* every CTA has started and opened its inboxes */
	if (works)
		for (int i = threadIdx.x; i < 16 * p.n_tok; i += blockDim.x) {
			const int to = row_block * 16 + (i & 15), t = i >> 4, cta = (int)(((uint32_t)t * p.by_chunk) >> 16), mine_t = t - cta * p.chunk;
			if (to < p.n_expert)
				cluster_store(cluster_address(inbox + (mine_t * p.n_split + split) * p.n_expert + to, cta),
				              tree_sum(red + t / (8 * NT) * n_local * red_slice(NT) + (i & 15) * red_row(NT) + t % (8 * NT), red_slice(NT), n_local),
				              cluster_address(&logits_in, cta));
		}
	float r = 1; /* of this warp's token */
	if constexpr (NORM) /* the bits of rmsnorm.cu */
#pragma unroll
		for (int i = 0; i < CHUNK_MAX; i++) {
			float sum = 0;
#pragma unroll
			for (int j = 0; j < ROUTE_JOIN_WARPS; j++)
				sum += squares[i][j];
			const float by = 1 / sqrtf(sum / (float)p.n_embd + p.eps);
			r = warp == i ? by : r;
			if (norms && i < n_mine)
				static_cast<uint4 *>(p.h)[(size_t)(rank * p.chunk + i) * per_row + threadIdx.x] = norm_apply(row[i], g_norm, by);
		}
	if (rank >= p.n_chunk)
		return; /* gets nothing, routes nothing */
	inbox_wait(&logits_in);
	int id = -1;
	float denominator = 0.f;
	const int t = rank * p.chunk + warp;
	const bool has = warp < n_mine;
	if (has) {
		uint32_t key[1] = { ROUTE_KEY_NONE };
		if (lane < p.n_expert) {
			float sum = tree_sum(inbox + warp * p.n_split * p.n_expert + lane, p.n_expert, p.n_split);
			if constexpr (NORM)
				sum = __fmul_rn(sum, r);
			const float l = route_add(sum, b_router);
			if (p.logits_out)
				p.logits_out[(size_t)t * p.n_expert + lane] = l;
			key[0] = route_rank_key(0, l, 0.f);
		}
		if (t < n_real)
			id = route_choose<1, BY_LOGIT>(p, key, sel[warp], denominator);
	}
	const int local = route_local_id(p, id);
	if (local >= 0)
		atomicOr(mine + local, 1u << warp);
	__syncthreads();
	send_marks(mine, mark, &marks_in, rank, stride, p.n_chunk);
	if (has)
		put_token(p, t, local, route_end<BY_LOGIT>(p, route_row_global{ nullptr, MOXIE_LOGIT_F32 }, sel[warp], denominator, id));
	inbox_wait(&marks_in);
	route_tables(p, rank, p.n_chunk, p.chunk, mark, stride, base, part, local);
}

static const void *many_of(bool norm) { return reinterpret_cast<const void *>(norm ? &router_route_many_kernel<true> : &router_route_many_kernel<false>); }

extern "C" cudaError_t route_many_set_attributes(void)
{
	const cudaError_t rc = cudaFuncSetAttribute(many_of(false), cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
	return rc ? rc : cudaFuncSetAttribute(many_of(true), cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
}

extern "C" cudaError_t route_launch_many(const struct route_param *param, cudaStream_t stream, bool pdl)
{
	route_param p = *param;
	p.n_row_block = (p.n_expert + 15) / 16;
	p.split_shift = 0;
	while (p.n_row_block << (p.split_shift + 1) <= ROUTE_JOIN_CTAS)
		p.split_shift++;
	p.n_split = 1 << p.split_shift;
	p.chunk = (p.n_tok + ROUTE_JOIN_CTAS - 1) / ROUTE_JOIN_CTAS;
	p.n_chunk = (p.n_tok + p.chunk - 1) / p.chunk;
	p.by_chunk = (65535 + p.chunk) / p.chunk;
	return cuda_launch_untyped(many_of(p.norm), pdl, ROUTE_JOIN_CTAS, dim3(ROUTE_JOIN_CTAS), dim3(32 * ROUTE_JOIN_WARPS), 0, stream, &p);
}

/* Slices of K of at most W_AHEAD blocks: a warp holds its part of W while it goes through the tokens. */
extern "C" int route_many_limit(const struct moxie_router_shape *s)
{
	return s->score == MOXIE_SCORE_SOFTMAX && s->n_group <= 1 && s->n_expert <= EXPERTS && s->n_embd <= 32 * W_AHEAD * ROUTE_N_SLICE ? ROUTE_MANY_TOK_MAX : 0;
}
