/* test_grammar.c - JSON held to a schema: what is taken, what is refused, and that the masks say the same as the bytes do. */
#include <jansson.h>

#include "formats/grammar.h"
#include "test.h"

static struct moxie_err err;

/* ---- vocabularies ------------------------------------------------------------------------------------------------------ */

static void put_byte(struct buf *j, unsigned char b)
{
	static int to[256], made;
	for (int i = 0, next = 256; !made && i < 256; i++)
		to[i] = (i >= 33 && i <= 126) || (i >= 161 && i <= 172) || i >= 174 ? i : next++;
	made = 1;
	buf_printf(j, "\\u%04x", to[b]);
}

/* 256 bytes, a few tokens that cross every border there is, and n_more random ones. */
static struct tokenizer *make_vocab(int n_more)
{
	static const char *const some[] = { "{\"", "\"}", "\":", "\": ", "\",", "\", \"", "\":\"", "\":[", "[{\"", "},{\"", "}]}", "]}", "\"]", "\\\"",
		"\\u", "\\u00", "\\ud83d", "\\n", "ab", "abc", "abc\"", "name", "name\"", "\"name\"", "\"name\":", "x\":", "12", "123", "-1", "1.5", "0.",
		"e1", "true", "false", "null", "tru", "e,", "  ", "\n  ", "\n    \"", " \"", ", ", ",\n", "\xe2\x82", "\xac\"", "\xc3\xa9", "\xf0\x9f", "\x98\x80",
		"t\xc3", "ed", "red", "red\"", "\"red", "\"green\"", "blu", "\xed\xa0", "\xe0\x80", "1,2", "1]", "[]", "{}", "[[", "]]", "\"\"", "\"\",",
		"a\"b", "\\\\\"", "\\\\", "u0041", "0041\"" };
	struct buf j = { 0 };
	struct tokenizer *t;
	int id = 256;
	buf_puts(&j, "{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{");
	for (int b = 0; b < 256; b++) {
		buf_puts(&j, b ? ",\"" : "\"");
		put_byte(&j, (unsigned char)b);
		buf_printf(&j, "\":%d", b);
	}
	for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
		buf_puts(&j, ",\"");
		for (const char *c = some[i]; *c; c++)
			put_byte(&j, (unsigned char)*c);
		buf_printf(&j, "\":%d", id++);
	}
	for (int i = 0; i < n_more; i++) { /* words such as vocabularies have, each with its number, so that none stands twice */
		static const char *const lead[] = { " ", "", "", " ", "\xd0\xb0", ".", "(", "\xe4\xb8", "_", "\"", " \"" };
		char text[64];
		int n = snprintf(text, sizeof text, "%s", lead[rnd_int(50) ? rnd_int(9) : 9 + rnd_int(2)]); /* 2 % begin with a quote */
		for (int k = 3 + rnd_int(5); k > 0; k--)
			text[n++] = (char)('a' + rnd_int(26));
		for (int k = i; k; k /= 26)
			text[n++] = (char)('a' + k % 26);
		if (rnd_int(60) == 0)
			text[n++] = '"', text[n++] = ":,}) "[rnd_int(5)];
		buf_puts(&j, ",\"");
		for (int k = 0; k < n; k++)
			put_byte(&j, (unsigned char)text[k]);
		buf_printf(&j, "\":%d", id++);
	}
	buf_printf(&j, "}},\"added_tokens\":[{\"id\":%d,\"content\":\"<|end|>\",\"special\":true}]}", id);
	OK(tokenizer_parse(&t, j.p, j.n, "test", &err), err);
	buf_free(&j);
	return t;
}

/* ---- what is taken ------------------------------------------------------------------------------------------------------- */

/* 2: a whole value; 1: the start of one; 0: refused. */
static int take(const char *schema, const char *text)
{
	struct grammar *g;
	struct grammar_run *r;
	OK(grammar_compile(&g, schema, schema ? strlen(schema) : 0, &err), err);
	OK(grammar_run_create(&r, g, NULL, &err), err);
	bool ok = true;
	for (const char *c = text; *c && ok; c++)
		ok = grammar_push(r, c, 1);
	int state = !ok ? 0 : grammar_done(r) ? 2 : 1;
	grammar_run_free(r);
	grammar_free(g);
	return state;
}

#define PERSON "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"age\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":150}," \
	"\"nick\":{\"type\":\"string\"}},\"required\":[\"name\",\"age\"],\"additionalProperties\":false}"
#define OPEN "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"ab\":{}},\"required\":[\"a\"],\"additionalProperties\":{\"type\":\"boolean\"}}"
#define TREE "{\"$ref\":\"#/$defs/t\",\"$defs\":{\"t\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},\"l\":{\"anyOf\":[{\"$ref\":\"#/$defs/t\"},"\
	"{\"type\":\"null\"}]}},\"required\":[\"v\",\"l\"]}}}"
#define SHAPE "{\"anyOf\":[{\"type\":\"object\",\"properties\":{\"k\":{\"const\":\"c\"},\"r\":{\"type\":\"number\"}},\"required\":[\"k\",\"r\"]}," \
	"{\"type\":\"object\",\"properties\":{\"k\":{\"const\":\"sq\"},\"w\":{\"type\":\"number\"}},\"required\":[\"k\",\"w\"]}]}"

TEST(takes_and_refuses)
{
	static const struct { const char *schema, *text; int want; } cases[] = {
		{ NULL, "{}", 2 }, { NULL, "{\"a\": [1, 2.5e-3, {\"b\": null}], \"c\": \"\\ud83d\\ude00\"}", 2 }, { NULL, "[]", 0 }, { NULL, "1", 0 },
		{ NULL, "{\"a\":1}x", 0 }, { NULL, "{\"a\":1} ", 0 }, { NULL, " {", 0 }, { NULL, "{\"a\" :1", 0 }, { NULL, "{\"a\":1,}", 0 }, { NULL, "{  ", 0 }, { NULL, "{\n\n", 0 }, { NULL, "{\n    ", 1 }, { NULL, "{\n     ", 0 },
		{ NULL, "{\"a\":1 ,", 0 }, { NULL, "{\"a\": 1\n}", 2 }, { NULL, "{\"a\":\n", 0 }, { NULL, "{\"a\": [ 1, 2 ] }", 2 }, { NULL, "{,", 0 },
		{ NULL, "{\"a\":01", 0 }, { NULL, "{\"a\":-}", 0 }, { NULL, "{\"a\":1.}", 0 }, { NULL, "{\"a\":tru}", 0 }, { NULL, "{\"a\":\"\\x", 0 },
		{ NULL, "{\"a\":\"\\ud83d\"", 0 }, { NULL, "{\"a\":\"\\ude00", 0 }, { NULL, "{\"a\":\"\\u0000", 0 }, { NULL, "{\"a\":\"\x01", 0 },
		{ NULL, "{\"a\":\"\xff", 0 }, { NULL, "{\"a\":\"\xed\xa0", 0 }, { NULL, "{\"a\":\"\xc3\xa9\"}", 2 }, { NULL, "{\"a\":\"\xc3\"", 0 },
		{ NULL, "{\"a\":12345678901234567", 1 }, { NULL, "{\"a\":123456789012345678", 0 }, { NULL, "{\"a\":1e99}", 2 }, { NULL, "{\"a\":1e100", 0 },
		{ PERSON, "{\"name\":\"Bo\",\"age\":7}", 2 }, { PERSON, "{\"name\":\"Bo\",\"age\":7,\"nick\":\"x\"}", 2 }, { PERSON, "{\"age\"", 0 },
		{ PERSON, "{\"name\":\"Bo\"}", 0 }, { PERSON, "{\"name\":\"Bo\",\"age\":151", 0 }, { PERSON, "{\"name\":\"Bo\",\"age\":150}", 2 },
		{ PERSON, "{\"name\":\"Bo\",\"age\":-", 0 }, { PERSON, "{\"name\":\"Bo\",\"age\":7,\"x", 0 }, { PERSON, "{}", 0 }, { PERSON, "{\n  \"name\": \"", 1 },
		{ PERSON, "{\"name\":\"Bo\",\"age\":7.", 0 }, { PERSON, "{\"name\":\"Bo\",\"age\":\"7", 0 },
		{ OPEN, "{\"a\":1,\"b\":true}", 2 }, { OPEN, "{\"a\":1,\"ab\":[1],\"abc\":false}", 2 }, { OPEN, "{\"a\":1,\"abc\":false,\"ab\"", 0 },
		{ OPEN, "{\"a\":1,\"a\"", 0 }, { OPEN, "{\"b\"", 0 }, { OPEN, "{\"a\":1,\"b\":1", 0 }, { OPEN, "{\"a\":1,\"\\u0061", 0 },
		{ OPEN, "{\"a\":1,\"\xc3\xa9\":true}", 2 },
		{ TREE, "{\"v\":1,\"l\":{\"v\":2,\"l\":null}}", 2 }, { TREE, "{\"v\":1,\"l\":{\"v\":2}", 0 }, { TREE, "{\"v\":1,\"l\":3", 0 },
		{ SHAPE, "{\"k\":\"c\",\"r\":1.5}", 2 }, { SHAPE, "{\"k\":\"sq\",\"w\":1}", 2 }, { SHAPE, "{\"k\":\"c\",\"w", 0 }, { SHAPE, "{\"k\":\"s", 1 },
		{ "{\"enum\":[1,12,\"red\",\"re\",null,[1,2],{\"a\":0.1}]}", "1", 2 }, { "{\"enum\":[1,12]}", "12", 2 }, { "{\"enum\":[1,12]}", "2", 0 },
		{ "{\"enum\":[\"red\",\"re\",[1,2]]}", "\"re\"", 2 }, { "{\"enum\":[\"red\",\"re\",[1,2]]}", "[1,2]", 2 }, { "{\"enum\":[\"red\"]}", "\"re\"", 0 },
		{ "{\"enum\":[0.1]}", "0.1", 2 }, { "{\"const\":\"\\u20ac\\\"\"}", "\"\xe2\x82\xac\\\"\"", 2 },
		{ "{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":2,\"maxItems\":3}", "[1]", 0 },
		{ "{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":2,\"maxItems\":3}", "[1,2]", 2 },
		{ "{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":2,\"maxItems\":3}", "[1,2,3]", 2 },
		{ "{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":2,\"maxItems\":3}", "[1,2,3,", 0 },
		{ "{\"type\":\"array\",\"maxItems\":0}", "[]", 2 }, { "{\"type\":\"array\",\"maxItems\":0}", "[1", 0 },
		{ "{\"type\":\"array\",\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"string\"}]}", "[1,\"a\"]", 2 },
		{ "{\"type\":\"array\",\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"string\"}]}", "[1,\"a\",", 0 },
		{ "{\"type\":\"array\",\"prefixItems\":[{\"type\":\"integer\"}],\"items\":{\"type\":\"null\"}}", "[1,null,null]", 2 },
		{ "{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}", "\"a\"", 0 }, { "{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}", "\"\xc3\xa9\\n\"", 2 },
		{ "{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}", "\"\\ud83d\\ude00ab\"", 2 },
		{ "{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}", "\"abcd", 0 }, { "{\"type\":\"string\",\"maxLength\":0}", "\"\"", 2 },
		{ "{\"type\":[\"string\",\"null\"]}", "null", 2 }, { "{\"type\":[\"string\",\"null\"]}", "\"x\"", 2 }, { "{\"type\":[\"string\",\"null\"]}", "1", 0 },
		{ "{\"type\":\"integer\",\"exclusiveMinimum\":-3,\"maximum\":20}", "-2", 2 }, { "{\"type\":\"integer\",\"exclusiveMinimum\":-3}", "-3", 0 },
		{ "{\"type\":\"integer\",\"exclusiveMinimum\":-3,\"maximum\":20}", "-3", 0 }, { "{\"type\":\"integer\",\"minimum\":5,\"maximum\":20}", "3", 0 },
		{ "{\"type\":\"integer\",\"minimum\":5,\"maximum\":20}", "1", 1 }, { "{\"type\":\"integer\",\"minimum\":5,\"maximum\":20}", "20", 2 },
		{ "{\"type\":\"integer\"}", "-0", 0 }, { "{\"type\":\"integer\"}", "0", 2 }, { "{\"type\":\"integer\"}", "00", 0 }, { "{\"type\":\"integer\"}", "1e", 0 },
		{ "{\"type\":\"number\",\"minimum\":0,\"maximum\":1}", "0.25", 2 }, { "{\"type\":\"number\",\"minimum\":0,\"maximum\":1}", "1.0", 2 },
		{ "{\"type\":\"number\",\"minimum\":0,\"maximum\":1}", "1.1", 0 }, { "{\"type\":\"number\",\"minimum\":0,\"maximum\":1}", "-", 0 },
		{ "{\"type\":\"number\",\"minimum\":0.1,\"maximum\":0.1}", "0.1", 2 }, { "{\"type\":\"number\",\"minimum\":0.1,\"maximum\":0.1}", "0.2", 0 },
		{ "{\"type\":\"number\",\"exclusiveMinimum\":-1,\"maximum\":0}", "-0.5", 2 }, { "{\"type\":\"number\",\"exclusiveMinimum\":-1,\"maximum\":0}", "-1", 0 },
		{ "{\"type\":\"number\",\"exclusiveMaximum\":1e3}", "999.9999", 2 }, { "{\"type\":\"number\",\"exclusiveMaximum\":1e3}", "1000", 0 },
		{ "{\"type\":\"integer\",\"multipleOf\":7,\"minimum\":50,\"maximum\":70}", "56", 2 }, { "{\"type\":\"integer\",\"multipleOf\":7,\"minimum\":50,\"maximum\":70}", "57", 0 },
		{ "{\"type\":\"integer\",\"multipleOf\":7,\"minimum\":50,\"maximum\":70}", "7", 1 }, { "{\"type\":\"integer\",\"multipleOf\":7,\"minimum\":50,\"maximum\":70}", "8", 0 },
		{ "{\"type\":\"integer\",\"multipleOf\":5,\"maximum\":-7}", "-10", 2 }, { "{\"type\":\"integer\",\"multipleOf\":5,\"maximum\":-7,\"minimum\":-19}", "-5", 0 },
		{ "{\"type\":\"integer\",\"multipleOf\":2.5}", "15", 2 }, { "{\"type\":\"integer\",\"multipleOf\":2.5}", "12", 1 },
		{ "{\"type\":\"number\",\"multipleOf\":0.25,\"minimum\":0}", "3.75", 2 }, { "{\"type\":\"number\",\"multipleOf\":0.25,\"minimum\":0}", "3.7", 1 },
		{ "{\"type\":\"number\",\"multipleOf\":0.25,\"minimum\":0}", "3.76", 0 }, { "{\"type\":\"number\",\"multipleOf\":0.01}", "19.99", 2 },
		{ "{\"type\":\"number\",\"multipleOf\":0.01}", "19.999", 0 }, { "{\"type\":\"number\",\"multipleOf\":3}", "-9", 2 },
		{ "{\"type\":\"string\",\"pattern\":\"^[A-Z]{2}\\\\d+$\"}", "\"AB12\"", 2 }, { "{\"type\":\"string\",\"pattern\":\"^[A-Z]{2}\\\\d+$\"}", "\"AB\"", 0 },
		{ "{\"type\":\"string\",\"pattern\":\"^[A-Z]{2}\\\\d+$\"}", "\"ABC", 0 }, { "{\"pattern\":\"b+\"}", "\"abba\"", 2 }, { "{\"pattern\":\"b+\"}", "\"ac\"", 0 },
		{ "{\"pattern\":\"^a.c$\"}", "\"a\xe2\x82\xac" "c\"", 2 }, { "{\"pattern\":\"^a[^x]c$\"}", "\"a\\\"c\"", 2 }, { "{\"pattern\":\"^a[^x]c$\"}", "\"a\\nc\"", 2 },
		{ "{\"pattern\":\"^a\\\\\\\\c$\"}", "\"a\\\\c\"", 2 }, { "{\"pattern\":\"^a.c$\"}", "\"a\\nc\"", 0 }, { "{\"pattern\":\"^a.c$\"}", "\"a\\u0041c\"", 0 },
		{ "{\"pattern\":\"^[a-z]*$\",\"minLength\":2,\"maxLength\":3}", "\"a\"", 0 }, { "{\"pattern\":\"^[a-z]*$\",\"minLength\":2,\"maxLength\":3}", "\"abc\"", 2 },
		{ "{\"pattern\":\"^[a-z]*$\",\"minLength\":2,\"maxLength\":3}", "\"abcd", 0 },
		{ "{\"type\":\"object\",\"properties\":{\"d\":{\"type\":\"string\",\"format\":\"date\"}},\"required\":[\"d\"]}", "{\"d\":\"2024-02-29\"}", 2 },
		{ "{\"type\":\"string\",\"format\":\"date\"}", "\"2023-02-29", 0 }, { "{\"type\":\"string\",\"format\":\"date-time\"}", "\"2026-11-30T23:59:59.5+01:00\"", 2 },
		{ "{\"type\":\"string\",\"format\":\"uuid\"}", "\"123e4567-e89b-12d3-a456-426614174000\"", 2 }, { "{\"type\":\"string\",\"format\":\"ipv4\"}", "\"192.168.1.255\"", 2 },
		{ "{\"type\":\"string\",\"format\":\"ipv4\"}", "\"256", 0 }, { "{\"type\":\"string\",\"format\":\"email\"}", "\"a.b+c@x-y.example.org\"", 2 },
		{ "{\"type\":\"string\",\"format\":\"duration\"}", "\"P1DT2H\"", 2 }, { "{\"type\":\"string\",\"format\":\"uri\"}", "\"any\"", 2 },
		{ "{\"type\":\"string\",\"format\":\"ipv6\"}", "\"1:2:3:4:5:6:7:8\"", 2 }, { "{\"type\":\"string\",\"format\":\"hostname\"}", "\"a-b.example\"", 2 },
		{ "{\"allOf\":[{\"type\":\"null\"}],\"title\":\"x\"}", "null", 2 }, { "{}", "[1,{\"a\":[]}]", 2 }, { "{\"properties\":{\"a\":{}}}", "{\"a\":1}", 2 },
		{ "{\"type\":\"object\",\"properties\":{\"a\":{},\"b\":{},\"c\":{}},\"required\":[\"b\"]}", "{\"b\":1,\"a\"", 0 },
		{ "{\"type\":\"object\",\"properties\":{\"a\":{},\"b\":{},\"c\":{}},\"required\":[\"b\"]}", "{\"b\":1,\"c\":2}", 2 },
		{ "{\"type\":\"object\",\"properties\":{\"a\":{},\"b\":{},\"c\":{}},\"required\":[\"b\"]}", "{\"c", 0 },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		int got = take(cases[i].schema, cases[i].text);
		CHECK(got == cases[i].want, "%s <- %s: %d, wanted %d", cases[i].schema ? cases[i].schema : "object", cases[i].text, got, cases[i].want);
	}
}

TEST(refused_schemas)
{
	static const struct { const char *schema, *word; } cases[] = {
		{ "{\"type\":\"string\",\"pattern\":\"(a)\\\\1\"}", "pattern" }, { "{\"type\":\"number\",\"multipleOf\":0}", "multipleOf" },
		{ "{\"type\":\"string\",\"pattern\":\"(?=a)\"}", "look-around" }, { "{\"type\":\"string\",\"pattern\":\"^a$\",\"minLength\":2}", "no text" },
		{ "{\"type\":\"string\",\"pattern\":\"a(\"}", "without )" }, { "{\"type\":\"string\",\"pattern\":5}", "pattern" },
		{ "{\"type\":\"integer\",\"multipleOf\":5,\"minimum\":6,\"maximum\":9}", "bounds" }, { "{\"type\":\"number\",\"multipleOf\":1e-12}", "multipleOf" },
		{ "{\"type\":\"string\",\"format\":\"date\",\"maxLength\":9}", "no text" },
		{ "{\"type\":\"object\",\"properties\":{\"x\":{\"not\":{}}}}", "/x: \"not\"" }, { "{\"if\":{}}", "if" }, { "{\"patternProperties\":{}}", "patternProperties" },
		{ "{\"type\":\"array\",\"uniqueItems\":true}", "uniqueItems" }, { "{\"type\":\"array\",\"contains\":{}}", "contains" },
		{ "{\"allOf\":[{},{}]}", "allOf" }, { "{\"anyOf\":[{}],\"minLength\":3}", "minLength" }, { "{\"$ref\":\"#/$defs/x\"}", "$ref" },
		{ "{\"$ref\":\"http://x\"}", "$ref" }, { "{\"type\":\"thing\"}", "thing" }, { "{\"type\":5}", "type" }, { "{\"enum\":[]}", "enum" }, { "{\"anyOf\":[]}", "anyOf" },
		{ "{\"type\":\"object\",\"required\":[\"q\"]}", "q" }, { "{\"type\":\"integer\",\"minimum\":3,\"maximum\":2}", "bounds" },
		{ "{\"type\":\"integer\",\"exclusiveMinimum\":2,\"exclusiveMaximum\":3}", "bounds" }, { "{\"type\":\"string\",\"minLength\":-1}", "minLength" },
		{ "{\"type\":\"string\",\"minLength\":3,\"maxLength\":2}", "minLength" }, { "{\"type\":\"array\",\"minItems\":1,\"maxItems\":0}", "minItems" },
		{ "{\"$ref\":\"#/$defs/a\",\"$defs\":{\"a\":{\"$ref\":\"#/$defs/a\"}}}", "itself" }, { "{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}]}", "itself" },
		{ "{\"$ref\":\"#/$defs/a\",\"$defs\":{\"a\":{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#/$defs/a\"}},\"required\":[\"a\"]}}}", "no end" },
		{ "[]", "schema" }, { "{", "schema" }, { "{\"properties\":[]}", "properties" }, { "{\"items\":5}", "items" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct grammar *g = (void *)1;
		int rc = grammar_compile(&g, cases[i].schema, strlen(cases[i].schema), &err);
		CHECK((rc == MOXIE_E_UNSUPPORTED || rc == MOXIE_E_FORMAT) && !g && strstr(err.text, cases[i].word), "%s: %d %s", cases[i].schema, rc, err.text);
	}
	struct buf b = { 0 }; /* large ones are refused, and soon */
	buf_puts(&b, "{\"type\":\"object\",\"properties\":{");
	for (int i = 0; i < 9000; i++)
		buf_printf(&b, "%s\"p%d\":{}", i ? "," : "", i);
	buf_puts(&b, "}}");
	struct grammar *g;
	CHECK(grammar_compile(&g, b.p, b.n, &err) == MOXIE_E_UNSUPPORTED, "9000 properties");
	b.n = 0; /* each twice the alternatives of the one before: small, but what it stands for is not */
	buf_puts(&b, "{\"$ref\":\"#/$defs/d0\",\"$defs\":{");
	for (int i = 0; i < 60; i++)
		buf_printf(&b, "\"d%d\":{\"anyOf\":[{\"$ref\":\"#/$defs/d%d\"},{\"$ref\":\"#/$defs/d%d\"}]},", i, i + 1, i + 1);
	buf_puts(&b, "\"d60\":{\"type\":\"null\"}}}");
	CHECK(grammar_compile(&g, b.p, b.n, &err) == MOXIE_E_UNSUPPORTED && strstr(err.text, "alternatives"), "2^60 alternatives: %s", err.text);
	buf_free(&b);
}

/* ---- masks say what the bytes do ------------------------------------------------------------------------------------------ */

/* Some answers at random, token by token; at each the mask is compared with what every single token does to a run of its own. */
static void check_masks(const struct tokenizer *t, const char *schema, int n_answer, bool every_token)
{
	struct token_trie *trie;
	struct grammar *g;
	int n_vocab = tokenizer_n_vocab(t);
	uint32_t *bits = calloc((size_t)n_vocab / 32 + 1, sizeof *bits);
	OK(token_trie_create(&trie, t, n_vocab, &err), err);
	OK(grammar_compile(&g, schema, schema ? strlen(schema) : 0, &err), err);
	for (int a = 0; a < n_answer; a++) {
		struct grammar_run *r;
		struct buf text = { 0 };
		OK(grammar_run_create(&r, g, trie, &err), err);
		for (int step = 0; step < 60; step++) {
			memset(bits, 0, ((size_t)n_vocab / 32 + 1) * sizeof *bits);
			grammar_mask(r, bits);
			int n_may = 0, chosen = -1;
			for (int id = 0; id < n_vocab; id++) {
				bool may = bits[id / 32] >> id % 32 & 1;
				if (may && rnd_int(++n_may) == 0)
					chosen = id;
				if (!every_token)
					continue;
				struct grammar_run *alone;
				size_t n;
				const char *p = tokenizer_bytes(t, id, &n);
				OK(grammar_run_create(&alone, g, NULL, &err), err);
				for (size_t i = 0; i < text.n; i++)
					CHECK(grammar_push(alone, text.p + i, 1), "%s: refused at byte %zu", text.p, i);
				bool fits = n && !tokenizer_is_special(t, id);
				for (size_t i = 0; i < n && fits; i++)
					fits = grammar_push(alone, p + i, 1);
				grammar_run_free(alone);
				CHECK(fits == may, "%s: after %s token %d \"%.*s\": mask %d, bytes %d", schema ? schema : "object", text.n ? text.p : "", id, (int)n, p, may, fits);
			}
			CHECK(n_may || grammar_done(r), "%s: nothing may follow %s", schema ? schema : "object", text.p);
			if (!n_may || (grammar_done(r) && rnd_int(2)))
				break;
			size_t n;
			const char *p = tokenizer_bytes(t, chosen, &n);
			CHECK(grammar_push(r, p, n), "token %d", chosen);
			buf_append(&text, p, n);
		}
		if (grammar_done(r)) {
			json_error_t e;
			json_t *v = json_loadb(text.p, text.n, JSON_DECODE_ANY, &e);
			CHECK(v, "%s: %s", e.text, text.p);
			json_decref(v);
		}
		grammar_run_free(r);
		buf_free(&text);
	}
	grammar_free(g);
	token_trie_free(trie);
	free(bits);
}

static const char *const schemas[] = { NULL, PERSON, OPEN, TREE, SHAPE, "{}", "{\"enum\":[\"red\",\"green\",\"reddish\",12,1,null]}",
	"{\"type\":\"array\",\"items\":{\"enum\":[\"red\",\"green\"]},\"minItems\":1,\"maxItems\":3}", "{\"type\":\"string\",\"minLength\":2,\"maxLength\":5}",
	"{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":3},\"named\":{\"type\":\"number\",\"minimum\":-1.5,\"maximum\":12}},"
	"\"additionalProperties\":{\"type\":\"integer\",\"maximum\":10}}",
	"{\"anyOf\":[{\"type\":\"string\",\"maxLength\":2},{\"type\":\"string\",\"minLength\":4},{\"type\":\"integer\"},{\"type\":\"number\"}]}",
	"{\"type\":\"array\",\"items\":{\"type\":\"string\",\"pattern\":\"[^0-9]b\"},\"minItems\":1}",
	"{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"pattern\":\"^(red|re|ab*c)?$\"},\"n\":{\"type\":\"integer\",\"multipleOf\":123,\"maximum\":9999}}}",
	"{\"anyOf\":[{\"pattern\":\"^a.*$\",\"maxLength\":4},{\"type\":\"string\",\"minLength\":4},{\"type\":\"number\",\"multipleOf\":0.5}]}" };

TEST(masks_match_bytes)
{
	struct tokenizer *t = make_vocab(0);
	for (size_t i = 0; i < sizeof schemas / sizeof *schemas; i++)
		check_masks(t, schemas[i], 4, true);
	tokenizer_free(t);
}

TEST(answers_parse)
{
	struct tokenizer *t = make_vocab(2000);
	for (size_t i = 0; i < sizeof schemas / sizeof *schemas; i++)
		check_masks(t, schemas[i], 100, false);
	tokenizer_free(t);
}

/* ---- cost ------------------------------------------------------------------------------------------------------------------ */

static double now(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

/* The schemas that take longest: what they take is printed, and held to seconds. */
TEST(worst_schemas)
{
	struct buf b[4] = { { 0 } };
	struct tokenizer *t = make_vocab(20000);
	struct token_trie *trie;
	int n_vocab = tokenizer_n_vocab(t);
	uint32_t *bits = calloc((size_t)n_vocab / 32 + 1, sizeof *bits);
	OK(token_trie_create(&trie, t, n_vocab, &err), err);
	buf_puts(&b[0], "{\"type\":\"object\",\"properties\":{");
	for (int i = 0; i < 512; i++) /* all may be left out, all begin alike */
		buf_printf(&b[0], "%s\"abcdefghijklmnopqrst%d\":{}", i ? "," : "", i);
	buf_puts(&b[0], "},\"additionalProperties\":true}");
	buf_puts(&b[1], "{\"enum\":[");
	for (int i = 0; i < 16000; i++)
		buf_printf(&b[1], "%s\"%05x\"", i ? "," : "", i * 65);
	buf_puts(&b[1], "]}");
	buf_puts(&b[2], "{\"anyOf\":[");
	for (int i = 0; i < 100; i++)
		buf_printf(&b[2], "%s{\"type\":\"string\",\"minLength\":%d}", i ? "," : "", i);
	buf_puts(&b[2], "]}");
	buf_puts(&b[3], "{\"$ref\":\"#/$defs/d0\",\"$defs\":{"); /* a chain in the order that is worst for the heights */
	for (int i = 0; i < 500; i++)
		buf_printf(&b[3], "\"d%d\":{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#/$defs/d%d\"},\"b\":{},\"c\":{\"type\":\"integer\",\"minimum\":%d}}},",
		           i, i + 1, i);
	buf_puts(&b[3], "\"d500\":{\"type\":\"null\"}}}");
	static const char *const start[] = { "{\"abcdefghij", "\"0", "\"abc", "{\"a\": {" };
	for (int i = 0; i < 4; i++) {
		struct grammar *g;
		struct grammar_run *r;
		double worst = 0, begin = now(), compiled;
		OK(grammar_compile(&g, b[i].p, b[i].n, &err), err);
		compiled = now() - begin;
		OK(grammar_run_create(&r, g, trie, &err), err);
		for (const char *c = start[i];; c++) {
			begin = now();
			grammar_mask(r, bits);
			worst = fmax(worst, now() - begin);
			if (!*c)
				break;
			CHECK(grammar_push(r, c, 1), "%s at %s", start[i], c);
		}
		printf("    schema of %zu bytes: %.1f ms to compile, a mask at most %.0f us\n", b[i].n, 1e3 * compiled, 1e6 * worst);
		CHECK(compiled < 2 && worst < 0.5, "schema %d: %.2f s, %.2f s", i, compiled, worst);
		grammar_run_free(r);
		grammar_free(g);
		buf_free(&b[i]);
	}
	token_trie_free(trie);
	tokenizer_free(t);
	free(bits);
}

/* Masks over a vocabulary of o200k's size, at every byte of an answer: the worst and the median. */
TEST(mask_time)
{
	static const char *const text = "{\n  \"name\": \"Ada \\u00e9 \xe2\x82\xac\",\n  \"age\": 37,\n  \"nick\": \"The first\"\n}";
	struct tokenizer *t = make_vocab(201088 - 256 - 70);
	struct token_trie *trie;
	struct grammar *g;
	struct grammar_run *r;
	double us[100], begin = now();
	int n = 0, worst = 0, n_vocab = tokenizer_n_vocab(t);
	uint32_t *bits = calloc((size_t)n_vocab / 32 + 1, sizeof *bits);
	OK(token_trie_create(&trie, t, n_vocab, &err), err);
	double built = now() - begin;
	OK(grammar_compile(&g, PERSON, strlen(PERSON), &err), err);
	OK(grammar_run_create(&r, g, trie, &err), err);
	for (const char *c = text; *c; c++, n++) {
		begin = now();
		memset(bits, 0, ((size_t)n_vocab / 32 + 1) * sizeof *bits);
		grammar_mask(r, bits);
		us[n] = 1e6 * (now() - begin);
		if (us[n] > us[worst])
			worst = n;
		CHECK(bits[(unsigned char)*c / 32] >> (unsigned char)*c % 32 & 1, "byte %d may not come", n);
		CHECK(grammar_push(r, c, 1), "byte %d", n);
	}
	for (int i = 0; i < n; i++)
		for (int k = i + 1; k < n; k++)
			if (us[k] < us[i]) {
				double x = us[i];
				us[i] = us[k], us[k] = x;
			}
	printf("    %d tokens: trie of %u nodes in %.0f ms; mask %.0f us median, %.0f us worst of %d, behind \"%.*s\"\n", n_vocab, trie->all.n,
	       1e3 * built, us[n / 2], us[n - 1], n, worst < 8 ? worst : 8, text + (worst < 8 ? 0 : worst - 8));
	CHECK(us[n / 2] < 5000, "a mask takes %.0f us", us[n / 2]);
	grammar_run_free(r);
	grammar_free(g);
	token_trie_free(trie);
	tokenizer_free(t);
	free(bits);
}

TEST_MAIN
