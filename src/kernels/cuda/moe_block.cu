/* moe_block.cu - the moe op: RMSNorm, which the router makes where it multiplies itself, router GEMM, top-k and tables by
 * moxie_router_run, experts and residual by moxie_moe_run.
 *
 *   x  [n_tok, n_embd] bf16, in and out: x += experts of rmsnorm(x); the combine reads the residual where it writes the sum, and makes
 *      the next norm of it
 *
 * Test: build/test_cuda_ops moe_packed, build/test_model golden_cuda    Bench: build/cuda/bench_moe
 */
#include "backend.h"
#include "dense.h"
#include "moe_experts.h"

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

/* Dimensions that routing and experts serve; others run by the plain ops (moe_plain.cu). */
static bool served(const struct kern_limits *l)
{
	return l->n_embd % 64 == 0 && l->n_ff % 64 == 0 && l->n_ff > 0 && l->n_expert >= 8 && l->n_expert <= MOXIE_ROUTE_MAX_EXPERT &&
	       l->n_used >= 1 && l->n_used <= MOXIE_ROUTE_MAX_USED;
}

int cuda_moe_init(struct cuda *c, struct moxie_err *err)
{
	const struct kern_limits *l = &c->lim;
	if (!served(l))
		return 0;
	struct moxie_moe_desc d = {};
	d.n_expert = l->n_expert, d.n_used = l->n_used, d.n_embd = l->n_embd, d.n_ff = l->n_ff, d.max_tok = l->n_tok;
	d.act = MOXIE_ACT_SWIGLU_CLAMP, d.alpha = l->alpha, d.beta = 1, d.limit = l->limit;
	d.portable = c->dev.portable, d.smem_limit = (int)c->dev.shared_per_block;
	int rc = moxie_moe_plan_create(&c->experts, &d, c->dev.id, err);
	if (rc < 0)
		return rc;
	struct moxie_router_shape s = {};
	s.n_expert = l->n_expert, s.n_used = l->n_used, s.n_embd = l->n_embd, s.n_tok_max = l->n_tok;
	s.score = MOXIE_SCORE_SOFTMAX, s.renormalise = 1, s.bias_dtype = MOXIE_LOGIT_BF16;
	s.flags = c->dev.portable ? MOXIE_ROUTER_PORTABLE : MOXIE_ROUTER_APART; /* attention's output product comes before */
	if ((rc = moxie_router_plan_create(&c->router, &s, c->dev.id, err)) < 0)
		return rc;
	size_t tables = 0, ws = 0;
	for (int t = 1; t <= l->n_tok; t++) {
		tables = larger(tables, moxie_moe_tables_bytes(t, l->n_used, l->n_expert, moxie_moe_plan_tile_n(c->experts, t)));
		ws = larger(ws, moxie_moe_plan_workspace_bytes(c->experts, t));
	}
	const size_t router_ws = larger(256, moxie_router_ws_bytes(c->router));
	c->kern.scratch_bytes += cuda_block_bytes(tables) + cuda_block_bytes(ws) + cuda_block_bytes(router_ws);
	if (l->plan_only)
		return 0;
	cudaError_t e = cuda_take(c, &c->tables, tables);
	if (e == cudaSuccess) e = cuda_take(c, &c->moe_ws, ws);
	if (e == cudaSuccess) e = cuda_take(c, &c->router_ws, router_ws);
	return e == cudaSuccess ? 0 : err_set(err, MOXIE_E_NOMEM, "%zu bytes for the experts of %d tokens: %s", ws, l->n_tok, cudaGetErrorString(e));
}

void cuda_moe_free(struct cuda *c)
{
	moxie_moe_plan_free(c->experts);
	moxie_router_plan_free(c->router);
	cudaFree(c->tables);
	cudaFree(c->moe_ws);
	cudaFree(c->router_ws);
}

void cuda_moe_run(struct kern *k, const struct moe_args *a)
{
	struct cuda *c = cuda_of(k);
	const int n_tok = a->n_tok, tile_n = n_tok > 0 ? moxie_moe_plan_tile_n(c->experts, n_tok) : 0;
	struct moxie_err err;
	struct moxie_moe_tables t;
	if (n_tok <= 0)
		return;
	moxie_moe_tables_cut(&t, c->tables, n_tok, a->c->n_used, a->c->n_expert, tile_n);

	struct moxie_router_args r = {};
	r.n_tok = n_tok, r.tile_n = tile_n, r.n_tok_real = a->n_real;
	const bool normed = n_tok <= moxie_router_norm_max(c->router) && a->norm->dtype == DT_BF16;
	if (normed) {
		r.norm = a->norm->data, r.h = a->h, r.eps = a->eps;
	} else {
		const struct rmsnorm_args n = { a->h, a->x, a->norm, NULL, a->eps, n_tok, a->c->n_embd };
		cuda_note(c, cuda_rmsnorm(&c->dev, &n, &err), &err);
	}
	r.x = normed ? a->x : a->h, r.w_router = a->w->router.data, r.b_router = a->w->router_b.data;
	r.topk_id = t.topk_id, r.topk_w = t.topk_w, r.expert_off = t.expert_off, r.sorted_pair = t.sorted_pair;
	r.tiles = t.tiles, r.head = t.head, r.tok_done = t.tok_done, r.ws = c->router_ws;
	cuda_note(c, moxie_router_run(c->router, &r, c->dev.stream, &err), &err);

	struct moxie_moe_args m = {};
	m.x = a->h, m.w = (const struct moxie_moe_weights *)a->w->packed, m.t = &t, m.residual = a->x, m.out = a->x;
	m.workspace = c->moe_ws, m.n_tok = n_tok;
	struct dense_job job;
	const bool vector = a->next && a->next->dtype == DT_BF16;
	const bool qkv = vector && a->qkv && a->qkv->h == a->h && dense_qkv_job(&job, a->qkv, &err) == 0 && moe_serves_qkv(c->experts, n_tok, &job);
	const bool joined = qkv || (vector && n_tok > 1 && a->c->n_embd <= MOE_NEXT_EMBD);
	const struct moe_next next = { a->next ? a->next->data : NULL, a->h, a->eps, qkv ? &job : NULL };
	if (a->qkv)
		*a->qkv_made = qkv;
	cuda_note(c, moe_run_next(c->experts, &m, joined ? &next : NULL, c->dev.stream, &err), &err);
	if (a->next && !joined) {
		const struct rmsnorm_args n = { a->h, a->x, a->next, NULL, a->eps, n_tok, a->c->n_embd };
		cuda_note(c, cuda_rmsnorm(&c->dev, &n, &err), &err);
	}
}
