#include "questions.h"

#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* ---- numbers in text ------------------------------------------------------------------------------------------------ */

/* The next number at or after *p: 12, -3.50, 1,200 (without the comma), 4:05.  *p moves behind it; false: none left. */
static bool next_number(const char **p, char *out, size_t cap)
{
	const char *s = *p;
	while (*s && !isdigit((unsigned char)*s))
		s++;
	if (!*s)
		return false;
	size_t n = 0;
	if (s > *p && s[-1] == '-' && (s - 1 == *p || !isalnum((unsigned char)s[-2])) && n + 1 < cap)
		out[n++] = '-';
	for (; isdigit((unsigned char)*s) || ((*s == ',' || *s == '.' || *s == ':') && isdigit((unsigned char)s[1])); s++)
		if (*s != ',' && n + 1 < cap)
			out[n++] = *s;
	out[n] = 0;
	*p = s;
	return true;
}

static bool same_number(const char *a, const char *b)
{
	if (strchr(a, ':') || strchr(b, ':'))
		return !strcmp(a, b);
	double x = strtod(a, NULL), y = strtod(b, NULL);
	return fabs(x - y) <= 1e-9 * fmax(1, fabs(y));
}

static bool last_number(const char *text, char *out, size_t cap)
{
	bool any = false;
	while (next_number(&text, out, cap))
		any = true;
	if (!any)
		*out = 0;
	return any;
}

/* Every number of the right sentence, in its order: "8 boxes cost $24" is not right because it ends with the right number. */
static bool wordmath_right(const struct question *q, const char *final, char *taken, size_t cap)
{
	char got[64], want[64];
	last_number(final, taken, cap);
	if (!q->says)
		return last_number(q->gold, want, sizeof want) && *taken && same_number(taken, want);
	const char *f = final, *g = q->says;
	while (next_number(&g, want, sizeof want))
		if (!next_number(&f, got, sizeof got) || !same_number(got, want))
			return false;
	return !next_number(&f, got, sizeof got);
}

/* The number in the last \boxed{}, else the last number. */
static bool gsm8k_right(const struct question *q, const char *final, char *taken, size_t cap)
{
	const char *box = NULL, *p = final;
	for (; (p = strstr(p, "\\boxed{")); p++)
		box = p + 7;
	char boxed[256];
	if (box) {
		snprintf(boxed, sizeof boxed, "%.*s", (int)strcspn(box, "}"), box);
		final = boxed;
	}
	char want[64];
	return last_number(final, taken, cap) && last_number(q->gold, want, sizeof want) && same_number(taken, want);
}

/* The letter after the last "Answer:", else the last capital A to D that stands alone. */
static bool gpqa_right(const struct question *q, const char *final, char *taken, size_t cap)
{
	char letter = 0;
	const char *p = final, *after = NULL;
	for (; (p = strcasestr(p, "answer")); p++)
		after = p + 6;
	for (int pass = 0; pass < 2 && !letter; pass++) {
		p = pass == 0 ? after : final;
		for (; p && *p; p++) {
			bool alone = *p >= 'A' && *p <= 'D' && (p == final || !isalnum((unsigned char)p[-1])) && !isalnum((unsigned char)p[1]);
			if (alone)
				letter = *p;
			if (alone && pass == 0)
				break;
		}
	}
	snprintf(taken, cap, "%.*s", letter != 0, &letter);
	return letter == q->gold[0];
}

/* ---- files ---------------------------------------------------------------------------------------------------------- */

static const char *field(const json_t *o, const char *key)
{
	return json_string_value(json_object_get(o, key));
}

static char *copy(const char *s)
{
	struct text t = { 0 };
	text_add(&t, s, strlen(s));
	return t.p;
}

static const char *read_wordmath(const json_t *o, uint64_t seed, struct question *q)
{
	(void)seed;
	const char *ask = field(o, "question"), *answer = field(o, "answer"), *says = field(o, "final");
	if (!ask || !answer)
		return !ask ? "question" : "answer";
	q->prompt = copy(ask);
	q->gold = copy(answer);
	q->says = says ? copy(says) : NULL;
	return NULL;
}

static const char *read_gsm8k(const json_t *o, uint64_t seed, struct question *q)
{
	(void)seed;
	const char *ask = field(o, "question"), *answer = field(o, "answer"), *mark = answer ? strstr(answer, "####") : NULL;
	if (!ask || !answer)
		return !ask ? "question" : "answer";
	if (!mark)
		return "answer with ####";
	struct text t = { 0 };
	text_add(&t, ask, strlen(ask));
	static const char how[] = "\n\nPlease reason step by step, and put your final answer within \\boxed{}.";
	text_add(&t, how, sizeof how - 1);
	q->prompt = t.p;
	q->gold = copy(mark + 4 + strspn(mark + 4, " "));
	return NULL;
}

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

static const char *read_gpqa(const json_t *o, uint64_t seed, struct question *q)
{
	static const char *const keys[] = { "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3" };
	const char *ask = field(o, "Question"), *choice[4];
	if (!ask)
		return "Question";
	int order[4] = { 0, 1, 2, 3 };
	for (int i = 0; i < 4; i++)
		if (!(choice[i] = field(o, keys[i])))
			return keys[i];
	for (int i = 3; i > 0; i--) {
		seed = mix(seed + 0x9e3779b97f4a7c15u);
		int j = (int)(seed % (uint64_t)(i + 1)), keep = order[i];
		order[i] = order[j], order[j] = keep;
	}
	struct text t = { 0 };
	text_add(&t, ask, strlen(ask));
	char gold[2] = "A";
	for (int i = 0; i < 4; i++) {
		const char label[] = { '\n', i ? 0 : '\n', 0 }, letter[] = { "ABCD"[i], ')', ' ', 0 };
		text_add(&t, label, strlen(label));
		text_add(&t, letter, 3);
		text_add(&t, choice[order[i]], strlen(choice[order[i]]));
		if (order[i] == 0)
			gold[0] = "ABCD"[i];
	}
	static const char how[] = "\n\nThink step by step. End with a line of the form \"Answer: X\", where X is one of A, B, C, D.";
	text_add(&t, how, sizeof how - 1);
	q->prompt = t.p;
	q->gold = copy(gold);
	return NULL;
}

static const struct {
	struct task task;
	const char *(*read)(const json_t *o, uint64_t seed, struct question *q); /* NULL, or the field that is missing */
} tasks[] = {
	{ { "wordmath", wordmath_right }, read_wordmath },
	{ { "gsm8k", gsm8k_right }, read_gsm8k },
	{ { "gpqa", gpqa_right }, read_gpqa },
};
#define N_TASK (sizeof tasks / sizeof *tasks)

const struct task *task_by_name(const char *name)
{
	for (size_t i = 0; i < N_TASK; i++)
		if (!strcmp(tasks[i].task.name, name))
			return &tasks[i].task;
	return NULL;
}

static int read_line(const struct task *t, const char *where, const char *line, size_t n, uint64_t seed, struct question *q)
{
	json_error_t je;
	json_t *o = json_loadb(line, n, JSON_REJECT_DUPLICATES, &je);
	if (!o)
		return bad_input("%s: not JSON: %s", where, je.text);
	const char *missing = NULL;
	for (size_t i = 0; i < N_TASK; i++)
		if (&tasks[i].task == t)
			missing = json_is_object(o) ? tasks[i].read(o, seed, q) : "object";
	json_decref(o);
	return missing ? bad_input("%s: no %s, which %s wants as a string", where, missing, t->name) : 0;
}

int questions_read(const struct task *t, const char *path, int limit, uint64_t seed, struct question **out, int *n)
{
	FILE *f = fopen(path, "re");
	char *line = NULL;
	size_t cap = 0;
	int rc = 0, n_line = 0, room = 0;
	*out = NULL;
	*n = 0;
	if (!f)
		return bad_input("%s: %s", path, strerror(errno));
	errno = 0;
	for (ssize_t len; !rc && (!limit || *n < limit) && (len = getline(&line, &cap, f)) >= 0;) {
		n_line++;
		if ((size_t)len == strspn(line, " \t\r\n"))
			continue;
		if (*n == room) {
			struct question *q = realloc(*out, (size_t)(room += 256) * sizeof *q);
			if (!q) {
				rc = (bad_input("out of memory for %d questions", room), EXIT_FAIL);
				break;
			}
			*out = q;
		}
		char where[4200];
		snprintf(where, sizeof where, "%s:%d", path, n_line);
		(*out)[*n] = (struct question){ 0 };
		rc = read_line(t, where, line, (size_t)len, seed + (uint64_t)*n, &(*out)[*n]);
		*n += !rc;
	}
	if (!rc && ferror(f))
		rc = bad_input("%s: %s", path, strerror(errno));
	if (!rc && !*n)
		rc = bad_input("%s: no questions", path);
	free(line);
	fclose(f);
	if (rc)
		questions_free(*out, *n), *out = NULL;
	return rc;
}

void questions_free(struct question *q, int n)
{
	for (int i = 0; i < n; i++)
		free(q[i].prompt), free(q[i].gold), free(q[i].says);
	free(q);
}
