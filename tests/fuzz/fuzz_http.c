/* Any bytes as HTTP, and any bodies for the routes that take one: the whole server with a small model behind it, in this process.
 *
 * The first byte picks: 0 .. 15: the rest is what a client sends on a connection of its own, until it closes its half; more: the
 * rest is a body for one of the routes, sent on a connection that is kept.
 *
 * What must hold: every body gets a whole answer, of a status this server gives on purpose, that is JSON or a stream of JSON;
 * a second of the processor's time always brings a byte or a step of the model; afterwards the server still answers.
 */
#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "client/http_in.h"
#include "moxie.h"
#include "mutate.h"
#include "serve/serve.h"

#define MUST(cond) do { if (!(cond)) { fprintf(stderr, "%s:%d: %s: %.600s\n", __FILE__, __LINE__, #cond, context); abort(); } } while (0)
static char context[2048];

static const char *const routes[] = { "/v1/chat/completions", "/v1/completions", "/generate", "/tokenize", "/detokenize", "/v1/responses",
                                      "/abort_request", "/flush_cache" };
#define N_CTX 96 /* a small chat's prompt, and a few tokens */
#define N_ROUTE (sizeof routes / sizeof *routes)

static char dir[] = "/tmp/fuzz_http.XXXXXX";
static struct sockaddr_un address = { .sun_family = AF_UNIX };
static sem_t is_up;
static moxie_model *model;
static moxie_engine *engine;
static int kept = -1;

/* ---- the server ---------------------------------------------------------------------------------------------------------- */

static const char config[] = "{\"architectures\":[\"GptOssForCausalLM\"],\"attention_bias\":true,\"eos_token_id\":2036,\"experts_per_token\":2,"
	"\"head_dim\":16,\"hidden_act\":\"silu\",\"hidden_size\":32,\"initial_context_length\":4096,\"intermediate_size\":32,"
	"\"layer_types\":[\"sliding_attention\",\"full_attention\"],\"max_position_embeddings\":131072,\"model_type\":\"gpt_oss\","
	"\"num_attention_heads\":2,\"num_experts_per_tok\":2,\"num_hidden_layers\":2,\"num_key_value_heads\":1,\"num_local_experts\":4,"
	"\"quantization_config\":{\"modules_to_not_convert\":[\"model.layers.*.self_attn\",\"model.layers.*.mlp.router\",\"model.embed_tokens\","
	"\"lm_head\"],\"quant_method\":\"mxfp4\"},\"rms_norm_eps\":1e-05,\"rope_scaling\":{\"beta_fast\":32.0,\"beta_slow\":1.0,\"factor\":32.0,"
	"\"original_max_position_embeddings\":4096,\"rope_type\":\"yarn\",\"truncate\":false},\"rope_theta\":150000,\"sliding_window\":32,"
	"\"swiglu_limit\":7.0,\"tie_word_embeddings\":false,\"torch_dtype\":\"bfloat16\",\"vocab_size\":2048}";

static void copy_file(const char *from, const char *name, const char *text, size_t n)
{
	char path[300];
	static char data[1 << 20];
	snprintf(path, sizeof path, "%s/%s", dir, name);
	FILE *in = from ? fopen(from, "rb") : NULL, *out = fopen(path, "wb");
	MUST(out && (in || !from));
	if (in) {
		n = fread(data, 1, sizeof data, in);
		text = data;
		fclose(in);
	}
	MUST(fwrite(text, 1, n, out) == n && fclose(out) == 0);
}

static void remove_files(void)
{
	static const char *const names[] = { "config.json", "tokenizer.json", "generation_config.json", "s" };
	char path[300];
	for (size_t i = 0; i < 4; i++) {
		snprintf(path, sizeof path, "%s/%s", dir, names[i]);
		unlink(path);
	}
	rmdir(dir);
}

static void on_ready(void *ud, const char *url, int port)
{
	(void)ud, (void)url, (void)port;
	sem_post(&is_up);
}

static void *serve(void *arg)
{
	(void)arg;
	struct moxie_err err = { 0 };
	struct serve_params p = { .struct_size = sizeof p, .unix_path = address.sun_path, .n_ctx = N_CTX, .on_ready = on_ready, .max_body = 1 << 20,
	                          .page = "page", .n_page = 4 };
	if (serve_run(model, engine, &p, &err) < 0)
		fprintf(stderr, "%s\n", err.text), abort();
	return NULL;
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	pthread_t t;
	struct moxie_err err = { 0 };
	MUST(mkdtemp(dir));
	atexit(remove_files);
	copy_file(NULL, "config.json", config, sizeof config - 1);
	copy_file("models/wordmath/tokenizer.json", "tokenizer.json", NULL, 0);
	copy_file("models/wordmath/generation_config.json", "generation_config.json", NULL, 0);
	snprintf(address.sun_path, sizeof address.sun_path, "%s/s", dir);
	struct moxie_model_params mp = { .struct_size = sizeof mp, .path = dir, .dummy = 1, .n_seq = 4, .n_thread = 1, .n_chunk = 64, .device = "cpu:avx2" };
	struct moxie_engine_params ep = { .struct_size = sizeof ep, .n_ctx = N_CTX, .n_queued = 1024 };
	if (moxie_model_open(&model, &mp, &err) < 0 || moxie_engine_create(&engine, model, &ep, &err) < 0)
		fprintf(stderr, "%s\n", err.text), abort();
	sem_init(&is_up, 0, 0);
	MUST(pthread_create(&t, NULL, serve, NULL) == 0);
	while (sem_wait(&is_up))
		;
	return 0;
}

/* ---- one exchange --------------------------------------------------------------------------------------------------------- */

static int connect_server(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	MUST(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
	return fd;
}

static double cpu_seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Waits for fd; a second of our own time, or a minute of anybody's, without a step of the model is a hang. */
static void wait_for(int fd, short what)
{
	struct pollfd p = { fd, what, 0 };
	struct moxie_engine_stats st = { .struct_size = sizeof st };
	double start = cpu_seconds();
	uint64_t n_steps = 0;
	for (int i = 0; poll(&p, 1, 100) != 1; i++) {
		moxie_engine_get_stats(engine, &st);
		if (st.n_steps != n_steps)
			start = cpu_seconds(), i = 0;
		n_steps = st.n_steps;
		MUST(cpu_seconds() - start < 1 && i < 600);
	}
}

static void send_all(int fd, const char *p, size_t n)
{
	while (n) {
		ssize_t got = send(fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (got < 0 && errno == EAGAIN)
			wait_for(fd, POLLOUT | POLLIN);
		if (got < 0 && errno != EAGAIN)
			return; /* it has closed: what it said is still to be read */
		if (got > 0)
			p += got, n -= (size_t)got;
		char in[1];
		if (got < 0 && recv(fd, in, 1, MSG_PEEK | MSG_DONTWAIT) >= 0)
			return; /* an answer already: no use to send the rest */
	}
}

static bool done_mark;
static int n_event;

static void on_event(void *ud, const char *data, size_t n)
{
	(void)ud;
	MUST(!done_mark);
	n_event++;
	if (!strcmp(data, "[DONE]")) {
		done_mark = true;
		return;
	}
	json_t *j = json_loadb(data, n, JSON_ALLOW_NUL, NULL);
	if (!j)
		snprintf(context + strlen(context), 300, "\nevent: %.200s", data);
	MUST(json_is_object(j));
	json_decref(j);
}

static bool is_status(int status)
{
	static const int all[] = { 200, 400, 401, 404, 405, 413, 422, 429, 503 };
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		if (status == all[i])
			return true;
	return false;
}

/* The answer to a body: whole, JSON. */
static void ask(const char *route, const char *body, size_t n)
{
	static struct http_in in = { .on_event = on_event };
	static char buf[65536];
	snprintf(context, sizeof context, "%s %.*s", route, n < 1000 ? (int)n : 1000, body);
	int n_head = snprintf(buf, sizeof buf, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n", route, n);
	if (kept < 0)
		kept = connect_server();
	send_all(kept, buf, (size_t)n_head);
	send_all(kept, body, n);
	http_in_reset(&in);
	done_mark = false;
	n_event = 0;
	while (in.at != HTTP_WHOLE) {
		wait_for(kept, POLLIN);
		ssize_t got = recv(kept, buf, sizeof buf, 0);
		MUST(got > 0 ? http_in_feed(&in, buf, (size_t)got) : http_in_close(&in));
	}
	MUST(is_status(in.status));
	if (in.events) {
		MUST(done_mark || !strcmp(route, "/v1/responses"));
	} else if (in.body.n && !(in.status == 200 && !strcmp(route, "/flush_cache"))) { /* SGLang answers that one with a sentence */
		json_t *j = json_loadb(in.body.p, in.body.n, JSON_ALLOW_NUL | JSON_DECODE_ANY, NULL);
		snprintf(context + strlen(context), 300, "\nanswer: %.200s", in.body.p);
		MUST(j && (in.status == 200 || json_is_object(json_object_get(j, "error"))));
		json_decref(j);
	}
	if (!in.keep) {
		close(kept);
		kept = -1;
	}
}

/* Whatever comes: the server closes in the end, and a new client is served. */
static void send_raw(const char *p, size_t n)
{
	static int n_raw;
	char buf[65536];
	snprintf(context, sizeof context, "raw %.*s", n < 1000 ? (int)n : 1000, p);
	int fd = connect_server();
	send_all(fd, p, n);
	shutdown(fd, SHUT_WR);
	ssize_t got;
	do {
		wait_for(fd, POLLIN);
		got = recv(fd, buf, sizeof buf, 0);
	} while (got > 0);
	close(fd);
	if (++n_raw % 64 == 0)
		ask("/tokenize", "{\"prompt\":\"a\"}", 14);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	if (n > 1 && p[0] < 16)
		send_raw((const char *)p + 1, n - 1);
	else if (n > 1)
		ask(routes[p[0] % N_ROUTE], (const char *)p + 1, n - 1);
	return 0;
}

size_t LLVMFuzzerMutate(uint8_t *p, size_t n, size_t cap);
size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t cap, unsigned seed);
size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t cap, unsigned seed)
{
	mutate_state = seed * 0x9e3779b97f4a7c15u + 1;
	if (n < 2 || mutate_int(3) == 0)
		return LLVMFuzzerMutate(p, n, cap);
	if (mutate_int(16) == 0)
		p[0] = (uint8_t)mutate_int(256);
	return 1 + mutate((char *)p + 1, n - 1, cap - 1);
}
