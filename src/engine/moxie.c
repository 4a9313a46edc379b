/* moxie.c - opening, planning and closing a model. */
#include "moxie.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host.h"
#include "engine/engine.h"
#include "formats/synth.h"

#define DEFAULT_CHUNK 512
#define DEFAULT_CHUNK_DEVICE 2048
#define MAX_CHUNK 65536
#define MAX_PROFILE 64 /* rows */
#define MAX_SEQ 256
#define MEM_FRACTION 0.8         /* of the machine's memory, for weights and KV cache */
#define MEM_FRACTION_DEVICE 0.95 /* of what a device has left, for the KV cache */

MOXIE_API const char *moxie_version(void)
{
	return "0.1.0";
}

/* The caller's struct may be of an older, shorter version: missing fields are zero. */
static int params_copy(struct moxie_model_params *to, const struct moxie_model_params *from, struct moxie_err *err)
{
	*to = (struct moxie_model_params){ 0 };
	if (!from || from->struct_size < sizeof from->struct_size || from->struct_size > 4096)
		return err_set(err, MOXIE_E_ARG, "struct_size of the model parameters is %zu, wanted %zu", from ? from->struct_size : 0, sizeof *to);
	memcpy(to, from, from->struct_size < sizeof *to ? from->struct_size : sizeof *to);
	if (!to->path || !*to->path)
		return err_set(err, MOXIE_E_ARG, "no model path");
	if (to->n_chunk < 0 || to->n_chunk > MAX_CHUNK)
		return err_set(err, MOXIE_E_ARG, "prefill chunk is %d, wanted 1 .. %d", to->n_chunk, MAX_CHUNK);
	if (to->n_seq < 0 || to->n_seq > MAX_SEQ)
		return err_set(err, MOXIE_E_ARG, "sessions in one step: %d, wanted 1 .. %d", to->n_seq, MAX_SEQ);
	if (to->n_thread < 0 || to->n_thread > 1024)
		return err_set(err, MOXIE_E_ARG, "thread count is %d, wanted 0 (all) .. 1024", to->n_thread);
	if (!(to->mem_fraction >= 0 && to->mem_fraction <= 1))
		return err_set(err, MOXIE_E_ARG, "share of the memory is %g, wanted 0 .. 1", to->mem_fraction);
	if (to->graph_max_seq < -1)
		return err_set(err, MOXIE_E_ARG, "sessions of a recorded step: %d, wanted -1, 0 or more", to->graph_max_seq);
	if (to->kv_f32 && to->kv_fp8)
		return err_set(err, MOXIE_E_ARG, "a KV cache is to be in fp32 and in fp8");
	to->n_chunk = to->n_chunk ? to->n_chunk : backend_is_device(to->device) ? DEFAULT_CHUNK_DEVICE : DEFAULT_CHUNK;
	to->n_seq = to->n_seq ? to->n_seq : 1;
	to->n_thread = to->n_thread ? to->n_thread : host_n_cpu();
	return 0;
}

/* A whole file as a string. */
static int read_file(struct buf *out, const char *path, struct moxie_err *err)
{
	FILE *f = fopen(path, "re");
	if (!f)
		return err_set(err, MOXIE_E_IO, "%s: %s", path, strerror(errno));
	char part[4096];
	bool ok = true;
	for (size_t n; ok && (n = fread(part, 1, sizeof part, f)) > 0;)
		ok = out->n < (16u << 20) && buf_append(out, part, n);
	bool failed = ferror(f) != 0;
	fclose(f);
	if (failed || !ok)
		return err_set(err, failed ? MOXIE_E_IO : MOXIE_E_NOMEM, "%s: cannot be read whole", path);
	return buf_append(out, "", 0) ? 0 : err_nomem(err, 1, path);
}

static bool is_dir(const char *path)
{
	struct stat sb;
	return stat(path, &sb) == 0 && S_ISDIR(sb.st_mode);
}

/* The text of a config given as a built-in name or a config.json path. */
static int config_text(struct buf *out, const char *config, struct moxie_err *err)
{
	const char *named = config_named(config);
	if (!named)
		return read_file(out, config, err);
	return buf_puts(out, named) ? 0 : err_nomem(err, strlen(named), "a config");
}

static int load_config(struct model_config *c, const struct moxie_model_params *p, struct moxie_err *err)
{
	if (!p->dummy || is_dir(p->path))
		return config_load(c, p->path, err);
	struct buf text = { 0 };
	int rc = config_text(&text, p->path, err);
	if (rc == 0)
		rc = config_parse(c, text.p, text.n, p->path, err);
	else if (rc == MOXIE_E_IO && !strchr(p->path, '/'))
		err_prefix(err, "neither a built-in config (see moxie synth --help) nor a file");
	buf_free(&text);
	return rc;
}

static enum dtype kv_dtype_of(const struct moxie_model_params *p)
{
	return p->kv_f32 ? DT_F32 : p->kv_fp8 ? DT_F8_E4M3 : DT_BF16;
}

static struct kern_limits limits_of(const struct model_config *c, const struct moxie_model_params *p)
{
	return (struct kern_limits){ .n_tok = p->n_chunk > p->n_seq ? p->n_chunk : p->n_seq, .n_seq = p->n_seq, .n_embd = c->n_embd, .n_head = c->n_head,
		.n_head_kv = c->n_head_kv, .d_head = c->d_head, .n_ff = c->n_ff, .n_expert = c->n_expert, .n_used = c->n_expert_used,
		.n_vocab = c->n_vocab, .alpha = c->swiglu_alpha, .limit = c->swiglu_limit,
		.n_ctx = c->n_ctx, .kv = kv_dtype_of(p), .dense = p->dense_fp8 ? DT_F8_E4M3 : DT_BF16 };
}

static uint64_t want_bytes(const struct tensor_want *w, uint64_t *n_param)
{
	uint64_t n = 1;
	for (int d = 0; d < w->n_dim; d++)
		n *= (uint64_t)w->shape[d]; /* config_parse has checked the products */
	size_t len = strlen(w->name);
	bool blocks = len > 7 && !strcmp(w->name + len - 7, "_blocks"), scales = len > 7 && !strcmp(w->name + len - 7, "_scales");
	*n_param = scales ? 0 : blocks ? 2 * n : n;
	return n * (uint64_t)dtype_bytes(w->dtype);
}

/* Whether --dense-dtype fp8 is about this tensor: attention's projections and the unembedding. */
static bool is_dense(const struct tensor_want *w)
{
	size_t len = strlen(w->name);
	return (len > 12 && !strcmp(w->name + len - 12, "_proj.weight")) || !strcmp(w->name, "lm_head.weight");
}

/* Bytes of [n, k] weights in FP8. */
static uint64_t fp8_bytes(int64_t n, int64_t k)
{
	return (uint64_t)n * ((uint64_t)k + sizeof(float));
}

/* What the weights take in memory, of n_bytes in the files. */
static uint64_t kept_bytes(const struct model_config *c, bool dense_fp8, uint64_t n_bytes)
{
	struct tensor_want w;
	for (size_t i = 0; dense_fp8 && config_tensor_at(c, i, &w); i++)
		if (is_dense(&w))
			n_bytes -= (uint64_t)(w.shape[0] * w.shape[1]) * 2 - fp8_bytes(w.shape[0], w.shape[1]);
	return n_bytes + (dense_fp8 && c->tie_embd ? fp8_bytes(c->n_vocab, c->n_embd) : 0);
}

/* Everything that follows from config and parameters alone. */
static void fill_info(struct moxie_model_info *info, const struct model_config *c, const struct moxie_model_params *p)
{
	struct kv_plan kv = kv_plan_of(c, kv_dtype_of(p), p->n_chunk);
	*info = (struct moxie_model_info){ .struct_size = info->struct_size, .arch = "GptOssForCausalLM", .kernels = "", .n_layer = c->n_layer,
		.n_embd = c->n_embd, .n_head = c->n_head, .n_head_kv = c->n_head_kv, .d_head = c->d_head, .n_ff = c->n_ff,
		.n_expert = c->n_expert, .n_expert_used = c->n_expert_used, .n_vocab = c->n_vocab, .n_ctx = c->n_ctx, .window = c->window,
		.n_thread = p->n_thread, .n_chunk = p->n_chunk, .n_seq = p->n_seq, .kv_token_bytes = kv.token_bytes, .kv_ring_bytes = kv.ring_bytes,
		.kv_sliding_token_bytes = (uint64_t)kv.n_sliding * 2 * kv.row_bytes };
	struct tensor_want w;
	for (size_t i = 0; config_tensor_at(c, i, &w); i++) {
		uint64_t n_param, n_bytes = want_bytes(&w, &n_param), used = 1, of = 1;
		if (p->dense_fp8 && is_dense(&w))
			n_bytes = fp8_bytes(w.shape[0], w.shape[1]);
		if (strstr(w.name, ".experts."))
			used = (uint64_t)c->n_expert_used, of = (uint64_t)c->n_expert;
		else if (strstr(w.name, "embed_tokens") && !c->tie_embd)
			of = (uint64_t)c->n_vocab; /* one row */
		info->n_param += n_param;
		info->n_param_active += n_param / of * used;
		info->weight_bytes += n_bytes;
		info->token_bytes += n_bytes / of * used;
	}
	if (p->dense_fp8 && c->tie_embd) { /* beside the embedding's bf16, of which a token reads one row */
		uint64_t more = fp8_bytes(c->n_vocab, c->n_embd), all = (uint64_t)c->n_vocab * (uint64_t)c->n_embd * 2;
		info->weight_bytes += more;
		info->token_bytes += more - all + all / (uint64_t)c->n_vocab;
	}
}

struct tokenizer_job { /* tokenizer.json is parsed beside the weights: its second is hidden */
	char path[4096];
	struct tokenizer *t;
	struct moxie_err err;
	int rc;
	pthread_t thread;
	bool started;
};

static void *tokenizer_thread(void *arg)
{
	struct tokenizer_job *job = arg;
	job->rc = tokenizer_open(&job->t, job->path, &job->err);
	return NULL;
}

static void tokenizer_start(struct tokenizer_job *job, const char *dir)
{
	*job = (struct tokenizer_job){ 0 };
	int n = snprintf(job->path, sizeof job->path, "%s/tokenizer.json", dir);
	if (n < 0 || (size_t)n >= sizeof job->path || access(job->path, F_OK) != 0)
		return;
	job->started = pthread_create(&job->thread, NULL, tokenizer_thread, job) == 0;
	if (!job->started)
		tokenizer_thread(job);
}

static int tokenizer_join(struct tokenizer_job *job, struct moxie_err *err)
{
	if (job->started)
		pthread_join(job->thread, NULL);
	job->started = false;
	return job->rc < 0 ? err_set(err, job->rc, "%s", job->err.text) : 0;
}

struct progress {
	const struct moxie_model_params *p;
	const char *stage;
};

static int on_progress(void *ud, uint64_t done, uint64_t all)
{
	const struct progress *g = ud;
	return g->p->progress ? g->p->progress(g->p->progress_ud, g->stage, done, all) : 0;
}

static int open_weights(struct moxie_model *m, const struct moxie_model_params *p, struct moxie_err *err)
{
	struct progress g = { p, p->dummy ? "random weights" : "weights" };
	if (!p->dummy)
		return safetensors_open(&m->st, p->path, err);
	if (m->kern->dev)
		return synth_shape(&m->st, &m->config, err);
	struct moxie_model_info info = { 0 };
	fill_info(&info, &m->config, p);
	if (info.weight_bytes > host_memory_bytes())
		return err_set(err, MOXIE_E_NOMEM, "%s has %llu bytes of weights, this machine gives %llu bytes of memory", p->path,
		               (unsigned long long)info.weight_bytes, (unsigned long long)host_memory_bytes());
	return synth_open(&m->st, &m->config, p->dummy_seed, p->n_thread, on_progress, &g, err);
}

/* A device is ours: the KV cache gets what is left of it, as far as the sessions can fill it.  A host is not. */
struct kv_room engine_kv_room(const struct moxie_model *m, const struct moxie_model_params *p, uint64_t n_bytes)
{
	int64_t n_ctx = m->config.n_ctx < DEFAULT_CTX ? m->config.n_ctx : DEFAULT_CTX;
	if (m->kern->dev) {
		double share = p->mem_fraction > 0 ? p->mem_fraction : MEM_FRACTION_DEVICE;
		uint64_t graphs = engine_graph_bytes(m);
		n_bytes = n_bytes > graphs ? n_bytes - graphs : 0;
		return (struct kv_room){ .n_token = p->kv_tokens, .n_bytes = (uint64_t)(share * (double)n_bytes), .n_least = n_ctx,
			.n_most = ((int64_t)p->n_seq + 2) * m->config.n_ctx, .n_seq = p->n_seq + 2, .n_spare = 1 };
	}
	double share = p->mem_fraction > 0 ? p->mem_fraction : MEM_FRACTION;
	double left = share * (double)n_bytes - (double)m->weight_bytes - 2 * (double)m->ws.cap;
	return (struct kv_room){ .n_token = p->kv_tokens, .n_bytes = left > 0 ? (uint64_t)left : 0, .n_least = n_ctx, .n_seq = p->n_seq };
}

int engine_memory(struct moxie_model *m, const struct moxie_model_params *p, const struct kern_limits *lim, struct moxie_err *err)
{
	struct kern *k = m->kern;
	enum dtype dtype = kv_dtype_of(p);
	if (k->dev && p->kv_f32)
		return err_set(err, MOXIE_E_UNSUPPORTED, "a KV cache in fp32 is for the CPU; %s keeps it in bf16 or fp8", k->name);
	m->kv.plan = kv_plan_of(&m->config, dtype, p->n_chunk);
	size_t n_in, ws_bytes = engine_step_bytes(m, lim->n_tok, p->n_seq, (m->config.n_ctx + KV_PAGE - 1) / KV_PAGE, &n_in, err);
	m->view = calloc((size_t)m->config.n_layer, sizeof *m->view);
	m->kept = calloc((size_t)p->n_seq, sizeof *m->kept);
	m->best = calloc((size_t)p->n_seq, sizeof *m->best);
	m->hist_owner = calloc((size_t)p->n_seq, sizeof *m->hist_owner);
	if (!m->view || !m->kept || !m->best || !m->hist_owner || (k->dev ? !arena_init(&m->in, n_in) : !arena_init(&m->ws, ws_bytes)))
		return err_nomem(err, ws_bytes, "the step arena");
	if (k->dev) {
		m->ws.base = k->dev->take(k, ws_bytes, err);
		if (!m->ws.base)
			return MOXIE_E_NOMEM;
		m->ws.cap = ws_bytes;
	}
	struct kv_room room = engine_kv_room(m, p, k->dev ? k->dev->memory(k) : host_memory_bytes());
	/* Memory of a host is not ours to fill with what may never be asked for again, unless we are told how much. */
	m->n_idle_most = k->dev || p->kv_tokens ? INT32_MAX : (p->n_seq + 2) * (DEFAULT_CTX / KV_PAGE);
	return kv_create(&m->kv, &m->config, dtype, p->n_chunk, &room, k->dev ? k : NULL, err);
}

/* An arena in host or device memory. */
static void arena_release(struct arena *a, struct kern *k)
{
	if (k && k->dev && a->base)
		k->dev->give(k, a->base);
	else
		arena_free(a);
	*a = (struct arena){ 0 };
}

void engine_memory_free(struct moxie_model *m)
{
	free(m->best);
	free(m->hist_owner);
	free(m->kept);
	free(m->view);
	arena_release(&m->ws, m->kern);
	arena_free(&m->in);
	kv_free(&m->kv);
}

MOXIE_API int moxie_model_open(moxie_model **out, const struct moxie_model_params *params, struct moxie_err *err)
{
	struct moxie_model_params p;
	double start = host_now();
	float *want = NULL;
	*out = NULL;
	int rc = params_copy(&p, params, err);
	if (rc < 0)
		return rc;
	struct moxie_model *m = calloc(1, sizeof *m);
	struct tokenizer_job *job = calloc(1, sizeof *job);
	if (!m || !job) {
		rc = err_nomem(err, sizeof *m, "a model");
		goto out;
	}
	m->n_chunk = p.n_chunk;
	m->n_seq = p.n_seq;
	m->graph_most = ladder_most(&p);
	m->dense_f8 = p.dense_fp8;
	if ((rc = load_config(&m->config, &p, err)) < 0)
		goto out;
	bool dir = is_dir(p.path);
	if (dir && (rc = gen_config_load(&m->gen, p.path, err)) < 0)
		goto out;
	if (dir)
		tokenizer_start(job, p.path);
	struct kern_limits lim = limits_of(&m->config, &p);
	if ((rc = backend_open(&m->kern, p.device, &lim, p.n_thread, err)) < 0 || (rc = open_weights(m, &p, err)) < 0)
		goto out;
	m->device_bytes = m->kern->dev ? m->kern->dev->memory(m->kern) + m->kern->scratch_bytes : 0;
	m->ops = model_ops_of(&m->config);
	if ((rc = m->ops->bind(&m->model, &m->config, m->st, err)) < 0)
		goto out;
	struct progress g = { &p, "weights" };
	if (!p.dummy && (rc = safetensors_populate(m->st, p.n_thread, on_progress, &g, err)) < 0)
		goto out;
	m->weight_bytes = kept_bytes(&m->config, m->dense_f8, safetensors_n_bytes(m->st));
	g.stage = "weights to the device";
	if (m->kern->dev && !p.dummy && (rc = engine_check_want(m, &p, &want, err)) < 0)
		goto out;
	if (m->kern->dev && (rc = engine_place(m, p.dummy, p.dummy_seed, on_progress, &g, err)) < 0)
		goto out;
	if (!m->kern->dev && m->dense_f8 && (rc = engine_shrink(m, m->model, 0, &m->weights, err)) < 0)
		goto out;
	if (!p.batch_variant && m->kern->many_rows)
		m->group = (m->kern->many_rows + KV_PAGE - 1) / KV_PAGE * KV_PAGE; /* whole pages: the prefix cache has no other */
	if ((rc = engine_memory(m, &p, &lim, err)) < 0)
		goto out;
	if ((rc = tokenizer_join(job, err)) < 0)
		goto out;
	m->tokenizer = job->t;
	job->t = NULL;
	m->lock_ready = pthread_mutex_init(&m->lock, NULL) == 0;
	if (m->lock_ready && pthread_cond_init(&m->turn, NULL) != 0) {
		pthread_mutex_destroy(&m->lock);
		m->lock_ready = false;
	}
	rc = m->lock_ready ? 0 : err_nomem(err, sizeof m->lock, "a lock");
	if (rc == 0 && want)
		rc = engine_check_device(m, want, err);
	if (rc == 0 && m->kern->dev)
		rc = engine_warm(m, err);
	if (rc == 0)
		rc = engine_record_ahead(m, err);
out:
	free(want);
	if (job) {
		struct moxie_err unused;
		tokenizer_join(job, &unused);
		tokenizer_free(job->t);
		free(job);
	}
	if (rc < 0) {
		moxie_model_free(m);
		return rc;
	}
	m->load_seconds = host_now() - start;
	*out = m;
	return 0;
}

MOXIE_API void moxie_model_free(moxie_model *m)
{
	if (!m)
		return;
	if (m->lock_ready) {
		pthread_cond_destroy(&m->turn);
		pthread_mutex_destroy(&m->lock);
	}
	engine_memory_free(m);
	arena_release(&m->weights, m->kern);
	if (m->kern)
		m->kern->free(m->kern);
	if (m->model)
		m->ops->free(m->model);
	token_trie_free(atomic_load(&m->trie));
	tokenizer_free(m->tokenizer);
	safetensors_free(m->st);
	free(m);
}

/* Writes as much of the struct as the caller's version has. */
static int info_out(struct moxie_model_info *to, struct moxie_model_info *from)
{
	size_t n = to->struct_size;
	if (n < sizeof n || n > 4096)
		return MOXIE_E_ARG;
	n = n < sizeof *from ? n : sizeof *from;
	from->struct_size = to->struct_size;
	memcpy(to, from, n);
	return 0;
}

MOXIE_API int moxie_model_get_info(const moxie_model *m, struct moxie_model_info *info)
{
	struct moxie_model_info all = { 0 };
	struct moxie_model_params p = { .n_thread = m->kern->n_thread, .n_chunk = m->n_chunk, .n_seq = m->n_seq, .kv_f32 = m->kv.dtype == DT_F32,
		.kv_fp8 = m->kv.dtype == DT_F8_E4M3, .dense_fp8 = m->dense_f8 };
	fill_info(&all, &m->config, &p);
	all.kernels = m->kern->name;
	all.weight_bytes = m->weight_bytes;
	all.step_bytes = m->ws.cap + m->kern->scratch_bytes;
	if (m->kern->dev) {
		all.device_bytes = m->device_bytes;
		all.device_weight_bytes = m->weights.cap;
		all.kv_pool_bytes = m->kv.full.n_bytes + m->kv.ring.n_bytes;
		all.kv_pool_tokens = m->kv.plan.n_full ? (uint64_t)m->kv.full.n_page * KV_PAGE : 0;
		all.graph_bytes = m->graph_bytes;
	}
	all.load_seconds = m->load_seconds;
	return info_out(info, &all);
}

MOXIE_API int moxie_inspect(const struct moxie_model_params *params, struct moxie_model_info *info,
                            void (*on_tensor)(void *ud, const struct moxie_tensor_info *t), void *ud, struct moxie_err *err)
{
	struct moxie_model_params p;
	int rc = params_copy(&p, params, err);
	if (rc < 0)
		return rc;
	struct moxie_model *m = calloc(1, sizeof *m);
	if (!m)
		return err_nomem(err, sizeof *m, "a model");
	struct moxie_model_info all = { 0 };
	if ((rc = load_config(&m->config, &p, err)) < 0)
		goto out;
	fill_info(&all, &m->config, &p);
	m->n_chunk = p.n_chunk;
	m->n_seq = p.n_seq;
	m->dense_f8 = p.dense_fp8;
	m->ops = model_ops_of(&m->config);
	m->kv.plan = kv_plan_of(&m->config, kv_dtype_of(&p), p.n_chunk);
	if (!p.dummy && (rc = safetensors_open(&m->st, p.path, err)) < 0)
		goto out;
	if ((rc = m->ops->bind(&m->model, &m->config, m->st, err)) < 0)
		goto out;
	struct kern_limits lim = limits_of(&m->config, &p);
	if (backend_is_device(p.device)) {
		if ((rc = engine_plan(m, &p, &lim, &all, err)) < 0)
			goto out;
	} else {
		if ((rc = backend_open(&m->kern, p.device, &lim, p.n_thread, err)) < 0)
			goto out;
		all.step_bytes = engine_step_bytes(m, lim.n_tok, p.n_seq, (m->config.n_ctx + KV_PAGE - 1) / KV_PAGE, NULL, err) + m->kern->scratch_bytes;
	}
	if (m->st)
		all.weight_bytes = kept_bytes(&m->config, m->dense_f8, safetensors_n_bytes(m->st));
	for (size_t i = 0; on_tensor && m->st && i < safetensors_n(m->st); i++) {
		const struct st_tensor *t = safetensors_at(m->st, i);
		struct moxie_tensor_info ti = { .name = t->name, .dtype = dtype_name(t->dtype), .file = safetensors_file_name(m->st, t->file),
			.n_dim = t->n_dim, .n_bytes = t->n_bytes };
		memcpy(ti.shape, t->shape, (size_t)t->n_dim * sizeof *t->shape);
		on_tensor(ud, &ti);
	}
	struct tensor_want w;
	for (size_t i = 0; on_tensor && !m->st && config_tensor_at(&m->config, i, &w); i++) {
		uint64_t unused;
		struct moxie_tensor_info ti = { .name = w.name, .dtype = dtype_name(w.dtype), .file = "", .n_dim = w.n_dim, .n_bytes = want_bytes(&w, &unused) };
		memcpy(ti.shape, w.shape, (size_t)w.n_dim * sizeof *w.shape);
		on_tensor(ud, &ti);
	}
	rc = info ? info_out(info, &all) : 0;
	if (rc < 0)
		err_set(err, rc, "struct_size of the model info is %zu, wanted %zu", info->struct_size, sizeof *info);
out:
	moxie_model_free(m);
	return rc;
}

MOXIE_API int moxie_synth(const char *config, const char *dir, uint64_t seed, int n_thread, moxie_progress_fn progress, void *ud,
                          struct moxie_err *err)
{
	struct moxie_model_params p = { .progress = progress, .progress_ud = ud };
	struct progress g = { &p, "random weights" };
	struct buf text = { 0 };
	int rc = config_text(&text, config, err);
	if (rc == 0)
		rc = synth_write(text.p, dir, seed, n_thread ? n_thread : host_n_cpu(), on_progress, &g, err);
	buf_free(&text);
	return rc;
}

MOXIE_API double moxie_read_bandwidth(moxie_model *m)
{
	if (!m->kern->dev || !m->kern->dev->bandwidth)
		return 0;
	pthread_mutex_lock(&m->lock);
	double bytes_s = m->kern->dev->bandwidth(m->kern, m->weights.base, m->weights.cap);
	pthread_mutex_unlock(&m->lock);
	return bytes_s;
}

MOXIE_API int moxie_profile_begin(moxie_model *m, struct moxie_err *err)
{
	const struct kern_device *dev = m->kern->dev;
	if (!dev || !dev->profile_begin)
		return err_set(err, MOXIE_E_UNSUPPORTED, "%s has no profile", m->kern->name);
	pthread_mutex_lock(&m->lock);
	int rc = dev->profile_begin(m->kern, err);
	pthread_mutex_unlock(&m->lock);
	return rc;
}

MOXIE_API int moxie_profile_end(moxie_model *m, void (*row)(void *ud, const char *kernel, int n, double us), void *ud, struct moxie_err *err)
{
	struct kern_time time[MAX_PROFILE];
	pthread_mutex_lock(&m->lock);
	int n = m->kern->dev->profile_end(m->kern, time, MAX_PROFILE, err);
	pthread_mutex_unlock(&m->lock);
	for (int i = 0; i < n; i++)
		row(ud, time[i].name, time[i].n, time[i].us);
	return n < 0 ? n : 0;
}

MOXIE_API const char *moxie_config_name(int i)
{
	return config_name_at(i);
}

MOXIE_API int moxie_is_eos(const moxie_model *m, int32_t id)
{
	const int32_t *eos = m->gen.n_eos ? m->gen.eos : m->config.eos;
	int n = m->gen.n_eos ? m->gen.n_eos : m->config.n_eos;
	for (int i = 0; i < n; i++)
		if (eos[i] == id)
			return 1;
	return 0;
}

MOXIE_API void moxie_sampling_default(const moxie_model *m, struct moxie_sampling *sp)
{
	*sp = (struct moxie_sampling){ .struct_size = sizeof *sp };
	if (!m->gen.do_sample)
		return;
	sp->temperature = m->gen.temperature;
	sp->top_p = m->gen.top_p;
	sp->min_p = m->gen.min_p;
	sp->top_k = m->gen.top_k;
	sp->repetition_penalty = m->gen.repetition_penalty;
}
