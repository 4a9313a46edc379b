/* test_wordmath.c - the shipped model: same prompts, same greedy answers as transformers, and right ones.
 *
 * tests/vectors/wordmath_greedy.jsonl: prompt and answer ids of transformers in fp32, made by tools/check_wordmath.py.
 * tests/vectors/wordmath_heldout.jsonl: 500 problems the training never saw; `moxie eval` runs them all.
 */
#include <jansson.h>
#include <unistd.h>

#include "moxie.h"
#include "test.h"

#define MODEL "models/wordmath"

static struct moxie_err err;

static moxie_model *open_model(const char *device, int kv_f32)
{
	moxie_model *m;
	const char *other = getenv("MOXIE_TEST_DEVICE"); /* such as cuda:portable,shared=64, for what runs on the CPU's fast kernels */
	if (other && !kv_f32)
		device = other;
	struct moxie_model_params p = { .struct_size = sizeof p, .path = MODEL, .device = device, .kv_f32 = kv_f32 };
	OK(moxie_model_open(&m, &p, &err), err);
	return m;
}

/* Calls see(item, ud) for each line of a JSONL file; returns the number of lines. */
static int each_line(const char *path, int most, void (*see)(json_t *item, void *ud), void *ud)
{
	FILE *f = fopen(path, "r");
	CHECK(f, "%s is missing", path);
	char *line = NULL;
	size_t cap = 0;
	int n = 0;
	while (n < most && getline(&line, &cap, f) > 0) {
		json_error_t e;
		json_t *item = json_loads(line, 0, &e);
		CHECK(item, "%s line %d: %s", path, n + 1, e.text);
		see(item, ud);
		json_decref(item);
		n++;
	}
	free(line);
	fclose(f);
	return n;
}

struct greedy {
	moxie_model *m;
	moxie_session *s;
	int n, n_same;
};

static void see_greedy(json_t *item, void *ud)
{
	struct greedy *g = ud;
	json_t *prompt = json_object_get(item, "prompt_ids"), *want = json_object_get(item, "output_ids");
	int32_t ids[2048], id;
	size_t n = json_array_size(prompt), i;
	CHECK(n > 0 && n <= 2048 && json_array_size(want) > 0, "prompt of %zu ids", n);
	for (i = 0; i < n; i++)
		ids[i] = (int32_t)json_integer_value(json_array_get(prompt, i));
	moxie_session_rewind(g->s, 0);
	OK(moxie_session_append(g->s, ids, n, &err), err);
	for (i = 0; i < json_array_size(want); i++) {
		OK(moxie_session_next(g->s, NULL, &id, &err), err);
		if (id != json_integer_value(json_array_get(want, i)))
			break;
	}
	g->n++;
	g->n_same += i == json_array_size(want);
}

static void check_greedy(const char *device, int kv_f32, int most, double least)
{
	struct greedy g = { .m = open_model(device, kv_f32) };
	OK(moxie_session_create(&g.s, g.m, NULL, &err), err);
	each_line("tests/vectors/wordmath_greedy.jsonl", most, see_greedy, &g);
	printf("    %s: %d of %d answers are transformers' to the last token\n", device, g.n_same, g.n);
	CHECK(g.n == most && g.n_same >= least * g.n, "%d of %d, wanted %.0f %% of %d", g.n_same, g.n, 100 * least, most);
	moxie_session_free(g.s);
	moxie_model_free(g.m);
}

/* The plain kernels take seconds an answer: two here; all 64 agree when asked for. */
TEST(greedy_as_transformers_ref) { check_greedy("cpu:ref", 1, 2, 1); }
TEST(greedy_as_transformers_fast) { check_greedy("cpu", 0, 32, 0.95); }

struct answer {
	moxie_model *m;
	moxie_session *s;
	char final[4096];
	int n, n_right;
};

static int collect(void *ud, const struct moxie_event *ev, int32_t id)
{
	struct answer *a = ud;
	(void)id;
	if (ev->kind == MOXIE_EV_TEXT && !strcmp(ev->channel, "final"))
		strncat(a->final, ev->text, sizeof a->final - strlen(a->final) - 1);
	return 0;
}

/* The last number of the text, without thousands commas. */
static double last_number(const char *s)
{
	double v = NAN;
	for (; *s; s++)
		if (*s >= '0' && *s <= '9') {
			v = 0;
			for (; (*s >= '0' && *s <= '9') || (*s == ',' && s[1] >= '0' && s[1] <= '9'); s++)
				if (*s != ',')
					v = 10 * v + (*s - '0');
			if (*s == '.' && s[1] >= '0' && s[1] <= '9') {
				double unit = 0.1;
				for (s++; *s >= '0' && *s <= '9'; s++, unit /= 10)
					v += unit * (*s - '0');
			}
			s--;
		}
	return v;
}

static void ask(struct answer *a, const char *question)
{
	struct moxie_message msg = { .role = MOXIE_ROLE_USER, .content = question };
	struct moxie_generate_params p = { .struct_size = sizeof p, .max_tokens = 600, .on_event = collect, .ud = a };
	struct moxie_generate_result r = { .struct_size = sizeof r };
	int32_t ids[4096];
	size_t n;
	a->final[0] = 0;
	OK(moxie_chat_render(a->m, NULL, &msg, 1, ids, 4096, &n, &err), err);
	OK(moxie_generate(a->s, ids, n, &p, &r, &err), err);
}

static void see_heldout(json_t *item, void *ud)
{
	struct answer *a = ud;
	ask(a, json_string_value(json_object_get(item, "question")));
	double want = strtod(json_string_value(json_object_get(item, "answer")), NULL);
	a->n++;
	a->n_right += fabs(last_number(a->final) - want) < 1e-6;
}

TEST(heldout_answers_are_right)
{
	struct answer a = { .m = open_model("cpu", 0) };
	OK(moxie_session_create(&a.s, a.m, NULL, &err), err);
	each_line("tests/vectors/wordmath_heldout.jsonl", 40, see_heldout, &a);
	printf("    %d of the first %d held-out problems are right\n", a.n_right, a.n);
	CHECK(a.n == 40 && a.n_right >= 36, "%d of %d right, wanted at least 36", a.n_right, a.n);
	moxie_session_free(a.s);
	moxie_model_free(a.m);
}

TEST(refuses_what_it_does_not_know)
{
	static const char *const other[] = { "What is the capital of France?", "Write a poem about the sea." };
	struct answer a = { .m = open_model("cpu", 0) };
	OK(moxie_session_create(&a.s, a.m, NULL, &err), err);
	for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
		ask(&a, other[i]);
		CHECK(a.final[0] && strlen(a.final) < 300 && !strstr(a.final, "Paris"), "%s -> %s", other[i], a.final);
		printf("    %s\n", a.final);
	}
	moxie_session_free(a.s);
	moxie_model_free(a.m);
}

TEST(stop_string_cuts_the_answer)
{
	struct answer a = { .m = open_model("cpu", 0) };
	OK(moxie_session_create(&a.s, a.m, NULL, &err), err);
	static const char question[] = "What is 17 + 25?", *const stop[] = { "4", "never" };
	ask(&a, question);
	CHECK(strstr(a.final, "42"), "%s", a.final);
	struct moxie_message msg = { .role = MOXIE_ROLE_USER, .content = question };
	struct moxie_generate_params p = { .struct_size = sizeof p, .on_event = collect, .ud = &a, .stop = stop, .n_stop = 2 };
	struct moxie_generate_result r = { .struct_size = sizeof r };
	int32_t ids[4096];
	size_t n;
	OK(moxie_chat_render(a.m, NULL, &msg, 1, ids, 4096, &n, &err), err);
	a.final[0] = 0;
	OK(moxie_generate(a.s, ids, n, &p, &r, &err), err);
	CHECK(r.finish == MOXIE_FINISH_STOP && !strchr(a.final, '4'), "finish %d, %s", r.finish, a.final);
	CHECK(r.n_reused == n - 1, "the same prompt reuses %zu of %zu tokens", r.n_reused, n);
	moxie_session_free(a.s);
	moxie_model_free(a.m);
}

TEST_MAIN
