/* moe_pair_qkv.h - arguments of moe_pair_qkv.cuh; host and device. */
#ifndef MOXIE_MOE_PAIR_QKV_H
#define MOXIE_MOE_PAIR_QKV_H

#include "dense_rows.cuh"

#define MOE_PAIR_EMPTY 0xffffffffu /* a word that nobody has written yet: a NaN that no sum makes, in fp32 and in bf16 */

struct moe_pair_qkv {
	struct dense_out out;   /* of one token */
	struct dense_rows rows;
	const uint8_t *w;       /* [n_out, n_embd] bf16 or e4m3 */
	const uint4 *norm;      /* [n_embd] bf16 */
	float eps;
	bool f8;                /* w is e4m3 as dense_f8.cu lays it out, with out.scale */
	int n_k, row_bytes;     /* pieces along k; bytes of a row of w */
	uint32_t *x;            /* [n_embd / 2] bf16x2, scratch: what the norm is made of */
};

/* Whether moe_experts_pair.cu serves this product in n_cta CTAs; *p but x. */
bool moe_pair_qkv_plan(struct moe_pair_qkv *p, const struct dense_job *j, const void *norm, float eps, int n_cta);

#endif
