/* metrics.c - what Prometheus scrapes, under the names of SGLang, so that its boards work here. */
#include <string.h>

#include "serve/serve_int.h"

#define COUNT(a) (int)(sizeof a / sizeof *a)

/* The edges are part of the names' contract. */
static const double ttft_edge[] = { .1, .2, .4, .6, .8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400 };
static const double itl_edge[] = { .002, .004, .006, .008, .01, .015, .02, .025, .03, .035, .04, .06, .08, .1, .2, .4, .6, .8, 1, 2, 4, 6,
	8 };
static const double queue_edge[] = { 0, .1, .2, .5, 1, 2, 3, 4, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 100, 200, 300, 400, 500, 600,
	700, 800, 900, 1000, 1200, 1400, 1600, 1800, 2000, 2500, 3000 };
static const double e2e_edge[] = { .1, .2, .4, .6, .8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400, 600, 1200, 1800, 2400 };

void metrics_init(struct metrics *m)
{
	*m = (struct metrics){
		.ttft = { .edge = ttft_edge, .n_edge = COUNT(ttft_edge) },
		.itl = { .edge = itl_edge, .n_edge = COUNT(itl_edge) },
		.queue = { .edge = queue_edge, .n_edge = COUNT(queue_edge) },
		.e2e = { .edge = e2e_edge, .n_edge = COUNT(e2e_edge) },
	};
}

void metrics_see(struct histogram *h, double x, uint64_t times)
{
	int i = 0;
	while (i < h->n_edge && x > h->edge[i])
		i++;
	h->count[i] += times;
	h->n += times;
	h->sum += x * (double)times;
}

struct text { /* of all metrics */
	struct buf b;
	const char *prefix, *label;
};

static void put_head(struct text *t, const char *name, const char *type, const char *help)
{
	buf_printf(&t->b, "# HELP %s:%s %s\n# TYPE %s:%s %s\n", t->prefix, name, help, t->prefix, name, type);
}

static void put(struct text *t, const char *name, const char *type, const char *help, double x)
{
	put_head(t, name, type, help);
	buf_printf(&t->b, "%s:%s{%s} %.15g\n", t->prefix, name, t->label, x);
}

static void put_histogram(struct text *t, const char *name, const char *help, const struct histogram *h)
{
	put_head(t, name, "histogram", help);
	uint64_t sum = 0;
	for (int i = 0; i < h->n_edge; i++) {
		sum += h->count[i];
		buf_printf(&t->b, "%s:%s_bucket{%s,le=\"%g\"} %llu\n", t->prefix, name, t->label, h->edge[i], (unsigned long long)sum);
	}
	buf_printf(&t->b, "%s:%s_bucket{%s,le=\"+Inf\"} %llu\n", t->prefix, name, t->label, (unsigned long long)h->n);
	buf_printf(&t->b, "%s:%s_sum{%s} %.9g\n%s:%s_count{%s} %llu\n", t->prefix, name, t->label, h->sum, t->prefix, name, t->label, (unsigned long long)h->n);
}

void metrics_reply(struct server *s, struct evhttp_request *req, json_t *body)
{
	(void)body;
	struct buf label = { 0 };
	struct text t = { .prefix = s->p.metrics_prefix };
	struct moxie_engine_stats st = { .struct_size = sizeof st };
	moxie_engine_get_stats(s->e, &st);
	bool ok = buf_puts(&label, "model_name=") && json_cstr(&label, s->p.model_name);
	const struct metrics *m = &s->metrics;
	t.label = ok ? label.p : "";
	put(&t, "num_running_reqs", "gauge", "Requests that run.", st.n_running);
	put(&t, "num_queue_reqs", "gauge", "Requests that wait.", st.n_queued);
	put(&t, "gen_throughput", "gauge", "Generated tokens per second.", st.decode_tokens_per_second);
	put(&t, "num_used_tokens", "gauge", "Tokens that running requests hold.", (double)st.kv_tokens);
	put(&t, "token_usage", "gauge", "Share of the room for tokens in use.",
	    st.kv_capacity ? (double)st.kv_tokens / (double)st.kv_capacity : 0);
	put(&t, "kv_used_tokens", "gauge", "The same as num_used_tokens.", (double)st.kv_tokens);
	put(&t, "kv_available_tokens", "gauge", "Room for tokens that no running request holds.", (double)(st.kv_capacity - st.kv_tokens));
	put(&t, "kv_evictable_tokens", "gauge", "Tokens in the prefix cache that no running request uses.", (double)st.evictable_tokens);
	put(&t, "utilization", "gauge", "Running requests, of those that may run together.", st.n_seq ? (double)st.n_running / st.n_seq : 0);
	put(&t, "context_len", "gauge", "Most tokens of one request.", s->p.n_ctx);
	put(&t, "engine_load_weights_time", "gauge", "Seconds to load the model.", s->info.load_seconds);
	put(&t, "cache_hit_rate", "gauge", "Share of prompt tokens that were not computed again.",
	    m->prompt_tokens ? (double)m->cached_tokens / (double)m->prompt_tokens : 0);
	put(&t, "max_total_num_tokens", "gauge", "Room for tokens in the KV cache.", (double)st.kv_capacity);
	put(&t, "num_steps_total", "counter", "Steps of the model.", (double)st.n_steps);
	put(&t, "kv_pages_total", "gauge", "Pages of the KV cache, full-attention layers.", st.n_page);
	put(&t, "kv_pages_free", "gauge", "Pages that nobody holds; with those cached all of them when no request runs.", st.n_page_free);
	put(&t, "kv_pages_cached", "gauge", "Pages that the prefix cache holds, alone or with requests.", st.n_page_cached);
	put(&t, "kv_ring_pages_total", "gauge", "Pages of the KV cache, sliding-window layers.", st.n_ring);
	put(&t, "kv_ring_pages_free", "gauge", "The same, that nobody holds.", st.n_ring_free);
	put(&t, "kv_ring_pages_cached", "gauge", "The same, that the prefix cache holds.", st.n_ring_cached);
	put(&t, "num_retracted_requests_total", "counter", "Times that a request gave its KV cache up for an older one.", (double)st.n_preempted);
	put(&t, "cache_hits_total", "counter", "Requests that began in the prefix cache.", (double)st.n_cache_hits);
	put(&t, "evicted_tokens_total", "counter", "Tokens that the prefix cache forgot to make room.", (double)st.evicted_tokens);
	put(&t, "prompt_tokens_total", "counter", "Tokens of prompts.", (double)m->prompt_tokens);
	put(&t, "generation_tokens_total", "counter", "Tokens of answers.", (double)m->generated_tokens);
	put_head(&t, "cached_tokens_total", "counter", "Tokens of prompts that were not computed again.");
	buf_printf(&t.b, "%s:cached_tokens_total{%s,cache_source=\"device\"} %llu\n", t.prefix, t.label, (unsigned long long)m->cached_tokens);
	put(&t, "num_requests_total", "counter", "Requests that began.", (double)m->n_requests);
	put(&t, "num_aborted_requests_total", "counter", "Requests that were cancelled.", (double)m->n_aborted);
	put_histogram(&t, "time_to_first_token_seconds", "From the request to its first token.", &m->ttft);
	put_histogram(&t, "inter_token_latency_seconds", "Between two tokens of an answer.", &m->itl);
	put(&t, "num_grammar_total", "counter", "Requests whose answers have to have a form.", (double)m->n_guided);
	put_histogram(&t, "queue_time_seconds", "From the request to its start.", &m->queue);
	put_histogram(&t, "e2e_request_latency_seconds", "From the request to its end.", &m->e2e);
	reply_send(s, req, t.b.p ? 200 : 500, "text/plain; version=0.0.4; charset=utf-8", t.b.p ? t.b.p : "", t.b.n);
	buf_free(&t.b);
	buf_free(&label);
}
