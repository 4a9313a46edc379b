#include "moe_experts_sm90.cuh"

using shape = moe_shape<4, 1, false, 4, 3, 32, 32, 48, 8>;
const struct moe_instance moe_instance_rows256_n48 = { "rows256_n48", shape::NMAX, shape::RB, shape::LOOSE, shape::THREADS, shape::SMEM,
	                                      (const void *)moe_experts_sm90_kernel<shape> };
