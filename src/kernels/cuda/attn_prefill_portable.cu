/* attn_prefill_portable - attention of spans of many rows with nothing newer than sm_80: mma.sync m16n8k16, cp.async, ldmatrix.
 *
 *   o, q   [n_tok, n_head, 64] bf16      k, v  [n_page, n_head_kv, KV_PAGE, 64] bf16      formula: kernels.h attn_args
 *
 * Map.  A row of the MMA is a pair (row of the span, query head of the group), heads fastest, as in attn_prefill.cu: the group's heads
 * share every K and V tile.
 *   grid  (tile of 128 pairs of one span, KV head), a launch a span; the last tiles, which see most keys, come first
 *   CTA   8 warps of 16 pairs; all copy pages of 64 keys, one page ahead: 32 KB of shared memory
 * Numerics: as attn_decode.cu (bf16 products, fp32 sums, base-2 online softmax, weights rounded to bf16 for the product with V but not
 *   for their sum).  Fixed order: bitwise repeatable, and a row's bits do not depend on the batch.
 * Rows past the span's last position are never read (filled with zeros), so NaN there is harmless.
 * Source: Dao, FlashAttention-2 (arXiv 2307.08691).
 * Test: MOXIE_TEST_PORTABLE=64 build/cuda/test_attn    Bench: build/cuda/bench_attn
 */
#include "attn_tile.cuh"
#include "device/launch.cuh"

constexpr int D = 64, N_WARP = 8, BLOCK_M = 16 * N_WARP, N_STAGE = 2, PAGE_BYTES = KV_PAGE * D * 2, STRIP = KV_PAGE / N_WARP;
using page_tile = tile_of<D, KV_PAGE>;
static_assert(STRIP == 8, "a warp copies 8 keys of a page: the swizzle repeats after 8 rows");

__global__ void __launch_bounds__(32 * N_WARP, 2)
attn_prefill_portable_kernel(const __grid_constant__ attn_param p, const __grid_constant__ span sp, int seq)
{
	extern __shared__ __align__(128) char smem[];
	const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, ihkv = blockIdx.y, group = p.n_head / p.n_head_kv;
	const int first = (gridDim.x - 1 - blockIdx.x) * BLOCK_M, n_pair = sp.n_row * group, pair0 = first + warp * 16;
	const int last = sp.pos0 + sp.n_row - 1;
	const auto pos_of = [&](int pair) { return sp.pos0 + pair / group; };
	const auto at_of = [&](int pair) { return ((int64_t)(sp.row0 + pair / group) * p.n_head + ihkv * group + pair % group) * D; };
	const int page0 = attn_first_key(pos_of(first), p.window) / KV_PAGE;
	const int n_page = pos_of(min(first + BLOCK_M, n_pair) - 1) / KV_PAGE + 1 - page0;
	const uint32_t ring = smem_u32(smem), strip = warp * STRIP * D * 2;
	pdl_wait();
	pdl_launch(); /* not earlier: attn_decode may follow, see cuda_ops.h */
	const auto fetch = [&](int j) {
		if (j < n_page) {
			const int64_t from = attn_page_at(p, attn_page(p, seq, page0 + j), ihkv, D) + warp * STRIP * D;
			const int n_key = last + 1 - (page0 + j) * KV_PAGE - warp * STRIP;
			const uint32_t to = ring + j % N_STAGE * 2 * PAGE_BYTES + strip;
			tile_of<D, STRIP>::fetch(to, (const char *)p.k + from * sizeof(__nv_bfloat16), n_key);
			tile_of<D, STRIP>::fetch(to + PAGE_BYTES, (const char *)p.v + from * sizeof(__nv_bfloat16), n_key);
		}
		cp_async_commit();
	};
	fetch(0);

	warp_rows<D, false> r;
	r.reset();
#pragma unroll
	for (int half = 0; half < 2; half++) {
		const int x = pair0 + lane / 4 + 8 * half;
		const bool real = x < n_pair;
		const __nv_bfloat16 *src = p.q + at_of(real ? x : 0) + lane % 4 * 2;
		r.pos[half] = real ? pos_of(x) : -1;
#pragma unroll
		for (int ks = 0; ks < D / 16; ks++) {
			r.q[ks][half] = real ? *(const uint32_t *)(src + ks * 16) : 0;
			r.q[ks][half + 2] = real ? *(const uint32_t *)(src + ks * 16 + 8) : 0;
		}
	}
	/* Pages that all 16 pairs see whole need no mask; those that none of them sees are skipped. */
	const bool full = pair0 + 15 < n_pair;
	const int whole_lo = full ? attn_first_key(pos_of(pair0 + 15), p.window) : 0, whole_hi = full ? pos_of(pair0) : -1;
	const int seen_lo = attn_first_key(pos_of(min(pair0, n_pair - 1)), p.window), seen_hi = pair0 < n_pair ? pos_of(min(pair0 + 15, n_pair - 1)) : -1;
	for (int j = 0; j < n_page; j++) {
		const int key0 = (page0 + j) * KV_PAGE;
		const uint32_t k = ring + j % N_STAGE * 2 * PAGE_BYTES;
		fetch(j + 1);
		cp_async_wait<1>();
		__syncthreads();
		if (key0 <= seen_hi && key0 + KV_PAGE > seen_lo) {
			float s[KV_PAGE / 8][4];
			tile_scores<D, KV_PAGE>(s, r, k);
			tile_softmax<D, KV_PAGE>(s, r, key0, key0 < whole_lo || key0 + KV_PAGE - 1 > whole_hi, p.window > 0 ? p.window : INT32_MAX, p.scale_log2);
			tile_values<D, KV_PAGE>(r, s, k + PAGE_BYTES);
		}
		__syncthreads(); /* before the next page but one comes here */
	}
#pragma unroll
	for (int half = 0; half < 2; half++) {
		const float sum = quad_sum(r.sum[half]);
		const int x = pair0 + lane / 4 + 8 * half;
		if (x >= n_pair)
			continue;
		const float factor = row_factor(p, ihkv * group + x % group, sum, r.max[half]);
		__nv_bfloat16 *to = p.o + at_of(x) + lane % 4 * 2;
#pragma unroll
		for (int nt = 0; nt < D / 8; nt++)
			*(uint32_t *)(to + nt * 8) = pack_bf16(r.o[nt][2 * half] * factor, r.o[nt][2 * half + 1] * factor);
	}
}

cudaError_t attn_prefill_portable(const cuda_dev *d, const attn_param &p, const span *spans, int n_seq, int min_row)
{
	const int group = p.n_head / p.n_head_kv;
	cudaError_t e = cudaSuccess;
	for (int s = 0; s < n_seq && e == cudaSuccess; s++)
		if (spans[s].n_row > min_row)
			e = cuda_launch(attn_prefill_portable_kernel, dim3((spans[s].n_row * group + BLOCK_M - 1) / BLOCK_M, p.n_head_kv), dim3(32 * N_WARP),
			                N_STAGE * 2 * PAGE_BYTES, d->stream, p, spans[s], s);
	return e;
}
