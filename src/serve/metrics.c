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

static void put_head(struct buf *b, const char *name, const char *type, const char *help)
{
	buf_printf(b, "# HELP sglang:%s %s\n# TYPE sglang:%s %s\n", name, help, name, type);
}

static void put(struct buf *b, const char *name, const char *type, const char *help, const char *label, double x)
{
	put_head(b, name, type, help);
	buf_printf(b, "sglang:%s{%s} %.15g\n", name, label, x);
}

static void put_histogram(struct buf *b, const char *name, const char *help, const char *label, const struct histogram *h)
{
	put_head(b, name, "histogram", help);
	uint64_t sum = 0;
	for (int i = 0; i < h->n_edge; i++) {
		sum += h->count[i];
		buf_printf(b, "sglang:%s_bucket{%s,le=\"%g\"} %llu\n", name, label, h->edge[i], (unsigned long long)sum);
	}
	buf_printf(b, "sglang:%s_bucket{%s,le=\"+Inf\"} %llu\n", name, label, (unsigned long long)h->n);
	buf_printf(b, "sglang:%s_sum{%s} %.9g\nsglang:%s_count{%s} %llu\n", name, label, h->sum, name, label, (unsigned long long)h->n);
}

void metrics_reply(struct server *s, struct evhttp_request *req, json_t *body)
{
	(void)body;
	struct buf b = { 0 }, label = { 0 };
	struct moxie_engine_stats st = { .struct_size = sizeof st };
	moxie_engine_get_stats(s->e, &st);
	bool ok = buf_puts(&label, "model_name=") && json_cstr(&label, s->p.model_name);
	const struct metrics *m = &s->metrics;
	const char *l = ok ? label.p : "";
	put(&b, "num_running_reqs", "gauge", "Requests that run.", l, st.n_running);
	put(&b, "num_queue_reqs", "gauge", "Requests that wait.", l, st.n_queued);
	put(&b, "gen_throughput", "gauge", "Generated tokens per second.", l, st.decode_tokens_per_second);
	put(&b, "num_used_tokens", "gauge", "Tokens that running requests hold.", l, (double)st.kv_tokens);
	put(&b, "token_usage", "gauge", "Share of the room for tokens in use.", l,
	    st.kv_capacity ? (double)st.kv_tokens / (double)st.kv_capacity : 0);
	put(&b, "kv_used_tokens", "gauge", "The same as num_used_tokens.", l, (double)st.kv_tokens);
	put(&b, "kv_available_tokens", "gauge", "Room for tokens that no running request holds.", l, (double)(st.kv_capacity - st.kv_tokens));
	put(&b, "utilization", "gauge", "Running requests, of those that may run together.", l, st.n_seq ? (double)st.n_running / st.n_seq : 0);
	put(&b, "context_len", "gauge", "Most tokens of one request.", l, s->p.n_ctx);
	put(&b, "engine_load_weights_time", "gauge", "Seconds to load the model.", l, s->info.load_seconds);
	put(&b, "cache_hit_rate", "gauge", "Share of prompt tokens that were not computed again.", l,
	    m->prompt_tokens ? (double)m->cached_tokens / (double)m->prompt_tokens : 0);
	put(&b, "max_total_num_tokens", "gauge", "Room for tokens in the KV cache.", l, (double)st.kv_capacity);
	put(&b, "num_steps_total", "counter", "Steps of the model.", l, (double)st.n_steps);
	put(&b, "kv_pages_total", "gauge", "Pages of the KV cache, full-attention layers.", l, st.n_page);
	put(&b, "kv_pages_free", "gauge", "Pages that nobody holds; with those cached all of them when no request runs.", l, st.n_page_free);
	put(&b, "kv_pages_cached", "gauge", "Pages that the prefix cache holds, alone or with requests.", l, st.n_page_cached);
	put(&b, "kv_ring_pages_total", "gauge", "Pages of the KV cache, sliding-window layers.", l, st.n_ring);
	put(&b, "kv_ring_pages_free", "gauge", "The same, that nobody holds.", l, st.n_ring_free);
	put(&b, "kv_ring_pages_cached", "gauge", "The same, that the prefix cache holds.", l, st.n_ring_cached);
	put(&b, "num_retracted_requests_total", "counter", "Times that a request gave its KV cache up for an older one.", l, (double)st.n_preempted);
	put(&b, "cache_hits_total", "counter", "Requests that began in the prefix cache.", l, (double)st.n_cache_hits);
	put(&b, "evicted_tokens_total", "counter", "Tokens that the prefix cache forgot to make room.", l, (double)st.evicted_tokens);
	put(&b, "prompt_tokens_total", "counter", "Tokens of prompts.", l, (double)m->prompt_tokens);
	put(&b, "generation_tokens_total", "counter", "Tokens of answers.", l, (double)m->generated_tokens);
	put_head(&b, "cached_tokens_total", "counter", "Tokens of prompts that were not computed again.");
	buf_printf(&b, "sglang:cached_tokens_total{%s,cache_source=\"device\"} %llu\n", l, (unsigned long long)m->cached_tokens);
	put(&b, "num_requests_total", "counter", "Requests that began.", l, (double)m->n_requests);
	put(&b, "num_aborted_requests_total", "counter", "Requests that were cancelled.", l, (double)m->n_aborted);
	put_histogram(&b, "time_to_first_token_seconds", "From the request to its first token.", l, &m->ttft);
	put_histogram(&b, "inter_token_latency_seconds", "Between two tokens of an answer.", l, &m->itl);
	put(&b, "num_grammar_total", "counter", "Requests whose answers have to have a form.", l, (double)m->n_guided);
	put_histogram(&b, "queue_time_seconds", "From the request to its start.", l, &m->queue);
	put_histogram(&b, "e2e_request_latency_seconds", "From the request to its end.", l, &m->e2e);
	reply_send(s, req, b.p ? 200 : 500, "text/plain; version=0.0.4; charset=utf-8", b.p ? b.p : "", b.n);
	buf_free(&b);
	buf_free(&label);
}
