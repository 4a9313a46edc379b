/* check.c - a device proves itself before it serves: two layers of the model over a few tokens, there and on the CPU.
 *
 * Two layers hold every kind of op (a sliding layer and a full one), and the tokens come as a chunk and then alone, so that the
 * kernels of prompts and of decoding both run.  bf16 moves logits by a percent or two, and now and then flips an expert; kernels
 * that do not fit this machine, or weights that arrived broken, move all of them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/host.h"
#include "engine/engine.h"

enum { N_LAYER = 2, N_CHUNK = 5, N_ROW = 4 }; /* logits of the chunk's end, and of three tokens after it */
#define MOST 0.1 /* || got - want || / || want ||, of the middle row */

/* [N_ROW, n_vocab] of the fixed tokens. */
static int run(struct moxie_model *m, float *logits, struct moxie_err *err)
{
	struct moxie_session_params p = { .struct_size = sizeof p, .n_ctx = m->config.n_ctx < KV_PAGE ? m->config.n_ctx : KV_PAGE };
	moxie_session *s;
	int32_t id[N_CHUNK + N_ROW];
	size_t n_vocab = (size_t)m->config.n_vocab;
	for (int i = 0; i < N_CHUNK + N_ROW; i++)
		id[i] = (int32_t)((uint64_t)(i + 1) * 2654435761u % n_vocab);
	int rc = moxie_session_create(&s, m, &p, err);
	if (rc < 0)
		return rc;
	m->n_layer_run = N_LAYER;
	for (int i = 0, at = 0; rc == 0 && i < N_ROW; i++) {
		int n = i ? 1 : N_CHUNK;
		rc = moxie_session_append(s, id + at, (size_t)n, err);
		at += n;
		const float *l = rc == 0 ? moxie_session_logits(s) : NULL;
		if (l)
			memcpy(logits + (size_t)i * n_vocab, l, n_vocab * sizeof *l);
	}
	m->n_layer_run = 0;
	moxie_session_free(s);
	return rc;
}

int engine_check_want(struct moxie_model *m, const struct moxie_model_params *like, float **want, struct moxie_err *err)
{
	struct moxie_model c = { .config = m->config, .ops = m->ops, .n_chunk = N_CHUNK, .n_seq = 1 };
	struct kern_limits lim = { .n_tok = N_CHUNK, .n_seq = 1, .n_embd = c.config.n_embd, .n_head = c.config.n_head, .n_head_kv = c.config.n_head_kv,
		.d_head = c.config.d_head, .n_ff = c.config.n_ff, .n_expert = c.config.n_expert, .n_used = c.config.n_expert_used,
		.n_vocab = c.config.n_vocab, .alpha = c.config.swiglu_alpha, .limit = c.config.swiglu_limit };
	struct moxie_model_params p = { .n_chunk = N_CHUNK, .n_seq = 1, .kv_tokens = KV_PAGE, .kv_fp8 = like->kv_fp8 };
	*want = malloc(sizeof(float) * N_ROW * (size_t)m->config.n_vocab);
	int rc = *want ? kern_cpu_create(&c.kern, &lim, CPU_AUTO, 0, err) : err_nomem(err, sizeof(float) * N_ROW * (size_t)m->config.n_vocab, "logits");
	if (rc == 0)
		rc = m->ops->bind(&c.model, &m->config, m->st, err);
	if (rc == 0 && m->dense_f8)
		rc = engine_shrink(&c, c.model, N_LAYER, &c.weights, err);
	if (rc == 0 && pthread_mutex_init(&c.lock, NULL) != 0)
		rc = err_nomem(err, sizeof c.lock, "a lock");
	else
		c.lock_ready = rc == 0;
	if (rc == 0 && (rc = engine_memory(&c, &p, &lim, err)) == 0)
		rc = run(&c, *want, err);
	engine_memory_free(&c);
	arena_free(&c.weights);
	m->ops->free(c.model);
	if (c.kern)
		c.kern->free(c.kern);
	if (c.lock_ready)
		pthread_mutex_destroy(&c.lock);
	if (rc < 0) {
		free(*want);
		*want = NULL;
	}
	return rc;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

int engine_check_device(struct moxie_model *m, const float *want, struct moxie_err *err)
{
	size_t n_vocab = (size_t)m->config.n_vocab;
	float *got = malloc(sizeof(float) * N_ROW * n_vocab);
	double far[N_ROW];
	int rc = got ? run(m, got, err) : err_nomem(err, sizeof(float) * N_ROW * n_vocab, "logits");
	for (int i = 0; rc == 0 && i < N_ROW; i++) {
		double d = 0, r = 0;
		for (size_t j = 0; j < n_vocab; j++) {
			double w = (double)want[(size_t)i * n_vocab + j], g = (double)got[(size_t)i * n_vocab + j];
			d += (g - w) * (g - w);
			r += w * w;
		}
		far[i] = sqrt(d / r);
		far[i] = far[i] < INFINITY ? far[i] : INFINITY; /* NaN too */
	}
	free(got);
	if (rc < 0)
		return rc;
	qsort(far, N_ROW, sizeof *far, ascending);
	return far[N_ROW / 2] <= MOST ? 0
	                              : err_set(err, MOXIE_E_DEVICE, "%s computes something else than the CPU: the logits of %d layers are %.3g apart, at most "
	                                        "%.2g is rounding", m->kern->name, N_LAYER, far[N_ROW / 2], MOST);
}

int engine_warm(struct moxie_model *m, struct moxie_err *err)
{
	struct moxie_session_params p = { .struct_size = sizeof p };
	moxie_session *s = NULL;
	int32_t *id = calloc((size_t)m->n_chunk, sizeof *id);
	int rc = id ? moxie_session_create(&s, m, &p, err) : err_nomem(err, (size_t)m->n_chunk * sizeof *id, "a prompt");
	for (int n = 1; rc == 0 && n <= m->n_chunk && n <= s->n_ctx; n *= 4) {
		rc = moxie_session_append(s, id, (size_t)n, err);
		moxie_session_rewind(s, 0);
	}
	if (rc == 0 && m->n_chunk <= s->n_ctx)
		rc = moxie_session_append(s, id, (size_t)m->n_chunk, err);
	moxie_session_free(s);
	free(id);
	return rc;
}
