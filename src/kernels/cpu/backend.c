/* backend.c - opens the CPU backend: limits, instruction set, scratch memory.  The only dispatch point. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/ref.h"

#include <stdlib.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "base/host.h"

static const char *const isa_word[] = { "ref", "avx2", "avx512", "amx", "auto" };

static int check_limits(const struct kern_limits *l, int n_thread, struct moxie_err *err)
{
	if (n_thread < 0 || n_thread > 4096)
		return err_set(err, MOXIE_E_ARG, "%d threads, wanted 0 (all) to 4096", n_thread);
	if (l->n_tok < 1 || l->n_vocab < 1 || l->n_embd < 1 || l->n_embd % MX_GROUP)
		return err_set(err, MOXIE_E_ARG, "n_tok is %d, n_vocab %d, n_embd %d; wanted at least 1, and n_embd a multiple of %d", l->n_tok,
		               l->n_vocab, l->n_embd, MX_GROUP);
	if (l->n_head < 1 || l->n_head_kv < 1 || l->n_head % l->n_head_kv)
		return err_set(err, MOXIE_E_ARG, "%d query heads do not share %d key heads evenly", l->n_head, l->n_head_kv);
	if (l->d_head < 2 || l->d_head % 2 || l->d_head > MAX_D_HEAD || (int64_t)l->n_head * l->d_head > 1 << 24 ||
	    l->n_head * l->d_head % MX_GROUP)
		return err_set(err, MOXIE_E_ARG, "d_head is %d with %d heads; wanted even, at most %d, and their product a multiple of %d", l->d_head,
		               l->n_head, MAX_D_HEAD, MX_GROUP);
	if (l->n_expert < 0 || l->n_expert > 512 || l->n_used < 0 || l->n_used > 16 || l->n_used > l->n_expert)
		return err_set(err, MOXIE_E_ARG, "%d of %d experts; wanted at most 16 of 512", l->n_used, l->n_expert);
	if (l->n_ff < 0 || l->n_ff % MX_GROUP || (l->n_expert > 0 && l->n_ff < MX_GROUP))
		return err_set(err, MOXIE_E_ARG, "n_ff is %d, wanted a multiple of %d", l->n_ff, MX_GROUP);
	if ((int64_t)l->n_tok * (l->n_used ? l->n_used : 1) > 1 << 26)
		return err_set(err, MOXIE_E_ARG, "%d tokens of %d experts are more than a batch may hold", l->n_tok, l->n_used);
	return 0;
}

/* Fills *ops for isa, or for the best one; returns what this processor lacks, or NULL.  *ref: use the reference, ops is unused. */
static const char *pick_isa(enum cpu_isa isa, struct cpu_ops *ops, bool *ref)
{
	static const char *(*const get[])(struct cpu_ops *ops) = { NULL, cpu_isa_avx2, cpu_isa_avx512, cpu_isa_amx };
	*ref = false;
	if (isa != CPU_AUTO && isa != CPU_REF)
		return get[isa](ops);
	for (int i = CPU_AMX; isa == CPU_AUTO && i > CPU_REF; i--)
		if (!get[i](ops))
			return NULL;
	*ref = true;
	return NULL;
}

static void plan(struct cpu *c)
{
	const struct kern_limits *l = &c->lim;
	c->kv_new = arena_take(&c->mem, (size_t)l->n_tok * 2, (size_t)l->n_head_kv * (size_t)l->d_head * sizeof(float));
	if (c->isa)
		fast_plan(c);
}

/* A packed panel is read by every thread, again and again: 4 KB pages cost TLB misses and scatter it over L2. */
static void prefer_huge_pages(uint8_t *p, size_t n)
{
#if defined(__linux__)
	enum { PAGE = 4096 };
	size_t skip = (PAGE - (uintptr_t)p % PAGE) % PAGE;
	if (n > 8 << 20) /* only advice: an error changes nothing */
		madvise(p + skip, (n - skip) / PAGE * PAGE, MADV_HUGEPAGE);
#else
	(void)p, (void)n;
#endif
}

static int cpu_sync(struct kern *k, struct moxie_err *err)
{
	struct cpu *c = k->impl;
	return c->status ? err_set(err, c->status, "%s", c->text) : 0;
}

static void cpu_free(struct kern *k)
{
	struct cpu *c = k->impl;
	if (c->pool)
		pool_free(c->pool);
	arena_free(&c->mem);
	free(c);
}

int kern_cpu_create(struct kern **out, const struct kern_limits *lim, enum cpu_isa isa, int n_thread, struct moxie_err *err)
{
	*out = NULL;
	int rc = check_limits(lim, n_thread, err);
	if (rc < 0)
		return rc;
	if ((unsigned)isa > CPU_AUTO)
		return err_set(err, MOXIE_E_ARG, "%d is no instruction set", (int)isa);
	struct cpu_ops ops;
	bool ref;
	const char *missing = pick_isa(isa, &ops, &ref);
	if (missing)
		return err_set(err, MOXIE_E_UNSUPPORTED, "this processor cannot run the %s kernels: no %s", isa_word[isa], missing);

	struct cpu *c = calloc(1, sizeof *c);
	if (!c)
		return err_nomem(err, sizeof *c, "the CPU backend");
	c->lim = *lim;
	c->kern = (struct kern){ .name = "cpu reference", .act = DT_F32, .n_thread = n_thread ? n_thread : host_n_cpu(),
		.embed = ref_embed, .rmsnorm = ref_rmsnorm, .gemm = ref_gemm, .rope = ref_rope, .qkv = ref_qkv, .attn = ref_attn,
		.route = ref_route, .quant_rows = ref_quant_rows, .moe_gate_up = ref_moe_gate_up, .moe_down = ref_moe_down, .sync = cpu_sync, .free = cpu_free, .impl = c };
	if (!ref) {
		c->ops = ops;
		c->isa = &c->ops;
		c->kern.name = ops.name;
		fast_fill(&c->kern);
	}

	c->mem = (struct arena){ .cap = SIZE_MAX };
	plan(c);
	size_t need = c->mem.top;
	if (!arena_init(&c->mem, need)) {
		free(c);
		return err_nomem(err, need, "the CPU backend's scratch");
	}
	c->kern.scratch_bytes = need;
	prefer_huge_pages(c->mem.base, c->mem.cap);
	plan(c);
	if (c->isa && !(c->pool = pool_create(c->kern.n_thread))) {
		cpu_free(&c->kern);
		return err_set(err, MOXIE_E_NOMEM, "could not start %d threads", n_thread ? n_thread : host_n_cpu());
	}
	*out = &c->kern;
	return 0;
}
