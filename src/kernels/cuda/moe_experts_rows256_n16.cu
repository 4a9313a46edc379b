#include "moe_experts_sm90.cuh"

using shape = moe_shape<4, 1, false, 4, 4, 8, 8, 16, 8>;
const struct moe_instance moe_instance_rows256_n16 = { "rows256_n16", shape::NMAX, shape::RB, shape::LOOSE, shape::THREADS, shape::SMEM,
	                                      (const void *)moe_experts_sm90_kernel<shape> };
