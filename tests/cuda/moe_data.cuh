/* moe_data.cuh - expert layers made of hashes, for tests and bench of the expert kernels.
 *
 * Every weight, scale, bias and activation is a hash of a seed and its index, so that the double oracle on the device needs no
 * copy of the packed layout and shares no code with the kernels beyond moe_layout.h's packing functions.
 */
#ifndef MOXIE_TESTS_MOE_DATA_CUH
#define MOXIE_TESTS_MOE_DATA_CUH

#include <algorithm>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

#include "../../src/kernels/cuda/moe_layout.h"
#include "cu.cuh"
#include "moxie_ops.h"

enum { GATE, UP, DOWN };
/* Scales: near 2^-8; per expert very large, tiny or near 2^-8; near 2^-8 with some rows holding a NaN scale. */
enum { SCALES_PLAIN, SCALES_WIDE, SCALES_NAN };

struct moe_model {
	int n_expert, n_used, n_embd, n_ff;
	int scales;
	int biased;
	uint64_t seed;
	moxie_moe_desc desc(int max_tok) const
	{
		moxie_moe_desc d = {};
		d.n_expert = n_expert;
		d.n_used = n_used;
		d.n_embd = n_embd;
		d.n_ff = n_ff;
		d.max_tok = max_tok;
		d.act = MOXIE_ACT_SWIGLU_CLAMP;
		d.alpha = 1.702f;
		d.beta = 1;
		d.limit = 7;
		return d;
	}
};

__host__ __device__ inline uint32_t hash32(uint64_t x)
{
	x ^= x >> 31;
	x *= 0x9E3779B97F4A7C15ull;
	x ^= x >> 29;
	x *= 0xBF58476D1CE4E5B9ull;
	x ^= x >> 32;
	return (uint32_t)x;
}
__host__ __device__ inline uint64_t row_key(const moe_model &m, int which, int e, int row)
{
	return m.seed * 0x1000003ull + (((uint64_t)which * m.n_expert + e) * 8192 + row) * 4096;
}
__host__ __device__ inline int code_at(const moe_model &m, int which, int e, int row, int k)
{
	return hash32(row_key(m, which, e, row) + (k >> 3)) >> ((k & 7) * 4) & 15;
}
__host__ __device__ inline int scale_low(const moe_model &m, int e) { return m.scales == SCALES_WIDE ? (e % 3 == 1 ? 150 : e % 3 == 2 ? 0 : 117) : 117; }
__host__ __device__ inline int scale_at(const moe_model &m, int which, int e, int row, int k)
{
	const uint32_t h = hash32((1ull << 60) + row_key(m, which, e, row) + (k >> 5));
	if (m.scales == SCALES_NAN && row % 61 == 7 && k >> 5 == 1) return 255;
	return scale_low(m, e) + h % 6;
}
/* exponent offset of an expert's matrices: the packer's rule, from the largest scale that can occur */
__host__ __device__ inline int offset_of(const moe_model &m, int e) { return scale_low(m, e) + 5 > 128 ? scale_low(m, e) + 5 - 128 : 0; }
__host__ __device__ inline double weight_at(const moe_model &m, int which, int e, int row, int k)
{
	const double value[8] = { 0, .5, 1, 1.5, 2, 3, 4, 6 };
	const int c = code_at(m, which, e, row, k), s = scale_at(m, which, e, row, k);
	const double w = s == 255 ? (double)NAN : ldexp(value[c & 7], s - 127);
	return c & 8 ? -w : w;
}
__host__ __device__ inline float bias_at(const moe_model &m, int which, int e, int row)
{
	return m.biased ? ((int)(hash32((1ull << 61) + row_key(m, which, e, row)) & 0xff) - 128) / 64.f : 0;
}

__global__ void moe_fill(moe_model m, int which, uint8_t *atoms)
{
	const int k_atoms = (which == DOWN ? m.n_ff : m.n_embd) / 64, blocks = which == DOWN ? m.n_embd / 64 : m.n_ff / 32;
	const int64_t atom = blockIdx.x;
	const int ka = (int)(atom % k_atoms), rb = (int)(atom / k_atoms % blocks), e = (int)(atom / k_atoms / blocks);
	const int t = threadIdx.x, w = t / 32, g = t % 32 / 4, q = t % 4, off = offset_of(m, e);
	uint8_t code[32];
	uint32_t word[4];
	const auto source = [&](int packed, int &mat, int &row) {
		mat = which == DOWN ? DOWN : packed & 8 ? UP : GATE;
		row = which == DOWN ? rb * 64 + packed : rb * 32 + packed / 16 * 8 + packed % 8;
	};
	for (int i = 0; i < 32; i++) {
		int mat, row;
		source(16 * w + g + 8 * (i >> 1 & 1), mat, row);
		code[i] = code_at(m, mat, e, row, ka * 64 + 16 * (i >> 3) + 8 * (i >> 2 & 1) + 2 * q + (i & 1));
	}
	moe_pack_codes(code, word);
	*(uint4 *)(atoms + atom * MOE_ATOM_BYTES + t * 16) = make_uint4(word[0], word[1], word[2], word[3]);
	if (q == 0) {
		int f[2][2];
		for (int h = 0; h < 2; h++)
			for (int kg = 0; kg < 2; kg++) {
				int mat, row;
				source(16 * w + g + 8 * h, mat, row);
				f[kg][h] = moe_scale_field(scale_at(m, mat, e, row, ka * 64 + kg * 32), off);
			}
		*(uint32_t *)(atoms + atom * MOE_ATOM_BYTES + MOE_ATOM_CODES + (8 * w + g) * 4) = moe_pack_scales(f[0][0], f[0][1], f[1][0], f[1][1]);
	}
}
__global__ void moe_fill_small(moe_model m, float *mul0, float *mul1, float *b0, float *b1)
{
	const int e = blockIdx.x;
	if (threadIdx.x == 0) mul0[e] = mul1[e] = ldexpf(1, offset_of(m, e));
	for (int i = threadIdx.x; b0 && i < m.n_ff * 2; i += blockDim.x)
		b0[(size_t)e * m.n_ff * 2 + i] = bias_at(m, i & 1 ? UP : GATE, e, i / 2);
	for (int i = threadIdx.x; b1 && i < m.n_embd; i += blockDim.x)
		b1[(size_t)e * m.n_embd + i] = bias_at(m, DOWN, e, i);
}
__global__ void moe_fill_x(__nv_bfloat16 *x, uint64_t seed, int64_t n)
{
	for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
		const uint32_t h = hash32(seed * 0x10001ull + i); /* sum of four bytes: near normal, sigma about 1 */
		x[i] = __float2bfloat16(((int)((h & 255) + (h >> 8 & 255) + (h >> 16 & 255) + (h >> 24)) - 510) / 148.f);
	}
}

static inline void *device_alloc(size_t n_bytes)
{
	void *p;
	CU(cudaMalloc(&p, n_bytes ? n_bytes : 16));
	return p;
}
static inline moxie_moe_weights moe_make_weights(const moe_model &m)
{
	moxie_moe_weights w = {};
	const int64_t g = moe_gate_up_bytes(m.n_expert, m.n_embd, m.n_ff), d = moe_down_bytes(m.n_expert, m.n_embd, m.n_ff);
	w.gate_up = device_alloc(g);
	w.down = device_alloc(d);
	w.gate_up_mul = (float *)device_alloc(m.n_expert * 4);
	w.down_mul = (float *)device_alloc(m.n_expert * 4);
	if (m.biased) {
		w.gate_up_bias = (float *)device_alloc((size_t)m.n_expert * m.n_ff * 8);
		w.down_bias = (float *)device_alloc((size_t)m.n_expert * m.n_embd * 4);
	}
	moe_fill<<<(unsigned)(g / MOE_ATOM_BYTES), 128>>>(m, GATE, (uint8_t *)w.gate_up);
	moe_fill<<<(unsigned)(d / MOE_ATOM_BYTES), 128>>>(m, DOWN, (uint8_t *)w.down);
	moe_fill_small<<<m.n_expert, 128>>>(m, w.gate_up_mul, w.down_mul, w.gate_up_bias, w.down_bias);
	CU(cudaGetLastError());
	return w;
}
static inline void moe_free_weights(moxie_moe_weights &w)
{
	for (void *p : { w.gate_up, w.down, (void *)w.gate_up_mul, (void *)w.down_mul, (void *)w.gate_up_bias, (void *)w.down_bias })
		CU(cudaFree(p));
}

/* ---- routing on the host ------------------------------------------------------------------------------------------ */
enum { ROUTE_EVEN, ROUTE_ONE, ROUTE_HOLES };

/* k distinct random experts per token; ROUTE_ONE: slot 0 is always expert 0 and the rest are skipped; ROUTE_HOLES: a third of
 * the slots are -1 and odd experts get nothing. */
static inline void moe_make_routing(const moe_model &m, int n_tok, int kind, uint64_t seed, std::vector<int32_t> &id, std::vector<float> &w)
{
	id.assign((size_t)n_tok * m.n_used, -1);
	w.assign((size_t)n_tok * m.n_used, NAN); /* weights of skipped slots must not be used */
	for (int t = 0; t < n_tok; t++) {
		uint64_t h = seed * 7919 + t * 131ull;
		float sum = 0;
		for (int s = 0; s < m.n_used; s++) {
			int e;
			for (bool again = true; again;) {
				e = hash32((7ull << 58) + ++h) % m.n_expert;
				again = false;
				for (int j = 0; j < s; j++)
					again |= id[t * m.n_used + j] == e;
				if (m.n_used == m.n_expert) again = false, e = (s + t) % m.n_expert;
			}
			id[t * m.n_used + s] = e;
			w[t * m.n_used + s] = 0.1f + (hash32((5ull << 58) + seed * 31 + t * 16 + s) & 1023) / 1024.f;
			sum += w[t * m.n_used + s];
		}
		for (int s = 0; s < m.n_used; s++)
			w[t * m.n_used + s] /= sum;
		for (int s = 0; s < m.n_used; s++) {
			const int p = t * m.n_used + s;
			if (kind == ROUTE_ONE) id[p] = s ? -1 : 0;
			if (kind == ROUTE_HOLES && (id[p] % 2 || hash32((3ull << 58) + p) % 3 == 0)) id[p] = -1;
			if (id[p] < 0) w[p] = NAN;
		}
	}
}

/* The tables that the routing launch would write, as one block of device memory. */
struct moe_tables_block {
	moxie_moe_tables t = {};
	void *device = NULL;
	std::vector<uint8_t> host;
	void make(const moe_model &m, int n_tok, int tile_n, const std::vector<int32_t> &id, const std::vector<float> &w)
	{
		const uint64_t n = moxie_moe_tables_bytes(n_tok, m.n_used, m.n_expert, tile_n);
		host.assign(n, 0xEE);
		moxie_moe_tables h;
		moxie_moe_tables_cut(&h, host.data(), n_tok, m.n_used, m.n_expert, tile_n);
		if (n_tok) {
			memcpy(h.topk_id, id.data(), id.size() * 4);
			memcpy(h.topk_w, w.data(), w.size() * 4);
			memset(h.tok_done, 0, (size_t)n_tok * 4);
		}
		memset(h.head, 0, sizeof(moe_head));
		int n_tile = 0, at = 0;
		moe_tile *tiles = (moe_tile *)h.tiles;
		for (int e = 0; e < m.n_expert; e++) {
			h.expert_off[e] = at;
			for (int p = 0; p < n_tok * m.n_used; p++)
				if (id[p] == e) h.sorted_pair[at++] = p;
			const int n_row = at - h.expert_off[e];
			const int step = n_row ? moe_tile_rows(n_row, tile_n) : 1;
			for (int r = 0; r < n_row; r += step)
				tiles[n_tile++] = { e, h.expert_off[e] + r, std::min(step, n_row - r), 0 };
		}
		h.expert_off[m.n_expert] = at;
		((moe_head *)h.head)->n_tile = n_tile;
		if (!device) device = device_alloc(n);
		moxie_moe_tables_cut(&t, device, n_tok, m.n_used, m.n_expert, tile_n);
		upload(0);
	}
	void upload(cudaStream_t s) { CU(cudaMemcpyAsync(device, host.data(), host.size(), cudaMemcpyHostToDevice, s)); }
	~moe_tables_block() { cudaFree(device); }
};

/* ---- oracle in double on the device --------------------------------------------------------------------------------- */
__device__ inline double oracle_act(const moxie_moe_desc &d, double g, double u)
{
	if (d.act == MOXIE_ACT_GEGLU_TANH) return 0.5 * g * (1 + tanh(0.79788456080286535588 * (g + 0.044715 * g * g * g))) * u;
	double alpha = 1, beta = 0;
	if (d.act == MOXIE_ACT_SWIGLU_CLAMP) {
		alpha = d.alpha;
		beta = d.beta;
		if (d.limit > 0) {
			g = g > d.limit ? d.limit : g;
			u = u > d.limit ? d.limit : u < -d.limit ? -d.limit : u;
		}
	}
	return g / (1 + exp(-alpha * g)) * (u + beta);
}
/* act of the pairs of the listed tokens: [n_list * k, n_ff] */
__global__ void oracle_gate_up(moe_model m, moxie_moe_desc d, const __nv_bfloat16 *x, const int *list, const int32_t *id, double *act, int64_t n)
{
	const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
	if (i >= n) return;
	const int c = (int)(i % m.n_ff), p = (int)(i / m.n_ff), t = list[p / m.n_used], e = id[t * m.n_used + p % m.n_used];
	if (e < 0) return;
	double g = bias_at(m, GATE, e, c), u = bias_at(m, UP, e, c);
	for (int k = 0; k < m.n_embd; k++) {
		const double v = __bfloat162float(x[(size_t)t * m.n_embd + k]);
		g += weight_at(m, GATE, e, c, k) * v;
		u += weight_at(m, UP, e, c, k) * v;
	}
	act[i] = oracle_act(d, g, u);
}
/* out of the listed tokens: [n_list, n_embd] */
__global__ void oracle_down(moe_model m, moxie_moe_desc d, const double *act, const int *list, const int32_t *id, const float *w,
                            const __nv_bfloat16 *residual, const __nv_bfloat16 *shared, double *out, int64_t n)
{
	const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
	if (i >= n) return;
	const int c = (int)(i % m.n_embd), l = (int)(i / m.n_embd), t = list[l];
	double sum = 0;
	for (int s = 0; s < m.n_used; s++) {
		const int e = id[t * m.n_used + s];
		if (e < 0) continue;
		double y = bias_at(m, DOWN, e, c);
		for (int k = 0; k < m.n_ff; k++)
			y += weight_at(m, DOWN, e, c, k) * act[((int64_t)l * m.n_used + s) * m.n_ff + k];
		sum += w[t * m.n_used + s] * y;
	}
	sum *= d.routed_scale == 0 ? 1 : d.routed_scale;
	const size_t at = (size_t)t * m.n_embd + c;
	if (residual) sum += __bfloat162float(residual[at]);
	if (shared) sum += __bfloat162float(shared[at]);
	out[i] = sum;
}

#endif
