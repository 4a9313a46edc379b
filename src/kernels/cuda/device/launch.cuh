/* launch.cuh - starts a kernel so that it may overlap the end of the one before (see ../cuda.h). */
#ifndef MOXIE_CUDA_LAUNCH_CUH
#define MOXIE_CUDA_LAUNCH_CUH

#include <cuda_runtime.h>

template <typename... P, typename... A>
static cudaError_t cuda_launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, A... args)
{
	cudaLaunchAttribute pdl = {};
	pdl.id = cudaLaunchAttributeProgrammaticStreamSerialization;
	pdl.val.programmaticStreamSerializationAllowed = 1;
	cudaLaunchConfig_t c = {};
	c.gridDim = grid;
	c.blockDim = block;
	c.dynamicSmemBytes = shared_bytes;
	c.stream = stream;
	c.attrs = &pdl;
	c.numAttrs = 1;
	return cudaLaunchKernelEx(&c, kernel, P(args)...);
}

#endif
