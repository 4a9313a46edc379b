/* avx512.c - AVX-512 with VDPBF16PS: 32 products of bf16 pairs an instruction, fp32 sums.
 *
 * Activations are rounded once, when they are packed: to bf16, for MXFP4 dots to 16 bits of their group's largest.  Weights are read where
 * they lie.
 *   dots    four weight rows (one linear stream) against up to four tokens.  MXFP4: 64 bytes are 128 codes; each 16-bit word
 *           holds four, so four vpermw turn them into small integers without unpacking, against activations packed in that order: VPDPWSSD
 *           does two products where VDPBF16PS does one on Intel.  The scales are one multiplication and one FMA for four groups.
 *   panels  16 tokens side by side as pairs of k [n_in/2][16][2], eight weight rows broadcast pair by pair: no sum across lanes,
 *           and 24 accumulators at three panels.  MXFP4 rows are first expanded into tiles.
 * VDPBF16PS flushes subnormals: results below 2^-126 are zero here.
 * Cost: dots read 17/32 B (MXFP4) or 2 B a weight; panels 1/32 VDPBF16PS a weight and token.
 * Test: build/test_kernels   Bench: moxie bench op
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/ref.h"
#include "kernels/cpu/target.h"

/* e2m1 * 2^(s - 127) as bf16, for every scale byte s; twice over, because a vpermw index counts five bits and the fifth is the
 * neighbouring nibble's.  Subnormal, infinite and NaN products are what fp32 and one rounding make of them. */
static bf16 mx_table[256][32] __attribute__((aligned(64)));

#if defined(__x86_64__)
#include <immintrin.h>
#include <pthread.h>

TARGET_BEGIN("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")
#include "kernels/cpu/avx512_util.h"

#define VL 16
typedef __m512 vf;
INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void vf_store(float *p, vf v) { _mm512_storeu_ps(p, v); }
INLINE vf vf_set1(float x) { return _mm512_set1_ps(x); }
INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
INLINE vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
INLINE float vf_sum(vf v) { return _mm512_reduce_add_ps(v); }
INLINE float vf_top(vf v) { return _mm512_reduce_max_ps(v); }
INLINE vf vf_bf16(const bf16 *p)
{
	return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p)), 16));
}
INLINE vf vf_scale2(vf p, vf n) { return _mm512_scalef_ps(p, n); }
INLINE vf vf_at_least(vf v, vf x, vf lo) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, lo, _CMP_NLT_UQ), v); }
INLINE vf vf_range(vf v, int i, int a, int b)
{
	unsigned lo = a - i <= 0 ? 0 : a - i >= 16 ? 16 : (unsigned)(a - i), hi = b - i <= 0 ? 0 : b - i >= 16 ? 16 : (unsigned)(b - i);
	return _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), (__mmask16)((1u << hi) - (1u << lo)), v);
}
INLINE void vf_unzip(const float *p, vf *even, vf *odd)
{
	const __m512i ie = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
	__m512 a = _mm512_loadu_ps(p), b = _mm512_loadu_ps(p + 16);
	*even = _mm512_permutex2var_ps(a, ie, b);
	*odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(ie, _mm512_set1_epi32(1)), b);
}

INLINE __m512bh as_bh(__m512i v) { return (__m512bh)v; }

/* ---- pairs for attention ---- */

#define LANES_PAIR 1
INLINE vf vf_dp(vf c, vf a, vf b) { return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b); }

static void attn_pack2(float *dst, const float *a, int n)
{
	for (int i = 0; i < n; i += 32)
		_mm512_storeu_si512(dst + i / 2, round32(a + i));
}

/* dst[d/2][64] pairs of d from k[key][d]: 16 keys by 32 d at once.  next is fetched on the way: the page after this one may lie
 * anywhere, so no hardware prefetcher can know it. */
static void attn_load_k2(float *dst, const bf16 *k, const bf16 *next, int from, int n, int d)
{
	for (int j = 0; j < KV_PAGE; j += 16)
		for (int i = 0; i < d; i += 32) {
			__m512i r[16];
			for (int l = 0; l < 16; l++) {
				_mm_prefetch((const char *)(next + (j + l) * d + i), _MM_HINT_T1);
				r[l] = j + l >= from && j + l < n ? _mm512_loadu_si512(k + (j + l) * d + i) : _mm512_setzero_si512();
			}
			transpose16(r);
			for (int l = 0; l < 16; l++)
				_mm512_storeu_si512(dst + (i / 2 + l) * KV_PAGE + j, r[l]);
		}
}

/* Pairs (a[i], b[i]) of the words of two rows: the first 16, the last 16. */
INLINE __m512i pair_low(__m512i a, __m512i b)
{
	const __m512i at = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2,
	                                    33, 1, 32, 0);
	return _mm512_permutex2var_epi16(a, at, b);
}

INLINE __m512i pair_high(__m512i a, __m512i b)
{
	const __m512i at = _mm512_set_epi16(63, 31, 62, 30, 61, 29, 60, 28, 59, 27, 58, 26, 57, 25, 56, 24, 55, 23, 54, 22, 53, 21, 52, 20, 51, 19, 50, 18,
	                                    49, 17, 48, 16);
	return _mm512_permutex2var_epi16(a, at, b);
}

/* dst[key/2][d] pairs of keys from v[key][d]. */
static void attn_load_v2(float *dst, const bf16 *v, const bf16 *next, int from, int n, int d)
{
	for (int j = 0; j < n; j += 2)
		for (int i = 0; i < d; i += 32) {
			_mm_prefetch((const char *)(next + j * d + i), _MM_HINT_T1);
			_mm_prefetch((const char *)(next + (j + 1) * d + i), _MM_HINT_T1);
			__m512i a = j >= from ? _mm512_loadu_si512(v + j * d + i) : _mm512_setzero_si512();
			__m512i b = j + 1 >= from && j + 1 < n ? _mm512_loadu_si512(v + (j + 1) * d + i) : _mm512_setzero_si512();
			_mm512_storeu_si512(dst + j / 2 * d + i, pair_low(a, b));
			_mm512_storeu_si512(dst + j / 2 * d + i + 16, pair_high(a, b));
		}
}

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/avx512_attn.h"

static void attn(const struct attn_job *j)
{
	int n_row = j->n_tok * (j->a->n_head / j->a->n_head_kv);
	bool pairs = j->a->kv->dtype == DT_BF16 && j->a->d_head % 32 == 0;
	if (pairs && n_row <= FEW)
		attn_few(j, n_row);
	else if (pairs)
		attn_run(j, true);
	else
		attn_run(j, false);
}

/* ---- packing ---- */

/* 32 floats as 16-bit integers to a power of two, by which the largest takes 15 bits: what bf16 holds down to 1/128 of it is exact.
 * *scale: half of what gives them back, since codes come as twice their value. */
INLINE __m512i group16(const float *a, float *scale)
{
	__m512 lo = _mm512_loadu_ps(a), hi = _mm512_loadu_ps(a + 16), top = _mm512_max_ps(_mm512_abs_ps(lo), _mm512_abs_ps(hi));
	bool finite = (_mm512_cmp_ps_mask(_mm512_abs_ps(lo), _mm512_set1_ps(INFINITY), _CMP_LT_OQ) &
	               _mm512_cmp_ps_mask(_mm512_abs_ps(hi), _mm512_set1_ps(INFINITY), _CMP_LT_OQ)) == 0xffff;
	float most = _mm512_reduce_max_ps(top);
	*scale = NAN; /* the outputs will be NaN */
	if (!finite)
		return _mm512_setzero_si512();
	*scale = 0;
	if (most < 1e-30f)
		return _mm512_setzero_si512();
	int e = ilogbf(most);
	*scale = ldexpf(1, e - 15);
	__m512 by = _mm512_set1_ps(ldexpf(1, 14 - e));
	__m256i l = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(lo, by))), h = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(hi, by)));
	return _mm512_inserti64x4(_mm512_castsi256_si512(l), h, 1);
}

/* Dense: bf16 in order.  MXFP4: integers, word w of vector j of a chunk of 128 is k = 4 w + j, as the shifts of dot_mx find them; then
 * the scale of each group. */
static void pack_dot(void *dst, const float *a, int n_in, bool mx)
{
	const __m512i at = _mm512_set_epi16(60, 56, 52, 48, 44, 40, 36, 32, 28, 24, 20, 16, 12, 8, 4, 0, 60, 56, 52, 48, 44, 40, 36, 32, 28, 24, 20, 16,
	                                    12, 8, 4, 0);
	bf16 *d = dst;
	float *scale = (float *)(void *)(d + pad_to(n_in, MX_CHUNK));
	for (int k = 0; k < n_in; k += MX_CHUNK, d += MX_CHUNK, scale += 4) {
		__m512i v[4];
		for (int i = 0; i < 4; i++) {
			bool in = k + 32 * i < n_in;
			if (mx)
				scale[i] = 0;
			v[i] = !in ? _mm512_setzero_si512() : mx ? group16(a + k + 32 * i, scale + i) : round32(a + k + 32 * i);
		}
		for (int j = 0; j < 4; j++) {
			__m512i one = _mm512_set1_epi16((short)j), idx = _mm512_add_epi16(at, one);
			__m512i lo = _mm512_permutex2var_epi16(v[0], idx, v[1]), hi = _mm512_permutex2var_epi16(v[2], idx, v[3]);
			_mm512_storeu_si512(d + 32 * j, mx ? _mm512_mask_mov_epi64(lo, 0xf0, hi) : v[j]);
		}
	}
}

static void pack_panel(void *dst, const float *const *row, int n_row, int n_in, bool mx)
{
	const __m512i order = MX_ORDER;
	for (int k = 0; k < n_in; k += 32) {
		__m512i r[16];
		for (int i = 0; i < 16; i++)
			r[i] = i < n_row ? round32(row[i] + k) : _mm512_setzero_si512();
		for (int i = 0; i < 16 && mx; i++)
			r[i] = _mm512_permutexvar_epi16(order, r[i]);
		transpose16(r);
		for (int i = 0; i < 16; i++)
			_mm512_storeu_si512((bf16 *)dst + (int64_t)k * 16 + i * 32, r[i]);
	}
}

/* ---- dots ---- */

#define AHEAD 24576 /* bytes between use and prefetch, into L2: 8 KB were 10 % slower, L1 at 4 KB half as fast */

INLINE __m128 sum4(__m512 a, __m512 b, __m512 c, __m512 d)
{
	__m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)), cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
	__m512 s = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
	__m256 h = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps(s, 1));
	return _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
}

INLINE void put4(float *y, __m128 v, int n)
{
	_mm_mask_storeu_ps(y, (__mmask8)((1 << n) - 1), v);
}

/* 16 scales as floats; those beyond n are 2^-127 and meet zeros. */
INLINE __m512 scales16(const uint8_t *s, int n)
{
	__m128i b = n >= 16 ? _mm_loadu_si128((const __m128i *)(const void *)s) : _mm_maskz_loadu_epi8((__mmask16)((1u << n) - 1), s);
	__m512i v = _mm512_cvtepu8_epi32(b);
	__mmask16 nan = _mm512_cmpeq_epi32_mask(v, _mm512_set1_epi32(255));
	v = _mm512_max_epu32(_mm512_slli_epi32(v, 23), _mm512_set1_epi32(0x00400000)); /* s = 0 is 2^-127 */
	return _mm512_castsi512_ps(_mm512_mask_mov_epi32(v, nan, _mm512_set1_epi32(0x7fc00000)));
}

/* 128 codes of one row, their four scales spread over the lanes, against T tokens.  even: the 64 bytes; odd: those from the next
 * byte on, whose low nibbles then need no shift.  A lane sums eight products of 16 bits: exact in 32.  scale: the row's; act: the
 * tokens', multiplied first, as 2^-127 times them would be zero. */
INLINE void mx_step(__m512 acc[4], __m512i even, __m512i odd, __m512 scale, const __m512 *act, const bf16 *const a[4], int k, const int T)
{
	/* twice the value */
	const __m512i table = _mm512_set_epi16(-12, -8, -6, -4, -3, -2, -1, 0, 12, 8, 6, 4, 3, 2, 1, 0, -12, -8, -6, -4, -3, -2, -1, 0, 12, 8, 6, 4, 3, 2, 1, 0);
	__m512i w0 = _mm512_permutexvar_epi16(even, table), w1 = _mm512_permutexvar_epi16(_mm512_srli_epi16(even, 4), table);
	__m512i w2 = _mm512_permutexvar_epi16(odd, table), w3 = _mm512_permutexvar_epi16(_mm512_srli_epi16(odd, 4), table);
	for (int t = 0; t < T; t++) {
		__m512i p = _mm512_dpwssd_epi32(_mm512_setzero_si512(), w0, _mm512_loadu_si512(a[t] + k));
		p = _mm512_dpwssd_epi32(p, w1, _mm512_loadu_si512(a[t] + k + 32));
		p = _mm512_dpwssd_epi32(p, w2, _mm512_loadu_si512(a[t] + k + 64));
		p = _mm512_dpwssd_epi32(p, w3, _mm512_loadu_si512(a[t] + k + 96));
		acc[t] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(p), act[t]), scale, acc[t]);
	}
}

INLINE void dot_mx4(const struct mat *w, int r, int n, const bf16 *const a[4], const float *bias, float *y, int ldy, const int T)
{
	/* lane i of a step belongs to group i / 4 of its four */
	const __m512i spread = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
	int n_grp = w->n_in / MX_GROUP;
	int64_t bytes = w->n_in / 2;
	const float *act_at[4];
	for (int t = 0; t < T; t++)
		act_at[t] = (const float *)(const void *)(a[t] + pad_to(w->n_in, MX_CHUNK));
	const uint8_t *z[4], *s[4], *ahead = w->data + r * bytes + AHEAD, *s_ahead = w->scl + (int64_t)r * n_grp + AHEAD / 16;
	__m512 acc[4][4], sv[4];
	for (int i = 0; i < 4; i++) {
		int64_t row = r + (i < n ? i : n - 1);
		z[i] = w->data + row * bytes;
		s[i] = w->scl + row * n_grp;
		for (int t = 0; t < T; t++)
			acc[i][t] = _mm512_setzero_ps();
	}
	for (int g = 0; g < n_grp; g += 16) {
		for (int i = 0; i < 4; i++)
			sv[i] = scales16(s[i] + g, n_grp - g);
		_mm_prefetch((const char *)s_ahead + 4 * g, _MM_HINT_T1);
		__m512i idx = spread;
		int k = g * MX_GROUP, end = (g + 16 < n_grp ? g + 16 : (n_grp - 1) & ~3) * MX_GROUP;
		for (; k < end; k += MX_CHUNK, idx = _mm512_add_epi32(idx, _mm512_set1_epi32(4))) {
			__m512 act[4];
			for (int t = 0; t < T; t++)
				act[t] = _mm512_permutexvar_ps(idx, _mm512_loadu_ps(act_at[t] + g));
			for (int i = 0; i < 4; i++) {
				_mm_prefetch((const char *)ahead + 2 * k + 64 * i, _MM_HINT_T1);
				mx_step(acc[i], _mm512_loadu_si512(z[i] + k / 2), _mm512_loadu_si512(z[i] + k / 2 + 1), _mm512_permutexvar_ps(idx, sv[i]), act,
				        a, k, T);
			}
		}
		if (g + 16 >= n_grp) { /* the row's last groups: not a byte beyond them is read, codes there are zero */
			int bytes = n_grp * 16 - k / 2;
			__mmask64 mask = ~(__mmask64)0 >> (64 - bytes);
			__m512 act[4];
			for (int t = 0; t < T; t++)
				act[t] = _mm512_permutexvar_ps(idx, _mm512_loadu_ps(act_at[t] + g));
			for (int i = 0; i < 4; i++) {
				const uint8_t *p = z[i] + k / 2;
				_mm_prefetch((const char *)ahead + 2 * k + 64 * i, _MM_HINT_T1);
				mx_step(acc[i], _mm512_maskz_loadu_epi8(mask, p), _mm512_maskz_loadu_epi8(mask >> 1, p + 1), _mm512_permutexvar_ps(idx, sv[i]), act, a, k,
				        T);
			}
		}
	}
	__m128 b4 = _mm_maskz_loadu_ps((__mmask8)((1 << n) - 1), bias);
	for (int t = 0; t < T; t++)
		put4(y + (int64_t)t * ldy, _mm_add_ps(sum4(acc[0][t], acc[1][t], acc[2][t], acc[3][t]), b4), n);
}

INLINE void dot_bf4(const struct mat *w, int r, int n, const bf16 *const a[4], const float *bias, float *y, int ldy, const int T)
{
	const bf16 *row[4], *ahead = (const bf16 *)(const void *)w->data + (int64_t)r * w->n_in + AHEAD / 2;
	__m512 acc[4][4];
	for (int i = 0; i < 4; i++) {
		row[i] = (const bf16 *)(const void *)w->data + (int64_t)(r + (i < n ? i : n - 1)) * w->n_in;
		for (int t = 0; t < T; t++)
			acc[i][t] = _mm512_setzero_ps();
	}
	for (int k = 0; k < w->n_in; k += 32) {
		__m512bh at[4];
		for (int t = 0; t < T; t++)
			at[t] = as_bh(_mm512_loadu_si512(a[t] + k));
		for (int i = 0; i < 4; i++) {
			__m512bh v = as_bh(_mm512_loadu_si512(row[i] + k));
			_mm_prefetch((const char *)(ahead + 4 * k + 32 * i), _MM_HINT_T1);
			for (int t = 0; t < T; t++)
				acc[i][t] = _mm512_dpbf16_ps(acc[i][t], v, at[t]);
		}
	}
	__m128 b4 = _mm_maskz_loadu_ps((__mmask8)((1 << n) - 1), bias);
	for (int t = 0; t < T; t++)
		put4(y + (int64_t)t * ldy, _mm_add_ps(sum4(acc[0][t], acc[1][t], acc[2][t], acc[3][t]), b4), n);
}

static void dot(const struct mat *w, int r0, int n_row, const void *a, int n_tok, const float *bias, float *y, int ldy)
{
	int lda = packed_row(w->n_in);
	for (int r = 0; r < n_row; r += 4)
		for (int t = 0; t < n_tok; t += 4) {
			const bf16 *at[4];
			int n = n_row - r < 4 ? n_row - r : 4, T = n_tok - t < 4 ? n_tok - t : 4;
			float *yt = y + (int64_t)t * ldy + r;
			for (int i = 0; i < 4; i++)
				at[i] = (const bf16 *)a + (int64_t)(t + (i < T ? i : 0)) * lda;
#define CASE(N) case N: if (w->mx) dot_mx4(w, r0 + r, n, at, bias + r, yt, ldy, N); else dot_bf4(w, r0 + r, n, at, bias + r, yt, ldy, N); break;
			switch (T) { CASE(1) CASE(2) CASE(3) CASE(4) }
#undef CASE
		}
}

/* ---- panels ---- */

/* What one 1 KB tile of expanded weights is made from: 16 rows, the codes and scales of each side by side in memory. */
struct mx_tile {
	const uint8_t *blk, *scl; /* first row, first group */
	int64_t blk_row, scl_row; /* bytes between rows */
	int n_row;                /* rows that exist; the others repeat the last */
};

INLINE struct mx_tile mx_tile_at(const struct mat *w, int row, int n_row)
{
	int64_t blk_row = w->n_in / 2, scl_row = w->n_in / MX_GROUP;
	return (struct mx_tile){ w->data + row * blk_row, w->scl + row * scl_row, blk_row, scl_row, n_row < 16 ? n_row : 16 };
}

/* A row's 16 bytes in all four lanes, each lane shifted to its nibble; the scale is a power of two and the product exact, so it is part
 * of the table. */
INLINE __m512i expand_row(const uint8_t *blk, const void *table)
{
	const __m512i shift = _mm512_set_epi64(0xc000c000c000c, 0xc000c000c000c, 0x8000800080008, 0x8000800080008, 0x4000400040004, 0x4000400040004, 0, 0);
	__m512i v = _mm512_srlv_epi16(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)blk)), shift);
	return _mm512_permutexvar_epi16(v, _mm512_loadu_si512(table));
}

/* Group g of a tile's rows as bf16 [16][32], in MX_ORDER. */
INLINE void expand_group(bf16 *dst, const struct mx_tile *t, int g)
{
	const uint8_t *blk = t->blk + g * 16, *scl = t->scl + g;
	for (int r = 0; r < 16; r++) {
		_mm512_storeu_si512(dst + 32 * r, expand_row(blk, mx_table[*scl]));
		if (g % 4 == 0) /* a line of the row 32 further on */
			_mm_prefetch((const char *)blk + 32 * t->blk_row, _MM_HINT_T1);
		if (r + 1 < t->n_row) {
			blk += t->blk_row;
			scl += t->scl_row;
		}
	}
}

/* Eight rows (row[i] + step of 32 k) against P panels of 16 tokens; out[i][P * 16]. */
INLINE void panel_block(float *out, const char *const row[8], size_t step, const bf16 *b, int n_in, const float *bias, const int P)
{
	int64_t ldb = (int64_t)packed_row(n_in) * 16;
	__m512 acc[8][3];
	for (int i = 0; i < 8; i++)
		for (int p = 0; p < P; p++)
			acc[i][p] = _mm512_set1_ps(bias[i]);
	for (int k = 0; k < n_in; k += 32) {
		size_t off = (size_t)(k / 32) * step;
		for (int kk = 0; kk < 16; kk++) {
			__m512bh bv[3];
			for (int p = 0; p < P; p++)
				bv[p] = as_bh(_mm512_loadu_si512(b + p * ldb + (int64_t)k * 16 + kk * 32));
			for (int i = 0; i < 8; i++) {
				int pair;
				memcpy(&pair, row[i] + off + kk * 4, 4);
				__m512bh wv = as_bh(_mm512_set1_epi32(pair));
				for (int p = 0; p < P; p++)
					acc[i][p] = _mm512_dpbf16_ps(acc[i][p], wv, bv[p]);
			}
		}
	}
	for (int i = 0; i < 8; i++)
		for (int p = 0; p < P; p++)
			_mm512_storeu_ps(out + i * 48 + p * 16, acc[i][p]);
}

static void panel(const struct mat *w, int r0, int n_row, const void *a, int n_tok, const float *bias, float *y, int ldy, void *expanded)
{
	int64_t group = (int64_t)w->n_in * 16; /* elements of 16 expanded rows */
	if (w->mx)
		for (int r = 0; r < n_row; r += 16) {
			struct mx_tile t = mx_tile_at(w, r0 + r, n_row - r);
			for (int g = 0; g < w->n_in / MX_GROUP; g++)
				expand_group((bf16 *)expanded + r / 16 * group + g * 512, &t, g);
		}
	for (int t = 0; t < n_tok; t += 48)
		for (int r = 0; r < n_row; r += 8) {
			const char *row[8];
			const bf16 *b = (const bf16 *)a + (int64_t)t * packed_row(w->n_in);
			float out[8 * 48], b8[8];
			int n = n_row - r < 8 ? n_row - r : 8, nt = n_tok - t < 48 ? n_tok - t : 48;
			for (int i = 0; i < 8; i++) {
				int at = r + (i < n ? i : n - 1);
				b8[i] = bias[at];
				row[i] = w->mx ? (const char *)((bf16 *)expanded + at / 16 * group + at % 16 * 32) : (const char *)w->data + (int64_t)(r0 + at) * w->n_in * 2;
			}
			size_t step = w->mx ? 1024 : 64; /* bytes between steps of 32 k */
			if (nt > 32)
				panel_block(out, row, step, b, w->n_in, b8, 3);
			else if (nt > 16)
				panel_block(out, row, step, b, w->n_in, b8, 2);
			else
				panel_block(out, row, step, b, w->n_in, b8, 1);
			for (int i = 0; i < nt; i++)
				for (int j = 0; j < n; j++)
					y[(int64_t)(t + i) * ldy + r + j] = out[j * 48 + i];
		}
}
TARGET_END

static void fill_table(void)
{
	for (int s = 0; s < 256; s++)
		for (unsigned c = 0; c < 32; c++)
			mx_table[s][c] = bf16_from_f32(e2m1_to_f32(c) * e8m0_to_f32((uint8_t)s));
}

const char *cpu_isa_avx512(struct cpu_ops *ops)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, fill_table);
	*ops = (struct cpu_ops){ .name = "cpu avx512-bf16", .elem = 2, .lane = 16, .unit = 8, .block = 64, .piece = 64, .min_panel = 12, .min_panel_mx = 12, .tok_block = 1 << 29,
		.pack_dot = pack_dot, .pack_panel = pack_panel, .dot = dot, .panel = panel, .dot_f32 = lanes_dot_f32, .swiglu = lanes_swiglu, .combine = lanes_combine,
		.rmsnorm = lanes_rmsnorm, .attn = attn, .attn_tmp_bytes = lanes_attn_tmp_bytes, .attn_d_head = 16 };
	return !__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl") ||
	                       !__builtin_cpu_supports("avx512dq") ? "AVX-512 F, BW, DQ and VL" :
	       !__builtin_cpu_supports("avx512vnni") ? "AVX-512 VNNI" : !__builtin_cpu_supports("avx512bf16") ? "AVX-512 BF16" : NULL;
}
#else
const char *cpu_isa_avx512(struct cpu_ops *ops)
{
	(void)ops;
	return "x86-64";
}
#endif
