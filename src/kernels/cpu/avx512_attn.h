/* avx512_attn.h - attention of up to eight query rows, as one token's heads of a KV head are; for avx512.c, after lanes.h.
 *
 * The rows are the lanes: a pair of K's d is broadcast against eight rows' pairs of q, so K is read where it lies and never
 * transposed; maxima and sums over keys go down the lanes.  V is paired in registers and meets the weights as broadcast pairs.
 * Every sum runs in the order of attn_run in lanes.h: a token has the same bits alone and inside a prompt.
 * Cost: d / 4 VDPBF16PS (half of them 256 bits wide, two a cycle) and 1/4 exp a key and KV head, for 4 d bytes.
 */
enum { FEW = 8 };

/* s[key][FEW] = q . k for keys from .. n - 1 and up to 15 around them.  next: the page after this one, fetched on the way. */
INLINE void few_scores(float *s, const int32_t *q, const bf16 *k, const bf16 *next, int from, int n, int d)
{
	for (int j = from / 16 * 16; j < n; j += 16) {
		__m256 acc[16];
		for (int l = 0; l < 16; l++)
			acc[l] = _mm256_setzero_ps();
		const bf16 *at = k + j * d;
		for (int i = 0; i < d / 2; i++, at += 2) {
			__asm__("" : "+r"(at)); /* one pointer and constant distances, not sixteen pointers */
			__m256bh qv = (__m256bh)_mm256_loadu_si256((const __m256i *)(const void *)(q + i * FEW));
			_mm_prefetch((const char *)(next + j * d + 32 * i), _MM_HINT_T1);
			for (int l = 0; l < 16; l++) {
				int32_t pair;
				memcpy(&pair, at + l * d, 4);
				acc[l] = _mm256_dpbf16_ps(acc[l], qv, (__m256bh)_mm256_set1_epi32(pair));
			}
		}
		for (int l = 0; l < 16; l++)
			_mm256_storeu_ps(s + (j + l) * FEW, acc[l]);
	}
}

/* Both halves of a vector hold eight rows. */
INLINE __m256 few_low(__m512 v) { return _mm512_castps512_ps256(v); }
INLINE __m256 few_high(__m512 v) { return _mm512_extractf32x8_ps(v, 1); }
INLINE __m512 few_both(__m256 v) { return _mm512_insertf32x8(_mm512_castps256_ps512(v), v, 1); }

/* Scores become p[key/2][FEW] pairs of weights; row r sees keys first[r] .. end[r] - 1.  m, l, o move on as in attn_softmax. */
INLINE void few_softmax(const struct attn_job *job, float *s, int32_t *p, const int32_t *first, const int32_t *end, float *m, float *l, int n_row)
{
	const __m512i which = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
	const __m256i zip = _mm256_set_epi16(15, 7, 14, 6, 13, 5, 12, 4, 11, 3, 10, 2, 9, 1, 8, 0);
	__m512i lo = _mm512_castps_si512(few_both(_mm256_loadu_ps((const float *)(const void *)first)));
	__m512i hi = _mm512_castps_si512(few_both(_mm256_loadu_ps((const float *)(const void *)end)));
	__m512 scale = _mm512_set1_ps(job->a->scale), none = _mm512_set1_ps(-INFINITY), top = none, sum[8];
	bool full = !_mm512_cmpneq_epi32_mask(_mm512_sub_epi32(hi, lo), _mm512_set1_epi32(KV_PAGE));
	for (int j = 0; j < KV_PAGE; j += 2) {
		__m512 x = _mm512_mul_ps(_mm512_loadu_ps(s + j * FEW), scale);
		if (!full) {
			__m512i key = _mm512_add_epi32(which, _mm512_set1_epi32(j));
			x = _mm512_mask_mov_ps(none, _mm512_mask_cmpge_epi32_mask(_mm512_cmplt_epi32_mask(key, hi), key, lo), x);
		}
		_mm512_storeu_ps(s + j * FEW, x);
		top = _mm512_max_ps(top, x);
	}
	__m256 old = _mm256_loadu_ps(m), now = _mm256_max_ps(old, _mm256_max_ps(few_low(top), few_high(top)));
	__m512 from = few_both(now);
	from = _mm512_mask_mov_ps(from, _mm512_cmp_ps_mask(from, none, _CMP_EQ_OQ), _mm512_setzero_ps()); /* nothing seen yet: weights 0, not NaN */
	for (int j = 0; j < KV_PAGE; j += 2) {
		__m512 x = lanes_exp(_mm512_sub_ps(_mm512_loadu_ps(s + j * FEW), from));
		__m256i pair = _mm256_permutexvar_epi16(zip, (__m256i)_mm512_cvtneps_pbh(x));
		_mm256_storeu_si256((__m256i *)(void *)(p + j / 2 * FEW), pair);
		sum[j / 2 % 8] = j < 16 ? x : _mm512_add_ps(sum[j / 2 % 8], x);
	}
	for (int n = 4; n >= 1; n /= 2) /* keys 8 apart, 4, 2, 1: the order of vf_sum */
		for (int i = 0; i < n; i++)
			sum[i] = _mm512_add_ps(sum[i], sum[i + n]);
	if (_mm256_cmp_ps_mask(now, old, _CMP_GT_OQ)) {
		float new[FEW];
		_mm256_storeu_ps(new, now);
		for (int r = 0; r < n_row; r++) {
			float f = m[r] == -INFINITY ? 0 : expf(m[r] - new[r]), *o = job->o + r * job->a->d_head;
			if (!(new[r] > m[r]))
				continue;
			m[r] = new[r];
			l[r] *= f;
			for (int i = 0; i < job->a->d_head; i += 16)
				_mm512_storeu_ps(o + i, _mm512_mul_ps(_mm512_loadu_ps(o + i), _mm512_set1_ps(f)));
		}
	}
	_mm256_storeu_ps(l, _mm256_add_ps(_mm256_loadu_ps(l), _mm256_add_ps(few_low(sum[0]), few_high(sum[0]))));
}

/* o[R][d] += p . v over keys from .. n - 1. */
INLINE void few_values(float *o, const int32_t *p, const bf16 *v, const bf16 *next, int from, int n, int d, const int R)
{
	for (int i = 0; i < d; i += 32) {
		__m512 acc[FEW][2];
		for (int r = 0; r < R; r++)
			for (int h = 0; h < 2; h++)
				acc[r][h] = _mm512_loadu_ps(o + r * d + i + 16 * h);
		for (int j = from / 2 * 2; j < n; j += 2) {
			_mm_prefetch((const char *)(next + j * d + i), _MM_HINT_T1);
			_mm_prefetch((const char *)(next + (j + 1) * d + i), _MM_HINT_T1);
			__m512i a = j >= from ? _mm512_loadu_si512(v + j * d + i) : _mm512_setzero_si512();
			__m512i b = j + 1 < n ? _mm512_loadu_si512(v + (j + 1) * d + i) : _mm512_setzero_si512();
			__m512bh lo = as_bh(pair_low(a, b)), hi = as_bh(pair_high(a, b));
			for (int r = 0; r < R; r++) {
				__m512bh w = as_bh(_mm512_set1_epi32(p[j / 2 * FEW + r]));
				acc[r][0] = _mm512_dpbf16_ps(acc[r][0], w, lo);
				acc[r][1] = _mm512_dpbf16_ps(acc[r][1], w, hi);
			}
		}
		for (int r = 0; r < R; r++)
			for (int h = 0; h < 2; h++)
				_mm512_storeu_ps(o + r * d + i + 16 * h, acc[r][h]);
	}
}

INLINE void few_run(const struct attn_job *job, int n_row, const int d)
{
	const struct attn_args *a = job->a;
	int m = a->n_head / a->n_head_kv, padded = pad_to(n_row, ATTN_ROW_PAD);
	_Alignas(64) float s[KV_PAGE * FEW] = { 0 }, top[FEW], sum[FEW] = { 0 };
	_Alignas(64) int32_t p[KV_PAGE / 2 * FEW], q[MAX_D_HEAD / 2 * FEW], first[FEW], end[FEW];
	for (int i = 0; i < d; i += 32) {
		__m512i v[16];
		for (int r = 0; r < 16; r++) {
			int row = r < n_row ? r : n_row - 1; /* lanes that are no rows repeat the last one */
			v[r] = round32((const float *)a->q + ((int64_t)(job->row0 + row / m) * a->n_head + job->ihkv * m + row % m) * d + i);
		}
		transpose16(v);
		for (int l = 0; l < 16; l++)
			_mm256_store_si256((__m256i *)(void *)(q + (i / 2 + l) * FEW), _mm512_castsi512_si256(v[l]));
	}
	for (int r = 0; r < FEW; r++)
		top[r] = -INFINITY;
	memset(job->o, 0, sizeof(float) * (size_t)padded * (size_t)d);

	for (int base = job->lo - job->lo % KV_PAGE; base < job->hi; base += KV_PAGE) {
		int from = job->lo > base ? job->lo - base : 0, n = job->hi - base < KV_PAGE ? job->hi - base : KV_PAGE;
		int64_t at = kv_row(a->kv, job->seq, base, job->ihkv, a->n_head_kv, d);
		int64_t next = base + KV_PAGE < job->hi ? kv_row(a->kv, job->seq, base + KV_PAGE, job->ihkv, a->n_head_kv, d) : at;
		const bf16 *k = a->kv->k, *v = a->kv->v;
		for (int r = 0; r < FEW; r++) {
			int pos = job->pos0 + (r < n_row ? r : n_row - 1) / m;
			first[r] = attn_first_key(pos, a->window) - base;
			first[r] = first[r] > from ? first[r] : from;
			end[r] = pos + 1 - base < n ? pos + 1 - base : n;
		}
		few_scores(s, q, k + at, k + next, from, n, d);
		few_softmax(job, s, p, first, end, top, sum, n_row);
		if (padded > 4)
			few_values(job->o, p, v + at, v + next, from, n, d, 8);
		else
			few_values(job->o, p, v + at, v + next, from, n, d, 4);
	}
	memcpy(job->m, top, sizeof(float) * (size_t)n_row);
	memcpy(job->l, sum, sizeof(float) * (size_t)n_row);
}

static void attn_few(const struct attn_job *job, int n_row)
{
	if (job->a->d_head == 64) /* sixteen rows of K at constant distances need no register each: a fifth of the time */
		few_run(job, n_row, 64);
	else
		few_run(job, n_row, job->a->d_head);
}
