/* attn_decode - attention of spans of one or a few rows, split over the context; of any rows where d_head is 128 or 256.
 *
 *   o, q   [n_tok, n_head, d_head] bf16      k, v  [n_page, n_head_kv, KV_PAGE, d_head] bf16 or e4m3      formula: kernels.h attn_args
 *
 * Arithmetic.  The keys that a tile of rows sees are cut into tiles of KEYS, the tiles into units (at most
 *   attn_max_unit(n_head_kv)), a unit's tiles go round 4 warps.  A warp runs online softmax over its tiles; the 4 warps are
 *   joined into the unit's result; units are folded in order.  All of that follows from the row's position and the shape, so
 *   a row's bits depend neither on the batch nor on how units are given to CTAs (docs/attention.md has a drawing).
 * Map.  Rows of the MMA are the (row, query head) pairs that share a KV head, up to 16 a CTA: grid (part, KV head, sequence x
 *   tile of pairs).  A CTA takes the units of one part of the context, one after the other, its fetches running ahead across
 *   units.  Results of units meet in one of three places:
 *     gridDim.x = 1      registers: enough sequences to fill the GPU
 *     cluster            the first CTA's shared memory (st.async): few sequences, short context
 *     else               scratch, folded by the CTA that comes last: few sequences, long context
 * Numerics: bf16 products, fp32 sums, online softmax in base 2 with ex2.approx (2 ulp), weights rounded to bf16 for the
 *   product with V but not for their sum; one rounding to bf16 at the end.  A cache of e4m3: products of fp16 (attn_tile.cuh), weights
 *   rounded to fp16, queries beyond 65504 taken as that; what is left of the error is the cache's own rounding.
 * Before the wait.  What writes K and V lets this kernel start after its own wait alone (cuda_ops.h), so spans, page lists and all rows of
 *   older positions are there already: their first tiles are fetched while q and the new rows are still being made.
 * Rows past the last position of a page are never read (their fetch is filled with zeros), so NaN there is harmless.
 * Cost: reads K and V once, 4 d_head n_head_kv bytes a position: 2 KB for GPT-OSS, 0.48 ns at 4.3 TB/s; of e4m3 half of that.
 * Source: Dao, FlashAttention-2 (arXiv 2307.08691) and Flash-Decoding (2023); fragment layouts: PTX ISA, mma.m16n8k16.
 * Test: build/cuda/test_attn decode    Bench: build/cuda/bench_attn decode
 */
#include <algorithm>

#include "attn_tile.cuh"
#include "device/cluster.cuh"
#include "device/launch.cuh"

constexpr int N_WARP = 4;
constexpr int UNIT_TILES = 2 * N_WARP;       /* the least */
constexpr int ROW_UNITS = 4096;              /* scratch holds so many (row, unit) results of all heads: 128 rows of 32 units */
constexpr int MAX_CLUSTER = 16;

static __host__ __device__ int attn_max_unit(int n_head_kv)
{
	const int n = 384 / n_head_kv; /* one long sequence then makes about 3 CTAs an SM */
	return n < 8 ? 8 : n > 128 ? 128 : n;
}
/* Tiles of a unit of rows that see n_tile tiles. */
static __device__ int attn_unit_tiles(int n_tile, int max_unit)
{
	return UNIT_TILES * ((n_tile + UNIT_TILES * max_unit - 1) / (UNIT_TILES * max_unit));
}

template <int D> constexpr int KEYS = D == 64 ? 32 : 16;

/* Tiles of K and V that a warp has under way: two where CTAs are few, for latency; one where they are many, for more CTAs an SM. */
constexpr int FEW = 2, MANY = 1;

/* How a launch spreads its work. */
struct decode_grid {
	int seq0, n_pair_tile, max_row;
	bool cluster;
	int32_t *counter; /* scratch: [z, n_head_kv] */
	float *o;         /* [slot, D], slot = ((z * n_head_kv + ihkv) * max_unit + unit) * n_row + row */
	float2 *ml;       /* [slot] max, sum */
	int n_row, max_unit;
};

/* The rows of one CTA: row r of the tile is pair `first + r` of (row of the span, head of the group). */
struct decode_rows {
	int first, n, group, ihkv, row0, pos0;
	__device__ int64_t at(const attn_param &p, int r) const
	{
		const int x = first + r;
		return (int64_t)(row0 + x / group) * p.n_head + ihkv * group + x % group;
	}
	__device__ int pos(int r) const { return pos0 + (first + r) / group; }
};

/* A warp's way through the tiles of its CTA: tile i is first + N_WARP i < end. */
template <int D, int N_STAGE, bool F8> struct walker {
	using tile = tile_of<D, KEYS<D>, F8>;
	const attn_param &p;
	int seq, ihkv, first, end, last;
	uint32_t smem;            /* N_STAGE times a tile of K and one of V */
	int id0, id1, page = 0;   /* lane's ids of the whole page list where that is short; lane's page of tile 32 n + lane */
	int64_t at = 0;

	__device__ __forceinline__ bool has(int i) const { return first + N_WARP * i < end; }
	/* All keys of tile i are of positions before pos0. */
	__device__ __forceinline__ bool is_old(int i, int pos0) const { return (first + N_WARP * i + 1) * KEYS<D> <= pos0; }
	__device__ __forceinline__ uint32_t k(int i) const { return smem + i % N_STAGE * 2 * tile::BYTES; }
	__device__ __forceinline__ uint32_t v(int i) const { return k(i) + tile::BYTES; }
	/* Short lists are read before anything is known of the row: one trip to memory less. */
	__device__ __forceinline__ void guess()
	{
		const int lane = threadIdx.x % 32;
		const int32_t *list = p.page + (int64_t)seq * p.n_page_seq;
		id0 = lane < p.n_page_seq && p.n_page_seq <= 64 ? __ldcg(list + lane) : 0;
		id1 = lane + 32 < p.n_page_seq && p.n_page_seq <= 64 ? __ldcg(list + lane + 32) : 0;
	}
	__device__ __forceinline__ void find_pages(int i)
	{
		const int x = min(first + N_WARP * (i + (int)threadIdx.x % 32), end - 1) / tile::PER_PAGE;
		if (p.n_page_seq <= 64) {
			const int slot = p.ring ? x % p.n_page_seq : x, a = __shfl_sync(~0u, id0, slot % 32), b = __shfl_sync(~0u, id1, slot % 32);
			page = slot < 32 ? a : b;
		} else
			page = attn_page(p, seq, x);
	}
	__device__ __forceinline__ void fetch_k(int i)
	{
		if (has(i)) {
			const int x = first + N_WARP * i;
			if (i % 32 == 0)
				find_pages(i);
			at = attn_page_at(p, __shfl_sync(~0u, page, i % 32), ihkv, D) + x % tile::PER_PAGE * (KEYS<D> * D);
			tile::fetch(k(i), (const char *)p.k + at * tile::ELEM, last + 1 - x * KEYS<D>);
		}
		cp_async_commit();
	}
	__device__ __forceinline__ void fetch_v(int i) /* after fetch_k(i) */
	{
		if (has(i))
			tile::fetch(v(i), (const char *)p.v + at * tile::ELEM, last + 1 - (first + N_WARP * i) * KEYS<D>);
		cp_async_commit();
	}
};

/* Queries into registers, or (large heads) into the 16-row tile q in shared memory; then a barrier is due. */
template <int D, bool HALF, bool F8>
__device__ __forceinline__ void load_rows(warp_rows<D, HALF, F8> &r, const attn_param &p, const decode_rows &rows, char *q)
{
	const int lane = threadIdx.x % 32;
	r.shared_q = smem_u32(q);
#pragma unroll
	for (int half = 0; half < 2; half++) {
		const int x = lane / 4 + 8 * half;
		const bool real = x < rows.n && half < r.N;
		if (half < r.N)
			r.pos[half] = real ? rows.pos(x) : -1;
		if constexpr (!r.SHARED_Q) {
			const __nv_bfloat16 *src = p.q + rows.at(p, real ? x : 0) * D + lane % 4 * (F8 ? 4 : 2);
#pragma unroll
			for (int ks = 0; ks < D / 16; ks++) {
				const uint32_t a = real ? *(const uint32_t *)(src + ks * 16) : 0, b = real ? *(const uint32_t *)(src + ks * 16 + (F8 ? 2 : 8)) : 0;
				r.q[ks][half] = F8 ? bf16x2_to_f16x2(a) : a;
				r.q[ks][half + 2] = F8 ? bf16x2_to_f16x2(b) : b;
			}
		}
	}
	if constexpr (r.SHARED_Q)
		for (int i = threadIdx.x; i < 16 * D / 8; i += 32 * N_WARP) {
			const int row = i / (D / 8), col = i % (D / 8);
			const uint4 v = row < rows.n ? *(const uint4 *)(p.q + rows.at(p, row) * D + col * 8) : make_uint4(0, 0, 0, 0);
			if constexpr (F8) { /* channels 8 x .. of a group of 16: pairs 0 and 2 among the MMA's first eight, 1 and 3 among its second */
				const uint32_t group = col / 2 * 2, at = r.shared_q + col % 2 * 8;
				sts64(at + tile_of<D, 16>::at(row, group), bf16x2_to_f16x2(v.x), bf16x2_to_f16x2(v.z));
				sts64(at + tile_of<D, 16>::at(row, group + 1), bf16x2_to_f16x2(v.y), bf16x2_to_f16x2(v.w));
			} else
				sts128(r.shared_q + tile_of<D, 16>::at(row, col), v);
		}
}

/* Up to n of a warp's tiles from i on; i moves past them.  The fetches of the first N_STAGE tiles from i on are under way, and
 * those of the next N_STAGE are when it returns: 2 N_STAGE groups of cp.async, K before V. */
template <int D, bool HALF, int N_STAGE, bool F8>
__device__ __forceinline__ void attend(warp_rows<D, HALF, F8> &r, walker<D, N_STAGE, F8> &w, int &i, int n, int whole_lo, int whole_hi)
{
	for (int stop = i + n; i < stop && w.has(i); i++) {
		float s[KEYS<D> / 8][4];
		const int key0 = (w.first + N_WARP * i) * KEYS<D>;
		cp_async_wait<2 * N_STAGE - 1>();
		__syncwarp();
		tile_scores<D, KEYS<D>>(s, r, w.k(i));
		__syncwarp();
		w.fetch_k(i + N_STAGE);
		const bool masked = key0 < whole_lo || key0 + KEYS<D> - 1 > whole_hi;
		tile_softmax<D, KEYS<D>>(s, r, key0, masked, w.p.window > 0 ? w.p.window : INT32_MAX, w.p.scale_log2);
		cp_async_wait<2 * N_STAGE - 1>();
		__syncwarp();
		tile_values<D, KEYS<D>>(r, s, w.v(i));
		__syncwarp();
		w.fetch_v(i + N_STAGE);
	}
}

/* 4 channels of one row, summed over some keys: weights are relative to 2^max. */
struct partial {
	float max, sum;
	float4 v;
};
__device__ __forceinline__ void fold(partial &a, const partial &b)
{
	const float m = fmaxf(a.max, b.max), base = m == -INFINITY ? 0 : m, x = exp2_approx(a.max - base), y = exp2_approx(b.max - base);
	a.max = m;
	a.sum = a.sum * x + b.sum * y;
	a.v = make_float4(a.v.x * x + b.v.x * y, a.v.y * x + b.v.y * y, a.v.z * x + b.v.z * y, a.v.w * x + b.v.w * y);
}

/* Shared memory of the 4 warps' results of one unit. */
template <int D, int ROWS> struct exchange {
	static constexpr int STRIDE = D + 8; /* floats of a row; the 8 keep rows out of each other's banks */
	float v[N_WARP][ROWS][STRIDE];
	float2 ml[N_WARP][ROWS];

	template <bool HALF, bool F8> __device__ __forceinline__ void put(warp_rows<D, HALF, F8> &r)
	{
		const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
		for (int half = 0; half < r.N; half++) {
			const int x = lane / 4 + 8 * half;
			const float sum = quad_sum(r.sum[half]);
			if (lane % 4 == 0)
				ml[warp][x] = make_float2(r.max[half], sum);
			if constexpr (F8) { /* even channels in one tile, odd ones in the next */
#pragma unroll
				for (int n = 0; n < D / 8; n += 2)
					*(float4 *)&v[warp][x][n * 8 + lane % 4 * 4] =
						make_float4(r.o[n][2 * half], r.o[n + 1][2 * half], r.o[n][2 * half + 1], r.o[n + 1][2 * half + 1]);
			} else
#pragma unroll
				for (int n = 0; n < D / 8; n++)
					*(float2 *)&v[warp][x][n * 8 + lane % 4 * 2] = make_float2(r.o[n][2 * half], r.o[n][2 * half + 1]);
		}
	}
	__device__ __forceinline__ partial get(int row, int ch) const
	{
		partial a = { ml[0][row].x, ml[0][row].y, *(const float4 *)&v[0][row][ch] };
#pragma unroll
		for (int w = 1; w < N_WARP; w++)
			fold(a, { ml[w][row].x, ml[w][row].y, *(const float4 *)&v[w][row][ch] });
		return a;
	}
};

template <int D, bool HALF, int N_STAGE, bool F8>
__global__ void __launch_bounds__(32 * N_WARP, N_STAGE == MANY && D == 64 ? 4 : 1)
attn_decode_kernel(const __grid_constant__ attn_param p, const __grid_constant__ decode_grid g)
{
	using tile = tile_of<D, KEYS<D>, F8>;
	constexpr int ROWS = HALF ? 8 : 16, N_ITEM = ROWS * (D / 4) / (32 * N_WARP);
	extern __shared__ __align__(128) char smem[];
	char *const q = smem + N_WARP * N_STAGE * 2 * tile::BYTES;
	exchange<D, ROWS> &x = *(exchange<D, ROWS> *)(q + warp_rows<D, HALF>::Q_BYTES);
	float *const box = (float *)(&x + 1); /* cluster: [unit, row of rows.n, D + 4], the last four: max, sum */
	__shared__ uint64_t box_full;
	__shared__ int is_last;
	const int warp = threadIdx.x / 32, part = blockIdx.x, ihkv = blockIdx.y, seq = g.seq0 + blockIdx.z / g.n_pair_tile;
	/* One sequence has few keys under way, which would stand behind the weights that the next kernel asks for at once. */
	const bool late = gridDim.z == 1;
	if (!late)
		pdl_launch();
	float sink[N_ITEM]; /* weights may be read before the kernel before has ended */
#pragma unroll
	for (int i = 0; i < N_ITEM; i++) {
		const int pair = blockIdx.z % g.n_pair_tile * ROWS + (i * 32 * N_WARP + threadIdx.x) / (D / 4), group = p.n_head / p.n_head_kv;
		sink[i] = attn_sink(p, ihkv * group + pair % group);
	}
	walker<D, N_STAGE, F8> w = { p, seq, ihkv, 0, 0, 0, smem_u32(smem) + warp * N_STAGE * 2 * tile::BYTES };
	w.guess();
	const int *const at = reinterpret_cast<const int *>(p.span + seq);
	const struct span span = { __ldcg(at), __ldcg(at + 1), __ldcg(at + 2) };
	decode_rows rows = { (int)blockIdx.z % g.n_pair_tile * ROWS, 0, p.n_head / p.n_head_kv, ihkv, span.row0, span.pos0 };
	rows.n = min(ROWS, span.n_row * rows.group - rows.first);
	if (rows.n <= 0 || span.n_row > g.max_row) {
		pdl_wait(); /* the kernel after this one counts on it */
		return;
	}

	/* Tiles and units of these rows, and this CTA's part of them. */
	const int last = rows.pos(rows.n - 1), tile0 = attn_first_key(rows.pos(0), p.window) / KEYS<D>, n_tile = last / KEYS<D> + 1 - tile0;
	const int unit_tiles = attn_unit_tiles(n_tile, attn_max_unit(p.n_head_kv)), n_unit = (n_tile + unit_tiles - 1) / unit_tiles;
	const int per_part = (n_unit + gridDim.x - 1) / gridDim.x, unit0 = part * per_part, unit1 = min(unit0 + per_part, n_unit);
	if (!g.cluster && unit0 >= n_unit) {
		pdl_wait();
		return;
	}
	w.first = tile0 + unit0 * unit_tiles + warp, w.end = tile0 + min(unit1 * unit_tiles, n_tile), w.last = last;
	int n_old = 0; /* tiles fetched before the wait: new rows are in the last ones */
#pragma unroll
	for (int i = 0; i < N_STAGE; i++)
		if (n_old == i && w.has(i) && w.is_old(i, span.pos0)) {
			w.fetch_k(i);
			w.fetch_v(i);
			n_old++;
		}
	if (late)
		pdl_launch();
	pdl_wait();
	warp_rows<D, HALF, F8> r;
	load_rows(r, p, rows, q);
#pragma unroll
	for (int i = 0; i < N_STAGE; i++)
		if (i >= n_old) {
			w.fetch_k(i);
			w.fetch_v(i);
		}
	if (g.cluster) {
		if (part == 0 && warp == 0)
			inbox_open(&box_full, n_unit * rows.n * (D + 4) * 4);
		cluster_arrive();
	}
	if (r.SHARED_Q)
		__syncthreads();
	const int whole_lo = attn_first_key(last, p.window), whole_hi = rows.pos(0); /* tiles between need no mask */

	partial sum[N_ITEM]; /* thread's items: 4 channels of a row each */
	const auto each = [&](auto f) {
#pragma unroll
		for (int i = 0; i < N_ITEM; i++) {
			const int item = i * 32 * N_WARP + threadIdx.x, row = item / (D / 4);
			if (row < rows.n)
				f(i, row, item % (D / 4) * 4);
		}
	};
	const int64_t owner = (int64_t)blockIdx.z * p.n_head_kv + ihkv;
	const auto slot = [&](int unit, int row) { return (owner * g.max_unit + unit) * g.n_row + row; };
	for (int i = 0; i < N_ITEM; i++)
		sum[i] = { -INFINITY, 0, make_float4(0, 0, 0, 0) };
	if (g.cluster)
		cluster_wait(); /* the first CTA's box is open */
	for (int unit = unit0, i = 0; unit < unit1; unit++) {
		r.reset();
		attend(r, w, i, unit_tiles / N_WARP, whole_lo, whole_hi);
		if (unit > unit0)
			__syncthreads(); /* the unit before has been read */
		x.put(r);
		__syncthreads();
		if (gridDim.x == 1)
			each([&](int n, int row, int ch) { fold(sum[n], x.get(row, ch)); });
		else
			each([&](int, int row, int ch) {
				const partial u = x.get(row, ch);
				if (g.cluster) {
					const uint32_t bar = cluster_address(&box_full, 0), to = cluster_address(box, 0) + (unit * rows.n + row) * (D + 4) * 4;
					const uint4 v = make_uint4(__float_as_uint(u.v.x), __float_as_uint(u.v.y), __float_as_uint(u.v.z), __float_as_uint(u.v.w));
					cluster_store4(to + ch * 4, v, bar);
					if (ch == 0)
						cluster_store4(to + D * 4, make_uint4(__float_as_uint(u.max), __float_as_uint(u.sum), 0, 0), bar);
				} else {
					__stcg((float4 *)(g.o + slot(unit, row) * D + ch), u.v);
					if (ch == 0)
						__stcg(g.ml + slot(unit, row), make_float2(u.max, u.sum));
				}
			});
	}
	cp_async_wait<0>();

	if (g.cluster) {
		if (part)
			return;
		inbox_wait(&box_full);
		each([&](int n, int row, int ch) {
			for (int u = 0; u < n_unit; u++) {
				const float *from = box + (u * rows.n + row) * (D + 4);
				fold(sum[n], { from[D], from[D + 1], *(const float4 *)(from + ch) });
			}
		});
	} else if (gridDim.x > 1) {
		const int n_part = (n_unit + per_part - 1) / per_part;
		if (n_part > 1) {
			__syncthreads(); /* thread 0's release covers what the others wrote */
			if (threadIdx.x == 0)
				is_last = add_acq_rel(g.counter + owner, 1) == n_part - 1;
			__syncthreads();
			if (!is_last)
				return;
			if (threadIdx.x == 0)
				g.counter[owner] = 0;
		} else
			__syncthreads();
		each([&](int n, int row, int ch) {
#pragma unroll 8
			for (int u = 0; u < n_unit; u++) {
				const float2 ml = __ldcg(g.ml + slot(u, row));
				fold(sum[n], { ml.x, ml.y, __ldcg((const float4 *)(g.o + slot(u, row) * D + ch)) });
			}
		});
	}
	each([&](int n, int row, int ch) {
		const float top = fmaxf(sum[n].max, sink[n]), a = exp2_approx(sum[n].max - top);
		const float inv = a / (sum[n].sum * a + exp2_approx(sink[n] - top));
		const float4 v = sum[n].v;
		*(uint2 *)(p.o + rows.at(p, row) * D + ch) = make_uint2(pack_bf16(v.x * inv, v.y * inv), pack_bf16(v.z * inv, v.w * inv));
	});
}

template <int D, bool HALF, int N_STAGE, bool F8> constexpr size_t decode_bytes()
{
	return N_WARP * N_STAGE * 2 * tile_of<D, KEYS<D>, F8>::BYTES + warp_rows<D, HALF>::Q_BYTES + sizeof(exchange<D, HALF ? 8 : 16>);
}
constexpr size_t DECLARED = 1024; /* what is declared in the kernel, at most */

bool attn_decode_serves(const cuda_dev *d, int d_head)
{
	return (d_head == 64 && decode_bytes<64, false, MANY, false>() + DECLARED <= d->shared_per_block) ||
	       (d_head == 128 && decode_bytes<128, false, MANY, false>() + DECLARED <= d->shared_per_block) ||
	       (d_head == 256 && decode_bytes<256, false, FEW, false>() + DECLARED <= d->shared_per_block);
}

size_t attn_decode_scratch(int n_tok, int n_head, int n_head_kv, int d_head)
{
	const size_t row_units = std::min<size_t>(ROW_UNITS, (size_t)n_tok * attn_max_unit(n_head_kv));
	return CUDA_COUNTER_BYTES + std::max<size_t>(row_units, 16 * attn_max_unit(n_head_kv)) * n_head * (d_head + 2) * sizeof(float);
}

template <int D, bool HALF, int N_STAGE, bool F8>
static cudaError_t launch(const cuda_dev *d, const attn_param &p, decode_grid g, int n_seq, int n_part)
{
	const size_t most_bytes = d->shared_per_block - DECLARED;
	size_t bytes = decode_bytes<D, HALF, N_STAGE, F8>();
	const int owners = n_seq * g.n_pair_tile * p.n_head_kv;
	int per_launch = n_seq;
	if (n_part > 1) {
		const size_t box = (size_t)g.max_unit * g.n_row * (D + 4) * sizeof(float);
		int n_cta = 1;
		while (2 * n_cta <= n_part && n_cta < MAX_CLUSTER)
			n_cta *= 2;
		if (n_cta < n_part && n_cta < MAX_CLUSTER && owners * n_cta * 2 <= d->n_sm)
			n_cta *= 2;
		g.cluster = !d->portable && g.max_unit <= 2 * n_cta && bytes + box <= (N_STAGE == FEW ? most_bytes : 55 * 1024);
		if (g.cluster) {
			bytes += box;
			n_part = n_cta;
		}
	}
	if (n_part > 1 && !g.cluster) {
		const size_t data_bytes = d->scratch_bytes > CUDA_COUNTER_BYTES ? d->scratch_bytes - CUDA_COUNTER_BYTES : 0;
		const size_t n_slot = data_bytes / ((D + 2) * sizeof(float)), per_seq = (size_t)g.n_pair_tile * p.n_head_kv * g.max_unit * g.n_row;
		const size_t counters = CUDA_COUNTER_BYTES / sizeof(int32_t) / (g.n_pair_tile * p.n_head_kv);
		per_launch = (int)std::min<size_t>(std::min(n_slot / per_seq, counters), n_seq);
		if (!per_launch)
			return cudaErrorInvalidValue;
		g.counter = (int32_t *)d->scratch;
		g.o = (float *)((char *)d->scratch + CUDA_COUNTER_BYTES);
		g.ml = (float2 *)(g.o + per_launch * per_seq * D);
	}
	per_launch = std::max(1, std::min(per_launch, 65535 / g.n_pair_tile));
	const auto kernel = attn_decode_kernel<D, HALF, N_STAGE, F8>;
	cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)most_bytes);
	if (e == cudaSuccess && g.cluster && n_part > 8)
		e = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
	for (; g.seq0 < n_seq && e == cudaSuccess; g.seq0 += per_launch) {
		const dim3 grid(n_part, p.n_head_kv, std::min(per_launch, n_seq - g.seq0) * g.n_pair_tile);
		e = cuda_launch_cluster(kernel, g.cluster ? n_part : 1, grid, 32 * N_WARP, bytes, d->stream, p, g);
	}
	return e;
}

template <int D, bool F8> static cudaError_t launch_rows(const cuda_dev *d, const attn_param &p, int n_seq, int max_row)
{
	const int n_pair = max_row * (p.n_head / p.n_head_kv), most_rows = n_pair <= 8 ? 8 : 16;
	decode_grid g = {};
	g.n_pair_tile = (n_pair + most_rows - 1) / most_rows;
	g.max_row = max_row;
	g.n_row = std::min(most_rows, n_pair);
	/* The most units that a row of this launch can have, from the page list's length alone. */
	const int64_t list_keys = (int64_t)p.n_page_seq * KV_PAGE, seen = p.window > 0 ? p.window + max_row - 1 + KEYS<D> - 1 : list_keys;
	const int64_t n_tile = (std::min(seen, p.ring ? seen : list_keys) + KEYS<D> - 1) / KEYS<D>;
	g.max_unit = (int)std::min<int64_t>(attn_max_unit(p.n_head_kv), (n_tile + UNIT_TILES - 1) / UNIT_TILES);

	const int owners = n_seq * g.n_pair_tile * p.n_head_kv, n_part = std::max(1, std::min(4 * d->n_sm / owners, g.max_unit));
	const bool half = most_rows == 8, long_parts = g.max_unit > 2 * MAX_CLUSTER && owners * n_part <= 3 * d->n_sm;
	const bool room = decode_bytes<D, false, FEW, F8>() + DECLARED <= d->shared_per_block;
	if constexpr (D <= 128)
		if ((D == 64 && owners * n_part > d->n_sm && !long_parts) || !room)
			return half ? launch<D, true, MANY, F8>(d, p, g, n_seq, n_part) : launch<D, false, MANY, F8>(d, p, g, n_seq, n_part);
	return half ? launch<D, true, FEW, F8>(d, p, g, n_seq, n_part) : launch<D, false, FEW, F8>(d, p, g, n_seq, n_part);
}

template <bool F8> static cudaError_t launch_heads(const cuda_dev *d, const attn_param &p, int n_seq, int max_row)
{
	return p.d_head == 64    ? launch_rows<64, F8>(d, p, n_seq, max_row)
	       : p.d_head == 128 ? launch_rows<128, F8>(d, p, n_seq, max_row)
	                         : launch_rows<256, F8>(d, p, n_seq, max_row);
}

cudaError_t attn_decode(const cuda_dev *d, const attn_param &p, int n_seq, int max_row)
{
	return p.kv_f8 ? launch_heads<true>(d, p, n_seq, max_row) : launch_heads<false>(d, p, n_seq, max_row);
}
