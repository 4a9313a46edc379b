#include "bench_prompt.h"

#include <stdlib.h>
#include <string.h>

/* Common words: nearly every tokenizer has each of them, with the space before it, as one token. */
static const char *const words[] = {
	"the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not", "he", "this", "are", "or",
	"his", "from", "at", "which", "but", "have", "an", "had", "they", "you", "were", "their", "one", "all", "we", "can", "her", "has",
	"there", "been", "if", "more", "when", "will", "would", "who", "so", "no", "out", "up", "into", "that", "like", "how", "then", "first",
	"any", "each", "time", "day", "man", "year", "way", "thing", "life", "hand", "part", "place", "case", "week", "work", "point", "number",
};
#define N_WORD (sizeof words / sizeof *words)

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

/* What the n-th draw for text number `of` of a kind is, below `below`. */
enum draw { DRAW_IN, DRAW_OUT, DRAW_TEXT, DRAW_SYSTEM, DRAW_ORDER };
static uint64_t draw(const struct prompts *p, enum draw kind, int of, int n, uint64_t below)
{
	return mix(mix(mix(p->o->seed * 8 + kind) + (uint64_t)of) + (uint64_t)n) % below;
}

static bool is_shared(const struct opts *o)
{
	return !strcmp(o->dataset, "generated-shared-prefix");
}

int prompts_init(struct prompts *p, const struct opts *o, bool chat)
{
	*p = (struct prompts){ .o = o, .words_per_token = 1, .n_vocab = 32000, .ids = !strcmp(o->dataset, "random-ids") };
	if (p->ids && chat)
		return bad_input("--dataset-name random-ids: a chat takes no token ids; random has words");
	long long n = is_shared(o) ? (long long)o->gsp_groups * o->gsp_prompts : o->n_prompts;
	if (n > 10000000)
		return bad_input("%lld prompts are more than 10000000", n);
	p->n = (int)n;
	if (!is_shared(o))
		return 0;
	p->order = malloc((size_t)n * sizeof *p->order);
	if (!p->order)
		return bad_input("out of memory for %lld prompts", n), EXIT_FAIL;
	for (int i = 0; i < p->n; i++)
		p->order[i] = i;
	for (int i = p->n - 1; i > 0 && !o->gsp_ordered; i--) {
		int j = (int)draw(p, DRAW_ORDER, 0, i, (uint64_t)i + 1), keep = p->order[i];
		p->order[i] = p->order[j], p->order[j] = keep;
	}
	return 0;
}

void prompts_free(struct prompts *p)
{
	free(p->order);
	p->order = NULL;
}

/* From ratio * full to full, as bench_serving has it; at least 1. */
static int random_len(const struct prompts *p, enum draw kind, int i, int full)
{
	int low = (int)(full * (double)p->o->random_ratio);
	low = low < 1 ? 1 : low > full ? full : low;
	return low + (int)draw(p, kind, i, 0, (uint64_t)(full - low) + 1);
}

void prompt_lens(const struct prompts *p, int i, int *n_in, int *n_out)
{
	const struct opts *o = p->o;
	*n_in = is_shared(o) ? o->gsp_system_len + o->gsp_question_len : random_len(p, DRAW_IN, i, o->random_in);
	*n_out = is_shared(o) ? o->gsp_out_len : random_len(p, DRAW_OUT, i, o->random_out);
}

static void put_words(const struct prompts *p, enum draw kind, int of, int n_tok, struct text *out)
{
	int n = (int)(n_tok * p->words_per_token + 0.5);
	for (int k = 0; k < n || k == 0; k++) {
		const char *w = words[draw(p, kind, of, k, N_WORD)];
		if (out->n && out->p[out->n - 1] != '"')
			text_add(out, " ", 1);
		text_add(out, w, strlen(w));
	}
}

void prompt_words(int n, struct text *out)
{
	static const struct opts none = { 0 };
	struct prompts p = { .o = &none, .words_per_token = 1 };
	put_words(&p, DRAW_TEXT, 0, n, out);
}

void prompt_write(const struct prompts *p, int i, struct text *out)
{
	int n_in, n_out;
	prompt_lens(p, i, &n_in, &n_out);
	text_add(out, p->ids ? "[" : "\"", 1);
	if (p->ids) {
		/* Special tokens lie at either end of a vocabulary: the middle is taken. */
		int low = p->n_vocab / 16, wide = p->n_vocab - 2 * low;
		for (int k = 0; k < n_in; k++) {
			char id[16];
			text_add(out, id, (size_t)snprintf(id, sizeof id, k ? ",%d" : "%d", low + (int)draw(p, DRAW_TEXT, i, k, (uint64_t)wide)));
		}
	} else if (is_shared(p->o)) {
		put_words(p, DRAW_SYSTEM, p->order[i] / p->o->gsp_prompts, p->o->gsp_system_len, out);
		put_words(p, DRAW_TEXT, p->order[i], p->o->gsp_question_len, out);
	} else {
		put_words(p, DRAW_TEXT, i, n_in, out);
	}
	text_add(out, p->ids ? "]" : "\"", 1);
}
