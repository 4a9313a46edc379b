/* dense_f8_many.cu - dense products of e4m3 weights for many tokens: tensor cores multiply e4m3 by e4m3 (moxie_fp8.h).
 *
 *   xq[t][k], xs[k / 128][t]  activations as e4m3, one scale per 128 of a token (RMSNorm on the way), k in the order of the weights' codes
 *   p[t][n] = bf16(sum_k xq xs code)      the FP8 GEMM, its block scales all 1
 *   then dense_out's end: scale of the row, bias, residual, rope, the store
 *
 * Three launches where bf16 weights have one or two.  What few tokens do not have is the rounding of activations, half a step of e4m3, and
 * that of p to bf16.  Serves n_out and n_in that are multiples of 64, n_in up to 8192.
 * Test: build/cuda/test_dense f8    Bench: build/cuda/bench_dense --weights fp8 --kernel many
 */
#include <new>

#include "dense_out.cuh"
#include "device/launch.cuh"
#include "device/ptx.cuh"
#include "device/warp.cuh"
#include "moxie_fp8.h"

constexpr int N_PRODUCT = 3, THREADS = 256, WARPS = THREADS / 32, BLOCK = 128; /* BLOCK: k of a scale */
constexpr int KEEP = 8; /* blocks that a warp holds of a token */

struct dense_f8 {
	struct {
		int n_out, n_in;
		moxie_fp8_plan *plan;
	} p[N_PRODUCT];
	uint8_t *one; /* device: e8m0 scales of 1, as many as the largest product has blocks */
};

static size_t up256(size_t n) { return (n + 255) / 256 * 256; }
static int blocks(int n) { return (n + BLOCK - 1) / BLOCK; }

/* ---- activations to e4m3 ------------------------------------------------------------------------------------------------ */


/* A CTA has a token, a warp every eighth block of 128 of it, in registers; a lane k 2q, 2q + 1, 2q + 8, 2q + 9 of one of a block's sixteens: a word
 * of codes. */
template <bool NORM>
__global__ void __launch_bounds__(THREADS) f8_rows_kernel(uint8_t *xq, float *xs, const uint32_t *x, const uint32_t *norm, int n_tok, int n_in, float eps)
{
	__shared__ float part[WARPS];
	const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, t = blockIdx.x, first = lane / 4 * 8 + (lane & 3);
	const uint32_t *const row = x + (size_t)t * (n_in / 2);
	uint32_t g[NORM ? KEEP : 1][2];
	float2 lo[KEEP] = {}, hi[KEEP] = {};
	const auto at_of = [&](int i) { return (warp + i * WARPS) * (BLOCK / 2) + first; }; /* in pairs; the last block may be 64 */
	pdl_launch();
	if constexpr (NORM)
#pragma unroll
		for (int i = 0; i < KEEP; i++)
			if (2 * at_of(i) < n_in)
				g[i][0] = __ldg(norm + at_of(i)), g[i][1] = __ldg(norm + at_of(i) + 4);
	pdl_wait();
#pragma unroll
	for (int i = 0; i < KEEP; i++)
		if (2 * at_of(i) < n_in)
			lo[i] = unpack_bf16(row[at_of(i)]), hi[i] = unpack_bf16(row[at_of(i) + 4]);
	if constexpr (NORM) {
		float sum = 0;
#pragma unroll
		for (int i = 0; i < KEEP; i++)
			sum = fmaf(lo[i].x, lo[i].x, sum), sum = fmaf(lo[i].y, lo[i].y, sum), sum = fmaf(hi[i].x, hi[i].x, sum), sum = fmaf(hi[i].y, hi[i].y, sum);
		sum = warp_sum(sum);
		if (lane == 0)
			part[warp] = sum;
		__syncthreads();
		sum = 0;
		for (int i = 0; i < WARPS; i++)
			sum += part[i];
		const float rms = rsqrtf(sum / (float)n_in + eps);
#pragma unroll
		for (int i = 0; i < KEEP; i++)
			if (2 * at_of(i) < n_in) {
				const float2 a = unpack_bf16(g[i][0]), b = unpack_bf16(g[i][1]);
				lo[i].x *= rms * a.x, lo[i].y *= rms * a.y, hi[i].x *= rms * b.x, hi[i].y *= rms * b.y;
			}
	}
#pragma unroll
	for (int i = 0; i < KEEP; i++) {
		const int b = warp + i * WARPS;
		if (b * BLOCK >= n_in)
			break;
		float most = warp_most(fmaxf(fmaxf(fabsf(lo[i].x), fabsf(lo[i].y)), fmaxf(fabsf(hi[i].x), fabsf(hi[i].y))));
		const bool nan = lo[i].x != lo[i].x || lo[i].y != lo[i].y || hi[i].x != hi[i].x || hi[i].y != hi[i].y;
		if (__any_sync(~0u, nan))
			most = __uint_as_float(0x7fc00000u);
		const float scale = most == 0 ? 1 : most / 448, inv = most == 0 ? 1 : 448 / most;
		if (2 * at_of(i) < n_in)
			reinterpret_cast<uint32_t *>(xq + (size_t)t * n_in)[b * (BLOCK / 4) + lane] =
				dense_f8x2(lo[i].x * inv, lo[i].y * inv) | dense_f8x2(hi[i].x * inv, hi[i].y * inv) << 16;
		if (lane == 0)
			xs[(size_t)b * n_tok + t] = scale;
	}
}

/* ---- gemm's end ----------------------------------------------------------------------------------------------------------- */

/* d[t][n] = p scale[n] + b[n] (+ d[t][n]), eight n a thread; blockIdx.x: token. */
__global__ void __launch_bounds__(THREADS) f8_end_kernel(const __grid_constant__ dense_out o, const __nv_bfloat16 *p)
{
	const int n = (blockIdx.y * THREADS + threadIdx.x) * 8;
	const size_t at = (size_t)blockIdx.x * o.n_out + n;
	float v[8], s[8], b[8] = {}, old[8] = {};
	const bool in = n < o.n_out;
	if (in) {
		dense_load8(s, o.scale, true, n);
		if (o.b)
			dense_load8(b, o.b, o.b_f32, n);
	}
	pdl_launch();
	pdl_wait();
	if (!in)
		return;
	dense_load8(v, p, false, at);
	if (o.add)
		dense_load8(old, o.d, o.d_f32, at);
#pragma unroll
	for (int e = 0; e < 8; e++)
		v[e] = v[e] * s[e] + b[e] + old[e];
	if (o.d_f32) {
		float4 *const to = reinterpret_cast<float4 *>(static_cast<float *>(o.d) + at);
		to[0] = make_float4(v[0], v[1], v[2], v[3]), to[1] = make_float4(v[4], v[5], v[6], v[7]);
		return;
	}
	uint4 u;
	__nv_bfloat162 *const w = reinterpret_cast<__nv_bfloat162 *>(&u);
#pragma unroll
	for (int e = 0; e < 4; e++)
		w[e] = __floats2bfloat162_rn(v[2 * e], v[2 * e + 1]);
	*reinterpret_cast<uint4 *>(static_cast<__nv_bfloat16 *>(o.d) + at) = u;
}

/* ---- the product ---------------------------------------------------------------------------------------------------------- */

static moxie_fp8_plan *plan_of(const struct dense_f8 *f, int n_out, int n_in)
{
	for (int i = 0; f && i < N_PRODUCT; i++)
		if (f->p[i].n_out == n_out && f->p[i].n_in == n_in)
			return f->p[i].plan;
	return NULL;
}

static size_t ws_bytes(int n_tok, int n_out, int n_in)
{
	return up256((size_t)n_tok * n_in) + up256((size_t)n_tok * blocks(n_in) * 4) + up256((size_t)n_tok * n_out * 2);
}

extern "C" bool dense_f8_many_serves(const struct cuda_dev *d, const struct dense_job *j, size_t n_ws)
{
	return j->f8 && plan_of(d->dense_f8, j->out.n_out, j->n_in) && j->n_in <= KEEP * WARPS * BLOCK && (uintptr_t)j->out.b % 16 == 0 && (uintptr_t)j->out.scale % 16 == 0 &&
	       ws_bytes(j->out.n_tok, j->out.n_out, j->n_in) <= n_ws;
}

extern "C" int dense_f8_many(const struct cuda_dev *d, const struct dense_job *j, void *ws, struct moxie_err *err)
{
	const struct dense_out *const o = &j->out;
	uint8_t *const xq = static_cast<uint8_t *>(ws);
	float *const xs = reinterpret_cast<float *>(xq + up256((size_t)o->n_tok * j->n_in));
	__nv_bfloat16 *const p = reinterpret_cast<__nv_bfloat16 *>(reinterpret_cast<char *>(xs) + up256((size_t)o->n_tok * blocks(j->n_in) * 4));
	cudaError_t e = cuda_launch(j->norm ? f8_rows_kernel<true> : f8_rows_kernel<false>, dim3(o->n_tok), dim3(THREADS), 0, d->stream, xq, xs,
	                            static_cast<const uint32_t *>(j->x), static_cast<const uint32_t *>(j->norm), o->n_tok, j->n_in, j->eps);
	if (e == cudaSuccess) {
		struct moxie_fp8_args a = {};
		a.x = xq, a.x_scale = xs, a.x_scale_ld = o->n_tok, a.w = j->w, a.w_scale = d->dense_f8->one, a.out = p, a.n_tok = o->n_tok;
		const int rc = moxie_fp8_gemm(plan_of(d->dense_f8, o->n_out, j->n_in), &a, d->stream, err);
		if (rc < 0)
			return rc;
		e = o->qkv ? dense_rope_store(d, o, p)
		           : cuda_launch(f8_end_kernel, dim3(o->n_tok, (o->n_out / 8 + THREADS - 1) / THREADS), dim3(THREADS), 0, d->stream, *o,
		                         static_cast<const __nv_bfloat16 *>(p));
	}
	return e == cudaSuccess ? 0 : err_set(err, MOXIE_E_DEVICE, "dense product in FP8: %s", cudaGetErrorString(e));
}

/* ---- open, close ---------------------------------------------------------------------------------------------------------- */

static void products_of(struct dense_f8 *f, const struct kern_limits *l)
{
	const int n_q = l->n_head * l->d_head;
	f->p[0].n_out = n_q + 2 * l->n_head_kv * l->d_head, f->p[0].n_in = l->n_embd;
	f->p[1].n_out = l->n_embd, f->p[1].n_in = n_q;
	f->p[2].n_out = l->n_vocab, f->p[2].n_in = l->n_embd;
}

extern "C" size_t dense_f8_ws_bytes(const struct kern_limits *l)
{
	struct dense_f8 f;
	size_t most = 0;
	products_of(&f, l);
	for (int i = 0; i < N_PRODUCT; i++) {
		const size_t n = f.p[i].n_out % 64 || f.p[i].n_in % 64 ? 0 : ws_bytes(i < 2 ? l->n_tok : l->n_seq, f.p[i].n_out, f.p[i].n_in);
		most = n > most ? n : most;
	}
	return most;
}

extern "C" void cuda_dense_f8_close(struct cuda_dev *d)
{
	struct dense_f8 *const f = d->dense_f8;
	d->dense_f8 = NULL;
	if (!f)
		return;
	for (int i = 0; i < N_PRODUCT; i++)
		moxie_fp8_plan_free(f->p[i].plan);
	cudaFree(f->one);
	delete f;
}

extern "C" int cuda_dense_f8_open(struct cuda_dev *d, const struct kern_limits *lim, struct moxie_err *err)
{
	struct dense_f8 *const f = d->dense_f8 = new (std::nothrow) dense_f8();
	size_t n_one = 1;
	int rc = 0;
	if (!f)
		return err_set(err, MOXIE_E_NOMEM, "no memory for the plans of dense products");
	products_of(f, lim);
	for (int i = 0; rc == 0 && i < N_PRODUCT; i++) {
		if (f->p[i].n_out < 64 || f->p[i].n_in < 64 || f->p[i].n_out % 64 || f->p[i].n_in % 64)
			continue; /* dense_small serves any number of tokens */
		const struct moxie_fp8_desc desc = { MOXIE_FP8_DENSE, 1, f->p[i].n_out, f->p[i].n_in, MOXIE_FP8_SCALE_E8M0 };
		const size_t n = (size_t)blocks(f->p[i].n_out) * blocks(f->p[i].n_in);
		n_one = n > n_one ? n : n_one;
		rc = moxie_fp8_plan_create(&f->p[i].plan, &desc, d->id, err);
	}
	cudaError_t e = rc < 0 ? cudaSuccess : cudaMalloc(reinterpret_cast<void **>(&f->one), n_one);
	if (rc == 0 && e == cudaSuccess)
		e = cudaMemset(f->one, 127, n_one);
	if (rc == 0 && e != cudaSuccess)
		rc = err_set(err, MOXIE_E_NOMEM, "%zu bytes of scales: %s", n_one, cudaGetErrorString(e));
	if (rc < 0)
		cuda_dense_f8_close(d);
	return rc;
}
