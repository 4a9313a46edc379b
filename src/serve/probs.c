/* probs.c - log-probabilities as three kinds of client read them. */
#include <string.h>

#include "serve/serve_int.h"

/* A token as text that JSON can carry; bytes that are not UTF-8 become U+FFFD, or with escapes "bytes:\\xe2\\x82", as OpenAI's
 * older route writes them. */
static bool put_token(const struct server *s, struct buf *b, int32_t id, bool escapes)
{
	size_t n, n_text = 0;
	char text[1024];
	const char *p = moxie_token_bytes(s->m, id, &n, NULL);
	int rc = moxie_detokenize(s->m, &id, 1, 1, text, sizeof text, &n_text, NULL);
	if (rc < 0 || (escapes && (n != n_text || memcmp(p, text, n)))) {
		struct buf hex = { 0 };
		bool ok = buf_puts(&hex, "bytes:");
		for (size_t i = 0; ok && i < n; i++)
			ok = buf_printf(&hex, "\\x%02x", (unsigned char)p[i]);
		ok = ok && json_str(b, hex.p, hex.n);
		buf_free(&hex);
		return ok;
	}
	return json_str(b, text, n_text);
}

/* JSON has no infinity: what cannot be is as unlikely as OpenAI's clients know it. */
static double finite(float logprob)
{
	return logprob > -9999 ? (double)logprob : -9999;
}

static bool put_chat(const struct server *s, struct buf *b, const struct moxie_token_prob *t)
{
	size_t n;
	const char *p = moxie_token_bytes(s->m, t->id, &n, NULL);
	bool ok = buf_puts(b, "{\"token\":") && put_token(s, b, t->id, false) &&
	          buf_printf(b, ",\"logprob\":%.7g,\"bytes\":[", finite(t->logprob));
	for (size_t i = 0; ok && i < n; i++)
		ok = buf_printf(b, i ? ",%d" : "%d", (unsigned char)p[i]);
	return ok && buf_puts(b, "]");
}

static bool add_chat(struct part *p, const struct moxie_token_prob *t, size_t n)
{
	const struct server *s = p->job->s;
	struct buf *b = &p->probs.tokens;
	bool ok = buf_puts(b, b->n ? "," : "") && put_chat(s, b, t) && buf_puts(b, ",\"top_logprobs\":[");
	for (size_t i = 1; ok && i < n; i++)
		ok = buf_puts(b, i > 1 ? "," : "") && put_chat(s, b, &t[i]) && buf_puts(b, "}");
	return ok && buf_puts(b, "]}");
}

static bool add_completion(struct part *p, const struct moxie_token_prob *t, size_t n)
{
	const struct server *s = p->job->s;
	struct prob_lists *l = &p->probs;
	const char *comma = l->tokens.n ? "," : "";
	bool ok = buf_puts(&l->tokens, comma) && put_token(s, &l->tokens, t->id, true) &&
	          buf_printf(&l->probs, "%s%.7g", comma, finite(t->logprob)) && buf_printf(&l->offsets, "%s%zu", comma, l->n_char) &&
	          buf_printf(&l->tops, "%s{", comma);
	for (size_t i = 1; ok && i < n; i++)
		ok = buf_puts(&l->tops, i > 1 ? "," : "") && put_token(s, &l->tops, t[i].id, true) &&
		     buf_printf(&l->tops, ":%.7g", finite(t[i].logprob));
	size_t n_byte;
	const char *text = moxie_token_bytes(s->m, t->id, &n_byte, NULL);
	for (size_t i = 0; i < n_byte; i++)
		l->n_char += ((unsigned char)text[i] & 0xc0) != 0x80;
	return ok && buf_puts(&l->tops, "}");
}

static bool add_first_completion(struct part *p, int32_t id)
{
	const struct server *s = p->job->s;
	struct prob_lists *l = &p->probs;
	size_t n_byte;
	const char *text = moxie_token_bytes(s->m, id, &n_byte, NULL);
	bool ok = put_token(s, &l->tokens, id, true) && buf_puts(&l->probs, "null") && buf_puts(&l->offsets, "0") && buf_puts(&l->tops, "null");
	for (size_t i = 0; i < n_byte; i++)
		l->n_char += ((unsigned char)text[i] & 0xc0) != 0x80;
	return ok;
}

static bool put_native(const struct part *p, struct buf *b, const struct moxie_token_prob *t)
{
	return buf_printf(b, "[%.7g,%d,", finite(t->logprob), t->id) &&
	       (p->job->probs_text ? put_token(p->job->s, b, t->id, false) : buf_puts(b, "null")) && buf_puts(b, "]");
}

static bool add_native(const struct part *p, struct prob_lists *l, const struct moxie_token_prob *t, size_t n)
{
	const char *comma = l->probs.n ? "," : "";
	bool ok = buf_puts(&l->probs, comma) && put_native(p, &l->probs, t) && buf_printf(&l->tops, "%s[", comma);
	for (size_t i = 1; ok && i < n; i++)
		ok = buf_puts(&l->tops, i > 1 ? "," : "") && put_native(p, &l->tops, &t[i]);
	return ok && buf_puts(&l->tops, "]");
}

bool probs_add_first(struct part *p, int32_t id)
{
	struct prob_lists *l = &p->prompt_probs;
	if (p->job->kind != JOB_GENERATE)
		return add_first_completion(p, id);
	return buf_printf(&l->probs, "[null,%d,", id) && (p->job->probs_text ? put_token(p->job->s, &l->probs, id, false) : buf_puts(&l->probs, "null")) &&
	       buf_puts(&l->probs, "]") && buf_puts(&l->tops, "null");
}

bool probs_add(struct part *p, const struct item *it)
{
	const struct job *j = p->job;
	const struct moxie_token_prob *t = (const void *)(p->out.probs.p + it->probs_at);
	int special;
	size_t n;
	moxie_token_bytes(j->s->m, t->id, &n, &special);
	if (j->kind == JOB_GENERATE)
		return add_native(p, it->kind == IT_PROMPT ? &p->prompt_probs : &p->probs, t, it->n_probs);
	if (it->kind == IT_PROMPT)
		return add_completion(p, t, it->n_probs);
	if (!it->in_text || special) /* the lists go with the text */
		return true;
	return j->kind == JOB_CHAT ? add_chat(p, t, it->n_probs) : add_completion(p, t, it->n_probs);
}

static const char *text_of(const struct buf *b)
{
	return b->n ? b->p : "";
}

void probs_put(struct part *p, struct buf *b)
{
	struct prob_lists *l = &p->probs;
	if (!p->job->gen.logprobs || (p->job->stream && !l->tokens.n)) {
		buf_puts(b, ",\"logprobs\":null");
		return;
	}
	if (p->job->kind == JOB_CHAT) {
		buf_puts(b, ",\"logprobs\":{\"content\":[");
		buf_puts(b, text_of(&l->tokens));
		buf_puts(b, "]}");
	} else {
		const struct { const char *name; const struct buf *list; } lists[] = {
			{ ",\"logprobs\":{\"tokens\":[", &l->tokens }, { "],\"token_logprobs\":[", &l->probs },
			{ "],\"top_logprobs\":[", &l->tops }, { "],\"text_offset\":[", &l->offsets },
		};
		for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
			buf_puts(b, lists[i].name);
			buf_puts(b, text_of(lists[i].list));
		}
		buf_puts(b, "]}");
	}
	if (p->job->stream)
		l->tokens.n = l->probs.n = l->tops.n = l->offsets.n = 0;
}

void probs_put_native(const struct part *p, struct buf *b)
{
	if (!p->job->gen.logprobs)
		return;
	buf_puts(b, ",\"input_token_logprobs\":[");
	buf_puts(b, text_of(&p->prompt_probs.probs));
	buf_puts(b, "],\"output_token_logprobs\":[");
	buf_puts(b, text_of(&p->probs.probs));
	buf_puts(b, "]");
	if (!p->job->gen.n_top)
		return;
	buf_puts(b, ",\"input_top_logprobs\":[");
	buf_puts(b, text_of(&p->prompt_probs.tops));
	buf_puts(b, "],\"output_top_logprobs\":[");
	buf_puts(b, text_of(&p->probs.tops));
	buf_puts(b, "]");
}

void probs_free(struct part *p)
{
	buf_free(&p->probs.tokens);
	buf_free(&p->probs.probs);
	buf_free(&p->probs.tops);
	buf_free(&p->probs.offsets);
	buf_free(&p->prompt_probs.probs);
	buf_free(&p->prompt_probs.tops);
}
