/* ref_moe.c - router, expert tables, gate/up with clamped SwiGLU, down with combine.
 *
 * The router works on fp32 activations in every instruction set: a rounded logit could pick another expert.
 * Cost: 2 * n_pair * 3 * n_embd * n_ff flops.   Test: build/test_kernels route, moe_gate_up, moe_down
 */
#include "kernels/cpu/ref.h"

/* Strictly better: NaN loses to everything, equal is not better, so that ascending ids resolve ties. */
static bool better(float a, float b)
{
	return a > b || (isnan(b) && !isnan(a));
}

void ref_topk_softmax(const float *logit, int n, int n_used, int32_t *id, float *weight)
{
	for (int s = 0; s < n_used; s++) {
		int best = -1;
		for (int e = 0; e < n; e++) {
			bool taken = false;
			for (int i = 0; i < s; i++)
				taken |= id[i] == e;
			if (!taken && (best < 0 || better(logit[e], logit[best])))
				best = e;
		}
		id[s] = best;
	}
	float sum = 0;
	for (int s = 0; s < n_used; s++)
		sum += weight[s] = expf(logit[id[s]] - logit[id[0]]);
	for (int s = 0; s < n_used; s++)
		weight[s] /= sum;
}

void ref_route_tables(const struct moe_tables *t, int n_tok, int n_expert, int n_used)
{
	int n_pair = n_tok * n_used, *off = t->expert_off;
	memset(off, 0, sizeof *off * ((size_t)n_expert + 1));
	for (int p = 0; p < n_pair; p++)
		off[t->topk_id[p] + 1]++;
	for (int e = 0; e < n_expert; e++)
		off[e + 1] += off[e];
	/* off[e] walks to the start of e + 1 while its pairs are placed; the shift afterwards undoes that */
	for (int p = 0; p < n_pair; p++)
		t->pair[off[t->topk_id[p]]++] = p;
	memmove(off + 1, off, sizeof *off * (size_t)n_expert);
	off[0] = 0;
}

void ref_route(struct kern *k, const struct route_args *a)
{
#pragma omp parallel for schedule(static) num_threads(k->n_thread) if (a->n_tok > 1)
	for (int t = 0; t < a->n_tok; t++) {
		float logit[512]; /* n_expert <= 512 */
		for (int e = 0; e < a->n_expert; e++)
			logit[e] = ref_row_dot((const float *)a->h + (int64_t)t * a->n_embd, a->w, e, a->n_embd) + bias_at(a->b, e);
		ref_topk_softmax(logit, a->n_expert, a->n_used, a->t.topk_id + (int64_t)t * a->n_used, a->t.topk_w + (int64_t)t * a->n_used);
	}
	if (a->n_tok > 0)
		ref_route_tables(&a->t, a->n_tok, a->n_expert, a->n_used);
}

void ref_moe_gate_up(struct kern *k, const struct moe_gate_up_args *a)
{
	int64_t n = (int64_t)a->n_tok * a->n_used * a->n_ff;
#pragma omp parallel for schedule(static) num_threads(k->n_thread)
	for (int64_t i = 0; i < n; i++) {
		int64_t p = i / a->n_ff, row = ((int64_t)a->t.topk_id[p] * a->n_ff + i % a->n_ff) * 2;
		const float *h = (const float *)a->h + p / a->n_used * a->n_embd;
		float g = ref_row_dot(h, a->w, row, a->n_embd) + bias_at(a->b, row);
		float l = ref_row_dot(h, a->w, row + 1, a->n_embd) + bias_at(a->b, row + 1);
		g = g > a->limit ? a->limit : g; /* a NaN passes through, as it should */
		l = l > a->limit ? a->limit : l < -a->limit ? -a->limit : l;
		((float *)a->act)[i] = g / (1 + expf(-a->alpha * g)) * (l + 1);
	}
}

void ref_moe_down(struct kern *k, const struct moe_down_args *a)
{
	int64_t n = (int64_t)a->n_tok * a->n_embd;
#pragma omp parallel for schedule(static) num_threads(k->n_thread)
	for (int64_t i = 0; i < n; i++) {
		int64_t t = i / a->n_embd, r = i % a->n_embd;
		float sum = 0;
		for (int s = 0; s < a->n_used; s++) {
			int64_t p = t * a->n_used + s, row = (int64_t)a->t.topk_id[p] * a->n_embd + r;
			float y = ref_row_dot((const float *)a->act + p * a->n_ff, a->w, row, a->n_ff) + bias_at(a->b, row);
			sum += a->t.topk_w[p] * y;
		}
		((float *)a->x)[i] += sum;
	}
}
