/* moxie_fp8.h - FP8 block-scaled GEMM as a C interface: raw device pointers and a stream, no CUDA types.  Part of moxie_ops.h.
 *
 *   out[t][n] = sum over k of (x[t][k] x_scale[k/128][t]) (w[n][k] w_scale[n/128][k/128])
 *
 * x and w are e4m3, sums are fp32 and promoted every 128 of k, out is bf16.  Dense, or grouped (one matrix w a group, as the experts
 * of a layer): rows of x sorted by group, their offsets on the device; or a fixed room of rows a group, their counts on the device.
 *
 * A plan holds what depends on the shape and the device; it is immutable and may be used from many threads and streams.  A run
 * enqueues one launch: no allocation, no wait, no workspace; it can be captured in a CUDA graph.  n_tok may change from run to run.
 * Same inputs, same n_tok: same bits.  Dense, up to 32 tokens, a row's bits do not depend on n_tok either.
 *
 * Calls return 0 or a negative enum moxie_status and say why in err (which may be NULL); nothing was enqueued then.
 */
#ifndef MOXIE_FP8_H
#define MOXIE_FP8_H

#include <stddef.h>
#include <stdint.h>

#include "moxie_status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct moxie_fp8_plan moxie_fp8_plan;

enum moxie_fp8_mode {
	MOXIE_FP8_DENSE = 0,      /* one group of n_tok rows */
	MOXIE_FP8_CONTIGUOUS = 1, /* group g has rows group[g] .. group[g + 1] - 1 of n_tok; any numbers, no alignment */
	MOXIE_FP8_MASKED = 2      /* group g has rows g n_tok .. g n_tok + group[g] - 1; the others are neither read into a sum nor written */
};
enum moxie_fp8_scale { MOXIE_FP8_SCALE_F32 = 0, MOXIE_FP8_SCALE_E8M0 = 1 /* 2^(s - 127), 255 is NaN */ };

struct moxie_fp8_desc {
	int mode;       /* enum moxie_fp8_mode */
	int n_group;    /* 1 .. 512; dense: 1 */
	int n_out;      /* a multiple of 64 */
	int n_in;       /* a multiple of 64; where it is none of 128 the last block of scales is of 64 */
	int w_scale;    /* enum moxie_fp8_scale */
};

struct moxie_fp8_args {
	const void *x;         /* [rows, n_in] e4m3, 16-byte aligned */
	const float *x_scale;  /* [ceil(n_in / 128), x_scale_ld] */
	int64_t x_scale_ld;    /* >= rows */
	const void *w;         /* [n_group, n_out, n_in] e4m3, 16-byte aligned */
	const void *w_scale;   /* [n_group, ceil(n_out / 128), ceil(n_in / 128)] fp32 or e8m0 bytes */
	void *out;             /* [rows, n_out] bf16, 16-byte aligned; rows outside every group are not written */
	const int32_t *group;  /* device: contiguous [n_group + 1] ascending, masked [n_group], dense NULL */
	int n_tok;             /* rows; masked: rows of one group's room */
};

/*   MOXIE_E_ARG          mode, n_group or w_scale is out of range
 *   MOXIE_E_SHAPE        n_out or n_in is not served; err holds the values
 *   MOXIE_E_UNSUPPORTED  the device is not of architecture 9.0 */
MOXIE_API int moxie_fp8_plan_create(moxie_fp8_plan **out, const struct moxie_fp8_desc *desc, int device, struct moxie_err *err);
MOXIE_API void moxie_fp8_plan_free(moxie_fp8_plan *plan); /* NULL is fine */
/* The stream is of the plan's device, which must be current.   MOXIE_E_ARG: NULL or misaligned pointers, n_tok < 0 */
MOXIE_API int moxie_fp8_gemm(const moxie_fp8_plan *plan, const struct moxie_fp8_args *args, void *stream, struct moxie_err *err);
/* Which kernel serves which range of tokens, as text lines.  Returns the length without the final NUL, like snprintf. */
MOXIE_API int moxie_fp8_plan_explain(const moxie_fp8_plan *plan, char *text, size_t n_bytes);

enum moxie_fp8_input {
	MOXIE_FP8_QUANT = 0,    /* y = x */
	MOXIE_FP8_RMSNORM = 1,  /* y = x * rsqrt(mean(x^2) + eps) * norm */
	MOXIE_FP8_SWIGLU = 2    /* y[i] = g * sigmoid(g) * u,  g = x[i], u = x[n + i]: x has 2 n channels */
};
struct moxie_fp8_quant_args {
	const void *x;        /* [n_tok, n] bf16 ([n_tok, 2 n] for SwiGLU), 16-byte aligned */
	const void *norm;     /* [n] bf16, RMSNorm only */
	void *q;              /* [n_tok, n] e4m3, out: y / scale, to nearest, ties to even, saturated at 448 */
	float *scale;         /* [ceil(n / 128), scale_ld], out: largest |y| of a block / 448; 1 for a block of zeros */
	int64_t scale_ld;
	float eps;
	int input;            /* enum moxie_fp8_input */
	int n_tok, n;         /* n a multiple of 64, at most 32768 */
};
/* One launch.   MOXIE_E_SHAPE: n;  MOXIE_E_ARG: the rest. */
MOXIE_API int moxie_fp8_quant(const struct moxie_fp8_quant_args *args, void *stream, struct moxie_err *err);

#ifdef __cplusplus
}
#endif
#endif
