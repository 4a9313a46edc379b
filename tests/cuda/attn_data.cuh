/* attn_data.cuh - attention problems made of hashes, for the test and the bench of cuda_attn.
 *
 * Queries, keys and values are hashes of their logical place (sequence, position, head, channel).  attn_batch lays them into
 * shuffled pages, or rings, as the engine would; what no position owns is NaN.
 */
#ifndef MOXIE_TESTS_ATTN_DATA_CUH
#define MOXIE_TESTS_ATTN_DATA_CUH

#include <algorithm>
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

#include "cap.cuh"
#include "cu.cuh"
#include "kernels/cuda/cuda_ops.h"

struct attn_shape {
	int n_head, n_head_kv, d_head, window;
	bool ring, sinks;
	float scale;
	bool f8 = false; /* a cache of e4m3 */
};

enum { DATA_Q, DATA_K, DATA_V };

__host__ __device__ inline uint32_t attn_hash(uint64_t x)
{
	x ^= x >> 31;
	x *= 0x9E3779B97F4A7C15ull;
	x ^= x >> 29;
	x *= 0xBF58476D1CE4E5B9ull;
	x ^= x >> 32;
	return (uint32_t)x;
}
/* About normal with variance 1 (sum of four bytes), rounded to bf16. */
__host__ __device__ inline float attn_value(uint64_t seed, int which, int seq, int pos, int head, int ch)
{
	const uint32_t h = attn_hash(((((seed * 3 + which) * 1031 + seq) * 262147 + pos) * 67 + head) * 521 + ch);
	const int sum = (int)(h & 255) + (int)(h >> 8 & 255) + (int)(h >> 16 & 255) + (int)(h >> 24);
	return __bfloat162float(__float2bfloat16((sum - 510) / 147.8f));
}

/* What a cache of e4m3 makes of a key or value. */
__host__ __device__ inline float attn_kept(const attn_shape &s, float v)
{
	return s.f8 ? float(__nv_fp8_e4m3(v)) : v;
}

/* Value of [n_page, n_head_kv, KV_PAGE, d] elements: owner[page] = (sequence, page of the sequence's list) or -1.  last[seq]:
 * its last position. */
struct attn_owner {
	int seq, index;
};
template <class T> __global__ void attn_fill_kv(T *k, T *v, const attn_owner *owner, const int *last, int n_page_seq, attn_shape s,
                             uint64_t seed, int64_t n)
{
	for (int64_t x = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; x < n; x += gridDim.x * (int64_t)blockDim.x) {
		const int ch = (int)(x % s.d_head), row = (int)(x / s.d_head % KV_PAGE), head = (int)(x / s.d_head / KV_PAGE % s.n_head_kv);
		const attn_owner o = owner[x / s.d_head / KV_PAGE / s.n_head_kv];
		int pos = -1;
		if (o.seq >= 0) {
			pos = o.index * KV_PAGE + row;
			const int period = n_page_seq * KV_PAGE; /* a ring's slot holds the newest position that maps to it */
			if (s.ring && last[o.seq] >= pos)
				pos += (last[o.seq] - pos) / period * period;
			if (pos > last[o.seq])
				pos = -1;
		}
		k[x] = T(pos < 0 ? NAN : attn_value(seed, DATA_K, o.seq, pos, head, ch));
		v[x] = T(pos < 0 ? NAN : attn_value(seed, DATA_V, o.seq, pos, head, ch));
	}
}
__global__ void attn_fill_q(__nv_bfloat16 *q, const int32_t *seq, const int32_t *pos, attn_shape s, uint64_t seed, int64_t n)
{
	for (int64_t x = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; x < n; x += gridDim.x * (int64_t)blockDim.x) {
		const int64_t t = x / s.d_head / s.n_head;
		q[x] = __float2bfloat16(attn_value(seed, DATA_Q, seq[t], pos[t], (int)(x / s.d_head % s.n_head), (int)(x % s.d_head)));
	}
}

template <class T> static T *attn_upload(const std::vector<T> &v)
{
	T *p;
	CU(cudaMalloc(&p, std::max<size_t>(v.size(), 1) * sizeof(T)));
	CU(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice));
	return p;
}

/* One batch on the device with its cache. */
struct attn_batch {
	attn_shape s;
	std::vector<span> spans;
	std::vector<int32_t> pos, seq, page;
	std::vector<float> sink_values;
	batch b = {};
	kv_view kv = {};
	weight sinks = {};
	__nv_bfloat16 *q, *o;
	int n_page;

	/* rows: (positions before the span, rows of the span) of each sequence.  Spans may be empty. */
	attn_batch(const attn_shape &shape, const std::vector<std::pair<int, int>> &rows, uint64_t seed, int ring_chunk = 1) : s(shape)
	{
		std::vector<int> last;
		int n_tok = 0, longest = 1, widest = ring_chunk;
		for (size_t i = 0; i < rows.size(); i++) {
			spans.push_back({ n_tok, rows[i].second, rows[i].first });
			for (int r = 0; r < rows[i].second; r++)
				pos.push_back(rows[i].first + r), seq.push_back((int)i);
			n_tok += rows[i].second;
			last.push_back(rows[i].first + rows[i].second - 1);
			longest = std::max(longest, last[i] + 1);
			widest = std::max(widest, rows[i].second);
		}
		const int per_seq = s.ring ? (s.window + widest - 1 + KV_PAGE - 1) / KV_PAGE : (longest + KV_PAGE - 1) / KV_PAGE;
		n_page = per_seq * (int)rows.size() + 3;
		std::vector<int> order(n_page);
		for (int i = 0; i < n_page; i++)
			order[i] = i;
		for (int i = n_page - 1; i > 0; i--)
			std::swap(order[i], order[attn_hash(seed * 31 + i) % (i + 1)]);
		std::vector<attn_owner> owner(n_page, { -1, 0 });
		for (size_t i = 0; i < rows.size(); i++)
			for (int j = 0; j < per_seq; j++) {
				page.push_back(order[i * per_seq + j]);
				owner[page.back()] = { (int)i, j };
			}
		const int64_t n_kv = (int64_t)n_page * s.n_head_kv * KV_PAGE * s.d_head, n_q = (int64_t)n_tok * s.n_head * s.d_head;
		CU(cudaMalloc(&kv.k, n_kv * (s.f8 ? 1 : 2)));
		CU(cudaMalloc(&kv.v, n_kv * (s.f8 ? 1 : 2)));
		CU(cudaMalloc(&q, n_q * 2 + 256));
		CU(cudaMalloc(&o, n_q * 2 + 256));
		b.n_tok = n_tok, b.n_seq = (int)rows.size();
		b.pos = attn_upload(pos), b.seq = attn_upload(seq);
		b.span = spans.data(), b.span_dev = attn_upload(spans);
		kv.dtype = s.f8 ? DT_F8_E4M3 : DT_BF16, kv.page = attn_upload(page), kv.n_page_seq = per_seq, kv.ring = s.ring;
		attn_owner *dev_owner = attn_upload(owner);
		int *dev_last = attn_upload(last);
		if (s.f8)
			attn_fill_kv<<<1024, 256>>>((__nv_fp8_e4m3 *)kv.k, (__nv_fp8_e4m3 *)kv.v, dev_owner, dev_last, per_seq, s, seed, n_kv);
		else
			attn_fill_kv<<<1024, 256>>>((__nv_bfloat16 *)kv.k, (__nv_bfloat16 *)kv.v, dev_owner, dev_last, per_seq, s, seed, n_kv);
		attn_fill_q<<<1024, 256>>>(q, b.seq, b.pos, s, seed, n_q);
		CU(cudaDeviceSynchronize());
		CU(cudaFree(dev_owner));
		CU(cudaFree(dev_last));
		std::vector<__nv_bfloat16> sink;
		for (int h = 0; h < s.n_head; h++) {
			sink.push_back(__float2bfloat16((attn_hash(seed * 977 + h) % 600) / 100.f - 2)); /* as large as the largest scores */
			sink_values.push_back(__bfloat162float(sink.back()));
		}
		sinks.dtype = DT_BF16, sinks.n_dim = 1, sinks.shape[0] = s.n_head, sinks.data = attn_upload(sink);
	}
	attn_batch(const attn_batch &) = delete;
	~attn_batch()
	{
		for (const void *p : { (const void *)kv.k, (const void *)kv.v, (const void *)q, (const void *)o, (const void *)b.pos, (const void *)b.seq,
		                       (const void *)b.span_dev, (const void *)kv.page, sinks.data })
			CU(cudaFree((void *)p));
	}
	int64_t n_q() const { return (int64_t)b.n_tok * s.n_head * s.d_head; }
	attn_args args() const
	{
		attn_args a = {};
		a.o = o, a.q = q, a.sinks = s.sinks ? &sinks : NULL, a.kv = &kv, a.batch = &b;
		a.n_head = s.n_head, a.n_head_kv = s.n_head_kv, a.d_head = s.d_head, a.window = s.window, a.scale = s.scale;
		return a;
	}
};

/* A device as backend.cu would make it. */
static cuda_dev attn_device(const attn_shape &s, int n_tok, cudaStream_t stream, int n_seq = 1, int n_ctx = 0)
{
	cuda_dev d = {};
	capped_device(&d);
	d.stream = stream;
	kern_limits lim = {};
	lim.n_tok = n_tok, lim.n_head = s.n_head, lim.n_head_kv = s.n_head_kv, lim.d_head = s.d_head;
	lim.n_seq = n_seq, lim.n_ctx = n_ctx, lim.kv = s.f8 ? DT_F8_E4M3 : DT_BF16;
	d.scratch_bytes = cuda_attn_scratch(&d, &lim);
	CU(cudaMalloc(&d.scratch, d.scratch_bytes));
	CU(cudaMemset(d.scratch, 0xff, d.scratch_bytes));
	CU(cudaMemset(d.scratch, 0, CUDA_COUNTER_BYTES));
	return d;
}

#endif
