/* run.c - `moxie run`: one prompt, one answer.  And `moxie tokenize`, which stops after the prompt. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static int read_stdin(struct text *t)
{
	char part[65536];
	for (size_t n; (n = fread(part, 1, sizeof part, stdin)) > 0;)
		text_add(t, part, n);
	if (ferror(stdin))
		return bad_input("stdin: %s", strerror(errno));
	return 0;
}

/* -p, the rest of argv in one line, or the environment; - is stdin. */
static int take_prompt(const struct opts *o, struct text *t)
{
	bool words = o->n_arg > 0, p = opts_given_in_argv(o, "prompt");
	if (words && p)
		return bad_input("two prompts: --prompt and \"%s\"", o->arg[0]);
	if (!words && !o->prompt)
		return bad_input("no prompt; try: moxie run \"Ann has 3 apples and buys 4 more. How many does she have?\"");
	if (words ? o->n_arg == 1 && !strcmp(o->arg[0], "-") : !strcmp(o->prompt, "-"))
		return read_stdin(t);
	if (!words)
		text_add(t, o->prompt, strlen(o->prompt));
	for (int i = 0; words && i < o->n_arg; i++) {
		if (i)
			text_add(t, " ", 1);
		text_add(t, o->arg[i], strlen(o->arg[i]));
	}
	return 0;
}

static int prompt_ids(const moxie_model *m, const struct opts *o, const struct text *prompt, struct id_list *ids, struct moxie_err *err)
{
	if (o->raw)
		return ids_of_text(m, prompt->p, prompt->n, 1, ids, err);
	if (strlen(prompt->p) != prompt->n) {
		snprintf(err->text, sizeof err->text, "the prompt has a NUL at byte %zu; only --raw takes that", strlen(prompt->p));
		return err->code = MOXIE_E_ARG;
	}
	struct moxie_message msg[2] = { { .role = MOXIE_ROLE_DEVELOPER, .content = o->system }, { .role = MOXIE_ROLE_USER, .content = prompt->p } };
	return ids_of_chat(m, o, o->system ? msg : msg + 1, o->system ? 2 : 1, ids, err);
}

/* What a reader of the answer must know about how it ended.  Returns the exit code. */
static int report_finish(const struct opts *o, const struct answer *a, const struct moxie_generate_result *r)
{
	if (r->finish == MOXIE_FINISH_CANCEL) {
		if (interrupted)
			fputs("moxie: interrupted, the answer is not whole\n", stderr);
		return interrupted ? EXIT_INTERRUPT : EXIT_FAIL;
	}
	if (r->finish == MOXIE_FINISH_LENGTH) {
		bool asked = o->max_tokens && r->n_out >= (size_t)o->max_tokens;
		fprintf(stderr, asked ? "moxie: stopped after %zu tokens (--max-tokens)\n"
		                      : "moxie: the context is full after %zu tokens, the answer is not whole (--context-length)\n", r->n_out);
		return asked ? 0 : EXIT_FAIL;
	}
	if (!a->final.n && !o->raw)
		fputs("moxie: the model ended without a final answer; --show-reasoning yes shows what it thought\n", stderr);
	return 0;
}

static int answer_one(moxie_model *m, const struct opts *o, const struct text *prompt)
{
	struct moxie_err err = { 0 };
	struct moxie_sampling sp;
	struct id_list ids = { 0 };
	moxie_session *s = NULL;
	int rc = model_sampling(m, o, &sp);
	if (rc)
		return rc;
	rc = prompt_ids(m, o, prompt, &ids, &err);
	if (!rc)
		rc = moxie_session_create(&s, m, &(struct moxie_session_params){ .struct_size = sizeof(struct moxie_session_params), .n_ctx = o->n_ctx },
		                          &err);
	if (rc) {
		free(ids.id);
		return lib_error(&err);
	}
	struct answer a;
	struct moxie_generate_result r;
	answer_init(&a, o);
	rc = answer_generate(&a, s, &ids, o, &sp, &r, &err);
	if (rc) {
		rc = lib_error(&err);
		if (a.final.n)
			fputs("moxie: the answer above is not whole\n", stderr);
	} else {
		rc = report_finish(o, &a, &r);
		if (o->stats)
			print_stats(stderr, m, s, &r);
	}
	answer_free(&a);
	moxie_session_free(s);
	free(ids.id);
	return rc;
}

int run_main(struct opts *o)
{
	moxie_model *m;
	struct text prompt = { 0 };
	int rc = model_choose(o, opts_given_in_argv(o, "prompt"));
	if (!rc)
		rc = take_prompt(o, &prompt);
	if (rc)
		goto out;
	if (!prompt.n) {
		rc = bad_input("the prompt is empty");
		goto out;
	}
	catch_interrupt(false);
	rc = model_open(&m, o, 1);
	if (rc)
		goto out;
	rc = answer_one(m, o, &prompt);
	moxie_model_free(m);
out:
	free(prompt.p);
	return rc;
}

static void print_token(const moxie_model *m, int32_t id)
{
	char text[1024];
	size_t n = 0;
	if (moxie_detokenize(m, &id, 1, 1, text, sizeof text, &n, NULL))
		n = 0;
	printf("%7d  \"", (int)id);
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)text[i];
		if (c == '\n')
			printf("\\n");
		else if (c == '"' || c == '\\')
			printf("\\%c", c);
		else if (c < 0x20 || c == 0x7f)
			printf("\\x%02x", c);
		else
			putchar(c);
	}
	printf("\"\n");
}

int tokenize_main(struct opts *o)
{
	moxie_model *m;
	struct moxie_err err = { 0 };
	struct text prompt = { 0 };
	struct id_list ids = { 0 };
	int rc = model_choose(o, opts_given_in_argv(o, "prompt"));
	if (!rc)
		rc = take_prompt(o, &prompt);
	if (!rc)
		rc = model_open(&m, o, 1);
	if (rc)
		goto out;
	rc = ids_of_text(m, prompt.p ? prompt.p : "", prompt.n, o->specials, &ids, &err) ? lib_error(&err) : 0;
	for (size_t i = 0; !rc && i < ids.n; i++) {
		if (o->ids)
			printf("%d%c", (int)ids.id[i], i + 1 < ids.n ? ' ' : '\n');
		else
			print_token(m, ids.id[i]);
	}
	free(ids.id);
	moxie_model_free(m);
out:
	free(prompt.p);
	return rc;
}
