/* slow.c - clients that read a byte a second, and clients that send a byte a second: do others notice?
 *
 * Of the readers, one half has asked for a stream, one half for 300 kB at once: more than the kernel takes off the server's hands.
 *
 * Before, during, during, after: each is a quarter of --seconds, in which `width` others ask one short question after the other.
 */
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "raw.h"

struct quarter {
	struct load *l;
	struct kind kind;
	double *ms, until;
	int n, cap, n_bad;
};

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static void on_end(struct asked *a)
{
	struct quarter *q = a->ud;
	q->n_bad += ask_verdict(a) != RIGHT;
	if (q->n == q->cap) {
		q->cap = q->cap ? 2 * q->cap : 1024;
		q->ms = realloc(q->ms, (size_t)q->cap * sizeof *q->ms);
		if (!q->ms)
			die("out of memory");
	}
	q->ms[q->n++] = 1e3 * (a->call.end - a->call.start);
	if (host_now() < q->until)
		ask_start(q->l, a, &q->kind);
}

struct crawl {
	int *reader, *sender;
	int n;
	struct buf stream, large;
	size_t n_sent;       /* bytes that each sender has sent */
	double next;
	long long n_read;
};

/* Once a second: each reader takes a byte, each sender sends one of a head that never ends. */
static void crawl(struct crawl *c)
{
	static const char head[] = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Slow: ";
	char one;
	if (host_now() < c->next)
		return;
	c->next = host_now() + 1;
	one = c->n_sent < sizeof head - 1 ? head[c->n_sent] : 'a';
	c->n_sent++;
	for (int i = 0; i < c->n; i++) {
		char in;
		if (c->reader[i] >= 0 && recv(c->reader[i], &in, 1, 0) == 1)
			c->n_read++;
		if (c->sender[i] >= 0)
			(void)!send(c->sender[i], &one, 1, MSG_NOSIGNAL);
	}
}

static void crawl_begin(struct load *l, struct crawl *c)
{
	*c = (struct crawl){ .n = l->slow, .reader = calloc((size_t)l->slow + 1, sizeof(int)), .sender = calloc((size_t)l->slow + 1, sizeof(int)) };
	struct buf text = { 0 };
	buf_puts(&text, "{\"prompt\": \"");
	for (int i = 0; i < 60000; i++)
		buf_puts(&text, i % 9 ? "x " : "the ");
	if (!buf_puts(&text, "\"}"))
		die("out of memory");
	raw_request(&c->large, "/tokenize", text.p);
	raw_request(&c->stream, "/generate", "{\"text\": \"Maya has\", \"stream\": true, \"sampling_params\": {\"max_new_tokens\": 60, \"ignore_eos\": true, "
	            "\"temperature\": 0}}");
	buf_free(&text);
	for (int i = 0; i < c->n; i++) {
		const struct buf *ask = i % 2 ? &c->large : &c->stream;
		c->reader[i] = raw_connect(l, 4096);
		c->sender[i] = raw_connect(l, 0);
		if (c->reader[i] < 0 || c->sender[i] < 0)
			die("no connection for slow client %d: %s", i, strerror(errno));
		for (size_t n = 0; n < ask->n;) { /* asking is not what they are slow in */
			ssize_t got = send(c->reader[i], ask->p + n, ask->n - n, MSG_NOSIGNAL);
			if (got < 0 && errno != EAGAIN)
				die("a slow reader cannot even ask: %s", strerror(errno));
			n += got > 0 ? (size_t)got : 0;
			if (got < 0)
				usleep(1000);
		}
	}
}

/* How many of them the server has let go: what lies in the kernel's buffers comes first. */
static int crawl_gone(const int *fd, int n)
{
	static char in[1 << 20];
	char *gone = calloc((size_t)n + 1, 1);
	int n_gone = 0;
	if (!gone)
		die("out of memory");
	for (double end = host_now() + 3; host_now() < end && n_gone < n; usleep(20000))
		for (int i = 0; i < n; i++) {
			ssize_t got = gone[i] ? 1 : recv(fd[i], in, sizeof in, 0);
			gone[i] |= got == 0 || (got < 0 && errno != EAGAIN);
			n_gone += got == 0 || (got < 0 && errno != EAGAIN);
		}
	free(gone);
	return n_gone;
}

static void crawl_end(struct crawl *c)
{
	for (int i = 0; i < c->n; i++)
		close(c->reader[i]), close(c->sender[i]);
	buf_free(&c->stream);
	buf_free(&c->large);
	free(c->reader);
	free(c->sender);
}

static void run_quarter(struct load *l, struct quarter *q, double seconds, struct crawl *c)
{
	struct asked *a = calloc((size_t)l->width, sizeof *a);
	if (!a)
		die("out of memory");
	q->l = l;
	q->n = q->n_bad = 0;
	q->until = host_now() + seconds;
	for (int i = 0; i < l->width; i++) {
		a[i].ud = q;
		a[i].on_end = on_end;
		ask_start(l, &a[i], &q->kind);
	}
	while (client_busy(l->client)) {
		client_step(l->client, 0.1);
		if (c)
			crawl(c);
	}
	qsort(q->ms, (size_t)q->n, sizeof *q->ms, by_value);
	for (int i = 0; i < l->width; i++)
		buf_free(&a[i].text);
	free(a);
}

static void print_quarter(const struct quarter *q, const char *name)
{
	printf(",\"%s\":{\"n\":%d,\"bad\":%d,\"p50_ms\":%.2f,\"p99_ms\":%.2f,\"max_ms\":%.2f}", name, q->n, q->n_bad, q->ms[q->n / 2], q->ms[q->n * 99 / 100],
	       q->ms[q->n - 1]);
}

int slow_main(struct load *l)
{
	struct quarter q = { .kind = { .path = "/v1/completions", .stream = true } };
	q.kind.body = strdup("{\"prompt\": \"Tom has 4 pears\", \"max_tokens\": 8, \"ignore_eos\": true, \"temperature\": 0, \"stream\": true, "
	                     "\"stream_options\": {\"include_usage\": true}}");
	kinds_ask_alone(l, &q.kind, 1);
	double part = (l->seconds > 0 ? l->seconds : 20) / 4, p99[4];
	struct crawl c;
	int n_bad = 0;
	printf("{\"test\":\"slow\",\"readers\":%d,\"senders\":%d,\"width\":%d", l->slow, l->slow, l->width);
	for (int i = 0; i < 4; i++) {
		static const char *const name[] = { "before", "during", "during_2", "after" };
		if (i == 1) {
			crawl_begin(l, &c);
			while (metric(l, "num_running_reqs") + metric(l, "num_queue_reqs") > 0) /* their own tokens are made: what is left is slow */
				crawl(&c);
		}
		if (i == 3) {
			int readers = crawl_gone(c.reader, c.n), senders = crawl_gone(c.sender, c.n);
			printf(",\"readers_cut\":%d,\"senders_cut\":%d,\"seconds_slow\":%zu", readers, senders, c.n_sent);
			crawl_end(&c);
		}
		run_quarter(l, &q, part, i == 1 || i == 2 ? &c : NULL);
		print_quarter(&q, name[i]);
		p99[i] = q.ms[q.n * 99 / 100];
		n_bad += q.n_bad;
	}
	double calm = (p99[0] + p99[3]) / 2, busy = (p99[1] + p99[2]) / 2;
	printf(",\"p99_change_percent\":%.1f,\"rss_kb\":%ld}\n", 100 * (busy / calm - 1), rss_kb(l->pid));
	free(q.ms);
	free(q.kind.body);
	free(q.kind.want);
	return n_bad != 0;
}
