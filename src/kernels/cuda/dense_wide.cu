/* dense_wide - a dense product for many tokens: bound by multiplying.
 *
 *   P[t][n] = sum_k x[t][k] w[n][k], then bias, residual, rope, the store (dense_out.cuh)    x [n_tok, n_in], w [n_out, n_in] bf16
 *
 * Tokens are the M operand here, so that a thread holds neighbouring rows of w: both ends of a rope pair, and 16-byte stores.
 * A tile is 128 tokens x BN rows; two math warpgroups have 64 tokens each, one producer thread loads stages of 64 k by TMA.
 * Two CTAs of a cluster have neighbouring token tiles and the same rows: each loads its tokens and half of the rows, and
 * the copy engine writes that half to both.  Tiles are dealt in squares of about 2048 x 2048, which L2 holds.
 * Needs n_in % 32 == 0; qkv: d_head 64, so that a tile holds whole heads.
 * Numerics: fp32 in k order, one rounding; a token's bits do not depend on n_tok, but are not those of dense_small.
 * Cost: floor 2 n_tok n_out n_in operations / 790 TFLOP/s (H200).
 * Test: build/cuda/test_dense    Bench: build/cuda/bench_dense
 */
#include "tensor_map.h"
#include "dense_out.cuh"
#include "device/cluster.cuh"
#include "device/launch.cuh"
#include "device/ptx.cuh"
#include "device/wgmma_ss.cuh"
#include "kernels/cuda/dense.h"

constexpr int BM = 128, BK = 64, STAGES = 4, THREADS = 384, SQUARE = 8; /* SQUARE: token tile pairs of a square */
constexpr int X_STAGE = BM * BK * 2;

struct wide_param {
	struct dense_out out;
	int n_k, n_pair, n_col; /* k steps; pairs of token tiles; row tiles */
};

/* The tile that cluster `i` of the list has. */
__device__ __forceinline__ void wide_tile(const wide_param &p, int i, int *pair, int *col)
{
	const int square = i / (SQUARE * p.n_col), first = square * SQUARE, high = min(SQUARE, p.n_pair - first), rest = i - first * p.n_col;
	*col = rest / high;
	*pair = first + rest - *col * high;
}

/* Lane q of a quad gives four words, one for each of four 8-column groups, and gets group q whole: words 0..3. */
__device__ __forceinline__ uint4 quad_transpose(uint32_t w0, uint32_t w1, uint32_t w2, uint32_t w3)
{
	const bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
	/* rows differing in bit 0, then in bit 1 */
	uint32_t a = __shfl_xor_sync(0xffffffff, odd ? w0 : w1, 1), b = __shfl_xor_sync(0xffffffff, odd ? w2 : w3, 1);
	if (odd)
		w0 = a, w2 = b;
	else
		w1 = a, w3 = b;
	a = __shfl_xor_sync(0xffffffff, high ? w0 : w2, 2), b = __shfl_xor_sync(0xffffffff, high ? w1 : w3, 2);
	if (high)
		w0 = a, w1 = b;
	else
		w2 = a, w3 = b;
	return make_uint4(w0, w1, w2, w3);
}

/* The store of a plain product: row h (0: g, 1: g + 8) of this thread, token t, columns from n0. */
template <int BN> __device__ __forceinline__ void wide_put(const dense_out &o, const float (&acc)[BN / 2], int h, int t, int n0)
{
	const int q = threadIdx.x & 3;
#pragma unroll
	for (int j = 0; j < BN / 8; j++) {
		const int n = n0 + j * 8 + q * 2;
		if (t < o.n_tok && n < o.n_out)
			dense_put(dense_one_at(o, t, n), acc[4 * j + 2 * h]);
		if (t < o.n_tok && n + 1 < o.n_out)
			dense_put(dense_one_at(o, t, n + 1), acc[4 * j + 2 * h + 1]);
	}
}

/* The same where n_out % 32 == 0 and d is bf16: eight columns a thread. */
template <int BN> __device__ __forceinline__ void wide_put8(const dense_out &o, const float (&acc)[BN / 2], int h, int t, int n0)
{
	const int q = threadIdx.x & 3;
#pragma unroll
	for (int j = 0; j + 4 <= BN / 8; j += 4) {
		uint32_t w[4];
#pragma unroll
		for (int i = 0; i < 4; i++) {
			const int n = n0 + (j + i) * 8 + q * 2;
			float v[2] = { acc[4 * (j + i) + 2 * h], acc[4 * (j + i) + 2 * h + 1] };
			if (o.b && n < o.n_out)
				v[0] += dense_bias(o, n), v[1] += dense_bias(o, n + 1);
			if (o.add && t < o.n_tok && n < o.n_out) {
				const __nv_bfloat162 d = *reinterpret_cast<const __nv_bfloat162 *>(static_cast<const __nv_bfloat16 *>(o.d) + (size_t)t * o.n_out + n);
				v[0] += __bfloat162float(d.x), v[1] += __bfloat162float(d.y);
			}
			w[i] = pack_bf16(v[0], v[1]);
		}
		const uint4 v = quad_transpose(w[0], w[1], w[2], w[3]);
		const int n = n0 + (j + q) * 8;
		if (t < o.n_tok && n < o.n_out)
			*reinterpret_cast<uint4 *>(static_cast<__nv_bfloat16 *>(o.d) + (size_t)t * o.n_out + n) = v;
	}
}

/* The store of qkv, heads of 64. */
template <int BN> __device__ __forceinline__ void wide_put_qkv(const dense_out &o, const float (&acc)[BN / 2], int h, int t, int n0)
{
	const int q = threadIdx.x & 3;
	const bool there = t < o.n_tok;
	float4 cs[4];
#pragma unroll
	for (int i = 0; i < 4; i++)
		cs[i] = there ? *reinterpret_cast<const float4 *>(o.cs + (size_t)t * 64 + (i * 8 + q * 2) * 2) : make_float4(1, 0, 1, 0);
#pragma unroll
	for (int head = 0; head < BN / 64; head++) {
		const int ih = n0 / 64 + head, n = ih * 64 + q * 2;
		const bool is_v = ih >= o.n_head + o.n_head_kv, known = ih < o.n_head + 2 * o.n_head_kv;
		const bool f8 = ih >= o.n_head && o.kv == DT_F8_E4M3;
		uint32_t w[2][4];
#pragma unroll
		for (int i = 0; i < 4; i++) {
			const float *const a = acc + 4 * (head * 8 + i) + 2 * h, *const b = a + 16;
			float lo[2] = { a[0], a[1] }, hi[2] = { b[0], b[1] };
			if (o.b && known)
#pragma unroll
				for (int e = 0; e < 2; e++)
					lo[e] += dense_bias(o, n + i * 8 + e), hi[e] += dense_bias(o, n + 32 + i * 8 + e);
			if (!is_v) {
				const float c[2] = { cs[i].x, cs[i].z }, s[2] = { cs[i].y, cs[i].w };
#pragma unroll
				for (int e = 0; e < 2; e++) {
					const float x = lo[e], y = hi[e];
					lo[e] = x * c[e] - y * s[e];
					hi[e] = y * c[e] + x * s[e];
				}
			}
			w[0][i] = f8 ? dense_f8x2(lo[0], lo[1]) : pack_bf16(lo[0], lo[1]);
			w[1][i] = f8 ? dense_f8x2(hi[0], hi[1]) : pack_bf16(hi[0], hi[1]);
		}
#pragma unroll
		for (int half = 0; half < 2; half++) {
			const uint4 v = quad_transpose(w[half][0], w[half][1], w[half][2], w[half][3]);
			if (!there || !known)
				continue;
			if (f8)
				*(static_cast<uint2 *>(dense_head_at(o, t, ih, 1)) + half * 4 + q) = make_uint2(v.x | v.y << 16, v.z | v.w << 16);
			else
				*(static_cast<uint4 *>(dense_head_at(o, t, ih, 2)) + half * 4 + q) = v;
		}
	}
}

enum { WIDE_ANY, WIDE_8, WIDE_QKV };

template <int BN, int MODE>
__global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(2, 1, 1)
dense_wide_kernel(const __grid_constant__ CUtensorMap xm, const __grid_constant__ CUtensorMap wm, const __grid_constant__ wide_param p)
{
	extern __shared__ uint8_t shared[];
	constexpr int W_STAGE = BN * BK * 2;
	const uint32_t base = (smem_u32(shared) + 1023) & ~1023u;
	const uint32_t x_at = base, w_at = base + STAGES * X_STAGE, full = w_at + STAGES * W_STAGE, empty = full + 8 * STAGES;
	const int group = threadIdx.x / 128, rank = blockIdx.x & 1, n_tile = p.n_pair * p.n_col;
	if (threadIdx.x == 0) {
		for (int s = 0; s < STAGES; s++) {
			mbar_init(full + 8 * s, 1);
			mbar_init(empty + 8 * s, 4); /* two math warpgroups of each CTA */
		}
		mbar_init_fence();
	}
	cluster_arrive_relaxed();
	cluster_wait();
	pdl_wait();
	pdl_launch(); /* in this order: cuda_ops.h */
	if (group == 0) {
		regs_dec<40>();
		if (threadIdx.x == 0) {
			int s = 0, parity = 1;
			for (int i = blockIdx.x / 2; i < n_tile; i += gridDim.x / 2) {
				int pair, col;
				wide_tile(p, i, &pair, &col);
				for (int k = 0; k < p.n_k; k++) {
					mbar_wait(empty + 8 * s, parity);
					mbar_expect(full + 8 * s, X_STAGE + W_STAGE);
					tma_load3(x_at + s * X_STAGE, &xm, k * BK, (pair * 2 + rank) * BM, 0, full + 8 * s, l2_evict_last());
					tma_load3_both(w_at + s * W_STAGE + rank * (W_STAGE / 2), &wm, k * BK, col * BN + rank * (BN / 2), 0, full + 8 * s);
					if (++s == STAGES)
						s = 0, parity ^= 1;
				}
			}
		}
	} else {
		regs_inc<232>();
		const int wg = group - 1, warp = threadIdx.x / 32 & 3, g = (threadIdx.x & 31) / 4;
		int s = 0, parity = 0;
		const auto release = [&](int stage) {
			if ((threadIdx.x & 127) < 2)
				mbar_arrive_at(empty + 8 * stage, threadIdx.x & 1);
		};
		for (int i = blockIdx.x / 2; i < n_tile; i += gridDim.x / 2) {
			int pair, col;
			wide_tile(p, i, &pair, &col);
			float acc[BN / 2];
			int before = -1;
			for (int k = 0; k < p.n_k; k++) {
				mbar_wait(full + 8 * s, parity);
				const uint32_t a = wgmma_desc_low(x_at + s * X_STAGE + wg * (X_STAGE / 2)), b = wgmma_desc_low(w_at + s * W_STAGE);
				wgmma_fence();
#pragma unroll
				for (int c = 0; c < BK / 16; c++)
					wgmma_ss<BN>::mma(acc, wgmma_desc(a + 2 * c), wgmma_desc(b + 2 * c), k > 0 || c > 0);
				wgmma_commit();
				if (before >= 0) {
					wgmma_wait<1>();
					release(before);
				}
				before = s;
				if (++s == STAGES)
					s = 0, parity ^= 1;
			}
			wgmma_wait<0>();
			pin(acc);
			release(before);
			const int t = (pair * 2 + rank) * BM + wg * 64 + warp * 16 + g;
#pragma unroll
			for (int h = 0; h < 2; h++) {
				if constexpr (MODE == WIDE_QKV)
					wide_put_qkv<BN>(p.out, acc, h, t + 8 * h, col * BN);
				else if constexpr (MODE == WIDE_8)
					wide_put8<BN>(p.out, acc, h, t + 8 * h, col * BN);
				else
					wide_put<BN>(p.out, acc, h, t + 8 * h, col * BN);
			}
		}
	}
	cluster_arrive_relaxed(); /* the other CTA may still signal our barriers */
	cluster_wait();
}

template <int BN, int MODE> static cudaError_t wide_launch(const struct cuda_dev *d, const struct dense_job *j)
{
	const struct dense_out *const o = &j->out;
	wide_param p = { *o, (j->n_in + BK - 1) / BK, (o->n_tok + 2 * BM - 1) / (2 * BM), (o->n_out + BN - 1) / BN };
	const size_t shared_bytes = 1024 + STAGES * (X_STAGE + BN * BK * 2 + 16);
	const int n_tile = p.n_pair * p.n_col;
	const auto k = dense_wide_kernel<BN, MODE>;
	CUtensorMap xm, wm;
	cudaError_t rc = dense_map(&xm, j->x, j->n_in, o->n_tok, 1, BM, 1);
	if (!rc)
		rc = dense_map(&wm, j->w, j->n_in, o->n_out, 1, BN / 2, 1);
	if (!rc)
		rc = cudaFuncSetAttribute(reinterpret_cast<const void *>(k), cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
	const int n_pair = n_tile < d->n_sm / 2 ? n_tile : d->n_sm / 2;
	return rc ? rc : cuda_launch(k, dim3(2 * n_pair), dim3(THREADS), shared_bytes, d->stream, xm, wm, p);
}

extern "C" bool dense_wide_serves(const struct dense_job *j)
{
	return !j->out.qkv || (j->out.d_head == 64 && j->out.kv != DT_F32);
}

extern "C" cudaError_t dense_wide(const struct cuda_dev *d, const struct dense_job *j)
{
	const struct dense_out *const o = &j->out;
	if (o->qkv)
		return wide_launch<256, WIDE_QKV>(d, j);
	if (o->d_f32 || o->n_out % 32)
		return wide_launch<256, WIDE_ANY>(d, j);
	return wide_launch<256, WIDE_8>(d, j);
}
