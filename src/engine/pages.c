/* pages.c - a session's share of the KV pools: pages are taken as the timeline grows.
 *
 * Full-attention layers: one page a KV_PAGE positions, kept.  Sliding layers: the session's ring, a list of page ids in which
 * page i of the timeline is at i % ring_pages.  The list is one page longer than window and chunk need, so no page of it is read
 * at one end and written at the other in the same step: when the ring comes round to a page that the prefix cache holds as well,
 * the session leaves it to the cache and takes another.  That is all it takes to share sliding layers: nothing is copied.
 */
#include "engine/engine.h"
#include "engine/prefix.h"

/* The ring's page i is about to be written from its first row on, or is not there. */
static bool ring_wants_page(const struct moxie_session *s, size_t i)
{
	size_t slot = i % (size_t)s->m->kv.plan.ring_pages;
	return s->ring[slot] < 0 || (s->ring_node[slot] && i * KV_PAGE >= s->tok.n);
}

/* The ring's slot gives up its page. */
static void ring_leave(struct moxie_session *s, size_t slot, bool behind)
{
	const struct kv_plan *p = &s->m->kv.plan;
	if (s->ring[slot] < 0)
		return;
	if (s->ring_node[slot])
		prefix_unpin_ring(s->ring_node[slot], behind);
	else
		page_pool_give(&s->m->kv.ring, &s->ring[slot], 1, p->page_bytes);
	s->ring[slot] = -1;
	s->ring_node[slot] = NULL;
}

bool session_grow(struct moxie_session *s, size_t n, struct kv_lack *lack)
{
	struct kv_cache *kv = &s->m->kv;
	size_t ring_pages = (size_t)kv->plan.ring_pages, last = n ? (n - 1) / KV_PAGE : 0, first = s->tok.n / KV_PAGE;
	int n_full = kv->plan.n_full && n ? (int)last + 1 - s->n_page : 0, n_ring = 0;
	n_full = n_full > 0 ? n_full : 0;
	for (size_t i = first; ring_pages && n > s->tok.n && i <= last; i++)
		n_ring += ring_wants_page(s, i);
	*lack = (struct kv_lack){ 0 };
	if (n_full > kv->full.n_free)
		lack->full = n_full - kv->full.n_free;
	if (n_ring > kv->ring.n_free)
		lack->ring = n_ring - kv->ring.n_free;
	if (lack->full || lack->ring)
		return false;
	page_pool_take(&kv->full, s->page + s->n_page, n_full);
	s->n_page += n_full;
	for (size_t i = first; n_ring && i <= last; i++)
		if (ring_wants_page(s, i)) {
			ring_leave(s, i % ring_pages, true);
			page_pool_take(&kv->ring, &s->ring[i % ring_pages], 1);
		}
	return true;
}

void session_trim(struct moxie_session *s)
{
	size_t ring_pages = (size_t)s->m->kv.plan.ring_pages, window = (size_t)s->m->config.window;
	if (!ring_pages || s->tok.n < window)
		return;
	size_t last = (s->tok.n - 1) / KV_PAGE, first = (s->tok.n + 1 - window) / KV_PAGE; /* the next row's oldest key */
	for (size_t i = last >= ring_pages ? last - ring_pages + 1 : 0; i < first; i++)
		ring_leave(s, i % ring_pages, true);
}

void session_drop_pages(struct moxie_session *s)
{
	struct kv_cache *kv = &s->m->kv;
	page_pool_give(&kv->full, s->page + s->n_shared, s->n_page - s->n_shared, kv->plan.page_bytes);
	s->n_page = kv->plan.n_full ? s->n_shared : 0;
	for (size_t slot = 0; slot < (size_t)kv->plan.ring_pages; slot++)
		ring_leave(s, slot, false);
	s->n_high = 0;
	s->ahead = 0;
	s->hist_n = 0;
	session_drop_logits_locked(s);
}
