/* sample.cuh - the device side of sampling, built twice: for clusters that keep a row in shared memory (sample.cu, SAMPLE_CLUSTER 1) and
 * for one CTA a row, which keeps it in scratch (sample_portable.cu, SAMPLE_CLUSTER 0; nothing newer than sm_80).
 *
 * sample.cu has the formulas and the map.
 */
#ifndef MOXIE_CUDA_SAMPLE_CUH
#define MOXIE_CUDA_SAMPLE_CUH

#include <cuda_runtime.h>
#include <math.h>

#include "sample_select.cuh"

namespace {

/* ---- the row ---- */

/* Reads this CTA's part of a row; keeps it in shared memory if asked. */
template <bool KEEP> __device__ __forceinline__ mine load_row(place &at, const float *row, int id0)
{
	mine m = { -INFINITY, 0x7fffffff, 0xffffffffu };
	row += id0;
	const bool wide = ((uintptr_t)row & 15) == 0;
	const int n4 = wide ? at.n / 4 : 0;
#pragma unroll 4
	for (int i = threadIdx.x; i < n4; i += N_THREAD) {
		float4 v = __ldg((const float4 *)row + i);
		v = make_float4(clean(v.x), clean(v.y), clean(v.z), clean(v.w));
		if (KEEP)
			((float4 *)part())[i] = v;
		meet<KEEP>(m, v.x, id0 + 4 * i);
		meet<KEEP>(m, v.y, id0 + 4 * i + 1);
		meet<KEEP>(m, v.z, id0 + 4 * i + 2);
		meet<KEEP>(m, v.w, id0 + 4 * i + 3);
	}
	for (int i = 4 * n4 + threadIdx.x; i < at.n; i += N_THREAD) {
		const float v = clean(__ldg(row + i));
		if (KEEP)
			part()[i] = v;
		meet<KEEP>(m, v, id0 + i);
	}
	return m;
}

__device__ __forceinline__ bool penalised(const struct sample_row &r)
{
	return r.hist >= 0 && ((r.repetition_penalty > 0 && r.repetition_penalty != 1) || r.presence_penalty != 0 || r.frequency_penalty != 0);
}

/* Only after a barrier since load_row. */
__device__ __forceinline__ void add_bias(place &at, const struct sample_bias *list, int n, int id0)
{
	for (int i = threadIdx.x; i < n; i += N_THREAD) {
		const int id = list[i].id - id0;
		if (id >= 0 && id < at.n)
			part()[id] = __fadd_rn(part()[id], list[i].bias);
	}
	__syncthreads();
}

/* In the CPU's order, each step rounded; and the best anew. */
__device__ __forceinline__ mine penalise(place &at, const struct sample_row &r, const uint32_t *hist, int id0)
{
	mine m = { -INFINITY, 0x7fffffff, 0xffffffffu };
	const bool none = !penalised(r);
	const float rep = r.repetition_penalty > 0 ? r.repetition_penalty : 1;
	for (int i = threadIdx.x; i < at.n; i += N_THREAD) {
		const uint32_t h = none ? 0 : hist[id0 + i], n = h & ~SAMPLE_SEEN;
		float l = part()[i];
		if (h & SAMPLE_SEEN && rep != 1)
			l = l > 0 ? __fdiv_rn(l, rep) : __fmul_rn(l, rep);
		if (n)
			l = __fsub_rn(l, __fadd_rn(r.presence_penalty, __fmul_rn(r.frequency_penalty, (float)min(n, 65535u))));
		part()[i] = l = clean(l);
		meet<true>(m, l, id0 + i);
	}
	return m;
}

/* The n_top most likely tokens of the row as it was given, and their log-probabilities; CTA 0 writes. */
__device__ __forceinline__ void put_top(place &at, const param &p, int row, const scale &sc, const sums &s, int n_top,
                                        int id0, const best &b, double ln_all)
{
	const int n = min(n_top, p.a.n_vocab);
	const pick last = select(at, sc, s.mass, s.n, (u64)n - 1, true);
	/* Every CTA adds its own to CTA 0's list, in any order: at most n - 1 above the last logit, and the ties that fill it. */
	auto add = [&](int i) { push_top((u64)key_of(part()[i]) << 32 | (uint32_t)~(id0 + i)); };
	for (int i = threadIdx.x; i < at.n; i += N_THREAD)
		if (key_of(part()[i]) > last.key)
			add(i);
	visit_ties(at, last.key, 0, (uint32_t)n - last.n, add);
	cluster_sync();
	if (at.rank || at.warp)
		return;
	int32_t *id = p.a.top_id + (size_t)row * SAMPLE_TOP_MAX;
	float *lp = p.a.top_logprob + (size_t)row * SAMPLE_TOP_MAX;
	if (at.lane < n) {
		const u64 mine = sh().top[at.lane];
		int place = 0;
		for (int i = 0; i < n; i++)
			place += sh().top[i] > mine;
		const float l = value_of((uint32_t)(mine >> 32));
		id[place] = (int)~(uint32_t)mine;
		lp[place] = !sc.even ? (float)((double)l - (double)b.v - ln_all) : id[place] == b.id ? 0 : -INFINITY;
	} else if (at.lane < n_top) {
		id[at.lane] = -1;
		lp[at.lane] = -INFINITY;
	}
}

/* What the one thread that holds the pick does. */
__device__ __forceinline__ void put_pick(const param &p, int row, const struct sample_row &r, int id, bool finite, double ln_all, float top)
{
	p.a.id[row] = id;
	if (p.a.logprob && r.n_top >= 0) {
		const float l = clean(p.a.logits[(size_t)row * p.a.n_vocab + id]);
		p.a.logprob[row] = finite ? (float)((double)l - (double)top - ln_all) : 0;
	}
	if (r.append) {
		if (p.a.hist && r.hist >= 0) {
			uint32_t *h = p.a.hist + (size_t)r.hist * p.a.n_vocab + id;
			*h = (*h + ((*h & ~SAMPLE_SEEN) < 65535)) | SAMPLE_SEEN;
		}
		p.a.row[row].n = r.n + 1;
	}
}

__device__ __forceinline__ place place_of(const param &p)
{
	place at;
	at.n_cta = p.n_cta;
	at.rank = blockIdx.x % p.n_cta;
	at.n = max(0, min(p.slice, p.a.n_vocab - at.rank * p.slice));
	at.chunk = p.chunk;
	at.warp = threadIdx.x / 32;
	at.lane = threadIdx.x % 32;
	at.turn = 0;
	return at;
}

__global__ void __launch_bounds__(N_THREAD, SAMPLE_CLUSTER ? 4 : 2) argmax_kernel(const __grid_constant__ param p)
{
	place at = place_of(p);
	const int row = blockIdx.x / p.n_cta, id0 = at.rank * p.slice;
	pdl_launch();
	pdl_wait();
	const mine m = load_row<false>(at, p.a.logits + (size_t)row * p.a.n_vocab, id0);
	const best b = join_best(at, m.v, m.id, m.low);
	if (at.rank == 0 && threadIdx.x == 0)
		p.a.id[row] = b.id;
	cluster_sync(); /* nobody leaves while its words are read */
}

__global__ void __launch_bounds__(N_THREAD, 2) sample_kernel(const __grid_constant__ param p)
{
	place at = place_of(p);
	const int row = blockIdx.x / p.n_cta, id0 = at.rank * p.slice;
	pdl_wait();
	if (threadIdx.x == 0) {
		sh().row = p.a.row[row];
		sh().n_top = 0;
		for (uint32_t &n : sh().n_list)
			n = 0;
		sh().part = p.scratch + (size_t)row * p.slice;
	}
#if !SAMPLE_CLUSTER
	__syncthreads();
#endif
	mine m = load_row<true>(at, p.a.logits + (size_t)row * p.a.n_vocab, id0);
	best b = join_best(at, m.v, m.id, m.low); /* its barriers show the row to all */
	const struct sample_row r = sh().row;
	const bool finite = isfinite(b.v);
	const float raw_top = b.v;
	double ln_all = 0;
	if (r.n_top >= 0 && p.a.logprob) {
		const scale sc = scale_of(b, 1);
		const sums sum = r.n_top == 0 ? weigh(at, sc, 0) : weigh_buckets(at, sc, 0);
		ln_all = finite ? log((double)sum.all / ONE) : 0;
		if (r.n_top > 0 && p.a.top_id && p.a.top_logprob)
			put_top(at, p, row, sc, sum, min(r.n_top, SAMPLE_TOP_MAX), id0, b, ln_all);
	}
	if (p.a.hist && r.hist >= 0 && (r.n_bias > 0 || penalised(r))) {
		if (r.n_bias > 0)
			add_bias(at, p.a.bias + (size_t)r.hist * SAMPLE_BIAS_MAX, min(r.n_bias, SAMPLE_BIAS_MAX), id0);
		m = penalise(at, r, p.a.hist + (size_t)r.hist * p.a.n_vocab, id0);
		b = join_best(at, m.v, m.id, m.low);
	}
	pdl_launch();

	auto take = [&](int id) { put_pick(p, row, r, id, finite, ln_all, raw_top); };
	const bool sorted = r.top_k > 0 || (r.top_p > 0 && r.top_p < 1);
	if (!(r.temperature > 0) || !isfinite(b.v)) {
		if (at.rank == 0 && threadIdx.x == 0)
			put_pick(p, row, r, b.id, finite, ln_all, raw_top);
	} else {
		const double min_p = r.min_p, u = uniform(r.seed, r.n);
		const scale sc = scale_of(b, r.temperature);
		if (sorted)
			draw_sorted(at, sc, r, m.v, u, p.a.n_vocab, id0, take);
		else {
			const sums sum = weigh(at, sc, min_p);
			draw_by_id(at, sc, min_p, sum, at_most(u * (double)sum.all, sum.all), [&](int i) { take(id0 + i); });
		}
	}
	cluster_sync();
}

} /* namespace */

#endif
