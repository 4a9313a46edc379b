/* model.h - what the engine knows of an architecture: bind its weights, run its forward pass. */
#ifndef MOXIE_MODELS_MODEL_H
#define MOXIE_MODELS_MODEL_H

#include <stdatomic.h>

#include "base/arena.h"
#include "formats/config.h"
#include "formats/safetensors.h"
#include "kernels/kernels.h"

struct model;

/* One forward pass over a batch. */
struct forward_args {
	const struct batch *batch;
	const struct kv_view *kv;  /* [n_layer] */
	float *logits;             /* [batch->n_out, n_vocab] fp32, out; complete after k->sync */
	struct arena *ws;          /* step arena; dry: nothing runs, only memory is counted */
	int n_layer;               /* run only the first so many, then the output; 0: all */
	atomic_int *cancel;        /* or NULL; non-zero stops between two layers */
};

struct model_ops {
	/* Checks every tensor the config wants and points the weights at st, which must outlive the model.  st NULL: a model
	 * without weights, only to plan memory with.
	 *   MOXIE_E_SHAPE, MOXIE_E_FORMAT (missing): tensor, wanted and found are named */
	int (*bind)(struct model **out, const struct model_config *c, const struct safetensors *st, struct moxie_err *err);

	/* Makes e4m3 of attention's projections, of the first n_layer layers (0: all), and of the unembedding, in ws, by k->quant_rows; the
	 * model then points there.  Dry arena: counts, nothing changes. */
	int (*shrink)(struct model *m, struct kern *k, struct arena *ws, int n_layer, struct moxie_err *err);

	/* Moves the weights into ws, memory of k's device, in forward order; what bind was given may go after k->sync.  f8: what shrink is
	 * for, as e4m3.  Dry arena: counts.  progress (or NULL) sees bytes placed; non-zero stops: MOXIE_E_CANCELLED. */
	int (*place)(struct model *m, struct kern *k, struct arena *ws, bool f8, int (*progress)(void *ud, uint64_t done), void *ud, struct moxie_err *err);

	/* Enqueues.
	 *   MOXIE_E_NOMEM      the step arena is too small; nothing was enqueued
	 *   MOXIE_E_CANCELLED  some layers ran: KV slots of this batch are undefined, all others are as before */
	int (*forward)(struct model *m, struct kern *k, const struct forward_args *a, struct moxie_err *err);
	void (*free)(struct model *m);
};

extern const struct model_ops model_gpt_oss;

/* The ops of c->arch; never NULL for a config that config_parse accepted. */
const struct model_ops *model_ops_of(const struct model_config *c);

/* For the bind functions.  Every tensor of config_tensor_at is in st with its dtype and shape. */
int model_check_tensors(const struct model_config *c, const struct safetensors *st, struct moxie_err *err);
/* The tensor of a printf-style name as a weight; the name must have passed model_check_tensors.  A name without the suffix
 * _blocks that only exists with it is taken as MXFP4 with its _scales. */
struct weight model_weight(const struct safetensors *st, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
