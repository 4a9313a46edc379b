/* router_gemm - logits of the router: few experts, any number of tokens.
 *
 *   logits[t][e] = sum_k x[t][k] w[e][k] + b[e]
 *   x [n_tok, n_embd] bf16   w [n_expert, n_embd] bf16   b [n_expert] f32 or bf16, or NULL   logits [n_tok, n_expert] f32
 *
 * A CTA makes 16 experts x 8*NT tokens of one of n_split parts of K; the parts are the CTAs of a cluster and add up over
 * distributed shared memory.  Warps take slices of K straight from global memory (route_gemm.cuh).  Weights are the M
 * operand, so one token wastes tensor cores, not bandwidth.
 * Needs n_embd % 64 == 0, 16-byte aligned x and w.  W is loaded before the wait for the previous kernel.
 * Numerics: f32 accumulation in 32 slices joined by a balanced tree, whatever n_tok: a token's bits do not depend on the
 *   batch (the library path does not promise that).
 * Cost: W once per token group of 8*NT, x once per 16 experts, all from L2 after the first; floor 2 n_expert n_embd bytes.
 * NORM: as in moe_route_joined.cu, the products take x times the norm's weights, sums are multiplied by 1 / rms, normed rows are made too.
 * Test: build/cuda/test_route gemm    Bench: build/cuda/bench_route gemm
 */
#include "device/launch.cuh"
#include "moe_route.h"
#include "route_gemm.cuh"

struct gemm_param {
	const uint16_t *x, *w;
	const void *b;
	float *logits;
	int n_tok, n_expert, n_embd, bias_dtype, n_split;
	/* NORM: x stands before RMSNorm with weights norm [n_embd] bf16; its rows go to h.  A CTA needs 1 / rms of the tokens whose logits
	 * it finishes, so it norms those; of the CTAs with the same tokens one stores each. */
	const uint4 *norm;
	uint4 *h;
	float eps;
};
constexpr int GEMM_WARPS = 16; /* at most: one for each slice of a CTA's part of K, and no fewer than 8 */
constexpr int NORM_WARPS = 8;  /* NORM: always */
constexpr int NORM_VEC = ROUTER_NORM_EMBD_MAX / 8 / (32 * NORM_WARPS); /* eight channels each, of a thread and row */

/* 1 / rms of rows t .. t + n - 1 into r, and normed rows i with i % n_writer == writer into h. */
__device__ __forceinline__ void norm_rows(const gemm_param &p, int t, int n, int writer, int n_writer, float *r, float (*part)[NORM_VEC * NORM_WARPS])
{
	const int per = p.n_embd / 8, warp = threadIdx.x / 32;
	const uint4 *const x = reinterpret_cast<const uint4 *>(p.x);
	for (int i = 0; i < n; i++) {
		uint4 row[NORM_VEC];
		float *const sums = part[i & 1];
#pragma unroll
		for (int v = 0; v < NORM_VEC; v++) {
			const int at = v * 32 * NORM_WARPS + threadIdx.x;
			row[v] = at < per ? __ldcg(x + (size_t)(t + i) * per + at) : make_uint4(0, 0, 0, 0);
		}
#pragma unroll
		for (int v = 0; v < NORM_VEC; v++) {
			const float sum = warp_sum(norm_squares(row[v]));
			if (threadIdx.x % 32 == 0)
				sums[v * NORM_WARPS + warp] = sum;
		}
		__syncthreads();
		float sum = 0;
#pragma unroll
		for (int j = 0; j < NORM_VEC * NORM_WARPS; j++)
			sum += sums[j];
		const float by = 1 / sqrtf(sum / (float)p.n_embd + p.eps);
		if (threadIdx.x == 0)
			r[i] = by;
		if (i % n_writer == writer)
#pragma unroll
			for (int v = 0; v < NORM_VEC; v++) {
				const int at = v * 32 * NORM_WARPS + threadIdx.x;
				if (at < per)
					p.h[(size_t)(t + i) * per + at] = norm_apply(row[v], __ldg(p.norm + at), by);
			}
	}
}

template <int NT, bool NORM> __global__ void __launch_bounds__(32 * GEMM_WARPS) router_gemm_kernel(const __grid_constant__ gemm_param p)
{
	extern __shared__ __align__(16) float red[]; /* n_local slices, then the inbox [n_split][share] */
	__shared__ uint64_t barrier;
	__shared__ float rms[NORM ? 8 * NT : 1], part[NORM ? 2 : 1][NORM_VEC * NORM_WARPS];
	constexpr int TILE = 16 * 8 * NT;
	const int warp = threadIdx.x / 32, lane = threadIdx.x & 31, g = lane / 4, q = lane & 3;
	const int split = blockIdx.x, e0 = blockIdx.y * 16, t0 = blockIdx.z * 8 * NT;
	const int n_local = ROUTE_N_SLICE / p.n_split, n_block = p.n_embd / 32;
	const int lo = min(e0 + g, p.n_expert - 1), hi = min(e0 + g + 8, p.n_expert - 1);
	const size_t hi_step = (size_t)(hi - lo) * p.n_embd;
	const uint16_t *const w = p.w + (size_t)lo * p.n_embd + q * 8;

	pdl_launch();
	router_w f;
	const int s0 = split * n_local + warp;
	if (warp < n_local)
		router_load_w(f, w, hi_step, slice_first(n_block, s0), slice_first(n_block, s0 + 1));
	if (p.n_split > 1) {
		if (warp == 0)
			inbox_open(&barrier, 4 * TILE);
		cluster_arrive();
	}
	pdl_wait();
	const uint16_t *x[NT];
#pragma unroll
	for (int n = 0; n < NT; n++)
		x[n] = p.x + (size_t)min(t0 + n * 8 + g, p.n_tok - 1) * p.n_embd + q * 8;
	for (int s = warp; s < n_local; s += blockDim.x / 32) {
		const int first = slice_first(n_block, split * n_local + s), last = slice_first(n_block, split * n_local + s + 1);
		float acc[NT][4] = {};
		if (s != warp)
			router_load_w(f, w, hi_step, first, last);
		router_slice<NT, NORM>(f, w, hi_step, x, first, last, acc, NORM ? reinterpret_cast<const uint16_t *>(p.norm) + q * 8 : nullptr);
		router_put<NT>(red + s * red_slice(NT), acc);
	}
	__syncthreads();
	/* Output i = token * 16 + expert of the tile belongs to CTA i / share of the cluster. */
	const int share = TILE / p.n_split;
	float *const inbox = red + n_local * red_slice(NT);
	auto sum_of = [&](int i) { return tree_sum(red + (i & 15) * red_row(NT) + (i >> 4), red_slice(NT), n_local); };
	if (p.n_split > 1) {
		cluster_wait(); /* every CTA has started and opened its inbox */
		for (int i = threadIdx.x; i < TILE; i += blockDim.x) {
			const int owner = i / share;
			cluster_store(cluster_address(inbox + split * share + (i - owner * share), owner), sum_of(i), cluster_address(&barrier, owner));
		}
	}
	if constexpr (NORM) { /* while sums travel */
		const int first = t0 + split * share / 16;
		norm_rows(p, first, min(share / 16, p.n_tok - first), blockIdx.y, gridDim.y, rms, part);
		__syncthreads();
	}
	if (p.n_split > 1)
		inbox_wait(&barrier);
	for (int i = threadIdx.x; i < share; i += blockDim.x) {
		const int at = split * share + i, e = e0 + (at & 15), t = t0 + (at >> 4);
		if (e < p.n_expert && t < p.n_tok) {
			float v = p.n_split > 1 ? tree_sum(inbox + i, share, p.n_split) : sum_of(at);
			if constexpr (NORM)
				v = __fmul_rn(v, rms[i >> 4]);
			p.logits[(size_t)t * p.n_expert + e] = route_add(v, router_bias(p.b, p.bias_dtype, e));
		}
	}
}

extern "C" void router_gemm_grid(int n_tok, int n_expert, int n_sm, int *nt, int *n_split, int *n_cta)
{
	/* As few tokens a CTA as leave every tile its 8 parts of K; above 32 tokens as many as leave it 4.  n_sm 0: one part. */
	const int rows = (n_expert + 15) / 16;
	*nt = n_tok <= 8 || rows * ((n_tok + 7) / 8) * 8 <= n_sm                                         ? 1
	      : n_tok <= 32 || n_sm == 0 || (n_tok <= 64 && rows * ((n_tok + 15) / 16) * 4 <= n_sm) ? 2
	                                                                                             : 4;
	const int tiles = rows * ((n_tok + 8 * *nt - 1) / (8 * *nt));
	*n_split = 8;
	while (*n_split > 1 && tiles * *n_split > n_sm)
		*n_split /= 2;
	*n_cta = tiles * *n_split;
}

template <bool NORM> static const void *kernel_of(int nt)
{
	return nt == 1   ? reinterpret_cast<const void *>(&router_gemm_kernel<1, NORM>)
	       : nt == 2 ? reinterpret_cast<const void *>(&router_gemm_kernel<2, NORM>)
	                 : reinterpret_cast<const void *>(&router_gemm_kernel<4, NORM>);
}

extern "C" cudaError_t router_gemm_set_attributes(bool clusters)
{
	for (int nt = 1; nt <= (clusters ? 4 : 2); nt *= 2) { /* 72 KB at most: with clusters only, or 39 KB */
		for (const void *kernel : { kernel_of<false>(nt), kernel_of<true>(nt) }) {
			cudaError_t rc = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 4 * (ROUTE_N_SLICE * red_slice(nt) + 128 * nt));
			if (rc)
				return rc;
		}
	}
	return cudaSuccess;
}

extern "C" cudaError_t router_gemm_launch(const void *x, const void *w, const void *b, int bias_dtype, float *logits, int n_tok, int n_expert,
                                          int n_embd, int n_sm, const struct router_norm *norm, cudaStream_t stream, bool pdl)
{
	gemm_param p = { static_cast<const uint16_t *>(x), static_cast<const uint16_t *>(w), b, logits, n_tok, n_expert, n_embd, bias_dtype, 1,
		norm ? static_cast<const uint4 *>(norm->w) : NULL, norm ? static_cast<uint4 *>(norm->h) : NULL, norm ? norm->eps : 0 };
	int nt, n_cta;
	if (n_tok == 0)
		return cudaSuccess;
	router_gemm_grid(n_tok, n_expert, n_sm, &nt, &p.n_split, &n_cta);
	const int n_group = (n_tok + 8 * nt - 1) / (8 * nt), group_max = 65535;
	if (n_group > group_max)
		return cudaErrorInvalidConfiguration;
	const size_t smem = 4 * (size_t)(ROUTE_N_SLICE / p.n_split * red_slice(nt) + 128 * nt);
	const int n_warp = norm ? NORM_WARPS : ROUTE_N_SLICE / p.n_split > 8 ? GEMM_WARPS : 8;
	return cuda_launch_untyped(norm ? kernel_of<true>(nt) : kernel_of<false>(nt), pdl, p.n_split, dim3(p.n_split, (n_expert + 15) / 16, n_group),
	                           dim3(32 * n_warp), smem, stream, &p);
}
