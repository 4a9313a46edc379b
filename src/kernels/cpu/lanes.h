/* lanes.h - loops written once for every vector width: exp, SwiGLU, RMSNorm, the router's fp32 dots, attention.
 *
 * The including file has set the target and defined, for VL floats in a `vf`:
 *   vf_load vf_store vf_set1 vf_fma(a, b, c) = a * b + c, vf_max vf_min (the second operand where either is NaN) vf_sum vf_top
 *   vf_bf16 (VL bf16 in memory), vf_scale2(p, n) = p * 2^n, vf_at_least(v, x, lo) = v or 0 where x < lo,
 *   vf_range(v, i, a, b) = v in lanes a <= i + lane < b, else -inf, vf_unzip(p, &even, &odd) of 2 VL floats in memory
 * and for attention
 *   LANES_PAIR  1 where the file also brings pairs of bf16: vf_dp, attn_load_k2, attn_load_v2, attn_pack2
 *
 * exp: Cody-Waite, degree 6, relative error < 2e-7; exact at 0; 0 below -87.3; NaN stays NaN.
 */
static inline vf lanes_exp(vf x)
{
	const vf magic = vf_set1(0x1.8p23f), lo = vf_set1(-87.3f);
	vf c = vf_min(vf_set1(88.7f), vf_max(lo, x));
	vf n = vf_fma(c, vf_set1(0x1.715476p0f), magic) - magic;
	vf r = vf_fma(n, vf_set1(-0x1.62e4p-1f), c);
	r = vf_fma(n, vf_set1(-0x1.7f7d1cp-20f), r);
	vf p = vf_set1(1.3888889e-3f);
	p = vf_fma(p, r, vf_set1(8.3333333e-3f));
	p = vf_fma(p, r, vf_set1(4.1666667e-2f));
	p = vf_fma(p, r, vf_set1(1.6666667e-1f));
	p = vf_fma(p, r, vf_set1(0.5f));
	p = vf_fma(p, r, vf_set1(1));
	p = vf_fma(p, r, vf_set1(1));
	return vf_at_least(vf_scale2(p, n), x, lo);
}

static vf swiglu_lanes(vf g, vf l, vf alpha, vf limit)
{
	g = vf_min(limit, g);
	l = vf_max(-limit, vf_min(limit, l));
	return g / (vf_set1(1) + lanes_exp(-alpha * g)) * (l + vf_set1(1));
}

static void lanes_swiglu(float *act, const float *u, int n, float alpha, float limit)
{
	vf a = vf_set1(alpha), lim = vf_set1(limit), g, l;
	int i = 0;
	for (; i + VL <= n; i += VL) {
		vf_unzip(u + 2 * i, &g, &l);
		vf_store(act + i, swiglu_lanes(g, l, a, lim));
	}
	if (i < n) { /* the same operations on a padded copy: a row's bits do not depend on where it lies in its block */
		float pad[2 * VL] = { 0 }, out[VL];
		memcpy(pad, u + 2 * i, sizeof(float) * 2 * (size_t)(n - i));
		vf_unzip(pad, &g, &l);
		vf_store(out, swiglu_lanes(g, l, a, lim));
		memcpy(act + i, out, sizeof(float) * (size_t)(n - i));
	}
}

static void lanes_combine(float *x, const float *const *y, const float *w, int n_used, int n)
{
	int i = 0;
	for (; i + VL <= n; i += VL) {
		vf sum = vf_set1(0);
		for (int s = 0; s < n_used; s++)
			sum = vf_fma(vf_set1(w[s]), vf_load(y[s] + i), sum);
		vf_store(x + i, vf_load(x + i) + sum);
	}
	for (; i < n; i++) {
		float sum = 0;
		for (int s = 0; s < n_used; s++)
			sum = fmaf(w[s], y[s][i], sum);
		x[i] += sum;
	}
}

/* n_embd is a multiple of 32. */
static void lanes_rmsnorm(float *h, const float *x, const struct weight *w, int n, float eps)
{
	vf s0 = vf_set1(0), s1 = s0;
	for (int i = 0; i < n; i += 2 * VL) {
		vf a = vf_load(x + i), b = vf_load(x + i + VL);
		s0 = vf_fma(a, a, s0);
		s1 = vf_fma(b, b, s1);
	}
	vf r = vf_set1(1 / sqrtf(vf_sum(s0 + s1) / (float)n + eps));
	for (int i = 0; i < n; i += VL) {
		vf v = w->dtype == DT_F32 ? vf_load((const float *)w->data + i) : vf_bf16((const bf16 *)w->data + i);
		vf_store(h + i, vf_load(x + i) * r * v);
	}
}

static void lanes_dot_f32(float *y, const float *a, const bf16 *w, int n_row, int n_in)
{
	for (int r = 0; r < n_row; r += 4) {
		const bf16 *row[4];
		vf s[4][2];
		for (int i = 0; i < 4; i++) {
			row[i] = w + (int64_t)(r + i < n_row ? r + i : n_row - 1) * n_in;
			s[i][0] = s[i][1] = vf_set1(0);
		}
		for (int k = 0; k < n_in; k += 2 * VL)
			for (int i = 0; i < 4; i++) {
				s[i][0] = vf_fma(vf_bf16(row[i] + k), vf_load(a + k), s[i][0]);
				s[i][1] = vf_fma(vf_bf16(row[i] + k + VL), vf_load(a + k + VL), s[i][1]);
			}
		for (int i = 0; i < 4 && r + i < n_row; i++)
			y[r + i] = vf_sum(s[i][0] + s[i][1]);
	}
}

/* ---- attention: tiles of up to KV_PAGE keys against all rows of a job ---- */

/* Scratch of a job.  With pairs, q, k and v hold two bf16 (two d, two d, two keys) where they else hold one float. */
struct attn_tile {
	float *q;  /* [n_row padded, n_kk] */
	float *k;  /* [n_kk, KV_PAGE]: keys side by side */
	float *v;  /* [KV_PAGE or half, d_head] */
	float *s;  /* [n_row padded, KV_PAGE]: scores, then weights */
	float *p;  /* [n_row padded, KV_PAGE / 2]: weights as pairs */
};

static size_t lanes_attn_tmp_bytes(int n_row, int d_head)
{
	size_t row = (size_t)pad_to(n_row, ATTN_ROW_PAD), d = (size_t)pad_to(d_head, VL);
	return sizeof(float) * (row * d + 2 * KV_PAGE * d + 2 * row * KV_PAGE);
}

/* c[4][V * VL] += a[4][n_k] . b[n_k][...]; with pair each element of a and b is two bf16. */
INLINE void attn_mac(float *c, int ldc, const float *a, int lda, const float *b, int ldb, int n_k, const int V, const bool pair)
{
	vf acc[4][4];
	for (int r = 0; r < 4; r++)
		for (int v = 0; v < V; v++)
			acc[r][v] = vf_load(c + r * ldc + v * VL);
	for (int k = 0; k < n_k; k++) {
		vf bv[4];
		for (int v = 0; v < V; v++)
			bv[v] = vf_load(b + (size_t)k * (size_t)ldb + v * VL);
		for (int r = 0; r < 4; r++) {
			vf av = vf_set1(a[r * lda + k]);
			for (int v = 0; v < V; v++)
#if LANES_PAIR
				acc[r][v] = pair ? vf_dp(acc[r][v], av, bv[v]) : vf_fma(av, bv[v], acc[r][v]);
#else
				acc[r][v] = vf_fma(av, bv[v], acc[r][v]);
#endif
		}
	}
	(void)pair;
	for (int r = 0; r < 4; r++)
		for (int v = 0; v < V; v++)
			vf_store(c + r * ldc + v * VL, acc[r][v]);
}

/* c[n_row][n_col] += a . b, n_row a multiple of 4, n_col of VL. */
INLINE void attn_gemm(float *c, int ldc, const float *a, int lda, const float *b, int ldb, int n_row, int n_col, int n_k, const bool pair)
{
	const int W = VL == 16 ? 4 : 2; /* vectors a block: 16 accumulators of 32, or 8 of 16 */
	for (int r = 0; r < n_row; r += 4) {
		int i = 0;
		for (; i + W * VL <= n_col; i += W * VL)
			attn_mac(c + r * ldc + i, ldc, a + r * lda, lda, b + i, ldb, n_k, W, pair);
		for (; i < n_col; i += VL)
			attn_mac(c + r * ldc + i, ldc, a + r * lda, lda, b + i, ldb, n_k, 1, pair);
	}
}

/* VL elements of a cache from e on. */
INLINE vf attn_load(const struct kv_view *kv, const void *base, int64_t e)
{
	float lane[VL];
	if (kv->dtype == DT_F32)
		return vf_load((const float *)base + e);
	if (kv->dtype == DT_BF16)
		return vf_bf16((const bf16 *)base + e);
	for (int l = 0; l < VL; l++)
		lane[l] = kv_at(kv, base, e + l);
	return vf_load(lane);
}

/* k[d][key] and v[key][d] as floats; keys outside [from, n) are not read and count as zero: memory there may be anything. */
static void attn_load_kv(const struct attn_tile *t, const struct kv_view *kv, int64_t at, int from, int n, int d_head)
{
	for (int j = 0; j < KV_PAGE; j++)
		for (int i = 0; i < d_head; i += VL) {
			vf k = vf_set1(0), v = k;
			if (j >= from && j < n) {
				int64_t e = at + (int64_t)j * d_head + i;
				k = attn_load(kv, kv->k, e);
				v = attn_load(kv, kv->v, e);
			}
			float lane[VL];
			vf_store(lane, k);
			vf_store(t->v + j * d_head + i, v);
			for (int l = 0; l < VL; l++)
				t->k[(i + l) * KV_PAGE + j] = lane[l];
		}
}

/* Row r's scores of the tile become weights; a and b bound the keys it may see.  o is rescaled where the maximum moves. */
static void attn_softmax(const struct attn_job *j, const struct attn_tile *t, int r, int a, int b)
{
	float *s = t->s + r * KV_PAGE, *o = j->o + r * j->a->d_head;
	vf scale = vf_set1(j->a->scale), top = vf_set1(-INFINITY), sum = vf_set1(0), x[KV_PAGE / VL];
	for (int i = 0; i < KV_PAGE / VL; i++) {
		x[i] = vf_range(vf_load(s + i * VL) * scale, i * VL, a, b);
		top = vf_max(top, x[i]);
	}
	float m = fmaxf(j->m[r], vf_top(top));
	for (int i = 0; i < KV_PAGE / VL; i++) {
		x[i] = lanes_exp(x[i] - vf_set1(m));
		vf_store(s + i * VL, x[i]);
		sum += x[i];
	}
	if (m > j->m[r]) {
		float f = j->m[r] == -INFINITY ? 0 : expf(j->m[r] - m);
		j->m[r] = m;
		j->l[r] *= f;
		for (int i = 0; i < j->a->d_head; i += VL)
			vf_store(o + i, vf_load(o + i) * vf_set1(f));
	}
	j->l[r] += vf_sum(sum);
}

INLINE void attn_run(const struct attn_job *j, const bool pair)
{
	const struct attn_args *a = j->a;
	int m = a->n_head / a->n_head_kv, d = a->d_head, n_row = j->n_tok * m, padded = pad_to(n_row, ATTN_ROW_PAD), n_kk = pair ? d / 2 : d;
	struct attn_tile t = { .q = j->tmp };
	t.k = t.q + (size_t)padded * (size_t)pad_to(d, VL);
	t.v = t.k + KV_PAGE * pad_to(d, VL);
	t.s = t.v + KV_PAGE * pad_to(d, VL);
	t.p = t.s + padded * KV_PAGE;
	for (int r = 0; r < padded; r++) {
		int row = r < n_row ? r : n_row - 1; /* rows of padding repeat the last one, their results are dropped */
		const float *q = (const float *)a->q + ((int64_t)(j->row0 + row / m) * a->n_head + j->ihkv * m + row % m) * d;
#if LANES_PAIR
		if (pair)
			attn_pack2(t.q + r * n_kk, q, d);
		else
#endif
			memcpy(t.q + r * n_kk, q, sizeof(float) * (size_t)d);
	}
	for (int r = 0; r < n_row; r++) {
		j->m[r] = -INFINITY;
		j->l[r] = 0;
	}
	memset(j->o, 0, sizeof(float) * (size_t)padded * (size_t)d);

	/* A tile is a whole page, so that a key always has the same lane and a row's sums the same order in any batch. */
	for (int base = j->lo - j->lo % KV_PAGE; base < j->hi; base += KV_PAGE) {
		int from = j->lo > base ? j->lo - base : 0, n = j->hi - base < KV_PAGE ? j->hi - base : KV_PAGE;
		int64_t at = kv_row(a->kv, j->seq, base, j->ihkv, a->n_head_kv, d);
#if LANES_PAIR
		if (pair) {
			int64_t next = base + KV_PAGE < j->hi ? kv_row(a->kv, j->seq, base + KV_PAGE, j->ihkv, a->n_head_kv, d) : at;
			attn_load_k2(t.k, (const bf16 *)a->kv->k + at, (const bf16 *)a->kv->k + next, from, n, d);
			attn_load_v2(t.v, (const bf16 *)a->kv->v + at, (const bf16 *)a->kv->v + next, from, n, d);
		} else
#endif
			attn_load_kv(&t, a->kv, at, from, n, d);
		memset(t.s, 0, sizeof(float) * (size_t)padded * KV_PAGE);
		attn_gemm(t.s, KV_PAGE, t.q, n_kk, t.k, KV_PAGE, padded, KV_PAGE, n_kk, pair);
		for (int r = 0; r < n_row; r++) {
			int pos = j->pos0 + r / m, first = attn_first_key(pos, a->window) - base, end = pos + 1 - base;
			first = first > from ? first : from;
			end = end < n ? end : n;
			if (first < end)
				attn_softmax(j, &t, r, first, end);
			else /* this row sees none of these keys: zero weights leave its sums as they are */
				memset(t.s + r * KV_PAGE, 0, sizeof(float) * KV_PAGE);
#if LANES_PAIR
			if (pair)
				attn_pack2(t.p + r * (KV_PAGE / 2), t.s + r * KV_PAGE, KV_PAGE);
#endif
		}
		if (pair)
			attn_gemm(j->o, d, t.p, KV_PAGE / 2, t.v, d, padded, d, (n + 1) / 2, pair);
		else
			attn_gemm(j->o, d, t.s, KV_PAGE, t.v, d, padded, d, n, pair);
	}
}
