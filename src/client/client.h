/* client.h - many requests to one server at once, from one thread, over connections that are kept.
 *
 *     client_open(&c, "http://127.0.0.1:30000", key, &err);
 *     struct call call = { .path = "/v1/models", .on_done = done };
 *     client_start(c, &call);
 *     while (client_busy(c)) client_step(c, 1);
 *     client_close(c);
 *
 * Speaks plain HTTP, over TCP or a unix socket ("unix:PATH"); for a server behind TLS, put a proxy between.
 */
#ifndef MOXIE_CLIENT_CLIENT_H
#define MOXIE_CLIENT_CLIENT_H

#include "client/http_in.h"
#include "moxie_status.h"

struct client;
struct conn;

struct call {
	/* the caller's; borrowed until on_done */
	const char *path;         /* "/v1/completions", put behind the base URL's own path */
	const char *body;         /* JSON to POST, n_body bytes; NULL: GET */
	size_t n_body;
	double idle_seconds;      /* most time without a byte; 0: 600 */
	void *ud;
	/* One event of a stream; may be NULL.  The call must not be ended in it. */
	void (*on_event)(struct call *c, const char *data, size_t n);
	/* Once, at the end; may start calls, this one again too.  May be NULL. */
	void (*on_done)(struct call *c);

	/* the result */
	int status;               /* of HTTP; 0: there was no answer */
	char error[200];          /* "": a whole answer came, whatever its status */
	double start, last, end;  /* host_now() of: client_start, the bytes at hand, on_done */
	const char *answer;       /* in on_done: what came that was no event, NUL-terminated */
	size_t n_answer;
	size_t n_event;

	struct conn *conn;        /* while under way */
	bool again;               /* was sent once more, because a kept connection had ended */
};

/*   MOXIE_E_ARG    base_url is not http://HOST[:PORT][/PATH] or unix:PATH, or key has control characters
 *   MOXIE_E_IO     the host has no address
 *   MOXIE_E_NOMEM  out of memory, or of files */
int client_open(struct client **out, const char *base_url, const char *key, struct moxie_err *err);
void client_close(struct client *c); /* calls under way end without on_done */

/* Sends a call.  It may end at once, but on_done is only called by client_step.  false: out of memory, nothing was begun. */
bool client_start(struct client *c, struct call *call);
/* Ends a call by closing its connection, as a client that leaves; on_done is not called. */
void client_drop(struct client *c, struct call *call);
/* Waits at most so many seconds for something to come, and handles what came. */
void client_step(struct client *c, double seconds);
int client_busy(const struct client *c); /* calls under way */
/* Sends call alone and waits for its end. */
void client_wait(struct client *c, struct call *call);

#endif
