/* config.h - config.json and generation_config.json as typed fields.  The only place that knows Hugging Face's names. */
#ifndef MOXIE_FORMATS_CONFIG_H
#define MOXIE_FORMATS_CONFIG_H

#include "base/dtype.h"
#include "base/err.h"

#define CONFIG_MAX_LAYER 512
#define CONFIG_MAX_EOS 8

enum arch { ARCH_NONE, ARCH_GPT_OSS };

struct yarn { /* factor == 0: plain rope */
	float factor, beta_fast, beta_slow, attention_factor; /* attention_factor 0: 0.1 ln(factor) + 1 */
	int n_ctx_orig;
	bool truncate;
};

struct model_config {
	enum arch arch;
	char arch_name[64];    /* as the file says */
	int n_layer, n_embd, n_head, n_head_kv, d_head, n_ff, n_expert, n_expert_used, n_vocab, n_ctx;
	int window;            /* of sliding layers */
	bool sliding[CONFIG_MAX_LAYER];
	bool mxfp4;            /* quantization_config.quant_method == "mxfp4" */
	bool tie_embd;
	float norm_eps, rope_theta, swiglu_alpha, swiglu_limit;
	struct yarn yarn;
	int32_t bos, pad;      /* -1: none */
	int32_t eos[CONFIG_MAX_EOS];
	int n_eos;
};

struct gen_config { /* fields the file lacks: the neutral value */
	float temperature, top_p, min_p, repetition_penalty;
	int top_k;
	bool do_sample;
	int32_t bos, pad;
	int32_t eos[CONFIG_MAX_EOS];
	int n_eos;             /* 0: the file names none; use the model's */
};

/* Every number is range-checked against what the kernels and the memory plan can hold; the error names key, value and
 * range.  dir/config.json must exist; generation_config.json may be absent (gen then holds the neutral values).
 *   MOXIE_E_IO, MOXIE_E_FORMAT (not JSON, missing key, wrong type, out of range), MOXIE_E_UNSUPPORTED (unknown architecture,
 *   activation, rope type or quantisation; err lists what is known) */
int config_load(struct model_config *c, const char *dir, struct moxie_err *err);
int config_parse(struct model_config *c, const char *json, size_t n, const char *file_name, struct moxie_err *err);
int gen_config_load(struct gen_config *g, const char *dir, struct moxie_err *err);
int gen_config_parse(struct gen_config *g, const char *json, size_t n, const char *file_name, struct moxie_err *err);

/* The built-in configurations, by name: "gpt-oss-20b", "gpt-oss-120b", "gpt-oss-tiny".  NULL: unknown.
 * The text is a whole config.json. */
const char *config_named(const char *name);
const char *config_name_at(int i); /* NULL past the last */

/* One row of the binding table of an architecture: what a checkpoint must hold. */
struct tensor_want {
	char name[160];
	enum dtype dtype, dtype_also; /* dtype_also: also accepted, or DT_NONE */
	int n_dim;
	int64_t shape[4];
};

/* The i-th wanted tensor of c, in forward order; false past the last.  One table serves binding, synth and the plan. */
bool config_tensor_at(const struct model_config *c, size_t i, struct tensor_want *want);

#endif
