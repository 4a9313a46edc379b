/* fp8_gemm.cu - plans of the FP8 block-scaled GEMM: which instance, how many CTAs share a tile's K, and the launch.
 *
 * Choice, from what bench_fp8 --sweep measured on an H200 (docs/fp8.md):
 *   up to 64 tokens (a group)  the narrowest stream that holds them, 64 weight rows.  K is split until there are 1.6 CTAs an SM (beyond 32
 *                              tokens .8), and further where a CTA would still walk over many blocks.  Shared memory is cut for a CTA or
 *                              two an SM more than there are, so that the next kernel's can load their weights before this one has ended;
 *                              they start when this one has asked for all but a few stages of its own.  Not where K is long: there deep
 *                              rings are worth more.
 *   up to 128, few rows        two tiles of 64 tokens, likewise
 *   more                       whatever needs the fewest cycles for all its waves, by the costs in `prompts`
 * Shapes, types and errors: moxie_fp8.h; the arithmetic: fp8_tile.cuh.
 * Test: build/cuda/test_fp8    Bench: build/cuda/bench_fp8
 */
#include <cuda.h>
#include <math.h>
#include <new>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "device/launch.cuh"
#include "fp8_gemm.h"
#include "tensor_map.h"

extern const struct fp8_instance fp8_small[], fp8_large[];
constexpr int N_SMALL = 9, N_INSTANCE = N_SMALL + 5, MAX_STAGE = 24, MIN_STAGE = 3, MAX_CLUSTER = 4, N_LATE = 4;
const int fp8_n_instance = N_INSTANCE;

struct moxie_fp8_plan {
	struct moxie_fp8_desc d;
	int device, n_sm;
	int shared_sm, shared_block; /* bytes */
	int per_sm_max[N_INSTANCE];  /* CTAs that registers and threads allow */
	int fit[MAX_CLUSTER + 1];    /* clusters of so many CTAs, one an SM, that the device holds at once; fewer than SMs / CTAs */
};

struct choice {
	int i;
	const struct fp8_instance *in;
	int n_split, per_sm, n_stage, n_tile; /* per_sm: CTAs an SM has room for; n_tile: most tiles there can be, a pair's as one */
	int per_kernel, n_late;
};

static const struct fp8_instance *instance(int i)
{
	return i < N_SMALL ? &fp8_small[i] : &fp8_large[i - N_SMALL];
}

static int fail_cuda(struct moxie_err *err, cudaError_t e, const char *what)
{
	return err_set(err, MOXIE_E_DEVICE, "%s: %s", what, cudaGetErrorString(e));
}

static int ceil_div(int64_t a, int64_t b)
{
	return (int)((a + b - 1) / b);
}

/* A cluster's CTAs own slabs of 16 rows each of a stream's tile.  Larger clusters wait for room when kernels follow each other. */
static int most_split(const struct fp8_instance *in)
{
	return in->prompt || in->rows > 16 * MAX_CLUSTER ? MAX_CLUSTER : in->rows / 16;
}

/* Most stages of an instance with per_sm CTAs on an SM. */
static int stages_of(const struct moxie_fp8_plan *p, const struct fp8_instance *in, int per_sm)
{
	int room = p->shared_sm / per_sm - 1024; /* a KB of each CTA's is the system's */
	room = room < p->shared_block ? room : p->shared_block;
	const int n = (room - in->fixed_bytes) / in->stage_bytes;
	return n < MAX_STAGE ? n : MAX_STAGE;
}

/* Token tiles of all groups: exact for dense, else what is expected, at most what can be. */
static double token_tiles(const struct moxie_fp8_plan *p, const struct fp8_instance *in, int n_tok, bool most)
{
	if (p->d.mode == MOXIE_FP8_DENSE) return ceil_div(n_tok, in->tok);
	if (p->d.mode == MOXIE_FP8_MASKED) return (double)ceil_div(n_tok, in->tok) * p->d.n_group;
	const int more = n_tok < p->d.n_group ? n_tok : p->d.n_group;
	return n_tok / in->tok + (most ? more : more * .5);
}

static struct choice choice_of(const struct moxie_fp8_plan *p, int i, int n_tok, int n_split, int per_sm)
{
	const struct fp8_instance *in = instance(i);
	return { i, in, n_split, per_sm, stages_of(p, in, per_sm), (int)(token_tiles(p, in, n_tok, true) * ceil_div(p->d.n_out, in->rows * in->pair)), per_sm, 1 << 20 };
}

/* Cycles of the wide instances: of a block of K and of a tile beside its blocks; of a block where a CTA that could share its SM does not. */
static const struct {
	int i, block, lone_block, tile;
} prompts[] = { { N_SMALL + 1, 870, 800, 1500 }, { N_SMALL + 2, 700, 700, 1800 }, { N_SMALL + 3, 660, 660, 1800 }, { N_SMALL + 4, 1260, 1260, 2500 } };
constexpr double LAUNCH = 4000, SPLIT = 6000, READ = 2.6e3; /* cycles; bytes a cycle */

static struct choice choose_prompt(const struct moxie_fp8_plan *p, int n_tok)
{
	const int n_block = ceil_div(p->d.n_in, 128);
	const double read = (double)p->d.n_out * p->d.n_in * p->d.n_group / READ;
	struct choice best = {};
	double least = INFINITY;
	for (const auto &c : prompts) {
		const struct fp8_instance *in = instance(c.i);
		const double tiles = token_tiles(p, in, n_tok, false) * ceil_div(p->d.n_out, in->rows * in->pair);
		for (int split = 1; split <= (in->pair > 1 ? 1 : MAX_CLUSTER) && split <= n_block; split++) {
			const int per_sm = p->per_sm_max[c.i] < 2 ? 1 : 2, slots = p->fit[split * in->pair] * per_sm;
			if (split > 1 && tiles > slots) break;
			const bool lone = tiles * split * in->pair <= p->n_sm;
			const double cycles = LAUNCH + fmax(read, ceil(tiles / slots) * (ceil_div(n_block, split) * (lone ? c.lone_block : c.block) + c.tile)) + (split > 1 ? SPLIT : 0);
			if (cycles < least) least = cycles, best = choice_of(p, c.i, n_tok, split, per_sm);
		}
	}
	return best;
}

static struct choice choose(const struct moxie_fp8_plan *p, int n_tok)
{
	const int mean = p->d.mode == MOXIE_FP8_CONTIGUOUS ? ceil_div(n_tok, p->d.n_group) : n_tok, n_block = ceil_div(p->d.n_in, 128);
	const int i = mean < 64 ? (mean + 7) / 8 - 1 : 7;
	const struct fp8_instance *in = instance(i);
	const double tiles = token_tiles(p, in, n_tok, false) * ceil_div(p->d.n_out, in->rows);
	if (mean > 128 || (mean > 64 && 2 * tiles > p->n_sm)) return choose_prompt(p, n_tok);
	const bool few = in->tok <= 32;
	const int least = in->tok <= 16 ? 5 : 4; /* stages */
	int n_split = 1;
	while (n_split < most_split(in) && 2 * n_split <= n_block && (tiles * n_split < (few ? 1.6 : .8) * p->n_sm || n_block / n_split > (few ? 48 : 64)))
		n_split *= 2;
	int own, per_sm;
	for (;; n_split /= 2) {
		own = (int)ceil(tiles * n_split / p->n_sm);
		if (n_split == 1 && own > 3) own = 3; /* unsplit CTAs walk */
		per_sm = own + (own == 1 && few ? 2 : own > 1 && n_block / n_split >= 32 ? 0 : 1);
		while (per_sm > 1 && (per_sm > p->per_sm_max[i] || stages_of(p, in, per_sm) < least))
			per_sm--;
		if (n_split == 1 || tiles <= per_sm * p->fit[n_split]) break; /* all clusters at once */
	}
	if (own > per_sm) own = per_sm;
	struct choice c = choice_of(p, i, n_tok, n_split, per_sm);
	if (n_split == 1 && own < per_sm) c.per_kernel = own;
	c.n_late = N_LATE;
	return c;
}

int moxie_fp8_plan_create(moxie_fp8_plan **out, const struct moxie_fp8_desc *d, int device, struct moxie_err *err)
{
	*out = NULL;
	if (!d || d->mode < MOXIE_FP8_DENSE || d->mode > MOXIE_FP8_MASKED || d->n_group < 1 || d->n_group > 512 || (d->mode == MOXIE_FP8_DENSE && d->n_group != 1) ||
	    d->w_scale < MOXIE_FP8_SCALE_F32 || d->w_scale > MOXIE_FP8_SCALE_E8M0)
		return err_set(err, MOXIE_E_ARG, "mode %d with %d groups and scales %d; wanted mode 0..2, 1..512 groups (dense: 1), scales 0..1", d ? d->mode : -1,
		               d ? d->n_group : 0, d ? d->w_scale : -1);
	if (d->n_out < 64 || d->n_out % 64 || d->n_in < 64 || d->n_in % 64)
		return err_set(err, MOXIE_E_SHAPE, "n_out is %d, n_in %d; wanted multiples of 64", d->n_out, d->n_in);
	moxie_fp8_plan *p = new (std::nothrow) moxie_fp8_plan();
	if (!p) return err_set(err, MOXIE_E_NOMEM, "no memory for a plan");
	p->d = *d;
	p->device = device;
	int major = 0, minor = 0, was = 0;
	const struct {
		int *to;
		cudaDeviceAttr what;
	} want[] = { { &major, cudaDevAttrComputeCapabilityMajor }, { &minor, cudaDevAttrComputeCapabilityMinor }, { &p->n_sm, cudaDevAttrMultiProcessorCount },
		{ &p->shared_sm, cudaDevAttrMaxSharedMemoryPerMultiprocessor }, { &p->shared_block, cudaDevAttrMaxSharedMemoryPerBlockOptin } };
	cudaError_t e = cudaSuccess;
	for (const auto &w : want)
		if (e == cudaSuccess) e = cudaDeviceGetAttribute(w.to, w.what, device);
	int rc = e == cudaSuccess ? 0 : fail_cuda(err, e, "device attributes");
	if (rc == 0 && (major != 9 || minor != 0))
		rc = err_set(err, MOXIE_E_UNSUPPORTED, "device %d is of architecture %d.%d; the FP8 GEMM needs 9.0", device, major, minor);
	if (rc == 0 && (e = cudaGetDevice(&was)) == cudaSuccess) e = cudaSetDevice(device);
	for (int i = 0; rc == 0 && e == cudaSuccess && i < N_INSTANCE; i++) {
		cudaFuncAttributes f;
		e = cudaFuncGetAttributes(&f, instance(i)->kernel);
		if (e == cudaSuccess) e = cudaFuncSetAttribute(instance(i)->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, p->shared_block);
		const int regs = (f.numRegs + 7) / 8 * 8 * instance(i)->n_thread;
		p->per_sm_max[i] = e == cudaSuccess && regs > 0 ? 65536 / regs : 1;
	}
	const struct fp8_instance *whole = instance(N_SMALL + 2); /* has an SM for itself */
	for (int size = 1; rc == 0 && e == cudaSuccess && size <= MAX_CLUSTER; size++) {
		const size_t bytes = (size_t)whole->fixed_bytes + (size_t)stages_of(p, whole, 1) * whole->stage_bytes;
		e = cuda_max_clusters(&p->fit[size], whole->kernel, size, dim3((unsigned)(size * p->n_sm)), dim3((unsigned)whole->n_thread), bytes);
	}
	if (rc == 0 && e != cudaSuccess) rc = fail_cuda(err, e, "the FP8 GEMM's kernels");
	if (rc == 0 || e != cudaSuccess) cudaSetDevice(was);
	if (rc < 0) {
		delete p;
		return rc;
	}
	*out = p;
	return MOXIE_OK;
}

void moxie_fp8_plan_free(moxie_fp8_plan *plan)
{
	delete plan;
}

static int check(const struct moxie_fp8_plan *p, const struct moxie_fp8_args *r, struct moxie_err *err)
{
	if (!p || !r || r->n_tok < 0) return err_set(err, MOXIE_E_ARG, "no plan, no arguments, or n_tok is %d", r ? r->n_tok : 0);
	const int64_t rows = (int64_t)r->n_tok * (p->d.mode == MOXIE_FP8_MASKED ? p->d.n_group : 1);
	if (rows > INT32_MAX || r->x_scale_ld < rows)
		return err_set(err, MOXIE_E_ARG, "%lld rows with x_scale_ld %lld", (long long)rows, (long long)r->x_scale_ld);
	const struct {
		const char *name;
		const void *p;
		int align;
	} ptr[] = { { "x", r->x, 16 }, { "w", r->w, 16 }, { "out", r->out, 16 }, { "x_scale", r->x_scale, 4 },
		{ "w_scale", r->w_scale, p->d.w_scale == MOXIE_FP8_SCALE_F32 ? 4 : 1 }, { "group", p->d.mode == MOXIE_FP8_DENSE ? r->out : r->group, 4 } };
	for (const auto &q : ptr)
		if (!q.p || (uintptr_t)q.p % q.align) return err_set(err, MOXIE_E_ARG, "%s is %p, wanted a multiple of %d", q.name, q.p, q.align);
	return 0;
}

static int run(const struct moxie_fp8_plan *p, const struct moxie_fp8_args *r, const struct choice &c, void *stream, struct moxie_err *err)
{
	const struct moxie_fp8_desc &d = p->d;
	struct fp8_gemm_args a = {};
	a.x_scale = r->x_scale;
	a.x_scale_ld = r->x_scale_ld;
	a.w_scale = r->w_scale;
	a.out = (__nv_bfloat16 *)r->out;
	a.group = r->group;
	a.mode = d.mode;
	a.n_group = d.n_group;
	a.w_e8m0 = d.w_scale == MOXIE_FP8_SCALE_E8M0;
	a.n_tok = r->n_tok;
	a.n_row = r->n_tok * (d.mode == MOXIE_FP8_MASKED ? d.n_group : 1);
	a.n_out = d.n_out;
	a.n_block = ceil_div(d.n_in, 128);
	a.n_row_tile = ceil_div(d.n_out, c.in->rows * c.in->pair);
	a.n_split = c.n_split;
	a.n_stage = c.n_stage;
	a.n_late = c.n_late;
	const uint64_t w_dim[3] = { (uint64_t)d.n_in, (uint64_t)d.n_out, (uint64_t)d.n_group }, x_dim[2] = { (uint64_t)d.n_in, (uint64_t)a.n_row };
	const uint32_t w_box[3] = { 128, (uint32_t)c.in->rows, 1 }, x_box[2] = { 128, (uint32_t)(c.in->tok / c.in->pair) };
	cudaError_t e = tensor_map(&a.w, CU_TENSOR_MAP_DATA_TYPE_UINT8, r->w, 3, w_dim, w_box, CU_TENSOR_MAP_L2_PROMOTION_L2_256B);
	if (e == cudaSuccess) e = tensor_map(&a.x, CU_TENSOR_MAP_DATA_TYPE_UINT8, r->x, 2, x_dim, x_box, CU_TENSOR_MAP_L2_PROMOTION_L2_256B);
	const uint64_t y_dim[2] = { (uint64_t)d.n_out, (uint64_t)a.n_row };
	const uint32_t y_box[2] = { 64, 16 };
	if (e == cudaSuccess && c.in->prompt) e = tensor_map(&a.y, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, r->out, 2, y_dim, y_box, CU_TENSOR_MAP_L2_PROMOTION_NONE);
	if (e != cudaSuccess) return err_set(err, MOXIE_E_DEVICE, "no tensor map for %d x %d and %d rows", d.n_out, d.n_in, a.n_row);

	const int size = c.n_split * c.in->pair, slots = p->fit[size] * c.per_kernel, n_cluster = c.n_split > 1 || c.n_tile < slots ? c.n_tile : slots;
	/* A split tile is a cluster's whole work; unsplit, CTAs walk.  Grouped: n_tile is the most there can be. */
	e = cuda_launch_untyped(c.in->kernel, true, size, dim3((unsigned)(n_cluster * size)), dim3((unsigned)c.in->n_thread),
	                        (size_t)c.in->fixed_bytes + (size_t)c.n_stage * c.in->stage_bytes, (cudaStream_t)stream, &a);
	return e == cudaSuccess ? MOXIE_OK : fail_cuda(err, e, c.in->name);
}

int moxie_fp8_gemm(const moxie_fp8_plan *p, const struct moxie_fp8_args *r, void *stream, struct moxie_err *err)
{
	const int rc = check(p, r, err);
	return rc < 0 || r->n_tok == 0 ? rc : run(p, r, choose(p, r->n_tok), stream, err);
}

int fp8_gemm_forced(const moxie_fp8_plan *p, const struct moxie_fp8_args *r, const struct fp8_force *f, void *stream, struct moxie_err *err)
{
	const int rc = check(p, r, err);
	if (rc < 0 || r->n_tok == 0) return rc;
	struct choice c = choice_of(p, f->instance, r->n_tok, f->n_split, f->per_sm);
	if (f->per_kernel) c.per_kernel = f->per_kernel, c.n_late = f->n_late;
	if (c.n_stage < MIN_STAGE || f->per_sm > p->per_sm_max[f->instance] || f->n_split > ceil_div(p->d.n_in, 128) || f->n_split > most_split(c.in) || (!c.in->prompt && most_split(c.in) % f->n_split))
		return err_set(err, MOXIE_E_UNSUPPORTED, "%s does not fit %d times on an SM", c.in->name, f->per_sm);
	return run(p, r, c, stream, err);
}

int moxie_fp8_plan_explain(const moxie_fp8_plan *p, char *text, size_t n_bytes)
{
	static const char *const mode[] = { "dense", "contiguous groups", "masked groups" };
	int len = snprintf(text, n_bytes, "fp8 block-scaled GEMM %d x %d, %d %s, device %d, %d SMs\n", p->d.n_out, p->d.n_in, p->d.n_group, mode[p->d.mode],
	                   p->device, p->n_sm);
	for (int size = 1; size <= MAX_CLUSTER; size++)
		len += snprintf(len < (int)n_bytes ? text + len : NULL, len < (int)n_bytes ? n_bytes - len : 0, "%s%d of %d%s", size == 1 ? "  clusters at once: " : ", ", p->fit[size],
		                size, size == MAX_CLUSTER ? "\n" : "");
	const int most = 512; /* further on the two prompt instances take turns, by waves */
	for (int lo = 1; lo <= most;) {
		const struct choice c = choose(p, lo);
		int hi = lo;
		while (hi < most) {
			const struct choice n = choose(p, hi + 1);
			if (n.in != c.in || n.n_split != c.n_split || n.per_sm != c.per_sm) break;
			hi++;
		}
		len += snprintf(len < (int)n_bytes ? text + len : NULL, len < (int)n_bytes ? n_bytes - len : 0,
		                "  %5d .. %-5d tokens  %-30s %d CTAs share a tile's K, %d on an SM, %d stages\n", lo, hi, c.in->name, c.n_split, c.per_sm, c.n_stage);
		lo = hi + 1;
	}
	return len;
}
