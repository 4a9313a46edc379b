#include "moe_experts_sm90.cuh"

using shape = moe_shape<2, 2, false, 4, 4, 40>;
const struct moe_instance moe_instance_rows256_n40 = { "rows256_n40", 40, shape::RB, shape::THREADS, shape::SMEM,
	                                      (const void *)moe_experts_sm90_kernel<shape, 16, 24, 32, 40> };
