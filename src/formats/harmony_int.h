/* harmony_int.h - what chat_harmony.c and harmony_tools.c share. */
#ifndef MOXIE_FORMATS_HARMONY_INT_H
#define MOXIE_FORMATS_HARMONY_INT_H

#include "formats/chat.h"

/* Appends the "# Tools" section: the functions as a TypeScript namespace.
 *   MOXIE_E_ARG   a name or schema that cannot be rendered; err says which tool */
int harmony_tools(const struct moxie_tool *tool, size_t n_tool, struct buf *out, struct moxie_err *err);

/* Is s fit for a header: not empty, at most 256 bytes, without white space, control characters and '<'? */
bool harmony_word(const char *s);

#endif
