/* ref_attn.c - attention with sinks and sliding window, one query head at a time.
 *
 * Two passes over the keys, so no score is ever stored: first the largest score, then weights and their sum.
 * Cost: 3 * d_head multiply-adds a key and query head.   Test: build/test_kernels attn
 */
#include "kernels/cpu/ref.h"

static float score(const struct attn_args *a, const float *q, int64_t at)
{
	float s[REF_LANE] = { 0 };
	for (int i = 0; i < a->d_head; i++)
		s[i % REF_LANE] += q[i] * kv_at(a->kv, a->kv->k, at + i);
	return ref_lane_sum(s) * a->scale;
}

void ref_attn(struct kern *k, const struct attn_args *a)
{
	int64_t n = (int64_t)a->batch->n_tok * a->n_head;
#pragma omp parallel for schedule(dynamic, 1) num_threads(k->n_thread)
	for (int64_t r = 0; r < n; r++) {
		int t = (int)(r / a->n_head), ih = (int)(r % a->n_head), ihkv = ih / (a->n_head / a->n_head_kv);
		int seq = a->batch->seq[t], pos = a->batch->pos[t], first = attn_first_key(pos, a->window);
		const float *q = (const float *)a->q + r * a->d_head;
		float *o = (float *)a->o + r * a->d_head;
		float max = a->sinks ? weight_at(a->sinks, ih) : -INFINITY;
		for (int j = first; j <= pos; j++)
			max = fmaxf(max, score(a, q, kv_row(a->kv, seq, j, ihkv, a->n_head_kv, a->d_head)));

		float sum = a->sinks ? expf(weight_at(a->sinks, ih) - max) : 0;
		memset(o, 0, sizeof(float) * (size_t)a->d_head);
		for (int j = first; j <= pos; j++) {
			int64_t at = kv_row(a->kv, seq, j, ihkv, a->n_head_kv, a->d_head);
			float p = expf(score(a, q, at) - max);
			sum += p;
			for (int i = 0; i < a->d_head; i++)
				o[i] += p * kv_at(a->kv, a->kv->v, at + i);
		}
		for (int i = 0; i < a->d_head; i++)
			o[i] /= sum;
	}
}
