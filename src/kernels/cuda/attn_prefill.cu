/* attn_prefill - attention of spans of many rows on wgmma.
 *
 *   o, q   [n_tok, n_head, 64] bf16      k, v  [n_page, n_head_kv, KV_PAGE, 64] bf16      formula: kernels.h attn_args
 *
 * Map.  A row of the MMA is a pair (row of the span, query head of the group), heads fastest: the group's heads share every K
 * and V tile, and a tile of 128 pairs spans few positions, so that little of a window or a diagonal is masked.
 *   grid  (tile of BLOCK_M pairs of one span, KV head); the last tiles, which see most keys, come first
 *   CTA   N_WG warpgroups of 64 pairs each; the first warp also has pages of 64 keys fetched, N_STAGE deep; CTAS CTAs an SM
 *   Per page and warpgroup:  S = Q K^T (RS, Q in registers), online softmax in registers, O += P V (RS, V read transposed).
 *   S of page j and P V of page j - 1 are both under way while the warps work out softmax; the other warpgroups fill the rest.
 * The running max is raised only when a score exceeds it by 2^8: weights stay below 2^8 in fp32 and bf16 keeps its relative
 *   precision, and almost every rescaling of O is saved.
 * Numerics: bf16 products, fp32 sums, ex2.approx (2 ulp), weights rounded to bf16 for the product with V but not for their
 *   sum; one rounding to bf16 at the end.  Fixed order: bitwise repeatable.
 * Rows past the span's last position are never read (filled with zeros), so NaN there is harmless.
 * Cost: per 64 pairs and 64 keys 256 clocks of MMA and 256 of ex2 (16 a clock and SM), 150 of issue: at best 790 TFLOP/s of
 *   seen keys, half of it if the two did not overlap.
 * Source: Dao, FlashAttention-2 (arXiv 2307.08691); Shah et al., FlashAttention-3 (arXiv 2407.08608); PTX ISA, wgmma.
 * Test: build/cuda/test_attn prefill    Bench: build/cuda/bench_attn prefill
 */
#include "attn_tile.cuh"
#include "device/launch.cuh"
#include "tensor_map.h"

constexpr int D = 64, N_WG = 2, BLOCK_M = 64 * N_WG, N_STAGE = 4, PAGE_BYTES = KV_PAGE * D * 2;
constexpr int THREADS = 128 * N_WG, CTAS = 2, MAX_SPAN = 96; /* CTAS an SM: one's start and end hide behind the other */
constexpr float RAISE = 8;
static_assert(KV_PAGE == 64, "a page is one tile of keys");

struct prefill_span {
	int row0, n_row, pos0, seq, tile0; /* tile0: tiles of the spans before */
};
struct prefill_table {
	int n;
	prefill_span s[MAX_SPAN];
};

/* d = a b, or d += a b: m64n64k16, a from registers, b from shared memory: TRANS ? [k][n] : [n][k]. */
template <bool ADD, bool TRANS> __device__ __forceinline__ void wgmma_m64n64(float (&d)[32], const uint32_t (&a)[4], uint64_t b)
{
	asm volatile("{ .reg .pred p; setp.ne.b32 p, %37, 0;\n"
	             "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16\n"
	             "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23,"
	             " %24, %25, %26, %27, %28, %29, %30, %31},\n"
	             "{%32, %33, %34, %35}, %36, p, 1, 1, %38; }\n"
	             : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
	               "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
	               "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
	               "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
	             : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(ADD), "n"(TRANS));
}

/* The tile of pairs of one CTA, and the pages it sees. */
struct prefill_tile {
	int seq, row0, pos0, n_pair, first; /* of the span; first pair of the tile */
	int group, ihkv;
	int page0, n_page, last;            /* last position of the span */
	__device__ int pos(int pair) const { return pos0 + pair / group; }
	__device__ int64_t at(const attn_param &p, int pair) const
	{
		return ((int64_t)(row0 + pair / group) * p.n_head + ihkv * group + pair % group) * D;
	}
};

struct pipe {
	uint32_t smem, full_k, full_v, empty_k, empty_v; /* barriers: 8 bytes a stage */
	__device__ uint32_t k(int s) const { return smem + s * 2 * PAGE_BYTES; }
	__device__ uint32_t v(int s) const { return smem + s * 2 * PAGE_BYTES + PAGE_BYTES; }
};

/* The CTA's fetches, by its first warp: whole pages by the copy engine, a span's last, part-filled page with zeros behind its
 * keys by the warp itself. */
struct fetcher {
	const attn_param &p;
	const prefill_tile &t;
	const pipe &to;
	const CUtensorMap *k_map, *v_map;
	int ids = 0; /* lane's page id of page 32 n + lane */

	/* Page j into the tile at dst, once all warps have left that. */
	__device__ __forceinline__ void page(int j, uint32_t dst, const CUtensorMap *map, const __nv_bfloat16 *pages, uint32_t empty,
	                                     uint32_t full) const
	{
		const int row = (__shfl_sync(~0u, ids, j % 32) * p.n_head_kv + t.ihkv) * KV_PAGE, n_key = t.last + 1 - (t.page0 + j) * KV_PAGE;
		mbar_wait(empty, j / N_STAGE & 1 ^ 1);
		if (n_key >= KV_PAGE) {
			if (threadIdx.x == 0) {
				mbar_expect(full, PAGE_BYTES);
				tma_load2(dst, map, 0, row, full);
			}
		} else {
			tile_of<D, KV_PAGE>::fetch(dst, pages + (int64_t)row * D, n_key);
			cp_async_commit();
			cp_async_wait<0>();
			proxy_fence();
			__syncwarp();
			if (threadIdx.x == 0)
				mbar_arrive(full);
		}
		__syncwarp();
	}
	__device__ __forceinline__ void find_pages(int j)
	{
		if (j + (int)threadIdx.x < t.n_page)
			ids = attn_page(p, t.seq, t.page0 + j + threadIdx.x);
	}
	__device__ __forceinline__ void k(int j) const
	{
		if (j < t.n_page)
			page(j, to.k(j % N_STAGE), k_map, (const __nv_bfloat16 *)p.k, to.empty_k + 8 * (j % N_STAGE), to.full_k + 8 * (j % N_STAGE));
	}
	__device__ __forceinline__ void v(int j) const
	{
		if (j < t.n_page)
			page(j, to.v(j % N_STAGE), v_map, (const __nv_bfloat16 *)p.v, to.empty_v + 8 * (j % N_STAGE), to.full_v + 8 * (j % N_STAGE));
	}
};

/* A thread's rows g and g + 8 of its warp's 16: the running max (base 2, the same in the four lanes of a row), the raw score from
 * which on it is raised, the thread's share of the sum; position, -1: no row. */
struct rows_state {
	float max[2], limit[2], sum[2];
	int pos[2];
};

/* Raises the max of rows whose largest score m, of this thread's keys, is past the limit in any lane; scale[i]: what O of row i is
 * to be multiplied by. */
__device__ void raise(rows_state &r, const float (&m)[2], float (&scale)[2], float scale_log2)
{
#pragma unroll
	for (int half = 0; half < 2; half++) {
		float x = fmaxf(m[half], __shfl_xor_sync(~0u, m[half], 1));
		x = fmaxf(x, __shfl_xor_sync(~0u, x, 2));
		scale[half] = 1;
		if (x > r.limit[half]) {
			x *= scale_log2;
			scale[half] = exp2_approx(r.max[half] - x); /* 0 at the first key */
			r.max[half] = x;
			r.limit[half] = (x + RAISE) / scale_log2;
			r.sum[half] *= scale[half];
		}
	}
}

/* Scores of the page at key0 become weights.  Returns whether the max was raised, and then scale. */
__device__ __forceinline__ bool softmax(float (&s)[32], rows_state &r, float (&scale)[2], int key0, bool masked, uint32_t window,
                                        float scale_log2)
{
	const int lane = threadIdx.x % 32;
	if (masked)
#pragma unroll
		for (int i = 0; i < 32; i++) {
			const int key = key0 + i / 4 * 8 + lane % 4 * 2 + i % 2;
			if ((uint32_t)(r.pos[i / 2 % 2] - key) >= window) /* keys after the row's position wrap round */
				s[i] = -INFINITY;
		}
	/* Several short chains: one long one would wait for itself. */
	float m[2], chain[8];
#pragma unroll
	for (int i = 0; i < 8; i++)
		chain[i] = fmaxf(s[i], s[i + 8]);
#pragma unroll
	for (int i = 16; i < 32; i++)
		chain[i % 8] = fmaxf(chain[i % 8], s[i]);
#pragma unroll
	for (int half = 0; half < 2; half++)
		m[half] = fmaxf(fmaxf(chain[2 * half], chain[2 * half + 1]), fmaxf(chain[2 * half + 4], chain[2 * half + 5]));
	const bool raised = __any_sync(~0u, m[0] > r.limit[0] || m[1] > r.limit[1]);
	if (raised)
		raise(r, m, scale, scale_log2);
	const float base[2] = { r.max[0] == -INFINITY ? 0 : r.max[0], r.max[1] == -INFINITY ? 0 : r.max[1] }; /* no key seen yet: all weights 0 */
#pragma unroll
	for (int i = 0; i < 8; i++)
		chain[i] = s[i] = exp2_approx(fmaf(s[i], scale_log2, -base[i / 2 % 2]));
#pragma unroll
	for (int i = 8; i < 32; i++) {
		s[i] = exp2_approx(fmaf(s[i], scale_log2, -base[i / 2 % 2]));
		chain[i % 8] += s[i];
	}
#pragma unroll
	for (int half = 0; half < 2; half++)
		r.sum[half] += (chain[2 * half] + chain[2 * half + 1]) + (chain[2 * half + 4] + chain[2 * half + 5]);
	return raised;
}

/* One warp of a warpgroup: 16 pairs, all pages. */
__device__ __forceinline__ void consume(const attn_param &p, const prefill_tile &t, const pipe &pipe, const CUtensorMap *k_map,
                                        const CUtensorMap *v_map)
{
	const int lane = threadIdx.x % 32, pair0 = t.first + threadIdx.x / 32 * 16;
	const uint32_t window = p.window > 0 ? p.window : INT32_MAX;
	rows_state r;
	uint32_t q[4][4], w[4][4];
	float o[32], s[32], scale[2];
#pragma unroll
	for (int half = 0; half < 2; half++) {
		const int x = pair0 + lane / 4 + 8 * half;
		const bool real = x < t.n_pair;
		const __nv_bfloat16 *src = p.q + t.at(p, real ? x : 0) + lane % 4 * 2;
		r.pos[half] = real ? t.pos(x) : -1;
		r.max[half] = r.limit[half] = -INFINITY;
		r.sum[half] = 0;
#pragma unroll
		for (int ks = 0; ks < 4; ks++) {
			q[ks][half] = real ? *(const uint32_t *)(src + ks * 16) : 0;
			q[ks][half + 2] = real ? *(const uint32_t *)(src + ks * 16 + 8) : 0;
		}
	}
#pragma unroll
	for (int i = 0; i < 32; i++)
		o[i] = 0;
	/* Pages that all 16 pairs see whole need no mask. */
	const bool full = pair0 + 15 < t.n_pair;
	const int whole_lo = full ? attn_first_key(t.pos(pair0 + 15), p.window) : 0, whole_hi = full ? t.pos(pair0) : -1;
	const auto masked = [&](int key0) { return key0 < whole_lo || key0 + KV_PAGE - 1 > whole_hi; };
	const auto scores = [&](int j) {
		const uint32_t k = wgmma_desc_low(pipe.k(j % N_STAGE));
		mbar_wait(pipe.full_k + 8 * (j % N_STAGE), j / N_STAGE & 1);
		wgmma_fence();
		wgmma_m64n64<false, false>(s, q[0], wgmma_desc(k));
#pragma unroll
		for (int ks = 1; ks < 4; ks++)
			wgmma_m64n64<true, false>(s, q[ks], wgmma_desc(k + 2 * ks));
		wgmma_commit();
	};
	const auto values = [&](int j) {
		const uint32_t v = wgmma_desc_low(pipe.v(j % N_STAGE));
		mbar_wait(pipe.full_v + 8 * (j % N_STAGE), j / N_STAGE & 1);
		wgmma_fence();
#pragma unroll
		for (int ks = 0; ks < 4; ks++)
			wgmma_m64n64<true, true>(o, w[ks], wgmma_desc(v + 128 * ks));
		wgmma_commit();
	};
	const auto release = [&](uint32_t empty, int j) {
		if (lane == 0)
			mbar_arrive(empty + 8 * (j % N_STAGE));
	};
	/* s holds the weights of page j - 1: waits until O has page j - 2 in it, and brings O to the max of s. */
	bool raised;
	const auto take_weights = [&](int j) {
		wgmma_wait<0>();
		pin(o);
		if (j >= 2)
			release(pipe.empty_v, j - 2);
		if (raised)
#pragma unroll
			for (int i = 0; i < 32; i++)
				o[i] *= scale[i / 2 % 2];
#pragma unroll
		for (int ks = 0; ks < 4; ks++)
#pragma unroll
			for (int i = 0; i < 4; i++)
				w[ks][i] = pack_bf16(s[8 * ks + 2 * i], s[8 * ks + 2 * i + 1]);
	};
	const auto weights = [&](int j) {
		const int key0 = (t.page0 + j) * KV_PAGE;
		pin(s);
		release(pipe.empty_k, j);
		raised = softmax(s, r, scale, key0, masked(key0), window, p.scale_log2);
	};
	fetcher fetch = { p, t, pipe, k_map, v_map };
	if (threadIdx.x < 32) {
		fetch.find_pages(0);
#pragma unroll 1
		for (int j = 0; j < N_STAGE - 1; j++) {
			fetch.k(j);
			if (j < N_STAGE - 2)
				fetch.v(j);
		}
	}
	scores(0);
	wgmma_wait<0>();
	weights(0);
	for (int j = 1; j < t.n_page; j++) { /* ends with the weights: over the loop's edge ptxas does not move the next wait above them */
		take_weights(j);
		scores(j);
		values(j - 1);
		if (threadIdx.x < 32) { /* into tiles that most warps left a turn ago */
			fetch.v(j + N_STAGE - 3);
			if ((j + N_STAGE - 2) % 32 == 0)
				fetch.find_pages(j + N_STAGE - 2);
			fetch.k(j + N_STAGE - 2);
		}
		wgmma_wait<1>();
		weights(j);
	}
	take_weights(t.n_page);
	values(t.n_page - 1);
	wgmma_wait<0>();
	pin(o);

#pragma unroll
	for (int half = 0; half < 2; half++) {
		const float sum = quad_sum(r.sum[half]);
		const int x = pair0 + lane / 4 + 8 * half;
		if (x >= t.n_pair)
			continue;
		const float factor = row_factor(p, t.ihkv * t.group + x % t.group, sum, r.max[half]);
		__nv_bfloat16 *to = p.o + t.at(p, x) + lane % 4 * 2;
#pragma unroll
		for (int nt = 0; nt < 8; nt++)
			*(uint32_t *)(to + nt * 8) = pack_bf16(o[4 * nt + 2 * half] * factor, o[4 * nt + 2 * half + 1] * factor);
	}
}

__global__ void __launch_bounds__(THREADS, CTAS)
attn_prefill_kernel(const __grid_constant__ attn_param p, const __grid_constant__ prefill_table table,
                    const __grid_constant__ CUtensorMap k_map, const __grid_constant__ CUtensorMap v_map)
{
	extern __shared__ char smem_raw[];
	__shared__ uint64_t bar[4][N_STAGE];
	const int tile = gridDim.x - 1 - blockIdx.x;
	pipe pipe = { (smem_u32(smem_raw) + 1023) & ~1023u, smem_u32(bar[0]), smem_u32(bar[1]), smem_u32(bar[2]), smem_u32(bar[3]) };
	if (threadIdx.x == 0) {
		for (int s = 0; s < N_STAGE; s++) {
			mbar_init(pipe.full_k + 8 * s, 1);
			mbar_init(pipe.full_v + 8 * s, 1);
			mbar_init(pipe.empty_k + 8 * s, 4 * N_WG);
			mbar_init(pipe.empty_v + 8 * s, 4 * N_WG);
		}
		mbar_init_fence();
	}
	__syncthreads();
	int i = 0;
	while (i + 1 < table.n && table.s[i + 1].tile0 <= tile)
		i++;
	const prefill_span &sp = table.s[i];
	prefill_tile t = {};
	t.seq = sp.seq, t.row0 = sp.row0, t.pos0 = sp.pos0;
	t.group = p.n_head / p.n_head_kv, t.ihkv = blockIdx.y;
	t.n_pair = sp.n_row * t.group, t.first = (tile - sp.tile0) * BLOCK_M;
	t.page0 = attn_first_key(t.pos(t.first), p.window) / KV_PAGE;
	t.n_page = t.pos(min(t.first + BLOCK_M, t.n_pair) - 1) / KV_PAGE + 1 - t.page0;
	t.last = sp.pos0 + sp.n_row - 1;
	pdl_launch();
	pdl_wait();
	consume(p, t, pipe, &k_map, &v_map);
}

bool attn_prefill_serves(const attn_param &p) { return p.d_head == D && p.scale_log2 > 0; }

cudaError_t attn_prefill(const cuda_dev *d, const attn_param &p, const span *spans, int n_seq, int min_row)
{
	const int group = p.n_head / p.n_head_kv, bytes = N_STAGE * 2 * PAGE_BYTES + 1024;
	cudaError_t e = cudaFuncSetAttribute(attn_prefill_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
	CUtensorMap k_map, v_map;
	const uint64_t dim[2] = { D, 1ull << 31 }; /* the view does not tell how many pages there are */
	const uint32_t box[2] = { D, KV_PAGE };
	if (e == cudaSuccess)
		e = tensor_map(&k_map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, p.k, 2, dim, box, CU_TENSOR_MAP_L2_PROMOTION_L2_256B);
	if (e == cudaSuccess)
		e = tensor_map(&v_map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, p.v, 2, dim, box, CU_TENSOR_MAP_L2_PROMOTION_L2_256B);
	prefill_table table = {};
	int n_tile = 0;
	for (int s = 0; s < n_seq && e == cudaSuccess; s++) {
		if (spans[s].n_row > min_row) {
			table.s[table.n++] = { spans[s].row0, spans[s].n_row, spans[s].pos0, s, n_tile };
			n_tile += (spans[s].n_row * group + BLOCK_M - 1) / BLOCK_M;
		}
		if (n_tile && (table.n == MAX_SPAN || s == n_seq - 1)) {
			e = cuda_launch(attn_prefill_kernel, dim3(n_tile, p.n_head_kv), THREADS, bytes, d->stream, p, table, k_map, v_map);
			table.n = n_tile = 0;
		}
	}
	return e;
}
