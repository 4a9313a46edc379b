/* tokenizer_load.c - tokenizer.json to struct tokenizer: byte-level BPE as Hugging Face tokenizers writes it.
 *
 * Post-processors and truncation are not applied: the text's own ids are all that comes out.  Everything else in the file is
 * obeyed or refused by name.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "formats/json_read.h"
#include "formats/tokenizer_int.h"
#include "formats/utf8.h"

static const char gpt2_split[] = "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

struct load {
	struct tokenizer *t;
	const char *file_name;
	struct moxie_err *err;
	int16_t byte_of[324]; /* character of the byte alphabet -> byte, -1 for the rest */
	struct buf a; /* scratch */
};

#define BAD(l, code, ...) load_bad(l, MOXIE_E_##code, __VA_ARGS__)

__attribute__((format(printf, 3, 4))) static int load_bad(struct load *l, int code, const char *fmt, ...)
{
	char text[300];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	return err_set(l->err, code, "%s: %s", l->file_name, text);
}

static int nomem(struct load *l, size_t n)
{
	return err_nomem(l->err, n, l->file_name);
}

/* GPT-2's way to write bytes as visible characters: those that are printable stand for themselves, the others for
 * U+0100, U+0101, ... in order. */
static void byte_alphabet(int16_t byte_of[324])
{
	int next = 256;
	memset(byte_of, 0xff, 324 * sizeof *byte_of);
	for (int b = 0; b < 256; b++) {
		bool visible = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
		byte_of[visible ? b : next++] = (int16_t)b;
	}
}

enum spelled { SPELLED, OUTSIDE, NO_MEMORY };

/* Appends the bytes that p[0..n) stands for.  OUTSIDE: a character is not of the byte alphabet; b is as before. */
static enum spelled unspell(const struct load *l, const char *p, size_t n, struct buf *b)
{
	size_t n_before = b->n;
	for (size_t i = 0; i < n;) {
		int len;
		int32_t c = utf8_decode(p + i, n - i, &len);
		if (!len || c >= 324 || l->byte_of[c] < 0) {
			b->n = n_before;
			return OUTSIDE;
		}
		char byte = (char)l->byte_of[c];
		if (!buf_append(b, &byte, 1))
			return NO_MEMORY;
		i += (size_t)len;
	}
	return SPELLED;
}

/* ---- what the file must say, or not say */

static const char *type_of(const json_t *j)
{
	const char *type = json_string_value(json_object_get(j, "type"));
	return type ? type : "(no type)";
}

static bool absent(const json_t *j)
{
	return !j || json_is_null(j);
}

static int check_normalizer(struct load *l, const json_t *j)
{
	if (absent(j))
		return 0;
	if (!strcmp(type_of(j), "Sequence") && json_array_size(json_object_get(j, "normalizers")) == 0 &&
	    json_is_array(json_object_get(j, "normalizers")))
		return 0;
	return BAD(l, UNSUPPORTED, "normalizer \"%.60s\"; only null is known", type_of(j));
}

static int load_byte_level(struct load *l, const json_t *j)
{
	const json_t *use_regex = json_object_get(j, "use_regex");
	if (json_is_true(json_object_get(j, "add_prefix_space")))
		return BAD(l, UNSUPPORTED, "pre_tokenizer ByteLevel with add_prefix_space");
	if (json_is_false(use_regex))
		return 0;
	return split_add(l->t, gpt2_split, sizeof gpt2_split - 1, false, l->file_name, l->err);
}

static int load_split(struct load *l, const json_t *j)
{
	const json_t *regex = json_object_get(json_object_get(j, "pattern"), "Regex");
	const char *behavior = json_string_value(json_object_get(j, "behavior"));
	bool invert = json_is_true(json_object_get(j, "invert"));
	if (!json_is_string(regex))
		return BAD(l, UNSUPPORTED, "pre_tokenizer Split whose pattern is not a Regex");
	bool isolated = behavior && !strcmp(behavior, "Isolated");
	bool keep = behavior && !strcmp(behavior, "Removed") && invert; /* the matches stay, the rest goes */
	if (!isolated && !keep)
		return BAD(l, UNSUPPORTED, "pre_tokenizer Split with behavior \"%.40s\"%s", behavior ? behavior : "(none)",
		           invert ? ", inverted" : "");
	return split_add(l->t, json_string_value(regex), json_string_length(regex), keep, l->file_name, l->err);
}

/* ByteLevel alone, or Sequence[Split.., ByteLevel]. */
static int load_pre_tokenizer(struct load *l, const json_t *j)
{
	if (absent(j))
		return BAD(l, UNSUPPORTED, "no pre_tokenizer; byte-level BPE needs ByteLevel");
	if (!strcmp(type_of(j), "ByteLevel"))
		return load_byte_level(l, j);
	if (strcmp(type_of(j), "Sequence"))
		return BAD(l, UNSUPPORTED, "pre_tokenizer \"%.60s\"; known are ByteLevel and Sequence of Split and ByteLevel", type_of(j));
	const json_t *part, *list = json_object_get(j, "pretokenizers");
	size_t i, n = json_array_size(list);
	json_array_foreach(list, i, part) {
		int rc = 0;
		if (!strcmp(type_of(part), "ByteLevel") && i + 1 == n)
			return load_byte_level(l, part);
		if (!strcmp(type_of(part), "Split"))
			rc = load_split(l, part);
		else
			rc = BAD(l, UNSUPPORTED, "pre_tokenizer %zu of a Sequence is \"%.60s\"; known are Split, then one ByteLevel", i,
			         type_of(part));
		if (rc)
			return rc;
	}
	return BAD(l, UNSUPPORTED, "pre_tokenizer Sequence does not end in ByteLevel");
}

static int check_model(struct load *l, const json_t *m)
{
	const char *type = json_string_value(json_object_get(m, "type"));
	const json_t *dropout = json_object_get(m, "dropout");
	static const char *const affix[] = { "continuing_subword_prefix", "end_of_word_suffix" };
	if (!json_is_object(m))
		return BAD(l, FORMAT, "no model");
	if (type ? strcmp(type, "BPE") != 0 : !json_is_array(json_object_get(m, "merges"))) /* old files leave the type out */
		return BAD(l, UNSUPPORTED, "model type \"%.60s\"; only BPE is known", type ? type : "(none)");
	if (!absent(dropout) && json_number_value(dropout) != 0)
		return BAD(l, UNSUPPORTED, "model.dropout %g; encoding is never random here", json_number_value(dropout));
	for (size_t i = 0; i < 2; i++) {
		const json_t *s = json_object_get(m, affix[i]);
		if (!absent(s) && json_string_length(s) > 0)
			return BAD(l, UNSUPPORTED, "model.%s \"%.60s\"", affix[i], json_string_value(s));
	}
	if (json_is_true(json_object_get(m, "byte_fallback")))
		return BAD(l, UNSUPPORTED, "model.byte_fallback; only byte-level BPE is known");
	l->t->ignore_merges = json_is_true(json_object_get(m, "ignore_merges"));
	if (!json_is_object(json_object_get(m, "vocab")) || !json_is_array(json_object_get(m, "merges")))
		return BAD(l, FORMAT, "model.vocab is not an object or model.merges is not an array");
	return 0;
}

static int check_decoder(struct load *l, const json_t *j)
{
	if (absent(j) || !strcmp(type_of(j), "ByteLevel"))
		return 0;
	const json_t *list = json_object_get(j, "decoders");
	if (!strcmp(type_of(j), "Sequence") && json_array_size(list) == 1 && !strcmp(type_of(json_array_get(list, 0)), "ByteLevel"))
		return 0;
	return BAD(l, UNSUPPORTED, "decoder \"%.60s\"; only ByteLevel is known", type_of(j));
}

/* ---- the tokens */

static int id_of(struct load *l, const json_t *j, const char *what, int *id)
{
	json_int_t v = json_integer_value(j);
	if (!json_is_integer(j) || v < 0 || v >= TOKENIZER_MAX_VOCAB)
		return BAD(l, FORMAT, "token \"%.60s\" has the id %lld, wanted 0 .. %d", what, json_is_integer(j) ? (long long)v : -1LL,
		           TOKENIZER_MAX_VOCAB - 1);
	*id = (int)v;
	return 0;
}

/* Largest id + 1 and caps, before anything is allocated for it. */
static int count_tokens(struct load *l, const json_t *vocab, const json_t *added)
{
	const char *key;
	json_t *v;
	size_t i;
	int n = 0, id = 0, rc;
	if (json_object_size(vocab) > TOKENIZER_MAX_VOCAB || json_array_size(added) > TOKENIZER_MAX_ADDED)
		return BAD(l, FORMAT, "%zu tokens and %zu added ones, at most %d and %d are read", json_object_size(vocab),
		           json_array_size(added), TOKENIZER_MAX_VOCAB, TOKENIZER_MAX_ADDED);
	json_object_foreach((json_t *)vocab, key, v) {
		if ((rc = id_of(l, v, key, &id)))
			return rc;
		n = n > id + 1 ? n : id + 1;
	}
	json_array_foreach(added, i, v) {
		const char *content = json_string_value(json_object_get(v, "content"));
		if (!content || !*content)
			return BAD(l, FORMAT, "added token %zu has no content", i);
		if (json_string_length(json_object_get(v, "content")) != strlen(content))
			return BAD(l, UNSUPPORTED, "added token %zu contains U+0000", i);
		if ((rc = id_of(l, json_object_get(v, "id"), content, &id)))
			return rc;
		n = n > id + 1 ? n : id + 1;
	}
	if (n == 0)
		return BAD(l, FORMAT, "the vocabulary is empty");
	l->t->tok = calloc((size_t)n, sizeof *l->t->tok);
	if (!l->t->tok)
		return nomem(l, (size_t)n * sizeof *l->t->tok);
	l->t->n_vocab = n;
	return 0;
}

static int load_vocab(struct load *l, const json_t *vocab)
{
	struct tokenizer *t = l->t;
	const char *key;
	json_t *v;
	json_object_foreach((json_t *)vocab, key, v) {
		size_t n_key = strlen(key);
		int id = (int)json_integer_value(v);
		struct token *tok = &t->tok[id];
		if (tok->used)
			return BAD(l, FORMAT, "the id %d belongs to two tokens, one is \"%.60s\"", id, key);
		size_t off = t->text.n;
		enum spelled how = unspell(l, key, n_key, &t->text);
		if (how == NO_MEMORY || (how == OUTSIDE && !buf_append(&t->text, key, n_key)))
			return nomem(l, n_key);
		*tok = (struct token){ .off = (uint32_t)off, .n = (uint32_t)(t->text.n - off), .used = 1, .raw = how == OUTSIDE };
	}
	return 0;
}

/* Puts an added token into the trie under root. */
static int trie_add(struct load *l, int root, const char *p, size_t n, int id)
{
	struct tokenizer *t = l->t;
	int32_t node = root;
	t->first[root][(unsigned char)p[0]] = true;
	for (size_t i = 0; i < n; i++) {
		struct pair *next = pair_map_put(&t->trie, (uint64_t)node << 8 | (unsigned char)p[i]);
		if (next->id < 0) { /* new: the map is filled with ones */
			next->id = t->n_node;
			t->trie_id[t->n_node++] = -1;
		}
		node = next->id;
	}
	if (t->trie_id[node] >= 0)
		return BAD(l, FORMAT, "two added tokens are \"%.60s\"", p);
	t->trie_id[node] = id;
	return 0;
}

static int load_added(struct load *l, const json_t *added)
{
	struct tokenizer *t = l->t;
	static const char *const no[] = { "single_word", "lstrip", "rstrip" };
	size_t i, n_byte = 2;
	json_t *v;
	json_array_foreach(added, i, v)
		n_byte += json_string_length(json_object_get(v, "content"));
	t->trie_id = malloc(n_byte * sizeof *t->trie_id);
	if (!t->trie_id || !pair_map_init(&t->trie, n_byte))
		return nomem(l, n_byte * 36);
	t->trie_id[0] = t->trie_id[1] = -1;
	t->n_node = 2;
	json_array_foreach(added, i, v) {
		const char *content = json_string_value(json_object_get(v, "content"));
		size_t n = strlen(content), off = t->text.n;
		int id = (int)json_integer_value(json_object_get(v, "id"));
		for (size_t k = 0; k < 3; k++)
			if (json_is_true(json_object_get(v, no[k])))
				return BAD(l, UNSUPPORTED, "added token \"%.60s\" asks for %s", content, no[k]);
		struct token *tok = &t->tok[id];
		/* The same token may stand in the vocabulary already, written in the byte alphabet or plainly. */
		l->a.n = 0;
		enum spelled how = unspell(l, content, n, &l->a);
		if (how == NO_MEMORY)
			return nomem(l, n);
		bool same = (tok->n == n && !memcmp(t->text.p + tok->off, content, n)) ||
		            (how == SPELLED && tok->n == l->a.n && !memcmp(t->text.p + tok->off, l->a.p, tok->n));
		if (tok->used && !same)
			return BAD(l, FORMAT, "the id %d belongs to two tokens, one is the added \"%.60s\"", id, content);
		/* Special or new: no text can merge into it.  Else it stays what the vocabulary says. */
		bool special = json_is_true(json_object_get(v, "special"));
		if (tok->used && !special && (tok->n != n || memcmp(t->text.p + tok->off, content, n)))
			return BAD(l, UNSUPPORTED, "added token \"%.60s\" has the id %d, which stands for other bytes", content, id);
		if (!tok->used || special) {
			if (!buf_append(&t->text, content, n))
				return nomem(l, n);
			*tok = (struct token){ .off = (uint32_t)off, .n = (uint32_t)n, .used = 1, .special = special, .raw = 1 };
		}
		int rc = trie_add(l, json_is_true(json_object_get(v, "normalized")), content, n, id);
		if (rc)
			return rc;
	}
	return 0;
}

/* The table from bytes to mergeable tokens. */
static int index_words(struct load *l)
{
	struct tokenizer *t = l->t;
	size_t n_slot = 16;
	while (n_slot < (size_t)t->n_vocab * 2)
		n_slot *= 2;
	t->word = malloc(n_slot * sizeof *t->word);
	if (!t->word)
		return nomem(l, n_slot * sizeof *t->word);
	memset(t->word, 0xff, n_slot * sizeof *t->word);
	t->word_mask = n_slot - 1;
	for (int id = 0; id < t->n_vocab; id++) {
		const struct token *tok = &t->tok[id];
		if (!tok->used || tok->raw || tok->n == 0)
			continue;
		uint64_t h = hash_bytes(t->text.p + tok->off, tok->n), i = h & t->word_mask;
		while (t->word[i].id >= 0)
			i = (i + 1) & t->word_mask;
		t->word[i] = (struct word_slot){ .tag = (uint32_t)(h >> 32), .id = id };
	}
	for (int b = 0; b < 256; b++) {
		char c = (char)b;
		t->byte_id[b] = token_find(t, &c, 1);
		if (t->byte_id[b] < 0)
			return BAD(l, UNSUPPORTED, "no token for the byte 0x%02x; byte-level BPE needs all 256", b);
	}
	return 0;
}

static int load_merges(struct load *l, const json_t *merges)
{
	struct tokenizer *t = l->t;
	size_t i, n = json_array_size(merges);
	json_t *m;
	if (n > TOKENIZER_MAX_MERGE)
		return BAD(l, FORMAT, "%zu merges, at most %d are read", n, TOKENIZER_MAX_MERGE);
	if (!pair_map_init(&t->merge, n))
		return nomem(l, n * 2 * sizeof(struct pair));
	json_array_foreach(merges, i, m) {
		const char *left = json_string_value(m), *right = NULL;
		size_t n_left = 0, n_right = 0;
		if (left) { /* "a b" */
			right = strchr(left, ' ');
			n_left = right ? (size_t)(right - left) : 0;
			right = right ? right + 1 : NULL;
			n_right = right ? strlen(right) : 0;
		} else if (json_array_size(m) == 2) { /* ["a", "b"] */
			left = json_string_value(json_array_get(m, 0));
			right = json_string_value(json_array_get(m, 1));
			n_left = left ? strlen(left) : 0;
			n_right = right ? strlen(right) : 0;
		}
		if (!n_left || !n_right)
			return BAD(l, FORMAT, "merge %zu is neither \"a b\" nor [\"a\", \"b\"]", i);
		l->a.n = 0;
		enum spelled h1 = unspell(l, left, n_left, &l->a);
		size_t cut = l->a.n;
		enum spelled h2 = h1 == SPELLED ? unspell(l, right, n_right, &l->a) : h1;
		if (h1 == NO_MEMORY || h2 == NO_MEMORY)
			return nomem(l, n_left + n_right);
		int32_t a = -1, b = -1, ab = -1;
		if (h1 == SPELLED && h2 == SPELLED) {
			a = token_find(t, l->a.p, cut);
			b = token_find(t, l->a.p + cut, l->a.n - cut);
			ab = token_find(t, l->a.p, l->a.n);
		}
		if (a < 0 || b < 0 || ab < 0)
			return BAD(l, FORMAT, "merge %zu, \"%.*s\" and \"%.60s\": %s is no ordinary token of the vocabulary", i,
			           n_left < 60 ? (int)n_left : 60, left, right, a < 0 ? "the left" : b < 0 ? "the right" : "the two together");
		struct pair *p = pair_map_put(&t->merge, pair_key(a, b)); /* of two equal merges the last counts */
		p->rank = (uint32_t)i;
		p->id = ab;
	}
	return 0;
}

static int load_tokenizer(struct load *l, const json_t *j)
{
	int rc;
	const json_t *model = json_object_get(j, "model"), *added = json_object_get(j, "added_tokens");
	const json_t *vocab = json_object_get(model, "vocab");
	if (!absent(added) && !json_is_array(added))
		return BAD(l, FORMAT, "added_tokens is not an array");
	if ((rc = check_model(l, model)) || (rc = check_normalizer(l, json_object_get(j, "normalizer"))) ||
	    (rc = check_decoder(l, json_object_get(j, "decoder"))) ||
	    (rc = load_pre_tokenizer(l, json_object_get(j, "pre_tokenizer"))) || (rc = count_tokens(l, vocab, added)) ||
	    (rc = load_vocab(l, vocab)) || (rc = load_added(l, added)) || (rc = index_words(l)))
		return rc;
	return load_merges(l, json_object_get(model, "merges"));
}

int tokenizer_parse(struct tokenizer **out, const char *json, size_t n, const char *file_name, struct moxie_err *err)
{
	*out = NULL;
	if (n > TOKENIZER_MAX_FILE)
		return err_set(err, MOXIE_E_FORMAT, "%s: %zu bytes, at most %d are read", file_name, n, TOKENIZER_MAX_FILE);
	json_t *j;
	int rc = json_read_text(&j, json, n, file_name, err);
	if (rc)
		return rc;
	struct load l = { .t = calloc(1, sizeof *l.t), .file_name = file_name, .err = err };
	byte_alphabet(l.byte_of);
	/* With something in them the scratch buffer and the text are never NULL, even for a file without tokens. */
	if (!l.t || !buf_puts(&l.a, "") || !buf_puts(&l.t->text, ""))
		rc = nomem(&l, sizeof *l.t);
	else
		rc = load_tokenizer(&l, j);
	json_decref(j);
	buf_free(&l.a);
	if (rc)
		tokenizer_free(l.t);
	else
		*out = l.t;
	return rc;
}

int tokenizer_open(struct tokenizer **out, const char *path, struct moxie_err *err)
{
	int rc = 0;
	char *text = NULL;
	struct stat st;
	*out = NULL;
	FILE *f = fopen(path, "re");
	if (!f || fstat(fileno(f), &st) != 0) {
		int code = errno == ENOMEM ? MOXIE_E_NOMEM : MOXIE_E_IO;
		rc = err_set(err, code, "%s: %s", path, strerror(errno));
		goto out;
	}
	if (!S_ISREG(st.st_mode)) {
		rc = err_set(err, MOXIE_E_IO, "%s: not a file", path);
		goto out;
	}
	if (st.st_size > TOKENIZER_MAX_FILE) {
		rc = err_set(err, MOXIE_E_FORMAT, "%s: %lld bytes, at most %d are read", path, (long long)st.st_size, TOKENIZER_MAX_FILE);
		goto out;
	}
	size_t n = (size_t)st.st_size;
	text = malloc(n + 1);
	if (!text) {
		rc = err_nomem(err, n + 1, path);
		goto out;
	}
	size_t got = fread(text, 1, n, f);
	if (got < n) {
		rc = err_set(err, MOXIE_E_IO, "%s: read %zu of %zu bytes: %s", path, got, n, ferror(f) ? strerror(errno) : "end of file");
		goto out;
	}
	rc = tokenizer_parse(out, text, n, path, err);
out:
	free(text);
	if (f)
		fclose(f);
	return rc;
}

void tokenizer_free(struct tokenizer *t)
{
	if (!t)
		return;
	for (int i = 0; i < t->n_split; i++)
		pcre2_code_free(t->split[i]);
	pcre2_match_context_free(t->limits);
	pair_map_free(&t->merge);
	pair_map_free(&t->trie);
	free(t->trie_id);
	free(t->word);
	free(t->tok);
	buf_free(&t->text);
	free(t);
}
