/* test_fp8.cu - the FP8 block-scaled GEMM and its quantiser against a double oracle.
 *
 * Every instance, split and mode over fresh random e4m3 numbers and scales.  out starts as NaN: what must be written is compared,
 * what must not is still NaN.  Error: relative RMS over all compared outputs, and each one within
 * 2^-8 |want| + 2^-8 sqrt(sum of squared terms): bf16 rounding, and the tensor cores' short sums of 128 products.
 */
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#include <vector>

#include "../test.h"
#include "cu.cuh"
#include "fp8_gemm.h"
#include "moxie_fp8.h"

template <class T> struct dev { /* device memory of a test */
	T *p;
	size_t n;
	explicit dev(size_t n_) : p(NULL), n(n_) { CU(cudaMalloc(&p, (n + 64) * sizeof(T))); }
	~dev() { cudaFree(p); }
	dev(const dev &) = delete;
	void from(const std::vector<T> &v) { CU(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice)); }
	std::vector<T> host() const
	{
		std::vector<T> v(n);
		CU(cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost));
		return v;
	}
};

__host__ __device__ static inline uint32_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
	x = (x ^ x >> 27) * 0x94D049BB133111EBull;
	return (uint32_t)(x >> 32);
}
/* Any e4m3 number but NaN, with magnitudes up to 60 so that sums stay near what quantised activations give. */
__global__ static void fill_fp8(uint8_t *p, size_t n, uint64_t seed)
{
	for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
		const uint32_t r = mix(seed * 0x9E3779B97F4A7C15ull + i);
		p[i] = (uint8_t)((r & 0x80) | (r >> 8) % 0x68);
	}
}
__global__ static void fill_scale(float *p, size_t n, uint64_t seed)
{
	for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
		p[i] = exp2f((int)(mix(seed * 77777 + i) % 9) - 8) * (1 + mix(seed * 33333 + i) % 1000 / 1000.f);
}
__device__ static double e4m3(uint8_t v)
{
	return (double)__half2float(__half(__nv_cvt_fp8_to_halfraw(v, __NV_E4M3)));
}
struct oracle_args {
	const uint8_t *x, *w, *w_scale8;
	const float *x_scale, *w_scale;
	const int32_t *row_group; /* [rows] group, or -1 */
	double *want, *size;
	size_t ld;
	int rows, n_out, n_in;
};
__global__ static void oracle(struct oracle_args a)
{
	const int n = blockIdx.x * blockDim.x + threadIdx.x, t = blockIdx.y, g = a.row_group[t];
	if (n >= a.n_out || g < 0) return;
	double sum = 0, size = 0;
	const int n_block = (a.n_in + 127) / 128;
	for (int b = 0; b < n_block; b++) {
		const size_t s = ((size_t)g * ((a.n_out + 127) / 128) + n / 128) * n_block + b;
		const double ws = a.w_scale8 ? exp2((double)a.w_scale8[s] - 127) : a.w_scale[s], scale = ws * a.x_scale[b * a.ld + t];
		for (int k = 0; k < min(128, a.n_in - b * 128); k++) {
			const double v = e4m3(a.x[(size_t)t * a.n_in + b * 128 + k]) * e4m3(a.w[((size_t)g * a.n_out + n) * a.n_in + b * 128 + k]) * scale;
			sum += v, size += v * v;
		}
	}
	a.want[(size_t)t * a.n_out + n] = sum;
	a.size[(size_t)t * a.n_out + n] = sqrt(size);
}

struct shape {
	int mode, n_group, n_out, n_in, e8m0;
};
struct matrices { /* of one shape and room of rows */
	struct shape s;
	int rows;
	dev<uint8_t> x, w, ws8;
	dev<float> xs, ws;
	dev<__nv_bfloat16> out;
	dev<int32_t> group, row_group;
	dev<double> want, size;
	size_t ld, n_scale;
	matrices(struct shape sh, int r)
		: s(sh), rows(r), x((size_t)r * sh.n_in), w((size_t)sh.n_group * sh.n_out * sh.n_in), ws8((size_t)sh.n_group * ((sh.n_out + 127) / 128) * ((sh.n_in + 127) / 128)),
		  xs((size_t)(r + 3) * ((sh.n_in + 127) / 128)), ws(ws8.n), out((size_t)r * sh.n_out), group(sh.n_group + 1), row_group(r), want((size_t)r * sh.n_out), size(want.n),
		  ld(r + 3), n_scale(ws8.n)
	{
		const uint64_t seed = rnd_u64();
		fill_fp8<<<512, 256>>>(x.p, x.n, seed);
		fill_fp8<<<512, 256>>>(w.p, w.n, seed + 1);
		fill_scale<<<64, 256>>>(xs.p, xs.n, seed + 2);
		fill_scale<<<64, 256>>>(ws.p, ws.n, seed + 3);
		std::vector<uint8_t> e(n_scale);
		for (auto &v : e)
			v = (uint8_t)(118 + rnd_int(9));
		ws8.from(e);
		CU(cudaDeviceSynchronize());
	}
	void route(const std::vector<int32_t> &g, const std::vector<int32_t> &of_row)
	{
		group.from(g);
		row_group.from(of_row);
		struct oracle_args a = { x.p, w.p, s.e8m0 ? ws8.p : NULL, xs.p, ws.p, row_group.p, want.p, size.p, ld, rows, s.n_out, s.n_in };
		oracle<<<dim3((s.n_out + 127) / 128, rows), 128>>>(a);
		CU(cudaDeviceSynchronize());
	}
	struct moxie_fp8_args args(int n_tok) const
	{
		struct moxie_fp8_args a = {};
		a.x = x.p, a.x_scale = xs.p, a.x_scale_ld = (int64_t)ld, a.w = w.p, a.w_scale = s.e8m0 ? (const void *)ws8.p : ws.p, a.out = out.p;
		a.group = s.mode == MOXIE_FP8_DENSE ? NULL : group.p, a.n_tok = n_tok;
		return a;
	}
	void poison() { CU(cudaMemset(out.p, 0xff, (out.n + 64) * 2)); }
};

static double worst_rms;

static void compare(const struct matrices &m, const char *what)
{
	CU(cudaDeviceSynchronize());
	const std::vector<__nv_bfloat16> got = m.out.host();
	const std::vector<double> want = m.want.host(), size = m.size.host();
	const std::vector<int32_t> g = m.row_group.host();
	double err2 = 0, want2 = 0;
	for (int t = 0; t < m.rows; t++)
		for (int n = 0; n < m.s.n_out; n++) {
			const size_t i = (size_t)t * m.s.n_out + n;
			const double v = (double)__bfloat162float(got[i]);
			if (g[t] < 0) {
				CHECK(isnan(v), "%s: row %d belongs to no group but was written", what, t);
				continue;
			}
			CHECK(fabs(v - want[i]) <= fabs(want[i]) / 256 + size[i] / 256, "%s: [%d][%d] is %g, wanted %g (terms %g)", what, t, n, v, want[i], size[i]);
			err2 += (v - want[i]) * (v - want[i]), want2 += want[i] * want[i];
		}
	const double rms = want2 > 0 ? sqrt(err2 / want2) : 0;
	worst_rms = rms > worst_rms ? rms : worst_rms;
	CHECK(rms < 3e-3, "%s: relative RMS error %g", what, rms);
}

static moxie_fp8_plan *plan_of(struct shape s)
{
	struct moxie_fp8_desc d = { s.mode, s.n_group, s.n_out, s.n_in, s.e8m0 ? MOXIE_FP8_SCALE_E8M0 : MOXIE_FP8_SCALE_F32 };
	struct moxie_err err = {};
	moxie_fp8_plan *p;
	OK(moxie_fp8_plan_create(&p, &d, 0, &err), err);
	return p;
}

static void dense_case(int n_out, int n_in, int e8m0, std::vector<int> toks)
{
	const struct shape s = { MOXIE_FP8_DENSE, 1, n_out, n_in, e8m0 };
	moxie_fp8_plan *p = plan_of(s);
	struct moxie_err err = {};
	for (int n_tok : toks) {
		struct matrices m(s, n_tok);
		m.route({ 0, n_tok }, std::vector<int32_t>(n_tok, 0));
		m.poison();
		const struct moxie_fp8_args a = m.args(n_tok);
		OK(moxie_fp8_gemm(p, &a, 0, &err), err);
		char what[99];
		snprintf(what, sizeof what, "%d x %d, %d tokens", n_out, n_in, n_tok);
		compare(m, what);
	}
	moxie_fp8_plan_free(p);
	printf("    relative RMS error so far %.2e\n", worst_rms);
}

TEST(dense_small) { dense_case(512, 512, 0, { 1, 2, 7, 8, 9, 16, 17, 31, 33, 40, 48, 55, 64, 65, 100, 128, 129, 257, 300 }); }
TEST(dense_e8m0) { dense_case(256, 384, 1, { 1, 8, 64, 65, 200 }); }
TEST(dense_odd) { dense_case(64, 128, 0, { 1, 9, 129 }), dense_case(192, 1920, 0, { 5, 64, 130 }), dense_case(2112, 7168, 0, { 1, 64, 257 }); }
TEST(dense_half) { dense_case(128, 64, 0, { 3, 70, 300 }), dense_case(576, 2880, 1, { 1, 33, 128, 700 }), dense_case(2880, 4096, 0, { 7, 200 }); } /* a last block of 64 */
TEST(dense_wide) { dense_case(7168, 2048, 0, { 3, 31, 128, 1024 }), dense_case(4096, 7168, 1, { 1, 9, 513 }); }
TEST(sanitize) { dense_case(192, 384, 0, { 1, 9, 33, 65, 140 }); }

/* Every instance, split and count on an SM that fits, not only what the plan would choose; each twenty times with the same bits. */
TEST(every_choice)
{
	const struct shape s = { MOXIE_FP8_DENSE, 1, 448, 1088, 0 }; /* 8.5 blocks */
	moxie_fp8_plan *p = plan_of(s);
	struct moxie_err err = {};
	int n = 0;
	for (int n_tok : { 5, 61, 150, 400 }) {
		struct matrices m(s, n_tok);
		m.route({ 0, n_tok }, std::vector<int32_t>(n_tok, 0));
		const struct moxie_fp8_args a = m.args(n_tok);
		for (int i = 0; i < fp8_n_instance; i++)
			for (int split = 1; split <= (i < 12 ? 4 : 1); split++)
				for (int per_sm = 1; per_sm <= 6; per_sm += 1 + per_sm / 3 * 2) {
					const struct fp8_force f = { i, split, per_sm, per_sm, per_sm == 2 ? 2 : 1 << 20 };
					m.poison();
					const int rc = fp8_gemm_forced(p, &a, &f, 0, &err);
					if (rc == MOXIE_E_UNSUPPORTED) continue;
					OK(rc, err);
					char what[99];
					snprintf(what, sizeof what, "instance %d, split %d, %d on an SM, %d tokens", i, split, per_sm, n_tok);
					compare(m, what);
					n++;
					const std::vector<__nv_bfloat16> first = m.out.host();
					for (int again = 0; again < 20; again++)
						OK(fp8_gemm_forced(p, &a, &f, 0, &err), err);
					CU(cudaDeviceSynchronize());
					CHECK(!memcmp(first.data(), m.out.host().data(), first.size() * 2), "%s: other bits the second time", what);
				}
	}
	CHECK(n > 60, "only %d choices fit", n);
	moxie_fp8_plan_free(p);
}

/* Up to 32 tokens a token's bits do not depend on how many there are. */
TEST(bits_of_any_count)
{
	for (const struct shape s : { shape { MOXIE_FP8_DENSE, 1, 448, 1088, 0 }, shape { MOXIE_FP8_DENSE, 1, 2112, 7168, 1 }, shape { MOXIE_FP8_DENSE, 1, 512, 16384, 0 } }) {
		moxie_fp8_plan *p = plan_of(s);
		struct moxie_err err = {};
		struct matrices m(s, 32);
		std::vector<__nv_bfloat16> first;
		for (int n_tok : { 1, 3, 8, 9, 17, 24, 32 }) {
			m.poison();
			struct moxie_fp8_args a = m.args(n_tok);
			OK(moxie_fp8_gemm(p, &a, 0, &err), err);
			CU(cudaDeviceSynchronize());
			const std::vector<__nv_bfloat16> got = m.out.host();
			if (first.empty()) first = got;
			CHECK(!memcmp(first.data(), got.data(), (size_t)s.n_out * 2), "%d x %d: other bits with %d tokens", s.n_out, s.n_in, n_tok);
		}
		moxie_fp8_plan_free(p);
	}
}

static void grouped_case(int mode, int n_group, int n_out, int n_in, int room)
{
	const struct shape s = { mode, n_group, n_out, n_in, 0 };
	moxie_fp8_plan *p = plan_of(s);
	struct moxie_err err = {};
	for (int kind = 0; kind < 4; kind++) { /* random, all in one, some empty, none */
		std::vector<int32_t> count(n_group), g, of_row;
		for (int e = 0; e < n_group; e++)
			count[e] = kind == 0 ? rnd_int(room + 1) : kind == 1 ? (e == n_group / 2 ? room : 0) : kind == 2 ? (rnd_int(2) ? rnd_int(9) : 0) : 0;
		int n_tok = room;
		if (mode == MOXIE_FP8_CONTIGUOUS) {
			g.push_back(0);
			for (int e = 0; e < n_group; e++) {
				g.push_back(g.back() + count[e]);
				of_row.insert(of_row.end(), count[e], e);
			}
			of_row.insert(of_row.end(), 7, -1); /* rows behind the last group */
			n_tok = (int)of_row.size();
		} else {
			g = count;
			for (int e = 0; e < n_group; e++)
				for (int i = 0; i < room; i++)
					of_row.push_back(i < count[e] ? e : -1);
		}
		g.resize(n_group + 1);
		struct matrices m(s, (int)of_row.size());
		m.route(g, of_row);
		m.poison();
		const struct moxie_fp8_args a = m.args(n_tok);
		OK(moxie_fp8_gemm(p, &a, 0, &err), err);
		char what[99];
		snprintf(what, sizeof what, "mode %d, %d groups, room %d, kind %d", mode, n_group, room, kind);
		compare(m, what);
	}
	moxie_fp8_plan_free(p);
}
TEST(contiguous) { grouped_case(MOXIE_FP8_CONTIGUOUS, 5, 256, 512, 40), grouped_case(MOXIE_FP8_CONTIGUOUS, 37, 192, 256, 12), grouped_case(MOXIE_FP8_CONTIGUOUS, 3, 512, 384, 300); }
TEST(masked) { grouped_case(MOXIE_FP8_MASKED, 5, 256, 512, 40), grouped_case(MOXIE_FP8_MASKED, 70, 64, 128, 3), grouped_case(MOXIE_FP8_MASKED, 3, 320, 384, 200); }

static void quant_case(int input, int n_tok, int n)
{
	const int wide = input == MOXIE_FP8_SWIGLU ? 2 * n : n;
	std::vector<__nv_bfloat16> x((size_t)n_tok * wide), norm(n);
	for (size_t i = 0; i < x.size(); i++)
		x[i] = __float2bfloat16(i / 128 % 5 == 2 && input == MOXIE_FP8_QUANT ? 0.f : (float)(rnd_normal() * exp2(rnd_int(5))));
	for (auto &v : norm)
		v = __float2bfloat16((float)(1 + .3 * rnd_normal()));
	dev<__nv_bfloat16> dx(x.size()), dn(n);
	dev<uint8_t> q((size_t)n_tok * n);
	const size_t ld = n_tok + 2;
	const int n_block = (n + 127) / 128;
	dev<float> scale(ld * n_block);
	dx.from(x), dn.from(norm);
	CU(cudaMemset(q.p, 0x7f, q.n));
	CU(cudaMemset(scale.p, 0xff, scale.n * 4));
	struct moxie_fp8_quant_args a = { dx.p, input == MOXIE_FP8_RMSNORM ? dn.p : NULL, q.p, scale.p, (int64_t)ld, 1e-5f, input, n_tok, n };
	struct moxie_err err = {};
	OK(moxie_fp8_quant(&a, 0, &err), err);
	CU(cudaDeviceSynchronize());
	const std::vector<uint8_t> got = q.host();
	const std::vector<float> gs = scale.host();
	for (int t = 0; t < n_tok; t++) {
		double ms = 0;
		for (int i = 0; i < n && input == MOXIE_FP8_RMSNORM; i++)
			ms += pow((double)__bfloat162float(x[(size_t)t * n + i]), 2) / n;
		for (int b = 0; b < n_block; b++) {
			double y[128], most = 0;
			const int wide_b = n - b * 128 < 128 ? n - b * 128 : 128;
			for (int i = 0; i < wide_b; i++) {
				const double v = (double)__bfloat162float(x[(size_t)t * wide + b * 128 + i]);
				y[i] = input == MOXIE_FP8_QUANT ? v : input == MOXIE_FP8_RMSNORM ? v / sqrt(ms + 1e-5) * (double)__bfloat162float(norm[b * 128 + i])
				                                                                 : v / (1 + exp(-v)) * (double)__bfloat162float(x[(size_t)t * wide + n + b * 128 + i]);
				most = fmax(most, fabs(y[i]));
			}
			const double s = gs[b * ld + t];
			NEAR(s, most > 0 ? most / 448 : 1, 1e-5 * (most / 448 + 1e-30));
			for (int i = 0; i < wide_b; i++) { /* half a step of e4m3 at this size, and a little */
				const double v = (double)__half2float(__half(__nv_cvt_fp8_to_halfraw(got[(size_t)t * n + b * 128 + i], __NV_E4M3))) * s, size = fmax(fabs(y[i]), s / 64);
				CHECK(fabs(v - y[i]) <= size * (1 / 16. + 1e-4), "input %d: [%d][%d] is %g, wanted %g at scale %g", input, t, b * 128 + i, v, y[i], s);
			}
		}
	}
}
TEST(quant)
{
	for (int input = 0; input < 3; input++)
		for (int n : { 64, 128, 384, 2048, 2880, 7168 })
			quant_case(input, 1 + rnd_int(5), n);
}

TEST(refusals)
{
	struct moxie_err err = {};
	moxie_fp8_plan *p;
	struct moxie_fp8_desc d = { MOXIE_FP8_DENSE, 1, 100, 128, 0 };
	CHECK(moxie_fp8_plan_create(&p, &d, 0, &err) == MOXIE_E_SHAPE && strstr(err.text, "100") && !p, "%s", err.text);
	d.n_out = 128, d.n_in = 96;
	CHECK(moxie_fp8_plan_create(&p, &d, 0, &err) == MOXIE_E_SHAPE && strstr(err.text, "96"), "%s", err.text);
	d.n_in = 128, d.n_group = 2;
	CHECK(moxie_fp8_plan_create(&p, &d, 0, &err) == MOXIE_E_ARG, "%s", err.text);
	d.n_group = 1;
	OK(moxie_fp8_plan_create(&p, &d, 0, &err), err);
	struct moxie_fp8_args a = {};
	a.n_tok = 1, a.x_scale_ld = 1;
	CHECK(moxie_fp8_gemm(p, &a, 0, &err) == MOXIE_E_ARG && strstr(err.text, "x is"), "%s", err.text);
	a.n_tok = -1;
	CHECK(moxie_fp8_gemm(p, &a, 0, &err) == MOXIE_E_ARG, "%s", err.text);
	char text[4096];
	CHECK(moxie_fp8_plan_explain(p, text, sizeof text) > 100 && strstr(text, "tokens"), "%s", text);
	moxie_fp8_plan_free(p);
	moxie_fp8_plan_free(NULL);
}

TEST_MAIN
