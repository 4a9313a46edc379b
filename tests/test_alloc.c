/* Fails each allocation of every create function in turn: an error comes back, nothing is left behind.
 *
 * The linker sends the library's own calls here (--wrap, see WRAP in the Makefile); jansson gets the same functions by
 * json_set_alloc_funcs.  Where free and munmap are wrapped too, what is live is counted; the sanitizer run looks again. */
#include <errno.h>
#include <jansson.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/arena.h"
#include "formats/chat.h"
#include "formats/config.h"
#include "formats/grammar.h"
#include "formats/safetensors.h"
#include "formats/synth.h"
#include "formats/tokenizer.h"
#include "kernels/kernels.h"
#include "moxie.h"
#include "test.h"

#define VECTORS "tests/vectors/"

/* ---- the wrapped functions ------------------------------------------------------------------------------------------ */

static atomic_long n_call, n_live, n_free; /* allocations since armed, not freed yet, frees seen */
static atomic_long fail_at = -1;           /* which call fails; -1: none */
static atomic_bool fail_on, failed_mmap;   /* all later ones too; whether mmap was among the failed */

static bool fails(void)
{
	long i = atomic_fetch_add(&n_call, 1), at = fail_at;
	bool f = at >= 0 && (i == at || (fail_on && i > at));
	if (f)
		errno = ENOMEM;
	return f;
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t align, size_t n);
char *__real_strdup(const char *s);
void *__real_mmap(void *addr, size_t n, int prot, int flags, int fd, off_t at);
void __real_free(void *p) __attribute__((weak));
int __real_munmap(void *p, size_t n) __attribute__((weak));
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n);
char *__wrap_strdup(const char *s);
void *__wrap_mmap(void *addr, size_t n, int prot, int flags, int fd, off_t at);
void __wrap_free(void *p);
int __wrap_munmap(void *p, size_t n);

static void *count(void *p)
{
	n_live += p != NULL;
	return p;
}

void *__wrap_malloc(size_t n) { return fails() ? NULL : count(__real_malloc(n)); }
void *__wrap_calloc(size_t n, size_t size) { return fails() ? NULL : count(__real_calloc(n, size)); }
void *__wrap_aligned_alloc(size_t align, size_t n) { return fails() ? NULL : count(__real_aligned_alloc(align, n)); }
char *__wrap_strdup(const char *s) { return fails() ? NULL : count(__real_strdup(s)); }

void *__wrap_realloc(void *p, size_t n)
{
	if (fails())
		return NULL;
	void *q = __real_realloc(p, n);
	n_live += !p && q;
	return q;
}

void *__wrap_mmap(void *addr, size_t n, int prot, int flags, int fd, off_t at)
{
	if (fails()) {
		failed_mmap = true;
		return MAP_FAILED;
	}
	void *p = __real_mmap(addr, n, prot, flags, fd, at);
	n_live += p != MAP_FAILED;
	return p;
}

void __wrap_free(void *p)
{
	n_live -= p != NULL;
	n_free += p != NULL;
	__real_free(p);
}

int __wrap_munmap(void *p, size_t n)
{
	n_live--;
	return __real_munmap(p, n);
}

/* jansson is a shared library, out of the linker's reach.  Its memory is not mixed with ours. */
static void jansson_free(void *p)
{
	n_live -= p != NULL;
	if (__real_free)
		__real_free(p);
	else
		free(p);
}

__attribute__((constructor)) static void wrap_jansson(void)
{
	json_set_alloc_funcs(__wrap_malloc, jansson_free);
}

/* ---- the loop --------------------------------------------------------------------------------------------------------- */

static struct moxie_err err;

/* run makes and frees once, and returns what the create function returned.  At most n_try places are tried, evenly. */
static void fail_each(const char *what, int (*run)(void), long n_try)
{
	fail_at = -1;
	OK(run(), err); /* once for whatever is made on first use and kept */
	long live = n_live;
	n_call = n_free = 0;
	OK(run(), err);
	long n = n_call;
	bool counts = n_free > 0;
	CHECK(n > 0, "%s allocates nothing", what);
	CHECK(!counts || n_live == live, "%s leaks %ld when all goes well", what, n_live - live);
	int n_run = 0;
	for (int all_later = 0; all_later < 2; all_later++)
		for (long i = 0; i < n; i += 1 + (n > n_try) * (n / n_try), n_run++) {
			fail_on = all_later;
			failed_mmap = false;
			err = (struct moxie_err){ 0 };
			n_call = 0;
			fail_at = i;
			int rc = run();
			fail_at = -1;
			/* a reservation that is refused may be tried again, smaller */
			bool ok = rc == MOXIE_E_NOMEM || (failed_mmap && (rc == MOXIE_E_IO || (rc == 0 && !all_later)));
			CHECK(ok, "%s, allocation %ld of %ld%s: %d %s", what, i, n, all_later ? " and all later" : "", rc, err.text);
			CHECK(!rc || (err.code == rc && err.text[0]), "%s, allocation %ld: the error says %d %s", what, i, err.code, err.text);
			CHECK(!counts || n_live == live, "%s, allocation %ld of %ld%s: %ld left behind", what, i, n,
			      all_later ? " and all later" : "", n_live - live);
		}
	printf("    %s: %d failures at %ld places%s\n", what, n_run, n, counts ? "" : " (leaks not counted)");
}

/* A failed create must null its out-parameter. */
#define CREATE(type, out, call)                             \
	type *out = (type *)&err;                           \
	int rc = call;                                      \
	if (rc && out)                                      \
		TEST_END(1, "%s left its out-parameter", #call)

/* ---- formats ---------------------------------------------------------------------------------------------------------- */

static int run_safetensors_single(void)
{
	CREATE(struct safetensors, st, safetensors_open(&st, VECTORS "gptoss_clamp", &err));
	safetensors_free(st);
	return rc;
}

static int run_safetensors_index(void)
{
	CREATE(struct safetensors, st, safetensors_open(&st, VECTORS "gptoss_e32", &err));
	safetensors_free(st);
	return rc;
}

TEST(alloc_safetensors)
{
	fail_each("safetensors_open", run_safetensors_single, 5000);
	fail_each("safetensors_open of an index", run_safetensors_index, 5000);
}

static int run_config(void)
{
	static struct model_config c;
	int rc = config_load(&c, VECTORS "gptoss_h64", &err);
	CHECK(rc == 0 || c.arch == ARCH_NONE, "half a config");
	return rc;
}

static int run_gen_config(void)
{
	struct gen_config g;
	return gen_config_load(&g, VECTORS "gptoss_h320", &err);
}

TEST(alloc_config)
{
	fail_each("config_load", run_config, 5000);
	fail_each("gen_config_load", run_gen_config, 5000);
}

static int run_synth_open(void)
{
	static struct model_config c;
	const char *json = config_named("gpt-oss-tiny");
	if (!c.arch) {
		int rc = config_parse(&c, json, strlen(json), "tiny", &err);
		if (rc)
			return rc;
	}
	CREATE(struct safetensors, st, synth_open(&st, &c, 1, 2, NULL, NULL, &err));
	safetensors_free(st);
	return rc;
}

#define TMP "/tmp/moxie-alloc-XXXXXX"
static char tmp[] = TMP;

static void tmp_remove(void)
{
	static const char *const name[] = { "config.json", "generation_config.json", "tokenizer.json", "model.safetensors" };
	char path[96];
	for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
		snprintf(path, sizeof path, "%s/%s", tmp, name[i]);
		unlink(path);
	}
	rmdir(tmp);
}

static void tmp_make(void)
{
	static bool registered;
	if (!registered)
		registered = atexit(tmp_remove) == 0; /* a failed test leaves its folder */
	CHECK(mkdtemp(strcpy(tmp, TMP)), "%s: %s", tmp, strerror(errno));
}

/* A random checkpoint for the layers above. */
static void tmp_write(void)
{
	tmp_make();
	OK(synth_write(config_named("gpt-oss-tiny"), tmp, 1, 1, NULL, NULL, &err), err);
}

static int run_synth_write(void)
{
	int rc = synth_write(config_named("gpt-oss-tiny"), tmp, 1, 2, NULL, NULL, &err);
	CHECK(rc == 0 || access(tmp, F_OK) < 0, "%s was left behind", tmp);
	if (!rc)
		tmp_remove();
	return rc;
}

TEST(alloc_synth)
{
	fail_each("synth_open", run_synth_open, 2000);
	tmp_make();
	rmdir(tmp); /* only its name: synth_write makes the folder and takes it away again */
	fail_each("synth_write", run_synth_write, 300);
}

/* ---- text ----------------------------------------------------------------------------------------------------------------- */

static struct tokenizer *tokenizer;

static int run_tokenizer(void)
{
	char path[96];
	snprintf(path, sizeof path, "%s/tokenizer.json", tmp);
	CREATE(struct tokenizer, t, tokenizer_open(&t, path, &err));
	tokenizer_free(t);
	return rc;
}

static int run_encode(void)
{
	struct ids ids = { 0 };
	static const char text[] = "A few words, 123 numbers.\n\n  And one quiteabitlongerwordwithoutspaces<|end|>";
	int rc = tokenizer_encode(tokenizer, text, sizeof text - 1, true, &ids, &err);
	CHECK(rc == 0 || ids.n == 0, "half an encoding");
	ids_free(&ids);
	return rc;
}

static int run_parser(void)
{
	CREATE(struct harmony_parser, p, harmony_parser_create(&p, tokenizer, &err));
	harmony_parser_free(p);
	return rc;
}

static int run_render(void)
{
	static const struct moxie_tool tool = { .name = "f", .description = "does",
						.parameters = "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"number\"}}}" };
	static const struct moxie_message msg[] = { { .role = MOXIE_ROLE_DEVELOPER, .content = "Be brief." },
						    { .role = MOXIE_ROLE_USER, .content = "What is 2 + 2?" } };
	struct moxie_chat_params p = { .struct_size = sizeof p, .tools = &tool, .n_tool = 1, .date = "2026-11-21" };
	struct ids ids = { 0 };
	int rc = harmony_render(tokenizer, &p, msg, 2, true, &ids, &err);
	ids_free(&ids);
	return rc;
}

static const char schema[] = "{\"$ref\":\"#/$defs/t\",\"$defs\":{\"t\":{\"type\":\"object\",\"properties\":{\"v\":{\"enum\":[1,\"a\",null]},"
	"\"n\":{\"type\":\"array\",\"items\":{\"anyOf\":[{\"$ref\":\"#/$defs/t\"},{\"type\":\"integer\",\"minimum\":3}]}}},\"additionalProperties\":true}}}";
static struct grammar *grammar;
static struct token_trie *trie;

static int run_grammar(void)
{
	CREATE(struct grammar, g, grammar_compile(&g, schema, sizeof schema - 1, &err));
	grammar_free(g);
	return rc;
}

static int run_trie(void)
{
	CREATE(struct token_trie, t, token_trie_create(&t, tokenizer, 300, &err));
	token_trie_free(t);
	return rc;
}

static int run_grammar_run(void)
{
	CREATE(struct grammar_run, r, grammar_run_create(&r, grammar, trie, &err));
	grammar_run_free(r);
	return rc;
}

TEST(alloc_grammar)
{
	char path[96];
	tmp_write();
	snprintf(path, sizeof path, "%s/tokenizer.json", tmp);
	OK(tokenizer_open(&tokenizer, path, &err), err);
	OK(grammar_compile(&grammar, schema, sizeof schema - 1, &err), err);
	OK(token_trie_create(&trie, tokenizer, 300, &err), err);
	fail_each("grammar_compile", run_grammar, 3000);
	fail_each("token_trie_create", run_trie, 3000);
	fail_each("grammar_run_create", run_grammar_run, 3000);
	token_trie_free(trie);
	grammar_free(grammar);
	tokenizer_free(tokenizer);
	tmp_remove();
}

TEST(alloc_text)
{
	char path[96];
	tmp_write();
	fail_each("tokenizer_open", run_tokenizer, 3000);
	snprintf(path, sizeof path, "%s/tokenizer.json", tmp);
	OK(tokenizer_open(&tokenizer, path, &err), err);
	fail_each("tokenizer_encode", run_encode, 3000);
	fail_each("harmony_parser_create", run_parser, 3000);
	fail_each("harmony_render", run_render, 3000);
	tokenizer_free(tokenizer);
	tmp_remove();
}

/* ---- kernels and engine --------------------------------------------------------------------------------------------------- */

static enum cpu_isa isa;

static int run_kern(void)
{
	static const struct kern_limits lim = { .n_tok = 16, .n_embd = 128, .n_head = 8, .n_head_kv = 2, .d_head = 32, .n_ff = 128,
						.n_expert = 8, .n_used = 4, .n_vocab = 512 };
	CREATE(struct kern, k, kern_cpu_create(&k, &lim, isa, 2, &err));
	if (!rc)
		k->free(k);
	return rc;
}

TEST(alloc_kern)
{
	isa = CPU_REF;
	fail_each("kern_cpu_create of cpu:ref", run_kern, 1000);
	isa = CPU_AUTO;
	fail_each("kern_cpu_create", run_kern, 1000);
}

static moxie_model *model;
static struct moxie_model_params model_params = { .struct_size = sizeof model_params, .path = tmp, .device = "cpu", .n_thread = 2, .n_chunk = 32 };

static int run_model(void)
{
	CREATE(moxie_model, m, moxie_model_open(&m, &model_params, &err));
	moxie_model_free(m);
	return rc;
}

static int run_inspect(void)
{
	struct moxie_model_info info = { .struct_size = sizeof info };
	return moxie_inspect(&model_params, &info, NULL, NULL, &err);
}

static int run_session(void)
{
	CREATE(moxie_session, s, moxie_session_create(&s, model, &(struct moxie_session_params){ sizeof(struct moxie_session_params), 256 }, &err));
	moxie_session_free(s);
	return rc;
}

/* Prepared, run and taken apart: JSON by schema, with everything a token may be asked for. */
static int run_guided(void)
{
	static const struct moxie_guide_params gp = { .struct_size = sizeof gp, .raw = 1, .json = 1, .schema = "{\"enum\":[12,null]}" };
	static const int32_t ids[] = { 1, 2, 3 }, stops[] = { 9 };
	static const struct moxie_bias bias = { 5, 1 };
	struct moxie_generate_params p = { .struct_size = sizeof p, .raw = 1, .max_tokens = 3, .min_tokens = 1, .stop_ids = stops, .n_stop_id = 1,
		.bias = &bias, .n_bias = 1, .logprobs = 1, .n_top = 2 };
	CREATE(moxie_guide, g, moxie_guide_create(&g, model, &gp, &err));
	if (rc)
		return rc;
	moxie_session *s;
	p.guide = g;
	rc = moxie_session_create(&s, model, &(struct moxie_session_params){ .struct_size = sizeof(struct moxie_session_params), .n_ctx = 64 }, &err);
	if (!rc)
		rc = moxie_generate(s, ids, 3, &p, NULL, &err);
	if (s)
		moxie_session_free(s);
	moxie_guide_free(g);
	return rc;
}

static int run_moxie_parser(void)
{
	CREATE(moxie_parser, p, moxie_parser_create(&p, model, &err));
	moxie_parser_free(p);
	return rc;
}

struct ended {
	atomic_int n, status;
	struct moxie_err err;
};

static void on_finish(void *ud, const struct moxie_generate_result *r, int status, const struct moxie_err *e)
{
	struct ended *end = ud;
	(void)r;
	end->err = *e;
	end->status = status;
	end->n++;
}

static int run_scheduler(void)
{
	static const int32_t ids[3] = { 1, 2, 3 };
	static const char *const stop[1] = { "no such text" };
	struct ended end = { 0 };
	struct moxie_request r = { .struct_size = sizeof r, .ids = ids, .n = 3, .on_finish = on_finish,
		.p = { .struct_size = sizeof r.p, .max_tokens = 20, .ignore_eos = 1, .raw = 0, .stop = stop, .n_stop = 1, .ud = &end } };
	CREATE(moxie_engine, e, moxie_engine_create(&e, model, &(struct moxie_engine_params){ .struct_size = sizeof(struct moxie_engine_params) }, &err));
	if (rc)
		return rc;
	rc = moxie_engine_submit(e, &r, NULL, &err);
	for (int i = 0; rc == 0 && i < 10000 && !end.n; i++)
		usleep(500);
	moxie_engine_free(e);
	CHECK(end.n == (rc == 0), "%d ends", end.n);
	if (end.status)
		err = end.err;
	return rc ? rc : end.status;
}

/* A step of decode never allocates. */
static int run_steps(void)
{
	static const int32_t ids[5] = { 1, 2, 3, 4, 5 };
	moxie_session *s;
	int32_t id;
	int rc = moxie_session_create(&s, model, NULL, &err);
	if (rc)
		return rc;
	n_call = 0;
	for (int i = 0; i < 20 && !rc; i++)
		rc = i % 5 ? moxie_session_next(s, NULL, &id, &err) : moxie_session_append(s, ids, 5, &err);
	long n = n_call;
	moxie_session_free(s);
	CHECK(rc || n == 0, "20 steps allocate %ld times", n);
	return rc;
}

/* Two requests that begin alike, one after the other.  Without memory for the prefix cache they share less, and no more is lost:
 * each fails for lack of memory or gives all its tokens, and every page comes back. */
static void run_prefix(long at, bool all_later, int *n_ok)
{
	static int32_t ids[200];
	struct ended end[2] = { 0 };
	struct moxie_engine_params ep = { .struct_size = sizeof ep };
	struct moxie_engine_stats st = { .struct_size = sizeof st };
	moxie_engine *e;
	OK(moxie_engine_create(&e, model, &ep, &err), err);
	n_call = 0;
	fail_on = all_later;
	fail_at = at;
	for (int i = 0; i < 2; i++) {
		struct moxie_request r = { .struct_size = sizeof r, .ids = ids, .n = 200, .on_finish = on_finish,
			.p = { .struct_size = sizeof r.p, .max_tokens = 4, .ignore_eos = 1, .raw = 1, .ud = &end[i] } };
		int rc = moxie_engine_submit(e, &r, NULL, &err);
		for (int w = 0; rc == 0 && w < 20000 && !end[i].n; w++)
			usleep(100);
		CHECK(rc == 0 || rc == MOXIE_E_NOMEM, "%d %s", rc, err.text);
		CHECK(end[i].n == (rc == 0) && (!end[i].n || end[i].status == 0 || end[i].status == MOXIE_E_NOMEM), "%d ends, status %d", end[i].n, end[i].status);
		*n_ok += rc == 0 && end[i].status == 0;
	}
	fail_at = -1;
	CHECK(moxie_engine_get_stats(e, &st) == 0 && st.n_page_free + st.n_page_cached == st.n_page && st.n_ring_free + st.n_ring_cached == st.n_ring,
	      "allocation %ld: %d + %d of %d pages, %d + %d of %d", at, st.n_page_free, st.n_page_cached, st.n_page, st.n_ring_free, st.n_ring_cached, st.n_ring);
	moxie_engine_free(e);
}

TEST(alloc_prefix)
{
	int n_ok = 0, n_run = 0;
	tmp_write();
	struct moxie_model_params p = model_params;
	p.n_seq = 2;
	OK(moxie_model_open(&model, &p, &err), err);
	run_prefix(-1, false, &n_ok);
	long n = n_call, live = n_live;
	CHECK(n_ok == 2 && n > 4, "%d of 2, %ld allocations", n_ok, n);
	for (int all_later = 0; all_later < 2; all_later++)
		for (long i = 0; i < n; i++, n_run++) {
			run_prefix(i, all_later, &n_ok);
			CHECK(!n_free || n_live == live, "allocation %ld: %ld left behind", i, n_live - live);
		}
	CHECK(n_ok > 2 && n_ok < 2 * n_run + 2, "%d of %d requests went well", n_ok, 2 * n_run + 2);
	printf("    two requests: %d failures at %ld places, %d of %d requests went well\n", n_run, n, n_ok, 2 * n_run + 2);
	moxie_model_free(model);
	tmp_remove();
}

TEST(alloc_engine)
{
	tmp_write();
	fail_each("moxie_model_open", run_model, 250);
	fail_each("moxie_inspect", run_inspect, 250);
	OK(moxie_model_open(&model, &model_params, &err), err);
	fail_each("moxie_session_create", run_session, 1000);
	fail_each("moxie_parser_create", run_moxie_parser, 1000);
	fail_each("moxie_generate, guided", run_guided, 1000);
	fail_each("moxie_engine_create and a request", run_scheduler, 1000);
	OK(run_steps(), err);
	moxie_model_free(model);
	tmp_remove();
}

TEST_MAIN
