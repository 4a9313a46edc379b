/* cluster.cuh - CTAs of a cluster: barrier, each other's shared memory, stores that count their bytes on the receiver's mbarrier.
 *
 * Before sm_90 there are none: kernels that can use clusters run there with one CTA, by the plan of whoever launches them, and what
 * only two CTAs need is left out of the code.
 */
#ifndef MOXIE_DEVICE_CLUSTER_CUH
#define MOXIE_DEVICE_CLUSTER_CUH

#include "device/ptx.cuh"

#if __CUDA_ARCH__ >= 900

__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
/* Arrival that orders nothing but barriers initialised before an mbar_init_fence; the plain one makes a memory barrier of the GPU. */
__device__ __forceinline__ void cluster_arrive_relaxed() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
/* Address, in the shared memory of CTA `cta` of the cluster, of what p is in ours. */
__device__ __forceinline__ uint32_t cluster_address(const void *p, int cta)
{
	uint32_t r;
	asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(smem_u32(p)), "r"(cta));
	return r;
}
__device__ __forceinline__ uint32_t cluster_load(uint32_t address)
{
	uint32_t v;
	asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(v) : "r"(address) : "memory");
	return v;
}
__device__ __forceinline__ float4 cluster_load4(uint32_t address)
{
	float4 v;
	asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(address) : "memory");
	return v;
}
/* Stores and ors into another CTA's shared memory that count their bytes on that CTA's mbarrier: no fence, no barrier. */
__device__ __forceinline__ void cluster_store(uint32_t address, float v, uint32_t barrier)
{
	asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" ::"r"(address), "f"(v), "r"(barrier) : "memory");
}
__device__ __forceinline__ void cluster_or(uint32_t address, uint32_t v, uint32_t barrier)
{
	asm volatile("red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.or.b32 [%0], %1, [%2];" ::"r"(address), "r"(v),
	             "r"(barrier)
	             : "memory");
}
__device__ __forceinline__ void cluster_store4(uint32_t address, uint4 v, uint32_t barrier)
{
	asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(address), "r"(v.x), "r"(v.y),
	             "r"(v.z), "r"(v.w), "r"(barrier)
	             : "memory");
}
/* One arrival and n_bytes of remote stores complete the barrier's only phase.  Called by one whole warp, before
 * cluster_arrive, so that no byte comes earlier. */
__device__ __forceinline__ void inbox_open(uint64_t *barrier, uint32_t n_bytes)
{
	const uint32_t b = smem_u32(barrier);
	if ((threadIdx.x & 31) == 0)
		asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\nfence.mbarrier_init.release.cluster;" ::"r"(b) : "memory");
	__syncwarp();
	if ((threadIdx.x & 31) == 0)
		asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(b), "r"(n_bytes) : "memory");
	__syncwarp();
}
__device__ __forceinline__ void inbox_wait(uint64_t *barrier)
{
	const uint32_t b = smem_u32(barrier);
	uint32_t done;
	do
		asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], 0; selp.u32 %0, 1, 0, p; }"
		             : "=r"(done)
		             : "r"(b)
		             : "memory");
	while (!done);
}

#else

__device__ __forceinline__ void cluster_arrive() {}
__device__ __forceinline__ void cluster_wait() {}
__device__ __forceinline__ void cluster_arrive_relaxed() {}
__device__ __forceinline__ uint32_t cluster_address(const void *p, int) { return smem_u32(p); }
__device__ __forceinline__ uint32_t cluster_load(uint32_t) { __trap(); }
__device__ __forceinline__ float4 cluster_load4(uint32_t) { __trap(); }
__device__ __forceinline__ void cluster_store(uint32_t, float, uint32_t) { __trap(); }
__device__ __forceinline__ void cluster_or(uint32_t, uint32_t, uint32_t) { __trap(); }
__device__ __forceinline__ void cluster_store4(uint32_t, uint4, uint32_t) { __trap(); }
__device__ __forceinline__ void inbox_open(uint64_t *, uint32_t) {}
__device__ __forceinline__ void inbox_wait(uint64_t *) {}

#endif

#endif
