/* inspect.c - `moxie inspect`: what a checkpoint holds and what it would take, before anything is allocated. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

struct listing {
	json_t *tensors;  /* --json: array, else NULL */
	char last_file[512];
	size_t n;
	uint64_t n_bytes;
};

static void on_tensor(void *ud, const struct moxie_tensor_info *t)
{
	struct listing *l = ud;
	l->n++;
	l->n_bytes += t->n_bytes;
	if (l->tensors) {
		json_t *shape = json_array();
		for (int d = 0; d < t->n_dim; d++)
			json_array_append_new(shape, json_integer(t->shape[d]));
		json_array_append_new(l->tensors, json_pack("{s:s, s:s, s:o, s:I, s:s}", "name", t->name, "dtype", t->dtype, "shape", shape,
		                                            "bytes", (json_int_t)t->n_bytes, "file", t->file));
		return;
	}
	if (strcmp(l->last_file, t->file)) {
		snprintf(l->last_file, sizeof l->last_file, "%s", t->file);
		printf("%s\n", t->file);
	}
	char shape[128] = "", bytes[32];
	for (int d = 0, n = 0; d < t->n_dim && n < (int)sizeof shape; d++)
		n += snprintf(shape + n, sizeof shape - (size_t)n, "%s%lld", d ? " x " : "", (long long)t->shape[d]);
	printf("  %-56s %-5s %-24s %10s\n", t->name, t->dtype, shape, human_bytes(t->n_bytes, bytes));
}

static uint64_t session_bytes(const struct moxie_model_info *i, int n_ctx)
{
	return i->kv_ring_bytes + i->kv_token_bytes * (uint64_t)n_ctx;
}

static void print_device(const struct moxie_model_info *i)
{
	char b[32], t[32];
	uint64_t all = i->device_weight_bytes + i->step_bytes + i->kv_pool_bytes + i->graph_bytes;
	printf("%12s  weights on the GPU; %s are read for one token\n", human_bytes(i->device_weight_bytes, b), human_bytes(i->token_bytes, t));
	printf("%12s  one step of up to %d tokens of %d sessions, with what the kernels keep\n", human_bytes(i->step_bytes, b), i->n_chunk, i->n_seq);
	printf("%12s  KV cache: %llu tokens of %s, and %d rings of %s\n", human_bytes(i->kv_pool_bytes, b), (unsigned long long)i->kv_pool_tokens,
	       human_bytes(i->kv_token_bytes, t), i->n_seq + 2, human_bytes(i->kv_ring_bytes, (char[32]){ 0 }));
	printf("%12s  recorded steps (CUDA graphs)\n", human_bytes(i->graph_bytes, b));
	printf("%12s  together; the GPU gives %s.  While weights load, before the KV cache is taken: %s more\n", human_bytes(all, b),
	       human_bytes(i->device_bytes, t), human_bytes(i->tile_bytes, (char[32]){ 0 }));
}

static void print_plan(const struct moxie_model_info *i, const struct listing *l, int n_ctx)
{
	char b[32], t[32];
	uint64_t kv = session_bytes(i, n_ctx), all = i->weight_bytes + i->step_bytes + kv;
	uint64_t machine = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
	printf("\n%s: %d layers, width %d, %d heads (%d for keys) of %d, %d experts of %d (%d used), vocabulary %d\n", i->arch, i->n_layer, i->n_embd,
	       i->n_head, i->n_head_kv, i->d_head, i->n_expert, i->n_ff, i->n_expert_used, i->n_vocab);
	bool big = i->n_param >= 1000000000;
	printf("%.2f %s weights, %.2f of them for one token; context %d, sliding window %d\n\n", (double)i->n_param * (big ? 1e-9 : 1e-6),
	       big ? "billion" : "million", (double)i->n_param_active * (big ? 1e-9 : 1e-6), i->n_ctx, i->window);
	if (l->n)
		printf("%12s  %zu tensors in the files\n", human_bytes(l->n_bytes, b), l->n);
	if (i->device_bytes) {
		print_device(i);
		return;
	}
	printf("%12s  weights, mapped from the files; %s are read for one token\n", human_bytes(i->weight_bytes, b), human_bytes(i->token_bytes, t));
	printf("%12s  one session of %d tokens\n", human_bytes(kv, b), n_ctx);
	printf("%12s  one step of up to %d tokens, with what the kernels keep\n", human_bytes(i->step_bytes, b), i->n_chunk);
	printf("%12s  together; this machine has %s\n", human_bytes(all, b), human_bytes(machine, t));
}

static json_t *plan_json(const struct moxie_model_info *i, int n_ctx)
{
	json_t *o = json_object();
	const struct {
		const char *key;
		uint64_t value;
	} number[] = {
		{ "n_layer", (uint64_t)i->n_layer }, { "n_embd", (uint64_t)i->n_embd }, { "n_head", (uint64_t)i->n_head },
		{ "n_head_kv", (uint64_t)i->n_head_kv }, { "d_head", (uint64_t)i->d_head }, { "n_ff", (uint64_t)i->n_ff },
		{ "n_expert", (uint64_t)i->n_expert }, { "n_expert_used", (uint64_t)i->n_expert_used }, { "n_vocab", (uint64_t)i->n_vocab },
		{ "n_ctx", (uint64_t)i->n_ctx }, { "window", (uint64_t)i->window }, { "n_param", i->n_param },
		{ "n_param_active", i->n_param_active }, { "weight_bytes", i->weight_bytes }, { "token_bytes", i->token_bytes },
		{ "step_bytes", i->step_bytes }, { "kv_token_bytes", i->kv_token_bytes }, { "kv_ring_bytes", i->kv_ring_bytes },
		{ "session_tokens", (uint64_t)n_ctx }, { "session_bytes", session_bytes(i, n_ctx) }, { "device_bytes", i->device_bytes },
		{ "device_weight_bytes", i->device_weight_bytes }, { "kv_pool_bytes", i->kv_pool_bytes }, { "kv_pool_tokens", i->kv_pool_tokens },
		{ "graph_bytes", i->graph_bytes }, { "tile_bytes", i->tile_bytes },
	};
	json_object_set_new(o, "arch", json_string(i->arch));
	for (size_t k = 0; k < sizeof number / sizeof *number; k++)
		json_object_set_new(o, number[k].key, json_integer((json_int_t)number[k].value));
	return o;
}

int inspect_main(struct opts *o)
{
	struct moxie_err err = { 0 };
	struct moxie_model_params p;
	struct moxie_model_info info = { .struct_size = sizeof info };
	struct listing l = { .tensors = o->json ? json_array() : NULL };
	int rc = model_choose(o, true);
	if (rc)
		return rc;
	model_fill_params(o, &p);
	p.n_seq = opts_given(o, "max-running-requests") ? o->n_running : 0;
	rc = moxie_inspect(&p, &info, on_tensor, &l, &err);
	if (rc) {
		json_decref(l.tensors);
		return lib_error(&err);
	}
	int n_ctx = o->n_ctx ? o->n_ctx : info.n_ctx < 8192 ? info.n_ctx : 8192;
	if (!o->json) {
		print_plan(&info, &l, n_ctx);
		return 0;
	}
	json_t *all = plan_json(&info, n_ctx);
	json_object_set_new(all, "tensors", l.tensors);
	rc = json_dumpf(all, stdout, JSON_INDENT(1)) ? EXIT_FAIL : 0;
	putchar('\n');
	json_decref(all);
	return rc;
}
