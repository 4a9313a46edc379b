/* detok.c - ids to text as they come.  The whole stream gives what Python's bytes.decode("utf-8", "replace") gives:
 * one U+FFFD for each longest start of a character that is not continued. */
#include <string.h>

#include "formats/tokenizer.h"
#include "formats/utf8.h"

static const char replacement[] = "\xef\xbf\xbd";

int detok_push(struct detok *d, const struct tokenizer *t, int32_t id, bool show_special, struct buf *out)
{
	size_t n, n_before = out->n;
	struct detok before = *d;
	const char *p = tokenizer_bytes(t, id, &n);
	if (!show_special && tokenizer_is_special(t, id))
		return 0;
	for (size_t i = 0; i < n;) {
		if (d->n_held == 0) {
			size_t good = utf8_good(p + i, n - i);
			if (good && !buf_append(out, p + i, good))
				goto nomem;
			i += good;
			if (i == n)
				break;
			if (utf8_len((unsigned char)p[i]) == 0) {
				if (!buf_puts(out, replacement))
					goto nomem;
			} else {
				d->held[d->n_held++] = (unsigned char)p[i];
			}
			i++;
		} else if (utf8_may_follow(d->held, d->n_held, (unsigned char)p[i])) {
			d->held[d->n_held++] = (unsigned char)p[i++];
			if (d->n_held == utf8_len(d->held[0])) {
				if (!buf_append(out, d->held, (size_t)d->n_held))
					goto nomem;
				d->n_held = 0;
			}
		} else {
			if (!buf_puts(out, replacement))
				goto nomem;
			d->n_held = 0;
		}
	}
	return 0;
nomem:
	*d = before;
	out->n = n_before;
	if (out->p)
		out->p[n_before] = 0;
	return MOXIE_E_NOMEM;
}

int detok_finish(struct detok *d, struct buf *out)
{
	if (d->n_held && !buf_puts(out, replacement))
		return MOXIE_E_NOMEM;
	d->n_held = 0;
	return 0;
}
