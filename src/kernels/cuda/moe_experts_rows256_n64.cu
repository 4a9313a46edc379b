#include "moe_experts_sm90.cuh"

using shape = moe_shape<4, 1, false, 4, 3, 48, 48, 64, 16>;
const struct moe_instance moe_instance_rows256_n64 = { "rows256_n64", shape::NMAX, shape::RB, shape::LOOSE, shape::THREADS, shape::SMEM,
	                                      (const void *)moe_experts_sm90_kernel<shape> };
