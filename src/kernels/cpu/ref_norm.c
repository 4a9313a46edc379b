/* ref_norm.c - embed, rmsnorm and rope: one token at a time, memory bound, kept as they are by every instruction set except
 * rmsnorm.  rope's angle is rounded to fp32 before the cosine, as transformers has it; the cosine itself is taken in double.
 * Cost: embed and rmsnorm read and write n_tok * n_embd floats.   Test: build/test_kernels embed, rmsnorm, rope
 */
#include "kernels/cpu/ref.h"

void ref_embed(struct kern *k, const struct embed_args *a)
{
	(void)k;
	for (int t = 0; t < a->n_tok; t++) {
		float *x = (float *)a->x + (int64_t)t * a->n_embd;
		for (int i = 0; i < a->n_embd; i++)
			x[i] = weight_at(a->w, (int64_t)a->tok[t] * a->n_embd + i);
	}
}

void ref_rmsnorm(struct kern *k, const struct rmsnorm_args *a)
{
#pragma omp parallel for schedule(static) num_threads(k->n_thread) if (a->n_tok > 1)
	for (int t = 0; t < a->n_tok; t++) {
		const float *x = (const float *)a->x + (int64_t)(a->row ? a->row[t] : t) * a->n_embd;
		float *h = (float *)a->h + (int64_t)t * a->n_embd, s[REF_LANE] = { 0 };
		for (int i = 0; i < a->n_embd; i++)
			s[i % REF_LANE] += x[i] * x[i];
		float r = 1 / sqrtf(ref_lane_sum(s) / (float)a->n_embd + a->eps);
		for (int i = 0; i < a->n_embd; i++)
			h[i] = x[i] * r * weight_at(a->w, i);
	}
}

void ref_rope(struct kern *k, const struct rope_args *a)
{
	int half = a->n_rot / 2;
	(void)k;
	for (int t = 0; t < a->n_tok; t++)
		for (int i = 0; i < half; i++) {
			float angle = (float)a->pos[t] * a->inv_freq[i];
			float *cs = a->cs + ((int64_t)t * half + i) * 2;
			cs[0] = (float)cos((double)angle) * a->mscale;
			cs[1] = (float)sin((double)angle) * a->mscale;
		}
}
