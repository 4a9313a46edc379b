/* kernels_case.h - what test_kernels.c builds its cases from: random data, an oracle's view of weights, one case on every
 * instruction set. */
#ifndef KERNELS_CASE_H
#define KERNELS_CASE_H

#include "kernels/kernels.h"

#include "test.h"

enum { GRID, PLAIN };

/* ---- data ---- */

static void *take(size_t n, size_t size)
{
	void *p = calloc(n + 16, size);
	if (!p)
		abort();
	return p;
}

static float *rnd_act(size_t n, int kind)
{
	float *a = take(n, sizeof *a);
	for (size_t i = 0; i < n; i++)
		a[i] = kind == GRID ? bf16_to_f32(bf16_from_f32(rnd_normal())) : rnd_normal();
	return a;
}

static void fill_nan(float *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		p[i] = NAN;
}

/* Weights start at an odd multiple of their element's size, as a tensor in a file may. */
static struct weight rnd_bf16(int64_t n0, int64_t n1, double scale)
{
	bf16 *w = (bf16 *)take((size_t)(n0 * n1) + 1, sizeof *w) + 1;
	for (int64_t i = 0; i < n0 * n1; i++)
		w[i] = bf16_from_f32((float)(scale * rnd_normal()));
	return (struct weight){ .dtype = DT_BF16, .n_dim = n1 > 1 ? 2 : 1, .shape = { n0, n1 }, .data = w };
}

/* Codes of every kind but NaN, with powers of two of their own. */
static struct weight rnd_f8(int64_t n0, int64_t n1)
{
	uint8_t *code = take((size_t)(n0 * n1), 1);
	float *scl = take((size_t)n0, sizeof *scl);
	for (int64_t i = 0; i < n0 * n1; i++)
		code[i] = e4m3_from_f32((float)(8 * rnd_normal()));
	for (int64_t i = 0; i < n0; i++)
		scl[i] = ldexpf(1, -6 + rnd_int(4));
	return (struct weight){ .dtype = DT_F8_E4M3, .n_dim = 2, .shape = { n0, n1 }, .data = code, .row_scl = scl };
}

static struct weight rnd_f32(int64_t n0, int64_t n1)
{
	struct weight w = { .dtype = DT_F32, .n_dim = n1 > 1 ? 2 : 1, .shape = { n0, n1 }, .data = rnd_act((size_t)(n0 * n1), PLAIN) };
	return w;
}

static struct weight rnd_mx(int64_t e, int64_t n, int64_t k)
{
	uint8_t *blk = (uint8_t *)take((size_t)(e * n * k / 2) + 1, 1) + 1, *scl = (uint8_t *)take((size_t)(e * n * k / 32) + 1, 1) + 1;
	for (int64_t i = 0; i < e * n * k / 2; i++)
		blk[i] = (uint8_t)rnd_u64();
	for (int64_t i = 0; i < e * n * k / 32; i++)
		scl[i] = (uint8_t)(118 + rnd_int(6));
	return (struct weight){ .dtype = DT_U8, .n_dim = 3, .shape = { e, n, k }, .data = blk, .scl = scl };
}

static double wt(const struct weight *w, int64_t i)
{
	if (!w)
		return 0;
	if (w->dtype == DT_U8) {
		static const double v[] = { 0, .5, 1, 1.5, 2, 3, 4, 6 };
		unsigned code = ((const uint8_t *)w->data)[i / 2] >> (i % 2 * 4) & 15, s = w->scl[i / 32];
		return s == 255 ? NAN : (code & 8 ? -1 : 1) * v[code & 7] * ldexp(1, (int)s - 127);
	}
	if (w->dtype == DT_F8_E4M3) {
		unsigned code = ((const uint8_t *)w->data)[i], e = code >> 3 & 15, m = code & 7;
		return (code & 128 ? -1 : 1) * (double)w->row_scl[i / w->shape[1]] * (e ? ldexp(8 + m, (int)e - 10) : ldexp(m, -9));
	}
	return w->dtype == DT_F32 ? ((const float *)w->data)[i] : bf16_to_f32(((const bf16 *)w->data)[i]);
}

static double dot(const struct weight *w, int64_t row, const float *a, int64_t k)
{
	double s = 0;
	for (int64_t i = 0; i < k; i++)
		s += wt(w, row * k + i) * (double)a[i];
	return s;
}

static void weight_free(struct weight *w)
{
	int64_t odd = w->dtype == DT_U8 ? 1 : w->dtype == DT_BF16 ? 2 : 0;
	free((char *)(uintptr_t)w->data - odd);
	free((void *)(uintptr_t)w->row_scl);
	if (w->scl)
		free((uint8_t *)(uintptr_t)w->scl - 1);
}

/* ---- one case on every instruction set ---- */

#ifndef FIRST_ISA
#define FIRST_ISA CPU_REF /* test_amx.c: only the last */
#endif

struct world {
	struct kern_limits lim;
	double tol[CPU_AUTO]; /* per instruction set, for the relative error of the whole output */
	void (*run)(struct kern *k, void *ctx, float *out);
	void *ctx;
	const double *want;
	size_t n_out;
	char name[160];
};

#define TOL_FP32 { 1e-6, 1.5e-6, 1.5e-6, 1.5e-6 }
#define TOL_BF16 { 1e-6, 1.5e-6, 4e-3, 4e-3 } /* one rounding of the activations: 2^-9 / sqrt(3), and room */
#define TOL_INT16 6e-5 /* MXFP4 dots of AVX-512: activations as 16 bits to the scale of the largest of 32 */

static const char *const isa_word[] = { "ref", "avx2", "avx512", "amx" };

static double rel_err(const float *got, const double *want, size_t n)
{
	double d = 0, r = 0;
	for (size_t i = 0; i < n; i++) {
		if (isnan(want[i]) && isnan(got[i]))
			continue;
		d += (got[i] - want[i]) * (got[i] - want[i]);
		r += isnan(want[i]) ? 0 : want[i] * want[i];
	}
	return r > 0 ? sqrt(d / r) : sqrt(d);
}

static struct kern *open_kern(const struct kern_limits *lim, int isa, int n_thread)
{
	struct kern *k;
	struct moxie_err err;
	int rc = kern_cpu_create(&k, lim, (enum cpu_isa)isa, n_thread, &err);
	if (rc == MOXIE_E_UNSUPPORTED)
		return NULL;
	OK(rc, err);
	return k;
}

static void check(struct world *w)
{
	float *first = take(w->n_out, sizeof *first), *out = take(w->n_out, sizeof *out);
	for (int isa = FIRST_ISA; isa < CPU_AUTO; isa++)
		for (int turn = 0; turn < 4; turn++) {
			int n_thread = turn == 3 ? 2 : turn + 1;
			struct kern *k = open_kern(&w->lim, isa, n_thread);
			if (!k)
				break;
			fill_nan(out, w->n_out);
			w->run(k, w->ctx, out);
			OK(k->sync(k, NULL), (struct moxie_err){ 0 });
			double e = rel_err(out, w->want, w->n_out);
			CHECK(e <= w->tol[isa], "%s, %s, %d threads: error %.3g, wanted %.3g", w->name, isa_word[isa], n_thread, e, w->tol[isa]);
			if (turn == 0)
				memcpy(first, out, w->n_out * sizeof *out);
			for (size_t i = 0; i < w->n_out; i++)
				CHECK(!memcmp(first + i, out + i, sizeof *out) || (isnan(first[i]) && isnan(out[i])),
				      "%s, %s: element %zu is %.9g with 1 thread, %.9g with %d", w->name, isa_word[isa], i, first[i], out[i], n_thread);
			k->free(k);
		}
	free(first);
	free(out);
}

static const struct kern_limits small = { .n_tok = 128, .n_embd = 64, .n_head = 4, .n_head_kv = 2, .d_head = 64, .n_ff = 64,
	.n_expert = 8, .n_used = 4, .n_vocab = 100 };

#endif
