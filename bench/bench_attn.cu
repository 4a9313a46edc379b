/* bench_attn - cuda_attn on the device: decode steps and prompts of the GPT-OSS shape, full and sliding layers.
 *
 * One CUDA graph holds n_call calls, each with its own cache, enough of them that none finds its keys in L2; value = median
 * replay / n_call.  Random data.  Prints CSV with floor and fraction of it.
 * Usage: bench_attn [decode|prefill] [--f8] [--replays n] [--quick] [--header text]      --f8: a cache of e4m3
 */
#include <memory>

#include "../tests/cuda/attn_data.cuh"
#include "device/launch.cuh"
#include "device/ptx.cuh"

static const double TB_S = 4.3, TFLOP_S = 790; /* of an H200, on random data: docs/performance.md */
static int replays = 20;
static bool f8;

static double median(std::vector<float> v)
{
	std::sort(v.begin(), v.end());
	return v[v.size() / 2];
}

/* Median time of one replay of whatever enqueue() puts on the stream, us. */
template <class F> static double time_graph(cudaStream_t stream, F enqueue)
{
	cudaGraph_t graph;
	cudaGraphExec_t exec;
	cudaEvent_t a, b;
	CU(cudaEventCreate(&a));
	CU(cudaEventCreate(&b));
	CU(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
	enqueue();
	CU(cudaStreamEndCapture(stream, &graph));
	CU(cudaGraphInstantiate(&exec, graph, 0));
	std::vector<float> us;
	for (int r = 0; r < replays + 3; r++) {
		float ms;
		CU(cudaEventRecord(a, stream));
		CU(cudaGraphLaunch(exec, stream));
		CU(cudaEventRecord(b, stream));
		CU(cudaEventSynchronize(b));
		CU(cudaEventElapsedTime(&ms, a, b));
		if (r >= 3) us.push_back(ms * 1000);
	}
	CU(cudaGraphExecDestroy(exec));
	CU(cudaGraphDestroy(graph));
	CU(cudaEventDestroy(a));
	CU(cudaEventDestroy(b));
	return median(us);
}

/* The ceilings of this card in this run: one large copy, bytes read plus written; a launch in a chain that does nothing. */
__global__ void copy_kernel(uint4 *to, const uint4 *from, int64_t n)
{
	for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (int64_t)blockDim.x)
		to[i] = from[i];
}
__global__ void null_kernel()
{
	pdl_launch();
	pdl_wait();
}
static double copy_tb_s(cudaStream_t stream)
{
	const size_t n = 2ull << 30;
	char *p;
	CU(cudaMalloc(&p, 2 * n));
	CU(cudaMemset(p, 0x5a, 2 * n));
	const double us = time_graph(stream, [&] { copy_kernel<<<132 * 16, 512, 0, stream>>>((uint4 *)p, (const uint4 *)(p + n), n / 16); });
	CU(cudaFree(p));
	return 2 * n / us / 1e6;
}
static double null_us(cudaStream_t stream)
{
	return time_graph(stream, [&] {
		for (int i = 0; i < 100; i++)
			CU(cuda_launch(null_kernel, dim3(1), 32, 0, stream));
	}) / 100;
}

static void bench(const char *what, attn_shape s, const std::vector<std::pair<int, int>> &rows, cudaStream_t stream, int ring_chunk)
{
	s.f8 = f8;
	double n_key = 0, n_kv = 0, n_tok = 0; /* products, positions read */
	for (auto &r : rows) {
		for (int i = 0; i < r.second; i++)
			n_key += s.window > 0 ? std::min(s.window, r.first + i + 1) : r.first + i + 1;
		n_kv += s.window > 0 ? std::min(s.window + r.second - 1, r.first + r.second) : r.first + r.second;
		n_tok += r.second;
	}
	const double bytes = n_kv * s.n_head_kv * s.d_head * (f8 ? 2 : 4) + n_tok * s.n_head * s.d_head * 4, flop = 4 * n_key * s.n_head * s.d_head;
	const int n_set = (int)std::max(1.0, std::min(24.0, ceil(200e6 / bytes))), n_call = bytes > 1e9 || flop > 1e11 ? 2 : std::max(n_set, 8);
	std::vector<std::unique_ptr<attn_batch>> set;
	for (int i = 0; i < n_set; i++)
		set.emplace_back(new attn_batch(s, rows, 7 + i, ring_chunk));
	cuda_dev d = attn_device(s, set[0]->b.n_tok, stream, (int)rows.size(), rows[0].first + rows[0].second);
	const double us = time_graph(stream, [&] {
		for (int c = 0; c < n_call; c++) {
			moxie_err err = {};
			attn_args a = set[c % n_set]->args();
			if (cuda_attn(&d, &a, &err) < 0) {
				fprintf(stderr, "%s\n", err.text);
				exit(1);
			}
		}
	}) / n_call;
	const double floor = std::max(bytes / TB_S / 1e6, flop / TFLOP_S / 1e6);
	printf("%s,%d,%d,%d,%d,%d,%d,%d,%.2f,%.0f,%.1f,%.2f,%.2f\n", what, s.n_head, s.n_head_kv, s.d_head, s.window, (int)rows.size(), (int)n_tok,
	       rows[0].first + rows[0].second, us, bytes / us / 1e3, flop / us / 1e6, floor, floor / us);
	fflush(stdout);
	CU(cudaFree(d.scratch));
}

int main(int argc, char **argv)
{
	const char *only = NULL, *header = "";
	bool quick = false;
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--replays") && i + 1 < argc) replays = atoi(argv[++i]);
		else if (!strcmp(argv[i], "--header") && i + 1 < argc) header = argv[++i];
		else if (!strcmp(argv[i], "--quick")) quick = true;
		else if (!strcmp(argv[i], "--f8")) f8 = true;
		else if (!strcmp(argv[i], "decode") || !strcmp(argv[i], "prefill")) only = argv[i];
		else {
			fprintf(stderr, "usage: bench_attn [decode|prefill] [--f8] [--replays n] [--quick] [--header text]\n");
			return 2;
		}
	}
	cudaStream_t stream;
	CU(cudaStreamCreate(&stream));
	cudaDeviceProp prop;
	CU(cudaGetDeviceProperties(&prop, 0));
	printf("# %s, %d SMs; a large copy moves %.2f TB/s, an empty kernel takes %.2f us in a chain; %s\n", prop.name, prop.multiProcessorCount,
	       copy_tb_s(stream), null_us(stream), header);
	printf("# command: bench_attn");
	for (int i = 1; i < argc; i++)
		printf(" %s", argv[i]);
	printf("\n# floor: max(bytes of K, V, q, o / %.1f TB/s, flops of seen keys / %.0f TFLOP/s)\n", TB_S, TFLOP_S);
	printf("what,n_head,n_head_kv,d_head,window,n_seq,n_tok,n_ctx,us,GB_s,TFLOP_s,floor_us,fraction\n");
	const attn_shape full = { 64, 8, 64, 0, false, true, 0.125f }, ring = { 64, 8, 64, 128, true, true, 0.125f };
	const attn_shape gemma = { 16, 2, 256, 0, false, false, 0.0625f }, d128 = { 32, 8, 128, 0, false, false, 0.088f };
	const auto decode = [&](const attn_shape &s, int n_seq, int n_ctx) {
		bench("decode", s, std::vector<std::pair<int, int>>(n_seq, { n_ctx - 1, 1 }), stream, s.ring ? 512 : 1);
	};
	if (!only || !strcmp(only, "decode")) {
		for (int n_seq : { 1, 8, 64, 128 })
			for (int n_ctx : { 256, 1024, 2048, 4096, 32768 })
				if ((int64_t)n_seq * n_ctx <= 64 * 32768 && !(quick && (n_ctx == 256 || n_ctx == 2048 || n_seq * n_ctx > 300000)))
					decode(full, n_seq, n_ctx);
		decode(full, 1, 131072);
		for (int n_seq : { 1, 8, 64, 128 })
			decode(ring, n_seq, 1024);
		if (!quick)
			for (int n_seq : { 1, 64 }) {
				decode(d128, n_seq, 4096);
				decode(gemma, n_seq, 4096);
				bench("draft 4", full, std::vector<std::pair<int, int>>(n_seq, { 4092, 4 }), stream, 1);
			}
	}
	if (!only || !strcmp(only, "prefill")) {
		for (int n_tok : { 256, 1024, 8192 }) {
			bench("prefill", full, { { 0, n_tok } }, stream, 1);
			bench("prefill", ring, { { 0, n_tok } }, stream, 1);
		}
		bench("prefill", full, { { 30720, 2048 } }, stream, 1);
		if (!quick) {
			bench("prefill", full, std::vector<std::pair<int, int>>(8, { 0, 1024 }), stream, 1);
			bench("prefill", d128, { { 0, 2048 } }, stream, 1);
		}
	}
	return 0;
}
