/* err.h - how a function says what went wrong.
 *
 *     if (n_row < 1) return err_set(err, MOXIE_E_ARG, "n_row is %d, wanted >= 1", n_row);
 */
#ifndef MOXIE_BASE_ERR_H
#define MOXIE_BASE_ERR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "moxie_status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Writes code and text into err (which may be NULL) and returns code.  Control characters and broken UTF-8 in
 * the formatted text, which may come from a file, are replaced by '?'. */
int err_set(struct moxie_err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* What err_set does to a text: it becomes UTF-8 without control characters. */
void err_clean(char *text);

/* Puts "prefix: " before the text that is already in err (which may be NULL). */
void err_prefix(struct moxie_err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* err_set(err, MOXIE_E_NOMEM, "out of memory: %zu bytes for %s") */
int err_nomem(struct moxie_err *err, size_t n_bytes, const char *what);

#ifdef __cplusplus
}
#endif

#endif
