/* attn_tile.cuh - one warp, one tile of keys: fetch, scores, online softmax, product with V, on mma.m16n8k16.
 *
 * Rows of the MMA are (row, query head) pairs, columns are keys, then channels.  A thread holds rows g and g + 8 (g = lane / 4)
 * and columns 8 n + 2 (lane % 4) + {0, 1}.  Where at most 8 pairs are real (HALF), rows g + 8 are never looked at.
 *
 * Tiles of e4m3 (F8).  A 16-bit element of ldmatrix is then a pair of channels, which cvt turns into two fp16; both are exact, and
 * products are those of mma with fp16, whose weights P are finer than bf16's.  So that no lane needs what another has, channels are
 * numbered otherwise: in a group of 16, the MMA's k = 2 c + i of K and Q is channel 4 c + i, k = 8 + 2 c + i is channel 4 c + 2 + i;
 * and of output tiles 2 n and 2 n + 1, the first has the even channels of group n, the second the odd ones.
 */
#ifndef MOXIE_CUDA_ATTN_TILE_CUH
#define MOXIE_CUDA_ATTN_TILE_CUH

#include "attn.cuh"

/* KEYS rows of D bf16 (F8: e4m3) in shared memory, 128-byte aligned; the 16-byte columns of a row are exclusive-ored with the
 * number of the row (of the 128 bytes, where rows are shorter), so that neither the copies nor ldmatrix meet in a bank.  At D = 64
 * of bf16 that is wgmma's 128-byte swizzle. */
template <int D, int KEYS, bool F8 = false> struct tile_of {
	static constexpr int ELEM = F8 ? 1 : 2, COL = D * ELEM / 16, BYTES = KEYS * D * ELEM, PER_PAGE = KV_PAGE / KEYS;
	static constexpr int LINE = COL < 8 ? 8 / COL : 1, MASK = COL < 8 ? COL - 1 : 7; /* rows of 128 bytes; what is exclusive-ored */
	static __device__ __forceinline__ uint32_t at(int row, int col) { return (row * COL + (col ^ (row / LINE & MASK))) * 16; }
	/* By one warp.  src: the tile's first row; rows from n_row on are not read but filled with zeros.  Lane l takes column
	 * l % COL of every (32 / COL)-th row: one address for all but an immediate, and one exclusive-or. */
	static __device__ __forceinline__ void fetch(uint32_t dst, const void *src, int n_row)
	{
		constexpr int STEP = 32 / COL;
		const int lane = threadIdx.x % 32, row = lane / COL;
		const char *from = (const char *)src + lane * 16;
		dst += at(row, lane % COL);
#pragma unroll
		for (int i = 0; i < KEYS / STEP; i++)
			cp_async16_or_zero((dst ^ (i * STEP / LINE & MASK) * 16) + i * 512, from + i * 512, i * STEP + row < n_row);
	}
};

/* A warp's rows: running max and this lane's share of the sum, on the base-2 scale, and output; q and the keys they see.
 * q lies in registers, or for large heads, whose output takes them all, in a 16-row tile of shared memory. */
template <int D, bool HALF, bool F8 = false> struct warp_rows {
	static constexpr int N = HALF ? 1 : 2;
	static constexpr bool SHARED_Q = D > 64;
	static constexpr int Q_BYTES = SHARED_Q ? 16 * D * 2 : 0;
	uint32_t q[SHARED_Q ? 1 : D / 16][4], shared_q;
	int pos[N]; /* -1: no row, and nobody looks at its result */
	float max[N], sum[N], o[D / 8][4];

	__device__ __forceinline__ void reset()
	{
#pragma unroll
		for (int i = 0; i < N; i++)
			max[i] = -INFINITY, sum[i] = 0;
#pragma unroll
		for (int n = 0; n < D / 8; n++)
#pragma unroll
			for (int i = 0; i < 4; i++)
				o[n][i] = 0;
	}
};

/* s = Q K^T of the tile at k. */
template <int D, int KEYS, bool HALF, bool F8>
__device__ __forceinline__ void tile_scores(float (&s)[KEYS / 8][4], const warp_rows<D, HALF, F8> &r, uint32_t k)
{
	const int lane = threadIdx.x % 32;
	const auto q = [&](uint32_t (&a)[4], int ks) {
		if constexpr (r.SHARED_Q)
			ldmatrix4(a, r.shared_q + tile_of<D, 16>::at(lane % 16, ks * 2 + lane / 16));
		else
			for (int i = 0; i < 4; i++)
				a[i] = r.q[ks][i];
	};
#pragma unroll
	for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
		for (int i = 0; i < 4; i++)
			s[n][i] = 0;
	if constexpr (F8) {
#pragma unroll
		for (int ks = 0; ks < D / 16; ks += 2) {
			uint32_t a[2][4];
			q(a[0], ks);
			q(a[1], ks + 1);
#pragma unroll
			for (int np = 0; np < KEYS / 16; np++) {
				uint32_t b[4]; /* of keys 0..7 and 8..15 of np: group ks, then ks + 1 */
				ldmatrix4(b, k + tile_of<D, KEYS, true>::at(np * 16 + lane / 8 % 2 * 8 + lane % 8, ks + lane / 16));
#pragma unroll
				for (int i = 0; i < 4; i++)
					mma_f16(s[2 * np + i % 2], a[i / 2], f8x2_to_f16x2((uint16_t)b[i]), f8x2_to_f16x2((uint16_t)(b[i] >> 16)));
			}
		}
	} else
#pragma unroll
		for (int ks = 0; ks < D / 16; ks++) {
			uint32_t a[4];
			q(a, ks);
#pragma unroll
			for (int np = 0; np < KEYS / 16; np++) {
				uint32_t b[4];
				ldmatrix4(b, k + tile_of<D, KEYS>::at(np * 16 + lane / 16 * 8 + lane % 8, ks * 2 + lane / 8 % 2));
				mma_bf16(s[2 * np], a, b[0], b[1]);
				mma_bf16(s[2 * np + 1], a, b[2], b[3]);
			}
		}
}

/* Scores become weights: masks (where asked), raises the max, rescales what was summed so far.  key0: the tile's first key. */
template <int D, int KEYS, bool HALF, bool F8>
__device__ __forceinline__ void tile_softmax(float (&s)[KEYS / 8][4], warp_rows<D, HALF, F8> &r, int key0, bool masked, uint32_t window,
                                             float scale_log2)
{
	const int lane = threadIdx.x % 32;
#pragma unroll
	for (int half = 0; half < warp_rows<D, HALF>::N; half++) {
		float m = r.max[half];
#pragma unroll
		for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
			for (int i = 0; i < 2; i++) {
				float &v = s[n][2 * half + i];
				v *= scale_log2;
				if (masked) {
					const int key = key0 + n * 8 + lane % 4 * 2 + i;
					v = (uint32_t)(r.pos[half] - key) < window ? v : -INFINITY; /* keys after the row's position wrap round */
				}
				m = fmaxf(m, v);
			}
		m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
		m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
		const float base = m == -INFINITY ? 0 : m, scale = exp2_approx(r.max[half] - base); /* no key seen yet: all weights 0 */
		float sum = r.sum[half] * scale;
#pragma unroll
		for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
			for (int i = 0; i < 2; i++) {
				float &v = s[n][2 * half + i];
				v = exp2_approx(v - base);
				sum += v;
			}
		r.max[half] = m;
		r.sum[half] = sum;
#pragma unroll
		for (int n = 0; n < D / 8; n++) {
			r.o[n][2 * half] *= scale;
			r.o[n][2 * half + 1] *= scale;
		}
	}
}

/* o += weights V of the tile at v. */
template <int D, int KEYS, bool HALF, bool F8>
__device__ __forceinline__ void tile_values(warp_rows<D, HALF, F8> &r, const float (&s)[KEYS / 8][4], uint32_t v)
{
	const int lane = threadIdx.x % 32;
	const auto pack = [](float low, float high) { return F8 ? pack_f16(low, high) : pack_bf16(low, high); };
#pragma unroll
	for (int ks = 0; ks < KEYS / 16; ks++) {
		const float *x = s[2 * ks], *y = s[2 * ks + 1];
		const uint32_t a[4] = { pack(x[0], x[1]), HALF ? 0 : pack(x[2], x[3]), pack(y[0], y[1]), HALF ? 0 : pack(y[2], y[3]) };
		const int row = ks * 16 + lane / 8 % 2 * 8 + lane % 8;
		if constexpr (F8) {
#pragma unroll
			for (int np = 0; np < D / 16; np += 2) {
				uint32_t b[4]; /* of groups np and np + 1: keys 0..7, 8..15; bytes: key, channel 2 g and 2 g + 1, then the next key's */
				ldmatrix4_trans(b, v + tile_of<D, KEYS, true>::at(row, np + lane / 16));
#pragma unroll
				for (int i = 0; i < 4; i++)
					b[i] = __byte_perm(b[i], 0, 0x3120);
#pragma unroll
				for (int i = 0; i < 4; i++) {
					const int shift = i % 2 * 16, at = i & 2; /* even channels, odd ones */
					mma_f16(r.o[2 * np + i], a, f8x2_to_f16x2((uint16_t)(b[at] >> shift)), f8x2_to_f16x2((uint16_t)(b[at + 1] >> shift)));
				}
			}
		} else
#pragma unroll
			for (int np = 0; np < D / 16; np++) {
				uint32_t b[4];
				ldmatrix4_trans(b, v + tile_of<D, KEYS>::at(row, np * 2 + lane / 16));
				mma_bf16(r.o[2 * np], a, b[0], b[1]);
				mma_bf16(r.o[2 * np + 1], a, b[2], b[3]);
			}
	}
}

/* Over the four threads of a row. */
__device__ __forceinline__ float quad_sum(float v)
{
	v += __shfl_xor_sync(~0u, v, 1);
	return v + __shfl_xor_sync(~0u, v, 2);
}
/* What a row's values are multiplied by in the end: from the sum of its weights and the max of its base-2 scores, head ih's sink counted in. */
__device__ __forceinline__ float row_factor(const attn_param &p, int ih, float sum, float max)
{
	const float sink = attn_sink(p, ih), top = fmaxf(max, sink), y = exp2_approx(max - top);
	return y / (sum * y + exp2_approx(sink - top));
}

#endif
