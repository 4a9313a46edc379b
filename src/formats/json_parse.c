/* json_parse.c - JSON text to jansson values.
 *
 * jansson's own parser drops characters when its token buffer cannot grow, and then aborts or returns a wrong value
 * (2.14: lex_save ignores strbuffer_append_byte).  This one builds the same tree through the calls that do report it.
 */
#include <errno.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

#include "base/vec.h"
#include "formats/json_read.h"
#include "formats/utf8.h"

#define DEPTH_MAX 128
#define NUMBER_MAX 128 /* characters; a double needs 24 */

struct parser {
	const char *start, *p, *end;
	const char *file;
	struct moxie_err *err;
	struct buf text; /* a stack: keys under way, and the string being read */
	int depth, rc;
};

static int parse_value(struct parser *r, json_t **out);

static int bad(struct parser *r, const char *at, const char *what)
{
	size_t line = 1, column = 1;
	for (const char *q = r->start; q < at; q++) {
		column = *q == '\n' ? 1 : column + 1;
		line += *q == '\n';
	}
	return r->rc = err_set(r->err, MOXIE_E_FORMAT, "%s: line %zu, column %zu: %s", r->file, line, column, what);
}

static int nomem(struct parser *r)
{
	return r->rc = err_set(r->err, MOXIE_E_NOMEM, "%s: out of memory while reading %zu bytes of JSON", r->file, (size_t)(r->end - r->start));
}

static void space(struct parser *r)
{
	while (r->p < r->end && (*r->p == ' ' || *r->p == '\n' || *r->p == '\t' || *r->p == '\r'))
		r->p++;
}

static bool take(struct parser *r, char c)
{
	bool is = r->p < r->end && *r->p == c;
	r->p += is;
	return is;
}

/* Four hex digits, or -1. */
static int hex4(struct parser *r)
{
	int v = 0;
	if (r->end - r->p < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		char c = *r->p++;
		int d = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
		if (d < 0)
			return -1;
		v = v << 4 | d;
	}
	return v;
}

/* After a backslash; appends what it stands for. */
static int parse_escape(struct parser *r)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	const char *at = r->p - 1, *known;
	char c = r->p < r->end ? *r->p++ : 0;
	if (c && (known = strchr(from, c)) != NULL)
		return buf_append(&r->text, to + (known - from), 1) ? 0 : nomem(r);
	int32_t v = c == 'u' ? hex4(r) : -1;
	if (v >= 0xd800 && v < 0xdc00) {
		int32_t low = take(r, '\\') && take(r, 'u') ? hex4(r) : -1;
		v = low >= 0xdc00 && low < 0xe000 ? 0x10000 + ((v - 0xd800) << 10) + (low - 0xdc00) : -1;
	} else if (v >= 0xdc00 && v < 0xe000) {
		v = -1;
	}
	if (v <= 0) /* \u0000 would end a C string early */
		return bad(r, at, "invalid escape");
	unsigned char u[4];
	size_t n = v < 0x80 ? 1 : v < 0x800 ? 2 : v < 0x10000 ? 3 : 4;
	static const unsigned char lead[] = { 0, 0, 0xc0, 0xe0, 0xf0 };
	for (size_t i = n; i-- > 1; v >>= 6)
		u[i] = (unsigned char)(0x80 | (v & 0x3f));
	u[0] = (unsigned char)(lead[n] | v);
	return buf_append(&r->text, u, n) ? 0 : nomem(r);
}

/* Appends the string at p, which begins with a quote, to text. */
static int parse_string(struct parser *r)
{
	const char *open = r->p++;
	for (;;) {
		const char *run = r->p;
		while (r->p < r->end && *r->p != '"' && *r->p != '\\' && (unsigned char)*r->p >= 0x20)
			r->p++;
		size_t n = (size_t)(r->p - run), good = utf8_good(run, n);
		if (good < n)
			return bad(r, run + good, "invalid UTF-8");
		if (!buf_append(&r->text, run, n))
			return nomem(r);
		if (take(r, '"'))
			return 0;
		if (r->p == r->end)
			return bad(r, open, "string without an end");
		if (!take(r, '\\'))
			return bad(r, r->p, "control character in a string");
		if (parse_escape(r) < 0)
			return r->rc;
	}
}

static size_t digits(struct parser *r)
{
	const char *from = r->p;
	while (r->p < r->end && *r->p >= '0' && *r->p <= '9')
		r->p++;
	return (size_t)(r->p - from);
}

static int parse_number(struct parser *r, json_t **out)
{
	const char *from = r->p;
	char text[NUMBER_MAX + 1];
	bool real = false;
	take(r, '-');
	bool zero = r->p < r->end && *r->p == '0';
	size_t n_int = digits(r);
	bool ok = n_int == 1 || (n_int > 1 && !zero);
	if (ok && take(r, '.'))
		real = true, ok = digits(r) > 0;
	if (ok && r->p < r->end && (*r->p | 32) == 'e') {
		r->p++;
		if (!take(r, '-'))
			take(r, '+');
		real = true, ok = digits(r) > 0;
	}
	size_t n = (size_t)(r->p - from);
	if (!ok)
		return bad(r, from, "invalid number");
	if (n > NUMBER_MAX)
		return bad(r, from, "number of too many digits");
	memcpy(text, from, n);
	text[n] = 0;
	errno = 0;
	if (real) {
		char *point = strchr(text, '.');
		if (point)
			*point = *localeconv()->decimal_point; /* strtod speaks the program's language */
		double v = strtod(text, NULL);
		if (errno == ERANGE && (v > 1 || v < -1))
			return bad(r, from, "number too large");
		*out = json_real(v);
	} else {
		long long v = strtoll(text, NULL, 10);
		if (errno == ERANGE)
			return bad(r, from, "number beyond 64 bits");
		*out = json_integer(v);
	}
	return *out ? 0 : nomem(r);
}

static int parse_array(struct parser *r, json_t **out)
{
	json_t *v;
	r->p++;
	if (!(*out = json_array()))
		return nomem(r);
	space(r);
	if (take(r, ']'))
		return 0;
	do {
		if (parse_value(r, &v) < 0)
			return r->rc;
		if (json_array_append_new(*out, v) < 0)
			return nomem(r);
		space(r);
	} while (take(r, ','));
	return take(r, ']') ? 0 : bad(r, r->p, "wanted ',' or ']'");
}

static int parse_object(struct parser *r, json_t **out)
{
	json_t *v;
	r->p++;
	if (!(*out = json_object()))
		return nomem(r);
	space(r);
	if (take(r, '}'))
		return 0;
	do {
		size_t key = r->text.n;
		space(r);
		const char *at = r->p;
		if (r->p == r->end || *r->p != '"')
			return bad(r, r->p, "wanted a key in quotes");
		if (parse_string(r) < 0)
			return r->rc;
		if (!buf_append(&r->text, "", 1)) /* its NUL stays while the value uses the stack above it */
			return nomem(r);
		if (json_object_get(*out, r->text.p + key))
			return bad(r, at, "duplicate key");
		space(r);
		if (!take(r, ':'))
			return bad(r, r->p, "wanted ':'");
		if (parse_value(r, &v) < 0)
			return r->rc;
		if (json_object_set_new_nocheck(*out, r->text.p + key, v) < 0)
			return nomem(r);
		r->text.n = key;
		space(r);
	} while (take(r, ','));
	return take(r, '}') ? 0 : bad(r, r->p, "wanted ',' or '}'");
}

static bool word(struct parser *r, const char *w)
{
	size_t n = strlen(w);
	bool is = (size_t)(r->end - r->p) >= n && !memcmp(r->p, w, n);
	r->p += is ? n : 0;
	return is;
}

/* *out is NULL on failure. */
static int parse_value(struct parser *r, json_t **out)
{
	*out = NULL;
	space(r);
	char c = r->p < r->end ? *r->p : 0;
	if (c == '{' || c == '[') {
		if (++r->depth > DEPTH_MAX)
			return bad(r, r->p, "nested too deep");
		int rc = c == '{' ? parse_object(r, out) : parse_array(r, out);
		r->depth--;
		if (rc < 0) {
			json_decref(*out);
			*out = NULL;
		}
		return rc;
	}
	if (c == '"') {
		size_t from = r->text.n;
		if (parse_string(r) < 0)
			return r->rc;
		*out = json_stringn_nocheck(r->text.p + from, r->text.n - from);
		r->text.n = from;
		return *out ? 0 : nomem(r);
	}
	if (c == '-' || (c >= '0' && c <= '9'))
		return parse_number(r, out);
	*out = word(r, "true") ? json_true() : word(r, "false") ? json_false() : word(r, "null") ? json_null() : NULL;
	return *out ? 0 : bad(r, r->p, r->p == r->end ? "unexpected end" : "unexpected character");
}

int json_read_text(json_t **out, const char *p, size_t n, const char *file_name, struct moxie_err *err)
{
	struct parser r = { .start = p, .p = p, .end = p + n, .file = file_name, .err = err };
	int rc = parse_value(&r, out);
	if (!rc) {
		space(&r);
		if (r.p < r.end)
			rc = bad(&r, r.p, "text after the end");
		else if (!json_is_object(*out))
			rc = err_set(err, MOXIE_E_FORMAT, "%s: the JSON is not an object", file_name);
	}
	if (rc) {
		json_decref(*out);
		*out = NULL;
	}
	buf_free(&r.text);
	return rc;
}
