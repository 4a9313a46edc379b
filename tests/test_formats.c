/* test_formats.c - JSON, safetensors and their index: what is accepted, what is refused and how it is said, and that no damaged file
 * gets further.  What the files mean is test_config.c's. */
#include "files.h"
#include "formats/json_read.h"
#include "formats/safetensors.h"
#include "fuzz/mutate.h"

static struct moxie_err err;

/* ---- JSON ----------------------------------------------------------------------------------------------------------- */

/* Ours and jansson's parser accept the same texts and make the same trees; but jansson overlooks a NUL after a number. */
static void same_as_jansson(const char *p, size_t n, int i)
{
	json_t *ours;
	int rc = json_read_text(&ours, p, n, "json", &err);
	json_t *theirs = json_loadb(p, n, JSON_REJECT_DUPLICATES, NULL);
	if (theirs && (!json_is_object(theirs) || memchr(p, 0, n))) {
		json_decref(theirs);
		theirs = NULL;
	}
	bool same = (rc == 0) == (ours != NULL) && (ours != NULL) == (theirs != NULL) && (!ours || json_equal(ours, theirs));
	json_decref(ours);
	json_decref(theirs);
	CHECK(same, "case %d: %d %s: %.*s", i, rc, rc ? err.text : "accepted", (int)n, p);
	CHECK(rc == 0 || rc == MOXIE_E_FORMAT, "case %d: %d", i, rc);
}

TEST(json_like_jansson)
{
	static const char rich[] = "{\"a\\\"\\\\\\/\\b\\f\\n\\r\\t\": [1, -2, 0, -0, 1.5, -0.25e-3, 1E+2, 9223372036854775807],\r\n\t\"\\u00e9\\u20AC\\ud83d\\ude42\": "
				   "{\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x99\x82\": true, \"\": [[], {}, [false, null]]}, \"x\\u0041\": \"\\u007f\", \"n\": 123456789}";
	static const char *const text[] = {
		"{}", " { } ", "{\"a\":1}", "{\"a\":01}", "{\"a\":-}", "{\"a\":1.}", "{\"a\":.5}", "{\"a\":1e}", "{\"a\":+1}", "{\"a\":1e400}",
		"{\"a\":1e-400}", "{\"a\":9223372036854775808}", "{\"a\":-9223372036854775808}", "{\"a\":\"\\u0000\"}", "{\"a\":\"\\ud800\"}",
		"{\"a\":\"\\udc00\"}", "{\"a\":\"\\ud800\\u0041\"}", "{\"a\":\"\\x\"}", "{\"a\":\"\n\"}", "{\"a\":tru}", "{\"a\":nulll}", "{\"a\" 1}", "{a:1}",
		"{\"a\":1,}", "{,}", "{\"a\":[1,]}", "{\"a\":[1 2]}", "{\"a\":1}x", "{\"a\":1}{}", "[", "]", "\"a\"", "{\"a\":\"\xed\xa0\x80\"}", "{\"a\":\"\xc0\x80\"}",
		"{\"a\":1,\"a\":2}", "{\"a\":{\"b\":1},\"b\":{\"a\":1}}", "{\"a\":{\"a\":1}}", "\xef\xbb\xbf{}", "{\"a\":NaN}", "{\"a\":Infinity}", "", " ", rich,
	};
	static char mutant[1024];
	for (size_t i = 0; i < sizeof text / sizeof *text; i++)
		same_as_jansson(text[i], strlen(text[i]), (int)i);
	mutate_state = test_seed;
	for (int i = 0; i < 20000; i++) {
		size_t n = mutate(memcpy(mutant, rich, sizeof rich - 1), sizeof rich - 1, sizeof mutant);
		same_as_jansson(mutant, n, i);
	}
}

/* Caps of our own: depth, and digits of one number. */
TEST(json_caps)
{
	char text[600];
	json_t *j;
	for (int depth = 126; depth < 130; depth++) { /* of lists, inside one object */
		memcpy(text, "{\"a\":", 5);
		memset(text + 5, '[', (size_t)depth);
		memset(text + 5 + depth, ']', (size_t)depth);
		text[5 + 2 * depth] = '}';
		int rc = json_read_text(&j, text, (size_t)(6 + 2 * depth), "deep", &err);
		CHECK(depth < 128 ? rc == 0 : rc == MOXIE_E_FORMAT && strstr(err.text, "too deep"), "%d levels: %d %s", depth + 1, rc, err.text);
		json_decref(j);
	}
	snprintf(text, sizeof text, "{\"a\":0.%0200d}", 1);
	CHECK(json_read_text(&j, text, strlen(text), "long", &err) == MOXIE_E_FORMAT && strstr(err.text, "digits"), "%s", err.text);
	CHECK(json_read_text(&j, "{\n \"a\": @}", 11, "place", &err) == MOXIE_E_FORMAT && strstr(err.text, "line 2, column 7"), "%s", err.text);
}

/* ---- safetensors: what is accepted ------------------------------------------------------------------------------- */

TEST(safetensors_good)
{
	static const char head[] = "{\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"
				   "\"__metadata__\":{\"format\":\"pt\"},"
				   "\"empty\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[4,4]},"
				   "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}      ";
	size_t n;
	uint8_t *p = image(head, strlen(head), 16, &n);
	struct safetensors *st;
	OK(safetensors_parse(&st, p, n, "good", &err), err);
	CHECK(safetensors_n(st) == 3, "%zu tensors", safetensors_n(st));
	CHECK(safetensors_n_bytes(st) == 16, "%" PRIu64 " bytes", safetensors_n_bytes(st));
	CHECK(safetensors_n_file(st) == 1 && !strcmp(safetensors_file_name(st, 0), "good"), "file %s", safetensors_file_name(st, 0));
	static const char *const order[] = { "a", "b", "empty" };
	for (size_t i = 0; i < 3; i++) {
		CHECK(!strcmp(safetensors_at(st, i)->name, order[i]), "tensor %zu is %s", i, safetensors_at(st, i)->name);
		CHECK(safetensors_find(st, order[i]) == safetensors_at(st, i), "%s not found", order[i]);
	}
	CHECK(!safetensors_find(st, "c") && !safetensors_find(st, "") && !safetensors_at(st, 3), "found what is not there");
	const struct st_tensor *b = safetensors_find(st, "b");
	CHECK(b->dtype == DT_BF16 && b->n_dim == 2 && b->shape[0] == 2 && b->shape[1] == 3 && b->n_bytes == 12, "b is wrong");
	CHECK(b->data[0] == 4 && b->data[11] == 15, "b holds %d .. %d", b->data[0], b->data[11]);
	CHECK(safetensors_find(st, "a")->n_dim == 0 && safetensors_find(st, "empty")->n_bytes == 0, "a or empty is wrong");
	safetensors_free(st);
	free(p);
}

TEST(safetensors_every_dtype)
{
	for (int t = DT_NONE + 1; dtype_bytes((enum dtype)t); t++) {
		char head[160];
		snprintf(head, sizeof head, "{\"x\":{\"dtype\":\"%s\",\"shape\":[3],\"data_offsets\":[0,%d]}}", dtype_name((enum dtype)t),
			 3 * dtype_bytes((enum dtype)t));
		size_t n;
		uint8_t *p = image(head, strlen(head), 3 * (size_t)dtype_bytes((enum dtype)t), &n);
		struct safetensors *st;
		OK(safetensors_parse(&st, p, n, dtype_name((enum dtype)t), &err), err);
		CHECK(safetensors_at(st, 0)->dtype == (enum dtype)t, "%s", dtype_name((enum dtype)t));
		safetensors_free(st);
		free(p);
	}
}

/* ---- safetensors: what is refused --------------------------------------------------------------------------------- */

#define T(name, dtype, shape, begin, end) \
	"\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" #begin "," #end "]}"

static const struct {
	const char *what, *head;
	size_t n_data;
	const char *says; /* part of the error, beside the file's name */
} refused[] = {
	{ "product wraps to 4", "{" T("x", "U8", "4194305,4194305,211106198978564", 0, 4) "}", 4, "overflows" },
	{ "product wraps to 0", "{" T("x", "F32", "4611686018427387904", 0, 0) "}", 0, "overflows" },
	{ "overflow hidden by a zero", "{" T("x", "F32", "4294967296,4294967296,0", 0, 0) "}", 0, "overflows" },
	{ "dimension beyond 64 bits", "{" T("x", "F32", "18446744073709551616", 0, 4) "}", 4, "line 1" },
	{ "negative dimension", "{" T("x", "F32", "-1", 0, 4) "}", 4, "shape[0]" },
	{ "two negative dimensions", "{" T("x", "F32", "-1,-1", 0, 4) "}", 4, "shape[0]" },
	{ "real dimension", "{" T("x", "F32", "1.0", 0, 4) "}", 4, "shape[0]" },
	{ "nine dimensions", "{" T("x", "U8", "1,1,1,1,1,1,1,1,1", 0, 1) "}", 1, "9 dimensions" },
	{ "offsets past the file", "{" T("x", "F32", "2", 0, 8) "}", 4, "[0, 8] in 4 bytes" },
	{ "offsets far past", "{" T("x", "F32", "2", 9223372036854775799, 9223372036854775807) "}", 8, "in 8 bytes" },
	{ "inverted offsets", "{" T("x", "U8", "0", 4, 0) "}", 4, "[4, 0]" },
	{ "negative begin", "{" T("x", "U8", "4", -4, 0) "}", 4, "[-4, 0]" },
	{ "shape larger than its span", "{" T("x", "F32", "3", 0, 8) "}", 8, "make 12 bytes" },
	{ "shape smaller than its span", "{" T("x", "F32", "1", 0, 8) "}", 8, "hold 8" },
	{ "overlap", "{" T("x", "U8", "4", 0, 4) "," T("y", "U8", "4", 2, 6) "}", 6, "overlap" },
	{ "same span twice", "{" T("x", "U8", "4", 0, 4) "," T("y", "U8", "4", 0, 4) "}", 4, "overlap" },
	{ "hole", "{" T("x", "U8", "4", 0, 4) "," T("y", "U8", "4", 6, 10) "}", 10, "hole" },
	{ "hole at the front", "{" T("x", "U8", "4", 2, 6) "}", 6, "hole" },
	{ "bytes after the last tensor", "{" T("x", "U8", "4", 0, 4) "}", 5, "4 of 5" },
	{ "data without tensors", "{}", 1, "0 of 1" },
	{ "duplicate name", "{" T("x", "U8", "4", 0, 4) "," T("x", "U8", "4", 4, 8) "}", 8, "duplicate" },
	{ "duplicate key in a tensor", "{\"x\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "duplicate" },
	{ "unknown dtype", "{" T("x", "F33", "1", 0, 4) "}", 4, "F33" },
	{ "dtype none", "{" T("x", "none", "1", 0, 0) "}", 0, "none" },
	{ "no dtype", "{\"x\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "dtype" },
	{ "no shape", "{\"x\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "shape" },
	{ "no offsets", "{\"x\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "data_offsets" },
	{ "three offsets", "{\"x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,1]}}", 1, "data_offsets" },
	{ "text offsets", "{\"x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[\"0\",1]}}", 1, "data_offsets" },
	{ "a tensor that is a list", "{\"x\":[]}", 0, "data_offsets" },
	{ "metadata that is a list", "{\"__metadata__\":[]}", 0, "__metadata__" },
	{ "metadata with a number", "{\"__metadata__\":{\"a\":1}}", 0, "__metadata__" },
	{ "a list", "[1,2]", 0, "'{'" },
	{ "space first", " {}", 0, "'{'" },
	{ "not closed", "{\"x\":", 0, "line 1" },
	{ "two objects", "{}{}", 0, "line 1" },
	{ "NUL in a name", "{\"a\\u0000b\":{}}", 0, "line 1" },
	{ "broken UTF-8", "{\"a\xff\":{}}", 0, "line 1" },
};

TEST(safetensors_refused)
{
	for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
		size_t n;
		uint8_t *p = image(refused[i].head, strlen(refused[i].head), refused[i].n_data, &n);
		struct safetensors *st = (void *)p;
		int rc = safetensors_parse(&st, p, n, "bad.safetensors", &err);
		free(p);
		CHECK(rc == MOXIE_E_FORMAT && !st, "%s: %d %s", refused[i].what, rc, err.text);
		CHECK(strstr(err.text, refused[i].says), "%s: the error does not say %s: %s", refused[i].what, refused[i].says, err.text);
		CHECK(strstr(err.text, "bad.safetensors"), "%s: the error does not name the file: %s", refused[i].what, err.text);
	}
}

TEST(safetensors_header_length)
{
	static const struct {
		uint64_t n_header;
		const char *says;
	} c[] = { { 0, "'{'" }, { 3, "2 after" }, { 100000000, "2 after" }, { 100000001, "at most 100000000" }, { UINT64_MAX, "at most" },
		  { UINT64_MAX - 7, "at most" }, { 1ull << 63, "at most" } };
	struct safetensors *st;
	uint8_t p[10] = { 0 };
	p[8] = '{', p[9] = '}';
	for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
		for (int b = 0; b < 8; b++)
			p[b] = (uint8_t)(c[i].n_header >> 8 * b);
		int rc = safetensors_parse(&st, p, sizeof p, "f", &err);
		CHECK(rc == MOXIE_E_FORMAT && !st && strstr(err.text, c[i].says), "%" PRIu64 ": %d %s", c[i].n_header, rc, err.text);
	}
	for (size_t n = 0; n < 8; n++)
		CHECK(safetensors_parse(&st, p, n, "f", &err) == MOXIE_E_FORMAT && strstr(err.text, "too short"), "%zu: %s", n, err.text);
}

/* A file cut anywhere is refused, wherever the cut lies. */
TEST(safetensors_truncated)
{
	struct buf b = read_file(VECTORS "gptoss_clamp/model.safetensors");
	struct safetensors *st;
	OK(safetensors_parse(&st, (uint8_t *)b.p, b.n, "whole", &err), err);
	safetensors_free(st);
	for (size_t n = 0; n < b.n; n += n < 6000 ? 7 : 4999) {
		uint8_t *cut = malloc(n + 1); /* its own block, so that a sanitizer sees every read past it */
		memcpy(cut, b.p, n);
		int rc = safetensors_parse(&st, cut, n, "cut", &err);
		free(cut);
		CHECK(rc == MOXIE_E_FORMAT && !st, "%zu of %zu bytes: %d", n, b.n, rc);
	}
	CHECK(safetensors_parse(&st, (uint8_t *)b.p, b.n - 1, "cut", &err) == MOXIE_E_FORMAT, "one byte short");
	buf_free(&b);
}

/* ---- safetensors: folders ------------------------------------------------------------------------------------------ */

static const char shard_a[] = "{" T("x", "U8", "4", 0, 4) "}", shard_b[] = "{" T("y", "U8", "2,2", 0, 4) "}";

static void write_shards(const char *index)
{
	size_t n;
	uint8_t *p = image(shard_a, strlen(shard_a), 4, &n);
	write_file(tmp_file("a.safetensors"), p, n);
	free(p);
	p = image(shard_b, strlen(shard_b), 4, &n);
	write_file(tmp_file("b.safetensors"), p, n);
	free(p);
	write_text(tmp_file("model.safetensors.index.json"), index);
}

TEST(index_good)
{
	struct safetensors *st;
	tmp_make();
	write_shards("{\"metadata\":{\"total_size\":8},\"weight_map\":{\"y\":\"b.safetensors\",\"x\":\"a.safetensors\"}}");
	OK(safetensors_open(&st, tmp, &err), err);
	CHECK(safetensors_n(st) == 2 && safetensors_n_file(st) == 2 && safetensors_n_bytes(st) == 8, "%zu", safetensors_n(st));
	CHECK(strstr(safetensors_file_name(st, safetensors_find(st, "y")->file), "b.safetensors"), "y is elsewhere");
	safetensors_free(st);
	tmp_remove();
}

TEST(index_refused)
{
	static const struct {
		const char *map, *says;
		int rc;
	} c[] = {
		{ "{\"x\":\"../x.safetensors\"}", "../x.safetensors", MOXIE_E_FORMAT },
		{ "{\"x\":\"/etc/x.safetensors\"}", "/etc/x.safetensors", MOXIE_E_FORMAT },
		{ "{\"x\":\"sub/x.safetensors\"}", "sub/x.safetensors", MOXIE_E_FORMAT },
		{ "{\"x\":\"..\"}", "same folder", MOXIE_E_FORMAT },
		{ "{\"x\":\"\"}", "same folder", MOXIE_E_FORMAT },
		{ "{\"x\":\"passwd\"}", "same folder", MOXIE_E_FORMAT },
		{ "{\"x\":3}", "not a string", MOXIE_E_FORMAT },
		{ "{\"x\":null}", "not a string", MOXIE_E_FORMAT },
		{ "{}", "names 0 files", MOXIE_E_FORMAT },
		{ "[]", "weight_map", MOXIE_E_FORMAT },
		{ "{\"x\":\"a.safetensors\",\"y\":\"c.safetensors\"}", "c.safetensors", MOXIE_E_IO },
		{ "{\"x\":\"b.safetensors\",\"y\":\"a.safetensors\"}", "the index says", MOXIE_E_FORMAT },
		{ "{\"y\":\"b.safetensors\",\"x\":\"b.safetensors\"}", "x is not in", MOXIE_E_FORMAT },
		{ "{\"x\":\"a.safetensors\",\"z\":\"b.safetensors\"}", "nothing of it", MOXIE_E_FORMAT },
		{ "{\"x\":\"a.safetensors\",\"y\":\"b.safetensors\",\"z\":\"b.safetensors\"}", "z is not in", MOXIE_E_FORMAT },
		{ "{\"x\":\"a.safetensors\",\"x\":\"b.safetensors\"}", "duplicate", MOXIE_E_FORMAT },
	};
	tmp_make();
	for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
		char text[256];
		struct safetensors *st;
		snprintf(text, sizeof text, "{\"weight_map\":%s}", c[i].map);
		write_shards(text);
		int rc = safetensors_open(&st, tmp, &err);
		CHECK(rc == c[i].rc && !st && strstr(err.text, c[i].says), "%s: %d %s", c[i].map, rc, err.text);
	}
	write_shards("{}");
	struct safetensors *st;
	CHECK(safetensors_open(&st, tmp, &err) == MOXIE_E_FORMAT && strstr(err.text, "weight_map"), "%s", err.text);
	tmp_remove();
}

TEST(index_same_name_twice)
{
	struct safetensors *st;
	size_t n;
	tmp_make();
	write_shards("{\"weight_map\":{\"x\":\"a.safetensors\",\"y\":\"b.safetensors\"}}");
	static const char both[] = "{" T("x", "U8", "2", 0, 2) "," T("y", "U8", "2", 2, 4) "}";
	uint8_t *p = image(both, strlen(both), 4, &n);
	write_file(tmp_file("b.safetensors"), p, n);
	free(p);
	int rc = safetensors_open(&st, tmp, &err);
	CHECK(rc == MOXIE_E_FORMAT && strstr(err.text, "a.safetensors") && strstr(err.text, "b.safetensors"), "%d %s", rc, err.text);
	tmp_remove();
}

TEST(open_missing)
{
	struct safetensors *st;
	CHECK(safetensors_open(&st, "/nonexistent", &err) == MOXIE_E_IO && strstr(err.text, "/nonexistent"), "%s", err.text);
	CHECK(safetensors_open(&st, "", &err) == MOXIE_E_IO, "empty path");
	CHECK(safetensors_open(&st, "/dev/null", &err) == MOXIE_E_IO && strstr(err.text, "regular"), "%s", err.text);
	tmp_make();
	CHECK(safetensors_open(&st, tmp, &err) == MOXIE_E_IO && strstr(err.text, "neither"), "%s", err.text);
	write_text(tmp_file("model.safetensors"), "");
	CHECK(safetensors_open(&st, tmp, &err) == MOXIE_E_FORMAT && strstr(err.text, "too short"), "%s", err.text);
	tmp_remove();
}

/* ---- bringing pages in ---------------------------------------------------------------------------------------------- */

static void write_big(size_t n_data)
{
	char head[128];
	size_t n;
	snprintf(head, sizeof head, "{\"x\":{\"dtype\":\"U8\",\"shape\":[%zu],\"data_offsets\":[0,%zu]}}", n_data, n_data);
	uint8_t *p = image(head, strlen(head), n_data, &n);
	write_file(tmp_file("model.safetensors"), p, n);
	free(p);
}

TEST(populate_progress)
{
	struct safetensors *st;
	tmp_make();
	write_big(40 << 20);
	OK(safetensors_open(&st, tmp, &err), err);
	for (int n_thread = 1; n_thread < 4; n_thread++) {
		struct seen s = { .ordered = true };
		OK(safetensors_populate(st, n_thread, see, &s, &err), err);
		CHECK(s.ordered && s.n > 1 && s.last == s.all && s.all > 40 << 20, "%d calls, %" PRIu64 " of %" PRIu64, s.n, s.last, s.all);
	}
	OK(safetensors_populate(st, 2, NULL, NULL, &err), err);
	struct seen s = { .ordered = true, .stop_at = 1 };
	CHECK(safetensors_populate(st, 2, see, &s, &err) == MOXIE_E_CANCELLED && s.n == 1, "%d calls: %s", s.n, err.text);
	CHECK(safetensors_at(st, 0)->data[255] == 255, "data");
	safetensors_free(st);
	tmp_remove();
}

TEST(populate_cut_short)
{
	struct safetensors *st;
	tmp_make();
	write_big(40 << 20);
	OK(safetensors_open(&st, tmp, &err), err);
	CHECK(truncate(tmp_file("model.safetensors"), 20 << 20) == 0, "%s", strerror(errno));
	int rc = safetensors_populate(st, 2, NULL, NULL, &err);
	CHECK(rc == MOXIE_E_IO && strstr(err.text, "model.safetensors") && strstr(err.text, "20971520 now"), "%d %s", rc, err.text);
	safetensors_free(st);
	tmp_remove();
}

/* ---- damaged files ---------------------------------------------------------------------------------------------------------- */

/* Touches the ends of every tensor, so that a span outside the image would be seen. */
static unsigned touch(struct safetensors *st)
{
	unsigned sum = 0;
	for (size_t i = 0; i < safetensors_n(st); i++) {
		const struct st_tensor *t = safetensors_at(st, i);
		if (t->n_bytes)
			sum += t->data[0] + t->data[t->n_bytes - 1];
	}
	safetensors_free(st);
	return sum;
}

enum { N_MUTANT_ST = 8000, N_MUTANT_INDEX = 1500 };

TEST(mutants_safetensors)
{
	static const char own[] = "{\"__metadata__\":{\"format\":\"pt\"}," T("a", "F32", "2,3", 0, 24) "," T("b", "BF16", "4", 24, 32) "," T(
		"c.blocks", "U8", "1,2,1,16", 32, 64) "," T("d", "I32", "", 64, 68) "," T("e", "U8", "0", 68, 68) "}";
	struct buf big = read_file(VECTORS "gptoss_clamp/model.safetensors");
	size_t n_big = (size_t)(unsigned char)big.p[0] | (size_t)(unsigned char)big.p[1] << 8;
	int n_ok = 0;
	static char head[32768];
	mutate_state = test_seed;
	for (int i = 0; i < N_MUTANT_ST; i++) {
		bool small = i % 8 != 0;
		size_t n_head = small ? sizeof own - 1 : n_big, n_data = small ? 68 : big.n - 8 - n_big, n;
		memcpy(head, small ? own : big.p + 8, n_head);
		n_head = mutate(head, n_head, sizeof head);
		uint8_t *p = image(head, n_head, n_data, &n);
		if (i % 5 == 0) /* the header's length or the file's end as well */
			p[mutate_int(8)] ^= (uint8_t)(1 << mutate_int(8));
		if (i % 7 == 0)
			n = mutate_int((uint32_t)n);
		uint8_t *exact = malloc(n + !n);
		memcpy(exact, p, n);
		free(p);
		struct safetensors *st = (void *)exact;
		int rc = safetensors_parse(&st, exact, n, "mutant", &err);
		CHECK(rc == 0 || (rc == MOXIE_E_FORMAT && !st && err.text[0]), "mutant %d: %d %s", i, rc, err.text);
		if (!rc)
			touch(st), n_ok++;
		free(exact);
	}
	buf_free(&big);
	printf("    %d mutants, %d still good\n", N_MUTANT_ST, n_ok);
	CHECK(n_ok < N_MUTANT_ST / 2, "%d still good: the damage is too light", n_ok);
}

TEST(mutants_index)
{
	static const char good[] = "{\"metadata\":{\"total_size\":8},\"weight_map\":{\"x\":\"a.safetensors\",\"y\":\"b.safetensors\"}}";
	char text[512];
	int n_ok = 0;
	mutate_state = test_seed;
	tmp_make();
	write_shards(good);
	for (int i = 0; i < N_MUTANT_INDEX; i++) {
		struct safetensors *st;
		size_t n = mutate(memcpy(text, good, sizeof good - 1), sizeof good - 1, sizeof text);
		write_file(tmp_file("model.safetensors.index.json"), text, n);
		int rc = safetensors_open(&st, tmp, &err);
		CHECK(rc == 0 || ((rc == MOXIE_E_FORMAT || rc == MOXIE_E_IO) && !st && err.text[0]), "mutant %d: %d %s", i, rc, err.text);
		if (!rc)
			touch(st), n_ok++;
	}
	tmp_remove();
	printf("    %d mutants, %d still good\n", N_MUTANT_INDEX, n_ok);
}

TEST_MAIN
