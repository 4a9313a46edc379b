/* conns.c - how old each connection's request or answer is.
 *
 * The library's limit is on silence: a client that sends or takes a byte a second never meets it, and keeps its place for days.
 * So a connection has a limit on the whole, too: for its request to be there, and for its answer to be taken once it is all
 * written.  Nothing tells when the library frees a connection, so they are known by file descriptor and inode, and looked at
 * once a second; one that is too old is shut down, which the library sees as the client leaving.
 */
#include <dirent.h>
#include <event2/bufferevent.h>
#include <event2/listener.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/host.h"
#include "serve/serve_int.h"

struct conn_age {
	ino_t ino;          /* of the socket that the rest is about; 0: none yet */
	enum conn_state state;
	double since;
};

static struct conn_age *age_of(struct server *s, int fd)
{
	if (fd < 0)
		return NULL;
	if ((size_t)fd >= s->n_age) {
		size_t n = (size_t)fd + 256;
		struct conn_age *p = realloc(s->age, n * sizeof *p);
		if (!p)
			return NULL;
		memset(p + s->n_age, 0, (n - s->n_age) * sizeof *p);
		s->age = p;
		s->n_age = n;
	}
	return &s->age[fd];
}

void conns_mark(struct server *s, struct evhttp_connection *c, enum conn_state state)
{
	int fd = c ? (int)bufferevent_getfd(evhttp_connection_get_bufferevent(c)) : -1;
	struct conn_age *a = age_of(s, fd);
	struct stat st;
	if (a && fstat(fd, &st) == 0)
		*a = (struct conn_age){ st.st_ino, state, host_now() };
}

/* A client's connection, and not the socket that listens or one of somebody else in this process. */
static bool is_ours(const struct server *s, int fd)
{
	union {
		struct sockaddr a;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_un un;
	} at = { 0 };
	socklen_t n = sizeof at, n_listens = sizeof(int);
	int listens = 1;
	if (getsockname(fd, &at.a, &n) < 0 || getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &n_listens) < 0 || listens)
		return false;
	if (s->p.unix_path)
		return at.a.sa_family == AF_UNIX && !strncmp(at.un.sun_path, s->p.unix_path, sizeof at.un.sun_path);
	return (at.a.sa_family == AF_INET && ntohs(at.in.sin_port) == s->p.port) ||
	       (at.a.sa_family == AF_INET6 && ntohs(at.in6.sin6_port) == s->p.port);
}

static void look_at(struct server *s, int fd, double now)
{
	struct stat st;
	struct conn_age *a = age_of(s, fd);
	if (!a || fstat(fd, &st) < 0 || !S_ISSOCK(st.st_mode))
		return;
	if (a->ino != st.st_ino)
		*a = (struct conn_age){ st.st_ino, is_ours(s, fd) ? CONN_READING : CONN_BUSY, now };
	if (a->state != CONN_BUSY && now - a->since > 2.0 * s->p.read_seconds) {
		server_log(s, SERVE_INFO, "a client is too slow in %s and is dropped", a->state == CONN_READING ? "sending its request" : "reading its answer");
		shutdown(fd, SHUT_RDWR);
		a->state = CONN_BUSY; /* not again */
	}
}

int conns_check(struct server *s)
{
	DIR *d = opendir("/proc/self/fd");
	double now = host_now();
	int n = 0;
	if (!d)
		return -1;
	for (const struct dirent *e; (e = readdir(d)); n++)
		if (*e->d_name != '.')
			look_at(s, (int)strtol(e->d_name, NULL, 10), now);
	closedir(d);
	return n;
}

void conns_free(struct server *s)
{
	free(s->age);
}
