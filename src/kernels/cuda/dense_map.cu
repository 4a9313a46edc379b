/* dense_map.cu - see dense_map.h.  The driver's encoder is asked for by name, once: nothing links against libcuda. */
#include "dense_map.h"

#include <atomic>

typedef CUresult (*encode_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *, const cuuint64_t *,
                              const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                              CUtensorMapFloatOOBfill);

static encode_fn encoder()
{
	static std::atomic<encode_fn> known;
	encode_fn f = known.load(std::memory_order_relaxed);
	if (!f) {
		void *p = NULL;
		cudaDriverEntryPointQueryResult q;
		if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &p, 12000, cudaEnableDefault, &q) || q != cudaDriverEntryPointSuccess)
			return NULL;
		f = reinterpret_cast<encode_fn>(p);
		known.store(f, std::memory_order_relaxed);
	}
	return f;
}

cudaError_t dense_map(CUtensorMap *m, const void *p, int n0, int n1, int n2, int b1, int b2)
{
	const encode_fn f = encoder();
	if (!f)
		return cudaErrorNotSupported;
	const cuuint64_t dim[3] = { (cuuint64_t)n0, (cuuint64_t)n1, (cuuint64_t)n2 }, stride[2] = { dim[0] * 2, dim[0] * dim[1] * 2 };
	const cuuint32_t box[3] = { 64, (cuuint32_t)b1, (cuuint32_t)b2 }, step[3] = { 1, 1, 1 };
	const CUresult rc = f(m, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void *>(p), dim, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
	                      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
	return rc == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}
