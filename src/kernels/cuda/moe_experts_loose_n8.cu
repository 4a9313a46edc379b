#include "moe_experts_sm90.cuh"

using shape = moe_shape<4, 1, true, 4, 4, 8, 0, 8, 8>;
const struct moe_instance moe_instance_loose_n8 = { "loose_n8", shape::NMAX, shape::RB, shape::LOOSE, shape::THREADS, shape::SMEM,
	                                      (const void *)moe_experts_sm90_kernel<shape> };
