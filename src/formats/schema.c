/* schema.c - a JSON schema to the nodes that grammar.c follows.  What cannot be held to is refused by name, never passed over. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/grammar_int.h"
#include "formats/json_read.h"

enum { MAX_REF = 512 };

struct compiler {
	struct grammar *g;
	size_t cap_node, cap_prop, cap_link, cap_word;
	const json_t *schema;
	struct { const json_t *to; uint32_t node; } ref[MAX_REF]; /* what was compiled through a reference, or is being */
	int n_ref;
	struct { char *pattern; bool search; uint32_t min, max, node; } regex[GRAM_MAX_PATTERN]; /* of each dfa */
	size_t work;           /* left for patterns */
	char path[200];
	struct moxie_err *err;
	int rc; /* < 0: why node numbers no longer count */
};

/* The nodes that stand for themselves. */
enum { ANY, ANY_STRING, ANY_NUMBER, ANY_OBJECT, ANY_ARRAY, ANY_BOOL, ANY_NULL, N_BUILTIN };

static uint32_t fail(struct compiler *c, int rc, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static uint32_t fail(struct compiler *c, int rc, const char *fmt, ...)
{
	char text[300];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (!c->rc)
		c->rc = err_set(c->err, rc, "the schema, at #%s: %s", c->path, text);
	return 0;
}

static uint32_t refuse(struct compiler *c, const char *keyword)
{
	return fail(c, MOXIE_E_UNSUPPORTED, "\"%.60s\" is not supported", keyword);
}

/* Room for n more in a list of at most most.  Returns the first's index. */
static uint32_t grow(struct compiler *c, void *list, size_t *n_list, size_t *cap, size_t n, size_t size, size_t most, const char *what)
{
	size_t first = *n_list;
	if (n > most - first) {
		fail(c, MOXIE_E_UNSUPPORTED, "more than %zu %s", most, what);
		return 0;
	}
	if (first + n > *cap) {
		size_t want = 2 * (first + n) + 16;
		void *p = realloc(*(void **)list, want * size);
		if (!p) {
			fail(c, MOXIE_E_NOMEM, "out of memory");
			return 0;
		}
		*(void **)list = p;
		*cap = want;
	}
	*n_list += n;
	return (uint32_t)first;
}

static uint32_t new_node(struct compiler *c, struct gram_node node)
{
	struct grammar *g = c->g;
	uint32_t i = grow(c, &g->node, &g->n_node, &c->cap_node, 1, sizeof *g->node, GRAM_MAX_NODE, "parts");
	if (!c->rc)
		g->node[i] = node;
	return i;
}

static uint32_t new_links(struct compiler *c, size_t n)
{
	return grow(c, &c->g->link, &c->g->n_link, &c->cap_link, n, sizeof *c->g->link, GRAM_MAX_NODE, "alternatives");
}

/* v as JSON in grammar.text. */
static struct gram_text add_text(struct compiler *c, const json_t *v)
{
	struct buf *b = &c->g->text;
	char *text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
	struct gram_text t = { (uint32_t)b->n, text ? (uint32_t)strlen(text) : 0 };
	if (!text || !buf_append(b, text, t.n))
		fail(c, MOXIE_E_NOMEM, "out of memory");
	else if (b->n > GRAM_MAX_TEXT)
		fail(c, MOXIE_E_UNSUPPORTED, "names and values have more than %d bytes", GRAM_MAX_TEXT);
	free(text);
	return t;
}

static uint32_t compile(struct compiler *c, const json_t *s);

/* One level down in the path that errors name; up again with path[n] = 0. */
static size_t enter(struct compiler *c, const char *name)
{
	size_t n = strlen(c->path);
	snprintf(c->path + n, sizeof c->path - n, "/%.60s", name);
	return n;
}

static uint32_t compile_in(struct compiler *c, const json_t *s, const char *name)
{
	size_t n = enter(c, name);
	uint32_t node = compile(c, s);
	if (!c->rc)
		c->path[n] = 0;
	return node;
}

/* ---- words ------------------------------------------------------------------------------------------------------------- */

static int by_text(const void *pa, const void *pb, void *text)
{
	const struct gram_text *a = pa, *b = pb;
	int d = memcmp((char *)text + a->off, (char *)text + b->off, a->n < b->n ? a->n : b->n);
	return d ? d : a->n < b->n ? -1 : a->n > b->n;
}

/* One value, or each of a list. */
static uint32_t words(struct compiler *c, const json_t *list, const json_t *one)
{
	struct grammar *g = c->g;
	size_t n = one ? 1 : json_array_size(list), n_kept = 0;
	if (!n)
		return fail(c, MOXIE_E_FORMAT, "\"enum\" is not a list of values");
	uint32_t first = grow(c, &g->word, &g->n_word, &c->cap_word, n, sizeof *g->word, GRAM_MAX_WORD, "values");
	for (size_t i = 0; i < n && !c->rc; i++)
		g->word[first + i] = add_text(c, one ? one : json_array_get(list, i));
	if (c->rc)
		return 0;
	struct gram_text *w = g->word + first;
	qsort_r(w, n, sizeof *w, by_text, g->text.p);
	for (size_t i = 0; i < n; i++)
		if (i == 0 || by_text(&w[i], &w[n_kept - 1], g->text.p))
			w[n_kept++] = w[i];
	return new_node(c, (struct gram_node){ .kind = GRAM_WORDS, .first = first, .n = (uint32_t)n_kept });
}

/* ---- bounds ------------------------------------------------------------------------------------------------------------- */

/* The value of a keyword that counts something. */
static uint32_t count_of(struct compiler *c, const json_t *s, const char *keyword, uint32_t otherwise)
{
	const json_t *v = json_object_get(s, keyword);
	if (!v)
		return otherwise;
	double x = json_number_value(v);
	if (!json_is_number(v) || x < 0 || x != floor(x))
		return fail(c, MOXIE_E_FORMAT, "\"%s\" is not a whole number >= 0", keyword);
	return x < 1 << 30 ? (uint32_t)x : UINT32_MAX;
}

/* multipleOf as n units of 10^-frac.  false: an error was set */
static bool unit_of(struct compiler *c, const json_t *v, int64_t *n, int *frac)
{
	double x = json_number_value(v);
	if (!json_is_number(v) || !(x > 0)) {
		fail(c, MOXIE_E_FORMAT, "\"multipleOf\" is not a number > 0");
		return false;
	}
	long double u = (long double)x;
	for (*frac = 0; *frac <= 9; ++*frac, u *= 10)
		if (u < 1e15L && roundl(u) > 0 && fabsl(u - roundl(u)) <= u * 0x1p-50L) {
			*n = (int64_t)roundl(u);
			return true;
		}
	fail(c, MOXIE_E_UNSUPPORTED, "\"multipleOf\" has more than 9 decimals or 15 digits");
	return false;
}

/* Whole numbers that are multiples of n units of 10^-frac. */
static int64_t whole_multiple(int64_t n, int frac)
{
	int64_t a = n, b = 1;
	for (int i = 0; i < frac; i++)
		b *= 10;
	while (b) {
		int64_t rest = a % b;
		a = b, b = rest;
	}
	return n / a;
}

/* x in units of 10^-frac, rounded into the bound; what is a whole number of units but for the last bits is that number. */
static int64_t to_units(double x, int frac, bool up, bool exclusive)
{
	long double v = (long double)x, near;
	for (int i = 0; i < frac; i++)
		v *= 10;
	near = roundl(v);
	if (fabsl(v - near) <= fabsl(v) * 0x1p-51L)
		v = near;
	long double whole = up ? ceill(v) : floorl(v);
	if (exclusive && whole == v)
		whole += up ? 1 : -1;
	return whole > FIXED_MAX ? FIXED_MAX : whole < -FIXED_MAX ? -FIXED_MAX : (int64_t)whole;
}

static uint32_t number(struct compiler *c, const json_t *s, bool integer)
{
	static const struct { const char *name; bool low, exclusive; } bounds[] = {
		{ "minimum", true, false }, { "exclusiveMinimum", true, true }, { "maximum", false, false }, { "exclusiveMaximum", false, true },
	};
	const json_t *unit = json_object_get(s, "multipleOf");
	double most = 0;
	int n = 0, frac = 0;
	int64_t multiple = 1;
	for (size_t i = 0; i < 4; i++) {
		const json_t *v = json_object_get(s, bounds[i].name);
		if (v && !json_is_number(v))
			return fail(c, MOXIE_E_FORMAT, "\"%s\" is not a number", bounds[i].name);
		n += v != NULL;
		most = fmax(most, fabs(json_number_value(v)));
	}
	if (unit && !unit_of(c, unit, &multiple, &frac))
		return 0;
	if (unit && integer)
		multiple = whole_multiple(multiple, frac), frac = 0;
	if (!n && !integer && !unit)
		return ANY_NUMBER;
	/* As many decimals as leave room for the bound, and some where there is none. */
	if (!integer && !unit)
		for (frac = n > 1 ? 9 : 4; frac > 0 && most * pow(10, frac) > 1e16;)
			frac--;
	struct gram_node node = { .kind = GRAM_FIXED, .frac = frac, .lo = -FIXED_MAX, .hi = FIXED_MAX, .multiple = multiple };
	for (size_t i = 0; i < 4; i++) {
		const json_t *v = json_object_get(s, bounds[i].name);
		int64_t x = v ? to_units(json_number_value(v), frac, bounds[i].low, bounds[i].exclusive) : 0;
		if (v && bounds[i].low)
			node.lo = x > node.lo ? x : node.lo;
		else if (v)
			node.hi = x < node.hi ? x : node.hi;
	}
	node.lo += node.lo > 0 ? (multiple - node.lo % multiple) % multiple : -node.lo % multiple;
	node.hi -= node.hi > 0 ? node.hi % multiple : (multiple - -node.hi % multiple) % multiple;
	if (node.lo > node.hi)
		return fail(c, MOXIE_E_UNSUPPORTED, "no number is within its bounds");
	return new_node(c, node);
}

/* A table for pattern, the one there is or a new one.  false: an error was set */
static bool add_regex(struct compiler *c, const char *pattern, size_t n, const struct regex_how *how, const char *keyword)
{
	struct grammar *g = c->g;
	struct moxie_err err;
	if (g->n_dfa == GRAM_MAX_PATTERN) {
		fail(c, MOXIE_E_UNSUPPORTED, "more than %d patterns", GRAM_MAX_PATTERN);
		return false;
	}
	if (!g->dfa && !(g->dfa = calloc(GRAM_MAX_PATTERN, sizeof *g->dfa))) {
		fail(c, MOXIE_E_NOMEM, "out of memory");
		return false;
	}
	int rc = regex_compile(&g->dfa[g->n_dfa], pattern, n, how, &err);
	if (rc < 0)
		fail(c, rc, "\"%s\": %s", keyword, err.text);
	g->n_dfa += rc == 0;
	return rc == 0;
}

static uint32_t regex(struct compiler *c, const char *pattern, bool search, uint32_t min, uint32_t max, const char *keyword)
{
	struct regex_how how = { .in_json = true, .search = search, .min = min, .max = max, .work = &c->work };
	for (size_t i = 0; i < c->g->n_dfa; i++)
		if (!strcmp(c->regex[i].pattern, pattern) && c->regex[i].search == search && c->regex[i].min == min && c->regex[i].max == max)
			return c->regex[i].node;
	size_t i = c->g->n_dfa;
	if (!add_regex(c, pattern, strlen(pattern), &how, keyword))
		return 0;
	c->regex[i].pattern = strdup(pattern);
	c->regex[i].search = search;
	c->regex[i].min = min;
	c->regex[i].max = max;
	if (!c->regex[i].pattern)
		return fail(c, MOXIE_E_NOMEM, "out of memory");
	return c->regex[i].node = new_node(c, (struct gram_node){ .kind = GRAM_REGEX, .first = (uint32_t)i });
}

/* Formats that are patterns, as wholes; NULL: this one says nothing. */
static const char *pattern_of(const char *format)
{
#define DATE "(?:\\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|02-(?:0[1-9]|1\\d|2[0-8]))" \
             "|(?:\\d\\d(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)"
#define TIME "(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,9})?(?:Z|[+-](?:[01]\\d|2[0-3]):[0-5]\\d)"
#define HMS "T(?:\\d{1,9}H(?:\\d{1,9}M(?:\\d{1,9}S)?)?|\\d{1,9}M(?:\\d{1,9}S)?|\\d{1,9}S)"
#define LABEL "[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?"
#define OCTET "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
	static const struct { const char *format, *pattern; } rows[] = {
		{ "date", DATE }, { "time", TIME }, { "date-time", DATE "T" TIME },
		{ "duration", "P(?:\\d{1,9}W|(?:\\d{1,9}Y(?:\\d{1,9}M(?:\\d{1,9}D)?)?|\\d{1,9}M(?:\\d{1,9}D)?|\\d{1,9}D)(?:" HMS ")?|" HMS ")" },
		{ "uuid", "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}" },
		{ "ipv4", OCTET "(?:\\." OCTET "){3}" }, { "ipv6", "(?:[0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}" },
		{ "hostname", LABEL "(?:\\." LABEL "){0,6}" },
		{ "email", "[A-Za-z0-9_+-]{1,64}(?:\\.[A-Za-z0-9_+-]{1,64}){0,2}@" LABEL "(?:\\." LABEL "){1,6}" },
	};
	for (size_t i = 0; format && i < sizeof rows / sizeof *rows; i++)
		if (!strcmp(format, rows[i].format))
			return rows[i].pattern;
	return NULL;
}

/* A pattern stands for itself; a format beside it says nothing more. */
static uint32_t string(struct compiler *c, const json_t *s)
{
	struct gram_node node = { .kind = GRAM_STRING, .min = count_of(c, s, "minLength", 0), .max = count_of(c, s, "maxLength", UINT32_MAX) };
	const json_t *pattern = json_object_get(s, "pattern");
	const char *format = pattern_of(json_string_value(json_object_get(s, "format")));
	if (node.min > node.max)
		return fail(c, MOXIE_E_UNSUPPORTED, "minLength is above maxLength");
	if (pattern && !json_is_string(pattern))
		return fail(c, MOXIE_E_FORMAT, "\"pattern\" is not a string");
	if (pattern && strlen(json_string_value(pattern)) != json_string_length(pattern))
		return fail(c, MOXIE_E_FORMAT, "\"pattern\" has a NUL character");
	if (pattern)
		return regex(c, json_string_value(pattern), true, node.min, node.max, "pattern");
	if (format)
		return regex(c, format, false, node.min, node.max, "format");
	return node.min == 0 && node.max == UINT32_MAX ? ANY_STRING : new_node(c, node);
}

/* ---- objects and arrays ------------------------------------------------------------------------------------------------- */

static bool is_required(const json_t *list, const char *name)
{
	size_t i;
	json_t *v;
	json_array_foreach(list, i, v)
		if (json_is_string(v) && !strcmp(json_string_value(v), name))
			return true;
	return false;
}

/* required: a list of names, each of which stands in props. */
static void check_required(struct compiler *c, const json_t *required, const json_t *props)
{
	size_t i;
	json_t *v;
	if (required && !json_is_array(required))
		fail(c, MOXIE_E_FORMAT, "\"required\" is not a list");
	json_array_foreach(required, i, v) {
		if (!json_is_string(v))
			fail(c, MOXIE_E_FORMAT, "\"required\" has something that is no name");
		else if (!json_object_get(props, json_string_value(v)))
			fail(c, MOXIE_E_UNSUPPORTED, "\"%.60s\" is required, but not in \"properties\"", json_string_value(v));
	}
}

static uint32_t object(struct compiler *c, const json_t *s)
{
	struct grammar *g = c->g;
	const json_t *props = json_object_get(s, "properties"), *required = json_object_get(s, "required"),
	             *more = json_object_get(s, "additionalProperties");
	const char *name;
	json_t *v;
	if (props && !json_is_object(props))
		return fail(c, MOXIE_E_FORMAT, "\"properties\" is not an object");
	check_required(c, required, props);
	size_t n = json_object_size(props);
	if (!n && (!more || json_is_true(more)))
		return ANY_OBJECT;
	if (n > GRAM_MAX_PROPS)
		return fail(c, MOXIE_E_UNSUPPORTED, "an object has %zu properties, at most %d are taken", n, GRAM_MAX_PROPS);
	struct gram_node node = { .kind = GRAM_OBJECT, .n = (uint32_t)n, .rest = GRAM_NONE };
	node.first = grow(c, &g->prop, &g->n_prop, &c->cap_prop, n, sizeof *g->prop, GRAM_MAX_PROP, "properties");
	uint32_t i = node.first;
	json_object_foreach((json_t *)props, name, v) {
		json_t *key = json_string(name);
		struct gram_prop p = { .key = add_text(c, key), .required = is_required(required, name) };
		json_decref(key);
		p.node = compile_in(c, v, name);
		if (c->rc)
			return 0;
		g->prop[i++] = p; /* the list may have moved */
	}
	if (more && !json_is_false(more))
		node.rest = json_is_true(more) ? ANY : compile_in(c, more, "additionalProperties");
	return new_node(c, node);
}

static uint32_t array(struct compiler *c, const json_t *s)
{
	const json_t *items = json_object_get(s, "items"), *prefix = json_object_get(s, "prefixItems");
	if (prefix && !json_is_array(prefix))
		return fail(c, MOXIE_E_FORMAT, "\"prefixItems\" is not a list");
	struct gram_node node = { .kind = GRAM_ARRAY, .n = (uint32_t)json_array_size(prefix), .rest = ANY,
		.min = count_of(c, s, "minItems", 0), .max = count_of(c, s, "maxItems", UINT32_MAX) };
	if (json_is_false(items) || (node.n && !items)) /* unsaid: no others, as with properties */
		node.rest = GRAM_NONE;
	else if (items && !json_is_true(items))
		node.rest = compile_in(c, items, "items");
	node.first = new_links(c, node.n);
	for (uint32_t i = 0; i < node.n && !c->rc; i++) {
		uint32_t item = compile_in(c, json_array_get(prefix, i), "prefixItems");
		if (!c->rc)
			c->g->link[node.first + i] = item;
	}
	if (node.rest == GRAM_NONE && node.max > node.n)
		node.max = node.n;
	if (node.min > node.max)
		return fail(c, MOXIE_E_UNSUPPORTED, "minItems is above what the list may hold");
	return new_node(c, node);
}

/* ---- choices and references --------------------------------------------------------------------------------------------- */

static uint32_t one_type(struct compiler *c, const json_t *s, const char *type)
{
	if (!strcmp(type, "object"))
		return object(c, s);
	if (!strcmp(type, "array"))
		return array(c, s);
	if (!strcmp(type, "string"))
		return string(c, s);
	if (!strcmp(type, "boolean"))
		return ANY_BOOL;
	if (!strcmp(type, "null"))
		return ANY_NULL;
	bool integer = !strcmp(type, "integer");
	if (integer || !strcmp(type, "number"))
		return number(c, s, integer);
	return fail(c, MOXIE_E_FORMAT, "\"%.60s\" is no type", type);
}

/* Any of list; of_types: type names that each stand for s of that type. */
static uint32_t any_of(struct compiler *c, const json_t *s, const json_t *list, const char *keyword, bool of_types)
{
	size_t n = json_array_size(list);
	if (!n)
		return fail(c, MOXIE_E_FORMAT, "\"%s\" is not a list of alternatives", keyword);
	uint32_t first = new_links(c, n);
	for (size_t i = 0; i < n && !c->rc; i++) {
		const json_t *v = json_array_get(list, i);
		uint32_t node;
		if (of_types)
			node = json_is_string(v) ? one_type(c, s, json_string_value(v))
			                         : fail(c, MOXIE_E_FORMAT, "\"type\" has something that is no name");
		else
			node = compile_in(c, v, keyword);
		if (!c->rc)
			c->g->link[first + i] = node;
	}
	return new_node(c, (struct gram_node){ .kind = GRAM_UNION, .first = first, .n = (uint32_t)n });
}

/* What "#/a/b" points to, or NULL. */
static const json_t *resolve(const json_t *v, const char *to)
{
	if (*to++ != '#')
		return NULL;
	while (v && *to) {
		char name[256];
		size_t n = 0;
		if (*to++ != '/')
			return NULL;
		for (; *to && *to != '/' && n < sizeof name - 1; to++) {
			bool escaped = *to == '~' && (to[1] == '0' || to[1] == '1');
			name[n++] = !escaped ? *to : to[1] == '0' ? '~' : '/';
			to += escaped;
		}
		name[n] = 0;
		v = *to && *to != '/' ? NULL : json_object_get(v, name);
	}
	return v;
}

/* The node is there before what it stands for, since that may refer to itself. */
static uint32_t reference(struct compiler *c, const json_t *ref)
{
	const char *to = json_string_value(ref);
	const json_t *target = to ? resolve(c->schema, to) : NULL;
	if (!target)
		return fail(c, MOXIE_E_UNSUPPORTED, "\"$ref\" points to nothing in this schema");
	for (int i = 0; i < c->n_ref; i++)
		if (c->ref[i].to == target)
			return c->ref[i].node;
	if (c->n_ref == MAX_REF)
		return fail(c, MOXIE_E_UNSUPPORTED, "more than %d references", MAX_REF);
	uint32_t first = new_links(c, 1), node = new_node(c, (struct gram_node){ .kind = GRAM_UNION, .first = first, .n = 1 });
	if (c->rc)
		return 0;
	c->ref[c->n_ref].to = target;
	c->ref[c->n_ref++].node = node;
	uint32_t is = compile(c, target);
	if (!c->rc)
		c->g->link[first] = is;
	return node;
}

/* ---- one schema --------------------------------------------------------------------------------------------------------- */

/* Keywords by what they do.  Those of one group may stand beside any type: they say nothing of another's values. */
static const char *const says_nothing[] = { "title", "description", "default", "examples", "example", "$schema", "$id", "$anchor",
	"$comment", "deprecated", "readOnly", "writeOnly", "format", "contentMediaType", "contentEncoding", "discriminator", "$defs", "definitions" };
static const char *const choice[] = { "$ref", "enum", "const", "anyOf", "oneOf", "allOf" };
static const char *const typed[] = { "type", "properties", "required", "additionalProperties", "items", "prefixItems", "minItems",
	"maxItems", "minLength", "maxLength", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf" };
#define COUNT(a) (sizeof a / sizeof *a)

static bool in(const char *const *list, size_t n, const char *word)
{
	for (size_t i = 0; i < n; i++)
		if (!strcmp(list[i], word))
			return true;
	return false;
}

/* The keyword that decides what s is, NULL: its type does.  Whatever would have to hold beside it is refused. */
static const char *check_keywords(struct compiler *c, const json_t *s)
{
	const char *name, *decides = NULL, *beside = NULL;
	json_t *v;
	json_object_foreach((json_t *)s, name, v) {
		if (in(choice, COUNT(choice), name)) {
			if (decides)
				fail(c, MOXIE_E_UNSUPPORTED, "\"%s\" beside \"%s\" is not supported", name, decides);
			decides = name;
		} else if (in(typed, COUNT(typed), name)) {
			beside = strcmp(name, "type") ? name : beside;
		} else if (!in(says_nothing, COUNT(says_nothing), name) && strncmp(name, "x-", 2) &&
		           !(!strcmp(name, "uniqueItems") && json_is_false(v))) {
			refuse(c, name);
		}
	}
	if (decides && beside)
		fail(c, MOXIE_E_UNSUPPORTED, "\"%.60s\" beside \"%s\" is not supported", beside, decides);
	return decides;
}

/* No type is given: the keywords of one tell it. */
static const char *guess_type(const json_t *s)
{
	static const struct { const char *keyword, *type; } rows[] = {
		{ "properties", "object" }, { "required", "object" }, { "additionalProperties", "object" },
		{ "items", "array" }, { "prefixItems", "array" }, { "minItems", "array" }, { "maxItems", "array" },
		{ "minLength", "string" }, { "maxLength", "string" }, { "pattern", "string" },
		{ "minimum", "number" }, { "maximum", "number" }, { "exclusiveMinimum", "number" }, { "exclusiveMaximum", "number" },
		{ "multipleOf", "number" },
	};
	for (size_t i = 0; i < COUNT(rows); i++)
		if (json_object_get(s, rows[i].keyword))
			return rows[i].type;
	return NULL;
}

static uint32_t compile(struct compiler *c, const json_t *s)
{
	if (c->rc || json_is_true(s))
		return ANY;
	if (!json_is_object(s))
		return fail(c, json_is_false(s) ? MOXIE_E_UNSUPPORTED : MOXIE_E_FORMAT, json_is_false(s) ? "nothing follows false" : "no schema");
	const char *decides = check_keywords(c, s), *guess;
	const json_t *v = decides ? json_object_get(s, decides) : NULL, *type = json_object_get(s, "type");
	if (c->rc)
		return 0;
	if (decides && !strcmp(decides, "$ref"))
		return reference(c, v);
	if (decides && !strcmp(decides, "const"))
		return words(c, NULL, v);
	if (decides && !strcmp(decides, "enum"))
		return words(c, v, NULL);
	if (decides && !strcmp(decides, "allOf"))
		return json_array_size(v) == 1 ? compile_in(c, json_array_get(v, 0), decides) : refuse(c, "allOf of more than one");
	if (decides)
		return any_of(c, s, v, decides, false);
	if (json_is_array(type))
		return any_of(c, s, type, "type", true);
	if (json_is_string(type))
		return one_type(c, s, json_string_value(type));
	if (type)
		return fail(c, MOXIE_E_FORMAT, "\"type\" is neither a name nor a list of names");
	return (guess = guess_type(s)) ? one_type(c, s, guess) : ANY;
}

/* ---- the whole ---------------------------------------------------------------------------------------------------------- */

static void add_builtins(struct compiler *c)
{
	json_t *t = json_true(), *f = json_false(), *null = json_null(), *both = json_array();
	bool ok = both && json_array_append(both, f) == 0 && json_array_append(both, t) == 0;
	uint32_t alt = new_links(c, N_BUILTIN - 1);
	new_node(c, (struct gram_node){ .kind = GRAM_UNION, .first = alt, .n = N_BUILTIN - 1 });
	new_node(c, (struct gram_node){ .kind = GRAM_STRING, .max = UINT32_MAX });
	new_node(c, (struct gram_node){ .kind = GRAM_NUMBER });
	new_node(c, (struct gram_node){ .kind = GRAM_OBJECT, .rest = ANY });
	new_node(c, (struct gram_node){ .kind = GRAM_ARRAY, .rest = ANY, .max = UINT32_MAX });
	if (ok)
		words(c, both, NULL);
	else
		fail(c, MOXIE_E_NOMEM, "out of memory");
	words(c, NULL, null);
	for (uint32_t i = 1; i < N_BUILTIN && !c->rc; i++)
		c->g->link[alt + i - 1] = i;
	json_decref(both);
}

/* The height of a node by those of the nodes below it, one of them not known yet: infinite. */
static int height_of(const struct grammar *g, const struct gram_node *n)
{
	int most = 0, least = GRAM_MAX_LEVEL + 1;
	switch (n->kind) {
	case GRAM_UNION:
		for (uint32_t i = 0; i < n->n; i++) {
			int h = g->node[g->link[n->first + i]].height;
			least = h < least ? h : least;
		}
		return least;
	case GRAM_OBJECT:
		for (uint32_t i = 0; i < n->n; i++) {
			const struct gram_prop *p = &g->prop[n->first + i];
			int h = p->required ? g->node[p->node].height : 0;
			most = h > most ? h : most;
		}
		break;
	case GRAM_ARRAY:
		for (uint32_t i = 0; i < n->min && i <= n->n; i++) {
			uint32_t item = i < n->n ? g->link[n->first + i] : n->rest;
			int h = g->node[item].height;
			most = h > most ? h : most;
		}
		break;
	default:
		break;
	}
	return most < GRAM_MAX_LEVEL + 1 ? most + 1 : most;
}

static void set_heights(struct grammar *g)
{
	for (size_t i = 0; i < g->n_node; i++)
		g->node[i].height = GRAM_MAX_LEVEL + 1;
	for (int pass = 0; pass <= GRAM_MAX_LEVEL; pass++) /* each pass settles one more level; unions add none, hence the inner loop */
		for (bool changed = true; changed;) {
			changed = false;
			for (size_t i = g->n_node; i-- > 0;) {
				int h = height_of(g, &g->node[i]);
				changed |= h < g->node[i].height;
				g->node[i].height = h < g->node[i].height ? h : g->node[i].height;
			}
		}
}

/* The ways to begin a value of node; n_way remembers, 0: not known, CIRCULAR while it is being counted.  Alternatives that lead back
 * to themselves without a sign between would never end, and those of alternatives multiply. */
enum { CIRCULAR = UINT16_MAX };
static int count_ways(const struct grammar *g, uint32_t node, uint16_t *n_way)
{
	const struct gram_node *n = &g->node[node];
	int sum = 0;
	if (n->kind != GRAM_UNION)
		return 1;
	if (n_way[node])
		return n_way[node];
	n_way[node] = CIRCULAR;
	for (uint32_t i = 0; i < n->n && sum <= GRAM_MAX_CHOICES; i++)
		sum += count_ways(g, g->link[n->first + i], n_way);
	n_way[node] = sum >= CIRCULAR ? CIRCULAR : (uint16_t)sum;
	return sum;
}

static void check_whole(struct compiler *c)
{
	struct grammar *g = c->g;
	uint16_t *n_way = calloc(g->n_node, sizeof *n_way);
	if (!n_way) {
		fail(c, MOXIE_E_NOMEM, "out of memory");
		return;
	}
	for (uint32_t i = 0; i < g->n_node && !c->rc; i++) {
		int n = count_ways(g, i, n_way);
		if (n >= CIRCULAR)
			fail(c, MOXIE_E_UNSUPPORTED, "a reference leads to itself");
		else if (n > GRAM_MAX_CHOICES)
			fail(c, MOXIE_E_UNSUPPORTED, "a value has more than %d alternatives", GRAM_MAX_CHOICES);
	}
	free(n_way);
	set_heights(g);
	if (!c->rc && g->node[g->root].height > GRAM_MAX_LEVEL)
		fail(c, MOXIE_E_UNSUPPORTED, "the least answer has more than %d levels, or no end", GRAM_MAX_LEVEL);
}

int grammar_compile(struct grammar **out, const char *schema, size_t n, struct moxie_err *err)
{
	*out = NULL;
	if (n > GRAM_MAX_SCHEMA)
		return err_set(err, MOXIE_E_UNSUPPORTED, "the schema has %zu bytes, at most %d are taken", n, GRAM_MAX_SCHEMA);
	json_t *s = NULL;
	int rc = schema ? json_read_text(&s, schema, n, "the schema", err) : 0;
	if (rc < 0)
		return rc;
	struct compiler *c = calloc(1, sizeof *c);
	struct grammar *g = calloc(1, sizeof *g);
	if (c && g) {
		c->g = g;
		c->schema = s;
		c->err = err;
		c->work = REGEX_WORK;
		add_builtins(c);
		g->root = s ? compile(c, s) : ANY_OBJECT;
		if (!c->rc)
			check_whole(c);
		rc = c->rc;
	} else {
		rc = err_nomem(err, sizeof *c, "a schema");
	}
	for (size_t i = 0; c && i < GRAM_MAX_PATTERN; i++)
		free(c->regex[i].pattern);
	free(c);
	json_decref(s);
	if (rc < 0)
		grammar_free(g);
	else
		*out = g;
	return rc;
}

int grammar_compile_regex(struct grammar **out, const char *pattern, size_t n, struct moxie_err *err)
{
	size_t work = REGEX_WORK;
	struct regex_how how = { .max = UINT32_MAX, .work = &work };
	struct grammar *g = calloc(1, sizeof *g);
	*out = NULL;
	if (!g || !(g->dfa = calloc(1, sizeof *g->dfa)) || !(g->node = calloc(1, sizeof *g->node))) {
		grammar_free(g);
		return err_nomem(err, sizeof *g, "a pattern");
	}
	int rc = regex_compile(g->dfa, pattern, n, &how, err);
	g->n_dfa = rc == 0;
	g->n_node = 1;
	g->node[0] = (struct gram_node){ .kind = GRAM_REGEX, .raw = true, .height = 1 };
	if (rc < 0)
		grammar_free(g);
	else
		*out = g;
	return rc;
}

void grammar_free(struct grammar *g)
{
	if (!g)
		return;
	for (size_t i = 0; i < g->n_dfa; i++)
		dfa_free(&g->dfa[i]);
	free(g->dfa);
	free(g->node);
	free(g->prop);
	free(g->link);
	free(g->word);
	buf_free(&g->text);
	free(g);
}
