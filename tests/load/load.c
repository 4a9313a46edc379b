/* load.c - `load TEST --url URL ...`: the load tests of docs/reliability.md.  Prints one JSON row; the exit code is 1 when it fails. */
#include "load.h"

#include <dirent.h>
#include <getopt.h>
#include <math.h>
#include <unistd.h>

#define OPEN_WIDTH 256 /* clients of a soak whose requests come at a rate */

/* ---- the server's numbers ------------------------------------------------------------------------------------------------ */

struct text_of {
	char *text;
};

static void keep_text(struct call *c)
{
	struct text_of *t = c->ud;
	if (!c->error[0] && c->status == 200)
		t->text = strdup(c->answer);
}

double metric(struct load *l, const char *name)
{
	struct text_of t = { 0 };
	struct call c = { .path = "/metrics", .on_done = keep_text, .ud = &t, .idle_seconds = 30 };
	char head[128];
	client_wait(l->client, &c);
	if (!t.text)
		die("no metrics: HTTP %d, %s", c.status, c.error);
	snprintf(head, sizeof head, "\nsglang:%s{", name);
	char *at = strstr(t.text, head), *value = at ? strchr(at, '}') : NULL;
	if (!value)
		die("no metric %s", name);
	double v = strtod(value + 1, NULL);
	free(t.text);
	return v;
}

double wait_idle(struct load *l, double at_most)
{
	double start = host_now();
	while (metric(l, "num_running_reqs") + metric(l, "num_queue_reqs") > 0)
		if (host_now() - start > at_most)
			die("after %.0f s %g requests run and %g wait", at_most, metric(l, "num_running_reqs"), metric(l, "num_queue_reqs"));
	return host_now() - start;
}

double pages_lost(struct load *l)
{
	return metric(l, "kv_pages_total") - metric(l, "kv_pages_free") - metric(l, "kv_pages_cached");
}

long rss_kb(int pid)
{
	char path[64], line[256];
	long kb = 0;
	snprintf(path, sizeof path, "/proc/%d/status", pid);
	FILE *f = pid ? fopen(path, "r") : NULL;
	while (f && fgets(line, sizeof line, f))
		sscanf(line, "VmRSS: %ld", &kb);
	if (f)
		fclose(f);
	return kb;
}

int n_fd(int pid)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/fd", pid);
	DIR *d = pid ? opendir(path) : NULL;
	int n = 0;
	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n;
}

/* ---- equal: many at once, each answer as alone ------------------------------------------------------------------------------ */

struct run {
	struct load *l;
	struct kind *kind;
	int n_kind, n_sent, n_done, n_verdict[N_VERDICT];
	double *ms;
	long long n_tok;
	struct asked *asked, **idle; /* [width] */
	int width, n_idle;
	bool at_rate;                /* requests come by the clock, not when another has ended */
};

static void send_next(struct run *r, struct asked *a)
{
	r->n_sent++;
	ask_start(r->l, a, &r->kind[draw(r->l, (uint64_t)r->n_kind)]);
}

static void on_end(struct asked *a)
{
	struct run *r = a->ud;
	enum verdict v = ask_verdict(a);
	r->n_verdict[v]++;
	if (v == RIGHT)
		r->n_tok += a->n_tok;
	r->ms[r->n_done++] = 1e3 * (a->call.end - a->call.start);
	if (v == LOST && r->n_verdict[LOST] > 100)
		die("too many are lost");
	if (r->n_sent < r->l->n && !r->at_rate)
		send_next(r, a);
	else
		r->idle[r->n_idle++] = a;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static void run_begin(struct run *r, struct load *l, int n_kind, int width)
{
	*r = (struct run){ .l = l, .n_kind = n_kind, .kind = kinds_make(l, n_kind), .ms = calloc((size_t)l->n, sizeof(double)), .width = width,
	                   .asked = calloc((size_t)width, sizeof(struct asked)), .idle = calloc((size_t)width, sizeof(struct asked *)) };
	if (!r->ms || !r->asked || !r->idle)
		die("out of memory");
	for (int i = 0; i < width; i++) {
		r->asked[i].ud = r;
		r->asked[i].on_end = on_end;
		r->idle[r->n_idle++] = &r->asked[i];
	}
	kinds_ask_alone(l, r->kind, n_kind);
}

/* n requests, width of them at once. */
static double run_all(struct run *r)
{
	struct load *l = r->l;
	double start = host_now();
	r->n_sent = r->n_done = 0;
	r->at_rate = false;
	for (int i = 0; i < l->width && r->n_sent < l->n; i++)
		send_next(r, r->idle[--r->n_idle]);
	while (client_busy(l->client))
		client_step(l->client, 1);
	qsort(r->ms, (size_t)r->n_done, sizeof(double), by_value);
	return host_now() - start;
}

static void run_end(struct run *r)
{
	for (int i = 0; i < r->width; i++)
		buf_free(&r->asked[i].text);
	free(r->asked);
	free(r->idle);
	free(r->ms);
	kinds_free(r->kind, r->n_kind);
}

static double at_percent(const struct run *r, int p)
{
	return r->n_done ? r->ms[(size_t)r->n_done * (size_t)p / 100 < (size_t)r->n_done ? (size_t)r->n_done * (size_t)p / 100 : (size_t)r->n_done - 1] : 0;
}

int equal_main(struct load *l)
{
	struct run r;
	run_begin(&r, l, l->n < 600 ? 30 + l->n / 20 : 300, l->width);
	double start_cached = metric(l, "cached_tokens_total"), seconds = run_all(&r);
	wait_idle(l, 10);
	printf("{\"test\":\"equal\",\"n\":%d,\"width\":%d,\"kinds\":%d", l->n, l->width, r.n_kind);
	for (int v = 0; v < N_VERDICT; v++)
		printf(",\"%s\":%d", verdict_name[v], r.n_verdict[v]);
	printf(",\"seconds\":%.1f,\"requests_per_s\":%.1f,\"output_tokens_per_s\":%.0f,\"cached_tokens\":%.0f,\"p50_ms\":%.1f,\"p99_ms\":%.1f,"
	       "\"max_ms\":%.1f,\"tokens_at_idle\":%.0f,\"pages_lost\":%.0f}\n", seconds, r.n_done / seconds, (double)r.n_tok / seconds,
	       metric(l, "cached_tokens_total") - start_cached, at_percent(&r, 50), at_percent(&r, 99), at_percent(&r, 100), metric(l, "num_used_tokens"), pages_lost(l));
	int bad = r.n_verdict[WRONG] + r.n_verdict[LOST] + r.n_verdict[SERVER_ERROR] + r.n_verdict[CLIENT_ERROR] + (r.n_done != l->n) +
	          (metric(l, "num_used_tokens") != 0) + (pages_lost(l) != 0);
	run_end(&r);
	return bad != 0;
}

/* ---- soak: the same for long, and the process does not grow -------------------------------------------------------------------- */

/* n requests that come by chance, rate of them a second on average; one that finds all clients busy comes late.  Returns the most that
 * were under way at once. */
static int run_rate(struct run *r, double rate)
{
	struct load *l = r->l;
	int most = 0;
	double next = host_now();
	r->n_sent = r->n_done = 0;
	r->at_rate = true;
	while (r->n_sent < l->n) {
		double ahead = next - host_now();
		if (ahead <= 0 && r->n_idle) {
			send_next(r, r->idle[--r->n_idle]);
			next -= log((1 + (double)draw(l, 1 << 30)) / (1 << 30)) / rate;
			most = client_busy(l->client) > most ? client_busy(l->client) : most;
		} else {
			client_step(l->client, ahead > 0 && ahead < 0.1 ? ahead : 0.1);
		}
	}
	while (client_busy(l->client))
		client_step(l->client, 1);
	return most;
}

/* With a load in per cent, every other round is a fifth as long and goes as fast as it can, the next one at that part of its rate: what a
 * machine can do that others use too changes all the time.  Files are counted while no client is connected. */
int soak_main(struct load *l)
{
	struct run r;
	struct moxie_err err;
	int n = l->n, n_round = l->seconds < 60 ? 100 : 500, n_fd_first = 0, n_fd_last = 0, rounds = 0, fast_rounds = 0, most = 0, n_most = 0;
	int n_rate = 0, n_all = 0;
	long rss_first = 0, rss_last = 0;
	double full = 0, sum_full = 0, rate_seconds = 0;
	l->n = n_round;
	run_begin(&r, l, l->seconds < 60 ? 30 : 150, l->load && l->width < OPEN_WIDTH ? OPEN_WIDTH : l->width);
	double start = host_now();
	while (host_now() - start < l->seconds || rounds < 4) {
		double began = host_now();
		bool fast = !l->load || rounds % 2 == 0;
		l->n = l->load && fast ? n_round / 5 : n_round;
		if (fast) {
			full = l->n / run_all(&r);
			sum_full += full;
			fast_rounds++;
		} else {
			n_most = run_rate(&r, full * l->load / 100);
			most = n_most > most ? n_most : most;
			rate_seconds += host_now() - began;
			n_rate += l->n;
		}
		n_all += l->n;
		wait_idle(l, 10);
		client_close(l->client);
		if (client_open(&l->client, l->url, NULL, &err))
			die("%s", err.text);
		usleep(100000);
		rss_last = rss_kb(l->pid);
		n_fd_last = n_fd(l->pid);
		if (host_now() - start < l->seconds / 5 || rounds < 2) /* the first fifth, and one round of each kind, fill caches and buffers */
			rss_first = rss_last, n_fd_first = n_fd_last;
		fprintf(stderr, "%.0f s: rss %ld kB, %d files, %.1f requests/s of %.1f\n", host_now() - start, rss_last, n_fd_last,
		        l->n / (host_now() - began), full);
		rounds++;
	}
	printf("{\"test\":\"soak\",\"seconds\":%.0f,\"width\":%d,\"n\":%d", host_now() - start, l->width, n_all);
	for (int v = 0; v < N_VERDICT; v++)
		printf(",\"%s\":%d", verdict_name[v], r.n_verdict[v]);
	printf(",\"full_requests_per_s\":%.1f", sum_full / fast_rounds);
	if (rounds > fast_rounds)
		printf(",\"load_percent\":%d,\"requests_per_s\":%.1f,\"seconds_at_rate\":%.0f,\"most_at_once\":%d", l->load,
		       n_rate / rate_seconds, rate_seconds, most);
	printf(",\"rss_kb_after_a_fifth\":%ld,\"rss_kb\":%ld,\"files_after_a_fifth\":%d,\"files\":%d,\"pages_lost\":%.0f}\n", rss_first, rss_last,
	       n_fd_first, n_fd_last, pages_lost(l));
	int bad = r.n_verdict[WRONG] + r.n_verdict[LOST] + r.n_verdict[SERVER_ERROR] + r.n_verdict[CLIENT_ERROR];
	bad += pages_lost(l) != 0 || rss_last > rss_first + rss_first / 50 + 2048 || n_fd_last > n_fd_first + 2;
	l->n = n;
	run_end(&r);
	return bad != 0;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(struct load *l);
	} tests[] = { { "equal", equal_main }, { "leave", leave_main }, { "slow", slow_main }, { "soak", soak_main } };
	static const struct option longs[] = { { "url", 1, NULL, 'u' }, { "n", 1, NULL, 'n' }, { "width", 1, NULL, 'w' }, { "slow", 1, NULL, 's' },
		{ "seconds", 1, NULL, 't' }, { "pid", 1, NULL, 'p' }, { "seed", 1, NULL, 'r' }, { "load", 1, NULL, 'l' }, { 0 } };
	struct load l = { .url = "http://127.0.0.1:30000", .n = 1000, .width = 8, .slow = 100, .rng = 1 };
	for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
		long v = c == 'u' || c == '?' ? 0 : strtol(optarg, NULL, 10);
		switch (c) {
		case 'u': l.url = optarg; break;
		case 'n': l.n = (int)v; break;
		case 'w': l.width = (int)v; break;
		case 's': l.slow = (int)v; break;
		case 't': l.seconds = (double)v; break;
		case 'p': l.pid = (int)v; break;
		case 'l': l.load = (int)v; break;
		case 'r': l.rng = (uint64_t)v * 0x9e3779b97f4a7c15u | 1; break;
		default: return 2;
		}
	}
	struct moxie_err err = { 0 };
	if (l.n < 1 || l.width < 1 || l.slow < 0 || l.load < 0 || l.load > 100)
		die("n and width are at least 1, a load is 0 .. 100");
	for (size_t i = 0; optind < argc && i < sizeof tests / sizeof *tests; i++) {
		if (strcmp(argv[optind], tests[i].name))
			continue;
		if (client_open(&l.client, l.url, NULL, &err))
			die("%s", err.text);
		int rc = tests[i].run(&l);
		client_close(l.client);
		return rc;
	}
	die("usage: load equal|leave|slow|soak [--url URL] [--n N] [--width N] [--slow N] [--seconds N] [--pid N] [--seed N] [--load PERCENT]");
}
