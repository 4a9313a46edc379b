/* dense.cu - cuda_gemm and cuda_qkv: checks, and the choice of kernel by n_tok.
 *
 * Up to small_tok() tokens dense_small serves and a token's bits do not depend on the batch.  Above, cuBLASLt makes gemm with bias and residual
 * in one call, and for qkv the product with bias into scratch as bf16, from where rope_store8_kernel takes it: q, k and v are then rounded
 * twice.  Where the library is missing dense_wide serves, of shapes that it takes, else dense_small.  e4m3 weights: dense_small, then
 * dense_f8_many.  Devices other than Hopper's: dense_portable.
 * Test: build/cuda/test_dense    Bench: build/cuda/bench_dense
 */
#include "dense_out.cuh"
#include "device/launch.cuh"
#include "device/ptx.cuh"
#include "kernels/cuda/dense.h"

constexpr int SMALL_TOK = 32, SMALL_TOK_HEAD = 16; /* HEAD: where CTAs have many row blocks, and read activations again for each */
constexpr int F8_TOK = 32, F8_TOK_HEAD = 16;     /* of e4m3 weights, against dense_f8_many */
/* Up to ROOM_TOK tokens dense_small leaves shared memory for a CTA of attention beside it, so that it starts before that ends. */
constexpr int ROOM_TOK = 16, ROOM_FEW = 2; /* a CTA of attention of FEW sequences takes more */
constexpr size_t ROOM_SHARED = 160 << 10, ROOM_SHARED_FEW = 134 << 10;

/* Scratch behind the counters. */
static char *data_of(const struct cuda_dev *d) { return static_cast<char *>(d->scratch) + CUDA_COUNTER_BYTES; }
static size_t data_bytes(const struct cuda_dev *d)
{
	return d->scratch_bytes > CUDA_COUNTER_BYTES ? d->scratch_bytes - CUDA_COUNTER_BYTES : 0;
}

static size_t up256(size_t n) { return (n + 255) / 256 * 256; }

static int fail(struct moxie_err *err, const char *op, cudaError_t rc)
{
	return rc ? err_set(err, MOXIE_E_DEVICE, "%s: %s", op, cudaGetErrorString(rc)) : 0;
}

static bool aligned(const void *p) { return (uintptr_t)p % 16 == 0; }

static int check_operands(struct moxie_err *err, const char *op, const void *x, const struct weight *w, int n_out, int n_in)
{
	if (n_in < 32 || n_in % 32 || n_out < 1)
		return err_set(err, MOXIE_E_SHAPE, "%s: n_in is %d and n_out %d, wanted n_in a multiple of 32", op, n_in, n_out);
	if (w->dtype != DT_BF16 && w->dtype != DT_F8_E4M3)
		return err_set(err, MOXIE_E_SHAPE, "%s: weights are %s, wanted BF16 or F8_E4M3", op, dtype_name(w->dtype));
	if (w->dtype == DT_F8_E4M3 && !w->row_scl)
		return err_set(err, MOXIE_E_SHAPE, "%s: weights are F8_E4M3 without scales", op);
	if (!aligned(x) || !aligned(w->data))
		return err_set(err, MOXIE_E_SHAPE, "%s: operands at %p and %p, wanted 16-byte alignment", op, x, w->data);
	return 0;
}

static int check_bias(struct moxie_err *err, const char *op, const struct weight *b)
{
	if (b && b->dtype != DT_BF16 && b->dtype != DT_F32)
		return err_set(err, MOXIE_E_SHAPE, "%s: bias is %s, wanted BF16 or F32", op, dtype_name(b->dtype));
	return 0;
}

static int take_norm(struct dense_job *j, struct moxie_err *err, const char *op, const struct weight *norm, float eps)
{
	if (norm && (norm->dtype != DT_BF16 || !aligned(norm->data)))
		return err_set(err, MOXIE_E_SHAPE, "%s: norm weights are %s at %p, wanted BF16 and 16-byte alignment", op, dtype_name(norm->dtype), norm->data);
	j->norm = norm ? norm->data : NULL, j->eps = eps;
	return 0;
}

extern "C" int dense_gemm_job(struct dense_job *j, const struct gemm_args *a, struct moxie_err *err)
{
	int rc = check_operands(err, "gemm", a->a, a->w, a->n_out, a->n_in);
	if (!rc)
		rc = check_bias(err, "gemm", a->b);
	if (rc)
		return rc;
	*j = {};
	j->x = a->a, j->w = a->w->data, j->n_in = a->n_in, j->f8 = a->w->dtype == DT_F8_E4M3, j->out.scale = a->w->row_scl;
	j->out.d = a->d, j->out.n_tok = a->n_tok, j->out.n_out = a->n_out, j->out.add = a->add, j->out.d_f32 = a->d_f32;
	if (a->b)
		j->out.b = a->b->data, j->out.b_f32 = a->b->dtype == DT_F32;
	return take_norm(j, err, "gemm", a->norm, a->eps);
}

/* The part of qkv after the product: p [n_tok, n_out] bf16.  A thread does one pair. */
__global__ void rope_store_kernel(const __grid_constant__ dense_out o, const __nv_bfloat16 *p)
{
	pdl_wait();
	pdl_launch(); /* in this order: cuda_ops.h */
	const int half = o.d_head / 2, n_pair = o.n_out / 2;
	const int64_t n = (int64_t)o.n_tok * n_pair;
	for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
		const int t = (int)(i / n_pair), j = (int)(i - (int64_t)t * n_pair), ih = j / half, at = j - ih * half;
		const __nv_bfloat16 *const v = p + (int64_t)t * o.n_out + ih * o.d_head + at;
		dense_put(dense_pair_at(o, t, ih, at), __bfloat162float(v[0]), __bfloat162float(v[half]));
	}
}

/* The same, eight neighbouring pairs a thread: d_head % 16 == 0, a cache of bf16 or e4m3.  blockIdx.x: token.  PLAIN: no scale, no bias; else
 * both are 16-byte aligned. */
template <bool PLAIN> __global__ void rope_store8_kernel(const __grid_constant__ dense_out o, const __nv_bfloat16 *p)
{
	const int half = o.d_head / 2, per = half / 8, n = o.n_out / 16, t = blockIdx.x;
	const int j = blockIdx.y * blockDim.x + threadIdx.x, ih = j / per, i = (j - ih * per) * 8, n0 = ih * o.d_head + i;
	float scale[PLAIN ? 1 : 2][8], bias[PLAIN ? 1 : 2][8] = {}; /* of low ends, of high ones */
	if constexpr (!PLAIN)
		for (int e = 0; e < 2 && j < n; e++) {
			dense_load8(scale[e], o.scale, true, n0 + e * half);
			if (o.b)
				dense_load8(bias[e], o.b, o.b_f32, n0 + e * half);
		}
	pdl_wait();
	pdl_launch(); /* in this order: cuda_ops.h */
	if (j >= n)
		return;
	const bool is_v = ih >= o.n_head + o.n_head_kv, f8 = ih >= o.n_head && o.kv == DT_F8_E4M3;
	const uint4 *const from = reinterpret_cast<const uint4 *>(p + (size_t)t * o.n_out + ih * o.d_head + i);
	uint4 lo = __ldcg(from), hi = __ldcg(from + per);
	__nv_bfloat162 *const x = reinterpret_cast<__nv_bfloat162 *>(&lo), *const y = reinterpret_cast<__nv_bfloat162 *>(&hi);
	const float4 *const cs = reinterpret_cast<const float4 *>(o.cs + ((size_t)t * half + i) * 2);
	uint32_t small[4] = {}; /* of e4m3: eight low ends, eight high ones */
#pragma unroll
	for (int e = 0; e < 4; e++) {
		float2 a = __bfloat1622float2(x[e]), b = __bfloat1622float2(y[e]);
		if constexpr (!PLAIN) {
			a.x = a.x * scale[0][2 * e] + bias[0][2 * e], a.y = a.y * scale[0][2 * e + 1] + bias[0][2 * e + 1];
			b.x = b.x * scale[1][2 * e] + bias[1][2 * e], b.y = b.y * scale[1][2 * e + 1] + bias[1][2 * e + 1];
		}
		const float4 c = is_v ? make_float4(1, 0, 1, 0) : __ldg(cs + e); /* cos, sin of two pairs */
		const float2 p0 = make_float2(a.x * c.x - b.x * c.y, a.y * c.z - b.y * c.w), p1 = make_float2(b.x * c.x + a.x * c.y, b.y * c.z + a.y * c.w);
		if (f8) {
			small[e / 2] |= dense_f8x2(p0.x, p0.y) << e % 2 * 16;
			small[2 + e / 2] |= dense_f8x2(p1.x, p1.y) << e % 2 * 16;
		} else if (!is_v || !PLAIN) {
			x[e] = __float22bfloat162_rn(p0);
			y[e] = __float22bfloat162_rn(p1);
		}
	}
	if (f8) {
		uint8_t *const to = static_cast<uint8_t *>(dense_head_at(o, t, ih, 1)) + i;
		*reinterpret_cast<uint2 *>(to) = make_uint2(small[0], small[1]);
		*reinterpret_cast<uint2 *>(to + half) = make_uint2(small[2], small[3]);
		return;
	}
	__nv_bfloat16 *const to = static_cast<__nv_bfloat16 *>(dense_head_at(o, t, ih, 2)) + i;
	*reinterpret_cast<uint4 *>(to) = lo;
	*reinterpret_cast<uint4 *>(to + half) = hi;
}

extern "C" cudaError_t dense_rope_store(const struct cuda_dev *d, const struct dense_out *o, const void *product)
{
	const __nv_bfloat16 *const p = static_cast<const __nv_bfloat16 *>(product);
	if (o->d_head % 16 || o->kv == DT_F32)
		return cuda_launch(rope_store_kernel, dim3(8 * d->n_sm), dim3(256), 0, d->stream, *o, p);
	const int n = o->n_out / 16, block = n < 160 ? 32 : 160; /* GPT-OSS: 320 threads a token */
	return cuda_launch(o->scale ? rope_store8_kernel<false> : rope_store8_kernel<true>, dim3(o->n_tok, (n + block - 1) / block), dim3(block), 0, d->stream, *o, p);
}

static bool qkv_by_lib(const struct cuda_dev *d, const struct dense_job *j, cudaError_t *rc)
{
	const size_t p_bytes = up256((size_t)j->out.n_tok * j->out.n_out * 2);
	if (p_bytes > data_bytes(d))
		return false;
	struct dense_job g = *j;
	g.out.d = data_of(d), g.out.qkv = false;
	if (!dense_lib_gemm(d, &g, data_of(d) + p_bytes, data_bytes(d) - p_bytes))
		return false;
	struct dense_out o = j->out;
	o.b = NULL;
	*rc = dense_rope_store(d, &o, data_of(d));
	return true;
}

/* Whether b follows a of n rows of n_in without a gap; both NULL too. */
static bool follows(const struct weight *b, const struct weight *a, int64_t n, int64_t n_in)
{
	return !a == !b && (!a || (a->dtype == b->dtype && b->data == (const char *)a->data + n * n_in * dtype_bytes(a->dtype) &&
	                           (!a->row_scl || b->row_scl == a->row_scl + n)));
}

extern "C" int dense_qkv_job(struct dense_job *j, const struct qkv_args *a, struct moxie_err *err)
{
	const int n_q = a->n_head * a->d_head, n_kv = a->n_head_kv * a->d_head;
	int rc = check_operands(err, "qkv", a->h, a->wq, n_q + 2 * n_kv, a->n_embd);
	if (!rc)
		rc = check_bias(err, "qkv", a->bq);
	if (rc)
		return rc;
	if (a->d_head % 8)
		return err_set(err, MOXIE_E_SHAPE, "qkv: d_head is %d, wanted a multiple of 8", a->d_head);
	if (!follows(a->wk, a->wq, n_q, a->n_embd) || !follows(a->wv, a->wk, n_kv, a->n_embd) || !follows(a->bk, a->bq, n_q, 1) ||
	    !follows(a->bv, a->bk, n_kv, 1))
		return err_set(err, MOXIE_E_SHAPE, "qkv: wq, wk, wv or their biases do not lie one after the other");
	*j = {};
	struct dense_out *const o = &j->out;
	j->x = a->h, j->w = a->wq->data, j->n_in = a->n_embd, j->f8 = a->wq->dtype == DT_F8_E4M3, o->scale = a->wq->row_scl;
	o->d = a->q, o->n_tok = a->batch->n_tok, o->n_out = n_q + 2 * n_kv, o->qkv = true;
	if (a->bq)
		o->b = a->bq->data, o->b_f32 = a->bq->dtype == DT_F32;
	o->n_head = a->n_head, o->n_head_kv = a->n_head_kv, o->d_head = a->d_head;
	o->k = a->kv->k, o->v = a->kv->v, o->kv = a->kv->dtype, o->page = a->kv->page, o->n_page_seq = a->kv->n_page_seq,
	    o->ring = a->kv->ring;
	o->cs = a->cs, o->pos = a->batch->pos, o->seq = a->batch->seq;
	return take_norm(j, err, "qkv", a->norm, a->eps);
}

/* Most tokens for which dense_small is the fastest; measured on an H200. */
static int small_tok(const struct cuda_dev *d, int n_out) { return n_out > 64 * d->n_sm ? SMALL_TOK_HEAD : SMALL_TOK; }

/* e4m3 weights by the FP8 GEMM; false: dense_small serves. */
static bool by_f8_many(const struct cuda_dev *d, const struct dense_job *j, struct moxie_err *err, int *rc)
{
	if (j->out.n_tok <= (j->out.n_out > 64 * d->n_sm ? F8_TOK_HEAD : F8_TOK) || !dense_f8_many_serves(d, j, data_bytes(d)))
		return false;
	*rc = dense_f8_many(d, j, data_of(d), err);
	return true;
}

/* What the library does not serve. */
static cudaError_t by_own(const struct cuda_dev *d, const struct dense_job *j)
{
	if (d->portable)
		return j->norm || j->f8 ? cudaErrorNotSupported : dense_portable(d, j); /* nobody asks: kern.norm_tok_max is 0 */
	if (!j->norm && !j->f8 && j->out.n_tok > small_tok(d, j->out.n_out) && dense_wide_serves(j))
		return dense_wide(d, j);
	struct dense_job small = *j;
	small.shared_max = j->out.n_tok <= ROOM_TOK ? j->out.n_tok <= ROOM_FEW ? ROOM_SHARED_FEW : ROOM_SHARED : 0;
	return dense_small(d, &small);
}

extern "C" int cuda_gemm(struct cuda_dev *d, const struct gemm_args *a, struct moxie_err *err)
{
	struct dense_job j;
	int rc = a->n_tok ? dense_gemm_job(&j, a, err) : 0;
	if (rc || !a->n_tok || by_f8_many(d, &j, err, &rc))
		return rc;
	if (!j.norm && !j.f8 && a->n_tok > small_tok(d, a->n_out) && dense_lib_gemm(d, &j, data_of(d), data_bytes(d)))
		return 0;
	return fail(err, "gemm", by_own(d, &j));
}

extern "C" int cuda_qkv(struct cuda_dev *d, const struct qkv_args *a, struct moxie_err *err)
{
	struct dense_job j;
	cudaError_t e = cudaSuccess;
	const int n_tok = a->batch->n_tok;
	int rc = n_tok ? dense_qkv_job(&j, a, err) : 0;
	if (rc || !n_tok || by_f8_many(d, &j, err, &rc))
		return rc;
	if (j.norm || j.f8 || n_tok <= SMALL_TOK || !qkv_by_lib(d, &j, &e))
		e = by_own(d, &j);
	return fail(err, "qkv", e);
}

extern "C" size_t cuda_dense_scratch(const struct cuda_dev *d, const struct kern_limits *lim)
{
	if (lim->dense == DT_F8_E4M3)
		return CUDA_COUNTER_BYTES + dense_f8_ws_bytes(lim);
	if (!d->dense)
		return CUDA_COUNTER_BYTES;
	const size_t n_out = (size_t)(lim->n_head + 2 * lim->n_head_kv) * (size_t)lim->d_head;
	return CUDA_COUNTER_BYTES + up256((size_t)lim->n_tok * n_out * 2) + dense_lib_ws_bytes(d->dense);
}
