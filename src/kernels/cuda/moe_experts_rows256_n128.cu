#include "moe_experts_sm90.cuh"

using shape = moe_shape<2, 2, false, 2, 4, 128>;
const struct moe_instance moe_instance_rows256_n128 = { "rows256_n128", 128, shape::RB, shape::THREADS, shape::SMEM,
	                                      (const void *)moe_experts_sm90_kernel<shape, 96, 112, 128> };
