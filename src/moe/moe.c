#include "moe/moe.h"

int moe_forward(struct kern *k, const struct moe_config *c, const struct moe_weights *w, const struct weight *norm,
                const struct weight *next, float eps, void *x, void *h, int n_tok, const int32_t *n_real, const struct qkv_args *qkv, bool *qkv_made,
                struct arena *ws, struct moxie_err *err)
{
	if (qkv)
		*qkv_made = false;
	if (k->moe) {
		if (ws->base)
			k->moe(k, &(struct moe_args){ .x = x, .h = h, .norm = norm, .eps = eps, .c = c, .w = w, .n_tok = n_tok, .next = next, .n_real = n_real,
				.qkv = qkv, .qkv_made = qkv_made });
		return 0;
	}
	size_t mark = ws->n, n_pair = (size_t)n_tok * (size_t)c->n_used;
	struct moe_tables t = {
		.topk_id = arena_take(ws, n_pair, sizeof(int32_t)),
		.topk_w = arena_take(ws, n_pair, sizeof(float)),
		.expert_off = arena_take(ws, (size_t)c->n_expert + 1, sizeof(int32_t)),
		.pair = arena_take(ws, n_pair, sizeof(int32_t)),
	};
	void *act = arena_take(ws, n_pair * (size_t)c->n_ff, (size_t)dtype_bytes(k->act));
	size_t need = ws->n;
	ws->n = mark; /* ops run in order, so the next block may reuse this memory at once */
	if (!ws->base)
		return 0;
	if (!act || !t.pair || !t.expert_off || !t.topk_w || !t.topk_id)
		return err_set(err, MOXIE_E_NOMEM, "the step arena of %zu bytes is too small for %d tokens of an MoE block (%zu)", ws->cap, n_tok, need);

	k->rmsnorm(k, &(struct rmsnorm_args){ .h = h, .x = x, .w = norm, .eps = eps, .n_tok = n_tok, .n_embd = c->n_embd });
	k->route(k, &(struct route_args){ .t = t, .h = h, .w = &w->router, .b = &w->router_b, .rule = c->rule,
		.n_tok = n_tok, .n_embd = c->n_embd, .n_expert = c->n_expert, .n_used = c->n_used });
	k->moe_gate_up(k, &(struct moe_gate_up_args){ .act = act, .h = h, .w = &w->gate_up, .b = &w->gate_up_b, .t = t,
		.alpha = c->alpha, .limit = c->limit, .n_tok = n_tok, .n_used = c->n_used, .n_expert = c->n_expert,
		.n_embd = c->n_embd, .n_ff = c->n_ff });
	k->moe_down(k, &(struct moe_down_args){ .x = x, .act = act, .w = &w->down, .b = &w->down_b, .t = t, .n_tok = n_tok,
		.n_used = c->n_used, .n_expert = c->n_expert, .n_embd = c->n_embd, .n_ff = c->n_ff });
	if (next)
		k->rmsnorm(k, &(struct rmsnorm_args){ .h = h, .x = x, .w = next, .eps = eps, .n_tok = n_tok, .n_embd = c->n_embd });
	return 0;
}
