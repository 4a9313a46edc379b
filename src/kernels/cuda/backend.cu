/* backend.cu - the CUDA backend of kernels.h: one device, one stream, every op enqueued there.
 *
 * An op that fails is remembered and reported by sync; what follows it on the stream works on undefined data, as kernels.h allows.
 * Test: build/test_model cuda, build/test_cuda_model   Bench: moxie bench latency
 */
#include <new>
#include <stdio.h>
#include <string.h>

#include "backend.h"
#include "moe_plain.h"
#include "sample.h"

void cuda_note(struct cuda *c, int rc, const struct moxie_err *err)
{
	if (rc >= 0 || c->status)
		return;
	c->status = MOXIE_E_DEVICE;
	snprintf(c->text, sizeof c->text, "%s", err->text);
}

bool cuda_ok(struct cuda *c, cudaError_t e, const char *what)
{
	struct moxie_err err;
	if (e != cudaSuccess)
		cuda_note(c, err_set(&err, MOXIE_E_DEVICE, "%s: %s", what, cudaGetErrorString(e)), &err);
	return e == cudaSuccess;
}

/* The table wants void (*)(struct kern *, args); ops return their status. */
#define OP(name)                                                          \
	static void op_##name(struct kern *k, const struct name##_args *a) \
	{                                                                  \
		struct moxie_err err;                                      \
		cuda_note(cuda_of(k), cuda_##name(&cuda_of(k)->dev, a, &err), &err); \
	}
OP(embed)
OP(rmsnorm)
OP(gemm)
OP(rope)
OP(qkv)
OP(attn)
OP(sample)
OP(sample_history)
OP(route)
OP(moe_gate_up)
OP(moe_down)
#undef OP

static int cuda_sync(struct kern *k, struct moxie_err *err)
{
	struct cuda *c = cuda_of(k);
	cuda_ok(c, cudaStreamSynchronize(c->dev.stream), "the device");
	cuda_fetch_done(c);
	cuda_stage_free(c);
	cuda_step_settle(c);
	return c->status ? err_set(err, c->status, "%s", c->text) : 0;
}

static void cuda_free(struct kern *k)
{
	struct cuda *c = cuda_of(k);
	if (c->lim.plan_only) {
		moxie_moe_plan_free(c->experts);
		moxie_router_plan_free(c->router);
		cuda_dense_close(&c->dev);
		delete c;
		return;
	}
	if (c->dev.stream)
		cudaStreamSynchronize(c->dev.stream);
	cuda_graph_free(c);
	cuda_moe_free(c);
	cuda_mem_free(c);
	cuda_step_free(c);
	cuda_dense_close(&c->dev);
	cuda_dense_f8_close(&c->dev);
	cudaFree(c->dev.scratch);
	if (c->dev.stream)
		cudaStreamDestroy(c->dev.stream);
	delete c;
}

static int check_limits(const struct kern_limits *l, struct moxie_err *err)
{
	if (l->n_tok < 1 || l->n_seq < 1 || l->n_embd < 32 || l->n_embd % 32 || l->n_embd > RMSNORM_MAX_EMBD)
		return err_set(err, MOXIE_E_ARG, "n_tok is %d, n_seq %d, n_embd %d; wanted at least 1, and n_embd a multiple of 32 up to %d", l->n_tok,
		               l->n_seq, l->n_embd, RMSNORM_MAX_EMBD);
	if (l->n_head < 1 || l->n_head_kv < 1 || l->n_head % l->n_head_kv || l->d_head < 2 || l->d_head % 2 || l->n_head * l->d_head % 32)
		return err_set(err, MOXIE_E_ARG, "%d query heads of %d over %d key heads; wanted a multiple, and 32 to divide n_head * d_head", l->n_head,
		               l->d_head, l->n_head_kv);
	return 0;
}

static int open_device(struct cuda *c, struct moxie_err *err)
{
	struct cuda_dev *d = &c->dev;
	cudaDeviceProp p;
	int shared = 0;
	cudaError_t e = cudaSetDevice(0);
	if (e == cudaSuccess) e = cudaGetDeviceProperties(&p, 0);
	if (e == cudaSuccess) e = cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0);
	if (e != cudaSuccess)
		return err_set(err, MOXIE_E_UNSUPPORTED, "no CUDA device: %s", cudaGetErrorString(e));
	const struct kern_cap *const cap = &c->lim.cap;
	if (cap->shared && (int)cap->shared < shared)
		shared = (int)cap->shared;
	if (p.major < 8)
		return err_set(err, MOXIE_E_UNSUPPORTED, "%s is sm_%d%d; the kernels need sm_80 or later", p.name, p.major, p.minor);
	if (shared < CUDA_SHARED_MIN)
		return err_set(err, MOXIE_E_UNSUPPORTED, "%s gives a block %d bytes of shared memory; the kernels need %d", p.name, shared, CUDA_SHARED_MIN);
	e = cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking);
	if (e != cudaSuccess)
		return err_set(err, MOXIE_E_DEVICE, "a stream: %s", cudaGetErrorString(e));
	d->n_sm = p.multiProcessorCount;
	d->shared_per_block = (size_t)shared;
	d->portable = cap->portable || p.major != 9 || p.minor != 0;
	if (cap->memory && cap->memory < p.totalGlobalMem)
		c->memory_gone = p.totalGlobalMem - cap->memory;
	if (d->portable)
		snprintf(c->name, sizeof c->name, "cuda %s (sm_%d%d: portable kernels, %d KiB shared memory)", p.name, p.major, p.minor, shared / 1024);
	else
		snprintf(c->name, sizeof c->name, "cuda %s", p.name);
	return 0;
}

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

extern "C" MOXIE_API const uint32_t moxie_kern_cuda_layout;
const uint32_t moxie_kern_cuda_layout = KERN_LAYOUT;

extern "C" MOXIE_API int moxie_kern_cuda_create(struct kern **out, const struct kern_limits *lim, struct moxie_err *err)
{
	*out = NULL;
	int rc = check_limits(lim, err);
	if (rc < 0)
		return rc;
	struct cuda *c = new (std::nothrow) struct cuda();
	if (!c)
		return err_nomem(err, sizeof *c, "the CUDA backend");
	c->lim = *lim;
	struct kern *k = &c->kern;
	k->impl = c;
	k->name = c->name;
	k->act = DT_BF16;
	k->n_thread = 1;
	k->norm_tok_min = CUDA_NORM_TOK_MIN, k->norm_tok_max = CUDA_NORM_TOK;
	k->embed = op_embed, k->rmsnorm = op_rmsnorm, k->gemm = op_gemm, k->rope = op_rope, k->qkv = op_qkv, k->attn = op_attn;
	k->sample = op_sample, k->sample_history = op_sample_history, k->route = op_route, k->moe_gate_up = op_moe_gate_up, k->moe_down = op_moe_down;
	k->dev = &cuda_device_hooks;
	k->sync = cuda_sync, k->free = cuda_free;
	if (lim->plan_only)
		c->dev.id = -1, snprintf(c->name, sizeof c->name, "cuda, planned as for an H200");
	if ((rc = lim->plan_only ? 0 : open_device(c, err)) < 0 || (rc = lim->plan_only ? 0 : cuda_step_init(c, err)) < 0 ||
	    (rc = cuda_moe_init(c, err)) < 0) {
		cuda_free(k);
		return rc;
	}
	k->moe = c->experts ? cuda_moe_run : NULL;
	struct cuda_dev *d = &c->dev;
	if (d->portable && lim->dense == DT_F8_E4M3) {
		rc = err_set(err, MOXIE_E_UNSUPPORTED, "%s: dense weights in FP8 need sm_90", c->name);
		cuda_free(k);
		return rc;
	}
	if (d->portable)
		k->norm_tok_min = k->norm_tok_max = 0; /* dense_portable takes rows after their norm */
	if (lim->dense == DT_F8_E4M3) {
		k->norm_tok_max = lim->n_tok;
		if (!lim->plan_only && (rc = cuda_dense_f8_open(d, lim, err)) < 0) {
			cuda_free(k);
			return rc;
		}
	} else
		cuda_dense_open(d, lim);
	d->scratch_bytes = larger(256, larger(larger(cuda_dense_scratch(d, lim), cuda_attn_scratch(d, lim)), cuda_sample_scratch(d, lim)));
	k->scratch_bytes += cuda_block_bytes(d->scratch_bytes);
	if (lim->plan_only) {
		*out = k;
		return 0;
	}
	cudaError_t e = cuda_take(c, &d->scratch, d->scratch_bytes);
	if (e == cudaSuccess) e = cudaMemsetAsync(d->scratch, 0, d->scratch_bytes, d->stream); /* counters in it start at zero */
	if (e == cudaSuccess) e = cudaMallocHost((void **)&c->up, UPLOAD_BYTES);
	if (e == cudaSuccess) e = cudaMallocHost((void **)&c->down, FETCH_BYTES);
	if (e == cudaSuccess) e = cudaStreamSynchronize(d->stream);
	if (e != cudaSuccess) {
		rc = err_set(err, MOXIE_E_NOMEM, "%zu bytes of scratch: %s", d->scratch_bytes, cudaGetErrorString(e));
		cuda_free(k);
		return rc;
	}
	*out = k;
	return 0;
}
