/* json.c - fields of a request, each checked against its range, and text as JSON. */
#include <math.h>
#include <string.h>

#include "serve/serve_int.h"

bool json_str(struct buf *b, const char *text, size_t n)
{
	static const char hex[] = "0123456789abcdef";
	bool ok = buf_append(b, "\"", 1);
	size_t from = 0;
	for (size_t i = 0; ok && i < n; i++) {
		unsigned char c = (unsigned char)text[i];
		if (c >= 0x20 && c != '"' && c != '\\')
			continue;
		char esc[6] = { '\\', 'u', '0', '0', hex[c >> 4], hex[c & 15] };
		size_t n_esc = 6;
		if (c == '"' || c == '\\' || c == '\n') {
			esc[1] = c == '\n' ? 'n' : (char)c;
			n_esc = 2;
		}
		ok = buf_append(b, text + from, i - from) && buf_append(b, esc, n_esc);
		from = i + 1;
	}
	return ok && buf_append(b, text + from, n - from) && buf_append(b, "\"", 1);
}

bool json_cstr(struct buf *b, const char *text)
{
	return json_str(b, text, strlen(text));
}

static const char *type_name(const json_t *v)
{
	static const char *const name[] = { "an object", "a list", "a string", "an integer", "a number", "true", "false", "null" };
	return name[json_typeof(v)];
}

static bool read_field(const struct field *f, const json_t *v, void *to, struct buf *why)
{
	void *at = (char *)to + f->at;
	static const char *const wanted[] = { "a number", "an integer", "an integer", "true or false" };
	bool right = f->kind == FIELD_BOOL ? json_is_boolean(v) : f->kind == FIELD_FLOAT ? json_is_number(v) : json_is_integer(v);
	if (!right && f->kind == FIELD_INT && json_is_real(v) && floor(json_real_value(v)) == json_real_value(v))
		right = true; /* 64.0: some clients write all numbers so */
	if (!right) {
		buf_printf(why, "%s is %s, wanted %s", f->name, type_name(v), wanted[f->kind]);
		return false;
	}
	if (f->kind == FIELD_BOOL) {
		*(bool *)at = json_is_true(v);
		return true;
	}
	double x = json_number_value(v);
	if (!(x >= f->lo && x <= f->hi)) { /* NaN fails too */
		buf_printf(why, "%s is %.9g, wanted %.10g .. %.10g", f->name, x, f->lo, f->hi);
		return false;
	}
	if (f->kind == FIELD_FLOAT)
		*(float *)at = (float)x;
	else if (f->kind == FIELD_INT)
		*(int *)at = (int)x;
	else
		*(uint64_t *)at = (uint64_t)json_integer_value(v);
	return true;
}

bool fields_read(const struct field *f, size_t n, json_t *body, void *to, const char **name, struct buf *why)
{
	for (size_t i = 0; i < n; i++) {
		const json_t *v = json_object_get(body, f[i].name);
		*name = f[i].name;
		if (v && !json_is_null(v) && !read_field(&f[i], v, to, why))
			return false;
	}
	return true;
}

enum off { OFF_NULL, OFF_FALSE, OFF_EMPTY, OFF_AUTO };

/* Whether v asks for nothing. */
static bool is_off(const json_t *v, enum off off)
{
	if (!v || json_is_null(v))
		return true;
	switch (off) {
	case OFF_NULL:
		return false;
	case OFF_FALSE:
		return json_is_false(v);
	case OFF_EMPTY:
		return (json_is_object(v) && !json_object_size(v)) || (json_is_array(v) && !json_array_size(v)) ||
		       (json_is_string(v) && !json_string_length(v));
	case OFF_AUTO: {
		const char *word = json_string_value(v);
		return word && (!strcmp(word, "auto") || !strcmp(word, "none"));
	}
	}
	return false;
}

const char *unsupported_field(json_t *body, enum job_kind kind)
{
	enum { CHAT = 1 << JOB_CHAT, COMPLETION = 1 << JOB_COMPLETION, GENERATE = 1 << JOB_GENERATE, ALL = 7 };
	static const struct {
		const char *name;
		enum off off;
		int kinds;
	} rows[] = {
		{ "functions", OFF_EMPTY, CHAT },
		{ "function_call", OFF_AUTO, CHAT },
		{ "echo", OFF_FALSE, CHAT },
		{ "no_stop_trim", OFF_FALSE, ALL },
		{ "include_stop_str_in_output", OFF_FALSE, ALL },
		{ "use_beam_search", OFF_FALSE, ALL },
		{ "prompt_logprobs", OFF_NULL, ALL },
		{ "token_ids_logprob", OFF_EMPTY, ALL },
		{ "suffix", OFF_EMPTY, COMPLETION },
		{ "stop_regex", OFF_EMPTY, ALL },
		{ "guided_grammar", OFF_NULL, ALL },
		{ "grammar", OFF_EMPTY, ALL },
		{ "ebnf", OFF_NULL, ALL },
		{ "structural_tag", OFF_NULL, ALL },
		{ "return_hidden_states", OFF_FALSE, ALL },
		{ "image_data", OFF_EMPTY, GENERATE },
		{ "audio_data", OFF_EMPTY, GENERATE },
		{ "video_data", OFF_EMPTY, GENERATE },
		{ "input_embeds", OFF_EMPTY, GENERATE },
		{ "lora_path", OFF_EMPTY, ALL },
	};
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		if (rows[i].kinds & 1 << kind && !is_off(json_object_get(body, rows[i].name), rows[i].off))
			return rows[i].name;
	return NULL;
}

bool json_token(const json_t *v, int n_vocab, int32_t *id)
{
	json_int_t x = json_integer_value(v);
	if (!json_is_integer(v) || x < 0 || x >= n_vocab)
		return false;
	*id = (int32_t)x;
	return true;
}

int json_tokens(const json_t *list, int n_vocab, struct ids *out)
{
	size_t i;
	json_t *v;
	json_array_foreach(list, i, v) {
		int32_t id;
		if (!json_token(v, n_vocab, &id))
			return -1;
		if (!ids_push(out, id))
			return -2;
	}
	return 0;
}
