#include "base/err.h"

#include <stdio.h>
#include <string.h>

MOXIE_API const char *moxie_strerror(int status)
{
	switch (status) {
	case MOXIE_OK: return "ok";
	case MOXIE_E_ARG: return "bad argument";
	case MOXIE_E_NOMEM: return "out of memory";
	case MOXIE_E_IO: return "input/output error";
	case MOXIE_E_FORMAT: return "damaged or contradictory file";
	case MOXIE_E_UNSUPPORTED: return "not supported";
	case MOXIE_E_SHAPE: return "wrong tensor dtype or shape";
	case MOXIE_E_DEVICE: return "device failure";
	case MOXIE_E_KV_FULL: return "KV cache full";
	case MOXIE_E_CANCELLED: return "cancelled";
	case MOXIE_E_TOO_SMALL: return "buffer too small";
	}
	return "unknown status";
}

/* Names in the text may come from a hostile file or client: no control characters reach a terminal, no half characters a client. */
void err_clean(char *s)
{
	unsigned char *p = (unsigned char *)s;
	while (*p) {
		int n = *p < 0x80 ? 1 : *p >= 0xf0 && *p < 0xf5 ? 4 : *p >= 0xe0 && *p < 0xf0 ? 3 : *p >= 0xc2 && *p < 0xe0 ? 2 : 0;
		bool ok = n > 0 && (n > 1 || (*p >= 0x20 && *p != 0x7f) || *p == '\n');
		for (int i = 1; ok && i < n; i++)
			ok = (p[i] & 0xc0) == 0x80; /* the terminating NUL fails this too */
		if (ok && n > 2) /* too long for what they say, halves of UTF-16, above U+10FFFF */
			ok = !(*p == 0xe0 && p[1] < 0xa0) && !(*p == 0xed && p[1] > 0x9f) && !(*p == 0xf0 && p[1] < 0x90) && !(*p == 0xf4 && p[1] > 0x8f);
		if (!ok) {
			*p++ = '?';
			continue;
		}
		p += n;
	}
}

int err_set(struct moxie_err *err, int code, const char *fmt, ...)
{
	if (!err)
		return code;
	va_list ap;
	va_start(ap, fmt);
	err->code = code;
	vsnprintf(err->text, sizeof err->text, fmt, ap);
	va_end(ap);
	err_clean(err->text);
	return code;
}

void err_prefix(struct moxie_err *err, const char *fmt, ...)
{
	if (!err)
		return;
	char old[sizeof err->text], head[256];
	memcpy(old, err->text, sizeof old);
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(head, sizeof head, fmt, ap);
	va_end(ap);
	err_set(err, err->code, "%s: %s", head, old);
}

int err_nomem(struct moxie_err *err, size_t n_bytes, const char *what)
{
	return err_set(err, MOXIE_E_NOMEM, "out of memory: %zu bytes for %s", n_bytes, what);
}
