/* eval.c - `moxie eval`: asks a file's questions, several at a time, and counts the right answers. */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "eval.h"

/* One question under way. */
struct lane {
	moxie_session *s;
	moxie_parser *parser;
	int item;             /* -1: idle */
	struct text final, reason;
	size_t n_prompt, n_out;
	int32_t id;           /* picked, not yet consumed */
};

static void note(const struct eval *e, char *text, size_t cap)
{
	snprintf(text, cap, "%d right, %.1f %%", e->n_right, e->n_done ? 100.0 * e->n_right / e->n_done : 0.0);
}

static int write_row(const struct eval *e, const struct answered *a, const char *taken, bool right)
{
	const struct question *q = &e->q[a->item];
	json_t *row = json_pack("{s:i, s:s, s:s, s:s, s:b, s:s, s:I, s:I, s:s, s:s}", "index", a->item, "question", q->prompt, "gold", q->gold,
	                        "taken", taken, "correct", right, "finish", a->cut ? "length" : "stop", "n_prompt", (json_int_t)a->n_prompt, "n_out",
	                        (json_int_t)a->n_out, "final", a->final ? a->final : "", "analysis", a->reason ? a->reason : "");
	bool ok = row && json_dumpf(row, e->out, JSON_COMPACT) == 0 && fputc('\n', e->out) != EOF;
	json_decref(row);
	return ok ? 0 : flush_or_fail(e->out, e->o->output) ? EXIT_FAIL : (bad_input("%s: a row could not be written", e->o->output), EXIT_FAIL);
}

int eval_take(struct eval *e, const struct answered *a)
{
	const struct question *q = &e->q[a->item];
	char taken[64] = "", text[48];
	bool right = a->final && e->task->right(q, a->final, taken, sizeof taken);
	e->n_done++;
	e->n_right += right;
	e->n_cut += a->cut;
	if (!right && e->o->show_wrong) {
		progress_end(&e->bar);
		printf("-- %d: %s\n   wanted: %s\n   got: %s%s\n", a->item, q->prompt, q->says ? q->says : q->gold,
		       a->final ? a->final : "(no final answer)", a->cut ? " (cut)" : "");
		fflush(stdout);
	}
	int rc = e->out ? write_row(e, a, taken, right) : 0;
	note(e, text, sizeof text);
	progress_show(&e->bar, (uint64_t)e->n_done, (uint64_t)e->n, text);
	return rc;
}

static int lane_finish(struct eval *e, struct lane *l, bool cut)
{
	struct answered a = { l->item, l->final.p, l->reason.p, l->n_prompt, l->n_out, cut };
	l->item = -1;
	return eval_take(e, &a);
}

/* Both return 0 or a negative moxie_status, with e->err filled. */
static int lane_take(struct eval *e, struct lane *l, const struct moxie_event *ev)
{
	(void)e;
	if (ev->n_text)
		text_add(!strcmp(ev->channel, "analysis") ? &l->reason : &l->final, ev->text, ev->n_text);
	return 0;
}

static int lane_start(struct eval *e, struct lane *l, int item)
{
	struct id_list ids;
	struct moxie_message msg = { .role = MOXIE_ROLE_USER, .content = e->q[item].prompt };
	struct moxie_event ev;
	int rc = ids_of_chat(e->m, e->o, &msg, 1, &ids, &e->err);
	if (rc)
		return rc;
	size_t kept = moxie_session_reuse(l->s, ids.id, ids.n);
	rc = moxie_session_append(l->s, ids.id + kept, ids.n - kept, &e->err);
	free(ids.id);
	if (rc)
		return rc;
	l->item = item;
	l->n_prompt = ids.n;
	l->n_out = 0;
	free(l->final.p), free(l->reason.p);
	l->final = l->reason = (struct text){ 0 };
	return moxie_parser_finish(l->parser, &ev); /* only resets it */
}

/* Picks the next token of a lane.  0: it wants to be stepped; 1: the answer ended; negative: status. */
static int lane_pick(struct eval *e, struct lane *l, bool *cut)
{
	struct moxie_sampling sp = e->sp;
	struct moxie_event ev;
	sp.seed += (uint64_t)l->item;
	int rc = moxie_session_sample(l->s, &sp, &l->id, &e->err);
	if (rc)
		return rc;
	l->n_out++;
	e->n_tok++;
	rc = moxie_parser_push(l->parser, l->id, &ev);
	if (!rc)
		rc = lane_take(e, l, &ev);
	if (rc)
		return rc;
	struct moxie_model_info info = { .struct_size = sizeof info };
	moxie_model_get_info(e->m, &info);
	size_t n_ctx = (size_t)(e->o->n_ctx ? e->o->n_ctx : info.n_ctx < 8192 ? info.n_ctx : 8192);
	bool eos = moxie_is_eos(e->m, l->id);
	*cut = !eos && ((e->o->max_tokens && l->n_out >= (size_t)e->o->max_tokens) || moxie_session_n_tok(l->s) >= n_ctx);
	if (!eos && !*cut)
		return 0;
	rc = moxie_parser_finish(l->parser, &ev);
	return rc ? rc : lane_take(e, l, &ev) ? rc : 1;
}

/* Until every question is answered.  Returns 0 or an exit code. */
static int ask_all(struct eval *e, struct lane *lane, int n_lane)
{
	for (;;) {
		moxie_session *s[256];
		int32_t id[256];
		int n = 0, rc;
		for (int i = 0; i < n_lane; i++) {
			struct lane *l = &lane[i];
			bool cut = false;
			do {
				if (interrupted)
					return fputs("moxie: interrupted\n", stderr), EXIT_INTERRUPT;
				if (l->item < 0 && e->next == e->n)
					break;
				rc = l->item < 0 ? lane_start(e, l, e->next++) : 0;
				if (!rc)
					rc = lane_pick(e, l, &cut);
				if (rc < 0)
					return lib_error(&e->err);
				if (rc > 0 && (rc = lane_finish(e, l, cut)))
					return rc;
			} while (l->item < 0);
			if (l->item >= 0)
				s[n] = l->s, id[n++] = l->id;
		}
		if (!n)
			return 0;
		if (moxie_step(s, id, n, &e->err))
			return lib_error(&e->err);
	}
}

static int lanes_create(struct eval *e, struct lane *lane, int n)
{
	struct moxie_session_params sp = { .struct_size = sizeof sp, .n_ctx = e->o->n_ctx };
	for (int i = 0; i < n; i++) {
		lane[i] = (struct lane){ .item = -1 };
		if (moxie_session_create(&lane[i].s, e->m, &sp, &e->err) || moxie_parser_create(&lane[i].parser, e->m, &e->err))
			return lib_error(&e->err);
	}
	return 0;
}

static void lanes_free(struct lane *lane, int n)
{
	for (int i = 0; i < n; i++) {
		moxie_parser_free(lane[i].parser);
		if (lane[i].s)
			moxie_session_free(lane[i].s);
		free(lane[i].final.p), free(lane[i].reason.p);
	}
}

void eval_print(const struct eval *e, const char *path, double seconds)
{
	double p = e->n_done ? (double)e->n_right / e->n_done : 0, se = e->n_done ? sqrt(p * (1 - p) / e->n_done) : 0;
	printf("%s%s: %d of %d right, %.1f %% +- %.1f %% (standard error)\n", e->n_done < e->n ? "not finished: " : "", path, e->n_right, e->n_done,
	       100 * p, 100 * se);
	printf("%zu tokens in %.1f s, %.0f tok/s", e->n_tok, seconds, (double)e->n_tok / (seconds + 1e-9));
	if (e->n_cut)
		printf("; %d answers were cut by the length limit", e->n_cut);
	putchar('\n');
}

static int run_eval(struct eval *e, const char *path)
{
	int n_lane = e->o->parallel < e->n ? e->o->parallel : e->n;
	struct lane *lane = calloc((size_t)n_lane, sizeof *lane);
	int rc = model_open(&e->m, e->o, n_lane);
	if (rc || !lane) {
		free(lane);
		return rc ? rc : EXIT_FAIL;
	}
	rc = model_sampling(e->m, e->o, &e->sp);
	if (!rc)
		rc = lanes_create(e, lane, n_lane);
	double start = now();
	progress_begin(&e->bar, e->task->name, false);
	if (!rc) {
		rc = ask_all(e, lane, n_lane);
		progress_end(&e->bar);
		eval_print(e, path, now() - start);
	}
	lanes_free(lane, n_lane);
	free(lane);
	moxie_model_free(e->m);
	return rc;
}

/* The questions that ship with the source: wordmath needs no file there. */
static const char *default_file(const struct task *t)
{
	static const char path[] = "tests/vectors/wordmath_heldout.jsonl";
	return !strcmp(t->name, "wordmath") && access(path, R_OK) == 0 ? path : NULL;
}

int eval_main(struct opts *o)
{
	struct eval e = { .o = o, .task = o->n_arg ? task_by_name(o->arg[0]) : NULL };
	if (!e.task)
		return bad_input("%s%s%s; usage: moxie eval wordmath|gsm8k|gpqa FILE.jsonl", o->n_arg ? "unknown kind of questions \"" : "what to ask is missing",
		                 o->n_arg ? o->arg[0] : "", o->n_arg ? "\"" : "");
	const char *path = o->n_arg > 1 ? o->arg[1] : default_file(e.task);
	if (!path || o->n_arg > 2)
		return bad_input("%s; usage: moxie eval %s FILE.jsonl", path ? "too many arguments" : "FILE is missing", e.task->name);
	o->n_arg = 0;
	int rc = o->base_url ? 0 : model_choose(o, true);
	if (!rc)
		rc = questions_read(e.task, path, o->limit, o->seed, &e.q, &e.n);
	if (rc)
		return rc;
	if (o->output && !(e.out = fopen(o->output, "we")))
		rc = bad_input("%s: %s", o->output, strerror(errno));
	catch_interrupt(false);
	if (!rc)
		rc = o->base_url ? eval_remote(&e, path) : run_eval(&e, path);
	if (e.out) {
		int lost = flush_or_fail(e.out, o->output);
		fclose(e.out);
		rc = rc ? rc : lost;
	}
	questions_free(e.q, e.n);
	return rc;
}
