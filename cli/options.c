/* options.c - every flag of every command, in one table: parsing, environment twins, --help, completion and manual come from it. */
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

enum kind { FLAG, INT, U64, FLOAT, STR, CHOICE, LIST };

struct row {
	const char *name;
	char key;            /* -k, or 0 */
	const char *also;    /* other spellings, apart by '|', or NULL */
	const char *arg;     /* what --help calls the value; CHOICE: the words, apart by '|' */
	enum kind kind;
	size_t at;           /* offset in struct opts */
	double lo, hi;       /* INT */
	unsigned cmds;
	const char *group, *help;
};

#define AT(field) offsetof(struct opts, field)
#define LOADS (CMD_RUN | CMD_CHAT | CMD_EVAL | CMD_BENCH | CMD_BENCH_LATENCY | CMD_TOKENIZE | CMD_SERVE)
#define TALKS (CMD_RUN | CMD_CHAT)
#define SAMPLES (CMD_RUN | CMD_CHAT | CMD_EVAL)
#define ASKS (CMD_EVAL | CMD_BENCH_SERVING) /* a server over HTTP */
#define ANY (-INFINITY), INFINITY

static const struct row rows[] = {
	{ "model", 'm', "model-path", "DIR", STR, AT(model), ANY, LOADS | CMD_INSPECT, "Model",
	  "a Hugging Face directory (default: the model that ships with Moxie)" },
	{ "device", 0, NULL, "NAME", STR, AT(device), ANY, LOADS | CMD_INSPECT, "Model",
	  "auto, cuda, cpu, or one kind of CPU kernels: cpu:ref, cpu:avx2, cpu:avx512, cpu:amx (default: auto: a GPU if there is one)" },
	{ "threads", 't', NULL, "N", INT, AT(n_thread), 0, 4096, LOADS | CMD_SYNTH, "Model",
	  "threads to compute with (default: the processors this process may use)" },
	{ "context-length", 'c', "max-model-len|ctx-size", "N", INT, AT(n_ctx), 0, 1 << 30, SAMPLES | CMD_INSPECT | CMD_SERVE, "Model",
	  "most tokens of prompt and answer together (default: the model's, at most 8192)" },
	{ "load-format", 0, NULL, "auto|safetensors|dummy", CHOICE, AT(load_format), ANY, LOADS | CMD_INSPECT, "Model",
	  "dummy: random weights in memory; DIR may then be a config.json or a name such as gpt-oss-20b" },
	{ "chunked-prefill-size", 0, "max-num-batched-tokens|ubatch-size", "N", INT, AT(n_chunk), 0, 1 << 20, LOADS | CMD_INSPECT, "Model",
	  "most tokens of one prefill step (default: 512; 2048 on a GPU)" },
	{ "kv-cache-dtype", 0, NULL, "auto|bf16|fp8|fp8_e4m3|f32", CHOICE, AT(kv_dtype), ANY, LOADS | CMD_INSPECT, "Model",
	  "how keys and values are kept: fp8 halves their memory for some accuracy, f32 is for the CPU (default: bf16)" },
	{ "dense-dtype", 0, NULL, "bf16|fp8", CHOICE, AT(dense_dtype), ANY, LOADS | CMD_INSPECT, "Model",
	  "attention's projections and the unembedding: fp8 halves them when the model opens, for some accuracy (default: bf16)" },
	{ "cuda-graph-max-bs", 0, NULL, "N", INT, AT(graph_max), 1, 1024, LOADS, "Model",
	  "record decode steps of at most N requests as CUDA graphs (default: all)" },
	{ "disable-cuda-graph", 0, "enforce-eager", NULL, FLAG, AT(no_graph), ANY, LOADS, "Model", "record none" },
	{ "device-memory", 0, NULL, "GB", FLOAT, AT(device_gb), ANY, CMD_INSPECT, "Model",
	  "plan for a GPU of so many GB where there is none (default: 149, what an H200 gives)" },
	{ "verbose", 'v', NULL, NULL, FLAG, AT(verbose), ANY, LOADS, "Model", "say what was loaded and which kernels run" },

	{ "prompt", 'p', NULL, "TEXT", STR, AT(prompt), ANY, CMD_RUN | CMD_TOKENIZE, "Prompt", "the prompt; - reads it from stdin" },
	{ "raw", 0, NULL, NULL, FLAG, AT(raw), ANY, CMD_RUN, "Prompt", "continue the prompt as it stands: no chat template, no channels" },
	{ "system", 0, NULL, "TEXT", STR, AT(system), ANY, TALKS, "Prompt", "instructions that stand before the conversation" },
	{ "reasoning-effort", 0, NULL, "low|medium|high", CHOICE, AT(effort), ANY, SAMPLES, "Prompt",
	  "how long to think (default: medium)" },
	{ "show-reasoning", 0, NULL, "auto|yes|no", CHOICE, AT(show_reasoning), ANY, TALKS, "Prompt",
	  "auto: dimmed on a terminal, else hidden; yes: to stderr if stdout is no terminal" },
	{ "date", 0, NULL, "DATE", STR, AT(date), ANY, TALKS | CMD_SERVE, "Prompt", "the day the model is told it is, e.g. 2026-11-21 (default: not told)" },

	{ "max-tokens", 'n', "max-new-tokens", "N", INT, AT(max_tokens), 0, 1 << 30, SAMPLES, "Sampling",
	  "most tokens of an answer (default: until the context is full)" },
	{ "temperature", 0, "temp", "X", FLOAT, AT(temperature), ANY, SAMPLES | CMD_BENCH_SERVING, "Sampling",
	  "0: always the likeliest token (default here and below: generation_config.json)" },
	{ "top-p", 0, NULL, "X", FLOAT, AT(top_p), ANY, SAMPLES | CMD_BENCH_SERVING, "Sampling", "choose among the likeliest tokens that together reach X" },
	{ "top-k", 0, NULL, "N", INT, AT(top_k), -0x1p31, 0x1p31 - 1, SAMPLES, "Sampling", "choose among the N likeliest tokens" },
	{ "min-p", 0, NULL, "X", FLOAT, AT(min_p), ANY, SAMPLES, "Sampling", "drop tokens less than X times as likely as the likeliest" },
	{ "repetition-penalty", 0, NULL, "X", FLOAT, AT(repetition_penalty), ANY, SAMPLES, "Sampling",
	  "above 1: tokens seen before become less likely" },
	{ "presence-penalty", 0, NULL, "X", FLOAT, AT(presence_penalty), ANY, SAMPLES, "Sampling", "taken once from generated tokens" },
	{ "frequency-penalty", 0, NULL, "X", FLOAT, AT(frequency_penalty), ANY, SAMPLES, "Sampling",
	  "taken from generated tokens once for each time" },
	{ "seed", 0, NULL, "N", U64, AT(seed), ANY, SAMPLES | CMD_SYNTH | CMD_BENCH_SERVING, "Sampling",
	  "same seed, prompt and machine: same tokens (default: 0)" },
	{ "stop", 0, NULL, "TEXT", LIST, AT(stop), ANY, CMD_RUN, "Sampling", "end the answer where TEXT begins; may be given up to 16 times" },
	{ "ignore-eos", 0, NULL, NULL, FLAG, AT(ignore_eos), ANY, TALKS, "Sampling", "go on after the model's end token" },

	{ "served-model-name", 0, "alias", "NAME", STR, AT(served_name), ANY, CMD_SERVE | ASKS, "Server",
	  "what clients call the model (default: the last part of DIR; a client: what the server says)" },
	{ "host", 0, NULL, "ADDRESS", STR, AT(host), ANY, CMD_SERVE, "Server", "address to listen on (default: 127.0.0.1)" },
	{ "port", 0, NULL, "N", INT, AT(port), 0, 65535, CMD_SERVE, "Server", "port to listen on; 0: any free one (default: 30000)" },
	{ "uds", 0, NULL, "PATH", STR, AT(uds), ANY, CMD_SERVE, "Server", "listen on this unix socket instead" },
	{ "api-key-file", 0, NULL, "FILE", STR, AT(key_file), ANY, CMD_SERVE | ASKS, "Server",
	  "every route but /health and the page wants the key that FILE holds; a client sends it" },
	{ "api-key", 0, NULL, "KEY", STR, AT(key), ANY, CMD_SERVE | ASKS, "Server",
	  "the same, the key itself; use the environment: other users see flags" },
	{ "allow-open-bind", 0, NULL, NULL, FLAG, AT(open_bind), ANY, CMD_SERVE, "Server",
	  "listen beyond this machine without a key: whoever reaches the port may use it" },
	{ "open-metrics", 0, NULL, NULL, FLAG, AT(open_metrics), ANY, CMD_SERVE, "Server", "/metrics wants no key" },
	{ "max-running-requests", 0, "max-num-seqs|parallel|np", "N", INT, AT(n_running), 1, 1024, CMD_SERVE | CMD_INSPECT, "Server",
	  "most requests that run together (default: 8; inspect: 1)" },
	{ "max-queued-requests", 0, NULL, "N", INT, AT(n_queued), 1, 1 << 20, CMD_SERVE, "Server",
	  "most requests that wait; later ones are told to try again (default: 1024)" },
	{ "max-total-tokens", 0, NULL, "N", INT, AT(kv_tokens), 1, 0x1p31 - 1, CMD_SERVE, "Server",
	  "most tokens in the KV cache, all requests and the prefix cache together (default: what memory holds)" },
	{ "mem-fraction-static", 0, "gpu-memory-utilization", "X", FLOAT, AT(mem_fraction), ANY, CMD_SERVE, "Server",
	  "share of the memory for weights and KV cache (default: 0.8; a GPU: 0.95 of what the weights leave)" },
	{ "disable-radix-cache", 0, "no-enable-prefix-caching", NULL, FLAG, AT(no_reuse), ANY, CMD_SERVE, "Server",
	  "no prefix cache: compute every prompt whole" },
	{ "disable-batch-invariance", 0, NULL, NULL, FLAG, AT(batch_variant), ANY, CMD_SERVE, "Server",
	  "let the last bits of an answer depend on what is served beside it" },
	{ "incremental-streaming-output", 0, "stream-output", NULL, FLAG, AT(incremental), ANY, CMD_SERVE, "Server",
	  "streamed chunks of /generate hold the new text alone" },
	{ "timeout", 0, NULL, "N", INT, AT(read_seconds), 1, 86400, CMD_SERVE, "Server",
	  "drop a client that is silent for N seconds, or takes twice as long to send a request or to read its answer (default: 60)" },
	{ "drain-seconds", 0, NULL, "N", INT, AT(drain_seconds), 1, 86400, CMD_SERVE, "Server",
	  "time that requests have to end after SIGTERM or Ctrl-C (default: 30)" },
	{ "admin-api-key", 0, NULL, "KEY", STR, AT(admin_key), ANY, CMD_SERVE, "Server",
	  "/flush_cache and /abort_request want this key instead; use the environment" },
	{ "sampling-defaults", 0, NULL, "model|openai", CHOICE, AT(sampling_defaults), ANY, CMD_SERVE, "Server",
	  "what a request that says nothing gets: the model's generation_config.json, or temperature 1 (default: model)" },
	{ "reasoning-field", 0, NULL, "reasoning_content|reasoning", CHOICE, AT(reasoning_field), ANY, CMD_SERVE, "Server",
	  "what a chat's reasoning is called in answers (default: reasoning_content; newer vLLM: reasoning)" },
	{ "reasoning-parser", 0, NULL, "auto|gpt-oss|openai_gptoss", CHOICE, AT(reasoning_parser), ANY, CMD_SERVE, "Server",
	  "accepted for scripts: the model's own is used whichever is named" },
	{ "tool-call-parser", 0, NULL, "auto|gpt-oss|openai", CHOICE, AT(tool_parser), ANY, CMD_SERVE, "Server", "accepted likewise" },
	{ "schedule-policy", 0, "scheduling-policy", "fcfs", CHOICE, AT(policy), ANY, CMD_SERVE, "Server", "accepted likewise: in order of arrival" },
	{ "page-size", 0, "block-size", "64", CHOICE, AT(page_size), ANY, CMD_SERVE, "Server", "accepted likewise" },
	{ "dtype", 0, NULL, "auto|bfloat16|bf16", CHOICE, AT(dtype), ANY, CMD_SERVE, "Server", "accepted likewise" },
	{ "quantization", 0, NULL, "auto|mxfp4", CHOICE, AT(quantization), ANY, CMD_SERVE, "Server", "accepted likewise" },
	{ "moe-runner-backend", 0, "moe-backend|attention-backend|sampling-backend|grammar-backend", "auto", CHOICE, AT(kernels), ANY, CMD_SERVE,
	  "Server", "accepted likewise: the device decides, --verbose tells which kernels run" },
	{ "tensor-parallel-size", 0, "tp|tp-size|expert-parallel-size|ep|ep-size|pipeline-parallel-size|pp|pp-size|data-parallel-size|dp|dp-size|nnodes",
	  "1", CHOICE, AT(parallel_size), ANY, CMD_SERVE, "Server", "accepted likewise: one device" },
	{ "n-gpu-layers", 0, "gpu-layers|ngl", "99|999|-1|all|auto", CHOICE, AT(gpu_layers), ANY, CMD_SERVE, "Server",
	  "accepted likewise: a model is on its --device whole" },
	{ "flash-attn", 0, "fa", "on|1|auto", CHOICE, AT(flash), ANY, CMD_SERVE, "Server", "accepted likewise" },
	{ "tokenizer-path", 0, "tokenizer", "DIR", STR, AT(tokenizer), ANY, CMD_SERVE, "Server", "accepted if it is the model's own directory" },
	{ "max-prefill-tokens", 0, NULL, "N", INT, AT(n_prefill), 1, 1 << 30, CMD_SERVE, "Server",
	  "a smaller --chunked-prefill-size, if it is one" },
	{ "metrics-prefix", 0, NULL, "WORD", STR, AT(metrics_prefix), ANY, CMD_SERVE, "Server", "what names of metrics begin with, before a colon (default: sglang)" },
	{ "enable-metrics", 0, "metrics|enable-cache-report|enable-auto-tool-choice|jinja|trust-remote-code|enable-prefix-caching|enable-chunked-prefill|"
	  "enable-mixed-chunk|disable-log-requests|disable-flashinfer-autotune", NULL, FLAG, AT(always), ANY, CMD_SERVE,
	  "Server", "accepted for scripts: it is always so, and no code of a model is ever run" },
	{ "skip-server-warmup", 0, "no-warmup", NULL, FLAG, AT(no_warmup), ANY, CMD_SERVE, "Server",
	  "accept requests before a first token was made" },
	{ "log-requests", 0, "enable-log-requests", NULL, FLAG, AT(log_requests), ANY, CMD_SERVE, "Server",
	  "a line on stderr for each request that ends: tokens and times, no text" },
	{ "log-level", 0, NULL, "error|warning|info|debug", CHOICE, AT(log_level), ANY, CMD_SERVE, "Server",
	  "how much to tell on stderr (default: warning)" },

	{ "limit", 0, NULL, "N", INT, AT(limit), 0, 1 << 30, CMD_EVAL, "Evaluation", "only the first N questions" },
	{ "parallel", 0, NULL, "N", INT, AT(parallel), 1, 256, CMD_EVAL, "Evaluation", "questions answered together (default: 8)" },
	{ "show-wrong", 0, NULL, NULL, FLAG, AT(show_wrong), ANY, CMD_EVAL, "Evaluation", "print wrong answers with what was wanted" },

	{ "contexts", 0, NULL, "N,N,...", STR, AT(contexts), ANY, CMD_BENCH | CMD_BENCH_LATENCY, "Bench",
	  "context lengths to measure at (default: 128,1024,4096; bench latency: --input-len)" },
	{ "gen", 0, "output-len", "N", INT, AT(n_gen), 1, 1 << 20, CMD_BENCH | CMD_BENCH_LATENCY, "Bench", "tokens to decode at each (default: 32)" },
	{ "batch", 0, "batch-size", "N,N,...", STR, AT(batches), ANY, CMD_BENCH_LATENCY, "Bench", "requests that run together (default: 1)" },
	{ "input-len", 0, NULL, "N", INT, AT(input_len), 1, 1 << 24, CMD_BENCH_LATENCY, "Bench", "tokens of each prompt (default: 1024)" },
	{ "profile", 0, NULL, NULL, FLAG, AT(profile), ANY, CMD_BENCH_LATENCY, "Bench", "say where the time of a step goes, kernel by kernel (CUDA)" },

	{ "base-url", 0, NULL, "URL", STR, AT(base_url), ANY, ASKS, "Server",
	  "a server's address, http://HOST:PORT or unix:PATH (bench serving: default http://127.0.0.1:30000)" },

	{ "backend", 0, NULL, "sglang|sglang-native|sglang-oai|sglang-oai-chat|vllm|vllm-chat|openai|openai-chat", CHOICE, AT(backend), ANY,
	  CMD_BENCH_SERVING, "Load", "which route: sglang /generate, ...-chat /v1/chat/completions, others /v1/completions (default: sglang)" },
	{ "dataset-name", 0, NULL, "random|random-ids|generated-shared-prefix", CHOICE, AT(dataset), ANY, CMD_BENCH_SERVING, "Load",
	  "random: words; random-ids: token ids (default: random)" },
	{ "num-prompts", 0, NULL, "N", INT, AT(n_prompts), 1, 10000000, CMD_BENCH_SERVING, "Load", "requests to send (default: 1000)" },
	{ "random-input-len", 0, "random-input", "N", INT, AT(random_in), 1, 1 << 24, CMD_BENCH_SERVING, "Load",
	  "most tokens of a random prompt (default: 1024)" },
	{ "random-output-len", 0, "random-output", "N", INT, AT(random_out), 1, 1 << 24, CMD_BENCH_SERVING, "Load",
	  "most tokens of its answer (default: 1024)" },
	{ "random-range-ratio", 0, NULL, "X", FLOAT, AT(random_ratio), ANY, CMD_BENCH_SERVING, "Load",
	  "lengths are from X times the most up to it (default: 0; 1: all alike)" },
	{ "request-rate", 0, NULL, "X", FLOAT, AT(request_rate), ANY, CMD_BENCH_SERVING, "Load",
	  "requests a second, at random times; inf: all at once (default: inf)" },
	{ "max-concurrency", 0, NULL, "N", INT, AT(max_concurrency), 0, 1 << 20, CMD_BENCH_SERVING, "Load",
	  "most requests under way (default: 0, no limit)" },
	{ "warmup-requests", 0, NULL, "N", INT, AT(n_warmup), 0, 1 << 20, CMD_BENCH_SERVING, "Load", "sent before the run (default: 1)" },
	{ "flush-cache", 0, NULL, NULL, FLAG, AT(flush_cache), ANY, CMD_BENCH_SERVING, "Load", "ask /flush_cache after the warm-up" },
	{ "disable-stream", 0, NULL, NULL, FLAG, AT(disable_stream), ANY, CMD_BENCH_SERVING, "Load", "whole answers, no streams" },
	{ "disable-ignore-eos", 0, NULL, NULL, FLAG, AT(respect_eos), ANY, CMD_BENCH_SERVING, "Load",
	  "let the model end its answers (default: each has the length asked for)" },
	{ "extra-request-body", 0, NULL, "JSON", STR, AT(extra_body), ANY, CMD_BENCH_SERVING, "Load", "fields to add to each request" },
	{ "gsp-num-groups", 0, NULL, "N", INT, AT(gsp_groups), 1, 1 << 20, CMD_BENCH_SERVING, "Load",
	  "shared prefixes (default: 64)" },
	{ "gsp-prompts-per-group", 0, NULL, "N", INT, AT(gsp_prompts), 1, 1 << 20, CMD_BENCH_SERVING, "Load",
	  "requests with each (default: 16)" },
	{ "gsp-system-prompt-len", 0, NULL, "N", INT, AT(gsp_system_len), 1, 1 << 24, CMD_BENCH_SERVING, "Load",
	  "tokens that a group shares (default: 2048)" },
	{ "gsp-question-len", 0, NULL, "N", INT, AT(gsp_question_len), 1, 1 << 24, CMD_BENCH_SERVING, "Load",
	  "tokens of one request's own (default: 128)" },
	{ "gsp-output-len", 0, NULL, "N", INT, AT(gsp_out_len), 1, 1 << 24, CMD_BENCH_SERVING, "Load", "tokens of an answer (default: 256)" },
	{ "gsp-ordered", 0, NULL, NULL, FLAG, AT(gsp_ordered), ANY, CMD_BENCH_SERVING, "Load", "group by group (default: mixed)" },

	{ "output", 'o', "output-file", "FILE", STR, AT(output), ANY, CMD_EVAL | CMD_BENCH | CMD_BENCH_LATENCY | CMD_BENCH_SERVING, "Output",
	  "write one JSON object a line to FILE (bench serving: append one)" },
	{ "output-details", 0, NULL, NULL, FLAG, AT(output_details), ANY, CMD_BENCH_SERVING, "Output", "with lengths, times and texts of each request" },
	{ "cache-report", 0, NULL, NULL, FLAG, AT(cache_report), ANY, CMD_BENCH_SERVING, "Output", "tell how many prompt tokens came from the cache" },
	{ "tag", 0, NULL, "TEXT", STR, AT(tag), ANY, CMD_BENCH_SERVING, "Output", "a name for the row that is written" },
	{ "json", 0, NULL, NULL, FLAG, AT(json), ANY, CMD_INSPECT, "Output", "print one JSON object" },
	{ "stats", 's', NULL, NULL, FLAG, AT(stats), ANY, TALKS, "Output", "speed and a hash of the last logits, on stderr" },
	{ "specials", 0, NULL, NULL, FLAG, AT(specials), ANY, CMD_TOKENIZE, "Output", "read <|end|> and the like as their tokens" },
	{ "ids", 0, NULL, NULL, FLAG, AT(ids), ANY, CMD_TOKENIZE, "Output", "print only the ids, on one line" },
	{ "list", 0, NULL, NULL, FLAG, AT(list), ANY, CMD_SYNTH, "Output", "print the names of the built-in configs" },
};
#define N_ROW (sizeof rows / sizeof *rows)
enum { MAX_SPELLING = 40, MAX_SPELLINGS = 3 * N_ROW }; /* of one command's flags */
_Static_assert(N_ROW <= 128, "struct opts has one bit a row");

static void set_bit(uint64_t bits[2], const struct row *r) { bits[(r - rows) / 64] |= 1ull << (r - rows) % 64; }
static bool has_bit(const uint64_t bits[2], const struct row *r) { return bits[(r - rows) / 64] >> (r - rows) % 64 & 1; }

static void env_name(const struct row *r, char out[48])
{
	int n = snprintf(out, 48, "MOXIE_%s", r->name);
	for (int i = 0; i < n && i < 47; i++)
		out[i] = out[i] == '-' ? '_' : (char)toupper((unsigned char)out[i]);
}

static bool is_word_of(const char *words, const char *s)
{
	size_t n = strlen(s);
	for (const char *w = words; *w;) {
		size_t len = strcspn(w, "|");
		if (n == len && !memcmp(w, s, n))
			return true;
		w += len + (w[len] == '|');
	}
	return false;
}

/* Stores text as row r's value.  from names where it came from.  0 or an exit code. */
static int set_value(struct opts *o, const struct row *r, const char *text, const char *from)
{
	void *at = (char *)o + r->at;
	char *end;
	errno = 0;
	switch (r->kind) {
	case FLAG:
		if (!text || is_word_of("1|yes|true|on", text))
			*(bool *)at = true;
		else if (is_word_of("0|no|false|off", text))
			*(bool *)at = false;
		else
			return bad_input("%s is \"%s\", wanted yes or no", from, text);
		break;
	case INT: {
		long long v = strtoll(text, &end, 10);
		if (end == text || *end || errno || (double)v < r->lo || (double)v > r->hi)
			return bad_input("%s is \"%s\", wanted a whole number from %.0f to %.0f", from, text, r->lo, r->hi);
		*(int *)at = (int)v;
		break;
	}
	case U64: {
		unsigned long long v = strtoull(text, &end, 0);
		if (end == text || *end || errno || strchr(text, '-'))
			return bad_input("%s is \"%s\", wanted a whole number from 0 to 18446744073709551615", from, text);
		*(uint64_t *)at = v;
		break;
	}
	case FLOAT: {
		float v = strtof(text, &end); /* nan, inf and ranges: moxie_sampling_check knows them */
		if (end == text || *end)
			return bad_input("%s is \"%s\", wanted a number", from, text);
		*(float *)at = v;
		break;
	}
	case CHOICE:
		if (!is_word_of(r->arg, text))
			return bad_input("%s is \"%s\", wanted one of %s", from, text, r->arg);
		*(const char **)at = text;
		break;
	case STR:
		*(const char **)at = text;
		break;
	case LIST:
		if (o->n_stop == MAX_STOP)
			return bad_input("%s is given more than %d times", from, MAX_STOP);
		if (!*text)
			return bad_input("%s is empty", from);
		o->stop[o->n_stop++] = text;
		break;
	}
	set_bit(o->set, r);
	return 0;
}

static void print_group_help(const struct command *cmd, const char *group)
{
	bool any = false;
	for (const struct row *r = rows; r < rows + N_ROW; r++) {
		if (!(r->cmds & cmd->bit) || strcmp(r->group, group))
			continue;
		if (!any)
			printf("\n%s:\n", group);
		any = true;
		char left[64], key[4] = "";
		if (r->key)
			snprintf(key, sizeof key, "-%c", r->key);
		snprintf(left, sizeof left, "%3s --%s %s", key, r->name, r->arg ? r->arg : "");
		printf(strlen(left) > 34 ? "  %s\n%38s%s\n" : "  %-34s  %.0s%s\n", left, "", r->help);
	}
}

static void print_help(const struct command *cmd)
{
	printf("usage: moxie %s %s\n\n%s\n", cmd->name, cmd->args, cmd->summary);
	if (cmd->help)
		printf("%s", cmd->help);
	static const char *const groups[] = { "Prompt", "Sampling", "Evaluation", "Bench", "Load", "Server", "Model", "Output" };
	for (size_t i = 0; i < sizeof groups / sizeof *groups; i++)
		print_group_help(cmd, groups[i]);
	printf("\nEach flag has a twin in the environment: --max-tokens 64 is MOXIE_MAX_TOKENS=64; a flag wins over its twin.\n");
}

static int read_environment(struct opts *o, const struct command *cmd)
{
	for (const struct row *r = rows; r < rows + N_ROW; r++) {
		char env[48];
		env_name(r, env);
		const char *text = r->cmds & cmd->bit ? getenv(env) : NULL;
		int rc = text && *text ? set_value(o, r, text, env) : 0;
		if (rc)
			return rc;
	}
	return 0;
}

/* The flags of cmd in getopt's form; val = 256 + row.  spelling: where the other names lie. */
static void fill_getopt(const struct command *cmd, struct option *longs, char *shorts, char (*spelling)[MAX_SPELLING])
{
	*shorts++ = ':';
	*shorts++ = 'h';
	*longs++ = (struct option){ "help", no_argument, NULL, 'h' };
	for (const struct row *r = rows; r < rows + N_ROW; r++) {
		if (!(r->cmds & cmd->bit))
			continue;
		struct option one = { r->name, r->arg ? required_argument : no_argument, NULL, 256 + (int)(r - rows) };
		*longs++ = one;
		for (const char *also = r->also; also; also = strchr(also, '|') ? strchr(also, '|') + 1 : NULL) {
			int len = (int)strcspn(also, "|");
			snprintf(*spelling, sizeof *spelling, "%.*s", len, also);
			one.name = *spelling++, *longs++ = one;
		}
		if (r->key) {
			*shorts++ = r->key;
			if (r->arg)
				*shorts++ = ':';
		}
	}
	*longs = (struct option){ 0 };
	*shorts = 0;
}

/* vLLM and llama-server write some long names with one dash, which getopt would read as -t p. */
static void double_dashes(int argc, char **argv)
{
	static char words[][6] = { "--tp", "--np", "--ngl", "--fa" };
	for (int i = 1; i < argc && strcmp(argv[i], "--"); i++)
		for (size_t w = 0; w < sizeof words / sizeof *words; w++)
			if (!strcmp(argv[i], words[w] + 1))
				argv[i] = words[w];
}

int opts_parse(struct opts *o, const struct command *cmd, int argc, char **argv)
{
	int rc = read_environment(o, cmd);
	if (rc)
		return rc;
	if (cmd->bit == CMD_SERVE)
		double_dashes(argc, argv);
	struct option longs[MAX_SPELLINGS + 2];
	char spelling[MAX_SPELLINGS][MAX_SPELLING];
	char shorts[3 * N_ROW + 4];
	fill_getopt(cmd, longs, shorts, spelling);
	opterr = 0;
	for (int c; (c = getopt_long(argc, argv, shorts, longs, NULL)) != -1;) {
		if (c == 'h') {
			print_help(cmd);
			return 0;
		}
		if (c == ':')
			return bad_input("%s wants a value; see moxie %s --help", argv[optind - 1], cmd->name);
		if (c == '?' && optopt && optopt < 256)
			return bad_input("unknown flag -%c; see moxie %s --help", optopt, cmd->name);
		if (c == '?')
			return bad_input("unknown or misused flag %s; see moxie %s --help", argv[optind - 1], cmd->name);
		const struct row *r = rows;
		if (c >= 256)
			r = &rows[c - 256];
		else
			while (r->key != c)
				r++;
		char from[48];
		snprintf(from, sizeof from, "--%s", r->name);
		if (r->kind == LIST && !has_bit(o->by_argv, r))
			o->n_stop = 0; /* argv replaces the environment's */
		rc = set_value(o, r, r->arg ? optarg : NULL, from);
		if (rc)
			return rc;
		set_bit(o->by_argv, r);
	}
	o->arg = argv + optind;
	o->n_arg = argc - optind;
	return -1;
}

static bool is_given(const uint64_t bits[2], const char *name)
{
	for (const struct row *r = rows; r < rows + N_ROW; r++)
		if (!strcmp(r->name, name))
			return has_bit(bits, r);
	return false;
}

bool opts_given(const struct opts *o, const char *name) { return is_given(o->set, name); }
bool opts_given_in_argv(const struct opts *o, const char *name) { return is_given(o->by_argv, name); }

enum moxie_effort opts_effort(const struct opts *o)
{
	if (o->effort && !strcmp(o->effort, "low"))
		return MOXIE_EFFORT_LOW;
	return o->effort && !strcmp(o->effort, "high") ? MOXIE_EFFORT_HIGH : MOXIE_EFFORT_MEDIUM;
}

void opts_print_bash(void)
{
	printf("# bash completion for moxie; written by `moxie completion`\n"
	       "_moxie()\n{\n"
	       "\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} flags\n"
	       "\tif ((COMP_CWORD == 1)); then\n\t\tmapfile -t COMPREPLY < <(compgen -W '");
	for (const struct command *c = commands; c->name; c++)
		if (!strchr(c->name, ' '))
			printf("%s ", c->name);
	printf("--help --version' -- \"$cur\")\n\t\treturn\n\tfi\n\tcase $prev in\n");
	for (const struct row *r = rows; r < rows + N_ROW; r++) {
		if (r->kind != CHOICE)
			continue;
		printf("\t--%s) mapfile -t COMPREPLY < <(compgen -W '", r->name);
		for (const char *p = r->arg; *p; p++)
			putchar(*p == '|' ? ' ' : *p);
		printf("' -- \"$cur\"); return ;;\n");
	}
	printf("\tesac\n\tcase \"${COMP_WORDS[1]} ${COMP_WORDS[2]} \" in\n");
	for (const struct command *c = commands; c->name; c++) {
		printf("\t'%s '*) flags='--help", c->name); /* two words stand before their first */
		for (const struct row *r = rows; r < rows + N_ROW; r++)
			if (r->cmds & c->bit)
				printf(" --%s", r->name);
		printf("' ;;\n");
	}
	printf("\tesac\n"
	       "\tif [[ $cur == -* ]]; then\n\t\tmapfile -t COMPREPLY < <(compgen -W \"$flags\" -- \"$cur\")\n"
	       "\telse\n\t\tmapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n\tfi\n}\n"
	       "complete -o filenames -F _moxie moxie\n");
}

/* Backslashes and leading dots would be mdoc's own. */
static void print_mdoc_text(const char *s)
{
	for (; *s; s++)
		printf(*s == '\\' ? "\\e" : "%c", *s);
}

void opts_print_mdoc(void)
{
	printf(".Bl -tag -width Ds\n");
	for (const struct row *r = rows; r < rows + N_ROW; r++) {
		char env[48];
		env_name(r, env);
		printf(".It");
		if (r->key)
			printf(" Fl %c ,", r->key);
		printf(" Fl -%s", r->name);
		if (r->arg)
			printf(" Ar %s", r->arg);
		bool is_value = strchr(":,", r->help[strcspn(r->help, " :,")]); /* "dummy: random weights ..." stays small */
		printf("\n%c", is_value ? *r->help : toupper((unsigned char)*r->help));
		print_mdoc_text(r->help + 1);
		printf(".\nFor");
		const char *sep = " ";
		for (const struct command *c = commands; c->name; c++)
			if (r->cmds & c->bit)
				printf("%s%s", sep, c->name), sep = ", ";
		printf(";\n.Ev %s .\n", env);
	}
	printf(".El\n");
}
