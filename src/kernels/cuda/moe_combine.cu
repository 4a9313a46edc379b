/* moe_combine - the weighted sum over a token's experts, with residual and shared expert.
 *
 *   out[t] = residual[t] + shared[t] + scale * sum over slots s, parts c of topk_w[t][s] * y[c][row_of_pair[t * k + s]]
 *
 *   out  [n_tok, n_embd]              bf16 out; may be residual
 *   y    [n_split, n_tok * k, n_embd] bf16 or fp32; rows of skipped slots (topk_id = -1) are never read
 *
 * Map: a thread has 8 channels of one token.  Slots (by fours) and parts are added in fixed order in fp32: bitwise repeatable.
 * Cost: n_tok n_embd (k n_split sizeof y + 2..6) bytes.
 * Test: build/cuda/test_moe_experts    Bench: build/cuda/bench_moe
 */
#include "device/launch.cuh"
#include "device/ptx.cuh"
#include "moe_experts.h"

template <bool F32> __device__ __forceinline__ void add_y(float (&sum)[8], const void *y, size_t at, float w)
{
	if constexpr (F32) {
		const float4 *p = (const float4 *)((const float *)y + at);
#pragma unroll
		for (int h = 0; h < 2; h++) {
			const float4 v = __ldcg(p + h);
			sum[4 * h + 0] = fmaf(w, v.x, sum[4 * h + 0]);
			sum[4 * h + 1] = fmaf(w, v.y, sum[4 * h + 1]);
			sum[4 * h + 2] = fmaf(w, v.z, sum[4 * h + 2]);
			sum[4 * h + 3] = fmaf(w, v.w, sum[4 * h + 3]);
		}
	} else {
		const uint4 v = __ldcg((const uint4 *)((const __nv_bfloat16 *)y + at));
		const uint32_t u[4] = { v.x, v.y, v.z, v.w };
#pragma unroll
		for (int i = 0; i < 4; i++) {
			sum[2 * i] = fmaf(w, __uint_as_float(u[i] << 16), sum[2 * i]);
			sum[2 * i + 1] = fmaf(w, __uint_as_float(u[i] & 0xffff0000u), sum[2 * i + 1]);
		}
	}
}
__device__ __forceinline__ void add_row(float (&sum)[8], const __nv_bfloat16 *row)
{
	if (row) add_y<false>(sum, row, 0, 1);
}

template <bool F32> __global__ void __launch_bounds__(256) moe_combine_kernel(const struct moe_combine_args a)
{
	const int per_tok = a.n_embd / 8;
	const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
	const int t = (int)(i / per_tok), ch = (int)(i - (int64_t)t * per_tok) * 8;
	pdl_launch();
	pdl_wait();
	if (t >= a.n_tok) return;
	float sum[8] = { 0, 0, 0, 0, 0, 0, 0, 0 };
	const size_t part = (size_t)a.n_tok * a.n_used * a.n_embd;
	for (int s0 = 0; s0 < a.n_used; s0 += 4) { /* ids, weights and rows of four slots at once, then their y: two round trips */
		int row[4];
		float w[4];
#pragma unroll
		for (int j = 0; j < 4; j++) {
			const int pair = t * a.n_used + min(s0 + j, a.n_used - 1);
			row[j] = __ldcg(a.row_of_pair + pair);
			w[j] = __ldcg(a.topk_w + pair);
			if (s0 + j >= a.n_used || __ldcg(a.topk_id + pair) < 0) row[j] = -1;
		}
		for (int c = 0; c < a.n_split; c++)
#pragma unroll
			for (int j = 0; j < 4; j++)
				if (row[j] >= 0) add_y<F32>(sum, a.y, c * part + (size_t)row[j] * a.n_embd + ch, w[j]);
	}
#pragma unroll
	for (int j = 0; j < 8; j++)
		sum[j] *= a.scale;
	const size_t at = (size_t)t * a.n_embd + ch;
	add_row(sum, a.shared ? a.shared + at : NULL);
	add_row(sum, a.residual ? a.residual + at : NULL);
	uint4 v;
	uint32_t *u = (uint32_t *)&v;
#pragma unroll
	for (int j = 0; j < 4; j++) {
		const __nv_bfloat162 p = __floats2bfloat162_rn(sum[2 * j], sum[2 * j + 1]);
		u[j] = *(const uint32_t *)&p;
	}
	*(uint4 *)(a.out + at) = v;
}

cudaError_t moe_combine(const struct moe_combine_args *a, int y_f32, cudaStream_t stream)
{
	const int threads = 256;
	const int64_t n = (int64_t)a->n_tok * (a->n_embd / 8);
	return cuda_launch(y_f32 ? moe_combine_kernel<true> : moe_combine_kernel<false>, dim3((unsigned)((n + threads - 1) / threads)), dim3(threads), 0, stream, *a);
}
