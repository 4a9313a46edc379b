/* amx.c - AMX: panels by TDPBF16PS; everything else is avx512.c.
 *
 * Weights are the A tile (16 rows of 32 k, for bf16 straight from the file), tokens the B tile (16 pairs of k by 16 tokens, as
 * pack_panel of avx512.c leaves them), C is [16 rows][16 tokens] of fp32, begun with the bias and transposed on its way out.
 * Sums over k run in order, 32 at a time.
 *   MXFP4  2 by 3 tiles (2 by 2 or 1 for what is left): the vector units expand two tiles two steps ahead, a quarter after each product,
 *          into a ring of 8 KB that never leaves L1; again for every 48 tokens, because tiles written to L2 cost more than made twice
 *   bf16   3 by 2 tiles; the next 48 rows are fetched into L2 meanwhile
 * Why these: docs/cpu-kernels.md has every blocking timed.
 * Cost: 16384 flops a product; floor 16 cycles each, 20 with any tile load between them.
 * Test: build/test_kernels, build/test_amx   Bench: moxie bench op --isa amx
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/target.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

TARGET_BEGIN("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,amx-tile,amx-bf16")
#include "kernels/cpu/avx512_util.h"

struct tile_config {
	uint8_t palette, start_row, unused[14];
	uint16_t col_bytes[16];
	uint8_t row[16];
};

enum { TILE = 512, RING = 4, LAG = 2 }; /* bf16 of a tile; steps of expanded weights that are kept; how far ahead they are made */

/* The compiler does not know which memory a tile load reads. */
INLINE void order(void)
{
	__asm__ volatile("" ::: "memory");
}

/* y[t * ldy + r] for n_row rows and n_tok tokens of a 16 by 16 tile c[r][t]. */
INLINE void put_tile(float *y, int ldy, const float *c, int n_row, int n_tok)
{
	__m512i r[16];
	__mmask16 mask = (__mmask16)((1u << n_row) - 1);
	for (int i = 0; i < 16; i++)
		r[i] = _mm512_loadu_si512(c + 16 * i);
	transpose16(r);
	for (int i = 0; i < n_tok; i++)
		_mm512_mask_storeu_ps(y + (int64_t)i * ldy, mask, _mm512_castsi512_ps(r[i]));
}

/* One block of the output, R by P tiles; its C tile i holds rows i / P * 16 .. and tokens i % P * 16 .. */
struct block {
	int n_row, n_tok;  /* that exist */
	const bf16 *b;     /* panels of 16 tokens, ldb apart */
	int64_t ldb;
	int n_step;        /* of 32 k */
	const float *bias; /* [R][16][16] */
	float *c;          /* [R * P][16][16], where the tiles go on their way out */
	float *y;
	int ldy;
};

INLINE void begin(const struct block *k, const int n, const int P)
{
	order();
	_tile_loadd(0, k->bias, 64);
	if (n > 1)
		_tile_loadd(1, k->bias + 1 / P * 256, 64);
	if (n > 2)
		_tile_loadd(2, k->bias + 2 / P * 256, 64);
	if (n > 3)
		_tile_loadd(3, k->bias + 3 / P * 256, 64);
	if (n > 4)
		_tile_loadd(4, k->bias + 4 / P * 256, 64);
	if (n > 5)
		_tile_loadd(5, k->bias + 5 / P * 256, 64);
}

INLINE void end(const struct block *k, const int n, const int P)
{
	_tile_stored(0, k->c, 64);
	if (n > 1)
		_tile_stored(1, k->c + 256, 64);
	if (n > 2)
		_tile_stored(2, k->c + 2 * 256, 64);
	if (n > 3)
		_tile_stored(3, k->c + 3 * 256, 64);
	if (n > 4)
		_tile_stored(4, k->c + 4 * 256, 64);
	if (n > 5)
		_tile_stored(5, k->c + 5 * 256, 64);
	order();
	for (int i = 0; i < n; i++) {
		int r = i / P * 16, t = i % P * 16, n_row = k->n_row - r, n_tok = k->n_tok - t;
		if (n_row > 0 && n_tok > 0)
			put_tile(k->y + (int64_t)t * k->ldy + r, k->ldy, k->c + 256 * i, n_row < 16 ? n_row : 16, n_tok < 16 ? n_tok : 16);
	}
}

static void fill_bias(float *tile, const float *bias, int n_row, int n)
{
	for (int r = 0; r < 16 * n; r++)
		_mm512_storeu_ps(tile + 16 * r, _mm512_set1_ps(bias[r < n_row ? r : n_row - 1]));
}

/* ---- MXFP4 ---- */

/* What the vector units do between products: two tiles a step, a quarter at a time. */
struct maker {
	struct mx_tile tile[2];
	bf16 *ring;         /* [RING][2][TILE] */
	uint16_t *table_at; /* [n_step][32] where in mx_table the scale of a row has its line, in bytes */
	int n_step;
	bool fetch; /* the first to meet these rows: fetches what the next 32 are made of into L2 */
};

INLINE bf16 *ring_at(const struct maker *m, int step, int tile)
{
	return m->ring + ((unsigned)step % RING * 2 + (unsigned)tile) * TILE;
}

/* Of one tile, 16 steps at a time. */
static void find_tables(uint16_t *at, const struct mx_tile *t, int n_step)
{
	for (int s = 0; s < n_step; s += 16) {
		__mmask16 mask = n_step - s < 16 ? (__mmask16)((1u << (n_step - s)) - 1) : 0xffff;
		__m512i v[16];
		for (int r = 0; r < 16; r++) {
			const uint8_t *scl = t->scl + (r < t->n_row ? r : t->n_row - 1) * t->scl_row + s;
			v[r] = _mm512_slli_epi32(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, scl)), 6);
		}
		transpose16(v);
		for (int i = 0; i < 16 && s + i < n_step; i++)
			_mm256_storeu_si256((__m256i *)(void *)(at + (s + i) * 32), _mm512_cvtepi32_epi16(v[i]));
	}
}

INLINE void make(const struct maker *m, int step, const int quarter, const bool full)
{
	const struct mx_tile *t = m->tile + quarter / 2;
	if (step >= m->n_step)
		return;
	const int r0 = quarter % 2 * 8;
	const uint8_t *blk = t->blk + (full || r0 < t->n_row ? r0 : t->n_row - 1) * t->blk_row + step * 16;
	const uint16_t *at = m->table_at + step * 32 + quarter / 2 * 16;
	bf16 *dst = ring_at(m, step, quarter / 2);
#pragma GCC unroll 8
	for (int r = r0; r < r0 + 8; r++) {
		_mm512_store_si512(dst + 32 * r, expand_row(blk, (const char *)mx_table + at[r]));
		if (full || r + 1 < t->n_row)
			blk += t->blk_row;
	}
	if (m->fetch) { /* a line holds four steps of a row: eight rows each step */
		const char *next = (const char *)m->tile->blk + (32 + step % 4 * 8 + quarter * 2) * t->blk_row + step / 4 * 64;
		_mm_prefetch(next, _MM_HINT_T1);
		_mm_prefetch(next + t->blk_row, _MM_HINT_T1);
		if (quarter == 0 && step % 2 == 0)
			_mm_prefetch((const char *)m->tile->scl + 32 * (t->scl_row + step), _MM_HINT_T1);
	}
	order();
}

/* A tile is loaded as soon as its register is free. */
INLINE void mx_2x3(const struct block *k, const struct maker *m, const bool full)
{
	const bf16 *b0 = k->b, *b1 = b0 + k->ldb, *b2 = b1 + k->ldb;
	begin(k, 6, 3);
	_tile_loadd(6, ring_at(m, 0, 0), 64);
	_tile_loadd(7, b0, 64);
	for (int s = 0; s < k->n_step; s++) {
		int next = s + 1 < k->n_step ? s + 1 : s;
		int64_t at = (int64_t)s * TILE;
		_tile_dpbf16ps(0, 6, 7);
		_tile_loadd(7, b1 + at, 64);
		make(m, s + LAG, 0, full);
		_tile_dpbf16ps(1, 6, 7);
		_tile_loadd(7, b2 + at, 64);
		make(m, s + LAG, 1, full);
		_tile_dpbf16ps(2, 6, 7);
		_tile_loadd(6, ring_at(m, s, 1), 64);
		_tile_dpbf16ps(5, 6, 7);
		_tile_loadd(7, b1 + at, 64);
		make(m, s + LAG, 2, full);
		_tile_dpbf16ps(4, 6, 7);
		_tile_loadd(7, b0 + at, 64);
		_tile_dpbf16ps(3, 6, 7);
		_tile_loadd(6, ring_at(m, next, 0), 64);
		_tile_loadd(7, b0 + (int64_t)next * TILE, 64);
		make(m, s + LAG, 3, full);
	}
	end(k, 6, 3);
}

INLINE void mx_2x2(const struct block *k, const struct maker *m, const bool full)
{
	const bf16 *b0 = k->b, *b1 = b0 + k->ldb;
	begin(k, 4, 2);
	_tile_loadd(4, ring_at(m, 0, 0), 64);
	_tile_loadd(6, b0, 64);
	_tile_loadd(7, b1, 64);
	_tile_loadd(5, ring_at(m, 0, 1), 64);
	for (int s = 0; s < k->n_step; s++) {
		int next = s + 1 < k->n_step ? s + 1 : s;
		int64_t at = (int64_t)next * TILE;
		_tile_dpbf16ps(0, 4, 6);
		make(m, s + LAG, 0, full);
		_tile_dpbf16ps(1, 4, 7);
		_tile_loadd(4, ring_at(m, next, 0), 64);
		make(m, s + LAG, 1, full);
		_tile_dpbf16ps(3, 5, 7);
		_tile_loadd(7, b1 + at, 64);
		make(m, s + LAG, 2, full);
		_tile_dpbf16ps(2, 5, 6);
		_tile_loadd(6, b0 + at, 64);
		_tile_loadd(5, ring_at(m, next, 1), 64);
		make(m, s + LAG, 3, full);
	}
	end(k, 4, 2);
}

INLINE void mx_2x1(const struct block *k, const struct maker *m, const bool full)
{
	begin(k, 2, 1);
	for (int s = 0; s < k->n_step; s++) {
		_tile_loadd(6, k->b + (int64_t)s * TILE, 64);
		_tile_loadd(4, ring_at(m, s, 0), 64);
		_tile_dpbf16ps(0, 4, 6);
		make(m, s + LAG, 0, full);
		make(m, s + LAG, 1, full);
		_tile_loadd(5, ring_at(m, s, 1), 64);
		_tile_dpbf16ps(1, 5, 6);
		make(m, s + LAG, 2, full);
		make(m, s + LAG, 3, full);
	}
	end(k, 2, 1);
}

/* All tokens against 32 rows.  full: the rows exist. */
INLINE void mx_rows(struct block k, struct maker m, const bool full)
{
	int n_tok = k.n_tok;
	for (int t = 0, n; t < n_tok; t += 16 * n) {
		int n_panel = (n_tok - t + 15) / 16;
		n = n_panel == 4 ? 2 : n_panel < 3 ? n_panel : 3;
		for (int s = 0; s < LAG; s++)
			for (int q = 0; q < 4; q++)
				make(&m, s, q, full);
		k.n_tok = n_tok - t;
		if (n == 3)
			mx_2x3(&k, &m, full);
		else if (n == 2)
			mx_2x2(&k, &m, full);
		else
			mx_2x1(&k, &m, full);
		k.b += n * k.ldb;
		k.y += (int64_t)n * 16 * k.ldy;
		m.fetch = false;
	}
}

static void mx_panel(const struct mat *w, int r0, struct block k, const float *bias, bf16 *scratch)
{
	_Alignas(64) float c[6 * 256], bias_tile[2 * 256];
	float *y = k.y;
	int n_row = k.n_row;
	k.bias = bias_tile;
	k.c = c;
	for (int r = 0; r < n_row; r += 32) {
		int left = n_row - r, second = left > 16 ? 16 : left - 1; /* no second tile: the last row once more, for nobody */
		struct maker m = { { mx_tile_at(w, r0 + r, left), mx_tile_at(w, r0 + r + second, left - second) }, scratch,
			(uint16_t *)(scratch + RING * 2 * TILE), k.n_step, true };
		for (int i = 0; i < 2; i++)
			find_tables(m.table_at + 16 * i, m.tile + i, k.n_step);
		k.n_row = left;
		k.y = y + r;
		fill_bias(bias_tile, bias + r, left, 2);
		if (left >= 32)
			mx_rows(k, m, true);
		else
			mx_rows(k, m, false);
	}
}

/* ---- bf16 ---- */

/* Rows of a matrix as they lie in the file. */
struct rows {
	const char *tile[3]; /* where each 16 begin */
	size_t row;          /* bytes */
	const char *next;    /* rows to be fetched into L2 meanwhile: a line of n of them each step */
	int n;
};

/* R by P tiles, A and B with one register each. */
INLINE void bf_block(const struct block *k, const struct rows *a, const int R, const int P)
{
	begin(k, R * P, P);
	for (int s = 0; s < k->n_step; s++) {
		int64_t at = (int64_t)s * TILE;
		size_t line = (size_t)s * 64;
		_tile_loadd(6, k->b + at, 64);
		_tile_loadd(7, a->tile[0] + line, a->row);
		_tile_dpbf16ps(0, 7, 6);
		if (R > 1) {
			_tile_loadd(7, a->tile[1] + line, a->row);
			if (P == 2)
				_tile_dpbf16ps(2, 7, 6);
			else
				_tile_dpbf16ps(1, 7, 6);
		}
		if (R > 2) {
			_tile_loadd(7, a->tile[2] + line, a->row);
			if (P == 2)
				_tile_dpbf16ps(4, 7, 6);
			else
				_tile_dpbf16ps(2, 7, 6);
		}
		if (P == 2) { /* back from the last tile of A to the first */
			_tile_loadd(6, k->b + k->ldb + at, 64);
			if (R > 2) {
				_tile_dpbf16ps(5, 7, 6);
				_tile_loadd(7, a->tile[1] + line, a->row);
			}
			if (R > 1) {
				_tile_dpbf16ps(3, 7, 6);
				_tile_loadd(7, a->tile[0] + line, a->row);
			}
			_tile_dpbf16ps(1, 7, 6);
		}
		for (int i = 0; i < a->n; i++)
			_mm_prefetch(a->next + (size_t)i * a->row + line, _MM_HINT_T1);
	}
	end(k, R * P, P);
}

INLINE void bf_rows(struct block k, struct rows a, const int R)
{
	int n_tok = k.n_tok, n_block = (n_tok + 31) / 32;
	for (int i = 0; i < n_block; i++) {
		a.n = 48 * (i + 1) / n_block - 48 * i / n_block;
		k.n_tok = n_tok - 32 * i;
		if (k.n_tok > 16)
			bf_block(&k, &a, R, 2);
		else
			bf_block(&k, &a, R, 1);
		k.b += 2 * k.ldb;
		k.y += (int64_t)32 * k.ldy;
		a.next += (size_t)a.n * a.row;
	}
}

static void bf_panel(const struct mat *w, int r0, struct block k, const float *bias, void *copy)
{
	_Alignas(64) float c[6 * 256], bias_tile[3 * 256];
	float *y = k.y;
	int n_row = k.n_row;
	k.bias = bias_tile;
	k.c = c;
	for (int r = 0; r < n_row; r += 48) {
		int left = n_row - r, n_tile = left > 32 ? 3 : (left + 15) / 16;
		struct rows a = { .row = (size_t)w->n_in * 2 };
		a.next = (const char *)w->data + (size_t)(r0 + r + 48) * a.row;
		for (int i = 0; i < n_tile; i++) {
			a.tile[i] = (const char *)w->data + (size_t)(r0 + r + 16 * i) * a.row;
			if (left - 16 * i < 16) { /* a tile has 16 rows: the last few are copied, so as not to read past the matrix */
				memcpy(copy, a.tile[i], (size_t)(left - 16 * i) * a.row);
				a.tile[i] = copy;
			}
		}
		k.n_row = left;
		k.y = y + r;
		fill_bias(bias_tile, bias + r, left, n_tile);
		if (n_tile == 3)
			bf_rows(k, a, 3);
		else if (n_tile == 2)
			bf_rows(k, a, 2);
		else
			bf_rows(k, a, 1);
	}
}

static void panel(const struct mat *w, int r0, int n_row, const void *a, int n_tok, const float *bias, float *y, int ldy, void *expanded)
{
	/* static: the compiler takes LDTILECFG for a load of eight bytes, and would not keep the rest of a local one */
	static const struct tile_config config = { .palette = 1, .col_bytes = { 64, 64, 64, 64, 64, 64, 64, 64 },
		.row = { 16, 16, 16, 16, 16, 16, 16, 16 } };
	struct block k = { .n_row = n_row, .n_tok = n_tok, .b = a, .ldb = (int64_t)pad_to(w->n_in, MX_CHUNK) * 16, .n_step = w->n_in / 32,
		.y = y, .ldy = ldy };
	_tile_loadconfig(&config);
	if (w->mx)
		mx_panel(w, r0, k, bias, expanded);
	else
		bf_panel(w, r0, k, bias, expanded);
	_tile_release(); /* a thread that leaves tiles in use pays for them at every context switch */
}
TARGET_END

/* CPUID leaf 7 tells of AMX-BF16 and AMX-TILE; then Linux must grant the tile state to this process. */
static const char *amx_missing(void)
{
	enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
	unsigned a, b, c, d;
	if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1))
		return "AMX BF16";
	return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) ? "permission to use AMX tiles (arch_prctl)" : NULL;
}

const char *cpu_isa_amx(struct cpu_ops *ops)
{
	const char *missing = cpu_isa_avx512(ops);
	if (!missing)
		missing = amx_missing();
	ops->name = "cpu amx-bf16";
	ops->panel = panel;
	ops->unit = 32;
	ops->block = 96; /* whole blocks of 32 and of 48 rows */
	ops->min_panel = 8;
	ops->min_panel_mx = 6;
	ops->tok_block = 192;
	return missing;
}
#else
const char *cpu_isa_amx(struct cpu_ops *ops)
{
	(void)ops;
	return "x86-64 Linux";
}
#endif
