/* fp8_tile.cuh - what streams and prompts of the FP8 block-scaled GEMM share: the tile, which one is next, and the ring that a warp fills.
 *
 *   out[t][n] = sum over blocks b of 128 k of  x_scale[b][t] * w_scale[n / 128][b] * sum over k of x[t][k] w[n][k]
 *
 *   x    [rows, n_in] e4m3, w [n_group, n_out, n_in] e4m3: both K-major, read by tensor copies into 128-byte swizzled tiles
 *   out  [rows, n_out] bf16
 *
 * One warp fills a ring of stages, a stage being one block of 128 k; the last of n_in is 64 where that is left, and the copies make
 * zeros of the rest.  Per block and warpgroup four wgmma of k32, then  sum += x_scale w_scale part  in fp32.
 *
 * Test: build/cuda/test_fp8    Bench: build/cuda/bench_fp8    Why: docs/fp8.md
 */
#ifndef MOXIE_CUDA_FP8_TILE_CUH
#define MOXIE_CUDA_FP8_TILE_CUH

#include "device/cluster.cuh"
#include "device/wgmma_fp8.cuh"
#include "fp8_gemm.h"

constexpr int FP8_BLOCK = 128; /* k of a scale, and bytes of a row of a stage */
constexpr int FP8_PANEL = 16;  /* row tiles that are walked through together */
constexpr int FP8_MAX_STAGE = 24;

/* N tokens x ROWS weight rows.  TOK_M: tokens are the M operand of the products, else the weights. */
template <int N_, int ROWS_, int WG_, bool TOK_M_, int PAIR_> struct fp8_tile_shape {
	static constexpr int N = N_, ROWS = ROWS_, WG = WG_, PAIR = PAIR_; /* PAIR: CTAs that share the tokens */
	static constexpr bool TOK_M = TOK_M_, ALONE = TOK_M && ROWS == 128; /* ALONE: a CTA has its SM for itself, and all registers */
	static constexpr int M64 = (TOK_M ? N : ROWS) / 64 / WG;            /* products of 64 rows of the M operand a warpgroup and block */
	static constexpr int FILL = ALONE ? 128 : 64; /* threads that fill the ring: a warp for tiles, one for scales, two for the sake of setmaxnreg */
	static constexpr int PART = (TOK_M ? ROWS : N) / 2, SUM = M64 * PART; /* fp32 numbers of a thread: of a product, in all */
	static constexpr int THREADS = 128 * WG + FILL;
	static constexpr int W_BYTES = ROWS * FP8_BLOCK, X_BYTES = N * FP8_BLOCK;
	/* Scales of tokens.  TOK_M: by token.  Else as threads read them, those of columns 8j + 2t, 8j + 2t + 1 at t SCALE_T + 2j: a thread's are
	 * 16-byte loads, and the four t of a warp start in different banks. */
	static constexpr int SCALE_T = (((N + 15) / 16) | 1) * 4, SCALE_BYTES = TOK_M ? N * 4 : 4 * SCALE_T * 4;
	static constexpr int STAGE = W_BYTES + X_BYTES; /* scales lie behind all stages, as tiles want 1024-byte alignment */
	/* Room for the store.  Alone: the whole tile, bf16, in boxes of 16 tokens x 64 rows with 128-byte swizzle, which the copy engine takes out
	 * while the next tile is multiplied.  TOK_M else: a warp's 16 tokens x OUT_ROWS, tokens 16 bytes apart beyond their own so that eight of
	 * them start in different banks.  Else bf16 [token][64 rows] a warpgroup, 64 tokens at a time; or the parts that a cluster sends, fp32. */
	static constexpr int OUT_ROWS = ROWS / 2, OUT_LD = 2 * OUT_ROWS + 16, OUT_BOX = 16 * 64 * 2, OUT_TOK = N < 64 ? N : 64;
	static constexpr bool OWN_INBOX = N <= 16; /* more parts go where the ring was */
	static constexpr int OUT_BYTES = ALONE ? N * ROWS * 2 : TOK_M ? 4 * WG * 16 * OUT_LD : N * ROWS * (OWN_INBOX ? 4 : 2);
	/* Shared memory: barriers and the room for the store, then the stages' tiles, then their scales. */
	static constexpr int INBOX = 2 * 8 * FP8_MAX_STAGE, BARS = ALONE ? 1024 : INBOX + 128, DATA = (BARS + OUT_BYTES + 1023) / 1024 * 1024;
	/* Alone there are as many stages as there is room for: a constant, since registers are short. */
	static constexpr int STAGES = ALONE ? (232448 - DATA) / (STAGE + SCALE_BYTES) : 0;
};

/* ---- which tile -------------------------------------------------------------------------------------------------------- */

struct fp8_work {
	int group, row0; /* weight rows from row0 of this group */
	int tok0, n_tok; /* rows of x from tok0; n_tok of the tile's N are the group's */
};

/* Finds tile after tile, in ascending order; every warp walks by itself. */
struct fp8_walk {
	int g, base; /* the first group of the 32 in hand, and the number of tiles before it */
};

__device__ __forceinline__ int fp8_group_rows(const struct fp8_gemm_args &a, int g, int *tok0)
{
	if (a.mode == MOXIE_FP8_DENSE) {
		*tok0 = 0;
		return g == 0 ? a.n_tok : 0;
	}
	*tok0 = 0;
	if (g >= a.n_group)
		return 0;
	if (a.mode == MOXIE_FP8_CONTIGUOUS) {
		*tok0 = max(0, min(__ldcg(a.group + g), a.n_tok));
		return max(0, min(__ldcg(a.group + g + 1), a.n_tok) - *tok0);
	}
	*tok0 = g * a.n_tok;
	return max(0, min(__ldcg(a.group + g), a.n_tok));
}

/* PAIR: of two CTAs with neighbouring rows, the `half`th. */
template <class S> __device__ __forceinline__ bool fp8_find(const struct fp8_gemm_args &a, struct fp8_walk *at, int tile, int half, struct fp8_work *w)
{
	constexpr int N = S::N;
	const int lane = threadIdx.x & 31;
	for (; at->g < a.n_group; at->g += 32) {
		int tok0;
		const int n = fp8_group_rows(a, at->g + lane, &tok0), n_tile = (n + N - 1) / N * a.n_row_tile;
		int sum = n_tile; /* inclusive */
#pragma unroll
		for (int d = 1; d < 32; d *= 2) {
			const int v = __shfl_up_sync(~0u, sum, d);
			if (lane >= d) sum += v;
		}
		const int all = __shfl_sync(~0u, sum, 31);
		if (tile >= at->base + all) {
			at->base += all;
			continue;
		}
		const int who = __ffs(__ballot_sync(~0u, tile < at->base + sum)) - 1;
		const int rows = __shfl_sync(~0u, n, who), first = at->base + __shfl_sync(~0u, sum - n_tile, who), n_tok_tile = (rows + N - 1) / N;
		const int i = tile - first, panel = i / (FP8_PANEL * n_tok_tile), in_panel = i - panel * FP8_PANEL * n_tok_tile;
		const int wide = min(FP8_PANEL, a.n_row_tile - panel * FP8_PANEL), t = in_panel / wide;
		w->group = at->g + who;
		w->row0 = ((panel * FP8_PANEL + in_panel - t * wide) * S::PAIR + half) * S::ROWS;
		w->tok0 = __shfl_sync(~0u, tok0, who) + t * N;
		w->n_tok = min(N, rows - t * N);
		return true;
	}
	return false;
}

/* ---- the ring ------------------------------------------------------------------------------------------------------------ */

template <class S> struct fp8_ring {
	uint32_t base;  /* shared memory address */
	int n_, at;     /* stages; the one in hand */
	uint32_t phase;
	__device__ __forceinline__ int n() const { return S::ALONE ? S::STAGES : n_; }
	__device__ __forceinline__ uint32_t full(int i) const { return base + 8 * i; }
	__device__ __forceinline__ uint32_t empty(int i) const { return base + 8 * (FP8_MAX_STAGE + i); }
	__device__ __forceinline__ uint32_t w(int i) const { return base + S::DATA + i * S::STAGE; }
	__device__ __forceinline__ uint32_t x(int i) const { return w(i) + S::W_BYTES; }
	__device__ __forceinline__ uint32_t scale(int i) const { return base + S::DATA + n() * S::STAGE + i * S::SCALE_BYTES; }
	__device__ __forceinline__ void next()
	{
		if (++at == n()) at = 0, phase ^= 1;
	}
};

template <class S> __device__ __forceinline__ void fp8_open(const struct fp8_ring<S> &r)
{
	if (threadIdx.x == 0) {
		for (int i = 0; i < r.n(); i++) {
			mbar_init(r.full(i), 1 + 32); /* bytes of both tiles; scales, by lane */
			mbar_init(r.empty(i), 4 * S::WG * S::PAIR);
		}
		mbar_init_fence();
	}
	__syncthreads();
}
/* One warp, of which a lane asks for tiles.  A dense product's weights are on their way before the kernel in front has ended.
 * A few warps of a CTA wait for each turn of this loop: where a CTA has its SM nearly for itself it must be done in less than the 400
 * cycles that 8 KB of weights take to come. */
template <class S>
__device__ __forceinline__ void fp8_fill(const struct fp8_gemm_args &a, struct fp8_ring<S> r, int kb0, int kb1, int first, int step, int half)
{
	const int n = r.n(), n_early = min(a.mode == MOXIE_FP8_DENSE ? n : 0, kb1 - kb0);
	const bool one = elect_one();
	struct fp8_walk at = {};
	struct fp8_work w = {};
	bool more = false;
	r.base = keep(r.base);
	const auto load_w = [&](int stage, int kb) {
		mbar_expect(r.full(stage), S::W_BYTES + S::X_BYTES);
		tma_load3(r.w(stage), &a.w, kb * FP8_BLOCK, w.row0, w.group, r.full(stage));
	};
	/* The next kernel's weights would compete with this one's: it starts when nearly all of these are asked for. */
	const int n_tile = (a.n_tok + S::N - 1) / S::N * a.n_row_tile;
	const int mine = first < n_tile ? (n_tile - first + step - 1) / step * (kb1 - kb0) : 0;
	const int launch_at = a.mode == MOXIE_FP8_DENSE ? max(mine - a.n_late, 0) : 0;
	if (one) tma_prefetch_map(&a.w), tma_prefetch_map(&a.x);
	if (launch_at == 0) pdl_launch();
	if (n_early) {
		more = fp8_find<S>(a, &at, first, half, &w);
		if (one && more)
			for (int i = 0; i < n_early; i++)
				load_w(i, kb0 + i);
		__syncwarp();
	}
	if (launch_at > 0 && launch_at <= n_early) pdl_launch();
	pdl_wait();
	if (!n_early) more = fp8_find<S>(a, &at, first, half, &w);
	int n_done = 0; /* of the lane that copies, like the place in the ring */
	for (int tile = first; more; more = fp8_find<S>(a, &at, tile += step, half, &w)) {
		if (one)
			for (int kb = kb0; kb < kb1; kb++) {
				if (n_done >= n_early) {
					mbar_wait(r.empty(r.at), r.phase ^ 1);
					load_w(r.at, kb);
				}
				if (S::PAIR == 1) tma_load2(r.x(r.at), &a.x, kb * FP8_BLOCK, w.tok0, r.full(r.at));
				if (S::PAIR == 2) tma_load2_both(r.x(r.at) + half * S::X_BYTES / 2, &a.x, kb * FP8_BLOCK, w.tok0 + half * S::N / 2, r.full(r.at));
				if (++n_done == launch_at && n_done > n_early) pdl_launch();
				if (++r.at == n) r.at = 0, r.phase ^= 1;
			}
		__syncwarp();
	}
}

/* One warp, for the tokens' scales. */
template <class S>
__device__ __forceinline__ void fp8_fill_scales(const struct fp8_gemm_args &a, struct fp8_ring<S> r, int kb0, int kb1, int first, int step, int half)
{
	const int lane = threadIdx.x & 31;
	struct fp8_walk at = {};
	struct fp8_work w = {};
	pdl_wait();
	for (int tile = first, n_done = 0; fp8_find<S>(a, &at, tile, half, &w); tile += step) {
		const float *from[(S::N + 31) / 32];
#pragma unroll
		for (int i = 0; i < (S::N + 31) / 32; i++) /* past the last row: any finite or other number, its column is not stored */
			from[i] = a.x_scale + (size_t)kb0 * a.x_scale_ld + min(w.tok0 + lane + 32 * i, a.n_row - 1);
		for (int kb = kb0; kb < kb1; kb++, n_done++, r.next()) {
			if (n_done >= r.n()) mbar_wait(r.empty(r.at), r.phase ^ 1);
			const uint32_t scale = r.scale(r.at);
#pragma unroll
			for (int i = 0; i < (S::N + 31) / 32; i++, from[i - 1] += a.x_scale_ld) {
				const int c = lane + 32 * i, slot = S::TOK_M ? c : (c & 7) / 2 * S::SCALE_T + c / 8 * 2 + (c & 1);
				if (c < S::N) cp_async4(scale + 4 * slot, from[i]);
			}
			cp_async_arrive(r.full(r.at));
		}
	}
}

/* ---- scales ------------------------------------------------------------------------------------------------------------ */

/* w_scale of a tile's blocks from kb0 on, one a lane, 32 ahead of use.  A tile may hang over n_out: those rows are zeros, and their scale is
 * any that exists.  A tile is 64 rows, or 128 from a multiple of 128. */
struct fp8_w_scales {
	size_t at;
	int left;         /* blocks from at on */
	float now, ahead; /* of blocks in hand, of the 32 after them */
	__device__ __forceinline__ float load(const struct fp8_gemm_args &a)
	{
		const int lane = threadIdx.x & 31;
		float v = 0;
		if (lane < left && !a.w_e8m0) v = __ldg((const float *)a.w_scale + at + lane);
		if (lane < left && a.w_e8m0) {
			const uint32_t s = __ldg((const uint8_t *)a.w_scale + at + lane);
			v = __uint_as_float(s == 255 ? 0x7fc00000u : s == 0 ? 0x00400000u : s << 23);
		}
		at += 32, left -= 32;
		return v;
	}
	__device__ __forceinline__ void open(const struct fp8_gemm_args &a, const struct fp8_work &w, int kb0, int kb1)
	{
		at = ((size_t)w.group * ((a.n_out + 127) / 128) + min(w.row0, a.n_out - 1) / 128) * a.n_block + kb0;
		left = kb1 - kb0;
		now = load(a);
		ahead = load(a);
	}
	/* Of the i-th block; for each i in turn. */
	__device__ __forceinline__ float get(const struct fp8_gemm_args &a, int i)
	{
		if ((i & 31) == 0 && i) now = ahead, ahead = load(a);
		return __shfl_sync(~0u, now, i & 31);
	}
};

template <class S> __device__ __forceinline__ void fp8_await(const struct fp8_ring<S> &r) { mbar_wait(r.full(r.at), r.phase); }
template <class S> __device__ __forceinline__ bool fp8_ready(const struct fp8_ring<S> &r)
{
	return mbar_ready(r.full(r.at), r.phase);
}
/* This warp has read all it needs of a stage; so must the other CTA's warps, which share the tokens. */
template <class S> __device__ __forceinline__ void fp8_release(const struct fp8_ring<S> &r, int stage)
{
	const int lane = threadIdx.x & 31;
	__syncwarp();
	if (S::PAIR == 1 && lane == 0) mbar_arrive(r.empty(stage));
	if (S::PAIR == 2 && lane < 2) mbar_arrive_at(r.empty(stage), lane);
}

/* ---- parts of K ---------------------------------------------------------------------------------------------------------- */

/* The parts of a cluster, added in rank order; each CTA writes every n_split-th token.  Four sums at once, since another CTA's memory is far. */
template <class S>
__device__ __forceinline__ void fp8_reduce(const struct fp8_gemm_args &a, const struct fp8_work &w, int rank, char *parts)
{
	constexpr int LD = S::ROWS + 4, PER_TOK = S::ROWS / 4, THREADS = 128 * S::WG, AT_ONCE = 4;
	const int n = PER_TOK * ((w.n_tok - rank + a.n_split - 1) / a.n_split);
	for (int i0 = threadIdx.x; i0 < n; i0 += AT_ONCE * THREADS) {
		float4 s[AT_ONCE] = {};
		for (int from = 0; from < a.n_split; from++) {
			const uint32_t theirs = cluster_address(parts, from);
#pragma unroll
			for (int u = 0; u < AT_ONCE; u++) {
				const int i = min(i0 + u * THREADS, n - 1);
				const float4 v = cluster_load4(theirs + ((rank + i / PER_TOK * a.n_split) * LD + i % PER_TOK * 4) * 4);
				s[u].x += v.x, s[u].y += v.y, s[u].z += v.z, s[u].w += v.w;
			}
		}
#pragma unroll
		for (int u = 0; u < AT_ONCE; u++) {
			const int i = i0 + u * THREADS, tok = rank + i / PER_TOK * a.n_split, row = i % PER_TOK * 4;
			const uint2 v = { pack_bf16(s[u].x, s[u].y), pack_bf16(s[u].z, s[u].w) };
			if (i < n && w.row0 + row < a.n_out)
				*(uint2 *)(a.out + (size_t)(w.tok0 + tok) * a.n_out + w.row0 + row) = v;
		}
	}
}

#define FP8_INSTANCE(name, kernel, n, rows, wg, tok_m, pair)                                                                               \
	{                                                                                                                                     \
		name, (const void *)kernel, rows, n, pair, fp8_tile_shape<n, rows, wg, tok_m, pair>::THREADS,                                       \
		    fp8_tile_shape<n, rows, wg, tok_m, pair>::STAGE + fp8_tile_shape<n, rows, wg, tok_m, pair>::SCALE_BYTES,                        \
		    fp8_tile_shape<n, rows, wg, tok_m, pair>::DATA, tok_m                                                                          \
	}

#endif
