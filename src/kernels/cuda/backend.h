/* backend.h - what the files of the whole-model backend share: backend.cu (the op table), backend_mem.cu (memory, loading),
 * backend_step.cu (a step's inputs and picks), backend_graph.cu (recorded steps), moe_block.cu. */
#ifndef MOXIE_CUDA_BACKEND_H
#define MOXIE_CUDA_BACKEND_H

#include "cuda_ops.h"
#include "moxie_ops.h"

#define UPLOAD_BYTES ((size_t)4 << 20) /* page lists of 256 sequences of 128K tokens are half of it */
#define FETCH_BYTES ((size_t)64 << 10) /* larger copies go straight to where they are wanted */
#define CUDA_SHARED_MIN (64 * 1024) /* bytes a block must have */
#define N_STAGE 2 /* pinned buffers that loading fills in turn */

struct fetch { /* one copy to the host that sync completes */
	void *to;
	size_t at, n_bytes; /* in `down` */
};
#define N_FETCH 64

struct cuda_stage { /* exists while weights are placed */
	void *host[N_STAGE];
	cudaEvent_t done[N_STAGE];
	int next;
	void *raw; /* device: experts, or rows of dense weights, as the checkpoint has them */
	size_t raw_bytes;
};

/* dummy.cu */
cudaError_t cuda_dummy(void *to, size_t n_bytes, const struct dummy_rule *r, cudaStream_t stream);

struct cuda_graph;

struct cuda {
	struct kern kern; /* kern.impl points to the whole */
	struct cuda_dev dev;
	struct kern_limits lim;
	char name[352];
	int status;       /* sticky, what sync returns */
	char text[512];

	/* MoE by the fast kernels; experts NULL: dimensions they do not serve */
	moxie_moe_plan *experts;
	struct moxie_router_plan *router;
	void *tables, *moe_ws, *router_ws;
	struct moxie_moe_weights **packed; /* [n_packed] what moe_weights.packed points to */
	int n_packed;

	uint8_t *up, *down; /* pinned */
	size_t n_down;      /* bytes of down in use */
	struct fetch fetch[N_FETCH];
	int n_fetch;
	struct cuda_stage stage;
	uint64_t memory_gone; /* bytes of the device that are not ours to use: tests make it smaller */
	dummy_rule_fn *rule; /* NULL: tensors lie where they point */
	void *rule_ud;

	struct cuda_step_io *io;  /* backend_step.cu */

	struct cuda_graph *graph; /* [n_graph] recorded steps, most recently used first */
	int n_graph, cap_graph;
	bool recording;
	struct step_shape record_shape;
};

/* What cudaMalloc takes for a block: 2 MB are the least that it gives away, and smaller ones share them. */
static inline size_t cuda_block_bytes(size_t n)
{
	const size_t most = (size_t)2 << 20;
	return n >= most / 2 ? (n + most - 1) / most * most : n;
}

static inline struct cuda *cuda_of(struct kern *k) { return (struct cuda *)k->impl; }

/* Keeps the first failure for sync. */
void cuda_note(struct cuda *c, int rc, const struct moxie_err *err);
/* The same of a CUDA call; true: it went well. */
bool cuda_ok(struct cuda *c, cudaError_t e, const char *what);

/* cudaMalloc of what the device may still give. */
cudaError_t cuda_take(struct cuda *c, void **p, size_t n_bytes);

extern const struct kern_device cuda_device_hooks;
void cuda_mem_free(struct cuda *c);   /* pinned memory, staging, packed structs */
void cuda_stage_free(struct cuda *c);
void cuda_fetch_done(struct cuda *c); /* the stream is idle: fetched bytes go where they were wanted */

/* backend_step.cu */
int cuda_step_init(struct cuda *c, struct moxie_err *err);
void cuda_step_free(struct cuda *c);
void cuda_step_settle(struct cuda *c); /* the stream is idle: steps that were staged and never ran are forgotten */
int cuda_step_stage(struct kern *k, const void *from, size_t n_bytes, struct moxie_err *err);
void cuda_step_take_in(struct kern *k, void *to, size_t n_bytes, int n_tok, const int32_t *picked);
void cuda_step_give_out(struct kern *k, const int32_t *picked, int n);
int cuda_step_outcome(struct kern *k, int n_after, int32_t *id, int n, struct moxie_err *err);

bool cuda_graph_replay(struct kern *k, const struct step_shape *s);
void cuda_graph_record(struct kern *k, const struct step_shape *s);
void cuda_graph_keep(struct kern *k, bool ok);
void cuda_graph_free(struct cuda *c);

/* bandwidth.cu */
double cuda_bandwidth(struct kern *k, const void *p, size_t n_bytes);

/* profile.cu */
int cuda_profile_begin(struct kern *k, struct moxie_err *err);
int cuda_profile_end(struct kern *k, struct kern_time *row, int most, struct moxie_err *err);

/* moe_block.cu */
int cuda_moe_init(struct cuda *c, struct moxie_err *err); /* leaves experts NULL where the fast kernels do not fit */
void cuda_moe_free(struct cuda *c);
void cuda_moe_run(struct kern *k, const struct moe_args *a);

#endif
