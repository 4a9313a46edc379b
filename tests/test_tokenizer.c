#include <jansson.h>
#include <pthread.h>

#include "formats/tokenizer_int.h" /* the split pattern itself, for its classes */
#include "test.h"

#define VECTORS "tests/vectors/"

static struct moxie_err err;

static struct tokenizer *open_vector(const char *name)
{
	char path[128];
	struct tokenizer *t;
	snprintf(path, sizeof path, VECTORS "tokenizer_%s.json", name);
	OK(tokenizer_open(&t, path, &err), err);
	return t;
}

static void decode(const struct tokenizer *t, const struct ids *a, bool specials, struct buf *b)
{
	struct detok d = { 0 };
	for (size_t i = 0; i < a->n; i++)
		CHECK(detok_push(&d, t, a->v[i], specials, b) == 0, "out of memory");
	CHECK(detok_finish(&d, b) == 0, "out of memory");
}

static void print_ids(const char *head, const int32_t *v, size_t n)
{
	printf("    %s", head);
	for (size_t i = 0; i < n; i++)
		printf(" %d", v[i]);
	putchar('\n');
}

/* One case of the vectors: the ids are those of HF tokenizers, and they decode to the text again. */
static void check_case(const struct tokenizer *t, const char *text, size_t n, bool specials, const json_t *want, int line)
{
	struct ids got = { 0 };
	struct buf back = { 0 };
	OK(tokenizer_encode(t, text, n, specials, &got, &err), err);
	bool same = got.n == json_array_size(want);
	for (size_t i = 0; same && i < got.n; i++)
		same = got.v[i] == json_integer_value(json_array_get(want, i));
	if (!same) {
		printf("    wanted");
		for (size_t i = 0; i < json_array_size(want); i++)
			printf(" %d", (int)json_integer_value(json_array_get(want, i)));
		putchar('\n');
		print_ids("got", got.v, got.n);
	}
	CHECK(same, "line %d, specials %d: %.*s", line, specials, (int)n, text);
	decode(t, &got, true, &back);
	CHECK(back.n == n && !memcmp(back.p ? back.p : "", text, n), "line %d: does not decode to itself: %.*s", line, (int)n, text);
	ids_free(&got);
	buf_free(&back);
}

static void golden(const char *name)
{
	struct tokenizer *t = open_vector(name);
	const char *more = getenv("MOXIE_TOKENIZER_CASES"); /* written by tools/gen_text_vectors.py --fuzz */
	FILE *f = fopen(more ? more : VECTORS "tokenizer_cases.jsonl", "r");
	CHECK(f, "no tokenizer_cases.jsonl");
	char *line = NULL;
	size_t cap = 0, n_case = 0;
	for (int i = 1; getline(&line, &cap, f) > 0; i++) {
		json_t *row = json_loads(line, JSON_ALLOW_NUL, NULL);
		CHECK(row, "line %d is not JSON", i);
		if (!strcmp(json_string_value(json_array_get(row, 0)), name)) {
			const json_t *text = json_array_get(row, 1), *plain = json_array_get(row, 2), *special = json_array_get(row, 3);
			check_case(t, json_string_value(text), json_string_length(text), false, plain, i);
			check_case(t, json_string_value(text), json_string_length(text), true, special ? special : plain, i);
			n_case++;
		}
		json_decref(row);
	}
	CHECK(n_case > 300, "only %zu cases", n_case);
	free(line);
	fclose(f);
	tokenizer_free(t);
}

TEST(golden_4k) { golden("4k"); }
TEST(golden_tiny) { golden("tiny"); }
TEST(golden_chain) { golden("chain"); }
TEST(golden_added) { golden("added"); }

/* The cuts of the text that gen_text_vectors.py's CLASS_TEXT describes, counted in characters. */
static void cuts_of(const struct tokenizer *t, pcre2_match_data *match, const char *c, char *cuts, size_t cap)
{
	char text[64];
	size_t at = 0, n_cut = 0;
	int n = c[0] ? snprintf(text, sizeof text, "a%sA%s1%s %s's%s", c, c, c, c, c) : 11;
	if (!c[0])
		memcpy(text, "a\0A\0" "1\0 \0's", 11); /* U+0000 */
	while (at < (size_t)n) {
		int rc = pcre2_match(t->split[0], (PCRE2_SPTR)text, (size_t)n, at, PCRE2_NO_UTF_CHECK, match, t->limits);
		CHECK(rc > 0, "no match at byte %zu of \"%s\": %d", at, text, rc);
		const PCRE2_SIZE *v = pcre2_get_ovector_pointer(match);
		CHECK(v[0] == at && v[1] > at, "a gap at byte %zu of \"%s\"", at, text);
		at = v[1];
		int n_char = 0;
		for (size_t i = 0; i < at; i++)
			n_char += ((unsigned char)text[i] & 0xc0) != 0x80;
		n_cut += (size_t)snprintf(cuts + n_cut, cap - n_cut, n_cut ? ",%d" : "%d", n_char);
	}
}

/* Every character of Unicode 14 is cut as HF tokenizers cuts it: \s, \p{L}, \p{N}, cases and marks agree. */
TEST(split_classes)
{
	struct tokenizer *t = open_vector("4k");
	FILE *f = fopen(VECTORS "tokenizer_classes.txt", "r");
	CHECK(f, "no tokenizer_classes.txt");
	pcre2_match_data *match = pcre2_match_data_create(1, NULL);
	unsigned c = 0, next = 0, n = 0;
	char want[64] = "?", then[64], got[64];
	for (bool more = true; more; c = next) {
		more = fscanf(f, "%x %63s", &next, then) == 2;
		if (!more)
			next = 0x110000;
		for (; c < next && want[0] != '?'; c++, n++) {
			char s[5] = { (char)c };
			if (c >= 0x10000)
				s[0] = (char)(0xf0 | c >> 18), s[1] = (char)(0x80 | (c >> 12 & 63)), s[2] = (char)(0x80 | (c >> 6 & 63)), s[3] = (char)(0x80 | (c & 63));
			else if (c >= 0x800)
				s[0] = (char)(0xe0 | c >> 12), s[1] = (char)(0x80 | (c >> 6 & 63)), s[2] = (char)(0x80 | (c & 63));
			else if (c >= 0x80)
				s[0] = (char)(0xc0 | c >> 6), s[1] = (char)(0x80 | (c & 63));
			cuts_of(t, match, s, got, sizeof got);
			CHECK(!strcmp(got, want), "U+%04X is cut at %s, wanted %s", c, got, want);
		}
		strcpy(want, then);
	}
	CHECK(n > 270000, "only %u characters", n);
	pcre2_match_data_free(match);
	fclose(f);
	tokenizer_free(t);
}

static int hex_bytes(const char *hex, unsigned char *out)
{
	int n = 0;
	for (unsigned v; sscanf(hex + 2 * n, "%2x", &v) == 1; n++)
		out[n] = (unsigned char)v;
	return n;
}

/* Broken UTF-8 becomes what Python's errors="replace" makes of it. */
TEST(detok_replaces)
{
	struct tokenizer *t = open_vector("tiny");
	FILE *f = fopen(VECTORS "tokenizer_utf8.txt", "r");
	CHECK(f, "no tokenizer_utf8.txt");
	char in[128], out[256], line[512];
	int n_case = 0;
	while (fgets(line, sizeof line, f) && sscanf(line, "%127s %255s", in, out) == 2) {
		unsigned char bytes[64], want[128];
		int n = hex_bytes(in, bytes), n_want = hex_bytes(out, want);
		struct ids ids = { 0 };
		struct buf got = { 0 };
		for (int i = 0; i < n; i++)
			CHECK(ids_push(&ids, t->byte_id[bytes[i]]), "out of memory");
		decode(t, &ids, true, &got);
		CHECK(got.n == (size_t)n_want && !memcmp(got.p, want, got.n), "%s gives %zu bytes, wanted %s", in, got.n, out);
		ids_free(&ids);
		buf_free(&got);
		n_case++;
	}
	CHECK(n_case > 800, "only %d cases", n_case);
	fclose(f);
	tokenizer_free(t);
}

/* Any ids: the text is the same when each id's bytes come one by one, and it is always whole UTF-8 after every step. */
TEST(detok_any_chunks)
{
	struct tokenizer *t = open_vector("4k");
	for (int round = 0; round < 500; round++) {
		struct ids ids = { 0 }, bytes = { 0 };
		struct buf a = { 0 }, b = { 0 };
		struct detok d = { 0 };
		int n = 1 + rnd_int(60);
		for (int i = 0; i < n; i++) {
			int32_t id = rnd_int(3) ? t->byte_id[128 + rnd_int(128)] : rnd_int(tokenizer_n_vocab(t));
			size_t k;
			const char *s = tokenizer_bytes(t, id, &k);
			CHECK(ids_push(&ids, id), "out of memory");
			for (size_t j = 0; j < k; j++)
				CHECK(ids_push(&bytes, t->byte_id[(unsigned char)s[j]]), "out of memory");
		}
		decode(t, &bytes, true, &b);
		for (size_t i = 0; i < ids.n; i++) {
			CHECK(detok_push(&d, t, ids.v[i], true, &a) == 0, "out of memory");
			struct ids again = { 0 };
			CHECK(tokenizer_encode(t, a.p ? a.p : "", a.n, false, &again, &err) == 0, "a half character came out: %s", err.text);
			ids_free(&again);
		}
		CHECK(detok_finish(&d, &a) == 0, "out of memory");
		CHECK(a.n == b.n && !memcmp(a.p, b.p, a.n), "%zu and %zu bytes", a.n, b.n);
		ids_free(&ids);
		ids_free(&bytes);
		buf_free(&a);
		buf_free(&b);
	}
	tokenizer_free(t);
}

TEST(detok_specials)
{
	struct tokenizer *t = open_vector("4k");
	struct ids ids = { 0 };
	struct buf b = { 0 };
	int32_t end = tokenizer_special(t, "<|end|>");
	CHECK(end >= 4000 && tokenizer_is_special(t, end) && !tokenizer_is_special(t, 0) && !tokenizer_is_special(t, -1), "id %d", end);
	CHECK(tokenizer_special(t, "<|en") == -1 && tokenizer_special(t, "<|end|>x") == -1 && tokenizer_special(t, "") == -1, "found too much");
	/* a special token that is not shown does not part the bytes of a character */
	CHECK(ids_push(&ids, t->byte_id[0xc3]) && ids_push(&ids, end) && ids_push(&ids, t->byte_id[0xa9]), "out of memory");
	CHECK(ids_push(&ids, -1) && ids_push(&ids, tokenizer_n_vocab(t)) && ids_push(&ids, INT32_MAX), "out of memory");
	decode(t, &ids, false, &b);
	CHECK(!strcmp(b.p, "é"), "%s", b.p);
	b.n = 0;
	decode(t, &ids, true, &b);
	CHECK(!strcmp(b.p, "\xef\xbf\xbd<|end|>\xef\xbf\xbd"), "%s", b.p);
	ids_free(&ids);
	buf_free(&b);
	tokenizer_free(t);
}

TEST(encode_refuses_bad_utf8)
{
	struct tokenizer *t = open_vector("4k");
	struct ids out = { 0 };
	static const struct { const char *text; int at; } bad[] = {
		{ "abc\x80", 3 }, { "\xc3", 0 }, { "12345678\xe4\xb8", 8 }, { "\xed\xa0\x80", 0 }, { "x\xf4\x90\x80\x80", 1 },
		{ "ab\xc0\x80", 2 }, { "é\xff", 2 }, { "\xf0\x9f\x98", 0 }, { "0123456789abcdef\xfe", 16 },
	};
	CHECK(ids_push(&out, 5), "out of memory");
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		char at[32];
		snprintf(at, sizeof at, "byte %d of", bad[i].at);
		CHECK(tokenizer_encode(t, bad[i].text, strlen(bad[i].text), false, &out, &err) == MOXIE_E_ARG, "case %zu was taken", i);
		CHECK(strstr(err.text, at), "case %zu says: %s", i, err.text);
		CHECK(out.n == 1 && out.v[0] == 5, "case %zu changed the ids", i);
		CHECK(tokenizer_encode(t, bad[i].text, strlen(bad[i].text), false, &out, NULL) == MOXIE_E_ARG, "case %zu was taken", i);
	}
	OK(tokenizer_encode(t, NULL, 0, true, &out, &err), err);
	ids_free(&out);
	tokenizer_free(t);
}

static void append_utf8(struct buf *b, unsigned c)
{
	char s[4] = { (char)c };
	size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
	if (n > 1) {
		for (size_t i = n - 1; i > 0; i--, c >>= 6)
			s[i] = (char)(0x80 | (c & 63));
		s[0] = (char)((0xf00 >> n & 0xff) | c);
	}
	CHECK(buf_append(b, s, n), "out of memory");
}

/* decode(encode(text)) is the text, for any text. */
TEST(round_trip)
{
	static const char *const names[] = { "4k", "tiny", "chain", "added" };
	for (int k = 0; k < 4; k++) {
		struct tokenizer *t = open_vector(names[k]);
		for (int round = 0; round < 1000; round++) {
			struct buf text = { 0 }, back = { 0 };
			struct ids ids = { 0 };
			int n = 1 + rnd_int(100), style = rnd_int(3);
			for (int i = 0; i < n; i++) {
				unsigned c = style == 0 ? (unsigned)rnd_int(0x110000) : style == 1 ? (unsigned)rnd_int(0x300) : (unsigned)" \n\ta'1<|end|>"[rnd_int(13)];
				append_utf8(&text, c >= 0xd800 && c < 0xe000 ? 'x' : c);
			}
			bool specials = rnd_int(2);
			OK(tokenizer_encode(t, text.p, text.n, specials, &ids, &err), err);
			decode(t, &ids, true, &back);
			CHECK(back.n == text.n && !memcmp(back.p, text.p, text.n), "round %d: %s", round, text.p);
			buf_free(&text);
			buf_free(&back);
			ids_free(&ids);
		}
		tokenizer_free(t);
	}
}

/* Pieces without a space do not cost their length squared. */
TEST(encode_long_pieces)
{
	struct tokenizer *t = open_vector("4k");
	static const char *const unit[] = { "a", "A", "the", "ab", " ", "\n", "1", "!", "é", "中", "\xf0\x9f\x98\x80", "'s", "\t \n", "a\xcc\x81" };
	for (size_t k = 0; k < sizeof unit / sizeof *unit; k++) {
		struct buf text = { 0 }, back = { 0 };
		struct ids ids = { 0 };
		while (text.n < 300000)
			CHECK(buf_puts(&text, unit[k]), "out of memory");
		clock_t start = clock();
		OK(tokenizer_encode(t, text.p, text.n, false, &ids, &err), err);
		double s = (double)(clock() - start) / CLOCKS_PER_SEC;
		CHECK(s < 5, "\"%s\" repeated: %.1f s for %zu bytes", unit[k], s, text.n);
		decode(t, &ids, true, &back);
		CHECK(back.n == text.n && !memcmp(back.p, text.p, text.n), "\"%s\" repeated does not come back", unit[k]);
		buf_free(&text);
		buf_free(&back);
		ids_free(&ids);
	}
	tokenizer_free(t);
}

struct worker {
	pthread_t thread;
	const struct tokenizer *t;
	struct ids ids;
	int rc;
};
static const char shared_text[] = "The same words from several threads: Grüße, 世界, don't, 12345 <|end|> and so on.\n";

static void *encode_often(void *arg)
{
	struct worker *w = arg;
	for (int i = 0; i < 200 && !w->rc; i++) {
		w->ids.n = 0;
		w->rc = tokenizer_encode(w->t, shared_text, sizeof shared_text - 1, true, &w->ids, NULL);
	}
	return NULL;
}

TEST(encode_from_threads)
{
	struct worker w[4] = { 0 };
	struct ids want = { 0 };
	struct tokenizer *t = open_vector("4k"), *other = open_vector("4k");
	OK(tokenizer_encode(other, shared_text, sizeof shared_text - 1, true, &want, &err), err);
	for (int i = 0; i < 4; i++) {
		w[i].t = t;
		CHECK(!pthread_create(&w[i].thread, NULL, encode_often, &w[i]), "no thread");
	}
	for (int i = 0; i < 4; i++)
		pthread_join(w[i].thread, NULL);
	for (int i = 0; i < 4; i++) {
		CHECK(w[i].rc == 0 && w[i].ids.n == want.n && !memcmp(w[i].ids.v, want.v, want.n * sizeof *want.v), "thread %d differs", i);
		ids_free(&w[i].ids);
	}
	ids_free(&want);
	tokenizer_free(t);
	tokenizer_free(other);
}

/* ---- files that must not load */

/* Parses the tiny tokenizer with the value at path ("model.vocab" etc.) replaced by JSON text; NULL: removed. */
static int parse_changed(struct tokenizer **t, const char *path, const char *value)
{
	json_t *j = json_load_file(VECTORS "tokenizer_tiny.json", 0, NULL), *at = j;
	char name[64];
	CHECK(j, "no tokenizer_tiny.json");
	for (;;) {
		size_t n = strcspn(path, ".");
		snprintf(name, sizeof name, "%.*s", (int)n, path);
		if (!path[n])
			break;
		at = json_is_array(at) ? json_array_get(at, (size_t)atoi(name)) : json_object_get(at, name);
		path += n + 1;
	}
	json_t *v = value ? json_loads(value, JSON_DECODE_ANY, NULL) : NULL;
	CHECK(!value || v, "not JSON: %s", value);
	if (!value)
		json_object_del(at, name);
	else if (json_is_array(at) && (size_t)atoi(name) < json_array_size(at))
		json_array_set_new(at, (size_t)atoi(name), v);
	else if (json_is_array(at))
		json_array_append_new(at, v);
	else
		json_object_set_new(at, name, v);
	char *text = json_dumps(j, 0);
	int rc = tokenizer_parse(t, text, strlen(text), "x.json", &err);
	free(text);
	json_decref(j);
	return rc;
}

TEST(load_refuses)
{
	static const struct { int rc; const char *path, *value, *say; } bad[] = {
		{ MOXIE_E_UNSUPPORTED, "model.type", "\"Unigram\"", "Unigram" },
		{ MOXIE_E_FORMAT, "model", NULL, "no model" },
		{ MOXIE_E_UNSUPPORTED, "model.dropout", "0.1", "dropout" },
		{ MOXIE_E_UNSUPPORTED, "model.byte_fallback", "true", "byte_fallback" },
		{ MOXIE_E_UNSUPPORTED, "model.end_of_word_suffix", "\"</w>\"", "</w>" },
		{ MOXIE_E_UNSUPPORTED, "model.continuing_subword_prefix", "\"##\"", "##" },
		{ MOXIE_E_FORMAT, "model.vocab", "[]", "model.vocab" },
		{ MOXIE_E_FORMAT, "model.merges", NULL, "model.merges" },
		{ MOXIE_E_UNSUPPORTED, "model.vocab", "{}", "0x00" },
		{ MOXIE_E_UNSUPPORTED, "model.vocab.a", NULL, "0x61" },
		{ MOXIE_E_FORMAT, "model.vocab.a", "-1", "\"a\" has the id -1" },
		{ MOXIE_E_FORMAT, "model.vocab.a", "1.5", "\"a\"" },
		{ MOXIE_E_FORMAT, "model.vocab.a", "\"5\"", "\"a\"" },
		{ MOXIE_E_FORMAT, "model.vocab.a", "2097152", "2097152" },
		{ MOXIE_E_FORMAT, "model.vocab.a", "9000000000000000000", "9000000000000000000" },
		{ MOXIE_E_FORMAT, "model.vocab.new", "0", "two tokens" },
		{ MOXIE_E_FORMAT, "model.merges.0", "\"ab\"", "merge 0" },
		{ MOXIE_E_FORMAT, "model.merges.0", "\"a \"", "merge 0" },
		{ MOXIE_E_FORMAT, "model.merges.0", "\" a\"", "merge 0" },
		{ MOXIE_E_FORMAT, "model.merges.1", "\"a b c\"", "merge 1" },
		{ MOXIE_E_FORMAT, "model.merges.2", "[\"a\"]", "merge 2" },
		{ MOXIE_E_FORMAT, "model.merges.2", "[\"a\", 1]", "merge 2" },
		{ MOXIE_E_FORMAT, "model.merges.3", "7", "merge 3" },
		{ MOXIE_E_FORMAT, "model.merges.4", "\"qqq a\"", "the left" },
		{ MOXIE_E_FORMAT, "model.merges.4", "\"a qqq\"", "the right" },
		{ MOXIE_E_FORMAT, "model.merges.4", "\"q z\"", "together" },
		{ MOXIE_E_FORMAT, "model.merges.4", "\"< |endoftext|>\"", "merge 4" },
		{ MOXIE_E_UNSUPPORTED, "normalizer", "{\"type\": \"NFC\"}", "NFC" },
		{ MOXIE_E_UNSUPPORTED, "normalizer", "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFKC\"}]}", "Sequence" },
		{ MOXIE_E_UNSUPPORTED, "pre_tokenizer", "null", "pre_tokenizer" },
		{ MOXIE_E_UNSUPPORTED, "pre_tokenizer.type", "\"Metaspace\"", "Metaspace" },
		{ MOXIE_E_UNSUPPORTED, "pre_tokenizer.add_prefix_space", "true", "add_prefix_space" },
		{ MOXIE_E_UNSUPPORTED, "pre_tokenizer", "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\"},{\"type\":\"ByteLevel\"}]}", "Digits" },
		{ MOXIE_E_UNSUPPORTED, "pre_tokenizer", "{\"type\":\"Sequence\",\"pretokenizers\":[]}", "ByteLevel" },
		{ MOXIE_E_UNSUPPORTED, "pre_tokenizer", "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},{\"type\":\"ByteLevel\"}]}", "ByteLevel" },
		{ MOXIE_E_UNSUPPORTED, "decoder.type", "\"WordPiece\"", "WordPiece" },
		{ MOXIE_E_FORMAT, "added_tokens", "{}", "added_tokens" },
		{ MOXIE_E_FORMAT, "added_tokens.0", "{\"id\": 400}", "added token 0" },
		{ MOXIE_E_FORMAT, "added_tokens.0", "{\"id\": 400, \"content\": \"\"}", "added token 0" },
		{ MOXIE_E_FORMAT, "added_tokens.0", "{\"content\": \"x\"}", "\"x\"" },
		{ MOXIE_E_FORMAT, "added_tokens.0", "{\"id\": 3, \"content\": \"xyz\"}", "the id 3" },
		{ MOXIE_E_FORMAT, "added_tokens.1", "{\"id\": 401, \"content\": \"<|endoftext|>\"}", "<|endoftext|>" },
		{ MOXIE_E_UNSUPPORTED, "added_tokens.0.lstrip", "true", "lstrip" },
		{ MOXIE_E_UNSUPPORTED, "added_tokens.0.rstrip", "true", "rstrip" },
		{ MOXIE_E_UNSUPPORTED, "added_tokens.0.single_word", "true", "single_word" },
	};
	struct tokenizer *t;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		t = (struct tokenizer *)&err;
		int rc = parse_changed(&t, bad[i].path, bad[i].value);
		CHECK(rc == bad[i].rc && !t, "%s = %s: %d, wanted %d: %s", bad[i].path, bad[i].value ? bad[i].value : "gone", rc, bad[i].rc, rc ? err.text : "taken");
		CHECK(strstr(err.text, bad[i].say) && !strncmp(err.text, "x.json: ", 8), "%s = %s says: %s", bad[i].path, bad[i].value ? bad[i].value : "gone", err.text);
	}
	CHECK(tokenizer_open(&t, VECTORS "no-such-file", &err) == MOXIE_E_IO && !t && strstr(err.text, "no-such-file"), "%s", err.text);
	CHECK(tokenizer_open(&t, VECTORS, &err) == MOXIE_E_IO && !t, "%s", err.text);
	CHECK(tokenizer_parse(&t, "", 0, "x.json", &err) == MOXIE_E_FORMAT && !t, "%s", err.text);
	CHECK(tokenizer_parse(&t, "{}", 2, "x.json", &err) == MOXIE_E_FORMAT && !t, "%s", err.text);
	CHECK(tokenizer_parse(&t, "{\"a\":1,\"a\":2}", 13, "x.json", &err) == MOXIE_E_FORMAT && !t && strstr(err.text, "duplicate"), "%s", err.text);
}

/* What files may also say. */
TEST(load_takes)
{
	static const struct { const char *path, *value; } good[] = {
		{ "model.type", NULL }, { "model.dropout", "null" }, { "model.dropout", "0.0" }, { "model.unk_token", "\"\"" },
		{ "model.end_of_word_suffix", "\"\"" }, { "model.continuing_subword_prefix", "null" }, { "normalizer", "null" },
		{ "normalizer", "{\"type\": \"Sequence\", \"normalizers\": []}" }, { "decoder", "null" }, { "post_processor", "{\"type\": \"ByteLevel\"}" },
		{ "decoder", "{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"ByteLevel\"}]}" }, { "added_tokens", "[]" }, { "added_tokens", NULL },
		{ "pre_tokenizer", "{\"type\": \"ByteLevel\"}" }, { "pre_tokenizer", "{\"type\": \"ByteLevel\", \"use_regex\": false}" },
		{ "added_tokens.1", "{\"id\": 2000000, \"content\": \"<far>\", \"special\": true}" }, { "model.vocab.\xe4\xb8\x96", "900" }, { "model.vocab.", "901" },
		{ "model.merges", "[]" }, { "model.ignore_merges", "true" },
	};
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		struct tokenizer *t;
		struct ids ids = { 0 };
		struct buf back = { 0 };
		const char *text = "the \xe4\xb8\x96 <far> it's";
		CHECK(parse_changed(&t, good[i].path, good[i].value) == 0, "%s = %s: %s", good[i].path, good[i].value ? good[i].value : "gone", err.text);
		OK(tokenizer_encode(t, text, strlen(text), true, &ids, &err), err);
		decode(t, &ids, true, &back);
		CHECK(!strcmp(back.p, text), "%s = %s: \"%s\"", good[i].path, good[i].value ? good[i].value : "gone", back.p);
		ids_free(&ids);
		buf_free(&back);
		tokenizer_free(t);
	}
}

static int parse_pattern(struct tokenizer **t, const char *regex, const char *behavior, bool invert)
{
	json_t *j = json_pack("{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, {s:s, s:b}]}", "type", "Sequence", "pretokenizers", "type", "Split", "pattern",
	                      "Regex", regex, "behavior", behavior, "invert", (int)invert, "type", "ByteLevel", "use_regex", 0);
	CHECK(j, "no JSON for %s", regex);
	char *text = json_dumps(j, 0);
	int rc = parse_changed(t, "pre_tokenizer", text);
	free(text);
	json_decref(j);
	return rc;
}

TEST(split_patterns)
{
	static const char *const bad[] = { "(", "[a", "\\w+", "[\\W]", "\\bx", "[a[b]]", "[a&&b]", "(*UTF)a", "(*LIMIT_MATCH=5)a", "^a", "a$", "\\h", "a\\Kb", "\\Qa", "\\C",
	                                   "\\p{NoSuchThing}", "(?<n>a)\\k<n>", "\\" };
	struct tokenizer *t;
	struct ids ids = { 0 };
	struct buf back = { 0 };
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		CHECK(parse_pattern(&t, bad[i], "Isolated", false) == MOXIE_E_UNSUPPORTED && !t, "%s: %s", bad[i], t ? "taken" : err.text);
	CHECK(parse_pattern(&t, "a", "Removed", false) == MOXIE_E_UNSUPPORTED && strstr(err.text, "Removed"), "%s", err.text);
	CHECK(parse_pattern(&t, "a", "MergedWithNext", false) == MOXIE_E_UNSUPPORTED && strstr(err.text, "MergedWithNext"), "%s", err.text);

	/* a class that begins with ], classes with white space in them, gaps, matches of nothing */
	static const char *const fine[] = { "[]a]+", "[^]a]+", "[\\s\\S]", "[^\\S]+|\\S", "x*", "(?=a)", "zzz", "", "\\p{L}+|\\d", "[a\\]]", "\\[" };
	for (size_t i = 0; i < sizeof fine / sizeof *fine; i++) {
		const char *text = "aa ]x[ \xc2\xa0 xaxx12 \xf0\x9f\x98\x80";
		CHECK(parse_pattern(&t, fine[i], "Isolated", false) == 0, "%s: %s", fine[i], err.text);
		ids.n = back.n = 0;
		OK(tokenizer_encode(t, text, strlen(text), false, &ids, &err), err);
		decode(t, &ids, true, &back);
		CHECK(!strcmp(back.p, text), "%s: %s", fine[i], back.p);
		tokenizer_free(t);
	}

	/* "Removed", inverted, keeps the matches alone */
	CHECK(parse_pattern(&t, "[a-z]+", "Removed", true) == 0, "%s", err.text);
	ids.n = back.n = 0;
	OK(tokenizer_encode(t, "ab 12 cd!", 9, false, &ids, &err), err);
	decode(t, &ids, true, &back);
	CHECK(!strcmp(back.p, "abcd"), "%s", back.p);
	tokenizer_free(t);

	/* a pattern that backtracks without end stops at the limit */
	CHECK(parse_pattern(&t, "(?:a+)+b|.", "Isolated", false) == 0, "%s", err.text);
	char many[61] = "";
	memset(many, 'a', 60);
	size_t n_before = ids.n;
	CHECK(tokenizer_encode(t, many, 60, false, &ids, &err) == MOXIE_E_ARG && strstr(err.text, "byte 0") && ids.n == n_before, "%s", err.text);
	tokenizer_free(t);
	ids_free(&ids);
	buf_free(&back);
}

/* Damaged files: an error or a tokenizer that still gives back every text. */
TEST(load_mutated)
{
	FILE *f = fopen(VECTORS "tokenizer_tiny.json", "r");
	static char good[1 << 16], bad[1 << 16];
	CHECK(f, "no tokenizer_tiny.json");
	size_t n_good = fread(good, 1, sizeof good, f);
	int n_open = 0;
	fclose(f);
	for (int round = 0; round < 2000; round++) {
		static const char mix[] = "{}[]\",:0129-eE.\\ untf\x80\xff\n";
		size_t n = rnd_int(10) ? n_good : (size_t)rnd_int((int)n_good);
		memcpy(bad, good, n_good);
		for (int k = rnd_int(4); k >= 0; k--) {
			size_t i = (size_t)rnd_int((int)n_good), j = (size_t)rnd_int((int)n_good), len = (size_t)rnd_int(20);
			if (rnd_int(3))
				bad[i] = rnd_int(2) ? (char)rnd_u64() : mix[rnd_int(sizeof mix - 1)];
			else if (i + len < n_good && j + len < n_good)
				memmove(bad + i, bad + j, len);
		}
		struct tokenizer *t;
		struct ids ids = { 0 };
		struct buf back = { 0 };
		if (tokenizer_parse(&t, bad, n, "bad.json", &err)) {
			CHECK(!t && err.text[0], "an error without words");
			continue;
		}
		n_open++;
		const char *text = "the 12 a\xc3\xa9 <|endoftext|>";
		if (!tokenizer_encode(t, text, strlen(text), true, &ids, &err)) {
			decode(t, &ids, true, &back);
			CHECK(!strcmp(back.p, text), "round %d: %s", round, back.p);
		}
		ids_free(&ids);
		buf_free(&back);
		tokenizer_free(t);
	}
	CHECK(n_open > 10, "only %d opened", n_open);
}

TEST_MAIN
