/* grammar.h - JSON that follows a schema: which bytes, and so which tokens, may come next.
 *
 * A schema becomes nodes, one for each of its parts; a run of them is a stack of frames, each a node with how far it has come.  Where
 * a schema leaves open what is being read (anyOf), several stacks are followed together.
 *
 * What is written is one way to write it, which every reader of the schema accepts: properties in the schema's order, those that
 * may be left out or not; where additionalProperties is not given, an object with properties gets no others, one without any may
 * have all; between two signs one space or a line end and an indent, none around the whole, before a colon or before a comma;
 * integers of at most 17 digits; in strings with a pattern or a format no escape that is not needed; at most 48 levels.  oneOf is
 * anyOf.
 *
 * Bounds: a compiled schema has at most 8192 nodes, a run takes 0.6 MB, and grammar_mask's time does not grow with the text
 * written so far (measured in docs/serving.md).
 */
#ifndef MOXIE_FORMATS_GRAMMAR_H
#define MOXIE_FORMATS_GRAMMAR_H

#include "formats/token_trie.h"

struct grammar; /* compiled; read-only, so good for many runs at once */

/* schema: JSON text of n bytes; NULL: any JSON object.
 *   MOXIE_E_FORMAT       not JSON, or a keyword's value is none that it may have; err says where
 *   MOXIE_E_UNSUPPORTED  a keyword that this cannot hold an answer to, by its name; too large; or nothing follows the schema
 *   MOXIE_E_NOMEM */
int grammar_compile(struct grammar **out, const char *schema, size_t n, struct moxie_err *err);
/* The text itself, no JSON, matches a pattern (regex.h) as a whole.  Errors as above. */
int grammar_compile_regex(struct grammar **out, const char *pattern, size_t n, struct moxie_err *err);
void grammar_free(struct grammar *g);

struct grammar_run;
/* trie may be NULL where no mask is wanted.  Both must outlive the run.   MOXIE_E_NOMEM */
int grammar_run_create(struct grammar_run **out, const struct grammar *g, const struct token_trie *trie, struct moxie_err *err);
void grammar_run_free(struct grammar_run *r);

/* Takes the bytes of a token, at most TRIE_MAX_BYTES.  false: they may not come; the run is as before. */
bool grammar_push(struct grammar_run *r, const char *p, size_t n);
/* What was pushed is a whole value. */
bool grammar_done(const struct grammar_run *r);
/* Sets the bits of all tokens that may come next; clears none. */
void grammar_mask(struct grammar_run *r, uint32_t *bits);

#endif
