#include "moe_experts_sm90.cuh"

/* One loop: ptxas has no registers for two. */
using shape = moe_shape<2, 2, false, 4, 2, 112, 0, 152, 8>;
const struct moe_instance moe_instance_rows256_n152 = { "rows256_n152", shape::NMAX, shape::RB, shape::LOOSE, shape::THREADS, shape::SMEM,
	                                      (const void *)moe_experts_sm90_kernel<shape> };
