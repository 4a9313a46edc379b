/* arena.h - the step's memory: one block taken at plan time, handed out by moving a mark, reset each step.
 *
 * A dry arena (base == NULL) hands out nothing but counts, so that the code that takes memory also is the plan:
 *     struct arena dry = { .cap = SIZE_MAX };  forward(..., &dry);  need = dry.top;
 */
#ifndef MOXIE_BASE_ARENA_H
#define MOXIE_BASE_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARENA_ALIGN 64 /* a cache line, and the width of an AVX-512 or AMX row */

struct arena {
	uint8_t *base; /* NULL: only counting */
	size_t cap, n, top; /* bytes: size, in use, most ever in use */
};

/* n zero-initialised elements of size bytes are NOT promised: memory is as the last step left it.
 * NULL when the arena is full or dry. */
static inline void *arena_take(struct arena *a, size_t n, size_t size)
{
	size_t bytes, end;
	if (__builtin_mul_overflow(n, size, &bytes) || __builtin_add_overflow(bytes, (size_t)ARENA_ALIGN - 1, &bytes) ||
	    __builtin_add_overflow(a->n, bytes & ~(size_t)(ARENA_ALIGN - 1), &end) || end > a->cap)
		return NULL;
	uint8_t *p = a->base ? a->base + a->n : NULL;
	a->n = end;
	if (a->top < end)
		a->top = end;
	return p;
}

bool arena_init(struct arena *a, size_t n_bytes); /* false: out of memory */
void arena_free(struct arena *a);

#endif
