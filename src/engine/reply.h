/* reply.h - generated ids on their way to the caller: channels, stop strings, held bytes, and when to end.  One per request. */
#ifndef MOXIE_ENGINE_REPLY_H
#define MOXIE_ENGINE_REPLY_H

#include "base/vec.h"
#include "engine/guide.h"
#include "formats/chat.h"

struct reply {
	const struct moxie_generate_params *p;
	const struct tokenizer *t;
	struct harmony_parser *parser;  /* NULL: raw */
	struct detok detok;             /* raw */
	struct buf raw;
	struct buf held;                /* text that may turn out to be the start of a stop string */
	bool stopped, refused;          /* a stop string came; the callback said no */
	struct moxie_logprobs probs;    /* of the token under way, where they are asked for */
	struct guide_run *guide;        /* or NULL */
	int32_t *ban;                   /* [n_ban] tokens that may not come before min_tokens */
	size_t n_ban;
	bool is_due, due_eos, due_stop; /* a token was picked and not given yet, which ends the answer, as one of the model's or of stop_ids */
	int32_t due;
};

/* A model without a tokenizer gives events without text.  p must outlive the reply.   MOXIE_E_NOMEM */
int reply_init(struct reply *a, const struct moxie_model *m, const struct moxie_generate_params *p, struct moxie_err *err);
/* Whether the next token is a matter of p->sampling, p->bias and the logits alone: then any sampler may pick it, wherever the logits are. */
bool reply_is_plain(const struct reply *a, size_t n_out);
/* One id; eos says that the answer ends with it.  Afterwards stopped or refused may be set.   MOXIE_E_NOMEM */
int reply_take(struct reply *a, int32_t id, bool eos);
/* The next token of s: sampled from its kept logits and counted in r.  r->finish then says how the answer ended; while it is NONE, *id
 * is to be consumed.   MOXIE_E_ARG */
int reply_pick(struct reply *a, moxie_session *s, struct moxie_generate_result *r, int32_t *id, struct moxie_err *err);
/* Its text, if any: handed out.  r->finish may turn out to be STOP or CANCEL, though the token was consumed since.  Without a token picked
 * since the last one: nothing.   MOXIE_E_NOMEM */
int reply_give(struct reply *a, struct moxie_generate_result *r, struct moxie_err *err);
/* Both. */
int reply_next(struct reply *a, moxie_session *s, struct moxie_generate_result *r, int32_t *id, struct moxie_err *err);
/* Whether n prompt tokens and p can be run at all.   MOXIE_E_ARG, or MOXIE_E_KV_FULL: the prompt alone exceeds n_ctx */
int reply_check(const struct moxie_model *m, const struct moxie_generate_params *p, size_t n, int n_ctx, struct moxie_err *err);
/* The stream is over: held bytes and held text come out.   MOXIE_E_NOMEM */
int reply_finish(struct reply *a);
void reply_free(struct reply *a);

#endif
