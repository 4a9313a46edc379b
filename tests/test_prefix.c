/* test_prefix.c - the prefix cache against a flat list that does the same the slow way, and against what its pages hold.
 *
 * There is no model: a "step" writes into each position of each page a number that stands for the whole timeline up to there, so
 * whoever reads a wrong or stale page sees it.  The list (struct entry) knows paths, users and the order of use; after each
 * operation both must agree on what is cached, what is free and what a prompt would find.
 */
#include "engine/prefix.h"
#include "test.h"

enum { MAX_PAGE = 8, N_SYM = 3, N_SESS = 6, MAX_RING = 16, MAX_POOL = 64, MAX_ENTRY = 512, KIND = 8 };

static struct moxie_err err;
static struct moxie_model m;
static struct prefix cache;
static uint64_t full_row[MAX_POOL][KV_PAGE], ring_row[MAX_POOL][KV_PAGE]; /* what the rows hold */

/* ---- the list ---- */

struct entry {
	bool there, ring, branch;
	int n;                        /* pages of the path */
	uint8_t path[MAX_PAGE];
	int n_user, n_ring_user;
	int64_t at, ring_at;          /* order of becoming idle; the lowest goes first */
};

struct timeline {
	moxie_session *s;
	size_t n_known, zone;         /* tokens; positions of the prompt's kind, whole pages */
	uint8_t sym[MAX_PAGE];        /* the pattern of each page, and its kind */
	int n_shared, n_page;         /* wanted of s */
	struct entry *slot[MAX_RING]; /* the ring: NULL none, &own: the session's */
	int slot_page[MAX_RING];
};

static struct entry list[MAX_ENTRY], own;
static struct timeline line[N_SESS];
static int64_t clock_up, clock_down;
static int free_full, free_ring, idle_most;

static struct entry *list_find(const uint8_t *path, int n)
{
	for (int i = 0; i < MAX_ENTRY; i++)
		if (list[i].there && list[i].n == n && !memcmp(list[i].path, path, (size_t)n))
			return &list[i];
	return NULL;
}

static int window_pages(void)
{
	int n = 0;
	while (n * KV_PAGE < m.config.window - 1)
		n++;
	return m.kv.plan.n_sliding ? n : 0;
}

/* Pages of path that a prompt of n tokens could have; *n_idle of them idle. */
static int list_match(const uint8_t *path, size_t n, int *n_idle)
{
	int best = 0;
	*n_idle = 0;
	for (int d = 1; (size_t)d * KV_PAGE <= n && list_find(path, d); d++) {
		bool usable = true;
		for (int i = d; i > 0 && i > d - window_pages(); i--)
			usable &= list_find(path, i)->ring;
		best = usable ? d : best;
	}
	for (int d = 1; d <= best; d++)
		*n_idle += !list_find(path, d)->n_user;
	return best;
}

static void list_leave_slot(struct timeline *t, int slot, bool behind)
{
	struct entry *e = t->slot[slot];
	t->slot[slot] = NULL;
	if (e == &own)
		free_ring++;
	else if (e && --e->n_ring_user == 0)
		e->ring_at = behind && !e->branch ? --clock_down : ++clock_up;
}

static void list_drop_pages(struct timeline *t)
{
	free_full += t->n_page - t->n_shared;
	t->n_page = t->n_shared;
	for (int i = 0; i < m.kv.plan.ring_pages; i++)
		list_leave_slot(t, i, false);
}

/* The entry that goes next, or NULL. */
static struct entry *list_oldest(int *n_idle)
{
	struct entry *old = NULL;
	*n_idle = 0;
	for (int i = 0; i < MAX_ENTRY; i++)
		if (list[i].there && !list[i].n_user) {
			old = !old || list[i].at < old->at ? &list[i] : old;
			++*n_idle;
		}
	return old;
}

static void list_drop(struct entry *old)
{
	for (int i = 0; i < MAX_ENTRY; i++)
		CHECK(!list[i].there || list[i].n <= old->n || memcmp(list[i].path, old->path, (size_t)old->n) != 0, "the oldest is no leaf");
	old->there = false;
	free_full++;
	free_ring += old->ring;
}

static void list_detach(struct timeline *t)
{
	list_drop_pages(t);
	for (int d = t->n_shared; d > 0; d--) {
		struct entry *e = list_find(t->sym, d);
		if (--e->n_user == 0)
			e->at = ++clock_up;
	}
	t->n_shared = t->n_page = 0;
	int n_idle;
	for (struct entry *old; (old = list_oldest(&n_idle)) && n_idle > idle_most;)
		list_drop(old);
}

static bool list_evict(int lack_full, int lack_ring)
{
	int want_full = free_full + lack_full, want_ring = free_ring + lack_ring;
	int n_idle;
	for (struct entry *old; free_full < want_full && (old = list_oldest(&n_idle));)
		list_drop(old);
	for (;;) {
		struct entry *old = NULL;
		for (int i = 0; i < MAX_ENTRY; i++)
			if (list[i].there && list[i].ring && !list[i].n_ring_user && (!old || list[i].ring_at < old->ring_at))
				old = &list[i];
		if (!old || free_ring >= want_ring)
			break;
		old->ring = false;
		free_ring++;
	}
	return free_full >= want_full && free_ring >= want_ring;
}

/* ---- what pages hold ---- */

static int32_t token_of(const struct timeline *t, size_t pos)
{
	return (int32_t)(t->sym[pos / KV_PAGE] % KIND * 1000 + (int)(pos % KV_PAGE) % 7);
}

/* [0 .. n]: stands for the first i tokens. */
static void sums_of(const struct timeline *t, size_t n, uint64_t *sum)
{
	sum[0] = 1;
	for (size_t i = 0; i < n; i++)
		sum[i + 1] = (sum[i] + (uint64_t)t->s->tok.v[i] + (i < t->zone ? 1u << 20 : 0)) * 6364136223846793005u + 1442695040888963407u;
}

/* All that the row at pos reads is there, of this timeline. */
static void check_reads(const struct timeline *t, size_t pos, const uint64_t *sum)
{
	const struct moxie_session *s = t->s;
	size_t window = (size_t)m.config.window, ring_pages = (size_t)m.kv.plan.ring_pages;
	for (size_t q = 0; q <= pos; q++) {
		CHECK(full_row[s->page[q / KV_PAGE]][q % KV_PAGE] == sum[q + 1], "position %zu, read at %zu, is another's", q, pos);
		if (ring_pages && pos - q < window)
			CHECK(ring_row[s->ring[q / KV_PAGE % ring_pages]][q % KV_PAGE] == sum[q + 1], "sliding position %zu, read at %zu, is another's", q, pos);
	}
}

/* Positions from .. to - 1 are written, all before the first reads. */
static void write_rows(const struct timeline *t, size_t from, size_t to)
{
	uint64_t sum[MAX_PAGE * KV_PAGE + 1];
	const struct moxie_session *s = t->s;
	sums_of(t, to, sum);
	for (size_t q = from; q < to; q++) {
		full_row[s->page[q / KV_PAGE]][q % KV_PAGE] = sum[q + 1];
		if (m.kv.plan.ring_pages)
			ring_row[s->ring[q / KV_PAGE % (size_t)m.kv.plan.ring_pages]][q % KV_PAGE] = sum[q + 1];
	}
	check_reads(t, from, sum);
	check_reads(t, to - 1, sum);
}

/* ---- operations, on both ---- */

/* Mostly alike: deep paths are shared. */
static void pick_pages(struct timeline *t)
{
	int zone = rnd_int(3) ? MAX_PAGE : rnd_int(MAX_PAGE);
	t->zone = (size_t)zone * KV_PAGE;
	for (int i = 0; i < MAX_PAGE; i++)
		t->sym[i] = (uint8_t)((rnd_int(3) ? 0 : rnd_int(N_SYM)) + (i < zone ? KIND : 0));
}

static void check_same(void)
{
	int n = 0, n_idle = 0, n_ring = 0, n_ring_idle = 0;
	for (int i = 0; i < MAX_ENTRY; i++)
		if (list[i].there) {
			n++, n_idle += !list[i].n_user;
			n_ring += list[i].ring, n_ring_idle += list[i].ring && !list[i].n_ring_user;
		}
	CHECK(cache.n_node == n && cache.n_idle == n_idle, "%d nodes, %d idle; wanted %d, %d", cache.n_node, cache.n_idle, n, n_idle);
	CHECK(cache.n_ring == n_ring && cache.n_ring_idle == n_ring_idle, "%d sliding pages, %d idle; wanted %d, %d", cache.n_ring,
	      cache.n_ring_idle, n_ring, n_ring_idle);
	CHECK(m.kv.full.n_free == free_full && m.kv.ring.n_free == free_ring, "%d and %d pages free; wanted %d, %d", m.kv.full.n_free,
	      m.kv.ring.n_free, free_full, free_ring);
	for (int i = 0; i < N_SESS; i++)
		CHECK(line[i].s->n_page == line[i].n_page && line[i].s->n_shared == line[i].n_shared, 
		      "session %d holds %d pages, %d shared; wanted %d, %d", i, line[i].s->n_page, line[i].s->n_shared, line[i].n_page, line[i].n_shared);
	struct timeline probe;
	int32_t ids[MAX_PAGE * KV_PAGE];
	pick_pages(&probe);
	for (size_t i = 0; i < MAX_PAGE * KV_PAGE; i++)
		ids[i] = token_of(&probe, i);
	int idle, want_idle, got = prefix_match(&cache, ids, MAX_PAGE * KV_PAGE, probe.zone, &idle);
	int want = list_match(probe.sym, MAX_PAGE * KV_PAGE, &want_idle);
	CHECK(got == want && idle == want_idle, "a prompt finds %d pages, %d idle; wanted %d, %d", got, idle, want, want_idle);
}

static void start(struct timeline *t)
{
	t->n_known = 1 + (size_t)rnd_int(MAX_PAGE * KV_PAGE);
	pick_pages(t);
	for (size_t i = 0; i < t->n_known; i++)
		t->s->tok.v[i] = token_of(t, i);
	t->s->tok.n = 0;
}

static void extend(struct timeline *t)
{
	size_t most = t->n_known - 1, pos = t->s->tok.n;
	int idle, ring_pages = m.kv.plan.ring_pages, want = list_match(t->sym, most, &idle), from = t->n_shared;
	if (pos != (size_t)t->n_shared * KV_PAGE || want <= from)
		want = from;
	size_t gained = prefix_extend(&cache, t->s, most, t->zone);
	CHECK(gained == (size_t)(want - from) * KV_PAGE && t->s->tok.n == pos + gained, "gained %zu, wanted %d pages after %d",
	      gained, want, from);
	if (!gained)
		return;
	list_drop_pages(t);
	for (int d = from + 1; d <= want; d++) {
		list_find(t->sym, d)->n_user++;
		list_find(t->sym, d)->branch = true;
	}
	for (int d = want; d > 0 && d > want - window_pages(); d--) {
		t->slot[(d - 1) % ring_pages] = list_find(t->sym, d);
		t->slot_page[(d - 1) % ring_pages] = d - 1;
		t->slot[(d - 1) % ring_pages]->n_ring_user++;
	}
	t->n_shared = t->n_page = want;
}

/* Pages for positions up to n - 1, as pages.c is to take them; false: they are not to be had. */
static bool list_grow(struct timeline *t, size_t n, struct kv_lack *lack)
{
	int ring_pages = m.kv.plan.ring_pages, last = (int)((n - 1) / KV_PAGE), first = (int)(t->s->tok.n / KV_PAGE), n_ring = 0;
	int n_full = last + 1 > t->n_page ? last + 1 - t->n_page : 0;
	for (int i = first; ring_pages && i <= last; i++) {
		struct entry *e = t->slot[i % ring_pages];
		n_ring += !e || (e != &own && t->slot_page[i % ring_pages] != i);
	}
	*lack = (struct kv_lack){ n_full > free_full ? n_full - free_full : 0, n_ring > free_ring ? n_ring - free_ring : 0 };
	if (lack->full || lack->ring)
		return false;
	free_full -= n_full;
	t->n_page += n_full;
	for (int i = first; ring_pages && i <= last; i++) {
		int slot = i % ring_pages;
		if (t->slot[slot] && t->slot[slot] != &own && t->slot_page[slot] != i)
			list_leave_slot(t, slot, true);
		free_ring -= !t->slot[slot];
		t->slot[slot] = t->slot[slot] ? t->slot[slot] : &own;
		t->slot_page[slot] = i;
	}
	return true;
}

static void list_insert(struct timeline *t)
{
	for (; (size_t)(t->n_shared + 1) * KV_PAGE <= t->s->tok.n; t->n_shared++) {
		int i = t->n_shared, slot = m.kv.plan.ring_pages ? i % m.kv.plan.ring_pages : 0;
		struct entry *e = list_find(t->sym, i + 1);
		if (e) {
			free_full++;
			e->branch = true;
		} else {
			for (e = list; e->there; e++)
				CHECK(e < list + MAX_ENTRY - 1, "the list is full");
			*e = (struct entry){ .there = true, .n = i + 1 };
			memcpy(e->path, t->sym, (size_t)i + 1);
		}
		e->n_user++;
		if (m.kv.plan.ring_pages && !e->ring && t->slot[slot] == &own && t->slot_page[slot] == i) {
			e->ring = true;
			e->n_ring_user = 1;
			t->slot[slot] = e;
		}
	}
}

static void detach(struct timeline *t)
{
	list_detach(t);
	prefix_detach(&cache, t->s);
	t->n_known = 0;
}

/* Some rows more; who finds no page lets go, or somebody else does. */
static void step(struct timeline *t)
{
	struct kv_lack lack, want;
	size_t pos = t->s->tok.n, left = t->n_known - pos, n = 1 + (size_t)rnd_int(m.n_chunk);
	n = n < left ? n : left;
	for (bool grown = false; !grown;) {
		bool can = list_grow(t, pos + n, &want);
		grown = session_grow(t->s, pos + n, &lack);
		CHECK(grown == can && lack.full == want.full && lack.ring == want.ring, "grown: %d, wanted %d; %d + %d missing",
		      grown, can, lack.full, lack.ring);
		if (grown)
			break;
		can = list_evict(lack.full, lack.ring);
		CHECK(prefix_evict(&cache, lack) == can, "evicting enough: wanted %d", can);
		check_same();
		struct timeline *other = &line[rnd_int(N_SESS)];
		if (!can)
			detach(other);
		if (other == t && !can)
			return;
	}
	write_rows(t, pos, pos + n);
	t->s->tok.n = t->s->n_high = pos + n;
	if (rnd_int(4)) {
		prefix_insert(&cache, t->s, t->zone);
		list_insert(t);
	}
	size_t window = (size_t)m.config.window, ring_pages = (size_t)m.kv.plan.ring_pages;
	if (rnd_int(3) && ring_pages) {
		session_trim(t->s);
		for (size_t i = 0; (i + 1) * KV_PAGE + window <= t->s->tok.n + 1; i++) /* its last row is behind the next one's window */
			if (t->slot[i % ring_pages] && t->slot_page[i % ring_pages] == (int)i)
				list_leave_slot(t, (int)(i % ring_pages), true);
	}
}

static void random_walk(int window, int n_chunk, int n_full, int n_page, int n_op)
{
	m = (struct moxie_model){ .n_chunk = n_chunk, .n_seq = 1, .config = { .n_layer = n_full + (window > 0), .n_head_kv = 1, .d_head = 2,
		.n_vocab = 4, .n_ctx = MAX_PAGE * KV_PAGE, .window = window, .sliding = { window > 0 } } };
	struct kv_room room = { .n_token = (uint64_t)n_page * KV_PAGE, .n_seq = 1 };
	OK(kv_create(&m.kv, &m.config, DT_BF16, n_chunk, &room, NULL, &err), err);
	CHECK(m.kv.plan.ring_pages <= MAX_RING && m.kv.full.n_page <= MAX_POOL && m.kv.ring.n_page <= MAX_POOL, "too large for this test");
	CHECK(pthread_mutex_init(&m.lock, NULL) == 0, "lock");
	idle_most = rnd_int(2) ? n_page / 3 : INT32_MAX;
	OK(prefix_init(&cache, &m, idle_most, &err), err);
	memset(list, 0, sizeof list);
	memset(line, 0, sizeof line);
	free_full = m.kv.full.n_free;
	free_ring = m.kv.ring.n_free;
	for (int i = 0; i < N_SESS; i++)
		OK(moxie_session_create(&line[i].s, &m, NULL, &err), err);
	for (int op = 0; op < n_op; op++) {
		struct timeline *t = &line[rnd_int(N_SESS)];
		if (!t->n_known)
			start(t);
		if (rnd_int(2))
			extend(t);
		if (t->s->tok.n < t->n_known)
			step(t);
		else
			detach(t);
		if (rnd_int(200) == 0) {
			prefix_flush(&cache);
			list_evict(MAX_POOL, 0);
		}
		check_same();
	}
	for (int i = 0; i < N_SESS; i++)
		detach(&line[i]);
	check_same();
	for (int i = 0; i < N_SESS; i++)
		moxie_session_free(line[i].s);
	printf("    window %d, chunk %d: %llu nodes and %llu sliding pages evicted in %d operations\n", window, n_chunk,
	       (unsigned long long)cache.n_evicted, (unsigned long long)cache.n_ring_evicted, n_op);
	prefix_free(&cache);
	CHECK(m.kv.full.n_free == m.kv.full.n_page && m.kv.ring.n_free == m.kv.ring.n_page, "%d + %d pages are missing",
	      m.kv.full.n_page - m.kv.full.n_free, m.kv.ring.n_page - m.kv.ring.n_free);
	kv_free(&m.kv);
	pthread_mutex_destroy(&m.lock);
}

TEST(prefix_window_of_one_page) { random_walk(32, 16, 1, 14, 20000); }
TEST(prefix_window_of_two_pages) { random_walk(128, 64, 1, 20, 20000); }
TEST(prefix_window_off_the_page) { random_walk(67, 100, 2, 16, 20000); }
TEST(prefix_window_of_many_pages) { random_walk(200, 7, 1, 14, 20000); }
TEST(prefix_window_of_one_token) { random_walk(1, 64, 1, 16, 10000); }
TEST(prefix_without_sliding_layers) { random_walk(0, 100, 1, 20, 20000); }

TEST_MAIN
