/* Any bytes as a file, and the same bytes as the header of a well-framed one: the second goes deeper. */
#include <stdlib.h>
#include <string.h>

#include "formats/safetensors.h"

static void parse(const uint8_t *p, size_t n)
{
	struct safetensors *st;
	struct moxie_err err = { 0 };
	if (safetensors_parse(&st, p, n, "fuzz", &err) < 0) {
		if (st || !err.text[0])
			abort();
		return;
	}
	volatile unsigned sum = 0; /* volatile: the reads must happen */
	for (size_t i = 0; i < safetensors_n(st); i++) {
		const struct st_tensor *t = safetensors_at(st, i);
		if (t->n_bytes) /* both ends must be ours to read */
			sum += t->data[0] + t->data[t->n_bytes - 1];
		if (safetensors_find(st, t->name) != t)
			abort();
	}
	(void)sum;
	safetensors_free(st);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	parse(p, n);
	if (n > 1 << 20)
		return 0;
	size_t n_data = n ? (size_t)p[n - 1] * 16 : 0; /* the last byte picks how much data follows */
	uint8_t *framed = calloc(1, 8 + n + n_data);
	if (!framed)
		return 0;
	for (int i = 0; i < 8; i++)
		framed[i] = (uint8_t)((uint64_t)n >> 8 * i);
	if (n)
		memcpy(framed + 8, p, n);
	if (n && p[n - 1] != '}')
		framed[8 + n - 1] = ' ';
	parse(framed, 8 + n + n_data);
	free(framed);
	return 0;
}
