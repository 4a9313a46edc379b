/* moe_combine - the weighted sum over a token's experts, with residual and shared expert; and the RMSNorm that follows, where asked for.
 *
 *   out[t] = residual[t] + shared[t] + scale * sum over slots s, parts c of topk_w[t][s] * y[c][row_of_pair[t * k + s]]
 *
 *   out  [n_tok, n_embd]              bf16 out; may be residual
 *   y    [n_split, n_tok * k, n_embd] bf16 or fp32; rows of skipped slots (topk_id = -1) are never read
 *   h    [n_tok, n_embd]              bf16 out, with next [n_embd] bf16: rmsnorm of out as it was stored, the bits of rmsnorm.cu
 *
 * Map: a thread has 8 channels of one token; with a norm a CTA has one token, up to 4096 channels.  Slots and parts are added in fixed order in fp32: bitwise repeatable.  SLOTS slots are
 * read at once: one round trip for their rows, one for their y; for few tokens one in all (EARLY).
 * Cost: n_tok n_embd (k n_split sizeof y + 2..6) bytes.
 * Test: build/cuda/test_moe_experts    Bench: build/cuda/bench_moe
 */
#include "device/launch.cuh"
#include "device/ptx.cuh"
#include "moe_experts.h"

constexpr int NORM_THREADS = MOE_NEXT_EMBD / 8;
constexpr int EARLY_TOKENS = 64; /* at 256 it costs more than it saves */

/* 16 bytes past L1, or zeros without touching memory: a branch around a load would make the loads wait for each other. */
__device__ __forceinline__ uint4 load_if(bool on, const void *p)
{
	uint4 v;
	asm volatile("{ .reg .pred p; setp.ne.s32 p, %5, 0; mov.b32 %0, 0; mov.b32 %1, 0; mov.b32 %2, 0; mov.b32 %3, 0;\n"
	             "@p ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4]; }"
	             : "=&r"(v.x), "=&r"(v.y), "=&r"(v.z), "=&r"(v.w) : "l"(p), "r"((int)on));
	return v;
}
/* sum += w * 8 bf16. */
__device__ __forceinline__ void add_bf16(float (&sum)[8], uint4 v, float w)
{
	const uint32_t u[4] = { v.x, v.y, v.z, v.w };
#pragma unroll
	for (int i = 0; i < 4; i++) {
		sum[2 * i] = fmaf(w, __uint_as_float(u[i] << 16), sum[2 * i]);
		sum[2 * i + 1] = fmaf(w, __uint_as_float(u[i] & 0xffff0000u), sum[2 * i + 1]);
	}
}
/* sum += w * 4 floats. */
__device__ __forceinline__ void add_f32(float *sum, uint4 v, float w)
{
	const uint32_t u[4] = { v.x, v.y, v.z, v.w };
#pragma unroll
	for (int i = 0; i < 4; i++)
		sum[i] = fmaf(w, __uint_as_float(u[i]), sum[i]);
}

/* h of one token: v is this thread's part of it, of a CTA that has all. */
__device__ __forceinline__ void norm_row(const struct moe_combine_args &a, uint4 v, uint4 w, size_t at, bool there)
{
	__shared__ float part[NORM_THREADS / 32];
	const uint32_t u[4] = { v.x, v.y, v.z, v.w }, f[4] = { w.x, w.y, w.z, w.w };
	float sum = 0;
#pragma unroll
	for (int j = 0; j < 4; j++) {
		const float lo = __uint_as_float(u[j] << 16), hi = __uint_as_float(u[j] & 0xffff0000u);
		sum = fmaf(lo, lo, sum), sum = fmaf(hi, hi, sum);
	}
#pragma unroll
	for (int d = 16; d; d /= 2)
		sum += __shfl_xor_sync(~0u, sum, d);
	if (threadIdx.x % 32 == 0)
		part[threadIdx.x / 32] = sum;
	__syncthreads();
	sum = 0;
	for (int i = 0; i < (int)blockDim.x / 32; i++)
		sum += part[i];
	const float r = 1 / sqrtf(sum / (float)a.n_embd + a.eps);
	uint32_t h[4];
#pragma unroll
	for (int j = 0; j < 4; j++) {
		const float lo = __uint_as_float(u[j] << 16) * r * __uint_as_float(f[j] << 16);
		const float hi = __uint_as_float(u[j] & 0xffff0000u) * r * __uint_as_float(f[j] & 0xffff0000u);
		const __nv_bfloat162 p = __floats2bfloat162_rn(lo, hi);
		h[j] = *(const uint32_t *)&p;
	}
	if (there)
		*(uint4 *)(a.h + at) = make_uint4(h[0], h[1], h[2], h[3]);
}

constexpr int NO_ROW = -1;

/* Rows of y of slots s0 .. of token t; NO_ROW for a skipped slot and where there are no more. */
template <int SLOTS> __device__ __forceinline__ void rows_of(const struct moe_combine_args &a, int t, int s0, int (&row)[SLOTS])
{
	int id[SLOTS];
#pragma unroll
	for (int j = 0; j < SLOTS; j++) {
		const int pair = t * a.n_used + min(s0 + j, a.n_used - 1);
		row[j] = __ldcg(a.row_of_pair + pair);
		id[j] = __ldcg(a.topk_id + pair);
	}
#pragma unroll
	for (int j = 0; j < SLOTS; j++)
		if (id[j] < 0 || s0 + j >= a.n_used) row[j] = NO_ROW;
}

/* Part c of those rows, channels ch .. ch + 7; zeros for NO_ROW. */
template <int SLOTS, int VEC>
__device__ __forceinline__ void read_y(const struct moe_combine_args &a, const int (&row)[SLOTS], int c, int ch, uint4 (&v)[SLOTS][VEC])
{
	const size_t part = (size_t)a.n_tok * a.n_used * a.n_embd;
#pragma unroll
	for (int j = 0; j < SLOTS; j++) {
		const bool on = row[j] != NO_ROW;
		const char *y = (const char *)a.y + (c * part + (size_t)(on ? row[j] : 0) * a.n_embd + ch) * 2 * VEC;
#pragma unroll
		for (int h = 0; h < VEC; h++)
			v[j][h] = load_if(on, y + 16 * h);
	}
}

/* EARLY: rows are read before the wait as well, and y after it by what was read then: one round trip instead of two.  The rows are
 * nearly always there by then, as these CTAs find room only when those of the experts leave; what is read after the wait decides. */
template <bool F32, int SLOTS, bool NORM, bool EARLY> __global__ void __launch_bounds__(NORM ? NORM_THREADS : 256, 1) moe_combine_kernel(const struct moe_combine_args a)
{
	constexpr int VEC = F32 ? 2 : 1;
	const int per_tok = a.n_embd / 8;
	const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
	const bool there = !NORM || (int)threadIdx.x < per_tok;
	const int t = NORM ? blockIdx.x : (int)(i / per_tok), ch = NORM ? (there ? threadIdx.x * 8 : 0) : (int)(i - (int64_t)t * per_tok) * 8;
	uint4 next = make_uint4(0, 0, 0, 0);
	if (NORM)
		next = __ldg((const uint4 *)(a.next + ch));
	int guess[SLOTS];
	if (EARLY && t < a.n_tok) {
		rows_of(a, t, 0, guess);
#pragma unroll
		for (int j = 0; j < SLOTS; j++) /* it may be anything yet */
			if ((uint32_t)guess[j] >= (uint32_t)(a.n_tok * a.n_used)) guess[j] = NO_ROW;
	}
	pdl_launch();
	pdl_wait();
	if (t >= a.n_tok) return;
	float sum[8] = { 0, 0, 0, 0, 0, 0, 0, 0 };
	const size_t at = (size_t)t * a.n_embd + ch;
	const uint4 shared = load_if(a.shared, a.shared + at), residual = load_if(a.residual, a.residual + at);
	for (int s0 = 0; s0 < a.n_used; s0 += SLOTS) {
		int row[SLOTS];
		float w[SLOTS];
		uint4 v[SLOTS][VEC];
		const bool early = EARLY && s0 == 0;
		if (early) read_y(a, guess, 0, ch, v);
		rows_of(a, t, s0, row);
		bool right = early;
#pragma unroll
		for (int j = 0; j < SLOTS; j++) {
			w[j] = __ldcg(a.topk_w + t * a.n_used + min(s0 + j, a.n_used - 1));
			if (EARLY) right &= row[j] == guess[j];
		}
		if (!right) read_y(a, row, 0, ch, v);
		for (int c = 0;;) {
#pragma unroll
			for (int j = 0; j < SLOTS; j++) {
				const float weight = row[j] == NO_ROW ? 0 : w[j]; /* an unused slot's weight may be anything */
				if constexpr (F32) {
					add_f32(sum, v[j][0], weight);
					add_f32(sum + 4, v[j][VEC - 1], weight);
				} else
					add_bf16(sum, v[j][0], weight);
			}
			if (++c >= a.n_split) break;
			read_y(a, row, c, ch, v);
		}
	}
#pragma unroll
	for (int j = 0; j < 8; j++)
		sum[j] *= a.scale;
	add_bf16(sum, shared, 1);
	add_bf16(sum, residual, 1);
	uint4 v;
	uint32_t *u = (uint32_t *)&v;
#pragma unroll
	for (int j = 0; j < 4; j++) {
		const __nv_bfloat162 p = __floats2bfloat162_rn(sum[2 * j], sum[2 * j + 1]);
		u[j] = *(const uint32_t *)&p;
	}
	if (there)
		*(uint4 *)(a.out + at) = v;
	if constexpr (NORM)
		norm_row(a, there ? v : make_uint4(0, 0, 0, 0), next, at, there);
}

template <bool NORM, bool EARLY> static void (*kernel_for(const struct moe_combine_args *a, int y_f32))(struct moe_combine_args)
{
	return y_f32            ? moe_combine_kernel<true, 4, NORM, false>
	       : a->n_used <= 4 ? moe_combine_kernel<false, 4, NORM, EARLY>
	                        : moe_combine_kernel<false, 8, NORM, EARLY>;
}

cudaError_t moe_combine(const struct moe_combine_args *a, int y_f32, cudaStream_t stream)
{
	const int threads = 256, per_tok = a->n_embd / 8;
	const int64_t n = (int64_t)a->n_tok * per_tok;
	const bool early = a->n_tok <= EARLY_TOKENS;
	if (a->next)
		return cuda_launch(early ? kernel_for<true, true>(a, y_f32) : kernel_for<true, false>(a, y_f32), dim3(a->n_tok), dim3((per_tok + 31) / 32 * 32), 0,
		                   stream, *a);
	return cuda_launch(early ? kernel_for<false, true>(a, y_f32) : kernel_for<false, false>(a, y_f32), dim3((unsigned)((n + threads - 1) / threads)),
	                   dim3(threads), 0, stream, *a);
}
