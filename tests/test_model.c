/* test_model.c - whole-model truth: logits of tiny random checkpoints against transformers in fp32.
 *
 * tests/vectors/<case>/ holds a Hugging Face directory and goldens.safetensors, made by tools/gen_vectors.py.
 * The plain C kernels with an fp32 KV cache must agree to 2e-5 of the largest logit: the same maths in another order.
 * bf16 activations or KV (8 bits of mantissa) change which expert comes last among near ties, and a random model feels that:
 * there half of the positions must be within 4e-2, and nine of ten within 0.15.
 */
#include <dirent.h>
#include <unistd.h>

#include "formats/safetensors.h"
#include "moxie.h"
#include "test.h"

#define VECTORS "tests/vectors"

static struct moxie_err err;

struct golden {
	struct safetensors *st;
	const int32_t *ids;
	const float *logits; /* [n, n_vocab] */
	int n, n_vocab;
};

static bool golden_get(struct golden *g, int i)
{
	char name[32];
	snprintf(name, sizeof name, "prompt%d", i);
	const struct st_tensor *p = safetensors_find(g->st, name);
	snprintf(name, sizeof name, "logits%d", i);
	const struct st_tensor *l = safetensors_find(g->st, name);
	if (!p || !l)
		return false;
	g->ids = (const int32_t *)(const void *)p->data;
	g->logits = (const float *)(const void *)l->data;
	g->n = (int)p->shape[0];
	g->n_vocab = (int)l->shape[1];
	return true;
}

/* Largest difference over the largest golden logit of that row. */
static double row_error(const float *got, const float *want, int n)
{
	double diff = 0, top = 0;
	for (int i = 0; i < n; i++) {
		if (!(fabs((double)got[i]) < INFINITY))
			return INFINITY;
		diff = fmax(diff, fabs((double)got[i] - (double)want[i]));
		top = fmax(top, fabs((double)want[i]));
	}
	return diff / top;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

struct run {
	const char *device;
	int kv_f32, n_chunk;
	double bound;   /* of every position; 0: the two quantiles for bf16 */
	bool loose; /* the device may be missing on this machine */
	int kv_fp8; /* then the quantiles are those of a cache of e4m3 */
	int dense_fp8; /* likewise, of weights */
};

/* Feeds each prompt whole (so every chunk length is met), then in steps of one token with the logits of every position. */
static double check_dir(const char *dir, const struct run *r, bool *ran)
{
	char path[512];
	struct golden g = { 0 };
	double worst = 0, row[4096];
	int n_row = 0;
	snprintf(path, sizeof path, "%s/goldens.safetensors", dir);
	OK(safetensors_open(&g.st, path, &err), err);
	moxie_model *m;
	struct moxie_model_params p = { .struct_size = sizeof p, .path = dir, .device = r->device, .kv_f32 = r->kv_f32, .n_chunk = r->n_chunk,
		.kv_fp8 = r->kv_fp8, .dense_fp8 = r->dense_fp8 };
	int rc = moxie_model_open(&m, &p, &err);
	*ran = rc == 0;
	if (rc == MOXIE_E_UNSUPPORTED && r->loose) {
		safetensors_free(g.st);
		return 0;
	}
	OK(rc, err);
	int n_prompt = 0;
	for (int i = 0; golden_get(&g, i); i++, n_prompt++) {
		moxie_session *s;
		OK(moxie_session_create(&s, m, NULL, &err), err);
		OK(moxie_session_append(s, g.ids, (size_t)g.n, &err), err);
		double e = row_error(moxie_session_logits(s), g.logits + (size_t)(g.n - 1) * (size_t)g.n_vocab, g.n_vocab);
		CHECK(r->bound <= 0 || e <= r->bound, "%s %s chunk %d prompt %d whole: error %.3g, bound %g", dir, r->device, r->n_chunk, i, e, r->bound);
		row[n_row++] = e;
		worst = fmax(worst, e);
		CHECK(moxie_session_rewind(s, 0) == 0, "rewind to the start must work");
		for (int t = 0; t < g.n; t++) {
			OK(moxie_session_append(s, g.ids + t, 1, &err), err);
			e = row_error(moxie_session_logits(s), g.logits + (size_t)t * (size_t)g.n_vocab, g.n_vocab);
			CHECK(r->bound <= 0 || e <= r->bound, "%s %s prompt %d position %d: error %.3g, bound %g", dir, r->device, i, t, e, r->bound);
			CHECK(n_row < (int)(sizeof row / sizeof *row), "more than %d positions", n_row);
			row[n_row++] = e;
			worst = fmax(worst, e);
		}
		moxie_session_free(s);
	}
	CHECK(n_prompt >= 1, "%s holds no prompts", path);
	qsort(row, (size_t)n_row, sizeof *row, ascending);
	double median = row[n_row / 2], p90 = row[n_row * 9 / 10];
	if (r->bound <= 0) {
		printf("    %-28s %-10s median %.2e, 90 %% %.2e of %d positions\n", dir, r->device, median, p90, n_row);
		bool fp8 = r->kv_fp8 || r->dense_fp8;
		CHECK(median <= (fp8 ? 0.2 : 4e-2) && p90 <= (r->dense_fp8 ? 0.5 : fp8 ? 0.4 : 0.15), "%s %s: median error %.3g, 90 %% %.3g", dir, r->device, median, p90);
	}
	moxie_model_free(m);
	safetensors_free(g.st);
	return worst;
}

static void check_all(const struct run *r)
{
	DIR *d = opendir(VECTORS);
	CHECK(d, "%s is missing", VECTORS);
	int n = 0, n_ran = 0;
	for (struct dirent *e; (e = readdir(d));) {
		char dir[400], probe[500];
		snprintf(dir, sizeof dir, "%s/%s", VECTORS, e->d_name);
		snprintf(probe, sizeof probe, "%s/goldens.safetensors", dir);
		FILE *f = fopen(probe, "r");
		if (!f)
			continue;
		fclose(f);
		bool ran;
		double worst = check_dir(dir, r, &ran);
		if (ran)
			printf("    %-28s %-10s chunk %-3d kv %s: worst error %.2e\n", e->d_name, r->device, r->n_chunk ? r->n_chunk : 512,
			       r->kv_f32 ? "f32 " : r->kv_fp8 ? "fp8 " : "bf16", worst);
		n++;
		n_ran += ran;
	}
	closedir(d);
	CHECK(n >= 3, "%d cases in %s, wanted at least 3", n, VECTORS);
	if (!n_ran)
		SKIP("%s: not on this processor", r->device);
}

/* Weights [n, k] of a checkpoint to what e4m3 with a power of two a row can hold, in double. */
static void round_rows(bf16 *w, int64_t n, int64_t k)
{
	for (int64_t r = 0; r < n; r++) {
		double most = 0;
		for (int64_t i = 0; i < k; i++)
			most = fmax(most, fabs((double)bf16_to_f32(w[r * k + i])));
		double scale = most > 0 ? exp2(ceil(log2(most / 448))) : 1;
		for (int64_t i = 0; i < k; i++) {
			double x = (double)bf16_to_f32(w[r * k + i]) / scale, step = exp2(fmax(x == 0 ? -6 : floor(log2(fabs(x))), -6) - 3);
			w[r * k + i] = bf16_from_f32((float)(nearbyint(x / step) * step * scale));
		}
	}
}

static uint8_t *file_of(const char *path, size_t *n)
{
	FILE *f = fopen(path, "rb");
	CHECK(f && fseek(f, 0, SEEK_END) == 0, "%s", path);
	*n = (size_t)ftell(f);
	uint8_t *p = malloc(*n);
	rewind(f);
	CHECK(p && fread(p, 1, *n, f) == *n, "%s", path);
	fclose(f);
	return p;
}

static void file_put(const char *dir, const char *name, const uint8_t *p, size_t n)
{
	char path[300];
	snprintf(path, sizeof path, "%s/%s", dir, name);
	FILE *f = fopen(path, "wb");
	CHECK(f && fwrite(p, 1, n, f) == n && fclose(f) == 0, "%s", path);
}

/* The flag makes of a checkpoint what a checkpoint of rounded weights is: the same logits but for the order of sums. */
static void dense_fp8_rounds(const char *dir, const char *device, double bound)
{
	char path[300], tmp[] = "/tmp/moxie-model-XXXXXX";
	size_t n, n_config;
	CHECK(mkdtemp(tmp), "no directory %s", tmp);
	snprintf(path, sizeof path, "%s/config.json", dir);
	uint8_t *config = file_of(path, &n_config);
	snprintf(path, sizeof path, "%s/model.safetensors", dir);
	uint8_t *image = file_of(path, &n);
	struct safetensors *st;
	OK(safetensors_parse(&st, image, n, path, &err), err);
	int n_dense = 0;
	for (size_t i = 0; i < safetensors_n(st); i++) {
		const struct st_tensor *t = safetensors_at(st, i);
		bool dense = t->n_dim == 2 && (strstr(t->name, "self_attn.") || !strcmp(t->name, "lm_head.weight"));
		if (dense)
			round_rows((bf16 *)(void *)(uintptr_t)t->data, t->shape[0], t->shape[1]);
		n_dense += dense;
	}
	CHECK(n_dense % 4 == 1 && n_dense > 4, "%d matrices", n_dense);
	safetensors_free(st);
	file_put(tmp, "config.json", config, n_config);
	file_put(tmp, "model.safetensors", image, n);

	moxie_model *m[2] = { 0 };
	moxie_session *s[2] = { 0 };
	int32_t id[40];
	double worst = 0;
	bool there = true;
	for (int i = 0; i < 2 && there; i++) {
		struct moxie_model_params p = { .struct_size = sizeof p, .path = i ? dir : tmp, .device = device, .kv_f32 = !strncmp(device, "cpu", 3), .dense_fp8 = i };
		int rc = moxie_model_open(&m[i], &p, &err);
		there = rc != MOXIE_E_UNSUPPORTED;
		if (there) {
			OK(rc, err);
			OK(moxie_session_create(&s[i], m[i], NULL, &err), err);
		}
	}
	for (int at = 0, len = 20; at < 40 && there; at += len, len = 1) { /* a prompt, then one by one */
		struct moxie_model_info info = { .struct_size = sizeof info };
		moxie_model_get_info(m[0], &info);
		for (int i = at; i < at + len; i++)
			id[i] = (i * 37 + 5) % info.n_vocab;
		for (int i = 0; i < 2; i++)
			OK(moxie_session_append(s[i], id + at, (size_t)len, &err), err);
		worst = fmax(worst, row_error(moxie_session_logits(s[1]), moxie_session_logits(s[0]), info.n_vocab));
	}
	for (int i = 0; i < 2; i++) {
		moxie_session_free(s[i]);
		moxie_model_free(m[i]);
		snprintf(path, sizeof path, "%s/%s", tmp, i ? "config.json" : "model.safetensors");
		unlink(path);
	}
	rmdir(tmp);
	free(config);
	free(image);
	if (!there)
		SKIP("%s", err.text);
	printf("    %s %s: %.2e from rounded weights\n", dir, device, worst);
	CHECK(worst <= bound, "%s %s: %.3g from rounded weights, at most %g", dir, device, worst, bound);
}
TEST(dense_fp8_rounds_ref) { dense_fp8_rounds(VECTORS "/gptoss_h320", "cpu:ref", 2e-5); }
TEST(dense_fp8_rounds_cpu) { dense_fp8_rounds(VECTORS "/gptoss_h320", "cpu", 0.15); }
TEST(dense_fp8_rounds_cuda) { dense_fp8_rounds(VECTORS "/gptoss_h320", "cuda", 0.15); }

TEST(golden_ref) { check_all(&(struct run){ "cpu:ref", 1, 0, 2e-5, false, 0, 0 }); }
TEST(golden_ref_small_chunks) { check_all(&(struct run){ "cpu:ref", 1, 5, 2e-5, false, 0, 0 }); }
TEST(golden_ref_kv_bf16) { check_all(&(struct run){ "cpu:ref", 0, 0, 0, false, 0, 0 }); }
TEST(golden_ref_kv_fp8) { check_all(&(struct run){ "cpu:ref", 0, 0, 0, false, 1, 0 }); }
TEST(golden_avx512_kv_fp8) { check_all(&(struct run){ "cpu:avx512", 0, 7, 0, true, 1, 0 }); }
TEST(golden_avx2) { check_all(&(struct run){ "cpu:avx2", 1, 0, 5e-5, true, 0, 0 }); }
TEST(golden_avx512) { check_all(&(struct run){ "cpu:avx512", 0, 0, 0, true, 0, 0 }); }
TEST(golden_avx512_small_chunks) { check_all(&(struct run){ "cpu:avx512", 0, 7, 0, true, 0, 0 }); }
TEST(golden_amx) { check_all(&(struct run){ "cpu:amx", 0, 0, 0, true, 0, 0 }); }
TEST(golden_amx_small_chunks) { check_all(&(struct run){ "cpu:amx", 0, 33, 0, true, 0, 0 }); }
TEST(golden_ref_dense_fp8) { check_all(&(struct run){ "cpu:ref", 1, 0, 0, false, 0, 1 }); }
TEST(golden_cpu_dense_fp8) { check_all(&(struct run){ "cpu", 0, 7, 0, false, 0, 1 }); }
TEST(golden_cuda) { check_all(&(struct run){ "cuda", 0, 0, 0, true, 0, 0 }); }
TEST(golden_cuda_portable_99) { check_all(&(struct run){ "cuda:portable,shared=99", 0, 0, 0, true, 0, 0 }); }
TEST(golden_cuda_portable_64) { check_all(&(struct run){ "cuda:portable,shared=64", 0, 7, 0, true, 0, 0 }); }
TEST(golden_cuda_small_chunks) { check_all(&(struct run){ "cuda", 0, 7, 0, true, 0, 0 }); }

TEST(golden_cuda_kv_fp8) { check_all(&(struct run){ "cuda", 0, 0, 0, true, 1, 0 }); }
TEST(golden_cuda_kv_fp8_small_chunks) { check_all(&(struct run){ "cuda", 0, 7, 0, true, 1, 0 }); }
TEST(golden_cuda_dense_fp8) { check_all(&(struct run){ "cuda", 0, 0, 0, true, 0, 1 }); }
TEST(golden_cuda_dense_fp8_small_chunks) { check_all(&(struct run){ "cuda", 0, 7, 0, true, 0, 1 }); }

TEST_MAIN
