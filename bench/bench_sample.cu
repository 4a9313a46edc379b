/* bench_sample.cu - sampling on the device: time per call inside a CUDA graph, logits of 201088 tokens, normal with deviation 3.
 *
 *   build/cuda/bench_sample
 *
 * A graph holds N calls one after the other; `cold` rotates the logits over more than L2 holds, `warm` lets them lie there, as those of
 * a few rows do when the layer before has just written them.  Median of 15 replays, divided by N.  The floor is one read of the
 * logits at 4.3 TB/s (penalties: and one of the counts).
 */
#include <algorithm>
#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

#include "../tests/cuda/cu.cuh"
#include "sample.h"

enum { N_VOCAB = 201088, MAX_ROW = 128, N_SET = 6 };

__global__ void fill_normal(float *p, size_t n)
{
	for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
		uint64_t z = (i + 1) * 0x9e3779b97f4a7c15ull;
		z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
		z = (z ^ z >> 27) * 0x94d049bb133111ebull;
		const float u = ((uint32_t)z >> 8 | 1) * 0x1p-24f, v = (uint32_t)(z >> 40) * 0x1p-24f;
		p[i] = 3 * sqrtf(-2 * logf(u)) * cospif(2 * v);
	}
}

static struct cuda_dev d;
static float *logits;
static uint32_t *hist;

static double call_us(const struct sample_args *a, int n_set)
{
	const int n = a->n_row > 16 ? 12 : 120;
	struct moxie_err err;
	cudaGraph_t g;
	cudaGraphExec_t x;
	cudaEvent_t e0, e1;
	std::vector<float> us;
	CU(cudaStreamBeginCapture(d.stream, cudaStreamCaptureModeThreadLocal));
	for (int i = 0; i < n; i++) {
		struct sample_args one = *a;
		one.logits = logits + (size_t)(i % n_set) * a->n_row * N_VOCAB;
		if (cuda_sample(&d, &one, &err))
			printf("%s\n", err.text), exit(1);
	}
	CU(cudaStreamEndCapture(d.stream, &g));
	CU(cudaGraphInstantiate(&x, g, 0));
	CU(cudaEventCreate(&e0)), CU(cudaEventCreate(&e1));
	for (int i = 0; i < 18; i++) {
		float ms;
		CU(cudaEventRecord(e0, d.stream)), CU(cudaGraphLaunch(x, d.stream)), CU(cudaEventRecord(e1, d.stream));
		CU(cudaEventSynchronize(e1)), CU(cudaEventElapsedTime(&ms, e0, e1));
		if (i >= 3)
			us.push_back(ms * 1000 / n);
	}
	CU(cudaEventDestroy(e0)), CU(cudaEventDestroy(e1)), CU(cudaGraphExecDestroy(x)), CU(cudaGraphDestroy(g));
	std::sort(us.begin(), us.end());
	return us[us.size() / 2];
}

int main(void)
{
	static const struct {
		const char *name;
		float temperature, top_p, min_p, repetition;
		int top_k, n_top;
	} kind[] = {
		{ "greedy, no parameters", 0, 0, 0, 0, 0, -1 },
		{ "greedy by parameters", 0, 0, 0, 0, 0, -1 },
		{ "temperature", 1, 0, 0, 0, 0, -1 },
		{ "temperature, top-p 0.9", 1, 0.9f, 0, 0, 0, -1 },
		{ "temperature, top-k 40", 1, 0, 0, 0, 40, -1 },
		{ "top-k, top-p, min-p, penalties", 0.8f, 0.95f, 0.02f, 1.1f, 64, -1 },
		{ "greedy, 20 log-probabilities", 0, 0, 0, 0, 0, 20 },
	};
	int n;
	CU(cudaDeviceGetAttribute(&d.n_sm, cudaDevAttrMultiProcessorCount, 0));
	CU(cudaDeviceGetAttribute(&n, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
	d.shared_per_block = (size_t)n;
	CU(cudaStreamCreateWithFlags(&d.stream, cudaStreamNonBlocking));
	CU(cudaMalloc(&logits, (size_t)N_SET * MAX_ROW * N_VOCAB * 4)), CU(cudaMalloc(&hist, (size_t)MAX_ROW * N_VOCAB * 4));
	CU(cudaMemset(hist, 0, (size_t)MAX_ROW * N_VOCAB * 4));
	fill_normal<<<1024, 256>>>(logits, (size_t)N_SET * MAX_ROW * N_VOCAB);
	struct sample_row *row;
	struct sample_args a = {};
	CU(cudaMalloc(&row, MAX_ROW * sizeof *row)), CU(cudaMalloc(&a.id, MAX_ROW * 4)), CU(cudaMalloc(&a.logprob, MAX_ROW * 4));
	CU(cudaMalloc(&a.top_id, MAX_ROW * SAMPLE_TOP_MAX * 4)), CU(cudaMalloc(&a.top_logprob, MAX_ROW * SAMPLE_TOP_MAX * 4));
	CU(cudaDeviceSynchronize());
	a.n_vocab = N_VOCAB;
	for (size_t k = 0; k < sizeof kind / sizeof *kind; k++)
		for (int n_row : { 1, 8, 64, 128 }) {
			std::vector<struct sample_row> r(MAX_ROW);
			memset(r.data(), 0, r.size() * sizeof r[0]);
			for (int i = 0; i < MAX_ROW; i++) {
				r[i].seed = (uint64_t)i * 977 + 1, r[i].temperature = kind[k].temperature, r[i].top_p = kind[k].top_p, r[i].min_p = kind[k].min_p;
				r[i].repetition_penalty = kind[k].repetition, r[i].top_k = kind[k].top_k, r[i].n_top = kind[k].n_top;
				r[i].hist = kind[k].repetition > 0 ? i : -1, r[i].append = 1;
			}
			CU(cudaMemcpy(row, r.data(), r.size() * sizeof r[0], cudaMemcpyHostToDevice));
			a.row = k ? row : NULL;
			a.hist = kind[k].repetition > 0 ? hist : NULL;
			a.n_row = n_row;
			const double floor = (double)n_row * N_VOCAB * (a.hist ? 8 : 4) / 4.3e6;
			const double cold = call_us(&a, N_SET * MAX_ROW / n_row), warm = call_us(&a, 1);
			printf("sample %-31s rows %3d | cold %7.2f us | warm %7.2f us | floor %6.2f us | %3.0f %% of it cold\n", kind[k].name, n_row, cold, warm,
			       floor, 100 * floor / cold);
		}
	return 0;
}
