/* ref_gemm.c - dense products of the reference: gemm and qkv, on BF16, F32 or MXFP4 weights.
 * Cost: 2 * n_tok * n_out * n_in flops, one pass over the weights a token.   Test: build/test_kernels gemm, qkv
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/ref.h"

static float dot_mx(const float *a, const uint8_t *blk, const uint8_t *scl, int n_in)
{
	float s[REF_LANE] = { 0 };
	for (int g = 0; g < n_in / MX_GROUP; g++) {
		float d = e8m0_to_f32(scl[g]);
		for (int i = 0; i < MX_GROUP / 2; i++) {
			unsigned b = blk[g * 16 + i];
			const float *ak = a + g * MX_GROUP + 2 * i;
			s[2 * i % REF_LANE] += ak[0] * (e2m1_to_f32(b) * d);
			s[(2 * i + 1) % REF_LANE] += ak[1] * (e2m1_to_f32(b >> 4) * d);
		}
	}
	return ref_lane_sum(s);
}

float ref_row_dot(const float *a, const struct weight *w, int64_t row, int n_in)
{
	float s[REF_LANE] = { 0 };
	if (w->dtype == DT_U8)
		return dot_mx(a, (const uint8_t *)w->data + row * (n_in / 2), w->scl + row * (n_in / MX_GROUP), n_in);
	if (w->dtype == DT_F32) {
		const float *v = (const float *)w->data + row * n_in;
		for (int k = 0; k < n_in; k += REF_LANE)
			for (int i = 0; i < REF_LANE; i++)
				s[i] += a[k + i] * v[k + i];
	} else if (w->dtype == DT_F8_E4M3) {
		const uint8_t *v = (const uint8_t *)w->data + row * n_in;
		for (int k = 0; k < n_in; k += REF_LANE)
			for (int i = 0; i < REF_LANE; i++)
				s[i] += a[k + i] * e4m3_to_f32(v[k + i]);
		return ref_lane_sum(s) * w->row_scl[row];
	} else {
		const bf16 *v = (const bf16 *)w->data + row * n_in;
		for (int k = 0; k < n_in; k += REF_LANE)
			for (int i = 0; i < REF_LANE; i++)
				s[i] += a[k + i] * bf16_to_f32(v[k + i]);
	}
	return ref_lane_sum(s);
}

void ref_gemm(struct kern *k, const struct gemm_args *a)
{
	int64_t n = (int64_t)a->n_tok * a->n_out;
#pragma omp parallel for schedule(static) num_threads(k->n_thread)
	for (int64_t i = 0; i < n; i++) {
		int64_t t = i / a->n_out, r = i % a->n_out;
		float y = ref_row_dot((const float *)a->a + t * a->n_in, a->w, r, a->n_in) + bias_at(a->b, r);
		float *d = (float *)a->d + i;
		*d = a->add ? *d + y : y;
	}
}

/* The least power of two by which `most` becomes 448 or less. */
static float row_scale(float most)
{
	int e;
	if (!(most < INFINITY))
		return NAN;
	if (most == 0)
		return 1;
	float part = frexpf(most, &e); /* .5 .. 1; 448 = .875 2^9 */
	e += (part > .875f) - 9;
	return ldexpf(1, e < -126 ? -126 : e);
}

void ref_quant_rows(struct kern *k, const struct quant_rows_args *a)
{
	int64_t n_row = a->w->shape[0], n_in = a->w->shape[1];
#pragma omp parallel for schedule(static) num_threads(k->n_thread)
	for (int64_t r = 0; r < n_row; r++) {
		const bf16 *w = (const bf16 *)a->w->data + r * n_in;
		float most = 0, inv;
		for (int64_t i = 0; i < n_in; i++) {
			float v = fabsf(bf16_to_f32(w[i]));
			most = most != most || v <= most ? most : v; /* NaN stays */
		}
		a->scl[r] = row_scale(most);
		inv = 1 / a->scl[r];
		for (int64_t i = 0; i < n_in; i++)
			a->code[r * n_in + i] = e4m3_from_f32(bf16_to_f32(w[i]) * inv);
	}
}

static void rope_head(float *v, const float *cs, int d_head)
{
	int half = d_head / 2;
	for (int i = 0; i < half; i++) {
		float x = v[i], y = v[i + half], c = cs[2 * i], s = cs[2 * i + 1];
		v[i] = x * c - y * s;
		v[i + half] = y * c + x * s;
	}
}

static void kv_put(const struct kv_view *kv, void *base, int64_t at, const float *v, int d_head)
{
	for (int i = 0; i < d_head; i++)
		if (kv->dtype == DT_F32)
			((float *)base)[at + i] = v[i];
		else if (kv->dtype == DT_BF16)
			((bf16 *)base)[at + i] = bf16_from_f32(v[i]);
		else
			((uint8_t *)base)[at + i] = e4m3_from_f32(v[i]);
}

void ref_rope_store(const struct qkv_args *a, int t, float *key, const float *val)
{
	const float *cs = a->cs + (int64_t)t * a->d_head;
	for (int ih = 0; ih < a->n_head; ih++)
		rope_head((float *)a->q + ((int64_t)t * a->n_head + ih) * a->d_head, cs, a->d_head);
	for (int ih = 0; ih < a->n_head_kv; ih++) {
		int64_t at = kv_row(a->kv, a->batch->seq[t], a->batch->pos[t], ih, a->n_head_kv, a->d_head);
		rope_head(key + (int64_t)ih * a->d_head, cs, a->d_head);
		kv_put(a->kv, a->kv->k, at, key + (int64_t)ih * a->d_head, a->d_head);
		kv_put(a->kv, a->kv->v, at, val + (int64_t)ih * a->d_head, a->d_head);
	}
}

void ref_qkv(struct kern *k, const struct qkv_args *a)
{
	struct cpu *c = k->impl;
	int n_q = a->n_head * a->d_head, n_kv = a->n_head_kv * a->d_head;
#pragma omp parallel for schedule(static) num_threads(k->n_thread)
	for (int t = 0; t < a->batch->n_tok; t++) {
		const float *h = (const float *)a->h + (int64_t)t * a->n_embd;
		float *q = (float *)a->q + (int64_t)t * n_q, *key = c->kv_new + (int64_t)t * 2 * n_kv, *val = key + n_kv;
		for (int i = 0; i < n_q; i++)
			q[i] = ref_row_dot(h, a->wq, i, a->n_embd) + bias_at(a->bq, i);
		for (int i = 0; i < n_kv; i++) {
			key[i] = ref_row_dot(h, a->wk, i, a->n_embd) + bias_at(a->bk, i);
			val[i] = ref_row_dot(h, a->wv, i, a->n_embd) + bias_at(a->bv, i);
		}
		ref_rope_store(a, t, key, val);
	}
}
