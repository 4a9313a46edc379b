/* serve_int.h - what the files of the server share.
 *
 * One thread, the loop, owns every socket, job and number here.  The engine's thread touches a part's queue alone, under
 * server.lock, and wakes the loop through an eventfd.
 */
#ifndef MOXIE_SERVE_INT_H
#define MOXIE_SERVE_INT_H

#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>

#include "base/vec.h"
#include "serve/serve.h"

#define MAX_PARTS 256 /* answers of one request: prompts times n */
#define MAX_BIAS 1024
#define MAX_STOP_IDS 64
#define MAX_STOPS 16
#define MAX_STOP_BYTES 1024

/* ---- jobs: requests that generate ----------------------------------------------------------------------------------- */

enum job_kind { JOB_CHAT, JOB_COMPLETION, JOB_GENERATE, JOB_HEALTH, JOB_RESPONSE };

/* Whether the answer is part of a conversation: with channels, calls, reasoning. */
static inline bool is_talk(enum job_kind kind)
{
	return kind == JOB_CHAT || kind == JOB_RESPONSE;
}

enum item_kind { IT_NOTHING, IT_REASONING, IT_CONTENT, IT_CALL, IT_ARGUMENTS, IT_PROMPT };
/* IT_CALL: a call begins, the text is its name; IT_PROMPT: how likely a token of the prompt is */

/* What the engine's thread says about a part. */
struct item {
	enum item_kind kind;
	bool is_token;        /* a new token, not more of the one before */
	bool in_text;         /* ... of a message to the user, or of raw text */
	int32_t id;
	size_t at, n_text;    /* in queue.text */
	size_t probs_at;      /* in queue.probs: n_probs of struct moxie_token_prob, the token itself and the likeliest */
	size_t n_probs;
	double time;
};
struct queue {
	struct item *item;
	size_t n_item, cap_item;
	struct buf text, probs;
};

/* Log-probabilities as they will be written; which lists are used is the job's kind's affair. */
struct prob_lists {
	struct buf tokens, probs, tops, offsets;
	size_t n_char;        /* of the text so far, for the offsets */
};

struct call { /* a tool call */
	char *id;
	struct buf name, arguments;
};

struct resp_item { /* of /v1/responses: reasoning, a message, a call */
	enum item_kind kind;
	struct buf text;      /* IT_REASONING, IT_CONTENT */
	size_t call;          /* IT_CALL */
};

struct part { /* one prompt of a job */
	struct job *job;
	int index;
	struct ids prompt;
	uint64_t engine_id;
	bool submitted, finished;

	/* under server.lock */
	struct queue in;
	bool is_ready, is_done;
	struct part *next_ready;
	struct moxie_generate_result result;
	int status;
	struct moxie_err err;

	/* the engine's thread alone */
	bool in_call;         /* a message to a recipient is under way */
	int32_t last_id;

	/* the loop */
	struct queue out;     /* the queue as it was taken */
	struct buf content, reasoning;
	struct ids output;
	struct call *call;
	size_t n_call;
	struct prob_lists probs, prompt_probs; /* the second: JOB_GENERATE alone, others put both into one */
	struct buf echo;      /* the prompt's text, to stand before the answer */
	struct resp_item *item;
	size_t n_item;
	int n_tok, n_reasoning;
	double last_time;
};

struct job {
	struct server *s;
	struct job *next, **prev;
	struct evhttp_request *req; /* NULL: nobody waits for the answer any more */
	enum job_kind kind;
	bool stream, include_usage, started, is_batch;
	char rid[80];
	long created;
	double start;
	char *stop[MAX_STOPS];
	size_t n_stop;
	struct ids stop_ids;
	struct moxie_bias *bias;
	moxie_guide *guide;
	int n;                      /* answers to each prompt: part i answers prompt i / n */
	bool echo, probs_text;
	bool scores;                /* how likely the prompt is is asked for, from token score_from on */
	bool scores_only;           /* ... and nothing else: the one token that is generated is not given out */
	size_t score_from;
	struct buf echo_fields;     /* JOB_RESPONSE: what the answer tells of its request */
	int n_event;                /* ... events sent */
	struct moxie_generate_params gen;
	struct part *part;
	int n_part, n_left;         /* parts not finished */
};

/* ---- the server ----------------------------------------------------------------------------------------------------- */

struct histogram {
	const double *edge;
	int n_edge;
	uint64_t count[40];
	double sum;
	uint64_t n;
};

struct metrics {
	struct histogram ttft, itl, e2e, queue;
	uint64_t n_guided, n_requests, n_aborted, prompt_tokens, cached_tokens, generated_tokens;
};

struct server {
	struct serve_params p;
	moxie_model *m;
	moxie_engine *e;
	struct moxie_model_info info;
	struct event_base *base;
	struct evhttp *http;
	struct evhttp_bound_socket *socket;
	struct event *on_term, *on_int, *wake, *tick, *drain_end;
	int wake_fd;
	struct job *jobs;
	int n_job;
	int n_reply;              /* answers on their way out */
	bool draining, accepting, stopping, cancelled; /* cancelled: the drain's time is over */
	long started_at;
	struct metrics metrics;
	uint64_t n_steps;         /* of the engine, when it was last seen to get on */
	double alive_at;
	pthread_mutex_t lock;
	struct part *ready, **ready_end;
	struct buf scratch;
	struct conn_age *age;     /* [n_age], by file descriptor */
	size_t n_age;
};

/* ---- http.c --------------------------------------------------------------------------------------------------------- */

void server_log(const struct server *s, enum serve_level level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* When the last answer of a drain is out. */
void server_check_drained(struct server *s);

/* ---- conns.c -------------------------------------------------------------------------------------------------------- */

enum conn_state { CONN_BUSY, CONN_READING, CONN_SENDING }; /* BUSY: the answer is being made; no limit */
void conns_mark(struct server *s, struct evhttp_connection *c, enum conn_state state);
/* Shuts those down that are too slow.  Returns the number of open files, or -1: not known. */
int conns_check(struct server *s);
void conns_free(struct server *s);

/* ---- reply.c -------------------------------------------------------------------------------------------------------- */

/* Each answers req, which is the library's from then on. */
void reply_send(struct server *s, struct evhttp_request *req, int code, const char *type, const void *body, size_t n);
void reply_json(struct server *s, struct evhttp_request *req, int code, json_t *body); /* steals body; NULL: 500 */
void reply_buf(struct server *s, struct evhttp_request *req, int code, const struct buf *b);
/* The error as OpenAI shapes it; param may be NULL. */
void reply_error(struct server *s, struct evhttp_request *req, int code, const char *param, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));
void error_write(struct buf *b, int code, const char *param, const char *message);
/* The HTTP status of an engine's error; *text is what the client may know of it. */
int error_of_engine(struct server *s, const struct moxie_err *err, const char **text);
/* Begins a stream, adds to it, ends it.  false: the client is too slow or gone. */
bool stream_begin(struct server *s, struct evhttp_request *req);
bool stream_add(struct server *s, struct evhttp_request *req, const struct buf *b);
void stream_end(struct server *s, struct evhttp_request *req);

/* ---- routes --------------------------------------------------------------------------------------------------------- */

void route_request(struct evhttp_request *req, void *server); /* routes.c */

void openai_chat(struct server *s, struct evhttp_request *req, json_t *body);       /* openai.c */
void openai_completions(struct server *s, struct evhttp_request *req, json_t *body);
/* A job for the conversation of body, read but not submitted; NULL: an error was answered. */
struct job *chat_job(struct server *s, struct evhttp_request *req, json_t *body, enum job_kind kind);
void openai_responses(struct server *s, struct evhttp_request *req, json_t *body);  /* responses.c */
/* Ids of body's "messages" and "tools".  0, or an error was answered. */
int chat_ids(struct server *s, struct evhttp_request *req, json_t *body, struct ids *ids); /* messages.c */

void native_generate(struct server *s, struct evhttp_request *req, json_t *body);
void native_tokenize(struct server *s, struct evhttp_request *req, json_t *body);   /* native.c */
void native_detokenize(struct server *s, struct evhttp_request *req, json_t *body);
void native_abort(struct server *s, struct evhttp_request *req, json_t *body);
void native_model_info(struct server *s, struct evhttp_request *req, json_t *body);
void native_server_info(struct server *s, struct evhttp_request *req, json_t *body);
void native_health_generate(struct server *s, struct evhttp_request *req, json_t *body);
void native_flush_cache(struct server *s, struct evhttp_request *req, json_t *body);

void metrics_init(struct metrics *m);
void metrics_see(struct histogram *h, double x, uint64_t times);
void metrics_reply(struct server *s, struct evhttp_request *req, json_t *body);

/* ---- job.c ---------------------------------------------------------------------------------------------------------- */

/* NULL: out of memory, answered. */
struct job *job_create(struct server *s, struct evhttp_request *req, enum job_kind kind);
bool job_add_prompt(struct job *j, const int32_t *ids, size_t n);
/* n answers to each prompt instead of one.  false: out of memory */
bool job_copy_parts(struct job *j, int n);
/* Hands every part to the engine; answers an error when it refuses. */
void job_submit(struct job *j);
void job_abort(struct job *j);   /* cancels its parts; the answer says so */
void job_refuse(struct job *j, int code, const char *param, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* Closes the connection and forgets the answer, as when the client itself leaves: cancels what runs. */
void job_drop(struct job *j);
/* The answer is given by other means: the close of its connection is no business of j from now on. */
struct evhttp_request *job_release(struct job *j);
void jobs_take(struct server *s); /* what the engine's thread left */

/* ---- params.c ------------------------------------------------------------------------------------------------------- */

/* What body says about how to generate, for every prompt of j; default_max: tokens when none are asked for, 0: no limit.
 * false: an error was answered and the job freed. */
bool job_read_params(struct job *j, json_t *body, int default_max);

/* ---- format.c ------------------------------------------------------------------------------------------------------- */

struct format { /* of the answer's text */
	bool json;
	char *regex;          /* owned; a pattern it matches as a whole; NULL: none */
	json_t *schema;       /* owned; NULL: any object */
	char name[68];
};
/* NULL, or the sentence that says what is wrong with *param.  format_free after either. */
const char *format_read(struct format *f, json_t *from, const char **param);
void format_free(struct format *f);

struct tool_choice {
	bool none, must;      /* tools are not to be called, and not shown; one has to be */
	const char *name;     /* ... this one; NULL: any */
};
const char *choice_read(struct tool_choice *c, json_t *body);

/* Makes the guide that body asks for, or none.  false: an error was answered and the job freed. */
bool job_read_format(struct job *j, json_t *body);

/* ---- probs.c -------------------------------------------------------------------------------------------------------- */

/* A token's log-probabilities join the lists of p. */
bool probs_add(struct part *p, const struct item *it);
/* The first token of the prompt's lists, of which nothing can be said. */
bool probs_add_first(struct part *p, int32_t id);
/* ,"logprobs":... of OpenAI's kinds; a stream's lists begin anew. */
void probs_put(struct part *p, struct buf *b);
/* ,"output_token_logprobs":... of meta_info */
void probs_put_native(const struct part *p, struct buf *b);
void probs_free(struct part *p);

/* ---- out.c: what a job answers ---------------------------------------------------------------------------------------- */

bool out_begin(struct job *j);                                /* a stream's first chunks */
bool out_item(struct part *p, const struct item *it, const char *text); /* one event: kept, or written as a chunk */
bool out_part_end(struct part *p);                            /* a stream's last chunks of p */
void out_end(struct job *j);                                  /* all parts are done */

/* ---- resp_out.c: the same for /v1/responses ----------------------------------------------------------------------------- */

bool resp_begin(struct job *j);
bool resp_item(struct part *p, const struct item *it, const char *text);
void resp_end(struct job *j);
void resp_free(struct part *p);

/* ---- json.c --------------------------------------------------------------------------------------------------------- */

/* text as a JSON string, quotes included. */
bool json_str(struct buf *b, const char *text, size_t n);
bool json_cstr(struct buf *b, const char *text);

enum field_kind { FIELD_FLOAT, FIELD_INT, FIELD_U64, FIELD_BOOL };
struct field {
	const char *name;
	enum field_kind kind; /* float, int, uint64_t, bool */
	size_t at;            /* offset in the struct that is filled */
	double lo, hi;
};
/* Fills what body has; null counts as absent.  false: *why names field, value and range, *name the field. */
bool fields_read(const struct field *f, size_t n, json_t *body, void *to, const char **name, struct buf *why);

/* Fields this server cannot honour: fine while absent, null, or saying "off".  NULL, or the name of the first other. */
const char *unsupported_field(json_t *body, enum job_kind kind);
/* A token id of m's vocabulary in v; false if not. */
bool json_token(const json_t *v, int n_vocab, int32_t *id);
/* Ids of a JSON array.  0, -1: not all are tokens, -2: out of memory */
int json_tokens(const json_t *list, int n_vocab, struct ids *out);

#endif
