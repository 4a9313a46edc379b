/* tensor_map.cu - see tensor_map.h.  The driver's encoder is asked for by name, once: nothing links against libcuda. */
#include "tensor_map.h"

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

cudaError_t tensor_map(CUtensorMap *m, CUtensorMapDataType type, const void *p, int n_dim, const uint64_t *dim, const uint32_t *box,
                       CUtensorMapL2promotion promotion)
{
	const encode_fn f = encoder();
	if (!f)
		return cudaErrorNotSupported;
	const cuuint64_t size = type == CU_TENSOR_MAP_DATA_TYPE_UINT8 ? 1 : 2; /* bytes: the types in use are u8 and bf16 */
	const cuuint64_t d[3] = { dim[0], dim[1], n_dim > 2 ? dim[2] : 1 }, stride[2] = { d[0] * size, d[0] * d[1] * size };
	const cuuint32_t b[3] = { box[0], box[1], n_dim > 2 ? box[2] : 1 }, step[3] = { 1, 1, 1 };
	const CUresult rc = f(m, type, (cuuint32_t)n_dim, const_cast<void *>(p), d, stride, b, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
	                      CU_TENSOR_MAP_SWIZZLE_128B, promotion, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
	return rc == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}
