/* engine.h - what the opaque handles of moxie.h are. */
#ifndef MOXIE_ENGINE_H
#define MOXIE_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/arena.h"
#include "base/vec.h"
#include "engine/kv.h"
#include "engine/sampler.h"
#include "formats/token_trie.h"
#include "formats/tokenizer.h"
#include "models/model.h"
#include "moxie.h"

#define DEFAULT_CTX 8192 /* of a session, if the model has as many */

struct moxie_model {
	struct model_config config;
	struct gen_config gen;
	struct safetensors *st;          /* NULL once the weights lie on a device */
	struct tokenizer *tokenizer;     /* NULL: the directory has none */
	_Atomic(struct token_trie *) trie; /* of the first guide on, see guide.c */
	const struct model_ops *ops;
	struct model *model;             /* weights, pointing into st or weights */
	struct kern *kern;
	struct arena weights;            /* of the device; else what was made of some in FP8 */
	bool dense_f8;                   /* see moxie_model_params.dense_fp8 */
	struct kv_cache kv;
	struct arena ws;                 /* step lifetime, where ops read and write */
	struct arena in;                 /* the host's copy of its beginning, for a device; else empty */
	struct kv_view *view;            /* [n_layer], refilled each step */
	const float *logits;             /* in ws: [n_kept, n_vocab] of the last step */
	struct moxie_session **kept;     /* [n_kept] whose they are; NULL: nobody's any more */
	int32_t *best;                   /* [n_seq] what kern->sample picked from each row of the last step */
	int n_kept;
	/* A device may run the step after the one that was asked for, see session_expect */
	int n_ahead;                     /* its sequences; 0: there is none */
	uint64_t ahead;                  /* its number; sessions in it know it */
	const float *ahead_logits;       /* in ws */
	/* Of a device that samples with penalties, else NULL: see picks.c.  At the beginning of ws. */
	uint32_t *hist;                  /* [n_seq, n_vocab] */
	struct sample_bias *hist_bias;   /* [n_seq, SAMPLE_BIAS_MAX] */
	int32_t *hist_tok;               /* [n_ctx] of the timeline that is being counted */
	struct moxie_session **hist_owner; /* [n_seq] host: whose rows; NULL: nobody's */
	int graph_most;                  /* sessions of the largest step that is recorded, at most n_seq */
	int n_graph;                     /* recorded when the model opened */
	uint64_t graph_bytes;            /* what those took of the device's memory */
	uint64_t device_bytes;           /* what there was of it when the model opened */
	int n_layer_run;                 /* while the device is checked: layers to run; else 0, all */
	uint64_t weight_bytes;           /* of the checkpoint, or what became of it in FP8 */
	pthread_mutex_t lock;            /* one step at a time; guards kern, kv pools, ws, view, logits and kept */
	pthread_cond_t turn;             /* stepping has ended */
	bool stepping;                   /* a step's owner does something else without the lock: other steps wait */
	bool lock_ready;                 /* turn too */
	int n_chunk, n_seq;
	int n_idle_most;                 /* pages that the prefix cache keeps although no request uses them */
	int group;                       /* positions that a prompt's rows take ROWS_PROMPT in; 0: rows are ROWS_ANY.  See prompt_zone */
	double load_seconds;
};

struct moxie_session {
	struct moxie_model *m;
	int n_ctx;
	struct ids tok;                  /* consumed tokens */
	size_t n_high;                   /* highest position ever written + 1, for the rings; see rewind */
	size_t n_out;                    /* the last n_out tokens of tok were generated */
	int32_t *page;                   /* [n_page] taken so far, one for KV_PAGE positions; the first n_shared are the prefix cache's */
	int n_page, n_shared;
	struct prefix_node *path;        /* the deepest of its nodes that this session holds, or NULL */
	int32_t *ring;                   /* [ring_pages] of the sliding layers: page i is at i % ring_pages; -1: none */
	struct prefix_node **ring_node;  /* [ring_pages] whose page that is; NULL: the session's own */
	float *logits;                   /* [n_vocab], unless in_arena */
	bool has_logits;
	bool in_arena;                   /* logits are still row logit_row of m->logits; under m->lock */
	int logit_row;
	struct moxie_sampling expect;    /* what the next token is likely to be asked for with; zero: greedily */
	size_t n_more;                   /* tokens that will be fed as they were picked, without a look at logits */
	const struct moxie_bias *bias;   /* [n_bias] expected as well; borrowed */
	size_t n_bias;
	struct sample_row pick;          /* what kern->sample was asked for */
	size_t pick_out;                 /* when the last so many tokens were generated ones */
	const struct moxie_bias *pick_bias;
	bool can_pick;                   /* that is all there is to it */
	int hist;                        /* 1 + its row of m->hist; 0: none */
	size_t hist_n, hist_start;       /* tokens counted there, and from which on as generated ones; 0: the row is void */
	bool has_best;
	int32_t best;                    /* what it picked */
	int row;                         /* of the last step's picks */
	uint64_t ahead;                  /* number of the step that consumes best at position ahead_pos as its row ahead_row, if the model's */
	size_t ahead_pos;
	int ahead_row;
	struct sample_row ahead_pick;
	struct sampler sampler;
	atomic_int cancel;
};

/* The step of the engine: rows of one or more sessions through the model, positions following each session's tok.
 * part[i]: n_row tokens at ids for session s; logits of the last row of every part go to its session where want_logits.  Those of the
 * n_before rows before it are made too: see engine_row.  Logits of one step are of at most m->n_seq rows.
 * All parts of a step have the same kind of rows.  Pages are taken as they are needed.
 * All or nothing: on error no session consumed anything.  Caller holds m->lock.
 *   MOXIE_E_KV_FULL  the pools have no page left */
struct part {
	struct moxie_session *s;
	const int32_t *ids; /* may be s->tok.v + s->tok.n itself */
	int n_row;
	bool want_logits;
	int n_before;
	enum row_kind rows;
	size_t n_out; /* the last so many of the timeline with these rows were generated; counts where want_logits */
};
/* What the caller of engine_step has to do anyway: done while a device computes, without m->lock. */
struct meanwhile {
	void (*run)(void *ud);
	void *ud;
};
/* also: or NULL. */
int engine_step(struct moxie_model *m, const struct part *part, int n_part, const struct meanwhile *also, struct moxie_err *err);
/* Logits [n_vocab] of the row-th wanted row of the last step, counted over all its parts.   MOXIE_E_DEVICE */
int engine_row(struct moxie_model *m, int row, float *to, struct moxie_err *err);

/* Tokens of s will be sampled so: a step may then pick the next one itself.  bias is borrowed until the next call.  n_more: see
 * moxie_session_expect. */
void session_expect(moxie_session *s, const struct moxie_sampling *sp, const struct moxie_bias *bias, size_t n_bias, size_t n_more);
/* moxie_session_sample with a bias. */
int session_sample(moxie_session *s, const struct moxie_sampling *sp, const struct moxie_bias *bias, size_t n_bias, int32_t *id,
                   struct moxie_err *err);

/* picks.c, under m->lock.  ready: before a step, brings the counts that part's pick needs to the device.  row: what the sampler is asked for
 * by it; false: the host has to sample.  same: whether what was picked is what these would pick. */
int picks_ready(struct moxie_model *m, const struct part *part, bool ahead, struct moxie_err *err);
bool picks_row(struct moxie_model *m, const struct part *part, bool ahead, struct sample_row *row);
bool picks_same(const struct moxie_session *s, const struct moxie_sampling *sp, const struct moxie_bias *bias, size_t n_bias);
void picks_give_row(struct moxie_session *s);

/* ladder.c.  Sessions of the largest recorded step.  Rows of the recorded step that one of n runs as.  Whether one of n rows may hold
 * padding: else n - 1 has a rung of its own.  Pages of the lists of a step of n_row rows that needs n_page. */
int ladder_most(const struct moxie_model_params *p);
int ladder_rows(int n, int most);
bool ladder_pads(int n, int most);
int ladder_pages(const struct moxie_model *m, int n_row, int n_page);
/* Has the device record every shape of the ladder, as far as engine_graph_bytes last; nothing is recorded later. */
int engine_record_ahead(struct moxie_model *m, struct moxie_err *err);
/* The number of those shapes, and the bytes that they may take together. */
int engine_n_graph(const struct moxie_model *m);
uint64_t engine_graph_bytes(const struct moxie_model *m);
/* Of one shape; nothing runs. */
int engine_record_step(struct moxie_model *m, const struct step_shape *shape, struct moxie_err *err);

/* Brings the logits of s to s->logits. */
int session_fetch_logits(moxie_session *s, struct moxie_err *err);
/* Nobody will ask for them: saves the next step the copy.  The second: caller holds m->lock. */
void session_drop_logits(moxie_session *s);
void session_drop_logits_locked(moxie_session *s);

/* Where a backend has two forms of a product, the form of a row must follow from its request alone, or an answer would depend on
 * what else is served.  So a prompt's whole groups of m->group positions are ROWS_PROMPT, and the rest of it, like all that is
 * generated, ROWS_DECODE: a group is so long that this is also the faster form of the two.  Returns the end of those groups in a
 * prompt of n tokens. */
static inline size_t prompt_zone(const struct moxie_model *m, size_t n)
{
	return m->group ? n / (size_t)m->group * (size_t)m->group : 0;
}

/* The kind of the row at position pos, of a prompt of n tokens (0: none) or of what follows it. */
static inline enum row_kind row_kind_at(const struct moxie_model *m, size_t pos, size_t n)
{
	return !m->group ? ROWS_ANY : pos < prompt_zone(m, n) ? ROWS_PROMPT : ROWS_DECODE;
}

/* moxie_session_append of a piece of a prompt that has n_prompt tokens in all; n_out: what s->n_out is to be afterwards. */
int session_feed(struct moxie_session *s, const int32_t *ids, size_t n, size_t n_prompt, size_t n_out, struct moxie_err *err);

/* pages.c.  Callers hold m->lock. */
struct kv_lack { int full, ring; }; /* pages missing in each pool */
/* Takes the pages for positions up to n - 1, all or none (false: lack says what is missing). */
bool session_grow(struct moxie_session *s, size_t n, struct kv_lack *lack);
/* Gives back the ring pages that lie behind the window.  A rewind can then go to 0 alone. */
void session_trim(struct moxie_session *s);
/* Gives back every page of its own.  What it holds of the prefix cache must have been given up: see prefix_detach. */
void session_drop_pages(struct moxie_session *s);

/* Counts the memory of the largest step: n_tok rows, n_seq sequences, page lists of n_page each.  *n_in (or NULL): the beginning
 * that the host writes. */
size_t engine_step_bytes(struct moxie_model *m, int n_tok, int n_seq, int n_page, size_t *n_in, struct moxie_err *err);

/* Picks the backend of params->device.  MOXIE_E_UNSUPPORTED names the devices there are. */
/* Moves the weights of m->model, bound to m->st, to the device; made: dummy weights of seed, st has only their shapes.  The host's copy,
 * or its mapping of the files, ends. */
int engine_place(struct moxie_model *m, bool made, uint64_t seed, int (*progress)(void *ud, uint64_t done, uint64_t all), void *ud,
                 struct moxie_err *err);

/* Makes e4m3 of model's dense weights, of the first n_layer layers (0: all), in *ws, by m's kern, which is a CPU's. */
int engine_shrink(struct moxie_model *m, struct model *model, int n_layer, struct arena *ws, struct moxie_err *err);

/* KV cache and step arena of m, on its kern's device where that has one. */
int engine_memory(struct moxie_model *m, const struct moxie_model_params *p, const struct kern_limits *lim, struct moxie_err *err);
void engine_memory_free(struct moxie_model *m);
/* What the KV cache may have of n_bytes of free memory. */
struct kv_room engine_kv_room(const struct moxie_model *m, const struct moxie_model_params *p, uint64_t n_bytes);

/* plan.c: the numbers of info that are about a device; m is bound, or has its config alone. */
int engine_plan(struct moxie_model *m, const struct moxie_model_params *p, const struct kern_limits *lim, struct moxie_model_info *info,
                struct moxie_err *err);

/* check.c: logits of a part of the model on the CPU, from weights bound in host memory, *want to be freed; and whether the device comes to
 * the same.  like: the model's parameters, of which the KV cache's type counts.   MOXIE_E_DEVICE: it does not */
int engine_check_want(struct moxie_model *m, const struct moxie_model_params *like, float **want, struct moxie_err *err);
int engine_check_device(struct moxie_model *m, const float *want, struct moxie_err *err);

/* A prompt of each size that has kernels of its own, and a step: they are loaded now, not by the first request. */
int engine_warm(struct moxie_model *m, struct moxie_err *err);

/* Does this device have memory of its own?  "auto": only if there is one. */
bool backend_is_device(const char *device);
int backend_open(struct kern **out, const char *device, const struct kern_limits *lim, int n_thread, struct moxie_err *err);

#endif
