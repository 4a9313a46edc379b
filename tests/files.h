/* files.h - files that the tests of file readers make: in a folder of their own, image by image; and who watches them being read. */
#ifndef MOXIE_TESTS_FILES_H
#define MOXIE_TESTS_FILES_H

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/vec.h"
#include "test.h"

#define VECTORS "tests/vectors/"

/* A file image: length, header, n_data bytes counting up.  The caller frees. */
static inline uint8_t *image(const char *header, size_t n_header, size_t n_data, size_t *n)
{
	*n = 8 + n_header + n_data;
	uint8_t *p = malloc(*n);
	for (int i = 0; i < 8; i++)
		p[i] = (uint8_t)((uint64_t)n_header >> 8 * i);
	memcpy(p + 8, header, n_header);
	for (size_t i = 0; i < n_data; i++)
		p[8 + n_header + i] = (uint8_t)i;
	return p;
}

static inline void write_file(const char *path, const void *p, size_t n)
{
	FILE *f = fopen(path, "wb");
	CHECK(f && fwrite(p, 1, n, f) == n && fclose(f) == 0, "%s: %s", path, strerror(errno));
}

static inline void write_text(const char *path, const char *text)
{
	write_file(path, text, strlen(text));
}

static inline struct buf read_file(const char *path)
{
	struct buf b = { 0 };
	char part[4096];
	size_t n;
	FILE *f = fopen(path, "rb");
	CHECK(f, "%s: %s", path, strerror(errno));
	while ((n = fread(part, 1, sizeof part, f)) > 0)
		buf_append(&b, part, n);
	fclose(f);
	return b;
}

static char tmp[64];

static inline const char *tmp_file(const char *name)
{
	static char path[4][160];
	static int turn;
	char *p = path[turn++ % 4];
	snprintf(p, sizeof *path, "%s/%s", tmp, name);
	return p;
}

/* A fresh folder; tmp_remove takes the known names out again. */
static inline void tmp_make(void)
{
	strcpy(tmp, "/tmp/moxie-test-XXXXXX");
	CHECK(mkdtemp(tmp), "%s: %s", tmp, strerror(errno));
}

static inline void tmp_remove(void)
{
	static const char *const name[] = { "model.safetensors", "model.safetensors.index.json", "a.safetensors", "b.safetensors",
					    "config.json", "generation_config.json", "tokenizer.json" };
	for (size_t i = 0; i < sizeof name / sizeof *name; i++)
		unlink(tmp_file(name[i]));
	CHECK(rmdir(tmp) == 0, "%s: %s", tmp, strerror(errno));
}

/* Progress reports: the last one, how many, whether none went back; the stop_at-th stops. */
struct seen {
	uint64_t last, all;
	int n, stop_at;
	bool ordered;
};

static inline int see(void *ud, uint64_t done, uint64_t all)
{
	struct seen *s = ud;
	s->ordered &= done >= s->last && done <= all;
	s->last = done, s->all = all;
	return ++s->n == s->stop_at;
}

#endif
