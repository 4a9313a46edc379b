/* avx2.c - AVX2 and FMA: everything in fp32, activations are not rounded but for MXFP4 dots: to 24-bit integers there.
 *
 *   dots    one weight row at a time (one linear stream) against up to four tokens.  bf16: two weights of a dword by a shift and
 *           a mask.  MXFP4: 32 bytes are 64 codes of two groups, which PSHUFB makes small integers; VPMADDWD takes the upper 16
 *           bits of an activation, VPMADDUBSW the lower 8, and a group's sum is exact: 27 operations, where floats took 33.
 *   panels  8 tokens side by side [n_in][8], six weight rows broadcast against two panels: 12 accumulators.  Weights are first
 *           expanded to fp32 rows, a block of which stays in L2.
 * Cost: dots read 17/32 B or 2 B a weight; panels 1/8 FMA a weight and token.
 * Test: build/test_kernels   Bench: moxie bench op --isa avx2
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/ref.h"
#include "kernels/cpu/target.h"

#if defined(__x86_64__)
#include <immintrin.h>

TARGET_BEGIN("avx2,fma")
#define VL 8
typedef __m256 vf;
INLINE vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void vf_store(float *p, vf v) { _mm256_storeu_ps(p, v); }
INLINE vf vf_set1(float x) { return _mm256_set1_ps(x); }
INLINE vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
INLINE vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
INLINE float vf_sum(vf v)
{
	__m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
	s = _mm_add_ps(s, _mm_movehl_ps(s, s));
	return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
INLINE float vf_top(vf v)
{
	__m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
	s = _mm_max_ps(s, _mm_movehl_ps(s, s));
	return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
INLINE vf vf_bf16(const bf16 *p)
{
	return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)), 16));
}
INLINE vf vf_scale2(vf p, vf n)
{
	return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)));
}
INLINE vf vf_at_least(vf v, vf x, vf lo) { return _mm256_and_ps(v, _mm256_cmp_ps(x, lo, _CMP_NLT_UQ)); }
INLINE vf vf_range(vf v, int i, int a, int b)
{
	__m256i lane = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(i));
	__m256i in = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(a), lane), _mm256_cmpgt_epi32(_mm256_set1_epi32(b), lane));
	return _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), v, _mm256_castsi256_ps(in));
}
INLINE void vf_unzip(const float *p, vf *even, vf *odd)
{
	__m256 a = _mm256_loadu_ps(p), b = _mm256_loadu_ps(p + 8), lo = _mm256_permute2f128_ps(a, b, 0x20), hi = _mm256_permute2f128_ps(a, b, 0x31);
	*even = _mm256_shuffle_ps(lo, hi, 0x88);
	*odd = _mm256_shuffle_ps(lo, hi, 0xdd);
}

#define LANES_PAIR 0
#include "kernels/cpu/lanes.h"

static void attn(const struct attn_job *j)
{
	attn_run(j, false);
}

/* ---- packing ---- */

/* Where the dots find weight i of each 16 (dense) or 64 (MXFP4) in the order of their vectors. */
static int dense_k(int i)
{
	return i % 8 * 2 + i / 8;
}

/* Word i % 16 of vector i / 16 of a step's 64 codes: even or odd k, from the low or the high byte of each pair. */
static int mx_k(int i)
{
	return 2 * (i % 16 * 2 + i / 16 % 2) + i / 32;
}

/* What a step of 64 k takes of a token, in the place of 64 floats. */
struct mx_act {
	int16_t q[64];  /* 256 q + r: a as 24-bit integer to the scale of the largest of its group */
	uint8_t r[64];  /* in the order of the codes: those of low nibbles, then those of high ones */
	float scale[8]; /* of the group that each lane sums, halved: codes come as twice their value */
};

static void pack_mx(struct mx_act *d, const float *a, int n)
{
	const float TOP = 8388096; /* 32766 * 256 */
	float scale[2] = { 0 }, inv[2] = { 0 };
	for (int g = 0; g < n / MX_GROUP; g++) {
		float top = 0;
		bool odd = false; /* NaN or infinite: the outputs will be NaN */
		for (int i = 0; i < MX_GROUP; i++) {
			float v = fabsf(a[g * MX_GROUP + i]);
			top = v > top ? v : top;
			odd |= !(v < INFINITY);
		}
		scale[g] = odd ? NAN : top * (0.5f / TOP);
		inv[g] = odd || top < 1e-30f ? 0 : TOP / top;
	}
	for (int i = 0; i < 64; i++) {
		int kq = mx_k(i), kr = i % 32 * 2 + i / 32;
		d->q[i] = (int16_t)(kq < n && inv[kq / MX_GROUP] > 0 ? _mm_cvtss_si32(_mm_set_ss(a[kq] * inv[kq / MX_GROUP])) >> 8 : 0);
		d->r[i] = (uint8_t)(kr < n && inv[kr / MX_GROUP] > 0 ? _mm_cvtss_si32(_mm_set_ss(a[kr] * inv[kr / MX_GROUP])) & 255 : 0);
	}
	for (int i = 0; i < 8; i++)
		d->scale[i] = scale[i / 4];
}

static void pack_dot(void *dst, const float *a, int n_in, bool mx)
{
	float *d = dst;
	for (int k = 0; k < pad_to(n_in, 64); k += 64)
		if (mx)
			pack_mx((struct mx_act *)(void *)(d + k), a + k, n_in - k < 64 ? n_in - k : 64);
		else
			for (int i = 0; i < 64; i++) {
				int at = k + i / 16 * 16 + dense_k(i % 16);
				d[k + i] = at < n_in ? a[at] : 0;
			}
}

static void pack_panel(void *dst, const float *const *row, int n_row, int n_in, bool mx)
{
	(void)mx; /* one order for all */
	for (int k = 0; k < n_in; k++)
		for (int i = 0; i < 8; i++)
			((float *)dst)[(int64_t)k * 8 + i] = i < n_row ? row[i][k] : 0;
}

/* ---- dots ---- */

#define AHEAD 4096 /* bytes between use and prefetch */

/* e8m0 of eight groups; those beyond n are 2^-127 and meet zeros. */
INLINE __m256 scales8(const uint8_t *s, int n)
{
	uint64_t b = 0;
	memcpy(&b, s, n < 8 ? (size_t)n : 8);
	__m256i v = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)b)), nan = _mm256_cmpeq_epi32(v, _mm256_set1_epi32(255));
	v = _mm256_max_epu32(_mm256_slli_epi32(v, 23), _mm256_set1_epi32(0x00400000)); /* s = 0 is 2^-127 */
	return _mm256_castsi256_ps(_mm256_blendv_epi8(v, _mm256_set1_epi32(0x7fc00000), nan));
}

/* 64 codes of two groups: PSHUFB gives twice their values as bytes, a shift and a mask 256 times that as words, for
 * q, while the bytes meet r.  The sums are exact in 32 bits: at most 8 * 12 * 2^23. */
INLINE void mx_step(__m256 *acc, __m256i z, __m256 scale, const float *const a[4], int k, const int T)
{
	const __m256i twice = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
	const __m256i nibble = _mm256_set1_epi8(15), high = _mm256_set1_epi16((short)0xff00);
	__m256i even = _mm256_shuffle_epi8(twice, _mm256_and_si256(z, nibble));
	__m256i odd = _mm256_shuffle_epi8(twice, _mm256_and_si256(_mm256_srli_epi16(z, 4), nibble));
	__m256i v[4] = { _mm256_slli_epi16(even, 8), _mm256_and_si256(even, high), _mm256_slli_epi16(odd, 8), _mm256_and_si256(odd, high) };
	for (int t = 0; t < T; t++) {
		const struct mx_act *at = (const struct mx_act *)(const void *)(a[t] + k);
		__m256i p[4];
		for (int i = 0; i < 4; i++)
			p[i] = _mm256_madd_epi16(v[i], _mm256_loadu_si256((const __m256i *)(const void *)(at->q + 16 * i)));
		__m256i sum = _mm256_add_epi32(_mm256_add_epi32(p[0], p[1]), _mm256_add_epi32(p[2], p[3]));
		const __m256i *r = (const __m256i *)(const void *)at->r;
		__m256i low = _mm256_add_epi16(_mm256_maddubs_epi16(_mm256_loadu_si256(r), even), _mm256_maddubs_epi16(_mm256_loadu_si256(r + 1), odd));
		sum = _mm256_add_epi32(sum, _mm256_madd_epi16(low, _mm256_set1_epi16(1)));
		acc[t] = _mm256_fmadd_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_loadu_ps(at->scale)), scale, acc[t]);
	}
}

INLINE void dot_mx1(const struct mat *w, int r, const float *const a[4], float bias, float *y, int ldy, const int T)
{
	const __m256i spread = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
	int n_grp = w->n_in / MX_GROUP;
	const uint8_t *z = w->data + (int64_t)r * w->n_in / 2, *s = w->scl + (int64_t)r * n_grp;
	__m256 acc[4];
	for (int t = 0; t < T; t++)
		acc[t] = _mm256_setzero_ps();
	for (int g = 0; g < n_grp; g += 8) {
		__m256 sv = scales8(s + g, n_grp - g);
		_mm_prefetch((const char *)z + g * 16 + AHEAD, _MM_HINT_T0);
		_mm_prefetch((const char *)z + g * 16 + AHEAD + 64, _MM_HINT_T0);
		for (int q = 0; q < 8 && g + q < n_grp; q += 2) {
			const __m128i *at = (const __m128i *)(const void *)(z + (g + q) * 16);
			bool both = g + q + 1 < n_grp;
			__m256i c = both ? _mm256_loadu_si256((const __m256i *)(const void *)at) : _mm256_zextsi128_si256(_mm_loadu_si128(at));
			__m256 scale = _mm256_permutevar8x32_ps(sv, _mm256_add_epi32(spread, _mm256_set1_epi32(q)));
			mx_step(acc, c, scale, a, (g + q) * MX_GROUP, T);
		}
	}
	for (int t = 0; t < T; t++)
		y[(int64_t)t * ldy] = vf_sum(acc[t]) + bias;
}

INLINE void dot_bf1(const struct mat *w, int r, const float *const a[4], float bias, float *y, int ldy, const int T)
{
	const bf16 *row = (const bf16 *)(const void *)w->data + (int64_t)r * w->n_in;
	const __m256i odd = _mm256_set1_epi32((int)0xffff0000);
	__m256 acc[4][4];
	for (int t = 0; t < T; t++)
		for (int i = 0; i < 4; i++)
			acc[t][i] = _mm256_setzero_ps();
	for (int k = 0; k < w->n_in; k += 32) {
		_mm_prefetch((const char *)(row + k) + AHEAD, _MM_HINT_T0);
		for (int i = 0; i < 2; i++) {
			__m256i v = _mm256_loadu_si256((const __m256i *)(const void *)(row + k + 16 * i));
			__m256 lo = _mm256_castsi256_ps(_mm256_slli_epi32(v, 16)), hi = _mm256_castsi256_ps(_mm256_and_si256(v, odd));
			for (int t = 0; t < T; t++) {
				acc[t][2 * i] = _mm256_fmadd_ps(lo, _mm256_loadu_ps(a[t] + k + 16 * i), acc[t][2 * i]);
				acc[t][2 * i + 1] = _mm256_fmadd_ps(hi, _mm256_loadu_ps(a[t] + k + 16 * i + 8), acc[t][2 * i + 1]);
			}
		}
	}
	for (int t = 0; t < T; t++)
		y[(int64_t)t * ldy] = vf_sum(_mm256_add_ps(_mm256_add_ps(acc[t][0], acc[t][1]), _mm256_add_ps(acc[t][2], acc[t][3]))) + bias;
}

static void dot(const struct mat *w, int r0, int n_row, const void *a, int n_tok, const float *bias, float *y, int ldy)
{
	int lda = packed_row(w->n_in), step = w->mx ? 4 : 3; /* bf16: 12 accumulators at three tokens */
	for (int r = 0; r < n_row; r++)
		for (int t = 0; t < n_tok; t += step) {
			const float *at[4];
			int T = n_tok - t < step ? n_tok - t : step;
			float *yt = y + (int64_t)t * ldy + r;
			for (int i = 0; i < 4; i++)
				at[i] = (const float *)a + (int64_t)(t + (i < T ? i : 0)) * lda;
#define CASE(N) case N: if (w->mx) dot_mx1(w, r0 + r, at, bias[r], yt, ldy, N); else dot_bf1(w, r0 + r, at, bias[r], yt, ldy, N); break;
			switch (T) { CASE(1) CASE(2) CASE(3) CASE(4) }
#undef CASE
		}
}

/* ---- panels ---- */

/* dst[n_row][n_in] as floats. */
static void expand_rows(float *dst, const struct mat *w, int r0, int n_row)
{
	const __m256 magnitude = _mm256_setr_ps(0, .5f, 1, 1.5f, 2, 3, 4, 6);
	const __m256i shift = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28), sign = _mm256_set1_epi32((int)0x80000000);
	int n_grp = w->n_in / MX_GROUP;
	for (int r = 0; r < n_row; r++, dst += w->n_in) {
		int64_t row = r0 + r;
		if (!w->mx) {
			const bf16 *v = (const bf16 *)(const void *)w->data + row * w->n_in;
			for (int k = 0; k < w->n_in; k += 8)
				_mm256_storeu_ps(dst + k, vf_bf16(v + k));
			continue;
		}
		for (int g = 0; g < n_grp; g++) {
			__m256 t = _mm256_mul_ps(magnitude, _mm256_set1_ps(e8m0_to_f32(w->scl[row * n_grp + g])));
			for (int i = 0; i < 4; i++) { /* a dword is eight codes in order; vpermps reads 3 bits, bit 3 is the sign */
				int four;
				memcpy(&four, w->data + row * w->n_in / 2 + g * 16 + i * 4, 4);
				__m256i c = _mm256_srlv_epi32(_mm256_set1_epi32(four), shift);
				__m256i v = _mm256_castps_si256(_mm256_permutevar8x32_ps(t, c));
				v = _mm256_xor_si256(v, _mm256_and_si256(_mm256_slli_epi32(c, 28), sign));
				_mm256_storeu_ps(dst + g * 32 + i * 8, _mm256_castsi256_ps(v));
			}
		}
	}
}

/* Six rows against P panels of 8 tokens, ldb apart. */
INLINE void panel_block(float *out, const float *const row[6], const float *b, int64_t ldb, int n_in, const float *bias, const int P)
{
	__m256 acc[6][2];
	for (int i = 0; i < 6; i++)
		for (int p = 0; p < P; p++)
			acc[i][p] = _mm256_set1_ps(bias[i]);
	for (int k = 0; k < n_in; k++) {
		__m256 bv[2];
		for (int p = 0; p < P; p++)
			bv[p] = _mm256_loadu_ps(b + p * ldb + (int64_t)k * 8);
		for (int i = 0; i < 6; i++) {
			__m256 wv = _mm256_broadcast_ss(row[i] + k);
			for (int p = 0; p < P; p++)
				acc[i][p] = _mm256_fmadd_ps(wv, bv[p], acc[i][p]);
		}
	}
	for (int i = 0; i < 6; i++)
		for (int p = 0; p < P; p++)
			_mm256_storeu_ps(out + i * 16 + p * 8, acc[i][p]);
}

static void panel(const struct mat *w, int r0, int n_row, const void *a, int n_tok, const float *bias, float *y, int ldy, void *expanded)
{
	int64_t lda = packed_row(w->n_in);
	expand_rows(expanded, w, r0, n_row);
	for (int t = 0; t < n_tok; t += 16)
		for (int r = 0; r < n_row; r += 6) {
			const float *row[6], *b = (const float *)a + t * lda;
			float out[6 * 16], b6[6];
			int n = n_row - r < 6 ? n_row - r : 6, nt = n_tok - t < 16 ? n_tok - t : 16;
			for (int i = 0; i < 6; i++) {
				b6[i] = bias[r + (i < n ? i : n - 1)];
				row[i] = (const float *)expanded + (int64_t)(r + (i < n ? i : n - 1)) * w->n_in;
			}
			if (nt > 8)
				panel_block(out, row, b, 8 * lda, w->n_in, b6, 2);
			else
				panel_block(out, row, b, 8 * lda, w->n_in, b6, 1);
			for (int i = 0; i < nt; i++)
				for (int j = 0; j < n; j++)
					y[(int64_t)(t + i) * ldy + r + j] = out[j * 16 + i];
		}
}
TARGET_END

const char *cpu_isa_avx2(struct cpu_ops *ops)
{
	*ops = (struct cpu_ops){ .name = "cpu avx2", .elem = 4, .lane = 8, .unit = 6, .block = 24, .piece = 24, .min_panel = 8, .min_panel_mx = 8, .tok_block = 1 << 29,
		.pack_dot = pack_dot, .pack_panel = pack_panel, .dot = dot, .panel = panel, .dot_f32 = lanes_dot_f32, .swiglu = lanes_swiglu, .combine = lanes_combine,
		.rmsnorm = lanes_rmsnorm, .attn = attn, .attn_tmp_bytes = lanes_attn_tmp_bytes, .attn_d_head = 8 };
	return !__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ? "AVX2 and FMA" : NULL;
}
#else
const char *cpu_isa_avx2(struct cpu_ops *ops)
{
	(void)ops;
	return "x86-64";
}
#endif
