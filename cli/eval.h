/* eval.h - one run of `moxie eval`, whoever answers: a model in this process (eval.c) or a server (eval_remote.c). */
#ifndef CLI_EVAL_H
#define CLI_EVAL_H

#include "cli.h"
#include "progress.h"
#include "questions.h"

struct eval {
	struct opts *o;
	moxie_model *m;
	const struct task *task;
	struct question *q;
	int n, next, n_done, n_right, n_cut; /* n_cut: answers that the length limit ended */
	size_t n_tok;
	struct moxie_sampling sp;
	FILE *out;
	struct progress bar;
	struct moxie_err err;
};

struct answered {
	int item;
	const char *final, *reason; /* NULL: there was none */
	size_t n_prompt, n_out;
	bool cut;
};
/* Judges and counts an answer.  Returns 0 or an exit code. */
int eval_take(struct eval *e, const struct answered *a);
void eval_print(const struct eval *e, const char *path, double seconds);
/* Asks the server of --base-url.  Returns 0 or an exit code. */
int eval_remote(struct eval *e, const char *path);

#endif
