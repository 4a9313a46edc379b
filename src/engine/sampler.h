/* sampler.h - the next token from logits. */
#ifndef MOXIE_ENGINE_SAMPLER_H
#define MOXIE_ENGINE_SAMPLER_H

#include "base/err.h"
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

/* Order: penalties, temperature, top-k, top-p over what is left, min-p against the best, one draw.  Ties: lowest id.
 * A NaN logit is never picked unless all are.  history[0..n) are the tokens so far, the last n_out of them generated;
 * the draw is a function of (seed, n) and the logits alone.  Test: build/test_engine sampler */
int32_t sampler_pick(struct sampler *s, const struct moxie_sampling *sp, const float *logits, int n_vocab, const int32_t *history,
                     size_t n, size_t n_out);

#endif
