/* fp8_gemm_small.cu - the instances for few tokens, streams of weights (fp8_stream.cuh). */
#include "fp8_stream.cuh"

#define STREAM(n, wg) FP8_INSTANCE(#wg " x 64 rows, " #n " tokens", (fp8_stream_kernel<n, wg>), n, 64 * wg, wg, false, 1)
extern const struct fp8_instance fp8_small[];
const struct fp8_instance fp8_small[] = {
	STREAM(8, 1),  STREAM(16, 1), STREAM(24, 1), STREAM(32, 1), STREAM(40, 1), STREAM(48, 1),
	STREAM(56, 1), STREAM(64, 1), STREAM(64, 2),
};
