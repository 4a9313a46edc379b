#include "formats/synth.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "formats/pieces.h"
#include "formats/synth_int.h"

/* ---- values ----------------------------------------------------------------------------------------------------- */

/* The key of 2^32 elements of one tensor. */
static uint32_t key_of(uint64_t seed, const char *name, uint64_t i)
{
	uint64_t h = 0xcbf29ce484222325u ^ seed;
	for (; *name; name++)
		h = (h ^ (uint8_t)*name) * 0x100000001b3u;
	h ^= (i >> 32) * 0x9e3779b97f4a7c15u;
	h ^= h >> 33, h *= 0xff51afd7ed558ccdu;
	h ^= h >> 33, h *= 0xc4ceb9fe1a85ec53u;
	return (uint32_t)(h ^ h >> 33);
}

struct rule {
	float mean, std; /* floats */
	int scale;       /* e8m0: the byte around which scales lie */
};

static bool has(const char *name, const char *part)
{
	return strstr(name, part) != NULL;
}

static struct rule rule_of(const struct tensor_want *t)
{
	int64_t k = t->n_dim ? t->shape[t->n_dim - 1] : 1;
	float row = 1 / sqrtf((float)(k > 0 ? k : 1));
	if (has(t->name, "_scales")) /* k groups of 32; uniform codes have variance 8.56, scales of 1/2, 1, 1, 2 times that 1.56 */
		return (struct rule){ .scale = 127 + (int)lrintf(log2f(row / sqrtf(MX_GROUP * 8.5625f * 1.5625f))) };
	if (has(t->name, "norm"))
		return (struct rule){ .mean = 1, .std = .1f };
	if (has(t->name, ".bias") || has(t->name, "_bias") || has(t->name, "sinks"))
		return (struct rule){ .std = .1f };
	if (has(t->name, "embed"))
		return (struct rule){ .std = 1 };
	if (has(t->name, "router") || has(t->name, "lm_head"))
		return (struct rule){ .std = 2 * row }; /* logits spread: no expert is always picked, no token certain */
	return (struct rule){ .std = row };
}

/* Loops of their own, so that the compiler makes vector code of each. */
static void fill_codes(uint8_t *restrict p, size_t n, uint32_t first)
{
	for (size_t i = 0; i < n / 4; i++) {
		uint32_t x = dummy_mix(first + (uint32_t)i);
		memcpy(p + 4 * i, &x, 4);
	}
}

static void fill_bf16(bf16 *restrict p, size_t n, uint32_t first, float mean, float std)
{
	for (size_t i = 0; i < n; i++) {
		float f = mean + std * (dummy_sum(dummy_mix(first + (uint32_t)i)) * DUMMY_NORMAL);
		uint32_t u;
		memcpy(&u, &f, 4);
		p[i] = (bf16)((u + 0x7fff + (u >> 16 & 1)) >> 16); /* bf16_from_f32 without its NaN case */
	}
}

int synth_rule(const struct tensor_want *t, uint64_t seed, struct dummy_rule *rule, struct moxie_err *err)
{
	const struct rule r = rule_of(t);
	uint64_t n = synth_tensor_bytes(t) / (t->dtype == DT_U8 ? 4 : (uint64_t)dtype_bytes(t->dtype));
	if (n >> 32)
		return err_set(err, MOXIE_E_UNSUPPORTED, "%s has %" PRIu64 " elements, dummy weights are made for fewer than 2^32", t->name, n);
	*rule = (struct dummy_rule){ .dtype = t->dtype, .key = key_of(seed, t->name, 0), .mean = r.mean, .std = r.std, .scale = r.scale };
	return 0;
}

enum { BLOCK = 4096 }; /* bytes worked on at once, aligned in the tensor: keys and odd ends are found per block */

/* One aligned block of tensor t, n <= BLOCK bytes from byte at. */
static void fill_block(const struct tensor_want *t, const struct rule *r, uint64_t seed, uint64_t at, uint8_t *p, size_t n)
{
	union {
		uint8_t u8[BLOCK];
		bf16 b[BLOCK / 2];
		float f[BLOCK / 4];
	} v;
	int size = t->dtype == DT_U8 ? 4 : dtype_bytes(t->dtype); /* four codes share a number */
	uint64_t i = at / (uint64_t)size;
	uint32_t first = key_of(seed, t->name, i) + (uint32_t)i;
	if (t->dtype == DT_BF16) {
		fill_bf16(v.b, BLOCK / 2, first, r->mean, r->std);
	} else if (t->dtype == DT_F32) {
		for (int j = 0; j < BLOCK / 4; j++)
			v.f[j] = r->mean + r->std * (dummy_sum(dummy_mix(first + (uint32_t)j)) * DUMMY_NORMAL);
	} else {
		fill_codes(v.u8, BLOCK, first);
		if (r->scale)
			for (int j = 0; j < BLOCK; j++)
				v.u8[j] = dummy_scale(r->scale, v.u8[j]);
	}
	memcpy(p, v.u8, n);
}

void synth_fill_part(const struct tensor_want *t, uint64_t seed, uint64_t at, uint8_t *p, size_t n)
{
	const struct rule r = rule_of(t);
	while (n) {
		size_t skip = at % BLOCK, here = BLOCK - skip < n ? BLOCK - skip : n;
		if (skip) { /* the head of a piece that begins inside a block */
			uint8_t whole[BLOCK];
			fill_block(t, &r, seed, at - skip, whole, BLOCK);
			memcpy(p, whole + skip, here);
		} else {
			fill_block(t, &r, seed, at, p, here);
		}
		at += here, p += here, n -= here;
	}
}

void synth_fill(const struct tensor_want *t, uint64_t seed, uint8_t *p, uint64_t n_bytes)
{
	synth_fill_part(t, seed, 0, p, (size_t)n_bytes);
}

/* ---- which tensor lies where ------------------------------------------------------------------------------------ */

uint64_t synth_tensor_bytes(const struct tensor_want *t)
{
	uint64_t n = (uint64_t)dtype_bytes(t->dtype);
	for (int i = 0; i < t->n_dim; i++)
		n *= (uint64_t)t->shape[i]; /* config.c's ranges keep this inside 64 bits */
	return n;
}

int synth_header(const struct synth_span *s, struct buf *out, uint64_t *n_data, struct moxie_err *err)
{
	static const uint8_t no_length[8];
	struct tensor_want t;
	uint64_t at = 0;
	bool ok = buf_append(out, no_length, 8) && buf_puts(out, "{\"__metadata__\":{\"format\":\"pt\"}");
	for (size_t i = s->first; ok && i < s->first + s->n && config_tensor_at(s->config, i, &t); i++) {
		uint64_t end = at + synth_tensor_bytes(&t);
		ok = buf_printf(out, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", t.name, dtype_name(t.dtype));
		for (int d = 0; ok && d < t.n_dim; d++)
			ok = buf_printf(out, d ? ",%" PRId64 : "%" PRId64, t.shape[d]);
		ok = ok && buf_printf(out, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", at, end);
		at = end;
	}
	ok = ok && buf_puts(out, "}");
	while (ok && out->n % 64) /* data begins on a cache line */
		ok = buf_puts(out, " ");
	if (!ok)
		return err_nomem(err, out->n, "a safetensors header");
	for (int i = 0; i < 8; i++)
		out->p[i] = (char)((out->n - 8) >> 8 * i);
	*n_data = at;
	return 0;
}

void synth_fill_data(const struct synth_span *s, uint64_t at, uint8_t *p, size_t n)
{
	struct tensor_want t;
	uint64_t begin = 0;
	for (size_t i = s->first; n && i < s->first + s->n && config_tensor_at(s->config, i, &t); i++) {
		uint64_t end = begin + synth_tensor_bytes(&t);
		if (at < end) {
			size_t here = end - at < n ? (size_t)(end - at) : n;
			synth_fill_part(&t, s->seed, at - begin, p, here);
			at += here, p += here, n -= here;
		}
		begin = end;
	}
}

/* ---- in memory -------------------------------------------------------------------------------------------------- */

struct memory {
	struct synth_span span;
	uint8_t *data;
};

static int fill_memory(void *ctx, uint64_t at, size_t n, struct moxie_err *err)
{
	struct memory *m = ctx;
	(void)err;
	synth_fill_data(&m->span, at, m->data + at, n);
	return 0;
}

/* Header in memory, and address space for the data behind it. */
static int map_header(const struct synth_span *span, int flags, void **map, uint64_t *n_map, size_t *n_head, struct moxie_err *err)
{
	struct buf head = { 0 };
	uint64_t n_data = 0;
	int rc = synth_header(span, &head, &n_data, err);
	*map = MAP_FAILED;
	*n_head = head.n;
	*n_map = head.n + n_data;
	if (rc == 0)
		*map = mmap(NULL, *n_map, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
	if (rc == 0 && *map == MAP_FAILED)
		rc = err_nomem(err, *n_map, "random weights");
	if (rc == 0)
		memcpy(*map, head.p, head.n);
	buf_free(&head);
	return rc;
}

int synth_shape(struct safetensors **out, const struct model_config *c, struct moxie_err *err)
{
	const struct synth_span span = { .config = c, .n = SIZE_MAX };
	void *map;
	uint64_t n_map;
	size_t n_head;
	*out = NULL;
	int rc = map_header(&span, MAP_NORESERVE, &map, &n_map, &n_head, err);
	if (rc == 0 && (rc = safetensors_parse(out, map, n_map, "random weights", err)) == 0)
		safetensors_own(*out, map, n_map);
	else if (map != MAP_FAILED)
		munmap(map, n_map);
	return rc;
}

int synth_open(struct safetensors **out, const struct model_config *c, uint64_t seed, int n_thread,
               int (*progress)(void *ud, uint64_t done, uint64_t all), void *ud, struct moxie_err *err)
{
	struct memory m = { .span = { .config = c, .seed = seed, .n = SIZE_MAX } };
	struct safetensors *st = NULL;
	void *map;
	uint64_t n_map;
	size_t n_head;
	*out = NULL;
	int rc = map_header(&m.span, 0, &map, &n_map, &n_head, err);
	if (rc < 0)
		goto out;
	madvise(map, n_map, MADV_HUGEPAGE); /* a wish: faults then cost less than the numbers */
	m.data = (uint8_t *)map + n_head;
	if ((rc = pieces_run(n_map - n_head, SYNTH_STEP, n_thread, fill_memory, &m, progress, ud, err)) < 0 ||
	    (rc = safetensors_parse(&st, map, n_map, "random weights", err)) < 0)
		goto out;
	mprotect(map, n_map, PROT_READ);
	safetensors_own(st, map, n_map);
	map = MAP_FAILED;
	*out = st;
out:
	if (map != MAP_FAILED)
		munmap(map, n_map);
	return rc;
}
