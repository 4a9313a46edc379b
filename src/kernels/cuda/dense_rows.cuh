/* dense_rows.cuh - how the rows of a product are dealt to CTAs where weights are the M operand.
 *
 * A row block is n_box boxes of the weights' tensor map.  gemm: one box of `rows` rows, the exact share of a CTA where that is
 * few enough, so that only the multiplying is padded.  qkv: boxes of 4 rows of the lower and the same 4 of the upper half
 * of a head, so that a rope pair lies in one CTA, 4 rows apart.
 */
#ifndef MOXIE_CUDA_DENSE_ROWS_CUH
#define MOXIE_CUDA_DENSE_ROWS_CUH

#include "tensor_map.h"
#include "dense_out.cuh"

struct dense_rows {
	int n_tile, rows;            /* row blocks, and rows of one */
	int n_box, box_rows;         /* boxes of a row block */
	int box_y, box_per_z, box_z; /* box i starts at row i % box_per_z * box_y of plane i / box_per_z * box_z */
};

struct dense_box {
	int y, z;
};

__device__ __forceinline__ struct dense_box dense_box_at(const struct dense_rows *r, int i)
{
	const int z = i / r->box_per_z;
	return { (i - z * r->box_per_z) * r->box_y, z * r->box_z };
}

/* Row blocks for n_cta CTAs (or clusters), of at most row_max rows, a multiple of 8. */
static inline void dense_rows_plan(struct dense_rows *r, const struct dense_out *o, int n_cta, int row_max)
{
	if (o->qkv) {
		const int n_box = o->n_out / 8, per = (n_box + n_cta - 1) / n_cta;
		r->n_box = per < row_max / 8 ? per : row_max / 8;
		r->n_tile = (n_box + r->n_box - 1) / r->n_box;
		r->box_rows = 8, r->rows = 8 * r->n_box, r->box_y = 4, r->box_per_z = o->d_head / 8, r->box_z = 2;
	} else {
		const int per = (o->n_out + n_cta - 1) / n_cta;
		r->rows = r->box_rows = r->box_y = per < row_max ? per : row_max;
		r->n_tile = (o->n_out + r->rows - 1) / r->rows;
		r->n_box = 1, r->box_per_z = r->n_tile, r->box_z = 1;
	}
}

static inline cudaError_t dense_rows_map(CUtensorMap *m, const struct dense_job *j, const struct dense_rows *r)
{
	const struct dense_out *const o = &j->out;
	const int half = o->d_head / 2;
	const auto map = j->f8 ? dense_map8 : dense_map;
	return o->qkv ? map(m, j->w, j->n_in, half, o->n_out / half, 4, 2) : map(m, j->w, j->n_in, o->n_out, 1, r->rows, 1);
}

/* Outputs of n_tok tokens of a row block; of qkv, pairs. */
__device__ __forceinline__ int dense_rows_count(const struct dense_out &o, const struct dense_rows &p, int n_tok)
{
	return (o.qkv ? p.n_box * 4 : p.rows) * n_tok;
}

/* Output i of row block `tile`, tokens from t0: its place, and the row and token of its sum in the block; a pair's second is
 * 4 rows on.  place.to is NULL past the last row of the weights. */
struct dense_item {
	struct dense_at place;
	int r, t;
};
__device__ __forceinline__ struct dense_item dense_item_at(const struct dense_out &o, const struct dense_rows &p, int tile, int t0, int i)
{
	struct dense_item it = {};
	if (!o.qkv) {
		it.t = i / p.rows, it.r = i - it.t * p.rows;
		const int n = tile * p.rows + it.r;
		if (n < o.n_out)
			it.place = dense_one_at(o, t0 + it.t, n);
		return it;
	}
	const int n_pair = p.n_box * 4;
	it.t = i / n_pair;
	const int j = i - it.t * n_pair, box = tile * p.n_box + j / 4, head = box / p.box_per_z;
	it.r = j / 4 * 8 + j % 4;
	if (head < o.n_head + 2 * o.n_head_kv)
		it.place = dense_pair_at(o, t0 + it.t, head, (box - head * p.box_per_z) * 4 + j % 4);
	return it;
}

#endif
