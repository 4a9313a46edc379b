#include "moe_experts_sm90.cuh"

using shape = moe_shape<4, 1, true, 16, 4, 8>;
const struct moe_instance moe_instance_rows64_n8 = { "rows64_n8", 8, shape::RB, shape::THREADS, shape::SMEM,
	                                      (const void *)moe_experts_sm90_kernel<shape, 8> };
