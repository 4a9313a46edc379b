/* test_regex.c - tables of regular expressions against PCRE2, byte by byte, and what their limits cost. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <jansson.h>
#include <pcre2.h>

#include "base/vec.h"
#include "formats/regex.h"
#include "formats/utf8.h"
#include "test.h"

static struct moxie_err err;

static int compile(struct dfa *d, const char *pattern, bool in_json, bool search, uint32_t min, uint32_t max, size_t *used)
{
	size_t work = REGEX_WORK;
	struct regex_how how = { .in_json = in_json, .search = search, .min = min, .max = max, .work = &work };
	int rc = regex_compile(d, pattern, strlen(pattern), &how, &err);
	if (used)
		*used = REGEX_WORK - work;
	return rc;
}

static bool takes(const struct dfa *d, const char *p, size_t n)
{
	uint16_t s = 1;
	for (size_t i = 0; i < n && s; i++)
		s = dfa_step(d, s, (unsigned char)p[i]);
	return s && d->accept[s];
}

static const char *const patterns[] = { "a", "", "ab|ba", "a*b+c?", "(a|b)*abb", "a{2,3}", "a{0}b", "(ab){2,}", "[a-c]+\\d", "[^a-c]", "^a", "b$", "^a$|b", "^(a|)$",
	".", ".*", "a.b", "\\w+\\s\\W", "(?:a(?:b(?:c)?)?)?", "(?<x>a)b", "\\x61\\u0062", "\\u{1f600}|xa", "[\\d\\-x]", "[]a]|b", "\xc3\xa9+", "[\xc3\xa9-\xe2\x82\xac]x",
	"[^\xc3\xa9]\\n", "a|b|c|ab|abc", "(a*)*b", "(a|a)*", "a??b", "a+?b", "(^a|b)c", "x(a$|b)", "\\t|\\\"|\\\\", "[\\\\\"]+", "a{,3}", "a{2", "^[a-z]{2,5}(-[A-Z]\\d)?$", "\\S+@\\S+",
	"[^\\s\\S]|a", "[\\w.]+", "()a", "\\.\\*", "\\/", "$", "^", "^$", "a^b|c", "\\0|a", "[\\b]|a" };

/* ECMAScript's meaning in PCRE2's terms. */
static pcre2_code *reference(const char *pattern, bool search)
{
	char text[400];
	int code;
	PCRE2_SIZE at;
	snprintf(text, sizeof text, search ? "%s" : "^(?:%s)$", pattern);
	pcre2_compile_context *how = pcre2_compile_context_create(NULL);
	pcre2_set_compile_extra_options(how, PCRE2_EXTRA_ALT_BSUX);
	pcre2_code *re = pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_DOLLAR_ENDONLY | PCRE2_ALLOW_EMPTY_CLASS, &code, &at, how);
	pcre2_compile_context_free(how);
	return re;
}

static size_t make_text(char *p)
{
	static const char *const parts[] = { "a", "b", "c", "ab", "abb", "1", "-", "x", "A", " ", "\n", "\"", "\\", "\t", ".", "@", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "_", "*", "/" };
	size_t n = 0;
	for (int k = rnd_int(7); k > 0; k--) {
		const char *s = parts[rnd_int(2) ? rnd_int(5) : rnd_int((int)(sizeof parts / sizeof *parts))];
		memcpy(p + n, s, strlen(s));
		n += strlen(s);
	}
	return n;
}

/* What stands between the quotes; jansson escapes no more than has to be, and \b \f \n \r \t in short. */
static size_t as_json(const char *p, size_t n, char *to, size_t cap)
{
	json_t *v = json_stringn(p, n);
	size_t len = json_dumpb(v, to, cap, JSON_ENCODE_ANY);
	json_decref(v);
	CHECK(len >= 2 && len <= cap, "%zu", len);
	memmove(to, to + 1, len - 2);
	return len - 2;
}

static size_t n_char(const char *p, size_t n)
{
	size_t k = 0;
	for (size_t i = 0; i < n; i++)
		k += ((unsigned char)p[i] & 0xc0) != 0x80;
	return k;
}

TEST(regex_as_pcre2)
{
	int n_checked = 0, n_match = 0;
	for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++)
		for (int search = 0; search < 2; search++) {
			struct dfa raw, json, bound;
			bool has_bound = compile(&bound, patterns[i], true, search, 2, 5, NULL) == 0;
			OK(compile(&raw, patterns[i], false, search, 0, UINT32_MAX, NULL), err);
			OK(compile(&json, patterns[i], true, search, 0, UINT32_MAX, NULL), err);
			pcre2_code *re = reference(patterns[i], search);
			if (!re)
				printf("    pcre2 does not take %s\n", patterns[i]);
			pcre2_match_data *md = re ? pcre2_match_data_create_from_pattern(re, NULL) : NULL;
			for (int k = 0; re && k < 400; k++) {
				char text[64], quoted[400];
				size_t n = make_text(text), n_quoted = as_json(text, n, quoted, sizeof quoted), len = n_char(text, n);
				bool want = pcre2_match(re, (PCRE2_SPTR)text, n, 0, 0, md, NULL) >= 0;
				CHECK(takes(&raw, text, n) == want, "%s, search %d, \"%.*s\": wanted %d", patterns[i], search, (int)n, text, want);
				CHECK(takes(&json, quoted, n_quoted) == want, "%s, search %d, \"%.*s\": wanted %d", patterns[i], search, (int)n_quoted, quoted, want);
				bool fits = want && len >= 2 && len <= 5;
				CHECK((has_bound && takes(&bound, quoted, n_quoted)) == fits, "%s, 2 .. 5 characters, \"%.*s\": wanted %d", patterns[i], (int)n_quoted, quoted, fits);
				n_checked++;
				n_match += want;
			}
			pcre2_match_data_free(md);
			pcre2_code_free(re);
			dfa_free(&raw);
			dfa_free(&json);
			dfa_free(&bound);
		}
	struct dfa pair;
	OK(compile(&pair, "^\\ud83d\\ude00{2}$", false, true, 0, UINT32_MAX, NULL), err);
	CHECK(takes(&pair, "\xf0\x9f\x98\x80\xf0\x9f\x98\x80", 8) && !takes(&pair, "\xf0\x9f\x98\x80", 4), "two halves are a character");
	dfa_free(&pair);
	CHECK(n_checked > 20000 && n_match > 4000, "%d, %d", n_checked, n_match);
}

/* Whatever is picked, an end is reached: no state is a dead end, and only good UTF-8 and JSON comes. */
TEST(regex_has_no_dead_ends)
{
	for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
		struct dfa d;
		OK(compile(&d, patterns[i], true, true, 0, 30, NULL), err);
		for (int k = 0; k < 50; k++) {
			struct buf b = { 0 };
			buf_puts(&b, "\"");
			for (uint16_t s = 1; !(d.accept[s] && rnd_int(4) == 0);) {
				int n = 0;
				uint16_t next = 0;
				char byte = 0;
				for (int c = 0; c < 256; c++)
					if (dfa_step(&d, s, (unsigned char)c) && rnd_int(++n) == 0)
						next = dfa_step(&d, s, (unsigned char)c), byte = (char)c;
				if (!n)
					CHECK(d.accept[s], "%s: nothing follows %s", patterns[i], b.p);
				if (!n)
					break;
				buf_append(&b, &byte, 1);
				s = next;
			}
			buf_puts(&b, "\"");
			json_error_t e;
			json_t *v = json_loadb(b.p, b.n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);
			CHECK(v && utf8_good(b.p, b.n) == b.n && n_char(json_string_value(v), json_string_length(v)) <= 30, "%s: %s", patterns[i], b.p);
			json_decref(v);
			buf_free(&b);
		}
		dfa_free(&d);
	}
}

TEST(regex_refused)
{
	static const struct { const char *pattern, *word; } cases[] = {
		{ "(a)\\1", "back" }, { "\\ba", "word ends" }, { "\\p{L}", "properties" }, { "(?=a)", "look-around" }, { "(?<!a)b", "look-around" }, { "(?i)a", "flags" },
		{ "(", "without )" }, { ")", "without (" }, { "[a", "without ]" }, { "*a", "nothing" }, { "a**", "repetition" }, { "a{3,2}", "out of order" }, { "[b-a]", "out of order" },
		{ "\\", "ends within" }, { "\\q", "means nothing" }, { "\\xg0", "hexadecimal" }, { "\\ud800", "no character" }, { "a{5000}", "4096" }, { "\xff", "UTF-8" }, { "[\\d-x]", "class" },
		{ "\\u{110000}", "no character" }, { "a^b", "no text" }, { "a$b", "no text" }, { "[^\\s\\S]", "no text" }, { "(?:.{60}){60}", "too large" }, { "(a|b)*a(a|b){14}", "too large" },
		{ "((((((((((a{9}){9}){9}){9}){9}){9}){9}){9}){9}){9})", "too large" }, { "(((a?){4000}){4000})", "too large" }, { "((){4096}){4096}", "too large" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct dfa d;
		double start = (double)clock() / CLOCKS_PER_SEC;
		int rc = compile(&d, cases[i].pattern, true, false, 0, UINT32_MAX, NULL);
		double seconds = (double)clock() / CLOCKS_PER_SEC - start;
		CHECK((rc == MOXIE_E_UNSUPPORTED || rc == MOXIE_E_FORMAT) && strstr(err.text, cases[i].word) && !d.next, "%s: %d %s", cases[i].pattern, rc, err.text);
		CHECK(seconds < 1, "%s took %.2f s", cases[i].pattern, seconds);
	}
	struct dfa d;
	char deep[300];
	memset(deep, '(', 299);
	deep[299] = 0;
	CHECK(compile(&d, deep, false, false, 0, UINT32_MAX, NULL) == MOXIE_E_UNSUPPORTED && strstr(err.text, "100 groups"), "%s", err.text);
}

/* What patterns of every day cost, and those that cost most. */
TEST(regex_cost)
{
	static const char *const some[] = { "^[A-Z]{2}\\d{4}$", "^\\S+@\\S+\\.\\S+$", "^[^@]{1,64}@[^@]{1,255}$", "(foo|bar|baz)+", "^(https?|ftp)://[^\\s/$.?#].[^\\s]*$", "^.{0,300}$", "(a|b)*a(a|b){9}",
		"(?:a?){30}a{30}", "[a-f]*[b-g]*[c-h]*[d-i]*[e-j]*[f-k]*x" };
	for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
		struct dfa d;
		size_t used;
		double start = (double)clock() / CLOCKS_PER_SEC;
		OK(compile(&d, some[i], true, true, 0, UINT32_MAX, &used), err);
		printf("    %s: %d states of %d classes, %zu steps, %.2f ms\n", some[i], d.n_state, d.n_class, used, 1e3 * ((double)clock() / CLOCKS_PER_SEC - start));
		dfa_free(&d);
	}
	static const struct { const char *pattern; uint32_t min, max; } bounded[] = { { "^\\S+@\\S+\\.\\S+$", 3, 100 }, { "^[a-z0-9]+(-[a-z0-9]+)*$", 1, 253 }, { "a", 0, 100 }, { ".*", 500, UINT32_MAX } };
	for (size_t i = 0; i < sizeof bounded / sizeof *bounded; i++) {
		struct dfa d;
		size_t used;
		double start = (double)clock() / CLOCKS_PER_SEC;
		OK(compile(&d, bounded[i].pattern, true, true, bounded[i].min, bounded[i].max, &used), err);
		printf("    %s of %u to %u: %d states, %zu steps, %.2f ms\n", bounded[i].pattern, bounded[i].min, bounded[i].max, d.n_state, used,
		       1e3 * ((double)clock() / CLOCKS_PER_SEC - start));
		dfa_free(&d);
	}
}

TEST_MAIN
