/* The file readers: what they accept, what they refuse and how they say it, and that no damaged file gets further. */
#include <errno.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/vec.h"
#include "formats/config.h"
#include "formats/json_read.h"
#include "formats/safetensors.h"
#include "formats/synth.h"
#include "formats/tokenizer.h"
#include "fuzz/mutate.h"
#include "moxie.h"
#include "test.h"

#define VECTORS "tests/vectors/"
static const char *const vector[] = { VECTORS "gptoss_h64", VECTORS "gptoss_h320", VECTORS "gptoss_e32", VECTORS "gptoss_clamp" };

static struct moxie_err err;

/* ---- helpers ---------------------------------------------------------------------------------------------------- */

/* A file image: length, header, n_data bytes counting up.  The caller frees. */
static uint8_t *image(const char *header, size_t n_header, size_t n_data, size_t *n)
{
	*n = 8 + n_header + n_data;
	uint8_t *p = malloc(*n);
	for (int i = 0; i < 8; i++)
		p[i] = (uint8_t)((uint64_t)n_header >> 8 * i);
	memcpy(p + 8, header, n_header);
	for (size_t i = 0; i < n_data; i++)
		p[8 + n_header + i] = (uint8_t)i;
	return p;
}

static void write_file(const char *path, const void *p, size_t n)
{
	FILE *f = fopen(path, "wb");
	CHECK(f && fwrite(p, 1, n, f) == n && fclose(f) == 0, "%s: %s", path, strerror(errno));
}

static void write_text(const char *path, const char *text)
{
	write_file(path, text, strlen(text));
}

static struct buf read_file(const char *path)
{
	struct buf b = { 0 };
	char part[4096];
	size_t n;
	FILE *f = fopen(path, "rb");
	CHECK(f, "%s: %s", path, strerror(errno));
	while ((n = fread(part, 1, sizeof part, f)) > 0)
		buf_append(&b, part, n);
	fclose(f);
	return b;
}

static char tmp[64];

static const char *tmp_file(const char *name)
{
	static char path[4][160];
	static int turn;
	char *p = path[turn++ % 4];
	snprintf(p, sizeof *path, "%s/%s", tmp, name);
	return p;
}

/* A fresh folder; tmp_remove takes the known names out again. */
static void tmp_make(void)
{
	strcpy(tmp, "/tmp/moxie-test-XXXXXX");
	CHECK(mkdtemp(tmp), "%s: %s", tmp, strerror(errno));
}

static void tmp_remove(void)
{
	static const char *const name[] = { "model.safetensors", "model.safetensors.index.json", "a.safetensors", "b.safetensors",
					    "config.json", "generation_config.json", "tokenizer.json" };
	for (size_t i = 0; i < sizeof name / sizeof *name; i++)
		unlink(tmp_file(name[i]));
	CHECK(rmdir(tmp) == 0, "%s: %s", tmp, strerror(errno));
}

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

/* Every vector folder holds exactly what the binding table wants. */
TEST(safetensors_vectors)
{
	for (size_t v = 0; v < sizeof vector / sizeof *vector; v++) {
		static struct model_config c;
		struct tensor_want w;
		struct safetensors *st;
		size_t i;
		OK(config_load(&c, vector[v], &err), err);
		OK(safetensors_open(&st, vector[v], &err), err);
		for (i = 0; config_tensor_at(&c, i, &w); i++) {
			const struct st_tensor *t = safetensors_find(st, w.name);
			CHECK(t, "%s lacks %s", vector[v], w.name);
			CHECK(t->dtype == w.dtype || t->dtype == w.dtype_also, "%s is %s", w.name, dtype_name(t->dtype));
			CHECK(t->n_dim == w.n_dim && !memcmp(t->shape, w.shape, sizeof *w.shape * (size_t)w.n_dim), "%s: shape", w.name);
		}
		CHECK(i == safetensors_n(st), "%s: %zu tensors, table has %zu", vector[v], safetensors_n(st), i);
		safetensors_free(st);
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

struct seen {
	uint64_t last, all;
	int n, stop_at;
	bool ordered;
};

static int see(void *ud, uint64_t done, uint64_t all)
{
	struct seen *s = ud;
	s->ordered &= done >= s->last && done <= all;
	s->last = done, s->all = all;
	return ++s->n == s->stop_at;
}

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

/* ---- config.json ------------------------------------------------------------------------------------------------------ */

static const char base[] =
	"{\"architectures\":[\"GptOssForCausalLM\"],\"model_type\":\"gpt_oss\",\"num_hidden_layers\":3,\"hidden_size\":64,"
	"\"intermediate_size\":96,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":16,\"num_local_experts\":8,"
	"\"num_experts_per_tok\":4,\"vocab_size\":384,\"max_position_embeddings\":1024,\"sliding_window\":8,\"hidden_act\":\"silu\","
	"\"eos_token_id\":2,\"pad_token_id\":0,\"attention_bias\":true,\"rms_norm_eps\":1e-5,"
	"\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":10000},"
	"\"quantization_config\":{\"quant_method\":\"mxfp4\"}}";

/* base with "key":... replaced by "key":value, the key dropped (value NULL), or added at the front. */
static char *edited(const char *key, const char *value)
{
	static char text[4096];
	char quoted[64];
	snprintf(quoted, sizeof quoted, "\"%s\":", key);
	const char *at = strstr(base, quoted), *end = at;
	if (!at) {
		snprintf(text, sizeof text, "{%s%s,%s", quoted, value, base + 1);
		return text;
	}
	int depth = 0;
	for (bool in_string = false; depth || in_string || (*end != ',' && *end != '}'); end++) {
		in_string ^= *end == '"';
		depth += !in_string && (*end == '[' || *end == '{');
		depth -= !in_string && (*end == ']' || *end == '}');
	}
	if (value)
		snprintf(text, sizeof text, "%.*s%s%s%s", (int)(at - base), base, quoted, value, end);
	else
		snprintf(text, sizeof text, "%.*s%s", (int)(at - base - (*end != ',')), base, end + (*end == ','));
	return text;
}

static struct model_config parsed(const char *json)
{
	static struct model_config c;
	OK(config_parse(&c, json, strlen(json), "config.json", &err), err);
	return c;
}

TEST(config_good)
{
	static struct model_config c;
	c = parsed(base);
	CHECK(c.arch == ARCH_GPT_OSS && !strcmp(c.arch_name, "GptOssForCausalLM"), "%s", c.arch_name);
	CHECK(c.n_layer == 3 && c.n_embd == 64 && c.n_ff == 96 && c.n_head == 4 && c.n_head_kv == 2 && c.d_head == 16, "dims");
	CHECK(c.n_expert == 8 && c.n_expert_used == 4 && c.n_vocab == 384 && c.n_ctx == 1024 && c.window == 8, "dims");
	CHECK(c.sliding[0] && !c.sliding[1] && c.sliding[2] && !c.sliding[3], "layer types");
	CHECK(c.mxfp4 && !c.tie_embd && c.bos == -1 && c.pad == 0 && c.n_eos == 1 && c.eos[0] == 2, "flags and ids");
	NEAR(c.swiglu_alpha, 1.702, 1e-6);
	NEAR(c.swiglu_limit, 7, 0);
	NEAR(c.rope_theta, 10000, 0);
	NEAR(c.norm_eps, 1e-5, 1e-12);
	CHECK(c.yarn.factor == 0, "yarn %g", c.yarn.factor);
}

/* The same model as transformers 4 and 5 write it. */
TEST(config_spellings)
{
#define YARN "\"rope_type\":\"yarn\",\"factor\":8.0,\"beta_fast\":16.0,\"beta_slow\":2.0,\"original_max_position_embeddings\":128,\"truncate\":false"
	static struct model_config a, b;
	static char old[4096];
	a = parsed(edited("rope_parameters", "{\"rope_theta\":5e4," YARN "}"));
	snprintf(old, sizeof old, "{\"rope_theta\":50000,\"rope_scaling\":{" YARN "},%s", edited("rope_parameters", NULL) + 1);
	b = parsed(old);
	CHECK(!memcmp(&a, &b, sizeof a), "rope_scaling and rope_parameters differ");
	CHECK(a.yarn.factor == 8 && a.yarn.beta_fast == 16 && a.yarn.beta_slow == 2 && a.yarn.n_ctx_orig == 128 && !a.yarn.truncate, "yarn");
	CHECK(a.rope_theta == 50000, "theta %g", a.rope_theta);
	a = parsed(base);
	snprintf(old, sizeof old, "{\"experts_per_token\":4,%s", edited("num_experts_per_tok", NULL) + 1);
	b = parsed(old);
	CHECK(!memcmp(&a, &b, sizeof a), "experts_per_token");
	a = parsed(edited("rope_parameters", "null"));
	CHECK(a.yarn.factor == 32 && a.yarn.n_ctx_orig == 4096 && !a.yarn.truncate && a.rope_theta == 150000, "transformers' default rope");
	a = parsed(edited("rope_parameters", "{\"type\":\"yarn\",\"factor\":4}"));
	CHECK(a.yarn.factor == 4 && a.yarn.beta_fast == 32 && a.yarn.beta_slow == 1 && a.yarn.n_ctx_orig == 1024 && a.yarn.truncate, "defaults");
	a = parsed(edited("rope_parameters", "{\"rope_type\":\"yarn\",\"factor\":4,\"mscale\":1,\"mscale_all_dim\":0.5}"));
	NEAR(a.yarn.attention_factor, (0.1 * log(4) + 1) / (0.05 * log(4) + 1), 1e-6);
	a = parsed(edited("eos_token_id", "[2,3,5]"));
	CHECK(a.n_eos == 3 && a.eos[2] == 5, "%d eos", a.n_eos);
	a = parsed(edited("eos_token_id", "null"));
	CHECK(a.n_eos == 0, "%d eos", a.n_eos);
	a = parsed(edited("layer_types", "[\"full_attention\",\"full_attention\",\"full_attention\"]"));
	CHECK(a.window == 0 && !a.sliding[0], "window %d", a.window);
	a = parsed(edited("tie_word_embeddings", "true"));
	CHECK(a.tie_embd, "tied");
	a = parsed(edited("architectures", NULL));
	CHECK(a.arch == ARCH_GPT_OSS, "by model_type");
}

TEST(config_refused)
{
	static const struct {
		const char *key, *value, *says;
		int rc;
	} c[] = {
		{ "hidden_size", NULL, "hidden_size is missing", MOXIE_E_FORMAT },
		{ "hidden_size", "0", "hidden_size is 0, wanted a whole number from 32", MOXIE_E_FORMAT },
		{ "hidden_size", "-64", "-64", MOXIE_E_FORMAT },
		{ "hidden_size", "65", "65, wanted a multiple of 32", MOXIE_E_UNSUPPORTED },
		{ "hidden_size", "\"64\"", "\"64\"", MOXIE_E_FORMAT },
		{ "hidden_size", "64.5", "64.5", MOXIE_E_FORMAT },
		{ "hidden_size", "4294967360", "4294967360", MOXIE_E_FORMAT },
		{ "hidden_size", "[64]", "a list of 1", MOXIE_E_FORMAT },
		{ "intermediate_size", "100", "multiple of 32", MOXIE_E_UNSUPPORTED },
		{ "num_hidden_layers", "513", "from 1 to 512", MOXIE_E_FORMAT },
		{ "num_hidden_layers", "2147483648", "2147483648", MOXIE_E_FORMAT },
		{ "num_attention_heads", "5", "multiple of", MOXIE_E_UNSUPPORTED },
		{ "num_key_value_heads", "3", "num_key_value_heads = 3", MOXIE_E_FORMAT },
		{ "num_key_value_heads", "8", "from 1 to 4", MOXIE_E_FORMAT },
		{ "head_dim", "7", "from 8 to 512", MOXIE_E_FORMAT },
		{ "head_dim", "17", "multiple of 2", MOXIE_E_UNSUPPORTED },
		{ "head_dim", "1024", "1024", MOXIE_E_FORMAT },
		{ "num_local_experts", "513", "from 1 to 512", MOXIE_E_FORMAT },
		{ "num_local_experts", "3", "from 1 to 3", MOXIE_E_FORMAT },
		{ "num_experts_per_tok", "0", "from 1 to 8", MOXIE_E_FORMAT },
		{ "experts_per_token", "3", "experts_per_token is 3", MOXIE_E_FORMAT },
		{ "vocab_size", "1048577", "1048577", MOXIE_E_FORMAT },
		{ "vocab_size", "1", "vocab_size", MOXIE_E_FORMAT },
		{ "max_position_embeddings", "0", "max_position_embeddings", MOXIE_E_FORMAT },
		{ "sliding_window", "0", "sliding_window is 0", MOXIE_E_FORMAT },
		{ "sliding_window", "true", "sliding_window is true", MOXIE_E_FORMAT },
		{ "rms_norm_eps", "0", "rms_norm_eps is 0", MOXIE_E_FORMAT },
		{ "swiglu_limit", "-7", "swiglu_limit is -7", MOXIE_E_FORMAT },
		{ "eos_token_id", "384", "384", MOXIE_E_FORMAT },
		{ "eos_token_id", "-1", "-1", MOXIE_E_FORMAT },
		{ "eos_token_id", "[1,2,3,4,5,6,7,8,9]", "a list of 9", MOXIE_E_FORMAT },
		{ "eos_token_id", "[\"2\"]", "\"2\"", MOXIE_E_FORMAT },
		{ "pad_token_id", "384", "from 0 to 383", MOXIE_E_FORMAT },
		{ "hidden_act", "\"gelu\"", "gelu; known: silu", MOXIE_E_UNSUPPORTED },
		{ "attention_bias", "false", "attention_bias", MOXIE_E_UNSUPPORTED },
		{ "attention_bias", "1", "attention_bias is 1", MOXIE_E_FORMAT },
		{ "architectures", "[\"LlamaForCausalLM\"]", "LlamaForCausalLM; known: GptOssForCausalLM", MOXIE_E_UNSUPPORTED },
		{ "architectures", "\"GptOssForCausalLM\"", "architectures", MOXIE_E_FORMAT },
		{ "layer_types", "[\"full_attention\"]", "a list of 1, wanted a list of num_hidden_layers = 3", MOXIE_E_FORMAT },
		{ "layer_types", "[1,2,3]", "layer_types", MOXIE_E_FORMAT },
		{ "layer_types", "[\"linear_attention\",\"full_attention\",\"full_attention\"]", "linear_attention", MOXIE_E_UNSUPPORTED },
		{ "rope_parameters", "{\"rope_type\":\"longrope\"}", "longrope; known: yarn, default", MOXIE_E_UNSUPPORTED },
		{ "rope_parameters", "{}", "rope_type is missing", MOXIE_E_FORMAT },
		{ "rope_parameters", "[]", "rope_parameters", MOXIE_E_FORMAT },
		{ "rope_parameters", "{\"rope_type\":\"yarn\",\"factor\":0.5}", "factor is 0.5", MOXIE_E_FORMAT },
		{ "rope_parameters", "{\"rope_type\":\"yarn\",\"factor\":\"8\"}", "factor is \"8\"", MOXIE_E_FORMAT },
		{ "rope_parameters", "{\"rope_type\":\"default\",\"rope_theta\":1}", "rope_theta is 1", MOXIE_E_FORMAT },
		{ "rope_parameters", "{\"rope_type\":\"default\",\"partial_rotary_factor\":0.5}", "partial_rotary_factor", MOXIE_E_UNSUPPORTED },
		{ "quantization_config", NULL, "missing; known: mxfp4", MOXIE_E_UNSUPPORTED },
		{ "quantization_config", "{\"quant_method\":\"fp8\"}", "fp8; known: mxfp4", MOXIE_E_UNSUPPORTED },
		{ "quantization_config", "3", "quantization_config is 3", MOXIE_E_FORMAT },
		{ "hidden_size\":64,\"hidden_size", "64", "duplicate", MOXIE_E_FORMAT },
	};
	static struct model_config cfg;
	for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
		const char *json = edited(c[i].key, c[i].value);
		int rc = config_parse(&cfg, json, strlen(json), "config.json", &err);
		CHECK(rc == c[i].rc && strstr(err.text, c[i].says), "%s = %s: %d %s", c[i].key, c[i].value ? c[i].value : "nothing", rc, err.text);
		CHECK(strstr(err.text, "config.json"), "%s: no file name: %s", c[i].key, err.text);
		CHECK(cfg.arch == ARCH_NONE && cfg.n_embd == 0, "%s: the config is not empty", c[i].key);
	}
	static const char *const not_json[] = { "", "{", "[]", "null", "{\"a\":1}}", "\xff" };
	for (size_t i = 0; i < sizeof not_json / sizeof *not_json; i++)
		CHECK(config_parse(&cfg, not_json[i], strlen(not_json[i]), "c", &err) == MOXIE_E_FORMAT, "%s", not_json[i]);
	CHECK(config_load(&cfg, "/nonexistent", &err) == MOXIE_E_IO && strstr(err.text, "/nonexistent/config.json"), "%s", err.text);
}

TEST(config_named_sizes)
{
	static const struct {
		const char *name;
		size_t n;
		uint64_t n_bytes;
	} c[] = { { "gpt-oss-20b", 459, 13761264768 /* the published index's total_size */ }, { "gpt-oss-120b", 687, 65248815744 } };
	for (size_t i = 0; i < 2; i++) {
		static struct model_config m;
		struct tensor_want w;
		size_t n;
		uint64_t all = 0;
		m = parsed(config_named(c[i].name));
		for (n = 0; config_tensor_at(&m, n, &w); n++) {
			uint64_t b = (uint64_t)dtype_bytes(w.dtype);
			for (int d = 0; d < w.n_dim; d++)
				b *= (uint64_t)w.shape[d];
			all += b;
		}
		CHECK(n == c[i].n && all == c[i].n_bytes, "%s: %zu tensors, %" PRIu64 " bytes", c[i].name, n, all);
		CHECK(m.window == 128 && m.sliding[0] && !m.sliding[1] && m.yarn.factor == 32, "%s", c[i].name);
	}
	for (int i = 0; config_name_at(i); i++)
		parsed(config_named(config_name_at(i)));
	CHECK(!config_named("gpt-5") && !config_name_at(-1), "unknown names");
}

TEST(gen_config)
{
	struct gen_config g;
	static const char good[] = "{\"do_sample\":true,\"temperature\":0.7,\"top_p\":0.9,\"top_k\":40,\"min_p\":0.05,"
				   "\"repetition_penalty\":1.1,\"bos_token_id\":199998,\"eos_token_id\":[200002,199999,200012],"
				   "\"pad_token_id\":199999,\"transformers_version\":\"5.17.0\"}";
	OK(gen_config_parse(&g, good, strlen(good), "g", &err), err);
	CHECK(g.do_sample && g.top_k == 40 && g.bos == 199998 && g.pad == 199999 && g.n_eos == 3 && g.eos[2] == 200012, "fields");
	NEAR(g.temperature, 0.7, 1e-6);
	NEAR(g.min_p, 0.05, 1e-6);
	OK(gen_config_load(&g, "/nonexistent", &err), err);
	CHECK(!g.do_sample && g.temperature == 1 && g.top_p == 1 && g.top_k == 0 && g.bos == -1 && g.n_eos == 0, "neutral");
	static const char *const bad[] = { "{\"temperature\":-1}", "{\"temperature\":\"hot\"}", "{\"top_p\":0}", "{\"top_p\":1.5}",
					   "{\"top_k\":-1}", "{\"min_p\":2}", "{\"repetition_penalty\":0}", "{\"eos_token_id\":-5}",
					   "{\"eos_token_id\":{}}", "{\"do_sample\":\"yes\"}", "[]" };
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		CHECK(gen_config_parse(&g, bad[i], strlen(bad[i]), "g", &err) == MOXIE_E_FORMAT, "%s: %s", bad[i], err.text);
}

/* ---- the checkpoint against its config ---------------------------------------------------------------------------------- */

/* Copies vector folder v into tmp with from replaced by to in its config. */
static void copy_vector(const char *v, const char *from, const char *to)
{
	char path[160];
	snprintf(path, sizeof path, "%s/config.json", v);
	struct buf b = read_file(path), out = { 0 };
	char *at = strstr(b.p, from);
	CHECK(at, "%s lacks %s", path, from);
	buf_append(&out, b.p, (size_t)(at - b.p));
	buf_puts(&out, to);
	buf_puts(&out, at + strlen(from));
	write_file(tmp_file("config.json"), out.p, out.n);
	buf_free(&b);
	buf_free(&out);
	snprintf(path, sizeof path, "%s/model.safetensors", v);
	b = read_file(path);
	write_file(tmp_file("model.safetensors"), b.p, b.n);
	buf_free(&b);
}

TEST(wrong_shape)
{
	static const struct {
		const char *from, *to, *says[3];
	} c[] = {
		{ "\"hidden_size\": 64", "\"hidden_size\": 128", { "model.embed_tokens.weight", "64", "128" } },
		{ "\"vocab_size\": 384", "\"vocab_size\": 400", { "model.embed_tokens.weight", "384", "400" } },
		{ "\"num_local_experts\": 8", "\"num_local_experts\": 9", { "router", "8", "9" } },
		{ "\"intermediate_size\": 96", "\"intermediate_size\": 128", { "gate_up_proj", "192", "256" } },
	};
	struct moxie_model_params p = { .struct_size = sizeof p, .path = tmp };
	struct moxie_model_info info = { .struct_size = sizeof info };
	tmp_make();
	for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
		copy_vector(vector[0], c[i].from, c[i].to);
		int rc = moxie_inspect(&p, &info, NULL, NULL, &err);
		CHECK(rc == MOXIE_E_SHAPE, "%s: %d %s", c[i].to, rc, err.text);
		for (int j = 0; j < 3; j++)
			CHECK(strstr(err.text, c[i].says[j]), "%s: the error does not say %s: %s", c[i].to, c[i].says[j], err.text);
	}
	tmp_remove();
}

/* Overwrites part of the header of tmp's checkpoint by text of the same length. */
static void patch_header(const char *from, const char *to)
{
	struct buf b = read_file(tmp_file("model.safetensors"));
	char *at = memmem(b.p, b.n < 32768 ? b.n : 32768, from, strlen(from));
	CHECK(at && strlen(from) == strlen(to), "no %s in the header", from);
	memcpy(at, to, strlen(to));
	write_file(tmp_file("model.safetensors"), b.p, b.n);
	buf_free(&b);
}

TEST(wrong_tensor)
{
	static const struct {
		const char *from, *to, *says[3];
		int rc;
	} c[] = {
		{ "\"model.norm.weight\"", "\"model.norm.weighs\"", { "model.norm.weight", "", "" }, 0 /* any error */ },
		{ "self_attn.sinks\":{\"dtype\":\"BF16\"", "self_attn.sinks\":{\"dtype\":\"F16\" ", { "self_attn.sinks", "BF16", "F16" }, MOXIE_E_SHAPE },
		{ "\"shape\":[384,64]", "\"shape\":[64,384]", { "384", "64", ".weight" }, MOXIE_E_SHAPE },
	};
	struct moxie_model_params p = { .struct_size = sizeof p, .path = tmp };
	struct moxie_model_info info = { .struct_size = sizeof info };
	tmp_make();
	for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
		copy_vector(vector[0], "\"hidden_size\": 64", "\"hidden_size\": 64");
		OK(moxie_inspect(&p, &info, NULL, NULL, &err), err);
		patch_header(c[i].from, c[i].to);
		int rc = moxie_inspect(&p, &info, NULL, NULL, &err);
		CHECK(rc < 0 && (!c[i].rc || rc == c[i].rc), "%s: %d %s", c[i].to, rc, err.text);
		for (int j = 0; j < 3; j++)
			CHECK(strstr(err.text, c[i].says[j]), "%s: the error does not say %s: %s", c[i].to, c[i].says[j], err.text);
	}
	tmp_remove();
}

/* ---- random checkpoints --------------------------------------------------------------------------------------------------- */

TEST(synth_same_bytes)
{
	static struct model_config c;
	struct safetensors *one, *three, *disk, *other;
	const char *json = config_named("gpt-oss-tiny");
	struct tensor_want w;
	c = parsed(json);
	tmp_make();
	OK(synth_open(&one, &c, 7, 1, NULL, NULL, &err), err);
	OK(synth_open(&three, &c, 7, 3, NULL, NULL, &err), err);
	OK(synth_open(&other, &c, 8, 1, NULL, NULL, &err), err);
	OK(synth_write(json, tmp, 7, 2, NULL, NULL, &err), err);
	OK(safetensors_open(&disk, tmp, &err), err);
	size_t i;
	for (i = 0; config_tensor_at(&c, i, &w); i++) {
		const struct st_tensor *t = safetensors_find(one, w.name), *u = safetensors_find(three, w.name),
				       *d = safetensors_find(disk, w.name), *o = safetensors_find(other, w.name);
		CHECK(t && u && d && t->n_bytes == u->n_bytes && t->n_bytes == d->n_bytes, "%s", w.name);
		CHECK(!memcmp(t->data, u->data, t->n_bytes), "%s depends on threads", w.name);
		CHECK(!memcmp(t->data, d->data, t->n_bytes), "%s: disk and memory differ", w.name);
		CHECK(memcmp(t->data, o->data, t->n_bytes), "%s does not depend on the seed", w.name);
		uint8_t *p = malloc(t->n_bytes);
		synth_fill(&w, 7, p, t->n_bytes);
		bool same = !memcmp(p, t->data, t->n_bytes);
		free(p);
		CHECK(same, "%s: synth_fill differs", w.name);
	}
	CHECK(i == safetensors_n(one) && i == safetensors_n(disk), "%zu tensors", i);
	OK(safetensors_populate(one, 2, NULL, NULL, &err), err);
	safetensors_free(one), safetensors_free(three), safetensors_free(other), safetensors_free(disk);
	tmp_remove();
}

static void moments(const struct st_tensor *t, double *mean, double *var)
{
	double s = 0, q = 0, n = (double)t->n_bytes / 2;
	for (uint64_t i = 0; i < t->n_bytes; i += 2) {
		bf16 v;
		memcpy(&v, t->data + i, 2);
		s += (double)bf16_to_f32(v);
		q += (double)bf16_to_f32(v) * (double)bf16_to_f32(v);
	}
	*mean = s / n;
	*var = q / n - *mean * *mean;
}

TEST(synth_values)
{
	static struct model_config c;
	struct safetensors *st;
	double mean, var;
	c = parsed(config_named("gpt-oss-tiny"));
	OK(synth_open(&st, &c, 1, 2, NULL, NULL, &err), err);
	moments(safetensors_find(st, "model.embed_tokens.weight"), &mean, &var);
	NEAR(mean, 0, .02);
	NEAR(var, 1, .03);
	moments(safetensors_find(st, "model.layers.2.self_attn.q_proj.weight"), &mean, &var);
	NEAR(mean, 0, .002);
	NEAR(var * c.n_embd, 1, .05);
	moments(safetensors_find(st, "model.norm.weight"), &mean, &var);
	NEAR(mean, 1, .05);
	/* the rows of an expert have variance about 1 / K */
	const struct st_tensor *b = safetensors_find(st, "model.layers.1.mlp.experts.gate_up_proj_blocks"),
			       *s = safetensors_find(st, "model.layers.1.mlp.experts.gate_up_proj_scales");
	double q = 0;
	for (uint64_t i = 0; i < b->n_bytes; i++)
		for (int half = 0; half < 2; half++) {
			double v = (double)e2m1_to_f32(b->data[i] >> 4 * half) * (double)e8m0_to_f32(s->data[i / 16]);
			q += v * v;
		}
	q = q / (2 * (double)b->n_bytes) * c.n_embd;
	CHECK(q > .5 && q < 2, "variance * K is %g", q);
	safetensors_free(st);
}

TEST(synth_folder)
{
	static struct model_config c;
	struct gen_config g;
	struct tokenizer *t;
	const char *json = config_named("gpt-oss-tiny");
	tmp_make();
	OK(synth_write(json, tmp, 1, 1, NULL, NULL, &err), err);
	OK(config_load(&c, tmp, &err), err);
	OK(gen_config_load(&g, tmp, &err), err);
	CHECK(g.n_eos == 3 && c.n_eos == 1 && g.eos[0] == c.eos[0] && g.pad == c.pad, "eos %d and %d", g.eos[0], c.eos[0]);
	OK(tokenizer_open(&t, tmp_file("tokenizer.json"), &err), err);
	CHECK(tokenizer_special(t, "<|return|>") == g.eos[0] && tokenizer_special(t, "<|endoftext|>") == g.pad, "special tokens");
	CHECK(tokenizer_n_vocab(t) <= c.n_vocab, "%d tokens", tokenizer_n_vocab(t));
	struct ids ids = { 0 };
	OK(tokenizer_encode(t, "a\n\xc3\xa9", 4, false, &ids, &err), err);
	CHECK(ids.n == 4, "%zu ids", ids.n);
	static const unsigned char want[] = "a\n\xc3\xa9";
	for (size_t i = 0; i < 4; i++) {
		size_t n;
		const char *s = tokenizer_bytes(t, ids.v[i], &n);
		CHECK(n == 1 && (unsigned char)s[0] == want[i], "byte %zu", i);
	}
	ids_free(&ids);
	tokenizer_free(t);
	CHECK(synth_write(json, tmp, 1, 1, NULL, NULL, &err) == MOXIE_E_ARG && strstr(err.text, "config.json"), "%s", err.text);
	tmp_remove();
	struct seen stop = { .stop_at = 1 };
	CHECK(synth_write(json, tmp, 1, 2, see, &stop, &err) == MOXIE_E_CANCELLED, "%s", err.text);
	CHECK(access(tmp, F_OK) != 0, "%s was left behind", tmp);
	CHECK(synth_write("{}", tmp, 1, 2, NULL, NULL, &err) == MOXIE_E_FORMAT && access(tmp, F_OK) != 0, "%s", err.text);
	CHECK(synth_write(json, "/nonexistent/x", 1, 1, NULL, NULL, &err) == MOXIE_E_IO, "%s", err.text);
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

enum { N_MUTANT_ST = 8000, N_MUTANT_CONFIG = 6000, N_MUTANT_INDEX = 1500, N_MUTANT_FOLDER = 500 };

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

TEST(mutants_config)
{
	static struct model_config c;
	struct gen_config g;
	static char text[8192];
	int n_ok = 0;
	mutate_state = test_seed;
	for (int i = 0; i < N_MUTANT_CONFIG; i++) {
		const char *from = i % 3 ? base : config_named("gpt-oss-20b");
		size_t n = mutate(memcpy(text, from, strlen(from)), strlen(from), sizeof text);
		char *exact = malloc(n + !n);
		memcpy(exact, text, n);
		int rc = config_parse(&c, exact, n, "mutant", &err);
		CHECK(rc == 0 || ((rc == MOXIE_E_FORMAT || rc == MOXIE_E_UNSUPPORTED) && err.text[0]), "mutant %d: %d", i, rc);
		struct tensor_want w;
		int64_t sum = 0;
		for (size_t j = 0; !rc && config_tensor_at(&c, j, &w); j++)
			for (int d = 0; d < w.n_dim; d++)
				sum += w.shape[d] > 0 ? 0 : 1;
		CHECK(sum == 0, "mutant %d: a dimension is not positive", i);
		n_ok += !rc;
		rc = gen_config_parse(&g, exact, n, "mutant", &err);
		CHECK(rc == 0 || rc == MOXIE_E_FORMAT, "mutant %d: %d", i, rc);
		free(exact);
	}
	printf("    %d mutants, %d still good\n", N_MUTANT_CONFIG, n_ok);
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

/* Whole folders, through the public door: config and checkpoint damaged together. */
TEST(mutants_folder)
{
	struct moxie_model_params p = { .struct_size = sizeof p, .path = tmp };
	struct moxie_model_info info = { .struct_size = sizeof info };
	struct buf cfg = read_file(VECTORS "gptoss_clamp/config.json"), st = read_file(VECTORS "gptoss_clamp/model.safetensors");
	size_t n_head = (size_t)(unsigned char)st.p[0] | (size_t)(unsigned char)st.p[1] << 8;
	int n_ok = 0;
	static char text[8192], head[32768];
	mutate_state = test_seed;
	tmp_make();
	for (int i = 0; i < N_MUTANT_FOLDER; i++) {
		size_t n = cfg.n, m = n_head, n_file;
		memcpy(text, cfg.p, n);
		memcpy(head, st.p + 8, m);
		if (i % 3 != 1)
			n = mutate(text, n, sizeof text);
		if (i % 3 != 0)
			m = mutate(head, m, sizeof head);
		write_file(tmp_file("config.json"), text, n);
		uint8_t *whole = image(head, m, st.n - 8 - n_head, &n_file);
		write_file(tmp_file("model.safetensors"), whole, n_file);
		free(whole);
		int rc = moxie_inspect(&p, &info, NULL, NULL, &err);
		CHECK(rc <= 0 && (rc == 0 || err.text[0]), "mutant %d: %d", i, rc);
		n_ok += !rc;
	}
	buf_free(&cfg);
	buf_free(&st);
	tmp_remove();
	printf("    %d mutants, %d still good\n", N_MUTANT_FOLDER, n_ok);
}

TEST_MAIN
