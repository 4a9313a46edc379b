/* token_trie.h - a vocabulary as a trie of bytes, so that the tokens which may come next are found in one walk.
 *
 * In a string nearly every token may come, and a walk would see them all.  So for each state inside a string it is written down
 * beforehand which tokens stay inside, and which close it and with what after the quote: only those few tails are walked.
 * For the 201,088 tokens of o200k: about 20 MB, made once in about 0.1 s.
 */
#ifndef MOXIE_FORMATS_TOKEN_TRIE_H
#define MOXIE_FORMATS_TOKEN_TRIE_H

#include "formats/json_lex.h"
#include "formats/tokenizer.h"

enum { TRIE_MAX_BYTES = 255 }; /* longer tokens are left out */

/* In preorder: the children of node i lie behind it, up to skip[i].  A node of depth d stands for d bytes; byte is the last. */
struct flat_trie {
	uint32_t n;
	uint8_t *byte, *depth;
	uint32_t *skip;
	int32_t *id; /* of what ends here, -1: nothing */
};

struct closer { /* a token that closes a string: n_char characters, the quote, a tail */
	int32_t token;
	uint32_t tail;   /* of token_trie.tails; 0: nothing follows the quote */
	uint8_t n_char, n_byte; /* bytes up to the quote, with it */
};
struct lex_tokens { /* what a token does in one state of json_lex.h */
	uint32_t *inside;  /* one bit a token: it stays in the string */
	uint8_t *n_char;   /* [n_vocab] characters that it begins, where inside */
	struct closer *closer;
	uint32_t n_closer, cap_closer;
};

struct token_trie {
	int n_vocab;       /* bits of a mask: the model's vocabulary */
	const struct tokenizer *t;
	struct flat_trie all, tails;
	uint32_t n_tail;   /* ids of tails, 0 among them */
	struct lex_tokens lex[LEX_N];
};

/* Special tokens are not in it.  t must outlive it.   MOXIE_E_NOMEM */
int token_trie_create(struct token_trie **out, const struct tokenizer *t, int n_vocab, struct moxie_err *err);
void token_trie_free(struct token_trie *t);

#endif
