#include "formats/config.h"

#include <stdio.h>
#include <string.h>

/* ---- what a checkpoint must hold -------------------------------------------------------------------------------- */

/* A dimension as the config gives it; D_Q = n_head * d_head, D_EMBD_GROUP = n_embd / 32. */
enum dim { D_NONE, D_EMBD, D_Q, D_KV, D_HEAD, D_EXPERT, D_FF2, D_VOCAB, D_EMBD_GROUP, D_FF_GROUP, D_16 };

struct row {
	const char *name; /* with %d for the layer */
	enum dtype dtype, dtype_also;
	enum dim dim[4];
};

/* Forward order.  Norms: transformers keeps them in fp32 where their source has them so. */
static const struct row gpt_oss_head[] = {
	{ "model.embed_tokens.weight", DT_BF16, DT_NONE, { D_VOCAB, D_EMBD } },
};
static const struct row gpt_oss_layer[] = {
	{ "model.layers.%d.input_layernorm.weight", DT_BF16, DT_F32, { D_EMBD } },
	{ "model.layers.%d.self_attn.q_proj.weight", DT_BF16, DT_NONE, { D_Q, D_EMBD } },
	{ "model.layers.%d.self_attn.q_proj.bias", DT_BF16, DT_NONE, { D_Q } },
	{ "model.layers.%d.self_attn.k_proj.weight", DT_BF16, DT_NONE, { D_KV, D_EMBD } },
	{ "model.layers.%d.self_attn.k_proj.bias", DT_BF16, DT_NONE, { D_KV } },
	{ "model.layers.%d.self_attn.v_proj.weight", DT_BF16, DT_NONE, { D_KV, D_EMBD } },
	{ "model.layers.%d.self_attn.v_proj.bias", DT_BF16, DT_NONE, { D_KV } },
	{ "model.layers.%d.self_attn.sinks", DT_BF16, DT_NONE, { D_HEAD } },
	{ "model.layers.%d.self_attn.o_proj.weight", DT_BF16, DT_NONE, { D_EMBD, D_Q } },
	{ "model.layers.%d.self_attn.o_proj.bias", DT_BF16, DT_NONE, { D_EMBD } },
	{ "model.layers.%d.post_attention_layernorm.weight", DT_BF16, DT_F32, { D_EMBD } },
	{ "model.layers.%d.mlp.router.weight", DT_BF16, DT_NONE, { D_EXPERT, D_EMBD } },
	{ "model.layers.%d.mlp.router.bias", DT_BF16, DT_NONE, { D_EXPERT } },
	{ "model.layers.%d.mlp.experts.gate_up_proj_blocks", DT_U8, DT_NONE, { D_EXPERT, D_FF2, D_EMBD_GROUP, D_16 } },
	{ "model.layers.%d.mlp.experts.gate_up_proj_scales", DT_U8, DT_NONE, { D_EXPERT, D_FF2, D_EMBD_GROUP } },
	{ "model.layers.%d.mlp.experts.gate_up_proj_bias", DT_BF16, DT_NONE, { D_EXPERT, D_FF2 } },
	{ "model.layers.%d.mlp.experts.down_proj_blocks", DT_U8, DT_NONE, { D_EXPERT, D_EMBD, D_FF_GROUP, D_16 } },
	{ "model.layers.%d.mlp.experts.down_proj_scales", DT_U8, DT_NONE, { D_EXPERT, D_EMBD, D_FF_GROUP } },
	{ "model.layers.%d.mlp.experts.down_proj_bias", DT_BF16, DT_NONE, { D_EXPERT, D_EMBD } },
};
static const struct row gpt_oss_tail[] = {
	{ "model.norm.weight", DT_BF16, DT_F32, { D_EMBD } },
	{ "lm_head.weight", DT_BF16, DT_NONE, { D_VOCAB, D_EMBD } }, /* last: absent where the embedding is tied */
};

#define COUNT(a) (sizeof(a) / sizeof *(a))

static int64_t dim_value(const struct model_config *c, enum dim d)
{
	switch (d) {
	case D_EMBD: return c->n_embd;
	case D_Q: return (int64_t)c->n_head * c->d_head;
	case D_KV: return (int64_t)c->n_head_kv * c->d_head;
	case D_HEAD: return c->n_head;
	case D_EXPERT: return c->n_expert;
	case D_FF2: return 2 * (int64_t)c->n_ff;
	case D_VOCAB: return c->n_vocab;
	case D_EMBD_GROUP: return c->n_embd / MX_GROUP;
	case D_FF_GROUP: return c->n_ff / MX_GROUP;
	case D_16: return MX_GROUP / 2;
	case D_NONE: break;
	}
	return 0;
}

bool config_tensor_at(const struct model_config *c, size_t i, struct tensor_want *want)
{
	const struct row *row;
	size_t n_head = COUNT(gpt_oss_head), n_per = COUNT(gpt_oss_layer), n_body = n_per * (size_t)c->n_layer;
	int il = 0;
	*want = (struct tensor_want){ 0 };
	if (c->arch != ARCH_GPT_OSS)
		return false;
	if (i < n_head) {
		row = &gpt_oss_head[i];
	} else if (i - n_head < n_body) {
		row = &gpt_oss_layer[(i - n_head) % n_per];
		il = (int)((i - n_head) / n_per);
	} else if (i - n_head - n_body < COUNT(gpt_oss_tail) - c->tie_embd) {
		row = &gpt_oss_tail[i - n_head - n_body];
	} else {
		return false;
	}
	const char *mark = strstr(row->name, "%d");
	if (mark)
		snprintf(want->name, sizeof want->name, "%.*s%d%s", (int)(mark - row->name), row->name, il, mark + 2);
	else
		snprintf(want->name, sizeof want->name, "%s", row->name);
	want->dtype = row->dtype;
	want->dtype_also = row->dtype_also;
	while (want->n_dim < 4 && row->dim[want->n_dim]) {
		want->shape[want->n_dim] = dim_value(c, row->dim[want->n_dim]);
		want->n_dim++;
	}
	return true;
}

/* ---- built-in configurations ------------------------------------------------------------------------------------ */

#define PAIR "\n  \"sliding_attention\",\n  \"full_attention\""
#define PAIR3 PAIR "," PAIR "," PAIR
#define PAIR12 PAIR3 "," PAIR3 "," PAIR3 "," PAIR3
#define PAIR18 PAIR12 "," PAIR3 "," PAIR3

#define GPT_OSS(layers, layer_types, experts, hidden, ff, heads, heads_kv, d_head, vocab, window, pad, eos)                    \
	"{\n"                                                                                                                  \
	" \"architectures\": [\"GptOssForCausalLM\"],\n"                                                                       \
	" \"attention_bias\": true,\n"                                                                                         \
	" \"attention_dropout\": 0.0,\n"                                                                                       \
	" \"eos_token_id\": " eos ",\n"                                                                                        \
	" \"experts_per_token\": 4,\n"                                                                                         \
	" \"head_dim\": " d_head ",\n"                                                                                         \
	" \"hidden_act\": \"silu\",\n"                                                                                         \
	" \"hidden_size\": " hidden ",\n"                                                                                      \
	" \"initial_context_length\": 4096,\n"                                                                                 \
	" \"initializer_range\": 0.02,\n"                                                                                      \
	" \"intermediate_size\": " ff ",\n"                                                                                    \
	" \"layer_types\": [" layer_types "\n ],\n"                                                                            \
	" \"max_position_embeddings\": 131072,\n"                                                                              \
	" \"model_type\": \"gpt_oss\",\n"                                                                                      \
	" \"num_attention_heads\": " heads ",\n"                                                                               \
	" \"num_experts_per_tok\": 4,\n"                                                                                       \
	" \"num_hidden_layers\": " layers ",\n"                                                                                \
	" \"num_key_value_heads\": " heads_kv ",\n"                                                                            \
	" \"num_local_experts\": " experts ",\n"                                                                               \
	" \"output_router_logits\": false,\n"                                                                                  \
	" \"pad_token_id\": " pad ",\n"                                                                                        \
	" \"quantization_config\": {\n"                                                                                        \
	"  \"modules_to_not_convert\": [\"model.layers.*.self_attn\", \"model.layers.*.mlp.router\", \"model.embed_tokens\", \"lm_head\"],\n" \
	"  \"quant_method\": \"mxfp4\"\n"                                                                                      \
	" },\n"                                                                                                                \
	" \"rms_norm_eps\": 1e-05,\n"                                                                                          \
	" \"rope_scaling\": {\n"                                                                                               \
	"  \"beta_fast\": 32.0,\n"                                                                                             \
	"  \"beta_slow\": 1.0,\n"                                                                                              \
	"  \"factor\": 32.0,\n"                                                                                                \
	"  \"original_max_position_embeddings\": 4096,\n"                                                                      \
	"  \"rope_type\": \"yarn\",\n"                                                                                         \
	"  \"truncate\": false\n"                                                                                              \
	" },\n"                                                                                                                \
	" \"rope_theta\": 150000,\n"                                                                                           \
	" \"router_aux_loss_coef\": 0.9,\n"                                                                                    \
	" \"sliding_window\": " window ",\n"                                                                                   \
	" \"swiglu_limit\": 7.0,\n"                                                                                            \
	" \"tie_word_embeddings\": false,\n"                                                                                   \
	" \"torch_dtype\": \"bfloat16\",\n"                                                                                    \
	" \"use_cache\": true,\n"                                                                                              \
	" \"vocab_size\": " vocab "\n"                                                                                         \
	"}\n"

static const struct {
	const char *name, *json;
} named[] = {
	{ "gpt-oss-20b", GPT_OSS("24", PAIR12, "32", "2880", "2880", "64", "8", "64", "201088", "128", "199999", "200002") },
	{ "gpt-oss-120b", GPT_OSS("36", PAIR18, "128", "2880", "2880", "64", "8", "64", "201088", "128", "199999", "200002") },
	/* Small enough for a test, with the shape of the large ones; the special tokens follow the 256 byte tokens (synth.c). */
	{ "gpt-oss-tiny", GPT_OSS("4", PAIR "," PAIR, "8", "128", "128", "8", "2", "32", "512", "32", "257", "260") },
};

const char *config_named(const char *name)
{
	for (size_t i = 0; i < COUNT(named); i++)
		if (!strcmp(name, named[i].name))
			return named[i].json;
	return NULL;
}

const char *config_name_at(int i)
{
	return i >= 0 && (size_t)i < COUNT(named) ? named[i].name : NULL;
}
