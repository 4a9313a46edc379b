/* test_dense - gemm and qkv on the device against double, for every way n_tok is served.
 *
 * Random operands of each run's seed.  Outputs are poisoned and have a guard behind them; KV memory that no token owns must
 * keep its poison.  Each case runs as dispatched with the library (where it can be loaded) and without, and by each own kernel alone.
 */
#include <cuda_fp8.h>

#include "../test.h"
#include "dense_data.cuh"
#include "kernels/cuda/dense.h"

static struct moxie_err err;
constexpr size_t GUARD = 4096;
constexpr int POISON = 0xA5;
static const int N_TOK[] = { 0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65, 128, 129, 257, 1024 };

/* How a product is made: as dispatched with the library or without, or by one own kernel; what that does not serve, by another. */
enum path { LIB, OWN, SMALL, WIDE, MANY };

static void run_job(struct cuda_dev *d, const struct dense_job *j, enum path path)
{
	if (path == MANY) {
		CHECK(dense_f8_many_serves(d, j, d->scratch_bytes - CUDA_COUNTER_BYTES), "%d x %d is not served", j->out.n_out, j->n_in);
		OK(dense_f8_many(d, j, (char *)d->scratch + CUDA_COUNTER_BYTES, &err), err);
	} else if (d->portable)
		CU(dense_portable(d, j));
	else if (path == WIDE && dense_wide_serves(j))
		CU(dense_wide(d, j));
	else
		CU(dense_small(d, j));
}
static void run_gemm(struct cuda_dev *d, const struct gemm_args *a, enum path path)
{
	struct dense_job j;
	if (path == LIB || path == OWN || a->n_tok == 0) {
		OK(cuda_gemm(d, a, &err), err);
		return;
	}
	OK(dense_gemm_job(&j, a, &err), err);
	run_job(d, &j, path);
}
static void run_qkv(struct cuda_dev *d, const struct qkv_args *a, enum path path)
{
	struct dense_job j;
	if (path == LIB || path == OWN || a->batch->n_tok == 0) {
		OK(cuda_qkv(d, a, &err), err);
		return;
	}
	OK(dense_qkv_job(&j, a, &err), err);
	run_job(d, &j, path);
}

/* Device memory of n bytes, poisoned, guarded. */
struct guarded {
	uint8_t *p;
	size_t n;
	explicit guarded(size_t bytes) : p((uint8_t *)device_alloc(bytes + GUARD)), n(bytes) { poison(); }
	guarded(const guarded &) = delete;
	~guarded() { cudaFree(p); }
	void poison() { CU(cudaMemset(p, POISON, n + GUARD)); }
	std::vector<uint8_t> get() const
	{
		std::vector<uint8_t> v(n);
		CU(cudaMemcpy(v.data(), p, n, cudaMemcpyDeviceToHost));
		return v;
	}
	bool guard_ok() const
	{
		uint8_t g[GUARD];
		CU(cudaMemcpy(g, p + n, GUARD, cudaMemcpyDeviceToHost));
		return std::all_of(g, g + GUARD, [](uint8_t b) { return b == POISON; });
	}
};

static double value(const std::vector<uint8_t> &v, enum dtype dtype, size_t i)
{
	float f;
	if (dtype == DT_F32)
		memcpy(&f, v.data() + 4 * i, 4);
	else if (dtype == DT_F8_E4M3)
		f = e4m3_to_f32(v[i]);
	else
		f = bf16_to_f32((bf16)(v[2 * i] | v[2 * i + 1] << 8));
	return f;
}

template <class T> struct array {
	T *p;
	size_t n;
	explicit array(const std::vector<T> &v) : p((T *)device_alloc(v.size() * sizeof(T))), n(v.size()) { CU(cudaMemcpy(p, v.data(),
	    n * sizeof(T), cudaMemcpyHostToDevice)); }
	explicit array(size_t n_) : p((T *)device_alloc(n_ * sizeof(T))), n(n_) {}
	array(const array &) = delete;
	~array() { cudaFree(p); }
	std::vector<T> get() const
	{
		std::vector<T> v(n);
		CU(cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost));
		return v;
	}
};

/* What a product makes of rows before their norm: y = x g, rounded to bf16, and r of each row, by which the product is multiplied. */
__global__ void oracle_norm(__nv_bfloat16 *y, double *r, const __nv_bfloat16 *x, const __nv_bfloat16 *g, double eps, int n_in)
{
	const int64_t row = (int64_t)blockIdx.x * n_in;
	double sum = 0;
	for (int k = 0; k < n_in; k++) {
		const double v = (double)__bfloat162float(x[row + k]);
		sum += v * v;
		y[row + k] = __float2bfloat16_rn(__bfloat162float(x[row + k]) * __bfloat162float(g[k]));
	}
	*(r + blockIdx.x) = 1 / sqrt(sum / n_in + eps);
}
/* want = r want + b + old */
__global__ void oracle_after(double *want, const double *r, const void *b, bool b_f32, const void *old, bool old_f32, int n_tok, int n_out)
{
	const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
	if (i < (int64_t)n_tok * n_out)
		want[i] = want[i] * r[i / n_out] + (b ? oracle_value(b, b_f32, i % n_out) : 0) + (old ? oracle_value(old, old_f32, i) : 0);
}
constexpr float EPS = 1e-5f;
/* What the FP8 GEMM sees of x [n_tok, n_in], y = x or RMSNorm of it: y[t][k] = e4m3(x / s) s, s the block of 128's largest / 448. */
__global__ void f8_rows_seen(double *y, const __nv_bfloat16 *x, const __nv_bfloat16 *g, float eps, int n_in)
{
	const int64_t row = (int64_t)blockIdx.x * n_in;
	double sum = 0;
	for (int k = 0; g && k < n_in; k++)
		sum += (double)__bfloat162float(x[row + k]) * (double)__bfloat162float(x[row + k]);
	const float rms = g ? (float)(1 / sqrt(sum / n_in + (double)eps)) : 1;
	for (int b = threadIdx.x * 128; b < n_in; b += blockDim.x * 128) {
		const int end = min(b + 128, n_in);
		float most = 0;
		const auto value = [&](int k) { return g ? __bfloat162float(x[row + k]) * (rms * __bfloat162float(g[k])) : __bfloat162float(x[row + k]); };
		for (int k = b; k < end; k++)
			most = fmaxf(most, fabsf(value(k)));
		const float s = most == 0 ? 1 : most / 448, inv = most == 0 ? 1 : 448 / most;
		for (int k = b; k < end; k++) {
			const uint32_t v = __nv_cvt_float_to_fp8(value(k) * inv, __NV_SATFINITE, __NV_E4M3), e = v >> 3 & 15;
			const float f = e ? __uint_as_float((e + 120) << 23 | (v & 7) << 20) : (float)(v & 7) / 512;
			y[row + k] = (double)(v & 128 ? -f : f) * s;
		}
	}
}
/* want[t][n] = sum w y + b + old */
__global__ void f8_many_oracle(double *want, const double *y, const __nv_bfloat16 *w, const void *b, bool b_f32, const void *old, bool old_f32, int n_tok,
                               int n_out, int n_in)
{
	const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
	if (i >= (int64_t)n_tok * n_out)
		return;
	double s = (b ? oracle_value(b, b_f32, i % n_out) : 0) + (old ? oracle_value(old, old_f32, i) : 0);
	for (int k = 0; k < n_in; k++)
		s += (double)__bfloat162float(w[i % n_out * n_in + k]) * y[i / n_out * n_in + k];
	want[i] = s;
}
/* oracle_gemm, of rows before norm where that is given. */
static void oracle(double *want, const struct weight &x, const struct weight &w, const void *b, bool b_f32, const void *old, bool old_f32, int n_tok,
                   int n_out, int n_in, const struct weight *norm, enum path path)
{
	const unsigned grid = (unsigned)(((size_t)n_tok * n_out + 255) / 256);
	const __nv_bfloat16 *const a = (const __nv_bfloat16 *)x.data, *const m = (const __nv_bfloat16 *)w.data;
	if (!grid)
		return;
	if (path == MANY) {
		array<double> y((size_t)n_tok * n_in);
		f8_rows_seen<<<n_tok, 32>>>(y.p, a, norm ? (const __nv_bfloat16 *)norm->data : NULL, EPS, n_in);
		f8_many_oracle<<<grid, 256>>>(want, y.p, m, b, b_f32, old, old_f32, n_tok, n_out, n_in);
		CU(cudaDeviceSynchronize());
	} else if (!norm) {
		oracle_gemm<<<grid, 256>>>(want, a, m, b, b_f32, old, old_f32, n_tok, n_out, n_in);
	} else {
		array<__nv_bfloat16> y((size_t)n_tok * n_in);
		array<double> r(n_tok);
		oracle_norm<<<n_tok, 1>>>(y.p, r.p, a, (const __nv_bfloat16 *)norm->data, (double)EPS, n_in);
		oracle_gemm<<<grid, 256>>>(want, y.p, m, NULL, false, NULL, false, n_tok, n_out, n_in);
		oracle_after<<<grid, 256>>>(want, r.p, b, b_f32, old, old_f32, n_tok, n_out);
		CU(cudaDeviceSynchronize());
	}
	CU(cudaDeviceSynchronize());
}

/* What codes stand for, exactly: to[n][k], by host's number format and the order that dense.h tells. */
__global__ void f8_expand(__nv_bfloat16 *to, const uint8_t *code, const float *scl, int64_t n, int k)
{
	const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
	if (i >= n)
		return;
	const int64_t row = i / k;
	const int c = (int)(i - row * k), at = c / 16 * 16 + c % 8 / 2 * 4 + c / 8 % 2 * 2 + c % 2;
	const uint32_t v = code[row * k + at], e = v >> 3 & 15;
	const float f = e ? __uint_as_float((e + 120) << 23 | (v & 7) << 20) : (float)(v & 7) / 512;
	to[i] = __float2bfloat16_rn((v & 128 ? -f : f) * scl[row]);
}
/* Takes the place of w by what the codes made of it stand for. */
static struct weight f8_of(const struct weight &w)
{
	const struct weight f = dense_weight_f8(w);
	const int64_t n = w.shape[0] * w.shape[1];
	f8_expand<<<(unsigned)((n + 255) / 256), 256>>>((__nv_bfloat16 *)w.data, (const uint8_t *)f.data, f.row_scl, n, (int)w.shape[1]);
	CU(cudaGetLastError());
	return f;
}

/* Codes and scales against the number format of base/dtype.h; rows of zeros, of one large number, of the least ones, of NaN. */
TEST(f8_pack)
{
	const int n_row = 64, k = 2880;
	struct weight w = dense_weight(n_row, k, 5, 1);
	std::vector<bf16> h((size_t)n_row * k);
	CU(cudaMemcpy(h.data(), w.data, h.size() * 2, cudaMemcpyDeviceToHost));
	for (int i = 0; i < k; i++) {
		h[i] = 0;
		h[k + i] = bf16_from_f32(i == 77 ? -3e30f : 1e-3f);
		h[2 * k + i] = bf16_from_f32(ldexpf((float)(i % 7), -130));
		h[3 * k + i] = bf16_from_f32(i == 2879 ? NAN : 1);
		h[4 * k + i] = bf16_from_f32((i % 2 ? -1.75f : 1) * ldexpf(1, -(i % 20)));
		h[5 * k + i] = bf16_from_f32(i == 3 ? 1.7578125f : .1f * (float)(i % 9));
	}
	CU(cudaMemcpy((void *)w.data, h.data(), h.size() * 2, cudaMemcpyHostToDevice));
	const struct weight f = dense_weight_f8(w);
	std::vector<uint8_t> code(h.size());
	std::vector<float> scl(n_row);
	CU(cudaMemcpy(code.data(), f.data, code.size(), cudaMemcpyDeviceToHost));
	CU(cudaMemcpy(scl.data(), f.row_scl, scl.size() * 4, cudaMemcpyDeviceToHost));
	for (int r = 0; r < n_row; r++) {
		float most = 0;
		for (int i = 0; i < k; i++)
			most = fmaxf(most, fabsf(bf16_to_f32(h[(size_t)r * k + i])));
		if (r == 3) {
			CHECK(isnan(scl[r]), "a row with NaN has scale %g", scl[r]);
			continue;
		}
		int e;
		CHECK(frexpf(scl[r], &e) == .5f && most <= 448 * scl[r] && (most == 0 || most > 224 * scl[r] || scl[r] == 0x1p-126f),
		      "row %d: scale %g of a largest %g", r, scl[r], most);
		for (int i = 0; i < k; i++) {
			const uint8_t want = e4m3_from_f32(bf16_to_f32(h[(size_t)r * k + i]) / scl[r]), got = code[(size_t)r * k + i / 16 * 16 + i % 8 / 2 * 4 + i / 8 % 2 * 2 + i % 2];
			CHECK(got == want, "row %d [%d]: %g with scale %g is %#x, wanted %#x", r, i, bf16_to_f32(h[(size_t)r * k + i]), scl[r], got, want);
		}
	}
	dense_weight_f8_free(f);
	CU(cudaFree((void *)w.data));
}

struct shape {
	int n_out, n_in;
	bool bias, add, d_f32, b_f32;
};
static const struct shape SHAPES[] = {
	{ 2880, 4096, true, true, false, false }, { 5120, 2880, true, false, false, false }, { 2048, 256, false, false, true, false },
	{ 64, 128, true, true, false, false },    { 384, 64, false, false, true, false },     { 512, 64, true, false, true, true },
	{ 320, 512, true, true, false, true },    { 1, 32, true, false, false, false },       { 33, 32, false, true, true, false },
	{ 130, 96, false, false, false, false },  { 8461, 160, true, false, true, false },    { 9001, 2880, false, false, true, false },
};

static struct kern_limits limits_of(const struct shape &s, int n_tok)
{
	/* An o projection, or else the lm_head, of this shape. */
	struct kern_limits l = {};
	l.n_tok = n_tok, l.n_embd = s.add ? s.n_out : s.n_in, l.n_head = 1, l.n_head_kv = 1, l.d_head = s.add ? s.n_in : s.n_out / 3,
	    l.n_vocab = s.n_out;
	return l;
}

static void gemm_case(const struct shape &s, enum path path, int most = 1024, bool normed = false, bool f8 = false)
{
	struct kern_limits lim = limits_of(s, most);
	lim.n_seq = most, lim.dense = f8 ? DT_F8_E4M3 : DT_NONE;
	struct cuda_dev d;
	dense_device(&d, &lim, path == LIB);
	const uint64_t seed = rnd_u64();
	struct weight w = dense_weight(s.n_out, s.n_in, seed, 0.05f), b = dense_weight(s.n_out, 0, seed + 1, 1, s.b_f32), x = dense_weight(most,
	    s.n_in, seed + 2, 1), norm = dense_weight(s.n_in, 0, seed + 4, 1);
	const size_t size = s.d_f32 ? 4 : 2;
	const struct weight used = f8 ? f8_of(w) : w;
	for (int n_tok : N_TOK) {
		if (n_tok > most)
			break;
		const size_t n = (size_t)n_tok * s.n_out;
		guarded out(n * size);
		array<double> want(n);
		struct weight old = dense_weight(n + 1, 0, seed + 3, 1, s.d_f32);
		if (s.add)
			CU(cudaMemcpy(out.p, old.data, n * size, cudaMemcpyDeviceToDevice));
		oracle(want.p, x, w, s.bias ? b.data : NULL, s.b_f32, s.add ? old.data : NULL, s.d_f32, n_tok, s.n_out, s.n_in, normed ? &norm : NULL, path);
		struct gemm_args a = { out.p, x.data, &used, s.bias ? &b : NULL, n_tok, s.n_out, s.n_in, s.add, s.d_f32, normed ? &norm : NULL, EPS };
		run_gemm(&d, &a, path);
		CU(cudaStreamSynchronize(d.stream));
		const std::vector<uint8_t> got = out.get();
		const std::vector<double> ref = want.get();
		/* Rounding of the store, and of fp32 sums of terms of deviation 0.05. */
		/* The library rounds the product to bf16 before it adds what was there. */
		/* MANY: the product, up to 16, is rounded to bf16; after a norm a code may fall to the other side of a tie. */
		const double rel = s.d_f32 ? 1e-6 : (path == LIB ? 2 : 1) / 256.;
		const double abs = 2e-6 * sqrt(s.n_in) + (path == MANY ? normed ? 0.1 : 0.04 : path == LIB && s.add ? 0.03 : 1e-6);
		for (size_t i = 0; i < n; i++)
			CHECK(fabs(value(got, s.d_f32 ? DT_F32 : DT_BF16, i) - ref[i]) <= rel * fabs(ref[i]) + abs, "%d x %d, %d tokens: token %zu row %zu is %.9g, wanted %.9g",
			    s.n_out, s.n_in, n_tok,
			      i / s.n_out, i % s.n_out, value(got, s.d_f32 ? DT_F32 : DT_BF16, i), ref[i]);
		CHECK(out.guard_ok(), "%d x %d, %d tokens: wrote past the end", s.n_out, s.n_in, n_tok);
		CU(cudaFree((void *)old.data));
	}
	for (const void *p : { w.data, b.data, x.data, norm.data })
		CU(cudaFree((void *)p));
	if (f8)
		dense_weight_f8_free(used);
	dense_device_free(&d);
}

static void gemm_all(enum path path)
{
	for (const struct shape &s : SHAPES)
		gemm_case(s, path);
}
TEST(gemm_small) { gemm_all(SMALL); }
TEST(gemm_of_rows_before_norm)
{
	if (test_cap())
		SKIP("portable kernels take rows after their norm");
	for (const struct shape &s : SHAPES)
		gemm_case(s, OWN, CUDA_NORM_TOK, true);
}
TEST(gemm_f8)
{
	if (test_cap())
		SKIP("portable kernels take bf16 weights");
	for (const struct shape &s : SHAPES) {
		gemm_case(s, SMALL, 65, false, true);
		gemm_case(s, OWN, CUDA_NORM_TOK, true, true);
	}
}
TEST(gemm_f8_many)
{
	if (test_cap())
		SKIP("the FP8 GEMM needs sm_90");
	for (const struct shape &s : SHAPES)
		if (s.n_out % 64 == 0 && s.n_in % 64 == 0)
			for (int normed = 0; normed < 2; normed++)
				gemm_case(s, MANY, normed ? 129 : 1024, normed, true);
}
TEST(gemm_wide) { gemm_all(WIDE); }
TEST(gemm_own) { gemm_all(OWN); }
TEST(gemm_lib) { gemm_all(LIB); }

/* One layer's qkv: two thirds of the tokens are prompts, the rest one token a sequence; pages in random order. */
struct qkv_case {
	int n_head, n_head_kv, d_head, n_embd;
	bool bias, ring;
	enum dtype kv;
};
static const struct qkv_case QKV[] = {
	{ 64, 8, 64, 2880, true, false, DT_BF16 }, { 64, 8, 64, 2880, true, true, DT_BF16 },    { 4, 2, 16, 64, true, true, DT_BF16 },
	{ 6, 3, 32, 64, false, false, DT_BF16 },   { 8, 1, 64, 320, true, false, DT_F32 },      { 2, 1, 64, 96, true, true, DT_BF16 },
	{ 8, 2, 64, 256, true, true, DT_BF16 },    { 3, 1, 128, 160, true, false, DT_BF16 },    { 64, 8, 64, 2880, true, true, DT_F8_E4M3 },
	{ 6, 3, 32, 64, true, false, DT_F8_E4M3 }, { 2, 1, 8, 96, false, false, DT_F8_E4M3 },
};

struct qkv_data {
	std::vector<int32_t> pos, seq, page;
	int n_seq, n_page_seq, n_page;
};

static struct qkv_data qkv_batch(int n_tok, bool ring)
{
	struct qkv_data q = {};
	const int n_pos = ring ? 3 * KV_PAGE : 1500;
	q.n_page_seq = (n_pos + KV_PAGE - 1) / KV_PAGE;
	for (int t = 0; t < n_tok; q.n_seq++) {
		const int room = n_tok - t, len = rnd_int(3) ? 1 + rnd_int(room < 150 ? room : 150) : 1, at = rnd_int(ring ? 100000 : n_pos - len + 1);
		for (int i = 0; i < len; i++)
			q.pos.push_back(at + i), q.seq.push_back(q.n_seq);
		t += len;
	}
	q.n_page = q.n_seq * q.n_page_seq + 1;
	for (int i = 0; i < q.n_page; i++)
		q.page.push_back(i);
	for (int i = q.n_page - 1; i > 0; i--)
		std::swap(q.page[i], q.page[rnd_int(i + 1)]);
	return q;
}

static void qkv_run(const struct qkv_case &c, enum path path, int n_tok, bool normed = false, bool f8 = false)
{
	const int half = c.d_head / 2, n_head_all = c.n_head + 2 * c.n_head_kv, n_out = n_head_all * c.d_head;
	struct kern_limits lim = {};
	lim.n_tok = n_tok, lim.n_embd = c.n_embd, lim.n_head = c.n_head, lim.n_head_kv = c.n_head_kv, lim.d_head = c.d_head, lim.n_vocab = 64;
	lim.dense = f8 ? DT_F8_E4M3 : DT_NONE;
	struct cuda_dev d;
	dense_device(&d, &lim, path == LIB);
	const uint64_t seed = rnd_u64();
	struct weight w = dense_weight(n_out, c.n_embd, seed, 0.05f), b = dense_weight(n_out, 0, seed + 1, 1), x = dense_weight(n_tok + 1,
	    c.n_embd, seed + 2, 1), norm = dense_weight(c.n_embd, 0, seed + 4, 1);
	struct weight angle = dense_weight((int64_t)(n_tok + 1) * c.d_head, 0, seed + 3, 1, true); /* any numbers serve as cos and sin */
	const size_t n_q = (size_t)c.n_head * c.d_head, n_kv = (size_t)c.n_head_kv * c.d_head;
	struct weight wq = f8 ? f8_of(w) : w, wk = wq, wv = wq, bk = b, bv = b;
	wk.data = (const uint8_t *)wq.data + n_q * c.n_embd * dtype_bytes(wq.dtype), wv.data = (const uint8_t *)wk.data + n_kv * c.n_embd * dtype_bytes(wq.dtype);
	if (f8)
		wk.row_scl = wq.row_scl + n_q, wv.row_scl = wk.row_scl + n_kv;
	bk.data = (const uint16_t *)b.data + n_q, bv.data = (const uint16_t *)bk.data + n_kv;

	struct qkv_data q = qkv_batch(n_tok, c.ring);
	array<int32_t> pos(q.pos), seq(q.seq), page(q.page);
	const size_t kv_size = dtype_bytes(c.kv), kv_n = (size_t)q.n_page * c.n_head_kv * KV_PAGE * c.d_head;
	guarded out(n_tok * n_q * 2), k(kv_n * kv_size), v(kv_n * kv_size);
	struct kv_view kv = { c.kv, k.p, v.p, page.p, q.n_page_seq, c.ring };
	struct batch batch = {};
	batch.n_tok = n_tok, batch.n_seq = q.n_seq, batch.pos = pos.p, batch.seq = seq.p;
	struct qkv_args a = { out.p, x.data, &wq, &wk, &wv, c.bias ? &b : NULL, c.bias ? &bk : NULL, c.bias ? &bv : NULL,
	    (const float *)angle.data, &kv, &batch,
		              c.n_embd, c.n_head, c.n_head_kv, c.d_head, normed ? &norm : NULL, EPS };
	array<double> product((size_t)n_tok * n_out);
	oracle(product.p, x, w, c.bias ? b.data : NULL, false, NULL, false, n_tok, n_out, c.n_embd, normed ? &norm : NULL, path);
	run_qkv(&d, &a, path);
	CU(cudaStreamSynchronize(d.stream));

	const std::vector<double> p = product.get();
	std::vector<float> cs((size_t)(n_tok + 1) * c.d_head);
	CU(cudaMemcpy(cs.data(), angle.data, cs.size() * 4, cudaMemcpyDeviceToHost));
	const std::vector<uint8_t> got_q = out.get(), got_k = k.get(), got_v = v.get();
	std::vector<char> owned(kv_n);
	const double abs = 2e-6 * sqrt(c.n_embd) + 1e-6;
	for (int t = 0; t < n_tok; t++)
		for (int ih = 0; ih < n_head_all; ih++)
			for (int i = 0; i < half; i++) {
				const bool is_q = ih < c.n_head, is_v = ih >= c.n_head + c.n_head_kv;
				const double *const y = &p[(size_t)t * n_out + ih * c.d_head + i];
				const double co = is_v ? 1 : cs[(size_t)t * c.d_head + 2 * i], si = is_v ? 0 : cs[(size_t)t * c.d_head + 2 * i + 1];
				const double want[2] = { y[0] * co - y[half] * si, y[half] * co + y[0] * si };
				/* One rounding of the store, and where the library serves, one of each product. */
				const double slack = abs * (fabs(co) + fabs(si)) + (path == LIB ? (fabs(y[0]) + fabs(y[half])) * (fabs(co) + fabs(si)) / 256 : 0) +
				                     (path == MANY ? (normed ? 0.1 : 0.04) * (fabs(co) + fabs(si)) : 0);
				size_t at = ((size_t)t * c.n_head + ih) * c.d_head + i;
				if (!is_q) {
					int pg = q.pos[t] / KV_PAGE;
					pg = q.page[(size_t)q.seq[t] * q.n_page_seq + (c.ring ? pg % q.n_page_seq : pg)];
					at = (((size_t)pg * c.n_head_kv + (ih - c.n_head) % c.n_head_kv) * KV_PAGE + q.pos[t] % KV_PAGE) * c.d_head + i;
					owned[at] = owned[at + half] = 1;
				}
				for (int h = 0; h < 2; h++) {
					const double g = value(is_q ? got_q : is_v ? got_v : got_k, is_q ? DT_BF16 : c.kv, at + h * half);
					const bool f8 = !is_q && c.kv == DT_F8_E4M3; /* half a step: 2^-4 of the number, or 2^-10 */
					CHECK(fabs(g - want[h]) <= fabs(want[h]) / (f8 ? 16 : 256) + slack + (f8 ? 1 / 1024. : 0), "%d/%d heads of %d, %d tokens: token %d head %d [%d] is %.9g, wanted %.9g",
					    c.n_head,
					      c.n_head_kv, c.d_head, n_tok, t, ih, i + h * half, g, want[h]);
				}
			}
	for (size_t i = 0; i < kv_n * kv_size; i++)
		CHECK(owned[i / kv_size] || (got_k[i] == POISON && got_v[i] == POISON), "%d tokens: cache element %zu of no token was written", n_tok,
		    i / kv_size);
	CHECK(out.guard_ok() && k.guard_ok() && v.guard_ok(), "%d tokens: wrote past the end", n_tok);
	for (const void *m : { w.data, b.data, x.data, norm.data, angle.data })
		CU(cudaFree((void *)m));
	if (f8)
		dense_weight_f8_free(wq);
	dense_device_free(&d);
}

static void qkv_all(enum path path, int most)
{
	for (const struct qkv_case &c : QKV)
		for (int n_tok : N_TOK)
			if (n_tok <= most)
				qkv_run(c, path, n_tok);
}
TEST(qkv_small) { qkv_all(SMALL, 257); }
TEST(qkv_of_rows_before_norm)
{
	if (test_cap())
		SKIP("portable kernels take rows after their norm");
	for (const struct qkv_case &c : QKV)
		for (int n_tok : N_TOK)
			if (n_tok <= CUDA_NORM_TOK)
				qkv_run(c, OWN, n_tok, true);
}
TEST(qkv_f8)
{
	if (test_cap())
		SKIP("portable kernels take bf16 weights");
	for (const struct qkv_case &c : QKV)
		for (int n_tok : N_TOK)
			if (n_tok <= 65) {
				qkv_run(c, SMALL, n_tok, false, true);
				if (n_tok <= CUDA_NORM_TOK)
					qkv_run(c, OWN, n_tok, true, true);
			}
}
TEST(qkv_f8_many)
{
	if (test_cap())
		SKIP("the FP8 GEMM needs sm_90");
	for (const struct qkv_case &c : QKV)
		for (int n_tok : N_TOK)
			if ((c.n_head + 2 * c.n_head_kv) * c.d_head % 64 == 0 && c.n_embd % 64 == 0 && n_tok)
				qkv_run(c, MANY, n_tok, n_tok % 2, true);
}
TEST(qkv_wide) { qkv_all(WIDE, 1024); }
TEST(qkv_own) { qkv_all(OWN, 257); }
TEST(qkv_lib) { qkv_all(LIB, 1024); }

/* Small shapes by every kernel, for compute-sanitizer. */
TEST(brief)
{
	for (enum path path : { SMALL, WIDE }) {
		for (const struct shape &s : SHAPES)
			if ((int64_t)s.n_out * s.n_in < 200000)
				gemm_case(s, path, 33);
		for (const struct qkv_case &c : QKV)
			if (c.n_embd < 100)
				qkv_run(c, path, 33);
	}
}

/* The same bits each time, and for a token alone as in any batch of the same kernel. */
static void bits_case(enum path path, int n_out, int n_in, const std::vector<int> &n_toks, bool f8 = false)
{
	const int most = n_toks.back(), n_alone = 24;
	const size_t row_bytes = (size_t)n_out * 4;
	struct kern_limits lim = limits_of({ n_out, n_in, true, true, true, false }, most);
	struct cuda_dev d;
	dense_device(&d, &lim, false);
	struct weight w = dense_weight(n_out, n_in, rnd_u64(), 0.05f), x = dense_weight(most, n_in, rnd_u64(), 1);
	const struct weight used = f8 ? f8_of(w) : w;
	std::vector<uint8_t> alone;
	for (int t = 0; t < n_alone; t++) {
		guarded out(row_bytes);
		struct gemm_args a = { out.p, (const uint16_t *)x.data + (size_t)t * n_in, &used, NULL, 1, n_out, n_in, false, true, NULL, 0 };
		run_gemm(&d, &a, path);
		CU(cudaStreamSynchronize(d.stream));
		const std::vector<uint8_t> o = out.get();
		alone.insert(alone.end(), o.begin(), o.end());
	}
	for (int n_tok : n_toks) {
		guarded out(n_tok * row_bytes);
		std::vector<uint8_t> first;
		for (int run = 0; run < 20; run++) {
			out.poison();
			struct gemm_args a = { out.p, x.data, &used, NULL, n_tok, n_out, n_in, false, true, NULL, 0 };
			run_gemm(&d, &a, path);
			CU(cudaStreamSynchronize(d.stream));
			if (run == 0)
				first = out.get();
			CHECK(first == out.get(), "%d x %d, %d tokens: run %d differs from the first", n_out, n_in, n_tok, run);
		}
		const size_t same = std::min(n_tok, n_alone);
		CHECK(!memcmp(first.data(), alone.data(), same * row_bytes), "%d x %d, %d tokens: a token's bits are not those it has alone", n_out,
		    n_in, n_tok);
	}
	CU(cudaFree((void *)w.data));
	CU(cudaFree((void *)x.data));
	if (f8)
		dense_weight_f8_free(used);
	dense_device_free(&d);
}
TEST(same_bits_f8)
{
	if (test_cap())
		SKIP("portable kernels take bf16 weights");
	bits_case(SMALL, 2880, 4096, { 1, 2, 5, 8, 9, 16, 17, 32, 33 }, true);
}
TEST(same_bits_small) { bits_case(SMALL, 2880, 4096, { 1, 2, 5, 8, 9, 16, 17, 32, 33, 100 }); }
TEST(same_bits_wide) { bits_case(WIDE, 2880, 4096, { 1, 5, 128, 129, 257, 600 }); }

TEST(refusals)
{
	struct kern_limits lim = {};
	struct cuda_dev d;
	dense_device(&d, &lim, false);
	struct weight w = dense_weight(64, 64, 1, 1);
	void *const p = device_alloc(4096);
	struct gemm_args a = { p, p, &w, NULL, 1, 64, 48, false, false, NULL, 0 };
	CHECK(cuda_gemm(&d, &a, &err) == MOXIE_E_SHAPE, "n_in 48 was taken");
	a.n_in = 64;
	struct weight f = w;
	f.dtype = DT_F32;
	a.w = &f;
	CHECK(cuda_gemm(&d, &a, &err) == MOXIE_E_SHAPE, "f32 weights were taken");
	f.dtype = DT_F8_E4M3;
	CHECK(cuda_gemm(&d, &a, &err) == MOXIE_E_SHAPE, "e4m3 weights without scales were taken");
	a.w = &w;
	a.n_tok = 0, a.d = NULL, a.a = NULL;
	CHECK(cuda_gemm(&d, &a, &err) == 0, "no tokens: %s", err.text);
	dense_device_free(&d);
}

TEST_MAIN
