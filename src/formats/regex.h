/* regex.h - a regular expression as a table that is followed byte by byte.
 *
 * ECMAScript's, as JSON Schema's `pattern` has them, without what no finite table can follow: characters, `.`, classes, \d \w \s and their
 * opposites, escapes, groups, |, * + ? {m,n} also lazy, ^ and $.  Refused by name: back references, look-around, \b, \p, flags.
 * Characters are Unicode's, bytes UTF-8.
 *
 * Bounds: a pattern of at most 4096 bytes, 4096 states, and some 30 ms of work.   Test: build/test_regex   Fuzz: fuzz_schema
 */
#ifndef MOXIE_FORMATS_REGEX_H
#define MOXIE_FORMATS_REGEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "moxie_status.h"

/* State 0 is dead, 1 the beginning; from every other state some accepting one can be reached. */
struct dfa {
	uint8_t class_of[256];
	uint16_t *next;       /* [n_state, n_class] */
	bool *accept;         /* [n_state] */
	int n_state, n_class;
};

struct regex_how {
	bool in_json;         /* the bytes are those between the quotes of a JSON string: ", \ and control characters as two-character
	                       * escapes; control characters that have none may not come */
	bool search;          /* a match may stand anywhere in the text; else the text is one */
	uint32_t min, max;    /* characters of the text */
	size_t *work;         /* what may still be done, in steps of some nanoseconds; counted down */
};
#define REGEX_WORK 4000000

/*   MOXIE_E_FORMAT       a damaged pattern
 *   MOXIE_E_UNSUPPORTED  something in it by its name, too large, or nothing matches
 *   MOXIE_E_NOMEM */
int regex_compile(struct dfa *out, const char *pattern, size_t n, const struct regex_how *how, struct moxie_err *err);
void dfa_free(struct dfa *d);

static inline uint16_t dfa_step(const struct dfa *d, uint16_t state, unsigned char c)
{
	return d->next[(size_t)state * (size_t)d->n_class + d->class_of[c]];
}

#endif
