/* resp_out.c - what /v1/responses answers: items (reasoning, messages, calls), whole or as the events that build them. */
#include <stdlib.h>
#include <string.h>

#include "serve/serve_int.h"

static const char *text_of(const struct buf *b)
{
	return b->n ? b->p : "";
}

static void put_string(struct buf *b, const char *before, const struct buf *text)
{
	buf_puts(b, before);
	json_str(b, text_of(text), text->n);
}

/* "msg_<id>_<index>" */
static void put_id(struct buf *b, const struct part *p, const struct resp_item *it)
{
	static const char *const prefix[] = { [IT_REASONING] = "rs", [IT_CONTENT] = "msg", [IT_CALL] = "fc" };
	const char *own = strchr(p->job->rid, '_');
	buf_printf(b, "\"%s_%s_%zu\"", prefix[it->kind], own ? own + 1 : p->job->rid, (size_t)(it - p->item));
}

/* The text part of a message or of reasoning. */
static void put_part(struct buf *b, const struct resp_item *it, bool empty)
{
	static const struct buf none;
	buf_puts(b, it->kind == IT_CONTENT ? "{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[]" : "{\"type\":\"reasoning_text\"");
	put_string(b, ",\"text\":", empty ? &none : &it->text);
	buf_puts(b, "}");
}

static void put_item(struct buf *b, const struct part *p, const struct resp_item *it, const char *status, bool empty)
{
	static const struct buf none;
	const struct call *c = it->kind == IT_CALL ? &p->call[it->call] : NULL;
	buf_puts(b, "{\"id\":");
	put_id(b, p, it);
	buf_printf(b, ",\"status\":\"%s\",", status);
	if (c) {
		buf_puts(b, "\"type\":\"function_call\",\"call_id\":");
		json_cstr(b, c->id);
		put_string(b, ",\"name\":", &c->name);
		put_string(b, ",\"arguments\":", empty ? &none : &c->arguments);
	} else {
		buf_puts(b, it->kind == IT_CONTENT ? "\"type\":\"message\",\"role\":\"assistant\",\"content\":["
		                                   : "\"type\":\"reasoning\",\"summary\":[],\"content\":[");
		if (!empty)
			put_part(b, it, false);
		buf_puts(b, "]");
	}
	buf_puts(b, "}");
}

static const char *status_of(const struct part *p)
{
	if (!p->finished)
		return "in_progress";
	if (p->status < 0)
		return "failed";
	return p->result.finish == MOXIE_FINISH_LENGTH ? "incomplete" : p->result.finish == MOXIE_FINISH_CANCEL ? "cancelled" : "completed";
}

static void put_error(struct buf *b, struct part *p)
{
	const char *text;
	p->err.code = p->status;
	error_of_engine(p->job->s, &p->err, &text);
	buf_puts(b, ",\"error\":{\"code\":\"server_error\",\"message\":");
	json_cstr(b, text);
	buf_puts(b, "}");
}

static void put_response(struct job *j, struct buf *b)
{
	struct part *p = &j->part[0];
	const struct moxie_generate_result *r = &p->result;
	const char *status = status_of(p);
	buf_puts(b, "{\"id\":");
	json_cstr(b, j->rid);
	buf_printf(b, ",\"object\":\"response\",\"created_at\":%ld,\"status\":\"%s\",\"model\":", j->created, status);
	json_cstr(b, j->s->p.model_name);
	if (p->finished && p->status < 0)
		put_error(b, p);
	else
		buf_puts(b, ",\"error\":null");
	buf_puts(b, strcmp(status, "incomplete") ? ",\"incomplete_details\":null,"
	                                         : ",\"incomplete_details\":{\"reason\":\"max_output_tokens\"},");
	buf_puts(b, text_of(&j->echo_fields));
	buf_puts(b, "\"previous_response_id\":null,\"store\":false,\"background\":false,\"truncation\":\"disabled\",\"output\":[");
	for (size_t i = 0; p->finished && i < p->n_item; i++) {
		buf_puts(b, i ? "," : "");
		put_item(b, p, &p->item[i], i + 1 == p->n_item && strcmp(status, "completed") ? "incomplete" : "completed", false);
	}
	buf_puts(b, "],\"usage\":");
	if (p->finished)
		buf_printf(b, "{\"input_tokens\":%zu,\"input_tokens_details\":{\"cached_tokens\":%zu},\"output_tokens\":%zu,"
		              "\"output_tokens_details\":{\"reasoning_tokens\":%d},\"total_tokens\":%zu}}",
		           r->n_prompt, r->n_reused, r->n_out, p->n_reasoning, r->n_prompt + r->n_out);
	else
		buf_puts(b, "null}");
}

/* ---- events ------------------------------------------------------------------------------------------------------------------ */

static struct buf *event_begin(struct job *j, const char *type)
{
	struct buf *b = &j->s->scratch;
	b->n = 0;
	buf_printf(b, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%d", type, type, j->n_event++);
	return b;
}

static bool event_end(struct job *j)
{
	struct buf *b = &j->s->scratch;
	return buf_puts(b, "}\n\n") && stream_add(j->s, j->req, b);
}

static bool event_response(struct job *j, const char *type)
{
	struct buf *b = event_begin(j, type);
	buf_puts(b, ",\"response\":");
	put_response(j, b);
	return event_end(j);
}

/* An event about item it; part: of its one part. */
static struct buf *event_item(struct part *p, const struct resp_item *it, const char *type, bool part)
{
	struct buf *b = event_begin(p->job, type);
	buf_printf(b, ",\"output_index\":%zu,\"item_id\":", (size_t)(it - p->item));
	put_id(b, p, it);
	if (part)
		buf_puts(b, ",\"content_index\":0");
	return b;
}

static bool event_whole(struct part *p, const struct resp_item *it, const char *type, bool begins)
{
	struct buf *b = event_begin(p->job, type);
	buf_printf(b, ",\"output_index\":%zu,\"item\":", (size_t)(it - p->item));
	put_item(b, p, it, begins ? "in_progress" : "completed", begins);
	return event_end(p->job);
}

static bool open_item(struct part *p, const struct resp_item *it)
{
	if (!event_whole(p, it, "response.output_item.added", true))
		return false;
	if (it->kind == IT_CALL)
		return true;
	struct buf *b = event_item(p, it, "response.content_part.added", true);
	buf_puts(b, ",\"part\":");
	put_part(b, it, true);
	return event_end(p->job);
}

static bool add_delta(struct part *p, const struct resp_item *it, const char *text, size_t n)
{
	static const char *const type[] = { [IT_REASONING] = "response.reasoning_text.delta", [IT_CONTENT] = "response.output_text.delta",
		[IT_CALL] = "response.function_call_arguments.delta" };
	struct buf *b = event_item(p, it, type[it->kind], it->kind != IT_CALL);
	buf_puts(b, it->kind == IT_CONTENT ? ",\"logprobs\":[],\"delta\":" : ",\"delta\":");
	json_str(b, text, n);
	return event_end(p->job);
}

static bool close_item(struct part *p, const struct resp_item *it)
{
	struct job *j = p->job;
	struct buf *b;
	if (it->kind == IT_CALL) {
		b = event_item(p, it, "response.function_call_arguments.done", false);
		put_string(b, ",\"name\":", &p->call[it->call].name);
		put_string(b, ",\"arguments\":", &p->call[it->call].arguments);
		return event_end(j) && event_whole(p, it, "response.output_item.done", false);
	}
	b = event_item(p, it, it->kind == IT_CONTENT ? "response.output_text.done" : "response.reasoning_text.done", true);
	buf_puts(b, it->kind == IT_CONTENT ? ",\"logprobs\":[]" : "");
	put_string(b, ",\"text\":", &it->text);
	if (!event_end(j))
		return false;
	b = event_item(p, it, "response.content_part.done", true);
	buf_puts(b, ",\"part\":");
	put_part(b, it, false);
	return event_end(j) && event_whole(p, it, "response.output_item.done", false);
}

/* ---- what comes ---------------------------------------------------------------------------------------------------------------- */

/* Text of another kind than the latest item's begins an item. */
static bool new_item(struct part *p, enum item_kind kind)
{
	struct job *j = p->job;
	if (j->stream && p->n_item && !close_item(p, &p->item[p->n_item - 1]))
		return false;
	struct resp_item *it = realloc(p->item, (p->n_item + 1) * sizeof *it);
	if (!it)
		return false;
	p->item = it;
	it += p->n_item++;
	*it = (struct resp_item){ .kind = kind, .call = p->n_call - (kind == IT_CALL) };
	return !j->stream || open_item(p, it);
}

bool resp_item(struct part *p, const struct item *it, const char *text)
{
	if (it->kind == IT_CALL)
		return new_item(p, IT_CALL);
	if (!it->n_text)
		return true;
	enum item_kind kind = it->kind == IT_ARGUMENTS ? IT_CALL : it->kind;
	if (kind == IT_CALL && !p->n_call)
		return true;
	if ((!p->n_item || p->item[p->n_item - 1].kind != kind) && !new_item(p, kind))
		return false;
	struct resp_item *to = &p->item[p->n_item - 1];
	if (!buf_append(kind == IT_CALL ? &p->call[to->call].arguments : &to->text, text, it->n_text))
		return false;
	return !p->job->stream || add_delta(p, to, text, it->n_text);
}

bool resp_begin(struct job *j)
{
	return stream_begin(j->s, j->req) && event_response(j, "response.created") && event_response(j, "response.in_progress");
}

void resp_end(struct job *j)
{
	struct part *p = &j->part[0];
	const char *status = status_of(p);
	if (!j->stream) {
		struct buf b = { 0 };
		put_response(j, &b);
		reply_buf(j->s, job_release(j), 200, &b);
		buf_free(&b);
		return;
	}
	bool ok = !p->n_item || p->status < 0 || close_item(p, &p->item[p->n_item - 1]);
	ok = ok && event_response(j, !strcmp(status, "failed") ? "response.failed" : !strcmp(status, "completed") ? "response.completed"
	                          : "response.incomplete");
	if (ok)
		stream_end(j->s, job_release(j));
	else
		job_drop(j);
}

void resp_free(struct part *p)
{
	for (size_t i = 0; i < p->n_item; i++)
		buf_free(&p->item[i].text);
	free(p->item);
}
