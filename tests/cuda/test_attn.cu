/* test_attn - cuda_attn against a double oracle, and against the plain C op where that is cheap.
 *
 * Bound: ||out - want|| / ||want|| <= 4e-3 and the worst row <= 1e-2: weights are rounded to bf16 before the product with V and
 * the result once more, 1.7e-3 each.  Against the plain C op the same bound.  Outputs are poisoned and guarded, cache rows that no
 * position owns are NaN, counters must end as zeros.
 * Usage: test_attn [--list] [--seed n] [--small] [--verbose] [name ...]     a name selects every test that begins with it
 */
#include <string>
#include <time.h>

#include "attn_data.cuh"

extern "C" void ref_attn(struct kern *k, const struct attn_args *a);

static uint64_t seed;
static bool small_only, verbose;
static int n_pass, n_fail;

/* One block a (listed row, head), all in double. */
__global__ void attn_oracle(double *o, const int *list, const __nv_bfloat16 *q, const int32_t *pos, const int32_t *seq, const float *sinks,
                            attn_shape s, uint64_t seed)
{
	__shared__ double weight[128], red[128];
	const int t = list[blockIdx.x], ih = blockIdx.y, kvh = ih / (s.n_head / s.n_head_kv), p = pos[t], x = threadIdx.x;
	const int first = s.window > 0 && p >= s.window ? p - s.window + 1 : 0;
	const __nv_bfloat16 *row = q + ((int64_t)t * s.n_head + ih) * s.d_head;
	const auto score = [&](int j) {
		double d = 0;
		for (int i = 0; i < s.d_head; i++)
			d += (double)__bfloat162float(row[i]) * attn_kept(s, attn_value(seed, DATA_K, seq[t], j, kvh, i));
		return d * s.scale;
	};
	double max = sinks ? sinks[ih] : -INFINITY;
	for (int j = first + x; j <= p; j += 128)
		max = fmax(max, score(j));
	red[x] = max;
	__syncthreads();
	for (int i = 0; i < 128; i++)
		max = fmax(max, red[i]);
	double sum = sinks ? exp(sinks[ih] - max) : 0, acc[4] = {};
	for (int j0 = first; j0 <= p; j0 += 128) {
		__syncthreads();
		weight[x] = j0 + x <= p ? exp(score(j0 + x) - max) : 0;
		__syncthreads();
		for (int j = j0; j < j0 + 128 && j <= p; j++) {
			sum += weight[j - j0];
			for (int i = 0; i < 4; i++)
				if (x + 128 * i < s.d_head)
					acc[i] += weight[j - j0] * attn_kept(s, attn_value(seed, DATA_V, seq[t], j, kvh, x + 128 * i));
		}
	}
	for (int i = 0; i < 4; i++)
		if (x + 128 * i < s.d_head)
			o[((int64_t)blockIdx.x * s.n_head + ih) * s.d_head + x + 128 * i] = acc[i] / sum;
}

static double rel_error(const double *want, const float *got, int64_t n)
{
	double e = 0, r = 0;
	for (int64_t i = 0; i < n; i++)
		e += (got[i] - want[i]) * (got[i] - want[i]), r += want[i] * want[i];
	return r > 0 ? sqrt(e / r) : sqrt(e);
}

/* The plain C op on a copy of the batch; "" or what is wrong. */
static std::string against_plain_c(const attn_batch &m, const std::vector<float> &got)
{
	const int64_t n_kv = (int64_t)m.n_page * m.s.n_head_kv * KV_PAGE * m.s.d_head;
	std::vector<uint8_t> k(n_kv * (m.s.f8 ? 1 : 2)), v(k.size());
	std::vector<__nv_bfloat16> qb(m.n_q());
	std::vector<float> q(m.n_q()), o(m.n_q());
	CU(cudaMemcpy(k.data(), m.kv.k, k.size(), cudaMemcpyDeviceToHost));
	CU(cudaMemcpy(v.data(), m.kv.v, v.size(), cudaMemcpyDeviceToHost));
	CU(cudaMemcpy(qb.data(), m.q, m.n_q() * 2, cudaMemcpyDeviceToHost));
	for (int64_t i = 0; i < m.n_q(); i++)
		q[i] = __bfloat162float(qb[i]);
	kv_view kv = m.kv;
	kv.k = k.data(), kv.v = v.data(), kv.page = m.page.data();
	batch b = m.b;
	b.pos = m.pos.data(), b.seq = m.seq.data(), b.span_dev = b.span;
	weight sinks = m.sinks;
	sinks.dtype = DT_F32, sinks.data = m.sink_values.data();
	attn_args a = m.args();
	a.o = o.data(), a.q = q.data(), a.kv = &kv, a.batch = &b, a.sinks = m.s.sinks ? &sinks : NULL;
	kern one = {};
	one.n_thread = 8;
	ref_attn(&one, &a);
	const double rel = rel_error(std::vector<double>(o.begin(), o.end()).data(), got.data(), m.n_q());
	char text[100];
	snprintf(text, sizeof text, "%.2e from the plain C op", rel);
	return rel <= 4e-3 ? "" : text;
}

/* Compares rows of got with the oracle; all, or a sample of about n_row with the first and the last. */
static std::string against_oracle(const attn_batch &m, const std::vector<float> &got, int n_row)
{
	std::vector<int> list;
	for (int i = 0; i < std::min(n_row, m.b.n_tok); i++)
		list.push_back(n_row >= m.b.n_tok ? i : i == 0 ? 0 : i == 1 ? m.b.n_tok - 1 : attn_hash(seed + i * 77) % m.b.n_tok);
	if (list.empty())
		return "";
	int *dev_list = attn_upload(list);
	float *dev_sinks = attn_upload(m.sink_values);
	const int64_t row = (int64_t)m.s.n_head * m.s.d_head, n = (int64_t)list.size() * row;
	double *dev_want;
	CU(cudaMalloc(&dev_want, n * 8));
	attn_oracle<<<dim3((unsigned)list.size(), m.s.n_head), 128>>>(dev_want, dev_list, m.q, m.b.pos, m.b.seq, m.s.sinks ? dev_sinks : NULL,
	                                                              m.s, seed);
	std::vector<double> want(n);
	CU(cudaMemcpy(want.data(), dev_want, n * 8, cudaMemcpyDeviceToHost));
	std::vector<float> have(n);
	double worst = 0;
	int worst_t = 0, worst_h = 0;
	for (size_t l = 0; l < list.size(); l++)
		for (int h = 0; h < m.s.n_head; h++) {
			const int64_t at = l * row + (int64_t)h * m.s.d_head;
			memcpy(&have[at], &got[list[l] * row + (int64_t)h * m.s.d_head], m.s.d_head * sizeof(float));
			const double e = rel_error(&want[at], &have[at], m.s.d_head);
			if (!(e <= worst)) worst = e, worst_t = list[l], worst_h = h;
		}
	const double rel = rel_error(want.data(), have.data(), n);
	CU(cudaFree(dev_list));
	CU(cudaFree(dev_sinks));
	CU(cudaFree(dev_want));
	char text[200];
	snprintf(text, sizeof text, "rel %.2e, worst row %.2e at token %d (sequence %d, position %d) head %d", rel, worst, worst_t,
	         m.seq[worst_t], m.pos[worst_t], worst_h);
	if (verbose) printf("    %s\n", text);
	return rel <= 4e-3 && worst <= 1e-2 ? "" : text;
}

static std::vector<float> to_float(const std::vector<uint16_t> &v, int64_t n)
{
	std::vector<float> f(n);
	for (int64_t i = 0; i < n; i++)
		f[i] = bf16_to_f32(v[i]);
	return f;
}

/* Runs the batch `repeats` times; all results must be the same.  got: the bits of o. */
static std::string run(const attn_batch &m, cuda_dev *d, int repeats, std::vector<uint16_t> &got)
{
	const int64_t n = m.n_q(), guard = 128;
	moxie_err err = {};
	attn_args a = m.args();
	std::vector<uint16_t> again(n + guard);
	for (int r = 0; r < repeats; r++) {
		CU(cudaMemset(m.o, 0xff, (n + guard) * 2));
		CU(cudaMemset((char *)d->scratch + CUDA_COUNTER_BYTES, r & 1 ? 0x7f : 0xff, d->scratch_bytes - CUDA_COUNTER_BYTES));
		if (cuda_attn(d, &a, &err) < 0) return err.text;
		const cudaError_t e = cudaStreamSynchronize(d->stream);
		if (e != cudaSuccess) {
			fprintf(stderr, "device: %s\n", cudaGetErrorString(e));
			exit(1);
		}
		CU(cudaMemcpy(again.data(), m.o, (n + guard) * 2, cudaMemcpyDeviceToHost));
		if (!r) got = again;
		else if (got != again) return "a second run differs";
	}
	for (int64_t i = n; i < n + guard; i++)
		if (got[i] != 0xffff) return "wrote past the end of o";
	std::vector<int32_t> counter(CUDA_COUNTER_BYTES / 4);
	CU(cudaMemcpy(counter.data(), d->scratch, CUDA_COUNTER_BYTES, cudaMemcpyDeviceToHost));
	for (int c : counter)
		if (c) return "a counter was left at " + std::to_string(c);
	return "";
}

struct test {
	std::string name;
	attn_shape s;
	std::vector<std::pair<int, int>> rows;
	bool small;
	int repeats;
};

static std::string check(const test &t)
{
	attn_batch m(t.s, t.rows, seed);
	cudaStream_t stream;
	CU(cudaStreamCreate(&stream));
	cuda_dev d = attn_device(t.s, m.b.n_tok, stream, m.b.n_seq, m.pos.empty() ? 0 : *std::max_element(m.pos.begin(), m.pos.end()) + 1);
	std::vector<uint16_t> got;
	std::string wrong = run(m, &d, t.repeats, got);
	double n_key = 0;
	for (int p : m.pos)
		n_key += t.s.window > 0 ? std::min(t.s.window, p + 1) : p + 1;
	const double cost = n_key * t.s.n_head * t.s.d_head;
	const int n_row = cost < 1e9 ? m.b.n_tok : std::max(8, (int)(m.b.n_tok * 1e9 / cost));
	if (wrong.empty() && m.b.n_tok) wrong = against_oracle(m, to_float(got, m.n_q()), n_row);
	if (wrong.empty() && cost < 2e7) wrong = against_plain_c(m, to_float(got, m.n_q()));
	CU(cudaStreamDestroy(stream));
	CU(cudaFree(d.scratch));
	return wrong;
}

/* A sequence alone, and the same among others, with a longer page list and in another place: same bits.  Then the batch
 * captured once and replayed at later positions against eager runs of those. */
static std::string check_invariance(const attn_shape &s, int pos)
{
	attn_batch alone(s, { { pos, 1 } }, seed);
	attn_batch many(s, { { pos, 1 }, { 3 * pos + 700, 1 }, { 0, 1 }, { pos / 2, 1 } }, seed);
	std::vector<std::pair<int, int>> rows = { { pos, 1 } }; /* so many that no sequence is split */
	for (int i = 0; i < 80; i++)
		rows.push_back({ i * 7 % (pos + 1), 1 });
	attn_batch crowd(s, rows, seed);
	cudaStream_t stream;
	CU(cudaStreamCreate(&stream));
	cuda_dev d = attn_device(s, crowd.b.n_tok, stream, crowd.b.n_seq, 4 * pos + 800);
	std::vector<uint16_t> a, b;
	std::string wrong = run(alone, &d, 1, a);
	for (const attn_batch *m : { &many, &crowd }) {
		if (wrong.empty()) wrong = run(*m, &d, 1, b);
		if (wrong.empty() && memcmp(a.data(), b.data(), alone.n_q() * 2))
			wrong = "the first sequence's bits depend on the batch of " + std::to_string(m->b.n_seq);
	}

	cudaGraph_t graph;
	cudaGraphExec_t exec;
	moxie_err err = {};
	attn_args args = many.args();
	CU(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
	if (cuda_attn(&d, &args, &err) < 0) wrong = err.text;
	CU(cudaStreamEndCapture(stream, &graph));
	CU(cudaGraphInstantiate(&exec, graph, 0));
	for (int back : { 0, 1, 65, pos / 3 }) { /* earlier positions: their keys are there, later keys must be left alone */
		if (s.ring && back) break;
		std::vector<span> spans = many.spans;
		std::vector<int32_t> at = many.pos;
		for (size_t i = 0; i < spans.size(); i++)
			at[i] = spans[i].pos0 = std::max(0, spans[i].pos0 - back);
		CU(cudaMemcpy((void *)many.b.span_dev, spans.data(), spans.size() * sizeof(span), cudaMemcpyHostToDevice));
		CU(cudaMemcpy((void *)many.b.pos, at.data(), at.size() * 4, cudaMemcpyHostToDevice));
		CU(cudaMemset(many.o, 0xff, many.n_q() * 2));
		CU(cudaGraphLaunch(exec, stream));
		CU(cudaStreamSynchronize(stream));
		b.resize(many.n_q());
		CU(cudaMemcpy(b.data(), many.o, many.n_q() * 2, cudaMemcpyDeviceToHost));
		std::vector<uint16_t> eager;
		if (wrong.empty()) wrong = run(many, &d, 1, eager);
		if (wrong.empty() && memcmp(b.data(), eager.data(), many.n_q() * 2))
			wrong = "replay at positions " + std::to_string(back) + " earlier differs";
		many.pos = at;
		if (wrong.empty() && !back) wrong = against_oracle(many, to_float(b, many.n_q()), many.b.n_tok);
	}
	CU(cudaGraphExecDestroy(exec));
	CU(cudaGraphDestroy(graph));
	CU(cudaStreamDestroy(stream));
	CU(cudaFree(d.scratch));
	return wrong;
}

static std::string check_refusals()
{
	const attn_shape good = { 8, 2, 64, 0, false, true, 0.125f };
	attn_batch m(good, { { 3, 2 } }, seed);
	cuda_dev d = attn_device(good, 4, NULL);
	CU(cudaMemset(m.o, 0xff, m.n_q() * 2));
	moxie_err err = {};
	std::string wrong;
	for (int i = 0; i < 4; i++) {
		attn_args a = m.args();
		kv_view kv = m.kv;
		if (i == 0) a.d_head = 20;
		if (i == 1) a.d_head = 520;
		if (i == 2) a.n_head_kv = 3;
		if (i == 3) kv.dtype = DT_F32, a.kv = &kv;
		if (cuda_attn(&d, &a, &err) != MOXIE_E_SHAPE || !err.text[0]) wrong = "case " + std::to_string(i) + " was not refused";
	}
	std::vector<uint16_t> o(m.n_q());
	CU(cudaDeviceSynchronize());
	CU(cudaMemcpy(o.data(), m.o, m.n_q() * 2, cudaMemcpyDeviceToHost));
	for (uint16_t v : o)
		if (v != 0xffff) wrong = "a refused call wrote";
	CU(cudaFree(d.scratch));
	return wrong;
}

static std::vector<test> all_tests()
{
	std::vector<test> v;
	const auto add = [&](std::string name, attn_shape s, std::vector<std::pair<int, int>> rows, bool small = true, int repeats = 2) {
		v.push_back({ name, s, rows, small, repeats });
	};
	const attn_shape gpt = { 64, 8, 64, 0, false, true, 0.125f }, win = { 64, 8, 64, 128, true, true, 0.125f };
	const std::vector<std::pair<int, int>> edges = {
		{ 0, 1 }, { 1, 1 }, { 14, 1 }, { 63, 1 }, { 64, 1 }, { 65, 1 }, { 126, 1 }, { 127, 1 }, { 128, 1 }, { 129, 1 }, { 191, 1 }, { 192, 1 },
		{ 255, 1 }, { 256, 1 }, { 257, 1 }, { 319, 1 }, { 320, 1 }
	};
	const std::vector<std::pair<int, int>> mixed = { { 0, 70 }, { 200, 1 }, { 5, 3 }, { 0, 1 }, { 130, 130 }, { 64, 64 }, { 77, 2 } };
	add("none", gpt, {});
	/* plain: what only that kernel serves */
	for (int dh : { 8, 16, 32, 80, 96, 512 })
		for (int w : { 0, 20 })
			add("plain_d" + std::to_string(dh) + (w ? "_window" : ""), { 6, 2, dh, w, w > 0, w > 0, 0.2f },
			    { { 0, 9 }, { 100, 1 }, { 0, 1 }, { 40, 65 } });
	add("plain_tiny_a", { 4, 2, 16, 8, true, true, 0.25f }, mixed);
	add("plain_tiny_b", { 6, 3, 32, 0, false, true, 0.17f }, mixed);
	/* decode: one row */
	add("decode_edges_full", gpt, edges);
	add("decode_edges_window", win, edges);
	attn_shape s = gpt;
	s.sinks = false;
	add("decode_edges_no_sinks", s, edges);
	s = gpt, s.scale = 1; /* a few keys take all the weight */
	add("decode_edges_sharp", s, edges);
	s = win, s.ring = false;
	add("decode_window_unringed", s, edges);
	add("decode_few_rows", gpt, { { 0, 2 }, { 62, 3 }, { 127, 4 }, { 254, 4 }, { 1000, 1 }, { 1023, 2 }, { 2047, 4 } });
	add("decode_few_rows_window", win, { { 0, 2 }, { 62, 3 }, { 127, 4 }, { 254, 4 }, { 1000, 1 }, { 1023, 2 }, { 2047, 4 } });
	const int groups[][2] = { { 1, 1 }, { 2, 2 }, { 6, 2 }, { 7, 1 }, { 8, 2 }, { 16, 1 }, { 20, 1 }, { 48, 2 } };
	for (auto &g : groups)
		for (int dh : { 64, 128, 256 })
			add("decode_heads_" + std::to_string(g[0]) + "_" + std::to_string(g[1]) + "_d" + std::to_string(dh),
			    { g[0], g[1], dh, g[0] == 8 ? 100 : 0, g[0] == 8, g[0] % 4 != 0, 1 / sqrtf((float)dh) },
			    { { 0, 1 }, { 63, 1 }, { 300, 1 }, { 1030, 2 }, { 511, 4 } });
	add("decode_gemma_sliding", { 16, 8, 256, 1024, true, false, 1 / 16.f }, { { 0, 1 }, { 1023, 1 }, { 1024, 1 }, { 5000, 1 }, { 700, 3 } });
	add("decode_wordmath", { 8, 2, 64, 128, true, true, 0.125f }, { { 0, 1 }, { 127, 1 }, { 300, 1 } });
	std::vector<std::pair<int, int>> many;
	for (int i = 0; i < 200; i++)
		many.push_back({ (i * 397) % 3000, 1 });
	add("decode_batch_200", gpt, many, false, 3);
	add("decode_long", gpt, { { 131071, 1 }, { 8191, 1 }, { 8192, 1 }, { 32768, 1 }, { 65535, 1 } }, false, 3);
	add("decode_long_window", win, { { 131071, 1 }, { 8191, 1 }, { 100000, 1 } }, false);
	/* prefill and mixed */
	add("mixed_full", gpt, mixed);
	add("mixed_window", win, mixed);
	s = win, s.ring = false, s.sinks = false;
	add("mixed_unringed_no_sinks", s, mixed);
	add("mixed_d128", { 8, 2, 128, 0, false, true, 0.09f }, mixed);
	add("mixed_d256_window", { 4, 2, 256, 100, true, false, 0.0625f }, mixed);
	for (int n : { 5, 8, 15, 16, 17, 23, 24, 25, 63, 64, 65, 127, 128, 129, 257 }) {
		add("prefill_" + std::to_string(n), gpt, { { 0, n }, { 1000, n }, { 63, n } }, n <= 25);
		add("prefill_" + std::to_string(n) + "_window", win, { { 0, n }, { 1000, n }, { 63, n } }, n <= 25);
	}
	s = gpt, s.scale = 1;
	add("prefill_sharp", s, { { 0, 300 }, { 500, 33 } }, false);
	add("prefill_wordmath", { 8, 2, 64, 128, true, true, 0.125f }, { { 0, 200 }, { 77, 90 } });
	add("prefill_groups_1", { 4, 4, 64, 50, true, true, 0.125f }, { { 0, 200 }, { 77, 90 } });
	add("prefill_groups_7", { 7, 1, 64, 0, false, true, 0.125f }, { { 0, 200 }, { 77, 90 } });
	add("prefill_groups_3_no_sinks", { 6, 2, 64, 0, false, false, 0.125f }, { { 0, 200 }, { 77, 90 } });
	add("prefill_d128", { 8, 2, 128, 0, false, true, 0.09f }, { { 0, 300 }, { 500, 33 }, { 1000, 1 } }, false);
	add("prefill_d256_window", { 16, 8, 256, 1024, true, false, 0.0625f }, { { 0, 300 }, { 1500, 133 }, { 1000, 1 } }, false);
	add("prefill_2048", gpt, { { 0, 2048 } }, false);
	add("prefill_2048_window", win, { { 0, 2048 } }, false);
	add("prefill_chunk_deep", gpt, { { 30000, 512 } }, false);
	add("prefill_chunk_deep_window", win, { { 30000, 512 } }, false);
	std::vector<std::pair<int, int>> ragged;
	for (int i = 0; i < 100; i++)
		ragged.push_back({ (i * 131) % 700, i % 3 ? (i * 37) % 90 + 1 : 1 });
	add("prefill_ragged", gpt, ragged, false);
	add("prefill_ragged_window", win, ragged, false);
	/* a cache of e4m3: one of each kernel, and what its prompts' copy adds */
	attn_shape f8 = gpt, f8w = win;
	f8.f8 = f8w.f8 = true;
	for (int dh : { 8, 80, 512 })
		add("f8_plain_d" + std::to_string(dh), { 6, 2, dh, 20, true, true, 0.2f, true }, { { 0, 9 }, { 100, 1 }, { 0, 1 }, { 40, 65 } });
	add("f8_decode_edges_full", f8, edges);
	add("f8_decode_edges_window", f8w, edges);
	s = f8, s.scale = 1;
	add("f8_decode_edges_sharp", s, edges);
	add("f8_decode_few_rows", f8, { { 0, 2 }, { 62, 3 }, { 127, 4 }, { 254, 4 }, { 1000, 1 }, { 1023, 2 }, { 2047, 4 } });
	add("f8_decode_few_rows_window", f8w, { { 0, 2 }, { 62, 3 }, { 127, 4 }, { 254, 4 }, { 1000, 1 }, { 1023, 2 }, { 2047, 4 } });
	for (auto &g : groups)
		for (int dh : { 64, 128, 256 })
			if (g[0] == 6 || g[0] == 8 || g[0] == 20)
				add("f8_decode_heads_" + std::to_string(g[0]) + "_" + std::to_string(g[1]) + "_d" + std::to_string(dh),
				    { g[0], g[1], dh, g[0] == 8 ? 100 : 0, g[0] == 8, true, 1 / sqrtf((float)dh), true },
				    { { 0, 1 }, { 63, 1 }, { 300, 1 }, { 1030, 2 }, { 511, 4 } });
	add("f8_decode_batch_200", f8, many, false, 3);
	add("f8_decode_long", f8, { { 131071, 1 }, { 8191, 1 }, { 8192, 1 }, { 32768, 1 }, { 65535, 1 } }, false, 3);
	add("f8_mixed_full", f8, mixed);
	add("f8_mixed_window", f8w, mixed);
	s = f8w, s.ring = false;
	add("f8_mixed_unringed", s, mixed);
	add("f8_mixed_d128", { 8, 2, 128, 0, false, true, 0.09f, true }, mixed);
	for (int n : { 5, 64, 129, 257 }) {
		add("f8_prefill_" + std::to_string(n), f8, { { 0, n }, { 1000, n }, { 63, n } }, n <= 25);
		add("f8_prefill_" + std::to_string(n) + "_window", f8w, { { 0, n }, { 1000, n }, { 63, n } }, n <= 25);
	}
	add("f8_prefill_chunk_deep", f8, { { 30000, 512 } }, false);
	add("f8_prefill_ragged", f8, ragged, false); /* 66 prompts through a copy as large as the longest */
	add("f8_prefill_ragged_window", f8w, ragged, false);
	return v;
}

static void report(const std::string &name, const std::string &wrong)
{
	printf("%s %s%s%s\n", wrong.empty() ? "ok  " : "FAIL", name.c_str(), wrong.empty() ? "" : ": ", wrong.c_str());
	wrong.empty() ? n_pass++ : n_fail++;
	fflush(stdout);
}

int main(int argc, char **argv)
{
	std::vector<test> tests = all_tests();
	std::vector<const char *> names;
	bool list = false;
	seed = (uint64_t)time(NULL);
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--list")) list = true;
		else if (!strcmp(argv[i], "--small")) small_only = true;
		else if (!strcmp(argv[i], "--verbose")) verbose = true;
		else if (!strcmp(argv[i], "--seed") && i + 1 < argc) seed = strtoull(argv[++i], NULL, 10);
		else names.push_back(argv[i]);
	}
	const auto wanted = [&](const std::string &name) {
		bool hit = names.empty();
		for (const char *n : names)
			hit |= !name.compare(0, strlen(n), n);
		if (hit && list) printf("%s\n", name.c_str());
		return hit && !list;
	};
	if (!list) printf("seed %llu\n", (unsigned long long)seed);
	if (wanted("refusals")) report("refusals", check_refusals());
	for (const test &t : tests)
		if ((t.small || !small_only) && wanted(t.name)) report(t.name, check(t));
	const attn_shape full = { 64, 8, 64, 0, false, true, 0.125f }, ring = { 64, 8, 64, 128, true, true, 0.125f };
	const attn_shape wide = { 16, 8, 256, 1024, true, false, 0.0625f };
	attn_shape small = full;
	small.f8 = true;
	for (int pos : { 5, 300, 1023, 3000, 9000, 20000 }) {
		if (small_only && pos > 300) break;
		if (wanted("f8_invariant_" + std::to_string(pos))) report("f8_invariant_" + std::to_string(pos), check_invariance(small, pos));
	}
	for (int pos : { 5, 300, 1023, 3000, 9000, 20000 }) {
		if (small_only && pos > 300) break;
		if (wanted("invariant_full_" + std::to_string(pos))) report("invariant_full_" + std::to_string(pos), check_invariance(full, pos));
		if (wanted("invariant_window_" + std::to_string(pos))) report("invariant_window_" + std::to_string(pos), check_invariance(ring, pos));
		if (wanted("invariant_d256_" + std::to_string(pos))) report("invariant_d256_" + std::to_string(pos), check_invariance(wide, pos));
	}
	if (!list) printf("%d passed, %d failed\n", n_pass, n_fail);
	return n_fail != 0;
}
