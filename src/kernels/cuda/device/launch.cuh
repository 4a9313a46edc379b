/* launch.cuh - starts a kernel so that it may overlap the end of the one before (see ../cuda_ops.h), and in clusters. */
#ifndef MOXIE_CUDA_LAUNCH_CUH
#define MOXIE_CUDA_LAUNCH_CUH

#include <cuda_runtime.h>

/* Whether the current device knows programmatic dependent launch: one of sm_90 or later. */
static inline bool cuda_has_pdl(void)
{
	int device = 0, major = 0;
	return cudaGetDevice(&device) == cudaSuccess && cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
	       major >= 9;
}

/* Clusters of n_cta CTAs along x. */
static inline cudaLaunchAttribute cuda_cluster_attribute(int n_cta)
{
	cudaLaunchAttribute a = {};
	a.id = cudaLaunchAttributeClusterDimension;
	a.val.clusterDim.x = (unsigned)n_cta;
	a.val.clusterDim.y = a.val.clusterDim.z = 1;
	return a;
}

/* pdl: may begin while the kernel before still runs.  n_cta 1: no clusters.  attr is the caller's, and what the result points to. */
static inline cudaLaunchConfig_t cuda_launch_config(cudaLaunchAttribute (&attr)[2], bool pdl, int n_cta, dim3 grid, dim3 block, size_t shared_bytes,
                                                    cudaStream_t stream)
{
	cudaLaunchConfig_t c = {};
	c.gridDim = grid;
	c.blockDim = block;
	c.dynamicSmemBytes = shared_bytes;
	c.stream = stream;
	c.attrs = attr;
	if (pdl) {
		attr[c.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
		attr[c.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
	}
	if (n_cta > 1)
		attr[c.numAttrs++] = cuda_cluster_attribute(n_cta);
	return c;
}

/* In clusters of n_cta CTAs along x (1: none). */
template <typename... P, typename... A>
static cudaError_t cuda_launch_cluster(void (*kernel)(P...), int n_cta, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                                       A... args)
{
	cudaLaunchAttribute attr[2] = {};
	const cudaLaunchConfig_t c = cuda_launch_config(attr, n_cta > 1 || cuda_has_pdl(), n_cta, grid, block, shared_bytes, stream);
	return cudaLaunchKernelEx(&c, kernel, P(args)...);
}

template <typename... P, typename... A>
static cudaError_t cuda_launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, A... args)
{
	return cuda_launch_cluster(kernel, 1, grid, block, shared_bytes, stream, args...);
}

/* The same for a kernel picked from a table, which takes one argument by value, the struct at arg. */
static inline cudaError_t cuda_launch_untyped(const void *kernel, bool pdl, int n_cta, dim3 grid, dim3 block, size_t shared_bytes,
                                              cudaStream_t stream, const void *arg)
{
	cudaLaunchAttribute attr[2] = {};
	const cudaLaunchConfig_t c = cuda_launch_config(attr, pdl, n_cta, grid, block, shared_bytes, stream);
	void *args[] = { const_cast<void *>(arg) };
	return cudaLaunchKernelExC(&c, kernel, args);
}

/* Into *n: how many clusters of n_cta CTAs the current device can hold at once. */
static inline cudaError_t cuda_max_clusters(int *n, const void *kernel, int n_cta, dim3 grid, dim3 block, size_t shared_bytes)
{
	cudaLaunchAttribute attr = cuda_cluster_attribute(n_cta);
	cudaLaunchConfig_t c = {};
	c.gridDim = grid;
	c.blockDim = block;
	c.dynamicSmemBytes = shared_bytes;
	c.attrs = &attr;
	c.numAttrs = 1;
	return cudaOccupancyMaxActiveClusters(n, kernel, &c);
}

#endif
