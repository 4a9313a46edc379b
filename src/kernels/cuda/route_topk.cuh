/* route_topk.cuh - one warp routes one token: rank, select, weigh.
 *
 *   lane i owns experts [i*J, (i+1)*J).  Each lane sorts its keys in groups of four (stable, descending), so that a
 *   round of selection is: head of the lane, redux.max over the warp, ballot for the lowest lane that holds it, pop.
 *   Ties go to the lowest id because lanes, groups and sorted lists all keep ascending id order among equal keys.
 *   The winner leaves (key, expert) in shared memory; after k rounds lane s < k takes slot s and weighs it.
 *
 * Sums are butterflies over lanes (xor 1, 2, 4, ...), which every lane computes alike: fixed order, no atomics.
 */
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "moe_route.h"
#include "route_math.h"

#define FULL 0xffffffffu

/* How a token gets its experts; a template parameter, so that each kernel holds one path. */
enum route_mode { BY_LOGIT, BY_SCORE, BY_ID };

/* A row of logits in global memory; element type chosen at run time (uniform branch). */
struct route_row_global {
	const void *p; /* of this token */
	int dtype;

	__device__ float at(int e) const
	{
		if (dtype == MOXIE_LOGIT_F32)
			return static_cast<const float *>(p)[e];
		uint16_t u = static_cast<const uint16_t *>(p)[e];
		return dtype == MOXIE_LOGIT_BF16 ? route_float((uint32_t)u << 16) : __half2float(__ushort_as_half(u));
	}
	/* v[0..G) = elements e..e+G-1 in one load; e % G == 0 and the row is aligned to G elements. */
	template <int G> __device__ void vec(int e, float *v) const
	{
		uint32_t u[G];
		if (dtype == MOXIE_LOGIT_F32) {
			load<G * 4>(static_cast<const float *>(p) + e, u);
#pragma unroll
			for (int i = 0; i < G; i++)
				v[i] = __uint_as_float(u[i]);
		} else {
			load<G * 2>(static_cast<const uint16_t *>(p) + e, u);
#pragma unroll
			for (int i = 0; i < G; i++) {
				uint16_t h = (uint16_t)(u[i / 2] >> (i & 1) * 16);
				v[i] = dtype == MOXIE_LOGIT_BF16 ? route_float((uint32_t)h << 16) : __half2float(__ushort_as_half(h));
			}
		}
	}
	__device__ float score(int rule, int e) const { return route_score(rule, at(e)); }
	template <int BYTES> static __device__ void load(const void *q, uint32_t *u)
	{
		if (BYTES == 16)
			*reinterpret_cast<uint4 *>(u) = *static_cast<const uint4 *>(q);
		else if (BYTES == 8)
			*reinterpret_cast<uint2 *>(u) = *static_cast<const uint2 *>(q);
		else if (BYTES == 4)
			*u = *static_cast<const uint32_t *>(q);
		else
			*u = *static_cast<const uint16_t *>(q);
	}
};

/* What a block that routes one token leaves for its first warp: ranking keys and scores of all experts. */
struct route_row_block {
	uint32_t key[MOXIE_ROUTE_MAX_EXPERT];
	float s[MOXIE_ROUTE_MAX_EXPERT];
	__device__ float score(int, int e) const { return s[e]; }

	/* Thread e: from its logit and selection bias. */
	template <int MODE> __device__ void put(const route_param &p, int e, float l, float bias)
	{
		if (MODE == BY_SCORE) {
			const float v = route_score(p.score, l);
			s[e] = v;
			key[e] = route_score_key(l, v, bias);
		} else {
			key[e] = route_key(l);
		}
	}
};

/* Reads one word of every line of the parameters: a first touch costs as much as a load from L2, and without this the
 * last ones would be paid one by one behind the wait for the previous kernel. */
__device__ __forceinline__ void route_touch(const route_param &p)
{
	const int *const word = reinterpret_cast<const int *>(&p);
#pragma unroll
	for (int i = 0; i < (int)(sizeof p / 4); i += 8)
		asm volatile("" ::"r"(word[i]));
}

/* Selection bias of this lane's experts, loaded once (a constant: before the grid dependency wait). */
template <int J> __device__ __forceinline__ void route_load_bias(const route_param &p, float (&bias)[J])
{
	const int e0 = (threadIdx.x & 31) * J;
#pragma unroll
	for (int j = 0; j < J; j++)
		bias[j] = p.select_bias && e0 + j < p.n_expert ? p.select_bias[e0 + j] : 0.f;
}

__device__ __forceinline__ float route_sum(float v, int n_lane)
{
	for (int o = 1; o < n_lane; o *= 2)
		v = route_add(v, __shfl_xor_sync(FULL, v, o));
	return v;
}

/* DeepSeek-V3: groups are ranked by the sum of their two best ranks; keys outside the best n_group_used become NONE. */
template <int J> __device__ __forceinline__ void route_mask_groups(const route_param &p, uint32_t (&key)[J])
{
	const int lanes = p.n_expert / p.n_group / J, lane = threadIdx.x & 31; /* lanes per group, a power of two */
	uint32_t a = 0, b = 0;                                                 /* best and second best key */
#pragma unroll
	for (int j = 0; j < J; j++) {
		b = max(b, min(a, key[j]));
		a = max(a, key[j]);
	}
	for (int o = 1; o < lanes; o *= 2) {
		uint32_t a2 = __shfl_xor_sync(FULL, a, o), b2 = __shfl_xor_sync(FULL, b, o);
		b = max(min(a, a2), max(b, b2));
		a = max(a, a2);
	}
	const uint32_t mine = route_key(route_add(route_key_value(a), route_key_value(b)));
	const int group = lane / lanes;
	int rank = 0;
	for (int o = 0; o < p.n_group; o++) {
		uint32_t other = __shfl_sync(FULL, mine, o * lanes);
		rank += other > mine || (other == mine && o < group);
	}
	if (rank >= p.n_group_used) {
#pragma unroll
		for (int j = 0; j < J; j++)
			key[j] = ROUTE_KEY_NONE;
	}
}

/* The k best (key, expert) in descending order to sel[0..k), shared memory of this warp.  key[] is used up. */
template <int J> __device__ __forceinline__ void route_select(int k, uint32_t (&key)[J], uint2 *sel)
{
	constexpr int G = J < 4 ? J : 4, N_G = J / G;
	const int lane = threadIdx.x & 31;
	const uint32_t lower = (1u << lane) - 1;
	int id[J];
#pragma unroll
	for (int j = 0; j < J; j++)
		id[j] = lane * J + j;
#pragma unroll
	for (int g = 0; g < N_G; g++)
#pragma unroll
		for (int end = G - 1; end > 0; end--)
#pragma unroll
			for (int i = g * G; i < g * G + end; i++) {
				/* Adjacent swaps on strictly greater keys only: stable. */
				const bool swap = key[i + 1] > key[i];
				const uint32_t hi = max(key[i], key[i + 1]), lo = min(key[i], key[i + 1]);
				const int a = swap ? id[i + 1] : id[i], b = swap ? id[i] : id[i + 1];
				key[i] = hi, key[i + 1] = lo, id[i] = a, id[i + 1] = b;
			}
	for (int s = 0; s < k; s++) {
		uint32_t head = key[0];
		int head_id = id[0], head_group = 0;
#pragma unroll
		for (int g = 1; g < N_G; g++)
			if (key[g * G] > head)
				head = key[g * G], head_id = id[g * G], head_group = g;
		const uint32_t top = __reduce_max_sync(FULL, head);
		const uint32_t same = __ballot_sync(FULL, head == top);
		const bool win = head == top && !(same & lower); /* the lowest lane that holds it */
		if (win)
			sel[s] = make_uint2(top, head_id);
		/* The winner's list moves up; selects, not a branch, which would cost the whole warp more than the moves. */
#pragma unroll
		for (int g = 0; g < N_G; g++) {
			const bool pop = win && g == head_group;
#pragma unroll
			for (int i = g * G; i < g * G + G; i++) {
				const bool end = i == g * G + G - 1;
				key[i] = pop ? (end ? ROUTE_KEY_NONE : key[end ? i : i + 1]) : key[i];
				if (!end)
					id[i] = pop ? id[i + 1] : id[i];
			}
		}
	}
	__syncwarp();
}

/* A token names an expert twice (hash table or given ids): the first slot takes the sum of the weights, the others
 * become empty.  The tables hold one bit per (token, expert), and w1 f(x) + w2 f(x) = (w1 + w2) f(x). */
__device__ __forceinline__ void route_merge_repeats(int k, int &id, float &w)
{
	const int lane = threadIdx.x & 31;
	const unsigned same = __match_any_sync(FULL, lane < k && id >= 0 ? id : -1 - lane);
	const bool first = (same & ((1u << lane) - 1)) == 0;
	if (!__any_sync(FULL, !first))
		return;
	const float own = w;
	for (int s = 1; s < k; s++) {
		const float other = __shfl_sync(FULL, own, s);
		if (first && s > lane && (same >> s & 1))
			w = route_add(w, other);
	}
	if (!first)
		id = -1, w = 0.f;
}

/* Ranking keys of this lane's experts. */
template <int J, int MODE> __device__ __forceinline__ void route_keys(const route_param &p, const route_row_global &row, const float (&bias)[J],
                                                                      uint32_t (&key)[J])
{
	constexpr int G = J < 4 ? J : 4;
	const int lane = threadIdx.x & 31;
	float v[J];
#pragma unroll
	for (int c = 0; c < J; c += G) {
		const int e = lane * J + c;
		if (p.n_expert % G == 0 && e + G <= p.n_expert) {
			row.template vec<G>(e, v + c);
		} else {
#pragma unroll
			for (int i = 0; i < G; i++)
				v[c + i] = e + i < p.n_expert ? row.at(e + i) : 0.f;
		}
	}
	if (MODE == BY_LOGIT) {
#pragma unroll
		for (int j = 0; j < J; j++)
			key[j] = route_rank_key(0, v[j], 0.f);
	} else if (p.score == MOXIE_SCORE_SIGMOID) {
#pragma unroll
		for (int j = 0; j < J; j++)
			key[j] = route_rank_key(1, v[j], bias[j]);
	} else {
#pragma unroll
		for (int j = 0; j < J; j++)
			key[j] = route_rank_key(2, v[j], bias[j]);
	}
	if (p.n_expert < 32 * J) {
#pragma unroll
		for (int j = 0; j < J; j++)
			key[j] = lane * J + j < p.n_expert ? key[j] : ROUTE_KEY_NONE;
	}
}

/* Selects into sel [16], scratch of this warp; lane s < n_used gets the expert of slot s, the others -1.  denominator: of
 * the softmax over all experts, where it is wanted. */
template <int J, int MODE>
__device__ __forceinline__ int route_choose(const route_param &p, uint32_t (&key)[J], uint2 *sel, float &denominator)
{
	const int lane = threadIdx.x & 31;
	denominator = 0.f;
	if (MODE == BY_LOGIT && !p.renormalise) {
		uint32_t top = 0;
#pragma unroll
		for (int j = 0; j < J; j++)
			top = max(top, key[j]);
		const float l_max = route_key_value(__reduce_max_sync(FULL, top));
#pragma unroll
		for (int j = 0; j < J; j++) {
			const float l = route_key_value(key[j]), e = route_exp(route_add(l, -l_max));
			denominator = route_add(denominator, key[j] == ROUTE_KEY_NONE ? 0.f : l == l_max ? 1.f : e);
		}
		denominator = route_sum(denominator, 32);
	}
	if (p.n_group > 1)
		route_mask_groups<J>(p, key);
	route_select<J>(p.n_used, key, sel);
	return lane < p.n_used ? (int)sel[lane].y : -1;
}

/* Weight of slot `lane`, after route_choose put id (-1: none) and sel there. */
template <int MODE, class Row>
__device__ __forceinline__ float route_weigh(const route_param &p, const Row &row, const uint2 *sel, float denominator, int id)
{
	const int lane = threadIdx.x & 31, k = p.n_used;
	float w, scale = p.scale;
	if (p.expert_scale && id >= 0) /* loaded before it is needed */
		scale = p.expert_scale[id];
	if (MODE == BY_LOGIT) {
		/* l == max covers +inf and all -inf: they share the weight. */
		const float l = route_key_value(sel[lane < k ? lane : 0].x), l_max = route_key_value(sel[0].x);
		const float e = route_exp(route_add(l, -l_max));
		w = lane >= k ? 0.f : l == l_max ? 1.f : e;
		w = route_div(w, p.renormalise ? route_sum(w, k) : denominator);
	} else {
		w = id >= 0 ? row.score(p.score, id) : 0.f;
		if (p.renormalise)
			w = route_div(w, route_add(route_sum(w, k), 1e-20f));
	}
	w = route_mul(w, p.scale);
	return p.expert_scale ? route_mul(w, scale) : w;
}

/* Number of a global id on this rank, or -1. */
__device__ __forceinline__ int route_local_id(const route_param &p, int id)
{
	const int local = id - p.expert_first;
	return id >= 0 && local >= 0 && local < p.n_expert_here ? local : -1;
}

/* Rows before the padding: every kernel reads it right after its wait, though it is needed late, for the line is not in L2 any more. */
__device__ __forceinline__ int route_n_real(const route_param &p)
{
	int n = p.n_tok;
	if (p.n_tok_real)
		asm volatile("ld.global.cg.s32 %0, [%1];" : "=r"(n) : "l"(p.n_tok_real));
	return n;
}

/* BY_ID: given ids, or those of the hash table with scores of the logits. */
__device__ __forceinline__ void route_by_id(const route_param &p, int t, const route_row_global &row, int &id, float &w)
{
	const int lane = threadIdx.x & 31, k = p.n_used;
	if (p.score == MOXIE_SCORE_GIVEN) {
		if (lane < k) {
			id = p.topk_id_in[(size_t)t * k + lane];
			w = p.topk_w_in ? p.topk_w_in[(size_t)t * k + lane] : 0.f;
		}
		if (id < 0 || id >= p.n_expert)
			id = -1;
	} else {
		const int v = p.tok_id[t];
		if (v < 0 || v >= p.n_vocab)
			return;
		if (lane < k)
			id = p.hash_table[(size_t)v * k + lane];
		if (id < 0 || id >= p.n_expert)
			id = -1;
		w = route_weigh<BY_ID>(p, row, nullptr, 0.f, id);
	}
	route_merge_repeats(k, id, w);
}

/* First half of routing token t by one warp, whose logits are row (unread for GIVEN): slot s is lane s's; id is the global
 * expert or -1, and, BY_ID only, w the weight.  The second half is route_weigh. */
template <int J, int MODE>
__device__ __forceinline__ void route_begin(const route_param &p, int n_real, int t, const route_row_global &row, const float (&bias)[J], uint2 *sel, int &id,
                                            float &w, float &denominator)
{
	id = -1, w = denominator = 0.f;
	if (t >= n_real)
		return;
	if (MODE == BY_ID) {
		route_by_id(p, t, row, id, w);
	} else {
		uint32_t key[J];
		route_keys<J, MODE>(p, row, bias, key);
		id = route_choose<J, MODE>(p, key, sel, denominator);
	}
}

/* The same for the first warp of a block, from what all threads put into row (synced). */
template <int J, int MODE>
__device__ __forceinline__ void route_begin_block(const route_param &p, int n_real, int t, const route_row_block &row, uint2 *sel, int &id, float &denominator)
{
	id = -1, denominator = 0.f;
	if (t >= n_real)
		return;
	uint32_t key[J];
#pragma unroll
	for (int j = 0; j < J; j++) {
		const int e = (threadIdx.x & 31) * J + j;
		key[j] = e < p.n_expert ? row.key[e] : ROUTE_KEY_NONE;
	}
	id = route_choose<J, MODE>(p, key, sel, denominator);
}

/* Weight of slot `lane`: 0 for a padding row, whose slots are all empty. */
template <int MODE, class Row>
__device__ __forceinline__ float route_end(const route_param &p, const Row &row, const uint2 *sel, float denominator, int id)
{
	return __any_sync(FULL, id >= 0) ? route_weigh<MODE>(p, row, sel, denominator, id) : 0.f;
}
