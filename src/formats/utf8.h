/* utf8.h - the few facts of UTF-8 that the text code needs.  Strict: no surrogates, nothing overlong, at most U+10FFFF. */
#ifndef MOXIE_FORMATS_UTF8_H
#define MOXIE_FORMATS_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Bytes of the character that b begins; 0: b begins none. */
static inline int utf8_len(unsigned char b)
{
	return b < 0x80 ? 1 : b < 0xc2 ? 0 : b < 0xe0 ? 2 : b < 0xf0 ? 3 : b < 0xf5 ? 4 : 0;
}

/* May c follow p[0..n), the beginning of a character of more than n bytes? */
static inline bool utf8_may_follow(const unsigned char *p, int n, unsigned char c)
{
	unsigned lo = 0x80, hi = 0xbf;
	if (n == 1) {
		if (p[0] == 0xe0)
			lo = 0xa0; /* overlong below */
		else if (p[0] == 0xed)
			hi = 0x9f; /* surrogates above */
		else if (p[0] == 0xf0)
			lo = 0x90;
		else if (p[0] == 0xf4)
			hi = 0x8f; /* beyond U+10FFFF above */
	}
	return c >= lo && c <= hi;
}

/* The character at p[0..n) and its length in *len; *len = 0 and -1 when it is broken or cut off. */
static inline int32_t utf8_decode(const char *s, size_t n, int *len)
{
	const unsigned char *p = (const unsigned char *)s;
	int k = n ? utf8_len(p[0]) : 0;
	*len = 0;
	if (k == 0 || (size_t)k > n)
		return -1;
	int32_t c = k == 1 ? p[0] : p[0] & (0x7f >> k);
	for (int i = 1; i < k; i++) {
		if (!utf8_may_follow(p, i, p[i]))
			return -1;
		c = c << 6 | (p[i] & 0x3f);
	}
	*len = k;
	return c;
}

/* Length of the longest start of p[0..n) that is whole characters: n for good text, else the offset of the first bad byte. */
static inline size_t utf8_good(const char *p, size_t n)
{
	size_t i = 0;
	while (i < n) {
		uint64_t w;
		if (n - i >= 8 && (memcpy(&w, p + i, 8), !(w & 0x8080808080808080u))) {
			i += 8;
			continue;
		}
		int len;
		utf8_decode(p + i, n - i, &len);
		if (!len)
			break;
		i += (size_t)len;
	}
	return i;
}

#endif
