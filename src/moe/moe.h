/* moe.h - one MoE FFN block behind one call. */
#ifndef MOXIE_MOE_H
#define MOXIE_MOE_H

#include "base/arena.h"
#include "kernels/kernels.h"

/* moe_forward - norm, route, gate/up, down, combine.  x += moe(rmsnorm(x)); then, where next is not NULL, h = rmsnorm(x) by next.
 *
 *   x   [n_tok, n_embd] act, in/out: residual stream
 *   h   [n_tok, n_embd] act: scratch for normed x, in the end as next has it; must not alias x
 *   n_real  or NULL: rows from *n_real on are padding; k->moe gives them no expert, without it they are rows like others
 *   qkv     or NULL: the qkv op to come, which k->moe may make as well; *qkv_made says whether it did, see struct moe_args
 *   ws  step arena; what is taken is given back before the return.  Dry arena: nothing is computed, only counted.
 *
 * Returns 0, or MOXIE_E_NOMEM when ws is too small: nothing was enqueued.   Test: build/test_model moe
 */
int moe_forward(struct kern *k, const struct moe_config *c, const struct moe_weights *w, const struct weight *norm,
                const struct weight *next, float eps, void *x, void *h, int n_tok, const int32_t *n_real, const struct qkv_args *qkv, bool *qkv_made,
                struct arena *ws, struct moxie_err *err);

#endif
