/* format.c - what an answer must look like: response_format and its other spellings, tool_choice, strict tools. */
#include <stdlib.h>
#include <string.h>

#include "serve/serve_int.h"

#define MAX_NAME 64

/* A schema as an object, or as the text of one.  NULL, or the sentence that says what is wrong. */
static const char *take_schema(struct format *f, json_t *v, const char *bad)
{
	json_error_t e;
	f->json = true;
	if (json_is_string(v))
		f->schema = json_loadb(json_string_value(v), json_string_length(v), JSON_REJECT_DUPLICATES, &e);
	else if (json_is_object(v))
		f->schema = json_incref(v);
	return json_is_object(f->schema) ? NULL : bad;
}

static const char *read_response_format(struct format *f, json_t *v)
{
	const char *type = json_string_value(json_object_get(v, "type"));
	json_t *of = json_object_get(v, "json_schema"), *schema = json_object_get(of, "schema");
	if (!type)
		return "response_format is not an object with a type";
	if (!strcmp(type, "text"))
		return NULL;
	f->json = true;
	if (!strcmp(type, "json_object")) /* llama-server's clients put a schema here */
		return json_object_get(v, "schema") ? take_schema(f, json_object_get(v, "schema"), "response_format.schema is not a schema") : NULL;
	if (strcmp(type, "json_schema"))
		return "response_format.type is not text, json_object or json_schema";
	if (!json_is_object(of))
		return "response_format.json_schema is not an object";
	const char *name = json_string_value(json_object_get(of, "name"));
	static const char *const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
	if (name && (!*name || strlen(name) > MAX_NAME || strspn(name, letters) != strlen(name)))
		return "response_format.json_schema.name is not a word of 1 .. 64 letters, digits, '_' and '-'";
	if (name)
		memcpy(f->name, name, strlen(name) + 1);
	if (!schema || json_is_null(schema))
		return NULL;
	return take_schema(f, schema, "response_format.json_schema.schema is not a schema");
}

static const char *take_regex(struct format *f, const json_t *v, const char *bad)
{
	if (!json_is_string(v) || strlen(json_string_value(v)) != json_string_length(v))
		return bad;
	return (f->regex = strdup(json_string_value(v))) ? NULL : "out of memory";
}

/* One of some texts, as a pattern. */
static const char *take_choice(struct format *f, const json_t *v, const char *bad)
{
	struct buf b = { 0 };
	bool ok = json_array_size(v) > 0;
	for (size_t i = 0; ok && i < json_array_size(v); i++) {
		const char *s = json_string_value(json_array_get(v, i));
		ok = s && buf_puts(&b, i ? "|" : "");
		for (; ok && *s; s++)
			ok = (!strchr("\\^$.*+?()[]{}|/", *s) || buf_puts(&b, "\\")) && buf_append(&b, s, 1);
	}
	f->regex = b.p;
	return ok ? NULL : bad;
}

/* vLLM's newer form. */
static const char *read_structured(struct format *f, json_t *v)
{
	const char *key;
	json_t *x;
	if (!json_is_object(v))
		return "structured_outputs is not an object";
	json_object_foreach(v, key, x)
		if (!json_is_null(x) && !json_is_false(x) && strcmp(key, "json") && strcmp(key, "json_object") && strcmp(key, "regex") &&
		    strcmp(key, "choice") && strncmp(key, "disable_", 8))
			return "structured_outputs: only json, json_object, regex and choice are supported here";
	json_t *json = json_object_get(v, "json"), *regex = json_object_get(v, "regex"), *choice = json_object_get(v, "choice");
	bool has_json = json && !json_is_null(json), has_regex = regex && !json_is_null(regex), has_choice = choice && !json_is_null(choice);
	if (json_is_true(json_object_get(v, "json_object")))
		f->json = true;
	if (has_json + has_regex + has_choice + f->json > 1)
		return "structured_outputs asks for more than one form";
	return has_json ? take_schema(f, json, "structured_outputs.json is not a schema")
	     : has_regex ? take_regex(f, regex, "structured_outputs.regex is not a pattern")
	     : has_choice ? take_choice(f, choice, "structured_outputs.choice is not a list of texts") : NULL;
}

const char *format_read(struct format *f, json_t *from, const char **param)
{
	static const char *const spelling[] = { "response_format", "structured_outputs", "json_schema", "guided_json", "regex", "guided_regex",
	                                        "guided_choice" };
	const char *bad = NULL;
	*f = (struct format){ .name = "answer" };
	for (size_t i = 0; !bad && i < sizeof spelling / sizeof *spelling; i++) {
		json_t *v = json_object_get(from, spelling[i]);
		if (!v || json_is_null(v))
			continue;
		*param = spelling[i];
		if (f->json || f->regex)
			bad = "the form of the answer is given twice";
		else
			bad = i == 0 ? read_response_format(f, v) : i == 1 ? read_structured(f, v) : i < 4 ? take_schema(f, v, "this is not a JSON schema")
			    : i < 6 ? take_regex(f, v, "this is not a pattern") : take_choice(f, v, "guided_choice is not a list of texts");
	}
	return bad;
}

void format_free(struct format *f)
{
	json_decref(f->schema);
	free(f->regex);
}

/* ---- tools ---------------------------------------------------------------------------------------------------------------- */

const char *choice_read(struct tool_choice *c, json_t *body)
{
	const json_t *v = json_object_get(body, "tool_choice"), *tools = json_object_get(body, "tools");
	const json_t *parallel = json_object_get(body, "parallel_tool_calls");
	const char *word = json_string_value(v), *type = json_string_value(json_object_get(v, "type"));
	*c = (struct tool_choice){ .none = word && !strcmp(word, "none") };
	if (parallel && !json_is_null(parallel) && !json_is_boolean(parallel))
		return "parallel_tool_calls is not true or false";
	if (!v || json_is_null(v) || c->none || (word && !strcmp(word, "auto")))
		return NULL;
	if (!json_array_size(tools))
		return "tool_choice wants a call, but there are no tools";
	c->must = true;
	if (word && (!strcmp(word, "required") || !strcmp(word, "any")))
		return NULL;
	if (!type || strcmp(type, "function"))
		return "tool_choice is not auto, none, required or a function";
	const json_t *f = json_object_get(v, "function");
	c->name = json_string_value(json_object_get(f ? f : v, "name"));
	size_t i;
	json_t *tool;
	json_array_foreach(tools, i, tool) {
		const json_t *of = json_object_get(tool, "function");
		const char *name = json_string_value(json_object_get(of ? of : tool, "name"));
		if (c->name && name && !strcmp(name, c->name))
			return NULL;
	}
	return "tool_choice names a function that is not among the tools";
}

/* The tools that may be called, for a guide; texts of schemas are the caller's to free.  -1: out of memory */
static int list_tools(struct moxie_tool *to, json_t *tools, const struct tool_choice *c, bool *any_strict)
{
	size_t i;
	json_t *v;
	int n = 0;
	json_array_foreach(tools, i, v) {
		const json_t *f = json_object_get(v, "function");
		f = f ? f : v;
		const json_t *parameters = json_object_get(f, "parameters");
		const char *name = json_string_value(json_object_get(f, "name"));
		if (c->none || !name || (c->name && strcmp(c->name, name)))
			continue;
		to[n] = (struct moxie_tool){ .name = name, .strict = json_is_true(json_object_get(f, "strict")) };
		if (json_is_object(parameters) && !(to[n].parameters = json_dumps(parameters, JSON_COMPACT)))
			return -1;
		*any_strict |= to[n++].strict;
	}
	return n;
}

/* 0, or what moxie_guide_create said. */
static int make_guide(struct job *j, json_t *body, const struct format *f, const struct tool_choice *c, struct moxie_err *err)
{
	json_t *list = is_talk(j->kind) ? json_object_get(body, "tools") : NULL;
	struct moxie_tool *tools = calloc(json_array_size(list) + 1, sizeof *tools);
	char *schema = f->schema ? json_dumps(f->schema, JSON_COMPACT) : NULL;
	bool any_strict = false;
	int n = tools ? list_tools(tools, list, c, &any_strict) : -1, rc = n < 0 || (f->schema && !schema) ? MOXIE_E_NOMEM : 0;
	struct moxie_guide_params p = { .struct_size = sizeof p, .raw = !is_talk(j->kind), .json = f->json, .schema = schema, .tools = tools,
		.n_tool = n > 0 ? (size_t)n : 0, .must_call = c->must, .regex = f->regex };
	if (rc == 0 && (f->json || f->regex || c->must || any_strict)) /* else the model is free, and no token has to be checked */
		rc = moxie_guide_create(&j->guide, j->s->m, &p, err);
	for (size_t i = 0; tools && i < json_array_size(list); i++)
		free((char *)tools[i].parameters);
	free(tools);
	free(schema);
	return rc;
}

bool job_read_format(struct job *j, json_t *body)
{
	json_t *from = j->kind == JOB_GENERATE ? json_object_get(body, "sampling_params") : body;
	struct format f;
	struct tool_choice c = { .none = true };
	struct moxie_err err = { .code = MOXIE_E_NOMEM };
	const char *param = NULL, *bad = format_read(&f, from, &param);
	if (!bad && is_talk(j->kind)) {
		bad = choice_read(&c, body);
		param = bad ? "tool_choice" : param;
	}
	if (bad) {
		job_refuse(j, 400, param, "%s", bad);
		format_free(&f);
		return false;
	}
	int rc = make_guide(j, body, &f, &c, &err);
	format_free(&f);
	if (rc < 0) {
		bool memory = rc == MOXIE_E_NOMEM;
		job_refuse(j, memory ? 503 : 400, memory ? NULL : param ? param : "tools", "%s", memory ? "out of memory" : err.text);
		return false;
	}
	j->gen.guide = j->guide;
	return true;
}
