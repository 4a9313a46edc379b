/* moxie.h - the Moxie engine: load a mixture-of-experts checkpoint, feed it tokens, get tokens.
 *
 * Two things to know.  A `moxie_model` is the loaded weights with the kernels that run them: shared, read-only, counted by
 * its sessions.  A `moxie_session` is one token timeline and owns its KV cache.
 *
 *     struct moxie_err err;
 *     moxie_model *m;  moxie_session *s;
 *     moxie_model_open(&m, &(struct moxie_model_params){ .struct_size = sizeof(struct moxie_model_params), .path = dir }, &err);
 *     moxie_session_create(&s, m, NULL, &err);
 *     moxie_session_append(s, ids, n_ids, &err);             prefill
 *     while (moxie_session_next(s, &sampling, &id, &err) == 0 && !moxie_is_eos(m, id)) ...
 *
 * Calls return 0 or a negative enum moxie_status, and say why in err (which may be NULL).  Out-parameters are set to NULL or
 * zero first.  Nothing here exits, prints, installs signal handlers, reads the environment or changes the locale.
 * Structs that may grow begin with struct_size = sizeof themselves; zero fields mean the default.
 * Threads: a model may be used from many threads; steps of its sessions take turns.  One thread at a time per session,
 * except moxie_session_cancel.
 */
#ifndef MOXIE_H
#define MOXIE_H

#include <stddef.h>
#include <stdint.h>

#include "moxie_status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MOXIE_VERSION_MAJOR 0
#define MOXIE_VERSION_MINOR 1
#define MOXIE_VERSION_PATCH 0
MOXIE_API const char *moxie_version(void); /* "0.1.0" */

/* ---- the model ------------------------------------------------------------------------------------------------ */

typedef struct moxie_model moxie_model;
typedef struct moxie_session moxie_session;

/* done and all in units of the stage (bytes or tokens).  Non-zero return stops the work: MOXIE_E_CANCELLED. */
typedef int (*moxie_progress_fn)(void *ud, const char *stage, uint64_t done, uint64_t all);

struct moxie_model_params {
	size_t struct_size;
	const char *path;          /* a Hugging Face directory; with dummy: a config.json, a directory, or "gpt-oss-20b" etc. */
	const char *device;        /* "auto" (default), "cuda", "cpu", "cpu:ref", "cpu:avx2", "cpu:avx512", "cpu:amx" */
	int n_thread;              /* 0: as many processors as the affinity mask and the cgroup allow */
	int dummy;                 /* 1: random weights in memory instead of the files' (--load-format dummy) */
	uint64_t dummy_seed;
	int n_chunk;               /* most tokens of one prefill step; 0: 512, on a GPU 2048 */
	int n_seq;                 /* most sessions stepped together by moxie_step; 0: 1 */
	int kv_f32;                /* 1: KV cache in fp32 instead of bf16 */
	moxie_progress_fn progress;
	void *progress_ud;
	uint64_t kv_tokens;        /* most tokens in the KV caches of all sessions together; 0: what memory holds */
	double mem_fraction;       /* of the machine's memory, for weights and KV caches, where kv_tokens is 0; 0: 0.8 */
	int batch_variant;         /* 1: rows take whichever kernel is fastest for their number, so that the last bits of an answer may
	                              depend on what is computed beside it */
	int kv_fp8;                /* 1: KV cache in FP8 (E4M3, values as they are, beyond 448 taken as 448): half of bf16's bytes; what it
	                              costs in accuracy: docs/attention.md */
	int graph_max_seq;         /* a GPU records decode steps of at most so many sessions as CUDA graphs when the model opens, those of 1 .. 8,
	                              10, 12, 14, 16, 20, ...; others run as the next larger one; 0: n_seq; -1: none */
	uint64_t device_memory;    /* moxie_inspect of device "cuda" where there is no GPU: bytes of the one to plan for; 0: an H200's */
	int dense_fp8;             /* 1: attention's projections and the unembedding in FP8 (E4M3, a power of two a row), made of the files' bf16
	                              when the model opens: half the bytes; what it costs in accuracy: docs/fp8.md */
};

/*   MOXIE_E_IO           a file is missing or unreadable
 *   MOXIE_E_FORMAT, MOXIE_E_SHAPE   a file is damaged, or a tensor is not what the config wants: file, tensor, wanted and found
 *   MOXIE_E_UNSUPPORTED  unknown architecture or device
 * Nothing is kept on failure. */
MOXIE_API int moxie_model_open(moxie_model **out, const struct moxie_model_params *p, struct moxie_err *err);
/* Sessions must be freed first. */
MOXIE_API void moxie_model_free(moxie_model *m);

struct moxie_model_info {
	size_t struct_size;
	const char *arch, *kernels;      /* "GptOssForCausalLM", "cpu avx512-bf16"; live as long as the model */
	int n_layer, n_embd, n_head, n_head_kv, d_head, n_ff, n_expert, n_expert_used, n_vocab, n_ctx, window;
	int n_thread, n_chunk, n_seq;
	uint64_t n_param, n_param_active; /* weights, and weights that one token touches */
	uint64_t weight_bytes, token_bytes; /* in memory, and read for one token at an empty context */
	uint64_t step_bytes;             /* step arena, and what the kernels keep for themselves beside it */
	uint64_t kv_token_bytes;         /* full-attention layers, per token */
	uint64_t kv_ring_bytes;          /* sliding layers, per session */
	double load_seconds;
	uint64_t kv_sliding_token_bytes; /* a token in the sliding layers' rings */
	/* Of a GPU, else 0.  While weights load, tile_bytes more are taken; recorded steps take graph_bytes: planned, or what they took. */
	uint64_t device_bytes;           /* that a program can have of it, the driver's own share gone */
	uint64_t device_weight_bytes, kv_pool_bytes, tile_bytes, graph_bytes;
	uint64_t kv_pool_tokens;         /* that the pools hold in full-attention layers */
};
MOXIE_API int moxie_model_get_info(const moxie_model *m, struct moxie_model_info *info);

/* ---- text ------------------------------------------------------------------------------------------------------ */

/* Writes up to cap ids and always the full count to *n.  MOXIE_E_TOO_SMALL: cap < *n, nothing was written.
 * specials = 1 turns "<|end|>" and the like into their tokens; leave it 0 for text from people.
 * MOXIE_E_ARG: text is not UTF-8; err has the offset.   MOXIE_E_UNSUPPORTED: the directory had no tokenizer.json. */
MOXIE_API int moxie_tokenize(const moxie_model *m, const char *text, size_t n_text, int specials, int32_t *ids, size_t cap, size_t *n,
                             struct moxie_err *err);
/* The bytes of ids, not NUL-terminated; *n as above.  Broken UTF-8 becomes U+FFFD. */
MOXIE_API int moxie_detokenize(const moxie_model *m, const int32_t *ids, size_t n_ids, int specials, char *text, size_t cap, size_t *n,
                               struct moxie_err *err);
/* The bytes of one token as the vocabulary has them, which need not be whole characters: *n of them, borrowed from m.
 * *special (may be NULL): 1 for "<|end|>" and the like.  An id that no token has gives "". */
MOXIE_API const char *moxie_token_bytes(const moxie_model *m, int32_t id, size_t *n, int *special);

enum moxie_role { MOXIE_ROLE_SYSTEM, MOXIE_ROLE_DEVELOPER, MOXIE_ROLE_USER, MOXIE_ROLE_ASSISTANT, MOXIE_ROLE_TOOL };
enum moxie_effort { MOXIE_EFFORT_MEDIUM, MOXIE_EFFORT_LOW, MOXIE_EFFORT_HIGH };

struct moxie_message {
	enum moxie_role role;
	const char *content;      /* UTF-8 */
	const char *name;         /* tool: "functions.get_x"; else NULL or the author's name */
	const char *channel;      /* assistant: "analysis", "commentary", "final" (NULL: final); else NULL */
	const char *recipient;    /* assistant: "functions.get_x" makes it a tool call; tool: NULL = assistant */
	const char *content_type; /* "json", "<|constrain|>json" or NULL */
};

struct moxie_tool {
	const char *name, *description; /* of one function */
	const char *parameters;         /* JSON schema text, or NULL: takes nothing */
	int strict;                     /* 1: a guide holds its arguments to parameters, or is refused */
};

struct moxie_chat_params {
	size_t struct_size;
	enum moxie_effort effort;
	const char *identity;     /* NULL: the model's usual one */
	const char *date;         /* "2026-11-21", or NULL: no date line */
	const struct moxie_tool *tools;
	size_t n_tool;
	const char *format_schema;  /* JSON schema text of the final answer, which the model is told; NULL: none */
	const char *format_name;    /* and what it is called; NULL: "answer" */
};

/* Renders a conversation and the opening of the assistant's answer; ids as in moxie_tokenize.  p may be NULL. */
MOXIE_API int moxie_chat_render(const moxie_model *m, const struct moxie_chat_params *p, const struct moxie_message *msg, size_t n_msg,
                                int32_t *ids, size_t cap, size_t *n, struct moxie_err *err);

#define MOXIE_MAX_TOP 20
struct moxie_token_prob {
	int32_t id;
	float logprob;            /* natural logarithm, of the model's own distribution: before penalties, bias and temperature */
};
struct moxie_logprobs {
	struct moxie_token_prob token;               /* the one that was generated */
	int n_top;
	struct moxie_token_prob top[MOXIE_MAX_TOP];  /* the likeliest, falling; ties: lowest id */
};

/* What one generated token meant. */
enum moxie_event_kind {
	MOXIE_EV_NONE,  /* a header is being read, or bytes are held back */
	MOXIE_EV_TEXT,  /* text of the message under way */
	MOXIE_EV_END,   /* the message ended; another may follow */
	MOXIE_EV_CALL,  /* the message ended and is a call to recipient */
	MOXIE_EV_RETURN /* the message and the turn ended */
}; /* moxie_parser_push: the last three may bring bytes held back, as text; moxie_generate gives those as TEXT first */
struct moxie_event {
	enum moxie_event_kind kind;
	const char *text;         /* n_text bytes of whole UTF-8 characters; NUL-terminated; valid until the next push */
	size_t n_text;
	const char *channel;      /* "analysis", "commentary", "final"; "" while unknown */
	const char *recipient;    /* or NULL */
	const char *content_type; /* or NULL */
	const struct moxie_logprobs *probs; /* of the token, where they were asked for; else NULL.  As long as text */
};

typedef struct moxie_parser moxie_parser;
MOXIE_API int moxie_parser_create(moxie_parser **out, const moxie_model *m, struct moxie_err *err);
MOXIE_API int moxie_parser_push(moxie_parser *p, int32_t id, struct moxie_event *ev);
MOXIE_API int moxie_parser_finish(moxie_parser *p, struct moxie_event *ev); /* and be ready for the next answer */
MOXIE_API void moxie_parser_free(moxie_parser *p);

MOXIE_API int moxie_is_eos(const moxie_model *m, int32_t id);

/* ---- what an answer must look like ----------------------------------------------------------------------------------- */

/* Tokens that would leave the form are never sampled, so that JSON parses and follows its schema whenever the answer ends by itself.
 * Compiled once, read-only, good for many requests at once. */
typedef struct moxie_guide moxie_guide;

struct moxie_guide_params {
	size_t struct_size;
	int raw;                        /* 1: for answers without channels: they are JSON from the first byte on */
	int json;                       /* 1: the final text is one JSON value */
	const char *schema;             /* ... that follows this JSON schema; NULL: any object */
	const struct moxie_tool *tools; /* calls that may be made instead, arguments by their schemas */
	size_t n_tool;
	int must_call;                  /* 1: nothing but a call of one of tools may come, after some analysis */
	const char *regex;              /* the final text matches this as a whole; NULL: any.  Not with json */
};

/* Which schemas can be held to: docs/serving.md.
 *   MOXIE_E_UNSUPPORTED  a keyword that cannot be held to, by its name; or the model has no tokenizer
 *   MOXIE_E_FORMAT       a schema is damaged; err says where */
MOXIE_API int moxie_guide_create(moxie_guide **out, moxie_model *m, const struct moxie_guide_params *p, struct moxie_err *err);
MOXIE_API void moxie_guide_free(moxie_guide *g); /* after every answer that it guides has ended; before the model */

/* ---- sessions --------------------------------------------------------------------------------------------------- */

struct moxie_session_params {
	size_t struct_size;
	int n_ctx; /* most tokens; 0: the model's own, but at most 8192 */
};

/* KV cache is taken as the timeline grows and kept until the session is freed.
 *   MOXIE_E_NOMEM  no memory, or a KV cache of n_ctx tokens could never be had: err has the numbers
 *   MOXIE_E_ARG    n_ctx beyond the model's */
MOXIE_API int moxie_session_create(moxie_session **out, moxie_model *m, const struct moxie_session_params *p, struct moxie_err *err);
MOXIE_API void moxie_session_free(moxie_session *s);

/* Runs ids through the model, n_chunk at a time; the logits of the last are kept.
 *   MOXIE_E_KV_FULL    they do not fit in n_ctx: nothing was consumed; or other sessions hold the KV cache: whole chunks were
 *   MOXIE_E_ARG        an id is outside the vocabulary; nothing was consumed
 *   MOXIE_E_CANCELLED  a whole number of chunks was consumed; see moxie_session_n_tok */
MOXIE_API int moxie_session_append(moxie_session *s, const int32_t *ids, size_t n, struct moxie_err *err);

struct moxie_sampling { /* all zero: greedy */
	size_t struct_size;
	float temperature;        /* 0: the most likely token */
	float top_p;              /* 0 or 1: off */
	float min_p;              /* 0: off; keep tokens at least min_p times as likely as the best */
	int top_k;                /* 0: off */
	float repetition_penalty; /* 0 or 1: off; over the whole timeline */
	float presence_penalty, frequency_penalty; /* over generated tokens, as OpenAI defines them */
	uint64_t seed;            /* same seed, prompt and kernels: same tokens */
};

/* Sampling as generation_config.json says; greedy where it says nothing. */
MOXIE_API void moxie_sampling_default(const moxie_model *m, struct moxie_sampling *sp);
/* MOXIE_E_ARG with the value and the range, e.g. a negative or NaN temperature. */
MOXIE_API int moxie_sampling_check(const struct moxie_sampling *sp, struct moxie_err *err);

/* Picks the next token from the kept logits without consuming it. */
MOXIE_API int moxie_session_sample(moxie_session *s, const struct moxie_sampling *sp, int32_t *id, struct moxie_err *err);
/* Picks the next token, and appends it.  MOXIE_E_KV_FULL: *id is valid, but it was not consumed. */
MOXIE_API int moxie_session_next(moxie_session *s, const struct moxie_sampling *sp, int32_t *id, struct moxie_err *err);
/* Appends ids[i] to each of n sessions of one model in a single step: batched decoding.  n <= n_seq of the model.
 * On error no session consumed anything. */
MOXIE_API int moxie_step(moxie_session *const *s, const int32_t *ids, int n, struct moxie_err *err);

/* A hint: the next n_more tokens fed to s, one a step, will be those that moxie_session_sample picks with sp (NULL: greedily).  A device
 * then goes on with the next token while the caller looks at this one: logits are NULL until the last of them was fed, and
 * sampling otherwise than with sp is MOXIE_E_ARG until then.  What was done in vain is forgotten. */
MOXIE_API int moxie_session_expect(moxie_session *s, const struct moxie_sampling *sp, size_t n_more, struct moxie_err *err);

MOXIE_API size_t moxie_session_n_tok(const moxie_session *s);
MOXIE_API const int32_t *moxie_session_tokens(const moxie_session *s); /* borrowed until the next call that consumes */
/* fp32 [n_vocab] after the last consumed token, or NULL before the first. */
MOXIE_API const float *moxie_session_logits(const moxie_session *s);

/* Forgets tokens from position n on; later appends continue there.  Sliding layers remember only their window, so the session
 * may have to go back further: returns the number of tokens kept, <= n; 0 always works.  Logits are void until an append. */
MOXIE_API size_t moxie_session_rewind(moxie_session *s, size_t n);
/* The longest common start of the timeline and ids that rewind can keep, at most n - 1: then append the rest. */
MOXIE_API size_t moxie_session_reuse(moxie_session *s, const int32_t *ids, size_t n);

/* From any thread or a signal handler: the running or next call on s returns MOXIE_E_CANCELLED. */
MOXIE_API void moxie_session_cancel(moxie_session *s);

/* ---- a whole answer ----------------------------------------------------------------------------------------------- */

enum moxie_finish { MOXIE_FINISH_NONE, MOXIE_FINISH_EOS, MOXIE_FINISH_LENGTH, MOXIE_FINISH_STOP, MOXIE_FINISH_CANCEL };

struct moxie_bias {
	int32_t id;
	float bias;                 /* added to the token's logit, before penalties and temperature */
};

/* Pointers are borrowed until the answer has ended. */
struct moxie_generate_params {
	size_t struct_size;
	struct moxie_sampling sampling;
	int max_tokens;             /* 0: until the context is full */
	int raw;                    /* 1: no channels; every token is text */
	int ignore_eos;
	const char *const *stop;    /* end when the final text (raw: all text) contains one; the stop string is not given out */
	size_t n_stop;
	int (*on_event)(void *ud, const struct moxie_event *ev, int32_t id); /* non-zero: stop here, MOXIE_FINISH_CANCEL */
	void *ud;
	int min_tokens;             /* before so many are generated, no end token and none of stop_ids */
	int skip_special;           /* raw: 1: special tokens have no text */
	int logprobs;               /* 1: events carry probs, with */
	int n_top;                  /* so many of the likeliest tokens, at most MOXIE_MAX_TOP */
	const int32_t *stop_ids;    /* end with one of these, as with an end token; its text is not given out */
	size_t n_stop_id;
	const struct moxie_bias *bias; /* no id twice */
	size_t n_bias;
	const moxie_guide *guide;   /* what the answer must look like, or NULL; its raw is the raw above */
};
struct moxie_generate_result {
	size_t struct_size;
	enum moxie_finish finish;
	size_t n_prompt, n_reused, n_out; /* tokens */
	double prefill_seconds, decode_seconds, first_token_seconds, queue_seconds;
};

/* Feeds ids (keeping what the timeline shares with them), then samples until the answer ends.  The text of an answer comes
 * through on_event alone.  Returns 0 for every finish above. */
MOXIE_API int moxie_generate(moxie_session *s, const int32_t *ids, size_t n, const struct moxie_generate_params *p,
                             struct moxie_generate_result *r, struct moxie_err *err);

/* ---- many requests at once -------------------------------------------------------------------------------------------- */

/* A thread of its own that steps a model's requests together: running ones decode in one batch, waiting ones are prefilled
 * a chunk at a time between the steps, in order of arrival.  KV cache is taken as requests grow; when there is no more, the youngest
 * gives its own up and is computed again when there is room.  Nobody else may step the model meanwhile. */
typedef struct moxie_engine moxie_engine;

struct moxie_engine_params {
	size_t struct_size;
	int n_ctx;        /* most tokens of one request, prompt and answer; 0: as moxie_session_create */
	int n_queued;     /* most requests waiting; 0: 1024 */
	int no_reuse;     /* 1: no prefix cache, every prompt is computed whole */
};

/* Up to the model's n_seq requests run at once. */
MOXIE_API int moxie_engine_create(moxie_engine **out, moxie_model *m, const struct moxie_engine_params *p, struct moxie_err *err);
/* Cancels what is left; every on_finish has been called when it returns. */
MOXIE_API void moxie_engine_free(moxie_engine *e);

struct moxie_request {
	size_t struct_size;
	const int32_t *ids;               /* [n], copied, as are the stop strings; all else in p is borrowed until on_finish */
	size_t n;
	struct moxie_generate_params p;   /* on_event runs on the engine's thread: it must not block or call the engine */
	/* Called exactly once, on the engine's thread, after the last on_event.  status: 0, or what went wrong (err). */
	void (*on_finish)(void *ud, const struct moxie_generate_result *r, int status, const struct moxie_err *err);
	/* Unless NULL: how likely the model finds ids[i], with the p.n_top likeliest in its place, for each i of max(1, prompt_from) .. n - 1 in
	 * this order, before the first on_event and under its rules.  Those tokens are computed even if the prefix cache has them, at most as
	 * many in a step as requests can run. */
	void (*on_prompt)(void *ud, size_t i, const struct moxie_logprobs *probs);
	size_t prompt_from;
};

/*   MOXIE_E_TOO_SMALL  n_queued requests are waiting; try later
 *   MOXIE_E_KV_FULL    prompt plus max_tokens can never fit n_ctx or the KV cache (max_tokens 0: the prompt alone)
 *   MOXIE_E_ARG        a token, a sampling value, or an empty prompt */
MOXIE_API int moxie_engine_submit(moxie_engine *e, const struct moxie_request *r, uint64_t *id, struct moxie_err *err);
/* From any thread; the request finishes with MOXIE_FINISH_CANCEL within two steps.  Unknown or finished ids are ignored. */
MOXIE_API void moxie_engine_cancel(moxie_engine *e, uint64_t id);

struct moxie_engine_stats {
	size_t struct_size;
	int n_running, n_queued, n_seq;
	uint64_t n_requests, n_finished, n_cancelled, n_failed;
	uint64_t prompt_tokens, reused_tokens, generated_tokens, n_steps;
	uint64_t kv_tokens, kv_capacity; /* tokens held by running requests, and room for them */
	double decode_tokens_per_second; /* over the last few seconds */
	uint64_t n_preempted;            /* times that a request gave up its KV cache to an older one, to be computed again later */
	uint64_t n_cache_hits;           /* requests whose prompt began in the prefix cache; reused_tokens counts tokens */
	uint64_t evicted_tokens;         /* forgotten by the prefix cache to make room */
	uint64_t cached_tokens;          /* in the prefix cache now, also those that running requests use */
	int n_page, n_page_free, n_page_cached; /* KV pages of full-attention layers; with no request, free + cached is all */
	int n_ring, n_ring_free, n_ring_cached; /* the same of sliding layers */
	uint64_t evictable_tokens;       /* of cached_tokens those that no running request uses */
};
MOXIE_API int moxie_engine_get_stats(moxie_engine *e, struct moxie_engine_stats *st);
/* Forgets every prefix that no request uses: at once when none runs or waits, else before the next step. */
MOXIE_API void moxie_engine_flush(moxie_engine *e);

/* ---- looking without loading ---------------------------------------------------------------------------------------- */

struct moxie_tensor_info {
	const char *name, *dtype, *file;
	int n_dim;
	int64_t shape[8];
	uint64_t n_bytes;
};

/* on_tensor (may be NULL) sees every tensor; info gets the plan for p's settings.  Maps files, loads no weight, and still
 * checks each tensor against the config.  The strings of info are constants. */
MOXIE_API int moxie_inspect(const struct moxie_model_params *p, struct moxie_model_info *info,
                            void (*on_tensor)(void *ud, const struct moxie_tensor_info *t), void *ud, struct moxie_err *err);

/* Bytes a second at which the model's device reads its weights' memory, measured now: the ceiling of decoding.  0: it has no memory of its
 * own, or that failed. */
MOXIE_API double moxie_read_bandwidth(moxie_model *m);

/* Where the time of steps goes, on a device that can tell (CUDA with CUPTI).  Between begin and end every launch is timed, which costs
 * some time itself; end calls row once for each kernel, by falling time.  us is by how much its n launches moved the end of all work,
 * so that rows add up.   MOXIE_E_UNSUPPORTED: this device has no profile; err says why */
MOXIE_API int moxie_profile_begin(moxie_model *m, struct moxie_err *err);
MOXIE_API int moxie_profile_end(moxie_model *m, void (*row)(void *ud, const char *kernel, int n, double us), void *ud, struct moxie_err *err);

/* Writes a random checkpoint in Hugging Face layout.  config: "gpt-oss-20b", "gpt-oss-tiny", ... or a config.json path. */
MOXIE_API int moxie_synth(const char *config, const char *dir, uint64_t seed, int n_thread, moxie_progress_fn progress, void *ud,
                          struct moxie_err *err);
/* The i-th built-in config name, NULL past the last. */
MOXIE_API const char *moxie_config_name(int i);

#ifdef __cplusplus
}
#endif
#endif
