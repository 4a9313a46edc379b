/* responses.c - /v1/responses: its request is rewritten as one of /v1/chat/completions; its answers are in resp_out.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "serve/serve_int.h"

struct rewrite {
	const json_t *body;
	json_t *messages;        /* of the conversation so far */
	char *reasoning;         /* of the assistant's next message, or NULL */
	char why[200];
	const char *param;
};

static bool bad(struct rewrite *w, const char *param, const char *why, size_t i)
{
	snprintf(w->why, sizeof w->why, why, i);
	w->param = param;
	return false;
}

/* Adds message, which it takes over; NULL: out of memory. */
static bool add(struct rewrite *w, json_t *message)
{
	bool ok = message != NULL;
	if (ok && w->reasoning && !strcmp(json_string_value(json_object_get(message, "role")), "assistant")) {
		ok = json_object_set_new(message, "reasoning_content", json_string(w->reasoning)) == 0;
		free(w->reasoning);
		w->reasoning = NULL;
	}
	if (ok && json_array_append_new(w->messages, message) == 0)
		return true;
	if (message && !ok)
		json_decref(message);
	return bad(w, NULL, "out of memory", 0);
}

/* The texts of a list of parts, or a string itself, malloc'ed.  NULL: something else. */
static char *text_of(const json_t *v)
{
	struct buf b = { 0 };
	size_t i;
	json_t *part;
	bool ok = buf_puts(&b, "");
	if (json_is_string(v))
		ok = ok && buf_puts(&b, json_string_value(v));
	else if (!json_is_array(v))
		ok = false;
	json_array_foreach(v, i, part) {
		const char *text = json_string_value(json_object_get(part, "text"));
		ok = ok && text && buf_puts(&b, text);
	}
	if (!ok)
		buf_free(&b);
	return b.p;
}

static bool read_reasoning(struct rewrite *w, const json_t *v, size_t i)
{
	const json_t *list = json_object_get(v, "content");
	if (!json_array_size(list))
		list = json_object_get(v, "summary");
	free(w->reasoning);
	w->reasoning = json_array_size(list) ? text_of(list) : NULL;
	return w->reasoning || !json_array_size(list) ? true : bad(w, "input", "input[%zu] is reasoning with something that is not text", i);
}

static bool read_call(struct rewrite *w, json_t *v, size_t i)
{
	json_t *name = json_object_get(v, "name"), *arguments = json_object_get(v, "arguments"), *id = json_object_get(v, "call_id");
	if (!json_is_string(name) || !json_is_string(arguments) || !json_is_string(id))
		return bad(w, "input", "input[%zu] is a function call without name, arguments or call_id", i);
	return add(w, json_pack("{s:s, s:n, s:[{s:O, s:s, s:{s:O, s:O}}]}", "role", "assistant", "content", "tool_calls", "id", id,
	                        "type", "function", "function", "name", name, "arguments", arguments));
}

static bool read_result(struct rewrite *w, json_t *v, size_t i)
{
	json_t *id = json_object_get(v, "call_id");
	char *text = text_of(json_object_get(v, "output"));
	bool ok = json_is_string(id) && text;
	ok = ok ? add(w, json_pack("{s:s, s:O, s:s}", "role", "tool", "tool_call_id", id, "content", text))
	        : bad(w, "input", "input[%zu] is a function's output without call_id or text", i);
	free(text);
	return ok;
}

static bool read_item(struct rewrite *w, json_t *v, size_t i)
{
	const char *type = json_string_value(json_object_get(v, "type"));
	json_t *role = json_object_get(v, "role"), *content = json_object_get(v, "content");
	if (type && !strcmp(type, "reasoning"))
		return read_reasoning(w, v, i);
	if (type && !strcmp(type, "function_call"))
		return read_call(w, v, i);
	if (type && !strcmp(type, "function_call_output"))
		return read_result(w, v, i);
	if (type && strcmp(type, "message"))
		return bad(w, "input", "input[%zu].type is not message, reasoning, function_call or function_call_output", i);
	if (!json_is_string(role) || !(json_is_string(content) || json_is_array(content)))
		return bad(w, "input", "input[%zu] is not a message with role and content", i);
	return add(w, json_pack("{s:O, s:O}", "role", role, "content", content));
}

static bool read_input(struct rewrite *w)
{
	json_t *input = json_object_get(w->body, "input"), *instructions = json_object_get(w->body, "instructions"), *v;
	size_t i;
	if (instructions && !json_is_null(instructions) && !json_is_string(instructions))
		return bad(w, "instructions", "instructions is not a string", 0);
	if (json_string_length(instructions) && !add(w, json_pack("{s:s, s:O}", "role", "system", "content", instructions)))
		return false;
	if (json_is_string(input))
		return add(w, json_pack("{s:s, s:O}", "role", "user", "content", input));
	if (!json_array_size(input))
		return bad(w, "input", "input is missing, empty, or neither a string nor a list of items", 0);
	json_array_foreach(input, i, v)
		if (!read_item(w, v, i))
			return false;
	return true;
}

/* Functions lie flat here: {"type", "name", ...} becomes {"type", "function": {"name", ...}}. */
static bool read_tools(struct rewrite *w, json_t *chat)
{
	json_t *tools = json_object_get(w->body, "tools"), *v, *list = json_array();
	size_t i;
	bool ok = list && json_object_set_new(chat, "tools", list) == 0;
	if (tools && !json_is_null(tools) && !json_is_array(tools))
		return bad(w, "tools", "tools is not a list", 0);
	json_array_foreach(tools, i, v) {
		const char *type = json_string_value(json_object_get(v, "type"));
		if (!type || strcmp(type, "function"))
			return bad(w, "tools", "tools[%zu] is not a function, and nothing else is supported here", i);
		ok = ok && json_array_append_new(list, json_pack("{s:s, s:O}", "type", "function", "function", v)) == 0;
	}
	return ok || bad(w, NULL, "out of memory", 0);
}

/* text.format is response_format, with json_schema's fields beside its type. */
static bool read_format(struct rewrite *w, json_t *chat)
{
	json_t *text = json_object_get(w->body, "text"), *format = json_object_get(text, "format");
	if (text && !json_is_null(text) && !json_is_object(text))
		return bad(w, "text", "text is not an object", 0);
	if (!format || json_is_null(format))
		return true;
	json_t *type = json_object_get(format, "type");
	if (!json_is_string(type))
		return bad(w, "text.format", "text.format is not an object with a type", 0);
	bool by_schema = !strcmp(json_string_value(type), "json_schema");
	json_t *as = by_schema ? json_pack("{s:O, s:O}", "type", type, "json_schema", format) : json_incref(format);
	return json_object_set_new(chat, "response_format", as) == 0 || bad(w, NULL, "out of memory", 0);
}

/* Fields that chat completions know by the same name, and those that have another there. */
static bool copy_fields(struct rewrite *w, json_t *chat)
{
	static const char *const fields[][2] = {
		{ "model", "model" }, { "stream", "stream" }, { "temperature", "temperature" }, { "top_p", "top_p" }, { "top_k", "top_k" },
		{ "min_p", "min_p" }, { "seed", "seed" }, { "stop", "stop" }, { "presence_penalty", "presence_penalty" },
		{ "frequency_penalty", "frequency_penalty" }, { "repetition_penalty", "repetition_penalty" }, { "logit_bias", "logit_bias" },
		{ "min_tokens", "min_tokens" }, { "max_output_tokens", "max_completion_tokens" }, { "tool_choice", "tool_choice" },
		{ "parallel_tool_calls", "parallel_tool_calls" }, { "ignore_eos", "ignore_eos" }, { "rid", "rid" },
	};
	bool ok = true;
	for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
		json_t *v = json_object_get(w->body, fields[i][0]);
		ok = ok && (!v || json_object_set(chat, fields[i][1], v) == 0);
	}
	json_t *effort = json_object_get(json_object_get(w->body, "reasoning"), "effort");
	ok = ok && (!effort || json_object_set(chat, "reasoning_effort", effort) == 0);
	return ok || bad(w, NULL, "out of memory", 0);
}

/* What cannot be had here, because nothing is kept from one request to the next. */
static bool check_fields(struct rewrite *w)
{
	static const struct { const char *name, *why; } not[] = {
		{ "previous_response_id", "previous_response_id is not supported: answers are not stored, send the conversation as input" },
		{ "conversation", "conversation is not supported: nothing is stored, send the conversation as input" },
		{ "prompt", "prompt templates are not supported" },
		{ "top_logprobs", "top_logprobs is not supported here; /v1/chat/completions has them" },
		{ "background", "background is not supported: answers are not stored" },
	};
	for (size_t i = 0; i < sizeof not / sizeof *not; i++) {
		const json_t *v = json_object_get(w->body, not[i].name);
		if (v && !json_is_null(v) && !json_is_false(v) && !(json_is_integer(v) && json_integer_value(v) == 0))
			return bad(w, not[i].name, not[i].why, 0);
	}
	const json_t *truncation = json_object_get(w->body, "truncation");
	if (truncation && !json_is_null(truncation) && !(json_is_string(truncation) && !strcmp(json_string_value(truncation), "disabled")))
		return bad(w, "truncation", "truncation is not supported: it is disabled", 0);
	return true;
}

/* What every answer tells of its request, as JSON without the outer braces. */
static bool make_echo(struct job *j, json_t *body)
{
	static const struct { const char *name, *otherwise; } fields[] = {
		{ "instructions", "null" }, { "max_output_tokens", "null" }, { "metadata", "{}" }, { "parallel_tool_calls", "true" },
		{ "reasoning", "{\"effort\":\"medium\",\"summary\":null}" }, { "text", "{\"format\":{\"type\":\"text\"}}" },
		{ "tool_choice", "\"auto\"" }, { "tools", "[]" }, { "user", "null" },
	};
	struct buf *b = &j->echo_fields;
	bool ok = true;
	for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
		json_t *v = json_object_get(body, fields[i].name);
		char *text = v && !json_is_null(v) ? json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
		ok = ok && buf_printf(b, "\"%s\":", fields[i].name) && buf_puts(b, text ? text : fields[i].otherwise) && buf_puts(b, ",");
		free(text);
	}
	return ok && buf_printf(b, "\"temperature\":%.6g,\"top_p\":%.6g,", (double)j->gen.sampling.temperature,
	                        j->gen.sampling.top_p > 0 ? (double)j->gen.sampling.top_p : 1);
}

/* The request as chat completions would have it, or NULL: w says why. */
static json_t *rewrite(struct rewrite *w)
{
	json_t *chat = json_object();
	w->messages = json_array();
	bool ok = chat && w->messages && json_object_set_new(chat, "messages", w->messages) == 0;
	if (!ok)
		bad(w, NULL, "out of memory", 0);
	ok = ok && check_fields(w) && read_input(w) && read_tools(w, chat) && read_format(w, chat) && copy_fields(w, chat);
	free(w->reasoning);
	if (ok)
		return chat;
	json_decref(chat);
	return NULL;
}

void openai_responses(struct server *s, struct evhttp_request *req, json_t *body)
{
	struct rewrite w = { .body = body };
	json_t *chat = rewrite(&w);
	if (!chat) {
		reply_error(s, req, w.param ? 400 : 503, w.param, "%s", w.why);
		return;
	}
	struct job *j = chat_job(s, req, chat, JOB_RESPONSE);
	if (j && !make_echo(j, body)) {
		job_refuse(j, 503, NULL, "out of memory");
		j = NULL;
	}
	if (j)
		job_submit(j);
	json_decref(chat);
}
