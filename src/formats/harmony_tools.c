/* harmony_tools.c - functions with JSON schemas, written as the TypeScript that GPT-OSS was trained to read.
 *
 * The layout is that of openai-harmony to the letter, oddities included (a string default of an enum has no quotes, the
 * description of an object stands between "(_: " and "{"): the model has seen no other.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/harmony_int.h"
#include "formats/json_read.h"

enum { MAX_DEPTH = 64 }; /* of schemas in schemas */

struct ts {
	struct buf *out;
	bool nomem, deep;
};

static void put(struct ts *w, const char *s)
{
	if (!buf_puts(w->out, s))
		w->nomem = true;
}

static void put_json_string(struct ts *w, const json_t *s)
{
	if (!buf_append(w->out, json_string_value(s), json_string_length(s)))
		w->nomem = true;
}

static void indent(struct ts *w, int n)
{
	for (int i = 0; i < n; i++)
		put(w, " ");
}

/* "// text" on a line of its own. */
static void comment(struct ts *w, int in, const json_t *s)
{
	indent(w, in);
	put(w, "// ");
	put_json_string(w, s);
	put(w, "\n");
}

static bool has_enum(const json_t *s)
{
	return json_array_size(json_object_get(s, "enum")) > 0;
}

/* A string or number as JSON; real numbers with the fewest digits that read back the same. */
static void put_scalar(struct ts *w, const json_t *v)
{
	size_t digits = 0;
	if (json_is_real(v)) {
		char s[40];
		do
			snprintf(s, sizeof s, "%.*g", (int)++digits, json_real_value(v));
		while (digits < 17 && strtod(s, NULL) != json_real_value(v));
	}
	char *s = json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(digits)); /* '.' in every locale */
	put(w, s ? s : "");
	w->nomem |= !s;
	free(s);
}

/* Compact JSON, keys in the order of the file. */
static void put_json(struct ts *w, const json_t *v)
{
	const char *key;
	json_t *e;
	size_t i, n = 0;
	if (json_is_array(v)) {
		put(w, "[");
		json_array_foreach(v, i, e) {
			put(w, i ? "," : "");
			put_json(w, e);
		}
		put(w, "]");
	} else if (json_is_object(v)) {
		put(w, "{");
		json_object_foreach((json_t *)v, key, e) {
			json_t *name = json_string(key);
			put(w, n++ ? "," : "");
			if (name)
				put_scalar(w, name);
			w->nomem |= !name;
			json_decref(name);
			put(w, ":");
			put_json(w, e);
		}
		put(w, "}");
	} else {
		put_scalar(w, v);
	}
}

/* default: value.  quoted: strings of enums keep their quotes. */
static void put_default(struct ts *w, const json_t *schema, const json_t *v, bool quoted)
{
	put(w, "default: ");
	if (!json_is_string(v) || (has_enum(schema) && quoted)) {
		put_json(w, v);
	} else if (has_enum(schema)) {
		put_json_string(w, v);
	} else {
		put(w, "\"");
		put_json_string(w, v);
		put(w, "\"");
	}
}

static void type(struct ts *w, const json_t *s, int in, int depth);

/* The type of s; " | null" behind it when nullable and null is not named yet. */
static void type_or_null(struct ts *w, const json_t *s, int in, int depth)
{
	size_t from = w->out->n;
	type(w, s, in, depth);
	if (json_is_true(json_object_get(s, "nullable")) && !w->nomem && !strstr(w->out->p + from, "null"))
		put(w, " | null");
}

/* One line of a union: " | type // description default: value". */
static void variant(struct ts *w, const json_t *v, int in, int depth, const json_t *description, bool quoted)
{
	const json_t *def = json_object_get(v, "default");
	indent(w, in);
	put(w, " | ");
	type_or_null(w, v, in + 3, depth);
	if (!json_is_string(description))
		description = NULL;
	if (description || def)
		put(w, " // ");
	if (description)
		put_json_string(w, description);
	if (description && def)
		put(w, " ");
	if (def)
		put_default(w, v, def, quoted);
}

/* key: a union of its own lines.  A description equal to the first variant's is not said twice. */
static void union_property(struct ts *w, const char *key, const char *colon, const json_t *v, int in, int depth)
{
	const json_t *list = json_object_get(v, "oneOf"), *def = json_object_get(v, "default"), *one;
	const json_t *description = json_object_get(v, "description");
	if (!json_is_string(description))
		description = NULL;
	bool above = description && !json_equal((json_t *)description, json_object_get(json_array_get(list, 0), "description"));
	if (above)
		comment(w, in, description);
	if (def) {
		indent(w, in);
		put(w, "// ");
		put_default(w, v, def, false);
		put(w, "\n");
	}
	indent(w, in);
	put(w, key);
	put(w, colon);
	put(w, "\n");
	size_t i;
	json_array_foreach(list, i, one) {
		const json_t *d = json_object_get(one, "description");
		bool said = (i == 0 && above) || (description && d && json_equal((json_t *)description, (json_t *)d));
		variant(w, one, in, depth, said ? NULL : d, false);
		put(w, "\n");
	}
	indent(w, in);
	put(w, ",\n");
}

static void property(struct ts *w, const char *key, const json_t *v, bool required, int in, int depth)
{
	const json_t *title = json_object_get(v, "title"), *description = json_object_get(v, "description");
	const json_t *examples = json_object_get(v, "examples"), *one_of = json_object_get(v, "oneOf"), *e;
	const json_t *def = json_object_get(v, "default");
	size_t i;
	if (json_is_string(title)) {
		comment(w, in, title);
		indent(w, in);
		put(w, "//\n");
	}
	if (!one_of && json_is_string(description))
		comment(w, in, description);
	if (json_array_size(examples) > 0) {
		indent(w, in);
		put(w, "// Examples:\n");
	}
	json_array_foreach(examples, i, e) {
		if (!json_is_string(e))
			continue;
		indent(w, in);
		put(w, "// - \"");
		put_json_string(w, e);
		put(w, "\"\n");
	}
	if (json_is_array(one_of)) {
		union_property(w, key, required ? ":" : "?:", v, in, depth);
		return;
	}
	indent(w, in);
	put(w, key);
	put(w, required ? ": " : "?: ");
	type_or_null(w, v, in + 4, depth);
	put(w, ",");
	if (!one_of && def) {
		put(w, " // ");
		put_default(w, v, def, false);
	}
	put(w, "\n");
}

static void object(struct ts *w, const json_t *s, int in, int depth)
{
	const json_t *description = json_object_get(s, "description"), *required = json_object_get(s, "required");
	const char *key;
	json_t *v;
	if (json_is_string(description))
		comment(w, in, description);
	put(w, "{\n");
	json_object_foreach(json_object_get(s, "properties"), key, v) {
		bool need = false;
		const json_t *r;
		size_t i;
		json_array_foreach(required, i, r)
			need |= json_is_string(r) && !strcmp(json_string_value(r), key);
		property(w, key, v, need, in, depth);
	}
	indent(w, in);
	put(w, "}");
}

static void string_type(struct ts *w, const json_t *s)
{
	const json_t *v, *list = json_object_get(s, "enum");
	bool any = false;
	size_t i;
	json_array_foreach(list, i, v) {
		if (!json_is_string(v))
			continue;
		put(w, any ? " | \"" : "\"");
		put_json_string(w, v);
		put(w, "\"");
		any = true;
	}
	if (!any)
		put(w, "string");
}

static void type(struct ts *w, const json_t *s, int in, int depth)
{
	const json_t *one_of = json_object_get(s, "oneOf"), *kind = json_object_get(s, "type"), *v;
	const char *name = json_string_value(kind);
	size_t i;
	if (depth > MAX_DEPTH) {
		w->deep = true;
		return;
	}
	if (json_is_array(one_of)) {
		json_array_foreach(one_of, i, v) {
			put(w, "\n");
			variant(w, v, in, depth + 1, json_object_get(v, "description"), true);
		}
		return;
	}
	if (json_is_array(kind)) { /* ["number", "string"] */
		bool any = false;
		json_array_foreach(kind, i, v) {
			if (!json_is_string(v))
				continue;
			put(w, any ? " | " : "");
			if (!strcmp(json_string_value(v), "integer"))
				put(w, "number");
			else
				put_json_string(w, v);
			any = true;
		}
		if (any)
			return;
	}
	if (!name) {
		put(w, "any");
	} else if (!strcmp(name, "object")) {
		object(w, s, in, depth + 1);
	} else if (!strcmp(name, "string")) {
		string_type(w, s);
	} else if (!strcmp(name, "number") || !strcmp(name, "integer")) {
		put(w, "number");
	} else if (!strcmp(name, "boolean")) {
		put(w, "boolean");
	} else if (!strcmp(name, "array")) {
		if (json_object_get(s, "items")) {
			type(w, json_object_get(s, "items"), in, depth + 1);
			put(w, "[]");
		} else {
			put(w, "Array<any>");
		}
	} else {
		put(w, "any");
	}
}

/* "// " before each line of text. */
static void comment_lines(struct ts *w, const char *text)
{
	while (*text) {
		size_t n = strcspn(text, "\n"), shown = n && text[n] && text[n - 1] == '\r' ? n - 1 : n;
		put(w, "// ");
		if (!buf_append(w->out, text, shown))
			w->nomem = true;
		put(w, "\n");
		text += n + (text[n] == '\n');
	}
}

static int one_tool(struct ts *w, size_t i, const struct moxie_tool *tool, struct moxie_err *err)
{
	json_t *schema = NULL;
	if (!harmony_word(tool->name))
		return err_set(err, MOXIE_E_ARG, "tool %zu: the name \"%.60s\" is empty, too long or has white space or '<' in it", i,
		               tool->name ? tool->name : "");
	if (tool->parameters) {
		int rc = json_read_text(&schema, tool->parameters, strlen(tool->parameters), "parameters", err);
		if (rc) {
			err_prefix(err, "tool %zu, %.60s", i, tool->name);
			if (rc == MOXIE_E_FORMAT && err)
				err->code = MOXIE_E_ARG;
			return rc == MOXIE_E_FORMAT ? MOXIE_E_ARG : rc;
		}
	}
	comment_lines(w, tool->description ? tool->description : "");
	put(w, "type ");
	put(w, tool->name);
	if (schema) {
		put(w, " = (_: ");
		type(w, schema, 0, 0);
		put(w, ") => any;\n\n");
	} else {
		put(w, " = () => any;\n\n");
	}
	json_decref(schema);
	return w->deep ? err_set(err, MOXIE_E_ARG, "tool %zu, %.60s: parameters are more than %d schemas deep", i, tool->name, MAX_DEPTH) : 0;
}

int harmony_tools(const struct moxie_tool *tool, size_t n_tool, struct buf *out, struct moxie_err *err)
{
	struct ts w = { .out = out };
	put(&w, "# Tools\n\n## functions\n\nnamespace functions {\n\n");
	for (size_t i = 0; i < n_tool && !w.nomem; i++) {
		int rc = one_tool(&w, i, &tool[i], err);
		if (rc)
			return rc;
	}
	put(&w, "} // namespace functions");
	return w.nomem ? err_nomem(err, out->n, "the tools of a prompt") : 0;
}
