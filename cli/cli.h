/* cli.h - what the commands share: their options, their errors, the model they open.  cli/ sees moxie.h and nothing below it. */
#ifndef CLI_H
#define CLI_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "moxie.h"

#define EXIT_FAIL 1      /* the machine: memory, device, a full disk */
#define EXIT_BAD_INPUT 2 /* the user's files, prompt or flags */
#define EXIT_INTERRUPT 130

#define MAX_STOP 16

/* One bit a command; a row of the option table names those that take it. */
enum {
	CMD_RUN = 1,
	CMD_CHAT = 2,
	CMD_EVAL = 4,
	CMD_BENCH = 8,
	CMD_INSPECT = 16,
	CMD_SYNTH = 32,
	CMD_TOKENIZE = 64,
	CMD_SERVE = 128,
	CMD_BENCH_SERVING = 256,
	CMD_BENCH_LATENCY = 512
};

struct opts {
	const char *model, *device, *load_format, *kv_dtype, *dense_dtype;
	int n_thread, n_ctx, n_chunk;
	bool verbose;

	const char *prompt, *system, *effort, *date, *show_reasoning;
	bool raw, stats;

	int max_tokens, top_k;
	float temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
	uint64_t seed;
	const char *stop[MAX_STOP];
	int n_stop;
	bool ignore_eos;

	int limit, parallel, n_gen;
	const char *output, *contexts, *batches;
	int input_len;
	bool profile;
	bool show_wrong, json, list, specials, ids;

	const char *served_name, *host, *uds, *key_file, *key, *log_level;
	int port, n_running, n_queued, drain_seconds, read_seconds;
	const char *admin_key, *sampling_defaults, *reasoning_field, *reasoning_parser, *tool_parser;
	const char *policy, *page_size, *dtype, *quantization, *kernels, *parallel_size, *gpu_layers, *flash, *tokenizer, *metrics_prefix;
	int n_prefill;
	bool always, no_warmup, log_requests;
	int kv_tokens;
	float mem_fraction;
	bool open_bind, open_metrics, no_reuse, batch_variant, incremental, no_graph;
	int graph_max;
	float device_gb;

	const char *base_url, *backend, *dataset, *extra_body, *tag;
	int n_prompts, random_in, random_out, max_concurrency, n_warmup;
	int gsp_groups, gsp_prompts, gsp_system_len, gsp_question_len, gsp_out_len;
	float random_ratio, request_rate;
	bool gsp_ordered, output_details, disable_stream, respect_eos, flush_cache, cache_report;

	uint64_t set[2];     /* one bit a row that argv or the environment gave */
	uint64_t by_argv[2]; /* ... that argv gave */
	char **arg;       /* what is left of argv: [n_arg] */
	int n_arg;
	char **argv;      /* as the program was called; ends with NULL */
};

struct command {
	const char *name, *args, *summary;
	unsigned bit;
	int (*run)(struct opts *o);
	const char *help; /* what --help says between the usage and the options */
};
extern const struct command commands[]; /* ends with name == NULL */

int run_main(struct opts *o);
int chat_main(struct opts *o);
int eval_main(struct opts *o);
int bench_main(struct opts *o);
int bench_serving_main(struct opts *o);
int bench_latency_main(struct opts *o);
int inspect_main(struct opts *o);
int synth_main(struct opts *o);
int tokenize_main(struct opts *o);
int serve_main(struct opts *o);

/* ---- options.c ---------------------------------------------------------------------------------------------------- */

/* Environment first, then argv.  Returns -1 to go on, else the exit code (0: --help was printed). */
int opts_parse(struct opts *o, const struct command *cmd, int argc, char **argv);
bool opts_given(const struct opts *o, const char *name);
bool opts_given_in_argv(const struct opts *o, const char *name);
void opts_print_bash(void); /* the bash completion */
void opts_print_mdoc(void); /* the option list of the manual */
enum moxie_effort opts_effort(const struct opts *o);

/* ---- main.c: errors ------------------------------------------------------------------------------------------------ */

/* "moxie: text" on stderr; returns EXIT_BAD_INPUT. */
int bad_input(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* "moxie: what the library said" on stderr; returns the exit code that belongs to it. */
int lib_error(const struct moxie_err *err);
/* Flushes f; EXIT_FAIL with a message if anything written to it was lost, else 0. */
int flush_or_fail(FILE *f, const char *name);

/* ---- serve.c ------------------------------------------------------------------------------------------------------- */

/* The API key of --api-key or --api-key-file, malloc'ed, or NULL: none is given.  0 or an exit code. */
int key_choose(const struct opts *o, char **key);

/* ---- main.c: Ctrl-C ------------------------------------------------------------------------------------------------ */

extern volatile sig_atomic_t interrupted; /* set by SIGINT */
/* From here on SIGINT sets `interrupted` and cancels s, if not NULL.  A second SIGINT ends the process, unless chat. */
void catch_interrupt(bool chat);
void cancel_on_interrupt(moxie_session *s);
void interrupt_reads(bool yes); /* whether Ctrl-C ends a read that waits for input */

/* ---- model.c ------------------------------------------------------------------------------------------------------- */

/* The first argument is taken off o->arg if it names a model; then --model, MOXIE_MODEL, the shipped one.
 * args_are_dirs: every argument must be a model.  Returns 0 or an exit code. */
int model_choose(struct opts *o, bool args_are_dirs);
void model_fill_params(const struct opts *o, struct moxie_model_params *p);
/* Opens o->model with a progress bar; n_seq as in moxie_model_params.  Returns 0 or an exit code. */
int model_open(moxie_model **m, const struct opts *o, int n_seq);
/* The model's defaults overruled by the flags; checked.  Returns 0 or an exit code. */
int model_sampling(const moxie_model *m, const struct opts *o, struct moxie_sampling *sp);

struct id_list {
	int32_t *id;
	size_t n;
};
/* All return 0 or a negative moxie_status and fill err. */
int ids_of_text(const moxie_model *m, const char *text, size_t n_text, int specials, struct id_list *out, struct moxie_err *err);
int ids_of_chat(const moxie_model *m, const struct opts *o, const struct moxie_message *msg, size_t n_msg, struct id_list *out,
                struct moxie_err *err);

double now(void); /* monotonic seconds */
uint32_t logits_hash(const moxie_session *s, int n_vocab);
/* "# 128 tok  640 tok/s  3.2 GB/s  logits #8f31c2aa" */
void print_stats(FILE *f, const moxie_model *m, const moxie_session *s, const struct moxie_generate_result *r);
char *human_bytes(uint64_t n, char buf[32]);

/* ---- answer.c: an answer on its way to the screen -------------------------------------------------------------------- */

struct text {
	char *p;  /* NUL-terminated, or NULL while empty */
	size_t n, cap;
};
void text_add(struct text *t, const char *p, size_t n); /* no memory: EXIT_FAIL */

struct answer {
	bool tty, style;        /* stdout is a terminal; ... that shows dimmed text */
	FILE *reason_to;        /* stdout, stderr, or NULL: hidden */
	bool in_reason;         /* the last thing written was reasoning */
	bool at_line_start;
	struct text final;      /* the final channel, all of it */
	struct moxie_message *msg; /* what was said, message by message: for the next turn */
	size_t n_msg;
	bool msg_open;
};
void answer_init(struct answer *a, const struct opts *o);
int answer_event(void *a, const struct moxie_event *ev, int32_t id); /* on_event */
void answer_end(struct answer *a);                                   /* closes styles and the last line */
void answer_free(struct answer *a);
/* moxie_generate with a as the listener; Ctrl-C ends it with MOXIE_FINISH_CANCEL. */
int answer_generate(struct answer *a, moxie_session *s, const struct id_list *ids, const struct opts *o, const struct moxie_sampling *sp,
                    struct moxie_generate_result *r, struct moxie_err *err);

/* ---- line.c ---------------------------------------------------------------------------------------------------------- */

/* One line of input without its newline, malloc'ed; NULL at the end of input.  On a terminal: a small editor with history
 * (the arrows, Home, End, Ctrl-U/K/W/A/E; pasted newlines stay in the line).  Ctrl-C empties the line: "" is returned. */
char *line_read(const char *prompt);

/* ---- the bench commands ------------------------------------------------------------------------------------------------- */

#define BENCH_MAX_LIST 32
/* "1,8,64" of --flag into v, or a complaint. */
int bench_parse_list(const char *flag, const char *s, int *v, int *n);
/* A fixed walk through the vocabulary from x: the same work in every run. */
void bench_fill_ids(int32_t *id, int n, int n_vocab, uint32_t x);
int bench_by_value(const void *a, const void *b); /* of doubles, for qsort */

#endif
