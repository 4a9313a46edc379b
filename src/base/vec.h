/* vec.h - two growing arrays: token ids and bytes.  Zero-initialised is empty; free with *_free. */
#ifndef MOXIE_BASE_VEC_H
#define MOXIE_BASE_VEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ids {
	int32_t *v;
	size_t n, cap;
};

struct buf { /* p[n] is always NUL once anything was appended */
	char *p;
	size_t n, cap;
};

/* false: out of memory; the contents are unchanged. */
bool ids_push(struct ids *a, int32_t id);
bool ids_append(struct ids *a, const int32_t *v, size_t n);
void ids_free(struct ids *a);

bool buf_append(struct buf *b, const void *p, size_t n);
bool buf_puts(struct buf *b, const char *s);
bool buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_free(struct buf *b);

#endif
