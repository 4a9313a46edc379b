/* sample.h - the next token from logits, on the device: what src/engine/sampler.c does for one session, for every row of a batch.
 *
 * Order as there: penalties, temperature, top-k, top-p over what is left, min-p against the best, one draw.  Ties: lowest id.  A NaN
 * logit counts as -inf.  Greedy (temperature 0, or a best logit that is not finite) gives the same id always; a draw gives the same
 * id but where it falls within 1e-8 of a border between two tokens, since probabilities are summed here in fixed point (2^-44 of the
 * best token's), so that no order of threads can change a sum.  Test: build/cuda/test_sample
 */
#ifndef MOXIE_CUDA_SAMPLE_H
#define MOXIE_CUDA_SAMPLE_H

#include "kernels/cuda/cuda.h"

#define SAMPLE_TOP_MAX 20          /* most log-probabilities a row may ask for beside its own */
#define SAMPLE_VOCAB_MAX (1 << 19) /* sums of 2^44 stay below 2^63 */

/* What one row asks for: moxie_sampling's fields, as sampler_check() passed them, and what the row is.  Device memory, read by the
 * kernel, so a captured graph takes whatever lies there when it is replayed. */
struct sample_row {
	uint64_t seed, n;  /* the draw is a function of these two and the logits; n: tokens of the timeline so far */
	float temperature; /* 0: the most likely token, lowest id among equals */
	float top_p;       /* 0 or 1: off */
	float min_p;       /* 0: off */
	float repetition_penalty; /* 0 or 1: off */
	float presence_penalty, frequency_penalty;
	int32_t top_k;     /* 0: off */
	int32_t n_top;     /* log-probabilities wanted beside the picked token's, 0 .. SAMPLE_TOP_MAX; -1: none at all */
	int32_t hist;      /* row of sample_args.hist, or -1: no penalties */
	int32_t append;    /* 1: the pick is counted in hist and n grows by one, ready for the next replay */
};

/* Why counts and not lists of tokens: a penalty is then one read beside each logit, whatever the length of the timeline, and the
 * kernel itself can add its pick.  A word: times generated in bits 0-30 (taken as 65535 beyond, as on the CPU), seen at all in bit 31.
 * No two rows of a call share a row of hist. */
#define SAMPLE_SEEN (1u << 31)

struct sample_args {
	int32_t *id;            /* [n_row] out */
	const float *logits;    /* [n_row, n_vocab] fp32, not changed; rows 16-byte aligned are read fastest */
	struct sample_row *row; /* [n_row], or NULL: greedy, and nothing below is used */
	uint32_t *hist;         /* [n_hist, n_vocab], or NULL: no row has penalties */
	float *logprob;         /* [n_row] out: ln p of the pick under the logits as given (no penalties, temperature 1), or NULL: none wanted */
	int32_t *top_id;        /* [n_row, SAMPLE_TOP_MAX] out: the n_top most likely by falling probability, ties lowest id first */
	float *top_logprob;     /* the same shape */
	int n_row, n_vocab;     /* n_row = 0 is a no-op */
};

struct sample_history_args {
	uint32_t *hist;     /* [n_vocab]: one row of sample_args.hist, out */
	const int32_t *tok; /* [n] device: the timeline */
	int n, n_out;       /* the last n_out of them were generated */
	int n_vocab;
};

#ifdef __cplusplus
extern "C" {
#endif

/* Takes no scratch; any number of rows, one launch.  Where the best logit is not finite the pick has log-probability 0 and all
 * others -inf.  MOXIE_E_SHAPE: n_vocab beyond what the shared memory of a cluster holds; nothing was enqueued. */
int cuda_sample(struct cuda_dev *d, const struct sample_args *a, struct moxie_err *err);

/* Forgets hist and counts a timeline anew: when a request with penalties begins, or was rewound. */
int cuda_sample_history(struct cuda_dev *d, const struct sample_history_args *a, struct moxie_err *err);

#ifdef __cplusplus
}
#endif

#endif
