/* bandwidth - how fast this device reads its memory, as a ceiling to measure against: the best of a few passes over n_bytes.
 *
 *   p  [n_bytes], 16-byte aligned, only read
 *
 * Map: 8 CTAs of 256 threads an SM, each thread with 8 loads of 16 bytes under way.   Cost: reads n_bytes N_PASS times; waits.
 */
#include "backend.h"

constexpr int N_PASS = 8, DEEP = 8;

__global__ void __launch_bounds__(256) read_kernel(const uint4 *p, size_t n, uint32_t *never)
{
	const size_t step = (size_t)gridDim.x * blockDim.x;
	uint32_t x = 0;
	for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i + (DEEP - 1) * step < n; i += DEEP * step) {
		uint4 v[DEEP];
#pragma unroll
		for (int j = 0; j < DEEP; j++)
			v[j] = __ldcs(p + i + j * step);
#pragma unroll
		for (int j = 0; j < DEEP; j++)
			x += v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
	}
	if (x == 0x9e3779b9u && n == 0) /* keeps the loads alive */
		*never = x;
}

double cuda_bandwidth(struct kern *k, const void *p, size_t n_bytes)
{
	struct cuda *c = cuda_of(k);
	cudaEvent_t at[2] = {};
	float best = 0;
	bool ok = cuda_ok(c, cudaEventCreate(&at[0]), "an event") && cuda_ok(c, cudaEventCreate(&at[1]), "an event");
	for (int i = 0; ok && i < N_PASS; i++) {
		float ms = 0;
		ok = cuda_ok(c, cudaEventRecord(at[0], c->dev.stream), "reading memory");
		read_kernel<<<8 * c->dev.n_sm, 256, 0, c->dev.stream>>>((const uint4 *)p, n_bytes / 16, (uint32_t *)c->dev.scratch);
		ok = ok && cuda_ok(c, cudaEventRecord(at[1], c->dev.stream), "reading memory") && cuda_ok(c, cudaEventSynchronize(at[1]), "reading memory") &&
		     cuda_ok(c, cudaEventElapsedTime(&ms, at[0], at[1]), "reading memory");
		best = ok && (best == 0 || ms < best) ? ms : best;
	}
	for (int i = 0; i < 2; i++)
		if (at[i])
			cudaEventDestroy(at[i]);
	return best > 0 ? (double)n_bytes / (best * 1e-3) : 0;
}
