/* dense_portable - a dense product with nothing newer than sm_80: mma.sync m16n8k16, operands straight from global memory.
 *
 *   P[n][t] = sum_k w[n][k] x[t][k], then dense_out.cuh       w [n_out, n_in] bf16   x [n_tok, n_in] bf16
 *
 * A CTA makes 16 rows x 8*NT tokens: 8 warps take an eighth of K each (route_gemm.cuh: the quad of a row loads 64 bytes of it, and
 * nothing is staged, so no shared memory limits the loads in flight), their sums meet in shared memory.  The 16 rows are two eights, low
 * and high: of gemm rows 16 i .. and 16 i + 8 .., of qkv 8 rope pairs' first and second.  Any n_tok, meant for few: a token tile reads
 * all of w again, from L2; above, cuBLASLt serves (dense.cu).
 * Needs n_in % 32 == 0, qkv: d_head % 8 == 0.
 * Numerics: a warp adds its part of K in order in fp32, the 8 sums are joined as a balanced tree: the same for every n_tok.
 * Test: MOXIE_TEST_PORTABLE=64 build/cuda/test_dense    Bench: build/cuda/bench_dense
 */
#include "dense_out.cuh"
#include "device/launch.cuh"
#include "device/ptx.cuh"
#include "route_gemm.cuh"

constexpr int WARPS = 8;

struct portable_param {
	struct dense_out out;
	const uint16_t *x, *w;
	int n_in;
};

/* Rows of the weights that are low and high number g of row block `tile`; clamped to what is there. */
__device__ __forceinline__ int2 dense_row_pair(const struct dense_out &o, int tile, int g)
{
	if (!o.qkv) {
		const int lo = tile * 16 + g;
		return make_int2(min(lo, o.n_out - 1), min(lo + 8, o.n_out - 1));
	}
	const int half = o.d_head / 2, pair = min(tile * 8 + g, o.n_out / 2 - 1), head = pair / half, lo = head * o.d_head + pair - head * half;
	return make_int2(lo, lo + half);
}

template <int NT> __global__ void __launch_bounds__(32 * WARPS) dense_portable_kernel(const __grid_constant__ portable_param p)
{
	__shared__ float red[WARPS * red_slice(NT)];
	const struct dense_out &o = p.out;
	const int warp = threadIdx.x / 32, lane = threadIdx.x & 31, g = lane / 4, q = lane & 3, tile = blockIdx.x, t0 = blockIdx.y * 8 * NT;
	const int n_block = p.n_in / 32, first = n_block * warp / WARPS, last = n_block * (warp + 1) / WARPS;
	const int2 row = dense_row_pair(o, tile, g);
	const uint16_t *const w = p.w + (size_t)row.x * p.n_in + q * 8;
	const size_t hi_step = (size_t)(row.y - row.x) * p.n_in;

	if (!o.qkv)
		pdl_launch();
	router_w f;
	router_load_w(f, w, hi_step, first, last);
	pdl_wait();
	if (o.qkv)
		pdl_launch(); /* not earlier: see cuda_ops.h */
	const uint16_t *x[NT];
#pragma unroll
	for (int n = 0; n < NT; n++)
		x[n] = p.x + (size_t)min(t0 + n * 8 + g, o.n_tok - 1) * p.n_in + q * 8;
	float acc[NT][4] = {};
	router_slice<NT>(f, w, hi_step, x, first, last, acc);
	router_put<NT>(red + warp * red_slice(NT), acc);
	__syncthreads();
	const int n_tok = min(8 * NT, o.n_tok - t0);
	const auto sum = [&](int r, int t) { return tree_sum<WARPS>(red + r * red_row(NT) + t, red_slice(NT)); };
	if (o.qkv) {
		const int half = o.d_head / 2, n_pair = o.n_out / 2;
		for (int i = threadIdx.x; i < 8 * n_tok; i += blockDim.x) {
			const int t = i / 8, r = i % 8, pair = tile * 8 + r, head = pair / half;
			if (pair < n_pair) dense_put(dense_pair_at(o, t0 + t, head, pair - head * half), sum(r, t), sum(r + 8, t));
		}
	} else
		for (int i = threadIdx.x; i < 16 * n_tok; i += blockDim.x) {
			const int t = i / 16, r = i % 16, n = tile * 16 + r;
			if (n < o.n_out) dense_put(dense_one_at(o, t0 + t, n), sum(r, t));
		}
}

extern "C" cudaError_t dense_portable(const struct cuda_dev *d, const struct dense_job *j)
{
	const portable_param p = { j->out, static_cast<const uint16_t *>(j->x), static_cast<const uint16_t *>(j->w), j->n_in };
	const int n_tok = j->out.n_tok, nt = n_tok <= 8 ? 1 : n_tok <= 16 ? 2 : 4, n_group = (n_tok + 8 * nt - 1) / (8 * nt);
	const dim3 grid((j->out.n_out + 15) / 16, n_group);
	if (n_group > 65535)
		return cudaErrorInvalidConfiguration;
	return cuda_launch(nt == 1   ? dense_portable_kernel<1>
	                   : nt == 2 ? dense_portable_kernel<2>
	                             : dense_portable_kernel<4>,
	                   grid, dim3(32 * WARPS), 0, d->stream, p);
}
