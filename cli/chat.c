/* chat.c - `moxie chat`: a conversation that remembers what was said. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

struct chat {
	struct opts *o;
	moxie_model *m;
	moxie_session *s;
	struct moxie_sampling sp;
	char *system;               /* or NULL */
	struct moxie_message *msg;  /* [n_msg]; the first is the system text, if there is one */
	size_t n_msg;
	bool tty;
	struct moxie_generate_result last;
};

static char *copy(const char *s)
{
	struct text t = { 0 };
	text_add(&t, s, strlen(s));
	return t.p;
}

static void add_message(struct chat *c, struct moxie_message msg)
{
	struct moxie_message *p = realloc(c->msg, (c->n_msg + 1) * sizeof *p);
	if (!p) {
		fputs("moxie: out of memory for the conversation\n", stderr);
		exit(EXIT_FAIL);
	}
	c->msg = p;
	p[c->n_msg++] = msg;
}

static void drop_messages(struct chat *c, size_t from, size_t to)
{
	if (from == to)
		return;
	for (size_t i = from; i < to; i++) {
		free((char *)c->msg[i].content);
		free((char *)c->msg[i].channel);
	}
	memmove(c->msg + from, c->msg + to, (c->n_msg - to) * sizeof *c->msg);
	c->n_msg -= to - from;
}

static size_t first_turn(const struct chat *c)
{
	return c->n_msg && c->msg[0].role == MOXIE_ROLE_DEVELOPER;
}

static void reset(struct chat *c)
{
	drop_messages(c, 0, c->n_msg);
	if (c->system && *c->system)
		add_message(c, (struct moxie_message){ .role = MOXIE_ROLE_DEVELOPER, .content = copy(c->system) });
}

/* Forgets the oldest question with its answer.  false: only the newest is left. */
static bool drop_oldest_turn(struct chat *c)
{
	size_t from = first_turn(c), to = from + 1;
	while (to < c->n_msg && c->msg[to].role != MOXIE_ROLE_USER)
		to++;
	if (to >= c->n_msg)
		return false;
	drop_messages(c, from, to);
	return true;
}

static void say(const struct chat *c, const char *text)
{
	fprintf(stderr, c->tty && isatty(STDERR_FILENO) ? "\033[2m(%s)\033[0m\n" : "(%s)\n", text);
}

/* The answer becomes part of the conversation if it says something; else the question is taken back too. */
static void keep_answer(struct chat *c, struct answer *a, size_t asked_at)
{
	if (!a->final.n) {
		drop_messages(c, asked_at, c->n_msg);
		say(c, "no final answer; the question is forgotten");
		return;
	}
	for (size_t i = 0; i < a->n_msg; i++)
		add_message(c, a->msg[i]);
	a->n_msg = 0;
}

/* Returns 0 or an exit code that ends the chat. */
static int ask(struct chat *c, char *question)
{
	struct moxie_err err = { 0 };
	struct id_list ids;
	struct answer a;
	int rc;
	add_message(c, (struct moxie_message){ .role = MOXIE_ROLE_USER, .content = question });
	interrupted = 0;
	answer_init(&a, c->o);
	bool dropped = false, full;
	do {
		rc = ids_of_chat(c->m, c->o, c->msg, c->n_msg, &ids, &err);
		if (!rc)
			rc = answer_generate(&a, c->s, &ids, c->o, &c->sp, &c->last, &err);
		free(ids.id);
		full = rc == MOXIE_E_KV_FULL && drop_oldest_turn(c);
		dropped |= full;
	} while (full);
	size_t asked_at = c->n_msg - 1;
	if (rc) {
		int code = lib_error(&err);
		drop_messages(c, asked_at, c->n_msg);
		answer_free(&a);
		return code == EXIT_FAIL ? code : 0;
	}
	if (dropped)
		say(c, "the context was full: the oldest turns are forgotten");
	keep_answer(c, &a, asked_at);
	if (c->last.finish == MOXIE_FINISH_CANCEL)
		say(c, "stopped");
	else if (c->last.finish == MOXIE_FINISH_LENGTH)
		say(c, c->o->max_tokens ? "stopped by --max-tokens" : "the context is full: the answer is not whole");
	if (c->o->stats)
		print_stats(stderr, c->m, c->s, &c->last);
	answer_free(&a);
	return ferror(stdout) ? EXIT_FAIL : 0;
}

static const char help[] = "/reset           forget the conversation\n"
                           "/system TEXT     new instructions, and forget the conversation; without TEXT: none\n"
                           "/effort LEVEL    low, medium or high\n"
                           "/stats           speed of the last answer\n"
                           "/quit            or Ctrl-D\n"
                           "Ctrl-C stops an answer.  A line that ends with \\ goes on in the next.\n";

/* One of the lines that begin with '/'.  true: quit. */
static bool command(struct chat *c, const char *line)
{
	size_t n = strcspn(line, " ");
	const char *rest = line + n + strspn(line + n, " ");
	if (n == 5 && !memcmp(line, "/quit", 5))
		return true;
	if (n == 5 && !memcmp(line, "/help", 5)) {
		fputs(help, stderr);
	} else if (n == 6 && !memcmp(line, "/reset", 6)) {
		reset(c);
		say(c, "forgotten");
	} else if (n == 7 && !memcmp(line, "/system", 7)) {
		free(c->system);
		c->system = copy(rest);
		reset(c);
		say(c, *rest ? "new instructions; the conversation starts anew" : "no instructions; the conversation starts anew");
	} else if (n == 7 && !memcmp(line, "/effort", 7)) {
		static const char *const level[] = { "low", "medium", "high" };
		int i = 0;
		while (i < 3 && strcmp(rest, level[i]))
			i++;
		if (i < 3)
			c->o->effort = level[i];
		say(c, i < 3 ? level[i] : "the levels are low, medium, high");
	} else if (n == 6 && !memcmp(line, "/stats", 6)) {
		if (c->last.n_out)
			print_stats(stderr, c->m, c->s, &c->last);
		else
			say(c, "nothing was answered yet");
	} else {
		say(c, "unknown command; /help lists them");
	}
	return false;
}

/* A question: one line, or several where each but the last ends with a backslash.  NULL: end of input. */
static char *read_question(void)
{
	struct text t = { 0 };
	for (;;) {
		char *line = line_read(t.p ? "... " : "> ");
		if (!line)
			break;
		size_t n = strlen(line);
		bool more = n && line[n - 1] == '\\';
		text_add(&t, line, n - more);
		if (more)
			text_add(&t, "\n", 1);
		free(line);
		if (!more)
			break;
	}
	return t.p;
}

static int converse(struct chat *c)
{
	int rc = 0;
	reset(c);
	while (!rc) {
		char *line = read_question();
		if (!line)
			break;
		if (!line[strspn(line, " \t\n")]) {
			free(line);
		} else if (*line == '/') {
			bool quit = command(c, line);
			free(line);
			if (quit)
				break;
		} else {
			rc = ask(c, line); /* takes line */
			interrupted = 0;
			if (c->tty)
				putchar('\n');
		}
	}
	return rc || !interrupted ? rc : EXIT_INTERRUPT;
}

int chat_main(struct opts *o)
{
	struct chat c = { .o = o, .tty = isatty(STDOUT_FILENO) };
	struct moxie_err err = { 0 };
	int rc = model_choose(o, true);
	if (rc)
		return rc;
	catch_interrupt(false);
	rc = model_open(&c.m, o, 1);
	if (rc)
		return rc;
	catch_interrupt(true);
	rc = model_sampling(c.m, o, &c.sp);
	struct moxie_session_params sp = { .struct_size = sizeof sp, .n_ctx = o->n_ctx };
	if (!rc && moxie_session_create(&c.s, c.m, &sp, &err))
		rc = lib_error(&err);
	if (!rc) {
		c.system = o->system ? copy(o->system) : NULL;
		if (c.tty && isatty(STDIN_FILENO))
			fprintf(stderr, "%s.  /help lists commands, Ctrl-C stops an answer, Ctrl-D quits.\n", o->model);
		rc = converse(&c);
	}
	drop_messages(&c, 0, c.n_msg);
	free(c.msg);
	free(c.system);
	moxie_session_free(c.s);
	moxie_model_free(c.m);
	return rc;
}
