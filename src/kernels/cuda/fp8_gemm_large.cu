/* fp8_gemm_large.cu - the instances for prompts. */
#include "fp8_gemm_sm90.cuh"

extern const struct fp8_instance fp8_large[];
const struct fp8_instance fp8_large[] = {
	FP8_INSTANCE("pairs of 128 rows, 128 tokens", 128, 2, true, 2),
	FP8_INSTANCE("pairs of 128 rows, 256 tokens", 256, 2, true, 2),
};
