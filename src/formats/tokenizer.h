/* tokenizer.h - byte-level BPE from tokenizer.json: text to ids and back.
 *
 * Pieces are cut by the file's own split pattern (PCRE2 with match, depth and heap limits), looked up whole, else merged:
 * the adjacent pair of lowest rank first.  Added and special tokens are cut out before that, longest first.
 */
#ifndef MOXIE_FORMATS_TOKENIZER_H
#define MOXIE_FORMATS_TOKENIZER_H

#include "base/err.h"
#include "base/vec.h"

struct tokenizer;

/* Post-processors, padding and truncation in the file are not applied.
 *   MOXIE_E_IO, MOXIE_E_NOMEM
 *   MOXIE_E_FORMAT       damaged: ids out of range or double, merges that name no token, caps exceeded
 *   MOXIE_E_UNSUPPORTED  another model type, normalizer or pre-tokenizer than byte-level BPE uses, a split pattern that PCRE2
 *                        would read differently, added tokens with lstrip, rstrip or single_word; err names it */
int tokenizer_open(struct tokenizer **out, const char *path, struct moxie_err *err);
int tokenizer_parse(struct tokenizer **out, const char *json, size_t n, const char *file_name, struct moxie_err *err);
void tokenizer_free(struct tokenizer *t);

int tokenizer_n_vocab(const struct tokenizer *t); /* largest id + 1 */

/* Appends the ids of text[0..n).  Special tokens written in the text become their ids only with specials = true (prompts from
 * users: false, so that "<|end|>" typed by a user stays text); added tokens that are not special always do.  Safe from several
 * threads at once.  On error out is as before.
 *   MOXIE_E_ARG   broken UTF-8, with the offset; more than 1 GiB; the split pattern gave up at its step limit (with the patterns
 *                 of published models only a run of some ten million characters of one kind gets there) */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, bool specials, struct ids *out, struct moxie_err *err);

/* The bytes of one id; *n = 0 for an id that no token has.  Borrowed; specials give their written form. */
const char *tokenizer_bytes(const struct tokenizer *t, int32_t id, size_t *n);
bool tokenizer_is_special(const struct tokenizer *t, int32_t id);
int32_t tokenizer_special(const struct tokenizer *t, const char *text); /* id of "<|end|>" etc. if it is marked special, or -1 */

/* Stream decoding: holds back the bytes of an incomplete UTF-8 character until it is whole or broken (then U+FFFD). */
struct detok {
	unsigned char held[4];
	int n_held;
};
/* Appends what became printable with id; specials are skipped unless shown.  MOXIE_E_NOMEM: out and d are as before. */
int detok_push(struct detok *d, const struct tokenizer *t, int32_t id, bool show_special, struct buf *out);
int detok_finish(struct detok *d, struct buf *out); /* a held rest becomes U+FFFD */

#endif
