/* routes.c - which request goes where, and what is asked of it before: method, key, headers, a body that is JSON. */
#include <event2/keyvalq_struct.h>
#include <stdlib.h>
#include <string.h>

#include "serve/serve_int.h"

#define MODEL_PATH "/v1/models/"
#define MAX_JSON_VALUES (2 << 20) /* a value takes about 50 times its shortest text in memory */

typedef void route_fn(struct server *s, struct evhttp_request *req, json_t *body);

static void health(struct server *s, struct evhttp_request *req, json_t *body)
{
	(void)body;
	if (s->draining)
		reply_error(s, req, 503, NULL, "the server is shutting down");
	else
		reply_json(s, req, 200, json_pack("{s:s}", "status", "ok"));
}

static json_t *model_object(const struct server *s)
{
	return json_pack("{s:s, s:s, s:I, s:s, s:s, s:n, s:i}", "id", s->p.model_name, "object", "model", "created", (json_int_t)s->started_at,
	                 "owned_by", "moxie", "root", s->p.model_path, "parent", "max_model_len", s->p.n_ctx);
}

static void models(struct server *s, struct evhttp_request *req, json_t *body)
{
	(void)body;
	reply_json(s, req, 200, json_pack("{s:s, s:[o]}", "object", "list", "data", model_object(s)));
}

/* /v1/models/NAME; the library has decoded nothing yet. */
static void model(struct server *s, struct evhttp_request *req, json_t *body)
{
	(void)body;
	const char *path = evhttp_uri_get_path(evhttp_request_get_evhttp_uri(req));
	char *name = evhttp_decode_uri(path + strlen(MODEL_PATH));
	if (name && !strcmp(name, s->p.model_name))
		reply_json(s, req, 200, model_object(s));
	else
		reply_error(s, req, 404, "model", "this server has no model of that name, it has \"%.200s\"", s->p.model_name);
	free(name);
}

static void page(struct server *s, struct evhttp_request *req, json_t *body)
{
	(void)body;
	if (!s->p.page) {
		reply_error(s, req, 404, NULL, "this server has no page");
		return;
	}
	/* The page is whole in itself: whatever else it might be made to load is refused. */
	struct evkeyvalq *h = evhttp_request_get_output_headers(req);
	evhttp_add_header(h, "Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
	                  "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
	evhttp_add_header(h, "Referrer-Policy", "no-referrer");
	evhttp_add_header(h, "Cache-Control", "no-cache");
	reply_send(s, req, 200, "text/html; charset=utf-8", s->p.page, s->p.n_page);
}

enum { OPEN_ALWAYS = 1, OPEN_METRICS = 2, OPEN_PAGE = 4, NO_BODY = 8, MORE_PATH = 16, ADMIN = 32 }; /* NO_BODY: a POST's is not read */

static const struct route {
	const char *path;
	int method;       /* of evhttp_cmd_type's bits */
	int flags;
	route_fn *run;
} routes[] = {
	{ "/health", EVHTTP_REQ_GET, OPEN_ALWAYS, health },
	{ "/health_generate", EVHTTP_REQ_GET, 0, native_health_generate },
	{ "/v1/models", EVHTTP_REQ_GET, 0, models },
	{ MODEL_PATH, EVHTTP_REQ_GET, MORE_PATH, model },
	{ "/v1/responses", EVHTTP_REQ_POST, 0, openai_responses },
	{ "/v1/chat/completions", EVHTTP_REQ_POST, 0, openai_chat },
	{ "/v1/completions", EVHTTP_REQ_POST, 0, openai_completions },
	{ "/generate", EVHTTP_REQ_POST, 0, native_generate },
	{ "/tokenize", EVHTTP_REQ_POST, 0, native_tokenize },
	{ "/v1/tokenize", EVHTTP_REQ_POST, 0, native_tokenize },
	{ "/detokenize", EVHTTP_REQ_POST, 0, native_detokenize },
	{ "/v1/detokenize", EVHTTP_REQ_POST, 0, native_detokenize },
	{ "/abort_request", EVHTTP_REQ_POST, ADMIN, native_abort },
	{ "/get_model_info", EVHTTP_REQ_GET, 0, native_model_info },
	{ "/model_info", EVHTTP_REQ_GET, 0, native_model_info },
	{ "/server_info", EVHTTP_REQ_GET, 0, native_server_info },
	{ "/get_server_info", EVHTTP_REQ_GET, 0, native_server_info },
	{ "/flush_cache", EVHTTP_REQ_POST | EVHTTP_REQ_GET, NO_BODY | ADMIN, native_flush_cache },
	{ "/reset_prefix_cache", EVHTTP_REQ_POST, NO_BODY | ADMIN, native_flush_cache },
	{ "/metrics", EVHTTP_REQ_GET, OPEN_METRICS, metrics_reply },
	{ "/", EVHTTP_REQ_GET, OPEN_PAGE, page },
};

/* The time taken says nothing about where the first wrong byte is. */
static bool same_key(const char *got, const char *key)
{
	size_t n = strlen(got), n_key = strlen(key);
	unsigned wrong = n != n_key;
	for (size_t i = 0; i < n; i++)
		wrong |= (unsigned char)got[i] ^ (unsigned char)key[i % n_key];
	return !wrong;
}

static bool may_enter(const struct server *s, struct evhttp_request *req, const struct route *r)
{
	int flags = r ? r->flags : 0;
	const char *key = flags & ADMIN ? s->p.admin_key : s->p.api_key;
	if (!key || flags & OPEN_ALWAYS || (flags & OPEN_METRICS && s->p.metrics_open) || (flags & OPEN_PAGE && s->p.page_open))
		return true;
	const char *got = evhttp_find_header(evhttp_request_get_input_headers(req), "Authorization");
	return got && !strncasecmp(got, "Bearer ", 7) && same_key(got + 7, key);
}

static int count_headers(struct evhttp_request *req, const char *name)
{
	int n = 0;
	for (const struct evkeyval *h = evhttp_request_get_input_headers(req)->tqh_first; h; h = h->next.tqe_next)
		n += !strcasecmp(h->key, name);
	return n;
}

/* Two lengths, or a length and chunks: someone between us and the client may have read another request than we did. */
static bool is_ambiguous(struct evhttp_request *req)
{
	int n_length = count_headers(req, "Content-Length"), n_coding = count_headers(req, "Transfer-Encoding");
	return n_length > 1 || n_coding > 1 || (n_length && n_coding) || count_headers(req, "Host") > 1 || count_headers(req, "Authorization") > 1;
}

static size_t count_values(const char *p, size_t n)
{
	size_t count = 1;
	bool in_string = false;
	for (size_t i = 0; i < n; i++) {
		if (in_string && p[i] == '\\')
			i++;
		else if (p[i] == '"')
			in_string = !in_string;
		else if (!in_string)
			count += p[i] == ',' || p[i] == '[' || p[i] == '{';
	}
	return count;
}

/* Every NUL of the string v becomes U+FFFD, as it does in HTML and Markdown. */
static bool replace_nul(json_t *v)
{
	struct buf b = { 0 };
	const char *p = json_string_value(v);
	bool ok = true;
	for (size_t i = 0, n = json_string_length(v); ok && i < n; i++)
		ok = p[i] ? buf_append(&b, p + i, 1) : buf_append(&b, "\xef\xbf\xbd", 3);
	ok = ok && json_string_setn(v, b.p, b.n) == 0;
	buf_free(&b);
	return ok;
}

/* Whether all strings in v are good as C strings; with replace, they are made so. */
static bool is_free_of_nul(json_t *v, bool replace)
{
	const char *key;
	json_t *in;
	size_t i;
	bool ok = true;
	if (json_is_string(v))
		return strlen(json_string_value(v)) == json_string_length(v) || (replace && replace_nul(v));
	json_array_foreach(v, i, in)
		ok = ok && is_free_of_nul(in, replace);
	json_object_foreach(v, key, in)
		ok = ok && is_free_of_nul(in, replace);
	return ok;
}

/* The field that may not hold the NUL it does, or NULL.  Texts may, for load generators send random tokens, which spell it:
 * those to continue know their length, those of a conversation do not. */
static const char *field_with_nul(json_t *body)
{
	const char *key;
	json_t *v;
	json_object_foreach(body, key, v)
		if (strcmp(key, "prompt") && strcmp(key, "text") && !is_free_of_nul(v, !strcmp(key, "messages") || !strcmp(key, "input")))
			return key;
	return NULL;
}

static json_t *read_body(struct server *s, struct evhttp_request *req)
{
	struct evbuffer *in = evhttp_request_get_input_buffer(req);
	size_t n = evbuffer_get_length(in);
	const char *p = n > s->p.max_body ? NULL : (const char *)evbuffer_pullup(in, -1);
	json_error_t e;
	const char *bad;
	if (n > s->p.max_body) {
		reply_error(s, req, 413, NULL, "the body has %zu bytes, at most %zu are taken", n, s->p.max_body);
		return NULL;
	}
	if (n && !p) {
		reply_error(s, req, 503, NULL, "out of memory");
		return NULL;
	}
	if (n && count_values(p, n) > MAX_JSON_VALUES) {
		reply_error(s, req, 413, NULL, "the body has more than %d values", MAX_JSON_VALUES);
		return NULL;
	}
	json_t *body = n ? json_loadb(p, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e) : NULL;
	if (!n)
		reply_error(s, req, 400, NULL, "the body is empty, wanted a JSON object");
	else if (!body)
		reply_error(s, req, 400, NULL, "the body is not JSON: %s at byte %d", e.text, e.position);
	else if (!json_is_object(body))
		reply_error(s, req, 400, NULL, "the body is not a JSON object");
	else if ((bad = field_with_nul(body)))
		reply_error(s, req, 400, bad, "a string in %s has a NUL character", bad);
	else
		return body;
	json_decref(body);
	return NULL;
}

static void run_route(struct server *s, struct evhttp_request *req, const struct route *r)
{
	if (r->method != EVHTTP_REQ_POST || r->flags & NO_BODY) {
		r->run(s, req, NULL);
		return;
	}
	json_t *body = read_body(s, req);
	if (body)
		r->run(s, req, body);
	json_decref(body);
}

void route_request(struct evhttp_request *req, void *server)
{
	struct server *s = server;
	const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(req);
	const char *path = uri ? evhttp_uri_get_path(uri) : NULL;
	const struct route *found = NULL;
	conns_mark(s, evhttp_request_get_connection(req), CONN_BUSY);
	enum evhttp_cmd_type method = evhttp_request_get_command(req);
	for (size_t i = 0; path && i < sizeof routes / sizeof *routes; i++)
		if (!strcmp(path, routes[i].path) || (routes[i].flags & MORE_PATH && !strncmp(path, routes[i].path, strlen(routes[i].path))))
			found = &routes[i];
	if (is_ambiguous(req)) {
		evhttp_add_header(evhttp_request_get_output_headers(req), "Connection", "close");
		reply_error(s, req, 400, NULL, "a header that may stand once stands twice");
	} else if (!may_enter(s, req, found)) {
		reply_error(s, req, 401, NULL, "the API key is missing or wrong");
	} else if (!found) {
		reply_error(s, req, 404, NULL, "there is no such route");
	} else if (!(found->method & (int)method) && !(method == EVHTTP_REQ_HEAD && found->method == EVHTTP_REQ_GET)) {
		evhttp_add_header(evhttp_request_get_output_headers(req), "Allow", found->method == EVHTTP_REQ_GET ? "GET, HEAD" : "POST");
		reply_error(s, req, 405, NULL, "this route takes %s", found->method == EVHTTP_REQ_GET ? "GET" : "POST");
	} else {
		run_route(s, req, found);
	}
}
