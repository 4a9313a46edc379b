/* attn_plain - attention for every shape the fast kernels do not serve; short and slow.
 *
 *   o, q   [n_tok, n_head, d_head] bf16      k, v  [n_page, n_head_kv, KV_PAGE, d_head] bf16 or e4m3      formula: kernels.h attn_args
 *
 * Map: one warp a (row, query head), 32 keys at a time.  Scores: a lane owns a key and walks its row in 16-byte steps, q comes
 *   from shared memory.  Values: a lane owns pairs of channels, weights come from the other lanes.
 * Numerics: fp32 throughout, online softmax in base 2, one rounding to bf16; a row's result depends on nothing but the row.
 * Needs d_head % 8 == 0, d_head <= 512.
 * Source: formula openai/gpt-oss gpt_oss/torch/model.py (sdpa).   Test: build/cuda/test_attn plain   Bench: build/cuda/bench_attn
 */
#include "attn.cuh"
#include "device/launch.cuh"
#include "device/warp.cuh"

constexpr int N_WARP = 8, MAX_D = 512, MAX_PAIR = MAX_D / 64; /* pairs of channels of a lane */

/* Eight channels of a row: their product with q. */
__device__ __forceinline__ float dot8(uint4 k, const float *q)
{
	const uint32_t w[4] = { k.x, k.y, k.z, k.w };
	float s = 0;
#pragma unroll
	for (int i = 0; i < 4; i++) {
		s = fmaf(__uint_as_float(w[i] << 16), q[2 * i], s);
		s = fmaf(__uint_as_float(w[i] & 0xffff0000u), q[2 * i + 1], s);
	}
	return s;
}
__device__ __forceinline__ float dot8(uint2 k, const float *q)
{
	const uint32_t w[2] = { k.x, k.y };
	float s = 0;
#pragma unroll
	for (int i = 0; i < 4; i++) {
		const float2 x = f16x2_to_float2(f8x2_to_f16x2((uint16_t)(w[i / 2] >> i % 2 * 16)));
		s = fmaf(x.x, q[2 * i], s);
		s = fmaf(x.y, q[2 * i + 1], s);
	}
	return s;
}
/* A pair of channels. */
__device__ __forceinline__ float2 pair_of(uint32_t v) { return unpack_bf16(v); }
__device__ __forceinline__ float2 pair_of(uint16_t v) { return f16x2_to_float2(f8x2_to_f16x2(v)); }

/* VEC: eight channels of the cache, PAIR: two. */
template <class VEC, class PAIR>
__global__ void __launch_bounds__(32 * N_WARP) attn_plain_kernel(const __grid_constant__ attn_param p, int row0)
{
	__shared__ float q_rows[N_WARP][MAX_D];
	const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, t = row0 + blockIdx.x, ih = blockIdx.y * N_WARP + warp, d = p.d_head;
	pdl_launch();
	pdl_wait();
	if (ih >= p.n_head)
		return;
	const int seq = p.seq[t], pos = p.pos[t], first = attn_first_key(pos, p.window), ihkv = ih / (p.n_head / p.n_head_kv);
	const int64_t row = ((int64_t)t * p.n_head + ih) * d;
	float *const q = q_rows[warp];
	for (int i = lane; i < d; i += 32)
		q[i] = __bfloat162float(p.q[row + i]) * p.scale_log2;
	__syncwarp();

	float top = attn_sink(p, ih), sum = 0;
	if (lane == 0 && p.sinks)
		sum = 1;
	float2 acc[MAX_PAIR] = {};
	for (int j0 = first & ~31; j0 <= pos; j0 += 32) { /* 32 keys never straddle a page */
		const int64_t base = attn_page_at(p, attn_page(p, seq, j0 / KV_PAGE), ihkv, d) + (j0 % KV_PAGE) * d;
		const bool seen = j0 + lane >= first && j0 + lane <= pos;
		float s = -INFINITY;
		if (seen) {
			const VEC *k = (const VEC *)p.k + (base + (int64_t)lane * d) / 8;
			s = 0;
			for (int i = 0; i < d / 8; i++)
				s += dot8(k[i], q + 8 * i);
		}
		const float m = warp_most(fmaxf(top, s));
		const float weight = exp2_approx(s - m), scale = exp2_approx(top - m);
		top = m;
		sum = sum * scale + weight;
		for (int i = 0; i < MAX_PAIR; i++)
			acc[i].x *= scale, acc[i].y *= scale;
		for (int j = max(0, first - j0); j < 32 && j0 + j <= pos; j++) {
			const float w = __shfl_sync(~0u, weight, j);
			const PAIR *v = (const PAIR *)p.v + (base + j * d) / 2;
#pragma unroll
			for (int i = 0; i < MAX_PAIR; i++)
				if (lane + 32 * i < d / 2) {
					const float2 x = pair_of(v[lane + 32 * i]);
					acc[i].x = fmaf(w, x.x, acc[i].x);
					acc[i].y = fmaf(w, x.y, acc[i].y);
				}
		}
	}
	sum = warp_sum(sum);
#pragma unroll
	for (int i = 0; i < MAX_PAIR; i++)
		if (lane + 32 * i < d / 2)
			((uint32_t *)(p.o + row))[lane + 32 * i] = pack_bf16(acc[i].x / sum, acc[i].y / sum);
}

cudaError_t attn_plain(cudaStream_t stream, const attn_param &p, int row0, int n_row)
{
	const auto kernel = p.kv_f8 ? attn_plain_kernel<uint2, uint16_t> : attn_plain_kernel<uint4, uint32_t>;
	return cuda_launch(kernel, dim3(n_row, (p.n_head + N_WARP - 1) / N_WARP), 32 * N_WARP, 0, stream, p, row0);
}
