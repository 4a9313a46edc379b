/* ptx.cuh - instructions the kernels use, one function each: barriers, copies, shared memory, arithmetic, warpgroup control.  What only
 * sm_90a has is not compiled where it is not called. */
#ifndef MOXIE_DEVICE_PTX_CUH
#define MOXIE_DEVICE_PTX_CUH

#include <cuda.h>
#include <stdint.h>

__device__ __forceinline__ uint32_t smem_u32(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

/* ---- mbarriers --------------------------------------------------------------------------------------------------- */
__device__ __forceinline__ void mbar_init(uint32_t bar, int count)
{
	asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(bar), "r"(count));
}
__device__ __forceinline__ void mbar_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void mbar_expect(uint32_t bar, uint32_t bytes)
{
	asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
__device__ __forceinline__ void mbar_arrive(uint32_t bar)
{
	asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(bar) : "memory");
}
__device__ __forceinline__ void mbar_wait(uint32_t bar, uint32_t parity)
{
#if __CUDA_ARCH__ < 900
	asm volatile("{ .reg .pred p;\n"
	             "again: mbarrier.test_wait.parity.shared.b64 p, [%0], %1;\n"
	             "@p bra done; bra again; done: }" ::"r"(bar), "r"(parity) : "memory");
#else
	asm volatile("{ .reg .pred p;\n"
	             "again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
	             "@p bra done; bra again; done: }" ::"r"(bar), "r"(parity) : "memory");
#endif
}
/* Whether it has turned already: asks once. */
__device__ __forceinline__ bool mbar_ready(uint32_t bar, uint32_t parity)
{
	uint32_t done;
	asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
	             : "=r"(done) : "r"(bar), "r"(parity) : "memory");
	return done;
}
/* Arrives on the barrier at the same place of CTA `cta` of the cluster.  No scope is named, so no memory barrier of the whole GPU is
 * made, which costs a microsecond: what is ordered here are reads of shared memory that have ended. */
__device__ __forceinline__ void mbar_arrive_at(uint32_t bar, int cta)
{
	uint32_t there;
	asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(bar), "r"(cta));
	asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(there) : "memory");
}
/* Arrives on bar when this thread's cp.async so far have landed; counts as one of the expected arrivals. */
__device__ __forceinline__ void cp_async_arrive(uint32_t bar)
{
	asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(bar) : "memory");
}

/* ---- named barriers: THREADS of the block, those that wait and those that only arrive ------------------------------------ */
template <int THREADS> __device__ __forceinline__ void named_barrier(int id) { asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(THREADS) : "memory"); }
template <int THREADS> __device__ __forceinline__ void named_arrive(int id) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "n"(THREADS) : "memory"); }

/* ---- copies ------------------------------------------------------------------------------------------------------ */
/* 16 bytes global -> shared past L1. */
__device__ __forceinline__ void cp_async16(uint32_t dst, const void *src)
{
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(dst), "l"(src) : "memory");
}
/* Zeros where not wanted. */
__device__ __forceinline__ void cp_async16_or_zero(uint32_t dst, const void *src, bool wanted)
{
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(dst), "l"(src), "r"(wanted ? 16 : 0) : "memory");
}
/* Nothing where not wanted. */
__device__ __forceinline__ void cp_async16_if(bool wanted, uint32_t dst, const void *src)
{
	asm volatile("{ .reg .pred p; setp.ne.b32 p, %2, 0;\n"
	             "@p cp.async.cg.shared.global [%0], [%1], 16; }" ::"r"(dst), "l"(src), "r"((int)wanted) : "memory");
}
/* 4 bytes, through L1. */
__device__ __forceinline__ void cp_async4(uint32_t dst, const void *src)
{
	asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(dst), "l"(src) : "memory");
}
/* 16 bytes between dst + TO and src + FROM. */
template <int TO, int FROM> __device__ __forceinline__ void cp_async16_at(uint32_t dst, const void *src)
{
	asm volatile("cp.async.cg.shared.global [%0 + %2], [%1 + %3], 16;" ::"r"(dst), "l"(src), "n"(TO), "n"(FROM) : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT> __device__ __forceinline__ void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory"); }
/* 1-D bulk copy global -> shared; addresses and size are multiples of 16. */
__device__ __forceinline__ void bulk_load(uint32_t dst, const void *src, uint32_t bytes, uint32_t bar)
{
	asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
	             ::"r"(dst), "l"(src), "r"(bytes), "r"(bar) : "memory");
}
/* The same with a policy of L2. */
__device__ __forceinline__ void bulk_load(uint32_t dst, const void *src, uint32_t bytes, uint32_t bar, uint64_t policy)
{
	asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;"
	             ::"r"(dst), "l"(src), "r"(bytes), "r"(bar), "l"(policy) : "memory");
}
/* The same into L2 alone: a hint. */
__device__ __forceinline__ void bulk_prefetch(const void *src, uint32_t bytes)
{
	asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(src), "r"(bytes) : "memory");
}
/* Box of a 2-D, 3-D tensor map global -> shared; its bytes count on bar. */
__device__ __forceinline__ void tma_load2(uint32_t dst, const CUtensorMap *map, int c0, int c1, uint32_t bar)
{
	asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
	             ::"r"(dst), "l"(map), "r"(c0), "r"(c1), "r"(bar) : "memory");
}
__device__ __forceinline__ void tma_load3(uint32_t dst, const CUtensorMap *map, int c0, int c1, int c2, uint32_t bar)
{
	asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];"
	             ::"r"(dst), "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(bar) : "memory");
}
/* To the same place of both CTAs of a cluster, counted on the barrier at the same place of each. */
__device__ __forceinline__ void tma_load2_both(uint32_t dst, const CUtensorMap *map, int c0, int c1, uint32_t bar)
{
	asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;"
	             ::"r"(dst), "l"(map), "r"(c0), "r"(c1), "r"(bar), "h"((uint16_t)3) : "memory");
}
__device__ __forceinline__ void tma_load3_both(uint32_t dst, const CUtensorMap *map, int c0, int c1, int c2, uint32_t bar)
{
	asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3, %4}], [%5], %6;"
	             ::"r"(dst), "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(bar), "h"((uint16_t)3) : "memory");
}
/* Kept in L2 as `policy` says. */
__device__ __forceinline__ void tma_load3(uint32_t dst, const void *map, int c0, int c1, int c2, uint32_t bar, uint64_t policy)
{
	asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, %3, %4}], [%5], %6;"
	             ::"r"(dst), "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(bar), "l"(policy) : "memory");
}
/* Box of shared memory -> global; what hangs over the tensor is left out.  One thread, then bulk_commit; after its bulk_stored the boxes may
 * be written again. */
__device__ __forceinline__ void tma_store2(const CUtensorMap *map, int c0, int c1, uint32_t src)
{
	asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(c0), "r"(c1), "r"(src) : "memory");
}
__device__ __forceinline__ void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
__device__ __forceinline__ void bulk_stored() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
/* What this thread wrote to shared memory becomes visible to the copy engine and wgmma. */
__device__ __forceinline__ void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
/* The map itself, which the first copy would otherwise wait for. */
__device__ __forceinline__ void tma_prefetch_map(const CUtensorMap *map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }
__device__ __forceinline__ uint64_t l2_evict_first()
{
	uint64_t p;
	asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(p));
	return p;
}
__device__ __forceinline__ uint64_t l2_evict_normal()
{
	uint64_t p;
	asm("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(p));
	return p;
}
__device__ __forceinline__ uint64_t l2_evict_last()
{
	uint64_t p;
	asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(p));
	return p;
}

/* ---- shared memory ------------------------------------------------------------------------------------------------------ */
/* Four 8x8 16-bit matrices; lane l gives the address of row l % 8 of matrix l / 8. */
__device__ __forceinline__ void ldmatrix4(uint32_t (&r)[4], uint32_t addr)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
	             : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(addr) : "memory");
}
__device__ __forceinline__ void ldmatrix4_trans(uint32_t (&r)[4], uint32_t addr)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
	             : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(addr) : "memory");
}
__device__ __forceinline__ void stmatrix4(uint32_t addr, const uint32_t (&r)[4])
{
	asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(addr), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
}
/* Two of them; lanes 16 .. 31 give no address. */
__device__ __forceinline__ void stmatrix2_trans(uint32_t addr, uint32_t r0, uint32_t r1)
{
	asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(addr), "r"(r0), "r"(r1) : "memory");
}
/* Explicit shared-space access: through a generic pointer the compiler emits LD and 64-bit address arithmetic. */
__device__ __forceinline__ uint4 lds128(uint32_t addr)
{
	uint4 v;
	asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(addr) : "memory");
	return v;
}
__device__ __forceinline__ uint32_t lds32(uint32_t addr)
{
	uint32_t v;
	asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(addr) : "memory");
	return v;
}
__device__ __forceinline__ void sts128(uint32_t addr, uint4 v)
{
	asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(addr), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
__device__ __forceinline__ void sts64(uint32_t addr, uint32_t x, uint32_t y)
{
	asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(addr), "r"(x), "r"(y) : "memory");
}
__device__ __forceinline__ void sts32(uint32_t addr, uint32_t v) { asm volatile("st.shared.u32 [%0], %1;" ::"r"(addr), "r"(v) : "memory"); }

/* ---- ordering ---------------------------------------------------------------------------------------------------- */
__device__ __forceinline__ int ld_acquire(const int32_t *p)
{
	int v;
	asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
	return v;
}
__device__ __forceinline__ void red_release(int32_t *p, int v)
{
	asm volatile("red.release.gpu.global.add.s32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
__device__ __forceinline__ int add_acq_rel(int32_t *p, int v)
{
	int old;
	asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], %2;" : "=r"(old) : "l"(p), "r"(v) : "memory");
	return old;
}
/* Programmatic dependent launch: the next kernel may start now / the previous one is complete and visible.  Before sm_90 there is
 * none, and kernels of a stream do not overlap. */
#if __CUDA_ARCH__ >= 900
__device__ __forceinline__ void pdl_launch() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
__device__ __forceinline__ void pdl_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
#else
__device__ __forceinline__ void pdl_launch() {}
__device__ __forceinline__ void pdl_wait() {}
#endif

/* ---- arithmetic ---------------------------------------------------------------------------------------------------------- */
/* 2^x, 2 ulp; 2^-inf = 0; results below 2^-126 are 0. */
__device__ __forceinline__ float exp2_approx(float x)
{
	float y;
	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
	return y;
}
/* Rounded to nearest even; low in bits 0-15. */
__device__ __forceinline__ uint32_t pack_bf16(float low, float high)
{
	uint32_t d;
	asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
	return d;
}
__device__ __forceinline__ float2 unpack_bf16(uint32_t v) { return make_float2(__uint_as_float(v << 16), __uint_as_float(v & 0xffff0000u)); }
/* The same; beyond fp16: infinity. */
__device__ __forceinline__ uint32_t pack_f16(float low, float high)
{
	uint32_t d;
	asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
	return d;
}
__device__ __forceinline__ uint32_t mul_bf16x2(uint32_t a, uint32_t b)
{
	uint32_t d;
#if __CUDA_ARCH__ >= 900
	asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
#else /* a b + -0: the same bits, signs of zero included */
	asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(0x80008000u));
#endif
	return d;
}
/* A value the compiler does not compute again at every use. */
__device__ __forceinline__ uint32_t keep(uint32_t v)
{
	asm volatile("" : "+r"(v));
	return v;
}
/* True in one lane of a whole warp, in a way that tells ptxas so: copies then need no loop over lanes. */
__device__ __forceinline__ bool elect_one()
{
	uint32_t yes = 0;
	asm volatile("{ .reg .pred p; elect.sync _|p, 0xffffffff; @p mov.u32 %0, 1; }" : "+r"(yes));
	return yes;
}

/* ---- a warp's product --------------------------------------------------------------------------------------------- */
/* d[16, 8] += a[16, 16] b[16, 8], bf16 into fp32; fragments as PTX defines them for mma.m16n8k16. */
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
	             : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
	             : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* fp16 into fp32. */
__device__ __forceinline__ void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
	             : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
	             : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* ---- warpgroups -------------------------------------------------------------------------------------------------- */
template <int REGS> __device__ __forceinline__ void regs_inc() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGS)); }
template <int REGS> __device__ __forceinline__ void regs_dec() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGS)); }
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT> __device__ __forceinline__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory"); }
/* Keeps the compiler from moving reads of accumulators above the wait. */
template <int N> __device__ __forceinline__ void pin(float (&d)[N])
{
#pragma unroll
	for (int i = 0; i < N; i++)
		asm volatile("" : "+f"(d[i])::"memory");
}
/* 8x8 16-bit transpose inside a warp: lane 4r + c holds row r, columns 2c, 2c+1. */
__device__ __forceinline__ uint32_t transpose8(uint32_t v)
{
	uint32_t d;
	asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(d) : "r"(v));
	return d;
}
/* Descriptor of a K-major operand with 128-byte swizzle: rows of 64 bf16, 8-row groups 1024 bytes apart.  A k16 step is 2
 * units of the low word further on. */
__device__ __forceinline__ uint64_t wgmma_desc(uint32_t low) { return (uint64_t)(64u | 1u << 30) << 32 | low; }
__device__ __forceinline__ uint32_t wgmma_desc_low(uint32_t smem) { return (smem & 0x3ffff) >> 4 | 1u << 16; }

#endif
