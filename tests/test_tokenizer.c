#include <jansson.h>

#include "formats/tokenizer.h"
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
	FILE *f = fopen(VECTORS "tokenizer_cases.jsonl", "r");
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
TEST(golden_added) { golden("added"); }

TEST_MAIN
