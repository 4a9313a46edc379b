/* generate.c - a whole answer of one session: prefill, then sample and hand out text until something ends it. */
#include "base/host.h"
#include "engine/reply.h"
#include "engine/engine.h"

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
	struct reply a;
	if ((rc = reply_init(&a, s->m->tokenizer, p, err)) < 0)
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
		rc = reply_take(&a, id, eos);
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
	if (rc == 0 && reply_finish(&a) < 0)
		rc = err_nomem(err, a.held.cap, "text of the answer");
	reply_free(&a);
	return rc;
}
