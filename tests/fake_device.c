/* fake_device.c - a backend with memory of its own, made of the plain CPU ops: what tests/test_device.c opens as device "cuda".
 *
 * Its memory cannot be touched but inside an op, so an engine that reads or writes it from the host dies.  An upload's source and
 * what is fetched are held back as a real device would: fetched bytes arrive at sync, and are garbage before.  Recorded steps run
 * again from copies of their arguments with the pointers they had, as a captured graph does.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/sampler.h"
#include "kernels/kernels.h"
#include "moxie_status.h"

#define DEVICE_BYTES ((size_t)1 << 30)
#define MAX_OP 512
#define MAX_GRAPH 1024
#define MAX_FETCH 256

struct take_in_args {
	int32_t *to;
	size_t n_bytes;
	int n_tok;
	const int32_t *picked;
};
struct give_out_args {
	const int32_t *picked;
	int n;
};

union args {
	struct take_in_args take_in;
	struct give_out_args give_out;
	struct embed_args embed;
	struct rmsnorm_args rmsnorm;
	struct gemm_args gemm;
	struct rope_args rope;
	struct qkv_args qkv;
	struct attn_args attn;
	struct route_args route;
	struct moe_gate_up_args moe_gate_up;
	struct moe_down_args moe_down;
	struct sample_args sample;
	struct sample_history_args history;
};

struct fake;

struct op {
	void (*run)(struct kern *cpu, const union args *a);
	void (*own)(struct fake *f, const union args *a); /* where run is NULL */
	union args a;
	struct kv_view kv;
	struct batch batch;
};

struct graph {
	struct step_shape shape;
	struct op op[MAX_OP];
	int n_op;
};

MOXIE_API extern int fake_device_breaks;
int fake_device_breaks; /* 1: weights arrive changed */
MOXIE_API extern int fake_device_steps;
int fake_device_steps;  /* that ran so far */
MOXIE_API extern int fake_device_fetches;
int fake_device_fetches; /* copies to the host so far */

MOXIE_API extern int fake_device_records, fake_device_replays;
int fake_device_records; /* steps recorded so far, and recorded steps that ran */
int fake_device_replays;
MOXIE_API extern size_t fake_device_graph_bytes;
size_t fake_device_graph_bytes = 4096; /* of the device's memory that a recorded step takes */

struct fake {
	struct kern kern, *cpu;
	uint8_t *mem;
	size_t n_mem;
	struct { void *to; uint8_t *bytes; size_t n; } fetch[MAX_FETCH];
	int n_fetch;
	struct graph *graph[MAX_GRAPH], *recording;
	int n_graph;
	struct { uint8_t *bytes; size_t n; int32_t *pick; int n_pick; } step[2]; /* inputs and picks of steps, by turns */
	uint64_t n_staged, n_run;
	struct sampler sampler;
	float *row;
	size_t n_graph_mem;
	dummy_rule_fn *rule;
	void *rule_ud;
};

static struct fake *fake_of(struct kern *k)
{
	return k->impl;
}

static void open_memory(struct fake *f, bool open)
{
	if (mprotect(f->mem, DEVICE_BYTES, open ? PROT_READ | PROT_WRITE : PROT_NONE) != 0)
		abort();
}

/* ---- ops ----------------------------------------------------------------------------------------------------------------- */

/* Bias and penalties from counts, each step rounded as the sampler does. */
static void penalise(const struct sample_args *a, const struct sample_row *r, float *l)
{
	const uint32_t *hist = a->hist + (size_t)r->hist * (size_t)a->n_vocab;
	const struct sample_bias *bias = a->bias + (size_t)r->hist * SAMPLE_BIAS_MAX;
	float rep = r->repetition_penalty > 0 ? r->repetition_penalty : 1;
	for (int i = 0; i < r->n_bias; i++)
		l[bias[i].id] += bias[i].bias;
	if (rep == 1 && r->presence_penalty == 0 && r->frequency_penalty == 0)
		return; /* hist may be anything */
	for (int i = 0; i < a->n_vocab; i++) {
		if (hist[i] & SAMPLE_SEEN && rep != 1)
			l[i] = l[i] > 0 ? l[i] / rep : l[i] * rep;
		if (hist[i] & ~SAMPLE_SEEN)
			l[i] -= r->presence_penalty + r->frequency_penalty * (float)(hist[i] & ~SAMPLE_SEEN);
	}
}

static void sample(struct fake *f, const struct sample_args *a)
{
	static const struct moxie_sampling greedy;
	for (int i = 0; i < a->n_row; i++) {
		struct moxie_sampling sp = greedy;
		uint64_t n = 0;
		const struct sample_row *r = a->row ? &a->row[i] : NULL;
		memcpy(f->row, a->logits + (size_t)i * (size_t)a->n_vocab, (size_t)a->n_vocab * sizeof *f->row);
		if (r) {
			sp = (struct moxie_sampling){ .seed = r->seed, .temperature = r->temperature, .top_p = r->top_p, .min_p = r->min_p, .top_k = r->top_k };
			n = r->n;
		}
		if (r && r->hist >= 0)
			penalise(a, r, f->row);
		a->id[i] = sampler_pick(&f->sampler, &sp, f->row, a->n_vocab, NULL, n, 0);
		if (r && r->hist >= 0 && r->append) {
			uint32_t *h = a->hist + (size_t)r->hist * (size_t)a->n_vocab + a->id[i];
			*h = (*h + 1) | SAMPLE_SEEN;
		}
	}
}

static void history(const struct sample_history_args *a)
{
	memset(a->hist, 0, (size_t)a->n_vocab * sizeof *a->hist);
	for (int i = 0; i < a->n; i++)
		a->hist[a->tok[i]] = (a->hist[a->tok[i]] + (i >= a->n - a->n_out)) | SAMPLE_SEEN;
}

static void run_take_in(struct fake *f, const struct take_in_args *a)
{
	const uint8_t *from = f->step[f->n_run % 2].bytes;
	if (f->n_run >= f->n_staged || a->n_bytes != f->step[f->n_run % 2].n)
		abort();
	memcpy(a->to, from, a->n_bytes);
	for (int i = 0; i < a->n_tok; i++)
		if (a->to[i] < 0)
			a->to[i] = a->picked[-1 - a->to[i]];
}

static void run_give_out(struct fake *f, const struct give_out_args *a)
{
	int i = f->n_run++ % 2;
	fake_device_steps++;
	memcpy(f->step[i].pick, a->picked, (size_t)a->n * sizeof *a->picked);
	f->step[i].n_pick = a->n;
}

static void own_sample(struct fake *f, const union args *a) { sample(f, &a->sample); }
static void own_history(struct fake *f, const union args *a) { (void)f, history(&a->history); }
static void own_take_in(struct fake *f, const union args *a) { run_take_in(f, &a->take_in); }
static void own_give_out(struct fake *f, const union args *a) { run_give_out(f, &a->give_out); }

static void run_op(struct fake *f, const struct op *o)
{
	open_memory(f, true);
	if (o->run)
		o->run(f->cpu, &o->a);
	else
		o->own(f, &o->a);
	open_memory(f, false);
}

/* Runs now, or is kept while recording.  kv and batch are copied: only what they point to is the device's. */
static void enqueue(struct fake *f, struct op *o)
{
	if (!f->recording) {
		run_op(f, o);
		return;
	}
	if (f->recording->n_op == MAX_OP)
		abort();
	f->recording->op[f->recording->n_op++] = *o;
}

#define OP(name)                                                                           \
	static void run_##name(struct kern *cpu, const union args *a) { cpu->name(cpu, &a->name); } \
	static void fake_##name(struct kern *k, const struct name##_args *a)                \
	{                                                                                   \
		struct op o = { .run = run_##name, .a.name = *a };                          \
		enqueue(fake_of(k), &o);                                                    \
	}
OP(embed)
OP(rmsnorm)
OP(gemm)
OP(rope)
OP(route)
OP(moe_gate_up)
OP(moe_down)

static void fake_sample(struct kern *k, const struct sample_args *a)
{
	struct op o = { .own = own_sample, .a.sample = *a };
	enqueue(fake_of(k), &o);
}

static void fake_history(struct kern *k, const struct sample_history_args *a)
{
	struct op o = { .own = own_history, .a.history = *a };
	enqueue(fake_of(k), &o);
}

static int stage(struct kern *k, const void *from, size_t n_bytes, struct moxie_err *err)
{
	struct fake *f = fake_of(k);
	int i = f->n_staged++ % 2;
	(void)err;
	free(f->step[i].bytes);
	if (!(f->step[i].bytes = malloc(n_bytes)))
		abort();
	memcpy(f->step[i].bytes, from, n_bytes);
	f->step[i].n = n_bytes;
	return 0;
}

static void take_in(struct kern *k, void *to, size_t n_bytes, int n_tok, const int32_t *picked)
{
	struct op o = { .own = own_take_in, .a.take_in = { to, n_bytes, n_tok, picked } };
	enqueue(fake_of(k), &o);
}

static void give_out(struct kern *k, const int32_t *picked, int n)
{
	struct op o = { .own = own_give_out, .a.give_out = { picked, n } };
	enqueue(fake_of(k), &o);
}

static int outcome(struct kern *k, int n_after, int32_t *id, int n, struct moxie_err *err)
{
	struct fake *f = fake_of(k);
	int i = (f->n_staged - 1 - (uint64_t)n_after) % 2;
	(void)err;
	if (f->n_run != f->n_staged || n_after > 1 || f->step[i].n_pick < n)
		abort();
	memcpy(id, f->step[i].pick, (size_t)n * sizeof *id);
	return 0;
}

static void run_qkv(struct kern *cpu, const union args *a)
{
	cpu->qkv(cpu, &a->qkv);
}

static void run_attn(struct kern *cpu, const union args *a)
{
	cpu->attn(cpu, &a->attn);
}

static void replay_op(struct fake *f, struct op *o)
{
	if (o->run == run_qkv)
		o->a.qkv.kv = &o->kv, o->a.qkv.batch = &o->batch;
	if (o->run == run_attn)
		o->a.attn.kv = &o->kv, o->a.attn.batch = &o->batch;
	run_op(f, o);
}

static void fake_qkv(struct kern *k, const struct qkv_args *a)
{
	struct op o = { .run = run_qkv, .a.qkv = *a, .kv = *a->kv, .batch = *a->batch };
	o.batch.span = NULL; /* the host's, gone when the step is played again */
	enqueue(fake_of(k), &o);
}

static void fake_attn(struct kern *k, const struct attn_args *a)
{
	struct op o = { .run = run_attn, .a.attn = *a, .kv = *a->kv, .batch = *a->batch };
	o.batch.span = NULL;
	enqueue(fake_of(k), &o);
}

/* ---- memory -------------------------------------------------------------------------------------------------------------- */

static uint64_t memory(struct kern *k)
{
	return DEVICE_BYTES - fake_of(k)->n_mem - fake_of(k)->n_graph_mem;
}

static void *take(struct kern *k, size_t n_bytes, struct moxie_err *err)
{
	struct fake *f = fake_of(k);
	size_t n = (n_bytes + 4095) / 4096 * 4096;
	if (n > DEVICE_BYTES - f->n_mem) {
		err_set(err, MOXIE_E_NOMEM, "%zu bytes of the device's memory", n_bytes);
		return NULL;
	}
	void *p = f->mem + f->n_mem;
	f->n_mem += n;
	return p;
}

static void give(struct kern *k, void *p)
{
	(void)k, (void)p;
}

static void put_made(struct fake *f, uint8_t *to, const void *from, size_t n);

static void put(struct fake *f, void *to, const void *from, size_t n)
{
	if (f->rule) {
		put_made(f, to, from, n);
		return;
	}
	open_memory(f, true);
	memcpy(to, from, n);
	open_memory(f, false);
}

static void made(struct kern *k, dummy_rule_fn *rule, void *ud)
{
	fake_of(k)->rule = rule;
	fake_of(k)->rule_ud = ud;
}

/* Slowly, from the text of base/dummy.h. */
static void put_made(struct fake *f, uint8_t *to, const void *from, size_t n)
{
	struct dummy_rule r;
	int rc = f->rule(f->rule_ud, from, &r, NULL);
	if (rc < 0)
		abort();
	open_memory(f, true);
	if (rc == DUMMY_AS_IT_LIES)
		memcpy(to, from, n);
	else
	for (size_t at = 0; at < n; at++) {
		uint64_t byte = r.at + at;
		if (r.dtype == DT_U8) {
			uint8_t v = (uint8_t)(dummy_mix((uint32_t)(byte / 4) + r.key) >> 8 * (byte % 4));
			to[at] = r.scale ? dummy_scale(r.scale, v) : v;
			continue;
		}
		uint32_t i = (uint32_t)(byte / (uint64_t)dtype_bytes(r.dtype)), u;
		float v = r.mean + r.std * (dummy_sum(dummy_mix(i + r.key)) * DUMMY_NORMAL);
		memcpy(&u, &v, 4);
		u = r.dtype == DT_BF16 ? bf16_from_f32(v) : u;
		to[at] = (uint8_t)(u >> 8 * (byte % (uint64_t)dtype_bytes(r.dtype)));
	}
	open_memory(f, false);
}

static int place(struct kern *k, struct arena *ws, struct weight *const *w, int n, struct moxie_err *err)
{
	for (int i = 0; i < n; i++) {
		size_t n_data = w[i]->dtype == DT_U8 ? 1 : (size_t)dtype_bytes(w[i]->dtype), n_scl = 0;
		for (int d = 0; d < w[i]->n_dim; d++)
			n_data *= (size_t)w[i]->shape[d];
		if (w[i]->dtype == DT_U8)
			n_data /= 2, n_scl = n_data / 16;
		uint8_t *p = arena_take(ws, n_data, 1), *s = n_scl ? arena_take(ws, n_scl, 1) : NULL;
		if (!ws->base)
			continue;
		if (!p || (n_scl && !s))
			return err_set(err, MOXIE_E_NOMEM, "the plan of the weights is too small");
		put(fake_of(k), p, w[i]->data, n_data);
		for (size_t at = 0; fake_device_breaks && at < n_data; at += 64) {
			static const uint8_t zero[16];
			put(fake_of(k), p + at, zero, n_data - at < 16 ? n_data - at : 16);
		}
		if (s)
			put(fake_of(k), s, w[i]->scl, n_scl);
		w[i]->data = p;
		w[i]->scl = s;
	}
	return 0;
}

static int place_f8(struct kern *k, struct arena *ws, struct weight *const *w, int n, struct moxie_err *err)
{
	int rc = 0;
	for (int i = 0; rc == 0 && i < n; i++) {
		size_t n_row = (size_t)w[i]->shape[0], n_in = (size_t)w[i]->shape[1];
		uint8_t *code = arena_take(ws, n_row * n_in, 1);
		float *scl = arena_take(ws, n_row, sizeof *scl);
		struct weight from = *w[i];
		if (!ws->base)
			continue;
		if (!code || !scl)
			return err_set(err, MOXIE_E_NOMEM, "the plan of the weights is too small");
		bf16 *b = malloc(n_row * n_in * sizeof *b);
		if (!b)
			abort();
		put(fake_of(k), (uint8_t *)b, w[i]->data, n_row * n_in * sizeof *b); /* as they lie, or as the rule makes them */
		from.data = b;
		open_memory(fake_of(k), true);
		fake_of(k)->cpu->quant_rows(fake_of(k)->cpu, &(struct quant_rows_args){ .code = code, .scl = scl, .w = &from });
		open_memory(fake_of(k), false);
		free(b);
		w[i]->dtype = DT_F8_E4M3, w[i]->data = code, w[i]->row_scl = scl;
	}
	return rc;
}

static int place_moe(struct kern *k, struct arena *ws, struct moe_weights *w, const struct moe_config *c, struct moxie_err *err)
{
	struct weight *const all[] = { &w->router, &w->router_b, &w->gate_up, &w->gate_up_b, &w->down, &w->down_b };
	(void)c;
	return place(k, ws, all, 6, err);
}

static void upload(struct kern *k, void *to, const void *from, size_t n_bytes)
{
	put(fake_of(k), to, from, n_bytes);
}

static void fetch(struct kern *k, void *to, const void *from, size_t n_bytes)
{
	struct fake *f = fake_of(k);
	if (f->n_fetch == MAX_FETCH || !(f->fetch[f->n_fetch].bytes = malloc(n_bytes)))
		abort();
	open_memory(f, true);
	memcpy(f->fetch[f->n_fetch].bytes, from, n_bytes);
	open_memory(f, false);
	f->fetch[f->n_fetch].to = to;
	f->fetch[f->n_fetch++].n = n_bytes;
	memset(to, 0xff, n_bytes);
	fake_device_fetches++;
}

static int sync(struct kern *k, struct moxie_err *err)
{
	struct fake *f = fake_of(k);
	for (int i = 0; i < f->n_fetch; i++) {
		memcpy(f->fetch[i].to, f->fetch[i].bytes, f->fetch[i].n);
		free(f->fetch[i].bytes);
	}
	f->n_fetch = 0;
	f->n_staged = f->n_run; /* what was staged and never ran is forgotten */
	return f->cpu->sync(f->cpu, err);
}

/* ---- recorded steps ------------------------------------------------------------------------------------------------------ */

static bool replay(struct kern *k, const struct step_shape *s)
{
	struct fake *f = fake_of(k);
	for (int i = 0; i < f->n_graph; i++)
		if (f->graph[i]->shape.n_seq == s->n_seq && f->graph[i]->shape.n_page_seq == s->n_page_seq && f->graph[i]->shape.drawn == s->drawn) {
			for (int j = 0; j < f->graph[i]->n_op; j++)
				replay_op(f, &f->graph[i]->op[j]);
			fake_device_replays++;
			return true;
		}
	return false;
}

static void record(struct kern *k, const struct step_shape *s)
{
	struct fake *f = fake_of(k);
	if (!(f->recording = calloc(1, sizeof *f->recording)))
		abort();
	f->recording->shape = *s;
}

static void keep(struct kern *k, bool ok)
{
	struct fake *f = fake_of(k);
	if (!ok || f->n_graph == MAX_GRAPH)
		abort();
	f->graph[f->n_graph++] = f->recording;
	f->n_graph_mem += fake_device_graph_bytes;
	fake_device_records++;
	f->recording = NULL;
}

static void fake_free(struct kern *k)
{
	struct fake *f = fake_of(k);
	for (int i = 0; i < f->n_graph; i++)
		free(f->graph[i]);
	for (int i = 0; i < 2; i++) {
		free(f->step[i].bytes);
		free(f->step[i].pick);
	}
	sampler_free(&f->sampler);
	free(f->row);
	munmap(f->mem, DEVICE_BYTES);
	f->cpu->free(f->cpu);
	free(f);
}

static const struct kern_device hooks = { memory, take, give, made, place, place_f8, place_moe, stage, take_in, give_out, outcome, upload, fetch, replay, record, keep, NULL, NULL, NULL };

MOXIE_API extern const uint32_t moxie_kern_cuda_layout;
const uint32_t moxie_kern_cuda_layout = KERN_LAYOUT;

MOXIE_API int moxie_kern_cuda_create(struct kern **out, const struct kern_limits *lim, struct moxie_err *err);
MOXIE_API int moxie_kern_cuda_create(struct kern **out, const struct kern_limits *lim, struct moxie_err *err)
{
	struct fake *f = calloc(1, sizeof *f);
	*out = NULL;
	if (!f)
		return err_nomem(err, sizeof *f, "a fake device");
	int rc = kern_cpu_create(&f->cpu, lim, CPU_REF, 2, err);
	if (rc < 0) {
		free(f);
		return rc;
	}
	for (int i = 0; i < 2; i++)
		if (!(f->step[i].pick = malloc((size_t)lim->n_seq * sizeof *f->step[i].pick)))
			abort();
	if (!sampler_init(&f->sampler, lim->n_vocab) || !(f->row = malloc((size_t)lim->n_vocab * sizeof *f->row)))
		abort();
	f->mem = mmap(NULL, DEVICE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (f->mem == MAP_FAILED)
		abort();
	f->kern = (struct kern){ .name = "fake device", .act = DT_F32, .n_thread = 2, .embed = fake_embed, .rmsnorm = fake_rmsnorm,
		.gemm = fake_gemm, .rope = fake_rope, .qkv = fake_qkv, .attn = fake_attn, .route = fake_route, .moe_gate_up = fake_moe_gate_up,
		.moe_down = fake_moe_down, .sample = fake_sample, .sample_history = fake_history, .dev = &hooks, .sync = sync, .free = fake_free, .impl = f };
	*out = &f->kern;
	return 0;
}
