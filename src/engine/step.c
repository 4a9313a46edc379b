/* step.c - one step of the engine: sessions' tokens become a batch, the batch goes through the model. */
#include <string.h>

#include "engine/engine.h"

/* What one step takes from the arena, in order; a dry arena counts it. */
struct step_mem {
	int32_t *tok, *pos, *seq, *out_row, *full, *ring;
	struct span *span;
	float *logits;
};

static bool step_take(struct step_mem *s, struct arena *ws, int n_tok, int n_seq, int n_page, int ring_pages, int n_vocab)
{
	size_t t = (size_t)n_tok, q = (size_t)n_seq;
	s->tok = arena_take(ws, t, sizeof *s->tok);
	s->pos = arena_take(ws, t, sizeof *s->pos);
	s->seq = arena_take(ws, t, sizeof *s->seq);
	s->out_row = arena_take(ws, q, sizeof *s->out_row);
	s->span = arena_take(ws, q, sizeof *s->span);
	s->full = arena_take(ws, q * (size_t)n_page, sizeof *s->full);
	s->ring = arena_take(ws, q * (size_t)ring_pages, sizeof *s->ring);
	s->logits = arena_take(ws, q * (size_t)n_vocab, sizeof *s->logits);
	return s->tok && s->pos && s->seq && s->out_row && s->span && s->full && s->ring && s->logits;
}

size_t engine_step_bytes(struct moxie_model *m, int n_tok, int n_seq, int n_page, struct moxie_err *err)
{
	struct arena dry = { .cap = SIZE_MAX };
	struct step_mem unused;
	struct batch b = { .n_tok = n_tok, .n_seq = n_seq, .n_out = n_seq };
	step_take(&unused, &dry, n_tok, n_seq, n_page, m->kv.plan.ring_pages, m->config.n_vocab);
	m->ops->forward(m->model, m->kern, &(struct forward_args){ .batch = &b, .ws = &dry }, err);
	return dry.top;
}

int engine_step(struct moxie_model *m, const struct part *part, int n_part, struct moxie_err *err)
{
	struct arena *ws = &m->ws;
	int n_tok = 0, n_page = 1, n_out = 0, ring_pages = m->kv.plan.ring_pages;
	for (int i = 0; i < n_part; i++) {
		n_tok += part[i].n_row;
		int used = (int)((part[i].s->tok.n + (size_t)part[i].n_row + KV_PAGE - 1) / KV_PAGE);
		n_page = used > n_page ? used : n_page;
	}
	struct step_mem mem;
	ws->n = 0;
	if (!step_take(&mem, ws, n_tok, n_part, n_page, ring_pages, m->config.n_vocab))
		return err_set(err, MOXIE_E_NOMEM, "the step arena of %zu bytes is too small for %d tokens of %d sequences", ws->cap, n_tok, n_part);

	int row = 0;
	for (int i = 0; i < n_part; i++) {
		struct moxie_session *s = part[i].s;
		int pos0 = (int)s->tok.n, n_row = part[i].n_row;
		mem.span[i] = (struct span){ .row0 = row, .n_row = n_row, .pos0 = pos0 };
		for (int r = 0; r < n_row; r++, row++) {
			mem.tok[row] = part[i].ids[r];
			mem.pos[row] = pos0 + r;
			mem.seq[row] = i;
		}
		int n_copy = s->n_page < n_page ? s->n_page : n_page;
		memcpy(mem.full + (size_t)i * (size_t)n_page, s->page, (size_t)n_copy * sizeof *s->page);
		memset(mem.full + (size_t)i * (size_t)n_page + n_copy, 0, (size_t)(n_page - n_copy) * sizeof *s->page);
		memcpy(mem.ring + (size_t)i * (size_t)ring_pages, s->ring, (size_t)ring_pages * sizeof *s->ring);
		if (part[i].want_logits)
			mem.out_row[n_out++] = row - 1;
		/* Written even if the step is cancelled: ring slots behind the window may be gone. */
		if (s->n_high < (size_t)(pos0 + n_row))
			s->n_high = (size_t)(pos0 + n_row);
	}
	kv_views(&m->kv, &m->config, mem.full, n_page, mem.ring, m->view);
	struct batch b = { .n_tok = n_tok, .n_seq = n_part, .n_out = n_out, .tok = mem.tok, .pos = mem.pos, .seq = mem.seq,
		.span = mem.span, .span_dev = mem.span, .out_row = mem.out_row };
	struct forward_args a = { .batch = &b, .kv = m->view, .logits = mem.logits, .ws = ws, .cancel = n_part == 1 ? &part[0].s->cancel : NULL };
	int rc = m->ops->forward(m->model, m->kern, &a, err);
	if (rc < 0)
		return rc;

	const float *l = mem.logits;
	for (int i = 0; i < n_part; i++) {
		struct moxie_session *s = part[i].s;
		memcpy(s->tok.v + s->tok.n, part[i].ids, (size_t)part[i].n_row * sizeof *s->tok.v); /* room was made by session_create */
		s->tok.n += (size_t)part[i].n_row;
		s->has_logits = part[i].want_logits;
		if (part[i].want_logits) {
			memcpy(s->logits, l, (size_t)m->config.n_vocab * sizeof *l);
			l += m->config.n_vocab;
		}
	}
	return 0;
}
