/* kinds.c - requests with answers that do not depend on who else is asking. */
#include "load.h"

#include <stdarg.h>

const char *const verdict_name[N_VERDICT] = { "right", "wrong", "lost", "refused", "server_error", "client_error" };

void die(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}

uint64_t draw(struct load *l, uint64_t below)
{
	l->rng ^= l->rng >> 12, l->rng ^= l->rng << 25, l->rng ^= l->rng >> 27;
	return l->rng * 2685821657736338717u % below;
}

/* ---- bodies ------------------------------------------------------------------------------------------------------------ */

static const char *const names[] = { "Maya", "Tom", "Ada", "Noah", "Lena", "Omar", "Ivy", "Kai" };
static const char *const things[] = { "apples", "pears", "books", "coins", "stamps", "cards" };

static char *question(struct load *l)
{
	char *text = NULL;
	const char *name = names[draw(l, 8)], *thing = things[draw(l, 6)];
	if (asprintf(&text, "%s has %d %s. %s gives %d of them to a friend and then buys %d bags with %d %s each. How many %s does %s have now?", name,
	             (int)(20 + draw(l, 200)), thing, name, (int)(1 + draw(l, 19)), (int)(1 + draw(l, 9)), (int)(1 + draw(l, 9)), thing, thing, name) < 0)
		die("out of memory");
	return text;
}

/* Mostly short, sometimes of many pages. */
static int length(struct load *l)
{
	int most = draw(l, 8) ? 200 : 2000;
	return 1 + (int)draw(l, (uint64_t)most);
}

static char *story(struct load *l, int n_word, unsigned shared)
{
	struct buf b = { 0 };
	uint64_t own = l->rng;
	if (shared) { /* the first 400 words are one of a few texts */
		l->rng = shared * 7919 + 1;
		for (int i = 0; i < 400; i++)
			buf_printf(&b, "%s %s ", names[draw(l, 8)], things[draw(l, 6)]);
		l->rng = own;
	}
	for (int i = 0; i < n_word; i++)
		buf_printf(&b, "%s %s ", names[draw(l, 8)], things[draw(l, 6)]);
	if (!b.p)
		die("out of memory");
	return b.p;
}

static void set_sampling(struct load *l, json_t *to)
{
	bool seeded = draw(l, 4) == 0;
	json_object_set_new(to, "temperature", json_real(seeded ? 1 : 0));
	if (seeded)
		json_object_set_new(to, "seed", json_integer((json_int_t)draw(l, 1000)));
}

static json_t *chat_body(struct load *l)
{
	char *text = question(l);
	json_t *j = json_pack("{s:[{s:s, s:s}], s:i}", "messages", "role", "user", "content", text, "max_tokens", draw(l, 8) ? 40 : 300);
	free(text);
	set_sampling(l, j);
	return j;
}

static json_t *completion_body(struct load *l)
{
	char *text = story(l, 1 + length(l) / 4, draw(l, 2) ? 1 + (unsigned)draw(l, 4) : 0);
	json_t *j = json_pack("{s:s, s:i, s:b}", "prompt", text, "max_tokens", (int)(1 + draw(l, 24)), "ignore_eos", 1);
	free(text);
	set_sampling(l, j);
	return j;
}

static json_t *native_body(struct load *l)
{
	json_t *ids = json_array(), *sampling = json_pack("{s:i, s:b}", "max_new_tokens", (int)(1 + draw(l, 24)), "ignore_eos", 1);
	for (int i = length(l); i > 0; i--)
		json_array_append_new(ids, json_integer((json_int_t)(100 + draw(l, 1500))));
	set_sampling(l, sampling);
	return json_pack("{s:o, s:o}", "input_ids", ids, "sampling_params", sampling);
}

struct kind *kinds_make(struct load *l, int n)
{
	struct kind *k = calloc((size_t)n, sizeof *k);
	if (!k)
		die("out of memory");
	for (int i = 0; i < n; i++) {
		static const char *const paths[] = { "/v1/chat/completions", "/v1/completions", "/generate" };
		static json_t *(*const bodies[])(struct load *l) = { chat_body, completion_body, native_body };
		json_t *j = bodies[i % 3](l);
		k[i].path = paths[i % 3];
		k[i].stream = draw(l, 4) > 0;
		json_object_set_new(j, "stream", json_boolean(k[i].stream));
		if (i % 3 < 2 && k[i].stream)
			json_object_set_new(j, "stream_options", json_pack("{s:b}", "include_usage", 1));
		k[i].body = json_dumps(j, JSON_COMPACT);
		json_decref(j);
		if (!k[i].body)
			die("out of memory");
	}
	return k;
}

void kinds_free(struct kind *k, int n)
{
	for (int i = 0; i < n; i++)
		free(k[i].body), free(k[i].want);
	free(k);
}

/* ---- answers ------------------------------------------------------------------------------------------------------------ */

static void add_text(struct asked *a, const json_t *v)
{
	if (json_is_string(v) && !buf_append(&a->text, json_string_value(v), json_string_length(v)))
		die("out of memory");
}

/* What a chunk or a whole answer says. */
static void take(struct asked *a, const char *data, size_t n)
{
	json_t *j = json_loadb(data, n, JSON_ALLOW_NUL, NULL);
	if (!j || json_object_get(j, "error")) {
		fprintf(stderr, "%s: not an answer: %.300s\n", a->kind->path, data);
		snprintf(a->finish, sizeof a->finish, "broken");
		json_decref(j);
		return;
	}
	const json_t *choice = json_array_get(json_object_get(j, "choices"), 0), *meta = json_object_get(j, "meta_info");
	const json_t *finish = json_object_get(meta ? meta : choice, "finish_reason"), *from = choice;
	const json_t *n_tok = json_object_get(meta ? meta : json_object_get(j, "usage"), "completion_tokens");
	if (!strcmp(a->kind->path, "/v1/chat/completions"))
		from = json_object_get(choice, a->kind->stream ? "delta" : "message");
	if (meta) {
		a->text.n = 0; /* all text so far */
		add_text(a, json_object_get(j, "text"));
		finish = json_object_get(finish, "type");
	} else {
		add_text(a, json_object_get(from, "text"));
		add_text(a, json_object_get(from, "reasoning_content"));
		add_text(a, json_object_get(from, "content"));
	}
	if (json_is_string(finish))
		snprintf(a->finish, sizeof a->finish, "%s", json_string_value(finish));
	if (json_is_integer(n_tok))
		a->n_tok = (int)json_integer_value(n_tok);
	json_decref(j);
}

static void on_event(struct call *c, const char *data, size_t n)
{
	struct asked *a = c->ud;
	if (!strcmp(data, "[DONE]"))
		a->done_mark = true;
	else
		take(a, data, n);
}

static void on_done(struct call *c)
{
	struct asked *a = c->ud;
	if (!a->kind->stream && !c->error[0] && c->status == 200) {
		take(a, c->answer, c->n_answer);
		a->done_mark = true;
	}
	a->on_end(a);
}

void ask_start(struct load *l, struct asked *a, const struct kind *k)
{
	a->kind = k;
	a->text.n = 0;
	a->finish[0] = 0;
	a->n_tok = 0;
	a->done_mark = false;
	a->call = (struct call){ .path = k->path, .body = k->body, .n_body = strlen(k->body), .on_event = on_event, .on_done = on_done, .ud = a,
	                         .idle_seconds = 120 };
	if (!client_start(l->client, &a->call))
		die("out of memory");
}

static char *said(const struct asked *a)
{
	char *s = NULL;
	if (asprintf(&s, "%.*s|%s|%d", (int)a->text.n, a->text.p ? a->text.p : "", a->finish, a->n_tok) < 0)
		die("out of memory");
	return s;
}

enum verdict ask_verdict(struct asked *a)
{
	const struct call *c = &a->call;
	if (c->error[0] || (c->status == 200 && (!a->done_mark || !a->finish[0]))) {
		fprintf(stderr, "%s: lost: HTTP %d, %s, %zu events, %zu bytes of text\n", a->kind->path, c->status, c->error, c->n_event, a->text.n);
		return LOST;
	}
	if (c->status == 429 || c->status == 503)
		return REFUSED;
	if (c->status != 200) {
		fprintf(stderr, "%s: HTTP %d: %.300s\n", a->kind->path, c->status, c->answer);
		return c->status >= 500 ? SERVER_ERROR : CLIENT_ERROR;
	}
	char *got = said(a);
	bool right = !a->kind->want || !strcmp(got, a->kind->want);
	if (!right)
		fprintf(stderr, "%s: wrong:\n   %.300s\n   alone:\n   %.300s\n", a->kind->path, got, a->kind->want);
	free(got);
	return right ? RIGHT : WRONG;
}

static void keep_answer(struct asked *a)
{
	struct kind *k = a->ud;
	if (ask_verdict(a) != RIGHT)
		die("%s: not even alone", k->path);
	k->want = said(a);
}

void kinds_ask_alone(struct load *l, struct kind *k, int n)
{
	struct asked a = { .on_end = keep_answer };
	for (int i = 0; i < n; i++) {
		a.ud = &k[i];
		ask_start(l, &a, &k[i]);
		while (client_busy(l->client))
			client_step(l->client, 1);
	}
	buf_free(&a.text);
}
