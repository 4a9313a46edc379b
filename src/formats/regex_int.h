/* regex_int.h - what regex_parse.c makes of a pattern, and regex.c goes on with. */
#ifndef MOXIE_FORMATS_REGEX_INT_H
#define MOXIE_FORMATS_REGEX_INT_H

#include "formats/regex.h"

enum { RE_MAX_PATTERN = 4096, RE_MAX_DEPTH = 100, RE_MAX_COUNT = 4096 };

enum re_kind { RE_EMPTY, RE_SET, RE_CAT, RE_ALT, RE_REPEAT, RE_BEGIN, RE_END };

struct re_node {
	enum re_kind kind;
	uint32_t a, b;        /* RE_CAT, RE_ALT: two nodes, the chain of several leads along a; RE_REPEAT: a; RE_SET: range[a .. a+b) */
	uint32_t min, max;    /* RE_REPEAT; max UINT32_MAX: any number */
};
struct re_range {
	uint32_t lo, hi;      /* characters; no surrogates */
};
struct re {
	struct re_node *node; /* node[0] is RE_EMPTY */
	struct re_range *range; /* of one set: falling apart, sorted */
	size_t n_node, cap_node, n_range, cap_range;
	uint32_t root;
};

/* re_free after success and failure. */
int re_parse(struct re *r, const char *pattern, size_t n, struct moxie_err *err);
void re_free(struct re *r);

#endif
