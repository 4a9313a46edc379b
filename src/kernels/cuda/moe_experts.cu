/* moe_experts.cu - the plan of the expert launches: which instance serves which number of tokens, and the run itself. */
#include <math.h>
#include <new>
#include <stdio.h>

extern "C" {
#include "base/err.h"
}
#include "device/launch.cuh"
#include "moe_experts.h"
#include "moe_pair_qkv.h"
#include "moxie_ops.h"

/* By ascending width; see choose(). */
enum { LOOSE_N8, ROWS256_N16, ROWS256_N40, ROWS256_N48, ROWS256_N64, ROWS256_N96, ROWS256_N120, ROWS256_N144, ROWS256_N152, N_INSTANCE };
static const struct moe_instance *const instances[N_INSTANCE] = {
	&moe_instance_loose_n8,    &moe_instance_rows256_n16, &moe_instance_rows256_n40,  &moe_instance_rows256_n48,  &moe_instance_rows256_n64,
	&moe_instance_rows256_n96, &moe_instance_rows256_n120, &moe_instance_rows256_n144, &moe_instance_rows256_n152,
};

struct moxie_moe_plan {
	struct moxie_moe_desc d;
	int device, n_sm;
	int n_split;       /* of the second product in the loose instance */
	int loose_max_tok; /* most tokens of the loose instance */
	int smem;          /* most shared memory of a block */
	bool portable;     /* moe_portable.cuh instead of the instances above */
	int n_cluster;     /* of moe_experts_pair.cu, which serves one token; 0: it does not */
};

static int fail_cuda(struct moxie_err *err, cudaError_t e, const char *what)
{
	return err_set(err, MOXIE_E_DEVICE, "%s: %s", what, cudaGetErrorString(e));
}

static uint64_t round_up(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

/* Rows of an expert under even routing. */
static double even_rows(const struct moxie_moe_plan *p, int n_tok) { return (double)n_tok * p->d.n_used / p->d.n_expert; }

/* The instance for n_tok tokens.  One token that no kernel of its own serves: loose items, so that all SMs have equal shares of
 * few experts.  Then the narrowest instance whose tile holds the rows of most experts under even routing (mean + 1.6 sigma): an
 * expert with more rows has two tiles and is read and expanded twice.  Past that tiles of 152 while two of three experts fit one
 * (mean + 0.5 sigma; H200, 4096/2048/E256, 144 rows an expert: 2931 us against 3322 with tiles of 120); then two tiles of up to 120,
 * with which the tensor cores are busier than with one of up to 256 (192 rows: 3702 us against 3903); past that (mean > 216) tiles of
 * 144 again, whose loops have fewer branches than those of 152. */
static const struct moe_instance *choose(const struct moxie_moe_plan *p, int n_tok)
{
	if (n_tok <= p->loose_max_tok) return instances[LOOSE_N8];
	const double mean = even_rows(p, n_tok), sigma = sqrt(mean); /* rows of an expert are nearly Poisson */
	for (int i = ROWS256_N16; i <= ROWS256_N144; i++)
		if (mean + 1.6 * sigma <= instances[i]->tile_n) return instances[i];
	if (mean + 0.5 * sigma <= instances[ROWS256_N152]->tile_n) return instances[ROWS256_N152];
	return instances[mean <= 216 ? ROWS256_N120 : ROWS256_N144];
}

/* The same for the portable kernel: the narrowest tile that holds nearly every expert's rows, else the widest; of one width the first
 * that fits the shared memory (one does: see portable_fits). */
static const struct moe_portable_instance *choose_portable(const struct moxie_moe_plan *p, int n_tok)
{
	const double mean = even_rows(p, n_tok);
	const struct moe_portable_instance *best = NULL;
	for (const struct moe_portable_instance &in : moe_portable_instances)
		if (moe_portable_stages(&in, p->smem)) {
			best = &in;
			if (mean + 2 * sqrt(mean) <= in.tile_n) break;
		}
	return best;
}

/* Whether every width has an instance that fits; else the need of the first that has none. */
static bool portable_fits(int smem, int *need)
{
	int served = 0;
	for (const struct moe_portable_instance &in : moe_portable_instances) {
		if (in.tile_n == served) continue;
		if (moe_portable_stages(&in, smem)) served = in.tile_n;
		else *need = moe_portable_smem(&in, in.n_stage ? in.n_stage : 2);
		const bool last = &in == moe_portable_instances + MOE_N_PORTABLE - 1 || (&in)[1].tile_n != in.tile_n;
		if (last && served != in.tile_n) return false;
	}
	return true;
}

/* Whether moe_experts_pair.cu serves n_tok tokens. */
static bool choose_pair(const struct moxie_moe_plan *p, int n_tok) { return n_tok == 1 && p->n_cluster > 0; }

/* Whether moe_experts_column.cu serves n_tok tokens: on Hopper what the pair kernel does not. */
static bool choose_column(const struct moxie_moe_plan *p, int n_tok)
{
	return n_tok == 1 && !p->n_cluster && moe_column_smem(p->d.n_used, p->d.n_embd, p->d.n_ff, p->n_sm) <= p->smem;
}
/* Most tiles of few tokens: an expert has one. */
static int few_tiles(const struct moxie_moe_plan *p, int n_tok) { return n_tok * p->d.n_used < p->d.n_expert ? n_tok * p->d.n_used : p->d.n_expert; }
/* Whether moe_experts_few.cu serves n_tok tokens.  Two tokens where there is no room for the large stages of portable_n8: with those it takes 59 us against
 * 62 (H200, 99 KB, 4096/2048/E256; three and four tokens 85, 105 against 84, 106, 2880/2880/E32 57, 76 against 56, 71). */
static bool choose_few(const struct moxie_moe_plan *p, int n_tok)
{
	const int least = moe_portable_stages(&moe_portable_instances[0], p->smem) ? 3 : 2;
	return p->portable && n_tok >= least && n_tok <= moe_few_tokens && moe_few_smem(few_tiles(p, n_tok), p->d.n_embd, p->d.n_ff, p->n_sm) <= p->smem;
}

int moxie_moe_plan_create(moxie_moe_plan **out, const struct moxie_moe_desc *desc, int device, struct moxie_err *err)
{
	*out = NULL;
	const struct moxie_moe_desc &d = *desc;
	if (d.n_embd <= 0 || d.n_embd % 64 || d.n_ff <= 0 || d.n_ff % 64)
		return err_set(err, MOXIE_E_SHAPE, "n_embd is %d and n_ff %d, wanted positive multiples of 64", d.n_embd, d.n_ff);
	if (d.n_expert < 1 || d.n_used < 1 || d.n_used > 16 || d.n_used > d.n_expert)
		return err_set(err, MOXIE_E_SHAPE, "%d of %d experts per token, wanted 1 <= n_used <= 16 and n_used <= n_expert", d.n_used, d.n_expert);
	if (d.max_tok < 0 || (int64_t)d.max_tok * d.n_used > INT32_MAX / 2)
		return err_set(err, MOXIE_E_ARG, "max_tok is %d with n_used %d, wanted 0 <= max_tok * n_used <= %d", d.max_tok, d.n_used, INT32_MAX / 2);
	/* Kernels index rows of x and act in 16-byte pieces with 32 bits. */
	const int64_t widest = (int64_t)d.n_used * d.n_ff > d.n_embd ? (int64_t)d.n_used * d.n_ff : d.n_embd;
	if (d.max_tok > INT32_MAX / (widest / 8))
		return err_set(err, MOXIE_E_ARG, "max_tok is %d, wanted <= %lld at n_embd %d, n_used %d and n_ff %d", d.max_tok,
		            (long long)(INT32_MAX / (widest / 8)), d.n_embd, d.n_used, d.n_ff);
	if (d.act < 0 || d.act > MOXIE_ACT_GEGLU_TANH) return err_set(err, MOXIE_E_ARG, "act is %d, wanted 0..2", d.act);

	int major = 9, minor = 0, smem = 227 << 10, n_sm = 132, before = 0; /* device -1: an H200's */
	const bool there = device >= 0;
	cudaError_t e = there ? cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) : cudaSuccess;
	if (there && e == cudaSuccess) e = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
	if (there && e == cudaSuccess) e = cudaDeviceGetAttribute(&smem, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
	if (there && e == cudaSuccess) e = cudaDeviceGetAttribute(&n_sm, cudaDevAttrMultiProcessorCount, device);
	if (e != cudaSuccess) return fail_cuda(err, e, "device attributes");
	if (major < 8)
		return err_set(err, MOXIE_E_UNSUPPORTED, "device %d is sm_%d%d; the expert kernels need sm_80 or later", device, major, minor);
	const bool portable = d.portable || major != 9 || minor != 0;
	if (d.smem_limit > 0 && d.smem_limit < smem) smem = d.smem_limit;
	int need = 0;
	if (portable && !portable_fits(smem, &need))
		return err_set(err, MOXIE_E_UNSUPPORTED, "the portable expert kernels need %d bytes of shared memory a block, device %d has %d", need, device, smem);
	if (there) e = cudaGetDevice(&before);
	if (there && e == cudaSuccess) e = cudaSetDevice(device);
	for (const struct moe_portable_instance &in : moe_portable_instances) {
		const int n_stage = moe_portable_stages(&in, smem);
		if (there && portable && n_stage && e == cudaSuccess)
			e = cudaFuncSetAttribute(in.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, moe_portable_smem(&in, n_stage));
	}
	for (int i = 0; there && !portable && i < N_INSTANCE && e == cudaSuccess; i++) {
		if (instances[i]->smem > smem) {
			cudaSetDevice(before);
			return err_set(err, MOXIE_E_UNSUPPORTED, "kernel %s needs %d bytes of shared memory, device %d has %d", instances[i]->name,
			            instances[i]->smem, device, smem);
		}
		e = cudaFuncSetAttribute(instances[i]->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, instances[i]->smem);
	}
	if (there && e == cudaSuccess) e = cudaFuncSetAttribute(moe_column_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem);
	if (there && e == cudaSuccess) e = cudaFuncSetAttribute(moe_few_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem);
	int n_cluster = portable ? 0 : there ? 0 : n_sm / 2;
	const int pair_most = smem - moe_pair_smem_static();
	if (there && !portable && e == cudaSuccess) {
		for (int i = 0; i < 3 && e == cudaSuccess; i++)
			e = cudaFuncSetAttribute(moe_pair_kernel[i], cudaFuncAttributeMaxDynamicSharedMemorySize, pair_most);
		n_cluster = moe_pair_clusters(pair_most);
	}
	if (n_cluster && moe_pair_smem(d.n_used, d.n_embd, d.n_ff, n_cluster) > pair_most) n_cluster = 0;
	if (there) cudaSetDevice(before);
	if (e != cudaSuccess) return fail_cuda(err, e, "kernel attributes");

	struct moxie_moe_plan *p = new (std::nothrow) moxie_moe_plan;
	if (!p) return err_set(err, MOXIE_E_NOMEM, "out of memory: %zu bytes for a plan", sizeof *p);
	p->d = d;
	if (p->d.routed_scale == 0) p->d.routed_scale = 1;
	p->device = device;
	p->n_sm = n_sm;
	p->smem = smem;
	p->portable = portable;
	p->n_cluster = n_cluster;
	p->loose_max_tok = 1;
	/* Split the second product until one token has two row blocks an SM, in parts of about 16 k atoms (the depth
	 * of its ring) or more.  Parts may differ by an atom. */
	p->n_split = 1;
	while (p->n_split < 8 && p->n_split * 16 < d.n_ff / 64 && (int64_t)d.n_used * (d.n_embd / 64) * p->n_split < 2 * n_sm)
		p->n_split++;
	*out = p;
	return MOXIE_OK;
}

void moxie_moe_plan_free(moxie_moe_plan *p) { delete p; }

int moxie_moe_plan_tile_n(const moxie_moe_plan *p, int n_tok)
{
	return choose_pair(p, n_tok) || choose_column(p, n_tok) || choose_few(p, n_tok) ? MOE_FEW_TILE_N : p->portable ? choose_portable(p, n_tok)->tile_n : choose(p, n_tok)->tile_n;
}

static uint64_t act_bytes(const struct moxie_moe_plan *p, int n_tok)
{
	return round_up((uint64_t)n_tok * p->d.n_used * p->d.n_ff * 2, 256);
}
static uint64_t pair_y_bytes(const struct moxie_moe_plan *p) { return round_up((uint64_t)p->n_cluster * 2 * p->d.n_embd * 4, 256); }
static uint64_t y_bytes(const struct moxie_moe_plan *p, int n_tok)
{
	const uint64_t n = (uint64_t)n_tok * p->d.n_used * p->d.n_embd;
	if (choose_pair(p, n_tok)) return pair_y_bytes(p) + round_up((uint64_t)p->d.n_embd * 2, 256); /* and the sum that the next layer's norm is made of */
	if (choose_few(p, n_tok)) return round_up(moe_few_y_bytes(p->d.n_embd, p->n_sm), 256) + round_up(moe_few_act_bytes(few_tiles(p, n_tok), p->d.n_ff), 256);
	if (choose_column(p, n_tok)) return round_up((uint64_t)p->n_sm * p->d.n_embd * 4, 256);
	return round_up(!p->portable && choose(p, n_tok)->loose ? n * 4 * p->n_split : n * 2, 256);
}
uint64_t moxie_moe_plan_workspace_bytes(const moxie_moe_plan *p, int n_tok)
{
	return act_bytes(p, n_tok) + y_bytes(p, n_tok) + round_up((uint64_t)n_tok * p->d.n_used * 4, 256);
}

/* Pointers of a run: NULL only where the interface says so, and aligned as the kernels read them. */
static int check_pointers(const struct moxie_moe_args *r, struct moxie_err *err)
{
	const struct {
		const char *name;
		const void *p;
		int align, optional;
	} list[] = {
		{ "x", r->x, 16, 0 },
		{ "out", r->out, 16, 0 },
		{ "residual", r->residual, 16, 1 },
		{ "shared", r->shared, 16, 1 },
		{ "workspace", r->workspace, 256, 0 },
		{ "w->gate_up", r->w->gate_up, 128, 0 },
		{ "w->down", r->w->down, 128, 0 },
		{ "w->gate_up_mul", r->w->gate_up_mul, 4, 0 },
		{ "w->down_mul", r->w->down_mul, 4, 0 },
		{ "w->gate_up_bias", r->w->gate_up_bias, 4, 1 },
		{ "w->down_bias", r->w->down_bias, 4, 1 },
		{ "t->topk_id", r->t->topk_id, 4, 0 },
		{ "t->topk_w", r->t->topk_w, 4, 0 },
		{ "t->sorted_pair", r->t->sorted_pair, 4, 0 },
		{ "t->tiles", r->t->tiles, 16, 0 },
		{ "t->head", r->t->head, 16, 0 },
	};
	for (const auto &i : list) {
		if (!i.p && !i.optional) return err_set(err, MOXIE_E_ARG, "%s is NULL", i.name);
		if ((uintptr_t)i.p % i.align) return err_set(err, MOXIE_E_ARG, "%s is %p, wanted a multiple of %d", i.name, i.p, i.align);
	}
	if (r->out == r->x) return err_set(err, MOXIE_E_ARG, "out is x");
	return MOXIE_OK;
}

/* In clusters of `cluster` CTAs; args: the kernel's first parameter, more: its second, or NULL. */
static cudaError_t launch(const void *kernel, int n_cta, int n_thread, int smem, void *args, void *stream, int cluster = 1, void *more = NULL)
{
	cudaLaunchAttribute at[2] = {};
	at[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
	at[0].val.programmaticStreamSerializationAllowed = 1;
	at[1].id = cudaLaunchAttributeClusterDimension;
	at[1].val.clusterDim.x = cluster;
	at[1].val.clusterDim.y = at[1].val.clusterDim.z = 1;
	cudaLaunchConfig_t c = {};
	c.gridDim = dim3(n_cta);
	c.blockDim = dim3(n_thread);
	c.dynamicSmemBytes = smem;
	c.stream = (cudaStream_t)stream;
	c.attrs = at;
	c.numAttrs = cluster > 1 ? 2 : cuda_has_pdl();
	void *list[] = { args, more };
	return cudaLaunchKernelExC(&c, kernel, list);
}

int moxie_moe_run(const moxie_moe_plan *p, const struct moxie_moe_args *r, void *stream, struct moxie_err *err)
{
	return moe_run_next(p, r, NULL, stream, err);
}

bool moe_serves_qkv(const moxie_moe_plan *p, int n_tok, const struct dense_job *qkv)
{
	struct moe_pair_qkv q;
	return choose_pair(p, n_tok) && qkv->n_in == p->d.n_embd && moe_pair_qkv_plan(&q, qkv, NULL, 0, 2 * p->n_cluster);
}

int moe_run_next(const moxie_moe_plan *p, const struct moxie_moe_args *r, const struct moe_next *next, void *stream, struct moxie_err *err)
{
	const struct moxie_moe_desc &d = p->d;
	if (r->n_tok < 0 || r->n_tok > d.max_tok) return err_set(err, MOXIE_E_ARG, "n_tok is %d, the plan is for 0..%d", r->n_tok, d.max_tok);
	if (r->n_tok == 0) return MOXIE_OK;
	if (!r->w || !r->t) return err_set(err, MOXIE_E_ARG, "%s is NULL", r->w ? "t" : "w");
	const int rc = check_pointers(r, err);
	if (rc < 0) return rc;
	const struct moe_instance *in = choose(p, r->n_tok);
	const int tile_n = moxie_moe_plan_tile_n(p, r->n_tok);
	if (r->t->tile_n != tile_n)
		return err_set(err, MOXIE_E_ARG, "the tables have tiles of %d rows, the plan wants %d for %d tokens", r->t->tile_n, tile_n, r->n_tok);
	const struct moe_portable_instance *const port = p->portable ? choose_portable(p, r->n_tok) : NULL;
	const int n_split = !port && in->loose ? p->n_split : 1, rows0 = d.n_ff / 32, rows1 = d.n_embd / 64;

	struct moe_experts_args a = {};
	a.p[0].w = (const uint8_t *)r->w->gate_up;
	a.p[0].mul = r->w->gate_up_mul;
	a.p[0].bias = r->w->gate_up_bias;
	a.p[0].src = (const uint4 *)r->x;
	a.p[0].src_pitch = d.n_embd / 8;
	a.p[0].k_atoms = d.n_embd / 64;
	a.p[0].row_blocks = rows0;
	a.p[0].n_group = in->loose ? rows0 : (rows0 + in->rb - 1) / in->rb;
	a.p[0].n_split = 1;
	a.act = (__nv_bfloat16 *)r->workspace;
	a.y = (char *)r->workspace + act_bytes(p, r->n_tok);
	a.p[1].w = (const uint8_t *)r->w->down;
	a.p[1].mul = r->w->down_mul;
	a.p[1].bias = r->w->down_bias;
	a.p[1].src = (const uint4 *)a.act;
	a.p[1].src_pitch = d.n_ff / 8;
	a.p[1].k_atoms = d.n_ff / 64;
	a.p[1].row_blocks = rows1;
	a.p[1].n_group = in->loose ? rows1 : (rows1 + in->rb - 1) / in->rb;
	a.p[1].n_split = n_split;
	a.sorted_pair = r->t->sorted_pair;
	a.tiles = (struct moe_tile *)r->t->tiles;
	a.head = (struct moe_head *)r->t->head;
	a.n_used = d.n_used;
	a.n_pair = r->n_tok * d.n_used;
	a.n_embd = d.n_embd;
	a.n_ff = d.n_ff;
	a.max_tile = (int)moe_max_tiles(r->n_tok, d.n_used, d.n_expert, tile_n);
	a.n_likely = a.n_pair >= 2 * d.n_expert ? d.n_expert : 0;
	a.read_once = even_rows(p, r->n_tok) <= in->tile_n;
	a.row_of_pair = (int32_t *)((char *)a.y + y_bytes(p, r->n_tok));
	const float inf = __builtin_inff();
	a.c1 = 1;
	a.limit = inf;
	if (d.act == MOXIE_ACT_SWIGLU_CLAMP) {
		a.c1 = d.alpha;
		a.beta = d.beta;
		if (d.limit > 0) a.limit = d.limit;
	} else if (d.act == MOXIE_ACT_GEGLU_TANH) { /* 0.5 (1 + tanh z) = sigmoid(2 z) */
		a.c1 = 2 * 0.7978845608028654f;
		a.c3 = a.c1 * 0.044715f;
	}

	a.c1 *= -1.4426950408889634f;
	a.c3 *= -1.4426950408889634f;

	struct moe_combine_args b = {};
	b.y = a.y;
	b.row_of_pair = a.row_of_pair;
	b.topk_id = r->t->topk_id;
	b.topk_w = r->t->topk_w;
	b.residual = (const __nv_bfloat16 *)r->residual;
	b.shared = (const __nv_bfloat16 *)r->shared;
	b.out = (__nv_bfloat16 *)r->out;
	b.n_tok = r->n_tok;
	b.n_used = d.n_used;
	b.n_embd = d.n_embd;
	b.n_split = n_split;
	b.scale = d.routed_scale;
	if (next)
		b.next = (const __nv_bfloat16 *)next->norm, b.h = (__nv_bfloat16 *)next->h, b.eps = next->eps;
	cudaError_t e;
	if (choose_pair(p, r->n_tok)) {
		struct moe_pair_args pa = { a, b, (float *)a.y, moe_pair_divisor(2 * p->n_cluster), moe_pair_divisor(p->n_cluster), moe_pair_divisor(d.n_ff / 64) };
		struct moe_pair_qkv q = {};
		const bool qkv = next && next->qkv;
		if (qkv) {
			moe_pair_qkv_plan(&q, next->qkv, next->norm, next->eps, 2 * p->n_cluster);
			q.x = (uint32_t *)((char *)a.y + pair_y_bytes(p));
		}
		e = launch(moe_pair_kernel[qkv ? q.f8 ? 2 : 1 : 0], 2 * p->n_cluster, moe_pair_threads, moe_pair_smem(d.n_used, d.n_embd, d.n_ff, p->n_cluster), &pa,
		           stream, 2, &q);
		return e == cudaSuccess ? MOXIE_OK : fail_cuda(err, e, "moe_experts_pair");
	}
	if (choose_column(p, r->n_tok)) {
		struct moe_column_args ca = { a, b, (float *)a.y, NULL, moe_pair_divisor(p->n_sm), moe_pair_divisor(d.n_ff / 64), moe_column_n_col(d.n_used, d.n_ff, p->n_sm) };
		e = launch(moe_column_kernel, p->n_sm, moe_column_threads, moe_column_smem(d.n_used, d.n_embd, d.n_ff, p->n_sm), &ca, stream);
		return e == cudaSuccess ? MOXIE_OK : fail_cuda(err, e, "moe_experts_column");
	}
	if (choose_few(p, r->n_tok)) {
		struct moe_column_args ca = { a, b, (float *)a.y, (uint32_t *)((char *)a.y + round_up(moe_few_y_bytes(d.n_embd, p->n_sm), 256)), moe_pair_divisor(p->n_sm),
			                      moe_pair_divisor(d.n_ff / 64), moe_column_n_col(few_tiles(p, r->n_tok), d.n_ff, p->n_sm) };
		ca.e.max_tile = few_tiles(p, r->n_tok);
		e = launch(moe_few_kernel, p->n_sm, moe_few_threads, moe_few_smem(ca.e.max_tile, d.n_embd, d.n_ff, p->n_sm), &ca, stream);
		return e == cudaSuccess ? MOXIE_OK : fail_cuda(err, e, "moe_experts_few");
	}
	if (port) {
		struct moe_portable_args pa = { a, 0, moe_portable_stages(port, p->smem), 0 };
		pa.ahead = port->refill ? pa.n_stage : pa.n_stage - (pa.n_stage > 2 ? 2 : 1);
		pa.e.p[0].n_group = (rows0 + port->rb - 1) / port->rb;
		pa.e.p[1].n_group = (rows1 + port->rb - 1) / port->rb;
		for (; pa.phase < 2; pa.phase++) {
			e = launch(port->kernel, p->n_sm, port->n_thread, moe_portable_smem(port, pa.n_stage), &pa, stream);
			if (e != cudaSuccess) return fail_cuda(err, e, port->name);
		}
		e = moe_combine(&b, 0, (cudaStream_t)stream);
		return e == cudaSuccess ? MOXIE_OK : fail_cuda(err, e, "moe_combine");
	}
	e = launch(in->kernel, p->n_sm, in->n_thread, in->smem, &a, stream);
	if (e != cudaSuccess) return fail_cuda(err, e, in->name);
	e = moe_combine(&b, in->loose, (cudaStream_t)stream);
	return e == cudaSuccess ? MOXIE_OK : fail_cuda(err, e, "moe_combine");
}

int moxie_moe_plan_explain(const moxie_moe_plan *p, char *text, size_t n_bytes)
{
	const struct moxie_moe_desc &d = p->d;
	int len = snprintf(text, n_bytes, "experts %d/%d/E%d/k%d, mxfp4 x bf16, device %d, %d SMs\n", d.n_embd, d.n_ff, d.n_expert, d.n_used, p->device,
	                   p->n_sm);
	if (p->portable && len < (int)n_bytes)
		len += snprintf(text + len, n_bytes - len, "portable kernels (mma.sync, cp.async), %d bytes of shared memory\n", p->smem);
	for (int lo = 1, hi; lo <= d.max_tok; lo = hi + 1) {
		const bool pair = choose_pair(p, lo), column = choose_column(p, lo), few = choose_few(p, lo);
		const struct moe_portable_instance *const port = p->portable ? choose_portable(p, lo) : NULL;
		const struct moe_instance *const in = choose(p, lo);
		for (hi = lo; hi < d.max_tok && choose_pair(p, hi + 1) == pair && choose_column(p, hi + 1) == column && choose_few(p, hi + 1) == few && (pair || column || few || (port ? choose_portable(p, hi + 1) == port : choose(p, hi + 1) == in)); hi++)
			;
		char *const at = len < (int)n_bytes ? text + len : NULL;
		const size_t left = len < (int)n_bytes ? n_bytes - len : 0;
		if (pair)
			len += snprintf(at, left, "  %6d .. %-6d tokens  %-14s one launch, %d pairs of CTAs with equal shares of both products\n", lo, hi, "pair", p->n_cluster);
		else if (column)
			len += snprintf(at, left, "  %6d .. %-6d tokens  %-14s one launch, equal shares of both products\n", lo, hi, "column");
		else if (few)
			len += snprintf(at, left, "  %6d .. %-6d tokens  %-14s one launch, equal shares of both products\n", lo, hi, "few");
		else if (port)
			len += snprintf(at, left, "  %6d .. %-6d tokens  %-14s two launches + combine, items of <= %d rows x <= %d tokens, %d stages of %d bytes\n", lo,
			                hi, port->name, port->rb * 64, port->tile_n, moe_portable_stages(port, p->smem), port->stage_bytes);
		else
			len += snprintf(at, left, "  %6d .. %-6d tokens  %-14s one launch + combine, items of %d rows x <= %d tokens, split-K %d: %s\n", lo, hi,
			                in->name, in->rb * 64, in->tile_n, in->loose ? p->n_split : 1,
			                in->loose                                ? "few experts: single row blocks give every SM the same share"
			                : in == instances[ROWS256_N152]       ? "widest tile for two row blocks a warpgroup"
			                : even_rows(p, lo) > in->tile_n ? "two tiles an expert, busier than one twice as wide"
			                                                      : "narrowest tile that holds nearly every expert's rows");
	}
	return len;
}

uint64_t moxie_moe_tables_bytes(int n_tok, int k, int n_expert, int tile_n)
{
	struct moxie_moe_tables t;
	moxie_moe_tables_cut(&t, NULL, n_tok, k, n_expert, tile_n);
	return (uint64_t)((char *)t.tok_done - (char *)NULL) + round_up((uint64_t)n_tok * 4, 256);
}

void moxie_moe_tables_cut(struct moxie_moe_tables *t, void *block, int n_tok, int k, int n_expert, int tile_n)
{
	char *at = (char *)block;
	const auto cut = [&](uint64_t n_bytes) {
		char *p = at;
		at += round_up(n_bytes, 256);
		return p;
	};
	const uint64_t n_pair = (uint64_t)n_tok * k;
	t->head = cut(sizeof(struct moe_head));
	t->tiles = cut(moe_max_tiles(n_tok, k, n_expert, tile_n) * sizeof(struct moe_tile));
	t->topk_id = (int32_t *)cut(n_pair * 4);
	t->topk_w = (float *)cut(n_pair * 4);
	t->expert_off = (int32_t *)cut((n_expert + 1) * 4);
	t->sorted_pair = (int32_t *)cut(n_pair * 4);
	t->tok_done = (int32_t *)cut((uint64_t)n_tok * 4);
	t->tile_n = tile_n;
}
