/* bench_fp8 - the FP8 block-scaled GEMM on the device.
 *
 * One CUDA graph of n_call products chained by programmatic dependent launch, each with a weight set of its own, more than the L2
 * in all; value = median replay / n_call.  x and w are normal numbers as a quantiser leaves them: what they are decides how much power, and so
 * which clock, a long product gets.  The read ceiling is measured in the same run.
 * Usage: bench_fp8 [--sweep] [--bits] [--choice instance,split,per_sm] [--tokens 1,8,...] [--shape i] [--replays n] [--rest ms] [--header text]
 *   --sweep   every instance, split and CTAs an SM, not only the plan's choice
 *   --bits    x and w are random bits instead
 *   --choice  one launch of that choice and no times: for a profiler
 */
#include <algorithm>
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <vector>

#include "../tests/cuda/cu.cuh"
#include "fp8_gemm.h"
#include "moxie_fp8.h"

enum content { BITS, NORMAL_X, NORMAL_W, SCALES };
/* BITS: any e4m3 below 2.  NORMAL: what a quantiser makes of normal numbers, whose largest of 128 (x) or 128 x 128 (w) is 448. */
__global__ static void fill(uint8_t *p, size_t n, uint32_t seed, content what)
{
	for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n / 4; i += (size_t)gridDim.x * blockDim.x) {
		uint32_t word = 0;
		for (int b = 0; b < 4; b++) {
			uint64_t x = (i * 4 + b + ((uint64_t)seed << 40)) * 0x9E3779B97F4A7C15ull;
			x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
			x = (x ^ x >> 27) * 0x94D049BB133111EBull;
			x ^= x >> 31;
			const float u = (float)((x >> 40) + 1) / 16777217.f, v = (float)(x & 0xffffff) / 16777216.f, z = sqrtf(-2 * logf(u)) * cospif(2 * v);
			if (what == SCALES) {
				((float *)p)[i] = exp2f((float)(x % 5) - 8);
				break;
			}
			const uint32_t normal = (uint32_t)__nv_cvt_float_to_fp8(z * (what == NORMAL_X ? 160 : 115), __NV_SATFINITE, __NV_E4M3);
			word |= (what == BITS ? (uint32_t)(x >> 32) & 0xbf : normal) << 8 * b;
		}
		if (what != SCALES) ((uint32_t *)p)[i] = word;
	}
}
__global__ static void read_all(const uint4 *p, size_t n, uint32_t *out)
{
	uint32_t v = 0;
	for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
		const uint4 u = __ldcs(p + i);
		v ^= u.x ^ u.y ^ u.z ^ u.w;
	}
	if (v == 12345) *out = v;
}
static void *device_alloc(size_t n, int seed, content what)
{
	void *p;
	CU(cudaMalloc(&p, n + 64));
	fill<<<1024, 256>>>((uint8_t *)p, n, (uint32_t)seed, what);
	return p;
}
static double median(std::vector<float> v)
{
	std::sort(v.begin(), v.end());
	return v[v.size() / 2];
}

struct shape {
	int n_out, n_in;
	double goal[5], peer[5], goal_large, peer_large; /* us at 1, 8, 16, 32, 64 tokens; TFLOP/s at 4096 */
};
static const shape shapes[] = {
	{ 24576, 1536, { 11.5, 11.5, 11.5, 11.5, 11.5 }, { 15.1, 15.1, 15.1, 15.1, 15.1 }, 1300, 1308 },
	{ 4096, 7168, { 9.5, 9.5, 9.5, 9.5, 9.5 }, { 12, 12, 12, 12, 15 }, 1300, 1440 },
	{ 7168, 16384, { 31.5, 31.5, 31.5, 31.5, 31.5 }, { 35.5, 35.5, 36, 37, 39 }, 1300, 1380 },
	{ 2112, 7168, { 7, 7, 7, 7, 7 }, { 10, 10, 11, 12, 14 }, 0, 0 },
	{ 7168, 2048, { 6, 6, 6, 6, 6 }, { 7.4, 7.4, 7.4, 7.4, 7.4 }, 0, 0 },
};

struct run {
	cudaStream_t stream;
	int replays, rest_ms;
	bool bits;
	double read_tb;
};

template <class F> static double time_us(const run &r, int n_call, F call)
{
	cudaGraph_t graph;
	cudaGraphExec_t exec;
	cudaEvent_t a, b;
	CU(cudaStreamBeginCapture(r.stream, cudaStreamCaptureModeThreadLocal));
	for (int i = 0; i < n_call; i++)
		call(i);
	CU(cudaStreamEndCapture(r.stream, &graph));
	CU(cudaGraphInstantiate(&exec, graph, 0));
	CU(cudaEventCreate(&a));
	CU(cudaEventCreate(&b));
	std::vector<float> us;
	for (int i = 0; i < r.replays + 2; i++) {
		float ms;
		if (r.rest_ms) usleep((useconds_t)r.rest_ms * 1000);
		CU(cudaEventRecord(a, r.stream));
		CU(cudaGraphLaunch(exec, r.stream));
		CU(cudaEventRecord(b, r.stream));
		CU(cudaEventSynchronize(b));
		CU(cudaEventElapsedTime(&ms, a, b));
		if (i >= 2) us.push_back(ms * 1000 / n_call);
	}
	CU(cudaEventDestroy(a));
	CU(cudaEventDestroy(b));
	CU(cudaGraphExecDestroy(exec));
	CU(cudaGraphDestroy(graph));
	return median(us);
}

static void line(const run &r, const shape &s, int n_tok, const char *what, double us)
{
	const double w = (double)s.n_out * s.n_in, bytes = w + n_tok * (double)s.n_in + 2. * n_tok * s.n_out, flop = 2. * n_tok * w;
	const double floor = std::max(bytes / r.read_tb / 1e6, flop / 1580e6);
	static const int at[] = { 1, 8, 16, 32, 64 };
	double goal = 0, peer = 0;
	for (int i = 0; i < 5; i++)
		if (at[i] == n_tok) goal = s.goal[i], peer = s.peer[i];
	if (n_tok == 4096 && s.goal_large > 0) goal = flop / s.goal_large / 1e6, peer = flop / s.peer_large / 1e6;
	printf("%d,%d,%d,%s,%.2f,%.2f,%.0f,%.2f,%.2f,%.1f,%.1f,%s\n", s.n_out, s.n_in, n_tok, what, us, bytes / us / 1e6, flop / us / 1e6, floor, floor / us, goal, peer,
	       goal > 0 ? us <= goal ? "yes" : "NO" : "");
	fflush(stdout);
}

static void bench(const run &r, const shape &s, const std::vector<int> &tokens, bool sweep, fp8_force one)
{
	const size_t bytes = (size_t)s.n_out * s.n_in, n_scale = (size_t)((s.n_out + 127) / 128) * (s.n_in / 128);
	const int n_call = (int)std::max<size_t>(4, (300u << 20) / bytes), most = *std::max_element(tokens.begin(), tokens.end());
	std::vector<void *> w, ws;
	for (int i = 0; i < n_call; i++) {
		w.push_back(device_alloc(bytes, i, r.bits ? BITS : NORMAL_W));
		ws.push_back(device_alloc(n_scale * 4, i + 100, SCALES));
	}
	void *x = device_alloc((size_t)most * s.n_in, 999, r.bits ? BITS : NORMAL_X), *xs = device_alloc((size_t)most * (s.n_in / 128) * 4, 998, SCALES), *out = device_alloc((size_t)most * s.n_out * 2, 0, BITS);
	moxie_fp8_desc d = { MOXIE_FP8_DENSE, 1, s.n_out, s.n_in, MOXIE_FP8_SCALE_F32 };
	moxie_err err = {};
	moxie_fp8_plan *p;
	if (moxie_fp8_plan_create(&p, &d, 0, &err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		exit(1);
	}
	char text[4096];
	moxie_fp8_plan_explain(p, text, sizeof text);
	fprintf(stderr, "%s", text);
	CU(cudaDeviceSynchronize());
	for (int n_tok : tokens) {
		moxie_fp8_args a = { x, (const float *)xs, n_tok, NULL, NULL, out, NULL, n_tok };
		int rc = 0;
		if (one.instance >= 0) { /* once, outside a graph: for a profiler */
			a.w = w[0], a.w_scale = ws[0];
			if (fp8_gemm_forced(p, &a, &one, r.stream, &err) < 0) fprintf(stderr, "%s\n", err.text);
			CU(cudaDeviceSynchronize());
			continue;
		}
		const double us = time_us(r, n_call, [&](int i) {
			a.w = w[i], a.w_scale = ws[i];
			rc |= moxie_fp8_gemm(p, &a, r.stream, &err);
		});
		line(r, s, n_tok, rc ? "FAILED" : "plan", us);
		for (int i = 0; sweep && i < fp8_n_instance; i++)
			for (int split = 1; split <= 4; split++)
				for (int per_sm = 1; per_sm <= 6; per_sm++) {
					static const int tok[] = { 8, 16, 24, 32, 40, 48, 56, 64, 64, 64, 128, 128, 128, 256 };
					if (n_tok <= 64 ? tok[i] < n_tok || tok[i] > std::max(8, (n_tok + 7) / 8 * 8) * 4 : tok[i] < 64) continue;
					if (i >= 12 && split > 1) continue;
					for (int own = split > 1 ? per_sm : std::max(1, per_sm / 2); own <= per_sm; own++)
						for (int late : { 0, 2, 4, 1 << 20 }) {
							const fp8_force f = { i, split, per_sm, own, late };
							if (i >= 11 && late != 1 << 20) continue;
							if (fp8_gemm_forced(p, &a, &f, r.stream, &err) < 0) continue;
							char what[64];
							snprintf(what, sizeof what, "i%d split%d sm%d own%d late%d", i, split, per_sm, own, late);
							line(r, s, n_tok, what, time_us(r, n_call, [&](int j) {
								     a.w = w[j], a.w_scale = ws[j];
								     fp8_gemm_forced(p, &a, &f, r.stream, &err);
							     }));
						}
				}
	}
	moxie_fp8_plan_free(p);
	for (int i = 0; i < n_call; i++)
		cudaFree(w[i]), cudaFree(ws[i]);
	cudaFree(x), cudaFree(xs), cudaFree(out);
}

int main(int argc, char **argv)
{
	bool sweep = false;
	fp8_force only_choice = { -1, 1, 1, 1, 1 << 20 };
	std::vector<int> tokens;
	const char *header = "";
	int only = -1;
	run r = { NULL, 15, 0, false, 0 };
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--sweep")) sweep = true;
		else if (!strcmp(argv[i], "--bits")) r.bits = true;
		else if (!strcmp(argv[i], "--choice") && i + 1 < argc) sscanf(argv[++i], "%d,%d,%d,%d,%d", &only_choice.instance, &only_choice.n_split, &only_choice.per_sm, &only_choice.per_kernel, &only_choice.n_late);
		else if (!strcmp(argv[i], "--shape") && i + 1 < argc) only = atoi(argv[++i]);
		else if (!strcmp(argv[i], "--replays") && i + 1 < argc) r.replays = atoi(argv[++i]);
		else if (!strcmp(argv[i], "--rest") && i + 1 < argc) r.rest_ms = atoi(argv[++i]);
		else if (!strcmp(argv[i], "--header") && i + 1 < argc) header = argv[++i];
		else if (!strcmp(argv[i], "--tokens") && i + 1 < argc)
			for (char *p = argv[++i]; *p; p += *p == ',')
				tokens.push_back((int)strtol(p, &p, 10));
		else {
			fprintf(stderr, "usage: bench_fp8 [--sweep] [--bits] [--choice instance,split,per_sm] [--tokens 1,8,...] [--shape i] [--replays n] [--rest ms] [--header text]\n");
			return 2;
		}
	}
	if (tokens.empty()) tokens = { 1, 8, 16, 32, 64, 128, 256, 1024, 4096 };
	CU(cudaStreamCreate(&r.stream));
	const size_t n = 2ull << 30;
	void *big = device_alloc(n, 5, BITS), *sink = device_alloc(4, 5, BITS);
	CU(cudaDeviceSynchronize());
	for (int i = 0; i < 600; i++) /* a third of a second: clocks rise */
		read_all<<<132 * 8, 512, 0, r.stream>>>((const uint4 *)big, n / 16, (uint32_t *)sink);
	r.read_tb = n / time_us(r, 1, [&](int) { read_all<<<132 * 8, 512, 0, r.stream>>>((const uint4 *)big, n / 16, (uint32_t *)sink); }) / 1e6;
	CU(cudaFree(big));
	cudaDeviceProp prop;
	CU(cudaGetDeviceProperties(&prop, 0));
	printf("# %s, %d SMs; %s\n# command: bench_fp8", prop.name, prop.multiProcessorCount, header);
	for (int i = 1; i < argc; i++)
		printf(" %s", argv[i]);
	printf("\n# floor: max(bytes / %.2f TB/s as read here, flops / 1580 TFLOP/s); goal and peer (DeepGEMM) in us\n", r.read_tb);
	printf("n_out,n_in,n_tok,what,us,TB_s,TFLOP_s,floor_us,fraction,goal_us,peer_us,met\n");
	for (int i = 0; i < (int)(sizeof shapes / sizeof *shapes); i++)
		if (only < 0 || only == i) bench(r, shapes[i], tokens, sweep, only_choice);
	return 0;
}
