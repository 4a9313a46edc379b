/* main.c - picks the command; what they share of errors and signals. */
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench_moe.h"
#include "bench/bench_ops.h"
#include "bench/bench_tokenizer.h"
#include "cli.h"

const struct command commands[] = {
	{ "run", "[DIR] [-p PROMPT | PROMPT...]", "Answers one prompt.", CMD_RUN, run_main,
	  "Without DIR the model that ships with Moxie answers.  The prompt - is read from stdin.\n" },
	{ "chat", "[DIR]", "Talks, and remembers what was said.", CMD_CHAT, chat_main,
	  "Ctrl-C stops an answer, Ctrl-D quits, /help lists the commands.\n" },
	{ "serve", "[DIR]", "Answers over HTTP, many requests at once, to clients of OpenAI's and SGLang's servers.", CMD_SERVE, serve_main,
	  "A browser finds a chat page at the address.  SIGTERM or Ctrl-C lets what runs end, a second one does not.\n" },
	{ "eval", "wordmath|gsm8k|gpqa [FILE.jsonl]", "Asks a file's questions and counts the right answers.", CMD_EVAL, eval_main,
	  "wordmath: {\"question\", \"answer\"}.   gsm8k: the same, the number after ####.\n"
	  "gpqa: {\"Question\", \"Correct Answer\", \"Incorrect Answer 1\", \"... 2\", \"... 3\"}; --seed shuffles the choices.\n" },
	{ "bench serving", "[--base-url URL]", "Sends a load to a server and measures its answers.", CMD_BENCH_SERVING, bench_serving_main,
	  "Labels, JSON keys and definitions are those of SGLang's bench_serving.  OPENAI_API_KEY is sent when no key is given.\n" },
	{ "bench latency", "[DIR]", "Measures a batch of equal requests: prompts, then steps of all together.", CMD_BENCH_LATENCY, bench_latency_main, NULL },
	{ "bench", "[DIR] | op [NAME...] | moe | tokenizer TOKENIZER.JSON TEXT", "Measures prefill and decode; with op: single kernels.", CMD_BENCH,
	  bench_main, "op: CPU ops.   moe [--shape NAME] [--tokens N,...] [--replays N] [--rest MS] [--explain]: one MoE layer on the GPU.\n" },
	{ "inspect", "[DIR]", "Shows a checkpoint's tensors and the memory it would take, without loading it.", CMD_INSPECT, inspect_main, NULL },
	{ "synth", "CONFIG OUTDIR", "Writes a random checkpoint in Hugging Face layout.", CMD_SYNTH, synth_main,
	  "CONFIG is a name from --list or a config.json.\n" },
	{ "tokenize", "[DIR] [-p TEXT | TEXT...]", "Shows the tokens of a text.", CMD_TOKENIZE, tokenize_main, NULL },
	{ 0 },
};

int bad_input(const char *fmt, ...)
{
	va_list ap;
	fflush(stdout);
	fputs("moxie: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	return EXIT_BAD_INPUT;
}

int lib_error(const struct moxie_err *err)
{
	if (err->code == MOXIE_E_CANCELLED) {
		fputs("moxie: interrupted\n", stderr);
		return EXIT_INTERRUPT;
	}
	bad_input("%s", *err->text ? err->text : moxie_strerror(err->code));
	return err->code == MOXIE_E_NOMEM || err->code == MOXIE_E_DEVICE ? EXIT_FAIL : EXIT_BAD_INPUT;
}

int flush_or_fail(FILE *f, const char *name)
{
	if (fflush(f) == 0 && !ferror(f))
		return 0;
	if (errno != EPIPE)
		fprintf(stderr, "moxie: %s: output was lost: %s\n", name, strerror(errno));
	return EXIT_FAIL;
}

volatile sig_atomic_t interrupted;
static moxie_session *volatile to_cancel;

static void on_interrupt(int sig)
{
	(void)sig;
	interrupted = 1;
	moxie_session *s = to_cancel;
	if (s)
		moxie_session_cancel(s);
}

void catch_interrupt(bool chat)
{
	/* Restart: a write that Ctrl-C interrupts must not count as lost output. */
	struct sigaction act = { .sa_handler = on_interrupt, .sa_flags = SA_RESTART | (chat ? 0 : (int)SA_RESETHAND) };
	sigaction(SIGINT, &act, NULL);
}

void interrupt_reads(bool yes)
{
	struct sigaction act;
	sigaction(SIGINT, NULL, &act);
	act.sa_flags = yes ? act.sa_flags & ~SA_RESTART : act.sa_flags | SA_RESTART;
	sigaction(SIGINT, &act, NULL);
}

void cancel_on_interrupt(moxie_session *s)
{
	to_cancel = s;
	if (s && interrupted)
		moxie_session_cancel(s);
}

static void print_usage(FILE *f)
{
	fprintf(f, "usage: moxie COMMAND ...\n\nMoxie runs mixture-of-experts language models.\n\n");
	for (const struct command *c = commands; c->name; c++)
		fprintf(f, "  %-13s %s\n", c->name, c->summary);
	fprintf(f, "\nmoxie COMMAND --help says more.  moxie --version prints the version.\n"
	           "Try: moxie run \"Ann has 3 apples and buys 4 more. How many does she have?\"\n");
}

/* How many words of argv name the command called name: 1 or 2; 0: it is another. */
static int words_called(const char *name, int argc, char **argv)
{
	const char *second = strchr(name, ' ');
	if (!second)
		return !strcmp(name, argv[1]);
	size_t n = (size_t)(second - name);
	return argc > 2 && strlen(argv[1]) == n && !memcmp(name, argv[1], n) && !strcmp(second + 1, argv[2]) ? 2 : 0;
}

/* said: a copy of argv, whose order getopt changes. */
static int run_command(int argc, char **argv, char **said)
{
	if (argc < 2) {
		print_usage(stderr);
		return EXIT_BAD_INPUT;
	}
	const char *name = argv[1];
	if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help"))
		return print_usage(stdout), 0;
	if (!strcmp(name, "--version"))
		return printf("moxie %s\n", moxie_version()), 0;
	if (!strcmp(name, "completion"))
		return opts_print_bash(), 0;
	if (!strcmp(name, "mdoc-options"))
		return opts_print_mdoc(), 0;
	if (argc > 2 && !strcmp(name, "bench") && !strcmp(argv[2], "op"))
		return bench_ops_main(argc - 2, argv + 2);
	if (argc > 2 && !strcmp(name, "bench") && !strcmp(argv[2], "moe"))
		return bench_moe_main(argc - 2, argv + 2);
	if (argc > 2 && !strcmp(name, "bench") && !strcmp(argv[2], "tokenizer"))
		return bench_tokenizer_main(argc - 2, argv + 2);
	for (const struct command *c = commands; c->name; c++) {
		int n_word = words_called(c->name, argc, argv);
		if (!n_word)
			continue;
		struct opts o = { .parallel = 8, .n_gen = 32, .contexts = "128,1024,4096", .batches = "1", .input_len = 1024, .show_reasoning = "auto", .argv = said,
		                  .host = "127.0.0.1", .port = 30000, .n_running = 8,
		                  .backend = "sglang", .dataset = "random", .n_prompts = 1000, .random_in = 1024, .random_out = 1024,
		                  .request_rate = INFINITY, .n_warmup = 1, .gsp_groups = 64, .gsp_prompts = 16, .gsp_system_len = 2048,
		                  .gsp_question_len = 128, .gsp_out_len = 256 };
		int rc = opts_parse(&o, c, argc - n_word, argv + n_word);
		return rc >= 0 ? rc : c->run(&o);
	}
	return bad_input("there is no command \"%s\"; moxie --help lists them", name);
}

int main(int argc, char **argv)
{
	signal(SIGPIPE, SIG_DFL); /* `moxie run ... | head` ends quietly */
	setlocale(LC_CTYPE, "C.UTF-8");
	char *said[argc + 1];
	memcpy(said, argv, sizeof said);
	int rc = run_command(argc, argv, said), lost = flush_or_fail(stdout, "stdout");
	return rc ? rc : lost;
}
