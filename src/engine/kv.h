/* kv.h - the KV cache: two pools of pages, one for full-attention layers and one for the rings of sliding layers.
 *
 * A page id means the same rows in every layer of its pool, so a session holds two short lists and no per-layer state.
 * A ring holds window + n_chunk - 1 positions wherever they begin in a page: a chunk may be written whole before its first row
 * reads, and no page holds both ends.
 *
 * Sessions take pages as they grow (pages.c), and the prefix cache keeps some (prefix.h).  The pools are sized when the model
 * opens: by a number of tokens, or by the memory there is.  In host memory that reserves address space: memory is only taken as pages
 * are written and goes back when they are released.  A device's memory is taken whole.
 */
#ifndef MOXIE_ENGINE_KV_H
#define MOXIE_ENGINE_KV_H

#include "formats/config.h"
#include "kernels/kernels.h"

struct kv_plan {
	int n_full, n_sliding;        /* layers of each kind */
	size_t row_bytes;             /* K (or V) of one token in one layer */
	size_t page_bytes;            /* K (or V) of one page in one layer */
	int ring_pages;               /* of one session; 0 without sliding layers */
	uint64_t token_bytes;         /* full layers, K and V, one token */
	uint64_t full_page_bytes;     /* one page id of the full pool over all its layers, K and V */
	uint64_t ring_bytes;          /* one session's ring over all sliding layers, K and V */
};

struct kv_plan kv_plan_of(const struct model_config *c, enum dtype dtype, int n_chunk);

struct page_pool {
	uint8_t *base;                /* [n_layer][2][n_page + n_spare][n_head_kv][KV_PAGE][d_head] */
	size_t n_bytes;
	int n_layer, n_page, n_free;
	int n_spare;                  /* pages that are nobody's: where the padding of a recorded step writes */
	int32_t *free_page;           /* a stack */
	struct kern *device;          /* whose memory base is; NULL: the host's */
};

struct kv_cache {
	struct kv_plan plan;
	enum dtype dtype;
	struct page_pool full, ring;
};

/* What the pools are to hold: n_token tokens in full-attention layers, or (0) what n_bytes hold, but n_least .. n_most tokens (n_most 0:
 * any number); a ring for each of n_seq sessions, and one page for every RING_SHARE of the full pool for the prefix cache; n_spare pages in
 * each pool beside. */
#define RING_SHARE 4
struct kv_room {
	uint64_t n_token, n_bytes;
	int64_t n_least, n_most;
	int n_seq, n_spare;
};
/* Bytes of the pools that kv_create would make, and the tokens that their full pages hold. */
uint64_t kv_bytes(const struct kv_plan *p, const struct kv_room *room, uint64_t *n_token);
/* k: the backend whose memory it is to be; NULL: host memory.
 *   MOXIE_E_NOMEM  no room for it */
int kv_create(struct kv_cache *kv, const struct model_config *c, enum dtype dtype, int n_chunk, const struct kv_room *room, struct kern *k,
              struct moxie_err *err);
void kv_free(struct kv_cache *kv);

/* Takes n pages, all or none (false). */
bool page_pool_take(struct page_pool *p, int32_t *page, int n);
/* Gives pages back, and their memory to the machine. */
void page_pool_give(struct page_pool *p, const int32_t *page, int n, size_t page_bytes);

/* One view a layer; page lists [n_seq, stride] are the step's. */
void kv_views(const struct kv_cache *kv, const struct model_config *c, const int32_t *full, int full_stride, const int32_t *ring,
              struct kv_view *view);

#endif
