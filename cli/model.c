/* model.c - which model, opened how. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"
#include "progress.h"

#define SHIPPED "models/wordmath"

double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

char *human_bytes(uint64_t n, char buf[32])
{
	static const char *const unit[] = { "B", "kB", "MB", "GB", "TB" };
	double x = (double)n;
	int i = 0;
	while (x >= 999.95 && i < 4)
		x /= 1000, i++;
	snprintf(buf, 32, i ? "%.1f %s" : "%.0f %s", x, unit[i]);
	return buf;
}

static bool exists(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0;
}

/* The shipped model: below the working directory, beside the build, or where it was installed.  NULL: none. */
static const char *shipped_model(void)
{
	static char path[4096];
	if (exists(SHIPPED "/config.json"))
		return SHIPPED;
	char exe[4000];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
	if (n <= 0)
		return NULL;
	exe[n] = 0;
	*strrchr(exe, '/') = 0;
	static const char *const places[] = { "/../" SHIPPED, "/../share/moxie/" SHIPPED };
	for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
		char config[4096];
		snprintf(path, sizeof path, "%s%s", exe, places[i]);
		snprintf(config, sizeof config, "%s%s/config.json", exe, places[i]);
		if (exists(config))
			return path;
	}
	return NULL;
}

/* `moxie run models/x hello`: a first word that exists as a file, or is spelled like a path, is the model. */
static bool looks_like_model(const char *arg)
{
	return exists(arg) || (strchr(arg, '/') && !strpbrk(arg, " \n\t?"));
}

int model_choose(struct opts *o, bool args_are_dirs)
{
	bool dummy = o->load_format && !strcmp(o->load_format, "dummy");
	if (o->n_arg && !opts_given_in_argv(o, "model") && (args_are_dirs || dummy || looks_like_model(o->arg[0]))) {
		o->model = o->arg[0];
		o->arg++, o->n_arg--;
	}
	if (args_are_dirs && o->n_arg)
		return bad_input("what is \"%s\" for, beside the model %s?", o->arg[0], o->model);
	if (!o->model)
		o->model = shipped_model();
	if (!o->model)
		return bad_input("no model: %s is neither here nor beside the program; give a directory", SHIPPED);
	return 0;
}

static int on_progress(void *ud, const char *stage, uint64_t done, uint64_t all)
{
	struct progress *p = ud;
	if (strncmp(p->what, stage, sizeof p->what - 1)) {
		progress_end(p);
		progress_begin(p, stage, all >= 1 << 20);
	}
	progress_show(p, done, all, NULL);
	return interrupted;
}

void model_fill_params(const struct opts *o, struct moxie_model_params *p)
{
	*p = (struct moxie_model_params){
		.struct_size = sizeof *p,
		.path = o->model,
		.device = o->device,
		.n_thread = o->n_thread,
		.dummy = o->load_format && !strcmp(o->load_format, "dummy"),
		.n_chunk = o->n_chunk,
		.kv_f32 = o->kv_dtype && !strcmp(o->kv_dtype, "f32"),
		.kv_fp8 = o->kv_dtype && !strncmp(o->kv_dtype, "fp8", 3),
		.dense_fp8 = o->dense_dtype && !strcmp(o->dense_dtype, "fp8"),
		.kv_tokens = (uint64_t)o->kv_tokens,
		.mem_fraction = (double)o->mem_fraction,
		.batch_variant = o->batch_variant,
		.graph_max_seq = o->no_graph ? -1 : o->graph_max,
		.device_memory = (uint64_t)((double)o->device_gb * 1e9),
	};
}

int model_open(moxie_model **m, const struct opts *o, int n_seq)
{
	struct moxie_err err = { 0 };
	struct moxie_model_params p;
	struct progress bar;
	model_fill_params(o, &p);
	p.n_seq = n_seq;
	p.progress = on_progress;
	p.progress_ud = &bar;
	progress_begin(&bar, "loading", true);
	int rc = moxie_model_open(m, &p, &err);
	progress_end(&bar);
	if (rc)
		return lib_error(&err);
	if (o->verbose) {
		struct moxie_model_info info = { .struct_size = sizeof info };
		char b[32], t[32];
		moxie_model_get_info(*m, &info);
		fprintf(stderr, "# %s: %s, %d layers, %d experts (%d used), %s, %s a token; %s, %d threads; loaded in %.2f s\n", o->model, info.arch,
		        info.n_layer, info.n_expert, info.n_expert_used, human_bytes(info.weight_bytes, b), human_bytes(info.token_bytes, t),
		        info.kernels, info.n_thread, info.load_seconds);
	}
	return 0;
}

int model_sampling(const moxie_model *m, const struct opts *o, struct moxie_sampling *sp)
{
	struct moxie_err err = { 0 };
	*sp = (struct moxie_sampling){ .struct_size = sizeof *sp };
	moxie_sampling_default(m, sp);
	if (opts_given(o, "temperature"))
		sp->temperature = o->temperature;
	if (opts_given(o, "top-p"))
		sp->top_p = o->top_p;
	if (opts_given(o, "min-p"))
		sp->min_p = o->min_p;
	if (opts_given(o, "top-k"))
		sp->top_k = o->top_k;
	if (opts_given(o, "repetition-penalty"))
		sp->repetition_penalty = o->repetition_penalty;
	sp->presence_penalty = o->presence_penalty;
	sp->frequency_penalty = o->frequency_penalty;
	sp->seed = o->seed;
	return moxie_sampling_check(sp, &err) ? lib_error(&err) : 0;
}

static int ids_grow(struct id_list *l, size_t n, struct moxie_err *err)
{
	int32_t *id = realloc(l->id, (n ? n : 1) * sizeof *id);
	if (!id) {
		*err = (struct moxie_err){ .code = MOXIE_E_NOMEM };
		snprintf(err->text, sizeof err->text, "out of memory for %zu tokens", n);
		return MOXIE_E_NOMEM;
	}
	l->id = id;
	return 0;
}

int ids_of_text(const moxie_model *m, const char *text, size_t n_text, int specials, struct id_list *out, struct moxie_err *err)
{
	size_t cap = n_text / 3 + 16;
	int rc;
	*out = (struct id_list){ 0 };
	do {
		rc = ids_grow(out, cap, err);
		if (!rc)
			rc = moxie_tokenize(m, text, n_text, specials, out->id, cap, &out->n, err);
		cap = out->n;
	} while (rc == MOXIE_E_TOO_SMALL);
	if (rc)
		free(out->id), *out = (struct id_list){ 0 };
	return rc;
}

int ids_of_chat(const moxie_model *m, const struct opts *o, const struct moxie_message *msg, size_t n_msg, struct id_list *out,
                struct moxie_err *err)
{
	struct moxie_chat_params p = { .struct_size = sizeof p, .effort = opts_effort(o), .date = o->date };
	size_t cap = 1024;
	int rc;
	*out = (struct id_list){ 0 };
	do {
		rc = ids_grow(out, cap, err);
		if (!rc)
			rc = moxie_chat_render(m, &p, msg, n_msg, out->id, cap, &out->n, err);
		cap = out->n;
	} while (rc == MOXIE_E_TOO_SMALL);
	if (rc)
		free(out->id), *out = (struct id_list){ 0 };
	return rc;
}

uint32_t logits_hash(const moxie_session *s, int n_vocab)
{
	const unsigned char *p = (const unsigned char *)moxie_session_logits(s);
	uint64_t h = 14695981039346656037u; /* FNV-1a */
	for (size_t i = 0; p && i < (size_t)n_vocab * sizeof(float); i++)
		h = (h ^ p[i]) * 1099511628211u;
	return (uint32_t)(h ^ h >> 32);
}

void print_stats(FILE *f, const moxie_model *m, const moxie_session *s, const struct moxie_generate_result *r)
{
	struct moxie_model_info info = { .struct_size = sizeof info };
	moxie_model_get_info(m, &info);
	double rate = r->decode_seconds > 0 ? (double)r->n_out / r->decode_seconds : 0;
	size_t n_new = r->n_prompt - r->n_reused;
	fprintf(f, "# prompt %zu tok", r->n_prompt);
	if (r->n_reused)
		fprintf(f, " (%zu kept)", r->n_reused);
	fprintf(f, "  %.0f tok/s  first token %.3f s\n", r->prefill_seconds > 0 ? (double)n_new / r->prefill_seconds : 0,
	        r->first_token_seconds);
	fprintf(f, "# %zu tok  %.0f tok/s  %.2f GB/s  logits #%08x\n", r->n_out, rate, rate * (double)info.token_bytes * 1e-9,
	        logits_hash(s, info.n_vocab));
}
