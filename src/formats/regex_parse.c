/* regex_parse.c - the text of a regular expression to nodes. */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "formats/regex_int.h"
#include "formats/utf8.h"

enum { LAST_CHAR = 0x10ffff };

struct parser {
	struct re *r;
	const char *p, *end;
	int depth;
	size_t set_at;        /* where the ranges of the set being read begin */
	struct moxie_err *err;
	int rc;
};

static uint32_t alternatives(struct parser *s);

static uint32_t fail(struct parser *s, int rc, const char *what)
{
	if (!s->rc)
		s->rc = rc == MOXIE_E_NOMEM ? err_nomem(s->err, sizeof(struct re_node), "a pattern") : err_set(s->err, rc, "%s", what);
	s->p = s->end;
	return 0;
}

static uint32_t new_node(struct parser *s, struct re_node n)
{
	struct re *r = s->r;
	if (r->n_node == r->cap_node) {
		size_t cap = 2 * r->cap_node + 64;
		struct re_node *p = realloc(r->node, cap * sizeof *p);
		if (!p)
			return fail(s, MOXIE_E_NOMEM, "");
		r->node = p;
		r->cap_node = cap;
	}
	r->node[r->n_node] = n;
	return (uint32_t)r->n_node++;
}

/* ---- sets of characters -------------------------------------------------------------------------------------------------- */

static void add_range(struct parser *s, uint32_t lo, uint32_t hi)
{
	struct re *r = s->r;
	if (lo < 0xd800 && hi > 0xdfff) {
		add_range(s, lo, 0xd7ff);
		lo = 0xe000;
	}
	if (r->n_range == r->cap_range) {
		size_t cap = 2 * r->cap_range + 64;
		struct re_range *p = realloc(r->range, cap * sizeof *p);
		if (!p) {
			fail(s, MOXIE_E_NOMEM, "");
			return;
		}
		r->range = p;
		r->cap_range = cap;
	}
	r->range[r->n_range++] = (struct re_range){ lo, hi };
}

static int by_start(const void *pa, const void *pb)
{
	const struct re_range *a = pa, *b = pb;
	return a->lo < b->lo ? -1 : a->lo > b->lo;
}

/* Sorted and apart from each other. */
static void tidy(struct re *r, size_t from)
{
	size_t n = from;
	if (r->n_range > from + 1)
		qsort(r->range + from, r->n_range - from, sizeof *r->range, by_start);
	for (size_t i = from; i < r->n_range; i++)
		if (n > from && r->range[i].lo <= r->range[n - 1].hi + 1)
			r->range[n - 1].hi = r->range[i].hi > r->range[n - 1].hi ? r->range[i].hi : r->range[n - 1].hi;
		else
			r->range[n++] = r->range[i];
	r->n_range = n;
}

/* All other characters. */
static void invert(struct parser *s, size_t from)
{
	struct re *r = s->r;
	tidy(r, from);
	size_t n = r->n_range - from;
	uint32_t next = 0;
	for (size_t i = 0; i < n && !s->rc; i++) {
		struct re_range x = r->range[from + i];
		if (x.lo > next)
			add_range(s, next, x.lo - 1 >= 0xd800 && x.lo - 1 <= 0xdfff ? 0xd7ff : x.lo - 1);
		next = x.hi + 1 >= 0xd800 && x.hi + 1 <= 0xdfff ? 0xe000 : x.hi + 1;
	}
	if (next <= LAST_CHAR)
		add_range(s, next, LAST_CHAR);
	if (s->rc)
		return;
	memmove(r->range + from, r->range + from + n, (r->n_range - from - n) * sizeof *r->range);
	r->n_range -= n;
}

/* \d \w \s; capital: all others.  false: c is none of them. */
static bool add_class(struct parser *s, char c)
{
	static const struct re_range digit[] = { { '0', '9' } }, word[] = { { '0', '9' }, { 'A', 'Z' }, { '_', '_' }, { 'a', 'z' } },
		space[] = { { 9, 13 }, { 32, 32 }, { 160, 160 }, { 0x1680, 0x1680 }, { 0x2000, 0x200a }, { 0x2028, 0x2029 }, { 0x202f, 0x202f },
		            { 0x205f, 0x205f }, { 0x3000, 0x3000 }, { 0xfeff, 0xfeff } };
	char kind = (char)(c | 32);
	const struct re_range *v = kind == 'd' ? digit : kind == 'w' ? word : kind == 's' ? space : NULL;
	size_t n = kind == 'd' ? 1 : kind == 'w' ? 4 : 10, from = s->r->n_range;
	if (!v)
		return false;
	for (size_t i = 0; i < n; i++)
		add_range(s, v[i].lo, v[i].hi);
	if (!(c & 32))
		invert(s, from);
	return true;
}

static uint32_t set_node(struct parser *s, size_t from)
{
	if (s->rc)
		return 0;
	tidy(s->r, from);
	return new_node(s, (struct re_node){ .kind = RE_SET, .a = (uint32_t)from, .b = (uint32_t)(s->r->n_range - from) });
}

/* ---- characters ------------------------------------------------------------------------------------------------------------ */

static int32_t hex(struct parser *s, int n)
{
	int32_t x = 0;
	for (int i = 0; i < n; i++) {
		char c = s->p < s->end ? *s->p++ : 0;
		int d = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
		if (d < 0) {
			fail(s, MOXIE_E_FORMAT, "an escape of the pattern wants more hexadecimal digits");
			return 0;
		}
		x = x * 16 + d;
	}
	return x;
}

/* Behind \u. */
static int32_t unicode_escape(struct parser *s)
{
	if (s->p < s->end && *s->p == '{') {
		const char *close = memchr(s->p, '}', (size_t)(s->end - s->p));
		if (!close || close - s->p < 2 || close - s->p > 7) {
			fail(s, MOXIE_E_FORMAT, "\\u{ of the pattern has no 1 to 6 digits and }");
			return 0;
		}
		s->p++;
		int32_t c = hex(s, (int)(close - s->p));
		s->p += s->p < s->end;
		return c;
	}
	int32_t c = hex(s, 4);
	if (c >= 0xd800 && c <= 0xdbff && s->end - s->p >= 6 && s->p[0] == '\\' && s->p[1] == 'u') {
		s->p += 2;
		int32_t low = hex(s, 4);
		c = low >= 0xdc00 && low <= 0xdfff ? 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00) : 0xd800;
	}
	return c;
}

/* The character that an escape stands for; p is behind the backslash.  in_set: of a class in brackets. */
static uint32_t escape(struct parser *s, bool in_set)
{
	static const char from[] = "nrtfv0", to[] = "\n\r\t\f\v";
	char c = s->p < s->end ? *s->p++ : 0;
	const char *at = c ? strchr(from, c) : NULL;
	int32_t x = (unsigned char)c;
	if (!c)
		return fail(s, MOXIE_E_FORMAT, "the pattern ends within an escape");
	if (at && (c != '0' || s->p == s->end || *s->p < '0' || *s->p > '9'))
		return (unsigned char)to[at - from];
	if (in_set && c == 'b')
		return 8;
	if (c == 'x')
		x = hex(s, 2);
	else if (c == 'u')
		x = unicode_escape(s);
	else if (c == 'c' && s->p < s->end && (*s->p | 32) >= 'a' && (*s->p | 32) <= 'z')
		x = *s->p++ & 31;
	else if (c >= '0' && c <= '9')
		return fail(s, MOXIE_E_UNSUPPORTED, "references back (\\1) are not supported in a pattern");
	else if (c == 'b' || c == 'B')
		return fail(s, MOXIE_E_UNSUPPORTED, "word ends (\\b) are not supported in a pattern");
	else if (c == 'p' || c == 'P' || c == 'k')
		return fail(s, MOXIE_E_UNSUPPORTED, "properties and named references (\\p, \\k) are not supported in a pattern");
	else if (((c | 32) >= 'a' && (c | 32) <= 'z') || (unsigned char)c >= 0x80)
		return fail(s, MOXIE_E_FORMAT, "the pattern has an escape that means nothing");
	if (x > LAST_CHAR || (x >= 0xd800 && x <= 0xdfff))
		return fail(s, MOXIE_E_FORMAT, "an escape of the pattern stands for no character");
	return (uint32_t)x;
}

static uint32_t literal(struct parser *s)
{
	int len;
	int32_t c = utf8_decode(s->p, (size_t)(s->end - s->p), &len);
	if (!len)
		return fail(s, MOXIE_E_FORMAT, "the pattern is not UTF-8");
	s->p += len;
	return (uint32_t)c;
}

/* One end of a range, or \d and its like: then *is_class, and its ranges are added. */
static uint32_t set_member(struct parser *s, bool *is_class)
{
	*is_class = false;
	if (*s->p != '\\')
		return literal(s);
	s->p++;
	*is_class = s->p < s->end && add_class(s, *s->p);
	if (!*is_class)
		return escape(s, true);
	s->p++;
	return 0;
}

/* Behind the bracket. */
static uint32_t brackets(struct parser *s)
{
	size_t from = s->r->n_range;
	bool no = s->p < s->end && *s->p == '^', is_class, to_class;
	s->p += no;
	while (s->p < s->end && *s->p != ']') {
		uint32_t lo = set_member(s, &is_class), hi = lo;
		if (s->end - s->p >= 2 && *s->p == '-' && s->p[1] != ']') {
			s->p++;
			hi = set_member(s, &to_class);
			if (is_class || to_class)
				return fail(s, MOXIE_E_FORMAT, "a range of the pattern ends in a class");
		}
		if (hi < lo)
			return fail(s, MOXIE_E_FORMAT, "a range of the pattern is out of order");
		if (!is_class && !s->rc)
			add_range(s, lo, hi);
	}
	if (s->p == s->end)
		return fail(s, MOXIE_E_FORMAT, "the pattern has a [ without ]");
	s->p++;
	if (no)
		invert(s, from);
	return set_node(s, from);
}

/* ---- the whole --------------------------------------------------------------------------------------------------------------- */

/* Behind the parenthesis. */
static uint32_t group(struct parser *s)
{
	if (s->p < s->end && *s->p == '?') {
		const char *close;
		size_t left = (size_t)(s->end - s->p);
		bool named = left > 3 && s->p[1] == '<' && s->p[2] != '=' && s->p[2] != '!';
		if (left > 1 && s->p[1] == ':')
			s->p += 2;
		else if (named && (close = memchr(s->p, '>', left)))
			s->p = close + 1;
		else
			return fail(s, MOXIE_E_UNSUPPORTED, "look-around and flags ((?=, (?i)) are not supported in a pattern");
	}
	if (++s->depth > RE_MAX_DEPTH)
		return fail(s, MOXIE_E_UNSUPPORTED, "the pattern has more than 100 groups within groups");
	uint32_t n = alternatives(s);
	s->depth--;
	if (s->rc)
		return 0;
	if (s->p == s->end)
		return fail(s, MOXIE_E_FORMAT, "the pattern has a ( without )");
	s->p++;
	return n;
}

/* {m}, {m,} or {m,n} at p; false: it is something else, p is as before. */
static bool counts(struct parser *s, uint32_t *min, uint32_t *max)
{
	const char *p = s->p + 1;
	uint32_t v[2] = { 0, 0 };
	bool comma = false, digits[2] = { false, false };
	for (; p < s->end && *p != '}'; p++) {
		if (*p == ',' && !comma && digits[0])
			comma = true;
		else if (*p >= '0' && *p <= '9')
			digits[comma] = true, v[comma] = v[comma] < 100000 ? v[comma] * 10 + (uint32_t)(*p - '0') : v[comma];
		else
			return false;
	}
	if (p >= s->end || !digits[0])
		return false;
	s->p = p + 1;
	*min = v[0];
	*max = !comma ? v[0] : digits[1] ? v[1] : UINT32_MAX;
	if (*min > RE_MAX_COUNT || (*max != UINT32_MAX && *max > RE_MAX_COUNT))
		fail(s, MOXIE_E_UNSUPPORTED, "the pattern repeats something more than 4096 times");
	else if (*min > *max)
		fail(s, MOXIE_E_FORMAT, "a repetition of the pattern is out of order");
	return true;
}

static uint32_t atom(struct parser *s)
{
	size_t from = s->r->n_range;
	switch (*s->p) {
	case '(':
		s->p++;
		return group(s);
	case '[':
		s->p++;
		return brackets(s);
	case '^':
	case '$':
		return new_node(s, (struct re_node){ .kind = *s->p++ == '^' ? RE_BEGIN : RE_END });
	case '.':
		s->p++;
		add_range(s, '\n', '\n'), add_range(s, '\r', '\r'), add_range(s, 0x2028, 0x2029);
		invert(s, from);
		return set_node(s, from);
	case '*':
	case '+':
	case '?':
		return fail(s, MOXIE_E_FORMAT, "the pattern repeats nothing");
	case '\\':
		s->p++;
		if (s->p < s->end && add_class(s, *s->p)) {
			s->p++;
		} else {
			uint32_t c = escape(s, false);
			add_range(s, c, c);
		}
		return set_node(s, from);
	default: {
		uint32_t c = literal(s);
		add_range(s, c, c);
		return set_node(s, from);
	}
	}
}

/* An atom and what says how often. */
static uint32_t piece(struct parser *s)
{
	uint32_t n = atom(s), min = 0, max = UINT32_MAX;
	while (!s->rc && s->p < s->end) {
		char c = *s->p;
		if (c == '{' && counts(s, &min, &max))
			;
		else if (c == '*' || c == '+' || c == '?')
			min = c == '+', max = c == '?' ? 1 : UINT32_MAX, s->p++;
		else
			break;
		if (s->p < s->end && *s->p == '?') /* lazy: the same texts match */
			s->p++;
		else if (s->p < s->end && (*s->p == '+' || *s->p == '*'))
			return fail(s, MOXIE_E_FORMAT, "the pattern repeats a repetition");
		if (s->rc)
			return 0;
		return new_node(s, (struct re_node){ .kind = RE_REPEAT, .a = n, .min = min, .max = max });
	}
	return n;
}

static uint32_t sequence(struct parser *s)
{
	uint32_t n = 0;
	while (!s->rc && s->p < s->end && *s->p != '|' && *s->p != ')') {
		uint32_t next = piece(s);
		n = n ? new_node(s, (struct re_node){ .kind = RE_CAT, .a = n, .b = next }) : next;
	}
	return n;
}

static uint32_t alternatives(struct parser *s)
{
	uint32_t n = sequence(s);
	while (!s->rc && s->p < s->end && *s->p == '|') {
		s->p++;
		uint32_t next = sequence(s);
		n = new_node(s, (struct re_node){ .kind = RE_ALT, .a = n, .b = next });
	}
	return n;
}

int re_parse(struct re *r, const char *pattern, size_t n, struct moxie_err *err)
{
	*r = (struct re){ 0 };
	if (n > RE_MAX_PATTERN)
		return err_set(err, MOXIE_E_UNSUPPORTED, "the pattern has %zu bytes, at most %d are taken", n, RE_MAX_PATTERN);
	struct parser s = { .r = r, .p = pattern, .end = pattern + n, .err = err };
	new_node(&s, (struct re_node){ .kind = RE_EMPTY });
	r->root = alternatives(&s);
	if (!s.rc && s.p < s.end)
		fail(&s, MOXIE_E_FORMAT, "the pattern has a ) without (");
	return s.rc;
}

void re_free(struct re *r)
{
	free(r->node);
	free(r->range);
}
