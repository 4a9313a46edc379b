/* http.c - the server's life: its socket, its signals, its limits, its end. */
#include <errno.h>
#include <event2/listener.h>
#include <event2/util.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <arpa/inet.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/host.h"
#include "serve/serve_int.h"

#define STEP_SECONDS 60 /* no step takes so long */

void server_log(const struct server *s, enum serve_level level, const char *fmt, ...)
{
	char text[640];
	if (!s->p.log)
		return;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	for (char *c = text; *c; c++)
		if ((unsigned char)*c < ' ')
			*c = '?';
	s->p.log(s->p.ud, level, text);
}

/* ---- the end ---------------------------------------------------------------------------------------------------------- */

void server_check_drained(struct server *s)
{
	if (s->draining && !s->stopping && !s->n_job && !s->n_reply) {
		s->stopping = true;
		event_base_loopexit(s->base, NULL);
	}
}

static void stop_now(struct server *s)
{
	s->stopping = true;
	event_base_loopbreak(s->base);
}

static void on_signal(evutil_socket_t sig, short what, void *arg)
{
	(void)sig, (void)what;
	struct server *s = arg;
	if (s->draining) {
		stop_now(s);
		return;
	}
	s->draining = true;
	if (s->socket)
		evhttp_del_accept_socket(s->http, s->socket);
	s->socket = NULL;
	if (s->p.on_drain)
		s->p.on_drain(s->p.ud, s->n_job);
	struct timeval t = { .tv_sec = s->p.drain_seconds };
	event_add(s->drain_end, &t);
	server_check_drained(s);
}

static void on_drain_end(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	struct server *s = arg;
	if (s->cancelled || !s->n_job) {
		stop_now(s);
		return;
	}
	server_log(s, SERVE_WARN, "%d requests have not ended in %d s and are cancelled", s->n_job, s->p.drain_seconds);
	s->cancelled = true;
	for (struct job *j = s->jobs; j; j = j->next)
		job_abort(j);
	struct timeval t = { .tv_sec = 2 }; /* their clients are told, those that listen */
	event_add(s->drain_end, &t);
}

/* ---- connections -------------------------------------------------------------------------------------------------------- */

static void accept_if(struct server *s, bool yes)
{
	if (!s->socket || s->accepting == yes)
		return;
	struct evconnlistener *l = evhttp_bound_socket_get_listener(s->socket);
	if (yes)
		evconnlistener_enable(l);
	else
		evconnlistener_disable(l);
	s->accepting = yes;
}

/* A step that never ends (a device that hangs, say) is for whoever watches the service to find. */
static void tell_alive(struct server *s)
{
	struct moxie_engine_stats st = { .struct_size = sizeof st };
	double now = host_now();
	if (!s->p.on_alive || moxie_engine_get_stats(s->e, &st) < 0)
		return;
	if (!st.n_running || st.n_steps != s->n_steps || s->alive_at == 0)
		s->alive_at = now;
	s->n_steps = st.n_steps;
	if (now - s->alive_at < STEP_SECONDS)
		s->p.on_alive(s->p.ud);
}

/* The library has no limit on connections and does not tell when one ends, so the files that are open are counted. */
static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	struct server *s = arg;
	tell_alive(s);
	bool room = conns_check(s) < s->p.max_connections + 32;
	if (!room && s->accepting)
		server_log(s, SERVE_WARN, "%d connections: no more for now", s->p.max_connections);
	accept_if(s, room);
}

/* No file descriptor is free: trying again at once would only burn the processor. */
static void on_accept_error(struct evconnlistener *l, void *arg)
{
	(void)l;
	struct server *s = arg;
	server_log(s, SERVE_ERROR, "a connection cannot be accepted: %s", strerror(errno));
	accept_if(s, false);
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	jobs_take(arg);
}

/* ---- the socket ---------------------------------------------------------------------------------------------------------- */

/* A socket file that nobody listens on is left from a server that was killed. */
static bool is_dead_socket(const char *path, const struct sockaddr_un *a)
{
	struct stat st;
	if (lstat(path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return false;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool dead = fd >= 0 && connect(fd, (const struct sockaddr *)a, sizeof *a) < 0 && errno == ECONNREFUSED;
	if (fd >= 0)
		close(fd);
	return dead;
}

static int open_unix(struct server *s, int *fd, struct moxie_err *err)
{
	const char *path = s->p.unix_path;
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	if (!*path || strlen(path) >= sizeof a.sun_path)
		return err_set(err, MOXIE_E_ARG, "the socket path \"%s\" has %zu bytes, wanted 1 .. %zu", path, strlen(path), sizeof a.sun_path - 1);
	memcpy(a.sun_path, path, strlen(path));
	if (is_dead_socket(path, &a))
		unlink(path);
	*fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	mode_t old = umask(0777 & ~(mode_t)s->p.unix_mode);
	int rc = *fd < 0 ? -1 : bind(*fd, (struct sockaddr *)&a, sizeof a);
	umask(old);
	if (rc < 0 || listen(*fd, 1024) < 0)
		return err_set(err, MOXIE_E_IO, "cannot listen on %s: %s", path, strerror(errno));
	return 0;
}

static int open_tcp(struct server *s, int *fd, struct moxie_err *err)
{
	struct sockaddr_in a4 = { .sin_family = AF_INET, .sin_port = htons((uint16_t)s->p.port) };
	struct sockaddr_in6 a6 = { .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)s->p.port) };
	const char *host = s->p.host;
	bool is6 = inet_pton(AF_INET6, host, &a6.sin6_addr) == 1;
	if (!is6 && inet_pton(AF_INET, strcmp(host, "localhost") ? host : "127.0.0.1", &a4.sin_addr) != 1)
		return err_set(err, MOXIE_E_ARG, "the host \"%s\" is not an IPv4 or IPv6 address", host);
	if (s->p.port < 0 || s->p.port > 65535)
		return err_set(err, MOXIE_E_ARG, "the port is %d, wanted 0 .. 65535", s->p.port);
	*fd = socket(is6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int one = 1;
	if (*fd >= 0)
		setsockopt(*fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	const struct sockaddr *a = is6 ? (struct sockaddr *)&a6 : (struct sockaddr *)&a4;
	if (*fd < 0 || bind(*fd, a, is6 ? sizeof a6 : sizeof a4) < 0 || listen(*fd, 1024) < 0)
		return err_set(err, MOXIE_E_IO, "cannot listen on %s port %d: %s", host, s->p.port, strerror(errno));
	socklen_t n = is6 ? sizeof a6 : sizeof a4;
	if (getsockname(*fd, is6 ? (struct sockaddr *)&a6 : (struct sockaddr *)&a4, &n) == 0)
		s->p.port = ntohs(is6 ? a6.sin6_port : a4.sin_port);
	return 0;
}

static int open_socket(struct server *s, struct moxie_err *err)
{
	int fd = -1;
	int rc = s->p.unix_path ? open_unix(s, &fd, err) : open_tcp(s, &fd, err);
	if (rc == 0 && !(s->socket = evhttp_accept_socket_with_handle(s->http, fd)))
		rc = err_nomem(err, 0, "the listening socket");
	if (rc < 0 && fd >= 0)
		close(fd);
	if (rc == 0)
		evconnlistener_set_error_cb(evhttp_bound_socket_get_listener(s->socket), on_accept_error);
	s->accepting = rc == 0;
	return rc;
}

/* ---- life ---------------------------------------------------------------------------------------------------------------------- */

static int check(struct server *s, const struct serve_params *p, struct moxie_err *err)
{
	if (p->struct_size != sizeof *p)
		return err_set(err, MOXIE_E_ARG, "struct_size of the server's parameters is %zu, wanted %zu", p->struct_size, sizeof *p);
	s->p = *p;
	struct serve_params *q = &s->p;
	s->info.struct_size = sizeof s->info;
	int rc = moxie_model_get_info(s->m, &s->info);
	if (rc < 0)
		return err_set(err, rc, "the model tells nothing about itself");
	if (!q->host || !*q->host)
		q->host = "127.0.0.1";
	if (q->api_key && !*q->api_key)
		q->api_key = NULL;
	if (!q->metrics_prefix || !*q->metrics_prefix)
		q->metrics_prefix = "sglang";
	if (!q->reasoning_field || !*q->reasoning_field)
		q->reasoning_field = "reasoning_content";
	if (!q->admin_key || !*q->admin_key)
		q->admin_key = q->api_key;
	if (!q->model_name || !*q->model_name)
		q->model_name = "moxie";
	if (!q->model_path)
		q->model_path = q->model_name;
	if (q->n_ctx <= 0)
		q->n_ctx = s->info.n_ctx < 8192 ? s->info.n_ctx : 8192;
	q->unix_mode = q->unix_mode ? q->unix_mode : 0600;
	q->max_body = q->max_body ? q->max_body : 16 << 20;
	q->max_header = q->max_header ? q->max_header : 64 << 10;
	q->max_output = q->max_output ? q->max_output : 4 << 20;
	q->max_connections = q->max_connections > 0 ? q->max_connections : 4096;
	q->read_seconds = q->read_seconds > 0 ? q->read_seconds : 60;
	q->drain_seconds = q->drain_seconds > 0 ? q->drain_seconds : 30;
	json_t *name = json_string(q->model_name), *path = json_string(q->model_path);
	rc = name && path ? 0 : err_set(err, MOXIE_E_ARG, "the model's name or path is not UTF-8");
	json_decref(name);
	json_decref(path);
	for (const char *c = q->api_key; rc == 0 && c && *c; c++)
		if ((unsigned char)*c <= ' ' || *c == 0x7f)
			rc = err_set(err, MOXIE_E_ARG, "the API key has a space or control character");
	return rc;
}

static int create(struct server *s, struct moxie_err *err)
{
	s->base = event_base_new();
	s->http = s->base ? evhttp_new(s->base) : NULL;
	s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!s->http || s->wake_fd < 0)
		return err_nomem(err, 0, "the event loop");
	s->wake = event_new(s->base, s->wake_fd, EV_READ | EV_PERSIST, on_wake, s);
	s->on_term = evsignal_new(s->base, SIGTERM, on_signal, s);
	s->on_int = evsignal_new(s->base, SIGINT, on_signal, s);
	s->tick = event_new(s->base, -1, EV_PERSIST, on_tick, s);
	s->drain_end = event_new(s->base, -1, 0, on_drain_end, s);
	struct timeval second = { .tv_sec = 1 };
	if (!s->wake || !s->on_term || !s->on_int || !s->tick || !s->drain_end || event_add(s->wake, NULL) < 0 ||
	    event_add(s->on_term, NULL) < 0 || event_add(s->on_int, NULL) < 0 || event_add(s->tick, &second) < 0)
		return err_nomem(err, 0, "the event loop");
	evhttp_set_max_headers_size(s->http, (ev_ssize_t)s->p.max_header);
	/* The library's own 413 is a page of HTML: a body up to twice too large is read, so that the answer can be ours. */
	evhttp_set_max_body_size(s->http, s->p.max_body < SIZE_MAX / 8 ? (ev_ssize_t)(2 * s->p.max_body) : EV_SSIZE_MAX);
	evhttp_set_timeout(s->http, s->p.read_seconds);
	evhttp_set_flags(s->http, EVHTTP_SERVER_LINGERING_CLOSE); /* a client that still sends its body gets to see the 413 */
	evhttp_set_default_content_type(s->http, NULL);
	evhttp_set_allowed_methods(s->http, EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_HEAD | EVHTTP_REQ_PUT | EVHTTP_REQ_DELETE |
	                                    EVHTTP_REQ_OPTIONS | EVHTTP_REQ_PATCH);
	evhttp_set_gencb(s->http, route_request, s);
	return open_socket(s, err);
}

static void server_free(struct server *s)
{
	struct event *all[] = { s->wake, s->on_term, s->on_int, s->tick, s->drain_end };
	if (s->http)
		evhttp_free(s->http);
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		if (all[i])
			event_free(all[i]);
	if (s->base)
		event_base_free(s->base);
	if (s->wake_fd >= 0)
		close(s->wake_fd);
	buf_free(&s->scratch);
	conns_free(s);
	pthread_mutex_destroy(&s->lock);
}

static void use_all_files(void)
{
	struct rlimit r;
	if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
		r.rlim_cur = r.rlim_max;
		setrlimit(RLIMIT_NOFILE, &r);
	}
}

static const struct server *log_to; /* the library's log has no argument */
static void on_library_log(int level, const char *text)
{
	if (log_to && level >= EVENT_LOG_WARN)
		server_log(log_to, SERVE_DEBUG, "libevent: %s", text);
}

static void tell_ready(struct server *s)
{
	char url[300];
	if (s->p.unix_path)
		snprintf(url, sizeof url, "unix:%s", s->p.unix_path);
	else
		snprintf(url, sizeof url, strchr(s->p.host, ':') ? "http://[%s]:%d" : "http://%s:%d", s->p.host, s->p.port);
	if (s->p.on_ready)
		s->p.on_ready(s->p.ud, url, s->p.port);
}

int serve_run(moxie_model *m, moxie_engine *e, const struct serve_params *p, struct moxie_err *err)
{
	struct server *s = calloc(1, sizeof *s);
	if (!s)
		return err_nomem(err, sizeof *s, "the server");
	s->m = m;
	s->e = e;
	s->wake_fd = -1;
	s->ready_end = &s->ready;
	s->started_at = (long)time(NULL);
	pthread_mutex_init(&s->lock, NULL);
	metrics_init(&s->metrics);
	struct sigaction ignore = { .sa_handler = SIG_IGN }, old;
	sigaction(SIGPIPE, &ignore, &old);
	use_all_files();
	int rc = check(s, p, err);
	log_to = s;
	event_set_log_callback(on_library_log);
	if (rc == 0)
		rc = create(s, err);
	if (rc == 0) {
		tell_ready(s);
		event_base_dispatch(s->base);
		/* Whoever is still connected is let go; requests without a reader are cancelled, and end one by one. */
		s->stopping = true;
		evhttp_free(s->http);
		s->http = NULL;
		while (s->n_job)
			event_base_loop(s->base, EVLOOP_ONCE);
		if (s->p.unix_path)
			unlink(s->p.unix_path);
	}
	server_free(s);
	log_to = NULL;
	event_set_log_callback(NULL);
	sigaction(SIGPIPE, &old, NULL);
	free(s);
	return rc;
}
