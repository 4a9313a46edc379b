/* generate.c - a whole answer: prefill, then sample, parse and hand out text until something ends it. */
#include <string.h>

#include "base/host.h"
#include "engine/engine.h"
#include "formats/chat.h"

struct answer {
	const struct moxie_generate_params *p;
	const struct tokenizer *t;
	struct harmony_parser *parser;  /* NULL: raw */
	struct detok detok;             /* raw */
	struct buf raw;
	struct buf held;                /* text that may turn out to be the start of a stop string */
	bool stopped, refused;          /* a stop string came; the callback said no */
};

static void emit(struct answer *a, const struct moxie_event *ev, int32_t id)
{
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
static int watch_stops(struct answer *a, struct moxie_event *ev, int32_t id, bool flush)
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
static int pass(struct answer *a, struct moxie_event *ev, int32_t id)
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

static int take(struct answer *a, int32_t id)
{
	struct moxie_event ev = { .text = "", .channel = "" };
	int rc;
	if (a->parser) {
		rc = harmony_parser_push(a->parser, id, &ev);
	} else {
		a->raw.n = 0;
		rc = detok_push(&a->detok, a->t, id, true, &a->raw);
		ev.text = a->raw.n ? a->raw.p : "";
		ev.n_text = a->raw.n;
		ev.kind = ev.n_text ? MOXIE_EV_TEXT : MOXIE_EV_NONE;
	}
	return rc < 0 ? rc : pass(a, &ev, id);
}

/* The stream is over: held bytes and held text come out. */
static int finish(struct answer *a)
{
	struct moxie_event ev = { .text = "", .channel = "" };
	int rc;
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

static int check(const moxie_session *s, const struct moxie_generate_params *p, size_t n, struct moxie_err *err)
{
	if (p->struct_size != sizeof *p)
		return err_set(err, MOXIE_E_ARG, "struct_size of the generate parameters is %zu, wanted %zu", p->struct_size, sizeof *p);
	if (p->max_tokens < 0)
		return err_set(err, MOXIE_E_ARG, "max_tokens is %d, wanted >= 0", p->max_tokens);
	if (n == 0)
		return err_set(err, MOXIE_E_ARG, "the prompt has no tokens");
	if (n > (size_t)s->n_ctx)
		return err_set(err, MOXIE_E_KV_FULL, "the prompt has %zu tokens, the context length is %d", n, s->n_ctx);
	return sampler_check(&p->sampling, err);
}

MOXIE_API int moxie_generate(moxie_session *s, const int32_t *ids, size_t n, const struct moxie_generate_params *p,
                             struct moxie_generate_result *r, struct moxie_err *err)
{
	struct moxie_generate_result unused = { .struct_size = sizeof unused };
	r = r ? r : &unused;
	*r = (struct moxie_generate_result){ .struct_size = r->struct_size };
	int rc = check(s, p, n, err);
	if (rc < 0)
		return rc;
	struct answer a = { .p = p, .t = s->m->tokenizer };
	if (s->m->tokenizer && !p->raw && (rc = harmony_parser_create(&a.parser, s->m->tokenizer, err)) < 0)
		return rc;

	double start = host_now();
	r->n_prompt = n;
	r->n_reused = moxie_session_reuse(s, ids, n);
	rc = moxie_session_append(s, ids + r->n_reused, n - r->n_reused, err);
	double begin = host_now(), end = begin;
	r->prefill_seconds = begin - start;

	while (rc == 0 && r->finish == MOXIE_FINISH_NONE) {
		int32_t id;
		if (p->max_tokens && r->n_out == (size_t)p->max_tokens) {
			r->finish = MOXIE_FINISH_LENGTH;
			break;
		}
		if ((rc = moxie_session_sample(s, &p->sampling, &id, err)) < 0)
			break;
		if (r->n_out++ == 0)
			r->first_token_seconds = host_now() - start;
		bool eos = !p->ignore_eos && moxie_is_eos(s->m, id);
		if (s->m->tokenizer && !(eos && !a.parser)) {
			rc = take(&a, id);
		} else if (!eos) { /* no tokenizer: the caller gets ids */
			struct moxie_event none = { .text = "", .channel = "" };
			emit(&a, &none, id);
		}
		if (rc < 0) {
			err_nomem(err, a.held.cap, "text of the answer");
			break;
		}
		if (a.stopped)
			r->finish = MOXIE_FINISH_STOP;
		else if (a.refused)
			r->finish = MOXIE_FINISH_CANCEL;
		else if (eos)
			r->finish = MOXIE_FINISH_EOS;
		if (r->finish != MOXIE_FINISH_NONE)
			break;
		size_t n_out = s->n_out;
		rc = moxie_session_append(s, &id, 1, err);
		s->n_out = rc == 0 ? n_out + 1 : n_out;
		if (rc == MOXIE_E_KV_FULL) {
			r->finish = MOXIE_FINISH_LENGTH;
			rc = 0;
		}
	}
	end = host_now();
	r->decode_seconds = end - begin;
	if (rc == MOXIE_E_CANCELLED) {
		r->finish = MOXIE_FINISH_CANCEL;
		rc = 0;
	}
	if (rc == 0 && s->m->tokenizer && !a.stopped && finish(&a) < 0)
		rc = err_nomem(err, a.held.cap, "text of the answer");
	harmony_parser_free(a.parser);
	buf_free(&a.raw);
	buf_free(&a.held);
	return rc;
}
