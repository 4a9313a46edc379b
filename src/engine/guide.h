/* guide.h - what an answer must look like, token by token: channels and calls of harmony, JSON by grammar.h.
 *
 * A guide is compiled once and shared; a guide_run follows one answer.  In harmony an answer is messages, each a header and a body.
 * The headers that may come are written down as tokens; a body is free text that only its end token ends, or JSON.  One analysis may
 * come first, so that the model can think; then what was asked for has to.
 */
#ifndef MOXIE_ENGINE_GUIDE_H
#define MOXIE_ENGINE_GUIDE_H

#include "engine/engine.h"
#include "formats/grammar.h"

struct guide_run;
int guide_run_create(struct guide_run **out, const moxie_guide *g, struct moxie_err *err); /* MOXIE_E_NOMEM */
void guide_run_free(struct guide_run *r);

/* One bit a token: those that may come next.  Valid until the next call. */
const uint32_t *guide_run_allow(struct guide_run *r);
/* Takes a token that may come.  false: it may not, or the answer was over. */
bool guide_run_take(struct guide_run *r, int32_t id);
/* Nothing more may come. */
bool guide_run_over(const struct guide_run *r);

#endif
