/* prefix.h - the prefix cache: what requests have in common is computed once.
 *
 * A tree of pages.  A node stands for KV_PAGE tokens that follow those of its parent, and owns the page of the full-attention
 * layers that holds their keys and values.  A request walks down from the root along its own tokens, compared one by one, and
 * continues after the deepest node it may use; the pages it completes, prompt and answer, become nodes for others.  Running
 * requests hold the nodes of their path; of the others the least recently used leaf goes first when pages are wanted.
 *
 * Where rows have a kind (prompt_zone), so have pages, and a page is only for those who would compute the same bits: positions
 * below `zone` are ROWS_PROMPT, and a node of the other kind is another node.
 *
 * Sliding layers.  To continue at position p, their keys and values of the window - 1 positions before p are needed, in all of
 * them.  Computing those again would take that many positions more for every layer below, so they are kept: a node may also own the
 * page of the sliding layers.  A node is usable if it and enough of its ancestors do.  These pages have their own order of
 * eviction, independent of the tree: first those that a prompt merely passed, then those where some request ended or branched off,
 * least recently used first.  Pages are handed over and back by number; nothing is copied.
 *
 * Callers hold the model's lock; one thread uses a cache at a time.   Test: build/test_prefix
 */
#ifndef MOXIE_ENGINE_PREFIX_H
#define MOXIE_ENGINE_PREFIX_H

#include "engine/engine.h"

struct prefix_node;

struct link { struct link *prev, *next; };

struct prefix {
	struct moxie_model *m;
	struct prefix_node **bucket;      /* [n_bucket] by hash of the path, a power of two */
	size_t n_bucket;
	struct prefix_node *spare;        /* linked by chain */
	struct slab *slab;                /* what nodes were allocated in */
	struct link idle, ring_idle;      /* nodes, and sliding pages, that nobody uses; the next to go is first */
	int n_node, n_idle, n_idle_most;  /* nodes: all, those nobody uses, and how many of these are kept */
	int n_ring, n_ring_idle;          /* sliding pages: all, and those nobody uses */
	uint64_t n_evicted, n_ring_evicted;
	uint64_t seed;
};

/*   MOXIE_E_NOMEM */
int prefix_init(struct prefix *p, struct moxie_model *m, int n_idle_most, struct moxie_err *err);
/* Gives all pages back.  No session may hold a node. */
void prefix_free(struct prefix *p);

/* How many pages of ids[0 .. n) could be had at once; *n_idle of them nobody uses now. */
int prefix_match(const struct prefix *p, const int32_t *ids, size_t n, size_t zone, int *n_idle);

/* Moves s on along its own next tokens, s->tok.v[s->tok.n .. n), as far as the cache reaches, if all it has is of the cache.
 * Returns the number of tokens gained: whole pages. */
size_t prefix_extend(struct prefix *p, struct moxie_session *s, size_t n, size_t zone);

/* The whole pages that s has consumed become nodes. */
void prefix_insert(struct prefix *p, struct moxie_session *s, size_t zone);

/* s lets go of everything and is empty: own pages go back to the pools, nodes stay. */
void prefix_detach(struct prefix *p, struct moxie_session *s);

/* Frees pages until the pools have as many as are missing; false: that was not enough. */
bool prefix_evict(struct prefix *p, struct kv_lack lack);

/* Forgets all that nobody uses. */
void prefix_flush(struct prefix *p);

/* For pages.c: one user of the node's sliding page less; behind: the user has moved on, its window is past it. */
void prefix_unpin_ring(struct prefix_node *n, bool behind);

#endif
