#include "engine/prefix.h"

#include <stdlib.h>
#include <string.h>

#define SLAB 64 /* nodes allocated at once */

struct prefix_node {
	struct link idle, ring_idle;
	struct prefix *of;
	struct prefix_node *parent, *chain; /* chain: of its bucket, or of the spare ones */
	int n_user, n_ring_user;            /* sessions on a path through it; those whose ring has its sliding page */
	int32_t page, ring;                 /* -1: none (the model has no such layers, or ring was evicted) */
	bool branch;                        /* a second request came this way */
	bool prompt;                        /* its rows are ROWS_PROMPT */
	uint64_t hash;
	int32_t tok[KV_PAGE];
};

struct slab {
	struct slab *next;
	struct prefix_node node[SLAB];
};

/* ---- lists: circular, the head is no element ---- */

static void link_before(struct link *at, struct link *l)
{
	l->prev = at->prev;
	l->next = at;
	at->prev->next = l;
	at->prev = l;
}

static void link_out(struct link *l)
{
	l->prev->next = l->next;
	l->next->prev = l->prev;
}

static struct prefix_node *node_of(struct link *l)
{
	return (struct prefix_node *)(void *)((char *)l - offsetof(struct prefix_node, idle));
}

static struct prefix_node *node_of_ring(struct link *l)
{
	return (struct prefix_node *)(void *)((char *)l - offsetof(struct prefix_node, ring_idle));
}

/* ---- nodes by path ---- */

static uint64_t hash_of(const struct prefix *p, const struct prefix_node *parent, const int32_t *tok, bool prompt)
{
	uint64_t h = (parent ? parent->hash : p->seed) + prompt;
	for (int i = 0; i < KV_PAGE; i++) {
		h = (h ^ (uint32_t)tok[i]) * 0x9E3779B97F4A7C15u;
		h ^= h >> 29;
	}
	return h;
}

static struct prefix_node *child_of(const struct prefix *p, const struct prefix_node *parent, const int32_t *tok, bool prompt)
{
	uint64_t h = hash_of(p, parent, tok, prompt);
	struct prefix_node *n = p->bucket[h & (p->n_bucket - 1)];
	while (n && (n->hash != h || n->parent != parent || n->prompt != prompt || memcmp(n->tok, tok, sizeof n->tok) != 0))
		n = n->chain;
	return n;
}

static void bucket_add(struct prefix *p, struct prefix_node *n)
{
	struct prefix_node **b = &p->bucket[n->hash & (p->n_bucket - 1)];
	n->chain = *b;
	*b = n;
}

static void bucket_remove(struct prefix *p, struct prefix_node *n)
{
	struct prefix_node **at = &p->bucket[n->hash & (p->n_bucket - 1)];
	while (*at != n)
		at = &(*at)->chain;
	*at = n->chain;
}

/* Twice the buckets when there are more nodes than buckets; without memory for it the chains grow longer, no more. */
static void bucket_grow(struct prefix *p)
{
	size_t n_old = p->n_bucket;
	struct prefix_node **old = p->bucket, **more = (size_t)p->n_node > n_old ? calloc(n_old * 2, sizeof *more) : NULL;
	if (!more)
		return;
	p->bucket = more;
	p->n_bucket = n_old * 2;
	for (size_t i = 0; i < n_old; i++)
		for (struct prefix_node *n = old[i], *next; n; n = next) {
			next = n->chain;
			bucket_add(p, n);
		}
	free(old);
}

/* NULL: no memory. */
static struct prefix_node *node_create(struct prefix *p, struct prefix_node *parent, const int32_t *tok, bool prompt)
{
	if (!p->spare) {
		struct slab *s = malloc(sizeof *s);
		if (!s)
			return NULL;
		s->next = p->slab;
		p->slab = s;
		for (int i = 0; i < SLAB; i++) {
			s->node[i].chain = p->spare;
			p->spare = &s->node[i];
		}
	}
	struct prefix_node *n = p->spare;
	p->spare = n->chain;
	*n = (struct prefix_node){ .of = p, .parent = parent, .prompt = prompt, .hash = hash_of(p, parent, tok, prompt), .page = -1, .ring = -1 };
	memcpy(n->tok, tok, sizeof n->tok);
	bucket_add(p, n);
	p->n_node++;
	bucket_grow(p);
	return n;
}

/* ---- use ----
 *
 * A session holds every node from the root to its deepest, and lets go from the deepest up, so a node becomes idle after its
 * descendants: the first of the idle list is always a leaf. */

static void pin(struct prefix_node *n)
{
	if (n->n_user++ == 0) {
		link_out(&n->idle);
		n->of->n_idle--;
	}
}

static void unpin(struct prefix_node *n)
{
	if (--n->n_user == 0) {
		link_before(&n->of->idle, &n->idle);
		n->of->n_idle++;
	}
}

static void pin_ring(struct prefix_node *n)
{
	if (n->n_ring_user++ == 0) {
		link_out(&n->ring_idle);
		n->of->n_ring_idle--;
	}
}

void prefix_unpin_ring(struct prefix_node *n, bool behind)
{
	struct prefix *p = n->of;
	if (--n->n_ring_user > 0)
		return;
	p->n_ring_idle++;
	link_before(behind && !n->branch ? p->ring_idle.next : &p->ring_idle, &n->ring_idle);
}

static void drop_ring(struct prefix_node *n)
{
	struct prefix *p = n->of;
	if (n->ring < 0)
		return;
	link_out(&n->ring_idle);
	p->n_ring_idle--;
	p->n_ring--;
	page_pool_give(&p->m->kv.ring, &n->ring, 1, p->m->kv.plan.page_bytes);
	n->ring = -1;
}

static void drop(struct prefix_node *n)
{
	struct prefix *p = n->of;
	drop_ring(n);
	if (n->page >= 0)
		page_pool_give(&p->m->kv.full, &n->page, 1, p->m->kv.plan.page_bytes);
	link_out(&n->idle);
	p->n_idle--;
	p->n_node--;
	bucket_remove(p, n);
	n->chain = p->spare;
	p->spare = n;
}

/* ---- the cache ---- */

int prefix_init(struct prefix *p, struct moxie_model *m, int n_idle_most, struct moxie_err *err)
{
	enum { N_BUCKET = 256 };
	*p = (struct prefix){ .m = m, .n_idle_most = n_idle_most, .n_bucket = N_BUCKET, .bucket = calloc(N_BUCKET, sizeof *p->bucket) };
	p->seed = (uint64_t)(uintptr_t)p->bucket; /* differs from run to run: nobody can prepare tokens that collide */
	p->idle = (struct link){ &p->idle, &p->idle };
	p->ring_idle = (struct link){ &p->ring_idle, &p->ring_idle };
	return p->bucket ? 0 : err_nomem(err, N_BUCKET * sizeof *p->bucket, "a prefix cache");
}

void prefix_flush(struct prefix *p)
{
	while (p->idle.next != &p->idle)
		drop(node_of(p->idle.next));
}

void prefix_free(struct prefix *p)
{
	if (!p->bucket)
		return;
	prefix_flush(p);
	for (struct slab *s = p->slab, *next; s; s = next) {
		next = s->next;
		free(s);
	}
	free(p->bucket);
	*p = (struct prefix){ 0 };
}

/* Sliding pages that a continuation wants of its last nodes. */
static int window_pages(const struct prefix *p)
{
	return p->m->kv.plan.n_sliding ? (p->m->config.window - 1 + KV_PAGE - 1) / KV_PAGE : 0;
}

/* How many nodes from n upwards have their sliding page, as far as a window reaches. */
static int ring_run(const struct prefix *p, const struct prefix_node *n)
{
	int run = 0, want = window_pages(p);
	for (; n && run < want && n->ring >= 0; n = n->parent)
		run++;
	return run;
}

/* The deepest usable node below `at`, which is at depth *depth, along ids; NULL: none but at.  *depth becomes its depth. */
static struct prefix_node *find(const struct prefix *p, struct prefix_node *at, const int32_t *ids, size_t n, size_t zone, int *depth)
{
	struct prefix_node *best = NULL, *node = at;
	int want = window_pages(p), run = ring_run(p, at), d = *depth;
	for (size_t pos = (size_t)d * KV_PAGE; pos + KV_PAGE <= n && (node = child_of(p, node, ids + pos, pos < zone)); pos += KV_PAGE) {
		d++;
		run = node->ring >= 0 ? run + 1 : 0;
		if (run >= (want < d ? want : d)) {
			best = node;
			*depth = d;
		}
	}
	return best;
}

int prefix_match(const struct prefix *p, const int32_t *ids, size_t n, size_t zone, int *n_idle)
{
	int depth = 0;
	*n_idle = 0;
	for (const struct prefix_node *node = find(p, NULL, ids, n, zone, &depth); node; node = node->parent)
		*n_idle += node->n_user == 0;
	return depth;
}

size_t prefix_extend(struct prefix *p, struct moxie_session *s, size_t n, size_t zone)
{
	const struct kv_plan *plan = &p->m->kv.plan;
	int from = (int)(s->tok.n / KV_PAGE), to = from;
	if (s->tok.n != (size_t)s->n_shared * KV_PAGE)
		return 0;
	struct prefix_node *end = find(p, s->path, s->tok.v, n, zone, &to);
	if (!end)
		return 0;
	session_drop_pages(s); /* pages it has already taken to go on here, and its ring */
	struct prefix_node *node = end;
	for (int i = to - 1; i >= from; i--, node = node->parent) {
		pin(node);
		node->branch = true;
		if (plan->n_full)
			s->page[i] = node->page;
	}
	node = end;
	for (int i = to - 1; i >= 0 && i >= to - window_pages(p); i--, node = node->parent) {
		pin_ring(node);
		s->ring[i % plan->ring_pages] = node->ring;
		s->ring_node[i % plan->ring_pages] = node;
	}
	s->path = end;
	s->n_shared = to;
	s->n_page = plan->n_full ? to : 0;
	s->tok.n = s->n_high = (size_t)to * KV_PAGE;
	return (size_t)(to - from) * KV_PAGE;
}

/* The session's own sliding page i becomes the node's, which has none. */
static void hand_ring(struct moxie_session *s, struct prefix_node *n, size_t i)
{
	size_t ring_pages = (size_t)s->m->kv.plan.ring_pages, last = (s->tok.n - 1) / KV_PAGE;
	if (!ring_pages || n->ring >= 0 || i + ring_pages <= last) /* the ring has come round since */
		return;
	size_t slot = i % ring_pages;
	if (s->ring[slot] < 0 || s->ring_node[slot])
		return;
	n->ring = s->ring[slot];
	n->n_ring_user = 1;
	n->of->n_ring++;
	s->ring_node[slot] = n;
}

void prefix_insert(struct prefix *p, struct moxie_session *s, size_t zone)
{
	struct kv_cache *kv = &p->m->kv;
	while ((size_t)(s->n_shared + 1) * KV_PAGE <= s->tok.n) {
		int i = s->n_shared;
		const int32_t *tok = s->tok.v + (size_t)i * KV_PAGE;
		bool prompt = (size_t)i * KV_PAGE < zone;
		struct prefix_node *node = child_of(p, s->path, tok, prompt);
		if (node) { /* another request was first: one copy is enough */
			pin(node);
			node->branch = true;
			if (kv->plan.n_full) {
				page_pool_give(&kv->full, &s->page[i], 1, kv->plan.page_bytes);
				s->page[i] = node->page;
			}
		} else {
			if (!(node = node_create(p, s->path, tok, prompt)))
				return; /* no memory: this request goes on, and nobody shares the rest of it */
			node->n_user = 1;
			if (kv->plan.n_full)
				node->page = s->page[i];
		}
		hand_ring(s, node, (size_t)i);
		s->path = node;
		s->n_shared++;
	}
}

void prefix_detach(struct prefix *p, struct moxie_session *s)
{
	session_drop_pages(s);
	for (struct prefix_node *n = s->path; n; n = n->parent)
		unpin(n);
	s->path = NULL;
	s->n_shared = s->n_page = 0;
	s->tok.n = 0;
	for (; p->n_idle > p->n_idle_most; p->n_evicted++)
		drop(node_of(p->idle.next));
}

bool prefix_evict(struct prefix *p, struct kv_lack lack)
{
	struct kv_cache *kv = &p->m->kv;
	int n_full = kv->full.n_free + lack.full, n_ring = kv->ring.n_free + lack.ring;
	for (; kv->full.n_free < n_full && p->idle.next != &p->idle; p->n_evicted++)
		drop(node_of(p->idle.next));
	for (; kv->ring.n_free < n_ring && p->ring_idle.next != &p->ring_idle; p->n_ring_evicted++)
		drop_ring(node_of_ring(p->ring_idle.next));
	return kv->full.n_free >= n_full && kv->ring.n_free >= n_ring;
}
