/* fp8_stream.cuh - the FP8 block-scaled GEMM for few tokens, as a stream of weights (the rest: fp8_tile.cuh).
 *
 * Weights are the M operand: a tile is 64 weight rows a warpgroup x N tokens, N = 8 .. 64.  Bound by memory: all CTAs are resident at
 * once, and where there are few tiles a cluster of n_split CTAs shares a tile's K: each sends its parts to the CTA that owns their rows,
 * which adds them in rank order.
 */
#ifndef MOXIE_CUDA_FP8_STREAM_CUH
#define MOXIE_CUDA_FP8_STREAM_CUH

#include "fp8_tile.cuh"

/* part = this warpgroup's 64 weight rows x the tokens, of the stage in hand; enqueued. */
template <class S> __device__ __forceinline__ void fp8_issue(const struct fp8_ring<S> &r, float (&part)[S::PART])
{
	const uint32_t wg = S::WG > 1 ? threadIdx.x / 128 : 0, m = wgmma_desc_low(r.w(r.at)) + wg * (64 * FP8_BLOCK / 16), n = wgmma_desc_low(r.x(r.at));
	wgmma_fence();
#pragma unroll
	for (int k = 0; k < 4; k++)
		wgmma_e4m3<S::N>::ss(part, wgmma_desc(m + 2 * k), wgmma_desc(n + 2 * k), k > 0);
	wgmma_commit();
}

/* w_scale x_scale of this thread's columns 8j + 2t and 8j + 2t + 1, and of the same of j + 1 where there is one; of stage `stage`. */
template <class S> __device__ __forceinline__ void fp8_scales(const struct fp8_ring<S> &r, int stage, int j, float w_scale, float *s)
{
	const uint32_t scale = r.scale(stage) + (threadIdx.x & 3) * (S::SCALE_T * 4) + 8 * j;
	float4 f = {};
	if (S::N == 8) asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(f.x), "=f"(f.y) : "r"(scale) : "memory");
	else asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(f.x), "=f"(f.y), "=f"(f.z), "=f"(f.w) : "r"(scale) : "memory");
	s[0] = f.x * w_scale, s[1] = f.y * w_scale;
	if (8 * j + 8 < S::N) s[2] = f.z * w_scale, s[3] = f.w * w_scale;
}
template <class S> __device__ __forceinline__ void fp8_all_scales(const struct fp8_ring<S> &r, float w_scale, float (&s)[S::N / 4])
{
#pragma unroll
	for (int j = 0; j < S::N / 8; j += 2)
		fp8_scales<S>(r, r.at, j, w_scale, s + 2 * j);
}

/* sum = this warpgroup's part of the tile over blocks kb0 .. kb1 - 1.  Up to 32 tokens: while a product runs the next block's scales are read,
 * if it has come; with more there are no registers for them. */
template <class S>
__device__ __forceinline__ void fp8_multiply(const struct fp8_gemm_args &a, const struct fp8_work &w, struct fp8_ring<S> *r, int kb0, int kb1,
                                             float (&sum)[S::SUM])
{
	constexpr bool AHEAD = S::N <= 32;
	struct fp8_w_scales ws;
	const int n = kb1 - kb0;
	ws.open(a, w, kb0, kb1);
#pragma unroll
	for (int i = 0; i < S::SUM; i++)
		sum[i] = 0;
	float s[S::N / 4];
	if constexpr (AHEAD) {
		fp8_await(*r);
		fp8_all_scales(*r, ws.get(a, 0), s);
	}
	for (int k = 0; k < n; k++) {
		float part[S::PART];
		const int stage = r->at;
		if constexpr (AHEAD) {
			float next[S::N / 4];
			fp8_issue<S>(*r, part);
			r->next();
			const float w_scale = k + 1 < n ? ws.get(a, k + 1) : 0;
			const bool ready = k + 1 < n && fp8_ready(*r);
			if (ready) fp8_all_scales(*r, w_scale, next);
			wgmma_wait<0>();
			fp8_release<S>(*r, stage);
			pin(part);
#pragma unroll
			for (int j = 0; j < S::SUM; j++)
				sum[j] = fmaf(s[j / 4 * 2 + (j & 1)], part[j], sum[j]);
			if (!ready && k + 1 < n) {
				fp8_await(*r);
				fp8_all_scales(*r, w_scale, next);
			}
#pragma unroll
			for (int j = 0; j < S::N / 4; j++)
				s[j] = next[j];
		} else {
			const float w_scale = ws.get(a, k);
			fp8_await(*r);
			fp8_issue<S>(*r, part);
			r->next();
			wgmma_wait<0>();
			pin(part);
#pragma unroll
			for (int j = 0; j < S::N / 8; j += 2) {
				float f[4];
				fp8_scales<S>(*r, stage, j, w_scale, f);
#pragma unroll
				for (int c = 0; c < (S::N - 8 * j < 16 ? 4 : 8); c++)
					sum[4 * j + c] = fmaf(f[(c & 1) + c / 4 * 2], part[4 * j + c], sum[4 * j + c]);
			}
			fp8_release<S>(*r, stage);
		}
	}
}

/* Tile to global memory through shared memory: 128 bytes of one token at a time. */
template <class S> __device__ __forceinline__ void fp8_store(const struct fp8_gemm_args &a, const struct fp8_work &w, const float (&sum)[S::SUM], uint32_t out)
{
	const int lane = threadIdx.x & 31, warp = threadIdx.x / 32 % 4, wg = threadIdx.x / 128;
	out += wg * S::OUT_TOK * 128;
	/* 64 tokens of the warpgroup's 64 rows a round. */
#pragma unroll
	for (int round = 0; round < (2 * S::SUM + 63) / 64; round++) {
		const int tok0 = round * 64, row0 = w.row0 + wg * 64;
#pragma unroll
		for (int j = 0; j < (2 * S::SUM < 64 ? 2 * S::SUM : 64) / 8; j++) {
			const int at = round * 32 + 4 * j;
			const int tok = 8 * j + (lane & 7), chunk = 2 * warp + (lane >> 3 & 1);
			const uint32_t to = out + tok * 128 + ((chunk ^ (tok & 7)) * 16);
			stmatrix2_trans(to, pack_bf16(sum[at], sum[at + 1]), pack_bf16(sum[at + 2], sum[at + 3]));
		}
		named_barrier<128>(1 + wg);
		for (int i = threadIdx.x & 127; i < 8 * min(w.n_tok - tok0, S::OUT_TOK); i += 128) {
			const int tok = i / 8, chunk = i & 7;
			const uint4 v = lds128(out + tok * 128 + ((chunk ^ (tok & 7)) * 16));
			if (row0 < a.n_out) *(uint4 *)(a.out + (size_t)(w.tok0 + tok0 + tok) * a.n_out + row0 + 8 * chunk) = v;
		}
		named_barrier<128>(1 + wg);
	}
}

/* Parts go from a warp's registers to the CTA that owns its 16 rows, 4 WG / n_split such slabs a CTA:
 * box[from][slab][8 tokens][lane] of four sums as wgmma gives them, for rows lane / 4 (+ 8) and tokens 2 (lane % 4) (+ 1). */
template <class S>
__device__ __forceinline__ void fp8_send_parts(const struct fp8_gemm_args &a, const float (&sum)[S::SUM], int rank, const char *box, const char *bar)
{
	const int lane = threadIdx.x & 31, slab = threadIdx.x / 32, n_slab = 4 * S::WG / a.n_split, owner = slab / n_slab;
	const uint32_t to = cluster_address(box + ((rank * n_slab + slab % n_slab) * (S::N / 8) * 32 + lane) * 16, owner);
	const uint32_t full = cluster_address(bar, owner);
#pragma unroll
	for (int j = 0; j < S::N / 8; j++)
		cluster_store4(to + j * 512,
		               make_uint4(__float_as_uint(sum[4 * j]), __float_as_uint(sum[4 * j + 1]), __float_as_uint(sum[4 * j + 2]),
		                          __float_as_uint(sum[4 * j + 3])),
		               full);
}
/* All parts have come: adds them in rank order. */
template <class S> __device__ __forceinline__ void fp8_add_parts(const struct fp8_gemm_args &a, const struct fp8_work &w, int rank, uint32_t box)
{
	const int lane = threadIdx.x & 31, n_slab = 4 * S::WG / a.n_split, n_vec = n_slab * (S::N / 8);
	for (int v = threadIdx.x / 32; v < n_vec; v += 4 * S::WG) {
		float s[4] = {};
		for (int from = 0; from < a.n_split; from++) {
			const uint4 u = lds128(box + ((from * n_vec + v) * 32 + lane) * 16);
			s[0] += __uint_as_float(u.x), s[1] += __uint_as_float(u.y), s[2] += __uint_as_float(u.z), s[3] += __uint_as_float(u.w);
		}
		/* Lanes of rows g and g + 1 exchange, so that each has both rows of one token. */
		const uint32_t t0 = pack_bf16(s[0], s[2]), t1 = pack_bf16(s[1], s[3]); /* rows g, g + 8 */
		const bool odd = lane & 4;
		const uint32_t mine = odd ? t1 : t0, sent = odd ? t0 : t1;
		const uint32_t got = __shfl_xor_sync(~0u, sent, 4), even_row = odd ? got : mine, odd_row = odd ? mine : got;
		const int row = w.row0 + (rank * n_slab + v / (S::N / 8)) * 16 + (lane / 8) * 2, tok = v % (S::N / 8) * 8 + (lane & 3) * 2 + odd;
		if (tok >= w.n_tok || row >= a.n_out) continue;
		uint32_t *out = (uint32_t *)(a.out + (size_t)(w.tok0 + tok) * a.n_out + row);
		out[0] = __byte_perm(even_row, odd_row, 0x5410);
		out[4] = __byte_perm(even_row, odd_row, 0x7632);
	}
}

/* ---- the kernel -------------------------------------------------------------------------------------------------------- */

template <int N, int WG> __global__ void __launch_bounds__(128 * WG + 64, WG > 1 ? 1 : N <= 16 ? 4 : 3) fp8_stream_kernel(const __grid_constant__ struct fp8_gemm_args a)
{
	using S = fp8_tile_shape<N, 64 * WG, WG, false, 1>;
	extern __shared__ __align__(1024) char base[];
	struct fp8_ring<S> r = { smem_u32(base), a.n_stage, 0, 0 };
	/* A cluster is n_split CTAs that share K, or one CTA. */
	const int rank = blockIdx.x % a.n_split, first = blockIdx.x / a.n_split, step = gridDim.x / a.n_split;
	const int kb0 = a.n_block * rank / a.n_split, kb1 = a.n_block * (rank + 1) / a.n_split;
	fp8_open(r);
	if (a.n_split > 1) {
		if (threadIdx.x / 32 == 4 * WG) inbox_open((uint64_t *)(base + S::INBOX), N * S::ROWS * 4);
		__syncwarp();
		cluster_arrive_relaxed();
	}

	if (threadIdx.x >= 128 * WG) {
		if (threadIdx.x < 128 * WG + 32)
			fp8_fill<S>(a, r, kb0, kb1, first, step, 0);
		else
			fp8_fill_scales<S>(a, r, kb0, kb1, first, step, 0);
		if (a.n_split > 1) {
			__syncwarp();
			cluster_wait();
			if (!S::OWN_INBOX) {
				cluster_arrive_relaxed();
				cluster_wait();
			}
		}
		return;
	}
	struct fp8_walk at = {};
	struct fp8_work w = {};
	bool waited = a.mode != MOXIE_FP8_DENSE;
	if (waited) pdl_wait();
	if (a.n_split > 1) { /* all inboxes are open; a cluster has one tile, or none */
		cluster_wait();
		const bool any = fp8_find<S>(a, &at, first, 0, &w);
		char *box = base + (S::OWN_INBOX ? S::BARS : S::DATA);
		float sum[S::SUM];
		if (any) fp8_multiply<S>(a, w, &r, kb0, kb1, sum);
		if (!S::OWN_INBOX) { /* every ring of the cluster is drained */
			__syncwarp();
			cluster_arrive_relaxed();
			cluster_wait();
		}
		if (!any) return;
		if (!waited) pdl_wait(); /* out may be read by the kernel in front; tokens came after it, so this returns at once */
		fp8_send_parts<S>(a, sum, rank, box, base + S::INBOX);
		inbox_wait((uint64_t *)(base + S::INBOX));
		fp8_add_parts<S>(a, w, rank, smem_u32(box));
		return;
	}
	for (int tile = first; fp8_find<S>(a, &at, tile, 0, &w); tile += step) {
		float sum[S::SUM];
		fp8_multiply<S>(a, w, &r, kb0, kb1, sum);
		if (!waited) pdl_wait();
		waited = true;
		fp8_store<S>(a, w, sum, smem_u32(base) + S::BARS);
	}
}

#endif
