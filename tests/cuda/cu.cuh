/* cu.cuh - CU(call): a CUDA call of a test or bench that must not fail; says where and why, and ends the program. */
#ifndef MOXIE_TESTS_CU_CUH
#define MOXIE_TESTS_CU_CUH

#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>

static inline void cu(cudaError_t e, const char *call, const char *file, int line)
{
	if (e == cudaSuccess)
		return;
	fprintf(stderr, "%s:%d: %s: %s\n", file, line, call, cudaGetErrorString(e));
	exit(1);
}
#define CU(call) cu(call, #call, __FILE__, __LINE__)

#endif
