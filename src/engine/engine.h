/* engine.h - what the opaque handles of moxie.h are. */
#ifndef MOXIE_ENGINE_H
#define MOXIE_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/arena.h"
#include "base/vec.h"
#include "engine/kv.h"
#include "engine/sampler.h"
#include "formats/tokenizer.h"
#include "models/model.h"
#include "moxie.h"

struct moxie_model {
	struct model_config config;
	struct gen_config gen;
	struct safetensors *st;          /* NULL once the weights lie on a device */
	struct tokenizer *tokenizer;     /* NULL: the directory has none */
	const struct model_ops *ops;
	struct model *model;             /* weights, pointing into st or weights */
	struct kern *kern;
	struct arena weights;            /* of the device; else empty */
	struct kv_cache kv;
	struct arena ws;                 /* step lifetime, where ops read and write */
	struct arena in;                 /* the host's copy of its beginning, for a device; else empty */
	struct kv_view *view;            /* [n_layer], refilled each step */
	const float *logits;             /* in ws: [n_kept, n_vocab] of the last step */
	struct moxie_session **kept;     /* [n_kept] whose they are; NULL: nobody's any more */
	int32_t *best;                   /* [n_kept] argmax of each, where kern->argmax finds it */
	int n_kept;
	uint64_t weight_bytes;           /* of the checkpoint */
	pthread_mutex_t lock;            /* one step at a time; guards kern, kv pools, ws, view, logits and kept */
	bool lock_ready;
	int n_chunk, n_seq;
	double load_seconds;
};

struct moxie_session {
	struct moxie_model *m;
	int n_ctx;
	struct ids tok;                  /* consumed tokens */
	size_t n_high;                   /* highest position ever written + 1, for the rings; see rewind */
	size_t n_out;                    /* the last n_out tokens of tok were generated */
	int32_t *page, *ring;            /* page lists: [n_page], [ring_pages] */
	int n_page;
	float *logits;                   /* [n_vocab], unless in_arena */
	bool has_logits;
	bool in_arena;                   /* logits are still row logit_row of m->logits; under m->lock */
	int logit_row;
	int32_t best;                    /* their argmax, where kern->argmax finds it */
	struct sampler sampler;
	atomic_int cancel;
};

/* The step of the engine: rows of one or more sessions through the model, positions following each session's tok.
 * part[i]: n_row tokens at ids for session s; logits of the last row of every part go to its session where want_logits.
 * All or nothing: on error no session consumed anything.  Caller holds m->lock. */
struct part {
	struct moxie_session *s;
	const int32_t *ids;
	int n_row;
	bool want_logits;
};
int engine_step(struct moxie_model *m, const struct part *part, int n_part, struct moxie_err *err);

/* Brings the logits of s to s->logits. */
int session_fetch_logits(moxie_session *s, struct moxie_err *err);
/* Nobody will ask for them: saves the next step the copy. */
void session_drop_logits(moxie_session *s);

/* What moxie_session_reuse would keep, without doing it. */
size_t session_reusable(const struct moxie_session *s, const int32_t *ids, size_t n);

/* Counts the memory of the largest step: n_tok rows, n_seq sequences, page lists of n_page each.  *n_in (or NULL): the beginning
 * that the host writes. */
size_t engine_step_bytes(struct moxie_model *m, int n_tok, int n_seq, int n_page, size_t *n_in, struct moxie_err *err);

/* Picks the backend of params->device.  MOXIE_E_UNSUPPORTED names the devices there are. */
/* Does this device have memory of its own?  "auto": only if there is one. */
bool backend_is_device(const char *device);
int backend_open(struct kern **out, const char *device, const struct kern_limits *lim, int n_thread, struct moxie_err *err);

#endif
