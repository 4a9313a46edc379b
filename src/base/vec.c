#include "base/vec.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Grows *p to hold n + extra elements of size bytes; doubles, so that appending is linear. */
static bool grow(void **p, size_t *cap, size_t n, size_t extra, size_t size)
{
	size_t want, new_cap = *cap ? *cap : 16;
	if (__builtin_add_overflow(n, extra, &want))
		return false;
	while (new_cap < want)
		if (__builtin_mul_overflow(new_cap, (size_t)2, &new_cap))
			return false;
	if (new_cap == *cap)
		return true;
	size_t n_bytes;
	if (__builtin_mul_overflow(new_cap, size, &n_bytes))
		return false;
	void *q = realloc(*p, n_bytes);
	if (!q)
		return false;
	*p = q;
	*cap = new_cap;
	return true;
}

bool ids_append(struct ids *a, const int32_t *v, size_t n)
{
	void *p = a->v;
	if (!grow(&p, &a->cap, a->n, n, sizeof *a->v))
		return false;
	a->v = p;
	if (n)
		memcpy(a->v + a->n, v, n * sizeof *v);
	a->n += n;
	return true;
}

bool ids_push(struct ids *a, int32_t id)
{
	return ids_append(a, &id, 1);
}

void ids_free(struct ids *a)
{
	free(a->v);
	*a = (struct ids){ 0 };
}

bool buf_append(struct buf *b, const void *p, size_t n)
{
	void *q = b->p;
	if (n == SIZE_MAX || !grow(&q, &b->cap, b->n, n + 1, 1))
		return false;
	b->p = q;
	if (n)
		memcpy(b->p + b->n, p, n);
	b->n += n;
	b->p[b->n] = 0;
	return true;
}

bool buf_puts(struct buf *b, const char *s)
{
	return buf_append(b, s, strlen(s));
}

bool buf_printf(struct buf *b, const char *fmt, ...)
{
	va_list ap, again;
	va_start(ap, fmt);
	va_copy(again, ap);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	void *q = b->p;
	bool ok = n >= 0 && grow(&q, &b->cap, b->n, (size_t)n + 1, 1);
	if (ok) {
		b->p = q;
		vsnprintf(b->p + b->n, (size_t)n + 1, fmt, again);
		b->n += (size_t)n;
	}
	va_end(again);
	return ok;
}

void buf_free(struct buf *b)
{
	free(b->p);
	*b = (struct buf){ 0 };
}
