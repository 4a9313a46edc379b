/* ref.h - the plain C ops: the truth that every other kernel is measured against.
 *
 * fp32 throughout, activations are not rounded, no fast-math and no contraction.  A long sum runs in 16 lanes, lane i taking
 * elements i, i + 16, ..., and the lanes are added pairwise: a fixed order, and an error that stays near 1e-7 at K = 2880.
 * The only parallelism is over independent outputs, so the thread count cannot change a bit.
 */
#ifndef MOXIE_CPU_REF_H
#define MOXIE_CPU_REF_H

#include "kernels/kernels.h"

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF /* gcc does not contract in ISO C mode and warns about the pragma */
#endif

#define REF_LANE 16

static inline float ref_lane_sum(float *s)
{
	for (int n = REF_LANE / 2; n; n /= 2)
		for (int i = 0; i < n; i++)
			s[i] += s[i + n];
	return s[0];
}

/* Element i of a BF16 or F32 tensor. */
static inline float weight_at(const struct weight *w, int64_t i)
{
	return w->dtype == DT_F32 ? ((const float *)w->data)[i] : bf16_to_f32(((const bf16 *)w->data)[i]);
}

/* Element i of a bias that may be missing. */
static inline float bias_at(const struct weight *b, int64_t i)
{
	return b ? weight_at(b, i) : 0;
}

/* Where row `row` (token) of position pos of sequence seq, KV head ih, lies in kv->k and kv->v, in elements. */
static inline int64_t kv_row(const struct kv_view *kv, int seq, int pos, int ih, int n_head_kv, int d_head)
{
	int i = pos / KV_PAGE;
	if (kv->ring)
		i %= kv->n_page_seq;
	int64_t page = kv->page[(int64_t)seq * kv->n_page_seq + i];
	return ((page * n_head_kv + ih) * KV_PAGE + pos % KV_PAGE) * d_head;
}

/* Element i of a cache. */
static inline float kv_at(const struct kv_view *kv, const void *base, int64_t i)
{
	return kv->dtype == DT_F32 ? ((const float *)base)[i] : kv->dtype == DT_BF16 ? bf16_to_f32(((const bf16 *)base)[i])
	                                                                            : e4m3_to_f32(((const uint8_t *)base)[i]);
}

/* First key that position pos sees. */
static inline int attn_first_key(int pos, int window)
{
	return window > 0 && pos >= window ? pos - window + 1 : 0;
}

/* a . (row `row` of w), w taken as [rows, n_in] of BF16, F32, F8_E4M3 or MXFP4. */
float ref_row_dot(const float *a, const struct weight *w, int64_t row, int n_in);

/* The n_used best of n logits into id and weight, by the rule of route_args. */
void ref_topk_softmax(const float *logit, int n, int n_used, int32_t *id, float *weight);

/* expert_off and pair from topk_id. */
void ref_route_tables(const struct moe_tables *t, int n_tok, int n_expert, int n_used);

void ref_embed(struct kern *k, const struct embed_args *a);
void ref_rmsnorm(struct kern *k, const struct rmsnorm_args *a);
void ref_gemm(struct kern *k, const struct gemm_args *a);
void ref_rope(struct kern *k, const struct rope_args *a);
void ref_quant_rows(struct kern *k, const struct quant_rows_args *a);
void ref_qkv(struct kern *k, const struct qkv_args *a);
void ref_attn(struct kern *k, const struct attn_args *a);
void ref_route(struct kern *k, const struct route_args *a);
void ref_moe_gate_up(struct kern *k, const struct moe_gate_up_args *a);
void ref_moe_down(struct kern *k, const struct moe_down_args *a);

/* What qkv does after the three products, for token t: ropes its q in place, ropes key (in place) and stores key and val
 * in the cache.  key, val: [n_head_kv, d_head]. */
void ref_rope_store(const struct qkv_args *a, int t, float *key, const float *val);

#endif
