#include "formats/json_lex.h"

/* O: any character; Z: zeros so far, so the last digit must not be one; D: a first digit d; H: a high surrogate; L: the low one
 * that must follow it; C: so many continuation bytes; E0 .. F4: the lead bytes whose next byte is limited. */
enum { ESC = 1, U1, U2_O, U2_Z, U2_D, U3_O, U3_Z, U3_H, U4_O, U4_Z, U4_H, L_ESC, L_U, L_1, L_2, L_3, L_4, C1, C2, C3, E0, ED, F0, F4 };
_Static_assert(F4 + 1 == LEX_KEY && LEX_KEY + 1 + F4 - C1 + 1 == LEX_N, "the states of keys follow");

static int hex_of(unsigned char c)
{
	return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

static uint8_t step_hex(uint8_t state, int x)
{
	if (x < 0)
		return LEX_DEAD;
	switch (state) {
	case U1:
		return x == 0 ? U2_Z : x == 13 ? U2_D : U2_O;
	case U2_O:
		return U3_O;
	case U2_Z:
		return x == 0 ? U3_Z : U3_O;
	case U2_D:
		return x < 8 ? U3_O : x < 12 ? U3_H : LEX_DEAD;
	case U3_O:
		return U4_O;
	case U3_Z:
		return x == 0 ? U4_Z : U4_O;
	case U3_H:
		return U4_H;
	case U4_O:
		return LEX_PLAIN;
	case U4_Z:
		return x == 0 ? LEX_DEAD : LEX_PLAIN;
	case U4_H:
		return L_ESC;
	case L_1:
		return x == 13 ? L_2 : LEX_DEAD;
	case L_2:
		return x >= 12 ? L_3 : LEX_DEAD;
	case L_3:
		return L_4;
	default: /* L_4 */
		return LEX_PLAIN;
	}
}

static uint8_t step_utf8(uint8_t state, unsigned char c)
{
	unsigned lo = state == E0 ? 0xa0 : state == F0 ? 0x90 : 0x80, hi = state == ED ? 0x9f : state == F4 ? 0x8f : 0xbf;
	if (c < lo || c > hi)
		return LEX_DEAD;
	return state == C1 ? LEX_PLAIN : state == C3 || state == F0 || state == F4 ? C2 : C1;
}

static uint8_t step_plain(unsigned char c)
{
	if (c == '"')
		return LEX_END;
	if (c == '\\')
		return ESC;
	if (c < 0x80)
		return c < 0x20 ? LEX_DEAD : LEX_PLAIN;
	if (c < 0xc2 || c > 0xf4)
		return LEX_DEAD;
	if (c < 0xe0)
		return C1;
	if (c < 0xf0)
		return c == 0xe0 ? E0 : c == 0xed ? ED : C2;
	return c == 0xf0 ? F0 : c == 0xf4 ? F4 : C3;
}

uint8_t json_lex_step(uint8_t state, unsigned char c)
{
	if (state >= LEX_KEY) {
		uint8_t to = state == LEX_KEY ? step_plain(c) : step_utf8((uint8_t)(state - LEX_KEY - 1 + C1), c);
		return to == LEX_PLAIN ? LEX_KEY : to == ESC ? LEX_DEAD : to >= LEX_END ? to : (uint8_t)(to - C1 + LEX_KEY + 1);
	}
	if (state == LEX_PLAIN)
		return step_plain(c);
	if (state >= C1)
		return step_utf8(state, c);
	if (state == ESC) {
		bool one = c == '"' || c == '\\' || c == '/' || c == 'b' || c == 'f' || c == 'n' || c == 'r' || c == 't';
		return c == 'u' ? U1 : one ? LEX_PLAIN : LEX_DEAD;
	}
	if (state == L_ESC)
		return c == '\\' ? L_U : LEX_DEAD;
	if (state == L_U)
		return c == 'u' ? L_1 : LEX_DEAD;
	return step_hex(state, hex_of(c));
}
