/* generate.c - a whole answer of one session: prefill, then sample and hand out text until something ends it. */
#include <stddef.h>
#include <string.h>

#include "base/host.h"
#include "engine/reply.h"
#include "engine/engine.h"

MOXIE_API int moxie_generate(moxie_session *s, const int32_t *ids, size_t n, const struct moxie_generate_params *params,
                             struct moxie_generate_result *r, struct moxie_err *err)
{
	/* Callers built when the struct was shorter get the default for what was added. */
	struct moxie_generate_params all = { 0 }, *p = &all;
	if (params->struct_size < offsetof(struct moxie_generate_params, min_tokens) || params->struct_size > 4096)
		return err_set(err, MOXIE_E_ARG, "struct_size of the generate parameters is %zu, wanted %zu", params->struct_size, sizeof all);
	memcpy(&all, params, params->struct_size < sizeof all ? params->struct_size : sizeof all);
	all.struct_size = sizeof all;
	struct moxie_generate_result unused = { .struct_size = sizeof unused };
	r = r ? r : &unused;
	*r = (struct moxie_generate_result){ .struct_size = r->struct_size };
	int rc = reply_check(s->m, p, n, s->n_ctx, err);
	if (rc < 0)
		return rc;
	struct reply a;
	if ((rc = reply_init(&a, s->m, p, err)) < 0)
		return rc;

	session_expect(s, &p->sampling, p->bias, p->n_bias, 0);
	double start = host_now();
	r->n_prompt = n;
	r->n_reused = moxie_session_reuse(s, ids, n);
	rc = session_feed(s, ids + r->n_reused, n - r->n_reused, n, 0, err);
	double begin = host_now(), end = begin;
	r->prefill_seconds = begin - start;
	if (reply_is_plain(&a, 0))
		session_expect(s, &p->sampling, p->bias, p->n_bias, p->max_tokens ? (size_t)p->max_tokens - 1 : (size_t)s->n_ctx);

	while (rc == 0 && r->finish == MOXIE_FINISH_NONE) {
		int32_t id;
		rc = reply_next(&a, s, r, &id, err);
		if (r->n_out == 1)
			r->first_token_seconds = host_now() - start;
		if (rc < 0 || r->finish != MOXIE_FINISH_NONE)
			break;
		rc = session_feed(s, &id, 1, 0, s->n_out + 1, err);
	}
	session_expect(s, &p->sampling, NULL, 0, 0);
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
