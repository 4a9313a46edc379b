/* split.c - cuts text into pieces with the file's own patterns and hands each piece to the merger.
 *
 * The patterns were written for Oniguruma.  What it and PCRE2 read differently is rewritten (white space) or refused, so that
 * a file either splits as its authors meant or does not load.  Each match has a step and a heap limit: text that trips one
 * is an error, never a hang.
 */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "formats/tokenizer_int.h"
#include "formats/utf8.h"

enum {
	MATCH_LIMIT = 10000000,   /* steps of one match */
	MATCH_HEAP_KIB = 64 << 10,
	PATTERN_MAX = 16 << 10    /* bytes */
};

/* \s and \S as the Unicode property White_Space, for use between [ and ].  PCRE2's own \s also takes U+180E. */
#define SPACE "\\t-\\r\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NO_SPACE                                                                                                     \
	"\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"              \
	"\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"

/* Writes the pattern as PCRE2 must read it.  *odd: the first construct that the two read differently, or NULL. */
static bool translate(struct buf *b, const char *p, size_t n, const char **odd)
{
	bool in_class = false, ok = true;
	size_t class_at = 0;
	*odd = NULL;
	for (size_t i = 0; ok && i < n && !*odd; i++) {
		char c = p[i];
		if (c == '\\' && i + 1 < n) {
			char e = p[++i];
			if (e == 's' || e == 'S')
				ok = buf_puts(b, in_class ? "" : "[") && buf_puts(b, e == 's' ? SPACE : NO_SPACE) &&
				     buf_puts(b, in_class ? "" : "]");
			else if (strchr("wWhHbBRXGKZzAkgCQEucMOvVNyY", e) && e)
				*odd = "an escape other than \\s, \\d, \\p{..}, \\x and those of single characters";
			else
				ok = buf_append(b, p + i - 1, 2);
			continue;
		}
		if (!in_class && c == '[') {
			in_class = true;
			class_at = i + 1 < n && p[i + 1] == '^' ? i + 2 : i + 1; /* a ] here is a plain character */
		} else if (in_class && c == '[') {
			*odd = "a class inside a class";
		} else if (in_class && c == '&' && i + 1 < n && p[i + 1] == '&') {
			*odd = "a class intersection";
		} else if (in_class && c == ']' && i != class_at) {
			in_class = false;
		} else if (!in_class && c == '(' && i + 1 < n && p[i + 1] == '*') {
			*odd = "a (*VERB)";
		} else if (!in_class && (c == '^' || c == '$')) {
			*odd = "a line anchor";
		}
		ok = ok && buf_append(b, &c, 1);
	}
	return ok;
}

int split_add(struct tokenizer *t, const char *pattern, size_t n, bool drop_gaps, const char *file_name, struct moxie_err *err)
{
	int rc = 0, code = 0;
	PCRE2_SIZE at = 0;
	struct buf b = { 0 };
	const char *odd;
	pcre2_code *re = NULL;
	pcre2_compile_context *cc = pcre2_compile_context_create(NULL);
	if (!t->limits)
		t->limits = pcre2_match_context_create(NULL);
	if (n > PATTERN_MAX) {
		rc = err_set(err, MOXIE_E_UNSUPPORTED, "%s: a split pattern of %zu bytes, at most %d are read", file_name, n, PATTERN_MAX);
		goto out;
	}
	if (!cc || !t->limits || !buf_puts(&b, "") || !translate(&b, pattern, n, &odd)) {
		rc = err_nomem(err, n, "a split pattern");
		goto out;
	}
	if (odd) {
		rc = err_set(err, MOXIE_E_UNSUPPORTED, "%s: the split pattern has %s: %.200s", file_name, odd, pattern);
		goto out;
	}
	if (t->n_split == TOKENIZER_MAX_SPLIT) {
		rc = err_set(err, MOXIE_E_UNSUPPORTED, "%s: more than %d split patterns", file_name, TOKENIZER_MAX_SPLIT);
		goto out;
	}
	pcre2_set_newline(cc, PCRE2_NEWLINE_LF);
	pcre2_set_match_limit(t->limits, MATCH_LIMIT);
	pcre2_set_heap_limit(t->limits, MATCH_HEAP_KIB);
	re = pcre2_compile((PCRE2_SPTR)b.p, b.n, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &at, cc);
	if (!re) {
		char why[160] = "";
		pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
		rc = code == PCRE2_ERROR_HEAP_FAILED || code == 121 ? err_nomem(err, b.n, "a split pattern") :
		     err_set(err, MOXIE_E_UNSUPPORTED, "%s: the split pattern does not compile: %s: %.200s", file_name, why, pattern);
		goto out;
	}
	t->jit[t->n_split] = pcre2_jit_compile(re, PCRE2_JIT_COMPLETE) == 0; /* may be refused by the system: then without */
	t->drop_gaps[t->n_split] = drop_gaps;
	t->split[t->n_split++] = re;
out:
	pcre2_compile_context_free(cc);
	buf_free(&b);
	return rc;
}

static int match_at(struct splitter *s, int level, const char *p, size_t n, size_t from)
{
	const struct tokenizer *t = s->t;
	int rc = PCRE2_ERROR_JIT_STACKLIMIT;
	if (t->jit[level])
		rc = pcre2_jit_match(t->split[level], (PCRE2_SPTR)p, n, from, 0, s->match, t->limits);
	if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
		rc = pcre2_match(t->split[level], (PCRE2_SPTR)p, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, s->match, t->limits);
	return rc;
}

/* Encodes p[0..n) with the patterns from level on; the pieces of the last one go to the merger. */
int split_encode(struct splitter *s, int level, const char *p, size_t n)
{
	if (level == s->t->n_split)
		return bpe_piece(s->t, p, n, s->out) ? 0 : err_nomem(s->err, n, "the ids of a text");
	size_t done = 0, from = 0;
	bool matched = false; /* the last match ended at from */
	while (from <= n) {
		int rc = match_at(s, level, p, n, from);
		if (rc == PCRE2_ERROR_NOMATCH)
			break;
		if (rc < 0) {
			char why[160] = "";
			pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
			return err_set(s->err, rc == PCRE2_ERROR_NOMEMORY ? MOXIE_E_NOMEM : MOXIE_E_ARG,
			               "the text at byte %zu cannot be split: %s", (size_t)(p - s->text) + from, why);
		}
		const PCRE2_SIZE *v = pcre2_get_ovector_pointer(s->match);
		size_t a = v[0], b = v[1];
		if (a > b || a < done) /* \K and the like: does not happen with the patterns that load */
			return err_set(s->err, MOXIE_E_ARG, "the split pattern matched backwards at byte %zu", (size_t)(p - s->text) + from);
		if (a == b && matched && a == from) { /* an empty match right after a match: look further */
			int len = from < n ? utf8_len((unsigned char)p[from]) : 1;
			from += (size_t)(len > 0 ? len : 1);
			matched = false;
			continue;
		}
		int e = 0;
		if (done < a && !s->t->drop_gaps[level])
			e = split_encode(s, level + 1, p + done, a - done);
		if (!e && a < b)
			e = split_encode(s, level + 1, p + a, b - a);
		if (e)
			return e;
		done = from = b;
		matched = true;
	}
	if (done < n && !s->t->drop_gaps[level])
		return split_encode(s, level + 1, p + done, n - done);
	return 0;
}
