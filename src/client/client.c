/* client.c - see client.h.  Level-triggered epoll; a connection has one call, or waits in the list of idle ones. */
#include "client/client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/err.h"
#include "base/host.h"

#define MAX_EVENTS 64
#define READ_BYTES (64 << 10)

struct conn {
	struct client *c;
	struct conn *next, **prev; /* of all that are open */
	struct conn *next_idle, *next_failed, *next_dead;
	int fd;                   /* -1: not yet, or no longer */
	struct call *call;        /* NULL: idle */
	bool used;                /* has carried an answer: the server may close it at any time */
	bool is_idle, failed, dead; /* in the list of those */
	bool reading;             /* the request is out, only reading is waited for */
	struct buf out;
	size_t n_out;             /* bytes of it that are sent */
	struct http_in in;
};

struct client {
	int epoll;
	union {
		struct sockaddr a;
		struct sockaddr_un un;
		struct sockaddr_storage any;
	} to;
	socklen_t n_to;
	char host[300], path[300];
	char *key;
	struct conn *conns, *idle, *failed;
	struct conn *dead;        /* closed within a step, in which events of theirs may still be at hand */
	struct buf in;            /* READ_BYTES of scratch */
	int n_call;
	double checked;           /* when stalled calls were last looked for */
};

/* ---- the address ---------------------------------------------------------------------------------------------------- */

static int parse_unix(struct client *c, const char *path, struct moxie_err *err)
{
	c->to.un.sun_family = AF_UNIX;
	if (!*path || strlen(path) >= sizeof c->to.un.sun_path)
		return err_set(err, MOXIE_E_ARG, "the socket path \"%s\" has %zu bytes, wanted 1 .. %zu", path, strlen(path),
		               sizeof c->to.un.sun_path - 1);
	memcpy(c->to.un.sun_path, path, strlen(path));
	c->n_to = sizeof c->to.un;
	snprintf(c->host, sizeof c->host, "localhost");
	return 0;
}

static int parse_url(struct client *c, const char *url, struct moxie_err *err)
{
	if (!strncmp(url, "unix:", 5))
		return parse_unix(c, url + 5, err);
	char name[256], port[16] = "80";
	const char *p = url + 7, *end, *colon = NULL;
	for (const char *q = url; *q; q++)
		if ((unsigned char)*q <= ' ' || *q == 0x7f)
			return err_set(err, MOXIE_E_ARG, "the base URL \"%s\" has a space or control character", url);
	if (!strncmp(url, "https://", 8))
		return err_set(err, MOXIE_E_ARG, "the base URL is \"%s\": there is no TLS here, put a proxy between", url);
	if (strncmp(url, "http://", 7))
		return err_set(err, MOXIE_E_ARG, "the base URL is \"%s\", wanted http://HOST:PORT or unix:PATH", url);
	size_t n = strcspn(p, "/");
	end = p + n;
	bool is6 = *p == '[';
	const char *name_end = is6 ? memchr(p, ']', n) : memchr(p, ':', n);
	if (is6 && name_end)
		p++;
	colon = is6 && name_end ? name_end + 1 : name_end;
	size_t n_name = name_end ? (size_t)(name_end - p) : n;
	if ((is6 && !name_end) || !n_name || n_name >= sizeof name || n >= sizeof c->host || strlen(end) >= sizeof c->path)
		return err_set(err, MOXIE_E_ARG, "the base URL is \"%s\", wanted http://HOST:PORT or unix:PATH", url);
	if (colon && colon < end && (*colon != ':' || end - colon < 2 || end - colon > 6 ||
	                             strspn(colon + 1, "0123456789") < (size_t)(end - colon - 1)))
		return err_set(err, MOXIE_E_ARG, "the base URL \"%s\" has a port that is no number", url);
	if (colon && colon < end)
		snprintf(port, sizeof port, "%.*s", (int)(end - colon - 1), colon + 1);
	snprintf(name, sizeof name, "%.*s", (int)n_name, p);
	snprintf(c->host, sizeof c->host, "%.*s", (int)n, url + 7);
	snprintf(c->path, sizeof c->path, "%s", end);
	size_t n_path = strlen(c->path);
	while (n_path && c->path[n_path - 1] == '/')
		c->path[--n_path] = 0;
	struct addrinfo want = { .ai_socktype = SOCK_STREAM }, *got = NULL;
	int rc = getaddrinfo(name, port, &want, &got);
	if (rc)
		return err_set(err, MOXIE_E_IO, "%s has no address: %s", name, gai_strerror(rc));
	memcpy(&c->to, got->ai_addr, got->ai_addrlen);
	c->n_to = got->ai_addrlen;
	freeaddrinfo(got);
	return 0;
}

int client_open(struct client **out, const char *base_url, const char *key, struct moxie_err *err)
{
	struct client *c = calloc(1, sizeof *c);
	*out = NULL;
	if (!c)
		return err_nomem(err, sizeof *c, "the client");
	c->epoll = epoll_create1(EPOLL_CLOEXEC);
	int rc = c->epoll < 0 ? err_set(err, MOXIE_E_NOMEM, "no epoll: %s", strerror(errno)) : parse_url(c, base_url, err);
	for (const char *k = key; rc == 0 && k && *k; k++)
		if ((unsigned char)*k <= ' ' || *k == 0x7f)
			rc = err_set(err, MOXIE_E_ARG, "the API key has a space or control character");
	if (rc == 0 && key && *key && !(c->key = strdup(key)))
		rc = err_nomem(err, strlen(key), "the API key");
	if (rc == 0 && !(c->in.p = malloc(READ_BYTES)))
		rc = err_nomem(err, READ_BYTES, "what is read");
	c->checked = host_now();
	if (rc == 0)
		*out = c;
	else
		client_close(c);
	return rc;
}

/* ---- connections ------------------------------------------------------------------------------------------------------ */

/* Closes n; its memory lives until bury. */
static void conn_end(struct conn *n)
{
	struct client *c = n->c;
	for (struct conn **p = &c->idle; n->is_idle && *p; p = &(*p)->next_idle)
		if (*p == n) {
			*p = n->next_idle;
			break;
		}
	*n->prev = n->next;
	if (n->next)
		n->next->prev = n->prev;
	if (n->fd >= 0)
		close(n->fd);
	n->fd = -1;
	n->dead = true;
	n->next_dead = c->dead;
	c->dead = n;
}

static void bury(struct client *c)
{
	while (c->dead) {
		struct conn *n = c->dead;
		c->dead = n->next_dead;
		buf_free(&n->out);
		http_in_free(&n->in);
		free(n);
	}
}

void client_close(struct client *c)
{
	if (!c)
		return;
	while (c->conns)
		conn_end(c->conns);
	bury(c);
	if (c->epoll >= 0)
		close(c->epoll);
	free(c->key);
	buf_free(&c->in);
	free(c);
}

static void on_event(void *ud, const char *data, size_t n)
{
	struct call *call = ((struct conn *)ud)->call;
	call->n_event++;
	if (call->on_event)
		call->on_event(call, data, n);
}

/* The end of n's call is told by the next step, not by the one who started it. */
static void fail_later(struct conn *n, const char *why)
{
	if (!n->call->error[0])
		snprintf(n->call->error, sizeof n->call->error, "%s", why);
	if (n->failed)
		return;
	n->failed = true;
	n->next_failed = n->c->failed;
	n->c->failed = n;
}

static void watch(struct conn *n, int op, uint32_t what)
{
	struct epoll_event e = { .events = what, .data.ptr = n };
	if (epoll_ctl(n->c->epoll, op, n->fd, &e) < 0 && n->call)
		fail_later(n, strerror(errno));
}

static struct conn *conn_new(struct client *c)
{
	struct conn *n = calloc(1, sizeof *n);
	if (!n)
		return NULL;
	*n = (struct conn){ .c = c, .fd = -1, .next = c->conns, .prev = &c->conns, .in = { .on_event = on_event, .ud = n } };
	if (n->next)
		n->next->prev = &n->next;
	c->conns = n;
	return n;
}

static void conn_connect(struct conn *n)
{
	struct client *c = n->c;
	int one = 1;
	n->fd = socket(c->to.a.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (n->fd < 0 || (connect(n->fd, &c->to.a, c->n_to) < 0 && errno != EINPROGRESS)) {
		fail_later(n, strerror(errno));
		return;
	}
	if (c->to.a.sa_family != AF_UNIX)
		setsockopt(n->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	watch(n, EPOLL_CTL_ADD, EPOLLOUT);
}

static bool write_request(struct conn *n)
{
	const struct client *c = n->c;
	const struct call *call = n->call;
	n->out.n = n->n_out = 0;
	bool ok = buf_printf(&n->out, "%s %s%s HTTP/1.1\r\nHost: %s\r\nAccept: */*\r\n", call->body ? "POST" : "GET", c->path, call->path, c->host);
	if (c->key)
		ok = ok && buf_printf(&n->out, "Authorization: Bearer %s\r\n", c->key);
	if (call->body)
		ok = ok && buf_printf(&n->out, "Content-Type: application/json\r\nContent-Length: %zu\r\n", call->n_body);
	return ok && buf_puts(&n->out, "\r\n") && (!call->body || buf_append(&n->out, call->body, call->n_body));
}

/* ---- calls -------------------------------------------------------------------------------------------------------------- */

static void call_end(struct conn *n)
{
	struct client *c = n->c;
	struct call *call = n->call;
	bool keep = !n->failed && n->in.at == HTTP_WHOLE && n->in.keep;
	call->status = n->in.status;
	call->end = host_now();
	call->answer = n->in.body.p ? n->in.body.p : "";
	call->n_answer = n->in.body.n;
	call->conn = NULL;
	n->call = NULL;
	c->n_call--;
	if (keep) {
		n->used = n->is_idle = true;
		n->next_idle = c->idle;
		c->idle = n;
	}
	/* The answer lies in the connection: on_done may take the connection for its next call, but not before it has read. */
	struct buf answer = n->in.body;
	n->in.body = (struct buf){ 0 };
	if (!keep)
		conn_end(n);
	if (call->on_done)
		call->on_done(call);
	buf_free(&answer);
}

static void send_more(struct conn *n)
{
	while (n->n_out < n->out.n) {
		ssize_t got = send(n->fd, n->out.p + n->n_out, n->out.n - n->n_out, MSG_NOSIGNAL);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 && errno == EAGAIN) {
			watch(n, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT); /* the answer may come before the request is out */
			return;
		}
		if (got < 0)
			break; /* what the server said before it closed is still to be read */
		n->n_out += (size_t)got;
	}
	if (!n->reading)
		watch(n, EPOLL_CTL_MOD, EPOLLIN);
	n->reading = true;
}

static void begin(struct conn *n, struct call *call)
{
	n->call = call;
	call->conn = n;
	call->last = host_now();
	n->failed = n->reading = false;
	http_in_reset(&n->in);
	if (!write_request(n))
		fail_later(n, "out of memory");
	else if (n->fd < 0)
		conn_connect(n);
	else {
		send_more(n);
	}
}

bool client_start(struct client *c, struct call *call)
{
	call->status = 0;
	call->error[0] = 0;
	call->n_event = 0;
	call->again = false;
	call->start = host_now();
	call->end = 0;
	struct conn *n = c->idle;
	if (n)
		c->idle = n->next_idle;
	else if (!(n = conn_new(c))) {
		snprintf(call->error, sizeof call->error, "out of memory");
		call->conn = NULL;
		call->end = call->start;
		return false;
	}
	n->is_idle = false;
	c->n_call++;
	begin(n, call);
	return true;
}

void client_drop(struct client *c, struct call *call)
{
	struct conn *n = call->conn;
	if (!n)
		return;
	for (struct conn **p = &c->failed; *p; p = &(*p)->next_failed)
		if (*p == n) {
			*p = n->next_failed;
			break;
		}
	call->conn = NULL;
	c->n_call--;
	n->call = NULL;
	conn_end(n);
}

/* A kept connection that ended before a byte of the answer: the server had closed it when the request was sent. */
static bool send_again(struct conn *n)
{
	struct client *c = n->c;
	struct call *call = n->call;
	if (!n->used || call->again || n->in.at != HTTP_STATUS || n->in.frame.n)
		return false;
	struct conn *fresh = conn_new(c);
	if (!fresh)
		return false;
	call->again = true;
	n->call = NULL;
	conn_end(n);
	begin(fresh, call);
	return true;
}

static void read_more(struct conn *n)
{
	struct call *call = n->call;
	ssize_t got = recv(n->fd, n->c->in.p, READ_BYTES, 0);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (!call) { /* an idle connection: the server closes it, or speaks unasked */
		conn_end(n);
		return;
	}
	call->last = host_now();
	if (got <= 0) {
		const char *why = got < 0 ? strerror(errno) : NULL;
		if (send_again(n))
			return;
		if (!http_in_close(&n->in) || why)
			snprintf(call->error, sizeof call->error, "%s", why ? why : n->in.bad);
		n->failed = true;
		call_end(n);
		return;
	}
	bool ok = http_in_feed(&n->in, n->c->in.p, (size_t)got);
	if (!ok)
		snprintf(call->error, sizeof call->error, "%s", n->in.bad);
	if (!ok || n->in.at == HTTP_WHOLE)
		call_end(n);
}

static void end_failed(struct client *c)
{
	while (c->failed) {
		struct conn *n = c->failed;
		c->failed = n->next_failed;
		call_end(n);
	}
}

static void check_stalled(struct client *c)
{
	double t = host_now();
	if (t - c->checked < 0.5)
		return;
	c->checked = t;
	for (struct conn *n = c->conns; n; n = n->next) {
		double most = n->call && n->call->idle_seconds > 0 ? n->call->idle_seconds : 600;
		if (n->call && t - n->call->last > most)
			fail_later(n, "no byte came for too long");
	}
}

static void connected(struct conn *n)
{
	int why = 0;
	socklen_t size = sizeof why;
	if (n->call && !n->n_out && getsockopt(n->fd, SOL_SOCKET, SO_ERROR, &why, &size) == 0 && why)
		fail_later(n, strerror(why));
	else if (n->call)
		send_more(n);
}

void client_step(struct client *c, double seconds)
{
	struct epoll_event e[MAX_EVENTS];
	end_failed(c);
	int ms = seconds <= 0 ? 0 : seconds > 0.5 ? 500 : (int)(seconds * 1e3 + 0.999);
	int n = epoll_wait(c->epoll, e, MAX_EVENTS, ms);
	for (int i = 0; i < n; i++) {
		struct conn *conn = e[i].data.ptr;
		if (conn->dead || conn->failed)
			continue;
		if (!conn->reading && !conn->is_idle && e[i].events & (EPOLLOUT | EPOLLERR | EPOLLHUP))
			connected(conn);
		else
			read_more(conn);
	}
	end_failed(c);
	check_stalled(c);
	bury(c);
}

int client_busy(const struct client *c)
{
	return c->n_call;
}

void client_wait(struct client *c, struct call *call)
{
	if (!client_start(c, call))
		return;
	while (call->conn)
		client_step(c, 1);
}
