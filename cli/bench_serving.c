/* bench_serving.c - `moxie bench serving`: sends a load to a server of OpenAI's or SGLang's kind and measures the answers.
 *
 * Times are taken where bench_serving of SGLang takes them, so that numbers compare: a request starts when it may be sent (not
 * while --max-concurrency holds it back), its first token is the first event with text, an answer ends with its last event.
 */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench_prompt.h"
#include "bench_serving.h"
#include "progress.h"
#include "remote.h"

enum api { API_GENERATE, API_COMPLETIONS, API_CHAT };

struct bench;
struct flight {               /* one request under way */
	struct call call;
	struct bench *b;
	struct served *r;
	struct text body;
	bool done_mark;           /* [DONE] came */
	double last;              /* when the last text came */
	int n_seen;               /* tokens that the last event counted */
};

struct bench {
	const struct opts *o;
	enum api api;
	struct remote remote;
	struct prompts prompts;
	json_t *extra;            /* --extra-request-body */
	struct serving s;
	struct flight *flight;    /* [n_flight] */
	struct flight **free_flight;
	int n_flight, n_free, n_done, n_failed;
	struct progress bar;
};

static const char *path_of(enum api api)
{
	return api == API_GENERATE ? "/generate" : api == API_CHAT ? "/v1/chat/completions" : "/v1/completions";
}

/* ---- what is sent ----------------------------------------------------------------------------------------------------- */

/* The body for prompt i, as one JSON object; the prompt itself is spliced in as text. */
static void write_body(const struct bench *b, int i, int n_out, struct text *out)
{
	const struct opts *o = b->o;
	bool stream = !o->disable_stream, ignore = !o->respect_eos;
	double temperature = opts_given(o, "temperature") ? (double)o->temperature : 0;
	json_t *j;
	if (b->api == API_GENERATE)
		j = json_pack("{s:{s:f, s:i, s:b}, s:b}", "sampling_params", "temperature", temperature, "max_new_tokens", n_out,
		              "ignore_eos", ignore, "stream", stream);
	else
		j = json_pack("{s:s, s:f, s:i, s:b, s:b}", "model", b->remote.model, "temperature", temperature,
		              b->api == API_CHAT ? "max_completion_tokens" : "max_tokens", n_out, "ignore_eos", ignore, "stream", stream);
	if (opts_given(o, "top-p"))
		json_object_set_new(b->api == API_GENERATE ? json_object_get(j, "sampling_params") : j, "top_p", json_real((double)o->top_p));
	if (b->api != API_GENERATE && stream)
		json_object_set_new(j, "stream_options", json_pack("{s:b}", "include_usage", 1));
	if (b->extra)
		json_object_update(j, b->extra);
	char *rest = json_dumps(j, JSON_COMPACT);
	json_decref(j);
	const char *open = b->api == API_CHAT ? "{\"messages\":[{\"role\":\"user\",\"content\":" : b->api == API_COMPLETIONS ? "{\"prompt\":"
	                 : b->prompts.ids ? "{\"input_ids\":" : "{\"text\":";
	out->n = 0;
	text_add(out, open, strlen(open));
	prompt_write(&b->prompts, i, out);
	text_add(out, b->api == API_CHAT ? "}]," : ",", b->api == API_CHAT ? 3 : 1);
	if (rest)
		text_add(out, rest + 1, strlen(rest + 1)); /* without its brace */
	free(rest);
}

/* ---- what comes -------------------------------------------------------------------------------------------------------- */

static int int_of(const json_t *o, const char *key, int otherwise)
{
	const json_t *v = json_object_get(o, key);
	json_int_t n = json_integer_value(v);
	return json_is_integer(v) && n >= 0 && n < 1 << 30 ? (int)n : otherwise;
}

static void add_gap(struct served *r, double gap, int times)
{
	for (; times > 0; times--) {
		if (r->n_itl == r->cap_itl) {
			int cap = r->cap_itl ? 2 * r->cap_itl : 64;
			float *p = realloc(r->itl, (size_t)cap * sizeof *p);
			if (!p)
				return;
			r->itl = p;
			r->cap_itl = cap;
		}
		r->itl[r->n_itl++] = (float)gap;
	}
}

/* New text came at time t; n_tok: tokens that the server counts so far, 0: it does not. */
static void take_text(struct flight *f, double t, int n_tok)
{
	struct served *r = f->r;
	int more = n_tok ? n_tok - f->n_seen : 1;
	if (!r->ttft)
		r->ttft = t - r->start;
	else if (more > 0)
		add_gap(r, (t - f->last) / more, more);
	else
		return;
	f->last = t;
	f->n_seen = n_tok;
}

static void keep_text(struct flight *f, const json_t *v, bool all)
{
	if (!f->b->o->output_details)
		return;
	if (all)
		f->r->text.n = 0;
	text_add(&f->r->text, json_string_value(v), json_string_length(v));
}

/* A chunk of a stream, or the whole answer (message instead of delta). */
static void take_openai(struct flight *f, const json_t *j, double t)
{
	struct served *r = f->r;
	const json_t *usage = json_object_get(j, "usage"), *choice = json_array_get(json_object_get(j, "choices"), 0);
	const json_t *from = f->b->api == API_COMPLETIONS ? choice : json_object_get(choice, f->b->o->disable_stream ? "message" : "delta");
	static const char *const names[] = { "text", "reasoning_content", "reasoning", "content" };
	bool any = false;
	r->n_in = int_of(usage, "prompt_tokens", r->n_in);
	r->n_out = int_of(usage, "completion_tokens", r->n_out);
	r->n_cached = int_of(json_object_get(usage, "prompt_tokens_details"), "cached_tokens", r->n_cached);
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		const json_t *v = json_object_get(from, names[i]);
		if (!json_string_length(v))
			continue;
		any = true;
		keep_text(f, v, false);
	}
	if (any || json_array_size(json_object_get(from, "tool_calls")))
		take_text(f, t, 0);
}

static void take_generate(struct flight *f, const json_t *j, double t)
{
	struct served *r = f->r;
	const json_t *meta = json_object_get(j, "meta_info"), *text = json_object_get(j, "text");
	r->n_in = int_of(meta, "prompt_tokens", r->n_in);
	r->n_out = int_of(meta, "completion_tokens", r->n_out);
	r->n_cached = int_of(meta, "cached_tokens", r->n_cached);
	int n_tok = int_of(meta, "completion_tokens", 0);
	if (!json_string_length(text) && n_tok <= f->n_seen) /* a token whose text is held back is one all the same */
		return;
	keep_text(f, text, true);
	take_text(f, t, n_tok);
}

static void take_json(struct flight *f, const char *text, size_t n)
{
	struct served *r = f->r;
	json_error_t e;
	json_t *j = json_loadb(text, n, JSON_ALLOW_NUL, &e);
	const json_t *error = json_object_get(j, "error");
	double t = f->call.last;
	r->latency = t - r->start;
	if (!json_is_object(j))
		snprintf(r->error, sizeof r->error, "an event is not JSON: %s", j ? "no object" : e.text);
	else if (error && !json_is_null(error))
		snprintf(r->error, sizeof r->error, "%.190s", json_is_string(json_object_get(error, "message"))
		         ? json_string_value(json_object_get(error, "message")) : "the stream has an error");
	else if (f->b->api == API_GENERATE)
		take_generate(f, j, t);
	else
		take_openai(f, j, t);
	json_decref(j);
}

static void on_event(struct call *c, const char *data, size_t n)
{
	struct flight *f = c->ud;
	if (!strcmp(data, "[DONE]")) {
		f->done_mark = true;
		f->r->latency = c->last - f->r->start;
	} else {
		take_json(f, data, n);
	}
}

static void show_progress(struct bench *b)
{
	char text[64];
	snprintf(text, sizeof text, "%d failed", b->n_failed);
	progress_show(&b->bar, (uint64_t)b->n_done, (uint64_t)b->s.n, b->n_failed ? text : NULL);
}

static void on_done(struct call *c)
{
	struct flight *f = c->ud;
	struct bench *b = f->b;
	struct served *r = f->r;
	if (b->o->disable_stream && !c->error[0] && c->status == 200) {
		take_json(f, c->answer, c->n_answer);
		r->ttft = r->latency;
	}
	if (c->error[0] || c->status != 200)
		remote_error(c, r->error);
	else if (!b->o->disable_stream && !f->done_mark && !r->error[0])
		snprintf(r->error, sizeof r->error, "the stream ended without [DONE]");
	r->ok = !r->error[0];
	if (r->ok && !r->ttft)
		r->ttft = r->latency; /* only tokens without text: a header, half a character */
	b->n_failed += !r->ok;
	b->n_done++;
	b->free_flight[b->n_free++] = f;
	show_progress(b);
}

static void launch(struct bench *b, int i, struct served *r, int most_out)
{
	struct flight *f = b->free_flight[--b->n_free];
	int n_in, n_out;
	prompt_lens(&b->prompts, i, &n_in, &n_out);
	*r = (struct served){ .n_in = n_in, .n_out = most_out && n_out > most_out ? most_out : n_out };
	f->b = b;
	f->r = r;
	f->done_mark = false;
	f->n_seen = 0;
	write_body(b, i, r->n_out, &f->body);
	f->call = (struct call){ .path = path_of(b->api), .body = f->body.p, .n_body = f->body.n, .ud = f, .on_done = on_done,
	                         .on_event = b->o->disable_stream ? NULL : on_event };
	r->start = now();
	if (!client_start(b->remote.client, &f->call))
		on_done(&f->call);
}

/* ---- the run ------------------------------------------------------------------------------------------------------------ */

/* Gaps between arrivals are exponential: requests of many who do not know of each other. */
static double next_gap(const struct bench *b, uint64_t *state)
{
	if (isinf(b->o->request_rate))
		return 0;
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	double u = (double)(*state >> 11) * 0x1p-53;
	return -log1p(-u) / (double)b->o->request_rate;
}

/* Prompts 0 .. n-1, or prompt 0 n times; not more than width at once. */
static void send_all(struct bench *b, int n, bool same, int most_out)
{
	uint64_t state = b->o->seed * 2 + 1;
	double at = now();
	for (int i = 0; (i < n || client_busy(b->remote.client)) && !interrupted;) {
		double t = now();
		while (i < n && b->n_free && at <= t) {
			launch(b, same ? 0 : i, &b->s.r[i], most_out);
			i++;
			at += next_gap(b, &state);
		}
		client_step(b->remote.client, i < n && b->n_free && at > t ? at - t : 0.2);
	}
}

static int make_flights(struct bench *b)
{
	int n = b->o->max_concurrency && b->o->max_concurrency < b->s.n ? b->o->max_concurrency : b->s.n;
	b->flight = calloc((size_t)n, sizeof *b->flight);
	b->free_flight = calloc((size_t)n, sizeof(struct flight *));
	b->s.r = calloc((size_t)b->s.n, sizeof *b->s.r);
	if (!b->flight || !b->free_flight || !b->s.r)
		return bad_input("out of memory for %d requests", b->s.n), EXIT_FAIL;
	b->n_flight = b->n_free = n;
	for (int i = 0; i < n; i++)
		b->free_flight[i] = &b->flight[i];
	return 0;
}

static void forget_results(struct bench *b)
{
	for (int i = 0; i < b->s.n; i++)
		free(b->s.r[i].itl), free(b->s.r[i].text.p), b->s.r[i] = (struct served){ 0 };
	b->n_done = b->n_failed = 0;
}

static int warm_up(struct bench *b)
{
	int n = b->o->n_warmup < b->s.n ? b->o->n_warmup : b->s.n;
	if (!n)
		return 0;
	send_all(b, n, true, 32);
	int n_failed = b->n_failed;
	char why[200];
	snprintf(why, sizeof why, "%s", b->s.r[0].error);
	forget_results(b);
	if (n_failed == n)
		return bad_input("no warm-up request succeeded: %s", why), EXIT_FAIL;
	return 0;
}

/* How many tokens a word is, and how large the vocabulary: as far as the server tells. */
static void ask_sizes(struct bench *b)
{
	json_t *info = b->prompts.ids ? remote_json(&b->remote, "/get_model_info", NULL, NULL) : NULL;
	b->prompts.n_vocab = int_of(info, "vocab_size", b->prompts.n_vocab);
	if (b->prompts.n_vocab < 64)
		b->prompts.n_vocab = 64;
	json_decref(info);
	if (b->prompts.ids)
		return;
	struct text body = { 0 };
	text_add(&body, "{\"prompt\":\"", 11);
	prompt_words(1000, &body);
	text_add(&body, "\"}", 2);
	json_t *got = remote_json(&b->remote, "/tokenize", body.p, NULL);
	int n_tok = int_of(got, "count", 0);
	if (n_tok)
		b->prompts.words_per_token = 1000.0 / n_tok;
	json_decref(got);
	free(body.p);
}

static void ask_server_info(struct bench *b)
{
	json_t *info = remote_json(&b->remote, "/server_info", NULL, NULL);
	const json_t *state = json_array_get(json_object_get(info, "internal_states"), 0);
	const json_t *accept = json_object_get(state, "avg_spec_accept_length");
	b->s.accept_length = json_is_number(accept) ? json_number_value(accept) : -1;
	b->s.server_info = info ? json_dumps(info, JSON_COMPACT) : NULL;
	json_decref(info);
}

static int run(struct bench *b)
{
	ask_sizes(b);
	int rc = make_flights(b);
	if (!rc)
		rc = warm_up(b);
	if (!rc && b->o->flush_cache) {
		char why[200];
		json_t *got = remote_json(&b->remote, "/flush_cache", "{}", why);
		if (!got && strcmp(why, "the answer is not JSON")) /* SGLang answers with a sentence */
			fprintf(stderr, "moxie: warning: /flush_cache: %s\n", why);
		json_decref(got);
	}
	if (rc)
		return rc;
	progress_begin(&b->bar, "bench serving", false);
	double start = now();
	send_all(b, b->s.n, false, 0);
	b->s.duration = now() - start;
	progress_end(&b->bar);
	ask_server_info(b);
	for (int i = 0; i < b->s.n; i++)
		if (!b->s.r[i].ok && !b->s.r[i].error[0])
			snprintf(b->s.r[i].error, sizeof b->s.r[i].error, "interrupted");
	rc = serving_report(&b->s);
	for (int i = 0, told = 0; i < b->s.n && told < 3; i++)
		if (!b->s.r[i].ok) {
			fprintf(stderr, "moxie: request %d: %s\n", i, b->s.r[i].error);
			told++;
		}
	return rc ? rc : interrupted ? EXIT_INTERRUPT : b->n_failed ? EXIT_FAIL : 0;
}

static int check(struct bench *b)
{
	const struct opts *o = b->o;
	json_error_t e;
	if (o->n_arg)
		return bad_input("what is \"%s\" for?  usage: moxie bench serving [--base-url URL] ...", o->arg[0]);
	if (!(o->random_ratio >= 0 && o->random_ratio <= 1))
		return bad_input("--random-range-ratio is %g, wanted 0 to 1", (double)o->random_ratio);
	if (!(o->request_rate > 0))
		return bad_input("--request-rate is %g, wanted a number above 0, or inf", (double)o->request_rate);
	if (o->extra_body && !(b->extra = json_loads(o->extra_body, JSON_REJECT_DUPLICATES, &e)))
		return bad_input("--extra-request-body is not JSON: %s", e.text);
	if (b->extra && !json_is_object(b->extra))
		return bad_input("--extra-request-body is no JSON object");
	b->api = !strcmp(o->backend, "sglang") || !strcmp(o->backend, "sglang-native") ? API_GENERATE
	       : strstr(o->backend, "-chat") ? API_CHAT : API_COMPLETIONS;
	return prompts_init(&b->prompts, o, b->api == API_CHAT);
}

int bench_serving_main(struct opts *o)
{
	struct bench b = { .o = o, .s = { .o = o, .accept_length = -1 } };
	int rc = check(&b);
	b.s.n = b.prompts.n;
	catch_interrupt(false);
	if (!rc)
		rc = remote_open(&b.remote, o);
	if (!rc)
		rc = run(&b);
	for (int i = 0; i < b.n_flight; i++)
		free(b.flight[i].body.p);
	if (b.s.r)
		forget_results(&b);
	free(b.s.r);
	free(b.s.server_info);
	free(b.flight);
	free(b.free_flight);
	json_decref(b.extra);
	prompts_free(&b.prompts);
	remote_close(&b.remote);
	return rc;
}
