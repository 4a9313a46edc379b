/* moe_repack - packed MXFP4 experts as they ship -> the atoms of moe_layout.h, once at load.
 *
 *   GPT-OSS      gate_up _blocks [E, 2*n_ff, n_embd/32, 16], rows 2i = gate i, 2i+1 = up i; down [E, n_embd, n_ff/32, 16]
 *   DeepSeek-V4  gate (w1), up (w3) [E, n_ff, n_embd/2], down (w2) [E, n_embd, n_ff/2] bytes
 *   both         low nibble = even k; e8m0 scales [rows, k/32]; a row of codes is the same bytes in both
 *
 * Two launches per matrix.  First the largest scale that is not 255 (NaN) of each expert's matrix, by a cluster of 8 CTAs (one CTA where there are no clusters),
 * which gives mul = 2^offset.  Then the atoms: a thread makes its own 16 bytes, 32 codes of packed rows r and r + 8, from
 * 64 bytes it reads together with the three other lanes of its quad (each takes every fourth byte).  A source byte is
 * a pair of codes whose two halves go to the two halves of a word, so a pair is placed by four logic operations and a
 * rotation; moe_pack_codes says the same bit by bit and is what the test compares with.
 * Errors: MOXIE_E_ARG, MOXIE_E_SHAPE (n_embd or n_ff not a multiple of 64), MOXIE_E_DEVICE.
 * Numerics: exact; every bit is a function of the source (the offset rule is in moe_layout.h).
 * Cost: reads 17/32 B and writes 17/32 B per weight: 26.5 MB per expert of 2880 x 2880, 6.2 us at 4.3 TB/s.
 * Source: openai/gpt-oss torch/weights.py, deepseek-ai inference/convert.py (layouts); OCP MX v1.0.
 * Test: build/cuda/test_repack    Bench: build/cuda/bench_route repack
 */
#include <cuda_runtime.h>
#include <stdint.h>

#include "device/cluster.cuh"
#include "device/launch.cuh"
#include "moe_layout.h"
#include "moxie_ops.h"
extern "C" {
#include "base/err.h"
}

constexpr int MAX_CTAS = 8, MAX_THREADS = 512; /* of moe_scale_max_kernel, for one expert: the largest portable cluster */

/* mul[e] = 2^max(0, most - 128), most = largest byte but 255 of a[e] and b[e] (b may be NULL), n16 16-byte words each. */
__global__ void __launch_bounds__(MAX_THREADS) moe_scale_max_kernel(const uint4 *a, const uint4 *b, size_t n16, float *mul)
{
	__shared__ uint32_t warp_max[MAX_THREADS / 32], block_max;
	const int e = blockIdx.y, lane = threadIdx.x & 31;
	uint32_t most = 0; /* four bytes side by side */
	pdl_wait();
	for (int m = 0; m < 2; m++) {
		const uint4 *p = m ? b : a;
		if (!p)
			continue;
		p += (size_t)e * n16;
		for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n16; i += (size_t)gridDim.x * blockDim.x) {
			const uint4 v = p[i];
			const uint32_t w[4] = { v.x, v.y, v.z, v.w };
#pragma unroll
			for (int j = 0; j < 4; j++)
				most = __vmaxu4(most, w[j] & ~__vcmpeq4(w[j], 0xffffffffu));
		}
	}
	most = max(max(most & 0xff, most >> 8 & 0xff), max(most >> 16 & 0xff, most >> 24));
	most = __reduce_max_sync(0xffffffffu, most);
	if (lane == 0)
		warp_max[threadIdx.x / 32] = most;
	__syncthreads();
	if (threadIdx.x < 32) {
		most = __reduce_max_sync(0xffffffffu, lane < MAX_THREADS / 32 ? warp_max[lane] : 0);
		if (lane == 0)
			block_max = most;
	}
	__syncthreads();
	cluster_arrive();
	cluster_wait();
	if (blockIdx.x == 0 && threadIdx.x < 32) {
		uint32_t v = block_max;
		if (lane < gridDim.x && gridDim.x > 1) v = cluster_load(cluster_address(&block_max, lane));
		most = __reduce_max_sync(0xffffffffu, v);
		if (lane == 0)
			mul[e] = __uint_as_float(127 + (most > 128 ? most - 128 : 0) << 23);
	}
	cluster_arrive();
	cluster_wait(); /* block_max is still read */
}

/* Where a matrix's packed rows come from: packed row 16 w + g of row block b is row (unit * b + w8 * w + g) * step of lo,
 * packed row 16 w + g + 8 the same row of hi. */
struct repack_source {
	const uint8_t *lo, *hi;             /* codes, of expert 0 */
	const uint8_t *lo_scale, *hi_scale; /* scales */
	size_t expert_rows;                 /* rows of an expert in lo (and in hi) */
	int unit, w8, step;
};

/* Byte shift / 8 of w, a pair of codes -> the pair as two halves in bf16 position (mask 0x81C0), rotated right by ROT. */
template <int ROT> __device__ __forceinline__ uint32_t place_pair(uint32_t w, int shift)
{
	const uint32_t b = w >> shift, x = (b & 0xfu) | (b << 12 & 0x000f0000u);
	const uint32_t y = (x << 12 & 0x80008000u) | (x << 6 & 0x01c001c0u);
	return __funnelshift_r(y, y, ROT);
}

/* Two k16 steps: lo, hi are 16 bytes (k group of 32) of rows r and r + 8; shift = 8 * lane of the quad. */
__device__ __forceinline__ uint2 place_steps(uint4 lo, uint4 hi, int shift)
{
	constexpr uint32_t LEFT = 0x60306030u; /* what the three clean pairs of word 0 leave over */
	uint32_t u = place_pair<0>(lo.x, shift) | place_pair<6>(hi.x, shift) | place_pair<12>(lo.y, shift);
	uint32_t v = place_pair<2>(lo.z, shift) | place_pair<8>(hi.z, shift) | place_pair<14>(lo.w, shift);
	const uint32_t m = place_pair<4>(hi.y, shift) | place_pair<10>(hi.w, shift);
	return make_uint2(u | (m & LEFT), v | (m & ~LEFT));
}

constexpr int ATOMS_AHEAD = 2; /* loaded together; 1, 2 and 4 measured within 5 % */

/* Grid: (parts of k, row blocks, experts); 128 threads = the warpgroup that will own the atom. */
__global__ void __launch_bounds__(128) moe_repack_kernel(const repack_source s, int k, const float *mul, uint8_t *out)
{
	const int k_atoms = k / 64, row_block = blockIdx.y, n_row_block = gridDim.y, e = blockIdx.z;
	const int w = threadIdx.x / 32, g = (threadIdx.x & 31) / 4, q = threadIdx.x & 3;
	const size_t row = (size_t)e * s.expert_rows + (size_t)(s.unit * row_block + s.w8 * w + g) * s.step;
	const uint8_t *const lo = s.lo + row * (k / 2), *const hi = s.hi + row * (k / 2);
	const uint8_t *const lo_scale = s.lo_scale + row * (k / 32), *const hi_scale = s.hi_scale + row * (k / 32);
	const int offset = (int)(__float_as_uint(mul[e]) >> 23) - 127;
	uint8_t *const dst = out + ((size_t)e * n_row_block + row_block) * k_atoms * MOE_ATOM_BYTES;
	const int first = (int)((long long)k_atoms * blockIdx.x / gridDim.x), last = (int)((long long)k_atoms * (blockIdx.x + 1) / gridDim.x);

	for (int a0 = first; a0 < last; a0 += ATOMS_AHEAD) {
		uint4 l[ATOMS_AHEAD][2], h[ATOMS_AHEAD][2];
		uint32_t ls[ATOMS_AHEAD], hs[ATOMS_AHEAD];
#pragma unroll
		for (int i = 0; i < ATOMS_AHEAD; i++) {
			const int a = min(a0 + i, last - 1);
#pragma unroll
			for (int j = 0; j < 2; j++) {
				l[i][j] = __ldg(reinterpret_cast<const uint4 *>(lo + (size_t)a * 32 + j * 16));
				h[i][j] = __ldg(reinterpret_cast<const uint4 *>(hi + (size_t)a * 32 + j * 16));
			}
			ls[i] = __ldg(reinterpret_cast<const uint16_t *>(lo_scale + 2 * a)), hs[i] = __ldg(reinterpret_cast<const uint16_t *>(hi_scale + 2 * a));
		}
#pragma unroll
		for (int i = 0; i < ATOMS_AHEAD; i++) {
			if (a0 + i >= last)
				break;
			uint8_t *const atom = dst + (size_t)(a0 + i) * MOE_ATOM_BYTES;
			const uint2 x = place_steps(l[i][0], h[i][0], 8 * q), y = place_steps(l[i][1], h[i][1], 8 * q);
			__stcs(reinterpret_cast<uint4 *>(atom) + threadIdx.x, make_uint4(x.x, x.y, y.x, y.y));
			if (q == 0)
				reinterpret_cast<uint32_t *>(atom + MOE_ATOM_CODES)[w * 8 + g] =
				    moe_pack_scales(moe_scale_field(ls[i] & 0xff, offset), moe_scale_field(hs[i] & 0xff, offset),
				                    moe_scale_field(ls[i] >> 8, offset), moe_scale_field(hs[i] >> 8, offset));
		}
	}
}

__global__ void bf16_to_f32_kernel(const uint16_t *in, float *out, size_t n)
{
	for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
		out[i] = __uint_as_float((uint32_t)in[i] << 16);
}

/* two: lo and hi are different tensors, both hold scales of the matrix. */
static cudaError_t repack_matrix(const repack_source &s, bool two, int n_row_block, int k, int n_part, float *mul, uint8_t *out, cudaStream_t stream)
{
	const size_t n16 = s.expert_rows * (size_t)(k / 32) / 16;
	const int n_cta = cuda_has_pdl() ? MAX_CTAS : 1; /* both came with sm_90 */
	cudaError_t rc = cuda_launch_cluster(moe_scale_max_kernel, n_cta, dim3(n_cta, n_part), dim3(MAX_THREADS), 0, stream,
	                                     reinterpret_cast<const uint4 *>(s.lo_scale), two ? reinterpret_cast<const uint4 *>(s.hi_scale) : nullptr,
	                                     n16, mul);
	if (rc)
		return rc;
	const int k_atoms = k / 64, parts = k_atoms < 8 ? 1 : k_atoms / 8; /* 8 atoms: 256 bytes of each row */
	moe_repack_kernel<<<dim3(parts, n_row_block, n_part), 128, 0, stream>>>(s, k, mul, out);
	return cudaGetLastError();
}

static int check(int n_expert, int n_embd, int n_ff, struct moxie_err *err)
{
	if (n_expert < 1 || n_expert > 65535)
		return err_set(err, MOXIE_E_ARG, "n_expert is %d, wanted 1..65535", n_expert);
	if (n_embd < 64 || n_embd % 64 || n_ff < 64 || n_ff % 64)
		return err_set(err, MOXIE_E_SHAPE, "n_embd %d and n_ff %d must be multiples of 64", n_embd, n_ff);
	return MOXIE_OK;
}

extern "C" int moxie_moe_pack_bytes(int n_expert, int n_embd, int n_ff, struct moxie_moe_pack_sizes *sizes, struct moxie_err *err)
{
	const int rc = check(n_expert, n_embd, n_ff, err);
	if (rc)
		return rc;
	sizes->gate_up = (uint64_t)moe_gate_up_bytes(n_expert, n_embd, n_ff);
	sizes->down = (uint64_t)moe_down_bytes(n_expert, n_embd, n_ff);
	sizes->gate_up_mul = sizes->down_mul = (uint64_t)n_expert * 4;
	sizes->gate_up_bias = (uint64_t)n_expert * n_ff * 8;
	sizes->down_bias = (uint64_t)n_expert * n_embd * 4;
	return MOXIE_OK;
}

extern "C" int moxie_moe_pack(const struct moxie_moe_pack_args *a, void *stream_, struct moxie_err *err)
{
	const cudaStream_t stream = static_cast<cudaStream_t>(stream_);
	const int n_part = a->n_expert_part ? a->n_expert_part : a->n_expert, oss = a->source == MOXIE_MOE_GPT_OSS;
	int rc = check(a->n_expert, a->n_embd, a->n_ff, err);
	if (rc)
		return rc;
	if (!oss && a->source != MOXIE_MOE_DEEPSEEK_V4)
		return err_set(err, MOXIE_E_ARG, "source is %d, wanted 0 or 1", a->source);
	if (a->expert0 < 0 || n_part < 1 || a->expert0 + n_part > a->n_expert)
		return err_set(err, MOXIE_E_ARG, "experts [%d, %d + %d) are not inside [0, %d)", a->expert0, a->expert0, n_part, a->n_expert);
	const struct {
		const char *name;
		const void *p;
		bool needed;
		int align;
	} ptr[] = {
		{ "gate_up", a->gate_up, oss != 0, 16 }, { "gate_up_scale", a->gate_up_scale, oss != 0, 16 },
		{ "gate", a->gate, !oss, 16 }, { "gate_scale", a->gate_scale, !oss, 16 }, { "up", a->up, !oss, 16 },
		{ "up_scale", a->up_scale, !oss, 16 }, { "down", a->down, true, 16 }, { "down_scale", a->down_scale, true, 16 },
		{ "out.gate_up", a->out.gate_up, true, 128 }, { "out.down", a->out.down, true, 128 },
		{ "out.gate_up_mul", a->out.gate_up_mul, true, 4 }, { "out.down_mul", a->out.down_mul, true, 4 },
		{ "out.gate_up_bias", a->out.gate_up_bias, a->gate_up_bias != NULL, 4 },
		{ "out.down_bias", a->out.down_bias, a->down_bias != NULL, 4 },
	};
	for (const auto &q : ptr) {
		if (q.needed && !q.p)
			return err_set(err, MOXIE_E_ARG, "%s is NULL", q.name);
		if ((uintptr_t)q.p % q.align)
			return err_set(err, MOXIE_E_ARG, "%s is %p, not aligned to %d bytes", q.name, q.p, q.align);
	}
	const int n_embd = a->n_embd, n_ff = a->n_ff, e0 = a->expert0;
	repack_source gate_up = {}, down = {};
	if (oss) { /* 64 source rows = 32 gate and 32 up, in turn */
		gate_up.lo = static_cast<const uint8_t *>(a->gate_up), gate_up.hi = gate_up.lo + n_embd / 2;
		gate_up.lo_scale = static_cast<const uint8_t *>(a->gate_up_scale), gate_up.hi_scale = gate_up.lo_scale + n_embd / 32;
		gate_up.expert_rows = 2 * (size_t)n_ff, gate_up.step = 2;
	} else {
		gate_up.lo = static_cast<const uint8_t *>(a->gate), gate_up.hi = static_cast<const uint8_t *>(a->up);
		gate_up.lo_scale = static_cast<const uint8_t *>(a->gate_scale), gate_up.hi_scale = static_cast<const uint8_t *>(a->up_scale);
		gate_up.expert_rows = (size_t)n_ff, gate_up.step = 1;
	}
	gate_up.unit = 32, gate_up.w8 = 8;
	down.lo = static_cast<const uint8_t *>(a->down), down.hi = down.lo + (size_t)8 * (n_ff / 2);
	down.lo_scale = static_cast<const uint8_t *>(a->down_scale), down.hi_scale = down.lo_scale + (size_t)8 * (n_ff / 32);
	down.expert_rows = (size_t)n_embd, down.unit = 64, down.w8 = 16, down.step = 1;
	uint8_t *const gu = static_cast<uint8_t *>(a->out.gate_up) + moe_gate_up_bytes(e0, n_embd, n_ff);
	uint8_t *const dn = static_cast<uint8_t *>(a->out.down) + moe_down_bytes(e0, n_embd, n_ff);
	cudaError_t ce = repack_matrix(gate_up, !oss, n_ff / 32, n_embd, n_part, a->out.gate_up_mul + e0, gu, stream);
	if (!ce)
		ce = repack_matrix(down, false, n_embd / 64, n_ff, n_part, a->out.down_mul + e0, dn, stream);
	if (!ce && a->gate_up_bias) { /* rows are interleaved as [n_ff][2] already */
		const size_t n = (size_t)n_part * n_ff * 2;
		bf16_to_f32_kernel<<<256, 256, 0, stream>>>(static_cast<const uint16_t *>(a->gate_up_bias), a->out.gate_up_bias + (size_t)e0 * n_ff * 2, n);
		ce = cudaGetLastError();
	}
	if (!ce && a->down_bias) {
		const size_t n = (size_t)n_part * n_embd;
		bf16_to_f32_kernel<<<256, 256, 0, stream>>>(static_cast<const uint16_t *>(a->down_bias), a->out.down_bias + (size_t)e0 * n_embd, n);
		ce = cudaGetLastError();
	}
	return ce ? err_set(err, MOXIE_E_DEVICE, "packing experts: %s", cudaGetErrorString(ce)) : MOXIE_OK;
}
