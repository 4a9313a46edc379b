/* params.c - how a request wants its tokens: sampling, limits, stops, biases, log-probabilities, and how many answers. */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "serve/serve_int.h"

struct knobs {
	struct moxie_sampling sp;
	int max_tokens, max_completion_tokens, max_new_tokens, min_tokens, n, top, score_from;
	bool ignore_eos, skip_special, echo, probs, probs_text;
};
#define AT(field) offsetof(struct knobs, field)
#define MANY 2147483647.0
static const struct field knob[] = {
	{ "temperature", FIELD_FLOAT, AT(sp.temperature), 0, 100 },
	{ "top_p", FIELD_FLOAT, AT(sp.top_p), 0, 1 },
	{ "min_p", FIELD_FLOAT, AT(sp.min_p), 0, 1 },
	{ "top_k", FIELD_INT, AT(sp.top_k), -1, MANY },
	{ "repetition_penalty", FIELD_FLOAT, AT(sp.repetition_penalty), 0, 100 },
	{ "presence_penalty", FIELD_FLOAT, AT(sp.presence_penalty), -2, 2 },
	{ "frequency_penalty", FIELD_FLOAT, AT(sp.frequency_penalty), -2, 2 },
	{ "seed", FIELD_U64, AT(sp.seed), 0, 9223372036854775807.0 },
	{ "sampling_seed", FIELD_U64, AT(sp.seed), 0, 9223372036854775807.0 },
	{ "max_tokens", FIELD_INT, AT(max_tokens), 0, MANY },
	{ "max_completion_tokens", FIELD_INT, AT(max_completion_tokens), 0, MANY },
	{ "max_new_tokens", FIELD_INT, AT(max_new_tokens), 0, MANY },
	{ "min_tokens", FIELD_INT, AT(min_tokens), 0, MANY },
	{ "min_new_tokens", FIELD_INT, AT(min_tokens), 0, MANY },
	{ "n", FIELD_INT, AT(n), 1, MAX_PARTS },
	{ "ignore_eos", FIELD_BOOL, AT(ignore_eos), 0, 1 },
	{ "skip_special_tokens", FIELD_BOOL, AT(skip_special), 0, 1 },
};
static const struct field chat_knob[] = {
	{ "logprobs", FIELD_BOOL, AT(probs), 0, 1 },
	{ "top_logprobs", FIELD_INT, AT(top), 0, MOXIE_MAX_TOP },
};
static const struct field completion_knob[] = {
	{ "logprobs", FIELD_INT, AT(top), 0, MOXIE_MAX_TOP },
	{ "echo", FIELD_BOOL, AT(echo), 0, 1 },
};
static const struct field generate_knob[] = {
	{ "return_logprob", FIELD_BOOL, AT(probs), 0, 1 },
	{ "top_logprobs_num", FIELD_INT, AT(top), 0, MOXIE_MAX_TOP },
	{ "return_text_in_logprobs", FIELD_BOOL, AT(probs_text), 0, 1 },
	{ "logprob_start_len", FIELD_INT, AT(score_from), -1, MANY },
};
#define COUNT(a) (sizeof a / sizeof *a)


/* 0, or the sentence that says what is wrong. */
static const char *read_stop(struct job *j, const json_t *v)
{
	size_t n = json_is_array(v) ? json_array_size(v) : 1;
	if (!v || json_is_null(v))
		return NULL;
	if (n > MAX_STOPS)
		return "stop has more than 16 strings";
	for (size_t i = 0; i < n; i++) {
		const json_t *s = json_is_array(v) ? json_array_get(v, i) : v;
		if (!json_is_string(s))
			return "stop is neither a string nor a list of strings";
		if (json_string_length(s) > MAX_STOP_BYTES)
			return "a stop string has more than 1024 bytes";
		if (!json_string_length(s))
			continue;
		j->stop[j->n_stop] = strdup(json_string_value(s));
		if (!j->stop[j->n_stop])
			return "out of memory";
		j->n_stop++;
	}
	return NULL;
}

/* Each of these: NULL, or the sentence that says what is wrong. */
static const char *read_stop_ids(struct job *j, const json_t *v)
{
	if (!v || json_is_null(v))
		return NULL;
	if (!json_is_array(v) || json_array_size(v) > MAX_STOP_IDS)
		return "stop_token_ids is not a list of at most 64 tokens";
	int rc = json_tokens(v, j->s->info.n_vocab, &j->stop_ids);
	return rc == 0 ? NULL : rc == -2 ? "out of memory" : "stop_token_ids has something that is no token of this model";
}

static const char *read_bias(struct job *j, json_t *v)
{
	const char *key;
	json_t *x;
	if (!v || json_is_null(v))
		return NULL;
	if (!json_is_object(v) || json_object_size(v) > MAX_BIAS)
		return "logit_bias is not an object of at most 1024 tokens";
	if (json_object_size(v) && !(j->bias = calloc(json_object_size(v), sizeof *j->bias)))
		return "out of memory";
	json_object_foreach(v, key, x) {
		char *end;
		double bias = json_number_value(x);
		errno = 0;
		long id = *key >= '0' && *key <= '9' ? strtol(key, &end, 10) : -1;
		if (id < 0 || *end || errno || id >= j->s->info.n_vocab || (*key == '0' && key[1]))
			return "logit_bias has a name that is no token of this model";
		if (!json_is_number(x) || !(bias >= -100 && bias <= 100))
			return "logit_bias has a value that is not a number of -100 .. 100";
		j->bias[j->gen.n_bias++] = (struct moxie_bias){ (int32_t)id, (float)bias };
	}
	j->gen.bias = j->bias;
	return NULL;
}

/* The text of a prompt that is to stand before its answer. */
static bool read_echo(struct part *p)
{
	const moxie_model *m = p->job->s->m;
	char none[1], *text;
	size_t n;
	if (moxie_detokenize(m, p->prompt.v, p->prompt.n, 1, none, 0, &n, NULL) != MOXIE_E_TOO_SMALL || !(text = malloc(n)))
		return n == 0;
	bool ok = moxie_detokenize(m, p->prompt.v, p->prompt.n, 1, text, n, &n, NULL) == 0 && buf_append(&p->echo, text, n);
	free(text);
	for (size_t i = 0; i < p->echo.n && !p->job->scores; i++) /* else its tokens are in the lists, and count */
		p->probs.n_char += ((unsigned char)p->echo.p[i] & 0xc0) != 0x80;
	return ok;
}

static bool refuse(struct job *j, const char *name, const char *why)
{
	if (!strcmp(why, "out of memory"))
		job_refuse(j, 503, NULL, "%s", why);
	else
		job_refuse(j, 400, name, "%s", why);
	return false;
}

/* Fields whose sense hangs on one another. */
static bool check_knobs(struct job *j, json_t *body, json_t *from, struct knobs *k)
{
	const json_t *best_of = json_object_get(from, "best_of");
	if (j->kind == JOB_COMPLETION)
		k->probs = json_is_integer(json_object_get(body, "logprobs"));
	if (k->top && !k->probs)
		return refuse(j, j->kind == JOB_CHAT ? "top_logprobs" : "top_logprobs_num",
		              "top log-probabilities are asked for, but no log-probabilities");
	if (k->probs && (k->echo || k->score_from >= 0)) {
		j->scores = true;
		j->score_from = k->echo ? 1 : (size_t)k->score_from + 1;
	}
	for (int i = 0; j->scores && i < j->n_part; i++)
		if (j->score_from > j->part[i].prompt.n && j->part[i].prompt.n)
			return refuse(j, "logprob_start_len", "logprob_start_len is beyond the end of the prompt");
	if (best_of && !json_is_null(best_of) && !(json_is_integer(best_of) && json_integer_value(best_of) == k->n))
		return refuse(j, "best_of", "best_of is not supported here beyond n");
	if (k->n * j->n_part > MAX_PARTS) {
		job_refuse(j, 400, "n", "n is %d for %d prompts, at most %d answers are given at once", k->n, j->n_part, MAX_PARTS);
		return false;
	}
	return true;
}

/* Nothing to generate is something to ask for where the prompt's likelihood is. */
static bool check_most(struct job *j, const struct knobs *k, const char **name)
{
	const struct { const char *name; int n; } most[] = { { "max_new_tokens", k->max_new_tokens }, { "max_completion_tokens", k->max_completion_tokens },
	                                                     { "max_tokens", k->max_tokens } };
	for (size_t i = 0; i < COUNT(most); i++)
		if (most[i].n >= 0) {
			j->gen.max_tokens = most[i].n;
			*name = most[i].name;
			break;
		}
	if (j->gen.max_tokens || !*name)
		return true;
	j->scores_only = j->scores;
	j->gen.max_tokens = 1;
	return j->scores;
}

static void set_knobs(struct job *j, struct knobs *k)
{
	if (k->sp.top_k < 0)
		k->sp.top_k = 0;
	j->gen.sampling = k->sp;
	j->gen.min_tokens = k->min_tokens;
	j->gen.ignore_eos = k->ignore_eos;
	j->gen.skip_special = k->skip_special;
	j->gen.logprobs = k->probs;
	j->gen.n_top = k->top;
	j->gen.stop = (const char *const *)j->stop;
	j->gen.n_stop = j->n_stop;
	j->gen.stop_ids = j->stop_ids.v;
	j->gen.n_stop_id = j->stop_ids.n;
	j->echo = k->echo;
	j->probs_text = k->probs_text;
}

bool job_read_params(struct job *j, json_t *body, int default_max)
{
	json_t *from = j->kind == JOB_GENERATE ? json_object_get(body, "sampling_params") : body;
	const struct { const struct field *f; size_t n; } own[] = {
		[JOB_CHAT] = { chat_knob, COUNT(chat_knob) },
		[JOB_RESPONSE] = { NULL, 0 },
		[JOB_COMPLETION] = { completion_knob, COUNT(completion_knob) },
		[JOB_GENERATE] = { generate_knob, COUNT(generate_knob) },
	};
	struct knobs k = { .sp = j->gen.sampling, .n = 1, .skip_special = true, .max_tokens = -1, .max_completion_tokens = -1, .max_new_tokens = -1,
	                   .score_from = -1 };
	struct buf why = { 0 };
	const char *name = NULL, *bad;
	if (!fields_read(knob, COUNT(knob), from, &k, &name, &why) || !fields_read(own[j->kind].f, own[j->kind].n, body, &k, &name, &why)) {
		job_refuse(j, 400, name, "%s", why.p ? why.p : "a field cannot be used");
		buf_free(&why);
		return false;
	}
	if ((bad = read_stop(j, json_object_get(from, name = "stop"))) ||
	    (bad = read_stop_ids(j, json_object_get(from, name = "stop_token_ids"))) ||
	    (bad = read_bias(j, json_object_get(from, name = "logit_bias"))))
		return refuse(j, name, bad);
	if (!check_knobs(j, body, from, &k))
		return false;
	j->gen.max_tokens = default_max;
	name = NULL;
	if (!check_most(j, &k, &name)) {
		job_refuse(j, 400, name, "%s is 0, wanted at least 1 where the likelihood of the prompt is not asked for", name);
		return false;
	}
	set_knobs(j, &k);
	struct moxie_err err = { 0 };
	if (moxie_sampling_check(&j->gen.sampling, &err) < 0)
		return refuse(j, NULL, err.text);
	bool ok = k.n == 1 || job_copy_parts(j, k.n);
	for (int i = 0; ok && k.echo && i < j->n_part; i++)
		ok = read_echo(&j->part[i]);
	for (int i = 0; ok && j->scores && i < j->n_part; i++) {
		const struct ids *prompt = &j->part[i].prompt; /* an empty one is refused by the engine */
		ok = j->score_from > prompt->n || probs_add_first(&j->part[i], prompt->v[j->score_from - 1]);
	}
	j->is_batch |= k.n > 1;
	return ok || refuse(j, NULL, "out of memory");
}
