#include "moe_experts_sm90.cuh"

using shape = moe_shape<2, 1, false, 2, 3, 144, 192, 256, 16>;
const struct moe_instance moe_instance_rows128_n256 = { "rows128_n256", shape::NMAX, shape::RB, shape::LOOSE, shape::THREADS, shape::SMEM,
	                                      (const void *)moe_experts_sm90_kernel<shape> };
