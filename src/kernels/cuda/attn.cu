/* attn - cuda_attn: checks the shapes and sends every span of a batch to the kernel that serves it (attn.h).
 *
 *   o, q  [n_tok, n_head, d_head] bf16      k, v  [n_page, n_head_kv, KV_PAGE, d_head] bf16 or e4m3      formula: kernels.h attn_args
 *
 * The choice reads host memory only (batch->span), so a captured decode step launches the same kernels at every replay.
 * Test: build/cuda/test_attn    Bench: build/cuda/bench_attn
 */
#include "attn.h"

constexpr int DECODE_ROW = 4; /* spans up to so many rows are decoded: a chat's next token, or a draft's few */

static attn_param param_of(const attn_args *a)
{
	attn_param p = {};
	p.o = (__nv_bfloat16 *)a->o;
	p.q = (const __nv_bfloat16 *)a->q;
	p.k = a->kv->k;
	p.v = a->kv->v;
	p.kv_f8 = a->kv->dtype == DT_F8_E4M3;
	if (a->sinks) {
		p.sinks = a->sinks->data;
		p.sinks_f32 = a->sinks->dtype == DT_F32;
	}
	p.page = a->kv->page;
	p.pos = a->batch->pos;
	p.seq = a->batch->seq;
	p.span = a->batch->span_dev;
	p.n_page_seq = a->kv->n_page_seq;
	p.ring = a->kv->ring;
	p.n_head = a->n_head;
	p.n_head_kv = a->n_head_kv;
	p.d_head = a->d_head;
	p.window = a->window;
	p.scale_log2 = a->scale * 1.4426950408889634f;
	return p;
}

int cuda_attn(cuda_dev *d, const attn_args *a, moxie_err *err)
{
	const batch *b = a->batch;
	if (a->d_head < 8 || a->d_head > 512 || a->d_head % 8 || a->n_head_kv < 1 || a->n_head % a->n_head_kv)
		return err_set(err, MOXIE_E_SHAPE, "attention on CUDA: d_head %d is no multiple of 8 up to 512, or %d heads do not share %d KV heads",
		               a->d_head, a->n_head, a->n_head_kv);
	if (a->kv->dtype != DT_BF16 && a->kv->dtype != DT_F8_E4M3)
		return err_set(err, MOXIE_E_SHAPE, "attention on CUDA: a KV cache of %s, wanted BF16 or F8_E4M3", dtype_name(a->kv->dtype));
	if (!b->n_tok)
		return 0;
	const attn_param p = param_of(a);
	const int min_row = !attn_decode_serves(d, a->d_head) ? 0 : attn_prefill_serves(p) ? DECODE_ROW : b->n_tok; /* longer spans are not decoded */
	int decoded = 0, longest = 0; /* most rows of a span that is decoded; of any */
	for (int s = 0; s < b->n_seq; s++) {
		const int n = b->span[s].n_row;
		decoded = n <= min_row && n > decoded ? n : decoded;
		longest = n > longest ? n : longest;
	}
	const auto prefill = p.kv_f8 ? attn_prefill_f8 : d->portable ? attn_prefill_portable : attn_prefill;
	cudaError_t e = cudaSuccess;
	if (longest > min_row)
		e = min_row ? prefill(d, p, b->span, b->n_seq, min_row) : attn_plain(d->stream, p, 0, b->n_tok);
	if (decoded && e == cudaSuccess)
		e = attn_decode(d, p, b->n_seq, decoded);
	if (e != cudaSuccess)
		return err_set(err, MOXIE_E_DEVICE, "attention of %d tokens: %s", b->n_tok, cudaGetErrorString(e));
	return 0;
}

size_t cuda_attn_scratch(const cuda_dev *d, const kern_limits *lim)
{
	(void)d;
	const size_t decode = attn_decode_scratch(lim->n_tok, lim->n_head, lim->n_head_kv, lim->d_head);
	const size_t widen = lim->kv == DT_F8_E4M3 ? attn_prefill_f8_scratch(lim) : 0;
	return decode > widen ? decode : widen;
}
