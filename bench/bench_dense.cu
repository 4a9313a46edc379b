/* bench_dense - the dense products of a layer on the device.
 *
 * Each line: one product in a CUDA graph of many calls, each on its own weights (together well past L2), divided by the calls.
 *   qkv, o  twelve layers' calls in a row, started as in the model: each may load weights while the one before ends
 *   chain   qkv, a copy of q in attention's place, o; floor: the sum of the products'
 *   layer   the same with RMSNorm in front
 *   head    lm_head, n_tok rows of logits
 * Usage: bench_dense [--tokens 1,8,...] [--op qkv,o,...] [--kernel auto,small,small:113,wide,many,lib] [--weights bf16|fp8] [--replays n] [--header text]
 *   --kernel  auto: as dispatched; else that kernel at any n_tok it takes, with at most so many KB of shared memory a CTA;
 *             lib: cuBLASLt's product, of qkv without what follows it
 */
#include "../tests/cuda/dense_data.cuh"
#include "kernels/cuda/dense.h"
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/ptx.cuh"
#include <string>

struct model {
	const char *name;
	int n_embd, n_head, n_head_kv, d_head, n_vocab;
};
static const struct model MODELS[] = { { "20b", 2880, 64, 8, 64, 201088 } };

/* Stands between qkv and o as attention does: has its shared memory, waits for the kernel before, touches a little memory. */
constexpr int BETWEEN_SHARED = 64 << 10;
__global__ void bench_between(const uint4 *q, uint4 *o, int n)
{
	pdl_launch();
	pdl_wait();
	for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
		o[i] = q[i];
}

static struct moxie_err err;
static void ok(int rc)
{
	if (rc) {
		fprintf(stderr, "%s\n", err.text);
		exit(1);
	}
}

struct bench {
	struct model m;
	struct cuda_dev d;
	int n_layer, most;
	bool f8; /* weights in e4m3 */
	std::vector<struct weight> wqkv, wo;
	struct weight head, b, x;
	void *h, *q, *o, *res, *kv;
	float *logits;
	struct kv_view view;
	struct batch batch;
	float *cs;
};

/* In bf16, or as e4m3. */
static struct weight weight_of(const struct bench *s, int64_t n, int64_t k, uint64_t seed)
{
	const struct weight w = dense_weight(n, k, seed, 0.02f);
	if (!s->f8)
		return w;
	const struct weight f = dense_weight_f8(w);
	CU(cudaFree((void *)w.data));
	return f;
}

static void setup(struct bench *s, int most, bool with_lib, bool with_head)
{
	const struct model &m = s->m;
	struct kern_limits lim = {};
	lim.n_tok = most, lim.n_seq = most, lim.n_embd = m.n_embd, lim.n_head = m.n_head, lim.n_head_kv = m.n_head_kv, lim.d_head = m.d_head,
	    lim.n_vocab = m.n_vocab, lim.dense = s->f8 ? DT_F8_E4M3 : DT_NONE;
	dense_device(&s->d, &lim, with_lib);
	fprintf(stderr, "# library: %s, scratch %.1f MB\n", s->d.dense ? "loaded" : with_lib ? "missing" : "not asked for",
	    s->d.scratch_bytes / 1e6);
	const int n_q = m.n_head * m.d_head, n_kv = m.n_head_kv * m.d_head;
	s->n_layer = 12, s->most = most;
	for (int i = 0; i < s->n_layer; i++) {
		s->wqkv.push_back(weight_of(s, n_q + 2 * n_kv, m.n_embd, 2 * i));
		s->wo.push_back(weight_of(s, m.n_embd, n_q, 2 * i + 1));
	}
	if (with_head)
		s->head = weight_of(s, m.n_vocab, m.n_embd, 77);
	s->b = dense_weight(n_q + 2 * n_kv, 0, 5, 1);
	s->x = dense_weight(most, n_q > m.n_embd ? n_q : m.n_embd, 6, 1);
	s->h = device_alloc((size_t)most * m.n_embd * 2), s->res = device_alloc((size_t)most * m.n_embd * 2);
	s->q = device_alloc((size_t)most * n_q * 2), s->o = device_alloc((size_t)most * n_q * 2);
	dense_fill<<<1024, 256>>>(s->res, (int64_t)most * m.n_embd, 11, 1, false);
	dense_fill<<<1024, 256>>>(s->h, (int64_t)most * m.n_embd, 8, 1, false);
	dense_fill<<<1024, 256>>>(s->o, (int64_t)most * n_q, 9, 1, false);
	s->logits = with_head ? (float *)device_alloc((size_t)256 * m.n_vocab * 4) : NULL;
	s->cs = (float *)dense_weight((int64_t)most * m.d_head, 0, 10, 1, true).data;
	/* Every token its own page. */
	const size_t kv_n = (size_t)most * n_kv * KV_PAGE;
	s->kv = device_alloc(2 * kv_n * 2);
	std::vector<int32_t> id(most), pos(most);
	for (int i = 0; i < most; i++)
		id[i] = i, pos[i] = i % KV_PAGE;
	int32_t *const ints = (int32_t *)device_alloc(2 * most * 4);
	CU(cudaMemcpy(ints, id.data(), most * 4, cudaMemcpyHostToDevice));
	CU(cudaMemcpy(ints + most, pos.data(), most * 4, cudaMemcpyHostToDevice));
	s->view = { DT_BF16, s->kv, (uint16_t *)s->kv + kv_n, ints, 1, false };
	s->batch = {};
	s->batch.seq = ints, s->batch.pos = ints + most;
}

/* qkv's arguments and what they point to. */
struct qkv_bound {
	struct weight wq, wk, wv, bq, bk, bv;
	struct qkv_args a;
	qkv_bound(struct bench *s, int n_tok, int layer)
	{
		const struct model &m = s->m;
		const size_t n_q = m.n_head * m.d_head, n_kv = m.n_head_kv * m.d_head;
		wq = wk = wv = s->wqkv[layer], bq = bk = bv = s->b;
		const size_t size = dtype_bytes(wq.dtype);
		wk.data = (const uint8_t *)wq.data + n_q * m.n_embd * size, wv.data = (const uint8_t *)wk.data + n_kv * m.n_embd * size;
		if (s->f8)
			wk.row_scl = wq.row_scl + n_q, wv.row_scl = wk.row_scl + n_kv;
		bk.data = (const uint16_t *)bq.data + n_q, bv.data = (const uint16_t *)bk.data + n_kv;
		s->batch.n_tok = s->batch.n_seq = n_tok;
		a = { s->q, s->h, &wq, &wk, &wv, &bq, &bk, &bv, s->cs, &s->view, &s->batch, m.n_embd, m.n_head, m.n_head_kv, m.d_head, NULL, 0 };
	}
};

/* Which kernel makes a product. */
struct how {
	const char *kernel;
	size_t shared_max;
};

/* Enqueues j by kernel h; false: it does not serve this product. */
static bool run(struct bench *s, const struct how &h, struct dense_job *j)
{
	j->shared_max = h.shared_max;
	if (!strcmp(h.kernel, "small"))
		CU(dense_small(&s->d, j));
	else if (!strcmp(h.kernel, "wide") && !j->f8 && dense_wide_serves(j))
		CU(dense_wide(&s->d, j));
	else if (!strcmp(h.kernel, "many") && dense_f8_many_serves(&s->d, j, s->d.scratch_bytes - CUDA_COUNTER_BYTES))
		ok(dense_f8_many(&s->d, j, (char *)s->d.scratch + CUDA_COUNTER_BYTES, &err));
	else if (!strcmp(h.kernel, "lib") && s->d.dense && !j->f8) {
		char *const data = (char *)s->d.scratch + CUDA_COUNTER_BYTES;
		const size_t p_bytes = ((size_t)s->most * j->out.n_out * 2 + 255) / 256 * 256;
		if (j->out.qkv)
			j->out.qkv = false, j->out.d = data;
		return dense_lib_gemm(&s->d, j, data + (j->out.d_f32 ? 0 : p_bytes), dense_lib_ws_bytes(s->d.dense));
	} else
		return false;
	return true;
}
static bool run_qkv(struct bench *s, const struct how &h, int n_tok, int layer)
{
	const struct qkv_bound q(s, n_tok, layer);
	struct dense_job j;
	if (!strcmp(h.kernel, "auto")) {
		ok(cuda_qkv(&s->d, &q.a, &err));
		return true;
	}
	ok(dense_qkv_job(&j, &q.a, &err));
	return run(s, h, &j);
}
static bool run_gemm(struct bench *s, const struct how &h, const struct gemm_args &a)
{
	struct dense_job j;
	if (!strcmp(h.kernel, "auto")) {
		ok(cuda_gemm(&s->d, &a, &err));
		return true;
	}
	ok(dense_gemm_job(&j, &a, &err));
	return run(s, h, &j);
}
static bool run_o(struct bench *s, const struct how &h, int n_tok, int layer)
{
	return run_gemm(s, h, { s->res, s->o, &s->wo[layer], &s->b, n_tok, s->m.n_embd, s->m.n_head * s->m.d_head, true, false, NULL, 0 });
}
static bool run_head(struct bench *s, const struct how &h, int n_tok)
{
	return run_gemm(s, h, { s->logits, s->h, &s->head, NULL, n_tok, s->m.n_vocab, s->m.n_embd, false, true, NULL, 0 });
}
static void run_between(struct bench *s, int n_tok)
{
	CU(cudaFuncSetAttribute(bench_between, cudaFuncAttributeMaxDynamicSharedMemorySize, BETWEEN_SHARED));
	CU(cuda_launch(bench_between, dim3(s->d.n_sm), dim3(128), BETWEEN_SHARED, s->d.stream, (const uint4 *)s->q, (uint4 *)s->o,
	               n_tok * s->m.n_head * s->m.d_head / 8));
}

static void run_norm(struct bench *s, int n_tok)
{
	struct weight w = s->x;
	w.n_dim = 1, w.shape[0] = s->m.n_embd;
	struct rmsnorm_args a = { s->h, s->res, &w, NULL, 1e-5f, n_tok, s->m.n_embd };
	ok(cuda_rmsnorm(&s->d, &a, &err));
}

/* Median replay of a graph of what `body` enqueues, us; 0 where body is not served. */
template <class F> static double replay(struct bench *s, int replays, F body)
{
	cudaGraph_t graph;
	cudaGraphExec_t exec;
	cudaEvent_t from, to;
	CU(cudaDeviceSynchronize());
	CU(cudaEventCreate(&from));
	CU(cudaEventCreate(&to));
	CU(cudaStreamBeginCapture(s->d.stream, cudaStreamCaptureModeThreadLocal));
	const bool served = body();
	CU(cudaStreamEndCapture(s->d.stream, &graph));
	if (!served)
		return 0;
	CU(cudaGraphInstantiate(&exec, graph, 0));
	std::vector<float> ms;
	for (int i = 0; i < replays + 3; i++) {
		float t;
		CU(cudaEventRecord(from, s->d.stream));
		CU(cudaGraphLaunch(exec, s->d.stream));
		CU(cudaEventRecord(to, s->d.stream));
		CU(cudaEventSynchronize(to));
		CU(cudaEventElapsedTime(&t, from, to));
		if (i >= 3)
			ms.push_back(t);
	}
	std::sort(ms.begin(), ms.end());
	CU(cudaGraphExecDestroy(exec));
	CU(cudaGraphDestroy(graph));
	return ms[ms.size() / 2] * 1000;
}

static bool listed(const char *list, const char *word)
{
	const size_t n = strlen(word);
	for (const char *p = strstr(list, word); p; p = strstr(p + n, word))
		if ((p == list || p[-1] == ',') && (!p[n] || p[n] == ','))
			return true;
	return !*list;
}

int main(int argc, char **argv)
{
	std::vector<int> tokens = { 1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192 };
	struct bench s = {};
	s.m = MODELS[0];
	int replays = 15;
	std::string kernels = "auto";
	const char *ops = "", *header = NULL;
	for (int i = 1; i < argc; i += 2) {
		const char *const v = i + 1 < argc ? argv[i + 1] : "";
		if (!strcmp(argv[i], "--tokens")) {
			tokens.clear();
			for (const char *p = v; *p; p += *p == ',')
				tokens.push_back((int)strtol(p, (char **)&p, 10));
		} else if (!strcmp(argv[i], "--op"))
			ops = v;
		else if (!strcmp(argv[i], "--kernel"))
			kernels = v;
		else if (!strcmp(argv[i], "--replays"))
			replays = (int)strtol(v, NULL, 10);
		else if (!strcmp(argv[i], "--weights"))
			s.f8 = !strcmp(v, "fp8");
		else if (!strcmp(argv[i], "--header"))
			header = v;
		else {
			fprintf(stderr, "bench_dense [--tokens 1,8,...] [--op qkv,o,...] [--kernel auto,small:113,...] [--weights bf16|fp8] [--replays n] [--header text]\n");
			return 2;
		}
	}
	setup(&s, *std::max_element(tokens.begin(), tokens.end()), kernels.find("lib") != std::string::npos
	    || kernels.find("auto") != std::string::npos, listed(ops, "head"));
	const double n_q = s.m.n_head * s.m.d_head, n_qkv = n_q + 2 * s.m.n_head_kv * s.m.d_head, k = s.m.n_embd, n_head = s.m.n_vocab;
	if (header)
		printf("# %s\n", header);
	printf("op,kernel,n_tok,us,floor_us,percent,TB/s,TFLOP/s\n");
	for (size_t at = 0; at < kernels.size();) {
		const size_t comma = std::min(kernels.find(',', at), kernels.size()), colon = std::min(kernels.find(':', at), comma);
		const std::string label = kernels.substr(at, comma - at), name = kernels.substr(at, colon - at);
		const struct how h = { name.c_str(), colon < comma ? strtoul(kernels.c_str() + colon + 1, NULL, 10) * 1024 : 0 };
		at = comma + 1;
		for (int n : tokens) {
			const int L = n <= 512 ? s.n_layer : 4;
			const auto line = [&](const char *op, int calls, double rows, bool (*call)(struct bench *, const struct how &, int, int)) {
				const double us = listed(ops, op) ? replay(&s, replays, [&] {
					bool served = true;
					for (int i = 0; i < calls; i++)
						served = served && call(&s, h, n, i);
					return served;
				}) / calls : 0;
				const double bytes = rows * k * (s.f8 ? 1 : 2), flop = 2. * n * rows * k, floor = std::max(bytes / 4.4e6, flop / 790e6);
				if (us > 0)
					printf("%s,%s%s,%d,%.2f,%.2f,%.1f,%.2f,%.1f\n", op, label.c_str(), s.f8 ? " fp8" : "", n, us, floor, 100 * floor / us, bytes / us / 1e6, flop / us / 1e6);
				fflush(stdout);
			};
			line("qkv", L, n_qkv, run_qkv);
			line("o", L, n_q, run_o);
			line("chain", L, n_qkv + n_q, [](struct bench *b, const struct how &how, int t, int i) {
				const bool served = run_qkv(b, how, t, i);
				run_between(b, t);
				return served && run_o(b, how, t, i);
			});
			line("layer", L, n_qkv + n_q, [](struct bench *b, const struct how &how, int t, int i) {
				run_norm(b, t);
				const bool served = run_qkv(b, how, t, i);
				run_between(b, t);
				return served && run_o(b, how, t, i);
			});
			if (n <= 256)
				line("head", 1, n_head, [](struct bench *b, const struct how &how, int t, int) { return run_head(b, how, t); });
		}
	}
	return 0;
}
