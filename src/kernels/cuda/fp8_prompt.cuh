/* fp8_prompt.cuh - the FP8 block-scaled GEMM with tokens as the M operand (the rest: fp8_tile.cuh).
 *
 * A thread then needs two x_scale a product and not one for every second column.
 *   128 or 256 tokens x 128 rows   two warpgroups that take turns: one multiplies while the other adds what it has multiplied to its sums.
 *                                  A CTA has its SM for itself.  Two CTAs of a cluster may have neighbouring rows and send each other half
 *                                  of the tokens' tile, which saves traffic from L2.
 *   64 or 128 tokens x 64 rows     one or two warpgroups, two CTAs an SM
 * CTAs walk over tiles, panels of 16 row tiles at a time so that what runs at once shares rows and tokens in L2.  Where there are few
 * tiles, a cluster of n_split CTAs shares a tile's K instead and adds the parts in rank order.
 */
#ifndef MOXIE_CUDA_FP8_PROMPT_CUH
#define MOXIE_CUDA_FP8_PROMPT_CUH

#include "fp8_tile.cuh"

constexpr int FP8_TURN = 4; /* named barriers 4 and 5: it is warpgroup 0's, 1's turn to multiply */

/* Scales of the tokens of this thread's rows, g and g + 8 of each product's, of the stage in hand. */
template <class S, int WG> __device__ __forceinline__ void fp8_scales(const struct fp8_ring<S> &r, float w_scale, float (&s)[2 * S::M64])
{
	const uint32_t at = r.scale(r.at) + (WG * S::M64 * 64 + threadIdx.x / 32 % 4 * 16 + (threadIdx.x & 31) / 4) * 4;
#pragma unroll
	for (int i = 0; i < 2 * S::M64; i++)
		s[i] = w_scale * __uint_as_float(lds32(at + (i / 2 * 64 + i % 2 * 8) * 4));
}

/* What a math warpgroup knows of its tile. */
struct fp8_tile {
	struct fp8_work w;
	struct fp8_w_scales ws;
	bool more; /* is there one */
};
template <class S>
__device__ __forceinline__ void fp8_next_tile(const struct fp8_gemm_args &a, struct fp8_walk *at, int tile, int half, int kb0, int kb1, struct fp8_tile *t)
{
	t->more = fp8_find<S>(a, at, tile, half, &t->w);
	if (t->more) t->ws.open(a, t->w, kb0, kb1);
}

/* sum = this warpgroup's part of the tile over its n blocks.  The warpgroups take turns at the tensor cores: two that multiply at the same
 * time also add at the same time.  The turn is passed on as soon as a product is enqueued.  Under the last block's
 * products the next tile is looked up, and the half of the sums that is done goes on its way. */
template <class S, int WG, class F, class G>
__device__ __forceinline__ void fp8_multiply(const struct fp8_gemm_args &a, struct fp8_tile *t, struct fp8_ring<S> *r, int n, float (&sum)[S::SUM], F look_up, G half_done)
{
#pragma unroll
	for (int i = 0; i < S::SUM; i++)
		sum[i] = 0;
	float s[2 * S::M64];
	fp8_await(*r);
	fp8_scales<S, WG>(*r, t->ws.get(a, 0), s);
	for (int b = 0; b < n; b++) {
		const int stage = r->at;
		float next[2 * S::M64], w_scale = 0;
		bool ready = false;
#pragma unroll
		for (int i = 0; i < S::M64; i++) {
			const uint32_t xd = wgmma_desc_low(r->x(stage)) + (WG * S::M64 + i) * (64 * FP8_BLOCK / 16), wd = wgmma_desc_low(r->w(stage));
			float part[S::PART];
			if (S::WG == 2) named_barrier<256>(FP8_TURN + WG);
			wgmma_fence();
#pragma unroll
			for (int k = 0; k < 4; k++)
				wgmma_e4m3<S::ROWS>::ss(part, wgmma_desc(xd + 2 * k), wgmma_desc(wd + 2 * k), k > 0);
			wgmma_commit();
			if (S::WG == 2) named_arrive<256>(FP8_TURN + 1 - WG);
			if (i == S::M64 - 1) { /* the next block's scales, if it has come */
				r->next();
				if (b + 1 < n) {
					w_scale = t->ws.get(a, b + 1), ready = fp8_ready(*r);
					if (ready) fp8_scales<S, WG>(*r, w_scale, next);
				} else if (S::ALONE) { /* else registers are too short */
					if (S::M64 > 1) half_done();
					else look_up();
				}
			} else if (S::ALONE && b + 1 == n) {
				look_up();
			}
			wgmma_wait<0>();
			if (i == S::M64 - 1) fp8_release<S>(*r, stage);
			pin(part);
#pragma unroll
			for (int j = 0; j < S::PART; j++)
				sum[i * S::PART + j] = fmaf(s[2 * i + (j >> 1 & 1)], part[j], sum[i * S::PART + j]);
		}
		if (!ready && b + 1 < n) {
			fp8_await(*r);
			fp8_scales<S, WG>(*r, w_scale, next);
		}
#pragma unroll
		for (int i = 0; i < 2 * S::M64; i++)
			s[i] = next[i];
	}
}

/* Tile to global memory: each warp by itself, its tokens' rows through shared memory, 128 bytes (of 64-row tiles 64) of a token at a time. */
template <class S, int WG>
__device__ __forceinline__ void fp8_store(const struct fp8_gemm_args &a, const struct fp8_work &w, const float (&sum)[S::SUM], uint32_t out)
{
	constexpr int CHUNKS = S::OUT_ROWS / 8, STEP = 32 / CHUNKS; /* 16 bytes; tokens of a warp's store */
	const int lane = threadIdx.x & 31, warp = threadIdx.x / 32 % 4, n_row = a.n_out - w.row0;
	const int tok0 = WG * S::M64 * 64 + warp * 16 + lane / CHUNKS;
	__nv_bfloat16 *to = a.out + (size_t)(w.tok0 + tok0) * a.n_out + w.row0 + lane % CHUNKS * 8;
	out += (WG * 4 + warp) * 16 * S::OUT_LD;
	const uint32_t put = out + (lane & 15) * S::OUT_LD + lane / 16 * 16, get = out + lane / CHUNKS * S::OUT_LD + lane % CHUNKS * 16;
#pragma unroll
	for (int i = 0; i < S::M64; i++)
#pragma unroll
		for (int row = 0; row < S::ROWS; row += S::OUT_ROWS) {
#pragma unroll
			for (int j = 0; j < CHUNKS; j += 2) {
				uint32_t u[4];
#pragma unroll
				for (int c = 0; c < 4; c++) {
					const int at = i * S::PART + row / 2 + 4 * j + 2 * c;
					u[c] = pack_bf16(sum[at], sum[at + 1]);
				}
				stmatrix4(put + j * 16, u);
			}
			__syncwarp();
			uint4 u[CHUNKS / 2];
#pragma unroll
			for (int v = 0; v < CHUNKS / 2; v++)
				u[v] = lds128(get + v * STEP * S::OUT_LD);
#pragma unroll
			for (int v = 0; v < CHUNKS / 2; v++)
				if (tok0 + 64 * i + v * STEP < w.n_tok && row < n_row)
					*(uint4 *)(to + (64 * i + v * STEP) * (size_t)a.n_out + row) = u[v];
			__syncwarp();
		}
}

/* The same by the copy engine: each warp puts its tokens' boxes into shared memory, a lane hands them over, and nobody waits.  A tile with
 * fewer tokens than N, behind which another group's rows lie, is copied by the warp itself.  Products I0 .. I1 - 1 of the tile's. */
template <class S, int WG, int I0, int I1>
__device__ __forceinline__ void fp8_store_boxes(const struct fp8_gemm_args &a, const struct fp8_work &w, const float (&sum)[S::SUM], uint32_t out)
{
	const int lane = threadIdx.x & 31, warp = threadIdx.x / 32 % 4, tok = lane & 15;
	const int tok0 = WG * S::M64 * 64 + warp * 16;
	out += (WG * S::M64 * 4 + warp) * 2 * S::OUT_BOX;
	if (I0 == 0) { /* the tile before */
		if (lane == 0) bulk_stored();
		__syncwarp();
	}
#pragma unroll
	for (int i = I0; i < I1; i++)
#pragma unroll
		for (int j = 0; j < 16; j += 2) { /* 8 rows */
			uint32_t u[4];
#pragma unroll
			for (int c = 0; c < 4; c++) {
				const int at = i * S::PART + 4 * j + 2 * c;
				u[c] = pack_bf16(sum[at], sum[at + 1]);
			}
			const uint32_t to = out + (8 * i + j / 8) * S::OUT_BOX + tok * 128 + (((j % 8 + lane / 16) ^ (tok & 7)) * 16);
			stmatrix4(to, u);
		}
	if (a.mode == MOXIE_FP8_DENSE || w.n_tok == S::N) {
		proxy_fence();
		__syncwarp();
		if (lane == 0) {
#pragma unroll
			for (int b = 2 * I0; b < 2 * I1; b++)
				tma_store2(&a.y, w.row0 + b % 2 * 64, w.tok0 + tok0 + b / 2 * 64, out + (b / 2 * 8 + b % 2) * S::OUT_BOX);
			bulk_commit();
		}
		return;
	}
	__syncwarp();
#pragma unroll 1
	for (int v = I0 * 256 + lane; v < I1 * 256; v += 32) { /* 16 bytes; 16 of a token */
		const int t = v / 16 % 16, i = v / 256, box = v / 8 % 2, chunk = v % 8;
		if (tok0 + 64 * i + t < w.n_tok && w.row0 + box * 64 < a.n_out)
			*(uint4 *)(a.out + (size_t)(w.tok0 + tok0 + 64 * i + t) * a.n_out + w.row0 + box * 64 + chunk * 8) =
			    lds128(out + (i * 8 + box) * S::OUT_BOX + t * 128 + ((chunk ^ (t & 7)) * 16));
	}
}

/* One of the math warpgroups. */
template <class S, int WG>
__device__ __forceinline__ void fp8_prompt_math(const struct fp8_gemm_args &a, struct fp8_ring<S> r, char *base, int kb0, int kb1, int first, int step,
                                                int half, int rank)
{
	struct fp8_walk at = {};
	struct fp8_tile t = {};
	bool waited = a.mode != MOXIE_FP8_DENSE;
	if (waited) pdl_wait();
	if (S::WG == 2 && WG == 1) named_arrive<256>(FP8_TURN); /* warpgroup 0 begins */
	int tile = first;
	fp8_next_tile<S>(a, &at, tile, half, kb0, kb1, &t);
	const bool any = t.more;
	while (t.more) {
		float sum[S::SUM];
		const struct fp8_work w = t.w;
		const auto look_up = [&] {
			if (S::PAIR > 1 || a.n_split == 1)
				fp8_next_tile<S>(a, &at, tile += step, half, kb0, kb1, &t);
			else
				t.more = false; /* a cluster that shares K has one tile, or none */
		};
		constexpr int HALF = S::M64 / 2; /* products whose sums are done before the last one */
		fp8_multiply<S, WG>(a, &t, &r, kb1 - kb0, sum, look_up, [&] {
			if constexpr (S::ALONE && HALF > 0) {
				if (!waited) pdl_wait();
				waited = true;
				fp8_store_boxes<S, WG, 0, HALF>(a, w, sum, smem_u32(base) + S::BARS);
			}
		});
		if (!waited) pdl_wait(); /* out may be read by the kernel in front; tokens came after it, so this returns at once */
		waited = true;
		if (S::PAIR > 1 || a.n_split == 1) {
			if constexpr (S::ALONE) {
				fp8_store_boxes<S, WG, HALF, S::M64>(a, w, sum, smem_u32(base) + S::BARS);
			} else {
				fp8_store<S, WG>(a, t.w, sum, smem_u32(base) + S::BARS);
				look_up();
			}
			continue;
		}
		const int lane = threadIdx.x & 31, tok = WG * S::M64 * 64 + threadIdx.x / 32 % 4 * 16 + lane / 4;
		float *part = (float *)(base + S::DATA);
		named_barrier<128 * S::WG>(1); /* the ring is drained: it becomes the place of the parts */
#pragma unroll
		for (int i = 0; i < S::SUM; i += 2)
			*(float2 *)(part + (tok + i / S::PART * 64 + (i >> 1 & 1) * 8) * (S::ROWS + 4) + i % S::PART / 4 * 8 + (lane & 3) * 2) = { sum[i], sum[i + 1] };
		t.more = false;
	}
	if (S::WG == 2 && WG == 0) named_barrier<256>(FP8_TURN); /* takes back the last turn */
	if (S::ALONE && (threadIdx.x & 31) == 0) bulk_stored(); /* before shared memory goes */
	if (S::PAIR == 1 && a.n_split > 1) {
		cluster_arrive();
		cluster_wait();
		if (any) fp8_reduce<S>(a, t.w, rank, base + S::DATA);
	}
}

template <int N, int ROWS, int WG, int PAIR>
__global__ void __launch_bounds__(fp8_tile_shape<N, ROWS, WG, true, PAIR>::THREADS, ROWS == 128 ? 1 : 2)
	fp8_prompt_kernel(const __grid_constant__ struct fp8_gemm_args a)
{
	using S = fp8_tile_shape<N, ROWS, WG, true, PAIR>;
	extern __shared__ __align__(1024) char base[];
	struct fp8_ring<S> r = { smem_u32(base), a.n_stage, 0, 0 };
	/* A cluster is a pair over all of K, or n_split CTAs that share K, or one CTA. */
	const int n_split = PAIR > 1 ? 1 : a.n_split, size = PAIR * n_split, cta = blockIdx.x % size, rank = cta / PAIR, half = cta % PAIR;
	const int first = blockIdx.x / size, step = gridDim.x / size, kb0 = a.n_block * rank / n_split, kb1 = a.n_block * (rank + 1) / n_split;
	fp8_open(r);
	if (PAIR == 2) { /* no byte and no arrival before both have their barriers; fp8_open released them */
		cluster_arrive_relaxed();
		cluster_wait();
	}
	if (threadIdx.x >= 128 * WG) {
		if constexpr (S::ALONE) regs_dec<40>();
		if (threadIdx.x < 128 * WG + 32) fp8_fill<S>(a, r, kb0, kb1, first, step, half);
		else if (threadIdx.x < 128 * WG + 64) fp8_fill_scales<S>(a, r, kb0, kb1, first, step, half);
		if (n_split > 1) { /* the first of the two meetings below */
			__syncwarp();
			cluster_arrive();
			cluster_wait();
		}
	} else {
		if constexpr (S::ALONE) regs_inc<232>();
		if (WG == 1 || __shfl_sync(~0u, threadIdx.x / 128, 0) == 0) /* known to be the same for the whole warp */
			fp8_prompt_math<S, 0>(a, r, base, kb0, kb1, first, step, half, rank);
		else
			fp8_prompt_math<S, WG - 1>(a, r, base, kb0, kb1, first, step, half, rank);
	}
	if (size > 1) { /* nobody leaves whose shared memory another may still reach; what was read has come */
		__syncwarp();
		cluster_arrive_relaxed();
		cluster_wait();
	}
}

#endif
