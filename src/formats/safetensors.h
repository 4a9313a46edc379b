/* safetensors.h - a checkpoint directory (or one file) as a set of named, mapped tensors.
 *
 * Strict: the header is at most 100 MB and begins with '{'; names are unique; dtypes known; every product is checked;
 * shape * dtype == end - begin; the tensors of a file cover its data exactly, without overlap or hole; the file is as
 * long as its header says.  A sharded index may name only files of its own directory.
 */
#ifndef MOXIE_FORMATS_SAFETENSORS_H
#define MOXIE_FORMATS_SAFETENSORS_H

#include "base/dtype.h"
#include "base/err.h"

#define ST_MAX_DIM 8

struct st_tensor {
	const char *name;
	enum dtype dtype;
	int n_dim;
	int64_t shape[ST_MAX_DIM];
	const uint8_t *data; /* mapped read-only; aligned only as the file aligned it */
	uint64_t n_bytes;
	int file;            /* index for safetensors_file_name */
};

struct safetensors;

/* path: a .safetensors file, or a directory holding model.safetensors or model.safetensors.index.json (the index wins).
 *   MOXIE_E_IO      cannot open, map or stat; the file is named
 *   MOXIE_E_FORMAT  any rule above; file, tensor and both values are named
 *   MOXIE_E_NOMEM */
int safetensors_open(struct safetensors **out, const char *path, struct moxie_err *err);
void safetensors_free(struct safetensors *st);

size_t safetensors_n(const struct safetensors *st);
const struct st_tensor *safetensors_at(const struct safetensors *st, size_t i);         /* by name order */
const struct st_tensor *safetensors_find(const struct safetensors *st, const char *name); /* NULL: none */
uint64_t safetensors_n_bytes(const struct safetensors *st);                             /* all tensor data */
int safetensors_n_file(const struct safetensors *st);
const char *safetensors_file_name(const struct safetensors *st, int file);

/* Brings every page in, n_thread readers at once; progress (may be NULL) sees bytes done so far and in all, from one
 * thread at a time, and stops the load by returning non-zero (MOXIE_E_CANCELLED).  A file cut short since open is
 * MOXIE_E_IO, not a SIGBUS. */
int safetensors_populate(struct safetensors *st, int n_thread, int (*progress)(void *ud, uint64_t done, uint64_t all), void *ud,
                         struct moxie_err *err);

/* Parses one file image that the caller keeps; for images in memory, tests and the fuzz target. */
int safetensors_parse(struct safetensors **out, const uint8_t *p, size_t n, const char *file_name, struct moxie_err *err);
/* Hands that image, n bytes from mmap, over: safetensors_free unmaps it. */
void safetensors_own(struct safetensors *st, void *map, size_t n);

#endif
