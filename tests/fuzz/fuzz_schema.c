/* Any bytes as a JSON schema, or behind a '/' as a pattern, up to a NUL; what follows picks the answer's bytes.  What compiles must never
 * lead into a dead end, whatever is picked, and what a schema calls whole must be JSON. */
#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "formats/grammar.h"

#define MUST(cond) do { if (!(cond)) abort(); } while (0)
enum { MAX_ANSWER = 400 };

/* Bytes of which JSON's signs are the first choices, so that answers get somewhere. */
static unsigned char byte_of(unsigned pick)
{
	static const char likely[] = "\"{}[]:,0123456789.-+eE \nabctrufalsenl\\";
	return pick < 128 ? (unsigned char)likely[pick % (sizeof likely - 1)] : (unsigned char)(pick * 37);
}

static void answer(const struct grammar *g, bool is_json, const uint8_t *pick, size_t n)
{
	struct grammar_run *r;
	char text[MAX_ANSWER];
	size_t n_text = 0;
	MUST(grammar_run_create(&r, g, NULL, NULL) == 0);
	for (size_t i = 0; i < n && n_text < MAX_ANSWER; i++) {
		int tried = 0; /* from the picked byte on, the first that may come */
		char c = (char)byte_of(pick[i]);
		bool ok = grammar_push(r, &c, 1);
		for (; !ok && tried < 256; tried++) {
			c = (char)(pick[i] + tried);
			ok = grammar_push(r, &c, 1);
		}
		if (!ok) {
			MUST(grammar_done(r));
			break;
		}
		text[n_text++] = c;
	}
	if (grammar_done(r) && is_json) {
		json_error_t e;
		json_t *v = json_loadb(text, n_text, JSON_DECODE_ANY, &e);
		MUST(v);
		json_decref(v);
	}
	grammar_run_free(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	const uint8_t *end = memchr(p, 0, n);
	size_t n_schema = end ? (size_t)(end - p) : n;
	struct grammar *g;
	struct moxie_err err = { 0 };
	bool is_regex = n_schema && p[0] == '/';
	int rc = is_regex ? grammar_compile_regex(&g, (const char *)p + 1, n_schema - 1, &err) : grammar_compile(&g, (const char *)p, n_schema, &err);
	MUST(rc == 0 || (!g && err.text[0] && (rc == MOXIE_E_FORMAT || rc == MOXIE_E_UNSUPPORTED)));
	if (rc == 0)
		answer(g, !is_regex, p + n_schema + (end != NULL), n - n_schema - (end != NULL));
	grammar_free(g);
	return 0;
}
