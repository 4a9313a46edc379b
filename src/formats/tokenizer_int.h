/* tokenizer_int.h - what tokenizer_load.c, tokenizer.c, split.c and bpe.c share.  Nobody else includes it. */
#ifndef MOXIE_FORMATS_TOKENIZER_INT_H
#define MOXIE_FORMATS_TOKENIZER_INT_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "formats/tokenizer.h"

enum {
	TOKENIZER_MAX_VOCAB = 1 << 21,  /* ids and tokens */
	TOKENIZER_MAX_MERGE = 1 << 22,
	TOKENIZER_MAX_FILE = 256 << 20, /* bytes of tokenizer.json */
	TOKENIZER_MAX_TEXT = 1 << 30,   /* bytes of one text */
	TOKENIZER_MAX_ADDED = 1 << 16,
	TOKENIZER_MAX_SPLIT = 8         /* patterns applied one after the other */
};

/* Open addressing, key UINT64_MAX = free; the number of slots is a power of two, at least twice the entries. */
struct pair {
	uint64_t key;
	uint32_t rank;
	int32_t id;
};
struct pair_map {
	struct pair *slot;
	int shift; /* 64 - log2(number of slots) */
};
bool pair_map_init(struct pair_map *m, size_t n_max); /* false: out of memory */
void pair_map_free(struct pair_map *m);
struct pair *pair_map_put(struct pair_map *m, uint64_t key); /* the entry of key, made if missing */

static inline uint64_t pair_key(int32_t a, int32_t b)
{
	return (uint64_t)(uint32_t)a << 32 | (uint32_t)b;
}

/* NULL: no such key. */
static inline const struct pair *pair_map_get(const struct pair_map *m, uint64_t key)
{
	uint64_t mask = UINT64_MAX >> m->shift;
	for (uint64_t i = key * 0x9e3779b97f4a7c15u >> m->shift;; i = (i + 1) & mask) {
		if (m->slot[i].key == key)
			return &m->slot[i];
		if (m->slot[i].key == UINT64_MAX)
			return NULL;
	}
}

struct word_slot {
	uint32_t tag; /* high half of the hash */
	int32_t id;   /* -1: free */
};

/* Does merging the token's own bytes give the token?  Found out at first use, from any thread: all come to the same answer. */
enum { WHOLE_UNKNOWN, WHOLE_YES, WHOLE_NO };

struct token {
	uint32_t off, n; /* text.p[off .. off+n) */
	uint8_t used, special;
	uint8_t raw; /* written with characters outside the byte alphabet: cannot come out of text */
	uint8_t whole;
};

struct tokenizer {
	int n_vocab; /* largest id + 1 */
	struct token *tok; /* [n_vocab] */
	struct buf text;

	struct word_slot *word; /* the bytes of every mergeable token -> id */
	uint64_t word_mask;
	int32_t byte_id[256];
	struct pair_map merge; /* pair_key(left, right) -> rank, merged id */
	bool ignore_merges;

	/* Added tokens as two tries over bytes, key = node << 8 | byte; nodes 0 and 1 are the roots. */
	struct pair_map trie;
	int32_t *trie_id; /* [n_node], -1: no token ends here */
	int32_t n_node;
	bool first[2][256]; /* bytes that begin an added token of each trie */

	pcre2_code *split[TOKENIZER_MAX_SPLIT];
	bool drop_gaps[TOKENIZER_MAX_SPLIT]; /* text between matches is thrown away, as the file asks */
	bool jit[TOKENIZER_MAX_SPLIT];
	int n_split;
	pcre2_match_context *limits;
};

/* ---- bpe.c */

int32_t token_find(const struct tokenizer *t, const char *p, size_t n); /* -1: the bytes are no mergeable token */
uint64_t hash_bytes(const char *p, size_t n);
bool bpe_piece(const struct tokenizer *t, const char *p, size_t n, struct ids *out); /* false: out of memory */

/* ---- split.c */

int split_add(struct tokenizer *t, const char *pattern, size_t n, bool drop_gaps, const char *file_name, struct moxie_err *err);

struct splitter {
	const struct tokenizer *t;
	pcre2_match_data *match;
	struct ids *out;
	const char *text; /* offsets in messages count from here */
	struct moxie_err *err;
};
int split_encode(struct splitter *s, int level, const char *p, size_t n);

#endif
