/* route_ref.h - the C twin of routing: the same bits as moe_route.cu from plain loops, and the tables from a plain sort.
 * Build with -ffp-contract=off (route_math.h). */
#ifndef ROUTE_REF_H
#define ROUTE_REF_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "moe_layout.h"
#include "moxie_route.h"
#include "route_math.h"

/* Host pointers with the names of moxie_router_args. */
struct ref_in {
	const float *logits; /* [n_tok, n_expert] as f32, whatever the device got */
	const float *select_bias, *expert_scale;
	const int32_t *hash_table, *tok_id;
	int n_vocab, n_tok_real;
	const int32_t *topk_id_in;
	const float *topk_w_in;
};

/* The sum that the xor butterfly of 2^ceil(log2 n) lanes leaves in lane 0. */
static inline float ref_butterfly(float *v, int n)
{
	float u[32];
	for (int o = 1; o < n; o *= 2) {
		for (int i = 0; i < 32; i++)
			u[i] = v[i] + v[i ^ o];
		memcpy(v, u, sizeof u);
	}
	return v[0];
}

static inline void ref_merge(int k, int32_t *id, float *w)
{
	for (int s = 0; s < k; s++)
		for (int r = s + 1; r < k; r++)
			if (id[s] >= 0 && id[r] == id[s])
				w[s] = w[s] + w[r], id[r] = -1, w[r] = 0.f;
}

static inline void ref_route_token(const struct moxie_router_shape *s, const struct ref_in *in, int t, int32_t *id, float *w)
{
	const int k = s->n_used, n = s->n_expert, n_here = s->n_expert_here ? s->n_expert_here : n;
	const float *l = in->logits ? in->logits + (size_t)t * n : NULL;
	for (int i = 0; i < k; i++)
		id[i] = -1, w[i] = 0.f;
	if (t >= in->n_tok_real)
		return;
	if (s->score == MOXIE_SCORE_GIVEN) {
		for (int i = 0; i < k; i++) {
			id[i] = in->topk_id_in[(size_t)t * k + i];
			w[i] = in->topk_w_in[(size_t)t * k + i];
			if (id[i] >= n || id[i] < 0)
				id[i] = -1;
		}
		ref_merge(k, id, w);
	} else {
		float lane[32] = { 0 };
		if (in->hash_table) {
			const int v = in->tok_id[t];
			if (v < 0 || v >= in->n_vocab)
				return;
			for (int i = 0; i < k; i++) {
				const int e = in->hash_table[(size_t)v * k + i];
				id[i] = e < 0 || e >= n ? -1 : e;
			}
		} else {
			uint32_t key[MOXIE_ROUTE_MAX_EXPERT], best[MOXIE_ROUTE_MAX_USED];
			for (int e = 0; e < n; e++)
				key[e] = route_rank_key(s->score, l[e], in->select_bias ? in->select_bias[e] : 0.f);
			float denominator = 0.f;
			if (s->score == MOXIE_SCORE_SOFTMAX && !s->renormalise) {
				const int J = route_lane_experts(n);
				uint32_t top = 0;
				for (int e = 0; e < n; e++)
					top = key[e] > top ? key[e] : top;
				const float l_max = route_key_value(top);
				for (int e = 0; e < n; e++) {
					const float v = route_key_value(key[e]);
					lane[e / J] = lane[e / J] + (v == l_max ? 1.f : route_exp(v - l_max));
				}
				denominator = ref_butterfly(lane, 32);
			}
			if (s->n_group > 1) {
				const int size = n / s->n_group;
				uint32_t group[32];
				for (int g = 0; g < s->n_group; g++) {
					uint32_t a = 0, b = 0;
					for (int e = g * size; e < (g + 1) * size; e++) {
						if (key[e] > a)
							b = a, a = key[e];
						else if (key[e] > b)
							b = key[e];
					}
					group[g] = route_key(route_key_value(a) + route_key_value(b));
				}
				for (int g = 0; g < s->n_group; g++) {
					int rank = 0;
					for (int o = 0; o < s->n_group; o++)
						rank += group[o] > group[g] || (group[o] == group[g] && o < g);
					if (rank >= s->n_group_used)
						memset(key + g * size, 0, (size_t)size * 4);
				}
			}
			for (int i = 0; i < k; i++) {
				int at = -1;
				for (int e = 0; e < n; e++)
					if (key[e] != ROUTE_KEY_NONE && (at < 0 || key[e] > key[at]))
						at = e;
				id[i] = at;
				best[i] = at < 0 ? 0 : key[at];
				if (at >= 0)
					key[at] = ROUTE_KEY_NONE;
			}
			if (s->score == MOXIE_SCORE_SOFTMAX) {
				float e[32] = { 0 };
				for (int i = 0; i < k; i++) {
					const float v = route_key_value(best[i]), l_max = route_key_value(best[0]);
					w[i] = e[i] = v == l_max ? 1.f : route_exp(v - l_max);
				}
				const float sum = s->renormalise ? ref_butterfly(e, k) : denominator;
				for (int i = 0; i < k; i++)
					w[i] = w[i] / sum;
			}
		}
		if (s->score != MOXIE_SCORE_SOFTMAX) {
			float e[32] = { 0 };
			for (int i = 0; i < k; i++)
				w[i] = e[i] = id[i] >= 0 ? route_score(s->score, l[id[i]]) : 0.f;
			if (s->renormalise) {
				const float sum = ref_butterfly(e, k) + 1e-20f;
				for (int i = 0; i < k; i++)
					w[i] = w[i] / sum;
			}
		}
		for (int i = 0; i < k; i++) {
			w[i] = w[i] * (s->scale ? s->scale : 1.f);
			if (in->expert_scale && id[i] >= 0)
				w[i] = w[i] * in->expert_scale[id[i]];
		}
		if (in->hash_table)
			ref_merge(k, id, w);
	}
	for (int i = 0; i < k; i++)
		if (id[i] >= 0) {
			id[i] -= s->expert_first;
			if (id[i] < 0 || id[i] >= n_here)
				id[i] = -1;
		}
}

/* off [n_here + 1], pair [<= n_tok * k], tiles; returns the number of tiles. */
static inline int ref_tables(int n_tok, int k, int n_here, int tile_n, const int32_t *id, int32_t *off, int32_t *pair, struct moe_tile *tiles)
{
	int32_t *at = (int32_t *)calloc((size_t)n_here + 1, 4);
	int n_tile = 0;
	for (int64_t p = 0; p < (int64_t)n_tok * k; p++)
		if (id[p] >= 0)
			at[id[p]]++;
	off[0] = 0;
	for (int e = 0; e < n_here; e++) {
		const int n = at[e];
		off[e + 1] = off[e] + n;
		at[e] = off[e];
		for (int r = 0; n && r < n;) {
			const int rows = moe_tile_rows(n, tile_n), now = n - r < rows ? n - r : rows;
			const struct moe_tile one = { e, off[e] + r, now, 0 };
			tiles[n_tile++] = one;
			r += now;
		}
	}
	for (int64_t p = 0; p < (int64_t)n_tok * k; p++)
		if (id[p] >= 0)
			pair[at[id[p]]++] = (int32_t)p;
	free(at);
	return n_tile;
}

#endif
