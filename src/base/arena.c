#include "base/arena.h"

#include <stdlib.h>

bool arena_init(struct arena *a, size_t n_bytes)
{
	*a = (struct arena){ 0 };
	if (n_bytes > SIZE_MAX - ARENA_ALIGN)
		return false;
	n_bytes = (n_bytes + ARENA_ALIGN) / ARENA_ALIGN * ARENA_ALIGN; /* never zero bytes */
	a->base = aligned_alloc(ARENA_ALIGN, n_bytes);
	a->cap = a->base ? n_bytes : 0;
	return a->base != NULL;
}

void arena_free(struct arena *a)
{
	free(a->base);
	*a = (struct arena){ 0 };
}
