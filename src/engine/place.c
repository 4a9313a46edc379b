/* place.c - a model's weights go to the memory of a device. */
#include "base/host.h"
#include "engine/engine.h"
#include "formats/synth.h"

/* Where dummy weights would lie, were they not made on the device. */
struct dummy {
	const struct model_config *c;
	const struct safetensors *st;
	uint64_t seed;
	size_t i_want;   /* tensors are asked for in forward order, or nearly: the search goes on where it found the last */
};

static bool want_at(struct dummy *d, const uint8_t *data, struct tensor_want *want, uint64_t *at)
{
	for (int pass = 0; pass < 2; pass++, d->i_want = 0)
		for (; config_tensor_at(d->c, d->i_want, want); d->i_want++) {
			const struct st_tensor *t = safetensors_find(d->st, want->name);
			if (t && data >= t->data && (uint64_t)(data - t->data) < t->n_bytes) {
				*at = (uint64_t)(data - t->data);
				return true;
			}
		}
	return false;
}

static int dummy_at(void *ud, const void *data, struct dummy_rule *rule, struct moxie_err *err)
{
	struct dummy *d = ud;
	struct tensor_want want;
	uint64_t at;
	if (!want_at(d, data, &want, &at)) /* what the model computed itself, such as rope's frequencies */
		return DUMMY_AS_IT_LIES;
	int rc = synth_rule(&want, d->seed, rule, err);
	rule->at = at;
	return rc;
}

struct placing {
	uint64_t all;
	int (*progress)(void *ud, uint64_t done, uint64_t all);
	void *ud;
};

static int on_placed(void *ud, uint64_t done)
{
	const struct placing *p = ud;
	return p->progress(p->ud, done, p->all);
}

int engine_shrink(struct moxie_model *m, struct model *model, int n_layer, struct arena *ws, struct moxie_err *err)
{
	struct arena dry = { .cap = SIZE_MAX };
	int rc = m->ops->shrink(model, m->kern, &dry, n_layer, err);
	if (rc == 0 && !arena_init(ws, dry.top))
		rc = err_nomem(err, dry.top, "weights in FP8");
	return rc == 0 ? m->ops->shrink(model, m->kern, ws, n_layer, err) : rc;
}

int engine_place(struct moxie_model *m, bool made, uint64_t seed, int (*progress)(void *ud, uint64_t done, uint64_t all), void *ud,
                 struct moxie_err *err)
{
	struct kern *k = m->kern;
	struct arena dry = { .cap = SIZE_MAX };
	struct dummy dummy = { .c = &m->config, .st = m->st, .seed = seed };
	int rc = m->ops->place(m->model, k, &dry, m->dense_f8, NULL, NULL, err);
	if (rc < 0)
		return rc;
	struct placing p = { dry.top, progress, ud };
	m->weights.base = k->dev->take(k, dry.top, err);
	if (!m->weights.base)
		return MOXIE_E_NOMEM;
	m->weights.cap = dry.top;
	if (made)
		k->dev->made(k, dummy_at, &dummy);
	rc = m->ops->place(m->model, k, &m->weights, m->dense_f8, on_placed, &p, err);
	k->dev->made(k, NULL, NULL);
	int rc_sync = k->sync(k, rc == 0 ? err : NULL);
	safetensors_free(m->st);
	m->st = NULL;
	return rc < 0 ? rc : rc_sync;
}
