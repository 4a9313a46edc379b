/* bench_latency.c - `moxie bench latency`: one batch of equal requests, prompts first, then steps of all of them together; of each
 * batch size, at each context length.
 *
 * The floor of a step is the bytes it must read: dense weights once, the experts that so many tokens can be expected to meet under
 * even routing, keys and values of every sequence. */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench_read.h"
#include "cli.h"

#define MAX_BATCH 256
#define N_WARM 4 /* steps before the clock starts: the first of a shape is recorded */
#define N_PROFILE 8

struct batch_result {
	int n_seq, input_len;
	double prefill_seconds, first_seconds; /* all prompts; the first of them to its first token */
	double median, mean, best;             /* seconds of a step */
	double bytes;                          /* floor of a step */
	uint32_t hash;
};

/* Bytes a step of n_seq sequences at context n_ctx reads at least. */
static double step_bytes(const struct moxie_model_info *i, int n_seq, double n_ctx)
{
	double expert = 3. * i->n_embd * i->n_ff * 17 / 32 + 2. * (2 * i->n_ff + i->n_embd);
	double dense = (double)i->token_bytes - (double)i->n_layer * i->n_expert_used * expert;
	double met = i->n_expert * (1 - pow(1 - (double)i->n_expert_used / i->n_expert, n_seq));
	double window = n_ctx < i->window ? n_ctx : i->window;
	return dense + i->n_layer * met * expert + n_seq * (n_ctx * (double)i->kv_token_bytes + window * (double)i->kv_sliding_token_bytes);
}

static int step(moxie_session **s, int n, int32_t *id, struct moxie_err *err)
{
	int rc = 0;
	for (int i = 0; !rc && i < n; i++)
		rc = moxie_session_sample(s[i], NULL, &id[i], err);
	return rc ? rc : moxie_step(s, id, n, err);
}

static int decode(const struct opts *o, moxie_session **s, struct batch_result *r, struct moxie_err *err)
{
	int32_t id[MAX_BATCH];
	double *took = malloc((size_t)o->n_gen * sizeof *took), start = 0, all = 0;
	int rc = took ? 0 : (err->code = MOXIE_E_NOMEM);
	for (int i = 0; !rc && i < r->n_seq; i++)
		rc = moxie_session_expect(s[i], NULL, (size_t)(N_WARM + o->n_gen), err);
	for (int i = -N_WARM; !rc && i < o->n_gen; i++) {
		start = now();
		rc = interrupted ? (err->code = MOXIE_E_CANCELLED) : step(s, r->n_seq, id, err);
		if (i >= 0)
			all += took[i] = now() - start;
	}
	if (!rc) {
		qsort(took, (size_t)o->n_gen, sizeof *took, bench_by_value);
		r->median = took[o->n_gen / 2], r->best = took[0], r->mean = all / o->n_gen;
	}
	free(took);
	return rc;
}

struct profile {
	int n_step, n_row;
	double all;
	struct { char name[96]; int n; double us; } row[64];
};

/* "void rmsnorm_kernel<1, false>(uint4 *..." as _Z14rmsnorm_kernelILi1ELb0EE...: the first identifier of the mangled name. */
static void plain_name(char *to, size_t cap, const char *name)
{
	if (!strncmp(name, "_Z", 2)) {
		char *end;
		size_t len = strtoul(name + 2 + strspn(name + 2, "NL"), &end, 10);
		if (len > 8 && len <= strlen(end) && !strncmp(end, "_GLOBAL_", 8)) /* an unnamed namespace: its member's name follows */
			len = strtoul(end + len, &end, 10);
		if (len && len <= strlen(end)) {
			snprintf(to, cap, "%.*s%s", (int)len, end, end[len] == 'I' ? "<>" : "");
			return;
		}
	}
	snprintf(to, cap, "%s", name);
}

static void on_row(void *ud, const char *kernel, int n, double us)
{
	struct profile *p = ud;
	char name[96];
	int i = 0;
	plain_name(name, sizeof name, kernel);
	while (i < p->n_row && strcmp(p->row[i].name, name))
		i++; /* instances of one template together */
	if (i == p->n_row)
		memcpy(p->row[p->n_row++].name, name, sizeof name);
	p->row[i].n += n;
	p->row[i].us += us;
	p->all += us;
}

/* N_PROFILE steps, watched. */
static int profile(moxie_model *m, moxie_session **s, int n_seq, struct moxie_err *err)
{
	struct profile *p = calloc(1, sizeof *p);
	int32_t id[MAX_BATCH];
	int rc = p ? moxie_profile_begin(m, err) : (err->code = MOXIE_E_NOMEM);
	for (int i = 0; !rc && i < n_seq; i++)
		rc = moxie_session_expect(s[i], NULL, N_PROFILE, err);
	for (int i = 0; !rc && i < N_PROFILE; i++)
		rc = step(s, n_seq, id, err);
	if (!rc)
		rc = moxie_profile_end(m, on_row, p, err);
	for (int i = 0; !rc && i < p->n_row; i++)
		printf("    %-48s %6.1f x %8.2f us = %9.1f us  %5.1f %%\n", p->row[i].name, (double)p->row[i].n / N_PROFILE, p->row[i].us / p->row[i].n,
		       p->row[i].us / N_PROFILE, 100 * p->row[i].us / p->all);
	if (!rc)
		printf("    %-48s %8s %11s   %9.1f us, watched\n", "a step", "", "", p->all / N_PROFILE);
	free(p);
	return rc;
}

static int measure(const struct opts *o, moxie_model *m, const struct moxie_model_info *info, struct batch_result *r)
{
	struct moxie_err err = { 0 };
	struct moxie_session_params sp = { .struct_size = sizeof sp, .n_ctx = r->input_len + o->n_gen + N_WARM + N_PROFILE };
	moxie_session *s[MAX_BATCH] = { 0 };
	int32_t *id = malloc((size_t)r->input_len * sizeof *id), unused;
	int rc = id ? 0 : MOXIE_E_NOMEM;
	for (int i = 0; !rc && i < r->n_seq; i++)
		rc = moxie_session_create(&s[i], m, &sp, &err);
	double start = now();
	for (int i = 0; !rc && i < r->n_seq; i++) {
		bench_fill_ids(id, r->input_len, info->n_vocab, (uint32_t)i + 1);
		cancel_on_interrupt(s[i]);
		rc = moxie_session_append(s[i], id, (size_t)r->input_len, &err);
		if (!rc && i == 0) {
			rc = moxie_session_sample(s[0], NULL, &unused, &err);
			r->first_seconds = now() - start;
		}
	}
	r->prefill_seconds = now() - start;
	cancel_on_interrupt(NULL);
	if (!rc)
		rc = decode(o, s, r, &err);
	if (!rc && o->profile)
		rc = profile(m, s, r->n_seq, &err);
	if (!rc) {
		r->bytes = step_bytes(info, r->n_seq, r->input_len + N_WARM + o->n_gen / 2.);
		r->hash = logits_hash(s[0], info->n_vocab);
	}
	for (int i = 0; i < r->n_seq; i++)
		moxie_session_free(s[i]);
	free(id);
	err.code = rc ? rc : err.code;
	return rc ? lib_error(&err) : 0;
}

static int print_result(const struct opts *o, const struct batch_result *r, FILE *out, const char *kernels, double bandwidth)
{
	double prefill = (double)r->n_seq * r->input_len / r->prefill_seconds, tok = r->n_seq / r->median, gbs = r->bytes / r->median * 1e-9;
	double floor_ms = bandwidth > 0 ? r->bytes / bandwidth * 1e3 : 0, part = floor_ms / (r->median * 1e3);
	printf("%6d %8d  %13.0f %9.2f | %12.0f %9.3f %9.3f %9.3f %8.0f %9.3f %6.0f %%  #%08x\n", r->n_seq, r->input_len, prefill,
	       r->first_seconds * 1e3, tok, r->median * 1e3, r->mean * 1e3, r->best * 1e3, gbs, floor_ms, 100 * part, r->hash);
	fflush(stdout);
	if (!out)
		return 0;
	json_t *row = json_pack("{s:s, s:s, s:s, s:i, s:i, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "moxie", moxie_version(), "kernels", kernels, "model",
	                        o->model, "batch", r->n_seq, "input_len", r->input_len, "output_len", o->n_gen, "prefill_tok_s", prefill, "ttft_ms",
	                        r->first_seconds * 1e3, "decode_tok_s", tok, "step_ms", r->median * 1e3, "step_bytes", r->bytes, "gb_s", gbs, "read_gb_s", bandwidth * 1e-9, "floor_fraction", part);
	bool ok = row && json_dumpf(row, out, JSON_COMPACT) == 0 && fputc('\n', out) != EOF;
	json_decref(row);
	return ok ? 0 : (bad_input("%s: a row could not be written", o->output), EXIT_FAIL);
}

int bench_latency_main(struct opts *o)
{
	int batch[BENCH_MAX_LIST], context[BENCH_MAX_LIST] = { o->input_len }, n, n_context = 1, most = 1;
	int rc = bench_parse_list("batch", o->batches, batch, &n);
	if (!rc && opts_given(o, "contexts"))
		rc = bench_parse_list("contexts", o->contexts, context, &n_context);
	for (int i = 0; !rc && i < n; i++) {
		most = batch[i] > most ? batch[i] : most;
		if (batch[i] > MAX_BATCH)
			rc = bad_input("--batch is %d, wanted at most %d", batch[i], MAX_BATCH);
	}
	if (!rc)
		rc = model_choose(o, true);
	if (rc)
		return rc;
	FILE *out = o->output ? fopen(o->output, "we") : NULL;
	if (o->output && !out)
		return bad_input("%s: %s", o->output, strerror(errno));
	double bandwidth = 0;
	moxie_model *m = NULL;
	struct moxie_model_info info = { .struct_size = sizeof info };
	catch_interrupt(false);
	rc = model_open(&m, o, most);
	if (!rc) {
		moxie_model_get_info(m, &info);
		bandwidth = moxie_read_bandwidth(m);
		if (bandwidth <= 0)
			bandwidth = bench_read_bandwidth(info.n_thread);
		printf("# moxie %s, %s: %s, reads %.0f GB/s; %s KV cache%s; tokens of answers: %d\n", moxie_version(), o->model, info.kernels,
		       bandwidth * 1e-9, o->kv_dtype && strcmp(o->kv_dtype, "auto") ? o->kv_dtype : "bf16",
		       o->dense_dtype && !strcmp(o->dense_dtype, "fp8") ? ", dense weights in fp8" : "", o->n_gen);
		printf("%6s %8s  %13s %9s | %12s %9s %9s %9s %8s %9s %8s  %s\n", "batch", "input", "prefill tok/s", "TTFT ms", "decode tok/s", "ms median",
		       "mean", "best", "GB/s", "floor ms", "of floor", "logits");
	}
	for (int i = 0; !rc && i < n * n_context; i++) {
		struct batch_result r = { .n_seq = batch[i % n], .input_len = context[i / n] };
		rc = measure(o, m, &info, &r);
		if (!rc)
			rc = print_result(o, &r, out, info.kernels, bandwidth);
	}
	moxie_model_free(m);
	if (out) {
		int lost = flush_or_fail(out, o->output);
		fclose(out);
		rc = rc ? rc : lost;
	}
	return rc;
}
