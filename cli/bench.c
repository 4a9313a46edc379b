/* bench.c - `moxie bench`: prefill and decode of a whole model at several context lengths, against the memory's floor. */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench_read.h"
#include "cli.h"

struct bench {
	const struct opts *o;
	moxie_model *m;
	struct moxie_model_info info;
	char cpu[128], commit[64];
	FILE *out;
};

struct point {
	int n_ctx;                /* tokens before the decode */
	double prefill_seconds, step_seconds; /* step: median of n_gen */
	uint64_t bytes;           /* read for one token at n_ctx */
	double bandwidth;         /* bytes/s: the better of two readings, before and after */
	uint32_t hash;
};

/* "model name\t: AMD EPYC" of /proc/cpuinfo. */
static void cpu_name(char *out, size_t cap)
{
	char line[512];
	FILE *f = fopen("/proc/cpuinfo", "re");
	snprintf(out, cap, "unknown CPU");
	while (f && fgets(line, sizeof line, f)) {
		char *value = strncmp(line, "model name", 10) ? NULL : strchr(line, ':');
		if (value) {
			snprintf(out, cap, "%.*s", (int)strcspn(value + 2, "\n"), value + 2);
			break;
		}
	}
	if (f)
		fclose(f);
}

/* The commit of the source tree the program was built in, if it still lies there. */
static void commit_name(char *out, size_t cap)
{
	char dir[4096], cmd[4200];
	ssize_t n = readlink("/proc/self/exe", dir, sizeof dir - 1);
	snprintf(out, cap, "unknown");
	if (n <= 0 || strchr((dir[n] = 0, dir), '\''))
		return;
	*strrchr(dir, '/') = 0;
	snprintf(cmd, sizeof cmd, "git -C '%s' describe --always --dirty 2>/dev/null", dir);
	FILE *f = popen(cmd, "re");
	if (f && fgets(out, (int)cap, f))
		out[strcspn(out, "\n")] = 0;
	if (f)
		pclose(f);
}

int bench_by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

int bench_parse_list(const char *flag, const char *s, int *v, int *n)
{
	const char *all = s;
	for (*n = 0; *n < BENCH_MAX_LIST; s++) {
		char *end;
		long one = strtol(s, &end, 10);
		if (end == s || one < 1 || one > 1 << 30)
			break;
		v[(*n)++] = (int)one;
		if (!*end)
			return 0;
		if (*(s = end) != ',')
			break;
	}
	return bad_input("--%s is \"%s\", wanted up to %d numbers >= 1, like 1,8", flag, all, BENCH_MAX_LIST);
}

/* A fixed walk through the vocabulary: the same work in every run. */
void bench_fill_ids(int32_t *id, int n, int n_vocab, uint32_t x)
{
	for (int i = 0; i < n; i++) {
		x = x * 1664525u + 1013904223u;
		id[i] = (int32_t)((x >> 8) % (uint32_t)n_vocab);
	}
}

static int decode(const struct bench *b, moxie_session *s, double *step, struct moxie_err *err)
{
	int rc = 0;
	for (int i = 0; !rc && i < b->o->n_gen; i++) {
		int32_t id;
		double start = now();
		rc = interrupted ? (err->code = MOXIE_E_CANCELLED) : moxie_session_next(s, NULL, &id, err);
		step[i] = now() - start;
	}
	qsort(step, (size_t)b->o->n_gen, sizeof *step, bench_by_value);
	return rc;
}

static int measure(const struct bench *b, struct point *pt)
{
	struct moxie_err err = { 0 };
	struct moxie_session_params sp = { .struct_size = sizeof sp, .n_ctx = pt->n_ctx + b->o->n_gen };
	int32_t *id = malloc((size_t)pt->n_ctx * sizeof *id);
	double *step = malloc((size_t)b->o->n_gen * sizeof *step);
	moxie_session *s = NULL;
	int rc = MOXIE_E_NOMEM;
	if (id && step) {
		bench_fill_ids(id, pt->n_ctx, b->info.n_vocab, 1);
		rc = moxie_session_create(&s, b->m, &sp, &err);
	}
	cancel_on_interrupt(s);
	double start = now();
	if (!rc)
		rc = moxie_session_append(s, id, (size_t)pt->n_ctx, &err);
	pt->prefill_seconds = now() - start;
	if (!rc)
		rc = decode(b, s, step, &err);
	cancel_on_interrupt(NULL);
	if (!rc) {
		pt->step_seconds = step[b->o->n_gen / 2];
		pt->hash = logits_hash(s, b->info.n_vocab);
		pt->bytes = b->info.token_bytes + b->info.kv_token_bytes * (uint64_t)pt->n_ctx;
	}
	err.code = rc ? rc : err.code;
	moxie_session_free(s);
	free(step);
	free(id);
	return rc ? lib_error(&err) : 0;
}

static void print_header(const struct bench *b)
{
	char w[32], t[32];
	printf("# moxie %s commit %s, %s, %d threads, %s\n# ", moxie_version(), b->commit, b->cpu, b->info.n_thread, b->info.kernels);
	for (char **arg = b->o->argv; *arg; arg++)
		printf("%s%s", *arg, arg[1] ? " " : "\n");
	printf("# %s: %s of weights, %s read for one token, then %llu bytes for each of its context\n", b->o->model,
	       human_bytes(b->info.weight_bytes, w), human_bytes(b->info.token_bytes, t), (unsigned long long)b->info.kv_token_bytes);
	printf("%8s  %14s %10s | %12s %10s %8s  %-20s %s\n", "context", "prefill tok/s", "s", "decode tok/s", "ms/tok", "GB/s", "of what memory reads", "logits");
	fflush(stdout);
}

static int print_point(const struct bench *b, const struct point *pt)
{
	double prefill = pt->n_ctx / pt->prefill_seconds, decode = 1 / pt->step_seconds, gbs = decode * (double)pt->bytes;
	double part = pt->bandwidth > 0 ? gbs / pt->bandwidth : 0;
	char floor[32];
	snprintf(floor, sizeof floor, "%3.0f %% of %.1f GB/s", part * 100, pt->bandwidth * 1e-9);
	printf("%8d  %14.1f %10.3f | %12.1f %10.2f %8.2f  %-20s #%08x\n", pt->n_ctx, prefill, pt->prefill_seconds, decode, pt->step_seconds * 1e3,
	       gbs * 1e-9, floor, pt->hash);
	fflush(stdout);
	if (!b->out)
		return 0;
	char hash[16];
	snprintf(hash, sizeof hash, "%08x", pt->hash);
	json_t *row = json_pack("{s:s, s:s, s:s, s:s, s:i, s:s, s:i, s:i, s:f, s:f, s:f, s:I, s:f, s:f, s:f, s:s}", "moxie", moxie_version(), "commit",
	                        b->commit, "cpu", b->cpu, "kernels", b->info.kernels, "threads", b->info.n_thread, "model", b->o->model, "context",
	                        pt->n_ctx, "gen", b->o->n_gen, "prefill_tok_s", prefill, "prefill_s", pt->prefill_seconds, "decode_tok_s", decode,
	                        "token_bytes", (json_int_t)pt->bytes, "decode_gb_s", gbs * 1e-9, "read_gb_s", pt->bandwidth * 1e-9, "floor_fraction",
	                        part, "logits", hash);
	bool ok = row && json_dumpf(row, b->out, JSON_COMPACT) == 0 && fputc('\n', b->out) != EOF;
	json_decref(row);
	return ok ? 0 : (bad_input("%s: a row could not be written", b->o->output), EXIT_FAIL);
}

int bench_main(struct opts *o)
{
	struct bench b = { .o = o, .info = { .struct_size = sizeof b.info } };
	int ctx[BENCH_MAX_LIST], n, rc = bench_parse_list("contexts", o->contexts, ctx, &n);
	if (!rc)
		rc = model_choose(o, true);
	if (rc)
		return rc;
	if (o->output && !(b.out = fopen(o->output, "we")))
		return bad_input("%s: %s", o->output, strerror(errno));
	catch_interrupt(false);
	rc = model_open(&b.m, o, 1);
	if (!rc) {
		moxie_model_get_info(b.m, &b.info);
		cpu_name(b.cpu, sizeof b.cpu);
		commit_name(b.commit, sizeof b.commit);
		print_header(&b);
		for (int i = 0; !rc && i < n; i++) {
			if (!opts_given(o, "contexts") && ctx[i] + o->n_gen > b.info.n_ctx)
				continue;
			struct point pt = { .n_ctx = ctx[i], .bandwidth = bench_read_bandwidth(b.info.n_thread) };
			rc = measure(&b, &pt);
			pt.bandwidth = fmax(pt.bandwidth, bench_read_bandwidth(b.info.n_thread));
			if (!rc)
				rc = print_point(&b, &pt);
		}
		moxie_model_free(b.m);
	}
	if (b.out) {
		int lost = flush_or_fail(b.out, o->output);
		fclose(b.out);
		rc = rc ? rc : lost;
	}
	return rc;
}
