/* bench_dense - the dense products of a layer on the device.
 *
 * Each line: one product in a CUDA graph of many calls, each on its own weights (together well past L2), divided by the calls.
 *   alone   calls do not depend on each other's data, but run in stream order with programmatic dependent launch
 *   chain   qkv, a stand-in for attention, o: as in a layer; `step` is the sum, floor the sum of weight bytes / 4.4 TB/s
 *   lib_*   cuBLASLt at any n_tok; of qkv only the product
 * Usage: bench_dense [--tokens 1,8,...] [--op qkv|o|head|chain|lib] [--replays n] [--own] [--header text]
 *   --own   without the library
 */
#include "../tests/cuda/dense_data.cuh"
#include "kernels/cuda/dense.h"

struct model {
	const char *name;
	int n_embd, n_head, n_head_kv, d_head, n_vocab;
};
static const struct model MODELS[] = { { "20b", 2880, 64, 8, 64, 201088 } };

/* Stands between qkv and o as attention does: waits for the kernel before, touches a little memory. */
__global__ void bench_between(const uint4 *q, uint4 *o, int n)
{
	asm volatile("griddepcontrol.launch_dependents;\ngriddepcontrol.wait;" ::: "memory");
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
	std::vector<struct weight> wqkv, wo;
	struct weight head, b, x;
	void *h, *q, *o, *res, *kv;
	float *logits;
	struct kv_view view;
	struct batch batch;
	float *cs;
};

static void setup(struct bench *s, int most, bool own, bool with_head)
{
	const struct model &m = s->m;
	struct kern_limits lim = {};
	lim.n_tok = most, lim.n_seq = most, lim.n_embd = m.n_embd, lim.n_head = m.n_head, lim.n_head_kv = m.n_head_kv, lim.d_head = m.d_head, lim.n_vocab = m.n_vocab;
	dense_device(&s->d, &lim, !own);
	fprintf(stderr, "# library: %s, scratch %.1f MB\n", s->d.dense ? "loaded" : own ? "not asked for" : "missing", s->d.scratch_bytes / 1e6);
	const int n_q = m.n_head * m.d_head, n_kv = m.n_head_kv * m.d_head;
	s->n_layer = 12, s->most = most;
	for (int i = 0; i < s->n_layer; i++) {
		s->wqkv.push_back(dense_weight(n_q + 2 * n_kv, m.n_embd, 2 * i, 0.02f));
		s->wo.push_back(dense_weight(m.n_embd, n_q, 2 * i + 1, 0.02f));
	}
	if (with_head)
		s->head = dense_weight(m.n_vocab, m.n_embd, 77, 0.02f);
	s->b = dense_weight(n_q + 2 * n_kv, 0, 5, 1);
	s->x = dense_weight(most, n_q > m.n_embd ? n_q : m.n_embd, 6, 1);
	s->h = device_alloc((size_t)most * m.n_embd * 2), s->res = device_alloc((size_t)most * m.n_embd * 2);
	s->q = device_alloc((size_t)most * n_q * 2), s->o = device_alloc((size_t)most * n_q * 2);
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
		wk.data = (const uint16_t *)wq.data + n_q * m.n_embd, wv.data = (const uint16_t *)wk.data + n_kv * m.n_embd;
		bk.data = (const uint16_t *)bq.data + n_q, bv.data = (const uint16_t *)bk.data + n_kv;
		s->batch.n_tok = s->batch.n_seq = n_tok;
		a = { s->q, s->h, &wq, &wk, &wv, &bq, &bk, &bv, s->cs, &s->view, &s->batch, m.n_embd, m.n_head, m.n_head_kv, m.d_head };
	}
};

static void run_qkv(struct bench *s, int n_tok, int layer)
{
	const struct qkv_bound q(s, n_tok, layer);
	ok(cuda_qkv(&s->d, &q.a, &err));
}
static void run_o(struct bench *s, int n_tok, int layer)
{
	struct gemm_args a = { s->res, s->o, &s->wo[layer], &s->b, n_tok, s->m.n_embd, s->m.n_head * s->m.d_head, true, false };
	ok(cuda_gemm(&s->d, &a, &err));
}
static void run_head(struct bench *s, int n_tok)
{
	struct gemm_args a = { s->logits, s->h, &s->head, NULL, n_tok, s->m.n_vocab, s->m.n_embd, false, true };
	ok(cuda_gemm(&s->d, &a, &err));
}
/* The library's product alone, at any n_tok; of qkv without what follows it. */
static void run_lib(struct bench *s, int n_tok, const char *op, int layer)
{
	const struct model &m = s->m;
	const int n_q = m.n_head * m.d_head;
	struct dense_job j = {};
	j.out.n_tok = n_tok;
	if (!strcmp(op, "qkv")) {
		j.x = s->h, j.w = s->wqkv[layer].data, j.n_in = m.n_embd;
		j.out.d = (char *)s->d.scratch + CUDA_COUNTER_BYTES, j.out.b = s->b.data, j.out.n_out = n_q + 2 * m.n_head_kv * m.d_head;
	} else if (!strcmp(op, "o")) {
		j.x = s->o, j.w = s->wo[layer].data, j.n_in = n_q;
		j.out.d = s->res, j.out.b = s->b.data, j.out.n_out = m.n_embd, j.out.add = true;
	} else {
		j.x = s->h, j.w = s->head.data, j.n_in = m.n_embd;
		j.out.d = s->logits, j.out.n_out = m.n_vocab, j.out.d_f32 = true;
	}
	const size_t data = (size_t)s->most * (n_q + 2 * m.n_head_kv * m.d_head) * 2 + CUDA_COUNTER_BYTES;
	if (!dense_lib_gemm(&s->d, &j, (char *)s->d.scratch + (data + 255) / 256 * 256, dense_lib_ws_bytes(s->d.dense)))
		fprintf(stderr, "# the library does not serve %s of %d tokens\n", op, n_tok);
}
/* The own wide kernel, at any n_tok. */
static void run_wide_o(struct bench *s, int n_tok, int layer)
{
	struct gemm_args a = { s->res, s->o, &s->wo[layer], &s->b, n_tok, s->m.n_embd, s->m.n_head * s->m.d_head, true, false };
	struct dense_job j;
	ok(dense_gemm_job(&j, &a, &err));
	CU(dense_wide(&s->d, &j));
}
static void run_wide_qkv(struct bench *s, int n_tok, int layer)
{
	const struct qkv_bound q(s, n_tok, layer);
	struct dense_job j;
	ok(dense_qkv_job(&j, &q.a, &err));
	CU(dense_wide(&s->d, &j));
}
static void run_between(struct bench *s, int n_tok)
{
	cudaLaunchAttribute pdl = {};
	pdl.id = cudaLaunchAttributeProgrammaticStreamSerialization;
	pdl.val.programmaticStreamSerializationAllowed = 1;
	cudaLaunchConfig_t c = {};
	c.gridDim = s->d.n_sm, c.blockDim = 128, c.stream = s->d.stream, c.attrs = &pdl, c.numAttrs = 1;
	CU(cudaLaunchKernelEx(&c, bench_between, (const uint4 *)s->q, (uint4 *)s->o, n_tok * s->m.n_head * s->m.d_head / 8));
}

/* Median replay of a graph of what `body` enqueues, us. */
template <class F> static double replay(struct bench *s, int replays, F body)
{
	cudaGraph_t graph;
	cudaGraphExec_t exec;
	cudaEvent_t from, to;
	CU(cudaDeviceSynchronize());
	CU(cudaEventCreate(&from));
	CU(cudaEventCreate(&to));
	CU(cudaStreamBeginCapture(s->d.stream, cudaStreamCaptureModeThreadLocal));
	body();
	CU(cudaStreamEndCapture(s->d.stream, &graph));
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

static void line(const char *op, int n_tok, double us, double w_bytes, double flop)
{
	const double floor = std::max(w_bytes / 4.4e6, flop / 790e6);
	printf("%s,%d,%.2f,%.2f,%.1f,%.2f,%.1f\n", op, n_tok, us, floor, 100 * floor / us, w_bytes / us / 1e6, flop / us / 1e6);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	std::vector<int> tokens = { 1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 2048, 4096, 8192 };
	struct bench s = {};
	s.m = MODELS[0];
	int replays = 15;
	bool own = false;
	const char *op = "", *header = NULL;
	for (int i = 1; i < argc; i++) {
		const char *const v = i + 1 < argc ? argv[i + 1] : "";
		if (!strcmp(argv[i], "--own"))
			own = true;
		else if (!strcmp(argv[i], "--tokens") && i++ < argc) {
			tokens.clear();
			for (const char *p = v; *p; p += *p == ',')
				tokens.push_back((int)strtol(p, (char **)&p, 10));
		} else if (!strcmp(argv[i], "--op") && i++ < argc)
			op = v;
		else if (!strcmp(argv[i], "--replays") && i++ < argc)
			replays = (int)strtol(v, NULL, 10);
		else if (!strcmp(argv[i], "--header") && i++ < argc)
			header = v;
		else {
			fprintf(stderr, "bench_dense [--tokens 1,8,...] [--op qkv|o|head|chain|lib] [--replays n] [--own] [--header text]\n");
			return 2;
		}
	}
	const auto wanted = [&](const char *o) { return !*op || !strcmp(op, o); };
	setup(&s, *std::max_element(tokens.begin(), tokens.end()), own, wanted("head"));
	const double n_q = s.m.n_head * s.m.d_head, n_qkv = n_q + 2 * s.m.n_head_kv * s.m.d_head, k = s.m.n_embd;
	if (header)
		printf("# %s\n", header);
	printf("op,n_tok,us,floor_us,percent,TB/s,TFLOP/s\n");
	for (int n : tokens) {
		const int L = n <= 512 ? s.n_layer : 4;
		const double fq = 2. * n * n_qkv * k, fo = 2. * n * n_q * k, fh = 2. * n * s.m.n_vocab * k;
		if (wanted("qkv"))
			line("qkv", n, replay(&s, replays, [&] { for (int i = 0; i < L; i++) run_qkv(&s, n, i); }) / L, n_qkv * k * 2, fq);
		if (wanted("o"))
			line("o", n, replay(&s, replays, [&] { for (int i = 0; i < L; i++) run_o(&s, n, i); }) / L, n_q * k * 2, fo);
		if (wanted("chain"))
			line("chain", n, replay(&s, replays, [&] { for (int i = 0; i < L; i++) run_qkv(&s, n, i), run_between(&s, n), run_o(&s, n, i); }) / L,
			     (n_qkv + n_q) * k * 2, fq + fo);
		if (wanted("head") && n <= 256)
			line("head", n, replay(&s, replays, [&] { run_head(&s, n); }), s.m.n_vocab * k * 2., fh);
		if (n >= 32 && wanted("wide")) {
			line("wide_qkv", n, replay(&s, replays, [&] { for (int i = 0; i < L; i++) run_wide_qkv(&s, n, i); }) / L, n_qkv * k * 2, fq);
			line("wide_o", n, replay(&s, replays, [&] { for (int i = 0; i < L; i++) run_wide_o(&s, n, i); }) / L, n_q * k * 2, fo);
		}
		if (!s.d.dense || !wanted("lib"))
			continue;
		line("lib_qkv", n, replay(&s, replays, [&] { for (int i = 0; i < L; i++) run_lib(&s, n, "qkv", i); }) / L, n_qkv * k * 2, fq);
		line("lib_o", n, replay(&s, replays, [&] { for (int i = 0; i < L; i++) run_lib(&s, n, "o", i); }) / L, n_q * k * 2, fo);
		if (s.logits && n <= 256)
			line("lib_head", n, replay(&s, replays, [&] { run_lib(&s, n, "head", 0); }), s.m.n_vocab * k * 2., fh);
	}
	return 0;
}
