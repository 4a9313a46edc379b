/* test_sample.cu - sampling on the device against src/engine/sampler.c, id by id; log-probabilities against double; draws by chi-square;
 * a captured graph that feeds its picks back into the penalties against the CPU doing the same.
 */
#include <cuda_runtime.h>
#include <utility>
#include <vector>

#include "../test.h"
#include "cap.cuh"
#include "cu.cuh"
#include "sample.h"
extern "C" {
#include "engine/sampler.h"
}

template <typename T> static T *upload(const std::vector<T> &v)
{
	T *p;
	CU(cudaMalloc(&p, v.size() * sizeof(T) + 16));
	CU(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice));
	return p;
}
template <typename T> static std::vector<T> download(const T *p, size_t n)
{
	std::vector<T> v(n);
	CU(cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost));
	return v;
}

static struct cuda_dev *device()
{
	static struct cuda_dev d;
	if (!d.n_sm) {
		capped_device(&d);
		d.scratch_bytes = d.portable ? CUDA_COUNTER_BYTES + (16 << 20) : 0; /* fewer rows than some tests have */
		if (d.portable) CU(cudaMalloc(&d.scratch, d.scratch_bytes));
		CU(cudaStreamCreateWithFlags(&d.stream, cudaStreamNonBlocking));
	}
	return &d;
}

enum data { NORMAL, WIDE, FLAT, EQUAL, TIES, HOLES, NANS, MINUS_INF, ALL_NAN, PLUS_INF, N_DATA };
static const char *const data_name[] = { "normal", "wide", "flat", "equal", "ties", "holes", "nans", "minus inf", "all nan", "plus inf" };

static float logit(int kind, int i)
{
	const float z = rnd_normal();
	switch (kind) {
	case WIDE: return 40 * z;
	case FLAT: return 0.01f * z - 3;
	case EQUAL: return -0.f;
	case TIES: return floorf(2 * z) / 2 * (i & 1 ? 1 : -1);
	case HOLES: return i % 3 ? -INFINITY : 3 * z;
	case NANS: return i % 5 ? 3 * z : NAN;
	case MINUS_INF: return -INFINITY;
	case ALL_NAN: return i & 1 ? NAN : -INFINITY;
	case PLUS_INF: return i % 1000 == 7 || i == 2 ? INFINITY : z;
	default: return 3 * z;
	}
}

struct request {
	struct moxie_sampling sp;
	std::vector<int32_t> history;
	int n_out;
	std::vector<struct moxie_bias> bias; /* no id twice */
};

static request greedy(int n_vocab)
{
	request r = {};
	r.history.push_back(rnd_int(n_vocab));
	return r;
}

/* Any sampling, with each cut present half of the time. */
static request any_request(int n_vocab)
{
	request r = {};
	const int n = 1 + rnd_int(200);
	for (int i = 0; i < n; i++)
		r.history.push_back(rnd_int(rnd_int(2) ? n_vocab : 1 + n_vocab / 20));
	r.n_out = rnd_int(n + 1);
	r.sp.seed = rnd_u64();
	r.sp.temperature = rnd_int(8) ? (float)(0.1 + 2 * rnd()) : 0;
	r.sp.top_k = rnd_int(2) ? 1 + rnd_int(rnd_int(2) ? 50 : n_vocab + 5) : 0;
	r.sp.top_p = rnd_int(2) ? (float)(0.02 + 0.97 * rnd()) : (float)rnd_int(2);
	r.sp.min_p = rnd_int(2) ? (float)(0.3 * rnd() * rnd()) : 0;
	r.sp.repetition_penalty = rnd_int(2) ? (float)(0.7 + rnd()) : (float)rnd_int(2);
	r.sp.presence_penalty = rnd_int(2) ? (float)(2 * rnd() - 1) : 0;
	r.sp.frequency_penalty = rnd_int(2) ? (float)(rnd() - 0.3) : 0;
	const int n_bias = rnd_int(2) ? rnd_int(std::min(n_vocab, SAMPLE_BIAS_MAX) + 1) : 0, step = n_bias ? n_vocab / n_bias : 1;
	for (int i = 0; i < n_bias; i++)
		r.bias.push_back({ i * step, (float)(8 * rnd() - 5) });
	return r;
}

static int32_t cpu_pick(const request &r, const float *l, int n_vocab)
{
	static struct sampler s;
	static int n;
	if (n != n_vocab) {
		sampler_free(&s);
		CHECK(sampler_init(&s, n_vocab), "no memory");
		n = n_vocab;
	}
	struct sampler_rule rule = {};
	rule.bias = r.bias.data(), rule.n_bias = r.bias.size();
	return sampler_pick_ruled(&s, &r.sp, &rule, l, n_vocab, r.history.data(), r.history.size(), (size_t)r.n_out);
}

static struct sample_row row_of(const struct moxie_sampling &sp, uint64_t n, int hist, int n_top, bool append)
{
	struct sample_row r;
	memset(&r, 0, sizeof r);
	r.seed = sp.seed;
	r.n = n;
	r.temperature = sp.temperature;
	r.top_p = sp.top_p;
	r.min_p = sp.min_p;
	r.repetition_penalty = sp.repetition_penalty;
	r.presence_penalty = sp.presence_penalty;
	r.frequency_penalty = sp.frequency_penalty;
	r.top_k = sp.top_k;
	r.n_top = n_top;
	r.hist = hist;
	r.append = append;
	return r;
}

/* The lists of rows as the device has them; row[r].hist is set. */
static struct sample_bias *upload_bias(const std::vector<request> &req, std::vector<struct sample_row> &row)
{
	std::vector<struct sample_bias> all(row.size() * SAMPLE_BIAS_MAX, { 0, NAN });
	for (size_t r = 0; r < row.size(); r++) {
		row[r].n_bias = (int32_t)req[r].bias.size();
		for (size_t i = 0; i < req[r].bias.size(); i++)
			all[(size_t)row[r].hist * SAMPLE_BIAS_MAX + i] = { req[r].bias[i].id, req[r].bias[i].bias };
	}
	return upload(all);
}

/* Log-probabilities of the logits as given. */
static void check_logprobs(const float *l, int n_vocab, int n_top, int pick, float lp, const int32_t *id, const float *top,
                           const char *what)
{
	std::vector<std::pair<float, int>> order;
	double best = -INFINITY, sum = 0;
	for (int i = 0; i < n_vocab; i++)
		best = l[i] > best ? l[i] : best;
	for (int i = 0; i < n_vocab; i++)
		if (l[i] > -INFINITY)
			sum += exp(l[i] - best);
	auto want = [&](int i) { return !isfinite(best) ? 0 : (isnan(l[i]) ? -INFINITY : l[i]) - best - log(sum); };
	auto same = [](double a, double b) { return a == b || fabs(a - b) < 2e-5 * fmax(1, fabs(b)); };
	if (isfinite(best))
		CHECK(same(lp, want(pick)), "%s: pick %d has log-probability %g, wanted %g", what, pick, (double)lp, want(pick));
	else
		CHECK(lp == 0, "%s: %g, wanted 0", what, (double)lp);
	std::vector<bool> taken((size_t)n_vocab);
	for (int j = 0; j < n_top; j++) {
		int k = -1;
		for (int i = 0; i < n_vocab; i++)
			if (!taken[(size_t)i] && (k < 0 || (isnan(l[i]) ? -INFINITY : l[i]) > (isnan(l[k]) ? -INFINITY : l[k])))
				k = i;
		CHECK(id[j] == k, "%s: place %d is %d, wanted %d", what, j, id[j], k);
		if (k < 0) {
			CHECK(top[j] == -INFINITY, "%s: %g", what, (double)top[j]);
			continue;
		}
		taken[(size_t)k] = true;
		if (isfinite(best))
			CHECK(same(top[j], want(k)), "%s: place %d has %g, wanted %g", what, j, (double)top[j], want(k));
		else
			CHECK(top[j] == (j ? -INFINITY : 0.f), "%s: place %d has %g", what, j, (double)top[j]);
	}
}

/* One call for n_row rows of one kind of data. */
static void sample_case(int n_row, int n_vocab, int kind, bool all_greedy, int n_top)
{
	struct cuda_dev *d = device();
	struct moxie_err err;
	std::vector<float> l((size_t)n_row * n_vocab);
	for (size_t i = 0; i < l.size(); i++)
		l[i] = logit(kind == N_DATA ? rnd_int(FLAT) : kind, (int)(i % n_vocab));
	std::vector<request> req;
	std::vector<struct sample_row> row;
	float *dl = upload(l);
	uint32_t *hist;
	CU(cudaMalloc(&hist, l.size() * 4));
	CU(cudaMemset(hist, 0xee, l.size() * 4));
	for (int r = 0; r < n_row; r++) {
		req.push_back(all_greedy ? greedy(n_vocab) : any_request(n_vocab));
		row.push_back(row_of(req.back().sp, req.back().history.size(), n_row - 1 - r, n_top < 0 ? -1 : rnd_int(n_top + 1), false));
		int32_t *tok = upload(req.back().history);
		struct sample_history_args h = { hist + (size_t)(n_row - 1 - r) * n_vocab, tok, (int)req.back().history.size(),
		                                 req.back().n_out, n_vocab };
		OK(cuda_sample_history(d, &h, &err), err);
		CU(cudaStreamSynchronize(d->stream));
		CU(cudaFree(tok));
	}
	struct sample_bias *bias = upload_bias(req, row);
	struct sample_row *drow = upload(row);
	int32_t *id = upload(std::vector<int32_t>((size_t)n_row, -7)), *top_id = upload(std::vector<int32_t>((size_t)n_row * SAMPLE_TOP_MAX, -7));
	float *lp = upload(std::vector<float>((size_t)n_row, 7)), *top_lp = upload(std::vector<float>((size_t)n_row * SAMPLE_TOP_MAX, 7));
	struct sample_args a = { id, dl, all_greedy && n_top < 0 ? NULL : drow, hist, bias, n_top < 0 ? NULL : lp, top_id, top_lp, n_row, n_vocab };
	OK(cuda_sample(d, &a, &err), err);
	CU(cudaStreamSynchronize(d->stream));
	const std::vector<int32_t> got = download(id, (size_t)n_row), gid = download(top_id, (size_t)n_row * SAMPLE_TOP_MAX);
	const std::vector<float> glp = download(lp, (size_t)n_row), gtop = download(top_lp, (size_t)n_row * SAMPLE_TOP_MAX);
	CU(cudaFree(bias)), CU(cudaFree(dl)), CU(cudaFree(hist)), CU(cudaFree(drow)), CU(cudaFree(id)), CU(cudaFree(top_id)), CU(cudaFree(lp)), CU(cudaFree(top_lp));
	for (int r = 0; r < n_row; r++) {
		const float *lr = l.data() + (size_t)r * n_vocab;
		const struct moxie_sampling *s = &req[(size_t)r].sp;
		const int32_t want = cpu_pick(req[(size_t)r], lr, n_vocab);
		char what[300];
		snprintf(what, sizeof what, "%s, row %d of %d, vocabulary %d, t %g k %d p %g min %g rep %g pres %g freq %g",
		         kind == N_DATA ? "mixed" : data_name[kind], r, n_row, n_vocab, (double)s->temperature, s->top_k, (double)s->top_p,
		         (double)s->min_p, (double)s->repetition_penalty,
		         (double)s->presence_penalty, (double)s->frequency_penalty);
		CHECK(got[(size_t)r] == want, "%s: %d (%g), wanted %d (%g)", what, got[(size_t)r],
		      got[(size_t)r] >= 0 && got[(size_t)r] < n_vocab ? (double)lr[got[(size_t)r]] : NAN, want, (double)lr[want]);
		if (n_top >= 0)
			check_logprobs(lr, n_vocab, row[(size_t)r].n_top, want, glp[(size_t)r], &gid[(size_t)r * SAMPLE_TOP_MAX],
			               &gtop[(size_t)r * SAMPLE_TOP_MAX], what);
	}
}

static const int vocabs[] = { 1, 2, 3, 7, 33, 130, 1000, 4097, 32001, 201088 };
#define EACH(v, list) for (size_t v##_i = 0; v##_i < sizeof list / sizeof *list; v##_i++)

TEST(argmax)
{
	EACH(v, vocabs)
		for (int kind = 0; kind < N_DATA; kind++)
			sample_case(1 + rnd_int(12), vocabs[v_i], kind, true, -1);
}
TEST(argmax_many_rows) { sample_case(128, 201088, NORMAL, true, -1), sample_case(300, 4097, TIES, true, -1); }
TEST(pick)
{
	EACH(v, vocabs)
		for (int kind = 0; kind < N_DATA; kind++)
			sample_case(1 + rnd_int(12), vocabs[v_i], kind, false, -1);
}
TEST(pick_many_rows)
{
	for (int i = 0; i < 20; i++)
		sample_case(64, 1 + rnd_int(3000), i % (N_DATA + 1), false, -1);
	sample_case(40, 201088, NORMAL, false, -1);
	sample_case(3, SAMPLE_VOCAB_MAX, NORMAL, false, -1);
	sample_case(20, 262144, FLAT, false, -1);
}
TEST(logprobs)
{
	EACH(v, vocabs)
		for (int kind = 0; kind < N_DATA; kind++)
			sample_case(1 + rnd_int(12), vocabs[v_i], kind, rnd_int(2), SAMPLE_TOP_MAX);
}

/* 2^16 draws of one distribution, rows of one call and calls of one graph. */
static void chi_square(struct moxie_sampling sp, const std::vector<double> &p)
{
	struct cuda_dev *d = device();
	struct moxie_err err;
	const int n_vocab = (int)p.size(), n_row = 4096, n_call = 16;
	std::vector<float> l((size_t)n_row * n_vocab);
	for (size_t i = 0; i < l.size(); i++)
		l[i] = (float)(log(p[i % n_vocab]) * (double)sp.temperature);
	std::vector<struct sample_row> row;
	for (int r = 0; r < n_row; r++) {
		sp.seed = rnd_u64();
		row.push_back(row_of(sp, (uint64_t)r, -1, -1, true));
	}
	float *dl = upload(l);
	struct sample_row *drow = upload(row);
	int32_t *id = upload(std::vector<int32_t>((size_t)n_row));
	std::vector<double> got(p.size());
	struct sample_args a = { id, dl, drow, NULL, NULL, NULL, NULL, NULL, n_row, n_vocab };
	for (int c = 0; c < n_call; c++) {
		OK(cuda_sample(d, &a, &err), err);
		CU(cudaStreamSynchronize(d->stream));
		for (int32_t i : download(id, (size_t)n_row)) {
			CHECK(i >= 0 && i < n_vocab, "%d", i);
			got[(size_t)i]++;
		}
	}
	CU(cudaFree(dl)), CU(cudaFree(drow)), CU(cudaFree(id));
	double x = 0;
	for (size_t i = 0; i < p.size(); i++)
		x += pow(got[i] - p[i] * n_row * n_call, 2) / (p[i] * n_row * n_call);
	const double f = (double)p.size() - 1; /* mean f, variance 2 f; six deviations and the skew of few degrees */
	CHECK(x < f + 6 * sqrt(2 * f) + 18, "chi-square %g with %g degrees of freedom", x, f);
}

static std::vector<double> some_distribution(int n)
{
	std::vector<double> p;
	double sum = 0;
	for (int i = 0; i < n; i++)
		p.push_back(0.05 + rnd()), sum += p.back();
	for (double &v : p)
		v /= sum;
	return p;
}
TEST(draws)
{
	struct moxie_sampling sp = {};
	sp.temperature = 0.7f;
	chi_square(sp, some_distribution(40));
	sp.temperature = 1.4f;
	sp.top_k = 40; /* in order of probability */
	chi_square(sp, some_distribution(40));
}

/* A captured step replayed: the pick is counted, n grows, and the next replay sees both. */
TEST(replay)
{
	struct cuda_dev *d = device();
	struct moxie_err err;
	const int n_vocab = 1001, n_row = 9, n_step = 60;
	std::vector<float> l((size_t)n_row * n_vocab);
	for (float &v : l)
		v = 2 * rnd_normal();
	std::vector<request> req;
	std::vector<struct sample_row> row;
	uint32_t *hist;
	CU(cudaMalloc(&hist, l.size() * 4));
	for (int r = 0; r < n_row; r++) {
		req.push_back(any_request(n_vocab));
		req.back().sp.frequency_penalty = 0.5f;
		row.push_back(row_of(req.back().sp, req.back().history.size(), r, -1, true));
		int32_t *tok = upload(req.back().history);
		struct sample_history_args h = { hist + (size_t)r * n_vocab, tok, (int)req.back().history.size(), req.back().n_out, n_vocab };
		OK(cuda_sample_history(d, &h, &err), err);
	}
	float *dl = upload(l);
	struct sample_bias *bias = upload_bias(req, row);
	struct sample_row *drow = upload(row);
	int32_t *id = upload(std::vector<int32_t>((size_t)n_row));
	struct sample_args a = { id, dl, drow, hist, bias, NULL, NULL, NULL, n_row, n_vocab };
	cudaGraph_t graph;
	cudaGraphExec_t exec;
	CU(cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal));
	OK(cuda_sample(d, &a, &err), err);
	CU(cudaStreamEndCapture(d->stream, &graph));
	CU(cudaGraphInstantiate(&exec, graph, 0));
	for (int step = 0; step < n_step; step++) {
		CU(cudaGraphLaunch(exec, d->stream));
		CU(cudaStreamSynchronize(d->stream));
		const std::vector<int32_t> got = download(id, (size_t)n_row);
		for (int r = 0; r < n_row; r++) {
			const int32_t want = cpu_pick(req[(size_t)r], &l[(size_t)r * n_vocab], n_vocab);
			CHECK(got[(size_t)r] == want, "step %d row %d: %d, wanted %d", step, r, got[(size_t)r], want);
			req[(size_t)r].history.push_back(want);
			req[(size_t)r].n_out++;
		}
	}
	CU(cudaGraphExecDestroy(exec)), CU(cudaGraphDestroy(graph));
	CU(cudaFree(bias)), CU(cudaFree(dl)), CU(cudaFree(drow)), CU(cudaFree(id)), CU(cudaFree(hist));
}

TEST(sanitize)
{
	for (int kind = 0; kind < N_DATA; kind++)
		sample_case(3, 130 + kind, kind, false, 5), sample_case(2, 77, kind, true, -1);
}

TEST(refusals)
{
	struct moxie_err err;
	struct sample_args a = {};
	CHECK(cuda_sample(device(), &a, &err) == 0, "no rows are no-op");
	a.n_row = 1;
	a.n_vocab = SAMPLE_VOCAB_MAX + 1;
	CHECK(cuda_sample(device(), &a, &err) == MOXIE_E_SHAPE, "%s", err.text);
	a.n_vocab = 0;
	CHECK(cuda_sample(device(), &a, &err) == MOXIE_E_SHAPE, "%s", err.text);
}

TEST_MAIN
