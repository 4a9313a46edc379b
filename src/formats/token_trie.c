#include "formats/token_trie.h"

#include <stdlib.h>
#include <string.h>

struct entry {
	const char *p;
	uint32_t n;
	int32_t id;
};

static int by_bytes(const void *pa, const void *pb)
{
	const struct entry *a = pa, *b = pb;
	int c = memcmp(a->p, b->p, a->n < b->n ? a->n : b->n);
	return c ? c : a->n != b->n ? (a->n < b->n ? -1 : 1) : a->id < b->id ? -1 : a->id > b->id;
}

static void flat_free(struct flat_trie *f)
{
	free(f->byte);
	free(f->depth);
	free(f->skip);
	free(f->id);
}

static size_t common(const struct entry *a, const struct entry *b)
{
	size_t n = 0;
	while (n < a->n && n < b->n && a->p[n] == b->p[n])
		n++;
	return n;
}

/* e is sorted; nothing in it is empty or longer than TRIE_MAX_BYTES. */
static bool flat_build(struct flat_trie *f, const struct entry *e, size_t n)
{
	uint32_t open[TRIE_MAX_BYTES + 1] = { 0 }; /* the latest node of each depth */
	size_t n_node = 0, top = 0;
	for (size_t i = 0; i < n; i++) {
		size_t same = i ? common(&e[i - 1], &e[i]) : 0;
		n_node += e[i].n - same + (same == e[i].n); /* equals stand side by side */
	}
	*f = (struct flat_trie){ .byte = malloc(n_node + 1), .depth = malloc(n_node + 1), .skip = malloc((n_node + 1) * sizeof *f->skip),
		.id = malloc((n_node + 1) * sizeof *f->id) };
	if (!f->byte || !f->depth || !f->skip || !f->id)
		return false;
	for (size_t i = 0; i < n; i++) {
		size_t same = i ? common(&e[i - 1], &e[i]) : 0;
		same -= same == e[i].n;
		for (; top > same; top--)
			f->skip[open[top]] = f->n;
		for (; top < e[i].n; f->n++) {
			f->byte[f->n] = (uint8_t)e[i].p[top];
			f->depth[f->n] = (uint8_t)++top;
			f->id[f->n] = -1;
			open[top] = f->n;
		}
		f->id[f->n - 1] = e[i].id;
	}
	for (; top > 0; top--)
		f->skip[open[top]] = f->n;
	return true;
}

/* ---- strings ---------------------------------------------------------------------------------------------------------- */

static bool add_closer(struct lex_tokens *l, struct closer c)
{
	if (l->n_closer == l->cap_closer) {
		uint32_t cap = 2 * l->cap_closer + 16;
		struct closer *p = realloc(l->closer, cap * sizeof *p);
		if (!p)
			return false;
		l->closer = p;
		l->cap_closer = cap;
	}
	l->closer[l->n_closer++] = c;
	return true;
}

static bool lex_build(struct token_trie *t, uint8_t from)
{
	struct lex_tokens *l = &t->lex[from];
	const struct flat_trie *f = &t->all;
	uint8_t state[TRIE_MAX_BYTES + 1] = { from }, n_char[TRIE_MAX_BYTES + 1] = { 0 };
	l->inside = calloc((size_t)t->n_vocab / 32 + 1, sizeof *l->inside);
	l->n_char = calloc((size_t)t->n_vocab, 1);
	if (!l->inside || !l->n_char)
		return false;
	for (uint32_t i = 0; i < f->n;) {
		uint8_t d = f->depth[i], before = state[d - 1];
		state[d] = json_lex_step(before, f->byte[i]);
		n_char[d] = (uint8_t)(n_char[d - 1] + json_lex_between(before));
		if (state[d] == LEX_END)
			for (uint32_t k = i; k < f->skip[i]; k++)
				if (f->id[k] >= 0 && !add_closer(l, (struct closer){ .token = f->id[k], .n_char = n_char[d - 1], .n_byte = d }))
					return false;
		if (state[d] >= LEX_END) {
			i = f->skip[i];
			continue;
		}
		if (f->id[i] >= 0) {
			l->inside[f->id[i] / 32] |= 1u << f->id[i] % 32;
			l->n_char[f->id[i]] = n_char[d];
		}
		i++;
	}
	return true;
}

/* What follows the quotes of all closers, each once. */
static bool tails_build(struct token_trie *t)
{
	size_t n = 0, n_entry = 0, n_kept = 0;
	for (int s = 0; s < LEX_N; s++)
		n += t->lex[s].n_closer;
	struct entry *e = malloc((n + 1) * sizeof *e);
	struct closer **of = malloc((n + 1) * sizeof *of);
	if (!e || !of) {
		free(e);
		free(of);
		return false;
	}
	for (int s = 0; s < LEX_N; s++)
		for (uint32_t i = 0; i < t->lex[s].n_closer; i++) {
			struct closer *c = &t->lex[s].closer[i];
			size_t n_byte;
			const char *p = tokenizer_bytes(t->t, c->token, &n_byte);
			if (n_byte == c->n_byte)
				continue;
			of[n_entry] = c;
			e[n_entry] = (struct entry){ p + c->n_byte, (uint32_t)(n_byte - c->n_byte), (int32_t)n_entry };
			n_entry++;
		}
	qsort(e, n_entry, sizeof *e, by_bytes);
	for (size_t i = 0; i < n_entry; i++) {
		bool is_new = i == 0 || e[i].n != e[n_kept - 1].n || memcmp(e[i].p, e[n_kept - 1].p, e[i].n) != 0;
		struct closer *c = of[e[i].id];
		if (is_new)
			e[n_kept++] = e[i];
		c->tail = (uint32_t)n_kept;
	}
	for (size_t i = 0; i < n_kept; i++)
		e[i].id = (int32_t)i + 1;
	t->n_tail = (uint32_t)n_kept + 1;
	bool ok = flat_build(&t->tails, e, n_kept);
	free(e);
	free(of);
	return ok;
}

static bool build(struct token_trie *t)
{
	struct entry *e = malloc(((size_t)t->n_vocab + 1) * sizeof *e);
	size_t n = 0;
	for (int32_t id = 0; e && id < t->n_vocab && id < tokenizer_n_vocab(t->t); id++) {
		size_t n_byte;
		const char *p = tokenizer_bytes(t->t, id, &n_byte);
		if (n_byte && n_byte <= TRIE_MAX_BYTES && !tokenizer_is_special(t->t, id))
			e[n++] = (struct entry){ p, (uint32_t)n_byte, id };
	}
	if (e)
		qsort(e, n, sizeof *e, by_bytes);
	bool ok = e && flat_build(&t->all, e, n);
	free(e);
	for (int s = 0; ok && s < LEX_N; s++)
		ok = lex_build(t, (uint8_t)s);
	return ok && tails_build(t);
}

int token_trie_create(struct token_trie **out, const struct tokenizer *tokenizer, int n_vocab, struct moxie_err *err)
{
	*out = NULL;
	struct token_trie *t = calloc(1, sizeof *t);
	if (!t)
		return err_nomem(err, sizeof *t, "a vocabulary's trie");
	t->t = tokenizer;
	t->n_vocab = n_vocab;
	if (!build(t)) {
		token_trie_free(t);
		return err_nomem(err, (size_t)n_vocab * 64, "a vocabulary's trie");
	}
	*out = t;
	return 0;
}

void token_trie_free(struct token_trie *t)
{
	if (!t)
		return;
	flat_free(&t->all);
	flat_free(&t->tails);
	for (int s = 0; s < LEX_N; s++) {
		free(t->lex[s].inside);
		free(t->lex[s].n_char);
		free(t->lex[s].closer);
	}
	free(t);
}
