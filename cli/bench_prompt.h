/* bench_prompt.h - the prompts of `moxie bench serving`: the i-th is the same in every run with the same flags. */
#ifndef CLI_BENCH_PROMPT_H
#define CLI_BENCH_PROMPT_H

#include "cli.h"

struct prompts {
	const struct opts *o;
	bool ids;              /* token ids; else words of about one token each */
	double words_per_token;
	int n_vocab;
	int *order;            /* generated-shared-prefix: [n] question numbers, shuffled */
	int n;
};
/* Returns 0 or an exit code. */
int prompts_init(struct prompts *p, const struct opts *o, bool chat);
void prompts_free(struct prompts *p);
/* Tokens of prompt i, and of its answer. */
void prompt_lens(const struct prompts *p, int i, int *n_in, int *n_out);
/* Appends prompt i as JSON: a string, or a list of ids. */
void prompt_write(const struct prompts *p, int i, struct text *out);
/* n words, for finding out how many tokens a word is. */
void prompt_words(int n, struct text *out);

#endif
