/* sample_select.cuh - the device side of sampling, below a row: a row's weights, its histograms over a cluster of CTAs, and finding tokens by
 * their place in the order of falling probability.
 *
 * Built twice, see sample.cuh; sample.cu has the formulas.
 */
#ifndef MOXIE_CUDA_SAMPLE_SELECT_CUH
#define MOXIE_CUDA_SAMPLE_SELECT_CUH

#include <cuda_runtime.h>
#include <math.h>

#include "device/cluster.cuh"
#include "device/ptx.cuh"
#include "device/warp.cuh"
#include "sample.h"

namespace {

typedef unsigned long long u64;

constexpr int N_THREAD = 512, N_WARP = N_THREAD / 32, N_BUCKET = N_THREAD; /* a thread owns a bucket */
constexpr int BUCKET_BITS = 9;
static_assert(N_BUCKET == 1 << BUCKET_BITS, "");
constexpr int CLUSTER_MAX = 16;
constexpr int N_CUT = 3; /* top-k, top-p, the draw */
constexpr float TAIL = 32;         /* weights below e^-32 are less than half of 2^-44: zero */
constexpr double ONE = 0x1p44;     /* the best token's weight; exp44 has it built in */

struct found {
	int bucket;
	u64 mass; /* before that bucket */
	uint32_t n, n_in; /* tokens before it, and in it */
};

/* A token of the short list: key << 32 | ~id, so that larger comes first in the order of falling probability; its weight. */
struct listed {
	u64 place, weight;
};
constexpr int N_LIST = 512; /* a thread looks at one */
constexpr int N_QUEUE = 64; /* of a warp: less than 32 that wait, and 32 that come */

struct alignas(16) shared {
	union {
		struct {
			uint32_t limb[3][N_BUCKET], n[N_BUCKET]; /* this CTA's histogram: weights by their bits 0-15, 16-31, the rest; ones */
		};
		struct listed sum[N_BUCKET];  /* the same, added up: place is the weights' sum, weight that of ones */
		struct listed list[N_LIST];   /* CTA 0: the short list */
	};
	uint32_t n_list[N_CUT];           /* CTA 0: its length, one for each time it is made */
	u64 kept;                         /* CTA 0: what a search found */
	uint16_t queue[N_WARP][N_QUEUE];  /* ids of a warp's chunk that wait for their weight */
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
__device__ __forceinline__ struct listed remote_listed(const struct listed *p, int cta)
{
	struct listed v;
	asm volatile("ld.shared::cluster.v2.u64 {%0, %1}, [%2];" : "=l"(v.place), "=l"(v.weight) : "r"(cluster_address(p, cta)));
	return v;
}
/* Adds a token to CTA 0's short list, which has room. */
__device__ __forceinline__ void push_listed(int which, struct listed v)
{
	const uint32_t list = cluster_address(sh().list, 0), count = cluster_address(&sh().n_list[which], 0);
	uint32_t slot;
	asm volatile("atom.relaxed.cluster.shared::cluster.add.u32 %0, [%1], 1;" : "=r"(slot) : "r"(count) : "memory");
	asm volatile("st.shared::cluster.v2.u64 [%0], {%1, %2};" ::"r"(list + 16 * slot), "l"(v.place), "l"(v.weight) : "memory");
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
__device__ __forceinline__ struct listed remote_listed(const struct listed *p, int) { return *p; }
__device__ __forceinline__ void push_listed(int which, struct listed v) { sh().list[atomicAdd(&sh().n_list[which], 1)] = v; }
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
	float least;           /* logits below are in no bucket */
	bool even;             /* the best is not finite: one bucket, no weights */
};

__device__ __forceinline__ scale scale_of(const best &b, float temperature)
{
	scale s;
	s.top = b.v;
	s.even = !isfinite(b.v);
	s.inv_t = 1 / (double)temperature;
	s.cut = b.v - TAIL * temperature * 1.01f; /* odds() is exact about the edge */
	s.least = -INFINITY;
	const float span = fminf(b.v - b.low, TAIL * temperature);
	s.per_bucket = span > 0 ? (N_BUCKET - 1) / span : 0;
	return s;
}
/* Of logits from `least` on alone, where it is above all others. */
__device__ __forceinline__ scale scale_from(scale s, float least)
{
	const float span = s.top - least;
	s.least = least;
	if (span > 0 && (N_BUCKET - 1) / span > s.per_bucket)
		s.per_bucket = (N_BUCKET - 1) / span;
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
	__syncthreads();
	const struct listed own = { ((u64)sh().limb[2][i] << 32) + ((u64)sh().limb[1][i] << 16) + sh().limb[0][i], sh().n[i] };
	__syncthreads();
	sh().sum[i] = own;
	cluster_sync();
	struct listed all = { 0, 0 };
#pragma unroll
	for (int j = 0; j < CLUSTER_MAX; j++)
		if (j < at.n_cta) {
			const int r = (at.rank + j) & (at.n_cta - 1); /* not all at one CTA at once */
			const struct listed v = remote_listed(&sh().sum[i], r);
			all.place += v.place;
			all.weight += v.weight;
		}
	*mass = all.place;
	*n = (uint32_t)all.weight;
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
		sh().found = found{ (int)threadIdx.x, m - mass, c - n, n };
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
	low = max(low, key_of(sc.least));
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

/* Sums of what every thread found; warp_mass keeps the warps' of `sum`. */
__device__ __forceinline__ sums join_sums(place &at, u64 sum, u64 likely)
{
	sums r = {};
	sum = warp_sum(sum);
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
	return r;
}

/* All tokens, of which those below min_p weigh nothing: for draw_by_id. */
__device__ __noinline__ sums weigh(place &at, const scale sc, double min_p)
{
	u64 sum = 0;
	each(at, [&](int, const float *v, int) {
#pragma unroll
		for (int j = 0; j < 4; j++) {
			const double o = odds(sc, v[j]);
			sum += o >= min_p * ONE ? weight_of(o) : 0;
		}
	});
	return join_sums(at, sum, 0);
}

/* Tokens from sc.least on, by bucket.  A warp gathers those before it weighs them: they may be few. */
__device__ __noinline__ sums weigh_buckets(place &at, const scale sc, double min_p)
{
	u64 sum = 0, likely = 0;
	const int first = at.warp * at.chunk;
	uint16_t *const queue = sh().queue[at.warp];
	int n = 0; /* tokens that wait */
	const auto weigh_queue = [&](int count) {
		const bool there = at.lane < count;
		const float l = there ? part()[first + queue[at.lane]] : -INFINITY;
		const double o = there ? odds(sc, l) : 0;
		const u64 w = weight_of(o);
		sum += w;
		likely += there && o >= min_p * ONE ? w : 0;
		put(at.lane, there ? bucket_of(sc, l) : -1, w);
	};
	clear(at);
	each(at, [&](int i, const float *v, int end) {
#pragma unroll
		for (int j = 0; j < 4; j++, i += 32) {
			const bool in = i + at.lane < end && v[j] >= sc.least;
			const uint32_t mask = __ballot_sync(~0u, in);
			if (in)
				queue[n + __popc(mask & ((1u << at.lane) - 1))] = (uint16_t)(i + at.lane - first);
			n += __popc(mask);
			__syncwarp();
			if (n >= 32) {
				weigh_queue(32);
				const uint16_t next = queue[32 + at.lane];
				__syncwarp();
				queue[at.lane] = next;
				n -= 32;
				__syncwarp();
			}
		}
	});
	weigh_queue(n);
	sums r = join_sums(at, sum, likely);
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
	const auto weight = [&](int i) {
		const double o = i < at.n ? odds(sc, part()[i]) : 0;
		return o >= min_p * ONE ? weight_of(o) : 0;
	};
	const auto scan = [&](u64 m) {
#pragma unroll
		for (int d = 1; d < 32; d *= 2) {
			const u64 up = __shfl_up_sync(~0u, m, d);
			m += at.lane >= d ? up : 0;
		}
		return m;
	};
	/* First which lane's share of the chunk it is in, then where in that. */
	const int per = at.chunk / 32;
	int first = at.warp * at.chunk + at.lane * per;
	u64 mine = 0;
#pragma unroll 4
	for (int i = 0; i < per; i++)
		mine += weight(first + i);
	const u64 upto = before + scan(mine);
	const int owner = __ffs(__ballot_sync(~0u, t < upto)) - 1;
	before = __shfl_sync(~0u, upto - mine, owner);
	first = __shfl_sync(~0u, first, owner);
	for (int i = 0; i < per; i += 32) {
		const u64 w = i + at.lane < per ? weight(first + i + at.lane) : 0, m = before + scan(w);
		if (m - w <= t && t < m)
			take(first + i + at.lane);
		before = __shfl_sync(~0u, m, 31);
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

/* ---- among the most likely ---- */

/* The least logit that can be among the k most likely: so many threads have one of at least that.  v: the thread's best. */
__device__ __forceinline__ float cut_k(place &at, const scale &sc, float v, int k)
{
	u64 mass;
	uint32_t n;
	if (k > at.n_cta * N_THREAD)
		return -INFINITY;
	clear(at);
	put(at.lane, v > -INFINITY ? bucket_of(sc, v) : N_BUCKET - 1, 0);
	collect(at, &mass, &n);
	const found f = find(at, mass, n, (u64)k - 1, true);
	return f.bucket == N_BUCKET - 1 ? -INFINITY : value_of(bucket_top(at, sc, f.bucket + 1) + 1);
}

/* All tokens below weigh together less than what top-p leaves out. */
__device__ __forceinline__ float cut_p(const scale &sc, const struct sample_row &r, u64 all, int n_vocab)
{
	const double out = (1 - (double)r.top_p) * ((double)all / ONE) / n_vocab;
	const float least = sc.top + r.temperature * (logf((float)out) - 0.001f), rounding = 4e-7f * (fabsf(sc.top) + TAIL * r.temperature);
	return fmaxf(least - rounding, sc.cut);
}

/* One token's place in the order of falling probability. */
struct spot {
	u64 mass, weight; /* before it, and its own */
	int id;           /* in the row */
};

/* Gathers the bucket that f names in CTA 0, where the thread that holds the token calls take(spot): the first at which the running sum
 * exceeds t.  The bucket has at most N_LIST tokens; which: counts the calls.  All of the cluster call. */
template <typename F> __device__ __forceinline__ void pinpoint(place &at, const scale &sc, const found &f, u64 t, bool by_count, int which, int id0, F take)
{
	each(at, [&](int first, const float *v, int end) {
#pragma unroll
		for (int j = 0; j < 4; j++) {
			const int i = first + 32 * j + at.lane;
			if (i < end && v[j] >= sc.least && bucket_of(sc, v[j]) == f.bucket)
				push_listed(which, { (u64)key_of(v[j]) << 32 | (uint32_t)~(id0 + i), weight_of(odds(sc, v[j])) });
		}
	});
	cluster_sync();
	if (at.rank || at.warp * 32 >= f.n_in)
		return; /* whole warps: barriers follow */
	const struct listed mine = sh().list[min(threadIdx.x, f.n_in - 1)];
	u64 mass = f.mass;
	uint32_t n = f.n;
#pragma unroll 4
	for (uint32_t i = 0; i < f.n_in; i++) {
		const struct listed o = sh().list[i];
		mass += o.place > mine.place ? o.weight : 0;
		n += o.place > mine.place;
	}
	if (threadIdx.x < f.n_in && (by_count ? n == t : mass <= t && t < mass + mine.weight))
		take(spot{ mass, mine.weight, (int)~(uint32_t)mine.place });
	__syncwarp();
}

/* The weight of all tokens up to the one at which the running sum first exceeds t; all of the cluster know. */
__device__ __forceinline__ u64 kept_at(place &at, const scale &sc, const sums &s, u64 t, bool by_count, int which, int id0)
{
	const found f = find(at, s.mass, s.n, t, by_count);
	if (f.n_in > N_LIST) {
		const pick k = select(at, sc, s.mass, s.n, t, by_count);
		return k.mass + (by_count ? t + 1 - k.n : k.weight ? (t - k.mass) / k.weight + 1 : 0) * k.weight;
	}
	pinpoint(at, sc, f, t, by_count, which, id0, [](const spot &p) { sh().kept = p.mass + p.weight; });
	cluster_sync();
	return remote64(&sh().kept, 0);
}

/* Draws among the tokens that top-k, top-p and min-p leave, in the order of falling probability; take(id in the row). */
template <typename F>
__device__ __forceinline__ void draw_sorted(place &at, const scale &sc0, const struct sample_row &r, float v, double u, int n_vocab, int id0, F take)
{
	const bool by_k = r.top_k > 0 && r.top_k < n_vocab, by_p = r.top_p > 0 && r.top_p < 1;
	float least = -INFINITY;
	u64 all = 0;
	if (by_k)
		least = cut_k(at, sc0, v, r.top_k);
	else if (by_p)
		least = cut_p(sc0, r, all = weigh(at, sc0, 0).all, n_vocab);
	const scale sc = scale_from(sc0, least);
	const sums s = weigh_buckets(at, sc, r.min_p);
	u64 kept = by_p && !by_k ? all : s.all;
	if (by_k)
		kept = kept_at(at, sc, s, (u64)r.top_k - 1, true, 0, id0);
	if (by_p) {
		const u64 need = min(max(__double2ull_ru((double)r.top_p * (double)kept), 1ull), kept);
		kept = kept_at(at, sc, s, need - 1, false, 1, id0);
	}
	kept = min(kept, s.likely);
	const u64 t = at_most(u * (double)kept, kept);
	const found f = find(at, s.mass, s.n, t, false);
	if (f.n_in <= N_LIST) {
		pinpoint(at, sc, f, t, false, 2, id0, [&](const spot &p) { take(p.id); });
		return;
	}
	const pick k = select(at, sc, s.mass, s.n, t, false);
	const uint32_t tie = (uint32_t)((t - k.mass) / k.weight);
	visit_ties(at, k.key, tie, tie + 1, [&](int i) { take(id0 + i); });
}

} /* namespace */

#endif
