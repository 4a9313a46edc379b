/* cap.cuh - MOXIE_TEST_PORTABLE=<KiB>: run a device test on the portable kernels, with that much shared memory a block. */
#ifndef MOXIE_TESTS_CAP_CUH
#define MOXIE_TESTS_CAP_CUH

#include <cuda_runtime.h>
#include <stdlib.h>

#include "kernels/cuda/cuda_ops.h"

/* Bytes, or 0: the device as it is. */
static inline int test_cap(void)
{
	const char *const s = getenv("MOXIE_TEST_PORTABLE");
	return s ? atoi(s) * 1024 : 0;
}

/* What backend.cu finds out about a device. */
static inline void capped_device(struct cuda_dev *d)
{
	int shared = 0, major = 0;
	cudaDeviceGetAttribute(&d->n_sm, cudaDevAttrMultiProcessorCount, 0);
	cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0);
	cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
	d->shared_per_block = (size_t)(test_cap() && test_cap() < shared ? test_cap() : shared);
	d->portable = test_cap() || major != 9;
}

#endif
