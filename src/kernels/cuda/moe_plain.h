/* moe_plain.h - the MoE ops in their plain form, for dimensions that the fast kernels do not serve, and as their check. */
#ifndef MOXIE_CUDA_MOE_PLAIN_H
#define MOXIE_CUDA_MOE_PLAIN_H

#include "cuda_ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Fills topk_id and topk_w; the other tables are not written, as the two ops below do not read them. */
int cuda_route(struct cuda_dev *d, const struct route_args *a, struct moxie_err *err);
int cuda_moe_gate_up(struct cuda_dev *d, const struct moe_gate_up_args *a, struct moxie_err *err);
int cuda_moe_down(struct cuda_dev *d, const struct moe_down_args *a, struct moxie_err *err);

#ifdef __cplusplus
}
#endif

#endif
