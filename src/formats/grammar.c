/* grammar.c - a compiled schema followed byte by byte.
 *
 * A run holds the tops of its stacks.  Frames are never changed: a step puts a new top beside the old one, both on the same parent,
 * so that a walk over the vocabulary's trie goes back by forgetting what it put.  grammar_push throws away what nothing leads to.
 */
#include <stdlib.h>
#include <string.h>

#include "formats/grammar_int.h"

enum { MAX_STACK = 32, MAX_FRAME = 20000 };

/* Where a frame is in its node. */
enum place {
	AT_VALUE,  /* a value is to begin */
	AT_FIRST,  /* behind [ or { */
	AT_NAME,   /* in a name of the schema: a = the first property it may still be, b = bytes of it (low half), first allowed (high) */
	AT_OTHER,  /* in another name: lex; a = the first property that begins like it or GRAM_NONE, b = bytes of it, quote included */
	AT_COLON,  /* a = which property, n of the node: another */
	AT_AFTER,  /* behind a value; a = next property, or items so far */
	AT_NEXT,   /* behind a comma; a = the same */
	AT_STRING, /* lex; a = characters so far, where they count */
	AT_NUMBER, /* lex = phase; a = digits so far of the phase, its high bit: minus; b = all digits as a number (fixed) */
	AT_WORD,   /* a = the first word it may still be, b = bytes of it */
	AT_REGEX,  /* in a string that follows a table: a = its state */
	AT_RAW     /* the same, without quotes: the whole text */
};
enum phase { PH_MINUS, PH_ZERO, PH_INT, PH_DOT, PH_FRAC, PH_E, PH_SIGN, PH_EXP };
#define MINUS 0x80000000u

struct frame {
	uint16_t node;
	uint8_t place, lex; /* lex: of AT_FIRST, AT_AFTER, AT_NEXT, AT_VALUE the blanks so far, see blank_step */
	uint32_t a;
	uint64_t b;
};
struct link {
	struct frame f;
	uint32_t parent, level;
};
struct set { /* of tops; 0: the value is whole */
	uint32_t v[MAX_STACK];
	int n;
};

struct grammar_run {
	const struct grammar *g;
	const struct token_trie *trie;
	struct link *link; /* [MAX_FRAME]; link[0] is below the root */
	uint32_t n;
	struct set top;
	uint32_t *moved;   /* [MAX_FRAME] */
	uint32_t *tails;   /* bits of trie's tails */
};

_Static_assert(GRAM_MAX_NODE <= UINT16_MAX, "nodes are 16 bits in a frame");

/* A new top on parent; GRAM_NONE: no room, this way to read the text is given up. */
static uint32_t put(struct grammar_run *r, uint32_t parent, struct frame f)
{
	if (parent == GRAM_NONE || r->n == MAX_FRAME)
		return GRAM_NONE;
	r->link[r->n] = (struct link){ f, parent, r->link[parent].level + 1 };
	return r->n++;
}

static void add(struct set *s, uint32_t top)
{
	if (top == GRAM_NONE || s->n == MAX_STACK)
		return;
	s->v[s->n++] = top;
}

static bool fits(const struct grammar_run *r, uint32_t parent, uint32_t node)
{
	return parent != GRAM_NONE && r->link[parent].level + (uint32_t)r->g->node[node].height <= GRAM_MAX_LEVEL;
}

static void step(struct grammar_run *r, uint32_t top, unsigned char c, struct set *out);

/* ---- numbers ------------------------------------------------------------------------------------------------------------ */

static int64_t power(int n)
{
	int64_t p = 1;
	while (n-- > 0)
		p *= 10;
	return p;
}

static bool has_multiple(int64_t lo, int64_t hi, int64_t of)
{
	return lo <= hi && (hi >= 0 ? hi - hi % of >= lo : -(-hi + of - 1) / of * of >= lo);
}

static int64_t greater(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

static int64_t lesser(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* Is some number that n allows written by these digits, and more behind them?  f digits stand behind the point (in_frac). */
static bool may_become(const struct gram_node *n, bool minus, int64_t digits, int f, bool in_frac)
{
	for (int more = 0;; more++) {
		if (n->frac - f + more > 17 || digits > FIXED_MAX / power(n->frac - f + more))
			return false;
		int64_t unit = power(n->frac - f + more), low = digits * unit, high = low + (unit - 1);
		if (!in_frac && more && digits == 0)
			return false; /* no leading zeros */
		if (minus && low == 0 && high == 0)
			return false; /* -0 */
		if (minus ? has_multiple(greater(n->lo, -high), lesser(n->hi, low ? -low : -1), n->multiple)
		          : has_multiple(greater(n->lo, low), lesser(n->hi, high), n->multiple))
			return true;
		if (in_frac)
			return false;
	}
}

static bool fixed_done(const struct gram_node *n, const struct frame *f)
{
	bool minus = f->a & MINUS;
	int frac = f->lex == PH_FRAC ? (int)(f->a & ~MINUS) : 0;
	int64_t x = (int64_t)f->b * power(n->frac - frac);
	if (f->lex == PH_MINUS || f->lex == PH_DOT || (minus && x == 0))
		return false;
	return x % n->multiple == 0 && (minus ? -x >= n->lo && -x <= n->hi : x >= n->lo && x <= n->hi);
}

static bool fixed_step(const struct gram_node *n, struct frame *f, unsigned char c)
{
	bool minus = f->a & MINUS;
	int frac = f->lex == PH_FRAC ? (int)(f->a & ~MINUS) : 0;
	if (c == '.' && n->frac && (f->lex == PH_ZERO || f->lex == PH_INT)) {
		f->lex = PH_DOT;
		return may_become(n, minus, (int64_t)f->b, 0, true);
	}
	if (c < '0' || c > '9' || f->lex == PH_ZERO)
		return false;
	bool in_frac = f->lex == PH_DOT || f->lex == PH_FRAC;
	if (in_frac && frac == n->frac)
		return false;
	f->b = f->b * 10 + (c - '0');
	f->a = (minus ? MINUS : 0) | (in_frac ? (uint32_t)frac + 1 : 0);
	f->lex = in_frac ? PH_FRAC : f->b ? PH_INT : PH_ZERO;
	return f->b <= FIXED_MAX && may_become(n, minus, (int64_t)f->b, in_frac ? frac + 1 : 0, in_frac);
}

static bool free_done(const struct frame *f)
{
	return f->lex == PH_ZERO || f->lex == PH_INT || f->lex == PH_FRAC || f->lex == PH_EXP;
}

/* Digits are counted: 17 before the point, 17 behind it, 2 of the exponent, so that every reader of JSON can hold the number. */
static bool free_step(struct frame *f, unsigned char c)
{
	static const uint8_t most[] = { [PH_INT] = 17, [PH_FRAC] = 17, [PH_EXP] = 2 };
	uint8_t to = PH_MINUS;
	bool digit = c >= '0' && c <= '9';
	switch (f->lex) {
	case PH_MINUS:
		to = c == '0' ? PH_ZERO : digit ? PH_INT : PH_MINUS;
		break;
	case PH_ZERO:
	case PH_INT:
		to = digit && f->lex == PH_INT ? PH_INT : c == '.' ? PH_DOT : (c | 32) == 'e' ? PH_E : PH_MINUS;
		break;
	case PH_DOT:
		to = digit ? PH_FRAC : PH_MINUS;
		break;
	case PH_FRAC:
		to = digit ? PH_FRAC : (c | 32) == 'e' ? PH_E : PH_MINUS;
		break;
	case PH_E:
		to = digit ? PH_EXP : c == '+' || c == '-' ? PH_SIGN : PH_MINUS;
		break;
	default: /* PH_SIGN, PH_EXP */
		to = digit ? PH_EXP : PH_MINUS;
	}
	if (to == PH_MINUS)
		return false;
	f->a = to == f->lex ? f->a + 1 : 1;
	f->lex = to;
	return !(to == PH_INT || to == PH_FRAC || to == PH_EXP) || f->a <= most[to];
}

static bool number_done(const struct grammar_run *r, const struct frame *f)
{
	const struct gram_node *n = &r->g->node[f->node];
	return f->place == AT_NUMBER && (n->kind == GRAM_FIXED ? fixed_done(n, f) : free_done(f));
}

static void number_step(struct grammar_run *r, uint32_t parent, struct frame f, unsigned char c, struct set *out)
{
	const struct gram_node *n = &r->g->node[f.node];
	struct frame next = f;
	if (n->kind == GRAM_FIXED ? fixed_step(n, &next, c) : free_step(&next, c))
		add(out, put(r, parent, next));
	else if (number_done(r, &f))
		step(r, parent, c, out); /* c is no digit: the number ended before it */
}

/* ---- words and names ------------------------------------------------------------------------------------------------------ */

static bool same_start(const struct grammar *g, struct gram_text a, struct gram_text b, uint64_t n)
{
	return a.n >= n && b.n >= n && !memcmp(g->text.p + a.off, g->text.p + b.off, n);
}

/* Is word i, of a list in which word like stands before it, behind all that begin with like's n bytes and a byte below c? */
static bool is_behind(const struct grammar *g, uint32_t i, uint32_t like, uint64_t n, unsigned char c)
{
	struct gram_text w = g->word[i];
	return !same_start(g, w, g->word[like], n) || (w.n > n && (unsigned char)g->text.p[w.off + n] >= c);
}

/* The words that begin like word f.a for f.b bytes, and go on with c: both the one that ends there, and the longer ones.  They stand
 * together, sorted. */
static void word_step(struct grammar_run *r, uint32_t parent, struct frame f, unsigned char c, struct set *out)
{
	const struct grammar *g = r->g;
	const struct gram_node *n = &g->node[f.node];
	uint32_t from = f.a, end = n->first + n->n, behind = end;
	while (from < behind) {
		uint32_t mid = from + (behind - from) / 2;
		if (is_behind(g, mid, f.a, f.b, c))
			behind = mid;
		else
			from = mid + 1;
	}
	for (uint32_t i = from; i < end && i < from + 2 && same_start(g, g->word[i], g->word[f.a], f.b); i++) {
		struct gram_text w = g->word[i];
		if (w.n == f.b || (unsigned char)g->text.p[w.off + f.b] != c)
			return;
		if (w.n > f.b + 1) { /* the first longer one stands for all */
			add(out, put(r, parent, (struct frame){ .node = f.node, .place = AT_WORD, .a = i, .b = f.b + 1 }));
			return;
		}
		add(out, parent);
	}
}

/* The first property at or behind `from` that may come next and whose name begins like property like's for n bytes, then with c. */
static uint32_t find_name(const struct grammar_run *r, uint32_t object, const struct gram_node *n, uint32_t from, uint32_t like,
                          uint64_t n_same, int c)
{
	const struct grammar *g = r->g;
	for (uint32_t i = from; i < n->n; i++) {
		const struct gram_prop *p = &g->prop[n->first + i];
		if (fits(r, object, p->node) && same_start(g, p->key, g->prop[n->first + like].key, n_same) &&
		    (c < 0 || (p->key.n > n_same && (unsigned char)g->text.p[p->key.off + n_same] == c)))
			return i;
		if (p->required)
			break; /* those behind it come later */
	}
	return GRAM_NONE;
}

static bool none_required(const struct grammar *g, const struct gram_node *n, uint32_t from)
{
	for (uint32_t i = from; i < n->n; i++)
		if (g->prop[n->first + i].required)
			return false;
	return true;
}

/* May the object get a name of its own, where the next of the schema's would be property `from`? */
static bool may_have_other(const struct grammar_run *r, uint32_t object, const struct gram_node *n, uint32_t from)
{
	return n->rest != GRAM_NONE && fits(r, object, n->rest) && none_required(r->g, n, from);
}

/* Of all properties, the first whose name begins with the n bytes of property like's, and c. */
static uint32_t find_like(const struct grammar *g, const struct gram_node *n, uint32_t like, uint64_t n_same, unsigned char c)
{
	for (uint32_t i = like; like != GRAM_NONE && i < n->n; i++) {
		struct gram_text k = g->prop[n->first + i].key;
		if (k.n > n_same && same_start(g, k, g->prop[n->first + like].key, n_same) && (unsigned char)g->text.p[k.off + n_same] == c)
			return i;
	}
	return GRAM_NONE;
}

/* The quote that begins a name. */
static void begin_name(struct grammar_run *r, uint32_t top, struct set *out)
{
	struct link at = r->link[top];
	const struct gram_node *n = &r->g->node[at.f.node];
	uint32_t from = at.f.a, first = from < n->n ? find_name(r, top, n, from, from, 0, -1) : GRAM_NONE;
	if (first != GRAM_NONE)
		add(out, put(r, at.parent, (struct frame){ .node = at.f.node, .place = AT_NAME, .a = first, .b = (uint64_t)from << 32 | 1 }));
	if (may_have_other(r, top, n, from))
		add(out, put(r, at.parent, (struct frame){ .node = at.f.node, .place = AT_OTHER, .lex = n->n ? LEX_KEY : LEX_PLAIN,
			.a = n->n ? 0 : GRAM_NONE, .b = 1 }));
}

static void name_step(struct grammar_run *r, uint32_t top, unsigned char c, struct set *out)
{
	struct link at = r->link[top];
	const struct gram_node *n = &r->g->node[at.f.node];
	uint64_t n_byte = at.f.b & UINT32_MAX;
	uint32_t i = find_name(r, top, n, (uint32_t)(at.f.b >> 32), at.f.a, n_byte, c);
	if (i == GRAM_NONE)
		return;
	struct frame f = at.f;
	f.a = i;
	f.b++;
	if (r->g->prop[n->first + i].key.n == n_byte + 1)
		f = (struct frame){ .node = f.node, .place = AT_COLON, .a = i };
	add(out, put(r, at.parent, f));
}

static void other_step(struct grammar_run *r, uint32_t top, unsigned char c, struct set *out)
{
	struct link at = r->link[top];
	const struct gram_node *n = &r->g->node[at.f.node];
	struct frame f = at.f;
	uint8_t lex = json_lex_step(f.lex, c);
	if (lex == LEX_DEAD)
		return;
	f.a = find_like(r->g, n, f.a, f.b, c);
	if (lex == LEX_END && f.a != GRAM_NONE && r->g->prop[n->first + f.a].key.n == f.b + 1)
		return; /* that is a name of the schema */
	f.lex = lex;
	f.b = f.a == GRAM_NONE ? 0 : f.b + 1;
	if (lex == LEX_END)
		f = (struct frame){ .node = f.node, .place = AT_COLON, .a = n->n };
	add(out, put(r, at.parent, f));
}

/* ---- values --------------------------------------------------------------------------------------------------------------- */

/* c begins a value of node. */
static void begin(struct grammar_run *r, uint32_t parent, uint32_t node, unsigned char c, struct set *out)
{
	const struct gram_node *n = &r->g->node[node];
	struct frame f = { .node = (uint16_t)node };
	if (!fits(r, parent, node))
		return;
	switch (n->kind) {
	case GRAM_UNION:
		for (uint32_t i = 0; i < n->n; i++)
			begin(r, parent, r->g->link[n->first + i], c, out);
		return;
	case GRAM_OBJECT:
	case GRAM_ARRAY:
		f.place = AT_FIRST;
		if (c == (n->kind == GRAM_OBJECT ? '{' : '['))
			add(out, put(r, parent, f));
		return;
	case GRAM_STRING:
		f.place = AT_STRING;
		if (c == '"')
			add(out, put(r, parent, f));
		return;
	case GRAM_REGEX:
		f.place = AT_REGEX;
		f.a = 1;
		if (c == '"')
			add(out, put(r, parent, f));
		return;
	case GRAM_WORDS:
		f.a = n->first;
		word_step(r, parent, f, c, out);
		return;
	case GRAM_NUMBER:
	case GRAM_FIXED:
		f.place = AT_NUMBER;
		f.lex = PH_MINUS;
		if (c == '-') {
			f.a = MINUS;
			if (n->kind == GRAM_NUMBER || n->lo < 0)
				add(out, put(r, parent, f));
		} else {
			number_step(r, parent, f, c, out);
		}
		return;
	}
}

static void object_step(struct grammar_run *r, uint32_t top, unsigned char c, struct set *out)
{
	struct link at = r->link[top];
	struct frame f = at.f;
	const struct gram_node *n = &r->g->node[f.node];
	if (f.place == AT_COLON) {
		if (c != ':')
			return;
		uint32_t value = f.a < n->n ? r->g->prop[n->first + f.a].node : n->rest;
		uint32_t below = put(r, at.parent, (struct frame){ .node = f.node, .place = AT_AFTER, .a = f.a < n->n ? f.a + 1 : n->n });
		add(out, put(r, below, (struct frame){ .node = (uint16_t)value, .place = AT_VALUE }));
	} else if (c == '}' && f.place != AT_NEXT) {
		if (none_required(r->g, n, f.a))
			add(out, at.parent);
	} else if (c == '"' && f.place != AT_AFTER) {
		begin_name(r, top, out);
	} else if (c == ',' && f.place == AT_AFTER && !f.lex) {
		bool more = f.a < n->n && find_name(r, top, n, f.a, f.a, 0, -1) != GRAM_NONE;
		if (more || may_have_other(r, top, n, f.a))
			add(out, put(r, at.parent, (struct frame){ .node = f.node, .place = AT_NEXT, .a = f.a }));
	}
}

static void array_step(struct grammar_run *r, uint32_t top, unsigned char c, struct set *out)
{
	struct link at = r->link[top];
	struct frame f = at.f;
	const struct gram_node *n = &r->g->node[f.node];
	uint32_t item = f.a < n->n ? r->g->link[n->first + f.a] : n->rest;
	bool more = f.a < n->max && item != GRAM_NONE && fits(r, top, item);
	if (c == ']' && f.place != AT_NEXT) {
		if (f.a >= n->min)
			add(out, at.parent);
	} else if (f.place == AT_AFTER) {
		if (c == ',' && more && !f.lex)
			add(out, put(r, at.parent, (struct frame){ .node = f.node, .place = AT_NEXT, .a = f.a }));
	} else if (more) {
		begin(r, put(r, at.parent, (struct frame){ .node = f.node, .place = AT_AFTER, .a = f.a + (f.a < UINT32_MAX - 1) }), item, c, out);
	}
}

/* One space; or a line end and an indent of at most four a level.  Models that may write blanks without end do. */
static bool blank_step(const struct link *at, struct frame *f, unsigned char c)
{
	enum { SPACE = 1, LINE = 2 };
	if (f->lex == 0 && c == ' ')
		f->lex = SPACE;
	else if (f->lex == 0 && c == '\n' && f->place != AT_VALUE)
		f->lex = LINE;
	else if (f->lex >= LINE && f->lex < LINE + 4 * at->level && (c == ' ' || c == '\t'))
		f->lex++;
	else
		return false;
	return true;
}

/* Behind a value: could the object or array end here?  A blank comes before its end alone. */
static bool may_end(const struct grammar *g, const struct frame *f)
{
	const struct gram_node *n = &g->node[f->node];
	return n->kind == GRAM_OBJECT ? none_required(g, n, f->a) : f->a >= n->min;
}

/* What text may be after byte c where it was top before: joins out. */
static void step(struct grammar_run *r, uint32_t top, unsigned char c, struct set *out)
{
	if (top == 0)
		return; /* nothing follows the whole value */
	struct link at = r->link[top];
	struct frame f = at.f;
	bool blanks = f.place == AT_FIRST || (f.place == AT_AFTER && may_end(r->g, &f)) || f.place == AT_NEXT ||
	              (f.place == AT_VALUE && at.parent != 0);
	if (blanks && (c == ' ' || c == '\n' || c == '\t')) {
		if (blank_step(&at, &f, c))
			add(out, put(r, at.parent, f));
		return;
	}
	const struct gram_node *n = &r->g->node[f.node];
	switch (f.place) {
	case AT_VALUE:
		begin(r, at.parent, f.node, c, out);
		break;
	case AT_NAME:
		name_step(r, top, c, out);
		break;
	case AT_OTHER:
		other_step(r, top, c, out);
		break;
	case AT_STRING: {
		uint8_t lex = json_lex_step(f.lex, c);
		bool counts = n->min > 0 || n->max < UINT32_MAX;
		if (lex == LEX_END && f.a >= n->min)
			add(out, at.parent);
		if (lex >= LEX_END || (counts && json_lex_between(f.lex) && f.a == n->max))
			break;
		f.a += counts && json_lex_between(f.lex);
		f.lex = lex;
		add(out, put(r, at.parent, f));
		break;
	}
	case AT_REGEX:
	case AT_RAW: {
		const struct dfa *d = &r->g->dfa[n->first];
		if (f.place == AT_REGEX && c == '"' && d->accept[f.a])
			add(out, at.parent);
		f.a = dfa_step(d, (uint16_t)f.a, c);
		if (f.a)
			add(out, put(r, at.parent, f));
		break;
	}
	case AT_NUMBER:
		number_step(r, at.parent, f, c, out);
		break;
	case AT_WORD:
		word_step(r, at.parent, f, c, out);
		break;
	default:
		if (n->kind == GRAM_OBJECT)
			object_step(r, top, c, out);
		else
			array_step(r, top, c, out);
	}
}

/* ---- runs ------------------------------------------------------------------------------------------------------------------- */

int grammar_run_create(struct grammar_run **out, const struct grammar *g, const struct token_trie *trie, struct moxie_err *err)
{
	*out = NULL;
	struct grammar_run *r = calloc(1, sizeof *r);
	if (r) {
		r->g = g;
		r->trie = trie;
		r->link = calloc(MAX_FRAME, sizeof *r->link);
		r->moved = calloc(MAX_FRAME, sizeof *r->moved);
		r->tails = trie ? calloc(trie->n_tail / 32 + 1, sizeof *r->tails) : NULL;
	}
	if (!r || !r->link || !r->moved || (trie && !r->tails)) {
		grammar_run_free(r);
		return err_nomem(err, MAX_FRAME * sizeof *r->link, "a schema's run");
	}
	r->n = 1;
	bool raw = g->node[g->root].raw;
	add(&r->top, put(r, 0, (struct frame){ .node = (uint16_t)g->root, .place = raw ? AT_RAW : AT_VALUE, .a = raw }));
	*out = r;
	return 0;
}

void grammar_run_free(struct grammar_run *r)
{
	if (!r)
		return;
	free(r->link);
	free(r->moved);
	free(r->tails);
	free(r);
}

/* Links that no top leads to go; the others move together, parents before children as they were. */
static void compact(struct grammar_run *r)
{
	uint32_t n = 1;
	memset(r->moved, 0, r->n * sizeof *r->moved);
	for (int i = 0; i < r->top.n; i++)
		for (uint32_t at = r->top.v[i]; at && !r->moved[at]; at = r->link[at].parent)
			r->moved[at] = 1;
	for (uint32_t i = 1; i < r->n; i++) {
		if (!r->moved[i])
			continue;
		r->link[n] = r->link[i];
		r->link[n].parent = r->moved[r->link[i].parent];
		r->moved[i] = n++;
	}
	for (int i = 0; i < r->top.n; i++)
		r->top.v[i] = r->moved[r->top.v[i]];
	r->n = n;
}

static bool same_top(const struct grammar_run *r, uint32_t a, uint32_t b)
{
	return a == b || (a && b && r->link[a].parent == r->link[b].parent && !memcmp(&r->link[a].f, &r->link[b].f, sizeof(struct frame)));
}

bool grammar_push(struct grammar_run *r, const char *p, size_t n)
{
	struct set now = r->top, next;
	uint32_t n_before = r->n;
	for (size_t i = 0; i < n; i++) {
		next.n = 0;
		for (int k = 0; k < now.n; k++)
			step(r, now.v[k], (unsigned char)p[i], &next);
		int n_kept = 0; /* ways that met are one from here on */
		for (int k = 0; k < next.n; k++) {
			int j = 0;
			while (j < n_kept && !same_top(r, next.v[j], next.v[k]))
				j++;
			if (j == n_kept)
				next.v[n_kept++] = next.v[k];
		}
		next.n = n_kept;
		now = next;
		if (!now.n) {
			r->n = n_before;
			return false;
		}
	}
	r->top = now;
	compact(r);
	return true;
}

bool grammar_done(const struct grammar_run *r)
{
	for (int i = 0; i < r->top.n; i++) {
		uint32_t top = r->top.v[i];
		const struct frame *f = &r->link[top].f;
		if (top == 0 || (r->link[top].parent == 0 && number_done(r, f)) ||
		    (f->place == AT_RAW && r->g->dfa[r->g->node[f->node].first].accept[f->a]))
			return true;
	}
	return false;
}

/* ---- masks -------------------------------------------------------------------------------------------------------------------- */

/* Sets the bits of those of f's nodes i .. end, which lie below one of depth `above`, that may come where one of from is the top. */
static void walk_part(struct grammar_run *r, const struct flat_trie *f, uint32_t i, uint32_t end, int above, const struct set *from, uint32_t *bits)
{
	struct set level[TRIE_MAX_BYTES + 1];
	uint32_t n_link[TRIE_MAX_BYTES + 1];
	level[above] = *from;
	n_link[above] = r->n;
	while (i < end) {
		int d = f->depth[i];
		r->n = n_link[d - 1];
		level[d].n = 0;
		for (int k = 0; k < level[d - 1].n; k++)
			step(r, level[d - 1].v[k], f->byte[i], &level[d]);
		n_link[d] = r->n;
		if (level[d].n && f->id[i] >= 0)
			bits[f->id[i] / 32] |= 1u << f->id[i] % 32;
		i = level[d].n ? i + 1 : f->skip[i];
	}
	r->n = n_link[above];
}

static void walk(struct grammar_run *r, const struct flat_trie *f, const struct set *from, uint32_t *bits)
{
	walk_part(r, f, 0, f->n, 0, from, bits);
}

/* Where text follows a table, without the table's frames: for each byte of the vocabulary one step. */
static void mask_regex(struct grammar_run *r, uint32_t top, uint32_t *bits)
{
	const struct frame at = r->link[top].f;
	const struct dfa *d = &r->g->dfa[r->g->node[at.node].first];
	const struct flat_trie *f = &r->trie->all;
	struct set behind = { .v = { r->link[top].parent }, .n = 1 };
	uint16_t state[TRIE_MAX_BYTES + 1];
	state[0] = (uint16_t)at.a;
	for (uint32_t i = 0; i < f->n;) {
		int depth = f->depth[i];
		uint16_t s = state[depth] = dfa_step(d, state[depth - 1], f->byte[i]);
		bool closes = at.place == AT_REGEX && f->byte[i] == '"' && d->accept[state[depth - 1]];
		if ((s || closes) && f->id[i] >= 0)
			bits[f->id[i] / 32] |= 1u << f->id[i] % 32;
		if (closes)
			walk_part(r, f, i + 1, f->skip[i], depth, &behind, bits);
		i = s ? i + 1 : f->skip[i];
	}
}

/* Would a token that closes the name be one of the schema's? */
static bool is_taken(const struct grammar_run *r, const struct frame *f, const struct closer *c)
{
	const struct gram_node *n = &r->g->node[f->node];
	const struct grammar *g = r->g;
	size_t n_byte;
	for (uint32_t i = f->a; f->place == AT_OTHER && i < n->n; i++) {
		struct gram_text k = g->prop[n->first + i].key;
		if (k.n == f->b + c->n_byte && same_start(g, k, g->prop[n->first + f->a].key, f->b) &&
		    !memcmp(g->text.p + k.off + f->b, tokenizer_bytes(r->trie->t, c->token, &n_byte), c->n_byte))
			return true;
	}
	return false;
}

/* Inside a string: what the trie's tables say of its state, and of those tokens that close it the ones whose tails may follow. */
static void mask_string(struct grammar_run *r, uint32_t top, uint32_t *bits)
{
	const struct link at = r->link[top];
	const struct gram_node *n = &r->g->node[at.f.node];
	const struct token_trie *t = r->trie;
	const struct lex_tokens *l = &t->lex[at.f.lex];
	bool is_name = at.f.place == AT_OTHER;
	uint32_t left = is_name || n->max == UINT32_MAX ? UINT32_MAX : n->max - at.f.a;
	uint32_t need = is_name || at.f.a >= n->min ? 0 : n->min - at.f.a;
	if (left > TRIE_MAX_BYTES) {
		for (int i = 0; i < t->n_vocab / 32 + 1; i++)
			bits[i] |= l->inside[i];
	} else {
		for (int i = 0; i < t->n_vocab; i++)
			bits[i / 32] |= (l->inside[i / 32] >> i % 32 & (l->n_char[i] <= left)) << i % 32;
	}
	uint32_t n_link = r->n;
	struct set next = { .n = 0 };
	add(&next, is_name ? put(r, at.parent, (struct frame){ .node = at.f.node, .place = AT_COLON, .a = n->n }) : at.parent);
	memset(r->tails, 0, (t->n_tail / 32 + 1) * sizeof *r->tails);
	r->tails[0] = 1;
	walk(r, &t->tails, &next, r->tails);
	for (uint32_t i = 0; i < l->n_closer; i++) {
		const struct closer *c = &l->closer[i];
		if (c->n_char >= need && c->n_char <= left && r->tails[c->tail / 32] >> c->tail % 32 & 1 && !is_taken(r, &at.f, c))
			bits[c->token / 32] |= 1u << c->token % 32;
	}
	r->n = n_link;
}

void grammar_mask(struct grammar_run *r, uint32_t *bits)
{
	struct set others = { .n = 0 };
	for (int i = 0; i < r->top.n; i++) {
		uint8_t place = r->link[r->top.v[i]].f.place;
		if (r->top.v[i] && (place == AT_STRING || place == AT_OTHER))
			mask_string(r, r->top.v[i], bits);
		else if (r->top.v[i] && (place == AT_REGEX || place == AT_RAW))
			mask_regex(r, r->top.v[i], bits);
		else if (r->top.v[i])
			add(&others, r->top.v[i]);
	}
	if (others.n)
		walk(r, &r->trie->all, &others, bits);
}
