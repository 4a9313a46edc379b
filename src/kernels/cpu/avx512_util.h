/* avx512_util.h - what avx512.c and amx.c share; include inside their TARGET_BEGIN. */

/* The 32 bf16 of a vpermw table: e2m1 twice over, since an index counts 5 bits and the nibble above ours is still in the word. */
#define E2M1_BF16                                                                                                        \
	_mm512_set_epi32((int)0xc0c0c080, (int)0xc040c000, (int)0xbfc0bf80, (int)0xbf008000, 0x40c04080, 0x40404000, 0x3fc03f80, \
	                 0x3f000000, (int)0xc0c0c080, (int)0xc040c000, (int)0xbfc0bf80, (int)0xbf008000, 0x40c04080, 0x40404000, 0x3fc03f80, 0x3f000000)

/* Rows of 16 dwords become columns. */
INLINE void transpose16(__m512i r[16])
{
	__m512i t[16];
	for (int i = 0; i < 16; i += 4) { /* 4 x 4 blocks inside each 128-bit lane */
		__m512i a = _mm512_unpacklo_epi32(r[i], r[i + 1]), b = _mm512_unpackhi_epi32(r[i], r[i + 1]);
		__m512i c = _mm512_unpacklo_epi32(r[i + 2], r[i + 3]), d = _mm512_unpackhi_epi32(r[i + 2], r[i + 3]);
		t[i] = _mm512_unpacklo_epi64(a, c);
		t[i + 1] = _mm512_unpackhi_epi64(a, c);
		t[i + 2] = _mm512_unpacklo_epi64(b, d);
		t[i + 3] = _mm512_unpackhi_epi64(b, d);
	}
	for (int i = 0; i < 4; i++) { /* then the lanes themselves */
		__m512i a = _mm512_shuffle_i32x4(t[i], t[i + 4], 0x88), b = _mm512_shuffle_i32x4(t[i], t[i + 4], 0xdd);
		__m512i c = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0x88), d = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0xdd);
		r[i] = _mm512_shuffle_i32x4(a, c, 0x88);
		r[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88);
		r[i + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
		r[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
	}
}

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

/* Where a group's 32 k lie in expanded weights, and in the panels that meet them: place 8 j + w is k = 4 w + j, nibble j of word w. */
#define MX_ORDER                                                                                                           \
	_mm512_set_epi16(31, 27, 23, 19, 15, 11, 7, 3, 30, 26, 22, 18, 14, 10, 6, 2, 29, 25, 21, 17, 13, 9, 5, 1, 28, 24, 20, 16, 12, 8, 4, 0)

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
