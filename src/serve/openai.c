/* openai.c - the routes that generate: /v1/chat/completions, /v1/completions, and SGLang's /generate. */
#include <stdlib.h>
#include <string.h>

#include "serve/serve_int.h"

/* What both routes ask first.  false: answered. */
static bool check_common(struct server *s, struct evhttp_request *req, json_t *body, enum job_kind kind)
{
	const json_t *model = json_object_get(body, "model"), *options = json_object_get(body, "stream_options");
	const char *off = unsupported_field(body, kind);
	if (s->draining)
		reply_error(s, req, 503, NULL, "the server is shutting down");
	else if (model && !json_is_null(model) && !json_is_string(model))
		reply_error(s, req, 400, "model", "model is not a string");
	else if (json_string_length(model) && strcmp(json_string_value(model), "default") && strcmp(json_string_value(model), s->p.model_name))
		reply_error(s, req, 404, "model", "this server has no model of that name, it has \"%.200s\"", s->p.model_name);
	else if (off)
		reply_error(s, req, 400, off, "%s is not supported here", off);
	else if (options && !json_is_null(options) && !json_is_object(options))
		reply_error(s, req, 400, "stream_options", "stream_options is not an object");
	else
		return true;
	return false;
}

static bool read_stream(struct job *j, json_t *body)
{
	static const char *const rid_chars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:";
	struct { bool stream, include_usage; } v = { false, false };
	static const struct field stream = { "stream", FIELD_BOOL, 0, 0, 1 }, usage = { "include_usage", FIELD_BOOL, sizeof(bool), 0, 1 };
	const json_t *rid = json_object_get(body, "rid");
	struct buf why = { 0 };
	const char *name = NULL;
	bool ok = fields_read(&stream, 1, body, &v, &name, &why);
	ok = ok && fields_read(&usage, 1, json_object_get(body, "stream_options"), &v, &name, &why);
	if (ok && rid && !json_is_null(rid)) {
		const char *text = json_string_value(rid);
		size_t n = text ? strlen(text) : 0;
		name = "rid";
		ok = n > 0 && n < sizeof j->rid && strspn(text, rid_chars) == n;
		if (!ok)
			buf_printf(&why, "rid is not a word of 1 .. %zu letters, digits, '-', '_', '.' and ':'", sizeof j->rid - 1);
		else
			memcpy(j->rid, text, n + 1);
	}
	j->stream = v.stream;
	j->include_usage = v.stream && v.include_usage;
	if (!ok)
		job_refuse(j, 400, name, "%s", why.p ? why.p : "a field cannot be used");
	buf_free(&why);
	return ok;
}

struct job *chat_job(struct server *s, struct evhttp_request *req, json_t *body, enum job_kind kind)
{
	struct ids ids = { 0 };
	if (!check_common(s, req, body, JOB_CHAT) || chat_ids(s, req, body, &ids) < 0) {
		ids_free(&ids);
		return NULL;
	}
	struct job *j = job_create(s, req, kind);
	bool ok = j && (job_add_prompt(j, ids.v, ids.n) || (job_refuse(j, 503, NULL, "out of memory"), false));
	ids_free(&ids);
	return ok && read_stream(j, body) && job_read_params(j, body, 0) && job_read_format(j, body) ? j : NULL;
}

void openai_chat(struct server *s, struct evhttp_request *req, json_t *body)
{
	struct job *j = chat_job(s, req, body, JOB_CHAT);
	if (j)
		job_submit(j);
}

/* ---- prompts without a template --------------------------------------------------------------------------------------- */

static bool add_ids(struct job *j, const json_t *list, const char *name)
{
	struct ids ids = { 0 };
	int rc = json_tokens(list, j->s->info.n_vocab, &ids);
	if (rc == 0 && !job_add_prompt(j, ids.v, ids.n))
		rc = -2;
	ids_free(&ids);
	if (rc == -2)
		job_refuse(j, 503, NULL, "out of memory");
	else if (rc < 0)
		job_refuse(j, 400, name, "%s has a token that is not an integer of 0 .. %d", name, j->s->info.n_vocab - 1);
	return rc == 0;
}

static bool add_text(struct job *j, const json_t *v, const char *name)
{
	struct server *s = j->s;
	size_t n = json_string_length(v), cap = n + 16, n_id = 0;
	if (n / 256 > (size_t)s->p.n_ctx) { /* no token has more bytes: do not even count */
		job_refuse(j, 400, name, "%s has %zu bytes, too long for a context of %d tokens", name, n, s->p.n_ctx);
		return false;
	}
	struct moxie_err err = { 0 };
	int32_t *ids = malloc(cap * sizeof *ids);
	int rc = ids ? moxie_tokenize(s->m, json_string_value(v), n, 1, ids, cap, &n_id, &err) : -100;
	bool ok = rc == 0 && job_add_prompt(j, ids, n_id);
	free(ids);
	if (rc < 0 && rc != -100) {
		const char *text;
		int code = error_of_engine(s, &err, &text);
		job_refuse(j, code, name, "%s", text);
	} else if (!ok) {
		job_refuse(j, 503, NULL, "out of memory");
	}
	return ok;
}

/* A string, a list of strings, a list of ids, or a list of lists of ids.  false: answered. */
static bool add_prompts(struct job *j, const json_t *v, const char *name)
{
	const json_t *first = json_array_get(v, 0);
	size_t i;
	json_t *one;
	if (json_is_string(v))
		return add_text(j, v, name);
	if (!first) {
		job_refuse(j, 400, name, "%s is missing, empty, or neither a string nor a list", name);
		return false;
	}
	if (json_is_number(first))
		return add_ids(j, v, name);
	j->is_batch = true;
	if (json_array_size(v) > MAX_PARTS) {
		job_refuse(j, 400, name, "%s has %zu prompts, at most %d are taken", name, json_array_size(v), MAX_PARTS);
		return false;
	}
	json_array_foreach(v, i, one) {
		if (json_is_string(one) ? !add_text(j, one, name) : json_is_array(one) ? !add_ids(j, one, name)
		    : (job_refuse(j, 400, name, "%s[%zu] is neither a string nor a list of tokens", name, i), true))
			return false;
	}
	return true;
}

void openai_completions(struct server *s, struct evhttp_request *req, json_t *body)
{
	if (!check_common(s, req, body, JOB_COMPLETION))
		return;
	struct job *j = job_create(s, req, JOB_COMPLETION);
	if (j && add_prompts(j, json_object_get(body, "prompt"), "prompt") && read_stream(j, body) && job_read_params(j, body, 16) &&
	    job_read_format(j, body))
		job_submit(j);
}

/* ---- /generate: SGLang's own ---------------------------------------------------------------------------------------------- */

void native_generate(struct server *s, struct evhttp_request *req, json_t *body)
{
	json_t *params = json_object_get(body, "sampling_params");
	const json_t *ids = json_object_get(body, "input_ids");
	bool has_ids = ids && !json_is_null(ids);
	if (params && !json_is_null(params) && !json_is_object(params)) {
		reply_error(s, req, 400, "sampling_params", "sampling_params is not an object");
		return;
	}
	const char *off = unsupported_field(body, JOB_GENERATE);
	off = off ? off : unsupported_field(params, JOB_GENERATE);
	if (off) {
		reply_error(s, req, 400, off, "%s is not supported here", off);
		return;
	}
	struct job *j = job_create(s, req, JOB_GENERATE);
	const char *name = has_ids ? "input_ids" : "text";
	if (j && add_prompts(j, has_ids ? ids : json_object_get(body, "text"), name) && read_stream(j, body) && job_read_params(j, body, 128) &&
	    job_read_format(j, body))
		job_submit(j);
}
