/* eval_remote.c - `moxie eval --base-url`: the same questions, asked through /v1/chat/completions. */
#include <stdlib.h>
#include <string.h>

#include "eval.h"
#include "remote.h"

struct asker {
	struct eval *e;
	struct remote remote;
	struct seat *seat;     /* [n_seat] */
	int n_seat, n_waiting, rc;
};
struct seat {              /* one question under way */
	struct asker *a;
	struct call call;
	char *body;
	int item, tries;
	double again_at;       /* > 0: asked again then */
};

#define MAX_TRIES 60 /* a server that is full says 429 or 503, and is asked again a second later */

/* What is not given is the server's to choose. */
static char *write_body(const struct asker *a, int item)
{
	const struct opts *o = a->e->o;
	json_t *j = json_pack("{s:s, s:[{s:s, s:s}]}", "model", a->remote.model, "messages", "role", "user", "content", a->e->q[item].prompt);
	const struct {
		const char *flag, *name;
		float value;
	} number[] = { { "temperature", "temperature", o->temperature }, { "top-p", "top_p", o->top_p }, { "min-p", "min_p", o->min_p },
	               { "repetition-penalty", "repetition_penalty", o->repetition_penalty },
	               { "presence-penalty", "presence_penalty", o->presence_penalty },
	               { "frequency-penalty", "frequency_penalty", o->frequency_penalty } };
	for (size_t i = 0; i < sizeof number / sizeof *number; i++)
		if (opts_given(o, number[i].flag))
			json_object_set_new(j, number[i].name, json_real((double)number[i].value));
	if (opts_given(o, "top-k"))
		json_object_set_new(j, "top_k", json_integer(o->top_k));
	if (opts_given(o, "seed"))
		json_object_set_new(j, "seed", json_integer((json_int_t)((o->seed + (uint64_t)item) & INT64_MAX)));
	if (o->max_tokens)
		json_object_set_new(j, "max_tokens", json_integer(o->max_tokens));
	if (o->effort)
		json_object_set_new(j, "reasoning_effort", json_string(o->effort));
	char *text = json_dumps(j, JSON_COMPACT);
	json_decref(j);
	return text;
}

static size_t count_of(const json_t *usage, const char *name)
{
	json_int_t n = json_integer_value(json_object_get(usage, name));
	return n > 0 ? (size_t)n : 0;
}

static int take_answer(struct asker *a, const struct seat *s)
{
	const struct call *c = &s->call;
	json_t *j = json_loadb(c->answer, c->n_answer, JSON_ALLOW_NUL, NULL);
	const json_t *choice = json_array_get(json_object_get(j, "choices"), 0), *m = json_object_get(choice, "message");
	const json_t *usage = json_object_get(j, "usage");
	const char *finish = json_string_value(json_object_get(choice, "finish_reason")), *reason;
	if (!json_is_object(m)) {
		json_decref(j);
		return bad_input("question %d: the answer has no choices[0].message", s->item), EXIT_FAIL;
	}
	reason = json_string_value(json_object_get(m, "reasoning_content"));
	if (!reason)
		reason = json_string_value(json_object_get(m, "reasoning"));
	struct answered got = { s->item, json_string_value(json_object_get(m, "content")), reason, count_of(usage, "prompt_tokens"),
		                count_of(usage, "completion_tokens"), finish && !strcmp(finish, "length") };
	a->e->n_tok += got.n_out;
	int rc = eval_take(a->e, &got);
	json_decref(j);
	return rc;
}

static void ask(struct seat *s);

static void on_done(struct call *c)
{
	struct seat *s = c->ud;
	struct asker *a = s->a;
	if (!c->error[0] && (c->status == 429 || c->status == 503) && ++s->tries < MAX_TRIES) {
		s->again_at = now() + 1;
		a->n_waiting++;
		return;
	}
	if (c->error[0] || c->status != 200) {
		char why[200];
		remote_error(c, why);
		a->rc = (bad_input("question %d: %s", s->item, why), EXIT_FAIL);
	} else {
		a->rc = take_answer(a, s);
	}
	s->tries = 0;
	s->item = -1;
	if (!a->rc && a->e->next < a->e->n && !interrupted) {
		s->item = a->e->next++;
		ask(s);
	}
}

static void ask(struct seat *s)
{
	struct asker *a = s->a;
	free(s->body);
	s->body = write_body(a, s->item);
	s->call = (struct call){ .path = "/v1/chat/completions", .body = s->body, .n_body = s->body ? strlen(s->body) : 0, .on_done = on_done, .ud = s };
	if (!s->body || !client_start(a->remote.client, &s->call))
		a->rc = (bad_input("out of memory"), EXIT_FAIL);
}

static void ask_again(struct asker *a)
{
	for (int i = 0; i < a->n_seat && a->n_waiting && !a->rc; i++) {
		struct seat *s = &a->seat[i];
		if (!s->again_at || now() < s->again_at)
			continue;
		s->again_at = 0;
		a->n_waiting--;
		ask(s);
	}
}

int eval_remote(struct eval *e, const char *path)
{
	struct asker a = { .e = e, .n_seat = e->o->parallel < e->n ? e->o->parallel : e->n };
	int rc = remote_open(&a.remote, e->o);
	if (rc)
		return rc;
	a.seat = calloc((size_t)a.n_seat, sizeof *a.seat);
	if (!a.seat)
		a.rc = (bad_input("out of memory"), EXIT_FAIL);
	double start = now();
	progress_begin(&e->bar, e->task->name, false);
	for (int i = 0; i < a.n_seat && !a.rc; i++) {
		a.seat[i] = (struct seat){ .a = &a, .item = e->next++ };
		ask(&a.seat[i]);
	}
	while ((client_busy(a.remote.client) || a.n_waiting) && !a.rc && !interrupted) {
		client_step(a.remote.client, 0.2);
		ask_again(&a);
	}
	progress_end(&e->bar);
	if (e->n_done)
		eval_print(e, path, now() - start);
	remote_close(&a.remote);
	for (int i = 0; a.seat && i < a.n_seat; i++)
		free(a.seat[i].body);
	free(a.seat);
	return a.rc ? a.rc : interrupted ? EXIT_INTERRUPT : 0;
}
