#include "engine/kv.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct kv_plan kv_plan_of(const struct model_config *c, enum dtype dtype, int n_chunk)
{
	struct kv_plan p = { 0 };
	for (int il = 0; il < c->n_layer; il++)
		*(c->sliding[il] ? &p.n_sliding : &p.n_full) += 1;
	p.row_bytes = (size_t)c->n_head_kv * (size_t)c->d_head * (size_t)dtype_bytes(dtype);
	p.page_bytes = p.row_bytes * KV_PAGE;
	p.token_bytes = (uint64_t)p.n_full * 2 * p.row_bytes;
	p.full_page_bytes = (uint64_t)p.n_full * 2 * p.page_bytes;
	if (p.n_sliding) {
		p.ring_pages = (c->window + n_chunk - 1 + KV_PAGE - 2) / KV_PAGE + 1;
		p.ring_bytes = (uint64_t)p.n_sliding * 2 * p.page_bytes * (uint64_t)p.ring_pages;
	}
	return p;
}

/* false: *p is to be freed; with free_page set it was memory or address space for the pages that was short. */
static bool pool_create(struct page_pool *p, int n_layer, int n_page, int n_spare, size_t page_bytes, struct kern *device, struct moxie_err *err)
{
	*p = (struct page_pool){ .n_layer = n_layer, .n_page = n_page, .n_free = n_page, .n_spare = n_spare, .device = device };
	if (__builtin_mul_overflow(((size_t)n_page + (size_t)n_spare) * 2 * (size_t)n_layer, page_bytes, &p->n_bytes))
		return false;
	p->free_page = malloc(((size_t)n_page + 1) * sizeof *p->free_page);
	if (!p->free_page)
		return false;
	for (int i = 0; i < n_page; i++)
		p->free_page[i] = n_page - 1 - i; /* page 0 is taken first */
	if (!p->n_bytes)
		return true;
	if (device)
		return (p->base = device->dev->take(device, p->n_bytes, err)) != NULL;
	void *q = mmap(NULL, p->n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	p->base = q == MAP_FAILED ? NULL : q;
	return p->base != NULL;
}

static void pool_free(struct page_pool *p)
{
	if (p->base && p->device)
		p->device->dev->give(p->device, p->base);
	else if (p->base)
		munmap(p->base, p->n_bytes);
	free(p->free_page);
	*p = (struct page_pool){ 0 };
}

static int64_t pages_of(int64_t n_token)
{
	return (n_token + KV_PAGE - 1) / KV_PAGE;
}

/* Of the rings and the spare pages of both pools. */
static uint64_t fixed_bytes(const struct kv_plan *p, const struct kv_room *room)
{
	return (uint64_t)room->n_seq * p->ring_bytes + (uint64_t)room->n_spare * (p->full_page_bytes + 2 * p->page_bytes * (uint64_t)p->n_sliding);
}

/* Pages of the full pool that room asks for. */
static int64_t pages_for(const struct kv_plan *p, const struct kv_room *room)
{
	uint64_t fixed = fixed_bytes(p, room), left = room->n_bytes > fixed ? room->n_bytes - fixed : 0;
	uint64_t each = p->full_page_bytes + (p->ring_pages ? p->ring_bytes / (uint64_t)p->ring_pages / RING_SHARE : 0);
	uint64_t n = each ? left / each : 0;
	if (room->n_most && n > (uint64_t)pages_of(room->n_most))
		n = (uint64_t)pages_of(room->n_most);
	if (n < (uint64_t)pages_of(room->n_least))
		n = (uint64_t)pages_of(room->n_least);
	if (room->n_token)
		n = (room->n_token - 1) / KV_PAGE + 1;
	return n < INT32_MAX / 2 ? (int64_t)n : INT32_MAX / 2;
}

static int64_t ring_pages_for(const struct kv_plan *p, const struct kv_room *room, int64_t n_page)
{
	return p->n_sliding ? (int64_t)room->n_seq * p->ring_pages + n_page / RING_SHARE : 0;
}

uint64_t kv_bytes(const struct kv_plan *p, const struct kv_room *room, uint64_t *n_token)
{
	int64_t n_page = pages_for(p, room);
	*n_token = p->n_full ? (uint64_t)n_page * KV_PAGE : 0;
	return (uint64_t)(n_page + room->n_spare) * p->full_page_bytes +
	       (uint64_t)(ring_pages_for(p, room, n_page) + room->n_spare) * 2 * p->page_bytes * (uint64_t)p->n_sliding;
}

int kv_create(struct kv_cache *kv, const struct model_config *c, enum dtype dtype, int n_chunk, const struct kv_room *room, struct kern *k,
              struct moxie_err *err)
{
	*kv = (struct kv_cache){ .plan = kv_plan_of(c, dtype, n_chunk), .dtype = dtype };
	const struct kv_plan *p = &kv->plan;
	int64_t least = pages_of(room->n_least), n_page = pages_for(p, room);
	uint64_t want = fixed_bytes(p, room) + (uint64_t)n_page * p->full_page_bytes;
	if (k && want > room->n_bytes)
		return err_set(err, MOXIE_E_NOMEM, "a KV cache of %lld pages and %d rings needs %llu bytes, %llu are free on the device",
		               (long long)n_page, room->n_seq, (unsigned long long)want,
		               (unsigned long long)room->n_bytes);
	/* Where address space is short, the half may do. */
	for (;; n_page = n_page / 2 > least ? n_page / 2 : least) {
		int64_t n_ring = ring_pages_for(p, room, n_page);
		if (n_ring <= INT32_MAX / 2 && pool_create(&kv->full, p->n_full, (int)n_page, room->n_spare, p->page_bytes, k, err) &&
		    pool_create(&kv->ring, p->n_sliding, (int)n_ring, room->n_spare, p->page_bytes, k, err))
			return 0;
		bool no_list = !kv->full.free_page || (kv->full.base && !kv->ring.free_page);
		kv_free(kv);
		if (no_list || room->n_token || n_page <= least || k)
			return k && !no_list ? MOXIE_E_NOMEM
			                     : err_set(err, MOXIE_E_NOMEM, "no room for a KV cache of %lld pages of %llu bytes", (long long)n_page,
			                               (unsigned long long)(2 * p->page_bytes * (uint64_t)(p->n_full + p->n_sliding)));
		*kv = (struct kv_cache){ .plan = kv_plan_of(c, dtype, n_chunk), .dtype = dtype };
	}
}

void kv_free(struct kv_cache *kv)
{
	pool_free(&kv->full);
	pool_free(&kv->ring);
}

bool page_pool_take(struct page_pool *p, int32_t *page, int n)
{
	if (n > p->n_free)
		return false;
	for (int i = 0; i < n; i++)
		page[i] = p->free_page[--p->n_free];
	return true;
}

void page_pool_give(struct page_pool *p, const int32_t *page, int n, size_t page_bytes)
{
	size_t os_page = (size_t)sysconf(_SC_PAGESIZE);
	for (int i = n - 1; i >= 0; i--) {
		p->free_page[p->n_free++] = page[i];
		for (int half = 0; !p->device && half < 2 * p->n_layer && page_bytes % os_page == 0; half++)
			madvise(p->base + ((size_t)half * (size_t)(p->n_page + p->n_spare) + (size_t)page[i]) * page_bytes, page_bytes, MADV_DONTNEED);
	}
}

void kv_views(const struct kv_cache *kv, const struct model_config *c, const int32_t *full, int full_stride, const int32_t *ring,
              struct kv_view *view)
{
	size_t i_full = 0, i_ring = 0;
	for (int il = 0; il < c->n_layer; il++) {
		bool sliding = c->sliding[il];
		const struct page_pool *p = sliding ? &kv->ring : &kv->full;
		size_t layer_bytes = (size_t)(p->n_page + p->n_spare) * kv->plan.page_bytes, i = sliding ? i_ring++ : i_full++;
		view[il] = (struct kv_view){ .dtype = kv->dtype, .k = p->base + 2 * i * layer_bytes, .v = p->base + (2 * i + 1) * layer_bytes,
			.page = sliding ? ring : full, .n_page_seq = sliding ? kv->plan.ring_pages : full_stride, .ring = sliding };
	}
}
