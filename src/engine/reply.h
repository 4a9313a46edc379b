/* reply.h - generated ids on their way to the caller: channels, stop strings, held bytes.  One per request. */
#ifndef MOXIE_ENGINE_REPLY_H
#define MOXIE_ENGINE_REPLY_H

#include "base/vec.h"
#include "formats/chat.h"

struct reply {
	const struct moxie_generate_params *p;
	const struct tokenizer *t;
	struct harmony_parser *parser;  /* NULL: raw */
	struct detok detok;             /* raw */
	struct buf raw;
	struct buf held;                /* text that may turn out to be the start of a stop string */
	bool stopped, refused;          /* a stop string came; the callback said no */
};

/* t may be NULL: the caller then gets events without text.  p must outlive the reply.   MOXIE_E_NOMEM */
int reply_init(struct reply *a, const struct tokenizer *t, const struct moxie_generate_params *p, struct moxie_err *err);
/* One id; eos says that the model ended with it.  Afterwards stopped or refused may be set.   MOXIE_E_NOMEM */
int reply_take(struct reply *a, int32_t id, bool eos);
/* The stream is over: held bytes and held text come out.   MOXIE_E_NOMEM */
int reply_finish(struct reply *a);
void reply_free(struct reply *a);

#endif
