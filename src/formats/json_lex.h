/* json_lex.h - the inside of a JSON string, byte by byte: escapes, whole UTF-8 characters, no lone surrogates, no \u0000. */
#ifndef MOXIE_FORMATS_JSON_LEX_H
#define MOXIE_FORMATS_JSON_LEX_H

#include <stdbool.h>
#include <stdint.h>

/* States.  Those in between are inside an escape or a character.  From LEX_KEY on no escape may come: names that have to be told
 * apart from others have one spelling only. */
enum { LEX_PLAIN = 0, LEX_KEY = 25, LEX_N = 33, LEX_END = 254, LEX_DEAD = 255 };

/* The state after byte c; LEX_END: c is the closing quote; LEX_DEAD: c may not come. */
uint8_t json_lex_step(uint8_t state, unsigned char c);

/* Whether a character of the string begins with the next byte, unless it is the closing quote. */
static inline bool json_lex_between(uint8_t state)
{
	return state == LEX_PLAIN || state == LEX_KEY;
}

#endif
