/* launch.cuh - starts a kernel so that it may overlap the end of the one before (see ../cuda.h). */
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

/* In clusters of n_cta CTAs along x (1: none). */
template <typename... P, typename... A>
static cudaError_t cuda_launch_cluster(void (*kernel)(P...), int n_cta, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                                       A... args)
{
	cudaLaunchAttribute attr[2] = {};
	attr[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
	attr[0].val.programmaticStreamSerializationAllowed = 1;
	attr[1].id = cudaLaunchAttributeClusterDimension;
	attr[1].val.clusterDim.x = n_cta;
	attr[1].val.clusterDim.y = attr[1].val.clusterDim.z = 1;
	cudaLaunchConfig_t c = {};
	c.gridDim = grid;
	c.blockDim = block;
	c.dynamicSmemBytes = shared_bytes;
	c.stream = stream;
	c.attrs = attr;
	c.numAttrs = n_cta > 1 ? 2 : cuda_has_pdl();
	return cudaLaunchKernelEx(&c, kernel, P(args)...);
}

template <typename... P, typename... A>
static cudaError_t cuda_launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, A... args)
{
	return cuda_launch_cluster(kernel, 1, grid, block, shared_bytes, stream, args...);
}

#endif
