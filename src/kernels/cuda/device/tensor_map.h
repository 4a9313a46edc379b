/* tensor_map.h - a map for the bulk tensor copy engine, made by the driver, which is not linked but asked for by name.
 *
 * The toolkit's cuda.h, which has these types, is hidden by our own of that name; what is used of it stands here.
 */
#ifndef MOXIE_DEVICE_TENSOR_MAP_H
#define MOXIE_DEVICE_TENSOR_MAP_H

#include <cuda_runtime_api.h>
#include <stdint.h>

struct alignas(64) tensor_map { /* CUtensorMap */
	uint64_t opaque[16];
};

/* Rows of n_col bf16 (n_col * 2 <= 128 bytes), one after the other; boxes of box_row rows, swizzled as wgmma reads them.  n_row may
 * lie past what is there: only boxes that are asked for are read. */
static cudaError_t tensor_map_rows(tensor_map *map, const void *base, int n_col, uint64_t n_row, int box_row)
{
	enum { BFLOAT16 = 9, INTERLEAVE_NONE = 0, SWIZZLE_128B = 3, L2_PROMOTION_256B = 3, OOB_FILL_NONE = 0 };
	typedef int encode_fn(tensor_map *, int dtype, uint32_t rank, void *base, const uint64_t *dim, const uint64_t *stride_bytes,
	                      const uint32_t *box, const uint32_t *step, int interleave, int swizzle, int l2_promotion, int oob_fill);
	void *fn = NULL;
	cudaDriverEntryPointQueryResult found;
	const cudaError_t e = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &fn, 12000, cudaEnableDefault, &found);
	if (e != cudaSuccess || found != cudaDriverEntryPointSuccess)
		return e != cudaSuccess ? e : cudaErrorNotSupported;
	const uint64_t dim[2] = { (uint64_t)n_col, n_row }, stride[1] = { (uint64_t)n_col * 2 };
	const uint32_t box[2] = { (uint32_t)n_col, (uint32_t)box_row }, step[2] = { 1, 1 };
	const int rc = ((encode_fn *)fn)(map, BFLOAT16, 2, (void *)base, dim, stride, box, step, INTERLEAVE_NONE, SWIZZLE_128B,
	                                 L2_PROMOTION_256B, OOB_FILL_NONE);
	return rc == 0 ? cudaSuccess : cudaErrorInvalidValue;
}

#endif
