/* native.c - routes beside OpenAI's: tokens and text, what the server is, cancelling, a probe that generates. */
#include <stdlib.h>
#include <string.h>

#include "serve/serve_int.h"

static void reply_tokens(struct server *s, struct evhttp_request *req, const int32_t *ids, size_t n)
{
	struct buf b = { 0 };
	bool ok = buf_puts(&b, "{\"tokens\":[");
	for (size_t i = 0; ok && i < n; i++)
		ok = buf_printf(&b, i ? ",%d" : "%d", ids[i]);
	ok = ok && buf_printf(&b, "],\"count\":%zu,\"max_model_len\":%d}", n, s->p.n_ctx);
	if (ok)
		reply_buf(s, req, 200, &b);
	else
		reply_error(s, req, 503, NULL, "out of memory");
	buf_free(&b);
}

void native_tokenize(struct server *s, struct evhttp_request *req, json_t *body)
{
	const json_t *v = json_object_get(body, "prompt");
	const char *name = "prompt";
	struct ids chat = { 0 };
	if (json_object_get(body, "messages")) {
		if (chat_ids(s, req, body, &chat) == 0)
			reply_tokens(s, req, chat.v, chat.n);
		ids_free(&chat);
		return;
	}
	for (const char *const *other = (const char *const[]){ "text", "content", NULL }; !v && *other; other++)
		v = json_object_get(body, name = *other);
	if (!json_is_string(v)) {
		reply_error(s, req, 400, "prompt", "prompt is missing or not a string");
		return;
	}
	size_t n = json_string_length(v), n_id = 0, cap = n + 16;
	struct moxie_err err = { 0 };
	if (n > 4u << 20) {
		reply_error(s, req, 413, name, "%s has %zu bytes, at most %u are tokenized at once", name, n, 4u << 20);
		return;
	}
	int32_t *ids = malloc(cap * sizeof *ids);
	int rc = ids ? moxie_tokenize(s->m, json_string_value(v), n, 1, ids, cap, &n_id, &err) : MOXIE_E_NOMEM;
	const char *text = "out of memory";
	if (rc == 0) {
		reply_tokens(s, req, ids, n_id);
	} else {
		int code = ids ? error_of_engine(s, &err, &text) : 503;
		reply_error(s, req, code, name, "%s", text);
	}
	free(ids);
}

void native_detokenize(struct server *s, struct evhttp_request *req, json_t *body)
{
	const json_t *list = json_object_get(body, "tokens"), *skip = json_object_get(body, "skip_special_tokens");
	struct ids ids = { 0 };
	struct buf b = { 0 };
	struct moxie_err err = { 0 };
	int rc = json_is_array(list) ? json_tokens(list, s->info.n_vocab, &ids) : -3;
	if (rc < 0) {
		reply_error(s, req, rc == -2 ? 503 : 400, "tokens", rc == -2 ? "out of memory"
		            : "tokens is not a list of integers of 0 .. %d", s->info.n_vocab - 1);
		ids_free(&ids);
		return;
	}
	size_t n = 0;
	char none[1], *text = NULL;
	rc = moxie_detokenize(s->m, ids.v, ids.n, !json_is_true(skip), none, 0, &n, &err);
	if (rc == MOXIE_E_TOO_SMALL && (text = malloc(n + 1)))
		rc = moxie_detokenize(s->m, ids.v, ids.n, !json_is_true(skip), text, n, &n, &err);
	const char *why = "out of memory";
	if (rc == 0 && buf_puts(&b, "{\"text\":") && json_str(&b, text ? text : "", text ? n : 0) && buf_puts(&b, "}"))
		reply_buf(s, req, 200, &b);
	else
		reply_error(s, req, rc < 0 && text ? error_of_engine(s, &err, &why) : 503, NULL, "%s", why);
	free(text);
	buf_free(&b);
	ids_free(&ids);
}

void native_abort(struct server *s, struct evhttp_request *req, json_t *body)
{
	const char *rid = json_string_value(json_object_get(body, "rid"));
	bool all = json_is_true(json_object_get(body, "abort_all"));
	if (!all && (!rid || !*rid)) {
		reply_error(s, req, 400, "rid", "rid is missing or not a string, and abort_all is not true");
		return;
	}
	/* An id that nobody has is no error: the request may just have ended. */
	int n = 0;
	for (struct job *j = s->jobs; j; j = j->next)
		if (j->kind != JOB_HEALTH && (all || !strcmp(j->rid, rid))) {
			job_abort(j);
			n++;
		}
	reply_json(s, req, 200, json_pack("{s:i}", "aborted", n));
}

void native_model_info(struct server *s, struct evhttp_request *req, json_t *body)
{
	(void)body;
	reply_json(s, req, 200, json_pack("{s:s, s:s, s:b, s:s, s:s, s:i, s:i, s:I, s:I, s:s}", "model_path", s->p.model_path,
	                                  "tokenizer_path", s->p.model_path, "is_generation", 1, "weight_version", "default",
	                                  "architecture", s->info.arch ? s->info.arch : "", "vocab_size", s->info.n_vocab,
	                                  "max_model_len", s->p.n_ctx, "n_param", (json_int_t)s->info.n_param,
	                                  "n_param_active", (json_int_t)s->info.n_param_active,
	                                  "kernels", s->info.kernels ? s->info.kernels : ""));
}

void native_server_info(struct server *s, struct evhttp_request *req, json_t *body)
{
	(void)body;
	struct moxie_engine_stats st = { .struct_size = sizeof st };
	moxie_engine_get_stats(s->e, &st);
	json_t *state = json_pack("{s:f, s:i, s:i, s:I, s:I}", "last_gen_throughput", st.decode_tokens_per_second,
	                          "num_running_reqs", st.n_running, "num_queue_reqs", st.n_queued,
	                          "kv_used_tokens", (json_int_t)st.kv_tokens, "kv_capacity_tokens", (json_int_t)st.kv_capacity);
	reply_json(s, req, 200, json_pack("{s:s, s:s, s:s, s:s, s:i, s:i, s:I, s:b, s:[o]}", "version", moxie_version(),
	                                  "model_path", s->p.model_path, "served_model_name", s->p.model_name,
	                                  "status", s->draining ? "draining" : "ready", "context_length", s->p.n_ctx,
	                                  "max_running_requests", st.n_seq, "max_total_num_tokens", (json_int_t)st.kv_capacity,
	                                  "incremental_streaming_output", s->p.incremental_stream, "internal_states", state));
}

void native_health_generate(struct server *s, struct evhttp_request *req, json_t *body)
{
	(void)body;
	struct job *j = job_create(s, req, JOB_HEALTH);
	if (!j)
		return;
	int32_t id = 0;
	j->gen.sampling = (struct moxie_sampling){ .struct_size = sizeof j->gen.sampling };
	j->gen.max_tokens = 1;
	j->gen.ignore_eos = 1;
	if (job_add_prompt(j, &id, 1))
		job_submit(j);
	else
		job_refuse(j, 503, NULL, "out of memory");
}

/* A cache that requests are using is forgotten before the next step, so the answer need not wait. */
void native_flush_cache(struct server *s, struct evhttp_request *req, json_t *body)
{
	static const char done[] = "Cache flushed.\n";
	(void)body;
	moxie_engine_flush(s->e);
	reply_send(s, req, 200, "text/plain; charset=utf-8", done, sizeof done - 1);
}
