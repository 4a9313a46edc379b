/* sampler.h - the next token from logits. */
#ifndef MOXIE_ENGINE_SAMPLER_H
#define MOXIE_ENGINE_SAMPLER_H

#include "base/err.h"
#include "kernels/kernels.h"
#include "moxie.h"

struct sampler { /* scratch of one session, [n_vocab] each */
	float *logit;
	int32_t *heap;
	uint8_t *seen;
	uint16_t *count;
};

bool sampler_init(struct sampler *s, int n_vocab); /* false: out of memory */
void sampler_free(struct sampler *s);

int sampler_check(const struct moxie_sampling *sp, struct moxie_err *err);

/* The draw as the op `sample` takes it, for the token after n; false: penalties, which need a row of counts too. */
bool sampler_row(const struct moxie_sampling *sp, uint64_t n, struct sample_row *row);

/* What a request asks of a single token beyond struct moxie_sampling. */
struct sampler_rule {
	const struct moxie_bias *bias;
	size_t n_bias;
	const uint32_t *allow;       /* one bit a token of the vocabulary: only these; NULL: all */
	const int32_t *ban;          /* not these, unless nothing else is left */
	size_t n_ban;
};

/* Order: penalties, temperature, top-k, top-p over what is left, min-p against the best, one draw.  Ties: lowest id.
 * A NaN logit is never picked unless all are.  history[0..n) are the tokens so far, the last n_out of them generated;
 * the draw is a function of (seed, n) and the logits alone.  Test: build/test_engine sampler */
int32_t sampler_pick(struct sampler *s, const struct moxie_sampling *sp, const float *logits, int n_vocab, const int32_t *history,
                     size_t n, size_t n_out);
/* The same under a rule: bias first, then the penalties, then what may not come is left out.  -1: allow has no token. */
int32_t sampler_pick_ruled(struct sampler *s, const struct moxie_sampling *sp, const struct sampler_rule *rule, const float *logits,
                           int n_vocab, const int32_t *history, size_t n, size_t n_out);

/* The log-probabilities of id and of the n_top likeliest tokens in the softmax of logits.  A NaN logit counts as none. */
void sampler_logprobs(const float *logits, int n_vocab, int32_t id, int n_top, struct moxie_logprobs *out);

#endif
