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

/* MXFP4 rows r0 .. r0 + n_row - 1 as bf16 tiles of 16 rows by 32 k: [n_row/16][n_in/32][16][32].  The scale is a power of two
 * and the product exact: it goes into the exponents of the look-up table.  s outside 2 .. 252 (results that are subnormal,
 * infinite or NaN somewhere) takes a table made the slow way. */
static void expand_tiles(bf16 *dst, const struct mat *w, int r0, int n_row)
{
	const __m512i table = E2M1_BF16;
	int n_grp = w->n_in / MX_GROUP;
	for (int r = 0; r < n_row; r++) {
		const uint8_t *blk = w->data + (int64_t)(r0 + r) * w->n_in / 2, *scl = w->scl + (int64_t)(r0 + r) * n_grp;
		bf16 *d = dst + (int64_t)(r / 16 * 16) * w->n_in + r % 16 * 32;
		for (int g = 0; g < n_grp; g++) {
			__m512i b = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(blk + g * 16)));
			__m512i code = _mm512_or_si512(b, _mm512_slli_epi32(b, 12)); /* low nibble in the even word, high one in the odd */
			int s = scl[g];
			__m512i t = _mm512_mask_add_epi16(table, 0xfefefefe, table, _mm512_set1_epi16((short)((s - 127) * 128)));
			if (__builtin_expect(s < 2 || s > 252, 0)) {
				bf16 slow[32];
				for (int i = 0; i < 32; i++)
					slow[i] = bf16_from_f32(e2m1_to_f32((unsigned)i & 15) * e8m0_to_f32((uint8_t)s));
				t = _mm512_loadu_si512(slow);
			}
			_mm512_storeu_si512(d + (int64_t)g * 512, _mm512_permutexvar_epi16(code, t));
		}
	}
}
