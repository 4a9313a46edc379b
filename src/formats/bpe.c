/* bpe.c - one piece of text to ids: looked up whole, else the adjacent pair of lowest rank is merged until none is left;
 * of equal pairs the leftmost first.
 *
 * Short pieces keep the ranks of their pairs in an array and search it; long ones keep the candidates in a heap, so that
 * 100 KB without a space costs n log n.
 */
#include <stdlib.h>
#include <string.h>

#include "formats/tokenizer_int.h"

enum { SHORT_PIECE = 48 }; /* bytes; about where the heap becomes cheaper than searching */

bool pair_map_init(struct pair_map *m, size_t n_max)
{
	int bits = 4;
	while ((size_t)1 << bits < n_max * 2)
		bits++;
	m->shift = 64 - bits;
	m->slot = malloc(sizeof *m->slot << bits);
	if (!m->slot)
		return false;
	memset(m->slot, 0xff, sizeof *m->slot << bits);
	return true;
}

void pair_map_free(struct pair_map *m)
{
	free(m->slot);
	m->slot = NULL;
}

struct pair *pair_map_put(struct pair_map *m, uint64_t key)
{
	uint64_t mask = UINT64_MAX >> m->shift, i = key * 0x9e3779b97f4a7c15u >> m->shift;
	while (m->slot[i].key != key && m->slot[i].key != UINT64_MAX)
		i = (i + 1) & mask;
	m->slot[i].key = key;
	return &m->slot[i];
}

uint64_t hash_bytes(const char *p, size_t n)
{
	const uint64_t k = 0x9e3779b97f4a7c15u;
	uint64_t h = n * k, w;
	for (; n >= 8; p += 8, n -= 8) {
		memcpy(&w, p, 8);
		h = (h ^ w) * k;
		h ^= h >> 32;
	}
	w = 0;
	if (n >= 4) {
		uint32_t lo, hi;
		memcpy(&lo, p, 4);
		memcpy(&hi, p + n - 4, 4);
		w = (uint64_t)hi << 32 | lo;
	} else {
		for (size_t i = 0; i < n; i++)
			w = w << 8 | (unsigned char)p[i];
	}
	h = (h ^ w) * k;
	h ^= h >> 29;
	return h * k;
}

int32_t token_find(const struct tokenizer *t, const char *p, size_t n)
{
	uint64_t h = hash_bytes(p, n);
	for (uint64_t i = h & t->word_mask;; i = (i + 1) & t->word_mask) {
		const struct word_slot *s = &t->word[i];
		if (s->id < 0)
			return -1;
		if (s->tag == h >> 32 && t->tok[s->id].n == n && !memcmp(t->text.p + t->tok[s->id].off, p, n))
			return s->id;
	}
}

static uint32_t rank_of(const struct tokenizer *t, int32_t a, int32_t b)
{
	const struct pair *m = pair_map_get(&t->merge, pair_key(a, b));
	return m ? m->rank : UINT32_MAX;
}

static bool merge_short(const struct tokenizer *t, const char *p, int n, struct ids *out)
{
	int32_t id[SHORT_PIECE];
	uint32_t rank[SHORT_PIECE]; /* rank[i]: of the pair i, i + 1 */
	for (int i = 0; i < n; i++)
		id[i] = t->byte_id[(unsigned char)p[i]];
	for (int i = 0; i + 1 < n; i++)
		rank[i] = rank_of(t, id[i], id[i + 1]);
	for (;;) {
		int at = 0;
		uint32_t best = UINT32_MAX;
		for (int i = 0; i + 1 < n; i++)
			if (rank[i] < best)
				best = rank[i], at = i;
		if (best == UINT32_MAX)
			break;
		id[at] = pair_map_get(&t->merge, pair_key(id[at], id[at + 1]))->id;
		n--;
		memmove(id + at + 1, id + at + 2, sizeof *id * (size_t)(n - at - 1));
		if (at + 1 < n) {
			memmove(rank + at + 1, rank + at + 2, sizeof *rank * (size_t)(n - at - 2));
			rank[at] = rank_of(t, id[at], id[at + 1]);
		}
		if (at > 0)
			rank[at - 1] = rank_of(t, id[at - 1], id[at]);
	}
	return ids_append(out, id, (size_t)n);
}

/* A heap of rank << 32 | position, smallest on top. */
static void heap_push(uint64_t *heap, size_t *n, uint64_t v)
{
	size_t i = (*n)++;
	for (; i > 0 && heap[(i - 1) / 2] > v; i = (i - 1) / 2)
		heap[i] = heap[(i - 1) / 2];
	heap[i] = v;
}

static uint64_t heap_pop(uint64_t *heap, size_t *n)
{
	uint64_t top = heap[0], v = heap[--*n];
	size_t i = 0;
	for (size_t c; (c = 2 * i + 1) < *n; i = c) {
		if (c + 1 < *n && heap[c + 1] < heap[c])
			c++;
		if (heap[c] >= v)
			break;
		heap[i] = heap[c];
	}
	heap[i] = v;
	return top;
}

static bool merge_long(const struct tokenizer *t, const char *p, int32_t n, struct ids *out)
{
	bool ok = false;
	size_t n_heap = 0, size = (size_t)n;
	/* At most n - 1 pairs to begin with, and each of the n - 1 merges takes one and makes two. */
	uint64_t *heap = malloc(2 * size * sizeof *heap);
	int32_t *id = malloc(3 * size * sizeof *id);
	if (!heap || !id)
		goto out;
	int32_t *prev = id + size, *next = prev + size;
	for (int32_t i = 0; i < n; i++) {
		id[i] = t->byte_id[(unsigned char)p[i]];
		prev[i] = i - 1;
		next[i] = i + 1;
	}
	for (int32_t i = 0; i + 1 < n; i++) {
		uint32_t rank = rank_of(t, id[i], id[i + 1]);
		if (rank != UINT32_MAX)
			heap_push(heap, &n_heap, (uint64_t)rank << 32 | (uint32_t)i);
	}
	while (n_heap) {
		uint64_t top = heap_pop(heap, &n_heap);
		int32_t i = (int32_t)(uint32_t)top, j = next[i];
		if (id[i] < 0 || j >= n)
			continue;
		const struct pair *m = pair_map_get(&t->merge, pair_key(id[i], id[j]));
		if (!m || m->rank != top >> 32)
			continue; /* one of the two was merged with something else meanwhile */
		id[i] = m->id;
		id[j] = -1;
		next[i] = next[j];
		if (next[i] < n)
			prev[next[i]] = i;
		uint32_t left = prev[i] >= 0 ? rank_of(t, id[prev[i]], id[i]) : UINT32_MAX;
		uint32_t right = next[i] < n ? rank_of(t, id[i], id[next[i]]) : UINT32_MAX;
		if (left != UINT32_MAX)
			heap_push(heap, &n_heap, (uint64_t)left << 32 | (uint32_t)prev[i]);
		if (right != UINT32_MAX)
			heap_push(heap, &n_heap, (uint64_t)right << 32 | (uint32_t)i);
	}
	ok = true;
	for (int32_t i = 0; ok && i < n; i = next[i])
		ok = ids_push(out, id[i]);
out:
	free(heap);
	free(id);
	return ok;
}

bool bpe_piece(const struct tokenizer *t, const char *p, size_t n, struct ids *out)
{
	if (n == 0)
		return true;
	if (n == 1)
		return ids_push(out, t->byte_id[(unsigned char)p[0]]);
	int32_t whole = token_find(t, p, n);
	uint8_t *state = whole >= 0 ? &t->tok[whole].whole : NULL, known = WHOLE_NO;
	if (whole >= 0)
		known = t->ignore_merges ? WHOLE_YES : __atomic_load_n(state, __ATOMIC_RELAXED);
	if (known == WHOLE_YES)
		return ids_push(out, whole);
	size_t n_before = out->n;
	if (!(n <= SHORT_PIECE ? merge_short(t, p, (int)n, out) : merge_long(t, p, (int32_t)n, out)))
		return false;
	if (known == WHOLE_UNKNOWN) {
		bool same = out->n == n_before + 1 && out->v[n_before] == whole;
		__atomic_store_n(state, same ? WHOLE_YES : WHOLE_NO, __ATOMIC_RELAXED);
	}
	return true;
}
