/* dense_f8.cu - dense weights from bf16 to e4m3, once, when a model is loaded with --dense-dtype fp8.
 *
 *   scl[n] = the least 2^e with largest |w[n][k]| <= 448 2^e (1 for a row of zeros, NaN where one is not finite)
 *   code[n][..] = e4m3(w[n][k] / scl[n]), to nearest, ties to even
 *
 * A power of two: code * scl is then exactly a bf16, and the error, half a step of e4m3 in 448 to 2^-9, does not depend on which scale it is.
 * In every 16 of k the two eights stand interleaved by pairs, 0 1 8 9 2 3 10 11 ..: what dense_small's mma wants.
 * Map: a CTA has a row, a thread 16 k of it at a time.   Cost: 3 n_row n_in bytes.   Test: build/cuda/test_dense f8_pack
 */
#include "dense_out.cuh"
#include "device/ptx.cuh"

constexpr int THREADS = 256;

/* The scale of a row by the bits of its largest |w|; as ref_quant_rows. */
__device__ __forceinline__ float f8_scale(uint32_t most)
{
	if (most >= 0x7f800000u)
		return __uint_as_float(0x7fc00000u);
	const int e = (int)(most >> 23) - 8 + ((most & 0x7fffff) > 0x600000); /* 448 = 1.75 2^8 */
	return most == 0 ? 1.f : __uint_as_float((uint32_t)(e < 1 ? 1 : e) << 23);
}

__global__ void __launch_bounds__(THREADS) dense_f8_kernel(uint8_t *code, float *scl, const uint4 *w, int n_in)
{
	__shared__ uint32_t part[THREADS / 32];
	const int64_t row = blockIdx.x;
	const uint4 *const from = w + row * (n_in / 8);
	uint32_t most = 0;
	for (int i = threadIdx.x; i < n_in / 8; i += THREADS) {
		const uint4 v = from[i];
		for (const uint32_t u : { v.x, v.y, v.z, v.w })
			most = max(most, max(u << 16 & 0x7fff0000u, u & 0x7fff0000u));
	}
	most = __reduce_max_sync(~0u, most);
	if (threadIdx.x % 32 == 0)
		part[threadIdx.x / 32] = most;
	__syncthreads();
	for (int i = 0; i < THREADS / 32; i++)
		most = max(most, part[i]);
	const float scale = f8_scale(most), inv = 1 / scale;
	if (threadIdx.x == 0)
		scl[row] = scale;
	for (int i = threadIdx.x; i < n_in / 16; i += THREADS) {
		const uint4 lo = from[2 * i], hi = from[2 * i + 1];
		const uint32_t l[4] = { lo.x, lo.y, lo.z, lo.w }, h[4] = { hi.x, hi.y, hi.z, hi.w };
		uint32_t out[4];
#pragma unroll
		for (int j = 0; j < 4; j++) {
			const uint32_t first = dense_f8x2(__uint_as_float(l[j] << 16) * inv, __uint_as_float(l[j] & 0xffff0000u) * inv);
			const uint32_t second = dense_f8x2(__uint_as_float(h[j] << 16) * inv, __uint_as_float(h[j] & 0xffff0000u) * inv);
			out[j] = first | second << 16;
		}
		reinterpret_cast<uint4 *>(code + row * n_in)[i] = make_uint4(out[0], out[1], out[2], out[3]);
	}
}

extern "C" cudaError_t dense_f8_pack(uint8_t *code, float *scl, const void *w, int64_t n_row, int n_in, cudaStream_t stream)
{
	if (n_in < 16 || n_in % 16 || n_row < 0 || n_row > INT32_MAX || (uintptr_t)w % 16 || (uintptr_t)code % 16)
		return cudaErrorInvalidValue;
	if (n_row)
		dense_f8_kernel<<<(unsigned)n_row, THREADS, 0, stream>>>(code, scl, static_cast<const uint4 *>(w), n_in);
	return cudaGetLastError();
}
