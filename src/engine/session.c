/* session.c - one token timeline: its pages, its tokens, its logits. */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

MOXIE_API int moxie_session_create(moxie_session **out, moxie_model *m, const struct moxie_session_params *p, struct moxie_err *err)
{
	*out = NULL;
	int n_ctx = p && p->n_ctx ? p->n_ctx : m->config.n_ctx < DEFAULT_CTX ? m->config.n_ctx : DEFAULT_CTX;
	if (!(p && p->n_ctx) && m->kv.plan.n_full && n_ctx > m->kv.full.n_page * (int64_t)KV_PAGE)
		n_ctx = m->kv.full.n_page * KV_PAGE;
	if (n_ctx < 1 || n_ctx > m->config.n_ctx)
		return err_set(err, MOXIE_E_ARG, "context length is %d, wanted 1 .. %d", n_ctx, m->config.n_ctx);

	int n_page = m->kv.plan.n_full ? (n_ctx + KV_PAGE - 1) / KV_PAGE : 0, ring_pages = m->kv.plan.ring_pages;
	if (n_page > m->kv.full.n_page || ring_pages > m->kv.ring.n_page)
		return err_set(err, MOXIE_E_NOMEM, "a context of %d tokens needs %d pages of KV cache and %d for sliding layers, there are %d and %d",
		               n_ctx, n_page, ring_pages, m->kv.full.n_page, m->kv.ring.n_page);
	struct moxie_session *s = calloc(1, sizeof *s);
	if (!s)
		return err_nomem(err, sizeof *s, "a session");
	s->m = m;
	s->n_ctx = n_ctx;
	s->page = malloc(((size_t)n_page + 1) * sizeof *s->page);
	s->ring = malloc(((size_t)ring_pages + 1) * sizeof *s->ring);
	s->ring_node = calloc((size_t)ring_pages + 1, sizeof *s->ring_node);
	s->tok.v = malloc((size_t)n_ctx * sizeof *s->tok.v); /* whole, so that a step never allocates */
	s->tok.cap = (size_t)n_ctx;
	s->logits = malloc((size_t)m->config.n_vocab * sizeof *s->logits);
	bool sampler = sampler_init(&s->sampler, m->config.n_vocab);
	for (int i = 0; s->ring && i < ring_pages; i++)
		s->ring[i] = -1;
	if (s->page && s->ring && s->ring_node && s->tok.v && s->logits && sampler) {
		*out = s;
		return 0;
	}
	moxie_session_free(s);
	return err_nomem(err, ((size_t)n_page + (size_t)n_ctx + 2 * (size_t)m->config.n_vocab) * sizeof(int32_t), "a session");
}

MOXIE_API void moxie_session_free(moxie_session *s)
{
	if (!s)
		return;
	struct moxie_model *m = s->m;
	session_drop_logits(s);
	if (s->page && s->ring && s->ring_node) {
		pthread_mutex_lock(&m->lock);
		session_drop_pages(s);
		picks_give_row(s);
		pthread_mutex_unlock(&m->lock);
	}
	sampler_free(&s->sampler);
	free(s->logits);
	ids_free(&s->tok);
	free(s->ring_node);
	free(s->ring);
	free(s->page);
	free(s);
}

static int check_ids(const struct moxie_session *s, const int32_t *ids, size_t n, struct moxie_err *err)
{
	for (size_t i = 0; i < n; i++)
		if (ids[i] < 0 || ids[i] >= s->m->config.n_vocab)
			return err_set(err, MOXIE_E_ARG, "token %zu is %d, wanted 0 .. %d", i, (int)ids[i], s->m->config.n_vocab - 1);
	if (n > (size_t)s->n_ctx - s->tok.n)
		return err_set(err, MOXIE_E_KV_FULL, "%zu tokens after %zu do not fit in the context length of %d", n, s->tok.n, s->n_ctx);
	return 0;
}

/* Reads and clears the flag, so that one cancel stops one call. */
static bool cancelled(struct moxie_session *s)
{
	return atomic_exchange(&s->cancel, 0) != 0;
}

int session_feed(struct moxie_session *s, const int32_t *ids, size_t n, size_t n_prompt, size_t n_out, struct moxie_err *err)
{
	const struct moxie_model *m = s->m;
	int rc = check_ids(s, ids, n, err);
	if (rc < 0)
		return rc;
	size_t zone = prompt_zone(m, n_prompt);
	for (size_t i = 0; i < n;) {
		size_t pos = s->tok.n, most = pos < zone && zone - pos < n - i ? zone - pos : n - i;
		int n_row = most < (size_t)m->n_chunk ? (int)most : m->n_chunk;
		bool last = i + (size_t)n_row == n;
		struct part part = { s, ids + i, n_row, last, 0, row_kind_at(m, pos, n_prompt), n_out };
		if (cancelled(s))
			return err_set(err, MOXIE_E_CANCELLED, "cancelled after %zu of %zu tokens", i, n);
		pthread_mutex_lock(&s->m->lock);
		rc = engine_step(s->m, &part, 1, NULL, err);
		pthread_mutex_unlock(&s->m->lock);
		if (rc == MOXIE_E_CANCELLED) {
			cancelled(s);
			return err_set(err, rc, "cancelled after %zu of %zu tokens", i, n);
		}
		if (rc < 0)
			return rc;
		i += (size_t)n_row;
		s->n_out = last ? n_out : 0;
	}
	return 0;
}

MOXIE_API int moxie_session_append(moxie_session *s, const int32_t *ids, size_t n, struct moxie_err *err)
{
	return session_feed(s, ids, n, n > 1 ? s->tok.n + n : 0, 0, err); /* one token is taken for a generated one */
}

MOXIE_API int moxie_step(moxie_session *const *s, const int32_t *ids, int n, struct moxie_err *err)
{
	struct part part[256];
	if (n < 1)
		return n ? err_set(err, MOXIE_E_ARG, "%d sessions, wanted >= 0", n) : 0;
	struct moxie_model *m = s[0]->m;
	if (n > m->n_seq)
		return err_set(err, MOXIE_E_ARG, "%d sessions in one step, the model was opened for %d", n, m->n_seq);
	for (int i = 0; i < n; i++) {
		if (s[i]->m != m)
			return err_set(err, MOXIE_E_ARG, "session %d belongs to another model", i);
		for (int j = 0; j < i; j++)
			if (s[j] == s[i])
				return err_set(err, MOXIE_E_ARG, "sessions %d and %d are the same", j, i);
		int rc = check_ids(s[i], ids + i, 1, err);
		if (rc < 0)
			return rc;
		if (cancelled(s[i]))
			return err_set(err, MOXIE_E_CANCELLED, "session %d was cancelled", i);
		part[i] = (struct part){ s[i], ids + i, 1, true, 0, row_kind_at(m, s[i]->tok.n, 0), s[i]->n_out + 1 };
	}
	pthread_mutex_lock(&m->lock);
	int rc = engine_step(m, part, n, NULL, err);
	pthread_mutex_unlock(&m->lock);
	for (int i = 0; rc == 0 && i < n; i++)
		s[i]->n_out++;
	return rc;
}

MOXIE_API int moxie_sampling_check(const struct moxie_sampling *sp, struct moxie_err *err)
{
	return sampler_check(sp, err);
}

void session_expect(moxie_session *s, const struct moxie_sampling *sp, const struct moxie_bias *bias, size_t n_bias, size_t n_more)
{
	if (n_bias != s->n_bias || bias != s->bias)
		s->hist_n = 0;
	s->expect = *sp;
	s->bias = bias;
	s->n_bias = n_bias;
	s->n_more = n_more;
}

MOXIE_API int moxie_session_expect(moxie_session *s, const struct moxie_sampling *sp, size_t n_more, struct moxie_err *err)
{
	static const struct moxie_sampling greedy;
	sp = sp ? sp : &greedy;
	int rc = sampler_check(sp, err);
	if (rc == 0)
		session_expect(s, sp, NULL, 0, n_more);
	return rc;
}

int session_sample(moxie_session *s, const struct moxie_sampling *sp, const struct moxie_bias *bias, size_t n_bias, int32_t *id,
                   struct moxie_err *err)
{
	static const struct moxie_sampling greedy;
	*id = 0;
	sp = sp ? sp : &greedy;
	int rc = sampler_check(sp, err);
	if (rc < 0)
		return rc;
	if (!s->has_logits && !s->has_best)
		return err_set(err, MOXIE_E_ARG, "no logits: append tokens first");
	if (picks_same(s, sp, bias, n_bias)) {
		session_expect(s, sp, bias, n_bias, s->n_more);
		*id = s->best;
		return 0;
	}
	if (!s->has_logits)
		return err_set(err, MOXIE_E_ARG, "other sampling than the session was told to expect for %zu more tokens", s->n_more);
	session_expect(s, sp, bias, n_bias, 0);
	if ((rc = session_fetch_logits(s, err)) < 0)
		return rc;
	struct sampler_rule rule = { .bias = bias, .n_bias = n_bias };
	*id = sampler_pick_ruled(&s->sampler, sp, &rule, s->logits, s->m->config.n_vocab, s->tok.v, s->tok.n, s->n_out);
	return 0;
}

MOXIE_API int moxie_session_sample(moxie_session *s, const struct moxie_sampling *sp, int32_t *id, struct moxie_err *err)
{
	return session_sample(s, sp, NULL, 0, id, err);
}

MOXIE_API int moxie_session_next(moxie_session *s, const struct moxie_sampling *sp, int32_t *id, struct moxie_err *err)
{
	int rc = moxie_session_sample(s, sp, id, err);
	if (rc < 0)
		return rc;
	return session_feed(s, id, 1, 0, s->n_out + 1, err);
}

MOXIE_API size_t moxie_session_n_tok(const moxie_session *s)
{
	return s->tok.n;
}

MOXIE_API const int32_t *moxie_session_tokens(const moxie_session *s)
{
	return s->tok.v;
}

MOXIE_API const float *moxie_session_logits(const moxie_session *s)
{
	moxie_session *mine = (moxie_session *)s; /* the copy is made when first asked for: nothing that the caller could see */
	return s->has_logits && session_fetch_logits(mine, NULL) == 0 ? s->logits : NULL;
}

/* What a rewind to n would keep. */
static size_t keeps(const struct moxie_session *s, size_t n)
{
	const struct kv_plan *p = &s->m->kv.plan;
	if (n >= s->tok.n)
		return s->tok.n;
	/* The token at n will look back over window - 1 keys; all must still be in the ring, whose slots were last
	 * overwritten by position n_high - 1. */
	size_t ring_len = (size_t)p->ring_pages * KV_PAGE, window = (size_t)s->m->config.window;
	return p->ring_pages && s->n_high > ring_len && n + ring_len < s->n_high + window - 1 ? 0 : n;
}

MOXIE_API size_t moxie_session_rewind(moxie_session *s, size_t n)
{
	if (n >= s->tok.n)
		return s->tok.n;
	n = keeps(s, n);
	s->ahead = 0;
	s->n_more = 0;
	s->hist_n = 0;
	if (n == 0)
		s->n_high = 0;
	s->tok.n = n;
	s->n_out = 0;
	session_drop_logits(s);
	return n;
}

MOXIE_API size_t moxie_session_reuse(moxie_session *s, const int32_t *ids, size_t n)
{
	size_t same = 0;
	while (same + 1 < n && same < s->tok.n && s->tok.v[same] == ids[same])
		same++;
	return moxie_session_rewind(s, same);
}

MOXIE_API void moxie_session_cancel(moxie_session *s)
{
	atomic_store(&s->cancel, 1);
}
