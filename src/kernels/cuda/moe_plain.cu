/* moe_plain.cu - router, experts and combine as kernels.h states them: one warp an output, weights as the checkpoint has them.
 *
 *   h, act, x  [n_tok, n_embd], [n_tok * n_used, n_ff], [n_tok, n_embd] bf16
 *   experts    MXFP4 [n_expert, N, K/32, 16] and e8m0 [n_expert, N, K/32]; biases, router bf16
 *
 * Sums are fp32: 32 lanes, then a butterfly, the same bits in any batch.  No speed is claimed: each output reads its own row.
 * Test: build/test_model golden_cuda (tiny checkpoints have such dimensions)
 */
#include <cuda_bf16.h>

#include "device/launch.cuh"
#include "device/ptx.cuh"
#include "device/warp.cuh"
#include "moe_plain.h"

constexpr int N_WARP = 8;

__device__ __forceinline__ float at(const __nv_bfloat16 *p, size_t i) { return p ? __bfloat162float(p[i]) : 0.f; }

__device__ __forceinline__ float e2m1(unsigned code)
{
	const float v[8] = { 0, .5f, 1, 1.5f, 2, 3, 4, 6 };
	return code & 8 ? -v[code & 7] : v[code & 7];
}

__device__ __forceinline__ float e8m0(unsigned s) { return __uint_as_float(s == 255 ? 0x7fc00000u : s == 0 ? 0x00400000u : s << 23); }

/* Row `row` of an MXFP4 matrix against a, by one warp; the sum in every lane. */
__device__ float dot_mx(const __nv_bfloat16 *a, const uint8_t *blk, const uint8_t *scl, size_t row, int n_in, int lane)
{
	const uint8_t *b = blk + row * (n_in / 2), *s = scl + row * (n_in / 32);
	float sum = 0;
	for (int i = lane; i < n_in / 2; i += 32) {
		const float m = e8m0(s[i / 16]);
		sum = fmaf(__bfloat162float(a[2 * i]), e2m1(b[i]) * m, sum);
		sum = fmaf(__bfloat162float(a[2 * i + 1]), e2m1(b[i] >> 4) * m, sum);
	}
	return warp_sum(sum);
}

/* Shared memory: logits [n_expert]. */
__global__ void route_plain_kernel(const struct route_args a, const __nv_bfloat16 *w, const __nv_bfloat16 *b)
{
	extern __shared__ float logit[];
	const int t = blockIdx.x, lane = threadIdx.x % 32;
	pdl_launch();
	pdl_wait();
	const __nv_bfloat16 *h = (const __nv_bfloat16 *)a.h + (size_t)t * a.n_embd;
	for (int e = threadIdx.x / 32; e < a.n_expert; e += N_WARP) {
		float s = 0;
		for (int i = lane; i < a.n_embd; i += 32)
			s = fmaf(__bfloat162float(h[i]), __bfloat162float(w[(size_t)e * a.n_embd + i]), s);
		s = warp_sum(s) + at(b, e);
		if (lane == 0)
			logit[e] = s;
	}
	__syncthreads();
	if (threadIdx.x)
		return;
	int32_t *id = a.t.topk_id + (size_t)t * a.n_used;
	float *weight = a.t.topk_w + (size_t)t * a.n_used, sum = 0;
	for (int s = 0; s < a.n_used; s++) {
		int best = -1;
		for (int e = 0; e < a.n_expert; e++) {
			bool taken = false;
			for (int i = 0; i < s; i++)
				taken |= id[i] == e;
			if (!taken && (best < 0 || logit[e] > logit[best] || (isnan(logit[best]) && !isnan(logit[e]))))
				best = e;
		}
		id[s] = best;
	}
	for (int s = 0; s < a.n_used; s++)
		sum += weight[s] = expf(logit[id[s]] - logit[id[0]]);
	for (int s = 0; s < a.n_used; s++)
		weight[s] /= sum;
}

__global__ void moe_gate_up_plain_kernel(const struct moe_gate_up_args a, const uint8_t *blk, const uint8_t *scl, const __nv_bfloat16 *b, size_t n)
{
	const size_t i = (size_t)blockIdx.x * N_WARP + threadIdx.x / 32;
	pdl_launch();
	pdl_wait();
	if (i >= n)
		return;
	const size_t p = i / a.n_ff, row = ((size_t)a.t.topk_id[p] * a.n_ff + i % a.n_ff) * 2;
	const __nv_bfloat16 *h = (const __nv_bfloat16 *)a.h + p / a.n_used * a.n_embd;
	float g = dot_mx(h, blk, scl, row, a.n_embd, threadIdx.x % 32) + at(b, row);
	float l = dot_mx(h, blk, scl, row + 1, a.n_embd, threadIdx.x % 32) + at(b, row + 1);
	g = g > a.limit ? a.limit : g;
	l = l > a.limit ? a.limit : l < -a.limit ? -a.limit : l;
	if (threadIdx.x % 32 == 0)
		((__nv_bfloat16 *)a.act)[i] = __float2bfloat16(g / (1 + expf(-a.alpha * g)) * (l + 1));
}

__global__ void moe_down_plain_kernel(const struct moe_down_args a, const uint8_t *blk, const uint8_t *scl, const __nv_bfloat16 *b, size_t n)
{
	const size_t i = (size_t)blockIdx.x * N_WARP + threadIdx.x / 32;
	pdl_launch();
	pdl_wait();
	if (i >= n)
		return;
	const size_t t = i / a.n_embd, r = i % a.n_embd;
	float sum = 0;
	for (int s = 0; s < a.n_used; s++) {
		const size_t p = t * a.n_used + s, row = (size_t)a.t.topk_id[p] * a.n_embd + r;
		const float y = dot_mx((const __nv_bfloat16 *)a.act + p * a.n_ff, blk, scl, row, a.n_ff, threadIdx.x % 32) + at(b, row);
		sum = fmaf(a.t.topk_w[p], y, sum);
	}
	if (threadIdx.x % 32 == 0)
		((__nv_bfloat16 *)a.x)[i] = __float2bfloat16(__bfloat162float(((const __nv_bfloat16 *)a.x)[i]) + sum);
}

static int done(cudaError_t e, const char *what, struct moxie_err *err)
{
	return e == cudaSuccess ? 0 : err_set(err, MOXIE_E_DEVICE, "%s: %s", what, cudaGetErrorString(e));
}

static const __nv_bfloat16 *bf16_of(const struct weight *w) { return w ? (const __nv_bfloat16 *)w->data : NULL; }

static dim3 warps(size_t n) { return dim3((unsigned)((n + N_WARP - 1) / N_WARP)); }

extern "C" int cuda_route(struct cuda_dev *d, const struct route_args *a, struct moxie_err *err)
{
	if (a->n_tok <= 0)
		return 0;
	return done(cuda_launch(route_plain_kernel, dim3(a->n_tok), dim3(N_WARP * 32), a->n_expert * sizeof(float), d->stream, *a, bf16_of(a->w), bf16_of(a->b)),
	            "route", err);
}

extern "C" int cuda_moe_gate_up(struct cuda_dev *d, const struct moe_gate_up_args *a, struct moxie_err *err)
{
	const size_t n = (size_t)a->n_tok * a->n_used * a->n_ff;
	if (!n)
		return 0;
	return done(cuda_launch(moe_gate_up_plain_kernel, warps(n), dim3(N_WARP * 32), 0, d->stream, *a, (const uint8_t *)a->w->data, a->w->scl, bf16_of(a->b), n),
	            "moe_gate_up", err);
}

extern "C" int cuda_moe_down(struct cuda_dev *d, const struct moe_down_args *a, struct moxie_err *err)
{
	const size_t n = (size_t)a->n_tok * a->n_embd;
	if (!n)
		return 0;
	return done(cuda_launch(moe_down_plain_kernel, warps(n), dim3(N_WARP * 32), 0, d->stream, *a, (const uint8_t *)a->w->data, a->w->scl, bf16_of(a->b), n),
	            "moe_down", err);
}
