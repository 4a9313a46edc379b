/* answer.c - an answer on its way to the screen: reasoning dimmed or aside, the final text on stdout, both kept for the next turn. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

#define DIM "\033[2m"
#define PLAIN "\033[0m"

void text_add(struct text *t, const char *p, size_t n)
{
	if (t->n + n + 1 > t->cap) {
		size_t cap = t->n + n + 1 > 2 * t->cap ? t->n + n + 1 : 2 * t->cap;
		char *q = realloc(t->p, cap);
		if (!q) {
			fprintf(stderr, "moxie: out of memory: %zu bytes of text\n", cap);
			exit(EXIT_FAIL);
		}
		t->p = q, t->cap = cap;
	}
	memcpy(t->p + t->n, p, n);
	t->n += n;
	t->p[t->n] = 0;
}

void answer_init(struct answer *a, const struct opts *o)
{
	const char *show = o->show_reasoning, *term = getenv("TERM");
	bool tty = isatty(STDOUT_FILENO);
	*a = (struct answer){ .tty = tty, .at_line_start = true };
	a->style = tty && !getenv("NO_COLOR") && term && strcmp(term, "dumb");
	if (!strcmp(show, "yes"))
		a->reason_to = tty ? stdout : stderr;
	else if (!strcmp(show, "auto") && tty)
		a->reason_to = stdout;
}

static bool is_reasoning(const char *channel)
{
	return !strcmp(channel, "analysis");
}

/* A terminal gets no control characters of the model's making but newline and tab. */
static void put_text(const struct answer *a, FILE *f, const char *p, size_t n)
{
	if (!a->tty && f == stdout) {
		fwrite(p, 1, n, f);
		return;
	}
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)p[i];
		bool c1 = c == 0xc2 && i + 1 < n && (unsigned char)p[i + 1] < 0xa0;
		i += c1;
		fputc(c1 || c == 0x7f || (c < 0x20 && c != '\n' && c != '\t') ? '?' : c, f);
	}
}

static void leave_reasoning(struct answer *a)
{
	if (!a->in_reason)
		return;
	a->in_reason = false;
	if (a->style)
		fputs(PLAIN, a->reason_to);
	fputs(a->at_line_start ? "" : "\n", a->reason_to);
	if (a->reason_to == stdout)
		fputc('\n', stdout);
	fflush(a->reason_to);
	a->at_line_start = true;
}

static void remember(struct answer *a, const struct moxie_event *ev)
{
	if (!a->msg_open) {
		struct moxie_message *msg = realloc(a->msg, (a->n_msg + 1) * sizeof *msg);
		char *channel = strdup(ev->channel);
		if (!msg || !channel) {
			fputs("moxie: out of memory for the answer\n", stderr);
			exit(EXIT_FAIL);
		}
		a->msg = msg;
		msg[a->n_msg++] = (struct moxie_message){ .role = MOXIE_ROLE_ASSISTANT, .channel = *channel ? channel : NULL };
		if (!*channel)
			free(channel);
		a->msg_open = true;
	}
	struct moxie_message *m = &a->msg[a->n_msg - 1];
	size_t n = m->content ? strlen(m->content) : 0;
	struct text t = { (char *)m->content, n, m->content ? n + 1 : 0 };
	text_add(&t, ev->text, ev->n_text);
	m->content = t.p;
}

int answer_event(void *ud, const struct moxie_event *ev, int32_t id)
{
	struct answer *a = ud;
	(void)id;
	if (ev->n_text) {
		remember(a, ev);
		if (is_reasoning(ev->channel)) {
			if (a->reason_to) {
				if (!a->in_reason && a->style)
					fputs(DIM, a->reason_to);
				a->in_reason = true;
				put_text(a, a->reason_to, ev->text, ev->n_text);
				fflush(a->reason_to);
				a->at_line_start = ev->text[ev->n_text - 1] == '\n';
			}
		} else {
			leave_reasoning(a);
			text_add(&a->final, ev->text, ev->n_text);
			put_text(a, stdout, ev->text, ev->n_text);
			fflush(stdout);
			a->at_line_start = ev->text[ev->n_text - 1] == '\n';
		}
	}
	if (ev->kind == MOXIE_EV_END || ev->kind == MOXIE_EV_CALL || ev->kind == MOXIE_EV_RETURN) {
		a->msg_open = false;
		if (!a->in_reason && !a->at_line_start && ev->kind == MOXIE_EV_END) {
			fputc('\n', stdout);
			a->at_line_start = true;
		}
	}
	return interrupted || ferror(stdout);
}

void answer_end(struct answer *a)
{
	leave_reasoning(a);
	if (!a->at_line_start && a->final.n)
		fputc('\n', stdout);
	a->at_line_start = true;
	fflush(stdout);
}

void answer_free(struct answer *a)
{
	for (size_t i = 0; i < a->n_msg; i++) {
		free((char *)a->msg[i].content);
		free((char *)a->msg[i].channel);
	}
	free(a->msg);
	free(a->final.p);
	a->msg = NULL, a->final.p = NULL, a->n_msg = a->final.n = a->final.cap = 0;
}

int answer_generate(struct answer *a, moxie_session *s, const struct id_list *ids, const struct opts *o, const struct moxie_sampling *sp,
                    struct moxie_generate_result *r, struct moxie_err *err)
{
	struct moxie_generate_params p = {
		.struct_size = sizeof p,
		.sampling = *sp,
		.max_tokens = o->max_tokens,
		.raw = o->raw,
		.ignore_eos = o->ignore_eos,
		.stop = o->stop,
		.n_stop = (size_t)o->n_stop,
		.on_event = answer_event,
		.ud = a,
	};
	int rc;
	do { /* a Ctrl-C that came just after the last answer is not meant for this one */
		*r = (struct moxie_generate_result){ .struct_size = sizeof *r };
		cancel_on_interrupt(s);
		rc = moxie_generate(s, ids->id, ids->n, &p, r, err);
		cancel_on_interrupt(NULL);
	} while (rc == 0 && r->finish == MOXIE_FINISH_CANCEL && !interrupted && !ferror(stdout) && r->n_out == 0);
	answer_end(a);
	return rc;
}
