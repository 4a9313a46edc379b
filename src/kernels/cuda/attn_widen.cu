/* attn_widen - prompts over a cache of e4m3: the pages that their spans see become bf16 in scratch, and attn_prefill reads those.
 *
 *   from  k, v  [n_page, n_head_kv, KV_PAGE, 64] e4m3      to  k, v  [slot, n_head_kv, KV_PAGE, 64] bf16, and a page list
 *
 * wgmma takes K and V from shared memory in the type of its other operand, and e4m3 only with K along the rows, which V's keys are
 * not; so somebody has to widen them.  Doing it here once for all of a span's tiles leaves attn_prefill as it is.
 * Scratch behind the counters: page lists [n_seq, stride], then the K pages, then the V pages.  The lists are rings as long as the most
 * pages that a span sees, whatever the cache's own are: there a page may hold the first and the last of those at once.
 * Numerics: exact.   Cost: 6 bytes moved a channel of K and V, 6 KB a position of GPT-OSS: 1.4 us for 1024 at 4.3 TB/s, against
 *   2 us of a prompt's tile row over them.  Few rows far down a long context pay most: 5 rows after 128K 190 us a layer.
 * Test: build/cuda/test_attn f8_prefill    Bench: build/cuda/bench_attn prefill --f8
 */
#include <algorithm>

#include "attn.cuh"
#include "device/launch.cuh"

constexpr int D = 64, THREADS = KV_PAGE * D / 16, MAX_SPAN = 96;

struct widen_span {
	int seq, page0, last, slot0; /* first page, last position; slot0: slots of the spans before */
};
struct widen_table {
	int n;
	widen_span s[MAX_SPAN];
};
struct widen_to {
	int32_t *page; /* [n_seq, stride] */
	int stride;
	__nv_bfloat16 *k, *v;
};

/* Sixteen channels. */
__device__ __forceinline__ void widen16(__nv_bfloat16 *to, const void *from)
{
	const uint4 v = __ldcg((const uint4 *)from);
	const uint32_t w[4] = { v.x, v.y, v.z, v.w };
	uint32_t b[8];
#pragma unroll
	for (int i = 0; i < 8; i++) {
		const float2 x = f16x2_to_float2(f8x2_to_f16x2((uint16_t)(w[i / 2] >> i % 2 * 16)));
		b[i] = pack_bf16(x.x, x.y);
	}
	((uint4 *)to)[0] = make_uint4(b[0], b[1], b[2], b[3]);
	((uint4 *)to)[1] = make_uint4(b[4], b[5], b[6], b[7]);
}

/* A block: one page of one KV head, K and V.  Rows past a span's last position may be anything, so nobody reads them. */
__global__ void __launch_bounds__(THREADS)
attn_widen_kernel(const __grid_constant__ attn_param p, const __grid_constant__ widen_table table, const __grid_constant__ widen_to to)
{
	const int slot = blockIdx.x, ihkv = blockIdx.y, at = threadIdx.x * 16;
	int i = 0;
	while (i + 1 < table.n && table.s[i + 1].slot0 <= slot)
		i++;
	const widen_span &sp = table.s[i];
	const int page = sp.page0 + slot - sp.slot0;
	pdl_wait();
	pdl_launch();
	if (ihkv == 0 && threadIdx.x == 0)
		to.page[(int64_t)sp.seq * to.stride + page % to.stride] = slot;
	if (page * KV_PAGE + at / D > sp.last)
		return;
	const int64_t from = attn_page_at(p, attn_page(p, sp.seq, page), ihkv, D) + at, dst = attn_page_at(p, slot, ihkv, D) + at;
	widen16(to.k + dst, (const uint8_t *)p.k + from);
	widen16(to.v + dst, (const uint8_t *)p.v + from);
}

static size_t up256(size_t n) { return (n + 255) / 256 * 256; }
static size_t slot_bytes(int n_head_kv) { return (size_t)n_head_kv * KV_PAGE * D * sizeof(__nv_bfloat16); } /* of K, or of V */

size_t attn_prefill_f8_scratch(const kern_limits *lim)
{
	if (lim->d_head != D)
		return 0;
	/* A list is as long as the longest sequence, or as a ring of a window no longer than that and a chunk. */
	const size_t n_page = (size_t)(lim->n_ctx + KV_PAGE - 1) / KV_PAGE + 1, ring = n_page + (size_t)lim->n_tok / KV_PAGE + 2;
	return CUDA_COUNTER_BYTES + up256((size_t)lim->n_seq * ring * sizeof(int32_t)) + 2 * n_page * slot_bytes(lim->n_head_kv);
}

cudaError_t attn_prefill_f8(const cuda_dev *d, const attn_param &p, const span *spans, int n_seq, int min_row)
{
	char *const data = (char *)d->scratch + CUDA_COUNTER_BYTES;
	const auto first_page = [&](const span &sp) { return (p.window > 0 && sp.pos0 >= p.window ? sp.pos0 - p.window + 1 : 0) / KV_PAGE; };
	const auto n_page = [&](const span &sp) { return sp.n_row > min_row ? (sp.pos0 + sp.n_row - 1) / KV_PAGE + 1 - first_page(sp) : 0; };
	int stride = 1;
	for (int s = 0; s < n_seq; s++)
		stride = std::max(stride, n_page(spans[s]));
	const size_t list_bytes = up256((size_t)n_seq * stride * sizeof(int32_t)), each = slot_bytes(p.n_head_kv);
	const size_t bytes = d->scratch_bytes - std::min(d->scratch_bytes, CUDA_COUNTER_BYTES + list_bytes);
	const int most = (int)std::min<size_t>(bytes / (2 * each), 65535 * 1024);
	widen_to to = { (int32_t *)data, stride, (__nv_bfloat16 *)(data + list_bytes), (__nv_bfloat16 *)(data + list_bytes + most * each) };
	attn_param wide = p;
	wide.kv_f8 = false;
	wide.ring = true;
	wide.n_page_seq = stride;
	wide.k = to.k, wide.v = to.v;
	const auto prefill = d->portable ? attn_prefill_portable : attn_prefill;
	cudaError_t e = cudaSuccess;
	for (int first = 0, s = 0; first < n_seq && e == cudaSuccess; first = s) {
		widen_table table = {};
		int n_slot = 0;
		for (s = first; s < n_seq && table.n < MAX_SPAN; s++) {
			const int n = n_page(spans[s]);
			if (n_slot + n > most)
				break;
			if (n)
				table.s[table.n++] = { s, first_page(spans[s]), spans[s].pos0 + spans[s].n_row - 1, n_slot };
			n_slot += n;
		}
		if (s == first)
			return cudaErrorInvalidValue; /* scratch does not hold even one span */
		if (!n_slot)
			continue;
		e = cuda_launch(attn_widen_kernel, dim3(n_slot, p.n_head_kv), THREADS, 0, d->stream, p, table, to);
		wide.page = to.page + (int64_t)first * stride;
		if (e == cudaSuccess)
			e = prefill(d, wide, spans + first, s - first, min_row);
	}
	return e;
}
