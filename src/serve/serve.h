/* serve.h - an engine behind HTTP: the routes that clients of OpenAI's and SGLang's servers call.
 *
 *     moxie_engine_create(&e, m, NULL, &err);
 *     rc = serve_run(m, e, &(struct serve_params){ .struct_size = sizeof(struct serve_params), .port = 30000 }, &err);
 *     moxie_engine_free(e);
 *     moxie_model_free(m);
 *
 * serve_run owns the calling thread until the server has ended.  It catches SIGTERM and SIGINT for that time and ignores
 * SIGPIPE.  It prints nothing: what is worth telling goes to log.
 */
#ifndef MOXIE_SERVE_SERVE_H
#define MOXIE_SERVE_SERVE_H

#include <stddef.h>
#include <stdint.h>

#include "moxie.h"

enum serve_level { SERVE_ERROR, SERVE_WARN, SERVE_INFO, SERVE_DEBUG };

/* All strings are borrowed until serve_run returns. */
struct serve_params {
	size_t struct_size;
	const char *host;         /* an IPv4 or IPv6 address; NULL: "127.0.0.1" */
	int port;                 /* 0: any free one, see on_ready */
	const char *unix_path;    /* not NULL: listen on this unix socket instead; a dead socket file there is replaced */
	int unix_mode;            /* of the socket file; 0: 0600 */
	const char *api_key;      /* NULL or "": none.  Else every route but /health wants "Authorization: Bearer KEY" */
	const char *admin_key;    /* NULL or "": api_key.  Else /flush_cache and /abort_request want this one */
	const char *reasoning_field; /* of a chat's message: NULL: "reasoning_content" */
	int sampling_openai;      /* 1: a request that says nothing is sampled at temperature 1, whatever the model's config says */
	int log_requests;         /* 1: a line (SERVE_INFO) for each request that ends */
	int metrics_open;         /* 1: /metrics needs no key */
	const char *metrics_prefix; /* names in /metrics begin with it and a colon; NULL: "sglang" */
	int page_open;            /* 1: / needs no key (the page itself asks for the key and sends it along) */
	const char *model_name;   /* as /v1/models and every reply call it; NULL: "moxie" */
	const char *model_path;   /* as /get_model_info tells it; NULL: the name again */
	int n_ctx;                /* most tokens of one request, as the engine was made; 0: the model's, at most 8192 */
	const char *date;         /* the day the model is told, "2026-11-21"; NULL: none */
	const char *page;         /* what GET / answers: n_page bytes of HTML; NULL: 404 */
	size_t n_page;
	size_t max_body;          /* bytes; 0: 16 MiB.  Above: 413 */
	size_t max_header;        /* bytes; 0: 64 KiB */
	size_t max_output;        /* bytes a client may leave unread before its request is cancelled; 0: 4 MiB */
	int max_connections;      /* 0: 4096 */
	int read_seconds;         /* a client that neither sends nor takes a byte for so long is dropped, or takes twice as long for a
	                             whole request, or for the whole rest of a finished answer; 0: 60 */
	int drain_seconds;        /* how long running requests may take to end after SIGTERM; 0: 30 */
	int incremental_stream;   /* 1: chunks of /generate hold only new text instead of all so far */
	/* Once, when the socket accepts: url is "http://127.0.0.1:30000" or "unix:PATH".  May be NULL. */
	void (*on_ready)(void *ud, const char *url, int port);
	/* Once, when a signal has begun the drain; n_open requests are unfinished.  May be NULL. */
	void (*on_drain)(void *ud, int n_open);
	/* About once a second, while requests get on: not when some run and no step has ended for 60 s.  May be NULL. */
	void (*on_alive)(void *ud);
	/* One line, no newline.  May be called from the engine's thread too.  May be NULL. */
	void (*log)(void *ud, enum serve_level level, const char *text);
	void *ud;                 /* of all four */
};

/* Serves until SIGTERM or SIGINT: then no connection is accepted any more, /health says 503 on those that are open, and
 * requests that run or wait may end for up to drain_seconds.  A second signal, or the end of that time, cancels them.
 * Returns 0 after either, with every request of the engine finished and the socket file gone, or
 *   MOXIE_E_ARG     host, port, api_key or model_name cannot be used
 *   MOXIE_E_IO      the socket cannot be had: err has the address and the reason
 *   MOXIE_E_NOMEM   out of memory at start */
int serve_run(moxie_model *m, moxie_engine *e, const struct serve_params *p, struct moxie_err *err);

#endif
