/* ladder.c - the shapes of decode steps that a device records.
 *
 * A step of n rows runs as the recorded step of the next rung, with rows of padding.  Rungs are a function of the number alone, so what
 * a row's bits are does not depend on what was recorded, or when.  Each of 1 .. LADDER_EXACT is a rung, then four in every octave, among
 * them the powers of two: up to these the products keep their kernels, and no step is moved across such a border (docs/performance.md).
 * What attention does follows from a row's position, not from the length of the page lists; longer ones cost their bytes over the bus and
 * parts of the grid that find nothing to do.
 */
#include "engine/engine.h"

#define LADDER_EXACT 8
#define MIN_LIST 8       /* pages: 512 tokens */
#define FINE_LIST 128    /* up to here and for few rows lists are as long as the next power of two, else of four times MIN_LIST */
#define CHECK_EVERY 8    /* recordings between two looks at the device's memory */

int ladder_most(const struct moxie_model_params *p)
{
	return p->graph_max_seq && p->graph_max_seq < p->n_seq ? p->graph_max_seq : p->n_seq;
}

int ladder_rows(int n, int most)
{
	int step = 1;
	while (n > LADDER_EXACT * step)
		step *= 2;
	n = (n + step - 1) / step * step;
	return n < most ? n : most;
}

bool ladder_pads(int n, int most)
{
	return n > 1 && ladder_rows(n - 1, most) == n;
}

int ladder_pages(const struct moxie_model *m, int n_row, int n_page)
{
	int most = (m->config.n_ctx + KV_PAGE - 1) / KV_PAGE, n = MIN_LIST;
	while (n < n_page)
		n *= n_row <= LADDER_EXACT && n < FINE_LIST ? 2 : 4;
	return n < most ? n : most;
}

/* Calls record (or, NULL, only counts) for each shape, until it returns other than 0: lists of few pages first, since they are every request's. */
static int each_shape(struct moxie_model *m, int (*record)(struct moxie_model *m, const struct step_shape *s, void *ud, struct moxie_err *err),
                      void *ud, struct moxie_err *err)
{
	int n = 0, longest = ladder_pages(m, 1, INT32_MAX / 4);
	for (int list = 0; list < longest;) {
		list = ladder_pages(m, 1, list + 1);
		for (int rows = 0; rows < m->graph_most;) {
			rows = ladder_rows(rows + 1, m->graph_most);
			for (int drawn = 0; ladder_pages(m, rows, list) == list && drawn < 2; drawn++, n++) {
				int rc = record ? record(m, &(struct step_shape){ rows, list, drawn }, ud, err) : 0;
				if (rc != 0)
					return rc < 0 ? rc : n;
			}
		}
	}
	return n;
}

int engine_n_graph(const struct moxie_model *m)
{
	struct moxie_model count = { .config = m->config, .graph_most = m->graph_most };
	return each_shape(&count, NULL, NULL, NULL);
}

/* Of one, measured with all kernels for Hopper: 0.49 MB of 24 layers, 0.2 of 4; others are more launches (docs/performance.md). */
uint64_t engine_graph_bytes(const struct moxie_model *m)
{
	return (uint64_t)engine_n_graph(m) * (160 + 24 * (uint64_t)m->config.n_layer) * 1024;
}

/* What recording may take, and has taken. */
struct budget {
	uint64_t before, most;
	int n;
};

/* 1: the budget is spent. */
static int record(struct moxie_model *m, const struct step_shape *s, void *ud, struct moxie_err *err)
{
	struct budget *b = ud;
	struct kern *k = m->kern;
	if (b->n % CHECK_EVERY == 0 && k->dev->memory(k) + b->most < b->before)
		return 1;
	b->n++;
	return engine_record_step(m, s, err);
}

int engine_record_ahead(struct moxie_model *m, struct moxie_err *err)
{
	struct kern *k = m->kern;
	if (!k->dev || !k->dev->replay || !k->sample || m->graph_most < 1)
		return 0;
	struct budget b = { .before = k->dev->memory(k), .most = engine_graph_bytes(m) };
	pthread_mutex_lock(&m->lock);
	int n = each_shape(m, record, &b, err), rc = k->sync(k, n < 0 ? NULL : err);
	pthread_mutex_unlock(&m->lock);
	uint64_t after = k->dev->memory(k);
	m->n_graph = n < 0 ? 0 : n;
	m->graph_bytes = b.before > after ? b.before - after : 0;
	return n < 0 ? n : rc;
}
