/* plan.c - what a model would take of a device's memory, before any of it is taken.
 *
 * Where the device is there it is asked, and the kernels for it say what they keep for themselves; where it is not, an H200 of the given
 * size is planned for, with the most that libraries may want. */
#include <unistd.h>

#include "engine/engine.h"
#include "formats/synth.h"

#define H200_BYTES ((uint64_t)139 << 30)     /* about what a program can have of one */
#define BLOCK_BYTES ((uint64_t)2 << 20)      /* what a device gives away at a time */
#define TILE_BYTES ((uint64_t)64 << 20)      /* of experts on their way; more where one is larger */

static uint64_t blocks(uint64_t n)
{
	return (n + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
}

static uint64_t tile_bytes(const struct model_config *c)
{
	uint64_t code = (uint64_t)c->n_embd * (uint64_t)c->n_ff * 3, one = code / 2 + code / MX_GROUP + 2 * (2 * (uint64_t)c->n_ff + (uint64_t)c->n_embd);
	return blocks(one > TILE_BYTES ? one : TILE_BYTES + 1);
}

static int fill(struct moxie_model *m, const struct moxie_model_params *p, const struct kern_limits *lim, struct moxie_model_info *info,
                struct moxie_err *err)
{
	struct kern *k = m->kern;
	struct arena dry = { .cap = SIZE_MAX };
	int rc = m->ops->place(m->model, k, &dry, m->dense_f8, NULL, NULL, err);
	if (rc < 0)
		return rc;
	uint64_t ws = engine_step_bytes(m, lim->n_tok, p->n_seq, (m->config.n_ctx + KV_PAGE - 1) / KV_PAGE, NULL, err);
	info->device_bytes = !lim->plan_only ? k->dev->memory(k) + k->scratch_bytes : p->device_memory ? p->device_memory : H200_BYTES;
	info->device_weight_bytes = blocks(dry.top);
	info->step_bytes = blocks(ws) + k->scratch_bytes;
	info->tile_bytes = tile_bytes(&m->config);
	info->graph_bytes = engine_graph_bytes(m);
	uint64_t taken = info->device_weight_bytes + info->step_bytes;
	if (taken > info->device_bytes)
		return err_set(err, MOXIE_E_NOMEM, "weights take %llu bytes and a step %llu, the device has %llu", (unsigned long long)info->device_weight_bytes,
		               (unsigned long long)info->step_bytes, (unsigned long long)info->device_bytes);
	struct kv_room room = engine_kv_room(m, p, info->device_bytes - taken);
	info->kv_pool_bytes = kv_bytes(&m->kv.plan, &room, &info->kv_pool_tokens);
	return 0;
}

int engine_plan(struct moxie_model *m, const struct moxie_model_params *p, const struct kern_limits *lim, struct moxie_model_info *info,
                struct moxie_err *err)
{
	struct kern_limits l = *lim;
	struct safetensors *st = NULL;
	struct model *bound = m->model;
	l.plan_only = access("/dev/nvidiactl", F_OK) != 0;
	int rc = backend_open(&m->kern, "cuda", &l, p->n_thread, err);
	if (rc == 0 && !m->st && (rc = synth_shape(&st, &m->config, err)) == 0)
		rc = m->ops->bind(&m->model, &m->config, st, err);
	m->graph_most = ladder_most(p);
	if (rc == 0)
		rc = fill(m, p, &l, info, err);
	if (m->model != bound) {
		m->ops->free(m->model);
		m->model = bound;
	}
	safetensors_free(st);
	if (m->kern)
		m->kern->free(m->kern);
	m->kern = NULL;
	return rc;
}
