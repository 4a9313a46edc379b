/* backend_mem.cu - memory of the device, and how weights get there.
 *
 * Loading.  The checkpoint is a mapping (or memory) of the host; threads copy it into two pinned buffers in turn while the copy
 * engine empties the other.  Experts arrive a few at a time in `raw` and are packed from there by moxie_moe_pack, so the peak is
 * the weights plus STAGE_RAW.  Dummy weights are made in place (dummy.cu).
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend.h"
#include "dense.h"

constexpr size_t STAGE_HOST = (size_t)32 << 20; /* bytes of a pinned buffer */
constexpr size_t STAGE_RAW = (size_t)64 << 20;  /* device bytes for experts on their way; more where one expert is larger */
constexpr int MAX_COPY_THREAD = 8;              /* one thread copies about 10 GB/s, the bus takes 50 */

static size_t align256(size_t n) { return (n + 255) / 256 * 256; }

static uint64_t mem_memory(struct kern *k)
{
	struct cuda *c = cuda_of(k);
	size_t left = 0, all = 0;
	return cuda_ok(c, cudaMemGetInfo(&left, &all), "free memory") && left > c->memory_gone ? left - c->memory_gone : 0;
}

cudaError_t cuda_take(struct cuda *c, void **p, size_t n_bytes)
{
	*p = NULL;
	if (c->memory_gone && n_bytes > mem_memory(&c->kern))
		return cudaErrorMemoryAllocation;
	return cudaMalloc(p, n_bytes);
}

static void *mem_take(struct kern *k, size_t n_bytes, struct moxie_err *err)
{
	void *p = NULL;
	cudaError_t e = cuda_take(cuda_of(k), &p, n_bytes ? n_bytes : 256);
	if (e != cudaSuccess) {
		err_set(err, MOXIE_E_NOMEM, "%zu bytes of device memory: %s", n_bytes, cudaGetErrorString(e));
		cudaGetLastError(); /* it is answered: not for the next launch to find */
		return NULL;
	}
	return p;
}

static void mem_give(struct kern *k, void *p)
{
	cuda_ok(cuda_of(k), cudaFree(p), "giving memory back");
}

static void mem_upload(struct kern *k, void *to, const void *from, size_t n_bytes)
{
	struct cuda *c = cuda_of(k);
	if (n_bytes <= UPLOAD_BYTES) {
		memcpy(c->up, from, n_bytes);
		from = c->up;
	}
	cuda_ok(c, cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyHostToDevice, c->dev.stream), "upload");
}

static void mem_fetch(struct kern *k, void *to, const void *from, size_t n_bytes)
{
	struct cuda *c = cuda_of(k);
	void *at = to;
	if (c->n_fetch < N_FETCH && n_bytes <= FETCH_BYTES - c->n_down) {
		c->fetch[c->n_fetch++] = { to, c->n_down, n_bytes };
		at = c->down + c->n_down;
		c->n_down += n_bytes;
	}
	cuda_ok(c, cudaMemcpyAsync(at, from, n_bytes, cudaMemcpyDeviceToHost, c->dev.stream), "fetch");
}

void cuda_fetch_done(struct cuda *c)
{
	for (int i = 0; i < c->n_fetch; i++)
		memcpy(c->fetch[i].to, c->down + c->fetch[i].at, c->fetch[i].n_bytes);
	c->n_fetch = 0;
	c->n_down = 0;
}

/* ---- loading ------------------------------------------------------------------------------------------------------------- */

static bool stage_begin(struct cuda *c)
{
	struct cuda_stage *s = &c->stage;
	for (int i = 0; i < N_STAGE && !s->done[i]; i++)
		if (!cuda_ok(c, cudaMallocHost(&s->host[i], STAGE_HOST), "pinned memory") ||
		    !cuda_ok(c, cudaEventCreateWithFlags(&s->done[i], cudaEventDisableTiming), "an event"))
			return false;
	return true;
}

void cuda_stage_free(struct cuda *c)
{
	struct cuda_stage *s = &c->stage;
	for (int i = 0; i < N_STAGE; i++) {
		if (s->done[i])
			cudaEventDestroy(s->done[i]);
		cudaFreeHost(s->host[i]);
	}
	cudaFree(s->raw);
	*s = {};
}

struct copy_job {
	uint8_t *to;
	const uint8_t *from;
	size_t n_bytes;
};

static void *copy_thread(void *arg)
{
	const struct copy_job *j = (const struct copy_job *)arg;
	memcpy(j->to, j->from, j->n_bytes);
	return NULL;
}

/* memcpy by several threads: from is a mapping whose pages may not be in memory yet. */
static void copy_wide(void *to, const void *from, size_t n_bytes)
{
	struct copy_job job[MAX_COPY_THREAD];
	pthread_t thread[MAX_COPY_THREAD];
	bool started[MAX_COPY_THREAD] = {};
	long n_cpu = sysconf(_SC_NPROCESSORS_ONLN);
	int n = n_bytes < ((size_t)1 << 20) ? 1 : n_cpu < MAX_COPY_THREAD ? (int)n_cpu : MAX_COPY_THREAD;
	for (int i = 0; i < n; i++) {
		size_t lo = n_bytes / n * i, hi = i + 1 == n ? n_bytes : n_bytes / n * (i + 1);
		job[i] = { (uint8_t *)to + lo, (const uint8_t *)from + lo, hi - lo };
		started[i] = i + 1 < n && pthread_create(&thread[i], NULL, copy_thread, &job[i]) == 0;
		if (!started[i])
			copy_thread(&job[i]);
	}
	for (int i = 0; i < n; i++)
		if (started[i])
			pthread_join(thread[i], NULL);
}

/* What from would hold, made in its place; false: it is to be copied, or that failed. */
static bool stage_make(struct cuda *c, void *to, const void *from, size_t n_bytes)
{
	struct moxie_err err;
	struct dummy_rule r;
	int rc = c->rule(c->rule_ud, from, &r, &err);
	cuda_note(c, rc, &err);
	return rc == 0 && cuda_ok(c, cuda_dummy(to, n_bytes, &r, c->dev.stream), "dummy weights");
}

/* Host to device, enqueued; from has been read when this returns. */
static bool stage_copy(struct cuda *c, void *to, const void *from, size_t n_bytes)
{
	struct cuda_stage *s = &c->stage;
	if (!n_bytes || (c->rule && stage_make(c, to, from, n_bytes)))
		return true;
	if (c->status || !stage_begin(c))
		return false;
	for (size_t at = 0; at < n_bytes;) {
		size_t n = n_bytes - at < STAGE_HOST ? n_bytes - at : STAGE_HOST;
		int i = s->next;
		s->next = (i + 1) % N_STAGE;
		if (!cuda_ok(c, cudaEventSynchronize(s->done[i]), "loading"))
			return false;
		copy_wide(s->host[i], (const uint8_t *)from + at, n);
		if (!cuda_ok(c, cudaMemcpyAsync((uint8_t *)to + at, s->host[i], n, cudaMemcpyHostToDevice, c->dev.stream), "loading") ||
		    !cuda_ok(c, cudaEventRecord(s->done[i], c->dev.stream), "loading"))
			return false;
		at += n;
	}
	return true;
}

/* Bytes of a tensor, its scales apart. */
static size_t weight_bytes(const struct weight *w)
{
	size_t n = w->dtype == DT_U8 ? 1 : (size_t)dtype_bytes(w->dtype);
	for (int i = 0; i < w->n_dim; i++)
		n *= (size_t)w->shape[i]; /* config_parse has checked the products */
	return w->dtype == DT_U8 ? n / 2 : n;
}

static size_t scale_bytes(const struct weight *w) { return w->dtype == DT_U8 ? weight_bytes(w) / 16 : 0; }

static int no_room(const struct arena *ws, struct moxie_err *err)
{
	return err_set(err, MOXIE_E_NOMEM, "the %zu bytes planned for weights are too few", ws->cap);
}

static int failed(const struct cuda *c, struct moxie_err *err) { return err_set(err, MOXIE_E_DEVICE, "%s", c->text); }

static void mem_made(struct kern *k, dummy_rule_fn *rule, void *ud)
{
	cuda_of(k)->rule = rule;
	cuda_of(k)->rule_ud = ud;
}

static int mem_place(struct kern *k, struct arena *ws, struct weight *const *w, int n, struct moxie_err *err)
{
	struct cuda *c = cuda_of(k);
	size_t all = 0;
	for (int i = 0; i < n; i++)
		all += weight_bytes(w[i]) + scale_bytes(w[i]);
	uint8_t *p = (uint8_t *)arena_take(ws, 1, align256(all));
	if (!ws->base)
		return 0;
	if (!p)
		return no_room(ws, err);
	for (int i = 0; i < n; i++) {
		size_t n_data = weight_bytes(w[i]), n_scl = scale_bytes(w[i]);
		if (!stage_copy(c, p, w[i]->data, n_data) || !stage_copy(c, p + n_data, w[i]->scl, n_scl))
			return failed(c, err);
		w[i]->data = p;
		w[i]->scl = n_scl ? p + n_data : NULL;
		p += n_data + n_scl;
	}
	return 0;
}

/* Room for n bytes in `raw`. */
static bool stage_raw(struct cuda *c, size_t n)
{
	struct cuda_stage *s = &c->stage;
	if (s->raw_bytes >= n)
		return true;
	if (s->raw && (!cuda_ok(c, cudaStreamSynchronize(c->dev.stream), "loading") || !cuda_ok(c, cudaFree(s->raw), "staging")))
		return false;
	s->raw = NULL, s->raw_bytes = 0;
	if (!cuda_ok(c, cuda_take(c, &s->raw, n), "staging"))
		return false;
	s->raw_bytes = n;
	return true;
}

/* w through `raw`, some rows at a time. */
static bool pack_f8(struct cuda *c, const struct weight *w, uint8_t *code, float *scl)
{
	const size_t row = (size_t)w->shape[1] * 2;
	if (!stage_raw(c, (row > STAGE_RAW ? row : STAGE_RAW) + 6 * 256))
		return false;
	const int64_t most = (int64_t)(c->stage.raw_bytes / row);
	for (int64_t r = 0; r < w->shape[0]; r += most) {
		const int64_t n = w->shape[0] - r < most ? w->shape[0] - r : most;
		if (!stage_copy(c, c->stage.raw, (const uint8_t *)w->data + (size_t)r * row, (size_t)n * row) ||
		    !cuda_ok(c, dense_f8_pack(code + r * w->shape[1], scl + r, c->stage.raw, n, (int)w->shape[1], c->dev.stream), "weights in FP8"))
			return false;
	}
	return true;
}

static int mem_place_f8(struct kern *k, struct arena *ws, struct weight *const *w, int n, struct moxie_err *err)
{
	struct cuda *c = cuda_of(k);
	size_t n_row = 0;
	for (int i = 0; i < n; i++)
		n_row += (size_t)w[i]->shape[0];
	const size_t n_in = (size_t)w[0]->shape[1];
	uint8_t *p = (uint8_t *)arena_take(ws, 1, align256(n_row * (n_in + sizeof(float))));
	if (!ws->base)
		return 0;
	if (!p)
		return no_room(ws, err);
	float *scl = (float *)(p + n_row * n_in);
	for (int i = 0; i < n; i++) {
		if (!pack_f8(c, w[i], p, scl))
			return failed(c, err);
		w[i]->dtype = DT_F8_E4M3, w[i]->data = p, w[i]->row_scl = scl;
		p += (size_t)w[i]->shape[0] * n_in;
		scl += w[i]->shape[0];
	}
	return 0;
}

/* Experts e0 .. e0 + n - 1 through `raw` into out. */
static int pack_part(struct cuda *c, const struct moe_weights *w, const struct moe_config *m, int e0, int n, const struct moxie_moe_weights *out,
                     struct moxie_err *err)
{
	const struct { const void *from; size_t expert_bytes; } part[] = {
		{ w->gate_up.data, weight_bytes(&w->gate_up) / m->n_expert }, { w->gate_up.scl, scale_bytes(&w->gate_up) / m->n_expert },
		{ w->down.data, weight_bytes(&w->down) / m->n_expert },       { w->down.scl, scale_bytes(&w->down) / m->n_expert },
		{ w->gate_up_b.data, weight_bytes(&w->gate_up_b) / m->n_expert }, { w->down_b.data, weight_bytes(&w->down_b) / m->n_expert },
	};
	const void *at[6];
	uint8_t *p = (uint8_t *)c->stage.raw;
	for (int i = 0; i < 6; i++) {
		size_t n_bytes = part[i].expert_bytes * (size_t)n;
		if (!stage_copy(c, p, (const uint8_t *)part[i].from + part[i].expert_bytes * (size_t)e0, n_bytes))
			return failed(c, err);
		at[i] = p;
		p += align256(n_bytes);
	}
	struct moxie_moe_pack_args a = {};
	a.source = MOXIE_MOE_GPT_OSS;
	a.n_expert = m->n_expert, a.n_embd = m->n_embd, a.n_ff = m->n_ff;
	a.expert0 = e0, a.n_expert_part = n;
	a.gate_up = at[0], a.gate_up_scale = at[1], a.down = at[2], a.down_scale = at[3], a.gate_up_bias = at[4], a.down_bias = at[5];
	a.out = *out;
	return moxie_moe_pack(&a, c->dev.stream, err);
}

/* The six blocks of a packed layer. */
static bool take_packed(struct arena *ws, const struct moe_config *m, struct moxie_moe_weights *out, struct moxie_err *err)
{
	struct moxie_moe_pack_sizes s;
	if (moxie_moe_pack_bytes(m->n_expert, m->n_embd, m->n_ff, &s, err) < 0)
		return false;
	out->gate_up = arena_take(ws, 1, align256(s.gate_up));
	out->down = arena_take(ws, 1, align256(s.down));
	out->gate_up_mul = (float *)arena_take(ws, 1, align256(s.gate_up_mul));
	out->down_mul = (float *)arena_take(ws, 1, align256(s.down_mul));
	out->gate_up_bias = (float *)arena_take(ws, 1, align256(s.gate_up_bias));
	out->down_bias = (float *)arena_take(ws, 1, align256(s.down_bias));
	return true;
}

static int place_packed(struct cuda *c, struct arena *ws, struct moe_weights *w, const struct moe_config *m, struct moxie_err *err)
{
	struct moxie_moe_weights out = {};
	if (!take_packed(ws, m, &out, err))
		return MOXIE_E_SHAPE;
	if (!ws->base)
		return 0;
	if (!out.gate_up || !out.down || !out.gate_up_mul || !out.down_mul || !out.gate_up_bias || !out.down_bias)
		return no_room(ws, err);
	const size_t expert = (weight_bytes(&w->gate_up) + scale_bytes(&w->gate_up) + weight_bytes(&w->down) + scale_bytes(&w->down) +
	                       weight_bytes(&w->gate_up_b) + weight_bytes(&w->down_b)) / m->n_expert;
	if (!stage_raw(c, (expert > STAGE_RAW ? expert : STAGE_RAW) + 6 * 256))
		return failed(c, err);
	const int most = (int)((c->stage.raw_bytes - 6 * 256) / expert);
	for (int e = 0; e < m->n_expert; e += most) {
		int rc = pack_part(c, w, m, e, m->n_expert - e < most ? m->n_expert - e : most, &out, err);
		if (rc < 0)
			return rc;
	}
	struct moxie_moe_weights **list = (struct moxie_moe_weights **)realloc(c->packed, (size_t)(c->n_packed + 1) * sizeof *list);
	struct moxie_moe_weights *p = (struct moxie_moe_weights *)malloc(sizeof *p);
	if (list)
		c->packed = list;
	if (!list || !p) {
		free(p);
		return err_nomem(err, sizeof *p, "a layer's experts");
	}
	*p = out;
	c->packed[c->n_packed++] = p;
	w->packed = p;
	w->gate_up.data = w->down.data = w->gate_up_b.data = w->down_b.data = NULL;
	w->gate_up.scl = w->down.scl = NULL;
	return 0;
}

static int mem_place_moe(struct kern *k, struct arena *ws, struct moe_weights *w, const struct moe_config *m, struct moxie_err *err)
{
	struct cuda *c = cuda_of(k);
	struct weight *const all[] = { &w->router, &w->router_b, &w->gate_up, &w->gate_up_b, &w->down, &w->down_b };
	int rc = 0;
	for (int i = 0; rc == 0 && i < (c->experts ? 2 : 6); i++)
		rc = mem_place(k, ws, &all[i], 1, err);
	return rc == 0 && c->experts ? place_packed(c, ws, w, m, err) : rc;
}

void cuda_mem_free(struct cuda *c)
{
	cuda_stage_free(c);
	cudaFreeHost(c->up);
	cudaFreeHost(c->down);
	for (int i = 0; i < c->n_packed; i++)
		free(c->packed[i]);
	free(c->packed);
}

const struct kern_device cuda_device_hooks = {
	mem_memory, mem_take, mem_give, mem_made, mem_place, mem_place_f8, mem_place_moe, cuda_step_stage, cuda_step_take_in, cuda_step_give_out,
	cuda_step_outcome, mem_upload, mem_fetch, cuda_graph_replay, cuda_graph_record, cuda_graph_keep,
	cuda_profile_begin, cuda_profile_end, cuda_bandwidth,
};
