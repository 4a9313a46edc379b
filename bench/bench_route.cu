/* bench_route.cu - router GEMM, routing and tables: time per call inside a CUDA graph.
 *
 *   build/cuda/bench_route [route | gemm | joined | repack | cluster]     no argument: all but cluster
 *
 * A graph holds N calls that depend on each other through the stream; inputs and weights rotate over more than the L2
 * cache (weights 200 MB; logits of large T likewise).  Median of 15 replays, divided by N.  `plain` is without, `PDL` with
 * programmatic dependent launch.  The floor is bytes over 4.3 TB/s; one dependent launch in a graph costs 0.5 .. 1.1 us
 * on top, whatever it does.
 */
#include <algorithm>
#include <cuda_runtime.h>
#include <functional>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

#include "../tests/cuda/cu.cuh"
#include "moe_route.h"
#include "moxie_ops.h"

constexpr double READ_TB_S = 4.3;

__global__ void fill_f32(float *p, size_t n, float scale)
{
	for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
		uint32_t h = (uint32_t)i * 2654435761u ^ (uint32_t)(i >> 20) * 40503u;
		h ^= h >> 15, h *= 2246822519u, h ^= h >> 13;
		p[i] = ((float)(h & 0xffff) + (float)(h >> 16) - 65536.f) / 32768.f * scale;
	}
}
__global__ void fill_bf16(uint16_t *p, size_t n, float scale)
{
	for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
		uint32_t h = (uint32_t)i * 2654435761u ^ (uint32_t)(i >> 20) * 40503u;
		h ^= h >> 15, h *= 2246822519u, h ^= h >> 13;
		p[i] = (uint16_t)(__float_as_uint(((float)(h & 0xffff) + (float)(h >> 16) - 65536.f) / 32768.f * scale) >> 16);
	}
}

static cudaStream_t stream;

/* us per call of f(i), i = 0..n-1, in a graph. */
static double graph_us(int n, const std::function<void(int)> &f)
{
	cudaGraph_t g;
	cudaGraphExec_t x;
	CU(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
	for (int i = 0; i < n; i++)
		f(i);
	CU(cudaStreamEndCapture(stream, &g));
	CU(cudaGraphInstantiate(&x, g, 0));
	cudaEvent_t a, b;
	CU(cudaEventCreate(&a)), CU(cudaEventCreate(&b));
	std::vector<float> us;
	for (int i = 0; i < 18; i++) {
		float ms;
		CU(cudaEventRecord(a, stream)), CU(cudaGraphLaunch(x, stream)), CU(cudaEventRecord(b, stream));
		CU(cudaEventSynchronize(b)), CU(cudaEventElapsedTime(&ms, a, b));
		if (i >= 3)
			us.push_back(ms * 1000 / n);
	}
	std::sort(us.begin(), us.end());
	CU(cudaEventDestroy(a)), CU(cudaEventDestroy(b)), CU(cudaGraphExecDestroy(x)), CU(cudaGraphDestroy(g));
	return us[us.size() / 2];
}

struct buffers {
	float *logits, *logits_out, *w;
	uint16_t *x, *wr;
	float *bias;
	int32_t *id, *off, *pair, *done;
	void *tiles, *head, *ws;
	size_t n_logit, n_w;
};
static buffers m;

static void allocate(void)
{
	const size_t pairs = 65536 * 8;
	m.n_logit = (size_t)64 << 20, m.n_w = (size_t)120 << 20; /* elements: 256 MB, 240 MB */
	CU(cudaMalloc(&m.logits, m.n_logit * 4)), CU(cudaMalloc(&m.wr, m.n_w * 2)), CU(cudaMalloc(&m.x, (size_t)8192 * 7168 * 2));
	CU(cudaMalloc(&m.logits_out, (size_t)65536 * 512 * 4)), CU(cudaMalloc(&m.bias, 4096));
	CU(cudaMalloc(&m.id, pairs * 4)), CU(cudaMalloc(&m.w, pairs * 4)), CU(cudaMalloc(&m.off, 4096)), CU(cudaMalloc(&m.pair, pairs * 4));
	CU(cudaMalloc(&m.done, 65536 * 4)), CU(cudaMalloc(&m.tiles, (pairs + 512) * 16)), CU(cudaMalloc(&m.head, 256));
	CU(cudaMalloc(&m.ws, (size_t)256 << 20));
	fill_f32<<<1024, 256>>>(m.logits, m.n_logit, 3.f);
	fill_f32<<<8, 256>>>(m.bias, 1024, 0.1f);
	fill_bf16<<<1024, 256>>>(m.wr, m.n_w, 0.03f);
	fill_bf16<<<1024, 256>>>(m.x, (size_t)8192 * 7168, 1.f);
	CU(cudaDeviceSynchronize());
}

static struct moxie_router_plan *plan_of(struct moxie_router_shape s)
{
	struct moxie_router_plan *p;
	struct moxie_err err = {};
	if (moxie_router_plan_create(&p, &s, 0, &err))
		printf("%s\n", err.text), exit(1);
	if (moxie_router_ws_bytes(p) > (size_t)256 << 20)
		printf("workspace\n"), exit(1);
	return p;
}

static struct moxie_router_args args_of(int T, int tile_n)
{
	struct moxie_router_args a = {};
	a.n_tok = T, a.x = m.x, a.w_router = m.wr, a.b_router = m.bias, a.logits = m.logits;
	a.topk_id = m.id, a.topk_w = m.w, a.expert_off = m.off, a.sorted_pair = m.pair, a.tiles = m.tiles, a.head = m.head;
	a.tok_done = m.done, a.ws = m.ws, a.tile_n = tile_n;
	return a;
}

static void run(const struct moxie_router_plan *p, const struct moxie_router_args &a)
{
	struct moxie_err err = {};
	if (moxie_router_run(p, &a, stream, &err))
		printf("%s\n", err.text), exit(1);
}

static const struct rule {
	const char *name;
	int E, k, score, n_group, n_group_used, bias;
} rules[] = { { "softmax", 32, 4, 0, 1, 1, 0 },       { "softmax", 128, 4, 0, 1, 1, 0 },  { "softmax", 128, 8, 0, 1, 1, 0 },
	      { "sqrt-softplus", 256, 6, 2, 1, 1, 1 }, { "sigmoid", 256, 8, 1, 8, 4, 1 }, { "sqrt-softplus", 384, 6, 2, 1, 1, 1 } };

static struct moxie_router_shape shape_of(const rule &r, int T, int K, int flags)
{
	struct moxie_router_shape s = {};
	s.n_expert = r.E, s.n_used = r.k, s.score = r.score, s.renormalise = 1, s.n_group = r.n_group, s.n_group_used = r.n_group_used;
	s.n_tok_max = T, s.n_embd = K, s.flags = flags;
	return s;
}

static int calls_of(int T) { return T <= 512 ? 200 : T <= 8192 ? 40 : 10; }

static void bench_route(void)
{
	for (const rule &r : rules)
		for (int T : { 1, 4, 16, 64, 128, 256, 512, 1024, 4096, 8192, 65536 }) {
			double us[2];
			for (int no_pdl : { 0, 1 }) {
				struct moxie_router_plan *p = plan_of(shape_of(r, T, 0, no_pdl));
				struct moxie_router_args a = args_of(T, 32);
				if (r.bias)
					a.select_bias = m.bias;
				const size_t set = (size_t)T * r.E, n_set = std::min<size_t>(16, m.n_logit / set); /* made by the kernel before: in L2 */
				us[no_pdl] = graph_us(calls_of(T), [&](int i) { a.logits = m.logits + i % n_set * set; run(p, a); });
				moxie_router_plan_free(p);
			}
			const double bytes = (double)T * (r.E * 4 + r.k * 12 + 4) + r.E * 4, floor = bytes / READ_TB_S * 1e-6;
			printf("route  %-13s E=%-3d k=%d T=%-5d | PDL %6.2f  plain %6.2f us | floor %6.3f us, %4.1f %%\n", r.name, r.E, r.k, T, us[0], us[1],
			       floor, 100 * floor / us[0]);
		}
}

static const int gemm_shape[][2] = { { 32, 2880 }, { 128, 2880 }, { 128, 2816 }, { 256, 4096 }, { 256, 7168 }, { 384, 7168 } };

static void bench_gemm(void)
{
	for (auto &g : gemm_shape)
		for (int T : { 1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 8192 }) {
			double us[2];
			const int E = g[0], K = g[1];
			for (int no_pdl : { 0, 1 }) {
				const rule r = { "", E, 4, 0, 1, 1, 0 };
				struct moxie_router_plan *p = plan_of(shape_of(r, T, K, no_pdl));
				const size_t set = (size_t)E * K, n_set = m.n_w / set;
				struct moxie_err err = {};
				us[no_pdl] = graph_us(calls_of(T), [&](int i) {
					if (moxie_router_gemm_run(p, m.x, m.wr + i % n_set * set, m.bias, m.logits_out, T, m.ws, stream, &err))
						printf("%s\n", err.text), exit(1);
				});
				moxie_router_plan_free(p);
			}
			const double floor = fmax(2. * K * (E + T) / READ_TB_S * 1e-6, 2. * K * E * T / 790e12 * 1e6);
			printf("gemm   E=%-3d K=%d T=%-5d | PDL %6.2f us  plain %6.2f us | floor %6.3f us, %4.1f %%\n", E, K, T, us[0], us[1], floor,
			       100 * floor / us[0]);
		}
}

/* Router GEMM + routing + tables, joined and separate. */
static void bench_joined(void)
{
	for (auto &g : gemm_shape)
		for (int T : { 1, 2, 4, 8, 16, 32, 64, 128, 256, 512 }) {
			double us[2][2] = { { 0 } };
			const int E = g[0], K = g[1];
			for (int no_pdl : { 0, 1 })
				for (int joined : { 0, 1 }) {
					const rule r = { "", E, E == 128 && K == 2816 ? 8 : E >= 256 ? 6 : 4, E >= 256 ? 2 : 0, 1, 1, 0 };
					struct moxie_router_plan *p = plan_of(shape_of(r, T, K, no_pdl));
					if (joined && (T > (p->many_tok_max ? ROUTE_MANY_TOK_MAX : ROUTE_JOIN_TOK_MAX) || E > ROUTE_JOIN_EXPERT_MAX)) {
						moxie_router_plan_free(p);
						continue;
					}
					p->join_tok_max = joined ? ROUTE_JOIN_TOK_MAX : 0;
					p->many_tok_max = joined ? p->many_tok_max : 0;
					struct moxie_router_args a = args_of(T, 16);
					a.b_router = E == 256 ? NULL : m.bias;
					if (E >= 256)
						a.select_bias = m.bias;
					const size_t set = (size_t)E * K, n_set = m.n_w / set;
					us[joined][no_pdl] = graph_us(calls_of(T), [&](int i) { a.w_router = m.wr + i % n_set * set; run(p, a); });
					moxie_router_plan_free(p);
				}
			const double floor = 2. * K * (E + T) / READ_TB_S * 1e-6;
			printf("router+routing+tables E=%-3d K=%d T=%-3d | joined PDL %5.2f plain %5.2f | separate PDL %5.2f plain %5.2f us | floor %.3f\n", E, K, T, us[1][0],
			       us[1][1], us[0][0], us[0][1], floor);
		}
}

/* Which cluster for which number of tokens. */
static void bench_cluster(void)
{
	for (const rule &r : { rules[0], rules[2], rules[3] })
		for (int T : { 1, 4, 8, 16, 32, 64, 128, 256, 512 }) {
			printf("cluster E=%-3d T=%-3d |", r.E, T);
			for (int n_cta = 1; n_cta <= 16; n_cta *= 2) {
				if (T > 32 * n_cta) {
					printf("           ");
					continue;
				}
				struct moxie_router_plan *p = plan_of(shape_of(r, T, 0, 0));
				struct route_param q = {};
				q.n_tok = T, q.n_expert = q.n_expert_here = r.E, q.n_used = r.k, q.score = r.score, q.renormalise = 1, q.n_group = 1;
				q.tile_n = 32, q.tile_shift = 5, q.scale = 1, q.select_bias = r.bias ? m.bias : NULL;
				q.topk_id = m.id, q.topk_w = m.w, q.expert_off = m.off, q.sorted_pair = m.pair, q.tiles = (struct moe_tile *)m.tiles;
				q.head = (struct moe_head *)m.head, q.tok_done = m.done;
				const size_t set = (size_t)T * r.E, n_set = std::min<size_t>(16, m.n_logit / set); /* made by the kernel before: in L2 */
				printf(" %2d: %5.2f", n_cta, graph_us(200, [&](int i) {
					       q.logits = m.logits + i % n_set * set;
					       CU(route_launch_cluster(&q, n_cta, stream, true));
				       }));
				moxie_router_plan_free(p);
			}
			printf("\n");
		}
}

/* Experts into atoms: bytes read and written over the time of one call. */
static void bench_repack(void)
{
	const struct {
		const char *name;
		int source, E, n_embd, n_ff;
	} shape[] = { { "GPT-OSS-20B layer", 0, 32, 2880, 2880 }, { "DeepSeek-V4 64 experts", 1, 64, 4096, 2048 }, { "DeepSeek-V4 one expert", 1, 1, 4096, 2048 } };
	for (auto &s : shape) {
		struct moxie_moe_pack_sizes z;
		struct moxie_moe_pack_args a = {};
		struct moxie_err err = {};
		moxie_moe_pack_bytes(s.E, s.n_embd, s.n_ff, &z, &err);
		const size_t codes = (size_t)s.E * s.n_embd * s.n_ff * 3 / 2, scales = codes / 16;
		uint8_t *code, *scale, *out;
		CU(cudaMalloc(&code, codes)), CU(cudaMalloc(&scale, scales)), CU(cudaMalloc(&out, z.gate_up + z.down + (1 << 20)));
		fill_f32<<<1024, 256>>>((float *)code, codes / 4, 1.f);
		CU(cudaMemset(scale, 120, scales));
		a.source = s.source, a.n_expert = s.E, a.n_embd = s.n_embd, a.n_ff = s.n_ff;
		const size_t third = codes / 3, sthird = scales / 3;
		a.gate_up = a.gate = code, a.up = code + third, a.down = code + 2 * third;
		a.gate_up_scale = a.gate_scale = scale, a.up_scale = scale + sthird, a.down_scale = scale + 2 * sthird;
		a.out.gate_up = out, a.out.down = out + z.gate_up, a.out.gate_up_mul = (float *)(out + z.gate_up + z.down);
		a.out.down_mul = a.out.gate_up_mul + s.E;
		const double us = graph_us(4, [&](int) {
			if (moxie_moe_pack(&a, stream, &err))
				printf("%s\n", err.text), exit(1);
		});
		const double moved = (double)(codes + scales + z.gate_up + z.down);
		printf("repack %-24s %4.0f MB | %8.1f us | %.2f TB/s read + written, %.0f %% of 4.3\n", s.name, moved / 2e6, us, moved / us * 1e-6,
		       moved / us * 1e-6 / 4.3 * 100);
		CU(cudaFree(code)), CU(cudaFree(scale)), CU(cudaFree(out));
	}
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	struct cudaDeviceProp prop;
	CU(cudaGetDeviceProperties(&prop, 0));
	CU(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
	printf("# %s, %d SMs, L2 %d MB\n", prop.name, prop.multiProcessorCount, prop.l2CacheSize >> 20);
	allocate();
	if (!*what || !strcmp(what, "route"))
		bench_route();
	if (!*what || !strcmp(what, "gemm"))
		bench_gemm();
	if (!*what || !strcmp(what, "joined"))
		bench_joined();
	if (!*what || !strcmp(what, "repack"))
		bench_repack();
	if (!strcmp(what, "cluster"))
		bench_cluster();
	CU(cudaDeviceSynchronize());
	return 0;
}
