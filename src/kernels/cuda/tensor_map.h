/* tensor_map.h - maps for the tensor copy engine, of dense row-major tensors, swizzled by 128 bytes as wgmma reads them. */
#ifndef MOXIE_CUDA_TENSOR_MAP_H
#define MOXIE_CUDA_TENSOR_MAP_H

#include <cuda.h>
#include <cuda_runtime.h>
#include <stdint.h>

/* Over p, n_dim = 2 or 3 dimensions, the fastest first in dim and box; rows lie one after the other.  box[0] is 128 bytes or less, a row
 * a multiple of 16, p 16-byte aligned.  What lies outside reads as zero.  dim may be larger than what is there: only boxes that are
 * asked for are read.   cudaErrorNotSupported: the driver has no encoder;  cudaErrorInvalidValue: it refuses the shape */
cudaError_t tensor_map(CUtensorMap *m, CUtensorMapDataType type, const void *p, int n_dim, const uint64_t *dim, const uint32_t *box,
                       CUtensorMapL2promotion promotion);

/* The dense products': bf16 [n2, n1, n0], boxes [b2, b1, 64]. */
static inline cudaError_t dense_map(CUtensorMap *m, const void *p, int n0, int n1, int n2, int b1, int b2)
{
	const uint64_t dim[3] = { (uint64_t)n0, (uint64_t)n1, (uint64_t)n2 };
	const uint32_t box[3] = { 64, (uint32_t)b1, (uint32_t)b2 };
	return tensor_map(m, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, p, 3, dim, box, CU_TENSOR_MAP_L2_PROMOTION_NONE);
}

/* The same of e4m3, boxes [b2, b1, 128]. */
static inline cudaError_t dense_map8(CUtensorMap *m, const void *p, int n0, int n1, int n2, int b1, int b2)
{
	const uint64_t dim[3] = { (uint64_t)n0, (uint64_t)n1, (uint64_t)n2 };
	const uint32_t box[3] = { 128, (uint32_t)b1, (uint32_t)b2 };
	return tensor_map(m, CU_TENSOR_MAP_DATA_TYPE_UINT8, p, 3, dim, box, CU_TENSOR_MAP_L2_PROMOTION_NONE);
}

#endif
