/* sample.cuh - the device side of sampling, built twice: for clusters that keep a row in shared memory (sample.cu, SAMPLE_CLUSTER 1) and
 * for one CTA a row, which keeps it in scratch (sample_portable.cu, SAMPLE_CLUSTER 0; nothing newer than sm_80).
 *
 * sample.cu has the formulas and the map.
 */
#ifndef MOXIE_CUDA_SAMPLE_CUH
#define MOXIE_CUDA_SAMPLE_CUH

#include <cuda_runtime.h>
#include <math.h>

#include "device/cluster.cuh"
#include "device/ptx.cuh"
#include "sample.h"

namespace {

typedef unsigned long long u64;

constexpr int N_THREAD = 512, N_WARP = N_THREAD / 32, N_BUCKET = N_THREAD; /* a thread owns a bucket */
constexpr int BUCKET_BITS = 9;
static_assert(N_BUCKET == 1 << BUCKET_BITS, "");
constexpr int CLUSTER_MAX = 16;
constexpr float TAIL = 32;         /* weights below e^-32 are less than half of 2^-44: zero */
constexpr double ONE = 0x1p44;     /* the best token's weight; exp44 has it built in */

struct found {
	int bucket;
	u64 mass; /* before that bucket */
	uint32_t n;
};

struct alignas(16) shared {
	uint32_t limb[3][N_BUCKET], n[N_BUCKET]; /* this CTA's histogram: weights by their bits 0-15, 16-31, the rest; ones */
	u64 post[2][2];                                   /* what the other CTAs read, two sets in turn */
	u64 warp_mass[N_WARP], scan_mass[N_WARP];
	uint32_t warp_n[N_WARP], scan_n[N_WARP];
	struct found found;
	struct sample_row row;
	float *part; /* without a cluster: the row, in scratch */
	u64 top[SAMPLE_TOP_MAX]; /* CTA 0: key << 32 | ~id of the most likely tokens */
	uint32_t n_top;
};

struct param {
	struct sample_args a;
	int slice, chunk; /* ids of a CTA (a multiple of 4), of a warp (of 32) */
	int n_cta;
	float *scratch;   /* [n_row, slice], without clusters */
};

/* Where we are. */
struct place {
	int rank, n_cta, n, chunk; /* n: ids of this CTA */
	int warp, lane, turn;
};

/* Shared memory: struct shared, then this CTA's logits (SAMPLE_CLUSTER) or their place in scratch.  Named here and not passed, so that
 * every access is known to be shared. */
__device__ __forceinline__ struct shared &sh()
{
	extern __shared__ uint4 memory[];
	return *reinterpret_cast<struct shared *>(memory);
}
__device__ __forceinline__ float *part()
{
#if SAMPLE_CLUSTER
	extern __shared__ uint4 memory[];
	return reinterpret_cast<float *>(memory + sizeof(struct shared) / 16);
#else
	return sh().part;
#endif
}

/* Order of floats as that of unsigned ints, and back.  -0 was made +0 before. */
__device__ __forceinline__ uint32_t key_of(float v)
{
	const uint32_t b = __float_as_uint(v);
	return b ^ ((uint32_t)((int)b >> 31) | 0x80000000u);
}
__device__ __forceinline__ float value_of(uint32_t key)
{
	return __uint_as_float(key & 0x80000000u ? key ^ 0x80000000u : ~key);
}
/* NaN is -inf, -0 is +0. */
__device__ __forceinline__ float clean(float v) { return fmaxf(v, -INFINITY) + 0.f; }

__device__ __forceinline__ u64 warp_sum(u64 v)
{
#pragma unroll
	for (int d = 16; d; d /= 2)
		v += __shfl_xor_sync(~0u, v, d);
	return v;
}
__device__ __forceinline__ u64 warp_max(u64 v)
{
#pragma unroll
	for (int d = 16; d; d /= 2) {
		const u64 o = __shfl_xor_sync(~0u, v, d);
		v = o > v ? o : v;
	}
	return v;
}

/* Sum of what the warps left, of those before warp `end`. */
__device__ __forceinline__ u64 sum_warps(const u64 *v, int lane, int end) { return warp_sum(lane < end ? v[lane] : 0); }

/* This warp's logits in order of ids, 4 x 32 at a time: f(first, v), v[j] being that of first + 32 j + lane; -inf beyond the end, and
 * n says how many there are. */
template <typename F> __device__ __forceinline__ void each(const place &at, F f)
{
	const int end = min((at.warp + 1) * at.chunk, at.n), lane = at.lane;
	const float *l = part();
	for (int i = at.warp * at.chunk; i < end; i += 128) {
		float v[4];
#pragma unroll
		for (int j = 0; j < 4; j++)
			v[j] = i + 32 * j + lane < end ? l[i + 32 * j + lane] : -INFINITY;
		f(i, v, end);
	}
}

/* ---- between CTAs ---- */

#if SAMPLE_CLUSTER
__device__ __forceinline__ u64 remote64(const void *p, int cta)
{
	u64 v;
	asm volatile("ld.shared::cluster.u64 %0, [%1];" : "=l"(v) : "r"(cluster_address(p, cta)));
	return v;
}
__device__ __forceinline__ uint32_t remote32(const void *p, int cta)
{
	uint32_t v;
	asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(v) : "r"(cluster_address(p, cta)));
	return v;
}
__device__ __forceinline__ void cluster_sync()
{
	__syncwarp();
	cluster_arrive();
	cluster_wait();
}
/* Adds v to CTA 0's list of the most likely. */
__device__ __forceinline__ void push_top(u64 v)
{
	const uint32_t list = cluster_address(sh().top, 0), count = cluster_address(&sh().n_top, 0);
	uint32_t slot;
	asm volatile("atom.relaxed.cluster.shared::cluster.add.u32 %0, [%1], 1;" : "=r"(slot) : "r"(count) : "memory");
	asm volatile("st.shared::cluster.u64 [%0], %1;" ::"r"(list + 8 * slot), "l"(v) : "memory");
}
#else /* a row has one CTA */
__device__ __forceinline__ u64 remote64(const void *p, int) { return *static_cast<const volatile u64 *>(p); }
__device__ __forceinline__ uint32_t remote32(const void *p, int) { return *static_cast<const volatile uint32_t *>(p); }
__device__ __forceinline__ void cluster_sync() { __syncthreads(); }
__device__ __forceinline__ void push_top(u64 v) { sh().top[atomicAdd(&sh().n_top, 1)] = v; }
#endif

/* Each CTA gives two words (thread 0's); a lane gets those of CTA lane, or zeros.  Two sets suffice: whoever writes a set again
 * has passed a barrier that every reader of it came to afterwards. */
__device__ __forceinline__ void exchange(place &at, u64 a, u64 b, u64 *ra, u64 *rb)
{
	u64 *post = sh().post[at.turn ^= 1];
	if (threadIdx.x == 0) {
		post[0] = a;
		post[1] = b;
	}
	cluster_sync();
	*ra = at.lane < at.n_cta ? remote64(post, at.lane) : 0;
	*rb = at.lane < at.n_cta ? remote64(post + 1, at.lane) : 0;
}

/* ---- the best ---- */

struct best {
	float v, low; /* the largest logit, the least above -inf */
	int id;
};

/* From each thread's own best (id: INT_MAX where it has none) and the key of its least; ties: lowest id. */
__device__ __forceinline__ best join_best(place &at, float v, int id, uint32_t low)
{
	u64 k = warp_max((u64)key_of(v) << 32 | (uint32_t)~id), l = __reduce_max_sync(~0u, ~low);
	if (at.lane == 0) {
		sh().scan_mass[at.warp] = k;
		sh().warp_mass[at.warp] = l;
	}
	__syncthreads();
	k = warp_max(sh().scan_mass[at.lane % N_WARP]);
	l = warp_max(sh().warp_mass[at.lane % N_WARP]);
	u64 rk, rl;
	exchange(at, k, l, &rk, &rl);
	k = warp_max(rk);
	l = warp_max(rl);
	best b = { value_of((uint32_t)(k >> 32)), value_of(~(uint32_t)l), (int)~(uint32_t)k };
	if (b.v == -INFINITY)
		b.id = 0;
	return b;
}

struct mine { /* one thread's part of join_best */
	float v;
	int id;
	uint32_t low;
};

template <bool LOW> __device__ __forceinline__ void meet(mine &m, float v, int id)
{
	if (v > m.v) {
		m.v = v;
		m.id = id;
	}
	if (LOW && v > -INFINITY)
		m.low = min(m.low, key_of(v));
}

/* ---- weights and histograms ---- */

struct scale {
	float top, per_bucket; /* buckets a unit of logit */
	double inv_t;
	float cut;             /* logits below weigh nothing */
	bool even;             /* the best is not finite: one bucket, no weights */
};

__device__ __forceinline__ scale scale_of(const best &b, float temperature)
{
	scale s;
	s.top = b.v;
	s.even = !isfinite(b.v);
	s.inv_t = 1 / (double)temperature;
	s.cut = b.v - TAIL * temperature * 1.01f; /* odds() is exact about the edge */
	const float span = fminf(b.v - b.low, TAIL * temperature);
	s.per_bucket = span > 0 ? (N_BUCKET - 1) / span : 0;
	return s;
}

__device__ __forceinline__ int bucket_of(const scale &s, float l)
{
	return s.even ? 0 : min(N_BUCKET - 1, (int)((s.top - l) * s.per_bucket)); /* NaN is 0, and so is 0 * inf */
}

/* exp(x) * 2^44 for -32 <= x <= 0, error 1e-14 of it: 2^n times a polynomial in the rest, n by the rounding of 1.5 * 2^52. */
__device__ __forceinline__ double exp44(double x)
{
	const double magic = 0x1.8p52, t = fma(x, 0x1.71547652b82fep0, magic), n = t - magic;
	const double r = fma(n, -0x1.abc9e3b39803fp-56, fma(n, -0x1.62e42fefa39efp-1, x));
	double p = 0x1.ae64567f544e4p-26; /* 1 / 11! */
	p = fma(p, r, 0x1.27e4fb7789f5cp-22);
	p = fma(p, r, 0x1.71de3a556c734p-19);
	p = fma(p, r, 0x1.a01a01a01a01ap-16);
	p = fma(p, r, 0x1.a01a01a01a01ap-13);
	p = fma(p, r, 0x1.6c16c16c16c17p-10);
	p = fma(p, r, 0x1.1111111111111p-7);
	p = fma(p, r, 0x1.5555555555555p-5);
	p = fma(p, r, 0x1.5555555555555p-3);
	p = fma(p, r, 0.5);
	p = fma(p, r, 1.);
	p = fma(p, r, 1.);
	return __hiloint2double(__double2hiint(p) + ((__double2loint(t) + 44) << 20), __double2loint(p));
}

/* In units of 2^-44 of the best token's, not yet rounded. */
__device__ __forceinline__ double odds(const scale &s, float l)
{
	const double x = ((double)l - (double)s.top) * s.inv_t;
	return l < s.cut || !(x >= -TAIL) ? 0 : exp44(x); /* even: x is NaN */
}

/* Rounded: the low bits of v + 2^52, v being far below. */
__device__ __forceinline__ u64 weight_of(double odds) { return (u64)__double_as_longlong(odds + 0x1p52) & 0xfffffffffffffull; }

/* One token into bucket b, or b < 0: none.  The whole warp calls; a warp that agrees on the bucket adds once.  A limb holds the sum of
 * 2^16 tokens; nothing waits for what an addition returns. */
__device__ __forceinline__ void put(int lane, int b, u64 mass)
{
	int same;
	__match_all_sync(~0u, b, &same);
	if (same && b >= 0)
		mass = warp_sum(mass);
	if (b < 0 || (same && lane))
		return;
	atomicAdd(&sh().n[b], same ? 32 : 1);
	const uint32_t low = (uint32_t)mass & 0xffff, mid = (uint32_t)mass >> 16, high = (uint32_t)(mass >> 32);
	if (low)
		atomicAdd(&sh().limb[0][b], low);
	if (mid)
		atomicAdd(&sh().limb[1][b], mid);
	if (high)
		atomicAdd(&sh().limb[2][b], high);
}

__device__ __forceinline__ void clear(place &at)
{
	sh().limb[0][threadIdx.x] = sh().limb[1][threadIdx.x] = sh().limb[2][threadIdx.x] = sh().n[threadIdx.x] = 0;
	__syncthreads();
}

/* The cluster's sums of bucket threadIdx.x.  On return every CTA may clear its own again. */
__device__ __forceinline__ void collect(place &at, u64 *mass, uint32_t *n)
{
	const int i = threadIdx.x;
	cluster_sync();
	u64 m = 0;
	uint32_t c = 0;
#pragma unroll
	for (int j = 0; j < CLUSTER_MAX; j++)
		if (j < at.n_cta) {
			const int r = (at.rank + j) & (at.n_cta - 1); /* not all at one CTA at once */
			m += (u64)remote32(&sh().limb[2][i], r) << 32;
			m += (u64)remote32(&sh().limb[1][i], r) << 16;
			m += remote32(&sh().limb[0][i], r);
			c += remote32(&sh().n[i], r);
		}
	*mass = m;
	*n = c;
	cluster_sync();
}

/* The bucket at which the running sum first exceeds t; all threads give their bucket's and get the answer. */
__device__ __forceinline__ found find(place &at, u64 mass, uint32_t n, u64 t, bool by_count)
{
	u64 m = mass;
	uint32_t c = n;
#pragma unroll
	for (int d = 1; d < 32; d *= 2) {
		const u64 mu = __shfl_up_sync(~0u, m, d);
		const uint32_t cu = __shfl_up_sync(~0u, c, d);
		m += at.lane >= d ? mu : 0;
		c += at.lane >= d ? cu : 0;
	}
	if (at.lane == 31) {
		sh().scan_mass[at.warp] = m;
		sh().scan_n[at.warp] = c;
	}
	__syncthreads();
	m += sum_warps(sh().scan_mass, at.lane, at.warp);
	c += __reduce_add_sync(~0u, at.lane < at.warp ? sh().scan_n[at.lane] : 0);
	const u64 to = by_count ? c : m, from = by_count ? c - n : m - mass;
	if (from <= t && t < to)
		sh().found = found{ (int)threadIdx.x, m - mass, c - n };
	__syncthreads();
	return sh().found;
}

/* A token by its place in the order of falling probability: its logit, what is before all tokens of that logit, and the weight of
 * each of them. */
struct pick {
	uint32_t key;
	u64 mass, weight;
	uint32_t n;
};

/* Largest key whose bucket is at least b: bucket_of falls as the key grows.  Each lane tries one of 32 places, seven times. */
__device__ __forceinline__ uint32_t bucket_top(const place &at, const scale &s, int b)
{
	uint32_t k = 0;
	for (int bit = 27; bit >= -3; bit -= 5) {
		const int shift = max(bit, 0), step = at.lane & (bit < 0 ? (1 << (5 + bit)) - 1 : 31);
		const uint32_t mine = k + ((uint32_t)step << shift);
		const float v = value_of(mine);
		const bool below = isnan(v) ? mine < 0x80000000u : bucket_of(s, v) >= b; /* keys of NaN: below -inf, above inf */
		k += (uint32_t)__reduce_max_sync(~0u, below ? step : 0) << shift;
	}
	return k;
}

/* mass, n: the totals of bucket threadIdx.x.  t must be less than their sum. */
__device__ __noinline__ pick select(place &at, const scale sc, u64 mass, uint32_t n, u64 t, bool by_count)
{
	found f = find(at, mass, n, t, by_count);
	uint32_t top = bucket_top(at, sc, f.bucket), low = f.bucket == N_BUCKET - 1 || sc.even ? 0 : bucket_top(at, sc, f.bucket + 1) + 1;
	pick p = { 0, f.mass, 0, f.n };
	for (;;) { /* keys low .. top, `before` of them already counted */
		const uint32_t range = top - low;
		const int shift = max(0, 32 - BUCKET_BITS - __clz(range));
		clear(at);
		each(at, [&](int first, const float *v, int end) {
			bool in[4], any = false;
#pragma unroll
			for (int j = 0; j < 4; j++) {
				const uint32_t k = key_of(v[j]);
				in[j] = k >= low && k <= top && first + 32 * j + at.lane < end;
				any |= in[j];
			}
			if (!__any_sync(~0u, any))
				return;
			for (int j = 0; j < 4; j++)
				put(at.lane, in[j] ? (int)((top - key_of(v[j])) >> shift) : -1, in[j] ? weight_of(odds(sc, v[j])) : 0);
		});
		collect(at, &mass, &n);
		f = find(at, mass, n, t - (by_count ? p.n : p.mass), by_count);
		p.mass += f.mass;
		p.n += f.n;
		top -= (uint32_t)f.bucket << shift;
		if (shift == 0)
			break;
		low = max(low, top - ((1u << shift) - 1));
	}
	p.key = top;
	p.weight = weight_of(odds(sc, value_of(top)));
	return p;
}

/* Calls take(id) for those of the cluster's tokens of this key whose place among them, by id, is in [from, to). */
template <typename F> __device__ __forceinline__ void visit_ties(place &at, uint32_t key, uint32_t from, uint32_t to, F take)
{
	uint32_t n = 0;
	for (int i = at.warp * at.chunk; i < (at.warp + 1) * at.chunk; i += 32)
		n += __popc(__ballot_sync(~0u, i + at.lane < at.n && key_of(part()[i + at.lane]) == key));
	if (at.lane == 0)
		sh().warp_n[at.warp] = n;
	__syncthreads();
	uint32_t all = __reduce_add_sync(~0u, at.lane < N_WARP ? sh().warp_n[at.lane] : 0);
	uint32_t before = __reduce_add_sync(~0u, at.lane < at.warp ? sh().warp_n[at.lane] : 0);
	u64 theirs, unused;
	exchange(at, all, 0, &theirs, &unused);
	before += __reduce_add_sync(~0u, at.lane < at.rank ? (uint32_t)theirs : 0);
	if (n == 0 || before >= to)
		return;
	for (int i = at.warp * at.chunk; i < (at.warp + 1) * at.chunk && before < to; i += 32) {
		const bool tie = i + at.lane < at.n && key_of(part()[i + at.lane]) == key;
		const uint32_t mask = __ballot_sync(~0u, tie), place = before + __popc(mask & ((1u << at.lane) - 1));
		if (tie && place >= from && place < to)
			take(i + at.lane);
		before += __popc(mask);
	}
}

/* Sums of one pass over all weights: the cluster's, and those of the CTAs before ours. */
struct sums {
	u64 all, before, likely; /* likely: of tokens at least min_p times the best */
	u64 mass;                /* of bucket threadIdx.x, where histograms are wanted */
	uint32_t n;
};

/* BY_ID: tokens below min_p weigh nothing, and warp_mass is left for draw_by_id.  Otherwise: the histogram. */
template <bool BY_ID> __device__ __noinline__ sums weigh(place &at, const scale sc, double min_p)
{
	sums r = {};
	u64 sum = 0, likely = 0;
	if (!BY_ID)
		clear(at);
	each(at, [&](int first, const float *v, int end) {
		u64 w[4];
#pragma unroll
		for (int j = 0; j < 4; j++) {
			const double o = odds(sc, v[j]);
			w[j] = weight_of(o);
			sum += w[j];
			likely += o >= min_p * ONE ? w[j] : 0;
		}
		if (!BY_ID)
#pragma unroll
			for (int j = 0; j < 4; j++)
				put(at.lane, first + 32 * j + at.lane < end ? bucket_of(sc, v[j]) : -1, w[j]);
	});
	sum = warp_sum(BY_ID ? likely : sum);
	likely = warp_sum(likely);
	if (at.lane == 0) {
		sh().warp_mass[at.warp] = sum;
		sh().scan_mass[at.warp] = likely;
	}
	__syncthreads();
	sum = sum_warps(sh().warp_mass, at.lane, N_WARP);
	likely = sum_warps(sh().scan_mass, at.lane, N_WARP);
	u64 all, all_likely;
	exchange(at, sum, likely, &all, &all_likely);
	r.before = warp_sum(at.lane < at.rank ? all : 0);
	r.all = warp_sum(all);
	r.likely = warp_sum(all_likely);
	if (!BY_ID)
		collect(at, &r.mass, &r.n);
	return r;
}

__device__ __forceinline__ u64 at_most(double v, u64 n) /* floor(v), and below n */
{
	const u64 t = __double2ull_rd(v);
	return t < n ? t : n - 1;
}

/* Calls take(id) for the one token, in order of ids, at which the sum first exceeds t. */
template <typename F> __device__ __forceinline__ void draw_by_id(place &at, const scale &sc, double min_p, const sums &s, u64 t, F take)
{
	u64 before = s.before + sum_warps(sh().warp_mass, at.lane, at.warp);
	if (t < before || t >= before + sh().warp_mass[at.warp])
		return;
	for (int i = at.warp * at.chunk; i < (at.warp + 1) * at.chunk; i += 32) {
		const double o = i + at.lane < at.n ? odds(sc, part()[i + at.lane]) : 0;
		const u64 w = o >= min_p * ONE ? weight_of(o) : 0;
		u64 m = w;
#pragma unroll
		for (int d = 1; d < 32; d *= 2) {
			const u64 up = __shfl_up_sync(~0u, m, d);
			m += at.lane >= d ? up : 0;
		}
		if (before + m - w <= t && t < before + m)
			take(i + at.lane);
		before += __shfl_sync(~0u, m, 31);
	}
}

/* Uniform in [0, 1): as src/engine/sampler.c. */
__device__ double uniform(u64 seed, u64 pos)
{
	u64 z = seed * 0x9e3779b97f4a7c15ull + (pos + 1) * 0xd1342543de82ef95ull;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

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
		const sums sum = r.n_top == 0 ? weigh<true>(at, sc, 0) : weigh<false>(at, sc, 0);
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

	auto take = [&](int i) { put_pick(p, row, r, id0 + i, finite, ln_all, raw_top); };
	const bool sorted = r.top_k > 0 || (r.top_p > 0 && r.top_p < 1);
	if (!(r.temperature > 0) || !isfinite(b.v)) {
		if (at.rank == 0 && threadIdx.x == 0)
			put_pick(p, row, r, b.id, finite, ln_all, raw_top);
	} else {
		const double min_p = r.min_p, u = uniform(r.seed, r.n);
		const scale sc = scale_of(b, r.temperature);
		const sums sum = sorted ? weigh<false>(at, sc, min_p) : weigh<true>(at, sc, min_p);
		if (!sorted)
			draw_by_id(at, sc, min_p, sum, at_most(u * (double)sum.all, sum.all), take);
		else {
			u64 kept = sum.all;
			if (r.top_k > 0 && r.top_k < p.a.n_vocab) {
				const pick k = select(at, sc, sum.mass, sum.n, (u64)r.top_k - 1, true);
				kept = k.mass + ((u64)r.top_k - k.n) * k.weight;
			}
			if (r.top_p > 0 && r.top_p < 1) {
				const u64 need = __double2ull_ru((double)r.top_p * (double)kept);
				const pick k = select(at, sc, sum.mass, sum.n, min(max(need, 1ull), kept) - 1, false);
				kept = k.mass + ((min(max(need, 1ull), kept) - 1 - k.mass) / k.weight + 1) * k.weight;
			}
			kept = min(kept, sum.likely);
			const u64 t = at_most(u * (double)kept, kept);
			const pick k = select(at, sc, sum.mass, sum.n, t, false);
			const uint32_t tie = (uint32_t)((t - k.mass) / k.weight);
			visit_ties(at, k.key, tie, tie + 1, take);
		}
	}
	cluster_sync();
}

} /* namespace */

#endif
