#include "engine/guide.h"

#include <stdlib.h>
#include <string.h>

enum body { BODY_ANALYSIS, BODY_PREAMBLE, BODY_TEXT, BODY_JSON, BODY_CALL };

struct header { /* of a message that may come */
	struct ids ids;
	enum body body;
	size_t tool;              /* BODY_CALL */
	bool first, later;        /* may begin the answer; may follow another message */
};

struct moxie_guide {
	const moxie_model *m;
	const struct token_trie *trie;
	bool raw;
	struct grammar *json;     /* of the final text, JSON or what a pattern matches; NULL: free */
	struct grammar **args;    /* [n_tool] */
	size_t n_tool;
	struct header *header;    /* [n_header]; none: raw */
	size_t n_header;
	struct ids again;         /* "<|start|>assistant", before every header but the first */
	uint32_t *text;           /* one bit a token: those of free text */
	int32_t end, ret, call;
};

struct guide_run {
	const moxie_guide *g;
	bool first, over;
	const struct header *in;  /* the message under way, or NULL: a header is */
	size_t n_read;            /* tokens of the header so far, again's included */
	bool *alive;              /* [n_header] headers that it may still be */
	struct grammar_run *json; /* of the body, or NULL: it is free */
	uint32_t *allow;
};

/* ---- compiling --------------------------------------------------------------------------------------------------------- */

static void set_bit(uint32_t *bits, int32_t id)
{
	bits[id / 32] |= 1u << id % 32;
}

static size_t n_word(const moxie_model *m)
{
	return (size_t)m->config.n_vocab / 32 + 1;
}

/* Made at first use, once for a model; who comes second throws its own away. */
static const struct token_trie *trie_of(moxie_model *m, struct moxie_err *err)
{
	struct token_trie *t = atomic_load(&m->trie), *none = NULL;
	if (t || token_trie_create(&t, m->tokenizer, m->config.n_vocab, err) < 0)
		return t;
	if (atomic_compare_exchange_strong(&m->trie, &none, t))
		return t;
	token_trie_free(t);
	return none;
}

static int add_header(moxie_guide *g, struct header h, const char *text, struct moxie_err *err)
{
	struct header *p = realloc(g->header, (g->n_header + 1) * sizeof *p);
	if (!p)
		return err_nomem(err, sizeof *p, "headers");
	g->header = p;
	p[g->n_header++] = h;
	return tokenizer_encode(g->m->tokenizer, text, strlen(text), true, &p[g->n_header - 1].ids, err);
}

/* The spellings that models of this family have for a call. */
static int add_call(moxie_guide *g, size_t tool, const char *name, struct moxie_err *err)
{
	static const char *const spelling[][2] = {
		{ "<|channel|>commentary to=functions.", " <|constrain|>json<|message|>" },
		{ " to=functions.", "<|channel|>commentary <|constrain|>json<|message|>" },
		{ " to=functions.", "<|channel|>commentary json<|message|>" },
	};
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < sizeof spelling / sizeof *spelling; i++) {
		struct buf b = { 0 };
		bool ok = buf_puts(&b, spelling[i][0]) && buf_puts(&b, name) && buf_puts(&b, spelling[i][1]);
		struct header h = { .body = BODY_CALL, .tool = tool, .first = true, .later = true };
		rc = ok ? add_header(g, h, b.p, err) : err_nomem(err, b.cap, "a header");
		buf_free(&b);
	}
	return rc;
}

static int add_headers(moxie_guide *g, const struct moxie_guide_params *p, struct moxie_err *err)
{
	int rc = tokenizer_encode(g->m->tokenizer, "<|start|>assistant", 18, true, &g->again, err);
	if (rc == 0)
		rc = add_header(g, (struct header){ .body = BODY_ANALYSIS, .first = true }, "<|channel|>analysis<|message|>", err);
	if (rc == 0 && p->n_tool && !p->must_call)
		rc = add_header(g, (struct header){ .body = BODY_PREAMBLE, .first = true, .later = true }, "<|channel|>commentary<|message|>", err);
	struct header final = { .body = g->json ? BODY_JSON : BODY_TEXT, .first = true, .later = true };
	if (rc == 0 && !p->must_call)
		rc = add_header(g, final, "<|channel|>final<|message|>", err);
	if (rc == 0 && !p->must_call && p->json)
		rc = add_header(g, final, "<|channel|>final <|constrain|>json<|message|>", err);
	for (size_t i = 0; rc == 0 && i < p->n_tool; i++) {
		const char *name = p->tools[i].name;
		if (!*name || strpbrk(name, "< \t\r\n")) /* it stands in a header, where "<|end|>" would be read */
			rc = err_set(err, MOXIE_E_ARG, "the name of tool %zu is not one word", i);
		else
			rc = add_call(g, i, name, err);
	}
	return rc;
}

/* The arguments of a call: by the tool's schema.  One that is not strict and cannot be held to gets any JSON object. */
static int compile_args(struct grammar **out, const struct moxie_tool *t, struct moxie_err *err)
{
	static const char nothing[] = "{\"type\":\"object\",\"additionalProperties\":false}";
	const char *schema = t->parameters ? t->parameters : nothing;
	int rc = grammar_compile(out, schema, strlen(schema), err);
	if (rc < 0 && rc != MOXIE_E_NOMEM && !t->strict)
		rc = grammar_compile(out, NULL, 0, err);
	if (rc < 0)
		err_prefix(err, "the tool \"%.100s\"", t->name);
	return rc;
}

static int compile(moxie_guide *g, const struct moxie_guide_params *p, struct moxie_err *err)
{
	const moxie_model *m = g->m;
	int rc = p->json ? grammar_compile(&g->json, p->schema, p->schema ? strlen(p->schema) : 0, err)
	       : p->regex ? grammar_compile_regex(&g->json, p->regex, strlen(p->regex), err) : 0;
	if (rc < 0)
		return rc;
	if (!(g->text = calloc(n_word(m), sizeof *g->text)) || !(g->args = calloc(p->n_tool + 1, sizeof *g->args)))
		return err_nomem(err, n_word(m) * sizeof *g->text, "a guide");
	for (int32_t id = 0; id < m->config.n_vocab && id < tokenizer_n_vocab(m->tokenizer); id++) {
		size_t n;
		tokenizer_bytes(m->tokenizer, id, &n);
		if (n && !tokenizer_is_special(m->tokenizer, id))
			set_bit(g->text, id);
	}
	if (g->raw)
		return 0;
	static const char *const mark[] = { "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|return|>", "<|call|>" };
	for (size_t i = 0; i < sizeof mark / sizeof *mark; i++)
		if (tokenizer_special(m->tokenizer, mark[i]) < 0 || tokenizer_special(m->tokenizer, mark[i]) >= m->config.n_vocab)
			return err_set(err, MOXIE_E_UNSUPPORTED, "this model's vocabulary has no %s", mark[i]);
	g->end = tokenizer_special(m->tokenizer, "<|end|>");
	g->ret = tokenizer_special(m->tokenizer, "<|return|>");
	g->call = tokenizer_special(m->tokenizer, "<|call|>");
	for (; rc == 0 && g->n_tool < p->n_tool; g->n_tool += rc == 0)
		rc = compile_args(&g->args[g->n_tool], &p->tools[g->n_tool], err);
	return rc < 0 ? rc : add_headers(g, p, err);
}

MOXIE_API int moxie_guide_create(moxie_guide **out, moxie_model *m, const struct moxie_guide_params *p, struct moxie_err *err)
{
	*out = NULL;
	if (p->struct_size != sizeof *p)
		return err_set(err, MOXIE_E_ARG, "struct_size of the guide parameters is %zu, wanted %zu", p->struct_size, sizeof *p);
	if (p->raw ? p->n_tool || !(p->json || p->regex) : p->must_call && !p->n_tool)
		return err_set(err, MOXIE_E_ARG, p->raw ? "a raw answer can be guided to JSON or a pattern alone" : "a call is wanted, but of no tool");
	if (p->json && p->regex)
		return err_set(err, MOXIE_E_ARG, "the answer is to be JSON and to match a pattern");
	if (!m->tokenizer)
		return err_set(err, MOXIE_E_UNSUPPORTED, "this model has no tokenizer.json: it takes token ids only");
	moxie_guide *g = calloc(1, sizeof *g);
	if (!g)
		return err_nomem(err, sizeof *g, "a guide");
	g->m = m;
	g->raw = p->raw;
	g->trie = trie_of(m, err);
	int rc = g->trie ? compile(g, p, err) : MOXIE_E_NOMEM;
	if (rc < 0)
		moxie_guide_free(g);
	else
		*out = g;
	return rc;
}

MOXIE_API void moxie_guide_free(moxie_guide *g)
{
	if (!g)
		return;
	for (size_t i = 0; g->args && i < g->n_tool; i++)
		grammar_free(g->args[i]);
	for (size_t i = 0; i < g->n_header; i++)
		ids_free(&g->header[i].ids);
	grammar_free(g->json);
	ids_free(&g->again);
	free(g->header);
	free(g->args);
	free(g->text);
	free(g);
}

/* ---- following an answer ------------------------------------------------------------------------------------------------- */

static void begin_header(struct guide_run *r, bool first)
{
	const moxie_guide *g = r->g;
	r->in = NULL;
	r->first = first;
	r->n_read = 0;
	for (size_t i = 0; i < g->n_header; i++)
		r->alive[i] = first ? g->header[i].first : g->header[i].later;
}

int guide_run_create(struct guide_run **out, const moxie_guide *g, struct moxie_err *err)
{
	*out = NULL;
	struct guide_run *r = calloc(1, sizeof *r);
	int rc = 0;
	if (!r || !(r->allow = calloc(n_word(g->m), sizeof *r->allow)) || !(r->alive = calloc(g->n_header + 1, sizeof *r->alive)))
		rc = err_nomem(err, n_word(g->m) * sizeof *r->allow, "a guide's run");
	if (rc == 0) {
		r->g = g;
		begin_header(r, true);
		if (g->raw)
			rc = grammar_run_create(&r->json, g->json, g->trie, err);
	}
	if (rc < 0)
		guide_run_free(r);
	else
		*out = r;
	return rc;
}

void guide_run_free(struct guide_run *r)
{
	if (!r)
		return;
	grammar_run_free(r->json);
	free(r->allow);
	free(r->alive);
	free(r);
}

bool guide_run_over(const struct guide_run *r)
{
	return r->over;
}

/* The n_read-th token of header h as it stands in the answer, -1: past its end. */
static int32_t header_token(const struct guide_run *r, const struct header *h)
{
	const struct ids *again = &r->g->again;
	size_t n_again = r->first ? 0 : again->n;
	if (r->n_read < n_again)
		return again->v[r->n_read];
	return r->n_read - n_again < h->ids.n ? h->ids.v[r->n_read - n_again] : -1;
}

/* What ends the body under way; -1: a raw answer, which any end token ends. */
static int32_t end_of_body(const struct guide_run *r)
{
	if (!r->in)
		return -1;
	switch (r->in->body) {
	case BODY_ANALYSIS:
	case BODY_PREAMBLE:
		return r->g->end;
	case BODY_CALL:
		return r->g->call;
	default:
		return r->g->ret;
	}
}

const uint32_t *guide_run_allow(struct guide_run *r)
{
	const moxie_guide *g = r->g;
	int n_vocab = g->m->config.n_vocab;
	memset(r->allow, 0, n_word(g->m) * sizeof *r->allow);
	if (r->over)
		return r->allow;
	if (!r->in && !r->json) {
		for (size_t i = 0; i < g->n_header; i++)
			if (r->alive[i] && header_token(r, &g->header[i]) >= 0)
				set_bit(r->allow, header_token(r, &g->header[i]));
		return r->allow;
	}
	if (r->json)
		grammar_mask(r->json, r->allow);
	else
		memcpy(r->allow, g->text, n_word(g->m) * sizeof *r->allow);
	int32_t end = end_of_body(r);
	if (r->json && !grammar_done(r->json))
		return r->allow;
	if (end >= 0)
		set_bit(r->allow, end);
	for (int32_t id = 0; end < 0 && id < n_vocab; id++)
		if (moxie_is_eos(g->m, id))
			set_bit(r->allow, id);
	return r->allow;
}

/* A header is whole: its body begins. */
static bool begin_body(struct guide_run *r, const struct header *h)
{
	const struct grammar *json = h->body == BODY_JSON ? r->g->json : h->body == BODY_CALL ? r->g->args[h->tool] : NULL;
	r->in = h;
	grammar_run_free(r->json);
	r->json = NULL;
	return !json || grammar_run_create(&r->json, json, r->g->trie, NULL) == 0;
}

static bool take_header(struct guide_run *r, int32_t id)
{
	const moxie_guide *g = r->g;
	const struct header *whole = NULL;
	bool any = false;
	for (size_t i = 0; i < g->n_header; i++) {
		r->alive[i] = r->alive[i] && header_token(r, &g->header[i]) == id;
		any |= r->alive[i];
	}
	r->n_read++;
	for (size_t i = 0; i < g->n_header; i++)
		if (r->alive[i] && header_token(r, &g->header[i]) < 0)
			whole = &g->header[i];
	return any && (!whole || begin_body(r, whole));
}

bool guide_run_take(struct guide_run *r, int32_t id)
{
	const moxie_guide *g = r->g;
	size_t n;
	if (r->over)
		return false;
	if (!r->in && !r->json)
		return take_header(r, id);
	int32_t end = end_of_body(r);
	bool ends = end >= 0 ? id == end : moxie_is_eos(g->m, id);
	if (!ends) {
		const char *p = tokenizer_bytes(g->m->tokenizer, id, &n);
		return !r->json || (n && n <= TRIE_MAX_BYTES && grammar_push(r->json, p, n));
	}
	if (r->json && !grammar_done(r->json))
		return false;
	if (r->in && (r->in->body == BODY_ANALYSIS || r->in->body == BODY_PREAMBLE))
		begin_header(r, false);
	else
		r->over = true;
	return true;
}
