#include "moe_experts_sm90.cuh"

using shape = moe_shape<2, 2, false, 4, 3, 64>;
const struct moe_instance moe_instance_rows256_n64 = { "rows256_n64", 64, shape::RB, shape::THREADS, shape::SMEM,
	                                      (const void *)moe_experts_sm90_kernel<shape, 40, 48, 56, 64> };
