/* amx.c - AMX: panels by TDPBF16PS; everything else is avx512.c.
 *
 * Weights are the A tile (16 rows of 32 k), tokens the B tile (16 pairs of k by 16 tokens), C is [16 rows][16 tokens] of fp32, begun
 * with the bias and transposed on its way out.  Sums over k run in order, 32 at a time.
 * 32 rows meet 48 tokens at once: 2 by 3 tiles, 2 by 2 or 1 for what is left.  The vector units make the A tiles of the next two steps
 * between the products, from codes or by copying the file's rows, into a ring of 8 KB that stays in L1; again for every 48 tokens,
 * because tiles written to L2 cost more than made twice.
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

TARGET_BEGIN("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,prfchw,amx-tile,amx-bf16")
#include "kernels/cpu/avx512_util.h"

struct tile_config {
	uint8_t palette, start_row, unused[14];
	uint16_t col_bytes[16];
	uint8_t row[16];
};

enum { TILE = 512, RING = 2 }; /* bf16 of a tile; pairs of steps that are kept */

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

/* Lines that end() will write are fetched meanwhile: two tokens for each two steps. */
INLINE void touch(const struct block *k, int p)
{
	for (int t = 2 * p; t < 2 * p + 2 && t < k->n_tok; t++) {
		float *y = k->y + (int64_t)t * k->ldy;
		__builtin_prefetch(y, 1, 2);
		__builtin_prefetch(y + 16, 1, 2);
	}
}

/* ---- weights on their way into L1 ---- */

enum kind { MX, BF, SLOW }; /* SLOW: either, where rows are missing or scales need more than 16-bit arithmetic */

/* 32 rows, of which the vector units make tiles, two steps of four rows at a time, between the products. */
struct maker {
	const uint8_t *data, *scl;  /* first row */
	int64_t row, scl_row;       /* bytes between rows */
	int n_row;                  /* that exist; the last is repeated for nobody */
	int n_step;                 /* of 32 k */
	bf16 *ring;                 /* [RING][2 steps][2 tiles][TILE] */
	bool mx, edge;              /* edge: see mx_range */
	__m512i table;              /* what a code becomes: e2m1, with its exponent 127 lower where not edge */
	const uint8_t *next, *next_scl; /* n_next rows to be fetched into L2 meanwhile */
	int n_next;
};

INLINE bf16 *ring_at(const struct maker *m, int step, int tile)
{
	return m->ring + ((unsigned)step / 2 % RING * 4 + (unsigned)step % 2 * 2 + (unsigned)tile) * TILE;
}

/* Scales all in [64, 252]: e2m1 * 2^(s - 127) is table[code] + (s << 7) as 16-bit integers, if zero is a number that the smallest
 * scale here makes 0 and any other scale less than 2^-62 of its group's smallest weight.  Else: edge, fp32 arithmetic. */
static void mx_range(struct maker *m)
{
	__m512i lo = _mm512_set1_epi8(-1), hi = _mm512_setzero_si512();
	for (int r = 0; r < m->n_row; r++)
		for (int i = 0; i < m->n_step; i += 64) {
			__mmask64 mask = m->n_step - i < 64 ? ((__mmask64)1 << (m->n_step - i)) - 1 : ~(__mmask64)0;
			const uint8_t *at = m->scl + r * m->scl_row + i;
			hi = _mm512_max_epu8(hi, _mm512_maskz_loadu_epi8(mask, at));
			lo = _mm512_min_epu8(lo, _mm512_mask_loadu_epi8(lo, mask, at));
		}
	uint8_t l[64], h[64];
	_mm512_storeu_si512(l, lo);
	_mm512_storeu_si512(h, hi);
	for (int i = 1; i < 64; i++) {
		l[0] = l[i] < l[0] ? l[i] : l[0];
		h[0] = h[i] > h[0] ? h[i] : h[0];
	}
	m->table = E2M1_BF16;
	m->edge = l[0] < 64 || h[0] > 252;
	if (m->edge)
		return;
	const __m512i zero = _mm512_set1_epi16((short)(-l[0] * 128)), sign = _mm512_set1_epi16((short)0x8000);
	m->table = _mm512_mask_mov_epi16(_mm512_sub_epi16(m->table, _mm512_set1_epi16(127 * 128)), 0x00010001, zero);
	m->table = _mm512_mask_mov_epi16(m->table, 0x01000100, _mm512_xor_si512(zero, sign));
}

/* w[i] * 2^(s - 127) in fp32, upper half: exact where it is normal.  s: the scale in each dword, its lane's. */
INLINE __m512i scale_edge(__m512i w, __m512i s)
{
	const __m512i high = _mm512_set1_epi32((int)0xffff0000);
	__m512i e = _mm512_max_epu32(_mm512_slli_epi32(s, 23), _mm512_set1_epi32(0x00400000)); /* s = 0 is 2^-127 */
	__m512 f = _mm512_castsi512_ps(_mm512_mask_mov_epi32(e, _mm512_cmpeq_epi32_mask(s, _mm512_set1_epi32(255)), _mm512_set1_epi32(0x7fc00000)));
	__m512i even = _mm512_castps_si512(_mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(w, 16)), f));
	__m512i odd = _mm512_castps_si512(_mm512_mul_ps(_mm512_castsi512_ps(_mm512_and_si512(w, high)), f));
	return _mm512_or_si512(_mm512_srli_epi32(even, 16), _mm512_and_si512(odd, high));
}

/* Two tiles' rows of one row of weights: words that begin with the nibbles wanted; lane i of them has scale byte at[i] of s4. */
INLINE void expand_pair(bf16 *dst, __m512i first, __m512i second, uint32_t s4, __m512i at, __m512i table, const bool edge)
{
	__m512i s = _mm512_shuffle_epi8(_mm512_set1_epi32((int)s4), at); /* every word: the scale in its upper byte */
	__m512i a = _mm512_permutexvar_epi16(first, table), b = _mm512_permutexvar_epi16(second, table);
	if (!edge) {
		s = _mm512_srli_epi16(s, 1);
		a = _mm512_add_epi16(a, s);
		b = _mm512_add_epi16(b, s);
	} else {
		s = _mm512_srli_epi32(s, 24);
		a = scale_edge(a, s);
		b = scale_edge(b, s);
	}
	_mm512_store_si512(dst, a);
	_mm512_store_si512(dst + 2 * TILE, b);
}

/* Which scale byte goes to the upper byte of the words of lanes 0, 1, 2, 3; the lower one is zero. */
#define SCALES(a, b, c, d) \
	_mm512_set_epi64(0x0080008000800080 | (int64_t)0x0100010001000100 * (d), 0x0080008000800080 | (int64_t)0x0100010001000100 * (d), \
	                 0x0080008000800080 | (int64_t)0x0100010001000100 * (c), 0x0080008000800080 | (int64_t)0x0100010001000100 * (c), \
	                 0x0080008000800080 | (int64_t)0x0100010001000100 * (b), 0x0080008000800080 | (int64_t)0x0100010001000100 * (b), \
	                 0x0080008000800080 | (int64_t)0x0100010001000100 * (a), 0x0080008000800080 | (int64_t)0x0100010001000100 * (a))
#define SHIFTS(a, b, c, d) \
	_mm512_set_epi64(0x0001000100010001 * (d), 0x0001000100010001 * (d), 0x0001000100010001 * (c), 0x0001000100010001 * (c), \
	                 0x0001000100010001 * (b), 0x0001000100010001 * (b), 0x0001000100010001 * (a), 0x0001000100010001 * (a))

/* Rows 4 piece .. of steps 2 p and 2 p + 1.  The codes of four groups are 64 bytes: step j of them is nibble j of every word; of the
 * last two groups, 32 bytes, nibbles 0 and 1, then 2 and 3; of the last one 0 to 3.  pack_panel has the tokens in the same order. */
INLINE void make_rows(const struct maker *m, int p, const int piece, const bool mx, const bool edge, const bool full)
{
	const int r0 = 4 * piece;
	if (2 * p >= m->n_step)
		return;
	bf16 *dst = ring_at(m, 2 * p, piece / 4) + r0 % 16 * 32;
	const int first = full || r0 < m->n_row ? r0 : m->n_row - 1;
	if (!mx) {
		const uint8_t *src = m->data + first * m->row + p * 128;
		bool both = 2 * p + 1 < m->n_step;
#pragma GCC unroll 4
		for (int r = r0; r < r0 + 4; r++, dst += 32) {
			_mm512_store_si512(dst, _mm512_loadu_si512(src));
			if (both)
				_mm512_store_si512(dst + 2 * TILE, _mm512_loadu_si512(src + 64));
			if (full || r + 1 < m->n_row)
				src += m->row;
		}
		for (int i = piece; i < m->n_next; i += 8) {
			const char *line = (const char *)m->next + i * m->row + p * 128;
			_mm_prefetch(line, _MM_HINT_T1);
			_mm_prefetch(line + 64, _MM_HINT_T1);
		}
		order();
		return;
	}
	const int quad = p / 2, n_quad = m->n_step / 4;
	const uint8_t *blk = m->data + first * m->row + quad * 64, *scl = m->scl + first * m->scl_row + quad * 4;
	if (quad < n_quad) {
		const __m512i shift = _mm512_set1_epi16((short)(p % 2 * 8));
#pragma GCC unroll 4
		for (int r = r0; r < r0 + 4; r++, dst += 32) {
			uint32_t s4;
			memcpy(&s4, scl, 4);
			__m512i v = _mm512_srlv_epi16(_mm512_loadu_si512(blk), shift);
			expand_pair(dst, v, _mm512_srli_epi16(v, 4), s4, SCALES(0, 1, 2, 3), m->table, edge);
			if (full || r + 1 < m->n_row)
				blk += m->row, scl += m->scl_row;
		}
	} else
		for (int r = r0; r < r0 + 4; r++, dst += 32) {
			uint16_t s2;
			if (p == 2 * n_quad && m->n_step % 4 > 1) {
				memcpy(&s2, scl, 2);
				__m512i v = _mm512_srlv_epi16(_mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)blk)), SHIFTS(0, 0, 4, 4));
				expand_pair(dst, v, _mm512_srli_epi16(v, 8), s2, SCALES(0, 1, 0, 1), m->table, edge);
			} else {
				int at = m->n_step % 4 - 1; /* groups of these that came before */
				__m512i v = _mm512_srlv_epi16(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)(blk + 16 * at))), SHIFTS(0, 4, 8, 12));
				expand_pair(dst, v, v, scl[at], SCALES(0, 0, 0, 0), m->table, edge);
			}
			if (full || r + 1 < m->n_row)
				blk += m->row, scl += m->scl_row;
		}
	/* A line holds four steps of a row: half of the rows in each pair of steps. */
	for (int i = piece; 2 * i < m->n_next; i += 8)
		_mm_prefetch((const char *)m->next + (2 * i + p % 2) * m->row + quad * 64, _MM_HINT_T1);
	if (piece == 0 && p * 64 < m->n_next * m->scl_row)
		_mm_prefetch((const char *)m->next_scl + p * 64, _MM_HINT_T1);
	order();
}

static __attribute__((noinline)) void make_slow(const struct maker *m, int p, int piece)
{
	if (!m->mx)
		make_rows(m, p, piece, false, false, false);
	else if (m->edge)
		make_rows(m, p, piece, true, true, false);
	else
		make_rows(m, p, piece, true, false, false);
}

INLINE void make(const struct maker *m, int p, const int piece, const enum kind kind)
{
	if (kind == SLOW)
		make_slow(m, p, piece);
	else
		make_rows(m, p, piece, kind == MX, false, true);
}

/* ---- products: 2 by P tiles ---- */

/* A tile is loaded as soon as its register is free.  The tiles of the next two steps are made meanwhile, all before the first is loaded. */
INLINE void rows_3(const struct block *k, const struct maker *m, const enum kind kind)
{
	const bf16 *b0 = k->b, *b1 = b0 + k->ldb, *b2 = b1 + k->ldb;
	begin(k, 6, 3);
	_tile_loadd(6, ring_at(m, 0, 0), 64);
	_tile_loadd(7, b0, 64);
	for (int p = 0; 2 * p < k->n_step; p++) {
		touch(k, p);
#pragma GCC unroll 2
		for (int h = 0; h < 2; h++) {
			int s = 2 * p + h, next = s + 1 < k->n_step ? s + 1 : s;
			int64_t at = (int64_t)s * TILE;
			if (s >= k->n_step)
				break;
			_tile_dpbf16ps(0, 6, 7);
			_tile_loadd(7, b1 + at, 64);
			make(m, p + 1, 4 * h, kind);
			_tile_dpbf16ps(1, 6, 7);
			_tile_loadd(7, b2 + at, 64);
			make(m, p + 1, 4 * h + 1, kind);
			_tile_dpbf16ps(2, 6, 7);
			_tile_loadd(6, ring_at(m, s, 1), 64);
			_tile_dpbf16ps(5, 6, 7);
			_tile_loadd(7, b1 + at, 64);
			make(m, p + 1, 4 * h + 2, kind);
			_tile_dpbf16ps(4, 6, 7);
			_tile_loadd(7, b0 + at, 64);
			make(m, p + 1, 4 * h + 3, kind);
			_tile_dpbf16ps(3, 6, 7);
			_tile_loadd(6, ring_at(m, next, 0), 64);
			_tile_loadd(7, b0 + (int64_t)next * TILE, 64);
		}
	}
	end(k, 6, 3);
}

INLINE void rows_2(const struct block *k, const struct maker *m, const enum kind kind)
{
	const bf16 *b0 = k->b, *b1 = b0 + k->ldb;
	begin(k, 4, 2);
	_tile_loadd(4, ring_at(m, 0, 0), 64);
	_tile_loadd(6, b0, 64);
	_tile_loadd(7, b1, 64);
	_tile_loadd(5, ring_at(m, 0, 1), 64);
	for (int p = 0; 2 * p < k->n_step; p++) {
		touch(k, p);
#pragma GCC unroll 2
		for (int h = 0; h < 2; h++) {
			int s = 2 * p + h, next = s + 1 < k->n_step ? s + 1 : s;
			int64_t at = (int64_t)next * TILE;
			if (s >= k->n_step)
				break;
			_tile_dpbf16ps(0, 4, 6);
			make(m, p + 1, 4 * h, kind);
			_tile_dpbf16ps(1, 4, 7);
			_tile_loadd(4, ring_at(m, next, 0), 64);
			make(m, p + 1, 4 * h + 1, kind);
			_tile_dpbf16ps(3, 5, 7);
			_tile_loadd(7, b1 + at, 64);
			make(m, p + 1, 4 * h + 2, kind);
			make(m, p + 1, 4 * h + 3, kind);
			_tile_dpbf16ps(2, 5, 6);
			_tile_loadd(6, b0 + at, 64);
			_tile_loadd(5, ring_at(m, next, 1), 64);
		}
	}
	end(k, 4, 2);
}

INLINE void rows_1(const struct block *k, const struct maker *m, const enum kind kind)
{
	begin(k, 2, 1);
	for (int s = 0; s < k->n_step; s++) {
		if (s % 2 == 0)
			touch(k, s / 2);
		_tile_loadd(6, k->b + (int64_t)s * TILE, 64);
		_tile_loadd(4, ring_at(m, s, 0), 64);
		_tile_dpbf16ps(0, 4, 6);
		_tile_loadd(5, ring_at(m, s, 1), 64);
		_tile_dpbf16ps(1, 5, 6);
		if (s % 2 == 0) {
			make(m, s / 2 + 1, 0, kind);
			make(m, s / 2 + 1, 1, kind);
			make(m, s / 2 + 1, 2, kind);
			make(m, s / 2 + 1, 3, kind);
		} else {
			make(m, s / 2 + 1, 4, kind);
			make(m, s / 2 + 1, 5, kind);
			make(m, s / 2 + 1, 6, kind);
			make(m, s / 2 + 1, 7, kind);
		}
	}
	end(k, 2, 1);
}

/* All tokens against 32 rows. */
INLINE void rows(struct block k, struct maker m, const enum kind kind)
{
	int n_tok = k.n_tok, n_all = (n_tok + 15) / 16, n_done = 0;
	const uint8_t *next = m.next, *next_scl = m.next_scl;
	for (int t = 0, n; t < n_tok; t += 16 * n) {
		int n_panel = (n_tok - t + 15) / 16;
		n = n_panel == 4 ? 2 : n_panel < 3 ? n_panel : 3;
		/* A share of the next rows with each block of tokens: a core has few buffers for lines that come from memory, and the tiles
		 * from L2 need them too. */
		m.next = next + 32 * n_done / n_all * m.row;
		m.next_scl = next_scl + 32 * n_done / n_all * m.scl_row;
		m.n_next = 32 * (n_done + n) / n_all - 32 * n_done / n_all;
		n_done += n;
		for (int i = 0; i < 8; i++)
			make(&m, 0, i, kind);
		k.n_tok = n_tok - t;
		if (n == 3)
			rows_3(&k, &m, kind);
		else if (n == 2)
			rows_2(&k, &m, kind);
		else
			rows_1(&k, &m, kind);
		k.b += n * k.ldb;
		k.y += (int64_t)n * 16 * k.ldy;
	}
}

static void rows_mx(struct block k, struct maker m) { rows(k, m, MX); }
static void rows_bf(struct block k, struct maker m) { rows(k, m, BF); }
static void rows_slow(struct block k, struct maker m) { rows(k, m, SLOW); }

/* Tokens in the order of make_rows(). */
static void pack_panel(void *dst, const float *const *row, int n_row, int n_in, bool mx)
{
	const __m512i in_group = MX_ORDER;
	bf16 *to = dst;
	for (int k = 0, n; k < n_in; k += 32 * n) {
		__m512i step[4][16];
		n = !mx || n_in - k < 64 ? 1 : n_in - k < 128 ? 2 : 4;
		for (int i = 0; i < 16; i++) {
			__m512i v[4];
			for (int j = 0; j < n; j++) {
				v[j] = i < n_row ? round32(row[i] + k + 32 * j) : _mm512_setzero_si512();
				if (mx) /* nibble l of a group's words in lane l */
					v[j] = _mm512_permutexvar_epi16(in_group, v[j]);
			}
			if (n == 4) {
				__m512i a = _mm512_shuffle_i32x4(v[0], v[1], 0x44), b = _mm512_shuffle_i32x4(v[0], v[1], 0xee);
				__m512i c = _mm512_shuffle_i32x4(v[2], v[3], 0x44), d = _mm512_shuffle_i32x4(v[2], v[3], 0xee);
				step[0][i] = _mm512_shuffle_i32x4(a, c, 0x88);
				step[1][i] = _mm512_shuffle_i32x4(a, c, 0xdd);
				step[2][i] = _mm512_shuffle_i32x4(b, d, 0x88);
				step[3][i] = _mm512_shuffle_i32x4(b, d, 0xdd);
			} else if (n == 2) {
				__m512i a = _mm512_shuffle_i32x4(v[0], v[1], 0x44), b = _mm512_shuffle_i32x4(v[0], v[1], 0xee);
				step[0][i] = _mm512_shuffle_i32x4(a, a, 0xd8);
				step[1][i] = _mm512_shuffle_i32x4(b, b, 0xd8);
			} else
				step[0][i] = v[0];
		}
		for (int j = 0; j < n; j++, to += TILE) {
			transpose16(step[j]);
			for (int i = 0; i < 16; i++)
				_mm512_storeu_si512(to + 32 * i, step[j][i]);
		}
	}
}

static void panel(const struct mat *w, int r0, int n_row, const void *a, int n_tok, const float *bias, float *y, int ldy, void *expanded)
{
	/* static: the compiler takes LDTILECFG for a load of eight bytes, and would not keep the rest of a local one */
	static const struct tile_config config = { .palette = 1, .col_bytes = { 64, 64, 64, 64, 64, 64, 64, 64 },
		.row = { 16, 16, 16, 16, 16, 16, 16, 16 } };
	_Alignas(64) float c[6 * 256], bias_tile[2 * 256];
	struct block k = { .n_row = n_row, .n_tok = n_tok, .b = a, .ldb = (int64_t)packed_row(w->n_in) * 16, .n_step = w->n_in / 32,
		.bias = bias_tile, .c = c, .ldy = ldy };
	struct maker m = { .mx = w->mx, .row = w->mx ? w->n_in / 2 : w->n_in * 2, .scl_row = w->n_in / MX_GROUP, .n_step = k.n_step, .ring = expanded, .n_next = 32 };
	_tile_loadconfig(&config);
	for (int r = 0; r < n_row; r += 32) {
		k.y = y + r;
		k.n_row = n_row - r;
		m.n_row = k.n_row < 32 ? k.n_row : 32;
		m.data = w->data + (r0 + r) * m.row;
		m.scl = w->scl + (r0 + r) * m.scl_row;
		bool last = r + 32 >= n_row && w->next;
		m.next = last ? w->next : m.data + 32 * m.row;
		m.next_scl = last ? w->next_scl : m.scl + 32 * m.scl_row;
		fill_bias(bias_tile, bias + r, m.n_row, 2);
		if (w->mx)
			mx_range(&m);
		if (m.edge || m.n_row < 32)
			rows_slow(k, m);
		else if (w->mx)
			rows_mx(k, m);
		else
			rows_bf(k, m);
	}
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
	ops->pack_panel = pack_panel;
	ops->panel = panel;
	ops->unit = 32;
	ops->block = 96;
	ops->piece = 32;
	ops->whole_lines = true;
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
