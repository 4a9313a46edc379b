/* test_serve_call.c - answers that a small model never gives: an engine that says what the test wants, behind the real server. */
#include <arpa/inet.h>
#include <jansson.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/vec.h"
#include "moxie.h"
#include "serve/serve.h"
#include "test.h"

/* ---- the engine of this test: it takes the place of the library's --------------------------------------------------------- */

struct moxie_engine {
	const moxie_model *m;
};
static const char *script;      /* what the model says, special tokens included */
static int script_status;       /* or how it fails */
static int32_t said[512];
static size_t n_said;

int moxie_engine_submit(moxie_engine *e, const struct moxie_request *r, uint64_t *id, struct moxie_err *err)
{
	struct moxie_event ev;
	moxie_parser *p;
	*id = 1;
	int rc = moxie_tokenize(e->m, script, strlen(script), 1, said, 512, &n_said, err);
	if (rc < 0 || (rc = moxie_parser_create(&p, e->m, err)) < 0)
		return rc;
	/* All of it before the caller knows the id: the worst order there is. */
	for (size_t i = 0; i < n_said && moxie_parser_push(p, said[i], &ev) == 0; i++) {
		struct moxie_event text = ev;
		text.kind = MOXIE_EV_TEXT;
		if (ev.kind > MOXIE_EV_TEXT && ev.n_text) {
			r->p.on_event(r->p.ud, &text, said[i]);
			ev.text = "";
			ev.n_text = 0;
		}
		r->p.on_event(r->p.ud, &ev, said[i]);
	}
	moxie_parser_free(p);
	struct moxie_generate_result res = { .struct_size = sizeof res, .finish = MOXIE_FINISH_EOS, .n_prompt = r->n, .n_out = n_said };
	struct moxie_err bad = { .code = script_status, .text = "secret inside: 0x7fff1234" };
	r->on_finish(r->p.ud, &res, script_status, &bad);
	return 0;
}
void moxie_engine_cancel(moxie_engine *e, uint64_t id) { (void)e, (void)id; }
void moxie_engine_flush(moxie_engine *e) { (void)e; }
int moxie_engine_get_stats(moxie_engine *e, struct moxie_engine_stats *st) { (void)e, (void)st; return 0; }

/* ---- the server in a thread ----------------------------------------------------------------------------------------------- */

static moxie_model *model;
static int port;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t is_up = PTHREAD_COND_INITIALIZER;

static void on_ready(void *ud, const char *url, int at)
{
	(void)ud, (void)url;
	pthread_mutex_lock(&lock);
	port = at;
	pthread_cond_signal(&is_up);
	pthread_mutex_unlock(&lock);
}

static void *serve(void *rc)
{
	struct moxie_engine e = { model };
	struct serve_params p = { .struct_size = sizeof p, .on_ready = on_ready };
	struct moxie_err err;
	*(int *)rc = serve_run(model, &e, &p, &err);
	return NULL;
}

/* Posts body to path of a server made for it; the answer without its headers, or NULL. */
static char *post(const char *path, const char *body)
{
	static char answer[1 << 20];
	struct moxie_err err;
	struct moxie_model_params mp = { .struct_size = sizeof mp, .path = "models/wordmath" };
	if (!model)
		OK(moxie_model_open(&model, &mp, &err), err);
	pthread_t t;
	int rc = 1;
	port = 0;
	CHECK(pthread_create(&t, NULL, serve, &rc) == 0, "no thread");
	pthread_mutex_lock(&lock);
	while (!port)
		pthread_cond_wait(&is_up, &lock);
	pthread_mutex_unlock(&lock);

	int fd = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	size_t n = 0;
	struct buf b = { 0 };
	bool ok = connect(fd, (struct sockaddr *)&a, sizeof a) == 0 &&
	          buf_printf(&b, "POST %s HTTP/1.0\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s", path, strlen(body), body) &&
	          write(fd, b.p, b.n) == (ssize_t)b.n;
	for (ssize_t got; ok && n < sizeof answer - 1 && (got = read(fd, answer + n, sizeof answer - 1 - n)) > 0;)
		n += (size_t)got;
	answer[n] = 0;
	close(fd);
	buf_free(&b);
	kill(getpid(), SIGTERM);
	pthread_join(t, NULL);
	CHECK(ok && rc == 0, "the server returned %d", rc);
	char *text = strstr(answer, "\r\n\r\n");
	CHECK(text, "\"%s\"", answer);
	return text + 4;
}

#define CALL "<|channel|>analysis<|message|>I must look.<|end|><|start|>assistant to=functions.get_weather<|channel|>commentary " \
	"<|constrain|>json<|message|>{\"city\":\"Os\xc3\xb8lo\"}<|call|>"
#define ASK "{\"messages\":[{\"role\":\"user\",\"content\":\"Oslo?\"}]"

static const char *at(json_t *v, const char *a, const char *b)
{
	return json_string_value(json_object_get(json_object_get(v, a), b));
}

TEST(call_whole)
{
	script = CALL;
	script_status = 0;
	json_error_t e;
	json_t *all = json_loads(post("/v1/chat/completions", ASK "}"), 0, &e);
	json_t *c = json_array_get(json_object_get(all, "choices"), 0), *m = json_object_get(c, "message");
	json_t *call = json_array_get(json_object_get(m, "tool_calls"), 0);
	CHECK(json_is_null(json_object_get(m, "content")), "there is content");
	CHECK(!strcmp(json_string_value(json_object_get(m, "reasoning_content")), "I must look."), "reasoning");
	CHECK(!strcmp(json_string_value(json_object_get(c, "finish_reason")), "tool_calls"), "finish_reason");
	CHECK(!strcmp(at(call, "function", "name"), "get_weather"), "%s", at(call, "function", "name"));
	CHECK(!strcmp(at(call, "function", "arguments"), "{\"city\":\"Os\xc3\xb8lo\"}"), "%s", at(call, "function", "arguments"));
	CHECK(json_string_length(json_object_get(call, "id")), "no id");
	json_decref(all);
}

TEST(call_streamed)
{
	script = CALL;
	script_status = 0;
	char *text = post("/v1/chat/completions", ASK ",\"stream\":true}");
	char arguments[200] = "", name[100] = "", finish[20] = "", *more;
	int n_delta = 0, n_id = 0;
	json_error_t e;
	for (char *line = strtok_r(text, "\n", &more); line && strcmp(line, "data: [DONE]"); line = strtok_r(NULL, "\n", &more)) {
		json_t *all = json_loads(line + 6, 0, &e);
		CHECK(all, "%s: \"%s\"", e.text, line);
		json_t *c = json_array_get(json_object_get(all, "choices"), 0);
		json_t *call = json_array_get(json_object_get(json_object_get(c, "delta"), "tool_calls"), 0);
		const char *end = json_string_value(json_object_get(c, "finish_reason"));
		if (at(call, "function", "name"))
			snprintf(name, sizeof name, "%s", at(call, "function", "name"));
		if (at(call, "function", "arguments")) {
			n_delta++;
			n_id += json_object_get(call, "id") != NULL;
			strncat(arguments, at(call, "function", "arguments"), sizeof arguments - strlen(arguments) - 1);
		}
		if (end)
			snprintf(finish, sizeof finish, "%s", end);
		json_decref(all);
	}
	CHECK(!strcmp(name, "get_weather") && n_id == 1, "%s, %d ids", name, n_id);
	CHECK(n_delta > 3, "%d deltas: the arguments did not come as they were made", n_delta);
	CHECK(!strcmp(arguments, "{\"city\":\"Os\xc3\xb8lo\"}"), "%s", arguments);
	CHECK(!strcmp(finish, "tool_calls"), "%s", finish);
}

TEST(preamble_and_final)
{
	script = "<|channel|>commentary<|message|>Let me see.<|end|><|start|>assistant<|channel|>final<|message|>Rain.<|return|>";
	script_status = 0;
	json_error_t e;
	json_t *all = json_loads(post("/v1/chat/completions", ASK "}"), 0, &e);
	json_t *c = json_array_get(json_object_get(all, "choices"), 0);
	CHECK(!strcmp(at(c, "message", "content"), "Let me see.Rain."), "%s", at(c, "message", "content"));
	CHECK(!strcmp(json_string_value(json_object_get(c, "finish_reason")), "stop"), "finish_reason");
	json_decref(all);
}

/* Items of every kind, in the order in which they came. */
TEST(response_items)
{
	script = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>Let me see.<|end|>"
	         "<|start|>assistant to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>{}<|call|>";
	script_status = 0;
	json_error_t e;
	json_t *all = json_loads(post("/v1/responses", "{\"input\":\"Oslo?\"}"), 0, &e), *out = json_object_get(all, "output");
	static const char *const types[] = { "reasoning", "message", "function_call" };
	CHECK(json_array_size(out) == 3, "%zu items", json_array_size(out));
	for (size_t i = 0; i < 3; i++)
		CHECK(!strcmp(json_string_value(json_object_get(json_array_get(out, i), "type")), types[i]), "item %zu", i);
	CHECK(!strcmp(json_string_value(json_object_get(json_array_get(out, 2), "arguments")), "{}"), "arguments");
	CHECK(!strcmp(json_string_value(json_object_get(all, "status")), "completed"), "status");
	json_decref(all);
	char *text = post("/v1/responses", "{\"input\":\"Oslo?\",\"stream\":true}");
	static const char *const order[] = { "response.created", "response.reasoning_text.delta", "response.output_item.done", "response.output_text.delta",
		"response.output_item.done", "response.function_call_arguments.delta", "response.function_call_arguments.done",
		"response.output_item.done", "response.completed" };
	for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
		char line[80];
		snprintf(line, sizeof line, "event: %s\n", order[i]);
		text = strstr(text, line);
		CHECK(text, "no %s where it belongs", order[i]);
		text++;
	}
	script_status = MOXIE_E_DEVICE;
	text = post("/v1/responses", "{\"input\":\"Oslo?\",\"stream\":true}");
	CHECK(strstr(text, "event: response.failed") && strstr(text, "the engine failed") && !strstr(text, "secret"), "%s", text);
}

TEST(failure_tells_nothing_inside)
{
	script = "Hm";
	script_status = MOXIE_E_DEVICE;
	char *whole = post("/v1/chat/completions", ASK "}");
	CHECK(strstr(whole, "the engine failed") && strstr(whole, "\"code\":500") && !strstr(whole, "secret"), "%s", whole);
	char *streamed = post("/generate", "{\"text\":\"a\",\"stream\":true}");
	CHECK(strstr(streamed, "\"error\":{\"message\":\"the engine failed\"") && !strstr(streamed, "secret"), "%s", streamed);
}

int main(int argc, char **argv)
{
	int rc = test_main(argc, argv);
	moxie_model_free(model);
	return rc;
}
