/* leave.c - clients that go away: in the middle of a request, while it waits, while it is read, while it is answered; by closing, by a
 * reset, by closing their half.  Meanwhile others ask, and must not notice; afterwards nothing may be held.
 */
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "raw.h"

enum phase { IN_HEAD, IN_BODY, AT_ONCE, SOON, AT_FIRST_BYTE, IN_ANSWER, RESET_IN_ANSWER, HALF_OPEN, N_PHASE };
static const char *const phase_name[N_PHASE] = { "in_head", "in_body", "at_once", "soon", "at_first_byte", "in_answer", "reset_in_answer", "half_open" };

struct leaver {
	int fd;
	enum phase phase;
	double at;           /* when it leaves; half-open: when it closes its half, then when patience ends */
	size_t after, n_read; /* bytes of the answer */
	bool half;
};

struct leaving {
	struct load *l;
	struct leaver *who;
	struct kind *kind;
	struct asked stayer[4];
	int n_kind, n_begun, n_left, n_phase[N_PHASE], n_ended_first, n_not_let_go, n_no_socket, n_verdict[N_VERDICT];
};

static void leave(struct leaving *g, struct leaver *w)
{
	struct linger now = { .l_onoff = 1 };
	if (w->phase == RESET_IN_ANSWER)
		setsockopt(w->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
	close(w->fd);
	w->fd = -1;
	g->n_left++;
	g->n_phase[w->phase]++;
}

static void begin(struct leaving *g, struct leaver *w)
{
	struct load *l = g->l;
	static struct buf out;
	char body[512];
	int n_prompt = draw(l, 5) ? 10 : 600; /* a long prompt is left while it is prefilled */
	struct buf text = { 0 };
	for (int i = 0; i < n_prompt; i++)
		buf_printf(&text, "%d ", (int)draw(l, 1000));
	*w = (struct leaver){ .fd = raw_connect(l, 0), .phase = (enum phase)draw(l, N_PHASE), .after = 1 + draw(l, 5000) };
	if (w->fd < 0) {
		buf_free(&text);
		g->n_no_socket++;
		if (g->n_no_socket > 1000)
			die("no connection: %s", strerror(errno));
		return;
	}
	g->n_begun++;
	struct buf all = { 0 };
	snprintf(body, sizeof body, "\", \"stream\": true, \"ignore_eos\": true, \"temperature\": 0, \"max_tokens\": %d}", (int)(200 + draw(l, 800)));
	buf_printf(&all, "{\"prompt\": \"%s%s", text.p, body);
	raw_request(&out, "/v1/completions", all.p);
	size_t head = (size_t)(strstr(out.p, "\r\n\r\n") - out.p), n = out.n;
	if (w->phase == IN_HEAD)
		n = 1 + draw(l, head);
	else if (w->phase == IN_BODY)
		n = head + 4 + draw(l, out.n - head - 4);
	if (send(w->fd, out.p, n, MSG_NOSIGNAL) != (ssize_t)n)
		die("a request of %zu bytes does not fit the socket", n);
	w->at = host_now() + (w->phase == AT_ONCE ? 0 : w->phase == AT_FIRST_BYTE || w->phase >= IN_ANSWER ? 30 : 1e-3 * (double)draw(l, 30));
	if (w->phase == HALF_OPEN)
		w->at = host_now() + 1e-3 * (double)draw(l, 60);
	if (w->phase == AT_FIRST_BYTE)
		w->after = 1;
	buf_free(&text);
	buf_free(&all);
}

static void read_some(struct leaving *g, struct leaver *w)
{
	char in[16384];
	ssize_t got = recv(w->fd, in, sizeof in, 0);
	if (got < 0 && errno == EAGAIN)
		return;
	if (got <= 0) { /* the server closed: right for one that closed its half, else it was too quick for us */
		g->n_ended_first += !w->half;
		leave(g, w);
		return;
	}
	w->n_read += (size_t)got;
	if (!w->half && w->phase >= AT_FIRST_BYTE && w->phase != HALF_OPEN && w->n_read >= w->after)
		leave(g, w);
}

static void look_at_clock(struct leaving *g, struct leaver *w)
{
	double t = host_now();
	if (t < w->at)
		return;
	if (w->phase == HALF_OPEN && !w->half) {
		shutdown(w->fd, SHUT_WR);
		w->half = true;
		w->at = t + 10;
		return;
	}
	g->n_not_let_go += w->half;
	leave(g, w);
}

static void stayer_end(struct asked *a)
{
	struct leaving *g = a->ud;
	g->n_verdict[ask_verdict(a)]++;
	if (g->n_left < g->l->n)
		ask_start(g->l, a, &g->kind[draw(g->l, (uint64_t)g->n_kind)]);
}

static void run(struct leaving *g)
{
	struct load *l = g->l;
	struct pollfd *p = calloc((size_t)l->width, sizeof *p);
	if (!p)
		die("out of memory");
	for (int i = 0; i < 4; i++) {
		g->stayer[i].ud = g;
		g->stayer[i].on_end = stayer_end;
		ask_start(l, &g->stayer[i], &g->kind[draw(l, (uint64_t)g->n_kind)]);
	}
	while (g->n_left < l->n) {
		for (int i = 0; i < l->width; i++) {
			if (g->who[i].fd < 0 && g->n_begun < l->n)
				begin(g, &g->who[i]);
			p[i] = (struct pollfd){ .fd = g->who[i].fd, .events = POLLIN };
		}
		poll(p, (nfds_t)l->width, 2);
		for (int i = 0; i < l->width; i++) {
			if (p[i].fd >= 0 && p[i].revents)
				read_some(g, &g->who[i]);
			if (g->who[i].fd >= 0)
				look_at_clock(g, &g->who[i]);
		}
		client_step(l->client, 0);
	}
	free(p);
}

/* One request runs alone, its client leaves: how long until nothing runs, and how many steps come first?  A step or two pass on
 * the way here, between reading the count and closing. */
static double let_go_alone(struct load *l, int times, double *most_steps)
{
	struct buf out = { 0 };
	double most = 0;
	char in[4096];
	raw_request(&out, "/v1/completions", "{\"prompt\": \"Maya has\", \"stream\": true, \"ignore_eos\": true, \"max_tokens\": 4000, \"temperature\": 0}");
	for (int i = 0; i < times; i++) {
		int fd = raw_connect(l, 0);
		struct pollfd p = { .fd = fd, .events = POLLIN };
		if (fd < 0 || send(fd, out.p, out.n, MSG_NOSIGNAL) != (ssize_t)out.n)
			die("no connection");
		for (int k = 0; k < 5; k++) /* it decodes */
			if (poll(&p, 1, 10000) != 1 || recv(fd, in, sizeof in, 0) <= 0)
				die("no answer");
		double steps = metric(l, "num_steps_total");
		close(fd);
		double took = wait_idle(l, 10);
		steps = metric(l, "num_steps_total") - steps;
		*most_steps = steps > *most_steps ? steps : *most_steps;
		most = took > most ? took : most;
	}
	buf_free(&out);
	return most;
}

int leave_main(struct load *l)
{
	struct leaving g = { .l = l, .n_kind = l->n < 600 ? 20 : 60, .who = calloc((size_t)l->width, sizeof *g.who) };
	if (!g.who)
		die("out of memory");
	for (int i = 0; i < l->width; i++)
		g.who[i].fd = -1;
	g.kind = kinds_make(l, g.n_kind);
	kinds_ask_alone(l, g.kind, g.n_kind);
	double aborted = metric(l, "num_aborted_requests_total"), start = host_now();
	int fd_before = n_fd(l->pid);
	run(&g);
	double seconds = host_now() - start;
	while (client_busy(l->client))
		client_step(l->client, 1);
	double idle = wait_idle(l, 30);
	aborted = metric(l, "num_aborted_requests_total") - aborted;
	double steps = 0, alone = let_go_alone(l, l->n < 600 ? 10 : 100, &steps), held = metric(l, "num_used_tokens");
	int rest = l->n;
	g.n_left = l->n; /* once more each, after all that */
	for (int i = 0; i < g.n_kind; i++) {
		ask_start(l, &g.stayer[0], &g.kind[i]);
		while (client_busy(l->client))
			client_step(l->client, 1);
	}
	printf("{\"test\":\"leave\",\"n\":%d,\"width\":%d,\"seconds\":%.1f", rest, l->width, seconds);
	for (int i = 0; i < N_PHASE; i++)
		printf(",\"%s\":%d", phase_name[i], g.n_phase[i]);
	for (int v = 0; v < N_VERDICT; v++)
		printf(",\"others_%s\":%d", verdict_name[v], g.n_verdict[v]);
	printf(",\"aborted\":%.0f,\"answered_first\":%d,\"half_open_not_let_go\":%d,\"idle_after_ms\":%.1f,\"alone_idle_after_ms\":%.1f,\"alone_steps\":%.0f,\"pages_lost\":%.0f,\"tokens_at_idle\":%.0f,"
	       "\"files_before\":%d,\"files\":%d}\n", aborted, g.n_ended_first, g.n_not_let_go, 1e3 * idle, 1e3 * alone, steps, pages_lost(l), held, fd_before, n_fd(l->pid));
	int bad = g.n_verdict[WRONG] + g.n_verdict[LOST] + g.n_verdict[SERVER_ERROR] + g.n_verdict[CLIENT_ERROR] + g.n_not_let_go + (held != 0) + (pages_lost(l) != 0);
	for (int i = 0; i < 4; i++)
		buf_free(&g.stayer[i].text);
	kinds_free(g.kind, g.n_kind);
	free(g.who);
	return bad != 0;
}
