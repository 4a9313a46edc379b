/* Any bytes as tokenizer.json; what opens must give every text back, and ids within its vocabulary. */
#include <stdlib.h>
#include <string.h>

#include "formats/tokenizer.h"

static void round_trip(const struct tokenizer *t, const char *text, size_t n, bool specials, bool whole)
{
	struct moxie_err err = { 0 };
	struct ids ids = { 0 };
	struct buf back = { 0 };
	struct detok d = { 0 };
	int rc = tokenizer_encode(t, text, n, specials, &ids, &err);
	if (rc && (ids.n || !err.text[0]))
		abort();
	for (size_t i = 0; i < ids.n; i++) {
		if (ids.v[i] < 0 || ids.v[i] >= tokenizer_n_vocab(t) || (!specials && tokenizer_is_special(t, ids.v[i])))
			abort();
		if (detok_push(&d, t, ids.v[i], true, &back))
			abort();
	}
	if (detok_finish(&d, &back))
		abort();
	if (!rc && whole && (back.n != n || memcmp(back.p ? back.p : "", text, n)))
		abort();
	ids_free(&ids);
	buf_free(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static const char text[] = "the <|end|> it's 12345 \xc3\xa9\xe4\xb8\x96\xf0\x9f\x98\x80 \r\n\n aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
	struct tokenizer *t;
	struct moxie_err err = { 0 };
	if (tokenizer_parse(&t, (const char *)p, n, "fuzz", &err)) {
		if (t || !err.text[0])
			abort();
		return 0;
	}
	/* "Removed" is the one way in which a file may ask to lose text. */
	bool whole = true;
	for (size_t i = 0; i + 7 <= n; i++)
		whole &= memcmp(p + i, "Removed", 7) != 0 && p[i] != '\\';
	for (int specials = 0; specials < 2; specials++) {
		round_trip(t, text, sizeof text - 1, specials, whole);
		round_trip(t, (const char *)p + (n > 64 ? n - 64 : 0), n > 64 ? 64 : n, specials, whole);
	}
	for (int id = -1; id <= tokenizer_n_vocab(t) && id < 1000; id++) {
		size_t len;
		if (!tokenizer_bytes(t, id, &len))
			abort();
	}
	tokenizer_free(t);
	return 0;
}
