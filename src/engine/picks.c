/* picks.c - what a session asks of the device's sampler, and the counts of its timeline that penalties need.
 *
 * Counts and biases lie in device memory, a row for each session that wants some, n_seq of them; who gets none is sampled on the host.
 * The sampler counts what it picks, so a row stays right while its session is fed what was picked; else the timeline is counted
 * anew, which waits for the device: once a request.
 */
#include "engine/engine.h"

_Static_assert(sizeof(struct moxie_bias) == sizeof(struct sample_bias), "a list of biases goes over as it is");

void picks_give_row(struct moxie_session *s)
{
	if (s->hist)
		s->m->hist_owner[s->hist - 1] = NULL;
	s->hist = 0;
	s->hist_n = 0;
}

static bool take_row(struct moxie_model *m, struct moxie_session *s)
{
	for (int i = 0; !s->hist && i < m->n_seq; i++)
		if (!m->hist_owner[i]) {
			m->hist_owner[i] = s;
			s->hist = i + 1;
			s->hist_n = 0;
		}
	return s->hist > 0;
}

/* Host to device; the device has it when this returns: an upload's staging memory is one. */
static int put(struct moxie_model *m, void *to, const void *from, size_t n_bytes, struct moxie_err *err)
{
	m->kern->dev->upload(m->kern, to, from, n_bytes);
	return m->kern->sync(m->kern, err);
}

int picks_ready(struct moxie_model *m, const struct part *part, bool ahead, struct moxie_err *err)
{
	struct moxie_session *s = part->s;
	struct kern *k = m->kern;
	struct sample_row unused;
	size_t n = s->tok.n + ahead + (size_t)part->n_row, n_out = part->n_out + ahead;
	if (!m->hist)
		return 0;
	if (!part->want_logits) {
		s->hist_n = 0;
		return 0;
	}
	if ((sampler_row(&s->expect, 0, &unused) && !s->n_bias) || s->n_bias > SAMPLE_BIAS_MAX || !take_row(m, s)) {
		picks_give_row(s);
		return 0;
	}
	bool fed = part->n_row == 1 && (ahead || part->ids[0] == s->best); /* best was the last that is counted */
	if (s->hist_n == n && s->hist_start == n - n_out && fed)
		return 0;
	if (ahead)
		return err_set(err, MOXIE_E_ARG, "a step ahead of counts that are not there");
	for (int i = 0; i < part->n_row; i++)
		s->tok.v[s->tok.n + (size_t)i] = part->ids[i];
	size_t row = (size_t)s->hist - 1;
	int rc = put(m, m->hist_tok, s->tok.v, n * sizeof *s->tok.v, err);
	if (rc == 0 && s->n_bias)
		rc = put(m, m->hist_bias + row * SAMPLE_BIAS_MAX, s->bias, s->n_bias * sizeof *s->bias, err);
	if (rc == 0)
		k->sample_history(k, &(struct sample_history_args){ .hist = m->hist + row * (size_t)m->config.n_vocab, .tok = m->hist_tok, .n = (int)n,
			.n_out = (int)n_out, .n_vocab = m->config.n_vocab });
	if (rc == 0)
		rc = k->sync(k, err); /* hist_tok is everybody's */
	s->hist_n = rc == 0 ? n : 0;
	s->hist_start = n - n_out;
	return rc;
}

bool picks_row(struct moxie_model *m, const struct part *part, bool ahead, struct sample_row *row)
{
	struct moxie_session *s = part->s;
	size_t n = s->tok.n + ahead + (size_t)part->n_row;
	bool plain = sampler_row(&s->expect, (uint64_t)n, row) && !s->n_bias;
	if (plain)
		return true;
	if (!m->hist || !s->hist || s->hist_n != n) { /* the host will see to it */
		*row = (struct sample_row){ .n_top = -1, .hist = -1 };
		return false;
	}
	row->hist = s->hist - 1;
	row->append = 1;
	row->n_bias = (int32_t)s->n_bias;
	s->hist_n = n + 1;
	return true;
}

bool picks_same(const struct moxie_session *s, const struct moxie_sampling *sp, const struct moxie_bias *bias, size_t n_bias)
{
	const struct sample_row *p = &s->pick;
	struct sample_row w;
	bool plain = sampler_row(sp, s->tok.n, &w) && !n_bias;
	if (!s->has_best || !s->can_pick || plain != (p->hist < 0))
		return false;
	if (plain && w.temperature <= 0 && p->temperature <= 0)
		return true;
	if (!plain && (s->pick_out != s->n_out || (size_t)p->n_bias != n_bias || (n_bias && s->pick_bias != bias)))
		return false;
	return w.seed == p->seed && w.n == p->n && w.temperature == p->temperature && w.top_p == p->top_p && w.min_p == p->min_p && w.top_k == p->top_k &&
	       w.repetition_penalty == p->repetition_penalty && w.presence_penalty == p->presence_penalty && w.frequency_penalty == p->frequency_penalty;
}
