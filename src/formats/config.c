#include "formats/config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/json_read.h"

#define KNOWN_ARCH "GptOssForCausalLM"

/* Where a key is looked up; every reader below fails with the file, the key, the value and what was wanted. */
struct reader {
	const json_t *obj;
	const char *file;
	struct moxie_err *err;
	int rc; /* the first failure; later calls do nothing, so that a list of keys reads as a list */
};

/* The value as text for an error, shortened. */
static void show(char *text, size_t n, const json_t *v)
{
	switch (v ? json_typeof(v) : JSON_NULL) {
	case JSON_INTEGER: snprintf(text, n, "%lld", (long long)json_integer_value(v)); break;
	case JSON_REAL: snprintf(text, n, "%g", json_real_value(v)); break;
	case JSON_STRING: snprintf(text, n, "\"%.60s\"", json_string_value(v)); break;
	case JSON_TRUE: snprintf(text, n, "true"); break;
	case JSON_FALSE: snprintf(text, n, "false"); break;
	case JSON_ARRAY: snprintf(text, n, "a list of %zu", json_array_size(v)); break;
	case JSON_OBJECT: snprintf(text, n, "an object"); break;
	default: snprintf(text, n, v ? "null" : "missing");
	}
}

static void bad(struct reader *r, const char *key, const json_t *v, const char *wanted)
{
	char text[96];
	show(text, sizeof text, v);
	if (!r->rc)
		r->rc = err_set(r->err, MOXIE_E_FORMAT, "%s: %s is %s, wanted %s", r->file, key, text, wanted);
}

/* NULL where the key is missing or null: transformers takes both for "not given". */
static json_t *get(const struct reader *r, const char *key)
{
	json_t *v = json_object_get(r->obj, key);
	return json_is_null(v) ? NULL : v;
}

static bool must_have(struct reader *r, const char *key, const json_t *v, const char *wanted)
{
	if (!v)
		bad(r, key, NULL, wanted);
	return v != NULL && !r->rc;
}

/* *out keeps its value where the key is absent and not required. */
static void get_int(struct reader *r, const char *key, bool required, int64_t lo, int64_t hi, int *out)
{
	char wanted[96];
	snprintf(wanted, sizeof wanted, "a whole number from %lld to %lld", (long long)lo, (long long)hi);
	json_t *v = get(r, key);
	if (!v && !required)
		return;
	if (!must_have(r, key, v, wanted))
		return;
	if (!json_is_integer(v) || json_integer_value(v) < lo || json_integer_value(v) > hi)
		bad(r, key, v, wanted);
	else
		*out = (int)json_integer_value(v);
}

static void get_float(struct reader *r, const char *key, bool required, double lo, double hi, float *out)
{
	char wanted[96];
	snprintf(wanted, sizeof wanted, "a number from %g to %g", lo, hi);
	json_t *v = get(r, key);
	if (!v && !required)
		return;
	if (!must_have(r, key, v, wanted))
		return;
	double x = json_is_number(v) ? json_number_value(v) : NAN;
	if (!(x >= lo && x <= hi)) /* a NaN fails too */
		bad(r, key, v, wanted);
	else
		*out = (float)x;
}

static void get_bool(struct reader *r, const char *key, bool *out)
{
	json_t *v = get(r, key);
	if (!v)
		return;
	if (!json_is_boolean(v))
		bad(r, key, v, "true or false");
	else
		*out = json_is_true(v);
}

static const char *get_string(struct reader *r, const char *key)
{
	json_t *v = get(r, key);
	if (v && !json_is_string(v))
		bad(r, key, v, "a string");
	return json_string_value(v);
}

/* A number or a list of numbers. */
static void get_eos(struct reader *r, int n_vocab, int32_t *eos, int *n_eos)
{
	char wanted[96];
	snprintf(wanted, sizeof wanted, "a token id from 0 to %d, or a list of at most %d", n_vocab - 1, CONFIG_MAX_EOS);
	json_t *v = get(r, "eos_token_id");
	size_t n = json_is_array(v) ? json_array_size(v) : v != NULL;
	if (n > CONFIG_MAX_EOS)
		bad(r, "eos_token_id", v, wanted);
	*n_eos = 0;
	for (size_t i = 0; i < n && !r->rc; i++) {
		json_t *id = json_is_array(v) ? json_array_get(v, i) : v;
		if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= n_vocab)
			bad(r, "eos_token_id", id, wanted);
		else
			eos[(*n_eos)++] = (int32_t)json_integer_value(id);
	}
}

static void unsupported(struct reader *r, const char *key, const char *found, const char *known)
{
	if (!r->rc)
		r->rc = err_set(r->err, MOXIE_E_UNSUPPORTED, "%s: %s is %.80s; known: %s", r->file, key, found, known);
}

/* transformers 4 has rope_theta beside rope_scaling, 5 has both inside rope_parameters. */
static void read_rope(struct reader *r, struct model_config *c)
{
	json_t *params = get(r, "rope_parameters"), *scaling = get(r, "rope_scaling");
	const char *where = params ? "rope_parameters" : "rope_scaling";
	const json_t *rope = params ? params : scaling;
	c->rope_theta = 150000;
	get_float(r, "rope_theta", false, 1.5, 1e9, &c->rope_theta);
	if (!rope) { /* what transformers' GptOssConfig assumes then */
		c->yarn = (struct yarn){ .factor = 32, .beta_fast = 32, .beta_slow = 1, .n_ctx_orig = 4096 };
		return;
	}
	if (!json_is_object(rope)) {
		bad(r, where, rope, "an object");
		return;
	}
	struct reader in = { .obj = rope, .file = r->file, .err = r->err, .rc = r->rc };
	const char *type = get_string(&in, "rope_type");
	if (!type)
		type = get_string(&in, "type");
	float part = 1;
	get_float(&in, "rope_theta", false, 1.5, 1e9, &c->rope_theta);
	get_float(&in, "partial_rotary_factor", false, 0, 1, &part);
	if (part != 1)
		unsupported(&in, "partial_rotary_factor", "less than 1", "1");
	if (!in.rc && !type)
		bad(&in, "rope_type", NULL, "\"yarn\" or \"default\"");
	if (!in.rc && strcmp(type, "yarn") && strcmp(type, "default"))
		unsupported(&in, "rope_type", type, "yarn, default");
	if (!in.rc && !strcmp(type, "yarn")) {
		struct yarn *y = &c->yarn;
		*y = (struct yarn){ .beta_fast = 32, .beta_slow = 1, .n_ctx_orig = c->n_ctx, .truncate = true };
		float mscale = 0, mscale_all = 0;
		get_int(&in, "original_max_position_embeddings", false, 1, 1 << 24, &y->n_ctx_orig);
		y->factor = (float)c->n_ctx / (float)y->n_ctx_orig;
		get_float(&in, "factor", false, 1, 1e6, &y->factor);
		get_float(&in, "beta_fast", false, 1e-3, 1e6, &y->beta_fast);
		get_float(&in, "beta_slow", false, 1e-3, 1e6, &y->beta_slow);
		get_float(&in, "attention_factor", false, 1e-3, 1e3, &y->attention_factor);
		get_float(&in, "mscale", false, 0, 1e3, &mscale);
		get_float(&in, "mscale_all_dim", false, 0, 1e3, &mscale_all);
		get_bool(&in, "truncate", &y->truncate);
		if (y->factor < 1 && !in.rc)
			bad(&in, "factor", get(&in, "factor"), "at least 1");
		if (!y->attention_factor && mscale > 0 && mscale_all > 0)
			y->attention_factor = (float)((0.1 * mscale * log(y->factor) + 1) / (0.1 * mscale_all * log(y->factor) + 1));
	}
	if (in.rc && !r->rc) {
		r->rc = in.rc;
		err_prefix(r->err, "in %s", where);
	}
}

static void read_layer_types(struct reader *r, struct model_config *c)
{
	json_t *types = get(r, "layer_types");
	bool any = false;
	if (types && (!json_is_array(types) || json_array_size(types) != (size_t)c->n_layer)) {
		char wanted[64];
		snprintf(wanted, sizeof wanted, "a list of num_hidden_layers = %d", c->n_layer);
		bad(r, "layer_types", types, wanted);
	}
	for (int il = 0; il < c->n_layer && !r->rc; il++) {
		const json_t *t = types ? json_array_get(types, (size_t)il) : NULL;
		const char *s = t ? json_string_value(t) : il % 2 ? "full_attention" : "sliding_attention";
		if (!s)
			bad(r, "layer_types", t, "strings");
		else if (strcmp(s, "full_attention") && strcmp(s, "sliding_attention"))
			unsupported(r, "layer_types", s, "full_attention, sliding_attention");
		else
			any |= c->sliding[il] = s[0] == 's';
	}
	c->window = any ? 128 : 0;
	if (any && !r->rc)
		get_int(r, "sliding_window", json_is_null(json_object_get(r->obj, "sliding_window")), 1, 1 << 24, &c->window);
}

static void read_experts_used(struct reader *r, struct model_config *c)
{
	int hi = c->n_expert < 16 ? c->n_expert : 16, other = 0;
	bool hf = get(r, "num_experts_per_tok") != NULL;
	get_int(r, hf ? "num_experts_per_tok" : "experts_per_token", true, 1, hi, &c->n_expert_used);
	get_int(r, "experts_per_token", false, 1, hi, &other);
	if (!r->rc && other && other != c->n_expert_used)
		r->rc = err_set(r->err, MOXIE_E_FORMAT, "%s: num_experts_per_tok is %d, experts_per_token is %d", r->file, c->n_expert_used,
				other);
}

static void read_arch(struct reader *r, struct model_config *c)
{
	json_t *list = get(r, "architectures");
	const char *type = get_string(r, "model_type"), *name = NULL;
	if (list && !json_is_array(list))
		bad(r, "architectures", list, "a list of strings");
	for (size_t i = 0; i < json_array_size(list); i++) {
		const char *s = json_string_value(json_array_get(list, i));
		if (s && (!name || !strcmp(s, KNOWN_ARCH)))
			name = s;
	}
	if (!name && type && !strcmp(type, "gpt_oss"))
		name = KNOWN_ARCH;
	if (!name && !type)
		bad(r, "architectures", list, "a list that holds " KNOWN_ARCH);
	else if (!name || strcmp(name, KNOWN_ARCH))
		unsupported(r, name ? "architecture" : "model_type", name ? name : type, KNOWN_ARCH);
	else
		c->arch = ARCH_GPT_OSS;
	snprintf(c->arch_name, sizeof c->arch_name, "%s", name ? name : "");
}

static void read_quantization(struct reader *r, struct model_config *c)
{
	json_t *q = get(r, "quantization_config");
	if (q && !json_is_object(q))
		bad(r, "quantization_config", q, "an object");
	struct reader in = { .obj = q, .file = r->file, .err = r->err, .rc = r->rc };
	const char *method = q ? get_string(&in, "quant_method") : NULL;
	r->rc = in.rc;
	if (!method || strcmp(method, "mxfp4"))
		unsupported(r, "quantization_config.quant_method", method ? method : "missing", "mxfp4");
	c->mxfp4 = true;
}

static void multiple_of(struct reader *r, const char *what, int64_t value, int of)
{
	if (!r->rc && value % of)
		r->rc = err_set(r->err, MOXIE_E_UNSUPPORTED, "%s: %s is %lld, wanted a multiple of %d", r->file, what, (long long)value, of);
}

static int config_read(struct model_config *c, const json_t *root, const char *file_name, struct moxie_err *err)
{
	struct reader rd = { .obj = root, .file = file_name, .err = err }, *r = &rd;
	int vocab_max = 1 << 20;
	bool bias = true;
	read_arch(r, c);
	/* The ranges keep every product of dimensions far inside 63 bits: the largest, n_expert * 2 * n_ff * n_embd, is 2^43. */
	get_int(r, "num_hidden_layers", true, 1, CONFIG_MAX_LAYER, &c->n_layer);
	get_int(r, "hidden_size", true, 32, 1 << 16, &c->n_embd);
	get_int(r, "intermediate_size", true, 32, 1 << 17, &c->n_ff);
	get_int(r, "num_attention_heads", true, 1, 1024, &c->n_head);
	c->n_head_kv = c->n_head;
	get_int(r, "num_key_value_heads", false, 1, c->n_head ? c->n_head : 1, &c->n_head_kv);
	c->d_head = 64;
	get_int(r, "head_dim", false, 8, 512, &c->d_head);
	get_int(r, "num_local_experts", true, 1, 512, &c->n_expert);
	get_int(r, "vocab_size", true, 2, vocab_max, &c->n_vocab);
	get_int(r, "max_position_embeddings", true, 1, 1 << 24, &c->n_ctx);
	c->norm_eps = 1e-5f;
	c->swiglu_alpha = 1.702f;
	c->swiglu_limit = 7;
	get_float(r, "rms_norm_eps", false, 1e-12, 1, &c->norm_eps);
	get_float(r, "swiglu_alpha", false, 1e-3, 1e3, &c->swiglu_alpha);
	get_float(r, "swiglu_limit", false, 1e-3, 1e6, &c->swiglu_limit);
	get_bool(r, "tie_word_embeddings", &c->tie_embd);
	get_bool(r, "attention_bias", &bias);
	const char *hidden_act = get_string(r, "hidden_act");
	if (r->rc)
		return r->rc;
	read_experts_used(r, c);
	read_layer_types(r, c);
	read_rope(r, c);
	read_quantization(r, c);
	if (hidden_act && strcmp(hidden_act, "silu"))
		unsupported(r, "hidden_act", hidden_act, "silu");
	if (!bias)
		unsupported(r, "attention_bias", "false", "true");
	c->bos = c->pad = -1;
	get_int(r, "bos_token_id", false, 0, c->n_vocab - 1, &c->bos);
	get_int(r, "pad_token_id", false, 0, c->n_vocab - 1, &c->pad);
	get_eos(r, c->n_vocab, c->eos, &c->n_eos);

	multiple_of(r, "hidden_size", c->n_embd, MX_GROUP);
	multiple_of(r, "intermediate_size", c->n_ff, MX_GROUP);
	multiple_of(r, "head_dim", c->d_head, 2);
	multiple_of(r, "num_attention_heads * head_dim", (int64_t)c->n_head * c->d_head, 32);
	if (!r->rc && c->n_head % c->n_head_kv)
		r->rc = err_set(err, MOXIE_E_FORMAT, "%s: num_attention_heads is %d, wanted a multiple of num_key_value_heads = %d", file_name,
				c->n_head, c->n_head_kv);
	return r->rc;
}

int config_parse(struct model_config *c, const char *json, size_t n, const char *file_name, struct moxie_err *err)
{
	json_t *root;
	*c = (struct model_config){ 0 };
	int rc = json_read_text(&root, json, n, file_name, err);
	if (rc < 0)
		return rc;
	rc = config_read(c, root, file_name, err);
	json_decref(root);
	if (rc < 0)
		*c = (struct model_config){ 0 };
	return rc;
}

static int gen_config_read(struct gen_config *g, const json_t *root, const char *file_name, struct moxie_err *err)
{
	struct reader rd = { .obj = root, .file = file_name, .err = err }, *r = &rd;
	int vocab_max = 1 << 20;
	get_float(r, "temperature", false, 0, 100, &g->temperature);
	get_float(r, "top_p", false, 1e-6, 1, &g->top_p);
	get_float(r, "min_p", false, 0, 1, &g->min_p);
	get_float(r, "repetition_penalty", false, 1e-2, 100, &g->repetition_penalty);
	get_int(r, "top_k", false, 0, vocab_max, &g->top_k);
	get_bool(r, "do_sample", &g->do_sample);
	get_int(r, "bos_token_id", false, 0, vocab_max - 1, &g->bos);
	get_int(r, "pad_token_id", false, 0, vocab_max - 1, &g->pad);
	get_eos(r, vocab_max, g->eos, &g->n_eos);
	return r->rc;
}

static const struct gen_config gen_neutral = { .temperature = 1, .top_p = 1, .repetition_penalty = 1, .bos = -1, .pad = -1 };

int gen_config_parse(struct gen_config *g, const char *json, size_t n, const char *file_name, struct moxie_err *err)
{
	json_t *root;
	*g = gen_neutral;
	int rc = json_read_text(&root, json, n, file_name, err);
	if (rc < 0)
		return rc;
	rc = gen_config_read(g, root, file_name, err);
	json_decref(root);
	if (rc < 0)
		*g = gen_neutral;
	return rc;
}

/* dir/name as a JSON tree. */
static int load(json_t **root, char *path, size_t n_path, const char *dir, const char *name, bool may_lack, struct moxie_err *err)
{
	*root = NULL;
	if ((size_t)snprintf(path, n_path, "%s/%s", dir, name) >= n_path)
		return err_set(err, MOXIE_E_IO, "%.100s...: the path is longer than %zu bytes", dir, n_path - 1);
	return json_read_file(root, path, may_lack, err);
}

int config_load(struct model_config *c, const char *dir, struct moxie_err *err)
{
	char path[4096];
	json_t *root;
	*c = (struct model_config){ 0 };
	int rc = load(&root, path, sizeof path, dir, "config.json", false, err);
	if (rc < 0)
		return rc;
	rc = config_read(c, root, path, err);
	json_decref(root);
	if (rc < 0)
		*c = (struct model_config){ 0 };
	return rc;
}

int gen_config_load(struct gen_config *g, const char *dir, struct moxie_err *err)
{
	char path[4096];
	json_t *root;
	*g = gen_neutral;
	int rc = load(&root, path, sizeof path, dir, "generation_config.json", true, err);
	if (rc < 0 || !root)
		return rc;
	rc = gen_config_read(g, root, path, err);
	json_decref(root);
	if (rc < 0)
		*g = gen_neutral;
	return rc;
}
