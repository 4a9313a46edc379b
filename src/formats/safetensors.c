#include "formats/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/json_read.h"
#include "formats/pieces.h"

#define HEADER_MAX 100000000u /* the format's own cap */
#define SHARD_MAX 1024        /* shards; each keeps a descriptor */
#define NAME_MAX_BYTES 512    /* of a tensor name */

struct st_file {
	char *name;         /* path as errors show it */
	char *tensor_names; /* all names of this file, each NUL-terminated */
	uint8_t *map;       /* owned mapping or NULL */
	size_t n_map;
	int fd;             /* -1: not from a file */
};

struct safetensors {
	struct st_tensor *tensor; /* by name */
	size_t n_tensor;
	struct st_file *file;
	int n_file;
	uint64_t n_bytes;
};

/* ---- one file --------------------------------------------------------------------------------------------------- */

static enum dtype dtype_parse(const char *name)
{
	for (int t = DT_NONE + 1; dtype_bytes((enum dtype)t); t++)
		if (!strcmp(name, dtype_name((enum dtype)t)))
			return (enum dtype)t;
	return DT_NONE;
}

/* {"dtype": "BF16", "shape": [..], "data_offsets": [begin, end]}; t->data becomes data + begin. */
static int parse_tensor(struct st_tensor *t, json_t *j, const uint8_t *data, uint64_t n_data, const char *file, struct moxie_err *err)
{
	json_t *dtype = json_object_get(j, "dtype"), *shape = json_object_get(j, "shape"), *span = json_object_get(j, "data_offsets");
	if (!json_is_string(dtype) || !json_is_array(shape) || !json_is_array(span) || json_array_size(span) != 2 ||
	    !json_is_integer(json_array_get(span, 0)) || !json_is_integer(json_array_get(span, 1)))
		return err_set(err, MOXIE_E_FORMAT, "%s: tensor %s: wanted dtype \"...\", shape [...] and data_offsets [begin, end]", file,
			       t->name);
	t->dtype = dtype_parse(json_string_value(dtype));
	if (!t->dtype)
		return err_set(err, MOXIE_E_FORMAT, "%s: tensor %s: unknown dtype %.32s", file, t->name, json_string_value(dtype));
	if (json_array_size(shape) > ST_MAX_DIM)
		return err_set(err, MOXIE_E_FORMAT, "%s: tensor %s: %zu dimensions, at most %d are read", file, t->name,
			       json_array_size(shape), ST_MAX_DIM);
	t->n_dim = (int)json_array_size(shape);
	int64_t n = dtype_bytes(t->dtype);
	bool zero = false, overflow = false; /* a zero anywhere must not hide an overflow elsewhere */
	for (int i = 0; i < t->n_dim; i++) {
		json_t *d = json_array_get(shape, (size_t)i);
		t->shape[i] = json_is_integer(d) ? json_integer_value(d) : -1;
		if (t->shape[i] < 0)
			return err_set(err, MOXIE_E_FORMAT, "%s: tensor %s: shape[%d] is not a whole number >= 0", file, t->name, i);
		zero |= t->shape[i] == 0;
		overflow |= __builtin_mul_overflow(n, t->shape[i] ? t->shape[i] : 1, &n);
	}
	if (overflow)
		return err_set(err, MOXIE_E_FORMAT, "%s: tensor %s: the product of its %d dimensions overflows 64 bits", file, t->name,
			       t->n_dim);
	if (zero)
		n = 0;
	int64_t begin = json_integer_value(json_array_get(span, 0)), end = json_integer_value(json_array_get(span, 1));
	if (begin < 0 || begin > end || (uint64_t)end > n_data)
		return err_set(err, MOXIE_E_FORMAT, "%s: tensor %s: data_offsets [%" PRId64 ", %" PRId64 "] in %" PRIu64 " bytes of data",
			       file, t->name, begin, end, n_data);
	if (end - begin != n)
		return err_set(err, MOXIE_E_FORMAT,
			       "%s: tensor %s: shape and dtype %s make %" PRId64 " bytes, data_offsets [%" PRId64 ", %" PRId64
			       "] hold %" PRId64,
			       file, t->name, dtype_name(t->dtype), n, begin, end, end - begin);
	t->data = data + begin;
	t->n_bytes = (uint64_t)n;
	return 0;
}

static int by_position(const void *pa, const void *pb)
{
	const struct st_tensor *a = pa, *b = pb;
	if (a->data != b->data)
		return a->data < b->data ? -1 : 1;
	return (a->n_bytes > b->n_bytes) - (a->n_bytes < b->n_bytes); /* empty ones first, else they would look like overlaps */
}

static int by_name(const void *pa, const void *pb)
{
	const struct st_tensor *a = pa, *b = pb;
	return strcmp(a->name, b->name);
}

/* The tensors of one file, t[0..n), must tile its data exactly. */
static int check_tiling(struct st_tensor *t, size_t n, const uint8_t *data, uint64_t n_data, const char *file, struct moxie_err *err)
{
	if (n)
		qsort(t, n, sizeof *t, by_position);
	uint64_t at = 0;
	for (size_t i = 0; i < n; i++) {
		uint64_t begin = (uint64_t)(t[i].data - data);
		if (begin != at)
			return err_set(err, MOXIE_E_FORMAT, "%s: tensor %s begins at %" PRIu64 ", %s ends at %" PRIu64 ": %s", file, t[i].name,
				       begin, i ? t[i - 1].name : "the header", at, begin < at ? "overlap" : "hole");
		at = begin + t[i].n_bytes;
	}
	if (at != n_data)
		return err_set(err, MOXIE_E_FORMAT, "%s: tensors end at %" PRIu64 " of %" PRIu64 " bytes of data", file, at, n_data);
	return 0;
}

/* Appends the tensors of the image p[0..n) to st; f is st->file + i_file. */
static int parse_image(struct safetensors *st, int i_file, const uint8_t *p, size_t n, struct moxie_err *err)
{
	struct st_file *f = &st->file[i_file];
	int rc = 0;
	json_t *root = NULL, *val;
	const char *key;
	uint64_t n_header = 0;
	if (n < 8)
		return err_set(err, MOXIE_E_FORMAT, "%s: %zu bytes, too short for a header length", f->name, n);
	for (int i = 0; i < 8; i++)
		n_header |= (uint64_t)p[i] << 8 * i;
	if (n_header > HEADER_MAX)
		return err_set(err, MOXIE_E_FORMAT, "%s: header of %" PRIu64 " bytes, at most %u are read", f->name, n_header, HEADER_MAX);
	if (n_header > n - 8)
		return err_set(err, MOXIE_E_FORMAT, "%s: header of %" PRIu64 " bytes, the file has %zu after its length", f->name, n_header,
			       n - 8);
	if (!n_header || p[8] != '{')
		return err_set(err, MOXIE_E_FORMAT, "%s: the header does not begin with '{'", f->name);
	const uint8_t *data = p + 8 + n_header;
	uint64_t n_data = n - 8 - n_header;

	if ((rc = json_read_text(&root, (const char *)p + 8, (size_t)n_header, f->name, err)) < 0)
		goto out;
	size_t n_new = 0, n_name = 1;
	json_object_foreach(root, key, val) {
		if (strlen(key) > NAME_MAX_BYTES) {
			rc = err_set(err, MOXIE_E_FORMAT, "%s: tensor name of %zu bytes, at most %d are read", f->name, strlen(key),
				     NAME_MAX_BYTES);
			goto out;
		}
		n_name += strlen(key) + 1;
		n_new++;
	}
	size_t n_all = st->n_tensor + n_new;
	struct st_tensor *grown = realloc(st->tensor, (n_all + 1) * sizeof *grown);
	if (!grown) {
		rc = err_nomem(err, (n_all + 1) * sizeof *grown, "the tensor table");
		goto out;
	}
	st->tensor = grown;
	char *name = f->tensor_names = malloc(n_name);
	if (!name) {
		rc = err_nomem(err, n_name, "tensor names");
		goto out;
	}
	struct st_tensor *first = grown + st->n_tensor;
	size_t n_got = 0;
	json_object_foreach(root, key, val) {
		if (!strcmp(key, "__metadata__")) {
			const char *unused;
			json_t *v;
			bool ok = json_is_object(val);
			json_object_foreach(val, unused, v)
				ok &= json_is_string(v);
			if (!ok) {
				rc = err_set(err, MOXIE_E_FORMAT, "%s: __metadata__ is not an object of strings", f->name);
				goto out;
			}
			continue;
		}
		struct st_tensor *t = &first[n_got++];
		*t = (struct st_tensor){ .name = name, .file = i_file };
		memcpy(name, key, strlen(key) + 1);
		name += strlen(key) + 1;
		if ((rc = parse_tensor(t, val, data, n_data, f->name, err)) < 0)
			goto out;
	}
	if ((rc = check_tiling(first, n_got, data, n_data, f->name, err)) < 0)
		goto out;
	st->n_tensor += n_got;
	st->n_bytes += n_data;
out:
	json_decref(root);
	return rc;
}

/* Sorts by name, so that find can search and no name is double. */
static int finish(struct safetensors *st, struct moxie_err *err)
{
	if (st->n_tensor)
		qsort(st->tensor, st->n_tensor, sizeof *st->tensor, by_name);
	for (size_t i = 1; i < st->n_tensor; i++)
		if (!strcmp(st->tensor[i - 1].name, st->tensor[i].name))
			return err_set(err, MOXIE_E_FORMAT, "tensor %s is in %s and in %s", st->tensor[i].name,
				       st->file[st->tensor[i - 1].file].name, st->file[st->tensor[i].file].name);
	return 0;
}

static int st_create(struct safetensors **out, int n_file, struct moxie_err *err)
{
	struct safetensors *st = calloc(1, sizeof *st);
	if (st)
		st->file = calloc((size_t)n_file, sizeof *st->file);
	if (!st || !st->file) {
		free(st);
		return err_nomem(err, sizeof *st + (size_t)n_file * sizeof *st->file, "a checkpoint");
	}
	st->n_file = n_file;
	for (int i = 0; i < n_file; i++)
		st->file[i].fd = -1;
	*out = st;
	return 0;
}

int safetensors_parse(struct safetensors **out, const uint8_t *p, size_t n, const char *file_name, struct moxie_err *err)
{
	struct safetensors *st = NULL;
	int rc;
	*out = NULL;
	if ((rc = st_create(&st, 1, err)) < 0)
		return rc;
	st->file[0].name = strdup(file_name);
	if (!st->file[0].name) {
		rc = err_nomem(err, strlen(file_name) + 1, "a file name");
		goto out;
	}
	if ((rc = parse_image(st, 0, p, n, err)) < 0 || (rc = finish(st, err)) < 0)
		goto out;
	*out = st;
	st = NULL;
out:
	safetensors_free(st);
	return rc;
}

void safetensors_own(struct safetensors *st, void *map, size_t n)
{
	st->file[0].map = map;
	st->file[0].n_map = n;
}

void safetensors_free(struct safetensors *st)
{
	if (!st)
		return;
	for (int i = 0; i < st->n_file; i++) {
		struct st_file *f = &st->file[i];
		if (f->map)
			munmap(f->map, f->n_map);
		if (f->fd >= 0)
			close(f->fd);
		free(f->tensor_names);
		free(f->name);
	}
	free(st->file);
	free(st->tensor);
	free(st);
}

/* ---- files and directories -------------------------------------------------------------------------------------- */

/* "dir/name", or dir itself where name is NULL. */
static char *path_join(const char *dir, const char *name)
{
	size_t n = strlen(dir) + 2 + (name ? strlen(name) : 0);
	char *p = malloc(n);
	if (p)
		snprintf(p, n, name ? "%s/%s" : "%s", dir, name);
	return p;
}

/* Maps path (taken over, also on failure) as file i and reads its header. */
static int open_file(struct safetensors *st, int i, char *path, struct moxie_err *err)
{
	struct st_file *f = &st->file[i];
	struct stat sb;
	f->name = path;
	if (!path)
		return err_nomem(err, PATH_MAX, "a path");
	f->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (f->fd < 0 || fstat(f->fd, &sb) < 0)
		return err_set(err, MOXIE_E_IO, "%s: %s", path, strerror(errno));
	if (!S_ISREG(sb.st_mode))
		return err_set(err, MOXIE_E_IO, "%s: not a regular file", path);
	if (sb.st_size < 8)
		return err_set(err, MOXIE_E_FORMAT, "%s: %lld bytes, too short for a header length", path, (long long)sb.st_size);
	void *map = mmap(NULL, (size_t)sb.st_size, PROT_READ, MAP_PRIVATE, f->fd, 0);
	if (map == MAP_FAILED)
		return err_set(err, MOXIE_E_IO, "%s: cannot map %lld bytes: %s", path, (long long)sb.st_size, strerror(errno));
	f->map = map;
	f->n_map = (size_t)sb.st_size;
	return parse_image(st, i, map, f->n_map, err);
}

/* A shard is named by the index, which may come from anywhere: only plain names of its own folder. */
static bool shard_name_ok(const char *s)
{
	size_t n = strlen(s);
	return n > 12 && n < 256 && s[0] != '.' && !strchr(s, '/') && !strstr(s, "..") && !strcmp(s + n - 12, ".safetensors");
}

static int open_index(struct safetensors **out, const char *dir, const char *index, struct moxie_err *err)
{
	struct safetensors *st = NULL;
	json_t *root = NULL, *shards = NULL, *val;
	const char *key, *shard;
	int rc;
	if ((rc = json_read_file(&root, index, false, err)) < 0)
		return rc;
	json_t *map = json_object_get(root, "weight_map");
	if (!json_is_object(map)) {
		rc = err_set(err, MOXIE_E_FORMAT, "%s: no weight_map object", index);
		goto out;
	}
	shards = json_object(); /* shard name -> its number */
	if (!shards) {
		rc = err_nomem(err, json_object_size(map), "the shard list");
		goto out;
	}
	json_object_foreach(map, key, val) {
		shard = json_string_value(val);
		if (!shard || !shard_name_ok(shard)) {
			rc = err_set(err, MOXIE_E_FORMAT, "%s: tensor %.200s is in %.100s, wanted the name of a .safetensors file in the same folder",
				     index, key, shard ? shard : "something that is not a string");
			goto out;
		}
		if (!json_object_get(shards, shard) &&
		    json_object_set_new(shards, shard, json_integer((json_int_t)json_object_size(shards))) < 0) {
			rc = err_nomem(err, strlen(shard), "the shard list");
			goto out;
		}
	}
	if (json_object_size(shards) < 1 || json_object_size(shards) > SHARD_MAX) {
		rc = err_set(err, MOXIE_E_FORMAT, "%s: weight_map names %zu files, wanted 1 to %d", index, json_object_size(shards), SHARD_MAX);
		goto out;
	}
	if ((rc = st_create(&st, (int)json_object_size(shards), err)) < 0)
		goto out;
	json_object_foreach(shards, key, val)
		if ((rc = open_file(st, (int)json_integer_value(val), path_join(dir, key), err)) < 0)
			goto out;
	if ((rc = finish(st, err)) < 0)
		goto out;
	for (size_t i = 0; i < st->n_tensor; i++) {
		const struct st_tensor *t = &st->tensor[i];
		shard = json_string_value(json_object_get(map, t->name));
		if (!shard || json_integer_value(json_object_get(shards, shard)) != t->file) {
			rc = err_set(err, MOXIE_E_FORMAT, "%s: tensor %s is in %s, the index says %.100s", index, t->name,
				     st->file[t->file].name, shard ? shard : "nothing of it");
			goto out;
		}
	}
	json_object_foreach(map, key, val)
		if (!safetensors_find(st, key)) {
			rc = err_set(err, MOXIE_E_FORMAT, "%s: tensor %.200s is not in %s/%s", index, key, dir, json_string_value(val));
			goto out;
		}
	*out = st;
	st = NULL;
out:
	safetensors_free(st);
	json_decref(shards);
	json_decref(root);
	return rc;
}

int safetensors_open(struct safetensors **out, const char *path, struct moxie_err *err)
{
	struct safetensors *st = NULL;
	struct stat sb;
	int rc = 0;
	*out = NULL;
	char *index = path_join(path, "model.safetensors.index.json"), *single = path_join(path, "model.safetensors");
	if (!index || !single) {
		rc = err_nomem(err, strlen(path) + 32, "a path");
		goto out;
	}
	if (stat(path, &sb) < 0) {
		rc = err_set(err, MOXIE_E_IO, "%s: %s", path, strerror(errno));
		goto out;
	}
	bool dir = S_ISDIR(sb.st_mode);
	if (dir && stat(index, &sb) == 0) {
		rc = open_index(out, path, index, err);
		goto out;
	}
	if (dir && stat(single, &sb) < 0) {
		rc = err_set(err, MOXIE_E_IO, "%s: holds neither model.safetensors nor model.safetensors.index.json", path);
		goto out;
	}
	if ((rc = st_create(&st, 1, err)) < 0 || (rc = open_file(st, 0, path_join(dir ? single : path, NULL), err)) < 0 ||
	    (rc = finish(st, err)) < 0)
		goto out;
	*out = st;
	st = NULL;
out:
	safetensors_free(st);
	free(single);
	free(index);
	return rc;
}

size_t safetensors_n(const struct safetensors *st)
{
	return st->n_tensor;
}

const struct st_tensor *safetensors_at(const struct safetensors *st, size_t i)
{
	return i < st->n_tensor ? &st->tensor[i] : NULL;
}

const struct st_tensor *safetensors_find(const struct safetensors *st, const char *name)
{
	struct st_tensor key = { .name = name };
	return st->n_tensor ? bsearch(&key, st->tensor, st->n_tensor, sizeof key, by_name) : NULL;
}

uint64_t safetensors_n_bytes(const struct safetensors *st)
{
	return st->n_bytes;
}

int safetensors_n_file(const struct safetensors *st)
{
	return st->n_file;
}

const char *safetensors_file_name(const struct safetensors *st, int file)
{
	return file >= 0 && file < st->n_file ? st->file[file].name : "?";
}

/* ---- bringing pages in ------------------------------------------------------------------------------------------ */

#define POPULATE_STEP (8u << 20) /* bytes of one call: long enough to amortise it, short enough to stop soon */

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#endif

/* Fills the page cache, for kernels without MADV_POPULATE_READ; later faults then find their page.  Returns errno. */
static int read_through(int fd, size_t at, size_t n)
{
	enum { STEP = 1 << 20 };
	char *buf = malloc(STEP);
	int e = buf ? 0 : ENOMEM;
	while (n && !e) {
		ssize_t got = pread(fd, buf, n < STEP ? n : STEP, (off_t)at);
		if (got > 0)
			at += (size_t)got, n -= (size_t)got;
		else if (got == 0)
			e = EFAULT; /* the file ends here, as the kernel says it for a mapping */
		else if (errno != EINTR)
			e = errno;
	}
	free(buf);
	return e;
}

/* Brings [at, at + n) of f in without touching the mapping: where a load would raise SIGBUS this reports EFAULT. */
static int populate_file(const struct st_file *f, size_t at, size_t n, struct moxie_err *err)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), extra = at % page;
	struct stat sb;
	at -= extra, n += extra;
	posix_fadvise(f->fd, (off_t)(at + n), POPULATE_STEP, POSIX_FADV_WILLNEED); /* a disk works ahead meanwhile */
	int e = madvise(f->map + at, n, MADV_POPULATE_READ) < 0 ? errno : 0;
	if (e == EINVAL || e == ENOSYS)
		e = read_through(f->fd, at, n);
	if (fstat(f->fd, &sb) == 0 && (uint64_t)sb.st_size < f->n_map)
		return err_set(err, MOXIE_E_IO, "%s: %zu bytes when opened, %lld now", f->name, f->n_map, (long long)sb.st_size);
	if (e)
		return err_set(err, e == ENOMEM ? MOXIE_E_NOMEM : MOXIE_E_IO, "%s: cannot read %zu bytes at %zu: %s", f->name, n, at,
			       strerror(e));
	return 0;
}

/* All files as one run of bytes. */
static int populate_piece(void *ctx, uint64_t at, size_t n, struct moxie_err *err)
{
	const struct safetensors *st = ctx;
	for (int i = 0; i < st->n_file && n; i++) {
		const struct st_file *f = &st->file[i];
		if (at >= f->n_map) {
			at -= f->n_map;
			continue;
		}
		size_t here = f->n_map - at < n ? f->n_map - (size_t)at : n;
		int rc = f->fd >= 0 ? populate_file(f, (size_t)at, here, err) : 0;
		if (rc < 0)
			return rc;
		n -= here;
		at = 0;
	}
	return 0;
}

int safetensors_populate(struct safetensors *st, int n_thread, int (*progress)(void *ud, uint64_t done, uint64_t all), void *ud,
                         struct moxie_err *err)
{
	uint64_t n_all = 0;
	for (int i = 0; i < st->n_file; i++)
		n_all += st->file[i].n_map;
	return pieces_run(n_all, POPULATE_STEP, n_thread, populate_piece, st, progress, ud, err);
}
