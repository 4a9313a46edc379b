/* bench_report.c - the report of `moxie bench serving`: labels, JSON keys and definitions are those of SGLang's bench_serving. */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench_serving.h"

struct series {
	double *v; /* ascending once summed up */
	size_t n;
	double mean, median, std, p90, p95, p99, max;
};

struct metrics {
	int n_ok;
	long long n_in, n_out, n_cached;
	double e2e_sum;
	struct series e2e, ttft, tpot, itl;
	double peak_tok_s;
	int peak_requests;
};

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* Linear between the two nearest ranks, as numpy has it. */
static double percentile(const struct series *s, double p)
{
	double at = p / 100 * (double)(s->n - 1);
	size_t i = (size_t)at;
	return i + 1 < s->n ? s->v[i] + (at - (double)i) * (s->v[i + 1] - s->v[i]) : s->v[s->n - 1];
}

static void sum_up(struct series *s)
{
	double sum = 0, square = 0;
	if (!s->n)
		return;
	qsort(s->v, s->n, sizeof *s->v, by_value);
	for (size_t i = 0; i < s->n; i++)
		sum += s->v[i];
	s->mean = sum / (double)s->n;
	for (size_t i = 0; i < s->n; i++)
		square += (s->v[i] - s->mean) * (s->v[i] - s->mean);
	s->std = sqrt(square / (double)s->n);
	s->median = percentile(s, 50);
	s->p90 = percentile(s, 90);
	s->p95 = percentile(s, 95);
	s->p99 = percentile(s, 99);
	s->max = s->v[s->n - 1];
}

/* Tokens and requests of each second since the first start. */
static int find_peaks(const struct serving *s, struct metrics *m)
{
	double from = INFINITY, to = 0;
	for (int i = 0; i < s->n; i++)
		if (s->r[i].ok) {
			from = fmin(from, s->r[i].start);
			to = fmax(to, s->r[i].start + s->r[i].latency);
		}
	size_t n = m->n_ok ? (size_t)ceil(to - from) + 1 : 0;
	long *tok = calloc(n + 1, sizeof *tok), *req = calloc(n + 1, sizeof *req);
	for (int i = 0; tok && req && i < s->n; i++) {
		const struct served *r = &s->r[i];
		if (!r->ok)
			continue;
		double t = r->start - from;
		for (size_t k = (size_t)t; k <= (size_t)(t + r->latency) && k < n; k++)
			req[k]++;
		t += r->ttft;
		for (int k = 0; k <= r->n_itl; k++) {
			if ((size_t)t < n)
				tok[(size_t)t]++;
			t += k < r->n_itl ? r->itl[k] : 0;
		}
	}
	for (size_t k = 0; tok && req && k < n; k++) {
		m->peak_tok_s = fmax(m->peak_tok_s, (double)tok[k]);
		m->peak_requests = req[k] > m->peak_requests ? (int)req[k] : m->peak_requests;
	}
	int rc = tok && req ? 0 : -1;
	free(tok);
	free(req);
	return rc;
}

static int measure(const struct serving *s, struct metrics *m)
{
	*m = (struct metrics){ 0 };
	size_t n_itl = 0;
	for (int i = 0; i < s->n; i++)
		n_itl += s->r[i].ok ? (size_t)s->r[i].n_itl : 0;
	struct series *all[] = { &m->e2e, &m->ttft, &m->tpot, &m->itl };
	for (int i = 0; i < 4; i++)
		if (!(all[i]->v = malloc((i < 3 ? (size_t)s->n : n_itl) * sizeof(double) + 1)))
			return -1;
	for (int i = 0; i < s->n; i++) {
		const struct served *r = &s->r[i];
		if (!r->ok)
			continue;
		m->n_ok++;
		m->n_in += r->n_in;
		m->n_out += r->n_out;
		m->n_cached += r->n_cached;
		m->e2e_sum += r->latency;
		m->e2e.v[m->e2e.n++] = r->latency;
		m->ttft.v[m->ttft.n++] = r->ttft;
		if (r->n_out > 1)
			m->tpot.v[m->tpot.n++] = (r->latency - r->ttft) / (r->n_out - 1);
		for (int k = 0; k < r->n_itl; k++)
			m->itl.v[m->itl.n++] = r->itl[k];
	}
	for (int i = 0; i < 4; i++)
		sum_up(all[i]);
	return find_peaks(s, m);
}

/* ---- the table -------------------------------------------------------------------------------------------------------- */

static void put_count(const char *label, long long v) { printf("%-40s %-10lld\n", label, v); }
static void put(const char *label, double v) { printf("%-40s %-10.2f\n", label, v); }

/* Centred between dashes, 50 wide. */
static void put_title(const char *title, char c)
{
	int left = (50 - (int)strlen(title)) / 2, right = 50 - left - (int)strlen(title);
	for (int i = 0; i < left; i++)
		putchar(c);
	fputs(title, stdout);
	for (int i = 0; i < right; i++)
		putchar(c);
	putchar('\n');
}

static void put_series(const char *title, const char *name, const struct series *s, bool max)
{
	const char *const of[] = { "Mean", "Median", "P90", "P95", "P99", "Max" };
	const double v[] = { s->mean, s->median, s->p90, s->p95, s->p99, s->max };
	put_title(title, '-');
	for (int i = 0; i < (max ? 6 : 5); i++) {
		char label[64];
		snprintf(label, sizeof label, "%s %s (ms):", of[i], name);
		put(label, 1e3 * v[i]);
	}
}

static void print_table(const struct serving *s, const struct metrics *m)
{
	const struct opts *o = s->o;
	putchar('\n');
	put_title(" Serving Benchmark Result ", '=');
	printf("%-40s %-10s\n", "Backend:", o->backend);
	if (isinf(o->request_rate))
		printf("%-40s %-10s\n", "Traffic request rate:", "inf");
	else
		printf("%-40s %-10g\n", "Traffic request rate:", o->request_rate);
	if (o->max_concurrency)
		put_count("Max request concurrency:", o->max_concurrency);
	else
		printf("%-40s %-10s\n", "Max request concurrency:", "not set");
	put_count("Successful requests:", m->n_ok);
	put("Benchmark duration (s):", s->duration);
	put_count("Total input tokens:", m->n_in);
	put_count("Total input text tokens:", m->n_in);
	put_count("Total generated tokens:", m->n_out);
	put("Request throughput (req/s):", m->n_ok / s->duration);
	put("Input token throughput (tok/s):", (double)m->n_in / s->duration);
	put("Output token throughput (tok/s):", (double)m->n_out / s->duration);
	put("Peak output token throughput (tok/s):", m->peak_tok_s);
	put_count("Peak concurrent requests:", m->peak_requests);
	put("Total token throughput (tok/s):", (double)(m->n_in + m->n_out) / s->duration);
	put("Concurrency:", m->e2e_sum / s->duration);
	if (s->accept_length > 0)
		put("Accept length:", s->accept_length);
	put_series("End-to-End Latency", "E2E Latency", &m->e2e, false);
	put_series("Time to First Token", "TTFT", &m->ttft, false);
	put_series("Time per Output Token (excl. 1st token)", "TPOT", &m->tpot, false);
	put_series("Inter-Token Latency", "ITL", &m->itl, true);
	if (o->cache_report) {
		put_title("Cache Hit Details", '-');
		put_count("Total prompt tokens:", m->n_in);
		put_count("Total cached tokens:", m->n_cached);
		printf("%-40s %.1f%%\n", "Cache hit rate:", m->n_in ? 100.0 * (double)m->n_cached / (double)m->n_in : 0.0);
	}
	put_title("", '=');
}

/* ---- the row ----------------------------------------------------------------------------------------------------------- */

static void set(json_t *row, const char *key, json_t *value) { json_object_set_new(row, key, value); }

static void set_series(json_t *row, const char *name, const struct series *s, bool max)
{
	const char *const of[] = { "mean", "median", "std", "p90", "p95", "p99", "max" };
	const double v[] = { s->mean, s->median, s->std, s->p90, s->p95, s->p99, s->max };
	for (int i = 0; i < (max ? 7 : 6); i++) {
		char key[64];
		snprintf(key, sizeof key, "%s_%s_ms", of[i], name);
		set(row, key, json_real(1e3 * v[i]));
	}
}

static void set_details(const struct serving *s, json_t *row)
{
	json_t *in = json_array(), *out = json_array(), *ttft = json_array(), *itl = json_array(), *text = json_array(), *error = json_array();
	for (int i = 0; i < s->n; i++) {
		const struct served *r = &s->r[i];
		json_t *gaps = json_array();
		for (int k = 0; k < r->n_itl; k++)
			json_array_append_new(gaps, json_real(r->itl[k]));
		json_array_append_new(in, json_integer(r->n_in));
		json_array_append_new(out, json_integer(r->ok ? r->n_out : 0));
		json_array_append_new(ttft, json_real(r->ttft));
		json_array_append_new(itl, gaps);
		json_array_append_new(text, json_stringn(r->text.p ? r->text.p : "", r->text.n));
		json_array_append_new(error, json_string(r->error));
	}
	set(row, "input_lens", in);
	set(row, "output_lens", out);
	set(row, "ttfts", ttft);
	set(row, "itls", itl);
	set(row, "generated_texts", text);
	set(row, "errors", error);
}

static json_t *make_row(const struct serving *s, const struct metrics *m)
{
	const struct opts *o = s->o;
	json_t *row = json_object();
	set(row, "tag", o->tag ? json_string(o->tag) : json_null());
	set(row, "backend", json_string(o->backend));
	set(row, "dataset_name", json_string(o->dataset));
	set(row, "request_rate", isinf(o->request_rate) ? json_string("inf") : json_real(o->request_rate)); /* Infinity is not JSON */
	set(row, "max_concurrency", o->max_concurrency ? json_integer(o->max_concurrency) : json_null());
	set(row, "sharegpt_output_len", json_null());
	set(row, "random_input_len", json_integer(o->random_in));
	set(row, "random_output_len", json_integer(o->random_out));
	set(row, "random_range_ratio", json_real((double)o->random_ratio));
	json_t *info = s->server_info ? json_loads(s->server_info, 0, NULL) : NULL;
	set(row, "server_info", info ? info : json_null());
	set(row, "duration", json_real(s->duration));
	set(row, "completed", json_integer(m->n_ok));
	set(row, "total_input_tokens", json_integer(m->n_in));
	set(row, "total_input_text_tokens", json_integer(m->n_in));
	set(row, "total_input_vision_tokens", json_integer(0));
	set(row, "total_output_tokens", json_integer(m->n_out));
	set(row, "request_throughput", json_real(m->n_ok / s->duration));
	set(row, "input_throughput", json_real((double)m->n_in / s->duration));
	set(row, "output_throughput", json_real((double)m->n_out / s->duration));
	set(row, "total_throughput", json_real((double)(m->n_in + m->n_out) / s->duration));
	set_series(row, "e2e_latency", &m->e2e, false);
	set_series(row, "ttft", &m->ttft, false);
	set_series(row, "tpot", &m->tpot, false);
	set_series(row, "itl", &m->itl, true);
	set(row, "concurrency", json_real(m->e2e_sum / s->duration));
	set(row, "accept_length", s->accept_length > 0 ? json_real(s->accept_length) : json_null());
	set(row, "max_output_tokens_per_s", json_real(m->peak_tok_s));
	set(row, "max_concurrent_requests", json_integer(m->peak_requests));
	if (o->cache_report)
		set(row, "cache_report", json_pack("{s:I, s:I, s:f}", "total_prompt_tokens", (json_int_t)m->n_in, "total_cached_tokens",
		                                   (json_int_t)m->n_cached, "cache_hit_rate_pct",
		                                   m->n_in ? 100.0 * (double)m->n_cached / (double)m->n_in : 0.0));
	if (o->output_details)
		set_details(s, row);
	return row;
}

static int append_row(const struct serving *s, const struct metrics *m)
{
	FILE *f = fopen(s->o->output, "ae");
	if (!f)
		return bad_input("%s: %s", s->o->output, strerror(errno));
	json_t *row = make_row(s, m);
	bool ok = row && json_dumpf(row, f, JSON_COMPACT) == 0 && fputc('\n', f) != EOF;
	json_decref(row);
	int rc = flush_or_fail(f, s->o->output);
	fclose(f);
	return rc ? rc : ok ? 0 : (bad_input("%s: the row could not be written", s->o->output), EXIT_FAIL);
}

int serving_report(const struct serving *s)
{
	struct metrics m;
	int rc = measure(s, &m) ? (bad_input("out of memory"), EXIT_FAIL) : 0;
	if (!rc)
		print_table(s, &m);
	if (!rc && s->o->output)
		rc = append_row(s, &m);
	free(m.e2e.v), free(m.ttft.v), free(m.tpot.v), free(m.itl.v);
	return rc;
}
