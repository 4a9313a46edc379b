/* gpt_oss.c - GPT-OSS 20B, 120B and any other dims: the forward pass, top to bottom.
 *
 * Source: openai/gpt-oss gpt_oss/torch/model.py; transformers models/gpt_oss.  Test: build/test_model (logits of tiny
 * checkpoints against transformers in fp32).  Bench: moxie bench.
 */
#include <math.h>
#include <stdlib.h>

#include "models/model.h"
#include "moe/moe.h"

struct layer {
	struct weight attn_norm;                 /* [n_embd] */
	struct weight wq, wk, wv, bq, bk, bv;    /* [n_head * d_head, n_embd], [n_head_kv * d_head, n_embd] x 2; biases [N] */
	struct weight sinks;                     /* [n_head] */
	struct weight wo, bo;                    /* [n_embd, n_head * d_head], [n_embd] */
	struct weight ffn_norm;                  /* [n_embd] */
	struct moe_weights moe;
};

struct model {
	struct model_config c;
	struct weight tok_embd, out_norm, lm_head; /* [n_vocab, n_embd], [n_embd], [n_vocab, n_embd] */
	struct weight inv_freq;                  /* [d_head / 2] F32 */
	float *inv_freq_host;                    /* where it was made */
	float mscale;
	struct layer layer[];                    /* [n_layer] */
};

/* YaRN: low dimensions keep their frequency, high ones are slowed by factor, with a ramp between; in double, as the
 * angles of position 131071 see every bit of the product.  GPT-OSS has truncate = false: the ramp ends are not rounded. */
static float rope_init(float *inv_freq, const struct model_config *c)
{
	const struct yarn *y = &c->yarn;
	int half = c->d_head / 2;
	double low = 0, high = 1;
	if (y->factor > 0) {
		double log_base = log((double)c->rope_theta);
		low = c->d_head * log(y->n_ctx_orig / (y->beta_fast * 2 * M_PI)) / (2 * log_base);
		high = c->d_head * log(y->n_ctx_orig / (y->beta_slow * 2 * M_PI)) / (2 * log_base);
		if (y->truncate)
			low = floor(low), high = ceil(high);
		low = fmax(low, 0);
		high = fmin(high, c->d_head - 1);
		if (low == high)
			high += 0.001; /* no division by zero; transformers does the same */
	}
	for (int i = 0; i < half; i++) {
		double f = pow((double)c->rope_theta, -2.0 * i / c->d_head);
		if (y->factor > 0) {
			double ramp = fmin(fmax((i - low) / (high - low), 0), 1);
			f = ramp * f / y->factor + (1 - ramp) * f;
		}
		inv_freq[i] = (float)f;
	}
	if (y->factor <= 0)
		return 1;
	return y->attention_factor > 0 ? y->attention_factor : y->factor > 1 ? (float)(0.1 * log((double)y->factor) + 1) : 1;
}

static struct moe_config moe_config_of(const struct model_config *c)
{
	return (struct moe_config){ ROUTE_TOPK_SOFTMAX, c->n_embd, c->n_ff, c->n_expert, c->n_expert_used, c->swiglu_alpha, c->swiglu_limit };
}

static int bind(struct model **out, const struct model_config *c, const struct safetensors *st, struct moxie_err *err)
{
	*out = NULL;
	int rc = st ? model_check_tensors(c, st, err) : 0;
	if (rc < 0)
		return rc;
	size_t n_bytes = sizeof(struct model) + (size_t)c->n_layer * sizeof(struct layer);
	struct model *m = calloc(1, n_bytes);
	float *inv_freq = calloc((size_t)c->d_head / 2, sizeof *inv_freq);
	if (!m || !inv_freq) {
		free(m);
		free(inv_freq);
		return err_nomem(err, n_bytes, "the weight table");
	}
	m->c = *c;
	m->inv_freq_host = inv_freq;
	m->inv_freq = (struct weight){ .dtype = DT_F32, .n_dim = 1, .shape = { c->d_head / 2 }, .data = inv_freq };
	m->mscale = rope_init(inv_freq, c);
	*out = m;
	if (!st)
		return 0;
	m->tok_embd = model_weight(st, "model.embed_tokens.weight");
	m->out_norm = model_weight(st, "model.norm.weight");
	m->lm_head = c->tie_embd ? m->tok_embd : model_weight(st, "lm_head.weight");
	for (int il = 0; il < c->n_layer; il++) {
		struct layer *L = &m->layer[il];
		L->attn_norm = model_weight(st, "model.layers.%d.input_layernorm.weight", il);
		L->wq = model_weight(st, "model.layers.%d.self_attn.q_proj.weight", il);
		L->bq = model_weight(st, "model.layers.%d.self_attn.q_proj.bias", il);
		L->wk = model_weight(st, "model.layers.%d.self_attn.k_proj.weight", il);
		L->bk = model_weight(st, "model.layers.%d.self_attn.k_proj.bias", il);
		L->wv = model_weight(st, "model.layers.%d.self_attn.v_proj.weight", il);
		L->bv = model_weight(st, "model.layers.%d.self_attn.v_proj.bias", il);
		L->sinks = model_weight(st, "model.layers.%d.self_attn.sinks", il);
		L->wo = model_weight(st, "model.layers.%d.self_attn.o_proj.weight", il);
		L->bo = model_weight(st, "model.layers.%d.self_attn.o_proj.bias", il);
		L->ffn_norm = model_weight(st, "model.layers.%d.post_attention_layernorm.weight", il);
		L->moe.router = model_weight(st, "model.layers.%d.mlp.router.weight", il);
		L->moe.router_b = model_weight(st, "model.layers.%d.mlp.router.bias", il);
		L->moe.gate_up = model_weight(st, "model.layers.%d.mlp.experts.gate_up_proj", il);
		L->moe.gate_up_b = model_weight(st, "model.layers.%d.mlp.experts.gate_up_proj_bias", il);
		L->moe.down = model_weight(st, "model.layers.%d.mlp.experts.down_proj", il);
		L->moe.down_b = model_weight(st, "model.layers.%d.mlp.experts.down_proj_bias", il);
	}
	return 0;
}

static int shrink_one(struct weight *w, struct kern *k, struct arena *ws, struct moxie_err *err)
{
	size_t n = (size_t)w->shape[0], n_in = (size_t)w->shape[1];
	uint8_t *code = arena_take(ws, n * n_in, 1);
	float *scl = arena_take(ws, n, sizeof *scl);
	if (!ws->base)
		return 0;
	if (!code || !scl)
		return err_set(err, MOXIE_E_NOMEM, "the %zu bytes planned for weights in FP8 are too few", ws->cap);
	k->quant_rows(k, &(struct quant_rows_args){ .code = code, .scl = scl, .w = w });
	w->dtype = DT_F8_E4M3, w->data = code, w->row_scl = scl;
	return 0;
}

static int shrink(struct model *m, struct kern *k, struct arena *ws, int n_layer, struct moxie_err *err)
{
	int rc = shrink_one(&m->lm_head, k, ws, err);
	for (int il = 0; il < (n_layer > 0 && n_layer < m->c.n_layer ? n_layer : m->c.n_layer); il++) {
		struct layer *L = &m->layer[il];
		struct weight *const w[] = { &L->wq, &L->wk, &L->wv, &L->wo };
		for (int i = 0; rc == 0 && i < 4; i++)
			rc = shrink_one(w[i], k, ws, err);
	}
	return rc;
}

static int place(struct model *m, struct kern *k, struct arena *ws, bool f8, int (*progress)(void *ud, uint64_t done), void *ud, struct moxie_err *err)
{
	const struct model_config *c = &m->c;
	const struct moe_config moe = moe_config_of(c);
	struct weight *const first[] = { &m->inv_freq, &m->tok_embd, &m->out_norm, &m->lm_head };
	int (*const place_dense)(struct kern *, struct arena *, struct weight *const *, int, struct moxie_err *) = f8 ? k->dev->place_f8 : k->dev->place;
	int rc = 0;
	for (int i = 0; rc == 0 && i < 3; i++)
		rc = k->dev->place(k, ws, &first[i], 1, err);
	if (c->tie_embd && !f8)
		m->lm_head = m->tok_embd;
	else if (rc == 0)
		rc = place_dense(k, ws, &first[3], 1, err);
	for (int il = 0; rc == 0 && il < c->n_layer; il++) {
		struct layer *L = &m->layer[il];
		struct weight *const w[] = { &L->attn_norm, &L->wq, &L->wk, &L->wv, &L->bq, &L->bk, &L->bv, &L->sinks, &L->wo, &L->bo, &L->ffn_norm };
		static const int n[] = { 1, 3, 3, 1, 1, 1, 1 }; /* wq, wk, wv are one matrix to a device, bq, bk, bv its bias */
		for (int i = 0, at = 0; rc == 0 && i < (int)(sizeof n / sizeof *n); at += n[i++])
			rc = (w[at] == &L->wq || w[at] == &L->wo ? place_dense : k->dev->place)(k, ws, w + at, n[i], err);
		if (rc == 0)
			rc = k->dev->place_moe(k, ws, &L->moe, &moe, err);
		if (rc == 0 && progress && progress(ud, ws->n))
			rc = err_set(err, MOXIE_E_CANCELLED, "cancelled after %d of %d layers", il + 1, c->n_layer);
	}
	return rc;
}

/* The qkv op of layer il on rows h. */
static struct qkv_args qkv_of(const struct model *m, const struct forward_args *a, int il, void *q, const void *h, const float *cs)
{
	const struct model_config *c = &m->c;
	const struct layer *L = &m->layer[il];
	return (struct qkv_args){ .q = q, .h = h, .eps = c->norm_eps, .wq = &L->wq, .wk = &L->wk, .wv = &L->wv, .bq = &L->bq, .bk = &L->bk, .bv = &L->bv,
		.cs = cs, .kv = &a->kv[il], .batch = a->batch, .n_embd = c->n_embd, .n_head = c->n_head, .n_head_kv = c->n_head_kv, .d_head = c->d_head };
}

static int forward(struct model *m, struct kern *k, const struct forward_args *a, struct moxie_err *err)
{
	const struct model_config *c = &m->c;
	const struct batch *b = a->batch;
	struct arena *ws = a->ws;
	int n_tok = b->n_tok, n_embd = c->n_embd, n_q = c->n_head * c->d_head;
	size_t mark = ws->n, act = (size_t)dtype_bytes(k->act), n = (size_t)n_tok;

	void *x = arena_take(ws, n * (size_t)n_embd, act);                 /* [n_tok, n_embd] residual stream */
	void *h = arena_take(ws, n * (size_t)n_embd, act);                 /* [n_tok, n_embd] normed */
	void *q = arena_take(ws, n * (size_t)n_q, act);                    /* [n_tok, n_head, d_head] */
	void *o = arena_take(ws, n * (size_t)n_q, act);                    /* [n_tok, n_head, d_head] */
	float *cs = arena_take(ws, n * (size_t)c->d_head, sizeof(float));  /* [n_tok, d_head / 2, 2] */
	const struct moe_config moe = moe_config_of(c);
	size_t need = ws->n;
	int rc = 0;
	if (!ws->base) {
		rc = moe_forward(k, &moe, &m->layer[0].moe, &m->layer[0].ffn_norm, NULL, c->norm_eps, x, h, n_tok, b->n_real, NULL, NULL, ws, err);
		goto out;
	}
	if (!x || !h || !q || !o || !cs) {
		rc = err_set(err, MOXIE_E_NOMEM, "the step arena of %zu bytes is too small for %d tokens (%zu)", ws->cap, n_tok, need);
		goto out;
	}

	k->embed(k, &(struct embed_args){ .x = x, .w = &m->tok_embd, .tok = b->tok, .n_tok = n_tok, .n_embd = n_embd });
	k->rope(k, &(struct rope_args){ .cs = cs, .pos = b->pos, .inv_freq = m->inv_freq.data, .mscale = m->mscale, .n_tok = n_tok, .n_rot = c->d_head });

	int n_layer = a->n_layer > 0 && a->n_layer < c->n_layer ? a->n_layer : c->n_layer;
	bool made = false; /* this layer's qkv, by the block before */
	bool few = n_tok >= k->norm_tok_min && n_tok <= k->norm_tok_max, all = b->n_out == n_tok; /* norms within products; every row is wanted */
	for (int il = 0; il < n_layer; il++) {
		const struct layer *L = &m->layer[il];
		if (a->cancel && atomic_load_explicit(a->cancel, memory_order_relaxed)) {
			rc = err_set(err, MOXIE_E_CANCELLED, "cancelled at layer %d of %d", il, n_layer);
			goto out;
		}
		bool fused = few && L->attn_norm.dtype == DT_BF16;
		if (il == 0 && !fused)
			k->rmsnorm(k, &(struct rmsnorm_args){ .h = h, .x = x, .w = &L->attn_norm, .eps = c->norm_eps, .n_tok = n_tok, .n_embd = n_embd });
		if (!made) {
			struct qkv_args qkv = qkv_of(m, a, il, q, fused ? x : h, cs);
			qkv.norm = fused ? &L->attn_norm : NULL;
			k->qkv(k, &qkv);
		}
		k->attn(k, &(struct attn_args){ .o = o, .q = q, .sinks = &L->sinks, .kv = &a->kv[il], .batch = b, .n_head = c->n_head,
			.n_head_kv = c->n_head_kv, .d_head = c->d_head, .window = c->sliding[il] ? c->window : 0,
			.scale = 1 / sqrtf((float)c->d_head) });
		k->gemm(k, &(struct gemm_args){ .d = x, .a = o, .w = &L->wo, .b = &L->bo, .n_tok = n_tok, .n_out = n_embd, .n_in = n_q, .add = true });

		/* The norm that comes next, unless a product makes it or it is of some rows alone. */
		bool last = il + 1 == n_layer;
		const struct weight *next = last ? &m->out_norm : &L[1].attn_norm;
		if ((few && next->dtype == DT_BF16) || (last && !all))
			next = NULL;
		const struct qkv_args qkv = qkv_of(m, a, last ? il : il + 1, q, h, cs);
		made = false;
		if ((rc = moe_forward(k, &moe, &L->moe, &L->ffn_norm, next, c->norm_eps, x, h, n_tok, b->n_real, last || !next ? NULL : &qkv, &made, ws, err)) < 0)
			goto out;
	}

	bool fused = all && few && m->out_norm.dtype == DT_BF16;
	if (!all)
		k->rmsnorm(k, &(struct rmsnorm_args){ .h = h, .x = x, .w = &m->out_norm, .row = b->out_row, .eps = c->norm_eps, .n_tok = b->n_out, .n_embd = n_embd });
	k->gemm(k, &(struct gemm_args){ .d = a->logits, .a = fused ? x : h, .norm = fused ? &m->out_norm : NULL, .eps = c->norm_eps, .w = &m->lm_head,
		.n_tok = b->n_out, .n_out = c->n_vocab, .n_in = n_embd, .d_f32 = true });
out:
	ws->n = mark;
	return rc;
}

static void model_free(struct model *m)
{
	if (m)
		free(m->inv_freq_host);
	free(m);
}

const struct model_ops model_gpt_oss = { .bind = bind, .shrink = shrink, .place = place, .forward = forward, .free = model_free };
