/* fp8_gemm_large.cu - the instances for prompts (fp8_prompt.cuh). */
#include "fp8_prompt.cuh"

#define PROMPT(name, n, rows, wg, pair) FP8_INSTANCE(name, (fp8_prompt_kernel<n, rows, wg, pair>), n, rows, wg, true, pair)
extern const struct fp8_instance fp8_large[];
const struct fp8_instance fp8_large[] = {
	PROMPT("64 tokens, 64 rows", 64, 64, 1, 1),
	PROMPT("128 tokens, 64 rows", 128, 64, 2, 1),
	PROMPT("128 tokens, 128 rows", 128, 128, 2, 1),
	PROMPT("128 tokens, pairs of 128 rows", 128, 128, 2, 2),
	PROMPT("256 tokens, pairs of 128 rows", 256, 128, 2, 2),
};
