/* mutate.h - damages a text or file image in the ways that break parsers; the same seed gives the same damage. */
#ifndef MUTATE_H
#define MUTATE_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>

static uint64_t mutate_state = 1;

static uint32_t mutate_int(uint32_t n)
{
	mutate_state ^= mutate_state << 13, mutate_state ^= mutate_state >> 7, mutate_state ^= mutate_state << 17;
	return n ? (uint32_t)(mutate_state >> 32) % n : 0;
}

/* Replaces the digits around position at by another number. */
static size_t mutate_number(char *p, size_t n, size_t cap, size_t at)
{
	static const char *const number[] = { "0", "1", "-1", "2", "3", "7", "31", "33", "255", "256", "65536", "2147483647", "2147483648",
					      "4294967295", "4294967296", "4194305", "211106198978564", "9223372036854775807",
					      "9223372036854775808", "-9223372036854775808", "18446744073709551616", "1e3", "0.5", "1e400",
					      "null", "true", "\"8\"", "[]", "{}" };
	const char *s = number[mutate_int(sizeof number / sizeof *number)];
	size_t from = at, to, len = strlen(s);
	while (from < n && (p[from] < '0' || p[from] > '9'))
		from++;
	for (to = from; to < n && p[to] >= '0' && p[to] <= '9';)
		to++;
	if (from == to || n - (to - from) + len > cap)
		return n;
	memmove(p + from + len, p + to, n - to);
	memcpy(p + from, s, len);
	return n - (to - from) + len;
}

/* Changes p[0..n) in place, at most cap bytes long afterwards; returns the new length. */
static size_t mutate(char *p, size_t n, size_t cap)
{
	static const char structure[] = "{}[]\",:\\0-.eE \n\t\x00\x7f\xff\xc3";
	for (uint32_t round = 1 + mutate_int(3); round > 0 && n > 0; round--) {
		size_t at = mutate_int((uint32_t)n), len = 1 + mutate_int(16), to = mutate_int((uint32_t)n);
		if (len > n - at)
			len = n - at;
		switch (mutate_int(9)) {
		case 0: p[at] = (char)(p[at] ^ 1 << mutate_int(8)); break;
		case 1: p[at] = structure[mutate_int(sizeof structure - 1)]; break;
		case 2: n = at; break;
		case 3: /* cut out */
			memmove(p + at, p + at + len, n - at - len);
			n -= len;
			break;
		case 4: /* double */
			if (n + len <= cap) {
				memmove(p + at + len, p + at, n - at);
				n += len;
			}
			break;
		case 5: /* one part over another */
			if (to + len <= n)
				memmove(p + to, p + at, len);
			break;
		default: n = mutate_number(p, n, cap, at);
		}
	}
	return n;
}

#endif
