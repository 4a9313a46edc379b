/* out.c - what a job answers: chunks of a stream as the tokens come, or one body at the end. */
#include <stdlib.h>
#include <string.h>

#include "base/host.h"
#include "serve/serve_int.h"

static const char *finish_word(const struct part *p)
{
	switch (p->result.finish) {
	case MOXIE_FINISH_LENGTH:
		return "length";
	case MOXIE_FINISH_CANCEL:
		return "abort";
	default:
		return p->n_call ? "tool_calls" : "stop";
	}
}

/* ---- chunks --------------------------------------------------------------------------------------------------------------- */

static struct buf *chunk_begin(struct job *j)
{
	struct buf *b = &j->s->scratch;
	b->n = 0;
	buf_puts(b, "data: ");
	return b;
}

static bool chunk_end(struct job *j)
{
	struct buf *b = &j->s->scratch;
	return buf_append(b, "\n\n", 2) && stream_add(j->s, j->req, b);
}

static void put_openai_head(struct job *j, struct buf *b, const char *object)
{
	buf_puts(b, "{\"id\":");
	json_cstr(b, j->rid);
	buf_printf(b, ",\"object\":\"%s\",\"created\":%ld,\"model\":", object, j->created);
	json_cstr(b, j->s->p.model_name);
}

/* As llama-server tells them. */
static void put_timings(const struct moxie_generate_result *r, struct buf *b)
{
	size_t n_prompt = r->n_prompt - r->n_reused, n_out = r->n_out ? r->n_out - 1 : 0; /* the first comes with the prompt */
	buf_printf(b, ",\"timings\":{\"cache_n\":%zu,\"prompt_n\":%zu,\"prompt_ms\":%.3f,\"prompt_per_second\":%.3f,"
	              "\"predicted_n\":%zu,\"predicted_ms\":%.3f,\"predicted_per_second\":%.3f}",
	           r->n_reused, n_prompt, 1e3 * r->prefill_seconds, r->prefill_seconds > 0 ? (double)n_prompt / r->prefill_seconds : 0,
	           r->n_out, 1e3 * r->decode_seconds, r->decode_seconds > 0 ? (double)n_out / r->decode_seconds : 0);
}

static void put_usage(struct job *j, struct buf *b)
{
	size_t in = 0, out = 0, cached = 0, thought = 0;
	for (int i = 0; i < j->n_part; i++) {
		const struct part *p = &j->part[i];
		if (i % j->n == 0) { /* a prompt counts once, however many answers it gets */
			in += p->result.n_prompt;
			cached += p->result.n_reused;
		}
		out += p->result.n_out;
		thought += (size_t)p->n_reasoning;
	}
	buf_printf(b, ",\"usage\":{\"prompt_tokens\":%zu,\"completion_tokens\":%zu,\"total_tokens\":%zu,"
	              "\"prompt_tokens_details\":{\"cached_tokens\":%zu}", in, out, in + out, cached);
	if (j->kind == JOB_CHAT)
		buf_printf(b, ",\"completion_tokens_details\":{\"reasoning_tokens\":%zu}", thought);
	buf_puts(b, "}");
	if (j->n_part == 1)
		put_timings(&j->part[0].result, b);
}

static struct buf *choice_begin(struct part *p)
{
	struct job *j = p->job;
	struct buf *b = chunk_begin(j);
	put_openai_head(j, b, j->kind == JOB_CHAT ? "chat.completion.chunk" : "text_completion");
	buf_printf(b, ",\"choices\":[{\"index\":%d,\"%s\":", p->index, j->kind == JOB_CHAT ? "delta" : "text");
	return b;
}

static bool choice_end(struct part *p, const char *finish)
{
	struct buf *b = &p->job->s->scratch;
	probs_put(p, b);
	buf_printf(b, finish ? ",\"finish_reason\":\"%s\"}]}" : ",\"finish_reason\":null}]}", finish);
	return chunk_end(p->job);
}

static bool chunk_chat(struct part *p, const struct item *it, const char *text)
{
	struct buf *b = choice_begin(p);
	switch (it->kind) {
	case IT_REASONING:
	case IT_CONTENT:
		buf_printf(b, "{\"%s\":", it->kind == IT_CONTENT ? "content" : p->job->s->p.reasoning_field);
		json_str(b, text, it->n_text);
		buf_puts(b, "}");
		break;
	case IT_CALL: {
		const struct call *c = &p->call[p->n_call - 1];
		buf_printf(b, "{\"tool_calls\":[{\"index\":%zu,\"id\":", p->n_call - 1);
		json_cstr(b, c->id);
		buf_puts(b, ",\"type\":\"function\",\"function\":{\"name\":");
		json_str(b, c->name.p, c->name.n);
		buf_puts(b, ",\"arguments\":\"\"}}]}");
		break;
	}
	default:
		buf_printf(b, "{\"tool_calls\":[{\"index\":%zu,\"function\":{\"arguments\":", p->n_call - 1);
		json_str(b, text, it->n_text);
		buf_puts(b, "}}]}");
	}
	return choice_end(p, NULL);
}

/* ---- the native answer -------------------------------------------------------------------------------------------------------- */

static void put_generate(struct part *p, struct buf *b, const char *text, size_t n_text)
{
	struct job *j = p->job;
	const struct moxie_generate_result *r = &p->result; /* the engine's until finished */
	buf_puts(b, "{\"text\":");
	json_str(b, text, n_text);
	if (p->finished) {
		buf_puts(b, ",\"output_ids\":[");
		for (size_t i = 0; i < p->output.n; i++)
			buf_printf(b, i ? ",%d" : "%d", p->output.v[i]);
		buf_puts(b, "]");
	}
	buf_puts(b, ",\"meta_info\":{\"id\":");
	json_cstr(b, j->rid);
	if (!p->finished)
		buf_puts(b, ",\"finish_reason\":null");
	else if (r->finish == MOXIE_FINISH_LENGTH)
		buf_printf(b, ",\"finish_reason\":{\"type\":\"length\",\"length\":%zu}", r->n_out);
	else
		buf_printf(b, ",\"finish_reason\":{\"type\":\"%s\"}", finish_word(p));
	buf_printf(b, ",\"prompt_tokens\":%zu,\"completion_tokens\":%zu,\"cached_tokens\":%zu,\"e2e_latency\":%.6f",
	           p->prompt.n, p->finished ? r->n_out : (size_t)p->n_tok, p->finished ? r->n_reused : 0, host_now() - j->start);
	probs_put_native(p, b);
	buf_puts(b, "}");
	if (j->is_batch)
		buf_printf(b, ",\"index\":%d", p->index);
	buf_puts(b, "}");
}

static bool chunk_generate(struct part *p, const char *text, size_t n_text)
{
	bool all = !p->job->s->p.incremental_stream;
	put_generate(p, chunk_begin(p->job), all ? (p->content.n ? p->content.p : "") : text, all ? p->content.n : n_text);
	return chunk_end(p->job);
}

/* ---- what comes ----------------------------------------------------------------------------------------------------------------- */

static bool add_call(struct part *p, const char *name, size_t n)
{
	struct call *c = realloc(p->call, (p->n_call + 1) * sizeof *c);
	if (!c)
		return false;
	p->call = c;
	c += p->n_call++;
	*c = (struct call){ 0 };
	const char *own = strrchr(p->job->rid, '-');
	struct buf id = { 0 };
	bool ok = buf_printf(&id, "call_%s_%d_%zu", own ? own + 1 : p->job->rid, p->index, p->n_call - 1);
	c->id = id.p;
	size_t skip = n > 10 && !memcmp(name, "functions.", 10) ? 10 : 0;
	return ok && buf_append(&c->name, name + skip, n - skip);
}

static bool keep(struct part *p, const struct item *it, const char *text)
{
	struct job *j = p->job;
	if (it->is_token && j->kind == JOB_GENERATE && !ids_push(&p->output, it->id))
		return false;
	if (it->n_probs && !probs_add(p, it))
		return false;
	if (it->kind == IT_PROMPT)
		return true;
	if (it->kind == IT_CALL)
		return add_call(p, text, it->n_text);
	if (!it->n_text || j->kind == JOB_RESPONSE || (j->stream && j->kind != JOB_GENERATE))
		return true;
	struct buf *to = it->kind == IT_REASONING ? &p->reasoning : it->kind == IT_CONTENT ? &p->content
	               : p->n_call ? &p->call[p->n_call - 1].arguments : NULL;
	return !to || buf_append(to, text, it->n_text);
}

bool out_item(struct part *p, const struct item *it, const char *text)
{
	struct job *j = p->job;
	if (!keep(p, it, text))
		return false;
	if (j->kind == JOB_RESPONSE)
		return resp_item(p, it, text);
	if (!j->stream || it->kind == IT_PROMPT)
		return true;
	if (j->kind == JOB_GENERATE)
		return !it->is_token && !it->n_text ? true : chunk_generate(p, text, it->n_text);
	if (it->kind == IT_NOTHING)
		return true;
	if (j->kind == JOB_CHAT)
		return (it->kind != IT_ARGUMENTS || p->n_call) && it->n_text ? chunk_chat(p, it, text) : true;
	json_str(choice_begin(p), text, it->n_text);
	return choice_end(p, NULL);
}

bool out_begin(struct job *j)
{
	j->started = true;
	if (j->kind == JOB_RESPONSE)
		return resp_begin(j);
	bool ok = stream_begin(j->s, j->req);
	for (int i = 0; ok && j->kind == JOB_CHAT && i < j->n_part; i++) {
		buf_puts(choice_begin(&j->part[i]), "{\"role\":\"assistant\",\"content\":\"\"}");
		ok = choice_end(&j->part[i], NULL);
	}
	for (int i = 0; ok && j->echo && i < j->n_part; i++) {
		struct part *p = &j->part[i];
		json_str(choice_begin(p), p->echo.n ? p->echo.p : "", p->echo.n);
		ok = choice_end(p, NULL);
	}
	return ok;
}

bool out_part_end(struct part *p)
{
	struct job *j = p->job;
	if (!j->stream || j->kind == JOB_RESPONSE)
		return true;
	if (p->status < 0) {
		const char *text;
		p->err.code = p->status;
		int code = error_of_engine(j->s, &p->err, &text);
		error_write(chunk_begin(j), code, NULL, text);
		return chunk_end(j);
	}
	if (j->kind == JOB_GENERATE)
		return chunk_generate(p, "", 0);
	buf_puts(choice_begin(p), j->kind == JOB_CHAT ? "{}" : "\"\"");
	return choice_end(p, finish_word(p));
}

/* ---- whole answers ------------------------------------------------------------------------------------------------------------- */

static void put_message(struct part *p, struct buf *b)
{
	buf_puts(b, "{\"role\":\"assistant\",\"content\":");
	if (p->content.n || !p->n_call)
		json_str(b, p->content.n ? p->content.p : "", p->content.n);
	else
		buf_puts(b, "null");
	if (p->reasoning.n) {
		buf_printf(b, ",\"%s\":", p->job->s->p.reasoning_field);
		json_str(b, p->reasoning.p, p->reasoning.n);
	}
	for (size_t i = 0; i < p->n_call; i++) {
		const struct call *c = &p->call[i];
		buf_puts(b, i ? ",{\"id\":" : ",\"tool_calls\":[{\"id\":");
		json_cstr(b, c->id);
		buf_puts(b, ",\"type\":\"function\",\"function\":{\"name\":");
		json_str(b, c->name.p, c->name.n);
		buf_puts(b, ",\"arguments\":");
		json_str(b, c->arguments.n ? c->arguments.p : "", c->arguments.n);
		buf_puts(b, "}}");
	}
	buf_puts(b, p->n_call ? "]}" : "}");
}

static void put_openai(struct job *j, struct buf *b)
{
	put_openai_head(j, b, j->kind == JOB_CHAT ? "chat.completion" : "text_completion");
	buf_puts(b, ",\"choices\":[");
	for (int i = 0; i < j->n_part; i++) {
		struct part *p = &j->part[i];
		buf_printf(b, "%s{\"index\":%d,\"%s\":", i ? "," : "", i, j->kind == JOB_CHAT ? "message" : "text");
		if (j->kind == JOB_CHAT)
			put_message(p, b);
		else if (!p->content.n || buf_append(&p->echo, p->content.p, p->content.n))
			json_str(b, p->echo.n ? p->echo.p : "", p->echo.n);
		probs_put(p, b);
		buf_printf(b, ",\"finish_reason\":\"%s\"}", finish_word(p));
	}
	buf_puts(b, "]");
	put_usage(j, b);
	buf_puts(b, "}");
}

static void put_natives(struct job *j, struct buf *b)
{
	buf_puts(b, j->is_batch ? "[" : "");
	for (int i = 0; i < j->n_part; i++) {
		buf_puts(b, i ? "," : "");
		put_generate(&j->part[i], b, j->part[i].content.n ? j->part[i].content.p : "", j->part[i].content.n);
	}
	buf_puts(b, j->is_batch ? "]" : "");
}

static void end_stream(struct job *j)
{
	struct server *s = j->s;
	if (j->include_usage) {
		struct buf *b = chunk_begin(j);
		put_openai_head(j, b, j->kind == JOB_CHAT ? "chat.completion.chunk" : "text_completion");
		buf_puts(b, ",\"choices\":[]");
		put_usage(j, b);
		buf_puts(b, "}");
		if (!chunk_end(j)) {
			job_drop(j);
			return;
		}
	}
	buf_puts(chunk_begin(j), "[DONE]");
	if (chunk_end(j))
		stream_end(s, job_release(j));
	else
		job_drop(j);
}

void out_end(struct job *j)
{
	struct server *s = j->s;
	if (j->stream) {
		(j->kind == JOB_RESPONSE ? resp_end : end_stream)(j);
		return;
	}
	for (int i = 0; i < j->n_part; i++) {
		struct part *p = &j->part[i];
		if (p->status < 0) {
			const char *text;
			p->err.code = p->status;
			int code = error_of_engine(s, &p->err, &text);
			reply_error(s, job_release(j), code, NULL, "%s", text);
			return;
		}
	}
	if (j->kind == JOB_RESPONSE) {
		resp_end(j);
		return;
	}
	struct buf b = { 0 };
	if (j->kind == JOB_HEALTH)
		buf_puts(&b, "{\"status\":\"ok\"}");
	else if (j->kind == JOB_GENERATE)
		put_natives(j, &b);
	else
		put_openai(j, &b);
	if (j->kind == JOB_HEALTH && j->part[0].result.finish == MOXIE_FINISH_CANCEL)
		reply_error(s, job_release(j), 503, NULL, "the server is shutting down");
	else
		reply_buf(s, job_release(j), 200, &b);
	buf_free(&b);
}
