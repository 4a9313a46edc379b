/* serve.c - `moxie serve`: the engine behind HTTP.  The flags, the key and the service manager are here; the routes in src/serve. */
#include <ctype.h>
#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"
#include "serve/serve.h"

#define MAX_KEY 4096

/* The chat page as it stands in the source; the assembler copies the file. */
__asm__(".pushsection .rodata\n"
        ".globl page_begin, page_end\n.hidden page_begin, page_end\n"
        "page_begin: .incbin \"src/serve/page.html\"\n"
        "page_end: .byte 0\n"
        ".popsection\n");
extern const char page_begin[], page_end[];

struct server {
	const struct opts *o;
	const char *name;
	enum serve_level level;
};

/* ---- the key -------------------------------------------------------------------------------------------------------- */

/* The one line of the file at path, malloc'ed.  0 or an exit code. */
static int key_of_file(const char *path, char **out)
{
	FILE *f = fopen(path, "re");
	if (!f)
		return bad_input("%s: %s", path, strerror(errno));
	char *buf = calloc(1, MAX_KEY + 2);
	size_t n = buf ? fread(buf, 1, MAX_KEY + 1, f) : 0;
	struct stat st;
	int rc = 0;
	if (!buf) {
		bad_input("out of memory");
		rc = EXIT_FAIL;
	} else if (ferror(f))
		rc = bad_input("%s: %s", path, strerror(errno));
	else if (n > MAX_KEY)
		rc = bad_input("%s: a key has at most %d bytes", path, MAX_KEY);
	else if (strlen(buf) != n)
		rc = bad_input("%s: a key has no NUL, byte %zu is one", path, strlen(buf));
	else if (fstat(fileno(f), &st) == 0 && S_ISREG(st.st_mode) && st.st_mode & S_IROTH)
		fprintf(stderr, "moxie: warning: every user can read %s; chmod 600 it\n", path);
	while (n && (buf[n - 1] == '\n' || buf[n - 1] == '\r'))
		buf[--n] = 0;
	fclose(f);
	if (rc)
		free(buf), buf = NULL;
	*out = buf;
	return rc;
}

/* A flag wins over the environment; a file over a key. */
int key_choose(const struct opts *o, char **key)
{
	bool by_flag = opts_given_in_argv(o, "api-key"), file_by_flag = opts_given_in_argv(o, "api-key-file");
	const char *from = "--api-key";
	int rc = 0;
	*key = NULL;
	if (by_flag && file_by_flag)
		return bad_input("two keys: --api-key and --api-key-file");
	if (o->key_file && !by_flag)
		rc = key_of_file(from = o->key_file, key);
	else if (o->key && !(*key = strdup(o->key))) {
		bad_input("out of memory");
		rc = EXIT_FAIL;
	}
	if (rc || !*key)
		return rc;
	if (by_flag)
		fprintf(stderr, "moxie: warning: other users of this machine can read the key in the list of processes; "
		                "--api-key-file and MOXIE_API_KEY keep it from them\n");
	/* What a header can carry: visible ASCII, one word. */
	size_t n = 0;
	while ((*key)[n] > ' ' && (*key)[n] <= '~')
		n++;
	if (n && !(*key)[n])
		return 0;
	rc = n || **key ? bad_input("%s: a key is one word of visible ASCII, byte %zu is not", from, n) : bad_input("%s: the key is empty", from);
	free(*key), *key = NULL;
	return rc;
}

/* ---- where to listen ------------------------------------------------------------------------------------------------ */

/* 1: only this machine reaches it; 0: others may; -1: not an address. */
static int is_loopback(const char *host)
{
	struct in_addr a4;
	struct in6_addr a6;
	if (inet_pton(AF_INET, host, &a4) == 1)
		return ntohl(a4.s_addr) >> 24 == 127;
	if (inet_pton(AF_INET6, host, &a6) == 1)
		return IN6_IS_ADDR_LOOPBACK(&a6) || (IN6_IS_ADDR_V4MAPPED(&a6) && a6.s6_addr[12] == 127);
	return -1;
}

static int check_address(struct opts *o, const char *key)
{
	if (o->uds) {
		size_t most = sizeof((struct sockaddr_un){ 0 }).sun_path - 1;
		if (!*o->uds || strlen(o->uds) > most)
			return bad_input("uds is \"%s\", wanted a path of 1 to %zu bytes", o->uds, most);
		if (opts_given_in_argv(o, "host") || opts_given_in_argv(o, "port"))
			return bad_input("--uds listens on a unix socket alone; what are --host and --port for?");
		return 0;
	}
	if (!strcmp(o->host, "localhost"))
		o->host = "127.0.0.1";
	int loopback = is_loopback(o->host);
	if (loopback < 0)
		return bad_input("host is \"%s\", wanted an IPv4 or IPv6 address", o->host);
	if (!loopback && !key && !o->open_bind)
		return bad_input("%s can be reached from other machines and there is no key: give --api-key-file FILE, "
		                 "or --allow-open-bind to let anyone in", o->host);
	return 0;
}

/* ---- the service manager ---------------------------------------------------------------------------------------------- */

/* Tells systemd (Type=notify) how far we are; without a service manager it does nothing, and a failure is not ours to mend. */
static void notify(const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	size_t n = path ? strlen(path) : 0;
	if (n < 2 || n >= sizeof to.sun_path || (*path != '/' && *path != '@'))
		return;
	memcpy(to.sun_path, path, n);
	if (*path == '@')
		to.sun_path[0] = 0; /* a name in the abstract space: it is as long as it is, with no NUL at its end */
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	(void)!sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&to, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n));
	close(fd);
}

/* Type=notify with WatchdogSec: systemd restarts a server from which it hears nothing for that long. */
static void on_alive(void *ud)
{
	(void)ud;
	if (getenv("WATCHDOG_USEC"))
		notify("WATCHDOG=1");
}

static void on_ready(void *ud, const char *url, int port)
{
	const struct server *s = ud;
	(void)port;
	printf("moxie: serving %s on %s%s (page, /v1/chat/completions)\n", s->name, url, s->o->uds ? "" : "/");
	fflush(stdout);
	notify("READY=1");
}

static void on_drain(void *ud, int n_open)
{
	const struct server *s = ud;
	notify("STOPPING=1");
	if (n_open)
		fprintf(stderr, "moxie: stopping; %d request%s up to %d s to end\n", n_open, n_open == 1 ? " has" : "s have", s->o->drain_seconds);
}

static void on_log(void *ud, enum serve_level level, const char *text)
{
	static const char *const word[] = { "error", "warning", "info", "debug" };
	const struct server *s = ud;
	char at[32];
	struct tm tm;
	time_t t = time(NULL);
	if (level > s->level)
		return;
	strftime(at, sizeof at, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&t, &tm));
	fprintf(stderr, "%s %s: %s\n", at, word[level], text);
}

/* ---- the command ------------------------------------------------------------------------------------------------------ */

/* The last part of the path that says something: "wordmath" of "models/wordmath/", "x" of "x/config.json".  malloc'ed. */
static char *name_of_path(const char *path)
{
	char *real = realpath(path, NULL), *p = real ? real : strdup(path);
	if (!p)
		return NULL;
	char *slash = strrchr(p, '/');
	if (slash && slash != p && !strcmp(slash, "/config.json"))
		*slash = 0, slash = strrchr(p, '/');
	if (slash && slash[1])
		memmove(p, slash + 1, strlen(slash));
	return p;
}

static enum serve_level level_of(const struct opts *o)
{
	const char *word = o->log_level;
	if (!word)
		return o->log_requests ? SERVE_INFO : SERVE_WARN;
	return *word == 'e' ? SERVE_ERROR : *word == 'w' ? SERVE_WARN : *word == 'i' ? SERVE_INFO : SERVE_DEBUG;
}

static void on_warm(void *ud, const struct moxie_generate_result *r, int status, const struct moxie_err *err)
{
	(void)r, (void)status, (void)err; /* a model that cannot is found out by the first request, with the reason */
	atomic_store((atomic_int *)ud, 1);
}

/* One token, so that what is made at first use (memory pages, a device's code) is there before anyone waits for it; and the tables
 * that every schema needs, which would hold up all requests for a moment. */
static void warm_up(moxie_model *m, moxie_engine *e)
{
	moxie_guide *g;
	struct moxie_guide_params any_json = { .struct_size = sizeof any_json, .raw = 1, .json = 1 };
	if (moxie_guide_create(&g, m, &any_json, NULL) == 0)
		moxie_guide_free(g);
	atomic_int done = 0;
	int32_t id = 0;
	struct moxie_request r = { .struct_size = sizeof r, .ids = &id, .n = 1, .on_finish = on_warm,
		.p = { .struct_size = sizeof r.p, .max_tokens = 1, .raw = 1, .ud = &done } };
	if (moxie_engine_submit(e, &r, NULL, NULL) < 0)
		return;
	while (!atomic_load(&done))
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	moxie_engine_flush(e);
}

static int serve(struct opts *o, moxie_model *m, struct server *s, const char *key)
{
	struct moxie_err err = { 0 };
	moxie_engine *e;
	char path[PATH_MAX] = "";
	if (!realpath(o->model, path))
		*path = 0; /* a built-in config's name */
	struct moxie_engine_params ep = {
		.struct_size = sizeof ep, .n_ctx = o->n_ctx, .n_queued = o->n_queued, .no_reuse = o->no_reuse,
	};
	struct serve_params sp = {
		.struct_size = sizeof sp,
		.host = o->host,
		.port = o->port,
		.unix_path = o->uds,
		.api_key = key,
		.admin_key = o->admin_key,
		.reasoning_field = o->reasoning_field,
		.sampling_openai = o->sampling_defaults && !strcmp(o->sampling_defaults, "openai"),
		.log_requests = o->log_requests,
		.metrics_open = o->open_metrics,
		.metrics_prefix = o->metrics_prefix,
		.page_open = 1, /* it holds no secret, and asks for the key */
		.model_name = s->name,
		.model_path = *path ? path : o->model, /* clients load the tokenizer from there, from whatever directory they run in */
		.n_ctx = o->n_ctx,
		.date = o->date,
		.page = page_begin,
		.n_page = (size_t)(page_end - page_begin),
		.drain_seconds = o->drain_seconds,
		.read_seconds = o->read_seconds,
		.incremental_stream = o->incremental,
		.on_ready = on_ready,
		.on_drain = on_drain,
		.on_alive = on_alive,
		.log = on_log,
		.ud = s,
	};
	if (moxie_engine_create(&e, m, &ep, &err))
		return lib_error(&err);
	if (!o->no_warmup)
		warm_up(m, e);
	int rc = serve_run(m, e, &sp, &err) ? lib_error(&err) : 0;
	moxie_engine_free(e);
	return rc;
}

/* Flags of other servers that mean something only if they ask for something else.  o->model is chosen. */
static int check_accepted(struct opts *o)
{
	static const char *const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
	char model[PATH_MAX], other[PATH_MAX];
	if (o->tokenizer && (!realpath(o->model, model) || !realpath(o->tokenizer, other) || strcmp(model, other)))
		return bad_input("--tokenizer-path is %s: a tokenizer from elsewhere than the model is not supported", o->tokenizer);
	if (o->metrics_prefix && (!*o->metrics_prefix || o->metrics_prefix[strspn(o->metrics_prefix, letters)] || isdigit((unsigned char)*o->metrics_prefix)))
		return bad_input("--metrics-prefix is \"%s\", wanted a word of letters, digits and _", o->metrics_prefix);
	if (o->n_prefill && (!o->n_chunk || o->n_prefill < o->n_chunk)) {
		int usual = o->n_chunk ? o->n_chunk : 512;
		o->n_chunk = o->n_prefill < usual ? o->n_prefill : o->n_chunk;
	}
	return 0;
}

int serve_main(struct opts *o)
{
	moxie_model *m;
	char *key = NULL, *name = NULL;
	if (!o->drain_seconds)
		o->drain_seconds = 30;
	int rc = model_choose(o, true);
	if (!rc)
		rc = check_accepted(o);
	if (!rc)
		rc = key_choose(o, &key);
	if (!rc)
		rc = check_address(o, key);
	if (rc)
		goto out;
	name = o->served_name ? strdup(o->served_name) : name_of_path(o->model);
	if (!name) {
		bad_input("out of memory");
		rc = EXIT_FAIL;
		goto out;
	}
	catch_interrupt(false);
	rc = model_open(&m, o, o->n_running);
	if (rc)
		goto out;
	struct server s = { .o = o, .name = name, .level = level_of(o) };
	if (interrupted)
		rc = lib_error(&(struct moxie_err){ .code = MOXIE_E_CANCELLED });
	else
		rc = serve(o, m, &s, key);
	moxie_model_free(m);
out:
	free(name);
	free(key);
	return rc;
}
