/* sample.h - the next token from logits, on the device: what src/engine/sampler.c does for one session, for every row of a batch.
 *
 * Order as there: bias, penalties, temperature, top-k, top-p over what is left, min-p against the best, one draw.  Ties: lowest id.  A NaN
 * logit counts as -inf.  Greedy (temperature 0, or a best logit that is not finite) gives the same id always; a draw gives the same
 * id but where it falls within 1e-8 of a border between two tokens, since probabilities are summed here in fixed point (2^-44 of the
 * best token's), so that no order of threads can change a sum.  Test: build/cuda/test_sample
 */
#ifndef MOXIE_CUDA_SAMPLE_H
#define MOXIE_CUDA_SAMPLE_H

#include "kernels/cuda/cuda_ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Any number of rows; one launch, without scratch, but on portable devices (sample_portable.cu: scratch for a copy of at least one row).
 * Where the best logit is not finite the pick has log-probability 0 and all others -inf.  MOXIE_E_SHAPE: n_vocab beyond what the shared
 * memory of a cluster holds; nothing was enqueued. */
int cuda_sample(struct cuda_dev *d, const struct sample_args *a, struct moxie_err *err);

size_t cuda_sample_scratch(const struct cuda_dev *d, const struct kern_limits *lim);

int cuda_sample_history(struct cuda_dev *d, const struct sample_history_args *a, struct moxie_err *err);

#ifdef __cplusplus
}
int sample_portable(struct cuda_dev *d, const struct sample_args *a, struct moxie_err *err);
#endif

#endif
