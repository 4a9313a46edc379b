/* grammar_int.h - what schema.c makes and grammar.c follows. */
#ifndef MOXIE_FORMATS_GRAMMAR_INT_H
#define MOXIE_FORMATS_GRAMMAR_INT_H

#include "formats/grammar.h"
#include "formats/regex.h"

/* A step looks at all properties that may come next, and at all alternatives: these have limits of their own. */
enum { GRAM_MAX_LEVEL = 48, GRAM_MAX_NODE = 8192, GRAM_MAX_PROP = 8192, GRAM_MAX_PROPS = 512, GRAM_MAX_CHOICES = 128, GRAM_MAX_WORD = 16384,
       GRAM_MAX_TEXT = 1 << 20, GRAM_MAX_SCHEMA = 1 << 18, GRAM_MAX_PATTERN = 64 };

enum gram_kind {
	GRAM_UNION,   /* one of link[first .. first+n) */
	GRAM_OBJECT,  /* prop[first .. first+n) in this order, then names of its own with values of rest */
	GRAM_ARRAY,   /* link[first .. first+n), then rest; min .. max in all */
	GRAM_STRING,  /* min .. max characters */
	GRAM_REGEX,   /* a string by dfa[first]; raw: the text itself, the root alone */
	GRAM_NUMBER,  /* any */
	GRAM_FIXED,   /* a multiple of `multiple`, lo .. hi, in units of 10^-frac: integers (frac = 0) and numbers with a bound */
	GRAM_WORDS    /* one of word[first .. first+n), sorted: enum, const, true, false, null */
};

#define GRAM_NONE UINT32_MAX
#define FIXED_MAX 99999999999999999 /* 17 digits */

struct gram_node {
	enum gram_kind kind;
	int height;           /* levels that the least value of it takes; over GRAM_MAX_LEVEL: there is none */
	uint32_t first, n;
	uint32_t rest;        /* node, or GRAM_NONE */
	uint32_t min, max;
	int64_t lo, hi, multiple;
	int frac;
	bool raw;
};
struct gram_text {
	uint32_t off, n;      /* in grammar.text */
};
struct gram_prop {
	struct gram_text key; /* as JSON, quotes included */
	uint32_t node;
	bool required;
};
struct grammar {
	struct gram_node *node;
	struct gram_prop *prop;
	uint32_t *link;
	struct gram_text *word;
	struct dfa *dfa;      /* [n_dfa] */
	struct buf text;
	size_t n_node, n_prop, n_link, n_word, n_dfa;
	uint32_t root;
};

#endif
