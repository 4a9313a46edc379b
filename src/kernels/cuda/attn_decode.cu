/* attn_decode - attention of spans of one or a few rows, split over the context.
 *
 *   o, q   [n_tok, n_head, d_head] bf16      k, v  [n_page, n_head_kv, KV_PAGE, d_head] bf16      formula: kernels.h attn_args
 *
 * Map (docs/attention.md has a drawing).  The rows of an MMA are the (row, query head) pairs that share a KV head, 16 a tile:
 *   grid  (chunk, KV head, sequence x tile of 16 pairs), CTAs past a sequence's chunks leave at once
 *   CTA   one chunk of pages, 4 warps; its tiles of TILE keys go round the warps
 *   warp  its own K and V tile in shared memory, its own running max, sum and output; no barrier until the end.  The next K
 *         tile is fetched as soon as the scores are out, the next V tile after the products with V.
 *   Then the 4 warps' results are joined, in warp order; the last CTA of a (sequence, KV head, tile) joins the chunks, in
 *   chunk order.  Sequences of one chunk skip that.
 * Chunks: a multiple of 4 pages, so that there are at most attn_max_chunk(n_head_kv) - a function of the sequence's own
 *   position and of the shape.  So a row's bits depend neither on the batch nor on the grid.
 * Numerics: bf16 products, fp32 sums, online softmax in base 2 with ex2.approx (2 ulp), weights rounded to bf16 for the
 *   product with V but not for their sum; one rounding to bf16 at the end.  Fixed order: bitwise repeatable.
 * Rows past the last position of a page are never read (their fetch is filled with zeros), so NaN there is harmless.
 * Cost: reads K and V once, 4 d_head n_head_kv bytes a position: 2 KB for GPT-OSS, 0.48 ns at 4.3 TB/s.
 * Source: Dao, FlashAttention-2 (arXiv 2307.08691) and Flash-Decoding (2023); fragment layouts: PTX ISA, mma.m16n8k16.
 * Test: build/cuda/test_attn decode    Bench: build/cuda/bench_attn decode
 */
#include <algorithm>

#include "attn.cuh"
#include "device/launch.cuh"

constexpr int N_WARP = 4, ROWS = 16;
constexpr int ROW_CHUNKS = 4096;  /* scratch holds so many (row, chunk) results of all heads: 128 rows of 32 chunks */
constexpr int CHUNK_PAGES = N_WARP; /* the least: one page a warp */

static __host__ __device__ int attn_max_chunk(int n_head_kv)
{
	const int n = 256 / n_head_kv; /* one long sequence then makes about 2 CTAs an SM */
	return n < 8 ? 8 : n > 128 ? 128 : n;
}
/* Pages of a chunk of a row that sees n_page pages. */
static __device__ int attn_chunk_pages(int n_page, int max_chunk)
{
	return CHUNK_PAGES * ((n_page + CHUNK_PAGES * max_chunk - 1) / (CHUNK_PAGES * max_chunk));
}

__device__ __forceinline__ int count_acq_rel(int32_t *p)
{
	int before;
	asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], 1;" : "=r"(before) : "l"(p) : "memory");
	return before;
}

/* Where partial results go: slot = ((z * n_head_kv + ihkv) * n_chunk + chunk) * n_row + row of the tile. */
struct decode_scratch {
	int32_t *counter; /* [z, n_head_kv] */
	float *o;         /* [slot, d_head] */
	float2 *ml;       /* [slot] max, sum */
	int n_row;
};

__device__ __forceinline__ void ldsm4(uint32_t (&d)[4], uint32_t addr)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(addr) : "memory");
}
__device__ __forceinline__ void ldsm4_trans(uint32_t (&d)[4], uint32_t addr)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
	             : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
	             : "r"(addr)
	             : "memory");
}
__device__ __forceinline__ void mma16816(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
	             : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
	             : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/* What a warp has of its rows g and g + 8 (g = lane / 4): running max and this lane's share of the sum, on the base-2 scale;
 * o[nt]: channels 8 nt + 2 (lane % 4) + {0, 1} of row g, then of row g + 8. */
template <int D> struct rows_state {
	float max[2], sum[2], o[D / 8][4];
};

/* Scores of one K tile: s[nt] = rows g, g + 8 x keys 8 nt + 2 (lane % 4) + {0, 1}. */
template <int D> __device__ __forceinline__ void tile_scores(float (&s)[tile_of<D>::KEYS / 8][4], const uint32_t (&q)[D / 16][4], uint32_t k)
{
	const int lane = threadIdx.x % 32;
#pragma unroll
	for (int np = 0; np < tile_of<D>::KEYS / 16; np++) {
#pragma unroll
		for (int i = 0; i < 4; i++)
			s[2 * np][i] = s[2 * np + 1][i] = 0;
#pragma unroll
		for (int ks = 0; ks < D / 16; ks++) {
			uint32_t b[4];
			ldsm4(b, k + tile_of<D>::at(np * 16 + lane / 16 * 8 + lane % 8, ks * 2 + lane / 8 % 2));
			mma16816(s[2 * np], q[ks], b[0], b[1]);
			mma16816(s[2 * np + 1], q[ks], b[2], b[3]);
		}
	}
}

/* Online softmax of one tile: masks, raises the max, rescales o, leaves the weights in s.  key0: position of the tile's first
 * key; row i sees keys lo[i] .. hi[i]. */
template <int D>
__device__ __forceinline__ void tile_softmax(float (&s)[tile_of<D>::KEYS / 8][4], rows_state<D> &r, int key0, const int (&lo)[2], const int (&hi)[2],
                                             float scale_log2)
{
	const int lane = threadIdx.x % 32;
#pragma unroll
	for (int half = 0; half < 2; half++) {
		float m = r.max[half];
#pragma unroll
		for (int nt = 0; nt < tile_of<D>::KEYS / 8; nt++)
#pragma unroll
			for (int i = 0; i < 2; i++) {
				const int key = key0 + nt * 8 + lane % 4 * 2 + i;
				float &v = s[nt][2 * half + i];
				v = key >= lo[half] && key <= hi[half] ? v * scale_log2 : -INFINITY;
				m = fmaxf(m, v);
			}
		m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
		m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
		const float base = m == -INFINITY ? 0 : m, scale = exp2_approx(r.max[half] - base); /* no key seen yet: all weights 0 */
		float sum = r.sum[half] * scale;
#pragma unroll
		for (int nt = 0; nt < tile_of<D>::KEYS / 8; nt++)
#pragma unroll
			for (int i = 0; i < 2; i++) {
				float &v = s[nt][2 * half + i];
				v = exp2_approx(v - base);
				sum += v;
			}
		r.max[half] = m;
		r.sum[half] = sum;
#pragma unroll
		for (int nt = 0; nt < D / 8; nt++) {
			r.o[nt][2 * half] *= scale;
			r.o[nt][2 * half + 1] *= scale;
		}
	}
}

template <int D> __device__ __forceinline__ void tile_values(rows_state<D> &r, const float (&s)[tile_of<D>::KEYS / 8][4], uint32_t v)
{
	const int lane = threadIdx.x % 32;
#pragma unroll
	for (int ks = 0; ks < tile_of<D>::KEYS / 16; ks++) {
		const float *x = s[2 * ks], *y = s[2 * ks + 1];
		const uint32_t a[4] = { pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(y[0], y[1]), pack_bf16(y[2], y[3]) };
#pragma unroll
		for (int np = 0; np < D / 16; np++) {
			uint32_t b[4];
			ldsm4_trans(b, v + tile_of<D>::at(ks * 16 + lane / 8 % 2 * 8 + lane % 8, np * 2 + lane / 16));
			mma16816(r.o[2 * np], a, b[0], b[1]);
			mma16816(r.o[2 * np + 1], a, b[2], b[3]);
		}
	}
}

/* The rows of one CTA: row r of the tile is pair `first + r` of (row of the span, head of the group). */
struct decode_rows {
	int first, n, group, ihkv, row0, pos0;
	__device__ int64_t at(const attn_param &p, int r) const
	{
		const int x = first + r;
		return (int64_t)(row0 + x / group) * p.n_head + ihkv * group + x % group;
	}
	__device__ int head(int r) const { return ihkv * group + (first + r) % group; }
	__device__ int pos(int r) const { return pos0 + (first + r) / group; }
};

/* All tiles from tile0 up to tile1 that are this warp's: every N_WARP-th. */
template <int D>
__device__ void attend(rows_state<D> &r, const attn_param &p, const decode_rows &rows, int seq, int tile0, int tile1, int last, uint32_t smem)
{
	using tile = tile_of<D>;
	const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4;
	const uint32_t k_at = smem, v_at = smem + tile::BYTES;
	const int first = tile0 + warp, n = tile1 > first ? (tile1 - first + N_WARP - 1) / N_WARP : 0;
	int page = 0; /* lane i: page of tile first + N_WARP * (i + 32 * (number of refills)) */
	const auto refill = [&](int i) {
		const int x = first + N_WARP * (i + lane);
		if (x < tile1)
			page = attn_page(p, seq, x / tile::PER_PAGE);
	};
	const auto source = [&](int i) {
		const int x = first + N_WARP * i;
		return attn_page_at(p, __shfl_sync(~0u, page, i % 32), rows.ihkv, D) + x % tile::PER_PAGE * (tile::KEYS * D);
	};
	const auto n_key = [&](int i) { return last + 1 - (first + N_WARP * i) * tile::KEYS; };

	uint32_t q[D / 16][4];
	int lo[2], hi[2];
#pragma unroll
	for (int half = 0; half < 2; half++) {
		const int x = g + 8 * half;
		const bool real = x < rows.n;
		const __nv_bfloat16 *src = p.q + rows.at(p, real ? x : 0) * D;
		hi[half] = real ? rows.pos(x) : -1;
		lo[half] = real ? attn_first_key(hi[half], p.window) : 0;
		r.max[half] = -INFINITY;
		r.sum[half] = 0;
#pragma unroll
		for (int ks = 0; ks < D / 16; ks++) {
			q[ks][half] = real ? *(const uint32_t *)(src + ks * 16 + lane % 4 * 2) : 0;
			q[ks][half + 2] = real ? *(const uint32_t *)(src + ks * 16 + 8 + lane % 4 * 2) : 0;
		}
	}
#pragma unroll
	for (int nt = 0; nt < D / 8; nt++)
#pragma unroll
		for (int i = 0; i < 4; i++)
			r.o[nt][i] = 0;
	if (!n)
		return;
	refill(0);
	int64_t at = source(0);
	tile::fetch(k_at, p.k + at, n_key(0));
	cp_async_commit();
	tile::fetch(v_at, p.v + at, n_key(0));
	cp_async_commit();
	for (int i = 0; i < n; i++) {
		float s[tile::KEYS / 8][4];
		cp_async_wait<1>();
		__syncwarp();
		tile_scores<D>(s, q, k_at);
		__syncwarp();
		if (i + 1 < n) {
			if ((i + 1) % 32 == 0)
				refill(i + 1);
			at = source(i + 1);
			tile::fetch(k_at, p.k + at, n_key(i + 1));
		}
		cp_async_commit();
		tile_softmax<D>(s, r, (first + N_WARP * i) * tile::KEYS, lo, hi, p.scale_log2);
		cp_async_wait<1>();
		__syncwarp();
		tile_values<D>(r, s, v_at);
		__syncwarp();
		if (i + 1 < n)
			tile::fetch(v_at, p.v + at, n_key(i + 1));
		cp_async_commit();
	}
	cp_async_wait<0>();
#pragma unroll
	for (int half = 0; half < 2; half++)
		for (int x = 1; x < 4; x *= 2)
			r.sum[half] += __shfl_xor_sync(~0u, r.sum[half], x);
}

/* Joins n results of each row, in order: part(i, row) -> (max, sum), value(i, row, ch) -> 4 channels; then the row's sink, and
 * out(row, ch, 4 channels, joined (max, sum)). */
template <int D, class PART, class VALUE, class OUT> __device__ __forceinline__ void join(int n, int n_row, PART part, VALUE value, OUT out)
{
	for (int x = threadIdx.x; x < n_row * (D / 4); x += 32 * N_WARP) {
		const int row = x / (D / 4), ch = x % (D / 4) * 4;
		float max = -INFINITY, sum = 0;
		for (int i = 0; i < n; i++)
			max = fmaxf(max, part(i, row).x);
		float4 acc = {};
#pragma unroll 8
		for (int i = 0; i < n; i++) {
			const float2 ml = part(i, row);
			const float w = ml.x == -INFINITY ? 0 : exp2_approx(ml.x - max);
			const float4 v = value(i, row, ch);
			sum += w * ml.y;
			acc.x += w * v.x, acc.y += w * v.y, acc.z += w * v.z, acc.w += w * v.w;
		}
		out(row, ch, acc, make_float2(max, sum));
	}
}

template <int D>
__global__ void __launch_bounds__(32 * N_WARP) attn_decode_kernel(const __grid_constant__ attn_param p, const __grid_constant__ decode_scratch ws, int seq0, int n_tile,
                                                                  int max_row)
{
	using tile = tile_of<D>;
	extern __shared__ __align__(128) char smem[];
	__shared__ float2 warp_ml[N_WARP][ROWS];
	__shared__ int is_last;
	const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, chunk = blockIdx.x, ihkv = blockIdx.y;
	const int seq = seq0 + blockIdx.z / n_tile, group = p.n_head / p.n_head_kv;
	pdl_launch();
	pdl_wait();
	const struct span span = p.span[seq];
	decode_rows rows = { (int)blockIdx.z % n_tile * ROWS, 0, group, ihkv, span.row0, span.pos0 };
	rows.n = min(ROWS, span.n_row * group - rows.first);
	if (rows.n <= 0 || span.n_row > max_row)
		return;
	const int last = rows.pos(rows.n - 1), first = attn_first_key(rows.pos(0), p.window), page0 = first / KV_PAGE, n_page = last / KV_PAGE + 1 - page0;
	const int pages = attn_chunk_pages(n_page, attn_max_chunk(p.n_head_kv)), n_chunk = (n_page + pages - 1) / pages;
	if (chunk >= n_chunk)
		return;

	/* Tiles of the chunk, less those before the first key and behind the last. */
	const int tile0 = max((page0 + chunk * pages) * tile::PER_PAGE, first / tile::KEYS);
	const int tile1 = min((page0 + (chunk + 1) * pages) * tile::PER_PAGE, last / tile::KEYS + 1);
	rows_state<D> r;
	attend<D>(r, p, rows, seq, tile0, tile1, last, smem_u32(smem) + warp * 2 * tile::BYTES);

	/* Each warp lays its rows into its own tiles' memory: [ROWS, D] fp32 is no more than that. */
	static_assert(ROWS * D * 4 <= 2 * tile::BYTES, "a warp's results fit where its tiles were");
	float *const mine = (float *)(smem + warp * 2 * tile::BYTES);
	__syncwarp();
#pragma unroll
	for (int half = 0; half < 2; half++) {
		const int x = lane / 4 + 8 * half;
#pragma unroll
		for (int nt = 0; nt < D / 8; nt++)
			*(float2 *)(mine + x * D + nt * 8 + lane % 4 * 2) = make_float2(r.o[nt][2 * half], r.o[nt][2 * half + 1]);
		if (lane % 4 == 0)
			warp_ml[warp][x] = make_float2(r.max[half], r.sum[half]);
	}
	__syncthreads();

	const auto store = [&](int row, int ch, float4 v, float2 ml) {
		const float sink = attn_sink(p, rows.head(row)), top = fmaxf(ml.x, sink), w = exp2_approx(ml.x - top);
		const float inv = w / (ml.y * w + exp2_approx(sink - top));
		*(uint2 *)(p.o + rows.at(p, row) * D + ch) = make_uint2(pack_bf16(v.x * inv, v.y * inv), pack_bf16(v.z * inv, v.w * inv));
	};
	const auto warp_part = [&](int i, int row) { return warp_ml[i][row]; };
	const auto warp_value = [&](int i, int row, int ch) { return *(const float4 *)(smem + i * 2 * tile::BYTES + (row * D + ch) * 4); };
	if (n_chunk == 1) {
		join<D>(N_WARP, rows.n, warp_part, warp_value, store);
		return;
	}
	const int64_t owner = (int64_t)blockIdx.z * p.n_head_kv + ihkv;
	const auto slot = [&](int i, int row) { return (owner * gridDim.x + i) * ws.n_row + row; };
	join<D>(N_WARP, rows.n, warp_part, warp_value, [&](int row, int ch, float4 v, float2 ml) {
		__stcg((float4 *)(ws.o + slot(chunk, row) * D + ch), v);
		if (ch == 0)
			__stcg(ws.ml + slot(chunk, row), ml);
	});
	__syncthreads(); /* thread 0's release covers what the others wrote */
	if (threadIdx.x == 0)
		is_last = count_acq_rel(ws.counter + owner) == n_chunk - 1;
	__syncthreads();
	if (!is_last)
		return;
	float2 *const ml = (float2 *)smem; /* [n_chunk, ROWS] */
	for (int x = threadIdx.x; x < n_chunk * rows.n; x += 32 * N_WARP)
		ml[x / rows.n * ROWS + x % rows.n] = __ldcg(ws.ml + slot(x / rows.n, x % rows.n));
	if (threadIdx.x == 0)
		ws.counter[owner] = 0;
	__syncthreads();
	join<D>(n_chunk, rows.n, [&](int i, int row) { return ml[i * ROWS + row]; },
	        [&](int i, int row, int ch) { return __ldcg((const float4 *)(ws.o + slot(i, row) * D + ch)); }, store);
}

bool attn_decode_serves(int d_head) { return d_head == 64 || d_head == 128 || d_head == 256; }

size_t attn_decode_scratch(int n_tok, int n_head, int n_head_kv, int d_head)
{
	const size_t row_chunks = std::min<size_t>(ROW_CHUNKS, (size_t)n_tok * attn_max_chunk(n_head_kv));
	return CUDA_COUNTER_BYTES + std::max<size_t>(row_chunks, ROWS * attn_max_chunk(n_head_kv)) * n_head * (d_head + 2) * sizeof(float);
}

template <int D>
static cudaError_t launch(const cuda_dev *d, const attn_param &p, int n_seq, int max_row)
{
	const int group = p.n_head / p.n_head_kv, n_tile = (max_row * group + ROWS - 1) / ROWS, bytes = N_WARP * 2 * tile_of<D>::BYTES;
	/* A row sees at most the pages of its window, wherever that begins: one more than a ring may have. */
	const int window_pages = p.window > 0 ? (p.window + max_row - 2) / KV_PAGE + 2 : INT32_MAX, n_page = p.ring ? window_pages : std::min(p.n_page_seq, window_pages);
	const int n_chunk = std::min(attn_max_chunk(p.n_head_kv), (n_page + CHUNK_PAGES - 1) / CHUNK_PAGES);
	decode_scratch ws = {};
	ws.n_row = std::min(ROWS, max_row * group);
	int most = n_seq; /* sequences a launch */
	if (n_chunk > 1) {
		const size_t slot_bytes = (D + 2) * sizeof(float), n_slot = d->scratch_bytes > CUDA_COUNTER_BYTES ? (d->scratch_bytes - CUDA_COUNTER_BYTES) / slot_bytes : 0;
		const size_t per_seq = (size_t)n_tile * p.n_head_kv * n_chunk * ws.n_row, counters = CUDA_COUNTER_BYTES / sizeof(int32_t) / (n_tile * p.n_head_kv);
		most = (int)std::min<size_t>(std::min(n_slot / per_seq, counters), n_seq);
		if (!most)
			return cudaErrorInvalidValue;
		ws.counter = (int32_t *)d->scratch;
		ws.o = (float *)((char *)d->scratch + CUDA_COUNTER_BYTES);
		ws.ml = (float2 *)(ws.o + most * per_seq * D);
	}
	cudaError_t e = cudaFuncSetAttribute(attn_decode_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
	for (int s = 0; s < n_seq && e == cudaSuccess; s += most)
		e = cuda_launch(attn_decode_kernel<D>, dim3(n_chunk, p.n_head_kv, std::min(most, n_seq - s) * n_tile), 32 * N_WARP, bytes, d->stream, p, ws, s, n_tile, max_row);
	return e;
}

cudaError_t attn_decode(const cuda_dev *d, const attn_param &p, int n_seq, int max_row)
{
	return p.d_head == 64 ? launch<64>(d, p, n_seq, max_row) : p.d_head == 128 ? launch<128>(d, p, n_seq, max_row) : launch<256>(d, p, n_seq, max_row);
}
