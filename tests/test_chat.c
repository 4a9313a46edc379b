#include <jansson.h>

#include "formats/chat.h"
#include "test.h"

#define VECTORS "tests/vectors/"

static struct moxie_err err;

static struct tokenizer *open_vector(void)
{
	struct tokenizer *t;
	OK(tokenizer_open(&t, VECTORS "tokenizer_4k.json", &err), err);
	return t;
}

/* ---- rendering */

enum { MAX_MSG = 16, MAX_TOOL = 8 };

struct conversation {
	struct moxie_chat_params p;
	struct moxie_tool tool[MAX_TOOL];
	char *parameters[MAX_TOOL];
	struct moxie_message msg[MAX_MSG];
	size_t n_msg;
};

static const char *text_of(const json_t *j, const char *key)
{
	return json_string_value(json_object_get(j, key));
}

static int index_of(const char *const *list, const char *s)
{
	for (int i = 0; list[i]; i++)
		if (s && !strcmp(list[i], s))
			return i;
	return -1;
}

static void read_conversation(struct conversation *c, const json_t *j)
{
	static const char *const role[] = { "system", "developer", "user", "assistant", "tool", NULL };
	static const char *const effort[] = { "medium", "low", "high", NULL };
	const json_t *p = json_object_get(j, "params"), *v;
	size_t i;
	*c = (struct conversation){ .p = { .struct_size = sizeof c->p, .identity = text_of(p, "identity"), .date = text_of(p, "date") } };
	c->p.effort = text_of(p, "effort") ? (enum moxie_effort)index_of(effort, text_of(p, "effort")) : MOXIE_EFFORT_MEDIUM;
	json_array_foreach(json_object_get(p, "tools"), i, v) {
		c->parameters[i] = json_dumps(json_object_get(v, "parameters"), 0);
		c->tool[i] = (struct moxie_tool){ text_of(v, "name"), text_of(v, "description"), c->parameters[i] };
		c->p.n_tool++;
	}
	c->p.tools = c->tool;
	json_array_foreach(json_object_get(j, "messages"), i, v) {
		c->msg[i] = (struct moxie_message){
			.role = (enum moxie_role)index_of(role, text_of(v, "role")), .content = text_of(v, "content"), .name = text_of(v, "name"),
			.channel = text_of(v, "channel"), .recipient = text_of(v, "recipient"), .content_type = text_of(v, "content_type"),
		};
		c->n_msg++;
	}
}

static void decode(const struct tokenizer *t, const struct ids *a, struct buf *b)
{
	struct detok d = { 0 };
	for (size_t i = 0; i < a->n; i++)
		CHECK(detok_push(&d, t, a->v[i], true, b) == 0, "out of memory");
	CHECK(detok_finish(&d, b) == 0, "out of memory");
}

TEST(render_golden)
{
	struct tokenizer *t = open_vector();
	FILE *f = fopen(VECTORS "harmony_render.jsonl", "r");
	CHECK(f, "no harmony_render.jsonl");
	char *line = NULL;
	size_t cap = 0;
	int n = 0;
	while (getline(&line, &cap, f) > 0) {
		struct conversation c;
		json_t *j = json_loads(line, 0, NULL);
		n++;
		CHECK(j, "line %d is not JSON", n);
		read_conversation(&c, j);
		struct ids got = { 0 };
		struct buf text = { 0 };
		const json_t *want = json_object_get(j, "ids"), *generate = json_object_get(j, "generate");
		OK(harmony_render(t, &c.p, c.msg, c.n_msg, !json_is_false(generate), &got, &err), err);
		decode(t, &got, &text);
		CHECK(!strcmp(text.p, text_of(j, "text")), "line %d:\n--- got\n%s\n--- wanted\n%s", n, text.p, text_of(j, "text"));
		bool same = got.n == json_array_size(want);
		for (size_t i = 0; same && i < got.n; i++)
			same = got.v[i] == json_integer_value(json_array_get(want, i));
		CHECK(same, "line %d: the same text from other ids", n);
		for (size_t i = 0; i < MAX_TOOL; i++)
			free(c.parameters[i]);
		ids_free(&got);
		buf_free(&text);
		json_decref(j);
	}
	CHECK(n >= 80, "only %d cases", n);
	free(line);
	fclose(f);
	tokenizer_free(t);
}

TEST_MAIN
