/* regex.c - nodes to an automaton of bytes, and that to a table: the states of the table are the sets of states it may be in. */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "formats/regex_int.h"

enum { MAX_NFA = 60000, MAX_DFA = 8192, MAX_BOUNDED = 60000, MAX_TABLE = 1 << 21 };

enum nfa_kind { NFA_BYTE, NFA_SPLIT, NFA_BEGIN, NFA_END, NFA_ACCEPT };
struct nfa {
	uint8_t kind, lo, hi;
	bool begins;          /* NFA_BYTE: a character */
	uint16_t out[2];      /* 0: none; NFA_SPLIT has two */
};

struct maker {
	const struct regex_how *how;
	struct re re;
	struct nfa *nfa;      /* [MAX_NFA]; nfa[0] is nothing */
	uint16_t *same;       /* [2 * MAX_NFA] bytes by what they are: each there is once */
	int n_nfa;
	struct moxie_err *err;
	int rc;

	/* the table */
	struct dfa *d;
	struct made {
		uint32_t set, n_set;  /* in ids */
	} *made;              /* [MAX_DFA] */
	uint16_t *ids;        /* sets, one behind the other */
	size_t n_ids, cap_ids;
	uint16_t *bucket;     /* [2 * MAX_DFA] */
	bool *useful;         /* [MAX_NFA] the end can be reached, but not by a ^ */
	uint32_t *mark, stamp; /* [MAX_NFA] */
	uint16_t *todo, *found; /* [MAX_NFA] */
};

static int fail(struct maker *m, int rc, const char *what)
{
	if (!m->rc)
		m->rc = rc == MOXIE_E_NOMEM ? err_nomem(m->err, MAX_NFA * sizeof *m->nfa, "a pattern") : err_set(m->err, rc, "%s", what);
	return 0;
}

static void work(struct maker *m, size_t n)
{
	if (*m->how->work < n)
		fail(m, MOXIE_E_UNSUPPORTED, "the pattern is too large to be followed");
	*m->how->work -= *m->how->work < n ? *m->how->work : n;
}

/* ---- bytes ---------------------------------------------------------------------------------------------------------------- */

static int new_nfa(struct maker *m, struct nfa n)
{
	if (m->rc || m->n_nfa == MAX_NFA)
		return fail(m, MOXIE_E_UNSUPPORTED, "the pattern is too large to be followed");
	m->nfa[m->n_nfa] = n;
	return m->n_nfa++;
}

/* Characters end alike, and so do alternatives: what is there already is not made again. */
static int byte(struct maker *m, unsigned lo, unsigned hi, bool begins, int next)
{
	struct nfa n = { .kind = NFA_BYTE, .lo = (uint8_t)lo, .hi = (uint8_t)hi, .begins = begins, .out = { (uint16_t)next } };
	size_t at = (lo * 31 + hi * 1031 + (unsigned)next * 40503u + begins) % (2 * MAX_NFA);
	for (; m->same[at]; at = (at + 1) % (2 * MAX_NFA)) {
		const struct nfa *x = &m->nfa[m->same[at]];
		if (x->lo == n.lo && x->hi == n.hi && x->begins == begins && x->out[0] == n.out[0])
			return m->same[at];
	}
	return m->same[at] = (uint16_t)new_nfa(m, n);
}

static int either(struct maker *m, int a, int b)
{
	return !a ? b : !b ? a : new_nfa(m, (struct nfa){ .kind = NFA_SPLIT, .out = { (uint16_t)a, (uint16_t)b } });
}

static int encode(uint32_t c, unsigned char *p)
{
	int n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
	for (int i = n - 1; i > 0; i--, c >>= 6)
		p[i] = (unsigned char)(0x80 | (c & 0x3f));
	p[0] = (unsigned char)(n == 1 ? c : (0xf00u >> n & 0xff) | c);
	return n;
}

/* The characters lo .. hi in UTF-8, then next, as alternatives to `before`. */
static int utf8_range(struct maker *m, uint32_t lo, uint32_t hi, int next, int before)
{
	static const uint32_t last[] = { 0x7f, 0x7ff, 0xffff };
	unsigned char a[4], b[4];
	for (int i = 0; i < 3; i++)
		if (lo <= last[i] && hi > last[i])
			return utf8_range(m, last[i] + 1, hi, next, utf8_range(m, lo, last[i], next, before));
	for (int i = 1, n = encode(lo, a); i < n; i++) { /* parts in which all bytes but the first that differ take all values */
		uint32_t low = (1u << 6 * i) - 1;
		if ((lo & ~low) == (hi & ~low))
			continue;
		if (lo & low)
			return utf8_range(m, (lo | low) + 1, hi, next, utf8_range(m, lo, lo | low, next, before));
		if ((hi & low) != low)
			return utf8_range(m, hi & ~low, hi, next, utf8_range(m, lo, (hi & ~low) - 1, next, before));
	}
	int n = encode(lo, a), at = next;
	encode(hi, b);
	for (int i = n - 1; i >= 0; i--)
		at = byte(m, a[i], b[i], i == 0, at);
	return either(m, before, at);
}

/* The same between the quotes of a JSON string. */
static int char_range(struct maker *m, uint32_t lo, uint32_t hi, int next, int before)
{
	static const char written[] = "bfnrt\"\\", meant[] = "\b\f\n\r\t\"\\";
	if (!m->how->in_json)
		return utf8_range(m, lo, hi, next, before);
	for (int i = 0; i < 7; i++)
		if ((unsigned char)meant[i] >= lo && (unsigned char)meant[i] <= hi)
			before = either(m, before, byte(m, '\\', '\\', true, byte(m, (unsigned char)written[i], (unsigned char)written[i], false, next)));
	static const struct re_range plain[] = { { ' ', '!' }, { '#', '[' }, { ']', 0x10ffff } };
	for (int i = 0; i < 3; i++) {
		uint32_t from = lo > plain[i].lo ? lo : plain[i].lo, to = hi < plain[i].hi ? hi : plain[i].hi;
		if (from <= to)
			before = utf8_range(m, from, to, next, before);
	}
	return before;
}

/* ---- nodes ----------------------------------------------------------------------------------------------------------------- */

/* Node i, then next.  0: nothing matches it, or an error. */
static int emit(struct maker *m, uint32_t i, int next)
{
	const struct re_node *n = &m->re.node[i];
	int at = 0;
	if (m->rc || !next)
		return 0;
	work(m, 1);
	switch (n->kind) {
	case RE_EMPTY:
		return next;
	case RE_SET:
		for (uint32_t k = 0; k < n->b; k++)
			at = char_range(m, m->re.range[n->a + k].lo, m->re.range[n->a + k].hi, next, at);
		return at;
	case RE_CAT:
		for (; m->re.node[i].kind == RE_CAT; i = m->re.node[i].a)
			next = emit(m, m->re.node[i].b, next);
		return emit(m, i, next);
	case RE_ALT:
		for (; m->re.node[i].kind == RE_ALT; i = m->re.node[i].a)
			at = either(m, at, emit(m, m->re.node[i].b, next));
		return either(m, at, emit(m, i, next));
	case RE_BEGIN:
	case RE_END:
		return new_nfa(m, (struct nfa){ .kind = n->kind == RE_BEGIN ? NFA_BEGIN : NFA_END, .out = { (uint16_t)next } });
	case RE_REPEAT:
		at = next;
		if (n->max == UINT32_MAX) {
			at = new_nfa(m, (struct nfa){ .kind = NFA_SPLIT, .out = { 0, (uint16_t)next } });
			int loop = emit(m, n->a, at);
			if (!m->rc)
				m->nfa[at].out[0] = (uint16_t)loop;
		}
		for (uint32_t k = n->min; n->max != UINT32_MAX && k < n->max && !m->rc; k++)
			at = either(m, emit(m, n->a, at), next);
		for (uint32_t k = 0; k < n->min && !m->rc; k++)
			at = emit(m, n->a, at);
		return at;
	}
	return 0;
}

/* Any text, then next. */
static int any_text(struct maker *m, int next)
{
	int at = new_nfa(m, (struct nfa){ .kind = NFA_SPLIT, .out = { 0, (uint16_t)next } });
	int loop = char_range(m, 0xe000, 0x10ffff, at, char_range(m, 0, 0xd7ff, at, 0));
	if (!m->rc)
		m->nfa[at].out[0] = (uint16_t)loop;
	return at;
}

/* ---- sets ------------------------------------------------------------------------------------------------------------------ */

static int by_id(const void *a, const void *b)
{
	return (int)*(const uint16_t *)a - (int)*(const uint16_t *)b;
}

/* All that is reached from todo[0 .. n) without a byte: bytes to come, into found.  Returns their number; *accept: the text may end here. */
static int closure(struct maker *m, int n, bool at_start, bool *accept)
{
	int n_found = 0, n_seed = n;
	*accept = false;
	for (int at_end = 0; at_end < 2 && !m->rc; at_end++) {
		int top = n = n_seed, n_seen = 0;
		uint16_t *stack = m->todo; /* seeds stay below */
		m->stamp++;
		for (int seed = 0; seed < n_seed && !m->rc; seed++) {
			stack[top++] = stack[seed];
			while (top > n) {
				uint16_t at = stack[--top];
				const struct nfa *s = &m->nfa[at];
				if (!at || m->mark[at] == m->stamp || !(m->useful[at] || at_start))
					continue;
				m->mark[at] = m->stamp;
				n_seen++;
				if (s->kind == NFA_ACCEPT)
					*accept = true;
				else if (s->kind == NFA_BYTE && !at_end && m->useful[at])
					m->found[n_found++] = at;
				if (s->kind == NFA_SPLIT || (s->kind == NFA_BEGIN && at_start) || (s->kind == NFA_END && at_end)) {
					stack[top++] = s->out[0];
					if (s->kind == NFA_SPLIT)
						stack[top++] = s->out[1];
				}
			}
		}
		work(m, (size_t)n_seen + 1);
	}
	qsort(m->found, (size_t)n_found, sizeof *m->found, by_id);
	return n_found;
}

/* The table's state for found[0 .. n): the one there is, or a new one. */
static uint16_t state_of(struct maker *m, int n, bool accept)
{
	struct dfa *d = m->d;
	uint64_t h = 1469598103934665603u ^ (uint64_t)accept;
	for (int i = 0; i < n; i++)
		h = (h ^ m->found[i]) * 1099511628211u;
	if (!n && !accept)
		return 0;
	size_t at = (h ^ h >> 29) % (2 * MAX_DFA);
	for (; m->bucket[at]; at = (at + 1) % (2 * MAX_DFA)) {
		const struct made *x = &m->made[m->bucket[at]];
		if (x->n_set == (uint32_t)n && d->accept[m->bucket[at]] == accept &&
		    (!n || !memcmp(m->ids + x->set, m->found, (size_t)n * sizeof *m->ids)))
			return m->bucket[at];
	}
	if (d->n_state == MAX_DFA || (size_t)(d->n_state + 1) * (size_t)d->n_class > MAX_TABLE)
		return (uint16_t)fail(m, MOXIE_E_UNSUPPORTED, "the pattern is too large to be followed");
	if (m->n_ids + (size_t)n > m->cap_ids) {
		size_t cap = 2 * (m->n_ids + (size_t)n) + 1024;
		uint16_t *p = realloc(m->ids, cap * sizeof *p);
		if (!p)
			return (uint16_t)fail(m, MOXIE_E_NOMEM, "");
		m->ids = p;
		m->cap_ids = cap;
	}
	if (n)
		memcpy(m->ids + m->n_ids, m->found, (size_t)n * sizeof *m->ids);
	m->made[d->n_state] = (struct made){ (uint32_t)m->n_ids, (uint32_t)n };
	m->n_ids += (size_t)n;
	d->accept[d->n_state] = accept;
	m->bucket[at] = (uint16_t)d->n_state;
	return (uint16_t)d->n_state++;
}

/* Bytes that no edge tells apart are one class. */
static void make_classes(struct maker *m)
{
	bool cut[257] = { [0] = true };
	for (int i = 1; i < m->n_nfa; i++)
		if (m->nfa[i].kind == NFA_BYTE)
			cut[m->nfa[i].lo] = cut[m->nfa[i].hi + 1] = true;
	for (int c = 0; c < 256; c++) {
		m->d->n_class += cut[c];
		m->d->class_of[c] = (uint8_t)(m->d->n_class - 1);
	}
}

static uint16_t follow(struct maker *m, uint16_t from, unsigned char c)
{
	const struct made x = m->made[from];
	bool accept;
	int n = 0;
	for (uint32_t i = 0; i < x.n_set; i++) {
		const struct nfa *s = &m->nfa[m->ids[x.set + i]];
		if (c >= s->lo && c <= s->hi)
			m->todo[n++] = s->out[0];
	}
	work(m, x.n_set / 4 + 1);
	if (!n)
		return 0;
	n = closure(m, n, false, &accept);
	return m->rc ? 0 : state_of(m, n, accept);
}

/* The same for texts of min .. max characters: a state and how many there are so far, no more than matter, are a state. */
static void bound_length(struct maker *m)
{
	const struct regex_how *how = m->how;
	struct dfa *d = m->d, to = { .n_state = 2, .n_class = d->n_class };
	uint32_t top = how->max != UINT32_MAX ? how->max : how->min;
	size_t n_class = (size_t)d->n_class, n_count = (size_t)top + 1, cap = 0;
	if (how->min == 0 && how->max == UINT32_MAX)
		return;
	if (top > MAX_TABLE || n_count * (size_t)d->n_state > MAX_TABLE) {
		fail(m, MOXIE_E_UNSUPPORTED, "the pattern and its lengths are too large to be followed");
		return;
	}
	uint16_t *id = calloc(n_count * (size_t)d->n_state, sizeof *id);
	uint32_t *from = malloc(MAX_BOUNDED * sizeof *from); /* what a state stands for: where in id */
	to.accept = calloc(MAX_BOUNDED, sizeof *to.accept);
	if (!id || !from || !to.accept) {
		fail(m, MOXIE_E_NOMEM, "");
		to.n_state = 0;
	} else {
		from[1] = (uint32_t)n_count;
		id[n_count] = 1;
	}
	for (int s = 0; s < to.n_state && !m->rc; s++) {
		size_t old = s ? from[s] / n_count : 0, n = s ? from[s] % n_count : 0, want = (size_t)(s + 1) * n_class;
		uint16_t *p = want > cap ? realloc(to.next, (cap = 2 * want + 1024) * sizeof *p) : to.next;
		if (!p) {
			fail(m, MOXIE_E_NOMEM, "");
			break;
		}
		to.next = p;
		work(m, n_class);
		to.accept[s] = s && d->accept[old] && n >= how->min;
		bool begins = s && m->made[old].n_set && m->nfa[m->ids[m->made[old].set]].begins; /* all of a set do, or none */
		for (size_t c = 0; c < n_class && !m->rc; c++) {
			size_t next = s ? d->next[old * n_class + c] : 0, at = next * n_count + n + (begins && n < top);
			to.next[(size_t)s * n_class + c] = 0;
			if (!next || (begins && n == how->max))
				continue;
			if (!id[at] && (to.n_state == MAX_BOUNDED || want + n_class > MAX_TABLE))
				fail(m, MOXIE_E_UNSUPPORTED, "the pattern and its lengths are too large to be followed");
			else if (!id[at])
				from[id[at] = (uint16_t)to.n_state++] = (uint32_t)at;
			to.next[(size_t)s * n_class + c] = id[at];
		}
	}
	free(id);
	free(from);
	memcpy(to.class_of, d->class_of, sizeof to.class_of);
	dfa_free(d);
	*d = to;
}

/* States from which no accepting one is reached are dead. */
static void bury_dead(struct maker *m)
{
	struct dfa *d = m->d;
	size_t n_class = (size_t)d->n_class;
	bool *alive = m->rc ? NULL : calloc((size_t)d->n_state, 1), changed = true;
	if (!alive) {
		fail(m, MOXIE_E_NOMEM, "");
		return;
	}
	while (changed && !m->rc) {
		changed = false;
		work(m, (size_t)d->n_state * n_class / 4);
		for (int s = d->n_state - 1; s > 0; s--) {
			bool is = alive[s] || d->accept[s];
			for (size_t c = 0; c < n_class && !is; c++)
				is = alive[d->next[(size_t)s * n_class + c]];
			changed |= is != alive[s];
			alive[s] = is;
		}
	}
	for (size_t i = 0; i < (size_t)d->n_state * n_class; i++)
		d->next[i] = alive[d->next[i]] ? d->next[i] : 0;
	if (!alive[1])
		fail(m, MOXIE_E_UNSUPPORTED, "no text matches the pattern and its lengths");
	free(alive);
}

static void find_useful(struct maker *m)
{
	for (bool changed = true; changed && !m->rc;) {
		changed = false;
		work(m, (size_t)m->n_nfa / 4);
		for (int i = 1; i < m->n_nfa; i++) { /* what comes after a state was made before it, but for loops */
			const struct nfa *s = &m->nfa[i];
			bool is = s->kind == NFA_ACCEPT || (s->kind != NFA_BEGIN && (m->useful[s->out[0]] || m->useful[s->out[1]]));
			changed |= is != m->useful[i];
			m->useful[i] = is;
		}
	}
}

static void make_table(struct maker *m, int start)
{
	struct dfa *d = m->d;
	bool accept;
	find_useful(m);
	size_t cap = 0;
	make_classes(m);
	d->n_state = 1;
	m->todo[0] = (uint16_t)start;
	int n = closure(m, 1, true, &accept);
	if (!state_of(m, n, accept))
		fail(m, MOXIE_E_UNSUPPORTED, "no text matches the pattern");
	uint8_t byte_of[256];
	for (int c = 255; c >= 0; c--)
		byte_of[d->class_of[c]] = (uint8_t)c;
	for (int s = 0; s < d->n_state && !m->rc; s++) {
		size_t n_class = (size_t)d->n_class, want = (size_t)(s + 1) * n_class;
		if (want > cap) {
			cap = 2 * want + 1024;
			uint16_t *p = realloc(d->next, cap * sizeof *p);
			if (!p) {
				fail(m, MOXIE_E_NOMEM, "");
				return;
			}
			d->next = p;
		}
		for (size_t c = 0; c < n_class; c++)
			d->next[(size_t)s * n_class + c] = s && !m->rc ? follow(m, (uint16_t)s, byte_of[c]) : 0;
	}
	if (!m->rc)
		bound_length(m);
	if (!m->rc)
		bury_dead(m);
}

int regex_compile(struct dfa *out, const char *pattern, size_t n, const struct regex_how *how, struct moxie_err *err)
{
	*out = (struct dfa){ 0 };
	struct maker m = { .how = how, .err = err, .d = out, .n_nfa = 1 };
	m.rc = re_parse(&m.re, pattern, n, err);
	m.nfa = malloc(MAX_NFA * sizeof *m.nfa);
	m.same = calloc(2 * MAX_NFA, sizeof *m.same);
	m.made = malloc(MAX_DFA * sizeof *m.made);
	m.bucket = calloc(2 * MAX_DFA, sizeof *m.bucket);
	m.useful = calloc(MAX_NFA, sizeof *m.useful);
	m.mark = calloc(MAX_NFA, sizeof *m.mark);
	m.todo = malloc(4 * MAX_NFA * sizeof *m.todo);
	m.found = malloc(MAX_NFA * sizeof *m.found);
	out->accept = calloc(MAX_DFA, sizeof *out->accept);
	if (!m.nfa || !m.same || !m.made || !m.bucket || !m.useful || !m.mark || !m.todo || !m.found || !out->accept)
		fail(&m, MOXIE_E_NOMEM, "");
	if (!m.rc) {
		int end = new_nfa(&m, (struct nfa){ .kind = NFA_ACCEPT });
		int start = emit(&m, m.re.root, how->search ? any_text(&m, end) : end);
		if (!m.rc && !start)
			fail(&m, MOXIE_E_UNSUPPORTED, "no text matches the pattern");
		start = m.rc || !how->search ? start : any_text(&m, start);
		if (!m.rc)
			make_table(&m, start);
	}
	re_free(&m.re);
	free(m.nfa);
	free(m.same);
	free(m.made);
	free(m.ids);
	free(m.bucket);
	free(m.useful);
	free(m.mark);
	free(m.todo);
	free(m.found);
	if (m.rc < 0)
		dfa_free(out);
	return m.rc;
}

void dfa_free(struct dfa *d)
{
	free(d->next);
	free(d->accept);
	*d = (struct dfa){ 0 };
}
