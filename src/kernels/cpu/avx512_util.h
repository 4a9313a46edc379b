/* avx512_util.h - what avx512.c and amx.c share; include inside their TARGET_BEGIN. */

/* The 32 bf16 of a vpermw table: e2m1 twice over, since an index counts 5 bits and the nibble above ours is still in the word. */
#define E2M1_BF16                                                                                                        \
	_mm512_set_epi32((int)0xc0c0c080, (int)0xc040c000, (int)0xbfc0bf80, (int)0xbf008000, 0x40c04080, 0x40404000, 0x3fc03f80, \
	                 0x3f000000, (int)0xc0c0c080, (int)0xc040c000, (int)0xbfc0bf80, (int)0xbf008000, 0x40c04080, 0x40404000, 0x3fc03f80, 0x3f000000)

/* 32 floats as bf16 in order. */
INLINE __m512i round32(const float *a)
{
	return (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(a + 16), _mm512_loadu_ps(a));
}

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

/* Where a group's 32 k lie in expanded weights, and in the panels that meet them: place 8 j + w is k = 4 w + j, nibble j of word w. */
#define MX_ORDER                                                                                                           \
	_mm512_set_epi16(31, 27, 23, 19, 15, 11, 7, 3, 30, 26, 22, 18, 14, 10, 6, 2, 29, 25, 21, 17, 13, 9, 5, 1, 28, 24, 20, 16, 12, 8, 4, 0)
