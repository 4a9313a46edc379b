/* messages.c - a conversation as OpenAI's clients write it, made into what the engine's templates take. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "serve/serve_int.h"

#define MAX_NAME 256

struct talk {
	struct server *s;
	struct evhttp_request *req;
	struct moxie_message *msg;
	size_t n_msg, cap_msg;
	struct moxie_tool *tool;
	size_t n_tool;
	char **own;               /* strings that were made here */
	size_t n_own, cap_own;
	struct { const char *id, *name; } *call;
	size_t n_call, cap_call;
	char why[300];
	const char *param;
};

static int bad(struct talk *t, const char *param, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int bad(struct talk *t, const char *param, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(t->why, sizeof t->why, fmt, ap);
	va_end(ap);
	t->param = param;
	return -1;
}

static bool grow(void *list, size_t *cap, size_t n, size_t size)
{
	if (n < *cap)
		return true;
	void *p = realloc(*(void **)list, 2 * (n + 4) * size);
	if (!p)
		return false;
	*(void **)list = p;
	*cap = 2 * (n + 4);
	return true;
}

/* Takes over text, which may be NULL: no memory. */
static const char *own(struct talk *t, char *text)
{
	if (!text || !grow(&t->own, &t->cap_own, t->n_own, sizeof *t->own)) {
		free(text);
		bad(t, NULL, "out of memory");
		return NULL;
	}
	return t->own[t->n_own++] = text;
}

static struct moxie_message *add(struct talk *t, enum moxie_role role, const char *content)
{
	if (!content || !grow(&t->msg, &t->cap_msg, t->n_msg, sizeof *t->msg)) {
		bad(t, NULL, "out of memory");
		return NULL;
	}
	t->msg[t->n_msg] = (struct moxie_message){ .role = role, .content = content };
	return &t->msg[t->n_msg++];
}

/* A string, null, or a list of text parts.  NULL: bad. */
static const char *content_of(struct talk *t, const json_t *v, size_t i)
{
	struct buf b = { 0 };
	if (!v || json_is_null(v))
		return "";
	if (json_is_string(v))
		return json_string_value(v);
	if (!json_is_array(v)) {
		bad(t, "messages", "messages[%zu].content is neither a string nor a list of parts", i);
		return NULL;
	}
	size_t k;
	json_t *part;
	bool ok = buf_puts(&b, "");
	json_array_foreach(v, k, part) {
		const char *type = json_string_value(json_object_get(part, "type"));
		const json_t *text = json_is_string(part) ? part : json_object_get(part, "text");
		if (!json_is_string(text) || (type && strcmp(type, "text") && strcmp(type, "input_text") && strcmp(type, "output_text"))) {
			buf_free(&b);
			bad(t, "messages", "messages[%zu].content[%zu] is not text, and nothing else is supported", i, k);
			return NULL;
		}
		ok = ok && buf_append(&b, json_string_value(text), json_string_length(text));
	}
	if (!ok)
		buf_free(&b);
	return own(t, b.p);
}

/* "functions.NAME" */
static const char *function_name(struct talk *t, const char *name)
{
	char text[MAX_NAME + 16];
	if (!strncmp(name, "functions.", 10))
		name += 10;
	if (strlen(name) > MAX_NAME) {
		bad(t, "messages", "the name of a function has more than %d bytes", MAX_NAME);
		return NULL;
	}
	snprintf(text, sizeof text, "functions.%s", name);
	return own(t, strdup(text));
}

static int read_calls(struct talk *t, const json_t *calls, size_t i)
{
	size_t k;
	json_t *v;
	json_array_foreach(calls, k, v) {
		const json_t *f = json_object_get(v, "function"), *args = json_object_get(f, "arguments");
		const char *name = json_string_value(json_object_get(f, "name")), *id = json_string_value(json_object_get(v, "id"));
		if (!name)
			return bad(t, "messages", "messages[%zu].tool_calls[%zu] has no function name", i, k);
		const char *to = function_name(t, name);
		const char *text = !args || json_is_null(args) ? "{}" : json_is_string(args) ? json_string_value(args)
		                 : own(t, json_dumps(args, JSON_ENCODE_ANY));
		struct moxie_message *m = to && text ? add(t, MOXIE_ROLE_ASSISTANT, text) : NULL;
		if (!m || !grow(&t->call, &t->cap_call, t->n_call, sizeof *t->call))
			return -1;
		m->channel = "commentary";
		m->recipient = to;
		m->content_type = "json";
		t->call[t->n_call].id = id;
		t->call[t->n_call++].name = to;
	}
	return 0;
}

static int read_assistant(struct talk *t, json_t *v, size_t i, const char *content)
{
	static const char *const spelling[] = { "reasoning_content", "reasoning", "thinking" };
	const json_t *calls = json_object_get(v, "tool_calls");
	size_t n_call = json_array_size(calls);
	for (size_t k = 0; k < sizeof spelling / sizeof *spelling; k++) {
		const char *thought = json_string_value(json_object_get(v, spelling[k]));
		if (!thought || !*thought)
			continue;
		struct moxie_message *m = add(t, MOXIE_ROLE_ASSISTANT, thought);
		if (!m)
			return -1;
		m->channel = "analysis";
		break;
	}
	if (calls && !json_is_null(calls) && !json_is_array(calls))
		return bad(t, "messages", "messages[%zu].tool_calls is not a list", i);
	if (*content || !n_call) {
		struct moxie_message *m = add(t, MOXIE_ROLE_ASSISTANT, content);
		if (!m)
			return -1;
		m->channel = n_call ? "commentary" : "final";
	}
	return read_calls(t, calls, i);
}

static int read_tool_result(struct talk *t, json_t *v, size_t i, const char *content)
{
	const char *id = json_string_value(json_object_get(v, "tool_call_id")), *name = json_string_value(json_object_get(v, "name"));
	const char *from = NULL;
	for (size_t k = t->n_call; !from && id && k-- > 0;)
		if (t->call[k].id && !strcmp(t->call[k].id, id))
			from = t->call[k].name;
	if (!from && name && !(from = function_name(t, name)))
		return -1;
	if (!from)
		return bad(t, "messages", "messages[%zu] answers no tool call of this conversation, and has no name", i);
	struct moxie_message *m = add(t, MOXIE_ROLE_TOOL, content);
	if (!m)
		return -1;
	m->name = from;
	return 0;
}

static int read_message(struct talk *t, json_t *v, size_t i)
{
	static const struct { const char *name; enum moxie_role role; } roles[] = {
		{ "system", MOXIE_ROLE_SYSTEM }, { "developer", MOXIE_ROLE_DEVELOPER }, { "user", MOXIE_ROLE_USER },
		{ "assistant", MOXIE_ROLE_ASSISTANT }, { "tool", MOXIE_ROLE_TOOL }, { "function", MOXIE_ROLE_TOOL },
	};
	const char *name = json_string_value(json_object_get(v, "role"));
	size_t r = 0, n = sizeof roles / sizeof *roles;
	while (name && r < n && strcmp(name, roles[r].name))
		r++;
	if (!name || r == n)
		return bad(t, "messages", "messages[%zu].role is not system, developer, user, assistant or tool", i);
	const char *content = content_of(t, json_object_get(v, "content"), i);
	if (!content)
		return -1;
	if (roles[r].role == MOXIE_ROLE_ASSISTANT)
		return read_assistant(t, v, i, content);
	if (roles[r].role == MOXIE_ROLE_TOOL)
		return read_tool_result(t, v, i, content);
	return add(t, roles[r].role, content) ? 0 : -1;
}

static int read_tools(struct talk *t, json_t *body)
{
	const json_t *tools = json_object_get(body, "tools");
	struct tool_choice choice;
	const char *wrong = choice_read(&choice, body);
	if (wrong)
		return bad(t, "tool_choice", "%s", wrong);
	if (!tools || json_is_null(tools) || choice.none)
		return 0;
	if (!json_is_array(tools))
		return bad(t, "tools", "tools is not a list");
	size_t n = json_array_size(tools), i;
	json_t *v;
	if (n && !(t->tool = calloc(n, sizeof *t->tool)))
		return bad(t, NULL, "out of memory");
	json_array_foreach(tools, i, v) {
		const json_t *f = json_object_get(v, "function"), *args = json_object_get(f, "parameters");
		const char *type = json_string_value(json_object_get(v, "type"));
		struct moxie_tool *to = &t->tool[t->n_tool];
		to->name = json_string_value(json_object_get(f, "name"));
		to->description = json_string_value(json_object_get(f, "description"));
		if ((type && strcmp(type, "function")) || !to->name)
			return bad(t, "tools", "tools[%zu] is not a function with a name", i);
		if (args && !json_is_null(args) && !json_is_object(args))
			return bad(t, "tools", "tools[%zu].function.parameters is not an object", i);
		if (json_is_object(args) && !(to->parameters = own(t, json_dumps(args, JSON_COMPACT))))
			return -1;
		t->n_tool++;
	}
	return 0;
}

static int read_effort(struct talk *t, json_t *body, enum moxie_effort *effort)
{
	static const struct { const char *word; enum moxie_effort effort; } words[] = {
		{ "low", MOXIE_EFFORT_LOW }, { "medium", MOXIE_EFFORT_MEDIUM }, { "high", MOXIE_EFFORT_HIGH },
		{ "none", MOXIE_EFFORT_LOW }, { "minimal", MOXIE_EFFORT_LOW }, { "xhigh", MOXIE_EFFORT_HIGH }, { "max", MOXIE_EFFORT_HIGH },
	};
	const json_t *v = json_object_get(body, "reasoning_effort");
	if (!v || json_is_null(v))
		v = json_object_get(json_object_get(body, "chat_template_kwargs"), "reasoning_effort");
	if (!v || json_is_null(v))
		return 0;
	const char *word = json_string_value(v);
	for (size_t i = 0; word && i < sizeof words / sizeof *words; i++)
		if (!strcmp(word, words[i].word)) {
			*effort = words[i].effort;
			return 0;
		}
	return bad(t, "reasoning_effort", "reasoning_effort is not low, medium or high");
}

/* A schema that the answer has to follow is shown to the model. */
static int read_format(struct talk *t, json_t *body, struct moxie_chat_params *p)
{
	struct format f;
	const char *param = NULL, *wrong = format_read(&f, body, &param);
	if (wrong)
		bad(t, param, "%s", wrong);
	else if (f.schema && (p->format_schema = own(t, json_dumps(f.schema, JSON_COMPACT))))
		p->format_name = own(t, strdup(f.name));
	bool ok = !wrong && (!f.schema || p->format_name);
	format_free(&f);
	return ok ? 0 : -1;
}

static int render(struct talk *t, enum moxie_effort effort, json_t *body, struct ids *out)
{
	struct server *s = t->s;
	struct moxie_chat_params p = { .struct_size = sizeof p, .effort = effort, .date = s->p.date, .tools = t->tool, .n_tool = t->n_tool };
	if (read_format(t, body, &p) < 0)
		return -1;
	struct moxie_err err = { 0 };
	size_t n_text = 0, n = 0;
	for (size_t i = 0; i < t->n_msg; i++)
		n_text += strlen(t->msg[i].content);
	if (n_text / 256 > (size_t)s->p.n_ctx) /* no token has more bytes: do not even count */
		return bad(t, "messages", "the messages have %zu bytes, too long for a context of %d tokens", n_text, s->p.n_ctx);
	size_t cap = (size_t)s->p.n_ctx + 1;
	if (!(out->v = malloc(cap * sizeof *out->v)))
		return bad(t, NULL, "out of memory");
	out->cap = cap;
	int rc = moxie_chat_render(s->m, &p, t->msg, t->n_msg, out->v, cap, &n, &err);
	if (rc == MOXIE_E_TOO_SMALL)
		return bad(t, "messages", "the messages have %zu tokens, the context length is %d", n, s->p.n_ctx);
	out->n = rc == 0 ? n : 0;
	const char *text;
	if (rc < 0 && error_of_engine(s, &err, &text))
		return bad(t, "messages", "%s", text);
	return 0;
}

int chat_ids(struct server *s, struct evhttp_request *req, json_t *body, struct ids *ids)
{
	struct talk t = { .s = s, .req = req };
	const json_t *list = json_object_get(body, "messages");
	enum moxie_effort effort = MOXIE_EFFORT_MEDIUM;
	int rc = json_array_size(list) ? 0 : bad(&t, "messages", "messages is missing, empty or not a list");
	for (size_t i = 0; rc == 0 && i < json_array_size(list); i++)
		rc = read_message(&t, json_array_get(list, i), i);
	if (rc == 0)
		rc = read_tools(&t, body);
	if (rc == 0)
		rc = read_effort(&t, body, &effort);
	if (rc == 0)
		rc = render(&t, effort, body, ids);
	if (rc < 0) {
		bool memory = !strcmp(t.why, "out of memory") || !*t.why;
		reply_error(s, req, memory ? 503 : 400, t.param, "%s", *t.why ? t.why : "out of memory");
	}
	for (size_t i = 0; i < t.n_own; i++)
		free(t.own[i]);
	free(t.own);
	free(t.msg);
	free(t.tool);
	free(t.call);
	return rc;
}
