/* step.c - one step of the engine: sessions' tokens become a batch, the batch goes through the model.
 *
 * A backend with memory of its own has two arenas: `ws` there, `in` here.  ws begins with the last step's picks; what ops read of the
 * batch follows and lies in `in` as well, so it goes over at once.  Logits stay in ws until someone asks for them; the next step's begin saves
 * what its own rows would overwrite.
 *
 * Where sessions expect it (moxie_session_expect) a device is given the step after this one before the host waits for this one's picks,
 * which are then its tokens: the device never waits for the host.  If the caller comes back with these tokens and the same sessions, or
 * some of them, that step is taken over as it is; else it is forgotten.  It wrote nothing but rows of the cache behind the timelines' ends, and whoever is
 * given such a page later writes it later.
 */
#include <string.h>

#include "engine/engine.h"

/* What ops read of a batch, and what a step leaves behind. */
struct step_mem {
	int32_t *best;      /* [n_seq of the model] ws only, at the same place in every step */
	int32_t *tok, *pos, *seq, *out_row, *full, *ring;
	struct span *span;
	struct sample_row *row; /* [n_out] of wanted logits */
	int32_t *n_real;    /* rows before the padding */
	size_t n_in;        /* bytes from tok to the end of n_real */
	float *logits;      /* [n_out, n_vocab] */
};

static bool step_take(struct step_mem *s, struct arena *a, int n_tok, int n_seq, int n_out, int n_page, int ring_pages)
{
	size_t t = (size_t)n_tok, q = (size_t)n_seq, o = (size_t)n_out, begin = a->n;
	s->tok = arena_take(a, t, sizeof *s->tok);
	s->pos = arena_take(a, t, sizeof *s->pos);
	s->seq = arena_take(a, t, sizeof *s->seq);
	s->out_row = arena_take(a, o, sizeof *s->out_row);
	s->span = arena_take(a, q, sizeof *s->span);
	s->full = arena_take(a, q * (size_t)n_page, sizeof *s->full);
	s->ring = arena_take(a, q * (size_t)ring_pages, sizeof *s->ring);
	s->row = arena_take(a, o, sizeof *s->row);
	s->n_real = arena_take(a, 1, sizeof *s->n_real);
	s->n_in = a->n - begin;
	return s->n_real && s->row && s->tok && s->pos && s->seq && s->out_row && s->span && s->full && s->ring;
}

/* What lies in ws at the same place in every step. */
static bool step_take_fixed(struct moxie_model *m, struct step_mem *s, struct arena *a, int n_seq)
{
	size_t q = (size_t)n_seq;
	s->best = arena_take(a, q, sizeof *s->best);
	if (!m->kern->sample_history)
		return s->best != NULL;
	m->hist = arena_take(a, q * (size_t)m->config.n_vocab, sizeof *m->hist);
	m->hist_bias = arena_take(a, q * SAMPLE_BIAS_MAX, sizeof *m->hist_bias);
	m->hist_tok = arena_take(a, (size_t)m->config.n_ctx, sizeof *m->hist_tok);
	return s->best && m->hist && m->hist_bias && m->hist_tok;
}

static bool step_take_out(struct step_mem *s, struct arena *a, int n_out, int n_vocab)
{
	return (s->logits = arena_take(a, (size_t)n_out * (size_t)n_vocab, sizeof *s->logits)) != NULL;
}

size_t engine_step_bytes(struct moxie_model *m, int n_tok, int n_seq, int n_page, size_t *n_in, struct moxie_err *err)
{
	struct arena dry = { .cap = SIZE_MAX };
	struct step_mem mem;
	struct batch b = { .n_tok = n_tok, .n_seq = n_seq, .n_out = n_seq };
	step_take_fixed(m, &mem, &dry, n_seq);
	step_take(&mem, &dry, n_tok, n_seq, n_seq, n_page, m->kv.plan.ring_pages);
	step_take_out(&mem, &dry, n_seq, m->config.n_vocab);
	m->ops->forward(m->model, m->kern, &(struct forward_args){ .batch = &b, .ws = &dry }, err);
	if (n_in)
		*n_in = mem.n_in;
	return dry.top;
}

/* ---- logits of the last step -------------------------------------------------------------------------------------------- */

static void copy_out(struct moxie_model *m, void *to, const void *from, size_t n)
{
	if (m->kern->dev)
		m->kern->dev->fetch(m->kern, to, from, n);
	else
		memcpy(to, from, n);
}

/* Every session that still has its logits in the arena takes them home, except those of part. */
static int save_logits(struct moxie_model *m, const struct part *part, int n_part, struct moxie_err *err)
{
	int n = 0;
	for (int i = 0; i < n_part; i++)
		if (part[i].s->in_arena) {
			m->kept[part[i].s->logit_row] = NULL;
			part[i].s->in_arena = part[i].s->has_logits = false;
		}
	for (int i = 0; i < m->n_kept; i++)
		if (m->kept[i]) {
			copy_out(m, m->kept[i]->logits, m->logits + (size_t)i * (size_t)m->config.n_vocab, (size_t)m->config.n_vocab * sizeof *m->logits);
			m->kept[i]->in_arena = false;
			n++;
		}
	m->n_kept = 0;
	return n && m->kern->dev ? m->kern->sync(m->kern, err) : 0;
}

int session_fetch_logits(moxie_session *s, struct moxie_err *err)
{
	struct moxie_model *m = s->m;
	int rc = 0;
	pthread_mutex_lock(&m->lock);
	if (s->in_arena) {
		copy_out(m, s->logits, m->logits + (size_t)s->logit_row * (size_t)m->config.n_vocab, (size_t)m->config.n_vocab * sizeof *s->logits);
		rc = m->kern->dev ? m->kern->sync(m->kern, err) : 0;
		m->kept[s->logit_row] = NULL;
		s->in_arena = false;
		s->has_logits = rc == 0;
	}
	pthread_mutex_unlock(&m->lock);
	return rc;
}

int engine_row(struct moxie_model *m, int row, float *to, struct moxie_err *err)
{
	size_t n_vocab = (size_t)m->config.n_vocab;
	pthread_mutex_lock(&m->lock);
	copy_out(m, to, m->logits + (size_t)row * n_vocab, n_vocab * sizeof *to);
	int rc = m->kern->dev ? m->kern->sync(m->kern, err) : 0;
	pthread_mutex_unlock(&m->lock);
	return rc;
}

void session_drop_logits_locked(moxie_session *s)
{
	if (s->in_arena)
		s->m->kept[s->logit_row] = NULL;
	s->in_arena = s->has_logits = s->has_best = false;
}

void session_drop_logits(moxie_session *s)
{
	pthread_mutex_lock(&s->m->lock);
	session_drop_logits_locked(s);
	pthread_mutex_unlock(&s->m->lock);
}

/* ---- the step ------------------------------------------------------------------------------------------------------------ */

static int n_wanted(const struct part *p)
{
	return p->want_logits ? 1 + p->n_before : 0;
}

/* Rows, spans and page lists of part into mem, which the host can write; ahead: of the tokens that the step under way picks.  Returns
 * the number of rows whose logits are wanted. */
static int fill(struct moxie_model *m, const struct step_mem *mem, const struct part *part, int n_part, int n_page, bool ahead)
{
	int row = 0, n_out = 0, ring_pages = m->kv.plan.ring_pages;
	for (int i = 0; i < n_part; i++) {
		struct moxie_session *s = part[i].s;
		int pos0 = (int)s->tok.n + ahead, n_row = part[i].n_row;
		mem->span[i] = (struct span){ .row0 = row, .n_row = n_row, .pos0 = pos0 };
		for (int r = 0; r < n_row; r++, row++) {
			mem->tok[row] = ahead ? -1 - s->row : part[i].ids[r];
			mem->pos[row] = pos0 + r;
			mem->seq[row] = i;
		}
		int n_copy = s->n_page < n_page ? s->n_page : n_page;
		memcpy(mem->full + (size_t)i * (size_t)n_page, s->page, (size_t)n_copy * sizeof *s->page);
		memset(mem->full + (size_t)i * (size_t)n_page + n_copy, 0, (size_t)(n_page - n_copy) * sizeof *s->page);
		for (int j = 0; j < ring_pages; j++) /* where none is nobody reads */
			mem->ring[(size_t)i * (size_t)ring_pages + (size_t)j] = s->ring[j] < 0 ? 0 : s->ring[j];
		for (int r = part[i].n_before; r > 0; r--) {
			mem->row[n_out] = (struct sample_row){ .n_top = -1, .hist = -1 };
			mem->out_row[n_out++] = row - 1 - r;
		}
		if (part[i].want_logits) {
			struct sample_row *pick = ahead ? &s->ahead_pick : &s->pick;
			bool can_pick = picks_row(m, &part[i], ahead, pick);
			if (!ahead)
				s->can_pick = can_pick;
			mem->row[n_out] = *pick;
			mem->out_row[n_out++] = row - 1;
		}
		/* Written even if the step is cancelled: ring slots behind the window may be gone. */
		if (s->n_high < (size_t)(pos0 + n_row))
			s->n_high = (size_t)(pos0 + n_row);
	}
	return n_out;
}

/* Rows n .. n_run - 1: they claim no expert, and their keys and values are positions 0, 1, ... of a page that is nobody's. */
static void fill_padding(struct moxie_model *m, const struct step_mem *mem, int n, int n_run, int n_page)
{
	int ring_pages = m->kv.plan.ring_pages;
	*mem->n_real = n;
	for (int i = n; i < n_run; i++) {
		int pos = (i - n) % KV_PAGE;
		mem->span[i] = (struct span){ .row0 = i, .n_row = 1, .pos0 = pos };
		mem->tok[i] = 0;
		mem->pos[i] = pos;
		mem->seq[i] = mem->out_row[i] = i;
		mem->row[i] = (struct sample_row){ .n_top = -1, .hist = -1 };
		for (int j = 0; j < n_page; j++)
			mem->full[(size_t)i * (size_t)n_page + (size_t)j] = m->kv.full.n_page;
		for (int j = 0; j < ring_pages; j++)
			mem->ring[(size_t)i * (size_t)ring_pages + (size_t)j] = m->kv.ring.n_page;
	}
}

/* Rows of the recorded step that serves part: one of each session, whose logits are wanted, and padding; 0: none does. */
static int recorded_rows(const struct moxie_model *m, const struct part *part, int n_part)
{
	if (!m->kern->dev || !m->kern->dev->replay || n_part > m->graph_most || m->n_layer_run)
		return 0;
	for (int i = 0; i < n_part; i++)
		if (part[i].n_row != 1 || !part[i].want_logits || part[i].n_before)
			return 0;
	return ladder_rows(n_part, m->graph_most);
}

/* The model over b, with the token picked from each wanted row (drawn: not greedily alone). */
static int enqueue(struct moxie_model *m, const struct batch *b, const struct step_mem *mem, bool drawn, atomic_int *cancel, struct moxie_err *err)
{
	struct kern *k = m->kern;
	struct forward_args a = { .batch = b, .kv = m->view, .logits = mem->logits, .ws = &m->ws, .n_layer = m->n_layer_run, .cancel = cancel };
	if (k->dev)
		k->dev->take_in(k, mem->tok, mem->n_in, b->n_tok, mem->best);
	int rc = m->ops->forward(m->model, k, &a, err);
	if (rc == 0 && k->sample && b->n_out)
		k->sample(k, &(struct sample_args){ .id = mem->best, .logits = mem->logits, .row = drawn ? mem->row : NULL, .n_row = b->n_out,
			.n_vocab = m->config.n_vocab, .hist = drawn ? m->hist : NULL, .bias = m->hist_bias });
	if (k->dev)
		k->dev->give_out(k, mem->best, k->sample && rc == 0 ? b->n_out : 0);
	return rc;
}

/* Pages for the rows of part, inputs, all ops; nothing of it is waited for.  *logits: where those of wanted rows will lie. */
static int start(struct moxie_model *m, const struct part *part, int n_part, bool ahead, const float **logits, struct moxie_err *err)
{
	struct kern *k = m->kern;
	struct arena *ws = &m->ws;
	int n_run = recorded_rows(m, part, n_part), n_pad = n_run ? n_run - n_part : 0;
	int n_tok = n_pad, n_want = n_pad, n_seq = n_part + n_pad, n_page = 1, ring_pages = m->kv.plan.ring_pages;
	for (int i = 0; i < n_part; i++) {
		n_tok += part[i].n_row;
		n_want += n_wanted(&part[i]);
		int used = (int)((part[i].s->tok.n + ahead + (size_t)part[i].n_row + KV_PAGE - 1) / KV_PAGE);
		n_page = used > n_page ? used : n_page;
	}
	n_page = k->dev ? ladder_pages(m, n_run, n_page) : n_page;
	struct step_mem mem, host;
	ws->n = m->in.n = 0;
	if (!step_take_fixed(m, &mem, ws, m->n_seq) || !step_take(&mem, ws, n_tok, n_seq, n_want, n_page, ring_pages) ||
	    !step_take_out(&mem, ws, n_want, m->config.n_vocab) || (k->dev && !step_take(&host, &m->in, n_tok, n_seq, n_want, n_page, ring_pages)))
		return err_set(err, MOXIE_E_NOMEM, "the step arena of %zu bytes is too small for %d tokens of %d sequences", ws->cap, n_tok, n_seq);
	for (int i = 0; i < n_part; i++) {
		struct kv_lack lack;
		size_t n = part[i].s->tok.n + ahead;
		if (!session_grow(part[i].s, n + (size_t)part[i].n_row, &lack))
			return err_set(err, MOXIE_E_KV_FULL, "%d tokens after %zu need %d more pages of %d in the KV cache, and %d of %d for sliding layers",
			               part[i].n_row, n, lack.full, m->kv.full.n_page, lack.ring, m->kv.ring.n_page);
		int rc = picks_ready(m, &part[i], ahead, err);
		if (rc < 0)
			return rc;
	}
	k->rows = part[0].rows;
	if (!k->dev)
		host = mem;
	int n_out = fill(m, &host, part, n_part, n_page, ahead);
	if (n_run)
		fill_padding(m, &host, n_part, n_run, n_page);
	int rc = k->dev ? k->dev->stage(k, m->in.base, mem.n_in, err) : 0;
	if (rc < 0)
		return rc;
	kv_views(&m->kv, &m->config, mem.full, n_page, mem.ring, m->view);
	struct batch b = { .n_tok = n_tok, .n_seq = n_seq, .n_out = n_want, .tok = mem.tok, .pos = mem.pos, .seq = mem.seq,
		.span = host.span, .span_dev = mem.span, .out_row = mem.out_row, .n_real = n_run && ladder_pads(n_run, m->graph_most) ? mem.n_real : NULL };
	bool drawn = false;
	for (int i = 0; i < n_out; i++)
		drawn |= host.row[i].temperature > 0 || host.row[i].hist >= 0;
	*logits = mem.logits;
	if (n_run && k->dev->replay(k, &(struct step_shape){ n_run, n_page, drawn }))
		return 0;
	rc = enqueue(m, &b, &mem, drawn, n_part == 1 ? &part[0].s->cancel : NULL, err);
	if (!k->dev && rc == 0 && k->sample && n_out)
		memcpy(m->best, mem.best, (size_t)n_out * sizeof *m->best);
	return rc;
}

/* ---- ahead of the caller ------------------------------------------------------------------------------------------------ */

/* Is what the caller wants in the step that runs already? */
static bool runs_already(const struct moxie_model *m, const struct part *part, int n_part)
{
	bool same = n_part && m->n_ahead;
	for (int i = 0; same && i < n_part; i++) {
		const struct moxie_session *s = part[i].s;
		same = s->ahead == m->ahead && s->ahead_pos == s->tok.n && part[i].n_row == 1 && part[i].want_logits &&
		       part[i].ids[0] == s->best;
	}
	return same;
}

/* Starts the step after that of part, if every session will go on with what that one picks. */
static void go_ahead(struct moxie_model *m, const struct part *part, int n_part)
{
	const struct kern *k = m->kern;
	m->n_ahead = 0;
	if (!k->dev || !k->dev->replay || !k->sample || m->n_layer_run)
		return;
	for (int i = 0; i < n_part; i++) {
		const struct moxie_session *s = part[i].s;
		if (part[i].n_row != 1 || !part[i].want_logits || s->n_more < 2 || !s->can_pick || s->tok.n + 2 > (size_t)s->n_ctx)
			return;
	}
	if (start(m, part, n_part, true, &m->ahead_logits, NULL) < 0) {
		k->sync(m->kern, NULL); /* what failed is met again when the caller asks for that step */
		return;
	}
	m->ahead++;
	m->n_ahead = n_part;
	for (int i = 0; i < n_part; i++) {
		part[i].s->ahead = m->ahead;
		part[i].s->ahead_pos = part[i].s->tok.n + 1;
		part[i].s->ahead_row = i;
	}
}

/* The step of part is under way; others keep their hands off until it has been waited for. */
static void do_meanwhile(struct moxie_model *m, const struct meanwhile *also)
{
	m->stepping = true;
	pthread_mutex_unlock(&m->lock);
	also->run(also->ud);
	pthread_mutex_lock(&m->lock);
	m->stepping = false;
	pthread_cond_broadcast(&m->turn);
}

int engine_step(struct moxie_model *m, const struct part *part, int n_part, const struct meanwhile *also, struct moxie_err *err)
{
	while (m->stepping)
		pthread_cond_wait(&m->turn, &m->lock);
	struct kern *k = m->kern;
	const float *logits = m->ahead_logits;
	bool ran = runs_already(m, part, n_part);
	int rc = save_logits(m, part, n_part, err), n_row = 0; /* rows of picks */
	if (rc < 0)
		return rc;
	for (int i = 0; i < n_part; i++) {
		struct moxie_session *s = part[i].s;
		n_row += n_wanted(&part[i]);
		s->row = ran ? s->ahead_row : n_row - 1;
		if (ran)
			s->pick = s->ahead_pick;
		s->has_best = false;
		s->pick_out = part[i].n_out;
		s->pick_bias = s->bias;
	}
	n_row = ran ? m->n_ahead : n_row;
	if (!ran) {
		m->n_ahead = 0;
		rc = start(m, part, n_part, false, &logits, err);
	}
	if (rc == 0)
		go_ahead(m, part, n_part);
	if (k->dev && also)
		do_meanwhile(m, also);
	int rc_wait = rc < 0 || !k->dev ? k->sync(k, rc == 0 ? err : NULL)
	                                : k->dev->outcome(k, m->n_ahead > 0, m->best, k->sample ? n_row : 0, err);
	rc = rc_wait == MOXIE_E_DEVICE || rc == 0 ? rc_wait : rc;
	for (int i = 0; rc < 0 && i < n_part; i++)
		part[i].s->hist_n = 0;
	if (rc < 0)
		return rc;

	m->logits = logits;
	bool stay = m->n_ahead == 0; /* else the step that runs ahead writes where the logits lie */
	if (stay) {
		m->n_kept = n_row;
		memset(m->kept, 0, (size_t)n_row * sizeof *m->kept);
	}
	for (int i = 0; i < n_part; i++) {
		struct moxie_session *s = part[i].s;
		size_t n = (size_t)part[i].n_row;
		if (part[i].ids != s->tok.v + s->tok.n) /* room was made by session_create */
			memcpy(s->tok.v + s->tok.n, part[i].ids, n * sizeof *s->tok.v);
		s->tok.n += n;
		s->n_more -= s->n_more < n ? s->n_more : n;
		if (!part[i].want_logits)
			continue;
		s->best = m->best[s->row];
		s->has_best = k->sample != NULL;
		s->has_logits = s->in_arena = stay;
		s->logit_row = s->row;
		if (stay)
			m->kept[s->row] = s;
	}
	return 0;
}

/* ---- recorded before there are any ---------------------------------------------------------------------------------------- */

int engine_record_step(struct moxie_model *m, const struct step_shape *shape, struct moxie_err *err)
{
	struct kern *k = m->kern;
	struct step_mem mem, host;
	int n_seq = shape->n_seq, n_page = shape->n_page_seq, ring_pages = m->kv.plan.ring_pages;
	m->ws.n = m->in.n = 0;
	if (!step_take_fixed(m, &mem, &m->ws, m->n_seq) || !step_take(&mem, &m->ws, n_seq, n_seq, n_seq, n_page, ring_pages) ||
	    !step_take_out(&mem, &m->ws, n_seq, m->config.n_vocab) || !step_take(&host, &m->in, n_seq, n_seq, n_seq, n_page, ring_pages))
		return err_set(err, MOXIE_E_NOMEM, "the step arena of %zu bytes is too small for %d sequences", m->ws.cap, n_seq);
	for (int i = 0; i < n_seq; i++)
		host.span[i] = (struct span){ .row0 = i, .n_row = 1 };
	kv_views(&m->kv, &m->config, mem.full, n_page, mem.ring, m->view);
	struct batch b = { .n_tok = n_seq, .n_seq = n_seq, .n_out = n_seq, .tok = mem.tok, .pos = mem.pos, .seq = mem.seq, .span = host.span,
		.span_dev = mem.span, .out_row = mem.out_row, .n_real = ladder_pads(n_seq, m->graph_most) ? mem.n_real : NULL };
	k->rows = m->group ? ROWS_DECODE : ROWS_ANY;
	k->dev->record(k, shape);
	int rc = enqueue(m, &b, &mem, shape->drawn, NULL, err);
	k->dev->keep(k, rc == 0);
	return rc;
}
