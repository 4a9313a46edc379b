/* reply.c - answers on their way out, and the count of those that are not out yet. */
#include <event2/bufferevent.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/err.h"
#include "serve/serve_int.h"

static void on_gone(struct evhttp_connection *c, void *arg)
{
	(void)c;
	struct server *s = arg;
	s->n_reply--;
	server_check_drained(s);
}

/* The connection may wait for its next request: with the limits a request has while it is read. */
static void on_sent(struct evhttp_request *req, void *arg)
{
	struct server *s = arg;
	struct evhttp_connection *c = evhttp_request_get_connection(req);
	struct timeval t = { .tv_sec = s->p.read_seconds };
	s->n_reply--;
	if (c) {
		conns_mark(s, c, CONN_READING);
		evhttp_connection_set_closecb(c, NULL, NULL);
		bufferevent_setwatermark(evhttp_connection_get_bufferevent(c), EV_READ, 0, 0);
		bufferevent_set_timeouts(evhttp_connection_get_bufferevent(c), &t, &t);
	}
	server_check_drained(s);
}

static void count_reply(struct server *s, struct evhttp_request *req)
{
	struct evhttp_connection *c = evhttp_request_get_connection(req);
	if (!c)
		return;
	s->n_reply++;
	conns_mark(s, c, CONN_SENDING);
	evhttp_request_set_on_complete_cb(req, on_sent, s);
	evhttp_connection_set_closecb(c, on_gone, s);
}

static void put_headers(struct server *s, struct evhttp_request *req, const char *type)
{
	struct evkeyvalq *h = evhttp_request_get_output_headers(req);
	evhttp_add_header(h, "Content-Type", type);
	evhttp_add_header(h, "X-Content-Type-Options", "nosniff");
	if (s->draining)
		evhttp_add_header(h, "Connection", "close");
	/* Small writes follow each other: none may wait for the client's acknowledgement. */
	struct evhttp_connection *c = evhttp_request_get_connection(req);
	if (c && !s->p.unix_path) {
		int one = 1;
		setsockopt(bufferevent_getfd(evhttp_connection_get_bufferevent(c)), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	}
}

void reply_send(struct server *s, struct evhttp_request *req, int code, const char *type, const void *body, size_t n)
{
	put_headers(s, req, type);
	if (n && evbuffer_add(evhttp_request_get_output_buffer(req), body, n) < 0)
		code = 500;
	count_reply(s, req);
	evhttp_send_reply(req, code, NULL, NULL);
}

void reply_buf(struct server *s, struct evhttp_request *req, int code, const struct buf *b)
{
	reply_send(s, req, code, "application/json", b->p, b->n);
}

void reply_json(struct server *s, struct evhttp_request *req, int code, json_t *body)
{
	char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
	json_decref(body);
	if (text)
		reply_send(s, req, code, "application/json", text, strlen(text));
	else
		reply_error(s, req, 500, NULL, "out of memory");
	free(text);
}

static const char *error_type(int code)
{
	return code == 401 ? "authentication_error" : code == 404 ? "not_found_error" : code == 429 ? "rate_limit_error"
	     : code == 503 ? "service_unavailable" : code >= 500 ? "server_error" : "invalid_request_error";
}

void error_write(struct buf *b, int code, const char *param, const char *message)
{
	buf_puts(b, "{\"error\":{\"message\":");
	json_cstr(b, message);
	buf_printf(b, ",\"type\":\"%s\",\"param\":", error_type(code));
	if (param)
		json_cstr(b, param);
	else
		buf_puts(b, "null");
	buf_printf(b, ",\"code\":%d}}", code);
}

void reply_error(struct server *s, struct evhttp_request *req, int code, const char *param, const char *fmt, ...)
{
	char text[600];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	err_clean(text); /* a parser's words or a cut may end within a character */
	struct buf b = { 0 };
	error_write(&b, code, param, text);
	if (code == 401)
		evhttp_add_header(evhttp_request_get_output_headers(req), "WWW-Authenticate", "Bearer");
	if (code == 429 || code == 503)
		evhttp_add_header(evhttp_request_get_output_headers(req), "Retry-After", "1");
	reply_buf(s, req, code, &b);
	buf_free(&b);
}

int error_of_engine(struct server *s, const struct moxie_err *err, const char **text)
{
	*text = err->text;
	switch (err->code) {
	case MOXIE_E_ARG:
	case MOXIE_E_KV_FULL:
	case MOXIE_E_UNSUPPORTED:
		return 400;
	case MOXIE_E_TOO_SMALL:
		*text = "too many requests wait already";
		return 429;
	case MOXIE_E_CANCELLED:
		*text = "the server is shutting down";
		return 503;
	default: /* what went wrong inside is for the log */
		server_log(s, SERVE_ERROR, "a request failed: %s", err->text);
		*text = err->code == MOXIE_E_NOMEM ? "out of memory" : "the engine failed";
		return err->code == MOXIE_E_NOMEM ? 503 : 500;
	}
}

bool stream_begin(struct server *s, struct evhttp_request *req)
{
	struct evkeyvalq *h = evhttp_request_get_output_headers(req);
	put_headers(s, req, "text/event-stream");
	evhttp_add_header(h, "Cache-Control", "no-cache");
	evhttp_add_header(h, "X-Accel-Buffering", "no");
	evhttp_send_reply_start(req, 200, NULL);
	return evhttp_request_get_connection(req) != NULL;
}

bool stream_add(struct server *s, struct evhttp_request *req, const struct buf *b)
{
	struct evhttp_connection *c = evhttp_request_get_connection(req);
	if (!c)
		return false;
	struct bufferevent *bev = evhttp_connection_get_bufferevent(c);
	if (evbuffer_get_length(bufferevent_get_output(bev)) + b->n > s->p.max_output)
		return false;
	struct evbuffer *out = evbuffer_new();
	bool ok = out && evbuffer_add(out, b->p, b->n) == 0;
	if (ok)
		evhttp_send_reply_chunk(req, out);
	if (out)
		evbuffer_free(out);
	return ok;
}

void stream_end(struct server *s, struct evhttp_request *req)
{
	count_reply(s, req);
	evhttp_send_reply_end(req);
}
