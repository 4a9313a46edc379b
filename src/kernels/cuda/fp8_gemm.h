/* fp8_gemm.h - between the plan (fp8_gemm.cu) and the kernels (fp8_tile.cuh). */
#ifndef MOXIE_CUDA_FP8_GEMM_H
#define MOXIE_CUDA_FP8_GEMM_H

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include "moxie_fp8.h"

struct fp8_gemm_args {
	CUtensorMap w, x;      /* boxes of 128 k: [n_group][n_out][n_in] x rows_box, [rows][n_in] x token tile; 128-byte swizzle */
	CUtensorMap y;         /* out [rows][n_out], boxes of 16 tokens x 64 rows, 128-byte swizzle; prompts only */
	const float *x_scale;
	int64_t x_scale_ld;
	const void *w_scale;
	__nv_bfloat16 *out;
	const int32_t *group;
	int mode, n_group, w_e8m0;
	int n_tok;             /* as in moxie_fp8_args */
	int n_row;             /* rows of x in all */
	int n_out, n_block;    /* n_block = n_in / 128, rounded up */
	int n_row_tile;        /* tiles (or pairs of them) of weight rows a group */
	int n_split;           /* CTAs of a cluster that share a tile's K; 1 .. 4, of streams 1, 2, 4 */
	int n_stage;
	int n_late;            /* the next kernel may start when a CTA has no more than this many stages to ask for */
};

/* One compiled kernel: weight rows x tokens of a tile. */
struct fp8_instance {
	const char *name;
	const void *kernel;
	int rows, tok, pair, n_thread; /* pair: CTAs of a cluster that have the same tokens, neighbouring rows */
	int stage_bytes, fixed_bytes; /* shared memory: a stage, and beside the stages */
	bool prompt;   /* tokens are the M operand; else the weights */
};
extern const int fp8_n_instance;

/* Bench only: takes the place of the plan's choice. */
struct fp8_force {
	int instance, n_split, per_sm, per_kernel, n_late; /* per_kernel: CTAs an SM of one launch, where they walk */
};
extern "C" int fp8_gemm_forced(const moxie_fp8_plan *plan, const struct moxie_fp8_args *args, const struct fp8_force *force, void *stream, struct moxie_err *err);

#endif
