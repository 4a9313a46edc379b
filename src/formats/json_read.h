/* json_read.h - JSON text to a jansson tree, under one set of rules: UTF-8, no duplicate keys, an object at the top. */
#ifndef MOXIE_FORMATS_JSON_READ_H
#define MOXIE_FORMATS_JSON_READ_H

#include <jansson.h>

#include "base/err.h"

#define JSON_FILE_MAX (64u << 20) /* bytes of a config or index file */

/* *out is owned by the caller (json_decref).  Numbers beyond 64 bits, \u0000 and more than 128
 * levels are refused.  MOXIE_E_FORMAT with line and column, or MOXIE_E_NOMEM. */
int json_read_text(json_t **out, const char *p, size_t n, const char *file_name, struct moxie_err *err);

/* The same of a file of at most JSON_FILE_MAX bytes.  With may_lack a file that does not exist gives *out = NULL and 0.
 * MOXIE_E_IO: cannot be read. */
int json_read_file(json_t **out, const char *path, bool may_lack, struct moxie_err *err);

#endif
