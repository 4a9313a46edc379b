#include "formats/tokenizer.h"

#include <string.h>

#include "formats/tokenizer_int.h"
#include "formats/utf8.h"

int tokenizer_n_vocab(const struct tokenizer *t)
{
	return t->n_vocab;
}

const char *tokenizer_bytes(const struct tokenizer *t, int32_t id, size_t *n)
{
	*n = 0;
	if (id < 0 || id >= t->n_vocab || !t->tok[id].used)
		return "";
	*n = t->tok[id].n;
	return t->text.p + t->tok[id].off;
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
	return id >= 0 && id < t->n_vocab && t->tok[id].special;
}

/* The longest added token of the trie under root at the start of p[0..n); -1: none. */
static int32_t added_at(const struct tokenizer *t, int32_t root, const char *p, size_t n, size_t *len)
{
	int32_t node = root, id = -1;
	for (size_t i = 0; i < n; i++) {
		const struct pair *next = pair_map_get(&t->trie, (uint64_t)node << 8 | (unsigned char)p[i]);
		if (!next)
			break;
		node = next->id;
		if (t->trie_id[node] >= 0) {
			id = t->trie_id[node];
			*len = i + 1;
		}
	}
	return id;
}

int32_t tokenizer_special(const struct tokenizer *t, const char *text)
{
	size_t n = strlen(text), len = 0;
	for (int root = 0; root < 2; root++) {
		int32_t id = added_at(t, root, text, n, &len);
		if (id >= 0 && len == n && t->tok[id].special)
			return id;
	}
	return -1;
}

/* Cuts the added tokens of one trie out of p[0..n), the rest goes to the next trie and then to the split patterns.
 * Tokens marked normalized come second: what the first trie found is theirs no more. */
static int encode_added(struct splitter *s, int root, const char *p, size_t n, bool specials)
{
	if (root == 2)
		return n ? split_encode(s, 0, p, n) : 0;
	size_t done = 0, len = 0;
	for (size_t i = 0; i < n; i++) {
		if (!s->t->first[root][(unsigned char)p[i]])
			continue;
		int32_t id = added_at(s->t, root, p + i, n - i, &len);
		if (id < 0)
			continue;
		/* A special token that counts as text still hides the shorter added tokens in it, as in HF tokenizers. */
		if (specials || !s->t->tok[id].special) {
			int rc = encode_added(s, root + 1, p + done, i - done, specials);
			if (!rc && !ids_push(s->out, id))
				rc = err_nomem(s->err, n, "the ids of a text");
			if (rc)
				return rc;
			done = i + len;
		}
		i += len - 1;
	}
	return encode_added(s, root + 1, p + done, n - done, specials);
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, bool specials, struct ids *out, struct moxie_err *err)
{
	if (n == 0)
		return 0;
	if (n > TOKENIZER_MAX_TEXT)
		return err_set(err, MOXIE_E_ARG, "the text has %zu bytes, at most %d are taken", n, TOKENIZER_MAX_TEXT);
	size_t good = utf8_good(text, n);
	if (good < n)
		return err_set(err, MOXIE_E_ARG, "the text is not UTF-8 at byte %zu of %zu (0x%02x)", good, n, (unsigned char)text[good]);
	struct splitter s = { .t = t, .match = pcre2_match_data_create(1, NULL), .out = out, .text = text, .err = err };
	if (!s.match)
		return err_nomem(err, n, "the ids of a text");
	size_t n_before = out->n;
	int rc = encode_added(&s, 0, text, n, specials);
	if (rc)
		out->n = n_before;
	pcre2_match_data_free(s.match);
	return rc;
}
