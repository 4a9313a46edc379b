/* test_config.c - config.json, generation_config.json, whether a checkpoint is what its config says, and random checkpoints. */
#include "files.h"
#include "formats/config.h"
#include "formats/safetensors.h"
#include "formats/synth.h"
#include "formats/tokenizer.h"
#include "fuzz/mutate.h"
#include "moxie.h"

static const char *const vector[] = { VECTORS "gptoss_h64", VECTORS "gptoss_h320", VECTORS "gptoss_e32", VECTORS "gptoss_clamp" };

static struct moxie_err err;

/* ---- config.json ------------------------------------------------------------------------------------------------------ */

static const char base[] =
	"{\"architectures\":[\"GptOssForCausalLM\"],\"model_type\":\"gpt_oss\",\"num_hidden_layers\":3,\"hidden_size\":64,"
	"\"intermediate_size\":96,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":16,\"num_local_experts\":8,"
	"\"num_experts_per_tok\":4,\"vocab_size\":384,\"max_position_embeddings\":1024,\"sliding_window\":8,\"hidden_act\":\"silu\","
	"\"eos_token_id\":2,\"pad_token_id\":0,\"attention_bias\":true,\"rms_norm_eps\":1e-5,"
	"\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":10000},"
	"\"quantization_config\":{\"quant_method\":\"mxfp4\"}}";

/* base with "key":... replaced by "key":value, the key dropped (value NULL), or added at the front. */
static char *edited(const char *key, const char *value)
{
	static char text[4096];
	char quoted[64];
	snprintf(quoted, sizeof quoted, "\"%s\":", key);
	const char *at = strstr(base, quoted), *end = at;
	if (!at) {
		snprintf(text, sizeof text, "{%s%s,%s", quoted, value, base + 1);
		return text;
	}
	int depth = 0;
	for (bool in_string = false; depth || in_string || (*end != ',' && *end != '}'); end++) {
		in_string ^= *end == '"';
		depth += !in_string && (*end == '[' || *end == '{');
		depth -= !in_string && (*end == ']' || *end == '}');
	}
	if (value)
		snprintf(text, sizeof text, "%.*s%s%s%s", (int)(at - base), base, quoted, value, end);
	else
		snprintf(text, sizeof text, "%.*s%s", (int)(at - base - (*end != ',')), base, end + (*end == ','));
	return text;
}

static struct model_config parsed(const char *json)
{
	static struct model_config c;
	OK(config_parse(&c, json, strlen(json), "config.json", &err), err);
	return c;
}

TEST(config_good)
{
	static struct model_config c;
	c = parsed(base);
	CHECK(c.arch == ARCH_GPT_OSS && !strcmp(c.arch_name, "GptOssForCausalLM"), "%s", c.arch_name);
	CHECK(c.n_layer == 3 && c.n_embd == 64 && c.n_ff == 96 && c.n_head == 4 && c.n_head_kv == 2 && c.d_head == 16, "dims");
	CHECK(c.n_expert == 8 && c.n_expert_used == 4 && c.n_vocab == 384 && c.n_ctx == 1024 && c.window == 8, "dims");
	CHECK(c.sliding[0] && !c.sliding[1] && c.sliding[2] && !c.sliding[3], "layer types");
	CHECK(c.mxfp4 && !c.tie_embd && c.bos == -1 && c.pad == 0 && c.n_eos == 1 && c.eos[0] == 2, "flags and ids");
	NEAR(c.swiglu_alpha, 1.702, 1e-6);
	NEAR(c.swiglu_limit, 7, 0);
	NEAR(c.rope_theta, 10000, 0);
	NEAR(c.norm_eps, 1e-5, 1e-12);
	CHECK(c.yarn.factor == 0, "yarn %g", c.yarn.factor);
}

/* The same model as transformers 4 and 5 write it. */
TEST(config_spellings)
{
#define YARN "\"rope_type\":\"yarn\",\"factor\":8.0,\"beta_fast\":16.0,\"beta_slow\":2.0,\"original_max_position_embeddings\":128,\"truncate\":false"
	static struct model_config a, b;
	static char old[4096];
	a = parsed(edited("rope_parameters", "{\"rope_theta\":5e4," YARN "}"));
	snprintf(old, sizeof old, "{\"rope_theta\":50000,\"rope_scaling\":{" YARN "},%s", edited("rope_parameters", NULL) + 1);
	b = parsed(old);
	CHECK(!memcmp(&a, &b, sizeof a), "rope_scaling and rope_parameters differ");
	CHECK(a.yarn.factor == 8 && a.yarn.beta_fast == 16 && a.yarn.beta_slow == 2 && a.yarn.n_ctx_orig == 128 && !a.yarn.truncate, "yarn");
	CHECK(a.rope_theta == 50000, "theta %g", a.rope_theta);
	a = parsed(base);
	snprintf(old, sizeof old, "{\"experts_per_token\":4,%s", edited("num_experts_per_tok", NULL) + 1);
	b = parsed(old);
	CHECK(!memcmp(&a, &b, sizeof a), "experts_per_token");
	a = parsed(edited("rope_parameters", "null"));
	CHECK(a.yarn.factor == 32 && a.yarn.n_ctx_orig == 4096 && !a.yarn.truncate && a.rope_theta == 150000, "transformers' default rope");
	a = parsed(edited("rope_parameters", "{\"type\":\"yarn\",\"factor\":4}"));
	CHECK(a.yarn.factor == 4 && a.yarn.beta_fast == 32 && a.yarn.beta_slow == 1 && a.yarn.n_ctx_orig == 1024 && a.yarn.truncate, "defaults");
	a = parsed(edited("rope_parameters", "{\"rope_type\":\"yarn\",\"factor\":4,\"mscale\":1,\"mscale_all_dim\":0.5}"));
	NEAR(a.yarn.attention_factor, (0.1 * log(4) + 1) / (0.05 * log(4) + 1), 1e-6);
	a = parsed(edited("eos_token_id", "[2,3,5]"));
	CHECK(a.n_eos == 3 && a.eos[2] == 5, "%d eos", a.n_eos);
	a = parsed(edited("eos_token_id", "null"));
	CHECK(a.n_eos == 0, "%d eos", a.n_eos);
	a = parsed(edited("layer_types", "[\"full_attention\",\"full_attention\",\"full_attention\"]"));
	CHECK(a.window == 0 && !a.sliding[0], "window %d", a.window);
	a = parsed(edited("tie_word_embeddings", "true"));
	CHECK(a.tie_embd, "tied");
	a = parsed(edited("architectures", NULL));
	CHECK(a.arch == ARCH_GPT_OSS, "by model_type");
}

TEST(config_refused)
{
	static const struct {
		const char *key, *value, *says;
		int rc;
	} c[] = {
		{ "hidden_size", NULL, "hidden_size is missing", MOXIE_E_FORMAT },
		{ "hidden_size", "0", "hidden_size is 0, wanted a whole number from 32", MOXIE_E_FORMAT },
		{ "hidden_size", "-64", "-64", MOXIE_E_FORMAT },
		{ "hidden_size", "65", "65, wanted a multiple of 32", MOXIE_E_UNSUPPORTED },
		{ "hidden_size", "\"64\"", "\"64\"", MOXIE_E_FORMAT },
		{ "hidden_size", "64.5", "64.5", MOXIE_E_FORMAT },
		{ "hidden_size", "4294967360", "4294967360", MOXIE_E_FORMAT },
		{ "hidden_size", "[64]", "a list of 1", MOXIE_E_FORMAT },
		{ "intermediate_size", "100", "multiple of 32", MOXIE_E_UNSUPPORTED },
		{ "num_hidden_layers", "513", "from 1 to 512", MOXIE_E_FORMAT },
		{ "num_hidden_layers", "2147483648", "2147483648", MOXIE_E_FORMAT },
		{ "num_attention_heads", "5", "multiple of", MOXIE_E_UNSUPPORTED },
		{ "num_key_value_heads", "3", "num_key_value_heads = 3", MOXIE_E_FORMAT },
		{ "num_key_value_heads", "8", "from 1 to 4", MOXIE_E_FORMAT },
		{ "head_dim", "7", "from 8 to 512", MOXIE_E_FORMAT },
		{ "head_dim", "17", "multiple of 2", MOXIE_E_UNSUPPORTED },
		{ "head_dim", "1024", "1024", MOXIE_E_FORMAT },
		{ "num_local_experts", "513", "from 1 to 512", MOXIE_E_FORMAT },
		{ "num_local_experts", "3", "from 1 to 3", MOXIE_E_FORMAT },
		{ "num_experts_per_tok", "0", "from 1 to 8", MOXIE_E_FORMAT },
		{ "experts_per_token", "3", "experts_per_token is 3", MOXIE_E_FORMAT },
		{ "vocab_size", "1048577", "1048577", MOXIE_E_FORMAT },
		{ "vocab_size", "1", "vocab_size", MOXIE_E_FORMAT },
		{ "max_position_embeddings", "0", "max_position_embeddings", MOXIE_E_FORMAT },
		{ "sliding_window", "0", "sliding_window is 0", MOXIE_E_FORMAT },
		{ "sliding_window", "true", "sliding_window is true", MOXIE_E_FORMAT },
		{ "rms_norm_eps", "0", "rms_norm_eps is 0", MOXIE_E_FORMAT },
		{ "swiglu_limit", "-7", "swiglu_limit is -7", MOXIE_E_FORMAT },
		{ "eos_token_id", "384", "384", MOXIE_E_FORMAT },
		{ "eos_token_id", "-1", "-1", MOXIE_E_FORMAT },
		{ "eos_token_id", "[1,2,3,4,5,6,7,8,9]", "a list of 9", MOXIE_E_FORMAT },
		{ "eos_token_id", "[\"2\"]", "\"2\"", MOXIE_E_FORMAT },
		{ "pad_token_id", "384", "from 0 to 383", MOXIE_E_FORMAT },
		{ "hidden_act", "\"gelu\"", "gelu; known: silu", MOXIE_E_UNSUPPORTED },
		{ "attention_bias", "false", "attention_bias", MOXIE_E_UNSUPPORTED },
		{ "attention_bias", "1", "attention_bias is 1", MOXIE_E_FORMAT },
		{ "architectures", "[\"LlamaForCausalLM\"]", "LlamaForCausalLM; known: GptOssForCausalLM", MOXIE_E_UNSUPPORTED },
		{ "architectures", "\"GptOssForCausalLM\"", "architectures", MOXIE_E_FORMAT },
		{ "layer_types", "[\"full_attention\"]", "a list of 1, wanted a list of num_hidden_layers = 3", MOXIE_E_FORMAT },
		{ "layer_types", "[1,2,3]", "layer_types", MOXIE_E_FORMAT },
		{ "layer_types", "[\"linear_attention\",\"full_attention\",\"full_attention\"]", "linear_attention", MOXIE_E_UNSUPPORTED },
		{ "rope_parameters", "{\"rope_type\":\"longrope\"}", "longrope; known: yarn, default", MOXIE_E_UNSUPPORTED },
		{ "rope_parameters", "{}", "rope_type is missing", MOXIE_E_FORMAT },
		{ "rope_parameters", "[]", "rope_parameters", MOXIE_E_FORMAT },
		{ "rope_parameters", "{\"rope_type\":\"yarn\",\"factor\":0.5}", "factor is 0.5", MOXIE_E_FORMAT },
		{ "rope_parameters", "{\"rope_type\":\"yarn\",\"factor\":\"8\"}", "factor is \"8\"", MOXIE_E_FORMAT },
		{ "rope_parameters", "{\"rope_type\":\"default\",\"rope_theta\":1}", "rope_theta is 1", MOXIE_E_FORMAT },
		{ "rope_parameters", "{\"rope_type\":\"default\",\"partial_rotary_factor\":0.5}", "partial_rotary_factor", MOXIE_E_UNSUPPORTED },
		{ "quantization_config", NULL, "missing; known: mxfp4", MOXIE_E_UNSUPPORTED },
		{ "quantization_config", "{\"quant_method\":\"fp8\"}", "fp8; known: mxfp4", MOXIE_E_UNSUPPORTED },
		{ "quantization_config", "3", "quantization_config is 3", MOXIE_E_FORMAT },
		{ "hidden_size\":64,\"hidden_size", "64", "duplicate", MOXIE_E_FORMAT },
	};
	static struct model_config cfg;
	for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
		const char *json = edited(c[i].key, c[i].value);
		int rc = config_parse(&cfg, json, strlen(json), "config.json", &err);
		CHECK(rc == c[i].rc && strstr(err.text, c[i].says), "%s = %s: %d %s", c[i].key, c[i].value ? c[i].value : "nothing", rc, err.text);
		CHECK(strstr(err.text, "config.json"), "%s: no file name: %s", c[i].key, err.text);
		CHECK(cfg.arch == ARCH_NONE && cfg.n_embd == 0, "%s: the config is not empty", c[i].key);
	}
	static const char *const not_json[] = { "", "{", "[]", "null", "{\"a\":1}}", "\xff" };
	for (size_t i = 0; i < sizeof not_json / sizeof *not_json; i++)
		CHECK(config_parse(&cfg, not_json[i], strlen(not_json[i]), "c", &err) == MOXIE_E_FORMAT, "%s", not_json[i]);
	CHECK(config_load(&cfg, "/nonexistent", &err) == MOXIE_E_IO && strstr(err.text, "/nonexistent/config.json"), "%s", err.text);
}

TEST(config_named_sizes)
{
	static const struct {
		const char *name;
		size_t n;
		uint64_t n_bytes;
	} c[] = { { "gpt-oss-20b", 459, 13761264768 /* the published index's total_size */ }, { "gpt-oss-120b", 687, 65248815744 } };
	for (size_t i = 0; i < 2; i++) {
		static struct model_config m;
		struct tensor_want w;
		size_t n;
		uint64_t all = 0;
		m = parsed(config_named(c[i].name));
		for (n = 0; config_tensor_at(&m, n, &w); n++) {
			uint64_t b = (uint64_t)dtype_bytes(w.dtype);
			for (int d = 0; d < w.n_dim; d++)
				b *= (uint64_t)w.shape[d];
			all += b;
		}
		CHECK(n == c[i].n && all == c[i].n_bytes, "%s: %zu tensors, %" PRIu64 " bytes", c[i].name, n, all);
		CHECK(m.window == 128 && m.sliding[0] && !m.sliding[1] && m.yarn.factor == 32, "%s", c[i].name);
	}
	for (int i = 0; config_name_at(i); i++)
		parsed(config_named(config_name_at(i)));
	CHECK(!config_named("gpt-5") && !config_name_at(-1), "unknown names");
}

TEST(gen_config)
{
	struct gen_config g;
	static const char good[] = "{\"do_sample\":true,\"temperature\":0.7,\"top_p\":0.9,\"top_k\":40,\"min_p\":0.05,"
				   "\"repetition_penalty\":1.1,\"bos_token_id\":199998,\"eos_token_id\":[200002,199999,200012],"
				   "\"pad_token_id\":199999,\"transformers_version\":\"5.17.0\"}";
	OK(gen_config_parse(&g, good, strlen(good), "g", &err), err);
	CHECK(g.do_sample && g.top_k == 40 && g.bos == 199998 && g.pad == 199999 && g.n_eos == 3 && g.eos[2] == 200012, "fields");
	NEAR(g.temperature, 0.7, 1e-6);
	NEAR(g.min_p, 0.05, 1e-6);
	OK(gen_config_load(&g, "/nonexistent", &err), err);
	CHECK(!g.do_sample && g.temperature == 1 && g.top_p == 1 && g.top_k == 0 && g.bos == -1 && g.n_eos == 0, "neutral");
	static const char *const bad[] = { "{\"temperature\":-1}", "{\"temperature\":\"hot\"}", "{\"top_p\":0}", "{\"top_p\":1.5}",
					   "{\"top_k\":-1}", "{\"min_p\":2}", "{\"repetition_penalty\":0}", "{\"eos_token_id\":-5}",
					   "{\"eos_token_id\":{}}", "{\"do_sample\":\"yes\"}", "[]" };
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		CHECK(gen_config_parse(&g, bad[i], strlen(bad[i]), "g", &err) == MOXIE_E_FORMAT, "%s: %s", bad[i], err.text);
}

/* ---- the checkpoint against its config ---------------------------------------------------------------------------------- */

/* Every vector folder holds exactly what the binding table wants. */
TEST(safetensors_vectors)
{
	for (size_t v = 0; v < sizeof vector / sizeof *vector; v++) {
		static struct model_config c;
		struct tensor_want w;
		struct safetensors *st;
		size_t i;
		OK(config_load(&c, vector[v], &err), err);
		OK(safetensors_open(&st, vector[v], &err), err);
		for (i = 0; config_tensor_at(&c, i, &w); i++) {
			const struct st_tensor *t = safetensors_find(st, w.name);
			CHECK(t, "%s lacks %s", vector[v], w.name);
			CHECK(t->dtype == w.dtype || t->dtype == w.dtype_also, "%s is %s", w.name, dtype_name(t->dtype));
			CHECK(t->n_dim == w.n_dim && !memcmp(t->shape, w.shape, sizeof *w.shape * (size_t)w.n_dim), "%s: shape", w.name);
		}
		CHECK(i == safetensors_n(st), "%s: %zu tensors, table has %zu", vector[v], safetensors_n(st), i);
		safetensors_free(st);
	}
}

/* Copies vector folder v into tmp with from replaced by to in its config. */
static void copy_vector(const char *v, const char *from, const char *to)
{
	char path[160];
	snprintf(path, sizeof path, "%s/config.json", v);
	struct buf b = read_file(path), out = { 0 };
	char *at = strstr(b.p, from);
	CHECK(at, "%s lacks %s", path, from);
	buf_append(&out, b.p, (size_t)(at - b.p));
	buf_puts(&out, to);
	buf_puts(&out, at + strlen(from));
	write_file(tmp_file("config.json"), out.p, out.n);
	buf_free(&b);
	buf_free(&out);
	snprintf(path, sizeof path, "%s/model.safetensors", v);
	b = read_file(path);
	write_file(tmp_file("model.safetensors"), b.p, b.n);
	buf_free(&b);
}

TEST(wrong_shape)
{
	static const struct {
		const char *from, *to, *says[3];
	} c[] = {
		{ "\"hidden_size\": 64", "\"hidden_size\": 128", { "model.embed_tokens.weight", "64", "128" } },
		{ "\"vocab_size\": 384", "\"vocab_size\": 400", { "model.embed_tokens.weight", "384", "400" } },
		{ "\"num_local_experts\": 8", "\"num_local_experts\": 9", { "router", "8", "9" } },
		{ "\"intermediate_size\": 96", "\"intermediate_size\": 128", { "gate_up_proj", "192", "256" } },
	};
	struct moxie_model_params p = { .struct_size = sizeof p, .path = tmp };
	struct moxie_model_info info = { .struct_size = sizeof info };
	tmp_make();
	for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
		copy_vector(vector[0], c[i].from, c[i].to);
		int rc = moxie_inspect(&p, &info, NULL, NULL, &err);
		CHECK(rc == MOXIE_E_SHAPE, "%s: %d %s", c[i].to, rc, err.text);
		for (int j = 0; j < 3; j++)
			CHECK(strstr(err.text, c[i].says[j]), "%s: the error does not say %s: %s", c[i].to, c[i].says[j], err.text);
	}
	tmp_remove();
}

/* Overwrites part of the header of tmp's checkpoint by text of the same length. */
static void patch_header(const char *from, const char *to)
{
	struct buf b = read_file(tmp_file("model.safetensors"));
	char *at = memmem(b.p, b.n < 32768 ? b.n : 32768, from, strlen(from));
	CHECK(at && strlen(from) == strlen(to), "no %s in the header", from);
	memcpy(at, to, strlen(to));
	write_file(tmp_file("model.safetensors"), b.p, b.n);
	buf_free(&b);
}

TEST(wrong_tensor)
{
	static const struct {
		const char *from, *to, *says[3];
		int rc;
	} c[] = {
		{ "\"model.norm.weight\"", "\"model.norm.weighs\"", { "model.norm.weight", "", "" }, 0 /* any error */ },
		{ "self_attn.sinks\":{\"dtype\":\"BF16\"", "self_attn.sinks\":{\"dtype\":\"F16\" ", { "self_attn.sinks", "BF16", "F16" }, MOXIE_E_SHAPE },
		{ "\"shape\":[384,64]", "\"shape\":[64,384]", { "384", "64", ".weight" }, MOXIE_E_SHAPE },
	};
	struct moxie_model_params p = { .struct_size = sizeof p, .path = tmp };
	struct moxie_model_info info = { .struct_size = sizeof info };
	tmp_make();
	for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
		copy_vector(vector[0], "\"hidden_size\": 64", "\"hidden_size\": 64");
		OK(moxie_inspect(&p, &info, NULL, NULL, &err), err);
		patch_header(c[i].from, c[i].to);
		int rc = moxie_inspect(&p, &info, NULL, NULL, &err);
		CHECK(rc < 0 && (!c[i].rc || rc == c[i].rc), "%s: %d %s", c[i].to, rc, err.text);
		for (int j = 0; j < 3; j++)
			CHECK(strstr(err.text, c[i].says[j]), "%s: the error does not say %s: %s", c[i].to, c[i].says[j], err.text);
	}
	tmp_remove();
}

/* ---- random checkpoints --------------------------------------------------------------------------------------------------- */

TEST(synth_same_bytes)
{
	static struct model_config c;
	struct safetensors *one, *three, *disk, *other;
	const char *json = config_named("gpt-oss-tiny");
	struct tensor_want w;
	c = parsed(json);
	tmp_make();
	OK(synth_open(&one, &c, 7, 1, NULL, NULL, &err), err);
	OK(synth_open(&three, &c, 7, 3, NULL, NULL, &err), err);
	OK(synth_open(&other, &c, 8, 1, NULL, NULL, &err), err);
	OK(synth_write(json, tmp, 7, 2, NULL, NULL, &err), err);
	OK(safetensors_open(&disk, tmp, &err), err);
	size_t i;
	for (i = 0; config_tensor_at(&c, i, &w); i++) {
		const struct st_tensor *t = safetensors_find(one, w.name), *u = safetensors_find(three, w.name),
				       *d = safetensors_find(disk, w.name), *o = safetensors_find(other, w.name);
		CHECK(t && u && d && t->n_bytes == u->n_bytes && t->n_bytes == d->n_bytes, "%s", w.name);
		CHECK(!memcmp(t->data, u->data, t->n_bytes), "%s depends on threads", w.name);
		CHECK(!memcmp(t->data, d->data, t->n_bytes), "%s: disk and memory differ", w.name);
		CHECK(memcmp(t->data, o->data, t->n_bytes), "%s does not depend on the seed", w.name);
		uint8_t *p = malloc(t->n_bytes);
		synth_fill(&w, 7, p, t->n_bytes);
		bool same = !memcmp(p, t->data, t->n_bytes);
		free(p);
		CHECK(same, "%s: synth_fill differs", w.name);
	}
	CHECK(i == safetensors_n(one) && i == safetensors_n(disk), "%zu tensors", i);
	OK(safetensors_populate(one, 2, NULL, NULL, &err), err);
	safetensors_free(one), safetensors_free(three), safetensors_free(other), safetensors_free(disk);
	tmp_remove();
}

static void moments(const struct st_tensor *t, double *mean, double *var)
{
	double s = 0, q = 0, n = (double)t->n_bytes / 2;
	for (uint64_t i = 0; i < t->n_bytes; i += 2) {
		bf16 v;
		memcpy(&v, t->data + i, 2);
		s += (double)bf16_to_f32(v);
		q += (double)bf16_to_f32(v) * (double)bf16_to_f32(v);
	}
	*mean = s / n;
	*var = q / n - *mean * *mean;
}

TEST(synth_values)
{
	static struct model_config c;
	struct safetensors *st;
	double mean, var;
	c = parsed(config_named("gpt-oss-tiny"));
	OK(synth_open(&st, &c, 1, 2, NULL, NULL, &err), err);
	moments(safetensors_find(st, "model.embed_tokens.weight"), &mean, &var);
	NEAR(mean, 0, .02);
	NEAR(var, 1, .03);
	moments(safetensors_find(st, "model.layers.2.self_attn.q_proj.weight"), &mean, &var);
	NEAR(mean, 0, .002);
	NEAR(var * c.n_embd, 1, .05);
	moments(safetensors_find(st, "model.norm.weight"), &mean, &var);
	NEAR(mean, 1, .05);
	/* the rows of an expert have variance about 1 / K */
	const struct st_tensor *b = safetensors_find(st, "model.layers.1.mlp.experts.gate_up_proj_blocks"),
			       *s = safetensors_find(st, "model.layers.1.mlp.experts.gate_up_proj_scales");
	double q = 0;
	for (uint64_t i = 0; i < b->n_bytes; i++)
		for (int half = 0; half < 2; half++) {
			double v = (double)e2m1_to_f32(b->data[i] >> 4 * half) * (double)e8m0_to_f32(s->data[i / 16]);
			q += v * v;
		}
	q = q / (2 * (double)b->n_bytes) * c.n_embd;
	CHECK(q > .5 && q < 2, "variance * K is %g", q);
	safetensors_free(st);
}

TEST(synth_folder)
{
	static struct model_config c;
	struct gen_config g;
	struct tokenizer *t;
	const char *json = config_named("gpt-oss-tiny");
	tmp_make();
	OK(synth_write(json, tmp, 1, 1, NULL, NULL, &err), err);
	OK(config_load(&c, tmp, &err), err);
	OK(gen_config_load(&g, tmp, &err), err);
	CHECK(g.n_eos == 3 && c.n_eos == 1 && g.eos[0] == c.eos[0] && g.pad == c.pad, "eos %d and %d", g.eos[0], c.eos[0]);
	OK(tokenizer_open(&t, tmp_file("tokenizer.json"), &err), err);
	CHECK(tokenizer_special(t, "<|return|>") == g.eos[0] && tokenizer_special(t, "<|endoftext|>") == g.pad, "special tokens");
	CHECK(tokenizer_n_vocab(t) <= c.n_vocab, "%d tokens", tokenizer_n_vocab(t));
	struct ids ids = { 0 };
	OK(tokenizer_encode(t, "a\n\xc3\xa9", 4, false, &ids, &err), err);
	CHECK(ids.n == 4, "%zu ids", ids.n);
	static const unsigned char want[] = "a\n\xc3\xa9";
	for (size_t i = 0; i < 4; i++) {
		size_t n;
		const char *s = tokenizer_bytes(t, ids.v[i], &n);
		CHECK(n == 1 && (unsigned char)s[0] == want[i], "byte %zu", i);
	}
	ids_free(&ids);
	tokenizer_free(t);
	CHECK(synth_write(json, tmp, 1, 1, NULL, NULL, &err) == MOXIE_E_ARG && strstr(err.text, "config.json"), "%s", err.text);
	tmp_remove();
	struct seen stop = { .stop_at = 1 };
	CHECK(synth_write(json, tmp, 1, 2, see, &stop, &err) == MOXIE_E_CANCELLED, "%s", err.text);
	CHECK(access(tmp, F_OK) != 0, "%s was left behind", tmp);
	CHECK(synth_write("{}", tmp, 1, 2, NULL, NULL, &err) == MOXIE_E_FORMAT && access(tmp, F_OK) != 0, "%s", err.text);
	CHECK(synth_write(json, "/nonexistent/x", 1, 1, NULL, NULL, &err) == MOXIE_E_IO, "%s", err.text);
}

/* ---- damaged files ---------------------------------------------------------------------------------------------------------- */

enum { N_MUTANT_CONFIG = 6000, N_MUTANT_FOLDER = 500 };

TEST(mutants_config)
{
	static struct model_config c;
	struct gen_config g;
	static char text[8192];
	int n_ok = 0;
	mutate_state = test_seed;
	for (int i = 0; i < N_MUTANT_CONFIG; i++) {
		const char *from = i % 3 ? base : config_named("gpt-oss-20b");
		size_t n = mutate(memcpy(text, from, strlen(from)), strlen(from), sizeof text);
		char *exact = malloc(n + !n);
		memcpy(exact, text, n);
		int rc = config_parse(&c, exact, n, "mutant", &err);
		CHECK(rc == 0 || ((rc == MOXIE_E_FORMAT || rc == MOXIE_E_UNSUPPORTED) && err.text[0]), "mutant %d: %d", i, rc);
		struct tensor_want w;
		int64_t sum = 0;
		for (size_t j = 0; !rc && config_tensor_at(&c, j, &w); j++)
			for (int d = 0; d < w.n_dim; d++)
				sum += w.shape[d] > 0 ? 0 : 1;
		CHECK(sum == 0, "mutant %d: a dimension is not positive", i);
		n_ok += !rc;
		rc = gen_config_parse(&g, exact, n, "mutant", &err);
		CHECK(rc == 0 || rc == MOXIE_E_FORMAT, "mutant %d: %d", i, rc);
		free(exact);
	}
	printf("    %d mutants, %d still good\n", N_MUTANT_CONFIG, n_ok);
}

/* Whole folders, through the public door: config and checkpoint damaged together. */
TEST(mutants_folder)
{
	struct moxie_model_params p = { .struct_size = sizeof p, .path = tmp };
	struct moxie_model_info info = { .struct_size = sizeof info };
	struct buf cfg = read_file(VECTORS "gptoss_clamp/config.json"), st = read_file(VECTORS "gptoss_clamp/model.safetensors");
	size_t n_head = (size_t)(unsigned char)st.p[0] | (size_t)(unsigned char)st.p[1] << 8;
	int n_ok = 0;
	static char text[8192], head[32768];
	mutate_state = test_seed;
	tmp_make();
	for (int i = 0; i < N_MUTANT_FOLDER; i++) {
		size_t n = cfg.n, m = n_head, n_file;
		memcpy(text, cfg.p, n);
		memcpy(head, st.p + 8, m);
		if (i % 3 != 1)
			n = mutate(text, n, sizeof text);
		if (i % 3 != 0)
			m = mutate(head, m, sizeof head);
		write_file(tmp_file("config.json"), text, n);
		uint8_t *whole = image(head, m, st.n - 8 - n_head, &n_file);
		write_file(tmp_file("model.safetensors"), whole, n_file);
		free(whole);
		int rc = moxie_inspect(&p, &info, NULL, NULL, &err);
		CHECK(rc <= 0 && (rc == 0 || err.text[0]), "mutant %d: %d", i, rc);
		n_ok += !rc;
	}
	buf_free(&cfg);
	buf_free(&st);
	tmp_remove();
	printf("    %d mutants, %d still good\n", N_MUTANT_FOLDER, n_ok);
}

TEST_MAIN
