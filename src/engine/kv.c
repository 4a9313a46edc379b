#include "engine/kv.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/host.h"

#define MAX_RINGS 256 /* sessions that can hold a ring at once */

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
		p.ring_pages = (c->window + n_chunk - 1 + KV_PAGE - 1) / KV_PAGE;
		p.ring_bytes = (uint64_t)p.n_sliding * 2 * p.page_bytes * (uint64_t)p.ring_pages;
	}
	return p;
}

/* false: *p is to be freed; with free_page set it was memory or address space for the pages that was short. */
static bool pool_create(struct page_pool *p, int n_layer, int n_page, size_t page_bytes, struct kern *device, struct moxie_err *err)
{
	*p = (struct page_pool){ .n_layer = n_layer, .n_page = n_page, .n_free = n_page, .device = device };
	if (__builtin_mul_overflow((size_t)n_page * 2 * (size_t)n_layer, page_bytes, &p->n_bytes))
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

int kv_create(struct kv_cache *kv, const struct model_config *c, enum dtype dtype, int n_chunk, int n_seq, int n_ctx, struct moxie_err *err)
{
	*kv = (struct kv_cache){ .plan = kv_plan_of(c, dtype, n_chunk), .dtype = dtype };
	const struct kv_plan *p = &kv->plan;
	int64_t least = (int64_t)n_seq * ((n_ctx + KV_PAGE - 1) / KV_PAGE);
	int64_t most = p->full_page_bytes ? (int64_t)(host_memory_bytes() / p->full_page_bytes) : least;
	if (most > INT32_MAX / 2)
		most = INT32_MAX / 2;
	/* First what the machine could ever hold; where address space is short, what was asked for. */
	for (int try = 0; try < 2; try++) {
		int64_t n_page = try || most < least ? least : most;
		int n_ring = try ? n_seq : n_seq > MAX_RINGS ? n_seq : MAX_RINGS;
		if (n_page <= INT32_MAX / 2 && pool_create(&kv->full, p->n_full, (int)n_page, p->page_bytes, NULL, err) &&
		    pool_create(&kv->ring, p->n_sliding, n_ring * p->ring_pages, p->page_bytes, NULL, err))
			return 0;
		bool no_memory = !kv->full.free_page || (kv->full.base && !kv->ring.free_page);
		kv_free(kv);
		if (no_memory)
			break;
		*kv = (struct kv_cache){ .plan = kv_plan_of(c, dtype, n_chunk), .dtype = dtype };
	}
	return err_set(err, MOXIE_E_NOMEM, "no address space for the KV cache of %d sessions of %d tokens (%llu bytes)", n_seq, n_ctx,
	               (unsigned long long)((uint64_t)least * p->full_page_bytes + (uint64_t)n_seq * p->ring_bytes));
}

int kv_create_device(struct kv_cache *kv, const struct model_config *c, enum dtype dtype, int n_chunk, int n_seq, int n_ctx, struct kern *k,
                     uint64_t n_bytes, struct moxie_err *err)
{
	*kv = (struct kv_cache){ .plan = kv_plan_of(c, dtype, n_chunk), .dtype = dtype };
	const struct kv_plan *p = &kv->plan;
	uint64_t n_ring = (uint64_t)n_seq + 2, ring_bytes = n_ring * p->ring_bytes;
	uint64_t least = (uint64_t)n_seq * (((uint64_t)n_ctx + KV_PAGE - 1) / KV_PAGE), most = n_ring * (((uint64_t)c->n_ctx + KV_PAGE - 1) / KV_PAGE);
	if (ring_bytes > n_bytes || least * p->full_page_bytes > n_bytes - ring_bytes)
		return err_set(err, MOXIE_E_NOMEM, "the KV cache of %d sessions of %d tokens needs %llu bytes, %llu are free on the device", n_seq, n_ctx,
		               (unsigned long long)(least * p->full_page_bytes + ring_bytes), (unsigned long long)n_bytes);
	uint64_t n_page = p->full_page_bytes ? (n_bytes - ring_bytes) / p->full_page_bytes : least;
	n_page = n_page < most ? n_page : most;
	if (n_page > INT32_MAX / 2 || n_ring * (uint64_t)p->ring_pages > INT32_MAX / 2)
		return err_set(err, MOXIE_E_ARG, "%llu pages are more than a pool may have", (unsigned long long)n_page);
	if (pool_create(&kv->full, p->n_full, (int)n_page, p->page_bytes, k, err) &&
	    pool_create(&kv->ring, p->n_sliding, (int)n_ring * p->ring_pages, p->page_bytes, k, err))
		return 0;
	bool no_host_memory = !kv->full.free_page || (kv->full.base && !kv->ring.free_page);
	kv_free(kv);
	return no_host_memory ? err_nomem(err, (size_t)n_page * sizeof *kv->full.free_page, "the list of free KV pages") : MOXIE_E_NOMEM;
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
			madvise(p->base + ((size_t)half * (size_t)p->n_page + (size_t)page[i]) * page_bytes, page_bytes, MADV_DONTNEED);
	}
}

void kv_views(const struct kv_cache *kv, const struct model_config *c, const int32_t *full, int full_stride, const int32_t *ring,
              struct kv_view *view)
{
	size_t i_full = 0, i_ring = 0;
	for (int il = 0; il < c->n_layer; il++) {
		bool sliding = c->sliding[il];
		const struct page_pool *p = sliding ? &kv->ring : &kv->full;
		size_t layer_bytes = (size_t)p->n_page * kv->plan.page_bytes, i = sliding ? i_ring++ : i_full++;
		view[il] = (struct kv_view){ .dtype = kv->dtype, .k = p->base + 2 * i * layer_bytes, .v = p->base + (2 * i + 1) * layer_bytes,
			.page = sliding ? ring : full, .n_page_seq = sliding ? kv->plan.ring_pages : full_stride, .ring = sliding };
	}
}
