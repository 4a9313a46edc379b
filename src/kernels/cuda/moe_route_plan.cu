/* moe_route_plan.cu - moxie_route.h: checks, the choice of launches by n_tok, and the calls.
 *
 *   n_embd > 0, n_tok <= join_tok_max      one launch: router GEMM + routing + tables (moe_route_joined.cu)
 *   n_embd > 0, n_tok <= many_tok_max      the same for few experts (moe_route_joined_many.cu)
 *   n_tok <= 32 * cluster_max              router GEMM | routing + tables in one cluster (moe_route.cu); 24 * above 384 experts
 *   above                                  router GEMM | routing by chunks | tables
 * Shapes, types and errors: moxie_route.h; the rules: moe_route.cu.
 * Test: build/cuda/test_route    Bench: build/cuda/bench_route
 */
#include <limits.h>
#include <new>
#include <stdio.h>
#include <string.h>

extern "C" {
#include "base/err.h"
}
#include "moe_route.h"

constexpr int APART_TOK = 32; /* most tokens of the launch for few experts under MOXIE_ROUTER_APART */

static size_t align256(size_t n) { return (n + 255) & ~(size_t)255; }

static int cuda_failed(struct moxie_err *err, const char *what, cudaError_t rc)
{
	return err_set(err, MOXIE_E_DEVICE, "%s: %s", what, cudaGetErrorString(rc));
}

static bool power_of_two(int n) { return n > 0 && !(n & (n - 1)); }

static int check_shape(const struct moxie_router_shape *s, struct moxie_err *err)
{
	const int e_min = s->n_embd > 0 ? 8 : 1, per_lane = s->n_expert > 32 ? s->n_expert / 32 : 1;
	if (s->n_expert < e_min || s->n_expert > MOXIE_ROUTE_MAX_EXPERT)
		return err_set(err, MOXIE_E_ARG, "n_expert is %d, wanted %d..%d", s->n_expert, e_min, MOXIE_ROUTE_MAX_EXPERT);
	if (s->n_used < 1 || s->n_used > MOXIE_ROUTE_MAX_USED || s->n_used > s->n_expert)
		return err_set(err, MOXIE_E_ARG, "n_used is %d, wanted 1..%d and at most n_expert = %d", s->n_used, MOXIE_ROUTE_MAX_USED, s->n_expert);
	if (s->score < MOXIE_SCORE_SOFTMAX || s->score > MOXIE_SCORE_GIVEN)
		return err_set(err, MOXIE_E_ARG, "score is %d, wanted 0..3", s->score);
	if (s->logit_dtype < MOXIE_LOGIT_F32 || s->logit_dtype > MOXIE_LOGIT_F16)
		return err_set(err, MOXIE_E_ARG, "logit_dtype is %d, wanted 0..2", s->logit_dtype);
	if (s->bias_dtype != MOXIE_LOGIT_F32 && s->bias_dtype != MOXIE_LOGIT_BF16)
		return err_set(err, MOXIE_E_ARG, "bias_dtype is %d, wanted 0 or 1", s->bias_dtype);
	if (s->n_embd < 0 || s->n_embd % 64)
		return err_set(err, MOXIE_E_SHAPE, "n_embd is %d, wanted a multiple of 64", s->n_embd);
	if (s->n_embd > 0 && s->score == MOXIE_SCORE_GIVEN)
		return err_set(err, MOXIE_E_ARG, "n_embd is %d, but given ids need no router GEMM: 0", s->n_embd);
	if (s->n_tok_max < 1 || (int64_t)s->n_tok_max * s->n_used >= INT32_MAX)
		return err_set(err, MOXIE_E_ARG, "n_tok_max is %d with n_used %d, wanted 1.. and fewer than 2^31 pairs", s->n_tok_max, s->n_used);
	if (s->expert_first < 0 || s->n_expert_here < 0 || s->expert_first + s->n_expert_here > s->n_expert || (s->expert_first && !s->n_expert_here))
		return err_set(err, MOXIE_E_ARG, "experts [%d, %d + %d) are not inside [0, %d)", s->expert_first, s->expert_first, s->n_expert_here,
		               s->n_expert);
	if (s->n_group < 0 || s->n_group > 32)
		return err_set(err, MOXIE_E_ARG, "n_group is %d, wanted 0..32", s->n_group);
	if (s->n_group > 1) {
		const int size = s->n_expert / s->n_group;
		if (!power_of_two(s->n_group) || !power_of_two(s->n_expert) || size < 2 || size < per_lane)
			return err_set(err, MOXIE_E_SHAPE, "%d experts in %d groups: both must be powers of two, groups of 2 or more", s->n_expert, s->n_group);
		if (s->n_group_used < 1 || s->n_group_used > s->n_group || s->n_group_used * size < s->n_used)
			return err_set(err, MOXIE_E_ARG, "n_group_used is %d of %d groups of %d experts, n_used %d", s->n_group_used, s->n_group, size,
			               s->n_used);
		if (s->score == MOXIE_SCORE_GIVEN)
			return err_set(err, MOXIE_E_ARG, "given ids have no groups, n_group is %d", s->n_group);
	}
	return MOXIE_OK;
}

static int choose(struct moxie_router_plan *p, struct moxie_err *err)
{
	if (p->device < 0) { /* sizes alone, as on an H200: the most that the library may want */
		p->n_sm = 132;
		p->cluster_max = 16;
		p->ws_lib_bytes = ROUTER_LIB_WS_MAX;
		return MOXIE_OK;
	}
	int major = 0, smem = 0;
	cudaError_t rc = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, p->device);
	if (!rc)
		rc = cudaDeviceGetAttribute(&p->n_sm, cudaDevAttrMultiProcessorCount, p->device);
	if (!rc)
		rc = cudaDeviceGetAttribute(&smem, cudaDevAttrMaxSharedMemoryPerBlockOptin, p->device);
	if (rc)
		return cuda_failed(err, "device limits", rc);
	if (major < 8)
		return err_set(err, MOXIE_E_UNSUPPORTED, "routing needs compute capability 8.0 or later, device %d is %d.x", p->device, major);
	p->portable = (p->s.flags & MOXIE_ROUTER_PORTABLE) || major != 9;
	p->pdl = major >= 9 && !(p->s.flags & MOXIE_ROUTER_NO_PDL);
	if (p->portable) {
		if ((rc = route_set_attributes(false)) || (rc = router_gemm_set_attributes(false)))
			return cuda_failed(err, "kernel attributes", rc);
	} else if ((rc = route_set_attributes(true)) || (rc = route_joined_set_attributes(smem - 8192)) || (rc = route_many_set_attributes()) || (rc = router_gemm_set_attributes(true)))
		return cuda_failed(err, "kernel attributes", rc);
	const bool wide = !p->portable && route_joined_max_clusters() > 0;
	p->cluster_max = p->portable ? 1 : wide ? 16 : 8;
	p->join_tok_max = wide && p->s.n_embd > 0 && !(p->s.flags & MOXIE_ROUTER_NO_JOIN) ? route_join_limit(p->s.n_expert, p->s.n_embd) : 0;
	p->many_tok_max = p->join_tok_max ? route_many_limit(&p->s) : 0;
	if (p->s.flags & MOXIE_ROUTER_APART && p->many_tok_max > APART_TOK)
		p->many_tok_max = APART_TOK;
	/* Measured (docs/routing.md): the own kernel wins up to 16 tokens, and while its tiles of 16 experts x 32 tokens times
	 * their K stay below 160,000. */
	const int groups = p->s.n_embd > 0 ? 160000 / p->s.n_embd / ((p->s.n_expert + 15) / 16) : 0;
	p->lib_tok_min = (groups ? 32 * groups : 16) + 1;
	if (p->s.n_embd > 0 && p->s.n_tok_max >= p->lib_tok_min && !(p->s.flags & MOXIE_ROUTER_NO_LIB))
		p->lib = router_lib_create(p->lib_tok_min, p->s.n_tok_max, p->s.n_expert, p->s.n_embd, p->s.bias_dtype, &p->ws_lib_bytes);
	return MOXIE_OK;
}

extern "C" int moxie_router_plan_create(struct moxie_router_plan **out, const struct moxie_router_shape *shape, int device, struct moxie_err *err)
{
	*out = NULL;
	int rc = check_shape(shape, err), before = 0;
	if (rc)
		return rc;
	struct moxie_router_plan *p = new (std::nothrow) moxie_router_plan();
	if (!p)
		return err_nomem(err, sizeof *p, "a routing plan");
	p->s = *shape;
	p->device = device;
	if (!p->s.n_expert_here)
		p->s.n_expert_here = p->s.n_expert;
	if (p->s.scale == 0.f)
		p->s.scale = 1.f;
	if (p->s.n_group < 1)
		p->s.n_group = 1;
	cudaError_t ce = device >= 0 ? cudaGetDevice(&before) : cudaSuccess;
	if (!ce && device >= 0)
		ce = cudaSetDevice(device);
	if (ce) {
		delete p;
		return cuda_failed(err, "device", ce);
	}
	rc = choose(p, err);
	if (device >= 0)
		cudaSetDevice(before);
	if (rc) {
		delete p;
		return rc;
	}
	int chunk, n_chunk;
	route_chunks(p->s.n_tok_max, p->portable ? ROUTE_CHUNK_PORTABLE : ROUTE_CHUNK_MAX, &chunk, &n_chunk);
	p->ws_lib = align256(p->s.n_embd > 0 ? (size_t)p->s.n_tok_max * p->s.n_expert * 4 : 0);
	p->ws_hist = p->ws_lib + align256(p->ws_lib_bytes);
	/* fewer tokens can mean smaller, but never more than 128, chunks */
	p->ws_rank = p->ws_hist + align256((size_t)(n_chunk < 128 ? 128 : n_chunk) * ((p->s.n_expert_here + 1) / 2 * 2) * 2);
	p->ws_bytes = p->ws_rank + align256((size_t)p->s.n_tok_max * p->s.n_used * 2);
	*out = p;
	return MOXIE_OK;
}

extern "C" void moxie_router_plan_free(struct moxie_router_plan *plan)
{
	if (plan)
		router_lib_free(plan->lib);
	delete plan;
}

/* The logits by the library from lib_tok_min tokens on, else by our own kernel. */
static cudaError_t make_logits(const struct moxie_router_plan *plan, const void *x, const void *w, const void *b, float *logits, int n_tok,
                               const struct router_norm *norm, void *ws, cudaStream_t stream)
{
	if (!norm && plan->lib && n_tok >= plan->lib_tok_min &&
	    router_lib_run(plan->lib, x, w, b, logits, n_tok, static_cast<char *>(ws) + plan->ws_lib, plan->ws_lib_bytes, stream))
		return cudaSuccess;
	return router_gemm_launch(x, w, b, plan->s.bias_dtype, logits, n_tok, plan->s.n_expert, plan->s.n_embd, plan->portable ? 0 : plan->n_sm, norm,
	                          stream, plan->pdl);
}

extern "C" size_t moxie_router_ws_bytes(const struct moxie_router_plan *plan) { return plan->ws_bytes; }

extern "C" int64_t moxie_router_n_tile_max(const struct moxie_router_plan *plan, int32_t n_tok, int32_t tile_n)
{
	return moe_max_tiles(n_tok, plan->s.n_used, plan->s.n_expert_here, tile_n);
}

static int cluster_tok_max(const struct moxie_router_plan *plan) { return route_cluster_tok(plan->s.n_expert) * plan->cluster_max; }

extern "C" int route_cluster_size(const struct moxie_router_plan *plan, int n_tok)
{
	/* Measured: a cluster of 16 costs 0.2 us more than one of 8, which pays where experts are scored or tokens are many. */
	const bool scored = plan->s.score == MOXIE_SCORE_SIGMOID || plan->s.score == MOXIE_SCORE_SQRTSOFTPLUS;
	int n = 1; /* up to 4 tokens, unscored: one CTA, without the price of a cluster */
	while (n_tok > (scored ? 1 : 4) && n < n_tok && n < (n_tok <= 128 && !scored ? 8 : 16))
		n *= 2;
	if (n_tok > cluster_tok_max(plan))
		return 0;
	return n < plan->cluster_max ? n : plan->cluster_max;
}

extern "C" void moxie_router_explain(const struct moxie_router_plan *plan, char *text, size_t n_bytes)
{
	const struct moxie_router_shape *s = &plan->s;
	char gemm[200] = "", lib[64] = "cuBLASLt not used";
	if (plan->lib)
		snprintf(lib, sizeof lib, "from %d tokens on cuBLASLt", plan->lib_tok_min);
	if (s->n_embd > 0)
		snprintf(gemm, sizeof gemm, "router GEMM %d x %d (own, 16 experts x 8..32 tokens x K/8..K per CTA; %s), then ", s->n_expert, s->n_embd, lib);
	size_t n = 0;
	const int joined = plan->join_tok_max > plan->many_tok_max ? plan->join_tok_max : plan->many_tok_max;
	if (joined && n < n_bytes)
		n += (size_t)snprintf(text + n, n_bytes - n, "tokens 0..%d: one launch, router GEMM + routing + tables, a cluster of %d\n", joined,
		                      ROUTE_JOIN_CTAS);
	if (n < n_bytes)
		n += (size_t)snprintf(text + n, n_bytes - n, "tokens %d..%d: %sone launch, routing + tables, a cluster of up to %d\n",
		                      joined ? joined + 1 : 0, cluster_tok_max(plan), gemm, plan->cluster_max);
	if (n < n_bytes && s->n_tok_max > cluster_tok_max(plan))
		snprintf(text + n, n_bytes - n, "tokens %d..%d: %stwo launches, routing by chunks | tables\n",
		         cluster_tok_max(plan) + 1, s->n_tok_max, gemm);
}

static int check_args(const struct moxie_router_plan *plan, const struct moxie_router_args *a, struct moxie_err *err)
{
	const struct moxie_router_shape *s = &plan->s;
	const bool given = s->score == MOXIE_SCORE_GIVEN;
	const struct {
		const char *name;
		const void *p;
		bool needed;
		int align;
	} ptr[] = {
		{ "x", a->x, s->n_embd > 0, 16 }, { "w_router", a->w_router, s->n_embd > 0, 16 },
		{ "logits", a->logits, s->n_embd == 0 && !given, 16 }, { "topk_id_in", a->topk_id_in, given, 4 },
		{ "tok_id", a->tok_id, a->hash_table != NULL, 4 }, { "topk_id", a->topk_id, true, 4 }, { "topk_w", a->topk_w, !given, 4 },
		{ "expert_off", a->expert_off, true, 4 }, { "sorted_pair", a->sorted_pair, true, 4 }, { "head", a->head, a->tiles != NULL, 16 },
		{ "norm", a->norm, false, 16 }, { "h", a->h, a->norm != NULL, 16 }, { "tiles", a->tiles, false, 16 }, { "logits_out", a->logits_out, false, 16 }, { "ws", a->ws, true, 16 },
	};
	if (a->n_tok < 0 || a->n_tok > s->n_tok_max)
		return err_set(err, MOXIE_E_ARG, "n_tok is %d, the plan is for 0..%d", a->n_tok, s->n_tok_max);
	for (const auto &q : ptr) {
		/* x, logits and the like may be null without a token to read */
		if (q.needed && !q.p && (a->n_tok > 0 || q.p == a->expert_off))
			return err_set(err, MOXIE_E_ARG, "%s is NULL", q.name);
		if ((uintptr_t)q.p % q.align)
			return err_set(err, MOXIE_E_ARG, "%s is %p, not aligned to %d bytes", q.name, q.p, q.align);
	}
	if (a->norm && a->n_tok > moxie_router_norm_max(plan))
		return err_set(err, MOXIE_E_ARG, "rows before their norm: %d, wanted at most %d", a->n_tok, moxie_router_norm_max(plan));
	if (a->tiles && (a->tile_n < 8 || a->tile_n % 8))
		return err_set(err, MOXIE_E_ARG, "tile_n is %d, wanted a multiple of 8", a->tile_n);
	if (a->hash_table && (s->score == MOXIE_SCORE_SOFTMAX || given))
		return err_set(err, MOXIE_E_ARG, "a hash table goes with SIGMOID or SQRTSOFTPLUS, score is %d", s->score);
	if (a->select_bias && (s->score == MOXIE_SCORE_SOFTMAX || given))
		return err_set(err, MOXIE_E_ARG, "select_bias goes with SIGMOID or SQRTSOFTPLUS, score is %d", s->score);
	return MOXIE_OK;
}

extern "C" int32_t moxie_router_norm_max(const struct moxie_router_plan *plan)
{
	return plan->portable || plan->s.n_embd <= 0 || plan->s.n_embd > ROUTER_NORM_EMBD_MAX ? 0 : plan->lib ? plan->lib_tok_min - 1 : plan->s.n_tok_max;
}

static struct route_param param_of(const struct moxie_router_plan *plan, const struct moxie_router_args *a)
{
	const struct moxie_router_shape *s = &plan->s;
	char *ws = static_cast<char *>(a->ws);
	struct route_param p = {};
	p.n_tok = a->n_tok, p.n_expert = s->n_expert, p.n_used = s->n_used, p.score = s->score, p.renormalise = s->renormalise;
	p.n_group = s->n_group, p.n_group_used = s->n_group_used, p.bias_dtype = s->bias_dtype;
	p.logit_dtype = s->n_embd > 0 ? (int)MOXIE_LOGIT_F32 : s->logit_dtype;
	p.tile_n = a->tiles ? a->tile_n : 8, p.tile_shift = power_of_two(p.tile_n) ? __builtin_ctz(p.tile_n) : -1;
	p.expert_first = s->expert_first, p.n_expert_here = s->n_expert_here, p.n_vocab = a->n_vocab, p.scale = s->scale;
	p.logits = a->logits, p.select_bias = a->select_bias, p.expert_scale = a->expert_scale, p.hash_table = a->hash_table;
	p.tok_id = a->tok_id, p.n_tok_real = a->n_tok_real, p.topk_id_in = a->topk_id_in, p.topk_w_in = a->topk_w_in;
	p.topk_id = a->topk_id, p.topk_w = a->topk_w, p.expert_off = a->expert_off, p.sorted_pair = a->sorted_pair;
	p.tiles = static_cast<struct moe_tile *>(a->tiles), p.head = static_cast<struct moe_head *>(a->head), p.tok_done = a->tok_done;
	p.chunk = plan->portable ? ROUTE_CHUNK_PORTABLE : ROUTE_CHUNK_MAX;
	p.n_embd = s->n_embd, p.x = a->x, p.w_router = a->w_router, p.b_router = a->b_router, p.logits_out = a->logits_out;
	p.norm = a->norm, p.h = a->h, p.eps = a->eps;
	p.hist = reinterpret_cast<uint16_t *>(ws + plan->ws_hist), p.rank = reinterpret_cast<uint16_t *>(ws + plan->ws_rank);
	return p;
}

extern "C" int moxie_router_run(const struct moxie_router_plan *plan, const struct moxie_router_args *a, void *stream_, struct moxie_err *err)
{
	const cudaStream_t stream = static_cast<cudaStream_t>(stream_);
	const bool pdl = plan->pdl;
	int bad = check_args(plan, a, err);
	if (bad)
		return bad;
	struct route_param p = param_of(plan, a);
	if (p.n_embd > 0 && plan->join_tok_max && p.n_tok <= plan->join_tok_max) {
		cudaError_t rc = route_launch_joined(&p, stream, pdl);
		return rc ? cuda_failed(err, "joined routing", rc) : MOXIE_OK;
	}
	if (p.n_embd > 0 && plan->many_tok_max && p.n_tok <= plan->many_tok_max && !p.hash_table) {
		cudaError_t rc = route_launch_many(&p, stream, pdl);
		return rc ? cuda_failed(err, "joined routing of many tokens", rc) : MOXIE_OK;
	}
	if (p.n_embd > 0) {
		const struct router_norm norm = { a->norm, a->h, a->eps };
		float *logits = a->logits_out ? a->logits_out : static_cast<float *>(a->ws);
		cudaError_t rc = make_logits(plan, p.x, p.w_router, p.b_router, logits, p.n_tok, a->norm ? &norm : NULL, a->ws, stream);
		if (rc)
			return cuda_failed(err, "router GEMM", rc);
		p.logits = logits;
	}
	const int n_cta = route_cluster_size(plan, p.n_tok);
	cudaError_t rc = n_cta ? route_launch_cluster(&p, n_cta, stream, pdl) : route_launch_chunks(&p, stream, pdl);
	return rc ? cuda_failed(err, "routing", rc) : MOXIE_OK;
}

extern "C" int moxie_router_gemm_run(const struct moxie_router_plan *plan, const void *x, const void *w, const void *b, float *logits,
                                     int32_t n_tok, void *ws, void *stream, struct moxie_err *err)
{
	if (n_tok < 0 || n_tok > plan->s.n_tok_max || plan->s.n_embd <= 0)
		return err_set(err, MOXIE_E_ARG, "n_tok is %d, the plan is for 0..%d tokens of %d", n_tok, plan->s.n_tok_max, plan->s.n_embd);
	if (((uintptr_t)x | (uintptr_t)w) % 16 || (uintptr_t)logits % 4)
		return err_set(err, MOXIE_E_ARG, "x %p and w %p must be aligned to 16 bytes, logits %p to 4", x, w, (void *)logits);
	cudaError_t rc = make_logits(plan, x, w, b, logits, n_tok, NULL, ws, static_cast<cudaStream_t>(stream));
	return rc ? cuda_failed(err, "router GEMM", rc) : MOXIE_OK;
}
