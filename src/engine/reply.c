#include "engine/reply.h"

#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

static void emit(struct reply *a, struct moxie_event *ev, int32_t id)
{
	ev->probs = a->p->logprobs && id >= 0 ? &a->probs : NULL;
	if (!a->refused && a->p->on_event && a->p->on_event(a->p->ud, ev, id))
		a->refused = true;
}

/* The longest end of text that begins some stop string, but is not all of it. */
static size_t stop_begun(const struct moxie_generate_params *p, const char *text, size_t n)
{
	size_t longest = 0;
	for (size_t i = 0; i < p->n_stop; i++) {
		size_t len = strlen(p->stop[i]);
		for (size_t k = len ? len - 1 : 0; k > longest; k--)
			if (k <= n && !memcmp(text + n - k, p->stop[i], k))
				longest = k;
	}
	return longest;
}

/* Text of the watched channel: gives out what can no longer be part of a stop string. */
static int watch_stops(struct reply *a, struct moxie_event *ev, int32_t id, bool flush)
{
	if (ev->n_text && !buf_append(&a->held, ev->text, ev->n_text))
		return MOXIE_E_NOMEM;
	size_t n = a->held.n, cut = n;
	for (size_t i = 0; i < a->p->n_stop; i++) {
		const char *at = a->p->stop[i][0] && a->held.p ? memmem(a->held.p, n, a->p->stop[i], strlen(a->p->stop[i])) : NULL;
		if (at && (size_t)(at - a->held.p) < cut)
			cut = (size_t)(at - a->held.p), a->stopped = true;
	}
	size_t keep = a->stopped || flush ? 0 : stop_begun(a->p, a->held.p, n);
	size_t n_out = a->stopped ? cut : n - keep;
	struct moxie_event out = *ev;
	out.kind = n_out ? MOXIE_EV_TEXT : MOXIE_EV_NONE;
	out.n_text = n_out;
	char first_kept = n_out < n ? a->held.p[n_out] : 0;
	out.text = n ? a->held.p : "";
	if (n)
		a->held.p[n_out] = 0;
	if (n_out || !flush)
		emit(a, &out, id);
	if (n) {
		a->held.p[n_out] = first_kept;
		memmove(a->held.p, a->held.p + n_out, n - n_out);
		a->held.n = n - n_out;
		a->held.p[a->held.n] = 0;
	}
	return 0;
}

/* One event on its way to the caller.  The parser may end a message with bytes it held back: here they come first. */
static int pass(struct reply *a, struct moxie_event *ev, int32_t id)
{
	if (ev->n_text && ev->kind != MOXIE_EV_TEXT) {
		struct moxie_event text = *ev;
		text.kind = MOXIE_EV_TEXT;
		int rc = pass(a, &text, id);
		if (rc < 0)
			return rc;
		ev->text = "";
		ev->n_text = 0;
	}
	bool watched = a->p->n_stop && (!a->parser || !strcmp(ev->channel, "final"));
	if (watched && ev->kind == MOXIE_EV_TEXT)
		return watch_stops(a, ev, id, false);
	if (watched && ev->kind != MOXIE_EV_NONE && a->held.n) { /* the message ends: what was held is text after all */
		struct moxie_event rest = *ev;
		rest.n_text = 0;
		int rc = watch_stops(a, &rest, id, true);
		if (rc < 0)
			return rc;
	}
	if (!a->stopped)
		emit(a, ev, id);
	return 0;
}

/* The model's end tokens and the request's own. */
static int list_ends(struct reply *a, const struct moxie_model *m, struct moxie_err *err)
{
	const struct moxie_generate_params *p = a->p;
	size_t n_eos = (size_t)(m->gen.n_eos ? m->gen.n_eos : m->config.n_eos);
	const int32_t *eos = m->gen.n_eos ? m->gen.eos : m->config.eos;
	if (!p->min_tokens)
		return 0;
	if (!(a->ban = malloc((n_eos + p->n_stop_id + 1) * sizeof *a->ban)))
		return err_nomem(err, (n_eos + p->n_stop_id) * sizeof *a->ban, "end tokens");
	for (size_t i = 0; i < n_eos + p->n_stop_id; i++) {
		int32_t id = i < n_eos ? eos[i] : p->stop_ids[i - n_eos];
		if (id >= 0 && id < m->config.n_vocab)
			a->ban[a->n_ban++] = id;
	}
	return 0;
}

int reply_init(struct reply *a, const struct moxie_model *m, const struct moxie_generate_params *p, struct moxie_err *err)
{
	*a = (struct reply){ .p = p, .t = m->tokenizer };
	int rc = list_ends(a, m, err);
	if (rc == 0 && a->t && !p->raw)
		rc = harmony_parser_create(&a->parser, a->t, err);
	if (rc == 0 && p->guide)
		rc = guide_run_create(&a->guide, p->guide, err);
	if (rc < 0)
		reply_free(a);
	return rc;
}

void reply_free(struct reply *a)
{
	harmony_parser_free(a->parser);
	guide_run_free(a->guide);
	free(a->ban);
	buf_free(&a->raw);
	buf_free(&a->held);
}

int reply_take(struct reply *a, int32_t id, bool eos)
{
	struct moxie_event ev = { .text = "", .channel = "" };
	int rc = 0;
	if (eos && !a->parser)
		return 0;
	if (!a->t) {
		emit(a, &ev, id);
		return 0;
	}
	if (a->parser) {
		rc = harmony_parser_push(a->parser, id, &ev);
	} else {
		a->raw.n = 0;
		rc = detok_push(&a->detok, a->t, id, !a->p->skip_special, &a->raw);
		ev.text = a->raw.n ? a->raw.p : "";
		ev.n_text = a->raw.n;
		ev.kind = ev.n_text ? MOXIE_EV_TEXT : MOXIE_EV_NONE;
	}
	return rc < 0 ? rc : pass(a, &ev, id);
}

/* Ids and numbers beside the sampling. */
static int check_extras(const struct moxie_model *m, const struct moxie_generate_params *p, struct moxie_err *err)
{
	int n_vocab = m->config.n_vocab;
	if (p->min_tokens < 0)
		return err_set(err, MOXIE_E_ARG, "min_tokens is %d, wanted >= 0", p->min_tokens);
	if (p->max_tokens && p->min_tokens > p->max_tokens)
		return err_set(err, MOXIE_E_ARG, "min_tokens is %d, max_tokens %d", p->min_tokens, p->max_tokens);
	if (p->n_top < 0 || p->n_top > MOXIE_MAX_TOP)
		return err_set(err, MOXIE_E_ARG, "n_top is %d, wanted 0 .. %d", p->n_top, MOXIE_MAX_TOP);
	for (size_t i = 0; i < p->n_stop_id; i++)
		if (p->stop_ids[i] < 0 || p->stop_ids[i] >= n_vocab)
			return err_set(err, MOXIE_E_ARG, "stop token %zu is %d, wanted 0 .. %d", i, (int)p->stop_ids[i], n_vocab - 1);
	for (size_t i = 0; i < p->n_bias; i++) {
		if (p->bias[i].id < 0 || p->bias[i].id >= n_vocab)
			return err_set(err, MOXIE_E_ARG, "the token of bias %zu is %d, wanted 0 .. %d", i, (int)p->bias[i].id, n_vocab - 1);
		if (!(p->bias[i].bias >= -1000 && p->bias[i].bias <= 1000))
			return err_set(err, MOXIE_E_ARG, "bias %zu is %g, wanted -1000 .. 1000", i, (double)p->bias[i].bias);
	}
	return 0;
}

int reply_check(const struct moxie_model *m, const struct moxie_generate_params *p, size_t n, int n_ctx, struct moxie_err *err)
{
	if (p->struct_size != sizeof *p)
		return err_set(err, MOXIE_E_ARG, "struct_size of the generate parameters is %zu, wanted %zu", p->struct_size, sizeof *p);
	if (p->max_tokens < 0)
		return err_set(err, MOXIE_E_ARG, "max_tokens is %d, wanted >= 0", p->max_tokens);
	if (n == 0)
		return err_set(err, MOXIE_E_ARG, "the prompt has no tokens");
	if (n > (size_t)n_ctx)
		return err_set(err, MOXIE_E_KV_FULL, "the prompt has %zu tokens, the context length is %d", n, n_ctx);
	int rc = check_extras(m, p, err);
	return rc < 0 ? rc : sampler_check(&p->sampling, err);
}

bool reply_is_plain(const struct reply *a, size_t n_out)
{
	return !a->guide && !a->p->logprobs && n_out >= (size_t)a->p->min_tokens;
}

/* The next token under all that the request asks for.   MOXIE_E_ARG: there are no logits */
static int pick(struct reply *a, moxie_session *s, size_t n_out, int32_t *id, struct moxie_err *err)
{
	const struct moxie_generate_params *p = a->p;
	if (reply_is_plain(a, n_out))
		return session_sample(s, &p->sampling, p->bias, p->n_bias, id, err);
	const float *logits = moxie_session_logits(s);
	int n_vocab = s->m->config.n_vocab;
	if (!logits)
		return err_set(err, MOXIE_E_ARG, "no logits: append tokens first");
	struct sampler_rule rule = { .bias = p->bias, .n_bias = p->n_bias, .ban = a->ban,
		.n_ban = n_out < (size_t)p->min_tokens ? a->n_ban : 0, .allow = a->guide ? guide_run_allow(a->guide) : NULL };
	*id = sampler_pick_ruled(&s->sampler, &p->sampling, &rule, logits, n_vocab, s->tok.v, s->tok.n, s->n_out);
	if (*id < 0 || (a->guide && !guide_run_take(a->guide, *id)))
		return err_set(err, MOXIE_E_UNSUPPORTED, "no token of the vocabulary goes on with what the answer must look like");
	if (p->logprobs)
		sampler_logprobs(logits, n_vocab, *id, p->n_top, &a->probs);
	return 0;
}

static bool is_stop_id(const struct moxie_generate_params *p, int32_t id)
{
	for (size_t i = 0; i < p->n_stop_id; i++)
		if (p->stop_ids[i] == id)
			return true;
	return false;
}

int reply_pick(struct reply *a, moxie_session *s, struct moxie_generate_result *r, int32_t *id, struct moxie_err *err)
{
	const struct moxie_generate_params *p = a->p;
	int rc = pick(a, s, r->n_out, id, err);
	if (rc < 0)
		return rc;
	r->n_out++;
	a->is_due = true;
	a->due = *id;
	a->due_eos = (a->guide && guide_run_over(a->guide)) || (!p->ignore_eos && moxie_is_eos(s->m, *id));
	a->due_stop = !a->due_eos && is_stop_id(p, *id);
	if (a->due_stop)
		r->finish = MOXIE_FINISH_STOP;
	else if (a->due_eos)
		r->finish = MOXIE_FINISH_EOS;
	else if ((p->max_tokens && r->n_out == (size_t)p->max_tokens) || s->tok.n == (size_t)s->n_ctx)
		r->finish = MOXIE_FINISH_LENGTH; /* the step that would consume this token is saved */
	return 0;
}

int reply_give(struct reply *a, struct moxie_generate_result *r, struct moxie_err *err)
{
	if (!a->is_due)
		return 0;
	a->is_due = false;
	int rc = a->due_stop ? 0 : reply_take(a, a->due, a->due_eos);
	if (rc < 0)
		return err_nomem(err, a->held.cap, "text of the answer");
	if (a->stopped)
		r->finish = MOXIE_FINISH_STOP;
	else if (a->refused)
		r->finish = MOXIE_FINISH_CANCEL;
	return 0;
}

int reply_next(struct reply *a, moxie_session *s, struct moxie_generate_result *r, int32_t *id, struct moxie_err *err)
{
	int rc = reply_pick(a, s, r, id, err);
	return rc < 0 ? rc : reply_give(a, r, err);
}

int reply_finish(struct reply *a)
{
	struct moxie_event ev = { .text = "", .channel = "" };
	int rc;
	if (!a->t || a->stopped)
		return 0;
	if (a->parser) {
		rc = harmony_parser_finish(a->parser, &ev);
	} else {
		a->raw.n = 0;
		rc = detok_finish(&a->detok, &a->raw);
		ev.text = a->raw.n ? a->raw.p : "";
		ev.n_text = a->raw.n;
		ev.kind = ev.n_text ? MOXIE_EV_TEXT : MOXIE_EV_NONE;
	}
	if (rc == 0 && ev.kind != MOXIE_EV_NONE)
		rc = pass(a, &ev, -1);
	if (rc == 0 && !a->stopped && a->held.n) {
		ev = (struct moxie_event){ .text = "", .channel = a->parser ? "final" : "" };
		rc = watch_stops(a, &ev, -1, true);
	}
	return rc;
}
